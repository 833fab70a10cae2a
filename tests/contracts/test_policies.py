"""What every token policy must do; the families are listed in ``families.py``."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES

from saccade.core.batch import pack
from saccade.core.content import Image, Text, Video
from saccade.core.errors import DataError
from saccade.core.policy import LocalActor, Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn

TURNS = Sampling(max_actions=6)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda name: name.replace(" ", "-"))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def policy(family):
    return family.build().eval()


def picture(seed, size=64):
    return Image(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def prompt(seed):
    """Prompts of different kinds and lengths."""
    question = Text(" ".join(["where is the red circle"] * (1 + seed % 3)))
    clip = Video(np.stack([picture(100 + seed).pixels, picture(200 + seed).pixels]))
    content = [(picture(seed), question), (question,), (clip, question), (question, picture(seed, 40))][seed % 4]
    return Prompt(Task(f"task-{seed}", content), content)


def turn(act, observation=None):
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation)


def observation(seed, keep=None):
    return Observation((Text("look again"), picture(300 + seed)) if seed % 2 else (Text("no"),), keep)


def rollout(policy, keeps=(), prompts=4, sizes=(3, 1, 2, 2), sampling=TURNS):
    """Groups of ragged sizes; turn k is answered by an observation with ``keeps[k]``; some episodes end early."""
    groups = []
    for p in range(prompts):
        start = prompt(p)
        group = [Trajectory(start, seed=i) for i in range(sizes[p % len(sizes)])]
        for k in range(len(keeps) + 1):
            for i, trajectory in enumerate(group):
                if k and i % 3 == 2:
                    continue
                act = policy.act([trajectory.context(k)], sampling=sampling, seeds=[1000 * p + 10 * k + i])[0][0]
                last = k == len(keeps) or i % 3 == 2
                trajectory.turns.append(turn(act, None if last else observation(p + k, keeps[k])))
        groups.append(group)
    return groups


def same(a, b):
    return [x.record.ids.tolist() for group in a for x in group] == [
        x.record.ids.tolist() for group in b for x in group
    ]


KEEPS = {"single": (), "growing": (None, None), "keep last": (1, 1), "mixed": (None, 1, None), "nothing kept": (0,)}


@pytest.mark.parametrize("keeps", KEEPS.values(), ids=KEEPS)
def test_log_prob_of_what_was_done_is_the_behaviour_log_prob(policy, keeps):
    batch = pack(rollout(policy, keeps))
    with torch.no_grad():
        out = policy.log_prob(batch)
    torch.testing.assert_close(out.logp, batch.old_logp, atol=1e-5, rtol=0)
    assert bool((out.logp[~batch.mask] == 0).all())


@pytest.fixture(scope="module")
def both(family):
    """The policy in float64 twice, with the same weights: prompts shared, and the plain path."""
    return family.build().double().eval(), family.build(prefix="plain").double().eval()


def weighted_gradient(policy, batch):
    """Of a random weighting of all log-probs, over the whole model, as one vector."""
    weight = torch.randn(batch.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logp = policy.log_prob(batch).logp
    parameters = [p for p in policy.parameters() if p.requires_grad]
    found = torch.autograd.grad((weight * logp).sum(), parameters, allow_unused=True)
    flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    return logp.detach(), torch.cat(flat)


@pytest.mark.parametrize("keeps", KEEPS.values(), ids=KEEPS)
def test_shared_and_plain_prefixes_give_the_same_values_and_gradients(both, keeps):
    """Prompts of unequal length, with no, one or several pictures; groups of unequal size; pictured observations."""
    shared, plain = both
    assert shared.shared and not plain.shared
    batch = pack(rollout(shared, keeps))
    (logp, gradient), (expected, plain_gradient) = (weighted_gradient(policy, batch) for policy in both)
    assert float((logp - expected).abs().max()) < 1e-9
    assert float((gradient - plain_gradient).norm()) <= 1e-7 * float(plain_gradient.norm())


def test_shared_and_plain_prefixes_agree_in_single_precision(family, policy):
    batch = pack(rollout(policy, (None, None)))
    plain = family.build(prefix="plain").eval()
    (logp, gradient), (expected, plain_gradient) = (weighted_gradient(each, batch) for each in (policy, plain))
    assert float((logp - expected).abs().max()) < 1e-5
    assert float((gradient - plain_gradient).norm()) <= 1e-5 * float(plain_gradient.norm())


def test_shared_and_plain_prefixes_draw_the_same_samples(both):
    """Several prompts at once, some with turns behind them, two samples of each context."""
    begun = [trajectory for group in rollout(both[0], (None,)) for trajectory in group]
    contexts = [*(Context(prompt(i)) for i in range(4)), *(t.context(1) for t in begun if t.num_turns > 1)]
    seeds = range(2 * len(contexts))
    drawn = [policy.act(contexts, n=2, sampling=Sampling(max_actions=9), seeds=seeds) for policy in both]
    assert same(*drawn)
    for one, other in zip(*([act.logp for some in acts for act in some] for acts in drawn), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_log_prob_is_taken_at_the_temperature_of_the_turn(policy, temperature):
    batch = pack(rollout(policy, sampling=Sampling(max_actions=5, temperature=temperature, top_p=0.7)))
    torch.testing.assert_close(policy.log_prob(batch).logp.detach(), batch.old_logp, atol=1e-5, rtol=0)


def test_acts_have_one_entry_per_action_on_the_cpu(policy):
    for act in policy.act([Context(prompt(0))], n=3, sampling=TURNS, seeds=[1, 2, 3])[0]:
        assert act.record.ids.dtype == torch.int64 and act.logp.dtype == torch.float32
        assert act.mask.dtype == torch.bool and act.segment.dtype == torch.int64
        assert act.record.ids.shape == act.logp.shape == act.mask.shape == act.segment.shape
        assert bool((act.logp <= 0).all()) and bool(act.mask.all())
        assert not act.record.ids.requires_grad and not act.logp.requires_grad
        assert len(act.logp) == TURNS.max_actions or not act.truncated


def test_equal_seeds_give_equal_samples_and_others_differ(policy):
    contexts = [Context(prompt(0)), Context(prompt(2))]
    first = policy.act(contexts, n=2, sampling=TURNS, seeds=[1, 2, 3, 4])
    again = policy.act(contexts, n=2, sampling=TURNS, seeds=[1, 2, 3, 4])
    other = policy.act(contexts, n=2, sampling=TURNS, seeds=[5, 6, 7, 8])
    assert same(first, again) and not same(first, other)
    assert [len(group) for group in first] == [2, 2]


def test_samples_do_not_depend_on_batch_neighbours(policy):
    trajectories = [group[0] for group in rollout(policy, (None,))]
    contexts = [Context(prompt(1)), *(trajectory.context(1) for trajectory in trajectories), Context(prompt(3))]
    seeds = list(range(50, 50 + 2 * len(contexts)))
    together = policy.act(contexts, n=2, sampling=TURNS, seeds=seeds)
    alone = [
        policy.act([context], n=1, sampling=TURNS, seeds=[seeds[2 * i + j]])[0][0]
        for i, context in enumerate(contexts)
        for j in range(2)
    ]
    assert same(together, [alone])
    for a, b in zip([act for group in together for act in group], alone, strict=True):
        torch.testing.assert_close(a.logp, b.logp, atol=1e-5, rtol=0)


def test_log_probs_do_not_depend_on_batch_neighbours(policy):
    batch = pack(rollout(policy, (None, 1)))
    together = policy.log_prob(batch).logp.detach()
    for i in range(len(batch)):
        alone = batch.take(torch.tensor([i]))
        torch.testing.assert_close(
            policy.log_prob(alone).logp[0], together[i, : alone.mask.shape[1]], atol=1e-5, rtol=0
        )


def test_gradient_of_a_batch_is_the_sum_over_its_trajectories(policy):
    batch = pack(rollout(policy, (None,)))
    whole = gradients(policy, batch)
    parts = [gradients(policy, batch.take(torch.tensor([i]))) for i in range(len(batch))]
    for name, gradient in whole.items():
        total = sum(part[name] for part in parts)
        assert float((gradient - total).norm()) <= 1e-4 * float(gradient.norm()) + 1e-5, name


def gradients(policy, batch):
    policy.zero_grad()
    policy.log_prob(batch).logp.sum().backward()
    found = {n: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for n, p in policy.named_parameters()}
    policy.zero_grad()
    return found


def test_every_trainable_weight_gets_a_finite_gradient(policy):
    for name, gradient in gradients(policy, pack(rollout(policy, (None,)))).items():
        assert bool(torch.isfinite(gradient).all()), name
        assert bool((gradient != 0).any()) or not dict(policy.named_parameters())[name].requires_grad, name


def test_each_prompt_is_encoded_once_for_all_its_samples(family, policy):
    start = prompt(0)
    before = family.images_encoded(policy)
    acts = policy.act([Context(start)], n=5, sampling=TURNS, seeds=range(5))[0]
    assert family.images_encoded(policy) - before == 1

    batch = pack([[Trajectory(start, [turn(act)]) for act in acts]])
    before = family.images_encoded(policy)
    policy.log_prob(batch)
    assert family.images_encoded(policy) - before == 1


def test_contexts_of_one_prompt_are_encoded_once(family, policy):
    start = prompt(0)
    acts = policy.act([Context(start)], n=3, sampling=TURNS, seeds=range(3))[0]
    contexts = [Context(start, (turn(act, Observation((Text("no"),))),)) for act in acts]
    before = family.images_encoded(policy)
    policy.act(contexts, sampling=TURNS, seeds=range(3))
    assert family.images_encoded(policy) - before == 1


def test_an_observation_is_encoded_once_though_several_rows_show_it(family, policy):
    """Turn 1 is answered by an image. The answer to turn 2 keeps two turns, so turn 3 has a row of its own, which
    begins with turn 1 and shows that image again. With the prompt's image two are encoded in all."""
    start = prompt(0)
    trajectory = Trajectory(start)
    no = Text("no")
    answers = [Observation((no,)), Observation((picture(9), no)), Observation((no,), keep=2), None]
    for k, answer in enumerate(answers):
        act = policy.act([trajectory.context(k)], sampling=TURNS, seeds=[k])[0][0]
        trajectory.turns.append(turn(act, answer))
    before = family.images_encoded(policy)
    policy.log_prob(pack([[trajectory]]))
    assert family.images_encoded(policy) - before == 2


def test_what_the_environment_showed_changes_later_log_probs_only(policy):
    groups = rollout(policy, (None,))
    batch = pack(groups)
    before = policy.log_prob(batch).logp.detach()
    for group in groups:
        for trajectory in group:
            if trajectory.num_turns > 1:
                trajectory.turns[0].observation = Observation((Text("the circle is small"),))
    after = policy.log_prob(batch).logp.detach()
    first, later = (batch.turn == 0), (batch.turn == 1)
    torch.testing.assert_close(after[first], before[first], atol=1e-5, rtol=0)
    assert bool(((after - before)[later].abs() > 1e-6).any())


def test_the_prompts_of_the_batch_are_read_not_those_of_the_trajectories(policy):
    batch = pack(rollout(policy, prompts=1))
    blank = Image(np.zeros((64, 64, 3), dtype=np.uint8))
    viewed = replace(batch, prompts=[Prompt(p.task, (blank, *p.content[1:])) for p in batch.prompts])
    assert bool(((policy.log_prob(viewed).logp - policy.log_prob(batch).logp).abs() > 1e-6).any())


def test_deterministic_actions_are_the_most_probable_and_are_not_trained(policy):
    greedy = Sampling(max_actions=4, deterministic=True)
    contexts = [Context(prompt(i)) for i in range(3)]
    acts = policy.act(contexts, n=2, sampling=greedy, seeds=range(6))
    for a, b in acts:
        assert a.record.ids.tolist() == b.record.ids.tolist()
        assert not bool(a.mask.any())
    sampled = policy.act(contexts, n=4, sampling=replace(greedy, deterministic=False), seeds=range(12))
    for (best, _), group in zip(acts, sampled, strict=True):
        assert all(float(best.logp[0]) >= float(act.logp[0]) - 1e-6 for act in group)


def test_a_nearly_empty_nucleus_is_greedy(policy):
    contexts = [Context(prompt(i)) for i in range(3)]
    narrow = policy.act(contexts, sampling=Sampling(max_actions=4, top_p=1e-6), seeds=range(3))
    greedy = policy.act(contexts, sampling=Sampling(max_actions=4, deterministic=True), seeds=range(3))
    assert same(narrow, greedy)


def test_a_turn_cut_off_by_the_limit_says_so(policy):
    acts = policy.act([Context(prompt(1))], n=16, sampling=Sampling(max_actions=2), seeds=range(16))[0]
    written = policy.encode([Context(prompt(1))], [(Text("red"),)])[0]
    end = int(written.record.ids[-1])
    assert not written.truncated
    for act in acts:
        assert act.truncated == (int(act.record.ids[-1]) != end)
        assert end not in act.record.ids[:-1].tolist()


def test_more_room_changes_nothing_of_what_fits(policy):
    context = [Context(prompt(0))]
    short = policy.act(context, n=4, sampling=Sampling(max_actions=3), seeds=range(4))[0]
    long = policy.act(context, n=4, sampling=Sampling(max_actions=9), seeds=range(4))[0]
    for a, b in zip(short, long, strict=True):
        assert a.record.ids.tolist() == b.record.ids.tolist()[:3]


def test_written_outputs_keep_their_text_and_are_trainable(family, policy):
    act = policy.encode([Context(prompt(0))], [(Text(family.gold),)])[0]
    assert act.output == (Text(family.gold),)
    assert bool(act.mask.all()) and bool((act.logp == 0).all()) and not act.truncated
    assert act.record.ids.shape == act.logp.shape == act.mask.shape == act.segment.shape


def test_pictures_are_in_the_action_space_of_those_that_draw_only(family, policy):
    if family.draws:
        (act,) = policy.encode([Context(prompt(0))], [(picture(0),)])
        assert isinstance(act.output[-1], Image)
        return
    with pytest.raises(DataError, match="Image"):
        policy.encode([Context(prompt(0))], [(picture(0),)])


def test_a_gradient_step_on_a_written_output_makes_it_likelier(family):
    policy = family.build()
    start = prompt(0)
    act = policy.encode([Context(start)], [(Text(family.gold),)])[0]
    batch = pack([[Trajectory(start, [turn(act)])]])
    optimiser = torch.optim.SGD((p for p in policy.parameters() if p.requires_grad), lr=1e-2)
    before = policy.log_prob(batch).logp.sum()
    (-before / act.logp.shape[0]).backward()
    optimiser.step()
    assert bool(policy.log_prob(batch).logp.sum() > before)


def test_entropy_and_distribution_agree_with_the_log_probs(policy):
    batch = pack(rollout(policy, (None,)))
    with torch.no_grad():
        out = policy.log_prob(batch, Need(entropy=True, distribution=True))
    p = out.distribution.double().exp()
    torch.testing.assert_close(p.sum(-1)[batch.mask], torch.ones(int(batch.mask.sum())).double(), atol=1e-5, rtol=0)
    finite = torch.where(p > 0, out.distribution.double(), 0.0)
    torch.testing.assert_close(out.entropy[batch.mask].double(), -(p * finite).sum(-1)[batch.mask], atol=1e-4, rtol=0)
    chosen = torch.cat([turn.record.ids for trajectory in batch.trajectories for turn in trajectory.turns])
    scored = out.distribution[batch.mask].gather(1, chosen[:, None])[:, 0]
    torch.testing.assert_close(scored, out.logp[batch.mask], atol=1e-6, rtol=0)
    assert bool((out.entropy[~batch.mask] == 0).all()) and not out.distribution.requires_grad


def test_exact_kl_is_zero_to_itself_and_positive_to_another(policy):
    batch = pack(rollout(policy, (None,)))
    reference = frozen_copy(policy)
    zero = policy.log_prob(batch, Need(kl_to=reference)).kl
    assert bool((zero.abs() < 1e-5).all())
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.1)
    kl = policy.log_prob(batch, Need(kl_to=reference, distribution=True))
    with torch.no_grad():
        other = reference.log_prob(batch, Need(distribution=True)).distribution
    p = kl.distribution.exp()
    expected = torch.where(p > 0, p * (kl.distribution - other), 0.0).sum(-1)
    torch.testing.assert_close(kl.kl.detach()[batch.mask], expected[batch.mask], atol=1e-4, rtol=1e-3)
    assert bool((kl.kl[batch.mask] > 0).any()) and bool((kl.kl > -1e-6).all()) and kl.kl.requires_grad


def test_only_what_was_asked_for_is_computed(policy):
    out = policy.log_prob(pack(rollout(policy, prompts=1)))
    assert out.entropy is None and out.kl is None and out.distribution is None


def test_specs_and_acts_survive_pickling(family, policy):
    spec = family.spec()
    assert pickle.loads(pickle.dumps(spec)) == spec
    act = policy.act([Context(prompt(0))], n=8, sampling=TURNS, seeds=range(8))[0][0]
    copy = pickle.loads(pickle.dumps(act))
    assert copy.record.ids.tolist() == act.record.ids.tolist()
    # A view would drag the table of the whole batch along.
    assert act.record.ids.untyped_storage().nbytes() == 8 * len(act.record.ids)


def test_builds_are_repeatable_and_leave_the_global_generator_alone(family):
    # The first use of a family may have to write its checkpoint.
    family.spec()
    state = torch.get_rng_state()
    a, b = family.build(), family.build()
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_size_counts_the_positions_of_prompt_observations_and_actions(policy):
    short, long = rollout(policy, prompts=1)[0][0], rollout(policy, (None, None), prompts=1)[0][0]
    assert policy.size(short) + policy.shared_size(short.prompt) > short.num_actions
    assert policy.size(long) > policy.size(short)
    added = Trajectory(
        short.prompt, [*short.turns[:-1], turn(policy.encode([Context(short.prompt)], [(Text("red"),)])[0])]
    )
    assert policy.size(added) - policy.size(short) == added.num_actions - short.num_actions


def test_the_actor_restores_the_training_mode(policy):
    policy.train()
    LocalActor(policy).act([Context(prompt(0))], sampling=TURNS, seeds=[0])
    assert policy.training
    policy.eval()
