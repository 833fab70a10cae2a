"""Environments, their picklable descriptions, and task sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from saccade.core.content import Content
from saccade.core.trajectory import Observation, Task

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Step:
    """The environment's answer to one output."""

    observation: Observation | None = None
    """Required unless the episode is over."""
    reward: float = 0.0
    terminated: bool = False
    """The task says it is over."""
    truncated: bool = False
    """A limit outside the task says so; values may bootstrap."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Notes on the turn; ``{"stop": "invalid"}`` where the environment gave up on malformed outputs."""


class Environment(ABC):
    """Synchronous; reused through ``reset``.

    A malformed output is the policy's mistake: answer it with an observation. An exception is the environment's bug and
    stops the run with the task's id.
    """

    @abstractmethod
    def reset(self, task: Task, seed: int) -> Observation | None:
        """Begin an episode. None: the task's prompt is all there is to see. Equal seeds give equal episodes."""

    @abstractmethod
    def step(self, output: Content) -> Step:
        """Take the policy's output of one turn."""

    def close(self) -> None:  # noqa: B027 (most environments hold nothing)
        """Release what the environment holds."""


class VectorEnvironment(ABC):
    """Many episodes side by side, one a lane; what a rollout drives.

    The default (``Lanes``) is a list of environments. Array programs, which advance all lanes at once, and pools of
    slow environments, which wait for several at a time, have their own.
    """

    @abstractmethod
    def reset(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[Observation | None]:
        """Begin an episode in each of ``len(tasks)`` lanes, numbered from 0. Equal seeds give equal starts."""

    @abstractmethod
    def step(self, lanes: Sequence[int], outputs: Sequence[Content]) -> list[Step]:
        """Take the policy's outputs of one turn in these lanes, each of which is still running.

        An exception carries a note that names the task (``name_task``).
        """

    def close(self) -> None:  # noqa: B027 (most environments hold nothing)
        """Release what the environment holds."""


class Lanes(VectorEnvironment):
    """One environment a lane, stepped one after the other."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self._lanes: list[Environment] = []
        self._tasks: list[Task] = []

    def reset(self, tasks: Sequence[Task], seeds: Sequence[int]) -> list[Observation | None]:
        self._tasks = list(tasks)
        self._lanes += [self._spec.make() for _ in range(len(tasks) - len(self._lanes))]
        return [lane.reset(task, seed) for lane, task, seed in zip(self._lanes, tasks, seeds, strict=False)]

    def step(self, lanes: Sequence[int], outputs: Sequence[Content]) -> list[Step]:
        steps = []
        for lane, output in zip(lanes, outputs, strict=True):
            try:
                steps.append(self._lanes[lane].step(output))
            except Exception as error:
                name_task(error, self._tasks[lane])
                raise
        return steps

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._lanes = []


def name_task(error: BaseException, task: Task) -> None:
    """Note on an exception of an environment in which task it happened."""
    error.add_note(f"in the environment, task {task.id!r}")


@dataclass(frozen=True)
class Tasks(Sequence[Task], ABC):
    """A task set: ``len`` and ``[]``, deterministic given its fields."""

    @abstractmethod
    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self.task(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of {len(self)}")
        return self.task(index % len(self))

    def __iter__(self) -> Iterator[Task]:
        return (self.task(i) for i in range(len(self)))

    @abstractmethod
    def task(self, index: int) -> Task:
        """The task with this index, ``0 <= index < len(self)``."""

    @abstractmethod
    def split(self, name: Split) -> Tasks:
        """The training or the held-out part; the two share no task."""


@dataclass(frozen=True)
class EnvironmentSpec(ABC):
    """Holds tasks and settings; builds environments in any process."""

    tasks: Tasks
    max_turns: int = 1
    """Turns after which an episode is truncated."""

    def prompt(self, task: Task) -> Content:
        """What the policy is told first; the first observation, if there is one, follows it."""
        return task.prompt

    @abstractmethod
    def make(self) -> Environment: ...

    def make_vector(self) -> VectorEnvironment:
        """What rollouts drive."""
        return Lanes(self)
