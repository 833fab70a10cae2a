"""A world of coloured shapes on small canvases, with compositional captions: text to image with an exact verifier.

Kinds of caption, after GenEval (arXiv:2310.11513):

- single: ``one circle``, of any colour
- colour: ``one red circle``
- count: ``two red circle``, ``three blue square``
- two: ``one red circle and blue square``
- relation: ``one red circle left blue square``: the circle is to the left of the square

A caption has at most six words, one of ``WORDS`` each. Captions are split into training and test, so that held-out ones
ask for combinations never seen together; captions that say the same (``a left b`` and ``b right a``) stay together.

A scene is drawn on ``GRID`` x ``GRID`` pixels: squares are full stamps of 5 or 6 pixels a side, circles lack the four
corners, triangles widen by two pixels every second row. There is at least one pixel of background between any two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets.dice import Dice

Kind = Literal["single", "colour", "count", "two", "relation"]
KINDS: tuple[Kind, ...] = ("single", "colour", "count", "two", "relation")
GRID = 16
"""Pixels a side of the canvas on which stamps are placed; larger pictures are enlarged copies."""
BACKGROUND = (20, 20, 20)
PALETTE = {"red": (230, 38, 38), "green": (38, 204, 51), "blue": (51, 76, 242), "yellow": (242, 230, 38)}
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("one", "two", "three")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
WORDS = (*NUMBERS, *PALETTE, *SHAPES, *OPPOSITE, "and")
"""Every word of captions."""
LONGEST = 6
"""Most words of a caption."""
SIZES = (5, 6)
APART = 6.5
"""Least distance of two related centres along the axis of the relation, in pixels of the canvas."""
ACROSS = 3.0
"""Greatest distance of two related centres across that axis."""
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Wanted:
    """So many objects of a kind."""

    count: int
    colour: str | None
    """None: any."""
    shape: str


@dataclass(frozen=True)
class Caption:
    kind: Kind
    wanted: tuple[Wanted, ...]
    relation: str | None = None
    """Where the first object is, seen from the second."""

    @property
    def text(self) -> str:
        first = self.wanted[0]
        words = [NUMBERS[first.count - 1], first.colour, first.shape]
        for other in self.wanted[1:]:
            words += [self.relation or "and", other.colour, other.shape]
        return " ".join(word for word in words if word)

    @property
    def target(self) -> dict[str, Any]:
        """What a verifier needs to know, as plain data."""
        objects = [{"count": one.count, "colour": one.colour, "shape": one.shape} for one in self.wanted]
        return {"objects": tuple(objects), "relation": self.relation}

    @property
    def mirrored(self) -> Caption:
        """The caption that says the same from the other object's side; itself where there is one object."""
        relation = None if self.relation is None else OPPOSITE[self.relation]
        return Caption(self.kind, self.wanted[::-1], relation)


@dataclass(frozen=True)
class Placed:
    """One object of a scene, in pixels of the canvas."""

    shape: str
    colour: str
    size: int
    x: int
    y: int
    """Top left corner of the stamp."""

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.size / 2, self.y + self.size / 2

    def apart_from(self, other: Placed) -> bool:
        """Whether there is background between the two bounding boxes."""
        across = self.x + self.size < other.x or other.x + other.size < self.x
        down = self.y + self.size < other.y or other.y + other.size < self.y
        return across or down


@dataclass(frozen=True)
class ShapeScenes(Tasks):
    """Task i depends on (seed, part, i) and the settings only. Kinds take turns; captions of a kind too, shuffled.

    ``Task.prompt`` is the caption. ``Task.target``: ``objects`` (a mapping of ``count``, ``colour`` and ``shape`` for
    each kind of object wanted) and ``relation`` (a word or None). ``Task.info``: ``kind`` and ``caption``. The gold
    output is a rendered scene, another one for every task.
    """

    count: int = 8192
    kinds: tuple[Kind, ...] = KINDS
    side: int = GRID
    """Pixels a side of pictures, a multiple of 16."""
    seed: int = 0
    part: Split | Literal["all"] = "train"
    """``all`` does not hold any caption out."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"tasks.kinds must be some of {', '.join(KINDS)}, got {self.kinds}")
        if self.side < GRID or self.side % GRID:
            raise ConfigError(f"tasks.side must be a multiple of {GRID}, got {self.side}")
        if self.part not in ("train", "test", "all"):
            raise ConfigError(f"tasks.part must be train, test or all, got {self.part!r}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> ShapeScenes:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "shape scenes", self.part, index))
        turn, which = divmod(index, len(self.kinds))
        kind = self.kinds[which]
        mine = captions(kind, self.part)
        lap, place = divmod(turn, len(mine))
        order = numpy_generator(self.seed, "captions", kind, self.part, lap).permutation(len(mine))
        caption = mine[order[place]]
        return Task(
            id=f"shapes/{self.part}/{self.seed}/{index}",
            prompt=(Text(caption.text),),
            target=caption.target,
            gold=((Image(render(scene(dice, caption), self.side)),),),
            info={"kind": caption.kind, "caption": caption.text},
        )


@cache
def captions(kind: Kind, part: Split | Literal["all"] = "all") -> tuple[Caption, ...]:
    """The captions of a kind: 3, 12, 24, 108 and 432 of the five kinds; a fifth of each kind is held out.

    The split is the same for all seeds.
    """
    found = tuple(_captions(kind))
    if part == "all":
        return found
    # One entry for each meaning: mirrored captions are equal there.
    meanings = sorted({min(one.text, one.mirrored.text) for one in found})
    order = numpy_generator(0, "held out", kind).permutation(len(meanings))
    held_out = {meanings[i] for i in order[: max(1, round(TEST_SHARE * len(meanings)))]}
    return tuple(c for c in found if (min(c.text, c.mirrored.text) in held_out) == (part == "test"))


def _captions(kind: Kind) -> list[Caption]:
    coloured = [(colour, shape) for colour in PALETTE for shape in SHAPES]
    if kind == "single":
        return [Caption(kind, (Wanted(1, None, shape),)) for shape in SHAPES]
    if kind == "colour":
        return [Caption(kind, (Wanted(1, *one),)) for one in coloured]
    if kind == "count":
        return [Caption(kind, (Wanted(count, *one),)) for count in (2, 3) for one in coloured]
    pairs = [(Wanted(1, *a), Wanted(1, *b)) for a in coloured for b in coloured if a[0] != b[0]]
    if kind == "two":
        return [Caption(kind, pair) for pair in pairs]
    return [Caption(kind, pair, relation) for pair in pairs for relation in OPPOSITE]


def scene(dice: Dice, caption: Caption) -> list[Placed]:
    """Objects placed as the caption says."""
    while True:
        placed: list[Placed] = []
        for one in caption.wanted:
            for _ in range(one.count):
                size = dice.choose(SIZES)
                colour = one.colour or dice.choose(tuple(PALETTE))
                x, y = dice.whole(0, GRID - size), dice.whole(0, GRID - size)
                placed.append(Placed(one.shape, colour, size, x, y))
        apart = all(a.apart_from(b) for i, a in enumerate(placed) for b in placed[:i])
        if apart and (caption.relation is None or related(placed[0], placed[1], caption.relation)):
            return placed


def related(a: Placed, b: Placed, relation: str) -> bool:
    """Whether a clearly stands in this relation to b: far enough along its axis and little across it."""
    (ax, ay), (bx, by) = a.centre, b.centre
    along, across = (ax - bx, ay - by) if relation in ("left", "right") else (ay - by, ax - bx)
    if relation in ("left", "above"):
        along = -along
    return along >= APART and abs(across) <= ACROSS


@cache
def stamp(shape: str, size: int) -> np.ndarray:
    """The shape as bool ``[size, size]``."""
    filled = np.ones((size, size), dtype=bool)
    if shape == "circle":
        filled[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    if shape == "triangle":
        for y in range(size):
            # The base is as wide as the stamp.
            inset = (size - 1 - y + size % 2) // 2
            filled[y, :inset] = filled[y, size - inset :] = False
    return filled


def render(objects: Sequence[Placed], side: int = GRID) -> np.ndarray:
    """The scene as uint8 RGB ``[side, side, 3]``; ``side`` is a multiple of ``GRID``."""
    canvas = np.empty((GRID, GRID, 3), dtype=np.uint8)
    canvas[:] = BACKGROUND
    for one in objects:
        region = canvas[one.y : one.y + one.size, one.x : one.x + one.size]
        region[stamp(one.shape, one.size)] = PALETTE[one.colour]
    factor = side // GRID
    return canvas.repeat(factor, 0).repeat(factor, 1)
