"""The world of coloured shapes: what scenes look like, what captions say, which captions are held out."""

import numpy as np
import pytest

from saccade.core.content import text_of
from saccade.core.errors import ConfigError
from saccade.envs.datasets import shapes
from saccade.envs.datasets.shapes import (
    BACKGROUND,
    KINDS,
    LONGEST,
    OPPOSITE,
    PALETTE,
    WORDS,
    Placed,
    ShapeScenes,
    captions,
    related,
    render,
    stamp,
)
from saccade.envs.single import SingleTurn
from saccade.rewards import shapes as verifier
from saccade.testing import check_environment

DRAWN = {
    ("square", 5): "##### ##### ##### ##### #####",
    ("circle", 5): ".###. ##### ##### ##### .###.",
    ("triangle", 5): "..#.. ..#.. .###. .###. #####",
    ("circle", 6): ".####. ###### ###### ###### ###### .####.",
    ("triangle", 6): "..##.. ..##.. .####. .####. ###### ######",
}


@pytest.mark.parametrize(("which", "rows"), DRAWN.items())
def test_stamps(which, rows):
    assert " ".join("".join(".#"[int(cell)] for cell in row) for row in stamp(*which)) == rows


def test_there_are_as_many_captions_as_combinations():
    """Shapes 3; colours times shapes 12; two or three of those 24; ordered pairs of other colours 12 * 9 = 108; times
    four relations 432."""
    assert [len(captions(kind)) for kind in KINDS] == [3, 12, 24, 108, 432]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifth_of_the_captions_is_held_out_and_those_of_one_meaning_stay_together(kind):
    train, test = captions(kind, "train"), captions(kind, "test")
    assert {one.text for one in train}.isdisjoint(one.text for one in test)
    assert len(train) + len(test) == len(captions(kind))
    assert 0.1 < len(test) / len(captions(kind)) < 0.35
    assert {one.mirrored.text for one in test} == {one.text for one in test} or kind in ("single", "colour", "count")
    if kind in ("two", "relation"):
        assert {one.mirrored.text for one in train}.isdisjoint(one.text for one in test)


def test_every_word_of_held_out_captions_is_in_training():
    trained = {word for kind in KINDS for one in captions(kind, "train") for word in one.text.split()}
    assert trained == set(WORDS)
    longest = max(len(one.text.split()) for kind in KINDS for one in captions(kind))
    assert longest == LONGEST


def test_kinds_take_turns_and_captions_come_before_they_repeat():
    tasks = ShapeScenes(kinds=("colour", "count"))
    assert [task.info["kind"] for task in tasks[:4]] == ["colour", "count"] * 2
    lap = len(captions("colour", "train"))
    assert len({task.info["caption"] for task in tasks[: 2 * lap : 2]}) == lap
    assert len({task.info["caption"] for task in tasks[2 * lap : 4 * lap : 2]}) == lap


def test_tasks_show_captions_of_their_part_and_new_scenes_each_time():
    for part in ("train", "test"):
        known = {one.text for kind in KINDS for one in captions(kind, part)}
        assert {text_of(task.prompt) for task in ShapeScenes(part=part)[:60]} <= known
    single = ShapeScenes(kinds=("single",), part="all")
    pictures = {task.gold[0][0].pixels.tobytes() for task in single[:30]}
    assert len(pictures) == 30


def test_scenes_hold_what_their_caption_says_and_objects_keep_apart():
    """An independent count: pixels of each colour are a sum of the stamps' sizes, and the number of 4-connected
    regions is the caption's number of objects."""
    from scipy.ndimage import label

    for task in ShapeScenes(part="all")[:200]:
        pixels = task.gold[0][0].pixels
        wanted = task.target["objects"]
        assert label((pixels != BACKGROUND).any(2))[1] == sum(one["count"] for one in wanted)
        for one in wanted:
            areas = [int(stamp(one["shape"], size).sum()) for size in shapes.SIZES]
            sums = {a * areas[0] + (one["count"] - a) * areas[1] for a in range(one["count"] + 1)}
            colours = [one["colour"]] if one["colour"] else list(PALETTE)
            assert any(int((pixels == PALETTE[colour]).all(2).sum()) in sums for colour in colours)


def test_relations_are_between_centres():
    a, b = Placed("circle", "red", 5, 0, 5), Placed("square", "blue", 5, 8, 6)
    assert related(a, b, "left") and related(b, a, "right")
    assert not any(related(a, b, word) for word in ("right", "above", "below"))
    assert not related(a, Placed("square", "blue", 5, 6, 6), "left"), "6 pixels are too few"
    assert not related(a, Placed("square", "blue", 5, 8, 9), "left"), "4 pixels across are too many"
    assert set(OPPOSITE) == {"left", "right", "above", "below"}


def test_larger_pictures_are_enlarged_copies():
    small, large = ShapeScenes()[0].gold[0][0].pixels, ShapeScenes(side=32)[0].gold[0][0].pixels
    assert small.shape == (16, 16, 3) and (large[::2, ::2] == small).all() and (large[1::2, 1::2] == small).all()


def test_render_paints_the_palette_on_the_background():
    pixels = render([Placed("square", "yellow", 5, 1, 2)])
    assert (pixels[2:7, 1:6] == PALETTE["yellow"]).all()
    assert (pixels != BACKGROUND).any(2).sum() == 25 and pixels.dtype == np.uint8


def test_world_and_verifier_agree_on_colours_and_grid():
    """Environments and rewards may not import each other; what they share is written twice."""
    assert verifier.PALETTE == PALETTE and verifier.GRID == shapes.GRID
    assert set(verifier.SHAPES) == set(shapes.SHAPES) and set(verifier.RELATIONS) == set(OPPOSITE)


def test_environment_keeps_its_contract():
    check_environment(SingleTurn(ShapeScenes(count=40)))
    check_environment(SingleTurn(ShapeScenes(count=40, side=32, part="test"), template="Draw {prompt}."))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"count": -1}, "tasks.count"),
        ({"kinds": ()}, "tasks.kinds"),
        ({"kinds": ("crowd",)}, "tasks.kinds"),
        ({"side": 24}, "tasks.side must be a multiple of 16, got 24"),
        ({"part": "dev"}, "tasks.part"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigError, match=named):
        ShapeScenes(**settings)
