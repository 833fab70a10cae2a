"""Clips of a ball that obeys mechanics: the prompt says where it starts and how fast, the laws say what follows.

One soft disc, brightness ``exp(-d^2 / (2 * 1.1^2))``, in frames of 12 x 12 pixels. Three kinds, of unequal difficulty:

- ``uniform``: hardly moves, at 0.1 to 0.4 pixels a frame;
- ``parabola``: thrown at 0.4 to 1.0 pixels a frame, falls with 0.2 pixels / frame^2;
- ``bounce``: flies at 1.0 to 1.8 pixels a frame and is thrown back by a wall at least once.

The simulator is exact: positions come from closed forms, not from integration. Held out are two bands of speed of every
kind, and one combination of kind and direction each; neither is ever trained on, though every direction is in training
with the other kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from saccade.core.content import Array, Text, Video
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task

Kind = Literal["uniform", "parabola", "bounce"]
Direction = Literal["southeast", "southwest", "northwest", "northeast"]
KINDS: tuple[Kind, ...] = ("uniform", "parabola", "bounce")
DIRECTIONS: tuple[Direction, ...] = ("southeast", "southwest", "northwest", "northeast")
"""Quadrant of the first velocity; y grows downwards."""
SPEEDS: dict[Kind, tuple[float, float]] = {"uniform": (0.1, 0.4), "parabola": (0.4, 1.0), "bounce": (1.0, 1.8)}
"""Of the first velocity, in pixels a frame."""
BANDS, HELD_BANDS = 8, (2, 5)
"""Equal parts of a kind's speeds, and those never trained on."""
HELD_OUT: dict[Kind, Direction] = {"uniform": "northeast", "parabola": "southwest", "bounce": "northwest"}
"""The direction in which each kind is never seen in training."""
GRAVITY = 0.2
"""Downwards, in pixels / frame^2."""
WALL = 2.0
"""Pixels between a frame's edge and where the ball's centre is thrown back."""
SPREAD = 1.1
"""Standard deviation of the disc, in pixels."""
FPS = 4.0
WORDS = KINDS
"""Every word of prompts."""


@dataclass(frozen=True)
class Motion:
    """One ball's motion. Positions are pixels, origin at the top left corner; pixel i has its centre at i + 1/2."""

    kind: Kind
    start: tuple[float, float]
    velocity: tuple[float, float]
    """Pixels a frame, at the start."""
    side: int = 12

    def path(self, frames: int) -> Float[np.ndarray, "F 2"]:
        """Centres: ``p_t = p_0 + v t + g t^2 / 2``, folded back at the walls."""
        t = np.arange(frames, dtype=np.float64)[:, None]
        pull = np.array([0.0, GRAVITY if self.kind == "parabola" else 0.0])
        free = np.array(self.start) + np.array(self.velocity) * t + 0.5 * pull * t**2
        low, room = WALL, self.side - 2 * WALL
        # An elastic wall is a mirror: the free path, folded like a triangle wave, is the reflected one.
        return low + room - np.abs((free - low) % (2 * room) - room)

    def clip(self, frames: int) -> Video:
        return Video(render(self.path(frames), self.side), FPS)


@dataclass(frozen=True)
class Collision:
    """Two balls that meet at most once, elastically, in a plane without walls; one is drawn red, the other blue.

    Their masses are the squares of their spreads, and so is the brightness that a measurer finds, up to a factor.
    """

    starts: tuple[tuple[float, float], tuple[float, float]]
    velocities: tuple[tuple[float, float], tuple[float, float]]
    """Pixels a frame, before they meet."""
    spreads: tuple[float, float] = (SPREAD, SPREAD)
    side: int = 12

    def paths(self, frames: int) -> Float[np.ndarray, "2 F 2"]:
        """Centres: straight lines that break where ``|p_2 - p_1|`` is the sum of the spreads and falls.

        ``v_1' = v_1 + 2 m_2 / (m_1 + m_2) (w . n) n``,  ``v_2' = v_2 - 2 m_1 / (m_1 + m_2) (w . n) n``  with
        ``w = v_2 - v_1`` and n the direction from the first ball to the second when they touch.
        """
        t = np.arange(frames, dtype=np.float64)[:, None]
        start, velocity = np.array(self.starts), np.array(self.velocities)
        free = start[:, None] + velocity[:, None] * t
        when = self._touch(start[1] - start[0], velocity[1] - velocity[0])
        if when is None:
            return free
        normal = (start[1] - start[0] + (velocity[1] - velocity[0]) * when) / sum(self.spreads)
        first, second = (spread**2 for spread in self.spreads)
        push = 2 * ((velocity[1] - velocity[0]) @ normal) * normal / (first + second)
        turned = np.array([push * second, -push * first])
        return free + turned[:, None] * np.maximum(t - when, 0)

    def clip(self, frames: int) -> Video:
        red, blue = (disc(p, self.side, s) for p, s in zip(self.paths(frames), self.spreads, strict=True))
        return Video(np.rint(255 * np.stack([red, np.zeros_like(red), blue], 3)).astype(np.uint8), FPS)

    def _touch(self, apart: Float[np.ndarray, "2"], closing: Float[np.ndarray, "2"]) -> float | None:
        """When they touch: the smaller root of ``|apart + closing t|^2 = (s_1 + s_2)^2``, if it lies ahead."""
        a, b, c = closing @ closing, apart @ closing, apart @ apart - sum(self.spreads) ** 2
        if b >= 0 or b * b < a * c or c < 0:
            return None
        return float((-b - np.sqrt(b * b - a * c)) / a)


def disc(path: Float[np.ndarray, "F 2"], side: int, spread: float = SPREAD) -> Float[np.ndarray, "F H W"]:
    """Brightness in [0, 1] of a ball at these centres."""
    line = np.arange(side) + 0.5
    across, down = (np.exp(-((line - path[:, [axis]]) ** 2) / (2 * spread**2)) for axis in (0, 1))
    return down[:, :, None] * across[:, None, :]


def render(path: Float[np.ndarray, "F 2"], side: int) -> UInt8[np.ndarray, "F H W 3"]:
    """Grey frames of a ball at these centres."""
    grey = np.rint(255 * disc(path, side)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


@dataclass(frozen=True)
class Clips(Tasks):
    """Text to clip: a word for the kind of motion, where the ball starts and its velocity.

    The prompt is ``bounce`` and an Array ``motion``: start x and y, -1 and 1 at the frame's edges, then the velocity
    in pixels a frame. ``Task.target`` is what a measurer must know: ``path`` (the exact centres, in pixels), ``mass``
    (the sum of brightness away from walls), ``acceleration`` (pixels / frame^2), ``walls`` (where centres are thrown
    back) and ``kind``. Gold is the exact clip. ``Task.info``: ``kind``, ``direction``, ``speed`` and ``held``, what of
    a held-out task was never trained on ("speed", "direction"; "" in training).

    With ``jitter`` the gold clip shows another velocity than the prompt asks for: it looks right and is physically
    wrong. A generator that learns from such clips has something to be taught by rewards.
    """

    count: int = 240
    kinds: tuple[Kind, ...] = KINDS
    """They take turns."""
    frames: int = 6
    side: int = 12
    jitter: float = 0.0
    """Standard deviation of each component of the gold clip's velocity error, as a share of the speed."""
    part: Split = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"tasks.count must be >= 1, got {self.count}")
        if not self.kinds or not set(self.kinds) <= set(KINDS) or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(f"tasks.kinds must be some of {', '.join(KINDS)}, each once, got {self.kinds}")
        # The fastest ball must reach a wall from inside, and the highest throw must fit.
        if not 3 <= self.frames <= 6 or self.side < 12:
            raise ConfigError(f"tasks needs 3 <= frames <= 6 and side >= 12, got {self.frames} and {self.side}")
        if not self.jitter >= 0:
            raise ConfigError(f"tasks.jitter must be >= 0, got {self.jitter}")
        if self.part not in ("train", "test"):
            raise ConfigError(f"tasks.part must be train or test, got {self.part!r}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> Clips:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        random = numpy_generator(self.seed, "clip", self.part, index)
        kind = self.kinds[index % len(self.kinds)]
        held = ("speed", "direction")[index // len(self.kinds) % 2] if self.part == "test" else ""
        direction, speed = _direction(random, kind, held), _speed(random, kind, held)
        motion = self._placed(random, kind, direction, speed)
        path = motion.path(self.frames)
        half = self.side / 2
        asked = np.array([*((x - half) / half for x in motion.start), *motion.velocity], np.float32)
        target = {
            "kind": kind,
            "path": tuple((float(x), float(y)) for x, y in path),
            "mass": _mass(self.side),
            "acceleration": (0.0, GRAVITY if kind == "parabola" else 0.0),
            "walls": (WALL, self.side - WALL),
        }
        info = {"kind": kind, "direction": direction, "speed": speed, "held": held}
        prompt = (Text(kind), Array("motion", asked))
        clip = self._shown(random, motion, speed).clip(self.frames)
        return Task(f"{self.part}/{kind}/{index}", prompt, target, ((clip,),), info)

    def _placed(self, random: np.random.Generator, kind: Kind, direction: Direction, speed: float) -> Motion:
        """A motion of this velocity that meets a wall if and only if it is to."""
        right, down = "east" in direction, "south" in direction
        # Near an axis a direction is hardly one: 15 degrees are kept free.
        angle = np.deg2rad(random.uniform(15, 75))
        v = speed * np.array([np.cos(angle) * (1 if right else -1), np.sin(angle) * (1 if down else -1)])
        low, high = WALL, self.side - WALL
        if kind == "bounce":
            start = random.uniform(low, high, 2)
            axis = int(np.argmax(np.abs(v)))
            wall = high if v[axis] > 0 else low
            start[axis] = wall - v[axis] * random.uniform(0.5, self.frames - 2)
        else:
            free = Motion(kind, (0.0, 0.0), (float(v[0]), float(v[1])))
            t = np.arange(self.frames)[:, None]
            offset = v * t + 0.5 * np.array([0.0, GRAVITY if free.kind == "parabola" else 0.0]) * t**2
            start = random.uniform(low - offset.min(0), high - offset.max(0))
        return Motion(kind, (float(start[0]), float(start[1])), (float(v[0]), float(v[1])), self.side)

    def _shown(self, random: np.random.Generator, motion: Motion, speed: float) -> Motion:
        wrong = self.jitter * speed * random.standard_normal(2)
        vx, vy = motion.velocity
        return replace(motion, velocity=(vx + float(wrong[0]), vy + float(wrong[1]))) if self.jitter else motion


def _direction(random: np.random.Generator, kind: Kind, held: str) -> Direction:
    if held == "direction":
        return HELD_OUT[kind]
    known: list[Direction] = [direction for direction in DIRECTIONS if direction != HELD_OUT[kind]]
    return known[int(random.integers(len(known)))]


def _speed(random: np.random.Generator, kind: Kind, held: str) -> float:
    low, high = SPEEDS[kind]
    bands = HELD_BANDS if held == "speed" else [band for band in range(BANDS) if band not in HELD_BANDS]
    band = bands[int(random.integers(len(bands)))]
    return float(low + (high - low) * (band + random.uniform()) / BANDS)


@cache
def _mass(side: int) -> float:
    """The sum of brightness above 0.25 of a ball near the middle, averaged over where in a pixel its centre is."""
    offsets = (np.arange(8) + 0.5) / 8
    x, y = np.meshgrid(side // 2 + offsets, side // 2 + offsets)
    bright = disc(np.stack([x.ravel(), y.ravel()], 1), side)
    return float(np.where(bright < 0.25, 0.0, bright).sum((1, 2)).mean())
