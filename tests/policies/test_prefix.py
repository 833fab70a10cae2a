"""Decoding over shared prefixes step by step, and the rules by which prefixes are used again."""

import copy
import math

import pytest
import torch
from test_tiny import CPU, SPEC, groups, picture, start, turn

from policies.counting import prefix_passes
from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Context, Observation, Trajectory
from saccade.policies.token.passes import Chosen, DecodePass, OwnContext

LAYERS, HEADS, DEPTH = 2, 2, 4


def normal(generator, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


class RowByRow:
    """The oracle of ``DecodePass``: keys and values of every row in a list of its own."""

    def __init__(self, chosen, owner, context):
        self.rows = []
        ends = [0] * len(owner) if context is None else context.width.cumsum(0).tolist()
        for i, p in enumerate(owner):
            own = [] if context is None else context.source[ends[i] - int(context.width[i]) : ends[i]]
            here = slice(chosen.start[p], chosen.start[p] + chosen.length[p])
            layers = []
            for layer in range(LAYERS):
                parts = [(chosen.k[layer][:, here], chosen.v[layer][:, here])]
                if len(own):
                    parts.append((context.k[layer][:, own], context.v[layer][:, own]))
                layers.append([torch.cat(part, 1) for part in zip(*parts, strict=True)])
            self.rows.append(layers)

    def attend(self, layer, q, k, v, scale, window):
        outputs = []
        for i, layers in enumerate(self.rows):
            keys, values = (torch.cat(pair, 1) for pair in zip(layers[layer], (k[i], v[i]), strict=True))
            layers[layer] = [keys, values]
            first = 0 if window is None else max(0, keys.shape[1] - window)
            repeat = q.shape[1] // len(keys)
            keys, values = (x[:, first:].repeat_interleave(repeat, 0) for x in (keys, values))
            outputs.append((scale * q[i] @ keys.mT).softmax(-1) @ values)
        return torch.stack(outputs)

    def keep(self, index):
        self.rows = [self.rows[i] for i in index.tolist()]


# Lengths of the prefixes, prefix of each row, width of each row's own context (None: no row has any).
SCENES = {
    "one prefix": ([5], [0, 0, 0, 0, 0, 0], None),
    "equal prefixes": ([4, 4], [0, 0, 0, 1, 1, 1], None),
    "unequal prefixes": ([3, 6, 2], [0, 0, 1, 1, 2, 2], None),
    "unequal groups": ([4, 3, 4], [0, 1, 1, 1, 2, 2], None),
    "own contexts": ([3, 6], [0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2]),
    "own contexts of unequal length": ([3, 6, 3], [0, 0, 1, 2, 2, 2], [1, 4, 0, 3, 0, 2]),
    "some prefixes without rows": ([3, 5, 5, 2], [1, 1, 1, 2, 2, 2], [0, 3, 1, 1, 2, 2]),
}
# Rows kept after steps 1 and 3 of five: of six rows, then of what is left.
DROPS = {
    "all stay": {},
    "groups become unequal": {1: [0, 2, 3, 4, 5], 3: [1, 3, 4]},
    "groups vanish": {1: [0, 1, 5], 3: [2]},
    "the first group vanishes": {1: [3, 4, 5], 3: [0, 1]},
}


@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
@pytest.mark.parametrize("drops", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize("scene", SCENES)
def test_decoding_equals_attention_of_each_row_alone(scene, drops, window):
    length, owner, width = SCENES[scene]
    generator, total = torch.Generator().manual_seed(0), sum(length)
    stream = [(normal(generator, HEADS, total, DEPTH), normal(generator, HEADS, total, DEPTH)) for _ in range(LAYERS)]
    starts = [sum(length[:p]) for p in range(len(length))]
    nothing = torch.zeros(len(length), 1)
    k, v = ([layer[i] for layer in stream] for i in range(2))
    chosen = Chosen(starts, length, torch.tensor(length), nothing, k, v, {})
    context = None
    if width is not None:
        count = sum(width)
        own = [[normal(generator, HEADS, count + 3, DEPTH) for _ in range(LAYERS)] for _ in range(2)]
        # Contexts need not stand in the order of the rows.
        source = torch.randperm(count + 3, generator=generator)[:count]
        context = OwnContext(torch.tensor(width), source, *own)
    ours, theirs = DecodePass(chosen, owner, context, 5), RowByRow(chosen, owner, context)
    rows = len(owner)
    for step in range(5):
        for layer in range(LAYERS):
            q = normal(generator, rows, 2 * HEADS, 1, DEPTH)
            k, v = normal(generator, rows, HEADS, 1, DEPTH), normal(generator, rows, HEADS, 1, DEPTH)
            found = ours.attend(layer, q, k, v, 0.6, window)
            expected = theirs.attend(layer, q, k, v, 0.6, window)
            assert float((found - expected).norm() / expected.norm()) < 1e-12, (step, layer)
        ours.advance()
        if step in drops:
            kept = torch.tensor(drops[step])
            ours.keep(kept)
            theirs.keep(kept)
            rows = len(kept)


def test_windows_of_two_sizes_may_alternate_between_layers():
    generator = torch.Generator().manual_seed(1)
    k, v = ([normal(generator, HEADS, 7, DEPTH) for _ in range(LAYERS)] for _ in range(2))
    chosen = Chosen([0, 3], [3, 4], torch.tensor([3, 4]), torch.zeros(2, 1), k, v, {})
    ours, theirs = DecodePass(chosen, [0, 1, 1], None, 3), RowByRow(chosen, [0, 1, 1], None)
    for _ in range(3):
        for layer, window in enumerate((2, None)):
            q = normal(generator, 3, HEADS, 1, DEPTH)
            k, v = normal(generator, 3, HEADS, 1, DEPTH), normal(generator, 3, HEADS, 1, DEPTH)
            found, expected = (side.attend(layer, q, k, v, 0.5, window) for side in (ours, theirs))
            assert float((found - expected).norm() / expected.norm()) < 1e-12
        ours.advance()


def test_decoding_copies_no_prefix():
    """Neighbouring prefixes of one length are read where they stand, whatever the number of rows."""
    k = v = [torch.zeros(HEADS, 8, DEPTH)]
    chosen = Chosen([0, 4], [4, 4], torch.tensor([4, 4]), torch.zeros(2, 1), k, v, {})
    tokens = DecodePass(chosen, [0] * 9 + [1] * 9, None, 3)
    assert tokens.stack[0][0].untyped_storage().data_ptr() == k[0].untyped_storage().data_ptr()
    assert tokens.buffers[0][0].shape == (18, HEADS, 3, DEPTH)


# --- the book of prefixes -------------------------------------------------------------------------------------------


def gradients(policy):
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return found


def farthest(ours, theirs):
    """Largest difference of any gradient, relative to the norm of the whole."""
    assert ours.keys() == theirs.keys()
    whole = math.sqrt(sum(float(g.norm()) ** 2 for g in theirs.values()))
    return max(float((ours[name] - theirs[name]).norm()) for name in theirs) / whole


def weighted(policy, batch, weight):
    return (policy.log_prob(batch).logp * weight[: len(batch), : batch.mask.shape[1]]).sum()


@pytest.fixture
def policy():
    return SPEC.build(CPU, seed=3).double()


@pytest.fixture
def batch(policy):
    return pack(groups(policy))


@pytest.fixture
def weight(batch):
    return torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def contexts(batch):
    return [Context(prompt) for prompt in batch.prompts]


def rolled(policy, batch, budget):
    """A rollout on the prompts of the batch, which the policy may remember."""
    with policy.remember_prompts(budget):
        policy.act(contexts(batch), sampling=Sampling(max_actions=2), seeds=range(len(batch.prompts)))


def accumulated(policy, micros, weights):
    for micro, w in zip(policy.accumulate(micros), weights, strict=True):
        weighted(policy, micro, w).backward()
    return gradients(policy)


def cut(batch, weight, *pieces):
    index = [torch.tensor(piece) for piece in pieces]
    return [batch.take(i) for i in index], [weight[i] for i in index]


def test_prompts_split_over_micro_batches_run_forward_and_backward_once(policy, batch, weight):
    """Six trajectories on three prompts; the first prompt's are in three micro-batches, the last one's in two."""
    weighted(policy, batch, weight).backward()
    expected = gradients(policy)
    micros, weights = cut(batch, weight, [0], [1], [2, 3, 4], [5])
    backward = []
    with prefix_passes(policy) as passes:
        handle = policy.trunk.embed.weight.register_hook(lambda grad: backward.append(1))
        ours = accumulated(policy, micros, weights)
        handle.remove()
    assert passes == [1, 2], "prompt 0 alone; prompts 1 and 2 with the third micro-batch; none with the fourth"
    assert farthest(ours, expected) < 1e-12


def test_a_prefix_runs_backward_as_soon_as_its_last_micro_batch_is_done(policy, batch, weight):
    micros, weights = cut(batch, weight, [0, 1], [2], [3], [4, 5])
    waiting = []
    for micro, w in zip(policy.accumulate(micros), weights, strict=True):
        waiting.append([[batch.prompts.index(p) for p in state.prompts] for state in policy.book.open])
        weighted(policy, micro, w).backward()
    assert waiting == [[], [[0]], [], []]
    assert policy.book.open is None


def test_the_graph_of_the_rollout_is_the_graph_of_the_first_gradient_and_of_no_other(policy, batch, weight):
    micros, weights = cut(batch, weight, [0, 1], [2, 3, 4, 5])
    expected = accumulated(policy, micros, weights)
    with prefix_passes(policy) as passes:
        rolled(policy, batch, budget=10_000)
        assert passes == [3]
        first = accumulated(policy, micros, weights)
        assert passes == [3]
        assert policy.book.states == []
        second = accumulated(policy, micros, weights)
        assert passes == [3, 1, 2]
    assert farthest(first, expected) < 1e-12 and farthest(second, expected) < 1e-12


def test_a_graph_of_other_weights_is_not_used(policy, batch, weight):
    rolled(policy, batch, budget=10_000)
    with torch.no_grad():
        policy.trunk.embed.weight.mul_(1.1)
    with prefix_passes(policy) as passes:
        ours = accumulated(policy, [batch], [weight])
    assert passes == [3]
    weighted(policy, batch, weight).backward()
    assert farthest(ours, gradients(policy)) < 1e-12


def test_numbers_of_other_weights_are_not_used_either(policy, batch):
    """The rollout's second turn reads the prompts again once the weights have changed."""
    rolled(policy, batch, budget=0)
    with torch.no_grad():
        policy.trunk.embed.weight.mul_(1.1)
    with prefix_passes(policy) as passes:
        rolled(policy, batch, budget=0)
    assert passes == [3]
    assert [len(state.prompts) for state in policy.book.states] == [3], "the old ones are gone"


def test_a_graph_is_used_only_if_all_its_prompts_are_wanted(policy, batch, weight):
    """Part of a graph cannot run backward and leave the rest for later: prompts 0 .. 2 share one, a batch wants two."""
    rolled(policy, batch, budget=10_000)
    (part,), (w,) = cut(batch, weight, [0, 1, 2, 3])
    with prefix_passes(policy) as passes:
        ours = accumulated(policy, [part], [w])
    assert passes == [2]
    weighted(policy, part, w).backward()
    assert farthest(ours, gradients(policy)) < 1e-12


def test_graphs_are_kept_within_the_budget_and_numbers_beyond_it(policy, batch, weight):
    """Contexts acted on one after another: the graphs of the first two prompts fit, that of the third does not."""
    length = [policy.shared_size(prompt) for prompt in batch.prompts]
    with prefix_passes(policy) as passes:
        with policy.remember_prompts(length[0] + length[1]):
            for context in contexts(batch) * 2:
                policy.act([context], sampling=Sampling(max_actions=1), seeds=[0])
        assert passes == [1, 1, 1], "the second round reads no prompt"
        assert [state.differentiable for state in policy.book.states] == [True, True, False]
        ours = accumulated(policy, [batch], [weight])
    assert passes == [1, 1, 1, 1], "only the third prompt is read again"
    weighted(policy, batch, weight).backward()
    assert farthest(ours, gradients(policy)) < 1e-12


def test_nothing_is_remembered_unless_asked_for(policy, batch):
    policy.act(contexts(batch), sampling=Sampling(max_actions=1), seeds=range(3))
    assert policy.book.states == []
    rolled(policy, batch, budget=0)
    assert [state.differentiable for state in policy.book.states] == [False]
    assert not policy.book.remembering


def test_what_is_read_of_remembered_prompts_carries_no_gradient(policy, batch):
    rolled(policy, batch, budget=10_000)
    with torch.no_grad():
        out = policy.log_prob(batch)
    assert not out.logp.requires_grad
    acts = policy.act(contexts(batch), sampling=Sampling(max_actions=2), seeds=range(3))
    assert not any(act.logp.requires_grad for some in acts for act in some)


def test_outside_of_accumulate_every_gradient_reads_its_prompts(policy, batch):
    rolled(policy, batch, budget=10_000)
    with prefix_passes(policy) as passes:
        policy.log_prob(batch).logp.sum().backward()
        policy.log_prob(batch).logp.sum().backward()
    assert passes == [3, 3]


@pytest.mark.parametrize("where", ["loss", "end"])
def test_an_exception_inside_accumulate_leaves_the_book_closed(policy, batch, weight, where):
    rolled(policy, batch, budget=10_000)
    micros, weights = cut(batch, weight, [0, 1], [2, 3, 4, 5])
    with pytest.raises(RuntimeError, match="out of memory"):
        for i, micro in enumerate(policy.accumulate(micros)):
            loss = weighted(policy, micro, weights[i])
            if where == "end":
                loss.backward()
            if where == "loss" or i == 1:
                raise RuntimeError("out of memory")
    policy.zero_grad()
    assert policy.book.open is None and policy.book.states == []
    ours = accumulated(policy, micros, weights)
    weighted(policy, batch, weight).backward()
    assert farthest(ours, gradients(policy)) < 1e-12


def test_copies_start_with_an_empty_book(policy, batch, weight):
    rolled(policy, batch, budget=10_000)
    twin = copy.deepcopy(policy)
    assert twin.book.states == [] and len(policy.book.states) == 1
    with prefix_passes(twin) as passes:
        ours = accumulated(twin, [batch], [weight])
    assert passes == [3]
    assert farthest(ours, accumulated(policy, [batch], [weight])) < 1e-12


def test_a_picture_of_the_prompt_that_is_shown_again_is_not_encoded_again(policy):
    """Its features belong to the prefix: what later rows send back to them arrives through the cut graph."""
    scene = picture(0)
    prompt = start(scene, Text("read"))
    again = Observation((scene, Text("look again")))
    batch = pack([[Trajectory(prompt, [turn(policy, word, again), turn(policy, "7")]) for word in ("red", "blue")]])
    weight = torch.ones(batch.mask.shape, dtype=torch.float64)
    before = policy.trunk.images_encoded
    ours = accumulated(policy, *cut(batch, weight, [0], [1]))
    assert policy.trunk.images_encoded - before == 1
    twin = SPEC.build(CPU, seed=3).double()
    twin.shared = False
    weighted(twin, batch, weight).backward()
    assert farthest(ours, gradients(twin)) < 1e-12


def test_later_turns_of_a_rollout_read_no_prompt_again(policy):
    prompts = [start(picture(i), Text("read"), name=str(i)) for i in range(2)]
    trajectories = [Trajectory(prompt) for prompt in prompts for _ in range(3)]
    actor = LocalActor(policy, budget=0)
    before = policy.trunk.images_encoded
    with prefix_passes(policy) as passes:
        for k in range(3):
            acts = actor.act([t.context(k) for t in trajectories], sampling=Sampling(max_actions=2), seeds=range(6))
            for trajectory, (act,) in zip(trajectories, acts, strict=True):
                said = turn(policy, "red", Observation((Text("no"),)))
                said.record, said.logp, said.mask, said.segment = act.record, act.logp, act.mask, act.segment
                trajectory.turns.append(said)
    assert passes == [2] and policy.trunk.images_encoded - before == 2
