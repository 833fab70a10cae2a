"""``saccade validate``: does a recipe hold together? Every check returns what it found or raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from saccade.core import config
from saccade.core.batch import Batch
from saccade.core.content import Content, Text
from saccade.core.errors import ContractError
from saccade.core.policy import Act, Policy, Sampling
from saccade.core.random import fold_in
from saccade.core.state import TrainState
from saccade.core.trajectory import Context, Task, Trajectory
from saccade.learn.loop import Run
from saccade.learn.loop import train as run_training
from saccade.learn.step import check_capabilities
from saccade.recipe import Recipe
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score
from saccade.testing import check_environment

TASKS = 8


class _Reciting:
    """An actor without a policy: says turn k of a script, and its last line ever after."""

    seeded = True
    version = 0

    def __init__(self, scripts: Mapping[str, Sequence[Content]]) -> None:
        self._scripts = scripts
        self._turn = 0

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        lines = [self._scripts[context.prompt.task.id] for context in contexts]
        outputs = [script[min(self._turn, len(script) - 1)] for script in lines]
        self._turn += 1
        return [[_act(output) for _ in range(n)] for output in outputs]

    def sync(self, policy: Policy, version: int) -> None:
        return


def _act(output: Content) -> Act:
    one = torch.ones(1)
    return Act(output, None, -one, one.bool(), one.long())


def settings(recipe: Recipe) -> str:
    """All settings can be written to a file and read again."""
    text = config.dump(recipe)
    if config.dump(config.from_dict(config.load(text))) != text:
        raise ContractError("the recipe is another one after it was written and read")
    return f"{len(text.splitlines())} lines of YAML, read back equal"


def capabilities(recipe: Recipe) -> str:
    """The policy provides what the objectives need."""
    policy = _policy(recipe)
    check_capabilities(recipe, policy)
    for name in recipe.stages:
        check_capabilities(recipe.staged(name), policy)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    needs = ", ".join(sorted(recipe.needs)) or "nothing"
    return f"{type(policy).__name__} with {trained:,} trained weights; needs {needs}"


def environment(recipe: Recipe) -> str:
    """The environment keeps its contract."""
    check_environment(recipe.env)
    return f"{type(recipe.env).__name__}, {len(recipe.env.tasks)} training tasks"


def gold(recipe: Recipe) -> str:
    """No output is paid better than a task's own solution, by any reward that looks at one trajectory."""
    tasks = [task for task in (recipe.env.tasks[i] for i in range(min(TASKS, len(recipe.env.tasks)))) if task.gold]
    rewards = {n: r for n, r in recipe.rewards.items() if r.weight != 0 and r.scope == "trajectory"}
    if not tasks or not rewards:
        return "nothing to check: " + ("no task has a solution" if not tasks else "no reward looks at one trajectory")
    solved = _played(recipe, tasks, [task.gold for task in tasks])
    others: list[tuple[str, list[Trajectory]]] = []
    for output in ("", "?", "<answer></answer>"):
        others.append((repr(output), _played(recipe, tasks, [((Text(output),),)] * len(tasks))))
    for shift in range(1, len(tasks)):
        shifted = [tasks[(i + shift) % len(tasks)].gold for i in range(len(tasks))]
        others.append(("another task's solution", _played(recipe, tasks, shifted)))
    for name, reward in rewards.items():
        for what, tried in others:
            _compare(name, math.copysign(1.0, reward.weight), solved, tried, what)
    return ", ".join(f"{name} {_mean(name, solved)}" for name in rewards) + f" for gold on {len(tasks)} tasks"


def _played(recipe: Recipe, tasks: Sequence[Task], scripts: Sequence[Sequence[Content]]) -> list[Trajectory]:
    said = {task.id: script for task, script in zip(tasks, scripts, strict=True)}
    seeds = [fold_in(0, "validate", task.id) for task in tasks]
    groups = rollout(_Reciting(said), recipe.env, tasks, group_size=1, sampling=Sampling(), seeds=seeds)
    score(groups, {n: r for n, r in recipe.rewards.items() if r.scope == "trajectory"})
    return [trajectory for group in groups for trajectory in group]


def _compare(name: str, sign: float, solved: Sequence[Trajectory], tried: Sequence[Trajectory], what: str) -> None:
    for best, other in zip(solved, tried, strict=True):
        full, paid = best.scores[name].total, other.scores[name].total
        if full is not None and paid is not None and sign * (paid - full) > 1e-6:
            raise ContractError(f"reward {name!r}, task {best.task.id!r}: gold gets {full:.4g}, {what} gets {paid:.4g}")


def _mean(name: str, trajectories: Sequence[Trajectory]) -> str:
    paid = [total for t in trajectories if (total := t.scores[name].total) is not None]
    return f"{math.fsum(paid) / len(paid):.3g}" if paid else "unscored"


@dataclass
class _Records:
    """Keeps what the steps of a run were like."""

    found: list[Mapping[str, float]] = field(default_factory=list)
    trained: int = 0
    """Trajectories with actions to learn from."""
    seen: int = 0

    def start(self, state: TrainState, recipe: Any) -> None:
        return

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        self.found.append(record)
        self.trained += int(batch.trained.sum())
        self.seen += len(batch)

    def finish(self, state: TrainState) -> None:
        return


def one_step(recipe: Recipe) -> str:
    """A step of every stage and of the recipe itself changes the weights by a finite gradient."""
    policy = _policy(recipe)
    told: list[str] = []
    for name, one in {**{name: recipe.staged(name) for name in recipe.stages}, "training": recipe}.items():
        size = min(4, one.train.group_size)
        budget = replace(one.train, steps=1, groups=4, group_size=size, minibatches=1, epochs=1)
        records = _Records()
        run_training(replace(one, train=budget, stages={}), Run(observers=[records]), policy=policy)
        record = records.found[0]
        if records.trained == 0:
            unscored = {
                key.split("/")[1]: value for key, value in record.items() if key.endswith("/unscored") and value
            }
            why = ", ".join(f"reward {key} leaves {value:.0%} unscored" for key, value in unscored.items())
            raise ContractError(
                f"{name}: none of {records.seen} trajectories can be learned from; {why or 'all masked'}"
            )
        norm = record["policy/grad_norm"]
        if not all(torch.isfinite(p).all() for p in policy.parameters()):
            raise ContractError(f"{name}: a weight is not finite after one step")
        equal = " (all rewards equal)" if norm == 0 else ""
        told.append(f"{name}: {records.trained}/{records.seen} trajectories, gradient {norm:.3g}{equal}")
    return ", ".join(told)


def _policy(recipe: Recipe) -> Policy:
    return recipe.policy.build(torch.device("cpu"), fold_in(recipe.train.seed, "policy"))


CHECKS: Mapping[str, Callable[[Recipe], str]] = {
    "settings": settings,
    "capabilities": capabilities,
    "environment": environment,
    "gold": gold,
    "one step": one_step,
}
