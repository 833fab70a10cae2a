"""Advantages that compare a trajectory's outcome R_i (its reward summed over actions) with the rest of its group.

Group statistics are taken over the trajectories that are trained: those that could not be scored and greedy rollouts
have no trainable action and stay out. They are computed in double precision, so that equal rewards give exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError, ContractError
from saccade.core.segments import group_count, group_mean, group_std, reverse_cumsum


@dataclass(frozen=True)
class GroupNorm(Advantage):
    """Outcome standardised within its group (GRPO, arXiv:2402.03300).

    ``A_it = (R_i - mean_g R) / (std R + eps)``
    """

    scale: Literal["group", "batch"] = "group"
    """Whose standard deviation divides: the group's own (GRPO) or that of all outcomes of the batch."""
    eps: float = 1e-4
    """Added to the standard deviation; 1e-4 in TRL and the R1-V family, 1e-6 in verl."""
    ddof: int = 0
    """1 for the sample standard deviation (most text implementations), 0 for the population's (most image ones)."""

    def __post_init__(self) -> None:
        _check_scale(self.eps, self.ddof)

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        outcome = batch.outcome.double()
        centred = outcome - group_mean(outcome, batch.group, batch.trained)
        scope = batch.group if self.scale == "group" else torch.zeros_like(batch.group)
        std = group_std(outcome, scope, self.ddof, batch.trained)
        return _per_action(batch, centred / (std + self.eps))


@dataclass(frozen=True)
class GroupCentre(Advantage):
    """Outcome minus the group's mean (Dr. GRPO, arXiv:2503.20783).  ``A_it = R_i - mean_g R``"""

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        outcome = batch.outcome.double()
        return _per_action(batch, outcome - group_mean(outcome, batch.group, batch.trained))


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """Outcome minus the mean of the other members (RLOO, arXiv:2402.14740); 0 in a group of one.

    ``A_it = R_i - mean_{j != i} R_j = G / (G - 1) (R_i - mean_g R)``
    """

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        outcome = batch.outcome.double()
        centred = outcome - group_mean(outcome, batch.group, batch.trained)
        size = group_count(batch.group, batch.trained)[batch.group]
        return _per_action(batch, centred * size / (size - 1).clamp(min=1))


@dataclass(frozen=True)
class PerReward(Advantage):
    """Each reward standardised within its group before they are added (GDPO, arXiv:2601.05242).

    ``S_i = sum_k w_k (R_ik - mean_g R_k) / (std_g R_k + eps)``,  ``A_it = (S_i - mean S) / (std S + eps)``

    with reward k's stream summed over actions as R_ik, w_k its weight, and the second mean and standard deviation over
    the batch. A reward of small variance keeps its say; its weight, not its scale, decides how much.
    """

    eps: float = 1e-4
    ddof: int = 1
    """1 for sample standard deviations (TRL's normalise-then-sum), 0 for the population's."""

    def __post_init__(self) -> None:
        _check_scale(self.eps, self.ddof)

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        total = torch.zeros_like(batch.outcome, dtype=torch.float64)
        for name, stream in batch.rewards.items():
            outcome = stream.sum(1).double()
            total = total + batch.reward_weight[name] * self._standardised(outcome, batch.group, batch.trained)
        return _per_action(batch, self._standardised(total, torch.zeros_like(batch.group), batch.trained))

    def _standardised(
        self, x: Float[Tensor, "N"], group: Int[Tensor, "N"], valid: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        return (x - group_mean(x, group, valid)) / (group_std(x, group, self.ddof, valid) + self.eps)


@dataclass(frozen=True)
class GreedyBaseline(Advantage):
    """Reward to go minus the outcome of a greedy rollout of the same task (ReMax, arXiv:2310.10505).

    ``A_it = sum_{u >= t} r_iu - mean R(greedy rollouts of the group)``

    Greedy rollouts are the scored trajectories without a trainable action. A group whose greedy rollouts could not be
    scored has no baseline and gets no advantage.

    Raises:
        ContractError: no group of the batch has a greedy rollout: the feed does not make any.
    """

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        greedy = batch.scored & ~batch.trained
        if not bool(greedy.any()):
            raise ContractError("GreedyBaseline needs a greedy rollout in each group; the feed made none")
        outcome = batch.outcome.double()
        baseline = group_mean(outcome, batch.group, greedy)[:, None]
        known = (group_count(batch.group, greedy) > 0)[batch.group][:, None]
        to_go = reverse_cumsum(batch.reward.double())
        return torch.where(batch.mask & known, to_go - baseline, 0.0).to(batch.old_logp.dtype)


def _per_action(batch: Batch, x: Float[Tensor, "N"]) -> Float[Tensor, "N T"]:
    return torch.where(batch.mask, x[:, None], 0.0).to(batch.old_logp.dtype)


def _check_scale(eps: float, ddof: int) -> None:
    if not eps > 0:
        raise ConfigError(f"eps must be > 0, got {eps}")
    if ddof not in (0, 1):
        raise ConfigError(f"ddof must be 0 or 1, got {ddof}")
