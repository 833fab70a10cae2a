"""Any supported image-text-to-text checkpoint of transformers as a policy. transformers is loaded when one is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from saccade.core.errors import ConfigError
from saccade.core.policy import PolicySpec
from saccade.policies.lora import LoRA

if TYPE_CHECKING:
    from saccade.policies.token.hf_policy import HFVisionLanguagePolicy


@dataclass(frozen=True)
class HFVisionLanguage(PolicySpec):
    """A vision-language model from the Hugging Face hub or a local folder.

    Architectures: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Idefics3 and SmolVLM, LLaVA. The image processor always runs on
    Pillow, so torchvision is not needed; videos are read as their frames, one picture each.
    """

    model: str
    """Hub id or folder."""
    lora: LoRA | None = None
    """Train low-rank adapters instead of all weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and activations; log-probabilities are float32 in any case."""
    system: str = ""
    """System message; the chat template's own if empty."""
    segments: tuple[str, ...] = ()
    """Tags whose content is segment 1, 2, ... of a turn; everything else is segment 0."""
    min_pixels: int | None = None
    """Least area of a picture after scaling; the checkpoint's own if None."""
    max_pixels: int | None = None
    """Largest area of a picture after scaling; the checkpoint's own if None."""
    prefix: Literal["shared", "plain"] = "shared"
    """How losses and rollouts read prompts: each once, or with a copy of its keys and values for every row."""
    attention: str = "sdpa"
    """Attention implementation of transformers, where prompts are not shared and in the image encoder."""
    autocast: bool = False
    """Matrix products in bfloat16 while weights stay float32; log-probabilities are then good to about 0.03."""
    freeze_vision: bool = False
    """Train neither the image encoder nor adapters in it."""
    rows: int = 64
    """Most sequences decoded at once, contexts whole; bounds the memory of key-value caches."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model must be a hub id or a folder, got an empty text")
        for name in ("min_pixels", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ConfigError(f"min_pixels must be <= max_pixels = {self.max_pixels}, got {self.min_pixels}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if self.rows < 1:
            raise ConfigError(f"rows must be >= 1, got {self.rows}")

    def build(self, device: torch.device, seed: int = 0) -> HFVisionLanguagePolicy:
        """Load the checkpoint; ``seed`` draws the initial adapters.

        Raises:
            ConfigError: the extra ``vlm`` is not installed; the checkpoint cannot be found or read, is incomplete, or
                is of an unsupported architecture.
        """
        try:
            from saccade.policies.token.hf_policy import load
        except ModuleNotFoundError as error:
            if error.name not in ("transformers", "peft"):
                raise
            raise ConfigError(f"{error.name} is not installed: pip install 'saccade[vlm]'") from None
        return load(self, device, seed)
