"""Decoding steps of Llama-shaped decoders, by calling their own modules without transformers' wrappers in between.

At one token a row a step is so small that the wrappers take as long as the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saccade.policies.token.passes import DecodePass

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class Direct:
    """One token of every row at a time:

    x += o(attention(rope(q(norm x)), rope(k(norm x)), v(norm x)));  x += down(act(gate(norm x)) * up(norm x))
    """

    def __init__(
        self, decoder: Any, embed: nn.Module, tokens: DecodePass, position: Int[Tensor, "N"], room: int, axes: int
    ) -> None:
        """Args:
        decoder: the text decoder of a transformers model; ``fits(decoder)`` holds.
        embed: its input embeddings.
        tokens: what the rows attend to.
        position: first position id of each row.
        room: most tokens to come.
        axes: axes of position ids; text counts up on all of them alike.
        """
        self.decoder, self.embed, self.tokens = decoder, embed, tokens
        ids = position[:, None] + torch.arange(room, device=position.device)
        weight = decoder.norm.weight
        rotation = decoder.rotary_emb(weight, ids if axes == 1 else ids.expand(axes, -1, -1))
        self.cos, self.sin = (x[:, :, None] for x in rotation)
        self.t = 0
        self.layers = [_Layer(layer) for layer in decoder.layers]

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether all layers have the parts of a Llama layer and no others; what they compute is not looked at."""
        parts = {name for name, _ in decoder.named_children()}
        return parts == {"embed_tokens", "layers", "norm", "rotary_emb"} and all(map(_is_llama, decoder.layers))

    def step(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N D"]:
        x = self.embed(token)
        cos, sin = self.cos[:, self.t], self.sin[:, self.t]
        for i, layer in enumerate(self.layers):
            x = layer(i, x, cos, sin, self.tokens)
        self.t += 1
        self.tokens.advance()
        return self.decoder.norm(x)

    def keep(self, index: Int[Tensor, "n"]) -> None:
        self.tokens.keep(index)
        self.cos, self.sin = self.cos[index], self.sin[index]


class _Layer:
    """A layer's modules, looked up once: attribute access of ``nn.Module`` is slow."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.q, self.k, self.v, self.o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.gate, self.up, self.down, self.act = mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.act_fn
        self.depth: int = attention.head_dim
        self.scale: float = attention.scaling
        self.window: int | None = getattr(attention, "sliding_window", None)

    def __call__(self, i: int, x: Tensor, cos: Tensor, sin: Tensor, tokens: DecodePass) -> Tensor:
        h = self.before(x)
        q, k, v = (project(h).view(len(h), -1, self.depth) for project in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        qk = torch.cat([q, k], 1)
        half = self.depth // 2
        qk = qk * cos + torch.cat([-qk[..., half:], qk[..., :half]], -1) * sin
        q, k = qk[:, : q.shape[1]].to(v.dtype), qk[:, q.shape[1] :].to(v.dtype)
        y = tokens.attend(i, q[:, :, None], k[:, :, None], v[:, :, None], self.scale, self.window)
        x = x + self.o(y.flatten(1))
        h = self.between(x)
        return x + self.down(self.act(self.gate(h)) * self.up(h))


def _is_llama(layer: Any) -> bool:
    names = {name for name, _ in layer.named_children()}
    if names != _LAYER:
        return False
    attention = {name for name, _ in layer.self_attn.named_children()}
    mlp = {name for name, _ in layer.mlp.named_children()}
    wanted = attention >= _ATTENTION and attention - _ATTENTION - _NORMS - {"rotary_emb"} == set() and mlp == _MLP
    return wanted and all(hasattr(layer.self_attn, name) for name in ("head_dim", "scaling"))
