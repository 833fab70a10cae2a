"""What every denoising policy must do: the battery of ``tests/contracts/test_policies.py``, for images."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.denoise.families import CHAINS, DIFFUSION, FLOW, SURROGATES, build, prompt, rollout, turn
from saccade.core.batch import pack
from saccade.core.content import Image, Text
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, ContractError, DataError
from saccade.core.policy import LocalActor, Need, Sampling
from saccade.core.reference import AdaptersOff, frozen_copy
from saccade.core.trajectory import Context, Prompt, Task, Trajectory
from saccade.policies.denoise.steps import Euler, Window
from saccade.policies.denoise.tiny import TinyDiffusion, TinyFlow

ALL = CHAINS | SURROGATES


@pytest.fixture(scope="module", params=ALL, ids=lambda name: name.replace(" ", "-"))
def spec(request):
    return ALL[request.param]


@pytest.fixture(scope="module")
def policy(spec):
    return build(spec)


def pixels(acts):
    return [act.output[0].pixels.tolist() for act in acts]


def flat(acts):
    return [act for some in acts for act in some]


def test_the_ratio_is_one_before_the_first_update(policy):
    batch = pack(rollout(policy))
    with torch.no_grad():
        out = policy.log_prob(batch)
    assert bool(batch.mask.any()) and bool((batch.old_logp[batch.mask] != 0).all())
    ratio = (out.logp - batch.old_logp)[batch.mask].exp()
    scale = max(1.0, float(batch.old_logp.abs().max()))
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=2e-6 * scale, rtol=0)
    assert bool((out.logp[~batch.mask] == 0).all())


def test_acts_have_one_entry_per_action_on_the_cpu(policy, spec):
    acts = policy.act([Context(prompt(0))], n=3, sampling=Sampling(), seeds=[1, 2, 3])[0]
    actions = spec.likelihood.draws if spec in SURROGATES.values() else spec.sampler.steps
    for act in acts:
        assert act.logp.shape == act.mask.shape == act.segment.shape == (actions,)
        assert act.logp.dtype == torch.float32 and act.mask.dtype == torch.bool and act.segment.dtype == torch.int64
        assert bool(act.mask.any()) and not act.logp.requires_grad and not act.truncated
        (image,) = act.output
        assert image.pixels.shape == (8, 8, 3)


def test_equal_seeds_give_equal_samples_and_others_differ(policy):
    contexts = [Context(prompt(0)), Context(prompt(1))]
    first, again, other = (
        flat(policy.act(contexts, n=2, sampling=Sampling(), seeds=seeds))
        for seeds in ([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8])
    )
    assert pixels(first) == pixels(again) != pixels(other)
    assert len({str(p) for p in pixels(first)}) == 4


def test_samples_do_not_depend_on_batch_neighbours(policy):
    """Whole groups: members of one may start from the noise of its first seed."""
    contexts = [Context(prompt(i)) for i in range(3)]
    together = policy.act(contexts, n=2, sampling=Sampling(), seeds=range(6))
    for i, context in enumerate(contexts):
        alone = policy.act([context], n=2, sampling=Sampling(), seeds=[2 * i, 2 * i + 1])[0]
        for a, b in zip(together[i], alone, strict=True):
            assert np.abs(a.output[0].pixels.astype(int) - b.output[0].pixels).max() <= 1
            torch.testing.assert_close(a.logp, b.logp, atol=1e-4, rtol=1e-4)
            assert torch.equal(a.mask, b.mask)


def test_n_samples_together_equal_one_by_one(policy, spec):
    if spec.shared_noise or (spec in SURROGATES.values() and spec.likelihood.shared):
        pytest.skip("members of a group have the noise of its first seed in common")
    together = policy.act([Context(prompt(0))], n=3, sampling=Sampling(), seeds=[5, 6, 7])[0]
    alone = [policy.act([Context(prompt(0))], sampling=Sampling(), seeds=[s])[0][0] for s in (5, 6, 7)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.output[0].pixels.astype(int) - b.output[0].pixels).max() <= 1
        torch.testing.assert_close(a.logp, b.logp, atol=1e-4, rtol=1e-4)


def test_log_probs_do_not_depend_on_batch_neighbours(policy):
    batch = pack(rollout(policy))
    with torch.no_grad():
        together = policy.log_prob(batch).logp
        alone = torch.cat([policy.log_prob(batch.take(torch.tensor([i]))).logp for i in range(len(batch))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def gradients(policy, batch):
    policy.zero_grad()
    policy.log_prob(batch).logp.sum().backward()
    found = {n: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for n, p in policy.named_parameters()}
    policy.zero_grad()
    return found


def test_gradient_of_a_batch_is_the_sum_over_its_trajectories(policy):
    batch = pack(rollout(policy))
    whole = gradients(policy, batch)
    parts = [gradients(policy, batch.take(torch.tensor([i]))) for i in range(len(batch))]
    for name, gradient in whole.items():
        total = sum(part[name] for part in parts)
        assert float((gradient - total).norm()) <= 1e-4 * float(gradient.norm()) + 1e-5, name


def test_every_weight_gets_a_finite_gradient(policy):
    for name, gradient in gradients(policy, pack(rollout(policy))).items():
        assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any()), name


def test_prompts_are_encoded_once(policy):
    denoiser = policy.denoiser
    before = denoiser.prompts_encoded
    batch = pack(rollout(policy, prompts=3, n=4))
    drawn = denoiser.prompts_encoded
    policy.log_prob(batch)
    # A surrogate that was asked for behaviour log-probabilities encodes them once more for these.
    assert drawn - before in (3, 6) and denoiser.prompts_encoded - drawn == 3


def test_training_and_sampling_show_the_network_the_same(spec):
    """Every input of a scored step (state, time, condition) is one that the rollout evaluated."""
    policy = build(replace(spec, reuse_unconditional=False))
    seen, predict = [], policy.denoiser.predict

    def watched(x, t, conditions):
        rows = [x, t[:, None], *(values.flatten(1) for values in conditions.values())]
        seen.append(torch.cat([row.flatten(1).float() for row in rows], 1).detach())
        return predict(x, t, conditions)

    policy.denoiser.predict = watched
    batch = pack(rollout(policy))
    sampled, seen = torch.cat(seen), []
    policy.log_prob(batch)
    scored = torch.cat(seen)
    assert len(scored) > 0
    distance = torch.cdist(scored, sampled, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert float(distance.max()) < 1e-4


def test_the_prompts_of_the_batch_are_read_not_those_of_the_trajectories(policy):
    batch = pack(rollout(policy, prompts=1))
    other = (Text("three green triangle"),)
    viewed = replace(batch, prompts=[Prompt(p.task, other) for p in batch.prompts])
    with torch.no_grad():
        moved = (policy.log_prob(viewed).logp - policy.log_prob(batch).logp).abs()[batch.mask]
    assert float(moved.max()) > 1e-5


def test_deterministic_rollouts_are_not_trained_and_depend_on_the_seed(policy, spec):
    """Each member has noise of its own, whatever the group shares in training."""
    acts = policy.act([Context(prompt(0))], n=3, sampling=Sampling(deterministic=True), seeds=[1, 2, 3])[0]
    assert not any(bool(act.mask.any()) for act in acts)
    assert len({str(p) for p in pixels(acts)}) == 3
    again = policy.act([Context(prompt(0))], sampling=Sampling(deterministic=True), seeds=[2])[0]
    assert np.abs(np.array(pixels(again)[0]) - np.array(pixels(acts)[1])).max() <= 1


def test_an_unscored_trajectory_is_not_evaluated(policy):
    batch = pack(rollout(policy, prompts=1))
    batch.mask[0] = False
    out = policy.log_prob(batch)
    assert bool((out.logp[0] == 0).all()) and bool((out.logp[1][batch.mask[1]] != 0).all())
    batch.mask[:] = False
    assert bool((policy.log_prob(batch, Need(kl_to=policy)).logp == 0).all())


def test_exact_kl_is_zero_to_itself_and_positive_to_another(policy):
    batch = pack(rollout(policy))
    reference = frozen_copy(policy)
    assert float(policy.log_prob(batch, Need(kl_to=reference)).kl.detach().abs().max()) < 1e-6
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.1)
    kl = policy.log_prob(batch, Need(kl_to=reference)).kl
    assert kl.requires_grad and bool((kl[batch.mask] > 0).all()) and bool((kl[~batch.mask] == 0).all())
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_only_what_was_asked_for_is_computed(policy):
    out = policy.log_prob(pack(rollout(policy, prompts=1)))
    assert out.entropy is None and out.kl is None and out.distribution is None


def test_specs_and_acts_survive_pickling(policy, spec):
    assert pickle.loads(pickle.dumps(spec)) == spec
    acts = policy.act([Context(prompt(0))], n=2, sampling=Sampling(), seeds=range(2))[0]
    copies = pickle.loads(pickle.dumps(acts))
    batches = [pack([[Trajectory(prompt(0), [turn(act)])] for act in some]) for some in (acts, copies)]
    logps = [policy.log_prob(batch).logp for batch in batches]
    torch.testing.assert_close(*logps, atol=1e-6, rtol=0)


def test_builds_are_repeatable_and_leave_the_global_generator_alone(spec):
    state = torch.get_rng_state()
    a, b = (spec.build(torch.device("cpu"), seed=3) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_acting_leaves_the_global_generator_alone(policy):
    state = torch.get_rng_state()
    policy.log_prob(pack(rollout(policy, prompts=1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_size_counts_latent_positions_of_trained_actions(policy):
    for (trajectory, *_), *_ in [rollout(policy)]:
        assert policy.size(trajectory) == 64 * int(trajectory.turns[0].mask.sum())
        assert policy.shared_size(trajectory.prompt) == 0


def test_a_saved_policy_is_read_back(policy, spec, tmp_path):
    policy.save_pretrained(tmp_path)
    read = type(spec).load(tmp_path)
    assert read.spec == spec
    assert pixels(flat(read.act([Context(prompt(0))], sampling=Sampling(), seeds=[4]))) == pixels(
        flat(policy.act([Context(prompt(0))], sampling=Sampling(), seeds=[4]))
    )


def test_adapters_off_is_asked_like_any_reference(policy):
    class Plain(type(policy)):
        def without_adapters(self):
            from contextlib import nullcontext

            return nullcontext()

    plain = Plain(policy.spec).eval()
    plain.load_state_dict(policy.state_dict())
    batch = pack(rollout(plain, prompts=1))
    assert float(plain.log_prob(batch, Need(kl_to=AdaptersOff(plain))).kl.detach().abs().max()) < 1e-6


# --- what is not asked of every family ------------------------------------------------------------------------------


def test_what_a_policy_provides_depends_on_its_likelihood():
    assert build(FLOW).provides == {"kl", "pathwise"}
    assert build(SURROGATES["flow, surrogate"]).provides == {"kl", "pathwise", "elbo"}


def test_the_window_follows_the_version_that_the_actor_was_told():
    policy = build(replace(FLOW, choice=Window(1, every=2)))
    actor = LocalActor(policy)
    found = []
    for version in (0, 1, 2, 4):
        actor.sync(policy, version)
        act = actor.act([Context(prompt(0))], sampling=Sampling(), seeds=[0])[0][0]
        found.append(act.mask.int().tolist())
    assert found == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]


def rows_of(policy, work):
    before = policy.denoiser.rows_predicted
    found = work()
    return policy.denoiser.rows_predicted - before, found


SHARED = replace(FLOW, shared_noise=True)
PLANS = {
    # 2 groups of 3 members, 5 steps, the last without noise.
    "own noise": (FLOW, 6 * 5, 6 * 4),
    # The first step sees one state a group; after it each member has its own.
    "shared noise": (SHARED, 2 + 6 * 4, 2 + 6 * 3),
    # Steps 0, 1 and the input of step 2 are common, then two random steps, and the last.
    "window": (replace(SHARED, choice=Window(2, start=2)), 2 * 3 + 6 * 2, 2 + 6),
    "window, own noise": (replace(FLOW, choice=Window(2, start=2)), 6 * 5, 6 * 2),
    "guided": (replace(FLOW, guidance=2.0), 2 * 6 * 5, 2 * 6 * 4),
    "guided, kept": (replace(SHARED, guidance=2.0, reuse_unconditional=True), 2 * (2 + 6 * 4), 2 + 6 * 3),
}


@pytest.mark.parametrize("spec, sampling, training", PLANS.values(), ids=PLANS)
def test_what_a_group_has_in_common_is_evaluated_once(spec, sampling, training):
    policy = build(spec)
    sampled, groups = rows_of(policy, lambda: rollout(policy, prompts=2, n=3))
    scored, _ = rows_of(policy, lambda: policy.log_prob(pack(groups)))
    assert (sampled, scored) == (sampling, training)


def test_sharing_what_is_common_changes_no_gradient():
    """The same chains, once with the record of what is common and once without."""
    policy = build(replace(SHARED, guidance=2.0)).double()
    batch = pack(rollout(policy))
    first = gradients(policy, batch)
    for trajectory in batch.trajectories:
        trajectory.turns[0].record.common = 0
    second = gradients(policy, batch)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-10, rtol=1e-7)


def test_kept_unconditional_halves_are_used_only_under_the_weights_that_made_them():
    policy = build(replace(FLOW, guidance=3.0, reuse_unconditional=True))
    batch = pack(rollout(policy))
    kept, out = rows_of(policy, lambda: policy.log_prob(batch))
    torch.testing.assert_close(out.logp.detach(), batch.old_logp, atol=2e-6, rtol=0)
    out.logp.sum().backward()
    torch.optim.SGD(policy.parameters(), lr=1e-4).step()
    fresh, after = rows_of(policy, lambda: policy.log_prob(batch))
    assert fresh == 2 * kept
    for trajectory in batch.trajectories:
        trajectory.turns[0].record.unguided = None
    torch.testing.assert_close(after.logp, policy.log_prob(batch).logp, atol=0, rtol=0)


def test_kept_halves_give_the_gradient_of_fresh_ones():
    policy = build(replace(FLOW, guidance=3.0, reuse_unconditional=True))
    batch = pack(rollout(policy))
    kept = gradients(policy, batch)
    for trajectory in batch.trajectories:
        trajectory.turns[0].record.unguided = None
    fresh = gradients(policy, batch)
    whole = torch.cat([g.flatten() for g in fresh.values()])
    difference = torch.cat([(fresh[name] - kept[name]).flatten() for name in fresh])
    assert float(difference.norm()) <= 1e-5 * float(whole.norm())


def test_the_unconditional_half_takes_gradient_only_where_asked():
    """d/dtheta of u + w (c - u): with "conditional" u is a constant, and the derivative is w dc/dtheta."""
    found = {}
    for mode in ("conditional", "both"):
        policy = build(replace(FLOW, guidance=3.0, guidance_gradient=mode)).double()
        predictor = policy.predictor([prompt(0)], 3.0)
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        t, first = torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64)
        clock = policy.denoiser.clock[0].weight
        guided, _ = predictor(x, t, first)
        c, u = predictor.plain(x, t, first), predictor.blank(x, t)
        torch.testing.assert_close(guided, u + 3 * (c - u))
        expected = 3 * c.sum() if mode == "conditional" else (u + 3 * (c - u)).sum()
        found[mode] = [torch.autograd.grad(y, clock, retain_graph=True)[0] for y in (guided.sum(), expected)]
        torch.testing.assert_close(*found[mode], atol=1e-9, rtol=1e-6)
    assert float((found["both"][0] - found["conditional"][0]).abs().max()) > 1e-6


def test_forward_passes_hold_at_most_so_many_rows():
    policy = build(replace(FLOW, rows=4))
    sizes, predict = [], policy.denoiser.predict

    def watched(x, t, conditions):
        sizes.append(len(x))
        return predict(x, t, conditions)

    policy.denoiser.predict = watched
    batch = pack(rollout(policy, prompts=3, n=2))
    small = policy.log_prob(batch).logp
    assert max(sizes) == 4
    whole = build(FLOW).log_prob(batch).logp
    torch.testing.assert_close(small, whole, atol=1e-6, rtol=1e-5)


def test_latents_that_are_not_finite_stop_the_rollout():
    policy = build(FLOW)
    with torch.no_grad():
        policy.denoiser.trunk.leave[2].bias[0] = float("nan")
    with pytest.raises(ContractError, match=r"^task 'task-0': the drawn latent is not finite \(6 of 6 are not\)$"):
        rollout(policy)


def test_a_deterministic_rollout_cannot_be_scored_as_a_chain():
    policy = build(FLOW)
    batch = pack(rollout(policy, deterministic=True))
    batch.mask[:] = batch.real
    with pytest.raises(CapabilityError, match="a chain of 3 steps cannot be scored by a sampler of 5"):
        policy.log_prob(batch)


def test_a_deterministic_step_cannot_be_scored():
    policy = build(FLOW)
    batch = pack(rollout(policy))
    batch.mask[:] = batch.real
    with pytest.raises(ContractError, match="step 4 of a denoising chain was deterministic"):
        policy.log_prob(batch)


def test_a_surrogate_cannot_score_chains():
    batch = pack(rollout(build(FLOW)))
    with pytest.raises(CapabilityError, match="cannot score the steps of a chain"):
        build(SURROGATES["flow, surrogate"]).log_prob(batch)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.5), Sampling(top_p=0.9)])
def test_temperature_and_nucleus_are_refused(sampling):
    with pytest.raises(ConfigError, match="temperature and top_p must be 1"):
        build(FLOW).act([Context(prompt(0))], sampling=sampling, seeds=[0])


def test_captions_that_cannot_be_read_are_refused():
    policy = build(FLOW)
    picture = Image(np.zeros((8, 8, 3), np.uint8))
    for content, said in (
        ((Text("one two three four five six seven"),), "the caption has 7 words, policy.net.slots is 6"),
        ((picture, Text("red")), "reads captions, got Image in the prompt"),
    ):
        with pytest.raises(DataError, match=f"task 'long': .*{said}"):
            policy.act([Context(Prompt(Task("long", content), content))], sampling=Sampling(), seeds=[0])


@pytest.mark.parametrize(
    "output, said",
    [
        ((Text("red"),), "draws one Image, got Text"),
        ((), "draws one Image, got nothing"),
        ((Image(np.zeros((4, 6, 3), np.uint8)),), "draws pictures of 8x8, got one of 6x4"),
    ],
)
def test_outputs_that_are_no_pictures_of_this_size_are_refused(output, said):
    with pytest.raises(DataError, match=said):
        build(FLOW).encode([Context(prompt(0))], [output])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"guidance": -1.0}, "guidance must be >= 0"),
        ({"eval_steps": 0}, "eval_steps must be >= 1"),
        ({"rows": 0}, "rows must be >= 1"),
        ({"guidance_gradient": "none"}, "guidance_gradient must be"),
        ({"guidance_gradient": "both", "reuse_unconditional": True}, "reuse_unconditional needs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        replace(FLOW, **change)


def test_samplers_of_the_other_process_are_refused_when_the_policy_is_built():
    with pytest.raises(ConfigError, match="sampler FlowSDE belongs to a flow"):
        build(replace(DIFFUSION, sampler=FLOW.sampler))
    with pytest.raises(ConfigError, match="trains no step"):
        build(replace(FLOW, sampler=replace(FLOW.sampler, steps=2), choice=replace(FLOW.choice, tail=2)))


def test_a_deterministic_sampler_needs_a_surrogate_likelihood():
    with pytest.raises(ConfigError, match="sampler Euler has no random steps"):
        build(replace(FLOW, sampler=Euler(5)))
    assert build(replace(SURROGATES["flow, surrogate"], sampler=Euler(5))).provides >= {"elbo"}


def test_folders_that_hold_something_else_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not hold a TinyFlow"):
        TinyFlow.load(tmp_path)
    build(FLOW).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not describe a TinyDiffusion"):
        TinyDiffusion.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="does not hold a TinyFlow"):
        TinyFlow.load(tmp_path)


def test_a_preview_shows_the_chain_from_noise_to_the_image():
    policy = build(CHAINS["flow"])
    trajectory = rollout(policy)[0][0]
    (turn,) = trajectory.turns
    shown = policy.preview(turn, 3)
    states = turn.record.states
    assert len(shown) == 3
    assert shown[0].pixels.tolist() == policy.denoiser.to_pixels(states[:1])[0].tolist()
    assert shown[-1].pixels.tolist() == policy.denoiser.to_pixels(states[-1:])[0].tolist()


def test_finished_samples_have_no_preview():
    policy = build(next(iter(SURROGATES.values())))
    assert policy.preview(rollout(policy)[0][0].turns[0], 3) == []
