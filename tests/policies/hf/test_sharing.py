"""Shared prefixes inside stock models: equal to the full forward pass, and switched off where they would not be."""

import logging

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from policies.counting import encoded_pictures, prefix_passes
from policies.hf.checkpoints import OTHERS, build
from policies.hf.plain import plain_logp
from policies.hf.scenes import episodes, prompts, rolled_out, turn
from saccade.core.batch import pack
from saccade.core.errors import ConfigError
from saccade.core.policy import Need, Sampling
from saccade.core.reference import Adapters
from saccade.core.trajectory import Context, Trajectory
from saccade.policies.lora import LoRA
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.policy import SPARSE

CPU = torch.device("cpu")
BATCHES = {"one turn": rolled_out, "turns": episodes, "last turn kept": lambda policy: episodes(policy, keep=1)}


def loaded(folder, **settings):
    return HFVisionLanguage(str(folder), **settings).build(CPU)


# Norms of these models round to float32 even in a float64 model; where two paths round a number apart, gradients differ
# by 1e-7. Against the plain path, whose numbers are those of the shared one nearly everywhere, the bound is 1e-7.


def gradient(policy, logp):
    """Of a random weighting, over the whole model, as one vector."""
    weight = torch.randn(logp.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = [p for p in policy.parameters() if p.requires_grad]
    found = torch.autograd.grad((weight * logp).sum(), parameters, allow_unused=True)
    flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    return torch.cat(flat)


def apart(x, y):
    return float((x - y).detach().norm() / y.detach().norm())


@pytest.mark.parametrize("name", OTHERS)
def test_sister_architectures_share_prefixes_and_equal_the_plain_path(folders, name):
    shared, plain = loaded(folders[name]).double(), loaded(folders[name], prefix="plain").double()
    assert shared.shared and shared.direct and not plain.shared
    batch = episodes(shared)
    logp, expected = shared.log_prob(batch).logp, plain.log_prob(batch).logp
    assert (logp - expected).abs().max() < 1e-9
    assert apart(gradient(shared, logp), gradient(plain, expected)) < 1e-7


# --- sliding windows ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    return build("sliding", tmp_path_factory.mktemp("sliding") / "model")


@pytest.mark.parametrize("batch_of", BATCHES.values(), ids=BATCHES)
def test_sliding_windows_are_those_of_the_full_forward_pass(sliding, batch_of):
    policy = loaded(sliding).double()
    assert policy.shared and [layer.self_attn.sliding_window for layer in policy.backbone.layers] == [None, 16]
    batch = batch_of(policy)
    logp, expected = policy.log_prob(batch).logp, plain_logp(policy, batch)
    assert (logp - expected).abs().max() < 1e-9
    assert apart(gradient(policy, logp), gradient(policy, expected)) < 1e-6
    assert (logp - batch.old_logp).abs().max() < 1e-5


def test_a_window_changes_the_numbers_of_the_small_model(sliding, folders):
    """Otherwise the test above would prove nothing."""
    policy, wide = loaded(sliding), loaded(folders["qwen2_5_vl"])
    batch = rolled_out(policy)
    assert all(a.equal(b) for a, b in zip(policy.parameters(), wide.parameters(), strict=True))
    assert (policy.log_prob(batch).logp - wide.log_prob(batch).logp).abs().max() > 1e-2


def test_samples_longer_than_the_window_are_those_of_the_full_forward_pass(sliding):
    policy = loaded(sliding)
    batch = rolled_out(policy, sizes=(2, 1, 1, 1), sampling=Sampling(max_actions=24))
    assert int(batch.length.max()) == 24
    assert (plain_logp(policy, batch) - batch.old_logp).abs().max() < 1e-5


def test_sliding_windows_need_the_shared_prefix(sliding):
    with pytest.raises(ConfigError, match=r"sliding windows need policy\.prefix=shared, but prefix is plain"):
        loaded(sliding, prefix="plain")


# --- architectures that cannot share --------------------------------------------------------------------------------


def mixing_neighbours(patch):
    """Positions meet outside attention: each layer adds the state of the token before."""
    real = qwen.Qwen2_5_VLDecoderLayer.forward

    def forward(self, hidden_states, *args, **kwargs):
        out = real(self, hidden_states, *args, **kwargs)
        return out + 0.3 * out.roll(1, 1)

    patch.setattr(qwen.Qwen2_5_VLDecoderLayer, "forward", forward)


def averaging_positions(patch):
    real = qwen.Qwen2_5_VLDecoderLayer.forward

    def forward(self, hidden_states, *args, **kwargs):
        out = real(self, hidden_states, *args, **kwargs)
        count = torch.arange(1, out.shape[1] + 1, dtype=out.dtype)[:, None]
        return out + out.cumsum(1) / count

    patch.setattr(qwen.Qwen2_5_VLDecoderLayer, "forward", forward)


def attention_of_its_own(patch):
    """The model does not ask transformers' table for its attention."""

    class Own:
        @staticmethod
        def get_interface(implementation, default):
            return sdpa_attention_forward

    patch.setattr(qwen, "ALL_ATTENTION_FUNCTIONS", Own)


def attention_that_raises(patch):
    """Its forward pass takes no arguments but its own."""
    real = qwen.Qwen2_5_VLAttention.forward

    def forward(self, hidden_states, attention_mask=None, position_ids=None, past_key_values=None,
                position_embeddings=None, use_cache=False):  # fmt: skip
        return real(self, hidden_states, attention_mask, position_ids, past_key_values, position_embeddings)

    patch.setattr(qwen.Qwen2_5_VLAttention, "forward", forward)


def not_a_number(patch):
    real = qwen.Qwen2_5_VLDecoderLayer.forward

    def forward(self, hidden_states, *args, **kwargs):
        return real(self, hidden_states, *args, **kwargs) * torch.nan

    patch.setattr(qwen.Qwen2_5_VLDecoderLayer, "forward", forward)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("saccade") and r.levelno >= logging.WARNING]


UNFIT = (mixing_neighbours, averaging_positions, attention_of_its_own, attention_that_raises, not_a_number)


@pytest.mark.parametrize("change", UNFIT, ids=lambda change: change.__name__)
def test_an_architecture_that_cannot_share_says_so_once_and_takes_the_plain_path(folders, monkeypatch, caplog, change):
    change(monkeypatch)
    policy = loaded(folders["qwen2_5_vl"])
    (line,) = warnings_of(caplog)
    assert str(folders["qwen2_5_vl"]) in line and "prompts are not shared" in line
    assert not policy.shared and policy.backbone.config._attn_implementation == "sdpa"
    assert policy.shared_size(prompts()[0]) == 0
    plain = loaded(folders["qwen2_5_vl"], prefix="plain")
    assert len(warnings_of(caplog)) == 1, "the plain path is taken without a check"
    if change is not not_a_number:
        batch = episodes(policy)
        assert policy.log_prob(batch).logp.equal(plain.log_prob(batch).logp)
        policy.log_prob(batch).logp.sum().backward()


@pytest.mark.parametrize("change", [attention_of_its_own, attention_that_raises], ids=lambda change: change.__name__)
def test_the_plain_path_of_such_an_architecture_equals_its_full_forward_pass(folders, monkeypatch, change):
    change(monkeypatch)
    policy = loaded(folders["qwen2_5_vl"]).double()
    assert not policy.shared
    batch = episodes(policy)
    logp, expected = policy.log_prob(batch).logp, plain_logp(policy, batch)
    assert (logp - expected).abs().max() < 1e-9
    assert apart(gradient(policy, logp), gradient(policy, expected)) < 1e-6
    assert (logp - batch.old_logp).abs().max() < 1e-5


def test_layers_that_only_look_like_llamas_are_not_called_by_their_parts(folders, monkeypatch):
    """The same modules, but the layer doubles what comes out: sharing is right, calling the parts is not."""
    real = qwen.Qwen2_5_VLDecoderLayer.forward
    monkeypatch.setattr(qwen.Qwen2_5_VLDecoderLayer, "forward", lambda self, x, *a, **k: 2 * real(self, x, *a, **k))
    policy = loaded(folders["qwen2_5_vl"])
    assert not (policy.shared and policy.direct)
    batch = episodes(policy)
    assert (policy.log_prob(batch).logp - batch.old_logp).abs().max() < 1e-5
    assert (policy.log_prob(batch).logp - plain_logp(policy, batch)).abs().max() < 1e-5


def test_models_that_share_say_nothing(folders, caplog):
    loaded(folders["qwen2_5_vl"])
    assert warnings_of(caplog) == []


def test_decoding_through_the_model_itself_equals_decoding_by_its_layers(make):
    policy, other = make().double(), make().double()
    other.direct = False
    contexts = [Context(prompt) for prompt in prompts()]
    contexts += [t.context(1) for t in episodes(policy, turns=2).trajectories]
    options = {"n": 2, "sampling": Sampling(max_actions=9), "seeds": range(2 * len(contexts))}
    for one, two in zip(policy.act(contexts, **options), other.act(contexts, **options), strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.record.ids.equal(b.record.ids) and (a.logp - b.logp).abs().max() < 1e-6


# --- adapters, precision, decoding ----------------------------------------------------------------------------------


def adapted(make, **settings):
    policy = make(lora=LoRA(rank=2), **settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return policy


def test_without_adapters_the_prefix_of_the_rollout_is_not_used(make):
    """The rollout's prefixes are at hand, with their graph, when the reference is asked; they are the adapted ones."""
    policy, base, twin = adapted(make).double(), make().double(), adapted(make).double()
    reference, starts = Adapters().start(policy), prompts()
    options = {"n": 2, "sampling": Sampling(max_actions=5), "seeds": range(8)}
    with policy.remember_prompts(10_000):
        acts = policy.act([Context(prompt) for prompt in starts], **options)
    batch = pack([[Trajectory(prompt, [turn(act)]) for act in some] for prompt, some in zip(starts, acts, strict=True)])
    with prefix_passes(policy) as passes:
        with torch.no_grad():
            own, without = policy.log_prob(batch).logp, reference.log_prob(batch).logp
        assert passes == [4], "the reference reads the prompts, the policy has them"
        assert (without - base.log_prob(batch).logp).abs().max() < 1e-12
        assert (own - without).abs().max() > 1e-2
        for micro in policy.accumulate([batch]):
            out = policy.log_prob(micro, Need(kl_to=reference))
            (out.logp + out.kl).sum().backward()
    assert passes == [4, 4], "the rollout's graph serves the policy, the reference reads once more"
    expected = twin.log_prob(batch, Need(kl_to=base))
    (expected.logp + expected.kl).sum().backward()
    assert (out.kl - expected.kl).abs().max() < 1e-12
    for ours, theirs in zip(policy.parameters(), twin.parameters(), strict=True):
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).norm() <= 1e-9 * (1e-3 + theirs.grad.norm())


@pytest.mark.parametrize("settings", [{}, {"lora": LoRA(rank=2)}], ids=["all weights", "adapters"])
def test_a_frozen_encoder_changes_no_number_of_what_is_trained_behind_it(make, settings):
    """Some models have a trained connector between encoder and decoder; it has to learn, and what it learned to count,
    though the rollout has seen the pictures before."""
    policy = make(freeze_vision=True, **settings).double()
    generator = torch.Generator().manual_seed(2)
    batch = rolled_out(policy)
    for _ in range(2):
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            policy.log_prob(batch)
        logp, expected = policy.log_prob(batch).logp, plain_logp(policy, batch)
        assert (logp - expected).abs().max() < 1e-9
        assert apart(gradient(policy, logp), gradient(policy, expected)) < 1e-6


def test_a_frozen_encoder_sees_every_picture_once_and_never_again(make):
    """Not so where a trained connector follows it: there the gradient needs all pictures again."""
    policy = make(freeze_vision=True)
    batch = rolled_out(policy)
    trained = any("connector" in name and p.requires_grad for name, p in policy.named_parameters())
    with encoded_pictures(policy) as pictures:
        policy.log_prob(batch).logp.sum().backward()
        policy.log_prob(batch)
    assert pictures == ([6, 6] if trained else [])
    assert trained == (policy.base.config.model_type == "idefics3")


def test_the_rollouts_graph_serves_the_gradient_under_autocast(make):
    """Autocast remembers casts of weights; one made without gradient would leave its weight without."""
    policy, twin = make(autocast=True), make(autocast=True)
    starts = prompts()
    with policy.remember_prompts(10_000):
        acts = policy.act([Context(p) for p in starts], n=2, sampling=Sampling(max_actions=5), seeds=range(8))
    batch = pack([[Trajectory(p, [turn(act)]) for act in some] for p, some in zip(starts, acts, strict=True)])
    with prefix_passes(policy) as passes:
        for micro in policy.accumulate([batch.take(torch.tensor(rows)) for rows in ([0, 1, 2], [3, 4, 5, 6, 7])]):
            policy.log_prob(micro).logp.sum().backward()
    assert passes == []
    twin.log_prob(batch).logp.sum().backward()
    for (name, ours), theirs in zip(policy.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).norm() <= 0.05 * (1e-2 + theirs.grad.norm()), name


def test_prompts_decoded_in_several_batches_are_read_once_each(make):
    policy = make(rows=4)
    contexts = [Context(prompt) for prompt in prompts()]
    with prefix_passes(policy) as passes, policy.remember_prompts(10_000):
        acts = policy.act(contexts, n=2, sampling=Sampling(max_actions=4), seeds=range(8))
        assert passes == [2, 2]
        trajectories = [
            [Trajectory(c.prompt, [turn(act)]) for act in some] for c, some in zip(contexts, acts, strict=True)
        ]
        batch = pack(trajectories)
        for micro in policy.accumulate([batch]):
            logp = policy.log_prob(micro).logp
            logp.sum().backward()
    assert passes == [2, 2]
    assert (logp - batch.old_logp).abs().max() < 1e-5


@pytest.mark.parametrize("n", [1, 6])
def test_decoding_reads_one_token_of_each_row_and_rows_that_ended_leave(make, n):
    """Ended rows leave once they are a quarter of the batch: the numbers of rows follow from the lengths alone."""
    policy = make()
    policy.ends = frozenset(range(0, policy.head.out_features, 6))
    contexts = [Context(prompt) for prompt in prompts()]
    room, seen = 20, []
    handle = policy.base.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    acts = policy.act(contexts, n=n, sampling=Sampling(max_actions=room), seeds=range(4 * n))
    handle.remove()
    length = [len(act.record.ids) for some in acts for act in some]
    rows, expected = len(length), []
    for t in range(1, max(length)):
        unfinished = sum(count > t for count in length)
        rows = unfinished if unfinished <= SPARSE * rows else rows
        expected.append(rows)
    assert seen == [sum(policy.shared_size(prompt) for prompt in prompts()), *expected]
    assert n == 1 or len(set(expected)) > 2, "some rows left early"


def test_bfloat16_autocast_agrees_with_itself_and_with_float32(make):
    """bfloat16 keeps 8 bits: a rounding is off by up to 2^-9 = 0.002 of the size. Logits of these models are about 2
    and some ten roundings lie behind each, so that log-probs err by about 0.002 * 2 * sqrt(10) = 0.01 and the worst of
    a hundred by three to four times that; sampler and training pass round apart. Errors have no preferred sign."""
    policy, exact = make(autocast=True), make()
    assert policy.shared and all(p.dtype == torch.float32 for p in policy.parameters())
    for batch in (rolled_out(policy), episodes(policy)):
        logp = policy.log_prob(batch).logp
        ratio = (logp - batch.old_logp).detach()[batch.mask].exp()
        off = (logp - exact.log_prob(batch).logp).detach()[batch.mask].abs()
        assert logp.dtype == torch.float32
        assert ratio.sub(1).abs().max() < 0.05 and abs(float(ratio.mean()) - 1) < 0.01
        assert off.max() < 0.05 and off.mean() < 0.015
    logp.sum().backward()
    ours = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    exact.log_prob(batch).logp.sum().backward()
    theirs = torch.cat([p.grad.flatten() for p in exact.parameters() if p.grad is not None])
    assert ours.dtype == torch.float32 and apart(ours, theirs) < 0.05
