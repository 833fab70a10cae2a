"""The throughput benchmark: both sides play the same task, and ratios follow from what was measured."""

import importlib
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="the benchmark compares with gymnasium")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULT = BENCHMARKS / "environments.json"


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def script():
    return importlib.import_module("environments")


@pytest.mark.parametrize("task", ["screens", "table"])
@pytest.mark.parametrize("sees", ["state", "pixels"])
def test_array_programs_and_ordinary_environments_are_the_same_task(script, task, sees):
    """Equal observations, rewards and ends over episodes of both outcomes, through resets."""
    found = script.check_equal(task, sees, lanes=3, steps=70)
    assert 0 < found["successes"] < found["episodes"]


def test_a_difference_is_found(script):
    with pytest.raises(script.Failure, match="here differ"):
        script._same(np.zeros(3), np.array([0, 0, 1e-7]), "here")
    with pytest.raises(script.Failure, match="here differ"):
        script._same(np.zeros(3), np.zeros(2), "here")


def test_ratios_follow_from_the_medians(script):
    row = script.race("table", "state", lanes=2, kinds=("arrays", "sync"), rounds=3, steps=2)
    for kind in ("arrays", "sync"):
        assert len(row["rates"][kind]["cpu"]) == 3
        assert row["medians"][kind]["cpu"] == statistics.median(row["rates"][kind]["cpu"])
    assert row["ratio_sync_cpu"] == row["medians"]["arrays"]["cpu"] / row["medians"]["sync"]["cpu"]
    low, high = row["range_sync_cpu"]
    assert low <= high and "ratio_async_wall" not in row


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--lanes", "0"], "argument --lanes: must be a whole number >= 1, got 0"),
        (["--rounds", "x"], "argument --rounds: must be a whole number >= 1, got x"),
        (["--json", "/nowhere/out.json"], "--json: there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(script, capsys, arguments, reason):
    assert script.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"environments: {reason}\n"


@pytest.mark.skipif(not RESULT.exists(), reason="no result is committed")
def test_the_committed_ratios_follow_from_the_committed_rates():
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found.keys() >= {"rows", "adapter", "equal", "rules", "machine", "software", "command", "commit"}
    for row in found["rows"]:
        medians = {kind: statistics.median(rates["cpu"]) for kind, rates in row["rates"].items()}
        assert row["ratio_sync_cpu"] == pytest.approx(medians["arrays"] / medians["sync"])
    for row in found["adapter"]:
        assert row["over"] == pytest.approx(row["cpu_us_per_step"]["adapter"] / row["cpu_us_per_step"]["sync"])
