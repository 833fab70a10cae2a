"""First-person navigation in three dimensions with ViZDoom (Kempka et al., arXiv:1605.02097), judged as in R2R.

The agent starts somewhere in a maze of rooms and has to find a thing and stop there. Positions are continuous, in map
units (32 are about a metre; the player is 32 wide). Actions are indices into ``ACTIONS``.

Distances to the goal are geodesic: ViZDoom tells where walls are and where the goal lies; Dijkstra's algorithm runs on
a grid of 16 units over the places where the player's centre can be, so that a distance is at most about 8 % too long
(a grid has eight directions). Things on the floor do not block the way there.
"""

from __future__ import annotations

import atexit
import heapq
import math
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core.content import Content, Image, Text
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Observation, Task
from saccade.envs.gym import check_limits, command, indices_of, level_seed, required

ACTIONS = ("forward", "left", "right", "stop")
FORWARD, LEFT, RIGHT, STOP = range(4)
CELL = 16
"""Map units a side of a cell of the grid on which distances are computed."""
RADIUS = 16
"""Half the width of the player, map units."""


@dataclass(frozen=True)
class DoomTasks(Tasks):
    """Task i is one start in the maze. Training starts have even seeds, test starts odd ones.

    ``Task.prompt`` is the instruction. ``Task.info``: ``seed``.
    """

    instruction: str = "go to the green armour and stop"
    count: int = 4096
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.instruction:
            raise ConfigError("tasks.instruction must not be empty")

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        info = {"seed": level_seed(self.seed, "doom", self.part, index)}
        return Task(f"doom-{self.seed}-{self.part}-{index}", (Text(self.instruction),), info=info)

    def split(self, name: Split) -> DoomTasks:
        return replace(self, part=name)


@dataclass(frozen=True)
class Doom(EnvironmentSpec):
    """A maze seen through the player's eyes; 1 is paid for stopping near the goal, or for walking into it.

    Success as in R2R (Anderson et al., arXiv:1711.07280): "stop" with a geodesic distance of at most ``near``; "stop"
    anywhere else ends the episode without pay. ``Turn.info`` (see ``saccade.evaluate.episodes``), lengths in map
    units: ``valid``, ``success``, ``steps``, ``actions``, ``path`` (what was walked), ``shortest``, ``distance``,
    ``reached`` (``distance <= near`` after any command so far), ``place`` (x, y, degrees).

    Each lane runs an engine of its own, which takes seconds to start: closed environments keep theirs for the next.
    """

    tasks: Tasks = field(default_factory=DoomTasks)
    max_turns: int = 100
    scenario: str = "my_way_home"
    """One of ViZDoom's own, or the path of a ``.cfg`` file."""
    goal: str = "GreenArmor"
    """Name of the thing to be found; the nearest counts."""
    near: float = 64.0
    """Map units from the goal that count as there."""
    tics: int = 8
    """Tics (1/35 s) of one step forward."""
    turn: float = 30.0
    """Degrees of one turn."""
    side: int = 56
    """Pixels a side of the picture, sampled from one of 160 x 120."""
    chunk: int = 1
    """Most actions of a turn that are carried out; those after them are dropped."""
    keep: int | None = None
    """Turns that stay visible besides the prompt; None: all."""

    def __post_init__(self) -> None:
        check_limits(self.max_turns, self.chunk, self.keep)
        if not self.near > 0 or self.tics < 1 or not 0 < self.turn < 180 or not 8 <= self.side <= 120:
            raise ConfigError(
                "env needs near > 0, tics >= 1, turn in (0, 180) and side in 8 .. 120, got "
                f"{self.near}, {self.tics}, {self.turn} and {self.side}"
            )

    def make(self) -> DoomEnvironment:
        return DoomEnvironment(self)


_IDLE: dict[str, list[Any]] = {}


class DoomEnvironment(Environment):
    """Takes an engine from the pool of its process and gives it back when it is closed."""

    def __init__(self, spec: Doom) -> None:
        required("vizdoom", "navigation")
        self._spec = spec
        idle = _IDLE.get(spec.scenario)
        self._game: Any = idle.pop() if idle else _engine(spec.scenario)
        self._maze: Maze | None = None
        self._rows = (np.arange(spec.side) * 120 + 60) // spec.side
        self._columns = (np.arange(spec.side) * 160 + 80) // spec.side
        self._picture = np.zeros((spec.side, spec.side, 3), np.uint8)
        self._place = (0.0, 0.0, 0.0)
        self._turn = 0
        self._path = 0.0
        self._shortest = 0.0
        self._reached = False

    def reset(self, task: Task, seed: int) -> Observation:
        """The start is the task's own; ``seed`` has nothing left to decide."""
        self._game.set_seed(int(task.info["seed"]))
        self._game.new_episode()
        state = self._game.get_state()
        self._maze = _maze(state, self._spec.goal)
        self._look(state)
        self._turn, self._path = 0, 0.0
        self._shortest = self.distance
        self._reached = self._shortest <= self._spec.near
        return Observation((Image(self._picture),), self._spec.keep)

    def step(self, output: Content) -> Step:
        self._turn += 1
        actions = indices_of(output, len(ACTIONS))
        stopped = found = False
        steps = 0
        for action in (actions or [])[: self._spec.chunk]:
            steps += 1
            if action == STOP:
                stopped = True
                break
            found = self._act(action)
            if found:
                break
        distance = 0.0 if found else self.distance
        success = found or (stopped and distance <= self._spec.near)
        info = {
            "valid": actions is not None,
            "success": success,
            "steps": steps,
            "actions": " ".join(ACTIONS[action] for action in (actions or [])[:steps]),
            "path": self._path,
            "shortest": self._shortest,
            "distance": distance,
            "reached": self._reached,
            "place": self._place,
        }
        over = stopped or found
        truncated = not over and self._turn >= self._spec.max_turns
        observation = Observation((Image(self._picture),), self._spec.keep)
        return Step(observation, float(success), over, truncated, info)

    @property
    def distance(self) -> float:
        """Geodesic distance from here to the goal, map units."""
        return self.maze.distance(*self._place[:2])

    @property
    def maze(self) -> Maze:
        if self._maze is None:
            raise DataError("the episode has not begun")
        return self._maze

    @property
    def place(self) -> tuple[float, float, float]:
        """x, y, and degrees counted from the x axis towards the y axis."""
        return self._place

    @property
    def spec(self) -> Doom:
        return self._spec

    def close(self) -> None:
        if self._game is not None:
            _IDLE.setdefault(self._spec.scenario, []).append(self._game)
            self._game = None

    def _act(self, action: int) -> bool:
        """Turn or walk; whether the goal was walked into, which is what ends an episode of the engine."""
        if action == FORWARD:
            self._game.make_action([1, 0], self._spec.tics)
        else:
            self._game.make_action([0, -self._spec.turn if action == LEFT else self._spec.turn], 1)
        before = self._place
        state = self._game.get_state()
        if state is None:
            self._path += min(self.distance, self._spec.near)
            self._reached = True
            return True
        self._look(state)
        self._path += math.dist(before[:2], self._place[:2])
        self._reached = self._reached or self.distance <= self._spec.near
        return False

    def _look(self, state: Any) -> None:
        x, y, angle = (float(value) for value in state.game_variables)
        self._place = (x, y, angle)
        self._picture = state.screen_buffer[self._rows[:, None], self._columns[None]]


@dataclass(frozen=True)
class DoomGuide:
    """An expert that knows the map: turns towards the way downhill in distance, walks, and stops at the goal."""

    def outputs(self, environment: Environment) -> Content:
        """The next output in this environment's present state."""
        if not isinstance(environment, DoomEnvironment):
            raise DataError(f"this expert acts in Doom, got {type(environment).__name__}")
        x, y, angle = environment.place
        if environment.distance <= environment.spec.near / 2:
            return command([STOP])
        u, v = environment.maze.ahead(x, y)
        off = (math.degrees(math.atan2(v - y, u - x)) - angle + 180) % 360 - 180
        if abs(off) <= environment.spec.turn / 2:
            return command([FORWARD])
        return command([LEFT if off > 0 else RIGHT])


Cell = tuple[int, int]
Walls = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, eq=False)
class Maze:
    """Distances to the goal from every cell where the player's centre can be."""

    goal: tuple[float, float]
    ways: Mapping[Cell, float]

    def distance(self, x: float, y: float) -> float:
        """Map units along the shortest way from (x, y): over the nearest cells, straight where the goal is next."""
        straight = math.dist((x, y), self.goal)
        if straight <= 2 * CELL:
            return straight
        found = [self.ways[cell] + math.dist((x, y), _centre(cell)) for cell in _around(x, y, 1) if cell in self.ways]
        # Cells at walls are left out of the grid; the player, pressed against one, is never further than two away.
        far = [self.ways[c] + math.dist((x, y), _centre(c)) for c in _around(x, y, 3) if c in self.ways]
        return min(found or far or [straight])

    def ahead(self, x: float, y: float, cells: int = 3) -> tuple[float, float]:
        """Where the shortest way from (x, y) leads after so many cells."""
        near = [cell for cell in _around(x, y, 2) if cell in self.ways]
        if not near:
            return self.goal
        here = min(near, key=lambda cell: math.dist((x, y), _centre(cell)))
        for _ in range(cells):
            around = [cell for cell in _around(*_centre(here), 1) if cell in self.ways]
            here = min(around, key=lambda cell: self.ways[cell])
        return self.goal if self.ways[here] < 2 * CELL else _centre(here)


def _centre(cell: Cell) -> tuple[float, float]:
    return (cell[0] + 0.5) * CELL, (cell[1] + 0.5) * CELL


def _around(x: float, y: float, reach: int) -> list[Cell]:
    i, j = math.floor(x / CELL), math.floor(y / CELL)
    return [(i + di, j + dj) for di in range(-reach, reach + 1) for dj in range(-reach, reach + 1)]


def _maze(state: Any, goal: str) -> Maze:
    places = tuple((float(o.position_x), float(o.position_y)) for o in state.objects if o.name == goal)
    if not places:
        names = sorted({o.name for o in state.objects})
        raise ConfigError(f"env.goal: there is no {goal!r} in this map; it has {', '.join(names)}")
    lines = (line for sector in state.sectors for line in sector.lines if line.is_blocking)
    return solve(tuple((line.x1, line.y1, line.x2, line.y2) for line in lines), places)


@lru_cache(maxsize=64)
def solve(walls: Walls, goals: tuple[tuple[float, float], ...]) -> Maze:
    """Shortest ways from everywhere between these walls (x1, y1, x2, y2) to the nearest goal."""
    ends = np.array(walls, np.float64).reshape(-1, 2, 2)
    low, high = np.floor(ends.min((0, 1)) / CELL).astype(int), np.ceil(ends.max((0, 1)) / CELL).astype(int)
    cells = [(i, j) for i in range(low[0], high[0]) for j in range(low[1], high[1])]
    free = dict(zip(cells, (_clearance(np.array([_centre(c) for c in cells]), ends) >= RADIUS).tolist(), strict=True))
    ways: dict[Cell, float] = {}
    queue = [(0.0 + math.dist(goal, _centre(c)), c) for goal in goals for c in _around(*goal, 1) if free.get(c)]
    heapq.heapify(queue)
    while queue:
        far, cell = heapq.heappop(queue)
        if cell in ways:
            continue
        ways[cell] = far
        for other in _around(*_centre(cell), 1):
            if free.get(other) and other not in ways:
                heapq.heappush(queue, (far + math.dist(_centre(cell), _centre(other)), other))
    return Maze(goals[0], ways)


def _clearance(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Distance ``[P]`` of points ``[P, 2]`` to the nearest of the segments ``[S, 2, 2]``."""
    start, along = ends[None, :, 0], (ends[:, 1] - ends[:, 0])[None]
    length = np.maximum((along**2).sum(-1), 1e-9)
    share = np.clip(((points[:, None] - start) * along).sum(-1) / length, 0, 1)
    return np.linalg.norm(points[:, None] - start - share[..., None] * along, axis=-1).min(1)


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Where engines keep what they write, until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="saccade-doom-"))
    atexit.register(_clear, folder)
    return folder


def _clear(folder: Path) -> None:
    for games in _IDLE.values():
        while games:
            games.pop().close()
    shutil.rmtree(folder, ignore_errors=True)


def _engine(scenario: str) -> Any:
    vizdoom = required("vizdoom", "navigation")
    path = Path(scenario).resolve() if scenario.endswith(".cfg") else Path(vizdoom.scenarios_path) / f"{scenario}.cfg"
    if not path.is_file():
        raise ConfigError(f"env.scenario: there is no {path}")
    game = vizdoom.DoomGame()
    game.load_config(str(path))
    game.set_doom_config_path(str(_folder() / "vizdoom.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_render_hud(False)
    game.set_episode_timeout(0)  # episodes are cut off by turns
    game.set_objects_info_enabled(True)
    game.set_sectors_info_enabled(True)
    variable = vizdoom.GameVariable
    game.set_available_game_variables([variable.POSITION_X, variable.POSITION_Y, variable.ANGLE])
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    try:
        with chdir(_folder()):  # engines make a folder where they are started
            game.init()
    except vizdoom.ViZDoomErrorException as error:
        raise ConfigError(f"env.scenario: {scenario!r} cannot be played: {error}") from error
    return game
