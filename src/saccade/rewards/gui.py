"""Rewards of single steps on a screen.

The action is read from what the environment noted of the last turn, ``Turn.info["action"]``: a mapping of ``type`` and
of what the type needs, ``point`` (x, y in pixels of the image the policy saw), ``text`` or ``direction``; or None where
the output holds no action. So rewards and environments agree on what was said. The target is a mapping of ``type``,
``box`` (x1 y1 x2 y2, or x y where only a point is known), ``text`` and ``direction``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade.core.content import frames_of, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.answer import AnswerReward
from saccade.rewards.parse import blocks, points

_WORDED = ("type", "select", "open_app")
"""Types of action whose text is compared."""


@dataclass(frozen=True, kw_only=True)
class ActionReward(SampleReward):
    """Compares the action of the last turn with the target's.

    A task without target leaves the trajectory unscored, so does an episode without turns.

    Raises:
        DataError: the environment notes no actions, or the target is not as the module says.
    """

    @abstractmethod
    def grade(self, action: Mapping[str, Any] | None, target: Mapping[str, Any], trajectory: Trajectory) -> float:
        """The score of an action; None stands for an output that holds none."""

    def score(self, trajectory: Trajectory) -> Score | None:
        target = trajectory.task.target
        if target is None or not trajectory.turns:
            return None
        where = f"task {trajectory.task.id!r}"
        if not isinstance(target, Mapping) or not isinstance(target.get("type"), str):
            raise DataError(f"{where}: the target must be a mapping with the action's type, got {target!r:.80}")
        info = trajectory.turns[-1].info
        if "action" not in info:
            raise DataError(f"{where}: the environment does not note the action that {type(self).__name__} reads")
        action = info["action"]
        note = "no action" if action is None else f"{action['type']} for {target['type']}"
        return Score(self.grade(action, target, trajectory), note=note)


@dataclass(frozen=True, kw_only=True)
class StepAccuracy(ActionReward):
    """1 if the action is the target's, else 0: the accuracy of GUI-R1's reward (arXiv:2504.10458).

    - Types differ: 0.
    - Click: strictly inside the box; where the target is a point, closer than ``radius``.
    - Scroll: the same direction.
    - Type, select, open_app: F1 >= ``f1`` of the sets of words in lower case, F1 = 2PR / (P + R); two single words
      agree if one is part of the other.
    - Any other type: 1.

    The published code compares directions by F1, too; for one of four words that is equality.
    """

    radius: float = 140.0
    """Pixels; 140 is for pictures of about a megapixel."""
    f1: float = 0.5
    """In (0, 1]."""

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise ConfigError(f"radius must be > 0, got {self.radius}")
        if not 0 < self.f1 <= 1:
            raise ConfigError(f"f1 must be in (0, 1], got {self.f1}")

    def grade(self, action: Mapping[str, Any] | None, target: Mapping[str, Any], trajectory: Trajectory) -> float:
        kind = target["type"]
        if action is None or action["type"] != kind:
            return 0.0
        if kind == "click":
            return float(self._clicks(action["point"], _place(target, trajectory)))
        if kind == "scroll":
            return float(action["direction"] == _text(target, "direction", trajectory).casefold())
        if kind in _WORDED:
            return float(word_f1(action["text"], _text(target, "text", trajectory)) >= self.f1)
        return 1.0

    def _clicks(self, point: tuple[float, float], place: tuple[float, ...]) -> bool:
        x, y = point
        if len(place) == 2:
            return (x - place[0]) ** 2 + (y - place[1]) ** 2 < self.radius**2
        return place[0] < x < place[2] and place[1] < y < place[3]


@dataclass(frozen=True, kw_only=True)
class ClickAccuracy(StepAccuracy):
    """``StepAccuracy`` of clicks; whatever else is asked for pays nothing.

    What GUI-R1's unified reward is compared with: a reward that knows clicks only.
    """

    def grade(self, action: Mapping[str, Any] | None, target: Mapping[str, Any], trajectory: Trajectory) -> float:
        return super().grade(action, target, trajectory) if target["type"] == "click" else 0.0


@dataclass(frozen=True, kw_only=True)
class ActionFormat(SampleReward):
    """1 if the last output is made of these blocks and the environment could read an action from it, else 0.

    Without tags only the latter counts. Raises DataError where the environment does not note what it read.
    """

    tags: tuple[str, ...] = ("think", "answer")

    def score(self, trajectory: Trajectory) -> float | None:
        if not trajectory.turns:
            return None
        turn = trajectory.turns[-1]
        if "action" not in turn.info:
            raise DataError(f"task {trajectory.task.id!r}: the environment does not note the action of a turn")
        formed = not self.tags or blocks(text_of(turn.output), self.tags) is not None
        return float(formed and turn.info["action"] is not None)


@dataclass(frozen=True, kw_only=True)
class UnifiedAction(SampleReward):
    """GUI-R1's one reward for all actions:  R = accuracy * R_accuracy + format * R_format, both 0 or 1.

    R_accuracy is ``StepAccuracy`` (or another ``of``), R_format ``ActionFormat`` (arXiv:2504.10458).
    """

    accuracy: float = 0.8
    format: float = 0.2
    of: StepAccuracy = StepAccuracy()
    tags: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        if min(self.accuracy, self.format) < 0:
            raise ConfigError(f"accuracy and format must be >= 0, got {self.accuracy} and {self.format}")

    def score(self, trajectory: Trajectory) -> Score | None:
        right = self.of.score(trajectory)
        formed = ActionFormat(tags=self.tags).score(trajectory)
        if right is None or right.value is None or formed is None:
            return None
        return Score(
            self.accuracy * right.value + self.format * formed, note=f"{right.note}, {'' if formed else 'not '}formed"
        )


@dataclass(frozen=True, kw_only=True)
class ClickInBox(AnswerReward):
    """1 if the answer holds exactly one point and it lies in the target box, borders included, else 0.

    GTA1 (arXiv:2507.05791): the only reward of its grounding model. A point is a run of two numbers, in pixels:
    ``(12,20)``, ``click 12 20``. A target whose box is None leaves the trajectory unscored.
    """

    field: str = "box"

    expects = "a box x1 y1 x2 y2 with x1 < x2 and y1 < y2"

    def read(self, target: Any) -> tuple[float, float, float, float]:
        return _box(target)

    def grade(self, answer: str, target: tuple[float, float, float, float], trajectory: Trajectory) -> Score:
        found = points(answer)
        if len(found) != 1:
            return Score(0.0, note=f"{len(found)} points")
        x, y = found[0]
        return Score(float(target[0] <= x <= target[2] and target[1] <= y <= target[3]))


@dataclass(frozen=True, kw_only=True)
class QuadraticPoint(AnswerReward):
    """hit * 1[point in box] + 1 - (d / d_max)^2 for the first point of the answer; 0 without a point.

    SE-GUI (arXiv:2505.12370): d is the distance from the middle of the box, both axes divided by the size of the first
    image; d_max the greatest such distance of a corner of the image. The quadratic part is 0 outside the image.
    """

    hit: float = 1.0
    """Paid for a point in the box; 0 leaves the quadratic part alone."""
    field: str = "box"

    expects = "a box x1 y1 x2 y2 with x1 < x2 and y1 < y2"

    def __post_init__(self) -> None:
        if not self.hit >= 0:
            raise ConfigError(f"hit must be >= 0, got {self.hit}")

    def read(self, target: Any) -> tuple[float, float, float, float]:
        return _box(target)

    def grade(self, answer: str, target: tuple[float, float, float, float], trajectory: Trajectory) -> Score:
        found = points(answer)
        if not found:
            return Score(0.0, note="no point")
        frames = frames_of(trajectory.prompt.content)
        if not frames:
            raise DataError(f"task {trajectory.task.id!r}: distances are measured in a picture, the prompt has none")
        height, width = frames[0].shape[:2]
        x, y = found[0][0] / width, found[0][1] / height
        x1, y1, x2, y2 = target[0] / width, target[1] / height, target[2] / width, target[3] / height
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        far = max(math.hypot(a - middle[0], b - middle[1]) for a in (0, 1) for b in (0, 1))
        inside = 0 <= x <= 1 and 0 <= y <= 1
        quadratic = 1 - (math.hypot(x - middle[0], y - middle[1]) / far) ** 2 if inside else 0.0
        hit = x1 <= x <= x2 and y1 <= y <= y2
        return Score(self.hit * hit + quadratic, note="hit" if hit else "")


def word_f1(said: str, wanted: str) -> float:
    """F1 of two sets of words in lower case, square brackets dropped; 1 if one of two single words is in the other."""
    mine, theirs = (set(text.translate({91: None, 93: None}).lower().split()) for text in (said, wanted))
    if len(mine) == len(theirs) == 1:
        (one,), (other,) = mine, theirs
        if one in other or other in one:
            return 1.0
    common = len(mine & theirs)
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0


def _box(target: Any) -> tuple[float, float, float, float]:
    if isinstance(target, str):
        raise TypeError
    x1, y1, x2, y2 = map(float, target)
    if not (x1 < x2 and y1 < y2) or not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError
    return x1, y1, x2, y2


def _place(target: Mapping[str, Any], trajectory: Trajectory) -> tuple[float, ...]:
    place = target.get("box")
    try:
        values = tuple(map(float, place)) if place is not None and not isinstance(place, str) else ()
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (2, 4) or not all(map(math.isfinite, values)):
        raise DataError(f"task {trajectory.task.id!r}: the target's box must be four numbers or two, got {place!r:.80}")
    return values


def _text(target: Mapping[str, Any], name: str, trajectory: Trajectory) -> str:
    if not isinstance(target.get(name), str):
        raise DataError(
            f"task {trajectory.task.id!r}: the target's {name} must be a text, got {target.get(name)!r:.80}"
        )
    return target[name]
