"""Advantages that remember what earlier rollouts of the same task were paid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.errors import ConfigError


@dataclass(frozen=True)
class TaskNorm(Advantage):
    """Outcome standardised by the last outcomes of the same task: the per-prompt statistics of DDPO (arXiv:2305.13301).

    ``A_it = (R_i - mean B) / (std B + eps)``

    B holds this batch's outcomes of the task and the newest earlier ones, up to ``size`` together; while they are fewer
    than ``least``, all outcomes of this batch. Population standard deviation. At most 64 earlier outcomes are known.
    """

    size: int = 16
    least: int = 16
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.size:
            raise ConfigError(f"least must be in [1, size], got {self.least} with size {self.size}")
        if not self.eps > 0:
            raise ConfigError(f"eps must be > 0, got {self.eps}")

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        outcome = batch.outcome.double().cpu()
        trained, group = batch.trained.cpu(), batch.group.cpu()
        own: dict[str, list[float]] = {}
        for g, prompt in enumerate(batch.prompts):
            own.setdefault(prompt.task.id, []).extend(outcome[trained & (group == g)].tolist())
        statistics = torch.zeros(len(batch.prompts), 2, dtype=torch.float64)
        for g, prompt in enumerate(batch.prompts):
            now = own[prompt.task.id]
            earlier = batch.history.recent.get(prompt.task.id, [])
            known = [*earlier[len(earlier) - max(0, self.size - len(now)) :], *now]
            sample = torch.tensor(known, dtype=torch.float64) if len(known) >= self.least else outcome[trained]
            if len(sample):
                statistics[g, 0], statistics[g, 1] = sample.mean(), sample.std(correction=0)
        mean, std = statistics[group].unbind(1)
        advantage = ((outcome - mean) / (std + self.eps)).to(batch.old_logp)
        return torch.where(batch.mask, advantage[:, None], 0.0)
