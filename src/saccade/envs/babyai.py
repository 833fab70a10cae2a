"""BabyAI: language goals in MiniGrid worlds, from pixels (Chevalier-Boisvert et al., arXiv:1810.08272).

Actions are indices into ``ACTIONS``: ``Array("command", [k, 1])``, or text that names them (``forward left``, inside
``<answer>`` tags or bare). The mission is the prompt, pictures are the observations.

Distances count actions (turns and moves forward), as the path does. For a mission "go to" they are exact shortest
ways in the world as it is, doors opened on the way; for other missions only the length of the bot's plan is known.
"""

from __future__ import annotations

import copy
import heapq
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from saccade.core.content import Content, Image, Text, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Observation, Task
from saccade.envs.gym import check_limits, command, indices_of, level_seed, required
from saccade.envs.single import check_template, framed

ACTIONS = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
DONE = ACTIONS.index("done")
WORDS = tuple(
    [
        "a",
        "after",
        "ahead",
        "and",
        "ball",
        "behind",
        "blue",
        "box",
        "door",
        "front",
        "go",
        "green",
        "grey",
        "in",
        "it",
        "key",
        "left",
        "next",
        "object",
        "of",
        "on",
        "open",
        "pick",
        "put",
        "purple",
        "red",
        "right",
        "room",
        "the",
        "then",
        "to",
        "up",
        "yellow",
        "you",
        "your",
    ]
)
"""Words of all missions."""
STEERING = 3
"""The first so many actions turn and move; the others change the world or nothing."""
View = Literal["egocentric", "full"]
LONGEST_PLAN = 512
"""Actions after which a plan of the bot is cut off."""
LONGEST_TEXT = 4096
"""Characters of an output in which actions are looked for."""


@dataclass(frozen=True)
class Frames:
    """Long-short memory (VLN-R1, arXiv:2506.17221): the last pictures one by one, the older ones at wider intervals.

    Of pictures ``0 .. t``: ``older`` at equal intervals over ``0 .. t - recent``, then the last ``recent``, oldest
    first. Early in an episode the first picture is repeated, so that the number of pictures is always the same.
    """

    recent: int = 1
    older: int = 0
    tiled: bool = False
    """One square picture with all of them in rows, from the top left, instead of one picture each."""

    def __post_init__(self) -> None:
        if self.recent < 1 or self.older < 0:
            raise ConfigError(f"frames needs recent >= 1 and older >= 0, got {self.recent} and {self.older}")

    def __call__(self, t: int) -> list[int]:
        """Which of the pictures ``0 .. t`` are shown."""
        last = max(0, t - self.recent)
        old = [round(last * i / max(1, self.older - 1)) for i in range(self.older)] if self.older > 1 else []
        old = [last] if self.older == 1 else old
        return [*old, *(max(0, t - i) for i in reversed(range(self.recent)))]

    def shown(self, pictures: Sequence[np.ndarray]) -> tuple[Image, ...]:
        """What is shown of all pictures so far, uint8 ``[H, W, 3]`` each."""
        chosen = [pictures[i] for i in self(len(pictures) - 1)]
        if not self.tiled:
            return tuple(Image(picture) for picture in chosen)
        side = math.ceil(math.sqrt(len(chosen)))
        height, width = chosen[0].shape[:2]
        tiles = np.zeros((side, height, side, width, 3), np.uint8)
        for i, picture in enumerate(chosen):
            tiles[i // side, :, i % side] = picture
        return (Image(tiles.reshape(side * height, side * width, 3)),)


@dataclass(frozen=True)
class BabyAILevels(Tasks):
    """Task i is one world of level ``levels[i % len(levels)]``. Training worlds have even seeds, test worlds odd ones.

    ``Task.prompt`` is the mission. ``Task.info``: ``level``, ``seed``, and ``shortest``, the actions of the shortest
    way (or of the bot's plan).
    """

    levels: tuple[str, ...] = ("BabyAI-GoToLocal-v0",)
    count: int = 4096
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.levels:
            raise ConfigError("tasks.levels must name at least one level")

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        level = self.levels[index % len(self.levels)]
        seed = level_seed(self.seed, level, self.part, index)
        facts = _facts(level, seed)
        name = f"{level}-{self.seed}-{self.part}-{index}"
        return Task(name, (Text(facts.mission),), info={"level": level, "seed": seed, "shortest": facts.shortest})

    def split(self, name: Split) -> BabyAILevels:
        return replace(self, part=name)


@dataclass(frozen=True)
class NextActions(Tasks):
    """A state and the bot's next actions from it, as tasks of one turn (VLN-R1).

    The bot walks through a world, now and then off its way; at a random moment the task is to say what it does next.
    ``Task.prompt``: the mission and the pictures so far. ``Task.target``: ``actions``, ``horizon`` of ``ACTIONS`` as
    they are answered (indices for "commands", names for "words"), "done" after the end. ``Task.info``: ``level``,
    ``seed``, ``step``. The last 2048 tasks are kept.
    """

    levels: tuple[str, ...] = ("BabyAI-GoToLocal-v0",)
    count: int = 4096
    horizon: int = 6
    frames: Frames = field(default_factory=Frames)
    view: View = "egocentric"
    tile: int = 8
    """Pixels a side of one cell."""
    noise: float = 0.1
    """Probability that a step on the way to the state is a random turn or move."""
    answer: Literal["commands", "words"] = "commands"
    """The gold output: an array of indices ``[horizon, 1]``, or the names in ``<answer>`` tags."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0 or self.horizon < 1 or self.tile < 1 or not self.levels:
            raise ConfigError(
                "tasks needs levels, count >= 0, horizon >= 1 and tile >= 1, got "
                f"{self.levels}, {self.count}, {self.horizon} and {self.tile}"
            )
        if not 0 <= self.noise < 1:
            raise ConfigError(f"tasks.noise must be in [0, 1), got {self.noise}")

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        return _next_actions(self, index)

    def split(self, name: Split) -> NextActions:
        return replace(self, part=name)

    def moment(self, index: int) -> Task:
        """The task, worked out anew."""
        name = self.levels[index % len(self.levels)]
        seed = level_seed(self.seed, name, self.part, index)
        facts = _facts(name, seed)
        wanted = int(numpy_generator(seed, "moment").integers(max(1, facts.shortest)))
        level, bot, taken, frames = self._walk(name, seed, wanted)
        planned = _follow(level, bot, self.horizon, taken)
        planned += [DONE] * (self.horizon - len(planned))
        actions: tuple[int | str, ...] = tuple(planned)
        gold = command(planned)
        if self.answer == "words":
            actions = tuple(ACTIONS[i] for i in planned)
            gold = (Text(f"<answer>{' '.join(ACTIONS[i] for i in planned)}</answer>"),)
        info = {"level": name, "seed": seed, "step": len(frames) - 1}
        task = f"next-{name}-{self.seed}-{self.part}-{index}"
        return Task(task, (Text(facts.mission), *self.frames.shown(frames)), {"actions": actions}, (gold,), info)

    def _walk(self, name: str, seed: int, steps: int) -> tuple[Any, Any, int | None, list[np.ndarray]]:
        """The world after so many steps, or at the last moment before the walk ended it; the bot and the last action
        it has not been told of yet; all pictures.
        """
        random = numpy_generator(seed, "walk")
        level = _world(name)
        seen = _reset(level, seed)
        bot = _bot(level)
        frames = [_picture(level, seen, self.view, self.tile)]
        taken: int | None = None
        for k in range(steps):
            planned = int(bot.replan(taken))
            stray, other = random.random(), int(random.integers(STEERING))
            taken = other if stray < self.noise else planned
            seen, _, ended, _, _ = level.step(taken)
            if ended:
                return self._walk(name, seed, k)
            frames.append(_picture(level, seen, self.view, self.tile))
        return level, bot, taken, frames


@lru_cache(maxsize=2048)
def _next_actions(tasks: NextActions, index: int) -> Task:
    return tasks.moment(index)


@dataclass(frozen=True)
class BabyAI(EnvironmentSpec):
    """A world, a mission and up to ``max_turns`` turns; 1 is paid when the mission is accomplished, which ends it.

    ``Turn.info`` (see ``saccade.evaluate.episodes``): ``valid``, ``success``, ``steps``, ``actions``, ``path``,
    ``shortest``, and for missions "go to" ``distance`` (actions to the nearest goal; left out where it is out of reach)
    and ``reached`` (whether the agent ever stood next to a goal, whichever way it looked). ``outcome``: "failure" where
    the level says that the mission cannot be accomplished any more, which ends the episode too.
    """

    tasks: Tasks = field(default_factory=BabyAILevels)
    max_turns: int = 40
    view: View = "egocentric"
    """What is shown: the 7 x 7 cells before the agent, or the whole world."""
    tile: int = 8
    """Pixels a side of one cell: the egocentric picture has 7 * tile a side."""
    chunk: int = 1
    """Most actions of a turn that are carried out; those after them are dropped."""
    frames: Frames = field(default_factory=Frames)
    """Pictures of each observation; one is taken after each action."""
    keep: int | None = None
    """Turns that stay visible besides the prompt; None: all."""
    template: str = "{prompt}"
    """Text around the mission; contains ``{prompt}`` once."""

    def __post_init__(self) -> None:
        check_limits(self.max_turns, self.chunk, self.keep)
        check_template(self.template)
        if self.tile < 1:
            raise ConfigError(f"env.tile must be >= 1, got {self.tile}")

    def prompt(self, task: Task) -> Content:
        return framed(task.prompt, self.template)

    def make(self) -> BabyAIEnvironment:
        return BabyAIEnvironment(self)


class BabyAIEnvironment(Environment):
    """Keeps one world of each level it has met."""

    def __init__(self, spec: BabyAI) -> None:
        required("minigrid", "navigation")
        self._spec = spec
        self._worlds: dict[str, Any] = {}
        self._level: Any = None
        self._seen: Any = None
        self._facts = Facts("", 0, None, ())
        self._ways: Ways | None = None
        self._plan: list[int] | None = None
        self._frames: list[np.ndarray] = []
        self._turn = 0
        self._path = 0
        self._reached = False

    def reset(self, task: Task, seed: int) -> Observation:
        """The world is the task's own; ``seed`` has nothing left to decide."""
        name = str(task.info["level"])
        if name not in self._worlds:
            self._worlds[name] = _make(name)
        self._level = self._worlds[name]
        self._seen = _reset(self._level, int(task.info["seed"]))
        self._facts = _facts(name, int(task.info["seed"]))
        self._ways, self._plan = self._facts.ways, None
        self._turn = self._path = 0
        self._frames = []
        self._reached = self._beside()
        self._look()
        return self._observation()

    def step(self, output: Content) -> Step:
        self._turn += 1
        actions = actions_of(output)
        ended, paid, steps = False, 0.0, 0
        for action in (actions or [])[: self._spec.chunk]:
            self._seen, paid, ended, _, _ = self._level.step(action)
            steps += 1
            self._moved(action)
            if ended:
                break
            if self._spec.frames != Frames():
                self._look()
        self._path += steps
        if steps and (ended or self._spec.frames == Frames()):
            self._look()
        success = ended and paid > 0
        info: dict[str, Any] = {
            "valid": actions is not None,
            "success": success,
            "steps": steps,
            "actions": " ".join(ACTIONS[action] for action in (actions or [])[:steps]),
            "path": self._path,
            "shortest": self._facts.shortest,
        }
        if self._facts.targets:
            info["reached"] = self._reached or success
            distance = self.distance
            if success or distance is not None:
                info["distance"] = 0 if success else distance
        if ended and not success:
            info["outcome"] = "failure"
        truncated = not ended and self._turn >= self._spec.max_turns
        return Step(self._observation(), float(success), ended, truncated, info)

    @property
    def distance(self) -> int | None:
        """Actions to the nearest goal of a mission "go to"; None for other missions and where none can be reached."""
        if not self._facts.targets:
            return None
        if self._ways is None:
            self._ways = _ways(self._level, self._targets())
        return self._ways.get(_pose(self._level))

    def plan(self, count: int) -> list[int]:
        """The bot's next actions, ``done`` after the end of its plan.

        A plan is made once and followed as long as the policy does so; when it strays the bot plans anew from what it
        sees then.
        """
        if self._plan is None:
            level = copy.deepcopy(self._level)
            self._plan = _follow(level, _bot(level), LONGEST_PLAN)
        plan = self._plan[:count]
        return plan + [DONE] * (count - len(plan))

    def _moved(self, action: int) -> None:
        if action >= STEERING:
            self._ways = None
        if self._plan is not None:
            follows = self._plan[:1] == [action]
            self._plan = self._plan[1:] if follows else None
        self._reached = self._reached or self._beside()

    def _beside(self) -> bool:
        x, y = (int(v) for v in self._level.agent_pos)
        return any(abs(x - u) + abs(y - v) == 1 for u, v in self._targets())

    def _targets(self) -> Sequence[tuple[int, int]]:
        """Cells of the goals as they are now: an object that was carried away lies elsewhere."""
        return self._level.instrs.desc.obj_poss if self._facts.targets else ()

    def _look(self) -> None:
        picture = _picture(self._level, self._seen, self._spec.view, self._spec.tile)
        if self._spec.frames == Frames():
            self._frames = [picture]
        else:
            self._frames.append(picture)

    def _observation(self) -> Observation:
        return Observation(self._spec.frames.shown(self._frames), self._spec.keep)


@dataclass(frozen=True)
class BabyAIBot:
    """MiniGrid's own bot: plans with what it has seen, turns and moves like the agent.

    An expert for ``saccade.feeds.experts``; what it says leads to success in every level it can plan for.
    """

    chunk: int = 1
    """Actions a turn."""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"expert.chunk must be >= 1, got {self.chunk}")

    def outputs(self, environment: Environment) -> Content:
        """The next output in this environment's present state."""
        if not isinstance(environment, BabyAIEnvironment):
            raise DataError(f"this expert acts in BabyAI, got {type(environment).__name__}")
        return command(environment.plan(self.chunk))


@dataclass(frozen=True)
class BabyAIBotWords:
    """``BabyAIBot`` for policies that write: the names of the actions in ``<answer>`` tags."""

    chunk: int = 1

    def __post_init__(self) -> None:
        BabyAIBot(self.chunk)

    def outputs(self, environment: Environment) -> Content:
        (part,) = BabyAIBot(self.chunk).outputs(environment)
        names = " ".join(ACTIONS[int(i)] for i in part.values[:, 0])  # type: ignore[union-attr]
        return (Text(f"<answer>{names}</answer>"),)


def actions_of(output: Content) -> list[int] | None:
    """Actions that an output gives, as indices; None where it gives none or says anything else.

    Of text, what stands in the last ``<answer>`` block counts, without tags all of it; names are separated by spaces
    and commas, letters of either case.
    """
    commands = indices_of(output, len(ACTIONS))
    if commands is not None or not all(isinstance(part, Text) for part in output):
        return commands
    text = text_of(output)
    if len(text) > LONGEST_TEXT:
        return None
    blocks = re.findall(r"<answer>([^<]*)</answer>", text)
    words = re.split(r"[\s,]+", (blocks[-1] if blocks else text).strip().lower())
    if not all(word in ACTIONS for word in words):
        return None
    return [ACTIONS.index(word) for word in words]


Pose = tuple[int, int, int]
Ways = Mapping[Pose, int]
"""Actions from each pose (x, y, direction) to the nearest pose that looks at a goal next to it."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a world at its start."""

    mission: str
    shortest: int
    """Actions of the shortest way to success, at least 1."""
    ways: Ways | None
    targets: tuple[tuple[int, int], ...]
    """Cells of the goals of a mission "go to"; empty for other missions."""


@lru_cache(maxsize=65536)
def _facts(name: str, seed: int) -> Facts:
    level = _world(name)
    _reset(level, seed)
    mission = str(level.mission)
    verifier = required("minigrid.envs.babyai.core.verifier", "navigation")
    if isinstance(level.instrs, verifier.GoToInstr):
        targets = tuple((int(x), int(y)) for x, y in level.instrs.desc.obj_poss)
        ways = _ways(level, targets)
        if _pose(level) in ways:
            # Whether the mission is accomplished is asked after an action: looking at the goal already takes one.
            return Facts(mission, max(1, ways[_pose(level)]), _Compact(ways, level.width, level.height), targets)
        return Facts(mission, max(1, len(_follow(level, _bot(level), LONGEST_PLAN))), None, targets)
    return Facts(mission, max(1, len(_follow(level, _bot(level), LONGEST_PLAN))), None, ())


class _Compact(Mapping[Pose, int]):
    """Ways in two bytes a pose: there may be many worlds."""

    def __init__(self, ways: Ways, width: int, height: int) -> None:
        self._table = np.full((width, height, 4), -1, np.int16)
        for pose, actions in ways.items():
            self._table[pose] = actions

    def __getitem__(self, pose: Pose) -> int:
        found = int(self._table[pose])
        if found < 0:
            raise KeyError(pose)
        return found

    def __iter__(self) -> Any:
        return (tuple(int(v) for v in pose) for pose in np.argwhere(self._table >= 0))

    def __len__(self) -> int:
        return int((self._table >= 0).sum())


@lru_cache(maxsize=32)
def _world(name: str) -> Any:
    """A world of this process for looking at tasks; environments have their own."""
    return _make(name)


def _make(name: str) -> Any:
    gymnasium = required("gymnasium", "navigation")
    required("minigrid", "navigation")
    try:
        # Episodes are cut off by turns, not by the level's own limit.
        level = gymnasium.make(name, max_steps=2**31, disable_env_checker=True).unwrapped
    except (gymnasium.error.Error, TypeError) as error:
        raise ConfigError(f"tasks.levels: {name!r} cannot be made: {' '.join(str(error).split())}") from error
    roomgrid = required("minigrid.envs.babyai.core.roomgrid_level", "navigation")
    if not isinstance(level, roomgrid.RoomGridLevel):
        raise ConfigError(f"tasks.levels: {name!r} is no BabyAI level")
    return level


def _reset(level: Any, seed: int) -> Any:
    """What the agent sees of the world with this seed."""
    with redirect_stdout(io.StringIO()):  # levels print each world they reject
        return level.reset(seed=seed)[0]


def _picture(level: Any, seen: Mapping[str, Any], view: View, tile: int) -> np.ndarray:
    """The world as it is now; ``seen`` is what the level's last step or reset said."""
    if view == "full":
        return level.get_frame(highlight=False, tile_size=tile)
    # What get_pov_render draws, from the cells that the level has found already: several times as fast.
    cells = seen["image"]
    side = len(cells)
    agent = (side // 2, side - 1)
    rows = [[_cell(*cells[x, y].tolist(), (x, y) == agent, tile) for x in range(side)] for y in range(side)]
    return np.array(rows).transpose(0, 2, 1, 3, 4).reshape(side * tile, side * tile, 3)


@lru_cache(maxsize=4096)
def _cell(kind: int, colour: int, state: int, agent: bool, tile: int) -> np.ndarray:
    """Pixels of a cell in the agent's view; kind 0 is out of sight."""
    grid = required("minigrid.core.grid", "navigation").Grid
    thing = required("minigrid.core.world_object", "navigation").WorldObj.decode(kind, colour, state)
    return grid.render_tile(thing, agent_dir=3 if agent else None, highlight=kind > 0, tile_size=tile).astype(np.uint8)


def _bot(level: Any) -> Any:
    return required("minigrid.utils.baby_ai_bot", "navigation").BabyAIBot(level)


def _follow(level: Any, bot: Any, count: int, taken: int | None = None) -> list[int]:
    """Let the bot act in this world until the episode ends, at most ``count`` actions; which it took.

    ``taken``: the last action before, where the bot has watched the episode so far.
    """
    actions: list[int] = []
    while len(actions) < count:
        action = int(bot.replan(actions[-1] if actions else taken))
        _, _, ended, _, _ = level.step(action)
        actions.append(action)
        if ended:
            break
    return actions


def _pose(level: Any) -> Pose:
    x, y = level.agent_pos
    return int(x), int(y), int(level.agent_dir)


STEP = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Where each direction leads, as (x, y)."""


def _ways(level: Any, targets: Sequence[tuple[int, int]]) -> dict[Pose, int]:
    """Dijkstra from the goals backwards: a turn and a move cost 1, a move through a closed door 2 (open it first)."""
    cost = {(x, y): _entry_cost(level, x, y) for x in range(level.width) for y in range(level.height)}
    ways: dict[Pose, int] = {}
    queue: list[tuple[int, Pose]] = [
        (0, (x - dx, y - dy, d))
        for x, y in targets
        for d, (dx, dy) in enumerate(STEP)
        if math.isfinite(cost.get((x - dx, y - dy), math.inf))
    ]
    heapq.heapify(queue)
    while queue:
        far, (x, y, d) = heapq.heappop(queue)
        if (x, y, d) in ways:
            continue
        ways[x, y, d] = far
        dx, dy = STEP[d]
        before = [(x, y, (d + 1) % 4), (x, y, (d - 1) % 4), (x - dx, y - dy, d)]
        for (u, v, e), price in zip(before, (1, 1, cost[x, y]), strict=True):
            if (u, v, e) not in ways and math.isfinite(cost.get((u, v), math.inf)):
                heapq.heappush(queue, (far + int(price), (u, v, e)))
    return ways


def _entry_cost(level: Any, x: int, y: int) -> float:
    """Actions to step onto a cell from the one before it, which is looked from."""
    if (x, y) == (int(level.agent_pos[0]), int(level.agent_pos[1])):
        return 1
    cell = level.grid.get(x, y)
    if cell is None or cell.can_overlap():
        return 1
    return 2 if cell.type == "door" and not cell.is_locked else math.inf
