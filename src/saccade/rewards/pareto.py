"""Several rewards at once: standardised inside the group, and selection of the members that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from saccade.core.errors import ConfigError
from saccade.core.reward import Reward, Scope, Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.combine import scores


@dataclass(frozen=True)
class Standardised(Reward):
    """Every term standardised inside the group, then added with its weight:

    ``S_i = sum_k w_k (R_ik - mean_g R_k) / (std_g R_k + eps)``

    A term's weight, not its scale, decides how much it says. Members that a term cannot score are unscored and take no
    part in the statistics. ``advantages.group.PerReward`` does the same to separate rewards of a recipe; here the sum
    can be part of other rewards.
    """

    scope: ClassVar[Scope] = "group"

    terms: tuple[Reward, ...]
    eps: float = 1e-6
    """Added to the standard deviation (of the population)."""

    def __post_init__(self) -> None:
        _check(self.terms, self.eps)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        values, known = _columns(self.terms, trajectories)
        total = _standardised(values, known, self.eps) @ np.array([term.weight for term in self.terms])
        return [Score(float(x)) if ok else Score(None) for x, ok in zip(total, known, strict=True)]


@dataclass(frozen=True)
class ParetoFront(Reward):
    """``Standardised`` for the members that no other member dominates; what dominated ones get is a field.

    i dominates j if ``w_k R_ik >= w_k R_jk`` for all k and ``>`` for one. Parrot (arXiv:2401.05675) learns from the
    front only and lets the others have no gradient: None leaves them unscored, which takes them out of training, so
    pair it with an advantage that does not centre
    the outcome again, such as ``advantages.temporal.DiscountedReturn``.
    """

    scope: ClassVar[Scope] = "group"

    terms: tuple[Reward, ...]
    dominated: float | None = None
    """Score of dominated members; None: unscored."""
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check(self.terms, self.eps)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        values, known = _columns(self.terms, trajectories)
        weights = np.array([term.weight for term in self.terms])
        total = _standardised(values, known, self.eps) @ weights
        front = np.zeros(len(known), dtype=bool)
        front[known] = non_dominated(values[known] * weights)
        found: list[Score] = []
        for x, ok, first in zip(total, known, front, strict=True):
            if not ok:
                found.append(Score(None))
            else:
                found.append(Score(float(x)) if first else Score(self.dominated, note="dominated"))
        return found


def non_dominated(values: Float[np.ndarray, "N K"]) -> Bool[np.ndarray, "N"]:
    """Which rows no other row dominates, more being better. Equal rows do not dominate each other."""
    at_least = (values[:, None] >= values[None]).all(2)
    above = (values[:, None] > values[None]).any(2)
    return np.logical_not(np.any(at_least & above, axis=0))


def hypervolume(values: Float[np.ndarray, "N 2"], reference: tuple[float, float]) -> float:
    """Area that the rows dominate above a reference point: how far, and how widely, a front of two rewards reaches."""
    area, reached = 0.0, reference[1]
    for x, y in sorted(map(tuple, values), reverse=True):
        if x > reference[0] and y > reached:
            area += (x - reference[0]) * (y - reached)
            reached = y
    return float(area)


def _columns(terms: Sequence[Reward], trajectories: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """``[N, K]`` totals without weights, 0 where unknown, and which rows are known in all terms."""
    columns: list[list[float | None]] = []
    for term in terms:
        columns.append([score.total for score in scores(replace(term, weight=1.0), trajectories)])
    known = np.array([all(total is not None for total in row) for row in zip(*columns, strict=True)], dtype=bool)
    values = np.array([[total or 0.0 for total in column] for column in columns], dtype=np.float64).T
    return values.reshape(len(trajectories), len(terms)), known


def _standardised(values: np.ndarray, known: np.ndarray, eps: float) -> np.ndarray:
    if not known.any():
        return np.zeros_like(values)
    mean, std = values[known].mean(0), values[known].std(0)
    return (values - mean) / (std + eps)


def _check(terms: tuple[Reward, ...], eps: float) -> None:
    if not terms or not all(isinstance(term, Reward) for term in terms):
        raise ConfigError(f"terms must be one or more rewards, got {terms!r}")
    if not eps > 0:
        raise ConfigError(f"eps must be > 0, got {eps}")
