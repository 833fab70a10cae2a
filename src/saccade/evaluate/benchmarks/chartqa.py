"""ChartQA (arXiv:2203.10244): questions about charts, written by people or generated from summaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import square, stored, write_table
from saccade.evaluate.rules.extraction import short_answer
from saccade.evaluate.rules.questions import ExtractedAnswer, Unread, says, shards
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

ANSWER_SHORTLY = "Answer with a single word, number or phrase."
TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class RelaxedMatch(ExtractedAnswer):
    """Numbers: ``1[|p - g| <= 0.05 |g|]``, per cent divided by 100; else, and for g = 0: the same words, case apart."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        return short_answer(text)

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(relaxed(answer, target["answer"]))


def relaxed(said: str, right: str) -> bool:
    """ChartQA's relaxed correctness of one answer."""
    p, g = _number(said), _number(right)
    if p is not None and g:
        return abs(p - g) / abs(g) <= TOLERANCE
    return said.lower() == right.lower()


def _number(text: str) -> float | None:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class ChartQA(Benchmark):
    """2,500 test questions, half of them ``human_test`` and half ``augmented_test``, in ``data/test-*.parquet``."""

    name: ClassVar = "chartqa"
    title: ClassVar = "ChartQA"
    paper: ClassVar = "2203.10244"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "lmms-lab/ChartQA"
    files: ClassVar = ("data/*.parquet",)
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "A number within 5 % of the right one, other answers word for word; what is compared is the boxed, tagged or "
        "stated answer, or the whole output without its full stop."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [_item(entry) for entry in shards(folder, f"data/{part}-*.parquet")]

    @property
    def rule(self) -> RelaxedMatch:
        return RelaxedMatch()

    def metrics(self) -> Mapping[str, Metric]:
        kinds = {"human": ("category", "human_test"), "augmented": ("category", "augmented_test")}
        return {"relaxed_accuracy": Mean(self.rule), **by_value(self.rule, kinds), "unread": Unread(self.rule)}

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows: list[dict[str, Any]] = []
        for i in range(n):
            picture, colour = square(i)
            question, answer = (
                ("What is the colour of the square?", colour)
                if i % 2
                else ("How many pixels are left of the square?", str(8 + i * 5 % 24))
            )
            rows.append(
                {
                    "type": ("human_test", "augmented_test")[i // 2 % 2],
                    "question": question,
                    "answer": answer,
                    "image": stored(picture, f"{i}.png"),
                }
            )
        write_table(folder / "data" / "test-00000-of-00001.parquet", rows)


def _item(entry: Entry) -> Item:
    kind = entry.one_of("type", ("human_test", "augmented_test"))
    answer = entry.word("answer")
    asked = Text(f"{entry.text('question')}\n{ANSWER_SHORTLY}")
    name = f"{entry.file.stem}-{entry.number}"
    return Item(name, (entry.media("image"), asked), {"answer": answer}, kind, says(answer))
