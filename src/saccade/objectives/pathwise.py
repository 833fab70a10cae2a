"""Objectives that differentiate a reward through the sampler: no log-probability, no advantage.

They draw images of their own for the batch's prompts, one for each trajectory, under seeds derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.errors import ConfigError
from saccade.core.objective import Loss, Objective
from saccade.core.policy import LogProbs
from saccade.core.random import fold_in, torch_generator
from saccade.core.reward import DifferentiableReward
from saccade.core.trajectory import Context, Prompt


@dataclass(frozen=True)
class RewardGradient(Objective):
    """Reward through the last steps of the chain: DRaFT-K (arXiv:2309.17400).  ``L = -coef mean_i R(x_i)``"""

    reward: DifferentiableReward
    last: int = 1
    """K: steps that carry gradient."""
    coef: float = 1.0

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError(f"last must be >= 1, got {self.last}")
        _check_coef(self.coef)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"pathwise"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        mean = batch.mean_trajectories(_rewards(self.reward, batch, out, {"keep_last": self.last}))
        return Loss(-self.coef * mean, {"reward": mean.detach()})


@dataclass(frozen=True)
class OneStepReward(Objective):
    """Reward of the image predicted at one step of the chain: ReFL (arXiv:2304.05977).

    ``L = coef mean_i max(0, cap - R(x0hat_k))``,  ``k ~ U{first, ..., last}``  anew for every optimiser batch

    Steps before k run without gradient, those after it not at all.
    """

    reward: DifferentiableReward
    first: int
    """Earliest step k; the chain's first step is 0."""
    last: int
    """Latest step k."""
    cap: float = 2.0
    """Images with a higher reward are not improved further; ``inf`` is no cap, and then ``L = -coef mean R``."""
    coef: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ConfigError(f"OneStepReward needs 0 <= first <= last, got {self.first} and {self.last}")
        _check_coef(self.coef)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"pathwise"})

    def __call__(self, batch: Batch, out: LogProbs) -> Loss:
        generator = torch_generator(fold_in(batch.progress.step, "one step"))
        k = int(torch.randint(self.first, self.last + 1, (), generator=generator))
        reward = _rewards(self.reward, batch, out, {"keep_last": 1, "stop": k})
        short = torch.relu(self.cap - reward) if self.cap < float("inf") else -reward
        stats = {
            "reward": batch.mean_trajectories(reward.detach()),
            "capped": batch.mean_trajectories((reward >= self.cap).to(reward.dtype)),
        }
        return Loss(self.coef * batch.mean_trajectories(short), stats)


def _rewards(reward: DifferentiableReward, batch: Batch, out: LogProbs, how: Mapping[str, int]) -> Float[Tensor, "N"]:
    images, prompts = drawn(batch, out, how)
    return reward.differentiable(images, prompts)


def drawn(batch: Batch, out: LogProbs, how: Mapping[str, int]) -> tuple[Float[Tensor, "N 3 H W"], list[Prompt]]:
    """An image with gradient for each trajectory, under its own seed at this step, and its prompt."""
    assert out.draw is not None, "the policy's sampler is handed on where an objective requires it"
    prompts = [batch.prompts[g] for g in batch.group.tolist()]
    seeds = [fold_in(trajectory.seed, "pathwise", batch.progress.step) for trajectory in batch.trajectories]
    return out.draw([Context(prompt) for prompt in prompts], n=1, seeds=seeds, **how), prompts


def _check_coef(coef: float) -> None:
    if not coef >= 0:
        raise ConfigError(f"coef must be >= 0, got {coef}")
