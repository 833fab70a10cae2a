"""How images are corrupted, and what a prediction of the network says about the image and the noise in it.

Both processes have the form  x_t = a_t x0 + s_t e  with e standard normal; they differ in a_t, s_t and in what networks
are trained to predict.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.errors import ConfigError


@dataclass(frozen=True)
class Process(ABC):
    """x_t = a_t x0 + s_t e. Times are those the network is told; they fall while an image is drawn."""

    @property
    @abstractmethod
    def span(self) -> float:
        """The time of pure noise, a scale for networks that embed t / span."""

    @abstractmethod
    def signal(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """a_t, in float64."""

    @abstractmethod
    def level(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """s_t, in float64."""

    @abstractmethod
    def grid(self, steps: int) -> Float[Tensor, "T+1"]:
        """Times of a chain of T steps, in float64: before the first step, ..., after the last."""

    @abstractmethod
    def at(self, fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The times that lie this far from the image (0) to pure noise (1), exclusive."""

    @abstractmethod
    def split(
        self, x: Float[Tensor, "R *latent"], prediction: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R *latent"], Float[Tensor, "R *latent"]]:
        """The image and the noise of which x_t consists, according to the prediction."""

    @abstractmethod
    def target(
        self, clean: Float[Tensor, "R *latent"], noise: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> Float[Tensor, "R *latent"]:
        """What the network should have predicted."""

    def corrupt(
        self, clean: Float[Tensor, "R *latent"], noise: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> Float[Tensor, "R *latent"]:
        """x_t."""
        signal, level = self._weights(clean, t)
        return signal * clean + level * noise

    def _weights(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, to be multiplied with latents."""
        return along(self.signal(t), x), along(self.level(t), x)


def along(values: Float[Tensor, "R"], x: Float[Tensor, "R *latent"]) -> Float[Tensor, "R *ones"]:
    """One number a row, in the dtype and with the rank of ``x``."""
    return values.to(x).reshape(-1, *[1] * (x.ndim - 1))


def upcast(x: Float[Tensor, "R *latent"]) -> Float[Tensor, "R *latent"]:
    """In float32 at least: means and densities of steps are not computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow:  x_t = (1 - t) x0 + t e;  networks predict the velocity  v = e - x0.

    Papers: Flow Straight and Fast (arXiv:2209.03003); the shift is that of Scaling Rectified Flow Transformers
    (arXiv:2403.03206).
    """

    shift: float = 1.0
    """k of  t <- k t / (1 + (k - 1) t): above 1 more of the steps are spent where there is much noise."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ConfigError(f"process.shift must be > 0, got {self.shift}")

    @property
    def span(self) -> float:
        return 1.0

    def signal(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 - t.double()

    def level(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return t.double()

    def grid(self, steps: int) -> Float[Tensor, "T+1"]:
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return self.shift * even / (1 + (self.shift - 1) * even)

    def at(self, fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return fraction

    def split(
        self, x: Float[Tensor, "R *latent"], prediction: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R *latent"], Float[Tensor, "R *latent"]]:
        signal, level = self._weights(x, t)
        return x - level * prediction, x + signal * prediction

    def target(
        self, clean: Float[Tensor, "R *latent"], noise: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> Float[Tensor, "R *latent"]:
        return noise - clean


@dataclass(frozen=True)
class Diffusion(Process):
    """Variance-preserving diffusion:  x_t = sqrt(A_t) x0 + sqrt(1 - A_t) e,  A_t = prod_{i <= t} (1 - beta_i).

    Times are the indices 0 ... length - 1; -1 is the end of a chain. Names are those of diffusers' DDIM scheduler.

    Papers: Denoising Diffusion Probabilistic Models (arXiv:2006.11239), Progressive Distillation (arXiv:2202.00512) for
    the velocity  v = sqrt(A_t) e - sqrt(1 - A_t) x0.
    """

    length: int = 1000
    """Number of noise levels."""
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """beta_i grow linearly, their roots do, or A_t is the squared cosine of Improved DDPM (arXiv:2102.09672)."""
    first: float = 1e-4
    """beta_0 of the linear schedules."""
    last: float = 0.02
    """Largest beta of the linear schedules."""
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    """What the network predicts: e, v or x0."""
    spacing: Literal["leading", "trailing"] = "trailing"
    """Whether the times of a chain begin after the first gap or at the last level."""
    offset: int = 0
    """Added to leading times."""
    to_one: bool = True
    """Whether chains end at A = 1; otherwise at A_0."""
    clip: float | None = None
    """Largest absolute value of a predicted image; None leaves it as it is."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ConfigError(f"process.length must be >= 2, got {self.length}")
        if not 0 < self.first <= self.last < 1:
            raise ConfigError(f"process needs 0 < first <= last < 1, got {self.first} and {self.last}")
        if not 0 <= self.offset < self.length:
            raise ConfigError(f"process.offset must be in [0, length), got {self.offset}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"process.clip must be > 0 or none, got {self.clip}")

    @property
    def span(self) -> float:
        return float(self.length)

    def kept(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A_t, in float64."""
        # The table ends with the value that the index -1 stands for.
        return _kept(self).to(t.device)[t.long()]

    def signal(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.kept(t).sqrt()

    def level(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (1 - self.kept(t)).sqrt()

    def grid(self, steps: int) -> Float[Tensor, "T+1"]:
        if steps > self.length:
            raise ConfigError(f"sampler.steps must be <= process.length = {self.length}, got {steps}")
        if self.spacing == "leading":
            times = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (self.length // steps) + self.offset
            if times[0] >= self.length:
                raise ConfigError(f"process.offset {self.offset} moves the first of {steps} steps beyond the levels")
        else:
            gap = self.length / steps
            times = (self.length - gap * torch.arange(steps, dtype=torch.float64)).round() - 1
        return torch.cat([times, -torch.ones(1, dtype=torch.float64)])

    def at(self, fraction: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (fraction * self.length).floor().clamp(0, self.length - 1)

    def split(
        self, x: Float[Tensor, "R *latent"], prediction: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R *latent"], Float[Tensor, "R *latent"]]:
        signal, level = self._weights(x, t)
        if self.prediction == "epsilon":
            clean, noise = (x - level * prediction) / signal, prediction
        elif self.prediction == "v":
            clean, noise = signal * x - level * prediction, signal * prediction + level * x
        else:
            clean, noise = prediction, (x - signal * prediction) / level
        return (clean if self.clip is None else clean.clamp(-self.clip, self.clip)), noise

    def target(
        self, clean: Float[Tensor, "R *latent"], noise: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]
    ) -> Float[Tensor, "R *latent"]:
        signal, level = self._weights(clean, t)
        return {"epsilon": noise, "v": signal * noise - level * clean, "sample": clean}[self.prediction]


@cache
def _kept(process: Diffusion) -> Float[Tensor, "length+1"]:
    """A_t for every level, then its value at the end of a chain."""
    n = process.length
    if process.schedule == "linear":
        beta = torch.linspace(process.first, process.last, n, dtype=torch.float64)
    elif process.schedule == "scaled_linear":
        beta = torch.linspace(process.first**0.5, process.last**0.5, n, dtype=torch.float64) ** 2
    else:
        left = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    kept = (1 - beta).cumprod(0)
    return torch.cat([kept, kept.new_ones(1) if process.to_one else kept[:1]])
