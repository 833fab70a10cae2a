"""Advantages that wrap another: some change the rewards it sees, some change what it returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.kl import K1, Estimator
from saccade.core.segments import group_max, group_mean, last_action


@dataclass(frozen=True)
class Clip(Advantage):
    """``A' = clip(A, -limit, limit)``"""

    inner: Advantage
    limit: float = 5.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ConfigError(f"limit must be > 0, got {self.limit}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        return self.inner(batch).clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class Extremes(Advantage):
    """Only the best and the worst of each group are learned from, and only if they stand out.

    ``A'_i = A_i`` where ``A_i = max_g A >= high`` or ``A_i = min_g A < low``, 0 elsewhere

    B2-DiffuRL's choice among branches (arXiv:2503.11240); members that tie for an extreme all stay. ``inner`` gives all
    actions of a trajectory the same advantage.
    """

    inner: Advantage
    high: float = 0.5
    low: float = -0.5

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ConfigError(f"low must be <= high, got {self.low} and {self.high}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        advantage = self.inner(batch)
        one = (advantage * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
        best = group_max(torch.where(batch.trained, one, -torch.inf), batch.group)
        worst = -group_max(torch.where(batch.trained, -one, -torch.inf), batch.group)
        kept = ((one == best) & (one >= self.high)) | ((one == worst) & (one < self.low))
        return torch.where(kept[:, None], advantage, 0.0)


@dataclass(frozen=True)
class BatchWhiten(Advantage):
    """Standardised over all trainable actions of the batch, so that long trajectories count more.

    ``A' = (A - mean A) / sqrt(var A + eps)``, var with n - 1

    ``BatchWhiten(DiscountedReturn(1.0))`` is the advantage of REINFORCE++ (arXiv:2501.03262),
    ``BatchWhiten(GroupCentre())`` that of its baseline variant; PPO implementations whiten GAE the same way.
    """

    inner: Advantage
    eps: float = 1e-8
    """Added to the variance."""

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ConfigError(f"eps must be > 0, got {self.eps}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        advantage = self.inner(batch)
        x, count = advantage.double(), batch.mask.sum()
        centred = torch.where(batch.mask, x - x.sum() / count.clamp(min=1), 0.0)
        variance = (centred**2).sum() / (count - 1).clamp(min=1)
        return (centred / (variance + self.eps).sqrt()).to(advantage.dtype)


@dataclass(frozen=True)
class LengthPenalty(Advantage):
    """Soft punishment of overlong trajectories as one more reward (DAPO, arXiv:2503.14476).

    With n actions in the trajectory, ``r = -clip((n - (limit - buffer)) / buffer, 0, 1)``, paid at the last action.
    The stream is called ``overlong``.
    """

    inner: Advantage
    limit: int
    """Length from which the punishment is full, in actions."""
    buffer: int
    """Length over which it rises, in actions; at most ``limit``."""
    factor: float = 1.0
    """Weight of the stream."""

    def __post_init__(self) -> None:
        if not 1 <= self.buffer <= self.limit:
            raise ConfigError(f"buffer must be in [1, limit], got {self.buffer} with limit {self.limit}")
        if not self.factor >= 0:
            raise ConfigError(f"factor must be >= 0, got {self.factor}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        excess = (batch.length - (self.limit - self.buffer)).to(batch.old_logp.dtype) / self.buffer
        stream = torch.where(last_action(batch.turn), -excess.clamp(0, 1)[:, None], 0.0)
        return self.inner(batch.adding("overlong", stream, self.factor))


@dataclass(frozen=True)
class Difficulty(Advantage):
    """Success on hard tasks and failure on easy ones weigh more (GRPO-LEAD, arXiv:2504.09696).

    ``A' = A w(rho)`` where A > 0, ``A w(1 - rho)`` elsewhere,
    ``w(x) = low + (high - low) / (1 + exp(slope (x - middle)))``

    rho is the group's mean outcome as a share of ``solved``, in [0, 1]. The defaults are the paper's.
    """

    inner: Advantage
    low: float = 0.4
    """Weight of success on the easiest tasks."""
    high: float = 1.5
    """Weight of success on the hardest tasks."""
    middle: float = 0.75
    """Success rate half way between both."""
    slope: float = 10.0
    solved: float = 1.0
    """Outcome of a solved task."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(f"low must be in [0, high], got {self.low} with high {self.high}")
        if not self.slope >= 0:
            raise ConfigError(f"slope must be >= 0, got {self.slope}")
        if not self.solved > 0:
            raise ConfigError(f"solved must be > 0, got {self.solved}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        advantage = self.inner(batch)
        rate = (group_mean(batch.outcome, batch.group, batch.trained) / self.solved).clamp(0, 1)[:, None]
        return advantage * torch.where(advantage > 0, self._weight(rate), self._weight(1 - rate))

    def _weight(self, rate: Float[Tensor, "N 1"]) -> Float[Tensor, "N 1"]:
        return self.low + (self.high - self.low) * torch.sigmoid(-self.slope * (rate - self.middle))


@dataclass(frozen=True)
class KLInReward(Advantage):
    """Divergence from the reference as a cost of each action (arXiv:1909.08593).

    ``r'_t = r_t - coef KL_t``, KL_t estimated from old_logp and ref_logp of the action

    The stream is called ``kl``. With k1 the expected gradient is that of KL(policy || reference).
    """

    inner: Advantage
    coef: float = 0.05
    estimator: Estimator = K1()

    def __post_init__(self) -> None:
        if not self.coef >= 0:
            raise ConfigError(f"coef must be >= 0, got {self.coef}")

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires | {"ref_logp"}

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        assert batch.ref_logp is not None, "reference log-probabilities are filled in before advantages"
        divergence = torch.where(batch.mask, self.estimator(batch.old_logp, batch.ref_logp), 0.0)
        return self.inner(batch.adding("kl", divergence, -self.coef))
