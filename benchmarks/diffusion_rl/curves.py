"""Time to the same held-out reward: the shape of flow_grpo against recipes with a window or on the forward process.

All start from the same pretrained generator of the shape world (cached by the library), learn from the same captions
with the same verifier, and draw with the same guidance in rollouts and evaluations, so that their curves begin at one
point. The shape of flow_grpo is the peer's loop around the library's tiny network, with the settings of the library's
recipe (steps, captions, group size, learning rate and its decay, clip range, coefficient of the divergence) and its own
two updates a rollout, guided in training too, as its authors run it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffusion_rl import peers
from saccade.cli.catalogue import entry_of
from saccade.core.batch import Batch
from saccade.core.config import overlay
from saccade.core.content import Image
from saccade.core.metric import Models
from saccade.core.policy import Policy
from saccade.core.random import fold_in, torch_generator
from saccade.core.state import Progress, TaskHistory, TrainState
from saccade.core.trajectory import Prompt, Trajectory, forced_turn
from saccade.evaluate.run import evaluate
from saccade.experiment import start_policy
from saccade.feeds.curriculum import Shuffle
from saccade.learn.loop import Run, train
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.policies.denoise.policy import DenoisePolicy
from saccade.policies.denoise.tiny import TinyFlow
from saccade.recipe import Recipe
from saccade.rollout.score import score

PEER = "flow_grpo's shape"
METRIC = "soft"
UPDATES = 2
"""Optimiser steps a rollout of flow_grpo's shape."""


@dataclass
class Curve:
    """Held-out reward over CPU seconds of training; evaluations do not count."""

    recipe: Recipe
    every: int
    policy: Policy
    tell: Callable[[str], None]
    cpu_seconds: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    stderr: list[float] = field(default_factory=list)
    rollouts: list[int] = field(default_factory=list)
    spent: float = 0.0
    _mark: float = 0.0

    def start(self, state: TrainState | None = None, recipe: Recipe | None = None) -> None:
        self._evaluate(0)
        self._mark = time.process_time()

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        self.trained(state.step)

    def finish(self, state: TrainState) -> None:
        return

    def trained(self, step: int) -> None:
        """A rollout with its updates has ended."""
        self.spent += time.process_time() - self._mark
        if step % self.every == 0 or step == self.recipe.train.steps:
            self._evaluate(step)
        self._mark = time.process_time()

    def _evaluate(self, step: int) -> None:
        recipe = self.recipe
        training = self.policy.training
        self.policy.eval()
        models = Models(self.policy, None)
        report = evaluate(models, recipe.evaluation, recipe.env, recipe.rewards, seed=recipe.train.seed, keep=0)
        self.policy.train(training)
        found = report.estimates[METRIC]
        self.cpu_seconds.append(self.spent)
        self.rollouts.append(step)
        self.reward.append(found.value)
        self.stderr.append(found.stderr)
        self.tell(f"  after {step} rollouts, {self.spent:.0f} CPU s: {found.value:.3f} +- {found.stderr:.3f}")

    def row(self, method: str, seed: int) -> dict[str, Any]:
        names = ("cpu_seconds", "rollouts", "reward", "stderr")
        return {"method": method, "seed": seed, **{name: getattr(self, name) for name in names}}


def compare(
    options: argparse.Namespace, tell: Callable[[str], None]
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """All curves so far and what follows from them, after each run."""
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for method in (PEER, *options.recipes):
            tell(f"{method}, seed {seed}")
            curve = peer_curve if method == PEER else recipe_curve
            rows.append(curve(method, seed, options, tell).row(method, seed))
            yield rows, verdict(rows)


def chosen(name: str, seed: int, options: argparse.Namespace) -> Recipe:
    """The library's recipe at its tiny size, with the metric that is compared and nothing else."""
    recipe = entry_of(name).make("tiny")
    changes: dict[str, Any] = {"train.seed": seed, "policy.guidance": options.guidance}
    if options.updates:
        changes["train.steps"] = options.updates
    if options.small:
        changes |= {"train.groups": 2, "train.group_size": 2}
    recipe = overlay(recipe, changes)
    if options.small:
        recipe = replace(recipe, stages={})
    metrics = {METRIC: recipe.evaluation.metrics[METRIC]}
    return replace(recipe, evaluation=replace(recipe.evaluation, metrics=metrics, limit=options.captions))


def recipe_curve(name: str, seed: int, options: argparse.Namespace, tell: Callable[[str], None]) -> Curve:
    recipe = chosen(name, seed, options)
    policy = start_policy(recipe, torch.device("cpu"))
    curve = Curve(recipe, options.every, policy, tell)
    train(recipe, Run(observers=[curve]), policy)
    return curve


def peer_curve(_: str, seed: int, options: argparse.Namespace, tell: Callable[[str], None]) -> Curve:
    """The peer's loop on the shape world."""
    recipe = chosen("flow_grpo", seed, options)
    spec, settings = recipe.policy, recipe.train
    assert isinstance(spec, TinyFlow)
    policy = start_policy(recipe, torch.device("cpu"))
    assert isinstance(policy, DenoisePolicy)
    network = policy.denoiser
    clip = recipe.objective["pg"]
    assert isinstance(clip, PPOClip)
    divergence = recipe.objective["kl"]
    assert isinstance(divergence, KLToReference)
    loop = peers.Loop(
        network,
        copy.deepcopy(network).requires_grad_(False),
        peers.Shape(beta=divergence.coef, updates=UPDATES),
        steps=spec.sampler.steps,
        guidance=options.guidance,
        group=settings.group_size,
        lr=settings.lr,
        clip=clip.high,
    )
    curve = Curve(recipe, options.every, policy, tell)
    curve.start()
    for step in range(settings.steps):
        for group in loop.optimiser.param_groups:
            group["lr"] = settings.lr * settings.lr_schedule(Progress(step, settings.steps))
        peer_step(loop, recipe, step)
        curve.trained(step + 1)
    return curve


def peer_step(loop: peers.Loop, recipe: Recipe, step: int) -> None:
    """One rollout with its updates."""
    settings, env = recipe.train, recipe.env
    generator = torch_generator(fold_in(settings.seed, "peer", step))
    tasks = Shuffle().draw(env.tasks, step * settings.groups, settings.groups, settings.seed, TaskHistory())
    prompts = [Prompt(task, env.prompt(task)) for task in tasks for _ in range(settings.group_size)]
    rollout = loop.rollout(prompts, generator)
    pictures = loop.network.to_pixels(rollout.states[:, -1])
    drawn = [
        Trajectory(prompt, [forced_turn((Image(picture),), None, 1)])
        for prompt, picture in zip(prompts, pictures, strict=True)
    ]
    score([drawn], recipe.rewards)
    reward = torch.tensor([trajectory.scores["verifier"].total for trajectory in drawn], dtype=torch.float64)
    groups = reward.unflatten(0, (settings.groups, settings.group_size))
    advantage = ((groups - groups.mean(1, keepdim=True)) / (reward.std(correction=0) + 1e-4)).clamp(-5, 5).flatten()
    order = torch.randperm(len(prompts), generator=generator)
    loop.update(rollout.take(order), advantage[order])


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds to the level of each seed, and ratios of seeds in which both got there."""
    levels: dict[int, float] = {}
    seconds: dict[str, dict[int, float | None]] = {}
    for row in rows:
        if row["method"] == PEER:
            levels[row["seed"]] = statistics.fmean(row["reward"][-3:])
    for row in rows:
        seconds.setdefault(row["method"], {})[row["seed"]] = reached(row, levels[row["seed"]])
    ratios: dict[str, list[float]] = {}
    for method, found in seconds.items():
        if method != PEER:
            pairs = [(seconds[PEER][seed], one) for seed, one in found.items()]
            ratios[method] = [theirs / own for theirs, own in pairs if theirs is not None and own]
    return {"level": levels, "seconds_to_level": seconds, "ratio": ratios}


def reached(row: Mapping[str, Any], level: float) -> float | None:
    """CPU seconds at the first evaluation at or above the level."""
    return next((t for t, value in zip(row["cpu_seconds"], row["reward"], strict=True) if value >= level), None)
