"""VisuLogic (arXiv:2504.15279): logic puzzles that cannot be put into words, four options in the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.evaluate.benchmark import Benchmark, Entry, Item, entries
from saccade.evaluate.miniatures import choices, square
from saccade.evaluate.rules.questions import ExtractedChoice, Unread, found, says
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

TAGS = (
    "Quantitative Reasoning",
    "Spatial Reasoning",
    "Positional Reasoning",
    "Attribute Reasoning",
    "Stylistic Reasoning",
    "Other",
)
BOX = "Reason step by step and end with the letter of the right option in a box: \\boxed{letter}."


@dataclass(frozen=True)
class VisuLogic(Benchmark):
    """1,000 puzzles of six kinds: ``data.jsonl`` and the unpacked ``images.zip``. Guessing gives 25 %."""

    name: ClassVar = "visulogic"
    title: ClassVar = "VisuLogic"
    paper: ClassVar = "2504.15279"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "VisuLogic/VisuLogic"
    files: ClassVar = ("data.jsonl", "images.zip", "images/**")
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "The letter in the last box, else the one that the text says is the answer, is the right one; where no rule "
        "finds a letter the authors ask a language model, here the answer is wrong."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [_item(entry) for entry in entries(folder / "data.jsonl")]

    @property
    def rule(self) -> ExtractedChoice:
        return ExtractedChoice()

    def metrics(self) -> Mapping[str, Metric]:
        kinds = {tag.split()[0].lower(): ("category", tag) for tag in TAGS}
        return {"accuracy": Mean(self.rule), "unread": Unread(self.rule), **by_value(self.rule, kinds)}

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(n):
            picture, colour = square(i)
            picture.save(folder / "images" / f"{i:05}.png")
            options, letter = choices(i, colour)
            listed = ", ".join(f"{letter}: {words}" for letter, words in options.items())
            rows.append(
                {
                    "question": f"Which square goes on with the row? {listed}",
                    "id": f"{i:05}",
                    "label": letter,
                    "image_path": f"images/{i:05}.png",
                    "tag": TAGS[i % len(TAGS)],
                }
            )
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _item(entry: Entry) -> Item:
    letter = entry.one_of("label", ("A", "B", "C", "D"))
    shown = entry.media("image_path", source=found(entry, "image_path", [entry.root / entry.text("image_path")]))
    target = {"answer": letter, "options": dict.fromkeys("ABCD", "")}
    name = entry.word("id") if entry.has("id") else str(entry.number)
    asked = Text(f"{entry.text('question')}\n{BOX}")
    return Item(name, (shown, asked), target, entry.text("tag"), says(f"\\boxed{{{letter}}}"))
