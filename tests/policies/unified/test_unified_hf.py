"""A small Emu3 checkpoint on disk as a policy: its own codec, its own vocabulary, sampling and scoring alike."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Emu3ForConditionalGeneration
from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor
from transformers.models.emu3.processing_emu3 import Emu3Processor

from policies.unified.emu3_checkpoint import build
from saccade.core.batch import pack
from saccade.core.content import Image, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.lora import LoRA
from saccade.policies.unified.hf import HFUnified

CPU = torch.device("cpu")
DRAW = (Text("draw which digit<image>"),)
PLAN = (Text("which digit is in the picture ?"),)


def picture(seed, height=20, width=24):
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


ASK = (picture(0), Text("which digit is in the picture ?"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("emu3")))


@pytest.fixture(scope="module")
def policy(folder):
    return HFUnified(folder, side=24).build(CPU, seed=0)


def start(content, name="task"):
    return Prompt(Task(name, content), content)


def as_turn(act, observation=None):
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation)


def groups(policy, n=4, sampling=Sampling(max_actions=30, temperature=0.9)):
    prompts = [start(content, str(i)) for i, content in enumerate((DRAW, ASK, PLAN))]
    acts = policy.act([Context(p) for p in prompts], n=n, sampling=sampling, seeds=range(3 * n))
    found = []
    for prompt, some in zip(prompts, acts, strict=True):
        group = [Trajectory(prompt, [as_turn(act)]) for act in some]
        for i, trajectory in enumerate(group[:2]):
            trajectory.turns[0].observation = Observation(DRAW if i % 2 else (Text("number"), ASK[0]))
            later = policy.act([trajectory.context(1)], sampling=sampling, seeds=[100 + i])
            trajectory.turns.append(as_turn(later[0][0]))
        found.append(group)
    return found


def book_log_prob(policy, batch):
    """One sequence at a time through transformers' own forward pass, softmax over what the layout allows."""
    reader, family = policy.reader, policy.codec
    codes = set(family.tokens.tolist())
    closed = set(reader.closing.tolist()) | {reader.inside, family.image_token}
    words = [t for t in range(policy.head.out_features) if t not in codes | closed]
    table = torch.zeros(batch.mask.shape)
    for i, trajectory in enumerate(batch.trajectories):
        ids, column = reader.prompt(trajectory.prompt.content).ids.tolist(), 0
        for turn in trajectory.turns:
            whole = [*ids, *turn.record.ids.tolist()]
            logits = policy.base(input_ids=torch.tensor([whole])).logits[0]
            for at in range(len(ids), len(whole)):
                if bool(turn.mask[at - len(ids)]):
                    allowed = sorted(codes) if whole[at] in codes else words
                    own = logits[at - 1] / turn.record.temperature
                    table[i, column] = own[whole[at]] - torch.logsumexp(own[allowed], 0)
                column += 1
            ids = whole
            if turn.observation is not None:
                ids = ids + reader.observe(turn, turn.observation).ids.tolist()
    return table


def test_prompts_are_shared_inside_the_stock_model(policy):
    assert policy.shared


@torch.no_grad()
def test_log_probs_are_those_of_transformers_over_what_is_allowed(policy):
    batch = pack(groups(policy))
    expected = book_log_prob(policy, batch)
    torch.testing.assert_close(policy.log_prob(batch).logp, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.old_logp, expected, atol=1e-4, rtol=0)
    assert {int(s) for s in batch.segment.unique()} == {0, 1}


def test_first_ratio_is_one_and_divergence_from_oneself_zero(policy):
    batch = pack(groups(policy))
    out = policy.log_prob(batch, Need(entropy=True, kl_to=policy))
    ratio = (out.logp - batch.old_logp).detach()[batch.mask].exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-4, rtol=0)
    assert float(out.kl.detach().abs().max()) < 1e-6
    assert float(out.entropy.detach()[batch.mask & (batch.segment == 1)].max()) <= np.log(24) + 1e-5
    policy.zero_grad()
    (out.logp.sum() + out.entropy.sum()).backward()
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert not any("vqmodel" in name for name in trained)
    assert all(bool(p.grad.isfinite().all()) for p in policy.parameters() if p.grad is not None)
    policy.zero_grad()


def test_shared_and_plain_prefixes_agree(policy, folder):
    plain = HFUnified(folder, side=24, prefix="plain").build(CPU)
    assert not plain.shared
    batch = pack(groups(policy))
    with torch.no_grad():
        torch.testing.assert_close(policy.log_prob(batch).logp, plain.log_prob(batch).logp, atol=1e-4, rtol=0)


def test_a_drawn_picture_comes_out_of_the_checkpoints_own_decoder(policy, folder):
    """Three lines of three codes; ends of lines are forced, not chosen, and not trained."""
    (acts,) = policy.act([Context(start(DRAW))], n=3, sampling=Sampling(max_actions=40), seeds=range(3))
    stock = Emu3ForConditionalGeneration.from_pretrained(folder).eval()
    for act in acts:
        assert len(act.logp) == 11 and not act.truncated
        assert act.mask.tolist() == [True] * 3 + [False] + [True] * 3 + [False] + [True] * 3
        assert act.segment.tolist() == [1] * 11 and bool((act.logp[~act.mask] == 0).all())
        # The stock model wants the ends of all lines, of the picture and of the turn.
        tokens = torch.cat([act.record.ids, policy.reader.closing, torch.tensor([policy.reader.end])])[None]
        decoded = stock.decode_image_tokens(image_tokens=tokens, height=3, width=3)[0].permute(1, 2, 0)
        processor = policy.codec.image_processor
        expected = 255 * (decoded * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean))
        (drawn,) = act.output
        assert drawn.pixels.shape == (24, 24, 3)
        assert float((torch.from_numpy(drawn.pixels) - expected.clamp(0, 255)).abs().max()) <= 0.51


def test_pictures_in_contexts_are_the_tokens_of_the_stock_processor_and_encoder(policy, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, token in {
        "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
    }.items():  # fmt: skip
        setattr(tokenizer, name, token)
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    tokenizer.bos_token = "<|pad|>"
    processor = Emu3Processor(Emu3ImageProcessor.from_pretrained(folder), tokenizer)
    inputs = processor(
        images=[ASK[0].pixels], text=["USER: <image>which digit is in the picture ? ASSISTANT:"], return_tensors="pt"
    )
    stock = Emu3ForConditionalGeneration.from_pretrained(folder).eval()
    codes = stock.model.get_image_tokens(inputs["pixel_values"], inputs["image_sizes"])
    expected = inputs["input_ids"][0, 1:].clone()
    expected[expected == policy.codec.image_token] = codes.long()
    assert policy.reader.prompt(ASK).ids.tolist() == expected.tolist()


def test_a_plan_and_its_picture_are_one_turn(policy):
    # Hot enough for every token to come up.
    sampling = Sampling(max_actions=100, temperature=8.0)
    (acts,) = policy.act([Context(start(PLAN))], n=40, sampling=sampling, seeds=range(40))
    planned = [act for act in acts if [type(part) for part in act.output] == [Text, Image]]
    assert len(planned) >= 2
    for act in planned:
        count = len(act.logp) - 11 - 4
        # Behind the start token come the size, 3*3, and the token that opens the codes: nobody chooses them.
        assert act.segment.tolist() == [0] * count + [1] * 15
        assert act.mask.tolist() == [True] * count + [False] * 4 + act.mask.tolist()[count + 4 :]
        assert int(act.record.ids[count - 1]) == policy.reader.open and int(act.mask.sum()) == count + 9


def test_demonstrations_are_encoded_at_the_size_that_is_drawn(policy):
    outputs = [(picture(1, 24, 24),), (Text("number"), picture(2)), (Text("number"),)]
    contexts = [Context(start(content)) for content in (DRAW, PLAN, PLAN)]
    drawn, planned, written = policy.encode(contexts, outputs)
    codes = policy.codec.drawn(outputs[0][0].pixels, 24)
    np.testing.assert_array_equal(drawn.output[0].pixels, policy.codec.pixels(codes))
    assert planned.output[0] == Text("number") and planned.output[1].pixels.shape == (24, 24, 3)
    assert written.output == (Text("number"),) and not written.truncated
    batch = pack(
        [[Trajectory(c.prompt, [as_turn(a)])] for c, a in zip(contexts, (drawn, planned, written), strict=True)]
    )
    with torch.no_grad():
        torch.testing.assert_close(policy.log_prob(batch).logp, book_log_prob(policy, batch), atol=1e-4, rtol=0)


def test_after_a_picture_the_context_closes_it(policy):
    (act,) = policy.encode([Context(start(DRAW))], [(picture(1),)])
    following = policy.reader.observe(as_turn(act), Observation((Text("number"),))).ids.tolist()
    assert following[:4] == [*policy.reader.closing.tolist(), policy.reader.end]


def test_outputs_that_cannot_be_written_are_named(policy):
    for content, output in [(DRAW, (Text("number"),)), (PLAN, (picture(1), Text("number"))), (PLAN, ())]:
        with pytest.raises(DataError):
            policy.encode([Context(start(content))], [output])


def test_adapters_leave_the_codec_alone_and_checkpoints_come_back(policy, folder, tmp_path):
    adapted = HFUnified(folder, lora=LoRA(rank=2), side=24).build(CPU, seed=1)
    assert not any("lora" in name for name, _ in adapted.codec.model.named_parameters())
    policy.save_pretrained(tmp_path)
    loaded = HFUnified(str(tmp_path), side=24).build(CPU)
    batch = pack(groups(policy, n=2))
    with torch.no_grad():
        torch.testing.assert_close(loaded.log_prob(batch).logp, batch.old_logp, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"side": 20}, "side"), ({"freeze_vision": False}, "freeze_vision"), ({"segments": ("a",)}, "segments")],
)
def test_settings_that_do_not_fit_are_named(folder, fields, name):
    with pytest.raises(ConfigError, match=name):
        HFUnified(folder, **{"side": 24, **fields}).build(CPU)


def test_architectures_without_codes_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(ConfigError, match="supported are emu3"):
        HFUnified(str(tmp_path)).build(CPU)
