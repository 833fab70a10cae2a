"""Which tokens may come next in turns that are being written."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Grammar(Protocol):
    """Follows N turns token by token."""

    def allowed(self) -> Bool[Tensor, "N V"] | None:
        """What may come next in each turn, at least one token; None: any."""
        ...

    def step(self, token: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """Take the next token of each turn; whether the turn is over by it, besides by the policy's end token."""
        ...

    def keep(self, index: Int[Tensor, "n"]) -> None:
        """Forget all other turns; ``index`` is increasing."""
        ...


class Free:
    """Any token anywhere."""

    def allowed(self) -> None:
        return None

    def step(self, token: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        return torch.zeros_like(token, dtype=torch.bool)

    def keep(self, index: Int[Tensor, "n"]) -> None:
        return
