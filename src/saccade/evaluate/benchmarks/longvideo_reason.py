"""LongVideo-Reason-eval of Long-RL (arXiv:2507.07966): reasoning over videos of minutes to half an hour."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, short
from saccade.evaluate.benchmark import Entry, Item
from saccade.evaluate.miniatures import choices, write_film
from saccade.evaluate.rules.questions import (
    THINK_FIRST,
    ExtractedAnswer,
    ExtractedChoice,
    FilmBenchmark,
    Unread,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean, ParseFailure

KINDS = ("temporal", "goal", "spatial", "plot")
FINALLY = "Therefore the final answer is: "
_OPTION = re.compile(r"^ *([A-Z])\. +(\S[^\n]*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class SameBlock(ExtractedAnswer):
    """1 if the first ``<answer>`` block is the target's letter and nothing else; without a block the whole text."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        return block(text) or None

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


def block(text: str) -> str:
    """The first answer block, after "Therefore the final answer is:" if the text says so; else all of the text."""
    opening = "<answer>" + (FINALLY if FINALLY.strip() in text else "")
    start = text.find(opening)
    end = text.find("</answer>", start)
    return (text if start < 0 or end < 0 else text[start + len(opening) : end]).strip()


@dataclass(frozen=True)
class LongVideoReason(FilmBenchmark):
    """1,000 questions of four kinds; options stand in the question. Always saying B is right in 44.1 % of them.

    ``test.jsonl`` or ``data/test-*.parquet``; videos, 195 GB from the data set LongVideo-Reason/longvideo_eval_videos,
    in ``longvila_videos`` or in the folders that their archives unpack to, ``longvideo_eval_subset0`` to ``9``. Five
    rows have bad options or none; as the authors do, all 1,000 are scored. The paper's model sees 512 frames.
    """

    name: ClassVar = "longvideo_reason"
    title: ClassVar = "LongVideo-Reason (Long-RL)"
    paper: ClassVar = "2507.07966"
    pillar: ClassVar = "vlm"
    hub: ClassVar = ""
    files: ClassVar = ("test.jsonl", "longvila_videos/**")
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "What stands within the first <answer> </answer> is the right letter and nothing else; without the tags the "
        "whole output has to be (accuracy_any reads letters in other forms too). The authors' symbolic comparison is "
        "left out: between letters it changes nothing."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [self._item(entry, folder) for entry in shards(folder, f"{part}.jsonl", f"data/{part}-*.parquet")]

    @property
    def rule(self) -> SameBlock:
        return SameBlock()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": Mean(self.rule),
            **by_value(self.rule, {kind: ("category", kind) for kind in KINDS}),
            "accuracy_any": Mean(ExtractedChoice()),
            "unread": Unread(ExtractedChoice()),
            "untagged": ParseFailure(("think", "answer")),
        }

    def _item(self, entry: Entry, folder: Path) -> Item:
        question = entry.text("problem")
        options = dict(_OPTION.findall(question))
        letter = block(entry.text("answer"))
        if len(letter) != 1 or not "A" <= letter <= "Z":
            entry.wrong("answer", short(entry.value("answer")), "<answer>, a capital letter, </answer>")
        # Broken rows offer fewer.
        options = {**dict.fromkeys(sorted({*"ABCD", letter}), ""), **options}
        target = {"answer": letter, "options": options}
        asked = Text(f"{question.rstrip()}\n{THINK_FIRST}")
        gold = says(f"<think>The video shows it.</think><answer>{letter}</answer>")
        kind = entry.one_of("problem_type", KINDS)
        return Item(entry.word("problem_id"), (self._film(entry, folder), asked), target, kind, gold)

    def _film(self, entry: Entry, folder: Path) -> Media:
        path = Path(entry.text("videos"))
        inner = ("longvila_videos", *(f"longvideo_eval_subset{i}" for i in range(10)))
        places = [folder / path, *(folder / one / path.name for one in inner)]
        return self.film(entry, "videos", *places)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows = []
        for i in range(n):
            colour = write_film(folder / "longvila_videos" / f"film{i}.mp4", i)
            options, letter = choices(i, colour)
            listed = "\n".join(f"{letter}. {words}" for letter, words in options.items())
            rows.append(
                {
                    "problem_id": i,
                    "data_type": "video",
                    "videos": f"longvila_videos/film{i}.mp4",
                    "problem": f"What is the colour of the square that moves?\n{listed}",
                    "problem_type": KINDS[i % 4],
                    "reasoning": "The square keeps its colour.",
                    "answer": f"<answer>{letter}</answer>",
                }
            )
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
