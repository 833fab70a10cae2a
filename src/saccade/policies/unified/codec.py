"""Pictures as codes: the nearest of K typical patches for each patch of the picture.

K-means with k-means++ starts (Arthur and Vassilvitskii, 2007), fitted once to the pictures of a task set. What a patch
loses no policy can draw: test what survives a round trip before training on codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Image, images_of
from saccade.core.environment import Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator

ROUNDS = 100
"""Most rounds of Lloyd's algorithm; it stops when no patch moves."""


@dataclass(frozen=True)
class PatchCodec:
    """Codes for pictures of ``side`` by ``side`` pixels, row by row; other pictures are resized.

    Centres c_k minimise ``sum_i min_k ||x_i - c_k||^2`` over the patches x_i of all pictures in the tasks, as far as
    Lloyd's algorithm gets. With fewer different patches than codes nothing is lost and some codes are never used.
    """

    tasks: Tasks
    """Pictures in prompts and gold outputs are what the codes are fitted to; the training part."""
    codes: int = 64
    patch: int = 4
    """Pixels along the side of what one code stands for."""
    side: int = 16
    limit: int = 1024
    """Most tasks looked at."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("codes", "patch", "side", "limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"codec.{name} must be >= 1, got {getattr(self, name)}")
        if self.side % self.patch:
            raise ConfigError(f"codec.side must be a multiple of patch {self.patch}, got {self.side}")

    @property
    def length(self) -> int:
        """Codes of one picture."""
        return (self.side // self.patch) ** 2

    def build(self) -> Codebook:
        """The codebook, fitted; equal codecs give equal codebooks.

        Raises:
            DataError: there is no picture in the tasks.
        """
        return Codebook(self, _centres(self))


class Codebook(nn.Module):
    """The centres of a codec; they are saved with the policy, not trained."""

    centres: Tensor

    def __init__(self, codec: PatchCodec, centres: Float[Tensor, "K D"]) -> None:
        super().__init__()
        self.codec = codec
        self.register_buffer("centres", centres.clone())

    def encode(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Int[Tensor, "S"]:
        """Codes of a picture, in [0, K); on the CPU."""
        patches = _patches(_resized(pixels, self.codec.side), self.codec.patch)
        centres = self.centres.cpu().double()
        # ||x - c||^2 without ||x||^2, which does not change the nearest.
        return ((centres * centres).sum(1) - 2 * patches @ centres.T).argmin(1)

    def decode(self, codes: Int[Tensor, "S"]) -> UInt8[np.ndarray, "side side 3"]:
        """The picture of these codes."""
        side, patch = self.codec.side, self.codec.patch
        grid = self.centres.cpu()[codes].view(side // patch, side // patch, patch, patch, 3)
        return grid.permute(0, 2, 1, 3, 4).reshape(side, side, 3).round().clamp(0, 255).to(torch.uint8).numpy()


def _resized(pixels: np.ndarray, side: int) -> UInt8[Tensor, "side side 3"]:
    image = torch.from_numpy(np.array(pixels))
    if image.shape[:2] == (side, side):
        return image
    scaled = F.interpolate(image.permute(2, 0, 1)[None], (side, side), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0)


def _patches(image: UInt8[Tensor, "side side 3"], patch: int) -> Float[Tensor, "S D"]:
    count = image.shape[0] // patch
    grid = image.view(count, patch, count, patch, 3).permute(0, 2, 1, 3, 4)
    return grid.reshape(count * count, -1).double()


@lru_cache(maxsize=8)
def _centres(codec: PatchCodec) -> Float[Tensor, "K D"]:
    pictures = [image for i in range(min(codec.limit, len(codec.tasks))) for image in _pictures(codec, i)]
    if not pictures:
        raise DataError(f"codec.tasks: there is no picture in {type(codec.tasks).__name__}")
    patches = torch.cat([_patches(_resized(image.pixels, codec.side), codec.patch) for image in pictures])
    points, count = patches.unique(dim=0, return_counts=True)
    centres = _start(points, count.double(), codec)
    nearest = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, torch.cdist(points, centres).argmin(1)
        if torch.equal(before, nearest):
            break
        mass = torch.zeros(codec.codes, dtype=torch.float64).index_add(0, nearest, count.double())
        total = torch.zeros_like(centres).index_add(0, nearest, points * count[:, None])
        centres = torch.where(mass[:, None] > 0, total / mass.clamp(min=1)[:, None], centres)
    return centres.float()


def _pictures(codec: PatchCodec, index: int) -> Iterable[Image]:
    task = codec.tasks[index]
    return [image for content in (task.prompt, *task.gold) for image in images_of(content)]


def _start(points: Float[Tensor, "U D"], count: Float[Tensor, "U"], codec: PatchCodec) -> Float[Tensor, "K D"]:
    """k-means++: each centre is a point drawn in proportion to its squared distance from those before it."""
    random = numpy_generator(codec.seed, "codec")
    chosen = [int(random.choice(len(points), p=(count / count.sum()).numpy()))]
    distance = torch.full((len(points),), torch.inf, dtype=torch.float64)
    while len(chosen) < codec.codes:
        distance = torch.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
        mass = distance * count
        if not bool(mass.sum() > 0):
            # Every point is a centre: what is left over repeats the first, which stays the nearest of the two.
            break
        chosen.append(int(random.choice(len(points), p=(mass / mass.sum()).numpy())))
    return points[chosen + chosen[:1] * (codec.codes - len(chosen))]
