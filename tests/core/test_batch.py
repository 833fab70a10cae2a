"""The table: what is paid where, what is refused, averages, cutting."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core.batch import average_weights, finish, pack
from saccade.core.errors import ConfigError
from saccade.core.reward import Score
from saccade.core.trajectory import Trajectory
from tables import outcomes, prompt, random_batch, trajectory


def one(*turns, **settings):
    return trajectory(prompt(), *turns, **settings)


def test_a_value_is_paid_at_the_last_action_turns_at_theirs_actions_at_their_own():
    """Turns of two and three actions: 1 at column 4, 10 and 100 at columns 1 and 4, and 0.1 ... 0.5 everywhere."""
    score = Score(1.0, turns={0: 10.0, 1: 100.0}, actions=[0.1, 0.2, 0.3, 0.4, 0.5])
    batch = pack([[one([-1.0] * 2, [-1.0] * 3, scores={"r": score})]])
    torch.testing.assert_close(batch.reward, torch.tensor([[0.1, 10.2, 0.3, 0.4, 101.5]]))
    assert batch.outcome.item() == pytest.approx(112.5)
    assert score.total == pytest.approx(112.5)


def test_turns_columns_and_padding():
    shared = prompt()
    batch = pack([[trajectory(shared, [-1.0], [-2.0, -3.0], scores={}), trajectory(shared, [-4.0], scores={})]])
    assert batch.turn.tolist() == [[0, 1, 1], [0, -1, -1]]
    assert batch.real.tolist() == [[True] * 3, [True, False, False]]
    assert batch.mask.tolist() == batch.real.tolist()
    assert batch.old_logp.tolist() == [[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]]
    assert batch.length.tolist() == [3, 1]
    assert batch.group.tolist() == [0, 0] and batch.prompts == [shared] and len(batch) == 2


def test_forced_actions_are_masked_and_their_log_probability_is_hidden():
    batch = pack([[one([-1.0, -2.0], mask=[[True, False]], scores={})]])
    assert batch.mask.tolist() == [[True, False]] and batch.real.all()
    assert batch.old_logp.tolist() == [[-1.0, 0.0]]


def test_streams_are_kept_apart_and_added_by_weight():
    batch = pack([[one([-1.0], scores={"iou": 0.5, "format": 1.0})]], {"iou": 2.0, "format": 0.25})
    assert {name: x.item() for name, x in batch.rewards.items()} == {"iou": 0.5, "format": 1.0}
    assert batch.outcome.item() == pytest.approx(1.25)


def test_a_reward_without_weight_counts_once():
    assert pack([[one([-1.0], scores={"r": 3.0})]], {"other": 2.0}).outcome.item() == 3.0


def test_an_unscored_trajectory_leaves_training():
    batch = outcomes([1.0, None])
    assert batch.scored.tolist() == [True, False]
    assert batch.trained.tolist() == [True, False]
    assert batch.old_logp[1].item() == 0.0


def test_a_logged_reward_that_cannot_score_does_not_stop_training():
    shared = prompt()
    group = [trajectory(shared, [-1.0], scores={"main": 1.0, "logged": None})]
    assert pack([group], {"logged": 0.0}).scored.tolist() == [True]
    assert pack([group], {"logged": 0.1}).scored.tolist() == [False]


def test_a_reward_that_only_some_trajectories_have_leaves_the_others_unscored():
    shared = prompt()
    group = [trajectory(shared, [-1.0], scores={"a": 1.0}), trajectory(shared, [-1.0], scores={})]
    assert pack([group]).scored.tolist() == [True, False]


def test_stop_reasons():
    shared = prompt()
    reasons = ["done", "truncated", "budget", "invalid", "error"]
    batch = pack([[trajectory(shared, [-1.0], stop=reason) for reason in reasons]])
    assert batch.truncated.tolist() == [False, True, False, False, False]
    assert batch.overlong.tolist() == [False, False, True, False, False]


def test_empty_groups_are_left_out():
    assert len(pack([[], [one([-1.0], scores={})], []]).prompts) == 1


@pytest.mark.parametrize("groups", [[], [[]]])
def test_an_empty_batch_is_refused(groups):
    with pytest.raises(ValueError, match="pack: the batch is empty"):
        pack(groups)


def test_members_of_a_group_share_one_prompt_object():
    group = [trajectory(prompt("a"), [-1.0]), trajectory(prompt("a"), [-1.0])]
    with pytest.raises(ValueError, match="task 'a' do not share one prompt"):
        pack([group])


@pytest.mark.parametrize("empty", [one([]), Trajectory(prompt())])
def test_a_trajectory_without_actions_is_refused(empty):
    with pytest.raises(ValueError, match="task 'task' has no actions"):
        pack([[empty]])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_log_probabilities_are_refused_by_turn(bad):
    with pytest.raises(ValueError, match="non-finite log-probability in task 'task', turn 1"):
        pack([[one([-1.0], [bad])]])


@pytest.mark.parametrize(
    "score",
    [
        Score(math.nan),
        Score(math.inf),
        Score(0.0, turns={0: math.nan}),
        Score(0.0, actions=[math.inf]),
        Score(1e300),
        Score(1e39),
    ],
)
def test_non_finite_rewards_are_refused_by_name(score):
    with pytest.raises(ValueError, match="reward 'iou' of task 'task' is not finite"):
        pack([[one([-1.0], scores={"iou": score})]])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Score(0.0, turns={2: 1.0}), "pays turn 2"),
        (Score(0.0, turns={-1: 1.0}), "pays turn -1"),
        (Score(0.0, turns={1: 1.0}), "pays turn 1, which has no actions"),
        (Score(0.0, actions=[1.0]), "pays 1 actions of 2"),
        (Score(0.0, actions=[1.0] * 3), "pays 3 actions of 2"),
    ],
)
def test_payments_to_turns_and_actions_that_do_not_exist_are_refused(score, message):
    with pytest.raises(ValueError, match=f"reward 'r' of task 'task' {message}"):
        pack([[one([-1.0, -1.0], [], scores={"r": score})]])


def test_the_last_turn_may_have_no_actions():
    """The value is then paid at the last action there is."""
    batch = pack([[one([-1.0, -1.0], [], scores={"r": 1.0})]])
    assert batch.reward.tolist() == [[0.0, 1.0]]


def test_adding_a_stream_leaves_the_batch_alone():
    batch = outcomes([1.0])
    more = batch.adding("bonus", torch.tensor([[2.0]]), weight=0.5)
    assert more.outcome.item() == 2.0 and batch.outcome.item() == 1.0
    with pytest.raises(ValueError, match="has a reward stream 'r' already"):
        batch.adding("r", torch.zeros(1, 1))


def test_weights_of_every_average():
    """Groups of (2 and 1 actions) and (3 actions): six actions, three trajectories, two groups."""
    a, b = prompt("a"), prompt("b")
    batch = pack([[trajectory(a, [-1.0] * 2), trajectory(a, [-1.0])], [trajectory(b, [-1.0] * 3)]])
    for average, expected in {
        "action": [1 / 6, 1 / 6, 1 / 6],
        "trajectory": [1 / 6, 1 / 3, 1 / 9],
        "group": [1 / 6, 1 / 6, 1 / 6],
        4: [1 / 12, 1 / 12, 1 / 12],
    }.items():
        weights = average_weights(batch, average)
        torch.testing.assert_close(weights[:, 0], torch.tensor(expected))
        assert not weights[~batch.mask].any()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_weights_sum_to_one(seed, sizes):
    batch = random_batch(seed, sizes)
    for average in ("action", "trajectory", "group"):
        total = average_weights(batch, average).sum().item()
        assert total == pytest.approx(1.0 if batch.mask.any() else 0.0, abs=1e-5)


@pytest.mark.parametrize("average", ["token", 0, -3, 2.5])
def test_an_unknown_average_is_refused(average):
    # Past the run-time check of types that only the tests have.
    with pytest.raises(ConfigError, match="average must be"):
        average_weights.__wrapped__(outcomes([1.0]), average)


def test_means_are_over_the_optimiser_batch():
    """Trained: two of three trajectories, one of two groups."""
    batch = finish(outcomes([1.0, 2.0], [None]), "action")
    assert batch.counts == (2.0, 1.0)
    assert batch.mean_actions(torch.tensor([[1.0], [2.0], [50.0]])).item() == pytest.approx(1.5)
    assert batch.mean_trajectories(torch.tensor([1.0, 2.0, math.nan])).item() == pytest.approx(1.5)
    assert batch.mean_groups(torch.tensor([3.0, 0.0])).item() == pytest.approx(3.0)


def test_take_keeps_prompts_once_and_cuts_the_padding():
    a, b = prompt("a"), prompt("b")
    batch = pack(
        [
            [trajectory(a, [-1.0] * 4, scores={"r": 1.0}), trajectory(a, [-1.0], scores={"r": 2.0})],
            [trajectory(b, [-1.0] * 2, scores={"r": 3.0})],
        ]
    )
    batch: Any = finish(replace(batch, value=torch.ones(3, 4), final_value=torch.arange(3.0)), "action")
    part = batch.take(torch.tensor([2, 1]))
    assert part.prompts == [b, a] and part.group.tolist() == [0, 1]
    assert part.mask.shape == part.value.shape == part.weight.shape == (2, 2)
    assert part.outcome.tolist() == [3.0, 2.0] and part.final_value.tolist() == [2.0, 1.0]
    assert part.counts == batch.counts
    assert part.trajectories == [batch.trajectories[2], batch.trajectories[1]]


def test_take_refuses_to_tear_a_group_apart():
    with pytest.raises(ValueError, match="tear a group apart"):
        outcomes([1.0, 2.0], [3.0]).take(torch.tensor([0, 2, 1]))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_taking_everything_changes_nothing(seed):
    batch = random_batch(seed)
    same = batch.take(torch.arange(len(batch)))
    for name in ("mask", "turn", "segment", "old_logp", "ref_logp", "value", "final_value", "advantage", "group"):
        assert torch.equal(getattr(same, name), getattr(batch, name))
    assert torch.equal(same.reward, batch.reward) and same.prompts == batch.prompts
