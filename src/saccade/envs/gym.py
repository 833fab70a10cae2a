"""Any gymnasium environment, and how motor commands are read from an output.

A turn's output holds one ``Array("command", [k, D])``: k commands that are carried out one after the other. A discrete
action is one number, its index. Observations become content parts by their space:

- uint8 boxes ``[H, W, 3]``, ``[H, W, 1]`` and ``[H, W]`` are an ``Image`` (grey levels are repeated);
- text is a ``Text``, shown in the first observation and again when it changes;
- everything else with numbers is an ``Array`` of float32, named "state" or by its key;
- the entries of ``Dict`` and ``Tuple`` spaces are parts one after the other, in the order of the space.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from saccade.core.content import Array, Content, Image, Part, Text
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks, VectorEnvironment, name_task
from saccade.core.errors import ConfigError
from saccade.core.random import fold_in
from saccade.core.trajectory import Observation, Task

COMMAND = "command"
"""Name of the array that holds the commands of a turn."""
STATE = "state"
"""Name of the array that holds an observed vector."""


def required(module: str, extra: str) -> ModuleType:
    """The module; ``ConfigError`` with what to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module.partition('.')[0]} cannot be imported: pip install 'saccade[{extra}]'") from error


def commands_of(output: Content, columns: int) -> np.ndarray | None:
    """The commands of a turn, float32 ``[k, D]``.

    None unless the output holds exactly one array of that name, with k >= 1 rows of D = ``columns`` finite numbers.
    """
    values = _single(output, columns)
    return values.astype(np.float32) if values is not None and np.isfinite(values).all() else None


def indices_of(output: Content, actions: int) -> list[int] | None:
    """The discrete actions of a turn, each in ``0 .. actions - 1``; None where ``commands_of`` has none or one is not
    a whole number in range.
    """
    values = commands_of(output, 1)
    if values is None:
        return None
    numbers: list[float] = values[:, 0].tolist()
    if not all(0 <= number < actions and number == int(number) for number in numbers):
        return None
    return [int(number) for number in numbers]


def command(rows: Any) -> Content:
    """The output that gives these commands, ``[k, D]``; the k entries of a vector are k commands of one number."""
    values = np.asarray(rows, np.float32)
    return (Array(COMMAND, values[:, None] if values.ndim == 1 else values),)


def level_seed(seed: int, name: str, part: Split, index: int) -> int:
    """A 31-bit seed of task ``index``: even in the training part, odd in the held-out part, so that they share none."""
    return 2 * (fold_in(seed, name, part, index) % 2**30) + (part == "test")


@dataclass(frozen=True)
class GymnasiumTasks(Tasks):
    """One task a seed. ``Task.info``: ``seed``, which the environment is reset with."""

    instruction: str = "Solve the task."
    """What the policy is told first; where the environment observes text, that follows."""
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
        info = {"seed": level_seed(self.seed, "gymnasium", self.part, index)}
        return Task(f"gymnasium-{self.seed}-{self.part}-{index}", (Text(self.instruction),), info=info)

    def split(self, name: Split) -> GymnasiumTasks:
        return replace(self, part=name)


@dataclass(frozen=True)
class Gymnasium(EnvironmentSpec):
    """A gymnasium environment with a ``Discrete`` or a flat ``Box`` action space.

    The environment's own reward is the turn's (summed over the commands of the turn), its own end the episode's.
    ``Turn.info``: ``valid``, ``steps`` and ``path`` (see ``saccade.evaluate.episodes``), ``clipped`` (True where a
    command left the box and was clipped into it), ``success`` where the environment says so, and ``notes``.

    Actions must be finite and, where discrete, in range: anything else is answered with the last observation and
    ``valid`` False, and the environment does not move.
    """

    tasks: Tasks = field(default_factory=GymnasiumTasks)
    max_turns: int = 500
    id: str = "CartPole-v1"
    """As ``gymnasium.make`` takes it (``module:Name-v0`` imports the module first); or the dotted path of a callable
    that returns an environment (``package.module.function``)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""
    wrappers: tuple[str, ...] = ()
    """Dotted paths of wrappers that are called with the environment, the innermost first."""
    chunk: int = 1
    """Most commands of a turn that are carried out; those after them are dropped."""
    keep: int | None = None
    """Turns that stay visible besides the prompt; None: all."""
    notes: tuple[str, ...] = ()
    """Entries of the environment's info that are copied into the turn's; absent ones are left out."""

    def __post_init__(self) -> None:
        check_limits(self.max_turns, self.chunk, self.keep)

    def make(self) -> GymnasiumEnvironment:
        return GymnasiumEnvironment(self)

    def make_vector(self) -> GymnasiumLanes:
        return GymnasiumLanes(self)


def check_limits(max_turns: int, chunk: int, keep: int | None) -> None:
    """Raise ``ConfigError`` unless there are turns, commands in a turn, and no negative number of visible turns."""
    if max_turns < 1:
        raise ConfigError(f"env.max_turns must be >= 1, got {max_turns}")
    if chunk < 1:
        raise ConfigError(f"env.chunk must be >= 1, got {chunk}")
    if keep is not None and keep < 0:
        raise ConfigError(f"env.keep must be >= 0 or None, got {keep}")


class GymnasiumEnvironment(Environment):
    """One gymnasium environment; ``unwrapped`` is its core, for experts that look into it."""

    def __init__(self, spec: Gymnasium) -> None:
        self._lane = GymnasiumLanes(spec, count=1)

    @property
    def unwrapped(self) -> Any:
        return self._lane.environments[0].unwrapped

    def reset(self, task: Task, seed: int) -> Observation | None:
        return self._lane.reset([task], [seed])[0]

    def step(self, output: Content) -> Step:
        return self._lane.step([0], [output])[0]

    def close(self) -> None:
        self._lane.close()


class GymnasiumLanes(VectorEnvironment):
    """One environment a lane, kept over resets. Outputs of all lanes are read at once."""

    def __init__(self, spec: Gymnasium, count: int = 0) -> None:
        self.environments: list[Any] = []
        self._spec = spec
        self._limit: int | None = None
        self._tasks: list[Task] = []
        self._paths: list[int] = []
        """Commands carried out in the episode of each lane."""
        self._shown: list[Observation] = []
        """The last observation of each lane."""
        self._words: list[dict[_Path, str]] = []
        """What texts of the observation said last, in each lane."""
        self._grow(count)

    def _grow(self, count: int) -> None:
        for _ in range(count - len(self.environments)):
            env, self._limit = _build(self._spec)
            if not self.environments:
                self._read = _actor(env.action_space)
                self._parts = _reader(env.observation_space, STATE)
                # Most environments show one vector of numbers: that case has no detours.
                self._plain = self._parts == [(_vector, ())]
            self.environments.append(env)

    def reset(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[Observation | None]:
        n = len(tasks)
        self._grow(n)
        self._tasks = list(tasks)
        self._paths, self._words, self._shown = [0] * n, [{} for _ in range(n)], [Observation(())] * n
        seen = []
        for env, task, seed in zip(self.environments, tasks, seeds, strict=False):
            seen.append(env.reset(seed=int(task.info["seed"]) if "seed" in task.info else seed % 2**31)[0])
        self._show(range(n), seen)
        return [*self._shown]

    def step(self, lanes: Sequence[int], outputs: Sequence[Content]) -> list[Step]:
        actions, outside = self._read(outputs, self._spec.chunk)
        environments, paths, limit, noted = self.environments, self._paths, self._limit, self._spec.notes
        moved: list[int] = []
        seen: list[Any] = []
        ends: list[tuple[float, bool, bool, dict[str, Any]]] = []
        lane = 0
        try:
            for lane, some in zip(lanes, actions, strict=True):
                path = start = paths[lane]
                if some is None:
                    ends.append((0.0, False, False, {"valid": False, "steps": 0, "path": path}))
                    continue
                step, paid = environments[lane].step, 0.0
                for action in some:
                    now, reward, ended, late, notes = step(action)
                    paid += reward
                    path += 1
                    if limit is not None and path >= limit:
                        late = True
                    if ended or late:
                        break
                paths[lane] = path
                info = {"valid": True, "steps": path - start, "path": path}
                if outside is not None and any((outside[len(ends)] or ())[: path - start]):
                    info["clipped"] = True
                if notes:
                    _note(notes, noted, info)
                moved.append(lane)
                seen.append(now)
                ends.append((float(paid), bool(ended), bool(late), info))
        except Exception as error:
            name_task(error, self._tasks[lane])
            raise
        self._show(moved, seen)
        shown = self._shown
        return [Step(shown[lane], *end) for lane, end in zip(lanes, ends, strict=True)]

    def _show(self, lanes: Sequence[int], seen: list[Any]) -> None:
        """Keep the observations that show this in these lanes."""
        keep, shown = self._spec.keep, self._shown
        if not self._plain:
            for lane, one in zip(lanes, seen, strict=True):
                shown[lane] = Observation(self._content(lane, one), keep)
            return
        # A copy: many environments write the next observation over the last one. Of all lanes at once, which is fast;
        # long vectors once more, so that keeping one lane's does not keep those of all.
        rows = np.array(seen, np.float32)
        if rows.size > 256 * len(seen):
            rows = [row.copy() for row in rows]
        for lane, row in zip(lanes, rows, strict=True):
            shown[lane] = Observation((Array(STATE, row),), keep)

    def _content(self, lane: int, seen: Any) -> Content:
        words = self._words[lane]
        parts: list[Part] = []
        for read, path in self._parts:
            part = read(_entry(seen, path))
            if isinstance(part, Text):
                if words.get(path) == part.text:
                    continue
                words[path] = part.text
            parts.append(part)
        return tuple(parts)

    def close(self) -> None:
        for env in self.environments:
            env.close()
        self.environments = []


def _note(notes: Mapping[str, Any], wanted: Sequence[str], info: dict[str, Any]) -> None:
    for name in ("success", "is_success"):
        if name in notes:
            info["success"] = bool(notes[name])
    for name in wanted:
        if name in notes:
            info[name] = notes[name]


def _build(spec: Gymnasium) -> tuple[Any, int | None]:
    """The environment, and the steps after which an episode is cut off where gymnasium's registry says so.

    Of the wrappers that ``gymnasium.make`` adds itself, those that check take time at each step, for what is checked
    here already; the one that counts is replaced by counting.
    """
    gymnasium = required("gymnasium", "navigation")
    named = ":" in spec.id or "/" in spec.id or re.search(r"-v\d+$", spec.id) or "." not in spec.id
    limit: int | None = None
    try:
        if named:
            env = gymnasium.make(spec.id, disable_env_checker=True, **spec.options)
            own = gymnasium.wrappers
            while type(env) in (own.TimeLimit, own.OrderEnforcing):
                if type(env) is own.TimeLimit:
                    steps = int(env._max_episode_steps)
                    limit = steps if limit is None else min(limit, steps)
                env = env.env
        else:
            env = _callable(spec.id)(**spec.options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ConfigError(f"env.id: {spec.id!r} cannot be made: {' '.join(str(error).split())}") from error
    for wrapper in spec.wrappers:
        env = _callable(wrapper)(env)
    return env, limit


def _callable(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"env: there is no {path!r} to call") from error


_Path = tuple[str | int, ...]
_Read = tuple[list[list[Any] | None], list[list[bool] | None] | None]


def _entry(seen: Any, path: _Path) -> Any:
    for key in path:
        seen = seen[key]
    return seen


def _reader(space: Any, name: str, path: _Path = ()) -> list[tuple[Callable[[Any], Part], _Path]]:
    """How to turn an observation of this space into parts: functions, and where in the observation each reads."""
    spaces = required("gymnasium.spaces", "navigation")
    if isinstance(space, spaces.Dict):
        entries = [_reader(one, str(key), (*path, key)) for key, one in space.spaces.items()]
        return [reader for readers in entries for reader in readers]
    if isinstance(space, spaces.Tuple):
        entries = [_reader(one, f"{name}-{i}", (*path, i)) for i, one in enumerate(space.spaces)]
        return [reader for readers in entries for reader in readers]
    if isinstance(space, spaces.Text) or type(space).__name__ == "MissionSpace" or not _numeric(space, spaces):
        if isinstance(space, spaces.Text) or isinstance(space.sample(), str):
            return [(lambda seen: Text(str(seen)), path)]
        raise ConfigError(f"env: observations of {type(space).__name__} cannot be shown; wrap the environment")
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and _is_picture(space.shape):
        if len(space.shape) == 3 and space.shape[2] == 3:
            # A copy: environments may draw the next picture over the last one.
            return [(lambda seen: Image(np.array(seen, order="C")), path)]
        return [(_grey, path)]
    if name == STATE and not path and isinstance(space, spaces.Box) and len(space.shape) > 0:
        return [(_vector, path)]
    return [(lambda seen: Array(name, np.atleast_1d(np.array(seen, np.float32))), path)]


def _vector(seen: Any) -> Array:
    """A copy: many environments write the next observation over the last one."""
    return Array(STATE, np.array(seen, np.float32))


def _numeric(space: Any, spaces: Any) -> bool:
    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def _is_picture(shape: tuple[int, ...]) -> bool:
    """A vector of bytes is a vector; so is a strip too thin to be looked at."""
    return (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))) and min(shape[:2]) >= 8


def _grey(seen: Any) -> Image:
    plane = np.asarray(seen)
    plane = plane if plane.ndim == 3 else plane[:, :, None]
    return Image(np.repeat(plane, 3, axis=2))


def _actor(space: Any) -> Callable[[Sequence[Content], int], _Read]:
    """How to read the outputs of a turn, at most so many actions each.

    Gives the actions of each output, or None; and of each action whether it was clipped, or None if none was.
    """
    spaces = required("gymnasium.spaces", "navigation")
    if isinstance(space, spaces.Discrete):
        # Looking a number up refuses what is no number, not whole or out of range at once.
        table = {float(i): int(space.start) + i for i in range(int(space.n))}

        def indices(outputs: Sequence[Content], most: int) -> _Read:
            numbers, lengths = _numbers(outputs, 1)
            actions = [table.get(number) for number in numbers.ravel().tolist()]
            return _split(actions, [action is not None for action in actions], lengths, most), None

        return indices
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        low, high, dtype = space.low, space.high, space.dtype

        def clipped(outputs: Sequence[Content], most: int) -> _Read:
            numbers, lengths = _numbers(outputs, len(low))
            inside = np.minimum(np.maximum(numbers, low), high)
            with np.errstate(invalid="ignore", over="ignore"):
                rows = inside.astype(dtype)
            same, finite = inside == numbers, np.isfinite(numbers) & np.isfinite(rows)
            if np.count_nonzero(same & finite) == same.size:
                return _split(list(rows), [True] * len(rows), lengths, most), None
            good: Any = finite.all(axis=1)
            clips: Any = (~same).any(axis=1)
            actions = _split(list(rows), good.tolist(), lengths, most)
            return actions, _split(clips.tolist(), good.tolist(), lengths, most)

        return clipped
    raise ConfigError(f"env: the action space must be Discrete or a flat Box, got {space}")


def _numbers(outputs: Sequence[Content], columns: int) -> tuple[np.ndarray, list[int]]:
    """The commands of all outputs one below the other, and how many each has: 0 where they are malformed."""
    found = [_single(output, columns) for output in outputs]
    lengths = [0 if values is None else len(values) for values in found]
    some = [values for values in found if values is not None]
    return np.concatenate(some) if some else np.zeros((0, columns), np.float32), lengths


def _split(entries: list[Any], good: list[bool], lengths: list[int], most: int) -> list[list[Any] | None]:
    """The first entries of each output; None where it has none, or one that is not good."""
    if lengths.count(1) == len(lengths):
        return [[entry] if fine else None for entry, fine in zip(entries, good, strict=True)]
    split: list[list[Any] | None] = []
    first = 0
    for length in lengths:
        end = first + length
        split.append(entries[first : min(end, first + most)] if length and all(good[first:end]) else None)
        first = end
    return split


def _single(output: Content, columns: int) -> np.ndarray | None:
    """The one array of commands, not looked into yet."""
    if len(output) == 1:
        part = output[0]
        if not isinstance(part, Array) or part.name != COMMAND:
            return None
    else:
        named = [part for part in output if isinstance(part, Array) and part.name == COMMAND]
        if len(named) != 1:
            return None
        (part,) = named
    values = part.values
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        return None
    return values if values.shape[0] > 0 and values.shape[1] == columns else None
