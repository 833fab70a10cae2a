"""Trajectories somebody else wrote: gold outputs, possibly altered, played through the environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saccade.core.content import Content
from saccade.core.environment import Tasks
from saccade.core.errors import DataError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Act, Actor, Policy, Sampling
from saccade.core.random import fold_in, numpy_generator
from saccade.core.state import TrainState
from saccade.core.trajectory import Context, Group, Task
from saccade.feeds.curriculum import Order, Shuffle
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score


@dataclass(frozen=True)
class Script(ABC):
    """Which outputs a demonstrator gives, one a turn."""

    @abstractmethod
    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]: ...


@dataclass(frozen=True)
class Gold(Script):
    """The task's own solution."""

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        if not task.gold:
            raise DataError(f"task {task.id!r} has no gold output to demonstrate")
        return task.gold


class ScriptedActor:
    """An actor that says what it was told: turn k of the task's script, as acts of the policy's own making."""

    seeded = True
    version = 0

    def __init__(self, policy: Policy, scripts: Mapping[str, Sequence[Content]]) -> None:
        self._policy = policy
        self._scripts = scripts
        self._turn = 0

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        outputs: list[Content] = []
        for context in contexts:
            script = self._scripts[context.prompt.task.id]
            if self._turn >= len(script):
                raise DataError(f"task {context.prompt.task.id!r}: the script ends before the episode, at {self._turn}")
            outputs.append(script[self._turn])
        self._turn += 1
        return [[act] * n for act in self._policy.encode(contexts, outputs)]

    def sync(self, policy: Policy, version: int) -> None:
        self._policy = policy


@dataclass(eq=False)
class Demonstrations(Feed):
    """Groups of one demonstration each. Their behaviour log-probabilities are unknown (0)."""

    script: Script = field(default_factory=Gold)
    order: Order = field(default_factory=Shuffle)
    tasks: Tasks | None = None
    """Default: the environment's tasks."""

    def __post_init__(self) -> None:
        self._drawn = 0

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        while True:
            count = problem.groups * problem.group_size
            source = self.tasks if self.tasks is not None else problem.env.tasks
            tasks = self.order.draw(source, self._drawn, count, problem.seed, state.history)
            seeds = [fold_in(problem.seed, "demonstration", self._drawn + i) for i in range(count)]
            pairs = zip(tasks, seeds, strict=True)
            scripts = {task.id: self.script(task, numpy_generator(seed)) for task, seed in pairs}
            self._drawn += count
            demonstrator = ScriptedActor(state.policy, scripts)
            groups = rollout(demonstrator, problem.env, tasks, group_size=1, sampling=Sampling(), seeds=seeds)
            score(groups, problem.rewards)
            yield groups

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._drawn = int(state["drawn"])
