"""Statistics against hand-counted numbers, and against scipy and statsmodels on the same rows."""

import itertools
import math

import numpy as np
import pytest

from saccade.core.errors import ConfigError
from saccade.core.metric import Row, clustered_mean
from saccade.evaluate.statistics import (
    Discordant,
    cluster_bootstrap,
    holm,
    mcnemar,
    minimum_detectable_effect,
    paired_test,
    sign_flips,
    tasks_needed,
    wilson,
)


def rows(*values, prefix="t"):
    return [Row(f"{prefix}{i:03d}", float(value)) for i, value in enumerate(values)]


def drawn(tasks, seed, per_task=1, shift=0.0):
    generator = np.random.default_rng(seed)
    return [
        Row(f"t{i:03d}", shift + level + generator.normal())
        for i, level in enumerate(generator.normal(size=tasks))
        for _ in range(per_task)
    ]


def test_wilson_interval_by_hand():
    """z = 1.959964, n = 10, p = 0: z^2 = 3.841459; high = (z^2 / 20 + z sqrt(z^2 / 400)) / (1 + z^2 / 10)

    = (0.192073 + 0.192073) / 1.384146 = 0.277533, and low = 0. Five of ten is symmetric about 1/2.
    """
    assert wilson(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-6))
    assert wilson(10, 10) == (pytest.approx(1 - 0.277533, abs=1e-6), 1.0)
    low, high = wilson(5, 10)
    assert low + high == pytest.approx(1.0)
    assert wilson(5, 10, confidence=0.99)[0] < low


@pytest.mark.parametrize(("successes", "n"), [(0, 4), (1, 7), (3, 9), (50, 51), (400, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_interval_is_statsmodels(successes, n, confidence):
    proportion = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
    expected = proportion.proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bad", [(-1, 4), (5, 4), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(bad):
    with pytest.raises(ConfigError, match="successes"):
        wilson(*bad)
    with pytest.raises(ConfigError, match="confidence"):
        wilson(1, 2, confidence=1.0)


@pytest.mark.parametrize("per_task", [1, 5])
def test_clustered_error_is_that_of_statsmodels(per_task):
    """Regression on a constant with cov_type="cluster".

    Its small-sample factor is C / (C - 1) * (n - 1) / (n - k) for C clusters, n rows and k columns; with the constant
    alone k = 1 and the second factor is 1, which leaves the C / (C - 1) of ``clustered_mean``.
    """
    regression = pytest.importorskip("statsmodels.regression.linear_model", reason="statsmodels is not installed")
    found = drawn(23, seed=3, per_task=per_task)[: 23 * per_task - 2]
    values = np.array([row.value for row in found])
    tasks = np.unique([row.task for row in found], return_inverse=True)[1]
    fit = regression.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": tasks})
    ours = clustered_mean(found)
    assert ours.value == pytest.approx(float(fit.params[0]), rel=1e-12)
    assert ours.stderr == pytest.approx(float(fit.bse[0]), rel=1e-10)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_test_is_that_of_scipy(confidence):
    """One row a task: a paired t-test. Several: the t-test over the tasks' means."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    before, after = drawn(40, seed=1), drawn(40, seed=1, shift=0.2)
    after = [Row(row.task, row.value + noise) for row, noise in zip(after, np.sin(range(40)), strict=True)]
    found = paired_test(before, after, confidence=confidence)
    expected = stats.ttest_rel([row.value for row in after], [row.value for row in before])
    assert found.p_t == pytest.approx(float(expected.pvalue), rel=1e-9)
    interval = expected.confidence_interval(confidence)
    assert found.interval == pytest.approx((float(interval.low), float(interval.high)), rel=1e-9)
    assert found.difference.n == 40 and found.p_mcnemar is None

    before, after = drawn(12, seed=5, per_task=4), drawn(12, seed=6, per_task=4, shift=0.5)
    mean = [np.array([row.value for row in part]).reshape(12, 4).mean(1) for part in (before, after)]
    assert paired_test(before, after).p_t == pytest.approx(float(stats.ttest_rel(mean[1], mean[0]).pvalue), rel=1e-9)


def test_only_common_tasks_are_compared_whatever_their_order():
    before = [Row("a", 1.0), Row("b", 0.0), Row("only before", 9.0)]
    after = [Row("only after", 9.0), Row("b", 1.0), Row("a", 1.0)]
    found = paired_test(before, after)
    assert found.difference.value == 0.5 and found.difference.n == 2
    assert found.discordant == (Discordant("b", 0.0, 1.0),)
    with pytest.raises(ConfigError, match="no task in common"):
        paired_test(before[:1], after[:1])


def test_discordant_tasks_come_largest_first():
    found = paired_test(rows(0, 0.5, 1, 1), rows(0.25, 0.5, 0, 0.75))
    assert [(d.task, d.after - d.before) for d in found.discordant] == [("t002", -1.0), ("t000", 0.25), ("t003", -0.25)]


def test_equal_evaluations_and_single_tasks():
    same = paired_test(rows(0.5, 1, 0), rows(0.5, 1, 0))
    assert (same.p_t, same.p_permutation, same.difference.stderr) == (1.0, 1.0, 0.0)
    shifted = paired_test(rows(0, 0, 0), rows(1, 1, 1))
    assert shifted.p_t == 0.0 and shifted.p_permutation == 0.25
    alone = paired_test(rows(0), rows(1))
    assert math.isnan(alone.p_t) and math.isnan(alone.interval[0])
    assert alone.p_permutation == 1.0


def test_sign_flips_are_counted_exactly_for_few_tasks():
    """d = (3, 2, -1): |sum| = 4. The eight sums are +-6, +-4, +-2, +-0; four of them are at least 4 away from 0."""
    assert sign_flips([3.0, 2.0, -1.0]) == 0.5
    assert sign_flips([3.0, 0.0, 2.0, -1.0]) == 0.5
    d = np.random.default_rng(0).normal(0.4, 1, size=9)
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=9)]
    assert sign_flips(d) == np.mean([total >= abs(d.sum()) - 1e-9 for total in sums])


def test_sign_flips_of_many_tasks_are_repeatable_and_near_the_t_test():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    d = np.random.default_rng(2).normal(0.25, 1, size=80)
    p = sign_flips(d, seed=4)
    assert p == sign_flips(d, seed=4)
    assert p == pytest.approx(float(stats.ttest_1samp(d, 0).pvalue), abs=0.01)
    assert sign_flips(np.full(60, 1.0)) == pytest.approx(1 / 10_001)


def test_sign_flips_of_nothing_find_nothing_as_often_as_they_should():
    """Under the null a level of 10 % alarms in 10 % of 300 cases; the standard error of that share is 1.7 %."""
    generator = np.random.default_rng(7)
    alarms = np.mean([sign_flips(generator.normal(size=12)) <= 0.1 for _ in range(300)])
    assert abs(alarms - 0.1) < 0.05


def test_mcnemar_by_hand():
    """One lost, five won: 2 (C(6, 0) + C(6, 1)) / 2^6 = 14 / 64."""
    assert mcnemar(1, 5) == 14 / 64 == mcnemar(5, 1)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    with pytest.raises(ConfigError, match="counts tasks"):
        mcnemar(-1, 2)


@pytest.mark.parametrize(("lost", "won"), [(0, 3), (2, 9), (7, 7), (40, 61)])
def test_mcnemar_is_that_of_statsmodels(lost, won):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    expected = tables.mcnemar([[11, lost], [won, 5]], exact=True).pvalue
    assert mcnemar(lost, won) == pytest.approx(float(expected), rel=1e-9)
    before = rows(*[1] * lost, *[0] * won, *[1] * 4)
    after = rows(*[0] * lost, *[1] * won, *[1] * 4)
    assert paired_test(before, after).p_mcnemar == mcnemar(lost, won)


def test_mcnemar_needs_one_row_of_0_or_1_a_task():
    assert paired_test(rows(0, 1), rows(1, 0.5)).p_mcnemar is None
    assert paired_test([*rows(0, 1), Row("t000", 0.0)], rows(1, 1)).p_mcnemar is None


def test_holm_by_hand():
    """Ascending .01, .02, .03, .2 times 4, 3, 2, 1: .04, .06, .06, .2; the third may not be below the second."""
    p = {"c": 0.03, "a": 0.01, "d": 0.2, "b": 0.02, "none": math.nan}
    adjusted = holm(p)
    assert math.isnan(adjusted.pop("none"))
    assert list(adjusted) == ["c", "a", "d", "b"]
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.2})
    assert holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


def test_holm_is_that_of_statsmodels():
    multiple = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(1).uniform(size=12) ** 2
    ours = holm({str(i): float(x) for i, x in enumerate(p)})
    assert list(ours.values()) == pytest.approx(list(multiple.multipletests(p, method="holm")[1]), rel=1e-12)


def test_cluster_bootstrap_has_the_clustered_width():
    """The interval of the mean is about 1.96 clustered errors to both sides; the naive one would be narrower."""
    found = drawn(60, seed=8, per_task=6)
    estimate = clustered_mean(found)
    low, high = cluster_bootstrap(found, seed=1)
    assert low < estimate.value < high
    assert (high - low) / (2 * 1.96 * estimate.stderr) == pytest.approx(1.0, abs=0.1)
    naive = clustered_mean([Row(str(i), row.value) for i, row in enumerate(found)]).stderr
    assert (high - low) / (2 * 1.96 * naive) > 1.3
    assert cluster_bootstrap(found, seed=1) == (low, high)


def test_cluster_bootstrap_of_another_statistic():
    found = rows(*range(41))
    low, high = cluster_bootstrap(found, np.median, draws=500)
    assert 8 < low < 20 < high < 32
    assert all(math.isnan(bound) for bound in cluster_bootstrap(rows(1.0)))


def test_power_of_a_small_gain():
    """(1.959964 + 0.841621)^2 = 7.848879; times .25 / .03^2 = 2180.2, so 2181 tasks."""
    assert tasks_needed(0.25, 0.03) == 2181
    assert minimum_detectable_effect(0.25, 2181) == pytest.approx(0.03, rel=1e-3)
    assert minimum_detectable_effect(0.25, 100, power=0.5) == pytest.approx(1.959964 * 0.05, rel=1e-6)
    with pytest.raises(ConfigError, match="effect"):
        tasks_needed(0.25, 0.0)
    with pytest.raises(ConfigError, match="variance"):
        minimum_detectable_effect(-1.0, 5)
    with pytest.raises(ConfigError, match="tasks"):
        minimum_detectable_effect(1.0, 0)


def test_the_detectable_effect_is_detected_as_often_as_promised():
    """80 % of 400 comparisons; the standard error of that share is 2 %."""
    tasks, generator = 60, np.random.default_rng(9)
    effect = minimum_detectable_effect(1.0, tasks)
    found = generator.normal(effect, 1, size=(400, tasks))
    z = found.mean(1) / (found.std(1, ddof=1) / math.sqrt(tasks))
    assert abs((np.abs(z) > 2.0).mean() - 0.8) < 0.06
