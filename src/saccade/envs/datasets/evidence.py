"""Evidence: scenes of digits in which it can be seen where to look, but not what stands there.

A scene holds real handwritten digits, some in coloured frames and some without, on a cluttered background. The question
names a frame by its colour. The policy is meant to see the scene at ``view`` pixels a side: frames and their colours
survive that, digits are blurred to a few pixels. At full resolution they can be read.

Training and test tasks use different digit pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs import drawing
from saccade.envs.datasets import canvas
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs, indices

QUESTION = "which digit is in the {colour} frame?"
GRID = 2
"""Cells along a side of the scene; a frame or a bare digit has a cell of its own."""
DIGIT, FRAME, EDGE = 8, 14, 2
"""Pixels of a digit's stamp, of a frame's side and of its line."""
INK = (225, 225, 225)

Box = tuple[int, int, int, int]


def look(colour: str, box: Box) -> tuple[Text]:
    """The output that calls for a crop of the box, in Ground-R1's form; the thought says what is to be seen there."""
    return (Text(f"<think>{colour}</think><box>{','.join(map(str, box))}</box>"),)


def read(digit: int) -> tuple[Text]:
    """The output that answers."""
    return (Text(f"<think>read</think><answer>{digit}</answer>"),)


@dataclass(frozen=True)
class FramedDigits(Tasks):
    """Generated on demand: task i depends on (seed, part, i) and the settings only.

    ``Task.target``: ``answer`` (text) and ``box``, the asked frame in pixels of the view, rounded outward.
    ``Task.info["frames"]``: (colour, box, digit) of every frame, the asked one first; ``Task.info["places"]`` has the
    digits without a frame besides, their colour empty.
    """

    count: int = 8192
    seed: int = 0
    part: Split = "train"
    side: int = 64
    """Height and width in pixels of the scene."""
    view: int = 16
    """Side in pixels at which the policy sees the scene: boxes are in these pixels."""
    frames: int = 4
    bare: int = 0
    """Digits without a frame."""
    clutter: float = 1.0
    """Strength of noise and pen strokes in the background."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")
        if self.side // GRID < FRAME or not 0 < self.view <= self.side or self.side % self.view:
            raise ConfigError(
                f"tasks.side must be >= {GRID * FRAME} and a multiple of tasks.view, got {self.side} and {self.view}"
            )
        if not 1 <= self.frames <= len(PALETTE) or self.bare < 0 or self.frames + self.bare > GRID**2:
            raise ConfigError(
                f"tasks.frames must be in [1, {len(PALETTE)}] and with tasks.bare at most {GRID**2}, "
                f"got {self.frames} and {self.bare}"
            )

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> FramedDigits:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        dice = Dice(numpy_generator(self.seed, "framed digits", self.part, index))
        painted = canvas.background(dice, self.side, self.side, self.clutter)
        cell = self.side // GRID
        corners = [(cell * i, cell * j) for j in range(GRID) for i in range(GRID)]
        found: list[tuple[str, Box, int]] = []
        places = dice.sample(corners, self.frames + self.bare)
        colours = [*dice.sample(tuple(PALETTE)[: max(4, self.frames)], self.frames), *[""] * self.bare]
        for (left, top), colour in zip(places, colours, strict=True):
            margin = (cell - FRAME) // 2
            x, y = left + margin + dice.whole(-4, 4), top + margin + dice.whole(-4, 4)
            digit = dice.below(10)
            which = dice.choose(indices(self.part)[digit])
            inset = (FRAME - DIGIT) // 2
            stamps = glyphs(DIGIT)
            canvas.paste(painted, stamps.ink[which], stamps.shade[which], x + inset, y + inset, INK)
            if colour:
                for k in range(EDGE):
                    canvas.frame(painted, (x + k, y + k, x + FRAME - k, y + FRAME - k), PALETTE[colour])
            found.append((colour, self._seen((x, y, x + FRAME, y + FRAME)), digit))
        colour, box, digit = found[0]
        return Task(
            id=f"framed digits/{self.part}/{self.seed}/{index}",
            prompt=(canvas.picture(painted), Text(QUESTION.format(colour=colour))),
            target={"answer": str(digit), "box": box},
            gold=(look(colour, box), read(digit)),
            info={"frames": tuple(found[: self.frames]), "places": tuple(found)},
        )

    def _seen(self, box: Box) -> Box:
        scale = self.side // self.view
        x1, y1, x2, y2 = box
        return x1 // scale, y1 // scale, -(-x2 // scale), -(-y2 // scale)


@dataclass(frozen=True)
class Closeups(Tasks):
    """The asked frames of ``scenes``, cut out and enlarged to the view's size: for learning to read."""

    scenes: FramedDigits = FramedDigits()

    def __len__(self) -> int:
        return len(self.scenes)

    def split(self, name: Split) -> Closeups:
        return Closeups(self.scenes.split(name))

    def task(self, index: int) -> Task:
        scene = self.scenes.task(index)
        image = scene.prompt[0]
        assert isinstance(image, Image)
        scale = self.scenes.side // self.scenes.view
        x1, y1, x2, y2 = (x * scale for x in scene.target["box"])
        pixels = drawing.resize(image.pixels[y1:y2, x1:x2], self.scenes.view, self.scenes.view)
        return Task(f"closeup of {scene.id}", (Image(pixels),), scene.target, (scene.gold[1],))
