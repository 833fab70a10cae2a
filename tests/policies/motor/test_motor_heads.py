"""The numbers of each head: by hand, against torch.distributions, and against the denoising policies' tables."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions as D

from policies.motor.rooms import CPU, UNITS, build, prompt, seen, turn
from saccade.core.batch import pack
from saccade.core.content import Array
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Observation, Trajectory, forced_turn
from saccade.policies.denoise.noise import Flow
from saccade.policies.denoise.steps import CPS, DDIM, DanceSDE, Euler, FlowSDE
from saccade.policies.denoise.surrogate import Surrogate, UniformTimes
from saccade.policies.motor.discrete import Binned, Categorical
from saccade.policies.motor.flow import FlowHead
from saccade.policies.motor.gaussian import Gaussian
from saccade.policies.motor.scale import Quantiles, Scale
from saccade.policies.motor.seeing import Looking
from saccade.policies.motor.tiny import TinyVLA

WARM = Sampling(temperature=1.5)
SMALL: dict[str, Any] = {"side": 16, "patch": 4, "state": 3, "width": 24}


def policy_of(head, **settings):
    return build(TinyVLA(head=head, **{**SMALL, "commands": 3, "chunk": 2, **settings})).double()


def episodes(policy, sampling=WARM, turns=2, count=3):
    groups = []
    for i in range(count):
        trajectory = Trajectory(prompt(i))
        for k in range(turns):
            act = policy.act([trajectory.context(k)], sampling=sampling, seeds=[10 * i + k])[0][0]
            trajectory.turns.append(turn(act, Observation(seen(70 + 10 * i + k))))
        groups.append([trajectory])
    return groups


def hidden(policy, groups):
    """States of all turns in the order of the table."""
    looking = Looking(policy.trunk.expected, policy.trunk.words)
    for group in groups:
        for trajectory in group:
            for k in range(trajectory.num_turns):
                looking.context(trajectory.context(k))
    return policy.trunk(looking.rows)


def values(groups):
    return torch.stack([t.record.value for group in groups for trajectory in group for t in trajectory.turns])


# --- discrete ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["number", "action", "chunk"])
def test_discrete_heads_are_independent_softmax_distributions(level):
    """Scores, entropies and divergences of torch.distributions in float64, added up over what makes an action.

    A chunk has 2 commands of 3 numbers: 6, 2 or 1 actions a turn, and the table has two turns a row.
    """
    policy = policy_of(Binned(level, 8))
    groups = episodes(policy)
    other: Any = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.data *= 1.2
    out = policy.log_prob(pack(groups), Need(entropy=True, kl_to=other, distribution=True))
    index = values(groups)

    def softmax(p):
        return D.Categorical(logits=p.head.out(hidden(p, groups)).reshape(6, 2, 3, 8) / WARM.temperature)

    def table(x):
        keep = {"number": (6, 6), "action": (6, 2, 3), "chunk": (6, 1, 6)}[level]
        x = x.reshape(*keep)
        return (x if level == "number" else x.sum(-1)).reshape(3, -1)

    mine, theirs = softmax(policy), softmax(other)
    torch.testing.assert_close(out.logp, table(mine.log_prob(index)))
    torch.testing.assert_close(out.entropy, table(mine.entropy()))
    torch.testing.assert_close(out.kl, table(D.kl_divergence(mine, theirs)))
    if level == "number":
        torch.testing.assert_close(out.distribution, mine.logits.reshape(3, 12, 8))
    else:
        assert out.distribution is None and "distribution" not in policy.provides
    assert {"entropy", "kl"} <= policy.provides


def test_bins_are_equal_parts_between_the_quantiles():
    """Four bins of [0, 8]: centres 1, 3, 5, 7; 2.5 lies in the second bin, what is outside in the outermost ones.

    z = 2 a / 8 - 1, z_b = (2 b + 1) / 4 - 1 = -3/4, -1/4, 1/4, 3/4.
    """
    head, scale = Binned(bins=4), Scale(Quantiles((0.0,), (8.0,)), 1)
    centres = head.command(torch.arange(4)[:, None], scale)[:, 0]
    assert centres.tolist() == [1.0, 3.0, 5.0, 7.0]
    given = torch.tensor([[-5.0], [0.0], [1.9], [2.5], [7.9], [8.0], [99.0]])
    assert head.index(given, scale)[:, 0].tolist() == [0, 0, 0, 1, 3, 3, 3]


@pytest.mark.parametrize("bins", [2, 7, 256])
def test_commands_of_bins_fall_into_their_bins_again(bins):
    head, scale = Binned(bins=bins), Scale(UNITS, 3)
    index = torch.arange(bins)[:, None].expand(bins, 3)
    # What policies put out is float32 whatever they compute in.
    again = head.index(head.command(index, scale).float(), scale)
    torch.testing.assert_close(again, index)
    assert float((head.command(index, scale).diff(dim=0) - torch.tensor([4.0, 1.0, 2.0]) / bins).abs().max()) < 1e-5


def test_a_categorical_command_is_its_index():
    policy = build(TinyVLA(head=Categorical(choices=5), **SMALL))
    acts = policy.act([Context(prompt(0))], n=20, sampling=Sampling(), seeds=range(20))[0]
    for act in acts:
        assert act.output[0].values.tolist() == act.record.value.tolist()
    assert {int(act.record.value) for act in acts} > {0, 1, 2}


def test_sampled_frequencies_are_the_probabilities():
    """2 000 draws of one number with five choices; four standard errors of each frequency."""
    policy = policy_of(Categorical(choices=5), commands=1, chunk=1)
    policy.head.out.bias.data += torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    acts = policy.act([Context(prompt(0))], n=2000, sampling=WARM, seeds=range(2000))[0]
    drawn = torch.tensor([int(act.record.value) for act in acts])
    p = torch.zeros(5).index_add(0, drawn, torch.ones(2000)) / 2000
    for choice in drawn.unique().tolist():
        expected = float(next(a.logp for a in acts if int(a.record.value) == choice).exp())
        assert abs(p[choice] - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_greedy_takes_the_most_probable_alternative():
    policy = policy_of(Binned(bins=8))
    act = policy.act([Context(prompt(0))], sampling=Sampling(deterministic=True), seeds=[0])[0][0]
    trajectory = Trajectory(prompt(0), [turn(act)])
    logits = policy.head.logits(hidden(policy, [[trajectory]]))[0]
    torch.testing.assert_close(act.record.value, logits.argmax(-1))


def test_a_nucleus_leaves_out_improbable_choices_and_keeps_their_log_probs():
    policy = policy_of(Categorical(choices=4), commands=1, chunk=1)
    policy.head.out.bias.data += torch.tensor([5.0, 4.5, 0.0, 0.0])
    contexts = [Context(prompt(0))]
    narrow = policy.act(contexts, n=200, sampling=Sampling(top_p=0.5), seeds=range(200))[0]
    assert len({int(act.record.value) for act in narrow}) == 1
    groups = [[Trajectory(contexts[0].prompt, [turn(narrow[0])])]]
    torch.testing.assert_close(policy.log_prob(pack(groups)).logp[0].float(), narrow[0].logp)


# --- Gaussian ---------------------------------------------------------------------------------------------------------


def test_the_gaussian_head_is_a_normal_distribution():
    """Scores, entropies and divergences of torch.distributions in float64; a command is one action."""
    policy = policy_of(Gaussian(std=0.4, units=UNITS))
    policy.head.rho.data += torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    groups = episodes(policy)
    other: Any = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.data *= 1.2
    out = policy.log_prob(pack(groups), Need(entropy=True, kl_to=other))

    def normal(p):
        mean = p.head.out(hidden(p, groups)).reshape(6, 2, 3)
        return D.Normal(mean, (WARM.temperature * (0.02 + p.head.rho.exp())).expand_as(mean))

    mine, theirs = normal(policy), normal(other)
    torch.testing.assert_close(out.logp, mine.log_prob(values(groups)).sum(-1).reshape(3, 4))
    torch.testing.assert_close(out.entropy, mine.entropy().sum(-1).reshape(3, 4))
    torch.testing.assert_close(out.kl, D.kl_divergence(mine, theirs).sum(-1).reshape(3, 4))


def test_gaussian_numbers_by_hand():
    """Mean 0 and std 0.5 at first, z = (1, -0.5) in one command of two numbers.

    logp = -0.5 (4 + 1) - 2 log 0.5 - log 2 pi = -2.5 + 1.3863 - 1.8379 = -2.9516
    entropy = 2 log 0.5 + log 2 pi e = -1.3863 + 2.8379 = 1.4516
    """
    policy: Any = TinyVLA(head=Gaussian(), commands=2, **SMALL).build(CPU).double()
    torch.nn.init.zeros_(policy.head.out.weight)
    given = (Array("command", np.array([[1.0, -0.5]], np.float32)),)
    act = policy.encode([Context(prompt(0))], [given])[0]
    batch = pack([[Trajectory(prompt(0), [forced_turn(act.output, act.record, 1)])]])
    out = policy.log_prob(batch, Need(entropy=True))
    assert out.logp.tolist() == [[pytest.approx(-2.9516, abs=1e-4)]]
    assert out.entropy is not None and out.entropy.tolist() == [[pytest.approx(1.4516, abs=1e-4)]]


def test_gaussian_samples_have_mean_and_spread_of_the_distribution():
    """1 000 draws: mean within 4 std / sqrt(1000), std within 10 %; commands are in units of the quantiles."""
    policy = policy_of(Gaussian(std=0.4, units=UNITS))
    acts = policy.act([Context(prompt(0))], n=1000, sampling=WARM, seeds=range(1000))[0]
    z = torch.stack([act.record.value for act in acts])
    greedy = policy.act([Context(prompt(0))], sampling=Sampling(deterministic=True), seeds=[0])[0][0]
    std = WARM.temperature * policy.head.std.detach()
    assert bool(((z.mean(0) - greedy.record.value).abs() < 4 * std / math.sqrt(1000)).all())
    assert bool(((z.std(0) / std - 1).abs() < 0.1).all())
    # low + (z + 1) / 2 (high - low), UNITS being [-2, 2], [0, 1] and [-1, 1].
    expected = z * torch.tensor([2.0, 0.5, 1.0]) + torch.tensor([0.0, 0.5, 0.0])
    np.testing.assert_allclose(np.stack([a.output[0].values for a in acts]), expected.numpy(), atol=1e-5)


def test_the_spread_stays_above_its_least():
    policy = policy_of(Gaussian(std=0.4, least=0.05))
    policy.head.rho.data.fill_(-50.0)
    assert policy.head.std.min().item() == pytest.approx(0.05)


# --- flow -------------------------------------------------------------------------------------------------------------


SAMPLERS = [FlowSDE(4), FlowSDE(3, noise=0.4), DanceSDE(5, noise=0.5), CPS(4, noise=0.6)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__ + str(s.steps))
def test_inner_steps_are_normal_with_the_mean_and_spread_of_the_sampler(sampler):
    """Each inner step against a normal distribution whose mean is put together here from the velocity.

    x' ~ N(a' (x - t v) + k (x + (1 - t) v), (temperature s)^2) with a' = 1 - t' and k, s of the sampler's table.
    """
    policy = policy_of(FlowHead(sampler, units=UNITS))
    groups = episodes(policy)
    other: Any = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.data *= 1.2
    batch = pack(groups)
    out = policy.log_prob(batch, Need(kl_to=other))
    table, steps = sampler.table(Flow()), sampler.steps
    states = values(groups)
    assert states.shape == (6, steps + 1, 2, 3)

    def step(p, i):
        t, after = float(table.time[i]), float(table.time[i + 1])
        x = states[:, i]
        v = p.head.predict(hidden(p, groups), x, torch.full((6,), t, dtype=torch.float64))
        mean = (1 - after) * (x - t * v) + float(table.direction[i]) * (x + (1 - t) * v)
        return D.Normal(mean, WARM.temperature * float(table.std[i]))

    for i in range(steps):
        logp, kl = out.logp.reshape(6, steps)[:, i], out.kl.reshape(6, steps)[:, i]
        if i == steps - 1:
            assert not logp.any() and not kl.any() and not batch.mask.reshape(6, steps)[:, i].any()
            continue
        torch.testing.assert_close(logp, step(policy, i).log_prob(states[:, i + 1]).sum((1, 2)))
        torch.testing.assert_close(kl, D.kl_divergence(step(policy, i), step(other, i)).sum((1, 2)))


def test_the_last_step_is_an_euler_step_and_gives_the_command():
    """From x at t the deterministic step to 0 is x - t v."""
    policy = policy_of(FlowHead(FlowSDE(4), units=UNITS))
    groups = episodes(policy)
    states, t = values(groups), torch.full((6,), 0.25, dtype=torch.float64)
    v = policy.head.predict(hidden(policy, groups), states[:, 3], t)
    torch.testing.assert_close(states[:, 4], states[:, 3] - 0.25 * v)
    given = np.stack([t.output[0].values for group in groups for one in group for t in one.turns])
    np.testing.assert_allclose(given, policy.trunk.commands.decode(states[:, 4]).numpy(), atol=1e-5)


def test_a_deterministic_chain_follows_the_velocity():
    """Euler:  x <- x - (t - t') v  from the seed's noise, which other seeds do not share."""
    policy = policy_of(FlowHead(FlowSDE(4)))
    greedy = Sampling(deterministic=True)
    groups = episodes(policy, greedy)
    states = values(groups)
    told = hidden(policy, groups)
    for i, t in enumerate((1.0, 0.75, 0.5, 0.25)):
        v = policy.head.predict(told, states[:, i], torch.full((6,), t, dtype=torch.float64))
        torch.testing.assert_close(states[:, i + 1], states[:, i] - 0.25 * v)
    assert not torch.equal(states[0, 0], states[1, 0])


def test_demonstrations_of_a_flow_are_scored_by_minus_the_matching_error():
    """logp_k = -mean_d (v(x_t, t) - (e - z))^2 at the record's own draws of (t, e), anew in every optimiser batch."""
    from dataclasses import replace

    from saccade.core.state import Progress
    from saccade.policies.denoise.surrogate import draws_of

    policy = policy_of(FlowHead(demonstrations=Surrogate(draws=3, times=UniformTimes(0.1, 0.9)), units=UNITS))
    given = (Array("command", np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)),)
    act = policy.encode([Context(prompt(0))], [given])[0]
    z = policy.trunk.commands.encode(torch.from_numpy(given[0].values)).double()
    torch.testing.assert_close(act.record.latent, z, atol=1e-6, rtol=0)
    trajectory = Trajectory(prompt(0), [forced_turn(act.output, act.record, 3)])
    batch = pack([[trajectory]])
    other: Any = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.data *= 1.2
    told, their = (hidden(p, [[trajectory]]).expand(3, -1) for p in (policy, other))
    seen_at = []
    for step in (0, 1):
        out = policy.log_prob(replace(batch, progress=Progress(step, 2)), Need(kl_to=other))
        draws = draws_of(act.record, Flow(), step)
        t, e = draws.time[:, None, None], draws.noise.double()
        x = (1 - t) * z + t * e
        v = policy.head.predict(told, x, draws.time)
        torch.testing.assert_close(out.logp[0], -((v - (e - z)) ** 2).mean((1, 2)))
        theirs = other.head.predict(their, x, draws.time)
        torch.testing.assert_close(out.kl[0], ((v - theirs) ** 2).mean((1, 2)))
        seen_at.append(out.logp.detach())
    assert not torch.allclose(*seen_at)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda: FlowHead(Euler(4)), "steps without noise"),
        (lambda: FlowHead(CPS(4), tail=0), "steps without noise"),
        (lambda: FlowHead(DDIM(4)), "belongs to a diffusion"),
        (lambda: FlowHead(demonstrations=Surrogate(dropout=0.1)), "dropout must be 0"),
    ],
)
def test_flows_refuse_what_they_cannot_score(head, message):
    with pytest.raises(ConfigError, match=message):
        head()


# --- units ------------------------------------------------------------------------------------------------------------


def test_units_are_fitted_to_quantiles_and_leave_the_gripper():
    """Of 0, 1, ..., 100 the 1 % quantile is 1 and the 99 % quantile 99; the last dimension stays at [-1, 1]."""
    policy = policy_of(Binned(bins=2, units=Quantiles(leave=(-1,))))
    ramp = np.arange(101.0)
    policy.fit(np.stack([ramp, 10 * ramp, ramp], 1))
    assert policy.trunk.commands.low.tolist() == [1.0, 10.0, -1.0]
    assert policy.trunk.commands.high.tolist() == [99.0, 990.0, 1.0]
    # Centres of two bins: low + (high - low) / 4 and low + 3 (high - low) / 4.
    lower = policy.head.head.command(torch.zeros(3, dtype=torch.int64), policy.trunk.commands)
    assert lower.tolist() == [25.5, 255.0, -0.5]


def test_fitted_units_are_saved(tmp_path):
    policy = build(TinyVLA(head=Gaussian(), commands=2, **SMALL))
    policy.fit(np.random.default_rng(0).normal(size=(50, 2)), states=np.random.default_rng(1).normal(size=(50, 3)))
    policy.save_pretrained(tmp_path)
    loaded = TinyVLA.load(tmp_path)
    for name in ("commands", "states"):
        mine, theirs = getattr(policy.trunk, name), getattr(loaded.trunk, name)
        assert float(mine.low[0]) < -1 and torch.equal(mine.low, theirs.low) and torch.equal(mine.high, theirs.high)


def test_a_dimension_that_never_changed_is_constant():
    scale = Scale(Quantiles(), 2)
    scale.fit(np.array([[0.3, 0.0], [0.3, 1.0]]))
    assert scale.decode(torch.tensor([[5.0, 0.0]]))[0, 0] == pytest.approx(0.3)
    assert torch.isfinite(scale.encode(torch.tensor([[0.7, 0.0]]))).all()


@pytest.mark.parametrize("values", [np.zeros((3, 1)), np.zeros((0, 2)), np.zeros(2), np.full((2, 2), np.inf)])
def test_units_cannot_be_fitted_to_what_is_no_command(values):
    with pytest.raises(DataError, match="quantiles need"):
        build(TinyVLA(head=Gaussian(), commands=2, **SMALL)).fit(values)


def test_states_that_are_not_looked_at_have_no_units():
    with pytest.raises(DataError, match="looks at no states"):
        TinyVLA(head=Gaussian(), side=16, patch=4).build(CPU).fit(np.zeros((2, 1)), states=np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantiles((0.0, 1.0), (1.0,)), "one length"),
        (lambda: Quantiles((1.0,), (0.0,)), "low must be <= high"),
        (lambda: Quantiles(tail=0.5), "tail must be in"),
        (lambda: TinyVLA(head=Gaussian(units=Quantiles(leave=(2,))), commands=2), "leave must hold dimensions of 2"),
        (lambda: TinyVLA(state=3, states=Quantiles((0.0, 0.0), (1.0, 1.0))), "states.low must have 1 or 3 numbers"),
    ],
)
def test_units_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
