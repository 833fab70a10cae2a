"""A world of one object for policies that both draw and answer: every record is a caption, its picture and a question.

One of 3 shapes in one of 4 colours in one of 4 quadrants, on 16 x 16 pixels: 48 scenes, each with exactly one picture.
A caption is three words, ``red circle northwest``; a question asks for one of them. Eight combinations of colour, shape
and place are held out; every colour, shape and place, and every two of them together, is in training too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Task
from saccade.envs.datasets.shapes import PALETTE, SHAPES, Placed, render

Kind = Literal["draw", "answer"]
PLACES = {"northwest": (1, 1), "northeast": (9, 1), "southwest": (1, 9), "southeast": (9, 9)}
"""Top left corner of the object, in pixels."""
SIZE = 6
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {"colour": tuple(PALETTE), "shape": SHAPES, "place": tuple(PLACES)}
"""Questions, and what the answers can be."""
WORDS = (*PALETTE, *SHAPES, *PLACES, "draw", "which", *ATTRIBUTES)
"""Every word of prompts and answers."""


@dataclass(frozen=True)
class Scene:
    colour: str
    shape: str
    place: str

    @property
    def caption(self) -> str:
        return f"{self.colour} {self.shape} {self.place}"

    @property
    def attributes(self) -> dict[str, str]:
        return {"colour": self.colour, "shape": self.shape, "place": self.place}

    @property
    def image(self) -> Image:
        x, y = PLACES[self.place]
        return Image(_pixels(Placed(self.shape, self.colour, SIZE, x, y)))


@cache
def _pixels(placed: Placed) -> np.ndarray:
    pixels = render([placed])
    pixels.flags.writeable = False
    return pixels


SCENES = tuple(Scene(c, s, p) for c in ATTRIBUTES["colour"] for s in SHAPES for p in PLACES)
HELD_OUT = frozenset(
    Scene(ATTRIBUTES["colour"][i % 4], SHAPES[i % 3], ATTRIBUTES["place"][(i + i // 4) % 4]) for i in range(8)
)
"""Two of each colour and place, two or three of each shape."""


def scenes(part: Split | Literal["all"]) -> tuple[Scene, ...]:
    """The scenes of a part: 40 for training, 8 held out."""
    return SCENES if part == "all" else tuple(s for s in SCENES if (s in HELD_OUT) == (part == "test"))


@dataclass(frozen=True)
class Records(Tasks):
    """Records are a scene and a question each, 120 in training and 24 held out; a record's tasks follow each other.

    ``draw``: the prompt is ``draw red circle northwest<image>``, ``Task.target`` a mapping of attribute to value, gold
    the picture. ``answer``: the prompt is the picture and ``which colour?``, ``Task.target`` the word, gold the word in
    answer tags. ``Task.info``: ``kind``, ``record`` (the same for the tasks of a record), ``attributes``, ``question``.
    """

    kinds: tuple[Kind, ...] = ("draw", "answer")
    """Tasks of each record."""
    questions: tuple[str, ...] = tuple(ATTRIBUTES)
    asking: str = "which {question}?"
    """Text of questions; contains ``{question}``."""
    part: Split | Literal["all"] = "train"

    def __post_init__(self) -> None:
        for name, chosen, known in (
            ("kinds", self.kinds, ("draw", "answer")),
            ("questions", self.questions, tuple(ATTRIBUTES)),
        ):
            if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
                raise ConfigError(f"tasks.{name} must be some of {', '.join(known)}, each once, got {chosen}")
        if "{question}" not in self.asking:
            raise ConfigError(f"tasks.asking must contain {{question}}, got {self.asking!r}")
        if self.part not in ("train", "test", "all"):
            raise ConfigError(f"tasks.part must be train, test or all, got {self.part!r}")

    def __len__(self) -> int:
        return len(scenes(self.part)) * len(self.questions) * len(self.kinds)

    def split(self, name: Split) -> Records:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        record, which = divmod(index, len(self.kinds))
        number, asked = divmod(record, len(self.questions))
        kind, scene, question = self.kinds[which], scenes(self.part)[number], self.questions[asked]
        record = f"{scene.caption}/{question}"
        info = {"kind": kind, "record": record, "attributes": scene.attributes, "question": question}
        if kind == "draw":
            prompt = (Text(f"draw {scene.caption}<image>"),)
            return Task(f"draw/{record}", prompt, scene.attributes, ((scene.image,),), info)
        prompt = (scene.image, Text(self.asking.replace("{question}", question)))
        word = scene.attributes[question]
        return Task(f"answer/{record}", prompt, word, ((Text(f"<answer>{word}</answer>"),),), info)
