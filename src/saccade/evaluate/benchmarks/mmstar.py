"""MMStar (arXiv:2403.20330): questions that cannot be answered without the picture, six skills of equal weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item, MeanOfCategories
from saccade.evaluate.miniatures import choices, png, square, write_table
from saccade.evaluate.rules.extraction import conclusion
from saccade.evaluate.rules.questions import (
    ANSWER_LETTER,
    ExtractedAnswer,
    ExtractedChoice,
    Unread,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

SKILLS = {
    "coarse": "coarse perception",
    "fine_grained": "fine-grained perception",
    "instance": "instance reasoning",
    "logic": "logical reasoning",
    "science": "science & technology",
    "math": "math",
}


@dataclass(frozen=True, kw_only=True)
class LeadingLetter(ExtractedAnswer):
    """1 if the output begins with the letter: bare, after a bracket, after "option" or after "the answer is"."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        text = conclusion(text)[:64].lower()
        for opening in ("(", "option ", "the answer is "):
            if text.startswith(opening):
                return text[len(opening) :][:1] or None
        return text[:1] or None

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"].lower())


@dataclass(frozen=True)
class MMStar(Benchmark):
    """1,500 tasks, 250 a skill, in ``mmstar.parquet``; options stand in the question."""

    name: ClassVar = "mmstar"
    title: ClassVar = "MMStar"
    paper: ClassVar = "2403.20330"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "Lin-Chen/MMStar"
    files: ClassVar = ("mmstar.parquet",)
    parts: ClassVar = ("val",)
    rule_in_words: ClassVar = (
        "The output begins with the right letter, also after a bracket, 'option' or 'the answer is' (accuracy_any "
        "reads letters elsewhere too); skills are averaged."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [_item(entry) for entry in shards(folder, "mmstar.parquet", f"data/{part}-*.parquet")]

    @property
    def rule(self) -> LeadingLetter:
        return LeadingLetter()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": MeanOfCategories(self.rule),
            **by_value(self.rule, {name: ("category", skill) for name, skill in SKILLS.items()}),
            "accuracy_any": Mean(ExtractedChoice()),
            "unread": Unread(ExtractedChoice()),
        }

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows = []
        for i in range(n):
            picture, colour = square(i)
            options, letter = choices(i, colour)
            listed = ", ".join(f"{letter}: {words}" for letter, words in options.items())
            rows.append(
                {
                    "index": i,
                    "question": f"What is the colour of the square?\nOptions: {listed}",
                    "image": png(picture),
                    "answer": letter,
                    "category": tuple(SKILLS.values())[i % 6],
                    "l2_category": "recognition",
                    "meta_info": {"source": "drawn", "split": "val", "image_path": f"{i}.png"},
                }
            )
        write_table(folder / "mmstar.parquet", rows)


def _item(entry: Entry) -> Item:
    letter = entry.text("answer").strip()
    if len(letter) != 1 or letter not in "ABCD":
        entry.wrong("answer", short(letter), "one of A, B, C, D")
    target = {"answer": letter, "options": dict.fromkeys("ABCD", "")}
    asked = Text(f"{entry.text('question')}\n{ANSWER_LETTER}")
    info = {"l2_category": entry.text("l2_category")}
    category = entry.text("category")
    return Item(entry.word("index"), (entry.media("image"), asked), target, category, says(letter), info)
