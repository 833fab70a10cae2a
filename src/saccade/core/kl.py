"""Estimators of KL(policy || reference) from the log-probabilities of actions that were sampled from the policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_LOG_RATIO = 20.0
_MOST = 10.0


@dataclass(frozen=True)
class Estimator(ABC):
    """One number per action; with ``d = logp - ref_logp`` (Schulman, "Approximating KL divergence", 2020)."""

    @abstractmethod
    def __call__(self, logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]: ...


@dataclass(frozen=True)
class K1(Estimator):
    """``d``: unbiased, of either sign, high variance. Differentiated as a loss its expected gradient is zero."""

    def __call__(self, logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return logp - ref_logp


@dataclass(frozen=True)
class K2(Estimator):
    """``d^2 / 2``: biased, low variance. Differentiated as a loss it gives the gradient of KL(policy || reference)."""

    def __call__(self, logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (logp - ref_logp) ** 2 / 2


@dataclass(frozen=True)
class K3(Estimator):
    """``exp(-d) - 1 + d``: unbiased, never negative, low variance.

    ``d`` is clamped to [-20, 20] and the result to at most 10, as in verl's low-variance KL. Differentiated as a loss
    it gives the gradient of KL(reference || policy).
    """

    def __call__(self, logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        difference = (ref_logp - logp).clamp(-_LOG_RATIO, _LOG_RATIO)
        return (torch.expm1(difference) - difference).clamp(max=_MOST)
