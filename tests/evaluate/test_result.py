"""What evaluations leave on disk, and which of them may be compared."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.result import Entry, Number, Result, refuse_unequal, result_folder, results_of

FID = {"metric": "FrechetDistance", "extractor": "Inception", "extractor hash": "ab12", "n": 64, "reference": "cd34"}


def result(**changes) -> Result:
    entries = [Entry(Row(f"t{i}", float(x)), "odd" if i % 2 else "even") for i, x in enumerate((1, 0, 1, 1))]
    entries.append(Entry(Row("t4", math.nan)))
    base = Result(
        suite="held-out",
        of={"run": "runs/grpo-1", "name": "grpo", "step": 12, "weights": "ff"},
        seed=3,
        tasks=5,
        n=1,
        sampling={"max_actions": 8, "temperature": 1.0, "top_p": 1.0, "deterministic": True},
        metrics={
            "right": Number("sample", Estimate(0.75, 0.25, 5)),
            "fid": Number("set", Estimate(12.5, math.nan, 64), FID),
        },
        rows={"right": entries},
        seconds=1.5,
        rollouts_per_second=3.25,
        tokens_per_second=None,
        versions={"saccade": "0.1"},
        commit="abc",
        settings={"part": "val"},
    )
    return replace(base, **changes)


def test_a_result_is_read_as_it_was_written(tmp_path):
    written = result(against={"tests": {"right": {"p_t": math.nan, "difference": 0.5}}})
    written.save(tmp_path / "a")
    read = Result.load(tmp_path / "a")
    read.save(tmp_path / "b")
    for name in ("report.json", "rows.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (read.of, read.seed, read.tasks, read.n) == (written.of, 3, 5, 1)
    assert read.rows["right"][:4] == written.rows["right"][:4] and math.isnan(read.values("right")[4].value)
    assert read.metrics["right"] == written.metrics["right"]
    assert math.isnan(read.metrics["fid"].estimate.stderr) and read.metrics["fid"].identity == FID


def test_numbers_that_are_not_finite_are_null_in_the_files(tmp_path):
    result().save(tmp_path)
    plain = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert plain["metrics"]["fid"] == {"tier": "set", "value": 12.5, "stderr": None, "n": 64, "identity": FID}
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines[1] == {"metric": "right", "task": "t1", "category": "odd", "value": 0.0}
    assert lines[4] == {"metric": "right", "task": "t4", "category": "", "value": None}


def test_categories_are_means_with_errors_clustered_by_task():
    """Even tasks have 1 and 1, odd ones 0 and 1; the task without category is in neither."""
    found = result().categories["right"]
    assert list(found) == ["even", "odd"]
    assert found["even"] == Estimate(1.0, 0.0, 2)
    assert found["odd"] == clustered_mean([Row("t1", 0.0), Row("t3", 1.0)])
    assert "fid" not in result().categories


def test_results_of_a_run_are_found_by_step(tmp_path):
    for step in (120, 0, 40):
        result().save(result_folder(tmp_path, "held-out", step))
    (tmp_path / "evaluations" / "held-out" / "step-000200").mkdir()
    assert list(results_of(tmp_path)) == [0, 40, 120]
    assert results_of(tmp_path, "mmstar") == {}


def test_equal_settings_can_be_compared_though_weights_differ():
    refuse_unequal(result(), result(of={"run": "runs/grpo-2", "weights": "ee"}, seconds=9.0))


SAMPLED = {"max_actions": 8, "temperature": 0.5, "top_p": 1.0, "deterministic": False}


def numbers(**changes) -> dict[str, Number]:
    return {"fid": replace(result().metrics["fid"], **changes)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"suite": "mmstar"}, 'suite is "held-out" and "mmstar"'),
        ({"n": 4}, "n is 1 and 4"),
        ({"seed": 4}, "seed is 3 and 4"),
        ({"sampling": SAMPLED}, 'sampling is {"max_actions": 8, "temperature": 1.0'),
        ({"metrics": {"other": Number("sample", Estimate(0.0, 0.0, 1))}}, "no metric in common"),
        ({"rows": {"right": [Entry(Row("elsewhere", 1.0))]}}, "no task in common"),
        ({"metrics": numbers(identity={**FID, "extractor": "CLIP"})}, 'extractor is "Inception" and "CLIP"'),
        ({"metrics": numbers(identity={**FID, "reference": "00"})}, 'reference is "cd34" and "00"'),
        ({"metrics": numbers(identity=None)}, 'metric is "FrechetDistance" and null'),
        ({"metrics": numbers(estimate=Estimate(12.5, 0.1, 32))}, "it is of 64 and of 32 samples"),
    ],
)  # fmt: skip
def test_unequal_evaluations_are_refused_in_one_line(changes, told):
    with pytest.raises(ConfigError, match="cannot be compared") as caught:
        refuse_unequal(result(), result(**changes))
    assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_how_given_outputs_were_drawn_is_not_compared():
    refuse_unequal(result(), result(sampling={}, seed=0))
    with pytest.raises(ConfigError, match="n is 1 and 2"):
        refuse_unequal(result(), result(sampling={}, n=2))


def damage(folder: Path, case: str) -> None:
    report = folder / "report.json"
    if case == "absent":
        report.unlink()
    elif case == "half":
        report.write_text(report.read_text()[:100])
    elif case == "version":
        report.write_text(report.read_text().replace('"version": 1', '"version": 7'))
    elif case == "tier":
        report.write_text(report.read_text().replace('"tier": "set"', '"tier": "sets"'))
    elif case == "field":
        report.write_text(report.read_text().replace('"tasks"', '"tusks"'))
    elif case == "list":
        report.write_text("[1]")
    elif case == "rows":
        (folder / "rows.jsonl").write_text('{"metric": "right", "task": "t0"}\n')
    else:
        (folder / "rows.jsonl").unlink()


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("absent", "holds no evaluation: there is no report.json"),
        ("half", "report.json is damaged"),
        ("version", "report.json: found version 7, expected 1"),
        ("tier", "tier must be one of set, sample, state, got 'sets'"),
        ("field", "report.json is damaged: KeyError: 'tasks'"),
        ("list", "report.json: found version 'list', expected 1"),
        ("rows", "rows.jsonl, line 1: KeyError: 'value'"),
        ("no rows", "there is a report.json but no rows.jsonl"),
    ],
)
def test_a_damaged_result_is_one_line(tmp_path, case, told):
    result().save(tmp_path)
    damage(tmp_path, case)
    with pytest.raises(DataError) as caught:
        Result.load(tmp_path)
    assert told in str(caught.value) and "\n" not in str(caught.value)
