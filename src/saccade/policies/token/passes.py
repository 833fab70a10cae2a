"""What the tokens of a forward pass attend to: their own prefix (``PrefixPass``), a prefix and their own row
(``SuffixPass``), or, one new token of every row at a time, both from memory (``DecodePass``).

Tokens of different prefixes and rows are packed one after another without padding. A decoder takes the pass as its
attention and need not know of sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from saccade.policies.token.attention import Layout, additive, attend, causal_prefixes, shared_attention


@dataclass(eq=False)
class Chosen:
    """The prefixes of one forward pass over rows: one stream, and where each prompt stands in it."""

    start: list[int]
    length: list[int]
    following: Int[Tensor, "P"]
    last: Float[Tensor, "P D"]
    k: list[Float[Tensor, "K S d"]]
    v: list[Float[Tensor, "K S d"]]
    features: dict[int, Tensor]


@dataclass(eq=False)
class OwnContext:
    """Keys and values of what rows have read after their prefixes."""

    width: Int[Tensor, "N"]
    source: Int[Tensor, "T"]
    """Where the tokens of the rows stand in ``k`` and ``v``."""
    k: list[Float[Tensor, "K S d"]]
    v: list[Float[Tensor, "K S d"]]

    def places(self, longest: int) -> tuple[Int[Tensor, "T"], Int[Tensor, "T"]]:
        """Row and column of each token in a table of this width, rows aligned to the right."""
        row = torch.repeat_interleave(torch.arange(len(self.width)), self.width)
        column = torch.cat([torch.arange(longest - w, longest) for w in self.width])
        return row.to(self.source.device), column.to(self.source.device)


class Pass(Protocol):
    """What the tokens of a forward pass attend to."""

    def attend(
        self, layer: int, q: Float[Tensor, "1 H T d"], k: Float[Tensor, "1 K T d"], v: Float[Tensor, "1 K T d"],
        scale: float, window: int | None,
    ) -> Float[Tensor, "1 H T d"]: ...  # fmt: skip


class PrefixPass:
    """Prefixes one after another, each causal; keeps keys and values."""

    def __init__(self, length: Sequence[int]) -> None:
        self.length = length
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        assert layer == len(self.k), "layers of a decoder run in order"
        self.k.append(k[0])
        self.v.append(v[0])
        return causal_prefixes(q[0], k[0], v[0], self.length, scale, window)[None]


class SuffixPass:
    """Rows one after another, each attending to its prefix and causally to itself."""

    def __init__(self, k: Sequence[Tensor], v: Sequence[Tensor], layout: Layout, *, keep: bool) -> None:
        self.prefix_k, self.prefix_v, self.layout = k, v, layout
        self.keep = keep
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        if self.keep:
            self.k.append(k[0])
            self.v.append(v[0])
        prefix = self.prefix_k[layer], self.prefix_v[layer]
        return shared_attention(q[0], *prefix, k[0], v[0], self.layout, scale, window)[None]


class DecodePass:
    """One token of each of N rows at a time; own keys and values in buffers of fixed size, prefixes not copied.

    Rows of a prefix are neighbours. Own context of unequal length stands at the right end of its part of the buffer, so
    that all rows write at the same place.
    """

    def __init__(self, chosen: Chosen, owner: Sequence[int], context: OwnContext | None, room: int) -> None:
        """Args:
        chosen: the prefixes.
        owner: prefix of each of the N rows, not decreasing.
        context: what rows have read after their prefixes; None if nothing.
        room: most tokens to come.
        """
        first = list(dict.fromkeys(owner))
        assert first == sorted(first), "rows of a prefix are neighbours"
        self.device, self.dtype = chosen.k[0].device, chosen.k[0].dtype
        self.length = [chosen.length[p] for p in first]
        self.group = torch.tensor([first.index(p) for p in owner])
        spans = [slice(chosen.start[p], chosen.start[p] + chosen.length[p]) for p in first]
        self.stack = [(_stacked(k, spans), _stacked(v, spans)) for k, v in zip(chosen.k, chosen.v, strict=True)]
        self.width = torch.zeros(len(owner), dtype=torch.int64) if context is None else context.width
        self.filled = self.context = int(self.width.max())
        self.own_mask = self._left_padding()

        def buffer(x: Tensor) -> Tensor:
            # Zeros where a row has no context: what is masked must be finite all the same.
            return x.new_zeros(len(owner), len(x), self.context + room, x.shape[-1])

        self.buffers = [(buffer(k), buffer(v)) for k, v in zip(chosen.k, chosen.v, strict=True)]
        if context is not None:
            row, column = context.places(self.context)
            for (k, v), own_k, own_v in zip(self.buffers, context.k, context.v, strict=True):
                k[row, :, column] = own_k[:, context.source].transpose(0, 1)
                v[row, :, column] = own_v[:, context.source].transpose(0, 1)
        self._arrange()

    def _left_padding(self) -> Tensor | None:
        if int(self.width.min()) == self.context:
            return None
        visible = torch.arange(self.context) >= self.context - self.width[:, None]
        return additive(visible, self.dtype)[:, None, None].to(self.device)

    def _arrange(self) -> None:
        """Place rows in a rectangle of prefixes by members."""
        counts = torch.bincount(self.group, minlength=len(self.length))
        self.members = int(counts.max())
        self.full = bool((counts == self.members).all())
        if not self.full:
            within = torch.arange(len(self.group)) - (counts.cumsum(0) - counts)[self.group]
            slot = self.group * self.members + within
            self.slot = slot.to(self.device)
            # Empty places repeat some row; nobody reads what comes of them.
            self.source = torch.zeros(len(self.length) * self.members, dtype=torch.int64)
            self.source[slot] = torch.arange(len(slot))
            self.source = self.source.to(self.device)
        longest = self.stack[0][0].shape[2]
        lengths = torch.tensor(self.length)
        self.prefix_mask = None
        if int(lengths.min()) < longest:
            visible = torch.arange(longest) < lengths[:, None]
            self.prefix_mask = additive(visible, self.dtype)[:, None, None].to(self.device)
        self.windows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def keep(self, index: Int[Tensor, "n"]) -> None:
        """Forget all rows but these, given in order."""
        self.buffers = [(k[index], v[index]) for k, v in self.buffers]
        index = index.cpu()
        self.group, self.width = self.group[index], self.width[index]
        if self.own_mask is not None:
            self.own_mask = self._left_padding()
        alive = self.group.unique()
        if 2 * len(alive) <= len(self.length):
            on_device = alive.to(self.device)
            self.stack = [(k[on_device], v[on_device]) for k, v in self.stack]
            self.length = [self.length[i] for i in alive.tolist()]
            self.group = torch.searchsorted(alive, self.group)
        self._arrange()

    def advance(self) -> None:
        """All layers have seen the token."""
        self.filled += 1
        self.windows = {}

    def attend(self, layer: int, q: Float[Tensor, "N H 1 d"], k: Float[Tensor, "N K 1 d"], v: Float[Tensor, "N K 1 d"],
               scale: float, window: int | None) -> Float[Tensor, "N H 1 d"]:  # fmt: skip
        rows, queries, _, depth = q.shape
        heads = k.shape[1]
        repeat = queries // heads
        own_k, own_v = self.buffers[layer]
        here = self.filled
        own_k[:, :, here], own_v[:, :, here] = k[:, :, 0], v[:, :, 0]
        q = q.reshape(rows, heads, repeat, depth)
        prefix_mask, own_mask = self._masks(window, repeat)

        # The rows of a prefix and the query heads of a key head form one long query.
        stack_k, stack_v = self.stack[layer]
        prefixes = len(stack_k)
        at_prefix = q if self.full else q[self.source]
        at_prefix = at_prefix.view(prefixes, self.members, heads, repeat, depth).transpose(1, 2).flatten(2, 3)
        o1, l1 = attend(at_prefix, stack_k, stack_v, scale, mask=prefix_mask)
        o1 = o1.unflatten(2, (self.members, repeat)).transpose(1, 2).flatten(0, 1)
        l1 = l1.unflatten(2, (self.members, repeat)).transpose(1, 2).flatten(0, 1)
        if not self.full:
            o1, l1 = o1[self.slot], l1[self.slot]

        o2, l2 = attend(q, own_k[:, :, : here + 1], own_v[:, :, : here + 1], scale, mask=own_mask)
        share = torch.sigmoid(l1 - l2)[..., None].to(o1.dtype)
        return torch.lerp(o2, o1, share).reshape(rows, queries, 1, depth)

    def _masks(self, window: int | None, repeat: int) -> tuple[Tensor | None, Tensor | None]:
        own = self.own_mask
        if own is not None:
            own = F.pad(own, (0, self.filled + 1 - self.context))
        if window is None:
            return self.prefix_mask, own
        if (window, repeat) not in self.windows:
            prefix, own = self._windowed(window, own)
            self.windows[window, repeat] = prefix.repeat_interleave(repeat, 2), own
        return self.windows[window, repeat]

    def _windowed(self, window: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.filled + 1)
        own_mask = additive(steps > self.filled - window, self.dtype)[None, None, None].to(self.device)
        own_mask = own_mask if own is None else own_mask + own
        position = torch.tensor(self.length)[self.group] + self.width + self.filled - self.context
        position = position if self.full else position[self.source.cpu()]
        length = torch.tensor(self.length)[:, None, None]
        steps = torch.arange(self.stack[0][0].shape[2])
        seen = (steps > position.view(len(self.length), -1, 1) - window) & (steps < length)
        return additive(seen, self.dtype).to(self.device)[:, None], own_mask


def _stacked(x: Float[Tensor, "K S d"], spans: Sequence[slice]) -> Float[Tensor, "P K p d"]:
    """Stretches of a stream above one another, right-padded; a view where they allow it."""
    sizes = {span.stop - span.start for span in spans}
    if len(sizes) == 1 and all(a.stop == b.start for a, b in pairwise(spans)):
        return x[:, spans[0].start : spans[-1].stop].unflatten(1, (len(spans), -1)).transpose(0, 1)
    stacked = x.new_zeros(len(spans), len(x), max(sizes), x.shape[-1])
    for row, span in zip(stacked, spans, strict=True):
        row[:, : span.stop - span.start] = x[:, span]
    return stacked
