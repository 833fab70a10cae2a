"""A small table seen from above: a hand picks things up and puts them into zones, or pushes them there.

Written as an array program (``envs/arrays.py``) for fast ablations of motor policies; a truthful picture of its own
state, not a simulation of any robot. Three axes along which a trained policy can be tested elsewhere than it was
trained, after RLVLA (arXiv:2505.19789): ``vision`` (other table cloths), ``language`` (other wordings) and
``execution`` (the hand starts at the edge, things lie less regularly, the wanted thing is shoved in mid-episode).

Lengths are in table sides: x to the right, y down, both in [0, 1]. A command is ``(dx, dy, grip)`` in [-1, 1]: the hand
moves by ``SPEED * (dx, dy)``, then it is closed if grip > 0, else opened. An open hand glides above things. Closing
within ``REACH`` of a thing grasps it; things of push tasks are too heavy for that. A closed, empty hand pushes what it
touches. An episode succeeds, and ends, when the wanted thing lies in the wanted zone and is not held.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from saccade.core.content import Array, Content, Text
from saccade.core.environment import Environment, EnvironmentSpec, Split, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import fold_in
from saccade.core.trajectory import Task
from saccade.envs.arrays import (
    ArrayEnvironment,
    ArrayLane,
    Index,
    Sees,
    State,
    check_sees,
    orders,
    paste,
    stencil,
    uniform,
)
from saccade.envs.gym import COMMAND, commands_of

Shift = Literal["none", "vision", "language", "execution"]
SHIFTS: tuple[Shift, ...] = ("none", "vision", "language", "execution")
COLOURS = {
    "red": (215, 45, 45),
    "green": (40, 160, 60),
    "blue": (50, 80, 225),
    "yellow": (225, 200, 30),
    "purple": (150, 50, 175),
    "orange": (240, 135, 20),
}
SHAPES = ("circle", "square", "triangle")
THINGS = 3
"""On a table, where its tasks do not say otherwise."""
ZONES = 2
SPEED = 0.1
"""Most the hand moves in a step along either axis."""
REACH = 0.06
"""Greatest distance of a thing that a closing hand grasps."""
CONTACT = 0.08
"""Distance at which a closed hand touches a thing."""
ZONE = 0.11
"""Half a side of a zone."""
PICK = ("put the {thing} in the {zone} zone", "place the {thing} in the {zone} zone")
PUSH = ("push the {thing} to the {zone} zone", "slide the {thing} to the {zone} zone")
PICK_ELSEWHERE = (
    "move the {thing} into the {zone} area",
    "the {thing} belongs in the {zone} zone",
    "in the {zone} zone drop the {thing}",
)
PUSH_ELSEWHERE = (
    "shove the {thing} over to the {zone} area",
    "the {thing} must slide to the {zone} zone",
    "to the {zone} zone push the {thing}",
)
VOCABULARY = tuple(
    dict.fromkeys(
        word
        for phrase in (*PICK, *PUSH, *PICK_ELSEWHERE, *PUSH_ELSEWHERE, *COLOURS, *SHAPES)
        for word in phrase.split()
        if "{" not in word
    )
)
"""Every word of instructions, in all wordings."""

_CLOTHS = 3
"""Cloths of each kind: those of training, then those of the vision axis."""
_CELLS = np.stack([np.arange(9) % 3, np.arange(9) // 3], axis=1) * 0.3 + 0.2
"""Middles of the cells of a 3 x 3 grid."""
_BLOCK = 64
_NEVER = -1


@dataclass(frozen=True)
class TableTasks(Tasks):
    """Task i depends on (seed, part, shift, i) and the settings only.

    ``Task.target``: ``thing`` and ``zone``, in words. ``Task.gold``: one command a turn, what ``TableExpert`` does;
    empty in the few tasks that it does not solve in 30. ``Task.info``: ``kind`` ("pick" or "push"), ``shift``,
    ``instruction``, ``seed``, ``world``.
    """

    count: int = 8192
    pushing: float = 0.0
    """Share of push tasks."""
    shift: Shift = "none"
    """Along which axis the tasks differ from those of training."""
    seed: int = 0
    part: Split = "train"
    things: int = THINGS
    """On the table, one of which is wanted; 1 to 3."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not 1 <= self.things <= THINGS:
            raise ConfigError(f"tasks.things must be in 1 .. {THINGS}, got {self.things}")
        if not 0 <= self.pushing <= 1:
            raise ConfigError(f"tasks.pushing must be in [0, 1], got {self.pushing}")
        if self.shift not in SHIFTS:
            raise ConfigError(f"tasks.shift must be {', '.join(SHIFTS[:-1])} or {SHIFTS[-1]}, got {self.shift!r}")
        if self.part not in ("train", "test"):
            raise ConfigError(f"tasks.part must be train or test, got {self.part!r}")

    def __len__(self) -> int:
        return self.count

    @property
    def world(self) -> tuple[Any, ...]:
        """Settings that decide what tables look like."""
        return ("table", self.things)

    def split(self, name: Split) -> TableTasks:
        return replace(self, part=name)

    def variants(self, seeds: np.ndarray) -> np.ndarray:
        """Twice the number of the shift, plus 1 in push tasks: int64 ``[n]``."""
        shift = 2 * SHIFTS.index(self.shift)
        if not self.pushing:
            return np.full(len(seeds), shift)
        return shift + (uniform(seeds, 1, stream=1)[:, 0] < self.pushing)

    def layout(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Seeds, uint64, and variants of tasks ``first .. first + count - 1``."""
        names = ("table", self.shift, self.part)
        seeds = np.array([fold_in(self.seed, *names, i) for i in range(first, first + count)], np.uint64)
        return seeds, self.variants(seeds)

    def task(self, index: int) -> Task:
        seeds, variants = self.layout(index, 1)
        state = _start(seeds, variants, self.things)
        push = bool(variants[0] % 2)
        thing, zone = _names(state)
        elsewhere = self.shift == "language"
        wordings = (PUSH_ELSEWHERE if elsewhere else PUSH) if push else (PICK_ELSEWHERE if elsewhere else PICK)
        wording = wordings[int(uniform(seeds, 1, stream=5)[0, 0] * len(wordings))]
        instruction = wording.replace("{thing}", thing).replace("{zone}", zone)
        commands = _demonstrated(replace(self, count=0), index // _BLOCK)[index % _BLOCK]
        return Task(
            id=f"table/{self.shift}/{self.part}/{self.seed}/{self.pushing:g}/{self.things}/{index}",
            prompt=(Text(instruction),),
            target={"thing": thing, "zone": zone},
            gold=tuple((Array(COMMAND, one[None].copy()),) for one in commands),
            info={
                "kind": "push" if push else "pick",
                "shift": self.shift,
                "instruction": instruction,
                "seed": int(seeds[0]),
                "world": self.world,
            },
        )


@dataclass(frozen=True)
class Tabletop(EnvironmentSpec):
    """Instruction and table; after every turn the table as it is then.

    An output holds one ``Array("command", [k, 3])``: k commands that are carried out one after the other until the
    episode ends. Anything else is answered with the table as it is, ``valid`` False.
    """

    tasks: TableTasks = field(default_factory=TableTasks)
    max_turns: int = 30
    limit: int = 30
    """Commands after which an episode is truncated."""
    sees: Sees = "pixels"
    """``pixels``: an image. ``both``: also ``Array("state", [4])``: hand x and y, closed, holding something. ``state``:
    only an array, ``[9]``: these four, x and y of the wanted thing and the wanted zone, and 1 in push tasks."""
    size: int = 32
    """Pixels a side of the image."""
    keep: int | None = None
    """Turns that stay visible besides the prompt; None: all."""
    slip: float = 0.0
    """Half the width of a uniform disturbance of every dx and dy, which depends on task and time alone: demonstrations
    then show how mistakes are put right, by commands without noise (DART, arXiv:1703.09327). In [0, 1]; gold commands
    are those for 0."""

    def __post_init__(self) -> None:
        check_sees("env.sees", self.sees)
        if not 0 <= self.slip <= 1:
            raise ConfigError(f"env.slip must be in [0, 1], got {self.slip}")
        if self.max_turns < 1 or self.limit < 1:
            raise ConfigError(f"env.max_turns and limit must be >= 1, got {self.max_turns} and {self.limit}")
        if not 24 <= self.size <= 256:
            raise ConfigError(f"env.size must be in 24 .. 256, got {self.size}")
        if self.keep is not None and self.keep < 0:
            raise ConfigError(f"env.keep must be >= 0 or none, got {self.keep}")

    def make(self) -> ArrayLane[TableArrays]:
        return ArrayLane(self.make_vector())

    def make_vector(self) -> TableArrays:
        return TableArrays(self)


class TableArrays(ArrayEnvironment):
    """``Tabletop`` as an array program: actions float ``[N, 3]`` (dx, dy, grip).

    ``Step.reward`` is 1 at success, else 0. Milestones: having grasped the wanted thing (in push tasks: moved it),
    having held it over the wanted zone (in push tasks: brought it half the way), success; an episode's number of them
    never falls.

    ``Step.info``: ``valid``; ``success``; ``grasped``, whether the wanted thing is held now; ``distance`` of the wanted
    thing from the middle of the wanted zone; ``milestones`` and ``total``; ``steps``, commands carried out in this
    turn, and ``path``, in the episode; ``clipped``, True where a number of a command was outside [-1, 1].
    """

    def __init__(self, spec: Tabletop) -> None:
        super().__init__()
        self.world = spec.tasks.world
        self.tasks = spec.tasks
        self.sees = spec.sees
        self.limit = spec.limit
        self.keep = spec.keep
        self.size = spec.size
        self.slip = spec.slip

    def start(self, seeds: np.ndarray, variants: np.ndarray) -> State:
        return _start(seeds, variants, self.tasks.things)

    def variants(self, seeds: np.ndarray) -> np.ndarray:
        return self.tasks.variants(seeds)

    def variant(self, task: Task) -> int:
        return 2 * SHIFTS.index(task.info["shift"]) + (task.info["kind"] == "push")

    def advance(self, lanes: Index, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state, steps = self.state, self.steps[lanes]
        names = ("hand", "held", "things", "wanted", "goal", "heavy", "first", "second")
        hand, held, things, wanted, goal, heavy, first, second = [state[name][lanes] for name in names]
        rows = np.arange(len(held))
        step = np.array(actions[:, :2], order="F")
        if self.slip:
            moment = steps.astype(np.uint64) + state["seed"][lanes]
            step += self.slip * (2 * uniform(moment, 2, stream=7) - 1)
        np.maximum(step, -1.0, out=step)
        np.minimum(step, 1.0, out=step)
        moved = hand + SPEED * step
        np.maximum(moved, 0.0, out=moved)
        np.minimum(moved, 1.0, out=moved)
        closed = actions[:, 2] > 0
        shoved = (steps == state["shove_at"][lanes]).nonzero()[0]
        if shoved.size:
            thing = wanted[shoved]
            things[shoved, thing] = np.clip(things[shoved, thing] + state["shove"][lanes][shoved], 0.1, 0.9)
            held = held.copy()
            held[shoved[held[shoved] == thing]] = -1
        holds = held >= 0
        carried = holds.nonzero()[0]
        if carried.size:
            things[carried, held[carried]] = moved[carried]
        offset = things - moved[:, None]
        across, down = offset[..., 0], offset[..., 1]
        distance = across * across
        distance += down * down
        np.sqrt(distance, out=distance)
        touched = distance < CONTACT
        # Of booleans, a > b is a and not b.
        touched &= (closed > holds)[:, None]
        held = np.where(closed, held, -1)
        lane, thing = touched.nonzero()
        if lane.size:
            # Few things are touched at a time, so what follows works on them alone. REACH is less than CONTACT.
            near = distance[lane, thing]
            grasps = (near <= REACH) > (state["closed"][lanes] | heavy)[lane]
            if np.count_nonzero(grasps):
                grasping = lane[grasps]
                held[grasping] = distance[grasping].argmin(axis=1)
                pushed = held[lane] < 0
                lane, thing, near = lane[pushed], thing[pushed], near[pushed]
            away = offset[lane, thing]
            under = (near <= 1e-6).nonzero()[0]
            if under.size:
                # A thing right under the hand goes where the hand goes, one under a hand at rest to the right.
                drift = (moved - hand)[lane[under]]
                drift[(drift == 0).all(axis=1)] = 1, 0
                away[under], near[under] = drift, np.sqrt((drift * drift).sum(axis=1))
            away /= near[:, None]
            away *= CONTACT
            away += moved[lane]
            np.maximum(away, 0.05, out=away)
            things[lane, thing] = np.minimum(away, 0.95, out=away)
        gap = things[rows, wanted] - goal
        within = np.abs(gap) <= ZONE
        inside = within[:, 0] & within[:, 1]
        mine = held == wanted
        success = inside > mine
        if np.count_nonzero(heavy):
            half = np.sqrt((gap * gap).sum(axis=1)) <= state["far"][lanes] / 2
            first |= np.where(heavy, touched[rows, wanted], mine)
            second |= np.where(heavy, half & first | success, inside)
        else:
            first |= mine
            second |= inside
        first |= success
        state["hand"][lanes], state["closed"][lanes], state["held"][lanes] = moved, closed, held
        state["first"][lanes], state["second"][lanes] = first, second
        state["things"][lanes], state["success"][lanes] = things, success
        return success.astype(np.float32), success

    def notes(self, lane: int) -> dict[str, Any]:
        state = self.state
        success, wanted = bool(state["success"][lane]), int(state["wanted"][lane])
        gap = state["things"][lane, wanted] - state["goal"][lane]
        return {
            "success": success,
            "grasped": bool(state["held"][lane] == wanted),
            "distance": float(np.hypot(*gap)),
            "milestones": int(state["first"][lane]) + int(state["second"][lane]) + success,
            "total": 3,
            "path": int(self.steps[lane]),
        }

    def read(self, output: Content, lane: int) -> tuple[np.ndarray, dict[str, Any]]:
        commands = commands_of(output, 3)
        if commands is None:
            return np.zeros((0, 3), np.float32), {"valid": False}
        return commands, {"valid": True, "clipped": bool(np.abs(commands).max() > 1)}

    def states(self, lanes: Index) -> np.ndarray:
        state = self.state
        held = state["held"][lanes]
        seen = np.empty((len(held), 9 if self.sees == "state" else 4), np.float32)
        seen[:, :2], seen[:, 2], seen[:, 3] = state["hand"][lanes], state["closed"][lanes], held >= 0
        if self.sees == "state":
            seen[:, 4:6] = state["things"][lanes][np.arange(len(held)), state["wanted"][lanes]]
            seen[:, 6:8], seen[:, 8] = state["goal"][lanes], state["heavy"][lanes]
        return seen

    def pictures(self, lanes: Index) -> np.ndarray:
        state, art = self.state, _art(self.size)
        drawn = art.cloths[state["cloth"][lanes]]
        rows = np.arange(len(drawn))
        x, y = self._corners(state["zones"][lanes], art.zones.shape[1])
        colours = state["zone_colours"][lanes]
        for i in range(ZONES):
            paste(drawn, rows, x[:, i], y[:, i], art.zones[colours[:, i]])
        x, y = self._corners(state["things"][lanes], art.things.shape[2])
        shapes, colours = state["shapes"][lanes], state["colours"][lanes]
        for i in range(shapes.shape[1]):
            look = shapes[:, i]
            stencil(drawn, rows, x[:, i], y[:, i], art.around[look], art.things[look, colours[:, i]])
        x, y = self._corners(state["hand"][lanes], art.hands.shape[1])
        closed = state["closed"][lanes].astype(np.int64)
        stencil(drawn, rows, x, y, art.around_hands[closed], art.hands[closed])
        return drawn

    def _corners(self, middles: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        corners = np.rint(middles * self.size - side / 2).astype(np.int64)
        np.maximum(corners, 0, out=corners)
        np.minimum(corners, self.size - side, out=corners)
        return corners[..., 0], corners[..., 1]


# --- the expert ---


@dataclass(frozen=True)
class TableExpert:
    """The scripted hand: to the thing, grasp it, to the zone, let go; or behind the thing, close, push.

    It looks at the state, so it corrects itself after mistakes and shoves.
    """

    noise: float = 0.0
    """Half the width of a uniform disturbance of dx and dy, which depends on the state alone; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ConfigError(f"expert.noise must be in [0, 1], got {self.noise}")

    def outputs(self, environment: Environment) -> Content:
        """The next output in this environment's present state: one command."""
        if not isinstance(environment, ArrayLane) or not isinstance(environment.program, TableArrays):
            raise DataError(f"this expert acts on the table, got {type(environment).__name__}")
        return (Array(COMMAND, self.actions(environment.program)),)

    def actions(self, program: TableArrays) -> np.ndarray:
        """The next commands in all lanes: float32 ``[N, 3]``."""
        state = program.state
        hand, held, wanted, goal = (state[name] for name in ("hand", "held", "wanted", "goal"))
        rows = np.arange(len(hand))
        thing = state["things"][rows, wanted]
        mine = held == wanted
        aim = np.where(mine[:, None], goal, thing)
        near = np.abs(aim - hand).max(axis=1) <= SPEED
        # Carrying: closed until the zone is in reach. Else open until the thing is; a closed hand opens first.
        grip = np.where(mine, ~near, near & ~state["closed"])
        heavy = state["heavy"]
        if heavy.any():
            pushing, where = _push(hand, thing, goal)
            aim = np.where(heavy[:, None], where, aim)
            grip = np.where(heavy, pushing, grip)
        step = (aim - hand) / SPEED
        if self.noise:
            moment = program.steps.astype(np.uint64) + state["seed"]
            step = step + self.noise * (2 * uniform(moment, 2, stream=6) - 1)
        commands = np.concatenate([np.clip(step, -1, 1), np.where(grip, 1.0, -1.0)[:, None]], axis=1)
        return commands.astype(np.float32)


def _push(hand: np.ndarray, thing: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether to push now, and where the hand should go: behind the thing, or on along the way to the zone."""
    way = goal - thing
    way = way / np.maximum(np.sqrt((way * way).sum(axis=1, keepdims=True)), 1e-6)
    offset = hand - thing
    along = (offset * way).sum(axis=1)
    aside = np.sqrt(((offset - along[:, None] * way) ** 2).sum(axis=1))
    pushing = (along < -0.02) & (aside < 0.03) & (along > -0.2)
    behind = thing - 1.5 * CONTACT * way
    # The hand must not pass the middle of the thing, or it would push it back.
    ahead = np.minimum(np.sqrt(((goal - thing) ** 2).sum(axis=1)) - CONTACT, -0.02)[:, None]
    return pushing, np.where(pushing[:, None], thing + ahead * way, behind)


@lru_cache(maxsize=256)
def _demonstrated(tasks: TableTasks, block: int) -> list[np.ndarray]:
    """Commands ``[k, 3]`` of the expert in the tasks of one block; none where it does not succeed."""
    spec = Tabletop(replace(tasks, count=1), sees="state")
    program, expert = TableArrays(spec), TableExpert()
    seeds, variants = tasks.layout(block * _BLOCK, _BLOCK)
    program.state, program.steps = _start(seeds, variants, tasks.things), np.zeros(_BLOCK, np.int64)
    said: list[np.ndarray] = []
    ends = np.full(_BLOCK, -1)
    for k in range(spec.limit):
        said.append(expert.actions(program))
        _, _, terminated, _ = program.step_arrays(said[-1])
        ends[terminated & (ends < 0)] = k + 1
    commands = np.stack(said, axis=1)
    return [commands[i, : max(0, end)] for i, end in enumerate(ends.tolist())]


# --- layouts and pictures ---


def _start(seeds: np.ndarray, variants: np.ndarray, number: int) -> State:
    """Tables with so many things at the start of n episodes: arrays ``[n, ...]``."""
    n = len(seeds)
    kinds = len(COLOURS) * len(SHAPES)
    chance = uniform(seeds, kinds + len(COLOURS) + 9 + 20, stream=2)
    which = orders(chance[:, :kinds])[:, :number]
    zone_colours = orders(chance[:, kinds : kinds + len(COLOURS)])[:, :ZONES]
    rest = chance[:, kinds + len(COLOURS) :]
    # Things and zones lie in different cells of a 3 x 3 grid.
    cell = orders(rest[:, :9])[:, : number + ZONES]
    jitter = rest[:, 9 : 9 + 2 * (number + ZONES)].reshape(n, number + ZONES, 2) - 0.5
    hand = 0.3 + 0.4 * rest[:, 19:21]
    cloth = (rest[:, 26] * _CLOTHS).astype(np.int64)
    spread, shove_at, shove = 0.1, np.full(n, _NEVER), np.zeros((n, 2))
    shift = variants // 2
    if np.count_nonzero(shift):
        cloth += _CLOTHS * (shift == 1)
        execution = shift == 3
        spread = np.where(execution, 0.16, 0.1)[:, None, None]
        hand = np.where(execution[:, None], _edge(rest[:, 19:23]), hand)
        shove_at = np.where(execution, 4 + (rest[:, 27] * 6).astype(np.int64), _NEVER)
        angle = 2 * np.pi * rest[:, 23]
        shove = np.where(execution[:, None], 0.25 * np.stack([np.cos(angle), np.sin(angle)], axis=1), 0.0)
    places = _CELLS[cell] + jitter * spread
    wanted, zone = (rest[:, 24] * number).astype(np.int64), (rest[:, 25] * ZONES).astype(np.int64)
    rows = np.arange(n)
    # In memory the lane is last: operations on all lanes run along it.
    things = np.array(places[:, :number], order="F")
    goal = np.array(places[rows, number + zone], order="F")
    way = things[rows, wanted] - goal
    way *= way
    colours, shapes = np.divmod(which, len(SHAPES))
    return {
        "seed": np.asarray(seeds, np.uint64),
        "hand": np.array(hand, order="F"),
        "closed": np.zeros(n, bool),
        "held": np.full(n, -1),
        "things": things,
        "colours": colours,
        "shapes": shapes,
        "zones": places[:, number:].copy(),
        "zone_colours": zone_colours,
        "wanted": wanted,
        "zone": zone,
        "goal": goal,
        "far": np.sqrt(way[:, 0] + way[:, 1]),
        "heavy": variants % 2 == 1,
        "cloth": cloth,
        "shove_at": shove_at,
        "shove": shove,
        "first": np.zeros(n, bool),
        "second": np.zeros(n, bool),
        "success": np.zeros(n, bool),
    }


def _edge(chance: np.ndarray) -> np.ndarray:
    """Places close to the edge of the table, from ``[n, 4]`` random numbers: one coordinate is near 0 or 1."""
    depth, along = 0.08 * chance[:, :1], chance[:, 1:2]
    edge = np.where(chance[:, 2:3] < 0.5, depth, 1 - depth)
    return np.where(chance[:, 3:4] < 0.5, np.concatenate([edge, along], 1), np.concatenate([along, edge], 1))


def _names(state: State) -> tuple[str, str]:
    """The wanted thing and the wanted zone of a state of one lane, in words."""
    colours = tuple(COLOURS)
    wanted, zone = int(state["wanted"][0]), int(state["zone"][0])
    thing = f"{colours[int(state['colours'][0, wanted])]} {SHAPES[int(state['shapes'][0, wanted])]}"
    return thing, colours[int(state["zone_colours"][0, zone])]


@dataclass(frozen=True, eq=False)
class _Art:
    cloths: np.ndarray
    """uint8 ``[6, size, size, 3]``."""
    zones: np.ndarray
    """uint8 ``[colours, h, w, 3]``."""
    things: np.ndarray
    """uint8 ``[shapes, colours, h, w, 3]``, 0 around the shape."""
    around: np.ndarray
    """uint8 ``[shapes, h, w, 3]``: 255 around the shape, else 0."""
    hands: np.ndarray
    """uint8 ``[2, h, w, 3]``: open, closed; 0 around the hand."""
    around_hands: np.ndarray
    """uint8 ``[2, h, w, 3]``: 255 around the hand, else 0."""


@cache
def _art(size: int) -> _Art:
    y, x = np.mgrid[:size, :size]
    plain = [np.full((size, size, 3), shade) for shade in ((236, 230, 220), (222, 226, 232), (226, 236, 222))]
    band = max(2, size // 8)
    checked = ((x // band + y // band) % 2)[..., None]
    striped = (x // (band // 2) % 2)[..., None]
    elsewhere = [
        np.where(checked == 1, (200, 170, 140), (240, 225, 205)),
        np.where(striped == 1, (150, 175, 200), (205, 215, 230)),
        np.full((size, size, 3), (95, 85, 90)),
    ]
    colours = np.array(list(COLOURS.values()), np.uint8)
    side = round(2 * ZONE * size)
    zones = np.empty((len(colours), side, side, 3), np.uint8)
    zones[:] = colours[:, None, None]
    zones[:, 1:-1, 1:-1] = ((colours.astype(np.int64) + 2 * 250) // 3)[:, None, None]
    shapes = np.array([_shape(name, max(5, round(0.15 * size))) for name in SHAPES])[..., None]
    hands = np.array([_hand(closed, max(5, round(0.15 * size))) for closed in (False, True)])[..., None]
    return _Art(
        np.array(plain + elsewhere, np.uint8),
        zones,
        np.where(shapes[:, None], colours[:, None, None], 0).astype(np.uint8),
        np.where(shapes, 0, np.full(3, 255)).astype(np.uint8),
        np.where(hands, np.full(3, 15), 0).astype(np.uint8),
        np.where(hands, 0, np.full(3, 255)).astype(np.uint8),
    )


def _shape(name: str, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    across, down = np.abs(x - side / 2), np.abs(y - side / 2)
    if name == "circle":
        return across**2 + down**2 <= (side / 2) ** 2
    return across <= y / 2 if name == "triangle" else np.ones((side, side), bool)


def _hand(closed: bool, side: int) -> np.ndarray:
    """A cross with a gap in the middle; closed: only the middle."""
    y, x = np.mgrid[:side, :side] + 0.5
    across, down = np.abs(x - side / 2), np.abs(y - side / 2)
    thin = np.minimum(across, down) < max(0.6, side / 10)
    middle = np.maximum(across, down) < side / 3.5
    return middle & thin if closed else thin & ~middle
