"""Pictures in, pictures out: resize, crop, outlines, lines, points, labels. Nothing here changes its input.

Coordinates are pixel edges, origin top left: the box ``(x1, y1, x2, y2)`` covers columns ``x1 .. x2 - 1`` and rows
``y1 .. y2 - 1``. What lies outside the picture is not drawn.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

RED: Colour = (255, 0, 0)
BLUE: Colour = (0, 0, 255)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture at this size: area average when it shrinks, bicubic when it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width * height < pixels.shape[0] * pixels.shape[1]
    how = Picture.Resampling.BOX if shrinks else Picture.Resampling.BICUBIC
    return np.array(Picture.fromarray(pixels).resize((width, height), how))


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height once the longer one is ``side``, aspect kept, at least 1 pixel each."""
    scale = side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side resized to ``side``."""
    return resize(pixels, *fitted(pixels.shape[1], pixels.shape[0], side))


def whole_box(box: Box, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The box rounded outward to whole pixels and cut to the picture; None if nothing of it is left."""
    if not (box[0] < box[2] and box[1] < box[3]):
        return None
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def outline(pixels: np.ndarray, box: Box, colour: Colour = RED, thickness: int = 1) -> np.ndarray:
    """The picture with the box drawn as a frame; ``thickness`` pixels grow inward from its edges."""
    drawn = pixels.copy()
    whole = whole_box(box, pixels.shape[1], pixels.shape[0])
    if whole is None:
        return drawn
    x1, y1, x2, y2 = whole
    drawn[y1 : min(y1 + thickness, y2), x1:x2] = colour
    drawn[max(y2 - thickness, y1) : y2, x1:x2] = colour
    drawn[y1:y2, x1 : min(x1 + thickness, x2)] = colour
    drawn[y1:y2, max(x2 - thickness, x1) : x2] = colour
    return drawn


def disc(pixels: np.ndarray, centre: Point, radius: float, colour: Colour = RED) -> np.ndarray:
    """The picture with a filled disc around the point."""
    height, width = pixels.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    inside = (columns + 0.5 - centre[0]) ** 2 + (rows + 0.5 - centre[1]) ** 2 <= radius**2
    drawn = pixels.copy()
    drawn[inside] = colour
    return drawn


def line(
    pixels: np.ndarray, start: Point, end: Point, colours: tuple[Colour, Colour] = (RED, BLUE), thickness: int = 1
) -> np.ndarray:
    """The picture with a straight line whose colour runs from the first to the second, so that it shows its direction.

    Both ends must lie within the picture's frame.
    """
    height, width = pixels.shape[:2]
    steps = max(1, math.ceil(max(abs(end[0] - start[0]), abs(end[1] - start[1])))) + 1
    t = np.linspace(0.0, 1.0, steps)[:, None]
    points = np.asarray(start) * (1 - t) + np.asarray(end) * t
    shades = np.rint(np.asarray(colours[0]) * (1 - t) + np.asarray(colours[1]) * t).astype(np.uint8)
    drawn = pixels.copy()
    reach = range(-((thickness - 1) // 2), thickness // 2 + 1)
    for dy in reach:
        for dx in reach:
            columns, rows = (np.floor(points).astype(np.int64) + np.array([dx, dy])).T
            # An end on the far edge of the frame belongs to the last pixel.
            columns, rows = np.where(columns == width, width - 1, columns), np.where(rows == height, height - 1, rows)
            seen = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
            drawn[rows[seen], columns[seen]] = shades[seen]
    return drawn


def write(pixels: np.ndarray, text: str, corner: Point, colour: Colour = RED) -> np.ndarray:
    """The picture with a short text whose top left corner is the point; characters beyond ASCII become '?'."""
    picture = Picture.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    pen.text(corner, text.encode("ascii", "replace").decode(), fill=colour)
    return np.array(picture)
