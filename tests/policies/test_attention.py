"""Attention to shared prefixes against softmax attention written out in float64, values and gradients."""

import math

import pytest
import torch

from saccade.policies.token.attention import (
    Block,
    Layout,
    Rectangle,
    attend,
    attend_backward,
    attend_backward_by_products,
    attend_by_products,
    causal_prefixes,
    shared_attention,
)

KERNELS = {"fused": (attend, attend_backward), "products": (attend_by_products, attend_backward_by_products)}


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def apart(x, y):
    """Norm of the difference relative to that of y."""
    return float((x - y).detach().norm() / y.detach().norm())


def written_out(q, k, v, scale, visible):
    """o_i = sum_j exp(s_ij - l_i) v_j,  l_i = log sum_j exp(s_ij),  s_ij = scale q_i k_j, over visible j alone."""
    o, l = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64), torch.full(q.shape[:-1], -math.inf).double()
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:-1])).tolist():
        seen = [j for j in range(k.shape[2]) if visible[i][j]]
        scores = [scale * float(q[b, h, i] @ k[b, h, j]) for j in seen]
        if seen:
            l[b, h, i] = math.log(sum(math.exp(s) for s in scores))
            o[b, h, i] = sum(math.exp(s - l[b, h, i]) * v[b, h, j] for s, j in zip(scores, seen, strict=True))
    return o, l


def added(visible):
    return torch.zeros(1, 1, *visible.shape, dtype=torch.float64).masked_fill(~visible, -math.inf)


VISIBLE = {
    "all": torch.ones(4, 4, dtype=torch.bool),
    "causal": torch.ones(4, 4, dtype=torch.bool).tril(),
    "masked": torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.bool),
    "nothing seen by two": torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("name", VISIBLE)
def test_attention_and_its_log_sum_exp_are_those_written_out(kernel, name):
    q, k, v = (numbers(2, 3, 4, 5, seed=s) for s in range(3))
    visible = VISIBLE[name]
    options = {"causal": name == "causal", "mask": None if name in ("all", "causal") else added(visible)}
    o, l = kernel[0](q, k, v, 0.7, **options)
    o_plain, l_plain = written_out(q, k, v, 0.7, visible)
    torch.testing.assert_close(o, o_plain, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(l, l_plain, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("name", VISIBLE)
def test_backward_through_some_of_the_keys_with_the_log_sum_exp_of_all(kernel, name):
    """Queries see keys ``VISIBLE[name]`` and three more that are given to nobody. Gradients of q add up over both."""
    q, k, v = (numbers(2, 3, 4, 5, seed=s).requires_grad_() for s in range(3))
    more_k, more_v = (numbers(2, 3, 3, 5, seed=s).requires_grad_() for s in (3, 4))
    go, visible = numbers(2, 3, 4, 5, seed=5), VISIBLE[name]
    everything = torch.cat([added(visible), torch.zeros(1, 1, 4, 3, dtype=torch.float64)], -1)
    scores = 0.7 * q @ torch.cat([k, more_k], 2).mT + everything
    o, l = scores.softmax(-1) @ torch.cat([v, more_v], 2), scores.logsumexp(-1)
    expected = torch.autograd.grad(o, (q, k, v), go)

    options = {"causal": name == "causal", "mask": None if name in ("all", "causal") else added(visible)}
    with torch.no_grad():
        dq, dk, dv = kernel[1](go, q, k, v, o, l, 0.7, **options)
        rest, *_ = kernel[1](go, q, more_k, more_v, o, l, 0.7)
    for ours, theirs in zip((dq + rest, dk, dv), expected, strict=True):
        assert apart(ours, theirs) < 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_kernels_agree_in_lower_precision(dtype):
    """Scores are summed in float32 whatever the inputs are: the log-sum-exp is good to bfloat16's rounding of q k."""
    q, k, v = (numbers(1, 2, 6, 8, seed=s).to(dtype) for s in range(3))
    (o, l), (o_products, l_products) = attend(q, k, v, 0.3), attend_by_products(q, k, v, 0.3)
    limit = 1e-6 if dtype == torch.float32 else 2e-2
    assert o.dtype == o_products.dtype == dtype and l.dtype == l_products.dtype == torch.float32
    assert apart(o.double(), o_products.double()) < limit and apart(l.double(), l_products.double()) < limit


def by_row(q, pk, pv, k, v, layout, scale, window):
    """Each row alone: softmax over the keys of its prefix followed by its own; a token sees ``window`` positions."""
    repeat, outputs, at = len(q) // len(k), [], 0
    for owner, width in zip(layout.owner, layout.width, strict=True):
        start, length = layout.start[owner], layout.length[owner]
        keys = torch.cat([pk[:, start : start + length], k[:, at : at + width]], 1).repeat_interleave(repeat, 0)
        values = torch.cat([pv[:, start : start + length], v[:, at : at + width]], 1).repeat_interleave(repeat, 0)
        scores = scale * q[:, at : at + width] @ keys.mT
        for t in range(width):
            for j in range(length + width):
                if j > length + t or (window is not None and j <= length + t - window):
                    scores[:, t, j] = -math.inf
        outputs.append(scores.softmax(-1) @ values)
        at += width
    return torch.cat(outputs, 1)


# start, length, owner, width
LAYOUTS = {
    "one group": ([0], [5], [0, 0, 0], [3, 3, 3]),
    "one row": ([0], [4], [0], [3]),
    "equal groups": ([0, 4, 8], [4, 4, 4], [0, 0, 1, 1, 2, 2], [3, 2, 2, 3, 4, 1]),
    "unequal prompts": ([0, 3, 9], [3, 6, 2], [0, 0, 1, 1, 2, 2], [2, 2, 2, 2, 2, 2]),
    "unequal groups": ([0, 4, 8], [4, 4, 4], [0, 1, 1, 1, 2, 2], [3, 3, 3, 3, 3, 3]),
    "unequal rows": ([0, 5], [5, 3], [0, 0, 0, 1, 1], [1, 4, 2, 6, 1]),
    "some prefixes without rows": ([0, 4, 8, 12], [4, 4, 4, 3], [1, 1, 3], [2, 3, 4]),
    "prefixes elsewhere in the stream": ([7, 2], [4, 4], [0, 0, 1], [2, 3, 5]),
}


@pytest.mark.parametrize("repeat", [1, 3], ids=["one query head a key head", "three query heads a key head"])
@pytest.mark.parametrize("window", [None, 2, 5, 100])
@pytest.mark.parametrize("name", LAYOUTS)
def test_shared_attention_equals_attention_of_each_row_alone(name, window, repeat):
    """A window of 2 leaves no prefix to the third token of a row, 5 cuts into prefixes, 100 is larger than all."""
    layout = Layout(*LAYOUTS[name])
    stream = max(s + n for s, n in zip(layout.start, layout.length, strict=True))
    shapes = [(2 * repeat, layout.tokens), (2, stream), (2, stream), (2, layout.tokens), (2, layout.tokens)]
    inputs = [numbers(*shape, 4, seed=s).requires_grad_() for s, shape in enumerate(shapes)]
    go = numbers(2 * repeat, layout.tokens, 4, seed=9)

    ours = shared_attention(*inputs, layout, 0.6, window)
    theirs = by_row(*inputs, layout, 0.6, window)
    assert apart(ours, theirs) < 1e-12
    pairs = zip(torch.autograd.grad(ours, inputs, go), torch.autograd.grad(theirs, inputs, go), strict=True)
    for name, (one, other) in zip(("q", "prefix k", "prefix v", "k", "v"), pairs, strict=True):
        assert apart(one, other) < 1e-12, name


def test_rows_that_no_longer_see_the_prefix_give_it_no_gradient():
    """Window 2: token 0 sees itself and the last position of the prefix, later tokens see two of their own row."""
    layout = Layout([0], [3], [0], [4])
    q, k, v = (numbers(1, 4, 2, seed=s) for s in range(3))
    pk, pv = (numbers(1, 3, 2, seed=s).requires_grad_() for s in (3, 4))
    o = shared_attention(q, pk, pv, k, v, layout, 1.0, 2)
    later = torch.autograd.grad(o[:, 1:].sum(), (pk, pv), retain_graph=True)
    assert not any(gradient.any() for gradient in later)
    for gradient in torch.autograd.grad(o[:, 0].sum(), (pk, pv)):
        assert not gradient[:, :2].any() and gradient[:, 2].any()


@pytest.mark.parametrize("window", [None, 3, 4, 50])
@pytest.mark.parametrize("length", [[4], [3, 3], [5, 2, 2, 4]])
def test_prefixes_in_one_stream_do_not_see_each_other(length, window):
    q, k, v = (numbers(heads, sum(length), 3, seed=s).requires_grad_() for s, heads in enumerate((4, 2, 2)))
    nothing = torch.zeros(2, 0, 3, dtype=torch.float64)
    alone = Layout([0] * len(length), [0] * len(length), range(len(length)), length)
    ours, theirs = causal_prefixes(q, k, v, length, 0.5, window), by_row(q, nothing, nothing, k, v, alone, 0.5, window)
    go = numbers(4, sum(length), 3, seed=7)
    assert apart(ours, theirs) < 1e-12
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), go), torch.autograd.grad(theirs, (q, k, v), go), strict=True
    ):
        assert apart(one, other) < 1e-12


def test_neighbouring_groups_of_equal_size_are_one_block():
    """Prefixes of 4, 4, 4, 3 positions at 0, 4, 8, 12; their rows have 2 + 3, 5, 1 + 1, 2 tokens.

    The first two prefixes are of one length and their rows have 5 tokens each: one block, prefixes 0..8, rows 0..10.
    The third has 2 tokens and the fourth another length: a block each."""
    layout = Layout([0, 4, 8, 12], [4, 4, 4, 3], [0, 0, 1, 2, 2, 3], [2, 3, 5, 1, 1, 2])
    assert layout.row_start == [0, 2, 5, 10, 11, 12] and layout.tokens == 14
    assert layout.blocks == [
        Block(2, slice(0, 8), slice(0, 10)),
        Block(1, slice(8, 12), slice(10, 12)),
        Block(1, slice(12, 15), slice(12, 14)),
    ]


def test_groups_are_not_one_block_if_their_prefixes_are_no_neighbours():
    """Prefix 1 has no rows: 0..4 and 8..12 are not one stretch, though lengths and tokens are equal."""
    layout = Layout([0, 4, 8], [4, 4, 4], [0, 2], [3, 3])
    assert layout.blocks == [Block(1, slice(0, 4), slice(0, 3)), Block(1, slice(8, 12), slice(3, 6))]


def test_rows_of_unequal_width_stand_in_a_rectangle():
    """Widths 1, 3, 2 of a stream 10 .. 15: rows 10 | 11 12 13 | 14 15, padded to three columns."""
    rectangle = Rectangle([1, 3, 2])
    stream = torch.arange(10.0, 16.0)[None, :, None]
    table = rectangle.pad(stream, zero=True)
    assert table[:, 0, :, 0].tolist() == [[10, 0, 0], [11, 12, 13], [14, 15, 0]]
    assert rectangle.pack(table).equal(stream)
    loose = rectangle.pad(stream)
    assert loose[:, 0, :, 0][rectangle.there].tolist() == [10, 11, 12, 13, 14, 15] and loose.isfinite().all()
    assert rectangle.pack(loose).equal(stream)


def test_rows_of_equal_width_are_only_reshaped():
    """Widths 2, 2, 2: head h, row r, column c is h, 2 r + c of the stream."""
    rectangle = Rectangle([2, 2, 2])
    stream = torch.arange(12.0).view(2, 6)
    table = rectangle.pad(stream)
    assert table.tolist() == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    assert table.untyped_storage().data_ptr() == stream.untyped_storage().data_ptr()
    assert rectangle.pack(table).equal(stream)
