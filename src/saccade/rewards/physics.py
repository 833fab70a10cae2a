"""Rewards for clips of one bright object: where it is, how much of it there is, and whether that obeys mechanics.

The measurer sees pixels only. With m the brightness of a frame in [0, 1], zero below 0.25, an object's centre is
``c_t = sum m (x, y) / sum m`` in pixels (a pixel's centre at i + 1/2) and its mass ``M_t = sum m``.

What is to be expected stands in ``task.target``, a mapping: ``path`` (the exact centres), ``mass``, ``acceleration``
(pixels / frame^2) and ``walls`` (least and greatest coordinate of a centre). Axes of quality, after VideoReward
(arXiv:2501.13918): ``Sharpness`` and ``MassKept`` (VQ) and ``Smoothness`` (MQ) know nothing of the prompt,
``ConditionMatch`` (TA) does. Of the first two ``MassKept`` is the one to train on: a ball is sharper the less there is
of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from saccade.core.content import Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Task, Trajectory

DARK = 0.25
"""Brightness below which a pixel belongs to no object."""
SPREAD = 1.1
"""Standard deviation of the ball, in pixels."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What there is to see of an object in F frames."""

    centre: Float[np.ndarray, "F 2"]
    """In pixels; the frame's middle where nothing is bright."""
    mass: Float[np.ndarray, "F"]
    peak: Float[np.ndarray, "F"]
    stray: Float[np.ndarray, "F"]
    """Brightness farther than three standard deviations of the ball from the centre, however dim."""
    size: tuple[int, int]
    """Width and height of a frame."""

    @property
    def seen(self) -> np.ndarray:
        """Whether there is an object at all, for every frame."""
        return self.mass > 0


def measure(frames: UInt8[np.ndarray, "F H W 3"]) -> Measured:
    """Centres and masses of a clip's object."""
    return _measured(frames.mean(3) / 255)


def _measured(shown: Float[np.ndarray, "F H W"]) -> Measured:
    bright = np.where(shown < DARK, 0.0, shown)
    _, height, width = bright.shape
    mass = bright.sum((1, 2))
    x = (bright.sum(1) * (np.arange(width) + 0.5)).sum(1)
    y = (bright.sum(2) * (np.arange(height) + 0.5)).sum(1)
    middle = np.array([[width / 2, height / 2]])
    centre = np.where(mass[:, None] > 0, np.stack([x, y], 1) / np.maximum(mass, 1e-12)[:, None], middle)
    across = np.arange(width) + 0.5 - centre[:, None, [0]]
    down = np.arange(height)[:, None] + 0.5 - centre[:, None, [1]]
    stray = np.where(np.hypot(across, down) > 3 * SPREAD, shown, 0.0).sum((1, 2))
    return Measured(centre, mass, bright.max((1, 2)), stray, (width, height))


def path_error(found: Measured, path: Float[np.ndarray, "F 2"]) -> float:
    """``e = mean_t |c_t - c*_t|`` in pixels; a frame without an object is a frame's diagonal away."""
    distance = np.linalg.norm(found.centre - path, axis=1)
    return float(np.where(found.seen, distance, np.hypot(*found.size)).mean())


def second_differences(centre: Float[np.ndarray, "F 2"]) -> Float[np.ndarray, "F-2 2"]:
    """``c_{t+1} - 2 c_t + c_{t-1}``, the acceleration in pixels / frame^2."""
    return centre[2:] - 2 * centre[1:-1] + centre[:-2]


@dataclass(frozen=True, kw_only=True)
class ClipReward(SampleReward):
    """A number about the last clip of the output. An output without a clip is unscored."""

    @abstractmethod
    def judge(self, found: Measured, task: Task) -> float:
        """The number for what was measured."""

    def score(self, trajectory: Trajectory) -> Score:
        clips = [part for part in trajectory.output if isinstance(part, Video)]
        if not clips:
            return Score(None, note="no clip")
        return Score(float(self.judge(measure(clips[-1].frames), trajectory.task)))


@dataclass(frozen=True, kw_only=True)
class PathError(ClipReward):
    """``e = mean_t |c_t - c*_t|`` in pixels: less is better; a metric, not a reward to train on."""

    def judge(self, found: Measured, task: Task) -> float:
        return path_error(found, _path(task, found))


@dataclass(frozen=True, kw_only=True)
class OnCourse(ClipReward):
    """``r = exp(-e / scale)`` with the path error e."""

    scale: float = 1.0
    """Pixels."""

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ConfigError(f"scale must be > 0, got {self.scale}")

    def judge(self, found: Measured, task: Task) -> float:
        return np.exp(-path_error(found, _path(task, found)) / self.scale)


@dataclass(frozen=True, kw_only=True)
class MassKept(ClipReward):
    """``r = exp(-mean_t |M_t - M*| / M*)``"""

    def judge(self, found: Measured, task: Task) -> float:
        wanted = float(_target(task)["mass"])
        return np.exp(-np.abs(found.mass - wanted).mean() / wanted)


@dataclass(frozen=True, kw_only=True)
class DarkKept(ClipReward):
    """``r = exp(-mean_t stray_t / M*)``: there is nothing but the ball, not even dim things that move no centre."""

    def judge(self, found: Measured, task: Task) -> float:
        return np.exp(-found.stray.mean() / float(_target(task)["mass"]))


@dataclass(frozen=True, kw_only=True)
class Mechanics(ClipReward):
    """``OnCourse * MassKept``: the object is where the simulator has it, and stays what it is."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        OnCourse(scale=self.scale)

    def judge(self, found: Measured, task: Task) -> float:
        return OnCourse(scale=self.scale).judge(found, task) * MassKept().judge(found, task)


@dataclass(frozen=True, kw_only=True)
class LawKept(ClipReward):
    """``exp(-violation)``: whether any motion of this kind looks so, whatever its start and velocity.

    The violation is ``mean_t |d_t - g|`` in pixels / frame^2, d_t the second difference of the centres. An elastic wall
    is a mirror: along each axis the centre before or the one after may be replaced by its mirror image at a wall, if
    that explains the motion better. A change of direction away from walls is therefore a violation.
    """

    def judge(self, found: Measured, task: Task) -> float:
        target = _target(task)
        pull = np.asarray(target["acceleration"], np.float64)
        before, now, after = found.centre[:-2], found.centre[1:-1], found.centre[2:]
        mirrored = [(2 * wall - before, after) for wall in target["walls"]]
        mirrored += [(before, 2 * wall - after) for wall in target["walls"]]
        off = np.min([np.abs(b - 2 * now + a - pull) for b, a in [(before, after), *mirrored]], axis=0)
        seen = found.seen[:-2] & found.seen[1:-1] & found.seen[2:]
        return np.exp(-np.where(seen, np.linalg.norm(off, axis=1), np.hypot(*found.size)).mean())


@dataclass(frozen=True, kw_only=True)
class CollisionKept(SampleReward):
    """``exp(-violation)``: whether a red and a blue ball that meet keep momentum and kinetic energy.

    The violation is ``|P' - P| / sum_i M_i |v_i| + |E' - E| / E``  with  ``P = sum_i M_i v_i``  and  ``E = sum_i M_i
    |v_i|^2 / 2``, from the velocities of the first two frames and, primed, of the last two; M_i is the median of a
    ball's mass over frames, measured in its own colour. They must meet between these frames, and away from walls. A
    ball that cannot be seen in one of them, or balls that were at rest and are not any more, score 0. No clip:
    unscored.
    """

    def score(self, trajectory: Trajectory) -> Score:
        clips = [part for part in trajectory.output if isinstance(part, Video)]
        if not clips:
            return Score(None, note="no clip")
        frames = clips[-1].frames / 255
        balls = [_measured(frames[..., colour]) for colour in (0, 2)]
        if not all(ball.seen[[0, 1, -2, -1]].all() for ball in balls):
            return Score(0.0, note="a ball is missing")
        mass = np.array([np.median(ball.mass) for ball in balls])
        before, after = (np.array([b.centre[i + 1] - b.centre[i] for b in balls]) for i in (0, len(frames) - 2))
        speed, energy = np.linalg.norm(before, axis=1), 0.5 * mass @ (before**2).sum(1)
        momentum_off = np.linalg.norm(mass @ (after - before)) / max(mass @ speed, 1e-9)
        energy_off = abs(0.5 * mass @ (after**2).sum(1) - energy) / max(energy, 1e-9)
        return Score(float(np.exp(-momentum_off - energy_off)))


@dataclass(frozen=True, kw_only=True)
class Smoothness(ClipReward):
    """MQ: ``-mean_t |c_{t+1} - 2 c_t + c_{t-1}|``, at most 0. A clip that stands still is smoothest."""

    def judge(self, found: Measured, task: Task) -> float:
        seen = found.seen[:-2] & found.seen[1:-1] & found.seen[2:]
        jerk = np.linalg.norm(second_differences(found.centre), axis=1)
        return -np.where(seen, jerk, np.hypot(*found.size)).mean()


@dataclass(frozen=True, kw_only=True)
class Sharpness(ClipReward):
    """VQ: ``mean_t peak_t / M_t``, 1 for single pixels and 1 / pixels for an even grey; 0 where nothing is bright."""

    def judge(self, found: Measured, task: Task) -> float:
        return np.where(found.seen, found.peak / np.maximum(found.mass, 1e-12), 0.0).mean()


@dataclass(frozen=True, kw_only=True)
class ConditionMatch(ClipReward):
    """TA: ``exp(-(|c_0 - c*_0| + |(c_1 - c_0) - (c*_1 - c*_0)|) / 2)``, start and first step as the prompt asks."""

    def judge(self, found: Measured, task: Task) -> float:
        path = _path(task, found)
        start = np.linalg.norm(found.centre[0] - path[0])
        step = np.linalg.norm(found.centre[1] - found.centre[0] - (path[1] - path[0]))
        return np.exp(-(start + step) / 2) if found.seen[:2].all() else 0.0


@dataclass(frozen=True, kw_only=True)
class Travel(ClipReward):
    """``mean_t |c_{t+1} - c_t|`` in pixels a frame: how much moves. A metric that shows clips coming to rest."""

    def judge(self, found: Measured, task: Task) -> float:
        return np.linalg.norm(np.diff(found.centre, axis=0), axis=1).mean()


@dataclass(frozen=True, kw_only=True)
class ForKind(SampleReward):
    """The inner reward on tasks whose target's ``kind`` is this one; others are unscored: a metric of a part."""

    inner: ClipReward
    kind: str

    def score(self, trajectory: Trajectory) -> Score:
        if _target(trajectory.task).get("kind") != self.kind:
            return Score(None, note=f"not {self.kind}")
        return self.inner.score(trajectory)


def _target(task: Task) -> Mapping[str, Any]:
    if not isinstance(task.target, Mapping):
        raise DataError(f"task {task.id!r}: target must be a mapping with the motion's path, got {task.target!r}")
    return task.target


def _path(task: Task, found: Measured) -> Float[np.ndarray, "F 2"]:
    path = np.asarray(_target(task)["path"], np.float64)
    if path.shape != found.centre.shape:
        wanted, got = len(path), len(found.centre)
        raise DataError(f"task {task.id!r}: target.path is for clips of {wanted} frames, got one of {got}")
    return path
