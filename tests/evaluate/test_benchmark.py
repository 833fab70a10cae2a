"""What all benchmarks share: checked rows, splits, folders, the mean of categories."""

import json
import math
from pathlib import Path

import pytest

from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Row
from saccade.evaluate.benchmark import Entry, MeanOfCategories, benchmark_classes, benchmark_named, by_category, entries
from saccade.evaluate.samples import Mean
from saccade.rewards.verify import ExactMatch


def entry(tmp_path: Path, **columns: object) -> Entry:
    return Entry(tmp_path / "rows.jsonl", 3, columns, tmp_path)


def test_mean_of_categories_weighs_categories_and_not_tasks():
    """Category a: 1, 1, 0, 0 -> mean 1/2, se^2 = 4/3 (4 * 1/4) / 16 = 1/12; b: 1, 0 -> 1/2, se^2 = 2 (2 * 1/4) / 4.

    c: 1, 1 -> 1, se 0. The mean is (1/2 + 1/2 + 1) / 3 = 2/3, its error sqrt(1/12 + 1/4) / 3; over tasks
    the mean would be 5/8.
    """
    scores = {"a": [1, 1, 0, 0], "b": [1, 0], "c": [1, 1]}
    rows = [(c, Row(f"{c}{i}", float(x))) for c, values in scores.items() for i, x in enumerate(values)]
    found = MeanOfCategories(ExactMatch()).compute(rows)
    assert found.value == pytest.approx(2 / 3)
    assert found.stderr == pytest.approx(math.sqrt(1 / 12 + 1 / 4) / 3)
    assert found.n == 8
    assert Mean(ExactMatch()).compute([row for _, row in rows]).value == pytest.approx(5 / 8)
    assert {c: len(of) for c, of in by_category(rows).items()} == {"a": 4, "b": 2, "c": 2}


def test_mean_of_no_categories_is_not_a_number():
    assert math.isnan(MeanOfCategories(ExactMatch()).compute([]).value)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (lambda e: e.text("x"), 5, "x: found 5, expected text"),
        (lambda e: e.text("x"), "  ", "x: found '  ', expected text"),
        (lambda e: e.word("x"), True, "x: found True, expected text or a number"),
        (lambda e: e.one_of("x", ("A", "B")), "C", "x: found 'C', expected one of A, B"),
        (lambda e: e.number_of("x"), math.nan, "x: found nan, expected a finite number"),
        (lambda e: e.number_of("x"), "3", "x: found '3', expected a finite number"),
        (lambda e: e.numbers("x", 4), [1, 2, 3], "x: found [1, 2, 3], expected a list of 4 finite numbers"),
        (lambda e: e.numbers("x", 2), [1, None], "x: found [1, None], expected a list of 2 finite numbers"),
        (lambda e: e.texts("x", 2), ["a"], "x: found ['a'], expected a list of 2 or more texts"),
        (lambda e: e.media("x"), "no.png", "expected a picture that exists"),
    ],
)
def test_a_wrong_field_is_one_line_with_file_row_and_field(tmp_path, read, value, expected):
    with pytest.raises(DataError) as caught:
        read(entry(tmp_path, x=value))
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'rows.jsonl'}: row 3: x: ") and told.endswith(expected) and "\n" not in told


def test_a_missing_field_names_those_that_are_there(tmp_path):
    with pytest.raises(DataError, match="row 3: x: found the fields question, answer, expected a field 'x'"):
        entry(tmp_path, question="?", answer="!").text("x")


def test_rows_that_are_no_objects_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n\n[1]\n")
    with pytest.raises(DataError, match=r"rows.jsonl: row 3: row: found \[1\], expected an object"):
        list(entries(path))
    with pytest.raises(DataError, match=r"none.json: found no such file"):
        list(entries(tmp_path / "none.json"))


def test_unknown_names_and_splits_are_refused():
    with pytest.raises(ConfigError, match="there is no benchmark 'mathvsta'; known: "):
        benchmark_named("mathvsta")
    name = next(iter(benchmark_classes()))
    with pytest.raises(ConfigError, match=r"part must be one of .* got 'nowhere'"):
        benchmark_named(name, part="nowhere")


def test_without_a_folder_an_offline_machine_is_told_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for cls in benchmark_classes().values():
        with pytest.raises(ConfigError, match="--data"):
            len(cls())


def test_benchmarks_have_no_training_part(tmp_path):
    cls = next(iter(benchmark_classes().values()))
    with pytest.raises(ConfigError, match="has no training part"):
        cls(str(tmp_path)).split("train")
