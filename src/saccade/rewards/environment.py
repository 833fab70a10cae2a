"""What the environment itself said of the episode."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class EnvironmentReward(SampleReward):
    """What the environment paid, at the turn it paid for:  r_k = Turn.reward of turn k."""

    def score(self, trajectory: Trajectory) -> Score:
        return Score(0.0, turns={k: float(turn.reward) for k, turn in enumerate(trajectory.turns) if turn.reward})


@dataclass(frozen=True, kw_only=True)
class TurnCount(SampleReward):
    """Number of turns K. A metric, or with a negative weight a price for turns."""

    def score(self, trajectory: Trajectory) -> float:
        return float(trajectory.num_turns)
