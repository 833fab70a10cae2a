"""What rewards with a target share: where the answer stands in the output and where the target stands in the task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from saccade.core.errors import DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Task, Trajectory
from saccade.rewards.parse import tagged


@dataclass(frozen=True, kw_only=True)
class AnswerReward(SampleReward):
    """Compares the answer in the last output with the task's target.

    A target of None leaves the trajectory unscored. An output without answer gets what ``unanswered`` says, 0 by
    default.

    Raises:
        DataError: the target has no such field or the wrong type; the message names the task.
    """

    tag: str = "answer"
    """The answer is the content of the last ``<tag>...</tag>``; empty: the whole text."""
    field: str = "answer"
    """Key of the target where the target is a mapping; any other target is taken as it is."""

    expects: ClassVar[str]
    """What the target must be, in words; for error messages."""

    @abstractmethod
    def read(self, target: Any) -> Any:
        """The target in the form ``grade`` wants; TypeError or ValueError if it is not what is expected."""

    @abstractmethod
    def grade(self, answer: str, target: Any, trajectory: Trajectory) -> Score | float:
        """The score of an answer; ``target`` is what ``read`` returned."""

    def unanswered(self, target: Any) -> float:
        """The score of an output without answer tag."""
        return 0.0

    def score(self, trajectory: Trajectory) -> Score | float | None:
        raw = self._raw(trajectory)
        if raw is None:
            return None
        try:
            target = self.read(raw)
        except (TypeError, ValueError):
            raise self.rejected(raw, trajectory) from None
        answer = tagged(trajectory.text, self.tag)
        if answer is None:
            return Score(float(self.unanswered(target)), note=f"no <{self.tag}>")
        return self.grade(answer, target, trajectory)

    def rejected(self, raw: Any, trajectory: Trajectory) -> DataError:
        """The error that says this target cannot be used."""
        return DataError(f"{self._where(trajectory)} must be {self.expects}, got {_short(raw)}")

    def _raw(self, trajectory: Trajectory) -> Any:
        target = trajectory.task.target
        if not isinstance(target, Mapping):
            return target
        if self.field not in target:
            found = ", ".join(map(str, target)) or "none"
            raise DataError(f"{self._where(trajectory)} has no field {self.field!r}, only {found}")
        return target[self.field]

    def _where(self, trajectory: Trajectory) -> str:
        return f"task {trajectory.task.id!r}: the target of {type(self).__name__}"


def column(task: Task, name: str) -> Any:
    """``task.info[name]``, or that column of the row the task was read from; None if there is neither."""
    return task.info[name] if name in task.info else task.info.get("columns", {}).get(name)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
