"""Feeds: where trajectories come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saccade.core.environment import EnvironmentSpec
from saccade.core.policy import Actor
from saccade.core.reward import Reward
from saccade.core.state import TrainState
from saccade.core.trajectory import Group


@dataclass(frozen=True)
class Problem:
    """What a feed needs to know of a recipe; keeps feeds below recipes."""

    env: EnvironmentSpec
    rewards: Mapping[str, Reward]
    groups: int
    """Groups to yield each time."""
    group_size: int
    seed: int


class Feed(ABC):
    """A dataclass whose settings are fields and whose position is private state.

    ``train`` works on a copy, so that a recipe can be trained twice. Feeds draw all randomness from the problem's seed
    and their position: after ``load_state_dict`` the stream goes on exactly where it was saved.
    """

    @abstractmethod
    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        """Yield the groups of one optimiser batch after another, scored, without end.

        The position is advanced before each yield: what is saved while a batch is being learned resumes at the next.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    @property
    def needs_reference(self) -> bool:
        """Whether the stream is drawn with ``state.reference``."""
        return False

    @property
    def stats(self) -> Mapping[str, float]:
        """Numbers about the last yield, logged under ``feed/``."""
        return {}
