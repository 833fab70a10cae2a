"""Statistics of comparisons: intervals, paired tests of two evaluations of the same tasks, corrections, power.

Rows of one task are one cluster everywhere: they share a prompt and are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from saccade.core.errors import ConfigError
from saccade.core.metric import Estimate, Row, paired_difference
from saccade.core.random import fold_in

EXACT_TASKS = 16
"""Up to so many tasks all sign flips are tried, 2^16 at most."""
AT_ONCE = 1000
"""Random sign flips that are held in memory at a time."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion from independent rows that keeps its level where n is small or p near 0 or 1.

    ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``  with p = successes / n
    (Wilson, 1927).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ConfigError(f"wilson needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = _z(confidence)
    p = successes / n
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At p = 0 and p = 1 the bound is exact; rounding must not put it outside the interval of probabilities.
    low = 0.0 if successes == 0 else (centre - width) / scale
    high = 1.0 if successes == n else (centre + width) / scale
    return low, high


@dataclass(frozen=True)
class Discordant:
    """A task on which two evaluations differ."""

    task: str
    before: float
    """Mean over the task's rows."""
    after: float


@dataclass(frozen=True)
class PairedTest:
    """Two evaluations of the same tasks, compared task by task."""

    difference: Estimate
    """Mean over tasks of after minus before, its standard error and the number of tasks."""
    interval: tuple[float, float]
    """Student-t interval of the difference at the level that was asked for; NaN with fewer than two tasks."""
    p_t: float
    """Two-sided, of the paired t-test; NaN with fewer than two tasks."""
    p_permutation: float
    """Two-sided, of sign flips; it assumes no distribution."""
    p_mcnemar: float | None
    """Two-sided, exact; None unless every task has one row of 0 or 1 in both evaluations."""
    discordant: tuple[Discordant, ...]
    """Largest difference first, ties by name."""


def paired_test(
    before: Sequence[Row],
    after: Sequence[Row],
    *,
    confidence: float = 0.95,
    flips: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Compare two evaluations over the tasks they have in common, each task with the mean of its rows.

    With ``d_c`` the difference of task c over C tasks and ``se = std(d) / sqrt(C)``:  ``t = mean(d) / se`` with C - 1
    degrees of freedom; the permutation test counts how often random signs make ``|mean(d)|`` as large.

    Raises:
        ConfigError: the evaluations have no task in common, or scipy is not installed.
    """
    if not 0 < confidence < 1 or flips < 1:
        raise ConfigError(f"paired_test needs 0 < confidence < 1 and flips >= 1, got {confidence} and {flips}")
    old, new = _by_task(before), _by_task(after)
    tasks = sorted(old.keys() & new.keys())
    if not tasks:
        raise ConfigError("paired_test: the evaluations have no task in common")
    pairs = [Discordant(task, float(np.mean(old[task])), float(np.mean(new[task]))) for task in tasks]
    d = np.array([pair.after - pair.before for pair in pairs])
    estimate = paired_difference(before, after)
    p_t, half = _student(estimate, confidence)
    binary = all(len(rows[task]) == 1 and rows[task][0] in (0.0, 1.0) for rows in (old, new) for task in tasks)
    lost, won = int((d < 0).sum()), int((d > 0).sum())
    return PairedTest(
        difference=estimate,
        interval=(estimate.value - half, estimate.value + half),
        p_t=p_t,
        p_permutation=sign_flips(d, flips=flips, seed=seed),
        p_mcnemar=mcnemar(lost, won) if binary else None,
        discordant=tuple(
            sorted((p for p in pairs if p.after != p.before), key=lambda p: (-abs(p.after - p.before), p.task))
        ),
    )


def _student(estimate: Estimate, confidence: float) -> tuple[float, float]:
    """p-value of a mean of zero, and half the width of the mean's interval."""
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise ConfigError("paired_test needs scipy: pip install 'saccade[metrics]'") from None
    freedom = estimate.n - 1
    if freedom < 1:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * estimate.stderr
    if estimate.stderr == 0:
        return (1.0 if estimate.value == 0 else 0.0), half
    return float(2 * stats.t.sf(abs(estimate.value) / estimate.stderr, freedom)), half


def sign_flips(differences: Sequence[float] | np.ndarray, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of ``mean d = 0`` where each d is as likely to have the other sign.

    ``P(|mean(s d)| >= |mean(d)|)``  over signs s: all 2^C of them for at most 16 differences, else ``(1 + k) / (1 +
    flips)`` with k of so many random ones (Phipson and Smyth, 2010). Differences of 0 change nothing and are left out.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]
    if not len(d):
        return 1.0
    # Sums in another order differ in the last digits: equal ones must count as equal.
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    if len(d) <= EXACT_TASKS:
        signs = 1 - 2 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
        return float((np.abs(signs @ d) >= least).mean())
    generator = np.random.default_rng(fold_in(seed, "sign flips"))
    extreme = 0
    for start in range(0, flips, AT_ONCE):
        signs = generator.choice((-1.0, 1.0), (min(AT_ONCE, flips - start), len(d)))
        extreme += int((np.abs(signs @ d) >= least).sum())
    return (1 + extreme) / (1 + flips)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value that a changed task is as likely to be lost as won.

    ``min(1, 2 P(X <= min(lost, won)))``  with X binomial over lost + won tasks and probability 1/2 (McNemar, 1947).
    """
    if lost < 0 or won < 0:
        raise ConfigError(f"mcnemar counts tasks, got {lost} and {won}")
    n = lost + won
    tail = sum(math.comb(n, k) for k in range(min(lost, won) + 1))
    return float(min(1.0, 2 * tail / 2**n)) if n else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that keep the chance of any false alarm among m tests at the level they are compared with.

    ``p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j))``, in ascending order (Holm, 1979). Tests without a p-value
    (NaN) are not counted and stay NaN.
    """
    known = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted = dict(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted


def cluster_bootstrap(
    rows: Sequence[Row],
    statistic: Callable[[Float[np.ndarray, "n"]], float] = np.mean,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic of the rows' values when whole tasks are drawn again, with all their rows.

    Meant for statistics without a formula for their error; not for distances of sets, which repeated rows bias. NaN
    with fewer than two tasks.
    """
    if not 0 < confidence < 1 or draws < 1:
        raise ConfigError(f"cluster_bootstrap needs 0 < confidence < 1 and draws >= 1, got {confidence} and {draws}")
    members = [np.array(values) for values in _by_task(rows).values()]
    if len(members) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(fold_in(seed, "cluster bootstrap"))
    drawn = (generator.integers(len(members), size=len(members)) for _ in range(draws))
    found = [float(statistic(np.concatenate([members[i] for i in chosen]))) for chosen in drawn]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def tasks_needed(variance: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Tasks in which a paired comparison finds a difference:  ``(z_(1 - alpha/2) + z_power)^2 var / effect^2``.

    Args:
        variance: of the difference of one task.
        effect: the difference to be found, in the metric's units, not 0.
        alpha: level of the two-sided test.
        power: probability of finding it.
    """
    _check_power(variance, alpha, power)
    if effect == 0:
        raise ConfigError("tasks_needed: effect must not be 0")
    return math.ceil((_quantiles(alpha, power) ** 2) * variance / effect**2)


def minimum_detectable_effect(variance: float, tasks: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest mean difference that so many tasks find with probability ``power``; see ``tasks_needed``."""
    _check_power(variance, alpha, power)
    if tasks < 1:
        raise ConfigError(f"minimum_detectable_effect: tasks must be >= 1, got {tasks}")
    return _quantiles(alpha, power) * math.sqrt(variance / tasks)


def _check_power(variance: float, alpha: float, power: float) -> None:
    if not variance >= 0 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ConfigError(f"needs variance >= 0 and alpha and power in (0, 1), got {variance}, {alpha} and {power}")


def _quantiles(alpha: float, power: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be in (0, 1), got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _by_task(rows: Sequence[Row]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.task, []).append(row.value)
    return values
