"""VSI-Bench (arXiv:2412.14171): space as seen on a walk through rooms: directions, distances, sizes, counts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Estimate, Metric, Row, clustered_mean
from saccade.core.reward import Reward
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Entry, Item, MeanOfCategories, by_category
from saccade.evaluate.miniatures import choices, write_film
from saccade.evaluate.rules.extraction import conclusion
from saccade.evaluate.rules.questions import (
    ANSWER_LETTER,
    ExtractedAnswer,
    FilmBenchmark,
    Unread,
    combined,
    lettered,
    marked_options,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import by_value

DIRECTIONS = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")
CHOSEN = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
NUMERIC = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
ANSWER_NUMBER = "Answer with a number only."


@dataclass(frozen=True, kw_only=True)
class FirstWord(ExtractedAnswer):
    """Of the first word: the right letter; or its mean relative accuracy as a number.

    ``MRA = mean over theta = .50, .55, ..., .95 of 1[|p - g| / g <= 1 - theta]``
    """

    def read(self, text: str, target: Mapping[str, Any]) -> str | float | None:
        word = conclusion(text).split(" ")[0][:64].rstrip(".").strip()
        if target["options"]:
            return word or None
        try:
            value = float(word)
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def grade(self, answer: str | float, target: Mapping[str, Any]) -> float:
        if target["options"]:
            return float(str(answer).lower() == target["answer"].lower())
        return mean_relative_accuracy(float(answer), float(target["answer"]))


def mean_relative_accuracy(p: float, g: float) -> float:
    """MRA in [0, 1]; g > 0."""
    error = abs(p - g) / g
    # 1 - theta have no exact binary form; an error of just .05 passes.
    return sum(error <= tolerance / 100 + 1e-12 for tolerance in range(5, 55, 5)) / 10


@dataclass(frozen=True)
class MeanOfEight(MeanOfCategories):
    """Mean over eight tasks of the mean score in each; the three levels of relative direction are one task.

    Their three means are averaged first. Tasks without rows are left out.
    """

    def compute(self, rows: Sequence[tuple[str, Row]]) -> Estimate:
        found = {name: clustered_mean(of) for name, of in by_category(rows).items()}
        levels = [name for name in found if name in DIRECTIONS]
        tasks = len(found) - len(levels) + bool(levels)
        weight = {name: 1 / tasks / (len(levels) if name in levels else 1) for name in found}
        return combined([(weight[name], part) for name, part in found.items()])


@dataclass(frozen=True)
class VSIBench(FilmBenchmark):
    """5,130 questions about 288 videos: ``test.jsonl`` or ``test-*.parquet``, and the three unpacked archives of films.

    Films stand at ``<dataset>/<scene_name>.mp4``.
    """

    name: ClassVar = "vsi_bench"
    title: ClassVar = "VSI-Bench"
    paper: ClassVar = "2412.14171"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "nyu-visionx/VSI-Bench"
    files: ClassVar = ("test.jsonl", "test-*.parquet", "*.zip")
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "The first word is the right letter, or a number with its mean relative accuracy over ten tolerances from 5 % "
        "to 50 %; tasks are averaged, the three levels of relative direction as one."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [self._item(entry, folder) for entry in shards(folder, f"{part}.jsonl", f"{part}-*.parquet")]

    @property
    def rule(self) -> FirstWord:
        return FirstWord()

    def metrics(self) -> Mapping[str, Metric]:
        rule: Reward = self.rule
        return {
            "score": MeanOfEight(rule),
            **by_value(rule, {kind: ("category", kind) for kind in (*CHOSEN, *NUMERIC)}),
            "unread": Unread(self.rule),
        }

    def _item(self, entry: Entry, folder: Path) -> Item:
        kind = entry.one_of("question_type", (*CHOSEN, *NUMERIC))
        path = folder / entry.text("dataset") / f"{entry.text('scene_name')}.mp4"
        shown = self.film(entry, "scene_name", path)
        options = marked_options(entry, "options") if kind in CHOSEN else {}
        answer = entry.word("ground_truth")
        if options and answer not in options:
            entry.wrong("ground_truth", short(answer), f"one of {', '.join(options)}")
        if not options and not _positive(answer):
            entry.wrong("ground_truth", short(answer), "a number > 0")
        asked = Text(lettered(entry.text("question"), options, ANSWER_LETTER if options else ANSWER_NUMBER))
        target = {"answer": answer, "options": options}
        return Item(entry.word("id"), (shown, asked), target, kind, says(answer), {"scene": path.stem})

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows = []
        for i in range(n):
            source = ("arkitscenes", "scannet", "scannetpp")[i % 3]
            colour = write_film(folder / source / f"scene{i:04}.mp4", i)
            options, letter = choices(i, colour)
            kind = (*CHOSEN, *NUMERIC)[i * 3 % 10]
            chosen = kind in CHOSEN
            rows.append(
                {
                    "id": i,
                    "dataset": source,
                    "scene_name": f"scene{i:04}",
                    "question_type": kind,
                    "question": "Which square goes to the right?" if chosen else "How far does it go, in pixels?",
                    "options": [f"{a}. {words}" for a, words in options.items()] if chosen else None,
                    "ground_truth": letter if chosen else str(20 + i),
                }
            )
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
