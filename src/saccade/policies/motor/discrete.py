"""Heads over alternatives: one of a few actions, or one of many bins for every number of a command."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.errors import ConfigError
from saccade.core.policy import Sampling
from saccade.policies.motor.head import Asked, Drawn, Head, HeadNet, ValueRecord, check_size, stacked, whole
from saccade.policies.motor.scale import Quantiles, Scale
from saccade.policies.token.sampling import draw, entropy, exact_kl, tempered, uniforms

Level = Literal["number", "action", "chunk"]
"""What is one action of the table: a number, a command (VLA-RL, RLVLA), or a whole chunk; log-probabilities add up."""


@dataclass(frozen=True)
class Discrete(Head):
    """Independent softmax distributions, one for each of the k D numbers of a chunk, all read from the same state."""

    level: Level = "number"

    def __post_init__(self) -> None:
        if self.level not in ("number", "action", "chunk"):
            raise ConfigError(f'head.level must be "number", "action" or "chunk", got {self.level!r}')

    @property
    @abstractmethod
    def alternatives(self) -> int:
        """V"""

    @abstractmethod
    def command(self, index: Int[Tensor, "*n D"], scale: Scale) -> Float[Tensor, "*n D"]:
        """The numbers that alternatives stand for."""

    @abstractmethod
    def index(self, commands: Float[Tensor, "*n D"], scale: Scale) -> Int[Tensor, "*n D"]:
        """The alternative that stands for each number."""

    def build(self, width: int, chunk: int, commands: int) -> DiscreteNet:
        return DiscreteNet(self, width, chunk, commands)


@dataclass(frozen=True)
class Categorical(Discrete):
    """A number is the index of one of ``choices`` actions."""

    choices: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("head.choices", self.choices, 2)

    @property
    def alternatives(self) -> int:
        return self.choices

    def command(self, index: Int[Tensor, "*n D"], scale: Scale) -> Float[Tensor, "*n D"]:
        return index.to(scale.low)

    def index(self, commands: Float[Tensor, "*n D"], scale: Scale) -> Int[Tensor, "*n D"]:
        return whole(commands, self.choices)

    def memory(self, chunk: int, commands: int) -> int:
        return chunk * commands * self.choices

    def remember(self, commands: Float[Tensor, "M k D"], scale: Scale) -> Float[Tensor, "M _"]:
        return F.one_hot(whole(commands, self.choices), self.choices).to(scale.low).flatten(1)


@dataclass(frozen=True)
class Binned(Discrete):
    """Every number in equal bins between its quantiles: the action tokens of OpenVLA (arXiv:2406.09246).

    Bin b of B stands for its centre, ``z_b = (2 b + 1) / B - 1``, in units of ``scale``; numbers beyond the quantiles
    fall into the outermost bins.
    """

    bins: int = 256
    """B."""
    units: Quantiles = Quantiles()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("head.bins", self.bins, 2)

    @property
    def scale(self) -> Quantiles:
        return self.units

    @property
    def alternatives(self) -> int:
        return self.bins

    def command(self, index: Int[Tensor, "*n D"], scale: Scale) -> Float[Tensor, "*n D"]:
        return scale.decode((2 * index.to(scale.low) + 1) / self.bins - 1)

    def index(self, commands: Float[Tensor, "*n D"], scale: Scale) -> Int[Tensor, "*n D"]:
        z = scale.encode(commands)
        return ((z + 1) / 2 * self.bins).floor().clamp(0, self.bins - 1).long()


class DiscreteNet(HeadNet):
    """Logits for every number of the chunk; small at first, so that all alternatives are about equally likely."""

    def __init__(self, head: Discrete, width: int, chunk: int, commands: int) -> None:
        super().__init__()
        self.head = head
        self.shape = (chunk, commands, head.alternatives)
        self.actions = {"number": chunk * commands, "action": chunk, "chunk": 1}[head.level]
        self.provides = frozenset({"entropy", "kl"} | ({"distribution"} if head.level == "number" else set()))
        self.out = nn.Linear(width, chunk * commands * head.alternatives)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def logits(self, hidden: Float[Tensor, "R W"]) -> Float[Tensor, "R k D V"]:
        """Before any temperature."""
        return self.out(hidden).reshape(-1, *self.shape)

    def draw(self, hidden: Float[Tensor, "R W"], scale: Scale, sampling: Sampling, seeds: Sequence[int]) -> Drawn:
        chunk, commands, alternatives = self.shape
        rows, numbers = len(hidden), chunk * commands
        uniform = torch.zeros(rows, numbers) if sampling.deterministic else uniforms(seeds, numbers)
        flat = self.logits(hidden).reshape(rows * numbers, alternatives)
        index, logp = draw(flat, uniform.flatten().to(hidden.device), sampling)
        index = index.reshape(rows, chunk, commands)
        records: list[Any] = [ValueRecord(row.clone(), sampling.temperature) for row in index.cpu()]
        mask = torch.full((self.actions,), not sampling.deterministic)
        return Drawn(self.head.command(index, scale), records, self._joined(logp.reshape(index.shape)), mask)

    def record(self, commands: Float[Tensor, "k D"], scale: Scale, seed: int) -> tuple[Any, int]:
        return ValueRecord(self.head.index(commands, scale).cpu(), 1.0), self.actions

    def score(
        self, hidden: Float[Tensor, "R W"], asked: Asked, other: tuple[HeadNet, Float[Tensor, "R W"]] | None
    ) -> dict[str, Tensor]:
        index, temperature = stacked(asked.records, hidden, self.shape[:2], indices=True)
        logp = tempered(self.logits(hidden), temperature[:, None, None].expand(index.shape))
        tables = {"logp": self._joined(logp.gather(-1, index[..., None])[..., 0])}
        if asked.need.entropy:
            tables["entropy"] = self._joined(entropy(logp))
        if other is not None:
            net, states = other
            assert isinstance(net, DiscreteNet), "the policies have equal heads"
            with torch.no_grad():
                base = tempered(net.logits(states), temperature[:, None, None].expand(index.shape))
            tables["kl"] = self._joined(exact_kl(logp, base))
        if asked.need.distribution and self.head.level == "number":
            tables["distribution"] = logp.detach().flatten(1, 2)
        row, column = asked.row.to(hidden.device), asked.column.to(hidden.device)
        return {name: table[row, column] for name, table in tables.items()}

    def _joined(self, values: Float[Tensor, "R k D"]) -> Float[Tensor, "R C"]:
        """The sum over the numbers that make up an action."""
        return values.reshape(len(values), self.actions, -1).sum(-1)
