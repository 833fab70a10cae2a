"""Run rewards over groups and fill ``Trajectory.scores``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from saccade.core.errors import ContractError
from saccade.core.reward import Reward, Score
from saccade.core.trajectory import Group, Trajectory


def score(groups: Sequence[Group], rewards: Mapping[str, Reward]) -> None:
    """Score every trajectory under every reward, in place. Exceptions of a reward propagate.

    Raises:
        ContractError: a reward returned another number of scores than it got trajectories, something that is no score,
            or a number that is not finite.
    """
    trajectories = [trajectory for group in groups for trajectory in group]
    for name, reward in rewards.items():
        calls = [list(group) for group in groups] if reward.scope == "group" else [trajectories]
        for call in calls:
            scores = list(reward(call))
            if len(scores) != len(call):
                raise ContractError(f"reward {name!r} returned {len(scores)} scores for {len(call)} trajectories")
            for trajectory, found in zip(call, scores, strict=True):
                trajectory.scores[name] = _as_score(name, trajectory, found)


def _as_score(name: str, trajectory: Trajectory, found: Score | float | None) -> Score:
    where = f"reward {name!r}, task {trajectory.task.id!r}"
    if found is None:
        return Score(None)
    if isinstance(found, bool | int | float):
        found = Score(float(found))
    if not isinstance(found, Score):
        raise ContractError(f"{where}: expected a number, a Score or None, got {type(found).__name__}")
    numbers = [found.value or 0.0, *found.turns.values(), *(found.actions or ())]
    if not all(math.isfinite(number) for number in numbers):
        raise ContractError(f"{where}: expected a finite number, got {found.value}")
    return found
