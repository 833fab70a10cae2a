"""Demonstrations by experts that look at the environment while they act: bots and scripted controllers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch

from saccade.core.content import Array, Content, Part
from saccade.core.environment import Environment, EnvironmentSpec, Lanes, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Act, Actor, Policy, Sampling
from saccade.core.random import fold_in, numpy_generator
from saccade.core.state import TrainState
from saccade.core.trajectory import Context, Group, Prompt, Task, Trajectory
from saccade.feeds.curriculum import Order, Shuffle
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score


@runtime_checkable
class Expert(Protocol):
    """Knows what to do. A frozen dataclass, so that it can be part of a configuration."""

    def outputs(self, environment: Environment) -> Content:
        """The output for the next turn, from the environment as it is now, which is left as it is.

        Equal states give equal outputs. Raises ``DataError`` for an environment it does not know.
        """
        ...


class Stage(Lanes):
    """Lanes whose environments can be looked at."""

    def environment(self, lane: int) -> Environment:
        return self._lanes[lane]


class ExpertActor:
    """An actor that does what the expert says, as acts of the policy's own making.

    It must be the only actor of ``stage``, with one trajectory a prompt: a prompt is how it knows its lane.
    """

    seeded = True
    version = 0

    def __init__(self, policy: Policy | None, expert: Expert, stage: Stage) -> None:
        """``policy``: None gives acts of no actions, which show what was done and cannot be learned from."""
        self._policy = policy
        self._expert = expert
        self._stage = stage
        self._lanes: dict[int, int] = {}
        self._prompts: list[Prompt] = []

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        if n != 1:
            raise DataError(f"an expert gives one output a state, got n = {n}")
        if not self._lanes:
            # The first turn shows every prompt, in the order of the lanes.
            self._prompts = [context.prompt for context in contexts]
            self._lanes = {id(prompt): lane for lane, prompt in enumerate(self._prompts)}
        lanes = [self._lanes[id(context.prompt)] for context in contexts]
        outputs = [self._expert.outputs(self._stage.environment(lane)) for lane in lanes]
        if self._policy is None:
            return [[_unread(output)] for output in outputs]
        return [[act] for act in self._policy.encode(contexts, outputs)]

    def sync(self, policy: Policy, version: int) -> None:
        self._policy = policy


@dataclass(frozen=True)
class _Staged(EnvironmentSpec):
    """An environment played on a stage that somebody else holds."""

    inner: EnvironmentSpec | None = None
    stage: Stage | None = None

    def prompt(self, task: Task) -> Content:
        return self._inner.prompt(task)

    def make(self) -> Environment:
        return self._inner.make()

    def make_vector(self) -> Stage:
        if self.stage is None:
            raise DataError("there is no stage")
        return self.stage

    @property
    def _inner(self) -> EnvironmentSpec:
        if self.inner is None:
            raise DataError("there is no environment")
        return self.inner


def demonstrate(
    policy: Policy | None, expert: Expert, env: EnvironmentSpec, tasks: Sequence[Task], seeds: Sequence[int]
) -> list[Group]:
    """One episode of the expert for each task, in groups of one; behaviour log-probabilities are unknown (0).

    Args:
        policy: whose acts the outputs become. None: nobody's, for looking at what experts do (``arrays_shown``).
        expert: who acts.
        env: makes the environments, one a task.
        tasks: P tasks.
        seeds: P seeds.

    Raises:
        DataError: the expert does not know the environment, or the policy cannot express an output.
    """
    stage = Stage(env)
    staged = _Staged(env.tasks, env.max_turns, env, stage)
    actor = ExpertActor(policy, expert, stage)
    return rollout(actor, staged, tasks, group_size=1, sampling=Sampling(), seeds=seeds)


def arrays_shown(groups: Sequence[Group], name: str) -> np.ndarray:
    """All arrays of this name in outputs and observations, float32 ``[M, D]``: what units of commands and states are
    made from. Vectors are one row each.

    Raises:
        DataError: there is none, or their rows differ in length.
    """
    rows: list[np.ndarray] = []
    for trajectory in (trajectory for group in groups for trajectory in group):
        for turn in trajectory.turns:
            rows += [np.atleast_2d(part.values) for part in turn.output if _named(part, name)]
        seen = [trajectory.prompt.content, *(turn.observation.content for turn in trajectory.turns if turn.observation)]
        rows += [np.atleast_2d(part.values) for content in seen for part in content if _named(part, name)]
    if len({block.shape[1:] for block in rows}) != 1:
        raise DataError(f"arrays {name!r} of one width are wanted, got widths {sorted({b.shape[1:] for b in rows})}")
    return np.concatenate(rows).astype(np.float32)


def _named(part: Part, name: str) -> TypeGuard[Array]:
    return isinstance(part, Array) and part.name == name


def _unread(output: Content) -> Act:
    empty = torch.zeros(0)
    return Act(output, None, empty, empty.bool(), empty.long())


def succeeded(trajectory: Trajectory) -> bool:
    """``info["success"]`` of the last turn; where the environment does not say, whether it paid anything in all."""
    if not trajectory.turns:
        return False
    paid = sum(turn.reward for turn in trajectory.turns)
    return bool(trajectory.turns[-1].info.get("success", paid > 0))


@dataclass(eq=False)
class ExpertDemonstrations(Feed):
    """Groups of one demonstration each, by an expert that acts in the live environment.

    With ``count`` so many demonstrations are recorded at the start and shown again for ever, in a new order each time
    round; the policy's memory of them is made once, with its weights at that moment. Without, each is a new one.

    Recording asks for one task after another until there are enough demonstrations.

    Raises:
        DataError: more than ``patience`` times as many episodes as demonstrations were wanted, with too few successes.
    """

    expert: Expert
    count: int | None = None
    """Demonstrations there are; None: no end of them."""
    batch: int | None = None
    """Demonstrations in one optimiser batch; None: as many as the recipe has trajectories."""
    only_success: bool = True
    """Leave out episodes in which the expert failed."""
    order: Order = field(default_factory=Shuffle)
    tasks: Tasks | None = None
    """Default: the environment's tasks."""
    patience: int = 4

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ConfigError(f"feed.count must be >= 1 or None, got {self.count}")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"feed.batch must be >= 1 or None, got {self.batch}")
        if self.patience < 1:
            raise ConfigError(f"feed.patience must be >= 1, got {self.patience}")
        self._drawn = 0
        self._asked = 0
        self._stats: dict[str, float] = {}

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        size = self.batch if self.batch is not None else problem.groups * problem.group_size
        recorded: list[Group] = []
        if self.count is not None:
            # Recorded again after a restart, from the first task on: equal seeds give equal demonstrations.
            self._asked = 0
            recorded = self._record(problem, state, self.count)
        while True:
            if self.count is None:
                groups = self._record(problem, state, size)
            else:
                positions = range(self._drawn, self._drawn + size)
                epochs = range(positions[0] // self.count, positions[-1] // self.count + 1)
                orders = {e: numpy_generator(problem.seed, "shown", e).permutation(self.count) for e in epochs}
                groups = [recorded[int(orders[i // self.count][i % self.count])] for i in positions]
            self._drawn += size
            yield groups

    def _record(self, problem: Problem, state: TrainState, wanted: int) -> list[Group]:
        source = self.tasks if self.tasks is not None else problem.env.tasks
        kept: list[Group] = []
        played = good = 0
        while len(kept) < wanted:
            if played >= self.patience * wanted:
                raise DataError(
                    f"the expert succeeded in {good} of {played} episodes, {wanted} demonstrations are wanted"
                )
            count = min(wanted - len(kept), self.patience * wanted - played)
            tasks = self.order.draw(source, self._asked, count, problem.seed, state.history)
            seeds = [fold_in(problem.seed, "expert", self._asked + i) for i in range(count)]
            self._asked += count
            groups = demonstrate(state.policy, self.expert, problem.env, tasks, seeds)
            played += count
            right = [group for group in groups if succeeded(group[0])]
            good += len(right)
            kept += right if self.only_success else groups
        score(kept, problem.rewards)
        turns = sum(group[0].num_turns for group in kept)
        self._stats = {"expert_success": good / played, "expert_turns": turns / len(kept)}
        return kept

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn, "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._drawn = int(state["drawn"])
        self._asked = int(state["asked"])

    @property
    def stats(self) -> Mapping[str, float]:
        return self._stats
