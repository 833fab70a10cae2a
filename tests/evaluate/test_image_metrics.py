"""Metrics of groups of pictures, and of a proxy against its gold."""

import math
from dataclasses import dataclass

import pytest
from picture_cases import MODELS, Corners, group, plain

from saccade.core.errors import ConfigError
from saccade.core.metric import Row
from saccade.core.reward import Reward, SampleReward
from saccade.evaluate.images import (
    FeatureDiversity,
    Hypervolume,
    OfKind,
    PixelDiversity,
    ProxyGap,
    RankAgreement,
)
from saccade.evaluate.samples import Mean


@dataclass(frozen=True, kw_only=True)
class Said(SampleReward):
    """The number in this place of the text; None for a dash."""

    place: int = 0

    def score(self, trajectory):
        word = trajectory.text.split()[self.place]
        return None if word == "-" else float(word)


# --- diversity ---


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
    assert not metric.needs_reference and metric.tier == "sample" and metric.identity is None
    assert OfKind(PixelDiversity(), "two").tier == "set"
    assert OfKind(Named(), "two").identity == {"extractor": "eye", "tasks": "kind = two"}


class Named(PixelDiversity):
    identity = {"extractor": "eye"}


def test_proxies_may_be_group_rewards():
    @dataclass(frozen=True, kw_only=True)
    class Rank(Reward):
        scope = "group"

        def __call__(self, trajectories):
            return [float(i) for i in range(len(trajectories))]

    (row,) = RankAgreement(Rank(), GOLD).rows([group("0 1", "0 2", "0 3")], MODELS)
    assert row.value == 1
