"""VLMEvalKit (arXiv:2407.11691): its tables, one a benchmark, with pictures in base64 and a column an option."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.errors import DataError
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, short
from saccade.evaluate.benchmark import Benchmark, Entry, Item, MeanOfCategories, entries
from saccade.evaluate.miniatures import choices, png, square
from saccade.evaluate.rules.extraction import choice, short_answer, yes_or_no
from saccade.evaluate.rules.questions import (
    LETTERS,
    ExtractedAnswer,
    Unread,
    column_options,
    lettered,
    says,
)
from saccade.evaluate.samples import Mean
from saccade.rewards.parse import plain

_REFERENCE = 64
"""Shorter texts in the column of pictures name the row whose picture it is."""


@dataclass(frozen=True, kw_only=True)
class TableAnswer(ExtractedAnswer):
    """1 if the letter, the yes or no, or the words of the output are the target's, whichever the target is."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        if target["options"]:
            return choice(text, target["options"])
        return yes_or_no(text) if target["answer"] in ("yes", "no") else short_answer(text)

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"] if target["options"] else plain(answer) == plain(target["answer"]))


@dataclass(frozen=True)
class VLMEvalKit(Benchmark):
    """Any table of VLMEvalKit with one right answer a row: the only .tsv file in the folder.

    Columns ``index``, ``image`` (base64, a list of several, or the index of a row that has it) or ``image_path``,
    ``question``, ``hint``, ``A`` ..., ``answer``, ``category``. Rows without answer are not scored.
    """

    name: ClassVar = "vlmevalkit"
    title: ClassVar = "a table of VLMEvalKit"
    paper: ClassVar = "2407.11691"
    pillar: ClassVar = "vlm"
    parts: ClassVar = ("all",)
    files: ClassVar = ("*.tsv",)
    rule_in_words: ClassVar = (
        "The letter or words of the right option, yes or no, or else the same words; VLMEvalKit has rules of its own "
        "for some benchmarks and asks a language model where no rule finds an answer."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        tables = sorted(folder.glob("*.tsv"))
        if len(tables) != 1:
            raise DataError(f"{folder}: found {len(tables)} .tsv files, expected one")
        rows = list(entries(tables[0], folder))
        pictures = {row.word("index"): row.columns.get("image", "") for row in rows}
        return [_item(row, pictures) for row in rows]

    @property
    def rule(self) -> TableAnswer:
        return TableAnswer()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": Mean(self.rule),
            "mean_of_categories": MeanOfCategories(self.rule),
            "unread": Unread(self.rule),
        }

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        names = ("index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "Squares_DEV.tsv").open("w", encoding="utf-8", newline="") as file:
            table: Any = csv.DictWriter(file, names, delimiter="\t", restval="", lineterminator="\n")
            table.writeheader()
            for i in range(n):
                table.writerow(_row(i))


def _item(entry: Entry, pictures: Mapping[str, str]) -> Item:
    options = column_options(entry, _columns(entry)) if entry.has("A") else {}
    hint = entry.text("hint") if entry.has("hint") and entry.value("hint") != "nan" else ""
    asked = lettered(entry.text("question"), options, hint=hint) if options else entry.text("question")
    prompt = (*_shown(entry, pictures), Text(asked))
    category = entry.word("category") if entry.has("category") else ""
    if not entry.has("answer"):
        return Item(entry.word("index"), prompt, None, category)
    answer = entry.text("answer").strip()
    if options and answer not in options:
        entry.wrong("answer", short(answer), f"one of {', '.join(options)}")
    if answer.lower() in ("yes", "no"):
        answer = answer.lower()
    target = {"answer": answer, "options": options}
    return Item(entry.word("index"), prompt, target, category, says(answer))


def _columns(entry: Entry) -> str:
    """The columns of options, from A on as far as there are any."""
    missing = next((i for i, letter in enumerate(LETTERS) if letter not in entry.columns), len(LETTERS))
    return LETTERS[:missing]


def _shown(entry: Entry, pictures: Mapping[str, str]) -> list[Media]:
    if not entry.has("image"):
        return [entry.media("image_path")]
    image = entry.text("image")
    if len(image) < _REFERENCE and image in pictures:
        image = pictures[image]
    # base64 has neither of the signs that a list is written with.
    listed = [one.strip(" '\"") for one in image.strip(" []").split(",")] if image.startswith("[") else [image]
    return [entry.media("image", source=f"data:image/png;base64,{one}") for one in listed]


def _row(i: int) -> dict[str, Any]:
    owner = i - 3 if i % 4 == 3 else i
    picture, colour = square(owner)
    options, letter = choices(i, colour)
    row = {
        "index": i,
        # A picture of an earlier row is named by that row's index.
        "image": owner if owner < i else base64.b64encode(png(picture)).decode(),
        "category": ("colour", "presence")[i // 4 % 2],
        "l2-category": "perception",
        "split": "dev",
    }
    if i % 4 == 2:
        return {**row, "question": f"Is the square {colour}? Answer yes or no.", "answer": "Yes"}
    if i % 4 == 1:
        return {**row, "question": "Which word names the colour of the square?", "answer": colour}
    hint = "There is one square." if i % 8 == 0 else ""
    return {**row, "question": "What is the colour of the square?", "hint": hint, **options, "answer": letter}
