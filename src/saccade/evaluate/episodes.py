"""Metrics of episodes: navigation, manipulation and screens.

They read ``Turn.info``, in which environments note (all optional unless a metric says so):

================  =====================================================================================================
``success``       bool: the task is done, as far as the environment can tell after this turn
``valid``         bool: the output could be read; False: it was answered without an effect
``steps``         int: commands of this turn that were carried out
``actions``       str: their names, in order, where they have some; galleries show them
``path``          number: length of the way so far, in the environment's unit (actions, map units)
``shortest``      number: length of the shortest way from the start to success, in the same unit
``distance``      number: what is left of the way to the goal after this turn, in the environment's unit
``reached``       bool: some state so far was near enough to the goal, whether or not the agent stopped there
``type_right``    bool: the kind of action was the wanted one
================  =====================================================================================================

An episode's numbers are those of its last turn; episodes without the keys that a metric needs have no row. Standard
errors are clustered by task.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core.content import Array
from saccade.core.metric import Metric, Models, Row
from saccade.core.trajectory import Group, Trajectory, Turn


@dataclass(frozen=True)
class EpisodeMetric(Metric):
    """One number an episode, or none."""

    @abstractmethod
    def measure(self, trajectory: Trajectory) -> float | None: ...

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        found = [(t.task.id, self.measure(t)) for group in groups for t in group if t.turns]
        return [Row(task, value) for task, value in found if value is not None]


@dataclass(frozen=True)
class Success(EpisodeMetric):
    """Success rate:  mean S_i, S_i = ``success`` of the last turn; without the key, whether the sum of pay is > 0."""

    def measure(self, trajectory: Trajectory) -> float:
        return float(_succeeded(trajectory))


@dataclass(frozen=True)
class SPL(EpisodeMetric):
    """Success weighted by path length:  mean S_i l_i / max(p_i, l_i)  (Anderson et al., arXiv:1807.06757).

    l = ``shortest``, p = ``path`` of the last turn. An episode with l = p = 0 counts S.
    """

    def measure(self, trajectory: Trajectory) -> float | None:
        shortest, path = _number(trajectory, "shortest"), _number(trajectory, "path")
        if shortest is None or path is None:
            return None
        longest = max(path, shortest)
        return _succeeded(trajectory) * (shortest / longest if longest > 0 else 1.0)


@dataclass(frozen=True)
class OracleSuccess(EpisodeMetric):
    """Share of episodes that were near enough to the goal at any turn (``reached``) or succeeded."""

    def measure(self, trajectory: Trajectory) -> float | None:
        noted = [bool(turn.info["reached"]) for turn in trajectory.turns if "reached" in turn.info]
        return float(any(noted) or _succeeded(trajectory)) if noted else None


@dataclass(frozen=True)
class NavigationError(EpisodeMetric):
    """Mean ``distance`` to the goal at the end, in the environment's unit."""

    def measure(self, trajectory: Trajectory) -> float | None:
        return _number(trajectory, "distance")


@dataclass(frozen=True)
class EpisodeLength(EpisodeMetric):
    """Mean number of commands carried out:  sum of ``steps``; turns without the key count 1."""

    def measure(self, trajectory: Trajectory) -> float:
        return float(sum(int(turn.info.get("steps", 1)) for turn in trajectory.turns))


@dataclass(frozen=True)
class ParseFailureRate(Metric):
    """Share of turns whose output could not be read (``valid`` False). One row a turn that says."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [Row(t.task.id, float(not turn.info["valid"])) for t, turn in _turns(groups) if "valid" in turn.info]


@dataclass(frozen=True)
class ActionSmoothness(EpisodeMetric):
    """Mean squared second difference of the commands:  mean_t ||a_{t+1} - 2 a_t + a_{t-1}||^2; smaller is smoother.

    The commands ``a_t`` (D numbers each) of all turns, as many of each as were carried out (``steps``; all, where that
    is not said), one after the other. Episodes of fewer than three commands have no row.
    """

    def measure(self, trajectory: Trajectory) -> float | None:
        carried = [rows for turn in trajectory.turns if (rows := _commands(turn)) is not None]
        if not carried or len({rows.shape[1] for rows in carried}) > 1:
            return None
        commands = np.concatenate(carried)
        if len(commands) < 3:
            return None
        bends = commands[2:] - 2 * commands[1:-1] + commands[:-2]
        value = float((bends**2).sum(1).mean())
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class TypeMatch(Metric):
    """Type: share of turns whose kind of action is the wanted one (``type_right``). One row a turn that says."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [
            Row(t.task.id, float(bool(turn.info["type_right"])))
            for t, turn in _turns(groups)
            if "type_right" in turn.info
        ]


@dataclass(frozen=True)
class StepSuccess(Metric):
    """SR (step): share of turns whose kind of action and all its arguments are right.

    Rule: ``success`` of the turn. On generated screens that means: a click inside the wanted widget's box, edges
    included; the wanted word typed; the wanted direction scrolled. One row a turn that notes ``type_right``, so that
    only environments in which every turn is right or wrong by itself are counted.
    """

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [
            Row(t.task.id, float(bool(turn.info.get("success", False))))
            for t, turn in _turns(groups)
            if "type_right" in turn.info
        ]


@dataclass(frozen=True)
class Grounding(StepSuccess):
    """GR: ``StepSuccess`` over the tasks that ask for a click, by ``Task.info["kind"]``.

    Rule: any other action than a click misses.
    """

    kinds: tuple[str, ...] = ("icon", "word")
    """Kinds of task that ask for a click."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        pointing = [group for group in groups if group and group[0].task.info.get("kind") in self.kinds]
        return super().rows(pointing, models)


def _succeeded(trajectory: Trajectory) -> bool:
    paid = math.fsum(turn.reward for turn in trajectory.turns)
    return bool(trajectory.turns[-1].info.get("success", paid > 0))


def _number(trajectory: Trajectory, key: str) -> float | None:
    """The last turn's note; None where there is none."""
    value: Any = trajectory.turns[-1].info.get(key)
    return None if value is None else float(value)


def _turns(groups: Sequence[Group]) -> list[tuple[Trajectory, Turn]]:
    return [(trajectory, turn) for group in groups for trajectory in group for turn in trajectory.turns]


def _commands(turn: Turn) -> np.ndarray | None:
    """The commands of a turn that were carried out, float64 ``[k, D]``; None where it holds none."""
    found = [part.values for part in turn.output if isinstance(part, Array) and part.name == "command"]
    if len(found) != 1 or found[0].ndim != 2 or turn.info.get("valid") is False:
        return None
    steps = int(turn.info.get("steps", len(found[0])))
    return found[0][:steps].astype(np.float64)
