"""MathVista (arXiv:2310.02255): mathematics in pictures: charts, figures, puzzles, papers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import choices, square, stored, write_table
from saccade.evaluate.rules.extraction import choice, conclusion, number, short_answer
from saccade.evaluate.rules.questions import LETTERS, ExtractedAnswer, Unread, says, shards
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean
from saccade.rewards.parse import items, numbers, plain

TASKS = {
    "figure": "figure question answering",
    "geometry": "geometry problem solving",
    "word": "math word problem",
    "textbook": "textbook question answering",
    "visual": "visual question answering",
}
_LIST = re.compile(r"\[[^\[\]]{1,2000}\]")
_SIMILAR = 200
"""Characters of an answer that is compared with the words of choices."""


@dataclass(frozen=True, kw_only=True)
class MathVistaAnswer(ExtractedAnswer):
    """1 if the answer, brought to the type of the question, equals the target's.

    A choice by its letter, its words, or else the choice with the least edit distance; a whole number cut off at the
    point; another number rounded to ``precision`` places; a list item by item.
    """

    def read(self, text: str, target: Mapping[str, Any]) -> str | float | None:
        kind = target["answer_type"]
        if target["options"]:
            letter = choice(text, target["options"])
            if letter is not None:
                return str(target["options"][letter])
            said = short_answer(text)
            return None if said is None or len(said) > _SIMILAR else _nearest(said, tuple(target["options"].values()))
        if kind in ("integer", "float"):
            return number(text)
        if kind == "list":
            lists = _LIST.findall(conclusion(text))
            return lists[-1] if lists else None
        return short_answer(text)

    def grade(self, answer: str | float, target: Mapping[str, Any]) -> float:
        right = str(target["answer"])
        if target["options"]:
            return float(answer == right)
        if target["answer_type"] == "integer":
            return float(int(float(answer)) == int(float(right)))
        if target["answer_type"] == "float":
            return float(round(float(answer), target["precision"]) == round(float(right), target["precision"]))
        if target["answer_type"] == "list":
            return float(_items(str(answer)) == _items(right))
        return float(plain(str(answer)) == plain(right))


def _nearest(said: str, words: Sequence[str]) -> str:
    from rapidfuzz.distance import Levenshtein

    return min(words, key=lambda one: Levenshtein.distance(said, one))


def _items(text: str) -> list[float | str]:
    return [found[0] if len(found := numbers(item)) == 1 else plain(item) for item in items(text)]


@dataclass(frozen=True)
class MathVista(Benchmark):
    """1,000 tasks in testmini, 5,141 in test, whose answers are not published: there nothing is scored."""

    name: ClassVar = "mathvista"
    title: ClassVar = "MathVista"
    paper: ClassVar = "2310.02255"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "AI4Math/MathVista"
    files: ClassVar = ("data/*.parquet",)
    parts: ClassVar = ("testmini", "test")
    rule_in_words: ClassVar = (
        "The answer brought to the question's type (nearest choice, whole number, number rounded to the precision, "
        "list) equals the right one; the authors have a language model find it in the output, here rules do, and "
        "numbers are compared as numbers."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [_item(entry, part) for entry in shards(folder, f"data/{part}-*.parquet", f"{part}-*.parquet")]

    @property
    def rule(self) -> MathVistaAnswer:
        return MathVistaAnswer()

    def metrics(self) -> Mapping[str, Metric]:
        tasks = {name: ("category", task) for name, task in TASKS.items()}
        return {"accuracy": Mean(self.rule), **by_value(self.rule, tasks), "unread": Unread(self.rule)}

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for part in cls.parts:
            write_table(folder / "data" / f"{part}-00000-of-00001.parquet", [_row(i, part) for i in range(n)])


def _item(entry: Entry, part: str) -> Item:
    kind = entry.one_of("question_type", ("multi_choice", "free_form"))
    answer_type = entry.one_of("answer_type", ("integer", "float", "text", "list"))
    options: dict[str, str] = {}
    if kind == "multi_choice":
        options = dict(zip(LETTERS, entry.texts("choices", 2), strict=False))
    metadata = entry.value("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("task"), str):
        entry.wrong("metadata", short(metadata), "an object with a field 'task'")
    target = {"options": options, "answer_type": answer_type, "precision": 0}
    if answer_type == "float":
        target["precision"] = int(entry.number_of("precision"))
    shown = entry.media("decoded_image" if "decoded_image" in entry.columns else "image")
    asked = entry.text("query") if entry.has("query") else entry.text("question")
    name = entry.word("pid")
    if part == "test" and not entry.has("answer"):
        return Item(name, (shown, Text(asked)), None, metadata["task"])
    answer = entry.word("answer")
    if options and answer not in options.values():
        entry.wrong("answer", short(answer), "the words of one of the choices")
    if answer_type in ("integer", "float") and not options and not _is_number(answer):
        entry.wrong("answer", short(answer), "a number")
    if answer_type == "list" and not _items(answer):
        entry.wrong("answer", short(answer), "a list such as [1, 2]")
    said = next((letter for letter, words in options.items() if words == answer), answer)
    return Item(name, (shown, Text(asked)), {"answer": answer, **target}, metadata["task"], says(said))


def _is_number(text: str) -> bool:
    found = numbers(text)
    try:
        return len(found) == 1 and float(text) == found[0]
    except ValueError:
        return False


def _row(i: int, part: str) -> dict[str, Any]:
    picture, colour = square(i)
    kind = ("multi_choice", "integer", "float", "list")[i % 4]
    left = 8 + i * 5 % 24
    question, options, answer = {
        "multi_choice": ("Which colour has the square?", list(choices(i, colour)[0].values()), colour),
        "integer": ("How many pixels are left of the square?", None, str(left)),
        "float": ("Which share of the width is left of the square?", None, str(round(left / 48, 2))),
        "list": ("Between which columns is the square?", None, f"[{left}, {left + 16}]"),
    }[kind]
    hint = {"multi_choice": "the letter of the choice", "list": "a Python list"}.get(kind, "a number")
    query = f"{question} End with {hint}."
    if options is not None:
        query += "".join(f"\n({letter}) {words}" for letter, words in zip("ABCD", options, strict=True))
    return {
        "pid": str(i + 1),
        "question": question,
        "image": f"images/{i + 1}.jpg",
        "decoded_image": stored(picture, f"{i + 1}.jpg"),
        "choices": options,
        "unit": None,
        "precision": 2.0 if kind == "float" else None,
        "answer": "" if part == "test" else answer,
        "question_type": "multi_choice" if options else "free_form",
        "answer_type": "text" if options else kind,
        "metadata": {"task": list(TASKS.values())[i % 5], "category": "math-targeted-vqa", "split": part},
        "query": query,
    }
