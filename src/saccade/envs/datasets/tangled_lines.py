"""Tangled lines: lines run down a picture and cross each other; one of them is asked for, from its dot to its exit.

Between two rows of junctions neighbouring lines may change places, so that every line stays within one column of where
it was. Where a line ends is the product of all its crossings: easy to find step by step, hard at one glance.

Training and test tasks share no tangle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import fold_in, numpy_generator
from saccade.core.trajectory import Task
from saccade.envs import drawing
from saccade.envs.datasets import canvas
from saccade.envs.datasets.dice import Dice

QUESTION = "follow the line from the yellow dot: where is its end?"
EXITS = "ABCDEFGH"
"""Names of the exits, from left to right."""
WAYS = {-1: "left", 0: "down", 1: "right"}
LINE, DOT = (230, 230, 230), (250, 225, 50)
TEST_SHARE = 5
"""One tangle in so many is a test tangle."""

Swaps = tuple[tuple[int, ...], ...]
"""For each level the left columns of the pairs that change places."""


def words() -> tuple[str, ...]:
    """Every word of questions and gold outputs."""
    text = QUESTION + " Action Path Tracer Answer out start end " + " ".join(WAYS.values())
    return tuple(sorted({word.strip("?:") for word in text.split()}))


def trace(start: tuple[int, int], end: tuple[int, int], way: str) -> tuple[Text]:
    """The output that draws one segment, in ViLaSR's form."""
    places = f'{{"start":[{start[0]},{start[1]}],"end":[{end[0]},{end[1]}]}}'
    return (Text(f"<think>{way}</think>Action:Path Tracer[{places}]"),)


def answer(exit: str) -> tuple[Text]:
    """The output that answers, in ViLaSR's form."""
    return (Text(f"<think>out</think>Action:Answer<answer>{exit}</answer>"),)


@dataclass(frozen=True)
class TangledLines(Tasks):
    """Generated on demand: task i depends on (seed, part, i) and the settings only.

    ``Task.target``: ``answer`` (the exit's letter) and ``path``, the asked line's junctions in pixels, top to bottom.
    """

    count: int = 8192
    seed: int = 0
    part: Split = "train"
    columns: int = 5
    """Lines, and exits."""
    levels: int = 4
    """Segments of every line."""
    cell: int = 8
    """Pixels between neighbouring junctions."""
    crossings: float = 0.6
    """Chance of a pair of neighbours to cross at a level, if neither crosses with another one."""
    clutter: float = 0.5
    """Strength of noise and pen strokes in the background."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if not 2 <= self.columns <= len(EXITS) or self.levels < 1 or self.cell < 4:
            raise ConfigError(
                f"tasks needs 2 <= columns <= {len(EXITS)}, levels >= 1 and cell >= 4, "
                f"got {self.columns}, {self.levels} and {self.cell}"
            )
        if not 0 < self.crossings < 1 or not self.clutter >= 0:
            raise ConfigError(
                f"tasks needs 0 < crossings < 1 and clutter >= 0, got {self.crossings} and {self.clutter}"
            )

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> TangledLines:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "tangled lines", self.part, index))
        tangle = self._tangle(dice)
        start = dice.below(self.columns)
        painted = canvas.background(dice, self.columns * self.cell, (self.levels + 1) * self.cell, self.clutter)
        for column in range(self.columns):
            line = self._path(tangle, column)
            for here, there in pairwise(line):
                halfway = ((here[0] + there[0]) / 2, (here[1] + there[1]) / 2)
                canvas.stroke(painted, here, halfway, there, LINE, steps=4 * self.cell)
        path = self._path(tangle, start)
        pixels = drawing.disc(canvas.finished(painted), path[0], self.cell / 4, DOT)
        exit = EXITS[path[-1][0] // self.cell]
        steps = pairwise(path)
        drawn = [trace(here, there, WAYS[(there[0] - here[0]) // self.cell]) for here, there in steps]
        return Task(
            id=f"tangled lines/{self.part}/{self.seed}/{index}",
            prompt=(Image(pixels), Text(QUESTION)),
            target={"answer": exit, "path": tuple(path)},
            gold=(*drawn, answer(exit)),
        )

    def _tangle(self, dice: Dice) -> Swaps:
        """A tangle of this part; which part one belongs to does not depend on the seed."""
        while True:
            tangle = tuple(self._level(dice) for _ in range(self.levels))
            held_out = fold_in(0, "tangle", *(column for level in tangle for column in (*level, -1))) % TEST_SHARE == 0
            if held_out == (self.part == "test"):
                return tangle

    def _level(self, dice: Dice) -> tuple[int, ...]:
        crossing: list[int] = []
        for column in dice.sample(range(self.columns - 1), self.columns - 1):
            free = all(abs(column - other) > 1 for other in crossing)
            if free and dice.unit() < self.crossings:
                crossing.append(column)
        return tuple(sorted(crossing))

    def _path(self, tangle: Swaps, column: int) -> list[tuple[int, int]]:
        half = self.cell // 2
        path = [(column * self.cell + half, half)]
        for level, crossing in enumerate(tangle, 1):
            column += (column in crossing) - (column - 1 in crossing)
            path.append((column * self.cell + half, level * self.cell + half))
        return path
