"""Commands and states in units of the demonstrations: linear maps between their quantiles and [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class Quantiles:
    """``z = 2 (a - low) / (high - low) - 1``,  ``a = low + (z + 1) / 2 (high - low)``  for every dimension.

    The rule of OpenVLA (arXiv:2406.09246), whose low and high are the 1 % and 99 % quantiles of the demonstrations.
    """

    low: tuple[float, ...] = (-1.0,)
    """One number for each dimension or one for all; what holds until statistics are fitted."""
    high: tuple[float, ...] = (1.0,)
    leave: tuple[int, ...] = ()
    """Dimensions that fitting leaves at [-1, 1], such as the gripper's; negative ones count from the end."""
    tail: float = 0.01
    """Share of the demonstrations below ``low``, and above ``high``, when they are fitted."""

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise ConfigError(f"low and high must have one length, got {len(self.low)} and {len(self.high)}")
        if not all(a <= b for a, b in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"low must be <= high, got {self.low} and {self.high}")
        if not 0 <= self.tail < 0.5:
            raise ConfigError(f"tail must be in [0, 0.5), got {self.tail}")

    def check(self, name: str, dimensions: int) -> None:
        """Raise ``ConfigError`` unless this fits numbers of so many dimensions."""
        if len(self.low) not in (1, dimensions):
            raise ConfigError(f"{name}.low must have 1 or {dimensions} numbers, got {len(self.low)}")
        wrong = [d for d in self.leave if not -dimensions <= d < dimensions]
        if wrong:
            raise ConfigError(f"{name}.leave must hold dimensions of {dimensions}, got {wrong[0]}")


class Scale(nn.Module):
    """The map as buffers, saved with the weights."""

    low: Tensor
    high: Tensor

    def __init__(self, rule: Quantiles, dimensions: int) -> None:
        super().__init__()
        self.rule = rule
        self.register_buffer("low", torch.tensor(rule.low).expand(dimensions).clone())
        self.register_buffer("high", torch.tensor(rule.high).expand(dimensions).clone())

    def encode(self, value: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """``z`` of a; a dimension whose quantiles are equal is only shifted."""
        span = self.high - self.low
        return 2 * (value.to(span) - self.low) / torch.where(span > 0, span, 2.0) - 1

    def decode(self, z: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """``a`` of z; constant in a dimension whose quantiles are equal."""
        return self.low + (z.to(self.low) + 1) / 2 * (self.high - self.low)

    def fit(self, values: Any) -> None:
        """Take over the quantiles of these values, ``[M, D]``.

        Raises:
            DataError: another shape, no rows, or a number that is not finite.
        """
        found = np.asarray(values, dtype=np.float64)
        dimensions = len(self.low)
        if found.ndim != 2 or found.shape[1] != dimensions or not len(found):
            raise DataError(f"quantiles need values of shape [M, {dimensions}], got {list(found.shape)}")
        if not np.isfinite(found).all():
            raise DataError("quantiles need finite values")
        low, high = np.quantile(found, [self.rule.tail, 1 - self.rule.tail], axis=0)
        left = list(self.rule.leave)
        low[left], high[left] = -1.0, 1.0
        self.low.copy_(torch.from_numpy(low))
        self.high.copy_(torch.from_numpy(high))
