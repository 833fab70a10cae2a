"""LIBERO's demonstrations and recorded outcomes."""

import json

import numpy as np
import pytest
from benchmark_cases import answered, column, error_of, score_of

from saccade.core.content import Array
from saccade.core.errors import DataError
from saccade.evaluate.benchmarks.libero import CAMERA, Libero, RecordedSuccess

h5py = pytest.importorskip("h5py")
NAME = "KITCHEN_SCENE1_put_the_bowl_on_plate_1"


@pytest.fixture
def benchmark(tmp_path):
    Libero.write_miniature(tmp_path, 6)
    return Libero(data=str(tmp_path))


def change(folder, edit, suite="libero_spatial"):
    path = folder / suite / f"{NAME}_demo.hdf5"
    with h5py.File(path, "r+") as file:
        edit(file["data"])
    return path


def test_pictures_are_turned_upright(benchmark):
    """The files begin with the bottom row: the table, in rows 0 to 7 of the file, is at the bottom of the picture."""
    pixels = benchmark[0].prompt[0].pixels
    assert (pixels[-8:] == (200, 180, 140)).all() and (pixels[:8] == 90).all()


def test_every_demonstration_begins_a_task(benchmark):
    assert [task.id for task in benchmark] == [f"{NAME}/demo_{k}" for k in range(4)] + [
        f"KITCHEN_SCENE5_put_the_bowl_on_plate_5/demo_{k}" for k in range(2)
    ]
    assert benchmark[0].prompt[1].text == "put the bowl on plate 1"


def test_demonstrations_are_in_the_order_of_their_numbers(benchmark, tmp_path):
    change(tmp_path, lambda data: data.move("demo_1", "demo_10"))
    assert [task.info["demo"] for task in Libero(data=str(tmp_path))][:4] == ["demo_0", "demo_2", "demo_3", "demo_10"]


def test_instructions_come_from_the_problem_its_definition_or_the_file_s_name(tmp_path):
    Libero.write_miniature(tmp_path, 1)

    def told(suite):
        return Libero(data=str(tmp_path), part=suite)[0].prompt[1].text

    letters = json.dumps({"language_instruction": list("close it")})
    change(tmp_path, lambda data: data.attrs.update(problem_info=letters), "libero_spatial")
    assert told("libero_spatial") == "close it"
    change(tmp_path, lambda data: data.attrs.update(problem_info='{"language_instruction": "\\"open\\""}'), "libero_10")
    assert told("libero_10") == "open"
    words = json.dumps({"language_instruction": ["wipe", "the", "table"]})
    change(tmp_path, lambda data: data.attrs.update(problem_info=words), "libero_object")
    assert told("libero_object") == "wipe the table"

    def define(data):
        del data.attrs["problem_info"]
        data.attrs["bddl_file_content"] = "(define (problem x)\n (:language Turn on the stove)\n)"

    change(tmp_path, define, "libero_goal")
    assert told("libero_goal") == "Turn on the stove"

    def strip(data):
        del data.attrs["problem_info"], data.attrs["bddl_file_content"]

    change(tmp_path, strip, "libero_90")
    assert told("libero_90") == "put the bowl on plate 1"


def test_success_is_what_the_record_says(benchmark):
    for output, expected in (
        ('{"success": true}', 1), ('{"success": false}', 0), ('{"success": 1}', 0), ("done", 0), ("", 0),
        (Array("success", np.array([1.0])), 1), (Array("success", np.array([0.0])), 0),
        (Array("success", np.array([1.0, 1.0])), 0), (Array("actions", np.ones(1)), 0),
    ):  # fmt: skip
        assert score_of(benchmark.rule, answered(benchmark, 0, output)) == expected, output
    noted = answered(benchmark, 0, '{"success": true}')
    noted.turns[-1].info = {"success": False}
    assert score_of(RecordedSuccess(), noted) == 0, "the environment's note comes first"
    assert RecordedSuccess().score(answered(benchmark, 0, "done")).note == "no record of success"


def test_the_suite_s_rate_and_the_mean_of_its_tasks(benchmark):
    """The first task has four starts, all reached, the second two, none: 4/6, and (1 + 0) / 2."""
    groups = [[answered(benchmark, i, json.dumps({"success": i < 4}))] for i in range(6)]
    assert column(benchmark, "success", groups).value == pytest.approx(4 / 6)
    assert column(benchmark, "mean_of_tasks", groups).value == 0.5


@pytest.mark.parametrize(
    ("edit", "row", "field"),
    [
        (lambda data: data["demo_1"].__delitem__("actions"), 2, "demo_1/actions"),
        (lambda data: data["demo_2/obs"].__delitem__(CAMERA), 3, f"demo_2/obs/{CAMERA}"),
        (lambda data: data.attrs.update(problem_info="{"), 1, "problem_info"),
        (lambda data: data.attrs.update(problem_info='{"language_instruction": 3}'), 1, "problem_info"),
    ],
)
def test_wrong_files_are_named(benchmark, tmp_path, edit, row, field):
    path = change(tmp_path, edit)
    error_of(lambda: len(benchmark), path, row, field)


def test_wrong_shapes_are_named(benchmark, tmp_path):
    def shorten(data):
        del data["demo_0/actions"]
        data["demo_0/actions"] = np.zeros((2, 7))

    path = change(tmp_path, shorten)
    assert "3 pictures, expected 2" in error_of(lambda: len(benchmark), path, 1, f"demo_0/obs/{CAMERA}")

    def bend(data):
        del data["demo_0/actions"]
        data["demo_0/actions"] = np.zeros((3, 6))

    change(tmp_path, bend)
    assert "float64 [3, 6]" in error_of(lambda: len(benchmark), path, 1, "demo_0/actions")
    path.write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="expected HDF5 data"):
        len(benchmark)
