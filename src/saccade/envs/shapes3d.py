"""Solids that words describe: how wide, high and deep, where the weight is, which way they lean.

A solid is star-shaped:  log r(d) = log r_ellipsoid(d) + weight d_y + lean d_y d_z,  on the vertices of an icosphere.
Its front shows width, height and weight; depth and lean are seen from the side only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.content import Content, Image, Mesh, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError
from saccade.core.meshes import VIEWS, edges, filled, icosphere, outlines
from saccade.core.trajectory import Task

SIZES = (0.6, 0.85, 1.15)
BEND = (-0.3, 0.0, 0.3)
ATTRIBUTES: tuple[tuple[str, ...], ...] = (
    ("narrow", "medium", "wide"),
    ("low", "middle", "tall"),
    ("flat", "plain", "deep"),
    ("bottom", "even", "top"),
    ("backward", "upright", "forward"),
)
WORDS = tuple(word for words in ATTRIBUTES for word in words)


@dataclass(frozen=True)
class Solids(Tasks):
    """Captions such as ``wide low deep top upright``; the target is the mesh, gold the mesh and its four views.

    A third of the 243 combinations, each word in it as often as any other of its kind, is the test split.
    """

    part: Split = "train"
    detail: int = 1
    """Divisions of the icosphere."""
    side: int = 32
    """Pixels a side of a view."""

    def __post_init__(self) -> None:
        if self.detail < 0 or self.side < 1:
            raise ConfigError(f"tasks needs detail >= 0 and side >= 1, got {self.detail} and {self.side}")

    def __len__(self) -> int:
        return len(_combinations(self.part))

    def split(self, name: Split) -> Solids:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        levels = _combinations(self.part)[index]
        caption = " ".join(words[level] for words, level in zip(ATTRIBUTES, levels, strict=True))
        mesh, pictures = _solid(levels, self.detail, self.side)
        return Task(f"solid/{caption}", (Text(caption),), mesh, ((mesh, *pictures),))


@lru_cache(maxsize=2)
def _combinations(part: Split) -> list[tuple[int, ...]]:
    """Levels of the attributes; the held-out third is one in which any two attributes still meet in every way."""
    every = list(itertools.product(range(3), repeat=len(ATTRIBUTES)))
    order = np.random.default_rng(0).permutation(len(every))
    return [every[i] for i in order if (sum(every[i]) % 3 == 0) == (part == "test")]


@lru_cache(maxsize=512)
def _solid(levels: tuple[int, ...], detail: int, side: int) -> tuple[Mesh, Content]:
    directions, faces = icosphere(detail)
    vertices = directions * radii(levels, directions)[:, None]
    pictures = filled(outlines(vertices[None], edges(faces), VIEWS), side)[0]
    pixels = (255 * pictures).round().to(torch.uint8).numpy()
    shown = tuple(Image(np.repeat(picture[..., None], 3, 2)) for picture in pixels)
    return Mesh(vertices.numpy().astype(np.float32), faces.numpy()), shown


def radii(levels: tuple[int, ...], directions: Float[Tensor, "V 3"]) -> Float[Tensor, "V"]:
    """Of the solid with these levels (0, 1 or 2) of the attributes, in these directions."""
    axes = directions.new_tensor([SIZES[level] for level in levels[:3]])
    _, y, z = directions.T
    return (BEND[levels[3]] * y + BEND[levels[4]] * y * z).exp() / (directions / axes).norm(dim=1)
