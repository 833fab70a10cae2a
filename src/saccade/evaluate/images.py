"""Metrics of generated pictures: sets against sets (Fréchet distances, diversity), and a proxy against its gold."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from saccade.core.content import Image, images_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Metric, Models, Row
from saccade.core.reward import Reward
from saccade.core.trajectory import Group
from saccade.evaluate.samples import totals
from saccade.rewards.answer import column
from saccade.rewards.features import Features, Inception
from saccade.rewards.pareto import hypervolume

BLOCKS = 10
"""Parts of the sets that are left out in turn to estimate the standard error."""


@dataclass(frozen=True, eq=False)
class FeatureRow:
    """Features of one generated picture."""

    task: str
    features: Float[np.ndarray, "D"]


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Fréchet distance of two sets of pictures in the features of a named network; 0 for equal sets.

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` with means m and (unbiased) covariances S. It is biased by
    about 1 / n, so both sets have exactly ``n`` pictures, and values of different n or features say nothing about each
    other. The standard error is a jackknife over ten blocks of both sets.

    Raises:
        ConfigError: another number of generated pictures than n, or fewer than n reference pictures.
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "set"

    features: Features
    reference: Tasks
    """Gold pictures of the first n tasks are what generated ones are compared with."""
    n: int = 256
    """Pictures in each set."""

    def __post_init__(self) -> None:
        if self.n < 2 * BLOCKS:
            raise ConfigError(f"n must be >= {2 * BLOCKS}, got {self.n}")

    @property
    def name(self) -> str:
        """What the distance may be called: it is ``FID`` in Inception features only."""
        kind = "FID" if isinstance(self.features, Inception) else f"Frechet distance [{self.features.name}]"
        return f"{kind}, n={self.n}"

    def rows(self, groups: Sequence[Group], models: Models) -> list[FeatureRow]:
        shown = [(t.task.id, t.image) for group in groups for t in group if t.image is not None]
        if not shown:
            return []
        features = self.features([image for _, image in shown])
        return [FeatureRow(task, row) for (task, _), row in zip(shown, features, strict=True)]

    def compute(self, rows: Sequence[FeatureRow]) -> Estimate:
        if len(rows) != self.n:
            raise ConfigError(
                f"{self.name} compares {self.n} with {self.n} pictures, got {len(rows)}: "
                "distances of different numbers cannot be compared; set n to evaluation.limit * evaluation.n"
            )
        generated = np.stack([row.features for row in rows])
        real = _reference(self.features, self.reference, self.n)
        value = frechet(real, generated)
        left_out = np.arange(self.n) * BLOCKS // self.n
        parts = np.array([frechet(real[left_out != b], generated[left_out != b]) for b in range(BLOCKS)])
        stderr = math.sqrt((BLOCKS - 1) / BLOCKS * float(((parts - parts.mean()) ** 2).sum()))
        return Estimate(value, stderr, self.n)


def fid(reference: Tasks, n: int = 256, batch: int = 16) -> FrechetDistance:
    """FID proper (arXiv:1706.08500): the Fréchet distance in the features of the original Inception-v3."""
    return FrechetDistance(Inception(batch), reference, n)


@lru_cache(maxsize=8)
def _reference(features: Features, tasks: Tasks, n: int) -> np.ndarray:
    if len(tasks) < n:
        raise ConfigError(f"reference must have at least n = {n} tasks, {type(tasks).__name__} has {len(tasks)}")
    images: list[Image] = []
    for task in tasks[:n]:
        shown = images_of(task.gold[-1]) if task.gold else []
        if not shown:
            raise DataError(f"task {task.id!r}: a reference set is made of gold pictures, this task has none")
        images.append(shown[-1])
    return features(images)


def frechet(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two sets of as many rows.

    With fewer rows than columns the covariances are singular, and the square root's trace is had without them:
    ``tr (S_a S_b)^(1/2) = |A B^T|_* / (N - 1)``, the sum of singular values, for the centred rows A and B.

    Raises:
        ConfigError: the sets differ in size, or have fewer than two rows.
    """
    if a.shape != b.shape or len(a) < 2:
        raise ConfigError(f"a Frechet distance compares two sets of one size >= 2, got {len(a)} and {len(b)}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = a - a.mean(0), b - b.mean(0)
    freedom = len(a) - 1
    spread = ((a**2).sum() + (b**2).sum()) / freedom
    if len(a) > a.shape[1]:
        # A = Q R with Q's columns orthonormal: A and R have one covariance, and R has fewer rows.
        a, b = np.asarray(np.linalg.qr(a, mode="r")), np.asarray(np.linalg.qr(b, mode="r"))
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum() / freedom
    return float(shift + spread - 2 * common)


@dataclass(frozen=True)
class Diversity(Metric):
    """Mean distance of two pictures for the same prompt, one row a task; 0 where a policy has collapsed.

    Groups with fewer than two pictures of one size have no row: ``evaluation.n`` must be at least 2.
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "set"

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for group in groups:
            images = [one.image for one in group if one.image is not None]
            found = self.distances(images)
            if found:
                rows.append(Row(group[0].task.id, math.fsum(found) / len(found)))
        return rows

    @abstractmethod
    def distances(self, images: Sequence[Image]) -> list[float]:
        """The distance of each pair."""


@dataclass(frozen=True)
class PixelDiversity(Diversity):
    """Root mean square difference of pixels, channels in [0, 1]; about 0.4 for independent noise."""

    def distances(self, images: Sequence[Image]) -> list[float]:
        pixels = [image.pixels.astype(np.float64) / 255 for image in images]
        pairs = [(a, b) for a, b in combinations(pixels, 2) if a.shape == b.shape]
        return [math.sqrt(float(((a - b) ** 2).mean())) for a, b in pairs]


@dataclass(frozen=True)
class FeatureDiversity(Diversity):
    """Cosine distance, in [0, 2], in the features of a named network."""

    features: Features

    def distances(self, images: Sequence[Image]) -> list[float]:
        if len(images) < 2:
            return []
        rows = self.features(images)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return [float(1 - a @ b) for a, b in combinations(rows, 2)]


@dataclass(frozen=True)
class ProxyGap(Metric):
    """Mean of proxy minus gold, both rewards without their weights: its growth is over-optimisation of the proxy.

    The two must be on one scale to be read at a single point; the difference to the start needs no scale.
    """

    proxy: Reward
    gold: Reward

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        both = zip(groups, totals(self.proxy, groups), totals(self.gold, groups), strict=True)
        for group, proxy, gold in both:
            for a, b in zip(proxy, gold, strict=True):
                if a is not None and b is not None:
                    rows.append(Row(group[0].task.id, a - b))
        return rows


@dataclass(frozen=True)
class RankAgreement(Metric):
    """Share of the pairs inside a group that proxy and gold put in the same order; a tie of the proxy counts half.

    0.5 is chance. Pairs with equal gold, and groups without others, have no row. One row a task.
    """

    proxy: Reward
    gold: Reward
    tolerance: float = 1e-6
    """Golds this close are equal."""

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError(f"tolerance must be >= 0, got {self.tolerance}")

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        both = zip(groups, totals(self.proxy, groups), totals(self.gold, groups), strict=True)
        for group, proxy, gold in both:
            known = [(a, b) for a, b in zip(proxy, gold, strict=True) if a is not None and b is not None]
            agree = [
                0.5 + 0.5 * float(np.sign((p[0] - q[0]) * (p[1] - q[1])))
                for p, q in combinations(known, 2)
                if abs(p[1] - q[1]) > self.tolerance
            ]
            if agree:
                rows.append(Row(group[0].task.id, math.fsum(agree) / len(agree)))
        return rows


@dataclass(frozen=True)
class Hypervolume(Metric):
    """Mean over groups of the area above a reference point that the group's front of two rewards covers."""

    tier: ClassVar[Literal["set", "sample", "state"]] = "set"

    first: Reward
    second: Reward
    reference: tuple[float, float] = (0.0, 0.0)
    """Values of the two rewards, without weights, that are worth nothing."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        both = zip(groups, totals(self.first, groups), totals(self.second, groups), strict=True)
        for group, first, second in both:
            known = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
            if known:
                rows.append(Row(group[0].task.id, hypervolume(np.array(known), self.reference)))
        return rows


@dataclass(frozen=True)
class OfKind(Metric):
    """Another metric over the tasks of one kind only:  ``task.info[field] == kind``."""

    metric: Metric
    kind: str
    field: str = "kind"

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.needs_reference

    def rows(self, groups: Sequence[Group], models: Models) -> list[Any]:
        return self.metric.rows([group for group in groups if column(group[0].task, self.field) == self.kind], models)

    def compute(self, rows: Sequence[Any]) -> Estimate:
        return self.metric.compute(rows)
