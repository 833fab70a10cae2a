"""TinyVLM against itself without any sharing, and what it can learn."""

import copy
import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from saccade.core.batch import pack
from saccade.core.content import Array, Image, Text, Video
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.core.trajectory import Context, Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.token.tiny import TinyVLM

CPU = torch.device("cpu")
SPEC = TinyVLM(width=32, layers=2, heads=2, side=32, bins=8)


def picture(seed, size=32):
    return Image(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def start(*content, name="task"):
    return Prompt(Task(name, content), content)


def turn(policy, text, observation=None, end=True):
    act = policy.encode([Context(start())], [(Text(text),)])[0]
    record, n = act.record, len(act.logp) - (not end)
    record = type(record)(record.ids[:n].clone(), 0.7)
    return Turn(act.output, record, act.logp[:n], act.mask[:n], act.segment[:n], observation=observation)


def groups(policy, keep=None):
    """Ragged groups, lengths and numbers of turns; images in prompts and observations; one turn that was cut off."""
    one = start(picture(0), Text("how many red digits are there?"), name="one")
    two = start(Text("where"), Video(np.stack([picture(1).pixels, picture(2).pixels])), name="two")
    three = start(Text("read the number"), name="three")
    look = Observation((Text("look again"), picture(3)), keep)
    told = Observation((Text("no"),), keep)
    return [
        [
            Trajectory(one, [turn(policy, "red")]),
            Trajectory(
                one, [turn(policy, "<box>4,8,12,16</box>", look), turn(policy, "is 3", told), turn(policy, "7")]
            ),
            Trajectory(one, [turn(policy, "<tool>crop", look, end=False), turn(policy, "<answer>12</answer>")]),
        ],
        [
            Trajectory(
                two, [turn(policy, "left", told), turn(policy, "right of it", look), turn(policy, "the blue one")]
            )
        ],
        [Trajectory(three, [turn(policy, "nine")]), Trajectory(three, [turn(policy, "5", told), turn(policy, "")])],
    ]


def plain_log_prob(policy, batch):
    """One full sequence for every turn of every trajectory: images encoded anew, no memory, no padding, no sharing."""
    vocabulary, trunk = policy.vocabulary, policy.trunk
    table = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for i, trajectory in enumerate(batch.trajectories):
        column = 0
        for k, step in enumerate(trajectory.turns):
            chunks = [policy.reader.prompt(trajectory.prompt.content)]
            for before in trajectory.context(k).turns:
                chunks.append(SimpleNamespace(ids=before.record.ids, images=()))
                chunks.append(policy.reader.observe(before, before.observation))
            context = torch.cat([chunk.ids for chunk in chunks])
            ids = torch.cat([context, step.record.ids])
            parts, place = [], 0
            images = [image for chunk in chunks for image in chunk.images]
            for number, image in enumerate(images):
                visual = int((ids[place:] == vocabulary.image).nonzero()[0]) + place
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
                features = trunk.stem(pixels)[0] + trunk.order.weight[number]
                parts += [trunk.embed(ids[place:visual]), features]
                place = visual + len(features)
            x = torch.cat([*parts, trunk.embed(ids[place:])])[None]
            attend = partial(scaled_dot_product_attention, is_causal=True)
            hidden = trunk.norm(trunk._blocks(x, torch.arange(len(ids))[None], [attend] * len(trunk.blocks))[0])
            logits = policy.head(hidden[len(context) - 1 : -1]) / step.record.temperature
            logp = torch.log_softmax(logits, -1).gather(1, step.record.ids[:, None])[:, 0]
            end = column + step.num_actions
            table = table.index_put((torch.tensor(i), torch.arange(column, end)), logp)
            column = end
    return table


@pytest.mark.parametrize("keep", [None, 0, 1, 2])
def test_shared_prefixes_change_neither_values_nor_gradients(keep):
    policy = SPEC.build(CPU, seed=3).double()
    batch = pack(groups(policy, keep))
    weights = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    plain = plain_log_prob(policy, batch)
    (plain * weights).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}
    policy.zero_grad()
    shared = policy.log_prob(batch).logp
    (shared * weights).sum().backward()

    torch.testing.assert_close(shared, plain, atol=1e-9, rtol=0)
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-9, rtol=1e-9, msg=name)


def test_decoding_with_a_memory_is_the_plain_distribution():
    """Greedy tokens are the argmax of the plain forward pass over the same context, token by token."""
    policy = SPEC.build(CPU, seed=5).double()
    trajectories = [trajectory for group in groups(policy) for trajectory in group]
    contexts = [trajectory.context(trajectory.num_turns - 1) for trajectory in trajectories]
    greedy = Sampling(max_actions=7, deterministic=True, temperature=0.7)
    for trajectory, acts in zip(trajectories, policy.act(contexts, sampling=greedy, seeds=range(6)), strict=True):
        (act,) = acts
        trajectory.turns[-1] = Turn(act.output, act.record, act.logp, ~act.mask, act.segment)
    batch = pack([[trajectory] for trajectory in trajectories])
    last = batch.turn == batch.turn.amax(1, keepdim=True)
    plain = plain_log_prob(policy, batch)
    torch.testing.assert_close(plain[last], batch.old_logp[last].double(), atol=1e-6, rtol=0)
    alternatives = policy.log_prob(batch, Need(distribution=True)).distribution[last].amax(-1)
    torch.testing.assert_close(plain[last].detach(), alternatives, atol=1e-9, rtol=0)


def test_rows_that_end_are_dropped_without_touching_the_others():
    """With the end token made likely, rows end at different steps; each must equal its own run."""
    policy = SPEC.build(CPU, seed=0)
    with torch.no_grad():
        policy.head.weight[policy.vocabulary.end] = 0.5 * policy.head.weight[:40].sum(0)
    context = Context(start(picture(0), Text("read")))
    sampling = Sampling(max_actions=24)
    seeds = list(range(200))
    together = policy.act([context], n=200, sampling=sampling, seeds=seeds)[0]
    assert len({len(act.logp) for act in together}) > 5
    for act, seed in list(zip(together, seeds, strict=True))[::20]:
        alone = policy.act([context], sampling=sampling, seeds=[seed])[0][0]
        assert act.record.ids.tolist() == alone.record.ids.tolist()
        torch.testing.assert_close(act.logp, alone.logp, atol=1e-5, rtol=0)


def test_decoding_stops_when_all_rows_ended():
    policy = SPEC.build(CPU)
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.trunk.norm.bias.fill_(1.0)
        policy.head.weight[policy.vocabulary.end] = 10.0
    before = policy.trunk.positions_read
    prompt = start(Text("read"))
    (acts,) = policy.act([Context(prompt)], n=4, sampling=Sampling(max_actions=50), seeds=range(4))
    assert [len(act.logp) for act in acts] == [1, 1, 1, 1] and not any(act.truncated for act in acts)
    assert policy.trunk.positions_read - before == len(policy.reader.prompt(prompt.content).ids)


def test_log_prob_reads_each_prompt_and_each_suffix_position_once():
    """A prompt of 4 + 1 + 1 positions, 4 suffixes of 3 tokens of which the last predicts nothing: 6 + 4 * 2."""
    policy = SPEC.build(CPU)
    prompt = start(picture(0), Text("read"))
    batch = pack([[Trajectory(prompt, [turn(policy, "red blue")]) for _ in range(4)]])
    before = policy.trunk.positions_read
    policy.log_prob(batch)
    assert policy.trunk.positions_read - before == 6 + 4 * 2
    assert policy.size(batch.trajectories[0]) == 3 and policy.shared_size(prompt) == 6
    plain = replace(SPEC, prefix="plain").build(CPU)
    assert plain.size(batch.trajectories[0]) == 6 + 3 and plain.shared_size(prompt) == 0


def test_the_same_picture_in_two_prompts_is_encoded_once():
    policy = SPEC.build(CPU)
    shared = picture(0)
    contexts = [Context(start(shared, Text(word), name=word)) for word in ("red", "blue")]
    policy.act(contexts, sampling=Sampling(max_actions=1), seeds=[0, 1])
    assert policy.trunk.images_encoded == 1


def test_segments_mark_the_inside_of_the_named_tags():
    spec = TinyVLM(width=16, layers=1, heads=2, segments=("answer", "box"))
    act = spec.build(CPU).encode([Context(start())], [(Text("<think>red</think><answer>7<box>4</box></answer>"),)])[0]
    assert act.segment.tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 0, 0]


def test_images_of_other_sizes_are_resized():
    policy = SPEC.build(CPU).eval()
    flat = [Image(np.full((size, 2 * size, 3), 90, dtype=np.uint8)) for size in (16, 48)]
    contexts = [
        Context(start(image, Text("read"))) for image in [*flat, Image(np.full((32, 32, 3), 90, dtype=np.uint8))]
    ]
    acts = policy.act(contexts, sampling=Sampling(max_actions=4, deterministic=True), seeds=range(3))
    logp = torch.stack([act.logp for (act,) in acts])
    torch.testing.assert_close(logp[0], logp[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(logp[0], logp[2], atol=1e-6, rtol=0)


def test_what_it_cannot_read_is_named():
    policy = SPEC.build(CPU)
    sampling = Sampling(max_actions=1)
    with pytest.raises(DataError, match=r"5 images or frames, but policy\.max_images is 4"):
        policy.act([Context(start(*(picture(i) for i in range(5))))], sampling=sampling, seeds=[0])
    with pytest.raises(DataError, match="Array"):
        policy.act([Context(start(Array("pose", np.zeros(3))))], sampling=sampling, seeds=[0])


def test_a_text_without_a_token_is_named():
    with pytest.raises(DataError, match="'giraffe'"):
        SPEC.build(CPU).encode([Context(start())], [(Text("a giraffe"),)])


def test_exact_kl_needs_the_same_vocabulary():
    policy = SPEC.build(CPU)
    other = TinyVLM(width=32, layers=2, heads=2, side=32, bins=8, words=("zebra",)).build(CPU)
    batch = pack([[Trajectory(start(Text("read")), [turn(policy, "red")])]])
    with pytest.raises(CapabilityError, match="vocabulary"):
        policy.log_prob(batch, Need(kl_to=other))
    with pytest.raises(CapabilityError, match="adapters"):
        policy.without_adapters()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"width": 0}, "width"), ({"width": 100, "heads": 8}, "width"), ({"patch": 6}, "patch"), ({"side": 60}, "side"),
        ({"bins": 10}, "side"), ({"layers": 0}, "layers"), ({"max_images": 0}, "max_images"), ({"patch": 1}, "patch"),
        ({"words": ("a b",)}, "words"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(fields, name):
    with pytest.raises(ConfigError, match=name):
        TinyVLM(**fields)


@pytest.mark.parametrize("spec", [TinyVLM(), TinyVLM(width=96, layers=3)])
def test_sizes_stay_below_a_million_or_so(spec):
    count = sum(parameter.numel() for parameter in spec.build(CPU).parameters())
    assert 300_000 <= count <= 1_200_000


def test_saved_policies_come_back_equal(tmp_path):
    spec = TinyVLM(width=32, layers=2, heads=2, words=("zebra",), segments=("answer",))
    policy = spec.build(CPU, seed=4)
    policy.save_pretrained(tmp_path / "weights")
    loaded = TinyVLM.load(tmp_path / "weights")
    assert loaded.spec == spec
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), loaded.parameters(), strict=True))
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["config.json", "model.safetensors"]


def test_folders_without_a_policy_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        TinyVLM.load(tmp_path / "nowhere")
    folder = tmp_path / "weights"
    SPEC.build(CPU).save_pretrained(folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="weights"):
        TinyVLM.load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "width": 64}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        TinyVLM.load(folder)
    (folder / "config.json").write_text(json.dumps({"class": "saccade.core.policy.Sampling"}))
    with pytest.raises(CheckpointError, match="does not describe a TinyVLM"):
        TinyVLM.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="does not hold"):
        TinyVLM.load(folder)


def test_copies_are_independent():
    policy = SPEC.build(CPU)
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert bool((policy.head.weight != 0).any())


def scenes(count):
    """A coloured square on noise: where is it, and which colour has it?"""
    colours = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (60, 90, 240), "yellow": (240, 220, 40)}
    for i in range(count):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        name = list(colours)[int(rng.integers(4))]
        x, y = 4 * rng.integers(0, 6, 2)
        pixels[y : y + 8, x : x + 8] = colours[name]
        if i % 2:
            yield start(Image(pixels), Text("which colour is the square?"), name=f"{i}"), f"<answer>{name}</answer>"
        else:
            gold = f"<answer><box>{x},{y},{x + 8},{y + 8}</box></answer>"
            yield start(Image(pixels), Text("where is the square?"), name=f"{i}"), gold


def test_32_scenes_are_learned_by_heart_in_seconds():
    policy = TinyVLM(width=48, layers=2, side=32, bins=8).build(CPU, seed=0)
    prompts, golds = zip(*scenes(32), strict=True)
    contexts = [Context(prompt) for prompt in prompts]
    acts = policy.encode(contexts, [(Text(gold),) for gold in golds])
    pairs = zip(prompts, acts, strict=True)
    batch = pack([[Trajectory(p, [Turn(a.output, a.record, a.logp, a.mask, a.segment)])] for p, a in pairs])
    optimiser = torch.optim.AdamW(policy.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(110):
        optimiser.zero_grad()
        (-policy.log_prob(batch).logp.sum() / batch.mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    written = policy.act(contexts, sampling=Sampling(max_actions=16, deterministic=True), seeds=range(32))
    right = sum(act.output == (Text(gold),) for (act,), gold in zip(written, golds, strict=True))
    assert right >= 31
