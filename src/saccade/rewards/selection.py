"""Rewards of the next scene that a frozen generator makes of remembered tokens (``envs.datasets.histories``).

The generator takes the mean of the tokens that were chosen. An output that is no choice gets the worst score.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saccade.core.content import Array
from saccade.core.errors import ConfigError
from saccade.core.reward import SampleReward
from saccade.core.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class _OfChoice(SampleReward):
    worst: ClassVar[float]

    def score(self, trajectory: Trajectory) -> float:
        rows = next((p.values for p in trajectory.prompt.content if isinstance(p, Array) and p.name == "context"), None)
        index = None if rows is None else _chosen(trajectory, len(rows))
        return self.worst if rows is None or index is None else self.of(trajectory, rows, index)

    @abstractmethod
    def of(self, trajectory: Trajectory, rows: np.ndarray, index: np.ndarray) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Subject(_OfChoice):
    """Cosine of the new scene and the subject itself, in [-1, 1]."""

    worst: ClassVar[float] = -1.0

    def of(self, trajectory: Trajectory, rows: np.ndarray, index: np.ndarray) -> float:
        return _cosine(rows[index].mean(0), trajectory.task.target["subject"])


@dataclass(frozen=True, kw_only=True)
class Consistency(_OfChoice):
    """Cosine of the new scene and the subject as it was filmed, in [-1, 1].

    What a detector crops out of earlier frames shows the old scene too:  ``subject + around old``, normalised.
    """

    worst: ClassVar[float] = -1.0
    around: float = 0.5
    """How much of the old scene the crop shows."""

    def __post_init__(self) -> None:
        if not self.around >= 0:
            raise ConfigError(f"around must be >= 0, got {self.around}")

    def of(self, trajectory: Trajectory, rows: np.ndarray, index: np.ndarray) -> float:
        target = trajectory.task.target
        return _cosine(rows[index].mean(0), target["subject"] + self.around * target["old"])


@dataclass(frozen=True, kw_only=True)
class OldScene(_OfChoice):
    """What the new scene still shows of the old one:  max(0, cosine). A price, for negative weights."""

    worst: ClassVar[float] = 1.0

    def of(self, trajectory: Trajectory, rows: np.ndarray, index: np.ndarray) -> float:
        return max(0.0, _cosine(rows[index].mean(0), trajectory.task.target["old"]))


@dataclass(frozen=True, kw_only=True)
class Damage(_OfChoice):
    """Share of the chosen tokens that are damaged. A price, for negative weights."""

    worst: ClassVar[float] = 1.0

    def of(self, trajectory: Trajectory, rows: np.ndarray, index: np.ndarray) -> float:
        return float(np.mean([trajectory.task.target["damaged"][i] for i in index]))


def _chosen(trajectory: Trajectory, rows: int) -> np.ndarray | None:
    """Indices of the last output, or None if it is no choice."""
    found = [part.values for part in trajectory.output if isinstance(part, Array) and part.name == "chosen"]
    values = np.asarray(found[0]) if len(found) == 1 else np.zeros((0, 1))
    if values.ndim != 2 or values.shape[-1] != 1 or not len(values) or values.dtype.kind not in "fiu":
        return None
    flat = values[:, 0]
    if not np.isfinite(flat).all() or (flat != np.rint(flat)).any() or flat.min() < 0 or flat.max() >= rows:
        return None
    return flat.astype(np.int64)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(1e-8, float(np.linalg.norm(a) * np.linalg.norm(b))))
