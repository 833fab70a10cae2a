"""Unified checkpoints of transformers as policies that read and write text and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from saccade.core.errors import ConfigError
from saccade.policies.token.hf import HFVisionLanguage

if TYPE_CHECKING:
    from saccade.policies.unified.hf_policy import HFUnifiedPolicy


@dataclass(frozen=True)
class HFUnified(HFVisionLanguage):
    """A model with a joint vocabulary of words and image codes, from the Hugging Face hub or a local folder.

    Architecture: Emu3. Pictures in contexts go through the checkpoint's own VQ encoder and are tokens like all others;
    what is drawn goes through its VQ decoder. Neither is trained. A turn is text, or one picture, or text and then one
    picture; a prompt whose text ends with ``<image>`` makes the policy draw at once.
    """

    freeze_vision: bool = True
    """Always: codes have no gradient."""
    side: int = 720
    """Height and width in pixels of the pictures it draws; a multiple of the codec's 8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.freeze_vision:
            raise ConfigError("freeze_vision must be true: the codes of pictures have no gradient")
        if self.side < 1:
            raise ConfigError(f"side must be >= 1, got {self.side}")
        if self.segments:
            raise ConfigError("segments must be empty: text is segment 0, pictures are segment 1")

    def build(self, device: torch.device, seed: int = 0) -> HFUnifiedPolicy:
        """Load the checkpoint; ``seed`` draws the initial adapters.

        Raises:
            ConfigError: as ``HFVisionLanguage.build``; ``side`` is not a multiple of the codec's factor.
        """
        try:
            from saccade.policies.unified.hf_policy import load
        except ModuleNotFoundError as error:
            if error.name not in ("transformers", "peft"):
                raise
            raise ConfigError(f"{error.name} is not installed: pip install 'saccade[vlm]'") from None
        return load(self, device, seed)
