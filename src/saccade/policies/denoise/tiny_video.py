"""A tiny generator of clips for CPUs: a flow in pixel space whose network attends across space and time.

Everything but the network and what it is told is that of all denoising policies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Array, Text, Video, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.denoiser import Conditions, Denoiser
from saccade.policies.denoise.noise import Flow
from saccade.policies.denoise.policy import DenoisePolicy, DenoiseSpec
from saccade.policies.denoise.steps import DanceSDE, EveryStep, Sampler, StepChoice
from saccade.policies.folder import read_policy, write_policy

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class ClipNet:
    """Size of the network and of its clips; the defaults have 0.16 million parameters."""

    frames: int = 6
    side: int = 12
    """Height and width in pixels; a multiple of ``patch``."""
    patch: int = 4
    """Pixels a side of what is one token."""
    width: int = 64
    layers: int = 3
    heads: int = 4
    words: tuple[str, ...] = ()
    """Words that prompts may hold; other words are not read."""
    numbers: int = 4
    """Numbers in the Arrays of a prompt, all together; of order 1."""
    fps: float = 4.0
    """Of the clips, for those who look at them."""

    def __post_init__(self) -> None:
        for name in ("frames", "side", "patch", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"net.{name} must be >= 1, got {getattr(self, name)}")
        if self.side % self.patch:
            raise ConfigError(f"net.side must be a multiple of net.patch = {self.patch}, got {self.side}")
        if self.width < 8 or self.width % 4 or self.width % self.heads:
            raise ConfigError(f"net.width must be a multiple of 4 and of net.heads and >= 8, got {self.width}")
        if self.numbers < 0 or not self.fps > 0:
            raise ConfigError(f"net needs numbers >= 0 and fps > 0, got {self.numbers} and {self.fps}")
        wrong = [word for word in self.words if not _WORD.fullmatch(word)]
        if wrong:
            raise ConfigError(f"net.words must be small letters and digits, got {wrong[0]!r}")


@dataclass(frozen=True)
class TinyVideoFlow(DenoiseSpec):
    """A rectified flow over grey clips; latents are ``[1, F, H, W]``, outputs ``Video``."""

    net: ClipNet = ClipNet()
    sampler: Sampler = DanceSDE(8, 0.5)
    choice: StepChoice = EveryStep(1)
    process: Flow = Flow(shift=3.0)

    def build(self, device: torch.device, seed: int = 0) -> TinyVideoPolicy:
        """The policy with weights drawn from ``seed``, in float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyVideoPolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> TinyVideoPolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete generator of clips.
        """
        return read_policy(cls, folder, device)


class TinyVideoPolicy(DenoisePolicy):
    """The denoising policy of ``TinyVideoFlow``."""

    spec: TinyVideoFlow

    def __init__(self, spec: TinyVideoFlow) -> None:
        super().__init__(spec, ClipDenoiser(spec.net, spec.process))

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; the spec's ``load`` reads them."""
        write_policy(self, folder)


class ClipDenoiser(Denoiser):
    """A transformer over patches of all frames. Time, words and numbers of the prompt are added to every token."""

    draws = Video

    def __init__(self, net: ClipNet, process: Flow) -> None:
        super().__init__()
        self.process = process
        self.shape = (1, net.frames, net.side, net.side)
        self._net = net
        self._index = {word: 1 + i for i, word in enumerate(dict.fromkeys(net.words))}
        width, places = net.width, (net.side // net.patch) ** 2
        # Place 0 says that something is told at all: the blank prompt is not the prompt of zeros.
        self.told = nn.Linear(1 + len(self._index) + net.numbers, width)
        self.caption = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.clock = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.frame = nn.Parameter(0.1 * torch.randn(net.frames, 1, width))
        self.place = nn.Parameter(0.1 * torch.randn(places, width))
        self.enter = nn.Linear(net.patch**2, width)
        self.blocks = nn.ModuleList(_Block(width, net.heads) for _ in range(net.layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, net.patch**2)
        # A prediction near zero to begin with, but not exactly: every weight has a gradient at once.
        nn.init.normal_(self.leave.weight, std=1e-2)

    def condition(self, prompts: Sequence[Prompt]) -> Conditions:
        return self._encoded(torch.stack([self._read(prompt) for prompt in prompts]))

    def blank(self) -> Conditions:
        return self._encoded(torch.zeros(1, self.told.in_features))

    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        net, dtype = self._net, self.frame.dtype
        rows, cells = len(x), net.side // net.patch
        tokens = x.to(dtype).reshape(rows, net.frames, cells, net.patch, cells, net.patch).transpose(3, 4)
        hidden = self.enter(tokens.reshape(rows, net.frames, cells**2, net.patch**2)) + self.frame + self.place
        told = conditions["caption"] + self.clock(_waves((t / self.process.span).to(dtype), net.width))
        hidden = hidden.flatten(1, 2) + told[:, None]
        for block in self.blocks:
            hidden = block(hidden)
        out = self.leave(self.norm(hidden)).reshape(rows, net.frames, cells, cells, net.patch, net.patch)
        return out.transpose(3, 4).reshape(rows, *self.shape)

    def decode(self, latent: Float[Tensor, "N *latent"]) -> Float[Tensor, "N 3 F H W"]:
        return ((latent + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1, -1)

    def from_pixels(self, pixels: UInt8[np.ndarray, "F H W 3"]) -> Float[Tensor, "*latent"]:
        if pixels.shape[:3] != self.shape[1:]:
            (_, frames, height, width), got = self.shape, "x".join(str(n) for n in pixels.shape[:3])
            raise DataError(f"the generator draws clips of {frames}x{height}x{width}, got one of {got}")
        return torch.from_numpy(pixels.mean(3)).to(self.frame)[None] / 127.5 - 1

    def content(self, pixels: UInt8[np.ndarray, "F H W 3"]) -> Video:
        return Video(pixels.copy(), self._net.fps)

    def _read(self, prompt: Prompt) -> Float[Tensor, "K"]:
        """A one, how often each word occurs, and the numbers."""
        wrong = [type(part).__name__ for part in prompt.content if not isinstance(part, Text | Array)]
        if wrong:
            raise DataError(f"task {prompt.task.id!r}: clips are told by Text and Array, got {wrong[0]} in the prompt")
        counts = [1.0] + [0.0] * len(self._index)
        for word in _WORD.findall(text_of(prompt.content).lower()):
            if word in self._index:
                counts[self._index[word]] += 1
        arrays = [part.values for part in prompt.content if isinstance(part, Array)]
        numbers = [float(x) for values in arrays for x in np.ravel(values)]
        if len(numbers) != self._net.numbers or not all(map(math.isfinite, numbers)):
            found = f"{len(numbers)} numbers: {numbers[:8]}"
            wanted = f"policy.net.numbers = {self._net.numbers} finite numbers"
            raise DataError(f"task {prompt.task.id!r}: the Arrays of a prompt must hold {wanted}, got {found}")
        return torch.tensor(counts + numbers)

    def _encoded(self, told: Float[Tensor, "P K"]) -> Conditions:
        return {"caption": self.caption(self.told(told.to(self.frame)))}


def _waves(fraction: Float[Tensor, "R"], width: int) -> Float[Tensor, "R D"]:
    """Sines and cosines of the time, from one period over the whole span to a hundred."""
    speed = torch.exp(torch.linspace(0, math.log(100), width // 2, dtype=fraction.dtype, device=fraction.device))
    angle = 2 * math.pi * fraction[:, None] * speed
    return torch.cat([angle.sin(), angle.cos()], 1)


class _Block(nn.Module):
    """Attention among all patches of all frames, then an MLP, each after a norm and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.look = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "R L D"]) -> Float[Tensor, "R L D"]:
        query, key, value = self.look(self.norms[0](x)).unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        found = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))
