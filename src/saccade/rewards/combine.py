"""Rewards made of rewards. The score of an inner reward counts times that reward's own ``weight``.

Placement survives where it has a meaning: what an inner reward pays at a turn or action is paid there by ``Gate``,
``Sum`` and ``Dispatch`` too. ``Product`` and ``Clip`` work on totals and pay at the end.
A weight that changes over the run is no reward: rewards do not know the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.reward import Reward, Scope, Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.answer import column


@dataclass(frozen=True, kw_only=True)
class Gate(Reward):
    """The inner reward where the gate's total is at least ``at_least``, else 0; unscored where the gate is.

    ViLaSR (arXiv:2506.09965) pays the format only for right answers. ``inner`` is asked about the trajectories that
    pass.
    """

    gate: Reward
    inner: Reward
    at_least: float = 1e-6
    """Least total of the gate; the default lets anything above 0 pass."""

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _scope(self.gate, self.inner)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        gates = [score.total for score in scores(self.gate, trajectories)]
        passed = [i for i, total in enumerate(gates) if total is not None and total >= self.at_least]
        paid = _partly(self.inner, trajectories, passed)
        return [
            paid[i] if i in paid else Score(None if total is None else 0.0, note="gate closed")
            for i, total in enumerate(gates)
        ]


@dataclass(frozen=True)
class Sum(Reward):
    """sum_i w_i R_i with the terms' own weights; unscored if a term of non-zero weight is."""

    terms: tuple[Reward, ...]

    def __post_init__(self) -> None:
        _check_parts("terms", self.terms)

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _scope(*self.terms)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        columns = [scores(term, trajectories) for term in self.terms if term.weight]
        rows = zip(*columns, strict=True) if columns else ([] for _ in trajectories)
        return [_added(list(row)) for row in rows]


@dataclass(frozen=True)
class Product(Reward):
    """prod_i w_i R_i over the totals of the factors, paid at the end; unscored if a factor is."""

    factors: tuple[Reward, ...]

    def __post_init__(self) -> None:
        _check_parts("factors", self.factors)

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _scope(*self.factors)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        rows = zip(*(scores(factor, trajectories) for factor in self.factors), strict=True)
        return [_multiplied(row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Clip(Reward):
    """min(high, max(low, R)). A total inside the range keeps its placement, another is paid at the end."""

    inner: Reward
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ConfigError(f"low must be <= high, got {self.low} and {self.high}")

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _scope(self.inner)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        return [self._clipped(score) for score in scores(self.inner, trajectories)]

    def _clipped(self, score: Score) -> Score:
        total = score.total
        if total is None or self.low <= total <= self.high:
            return score
        return Score(float(min(self.high, max(self.low, total))), note=score.note)


@dataclass(frozen=True, kw_only=True)
class Dispatch(Reward):
    """The reward that the task names:  ``by[task.info[field]]``. RePIC (arXiv:2506.18369) is a dispatch of three.

    Raises:
        DataError: a task has neither ``info[field]`` nor a column of this name, or it is not text.
    """

    by: Mapping[str, Reward]
    field: str = "kind"
    """Key of ``task.info``, or a column of the user's data."""
    otherwise: float | None = None
    """Score of tasks that name no reward of ``by``. None: unscored, which is right for a metric. In training an
    unscored reward of non-zero weight takes the trajectory out, so say 0 there if other rewards are to go on."""

    def __post_init__(self) -> None:
        _check_parts("by", tuple(self.by.values()))

    @property
    def scope(self) -> Scope:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _scope(*self.by.values())

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        members: dict[str, list[int]] = {}
        for i, trajectory in enumerate(trajectories):
            members.setdefault(self._kind(trajectory), []).append(i)
        found = dict.fromkeys(range(len(trajectories)), _as_score(self.otherwise))
        for kind in members.keys() & self.by.keys():
            found |= _partly(self.by[kind], trajectories, members[kind])
        return list(found.values())

    def _kind(self, trajectory: Trajectory) -> str:
        kind = column(trajectory.task, self.field)
        if not isinstance(kind, str):
            task = f"task {trajectory.task.id!r}"
            raise DataError(
                f"{task}: Dispatch expects text in info.{self.field} or a column of this name, got {kind!r}"
            )
        return kind


@dataclass(frozen=True, kw_only=True)
class Joint(Reward):
    """The inner reward of the trajectory and that of its partner:  R_i = r_i + r_j  (CoRL, arXiv:2505.17534).

    Partners belong to different tasks with the same ``info[field]`` and have the same place in their groups. Both get
    the same sum, so that an advantage relative to the group is the same for both: what one of them does well is taught
    to the other. Of several groups with the same record the neighbours are paired; without a partner in the batch, or
    if one of the two cannot be scored, a trajectory is unscored. ``feeds.curriculum.Blocks`` draws partners together.
    """

    scope: ClassVar[Scope] = "batch"

    inner: Reward
    """Looks at one trajectory at a time."""
    field: str = "record"
    """Key of ``task.info``, or a column of the user's data, that partners have in common."""

    def __post_init__(self) -> None:
        if self.inner.scope != "trajectory":
            raise ConfigError(f"inner must be a reward of scope trajectory, {type(self.inner).__name__} is not")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        own = scores(self.inner, trajectories)
        found = [Score(None, note="no partner")] * len(trajectories)
        for first, second in self._pairs(trajectories):
            for i, j in zip(first, second, strict=False):
                total, other = own[i].total, own[j].total
                if total is None or other is None:
                    found[i] = found[j] = Score(None, note="one of the two is unscored")
                else:
                    note = f"{total:.3g} and {other:.3g}"
                    found[i], found[j] = Score(total + other, note=note), Score(other + total, note=note)
        return found

    def _pairs(self, trajectories: Sequence[Trajectory]) -> list[tuple[list[int], list[int]]]:
        """Members of paired groups, in order."""
        groups: dict[int, list[int]] = {}
        for i, trajectory in enumerate(trajectories):
            groups.setdefault(id(trajectory.prompt), []).append(i)
        waiting: dict[Any, list[int]] = {}
        pairs: list[tuple[list[int], list[int]]] = []
        for members in groups.values():
            task = trajectories[members[0]].task
            record = column(task, self.field)
            if record is None:
                raise DataError(f"task {task.id!r}: Joint expects info.{self.field} or a column of this name")
            earlier = waiting.pop(record, None)
            if earlier is None or trajectories[earlier[0]].task.id == task.id:
                waiting[record] = members
            else:
                pairs.append((earlier, members))
        return pairs


def scores(reward: Reward, trajectories: Sequence[Trajectory]) -> list[Score]:
    """What the reward says, as scores, times its weight.

    Raises:
        ContractError: another number of scores than trajectories.
    """
    found = [_as_score(one) for one in reward(trajectories)] if trajectories else []
    if len(found) != len(trajectories):
        name = type(reward).__name__
        raise ContractError(f"reward {name} returned {len(found)} scores for {len(trajectories)} trajectories")
    return [_weighted(score, reward.weight) for score in found]


def _partly(reward: Reward, trajectories: Sequence[Trajectory], index: list[int]) -> dict[int, Score]:
    """Scores of the trajectories with these indices; a reward that compares trajectories sees all of them."""
    if reward.scope != "trajectory":
        all_of_them = scores(reward, trajectories) if index else []
        return {i: all_of_them[i] for i in index}
    return dict(zip(index, scores(reward, [trajectories[i] for i in index]), strict=True))


def _as_score(found: Score | float | None) -> Score:
    return found if isinstance(found, Score) else Score(None if found is None else float(found))


def _weighted(score: Score, weight: float) -> Score:
    if score.value is None or weight == 1:
        return score
    return replace(
        score,
        value=weight * score.value,
        turns={k: weight * pay for k, pay in score.turns.items()},
        actions=None if score.actions is None else [weight * pay for pay in score.actions],
    )


def _added(parts: Sequence[Score]) -> Score:
    note = "; ".join(score.note for score in parts if score.note)
    values = [score.value for score in parts if score.value is not None]
    if len(values) < len(parts):
        return Score(None, note=note)
    turns: dict[int, float] = {}
    for score in parts:
        for k, pay in score.turns.items():
            turns[k] = turns.get(k, 0.0) + pay
    streams = [score.actions for score in parts if score.actions is not None]
    actions = [math.fsum(pays) for pays in zip(*streams, strict=True)] if streams else None
    return Score(math.fsum(values), turns, actions, note)


def _multiplied(parts: Sequence[Score]) -> Score:
    totals = [score.total for score in parts]
    note = "; ".join(score.note for score in parts if score.note)
    if any(total is None for total in totals):
        return Score(None, note=note)
    return Score(math.prod(total for total in totals if total is not None), note=note)


def _scope(*parts: Reward) -> Scope:
    """What the most demanding of the parts asks for."""
    asked = {part.scope for part in parts}
    if {"group", "batch"} <= asked:
        raise ConfigError("rewards of scope group and batch cannot be parts of one reward")
    return "batch" if "batch" in asked else "group" if "group" in asked else "trajectory"


def _check_parts(name: str, parts: tuple[Reward, ...]) -> None:
    if not parts or not all(isinstance(part, Reward) for part in parts):
        raise ConfigError(f"{name} must be one or more rewards, got {parts!r}")
