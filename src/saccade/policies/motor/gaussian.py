"""A head of normal distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.core.errors import ConfigError
from saccade.core.policy import Sampling
from saccade.core.random import torch_generator
from saccade.policies.motor.head import Asked, Drawn, Head, HeadNet, ValueRecord, refuse_nucleus, stacked
from saccade.policies.motor.scale import Quantiles, Scale


@dataclass(frozen=True)
class Gaussian(Head):
    """``z ~ N(mean(state), diag std^2)``,  ``std = least + exp(rho)``,  rho learned, one for each number of a chunk.

    An action is a command:  ``logp = sum over d of log N(z_d; mean_d, (temperature std_d)^2)``.  z is unbounded and in
    units of ``scale``, of which the density is: environments clip, so that what was drawn can be scored exactly.
    """

    std: float = 0.5
    """At first."""
    least: float = 0.02
    """Keeps the density of demonstrations that are all alike finite."""
    units: Quantiles = Quantiles()

    def __post_init__(self) -> None:
        if not 0 < self.least < self.std:
            raise ConfigError(f"head needs 0 < least < std, got {self.least} and {self.std}")

    @property
    def scale(self) -> Quantiles:
        return self.units

    def build(self, width: int, chunk: int, commands: int) -> GaussianNet:
        return GaussianNet(self, width, chunk, commands)


class GaussianNet(HeadNet):
    """The mean is about 0 at first."""

    provides = frozenset({"entropy", "kl"})

    def __init__(self, head: Gaussian, width: int, chunk: int, commands: int) -> None:
        super().__init__()
        self.least = head.least
        self.shape = (chunk, commands)
        self.out = nn.Linear(width, chunk * commands)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        self.rho = nn.Parameter(torch.full(self.shape, math.log(head.std - head.least)))

    @property
    def std(self) -> Float[Tensor, "k D"]:
        """At temperature 1."""
        return self.least + self.rho.exp()

    def mean(self, hidden: Float[Tensor, "R W"]) -> Float[Tensor, "R k D"]:
        return self.out(hidden).reshape(-1, *self.shape)

    def draw(self, hidden: Float[Tensor, "R W"], scale: Scale, sampling: Sampling, seeds: Sequence[int]) -> Drawn:
        refuse_nucleus("Gaussian", sampling)
        mean, std = self.mean(hidden), sampling.temperature * self.std
        z = mean
        if not sampling.deterministic:
            # Always float32 numbers: a policy in double precision meets the same draws.
            noise = torch.stack([torch.randn(self.shape, generator=torch_generator(seed)) for seed in seeds])
            z = mean + std * noise.to(mean)
        records: list[Any] = [ValueRecord(row.clone(), sampling.temperature) for row in z.cpu()]
        mask = torch.full(self.shape[:1], not sampling.deterministic)
        return Drawn(scale.decode(z), records, log_normal(z, mean, std).sum(-1), mask)

    def record(self, commands: Float[Tensor, "k D"], scale: Scale, seed: int) -> tuple[Any, int]:
        return ValueRecord(scale.encode(commands).cpu(), 1.0), self.shape[0]

    def score(
        self, hidden: Float[Tensor, "R W"], asked: Asked, other: tuple[HeadNet, Float[Tensor, "R W"]] | None
    ) -> dict[str, Tensor]:
        z, temperature = stacked(asked.records, hidden, self.shape)
        mean, std = self.mean(hidden), temperature[:, None, None] * self.std
        tables = {"logp": log_normal(z.to(mean), mean, std).sum(-1)}
        if asked.need.entropy:
            tables["entropy"] = (std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        if other is not None:
            net, states = other
            assert isinstance(net, GaussianNet), "the policies have equal heads"
            with torch.no_grad():
                their_mean, their_std = net.mean(states).to(mean), temperature[:, None, None] * net.std.to(mean)
            ratio = (std / their_std) ** 2
            tables["kl"] = 0.5 * (ratio - 1 - ratio.log() + ((mean - their_mean) / their_std) ** 2).sum(-1)
        row, column = asked.row.to(hidden.device), asked.column.to(hidden.device)
        return {name: table[row, column] for name, table in tables.items()}


def log_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``log N(z; mean, std^2)``"""
    return -0.5 * ((z - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
