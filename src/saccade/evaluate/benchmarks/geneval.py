"""GenEval (arXiv:2310.11513): do generated pictures hold the objects, counts, colours and places of their prompts?

Files: ``evaluation_metadata.jsonl`` (or ``prompts/evaluation_metadata.jsonl`` of the authors' repository), a prompt a
line: ``{"tag", "include": [{"class", "count", "color"?, "position"?}], "exclude"?: [{"class", "count"}], "prompt"}``.

Pictures are judged on the objects that a detector finds, by the authors' clauses and thresholds. Theirs is a
Mask2Former of mmdetection; the one used here is transformers' port of such a network, so scores agree in kind, not to
the last picture. Results that the authors' own program wrote are summarised by ``summary``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Metric, Row, clustered_mean
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item, MeanOfCategories, by_category, entries
from saccade.evaluate.rules.judges import (
    COLOURS,
    Box,
    ColourClassifier,
    Detection,
    Detector,
    load_colours,
    load_detector,
)
from saccade.evaluate.rules.subsets import by_value
from saccade.evaluate.samples import Mean

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
SURE = 0.3
"""Scores above this count as objects."""
SURE_OF_COUNTS = 0.9
"""The same for the task ``counting``."""
MOST = 16
"""Objects of a class that are looked at."""
DEAD = 0.1
"""Share of the two objects' sizes that an offset must exceed to be one."""
NAMES = {
    "computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard", "dining table": "diningtable",
    "potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor", "motorcycle": "motorbike",
    "airplane": "aeroplane",
}  # fmt: skip
"""GenEval's names of classes that detectors may know by another."""


# --- the authors' clauses -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    correct: bool
    reasons: tuple[str, ...]
    """One for each clause that fails."""


def objects(found: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """The surest objects of each class: at most ``MOST``, above the task's threshold, the surest first."""
    least = SURE_OF_COUNTS if tag == "counting" else SURE
    kept: dict[str, list[Detection]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > least:
            kept.setdefault(one.name, []).append(one)
    return {name: listed[:MOST] for name, listed in kept.items()}


def relations(a: Box, b: Box) -> set[str]:
    """Where box a is, seen from box b.

    The offset of the centres is shrunk on each axis by ``DEAD`` times the sum of the two sizes; a relation holds if
    what is left exceeds half the length of the whole offset on its axis.
    """
    left: list[float] = []
    offset: list[float] = []
    for low, high in ((0, 2), (1, 3)):
        between = (a[low] + a[high]) / 2 - (b[low] + b[high]) / 2
        dead = DEAD * (abs(a[high] - a[low]) + abs(b[high] - b[low]))
        offset.append(between)
        left.append(math.copysign(max(abs(between) - dead, 0.0), between))
    if all(abs(x) < 1e-3 for x in left):
        return set()
    x, y = (part / math.hypot(*offset) for part in left)
    held = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in held.items() if holds}


def verdict(
    clauses: Mapping[str, Any], found: Mapping[str, Sequence[Detection]], colours: Mapping[str, Sequence[str]]
) -> Verdict:
    """Whether a picture fulfils all ``include`` clauses and no ``exclude`` clause.

    Args:
        clauses: a line of the metadata.
        found: objects by class, the surest first; of each only as many as a clause counts are looked at.
        colours: by class, the colour of each object in ``found``; only of classes whose colour is asked for.
    """
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in clauses.get("include", ()):
        name, count = clause["class"], clause["count"]
        mine = list(found.get(name, ()))[:count]
        why = _fails(clause, mine, list(colours.get(name, ()))[:count], matched)
        matched.append(None if why else mine)
        reasons += why
    for clause in clauses.get("exclude", ()):
        here = len(found.get(clause["class"], ()))
        if here >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {here}")
    return Verdict(not reasons, tuple(reasons))


def _fails(
    clause: Mapping[str, Any], mine: Sequence[Detection], colours: Sequence[str],
    matched: Sequence[Sequence[Detection] | None],
) -> list[str]:  # fmt: skip
    name, count = clause["class"], clause["count"]
    if len(mine) < count:
        return [f"expected {name}>={count}, found {len(mine)}"]
    if "color" in clause and colours.count(clause["color"]) < count:
        seen = ", ".join(colours)
        return [f"expected {clause['color']} {name}>={count}, found {seen}"]
    if "position" in clause:
        wanted, of = clause["position"]
        targets = matched[of]
        if targets is None:
            return [f"no target for {name} to be {wanted}"]
        for one in mine:
            for target in targets:
                here = relations(one.box, target.box)
                if wanted not in here:
                    return [f"expected {name} {wanted} target, found {' and '.join(sorted(here)) or 'neither'}"]
    return []


def judge(image: Any, clauses: Mapping[str, Any], detector: Detector, colours: ColourClassifier | None) -> Verdict:
    """The verdict on a picture.

    Raises:
        ConfigError: the detector does not know a class, or a colour is asked for and there is no classifier.
    """
    asked = [*clauses.get("include", ()), *clauses.get("exclude", ())]
    known = {clause["class"]: _known(clause["class"], detector.names) for clause in asked}
    kept = objects(detector(image), clauses["tag"])
    found = {name: kept.get(other, []) for name, other in known.items()}
    painted = {clause["class"] for clause in clauses.get("include", ()) if "color" in clause}
    if painted and colours is None:
        raise ConfigError("classifier must name a CLIP checkpoint: the prompt asks for a colour")
    # Only what a clause may look at is classified.
    most = {name: max(clause["count"] for clause in asked if clause["class"] == name) for name in painted}
    seen = {name: colours(image, found[name][: most[name]], name) for name in painted} if colours else {}
    return verdict(clauses, found, seen)


def _known(name: str, names: Collection[str]) -> str:
    for other in (name, NAMES.get(name, name)):
        if other in names:
            return other
    raise ConfigError(f"detector must know the class {name!r} of COCO, which is not among its {len(names)} classes")


@dataclass(frozen=True, kw_only=True)
class GenEvalCorrect(SampleReward):
    """1 if the picture fulfils the prompt's clauses, else 0; 0 without a picture.

    ``detector`` and ``classifier`` name checkpoints, folders or hub ids; the latter is only needed where a colour is
    asked for.

    Raises:
        ConfigError: one that is needed is not named or cannot be loaded.
    """

    detector: str = ""
    classifier: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        clauses = trajectory.task.target
        detect = load_detector(self.detector)
        painted = any("color" in clause for clause in clauses["include"])
        colours = load_colours(self.classifier) if painted else None
        if trajectory.image is None:
            return Score(0.0, note="no image")
        found = judge(trajectory.image, clauses, detect, colours)
        return Score(float(found.correct), note="; ".join(found.reasons))


def summary(results: Path) -> dict[str, Estimate]:
    """The authors' summary of a results file that their program wrote.

    Each line is ``{"filename", "tag", "prompt", "correct", "metadata", ...}``. ``overall`` is the mean of the tasks'
    means, ``images`` and ``prompts`` the shares of right pictures and of prompts with any right picture.

    Raises:
        DataError: the file is not so.
    """
    rows: list[tuple[str, Row]] = []
    for entry in entries(results):
        right = entry.value("correct")
        if not isinstance(right, bool):
            entry.wrong("correct", short(right), "true or false")
        rows.append((entry.one_of("tag", TAGS), Row(entry.text("metadata"), float(right))))
    if not rows:
        raise DataError(f"{results}: found no rows, expected a picture's result in each")
    any_right: dict[str, float] = {}
    for _, row in rows:
        any_right[row.task] = max(any_right.get(row.task, 0.0), row.value)
    return {
        "overall": MeanOfCategories(GenEvalCorrect()).compute(rows),
        "images": clustered_mean([row for _, row in rows]),
        "prompts": clustered_mean([Row(prompt, value) for prompt, value in any_right.items()]),
        **{tag: clustered_mean(listed) for tag, listed in by_category(rows).items()},
    }


# --- the benchmark --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenEval(Benchmark):
    """GenEval's 553 prompts; four pictures of each are the custom."""

    name: ClassVar = "geneval"
    title: ClassVar = "GenEval"
    paper: ClassVar = "2310.11513"
    pillar: ClassVar = "generation"
    hub: ClassVar = ""
    files: ClassVar = ("evaluation_metadata.jsonl",)
    parts: ClassVar = ("test",)
    rule_in_words: ClassVar = (
        "A picture is right if detection finds every included object in number, colour and place and none too many;"
        " the score is the mean of the six tasks' means."
    )

    detector: str = ""
    """Mask2Former checkpoint for COCO instances: folder or hub id."""
    classifier: str = ""
    """CLIP checkpoint that tells colours: folder or hub id."""

    @property
    def rule(self) -> GenEvalCorrect:
        return GenEvalCorrect(detector=self.detector, classifier=self.classifier)

    def metrics(self) -> Mapping[str, Metric]:
        columns: Mapping[str, tuple[str, str | bool]] = {tag: ("category", tag) for tag in TAGS}
        return {"overall": MeanOfCategories(self.rule), "images": Mean(self.rule), **by_value(self.rule, columns)}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        inner = folder / "prompts" / "evaluation_metadata.jsonl"
        path = inner if inner.is_file() else folder / "evaluation_metadata.jsonl"
        return [_item(entry) for entry in entries(path)]

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = [
            {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
            {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}],
             "prompt": "a photo of a cat and a dog"},
            {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}],
             "prompt": "a photo of two cats"},
            {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}],
             "prompt": "a photo of a red car"},
            {"tag": "position", "include": [{"class": "dog", "count": 1},
                                            {"class": "cat", "count": 1, "position": ["left of", 0]}],
             "prompt": "a photo of a cat left of a dog"},
            {"tag": "color_attr", "include": [{"class": "car", "count": 1, "color": "blue"},
                                              {"class": "dog", "count": 1, "color": "black"}],
             "prompt": "a photo of a blue car and a black dog"},
        ]  # fmt: skip
        lines = [json.dumps(rows[i % len(rows)]) for i in range(n)]
        (folder / "evaluation_metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _item(entry: Entry) -> Item:
    tag, prompt = entry.one_of("tag", TAGS), entry.text("prompt")
    clauses: dict[str, Any] = {"tag": tag, "include": _clauses(entry, "include")}
    if not clauses["include"]:
        entry.wrong("include", "an empty list", "at least one clause")
    if entry.has("exclude"):
        clauses["exclude"] = _clauses(entry, "exclude")
    return Item(f"{entry.number - 1:05d}", (Text(prompt),), clauses, tag)


def _clauses(entry: Entry, field: str) -> list[dict[str, Any]]:
    listed = entry.value(field)
    if not isinstance(listed, list):
        entry.wrong(field, short(listed), "a list of clauses")
    for i, clause in enumerate(listed):
        place = f"{field}[{i}]"
        if not isinstance(clause, Mapping) or not isinstance(clause.get("class"), str):
            entry.wrong(place, short(clause), "an object with class and count")
        if type(clause.get("count")) is not int or clause["count"] < 1:
            entry.wrong(f"{place}.count", short(clause.get("count")), "a number >= 1")
        if "color" in clause and clause["color"] not in COLOURS:
            entry.wrong(f"{place}.color", short(clause["color"]), f"one of {', '.join(COLOURS)}")
        if "position" in clause:
            where = clause["position"]
            fine = isinstance(where, list) and len(where) == 2 and where[0] in RELATIONS and type(where[1]) is int
            if not fine or not 0 <= where[1] < i:
                entry.wrong(f"{place}.position", short(where), f"a relation and the index of an earlier clause, < {i}")
    return [dict(clause) for clause in listed]
