"""Group advantages of turns: what a turn was paid, compared with what other members of the group were paid then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.advantages.group import GroupNorm
from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.segments import per_turn, reverse_cumsum, spread_turns


@dataclass(frozen=True)
class StepNorm(Advantage):
    """Pay of a turn standardised over the group at that turn: the step level of TGRPO (arXiv:2506.08440).

    ``A_it = (x_ik - mean_g x_k) / (std_g x_k + eps)``,  k the turn of action t

    with ``x_ik`` the reward paid in turn k, or all that is paid from turn k on. Statistics are over the trained members
    of the group that acted in turn k: TGRPO ends all members together, others drop out of it as they end. A turn in
    which one member acted alone gets 0.
    """

    of: Literal["reward", "return"] = "reward"
    """What is compared; "reward" in TGRPO."""
    eps: float = 1e-4
    """Added to the standard deviation."""
    ddof: int = 1
    """1 for the sample standard deviation (TGRPO), 0 for the population's."""

    def __post_init__(self) -> None:
        if self.of not in ("reward", "return"):
            raise ConfigError(f'of must be "reward" or "return", got {self.of!r}')
        GroupNorm(eps=self.eps, ddof=self.ddof)

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        paid = per_turn(batch.reward.double(), batch.turn)
        x = reverse_cumsum(paid) if self.of == "return" else paid
        acted = (per_turn(batch.real.double(), batch.turn) > 0) & batch.trained[:, None]

        def over_group(values: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
            """Sum over the members that acted."""
            sums = values.new_zeros(len(batch.prompts), values.shape[1])
            return sums.index_add(0, batch.group, torch.where(acted, values, 0.0))[batch.group]

        count = over_group(torch.ones_like(x))
        centred = torch.where(acted, x - over_group(x) / count.clamp(min=1), 0.0)
        std = (over_group(centred**2) / (count - self.ddof).clamp(min=1)).sqrt()
        advantage = spread_turns(centred / (std + self.eps), batch.turn)
        return torch.where(batch.mask, advantage, 0.0).to(batch.old_logp.dtype)


@dataclass(frozen=True)
class Mixed(Advantage):
    """``A = a A_step + b A_trajectory``,  TGRPO's fusion of both levels (arXiv:2506.08440) with its weights.

    ``A_trajectory`` is the outcome standardised within the group, with n - 1. Where every turn of all members is paid
    alike, only the trajectory level is left.
    """

    step: Advantage = StepNorm()
    trajectory: Advantage = GroupNorm(ddof=1)
    a: float = 0.3
    b: float = 0.7

    @property
    def requires(self) -> frozenset[str]:
        return self.step.requires | self.trajectory.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        return self.a * self.step(batch) + self.b * self.trajectory(batch)
