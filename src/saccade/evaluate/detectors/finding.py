"""Verdicts and the arithmetic behind them: what a detector returns, trends with intervals, levels at both ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from saccade.core.errors import ConfigError
from saccade.evaluate.detectors.history import History, Moment

Verdict = Literal["pass", "warn", "fail", "unknown"]
"""Nothing was found; look at it; the run must not be trusted; what is needed to tell is missing."""

LEAST_STEPS = 8
"""Training steps below which nothing is said of a trend."""
DRAWS = 1000
"""Resamples of a trend."""


@dataclass(frozen=True)
class Seen:
    """A rollout that shows what a finding says."""

    moment: Moment
    task: str
    index: int
    """Place among the task's rollouts."""
    note: str = ""


@dataclass(frozen=True)
class Finding:
    name: str
    verdict: Verdict
    summary: str
    """One sentence with the numbers that decided; "unknown" says what is missing."""
    evidence: tuple[tuple[str, float | str], ...] = ()
    """Numbers by what they are."""
    rollouts: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class Detector(ABC):
    """A pure description: one history in, one finding out. Thresholds are its fields."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def __call__(self, history: History) -> Finding: ...

    def unknown(self, missing: str) -> Finding:
        return Finding(self.name, "unknown", missing)


@dataclass(frozen=True)
class Trend:
    """How much a number changes along a straight line through a window of the run, with an interval."""

    key: str
    change: float
    """Slope times the length of the window, in the number's units."""
    low: float
    high: float
    points: int

    @property
    def rises(self) -> bool:
        return self.low > 0

    @property
    def falls(self) -> bool:
        return self.high < 0

    def __str__(self) -> str:
        return f"{self.key} {self.change:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"


def trend(history: History, key: str, *, since: float = 0.0, confidence: float = 0.99) -> Trend | None:
    """The trend of a key from ``since`` (share of the run, in [0, 1)) to its end; None with too few points.

    Evaluations are few and carry their standard errors: those are drawn anew. Training steps are many and depend on
    their neighbours: blocks of about sqrt(n) consecutive points are drawn again.
    """
    if not 0 <= since < 1 or not 0 < confidence < 1:
        raise ConfigError(f"trend needs 0 <= since < 1 and 0 < confidence < 1, got {since} and {confidence}")
    steps, values = history.series(key)
    ends = [record["step"] for record in history.records]
    if not ends:
        return None
    inside = steps >= min(ends) + since * (max(ends) - min(ends))
    steps, values = steps[inside], values[inside]
    evaluated = key.startswith("eval/")
    if len(steps) < (2 if evaluated else LEAST_STEPS):
        return None
    generator = np.random.default_rng(0)
    if evaluated:
        errors = dict(zip(*history.series(f"{key}/stderr"), strict=True))
        spread = np.array([errors.get(step, 0.0) for step in steps])
        slopes = _slope(steps, values + spread * generator.standard_normal((DRAWS, len(steps))))
    else:
        rows = _blocks(len(steps), generator)
        slopes = _slope(steps[rows], values[rows])
    length = steps[-1] - steps[0]
    low, high = np.quantile(slopes * length, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Trend(key, float(_slope(steps, values[None])[0] * length), float(low), float(high), len(steps))


def _slope(x: Float[np.ndarray, "*B n"], y: Float[np.ndarray, "B n"]) -> Float[np.ndarray, "B"]:
    """Least squares, one a row; 0 where all x are equal."""
    apart = x - x.mean(-1, keepdims=True)
    square = (apart**2).sum(-1)
    return (apart * (y - y.mean(-1, keepdims=True))).sum(-1) / np.where(square > 0, square, 1.0)


def _blocks(n: int, generator: np.random.Generator) -> np.ndarray:
    size = max(1, round(math.sqrt(n)))
    starts = generator.integers(0, n - size + 1, size=(DRAWS, math.ceil(n / size)))
    return (starts[:, :, None] + np.arange(size)).reshape(DRAWS, -1)[:, :n]


def ends(history: History, key: str, share: float = 0.2) -> tuple[float, float] | None:
    """Mean of a key over the first and over the last ``share`` of its points; None with fewer than LEAST_STEPS."""
    values = history.series(key)[1]
    if len(values) < LEAST_STEPS:
        return None
    count = max(2, round(share * len(values)))
    return float(values[:count].mean()), float(values[-count:].mean())


def better(history: History, confidence: float = 0.99) -> list[Trend]:
    """Gold numbers that rise over the whole run."""
    found = [trend(history, key, confidence=confidence) for key in history.gold]
    return [one for one in found if one is not None and one.rises]


def first_known(history: History, keys: Sequence[str]) -> str | None:
    """The first of these keys that enough training steps have."""
    return next((key for key in keys if len(history.series(key)[0]) >= LEAST_STEPS), None)


def keys_ending(history: History, ending: str) -> list[str]:
    """Keys of objectives' own statistics, such as ``kl/kl``."""
    known = dict.fromkeys(key for record in history.training for key in record)
    return [key for key in known if key.endswith(ending) and not key.startswith(("loss/", "eval/", "reward/"))]
