"""TinyUnified: words outside of pictures, codes inside of them, in sampling as in scoring."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from saccade.core.batch import pack
from saccade.core.content import Array, Image, Text
from saccade.core.errors import CapabilityError, CheckpointError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.envs.datasets.records import WORDS, Records, scenes
from saccade.policies.unified.codec import PatchCodec
from saccade.policies.unified.tiny import TinyUnified

CPU = torch.device("cpu")
CAUSAL = partial(scaled_dot_product_attention, is_causal=True)
CODEC = PatchCodec(Records(kinds=("draw",), questions=("colour",)))
SPEC = TinyUnified(CODEC, width=32, layers=2, heads=2, words=WORDS)
DRAW = (Text("draw red circle northwest<image>"),)
ASK = (scenes("train")[3].image, Text("which colour?"))
PLAN = (Text("draw something"),)


@pytest.fixture(scope="module")
def policy():
    return eager(SPEC.build(CPU, seed=3).double())


def eager(policy):
    """The start of a picture and the end of a turn are likely, so that random turns have pictures."""
    with torch.no_grad():
        policy.head.weight[[policy.vocabulary.open, policy.vocabulary.end]] *= 3
        policy.trunk.norm.bias.copy_(0.5 * policy.head.weight[policy.vocabulary.open].sign())
    return policy


def start(content, name="task"):
    return Prompt(Task(name, content), content)


def as_turn(act, observation=None):
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation)


def groups(policy, n=6, sampling=Sampling(max_actions=24, temperature=0.8)):
    """Drawn at once, answered, free turns with and without a picture, and second turns after each of them."""
    prompts = [start(content, str(i)) for i, content in enumerate((DRAW, ASK, PLAN))]
    acts = policy.act([Context(p) for p in prompts], n=n, sampling=sampling, seeds=range(3 * n))
    found = []
    for prompt, some in zip(prompts, acts, strict=True):
        group = [Trajectory(prompt, [as_turn(act)]) for act in some]
        for i, trajectory in enumerate(group[: n // 2]):
            trajectory.turns[0].observation = Observation(DRAW if i % 2 else (Text("look again"), ASK[0]))
            context = trajectory.context(1)
            trajectory.turns.append(as_turn(policy.act([context], sampling=sampling, seeds=[100 + i])[0][0]))
        found.append(group)
    return found


def loop_log_prob(policy, batch):
    """One sequence at a time, a fresh softmax over what was allowed at each place, by the rules in words."""
    vocabulary, trunk = policy.vocabulary, policy.trunk
    table = torch.zeros(batch.mask.shape, dtype=torch.float64)
    codes = range(vocabulary.first_code, vocabulary.first_code + 64)
    for i, trajectory in enumerate(batch.trajectories):
        ids = policy.reader.prompt(trajectory.prompt.content).ids.tolist()
        column = 0
        for turn in trajectory.turns:
            left = 16 if ids[-1] == vocabulary.open else 0
            for token in turn.record.ids.tolist():
                states = trunk.embed(torch.tensor([ids]))
                hidden = trunk.norm(trunk._blocks(states, torch.arange(len(ids))[None], [CAUSAL] * 2)[0, -1])
                logits = policy.head(hidden) / turn.record.temperature
                allowed = codes if left else range(vocabulary.written)
                assert token in allowed
                table[i, column] = logits[token] - torch.logsumexp(logits[list(allowed)], 0)
                left = left - 1 if left else 16 if token == vocabulary.open else 0
                ids.append(token)
                column += 1
            if turn.observation is not None:
                ids += policy.reader.observe(turn, turn.observation).ids.tolist()
    return table


def test_log_probs_are_those_of_the_softmax_over_what_is_allowed(policy):
    batch = pack(groups(policy))
    with torch.no_grad():
        expected = loop_log_prob(policy, batch)
        found = policy.log_prob(batch).logp
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(batch.old_logp.double(), expected, atol=1e-6, rtol=0)


def test_first_ratio_is_one(policy):
    batch = pack(groups(policy))
    ratio = (policy.log_prob(batch).logp.detach() - batch.old_logp)[batch.mask].exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)


def test_shared_and_plain_prefixes_give_the_same_values_gradients_and_samples(policy):
    plain = replace(SPEC, prefix="plain").build(CPU, seed=3).double()
    plain.load_state_dict(policy.state_dict())
    batch = pack(groups(policy))
    weight = torch.randn(batch.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for each in (policy, plain):
        each.zero_grad()
        (weight * each.log_prob(batch).logp).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in each.named_parameters()})
        each.zero_grad()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-9, rtol=1e-7, msg=name)
    for one, other in zip(groups(policy), groups(plain), strict=True):
        for a, b in zip(one, other, strict=True):
            assert [t.record.ids.tolist() for t in a.turns] == [t.record.ids.tolist() for t in b.turns]


def test_a_prompt_that_ends_with_the_start_token_is_drawn_at_once(policy):
    (acts,) = policy.act([Context(start(DRAW))], n=5, sampling=Sampling(max_actions=40), seeds=range(5))
    for act in acts:
        assert len(act.logp) == 16 and not act.truncated and bool(act.mask.all())
        assert act.segment.tolist() == [1] * 16 and bool((act.logp < 0).all())
        (picture,) = act.output
        assert picture.pixels.shape == (16, 16, 3)
        np.testing.assert_array_equal(
            picture.pixels, policy.codebook.decode(act.record.ids - policy.vocabulary.first_code)
        )


def test_a_plan_and_its_picture_are_one_turn(policy):
    (acts,) = policy.act([Context(start(PLAN))], n=40, sampling=Sampling(max_actions=40), seeds=range(40))
    planned = [act for act in acts if [type(part) for part in act.output] == [Text, Image]]
    written = [act for act in acts if [type(part) for part in act.output] == [Text]]
    assert len(planned) >= 3 and len(written) >= 3
    for act in planned:
        count = len(act.logp) - 16
        assert act.segment.tolist() == [0] * count + [1] * 16 and not act.truncated
        assert int(act.record.ids[count - 1]) == policy.vocabulary.open
        assert act.output[0].text == policy.vocabulary.decode(act.record.ids[: count - 1].tolist())


def test_an_unfinished_picture_is_no_picture(policy):
    (acts,) = policy.act([Context(start(DRAW))], n=2, sampling=Sampling(max_actions=15), seeds=range(2))
    assert all(act.truncated and act.output == (Text(""),) for act in acts)


def test_demonstrations_come_back_as_they_were_given(policy):
    picture = scenes("test")[0].image
    cases = [
        (DRAW, (picture,), 16),
        (PLAN, (picture,), 17),
        (PLAN, (Text("red circle"), picture), 19),
        (ASK, (Text("<answer>red</answer>"),), 4),
    ]
    contexts = [Context(start(content)) for content, _, _ in cases]
    acts = policy.encode(contexts, [output for _, output, _ in cases])
    for act, (_, output, actions) in zip(acts, cases, strict=True):
        assert len(act.logp) == actions and not act.truncated and bool(act.mask.all())
        for part, given in zip(act.output, output, strict=True):
            if isinstance(given, Image):
                np.testing.assert_array_equal(part.pixels, given.pixels)
            else:
                assert part == given
    batch = pack([[Trajectory(c.prompt, [as_turn(a)])] for c, a in zip(contexts, acts, strict=True)])
    assert bool(policy.log_prob(batch).logp[batch.mask].isfinite().all())


def test_outputs_that_cannot_be_written_are_named(policy):
    picture = scenes("train")[0].image
    for content, output in [
        (DRAW, (Text("red"),)), (DRAW, ()), (PLAN, (picture, Text("red"))), (PLAN, (picture, picture)),
        (PLAN, (Text("red<image>"), picture)), (PLAN, (Array("pose", np.zeros(2)),)), (PLAN, (Text("giraffe"),)),
    ]:  # fmt: skip
        with pytest.raises(DataError):
            policy.encode([Context(start(content))], [output])
    with pytest.raises(DataError, match="Array"):
        policy.act([Context(start((Array("pose", np.zeros(2)),)))], sampling=Sampling(), seeds=[0])


def test_a_picture_that_was_drawn_reads_like_one_that_is_shown(policy):
    """Tokens of a context: the turn's own picture after ``<image>``, the end token, then what follows."""
    picture = scenes("train")[5].image
    vocabulary = policy.vocabulary
    (act,) = policy.encode([Context(start(DRAW))], [(picture,)])
    observed = policy.reader.observe(as_turn(act), Observation((Text("which colour?"),))).ids.tolist()
    assert observed[0] == vocabulary.end and observed[-1] == vocabulary.start
    prompt = policy.reader.prompt(DRAW).ids.tolist()
    assert prompt[-2:] == [vocabulary.start, vocabulary.open]
    shown = policy.reader.prompt((picture,)).ids.tolist()
    assert shown == [vocabulary.open, *act.record.ids.tolist(), vocabulary.start]


def test_entropy_and_divergence_are_over_what_is_allowed(policy):
    """Entropies are at most log 64 inside of pictures; the divergence to oneself is 0, to others positive."""
    batch = pack(groups(policy))
    other = SPEC.build(CPU, seed=9).double()
    with torch.no_grad():
        same = policy.log_prob(batch, Need(entropy=True, kl_to=policy, distribution=True))
        apart = policy.log_prob(batch, Need(kl_to=other))
    inside = batch.mask & (batch.segment == 1)
    assert float(same.entropy[inside].max()) <= np.log(64) + 1e-9
    assert float(same.kl.abs().max()) < 1e-12 and float(apart.kl[batch.mask].min()) > 0
    p = same.distribution[inside].exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[:, 0]))
    assert float(p[:, : policy.vocabulary.first_code].max()) == 0
    entropy = -(p[:, policy.vocabulary.first_code :].log() * p[:, policy.vocabulary.first_code :]).sum(-1)
    torch.testing.assert_close(entropy, same.entropy[inside])


def test_gradients_of_entropy_and_divergence_are_finite(policy):
    batch = pack(groups(policy))
    other = SPEC.build(CPU, seed=9).double()
    policy.zero_grad()
    out = policy.log_prob(batch, Need(entropy=True, kl_to=other))
    (out.entropy.sum() + out.kl.sum() + out.logp.sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in policy.parameters())
    policy.zero_grad()


def test_exact_kl_needs_the_same_codes(policy):
    batch = pack(groups(policy, n=2))
    other = replace(SPEC, codec=replace(CODEC, seed=5)).build(CPU).double()
    with pytest.raises(CapabilityError, match="vocabulary"):
        policy.log_prob(batch, Need(kl_to=other))


def test_rows_that_end_are_dropped_without_touching_the_others(policy):
    context, sampling = Context(start(PLAN)), Sampling(max_actions=30)
    together = policy.act([context], n=60, sampling=sampling, seeds=range(60))[0]
    assert len({len(act.logp) for act in together}) > 5
    for seed in range(0, 60, 6):
        alone = policy.act([context], sampling=sampling, seeds=[seed])[0][0]
        assert alone.record.ids.tolist() == together[seed].record.ids.tolist()


def test_saved_policies_come_back_equal_codes_included(policy, tmp_path):
    small = SPEC.build(CPU, seed=4)
    with torch.no_grad():
        small.codebook.centres += 1
    small.save_pretrained(tmp_path)
    loaded = TinyUnified.load(tmp_path)
    assert loaded.spec == small.spec and torch.equal(loaded.codebook.centres, small.codebook.centres)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(CheckpointError):
        TinyUnified.load(tmp_path / "nowhere")
