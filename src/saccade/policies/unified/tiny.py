"""A tiny unified policy for CPUs: one causal transformer that reads and writes words and pictures, all as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from saccade.core.content import Content, Image, Text, Video, frames_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Act, PolicySpec
from saccade.core.trajectory import Context, Observation, Turn
from saccade.policies.folder import read_policy, write_policy
from saccade.policies.token.policy import TokenPolicy
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Chunk, Rows
from saccade.policies.token.trunk import Trunk
from saccade.policies.token.trunk_policy import TrunkPolicy
from saccade.policies.token.vocabulary import Vocabulary
from saccade.policies.unified.codec import Codebook, PatchCodec
from saccade.policies.unified.drawing import CODE, IMAGE, PICTURE, TEXT, Drawing


@dataclass(frozen=True)
class TinyUnified(PolicySpec):
    """A causal transformer over words and the codes of pictures; reads text, pictures and videos, writes both.

    A turn is text, or one picture, or text and then one picture: words up to ``<image>`` and from there the codes of
    one picture, after which the turn is over. Words have segment 0, codes segment 1. Log-probabilities are over words
    outside of pictures and over codes inside of them.
    """

    codec: PatchCodec
    """How pictures become tokens; fitted when the policy is built."""
    width: int = 96
    layers: int = 3
    heads: int = 4
    words: tuple[str, ...] = ()
    """Words beyond ``vocabulary.WORDS``; also tags such as ``<plan>``."""
    prefix: Literal["shared", "plain"] = "shared"
    """How losses and rollouts read prompts: each once, or with a copy of its keys and values for every row."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ConfigError(f"width must be a multiple of 2 * heads = {2 * self.heads}, got {self.width}")
        self.vocabulary()

    def vocabulary(self) -> JointVocabulary:
        """The words and codes this policy reads and writes."""
        return JointVocabulary(self.words, self.codec)

    def build(self, device: torch.device, seed: int = 0) -> TinyUnifiedPolicy:
        """The policy with weights drawn from ``seed``, in float32, and the codec fitted to its tasks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyUnifiedPolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> TinyUnifiedPolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete TinyUnified.
        """
        return read_policy(cls, folder, device)


class JointVocabulary(Vocabulary):
    """Words as in ``Vocabulary``, then the codes: ids ``[first_code, outputs)``."""

    def __init__(self, words: Sequence[str], codec: PatchCodec) -> None:
        super().__init__((IMAGE, *words), codec.side, codec.side // codec.patch)
        self.written = self.outputs
        """Ids below this are words that can be written."""
        self.open: int = self.encode(IMAGE, strict=True)[0]
        """Token of ``<image>``."""
        self.first_code = self.size
        self.size = self.outputs = self.size + codec.codes
        self.texts += [""] * codec.codes

    def kinds(self) -> Bool[Tensor, "2 V"]:
        """Which tokens may be written outside of pictures, and which inside of them."""
        ids = torch.arange(self.outputs)
        return torch.stack([ids < self.written, ids >= self.first_code])


class UnifiedReader:
    """How content becomes tokens: words, ``<image>`` and codes for pictures, and a start token before each turn."""

    def __init__(self, vocabulary: JointVocabulary, codebook: Codebook) -> None:
        self.vocabulary, self.codebook = vocabulary, codebook

    def prompt(self, content: Content) -> Chunk:
        return self._chunk([], content)

    def observe(self, turn: Turn, observation: Observation | None) -> Chunk:
        ids = turn.record.ids
        ended = len(ids) > 0 and int(ids[-1]) == self.vocabulary.end
        return self._chunk([] if ended else [self.vocabulary.end], () if observation is None else observation.content)

    def codes(self, image: Image) -> list[int]:
        """Tokens of a picture, without the start token."""
        return (self.codebook.encode(image.pixels) + self.vocabulary.first_code).tolist()

    def drawing(self, context: Context) -> bool:
        """Whether the next turn begins inside a picture."""
        last = context.turns[-1] if context.turns else None
        chunk = self.prompt(context.prompt.content) if last is None else self.observe(last, last.observation)
        return int(chunk.ids[-1]) == self.vocabulary.open

    def _chunk(self, ids: list[int], content: Content) -> Chunk:
        vocabulary = self.vocabulary
        for part in content:
            if isinstance(part, Text):
                ids = ids + vocabulary.encode(part.text, strict=False)
            elif isinstance(part, Image | Video):
                for pixels in frames_of((part,)):
                    ids = [*ids, vocabulary.open, *self.codes(Image(pixels))]
            else:
                raise DataError(f"TinyUnified reads text, images and videos, got {type(part).__name__}")
        if content and isinstance(content[-1], Text) and ids[-1:] == [vocabulary.open]:
            # As if the policy had begun the picture itself.
            return Chunk(torch.tensor([*ids[:-1], vocabulary.start, vocabulary.open]))
        return Chunk(torch.tensor([*ids, vocabulary.start]))


class TinyUnifiedPolicy(TrunkPolicy):
    """All contexts are tokens; what may be written where is a mask on the logits, in sampling and in scoring."""

    spec: TinyUnified
    reader: UnifiedReader
    kinds: Tensor
    """Tokens that may be written outside of pictures, and codes."""

    def __init__(self, spec: TinyUnified) -> None:
        super().__init__()
        self.spec = spec
        self.shared = spec.prefix == "shared"
        self.vocabulary = spec.vocabulary()
        self.codebook = spec.codec.build()
        self.reader = UnifiedReader(self.vocabulary, self.codebook)
        self.ends = frozenset({self.vocabulary.end})
        self.trunk = Trunk(
            self.vocabulary.size, self.vocabulary.image, spec.width, spec.layers, spec.heads,
            patch=spec.codec.patch, side=spec.codec.side, max_images=0,
        )  # fmt: skip
        self.head = nn.Linear(spec.width, self.vocabulary.outputs, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.register_buffer("kinds", self.vocabulary.kinds(), persistent=False)

    def same_alternatives(self, other: TokenPolicy) -> bool:
        return (
            isinstance(other, TinyUnifiedPolicy)
            and other.vocabulary.texts == self.vocabulary.texts
            and torch.equal(other.codebook.centres.cpu().float(), self.codebook.centres.cpu().float())
        )

    def alternatives(self, token: Int[Tensor, "M"]) -> Bool[Tensor, "M V"]:
        return self.kinds[(token >= self.vocabulary.first_code).long()]

    def grammar(self, rows: Rows, n: int) -> Drawing:
        inside = (rows.last_token == self.vocabulary.open).repeat_interleave(n).to(self.device)
        layout = torch.full((self.spec.codec.length,), CODE, device=self.device)
        return Drawing(self.kinds, self.vocabulary.open, layout, inside)

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        return [self._written(context, output) for context, output in zip(contexts, outputs, strict=True)]

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors`` (weights and codebook); ``load`` reads them."""
        write_policy(self, folder)

    def as_act(self, ids: Int[Tensor, "T"], logp: Tensor, temperature: float, trained: bool) -> Act:
        vocabulary = self.vocabulary
        inside = ids >= vocabulary.first_code
        words = ids[~inside].tolist()
        text = vocabulary.decode(words[: words.index(vocabulary.open)] if vocabulary.open in words else words)
        output: Content = (Text(text),)
        drawn = int(inside.sum()) == self.spec.codec.length
        if drawn:
            picture = Image(self.codebook.decode(ids[inside] - vocabulary.first_code))
            output = (Text(text), picture) if text else (picture,)
        return Act(
            output=output,
            record=TokenRecord(ids, temperature),
            logp=logp,
            mask=torch.full(ids.shape, trained),
            segment=torch.where(inside, PICTURE, TEXT),
            truncated=not drawn and int(ids[-1]) != vocabulary.end,
        )

    def _written(self, context: Context, output: Content) -> Act:
        inside = self.reader.drawing(context)
        ids: list[int] = []
        for i, part in enumerate(output):
            if isinstance(part, Text) and not inside and IMAGE not in part.text:
                ids += self.vocabulary.encode(part.text, strict=True)
            elif isinstance(part, Image) and i + 1 == len(output):
                ids += [*([] if inside else [self.vocabulary.open]), *self.reader.codes(part)]
            else:
                kinds = ", ".join(type(part).__name__ for part in output)
                asked = "a picture, because the prompt ends with <image>" if inside else "text and at most one picture"
                raise DataError(f"TinyUnified writes {asked}, got {kinds or 'nothing'}")
        if not (output and isinstance(output[-1], Image)):
            if inside:
                raise DataError("TinyUnified writes a picture, because the prompt ends with <image>, got nothing")
            ids.append(self.vocabulary.end)
        return self.as_act(torch.tensor(ids), torch.zeros(len(ids)), 1.0, trained=True)
