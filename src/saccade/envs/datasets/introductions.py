"""Introductions: pictures that introduce objects by name, then a picture and a question about it.

Objects are real handwritten digits in a colour: an object keeps its digit and its colour from picture to picture, but
not its handwriting, size, place or background. Names are drawn anew for every task. Kinds of question (those of
RePIC, arXiv:2506.18369):

- same: ``this is ben.`` and ``is ben in the last picture?`` with the answer ``yes`` or ``no``. The object in the last
  picture is ben in half of the tasks; in the others it has another digit and another colour.
- locate: ``where is ben?`` with the answer ``<box>2,14,16,26</box>``; the last picture shows ben and one other
  object.
- caption: ``describe the last picture`` after one or two introductions; all introduced objects are in it. Every fifth
  task asks for the names, every fifth for other words than those given, the rest for nothing in particular.

Training and test tasks use different digit pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saccade.core.content import Content, Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets import canvas
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs, indices

Kind = Literal["same", "locate", "caption"]
KINDS: tuple[Kind, ...] = ("same", "locate", "caption")
NAMES = ("ada", "ben", "cleo", "eva", "finn", "gus", "ida", "kai", "mia", "otto", "pia", "sam")
QUESTIONS = {
    "same": "is {name} in the last picture?",
    "locate": "where is {name}?",
    "caption": "describe the last picture",
}
ASIDES = (". use the names", ". use other words", "", "", "")
"""What a caption's instruction adds; each is equally likely."""
WORDS = (*NAMES, "here", "names", "other", "shows", "words", "digit", *PALETTE)
"""Every word of questions and answers that is not among the common ones."""

Object = tuple[int, str]
"""Digit and colour."""


def caption(calls: Sequence[str]) -> str:
    """A caption that calls the objects of a picture so, from left to right."""
    return " and here is ".join(["the last picture shows " + calls[0], *calls[1:]])


@dataclass(frozen=True)
class Introductions(Tasks):
    """Task i depends on (seed, part, i) and the settings only. Kinds take turns.

    ``Task.target["answer"]`` is yes or no, a box (the ink rounded outward to location bins) or the introduced names.
    ``Task.info`` has the ``kind`` and, for captions, ``calls``: for every object in the last picture, from left to
    right, its name and how it looks, ``("ben", "the red digit")``.
    """

    count: int = 4096
    kinds: tuple[Kind, ...] = KINDS
    side: int = 32
    """Pixels a side of every picture."""
    colours: int = 6
    """How many colours of the palette are used."""
    introduced: tuple[int, int] = (1, 2)
    """Fewest and most objects that a caption's pictures introduce."""
    bins: int = 16
    """Boxes have corners on multiples of ``side / bins``."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"tasks.kinds must be some of {', '.join(KINDS)}, got {self.kinds}")
        if self.bins < 1 or self.side < 24 or self.side % self.bins:
            raise ConfigError(f"tasks.side must be >= 24 and a multiple of bins={self.bins}, got {self.side}")
        if not 2 <= self.colours <= len(PALETTE):
            raise ConfigError(f"tasks.colours must be in [2, {len(PALETTE)}], got {self.colours}")
        if not 1 <= self.introduced[0] <= self.introduced[1] <= 2:
            raise ConfigError(f"tasks.introduced must be two numbers 1 <= fewest <= most <= 2, got {self.introduced}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> Introductions:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "introductions", self.part, index))
        kind = self.kinds[index % len(self.kinds)]
        digits, colours = dice.sample(range(10), 2), dice.sample(tuple(PALETTE)[: self.colours], 2)
        first, second = zip(digits, colours, strict=True)
        names = dice.sample(NAMES, 2)
        answer, calls, introduced = None, (), [first]
        if kind == "same":
            answer = dice.choose(("yes", "no"))
            shown = [first if answer == "yes" else second]
        elif kind == "locate":
            shown = [first, second]
        else:
            introduced = [first, second][: dice.whole(*self.introduced)]
            shown = introduced
        shown = dice.sample(shown, len(shown))
        last, boxes = self._picture(dice, shown)
        if kind == "locate":
            answer = boxes[shown.index(first)]
            gold = f"<box>{','.join(map(str, answer))}</box>"
        elif kind == "caption":
            named = dict(zip((first, second), names, strict=True))
            answer = tuple(names[: len(introduced)])
            calls = tuple((named[one], f"the {one[1]} digit") for one in shown)
            gold = caption([name for name, _ in calls])
        else:
            gold = str(answer)
        question = QUESTIONS[kind].format(name=names[0]) + (dice.choose(ASIDES) if kind == "caption" else "")
        shows: list[Image | Text] = []
        for one, name in zip(introduced, names, strict=False):
            shows += [self._picture(dice, [one])[0], Text(f"this is {name}.")]
        prompt: Content = (*shows, last, Text(question))
        return Task(
            id=f"introductions/{self.part}/{self.seed}/{kind}/{index}",
            prompt=prompt,
            target={"answer": answer},
            gold=((Text(gold),),),
            info={"kind": kind, "calls": calls},
        )

    def _picture(self, dice: Dice, shown: Sequence[Object]) -> tuple[Image, list[tuple[int, int, int, int]]]:
        """The objects from left to right, and their boxes."""
        painted = canvas.background(dice, self.side, self.side, clutter=0.5)
        bin_ = edge = self.side // self.bins
        room = (self.side - 2 * edge) // len(shown)
        boxes: list[tuple[int, int, int, int]] = []
        for i, (digit, colour) in enumerate(shown):
            size = dice.whole(min(room, round(0.4 * self.side)), min(room, round(0.6 * self.side)))
            which = dice.choose(indices(self.part)[digit])
            x = edge + i * room + dice.whole(0, room - size)
            y = dice.whole(edge, self.side - edge - size)
            stamp = glyphs(size)
            canvas.paste(painted, stamp.ink[which], stamp.shade[which], x, y, PALETTE[colour])
            x1, y1, x2, y2 = stamp.box[which]
            ends = -(-(x + x2) // bin_) * bin_, -(-(y + y2) // bin_) * bin_
            boxes.append(((x + x1) // bin_ * bin_, (y + y1) // bin_ * bin_, *ends))
        return canvas.picture(painted), boxes
