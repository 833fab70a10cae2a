"""Small networks that rewards train for themselves, and how their weights are kept.

Training is deterministic given the description: seeds come from it, and so does the name of the cached file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.cache import cache_file
from saccade.core.content import Image
from saccade.core.random import fold_in

Network = TypeVar("Network", bound=nn.Module)


def trained(description: Any, seed: int, build: Callable[[], Network], train: Callable[[Network], None]) -> Network:
    """The network of a description, frozen: read from the cache folder, or built, trained and written there.

    Args:
        description: a frozen dataclass; equal descriptions share a file.
        seed: of the initial weights.
        build: a fresh network; whatever depends on the data is held in buffers of fixed shape.
        train: changes the weights; draws from generators it seeds itself.
    """
    file = cache_file("rewards", description)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(fold_in(seed, "weights"))
        network = build()
    if not _load(network, file):
        with torch.enable_grad():
            train(network)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
        partial.replace(file)
    return network.requires_grad_(False).eval()


def _load(network: nn.Module, file: Any) -> bool:
    """Whether the file exists and holds this network; a damaged or older one is made again."""
    if not file.exists():
        return False
    try:
        network.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError):
        return False
    return True


def planes(images: Sequence[Image], side: int) -> Float[Tensor, "N 3 side side"]:
    """Pictures of any size as RGB in [0, 1] of one size."""
    sizes = {image.pixels.shape for image in images}
    if len(sizes) == 1:
        stacked = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
        return fitted(stacked.float() / 255, side)
    return torch.cat([planes([image], side) for image in images])


def fitted(images: Float[Tensor, "N 3 H W"], side: int) -> Float[Tensor, "N 3 side side"]:
    """Pictures at another size, with a gradient: averaged down, or enlarged bilinearly."""
    if images.shape[-2:] == (side, side):
        return images
    if min(images.shape[-2:]) >= side:
        return F.interpolate(images, (side, side), mode="area")
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def coordinates(side: int) -> Float[Tensor, "2 side side"]:
    """Row and column of each pixel, in [-1, 1]: what convolutions cannot know by themselves."""
    line = torch.linspace(-1, 1, side)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))


def chunks(items: Sequence[Any], size: int = 256) -> list[Sequence[Any]]:
    """The items in runs of at most this many."""
    return [items[i : i + size] for i in range(0, len(items), size)]
