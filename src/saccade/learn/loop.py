"""The one loop: groups from a feed, a table, advantages, objectives, an optimiser step."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import yaml

from saccade.core.batch import Batch, pack
from saccade.core.config import to_dict
from saccade.core.policy import Actor, LocalActor, Policy
from saccade.core.random import fold_in, torch_generator
from saccade.core.segments import group_mean, group_std
from saccade.core.state import TrainState
from saccade.learn import checkpoint
from saccade.learn.step import check_capabilities, minibatches, optimise, with_streams
from saccade.recipe import Recipe


@runtime_checkable
class Observer(Protocol):
    """Somebody who watches a run: logs, galleries, progress bars, evaluations."""

    def start(self, state: TrainState, recipe: Recipe) -> None:
        """Before the first step, and after a checkpoint was restored (``state.step > 0``)."""
        ...

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """After every step. ``record`` is reproducible; ``seconds`` are the times it took."""
        ...

    def finish(self, state: TrainState) -> None:
        """After the last step."""
        ...


@dataclass
class Run:
    """Where and how a recipe is trained; nothing that changes what is learned."""

    checkpoints: Path | None = None
    """Folder of checkpoints; None saves nothing."""
    save_every: int = 50
    """Steps between checkpoints; there is always one at the end."""
    resume: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    observers: Sequence[Observer] = ()


def recipe_hash(recipe: Recipe) -> str:
    """Identity of a recipe for checkpoints: all its settings, except how long it trains and how it is evaluated."""
    plain: dict[str, Any] = to_dict(recipe)
    for name in ("evaluation", "ablation"):
        plain.pop(name)
    return hashlib.sha256(yaml.safe_dump(plain, sort_keys=True).encode()).hexdigest()[:16]


def fresh_state(recipe: Recipe, policy: Policy, device: torch.device) -> TrainState:
    """The state before the first step."""
    train = recipe.train
    groups: list[dict[str, Any]] = [{"params": [p for p in policy.parameters() if p.requires_grad], "lr": train.lr}]
    critic = None
    if recipe.critic is not None:
        critic = recipe.critic.build(recipe.policy, device, fold_in(train.seed, "critic"))
        lr = train.lr if recipe.critic.lr is None else recipe.critic.lr
        groups.append({"params": [p for p in critic.parameters() if p.requires_grad], "lr": lr})
    optimiser = train.optimiser.build(groups, train.lr)
    for group in optimiser.param_groups:
        group["base_lr"] = group["lr"]
    compared = any(metric.needs_reference for metric in recipe.evaluation.metrics.values())
    compared = compared or recipe.feed.needs_reference or bool(recipe.needs & {"ref_logp", "kl"})
    reference = train.reference.start(policy) if compared else None
    generator = torch_generator(fold_in(train.seed, "minibatches"))
    return TrainState(policy, optimiser, generator, train.seed, train.steps, 0, reference, critic)


def train(recipe: Recipe, run: Run, policy: Policy | None = None, actor: Actor | None = None) -> TrainState:
    """Train ``policy`` (default: a fresh one of the recipe's spec) for ``recipe.train.steps`` steps.

    With ``run.resume`` and a checkpoint, training goes on where it stopped; on the CPU the result is bit for bit that
    of an uninterrupted run.
    """
    if policy is None:
        policy = recipe.policy.build(run.device, fold_in(recipe.train.seed, "policy"))
    check_capabilities(recipe, policy)
    feed = copy.deepcopy(recipe.feed)
    state = fresh_state(recipe, policy, run.device)
    identity = recipe_hash(recipe)
    saved = checkpoint.latest(run.checkpoints) if run.resume and run.checkpoints else None
    if saved is not None:
        checkpoint.restore(saved, state, feed, identity)
    # The first update of a step takes place under the weights of its rollouts; if it takes in all of them, the graph of
    # their prompts is the one it needs.
    budget = recipe.train.micro_size if recipe.train.minibatches == 1 else 0
    actor = actor or LocalActor(policy, budget=budget)
    actor.sync(policy, state.version)
    for observer in run.observers:
        observer.start(state, recipe)

    started = time.perf_counter()
    for groups in islice(feed.stream(recipe.problem, actor, state), recipe.train.steps - state.step):
        rolled = time.perf_counter()
        weight = recipe.reward_weight(state.progress)
        batch = pack(groups, weight, progress=state.progress, history=state.history, device=policy.device)
        batch = with_streams(recipe, state, batch)
        with torch.no_grad():
            batch.advantage = recipe.advantage(batch)
        found = [optimise(recipe, state, mini) for mini in minibatches(batch, recipe.train, state.generator)]
        record = {**summary(batch), **{f"feed/{k}": v for k, v in feed.stats.items()}, **_mean(found)}
        state.step += 1
        if state.reference is not None:
            recipe.train.reference.follow(state.reference, policy, state.step)
        state.history.update(_outcomes(batch))
        state.last = record
        actor.sync(policy, state.version)
        now = time.perf_counter()
        seconds = {"rollout": rolled - started, "learn": now - rolled, "step": now - started}
        for observer in run.observers:
            observer.step(state, batch, record, seconds)
        if run.checkpoints and (state.step % run.save_every == 0 or state.step == recipe.train.steps):
            checkpoint.save(run.checkpoints, state, feed, identity)
        started = time.perf_counter()
    for observer in run.observers:
        observer.finish(state)
    return state


def summary(batch: Batch) -> dict[str, float]:
    """What a step's trajectories were like: rewards, lengths, uniform groups, truncation.

    ``variance/NAME`` is the variance, inside groups, of a reward times its weight: what that reward gives
    group-relative advantages. ``group/uniform_best`` and ``group/uniform_worst`` are the shares of trajectories in
    groups that all got the largest, or the smallest, outcome of the step.
    """
    record: dict[str, float] = {}
    scored = batch.scored
    count = max(1, int(scored.sum()))
    for name, stream in batch.rewards.items():
        record[f"reward/{name}"] = float(stream.sum(1)[scored].sum()) / count
        missing = sum(1 for t in batch.trajectories if (s := t.scores.get(name)) is None or s.value is None)
        record[f"reward/{name}/unscored"] = missing / len(batch)
        paid = batch.reward_weight[name] * stream.sum(1)
        apart = (paid - group_mean(paid, batch.group, scored)) ** 2
        record[f"variance/{name}"] = float(apart[scored].sum()) / count
    record["reward"] = float(batch.outcome[scored].sum()) / count
    spread = group_std(batch.outcome, batch.group, 0, scored)
    uniform = spread <= 1e-6
    record["group/uniform"] = float(uniform.float().mean())
    if bool(scored.any()):
        outcome, paid = batch.outcome, batch.outcome[scored]
        record["group/uniform_best"] = float((uniform & scored & (outcome >= paid.max() - 1e-6)).float().mean())
        record["group/uniform_worst"] = float((uniform & scored & (outcome <= paid.min() + 1e-6)).float().mean())
    record["group/std"] = float(spread.mean())
    record["actions"] = float(batch.length.float().mean())
    record["actions/std"] = float(batch.length.float().std(correction=0))
    record["turns"] = sum(t.num_turns for t in batch.trajectories) / len(batch)
    record["overlong"] = float(batch.overlong.float().mean())
    record["policy/logp"] = float(batch.old_logp.sum() / batch.mask.sum().clamp(min=1))
    return record


def _outcomes(batch: Batch) -> list[tuple[str, list[float]]]:
    outcome, group = batch.outcome.tolist(), batch.group.tolist()
    scored = batch.scored.tolist()
    found: list[tuple[str, list[float]]] = []
    for g, prompt in enumerate(batch.prompts):
        paid = [r for r, h, ok in zip(outcome, group, scored, strict=True) if h == g and ok]
        if paid:
            found.append((prompt.task.id, paid))
    return found


def _mean(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over the updates of a step; of maxima the largest."""
    values = {key: [record[key] for record in records] for key in records[0]}
    return {key: max(found) if key.endswith("/max") else sum(found) / len(found) for key, found in values.items()}
