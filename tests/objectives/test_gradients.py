"""Gradients: against finite differences, and against exact expectations over every outcome of small problems."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from formulas import OBJECTIVES, kto, kto_origin, lines
from saccade.advantages.group import GroupCentre
from saccade.advantages.shaping import KLInReward
from saccade.advantages.temporal import DiscountedReturn
from saccade.core.batch import pack
from saccade.core.policy import LogProbs
from saccade.core.reward import Score
from saccade.objectives.policy_gradient import CISPO, DualClip, PPOClip, Reinforce
from saccade.objectives.regularise import EntropyBonus, KLToReference
from tables import finished, prompt, random_batch, random_out, trajectory

# Their losses hold a factor without gradient, so that finite differences see more than they differentiate.
STOPPED = {"CISPO", "KTO", "BatchKTO", "NFT", "NFT small beta", "PositiveNFT"}


def leaves(out: Any) -> tuple[torch.Tensor, ...]:
    return (out.logp, out.entropy, out.kl, out.value, out.views["view"].logp)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - STOPPED))
def test_gradient_equals_finite_differences(name, seed):
    objective, _ = OBJECTIVES[name]
    batch = finished(random_batch(seed, (2, 3)))
    out = random_out(batch, seed)

    found = torch.autograd.grad(objective(batch, out).value, leaves(out), allow_unused=True)
    used = [gradient is not None for gradient in found]

    def loss(*given):
        rest = iter(given)
        logp, entropy, kl, value, view = (next(rest) if u else x for u, x in zip(used, leaves(out), strict=True))
        return objective(batch, LogProbs(logp, entropy, kl, value, views={"view": LogProbs(view)})).value

    assert torch.autograd.gradcheck(loss, [x for u, x in zip(used, leaves(out), strict=True) if u])


@pytest.mark.parametrize("seed", range(3))
def test_cispo_gradient_is_the_capped_ratio_times_the_advantage(seed):
    """d/dlogp of -w clip(r) A logp with clip(r) held fixed."""
    batch = finished(random_batch(seed))
    out = random_out(batch, seed)
    (gradient,) = torch.autograd.grad(CISPO(low=0.3, high=0.2)(batch, out).value, out.logp)
    ratio = (out.logp.detach() - batch.old_logp).exp().clamp(0.7, 1.2)
    torch.testing.assert_close(gradient, -batch.weight * ratio * batch.advantage)


@pytest.mark.parametrize("seed", range(3))
def test_kto_gradient_holds_the_reference_point_fixed(seed):
    """Central differences of the loop with z kept at its value."""
    batch = finished(random_batch(seed, (3, 1, 4)))
    out = random_out(batch, seed)
    objective, _ = OBJECTIVES["KTO"]
    (gradient,) = torch.autograd.grad(objective(batch, out).value, out.logp)
    table = lines(batch, out, "action")
    origins = [kto_origin(row, table) for row in table]
    trained = torch.nonzero(batch.trained)[:, 0].tolist()
    for row, i in zip(table, trained, strict=True):
        columns = torch.nonzero(batch.mask[i])[:, 0].tolist()
        for t, column in enumerate(columns):
            at = row.logp[t]
            row.logp[t] = at + 1e-5
            above = kto(table, origins)
            row.logp[t] = at - 1e-5
            below = kto(table, origins)
            row.logp[t] = at
            assert gradient[i, column].item() == pytest.approx((above - below) / 2e-5, abs=1e-8)


# --- exact expectations: every trajectory once, weighted by its probability -------------------------------------------

REWARDS = torch.tensor([[0.0, 1.0, -2.0], [0.5, 3.0, 1.0], [2.0, -1.0, 0.25]], dtype=torch.float64)
"""Paid for the pair (first action, second action)."""


def logits(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A first action among three, and a second among three that depends on it."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    second = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    return first, second


def all_logp(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """logp [9, 2] of both actions of each of the nine trajectories."""
    pairs = list(product(range(3), range(3)))
    one, two = first.log_softmax(0), second.log_softmax(1)
    return torch.stack([torch.stack([one[a], two[a, b]]) for a, b in pairs])


def enumerated(old: torch.Tensor, reference: torch.Tensor) -> Any:
    """All nine trajectories as one table; the first action is paid a little too. Weights are probabilities."""
    shared = prompt()
    rows = old.detach().tolist()
    group = [
        trajectory(shared, logp, scores={"r": Score(float(REWARDS[a, b]), actions=[0.1 * a, 0.0])})
        for logp, (a, b) in zip(rows, product(range(3), range(3)), strict=True)
    ]
    probability = old.detach().sum(1).exp()[:, None].expand(9, 2)
    return replace(
        pack([group]),
        old_logp=old.detach(),
        ref_logp=reference.detach(),
        weight=probability,
        counts=(1.0, 1.0),
    )


def expected_reward(logp: torch.Tensor) -> torch.Tensor:
    paid = torch.stack([REWARDS[a, b] + 0.1 * a for a, b in product(range(3), range(3))])
    return (logp.sum(1).exp() * paid).sum()


@pytest.mark.parametrize("seed", range(3))
def test_score_function_has_mean_zero(seed):
    """E[grad log p] = 0: a constant advantage trains nothing."""
    weights = logits(seed)
    logp = all_logp(*weights)
    batch = enumerated(logp, logp)
    batch = replace(batch, advantage=torch.full((9, 2), 3.0, dtype=torch.float64))
    for gradient in torch.autograd.grad(Reinforce()(batch, LogProbs(logp)).value, weights):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("seed", range(3))
def test_score_function_of_three_actions_has_mean_zero(seed):
    """Each action once, weighted by its probability."""
    first, _ = logits(seed)
    logp = first.log_softmax(0)[:, None]
    shared = prompt()
    batch = pack([[trajectory(shared, [x], scores={"r": 0.0}) for x in logp[:, 0].tolist()]])
    batch = replace(batch, advantage=torch.ones(3, 1), weight=logp.detach().exp())
    (gradient,) = torch.autograd.grad(Reinforce()(batch, LogProbs(logp)).value, first)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("objective", [Reinforce(), PPOClip(), DualClip(), CISPO()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_policy_gradient_is_the_gradient_of_the_expected_reward(objective, seed):
    """On fresh samples every policy gradient is exact, with rewards to go as with outcomes minus any baseline."""
    weights = logits(seed)
    logp = all_logp(*weights)
    exact = torch.autograd.grad(expected_reward(logp), weights, retain_graph=True)
    batch = enumerated(logp, logp)
    for advantage in (DiscountedReturn(1.0), GroupCentre()):
        ready = replace(batch, advantage=advantage(batch).double())
        found = torch.autograd.grad(objective(ready, LogProbs(logp)).value, weights, retain_graph=True)
        for gradient, truth in zip(found, exact, strict=True):
            torch.testing.assert_close(-gradient, truth, rtol=1e-5, atol=1e-6)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of the joint distribution of both actions."""
    return (p.sum(1).exp() * (p - q).sum(1)).sum()


def kl_setting(seed: int):
    weights, other = logits(seed), logits(seed + 100)
    logp, reference = all_logp(*weights), all_logp(*other).detach()
    return weights, logp, enumerated(logp, reference)


def first_step(batch: Any) -> torch.Tensor:
    """Where the second action is left out, the identities hold without the later action's dependence on the first."""
    return batch.weight * torch.tensor([[1.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_k1_as_a_loss_has_no_expected_gradient(seed):
    weights, logp, batch = kl_setting(seed)
    loss = KLToReference(1.0, "k1")(batch, LogProbs(logp)).value
    for gradient in torch.autograd.grad(loss, weights):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("estimator", "forward"), [("k2", False), ("k3", True)])
@pytest.mark.parametrize("seed", range(3))
def test_k2_pulls_along_the_reverse_and_k3_along_the_forward_divergence(estimator, forward, seed):
    """For the first action alone: E_p[grad k2] = grad KL(p || q), E_p[grad k3] = grad KL(q || p)."""
    weights, logp, batch = kl_setting(seed)
    loss = KLToReference(1.0, estimator)(replace(batch, weight=first_step(batch)), LogProbs(logp)).value
    (found,) = torch.autograd.grad(loss, weights[:1], retain_graph=True)
    p, q = weights[0].log_softmax(0), batch.ref_logp[::3, 0]
    truth = (q.exp() * (q - p)).sum() if forward else (p.exp() * (p - q)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(truth, weights[:1])[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_k1_in_the_reward_gives_the_gradient_of_the_reverse_divergence(seed):
    weights, logp, batch = kl_setting(seed)
    batch = replace(batch, rewards={"r": torch.zeros_like(logp).detach()}, reward_weight={"r": 1.0})
    advantage = KLInReward(DiscountedReturn(1.0), coef=1.0)(batch)
    loss = Reinforce()(replace(batch, advantage=advantage), LogProbs(logp)).value
    found = torch.autograd.grad(loss, weights, retain_graph=True)
    for gradient, truth in zip(found, torch.autograd.grad(kl(logp, batch.ref_logp), weights), strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_estimators_of_divergence_are_unbiased_where_they_say_so(seed):
    """k1 and k3 have the mean KL(p || q); the clamp of k3 is far away here."""
    weights, logp, batch = kl_setting(seed)
    batch = replace(batch, weight=first_step(batch))
    p, q = weights[0].log_softmax(0), batch.ref_logp[::3, 0]
    for estimator in ("k1", "k3"):
        found = KLToReference(1.0, estimator)(batch, LogProbs(logp)).value
        torch.testing.assert_close(found, (p.exp() * (p - q)).sum(), rtol=1e-6, atol=1e-9)


def test_entropy_bonus_raises_the_entropy():
    (first, _) = logits(0)
    batch = finished(pack([[trajectory(prompt(), [-1.0], scores={"r": 0.0})]]))

    def entropy(x):
        return -(x.log_softmax(0).exp() * x.log_softmax(0)).sum()

    loss = EntropyBonus(1.0)(batch, LogProbs(torch.zeros(1, 1).double(), entropy=entropy(first).view(1, 1))).value
    (gradient,) = torch.autograd.grad(loss, first)
    assert entropy(first - 0.1 * gradient) > entropy(first)
