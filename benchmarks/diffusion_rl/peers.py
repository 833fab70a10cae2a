"""The loops of ddpo-pytorch and flow_grpo in plain PyTorch, as far as they decide what a sample costs.

Written from a description of what these loops evaluate. Prompt encoders, decoders, mixed precision, LoRA and logging
are left out on all sides.

- ddpo-pytorch: both halves of the guided prediction are in the graph; one sample and one time a forward; all steps.
- flow_grpo: both halves go through the network together with a graph, then the unconditional one is detached, so that
  its activations are stored and its zero gradients multiplied through every layer; a second pair through the reference
  for the divergence; one time a forward; all steps but the last; two updates a rollout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_rl.problem import CLIP, LR, MAX_NORM, Step, sampler
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.denoiser import Conditions, Denoiser


@dataclass(frozen=True)
class Shape:
    """How a loop cuts its work."""

    sampled: int = 0
    """Samples drawn together; 0: a group."""
    trained: int = 0
    """Samples in a forward pass of training; 0: a group."""
    detached: bool = True
    """Whether the unconditional half is detached after the joint forward."""
    beta: float = 0.0
    """Coefficient of the divergence from the reference."""
    tail: int = 1
    """Deterministic steps at the end."""
    updates: int = 2
    """Optimiser steps a rollout."""


@dataclass(eq=False)
class Rollout:
    """Chains of N samples."""

    states: Tensor
    """``[N, T + 1, *latent]``"""
    logp: Tensor
    """``[N, K]`` of the random steps."""
    prompts: list[Prompt]
    """N."""

    def take(self, index: Tensor) -> Rollout:
        return Rollout(self.states[index], self.logp[index], [self.prompts[i] for i in index.tolist()])


class Loop:
    """Rollout and update in a peer's shape."""

    def __init__(
        self,
        network: Denoiser,
        reference: Denoiser,
        shape: Shape,
        *,
        steps: int,
        guidance: float,
        group: int,
        lr: float = LR,
        clip: float = CLIP,
    ) -> None:
        self.network, self.reference, self.shape = network, reference, shape
        self.steps, self.guidance, self.group, self.clip = sampler(steps), guidance, group, clip
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0)

    @property
    def random(self) -> int:
        """K."""
        return len(self.steps) - self.shape.tail

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], generator: torch.Generator) -> Rollout:
        """One chain for each entry of ``prompts``."""
        like = next(self.network.parameters())
        states, logp = [], []
        for rows in torch.arange(len(prompts)).split(self.shape.sampled or self.group):
            told = self.network.condition([prompts[i] for i in rows.tolist()])
            x = torch.randn(len(rows), *self.network.shape, generator=generator).to(like)
            chain, found = [x], []
            for i, step in enumerate(self.steps):
                v = self._velocity(self.network, x, step, told)
                if i < self.random:
                    mean = step.keep * x + step.push * v
                    x = mean + step.std * torch.randn(x.shape, generator=generator).to(like)
                    found.append(log_density(x, mean, step.std))
                else:
                    x = x + step.dt * v
                chain.append(x)
            states.append(torch.stack(chain, 1))
            logp.append(torch.stack(found, 1))
        return Rollout(torch.cat(states), torch.cat(logp), list(prompts))

    def update(self, rollout: Rollout, advantage: Tensor) -> None:
        """The optimiser steps of one rollout."""
        for rows in torch.arange(len(rollout.prompts)).tensor_split(self.shape.updates):
            self.gradient(rollout.take(rows), advantage[rows])
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
            self.optimiser.step()

    def gradient(self, rollout: Rollout, advantage: Tensor) -> None:
        """The gradient of the mean over samples and random steps."""
        self.optimiser.zero_grad(set_to_none=True)
        count = len(rollout.prompts) * self.random
        for rows in torch.arange(len(rollout.prompts)).split(self.shape.trained or self.group):
            prompts = [rollout.prompts[i] for i in rows.tolist()]
            for i, step in enumerate(self.steps[: self.random]):
                x, after = rollout.states[rows, i], rollout.states[rows, i + 1]
                v = self._velocity(self.network, x, step, self.network.condition(prompts))
                mean = step.keep * x + step.push * v
                ratio = (log_density(after, mean, step.std) - rollout.logp[rows, i]).exp()
                gain = advantage[rows].to(ratio)
                loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - self.clip, 1 + self.clip))
                if self.shape.beta:
                    with torch.no_grad():
                        told = self.reference.condition(prompts)
                        other = step.keep * x + step.push * self._velocity(self.reference, x, step, told)
                    loss = loss + self.shape.beta * ((mean - other) ** 2).flatten(1).mean(1) / (2 * step.std**2)
                (loss.sum() / count).backward()

    def _velocity(self, network: Denoiser, x: Tensor, step: Step, told: Conditions) -> Tensor:
        """The guided prediction; both halves of it in one forward."""
        nothing = {name: one.expand(len(x), *one.shape[1:]) for name, one in network.blank().items()}
        both = {name: torch.cat([nothing[name], told[name]]) for name in told}
        t = torch.full((2 * len(x),), step.time, dtype=x.dtype)
        unguided, guided = network.predict(torch.cat([x, x]), t, both).chunk(2)
        if self.shape.detached:
            unguided = unguided.detach()
        return unguided + self.guidance * (guided - unguided)


def log_density(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log N(x; mean, std^2 I), the mean over dimensions."""
    value = -((x.detach() - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))
    return value.flatten(1).mean(1)
