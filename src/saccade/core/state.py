"""The state of a run besides the feed: weights, optimiser, step, generators, per-task history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from saccade.core.policy import Critic, Policy


@dataclass(frozen=True)
class Progress:
    """Where a run stands; read only."""

    step: int = 0
    """Optimiser batches finished."""
    total: int = 1
    """Optimiser batches planned."""
    last: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the previous step, by the names of ``metrics.jsonl``."""

    @property
    def fraction(self) -> float:
        """0 at the first step, 1 at the end."""
        return min(1.0, self.step / max(1, self.total))


@dataclass
class TaskHistory:
    """Running reward statistics of each task id: how often it was tried, mean outcome, last outcomes."""

    count: dict[str, int] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    recent: dict[str, list[float]] = field(default_factory=dict)
    """The last ``kept`` outcomes, newest last."""
    decay: float = 0.5
    """Weight of the newest group mean once a task was seen before."""
    kept: int = 64

    def update(self, outcomes: Iterable[tuple[str, Sequence[float]]]) -> None:
        """Add one group's outcomes for each (task id, outcomes)."""
        for task, paid in outcomes:
            outcome = sum(paid) / len(paid)
            seen = self.count.get(task, 0)
            old = self.mean.get(task, outcome)
            self.mean[task] = outcome if seen == 0 else (1 - self.decay) * old + self.decay * outcome
            self.count[task] = seen + 1
            self.recent[task] = [*self.recent.get(task, []), *paid][-self.kept :]

    def state_dict(self) -> dict[str, Any]:
        recent = {task: list(paid) for task, paid in self.recent.items()}
        return {"count": dict(self.count), "mean": dict(self.mean), "recent": recent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = {task: int(n) for task, n in state["count"].items()}
        self.mean = dict(state["mean"])
        self.recent = {task: list(paid) for task, paid in state["recent"].items()}


@dataclass
class TrainState:
    """All that changes while a recipe trains, except the feed's position; saved whole."""

    policy: Policy
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    """CPU generator that shuffles minibatches."""
    seed: int
    total: int
    """Steps planned."""
    step: int = 0
    reference: Policy | None = None
    critic: Critic | None = None
    history: TaskHistory = field(default_factory=TaskHistory)
    last: dict[str, float] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """Version of the weights; rises with every optimiser batch."""
        return self.step

    @property
    def progress(self) -> Progress:
        return Progress(self.step, self.total, self.last)
