"""Tiny image generators for CPUs: a UNet of 0.4 million parameters over captions of a few words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.denoiser import Conditions, Denoiser
from saccade.policies.denoise.noise import Diffusion, Flow, Process
from saccade.policies.denoise.policy import DenoisePolicy, DenoiseSpec
from saccade.policies.denoise.steps import DDIM, EveryStep, FlowSDE, Sampler, StepChoice
from saccade.policies.folder import read_policy, write_policy

_BASE = """
    a an the of and with on in to at no
    zero one two three four five six seven eight nine ten
    red green blue yellow black white grey orange purple pink brown cyan
    circle square triangle star cross ring bar circles squares triangles
    left right above below under over inside beside between next
    small big large digit number picture image top bottom dark light
    shirt trouser trousers pullover dress coat sandal sneaker bag boot ankle t-shirt
"""

WORDS = tuple(_BASE.split())
"""Words every tiny generator knows; a spec's ``words`` come on top."""

_PAD, _UNKNOWN = 0, 1
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


@dataclass(frozen=True)
class UNet:
    """Size of the network: residual blocks with FiLM, attention to the picture and the caption below full resolution.

    The defaults have 0.4 million parameters; a batch of 64 pictures of 16 by 16 takes about 0.05 s forward on one core.
    """

    side: int = 16
    """Height and width of the pictures in pixels; a multiple of 4."""
    channels: tuple[int, int, int] = (24, 48, 48)
    """At full, half and quarter resolution; multiples of 8."""
    embedding: int = 96
    """Width of the embedding of time and caption."""
    slots: int = 6
    """Most words of a caption."""
    words: tuple[str, ...] = ()
    """Words beyond ``tiny.WORDS``."""

    def __post_init__(self) -> None:
        if self.side < 4 or self.side % 4:
            raise ConfigError(f"net.side must be a multiple of 4, got {self.side}")
        if any(c < 8 or c % 8 for c in self.channels):
            raise ConfigError(f"net.channels must be multiples of 8, got {self.channels}")
        if self.embedding < 8 or self.embedding % 4:
            raise ConfigError(f"net.embedding must be a multiple of 4 and >= 8, got {self.embedding}")
        if self.slots < 1:
            raise ConfigError(f"net.slots must be >= 1, got {self.slots}")
        wrong = [word for word in self.words if not _WORD.fullmatch(word)]
        if wrong:
            raise ConfigError(f"net.words must be single words of letters or digits, got {wrong[0]!r}")


@dataclass(frozen=True)
class TinyGenerator(DenoiseSpec):
    """What the two tiny families have in common."""

    net: UNet = UNet()

    @property
    def corruption(self) -> Process:
        """The process that the network is trained on."""
        raise NotImplementedError

    def build(self, device: torch.device, seed: int = 0) -> TinyDenoisePolicy:
        """The policy with weights drawn from ``seed``, in float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyDenoisePolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> TinyDenoisePolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete generator of this class.
        """
        return read_policy(cls, folder, device)


@dataclass(frozen=True)
class TinyFlow(TinyGenerator):
    """A rectified flow in pixel space, sampled by an SDE with the same marginals."""

    sampler: Sampler = FlowSDE(8)
    choice: StepChoice = EveryStep(1)
    process: Flow = Flow()

    @property
    def corruption(self) -> Flow:
        return self.process


@dataclass(frozen=True)
class TinyDiffusion(TinyGenerator):
    """A variance-preserving diffusion in pixel space, sampled by DDIM with eta = 1."""

    sampler: Sampler = DDIM(10)
    choice: StepChoice = EveryStep(1)
    process: Diffusion = Diffusion(prediction="v")

    @property
    def corruption(self) -> Diffusion:
        return self.process


class TinyDenoisePolicy(DenoisePolicy):
    """A tiny generator; everything but the network is that of all denoising policies."""

    spec: TinyGenerator

    def __init__(self, spec: TinyGenerator) -> None:
        super().__init__(spec, TinyDenoiser(spec.net, spec.corruption))

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; the spec's ``load`` reads them."""
        write_policy(self, folder)


class TinyDenoiser(Denoiser):
    """Captions are words in slots; latents are pixels in [-1, 1]."""

    def __init__(self, net: UNet, process: Process) -> None:
        super().__init__()
        self.process = process
        self.shape = (3, net.side, net.side)
        self._slots = net.slots
        known = dict.fromkeys([*WORDS, *(word.lower() for word in net.words)])
        self._index = {word: 2 + i for i, word in enumerate(known)}
        width = net.embedding
        self.words = nn.Embedding(2 + len(known), width)
        self.places = nn.Parameter(0.3 * torch.randn(net.slots, width))
        nn.init.normal_(self.words.weight, std=0.5)
        self.caption = nn.Sequential(nn.Linear(net.slots * width // 4, width), nn.SiLU(), nn.Linear(width, width))
        self.squeeze = nn.Linear(width, width // 4)
        self.clock = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.trunk = _Trunk(net)

    def condition(self, prompts: Sequence[Prompt]) -> Conditions:
        return self._told(torch.tensor([self._ids(prompt) for prompt in prompts], dtype=torch.int64))

    def blank(self) -> Conditions:
        return self._told(torch.full((1, self._slots), _PAD))

    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        dtype = self.places.dtype
        fraction = (t / self.process.span).to(dtype)
        embedding = conditions["caption"] + self.clock(_waves(fraction, self.places.shape[1]))
        return self.trunk(x.to(dtype), F.silu(embedding), conditions["words"])

    def decode(self, latent: Float[Tensor, "N *latent"]) -> Float[Tensor, "N 3 H W"]:
        return ((latent + 1) / 2).clamp(0, 1)

    def from_pixels(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "*latent"]:
        height, width = pixels.shape[:2]
        if (height, width) != self.shape[1:]:
            raise DataError(
                f"the generator draws pictures of {self.shape[2]}x{self.shape[1]}, got one of {width}x{height}"
            )
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        return image.to(self.places) / 127.5 - 1

    def _told(self, ids: Int[Tensor, "P S"]) -> Conditions:
        words = self.words(ids.to(self.places.device)) + self.places
        return {"words": words, "caption": self.caption(self.squeeze(words).flatten(1))}

    def _ids(self, prompt: Prompt) -> list[int]:
        wrong = [type(part).__name__ for part in prompt.content if not isinstance(part, Text)]
        if wrong:
            raise DataError(f"task {prompt.task.id!r}: a tiny generator reads captions, got {wrong[0]} in the prompt")
        found = _WORD.findall(" ".join(part.text for part in prompt.content if isinstance(part, Text)).lower())
        if len(found) > self._slots:
            raise DataError(
                f"task {prompt.task.id!r}: the caption has {len(found)} words, policy.net.slots is {self._slots}"
            )
        return [self._index.get(word, _UNKNOWN) for word in found] + [_PAD] * (self._slots - len(found))


def _waves(fraction: Float[Tensor, "R"], width: int) -> Float[Tensor, "R D"]:
    """Sines and cosines of the time, from one period over the whole span to a hundred."""
    speed = torch.exp(torch.linspace(0, math.log(100), width // 2, dtype=fraction.dtype, device=fraction.device))
    angle = 2 * math.pi * fraction[:, None] * speed
    return torch.cat([angle.sin(), angle.cos()], 1)


class _Block(nn.Module):
    """Two convolutions; the embedding scales and shifts in between."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(c, outside, 3, padding=1) for c in (inside, outside))
        self.norms = nn.ModuleList([nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)])
        self.film = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.norms[0](x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.norms[1](hidden) * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(hidden))


class _Attention(nn.Module):
    """Each place of the picture looks at all places and all words."""

    def __init__(self, channels: int, embedding: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.query, self.seen = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 2 * channels, 1)
        self.read = nn.Linear(embedding, 2 * channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        n, c, h, w = x.shape
        normed = self.norm(x)
        places = self.seen(normed).flatten(2).transpose(1, 2)
        key, value = (
            torch.cat([places, self.read(words)], 1).unflatten(2, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        )
        query = self.query(normed).flatten(2).transpose(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(found.transpose(1, 2).reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w))


class _Trunk(nn.Module):
    """Down to a quarter of the resolution and up again; two channels say where a pixel is."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        a, b, c = net.channels
        e = net.embedding
        self.enter = nn.Conv2d(5, a, 3, padding=1)
        self.down = nn.ModuleList([_Block(a, a, e), _Block(a, b, e), _Block(b, c, e)])
        self.middle = _Block(c, c, e)
        self.up = nn.ModuleList([_Block(c + b, b, e), _Block(b + a, a, e)])
        self.look = nn.ModuleList([_Attention(width, e) for width in (b, c, b)])
        self.leave = nn.Sequential(nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, 3, 3, padding=1))
        # A prediction near zero to begin with, but not exactly: every weight has a gradient at once.
        nn.init.normal_(self.leave[2].weight, std=1e-2)  # type: ignore[arg-type]
        axis = torch.linspace(-1, 1, net.side)
        self.register_buffer("where", torch.stack(torch.meshgrid(axis, axis, indexing="ij")), persistent=False)

    def forward(self, x: Tensor, embedding: Tensor, words: Tensor) -> Tensor:
        assert isinstance(self.where, Tensor)
        where = self.where.to(x).expand(len(x), -1, -1, -1)
        full = self.down[0](self.enter(torch.cat([x, where], 1)), embedding)
        half = self.look[0](self.down[1](F.avg_pool2d(full, 2), embedding), words)
        quarter = self.look[1](self.down[2](F.avg_pool2d(half, 2), embedding), words)
        quarter = self.middle(quarter, embedding)
        half = torch.cat([F.interpolate(quarter, scale_factor=2.0), half], 1)
        half = self.look[2](self.up[0](half, embedding), words)
        full = self.up[1](torch.cat([F.interpolate(half, scale_factor=2.0), full], 1), embedding)
        return self.leave(full)
