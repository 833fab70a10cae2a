"""Rewards computed from the pixels of a picture alone: file size, colour, brightness."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Float
from PIL import Image as Picture
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.core.reward import DifferentiableReward, SampleReward, Score
from saccade.core.trajectory import Prompt, Trajectory
from saccade.rewards.classifier import ClassifierConfidence, ClassReading

__all__ = [
    "Aesthetic", "Brightness", "ClassReading", "ClassifierConfidence", "Colourfulness", "Compressibility",
    "Incompressibility", "PixelReward",
]  # fmt: skip

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""
VERY_COLOURFUL = 109.0
"""Where Hasler and Süsstrunk's observers said "extremely colourful"."""


@dataclass(frozen=True, kw_only=True)
class PixelReward(SampleReward):
    """A number about the last picture of the output. Without a picture the trajectory is unscored."""

    @abstractmethod
    def measure(self, pixels: np.ndarray) -> float:
        """The number for these pixels, uint8 ``[H, W, 3]``."""

    def score(self, trajectory: Trajectory) -> Score:
        image = trajectory.image
        if image is None:
            return Score(None, note="no image")
        return Score(float(self.measure(image.pixels)))


@dataclass(frozen=True, kw_only=True)
class Incompressibility(PixelReward):
    """Size of the picture as a JPEG file, in kilobytes of 1,000 bytes (DDPO, arXiv:2305.13301).

    The header of a JPEG file is as large as a tiny picture. Small pictures are therefore enlarged first, each pixel to
    a block of ``enlarge`` x ``enlarge``, so that the content decides.
    """

    quality: int = 95
    """JPEG's, 1 to 95."""
    below: int = 64
    """Pictures whose shorter side has fewer pixels are enlarged."""
    enlarge: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ConfigError(f"quality must be in [1, 95], got {self.quality}")
        if self.below < 0 or self.enlarge < 1:
            raise ConfigError(f"below must be >= 0 and enlarge >= 1, got {self.below} and {self.enlarge}")

    def measure(self, pixels: np.ndarray) -> float:
        if min(pixels.shape[:2]) < self.below:
            pixels = pixels.repeat(self.enlarge, 0).repeat(self.enlarge, 1)
        file = BytesIO()
        Picture.fromarray(pixels).save(file, format="JPEG", quality=self.quality)
        return file.tell() / 1000


@dataclass(frozen=True, kw_only=True)
class Compressibility(Incompressibility):
    """Minus the size of the picture as a JPEG file, in kilobytes of 1,000 bytes (DDPO, arXiv:2305.13301)."""

    def measure(self, pixels: np.ndarray) -> float:
        return -super().measure(pixels)


@dataclass(frozen=True, kw_only=True)
class Colourfulness(PixelReward):
    """Hasler and Süsstrunk's colourfulness (2003): 0 is grey, 109 "extremely colourful".

    ``sqrt(std(rg)^2 + std(yb)^2) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)`` with ``rg = R - G``, ``yb = (R + G) / 2 - B``,
    channels in 0 .. 255.
    """

    def measure(self, pixels: np.ndarray) -> float:
        red, green, blue = np.moveaxis(pixels.astype(np.float64), 2, 0)
        rg, yb = red - green, (red + green) / 2 - blue
        return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


@dataclass(frozen=True, kw_only=True)
class Brightness(DifferentiableReward, PixelReward):
    """Mean luma, 0 is black, 1 white."""

    def measure(self, pixels: np.ndarray) -> float:
        return float(pixels.reshape(-1, 3).mean(0) @ np.array(LUMA)) / 255

    def differentiable(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[Prompt]) -> Float[Tensor, "N"]:
        return images.mean((2, 3)) @ images.new_tensor(LUMA)


@dataclass(frozen=True, kw_only=True)
class Aesthetic(PixelReward):
    """A hand-made stand-in for a model of taste, in [0, 1]: colourful, rich in contrast, neither dark nor glaring.

    ``(min(1, M / 109) + min(1, 4 std(luma)) + 1 - 2 |mean(luma) - 1/2|) / 3`` with Hasler and Süsstrunk's
    colourfulness M and luma in [0, 1]. No person's judgement went into it: it serves to study optimisation.
    """

    def measure(self, pixels: np.ndarray) -> float:
        luma = pixels.astype(np.float64) @ np.array(LUMA) / 255
        colour = min(1.0, Colourfulness().measure(pixels) / VERY_COLOURFUL)
        return (colour + min(1.0, 4 * luma.std()) + 1 - 2 * abs(luma.mean() - 0.5)) / 3
