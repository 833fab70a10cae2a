import itertools
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.config import from_dict, to_dict
from saccade.core.content import Image, Text, Video, frames_of, text_of
from saccade.core.errors import ConfigError
from saccade.envs.datasets import digits
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.digits import KINDS, WAYS, DigitScenes, words
from saccade.envs.datasets.glyphs import Glyphs, glyphs, indices

SCENES = DigitScenes(count=700)


def of_kind(kind, n=60, **settings):
    tasks = DigitScenes(count=n, kinds=(kind,), **settings)
    return [tasks[i] for i in range(n)]


def named(task):
    """The digits of the scene by colour."""
    return {one["colour"]: one["digit"] for one in task.target["digits"]}


def colours_in(text):
    return [word for word in re.findall("[a-z]+", text) if word in PALETTE]


def gold(task):
    (output,) = task.gold
    return text_of(output)


def test_kinds_take_turns_and_ids_differ():
    tasks = [SCENES[i] for i in range(3 * len(KINDS))]
    assert [task.info["kind"] for task in tasks] == list(KINDS) * 3
    assert len({task.id for task in tasks}) == len(tasks)


def test_a_task_depends_on_seed_part_and_index_only():
    first, again = SCENES[10], DigitScenes(count=11)[10]
    assert first.id == again.id and first.target == again.target
    for a, b in zip(frames_of(first.prompt), frames_of(again.prompt), strict=True):
        np.testing.assert_array_equal(a, b)
    for other in (SCENES.split("test")[10], DigitScenes(seed=1)[10], SCENES[17]):
        assert (frames_of(other.prompt)[0] != frames_of(first.prompt)[0]).any()


def test_training_and_test_scenes_use_different_digit_pictures():
    for train, test in zip(indices("train"), indices("test"), strict=True):
        assert not set(train) & set(test)
        assert len(test) / (len(train) + len(test)) == pytest.approx(0.2, abs=0.01)
    assert sum(map(len, indices("train") + indices("test"))) == 1797


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_scenes_are_painted_with_digit_pictures_of_their_own_part_only(monkeypatch, part, other):
    """Wiping out the other part's pictures changes no scene; wiping out the part's own changes all of them."""
    tasks = DigitScenes(count=28, part=part)
    before = [frames_of(task.prompt) for task in tasks]
    for wiped, same in ((other, True), (part, False)):
        gone = [which for digits in indices(wiped) for which in digits]

        def blank(size, gone=gone):
            stamps = glyphs(size)
            ink, shade = stamps.ink.copy(), stamps.shade.copy()
            ink[gone] = shade[gone] = 0
            return Glyphs(ink, shade, stamps.box)

        monkeypatch.setattr(digits, "glyphs", blank)
        after = [frames_of(task.prompt) for task in tasks]
        assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [same] * 28


def test_read_asks_for_the_digit_of_a_colour():
    for task in of_kind("read"):
        (colour,) = colours_in(text_of(task.prompt))
        assert task.target["answer"] == str(named(task)[colour])
        assert gold(task) == f"<answer>{task.target['answer']}</answer>"


def test_count_counts():
    tasks = of_kind("count", 120)
    for task in tasks:
        asked = colours_in(text_of(task.prompt))
        found = [one for one in task.target["digits"] if not asked or one["colour"] == asked[0]]
        assert task.target["answer"] == str(len(found))
    assert {task.target["answer"] for task in tasks} == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize(("side", "bins"), [(64, 16), (48, 16), (96, 12)])
def test_locate_rounds_the_ink_outward_to_bins_and_gold_is_the_target(side, bins):
    step = side // bins
    for task in of_kind("locate", side=side, bins=bins):
        (colour,) = colours_in(text_of(task.prompt))
        (ink,) = [one["box"] for one in task.target["digits"] if one["colour"] == colour]
        x1, y1, x2, y2 = box = task.target["box"]
        assert all(0 <= a - b < step for a, b in zip(ink[:2], (x1, y1), strict=True))
        assert all(0 <= b - a < step for a, b in zip(ink[2:], (x2, y2), strict=True))
        assert all(x % step == 0 and 0 < x < side for x in box)
        assert gold(task) == f"<answer><box>{x1},{y1},{x2},{y2}</box></answer>"
        assert task.target["answer"] == f"{x1},{y1},{x2},{y2}"


def test_compare_names_the_colour_of_the_larger_number():
    for task in of_kind("compare"):
        a, b = colours_in(text_of(task.prompt))
        values = named(task)
        assert values[a] != values[b]
        assert task.target["answer"] == (a if values[a] > values[b] else b)


def test_sum_adds():
    for task in of_kind("sum"):
        a, b = colours_in(text_of(task.prompt))
        assert a != b and task.target["answer"] == str(named(task)[a] + named(task)[b])


def test_change_names_what_differs_in_reading_order():
    for task in of_kind("change"):
        before, after, text = task.prompt
        assert isinstance(before, Image) and isinstance(after, Image) and text == Text("what changed?")
        triples = task.target["triples"]
        assert 1 <= len(triples) <= 3 and list(triples) == sorted(set(triples))
        assert task.target["answer"] == ", ".join(".".join(map(str, triple)) for triple in triples)
        for i, name, value in triples:
            one = task.target["digits"][i - 1]
            x1, y1, x2, y2 = one["box"]
            assert ((x1 + x2) / 2 > 32, (y1 + y2) / 2 > 32) == ((i - 1) % 2 == 1, i > 2)
            if name == "size":
                assert (y2 - y1 > 17) == (value == "large")
            else:
                assert str(one[name]) == value


def test_a_clip_moves_the_way_the_answer_says():
    for task in of_kind("clip", 120):
        video, text = task.prompt[0], text_of(task.prompt)
        assert isinstance(video, Video) and video.frames.shape == (4, 64, 64, 3)
        if "last" in text:
            assert task.target["answer"] == str(task.target["digits"][0]["digit"])
            continue
        (colour,) = colours_in(text)
        target = np.array(PALETTE[colour])
        centres = []
        for frame in video.frames.astype(int):
            near = (np.abs(frame - target) <= 19).all(2)
            rows, columns = np.nonzero(near)
            centres.append((columns.mean(), rows.mean()))
        moved = np.subtract(centres[-1], centres[0])
        np.testing.assert_allclose(moved, 24 * np.array(WAYS[task.target["answer"]]), atol=2.0)


@given(index=st.integers(0, 10**6), part=st.sampled_from(["train", "test"]))
def test_digits_do_not_touch(index, part):
    apart = tuple(kind for kind in KINDS if kind != "crowd")  # a crowd is packed
    boxes = [one["box"] for one in DigitScenes(count=10**6 + 1, part=part, kinds=apart)[index].target["digits"]]
    for (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) in itertools.combinations(boxes, 2):
        assert ax2 < bx1 or bx2 < ax1 or ay2 < by1 or by2 < ay1


def test_digits_stand_out_from_what_is_behind_them():
    """At every fully inked pixel some channel is at least 60 levels brighter than the background's median."""
    for task in of_kind("read", 40):
        (pixels,) = frames_of(task.prompt)
        background = np.median(pixels.reshape(-1, 3), axis=0)
        for one in task.target["digits"]:
            x1, y1, x2, y2 = one["box"]
            near = (np.abs(pixels[y1:y2, x1:x2].astype(int) - PALETTE[one["colour"]]) <= 19).all(2)
            assert near.sum() >= 6
            assert (pixels[y1:y2, x1:x2][near].astype(float) - background).max(1).min() > 60


def test_number_of_digits_is_what_was_asked_for():
    counts = {len(task.target["digits"]) for task in of_kind("read", 40, digits=(2, 3))}
    assert counts == {2, 3}
    assert all(len(task.target["digits"]) == 2 for task in of_kind("sum", 20, digits=(1, 1)))


def test_colours_are_limited_to_the_first_of_the_palette():
    seen = {one["colour"] for task in of_kind("read", 100, colours=4) for one in task.target["digits"]}
    assert seen == set(list(PALETTE)[:4])


def test_words_are_all_the_words_that_occur():
    tasks = DigitScenes(count=1400, colours=8)
    found = set()
    for task in tasks:
        said = text_of(task.prompt) + " " + re.sub(r"</?(answer|box)>", " ", gold(task))
        assert said == said.lower()
        assert not re.sub(r"[a-z0-9 ?.,]", "", said)
        found |= set(re.findall("[a-z]+", said))
    assert found == set(words())
    assert list(words()) == sorted(set(words()))


def test_the_target_is_not_in_the_prompt_object():
    task = SCENES[3]
    assert set(task.info) == {"kind", "columns"} and "answer" not in task.info["columns"]


def test_settings_survive_the_configuration_file():
    tasks = DigitScenes(count=5, kinds=("read", "sum"), digits=(2, 2), part="test")
    assert from_dict(to_dict(tasks)) == tasks


@pytest.mark.parametrize(
    "settings",
    [
        {"count": -1}, {"kinds": ()}, {"kinds": ("write",)}, {"digits": (0, 2)}, {"digits": (3, 2)}, {"digits": (1, 5)},
        {"colours": 3}, {"colours": 9}, {"bins": 4}, {"side": 60}, {"side": 32}, {"clutter": -0.1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"tasks.{name} must"):
        DigitScenes(**settings)


def test_tasks_are_made_quickly():
    """A floor far below what one core does (3,000 a second), to notice a slip of an order of magnitude."""
    SCENES[0]
    began = time.process_time()
    for i in range(300):
        SCENES.task(i)
    assert 300 / (time.process_time() - began) > 500


# --- dice ---


def test_dice_cover_their_ranges_and_sample_without_repetition():
    dice = Dice(np.random.default_rng(0))
    assert {dice.whole(2, 4) for _ in range(200)} == {2, 3, 4}
    assert {dice.below(3) for _ in range(200)} == {0, 1, 2}
    assert all(-1 <= dice.between(-1, 2) < 2 for _ in range(200))
    orders = {tuple(dice.sample("abc", 3)) for _ in range(300)}
    assert len(orders) == 6 and all(sorted(order) == ["a", "b", "c"] for order in orders)
