"""Descriptions of optimisers; ``build`` makes the torch object."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Optimiser(ABC):
    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """A torch optimiser.

        Args:
            groups: torch's parameter groups: ``params``, and ``lr`` where it is not the general one.
            lr: the general learning rate.
        """


@dataclass(frozen=True)
class AdamW(Optimiser):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def build(self, groups: Sequence[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)
