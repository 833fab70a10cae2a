"""Two gradients through what is drawn: a prior's from the start, a reward's later and of the same magnitude."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Loss, Objective
from saccade.core.policy import LogProbs
from saccade.core.reward import DifferentiableReward
from saccade.objectives.pathwise import drawn


@dataclass(frozen=True)
class LateGuidance(Objective):
    """Render-and-score guidance of DreamFL (DreamReward, arXiv:2403.14613).

    ``L = L_prior + s L_reward``,  ``L_prior = -mean_i P(x_i)``,  ``L_reward = mean_i max(0, cap - R(x_i))``

    s is 0 until ``start`` of the run, then ``share 10^(digits(L_prior) - digits(L_reward))`` without gradient, with
    ``digits(a) = floor(log10 |a|)``, anew for each optimiser batch; from ``alone`` of the run on the loss is
    ``L_reward``. Both terms look at the same images.
    """

    unit = "batch"

    prior: DifferentiableReward
    """P, at most 0."""
    reward: DifferentiableReward
    start: float = 0.6
    """Part of the run without reward; 0.6 in the paper's code, 0.1 with ``share`` 0.3 in its aggressive preset."""
    alone: float = 0.98
    """Part of the run with prior."""
    share: float = 0.6
    cap: float = 4.0
    """Images with a higher reward are not improved further."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.alone <= 1:
            raise ConfigError(f"objective needs 0 <= start <= alone <= 1, got {self.start} and {self.alone}")
        if not self.share >= 0:
            raise ConfigError(f"share must be >= 0, got {self.share}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"pathwise"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        images, prompts = drawn(batch, out, {})
        prior = -batch.mean_trajectories(self.prior.differentiable(images, prompts))
        part = batch.progress.fraction
        with torch.set_grad_enabled(torch.is_grad_enabled() and part >= self.start):
            scores = self.reward.differentiable(images, prompts)
        short = batch.mean_trajectories(torch.relu(self.cap - scores))
        if part < self.start:
            scale, total = 0.0, prior
        elif part < self.alone:
            scale = self.share * 10.0 ** (_digits(prior) - _digits(short))
            total = prior + scale * short
        else:
            scale, total = 1.0, short
        stats = {
            "prior": prior.detach(),
            "reward": batch.mean_trajectories(scores.detach()),
            "capped": batch.mean_trajectories((scores >= self.cap).to(scores.dtype)),
            "scale": prior.detach().new_tensor(scale),
        }
        return Loss(total, stats)


def _digits(loss: torch.Tensor) -> int:
    """Order of magnitude; that of 1 for a loss of 0, which has no gradient to be scaled."""
    size = abs(float(loss.detach()))
    return math.floor(math.log10(size)) if size > 0 else 0
