"""Orders over tasks: which task is drawn at which position of the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.state import TaskHistory
from saccade.core.trajectory import Task


@dataclass(frozen=True)
class Order(ABC):
    @abstractmethod
    def draw(self, tasks: Tasks, position: int, count: int, seed: int, history: TaskHistory) -> list[Task]:
        """The tasks at ``position .. position + count`` of an endless sequence fixed by ``seed`` (and the history)."""


@dataclass(frozen=True)
class Shuffle(Order):
    """A new permutation of all tasks every epoch."""

    def draw(self, tasks: Tasks, position: int, count: int, seed: int, history: TaskHistory) -> list[Task]:
        size = len(tasks)
        if size == 0:
            raise DataError("the task set is empty")
        epochs = range(position // size, (position + count - 1) // size + 1)
        orders = {epoch: numpy_generator(seed, "order", epoch).permutation(size) for epoch in epochs}
        return [tasks[int(orders[i // size][i % size])] for i in range(position, position + count)]


@dataclass(frozen=True)
class Sequential(Order):
    """The tasks in their own order, again and again."""

    def draw(self, tasks: Tasks, position: int, count: int, seed: int, history: TaskHistory) -> list[Task]:
        if len(tasks) == 0:
            raise DataError("the task set is empty")
        return [tasks[i % len(tasks)] for i in range(position, position + count)]


@dataclass(frozen=True)
class Blocks(Order):
    """Runs of ``size`` neighbouring tasks, the runs in a new permutation every epoch, their tasks in order.

    Rewards that compare different tasks of one record need them in one batch: ``train.groups`` is a multiple of
    ``size``, and so is the number of tasks.
    """

    size: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"order.size must be >= 1, got {self.size}")

    def draw(self, tasks: Tasks, position: int, count: int, seed: int, history: TaskHistory) -> list[Task]:
        if len(tasks) == 0 or len(tasks) % self.size:
            raise DataError(f"order.size {self.size} must divide the number of tasks, {len(tasks)}, which is not 0")
        blocks = len(tasks) // self.size
        epochs = range(position // len(tasks), (position + count - 1) // len(tasks) + 1)
        orders = {epoch: numpy_generator(seed, "blocks", epoch).permutation(blocks) for epoch in epochs}
        drawn = []
        for i in range(position, position + count):
            epoch, place = divmod(i, len(tasks))
            block, member = divmod(place, self.size)
            drawn.append(tasks[int(orders[epoch][block]) * self.size + member])
        return drawn


@dataclass(frozen=True)
class Adaptive(Order):
    """Prefers tasks whose past mean outcome is near ``target``: neither solved nor hopeless.

    Of ``pool * count`` shuffled candidates the ``count`` nearest to the target are drawn; unseen tasks count as at the
    target, so that new tasks come first.
    """

    target: float = 0.5
    """Outcome (weighted sum of rewards) that is neither too easy nor too hard."""
    pool: int = 4

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ConfigError(f"order.pool must be >= 1, got {self.pool}")

    def draw(self, tasks: Tasks, position: int, count: int, seed: int, history: TaskHistory) -> list[Task]:
        candidates = Shuffle().draw(tasks, position * self.pool, count * self.pool, seed, history)
        distance = np.array([abs(history.mean.get(task.id, self.target) - self.target) for task in candidates])
        return _pick(candidates, np.argsort(distance, kind="stable")[:count])


def _pick(tasks: Sequence[Task], index: np.ndarray) -> list[Task]:
    return [tasks[int(i)] for i in index]
