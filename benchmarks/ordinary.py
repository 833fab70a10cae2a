"""The screens and the table of Saccade once more, as ordinary gymnasium environments of one instance each.

They draw the same random numbers and paste the same prepared pictures, but know one episode only: plain Python and
small arrays. ``benchmarks/environments.py`` checks that they show and pay the same as the array programs.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from saccade.envs import screens, tabletop
from saccade.envs.arrays import uniform

STRIDE = 1_000_003
"""From the seed of an episode to that of the next, where a reset names none."""


class Seeded(gymnasium.Env):
    """Resets without a seed go on to the next one."""

    def __init__(self, sees: str, pixels: int, state: int) -> None:
        self.sees = sees
        image = gymnasium.spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        vector = gymnasium.spaces.Box(-np.inf, np.inf, (state,), np.float32)
        self.observation_space = image if sees == "pixels" else vector
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.world_seed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.world_seed = self.world_seed + STRIDE if seed is None else seed
        self.begin(np.array([self.world_seed], np.uint64))
        return self.observe(), {}

    def begin(self, seed: np.ndarray) -> None:
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        return self.picture() if self.sees == "pixels" else self.state()

    def picture(self) -> np.ndarray:
        raise NotImplementedError

    def state(self) -> np.ndarray:
        raise NotImplementedError


class ScreenEnv(Seeded):
    """One screen, one action."""

    def __init__(self, sees: str = "pixels") -> None:
        self.tasks = screens.ScreenTasks()
        self.look = look = self.tasks.look
        self.art = screens._art(look)
        sizes = [(look.icon, look.icon)] * look.icons + [look.button] * self.tasks.buttons + [look.field, look.list]
        self.sizes = sizes
        super().__init__(sees, look.size, 6 * len(sizes) + 5)

    def begin(self, seed: np.ndarray) -> None:
        tasks, look = self.tasks, self.look
        icons, buttons = look.icons, tasks.buttons
        drawn = float(uniform(seed, 1, stream=1)[0, 0])
        click = 1 - tasks.words - tasks.typing - tasks.scrolling
        bounds = (click, click + tasks.words, click + tasks.words + tasks.typing)
        self.kind = min(sum(drawn >= bound for bound in bounds), 3)
        colours = len(screens.COLOURS) * len(screens.SHAPES)
        words = len(screens.WORDS)
        chance = uniform(seed, colours + words + 3, stream=2)[0]
        which = np.argsort(chance[:colours])[:icons].tolist()
        chosen = (np.argsort(chance[colours : colours + words - 2])[: buttons + 1] + 2).tolist()
        self.place = icons + int(chance[-1] * buttons) if self.kind == 1 else int(chance[-2] * icons)
        self.looks = [*which, *chosen[:buttons], 0, 1]
        if self.kind < 2:
            self.asked = self.looks[self.place]
        elif self.kind == 2:
            self.asked = chosen[buttons]
        else:
            self.asked = int(chance[-3] * 2)
        count = len(self.sizes)
        chance = uniform(seed, screens.SLOTS + 2 * count, stream=3)[0]
        slots = np.argsort(chance[: screens.SLOTS])[:count].tolist()
        right = chance[screens.SLOTS : screens.SLOTS + count].tolist()
        down = chance[screens.SLOTS + count :].tolist()
        wide, high = look.size // 2, look.size // 4
        self.corners = [
            (
                slot % 2 * wide + 1 + int(right[i] * (wide - self.sizes[i][0] - 1)),
                slot // 2 * high + 1 + int(down[i] * (high - self.sizes[i][1] - 1)),
            )
            for i, slot in enumerate(slots)
        ]

    def step(self, action: np.ndarray):
        kind, x, y = action.tolist()
        if self.kind < 2:
            left, top = self.corners[self.place]
            width, height = self.sizes[self.place]
            success = kind == screens.CLICK and left <= x < left + width and top <= y < top + height
        else:
            wanted = screens.TYPE if self.kind == 2 else screens.SCROLL
            success = kind == wanted and x == self.asked
        return self.observe(), float(success), True, False, {}

    def picture(self) -> np.ndarray:
        art, icons, buttons = self.art, self.look.icons, self.tasks.buttons
        drawn = art.pages[0].copy()
        for i, ((x, y), (width, height)) in enumerate(zip(self.corners, self.sizes, strict=True)):
            if i < icons:
                stamp = art.icons[0, self.looks[i]]
            elif i < icons + buttons:
                stamp = art.words[self.looks[i]]
            else:
                stamp = art.panels["field" if i == icons + buttons else "list"][self.looks[i]]
            drawn[y : y + height, x : x + width] = stamp
        return drawn

    def state(self) -> np.ndarray:
        numbers: list[float] = []
        size = self.look.size
        for look, (x, y), (width, height) in zip(self.looks, self.corners, self.sizes, strict=True):
            box = (x / size, y / size, (x + width) / size, (y + height) / size)
            numbers += [1.0, look / screens._LOOKS, *box]
        numbers += [float(self.kind == i) for i in range(4)]
        numbers.append(self.asked / screens._LOOKS)
        return np.array(numbers, np.float32)


class TableEnv(Seeded):
    """One table of pick tasks."""

    def __init__(self, sees: str = "pixels", size: int = 32, limit: int = 30) -> None:
        self.size, self.limit = size, limit
        self.art = art = tabletop._art(size)
        # On one picture masks are faster than the bit operations of the array program.
        self.shapes, self.hands = art.around[..., 0] == 0, art.around_hands[..., 0] == 0
        self.colours, self.dark = art.things.max(axis=(0, 2, 3)), art.hands.max(axis=(0, 1, 2))
        super().__init__(sees, size, 9)

    def begin(self, seed: np.ndarray) -> None:
        colours, shapes = len(tabletop.COLOURS), len(tabletop.SHAPES)
        kinds = colours * shapes
        chance = uniform(seed, kinds + colours + 29, stream=2)[0]
        self.things_look = [divmod(one, shapes) for one in np.argsort(chance[:kinds])[: tabletop.THINGS].tolist()]
        self.zones_look = np.argsort(chance[kinds : kinds + colours])[: tabletop.ZONES].tolist()
        rest = chance[kinds + colours :]
        number = tabletop.THINGS + tabletop.ZONES
        cells = np.argsort(rest[:9])[:number]
        places = np.stack([cells % 3, cells // 3], axis=1) * 0.3 + 0.2 + (rest[9:19].reshape(number, 2) - 0.5) * 0.1
        self.things = [tuple(place) for place in places[: tabletop.THINGS].tolist()]
        self.zones = [tuple(place) for place in places[tabletop.THINGS :].tolist()]
        rest = rest.tolist()
        self.hand = (0.3 + 0.4 * rest[19], 0.3 + 0.4 * rest[20])
        self.wanted, self.zone = int(rest[24] * tabletop.THINGS), int(rest[25] * tabletop.ZONES)
        self.cloth = int(rest[26] * tabletop._CLOTHS)
        self.closed, self.held, self.steps = False, -1, 0

    def step(self, action: np.ndarray):
        self.steps += 1
        dx, dy, grip = action.tolist()
        x0, y0 = self.hand
        # The array program multiplies in float32, as the action is.
        dx, dy = (float(np.float32(tabletop.SPEED) * np.float32(min(max(d, -1.0), 1.0))) for d in (dx, dy))
        x, y = min(max(x0 + dx, 0.0), 1.0), min(max(y0 + dy, 0.0), 1.0)
        closed = grip > 0
        if self.held >= 0:
            self.things[self.held] = (x, y)
        offsets = [(a - x, b - y) for a, b in self.things]
        distances = [math.sqrt(a * a + b * b) for a, b in offsets]
        if not closed:
            self.held = -1
        elif not self.closed and self.held < 0:
            nearest = min(range(len(distances)), key=distances.__getitem__)
            if distances[nearest] <= tabletop.REACH:
                self.held = nearest
        if closed and self.held < 0:
            for i, distance in enumerate(distances):
                if distance < tabletop.CONTACT:
                    a, b = offsets[i] if distance > 1e-6 else (x - x0, y - y0)
                    if distance <= 1e-6 and max(abs(a), abs(b)) == 0:
                        a, b = 1.0, 0.0
                    length = math.sqrt(a * a + b * b)
                    moved = (x + tabletop.CONTACT * (a / length), y + tabletop.CONTACT * (b / length))
                    self.things[i] = tuple(min(max(one, 0.05), 0.95) for one in moved)
        self.hand, self.closed = (x, y), closed
        (a, b), (c, d) = self.things[self.wanted], self.zones[self.zone]
        success = max(abs(a - c), abs(b - d)) <= tabletop.ZONE and self.held != self.wanted
        return self.observe(), float(success), success, self.steps >= self.limit and not success, {}

    def picture(self) -> np.ndarray:
        art = self.art
        drawn = art.cloths[self.cloth].copy()
        side = art.zones.shape[1]
        for place, look in zip(self.zones, self.zones_look, strict=True):
            x, y = self.corner(place, side)
            drawn[y : y + side, x : x + side] = art.zones[look]
        side = art.hands.shape[1]
        for place, (colour, shape) in zip(self.things, self.things_look, strict=True):
            x, y = self.corner(place, side)
            drawn[y : y + side, x : x + side][self.shapes[shape]] = self.colours[colour]
        x, y = self.corner(self.hand, side)
        drawn[y : y + side, x : x + side][self.hands[int(self.closed)]] = self.dark
        return drawn

    def corner(self, middle: tuple[float, float], side: int) -> tuple[int, int]:
        x, y = (min(max(round(one * self.size - side / 2), 0), self.size - side) for one in middle)
        return x, y

    def state(self) -> np.ndarray:
        own = [*self.hand, float(self.closed), float(self.held >= 0)]
        return np.array([*own, *self.things[self.wanted], *self.zones[self.zone], 0.0], np.float32)
