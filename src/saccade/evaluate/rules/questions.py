"""What benchmarks of questions about pictures share: rules that read an answer, summaries, prompts, and their files.

Rules look at the output's conclusion: thinking before ``</think>`` and an ``<answer>`` tag are taken off first, except
by rules that are about the tags.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.core.content import Content, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.datasets.media import Media, is_file, short
from saccade.evaluate.benchmark import Benchmark, Entry, entries
from saccade.evaluate.rules.extraction import choice
from saccade.evaluate.samples import totals

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_LETTER = "Answer with the letter of the right option."
THINK_FIRST = "Think within <think> </think>, then give the letter of the right option within <answer> </answer>."

_MARKED = re.compile(r"\(?([A-Z])\)?[.):]\s*(.*)", re.DOTALL)
_PICTURE = re.compile(r"<image (\d{1,2})>")


# --- rules ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ExtractedAnswer(SampleReward):
    """Reads an answer out of the text and grades it. An unreadable one is wrong; without a target nothing is scored."""

    @abstractmethod
    def read(self, text: str, target: Mapping[str, Any]) -> Any:
        """The answer, None if the text has none. Never raises."""

    @abstractmethod
    def grade(self, answer: Any, target: Mapping[str, Any]) -> float:
        """The score of what ``read`` returned, in [0, 1]."""

    def score(self, trajectory: Trajectory) -> Score | None:
        target = trajectory.task.target
        if target is None:
            return None
        answer = self.read(trajectory.text, target)
        if answer is None:
            return Score(0.0, note="no answer")
        return Score(float(self.grade(answer, target)), note=f"read {short(answer)}")


@dataclass(frozen=True, kw_only=True)
class ExtractedChoice(ExtractedAnswer):
    """1 if ``extraction.choice`` reads the target's letter; its ``options`` are words by letter."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        return choice(text, target["options"])

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


# --- summaries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unread(Metric):
    """Share of outputs in which a rule finds no answer: apart from wrong answers, for it may be the format's fault."""

    rule: ExtractedAnswer

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        return [
            Row(one.task.id, float(self.rule.read(one.text, one.task.target) is None))
            for group in groups
            for one in group
            if one.task.target is not None
        ]


@dataclass(frozen=True)
class Form:
    """The score of one rollout of one form of a question."""

    question: str
    forms: int
    """How many forms the question has."""
    task: str
    sample: int
    """Which of the task's rollouts this is."""
    category: str
    score: float


def forms(reward: Reward, groups: Sequence[Group]) -> list[Form]:
    """Scores of tasks that are forms of questions: ``info["question"]`` names it, ``info["forms"]`` counts them."""
    return [
        Form(info["question"], info["forms"], group[0].task.id, i, info.get("category", ""), total)
        for group, found in zip(groups, totals(reward, groups), strict=True)
        for info in (group[0].task.info,)
        for i, total in enumerate(found)
        if total is not None
    ]


def complete(rows: Sequence[Form]) -> dict[tuple[str, str], list[list[float]]]:
    """By (category, question): the scores of all forms, one list a sample. Questions that lack a form are left out."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    number: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row.category, row.question)
        number[key] = row.forms
        found.setdefault(key, {}).setdefault(row.sample, []).append(row.score)
    whole = {
        key: [scores for scores in by_sample.values() if len(scores) == number[key]] for key, by_sample in found.items()
    }
    return {key: samples for key, samples in whole.items() if samples}


@dataclass(frozen=True)
class EveryForm(Metric):
    """Share of the questions all of whose forms are answered right, i.e. with score 1.

    Sample j of a form goes with sample j of the others. A question of which not all forms were rolled out does not
    count.
    """

    reward: Reward

    def rows(self, groups: Sequence[Group], models: Models) -> list[Form]:
        return forms(self.reward, groups)

    def compute(self, rows: Sequence[Form]) -> Estimate:
        return clustered_mean(
            [
                Row(question, float(min(scores) >= 1))
                for (_, question), samples in complete(rows).items()
                for scores in samples
            ]
        )


def combined(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Weighted sum of independent estimates: ``sum_c w_c v_c``, with ``se^2 = sum_c (w_c se_c)^2``; NaN of nothing."""
    if not parts:
        return Estimate(math.nan, math.nan, 0)
    value = math.fsum(weight * part.value for weight, part in parts)
    stderr = math.sqrt(math.fsum((weight * part.stderr) ** 2 for weight, part in parts))
    return Estimate(value, stderr, sum(part.n for _, part in parts))


# --- prompts ----------------------------------------------------------------------------------------------------------


def says(text: str) -> tuple[Content, ...]:
    """Gold outputs: this text."""
    return ((Text(text),),)


def lettered(question: str, options: Mapping[str, str], instruction: str = ANSWER_LETTER, hint: str = "") -> str:
    """A question, its options on a line each, and what to do."""
    lines = [hint, question, *(f"{letter}. {words}" for letter, words in options.items()), instruction]
    return "\n".join(line for line in lines if line)


def interleaved(entry: Entry, text: str, pictures: Mapping[int, Media]) -> tuple[Text | Media, ...]:
    """Text with pictures where ``<image 1>`` stands; pictures it does not mention come first."""
    shown: list[Text | Media] = []
    used: set[int] = set()
    position = 0
    for match in _PICTURE.finditer(text):
        which = int(match[1])
        if which not in pictures:
            entry.wrong(f"image_{which}", "nothing", f"the picture that the text mentions as {match[0]}")
        used.add(which)
        shown += [Text(text[position : match.start()])] if match.start() > position else []
        shown.append(pictures[which])
        position = match.end()
    if position < len(text):
        shown.append(Text(text[position:]))
    return (*(media for which, media in pictures.items() if which not in used), *shown)


# --- files ------------------------------------------------------------------------------------------------------------


def shards(folder: Path, *patterns: str) -> Iterator[Entry]:
    """Rows of all files that match the first pattern that matches any, in order of their names.

    Raises:
        DataError: none does.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            for path in found:
                yield from entries(path, folder)
            return
    raise DataError(f"{folder}: found no file {' or '.join(patterns)}, expected the files of the benchmark")


def found(entry: Entry, name: str, paths: Sequence[Path]) -> str:
    """The first of these paths that exists, for what is published in archives.

    Raises:
        DataError: none does; the message says if there is an archive that may hold it.
    """
    for path in paths:
        if is_file(path):
            return str(path)
    packed = sorted((*entry.root.glob("*.zip"), *entry.root.glob("*.tar*")))
    expected = f"a file that exists; {packed[0].name} stands there packed" if packed else "a file that exists"
    entry.wrong(name, f"no file {short(str(paths[0]), 200)}", expected)


@dataclass(frozen=True)
class FilmBenchmark(Benchmark):
    """A benchmark of videos."""

    frames: int = 32
    """Most frames of a video, evenly spread from the first to the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1:
            raise ConfigError(f"frames must be >= 1, got {self.frames}")

    def film(self, entry: Entry, name: str, *paths: Path) -> Media:
        """The video at the first of these paths that exists."""
        media = Media("video", found(entry, name, paths), entry.root, entry.place(name), self.frames)
        media.check()
        return media


def marked_options(entry: Entry, name: str) -> dict[str, str]:
    """Options written as a list of "A. words", by letter."""
    found: dict[str, str] = {}
    for i, text in enumerate(entry.texts(name, 2)):
        match = _MARKED.match(text.strip())
        if match is None or i >= len(LETTERS) or match[1] != LETTERS[i]:
            expected = f"an option that begins with {LETTERS[i] if i < len(LETTERS) else 'a letter'}."
            entry.wrong(f"{name}[{i}]", short(text), expected)
        found[match[1]] = match[2]
    return found


def column_options(entry: Entry, letters: str = "ABCD") -> dict[str, str]:
    """Options that stand in columns of their own, by letter; the empty ones at the end are left out."""
    there = [letter for letter in letters if entry.has(letter) and str(entry.value(letter)).lower() != "nan"]
    for letter in letters[: max(2, len(there))]:
        if letter not in there:
            entry.wrong(letter, "nothing", "the words of an option: two or more options, from A on without gaps")
    return {letter: entry.word(letter) for letter in there}
