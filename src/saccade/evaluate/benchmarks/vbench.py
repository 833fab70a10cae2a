"""VBench (arXiv:2311.17982): 946 prompts for videos, judged in 16 dimensions.

Files: ``VBench_full_info.json``, a list of ``{"prompt_en", "dimension": [...], "auxiliary_info"?: {...}}``. Videos are
named ``<prompt>-<k>.mp4``, five of each prompt. Each dimension has a network of its own, which the authors' program
loads. Here temporal flickering, which needs none, is measured; the scores of the other dimensions are taken from the
files that the authors' program writes, ``{dimension: [mean, [{"video_path", "video_results"}]]}``, which the field
``results`` names. ``final_scores`` combines the dimensions' means as the leaderboard does.

A video that stands still is best in flickering, smoothness and both consistencies: read them with dynamic degree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from saccade.core.content import Text, Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.datasets.media import Place, short
from saccade.evaluate.benchmark import Benchmark, Entry, Item, entries
from saccade.evaluate.samples import Mean


@dataclass(frozen=True)
class Dimension:
    """How a dimension's mean enters the total."""

    low: float
    high: float
    weight: float = 1.0


QUALITY: Mapping[str, Dimension] = {
    "subject_consistency": Dimension(0.1462, 1.0),
    "background_consistency": Dimension(0.2615, 1.0),
    "temporal_flickering": Dimension(0.6293, 1.0),
    "motion_smoothness": Dimension(0.706, 0.9975),
    "dynamic_degree": Dimension(0.0, 1.0, weight=0.5),
    "aesthetic_quality": Dimension(0.0, 1.0),
    "imaging_quality": Dimension(0.0, 1.0),
}
SEMANTIC: Mapping[str, Dimension] = {
    "object_class": Dimension(0.0, 1.0),
    "multiple_objects": Dimension(0.0, 1.0),
    "human_action": Dimension(0.0, 1.0),
    "color": Dimension(0.0, 1.0),
    "spatial_relationship": Dimension(0.0, 1.0),
    "scene": Dimension(0.0, 0.8222),
    "appearance_style": Dimension(0.0009, 0.2855),
    "temporal_style": Dimension(0.0, 0.364),
    "overall_consistency": Dimension(0.0, 0.364),
}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


def final_scores(means: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score of the dimensions' means.

    Each mean becomes ``(x - low) / (high - low)``; quality and semantic are weighted means of theirs, the total is
    ``(4 quality + semantic) / 5``.

    Raises:
        ConfigError: a dimension is missing; the leaderboard would count it as 0.
    """
    missing = [name for name in (*QUALITY, *SEMANTIC) if name not in means]
    if missing:
        raise ConfigError(f"final_scores needs all 16 dimensions; missing: {', '.join(missing)}")
    quality, semantic = (
        math.fsum(one.weight * (means[name] - one.low) / (one.high - one.low) for name, one in listed.items())
        / math.fsum(one.weight for one in listed.values())
        for listed in (QUALITY, SEMANTIC)
    )
    total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return {"quality": quality, "semantic": semantic, "total": total}


def flickering(frames: np.ndarray) -> float:
    """1 minus the mean absolute difference of successive frames, uint8 ``[F, H, W, 3]``, over 255; 1 for one frame."""
    if len(frames) < 2:
        return 1.0
    wide = frames.astype(np.int16)
    return 1.0 - float(np.abs(np.diff(wide, axis=0)).mean()) / 255


@dataclass(frozen=True, kw_only=True)
class TemporalFlickering(SampleReward):
    """``flickering`` of the output's last video; 0 without one."""

    def score(self, trajectory: Trajectory) -> Score:
        videos = [part for part in trajectory.output if isinstance(part, Video)]
        return Score(flickering(videos[-1].frames)) if videos else Score(0.0, note="no video")


@dataclass(frozen=True, kw_only=True)
class FromResults(Reward):
    """What the authors' program says of the k-th video of a prompt, for the k-th trajectory of a group.

    Raises:
        ConfigError: ``results`` names no file or folder of results.
        DataError: they are not as the module says, or one of the videos is not among them.
    """

    scope: ClassVar = "group"
    dimension: str = ""
    results: str = ""

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        if not self.results:
            raise ConfigError(
                f"results must name the results that VBench's own program wrote of {self.dimension}, got ''"
            )
        read = read_results(Path(self.results)).get(self.dimension)
        if read is None:
            raise DataError(f"{self.results}: {self.dimension}: found no such dimension, expected its results")
        known = read.videos
        found: list[Score] = []
        for k, trajectory in enumerate(trajectories):
            name = f"{trajectory.task.target['prompt']}-{k}"
            if name not in known:
                raise DataError(f"{self.results}: {self.dimension}: found no video {short(name)}, expected its result")
            found.append(Score(known[name]))
        return found


@dataclass(frozen=True)
class Measured:
    """What the authors' program says of one dimension."""

    mean: float
    videos: Mapping[str, float]
    """By name, ``<prompt>-<k>``."""


def read_results(path: Path) -> dict[str, Measured]:
    """The dimensions in a file, or in all files of a folder, of results.

    ``final_scores({name: one.mean for name, one in read_results(path).items()})`` is the leaderboard's summary.

    Raises:
        ConfigError: there is no such file or folder.
        DataError: a file is not what the authors' program writes, or two of them have the same dimension.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"results must name a file or folder of VBench's results, got {str(path)!r}")
    found: dict[str, Measured] = {}
    for file in files:
        state = file.stat()
        for dimension, measured in _results(file, state.st_mtime_ns, state.st_size).items():
            if dimension in found:
                raise DataError(f"{file}: {dimension}: found a second file with it, expected each dimension once")
            found[dimension] = measured
    return found


@lru_cache(maxsize=32)
def _results(path: Path, mtime: int, size: int) -> dict[str, Measured]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: found a file that cannot be read ({error}), expected JSON") from None
    if not isinstance(found, dict):
        return {}  # the program's list of what it evaluated lies beside the results
    read: dict[str, Measured] = {}
    for dimension, value in found.items():
        fine = isinstance(value, list) and len(value) == 2 and isinstance(value[0], int | float)
        if not fine or not isinstance(value[1], list):
            Place(str(path), 1, dimension).wrong(short(value), "a mean and a list of videos")
        videos = dict(_video(path, number, dimension, video) for number, video in enumerate(value[1], start=1))
        read[dimension] = Measured(_share(dimension, float(value[0])), videos)
    return read


def _share(dimension: str, score: float) -> float:
    # The network of this dimension says percent, and versions of the program differ in where they divide.
    return score / 100 if dimension == "imaging_quality" and score > 1 else score


def _video(path: Path, number: int, dimension: str, video: Any) -> tuple[str, float]:
    entry = Entry(path, number, video if isinstance(video, Mapping) else {}, path.parent)
    value = entry.value("video_results")
    score = float(value) if isinstance(value, bool) else entry.number_of("video_results")
    return Path(entry.text("video_path")).stem, _share(dimension, score)


@dataclass(frozen=True)
class VBench(Benchmark):
    """The prompts of one of VBench's dimensions."""

    name: ClassVar = "vbench"
    title: ClassVar = "VBench"
    paper: ClassVar = "2311.17982"
    pillar: ClassVar = "generation"
    hub: ClassVar = ""
    files: ClassVar = ("VBench_full_info.json",)
    parts: ClassVar = (*QUALITY, *SEMANTIC)
    rule_in_words: ClassVar = (
        "Each dimension by its own network, from the authors' program; temporal flickering is 1 - MAE / 255 of"
        " successive frames; the total weighs quality 4 and semantics 1."
    )

    results: str = ""
    """File or folder of results that the authors' program wrote; empty: measured here, where that is possible."""

    @property
    def rule(self) -> Reward:
        part = self.part or self.parts[0]
        if part == "temporal_flickering" and not self.results:
            return TemporalFlickering()
        return FromResults(dimension=part, results=self.results)

    def metrics(self) -> Mapping[str, Metric]:
        return {self.part or self.parts[0]: Mean(self.rule)}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        items: list[Item] = []
        for entry in entries(folder / "VBench_full_info.json"):
            dimensions = entry.texts("dimension")
            unknown = [name for name in dimensions if name not in self.parts]
            if unknown:
                entry.wrong("dimension", short(unknown[0]), f"some of {', '.join(self.parts)}")
            if part not in dimensions:
                continue
            prompt = entry.text("prompt_en")
            more = entry.value("auxiliary_info") if entry.has("auxiliary_info") else {}
            if not isinstance(more, Mapping):
                entry.wrong("auxiliary_info", short(more), "an object by dimension")
            target = {"prompt": prompt, "auxiliary": more.get(part)}
            items.append(Item(f"{entry.number:04d}", (Text(prompt),), target, part))
        return items

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {"prompt_en": f"a {('cat', 'dog', 'car', 'bird')[i % 4]} number {i}", "dimension": list(cls.parts),
             "auxiliary_info": {"object_class": {"object": ("cat", "dog", "car", "bird")[i % 4]}}}
            for i in range(n)
        ]  # fmt: skip
        (folder / "VBench_full_info.json").write_text(json.dumps(rows), encoding="utf-8")
