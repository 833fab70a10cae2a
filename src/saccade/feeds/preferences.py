"""Pairs: the order of outcomes within a group of two is the preference, whoever expressed it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saccade.core.content import Content, Text
from saccade.core.environment import Tasks
from saccade.core.errors import DataError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Actor, Sampling
from saccade.core.random import fold_in
from saccade.core.reward import Score
from saccade.core.state import TrainState
from saccade.core.trajectory import Group, Task
from saccade.feeds.curriculum import Order, Shuffle
from saccade.feeds.demonstrations import ScriptedActor
from saccade.feeds.on_policy import OnPolicy, outcome
from saccade.rollout.lockstep import rollout


@dataclass(eq=False)
class Preferences(Feed):
    """Fixed pairs: ``task.info["chosen"]`` against ``task.info["rejected"]`` (text or content), paid 1 and 0.

    Columns of a data file (``task.info["columns"]``) are looked into as well.
    """

    tasks: Tasks | None = None
    """Default: the environment's tasks."""
    order: Order = field(default_factory=Shuffle)

    def __post_init__(self) -> None:
        self._drawn = 0

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        while True:
            source = self.tasks if self.tasks is not None else problem.env.tasks
            tasks = self.order.draw(source, self._drawn, problem.groups, problem.seed, state.history)
            seeds = [fold_in(problem.seed, "preference", self._drawn + i) for i in range(problem.groups)]
            self._drawn += problem.groups
            sides: list[list[Group]] = []
            for side, paid in (("chosen", 1.0), ("rejected", 0.0)):
                scripts = {task.id: (_side(task, side),) for task in tasks}
                writer = ScriptedActor(state.policy, scripts)
                groups = rollout(writer, problem.env, tasks, group_size=1, sampling=Sampling(), seeds=seeds)
                for (trajectory,) in groups:
                    trajectory.scores["preference"] = Score(paid)
                sides.append(groups)
            for (chosen,), (rejected,) in zip(*sides, strict=True):
                rejected.prompt = chosen.prompt
            yield [[chosen, rejected] for (chosen,), (rejected,) in zip(*sides, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._drawn = int(state["drawn"])


def _side(task: Task, side: str) -> Content:
    found = task.info.get(side, task.info.get("columns", {}).get(side))
    if isinstance(found, str):
        return (Text(found),)
    if isinstance(found, tuple) and found:
        return found
    raise DataError(f"task {task.id!r}, field {side!r}: expected the text of one side of the pair, got {found!r}")


@dataclass(eq=False)
class RankedPairs(Feed):
    """Online preferences: of every group of the inner feed the best and the worst; groups of ties are dropped.

    If all groups are ties the first one's first two members are yielded: a pair without preference, which every
    preference objective ignores.
    """

    inner: Feed = field(default_factory=OnPolicy)

    def __post_init__(self) -> None:
        self._stats: dict[str, float] = {}

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        for groups in self.inner.stream(problem, actor, state):
            pairs: list[Group] = []
            for group in groups:
                scored = [(paid, i) for i, t in enumerate(group) if (paid := outcome(t, problem.rewards)) is not None]
                if scored and max(scored)[0] > min(scored)[0]:
                    pairs.append([group[max(scored, key=lambda s: (s[0], -s[1]))[1]], group[min(scored)[1]]])
            self._stats = {**self.inner.stats, "pairs": len(pairs) / len(groups)}
            yield pairs or [groups[0][:2]]

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    @property
    def stats(self) -> Mapping[str, float]:
        return self._stats
