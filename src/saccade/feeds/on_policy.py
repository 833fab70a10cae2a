"""Tasks -> rollouts -> rewards -> groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saccade.core.errors import ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Actor, Sampling
from saccade.core.random import fold_in
from saccade.core.reward import Reward
from saccade.core.state import TrainState
from saccade.core.trajectory import Group, Trajectory
from saccade.feeds.curriculum import Order, Shuffle
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score


def outcome(trajectory: Trajectory, rewards: Mapping[str, Reward]) -> float | None:
    """Weighted sum of all scores; None if a reward of non-zero weight could not score the trajectory."""
    total = 0.0
    for name, found in trajectory.scores.items():
        weight = rewards[name].weight if name in rewards else 1.0
        if weight == 0:
            continue
        if (paid := found.total) is None:
            return None
        total += weight * paid
    return total


@dataclass(frozen=True)
class Select(ABC):
    """Which groups are worth learning from."""

    @abstractmethod
    def keep(self, group: Group, rewards: Mapping[str, Reward]) -> bool: ...


@dataclass(frozen=True)
class Everything(Select):
    def keep(self, group: Group, rewards: Mapping[str, Reward]) -> bool:
        return True


@dataclass(frozen=True)
class NonUniform(Select):
    """Dynamic sampling of DAPO (arXiv:2503.14476): drop groups whose members all got the same.

    Compared is the outcome, or the one reward named by ``reward``.
    """

    reward: str = ""
    tolerance: float = 1e-6

    def keep(self, group: Group, rewards: Mapping[str, Reward]) -> bool:
        if self.reward and self.reward not in rewards:
            raise ConfigError(f"select.reward: there is no reward {self.reward!r}; known: {', '.join(rewards)}")
        paid = [t.scores[self.reward].total if self.reward else outcome(t, rewards) for t in group]
        known = [value for value in paid if value is not None]
        return bool(known) and max(known) - min(known) > self.tolerance


@dataclass(eq=False)
class OnPolicy(Feed):
    """Groups of fresh rollouts of the current policy.

    Groups that ``select`` refuses are dropped; up to ``refill`` further rounds of rollouts replace them. If nothing was
    kept, the last round is yielded as it is, so that a step is never empty (its advantages are what they are).
    """

    sampling: Sampling = field(default_factory=Sampling)
    select: Select = field(default_factory=Everything)
    refill: int = 0
    """Most extra rounds of rollouts per step that replace dropped groups."""
    order: Order = field(default_factory=Shuffle)
    greedy: bool = False
    """Add one greedy rollout to each group: untrained, the baseline of ReMax."""

    def __post_init__(self) -> None:
        if self.refill < 0:
            raise ConfigError(f"feed.refill must be >= 0, got {self.refill}")
        self._drawn = 0
        self._stats: dict[str, float] = {}

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        while True:
            kept: list[Group] = []
            drawn: list[Group] = []
            rounds = total = 0
            while len(kept) < problem.groups and rounds <= self.refill:
                drawn = self._round(problem, actor, state, problem.groups - len(kept))
                kept += [group for group in drawn if self.select.keep(group, problem.rewards)]
                total += len(drawn)
                rounds += 1
            self._stats = {"groups": float(len(kept)), "kept": len(kept) / total, "rounds": float(rounds)}
            yield kept or drawn

    def _round(self, problem: Problem, actor: Actor, state: TrainState, count: int) -> list[Group]:
        tasks = self.order.draw(problem.env.tasks, self._drawn, count, problem.seed, state.history)
        seeds = [fold_in(problem.seed, "rollout", self._drawn + i) for i in range(count)]
        self._drawn += count
        size = problem.group_size
        groups = rollout(actor, problem.env, tasks, group_size=size, sampling=self.sampling, seeds=seeds)
        if self.greedy:
            sampling = replace(self.sampling, deterministic=True)
            extra = rollout(actor, problem.env, tasks, group_size=1, sampling=sampling, seeds=seeds)
            for group, (baseline,) in zip(groups, extra, strict=True):
                baseline.prompt = group[0].prompt
                group.append(baseline)
        score(groups, problem.rewards)
        return groups

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._drawn = int(state["drawn"])

    @property
    def stats(self) -> Mapping[str, float]:
        return self._stats
