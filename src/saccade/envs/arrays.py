"""Environments written as array programs: state, step and drawing of N lanes at once, as structures of arrays.

An array program keeps its state in a mapping from names to arrays whose first axis is the lane, and moves all lanes by
a few array operations. It can be driven in three ways that run the same code:

- ``VectorEnvironment``: tasks and outputs of a policy in, ``Step``s out; what rollouts use.
- ``ArrayLane``: one lane as an ordinary ``Environment``.
- ``reset_arrays`` and ``step_arrays``: seeds and actions as arrays in, observations, rewards and ends as arrays out,
  without an object per lane; for batched policies and benchmarks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from saccade.core.content import Array, Content, Image
from saccade.core.environment import Environment, Step, VectorEnvironment, name_task
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Observation, Task

Sees = Literal["pixels", "state", "both"]
SEES = ("pixels", "state", "both")
State = dict[str, np.ndarray]
"""Arrays ``[N, ...]`` by name."""
Index = slice | np.ndarray
"""Which lanes: all, or int64 numbers of lanes, each at most once."""

# As arrays, which numpy need not convert at each operation.
_GOLDEN, _FIRST, _SECOND, _11, _27, _30, _31 = (
    np.array(number, np.uint64)
    for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 11, 27, 30, 31)
)
_ALL = slice(None)


class ArrayEnvironment(VectorEnvironment):
    """Lanes whose state is a structure of arrays.

    What an episode shows depends on two numbers of a lane, its seed and its variant (which of a few kinds of episode
    it is), and on nothing else: tasks carry both. The seed that a rollout passes to ``reset`` therefore has no effect,
    and members of a group always start alike.
    """

    world: Any
    """Settings that decide what arrays look like; tasks carry them as ``info["world"]``."""
    sees: Sees
    limit: int
    """Actions after which an episode is truncated."""
    keep: int | None = None
    """``Observation.keep`` of every observation."""

    def __init__(self) -> None:
        self.state: State = {}
        self.steps = np.zeros(0, np.int64)
        """Actions taken in the episode of each lane, int64 ``[N]``."""
        self._tasks: list[Task] = []

    @abstractmethod
    def start(self, seeds: np.ndarray, variants: np.ndarray) -> State:
        """The state at the start of n episodes, from uint64 ``[n]`` seeds and int64 ``[n]`` variants."""

    @abstractmethod
    def variants(self, seeds: np.ndarray) -> np.ndarray:
        """The variants that belong to these seeds where no task says them: int64 ``[n]``."""

    @abstractmethod
    def variant(self, task: Task) -> int:
        """The variant of a task."""

    @abstractmethod
    def advance(self, lanes: Index, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take one action in each of n lanes: rewards float32 ``[n]`` and whether the episode terminates, bool."""

    @abstractmethod
    def pictures(self, lanes: Index) -> np.ndarray:
        """What the lanes look like: uint8 ``[n, H, W, 3]``, an array of its own."""

    @abstractmethod
    def states(self, lanes: Index) -> np.ndarray:
        """What the lanes measure: float32 ``[n, S]``, an array of its own."""

    @abstractmethod
    def read(self, output: Content, lane: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The actions ``[k, A]`` that an output asks for, and notes on it, ``valid`` among them.

        With k = 0 the lane does not move: it is answered with what it shows now.
        """

    @abstractmethod
    def notes(self, lane: int) -> dict[str, Any]:
        """What ``Step.info`` says of the lane after a step, ``success`` among it."""

    # --- arrays ---

    def reset_arrays(self, seeds: np.ndarray, lanes: np.ndarray | None = None) -> np.ndarray:
        """Begin episodes in lanes ``0 .. len(seeds) - 1``, or anew in the given lanes; gives their observations.

        Args:
            seeds: whole numbers ``[n]``, not negative.
            lanes: int64 ``[n]`` numbers of lanes that exist already, each at most once.
        """
        seeds = np.asarray(seeds, np.uint64)
        self._begin(seeds, self.variants(seeds), lanes)
        return self.observe(_ALL if lanes is None else lanes)

    def step_arrays(
        self, actions: np.ndarray, lanes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One action ``[n, A]`` in every lane or the given lanes.

        Lanes whose episode is over must be reset before they are stepped again.

        Returns:
            Observations ``[n, ...]``, rewards float32 ``[n]``, terminated bool ``[n]``, truncated bool ``[n]``.
        """
        where = _ALL if lanes is None else lanes
        rewards, terminated, truncated = self._advance(where, actions)
        return self.observe(where), rewards, terminated, truncated

    def observe(self, lanes: Index) -> np.ndarray:
        """Pictures, or states if ``sees`` is ``"state"``: arrays of their own."""
        return self.states(lanes) if self.sees == "state" else self.pictures(lanes)

    def _begin(self, seeds: np.ndarray, variants: np.ndarray, lanes: np.ndarray | None) -> None:
        fresh = self.start(seeds, variants)
        if lanes is None:
            self.state, self.steps = fresh, np.zeros(len(seeds), np.int64)
            return
        for name, values in fresh.items():
            self.state[name][lanes] = values
        self.steps[lanes] = 0

    def _advance(self, lanes: Index, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.steps[lanes] += 1
        rewards, terminated = self.advance(lanes, actions)
        return rewards, terminated, (self.steps[lanes] >= self.limit) > terminated

    # --- content ---

    def reset(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[Observation | None]:
        for task in tasks:
            if task.info.get("world") != self.world:
                raise ConfigError(
                    f"task {task.id!r} must come from a task set with the settings of the environment's own, "
                    f"{self.world}, got {task.info.get('world')}"
                )
        self._tasks = list(tasks)
        made = np.array([task.info["seed"] for task in tasks], np.uint64)
        self._begin(made, np.array([self.variant(task) for task in tasks], np.int64), None)
        return list(self._observations(np.arange(len(tasks))))

    def step(self, lanes: Sequence[int], outputs: Sequence[Content]) -> list[Step]:
        where = np.asarray(lanes, np.int64)
        n = len(where)
        chunks: list[np.ndarray] = []
        said: list[dict[str, Any]] = []
        for lane, output in zip(lanes, outputs, strict=True):
            try:
                chunk, notes = self.read(output, lane)
            except Exception as error:
                name_task(error, self._tasks[lane])
                raise
            chunks.append(chunk)
            said.append(notes)
        lengths = np.array([len(chunk) for chunk in chunks])
        rewards = np.zeros(n)
        terminated, truncated, done = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, np.int64)
        for k in range(int(lengths.max(initial=0))):
            now = np.flatnonzero((lengths > k) & ~terminated & ~truncated)
            if not now.size:
                break
            actions = np.stack([chunks[i][k] for i in now.tolist()])
            paid, terminated[now], truncated[now] = self._advance(where[now], actions)
            rewards[now] += paid
            done[now] += 1
        shown = self._observations(where)
        return [
            Step(
                shown[i],
                float(rewards[i]),
                bool(terminated[i]),
                bool(truncated[i]),
                {**said[i], **self.notes(lane), "steps": int(done[i])},
            )
            for i, lane in enumerate(lanes)
        ]

    def _observations(self, lanes: np.ndarray) -> list[Observation]:
        parts: list[list[Image | Array]] = [[] for _ in lanes]
        if self.sees != "state":
            for mine, pixels in zip(parts, self.pictures(lanes), strict=True):
                # A copy: a view would keep the pictures of all lanes alive.
                mine.append(Image(pixels.copy()))
        if self.sees != "pixels":
            for mine, values in zip(parts, self.states(lanes), strict=True):
                mine.append(Array("state", values.copy()))
        return [Observation(tuple(mine), self.keep) for mine in parts]


P = TypeVar("P", bound=ArrayEnvironment)


class ArrayLane(Environment, Generic[P]):
    """One lane of an array program."""

    def __init__(self, program: P) -> None:
        self.program = program

    def reset(self, task: Task, seed: int) -> Observation | None:
        return self.program.reset([task], [seed])[0]

    def step(self, output: Content) -> Step:
        return self.program.step([0], [output])[0]


def uniform(seeds: np.ndarray, count: int, stream: int = 0) -> np.ndarray:
    """Random numbers in [0, 1) that depend on each seed, their place and the stream only: float64 ``[n, count]``.

    SplitMix64 (Steele, Lea, Flood 2014) used as a function of a counter: what a lane draws does not depend on how many
    lanes are drawn with it, and no generator per lane is made.

    Args:
        seeds: uint64 ``[n]``.
        count: numbers per seed, at most 2**20.
        stream: numbers of different streams are unrelated.
    """
    mixed = _mix(_mix(seeds + _GOLDEN)[:, None] + _counters(count, stream))
    mixed >>= _11
    return mixed * 2.0**-53


@lru_cache(maxsize=64)
def _counters(count: int, stream: int) -> np.ndarray:
    counters = (np.arange(1, count + 1, dtype=np.uint64) + (np.uint64(stream) << np.uint64(20))) * _GOLDEN
    counters.flags.writeable = False
    return counters


def _mix(z: np.ndarray) -> np.ndarray:
    """In place."""
    z ^= z >> _30
    z *= _FIRST
    z ^= z >> _27
    z *= _SECOND
    z ^= z >> _31
    return z


def orders(numbers: np.ndarray) -> np.ndarray:
    """Permutations of the last axis, one for each row of random numbers: int64, same shape."""
    return np.argsort(numbers, axis=-1)


def paste(pictures: np.ndarray, lanes: np.ndarray, x: np.ndarray, y: np.ndarray, stamps: np.ndarray) -> None:
    """Put M opaque stamps onto pictures, in place.

    Args:
        pictures: uint8 ``[N, H, W, 3]``, contiguous.
        lanes: int64 ``[M]``: which picture each stamp goes to.
        x: int64 ``[M]``, left edges, ``0 <= x <= W - w``.
        y: int64 ``[M]``, upper edges, ``0 <= y <= H - h``.
        stamps: uint8 ``[M, h, w, 3]``.
    """
    _windows(pictures, *stamps.shape[1:3])[lanes, y, x] = stamps


def stencil(
    pictures: np.ndarray, lanes: np.ndarray, x: np.ndarray, y: np.ndarray, kept: np.ndarray, stamps: np.ndarray
) -> None:
    """Put M stamps with holes onto pictures, in place; no two on the same picture may overlap.

    Args:
        pictures: uint8 ``[N, H, W, 3]``, contiguous.
        lanes: int64 ``[M]``: which picture each stamp goes to.
        x: int64 ``[M]``, left edges, ``0 <= x <= W - w``.
        y: int64 ``[M]``, upper edges, ``0 <= y <= H - h``.
        kept: uint8 ``[M, h, w, 3]``: 255 in the holes, where the picture stays, else 0.
        stamps: uint8 ``[M, h, w, 3]``: the colours, 0 in the holes.
    """
    windows = _windows(pictures, *kept.shape[1:3])
    under = windows[lanes, y, x]
    under &= kept
    under |= stamps
    windows[lanes, y, x] = under


def _windows(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every window of this size as a view, ``[N, H - h + 1, W - w + 1, h, w, 3]``: one assignment copies M blocks."""
    n, high, wide, _ = pictures.shape
    lane, down, right, channel = pictures.strides
    shape = (n, high - height + 1, wide - width + 1, height, width, 3)
    # What numpy.lib.stride_tricks does, for a twentieth of its time; numpy checks the bounds.
    return np.ndarray(shape, np.uint8, pictures, 0, (lane, down, right, down, right, channel))


def check_sees(name: str, sees: str) -> None:
    """Raise ``ConfigError`` unless it is one of ``SEES``."""
    if sees not in SEES:
        raise ConfigError(f"{name} must be {', '.join(SEES[:-1])} or {SEES[-1]}, got {sees!r}")
