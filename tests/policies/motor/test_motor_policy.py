"""What every head must do, in one small world."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policies.motor.rooms import COLUMNS, CPU, HEADS, build, packed, prompt, rollout, seen, turn
from saccade.core.batch import pack
from saccade.core.config import from_dict, to_dict
from saccade.core.content import Array, Image, Text
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, DataError
from saccade.core.policy import LocalActor, Need, Sampling
from saccade.core.reference import frozen_copy
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, forced_turn
from saccade.policies.motor.discrete import Binned, Categorical
from saccade.policies.motor.flow import FlowHead
from saccade.policies.motor.gaussian import Gaussian
from saccade.policies.motor.tiny import TinyVLA

WARM = Sampling(temperature=1.7)


@pytest.fixture(scope="module", params=HEADS, ids=lambda name: name.replace(" ", "-"))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def policy(name):
    return build(HEADS[name])


def log_prob(policy, groups, need=Need()):
    with torch.no_grad():
        return policy.log_prob(packed(groups), need)


def commands(act):
    return act.output[0].values


@pytest.mark.parametrize("sampling", [Sampling(), WARM], ids=["plain", "warm"])
@pytest.mark.parametrize("keep", [None, 1, 0])
def test_log_prob_of_what_was_done_is_the_behaviour_log_prob(policy, keep, sampling):
    batch = packed(rollout(policy, sampling=sampling, keep=keep))
    out = policy.log_prob(batch)
    assert bool((out.logp[~batch.mask] == 0).all()) and bool((batch.old_logp[batch.mask] != 0).all())
    torch.testing.assert_close(out.logp.detach(), batch.old_logp, atol=1e-5, rtol=0)


def test_in_double_precision_the_same_is_drawn_and_scored(name, policy):
    double = copy.deepcopy(policy).double()
    groups = rollout(double)
    for one, two in zip(rollout(policy), groups, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(commands(a.turns[0]), commands(b.turns[0]), atol=1e-4)
    batch = packed(groups)
    out = double.log_prob(batch)
    assert out.logp.dtype == torch.float64
    torch.testing.assert_close(out.logp.detach(), batch.old_logp.double(), atol=1e-5, rtol=0)


def test_a_turn_has_as_many_actions_as_its_head_says_and_one_array_of_commands(name, policy):
    acts = policy.act([Context(prompt(0))], n=3, sampling=Sampling(), seeds=[1, 2, 3])[0]
    spec = policy.spec
    for act in acts:
        assert len(act.logp) == len(act.mask) == len(act.segment) == COLUMNS[name]
        assert [type(part) for part in act.output] == [Array] and act.output[0].name == "command"
        assert commands(act).shape == (spec.chunk, spec.commands) and commands(act).dtype == np.float32
    untrained = 1 if name == "flow" else 0
    assert int(acts[0].mask.sum()) == COLUMNS[name] - untrained
    assert pickle.loads(pickle.dumps(acts[0])).logp.tolist() == acts[0].logp.tolist()


def test_a_sample_depends_on_its_seed_and_context_alone(policy):
    """The same seed and context give the same sample alone, among others, and in another place."""
    contexts = [t.context(k) for group in rollout(policy) for t in group for k in range(t.num_turns)][:6]
    together = policy.act(contexts, sampling=Sampling(), seeds=list(range(6)))
    for i in (0, 3, 5):
        alone = policy.act([contexts[i]], n=2, sampling=Sampling(), seeds=[i, 77])[0]
        np.testing.assert_allclose(commands(alone[0]), commands(together[i][0]), atol=1e-5)
        torch.testing.assert_close(alone[0].logp, together[i][0].logp, atol=1e-5, rtol=1e-5)
    many = policy.act([contexts[0]], n=12, sampling=Sampling(), seeds=list(range(12)))[0]
    assert len({commands(act).tobytes() for act in many}) > 1


def test_log_prob_does_not_depend_on_batch_neighbours(policy):
    groups = rollout(policy)
    whole = log_prob(policy, groups).logp
    row = 0
    for group in groups:
        for trajectory in group:
            alone = log_prob(policy, [[trajectory]]).logp
            torch.testing.assert_close(alone[0], whole[row, : alone.shape[1]], atol=1e-5, rtol=1e-5)
            assert bool((whole[row, alone.shape[1] :] == 0).all())
            row += 1


def test_actions_that_are_masked_are_not_scored(policy):
    batch = packed(rollout(policy))
    first = batch.turn == 0
    out = policy.log_prob(replace(batch, mask=batch.mask & ~first))
    assert bool((out.logp[first] == 0).all())
    later = batch.mask & ~first
    torch.testing.assert_close(out.logp[later], policy.log_prob(batch).logp[later])


def test_a_batch_without_trainable_actions_has_zero_log_probs(policy):
    batch = packed(rollout(policy))
    out = policy.log_prob(replace(batch, mask=torch.zeros_like(batch.mask)), Need(kl_to=policy))
    assert out.logp.shape == batch.mask.shape and not out.logp.any()
    assert out.kl is not None and not out.kl.any()


def test_deterministic_acts_are_repeated_and_not_trained(name, policy):
    greedy = Sampling(deterministic=True)
    acts = policy.act([Context(prompt(0))], n=2, sampling=greedy, seeds=[1, 1])[0]
    np.testing.assert_allclose(commands(acts[0]), commands(acts[1]), atol=1e-6)
    assert not acts[0].mask.any()
    if name != "flow":
        other = policy.act([Context(prompt(0))], sampling=greedy, seeds=[9])[0][0]
        np.testing.assert_allclose(commands(acts[0]), commands(other), atol=1e-6)


def test_every_weight_gets_a_gradient(policy):
    out = policy.log_prob(packed(rollout(policy)))
    policy.zero_grad()
    (out.logp * torch.linspace(1, 2, out.logp.numel()).reshape(out.logp.shape)).sum().backward()
    assert [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_exact_kl_is_zero_to_itself_and_positive_to_others(name, policy):
    groups = rollout(policy)
    batch = packed(groups)
    own = policy.log_prob(batch, Need(kl_to=frozen_copy(policy))).kl
    torch.testing.assert_close(own, torch.zeros_like(own), atol=1e-6, rtol=0)
    other = frozen_copy(policy)
    for parameter in other.parameters():
        parameter.data *= 1.3
    kl = policy.log_prob(batch, Need(kl_to=other)).kl
    assert kl.requires_grad and bool((kl[batch.mask] > 0).all()) and bool((kl[~batch.mask] == 0).all())


def test_kl_needs_a_policy_that_can_be_compared(name, policy):
    batch = packed(rollout(policy))
    others = [build(spec) for key, spec in HEADS.items() if key != name][:1]
    others.append(build(replace(policy.spec, words=("other",))))
    if not isinstance(policy.spec.head, Categorical):
        moved = copy.deepcopy(policy)
        moved.trunk.commands.high += 1
        others.append(moved)
    for other in others:
        with pytest.raises(CapabilityError, match="same head, inputs, words and units"):
            policy.log_prob(batch, Need(kl_to=other))


def test_demonstrations_become_records_that_can_be_scored(name, policy):
    """An encoded output is the output itself, to the width of a bin; all of its actions can be trained."""
    own = policy.act([Context(prompt(0))], sampling=Sampling(), seeds=[3])[0][0]
    act = policy.encode([Context(prompt(0))], [own.output])[0]
    assert not act.logp.any() and bool(act.mask.all())
    np.testing.assert_array_equal(commands(act), commands(own))
    batch = pack([[Trajectory(prompt(0), [forced_turn(act.output, act.record, len(act.logp))])]])
    logp = policy.log_prob(batch).logp
    assert bool(torch.isfinite(logp).all()) and bool((logp < 5).all())
    if name == "flow":
        assert logp.shape == (1, policy.spec.head.demonstrations.draws)
    else:
        torch.testing.assert_close(logp[0].detach(), own.logp, atol=1e-4, rtol=1e-4)


def test_demonstrations_and_rollouts_can_be_scored_together(policy):
    groups = rollout(policy)
    act = policy.encode([Context(prompt(5))], [groups[0][0].turns[0].output])[0]
    shown = Trajectory(prompt(5), [forced_turn(act.output, act.record, len(act.logp))])
    mixed = log_prob(policy, [[shown], *groups], Need(kl_to=policy))
    alone = log_prob(policy, [[shown]])
    torch.testing.assert_close(mixed.logp[0, : alone.logp.shape[1]], alone.logp[0], atol=1e-5, rtol=1e-5)
    rest = log_prob(policy, groups).logp
    torch.testing.assert_close(mixed.logp[1:, : rest.shape[1]], rest, atol=1e-5, rtol=1e-5)


BAD_OUTPUTS = {
    "nothing": (),
    "text": (Text("left"),),
    "shape": (Array("command", np.zeros((1, 9), np.float32)),),
    "name": (Array("state", np.zeros((1, 1), np.float32)),),
}


@pytest.mark.parametrize("output", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_an_output_that_is_no_command_is_refused_with_the_task(policy, output):
    with pytest.raises(DataError, match=r"task 'task-0': expected one array 'command'"):
        policy.encode([Context(prompt(0))], [output])


def test_a_command_that_is_not_finite_is_refused(policy):
    spec = policy.spec
    wrong = (Array("command", np.full((spec.chunk, spec.commands), np.nan, np.float32)),)
    with pytest.raises(DataError, match="task-0"):
        policy.encode([Context(prompt(0))], [wrong])


def test_an_index_that_is_no_choice_is_refused():
    policy = build(HEADS["categorical"])
    for value in (5.0, -1.0, 0.5):
        with pytest.raises(DataError, match=r"task 'task-0': commands must be indices 0, ..., 4"):
            policy.encode([Context(prompt(0))], [(Array("command", np.array([[value]], np.float32)),)])


def test_what_was_saved_acts_alike(policy, tmp_path):
    policy.save_pretrained(tmp_path / "model")
    loaded = TinyVLA.load(tmp_path / "model").eval()
    assert loaded.spec == policy.spec
    for seed in range(3):
        one, two = (p.act([Context(prompt(0))], sampling=Sampling(), seeds=[seed])[0][0] for p in (policy, loaded))
        np.testing.assert_array_equal(commands(one), commands(two))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="does not hold a TinyVLA"):
        TinyVLA.load(tmp_path / "model")


def test_the_spec_survives_files_and_pickling(name):
    spec = HEADS[name]
    assert from_dict(to_dict(spec)) == spec and pickle.loads(pickle.dumps(spec)) == spec


def test_the_policy_can_be_an_actor_and_be_copied(policy):
    actor = LocalActor(copy.deepcopy(policy))
    assert len(actor.act([Context(prompt(0))], n=2, sampling=Sampling(), seeds=[0, 1])[0]) == 2


def test_records_of_another_head_are_refused(name, policy):
    other = "gaussian" if name != "gaussian" else "categorical"
    groups = rollout(build(HEADS[other]))
    for group in groups:
        for trajectory in group:
            for one in trajectory.turns:
                zeros = np.zeros((policy.spec.chunk, policy.spec.commands), np.float32)
                one.output = (Array("command", zeros),)
    with pytest.raises(CapabilityError, match="this head scores"):
        policy.log_prob(packed(groups))


# --- what is seen -----------------------------------------------------------------------------------------------------


def states(policy, contexts):
    """What the head is told of each context."""
    from saccade.policies.motor.seeing import Looking

    looking = Looking(policy.trunk.expected, policy.trunk.words)
    for context in contexts:
        looking.context(context)
    with torch.no_grad():
        return policy.trunk(looking.rows)


def differ(policy, one, two):
    a, b = states(policy, [one, two])
    return float((a - b).abs().max()) > 1e-4


GAUSSIAN = HEADS["gaussian"]


def episode(policy, turns, seed=0) -> Any:
    trajectory = Trajectory(prompt(seed))
    for k in range(turns):
        act = policy.act([trajectory.context(k)], sampling=Sampling(), seeds=[k])[0][0]
        trajectory.turns.append(turn(act, Observation(seen(50 + k))))
    return trajectory


def with_answer(trajectory, k, content):
    turns = list(trajectory.turns)
    turns[k] = replace(turns[k], observation=Observation(content))
    return replace(trajectory, turns=turns)


@pytest.mark.parametrize("history", [1, 2, 3])
def test_the_last_observations_are_seen_and_no_others(history):
    policy = build(replace(GAUSSIAN, history=history))
    trajectory = episode(policy, 4)
    for k in range(4):
        changed = with_answer(trajectory, k, seen(999))
        # After turn 3 the newest observation is that of turn 3.
        assert differ(policy, trajectory.context(4), changed.context(4)) == (k > 3 - history)


@pytest.mark.parametrize("history", [1, 2, 3])
def test_the_commands_between_the_seen_observations_are_known_and_no_others(history):
    policy = build(replace(GAUSSIAN, history=history))
    trajectory = episode(policy, 4)
    for k in range(4):
        turns = list(trajectory.turns)
        turns[k] = replace(turns[k], output=(Array("command", np.full((2, 3), 0.9, np.float32)),))
        changed = replace(trajectory, turns=turns)
        assert differ(policy, trajectory.context(4), changed.context(4)) == (k > 4 - history)


def test_a_missing_frame_is_not_a_black_one():
    policy = build(replace(GAUSSIAN, history=2))
    dark = (Image(np.zeros((16, 16, 3), np.uint8)), Array("state", np.zeros(3, np.float32)))
    shown = (Text("go"), *seen(1))
    now, zero = seen(1), (Array("command", np.array([[0.0, 0.5, 0.0]] * 2, np.float32)),)
    act = policy.encode([Context(prompt(0))], [zero])[0]
    early = Context(Prompt(Task("a", shown), shown))
    late = Context(Prompt(Task("b", dark), (Text("go"), *dark)), (turn(act, Observation(now)),))
    assert differ(policy, early, late)


@pytest.mark.parametrize("part", [0, 1], ids=["pixels", "state"])
def test_pixels_and_state_both_matter(part):
    policy = build(GAUSSIAN)
    trajectory = episode(policy, 1)
    old, new = list(trajectory.turns[0].observation.content), seen(998)
    old[part] = new[part]
    assert differ(policy, trajectory.context(1), with_answer(trajectory, 0, tuple(old)).context(1))


def test_text_of_prompt_and_observations_is_the_instruction():
    policy = build(GAUSSIAN)

    def context(words, later=()):
        content = (Text(words), *seen(3))
        start = Prompt(Task("t", content), content)
        act = policy.encode([Context(start)], [(Array("command", np.zeros((2, 3), np.float32)),)])[0]
        return Context(start, (turn(act, Observation((*later, *seen(4)))),))

    assert differ(policy, context("go to the red square"), context("go to the blue square"))
    assert differ(policy, context("red"), context("red", (Text("no"),)))
    assert not differ(policy, context("Red, Square"), context("red square!"))
    assert not differ(policy, context("a zebra"), context("an okapi"))
    torch.testing.assert_close(*states(policy, [context("red", (Text("no"),)), context("red no")]))


def test_what_is_dropped_from_the_context_is_not_seen():
    """With keep = 1 the prompt and the last turn are left: the answers before it do not matter."""
    policy = build(replace(GAUSSIAN, history=4))
    trajectory = episode(policy, 3)
    trajectory.turns[2] = replace(trajectory.turns[2], observation=Observation(seen(52), keep=1))
    for k, matters in ((0, False), (1, False)):
        changed = with_answer(trajectory, k, (Text("no"), *seen(999)))
        assert differ(policy, trajectory.context(3), changed.context(3)) == matters
    start = replace(trajectory, prompt=prompt(1))
    assert differ(policy, trajectory.context(3), start.context(3))


def test_a_frame_that_several_rows_show_is_looked_at_once():
    """Four turns of history 3 show five observations; two trajectories of a group share the prompt's."""
    policy = build(GAUSSIAN)
    start = prompt(0)
    group = []
    for i in range(2):
        trajectory = Trajectory(start)
        for k in range(4):
            act = policy.act([trajectory.context(k)], sampling=Sampling(), seeds=[k + i])[0][0]
            trajectory.turns.append(turn(act, Observation(seen(50 + 10 * i + k))))
        group.append(trajectory)
    before = policy.trunk.frames_seen
    policy.log_prob(pack([group]))
    assert policy.trunk.frames_seen - before == 1 + 2 * 3
    before = policy.trunk.frames_seen
    policy.act([Context(start)], n=8, sampling=Sampling(), seeds=range(8))
    assert policy.trunk.frames_seen - before == 1


BAD_SIGHTS = {
    "no picture": ((Text("go"), seen(0)[1]), "expected one image of 16 x 16, got none"),
    "two pictures": ((seen(0)[0], *seen(1)), "got 16 x 16, 16 x 16"),
    "another size": ((Image(np.zeros((8, 16, 3), np.uint8)), seen(0)[1]), "expected one image of 16 x 16, got 16 x 8"),
    "no state": ((seen(0)[0],), "expected one array 'state' of 3 finite numbers, got none"),
    "another state": (seen(0, state=4), r"expected one array 'state' of 3 finite numbers, got \[4\]"),
}


@pytest.mark.parametrize(("content", "message"), BAD_SIGHTS.values(), ids=BAD_SIGHTS)
def test_an_observation_of_another_kind_is_refused_with_the_task(content, message):
    policy = build(GAUSSIAN)
    start = Prompt(Task("odd", content), content)
    with pytest.raises(DataError, match=f"task 'odd', observation 0: .*{message}"):
        policy.act([Context(start)], sampling=Sampling(), seeds=[0])
    trajectory = episode(policy, 1)
    with pytest.raises(DataError, match="task 'task-0', observation 1"):
        policy.act([with_answer(trajectory, 0, content).context(1)], sampling=Sampling(), seeds=[0])


@pytest.mark.parametrize("inputs", [{"side": 0}, {"state": 0}], ids=["state only", "pixels only"])
def test_what_is_not_asked_for_is_not_looked_at(inputs):
    policy = build(replace(GAUSSIAN, **inputs))
    batch = packed(rollout(policy))
    torch.testing.assert_close(policy.log_prob(batch).logp.detach(), batch.old_logp, atol=1e-5, rtol=0)
    trajectory = episode(policy, 1)
    old, new = list(trajectory.turns[0].observation.content), seen(998)
    unseen = 0 if inputs == {"side": 0} else 1
    old[unseen] = new[unseen]
    assert not differ(policy, trajectory.context(1), with_answer(trajectory, 0, tuple(old)).context(1))
    del old[unseen]
    assert not differ(policy, trajectory.context(1), with_answer(trajectory, 0, tuple(old)).context(1))


def test_size_counts_squares_of_turns():
    policy = build(GAUSSIAN)
    trajectory = episode(policy, 3)
    assert policy.size(trajectory) == 3 * 4 * 4
    assert build(replace(GAUSSIAN, side=0)).size(trajectory) == 3


@pytest.mark.parametrize("side", [32, 40, 56, 112])
def test_pictures_of_all_usual_sides_are_read(side):
    policy = TinyVLA(side=side).build(CPU)
    start = Prompt(Task("t", ()), seen(0, side))
    assert policy.act([Context(start)], sampling=Sampling(), seeds=[0])[0][0].logp.shape == (1,)


def test_the_default_size_is_tiny():
    policy = TinyVLA(head=Binned(), commands=4).build(CPU)
    assert 0.3e6 < sum(p.numel() for p in policy.parameters()) < 0.6e6


WRONG = [
    (lambda: TinyVLA(side=0), "side or state must be > 0"),
    (lambda: TinyVLA(side=30), "side must be a multiple of patch"),
    (lambda: TinyVLA(history=0), "history and width"),
    (lambda: TinyVLA(chunk=0), "chunk must be >= 1"),
    (lambda: TinyVLA(commands=0), "commands must be >= 1"),
    (lambda: TinyVLA(words=("two words",)), "words must be single words"),
    (lambda: TinyVLA(words=("Red",)), "words must be single words of small letters"),
    (lambda: TinyVLA(words=("red", "red")), "words must differ"),
    (lambda: TinyVLA(head=Categorical(choices=1)), r"head.choices must be >= 2"),
    (lambda: TinyVLA(head=Categorical(level="word")), "head.level"),  # type: ignore[arg-type]
    (lambda: TinyVLA(head=Binned(bins=1)), r"head.bins must be >= 2"),
    (lambda: TinyVLA(head=HEADS["gaussian"].head, commands=2), "head.units.low must have 1 or 2 numbers"),
    (lambda: Gaussian(std=0.01), "0 < least < std"),
    (lambda: FlowHead(tail=4), "head.tail must be in"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", ["gaussian", "flow"])
def test_continuous_heads_have_no_nucleus(name):
    with pytest.raises(ConfigError, match="top_p"):
        build(HEADS[name]).act([Context(prompt(0))], sampling=Sampling(top_p=0.9), seeds=[0])
