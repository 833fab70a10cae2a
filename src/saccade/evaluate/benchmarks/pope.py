"""POPE (arXiv:2305.10355): is there a certain object in the picture? Half of the objects asked for are not there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from saccade.core.content import Text
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean
from saccade.core.trajectory import Group
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import COLOURS, square, stored, write_table
from saccade.evaluate.rules.extraction import conclusion, yes_or_no
from saccade.evaluate.rules.questions import ExtractedAnswer, Unread, says, shards
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

KINDS = ("random", "popular", "adversarial")
ANSWER_YES_NO = "Answer yes or no."


@dataclass(frozen=True, kw_only=True)
class PopeAnswer(ExtractedAnswer):
    """1 if the output's answer is the target's: no if its first sentence has the word "no" or "not", else yes."""

    def read(self, text: str, target: Mapping[str, Any]) -> str:
        words = conclusion(text).split(".")[0].replace(",", "").split()
        return "no" if {"No", "no", "not"} & set(words) else "yes"

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


@dataclass(frozen=True, kw_only=True)
class SaysYesOrNo(PopeAnswer):
    """Reads yes or no only where one of them is said."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        return yes_or_no(text)


@dataclass(frozen=True)
class Outcome:
    """A prediction and the truth."""

    task: str
    said: bool
    true: bool


@dataclass(frozen=True)
class YesStatistic(Metric):
    """A ratio of sums over outputs, with "yes" as the positive answer.

    Precision TP / said, recall TP / true, F1 = 2 TP / (said + true), yes ratio said / n. The standard error of
    ``r = sum a / sum b`` is that of the mean of ``(a - r b) / mean(b)``, clustered by task.
    """

    rule: ExtractedAnswer
    statistic: Literal["precision", "recall", "f1", "yes_ratio"]

    def rows(self, groups: Sequence[Group], models: Models) -> list[Outcome]:
        return [
            Outcome(
                one.task.id,
                self.rule.read(one.text, one.task.target) == "yes",
                one.task.target["answer"] == "yes",
            )
            for group in groups
            for one in group
        ]

    def compute(self, rows: Sequence[Outcome]) -> Estimate:
        pairs = [self._parts(row) for row in rows]
        above, below = math.fsum(a for a, _ in pairs), math.fsum(b for _, b in pairs)
        if not below:
            return Estimate(math.nan, math.nan, len(rows))
        ratio = above / below
        scale = len(rows) / below
        spread = [Row(row.task, scale * (a - ratio * b)) for row, (a, b) in zip(rows, pairs, strict=True)]
        return Estimate(ratio, clustered_mean(spread).stderr, len(rows))

    def _parts(self, row: Outcome) -> tuple[float, float]:
        both = float(row.said and row.true)
        return {
            "precision": (both, float(row.said)),
            "recall": (both, float(row.true)),
            "f1": (2 * both, float(row.said) + float(row.true)),
            "yes_ratio": (float(row.said), 1.0),
        }[self.statistic]


@dataclass(frozen=True)
class Pope(Benchmark):
    """3,000 questions of each kind: absent objects are drawn at random, by frequency, or by co-occurrence.

    ``data/test-*.parquet`` has all kinds, ``Full/<kind>-*.parquet`` one. Read accuracy with the yes ratio: far from a
    half it shows a bias.
    """

    name: ClassVar = "pope"
    title: ClassVar = "POPE"
    paper: ClassVar = "2305.10355"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "lmms-lab/POPE"
    files: ClassVar = ("data/*.parquet", "Full/*.parquet")
    parts: ClassVar = ("test", *KINDS)
    rule_in_words: ClassVar = (
        "The answer is no if the first sentence has the word 'no' or 'not', else yes, even if the output is empty (see "
        "unread); with accuracy go precision, recall and F1 of yes and the share of yes."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        pattern = f"data/{part}-*.parquet" if part == "test" else f"Full/{part}-*.parquet"
        return [_item(entry) for entry in shards(folder, pattern)]

    @property
    def rule(self) -> PopeAnswer:
        return PopeAnswer()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "f1": YesStatistic(self.rule, "f1"),
            "accuracy": Mean(self.rule),
            "precision": YesStatistic(self.rule, "precision"),
            "recall": YesStatistic(self.rule, "recall"),
            "yes_ratio": YesStatistic(self.rule, "yes_ratio"),
            **by_value(self.rule, {kind: ("category", kind) for kind in KINDS}),
            "unread": Unread(SaysYesOrNo()),
        }

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        write_table(folder / "data" / "test-00000-of-00001.parquet", [_row(i, KINDS[i % 3]) for i in range(n)])
        for kind in KINDS:
            write_table(folder / "Full" / f"{kind}-00000-of-00001.parquet", [_row(i, kind) for i in range(n)])


def _item(entry: Entry) -> Item:
    answer = entry.one_of("answer", ("yes", "no"))
    asked = Text(f"{entry.text('question')}\n{ANSWER_YES_NO}")
    kind = entry.one_of("category", KINDS)
    name = f"{kind}/{entry.word('question_id')}"
    info = {"image_source": entry.text("image_source")}
    return Item(name, (entry.media("image"), asked), {"answer": answer}, kind, says(answer.capitalize()), info)


def _row(i: int, kind: str) -> dict[str, Any]:
    picture, colour = square(i)
    asked = colour if i % 2 == 0 else next(other for other in COLOURS if other != colour)
    return {
        "id": str(i),
        "question_id": str(i + 1),
        "question": f"Is there a {asked} square in the image?",
        "answer": "yes" if asked == colour else "no",
        "image_source": f"drawn_{i}",
        "image": stored(picture, f"{i}.png"),
        "category": kind,
    }
