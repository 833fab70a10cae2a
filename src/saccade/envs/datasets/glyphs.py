"""Real handwritten digits: 1,797 pictures of 8 x 8 pixels that come with scikit-learn (from UCI's optical digits).

They are enlarged once per size and kept. A digit picture belongs either to training or to testing, whatever the seed
of a task set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from saccade.core.environment import Split
from saccade.core.random import numpy_generator

TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Glyphs:
    """All digits at one size."""

    ink: np.ndarray
    """uint8 ``[1797, size, size]``; 255 where the pen was."""
    shade: np.ndarray
    """uint8, same shape: the ink's surroundings, for a dark rim that keeps a digit apart from what is behind it."""
    box: list[tuple[int, int, int, int]]
    """Tight box around the ink of each, x1 y1 x2 y2."""


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    # A second of imports: paid by the first picture, not by listing recipes.
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    return np.asarray(flat, dtype=np.float64).reshape(-1, 8, 8) / 16.0, np.asarray(labels, dtype=np.int64)


@cache
def indices(part: Split) -> tuple[tuple[int, ...], ...]:
    """Which pictures show the digit 0, ..., 9 in this part. The two parts share none."""
    _, labels = _digits()
    chosen: list[tuple[int, ...]] = []
    for digit in range(10):
        order = numpy_generator(0, "digits", digit).permutation(np.flatnonzero(labels == digit)).tolist()
        held_out = round(TEST_SHARE * len(order))
        chosen.append(tuple(order[:held_out] if part == "test" else order[held_out:]))
    return tuple(chosen)


@cache
def scans(size: int) -> np.ndarray:
    """All digits as they are, enlarged smoothly to ``size`` pixels a side: uint8 ``[1797, size, size]``, ink is 255."""
    images, _ = _digits()
    weights = _interpolation(size, images.shape[1])
    smooth = np.einsum("yi,nij,xj->nyx", weights, images, weights)
    return np.rint(255 * np.clip(smooth, 0.0, 1.0)).astype(np.uint8)


@cache
def glyphs(size: int) -> Glyphs:
    """All digits enlarged to ``size`` pixels a side."""
    images, _ = _digits()
    weights = _interpolation(size, images.shape[1])
    smooth = np.einsum("yi,nij,xj->nyx", weights, images, weights)
    ink = np.clip((smooth - 0.35) / 0.4, 0.0, 1.0)
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    shifts = [padded[:, y : y + size, x : x + size] for y in range(3) for x in range(3)]
    shade = np.maximum.reduce(shifts)
    return Glyphs(np.rint(255 * ink).astype(np.uint8), np.rint(255 * shade).astype(np.uint8), _boxes(ink > 0.5))


def _interpolation(size: int, source: int) -> np.ndarray:
    """``[size, source]`` weights of cubic (Catmull-Rom) interpolation; what lies outside the source is 0."""
    position = (np.arange(size) + 0.5) * source / size - 0.5
    d = np.abs(position[:, None] - np.arange(source))
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _boxes(inside: np.ndarray) -> list[tuple[int, int, int, int]]:
    rows: np.ndarray = np.any(inside, axis=2)
    columns: np.ndarray = np.any(inside, axis=1)
    size = inside.shape[1]
    x1, x2 = columns.argmax(1), size - columns[:, ::-1].argmax(1)
    y1, y2 = rows.argmax(1), size - rows[:, ::-1].argmax(1)
    return list(zip(x1.tolist(), y1.tolist(), x2.tolist(), y2.tolist(), strict=True))
