"""The problem all sides get: random denoisers of diffusers, captions, rewards, the steps of the sampler."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from saccade.core.content import Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import DataError
from saccade.core.random import fold_in, torch_generator
from saccade.core.reward import SampleReward
from saccade.core.trajectory import Prompt, Task, Trajectory
from saccade.policies.denoise.denoiser import Conditions, Denoiser
from saccade.policies.denoise.noise import Flow

Net = Literal["sd3", "unet"]
NETS: tuple[Net, ...] = ("sd3", "unet")

NOISE = 0.7
"""Of the stochastic sampler."""
CLIP = 1e-4
LR = 1e-6
MAX_NORM = 1.0
WORDS = 16
"""Tokens of a caption."""
WIDTH = 64
"""Of a caption's embedding."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    net: Net = "sd3"
    groups: int = 2
    group: int = 8
    steps: int = 10
    guidance: float = 4.5
    beta: float = 0.04
    window: int = 4
    start: int = 3
    """First step of the window."""
    rounds: int = 5
    threads: int = 1
    small: bool = False
    """A network of a few thousand weights, for tests."""
    double: bool = False
    """Float64."""

    @property
    def samples(self) -> int:
        return self.groups * self.group


class RandomDenoiser(Denoiser):
    """A random network of diffusers over latents of four channels; captions are numbers with a random embedding."""

    process = Flow()

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        side = 8 if settings.small else 32
        self.shape = (4, side, side)
        self.pooling = settings.net == "sd3"
        self.net = sd3(side, settings.small) if self.pooling else unet(side, settings.small)
        generator = torch_generator(fold_in(0, "captions"))
        self.register_buffer("words", torch.randn(settings.groups, WORDS, WIDTH, generator=generator))
        self.register_buffer("pooled", torch.randn(settings.groups, WIDTH, generator=generator))
        self.rows_without_graph = 0
        self.rows_with_graph = 0

    def condition(self, prompts: Sequence[Prompt]) -> Conditions:
        which = [number(prompt) for prompt in prompts]
        return {"words": self.words[which], "pooled": self.pooled[which]}

    def blank(self) -> Conditions:
        return {"words": torch.zeros_like(self.words[:1]), "pooled": torch.zeros_like(self.pooled[:1])}

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        if torch.is_grad_enabled():
            self.rows_with_graph += len(x)
        else:
            self.rows_without_graph += len(x)
        extra = {"pooled_projections": conditions["pooled"]} if self.pooling else {}
        time, words = t.to(x) * 1000, conditions["words"]
        return self.net(x, timestep=time, encoder_hidden_states=words, return_dict=False, **extra)[0]

    def decode(self, latent: Tensor) -> Tensor:
        return ((latent[:, :3] + 1) / 2).clamp(0, 1)

    def from_pixels(self, pixels: np.ndarray) -> Tensor:
        raise DataError("a random denoiser has no encoder of pictures")


def sd3(side: int, small: bool) -> nn.Module:
    """An SD3-type transformer of 5.1 million parameters."""
    from diffusers import SD3Transformer2DModel

    heads, layers = (2, 2) if small else (6, 4)
    width = 8 if small else 32
    return SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=WIDTH,
        caption_projection_dim=width * heads,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=side,
    )


def unet(side: int, small: bool) -> nn.Module:
    """A conditional UNet of 1.0 million parameters."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16) if small else (32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def denoiser(settings: Settings) -> RandomDenoiser:
    """The network of these settings, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = RandomDenoiser(settings)
    return (made.double() if settings.double else made).eval()


@torch.no_grad()
def moved(network: nn.Module) -> None:
    """Change the weights a little, so that there is a divergence from the reference."""
    generator = torch_generator(fold_in(0, "moved"))
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(0.02 * parameter.std(correction=0) * noise.to(parameter))


@dataclass(frozen=True)
class Numbered(Tasks):
    """Captions that are numbers."""

    count: int = 2

    def __len__(self) -> int:
        return self.count

    def split(self, name: Split) -> Numbered:
        return self

    def task(self, index: int) -> Task:
        return Task(f"caption/{index}", (Text(str(index)),))


def number(prompt: Prompt) -> int:
    (part,) = prompt.content
    assert isinstance(part, Text)
    return int(part.text)


@dataclass(frozen=True, kw_only=True)
class Drawn(SampleReward):
    """A normal number that hangs on the trajectory's seed: nothing is to be learned, and rewards cost nothing."""

    def score(self, trajectory: Trajectory) -> float:
        return random.Random(trajectory.seed).gauss(0, 1)


@dataclass(frozen=True)
class Step:
    """One step of the stochastic sampler:  x' ~ N(keep x + push v, std^2)  or, without noise,  x + dt v."""

    time: float
    dt: float
    keep: float
    push: float
    std: float


def sampler(steps: int) -> list[Step]:
    """Flow-GRPO's equation (arXiv:2505.05470), Euler and Maruyama; at t = 1 the second time stands in 1 - t."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    found = []
    for now, after in itertools.pairwise(times):
        dt = after - now
        variance = NOISE**2 * now / (1 - now if now < 1 else 1 - times[1])
        keep = 1 + variance / (2 * now) * dt
        push = (1 + variance * (1 - now) / (2 * now)) * dt
        found.append(Step(now, dt, keep, push, math.sqrt(-variance * dt)))
    return found
