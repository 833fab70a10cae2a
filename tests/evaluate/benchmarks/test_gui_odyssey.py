"""GUI-Odyssey's action matching."""

import json

import pytest
from benchmark_cases import answered, column, error_of, score_of
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.content import text_of
from saccade.evaluate.benchmarks.gui_odyssey import GUIOdyssey, edits, same_text


@pytest.mark.parametrize(
    ("said", "wanted", "expected"),
    [
        ("green tea", "green tea", True), ("tea", "green tea", True), (" green tea now", "green tea", True),
        ("", "tea", True),  # the empty text is in every text, as in the authors' program
        ("kitten", "sitting", True),  # 3 edits of 7: 1 - 3/7 = 0.57
        ("abcd", "abxy", True),  # 1 - 2/4 is exactly one half
        ("abcd", "axyz", False),  # 1 - 3/4
        ("Tea", "tEA", False),  # case counts: 1 - 3/3
    ],
)  # fmt: skip
def test_texts_agree_if_one_holds_the_other_or_half_of_it_is_the_same(said, wanted, expected):
    assert same_text(said, wanted) is expected


def plain_edits(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(plain_edits(a[1:], b) + 1, plain_edits(a, b[1:]) + 1, plain_edits(a[1:], b[1:]) + (a[0] != b[0]))


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edits_are_levenshtein_s(a, b):
    assert edits(a, b) == plain_edits(a, b)


def episode(folder, *steps, split="random_split", **change):
    """One episode; steps are (action, info, more)."""
    from PIL import Image as Picture

    for name in ("annotations", "splits", "screenshots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    listed = []
    for k, (action, info, *more) in enumerate(steps):
        Picture.new("RGB", (100, 200)).save(folder / "screenshots" / f"e_{k}.png")
        given = more[0] if more else {}
        listed.append({"step": k, "screenshot": f"e_{k}.png", "action": action, "info": info, "ps": "", **given})
    row = {
        "episode_id": "e", "device_info": {"w": 100, "h": 200},
        "task_info": {"category": "General_Tool", "instruction": "make tea"}, "step_length": len(listed),
        "steps": listed,
    }  # fmt: skip
    path = folder / "annotations" / "e.json"
    path.write_text(json.dumps({**row, **change}))
    (folder / "splits" / f"{split}.json").write_text(json.dumps({"train": [], "test": ["e.json"]}))
    return GUIOdyssey(data=str(folder), part=split), path


def test_a_click_counts_in_the_element_s_box_or_near_the_point(tmp_path):
    """The box reaches to 900; near is a distance of 0.14, 140 thousandths on either axis."""
    benchmark, _ = episode(
        tmp_path, ("CLICK", [[500, 500]], {"sam2_bbox": [450, 450, 900, 550]}), ("CLICK", [[500, 500]])
    )
    for said, scores in {
        "CLICK: (500, 500)": [1, 1], "CLICK: (900, 550)": [1, 0], "CLICK: (901, 500)": [0, 0],
        "CLICK: (500, 640)": [1, 1], "CLICK: (500, 641)": [0, 0], "CLICK: (600, 600)": [0, 0],  # 0.1414
        "LONG_PRESS: (500, 500)": [0, 0], "nothing": [0, 0],
    }.items():  # fmt: skip
        assert [score_of(benchmark.rule, answered(benchmark, i, said)) for i in (0, 1)] == scores, said


def test_annotations_become_the_authors_commands(tmp_path):
    steps = [
        ("CLICK", "KEY_HOME"), ("CLICK", "KEY_BACK"), ("CLICK", "KEY_APPSELECT"), ("SCROLL", [[500, 800], [520, 100]]),
        ("SCROLL", [[100, 500], [900, 480]]), ("TEXT", "tea"), ("COMPLETE", ""), ("INCOMPLETE", ""),
        ("LONG_PRESS", [[10, 20]]),
    ]  # fmt: skip
    benchmark, _ = episode(tmp_path, *steps)
    commands = [
        "PRESS_HOME", "PRESS_BACK", "PRESS_RECENT", "SCROLL: UP", "SCROLL: RIGHT", "TYPE: tea", "COMPLETE",
        "IMPOSSIBLE", "LONG_PRESS: (10, 20)",
    ]  # fmt: skip
    assert [text_of(task.gold[0]) for task in benchmark] == commands
    for i, command in enumerate(commands):
        for k, other in enumerate(commands):
            assert score_of(benchmark.rule, answered(benchmark, i, other)) == (i == k), (command, other)
    assert text_of(benchmark[2].prompt) == "Goal: make tea\nDone so far: PRESS_HOME; PRESS_BACK"


def test_blanks_alone_are_in_every_text_and_an_empty_command_is_none(tmp_path):
    benchmark, _ = episode(tmp_path, ("TEXT", " "))
    assert benchmark[0].gold == () and benchmark[0].target.action.text == " "
    for said, expected in (("TYPE: tea", 1), ("TYPE:", 0), ("COMPLETE", 0)):
        assert score_of(benchmark.rule, answered(benchmark, 0, said)) == expected


def test_scrolls_in_other_words_say_where_the_view_moves(tmp_path):
    """The finger goes up: what is below comes into sight."""
    benchmark, _ = episode(tmp_path, ("SCROLL", [[500, 800], [520, 100]]))
    assert score_of(benchmark.rule, answered(benchmark, 0, "scroll down")) == 1
    assert score_of(benchmark.rule, answered(benchmark, 0, "scroll up")) == 0


def test_the_random_split_weighs_categories_and_the_others_steps(tmp_path):
    """The miniature's first episode (two steps) is right, the other three, of other categories, are wrong.

    Random: (1 + 0 + 0 + 0) / 4 categories; with 7 steps in all, 2/7 of the steps.
    """
    GUIOdyssey.write_miniature(tmp_path, 7)
    for part, value in (("random_split", 1 / 4), ("app_split", 2 / 7)):
        benchmark = GUIOdyssey(data=str(tmp_path), part=part)
        groups = [
            [answered(benchmark, i, *(benchmark[i].gold[0] if i < 2 else ("WAIT",)))] for i in range(len(benchmark))
        ]
        assert column(benchmark, "action_matching", groups).value == pytest.approx(value)
        assert column(benchmark, "episode_success", groups).value == pytest.approx(1 / 4)
        assert column(benchmark, "multi_apps", groups).value == 1


def test_low_level_parts_show_the_step_s_instruction(tmp_path):
    episode(tmp_path, ("COMPLETE", "", {"low_level_instruction": "finish"}))
    benchmark = GUIOdyssey(data=str(tmp_path), part="low_random_split")
    assert text_of(benchmark[0].prompt) == "Goal: make tea\nThis step: finish"


@pytest.mark.parametrize(
    ("steps", "row", "field"),
    [
        ([("COMPLETE", ""), ("FLY", "")], 2, "action"),
        ([("CLICK", "KEY_POWER")], 1, "info"),
        ([("CLICK", [[1]])], 1, "info"),
        ([("SCROLL", [[1, 2]])], 1, "info"),
        ([("CLICK", [[1, 2]], {"sam2_bbox": [1, 2, 3]})], 1, "sam2_bbox"),
        ([("COMPLETE", "", {"screenshot": "none.png"})], 1, "screenshot"),
    ],
)
def test_wrong_steps_are_named(tmp_path, steps, row, field):
    benchmark, path = episode(tmp_path, *steps)
    error_of(lambda: len(benchmark), path, row, field)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"steps": []}, "steps"), ({"task_info": None}, "task_info"), ({"device_info": {"w": 1}}, "h")],
)
def test_wrong_annotations_are_named(tmp_path, change, field):
    benchmark, path = episode(tmp_path, ("COMPLETE", ""), **change)
    error_of(lambda: len(benchmark), path, 1, field)
