"""Attention to a prefix that many rows share and to each row's own tokens, without a copy of the prefix for each row.

A row attends to the keys of its prefix and to its own earlier tokens. Both parts are computed apart, with their
log-sum-exp, and merged:

    o = exp(l1 - l) o1 + exp(l2 - l) o2,   l = log(exp l1 + exp l2)

The backward pass of each part is that of ordinary attention with the merged ``o`` and ``l`` in place of its own, which
is exact. All queries that look at one prefix (tokens, rows, query heads of a key head) form one long query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


def attend(
    q: Float[Tensor, "B H Q d"], k: Float[Tensor, "B H K d"], v: Float[Tensor, "B H K d"], scale: float,
    *, causal: bool = False, mask: Tensor | None = None,
) -> tuple[Float[Tensor, "B H Q d"], Float[Tensor, "B H Q"]]:  # fmt: skip
    """Softmax attention and the log-sum-exp of its scores; without gradient.

    Args:
        q, k, v: queries, keys and values of any floating dtype.
        scale: factor on the scores.
        causal: query i sees keys 0..i.
        mask: added to the scores, of their dtype; a query all of whose keys are masked gets ``l = -inf`` and ``o = 0``.
    """
    if q.device.type == "cpu":
        o, l = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    else:
        o, l = attend_by_products(q, k, v, scale, causal=causal, mask=mask)
    if mask is not None:
        # The kernel reports 0 for a query that sees nothing.
        l = l.masked_fill((mask == -torch.inf).all(-1), -torch.inf)
    return o, l


def attend_backward(
    go: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, l: Tensor, scale: float,
    *, causal: bool = False, mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v; ``o`` and ``l`` may be those of attention to more keys than these."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            go, q, k, v, o, l, 0.0, causal, attn_mask=mask, scale=scale
        )
    return attend_backward_by_products(go, q, k, v, o, l, scale, causal=causal, mask=mask)


def attend_by_products(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``attend`` in matrix products, for devices whose fused kernels do not return the log-sum-exp of masked scores."""
    scores = _scores(q, k, scale, causal, mask)
    l = scores.logsumexp(-1)
    o = (scores - l.clamp(min=torch.finfo(l.dtype).min)[..., None]).exp().to(v.dtype) @ v
    return o, l


def attend_backward_by_products(
    go: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, l: Tensor, scale: float,
    *, causal: bool = False, mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``attend_backward`` in matrix products:  dv = p' go,  ds = p (go v' - sum(go o)),  dq = ds k,  dk = ds' q."""
    p = (_scores(q, k, scale, causal, mask) - l[..., None]).exp()
    dp = (go @ v.mT).to(p.dtype)
    ds = (p * (dp - (go * o).sum(-1, keepdim=True).to(p.dtype)) * scale).to(q.dtype)
    return ds @ k, ds.mT @ q, p.to(go.dtype).mT @ go


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool, mask: Tensor | None) -> Tensor:
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores if mask is None else scores + mask


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where True, -inf where False."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, -torch.inf)


def window_mask(query: Int[Tensor, "*n Q"], key: Int[Tensor, "*n K"], window: int, dtype: torch.dtype) -> Tensor:
    """A causal sliding window: position i sees positions i - window + 1 .. i."""
    distance = query[..., :, None] - key[..., None, :]
    return additive((distance >= 0) & (distance < window), dtype)


@dataclass(frozen=True)
class Block:
    """Neighbouring groups whose prefixes are of one length and whose rows have equally many tokens in all."""

    groups: int
    prefix: slice
    """Where the prefixes stand in the stream of prefixes."""
    own: slice
    """Where the rows stand in the stream of rows."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where prefixes and rows stand in two packed streams of tokens. Index arithmetic, no model.

    Rows of a prefix are neighbours, and prefixes come in the order in which they stand in their stream.
    """

    start: Sequence[int]
    """First position of each prefix in the stream of prefixes."""
    length: Sequence[int]
    """Positions of each prefix."""
    owner: Sequence[int]
    """Prefix of each row; rows of one prefix are neighbours."""
    width: Sequence[int]
    """Tokens of each row, at least one."""
    masks: dict[Any, Tensor] = field(default_factory=dict)
    """Masks of sliding windows, which all layers share."""

    @property
    def tokens(self) -> int:
        return sum(self.width)

    @cached_property
    def row_start(self) -> list[int]:
        """First position of each row in the stream of rows."""
        return [0, *accumulate(self.width)][:-1]

    @cached_property
    def blocks(self) -> list[Block]:
        found: list[Block] = []
        at = 0
        for prefix, members in groupby(zip(self.owner, self.width, strict=True), key=lambda pair: pair[0]):
            count = sum(width for _, width in members)
            start, length = self.start[prefix], self.length[prefix]
            last = found[-1] if found else None
            if (
                last is not None
                and last.prefix.stop == start
                and (last.prefix.stop - last.prefix.start) == last.groups * length
                and (last.own.stop - last.own.start) == last.groups * count
            ):
                found[-1] = Block(
                    last.groups + 1, slice(last.prefix.start, start + length), slice(last.own.start, at + count)
                )
            else:
                found.append(Block(1, slice(start, start + length), slice(at, at + count)))
            at += count
        return found

    @cached_property
    def rows(self) -> Rectangle:
        return Rectangle(self.width)

    def prefix_mask(self, block: Block, window: int, repeat: int, like: Tensor) -> Tensor:
        """Which keys of its prefix each query of the block sees, ``[groups, 1, repeat * tokens, length]``."""
        key = ("prefix", block.own.start, window, repeat, like.dtype, like.device)
        if key not in self.masks:
            length = (block.prefix.stop - block.prefix.start) // block.groups
            steps = torch.cat([torch.arange(width) for width in self.width])[block.own].view(block.groups, -1)
            mask = window_mask(length + steps, torch.arange(length).expand(block.groups, -1), window, like.dtype)
            self.masks[key] = mask.repeat(1, repeat, 1)[:, None].to(like.device)
        return self.masks[key]

    def own_mask(self, window: int, like: Tensor) -> Tensor:
        """Causal sliding window within rows, ``[1, 1, S, S]``."""
        key = ("own", window, like.dtype, like.device)
        if key not in self.masks:
            steps = torch.arange(self.rows.longest)
            self.masks[key] = window_mask(steps, steps, window, like.dtype)[None, None].to(like.device)
        return self.masks[key]


class Rectangle:
    """Rows of unequal width, between a packed stream and a right-padded table."""

    def __init__(self, width: Sequence[int]) -> None:
        self.count, self.longest = len(width), max(width)
        self.full = min(width) == self.longest
        if not self.full:
            widths = torch.tensor(width)
            steps = torch.arange(self.longest)
            self.there = steps < widths[:, None]
            first = widths.cumsum(0) - widths
            self._pad = torch.where(self.there, first[:, None] + steps, 0).flatten()
            self._back = self.there.flatten().nonzero()[:, 0]

    def pad(self, x: Float[Tensor, "H T *d"], *, zero: bool = False) -> Float[Tensor, "R H S *d"]:
        """Padding is arbitrary but finite, or zero."""
        if not self.full:
            x = x.index_select(1, self._pad.to(x.device))
            if zero:
                there = self.there.flatten().to(x.device)
                x = x * there.view(1, -1, *[1] * (x.ndim - 2))
        return x.unflatten(1, (self.count, self.longest)).transpose(0, 1)

    def pack(self, x: Float[Tensor, "R H S *d"]) -> Float[Tensor, "H T *d"]:
        x = x.transpose(0, 1).flatten(1, 2)
        return x if self.full else x.index_select(1, self._back.to(x.device))


def causal_prefixes(
    q: Float[Tensor, "H S d"], k: Float[Tensor, "K S d"], v: Float[Tensor, "K S d"], length: Sequence[int],
    scale: float, window: int | None,
) -> Float[Tensor, "H S d"]:  # fmt: skip
    """Causal attention within each of several sequences that stand one after another; K divides H."""
    outputs: list[Tensor] = []
    at = 0
    for size, run in groupby(length):
        count = len(list(run))
        span = slice(at, at + count * size)
        at = span.stop
        rows = [x[:, span].unflatten(1, (count, size)).transpose(0, 1) for x in (q, k, v)]
        steps = torch.arange(size, device=q.device)
        mask = None if window is None or window >= size else window_mask(steps, steps, window, q.dtype)
        o = F.scaled_dot_product_attention(
            *rows, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=len(q) != len(k)
        )
        outputs.append(o.transpose(0, 1).flatten(1, 2))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


def shared_attention(
    q: Float[Tensor, "H T d"], prefix_k: Float[Tensor, "K S d"], prefix_v: Float[Tensor, "K S d"],
    k: Float[Tensor, "K T d"], v: Float[Tensor, "K T d"], layout: Layout, scale: float, window: int | None = None,
) -> Float[Tensor, "H T d"]:  # fmt: skip
    """Attention of all rows to their prefixes and, causally, to themselves.

    Args:
        q: queries of the rows' tokens; query head h reads key head ``h // (H / K)``.
        prefix_k, prefix_v: keys and values of the prefixes, each once.
        k, v: keys and values of the rows' tokens.
        layout: where everything stands.
        scale: factor on the scores.
        window: positions that a token sees, itself included; None is all.
    """
    return _SharedAttention.apply(q, prefix_k, prefix_v, k, v, layout, scale, window)


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, pk: Tensor, pv: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float,
                window: int | None) -> Tensor:  # fmt: skip
        heads, repeat = len(k), len(q) // len(k)
        parts = [
            attend(
                _fold(q, block, heads), _prefix(pk, block), _prefix(pv, block), scale,
                mask=None if window is None else layout.prefix_mask(block, window, repeat, q),
            )
            for block in layout.blocks
        ]  # fmt: skip
        o1 = _cat([_unfold(o, repeat) for o, _ in parts])
        l1 = _cat([_unfold(l, repeat) for _, l in parts])
        rows = layout.rows
        mask = None if window is None else layout.own_mask(window, q)
        o2, l2 = attend(
            rows.pad(q), _spread(rows.pad(k), repeat), _spread(rows.pad(v), repeat), scale,
            causal=mask is None, mask=mask,
        )  # fmt: skip
        o2, l2 = rows.pack(o2), rows.pack(l2)
        l = torch.logaddexp(l1, l2)
        o = o1 * (l1 - l).exp()[..., None].to(o1.dtype) + o2 * (l2 - l).exp()[..., None].to(o2.dtype)
        ctx.save_for_backward(q, pk, pv, k, v, o, l)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, pk, pv, k, v, o, l = ctx.saved_tensors
        layout, scale, window = ctx.layout, ctx.scale, ctx.window
        heads, repeat = len(k), len(q) // len(k)
        go = grads[0].contiguous()
        dpk, dpv = torch.zeros_like(pk), torch.zeros_like(pv)
        dq1: list[Tensor] = []
        for block in layout.blocks:
            dq, dk, dv = attend_backward(
                _fold(go, block, heads), _fold(q, block, heads), _prefix(pk, block), _prefix(pv, block),
                _fold(o, block, heads), _fold(l, block, heads), scale,
                mask=None if window is None else layout.prefix_mask(block, window, repeat, q),
            )  # fmt: skip
            dq1.append(_unfold(dq, repeat))
            # Two blocks may look at the same prefix when the rows of a group were given apart.
            dpk[:, block.prefix] += dk.transpose(0, 1).flatten(1, 2)
            dpv[:, block.prefix] += dv.transpose(0, 1).flatten(1, 2)
        rows = layout.rows
        mask = None if window is None else layout.own_mask(window, q)
        dq2, dk, dv = attend_backward(
            rows.pad(go, zero=True), rows.pad(q), _spread(rows.pad(k), repeat), _spread(rows.pad(v), repeat),
            rows.pad(o), rows.pad(l), scale, causal=mask is None, mask=mask,
        )  # fmt: skip
        dk, dv = (x.unflatten(1, (heads, repeat)).sum(2) for x in (dk, dv))
        return _cat(dq1) + rows.pack(dq2), dpk, dpv, rows.pack(dk), rows.pack(dv), None, None, None


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _prefix(x: Float[Tensor, "K S d"], block: Block) -> Float[Tensor, "G K p d"]:
    return x[:, block.prefix].unflatten(1, (block.groups, -1)).transpose(0, 1)


def _fold(x: Float[Tensor, "H T *d"], block: Block, heads: int) -> Float[Tensor, "G K q *d"]:
    """All queries of a group that read one key head, as one query."""
    x = x[:, block.own].unflatten(1, (block.groups, -1)).unflatten(0, (heads, -1))
    return x.movedim(2, 0).flatten(2, 3)


def _unfold(x: Float[Tensor, "G K q *d"], repeat: int) -> Float[Tensor, "H T *d"]:
    return x.unflatten(2, (repeat, -1)).movedim(0, 2).flatten(2, 3).flatten(0, 1)


def _spread(x: Float[Tensor, "R K S d"], repeat: int) -> Float[Tensor, "R H S d"]:
    """Every key head for each of its query heads."""
    return x if repeat == 1 else x.repeat_interleave(repeat, 1)
