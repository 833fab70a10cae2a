"""What sharing saves, counted: matrix products, encoded pictures, decoded positions, bytes kept for the backward pass.

Nothing here depends on the machine. ``FlopCounterMode`` counts linear maps and batched products; it has no formula for
the fused attention of the CPU, so that counts below leave out scores and weighted sums of both sides alike.
"""

import pytest
import torch
from test_tiny import SPEC, start
from test_tiny import picture as tiny_picture
from torch.utils.flop_counter import FlopCounterMode

from policies.counting import encoded_pictures, prefix_passes
from policies.hf.checkpoints import build
from policies.hf.scenes import picture, turn
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Context, Prompt, Task, Trajectory
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.policy import SPARSE
from saccade.policies.token.rows import batch_rows

CPU = torch.device("cpu")
ANSWER = "which digit is in the picture ?"


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = build("qwen2_5_vl", tmp_path_factory.mktemp("cost") / "model")
    return HFVisionLanguage(str(folder), max_pixels=256 * 256)


@pytest.fixture(scope="module")
def policy(spec):
    return spec.build(CPU)


def prompt(side=256, name="one"):
    """A picture of (side / 16)^2 visual tokens and a question."""
    content = (picture(0, side, side), Text("which digit is it ?"))
    return Prompt(Task(name, content), content)


def group(policy, size, start=None):
    start = start or prompt()
    act = policy.encode([Context(start)], [(Text(ANSWER),)])[0]
    return [Trajectory(start, [turn(act)]) for _ in range(size)]


def products(run):
    """Floating-point operations of the matrix products in ``run``."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def loss_products(policy, batch):
    return products(lambda: policy.log_prob(batch).logp.sum().backward())


@pytest.mark.parametrize("size", [1, 4, 8])
def test_the_loss_costs_one_prompt_and_the_tokens_of_the_rows(policy, size):
    """G rows of T actions on one prompt of S positions read N = S + G (T - 1) positions: the last action of a row
    predicts nothing. A layer of width D, keys of width K and inner width I has

        W = 2 D^2 + 2 D K + 3 D I

    weights in its maps q, o; k, v; gate, up, down. Each costs 2 operations a position forward and 4 backward (gradients
    of input and weight). The head has V D weights and reads G T states. The encoder is counted by itself, once for the
    picture.
    """
    batch = pack([group(policy, size)])
    (start,) = batch.prompts
    config = policy.backbone.config
    width, depth = config.hidden_size, config.hidden_size // config.num_attention_heads
    keys, inner = depth * config.num_key_value_heads, config.intermediate_size
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner
    prefix, actions = policy.shared_size(start), int(batch.length[0])
    assert prefix > 256 and actions > 4
    positions = prefix + size * (actions - 1)
    decoder = 6 * config.num_hidden_layers * layer * positions
    head = 6 * policy.head.out_features * width * size * actions
    pictures = policy.reader.prompt(start.content).images
    encoder = products(lambda: policy.family.features(policy.base, pictures)[0].sum().backward())
    assert encoder > 0
    assert loss_products(policy, batch) == decoder + head + encoder


@pytest.mark.parametrize(("size", "least"), [(8, 7.0), (16, 13.0)])
def test_a_group_costs_a_fraction_of_its_completions_one_by_one(policy, size, least):
    """By positions alone G (S + T) / (S + G T) with S = 287 and T = 7 is 6.9 for 8 and 11.8 for 16; the encoder, which
    is most of this small model, adds to it, the head, which is not shared, takes some of it back."""
    one, many = (loss_products(policy, pack([group(policy, count)])) for count in (1, size))
    assert size * one / many > least


def test_a_group_in_micro_batches_costs_what_it_costs_at_once(policy):
    batch = pack([group(policy, 6)])
    whole = loss_products(policy, batch)

    def cut():
        for micro in policy.accumulate([batch.take(torch.tensor([i, i + 1])) for i in (0, 2, 4)]):
            policy.log_prob(micro).logp.sum().backward()

    assert products(cut) == whole


def test_the_first_gradient_after_a_rollout_costs_only_what_the_rollout_did_not_compute(policy):
    """With the graph at hand a third of the prompt's operations is gone: its forward pass."""
    batch = pack([group(policy, 4)])
    forward = products(lambda: policy.book.get(policy, batch_rows(batch, policy.reader), policy.stamp()))
    with policy.remember_prompts(10_000):
        policy.act([Context(batch.prompts[0])], n=4, sampling=Sampling(max_actions=2), seeds=range(4))

    def reused():
        for micro in policy.accumulate([batch]):
            policy.log_prob(micro).logp.sum().backward()

    assert products(reused) == loss_products(policy, batch) - forward


def kept(policy, batch):
    """Bytes that the graph of the loss keeps for its backward pass; every storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    found = {}

    def pack_hook(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (x, storage.nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda x: x):
        loss = policy.log_prob(batch).logp.sum()
    total = sum(size for _, size in found.values())
    del loss
    return total


def test_what_a_further_row_keeps_does_not_depend_on_the_length_of_its_prompt(policy):
    """No keys or values of the prompt are repeated: prompts of 32 and 256 visual tokens, groups of 2 and 6."""
    growth = []
    for side in (64, 256):
        small, large = (kept(policy, pack([group(policy, size, prompt(side))])) for size in (2, 6))
        growth.append((large - small) / 4)
    assert growth[0] == growth[1]
    assert growth[1] < 0.1 * kept(policy, pack([group(policy, 1)]))


def rollout_and_gradient(policy, budget, prompts):
    actor = LocalActor(policy, budget=budget)
    acts = actor.act(
        [Context(p) for p in prompts], n=3, sampling=Sampling(max_actions=4), seeds=range(3 * len(prompts))
    )
    batch = pack([[Trajectory(p, [turn(act)]) for act in some] for p, some in zip(prompts, acts, strict=True)])
    for micro in policy.accumulate([batch.take(torch.tensor([0, 1])), batch.take(torch.tensor([2, 3, 4, 5]))]):
        policy.log_prob(micro).logp.sum().backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1e-3 * parameter.grad)
    policy.zero_grad()


def test_every_picture_is_encoded_once_a_step(spec):
    """Two prompts with a picture each, two steps: with the rollout's graph one pass a step, without it another one for
    the gradient, which takes each prompt with the first micro-batch that needs it."""
    policy, prompts = spec.build(CPU), [prompt(64, "one"), prompt(96, "two")]
    with encoded_pictures(policy) as pictures, prefix_passes(policy) as passes:
        for _ in range(2):
            rollout_and_gradient(policy, 10_000, prompts)
        assert passes == pictures == [2, 2]
        for _ in range(2):
            rollout_and_gradient(policy, 0, prompts)
        assert passes == pictures == [2, 2, *[2, 1, 1] * 2]


def test_a_tiny_policy_decodes_one_token_a_row_and_rows_that_ended_leave():
    """Ended rows leave once they are a quarter of the batch: the numbers of rows follow from the lengths alone."""
    policy = SPEC.build(CPU)
    policy.ends = frozenset(range(0, policy.head.out_features, 6))
    prompts = [start(tiny_picture(i), Text("read"), name=str(i)) for i in range(3)]
    before = policy.trunk.positions_read
    acts = policy.act([Context(p) for p in prompts], n=8, sampling=Sampling(max_actions=30), seeds=range(24))
    length = [len(act.record.ids) for some in acts for act in some]
    rows, expected = len(length), sum(map(policy.shared_size, prompts))
    for t in range(1, max(length)):
        unfinished = sum(count > t for count in length)
        rows = unfinished if unfinished <= SPARSE * rows else rows
        expected += rows
    assert policy.trunk.positions_read - before == expected
    assert expected < sum(map(policy.shared_size, prompts)) + sum(length) / SPARSE
