"""The surrogate likelihood of finished images: its numbers, its draws, and that images can be learned with it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policies.denoise.families import DIFFUSION, FLOW, SURROGATES, build, prompt, rollout, turn
from saccade.core.batch import pack
from saccade.core.content import Image, Text
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import Need
from saccade.core.random import fold_in
from saccade.core.reference import frozen_copy
from saccade.core.state import Progress
from saccade.core.trajectory import Context, Prompt, Task, Trajectory
from saccade.envs.datasets.shapes import ShapeScenes
from saccade.envs.single import SingleTurn
from saccade.feeds.demonstrations import Demonstrations
from saccade.learn.loop import Run, train
from saccade.objectives.regression import NLL
from saccade.policies.denoise.noise import Diffusion, Flow
from saccade.policies.denoise.surrogate import (
    ChainTimes,
    GeneralisedHuber,
    LogitNormalTimes,
    NoiseWeighting,
    Surrogate,
    SurrogateRecord,
    UniformTimes,
    draws_of,
)
from saccade.policies.denoise.tiny import TinyFlow, UNet
from saccade.recipe import Recipe, Train

PLAIN = SURROGATES["flow, surrogate"]


def picture(seed):
    return Image(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def encoded(policy, pairs, step=0):
    """Groups of images under one prompt each."""
    groups = []
    for i, seeds in enumerate(pairs):
        start = prompt(i)
        acts = policy.encode([Context(start)] * len(seeds), [(picture(s),) for s in seeds])
        groups.append([Trajectory(start, [turn(act)]) for act in acts])
    return pack(groups, progress=Progress(step=step))


@pytest.mark.parametrize(
    "spec, power",
    [(PLAIN, 0.0), (replace(PLAIN, likelihood=replace(PLAIN.likelihood, weighting=NoiseWeighting(2.0))), 2.0)],
)
def test_log_probs_are_weighted_errors_of_denoising(spec, power):
    """-t^power mean (v - (e - x0))^2 at x_t = (1 - t) x0 + t e, in float64, one draw at a time."""
    policy = build(spec).double()
    batch = pack(rollout(policy))
    found = policy.log_prob(batch).logp.detach()
    for i, trajectory in enumerate(batch.trajectories):
        record = trajectory.turns[0].record
        draws = draws_of(record, policy.process, 0)
        condition = policy.denoiser.condition([trajectory.prompt])
        for k in range(3):
            t, e = draws.time[k], draws.noise[k].double()
            with torch.no_grad():
                v = policy.denoiser.predict(((1 - t) * record.latent + t * e)[None], t[None], condition)[0]
            expected = -(float(t) ** power) * float(((v - (e - record.latent)) ** 2).mean())
            assert float(found[i, k]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_targets_of_a_diffusion(prediction):
    """epsilon: e; v: sqrt(A) e - sqrt(1 - A) x0; sample: x0."""
    spec = replace(DIFFUSION, process=Diffusion(prediction=prediction), likelihood=Surrogate(draws=2))
    policy = build(spec).double()
    batch = pack(rollout(policy, prompts=1, n=1))
    record = batch.trajectories[0].turns[0].record
    draws = draws_of(record, policy.process, 0)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[draws.time.long()]
    for k in range(2):
        a, s, e, x0 = kept[k].sqrt(), (1 - kept[k]).sqrt(), draws.noise[k].double(), record.latent
        with torch.no_grad():
            condition = policy.denoiser.condition([prompt()])
            said = policy.denoiser.predict((a * x0 + s * e)[None], draws.time[k][None], condition)[0]
        target = {"epsilon": e, "v": a * e - s * x0, "sample": x0}[prediction]
        found = float(policy.log_prob(batch).logp[0, k].detach())
        assert found == pytest.approx(-float(((said - target) ** 2).mean()), rel=1e-9)


def test_the_divergence_is_the_weighted_squared_distance_of_predictions():
    """The reference's v is moved by 0.1: 0.01 t^2."""
    policy = build(replace(PLAIN, likelihood=replace(PLAIN.likelihood, weighting=NoiseWeighting(2.0)))).double()
    reference: Any = frozen_copy(policy)
    with torch.no_grad():
        reference.denoiser.trunk.leave[2].bias += 0.1
    batch = pack(rollout(policy, prompts=1))
    kl = policy.log_prob(batch, Need(kl_to=reference)).kl.detach()
    times = draws_of(batch.trajectories[0].turns[0].record, policy.process, 0).time
    torch.testing.assert_close(kl, (0.01 * times**2).expand(2, 3), atol=1e-9, rtol=1e-6)


def test_the_errors_of_mixed_predictions_follow_from_the_table():
    """||v_old + b (v - v_old) - target||^2 = (1 - b) e_old + b e - b (1 - b) d: what DiffusionNFT needs, for b = 0.3
    and, for its negative branch, -0.3."""
    policy = build(PLAIN).double()
    old: Any = frozen_copy(policy)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.mul_(1.05)
    batch = pack(rollout(policy, prompts=1, n=1))
    out = policy.log_prob(batch, Need(kl_to=old))
    e, e_old, d = -out.logp.detach(), -old.log_prob(batch).logp.detach(), out.kl.detach()
    record, condition = batch.trajectories[0].turns[0].record, policy.denoiser.condition([prompt()])
    draws = draws_of(record, policy.process, 0)
    for b in (0.3, -0.3):
        for k in range(3):
            t, noise = draws.time[k], draws.noise[k].double()
            x = ((1 - t) * record.latent + t * noise)[None]
            with torch.no_grad():
                v = policy.denoiser.predict(x, t[None], condition)[0]
                v_old = old.denoiser.predict(x, t[None], old.denoiser.condition([prompt()]))[0]
            expected = float(((v_old + b * (v - v_old) - (noise - record.latent)) ** 2).mean())
            found = (1 - b) * e_old[0, k] + b * e[0, k] - b * (1 - b) * d[0, k]
            assert float(found) == pytest.approx(expected, rel=1e-8)


def test_weightings_by_hand():
    """Level 1/2, error 1/16: plain 1/16; with t^2 1/64; Huber, p = 1/4: 0.5 / 0.25 (0.5 - 10^-2.5) = 0.99368."""
    error, level = torch.tensor([0.0625]), torch.tensor([0.5])
    assert float(NoiseWeighting()(error, level)) == 0.0625
    assert float(NoiseWeighting(2.0)(error, level)) == 0.015625
    assert float(GeneralisedHuber()(error, level)) == pytest.approx(0.993675, abs=1e-5)
    assert float(GeneralisedHuber().distance(error, level)) == 0.0625


def test_a_group_shares_its_draws_and_others_do_not():
    groups = rollout(build(PLAIN), prompts=2, n=2)
    seeds = [[t.turns[0].record.seed for t in group] for group in groups]
    assert seeds[0][0] == seeds[0][1] != seeds[1][0] == seeds[1][1]
    own = rollout(build(SURROGATES["diffusion, surrogate, own draws"]), prompts=1, n=2)
    assert own[0][0].turns[0].record.seed != own[0][1].turns[0].record.seed


def test_draws_of_a_rollout_stay_and_those_of_a_data_set_are_renewed():
    policy = build(PLAIN)
    batch = pack(rollout(policy))
    later = replace(batch, progress=Progress(step=7))
    assert torch.equal(policy.log_prob(batch).logp, policy.log_prob(later).logp)
    first, again, next_step = (policy.log_prob(encoded(policy, [(1, 2)], step)).logp for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, next_step)


def test_both_sides_of_a_pair_are_compared_at_equal_draws_unless_asked_otherwise():
    for shared in (True, False):
        policy = build(replace(PLAIN, likelihood=replace(PLAIN.likelihood, shared=shared)))
        one, other = (t.turns[0].record for t in encoded(policy, [(1, 2)]).trajectories)
        assert (one.seed == other.seed) == shared
        same = encoded(policy, [(1, 2)]).trajectories[0].turns[0].record
        assert same.seed == one.seed


def test_a_dropped_caption_is_the_blank_one():
    """All draws dropped: the caption cannot matter. None dropped: it does."""
    for dropout, matters in ((0.999999, False), (0.0, True)):
        policy = build(replace(PLAIN, likelihood=Surrogate(draws=4, dropout=dropout)))
        batch = encoded(policy, [(1,)])
        viewed = replace(batch, prompts=[Prompt(p.task, (Text("three green triangle"),)) for p in batch.prompts])
        with torch.no_grad():
            difference = (policy.log_prob(batch).logp - policy.log_prob(viewed).logp).abs().max()
        assert (float(difference) > 1e-6) == matters


def test_a_chain_policy_scores_images_of_others_by_its_demonstrations():
    rule = Surrogate(draws=3, times=UniformTimes(0.2, 0.9))
    policy = build(replace(FLOW, demonstrations=rule))
    batch = encoded(policy, [(1, 2), (3,)])
    assert bool(batch.mask.all()) and batch.mask.shape == (3, 3) and bool((batch.old_logp == 0).all())
    surrogate = build(replace(FLOW, likelihood=rule))
    torch.testing.assert_close(policy.log_prob(batch).logp, surrogate.log_prob(batch).logp)


def test_chains_and_images_of_others_are_scored_in_one_batch():
    policy = build(replace(FLOW, demonstrations=Surrogate(draws=2)))
    drawn = rollout(policy, prompts=1, n=2)
    start = drawn[0][0].prompt
    (act,) = policy.encode([Context(start)], [(picture(1),)])
    drawn[0].append(Trajectory(start, [turn(act)]))
    both = policy.log_prob(pack(drawn), Need(kl_to=policy))
    torch.testing.assert_close(both.logp[:2], policy.log_prob(pack([drawn[0][:2]])).logp, atol=1e-6, rtol=0)
    torch.testing.assert_close(both.logp[2:, :2], policy.log_prob(pack([drawn[0][2:]])).logp, atol=1e-6, rtol=0)
    assert both.kl is not None and both.kl.shape == (3, 5)


def test_samples_under_different_rules_cannot_be_scored_together():
    one, other = (build(replace(PLAIN, likelihood=Surrogate(draws=k))) for k in (2, 3))
    groups = rollout(one, prompts=1, n=1) + rollout(other, prompts=1, n=1)
    with pytest.raises(CapabilityError, match="one surrogate likelihood"):
        one.log_prob(pack(groups))


def test_behaviour_log_probs_are_evaluated_only_where_asked_for():
    policy = build(replace(PLAIN, likelihood=Surrogate(draws=2)))
    before = policy.denoiser.rows_predicted
    batch = pack(rollout(policy, prompts=1, n=2))
    assert policy.denoiser.rows_predicted - before == 2 * 5 and bool((batch.old_logp == 0).all())


def record(rule, seed=0):
    return SurrogateRecord(torch.zeros(1, 2, 2), rule, seed, 5, renewed=False)


def times(rule, process, count=400):
    return torch.cat([draws_of(record(rule, fold_in(0, i)), process, 0).time for i in range(count)])


def test_uniform_times_fall_into_every_part_once():
    rule = Surrogate(draws=5, times=UniformTimes(0.5, 1.0))
    for seed in range(20):
        part = ((draws_of(record(rule, seed), Flow(), 0).time - 0.5) / 0.1).floor().long()
        assert sorted(part.tolist()) == [0, 1, 2, 3, 4]
    levels = times(rule, Diffusion())
    assert float(levels.min()) >= 500 and float(levels.max()) <= 999 and bool((levels == levels.round()).all())


def test_logit_normal_times_have_the_moments_of_their_name():
    """2,000 draws: the logit's mean is known to 0.022, its standard deviation to 0.016."""
    found = torch.logit(times(Surrogate(draws=5, times=LogitNormalTimes(0.4, 0.8)), Flow()))
    assert float(found.mean()) == pytest.approx(0.4, abs=0.08) and float(found.std()) == pytest.approx(0.8, abs=0.06)


def test_chain_times_are_those_of_the_chain_without_replacement():
    """Five steps at 1, 0.8, ..., 0.2; the first and the last are left out."""
    rule = Surrogate(draws=3, times=ChainTimes(1, 1))
    for seed in range(10):
        found = sorted(draws_of(record(rule, seed), Flow(), 0).time.tolist())
        assert found == pytest.approx([0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Surrogate(draws=0), "likelihood.draws must be >= 1"),
        (lambda: Surrogate(dropout=1.0), "likelihood.dropout must be in"),
        (lambda: UniformTimes(0.5, 0.5), "low < high"),
        (lambda: LogitNormalTimes(0, 0), "times.std must be > 0"),
        (lambda: ChainTimes(-1), "times.first and times.last must be >= 0"),
        (lambda: times(Surrogate(times=ChainTimes(3, 2)), Flow(), 1), "times leave out all 5 steps"),
        (lambda: GeneralisedHuber(0), "weighting.p must be in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_images_are_learned_from_demonstrations():
    """40 updates on single shapes through the ordinary loop: the matching error of the untrained network is that of
    predicting nothing, E||e - x0||^2 = 1 + E x0^2, about 1.8; a quarter of it is soon explained."""
    spec = TinyFlow(net=UNet(channels=(16, 16, 16), embedding=16))
    losses = []

    class Watch:
        def start(self, state, recipe): ...
        def finish(self, state): ...
        def step(self, state, batch, record, seconds):
            losses.append(record["loss/nll"])

    recipe = Recipe(
        policy=spec,
        env=SingleTurn(ShapeScenes(kinds=("colour",))),
        average="action",
        objective={"nll": NLL()},
        feed=Demonstrations(),
        train=Train(steps=40, groups=16, group_size=1, lr=4e-3),
    )
    train(recipe, Run(observers=[Watch()]))
    assert losses[0] > 1.2 and sum(losses[-5:]) / 5 < 0.6 * losses[0], losses


def test_demonstrations_of_one_task_are_its_own():
    """Two tasks with equal captions do not share draws."""
    policy = build(PLAIN)
    content = (Text("circle"),)
    prompts = [Prompt(Task(name, content), content) for name in "ab"]
    acts = policy.encode([Context(p) for p in prompts], [(picture(0),)] * 2)
    assert acts[0].record.seed != acts[1].record.seed
