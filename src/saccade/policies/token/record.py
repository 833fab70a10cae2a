"""What a token policy keeps of a turn."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenRecord:
    """The tokens of one turn, in the vocabulary of the policy that wrote them."""

    ids: Int[Tensor, "T"]
    """int64 on the CPU, one per action; the last is the end-of-turn token unless the turn was cut off."""
    temperature: float = 1.0
    """Log-probabilities are those of the distribution at this temperature."""
