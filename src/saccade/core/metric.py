"""Metrics: numbers about a set of evaluation rollouts, each with its standard error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from saccade.core.policy import Policy
from saccade.core.trajectory import Group


@dataclass(frozen=True)
class Estimate:
    value: float
    stderr: float
    """Standard error, clustered by task; NaN with fewer than two tasks."""
    n: int
    """Rows averaged."""

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.stderr:.2g} (n={self.n})"


@dataclass(frozen=True)
class Row:
    """One number about one trajectory. Rows of several processes are merged by concatenation."""

    task: str
    value: float


@dataclass(frozen=True, eq=False)
class Models:
    """What state-level metrics look into."""

    policy: Policy
    reference: Policy | None = None


def clustered_mean(rows: Sequence[Row]) -> Estimate:
    """Mean over rows with a standard error that treats rows of one task as one cluster.

    ``se^2 = C / (C - 1) * sum_c (sum_{i in c} (x_i - mean))^2 / n^2`` over C tasks and n rows.
    """
    n = len(rows)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(row.value for row in rows) / n
    residuals: dict[str, float] = {}
    for row in rows:
        residuals[row.task] = residuals.get(row.task, 0.0) + row.value - mean
    clusters = len(residuals)
    if clusters < 2:
        return Estimate(mean, math.nan, n)
    variance = clusters / (clusters - 1) * math.fsum(r * r for r in residuals.values()) / n**2
    return Estimate(mean, math.sqrt(variance), n)


def paired_difference(before: Sequence[Row], after: Sequence[Row]) -> Estimate:
    """Mean over common tasks of (mean after - mean before), with the standard error of that paired difference."""
    old, new = _task_means(before), _task_means(after)
    return clustered_mean([Row(task, new[task] - old[task]) for task in sorted(old.keys() & new.keys())])


def _task_means(rows: Sequence[Row]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.task, []).append(row.value)
    return {task: math.fsum(v) / len(v) for task, v in values.items()}


@dataclass(frozen=True)
class Metric(ABC):
    """A pure description: ``rows`` looks at groups (any number at a time), ``compute`` reduces all rows."""

    tier: ClassVar[Literal["set", "sample", "state"]] = "sample"
    needs_reference: ClassVar[bool] = False
    """Whether ``rows`` looks into ``models.reference``."""

    @abstractmethod
    def rows(self, groups: Sequence[Group], models: Models) -> list[Any]:
        """What is kept of these groups; lists of several calls are concatenated."""

    def compute(self, rows: Sequence[Any]) -> Estimate:
        return clustered_mean(rows)
