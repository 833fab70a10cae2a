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
