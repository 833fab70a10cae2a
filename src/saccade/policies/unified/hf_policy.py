"""A unified transformers model that acts and re-evaluates: text and pictures are tokens of one vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.content import Content, Image, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Act
from saccade.core.trajectory import Context
from saccade.policies.token import hf_policy
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Rows
from saccade.policies.unified.drawing import CODE, IMAGE, PICTURE, TEXT, Drawing
from saccade.policies.unified.emu3 import CLOSED, END, INSIDE, LINE, Emu3, Emu3Reader

if TYPE_CHECKING:
    from saccade.policies.unified.hf import HFUnified

FAMILIES = {"emu3": Emu3}


class HFUnifiedPolicy(hf_policy.HFVisionLanguagePolicy):
    """Built by ``HFUnified``. What is not chosen (sizes, ends of lines) is not trained: its mask is False."""

    spec: HFUnified
    reader: Emu3Reader
    kinds: Tensor
    """Tokens that may be written outside of pictures, and codes."""

    def __init__(self, spec: HFUnified, model: Any, reader: Emu3Reader) -> None:
        super().__init__(spec, model, reader)
        family = self.reader.family
        assert isinstance(family, Emu3)
        self.codec = family
        family.model = self.base.model.vqmodel.requires_grad_(False)
        codes = torch.zeros(self.head.out_features, dtype=torch.bool)
        codes[family.tokens] = True
        words = ~codes
        words[reader.tokenizer.convert_tokens_to_ids([INSIDE, LINE, CLOSED, END])] = False
        words[family.image_token] = False
        self.register_buffer("kinds", torch.stack([words, codes]), persistent=False)

    def same_alternatives(self, other: Any) -> bool:
        return isinstance(other, HFUnifiedPolicy) and other.head.out_features == self.head.out_features

    def alternatives(self, token: Int[Tensor, "M"]) -> Bool[Tensor, "M V"]:
        return self.kinds[self.kinds[1][token].long()]

    def grammar(self, rows: Rows, n: int) -> Drawing:
        inside = (rows.last_token == self.reader.inside).repeat_interleave(n).to(self.device)
        return Drawing(self.kinds, self.reader.open, self.reader.layout.to(self.device), inside)

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts: list[Act] = []
        for context, output in zip(contexts, outputs, strict=True):
            ids = self._written(context, output)
            acts.append(self.as_act(ids, torch.zeros(len(ids)), 1.0, trained=True))
        return acts

    def as_act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
        code, lines = self.kinds[1].cpu()[ids], self.reader.lines
        opened = (ids == self.reader.open).nonzero()[:, 0].tolist()
        # Where there is no start token among the tokens, it stands at the end of the context.
        begin = opened[0] + 1 if opened else 0 if bool(code[0]) else len(ids)
        inside = torch.arange(len(ids)) >= begin
        words = ids[: begin - 1] if opened else ids[:begin]
        ended = len(words) > 0 and int(words[-1]) in self.ends
        text = Text(self.reader.text(words[:-1] if ended else words))
        output: Content = (text,)
        drawn = int(code.sum()) == lines**2
        if drawn:
            picture = Image(self.codec.pixels(self._places(ids[code]).view(lines, lines)))
            output = (text, picture) if text.text else (picture,)
        return Act(
            output=output,
            record=TokenRecord(ids, temperature),
            logp=logp,
            mask=(code | ~inside) & trained,
            segment=torch.where(inside, PICTURE, TEXT),
            truncated=not (drawn or ended),
        )

    def _places(self, tokens: Int[Tensor, "S"]) -> Int[Tensor, "S"]:
        """Places in the codebook of these tokens."""
        table = torch.zeros(len(self.kinds[1]), dtype=torch.int64)
        table[self.codec.tokens] = torch.arange(len(self.codec.tokens))
        return table[tokens]

    def _written(self, context: Context, output: Content) -> Int[Tensor, "T"]:
        last = context.turns[-1] if context.turns else None
        if last is None:
            chunk = self.reader.prompt(context.prompt.content)
        else:
            chunk = self.reader.observe(last, last.observation)
        inside = int(chunk.ids[-1]) == self.reader.inside
        texts = [part.text for part in output[:-1] if isinstance(part, Text)]
        if len(texts) < len(output) - 1 or not output or not isinstance(output[-1], Text | Image):
            kinds = ", ".join(type(part).__name__ for part in output)
            raise DataError(f"a unified model writes text and at most one picture after it, got {kinds or 'nothing'}")
        if inside and (texts or isinstance(output[-1], Text)):
            raise DataError(f"the prompt ends with {IMAGE}: a picture is expected, got text")
        final = output[-1]
        if isinstance(final, Text):
            return self.reader.write("".join([*texts, final.text]))
        layout = self.reader.layout[len(self.reader.opening) - 1 :].clone()
        layout[layout == CODE] = self.codec.tokens[self.codec.drawn(final.pixels, self.spec.side).flatten()]
        before = self.reader.write("".join(texts))[:-1]
        return layout if inside else torch.cat([before, self.reader.opening, layout])


def load(spec: HFUnified, device: torch.device, seed: int) -> HFUnifiedPolicy:
    """The policy that the spec describes; errors as ``HFUnified.build``."""
    read = partial(Emu3Reader, side=spec.side)
    policy = hf_policy.load(spec, device, seed, families=FAMILIES, read=read, make=HFUnifiedPolicy)
    assert isinstance(policy, HFUnifiedPolicy)
    if spec.side % policy.codec.factor:
        raise ConfigError(f"side must be a multiple of the codec's {policy.codec.factor}, got {spec.side}")
    return policy
