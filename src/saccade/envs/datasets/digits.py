"""DigitScenes: questions about small colour scenes of real handwritten digits.

A scene has one to four digits on a dark, cluttered background, each in a colour by which questions name it.
Training and test tasks use different digit pictures. Kinds of question:

- read: "what digit is red?" ``7``
- count: "how many red digits?" ``2``; "how many digits?" ``3``
- locate: "where is the red digit?" ``<box>12,20,40,52</box>``
- compare: "which number is larger, red or blue?" ``red``
- sum: "sum of red and blue?" ``13``
- change: two scenes, "what changed?" ``2.colour.red, 3.size.large``: the number of the digit (1 top left, 2 top right,
  3 bottom left, 4 bottom right), what changed, and the new value (the triples of STAR-R1, arXiv:2505.15804)
- describe: "describe the digits" ``red 8, blue 1``: colour and value of every digit, in reading order
- crowd: nine digits of one value, "what digit is everywhere?" ``7``: no question is easier to answer, because every
  part of the picture shows it; it teaches a fresh network what digits look like
- clip: four frames, "which way does the red digit move?" ``left``; "which digit is last?" ``7``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from saccade.core.content import Content, Image, Text, Video
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets import canvas
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import Glyphs, glyphs, indices

Kind = Literal["read", "count", "locate", "compare", "sum", "change", "describe", "crowd", "clip"]
KINDS: tuple[Kind, ...] = ("read", "count", "locate", "compare", "sum", "change", "describe", "crowd", "clip")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIZES = ("small", "large")
FRAMES = 4

QUESTIONS = {
    "read": "what digit is {a}?",
    "count": "how many digits?",
    "count one": "how many {a} digits?",
    "locate": "where is the {a} digit?",
    "compare": "which number is larger, {a} or {b}?",
    "sum": "sum of {a} and {b}?",
    "change": "what changed?",
    "describe": "describe the digits",
    "crowd": "what digit is everywhere?",
    "clip way": "which way does the {a} digit move?",
    "clip last": "which digit is last?",
}


def words() -> tuple[str, ...]:
    """Every lower-case word that questions and answers can contain; digits, punctuation and tags are not words."""
    asked = [word.strip("?,") for question in QUESTIONS.values() for word in question.split()]
    found = {word for word in asked if word.isalpha()}
    return tuple(sorted(found | PALETTE.keys() | WAYS.keys() | set(SIZES) | {"colour", "size", "digit"}))


@dataclass(frozen=True)
class Placed:
    """One digit of a scene."""

    digit: int
    colour: str
    tint: tuple[int, int, int]
    size: int
    """Pixels a side of its stamp."""
    which: int
    """Index of the handwritten picture."""
    x: int
    y: int
    """Top left corner of the stamp."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box around the ink."""
        x1, y1, x2, y2 = glyphs(self.size).box[self.which]
        return self.x + x1, self.y + y1, self.x + x2, self.y + y2

    def paint(self, on: np.ndarray) -> None:
        stamps: Glyphs = glyphs(self.size)
        canvas.paste(on, stamps.ink[self.which], stamps.shade[self.which], self.x, self.y, self.tint)


@dataclass(frozen=True)
class DigitScenes(Tasks):
    """Generated on demand: task i depends on (seed, part, i) and the settings only. Kinds take turns.

    ``Task.target``: ``answer`` (text), ``kind``, ``digits`` (what is in the (last) scene: digit, colour, box) and, for
    locate, ``box``: the digit's ink rounded outward to location bins; for change, ``triples``.
    """

    count: int = 4096
    """Tasks of this part."""
    kinds: tuple[Kind, ...] = KINDS
    side: int = 64
    """Pixels a side of every picture."""
    seed: int = 0
    part: Split = "train"
    digits: tuple[int, int] = (1, 4)
    """Fewest and most digits in a scene; at least two where a question needs two, always four in change."""
    colours: int = 6
    """How many colours of the palette are used."""
    clutter: float = 1.0
    """Strength of noise and pen strokes in the background."""
    bins: int = 16
    """Boxes of answers have corners on multiples of ``side / bins``."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"tasks.kinds must be some of {', '.join(KINDS)}, got {self.kinds}")
        if not 1 <= self.digits[0] <= self.digits[1] <= 4:
            raise ConfigError(f"tasks.digits must be two numbers 1 <= fewest <= most <= 4, got {self.digits}")
        if not 4 <= self.colours <= len(PALETTE):
            raise ConfigError(f"tasks.colours must be in [4, {len(PALETTE)}], got {self.colours}")
        if self.bins < 8:
            raise ConfigError(f"tasks.bins must be >= 8, got {self.bins}")
        if self.side < 48 or self.side % self.bins:
            raise ConfigError(f"tasks.side must be >= 48 and a multiple of bins={self.bins}, got {self.side}")
        if not self.clutter >= 0:
            raise ConfigError(f"tasks.clutter must be >= 0, got {self.clutter}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> DigitScenes:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "digit scenes", self.part, index))
        kind = self.kinds[index % len(self.kinds)]
        make: Callable[[Dice], tuple[Content, str, dict[str, Any]]] = {
            "read": self._read,
            "count": self._count,
            "locate": self._locate,
            "compare": self._compare,
            "sum": self._sum,
            "change": self._change,
            "describe": self._describe,
            "crowd": self._crowd,
            "clip": self._clip,
        }[kind]
        prompt, answer, details = make(dice)
        shown = f"<box>{answer}</box>" if kind == "locate" else answer
        return Task(
            id=f"digits/{self.part}/{self.seed}/{kind}/{index}",
            prompt=prompt,
            target={"answer": answer, "kind": kind, **details},
            gold=((Text(f"<answer>{shown}</answer>"),),),
            info={"kind": kind, "columns": {"kind": kind}},
        )

    # --- kinds ---

    def _read(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        scene = self._scene(dice)
        asked = dice.choose(scene)
        return self._asking(dice, scene, "read", a=asked.colour), str(asked.digit), _details(scene)

    def _count(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        few = dice.sample(self._colours, 2)
        scene = self._scene(dice, colours=[dice.choose(few) for _ in range(4)])
        if dice.below(3) == 0:
            return self._asking(dice, scene, "count"), str(len(scene)), _details(scene)
        colour = dice.choose(few)
        number = sum(one.colour == colour for one in scene)
        return self._asking(dice, scene, "count one", a=colour), str(number), _details(scene)

    def _locate(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        scene = self._scene(dice)
        asked = dice.choose(scene)
        box = self._binned(asked.box)
        return self._asking(dice, scene, "locate", a=asked.colour), _comma(box), {**_details(scene), "box": box}

    def _compare(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        scene = self._scene(dice, fewest=2, values=dice.sample(range(10), 4))
        a, b = dice.sample(scene, 2)
        larger = a if a.digit > b.digit else b
        return self._asking(dice, scene, "compare", a=a.colour, b=b.colour), larger.colour, _details(scene)

    def _sum(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        scene = self._scene(dice, fewest=2)
        a, b = dice.sample(scene, 2)
        return self._asking(dice, scene, "sum", a=a.colour, b=b.colour), str(a.digit + b.digit), _details(scene)

    def _change(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        small, large = self._sizes
        looks = [
            {
                "digit": dice.below(10),
                "colour": dice.choose(self._colours),
                "size": dice.choose(SIZES),
            }
            for _ in range(4)
        ]
        places = dice.sample([(i, name) for i in range(4) for name in ("colour", "size", "digit")], dice.whole(1, 3))
        values: dict[str, Sequence[Any]] = {"digit": range(10), "colour": self._colours, "size": SIZES}
        changed = [dict(look) for look in looks]
        for i, name in places:
            changed[i][name] = dice.choose([value for value in values[name] if value != looks[i][name]])
        cells = self._cells(4)
        # A digit that keeps its value keeps its handwriting, and both of its sizes have one centre.
        spots = [(dice.between(-3, 3), dice.between(-3, 3), dice.unit()) for _ in range(4)]
        scenes: list[list[Placed]] = []
        for state in (looks, changed):
            scene: list[Placed] = []
            for look, (x1, y1, x2, y2), (dx, dy, handwriting) in zip(state, cells, spots, strict=True):
                size = large if look["size"] == "large" else small
                room_x, room_y = x2 - x1 - size, y2 - y1 - size
                x = x1 + min(room_x, max(0, round(room_x / 2 + dx)))
                y = y1 + min(room_y, max(0, round(room_y / 2 + dy)))
                own = indices(self.part)[look["digit"]]
                which = own[int(handwriting * len(own))]
                tint = PALETTE[look["colour"]]
                scene.append(Placed(look["digit"], look["colour"], tint, size, which, x, y))
            scenes.append(scene)
        triples = tuple(sorted((i + 1, name, str(changed[i][name])) for i, name in places))
        answer = ", ".join(f"{i}.{name}.{value}" for i, name, value in triples)
        pictures = [self._picture(dice, scene) for scene in scenes]
        prompt = (*pictures, Text(QUESTIONS["change"]))
        return prompt, answer, {**_details(scenes[1]), "triples": triples}

    def _describe(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        scene = sorted(self._scene(dice), key=self._reading_order)
        answer = ", ".join(f"{one.colour} {one.digit}" for one in scene)
        return self._asking(dice, scene, "describe"), answer, _details(scene)

    def _crowd(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        x1, y1, x2, y2 = self._area
        wide, high = (x2 - x1) // 3, (y2 - y1) // 3
        value = dice.below(10)
        scene: list[Placed] = []
        for k in range(9):
            x, y = x1 + k % 3 * wide, y1 + k // 3 * high
            one = self._digit(dice, (x, y, x + wide, y + high), dice.choose(self._colours), value, most=min(wide, high))
            scene.append(one)
        return self._asking(dice, scene, "crowd"), str(value), _details(scene)

    def _reading_order(self, one: Placed) -> tuple[bool, int]:
        return one.y + one.size / 2 > self.side / 2, one.x

    def _clip(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        return self._moving(dice) if dice.below(2) else self._replaced(dice)

    def _moving(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        """One digit crosses half of the picture; another one may stand in the other half."""
        way = dice.choose(tuple(WAYS))
        dx, dy = WAYS[way]
        # Lanes are the halves along the way.
        first, second = dice.sample(self._halves(rows=dx != 0), 2)
        a, b = dice.sample(self._colours, 2)
        mover = self._digit(dice, first, a)
        size, step = mover.size, self.side // 8
        length = (FRAMES - 1) * step
        x1, y1, x2, y2 = first
        if dx:
            start = dice.whole(x1 + (length if dx < 0 else 0), x2 - size - (length if dx > 0 else 0))
            mover = replace(mover, x=start)
        else:
            start = dice.whole(y1 + (length if dy < 0 else 0), y2 - size - (length if dy > 0 else 0))
            mover = replace(mover, y=start)
        still = [self._digit(dice, second, b)] if dice.below(3) else []
        scenes = [[replace(mover, x=mover.x + dx * step * k, y=mover.y + dy * step * k), *still] for k in range(FRAMES)]
        prompt = (self._video(dice, scenes), Text(QUESTIONS["clip way"].format(a=a)))
        return prompt, way, _details(scenes[-1])

    def _replaced(self, dice: Dice) -> tuple[Content, str, dict[str, Any]]:
        """One digit at a time."""
        colour = dice.choose(self._colours)
        values = dice.sample(range(10), FRAMES)
        scenes = [[self._digit(dice, self._area, colour, value)] for value in values]
        prompt = (self._video(dice, scenes), Text(QUESTIONS["clip last"]))
        return prompt, str(values[-1]), _details(scenes[-1])

    # --- scenes ---

    @property
    def _colours(self) -> tuple[str, ...]:
        return tuple(PALETTE)[: self.colours]

    @property
    def _sizes(self) -> tuple[int, int]:
        """Smallest and largest digit: 14 and 22 pixels in a scene of 64."""
        return round(self.side * 14 / 64), round(self.side * 22 / 64)

    @property
    def _area(self) -> tuple[int, int, int, int]:
        """Where digits may be: one bin away from every edge, so that a binned box has corners in 0 .. bins - 1."""
        edge = self.side // self.bins
        return edge, edge, self.side - edge, self.side - edge

    def _halves(self, rows: bool) -> list[tuple[int, int, int, int]]:
        x1, y1, x2, y2 = self._area
        before, after = self.side // 2 - 1, self.side // 2 + 1
        return [(x1, y1, x2, before), (x1, after, x2, y2)] if rows else [(x1, y1, before, y2), (after, y1, x2, y2)]

    def _cells(self, n: int, rows: bool = True) -> list[tuple[int, int, int, int]]:
        """At least n disjoint cells that hold a digit each; four are in reading order."""
        if n == 1:
            return [self._area]
        if n == 2:
            return self._halves(rows)
        x1, y1, x2, y2 = self._area
        a, b = self.side // 2 - 1, self.side // 2 + 1
        return [(x1, y1, a, a), (b, y1, x2, a), (x1, b, a, y2), (b, b, x2, y2)]

    def _digit(
        self, dice: Dice, cell: tuple[int, int, int, int], colour: str, value: int | None = None, most: int = 10**6
    ) -> Placed:
        x1, y1, x2, y2 = cell
        small, large = self._sizes
        size = dice.whole(small, min(large, most))
        digit = dice.below(10) if value is None else value
        which = dice.choose(indices(self.part)[digit])
        red, green, blue = PALETTE[colour]
        tint = tuple(min(255, max(0, c + dice.whole(-18, 18))) for c in (red, green, blue))
        x, y = dice.whole(x1, x2 - size), dice.whole(y1, y2 - size)
        return Placed(digit, colour, (tint[0], tint[1], tint[2]), size, which, x, y)

    def _scene(
        self, dice: Dice, fewest: int = 1, colours: Sequence[str] | None = None, values: Sequence[int] | None = None
    ) -> list[Placed]:
        low, high = self.digits
        n = dice.whole(max(low, fewest), max(high, fewest))
        named = dice.sample(self._colours, n) if colours is None else colours[:n]
        cells = dice.sample(self._cells(n, rows=dice.below(2) == 0), n)
        chosen = [None] * n if values is None else values[:n]
        return [self._digit(dice, cell, c, value) for cell, c, value in zip(cells, named, chosen, strict=True)]

    def _picture(self, dice: Dice, scene: Sequence[Placed]) -> Image:
        painted = canvas.background(dice, self.side, self.side, self.clutter)
        for one in scene:
            one.paint(painted)
        return canvas.picture(painted)

    def _video(self, dice: Dice, scenes: Sequence[Sequence[Placed]]) -> Video:
        behind = canvas.background(dice, self.side, self.side, self.clutter)
        frames: list[np.ndarray] = []
        for scene in scenes:
            painted = behind.copy()
            for one in scene:
                one.paint(painted)
            frames.append(canvas.finished(painted))
        return Video(np.stack(frames))

    def _asking(self, dice: Dice, scene: Sequence[Placed], question: str, **names: str) -> Content:
        return self._picture(dice, scene), Text(QUESTIONS[question].format(**names))

    def _binned(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """The box rounded outward to location bins."""
        bin_ = self.side // self.bins
        x1, y1, x2, y2 = box
        return x1 // bin_ * bin_, y1 // bin_ * bin_, -(-x2 // bin_) * bin_, -(-y2 // bin_) * bin_


def _details(scene: Sequence[Placed]) -> dict[str, Any]:
    digits: list[Mapping[str, Any]] = [{"digit": one.digit, "colour": one.colour, "box": one.box} for one in scene]
    return {"digits": tuple(digits)}


def _comma(box: tuple[int, int, int, int]) -> str:
    return ",".join(str(x) for x in box)
