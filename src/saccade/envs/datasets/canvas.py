"""What procedural scenes are painted with: a canvas is float32 ``[H, W, 3]`` in 0 .. 255, painting changes it."""

from __future__ import annotations

from functools import cache

import numpy as np

from saccade.core.content import Image
from saccade.envs.datasets.dice import Dice
from saccade.envs.drawing import Colour, Point

PALETTE: dict[str, Colour] = {
    "red": (240, 50, 45),
    "green": (60, 205, 75),
    "blue": (70, 125, 255),
    "yellow": (250, 225, 50),
    "white": (245, 245, 245),
    "purple": (205, 85, 235),
    "orange": (255, 145, 40),
    "cyan": (70, 220, 230),
}
"""Colours a question can name, most distinct first."""


def background(dice: Dice, width: int, height: int, clutter: float = 1.0) -> np.ndarray:
    """A dark colour gradient with noise and grey pen strokes.

    Args:
        dice: randomness.
        width: pixels.
        height: pixels.
        clutter: strength of noise and strokes; 0 is a bare gradient.
    """
    across, down = _ramps(width, height)
    random = dice.generator.random(9, dtype=np.float32)
    base, slope_x, slope_y = 15 + 55 * random[:3], 60 * (random[3:6] - 0.5), 60 * (random[6:] - 0.5)
    canvas = (base + across * slope_x) + down * slope_y
    if clutter > 0:
        noise = dice.generator.integers(0, 256, (height, width, 1), dtype=np.uint8)
        canvas += noise * np.float32(0.11 * clutter)
        for _ in range(dice.whole(1, 4)):
            grey = dice.between(50, 50 + 70 * min(1.0, clutter))
            corners = [(dice.unit() * width, dice.unit() * height) for _ in range(3)]
            stroke(canvas, corners[0], corners[1], corners[2], (grey, grey, grey))
    return canvas


@cache
def _ramps(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
    return across, down


def stroke(
    canvas: np.ndarray, start: Point, bend: Point, end: Point, colour: tuple[float, float, float], steps: int = 96
) -> None:
    """A thin quadratic Bezier curve; every point must lie in the frame. ``bend`` halfway makes a straight line."""
    t, rest = _times(steps)
    x = rest * rest * start[0] + 2 * rest * t * bend[0] + t * t * end[0]
    y = rest * rest * start[1] + 2 * rest * t * bend[1] + t * t * end[1]
    height, width = canvas.shape[:2]
    canvas[np.minimum(y.astype(np.int64), height - 1), np.minimum(x.astype(np.int64), width - 1)] = colour


@cache
def _times(steps: int) -> tuple[np.ndarray, np.ndarray]:
    t = np.linspace(0.0, 1.0, steps)
    return t, 1 - t


def paste(canvas: np.ndarray, ink: np.ndarray, shade: np.ndarray, x: int, y: int, colour: Colour) -> None:
    """Ink of this colour over a dark rim, top left corner at (x, y); the stamp must lie within the canvas.

    Args:
        canvas: float32 ``[H, W, 3]``.
        ink: uint8 ``[h, w]``, 255 is opaque.
        shade: uint8 ``[h, w]``, 255 is the darkest rim.
        x: column of the stamp's left edge.
        y: row of its top edge.
        colour: of the ink, 0 .. 255.
    """
    height, width = ink.shape
    region = canvas[y : y + height, x : x + width]
    region *= 1 - shade[:, :, None] * np.float32(0.6 / 255)
    opacity = ink[:, :, None] * np.float32(1 / 255)
    region += opacity * (np.asarray(colour, dtype=np.float32) - region)


def frame(canvas: np.ndarray, box: tuple[int, int, int, int], colour: Colour) -> None:
    """The box's outline, one pixel wide, inside its edges; the box must lie within the canvas."""
    x1, y1, x2, y2 = box
    canvas[y1, x1:x2] = canvas[y2 - 1, x1:x2] = colour
    canvas[y1:y2, x1] = canvas[y1:y2, x2 - 1] = colour


def finished(canvas: np.ndarray) -> np.ndarray:
    """The canvas as uint8 pixels."""
    return np.clip(canvas, 0, 255).astype(np.uint8)


def picture(canvas: np.ndarray) -> Image:
    """The canvas as content."""
    return Image(finished(canvas))
