"""R2R-CE (VLN-CE, arXiv:2004.02857): walk through a house as told, in a continuous space.

Files: ``<split>/<split>.json.gz`` with the episodes and ``<split>/<split>_gt.json.gz`` with the positions of the
demonstration. The houses (Matterport3D) and their simulator (Habitat) are not part of this library: the rules score
*recorded* paths, which an output holds as JSON, ``{"path": [[x, y, z], ...], "stop": true, "distances": [...]}``, or as
an ``Array`` named "path", ``[T, 3]``, with another one named "distances", ``[T]``, where they are known. ``stop`` says
whether the agent called the stop action; without it it did.

Distances to the goal ought to be geodesic, that is along the floor around walls, which takes the simulator. What is
used is what the benchmark's field ``distance`` says:

- ``recorded``: the simulator's geodesic distance of each position to the goal, ``distances`` of the output.
- ``straight`` (the default): the straight line, which passes through walls. It never exceeds the geodesic distance, so
  navigation error comes out too small and success too often. These numbers are not comparable with published ones.

The shortest path in SPL is the episode's own ``info["geodesic_distance"]``, and lengths of paths are sums of straight
steps, both as the authors have it.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from saccade.core.content import Array, Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.datasets.media import short
from saccade.evaluate.benchmark import Benchmark, Entry, Item
from saccade.evaluate.samples import Mean

RADIUS = 3.0
"""Metres from the goal that count as there."""
LONGEST = 20_000
"""Positions of a path that are read."""


@dataclass(frozen=True, eq=False)
class Goal:
    """A task's target; positions in metres."""

    position: np.ndarray
    """``[3]``."""
    geodesic: float
    """Length of the shortest path from the start."""
    reference: np.ndarray
    """``[R, 3]``: positions of the demonstration."""


@dataclass(frozen=True, eq=False)
class Walk:
    """A recorded path."""

    path: np.ndarray
    """``[T, 3]``, T >= 1."""
    stopped: bool
    distances: np.ndarray | None
    """``[T]``: geodesic distance of each position to the goal, where the simulator's are known."""


# --- the formulas ---------------------------------------------------------------------------------------------------


def path_length(path: np.ndarray) -> float:
    """Sum of the straight steps of ``[T, 3]`` positions."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def dtw(path: np.ndarray, reference: np.ndarray) -> float:
    """Cost of the cheapest monotone alignment of two paths, whose steps cost Euclidean distances."""
    cost = np.linalg.norm(path[:, None] - reference[None], axis=2)
    row = np.cumsum(cost[0])
    for here in cost[1:]:
        least = np.minimum(row, np.concatenate(([np.inf], row[:-1])))
        best = math.inf
        row = np.array([best := min(step, best) + spent for step, spent in zip(least, here, strict=True)])
    return float(row[-1])


def ndtw(path: np.ndarray, reference: np.ndarray, radius: float = RADIUS) -> float:
    """``exp(-DTW(P, R) / (|R| radius))`` (arXiv:1907.05446), repeated positions of the path dropped as VLN-CE does."""
    moves = np.concatenate(([True], (np.diff(path, axis=0) != 0).any(axis=1)))
    return math.exp(-dtw(path[moves], reference) / (len(reference) * radius))


def coverage_by_length(path: np.ndarray, reference: np.ndarray, radius: float = RADIUS) -> float:
    """CLS (arXiv:1905.12255): coverage of the reference times how well the length fits what is covered.

    ``PC = mean_r exp(-d(r, P) / radius)``, ``EPL = PC PL(R)``, ``LS = EPL / (EPL + |EPL - PL(P)|)``, ``CLS = PC LS``;
    d is the Euclidean distance to the nearest position.
    """
    nearest = np.linalg.norm(path[:, None] - reference[None], axis=2).min(axis=0)
    coverage = float(np.exp(-nearest / radius).mean())
    expected = coverage * path_length(reference)
    off = abs(expected - path_length(path))
    return coverage * (expected / (expected + off) if expected + off else 1.0)


def read_walk(trajectory: Trajectory) -> Walk | None:
    """The path that the last output holds; None if it holds none. Never raises."""
    arrays = {part.name: part.values for part in trajectory.output if isinstance(part, Array)}
    if "path" in arrays:
        return _walk(arrays["path"], True, arrays.get("distances"))
    try:
        found = json.loads(trajectory.text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("stop", True), bool):
        return None
    return _walk(found.get("path"), found.get("stop", True), found.get("distances"))


def _walk(path: Any, stopped: bool, distances: Any) -> Walk | None:
    positions = _numbers(path)
    if positions is None or positions.ndim != 2 or positions.shape[1] != 3:
        return None
    far = None if distances is None else _numbers(distances)
    if distances is not None and (far is None or far.shape != positions.shape[:1] or far.min() < 0):
        return None
    return Walk(positions, stopped, far)


def _numbers(value: Any) -> np.ndarray | None:
    if not isinstance(value, list | np.ndarray) or not 0 < len(value) <= LONGEST:
        return None
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if np.isfinite(found).all() and (abs(found) < 1e6).all() else None


# --- rewards --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PathReward(SampleReward):
    """A number about a recorded path; 0 where there is none, except that ``absent`` says otherwise.

    Raises:
        DataError: geodesic distances are wanted and the output records none.
    """

    distance: Literal["straight", "recorded"] = "straight"

    def score(self, trajectory: Trajectory) -> Score | None:
        if not trajectory.turns:
            return None
        goal: Goal = trajectory.task.target
        walk = read_walk(trajectory)
        if walk is None:
            return Score(self.absent(goal), note="no path")
        if self.distance == "straight":
            return Score(
                self.of(walk, np.linalg.norm(walk.path - goal.position, axis=1), goal), note="straight-line distances"
            )
        if walk.distances is None:
            where = f"task {trajectory.task.id!r}"
            raise DataError(f"{where}: distances: found none, expected the simulator's geodesic distances of the path")
        return Score(self.of(walk, walk.distances, goal), note="geodesic distances")

    def absent(self, goal: Goal) -> float:
        """The score of an output without a path."""
        return 0.0

    @abstractmethod
    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        """The score of a path whose positions are this far from the goal."""


def arrived(walk: Walk, distances: np.ndarray) -> bool:
    """Whether the agent stopped less than ``RADIUS`` from the goal."""
    return walk.stopped and float(distances[-1]) < RADIUS


@dataclass(frozen=True, kw_only=True)
class Success(PathReward):
    """SR: 1 if the agent stopped less than 3 m from the goal."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return float(arrived(walk, distances))


@dataclass(frozen=True, kw_only=True)
class OracleSuccess(PathReward):
    """OSR: 1 if any position is less than 3 m from the goal, whether the agent stopped or not."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return float(distances.min() < RADIUS)


@dataclass(frozen=True, kw_only=True)
class SuccessByLength(PathReward):
    """SPL: ``S l / max(l, p)`` with the shortest path's length l and the walked path's p (arXiv:1807.06757)."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return float(arrived(walk, distances)) * goal.geodesic / max(goal.geodesic, path_length(walk.path))


@dataclass(frozen=True, kw_only=True)
class NavigationError(PathReward):
    """NE: distance in metres of the last position from the goal; without a path that of the start."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return float(distances[-1])

    def absent(self, goal: Goal) -> float:
        return goal.geodesic


@dataclass(frozen=True, kw_only=True)
class TrajectoryLength(PathReward):
    """TL: length in metres of the path."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return path_length(walk.path)


@dataclass(frozen=True, kw_only=True)
class NDTW(PathReward):
    """How closely the demonstration is followed, in order (``ndtw``)."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return ndtw(walk.path, goal.reference)


@dataclass(frozen=True, kw_only=True)
class SDTW(PathReward):
    """``NDTW`` of successes, else 0."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return ndtw(walk.path, goal.reference) if arrived(walk, distances) else 0.0


@dataclass(frozen=True, kw_only=True)
class CLS(PathReward):
    """How much of the demonstration is covered, by length (``coverage_by_length``)."""

    def of(self, walk: Walk, distances: np.ndarray, goal: Goal) -> float:
        return coverage_by_length(walk.path, goal.reference)


# --- the benchmark --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class R2RCE(Benchmark):
    """Episodes of R2R-CE and the metrics of recorded paths."""

    name: ClassVar = "r2r_ce"
    title: ClassVar = "R2R-CE"
    paper: ClassVar = "2004.02857"
    pillar: ClassVar = "vla"
    hub: ClassVar = ""
    files: ClassVar = ("*/*.json.gz",)
    parts: ClassVar = ("val_unseen", "val_seen")
    rule_in_words: ClassVar = "The recorded path stops less than 3 m from the goal."
    recorded: ClassVar = True

    distance: Literal["straight", "recorded"] = "straight"
    """Which distances to the goal count; the module says what that means."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in ("straight", "recorded"):
            raise ConfigError(f"distance must be straight or recorded, got {self.distance!r}")

    @property
    def rule(self) -> Success:
        return Success(distance=self.distance)

    def metrics(self) -> Mapping[str, Metric]:
        kinds: Mapping[str, Callable[..., Reward]] = {
            "success": Success, "spl": SuccessByLength, "oracle_success": OracleSuccess,
            "navigation_error": NavigationError, "trajectory_length": TrajectoryLength, "ndtw": NDTW, "sdtw": SDTW,
            "cls": CLS,
        }  # fmt: skip
        return {name: Mean(kind(distance=self.distance)) for name, kind in kinds.items()}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        inner = folder / part
        root = inner if inner.is_dir() else folder
        path = root / f"{part}.json.gz"
        truth = root / f"{part}_gt.json.gz"
        whole, walked = _object(path), _object(truth)
        episodes = whole.get("episodes")
        if not isinstance(episodes, list):
            Entry(path, 1, whole, root).wrong("episodes", short(episodes), "a list of episodes")
        return [self._item(path, truth, number, row, walked) for number, row in enumerate(episodes, start=1)]

    def _item(self, path: Path, truth: Path, number: int, row: Any, walked: Mapping[str, Any]) -> Item:
        entry = Entry(path, number, row if isinstance(row, Mapping) else {}, path.parent)
        episode = entry.word("episode_id")
        told = _inner(entry, "instruction").text("instruction_text").strip()
        goals = entry.value("goals")
        if not isinstance(goals, list) or not goals or not isinstance(goals[0], Mapping):
            entry.wrong("goals", short(goals), "a list of goals with positions")
        position = Entry(path, number, goals[0], path.parent).numbers("position", 3)
        geodesic = _inner(entry, "info").number_of("geodesic_distance")
        if geodesic < 0:
            entry.wrong("info.geodesic_distance", short(geodesic), "metres, >= 0")
        start = entry.numbers("start_position", 3)
        known = Entry(truth, number, walked, truth.parent).value(episode)
        found = _numbers(known.get("locations")) if isinstance(known, Mapping) else None
        if found is None or found.ndim != 2 or found.shape[1] != 3:
            Entry(truth, number, {}, truth.parent).place(f"{episode}.locations").wrong(
                short(known), "a list of positions x, y, z"
            )
        scene = entry.text("scene_id")
        info = {"scene": scene, "start": start, "rotation": entry.numbers("start_rotation", 4)}
        gold = Text(json.dumps({"path": found.tolist(), "stop": True}))
        goal = Goal(np.array(position), geodesic, found)
        return Item(episode, (Text(told),), goal, Path(scene).parent.name, ((gold,),), info)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for part in cls.parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
            episodes, truth = [], {}
            for i in range(n):
                corner, end = [2.0 + i, 0.1, 0.0], [2.0 + i, 0.1, 4.0 + i % 3]
                legs = ([0.0, 0.1, 0.0], corner), (corner, end)
                walked = [
                    [a + (b - a) * k / 8 for a, b in zip(*leg, strict=True)] for leg in legs for k in range(9)
                ]  # fmt: skip
                episodes.append({
                    "episode_id": i + 1, "trajectory_id": i + 1, "scene_id": f"mp3d/house{i % 2}/house{i % 2}.glb",
                    "start_position": walked[0], "start_rotation": [0.0, 0.0, 0.0, 1.0],
                    "goals": [{"position": end, "radius": 3.0}], "reference_path": [walked[0], corner, end],
                    "instruction": {"instruction_text": f"Walk {2 + i} steps ahead, then turn right.",
                                    "instruction_tokens": [1, 2, 3]},
                    "info": {"geodesic_distance": 2.0 + i + 4.0 + i % 3},
                })  # fmt: skip
                truth[str(i + 1)] = {"locations": walked, "actions": [1] * 17 + [0], "forward_steps": 17}
            vocabulary = {"word_list": ["<pad>", "walk", "turn"]}
            for name, content in (
                (part, {"episodes": episodes, "instruction_vocab": vocabulary}), (f"{part}_gt", truth),
            ):  # fmt: skip
                with gzip.open(folder / part / f"{name}.json.gz", "wt", encoding="utf-8") as file:
                    json.dump(content, file)


def _object(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, EOFError, zlib.error) as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: found no file that can be read ({why}), expected gzipped JSON") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found bad JSON ({error}), expected an object") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: found {short(found)}, expected an object")
    return found


def _inner(entry: Entry, name: str) -> Entry:
    found = entry.value(name)
    if not isinstance(found, Mapping):
        entry.wrong(name, short(found), "an object")
    return Entry(entry.file, entry.number, found, entry.root)
