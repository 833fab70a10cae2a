"""A tiny vision-language policy for CPUs: everything a large one has, in about a million parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saccade.core.content import Content, Image, Text, Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Act, PolicySpec
from saccade.core.trajectory import Context, Observation, Turn
from saccade.policies.folder import read_policy, write_policy
from saccade.policies.token.policy import TokenPolicy
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Chunk
from saccade.policies.token.tags import tag_segments
from saccade.policies.token.trunk import Trunk
from saccade.policies.token.trunk_policy import TrunkPolicy
from saccade.policies.token.vocabulary import Vocabulary


@dataclass(frozen=True)
class TinyVLM(PolicySpec):
    """A convolutional patch encoder and a causal transformer over words; reads text, images and videos, writes text.

    Boxes and points are in pixels of an image of ``side`` by ``side``; other images are resized to it.
    """

    width: int = 96
    layers: int = 2
    heads: int = 4
    patch: int = 16
    """Pixels along the side of one visual token; a power of two."""
    side: int = 64
    """Height and width in pixels of the images the network sees."""
    max_images: int = 4
    """Most images and video frames in one context."""
    words: tuple[str, ...] = ()
    """Words beyond ``vocabulary.WORDS``; also tags such as ``<look>``."""
    bins: int = 16
    """Location tokens stand for the multiples of side / bins."""
    segments: tuple[str, ...] = ()
    """Tags whose inside is marked: tokens strictly inside ``segments[i]`` get segment i + 1, all others 0."""
    prefix: Literal["shared", "plain"] = "shared"
    """How losses and rollouts read prompts: each once, or with a copy of its keys and values for every row."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "patch", "side", "max_images", "bins"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ConfigError(f"width must be a multiple of 2 * heads = {2 * self.heads}, got {self.width}")
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise ConfigError(f"patch must be a power of two and >= 2, got {self.patch}")
        if self.side % self.patch or self.side % self.bins:
            raise ConfigError(f"side must be a multiple of patch {self.patch} and bins {self.bins}, got {self.side}")
        self.vocabulary()

    def vocabulary(self) -> Vocabulary:
        """The words this policy reads and writes."""
        return Vocabulary(self.words, self.side, self.bins)

    def trunk(self) -> Trunk:
        """A fresh network; weights are drawn from torch's global generator."""
        words = self.vocabulary()
        return Trunk(
            words.size, words.image, self.width, self.layers, self.heads, self.patch, self.side, self.max_images
        )

    def build(self, device: torch.device, seed: int = 0) -> TinyVLMPolicy:
        """The policy with weights drawn from ``seed``, in float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyVLMPolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> TinyVLMPolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete TinyVLM.
        """
        return read_policy(cls, folder, device)


class TinyReader:
    """How content becomes tokens: visual placeholders for pictures, words for text, a start token before each turn."""

    def __init__(self, spec: TinyVLM) -> None:
        self.vocabulary = spec.vocabulary()
        self._picture = [self.vocabulary.image] * (spec.side // spec.patch) ** 2

    def prompt(self, content: Content) -> Chunk:
        return self._chunk([], content)

    def observe(self, turn: Turn, observation: Observation | None) -> Chunk:
        ids = turn.record.ids
        ended = len(ids) > 0 and int(ids[-1]) == self.vocabulary.end
        return self._chunk([] if ended else [self.vocabulary.end], () if observation is None else observation.content)

    def _chunk(self, ids: list[int], content: Content) -> Chunk:
        images = []
        for part in content:
            if isinstance(part, Text):
                ids = ids + self.vocabulary.encode(part.text, strict=False)
            elif isinstance(part, Image):
                images.append(part.pixels)
                ids = ids + self._picture
            elif isinstance(part, Video):
                images.extend(part.frames)
                ids = ids + self._picture * len(part.frames)
            else:
                raise DataError(f"TinyVLM reads text, images and videos, got {type(part).__name__}")
        return Chunk(torch.tensor([*ids, self.vocabulary.start]), tuple(images))


class TinyVLMPolicy(TrunkPolicy):
    """Prompts are encoded and read once, in ``act`` for all samples and in ``log_prob`` for all trajectories."""

    spec: TinyVLM

    def __init__(self, spec: TinyVLM) -> None:
        super().__init__()
        self.spec = spec
        self.shared = spec.prefix == "shared"
        self.reader = TinyReader(spec)
        self.vocabulary = self.reader.vocabulary
        self.ends = frozenset({self.vocabulary.end})
        self.trunk = spec.trunk()
        self.head = nn.Linear(spec.width, self.vocabulary.outputs, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def same_alternatives(self, other: TokenPolicy) -> bool:
        return isinstance(other, TinyVLMPolicy) and other.vocabulary.texts == self.vocabulary.texts

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        return [self._written(output) for _, output in zip(contexts, outputs, strict=True)]

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; ``TinyVLM.load`` reads them."""
        write_policy(self, folder)

    def as_act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
        tokens = ids.tolist()
        return Act(
            output=(Text(self.vocabulary.decode(tokens)),),
            record=TokenRecord(ids, temperature),
            logp=logp,
            mask=torch.full(ids.shape, trained),
            segment=torch.tensor(tag_segments(self.vocabulary.pieces(tokens), self.spec.segments)),
            truncated=tokens[-1] != self.vocabulary.end,
        )

    def _written(self, output: Content) -> Act:
        ids: list[int] = []
        for part in output:
            if not isinstance(part, Text):
                raise DataError(f"TinyVLM writes text, got {type(part).__name__} in an output")
            ids += self.vocabulary.encode(part.text, strict=True)
        tokens = torch.tensor([*ids, self.vocabulary.end])
        return self.as_act(tokens, torch.zeros(len(tokens)), 1.0, trained=True)
