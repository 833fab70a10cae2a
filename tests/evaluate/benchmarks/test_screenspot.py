"""ScreenSpot and its kin: box conventions, points in all forms and units, text and icons, and what is not there."""

import json

import pyarrow as arrow
import pytest
from benchmark_cases import answered, column, error_of, score_of
from PIL import Image as Picture
from pyarrow import parquet

from saccade.core.content import text_of
from saccade.core.errors import ConfigError
from saccade.evaluate.benchmarks.screenspot import ScreenSpot, ScreenSpotPro, ScreenSpotV2
from saccade.evaluate.rules.pointing import as_shares, in_units, refuses, said_point

SHARES = (0.1, 0.2, 0.3, 0.6)
"""The same box in every convention: of a picture 200 x 100, x 20 to 60 and y 20 to 60."""


def picture(folder, name="screen.png"):
    folder.mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", (200, 100), (9, 9, 9)).save(folder / name)
    return folder / name


def in_json(folder, cls, box, **change):
    picture(folder / cls.pictures)
    row = {
        "img_filename": "screen.png", "bbox": box, "instruction": "close", "data_type": "icon", "data_source": "ios",
    }  # fmt: skip
    path = folder / cls.json_files.format("mobile")
    path.write_text(json.dumps([{**row, **change}]))
    return cls(data=str(folder)), path


def in_parquet(folder, box, **change):
    row = {
        "file_name": "screen.png", "bbox": box, "instruction": "close", "data_type": "icon", "data_source": "shop",
        "image": {"bytes": picture(folder).read_bytes(), "path": "screen.png"},
    }  # fmt: skip
    (folder / "data").mkdir()
    path = folder / "data" / "test-00000-of-00001.parquet"
    parquet.write_table(arrow.Table.from_pylist([{**row, **change}]), path)
    return ScreenSpot(data=str(folder)), path


def in_pro(folder, box, **change):
    picture(folder / "images" / "word_macos")
    (folder / "annotations").mkdir(exist_ok=True)
    row = {
        "id": "word_macos_0", "img_filename": "word_macos/screen.png", "bbox": box, "img_size": [200, 100],
        "instruction": "close", "instruction_cn": "关闭", "application": "word", "platform": "macos", "group": "Office",
        "ui_type": "icon",
    }  # fmt: skip
    path = folder / "annotations" / "word_macos.json"
    path.write_text(json.dumps([{**row, **change}]))
    return ScreenSpotPro(data=str(folder)), path


def test_every_convention_of_boxes_becomes_corners_in_shares_and_keeps_the_original(tmp_path):
    """x y width height 20 20 40 40 in pixels; corners .1 .2 .3 .6 in shares; corners 20 20 60 60 in pixels."""
    found = {
        "json": in_json(tmp_path / "a", ScreenSpot, [20, 20, 40, 40])[0],
        "v2": in_json(tmp_path / "b", ScreenSpotV2, [20, 20, 40, 40])[0],
        "parquet": in_parquet(tmp_path / "c", list(SHARES))[0],
        "pro": in_pro(tmp_path / "d", [20, 20, 60, 60])[0],
    }
    for benchmark in found.values():
        (task,) = benchmark
        assert task.target["box"] == pytest.approx(SHARES)
        # The middle is at 40, 40 of the pixels.
        assert json.loads(text_of(task.gold[0]))["point"] == pytest.approx([40, 40])
        assert score_of(benchmark.rule, answered(benchmark, 0, "click 40 40")) == 1
        assert score_of(benchmark.rule, answered(benchmark, 0, "click 61 40")) == 0
    assert found["json"][0].info["bbox"] == (20, 20, 40, 40)
    assert found["json"][0].info["convention"] == "x y width height in pixels"
    assert found["parquet"][0].info["convention"] == "x1 y1 x2 y2 in shares"
    assert found["pro"][0].info["bbox"] == (20, 20, 60, 60)


def test_a_box_of_another_convention_is_found_out(tmp_path):
    """Corners 120 40 180 90 taken for x y width height have their middle at 210, 85: beside the picture."""
    benchmark, path = in_json(tmp_path / "a", ScreenSpot, [120, 40, 180, 90])
    message = error_of(lambda: len(benchmark), path, 1, "bbox")
    assert "[120, 40, 180, 90] in a picture of 200 x 100" in message and "x y width height" in message
    benchmark, path = in_parquet(tmp_path / "b", [20.0, 20.0, 40.0, 40.0])
    assert "x1 y1 x2 y2 in shares" in error_of(lambda: len(benchmark), path, 1, "bbox")
    benchmark, path = in_pro(tmp_path / "c", [120, 40, 40, 30])  # width and height
    assert "x1 y1 x2 y2 in pixels" in error_of(lambda: len(benchmark), path, 1, "bbox")


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("click 40 40", (40, 40)),
        ('{"action": "click", "point": [40, 41]}', (40, 41)),
        ('<think>the [1, 2]?</think><answer>{"action": "click", "coordinate": [40, 42]}</answer>', (40, 42)),
        ('<tool_call>{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [7, 8]}}</tool_call>',
         (7, 8)),
        ('```json\n[{"bbox_2d": [20, 20, 60, 60], "label": "close"}]\n```', (40, 40)),
        ("<box>(20,20),(60,60)</box>", (40, 40)),
        ("The button is at (40, 43).", (40, 43)),
        ("[[40.5, 44.25]]", (40.5, 44.25)),
        ("40", None),
        ("nowhere", None),
        ("", None),
        ("1 2 3", None),
    ],
)  # fmt: skip
def test_points_are_read_in_the_forms_that_models_write(text, point):
    assert said_point(text) == point


@pytest.mark.parametrize(("units", "written"), [("pixels", "40 40"), ("thousandths", "200 400"), ("shares", ".2 .4")])
def test_points_are_read_in_the_model_s_units(tmp_path, units, written):
    """The middle of the box is 40 of 200 and 40 of 100 pixels: 0.2 and 0.4."""
    in_json(tmp_path, ScreenSpot, [20, 20, 40, 40])
    benchmark = ScreenSpot(data=str(tmp_path), units=units)
    assert score_of(benchmark.rule, answered(benchmark, 0, f"({written.replace(' ', ', ')})")) == 1
    gold = benchmark[0].gold[0]
    assert score_of(benchmark.rule, answered(benchmark, 0, *gold)) == 1
    assert benchmark.env().prompt(benchmark[0])[-1].text.count(units.rstrip("s")) >= 1
    point = as_shares(tuple(json.loads(text_of(gold))["point"]), units, 200, 100)
    assert point == pytest.approx((0.2, 0.4)) and in_units(point, units, 200, 100)[0] == pytest.approx(
        json.loads(text_of(gold))["point"][0]
    )
    with pytest.raises(ConfigError, match="units must be one of pixels, thousandths, shares"):
        ScreenSpot(units="inches")


@pytest.mark.parametrize(("point", "expected"), [("20 20", 1), ("60 60", 1), ("19.9 40", 0), ("40 60.1", 0)])
def test_borders_belong_to_the_element(tmp_path, point, expected):
    benchmark, _ = in_json(tmp_path, ScreenSpot, [20, 20, 40, 40])
    assert score_of(benchmark.rule, answered(benchmark, 0, f"click {point}")) == expected


def test_the_mean_of_cells_is_screenspot_s_number_and_the_mean_over_elements_v2_s(tmp_path):
    """Eight tasks in six cells: mobile text 0, 6; desktop text 1, 7; web text 2; and an icon of each, 3, 4, 5.

    Right are 0 and 6 alone: cells (1 + 0 + ...) / 6 against 2 / 8 elements.
    """
    for cls, first in ((ScreenSpot, "mean_of_cells"), (ScreenSpotV2, "accuracy")):
        folder = tmp_path / cls.name
        cls.write_miniature(folder, 8)
        benchmark = cls(data=str(folder))
        right = [i for i in range(8) if benchmark[i].info["category"] == "mobile text"]
        groups = [[answered(benchmark, i, *(benchmark[i].gold[0] if i in right else ("click 0 0",)))] for i in range(8)]
        assert next(iter(benchmark.metrics())) == first and len(right) == 2
        assert column(benchmark, "mean_of_cells", groups).value == pytest.approx(1 / 6)
        assert column(benchmark, "accuracy", groups).value == pytest.approx(2 / 8)
        assert column(benchmark, "mobile_text", groups).value == 1 and column(benchmark, "text", groups).n == 5
        assert column(benchmark, "icon", groups).value == 0 and column(benchmark, "icon", groups).n == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"action": "none"}', True), ('{"result": "negative"}', True), ("None.", True), ("negative", True),
        ("<answer>not found</answer>", True), ("<think>none</think>click 3 4", False), ("click 3 4", False),
        ("", False), ("{", False), ('{"action": "click", "point": [1, 2]}', False),
    ],
)  # fmt: skip
def test_refusals_are_read(text, expected):
    assert refuses(text) is expected


def test_what_is_not_there_has_to_be_refused_and_what_is_there_not(tmp_path):
    benchmark, _ = in_pro(tmp_path, [20, 20, 60, 60], gt_type="negative")
    refusal = '{"action": "none"}'
    assert score_of(benchmark.rule, answered(benchmark, 0, refusal)) == 1
    assert score_of(benchmark.rule, answered(benchmark, 0, "click 40 40")) == 0
    assert "not on the screen" in text_of(benchmark.env().prompt(benchmark[0]))
    benchmark, _ = in_pro(tmp_path / "b", [20, 20, 60, 60])
    assert score_of(benchmark.rule, answered(benchmark, 0, refusal)) == 0
    assert "not on the screen" not in text_of(benchmark.env().prompt(benchmark[0]))


def test_pro_has_instructions_in_two_languages(tmp_path):
    in_pro(tmp_path, [20, 20, 60, 60])
    assert text_of(ScreenSpotPro(data=str(tmp_path))[0].prompt) == "close"
    assert text_of(ScreenSpotPro(data=str(tmp_path), part="cn")[0].prompt) == "关闭"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bbox": [1, 2, 3]}, "bbox"), ({"bbox": [20, 20, 0, 5]}, "bbox"), ({"data_type": "button"}, "data_type"),
        ({"img_filename": "none.png"}, "img_filename"), ({"instruction": ""}, "instruction"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(tmp_path, change, field):
    benchmark, path = in_json(tmp_path, ScreenSpot, [20, 20, 40, 40], **change)
    error_of(lambda: len(benchmark), path, 1, field)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    benchmark, path = in_json(tmp_path, ScreenSpot, [20, 20, 40, 40])
    (tmp_path / ScreenSpot.pictures / "screen.png").write_bytes(b"no picture")
    error_of(lambda: len(benchmark), path, 1, "img_filename")


@pytest.mark.parametrize(("change", "field"), [({"img_size": [0, 9]}, "img_size"), ({"ui_type": "x"}, "ui_type")])
def test_wrong_rows_of_pro_are_named(tmp_path, change, field):
    benchmark, path = in_pro(tmp_path, [20, 20, 60, 60], **change)
    error_of(lambda: len(benchmark), path, 1, field)
