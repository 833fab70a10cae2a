"""Metrics of pictures against the picture that was wanted: one row a trajectory.

The wanted picture is ``target["image"]`` where the target has one, else that of the gold output. Trajectories without a
picture, and of tasks without one, have no row.
"""

from __future__ import annotations

import importlib.util
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saccade.core.content import Image, images_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric, Models, Row
from saccade.core.trajectory import Group, Prompt, Task
from saccade.rewards.pretrained import PerceptualSimilarity

WINDOW = 11
"""Pixels a side of what SSIM looks at."""


@dataclass(frozen=True)
class PictureMetric(Metric):
    """A distance or likeness of two pictures of one size.

    Raises:
        DataError: a picture has another size than the one that was wanted. Resizing it would change the number.
    """

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        rows: list[Row] = []
        for trajectory in (one for group in groups for one in group):
            shown, wanted = trajectory.image, _wanted(trajectory.task)
            if shown is None or wanted is None:
                continue
            if shown.pixels.shape != wanted.pixels.shape:
                sizes = " against ".join(f"{image.width} x {image.height}" for image in (shown, wanted))
                raise DataError(f"task {trajectory.task.id!r}: {self.name} needs pictures of one size, got {sizes}")
            rows.append(Row(trajectory.task.id, self.measure(shown, wanted)))
        return rows

    @property
    @abstractmethod
    def name(self) -> str:
        """What the number may be called in a report: with what it depends on."""

    @abstractmethod
    def measure(self, shown: Image, wanted: Image) -> float: ...


@dataclass(frozen=True)
class PSNR(PictureMetric):
    """Peak signal-to-noise ratio in decibels:  10 log10(255^2 / MSE) over all pixels and channels; higher is better.

    It is infinite for equal pictures, and one such picture would make the mean infinite: more than ``ceiling`` counts
    as ``ceiling``.
    """

    ceiling: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.ceiling < math.inf:
            raise ConfigError(f"ceiling must be > 0 and finite, got {self.ceiling}")

    @property
    def name(self) -> str:
        return f"PSNR (dB, at most {self.ceiling:g})"

    def measure(self, shown: Image, wanted: Image) -> float:
        error = float(((shown.pixels.astype(np.float64) - wanted.pixels) ** 2).mean())
        return min(10 * math.log10(255**2 / error), self.ceiling) if error > 0 else self.ceiling


@dataclass(frozen=True)
class SSIM(PictureMetric):
    """Structural similarity, in [-1, 1], 1 for equal pictures: the mean over the three channels (Wang et al., 2004).

    Gaussian windows of 11 x 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03 on values of 0 .. 255; windows that reach over
    the edge do not count, as in the paper; torchmetrics counts them with the picture mirrored, which is another number.
    By scikit-image.

    Raises:
        ConfigError: scikit-image is not installed.
        DataError: pictures of fewer than 11 pixels a side.
    """

    @property
    def name(self) -> str:
        return "SSIM (mean of R, G, B)"

    def measure(self, shown: Image, wanted: Image) -> float:
        if min(shown.width, shown.height) < WINDOW:
            raise DataError(f"SSIM needs pictures of {WINDOW} pixels a side, got {shown.width} x {shown.height}")
        return float(
            _structural_similarity()(
                shown.pixels,
                wanted.pixels,
                channel_axis=2,
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )


def _structural_similarity() -> Any:
    if importlib.util.find_spec("skimage") is None:
        raise ConfigError("SSIM needs scikit-image: pip install 'saccade[metrics]'")
    from skimage.metrics import structural_similarity

    return structural_similarity


@dataclass(frozen=True)
class LPIPS(PictureMetric):
    """Learned perceptual distance, 0 for equal pictures: VGG16 with the published heads (arXiv:1801.03924).

    The number of AlexNet, which papers also print, is another one. Pictures below 64 pixels are enlarged to 64. It says
    nothing of a policy that was rewarded by ``PerceptualSimilarity``, which is minus this.

    Raises:
        ConfigError: the weights are not installed.
    """

    @property
    def name(self) -> str:
        return "LPIPS [vgg16]"

    def measure(self, shown: Image, wanted: Image) -> float:
        planes = torch.from_numpy(shown.pixels).permute(2, 0, 1)[None].float() / 255
        prompt = Prompt(Task("", (), target={"image": wanted}), ())
        with torch.no_grad():
            return -PerceptualSimilarity().differentiable(planes, [prompt]).item()


def _wanted(task: Task) -> Image | None:
    target = task.target
    if isinstance(target, Mapping) and isinstance(target.get("image"), Image):
        return target["image"]
    shown = images_of(task.gold[-1]) if task.gold else []
    return shown[-1] if shown else None
