"""Recipes: a complete, runnable method as one frozen value, and the ablation that is its executable claim."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from saccade.advantages.group import GroupNorm
from saccade.core.advantage import Advantage
from saccade.core.batch import Average
from saccade.core.environment import EnvironmentSpec, Tasks
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.metric import Metric
from saccade.core.objective import Objective
from saccade.core.optimiser import AdamW, Optimiser
from saccade.core.policy import CriticSpec, PolicySpec, Sampling
from saccade.core.reference import Initial, Reference
from saccade.core.reward import Reward
from saccade.core.schedule import Constant, Schedule
from saccade.core.state import Progress
from saccade.feeds.on_policy import OnPolicy

Size = Literal["tiny", "base"]
Pillar = Literal["vlm", "generation", "unified", "vla"]
T = TypeVar("T")


def pick(size: Size, *, tiny: T, base: T) -> T:
    """The value for this size."""
    return tiny if size == "tiny" else base


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = 200
    """Batches of rollouts (or of data) to learn from."""
    groups: int = 8
    """Tasks per step, all ranks."""
    group_size: int = 8
    """Trajectories per task."""
    minibatches: int = 1
    """Optimiser steps per pass over a step's trajectories; groups stay whole."""
    epochs: int = 1
    """Passes over a step's trajectories."""
    micro_size: int = 16384
    """Most ``policy.size`` units per forward pass; changes memory, never the gradient."""
    lr: float = 1e-6
    lr_schedule: Schedule = Constant()
    """Factor on ``lr``."""
    optimiser: Optimiser = AdamW()
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    old_logp: Literal["behaviour", "recompute"] = "behaviour"
    """Where ratios take their denominator: from the actor, or re-evaluated before the first update."""
    reference: Reference = Initial()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "groups", "group_size", "minibatches", "epochs", "micro_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} must be > 0, got {getattr(self, name)}")
        if self.minibatches > self.groups:
            raise ConfigError(f"train.minibatches must be <= train.groups = {self.groups}, got {self.minibatches}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    tasks: Tasks | None = None
    """Default: the held-out split of the environment's tasks."""
    limit: int = 256
    """Most tasks evaluated."""
    n: int = 1
    """Rollouts per task."""
    every: int = 0
    """Steps between evaluations during training; 0 evaluates before the first and after the last step only."""
    sampling: Sampling = Sampling(deterministic=True)
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit < 1 or self.n < 1 or self.every < 0:
            raise ConfigError(
                f"evaluation needs limit >= 1, n >= 1, every >= 0, got {self.limit}, {self.n} and {self.every}"
            )


@dataclass(frozen=True)
class Ablation:
    """The executable claim: with the mechanism the metric is better by more than ``margin``."""

    metric: str
    """A key of the final evaluation, without the ``eval/`` in front; ``train/<key>`` for a key of ``metrics.jsonl``,
    averaged over the last quarter of training."""
    without: Mapping[str, object]
    """Dotted overrides that switch the mechanism off and leave the nearest earlier method."""
    margin: float = 0.0
    """Least difference, in the metric's units, averaged over seeds."""
    higher: bool = True
    """Whether more is better."""
    seeds: tuple[int, ...] = (0, 1, 2)
    common: Mapping[str, object] = field(default_factory=dict)
    """Dotted overrides for both arms: a budget, a set-up in which the mechanism can be seen."""
    note: str = ""
    """What a reader of the result should know."""

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ConfigError(f"ablation.margin must be >= 0, got {self.margin}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What comes before the recipe itself: a cold start, a curriculum phase. Fields replace the recipe's."""

    feed: Feed
    objective: Mapping[str, Objective]
    train: Train
    average: Average = "action"
    env: EnvironmentSpec | None = None
    rewards: Mapping[str, Reward] | None = None
    advantage: Advantage = GroupNorm()
    policy: PolicySpec | None = None
    """Another description of the same network: recipes that differ in how they sample and score share the stage."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    policy: PolicySpec
    env: EnvironmentSpec
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    advantage: Advantage = GroupNorm()
    average: Average
    """What counts equally in the loss: action, trajectory, group, or an int to divide by."""
    objective: Mapping[str, Objective]
    feed: Feed = field(default_factory=OnPolicy)
    train: Train = Train()
    critic: CriticSpec | None = None
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """Run before, in order, weights carried on; their results are cached."""
    evaluation: Evaluation = Evaluation()
    ablation: Ablation | None = None

    def __post_init__(self) -> None:
        if not self.objective:
            raise ConfigError("objective must name at least one objective")
        if "value" in self.needs and self.critic is None:
            raise CapabilityError("an objective or advantage needs values: set the recipe's critic")
        if self.ablation is not None and not self.ablation.metric.startswith("train/"):
            metric = self.ablation.metric
            if metric not in self.evaluation.metrics:
                known = ", ".join(self.evaluation.metrics)
                raise ConfigError(f"ablation.metric {metric!r} is not an evaluation metric; known: {known}")

    @property
    def needs(self) -> frozenset[str]:
        """Everything the advantage and the objectives require."""
        return self.advantage.requires.union(*(objective.requires for objective in self.objective.values()))

    @property
    def problem(self) -> Problem:
        """What the feed needs to know."""
        return Problem(self.env, self.rewards, self.train.groups, self.train.group_size, self.train.seed)

    def reward_weight(self, progress: Progress) -> dict[str, float]:
        """The factor of each reward at this point of the run."""
        return {name: reward.weight * reward.weight_schedule(progress) for name, reward in self.rewards.items()}

    def staged(self, name: str) -> Recipe:
        """The recipe of one of the stages that come before."""
        stage = self.stages[name]
        return replace(
            self,
            policy=stage.policy or self.policy,
            feed=stage.feed,
            objective=stage.objective,
            train=stage.train,
            average=stage.average,
            env=stage.env or self.env,
            rewards=self.rewards if stage.rewards is None else stage.rewards,
            advantage=stage.advantage,
            critic=None,
            stages={},
            ablation=None,
        )


@dataclass(frozen=True)
class Entry:
    """A recipe function as ``saccade list`` shows it."""

    name: str
    make: Callable[..., Recipe]
    """``make(size)``; generic recipes take keyword settings besides."""
    paper: str
    """arXiv number, or a few words where there is none."""
    pillar: Pillar
    title: str
    mechanism: str
    without: str
    differences: str

    @property
    def doc(self) -> str:
        return inspect.getdoc(inspect.getmodule(self.make)) or ""


ENTRIES: dict[str, Entry] = {}
"""Filled by the decorator when the modules of ``saccade.recipes`` are imported."""

RecipeFunction = TypeVar("RecipeFunction", bound=Callable[..., Recipe])


def recipe(*, paper: str, pillar: Pillar) -> Callable[[RecipeFunction], RecipeFunction]:
    """Register a recipe function under its own name.

    Its module's docstring opens with one line and has the paragraphs ``Mechanism:``, ``Without it:`` and
    ``Differences:`` (from the paper).
    """

    def register(make: RecipeFunction) -> RecipeFunction:
        text = inspect.getdoc(inspect.getmodule(make)) or ""
        name = make.__name__
        if name in ENTRIES and ENTRIES[name].make.__module__ != make.__module__:
            raise ConfigError(f"two recipes are called {name!r}")
        parts = {key: _paragraph(text, key) for key in ("Mechanism", "Without it", "Differences")}
        for key, part in parts.items():
            if not part:
                raise ConfigError(f"recipe {name}: the module's docstring has no paragraph {key!r}")
        ENTRIES[name] = Entry(name, make, paper, pillar, text.splitlines()[0], *parts.values())
        return make

    return register


def _paragraph(text: str, key: str) -> str:
    found = re.search(rf"^{key}:\s*(.+?)(?:\n\s*\n|\n(?=[A-Z][A-Za-z ]+:)|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""
