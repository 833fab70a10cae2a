"""``evaluate``: roll out held-out tasks and compute metrics, each with its standard error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saccade.core.environment import EnvironmentSpec
from saccade.core.metric import Estimate, Models, Row, paired_difference
from saccade.core.policy import LocalActor
from saccade.core.random import fold_in
from saccade.core.reward import Reward
from saccade.core.trajectory import Group
from saccade.recipe import Evaluation
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score

TASKS_AT_ONCE = 64


@dataclass
class Report:
    """Estimates by metric name, what they were computed from, and some of the rollouts."""

    estimates: dict[str, Estimate]
    rows: dict[str, list[Any]]
    groups: list[Group] = field(default_factory=list)
    """The first rollouts, for galleries."""

    def against(self, before: Report) -> dict[str, Estimate]:
        """Paired differences to an earlier report of the same tasks."""
        # Numbers about a set have no task: they cannot be paired.
        both = [name for name in self.rows if name in before.rows]
        paired = [name for name in both if all(isinstance(row, Row) for row in self.rows[name])]
        return {name: paired_difference(before.rows[name], self.rows[name]) for name in paired}


def evaluate(
    models: Models,
    evaluation: Evaluation,
    env: EnvironmentSpec,
    rewards: Mapping[str, Reward],
    *,
    seed: int = 0,
    keep: int = 32,
) -> Report:
    """Roll out ``evaluation.tasks`` (default: the held-out split of the environment's) and compute the metrics.

    The same tasks and seeds are used every time, so that reports of two policies can be compared task by task.
    """
    tasks = evaluation.tasks if evaluation.tasks is not None else env.tasks.split("test")
    chosen = [tasks[i] for i in range(min(evaluation.limit, len(tasks)))]
    actor = LocalActor(models.policy)
    rows: dict[str, list[Any]] = {name: [] for name in evaluation.metrics}
    kept: list[Group] = []
    for start in range(0, len(chosen), TASKS_AT_ONCE):
        part = chosen[start : start + TASKS_AT_ONCE]
        seeds = [fold_in(seed, "evaluate", task.id) for task in part]
        groups = rollout(actor, env, part, group_size=evaluation.n, sampling=evaluation.sampling, seeds=seeds)
        score(groups, rewards)
        for name, metric in evaluation.metrics.items():
            rows[name] += metric.rows(groups, models)
        kept += groups[: keep - len(kept)]
    estimates = {name: metric.compute(rows[name]) for name, metric in evaluation.metrics.items()}
    return Report(estimates, rows, kept)


def table(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Estimates as flat numbers: ``name``, ``name/stderr``, ``name/n``."""
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat |= {name: estimate.value, f"{name}/stderr": estimate.stderr, f"{name}/n": float(estimate.n)}
    return flat
