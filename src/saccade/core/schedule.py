"""Numbers that change with progress. A schedule is a factor: it multiplies the number it stands beside."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from saccade.core.errors import ConfigError
from saccade.core.state import Progress


@dataclass(frozen=True)
class Schedule(ABC):
    @abstractmethod
    def __call__(self, progress: Progress) -> float:
        """The factor at this point of the run."""


@dataclass(frozen=True)
class Constant(Schedule):
    """1 throughout."""

    def __call__(self, progress: Progress) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """From ``start`` to ``end`` in a straight line, after a linear rise over the first ``warmup`` steps."""

    start: float = 1.0
    end: float = 0.0
    warmup: int = 0
    """Steps over which the factor first rises from 0."""

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigError(f"warmup must be >= 0, got {self.warmup}")

    def __call__(self, progress: Progress) -> float:
        factor = self.start + (self.end - self.start) * progress.fraction
        return factor * _rise(progress, self.warmup)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to ``end`` along half a cosine, after a linear rise over the first ``warmup`` steps."""

    end: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigError(f"warmup must be >= 0, got {self.warmup}")

    def __call__(self, progress: Progress) -> float:
        factor = self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * progress.fraction))
        return factor * _rise(progress, self.warmup)


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """1 after a linear rise over the first ``warmup`` steps; in a straight line to 0 over the last share of the run."""

    decay: float = 0.2
    """Share of all steps in which the factor falls."""
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be in (0, 1], got {self.decay}")
        if self.warmup < 0:
            raise ConfigError(f"warmup must be >= 0, got {self.warmup}")

    def __call__(self, progress: Progress) -> float:
        return min(1.0, (1 - progress.fraction) / self.decay) * _rise(progress, self.warmup)


@dataclass(frozen=True)
class After(Schedule):
    """0 for the first ``steps`` steps, then 1."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be >= 0, got {self.steps}")

    def __call__(self, progress: Progress) -> float:
        return float(progress.step >= self.steps)


def _rise(progress: Progress, warmup: int) -> float:
    return min(1.0, (progress.step + 1) / warmup) if warmup else 1.0
