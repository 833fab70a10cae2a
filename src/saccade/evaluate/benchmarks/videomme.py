"""Video-MME (arXiv:2405.21075): 900 videos of eleven seconds to an hour, three questions about each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.evaluate.benchmark import Entry, Item
from saccade.evaluate.miniatures import choices, write_film, write_table
from saccade.evaluate.rules.extraction import conclusion
from saccade.evaluate.rules.questions import (
    ExtractedAnswer,
    ExtractedChoice,
    FilmBenchmark,
    Unread,
    lettered,
    marked_options,
    says,
    shards,
)
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

DURATIONS = ("short", "medium", "long")
_OPENINGS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
_LETTER = re.compile("[ABCD]")


@dataclass(frozen=True, kw_only=True)
class FirstCapital(ExtractedAnswer):
    """1 if the first A, B, C or D in the output is the target's, wherever it stands; "The answer is" is taken off."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        text = conclusion(text)
        for opening in _OPENINGS:
            text = text.replace(opening, "")
        match = _LETTER.search(text)
        return match[0] if match else None

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


@dataclass(frozen=True)
class VideoMME(FilmBenchmark):
    """2,700 questions, without subtitles: ``videomme/test-*.parquet`` and unpacked videos, ``data/<videoID>.mp4``."""

    name: ClassVar = "videomme"
    title: ClassVar = "Video-MME"
    paper: ClassVar = "2405.21075"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "lmms-lab/Video-MME"
    files: ClassVar = ("videomme/*.parquet", "*.zip")
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "The first capital A, B, C or D in the output, also within a word, is the right letter (accuracy_any reads "
        "letters by this library's rules)."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [self._item(entry, folder) for entry in shards(folder, f"videomme/{part}-*.parquet")]

    @property
    def rule(self) -> FirstCapital:
        return FirstCapital()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": Mean(self.rule),
            **by_value(self.rule, {duration: ("duration", duration) for duration in DURATIONS}),
            "accuracy_any": Mean(ExtractedChoice()),
            "unread": Unread(ExtractedChoice()),
        }

    def _item(self, entry: Entry, folder: Path) -> Item:
        stem = folder / "data" / entry.text("videoID")
        paths = [stem.with_name(stem.name + suffix) for suffix in (".mp4", ".MP4", ".mkv")]
        shown = self.film(entry, "videoID", *paths)
        options = marked_options(entry, "options")
        letter = entry.one_of("answer", tuple(options))
        target = {"answer": letter, "options": options}
        info = {
            "duration": entry.one_of("duration", DURATIONS),
            "video": stem.name,
            "task_type": entry.text("task_type"),
            "sub_category": entry.text("sub_category"),
        }
        asked = Text(lettered(entry.text("question"), options))
        return Item(entry.word("question_id"), (shown, asked), target, entry.text("domain"), says(letter), info)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        rows: list[dict[str, Any]] = []
        for i in range(n):
            video = i // 3
            colour = write_film(folder / "data" / f"film{video}.mp4", video)
            options, letter = choices(i, colour)
            rows.append(
                {
                    "video_id": f"{video + 1:03}",
                    "duration": DURATIONS[video % 3],
                    "domain": ("Knowledge", "Life Record")[video % 2],
                    "sub_category": "Daily Life",
                    "url": "",
                    "videoID": f"film{video}",
                    "question_id": f"{video + 1:03}-{i % 3 + 1}",
                    "task_type": "Attribute Perception",
                    "question": "What is the colour of the square that moves?",
                    "options": [f"{letter}. {words}." for letter, words in options.items()],
                    "answer": letter,
                }
            )
        write_table(folder / "videomme" / "test-00000-of-00001.parquet", rows)
