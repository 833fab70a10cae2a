"""Objectives that imitate actions, all of them or those that went well."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Loss, Objective
from saccade.core.policy import LogProbs

_UNSET = "advantages are filled in before the loss"


@dataclass(frozen=True)
class NLL(Objective):
    """Supervised fine-tuning.  ``L = -coef mean logp``"""

    coef: float = 1.0
    """Below 1 where it stands beside another objective."""

    def __post_init__(self) -> None:
        if not self.coef >= 0:
            raise ConfigError(f"coef must be >= 0, got {self.coef}")

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        mean = -batch.mean_actions(out.logp)
        return Loss(self.coef * mean, {"nll": mean.detach()})


@dataclass(frozen=True)
class RewardWeighted(Objective):
    """Imitation weighted by the exponential of the advantage.  ``L = -mean min(exp(A / beta), cap) logp``

    With an outcome advantage this is reward-weighted regression (Peters and Schaal, 2007), its normaliser replaced by
    the advantage's baseline; with a critic's, advantage-weighted regression (arXiv:1910.00177).
    """

    beta: float = 1.0
    """Temperature: small values imitate the best only, large ones everything alike."""
    cap: float = 20.0
    """Largest weight; 20 in the reference code of advantage-weighted regression."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta must be > 0, got {self.beta}")
        if not self.cap > 0:
            raise ConfigError(f"cap must be > 0, got {self.cap}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        weight = (batch.advantage / self.beta).exp().clamp(max=self.cap)
        stats = {"reward_weight": batch.mean_actions(torch.where(batch.mask, weight, 0.0))}
        return Loss(-batch.mean_actions(weight * out.logp), stats)


@dataclass(frozen=True)
class Filtered(Objective):
    """Imitation of what went well (RAFT, arXiv:2304.06767).  ``L = -mean 1[A > threshold] logp``"""

    threshold: float = 0.0
    """Least advantage, exclusive."""

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.advantage is not None, _UNSET
        kept = (batch.mask & (batch.advantage > self.threshold)).to(out.logp.dtype)
        return Loss(-batch.mean_actions(kept * out.logp), {"kept_fraction": batch.mean_actions(kept)})
