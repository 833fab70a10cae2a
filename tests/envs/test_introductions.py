"""Introductions: what the pictures show, what the questions ask, how captions are made."""

from itertools import product

import numpy as np
import pytest

from saccade.core.content import images_of, text_of
from saccade.core.errors import ConfigError
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.glyphs import indices
from saccade.envs.datasets.introductions import ASIDES, NAMES, WORDS, Introductions, caption
from saccade.policies.token.tiny import TinyVLM


def test_captions_join_calls_from_left_to_right():
    assert caption(["ben"]) == "the last picture shows ben"
    assert caption(["ben", "the red digit"]) == "the last picture shows ben and here is the red digit"


def test_no_name_hides_in_other_words():
    """The reward looks for names as strings: what a caption without names says must not contain one."""
    looks = [f"the {colour} digit" for colour in PALETTE]
    plain = " ".join(caption(calls) for calls in product(looks, looks))
    assert not [name for name in NAMES if name in plain]
    assert not [(a, b) for a in NAMES for b in NAMES if a != b and a in b]


def test_kinds_take_turns_and_ask_what_they_say():
    asides = set()
    for i, task in enumerate(Introductions()[:90]):
        kind, asked, pictures = task.info["kind"], text_of(task.prompt), len(images_of(task.prompt))
        assert kind == ("same", "locate", "caption")[i % 3] == task.id.split("/")[3]
        introduced = [name for name in NAMES if f"this is {name}." in asked]
        assert pictures == len(introduced) + 1
        if kind == "caption":
            assert set(task.target["answer"]) == set(introduced) == {name for name, _ in task.info["calls"]}
            asides.add(asked.split("describe the last picture")[1])
            assert task.gold[0][0].text == caption([name for name, _ in task.info["calls"]])
        else:
            assert len(introduced) == 1 and asked.count(introduced[0]) == 2 and task.info["calls"] == ()
    assert asides == set(ASIDES)


def test_names_of_a_task_are_not_bound_to_looks():
    calls = [call for task in Introductions(kinds=("caption",))[:400] for call in task.info["calls"]]
    assert len(set(calls)) > 64  # of 12 names times 6 colours
    first = [task.target["answer"][0] == task.info["calls"][0][0] for task in Introductions(kinds=("caption",))[:400]]
    assert 0.6 < np.mean(first) < 0.9  # always with one object, half of the time with two


def colours_seen(pixels):
    """Colours of the palette that at least 5 pixels are close to."""
    found = set()
    for name, colour in PALETTE.items():
        near = np.abs(pixels.astype(int) - np.asarray(colour)).max(-1) < 25
        if near.sum() >= 5:
            found.add(name)
    return found


def test_pictures_show_what_the_answer_says():
    answers = []
    for task in Introductions()[:120]:
        *introduced, last = [colours_seen(picture.pixels) for picture in images_of(task.prompt)]
        kind = task.info["kind"]
        if kind == "same":
            assert introduced[0] and (introduced[0] == last) == (task.target["answer"] == "yes")
            answers.append(task.target["answer"])
        elif kind == "locate":
            x1, y1, x2, y2 = task.target["answer"]
            inside = images_of(task.prompt)[1].pixels[y1:y2, x1:x2]
            assert introduced[0] == colours_seen(inside) and len(last) == 2
        else:
            assert set.union(*introduced) == last == {looks.split()[1] for _, looks in task.info["calls"]}
            by_name = dict(zip(task.target["answer"], introduced, strict=True))
            assert all(by_name[name] == {looks.split()[1]} for name, looks in task.info["calls"])
    assert 0.25 < np.mean([answer == "yes" for answer in answers]) < 0.75


def test_boxes_lie_on_the_grid_within_the_picture():
    for task in Introductions(kinds=("locate",))[:60]:
        x1, y1, x2, y2 = task.target["answer"]
        assert 0 < x1 < x2 < 32 and 0 < y1 < y2 < 32
        assert all(corner % 2 == 0 for corner in (x1, y1, x2, y2))
        assert task.gold[0][0].text == f"<box>{x1},{y1},{x2},{y2}</box>"


def test_the_words_suffice_to_read_and_write_every_task():
    vocabulary = TinyVLM(side=32, words=WORDS).vocabulary()
    for task in Introductions()[:60]:
        for text in (text_of(task.prompt), task.gold[0][0].text, *(looks for _, looks in task.info["calls"])):
            assert vocabulary.decode(vocabulary.encode(text, strict=True)) == text


def test_tasks_are_repeatable_and_parts_are_disjoint():
    train, test = Introductions(), Introductions().split("test")
    assert np.array_equal(train[5].prompt[0].pixels, Introductions()[5].prompt[0].pixels)
    assert not np.array_equal(train[5].prompt[0].pixels, test[5].prompt[0].pixels)
    assert {task.id for task in train[:50]}.isdisjoint(task.id for task in test[:50])
    assert set().union(*indices("train")).isdisjoint(set().union(*indices("test")))


@pytest.mark.parametrize(
    "wrong",
    [{"count": -1}, {"kinds": ()}, {"side": 33}, {"side": 16}, {"colours": 1}, {"introduced": (0, 2)}, {"bins": 0}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Introductions(**wrong)
