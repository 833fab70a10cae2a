"""What each reward of a picture must say: of a gold one, a wrong one, malformed ones, and of an empty output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from saccade.core.content import Content, Image, Text
from saccade.core.reward import Reward
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.datasets.images import DigitImages
from saccade.envs.datasets.shapes import Placed, render
from saccade.rewards.classifier import Classifier, ClassifierConfidence, ClassReading
from saccade.rewards.image import Aesthetic, Brightness, Colourfulness, Compressibility, Incompressibility
from saccade.rewards.shapes import SceneColour, SceneCount, SceneRelation, SceneShape, SceneSoft, SceneStrict


def shown(*parts: Any, target: Any = None, caption: str = "one circle", id: str = "t", **task: Any) -> Trajectory:
    """A trajectory whose output is these parts; arrays become images."""
    output: Content = tuple(Image(part) if isinstance(part, np.ndarray) else part for part in parts)
    asked = Task(id, (Text(caption),), target, **task)
    empty = torch.zeros(1)
    turn = Turn(output, None, empty, empty == 0, torch.zeros(1, dtype=torch.int64))
    return Trajectory(Prompt(asked, asked.prompt), [turn])


def drawn(*objects: tuple[Any, ...]) -> np.ndarray:
    """A scene of objects (shape, colour, size, x, y)."""
    return render([Placed(*one) for one in objects])


def plain(*rgb: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), rgb, dtype=np.uint8)


def asks(*objects: tuple[int, str | None, str], relation: str | None = None) -> dict[str, Any]:
    wanted = tuple({"count": count, "colour": colour, "shape": shape} for count, colour, shape in objects)
    return {"objects": wanted, "relation": relation}


RED = ("circle", "red", 5, 1, 1)
OTHER_RED = ("circle", "red", 6, 9, 9)
BLUE = ("square", "blue", 5, 10, 2)
GREEN = ("triangle", "green", 6, 1, 9)

GREY, TINY = plain(128, 128, 128), plain(9, 9, 9, height=1, width=1)
WIDE, HIGH = plain(20, 20, 20, width=20), plain(20, 20, 20, height=48)
ODD: dict[str, tuple[Any, ...]] = {
    "malformed": (WIDE,),
    "grey": (GREY,),
    "high": (HIGH,),
    "tiny": (TINY,),
    "text": (Text("a red circle"),),
    "empty": (),
}


@dataclass(frozen=True)
class ImageCase:
    reward: Reward
    target: Any
    rows: dict[str, tuple[tuple[Any, ...], float | None]] = field(default_factory=dict)
    """Label to (output, expected score)."""


def scenes(grey: float = 0.0, **rows: tuple[np.ndarray, float]) -> dict[str, tuple[tuple[Any, ...], float | None]]:
    """Rows of pictures, and the odd ones, which get 0; a grey picture is a scene without objects."""
    odd: dict[str, tuple[tuple[Any, ...], float | None]] = {label: (output, 0.0) for label, output in ODD.items()}
    odd["grey"] = ((GREY,), grey)
    return odd | {label: ((pixels,), value) for label, (pixels, value) in rows.items()}


def cross() -> np.ndarray:
    """A plus of three pixels' breadth: its bounding box has no corner filled, and a bit more than half of it is."""
    pixels = drawn()
    pixels[3:10, 5:8] = pixels[5:8, 3:10] = (230, 38, 38)
    return pixels


def frame() -> np.ndarray:
    pixels = drawn()
    pixels[3:9, 3:9] = (51, 76, 242)
    pixels[4:8, 4:8] = (20, 20, 20)
    return pixels


TWO_RED = asks((2, "red", "circle"))
LEFT = asks((1, "red", "circle"), (1, "blue", "square"), relation="left")
BOTH = asks((1, "red", "circle"), (1, "blue", "square"))

SCENE_CASES = [
    ImageCase(
        SceneStrict(),
        asks((1, "red", "circle")),
        scenes(
            gold=(drawn(RED), 1),
            wrong=(drawn(BLUE), 0),
            colour=(drawn(("circle", "green", 5, 1, 1)), 0),
            shape=(drawn(("square", "red", 5, 1, 1)), 0),
            one_too_many=(drawn(RED, OTHER_RED), 0),
            company=(drawn(RED, BLUE), 0),
            cross=(cross(), 0),
            large=(drawn(RED).repeat(3, 0).repeat(3, 1), 1),
        ),
    ),
    ImageCase(SceneStrict(), asks((1, "blue", "square")), scenes(gold=(drawn(BLUE), 1), wrong=(frame(), 0))),
    ImageCase(
        SceneStrict(),
        asks((1, None, "circle")),
        scenes(gold=(drawn(RED), 1), other=(drawn(("circle", "blue", 6, 3, 3)), 1), wrong=(drawn(BLUE), 0)),
    ),
    ImageCase(
        SceneStrict(), TWO_RED, scenes(gold=(drawn(RED, OTHER_RED), 1), one=(drawn(RED), 0), wrong=(drawn(BLUE), 0))
    ),
    ImageCase(SceneStrict(), BOTH, scenes(gold=(drawn(BLUE, RED), 1), one=(drawn(RED), 0), wrong=(drawn(GREEN), 0))),
    ImageCase(
        SceneStrict(),
        LEFT,
        scenes(
            gold=(drawn(RED, BLUE), 1),
            wrong=(drawn(("circle", "red", 5, 10, 1), ("square", "blue", 5, 1, 2)), 0),
            above=(drawn(("circle", "red", 5, 5, 1), ("square", "blue", 5, 5, 9)), 0),
            third=(drawn(RED, BLUE, GREEN), 0),
        ),
    ),
    # .7 (1 - |m - n| / n) + .3 [n in all]
    ImageCase(
        SceneSoft(),
        TWO_RED,
        scenes(
            gold=(drawn(RED, OTHER_RED), 1),
            one=(drawn(RED), 0.35),
            one_and_another=(drawn(RED, BLUE), 0.35 + 0.3),
            wrong=(drawn(BLUE), 0),
            only_the_number=(drawn(BLUE, GREEN), 0.3),
        ),
    ),
    # .3 + .3 for the objects, .2 for the relation, .2 for two objects
    ImageCase(
        SceneSoft(),
        LEFT,
        scenes(
            gold=(drawn(RED, BLUE), 1),
            one=(drawn(RED), 0.3),
            swapped=(drawn(("circle", "red", 5, 10, 1), ("square", "blue", 5, 1, 2)), 0.8),
            third=(drawn(RED, BLUE, GREEN), 0.8),
            wrong=(drawn(GREEN), 0),
        ),
    ),
    # .4 + .4 for the objects, .2 for two of them
    ImageCase(
        SceneSoft(),
        BOTH,
        scenes(
            gold=(drawn(RED, BLUE), 1), one=(drawn(RED), 0.4), company=(drawn(RED, GREEN), 0.6), wrong=(drawn(GREEN), 0)
        ),
    ),
    ImageCase(
        SceneCount(),
        TWO_RED,
        scenes(
            gold=(drawn(BLUE, GREEN), 1),
            one=(drawn(RED), 0.5),
            three=(drawn(RED, BLUE, GREEN), 0.5),
            wrong=(drawn(), 0),
        ),
    ),
    # 2 * 1 / (1 + 2) where one of two is there; 2 * 2 / (3 + 2) where there is a third
    ImageCase(
        SceneColour(),
        BOTH,
        scenes(
            gold=(drawn(("square", "red", 5, 1, 1), BLUE), 1),
            one=(drawn(RED), 2 / 3),
            third=(drawn(RED, BLUE, GREEN), 0.8),
            wrong=(drawn(GREEN), 0),
        ),
    ),
    ImageCase(SceneColour(), asks((1, None, "circle")), scenes(gold=(drawn(RED), 1), wrong=(drawn(), 1), grey=1.0)),
    ImageCase(
        SceneShape(),
        TWO_RED,
        scenes(
            gold=(drawn(RED, ("circle", "blue", 5, 9, 9)), 1),
            one=(drawn(RED), 2 / 3),
            cross=(cross(), 0),
            wrong=(drawn(BLUE), 0),
        ),
    ),
    ImageCase(
        SceneRelation(),
        LEFT,
        scenes(
            gold=(drawn(RED, BLUE), 1),
            third=(drawn(RED, BLUE, GREEN), 1),
            wrong=(drawn(("circle", "red", 5, 10, 1), ("square", "blue", 5, 1, 2)), 0),
            one=(drawn(RED), 0),
        ),
    ),
    ImageCase(SceneRelation(), TWO_RED, scenes(gold=(drawn(RED, OTHER_RED), 1), wrong=(drawn(), 1), grey=1.0)),
]


def pixels(**rows: tuple[np.ndarray, float]) -> dict[str, tuple[tuple[Any, ...], float | None]]:
    """Rows of pictures; without one the trajectory is unscored."""
    return {"empty": ((), None), "text": (ODD["text"], None), **{k: ((p,), v) for k, (p, v) in rows.items()}}


STRIPES = np.zeros((16, 16, 3), dtype=np.uint8)
STRIPES[:, ::2] = (255, 255, 0)
"""Half yellow, half black: rg is 0 everywhere; yb is 255 or 0, mean and standard deviation 127.5."""
HALVES = np.zeros((16, 16, 3), dtype=np.uint8)
HALVES[:8] = 255
"""White above black: luma has mean and standard deviation 1/2."""

PIXEL_CASES = [
    ImageCase(
        Colourfulness(),
        None,
        pixels(
            gold=(STRIPES, 127.5 + 0.3 * 127.5),
            wrong=(GREY, 0),
            malformed=(TINY, 0),
            # rg = yb = 255 / 2 * (2, 1) without spread: .3 sqrt(255^2 + 127.5^2)
            red=(plain(255, 0, 0), 0.3 * (255**2 + 127.5**2) ** 0.5),
        ),
    ),
    ImageCase(
        Brightness(),
        None,
        pixels(
            gold=(plain(255, 255, 255), 1),
            wrong=(plain(0, 0, 0), 0),
            malformed=(plain(51, 51, 51, width=3), 0.2),
            green=(plain(0, 255, 0), 0.587),
        ),
    ),
    # Grey halves are colourless, have all contrast, and middle brightness: 2/3. Black has nothing of the three.
    ImageCase(
        Aesthetic(), None, pixels(gold=(HALVES, 2 / 3), wrong=(plain(0, 0, 0), 0), malformed=(TINY, 2 * 9 / 255 / 3))
    ),
]

DIGITS = Classifier(tasks=DigitImages(), steps=60, channels=8)
"""A poor classifier, but a quick one."""
FILE_CASES = [Compressibility(), Incompressibility()]
CLASSIFIER_CASES = [ClassifierConfidence(classifier=DIGITS), ClassReading(classifier=DIGITS)]
CASES = [*SCENE_CASES, *PIXEL_CASES]
