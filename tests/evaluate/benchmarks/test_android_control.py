"""AndroidControl: TFRecords, protocol buffers, and what counts as the demonstrator's action."""

import contextlib
import gzip
import json
import struct

import pytest
from benchmark_cases import answered, column, error_of, score_of
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.content import text_of
from saccade.core.errors import DataError
from saccade.envs.datasets.tfrecord import (
    crc32c,
    example,
    example_of,
    fields,
    masked_crc,
    message,
    packed,
    records,
    slice_of,
    write_records,
)
from saccade.evaluate.benchmarks.android_control import AndroidControl, NearStep

# --- files ----------------------------------------------------------------------------------------------------------


def test_checksums_are_castagnoli_s():
    """The check value of CRC-32C, and RFC 3720's of 32 zero bytes."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def test_a_record_is_length_checksum_content_checksum(tmp_path):
    """Bytes put together by hand; offsets are those of the contents."""
    path = tmp_path / "a"
    head = struct.pack("<Q", 3)
    one = head + struct.pack("<I", masked_crc(head)) + b"abc" + b"\0\0\0\0"
    path.write_bytes(gzip.compress(one + one))
    assert list(records(path)) == [(1, 12, b"abc"), (2, 31, b"abc")]
    assert slice_of(path, 32, 2) == b"bc" and slice_of(path, 12, 3) == b"abc"
    write_records(path, iter([b"xy", b""]))
    assert [content for _, _, content in records(path)] == [b"xy", b""]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: raw[:1] + b"\1" + raw[2:], "row 1: length: found a wrong checksum"),
        (lambda raw: raw[:20], "row 1: found the end of the file"),
        (lambda raw: raw + b"\1\2", "row 2: found 2 bytes, expected a record's head"),
    ],
)
def test_damaged_records_are_one_line(tmp_path, change, expected):
    path = tmp_path / "a"
    write_records(path, iter([b"content of ten"]))
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.raises(DataError, match=expected):
        list(records(path))
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="expected GZIP TFRecords"):
        list(records(path))


def test_an_example_of_protobuf_s_own_encoding_is_read():
    """Written by hand: Example{features{feature{"a": bytes["x", "yz"]}, {"n": int64[1, 300, -1]}, {"f": float[0.5]}}}.

    Lengths precede every message; 300 is AC 02; -1 is ten bytes; 0.5 is 00 00 00 3F.
    """
    a = b"\x0a\x01a" + b"\x12\x09" + b"\x0a\x07" + b"\x0a\x01x" + b"\x0a\x02yz"
    ints = b"\x01" + b"\xac\x02" + b"\xff" * 9 + b"\x01"
    n = b"\x0a\x01n" + b"\x12\x11" + b"\x1a\x0f" + b"\x0a\x0d" + ints
    f = b"\x0a\x01f" + b"\x12\x08" + b"\x12\x06" + b"\x0a\x04" + b"\x00\x00\x00\x3f"
    entries = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in (a, n, f))
    whole = b"\x0a" + bytes([len(entries)]) + entries
    found = example(whole)
    assert found["n"][0] == [1, 300, -1] and found["f"][0] == [0.5]
    values, offsets = found["a"]
    assert values == [b"x", b"yz"] and [whole[o : o + len(v)] for o, v in zip(offsets, values, strict=True)] == values
    assert example(example_of({"a": [b"x", b"yz"], "n": [1, 300, -1]}))["n"][0] == [1, 300, -1]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_a_value_error_at_most(content):
    for read in (example, lambda raw: list(fields(raw)), lambda raw: packed(memoryview(raw))):
        with contextlib.suppress(ValueError):  # includes UnicodeDecodeError
            read(content)


# --- steps ----------------------------------------------------------------------------------------------------------


def forest(*nodes):
    """Nodes are (left, top, right, bottom, clickable)."""
    listed = [
        (1, message((2, message(*enumerate(node[:4], start=1))), (14, int(node[4])))) for node in nodes
    ]  # fmt: skip
    return message((1, message((11, message(*listed)))))


def episode(folder, actions, trees=None, /, **change):
    """One test episode on a screen of 100 x 200."""
    from io import BytesIO

    from PIL import Image as Picture

    file = BytesIO()
    Picture.new("RGB", (100, 200)).save(file, "PNG")
    count = len(actions) + 1
    features = {
        "episode_id": [7], "goal": [b"make tea"], "screenshots": [file.getvalue()] * count,
        "accessibility_trees": trees or [forest((0, 0, 100, 200, False))] * count, "screenshot_widths": [100] * count,
        "screenshot_heights": [200] * count, "actions": [json.dumps(action).encode() for action in actions],
        "step_instructions": [f"do {k}".encode() for k in range(len(actions))],
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "android_control-00000-of-00020"
    write_records(path, iter([example_of({**features, **change})]))
    (folder / "splits.json").write_text(json.dumps({"train": [], "validation": [], "test": [7]}))
    return AndroidControl(data=str(folder)), path


CLICK = {"action_type": "click", "x": 50, "y": 100}


def click(x, y):
    return json.dumps({"action_type": "click", "x": x, "y": y})


def test_a_click_must_be_in_the_smallest_clickable_element_around_the_point(tmp_path):
    """A label 45..55 x 95..105 lies in a button 20..80 x 80..120, that in the whole screen."""
    trees = [forest((0, 0, 100, 200, True), (20, 80, 80, 120, True), (45, 95, 55, 105, False), (0, 0, 9, 9, True))] * 2
    benchmark, _ = episode(tmp_path, [CLICK], trees)
    assert benchmark[0].target.element == pytest.approx((0.2, 0.4, 0.8, 0.6))
    scores = {place: score_of(benchmark.rule, answered(benchmark, 0, click(*place))) for place in (
        (50, 100), (21, 81), (80, 120), (81, 100), (50, 121),
    )}  # fmt: skip
    assert list(scores.values()) == [1, 1, 1, 0, 0]


def test_without_a_clickable_element_the_smallest_counts_and_without_any_the_distance(tmp_path):
    """Distances are in shares of the sides: 13 of 100 pixels across are 0.13, 28 of 200 down 0.14."""
    benchmark, _ = episode(tmp_path / "a", [CLICK], [forest((40, 90, 60, 110, False), (0, 0, 100, 200, False))] * 2)
    assert [score_of(benchmark.rule, answered(benchmark, 0, click(*p))) for p in ((41, 91), (39, 91))] == [1, 0]
    benchmark, _ = episode(tmp_path / "b", [CLICK], [forest((0, 0, 9, 9, True))] * 2)
    assert benchmark[0].target.element is None
    for place, expected in (((63, 100), 1), ((65, 100), 0), ((50, 127), 1), ((50, 129), 0), ((62, 124), 0)):
        assert score_of(benchmark.rule, answered(benchmark, 0, click(*place))) == expected, place


def test_other_actions_need_the_same_arguments(tmp_path):
    actions = [
        {"action_type": "scroll", "direction": "down"}, {"action_type": "input_text", "text": "Green tea"},
        {"action_type": "open_app", "app_name": "Clock"}, {"action_type": "navigate_back"}, {"action_type": "wait"},
    ]  # fmt: skip
    benchmark, _ = episode(tmp_path, actions)
    tried = [
        (0, {"action_type": "scroll", "direction": "up"}, 0), (0, {"action_type": "wait"}, 0),
        (1, {"action_type": "input_text", "text": " green TEA "}, 1), (1, {"action_type": "type", "text": "tea"}, 0),
        (2, {"action_type": "open_app", "app_name": "clock"}, 1),
        (2, {"action_type": "input_text", "text": "Clock"}, 0),
        (3, {"action_type": "navigate_back"}, 1), (3, {"action_type": "navigate_home"}, 0),
    ]  # fmt: skip
    for i, action, expected in tried:
        assert score_of(benchmark.rule, answered(benchmark, i, json.dumps(action))) == expected, action
    # F1 of {tea} and {green, tea}: 2 * 1 / 3 = 0.67 >= 0.5.
    assert score_of(NearStep(), answered(benchmark, 1, json.dumps({"action_type": "type", "text": "tea"}))) == 1
    assert score_of(NearStep(), answered(benchmark, 1, json.dumps({"action_type": "type", "text": "milk"}))) == 0


def test_the_low_level_is_told_the_step_and_both_what_was_done(tmp_path):
    episode(tmp_path, [CLICK, {"action_type": "wait"}])
    high, low = AndroidControl(data=str(tmp_path)), AndroidControl(data=str(tmp_path), part="low")
    assert text_of(high[0].prompt) == "Goal: make tea"
    assert text_of(low[0].prompt) == "Goal: make tea\nThis step: do 0"
    assert text_of(low[1].prompt) == f"Goal: make tea\nDone so far: {json.dumps(CLICK)}\nThis step: do 1"
    assert high[1].prompt[0].pixels.shape == (200, 100, 3)


def test_columns_of_the_table(tmp_path):
    """Of 8 steps (click, scroll, text, app, hold, back, wait, click) the clicks are missed and the text is another."""
    AndroidControl.write_miniature(tmp_path, 8)
    benchmark = AndroidControl(data=str(tmp_path))
    groups = []
    for i in range(8):
        kind = benchmark[i].info["category"]
        said = {"click": click(0, 0), "type": '{"action_type": "input_text", "text": "coffee"}'}.get(kind)
        groups.append([answered(benchmark, i, said or text_of(benchmark[i].gold[0]))])
    assert column(benchmark, "step_accuracy", groups).value == pytest.approx(5 / 8)
    assert column(benchmark, "type_match", groups).value == 1
    assert column(benchmark, "grounding", groups).value == 0 and column(benchmark, "grounding", groups).n == 2
    # Episodes of two steps: (click, scroll), (text, app), (hold, back), (wait, click): the third alone is right.
    assert column(benchmark, "episode_success", groups).value == 1 / 4
    # In the domain are episodes 0 and 4: (click, scroll), (hold, back).
    assert column(benchmark, "in_domain", groups).value == 3 / 4


@pytest.mark.parametrize("units", ["thousandths", "shares"])
def test_gold_is_written_in_the_model_s_units(tmp_path, units):
    episode(tmp_path, [CLICK])
    benchmark = AndroidControl(data=str(tmp_path), units=units)
    side = {"thousandths": 1000, "shares": 1}[units]
    found = json.loads(text_of(benchmark[0].gold[0]))
    assert (found["x"], found["y"]) == (side / 2, side / 2)
    assert score_of(benchmark.rule, answered(benchmark, 0, *benchmark[0].gold[0])) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"actions": [b"{"]}, "actions[0]"),
        ({"actions": [b'{"action_type": "fly"}']}, "actions[0]"),
        ({"actions": [b'{"action_type": "click", "x": 3}']}, "actions[0]"),
        ({"actions": [b'{"action_type": "scroll", "direction": "in"}']}, "actions[0]"),
        ({"actions": [b'{"action_type": "open_app"}']}, "actions[0]"),
        ({"actions": [b"\xff"]}, "record"),
        ({"actions": [b'{"action_type": "click", "x": NaN, "y": 3}']}, "actions[0]"),
        ({"screenshots": [b"x"]}, "screenshots"),
        ({"screenshots": [3, 4]}, "screenshots"),
        ({"accessibility_trees": [3, 4]}, "accessibility_trees"),
        ({"screenshot_widths": [0, 0]}, "screenshot_widths"),
        ({"screenshot_heights": [b"a", b"b"]}, "screenshot_heights"),
        ({"screenshot_widths": [100]}, "screenshot_widths"),
        ({"step_instructions": []}, "step_instructions"),
        ({"accessibility_trees": [b"\x0a\xff", b""]}, "accessibility_trees[0]"),
        ({"goal": []}, "goal"),
    ],
)
def test_wrong_episodes_are_named(tmp_path, change, field):
    benchmark, path = episode(tmp_path, [CLICK], **change)
    error_of(lambda: len(benchmark), path, 1, field)


def test_a_screenshot_that_cannot_be_read_is_named_when_it_is_drawn(tmp_path):
    benchmark, path = episode(tmp_path, [CLICK], screenshots=[b"no picture", b"x"])
    assert len(benchmark) == 1
    error_of(lambda: benchmark[0], path, 1, "screenshots[0]")


def test_records_that_are_no_examples_and_splits_that_are_no_lists_are_named(tmp_path):
    benchmark, path = episode(tmp_path, [CLICK])
    write_records(path, iter([b"\x0a\x05ab"]))
    error_of(lambda: len(benchmark), path, 1, "record")
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"test": ["7"]}))
    error_of(lambda: len(AndroidControl(data=str(tmp_path), part="low")), splits, 1, "test")
