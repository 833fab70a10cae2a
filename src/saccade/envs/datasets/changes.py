"""Two pictures of four handwritten digits, before and after: what changed?

Each digit stands in its own quarter of the picture, numbered in reading order, and has a colour and a size. One to
three of these eight attributes differ in the second picture; the answer names them in order as
``object.attribute.value`` with the new value: ``2.colour.red, 3.size.large`` (the triples of STAR-R1,
arXiv:2505.15804). The second picture is taken from slightly elsewhere (all digits are shifted by one pixel or none) and
has its own noise. Training and test tasks use different digit pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets import canvas
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs, indices

Look = dict[str, str]
"""Value of each attribute of one digit."""
SIZES = {"small": 0.5, "medium": 0.7, "large": 0.95}
"""Side of a digit's stamp as a share of its quarter's."""
WORDS = ("changed", "colour", "same", "size", "what", *SIZES, *canvas.PALETTE)
"""Every word of questions and answers."""


@dataclass(frozen=True)
class ChangedScenes(Tasks):
    """Task i depends on (seed, part, i) and the settings only.

    ``Task.target["answer"]`` is the list of triples as text. ``Task.info`` holds the looks of the four digits,
    ``before`` and ``after``. The gold output compares digit by digit, ``1 red red same small large changed, ...``,
    before it answers.
    """

    count: int = 4096
    side: int = 32
    """Pixels a side of both pictures."""
    colours: int = 6
    """How many colours of the palette are used."""
    most: int = 3
    """Most attributes that change."""
    noise: float = 10.0
    """Amplitude of the pixel noise, of 255."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if self.side < 24 or self.side % 2:
            raise ConfigError(f"tasks.side must be even and >= 24, got {self.side}")
        if not 2 <= self.colours <= len(canvas.PALETTE):
            raise ConfigError(f"tasks.colours must be in [2, {len(canvas.PALETTE)}], got {self.colours}")
        if not 1 <= self.most <= 8:
            raise ConfigError(f"tasks.most must be in [1, 8], got {self.most}")
        if not 0 <= self.noise <= 255:
            raise ConfigError(f"tasks.noise must be in [0, 255], got {self.noise}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> ChangedScenes:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "changed scenes", self.part, index))
        values = {"colour": tuple(canvas.PALETTE)[: self.colours], "size": tuple(SIZES)}
        before = [{name: dice.choose(known) for name, known in values.items()} for _ in range(4)]
        after = [dict(look) for look in before]
        places = sorted(dice.sample([(i, name) for i in range(4) for name in values], dice.whole(1, self.most)))
        for i, name in places:
            after[i][name] = dice.choose([value for value in values[name] if value != before[i][name]])
        answer = ", ".join(triple(after, i, name) for i, name in places)
        thought = ", ".join(f"{i + 1} {_compared(before[i], after[i])}" for i in range(4))
        return Task(
            id=f"changes/{self.part}/{self.seed}/{index}",
            prompt=(*self._pictures(dice, before, after), Text("what changed?")),
            target={"answer": answer},
            gold=((Text(f"<think>{thought}</think><answer>{answer}</answer>"),),),
            info={"before": before, "after": after},
        )

    def _pictures(self, dice: Dice, before: Sequence[Look], after: Sequence[Look]) -> list[Image]:
        half, room = self.side // 2, self.side // 16
        behind = canvas.background(dice, self.side, self.side, clutter=0.0)
        own = indices(self.part)
        stamps = [dice.choose(own[dice.below(10)]) for _ in range(4)]
        spots = [(dice.whole(-room // 2, room // 2), dice.whole(-room // 2, room // 2)) for _ in range(4)]
        pictures: list[Image] = []
        for looks, shift in ((before, 0), (after, dice.below(2))):
            painted = behind + np.float32(self.noise) * dice.generator.random(
                (self.side, self.side, 1), dtype=np.float32
            )
            for i, (look, which, (dx, dy)) in enumerate(zip(looks, stamps, spots, strict=True)):
                size = round(half * SIZES[look["size"]])
                free = half - size
                x = (i % 2) * half + min(free, max(0, free // 2 + dx + shift))
                y = (i // 2) * half + min(free, max(0, free // 2 + dy))
                glyph = glyphs(size)
                canvas.paste(painted, glyph.ink[which], glyph.shade[which], x, y, canvas.PALETTE[look["colour"]])
            pictures.append(canvas.picture(painted))
        return pictures


def triple(looks: Sequence[Look], i: int, name: str) -> str:
    """How an answer names an attribute of object i, counted from 0."""
    return f"{i + 1}.{name}.{looks[i][name]}"


def _compared(before: Look, after: Look) -> str:
    pairs = ((before[name], after[name]) for name in before)
    return " ".join(f"{old} {new} {'same' if old == new else 'changed'}" for old, new in pairs)
