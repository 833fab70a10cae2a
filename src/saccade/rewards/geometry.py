"""Boxes, points, masks and time spans.

Boxes are x1 y1 x2 y2 in pixels of the image the policy saw, origin top left, as continuous coordinates: the area is
``(x2 - x1) * (y2 - y1)``. In outputs they are runs of four numbers: ``[12, 20, 40, 52]``, ``<box>12,20,40,52</box>``,
``(12,20),(40,52)``, ``{"bbox_2d": [12, 20, 40, 52]}``. A box with ``x1 >= x2`` or ``y1 >= y2`` is none.
With ``scale=1000`` outputs are in thousandths of the first image's width and height; targets are in pixels always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core.content import frames_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.answer import AnswerReward
from saccade.rewards.parse import boxes, decoded, numbers, points, runs

Box = tuple[float, float, float, float]

# What an output may list; the rest still counts as predicted. Keeps assignment and rasterising cheap.
_MOST_BOXES = 256
_MOST_CORNERS = 1024


@dataclass(frozen=True, kw_only=True)
class BoxIoU(AnswerReward):
    """IoU of the first box of the answer with the target, or 1[IoU >= threshold] where a threshold is set."""

    threshold: float | None = None
    """In (0, 1]; None pays the IoU itself."""
    scale: float | None = None
    """Full width and height in the output's units; None: pixels."""

    expects = "a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2"

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must be in (0, 1], got {self.threshold}")
        _check_scale(self.scale)

    def read(self, target: Any) -> Box:
        return _box(target)

    def grade(self, answer: str, target: Box, trajectory: Trajectory) -> Score:
        found = boxes(answer)
        if not found:
            return Score(0.0, note="no box")
        iou = box_iou(_in_pixels(found[0], self.scale, trajectory), target)
        return Score(iou if self.threshold is None else float(iou >= self.threshold), note=f"IoU {iou:.2f}")


@dataclass(frozen=True, kw_only=True)
class GIoU(AnswerReward):
    """(1 + GIoU) / 2 in [0, 1] of the first box of the answer; 0 without a box.

    GIoU = IoU - (|hull| - |union|) / |hull| (arXiv:1902.09630): boxes that do not meet still get a slope.
    """

    scale: float | None = None
    """Full width and height in the output's units; None: pixels."""

    expects = "a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def read(self, target: Any) -> Box:
        return _box(target)

    def grade(self, answer: str, target: Box, trajectory: Trajectory) -> Score:
        found = boxes(answer)
        if not found:
            return Score(0.0, note="no box")
        a, b = _in_pixels(found[0], self.scale, trajectory), target
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        common = _common(a, b)
        union = _area(a) + _area(b) - common
        giou = common / union - (hull - union) / hull
        return Score((1 + giou) / 2, note=f"GIoU {giou:.2f}")


@dataclass(frozen=True, kw_only=True)
class PointInBox(AnswerReward):
    """1 if the first point of the answer (a run of two numbers) lies in the target box, borders included, else 0."""

    scale: float | None = None
    """Full width and height in the output's units; None: pixels."""

    expects = "a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def read(self, target: Any) -> Box:
        return _box(target)

    def grade(self, answer: str, target: Box, trajectory: Trajectory) -> Score | float:
        found = points(answer)
        if not found:
            return Score(0.0, note="no point")
        x, y = _scaled(found[0], self.scale, trajectory)
        return float(target[0] <= x <= target[2] and target[1] <= y <= target[3])


@dataclass(frozen=True, kw_only=True)
class MaskIoU(AnswerReward):
    """IoU of the answer's mask with the target's: bool array ``[H, W]``.

    The answer is COCO's uncompressed run-length code, ``{"size": [H, W], "counts": [zeros, ones, zeros, ...]}`` down
    the columns, or any number of boxes (runs of four numbers) and polygons (runs of six or more numbers,
    ``x1, y1, x2, y2, ...``), which are united; at most 1024 corners in all. A pixel belongs to a shape if its centre
    does. Two empty masks give 1.
    """

    scale: float | None = None
    """Full width and height in the units of boxes and polygons; None: pixels."""

    expects = "a mask: bool array [H, W]"

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def read(self, target: Any) -> np.ndarray:
        mask = np.asarray(target)
        if mask.ndim != 2 or mask.size == 0 or mask.dtype != np.bool_:
            raise TypeError
        return mask

    def grade(self, answer: str, target: np.ndarray, trajectory: Trajectory) -> Score | float:
        mask = self._mask(answer, target, trajectory)
        if mask is None:
            return Score(0.0, note="no mask")
        union = int((mask | target).sum())
        return int((mask & target).sum()) / union if union else 1.0

    def _mask(self, answer: str, target: np.ndarray, trajectory: Trajectory) -> np.ndarray | None:
        height, width = target.shape
        value = decoded(answer)
        if isinstance(value, dict) and "counts" in value:
            return _from_counts(value, height, width)
        shapes: list[Sequence[float]] = [(a, b, c, b, c, d, a, d) for a, b, c, d in boxes(answer)]
        shapes += [run for run in runs(answer) if len(run) >= 6 and len(run) % 2 == 0]
        if not shapes or sum(map(len, shapes)) > 2 * _MOST_CORNERS:
            return None
        mask = np.zeros((height, width), dtype=bool)
        for shape in shapes:
            mask |= _filled(np.reshape(_scaled(shape, self.scale, trajectory), (-1, 2)), height, width)
        return mask


@dataclass(frozen=True, kw_only=True)
class TemporalIoU(AnswerReward):
    """|overlap| / |union| of the answer's time span with the target's, in seconds, or 1[... >= threshold].

    A span is the first run of two numbers, or the only two numbers of the answer ("5s to 10s"); it must not end before
    it starts.
    """

    threshold: float | None = None
    """In (0, 1]; None pays the overlap itself."""

    expects = "a time span [start, end] with start < end"

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must be in (0, 1], got {self.threshold}")

    def read(self, target: Any) -> tuple[float, float]:
        span = _span(target) if isinstance(target, str) else tuple(map(float, target))
        if span is None or len(span) != 2 or not all(map(math.isfinite, span)) or not span[0] < span[1]:
            raise ValueError
        return span[0], span[1]

    def grade(self, answer: str, target: tuple[float, float], trajectory: Trajectory) -> Score | float:
        span = _span(answer)
        if span is None or span[0] > span[1]:
            return Score(0.0, note="no time span")
        overlap = max(0.0, min(span[1], target[1]) - max(span[0], target[0]))
        iou = overlap / (span[1] - span[0] + target[1] - target[0] - overlap)
        return iou if self.threshold is None else float(iou >= self.threshold)


@dataclass(frozen=True, kw_only=True)
class HungarianBoxes(AnswerReward):
    """precision * P + recall * R  with P = matched / predicted and R = matched / target boxes.

    After DIP-R1 (arXiv:2505.23179), which does not give its weights; equal ones are ours. Boxes are matched one to one
    so that as many pairs as possible have IoU >= threshold. No target boxes: full marks for an answer without boxes
    (given the tag), else 0.
    """

    precision: float = 0.5
    recall: float = 0.5
    threshold: float = 0.5
    """Least IoU of a match, in (0, 1]."""
    scale: float | None = None
    """Full width and height in the output's units; None: pixels."""

    expects = "a list of boxes [x1, y1, x2, y2] with x1 < x2 and y1 < y2"

    def __post_init__(self) -> None:
        if self.precision < 0 or self.recall < 0 or self.precision + self.recall == 0:
            raise ConfigError(
                f"precision and recall must be >= 0 and not both 0, got {self.precision} and {self.recall}"
            )
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold must be in (0, 1], got {self.threshold}")
        _check_scale(self.scale)

    def read(self, target: Any) -> tuple[Box, ...]:
        return tuple(boxes(target)) if isinstance(target, str) else tuple(_box(one) for one in target)

    def grade(self, answer: str, target: tuple[Box, ...], trajectory: Trajectory) -> Score:
        # Imported here: the other classes of this module need no extra package.
        from scipy.optimize import linear_sum_assignment

        found = boxes(answer)
        if not target:
            return Score((self.precision + self.recall) * float(not found), note=f"{len(found)} boxes, none to find")
        if not found:
            return Score(0.0, note="no box")
        iou = np.array(
            [[box_iou(_in_pixels(a, self.scale, trajectory), b) for b in target] for a in found[:_MOST_BOXES]]
        )
        good = np.where(iou >= self.threshold, 1 + iou, 0.0)
        matched = int((good[linear_sum_assignment(good, maximize=True)] > 0).sum())
        pay = self.precision * matched / len(found) + self.recall * matched / len(target)
        return Score(pay, note=f"{matched} matched of {len(found)}, {len(target)} to find")


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of positive area."""
    common = _common(a, b)
    return common / (_area(a) + _area(b) - common)


def _common(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _box(target: Any) -> Box:
    if isinstance(target, str):
        (box,) = boxes(target)
        return box
    if isinstance(target, Mapping):
        raise TypeError
    x1, y1, x2, y2 = map(float, target)
    if not (x1 < x2 and y1 < y2) or not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError
    return x1, y1, x2, y2


def _span(text: str) -> tuple[float, float] | None:
    pairs = points(text)
    if pairs:
        return pairs[0]
    both = numbers(text)
    return (both[0], both[1]) if len(both) == 2 else None


def _in_pixels(box: Box, scale: float | None, trajectory: Trajectory) -> Box:
    x1, y1, x2, y2 = _scaled(box, scale, trajectory)
    return x1, y1, x2, y2


def _scaled(coordinates: Sequence[float], scale: float | None, trajectory: Trajectory) -> list[float]:
    """Alternating x and y, in pixels of the first image of the prompt."""
    if scale is None:
        return list(coordinates)
    frames = frames_of(trajectory.prompt.content)
    if not frames:
        raise DataError(f"task {trajectory.task.id!r}: normalised coordinates need an image in the prompt")
    height, width = frames[0].shape[:2]
    return [value / scale * (height if i % 2 else width) for i, value in enumerate(coordinates)]


def _from_counts(value: dict[str, Any], height: int, width: int) -> np.ndarray | None:
    counts = value["counts"]
    if value.get("size") != [height, width] or not isinstance(counts, list):
        return None
    if (
        not all(type(count) is int and 0 <= count <= height * width for count in counts)
        or sum(counts) != height * width
    ):
        return None
    bits = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return bits.reshape(width, height).T


def _filled(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centres lie inside the polygon ``corners [V, 2]``, by the even-odd rule.

    Each edge flips everything to its right in the rows it crosses; prefix sums along the rows add the flips up.
    """
    flips = np.zeros((height, width + 1), dtype=np.int64)
    centre = np.arange(height) + 0.5
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        row = np.flatnonzero((centre >= min(y1, y2)) & (centre < max(y1, y2)))
        crossing = x1 + (centre[row] - y1) / (y2 - y1) * (x2 - x1) if row.size else np.zeros(0)
        flips[row, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)] += 1
    return np.cumsum(flips[:, :width], axis=1) % 2 == 1


def _check_scale(scale: float | None) -> None:
    if scale is not None and not scale > 0:
        raise ConfigError(f"scale must be > 0, got {scale}")
