"""SEED-Bench-R1 (arXiv:2503.24376): what to do next, from a video of what was done and a picture of now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, short
from saccade.evaluate.benchmark import Entry, Item, entries
from saccade.evaluate.miniatures import choices, square, write_film
from saccade.evaluate.rules.questions import (
    LETTERS,
    THINK_FIRST,
    ExtractedAnswer,
    ExtractedChoice,
    FilmBenchmark,
    Unread,
    lettered,
    says,
)
from saccade.evaluate.samples import Mean, ParseFailure


@dataclass(frozen=True, kw_only=True)
class FirstLetter(ExtractedAnswer):
    """1 if the first character in the first ``<answer>`` block is the target's letter."""

    def read(self, text: str, target: Mapping[str, Any]) -> str | None:
        start = text.find("<answer>")
        end = text.find("</answer>", start)
        if start < 0 or end < 0:
            return None
        return text[start + len("<answer>") : end].strip()[:1] or None

    def grade(self, answer: str, target: Mapping[str, Any]) -> float:
        return float(answer == target["answer"])


@dataclass(frozen=True)
class SeedBenchR1(FilmBenchmark):
    """Levels of the validation set: L1 in distribution, L2 other places, L3 other places and tasks.

    ``annotations/validation_L1.jsonl`` ..., ``videos/<source>/<name>``, ``images/<source>/<name>``. Rows of L3 may have
    EgoPlan-Bench2's own layout: ``candidates``, ``correct_choice`` (an index from 0) and ``video_path``. Options stand
    in the file's order; the authors' training code shuffles them.
    """

    name: ClassVar = "seed_bench_r1"
    title: ClassVar = "SEED-Bench-R1"
    paper: ClassVar = "2503.24376"
    pillar: ClassVar = "vlm"
    hub: ClassVar = "TencentARC/SEED-Bench-R1"
    files: ClassVar = ("annotations/validation_*.jsonl", "videos/**", "images/**")
    parts: ClassVar = ("validation_L1", "validation_L2", "validation_L3")
    rule_in_words: ClassVar = (
        "The first character within the first <answer> </answer> is the right letter; without the tags the answer is "
        "wrong (accuracy_any reads answers without tags too)."
    )

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        rows = entries(folder / "annotations" / f"{part}.jsonl", folder)
        return [self._listed(entry) if entry.has("candidates") else self._named(entry) for entry in rows]

    @property
    def rule(self) -> FirstLetter:
        return FirstLetter()

    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": Mean(self.rule),
            "accuracy_any": Mean(ExtractedChoice()),
            "unread": Unread(ExtractedChoice()),
            "untagged": ParseFailure(("think", "answer")),
        }

    def _named(self, entry: Entry) -> Item:
        options = {letter: entry.text(f"choice_{letter.lower()}") for letter in "ABCD"}
        letter = entry.one_of("golden_choice_idx", tuple(options))
        if entry.text("answer") != options[letter]:
            entry.wrong("answer", short(entry.value("answer")), f"the words of option {letter}")
        source = entry.text("video_source")
        shown: list[Media] = []
        if not isinstance(entry.value("task_progress_metadata"), list):
            entry.wrong("task_progress_metadata", short(entry.value("task_progress_metadata")), "a list")
        if entry.value("task_progress_metadata"):
            path = entry.root / "videos" / source / entry.text("video_basename")
            shown.append(self.film(entry, "video_basename", path))
        now = f"images/{source}/{entry.text('current_observation_basename')}"
        shown.append(entry.media("current_observation_basename", source=now))
        return self._item(entry, entry.word("sample_id"), shown, options, letter, source)

    def _listed(self, entry: Entry) -> Item:
        texts = entry.texts("candidates", 2)
        options = dict(zip(LETTERS, texts, strict=False))
        index = entry.number_of("correct_choice")
        if index not in range(len(texts)):
            entry.wrong("correct_choice", short(entry.value("correct_choice")), f"an index from 0 to {len(texts) - 1}")
        path = entry.text("video_path")
        shown = [self.film(entry, "video_path", entry.root / "videos" / path, entry.root / path)]
        category = entry.text("domain") if entry.has("domain") else "EgoPlan-Bench2"
        return self._item(entry, entry.word("id"), shown, options, LETTERS[int(index)], category)

    def _item(
        self, entry: Entry, name: str, shown: Sequence[Media], options: Mapping[str, str], letter: str, category: str
    ) -> Item:
        asked = Text(lettered(entry.text("question"), options, THINK_FIRST))
        gold = says(f"<think>It is {options[letter]}.</think><answer>{letter}</answer>")
        return Item(name, (*shown, asked), {"answer": letter, "options": options}, category, gold)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        for part in cls.parts:
            rows = [_row(folder, part, i) for i in range(n)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "annotations" / f"{part}.jsonl").write_text(lines, encoding="utf-8")


def _row(folder: Path, part: str, i: int) -> dict[str, Any]:
    source = ("EpicKitchens", "Ego4D")[i % 2]
    still, colour = square(i)
    write_film(folder / "videos" / source / f"{part}_{i}.mp4", i)
    (folder / "images" / source).mkdir(parents=True, exist_ok=True)
    still.save(folder / "images" / source / f"{part}_{i}.png")
    options, letter = choices(i, colour)
    question = "Which colour should I take next to go on with the square's?"
    if part == "validation_L3":
        return {
            "id": f"{part}_{i}",
            "question": question,
            "candidates": list(options.values()),
            "correct_choice": "ABCD".index(letter),
            "video_path": f"{source}/{part}_{i}.mp4",
            "domain": ("Work", "Hobbies")[i % 2],
        }
    return {
        "sample_id": i,
        "question": question,
        **{f"choice_{letter.lower()}": words for letter, words in options.items()},
        "golden_choice_idx": letter,
        "answer": colour,
        # Every third row has no past to show.
        "task_progress_metadata": [] if i % 3 == 2 else [{"narration_text": "move", "start_frame": 0, "stop_frame": 5}],
        "video_source": source,
        "video_basename": f"{part}_{i}.mp4",
        "current_observation_basename": f"{part}_{i}.png",
    }
