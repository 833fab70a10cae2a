"""Short clips of coloured handwritten digits and questions about them with one or several right answers.

``which colours appear? A red B blue C white D green E yellow`` has one right answer by default, say ``D``. Half of the
questions are inverted, as TW-GRPO (arXiv:2505.24718) makes questions of several answers from those of one: negated,
``which colours do not appear?``, with the complement as answer, ``A,B,C,E``. Training and test tasks use different
digit pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from saccade.core.content import Text, Video
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets import canvas
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs, indices

LETTERS = "ABCDEF"
WORDS = ("appear", "colours", "do", "no", "not", "which", "yes", *LETTERS, *canvas.PALETTE)
"""Every word of questions and answers."""


@dataclass(frozen=True)
class ColourChoices(Tasks):
    """Task i depends on (seed, part, i) and the settings only.

    ``Task.target["answer"]`` holds the right letters, ``A,D``: at least one is right and at least one is not. The gold
    output lists the colours that appear and says of every option whether it does, ``red white, A blue no B red yes
    ...``, before it answers.
    """

    count: int = 4096
    options: int = 5
    """Colours to choose from in each question."""
    appear: tuple[int, int] = (1, 1)
    """Fewest and most of them that appear. One makes questions of one answer, whose inversions have all others."""
    others: int = 3
    """Most colours beside the options that appear as well."""
    frames: int = 2
    """Pictures of a clip. Every colour appears in one of them at least."""
    side: int = 32
    """Pixels a side of every picture."""
    inverted: float = 0.5
    """Share of negated questions."""
    noise: float = 40.0
    """Amplitude of the pixel noise, of 255."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not 2 <= self.options <= len(LETTERS):
            raise ConfigError(f"tasks.options must be in [2, {len(LETTERS)}], got {self.options}")
        if not 1 <= self.appear[0] <= self.appear[1] < self.options:
            raise ConfigError(f"tasks.appear must be two numbers 1 <= fewest <= most < options, got {self.appear}")
        if not 0 <= self.others <= len(canvas.PALETTE) - self.options:
            raise ConfigError(f"tasks.others must be >= 0 and <= colours that are no options, got {self.others}")
        if 4 * self.frames < self.appear[1] + self.others:
            raise ConfigError(f"tasks.frames must be >= (most of appear + others) / 4, got {self.frames}")
        if self.side < 24 or self.side % 2:
            raise ConfigError(f"tasks.side must be even and >= 24, got {self.side}")
        if not 0 <= self.inverted <= 1:
            raise ConfigError(f"tasks.inverted must be in [0, 1], got {self.inverted}")
        if not 0 <= self.noise <= 255:
            raise ConfigError(f"tasks.noise must be in [0, 255], got {self.noise}")

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> ColourChoices:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "colour choices", self.part, index))
        colours = dice.sample(tuple(canvas.PALETTE), len(canvas.PALETTE))
        offered, rest = colours[: self.options], colours[self.options :]
        shown = set(dice.sample(offered, dice.whole(*self.appear)) + dice.sample(rest, dice.whole(0, self.others)))
        inverted = dice.unit() < self.inverted
        letters = LETTERS[: self.options]
        right = [letter for letter, colour in zip(letters, offered, strict=True) if (colour in shown) != inverted]
        listed = " ".join(f"{letter} {colour}" for letter, colour in zip(letters, offered, strict=True))
        judged = " ".join(
            f"{letter} {colour} {'yes' if colour in shown else 'no'}"
            for letter, colour in zip(letters, offered, strict=True)
        )
        thought = f"{' '.join(sorted(shown))}, {judged}"
        question = f"which colours {'do not appear' if inverted else 'appear'}? {listed}"
        answer = ",".join(right)
        return Task(
            id=f"choices/{self.part}/{self.seed}/{index}",
            prompt=(self._clip(dice, sorted(shown)), Text(question)),
            target={"answer": answer},
            gold=((Text(f"<think>{thought}</think><answer>{answer}</answer>"),),),
            info={"inverted": inverted, "shown": tuple(sorted(shown)), "offered": tuple(offered)},
        )

    def _clip(self, dice: Dice, colours: Sequence[str]) -> Video:
        half = self.side // 2
        size = round(half * 0.8)
        own = indices(self.part)
        behind = canvas.background(dice, self.side, self.side, clutter=0.0)
        noise = np.float32(self.noise) * dice.generator.random((self.frames, self.side, self.side, 1), dtype=np.float32)
        frames = behind + noise
        places = dice.sample([(frame, cell) for frame in range(self.frames) for cell in range(4)], len(colours))
        for (frame, cell), colour in zip(places, colours, strict=True):
            x = (cell % 2) * half + dice.whole(0, half - size)
            y = (cell // 2) * half + dice.whole(0, half - size)
            which = dice.choose(own[dice.below(10)])
            glyph = glyphs(size)
            canvas.paste(frames[frame], glyph.ink[which], glyph.shade[which], x, y, canvas.PALETTE[colour])
        return Video(np.stack([canvas.finished(frame) for frame in frames]))
