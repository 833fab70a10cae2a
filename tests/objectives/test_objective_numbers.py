"""Objectives on tables small enough for mental arithmetic; errors of their settings."""

import math
from dataclasses import replace

import pytest
import torch

from formulas import Blur
from saccade.advantages.temporal import GAE, DiscountedReturn
from saccade.core.batch import finish, pack
from saccade.core.content import Text
from saccade.core.errors import ConfigError
from saccade.core.policy import LogProbs
from saccade.core.schedule import After, Linear, WarmupStableDecay
from saccade.core.state import Progress
from saccade.core.trajectory import Prompt, Task
from saccade.objectives.policy_gradient import (
    CISPO,
    GSPO,
    ClampedRatio,
    DualClip,
    PPOClip,
    Reinforce,
    TruncatedImportance,
)
from saccade.objectives.preference import (
    DPO,
    IPO,
    KTO,
    ORPO,
    RPO,
    BatchKTO,
    Hinge,
    RelativeDPO,
    SimPO,
    word_distance,
)
from saccade.objectives.regression import NLL, Filtered, RewardWeighted
from saccade.objectives.regularise import EntropyBonus, KLBetweenViews, KLToReference, Scheduled, ValueLoss
from tables import outcomes, prompt, trajectory


def single(old, advantage, **streams):
    """One trajectory, one row; averaged over actions."""
    batch = pack([[trajectory(prompt(), old, scores={"r": 0.0})]])
    made = {name: None if x is None else torch.tensor([x]) for name, x in streams.items()}
    return finish(replace(batch, advantage=torch.tensor([advantage]), **made), "action")


def logs(*values, **rest):
    return LogProbs(torch.tensor([list(values)], requires_grad=True), **rest)


def test_reinforce():
    """-(2 * -1 + -1 * -3) / 2 = -0.5"""
    assert Reinforce()(single([-1.0, -3.0], [2.0, -1.0]), logs(-1.0, -3.0)).value.item() == pytest.approx(-0.5)


def test_ppo_clip_cuts_large_ratios_of_good_actions_and_small_ones_of_bad_actions():
    """Ratios 1.5, 0.5, 1.5, 0.5; advantages 1, 1, -1, -1; low 0.2, high 0.3.

    min(1.5, 1.3) = 1.3; min(0.5, 0.8) = 0.5; min(-1.5, -1.3) = -1.5; min(-0.5, -0.8) = -0.8. Sum -0.5, loss 0.125.
    The first and the last get no gradient; the gradient of the others is -r A / 4.
    """
    batch = single([0.0] * 4, [1.0, 1.0, -1.0, -1.0])
    out = logs(math.log(1.5), math.log(0.5), math.log(1.5), math.log(0.5))
    loss = PPOClip(low=0.2, high=0.3)(batch, out)
    assert loss.value.item() == pytest.approx(0.125)
    assert loss.stats["clip_fraction"].item() == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss.value, out.logp)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.125, 0.375, 0.0]]))


def test_clamped_ratios_have_no_gradient_outside_the_range_whatever_the_advantage():
    """Ratios 1.5, 0.5, 1.5, 1.1; advantages 1, 1, -1, -1; range 0.2: 1.2, 0.8, -1.2, -1.1. Sum -0.3, loss 0.075."""
    batch = single([0.0] * 4, [1.0, 1.0, -1.0, -1.0])
    out = logs(math.log(1.5), math.log(0.5), math.log(1.5), math.log(1.1))
    loss = ClampedRatio(low=0.2, high=0.2)(batch, out)
    assert loss.value.item() == pytest.approx(0.075)
    assert loss.stats["clip_fraction"].item() == pytest.approx(0.75)
    (gradient,) = torch.autograd.grad(loss.value, out.logp)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 0.0, 0.275]]))


def test_dual_clip_bounds_the_loss_of_bad_actions():
    """Ratio 5 with A = -1 costs c = 3 and gets no gradient; ratio 2 costs 2. Loss (3 + 2) / 2."""
    out = logs(math.log(5.0), math.log(2.0))
    loss = DualClip(c=3.0)(single([0.0, 0.0], [-1.0, -1.0]), out)
    assert loss.value.item() == pytest.approx(2.5)
    assert loss.stats["dual_clip_fraction"].item() == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss.value, out.logp)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 1.0]]))


def test_gspo_takes_the_geometric_mean_ratio():
    """Log-ratios 0.4 and 0: s = e^0.2 = 1.2214, clipped at 1.1; A = 2: loss -2.2, without gradient."""
    out = logs(-0.6, -1.0)
    loss = GSPO(low=0.1, high=0.1)(single([-1.0, -1.0], [2.0, 2.0]), out)
    assert loss.value.item() == pytest.approx(-2.2)
    (gradient,) = torch.autograd.grad(loss.value, out.logp)
    assert not gradient.any()
    free = GSPO(low=0.1, high=0.5)(single([-1.0, -1.0], [2.0, 2.0]), out)
    (gradient,) = torch.autograd.grad(free.value, out.logp)
    torch.testing.assert_close(gradient, torch.full((1, 2), -math.exp(0.2)))


def test_cispo_caps_the_weight_but_keeps_the_gradient():
    """Ratio 3 capped at 1.5, A = 2, logp = log 3: loss -3 log 3, gradient -3."""
    out = logs(math.log(3.0))
    loss = CISPO(low=1.0, high=0.5)(single([0.0], [2.0]), out)
    assert loss.value.item() == pytest.approx(-3 * math.log(3.0))
    (gradient,) = torch.autograd.grad(loss.value, out.logp)
    assert gradient.item() == pytest.approx(-3.0)


def test_ratios_beyond_floating_point_give_finite_losses_and_gradients():
    batch = single([-500.0, 0.0], [1.0, -1.0])
    for objective in (PPOClip(), DualClip(), GSPO(), CISPO()):
        out = logs(0.0, -500.0)
        (gradient,) = torch.autograd.grad(objective(batch, out).value, out.logp)
        assert torch.isfinite(gradient).all()


def test_truncated_importance_weighs_advantages_by_the_gap_between_learner_and_actor():
    """The actor said (-2, -2), the learner (-2 + log 1.5, -2 + log 4): weights 1.5 and, capped, 2. Loss -1.75."""
    batch = single([-2.0, -2.0], [1.0, 1.0])
    recomputed = torch.tensor([[-2.0 + math.log(1.5), -2.0 + math.log(4.0)]])
    loss = TruncatedImportance(PPOClip(), cap=2.0)(replace(batch, old_logp=recomputed), LogProbs(recomputed))
    assert loss.value.item() == pytest.approx(-1.75)
    assert loss.stats["truncated_fraction"].item() == pytest.approx(0.5)
    assert "clip_fraction" in loss.stats


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)])
def test_kl_estimators(estimator, expected):
    """d = -1 - -1.5 = 0.5."""
    batch = single([-1.0], [0.0], ref_logp=[-1.5])
    loss = KLToReference(coef=2.0, estimator=estimator)(batch, logs(-1.0))
    assert loss.value.item() == pytest.approx(2 * expected)
    assert loss.stats["kl"].item() == pytest.approx(expected)


def test_another_objective_begins_after_so_many_steps():
    """-(2 * -1 + -1 * -3) / 2 = -0.5 from the third step on; the inner objective's needs and unit stay its own."""
    late = Scheduled(Reinforce(), After(2))
    for step, expected in enumerate([0.0, 0.0, -0.5, -0.5]):
        batch = replace(single([-1.0, -3.0], [2.0, -1.0]), progress=Progress(step, 4))
        assert late(batch, logs(-1.0, -3.0)).value.item() == pytest.approx(expected)
    assert late.requires == Reinforce().requires and Scheduled(DPO(), After(1)).unit == DPO().unit
    with pytest.raises(ConfigError, match="steps must be >= 0"):
        After(-1)


def test_the_last_part_of_warm_up_plateau_and_decay_is_a_line_to_zero():
    """10 steps, rise over 2, decay over the last 4: 0.5, then 1 up to step 6, then (10 - step) / 4."""
    factor = WarmupStableDecay(decay=0.4, warmup=2)
    found = [factor(Progress(step, 10)) for step in range(10)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    for wrong, message in (({"decay": 0.0}, "decay must be in"), ({"warmup": -1}, "warmup must be")):
        with pytest.raises(ConfigError, match=message):
            WarmupStableDecay(**wrong)


def test_schedules_multiply_the_coefficient():
    """Half way from 1 to 0 the factor is 0.5."""
    batch = replace(single([-1.0], [0.0], ref_logp=[-2.0]), progress=Progress(step=5, total=10))
    out = logs(-1.0, entropy=torch.tensor([[3.0]]), kl=torch.tensor([[4.0]]))
    falling = Linear(start=1.0, end=0.0)
    assert KLToReference(0.1, "k1", falling)(batch, out).value.item() == pytest.approx(0.05)
    assert KLToReference(0.1, "exact", falling)(batch, out).value.item() == pytest.approx(0.2)
    assert EntropyBonus(0.1, falling)(batch, out).value.item() == pytest.approx(-0.15)


def test_what_a_divergence_requires_depends_on_its_estimator():
    assert KLToReference(estimator="k3").requires == {"ref_logp"}
    assert KLToReference(estimator="exact").requires == {"kl"}
    assert ValueLoss(GAE()).requires == {"value"}


def test_views_that_agree_cost_nothing():
    batch, out = single([-1.0], [0.0]), logs(-1.0, views={"blurred": logs(-1.0)})
    objective = KLBetweenViews(Blur(), name="blurred")
    assert objective.views == {"blurred": Blur()}
    assert objective(batch, out).value.item() == 0


def test_value_loss_takes_the_larger_of_free_and_clipped_error():
    """Return 1 (reward 1 at the end, lam 1), V_old = 0, clip 0.2, coef 1.

    V = 0.5: free 0.25, clipped at 0.2 gives 0.64, larger: loss 0.32 without gradient.
    V = -1: free 4 beats (-0.2 - 1)^2. V = 0.1 lies within the clip: 0.81 / 2.
    """
    made = trajectory(prompt(), [-1.0], scores={"r": 1.0})
    for value, loss, slope in ((0.5, 0.32, 0.0), (-1.0, 2.0, -2.0), (0.1, 0.405, -0.9)):
        batch = finish(replace(pack([[made]]), value=torch.zeros(1, 1), final_value=torch.zeros(1)), "action")
        guess = torch.tensor([[value]], requires_grad=True)
        out = logs(-1.0, value=guess)
        found = ValueLoss(GAE(lam=1.0), clip=0.2, coef=1.0)(batch, out).value
        assert found.item() == pytest.approx(loss)
        assert torch.autograd.grad(found, guess)[0].item() == pytest.approx(slope)


def test_plain_value_regression():
    """clip inf: 0.5 * (0.5 - 1)^2 = 0.125"""
    made = trajectory(prompt(), [-1.0], scores={"r": 1.0})
    batch = finish(replace(pack([[made]]), value=torch.zeros(1, 1), final_value=torch.zeros(1)), "action")
    loss = ValueLoss(DiscountedReturn(), clip=math.inf, coef=1.0)(batch, logs(-1.0, value=torch.tensor([[0.5]])))
    assert loss.value.item() == pytest.approx(0.125)


def test_imitation():
    """logp (-1, -3), A (log 2, -1). NLL 2. Weights (2, e^-1) capped at 1.5: (1.5 + 3/e) / 2. Filtered: 1/2."""
    batch, out = single([-1.0, -3.0], [math.log(2.0), -1.0]), logs(-1.0, -3.0)
    assert NLL()(batch, out).value.item() == pytest.approx(2.0)
    assert NLL(coef=0.25)(batch, out).value.item() == pytest.approx(0.5)
    weighted = RewardWeighted(beta=1.0, cap=1.5)(batch, out).value.item()
    assert weighted == pytest.approx((1.5 + 3 / math.e) / 2)
    filtered = Filtered()(batch, out)
    assert filtered.value.item() == pytest.approx(0.5)
    assert filtered.stats["kept_fraction"].item() == pytest.approx(0.5)


def pair(win, lose, ref_win=None, ref_lose=None):
    """A group of two, the better one second, and current log-probabilities of its actions."""
    shared = prompt()
    group = [
        trajectory(shared, [-1.0] * len(lose), scores={"preferred": 0.0}),
        trajectory(shared, [-1.0] * len(win), scores={"preferred": 1.0}),
    ]
    batch = pack([group])
    width = batch.mask.shape[1]

    def row(x):
        return list(x) + [0.0] * (width - len(x))

    reference = torch.tensor([row(ref_lose or [0.0] * len(lose)), row(ref_win or [0.0] * len(win))])
    return finish(replace(batch, ref_logp=reference), "action"), LogProbs(torch.tensor([row(lose), row(win)]))


def log_sigma(x):
    return -math.log1p(math.exp(-x))


def test_dpo():
    """D_w = -3 + 4 = 1, D_l = -2 + 1 = -1: z = 0.5 * 2 = 1."""
    batch, out = pair([-1.0, -2.0], [-2.0], [-2.0, -2.0], [-1.0])
    loss = DPO(beta=0.5)(batch, out)
    assert loss.value.item() == pytest.approx(-log_sigma(1.0))
    assert {name: x.item() for name, x in loss.stats.items()} == {"pairs": 1.0, "accuracy": 1.0, "margin": 1.0}
    smoothed = DPO(beta=0.5, smoothing=0.1)(batch, out).value.item()
    assert smoothed == pytest.approx(-0.9 * log_sigma(1.0) - 0.1 * log_sigma(-1.0))


def test_ipo_averages_over_actions():
    """D_w / 2 = 0.5, D_l = -1; 1 / (2 * 0.5) = 1: (1.5 - 1)^2."""
    assert IPO(beta=0.5)(*pair([-1.0, -2.0], [-2.0], [-2.0, -2.0], [-1.0])).value.item() == pytest.approx(0.25)


def test_hinge():
    """z = 0.25 * 2 = 0.5."""
    assert Hinge(beta=0.25)(*pair([-1.0, -2.0], [-2.0], [-2.0, -2.0], [-1.0])).value.item() == pytest.approx(0.5)


def test_rpo_adds_the_winner_s_likelihood_per_action():
    """z = 1 as for DPO; the winner's logp per action is -1.5."""
    batch, out = pair([-1.0, -2.0], [-2.0], [-2.0, -2.0], [-1.0])
    assert RPO(beta=0.5, alpha=2.0)(batch, out).value.item() == pytest.approx(-log_sigma(1.0) + 3.0)


def test_simpo():
    """2 * (-1.5 + 2) - 0.5 = 0.5."""
    loss = SimPO(beta=2.0, margin=0.5)(*pair([-1.0, -2.0], [-2.0]))
    assert loss.value.item() == pytest.approx(-log_sigma(0.5))


def test_orpo():
    """p_w = log 0.5 and p_l = log 0.2: odds 1 and 1/4, log odds ratio log 4, sigma(log 4) = 4/5."""
    loss = ORPO(beta=0.5)(*pair([math.log(0.5)] * 2, [math.log(0.2)]))
    assert loss.value.item() == pytest.approx(math.log(2.0) - 0.5 * math.log(0.8))


def test_orpo_survives_certainty():
    batch, out = pair([0.0], [0.0])
    leaf = LogProbs(out.logp.requires_grad_())
    loss = ORPO()(batch, leaf).value
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, leaf.logp)[0]).all()


def test_kto():
    """D_w = 3, D_l = -1, so z = 1; beta 0.5: (1 - sigma(1)) for the good one, (1 - sigma(1)) for the bad one."""
    batch, out = pair([-1.0], [-2.0], [-4.0], [-1.0])
    loss = KTO(beta=0.5, desirable=2.0, undesirable=1.0)(batch, out)
    assert loss.value.item() == pytest.approx(1.5 * (1 - 1 / (1 + math.exp(-1))))
    assert loss.stats["origin"].item() == pytest.approx(1.0)


def test_kto_reference_point_is_never_negative_and_zero_for_single_trajectories():
    """D = -1 for both of the pair: mean -1, so z = 0. Alone with D = 1: z = 0 too."""
    batch, out = pair([-2.0], [-2.0], [-1.0], [-1.0])
    assert KTO()(batch, out).stats["origin"].item() == 0
    alone = finish(replace(outcomes([1.0]), ref_logp=torch.tensor([[-2.0]])), "action")
    loss = KTO(beta=1.0)(alone, logs(-1.0))
    assert loss.value.item() == pytest.approx(1 - 1 / (1 + math.exp(-1)))


def test_groups_without_a_preference_contribute_nothing():
    """Of three groups the second is tied and the third has one scored member: a third of the first's loss remains."""
    shared = outcomes([1, 0], [1, 1], [1, None])
    batch = finish(replace(shared, ref_logp=torch.full((6, 1), -1.0)), "action")
    out = LogProbs(torch.full((6, 1), -1.0, requires_grad=True))
    for objective in (DPO(), IPO(), Hinge(), RPO(), SimPO(), ORPO()):
        loss = objective(batch, out)
        (gradient,) = torch.autograd.grad(loss.value, out.logp)
        assert gradient[:2].any() and not gradient[2:].any()
        assert loss.stats["pairs"].item() == pytest.approx(1 / 3)
    assert DPO()(batch, out).value.item() == pytest.approx(math.log(2.0) / 3)


def test_best_and_worst_of_a_larger_group_make_the_pair():
    batch = finish(replace(outcomes([0.5, 0.1, 0.9, None]), ref_logp=torch.zeros(4, 1)), "action")
    out = LogProbs(torch.zeros(4, 1, requires_grad=True))
    (gradient,) = torch.autograd.grad(DPO(beta=1.0)(batch, out).value, out.logp)
    torch.testing.assert_close(gradient[:, 0], torch.tensor([0.0, 0.5, -0.5, 0.0]))


def captioned(*captions):
    """A winner and a loser for each caption, D = 0.4, 0.1 | 0.2, 0.0 | ..., one action each."""
    groups = []
    for caption in captions:
        content = (Text(caption),)
        shared = Prompt(Task(caption, content), content)
        groups.append([trajectory(shared, [0.0], scores={"r": paid}) for paid in (1.0, 0.0)])
    batch = pack(groups)
    return finish(replace(batch, ref_logp=torch.zeros(len(batch), 1)), "action")


def test_word_distance_is_the_angle_between_word_counts():
    """red circle / red square share one word of two: cosine 1/2. Nothing in common: 1. Itself: 0."""
    prompts = captioned("red circle", "red square", "two blue triangle").prompts
    expected = torch.tensor([[0.0, 0.5, 1.0], [0.5, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(word_distance(prompts), expected)


def test_relative_dpo_compares_winners_with_losers_of_related_prompts():
    """Two prompts at distance 1/2, tau 1/2: one's own loser weighs 1 / (1 + e^-1) = 0.73106, the other 0.26894.

    D = 0.4, 0.1 and 0.2, 0.0 with beta 2: own margins 0.6 and 0.4, crossed 0.8 (first winner) and 0.2 (second winner).
    """
    out = LogProbs(torch.tensor([[0.4], [0.1], [0.2], [0.0]], requires_grad=True))
    loss = RelativeDPO(beta=2.0, tau=0.5)(captioned("red circle", "red square"), out)
    near = 1 / (1 + math.exp(-1))

    def cost(margin):
        return math.log(1 + math.exp(-margin))

    expected = (near * (cost(0.6) + cost(0.4)) + (1 - near) * (cost(0.8) + cost(0.2))) / 2
    assert loss.value.item() == pytest.approx(expected)
    assert loss.stats["accuracy"].item() == 1


def test_relative_dpo_at_temperature_zero_is_dpo():
    batch = captioned("red circle", "red square", "two blue triangle")
    out = LogProbs(torch.randn(6, 1, generator=torch.Generator().manual_seed(1), requires_grad=True))
    values = [objective(batch, out).value for objective in (RelativeDPO(beta=0.7, tau=1e-3), DPO(beta=0.7))]
    torch.testing.assert_close(values[0], values[1])
    gradients = [torch.autograd.grad(value, out.logp)[0] for value in values]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_batch_kto_measures_gains_from_the_mean_of_the_batch():
    """Mean gains 0.5 (good), -0.1 (bad) and 0.2 (bad): Q = 0.2. With beta 10, weights 1 and 2:

    sigma(-3) + 2 sigma(-3) + 2 sigma(0), a third of it. The mean over two draws counts, not their sum.
    """
    shared = outcomes([1.0, 0.0], [0.0], actions=2)
    batch = finish(replace(shared, ref_logp=torch.zeros(3, 2)), "action")
    out = LogProbs(torch.tensor([[0.6, 0.4], [-0.1, -0.1], [0.0, 0.4]], requires_grad=True))
    loss = BatchKTO(beta=10.0, undesirable=2.0)(batch, out)
    assert loss.value.item() == pytest.approx((3 / (1 + math.exp(3)) + 1) / 3)
    assert loss.stats["origin"].item() == pytest.approx(0.2)
    assert loss.stats["good"].item() == pytest.approx(1 / 3)


def test_batch_kto_knows_no_negative_reference_point():
    """All gains -1: Q = 0, not -1, so that a policy that has drifted away from everything is told."""
    batch = finish(replace(outcomes([1.0], [1.0]), ref_logp=torch.zeros(2, 1)), "action")
    loss = BatchKTO(beta=2.0)(batch, LogProbs(torch.full((2, 1), -1.0, requires_grad=True)))
    assert loss.value.item() == pytest.approx(1 / (1 + math.exp(-2)))


def test_preferences_may_not_be_split():
    for objective in (DPO(), IPO(), Hinge(), RPO(), SimPO(), ORPO(), KTO()):
        assert objective.unit == "group"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPOClip(low=-0.1), "low must be in"),
        (lambda: PPOClip(low=1.1), "low must be in"),
        (lambda: PPOClip(high=-0.1), "high must be >= 0"),
        (lambda: GSPO(low=float("nan")), "low must be in"),
        (lambda: CISPO(high=-1.0), "high must be >= 0"),
        (lambda: DualClip(low=2.0), "low must be in"),
        (lambda: DualClip(c=1.1), "c must be > 1"),
        (lambda: TruncatedImportance(NLL()), "inner must be an objective over advantages, got NLL"),
        (lambda: TruncatedImportance(PPOClip(), cap=0.0), "cap must be > 0"),
        (lambda: KLToReference(coef=-0.1), "coef must be >= 0"),
        (lambda: EntropyBonus(coef=float("inf")), "coef must be >= 0"),
        (lambda: ValueLoss(GAE(), clip=0.0), "clip must be > 0"),
        (lambda: ValueLoss(GAE(), coef=-1.0), "coef must be >= 0"),
        (lambda: NLL(coef=-1.0), "coef must be >= 0"),
        (lambda: RewardWeighted(beta=0.0), "beta must be > 0"),
        (lambda: RewardWeighted(cap=0.0), "cap must be > 0"),
        (lambda: DPO(beta=0.0), "beta must be > 0"),
        (lambda: DPO(smoothing=0.5), "smoothing must be in"),
        (lambda: IPO(beta=-1.0), "beta must be > 0"),
        (lambda: Hinge(beta=0.0), "beta must be > 0"),
        (lambda: RPO(alpha=-1.0), "alpha must be >= 0"),
        (lambda: SimPO(beta=0.0), "beta must be > 0"),
        (lambda: ORPO(beta=0.0), "beta must be > 0"),
        (lambda: KTO(desirable=-1.0), "desirable and undesirable must be >= 0"),
        (lambda: BatchKTO(undesirable=-1.0), "desirable and undesirable must be >= 0"),
        (lambda: BatchKTO(beta=0.0), "beta must be > 0"),
        (lambda: RelativeDPO(tau=0.0), "tau must be > 0"),
        (lambda: ClampedRatio(low=1.5), "low must be in"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_divergence_between_views_needs_a_finite_coefficient():
    with pytest.raises(ConfigError, match="coef must be finite"):
        KLBetweenViews(Blur(), coef=math.nan)
