"""Forward-process objectives: hand-derived numbers, and one row a method of the table of signed weights.

A row's weights are written from the papers' gradients in plain floats; ``signed_weights`` differentiates.
"""

import math
from dataclasses import replace

import pytest
import torch

from formulas import clip, lines, sigma
from saccade.core.batch import finish, pack
from saccade.core.errors import ConfigError
from saccade.core.policy import LogProbs
from saccade.objectives.matching import NFT, Matching, PositiveNFT, signed_weights
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.preference import DPO, BatchKTO, RelativeDPO
from saccade.objectives.regression import NLL, Filtered, RewardWeighted
from saccade.objectives.regularise import KLToReference
from tables import finished, prompt, random_batch, random_out, trajectory


def one(advantage, old_error, error, distance):
    """One picture with one draw."""
    batch = pack([[trajectory(prompt(), [0.0], scores={"r": 0.0})]])
    batch = replace(batch, advantage=torch.tensor([[advantage]]), ref_logp=torch.tensor([[-old_error]]))
    logp = torch.tensor([[-error]], requires_grad=True)
    return finish(batch, "action"), LogProbs(logp, kl=torch.tensor([[distance]], requires_grad=True))


def test_nft_at_beta_one():
    """A = 3 with limit 5: q = 0.8. e = 0.25, e_old = 0.36, d = 0.01.

    l+ = e = 0.25, n+ = 0.5; l- = 2 * 0.36 - 0.25 + 2 * 0.01 = 0.49, n- = 0.7.
    L = 5 (0.8 * 0.5 + 0.2 * 0.7) = 2.7.  dL/de = 5 (0.8 / 0.5 - 0.2 / 0.7),  dL/dd = 5 * 0.2 * 2 / 0.7
    """
    batch, out = one(3.0, 0.36, 0.25, 0.01)
    loss = NFT()(batch, out)
    assert loss.value.item() == pytest.approx(2.7)
    assert loss.stats["positive"].item() == pytest.approx(0.25)
    assert loss.stats["negative"].item() == pytest.approx(0.49)
    logp, kl = torch.autograd.grad(loss.value, (out.logp, out.kl))
    assert -logp.item() == pytest.approx(8 - 1 / 0.7)
    assert kl.item() == pytest.approx(2 / 0.7)


def test_nft_at_beta_one_half():
    """A = 0: q = 0.5. e = 0.2, e_old = 0.4, d = 0.08.

    l+ = 0.5 * 0.4 + 0.5 * 0.2 - 0.25 * 0.08 = 0.28;  l- = 1.5 * 0.4 - 0.5 * 0.2 + 0.75 * 0.08 = 0.56
    L = 5 / 0.5 * (0.5 sqrt(0.28) + 0.5 sqrt(0.56))
    """
    batch, out = one(0.0, 0.4, 0.2, 0.08)
    assert NFT(beta=0.5)(batch, out).value.item() == pytest.approx(5 * (math.sqrt(0.28) + math.sqrt(0.56)))


def test_branches_are_the_errors_of_the_two_mixtures():
    """For vectors: ||v_old + b (v - v_old) - target||^2 and the same with -b."""
    generator = torch.Generator().manual_seed(0)
    v, old, target = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    e, e_old, d = ((a - b).square().mean().item() for a, b in ((v, target), (old, target), (v, old)))
    for beta in (0.1, 1.0, 1.7):
        batch, out = one(0.0, e_old, e, d)
        _, positive, negative = NFT(beta=beta).branches(batch, out)
        assert positive.item() == pytest.approx((old + beta * (v - old) - target).square().mean().item(), rel=1e-5)
        assert negative.item() == pytest.approx((old - beta * (v - old) - target).square().mean().item(), rel=1e-5)


def test_nft_at_the_old_policy_pushes_as_much_as_it_pulls():
    """v = v_old: l+ = l- = e and d = 0; the weight on e is 5 (2 q - 1) / sqrt(e): the sign of the advantage."""
    for advantage, q in ((5.0, 1.0), (0.0, 0.5), (-2.5, 0.25), (-99.0, 0.0)):
        batch, out = one(advantage, 0.25, 0.25, 0.0)
        weights, _ = signed_weights(NFT(), batch, out)
        assert weights.error.item() == pytest.approx(5 * (2 * q - 1) / 0.5)


def test_without_the_negative_branch_nothing_is_pushed():
    batch, out = one(-2.5, 0.36, 0.25, 0.01)
    assert signed_weights(NFT(), batch, out)[0].error.item() < 0
    assert signed_weights(PositiveNFT(), batch, out)[0].error.item() == pytest.approx(5 * 0.25 / 0.5)


def flat(weight):
    """A row whose weight belongs to each draw: averaging weight times the number."""
    return lambda table: [[row.weight[t] * weight(row, t) for t in range(row.n)] for row in table]


def nft_weight(row, t, b=1.0, c=2.0):
    q = clip(row.advantage[t] / (2 * c) + 0.5, 0, 1)
    e, old, d = -row.logp[t], -row.ref[t], row.kl[t]
    plus = (1 - b) * old + b * e - b * (1 - b) * d
    minus = (1 + b) * old - b * e + b * (1 + b) * d
    n_plus, n_minus = (max(math.sqrt(max(x, 0)), 1e-5) for x in (plus, minus))
    return c * (q / n_plus - (1 - q) / n_minus)


def awm_weight(row, t):
    """A r inside the clip of 1: a good sample's ratio above 2 has no gradient, no ratio is below 0."""
    r, a = math.exp(row.logp[t] - row.old[t]), row.advantage[t]
    return 0.0 if a > 0 and r > 2 else a * r


def ends(table, g):
    near = [row for row in table if row.group == g]
    w, l = max(near, key=lambda row: row.outcome), min(near, key=lambda row: row.outcome)
    return (w, l) if w.outcome > l.outcome else None


def dpo_row(table, beta=0.3):
    weight = {id(row): 0.0 for row in table}
    groups = sorted({row.group for row in table})
    for g in groups:
        if pair := ends(table, g):
            w, l = pair
            force = beta * sigma(-beta * (w.gain - l.gain)) / len(groups)
            weight[id(w)] += force
            weight[id(l)] -= force
    return [[weight[id(row)]] * row.n for row in table]


def relative_row(table, beta=0.3):
    """All captions of these tables are alike: every loser weighs the same."""
    weight = {id(row): 0.0 for row in table}
    groups = sorted({row.group for row in table})
    pairs = [pair for g in groups if (pair := ends(table, g))]
    for w, _ in pairs:
        for _, l in pairs:
            force = beta * sigma(-beta * (w.gain - l.gain)) / len(pairs) / len(groups)
            weight[id(w)] += force
            weight[id(l)] -= force
    return [[weight[id(row)]] * row.n for row in table]


def kto_row(table, beta=0.3):
    origin = max(0.0, sum(row.gain / row.n for row in table) / len(table))
    rows = []
    for row in table:
        y, w = (1, 1.2) if row.outcome > 0.25 else (-1, 0.8)
        h = sigma(y * beta * (row.gain / row.n - origin))
        rows.append([y * w * beta * h * (1 - h) / row.n / len(table)] * row.n)
    return rows


ROWS = {
    "SFT": (NLL(), flat(lambda row, t: 1.0)),
    "RWR": (RewardWeighted(beta=0.5, cap=3.0), flat(lambda row, t: min(math.exp(row.advantage[t] / 0.5), 3.0))),
    "RAFT": (Filtered(0.3), flat(lambda row, t: float(row.advantage[t] > 0.3))),
    "AWM": (PPOClip(low=1.0, high=1.0), flat(awm_weight)),
    "NFT": (NFT(beta=1.0, limit=2.0), flat(nft_weight)),
    "NFT, small beta": (NFT(beta=0.1, limit=2.0), flat(lambda row, t: nft_weight(row, t, 0.1))),
    "Diffusion-DPO": (DPO(beta=0.3), dpo_row),
    "Diffusion-KTO": (BatchKTO(beta=0.3, desirable=1.2, undesirable=0.8, threshold=0.25), kto_row),
    "Diffusion-RPO": (RelativeDPO(beta=0.3), relative_row),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ROWS)
def test_every_method_is_a_row_of_signed_weights(method, seed):
    objective, weights = ROWS[method]
    batch = finished(random_batch(seed, [(3, 1, 4), (2, 5), (6, 2, 3)][seed]))
    out = random_out(batch, seed)
    found, loss = signed_weights(objective, batch, out)
    assert not found.error.requires_grad and not found.error[~batch.mask].any()
    expected = [x for row in weights(lines(batch, out, "action")) for x in row]
    assert found.error[batch.mask].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-9)

    wrapped = Matching(objective)(batch, out)
    plain = torch.autograd.grad(objective(batch, out).value, (out.logp, out.kl), allow_unused=True)
    same = torch.autograd.grad(wrapped.value, (out.logp, out.kl), allow_unused=True)
    for a, b in zip(plain, same, strict=True):
        torch.testing.assert_close(torch.zeros_like(out.kl) if a is None else a, b)
    assert wrapped.stats["value"].item() == pytest.approx(loss.value.item())
    assert wrapped.stats["pull"].item() == pytest.approx(sum(x for x in expected if x > 0), rel=1e-5)
    assert wrapped.stats["push"].item() == pytest.approx(-sum(x for x in expected if x < 0), rel=1e-5)


def test_distances_have_weights_too():
    """A divergence term is a row with u = coef; NFT's at beta 1 is c (1 - q) 2 / n-."""
    batch, out = one(3.0, 0.36, 0.25, 0.01)
    weights, _ = signed_weights(KLToReference(coef=0.7, estimator="exact"), batch, out)
    assert weights.distance.item() == pytest.approx(0.7) and weights.error.item() == 0
    assert signed_weights(NFT(), batch, out)[0].distance.item() == pytest.approx(5 * 0.2 * 2 / 0.7)


def test_awm_weighs_errors_by_advantage_ratio_and_the_slope_of_the_huber_weighting():
    """logp = -h(e), h(e) = t / p ((e + d)^p - d^p): dL/de = A r h'(e), h'(e) = t (e + d)^(p - 1)."""
    error = torch.tensor([[0.3, 0.05]], dtype=torch.float64, requires_grad=True)
    level, p, small = torch.tensor([[0.6, 0.9]], dtype=torch.float64), 0.25, 1e-10
    logp = -level / p * ((error + small) ** p - small**p)
    batch = pack([[trajectory(prompt(), [0.0, 0.0], scores={"r": 0.0})]])
    old = (logp - torch.tensor([[0.2, -0.1]])).detach()
    batch = finish(replace(batch, old_logp=old, advantage=torch.tensor([[2.0, -1.5]], dtype=torch.float64)), "action")
    (gradient,) = torch.autograd.grad(Matching(PPOClip(1.0, 1.0))(batch, LogProbs(logp)).value, error)
    expected = [
        0.5 * 2.0 * math.exp(0.2) * 0.6 * (0.3 + 1e-10) ** -0.75,
        0.5 * -1.5 * math.exp(-0.1) * 0.9 * (0.05 + 1e-10) ** -0.75,
    ]
    assert gradient[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_matching_is_cut_where_its_inner_objective_is():
    assert Matching(NLL()).unit == "trajectory"
    assert Matching(DPO()).unit == "group"
    assert Matching(RelativeDPO()).unit == Matching(BatchKTO()).unit == "batch"
    assert Matching(NFT()).requires == {"advantage", "ref_logp", "kl"}


@pytest.mark.parametrize("make", [lambda: NFT(beta=0.0), lambda: NFT(limit=-1.0), lambda: PositiveNFT(beta=-1.0)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="must be > 0"):
        make()
