"""What is in a picture, where all pictures there can be are known: the attributes of the nearest of them.

An exact verifier needs no model: ``templates`` is a task set whose gold pictures are all scenes of a small world and
whose targets are mappings of attribute to value. The nearest is that of least squared distance over all pixels.
Every picture is nearest to some scene: one of nothing gets what it has in common with that scene by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saccade.core.content import Image, images_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.networks import planes


@dataclass(frozen=True, kw_only=True)
class SceneAttributes(SampleReward):
    """Share of the target's attributes that the last picture of the last output has; 0 without a picture.

    Raises:
        DataError: the target is not a mapping, or names an attribute that the templates do not have.
    """

    templates: Tasks

    def score(self, trajectory: Trajectory) -> Score:
        found = _matches(self.templates, trajectory)
        if not found:
            return Score(0.0, note="no picture")
        wrong = [name for name, right in found.items() if not right]
        return Score(1 - len(wrong) / len(found), note=f"wrong {', '.join(wrong)}" if wrong else "all right")


@dataclass(frozen=True, kw_only=True)
class SceneComplete(SampleReward):
    """1 if the last picture of the last output has every attribute of the target, else 0."""

    templates: Tasks

    def score(self, trajectory: Trajectory) -> float:
        found = _matches(self.templates, trajectory)
        return float(bool(found) and all(found.values()))


@dataclass(frozen=True, kw_only=True)
class SceneIntact(SampleReward):
    """1 if the last picture of the last output is one of the scenes, whichever, else 0.

    It is if the mean squared distance to the nearest, over pixels and channels in [0, 1], is at most ``tolerance``.
    The other verifiers only ask which scene is nearest, and can be content with pieces of several.
    """

    templates: Tasks
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError(f"tolerance must be >= 0, got {self.tolerance}")

    def score(self, trajectory: Trajectory) -> float:
        if trajectory.image is None:
            return 0.0
        distance, _ = _distances(self.templates, trajectory.image)
        return float(distance.min() <= self.tolerance)


def nearest(templates: Tasks, image: Image) -> Mapping[str, Any]:
    """Attributes of the template that is nearest to the picture."""
    distance, attributes = _distances(templates, image)
    return attributes[int(distance.argmin())]


def _distances(templates: Tasks, image: Image) -> tuple[Float[Tensor, "K"], list[Mapping[str, Any]]]:
    """Mean squared distance to every template, and what the templates show."""
    side, pictures, attributes = _known(templates)
    return (pictures - planes([image], side).flatten(1)).square().mean(1), attributes


def _matches(templates: Tasks, trajectory: Trajectory) -> dict[str, bool]:
    """Attribute by attribute, whether the picture has it; empty without a picture."""
    target, where = trajectory.task.target, f"task {trajectory.task.id!r}"
    if not isinstance(target, Mapping) or not target:
        raise DataError(f"{where}: the target must be a mapping of attributes, got {target!r:.60}")
    if trajectory.image is None:
        return {}
    seen = nearest(templates, trajectory.image)
    unknown = [name for name in target if name not in seen]
    if unknown:
        raise DataError(f"{where}: the templates have no attribute {unknown[0]!r}, only {', '.join(seen)}")
    return {name: seen[name] == value for name, value in target.items()}


@lru_cache(maxsize=8)
def _known(templates: Tasks) -> tuple[int, Float[Tensor, "K D"], list[Mapping[str, Any]]]:
    pictures: list[Image] = []
    attributes: list[Mapping[str, Any]] = []
    for task in templates:
        shown = images_of(task.gold[-1]) if task.gold else []
        if len(shown) != 1 or not isinstance(task.target, Mapping):
            raise DataError(f"task {task.id!r}: a template is one gold picture and a mapping of attributes as target")
        pictures += shown
        attributes.append(task.target)
    if not pictures:
        raise DataError("the task set of templates is empty")
    side = pictures[0].width
    return side, planes(pictures, side).flatten(1), attributes
