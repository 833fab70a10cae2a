"""Where two methods must coincide."""

from dataclasses import replace

import pytest
import torch

from formulas import OBJECTIVES, Blur
from saccade.advantages.group import GroupCentre, GroupNorm, LeaveOneOut, PerReward
from saccade.advantages.shaping import BatchWhiten, Clip, Difficulty, KLInReward, LengthPenalty
from saccade.advantages.temporal import GAE, DiscountedReturn, TurnReturn
from saccade.core.batch import pack
from saccade.core.policy import LogProbs
from saccade.core.segments import group_count
from saccade.objectives.policy_gradient import CISPO, GSPO, DualClip, PPOClip, Reinforce, TruncatedImportance
from saccade.objectives.preference import DPO, RPO, Hinge
from saccade.objectives.regression import NLL, Filtered, RewardWeighted
from saccade.objectives.regularise import KLBetweenViews, KLToReference
from tables import finished, outcomes, prompt, random_batch, random_out, trajectory

seeds = pytest.mark.parametrize("seed", range(4))


def gradient(objective, batch, out):
    return torch.autograd.grad(objective(batch, out).value, out.logp)[0]


@seeds
def test_leave_one_out_is_centring_stretched_by_g_over_g_minus_one(seed):
    batch = random_batch(seed, (3, 2, 5))
    size = group_count(batch.group, batch.trained).double()[batch.group][:, None]
    torch.testing.assert_close(LeaveOneOut()(batch), GroupCentre()(batch) * size / (size - 1).clamp(min=1))


@seeds
def test_ppo_in_its_first_epoch_has_the_gradient_of_reinforce(seed):
    batch = finished(random_batch(seed))
    out = LogProbs(batch.old_logp.clone().requires_grad_())
    for objective in (PPOClip(), DualClip(), CISPO(), TruncatedImportance(PPOClip())):
        torch.testing.assert_close(gradient(objective, batch, out), gradient(Reinforce(), batch, out))


@seeds
def test_ppo_without_a_clip_is_the_importance_weighted_gradient(seed):
    """grad of r A is r A grad logp."""
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    ratio = (out.logp - batch.old_logp).exp().detach()
    weighted = replace(batch, advantage=ratio * batch.advantage)
    torch.testing.assert_close(gradient(PPOClip(low=1.0, high=1e6), batch, out), gradient(Reinforce(), weighted, out))


@seeds
def test_dual_clip_with_a_distant_bound_is_ppo(seed):
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    torch.testing.assert_close(DualClip(c=1e6)(batch, out).value, PPOClip()(batch, out).value)


@seeds
def test_gspo_for_single_actions_is_ppo(seed):
    torch.manual_seed(seed)
    batch = outcomes([1, 0, 3], [2, 2], [1])
    batch = finished(replace(batch, advantage=torch.randn(6, 1)), "trajectory")
    out = LogProbs((batch.old_logp + 0.3 * torch.randn(6, 1)).requires_grad_())
    pair = GSPO(low=0.2, high=0.28), PPOClip(low=0.2, high=0.28)
    torch.testing.assert_close(pair[0](batch, out).value, pair[1](batch, out).value)
    torch.testing.assert_close(gradient(pair[0], batch, out), gradient(pair[1], batch, out))


@seeds
def test_gspo_in_its_first_epoch_has_the_gradient_of_reinforce_over_trajectories(seed):
    batch = random_batch(seed)
    batch = finished(replace(batch, advantage=GroupNorm()(batch)), "trajectory")
    out = LogProbs(batch.old_logp.clone().requires_grad_())
    torch.testing.assert_close(gradient(GSPO(), batch, out), gradient(Reinforce(), batch, out), rtol=1e-6, atol=1e-9)


@seeds
def test_dpo_on_one_pair_is_a_logistic_regression_on_log_ratios(seed):
    """Label 1, feature D_w - D_l, coefficient beta, no intercept: torch's binary cross-entropy with logits."""
    torch.manual_seed(seed)
    shared = prompt()
    group = [
        trajectory(shared, [-1.0, -2.0], scores={"preferred": 1.0}),
        trajectory(shared, [-1.0, -0.5, -1.5], scores={"preferred": 0.0}),
    ]
    batch = pack([group])
    batch = finished(replace(batch, ref_logp=torch.where(batch.mask, -torch.rand(2, 3), 0.0)))
    logp = torch.where(batch.mask, -torch.rand(2, 3), 0.0).double().requires_grad_()
    feature = torch.where(batch.mask, logp - batch.ref_logp, 0.0).sum(1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        0.7 * (feature[0] - feature[1]), torch.ones((), dtype=torch.float64)
    )
    found = DPO(beta=0.7)(batch, LogProbs(logp)).value
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, logp), torch.autograd.grad(expected, logp), strict=True):
        torch.testing.assert_close(one, other)


@seeds
def test_rpo_without_likelihood_is_dpo(seed):
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    torch.testing.assert_close(RPO(beta=0.3, alpha=0.0)(batch, out).value, DPO(beta=0.3)(batch, out).value)


@seeds
def test_all_pairwise_losses_push_the_winner_up_and_the_loser_down(seed):
    batch = finished(random_batch(seed, (2, 2, 2), distinct=True, forced=False, unscored=0.0))
    out = random_out(batch, seed)
    best = torch.zeros(6, dtype=torch.bool)
    for g in range(3):
        best[2 * g + int(batch.outcome[2 * g + 1] > batch.outcome[2 * g])] = True
    for objective in (DPO(), Hinge(), RPO(alpha=0.0), *(OBJECTIVES[name][0] for name in ("SimPO", "ORPO"))):
        slope = torch.where(batch.mask, gradient(objective, batch, out), 0.0).sum(1)
        assert (slope[best] < 0).all() and (slope[~best] > 0).all()


@seeds
def test_gae_with_full_traces_and_no_values_is_the_discounted_return(seed):
    batch = random_batch(seed)
    blank = replace(batch, value=torch.zeros_like(batch.value), final_value=torch.zeros_like(batch.final_value))
    torch.testing.assert_close(GAE(discount=0.9, lam=1.0)(blank), DiscountedReturn(0.9)(batch))


@seeds
def test_gae_with_full_traces_is_the_return_minus_the_value_where_episodes_end(seed):
    batch = random_batch(seed)
    ended = replace(batch, final_value=torch.zeros_like(batch.final_value))
    expected = torch.where(batch.mask, DiscountedReturn(0.9)(batch) - batch.value, 0.0)
    torch.testing.assert_close(GAE(discount=0.9, lam=1.0)(ended), expected)


@seeds
def test_turn_returns_of_single_turns_are_the_outcome(seed):
    torch.manual_seed(seed)
    batch = outcomes(torch.randn(4).tolist(), torch.randn(3).tolist(), actions=3)
    torch.testing.assert_close(TurnReturn(discount=0.5)(batch), batch.outcome[:, None].expand(7, 3))
    torch.testing.assert_close(TurnReturn(discount=0.5, baseline="group")(batch), GroupCentre()(batch))


@seeds
def test_standardising_ignores_the_scale_of_rewards_and_centring_follows_it(seed):
    batch = random_batch(seed, (4, 5))
    larger = replace(batch, rewards={name: 8 * x for name, x in batch.rewards.items()})
    norm = GroupNorm(eps=1e-12)
    torch.testing.assert_close(norm(larger), norm(batch), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(GroupCentre()(larger), 8 * GroupCentre()(batch))


@seeds
def test_one_reward_standardised_apart_is_the_group_norm_up_to_the_batch_scale(seed):
    batch = random_batch(seed, (4, 5), distinct=True, unscored=0.0)
    apart, together = PerReward(eps=1e-12)(batch), GroupNorm(eps=1e-12, ddof=1)(batch)
    rows = batch.trained
    scale = (apart.sum(1) / together.sum(1))[rows]
    torch.testing.assert_close(scale, scale[:1].expand_as(scale), rtol=1e-6, atol=1e-9)


@seeds
def test_whitening_twice_is_whitening_once(seed):
    batch = random_batch(seed, (4, 5), distinct=True, unscored=0.0)
    once = BatchWhiten(DiscountedReturn(1.0))
    torch.testing.assert_close(BatchWhiten(once)(batch), once(batch), rtol=1e-6, atol=1e-7)


@seeds
def test_wrappers_switched_off_change_nothing(seed):
    batch = random_batch(seed)
    plain = GroupCentre()(batch)
    for wrapper in (
        Clip(GroupCentre(), 1e6),
        LengthPenalty(GroupCentre(), limit=1000, buffer=1),
        LengthPenalty(GroupCentre(), limit=2, buffer=1, factor=0.0),
        Difficulty(GroupCentre(), low=1.0, high=1.0),
        KLInReward(GroupCentre(), coef=0.0),
    ):
        torch.testing.assert_close(wrapper(batch), plain)


@seeds
def test_imitation_weighted_alike_is_supervised(seed):
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    supervised = NLL()(batch, out).value
    torch.testing.assert_close(RewardWeighted(beta=1e9)(batch, out).value, supervised, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(Filtered(threshold=-1e9)(batch, out).value, supervised)


@seeds
def test_the_reference_seen_as_a_view_costs_the_same(seed):
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    seen = replace(batch, ref_logp=out.views["view"].logp.detach())
    torch.testing.assert_close(
        KLBetweenViews(Blur(), coef=0.3)(batch, out).value, KLToReference(coef=0.3)(seen, out).value
    )
