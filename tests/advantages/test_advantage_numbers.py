"""Advantages on tables small enough for mental arithmetic; errors of their settings."""

from dataclasses import replace

import pytest
import torch

from saccade.advantages.group import GreedyBaseline, GroupCentre, GroupNorm, LeaveOneOut, PerReward
from saccade.advantages.history import TaskNorm
from saccade.advantages.shaping import BatchWhiten, Clip, Difficulty, Extremes, KLInReward, LengthPenalty
from saccade.advantages.temporal import GAE, DiscountedReturn, TurnReturn
from saccade.core.batch import pack
from saccade.core.errors import ConfigError, ContractError
from saccade.core.kl import K2
from saccade.core.reward import Score
from saccade.core.state import TaskHistory
from tables import outcomes, prompt, trajectory


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=atol)


def test_group_norm_of_one_right_answer_in_four():
    """Mean 1/4; population variance (0.75^2 + 3 * 0.25^2) / 4 = 3/16: A = 0.75 / sqrt(3/16) = sqrt(3), -1/sqrt(3)."""
    advantage = GroupNorm(eps=1e-9)(outcomes([1, 0, 0, 0]))
    close(advantage[:, 0], [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)])


def test_group_norm_with_the_sample_deviation():
    """Sample variance of (1, 0) is 1/2: A = 0.5 / sqrt(0.5) = sqrt(0.5)."""
    close(GroupNorm(eps=1e-9, ddof=1)(outcomes([1, 0]))[:, 0], [0.5**0.5, -(0.5**0.5)])


def test_group_norm_eps_is_added_to_the_deviation():
    """Population deviation of (1, 0) is 0.5: A = 0.5 / (0.5 + 0.5)."""
    close(GroupNorm(eps=0.5)(outcomes([1, 0]))[:, 0], [0.5, -0.5])


def test_group_norm_at_batch_scale_divides_by_the_spread_of_all_outcomes():
    """Outcomes 3, 1, 1, -1: mean 1, population variance (4 + 0 + 0 + 4) / 4 = 2; group means 2 and 0: +-1/sqrt(2)."""
    advantage = GroupNorm(scale="batch", eps=1e-9)(outcomes([3, 1], [1, -1]))
    close(advantage[:, 0], [2**-0.5, -(2**-0.5), 2**-0.5, -(2**-0.5)])


def test_centre_and_leave_one_out():
    """Outcomes 6, 3, 0: mean 3. Others' means are 1.5, 3 and 4.5."""
    batch = outcomes([6, 3, 0])
    close(GroupCentre()(batch)[:, 0], [3, 0, -3])
    close(LeaveOneOut()(batch)[:, 0], [4.5, 0, -4.5])


def test_every_trainable_action_shares_its_trajectory_credit():
    advantage = GroupCentre()(outcomes([2, 0], actions=3))
    close(advantage, [[1, 1, 1], [-1, -1, -1]])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_per_reward_gives_small_and_large_rewards_an_equal_say(scale):
    """Terms (0, 1, 0) and (0, 0, scale): standardised, with q = 1/sqrt(3), (-q, 2q, -q) and (-q, -q, 2q) at any scale.

    Their sum (-2q, q, q) has mean 0 and sample variance (4 + 1 + 1) q^2 / 2 = 1.
    """
    q = 3**-0.5
    close(PerReward(eps=1e-9)(two_rewards(scale))[:, 0], [-2 * q, q, q])


def test_per_reward_counts_by_weight():
    """2 (-q, 2q, -q) + (-q, -q, 2q) = (-3q, 3q, 0), sample variance 18 q^2 / 2 = 3."""
    close(PerReward(eps=1e-9)(two_rewards(1.0, first=2.0))[:, 0], [-1.0, 1.0, 0.0])


def two_rewards(scale, first=1.0):
    shared = prompt()
    pairs = ((0.0, 0.0), (1.0, 0.0), (0.0, scale))
    return pack([[trajectory(shared, [-1.0], scores={"a": a, "b": b}) for a, b in pairs]], {"a": first})


def test_trajectories_that_could_not_be_scored_stay_out():
    """Without the unscored one the outcomes are 1 and 0; with it as a zero the mean would be 1/3."""
    advantage = GroupCentre()(outcomes([1, 0, None]))
    close(advantage[:, 0], [0.5, -0.5, 0])


def greedy_batch(*extra):
    shared = prompt()
    group = [
        trajectory(shared, [-1.0, -1.0], scores={"r": Score(1.0, actions=[0.5, 0.0])}),
        trajectory(shared, [-1.0, -1.0], scores={"r": 0.0}),
        trajectory(shared, [-1.0], scores={"r": 0.25}, mask=[[False]]),
        *[trajectory(shared, [-1.0], scores={"r": x}, mask=[[False]]) for x in extra],
    ]
    return pack([group])


def test_greedy_rollout_is_the_baseline_of_the_reward_to_go():
    """Rewards to go of the first are 1.5 and 1; the greedy rollout got 0.25 and takes no part in training."""
    close(GreedyBaseline()(greedy_batch()), [[1.25, 0.75], [-0.25, -0.25], [0, 0]])


def test_several_greedy_rollouts_are_averaged_and_unscored_ones_ignored():
    close(GreedyBaseline()(greedy_batch(0.75, None))[:2], [[1.0, 0.5], [-0.5, -0.5]])


def test_greedy_rollouts_stay_out_of_group_statistics():
    """Outcomes of the sampled two are 1.5 and 0."""
    close(GroupCentre()(greedy_batch())[:, 0], [0.75, -0.75, 0])


def test_a_group_without_a_scored_greedy_rollout_gets_no_advantage():
    first, second = prompt("a"), prompt("b")
    groups = [
        [trajectory(first, [-1.0], scores={"r": 1.0}), trajectory(first, [-1.0], scores={"r": None}, mask=[[False]])],
        [trajectory(second, [-1.0], scores={"r": 1.0}), trajectory(second, [-1.0], scores={"r": 0.0}, mask=[[False]])],
    ]
    close(GreedyBaseline()(pack(groups))[:, 0], [0, 0, 1, 0])


def test_greedy_baseline_without_any_greedy_rollout_is_an_error():
    with pytest.raises(ContractError, match="greedy rollout"):
        GreedyBaseline()(outcomes([1, 0]))


def values(batch, value, final):
    return replace(batch, value=torch.tensor(value), final_value=torch.tensor(final))


@pytest.mark.parametrize(("stop", "expected"), [("done", [0.1, 0.2]), ("truncated", [0.5, 1.0])])
def test_gae_bootstraps_where_the_episode_was_cut_off(stop, expected):
    """Discount 0.5, lam 1, V = (0.4, 0.8), rewards (0, 1), V after the end 1.6.

    Ended: delta_1 = 1 - 0.8 = 0.2, delta_0 = 0.5 * 0.8 - 0.4 = 0, A_0 = 0 + 0.5 * 0.2 = 0.1.
    Cut off: delta_1 = 1 + 0.5 * 1.6 - 0.8 = 1.0, A_0 = 0.5.
    """
    batch = pack([[trajectory(prompt(), [-1.0, -1.0], scores={"r": 1.0}, stop=stop)]])
    close(GAE(discount=0.5, lam=1.0)(values(batch, [[0.4, 0.8]], [1.6])), [expected])


def test_gae_carries_values_traces_and_pay_over_forced_actions():
    """Actions: trained, forced, trained, forced, with V = (1, 9, 2, 9); the forced ones are paid 0.25 and 0.5.

    As if the forced ones were not there and the trained ones were paid 0.25 and 0.5 (discount and lam 0.5):
    A_1 = 0.5 - 2 = -1.5; delta_0 = 0.25 + 0.5 * 2 - 1 = 0.25; A_0 = 0.25 + 0.25 * -1.5 = -0.125.
    """
    score = Score(0.0, actions=[0.0, 0.25, 0.0, 0.5])
    made = trajectory(prompt(), [-1.0] * 4, scores={"r": score}, mask=[[True, False, True, False]])
    batch = values(pack([[made]]), [[1.0, 9.0, 2.0, 9.0]], [7.0])
    close(GAE(discount=0.5, lam=0.5)(batch), [[-0.125, 0, -1.5, 0]])


def test_discounted_return():
    """Rewards (1, 0, 2) at discount 0.5: 2, then 1, then 1 + 0.5."""
    batch = pack([[trajectory(prompt(), [-1.0] * 3, scores={"r": Score(2.0, actions=[1.0, 0.0, 0.0])})]])
    close(DiscountedReturn(0.5)(batch), [[1.5, 1.0, 2.0]])


def turns_batch():
    shared = prompt()
    return pack(
        [
            [
                trajectory(shared, [-1.0, -1.0], [-1.0], scores={"r": Score(1.0, turns={0: 2.0})}),
                trajectory(shared, [-1.0], [-1.0, -1.0], scores={"r": Score(0.0, turns={1: 3.0})}),
                trajectory(shared, [-1.0], scores={"r": 0.5}),
            ]
        ]
    )


def test_turn_return_credits_all_actions_of_a_turn():
    """Turn rewards (2, 1), (0, 3) and (0.5) at discount 0.5: G = (2.5, 1), (1.5, 3), (0.5)."""
    close(TurnReturn(discount=0.5)(turns_batch()), [[2.5, 2.5, 1.0], [1.5, 3.0, 3.0], [0.5, 0, 0]])


def test_turn_return_baseline_is_the_mean_at_the_same_turn():
    """Turn 0: mean of 2.5, 1.5, 0.5 is 1.5. Turn 1, where only two acted: mean of 1 and 3 is 2."""
    advantage = TurnReturn(discount=0.5, baseline="group")(turns_batch())
    close(advantage, [[1.0, 1.0, -1.0], [0.0, 1.0, 1.0], [-1.0, 0, 0]])


def test_a_turn_that_only_one_member_reached_gets_no_group_advantage():
    shared = prompt()
    long = trajectory(shared, [-1.0], [-1.0], scores={"r": 4.0})
    short = trajectory(shared, [-1.0], scores={"r": 2.0})
    close(TurnReturn(baseline="group")(pack([[long, short]])), [[1.0, 0.0], [-1.0, 0.0]])


def test_whitening_weighs_long_trajectories_by_their_actions():
    """Three actions at 1 and one at -1: mean 1/2, sample variance (3 * 0.25 + 2.25) / 3 = 1."""
    shared = prompt()
    group = [trajectory(shared, [-1.0] * 3, scores={"r": 1.0}), trajectory(shared, [-1.0], scores={"r": -1.0})]
    close(BatchWhiten(DiscountedReturn(1.0))(pack([group])), [[0.5, 0.5, 0.5], [-1.5, 0, 0]])


def test_whitening_a_single_action_gives_zero():
    close(BatchWhiten(DiscountedReturn(1.0))(outcomes([3])), [[0.0]])


def test_clip_bounds_both_sides():
    close(Clip(GroupCentre(), 1.0)(outcomes([6, 3, 0]))[:, 0], [1, 0, -1])


@pytest.mark.parametrize(("length", "punishment"), [(4, 0.0), (6, 0.0), (7, -0.25), (9, -0.75), (10, -1.0), (12, -1.0)])
def test_overlong_punishment_rises_over_the_buffer(length, punishment):
    """Limit 10, buffer 4: free up to 6, then a quarter an action, full from 10."""
    batch = pack([[trajectory(prompt(), [-1.0] * length, scores={"r": 1.0})]])
    advantage = LengthPenalty(DiscountedReturn(1.0), limit=10, buffer=4, factor=2.0)(batch)
    close(advantage[0, 0], 1.0 + 2.0 * punishment)


def test_difficulty_weighs_success_on_hard_tasks_and_failure_on_easy_ones():
    """One right in four: rho = 0.25. w(0.25) = 0.4 + 1.1 / (1 + e^-5) = 1.492638; w(0.75) = 0.4 + 0.55 = 0.95."""
    advantage = Difficulty(GroupCentre())(outcomes([1, 0, 0, 0]))
    close(advantage[:, 0], [0.75 * 1.492638, -0.25 * 0.95, -0.25 * 0.95, -0.25 * 0.95])


def test_kl_in_reward_costs_each_action_its_divergence():
    """old_logp (-1, -2), ref_logp (-1.5, -1): k1 = (0.5, -1), k2 = (0.125, 0.5). Rewards to go at coef 2, outcome 1."""
    batch = pack([[trajectory(prompt(), [-1.0, -2.0], scores={"r": 1.0})]])
    batch = replace(batch, ref_logp=torch.tensor([[-1.5, -1.0]]))
    close(KLInReward(DiscountedReturn(1.0), coef=2.0)(batch), [[2.0, 3.0]])
    close(KLInReward(DiscountedReturn(1.0), coef=2.0, estimator=K2())(batch), [[-0.25, 0.0]])


def test_wrappers_ask_for_what_the_inner_advantage_needs():
    inner = KLInReward(GAE())
    for wrapper in (Clip(inner), BatchWhiten(inner), LengthPenalty(inner, 4, 2), Difficulty(inner)):
        assert wrapper.requires == {"value", "ref_logp"}
    assert GroupNorm().requires == frozenset()


def test_task_norm_takes_the_statistics_of_the_task_where_enough_is_known():
    """task0: earlier 9 (too old for size 4), 1, 3 and now 3, 5: mean 3, variance (4 + 0 + 0 + 4) / 4 = 2.

    task1 knows 0 and 2 only, fewer than 3: all outcomes of the batch, 3, 5, 0, 2, with mean 2.5 and variance 3.25.
    """
    history = TaskHistory()
    history.update([("task0", [9.0]), ("task0", [1.0, 3.0])])
    batch = replace(outcomes([3, 5], [0, 2]), history=history)
    advantage = TaskNorm(size=4, least=3, eps=1e-9)(batch)[:, 0]
    close(advantage, [0.0, 2**0.5, -2.5 / 3.25**0.5, -0.5 / 3.25**0.5])


def test_task_norm_keeps_all_of_a_batch_that_is_larger_than_its_memory():
    """Outcomes 0, 0, 3, 3: mean 1.5, deviation 1.5; the earlier 100 is not looked at."""
    history = TaskHistory()
    history.update([("task0", [100.0])])
    batch = replace(outcomes([0, 0, 3, 3]), history=history)
    close(TaskNorm(size=2, least=2, eps=1e-9)(batch)[:, 0], [-1.0, -1.0, 1.0, 1.0])


def test_history_keeps_the_newest_outcomes():
    history = TaskHistory(kept=3)
    history.update([("a", [1.0, 2.0]), ("a", [3.0, 5.0]), ("b", [7.0])])
    assert history.recent == {"a": [2.0, 3.0, 5.0], "b": [7.0]}
    assert history.mean == {"a": 0.5 * 1.5 + 0.5 * 4.0, "b": 7.0} and history.count == {"a": 2, "b": 1}
    copy = TaskHistory(kept=3)
    copy.load_state_dict(history.state_dict())
    assert copy == history


def test_extremes_keep_the_best_and_the_worst_that_stand_out():
    """Centred: 2, 0.5, -1, -1.5 | 0.2, -0.2. Best from 0.5 up and worst below -0.5; the second group stays out."""
    found = Extremes(GroupCentre(), high=0.5, low=-0.5)(outcomes([4, 2.5, 1, 0.5], [1.2, 0.8]))
    close(found[:, 0], [2.0, 0.0, 0.0, -1.5, 0.0, 0.0])


def test_extremes_that_tie_all_stay():
    """1, 1, 0, 0.5 centred: 0.375, 0.375, -0.625, -0.125."""
    found = Extremes(GroupCentre(), high=0.3, low=-0.3)(outcomes([1, 1, 0, 0.5]))
    close(found[:, 0], [0.375, 0.375, -0.625, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskNorm(size=4, least=5), "least must be in"),
        (lambda: TaskNorm(eps=0.0), "eps must be > 0"),
        (lambda: Extremes(GroupCentre(), high=-1.0, low=1.0), "low must be <= high"),
        (lambda: GroupNorm(eps=0.0), "eps must be > 0"),
        (lambda: GroupNorm(ddof=2), "ddof must be 0 or 1"),
        (lambda: PerReward(eps=-1.0), "eps must be > 0"),
        (lambda: GAE(discount=1.5), "discount must be in"),
        (lambda: GAE(lam=-0.1), "lam must be in"),
        (lambda: DiscountedReturn(float("nan")), "discount must be in"),
        (lambda: TurnReturn(discount=2.0), "discount must be in"),
        (lambda: Clip(GroupCentre(), 0.0), "limit must be > 0"),
        (lambda: BatchWhiten(GroupCentre(), eps=0.0), "eps must be > 0"),
        (lambda: LengthPenalty(GroupCentre(), 4, 5), "buffer must be in"),
        (lambda: LengthPenalty(GroupCentre(), 4, 0), "buffer must be in"),
        (lambda: LengthPenalty(GroupCentre(), 4, 2, -1.0), "factor must be >= 0"),
        (lambda: Difficulty(GroupCentre(), low=2.0), "low must be in"),
        (lambda: Difficulty(GroupCentre(), slope=-1.0), "slope must be >= 0"),
        (lambda: Difficulty(GroupCentre(), solved=0.0), "solved must be > 0"),
        (lambda: KLInReward(GroupCentre(), coef=-0.1), "coef must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
