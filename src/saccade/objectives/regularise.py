"""Objectives that stand beside a policy gradient: divergence terms, entropy, the critic's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.kl import K1, K2, K3, Estimator
from saccade.core.objective import Around, Loss, Objective, View
from saccade.core.policy import LogProbs
from saccade.core.schedule import Constant, Schedule

_ESTIMATORS: Mapping[str, Estimator] = {"k1": K1(), "k2": K2(), "k3": K3()}


@dataclass(frozen=True)
class Scheduled(Around):
    """Another objective times a factor that changes with progress.  ``L = schedule inner``

    ``Scheduled(PPOClip(), After(20))`` leaves the first steps to the value function alone.
    """

    schedule: Schedule

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        loss = self.inner(batch, out)
        return Loss(self.schedule(batch.progress) * loss.value, loss.stats)


@dataclass(frozen=True)
class KLToReference(Objective):
    """Divergence from the reference policy.  ``L = coef mean KL_t``

    Estimators, with ``d = logp - ref_logp``: k1 ``d``, k2 ``d^2 / 2``, k3 ``exp(-d) - 1 + d`` (clamped, see
    ``saccade.core.kl``); "exact" is the policy's own KL over all alternatives. In expectation over on-policy actions
    k3 (GRPO's) pulls along the gradient of KL(reference || policy), k2 and "exact" along that of
    KL(policy || reference), and k1 not at all: k1 belongs into the reward.
    """

    coef: float = 0.04
    estimator: Literal["k1", "k2", "k3", "exact"] = "k3"
    coef_schedule: Schedule = Constant()
    """Multiplies ``coef``."""

    def __post_init__(self) -> None:
        _check_coef(self.coef)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"kl" if self.estimator == "exact" else "ref_logp"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        mean = batch.mean_actions(self._divergence(batch, out))
        return Loss(self.coef * self.coef_schedule(batch.progress) * mean, {"kl": mean.detach()})

    def _divergence(self, batch: Batch, out: LogProbs) -> Float[Tensor, "N T"]:
        if self.estimator == "exact":
            assert out.kl is not None, "the exact KL is computed where an objective requires it"
            return out.kl
        assert batch.ref_logp is not None, "reference log-probabilities are filled in before the loss"
        return _ESTIMATORS[self.estimator](out.logp, batch.ref_logp)


@dataclass(frozen=True)
class KLBetweenViews(Objective):
    """Divergence between the policy on a prompt and on an altered view of it.  ``L = coef mean k3(logp, view's logp)``

    A negative ``coef`` pushes them apart, so that actions must depend on what the view hides: the implicit perception
    loss of PAPO (arXiv:2507.06448) with a view that masks the image. A positive one makes the policy insensitive to it.
    """

    view: View
    coef: float = -0.01
    coef_schedule: Schedule = Constant()
    """Multiplies ``coef``."""
    name: str = "view"
    """Key of the view's evaluation; differs between objectives that look at different views."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.coef):
            raise ConfigError(f"coef must be finite, got {self.coef}")

    @property
    def views(self) -> Mapping[str, View]:
        return {self.name: self.view}

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        mean = batch.mean_actions(K3()(out.logp, out.views[self.name].logp))
        return Loss(self.coef * self.coef_schedule(batch.progress) * mean, {"kl": mean.detach()})


@dataclass(frozen=True)
class EntropyBonus(Objective):
    """Rewards spread-out action distributions.  ``L = -coef mean H_t``"""

    coef: float = 0.01
    coef_schedule: Schedule = Constant()
    """Multiplies ``coef``."""

    def __post_init__(self) -> None:
        _check_coef(self.coef)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert out.entropy is not None, "entropies are computed where an objective requires them"
        mean = batch.mean_actions(out.entropy)
        return Loss(-self.coef * self.coef_schedule(batch.progress) * mean, {"entropy": mean.detach()})


@dataclass(frozen=True)
class ValueLoss(Objective):
    """The critic's regression on returns, with PPO's clip (arXiv:1707.06347 and its reference code).

    ``L = coef mean 0.5 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)``,  ``R = A + V_old``
    """

    returns: Advantage
    """Estimator of A from the rollout, such as ``GAE(...)``, not whitened. It sees micro-batches: an advantage that
    depends on more than its own trajectory does not belong here."""
    clip: float = 0.2
    """How far V may move from its value at the rollout and still gain; ``inf`` for plain regression."""
    coef: float = 0.1

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ConfigError(f"clip must be > 0, got {self.clip}")
        _check_coef(self.coef)

    @property
    def requires(self) -> frozenset[str]:
        return self.returns.requires | {"value"}

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        assert batch.value is not None and out.value is not None, "values are computed where an objective requires them"
        old = batch.value.detach()
        target = torch.where(batch.mask, self.returns(batch).detach() + old, 0.0)
        near = old + (out.value - old).clamp(-self.clip, self.clip)
        free, clipped = (out.value - target) ** 2, (near - target) ** 2
        value = self.coef * 0.5 * batch.mean_actions(torch.maximum(free, clipped))
        stats = {
            "value_error": batch.mean_actions((out.value - target).detach().abs()),
            "clip_fraction": batch.mean_actions((clipped > free).to(free.dtype)),
        }
        return Loss(value, stats)


def _check_coef(coef: float) -> None:
    if not (coef >= 0 and math.isfinite(coef)):
        raise ConfigError(f"coef must be >= 0 and finite, got {coef}")
