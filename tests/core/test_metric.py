"""Means with standard errors that know which rows belong together."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core.metric import Estimate, Row, clustered_mean, paired_difference


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_clustered_error_equals_a_numpy_loop(seed):
    """The cluster-robust variance of a mean: residuals summed in clusters, squared, C / (C - 1), over n^2."""
    rng = np.random.default_rng(seed)
    tasks = rng.integers(0, 5, size=12)
    values = rng.normal(size=12)
    found = clustered_mean([Row(f"t{t}", float(v)) for t, v in zip(tasks, values, strict=True)])
    clusters = np.unique(tasks)
    total = sum(((values - values.mean())[tasks == c]).sum() ** 2 for c in clusters)
    expected = np.sqrt(len(clusters) / (len(clusters) - 1) * total / 12**2)
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(expected)
    assert found.n == 12


def test_with_one_row_a_task_the_error_is_the_usual_one():
    """Values 1, 2, 3, 4: sample variance 5/3, error sqrt(5/12)."""
    found = clustered_mean([Row(str(i), float(i)) for i in (1, 2, 3, 4)])
    assert found.stderr == pytest.approx(math.sqrt(5 / 12))


def test_repeating_the_rows_of_a_task_does_not_shrink_the_error():
    once = [Row("a", 0.0), Row("b", 1.0), Row("c", 1.0)]
    assert clustered_mean(once * 7).stderr == pytest.approx(clustered_mean(once).stderr)


def test_one_task_has_no_error_and_no_rows_have_no_mean():
    alone = clustered_mean([Row("a", 1.0), Row("a", 3.0)])
    assert alone.value == 2.0 and math.isnan(alone.stderr) and alone.n == 2
    nothing = clustered_mean([])
    assert math.isnan(nothing.value) and math.isnan(nothing.stderr) and nothing.n == 0


def test_paired_difference_looks_at_common_tasks_only():
    """Differences of task means: a 1 - 0.5 = 0.5, b 0 - 1 = -1; c and d are on one side only. Error |1.5| / 2."""
    before = [Row("a", 0.0), Row("a", 1.0), Row("b", 1.0), Row("c", 9.0)]
    after = [Row("b", 0.0), Row("a", 1.0), Row("d", 9.0)]
    found = paired_difference(before, after)
    assert found.value == pytest.approx(-0.25)
    assert found.stderr == pytest.approx(0.75)
    assert found.n == 2


def test_an_estimate_prints_its_error():
    assert str(Estimate(0.51234, 0.0123, 40)) == "0.5123 ± 0.012 (n=40)"
