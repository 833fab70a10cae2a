"""Objectives that look at one kind of action only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Around, Loss
from saccade.core.policy import LogProbs


@dataclass(frozen=True)
class InSegment(Around):
    """Another objective over the actions of one segment, such as a picture's; all others are as if masked out.

    ``L = inner`` with ``mask_it 1[segment_it = segment]`` and ``weight_it 1[segment_it = segment]``: means over actions
    keep their denominators, so that objectives of several segments add up to one over all actions.
    """

    segment: int = 1
    """Kind of action, as the policy counts them."""

    def __post_init__(self) -> None:
        if self.segment < 0:
            raise ConfigError(f"segment must be >= 0, got {self.segment}")

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        inside = batch.mask & (batch.segment == self.segment)

        def kept(x: Tensor | None) -> Tensor | None:
            return None if x is None else torch.where(inside, x, 0.0)

        return self.inner(replace(batch, mask=inside, weight=kept(batch.weight)), out)
