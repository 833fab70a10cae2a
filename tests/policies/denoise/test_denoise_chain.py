"""Log-probabilities and divergences of chains, against torch.distributions and loops written from the formulas."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from policies.denoise.families import DIFFUSION, FLOW, build, prompt, rollout
from saccade.core.batch import pack
from saccade.core.errors import ConfigError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context
from saccade.policies.denoise.chain import Chain, initial_noise
from saccade.policies.denoise.steps import DDIM, EveryStep, FlowSDE, Suffix


@pytest.mark.parametrize("reduce, dimensions", [("sum", 1), ("mean", 48)])
def test_densities_and_divergences_are_those_of_torch(reduce, dimensions):
    generator = torch.Generator().manual_seed(0)
    x, mean, other = torch.randn(3, 5, 3, 4, 4, dtype=torch.float64, generator=generator)
    std = torch.rand(5, dtype=torch.float64, generator=generator) + 0.1
    ours, theirs = (Independent(Normal(m, std.reshape(5, 1, 1, 1)), 3) for m in (mean, other))
    chain = Chain(reduce)
    torch.testing.assert_close(chain.log_density(x, mean, std), ours.log_prob(x) / dimensions, atol=1e-12, rtol=1e-12)
    expected = kl_divergence(ours, theirs) / dimensions
    torch.testing.assert_close(chain.divergence(mean, other, std), expected, atol=1e-12, rtol=1e-12)


def test_a_density_by_hand():
    """One value x = 1 under N(0, 2^2): -(1/2)^2 / 2 - log 2 - log sqrt(2 pi) = -0.125 - 0.6931 - 0.9189."""
    found = Chain().log_density(torch.ones(1, 1), torch.zeros(1, 1), torch.full((1,), 2.0))
    assert float(found) == pytest.approx(-1.7371, abs=1e-4)


def test_no_gradient_goes_through_the_scored_state():
    x, mean = torch.ones(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    Chain().log_density(x, mean, torch.ones(1)).sum().backward()
    assert x.grad is None and mean.grad is not None


def test_reductions_other_than_mean_and_sum_are_refused():
    with pytest.raises(ConfigError, match=r'likelihood.reduce must be "mean" or "sum"'):
        Chain("max")  # type: ignore[arg-type]


def flow_step(x, v, t, after, second):
    """Mean and standard deviation from the paper's equation; a = 0.7."""
    sig, dt = 0.7 * math.sqrt(t / ((1 - second) if t == 1 else 1 - t)), after - t
    return x + (v + sig**2 / (2 * t) * (x + (1 - t) * v)) * dt, sig * math.sqrt(-dt)


def ddpm_step(x, epsilon, kept, after):
    """Ancestral sampling; kept is A_t."""
    clean = (x - math.sqrt(1 - kept) * epsilon) / math.sqrt(kept)
    std = math.sqrt((1 - after) / (1 - kept) * (1 - kept / after))
    return math.sqrt(after) * clean + math.sqrt(1 - after - std**2) * epsilon, std


def retold(policy, trajectory, guidance):
    """Log-probabilities of one trajectory in float64: step by step, dimension by dimension through torch."""
    record, conditions = trajectory.turns[0].record, policy.denoiser.condition([trajectory.prompt])
    blank, process, steps = policy.denoiser.blank(), policy.process, policy.spec.sampler.steps
    flow = isinstance(policy.spec.sampler, FlowSDE)
    found = torch.zeros(steps, dtype=torch.float64)
    for i in range(steps - 1):
        x, after = record.states[i][None], record.states[i + 1]
        t = 1 - i / steps if flow else 1000 - 1000 / steps * i - 1
        told, nothing = (
            policy.denoiser.predict(x, torch.tensor([t], dtype=torch.float64), c)[0] for c in (conditions, blank)
        )
        prediction = nothing + guidance * (told - nothing)
        if flow:
            mean, std = flow_step(x[0], prediction, t, 1 - (i + 1) / steps, 1 - 1 / steps)
        else:
            kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
            mean, std = ddpm_step(x[0], prediction, float(kept[int(t)]), float(kept[int(t - 1000 / steps)]))
        assert process.span in (1.0, 1000.0)
        found[i] = Normal(mean, std).log_prob(after).mean()
    return found


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("which", ["flow", "diffusion"])
def test_log_probs_of_chains_are_those_of_the_papers_formulas(which, guidance):
    epsilon = replace(DIFFUSION, sampler=DDIM(5), process=replace(DIFFUSION.process, prediction="epsilon"))
    spec = replace(FLOW if which == "flow" else epsilon, guidance=guidance)
    policy = build(spec).double()
    batch = pack(rollout(policy, prompts=2, n=2))
    with torch.no_grad():
        found = policy.log_prob(batch).logp
        for i, trajectory in enumerate(batch.trajectories):
            expected = retold(policy, trajectory, guidance)
            torch.testing.assert_close(found[i], expected, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(trajectory.turns[0].logp.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_divergence_of_steps_is_the_squared_distance_of_means_over_twice_the_variance():
    """v of the reference is moved by 0.1 everywhere. At step i mean moves by 0.1 dt (1 + sig^2 (1 - t) / (2 t)), std is
    sig sqrt(-dt): with dt = -0.2."""
    policy = build(FLOW).double()
    reference: Any = frozen_copy(policy)
    with torch.no_grad():
        reference.denoiser.trunk.leave[2].bias += 0.1
    kl = policy.log_prob(pack(rollout(policy, prompts=1)), Need(kl_to=reference)).kl
    for i, t in enumerate([1.0, 0.8, 0.6, 0.4]):
        sig = 0.7 * math.sqrt(t / (0.2 if t == 1 else 1 - t))
        moved = 0.1 * 0.2 * (1 + sig**2 * (1 - t) / (2 * t))
        assert kl[:, i].tolist() == pytest.approx([moved**2 / (2 * sig**2 * 0.2)] * 2, rel=1e-6)
    assert kl[:, 4].tolist() == [0.0, 0.0]


def test_a_chain_begins_with_the_noise_of_its_seed_and_a_group_may_share_it():
    for shared in (False, True):
        policy = build(replace(FLOW, shared_noise=shared))
        first, second = policy.act([Context(prompt())], n=2, sampling=Sampling(), seeds=[8, 9])[0]
        assert torch.equal(first.record.states[0], initial_noise(8, (3, 8, 8)))
        assert torch.equal(second.record.states[0], initial_noise(8 if shared else 9, (3, 8, 8)))
        assert not torch.equal(first.record.states[1], second.record.states[1])


def test_branches_part_where_their_own_noise_begins():
    policy = build(replace(FLOW, shared_noise=True, choice=Suffix(2, most=2, tail=1)))
    acts = policy.act([Context(prompt())], n=3, sampling=Sampling(), seeds=[1, 2, 3])[0]
    states = [act.record.states for act in acts]
    assert [act.record.first for act in acts] == [2, 2, 2]
    assert all(torch.equal(s[0], states[0][0]) for s in states[1:])
    assert len({float(s[1].sum()) for s in states}) == 3
    # The common steps were random: another group of the same prompt has gone elsewhere.
    other = policy.act([Context(prompt())], sampling=Sampling(), seeds=[4])[0][0]
    assert not torch.equal(other.record.states[0], states[0][0])


def test_records_hold_the_states_around_the_random_steps_only():
    policy = build(replace(FLOW, choice=EveryStep(3)))
    (act,) = policy.act([Context(prompt())], sampling=Sampling(), seeds=[0])[0]
    assert act.record.states.shape == (3, 3, 8, 8) and act.record.random.tolist() == [True, True, False, False, False]


def test_states_are_handed_on_as_they_are_recorded():
    """In half precision the recorded state is the rounded one, and the log-probability is that of the rounded one."""

    class Half(type(build(FLOW))):
        @property
        def states(self):
            return torch.empty(0, dtype=torch.bfloat16)

    policy = Half(FLOW).eval()
    batch = pack(rollout(policy))
    assert batch.trajectories[0].turns[0].record.states.dtype == torch.bfloat16
    torch.testing.assert_close(policy.log_prob(batch).logp.detach(), batch.old_logp, atol=2e-5, rtol=0)
