"""Rewards of pictures on their tables, on odd pictures, and against independent computations."""

import io
import pickle
import time

import numpy as np
import pytest
import torch
from image_cases import (
    CASES,
    CLASSIFIER_CASES,
    DIGITS,
    FILE_CASES,
    LEFT,
    ODD,
    PIXEL_CASES,
    SCENE_CASES,
    STRIPES,
    asks,
    drawn,
    plain,
    shown,
)
from PIL import Image as Picture

from saccade.core import config
from saccade.core.content import Image
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import DifferentiableReward, Reward, Score
from saccade.envs.datasets.images import DigitImages
from saccade.envs.datasets.shapes import KINDS, ShapeScenes
from saccade.rewards import classifier, image, shapes
from saccade.rewards.classifier import Classifier, ClassifierConfidence, ClassReading
from saccade.rewards.combine import scores
from saccade.rewards.image import Brightness, Compressibility, Incompressibility
from saccade.rewards.shapes import Found, SceneColour, SceneSoft, SceneStrict, holds, objects


def name(case):
    return type(case.reward).__name__


ROWS = [
    pytest.param(case.reward, case.target, output, expected, id=f"{i}-{name(case)}-{label}")
    for i, case in enumerate(CASES)
    for label, (output, expected) in case.rows.items()
]


@pytest.mark.parametrize(("reward", "target", "output", "expected"), ROWS)
def test_score_is_the_tables(reward, target, output, expected):
    (score,) = scores(reward, [shown(*output, target=target)])
    assert score.total == (None if expected is None else pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("case", CASES, ids=name)
def test_table_has_the_four_labels_and_gold_is_the_maximum(case):
    assert {"gold", "wrong", "malformed", "empty"} <= case.rows.keys()
    assert case.rows["gold"][1] == max(value for _, value in case.rows.values() if value is not None)


def test_every_reward_of_a_picture_is_in_a_table():
    tested = {type(case.reward) for case in CASES} | {type(one) for one in FILE_CASES + CLASSIFIER_CASES}
    kinds = {
        kind
        for module in (image, shapes, classifier)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Reward) and kind.__module__ == module.__name__
    }
    assert tested == kinds - {image.PixelReward, shapes.SceneReward}


ALL = [*(case.reward for case in CASES), *FILE_CASES, *CLASSIFIER_CASES]


@pytest.mark.parametrize("reward", ALL, ids=lambda one: type(one).__name__)
def test_rewards_survive_pickling_and_configuration_files(reward):
    assert pickle.loads(pickle.dumps(reward)) == reward
    assert config.from_dict(config.load(config.dump(reward))) == reward


@pytest.mark.parametrize("reward", ALL, ids=lambda one: type(one).__name__)
def test_odd_outputs_get_verdicts_and_scores_do_not_depend_on_the_batch(reward):
    target = LEFT if isinstance(reward, shapes.SceneReward) else {"label": 3}
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    large = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    batch = [shown(*output, target=target) for output in (*ODD.values(), (noise,), (large,), (STRIPES,))]
    together = scores(reward, batch)
    assert len(together) == len(batch)
    assert all(score.total is None or np.isfinite(score.total) for score in together)
    for one, score in zip(batch, together, strict=True):
        (alone,) = scores(reward, [one])
        assert alone.total == (None if score.total is None else pytest.approx(score.total, abs=1e-5))


# --- the verifier of scenes ---


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("noise", [0.0, 0.12])
def test_verifier_is_right_about_every_rendered_scene(side, noise):
    """Also under Gaussian noise of standard deviation 0.12 on the scale of [-1, 1]."""
    random = np.random.default_rng(0)
    batch = []
    for task in ShapeScenes(part="all", side=side)[:300]:
        pixels = task.gold[0][0].pixels / 127.5 - 1
        noisy = np.clip(pixels + random.normal(0, noise, pixels.shape), -1, 1)
        batch.append(shown(np.rint((noisy + 1) * 127.5).astype(np.uint8), target=task.target))
    for case in SCENE_CASES:
        assert {score.total for score in scores(case.reward, batch)} == {1.0}


def test_a_scene_satisfies_no_caption_of_other_objects():
    """Scenes against captions of their kind: strict is 1 exactly where the target is the same or mirrored."""
    for kind in KINDS[1:3]:
        tasks = ShapeScenes(kinds=(kind,), part="all")[:12]
        for scene in tasks:
            batch = [shown(scene.gold[0][0].pixels, target=other.target) for other in tasks]
            expected = [float(other.target == scene.target) for other in tasks]
            assert [score.total for score in scores(SceneStrict(), batch)] == expected


def test_verdicts_take_less_than_a_millisecond_each():
    batch = [shown(task.gold[0][0].pixels, target=task.target) for task in ShapeScenes()[:200]]
    start = time.process_time()
    scores(SceneSoft(), batch)
    assert (time.process_time() - start) / len(batch) < 1e-3


def test_the_slowest_picture_is_bounded():
    """A spiral one pixel wide is the region that takes longest to fill: it is as long as can be."""
    pixels = drawn()
    y, x, dy, dx = 0, 0, 0, 1
    red = np.zeros((18, 18), dtype=bool)
    for _ in range(140):
        red[y, x] = True
        ahead = red[y + 2 * dy, x + 2 * dx] if 0 <= y + 2 * dy < 16 and 0 <= x + 2 * dx < 16 else False
        if not (0 <= y + dy < 16 and 0 <= x + dx < 16) or ahead:
            dy, dx = dx, -dy
        y, x = y + dy, x + dx
    pixels[red[:16, :16]] = (230, 38, 38)
    start = time.process_time()
    (found,) = objects(pixels)
    assert found.shape is None and time.process_time() - start < 0.05


def test_boxes_are_in_cells_of_the_grid():
    assert objects(drawn(("square", "blue", 5, 10, 2))) == [Found("blue", "square", (10, 2, 15, 7))]
    assert objects(drawn(("circle", "red", 6, 0, 10)).repeat(2, 0).repeat(2, 1)) == [
        Found("red", "circle", (0, 10, 6, 16))
    ]
    assert objects(plain(0, 0, 0, width=20)) is None


def test_specks_are_not_objects():
    pixels = drawn(("square", "blue", 5, 10, 2))
    pixels[0, :7] = (230, 38, 38)
    assert len(objects(pixels)) == 1
    pixels[0, :8] = (230, 38, 38)
    assert len(objects(pixels)) == 2


def test_relations_are_genevals():
    """Centres (2, 2) and (9, 4) of boxes of 4: the offset (-7, -2) shrinks by .1 * 8 to (-6.2, -1.2), of length 6.32:
    left by .98, above by .19, which is not clear. (2, 2) against (6, 6): (-3.2, -3.2), both by .71."""
    a = Found("red", "circle", (0, 0, 4, 4))
    b = Found("blue", "square", (7, 2, 11, 6))
    assert [holds(a, b, word) for word in ("left", "right", "above", "below")] == [True, False, False, False]
    assert [holds(b, a, word) for word in ("left", "right", "above", "below")] == [False, True, False, False]
    diagonal = Found("blue", "square", (4, 4, 8, 8))
    assert [holds(a, diagonal, word) for word in ("left", "right", "above", "below")] == [True, False, True, False]
    assert not any(holds(a, a, word) for word in ("left", "right", "above", "below"))


def test_notes_say_what_is_there():
    (score,) = scores(SceneStrict(), [shown(drawn(("square", "blue", 5, 10, 2)), target=LEFT)])
    assert score.note == "1 blue square"
    notes = [score.note for score in scores(SceneStrict(), [shown(*output, target=LEFT) for output in ODD.values()])]
    assert notes == ["20 x 16 pixels", "nothing", "16 x 48 pixels", "1 x 1 pixels", "no image", "no image"]


def test_missing_target_leaves_the_trajectory_unscored():
    assert scores(SceneColour(), [shown(drawn())]) == [Score(None)]


@pytest.mark.parametrize(
    "target",
    [
        "one red circle",
        {"objects": ()},
        {"objects": (), "relation": None},
        {"objects": ({"count": 1, "shape": "circle"},), "relation": None},
        asks((0, "red", "circle")),
        asks((1, "purple", "circle")),
        asks((1, "red", "star")),
        asks((1, "red", "circle"), relation="left"),
        asks((1, "red", "circle"), (1, "blue", "circle"), relation="near"),
    ],
    ids=repr,
)
def test_unusable_targets_are_errors_not_zeros(target):
    with pytest.raises(DataError, match="task 'scene/7': the target must be a mapping with objects"):
        scores(SceneStrict(), [shown(drawn(), target=target, id="scene/7")])


# --- pixels ---


def kilobytes(pixels, quality=95):
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=quality)
    return len(file.getvalue()) / 1000


def test_file_size_is_that_of_the_enlarged_picture():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    large = np.kron(noise, np.ones((8, 8, 1), dtype=np.uint8))
    (up,), (down,) = scores(Incompressibility(), [shown(noise)]), scores(Compressibility(), [shown(noise)])
    assert up.total == kilobytes(large) == -down.total
    photo = np.random.default_rng(1).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    assert scores(Incompressibility(quality=50), [shown(photo)])[0].total == kilobytes(photo, 50)


def test_content_decides_about_the_size_and_not_the_header():
    """One colour against noise: the ratio is that of a real picture, not the 1.5 that 16 x 16 pixels would give."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    flat, busy = (score.total for score in scores(Incompressibility(), [shown(plain(20, 20, 20)), shown(noise)]))
    scene = scores(Incompressibility(), [shown(drawn(("circle", "red", 5, 1, 1)))])[0].total
    assert flat < scene < busy and busy > 5 * flat
    assert scores(Compressibility(), [shown()]) == [Score(None, note="no image")]


def test_brightness_has_the_gradient_of_its_weights():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    Brightness().differentiable(images, []).sum().backward()
    assert torch.allclose(images.grad[0, 1], torch.full((4, 4), 0.587 / 16))


# --- classifiers ---


def test_classifier_learns_and_its_rewards_agree_with_it():
    assert DIGITS.accuracy(DigitImages(part="test")) > 0.8
    batch = [shown(*task.gold[0], target=task.target) for task in DigitImages(part="test")[:50]]
    sure = [score.total for score in scores(ClassifierConfidence(classifier=DIGITS), batch)]
    read = [score.total for score in scores(ClassReading(classifier=DIGITS), batch)]
    assert all(0 <= p <= 1 for p in sure) and set(read) <= {0.0, 1.0}
    assert all(right == 1 for p, right in zip(sure, read, strict=True) if p > 0.5)
    assert np.mean(read) > 0.8


def test_classifier_pays_nothing_without_a_picture_or_for_an_unknown_class():
    for reward in CLASSIFIER_CASES:
        one = DigitImages()[3]
        assert scores(reward, [shown(target={"label": 3})]) == [Score(0.0, note="no image")]
        assert scores(reward, [shown(*one.gold[0], target={"label": 11})])[0].total == 0
        with pytest.raises(DataError, match=r"task 't': target\.label must be a whole number"):
            scores(reward, [shown(*one.gold[0], target={"label": "3"})])


def test_classifier_is_trained_once_and_reproducibly(cache_folder, monkeypatch, tmp_path):
    pictures = [task.gold[0][0] for task in DigitImages()[:8]]
    first = DIGITS.logits(pictures)
    stored = {file.name: file.stat().st_mtime_ns for file in (cache_folder / "rewards").iterdir()}
    classifier._network.cache_clear()
    assert torch.equal(DIGITS.logits(pictures), first), "read from the cache folder"
    assert {file.name: file.stat().st_mtime_ns for file in (cache_folder / "rewards").iterdir()} == stored
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    classifier._network.cache_clear()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert torch.allclose(DIGITS.logits(pictures), first, atol=1e-5), "trained again"
    assert torch.equal(torch.random.get_rng_state(), before)
    (file,) = (tmp_path / "rewards").iterdir()
    file.write_bytes(b"damaged")
    classifier._network.cache_clear()
    assert torch.allclose(DIGITS.logits(pictures), first, atol=1e-5), "a damaged file is made again"


@pytest.mark.parametrize(
    "reward", [ClassifierConfidence(classifier=DIGITS), Brightness()], ids=lambda r: type(r).__name__
)
def test_differentiable_rewards_agree_with_their_scores_and_have_a_gradient(reward):
    assert isinstance(reward, DifferentiableReward)
    batch = [shown(*task.gold[0], target=task.target) for task in DigitImages()[:6]]
    planes = torch.stack([torch.from_numpy(one.image.pixels).permute(2, 0, 1) for one in batch]).float() / 255
    planes.requires_grad_(True)
    found = reward.differentiable(planes, [one.prompt for one in batch])
    assert found.tolist() == pytest.approx([score.total for score in scores(reward, batch)], abs=1e-5)
    found.sum().backward()
    assert (planes.grad.abs().amax((1, 2, 3)) > 0).all()


def test_a_classifier_needs_labelled_pictures():
    with pytest.raises(DataError, match=r"target\.label must be a whole number"):
        Classifier(tasks=ShapeScenes(), steps=1).network()
    with pytest.raises(DataError, match="has no tasks"):
        Classifier(tasks=ShapeScenes(count=0), steps=1).network()


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Incompressibility(quality=96), "quality"),
        (lambda: Compressibility(enlarge=0), "enlarge"),
        (lambda: Classifier(tasks=DigitImages(), steps=0), "classifier.steps"),
        (lambda: Classifier(tasks=DigitImages(), lr=0.0), "lr"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ConfigError, match=named):
        build()


def test_pixel_rewards_take_any_size():
    for case in PIXEL_CASES:
        for height, width in ((1, 1), (3, 50), (64, 64)):
            picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            assert np.isfinite(case.reward.score(shown(Image(picture))).total)
