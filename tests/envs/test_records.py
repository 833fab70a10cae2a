"""The world of one object: 48 scenes, of which eight combinations are held out."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from saccade.core.content import Image, Text, images_of
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.envs.datasets.records import ATTRIBUTES, HELD_OUT, SCENES, Records, scenes
from saccade.envs.single import SingleTurn
from saccade.rewards.templates import SceneAttributes, SceneComplete, SceneIntact, nearest
from saccade.rewards.verify import ExactMatch
from saccade.testing import check_environment

TEMPLATES = Records(kinds=("draw",), questions=("colour",), part="all")


@pytest.mark.parametrize("part", ["train", "test"])
def test_it_keeps_the_contract_of_environments(part):
    check_environment(SingleTurn(Records(part=part)), n=48)


def test_eight_combinations_are_held_out_but_nothing_they_are_made_of():
    """Every colour, shape and place, and every two of them together, is in training."""
    assert len(SCENES) == 48 and len(HELD_OUT) == 8 and len(scenes("train")) == 40
    assert not set(scenes("train")) & set(scenes("test"))
    for count in (1, 2):
        for names in combinations(ATTRIBUTES, count):
            seen = {tuple(s.attributes[n] for n in names) for s in scenes("train")}
            assert seen == {tuple(s.attributes[n] for n in names) for s in SCENES}
    for name, values in ATTRIBUTES.items():
        counts = Counter(s.attributes[name] for s in HELD_OUT)
        assert set(counts) == set(values) and max(counts.values()) - min(counts.values()) <= 1


def test_tasks_of_a_record_follow_each_other():
    tasks = Records()
    assert len(tasks) == 2 * 3 * 40 and len(tasks.split("test")) == 48
    for i in range(0, len(tasks), 2):
        draw, answer = tasks[i], tasks[i + 1]
        assert draw.info["kind"] == "draw" and answer.info["kind"] == "answer"
        assert draw.info["record"] == answer.info["record"] and draw.info["question"] == answer.info["question"]
        assert draw.target[draw.info["question"]] == answer.target
        (picture,) = images_of(answer.prompt)
        np.testing.assert_array_equal(picture.pixels, images_of(draw.gold[0])[0].pixels)
    assert len({task.info["record"] for task in tasks}) == 120 and len({task.id for task in tasks}) == 240
    first = tasks[0]
    assert first.prompt == (Text("draw red circle northeast<image>"),)


def test_the_object_is_in_its_quadrant_in_its_colour():
    """A red square in the south-west: rows 9 to 14 and columns 1 to 6 are red, all else is background."""
    (scene,) = [s for s in SCENES if s.caption == "red square southwest"]
    expected = np.full((16, 16, 3), 20, dtype=np.uint8)
    expected[9:15, 1:7] = (230, 38, 38)
    np.testing.assert_array_equal(scene.image.pixels, expected)


def drawn(task, *output):
    return Trajectory(Prompt(task, task.prompt), [forced_turn(output, None, 1)])


def test_the_verifier_tells_all_scenes_apart_and_gives_partial_credit():
    """Against a red circle in the north-east every other scene gets the share of attributes it has in common."""
    task = Records()[0]
    share, whole = SceneAttributes(templates=TEMPLATES), SceneComplete(templates=TEMPLATES)
    for scene in SCENES:
        assert nearest(TEMPLATES, scene.image) == scene.attributes
        common = sum(scene.attributes[name] == value for name, value in task.target.items())
        assert share.score(drawn(task, scene.image)).value == pytest.approx(common / 3)
        assert whole.score(drawn(task, Text("plan"), scene.image)) == float(common == 3)
    assert share.score(drawn(task, Text("red circle northeast"))).value == 0
    assert whole.score(drawn(task)) == 0


def test_the_verifier_forgives_noise_and_size():
    task, random = Records()[0], np.random.default_rng(0)
    pixels = scenes("train")[0].image.pixels
    noisy = (pixels + random.normal(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8)
    large = Image(pixels.repeat(5, 0).repeat(5, 1))
    for picture in (Image(noisy), large):
        assert SceneComplete(templates=TEMPLATES).score(drawn(task, picture)) == 1


def test_pieces_of_two_scenes_are_no_scene():
    """The left half of one picture beside the right half of another: nearest to one of them, but not intact."""
    task, intact = Records()[0], SceneIntact(templates=TEMPLATES)
    west, east = (next(s for s in SCENES if s.caption == f"red circle {place}") for place in ("northwest", "northeast"))
    both = np.concatenate([west.image.pixels[:, :8], east.image.pixels[:, 8:]], 1)
    assert intact.score(drawn(task, Image(both))) == 0
    assert SceneAttributes(templates=TEMPLATES).score(drawn(task, Image(both))).value >= 2 / 3
    assert all(intact.score(drawn(task, scene.image)) == 1 for scene in SCENES)
    assert intact.score(drawn(task)) == 0
    with pytest.raises(ConfigError, match="tolerance"):
        SceneIntact(templates=TEMPLATES, tolerance=-1.0)


def test_answers_are_matched_exactly():
    task = Records()[1]
    assert ExactMatch().score(drawn(task, Text("<answer>red</answer>"))) == 1
    assert ExactMatch().score(drawn(task, Text("<answer>blue</answer>"))) == 0


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"kinds": ()}, "kinds"), ({"kinds": ("draw", "draw")}, "kinds"), ({"questions": ("size",)}, "questions"),
     ({"part": "dev"}, "part")],
)  # fmt: skip
def test_settings_out_of_range_are_named(fields, name):
    with pytest.raises(ConfigError, match=f"tasks.{name}"):
        Records(**fields)
