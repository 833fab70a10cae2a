"""Is what the caption asks for in the picture? An exact verifier for scenes of coloured shapes on small canvases.

The verifier finds connected regions of each colour and tells shapes by which corners of the bounding box are filled
and how much of it is. A verdict takes a fraction of a millisecond; it never depends on a model. Kinds of question and
the rule of relations are those of GenEval (arXiv:2310.11513).

``Task.target`` is a mapping: ``objects``, a sequence of mappings with ``count``, ``shape`` and ``colour`` (None: any),
and ``relation``, where the first object is, seen from the second (``left``, ``right``, ``above``, ``below`` or None).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core.errors import DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Task, Trajectory

GRID = 16
"""Pixels a side of the grid that is looked at; larger pictures are averaged down to it."""
PALETTE = {"red": (230, 38, 38), "green": (38, 204, 51), "blue": (51, 76, 242), "yellow": (242, 230, 38)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left", "right", "above", "below")
REACH = 0.45 * 255
"""Farther than this from every colour of the palette (Euclidean, 0 .. 255 a channel), a pixel is background."""
LEAST = 8
"""Pixels of the smallest region that is an object."""
SIDES = (4, 7)
"""Sides of a bounding box within which an object has a shape."""
FILLING = {"square": (0.85, 1.0), "circle": (0.7, 0.95), "triangle": (0.4, 0.8)}
"""Share of the bounding box that is filled; keeps frames and crosses from being squares and circles."""
CORNERS = {(True,) * 4: "square", (False,) * 4: "circle", (False, False, True, True): "triangle"}
"""Top left, top right, bottom left, bottom right."""
SHRINK, CLEAR = 0.1, 0.5
"""GenEval's: offsets shrink by a tenth of both widths; a direction holds if its share of the offset is above a half."""

_ROW = GRID + 1
"""Bits a row of a mask, one of them always 0: a step to the side cannot leave the row."""
_CENTRES = np.array(list(PALETTE.values()), dtype=np.float32)


@dataclass(frozen=True)
class Found:
    """One object in a picture."""

    colour: str
    shape: str | None
    """None: a region of no known shape."""
    box: tuple[int, int, int, int]
    """x1 y1 x2 y2 in cells of the grid."""

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Wanted:
    """So many objects of a kind."""

    count: int
    colour: str | None
    """None: any."""
    shape: str

    def matches(self, found: Iterable[Found]) -> list[Found]:
        return [one for one in found if one.shape == self.shape and self.colour in (None, one.colour)]


@dataclass(frozen=True)
class Request:
    """What a caption asks for."""

    objects: tuple[Wanted, ...]
    relation: str | None = None

    @property
    def total(self) -> int:
        return sum(one.count for one in self.objects)


def objects(pixels: np.ndarray) -> list[Found] | None:
    """The objects in a picture, uint8 ``[side, side, 3]``; None unless the side is a multiple of ``GRID``."""
    height, width = pixels.shape[:2]
    factor = width // GRID
    if height != width or width % GRID:
        return None
    cells = pixels.astype(np.float32)
    if factor > 1:
        cells = cells.reshape(GRID, factor, GRID, factor, 3).mean((1, 3))
    cells = cells.reshape(-1, 3)
    # |p - c|^2 without |p|^2, which does not change the nearest colour.
    distance = (_CENTRES * _CENTRES).sum(1) - 2 * cells @ _CENTRES.T
    nearest = distance.argmin(1)
    near = distance.min(1) + (cells * cells).sum(1) <= REACH**2
    masks = np.zeros((len(PALETTE), GRID, _ROW), dtype=bool)
    for k in range(len(PALETTE)):
        masks[k, :, :GRID] = (near & (nearest == k)).reshape(GRID, GRID)
    packed = np.packbits(masks.reshape(len(PALETTE), -1), axis=1, bitorder="little")
    found: list[Found] = []
    for colour, row in zip(PALETTE, packed, strict=True):
        for region in _regions(int.from_bytes(row.tobytes(), "little")):
            found.append(_object(colour, region))
    return found


def _regions(mask: int) -> Iterable[int]:
    """The 4-connected regions of at least ``LEAST`` pixels, each as a mask."""
    while mask:
        region = mask & -mask
        while True:
            grown = (region | region << 1 | region >> 1 | region << _ROW | region >> _ROW) & mask
            if grown == region:
                break
            region = grown
        mask ^= region
        if region.bit_count() >= LEAST:
            yield region


def _object(colour: str, region: int) -> Found:
    lines = [region >> _ROW * y & (1 << _ROW) - 1 for y in range(GRID)]
    rows = [y for y, line in enumerate(lines) if line]
    together = 0
    for line in lines:
        together |= line
    x1, x2 = (together & -together).bit_length() - 1, together.bit_length()
    y1, y2 = rows[0], rows[-1] + 1
    box = (x1, y1, x2, y2)
    if not all(SIDES[0] <= side <= SIDES[1] for side in (x2 - x1, y2 - y1)):
        return Found(colour, None, box)
    corners = tuple(bool(lines[y] >> x & 1) for y in (y1, y2 - 1) for x in (x1, x2 - 1))
    shape = CORNERS.get(corners)
    filled = region.bit_count() / ((x2 - x1) * (y2 - y1))
    fits = shape is not None and FILLING[shape][0] <= filled <= FILLING[shape][1]
    return Found(colour, shape if fits else None, box)


def holds(a: Found, b: Found, relation: str) -> bool:
    """GenEval's rule: whether a stands in this relation to b. Two may hold at once, on a diagonal none."""
    dx, dy = (
        math.copysign(max(abs(p - q) - SHRINK * (a.box[i + 2] - a.box[i] + b.box[i + 2] - b.box[i]), 0.0), p - q)
        for i, (p, q) in enumerate(zip(a.centre, b.centre, strict=True))
    )
    length = math.hypot(dx, dy)
    if length == 0:
        return False
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return along / length > CLEAR


@dataclass(frozen=True, kw_only=True)
class SceneReward(SampleReward):
    """Compares the objects in the last picture with what the caption asks for, in [0, 1].

    An output without a picture, or with one that is not square with a side of a multiple of 16, gets 0. A target of
    None leaves the trajectory unscored.

    Raises:
        DataError: the target is no such mapping; the message names the task.
    """

    @abstractmethod
    def grade(self, found: Sequence[Found], request: Request) -> float:
        """The score of a picture with these objects."""

    def score(self, trajectory: Trajectory) -> Score | None:
        if trajectory.task.target is None:
            return None
        request = requested(trajectory.task)
        image = trajectory.image
        if image is None:
            return Score(0.0, note="no image")
        found = objects(image.pixels)
        if found is None:
            return Score(0.0, note=f"{image.width} x {image.height} pixels")
        return Score(float(self.grade(found, request)), note=_spoken(found))


@dataclass(frozen=True, kw_only=True)
class SceneStrict(SceneReward):
    """1 iff the objects are exactly those of the caption and the relation holds, else 0."""

    def grade(self, found: Sequence[Found], request: Request) -> float:
        right = all(len(one.matches(found)) == one.count for one in request.objects)
        return float(right and len(found) == request.total and _related(found, request))


@dataclass(frozen=True, kw_only=True)
class SceneSoft(SceneReward):
    """Partial credit, for learning.

    - one kind of object, n of it wanted, m in the picture:  ``0.7 max(0, 1 - |m - n| / n) + 0.3 [n objects in all]``
    - two objects:  ``0.4 [first] + 0.4 [second] + 0.2 [two objects in all]``
    - two objects and a relation:  ``0.3 [first] + 0.3 [second] + 0.2 [relation] + 0.2 [two objects in all]``
    """

    def grade(self, found: Sequence[Found], request: Request) -> float:
        exact = float(len(found) == request.total)
        if len(request.objects) == 1:
            (one,) = request.objects
            off = abs(len(one.matches(found)) - one.count) / one.count
            return 0.7 * max(0.0, 1.0 - off) + 0.3 * exact
        present = [float(len(one.matches(found)) > 0) for one in request.objects]
        share = sum(present) / len(present)
        if request.relation is None:
            return 0.8 * share + 0.2 * exact
        return 0.6 * share + 0.2 * float(_related(found, request)) + 0.2 * exact


@dataclass(frozen=True, kw_only=True)
class SceneCount(SceneReward):
    """max(0, 1 - |m - n| / n) for m objects of any kind where n are wanted."""

    def grade(self, found: Sequence[Found], request: Request) -> float:
        return max(0.0, 1.0 - abs(len(found) - request.total) / request.total)


@dataclass(frozen=True, kw_only=True)
class SceneColour(SceneReward):
    """Overlap of the colours, counted with repetition:  2 |found and wanted| / (|found| + |wanted|).

    1 where the caption names no colour.
    """

    def grade(self, found: Sequence[Found], request: Request) -> float:
        colours = [one.colour for one in request.objects for _ in range(one.count)]
        if None in colours:
            return 1.0
        return _overlap(Counter(one.colour for one in found), Counter(colours))


@dataclass(frozen=True, kw_only=True)
class SceneShape(SceneReward):
    """Overlap of the shapes, counted with repetition:  2 |found and wanted| / (|found| + |wanted|).

    Regions of no known shape count as found.
    """

    def grade(self, found: Sequence[Found], request: Request) -> float:
        shapes = [one.shape for one in request.objects for _ in range(one.count)]
        return _overlap(Counter(one.shape for one in found), Counter(shapes))


@dataclass(frozen=True, kw_only=True)
class SceneRelation(SceneReward):
    """1 if some first and some second object stand in the caption's relation, else 0; 1 where it names none."""

    def grade(self, found: Sequence[Found], request: Request) -> float:
        return float(_related(found, request))


def requested(task: Task) -> Request:
    """What the task's target asks for.

    Raises:
        DataError: the target is no mapping of the form that the module describes.
    """
    try:
        return _read(task.target)
    except (TypeError, ValueError, KeyError):
        shape = " ".join(repr(task.target).split())[:80]
        expected = "a mapping with objects (count, colour, shape) and relation"
        raise DataError(f"task {task.id!r}: the target must be {expected}, got {shape}") from None


def _read(target: Mapping[str, Any]) -> Request:
    wanted: list[Wanted] = []
    for one in target["objects"]:
        count, colour, shape = one["count"], one["colour"], one["shape"]
        if not isinstance(count, int) or count < 1 or shape not in SHAPES or not (colour is None or colour in PALETTE):
            raise ValueError
        wanted.append(Wanted(count, colour, shape))
    relation = target["relation"]
    if not wanted or not (relation is None or (relation in RELATIONS and len(wanted) == 2)):
        raise ValueError
    return Request(tuple(wanted), relation)


def _related(found: Sequence[Found], request: Request) -> bool:
    if request.relation is None:
        return True
    first, second = (one.matches(found) for one in request.objects)
    return any(a is not b and holds(a, b, request.relation) for a in first for b in second)


def _overlap(a: Counter[Any], b: Counter[Any]) -> float:
    return 2 * (a & b).total() / (a.total() + b.total())


def _spoken(found: Sequence[Found]) -> str:
    counts = Counter(f"{one.colour} {one.shape or 'region'}" for one in found)
    return ", ".join(f"{n} {what}" for what, n in counts.items()) or "nothing"
