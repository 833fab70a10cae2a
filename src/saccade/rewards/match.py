"""Rewards of sequences of actions: agreement with an expert's, and progress along the way.

Agreement looks at what a turn said: the commands of an ``Array("command", [k, 1])``, else the words of the answer. What
the expert would have done stands in the environment's note on the turn, ``info["expert"]`` (then every turn with such a
note is paid), else in the target, field ``actions`` (then the last turn is). Actions are names or whole numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from saccade.core.content import Array, Content, text_of
from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory, Turn
from saccade.rewards.parse import plain, tagged

_MOST_ACTIONS = 1024
"""Actions of an output that are read; no expert says more."""


@dataclass(frozen=True, kw_only=True)
class SequenceMatch(SampleReward):
    """Compares the actions of turns with an expert's. A trajectory with nothing to compare with is unscored."""

    tag: str = "answer"
    """Actions in words are the content of the last ``<tag>...</tag>``; empty: the whole text."""

    @abstractmethod
    def agreement(self, actions: Sequence[str], expert: Sequence[str]) -> float:
        """The pay of a turn. Missing actions agree with nothing; those after the expert's last do not count."""

    def score(self, trajectory: Trajectory) -> Score | None:
        noted = {k: turn.info["expert"] for k, turn in enumerate(trajectory.turns) if turn.info.get("expert")}
        if noted:
            pays = {k: self._pay(trajectory.turns[k], wanted, trajectory) for k, wanted in noted.items()}
            return Score(0.0, turns=pays)
        target = trajectory.task.target
        wanted = target.get("actions") if isinstance(target, Mapping) else target
        if wanted is None or not trajectory.turns:
            return None
        return Score(self._pay(trajectory.turns[-1], wanted, trajectory))

    def _pay(self, turn: Turn, wanted: Any, trajectory: Trajectory) -> float:
        if isinstance(wanted, str) or not isinstance(wanted, Sequence | np.ndarray) or not len(wanted):
            raise DataError(
                f"task {trajectory.task.id!r}: the expert's actions must be a list of names or whole numbers, "
                f"got {wanted!r:.80}"
            )
        return self.agreement(said(turn.output, self.tag), [_symbol(one) for one in wanted])


@dataclass(frozen=True, kw_only=True)
class TimeDecayedMatch(SequenceMatch):
    """sum_k gamma^k 1[a_k = a*_k], k = 0, 1, ... (VLN-R1, arXiv:2506.17221, which does not give its gamma)."""

    gamma: float = 0.8
    """In (0, 1]; 1 counts all actions alike."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"gamma must be in (0, 1], got {self.gamma}")

    def agreement(self, actions: Sequence[str], expert: Sequence[str]) -> float:
        pairs = enumerate(zip(actions, expert, strict=False))
        return sum((self.gamma**k for k, (a, b) in pairs if a == b), 0.0)


@dataclass(frozen=True, kw_only=True)
class UniformMatch(SequenceMatch):
    """Share of the expert's K actions that agree:  1/K sum_k 1[a_k = a*_k]."""

    def agreement(self, actions: Sequence[str], expert: Sequence[str]) -> float:
        return sum(a == b for a, b in zip(actions, expert, strict=False)) / len(expert)


@dataclass(frozen=True, kw_only=True)
class HardMatch(SequenceMatch):
    """1 if all of the expert's actions agree, else 0."""

    def agreement(self, actions: Sequence[str], expert: Sequence[str]) -> float:
        return float(list(actions[: len(expert)]) == list(expert))


def said(output: Content, tag: str = "answer") -> list[str]:
    """The actions an output names, at most 1024; whole numbers are written without a fraction."""
    for part in output:
        if isinstance(part, Array) and part.name == "command":
            values = np.asarray(part.values)
            if values.dtype.kind not in "fiu" or values.ndim != 2 or values.shape[1] != 1:
                return []
            return [_symbol(one) for one in values[:_MOST_ACTIONS, 0].tolist()]
    answer = tagged(text_of(output), tag)
    return [] if answer is None else plain(answer.replace(",", " ")).split()[:_MOST_ACTIONS]


def _symbol(value: Any) -> str:
    if isinstance(value, str):
        return plain(value)
    number = float(value)
    return str(int(number)) if number.is_integer() else str(number)


# --- progress ---


@dataclass(frozen=True)
class Progress(ABC):
    """How far each turn of a trajectory has come: p_1 ... p_K, each in [0, 1] unless the implementation says else."""

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> Sequence[float]: ...


@dataclass(frozen=True)
class Milestones(Progress):
    """p_k = milestones reached by turn k / all of them, as the environment says: ``info["milestones"]``, ``["total"]``.

    A turn without these notes is as far as the one before it.
    """

    def __call__(self, trajectory: Trajectory) -> list[float]:
        progress, p = [], 0.0
        for turn in trajectory.turns:
            if "milestones" in turn.info:
                p = turn.info["milestones"] / turn.info["total"]
            progress.append(p)
        return progress


@dataclass(frozen=True)
class KeySteps(Progress):
    """p_k = key steps matched in order by turn k / all of them (ProgRM's self-annotation, arXiv:2505.18121)."""

    steps: tuple[str, ...]
    """What ``key_steps`` found in successful trajectories."""
    note: str = "event"
    """Entry of a turn's info that says in a word what the step was."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("steps must name at least one key step")

    def __call__(self, trajectory: Trajectory) -> list[float]:
        return progress_labels(symbols(trajectory, self.note), self.steps)


@dataclass(frozen=True, kw_only=True)
class ProgressDelta(SampleReward):
    """r_k = p_k - p_{k-1} with p_0 = 0, paid at turn k; the return is p_K (ProgRM, arXiv:2505.18121)."""

    progress: Progress = Milestones()

    def score(self, trajectory: Trajectory) -> Score:
        reached = list(self.progress(trajectory))
        if len(reached) != trajectory.num_turns:
            raise ContractError(
                f"{type(self.progress).__name__} gave {len(reached)} values for {trajectory.num_turns} turns"
            )
        before = [0.0, *reached[:-1]]
        pays = {k: p - q for k, (p, q) in enumerate(zip(reached, before, strict=True)) if p != q}
        return Score(0.0, turns=pays, note=f"progress {reached[-1]:.2f}" if reached else "")


def symbols(trajectory: Trajectory, note: str = "event") -> list[str]:
    """What each turn did, in the environment's words; empty where it says nothing."""
    return [str(turn.info.get(note, "")) for turn in trajectory.turns]


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The longest sequence that is contained in both in order; of several, the one that ends earliest in ``a``.

    Takes ``len(a) * len(b)`` steps.
    """
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            length[i + 1][j + 1] = length[i][j] + 1 if x == y else max(length[i][j + 1], length[i + 1][j])
    common: list[str] = []
    i, j = len(a), len(b)
    while i and j:
        if length[i - 1][j] == length[i][j]:
            i -= 1
        elif length[i][j - 1] == length[i][j]:
            j -= 1
        else:
            common.append(a[i - 1])
            i, j = i - 1, j - 1
    return common[::-1]


def key_steps(successes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Steps that successful trajectories of a task share: their longest common subsequences, folded from the first on.

    Steps without a name (empty) are no key steps. Nothing in: nothing out.
    """
    named = [[step for step in steps if step] for steps in successes]
    return tuple(reduce(longest_common_subsequence, named)) if named else ()


def progress_labels(steps: Sequence[str], keys: Sequence[str]) -> list[float]:
    """p_k for each step: key steps matched in order so far, over their number."""
    reached, labels = 0, []
    for step in steps:
        if reached < len(keys) and step == keys[reached]:
            reached += 1
        labels.append(reached / len(keys))
    return labels
