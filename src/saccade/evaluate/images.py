"""Metrics of groups of pictures: their diversity, and a proxy against its gold."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np

from saccade.core.content import Image
from saccade.core.errors import ConfigError
from saccade.core.metric import Estimate, Metric, Models, Row
from saccade.core.reward import Reward
from saccade.core.trajectory import Group
from saccade.evaluate.samples import totals
from saccade.evaluate.sets import FrechetDistance as FrechetDistance  # run folders name it here
from saccade.rewards.answer import column
from saccade.rewards.features import Features
from saccade.rewards.pareto import hypervolume


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
    def tier(self) -> Literal["set", "sample", "state"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.tier

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.metric.needs_reference

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """What two values must have in common to be compared; None: nothing."""
        inner = getattr(self.metric, "identity", None)
        return None if inner is None else {**inner, "tasks": f"{self.field} = {self.kind}"}

    def rows(self, groups: Sequence[Group], models: Models) -> list[Any]:
        return self.metric.rows([group for group in groups if column(group[0].task, self.field) == self.kind], models)

    def compute(self, rows: Sequence[Any]) -> Estimate:
        return self.metric.compute(rows)
