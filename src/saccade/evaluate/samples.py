"""Sample metrics: numbers about what a policy puts out, most of them means of rewards.

Training and evaluation share scorers. Trajectories that a reward leaves unscored have no row; ``Unscored`` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from saccade.core.errors import ConfigError
from saccade.core.metric import Metric, Models, Row
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Trajectory, forced_turn
from saccade.rewards.format import Tags
from saccade.rewards.learned import Comparator, compared
from saccade.rollout.score import score


@dataclass(frozen=True)
class Mean(Metric):
    """Mean total of a reward, without its weight, over the trajectories it scores."""

    reward: Reward

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [
            Row(group[0].task.id, total)
            for group, found in zip(groups, totals(self.reward, groups), strict=True)
            for total in found
            if total is not None
        ]


@dataclass(frozen=True)
class Unscored(Metric):
    """Share of trajectories that a reward leaves unscored."""

    reward: Reward

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [
            Row(group[0].task.id, float(total is None))
            for group, found in zip(groups, totals(self.reward, groups), strict=True)
            for total in found
        ]


@dataclass(frozen=True)
class PassAtK(Metric):
    """Probability that at least one of k rollouts of a task reaches the threshold, estimated without bias.

    ``pass@k = 1 - C(n - c, k) / C(n, k)`` for c successes among n scored rollouts (Chen et al., arXiv:2107.03374); one
    row a task. Tasks with fewer than k scored rollouts have none.

    Raises:
        ConfigError: a task has fewer than k rollouts; ``evaluation.n`` is too small.
    """

    reward: Reward
    k: int
    threshold: float = 1.0
    """Least total, without weight, that is a success."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be >= 1, got {self.k}")

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for group, found in zip(groups, totals(self.reward, groups), strict=True):
            if len(group) < self.k:
                raise ConfigError(f"evaluation.n must be >= {self.k} for PassAtK(k={self.k}), got {len(group)}")
            scored = [total for total in found if total is not None]
            right = sum(total >= self.threshold for total in scored)
            if len(scored) >= self.k:
                none = math.comb(len(scored) - right, self.k) / math.comb(len(scored), self.k)
                rows.append(Row(group[0].task.id, 1 - none))
        return rows


@dataclass(frozen=True)
class WinRate(Metric):
    """Mean probability that a judge prefers the trajectory to the task's gold outputs; 0.5 is a tie.

    The judge is asked in both orders, as in ``PairwiseJudge``. Tasks without gold have no rows.
    """

    judge: Comparator

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        ours = [trajectory for group in groups for trajectory in group if trajectory.task.gold]
        gold = [_gold(trajectory) for trajectory in ours]
        first = compared(self.judge, list(zip(ours, gold, strict=True)))
        second = compared(self.judge, list(zip(gold, ours, strict=True)))
        return [
            Row(trajectory.task.id, (as_first + 1 - as_second) / 2)
            for trajectory, as_first, as_second in zip(ours, first, second, strict=True)
        ]


@dataclass(frozen=True)
class ParseFailure(Metric):
    """Share of trajectories whose last output is not made of exactly these tag blocks (``rewards.format.Tags``)."""

    tags: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        Tags(self.tags)

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        form = Tags(self.tags)
        return [Row(trajectory.task.id, 1 - form.score(trajectory)) for group in groups for trajectory in group]


@dataclass(frozen=True)
class MeanLength(Metric):
    """Mean number of actions T of a trajectory."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [Row(trajectory.task.id, float(trajectory.num_actions)) for group in groups for trajectory in group]


def totals(reward: Reward, groups: Sequence[Group]) -> list[list[float | None]]:
    """Totals of a reward, without its weight, group by group; the trajectories' own scores stay as they are."""
    copies = [[replace(trajectory, scores={}) for trajectory in group] for group in groups]
    score(copies, {"": reward})
    return [[trajectory.scores[""].total for trajectory in group] for group in copies]


def _gold(trajectory: Trajectory) -> Trajectory:
    turns = [forced_turn(output, None, 1) for output in trajectory.task.gold]
    return Trajectory(trajectory.prompt, turns)
