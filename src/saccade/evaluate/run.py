"""``evaluate``: roll out held-out tasks and compute metrics, each with its standard error."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from saccade.core.environment import EnvironmentSpec
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean, paired_difference
from saccade.core.policy import Actor, LocalActor, Policy
from saccade.core.random import fold_in
from saccade.core.reward import Reward, Scope, Score
from saccade.core.trajectory import Group, Trajectory
from saccade.evaluate.result import Entry, Number, Result
from saccade.evaluate.sets import Distributional
from saccade.evaluate.store import Played, RolloutStore
from saccade.recipe import Evaluation
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score

TASKS_AT_ONCE = 64
REWARD = "reward/"
"""In front of the names of rewards among a result's metrics."""

Advance = Callable[[int, int], None]
"""Told after every round how many tasks are done, and of how many."""


@dataclass
class Report:
    """Estimates by metric name, what they were computed from, and some of the rollouts."""

    estimates: dict[str, Estimate]
    rows: dict[str, list[Any]]
    groups: list[Group] = field(default_factory=list)
    """The first rollouts, for galleries."""
    paid: dict[str, list[Row]] = field(default_factory=dict)
    """Totals of every reward, without its weight, where it could score."""
    categories: dict[str, str] = field(default_factory=dict)
    """``task.info["category"]`` by task id, where there is one."""
    tasks: int = 0
    rollouts: int = 0
    actions: int = 0
    rolling: float = 0.0
    """Seconds that the rollouts took; those found in a store took them when they were made."""
    seconds: float = 0.0
    """``rolling``, and what scoring took this time."""
    weights: str = ""
    """Hash of the weights (``store.weights_hash``), if whoever made the report has taken it."""

    def against(self, before: Report) -> dict[str, Estimate]:
        """Paired differences to an earlier report of the same tasks."""
        # Numbers about a set have no task: they cannot be paired.
        both = [name for name in self.rows if name in before.rows]
        paired = [name for name in both if all(isinstance(row, Row) for row in self.rows[name])]
        return {name: paired_difference(before.rows[name], self.rows[name]) for name in paired}

    def result(
        self,
        suite: str,
        evaluation: Evaluation,
        *,
        of: Mapping[str, Any],
        seed: int,
        versions: Mapping[str, str],
        commit: str,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> Result:
        """The report as it is kept on disk; for the arguments see the fields of ``Result``.

        Every reward is a metric, too, under ``reward/`` and its name.
        """
        metrics = evaluation.metrics
        per_task = {name: rows for name, rows in self.rows.items() if all(isinstance(row, Row) for row in rows)}
        # What a metric says already is not said twice.
        paid = {f"{REWARD}{name}": rows for name, rows in self.paid.items() if rows not in per_task.values()}
        return Result(
            suite=suite,
            of={**of, "weights": self.weights},
            seed=seed,
            tasks=self.tasks,
            n=evaluation.n,
            sampling=asdict(evaluation.sampling),
            metrics={
                name: Number(
                    metrics[name].tier, estimate, getattr(metrics[name], "identity", None), self._details(metrics, name)
                )
                for name, estimate in self.estimates.items()
            }
            | {name: Number("sample", clustered_mean(rows)) for name, rows in paid.items()},
            rows={
                name: [Entry(row, self.categories.get(row.task, "")) for row in rows]
                for name, rows in (per_task | paid).items()
                if rows
            },
            seconds=self.seconds,
            rollouts_per_second=self.rollouts / self.rolling if self.rolling > 0 else None,
            tokens_per_second=self.actions / self.rolling if self.rolling > 0 and self.actions else None,
            versions=versions,
            commit=commit,
            settings=settings,
        )

    def _details(self, metrics: Mapping[str, Metric], name: str) -> Mapping[str, float]:
        metric = metrics[name]
        return metric.details(self.rows[name]) if isinstance(metric, Distributional) else {}


class NoModels(Models):
    """Stands where outputs are scored that nobody knows the policy of."""

    def __init__(self) -> None:
        return

    @property
    def policy(self) -> Policy:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise CapabilityError("there is no policy to look into: the outputs were given")


@dataclass(frozen=True, kw_only=True, eq=False)
class Once(Reward):
    """A reward that looks at each trajectory once, however many metrics ask for its score.

    Official summaries are many means of one score, over all tasks and over parts of them, and a score may take a
    detector or a judge.
    """

    reward: Reward
    size: int
    """Trajectories that are remembered, the newest; those of a round have to find room."""
    known: OrderedDict[tuple[int, ...], tuple[Any, Any]] = field(default_factory=OrderedDict, repr=False)
    """By the ids of the trajectories' turns, which copies share: the turns, held so that ids stay theirs; scores."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reward.scope

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[Score | float | None]:
        calls = [[t] for t in trajectories] if self.scope == "trajectory" else [list(trajectories)]
        keys = [tuple(id(t.turns) for t in call) for call in calls]
        with self.lock:
            found = {key: self.known[key][1] for key in keys if key in self.known}
        new = [(key, call) for key, call in zip(keys, calls, strict=True) if key not in found]
        if new:
            scores = iter(self.reward([t for _, call in new for t in call]))
            made = {key: ([t.turns for t in call], [next(scores) for _ in call]) for key, call in new}
            found |= {key: scored for key, (_, scored) in made.items()}
            with self.lock:
                self.known.update(made)
                while len(self.known) > self.size:
                    self.known.popitem(last=False)
        return [score for key in keys for score in found[key]]


def once(metrics: Mapping[str, Metric], reward: Reward, n: int) -> tuple[Once, dict[str, Metric]]:
    """The reward and the metrics of it, sharing one ``Once``.

    Args:
        metrics: those with this reward as their field ``reward`` are changed.
        reward: what is scored once.
        n: rollouts per task.
    """
    shared = Once(reward=reward, size=TASKS_AT_ONCE * n)
    changed = {
        name: replace(metric, reward=shared) if getattr(metric, "reward", None) == reward else metric  # type: ignore[call-arg]
        for name, metric in metrics.items()
    }
    return shared, changed


def evaluate(
    models: Models,
    evaluation: Evaluation,
    env: EnvironmentSpec,
    rewards: Mapping[str, Reward],
    *,
    seed: int = 0,
    keep: int = 32,
    actor: Actor | None = None,
    store: RolloutStore | None = None,
    workers: int = 1,
    advance: Advance | None = None,
) -> Report:
    """Roll out ``evaluation.tasks`` (default: the held-out split of the environment's) and compute the metrics.

    The same tasks and seeds are used every time, so that reports of two policies can be compared task by task.

    Args:
        models: what state metrics look into; the policy acts, if there is no other ``actor``.
        evaluation: tasks, rollouts per task, sampling, metrics.
        env: where the tasks are played.
        rewards: filled into the trajectories' scores.
        seed: of the rollouts.
        keep: groups that the report holds, the first ones.
        actor: who acts instead of the policy.
        store: rollouts that are found there are not made again; new ones are kept there.
        workers: threads that score groups at the same time. More than one changes how many trajectories a reward gets
            in a call, and with it, in learned rewards, the last bits.
        advance: told how far it is.

    Raises:
        ConfigError: ``workers`` is below 1.
    """
    if workers < 1:
        raise ConfigError(f"workers must be >= 1, got {workers}")
    tasks = evaluation.tasks if evaluation.tasks is not None else env.tasks.split("test")
    count = min(evaluation.limit, len(tasks))
    actor = LocalActor(models.policy) if actor is None else actor
    metrics = evaluation.metrics
    report = Report({}, {name: [] for name in metrics}, tasks=count)
    scoring = 0.0
    with _scorer(workers) as scorer:
        for start in range(0, count, TASKS_AT_ONCE):
            part = [tasks[i] for i in range(start, min(start + TASKS_AT_ONCE, count))]
            seeds = [fold_in(seed, "evaluate", task.id) for task in part]
            played = store.load(part, seeds) if store is not None else None
            if played is None:
                began = time.perf_counter()
                groups = rollout(actor, env, part, group_size=evaluation.n, sampling=evaluation.sampling, seeds=seeds)
                played = Played(groups, time.perf_counter() - began)
                if store is not None:
                    store.save(part, seeds, played)
            groups = played.groups
            began = time.perf_counter()
            scorer.score(groups, rewards)
            for name, metric in metrics.items():
                report.rows[name] += scorer.rows(metric, groups, models)
            scoring += time.perf_counter() - began
            report.rolling += played.seconds
            report.rollouts += sum(map(len, groups))
            report.actions += sum(t.num_actions for group in groups for t in group)
            for name in rewards:
                totals = [(t.task.id, t.scores[name].total) for group in groups for t in group]
                report.paid.setdefault(name, []).extend(Row(task, x) for task, x in totals if x is not None)
            report.categories |= {t.id: str(c) for t in part if (c := t.info.get("category", "")) != ""}
            report.groups += groups[: keep - len(report.groups)]
            if advance is not None:
                advance(start + len(part), count)
        began = time.perf_counter()
        report.estimates = {name: metric.compute(report.rows[name]) for name, metric in metrics.items()}
        report.seconds = report.rolling + scoring + time.perf_counter() - began
    return report


class _Scorer:
    """Rewards and metrics of groups, one after the other."""

    def score(self, groups: Sequence[Group], rewards: Mapping[str, Reward]) -> None:
        score(groups, rewards)

    def rows(self, metric: Metric, groups: Sequence[Group], models: Models) -> list[Any]:
        return metric.rows(groups, models)


class _Threads(_Scorer):
    """The same with groups side by side, for rewards that look at one group at most. Results are in order.

    Metrics of the policy, and those of sets, are left alone: they use whole batches of a network.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def score(self, groups: Sequence[Group], rewards: Mapping[str, Reward]) -> None:
        for name, reward in rewards.items():
            one = {name: reward}
            if reward.scope == "batch":
                score(groups, one)
            else:
                list(self._pool.map(lambda group, one=one: score([group], one), groups))

    def rows(self, metric: Metric, groups: Sequence[Group], models: Models) -> list[Any]:
        reward = getattr(metric, "reward", None)
        if metric.tier != "sample" or not isinstance(reward, Reward) or reward.scope == "batch":
            return metric.rows(groups, models)
        parts = self._pool.map(lambda group: metric.rows([group], models), groups)
        return [row for part in parts for row in part]


@contextmanager
def _scorer(workers: int):
    if workers == 1:
        yield _Scorer()
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="score")
    try:
        yield _Threads(pool)
    finally:
        # After an exception what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def table(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Estimates as flat numbers: ``name``, ``name/stderr``, ``name/n``."""
    flat: dict[str, float] = {}
    for name, estimate in estimates.items():
        flat |= {name: estimate.value, f"{name}/stderr": estimate.stderr, f"{name}/n": float(estimate.n)}
    return flat
