"""Detectors over what a policy puts out: groups that have become alike, one answer to everything, loops in texts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from saccade.core.errors import ConfigError
from saccade.evaluate.detectors.finding import Detector, Finding, Seen
from saccade.evaluate.detectors.history import Answers, History, Moment, Rollout
from saccade.evaluate.states import longest_repeat

_TOKEN = re.compile(r"\w+|[^\w\s]")
MOST_OUTPUTS = 256
"""Outputs of different tasks that are compared with each other."""


@dataclass(frozen=True)
class DiversityCollapse(Detector):
    """Outputs for one prompt, or for different prompts, have become alike.

    Pictures: mean root mean square difference of pixels of two rollouts of a task. Texts: mean of one minus the Jaccard
    index of their words and pairs of words, over pairs that are not both paid best (agreement on the one right answer
    is no collapse). Besides, the number of different answers to different tasks: the Vendi score (arXiv:2210.02410) of
    one rollout a task. Rollouts before and after training are compared or, in texts that were not sampled in groups
    there, the earliest and latest of training.
    """

    least: float = 0.5
    """Share of the diversity at the start below which groups have collapsed: RL takes it first."""
    gone: float = 0.25
    """Share below which the verdict is "fail"."""

    def __post_init__(self) -> None:
        if not 0 < self.gone < self.least < 1:
            raise ConfigError(f"DiversityCollapse needs 0 < gone < least < 1, got {self.gone} and {self.least}")

    def __call__(self, history: History) -> Finding:
        if any(rollout.pictures for answers in history.before for rollout in answers.rollouts):
            found = _in_groups("pictures for one prompt", history, ("before", "after"), pixels_apart, self.least)
        else:
            what, apart = "texts for one prompt", _texts_apart(_best(history))
            found = _in_groups(what, history, ("before", "after"), apart, self.least)
            found = found or _in_groups(what, history, ("early", "late"), apart, self.least)
            found += _across(history.before, history.after)
        if not found:
            return self.unknown(
                "no rollouts of groups were kept that differ before training: evaluate at least two sampled rollouts a "
                "task, or keep rollouts of training"
            )
        evidence = [(f"{what}, {when}", x) for what, *pair, _ in found for when, x in zip(_WHEN, pair, strict=True)]
        what, before, after, seen = min(found, key=lambda one: one[2] / one[1])
        share = after / before
        told = f"the diversity of {what} is {after:.3g} after {before:.3g}, {100 * share:.0f} % of the start"
        verdict = "pass" if share >= self.least else "warn" if share >= self.gone else "fail"
        return Finding(self.name, verdict, told, tuple(evidence), () if verdict == "pass" else seen)


_WHEN = ("before", "after")
Apart = Callable[[Rollout, Rollout], float | None]
"""How different two rollouts of a task are; None if the pair does not count."""


def _in_groups(
    what: str, history: History, moments: tuple[Moment, Moment], apart: Apart, least: float
) -> list[tuple[str, float, float, tuple[Seen, ...]]]:
    """Mean diversity of groups at both moments, and the groups that are alike; empty if it cannot be told."""
    before, after = (
        {a.task: x for a in history.rollouts(moment) if (x := _spread(a, apart)) is not None} for moment in moments
    )
    if not before or not after:
        return []
    start, end = (math.fsum(spread.values()) / len(spread) for spread in (before, after))
    alike = sorted((x, task) for task, x in after.items() if x < least * start)[:3]
    seen = tuple(Seen(moments[1], task, 0, f"diversity {x:.3g}") for x, task in alike)
    return [(what, start, end, seen)] if start > 0 else []


def _spread(answers: Answers, apart: Apart) -> float | None:
    known = [x for a, b in combinations(answers.rollouts, 2) if (x := apart(a, b)) is not None]
    return math.fsum(known) / len(known) if known else None


def pixels_apart(a: Rollout, b: Rollout) -> float | None:
    """Root mean square difference of the last pictures, channels in [0, 1]; None if they cannot be compared."""
    if not a.pictures or not b.pictures or a.pictures[-1].shape != b.pictures[-1].shape:
        return None
    difference = (a.pictures[-1].astype(np.float64) - b.pictures[-1].astype(np.float64)) / 255
    return math.sqrt(float((difference**2).mean()))


def _texts_apart(best: float) -> Apart:
    def apart(a: Rollout, b: Rollout) -> float | None:
        right = all(one.total is not None and one.total >= best - 1e-6 for one in (a, b))
        if right or not a.text or not b.text:
            return None
        first, second = _pieces(a.text), _pieces(b.text)
        return 1 - len(first & second) / max(1, len(first | second))

    return apart


def _best(history: History) -> float:
    """The largest total that was paid; infinite where all were paid the same, so that nobody is best."""
    shown = (*history.before, *history.after, *history.early, *history.late)
    totals = [rollout.total for answers in shown for rollout in answers.rollouts if rollout.total is not None]
    return max(totals) if totals and max(totals) > min(totals) else math.inf


def _pieces(text: str) -> set[tuple[str, ...]]:
    """Words, signs and pairs of neighbours."""
    words = _TOKEN.findall(text.lower())
    return {(word,) for word in words} | set(pairwise(words))


def _across(before: Sequence[Answers], after: Sequence[Answers]) -> list[tuple[str, float, float, tuple[Seen, ...]]]:
    """How many different texts there are for different tasks, one rollout of each common task."""
    old, new = ({a.task: a.rollouts[0].text for a in part if a.rollouts} for part in (before, after))
    tasks = [task for task in old if task in new and (old[task] or new[task])][:MOST_OUTPUTS]
    if len(tasks) < 8:
        return []
    start, end = vendi([old[task] for task in tasks]), vendi([new[task] for task in tasks])
    # One different answer is the least there can be: what is above it counts.
    if start < 1.5:
        return []
    seen = tuple(Seen("after", task, 0, new[task][:80]) for task in tasks[:3])
    return [(f"texts for {len(tasks)} different prompts", start - 1, end - 1, seen)]


def vendi(texts: Sequence[str]) -> float:
    """Vendi score of texts:  ``exp(-sum_i l_i log l_i)``, l the eigenvalues of K / n, K the cosines of word counts.

    In [1, n]: the number of equally frequent, entirely different texts that would be as diverse.
    """
    pieces = [_pieces(text) for text in texts]
    place = {piece: i for i, piece in enumerate(sorted(set().union(*pieces)))}
    table = np.zeros((len(texts), max(1, len(place))))
    for row, found in zip(table, pieces, strict=True):
        row[[place[piece] for piece in found]] = 1
    # Signs and tags that all texts share say nothing about how different they are.
    rare = table[:, (table.mean(0) < 1.0)] if len(texts) > 1 else table
    rare = np.concatenate([rare, (rare.sum(1, keepdims=True) == 0)], 1)
    unit = rare / np.linalg.norm(rare, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(texts))
    kept = values[values > 1e-12]
    return float(np.exp(-(kept * np.log(kept)).sum()))


@dataclass(frozen=True)
class TextLoops(Detector):
    """Texts repeat themselves: a sequence of words stands in them again and again.

    The share of a text's words that its longest repeated sequence of at least ``words`` words covers, all its
    occurrences together, averaged over texts, 0 for short ones; after training minus before.
    """

    words: int = 3
    """Shorter repetitions are ordinary language and markup."""
    shortest: int = 12
    """Words below which a text is too short to be in a loop: lists of numbers are not."""
    more: float = 0.2
    """Rise of the share above which to look."""
    most: float = 0.4
    """Rise above which outputs are degenerate."""

    def __post_init__(self) -> None:
        if self.words < 2 or self.shortest < 1 or not 0 < self.more < self.most < 1:
            raise ConfigError(
                "TextLoops needs words >= 2, shortest >= 1 and 0 < more < most < 1, "
                f"got {self.words}, {self.shortest}, {self.more} and {self.most}"
            )

    def __call__(self, history: History) -> Finding:
        shares = {
            moment: [
                (self._share(rollout.text), answers.task, i)
                for answers in history.rollouts(moment)
                for i, rollout in enumerate(answers.rollouts)
                if rollout.text
            ]
            for moment in ("before", "after")
        }
        if not shares["before"] or not shares["after"]:
            return self.unknown("no texts were kept from before and after training")
        before, after = (math.fsum(share for share, *_ in found) / len(found) for found in shares.values())
        told = f"repeated sequences cover {100 * after:.0f} % of a text after {100 * before:.0f} %"
        evidence = (("before", before), ("after", after))
        rise = after - before
        if rise <= self.more:
            return Finding(self.name, "pass", told, evidence)
        worst = sorted(shares["after"], key=lambda one: (-one[0], one[1], one[2]))[:3]
        seen = tuple(Seen("after", task, i, f"{100 * share:.0f} % repeated") for share, task, i in worst)
        return Finding(self.name, "fail" if rise > self.most else "warn", told, evidence, seen)

    def _share(self, text: str) -> float:
        return longest_repeat(text, self.words) if len(text.split(maxsplit=self.shortest)) >= self.shortest else 0.0
