"""Policies over transformers checkpoints: what acts, what is re-evaluated, and the plain forward pass agree."""

import copy

import pytest
import torch

from policies.hf.checkpoints import ARCHITECTURES, OTHERS
from policies.hf.plain import plain_logp
from policies.hf.scenes import episodes, picture, prompts, rolled_out, turn
from saccade.core.batch import pack
from saccade.core.content import Array, Image, Text
from saccade.core.errors import CapabilityError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, forced_turn
from saccade.policies.token import policy as token_policy
from saccade.policies.token.families import FAMILIES
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import batch_rows

BATCHES = {
    "one turn": rolled_out,
    "turns with pictures": episodes,
    "last turn kept": lambda policy: episodes(policy, keep=1),
    "prompt only": lambda policy: episodes(policy, keep=0),
}


@pytest.fixture(params=BATCHES)
def batch_of(request):
    return BATCHES[request.param]


def gradient(policy, value):
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_log_prob_equals_what_act_reported(make, batch_of):
    policy = make()
    batch = batch_of(policy)
    assert batch.mask.any(1).all()
    assert (policy.log_prob(batch).logp - batch.old_logp).abs().max() < 1e-4


def test_log_prob_equals_the_plain_forward_pass_in_value_and_gradient(make, batch_of):
    policy = make().double()
    batch = batch_of(policy)
    weight = torch.randn(batch.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cached, plain = policy.log_prob(batch).logp, plain_logp(policy, batch)
    assert (cached - plain).abs().max() < 1e-9
    for ours, theirs in zip(
        gradient(policy, (weight * cached).sum()), gradient(policy, (weight * plain).sum()), strict=True
    ):
        assert (ours - theirs).norm() <= 1e-6 * (1e-3 + theirs.norm())


def test_every_weight_of_encoder_and_decoder_gets_gradient(make):
    policy = make()
    policy.log_prob(rolled_out(policy)).logp.sum().backward()
    still = {name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # Key biases shift all scores of a query alike, so the softmax does not see them.
    assert all("k_proj.bias" in name for name in still), still


@pytest.mark.parametrize("name", OTHERS)
def test_sister_architectures_agree_with_the_plain_forward_pass(folders, name):
    policy = HFVisionLanguage(str(folders[name])).build(torch.device("cpu"))
    batch = episodes(policy)
    logp = policy.log_prob(batch).logp
    assert (logp - batch.old_logp).abs().max() < 1e-4
    assert (logp - plain_logp(policy, batch)).abs().max() < 1e-4


def test_every_supported_architecture_is_checked():
    assert set(FAMILIES) == {*ARCHITECTURES, *OTHERS}


def test_greedy_turns_are_those_of_generate(make):
    """``generate`` computes positions, masks and stops in its own way."""
    policy = make()
    sampling = Sampling(max_actions=8, deterministic=True)
    for prompt in prompts():
        act = policy.act([Context(prompt)], sampling=sampling, seeds=[0])[0][0]
        chunk = policy.reader.prompt(prompt.content)
        ids = torch.where(chunk.ids < 0, policy.base.config.image_token_id, chunk.ids)[None]
        inputs = {}
        if chunk.images:
            side = 1 if policy.base.config.model_type == "idefics3" else 0
            names = chunk.images[0].tensors
            inputs = {name: torch.cat([image.tensors[name] for image in chunk.images], side) for name in names}
        if policy.family.axes == 3:
            inputs["mm_token_type_ids"] = (chunk.ids < 0).int()[None]
        out = policy.base.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, **inputs
        )
        assert act.record.ids.tolist() == out[0, ids.shape[1] :].tolist()
        assert not act.mask.any()


def test_pictures_matter(make):
    policy = make()
    batch = rolled_out(policy)
    other = copy.copy(batch)
    other.prompts = [
        Prompt(p.task, tuple(Image(255 - c.pixels) if isinstance(c, Image) else c for c in p.content))
        for p in batch.prompts
    ]
    change = (policy.log_prob(batch).logp - policy.log_prob(other).logp).abs().amax(1)
    assert change[batch.group == 0].min() > 1e-3
    assert change[batch.group == 2].min() > 1e-3
    assert change[batch.group == 1].max() < 1e-5


def test_samples_depend_on_their_seed_alone(make):
    policy = make()
    sampling, both = Sampling(max_actions=6), [Context(prompt) for prompt in prompts()[:2]]
    together = policy.act(both, n=3, sampling=sampling, seeds=[1, 2, 3, 4, 5, 1])
    alone = policy.act(both[:1], n=1, sampling=sampling, seeds=[2])
    assert together[0][1].record.ids.equal(alone[0][0].record.ids)
    assert together[0][1].logp.sub(alone[0][0].logp).abs().max() < 1e-4
    few = make(rows=2).act(both, n=3, sampling=sampling, seeds=[1, 2, 3, 4, 5, 1])
    assert [a.record.ids.tolist() for acts in few for a in acts] == [
        a.record.ids.tolist() for acts in together for a in acts
    ]


def test_temperature_is_that_of_the_record(make):
    policy = make()
    batch = rolled_out(policy, sampling=Sampling(max_actions=5, temperature=0.5, top_p=0.8))
    assert (policy.log_prob(batch).logp - batch.old_logp).abs().max() < 1e-4
    assert (policy.log_prob(batch).logp - plain_logp(policy, batch)).abs().max() < 1e-4


def test_pictures_are_encoded_once_for_all_samples_and_trajectories(make):
    policy = make()
    encoder = policy.base.get_submodule(f"model.{policy.family.vision}")
    calls, lengths = [], []
    counting = encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    real = type(policy.family).features

    def features(self, model, pictures):
        lengths.append(len(pictures))
        return real(self, model, pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(policy.family), "features", features)
        contexts = [Context(prompt) for prompt in prompts()]
        policy.act(contexts, n=4, sampling=Sampling(max_actions=3), seeds=range(16))
        assert (len(calls), lengths) == (1, [6])
        batch = rolled_out(policy, sizes=(4, 4, 4, 4))
        calls.clear()
        lengths.clear()
        policy.log_prob(batch)
        assert (len(calls), lengths) == (1, [6])
        # Episodes of 2 groups by 2: 1 + 2 pictures in prompts, read with these, and 3 pictured answers after each of 2
        # turns. Where the context is rewritten, answers appear in several rows and are encoded once all the same.
        for keep in (None, 2):
            batch = episodes(policy, keep=keep)
            calls.clear()
            lengths.clear()
            policy.log_prob(batch)
            assert (len(calls), lengths) == (2, [3, 6])
    counting.remove()


def test_prompts_run_through_the_decoder_once_per_group_and_nothing_is_padded(make):
    """The last token of a row predicts nothing and is not read."""
    policy = make()
    batch = rolled_out(policy, sizes=(4, 4, 4, 4))
    decoder = policy.base.get_submodule(f"model.{policy.family.decoder}")
    seen = []
    handle = decoder.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    policy.log_prob(batch)
    handle.remove()
    once = sum(len(policy.reader.prompt(prompt.content).ids) for prompt in batch.prompts)
    assert seen == [(1, once), (1, int((batch.length - 1).sum()))]


def test_the_head_never_sees_prompt_positions(make):
    policy = make()
    batch = rolled_out(policy)
    seen = []
    handle = policy.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    policy.log_prob(batch)
    handle.remove()
    assert seen == [int(batch.mask.sum())]


def test_logits_in_parts_change_neither_value_nor_gradient(make, monkeypatch):
    policy = make().double()
    reference = make(lora=None).double()
    for parameter in reference.parameters():
        parameter.data.mul_(1.02)
    batch = rolled_out(policy)
    need = Need(entropy=True, kl_to=reference, distribution=True)

    def evaluate():
        out = policy.log_prob(batch, need)
        return out, gradient(policy, (out.logp + 0.3 * out.entropy + 0.7 * out.kl).sum())

    whole, whole_gradient = evaluate()
    monkeypatch.setattr(token_policy, "LOGITS_AT_ONCE", 4 * policy.head.out_features)
    parts, parts_gradient = evaluate()
    for name in ("logp", "entropy", "kl", "distribution"):
        assert (getattr(whole, name) - getattr(parts, name)).abs().max() < 1e-12
    for one, other in zip(whole_gradient, parts_gradient, strict=True):
        assert (one - other).norm() <= 1e-9 * (1e-3 + one.norm())


def test_entropy_kl_and_distribution_are_those_of_the_full_vocabulary(make):
    policy, reference = make().double(), make().double()
    for parameter in reference.parameters():
        parameter.data.mul_(1.05)
    batch = rolled_out(policy)
    out = policy.log_prob(batch, Need(entropy=True, kl_to=reference, distribution=True))
    other = reference.log_prob(batch, Need(distribution=True)).distribution
    logp = out.distribution
    assert logp.exp().sum(-1)[batch.mask].sub(1).abs().max() < 1e-12
    torch.testing.assert_close(out.entropy, -(logp.exp() * logp).sum(-1))
    torch.testing.assert_close(out.kl, (logp.exp() * (logp - other)).sum(-1))
    assert (out.kl[batch.mask] > 1e-6).all()
    assert not out.logp[~batch.mask].any() and not out.kl[~batch.mask].any() and not out.entropy[~batch.mask].any()
    assert out.kl.requires_grad and not out.distribution.requires_grad


def test_masked_actions_are_zero_and_cost_no_logits(make):
    policy = make()
    batch = episodes(policy)
    batch.mask = batch.mask & (batch.turn != 1)
    logp = policy.log_prob(batch).logp
    assert not logp[batch.turn == 1].any()
    assert torch.where(batch.mask, logp - batch.old_logp, 0.0).abs().max() < 1e-4
    batch.mask = torch.zeros_like(batch.mask)
    policy.log_prob(batch).logp.sum().backward()


def test_a_drawn_image_token_stays_a_token(make):
    """It has no picture to stand for; later pictures must not slide into its place."""
    policy = make()
    batch = episodes(policy)
    for trajectory in batch.trajectories:
        first = trajectory.turns[0]
        ids = first.record.ids.clone()
        ids[0] = policy.base.config.image_token_id
        trajectory.turns[0] = forced_turn(first.output, TokenRecord(ids), len(ids))
        trajectory.turns[0].observation = first.observation
    changed = pack([batch.trajectories[:2], batch.trajectories[2:]])
    assert torch.isfinite(policy.log_prob(changed).logp).all()
    context = changed.trajectories[0].context(1)
    act = policy.act([context], sampling=Sampling(max_actions=3), seeds=[0])[0][0]
    trajectory = Trajectory(context.prompt, [*context.turns, turn(act)])
    again = policy.log_prob(pack([[trajectory]])).logp
    first = trajectory.turns[0].num_actions
    assert (again[0, first:] - act.logp).abs().max() < 1e-4


def test_encode_writes_text_that_reads_back(make):
    policy = make(segments=("think", "answer"))
    text = "<think>three</think><answer>3</answer>"
    act = policy.encode([Context(prompts()[0])], [(Text(text),)])[0]
    assert act.output == (Text(text),)
    assert act.record.ids[-1] == policy.reader.end
    assert act.mask.all() and not act.logp.any() and not act.truncated
    inside = ["".join(policy.reader.pieces(act.record.ids[act.segment == s])) for s in (1, 2)]
    assert inside == ["three", "3"]
    with pytest.raises(DataError, match="writes text, got Image"):
        policy.encode([Context(prompts()[0])], [(picture(0),)])


def test_truncated_turns_have_no_end_and_the_template_supplies_it(make):
    policy = make()
    answer = Observation((Text("go on"),))
    acts = policy.act([Context(prompts()[0])], n=4, sampling=Sampling(max_actions=2), seeds=range(4))[0]
    acts += policy.encode([Context(prompts()[0])], [(Text("done"),)])
    assert {act.truncated for act in acts} == {True, False}
    for act in acts:
        ended = int(act.record.ids[-1]) in policy.ends
        assert act.truncated == (not ended)
        whole = torch.cat([act.record.ids, policy.reader.observe(turn(act), answer).ids])
        end = len(act.record.ids) - ended
        assert whole[end] == policy.reader.end and whole[end + 1] != policy.reader.end


def test_size_counts_the_positions_of_the_rows(make):
    policy = make()
    batch = episodes(policy)
    trajectory = batch.trajectories[0]
    prompt = len(policy.reader.prompt(trajectory.prompt.content).ids)
    answers = sum(len(policy.reader.observe(t, t.observation).ids) for t in trajectory.turns[:-1])
    assert policy.size(trajectory) == trajectory.num_actions + answers
    assert policy.shared_size(trajectory.prompt) == prompt
    plain = make(prefix="plain")
    assert plain.size(trajectory) == prompt + trajectory.num_actions + answers
    assert plain.shared_size(trajectory.prompt) == 0
    for keep in (0, 1, 2):
        batch = episodes(policy, turns=4, keep=keep)
        for trajectory in batch.trajectories:
            rows = batch_rows(pack([[trajectory]]), policy.reader)
            prompt = len(rows.prefix[0].ids)
            assert policy.size(trajectory) == rows.positions - prompt
            assert plain.size(trajectory) == rows.positions + (len(rows.prompt) - 1) * prompt


def test_bfloat16_agrees_loosely(make):
    policy, exact = make(dtype="bfloat16"), make()
    batch = rolled_out(policy)
    assert batch.old_logp.dtype == torch.float32
    logp = policy.log_prob(batch).logp
    assert logp.dtype == torch.float32
    assert (logp - batch.old_logp).abs().max() < 0.1
    assert (logp - exact.log_prob(batch).logp).abs().max() < 0.2


def test_training_mode_changes_no_number(make):
    policy = make()
    batch = rolled_out(policy)
    before = policy.log_prob(batch).logp
    policy.train()
    assert policy.training and not any(module.training for module in policy.model.modules())
    assert policy.log_prob(batch).logp.equal(before)


def test_a_frozen_encoder_gets_no_gradient(make):
    policy = make(freeze_vision=True)
    policy.log_prob(rolled_out(policy)).logp.sum().backward()
    inside = f".{policy.family.vision}."
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is None) == (inside in name), name


def test_a_copy_shares_no_weights_and_agrees(make):
    policy = make()
    batch = rolled_out(policy)
    reference = copy.deepcopy(policy)
    assert reference.log_prob(batch).logp.equal(policy.log_prob(batch).logp)
    for parameter in policy.parameters():
        parameter.data.mul_(1.1)
    assert not reference.log_prob(batch).logp.equal(policy.log_prob(batch).logp)


def test_what_cannot_be_read_is_named(make):
    policy = make()
    sampling = Sampling(max_actions=1)

    def act(*content):
        policy.act([Context(Prompt(Task("t", ()), content))], sampling=sampling, seeds=[0])

    with pytest.raises(DataError, match="marks pictures in this model"):
        act(Text(f"see {policy.family.placeholder} there"), picture(0))
    with pytest.raises(CapabilityError, match="not Array"):
        act(Array("speed", picture(0).pixels))
