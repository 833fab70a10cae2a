"""What prompts, observations and outputs are made of: text, images, videos, meshes, arrays.

Pixels that cross a module boundary are uint8; float images live inside policies and differentiable rewards only.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


def _check(kind: str, field: str, values: np.ndarray, dtype: type, shape: str, ok: bool) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != dtype or not ok:
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{kind}.{field} must be {np.dtype(dtype).name} {shape}, got {found}")


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True, eq=False)
class Image:
    pixels: np.ndarray
    """uint8 RGB ``[H, W, 3]``, origin top left."""

    def __post_init__(self) -> None:
        shape = np.shape(self.pixels)
        ok = len(shape) == 3 and shape[2] == 3 and min(shape) > 0
        _check("Image", "pixels", self.pixels, np.uint8, "[H, W, 3]", ok)

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]


@dataclass(frozen=True, eq=False)
class Video:
    frames: np.ndarray
    """uint8 RGB ``[F, H, W, 3]``."""
    fps: float = 1.0

    def __post_init__(self) -> None:
        shape = np.shape(self.frames)
        ok = len(shape) == 4 and shape[3] == 3 and min(shape) > 0
        _check("Video", "frames", self.frames, np.uint8, "[F, H, W, 3]", ok)
        if not self.fps > 0:
            raise ValueError(f"Video.fps must be > 0, got {self.fps}")


@dataclass(frozen=True, eq=False)
class Mesh:
    vertices: np.ndarray
    """float32 ``[V, 3]``."""
    faces: np.ndarray
    """int64 ``[F, 3]``, indices into vertices, counter-clockwise seen from outside."""

    def __post_init__(self) -> None:
        for field, values, dtype in (("vertices", self.vertices, np.float32), ("faces", self.faces, np.int64)):
            shape = np.shape(values)
            _check("Mesh", field, values, dtype, "[*, 3]", len(shape) == 2 and shape[1] == 3)


@dataclass(frozen=True, eq=False)
class Array:
    """A named array: proprioception, a chunk of motor commands, a latent."""

    name: str
    values: np.ndarray


Part = Text | Image | Video | Mesh | Array
Content = tuple[Part, ...]


def text_of(content: Iterable[Part]) -> str:
    """All text parts, concatenated."""
    return "".join(part.text for part in content if isinstance(part, Text))


def images_of(content: Iterable[Part]) -> list[Image]:
    """All still images, in order (video frames are not included)."""
    return [part for part in content if isinstance(part, Image)]


def frames_of(content: Iterable[Part]) -> list[np.ndarray]:
    """All pictures in order, video frames included: uint8 arrays ``[H, W, 3]``."""
    frames: list[np.ndarray] = []
    for part in content:
        if isinstance(part, Image):
            frames.append(part.pixels)
        elif isinstance(part, Video):
            frames.extend(part.frames)
    return frames
