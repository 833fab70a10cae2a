"""The tiny vision-language network: a convolutional patch encoder and a causal transformer with a key-value memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.errors import DataError
from saccade.core.trajectory import Prompt
from saccade.policies.token.passes import Chosen, DecodePass, Pass, PrefixPass, SuffixPass
from saccade.policies.token.prefix import Packing, Prefixes, Suffixes
from saccade.policies.token.rows import Chunk, Rows, padded, present


class Memory:
    """Keys and values of one layer for positions that were already read; differentiable."""

    def __init__(self, k: Tensor | None = None, v: Tensor | None = None) -> None:
        self.k, self.v = k, v

    def extend(self, k: Float[Tensor, "B H S d"], v: Float[Tensor, "B H S d"]) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values so far."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        self.k, self.v = k, v
        return k, v

    def take(self, index: Int[Tensor, "b"]) -> Memory:
        """The memory of these rows; one row may be taken many times."""
        assert self.k is not None and self.v is not None, "an empty memory has no rows"
        return Memory(self.k[index], self.v[index])


class Slots(Memory):
    """A memory with room for a known number of further positions, filled in place; without gradient."""

    def __init__(self, memory: Memory, index: Int[Tensor, "b"], room: int) -> None:
        assert memory.k is not None and memory.v is not None, "an empty memory has no rows"
        _, heads, self.filled, depth = memory.k.shape
        shape = (len(index), heads, self.filled + room, depth)
        super().__init__(memory.k.new_empty(shape), memory.v.new_empty(shape))
        assert self.k is not None and self.v is not None
        self.k[:, :, : self.filled] = memory.k[index]
        self.v[:, :, : self.filled] = memory.v[index]

    def extend(self, k: Float[Tensor, "B H S d"], v: Float[Tensor, "B H S d"]) -> tuple[Tensor, Tensor]:
        assert self.k is not None and self.v is not None
        new = slice(self.filled, self.filled + k.shape[2])
        self.k[:, :, new], self.v[:, :, new] = k, v
        self.filled = new.stop
        return self.k[:, :, : self.filled], self.v[:, :, : self.filled]

    def keep(self, index: Int[Tensor, "b"]) -> None:
        """Forget all other rows."""
        assert self.k is not None and self.v is not None
        self.k, self.v = self.k[index], self.v[index]


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values of one layer ``[B, H, S, d]`` to what is read ``[B, H, S, d]``."""


def _from_memory(memory: Memory, mask: Tensor | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = memory.extend(k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)

    return attend


def _from_pass(tokens: Pass, layer: int) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return tokens.attend(layer, q, k, v, q.shape[-1] ** -0.5, None)

    return attend


class Residual(nn.Module):
    """A 3x3 convolution beside the identity. Normalised: without it the signal fades before it reaches the words."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "I C H W"]) -> Float[Tensor, "I C H W"]:
        return x + self.convolution(F.gelu(self.norm(x)))


class Stem(nn.Module):
    """Pixels to visual tokens: convolutions at a quarter of the resolution, pooled over each patch.

    A token holds the strongest response of every detector in a window of two patches a side (what is there: an object
    on the border of two patches is whole in one window) and a few channels of its own patch in full (where it is).
    """

    def __init__(self, width: int, patch: int, side: int) -> None:
        super().__init__()
        fine, coarse, exact = 32, 64, 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, fine, 3, stride=2, padding=1), nn.GroupNorm(8, fine), nn.GELU(),
            nn.Conv2d(fine, coarse, 3, stride=min(2, patch // 2), padding=1), nn.GroupNorm(8, coarse), nn.GELU(),
            Residual(coarse), nn.GroupNorm(8, coarse), nn.GELU(),
        )  # fmt: skip
        self.merge = max(1, patch // 4)
        self.exact = nn.Conv2d(coarse, exact, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Without this the signal of the image fades before it reaches the words.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None, "convolutions have a bias by default"
                nn.init.zeros_(module.bias)
        self.project = nn.Linear(coarse + exact * self.merge**2, width)
        self.place = nn.Parameter(0.3 * torch.randn((side // patch) ** 2, width))

    def forward(self, pixels: UInt8[Tensor, "I 3 H W"]) -> Float[Tensor, "I S D"]:
        x = self.layers(pixels.to(self.place.dtype) / 127.5 - 1)
        margin = self.merge // 2
        what = F.max_pool2d(x, self.merge + 2 * margin, stride=self.merge, padding=margin)
        x = torch.cat([what, F.pixel_unshuffle(self.exact(x), self.merge)], 1)
        return self.project(x.flatten(2).transpose(1, 2)) + self.place


class Block(nn.Module):
    """Pre-norm attention and MLP; ``layers`` of them add up to about the variance of one."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for last in (self.out, self.down):
            nn.init.normal_(last.weight, std=0.5 / (width * layers) ** 0.5)

    def forward(
        self, x: Float[Tensor, "B S D"], rotation: tuple[Tensor, Tensor], attend: Attend
    ) -> Float[Tensor, "B S D"]:
        rows, steps, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(rows, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = _rotate(qkv[:2], rotation)
        y = attend(q, k, qkv[2])
        x = x + self.out(y.transpose(1, 2).reshape(rows, steps, width))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))


def _rotate(qk: Float[Tensor, "2 B H S d"], rotation: tuple[Tensor, Tensor]) -> Float[Tensor, "2 B H S d"]:
    cos, sin = rotation
    half = qk.shape[-1] // 2
    return qk * cos + torch.cat([-qk[..., half:], qk[..., :half]], -1) * sin


@dataclass(eq=False)
class Reading:
    """What is known after a pass over rows, before the final norm."""

    prompt: Float[Tensor, "P D"]
    """Hidden state of the last position of each prefix."""
    suffix: Float[Tensor, "R S D"]
    memory: list[Memory]
    """Per layer: of prefixes if no row has a suffix, else of rows."""
    present: Bool[Tensor, "B L"]
    """Which positions of the memory hold tokens."""


def _remembering(memory: Sequence[Memory], mask: Tensor | None) -> list[Attend]:
    return [_from_memory(layer, mask) for layer in memory]


def _passing(tokens: Pass, layers: int) -> list[Attend]:
    return [_from_pass(tokens, layer) for layer in range(layers)]


class Trunk(nn.Module):
    """Rows of tokens and images to hidden states. Every prefix is forwarded once, every image encoded once.

    ``read`` pads and masks, with a copy of the prefix's keys and values for each row; ``prefixes`` and ``suffixes``
    read the same without padding or copies. With ``max_images`` 0 there is no encoder: all is tokens.
    """

    def __init__(self, vocabulary: int, image: int, width: int, layers: int, heads: int, patch: int, side: int,
                 max_images: int) -> None:  # fmt: skip
        super().__init__()
        self.image, self.side, self.max_images, self.depth = image, side, max_images, width // heads
        self.stem = Stem(width, patch, side) if max_images else None
        self.embed = nn.Embedding(vocabulary, width)
        self.order = nn.Embedding(max_images, width) if max_images else None
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.embed, self.order):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        self.images_encoded = 0
        """Images that went through the stem so far."""
        self.positions_read = 0
        """Sequence positions, padding included, that went through the blocks so far."""

    def read(self, rows: Rows, width: int) -> Reading:
        """One pass over the prefixes, then one over the first ``width`` positions of the suffixes."""
        device = self.embed.weight.device
        prefix, length = padded([chunk.ids for chunk in rows.prefix])
        prefix, length = prefix.to(device), length.to(device)
        encoded = self._encode([*(chunk.images for chunk in rows.prefix), *rows.images])
        suffix_features = self._shown(rows.images, self._images_before(rows), encoded)
        prefix_features = self._shown([chunk.images for chunk in rows.prefix], [0] * len(rows.prefix), encoded)
        memory = [Memory() for _ in self.blocks]
        x = self._embedded(prefix, prefix_features)
        hidden = self._blocks(x, torch.arange(prefix.shape[1], device=device)[None], _remembering(memory, None))
        last = hidden[torch.arange(len(prefix), device=device), length - 1]
        seen = present(length, prefix.shape[1])
        if width == 0:
            return Reading(last, last.new_zeros(len(rows.ids), 0, last.shape[1]), memory, seen)

        prompt, ids = rows.prompt.to(device), rows.ids[:, :width].to(device)
        steps = torch.arange(width, device=device)
        causal = (steps <= steps[:, None]).expand(len(ids), -1, -1)
        mask = torch.cat([seen[prompt][:, None].expand(-1, width, -1), causal], 2)[:, None]
        memory = [layer.take(prompt) for layer in memory]
        x = self._embedded(ids, suffix_features)
        suffix = self._blocks(x, length[prompt][:, None] + steps, _remembering(memory, mask))
        own = present(rows.length.to(device), width)
        return Reading(last, suffix, memory, torch.cat([seen[prompt], own], 1))

    def states(self, reading: Reading, prompt: Int[Tensor, "M"], row: Int[Tensor, "M"], at: Int[Tensor, "M"]) -> Tensor:
        """Normed hidden states ``[M, D]`` at suffix positions; position -1 is the last of the prefix."""
        prefixes, (_, width, depth) = reading.prompt, reading.suffix.shape
        flat = torch.cat([prefixes, reading.suffix.reshape(-1, depth)])
        index = torch.where(at < 0, prompt, len(prefixes) + row * width + at)
        return self.norm(flat[index.to(flat.device)])

    def step(
        self, ids: Int[Tensor, "N"], position: Int[Tensor, "N"], memory: list[Slots], seen: Bool[Tensor, "N L"]
    ) -> Float[Tensor, "N D"]:
        """Normed hidden states after one more token for each row; ``seen`` includes the new position."""
        attend = _remembering(memory, seen[:, None, None])
        return self.norm(self._blocks(self.embed(ids[:, None]), position[:, None], attend)[:, 0])

    def prefixes(self, prompts: Sequence[Prompt], chunks: Sequence[Chunk]) -> Prefixes:
        device = self.embed.weight.device
        length = [len(chunk.ids) for chunk in chunks]
        shown = [chunk.images for chunk in chunks]
        encoded = self._encode(shown)
        ids = torch.cat([chunk.ids for chunk in chunks])[None].to(device)
        x = self._embedded(ids, self._shown(shown, [0] * len(shown), encoded))
        position = torch.cat([torch.arange(n) for n in length])[None].to(device)
        tokens = PrefixPass(length)
        hidden = self._blocks(x, position, _passing(tokens, len(self.blocks)))[0]
        after = torch.tensor(length)
        pictures = [picture for images in shown for picture in images]
        last = self.norm(hidden[(after.cumsum(0) - 1).to(device)])
        return Prefixes(list(prompts), length, after, last, tokens.k, tokens.v, encoded, pictures)

    def suffixes(self, rows: Rows, packing: Packing, chosen: Chosen, *, keep: bool) -> Suffixes:
        device = self.embed.weight.device
        shown = [rows.images[r] for r in packing.rows]
        images_before = self._images_before(rows)
        before = [images_before[r] for r in packing.rows]
        encoded = {**chosen.features, **self._encode(shown, chosen.features)}
        x = self._embedded(packing.ids[None].to(device), self._shown(shown, before, encoded))
        position = chosen.following[rows.prompt][packing.row] + packing.at
        tokens = SuffixPass(chosen.k, chosen.v, packing.layout, keep=keep)
        hidden = self._blocks(x, position[None].to(device), _passing(tokens, len(self.blocks)))[0]
        return Suffixes(self.norm(hidden), packing.start, packing.width, tokens.k, tokens.v)

    def decode(self, ids: Int[Tensor, "N"], position: Int[Tensor, "N"], tokens: DecodePass) -> Float[Tensor, "N D"]:
        """Normed states after one more token for each row, prefixes shared."""
        hidden = self._blocks(self.embed(ids[:, None]), position[:, None], _passing(tokens, len(self.blocks)))
        tokens.advance()
        return self.norm(hidden[:, 0])

    def _blocks(self, x: Tensor, position: Tensor, attend: Sequence[Attend]) -> Tensor:
        self.positions_read += x.shape[0] * x.shape[1]
        half = self.depth // 2
        frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
        angle = (position[..., None] * frequency).repeat(1, 1, 2)[:, None]
        rotation = angle.cos(), angle.sin()
        for block, layer in zip(self.blocks, attend, strict=True):
            x = block(x, rotation, layer)
        return x

    def _embedded(self, ids: Int[Tensor, "B S"], features: Tensor) -> Float[Tensor, "B S D"]:
        x = self.embed(ids)
        if not len(features):
            return x
        return x.masked_scatter((ids == self.image)[..., None], features)

    def _images_before(self, rows: Rows) -> list[int]:
        return [len(rows.prefix[p].images) for p in rows.prompt.tolist()]

    def _encode(
        self, shown: Sequence[Sequence[np.ndarray]], known: Collection[int] = ()
    ) -> dict[int, Float[Tensor, "S D"]]:
        """Visual tokens of every picture that is not known, by its identity; each picture is encoded once."""
        pictures = {id(picture): picture for images in shown for picture in images if id(picture) not in known}
        if not pictures:
            return {}
        assert self.stem is not None, "pictures are shown to a trunk that has no encoder"
        encoded = self.stem(self._pixels(list(pictures.values())).to(self.embed.weight.device))
        self.images_encoded += len(pictures)
        return dict(zip(pictures, encoded.unbind(), strict=True))

    def _shown(
        self, shown: Sequence[Sequence[np.ndarray]], before: Sequence[int], encoded: Mapping[int, Tensor]
    ) -> Float[Tensor, "A D"]:
        """Visual tokens as they stand in the rows, each picture with its number in the whole context."""
        order = [start + i for start, images in zip(before, shown, strict=True) for i in range(len(images))]
        if not order:
            return self.embed.weight.new_zeros(0, self.embed.embedding_dim)
        if max(order) >= self.max_images:
            raise DataError(
                f"a context holds {max(order) + 1} images or frames, but policy.max_images is {self.max_images}"
            )
        assert self.order is not None, "pictures are shown to a trunk that has no encoder"
        features = torch.stack([encoded[id(picture)] for images in shown for picture in images])
        number = torch.tensor(order, device=features.device)
        return (features + self.order(number)[:, None]).flatten(0, 1)

    def _pixels(self, pictures: Sequence[np.ndarray]) -> UInt8[Tensor, "I 3 H W"]:
        size = (self.side, self.side)
        if all(picture.shape[:2] == size for picture in pictures):
            return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        scaled = [
            F.interpolate(
                torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None], size, mode="bilinear", antialias=True
            )
            for picture in pictures
        ]
        return torch.cat(scaled)
