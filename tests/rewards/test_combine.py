"""Rewards made of rewards, and what the environment pays."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from cases import trajectory

from saccade.core.batch import pack
from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.reward import Reward, SampleReward, Score
from saccade.rewards.combine import Clip, Dispatch, Gate, Product, Sum, scores
from saccade.rewards.environment import EnvironmentReward, TurnCount
from saccade.rewards.format import Tags
from saccade.rewards.geometry import BoxIoU
from saccade.rewards.text import NameRecall
from saccade.rewards.verify import ChoiceMatch, ExactMatch


@dataclass(frozen=True)
class Said(SampleReward):
    """Scores what stands in the text after the letter of this reward; None where it does not stand there."""

    letter: str

    def score(self, trajectory):
        words = [word for word in trajectory.text.split() if word.startswith(self.letter)]
        return float(words[0][1:]) if words else None


@dataclass(frozen=True, kw_only=True)
class Placed(SampleReward):
    """Pays at the end, at the first turn and at actions."""

    def score(self, trajectory):
        return Score(1.0, turns={0: 2.0}, actions=[0.5] * trajectory.num_actions, note="here")


@dataclass(frozen=True, kw_only=True)
class Rank(Reward):
    """Position in the group."""

    scope: ClassVar = "group"

    def __call__(self, trajectories):
        return [float(i) for i in range(len(trajectories))]


@dataclass(frozen=True, kw_only=True)
class Short(Reward):
    def __call__(self, trajectories):
        return [1.0]


def values(reward, *outputs, **more):
    return [score.total for score in scores(reward, [trajectory(output, **more) for output in outputs])]


def test_sum_adds_weighted_terms():
    """2 * 3 + 0.5 * 4 = 8"""
    reward = Sum((Said("a", weight=2.0), Said("b", weight=0.5)))
    assert values(reward, "a3 b4", "a3", "b4") == [8.0, None, None]


def test_terms_of_weight_zero_cannot_leave_a_sum_unscored():
    assert values(Sum((Said("a"), Said("b", weight=0.0))), "a3") == [3.0]
    assert values(Sum((Said("b", weight=0.0),)), "a3") == [0.0]


def test_product_multiplies_weighted_totals():
    """(2 * 3) * 4 = 24"""
    assert values(Product((Said("a", weight=2.0), Said("b"))), "a3 b4", "a3") == [24.0, None]


def test_clip_bounds_the_total():
    assert values(Clip(inner=Said("a"), low=-1, high=1), "a3", "a-3", "a.5", "b") == [1.0, -1.0, 0.5, None]


def test_gate_pays_the_inner_reward_where_the_gate_is_high_enough():
    reward = Gate(gate=Said("a"), inner=Said("b"), at_least=0.5)
    assert values(reward, "a.5 b7", "a.4 b7", "b7", "a1") == [7.0, 0.0, None, None]


def test_vilasr_pays_format_only_for_right_answers():
    """R = 0.5 acc + 0.5 fmt if acc > 0, else 0 (ViLaSR)."""
    right = ExactMatch(weight=0.5)
    reward = Gate(gate=ExactMatch(), inner=Sum((right, Tags(("answer",), weight=0.5))))
    outputs = ("<answer>7</answer>", "so <answer>7</answer>", "<answer>8</answer>", "")
    assert values(reward, *outputs, target="7") == [1.0, 0.5, 0.0, 0.0]


def test_a_gate_asks_the_inner_reward_about_those_that_pass_only():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watched(Reward):
        def __call__(self, trajectories):
            seen.extend(one.text for one in trajectories)
            return [1.0] * len(trajectories)

    assert values(Gate(gate=Said("a"), inner=Watched()), "a1", "a0", "a2") == [1.0, 0.0, 1.0]
    assert seen == ["a1", "a2"]


def test_placement_and_notes_survive_gate_sum_clip_and_dispatch():
    """Two terms of weight 1 and 2: 1 + 2 at the end, 2 + 4 at the first turn, .5 + 1 at each action."""
    one = trajectory("x", "y", kind="k")
    both = Score(3.0, {0: 6.0}, [1.5, 1.5], "here; here")
    total = Sum((Placed(), Placed(weight=2.0)))
    assert scores(total, [one]) == [both]
    assert scores(Dispatch(by={"k": total}), [one]) == [both]
    assert scores(Clip(inner=total, high=12.0), [one]) == [both]
    assert scores(Gate(gate=total, inner=total, at_least=12.0), [one]) == [both]
    assert scores(Clip(inner=total, high=5.0), [one]) == [Score(5.0, note="here; here")]
    assert scores(Product((Placed(), Placed())), [one]) == [Score(16.0, note="here; here")]


REPIC = Dispatch(
    field="accu_reward_method",
    by={
        "yes_no": ChoiceMatch(choices=("yes", "no"), tag=""),
        "iou": BoxIoU(threshold=0.5, tag=""),
        "yes_no_name": NameRecall(),
    },
)


def test_dispatch_takes_the_reward_the_task_names():
    batch = [
        trajectory("Yes, the same.", target="yes", accu_reward_method="yes_no"),
        trajectory("[10, 10, 20, 16]", target=[10, 10, 20, 20], columns={"accu_reward_method": "iou"}),
        trajectory("[10, 10, 20, 14]", target=[10, 10, 20, 20], columns={"accu_reward_method": "iou"}),
        trajectory("Bo", target="Bo", accu_reward_method="yes_no_name"),
        trajectory("no", target="yes", accu_reward_method="yes_no"),
    ]
    assert [score.total for score in scores(REPIC, batch)] == [1, 1, 0, 0, 0]


def test_dispatch_leaves_other_kinds_unscored_or_gives_them_what_is_said():
    by = {"a": Said("a")}
    batch = [trajectory("a1", kind="a"), trajectory("a1", kind="b")]
    assert [score.total for score in scores(Dispatch(by=by), batch)] == [1.0, None]
    assert [score.total for score in scores(Dispatch(by=by, otherwise=0.0), batch)] == [1.0, 0.0]


def test_dispatch_names_the_task_without_a_kind():
    with pytest.raises(DataError, match=r"task 'digits/7': Dispatch expects text in info\.kind .*, got None"):
        scores(Dispatch(by={"a": Said("a")}), [trajectory("x", id="digits/7")])


def test_combinations_of_group_rewards_see_the_whole_group():
    both = Sum((Said("a"), Rank()))
    assert both.scope == "group" and Sum((Said("a"),)).scope == "trajectory"
    assert Dispatch(by={"k": Rank()}).scope == Product((Rank(),)).scope == Clip(inner=Rank()).scope == "group"
    gate = Gate(gate=Said("a"), inner=Rank())
    assert gate.scope == "group"
    assert values(gate, "a1", "a0", "a1") == [0.0, 0.0, 2.0]


def test_no_trajectories_have_no_scores():
    for reward in (Sum((Said("a"),)), Gate(gate=Said("a"), inner=Said("b")), Dispatch(by={"a": Said("a")})):
        assert reward([]) == []


def test_inner_rewards_must_return_one_score_each():
    with pytest.raises(ContractError, match="reward Short returned 1 scores for 2 trajectories"):
        values(Sum((Short(),)), "x", "y")


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Sum(()), "terms"),
        (lambda: Product(()), "factors"),
        (lambda: Dispatch(by={}), "by"),
        (lambda: Clip(inner=Said("a"), low=1, high=0), "low"),
    ],
)
def test_bad_settings_are_named(build, named):
    with pytest.raises(ConfigError, match=named):
        build()


def test_environment_reward_is_paid_at_its_turn():
    """Turns of two actions pay 1, 0 and 3: actions 1 and 5 of six, counted from 0."""
    one = trajectory("a", "b", "c", actions=2)
    one.turns[0].reward, one.turns[2].reward = 1.0, 3.0
    (score,) = scores(EnvironmentReward(), [one])
    assert score == Score(0.0, turns={0: 1.0, 2: 3.0})
    one.scores["env"] = score
    assert pack([[one]]).rewards["env"].tolist() == [[0, 1, 0, 0, 0, 3]]


def test_turn_count():
    assert values(TurnCount(weight=-0.5), "a") == [-0.5]
    assert scores(TurnCount(), [trajectory("a", "b")]) == [Score(2.0)]
