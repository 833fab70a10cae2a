"""R2R-CE's metrics on paths walked by hand, with the derivations, and its files."""

import gzip
import json
import math

import numpy as np
import pytest
from benchmark_cases import column, error_of, on_task, score_of
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.content import Array
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Task
from saccade.evaluate.benchmarks.r2r_ce import (
    CLS,
    NDTW,
    R2RCE,
    SDTW,
    Goal,
    NavigationError,
    OracleSuccess,
    Success,
    SuccessByLength,
    TrajectoryLength,
    coverage_by_length,
    dtw,
    ndtw,
    path_length,
    read_walk,
)


def points(*xs):
    """Positions on a straight line, one metre apart in x."""
    return np.array([[float(x), 0.0, 0.0] for x in xs])


GOAL = Goal(np.array([10.0, 0.0, 0.0]), 10.0, points(0, 5, 10))


def walked(path, stop=True, **more):
    task = Task("x", (), GOAL)
    return on_task(task, json.dumps({"path": np.asarray(path).tolist(), "stop": stop, **more}))


def test_success_is_a_stop_less_than_three_metres_away():
    for last, stop, expected in ((7.1, True, 1), (7.0, True, 0), (12.9, True, 1), (10, False, 0), (5, True, 0)):
        assert score_of(Success(), walked(points(0, last), stop)) == expected, (last, stop)


def test_oracle_success_takes_any_position_and_needs_no_stop():
    past = points(0, 9, 20)
    assert score_of(OracleSuccess(), walked(past, False)) == 1 and score_of(Success(), walked(past)) == 0
    assert score_of(OracleSuccess(), walked(points(0, 7))) == 0


def test_spl_divides_by_the_walked_length_if_it_is_longer_than_the_shortest_path():
    """To 10 straight: 10 / 10. To 12 and back to 10: 10 / 14. To 8 only: success, but max(10, 8) = 10: 1. Failed: 0."""
    assert score_of(SuccessByLength(), walked(points(0, 10))) == 1
    assert score_of(SuccessByLength(), walked(points(0, 12, 10))) == pytest.approx(10 / 14)
    assert score_of(SuccessByLength(), walked(points(0, 8))) == 1
    assert score_of(SuccessByLength(), walked(points(0, 5))) == 0


def test_errors_and_lengths_are_in_metres():
    assert score_of(NavigationError(), walked(points(0, 4))) == 6
    assert score_of(TrajectoryLength(), walked(points(0, 3, 1))) == 5
    nowhere = on_task(Task("x", (), GOAL), "I went there.")
    assert score_of(NavigationError(), nowhere) == 10 and score_of(Success(), nowhere) == 0
    assert path_length(np.array([[0, 0, 0], [3, 0, 4.0]])) == 5


def test_alignment_costs_are_the_cheapest_monotone_ones():
    """0 4 10 against 0 5 10: 0 + 1 + 0 = 1; 0 10 against it: the 5 goes to either end: 5; order matters: 10 5 0.

    10-0, 5-5, 0-10 cost 10 + 0 + 10.
    """
    assert dtw(points(0, 4, 10), GOAL.reference) == 1
    assert dtw(points(0, 10), GOAL.reference) == 5
    assert dtw(points(10, 5, 0), GOAL.reference) == 20
    assert dtw(points(3), GOAL.reference) == 3 + 2 + 7


def test_ndtw_is_normalised_by_the_reference_s_positions_and_three_metres():
    """exp(-1 / (3 * 3)); standing still adds nothing."""
    assert ndtw(points(0, 4, 10), GOAL.reference) == pytest.approx(math.exp(-1 / 9))
    assert ndtw(points(0, 4, 4, 4, 10), GOAL.reference) == pytest.approx(math.exp(-1 / 9))
    assert score_of(NDTW(), walked(points(0, 4, 10))) == pytest.approx(math.exp(-1 / 9))
    assert score_of(SDTW(), walked(points(0, 4, 10))) == pytest.approx(math.exp(-1 / 9))
    assert score_of(SDTW(), walked(points(0, 4, 10), False)) == 0


def test_cls_is_coverage_times_the_fit_of_the_length():
    """0 to 5: nearest distances 0, 0, 5: PC = (1 + 1 + e^(-5/3)) / 3; EPL = 10 PC; LS = EPL / (EPL + |EPL - 5|)."""
    coverage = (2 + math.exp(-5 / 3)) / 3
    expected = 10 * coverage
    value = coverage * expected / (expected + abs(expected - 5))
    assert coverage_by_length(points(0, 5), GOAL.reference) == pytest.approx(value)
    assert score_of(CLS(), walked(points(0, 5))) == pytest.approx(value)
    assert coverage_by_length(GOAL.reference, GOAL.reference) == 1
    assert coverage_by_length(points(2), points(2)) == 1


def slow_dtw(a, b):
    table = {(-1, -1): 0.0}
    for i in range(len(a)):
        for j in range(len(b)):
            before = min(table.get(key, math.inf) for key in ((i - 1, j), (i, j - 1), (i - 1, j - 1)))
            table[i, j] = before + math.dist(a[i], b[j])
    return table[len(a) - 1, len(b) - 1]


@given(st.integers(0, 2**32 - 1))
def test_alignment_agrees_with_the_recursion_and_scores_are_in_the_unit_interval(seed):
    rng = np.random.default_rng(seed)
    path, reference = (rng.normal(size=(rng.integers(1, 9), 3)) * 5 for _ in range(2))
    assert dtw(path, reference) == pytest.approx(slow_dtw(path.tolist(), reference.tolist()))
    assert 0 <= ndtw(path, reference) <= 1 and 0 <= coverage_by_length(path, reference) <= 1


# --- which distance -------------------------------------------------------------------------------------------------


def test_recorded_geodesic_distances_count_only_where_they_are_asked_for():
    """2 m as the crow flies from the goal, 9 m along the floor: the straight line calls it success, the floor not."""
    one = walked(points(0, 8), distances=[10.0, 9.0])
    assert score_of(Success(), one) == 1 and score_of(Success(distance="recorded"), one) == 0
    assert score_of(NavigationError(distance="recorded"), one) == 9
    with pytest.raises(DataError, match="distances: found none, expected the simulator's geodesic distances"):
        Success(distance="recorded").score(walked(points(0, 8)))
    with pytest.raises(ConfigError, match="distance must be straight or recorded"):
        R2RCE(distance="geodesic")
    assert "straight-line distances" in Success().score(one).note
    assert "geodesic distances" in Success(distance="recorded").score(one).note


# --- outputs --------------------------------------------------------------------------------------------------------


def test_paths_are_also_read_from_arrays():
    one = on_task(Task("x", (), GOAL), Array("path", points(0, 9)), Array("distances", np.array([10.0, 1.0])))
    walk = read_walk(one)
    assert walk.stopped and walk.path.shape == (2, 3) and walk.distances.tolist() == [10, 1]
    assert score_of(Success(distance="recorded"), one) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"path": []}', '{"path": [[1, 2]]}', '{"path": [[1, 2, 3], [1]]}',
        '{"path": [[1, 2, "x"]]}',
        '{"path": [[1, 2, NaN]]}', '{"path": [[1, 2, 1e9]]}', '{"path": [[1, 2, 3]], "stop": 1}',
        '{"path": [[1, 2, 3]], "distances": [1, 2]}', '{"path": [[1, 2, 3]], "distances": [-1]}', '{"path": 3}',
    ],
)  # fmt: skip
def test_what_is_no_path_is_none(text):
    one = on_task(Task("x", (), GOAL), text)
    assert read_walk(one) is None and score_of(Success(), one) == 0


# --- files ----------------------------------------------------------------------------------------------------------


def rewrite(path, change):
    with gzip.open(path, "rt") as file:
        whole = json.load(file)
    change(whole)
    with gzip.open(path, "wt") as file:
        json.dump(whole, file)


def test_episodes_and_their_demonstrations_are_read(tmp_path):
    R2RCE.write_miniature(tmp_path, 3)
    benchmark = R2RCE(data=str(tmp_path), part="val_seen")
    task = benchmark[1]
    assert task.prompt[0].text.startswith("Walk 3 steps") and task.info["category"] == "house1"
    assert task.target.geodesic == 8 and task.target.reference.shape == (18, 3)
    groups = [[on_task(benchmark[i], *benchmark[i].gold[0])] for i in range(3)]
    for name in ("success", "spl", "oracle_success", "ndtw", "sdtw", "cls"):
        assert column(benchmark, name, groups).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"goals": []}, "goals"), ({"goals": [{"position": [1, 2]}]}, "position"),
        ({"info": {"geodesic_distance": None}}, "geodesic_distance"), ({"info": 3}, "info"),
        ({"instruction": {"instruction_text": ""}}, "instruction_text"), ({"start_position": "x"}, "start_position"),
        ({"info": {"geodesic_distance": -1}}, "info.geodesic_distance"),
    ],
)  # fmt: skip
def test_wrong_episodes_are_named(tmp_path, change, field):
    R2RCE.write_miniature(tmp_path, 3)
    path = tmp_path / "val_unseen" / "val_unseen.json.gz"
    rewrite(path, lambda whole: whole["episodes"][1].update(change))
    error_of(lambda: len(R2RCE(data=str(tmp_path))), path, 2, field)


def test_missing_demonstrations_are_named(tmp_path):
    R2RCE.write_miniature(tmp_path, 3)
    path = tmp_path / "val_unseen" / "val_unseen_gt.json.gz"
    rewrite(path, lambda whole: whole["3"].update(locations=[[1, 2]]))
    error_of(lambda: len(R2RCE(data=str(tmp_path))), path, 3, "3.locations")
    rewrite(path, lambda whole: whole.pop("3"))
    error_of(lambda: len(R2RCE(data=str(tmp_path))), path, 3, "3")
