"""Verifiers: is the answer right, and how nearly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from saccade.core.errors import ConfigError
from saccade.core.reward import Score
from saccade.core.trajectory import Trajectory
from saccade.rewards import sandbox
from saccade.rewards.answer import AnswerReward
from saccade.rewards.parse import items, numbers, plain


@dataclass(frozen=True, kw_only=True)
class ExactMatch(AnswerReward):
    """1 if the answer equals the target (or one of several), else 0.

    Case, white space, surrounding quotation marks and a final full stop do not count.
    """

    expects = "text, a number, or a list of accepted ones"

    def read(self, target: Any) -> frozenset[str]:
        accepted = target if isinstance(target, list | tuple | set | frozenset) else [target]
        return frozenset(plain(_scalar_text(one)) for one in accepted)

    def grade(self, answer: str, target: frozenset[str], trajectory: Trajectory) -> float:
        return float(plain(answer) in target)


@dataclass(frozen=True, kw_only=True)
class NumberMatch(AnswerReward):
    """1[|p - g| <= max(absolute, relative * |g|)] for the last number p of the answer and the target g.

    Commas between digits in threes are separators of thousands; units and per-cent signs are ignored.
    """

    absolute: float = 1e-6
    relative: float = 0.0

    expects = "a finite number"

    def __post_init__(self) -> None:
        if self.absolute < 0 or self.relative < 0:
            raise ConfigError(f"absolute and relative must be >= 0, got {self.absolute} and {self.relative}")

    def read(self, target: Any) -> float:
        return _number(target)

    def grade(self, answer: str, target: float, trajectory: Trajectory) -> Score | float:
        found = numbers(answer)
        if not found:
            return Score(0.0, note="no number")
        return float(abs(found[-1] - target) <= max(self.absolute, self.relative * abs(target)))


@dataclass(frozen=True, kw_only=True)
class RelativeAccuracy(AnswerReward):
    """Mean relative accuracy of the last number p:  mean over theta of 1[|p - g| / |g| < 1 - theta].

    theta runs over .50, .55, ..., .95 (ViLaSR, arXiv:2506.09965, after VSI-Bench). For g = 0 only p = 0 counts, with 1.
    """

    expects = "a finite number"

    def read(self, target: Any) -> float:
        return _number(target)

    def grade(self, answer: str, target: float, trajectory: Trajectory) -> Score | float:
        found = numbers(answer)
        if not found:
            return Score(0.0, note="no number")
        if target == 0:
            return float(found[-1] == 0)
        error = abs(found[-1] - target) / abs(target)
        # 1 - theta = .05, .10, ..., .50 have no exact binary form; an error of just .05 must not pass.
        return sum(error < tolerance / 100 - 1e-12 for tolerance in range(5, 55, 5)) / 10


@dataclass(frozen=True, kw_only=True)
class ChoiceMatch(AnswerReward):
    """1 if the first choice named in the answer is the target, else 0.

    A choice counts where it stands as a word of its own: "(B)", "B.", "B) a cat". Choices of one letter must have the
    right case unless they are the whole answer ("a cat" names no choice); longer ones may have any. With
    ``choices=("yes", "no")`` and an empty tag this is the object-consistency reward of RePIC (arXiv:2506.18369).
    """

    choices: tuple[str, ...] = ("A", "B", "C", "D", "E", "F", "G", "H")

    expects = "one of the choices"

    def __post_init__(self) -> None:
        known = [choice.casefold() for choice in self.choices]
        if len(known) < 2 or len(set(known)) < len(known) or any(choice != plain(choice) for choice in known):
            raise ConfigError(f"choices must be at least two different words, got {self.choices}")

    def read(self, target: Any) -> str:
        if not isinstance(target, str) or plain(target) not in {choice.casefold() for choice in self.choices}:
            raise ValueError
        return plain(target)

    def grade(self, answer: str, target: str, trajectory: Trajectory) -> Score | float:
        found = self._first(answer)
        return Score(float(found == target), note=f"chose {found}" if found else "no choice")

    def _first(self, answer: str) -> str | None:
        whole = plain(answer)
        if any(whole == choice.casefold() for choice in self.choices):
            return whole
        options = sorted(self.choices, key=len, reverse=True)
        pattern = "|".join(re.escape(c) if len(c) == 1 else f"(?i:{re.escape(c)})" for c in options)
        match = re.search(rf"(?<!\w)(?:{pattern})(?!\w)", answer)
        return match[0].casefold() if match else None


@dataclass(frozen=True, kw_only=True)
class SympyEqual(AnswerReward):
    """1 if the answer is the same mathematical expression as the target, else 0.

    Both are read by a small grammar (``saccade.rewards.algebra``: plain or LaTeX notation, tuples, sets) and compared
    by sympy in a process of its own. An answer that cannot be read, or not compared within ``limit`` seconds and 1 GiB,
    is wrong. Decimals are exact: 0.33 is not 1/3.

    Raises:
        CapabilityError: sympy is not installed.
    """

    limit: float = 1.0
    """Seconds of wall time for one comparison."""

    expects = "a number or an expression that the grammar of saccade.rewards.algebra can read"

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ConfigError(f"limit must be > 0 seconds, got {self.limit}")

    def read(self, target: Any) -> str:
        return _scalar_text(target)

    def grade(self, answer: str, target: str, trajectory: Trajectory) -> Score | float:
        if plain(answer) == plain(target):
            return 1.0
        verdict = sandbox.equal(answer, target, self.limit)
        if verdict == "bad target":
            raise self.rejected(target, trajectory)
        return Score(float(verdict == "equal"), note="" if verdict in ("equal", "different") else verdict)


@dataclass(frozen=True, kw_only=True)
class SetOverlap(AnswerReward):
    """|S| / |T| if the answer's set S is a subset of the target's set T, else 0 (TW-GRPO, arXiv:2505.24718).

    Items are separated by commas, semicolons or line ends. Two empty sets give 1.
    """

    expects = "a list of words or numbers, or text with commas between them"

    def read(self, target: Any) -> frozenset[str]:
        return _item_set(target)

    def grade(self, answer: str, target: frozenset[str], trajectory: Trajectory) -> float:
        found = frozenset(items(answer))
        if not target:
            return float(not found)
        return len(found) / len(target) if found <= target else 0.0


@dataclass(frozen=True, kw_only=True)
class SetJaccard(AnswerReward):
    """|S & T| / |S | T| of the answer's set S and the target's set T, read as in ``SetOverlap``."""

    expects = "a list of words or numbers, or text with commas between them"

    def read(self, target: Any) -> frozenset[str]:
        return _item_set(target)

    def grade(self, answer: str, target: frozenset[str], trajectory: Trajectory) -> float:
        found = frozenset(items(answer))
        union = len(found | target)
        return len(found & target) / union if union else 1.0


@dataclass(frozen=True, kw_only=True)
class CountMatch(AnswerReward):
    """1 if the answer has as many items as the target, else 0.

    The target is a count or the list itself; items are separated by commas, semicolons or line ends.
    """

    expects = "a whole number >= 0 or a list"

    def read(self, target: Any) -> int:
        if isinstance(target, Sequence | Set) and not isinstance(target, str):
            return len(target)
        count = _number(target)
        if count < 0 or count != int(count):
            raise ValueError
        return int(count)

    def grade(self, answer: str, target: int, trajectory: Trajectory) -> float:
        return float(len(items(answer)) == target)


@dataclass(frozen=True, kw_only=True)
class GradedLadder(AnswerReward):
    """Sum over predicted tuples of the step they reach, less penalties (STAR-R1, arXiv:2505.15804).

    ``R = sum_i ladder[k_i] - wrong * (predictions not fully right) - missing * max(0, n_target - n_predicted)``
    where k_i leading parts of prediction i agree with its target tuple; nothing is paid for k_i = 0. Every target tuple
    serves one prediction, longest agreement first (if predictions could share one, repetition would pay).

    An answer is ``2.color.cyan, 5.size.large``; the default ladder pays 0.5 for the object, 1.5 with the attribute, 5
    with the value. An output without answer tag counts as one without predictions.
    """

    ladder: tuple[float, ...] = (0.5, 1.5, 5.0)
    """Pay for 1, 2, ... leading parts that agree; its length is the length of a tuple."""
    wrong: float = 1.0
    """Taken for every prediction that is not fully right; 0 invites enumeration."""
    missing: float = 1.0
    """Taken for every prediction fewer than there are targets."""
    separator: str = "."
    """Between the parts of a tuple."""

    expects = "a list of tuples as long as the ladder (or text like the answer's)"

    def __post_init__(self) -> None:
        if not self.ladder or list(self.ladder) != sorted(self.ladder) or self.ladder[0] < 0:
            raise ConfigError(f"ladder must hold rising pays >= 0, got {self.ladder}")
        if self.wrong < 0 or self.missing < 0:
            raise ConfigError(f"wrong and missing must be >= 0, got {self.wrong} and {self.missing}")
        if not self.separator.strip() or self.separator in (",", ";"):
            raise ConfigError(f"separator must be a sign other than a comma or semicolon, got {self.separator!r}")

    def read(self, target: Any) -> tuple[tuple[str, ...], ...]:
        parts = items(target) if isinstance(target, str) else target
        tuples = tuple(self._parts(part) for part in parts)
        if any(len(one) != len(self.ladder) for one in tuples):
            raise ValueError
        return tuples

    def unanswered(self, target: tuple[tuple[str, ...], ...]) -> float:
        return -self.missing * len(target)

    def grade(self, answer: str, target: tuple[tuple[str, ...], ...], trajectory: Trajectory) -> Score:
        predicted = [self._parts(item) for item in items(answer)]
        depths = _agreements(predicted, target, len(self.ladder))
        right = sum(depth == len(self.ladder) for depth in depths)
        pay = math.fsum(self.ladder[depth - 1] for depth in depths)
        pay -= self.wrong * (len(predicted) - right) + self.missing * max(0, len(target) - len(predicted))
        return Score(pay, note=f"{right} right of {len(predicted)}, {len(target)} to find")

    def _parts(self, item: Any) -> tuple[str, ...]:
        parts = item.split(self.separator) if isinstance(item, str) else item
        return tuple(plain(_scalar_text(part)) for part in parts)


def _agreements(predicted: Sequence[tuple[str, ...]], target: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """Leading parts in common of each matched pair, longest first; predictions of another width match nothing.

    Prefixes form a tree, so pairing off the deepest first makes the number of pairs largest at every depth.
    """
    left = [one for one in predicted if len(one) == width]
    right = list(target)
    depths: list[int] = []
    for depth in range(width, 0, -1):
        waiting: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for one in right:
            waiting.setdefault(one[:depth], []).append(one)
        rest: list[tuple[str, ...]] = []
        for one in left:
            if waiting.get(one[:depth]):
                waiting[one[:depth]].pop()
                depths.append(depth)
            else:
                rest.append(one)
        left, right = rest, [one for group in waiting.values() for one in group]
    return depths


def _scalar_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(target: Any) -> float:
    if isinstance(target, str):
        found = numbers(target)
        if len(found) != 1:
            raise ValueError
        return found[0]
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise TypeError
    return float(target)


def _item_set(target: Any) -> frozenset[str]:
    if isinstance(target, str):
        return frozenset(items(target))
    if isinstance(target, Mapping) or not isinstance(target, Iterable):
        raise TypeError
    return frozenset(plain(_scalar_text(one)) for one in target)
