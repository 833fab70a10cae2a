"""The library's side: ``DenoisePolicy`` around the same network, the library's rollout and optimiser step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffusion_rl.problem import CLIP, LR, MAX_NORM, NOISE, Drawn, Numbered, RandomDenoiser, Settings
from saccade.advantages.group import GroupNorm
from saccade.core.batch import Batch, pack
from saccade.core.objective import Objective
from saccade.core.policy import LocalActor, Sampling
from saccade.core.random import fold_in
from saccade.core.trajectory import Group
from saccade.envs.single import SingleTurn
from saccade.learn.loop import fresh_state
from saccade.learn.step import minibatches, optimise, with_streams
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.policies.denoise.policy import DenoisePolicy, DenoiseSpec
from saccade.policies.denoise.steps import EveryStep, FlowSDE, StepChoice
from saccade.recipe import Recipe, Train
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score


@dataclass(frozen=True)
class RandomSpec(DenoiseSpec):
    """A policy over a random network."""

    problem: Settings = field(default_factory=Settings)

    def build(self, device: torch.device, seed: int = 0) -> RandomPolicy:
        return RandomPolicy(self, RandomDenoiser(self.problem)).to(device)


class RandomPolicy(DenoisePolicy):
    denoiser: RandomDenoiser

    def save_pretrained(self, folder: Path) -> None:
        self.denoiser.net.save_pretrained(folder)


@dataclass(frozen=True)
class Shape:
    """Settings of the library that make a loop."""

    choice: StepChoice = EveryStep(1)
    policy: Mapping[str, object] = field(default_factory=dict)
    """Fields of the policy's spec."""
    kl: bool = False
    updates: int = 1
    """Optimiser steps a rollout."""
    together: int = 2
    """Trajectories in a forward pass of training."""


class Loop:
    """Rollout and update through the library."""

    def __init__(self, settings: Settings, shape: Shape, network: RandomDenoiser, max_norm: float = MAX_NORM) -> None:
        policy = {"guidance": settings.guidance, **shape.policy}
        spec = RandomSpec(sampler=FlowSDE(settings.steps, NOISE), choice=shape.choice, problem=settings, **policy)
        objective: dict[str, Objective] = {"pg": PPOClip(low=CLIP, high=CLIP)}
        if shape.kl:
            objective["kl"] = KLToReference(coef=settings.beta, estimator="exact")
        self.policy = RandomPolicy(spec, network)
        trained = shape.choice.kinds(settings.steps, 0, 0).count("own")
        self.recipe = Recipe(
            policy=spec,
            env=SingleTurn(Numbered(settings.groups)),
            rewards={"drawn": Drawn()},
            advantage=GroupNorm(),
            average="action",
            objective=objective,
            train=Train(
                groups=settings.groups,
                group_size=settings.group,
                minibatches=shape.updates,
                micro_size=shape.together * trained * network.shape[1] * network.shape[2],
                lr=LR,
                max_grad_norm=max_norm,
            ),
        )
        # The reference is a copy of the network as it is now.
        self.state = fresh_state(self.recipe, self.policy, torch.device("cpu"))
        self.actor = LocalActor(self.policy)

    def rollout(self, number: int) -> list[Group]:
        env = self.recipe.env
        tasks = [env.tasks[i] for i in range(len(env.tasks))]
        seeds = [fold_in(number, "rollout", task.id) for task in tasks]
        size = self.recipe.train.group_size
        groups = rollout(self.actor, env, tasks, group_size=size, sampling=Sampling(), seeds=seeds)
        score(groups, self.recipe.rewards)
        return groups

    def batch(self, groups: list[Group]) -> Batch:
        batch = pack(groups, device=self.policy.device)
        batch = with_streams(self.recipe, self.state, batch)
        batch.advantage = self.recipe.advantage(batch)
        return batch

    def minibatches(self, groups: list[Group]) -> Iterator[Batch]:
        """The optimiser batches of these groups."""
        return minibatches(self.batch(groups), self.recipe.train, self.state.generator)

    def step(self, mini: Batch) -> None:
        optimise(self.recipe, self.state, mini)

    def learn(self, groups: list[Group]) -> None:
        for mini in self.minibatches(groups):
            self.step(mini)
