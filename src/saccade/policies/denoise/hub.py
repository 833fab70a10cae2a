"""Text-to-image pipelines of diffusers as policies. diffusers is loaded when one is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.policies.denoise.noise import Flow, Process
from saccade.policies.denoise.policy import DenoiseSpec
from saccade.policies.denoise.steps import DDIM, FlowSDE, Numbers, Sampler
from saccade.policies.lora import LoRA

if TYPE_CHECKING:
    from saccade.policies.denoise.hub_policy import DiffusersPolicy


@dataclass(frozen=True)
class Ancestral(Sampler):
    """``FlowSDE`` where the checkpoint is a flow and ``DDIM`` with eta = 1 where it is a diffusion."""

    steps: int = 10

    def random_step(self, process: Process, time: Float[Tensor, "T+1"]) -> Numbers:
        sampler = FlowSDE(self.steps) if isinstance(process, Flow) else DDIM(self.steps)
        return sampler.random_step(process, time)


@dataclass(frozen=True, kw_only=True)
class Diffusers(DenoiseSpec):
    """A text-to-image pipeline from the Hugging Face hub or a local folder.

    Pipelines: Stable Diffusion 1.x and 2.x, Stable Diffusion XL, Stable Diffusion 3.x and FLUX.1. Only the denoising
    network is trained; text encoders and autoencoder are frozen, and copies of the policy share them. Times, noise
    levels and what the network predicts are those of the checkpoint's scheduler, whose own solver is not used:
    ``sampler`` says how steps are taken. Safety checkers and image prompts are left out.
    """

    sampler: Sampler = Ancestral()
    model: str
    """Hub id or folder. Adapters that ``save_pretrained`` has put beside a local pipeline are added to its weights."""
    lora: LoRA | None = None
    """Train low-rank adapters of the denoising network instead of all its weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; adapters, latents and log-probabilities are float32 in any case."""
    height: int | None = None
    """Of the pictures, in pixels; the checkpoint's own if None."""
    width: int | None = None
    """Of the pictures, in pixels; the checkpoint's own if None."""
    spacing: Literal["checkpoint", "leading", "trailing"] = "checkpoint"
    """How a diffusion's times are spaced; see ``Diffusion.spacing``. Flows take the checkpoint's."""
    embedded_guidance: float = 3.5
    """What a network that was distilled with guidance (FLUX.1-dev) is told; it costs no second evaluation."""
    text_length: int | None = None
    """Tokens of a T5 encoder's text (Stable Diffusion 3, FLUX); the pipeline's own, 256 or 512, if None."""
    checkpointing: bool = False
    """Compute the network's activations again in the backward pass instead of keeping them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ConfigError("model must be a hub id or a folder, got an empty text")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if self.spacing not in ("checkpoint", "leading", "trailing"):
            raise ConfigError(f"spacing must be checkpoint, leading or trailing, got {self.spacing!r}")
        for name in ("height", "width", "text_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        if not self.embedded_guidance >= 0:
            raise ConfigError(f"embedded_guidance must be >= 0, got {self.embedded_guidance}")

    def build(self, device: torch.device, seed: int = 0) -> DiffusersPolicy:
        """Load the pipeline; ``seed`` draws the initial adapters.

        Raises:
            ConfigError: the extra ``generation`` is not installed; the pipeline cannot be found or read, lacks a
                component, or is of an unsupported class; sampler, scheduler and size do not fit together.
        """
        try:
            from saccade.policies.denoise.hub_policy import load
        except ModuleNotFoundError as error:
            if error.name not in ("diffusers", "transformers", "peft"):
                raise
            raise ConfigError(f"{error.name} is not installed: pip install 'saccade[generation]'") from None
        return load(self, device, seed)
