"""MMBench (arXiv:2307.06281): every question is asked with its options in every rotation, and all must be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import choices, square, stored, write_table
from saccade.evaluate.rules.questions import (
    EveryForm,
    ExtractedChoice,
    Unread,
    column_options,
    lettered,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import MeanWhere


@dataclass(frozen=True)
class MMBench(Benchmark):
    """Dev and test sets in English and Chinese; a question with k options is k tasks, one a rotation.

    ``en/dev-*.parquet`` and so on, with a column an option. Test sets are published without answers: nothing is scored.
    """

    name: ClassVar = "mmbench"
    title: ClassVar = "MMBench"
    paper: ClassVar = "2307.06281"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "lmms-lab/MMBench"
    files: ClassVar = ("en/*.parquet", "cn/*.parquet")
    parts: ClassVar = ("dev_en", "test_en", "dev_cn", "test_cn")
    rule_in_words: ClassVar = (
        "A question is right if the letter or the words of the right option are read from the outputs to all rotations "
        "of its options; where rules find none the authors ask a language model, here the answer is wrong."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        split, language = part.split("_")
        rows = shards(folder, f"{language}/{split}-*.parquet")
        return [item for entry in rows for item in _rotations(entry, split)]

    @property
    def rule(self) -> ExtractedChoice:
        return ExtractedChoice()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "circular": EveryForm(self.rule),
            "accuracy": MeanWhere(self.rule, "rotation", "0"),
            "unread": Unread(self.rule),
        }

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for part in cls.parts:
            split, language = part.split("_")
            path = folder / language / f"{split}-00000-of-00001.parquet"
            write_table(path, [_row(i, split) for i in range(max(1, n // 4))])


def _rotations(entry: Entry, split: str) -> Iterator[Item]:
    options = column_options(entry)
    name = entry.word("index")
    letters, words = tuple(options), tuple(options.values())
    hint = "" if str(entry.columns.get("hint")) in ("nan", "None", "") else entry.text("hint")
    shown = entry.media("image")
    category = entry.text("L2-category")
    withheld = split == "test" and entry.columns.get("answer") in (None, "", "nan")
    right = None if withheld else letters.index(entry.one_of("answer", letters))
    for k in range(len(letters)):
        turned = dict(zip(letters, words[k:] + words[:k], strict=True))
        prompt = (shown, Text(lettered(entry.text("question"), turned, hint=hint)))
        info = {"question": name, "forms": len(letters), "rotation": str(k), "skill": entry.text("category")}
        if right is None:
            yield Item(f"{name}/{k}", prompt, None, category, (), info)
        else:
            letter = letters[(right - k) % len(letters)]
            yield Item(f"{name}/{k}", prompt, {"answer": letter, "options": turned}, category, says(letter), info)


def _row(i: int, split: str) -> dict[str, Any]:
    picture, colour = square(i)
    options, letter = choices(i, colour)
    few = i % 2 == 1
    if few:
        options, letter = {"A": "black", "B": colour, "C": "nan", "D": "nan"}, "B"
    return {
        "index": i,
        "question": "What is the colour of the square?",
        "hint": "It is the only square." if few else "nan",
        "answer": None if split == "test" else letter,
        **options,
        "category": "attribute_recognition",
        "image": stored(picture, f"{i}.jpg"),
        "source": "drawn",
        "L2-category": "finegrained_perception (instance-level)",
        "comment": "nan",
        "split": split,
    }
