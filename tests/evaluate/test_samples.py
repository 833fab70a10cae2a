"""Sample metrics."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from saccade.core.content import Text
from saccade.core.errors import ConfigError, ContractError
from saccade.core.metric import Models, Row
from saccade.core.policy import Policy
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.evaluate.samples import Mean, MeanLength, ParseFailure, PassAtK, Unscored, WinRate
from saccade.rewards.learned import Comparator


class NoPolicy(Policy):
    """Sample metrics never look into models."""

    def act(self, contexts, *, n=1, sampling, seeds):
        raise AssertionError

    def log_prob(self, batch, need=None):
        raise AssertionError

    def encode(self, contexts, outputs):
        raise AssertionError

    def size(self, trajectory):
        raise AssertionError

    def save_pretrained(self, folder):
        raise AssertionError


MODELS = Models(NoPolicy())


@dataclass(frozen=True, kw_only=True)
class Number(SampleReward):
    """The text as a number, None for a dash; half of it is paid at the first turn."""

    def score(self, trajectory):
        if trajectory.text == "-":
            return None
        return Score(float(trajectory.text) / 2, turns={0: float(trajectory.text) / 2})


@dataclass(frozen=True, kw_only=True)
class Rank(Reward):
    scope: ClassVar = "group"

    def __call__(self, trajectories):
        order = sorted(float(one.text) for one in trajectories)
        return [float(order.index(float(one.text))) for one in trajectories]


@dataclass(frozen=True, kw_only=True)
class NotANumber(SampleReward):
    def score(self, trajectory):
        return math.nan


@dataclass(frozen=True)
class FirstIfLonger(Comparator):
    def compare(self, pairs):
        return [float(len(a.text) > len(b.text)) for a, b in pairs]


def group(name, *texts, gold=(), actions=1):
    prompt = Prompt(Task(name, (Text("?"),), gold=gold), (Text("?"),))
    return [Trajectory(prompt, [forced_turn((Text(text),), None, actions)]) for text in texts]


def test_mean_has_a_row_for_every_scored_trajectory_and_ignores_the_weight():
    groups = [group("a", "1", "3", "-"), group("b", "2")]
    metric = Mean(Number(weight=5.0))
    rows = metric.rows(groups, MODELS)
    assert rows == [Row("a", 1.0), Row("a", 3.0), Row("b", 2.0)]
    assert metric.compute(rows).value == 2 and metric.compute(rows).n == 3


def test_rows_of_parts_are_the_rows_of_the_whole():
    groups = [group("a", "1", "3"), group("b", "2", "0"), group("c", "5", "7")]
    for metric in (Mean(Number()), Mean(Rank()), Unscored(Number()), PassAtK(Number(), 2), MeanLength()):
        parts = [row for one in groups for row in metric.rows([one], MODELS)]
        assert metric.rows(groups, MODELS) == parts


def test_group_rewards_are_asked_group_by_group():
    assert Mean(Rank()).rows([group("a", "9", "8"), group("b", "7")], MODELS) == [
        Row("a", 1.0),
        Row("a", 0.0),
        Row("b", 0.0),
    ]


def test_scores_of_the_rollout_stay_as_they_are():
    groups = [group("a", "1")]
    groups[0][0].scores["iou"] = Score(0.5)
    Mean(Number()).rows(groups, MODELS)
    assert groups[0][0].scores == {"iou": Score(0.5)}


def test_rewards_are_checked_as_in_training():
    with pytest.raises(ContractError, match="expected a finite number"):
        Mean(NotANumber()).rows([group("a", "1")], MODELS)


def test_unscored_is_the_share_without_a_score():
    metric = Unscored(Number())
    rows = metric.rows([group("a", "1", "-"), group("b", "-", "-")], MODELS)
    assert metric.compute(rows).value == 0.75


def test_pass_at_k_is_the_share_of_subsets_with_a_success():
    """Counted over all subsets of k of n = 5 rollouts with c successes; e.g. c = 2, k = 2: 1 - 3/10 = 0.7."""
    for c, k in itertools.product(range(6), range(1, 6)):
        rollouts = ["1"] * c + ["0"] * (5 - c)
        subsets = list(itertools.combinations(rollouts, k))
        expected = sum("1" in subset for subset in subsets) / len(subsets)
        ((row),) = PassAtK(Number(), k).rows([group("a", *rollouts)], MODELS)
        assert row.value == pytest.approx(expected)
    assert PassAtK(Number(), 2).rows([group("a", "1", "1", "0", "0", "0")], MODELS)[0].value == pytest.approx(0.7)


def test_pass_at_k_threshold_is_the_least_success():
    assert PassAtK(Number(), 1, threshold=0.5).rows([group("a", "0.5", "0.4")], MODELS) == [Row("a", 0.5)]


def test_pass_at_k_skips_tasks_with_too_few_scored_rollouts():
    groups = [group("a", "1", "-", "0"), group("b", "1", "-", "-")]
    assert PassAtK(Number(), 2).rows(groups, MODELS) == [Row("a", 1.0)]


def test_pass_at_k_needs_k_rollouts():
    with pytest.raises(ConfigError, match=r"evaluation\.n must be >= 3 for PassAtK\(k=3\), got 2"):
        PassAtK(Number(), 3).rows([group("a", "1", "1")], MODELS)
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        PassAtK(Number(), 0)


def test_win_rate_is_against_gold_and_in_both_orders():
    """Longer than gold wins in both orders: 1. Shorter: 0. As long: (0 + 1 - 0) / 2, which the judge never says."""
    gold = ((Text("ab"),),)
    rows = WinRate(FirstIfLonger()).rows([group("a", "abc", "a", "xy", gold=gold), group("b", "abc")], MODELS)
    assert rows == [Row("a", 1.0), Row("a", 0.0), Row("a", 0.5)]
    assert WinRate(FirstIfLonger()).rows([group("b", "abc")], MODELS) == []


def test_parse_failure_is_the_share_of_malformed_outputs():
    metric = ParseFailure(("answer",))
    rows = metric.rows([group("a", "<answer>x</answer>", "x", "<answer>x", "")], MODELS)
    assert metric.compute(rows).value == 0.75
    with pytest.raises(ConfigError, match="tags"):
        ParseFailure(())


def test_mean_length_counts_the_actions_of_all_turns():
    one = group("a", "x", actions=3)[0]
    one.turns.append(forced_turn((Text("y"),), None, 2))
    assert MeanLength().rows([[one]], MODELS) == [Row("a", 5.0)]


def test_clustered_error_of_a_mean():
    """Tasks a (1, 3) and b (5, 7): mean 4, residual sums -4 and 4; se^2 = 2 / 1 * 32 / 16 = 4."""
    metric = Mean(Number())
    estimate = metric.compute(metric.rows([group("a", "1", "3"), group("b", "5", "7")], MODELS))
    assert (estimate.value, estimate.stderr, estimate.n) == (4.0, 2.0, 4)
