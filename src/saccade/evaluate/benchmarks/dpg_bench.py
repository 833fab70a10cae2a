"""DPG-Bench (arXiv:2403.05135): long prompts, taken apart into questions that depend on each other.

Files: ``dpg_bench.csv`` with a question a row (``item_id, text, keywords, proposition_id, dependency, category_broad,
category_detailed, tuple, question_natural_language``) and, where they are there, ``prompts/<item_id>.txt``. Four
pictures of a prompt are the custom.

The authors ask mPLUG-large, which transformers does not have, and count the answer "yes"; here the model that is named
counts as saying yes if P(yes) > 0.5 against no. Their program skips the file's first row, fails on the first prompt
where another question depends on it, and leaves that prompt out; the part ``legacy`` does the same.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from saccade.core.content import Text
from saccade.core.errors import DataError
from saccade.core.metric import Metric, Models, Row
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item, entries
from saccade.evaluate.rules.judges import load_answers
from saccade.evaluate.samples import Mean

CATEGORIES = ("entity", "attribute", "relation", "global", "other")


@dataclass(frozen=True)
class Question:
    """One question about a picture."""

    text: str
    category: str
    """The broad one of ``CATEGORIES``."""
    parents: tuple[int, ...]
    """Propositions that must hold for the question to make sense."""


def graph_score(answers: Mapping[int, bool], parents: Mapping[int, Sequence[int]]) -> float:
    """Share of questions with yes, where a question counts as no if any of its parents does.

    Questions are taken in the file's order, so that a no is handed on from parent to child.
    """
    counted = dict(answers)
    for question, above in parents.items():
        if any(not counted[parent] for parent in above):
            counted[question] = False
    return sum(counted.values()) / len(counted)


def _asked(answerer: str, trajectory: Trajectory) -> dict[int, bool] | None:
    """Yes or no to each question; None without a picture."""
    answers = load_answers(answerer)
    if trajectory.image is None:
        return None
    questions: Mapping[int, Question] = trajectory.task.target
    chances = answers(trajectory.image, [one.text for one in questions.values()])
    return {number: chance > 0.5 for number, chance in zip(questions, chances, strict=True)}


@dataclass(frozen=True, kw_only=True)
class DPGScore(SampleReward):
    """``graph_score`` of the picture, in [0, 1]; papers print a hundred times that. 0 without a picture.

    Raises:
        ConfigError: ``answerer`` names no checkpoint.
    """

    answerer: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        found = _asked(self.answerer, trajectory)
        if found is None:
            return Score(0.0, note="no image")
        questions: Mapping[int, Question] = trajectory.task.target
        no = [one.text for number, one in questions.items() if not found[number]]
        value = graph_score(found, {number: one.parents for number, one in questions.items()})
        return Score(value, note=f"no: {'; '.join(no)[:200]}" if no else "")


@dataclass(frozen=True)
class QuestionsAnswered(Metric):
    """Share of yes among the questions of a category, whatever their parents say, as the authors report it."""

    answerer: str
    category: str

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for trajectory in (one for group in groups for one in group):
            questions: Mapping[int, Question] = trajectory.task.target
            mine = [number for number, one in questions.items() if one.category == self.category]
            found = _asked(self.answerer, trajectory) if mine else None
            rows += [Row(trajectory.task.id, float(found is not None and found[number])) for number in mine]
        return rows


@dataclass(frozen=True)
class DPGBench(Benchmark):
    """DPG-Bench's 1,065 prompts and their questions."""

    name: ClassVar = "dpg_bench"
    title: ClassVar = "DPG-Bench"
    paper: ClassVar = "2403.05135"
    pillar: ClassVar = "generation"
    hub: ClassVar = ""
    files: ClassVar = ("dpg_bench.csv", "prompts/*.txt")
    parts: ClassVar = ("test", "legacy")
    rule_in_words: ClassVar = (
        "Share of the prompt's questions that a model answers yes, where a question counts as no if a parent does."
    )

    answerer: str = ""
    """Checkpoint for visual questions: folder or hub id."""

    @property
    def rule(self) -> DPGScore:
        return DPGScore(answerer=self.answerer)

    def metrics(self) -> Mapping[str, Metric]:
        columns = {category: QuestionsAnswered(self.answerer, category) for category in CATEGORIES}
        return {"score": Mean(self.rule), **columns}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        questions: dict[str, dict[int, Question]] = {}
        prompts: dict[str, str] = {}
        places: dict[str, Entry] = {}
        for entry in islice(entries(folder / "dpg_bench.csv"), int(part == "legacy"), None):
            item = entry.text("item_id")
            prompts.setdefault(item, entry.text("text"))
            places[item] = entry
            questions.setdefault(item, {})[_number(entry, "proposition_id", entry.text("proposition_id"))] = Question(
                entry.text("question_natural_language"), _category(entry), _parents(entry)
            )
        for item, asked in list(questions.items()):
            missing = sorted({parent for one in asked.values() for parent in one.parents} - asked.keys())
            if missing and part == "legacy":
                del questions[item]
            elif missing:
                places[item].wrong("dependency", f"{missing[0]} in {item}", "a proposition_id of the same item")
        return [Item(item, (Text(_prompt(folder, item, prompts[item])),), asked) for item, asked in questions.items()]

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
        things = ("cat", "dog", "car", "bench", "bowl", "book", "clock", "vase")
        with (folder / "dpg_bench.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad",
                            "category_detailed", "tuple", "question_natural_language"))  # fmt: skip
            for i in range(n):
                name, a, b = f"partiprompts{i}", things[i % 8], things[(i + 3) % 8]
                text = f'A red {a} stands to the left of a {b}, "as quiet as can be",\nin front of a grey wall.'
                for row in (
                    (1, "0", "entity", "whole", f"entity - whole ({a})", f"Is there a {a}?"),
                    (2, "0", "entity", "whole", f"entity - whole ({b})", f"Is there a {b}?"),
                    (3, "1", "attribute", "color", f"attribute - color ({a}, red)", f"Is the {a} red?"),
                    (4, "1,2", "relation", "spatial", f"relation - spatial ({a}, {b}, left of)",
                     f"Is the {a} to the left of the {b}?"),
                ):  # fmt: skip
                    table.writerow((name, text, f"{a}, {b}", *row))
                (folder / "prompts" / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def _number(entry: Entry, field: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9:
        entry.wrong(field, short(entry.value(field)), "whole numbers")
    return int(text)


def _parents(entry: Entry) -> tuple[int, ...]:
    numbers = (_number(entry, "dependency", one.strip()) for one in entry.text("dependency").split(","))
    return tuple(number for number in numbers if number)


def _category(entry: Entry) -> str:
    broad = entry.text("tuple").partition("(")[0].partition("-")[0].strip().lower()
    if broad not in CATEGORIES:
        entry.wrong("tuple", short(entry.text("tuple")), f"one of {', '.join(CATEGORIES)} first")
    return broad


def _prompt(folder: Path, item: str, text: str) -> str:
    path = folder / "prompts" / f"{Path(item).name}.txt"
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: found a file that cannot be read ({error}), expected a prompt") from None
