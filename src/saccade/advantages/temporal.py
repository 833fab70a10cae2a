"""Advantages from the course of rewards over time.

Time passes with trainable actions only: over forced or deterministic actions (mask False) neither discount nor trace
decays, and what such an action is paid counts as pay of the trainable action before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.segments import per_turn, spread_turns


@dataclass(frozen=True)
class GAE(Advantage):
    """Generalised advantage estimation (arXiv:1506.02438).

    ``delta_t = r_t + discount V_{t+1} - V_t``,  ``A_t = delta_t + discount lam A_{t+1}``

    V after the last action is ``batch.final_value`` where the episode was cut off (``batch.truncated``) and 0 where it
    ended. V_{t+1} and A_{t+1} are those of the next trainable action.
    """

    discount: float = 1.0
    """In [0, 1]; 1 is usual for text."""
    lam: float = 0.95
    """In [0, 1]; 0 is one-step temporal difference, 1 is return minus value."""

    def __post_init__(self) -> None:
        _check_fraction("discount", self.discount)
        _check_fraction("lam", self.lam)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"value"})

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        assert batch.value is not None and batch.final_value is not None, "values are filled in before advantages"
        final = torch.where(batch.truncated, batch.final_value.detach(), 0.0)
        return _scan(batch.reward, batch.value.detach(), final, batch.mask, self.discount, self.lam)


@dataclass(frozen=True)
class DiscountedReturn(Advantage):
    """Discounted reward to go, without baseline.

    ``A_t = sum_{u >= t} discount^{u - t} r_u``, u and t counted in trainable actions

    REINFORCE++ (arXiv:2501.03262) is ``BatchWhiten(DiscountedReturn(1.0))``.
    """

    discount: float = 1.0
    """In [0, 1]."""

    def __post_init__(self) -> None:
        _check_fraction("discount", self.discount)

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        reward = batch.reward
        return _scan(reward, torch.zeros_like(reward), torch.zeros_like(reward[:, 0]), batch.mask, self.discount, 1.0)


@dataclass(frozen=True)
class TurnReturn(Advantage):
    """Discounted reward to go at the granularity of turns; all actions of a turn share its credit.

    ``A_it = G_i,k(t) - b_k``,  ``G_ik = sum_{l >= k} discount^{l - k} R_il`` with R_il the reward paid in turn l

    The group baseline b_k is the mean of G_jk over the trained members j of the group that acted in turn k.
    """

    discount: float = 1.0
    """Per turn, in [0, 1]."""
    baseline: Literal["none", "group"] = "none"

    def __post_init__(self) -> None:
        _check_fraction("discount", self.discount)

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        returns = per_turn(batch.reward.double(), batch.turn)
        for k in reversed(range(returns.shape[1] - 1)):
            returns[:, k] += self.discount * returns[:, k + 1]
        if self.baseline == "group":
            acted = (per_turn(batch.real.double(), batch.turn) > 0) & batch.trained[:, None]
            sums = returns.new_zeros(len(batch.prompts), returns.shape[1])
            total = sums.index_add(0, batch.group, torch.where(acted, returns, 0.0))
            count = sums.index_add(0, batch.group, acted.double())
            returns = returns - (total / count.clamp(min=1))[batch.group]
        return torch.where(batch.mask, spread_turns(returns, batch.turn), 0.0).to(batch.old_logp.dtype)


def _scan(
    reward: Float[Tensor, "N T"],
    value: Float[Tensor, "N T"],
    final: Float[Tensor, "N"],
    mask: Bool[Tensor, "N T"],
    discount: float,
    lam: float,
) -> Float[Tensor, "N T"]:
    """Generalised advantage estimation over the trainable actions, backwards over columns."""
    advantage = torch.zeros_like(reward)
    next_value, next_advantage, pending = final, torch.zeros_like(final), torch.zeros_like(final)
    for t in reversed(range(reward.shape[1])):
        acts, paid = mask[:, t], pending + reward[:, t]
        delta = paid + discount * next_value - value[:, t]
        current = delta + discount * lam * next_advantage
        advantage[:, t] = torch.where(acts, current, 0.0)
        next_advantage = torch.where(acts, current, next_advantage)
        next_value = torch.where(acts, value[:, t], next_value)
        pending = torch.where(acts, 0.0, paid)
    return advantage


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must be in [0, 1], got {value}")
