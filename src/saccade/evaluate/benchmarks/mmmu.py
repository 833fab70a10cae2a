"""MMMU (arXiv:2311.16502) and MMMU-Pro (arXiv:2409.02813): college questions of thirty subjects.

Their parser, written anew: of a multiple-choice output the letters are looked for in brackets, then before a blank,
then before a full stop, then the words of the options; of several the last one counts. Of an open output the ends of
its key sentences are kept, and the numbers in them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, short
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.miniatures import choices, square, stored, write_table
from saccade.evaluate.rules.extraction import conclusion
from saccade.evaluate.rules.questions import (
    ANSWER_LETTER,
    LETTERS,
    ExtractedAnswer,
    ExtractedChoice,
    Unread,
    interleaved,
    lettered,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

DISCIPLINES = {
    "art": ("Art", "Art_Theory", "Design", "Music"),
    "business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "humanities": ("History", "Literature", "Sociology", "Psychology"),
    "engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
ANSWER_SHORTLY = "Answer with a single word or phrase."
_LONGEST_LIST = 2**16
"""Characters of a list of options."""
_ID = re.compile(r"(?:dev|validation|test)_(.+?)_\d+")
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b[0-9]{1,3}(?:,[0-9]{3})+\b"),
    re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?[eE][+-]?[0-9]{1,4}"),
    re.compile(r"-?(?:[0-9]{1,40}\.[0-9]{1,40}|\.[0-9]{1,40}|[0-9]{1,40}\b)(?![eE][+-]?[0-9])(?![,0-9])"),
)
"""Each is looked for in the whole text: of 1,234.5 both 1,234 and 234.5 are found."""


# --- the rule ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MMMUAnswer(ExtractedAnswer):
    """1 if the parsed letter is the target's, or one of the parsed words or numbers is (numbers to two places)."""

    def read(self, text: str, target: Mapping[str, Any]) -> Any:
        last = conclusion(text)
        return parsed_choice(last, target["options"]) if target["options"] else parsed_open(last) or None

    def grade(self, answer: Any, target: Mapping[str, Any]) -> float:
        if target["options"]:
            return float(answer == target["answer"])
        right = [one for text in target["answer"] for one in _normal(text)]
        return float(any(_agrees(one, right) for one in answer))


def parsed_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of an output to a multiple-choice question; None where the authors draw one at random."""
    for sign in ",.!?;:'":
        text = text.strip(sign)
    text = f" {text} "
    lowered = text.lower()
    words = {letter: said.lower() for letter, said in options.items() if said.strip()}
    looks: list[tuple[Callable[[str], int], Sequence[str]]] = [
        (lambda letter: text.rfind(f"({letter})"), list(options)),
        (lambda letter: text.rfind(f"{letter} "), list(options)),
        (lambda letter: text.rfind(f"{letter}."), list(options)),
        (lambda letter: lowered.rfind(words[letter]), list(words) if len(text.split()) > 5 else []),
    ]
    for i, (where, letters) in enumerate(looks):
        found = [letter for letter in letters if where(letter) >= 0]
        if len(found) == 1:
            return found[0]
        if found:
            # Of letters without brackets the place of the whole word counts.
            return max(found, key=(lambda letter: text.rfind(f" {letter} ")) if i in (1, 2) else where)
    return None


def parsed_open(text: str) -> list[str | float]:
    """What an output to an open question says: the ends of its key sentences, and the numbers in them."""
    text = text.strip().strip(".").lower()
    if not text:
        return []
    lines = text.split("\n")
    ends: list[str] = []
    for i, line in enumerate(lines):
        keys = (*_KEYS, "=") if i == len(lines) - 1 else _KEYS
        after = [line.rpartition(key)[2].strip() for key in keys if key in line]
        end = min((one for one in after if one), key=len, default="")
        if end and end not in ":,.!?;'":
            ends.append(end)
    ends = ends or [text]
    found = [*ends, *(number for end in ends for pattern in _NUMBERS for number in pattern.findall(end))]
    return list(dict.fromkeys(one for each in found for one in _normal(each)))


def _normal(text: str) -> list[str | float]:
    """A number rounded to two places, or words in lower case; a single letter only with a blank beside it."""
    text = text.strip()
    if len(text) <= 64:
        try:
            return [round(float(text.replace(",", "")), 2)]
        except ValueError:
            pass
    text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _agrees(said: str | float, right: Sequence[str | float]) -> bool:
    if isinstance(said, str):
        return any(isinstance(one, str) and one in said for one in right)
    return said in right


# --- MMMU -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMMU(Benchmark):
    """150 tasks in dev, 900 in validation, 10,500 in test, whose answers are not published: there nothing is scored.

    One folder a subject with ``validation-*.parquet`` and so on. ``<image 1>`` in questions and options says where
    pictures stand.
    """

    name: ClassVar = "mmmu"
    title: ClassVar = "MMMU"
    paper: ClassVar = "2311.16502"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "MMMU/MMMU"
    files: ClassVar = ("*/*.parquet",)
    parts: ClassVar = ("validation", "dev", "test")
    rule_in_words: ClassVar = (
        "The letter that the authors' parser finds is the right one; of open questions, one of the parsed numbers "
        "(to two places) is, or one of the parsed phrases contains it. Where their parser draws a letter at random, "
        "here the answer is wrong."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [_mmmu_item(entry) for entry in shards(folder, f"*/{part}-*.parquet")]

    @property
    def rule(self) -> MMMUAnswer:
        return MMMUAnswer()

    def metrics(self) -> Mapping[str, Metric]:
        parts = {name: ("discipline", name) for name in DISCIPLINES}
        kinds = {"multiple_choice": ("kind", "multiple-choice"), "open": ("kind", "open")}
        return {"accuracy": Mean(self.rule), **by_value(self.rule, {**parts, **kinds}), "unread": Unread(self.rule)}

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        subjects = ("Accounting", "Art", "Math", "Design")
        for part in cls.parts:
            rows = [_mmmu_row(i, part, subjects[i % 4]) for i in range(n)]
            for k, subject in enumerate(subjects[: min(4, n)]):
                write_table(folder / subject / f"{part}-00000-of-00001.parquet", rows[k::4])


def _mmmu_item(entry: Entry) -> Item:
    name = entry.text("id")
    match = _ID.fullmatch(name)
    if match is None:
        entry.wrong("id", short(name), "split_Subject_number")
    kind = entry.one_of("question_type", ("multiple-choice", "open"))
    options = _options(entry) if kind == "multiple-choice" else {}
    asked = lettered(entry.text("question"), options, ANSWER_LETTER if options else ANSWER_SHORTLY)
    subject = match[1]
    discipline = next((name for name, subjects in DISCIPLINES.items() if subject in subjects), "other")
    info = {"discipline": discipline, "kind": kind}
    prompt = interleaved(entry, asked, _pictures(entry))
    raw = entry.value("answer")
    if raw in (None, "", "?"):
        if name.startswith("test"):
            return Item(name, prompt, None, subject, (), info)
        entry.wrong("answer", short(raw), "an answer")
    answer: Any = entry.word("answer")
    if options:
        answer = entry.one_of("answer", tuple(options))
    else:
        answer = _literal(entry, "answer") if answer.startswith("[") else [answer]
    return Item(name, prompt, {"answer": answer, "options": options}, subject, says(answer[0]), info)


def _pictures(entry: Entry) -> dict[int, Media]:
    return {i: entry.media(f"image_{i}") for i in range(1, 8) if entry.has(f"image_{i}")}


def _options(entry: Entry) -> dict[str, str]:
    return dict(zip(LETTERS, _literal(entry, "options", 2), strict=False))


def _literal(entry: Entry, name: str, least: int = 1) -> list[str]:
    """A Python list that stands in a text."""
    text = entry.text(name)
    expected = f"a Python list of {least} to {len(LETTERS)} texts"
    if len(text) > _LONGEST_LIST:
        entry.wrong(name, f"{len(text)} characters", expected)
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        entry.wrong(name, short(text), expected)
    if not isinstance(found, list) or not least <= len(found) <= len(LETTERS):
        entry.wrong(name, short(text), expected)
    if not all(isinstance(one, str | int | float) for one in found):
        entry.wrong(name, short(text), expected)
    return [str(one) for one in found]


def _mmmu_row(i: int, part: str, subject: str) -> dict[str, Any]:
    picture, colour = square(i)
    options, letter = choices(i, colour)
    is_open = i % 8 == 5
    return {
        "id": f"{part}_{subject}_{i}",
        "question": "<image 1> What is the colour of the square?",
        "options": "[]" if is_open else str(list(options.values())),
        "explanation": "",
        **{f"image_{k}": stored(picture, f"{i}.png") if k == 1 else None for k in range(1, 8)},
        "img_type": "['Diagrams']",
        "answer": "?" if part == "test" else colour if is_open else letter,
        "topic_difficulty": "Easy",
        "question_type": "open" if is_open else "multiple-choice",
        "subfield": "Colours",
    }


# --- MMMU-Pro ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MMMUPro(Benchmark):
    """1,730 tasks of MMMU that text alone does not solve: with ten options, with four, or all of it in a picture.

    The number that papers report is the mean of the accuracies of "standard (10 options)" and "vision".
    """

    name: ClassVar = "mmmu_pro"
    title: ClassVar = "MMMU-Pro"
    paper: ClassVar = "2409.02813"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "MMMU/MMMU_Pro"
    files: ClassVar = ("*/*.parquet",)
    parts: ClassVar = ("standard (10 options)", "standard (4 options)", "vision")
    rule_in_words: ClassVar = (
        "The letter that MMMU's parser finds is the right one; where the parser draws a letter at random, here the "
        "answer is wrong (accuracy_any reads letters by this library's rules)."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [self._item(entry, part) for entry in shards(folder, f"{part}/test-*.parquet")]

    @property
    def rule(self) -> MMMUAnswer:
        return MMMUAnswer()

    def metrics(self) -> Mapping[str, Metric]:
        parts = {name: ("discipline", name) for name in DISCIPLINES}
        return {
            "accuracy": Mean(self.rule),
            **by_value(self.rule, parts),
            "accuracy_any": Mean(ExtractedChoice()),
            "unread": Unread(self.rule),
        }

    def _item(self, entry: Entry, part: str) -> Item:
        options = _options(entry)
        letter = entry.one_of("answer", tuple(options))
        if part == "vision":
            question = f"Answer the question in the picture. {ANSWER_LETTER}"
            prompt: tuple[Text | Media, ...] = (entry.media("image"), Text(question))
        else:
            prompt = interleaved(entry, lettered(entry.text("question"), options), _pictures(entry))
        subject = entry.text("subject")
        discipline = next((name for name, subjects in DISCIPLINES.items() if subject in subjects), "other")
        target = {"answer": letter, "options": options}
        return Item(entry.text("id"), prompt, target, subject, says(letter), {"discipline": discipline})

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for part in cls.parts:
            write_table(folder / part / "test-00000-of-00001.parquet", [_pro_row(i, part) for i in range(n)])


def _pro_row(i: int, part: str) -> dict[str, Any]:
    picture, colour = square(i)
    options, letter = choices(i, colour)
    words = list(options.values())
    if part != "standard (4 options)":
        words += ["black", "pink", "brown", "orange", "grey", "cyan"]
    row = {"id": f"test_Art_{i}", "options": str(words), "answer": letter, "subject": ("Art", "Math")[i % 2]}
    if part == "vision":
        return {**row, "image": stored(picture, f"{i}.png")}
    return {
        **row,
        "question": "<image 1> What is the colour of the square?",
        "explanation": "",
        **{f"image_{k}": stored(picture, f"{i}.png") if k == 1 else None for k in range(1, 8)},
        "img_type": "['Diagrams']",
        "topic_difficulty": "Easy",
    }
