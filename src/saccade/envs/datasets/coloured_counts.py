"""Coloured handwritten digits on clutter, and questions about how many there are of two colours.

``how many red minus blue?`` or ``how many red and blue together?``: what the digits are does not matter, only how many
have which colour. Every task also has a caption of the kind people write without knowing the question,
``green 2, red 1, white 0``: right, but about some of the colours only. Training and test tasks use different digit
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets import canvas
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs, indices

WORDS = ("minus", "and", "together", "how", "many", *canvas.PALETTE)
"""Every word of questions and captions."""
GRID = 3
"""Cells along a side; a digit has a cell of its own."""


@dataclass(frozen=True)
class ColouredCounts(Tasks):
    """Task i depends on (seed, part, i) and the settings only.

    ``Task.target``: ``answer``, the difference or the sum as text, and ``caption``. ``Task.info``: ``counts`` of all
    colours and the two ``asked`` ones. The gold output is the caption that says how many there are of the two.
    """

    count: int = 8192
    colours: int = 5
    """How many colours of the palette are used."""
    most: int = 3
    """Most digits of one colour."""
    named: int = 3
    """Colours in a caption written without knowing the question."""
    side: int = 48
    """Pixels a side of the picture."""
    clutter: float = 0.5
    """Strength of noise and pen strokes in the background."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not 2 <= self.colours <= len(canvas.PALETTE):
            raise ConfigError(f"tasks.colours must be in [2, {len(canvas.PALETTE)}], got {self.colours}")
        if self.most < 1:
            raise ConfigError(f"tasks.most must be >= 1, got {self.most}")
        if not 1 <= self.named <= self.colours:
            raise ConfigError(f"tasks.named must be in [1, tasks.colours = {self.colours}], got {self.named}")
        if self.side < 8 * GRID or self.side % GRID:
            raise ConfigError(f"tasks.side must be a multiple of {GRID} and >= {8 * GRID}, got {self.side}")
        if self.clutter < 0:
            raise ConfigError(f"tasks.clutter must be >= 0, got {self.clutter}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> ColouredCounts:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "coloured counts", self.part, index))
        colours = list(canvas.PALETTE)[: self.colours]
        counts = self._counts(dice, colours)
        first, second = asked = tuple(dice.sample(colours, 2))
        minus = dice.unit() < 0.5
        question = f"how many {first} minus {second}?" if minus else f"how many {first} and {second} together?"
        answer = counts[first] + (-counts[second] if minus else counts[second])
        return Task(
            id=f"counts/{self.part}/{self.seed}/{index}",
            prompt=(self._picture(dice, counts), Text(question)),
            target={"answer": str(answer), "caption": phrases(counts, dice.sample(colours, self.named))},
            gold=((Text(phrases(counts, asked)),),),
            info={"counts": counts, "asked": asked},
        )

    def _counts(self, dice: Dice, colours: Sequence[str]) -> dict[str, int]:
        """Equally likely counts from 0 to ``most``; colours in random order until the cells are full."""
        counts = dict.fromkeys(colours, 0)
        room = GRID**2
        for colour in dice.sample(colours, len(colours)):
            counts[colour] = dice.whole(0, min(self.most, room))
            room -= counts[colour]
        return counts

    def _picture(self, dice: Dice, counts: Mapping[str, int]) -> Image:
        painted = canvas.background(dice, self.side, self.side, self.clutter)
        cell = self.side // GRID
        size = round(0.85 * cell)
        own, glyph = indices(self.part), glyphs(size)
        shown = [colour for colour, n in counts.items() for _ in range(n)]
        for place, colour in zip(dice.sample(range(GRID**2), len(shown)), shown, strict=True):
            x = place % GRID * cell + dice.whole(0, cell - size)
            y = place // GRID * cell + dice.whole(0, cell - size)
            which = dice.choose(own[dice.below(10)])
            canvas.paste(painted, glyph.ink[which], glyph.shade[which], x, y, canvas.PALETTE[colour])
        return canvas.picture(painted)


def phrases(counts: Mapping[str, int], colours: Sequence[str]) -> str:
    """``red 2, blue 0``: how many there are of these colours."""
    return ", ".join(f"{colour} {counts[colour]}" for colour in colours)
