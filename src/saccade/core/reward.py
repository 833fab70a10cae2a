"""Rewards: trajectories in, scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from saccade.core.schedule import Constant, Schedule

if TYPE_CHECKING:
    from saccade.core.trajectory import Prompt, Trajectory


Scope = Literal["trajectory", "group", "batch"]
"""What a reward gets in one call and its scores may depend on."""


@dataclass(frozen=True)
class Score:
    """What a reward says of one trajectory, and where it pays.

    ``value`` is paid at the last action of the trajectory, ``turns[k]`` at the last action of turn k, ``actions[t]`` at
    action t. A ``None`` value means the trajectory cannot be scored: it leaves group statistics and training.
    """

    value: float | None
    turns: Mapping[int, float] = field(default_factory=dict)
    actions: Sequence[float] | None = None
    """One number per action of the trajectory (process rewards)."""
    note: str = ""
    """Why, in a few words; shown in galleries."""

    @property
    def total(self) -> float | None:
        """All that is paid, or None if the trajectory cannot be scored."""
        if self.value is None:
            return None
        return self.value + sum(self.turns.values()) + sum(self.actions or ())


@dataclass(frozen=True, kw_only=True)
class Reward(ABC):
    """A batch of trajectories in, a list of equally many scores out.

    With scope ``"trajectory"`` the batch is arbitrary and a score may depend on its own trajectory only; with scope
    ``"group"`` every call gets exactly one group, with ``"batch"`` all groups of one round of rollouts, one after
    another. Exceptions propagate: they are bugs, never rewards.
    ``weight=0`` makes a reward a logged metric.
    """

    scope: ClassVar[Scope] = "trajectory"
    weight: float = 1.0
    """Factor in the sum of rewards; 0 logs the reward without training on it."""
    weight_schedule: Schedule = Constant()
    """Factor on ``weight`` over the run: rewards can be annealed. Selection of groups and pairs does not follow it."""

    @abstractmethod
    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[Score | float | None]: ...


@dataclass(frozen=True, kw_only=True)
class SampleReward(Reward):
    """A reward that looks at one trajectory at a time."""

    @abstractmethod
    def score(self, trajectory: Trajectory) -> Score | float | None:
        """The score of one trajectory; None if it cannot be scored."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[Score | float | None]:
        return [self.score(trajectory) for trajectory in trajectories]


@dataclass(frozen=True, kw_only=True)
class DifferentiableReward(Reward):
    """A reward of pictures that has a gradient: pathwise objectives follow it through the sampler."""

    @abstractmethod
    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        """The scores of RGB images in [0, 1], one prompt each; those of ``__call__`` but for rounding to uint8."""
