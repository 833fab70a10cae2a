"""T2I-CompBench (arXiv:2307.06350): attributes, places, counts and actions in generated pictures.

Files: ``<part>_val.txt`` with a prompt a line (in ``examples/dataset`` of the authors' repository), and for
``numeracy`` ``new_objects.txt``, ``singular - plural`` a line. Ten pictures of each prompt are the custom.

Scored by the authors' rules with pretrained models in place of theirs:

- ``color``, ``shape``, ``texture``: BLIP's probability that each noun phrase is in the picture, multiplied. The authors
  find phrases with spaCy; here they are what stands between articles, prepositions, verbs "to be" and conjunctions,
  which is the same on the templates ("a green bench and a blue bowl") and may differ on free sentences.
- ``spatial``, ``numeracy``: objects of a detector. The authors' is UniDet, which transformers does not have; whichever
  is named here must know the prompts' objects. That objects count from a score of 0.5 on is inferred.
- ``non_spatial``: cosine of picture and prompt by CLIP ViT-B/32.

Not here: ``3d_spatial``, which needs a depth model besides, and ``complex``, which needs a parser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.rules.judges import Box, Detection, Detector, load_answers, load_clip, load_detector
from saccade.evaluate.samples import Mean

RELATIONS = (
    "on side of", "next to", "near", "on the left of", "on the right of", "on the bottom of", "on the top of",
    "on top of",
)  # fmt: skip
"""In the order in which they are looked for."""
SIDE_BY_SIDE = ("on side of", "next to", "near")
NEAR = 150.0
"""Pixels between centres, on either axis, up to which objects are near each other."""
OVERLAP = 0.1
"""IoU from which a relation counts less."""
SURE = 0.5
PEOPLE = ("girl", "boy", "man", "woman")
OTHER_NAMES = {**dict.fromkeys(PEOPLE, "person"), "ship": "boat", "goldfish": "fish", "painting": "picture"}
"""What detectors call objects, as the authors' program has it."""
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
MOST_PHRASES = 8
BREAKS = frozenset({
    "and", "or", "but", "with", "of", "on", "in", "at", "to", "from", "by", "under", "over", "near", "beside", "behind",
    "above", "below", "next", "into", "onto", "is", "are", "was", "were", "has", "have", "while", "that", "which",
    "who",
})  # fmt: skip
"""Words that end a noun phrase."""
ARTICLES = frozenset({"a", "an", "the"})
WORD = re.compile(r"[\w'-]+|[,.;:!?]")


# --- the rules ------------------------------------------------------------------------------------------------------


def noun_phrases(prompt: str) -> tuple[str, ...]:
    """Things a prompt names, each with its attributes: ``a red car``; at most eight."""
    phrases: list[str] = []
    now: list[str] = []
    for word in [*WORD.findall(prompt), "."]:
        low = word.lower()
        if low in ARTICLES or low in BREAKS or not word[0].isalnum():
            if any(part.lower() not in ARTICLES for part in now):
                phrases.append(" ".join(now))
            now = [word] if low in ARTICLES else []
        else:
            now.append(word)
    return tuple(phrases[:MOST_PHRASES])


def product(chances: Sequence[float]) -> float:
    """P(yes) of all phrases, multiplied, as if they were independent."""
    return math.prod(chances)


def placed(relation: str, a: Box, b: Box) -> float:
    """How well box a stands in a relation to box b, in [0, 1].

    Near each other: 1 up to ``NEAR`` pixels between the centres on either axis, then ``NEAR`` over the larger offset.
    Beside, above or below: the offset must point that way and be the larger one; 1 up to an IoU of ``OVERLAP``, then
    ``OVERLAP / IoU``.
    """
    across = (b[0] + b[2]) / 2 - (a[0] + a[2]) / 2
    down = (b[1] + b[3]) / 2 - (a[1] + a[3]) / 2
    if relation in SIDE_BY_SIDE:
        near = abs(across) < NEAR or abs(down) < NEAR
        return 1.0 if near else NEAR / max(abs(across), abs(down))
    towards = {
        "on the right of": (-across, down), "on the left of": (across, down), "on the bottom of": (-down, across),
        "on the top of": (down, across),
    }.get(relation)  # fmt: skip
    if towards is None or not towards[0] > abs(towards[1]):
        return 0.0
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    iou = common / union if union else 0.0
    return 1.0 if iou < OVERLAP else OVERLAP / iou


def spatial_score(found: Sequence[Detection], first: str, relation: str, second: str) -> float:
    """A quarter of each object's score plus half of ``placed``; 0 where that is below one half.

    ``found`` has the surest first: the surest object of each name counts.
    """
    a, b = (next((one for one in found if one.name == name), None) for name in (first, second))
    score = sum(one.score for one in (a, b) if one is not None) / 4
    if a is not None and b is not None:
        score += placed(relation, a.box, b.box) / 2
    return score if score >= 0.5 else 0.0


def distinct(found: Sequence[Detection]) -> list[Detection]:
    """Objects without later ones of the same name that are almost the same box (IoU or a share > 0.9)."""
    kept: list[Detection] = []
    for one in found:
        if not any(one.name == other.name and _same(one.box, other.box) for other in kept):
            kept.append(one)
    return kept


def _same(a: Box, b: Box) -> bool:
    common = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    first, second = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return max(common / (first + second - common), common / first, common / second) > 0.9


def numeracy_score(found: Sequence[Detection], wanted: Sequence[tuple[str, int]]) -> float:
    """Mean over the wanted objects: one half for being there, one half for the right number.

    An object that no detection is named by is looked for in longer names ("table" in "dining table").
    """
    names = [one.name for one in distinct(found)]
    score = 0.0
    for name, count in wanted:
        if name not in names:
            names = [name if name in other else other for other in names]
        here = names.count(name)
        score += (0.5 * (here > 0) + 0.5 * (here == count)) / len(wanted) if here else 0.0
    return score


# --- rewards --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AttributeBinding(SampleReward):
    """Probability that all noun phrases of the prompt are in the picture (``product``); 0 without a picture.

    Raises:
        ConfigError: ``answerer`` names no checkpoint.
    """

    answerer: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        answers = load_answers(self.answerer)
        if trajectory.image is None:
            return Score(0.0, note="no image")
        phrases = trajectory.task.target["phrases"]
        chances = answers(trajectory.image, [f"{phrase}?" for phrase in phrases])
        note = ", ".join(f"{phrase} {chance:.2f}" for phrase, chance in zip(phrases, chances, strict=True))
        return Score(product(chances), note=note)


@dataclass(frozen=True, kw_only=True)
class SpatialRelation(SampleReward):
    """``spatial_score`` of the prompt's two objects; 0 without a picture.

    Raises:
        ConfigError: ``detector`` names no checkpoint, or one that does not know the objects.
    """

    detector: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        detector = load_detector(self.detector)
        target = trajectory.task.target
        first, second = (_known(name, detector) for name in (target["first"], target["second"]))
        if trajectory.image is None:
            return Score(0.0, note="no image")
        found = [one for one in detector(trajectory.image) if one.score >= SURE]
        return Score(spatial_score(found, first, target["relation"], second))


@dataclass(frozen=True, kw_only=True)
class Numeracy(SampleReward):
    """``numeracy_score`` of the prompt's objects; 0 without a picture.

    Raises:
        ConfigError: ``detector`` names no checkpoint, or one that does not know the objects.
    """

    detector: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        detector = load_detector(self.detector)
        wanted = [(_known(name, detector), count) for name, count in trajectory.task.target["counts"]]
        if trajectory.image is None:
            return Score(0.0, note="no image")
        return Score(numeracy_score([one for one in detector(trajectory.image) if one.score >= SURE], wanted))


@dataclass(frozen=True, kw_only=True)
class PromptCosine(SampleReward):
    """CLIP's cosine of picture and prompt, unscaled; 0 without a picture.

    Raises:
        ConfigError: ``clip`` names no checkpoint.
    """

    clip: str = ""

    def score(self, trajectory: Trajectory) -> Score:
        model = load_clip(self.clip)
        if trajectory.image is None:
            return Score(0.0, note="no image")
        return Score(model.cosine(trajectory.image, trajectory.task.target["prompt"]))


def _known(name: str, detector: Detector) -> str:
    wanted = OTHER_NAMES.get(name, name)
    for other in (wanted, name, "tv" if name == "television" else name):
        if any(other in known for known in detector.names):
            return other
    raise ConfigError(f"detector must know the class {name!r}, which is not among its {len(detector.names)} classes")


# --- the benchmark --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class T2ICompBench(Benchmark):
    """The validation prompts of one of T2I-CompBench's categories, 300 each."""

    name: ClassVar = "t2i_compbench"
    title: ClassVar = "T2I-CompBench"
    paper: ClassVar = "2307.06350"
    pillar: ClassVar = "generation"
    hub: ClassVar = ""
    files: ClassVar = ("*_val.txt", "new_objects.txt")
    parts: ClassVar = ("color", "shape", "texture", "spatial", "numeracy", "non_spatial")
    rule_in_words: ClassVar = (
        "Attributes: product of BLIP's probabilities of the noun phrases; places and numbers: detected objects;"
        " actions: CLIP's cosine."
    )

    answerer: str = ""
    """BLIP checkpoint for ``color``, ``shape`` and ``texture``: folder or hub id."""
    detector: str = ""
    """Detector for ``spatial`` and ``numeracy``: folder or hub id."""
    clip: str = ""
    """CLIP checkpoint for ``non_spatial``: folder or hub id."""

    @property
    def rule(self) -> Reward:
        part = self.part or self.parts[0]
        if part == "spatial":
            return SpatialRelation(detector=self.detector)
        if part == "numeracy":
            return Numeracy(detector=self.detector)
        return PromptCosine(clip=self.clip) if part == "non_spatial" else AttributeBinding(answerer=self.answerer)

    def metrics(self) -> Mapping[str, Metric]:
        return {"score": Mean(self.rule)}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        inner = folder / "examples" / "dataset"
        root = inner if inner.is_dir() else folder
        plurals = _plurals(root / "new_objects.txt") if part == "numeracy" else {}
        return [
            Item(f"{part}-{entry.number:03d}", (Text(entry.text("prompt")),), _target(entry, part, plurals), part)
            for entry in _lines(root / f"{part}_val.txt", "prompt")
        ]

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        things = ("cat", "dog", "car", "bench", "bowl", "book", "clock", "vase")
        lines: dict[str, list[str]] = {part: [] for part in cls.parts}
        for i in range(n):
            a, b = things[i % 8], things[(i + 3) % 8]
            hue, other = ("green", "red", "blue", "yellow")[i % 4], ("white", "black", "pink")[i % 3]
            lines["color"].append(f"a {hue} {a} and a {other} {b}")
            lines["shape"].append(f"an oval {a} and a square {b}")
            lines["texture"].append(f"a wooden {a} and a metallic {b}")
            lines["spatial"].append(f"a {a} {RELATIONS[i % 7]} a {b}")
            lines["numeracy"].append(f"{('two', 'three', 'four')[i % 3]} {_plural(a)} and one {b}")
            lines["non_spatial"].append(f"A person is looking at a {a} and a {b}.")
        for part, listed in lines.items():
            (folder / f"{part}_val.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        names = "\n".join(f"{thing} - {_plural(thing)}" for thing in things)
        (folder / "new_objects.txt").write_text(names + "\n", encoding="utf-8")


def _plural(thing: str) -> str:
    return thing + ("es" if thing.endswith("ch") else "s")


def _lines(path: Path, field: str) -> list[Entry]:
    """Lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found bytes that are no text at offset {error.start}, expected UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: found no file that can be read ({error.strerror}), expected lines") from None
    return [
        Entry(path, number, {field: line.strip()}, path.parent)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _plurals(path: Path) -> dict[str, str]:
    """Singular of each plural and of each singular."""
    found: dict[str, str] = {}
    for entry in _lines(path, "names"):
        one, dash, many = (part.strip().lower() for part in entry.text("names").partition(" - "))
        if not dash or not one or not many:
            entry.wrong("names", short(entry.text("names")), "singular - plural")
        found |= {many: one, one: found.get(one, one)}
    return found


def _target(entry: Entry, part: str, plurals: Mapping[str, str]) -> dict[str, Any]:
    prompt = entry.text("prompt")
    if part == "non_spatial":
        return {"prompt": prompt}
    if part == "spatial":
        return _relation(entry, prompt)
    if part == "numeracy":
        return {"counts": _counts(entry, prompt, plurals)}
    phrases = noun_phrases(prompt)
    if not phrases:
        entry.wrong("prompt", short(prompt), "a prompt that names a thing")
    return {"phrases": phrases}


def _relation(entry: Entry, prompt: str) -> dict[str, str]:
    low = prompt.lower().strip(" .")
    relation = next((one for one in RELATIONS if one in low), None)
    before, _, after = low.partition(relation or "\n")
    first, second = (" ".join(word for word in side.split() if word not in ARTICLES) for side in (before, after))
    if relation is None or not first or not second:
        entry.wrong("prompt", short(prompt), f"two objects with {', '.join(RELATIONS)} between them")
    return {"first": first, "relation": relation, "second": second}


def _counts(entry: Entry, prompt: str, plurals: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    words = WORD.findall(prompt.lower())
    found: list[tuple[str, int]] = []
    for i, word in enumerate(words):
        count = NUMBERS.get(word)
        names = (" ".join(words[i + 1 : i + 3]), " ".join(words[i + 1 : i + 2]))
        name = next((plurals[name] for name in names if name in plurals), None)
        if count is not None and name is not None:
            found.append((name, count))
    if not found:
        entry.wrong("prompt", short(prompt), "numbers of objects that new_objects.txt names")
    return tuple(found)
