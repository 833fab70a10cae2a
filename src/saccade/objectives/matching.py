"""Forward-process objectives: signed weights on the error of denoising finished samples.

Under a surrogate likelihood an action is a draw of (time, noise), and with its matching error e and a plain weighting
``logp = -e``. Beside it stand the error of a fixed policy, ``ref_logp = -e_old``, and the mean squared distance d of
the two policies' predictions at the same draw, ``out.kl``. Then every method here has a gradient of the form

    grad L = sum_it weight_it (w_it grad e_it + u_it grad d_it)

with numbers w and u that carry no gradient: w > 0 pulls the model towards a sample, w < 0 pushes it away.

| method | objective | w | u |
| --- | --- | --- | --- |
| supervised fine-tuning | ``NLL()`` | 1 | |
| reward-weighted regression | ``RewardWeighted(beta)`` | min(exp(A / beta), cap) | |
| filtered fine-tuning (RAFT) | ``Filtered(c)`` | 1[A > c] | |
| AWM | ``PPOClip(1, 1)``, ``KLToReference("exact")`` | A r h'(e) inside the clip | coef |
| DiffusionNFT | ``NFT(b)`` | c (q / n+ - (1 - q) / n-) | c ((1 - q) (1 + b) / n- - q (1 - b) / n+), c = limit |
| Diffusion-DPO | ``DPO(beta)`` | +-beta sigma(-z), winner and loser | |
| Diffusion-KTO | ``BatchKTO(beta)`` | y w beta h (1 - h), h = sigma(y beta (G - Q)) | |
| Diffusion-RPO | ``RelativeDPO(beta, tau)`` | beta sum_h w_gh sigma(-z_gh) and its transpose | |

For AWM ``logp = -h(e)`` with a generalised Huber weighting h and ``r = exp(logp - old_logp)``. For DPO, KTO and RPO one
number stands for all K draws of a sample: logp is summed over them, so that the beta of Diffusion-DPO's code, 5000
with a factor of 1/2 and one draw, is ``5000 / (2 K)`` here. Weights are per trajectory there and per action in the
first five rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Around, Loss, Objective
from saccade.core.policy import LogProbs

_LEAST = 1e-5
"""Smallest normaliser of a branch, as in NFT's code."""


@dataclass(frozen=True, eq=False)
class SignedWeights:
    """What an objective's gradient is made of, times the batch's averaging weights; without gradient."""

    error: Float[Tensor, "N T"]
    """dL / de"""
    distance: Float[Tensor, "N T"]
    """dL / dd"""


def signed_weights(objective: Objective, batch: Batch, out: LogProbs) -> tuple[SignedWeights, Loss]:
    """The weights on errors ``e = -logp`` and distances ``d = kl`` that an objective stands for, and its loss."""
    with torch.enable_grad():
        logp = out.logp.detach().requires_grad_()
        kl = torch.zeros_like(logp) if out.kl is None else out.kl.detach()
        kl.requires_grad_()
        loss = objective(batch, replace(out, logp=logp, kl=kl))
        if not loss.value.requires_grad:
            return SignedWeights(torch.zeros_like(logp), torch.zeros_like(kl)), loss
        rise, distance = torch.autograd.grad(loss.value, (logp, kl), allow_unused=True, materialize_grads=True)
    return SignedWeights(-rise, distance), loss


@dataclass(frozen=True)
class Matching(Around):
    """Another objective as signed, detached weights on errors and distances.  ``L = sum_it (w e + u d)``

    Gradient and meaning are the inner objective's; what is added is a record of what it does: ``pull`` and ``push``,
    the total weights towards samples and away from them, and ``value``, the inner loss.
    """

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        weights, loss = signed_weights(self.inner, batch, out)
        value = (weights.error * -out.logp).sum()
        if out.kl is not None:
            value = value + (weights.distance * out.kl).sum()
        own = {
            "value": loss.value.detach(),
            "pull": weights.error.clamp(min=0).sum(),
            "push": -weights.error.clamp(max=0).sum(),
        }
        return Loss(value, own | loss.stats)


@dataclass(frozen=True)
class NFT(Objective):
    """Negative-aware fine-tuning of a flow (DiffusionNFT, arXiv:2509.16117).

    ``L = mean limit (q l+ / n+ + (1 - q) l- / n-) / beta``,  ``q = clip(A / (2 limit) + 1/2, 0, 1)``

    l+ is the error of the mixture ``v+ = (1 - beta) v_old + beta v``, l- that of the implicit model of what is to be
    avoided, ``v- = (1 + beta) v_old - beta v``:

        l+ = (1 - beta) e_old + beta e - beta (1 - beta) d,    l- = (1 + beta) e_old - beta e + beta (1 + beta) d

    v_old is the reference policy. n = max(sqrt(l), 1e-5) without gradient, where the paper's code has the mean absolute
    error in place of the root of the mean squared one. Errors are to be those of the predicted image: for a flow
    ``NoiseWeighting(power=2)``.
    """

    unit: ClassVar[Literal["trajectory", "group", "batch"]] = "trajectory"
    beta: float = 1.0
    """How far the mixtures lie from the old policy: 1 in the paper, 0.1 for text rendering and several rewards."""
    limit: float = 5.0
    """Advantage at which a sample is all good."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta must be > 0, got {self.beta}")
        if not self.limit > 0:
            raise ConfigError(f"limit must be > 0, got {self.limit}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"advantage", "ref_logp", "kl"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        good, positive, negative = self.branches(batch, out)
        loss = good * _normalised(positive) + (1 - good) * _normalised(negative)
        stats = {
            "good": batch.mean_actions(good),
            "positive": batch.mean_actions(positive.detach()),
            "negative": batch.mean_actions(negative.detach()),
        }
        return Loss(self.limit / self.beta * batch.mean_actions(loss), stats)

    def branches(
        self, batch: Batch, out: LogProbs
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"], Float[Tensor, "N T"]]:
        """q, l+ and l-."""
        assert batch.advantage is not None and batch.ref_logp is not None, "streams are filled in before the loss"
        assert out.kl is not None, "distances are computed where an objective requires them"
        good = (batch.advantage / (2 * self.limit) + 0.5).clamp(0, 1)
        error, old, distance, b = -out.logp, -batch.ref_logp, out.kl, self.beta
        positive = (1 - b) * old + b * error - b * (1 - b) * distance
        negative = (1 + b) * old - b * error + b * (1 + b) * distance
        return good, positive, negative


@dataclass(frozen=True)
class PositiveNFT(NFT):
    """``NFT`` without its negative branch: imitation of good samples.  ``L = mean limit q l+ / (beta n+)``"""

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        good, positive, _ = self.branches(batch, out)
        loss = self.limit / self.beta * batch.mean_actions(good * _normalised(positive))
        return Loss(loss, {"good": batch.mean_actions(good), "positive": batch.mean_actions(positive.detach())})


def _normalised(squared: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    return squared / squared.detach().clamp(min=0).sqrt().clamp(min=_LEAST)
