"""A tiny vision-language policy for CPUs: everything a large one has, in about a million parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saccade.core.batch import Batch
from saccade.core.config import from_dict, to_dict
from saccade.core.content import Content, Image, Text, Video
from saccade.core.errors import CapabilityError, CheckpointError, ConfigError, DataError
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.trajectory import Context, Observation, Trajectory, Turn
from saccade.policies.token.record import TokenRecord
from saccade.policies.token.rows import Chunk, Rows, batch_rows, context_rows
from saccade.policies.token.sampling import draw, entropy, exact_kl, tempered, uniforms
from saccade.policies.token.tags import tag_segments
from saccade.policies.token.trunk import Slots, Trunk
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
        folder = Path(folder)
        try:
            spec = from_dict(json.loads((folder / "config.json").read_text()))
            weights = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder} does not hold a TinyVLM: {error}") from None
        if not isinstance(spec, cls):
            raise CheckpointError(f"{folder / 'config.json'} does not describe a TinyVLM")
        policy = spec.build(torch.device(device))
        try:
            policy.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{folder / 'model.safetensors'}: {' '.join(str(error).split())}") from None
        return policy


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


class TinyVLMPolicy(Policy):
    """Prompts are encoded and prefilled once, in ``act`` for all samples and in ``log_prob`` for all trajectories."""

    provides: ClassVar[frozenset[str]] = frozenset({"entropy", "kl", "distribution"})
    spec: TinyVLM

    def __init__(self, spec: TinyVLM) -> None:
        super().__init__()
        self.spec = spec
        self.reader = TinyReader(spec)
        self.vocabulary = self.reader.vocabulary
        self.trunk = spec.trunk()
        self.head = nn.Linear(spec.width, self.vocabulary.outputs, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        rows = context_rows(contexts, self.reader)
        ids, logp, length = self._decode(rows, n, sampling, seeds)
        acts = [
            self._act(ids[i, :count].clone(), logp[i, :count].clone(), sampling.temperature, not sampling.deterministic)
            for i, count in enumerate(length.tolist())
        ]
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        rows = batch_rows(batch, self.reader)
        trained = batch.mask.cpu()[rows.trajectory, rows.column]
        where = (rows.trajectory[trained].to(self.device), rows.column[trained].to(self.device))
        logp = self._distribution(rows, trained)
        token = rows.token[trained].to(self.device)

        def table(values: Tensor) -> Tensor:
            return values.new_zeros(*batch.mask.shape, *values.shape[1:]).index_put(where, values)

        kl = None
        if need.kl_to is not None:
            if not isinstance(need.kl_to, TinyVLMPolicy) or need.kl_to.vocabulary.texts != self.vocabulary.texts:
                raise CapabilityError("exact KL needs a reference policy with the same vocabulary")
            with torch.no_grad():
                reference = need.kl_to._distribution(batch_rows(batch, need.kl_to.reader), trained)
            kl = table(exact_kl(logp, reference))
        return LogProbs(
            logp=table(logp.gather(1, token[:, None])[:, 0]),
            entropy=table(entropy(logp)) if need.entropy else None,
            kl=kl,
            distribution=table(logp.detach()) if need.distribution else None,
        )

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        return [self._written(output) for _, output in zip(contexts, outputs, strict=True)]

    def size(self, trajectory: Trajectory) -> int:
        """Positions of the prompt and of everything after it."""
        turns = trajectory.turns
        seen = [self.reader.observe(turn, turn.observation) for turn in turns[:-1]]
        chunks = [self.reader.prompt(trajectory.prompt.content), *seen]
        return sum(len(chunk.ids) for chunk in chunks) + trajectory.num_actions

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; ``TinyVLM.load`` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(to_dict(self.spec), indent=2) + "\n")
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def _distribution(self, rows: Rows, chosen: Tensor) -> Float[Tensor, "M V"]:
        """Log-probabilities of all tokens at the chosen actions of the rows, at the temperatures they were drawn at."""
        reading = self.trunk.read(rows, int(rows.at.max()) + 1)
        row, at = rows.row[chosen], rows.at[chosen]
        logits = self.head(self.trunk.states(reading, rows.prompt[row], row, at))
        return tempered(logits, rows.temperature[chosen].to(logits))

    def _decode(
        self, rows: Rows, n: int, sampling: Sampling, seeds: Sequence[int]
    ) -> tuple[Int[Tensor, "N T"], Float[Tensor, "N T"], Int[Tensor, "N"]]:
        """Tokens, their log-probabilities and their number, on the CPU."""
        contexts, room, device = len(rows.prompt), sampling.max_actions, self.device
        reading = self.trunk.read(rows, rows.ids.shape[1])
        hidden = self.trunk.states(reading, rows.prompt, torch.arange(contexts), rows.length - 1)
        source = torch.arange(contexts) if rows.ids.shape[1] else rows.prompt
        sample = source.repeat_interleave(n).to(device)
        memory = [Slots(layer, sample, room) for layer in reading.memory]
        seen = torch.cat([reading.present[sample], reading.present.new_ones(len(sample), room)], 1)
        position = torch.tensor([len(rows.prefix[p].ids) for p in rows.prompt.tolist()]) + rows.length
        position = position.repeat_interleave(n).to(device)
        hidden = hidden.repeat_interleave(n, 0)
        numbers = uniforms(seeds, room).to(device)

        ids = torch.full((contexts * n, room), self.vocabulary.end, device=device)
        logp = torch.zeros(contexts * n, room, device=device)
        length = torch.full((contexts * n,), room, device=device)
        alive = torch.arange(contexts * n, device=device)
        going = torch.ones_like(alive, dtype=torch.bool)
        for t in range(room):
            token, chosen = draw(self.head(hidden), numbers[alive, t], sampling)
            ids[alive, t], logp[alive, t] = token, chosen.float()
            ended = token == self.vocabulary.end
            length[alive[going & ended]] = t + 1
            going = going & ~ended
            left = int(going.sum())
            if left == 0 or t + 1 == room:
                break
            if left <= _SPARSE * len(alive):
                index = going.nonzero()[:, 0]
                alive, token, position, seen, going = (x[index] for x in (alive, token, position, seen, going))
                for layer in memory:
                    layer.keep(index)
            hidden = self.trunk.step(token, position, memory, seen[:, : memory[0].filled + 1])
            position = position + 1
        return ids.cpu(), logp.cpu(), length.cpu()

    def _act(self, ids: Int[Tensor, "T"], logp: Float[Tensor, "T"], temperature: float, trained: bool) -> Act:
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
        return self._act(tokens, torch.zeros(len(tokens)), 1.0, trained=True)


_SPARSE = 0.75
"""Share of unfinished rows below which dropping the finished ones pays for the copy."""
