"""What stands between a denoising policy and a network: captions in, predictions and pixels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from saccade.core.content import Image, Video
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.noise import Process, upcast

Conditions = Mapping[str, Tensor]
"""What the network is told of P prompts: tensors that begin with the axis P and are alike beyond it for all prompts."""


class Denoiser(nn.Module, ABC):
    """A network that predicts, from a noisy latent and a caption, what the process calls its target.

    Rows are independent of each other. There is no dropout: what acted is what is trained.
    """

    draws: ClassVar[type[Image] | type[Video]] = Image
    """What finished latents are: pictures, or clips, whose pixels have an axis of frames before height and width."""
    process: Process
    shape: tuple[int, ...]
    """Of one latent, channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_predicted = 0
        """Rows the network has evaluated since it was built; a guided prediction is two."""
        self.prompts_encoded = 0
        """Prompts that have gone through ``condition``."""

    @abstractmethod
    def condition(self, prompts: Sequence[Prompt]) -> Conditions:
        """Captions for the network, in the order of the prompts; with gradient where their encoder is trained.

        Raises:
            DataError: a prompt holds what the network cannot read.
        """

    @abstractmethod
    def blank(self) -> Conditions:
        """One condition that says nothing, for the unconditional half of guidance."""

    @abstractmethod
    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        """The network's prediction ``[R, *latent]`` for each row: its latent, process time and condition."""

    @abstractmethod
    def decode(self, latent: Float[Tensor, "N *latent"]) -> Float[Tensor, "N 3 *frames H W"]:
        """Images or clips in [0, 1], differentiable in the latent."""

    @abstractmethod
    def from_pixels(self, pixels: UInt8[np.ndarray, "*frames H W 3"]) -> Float[Tensor, "*latent"]:
        """The latent of a picture or clip.

        Raises:
            DataError: it has another size than those drawn here.
        """

    @torch.no_grad()
    def to_pixels(self, latent: Float[Tensor, "N *latent"]) -> UInt8[np.ndarray, "N *frames H W 3"]:
        """Pictures or clips of latents."""
        image = self.decode(latent).float().clamp(0, 1).movedim(1, -1)
        return (image * 255).round().to(torch.uint8).cpu().numpy()

    def content(self, pixels: UInt8[np.ndarray, "*frames H W 3"]) -> Image | Video:
        """What a policy puts out for the pixels of one latent."""
        return Image(pixels.copy())

    def pixels_of(self, part: Image | Video) -> UInt8[np.ndarray, "*frames H W 3"]:
        """The pixels of a part of the kind that is drawn here."""
        return part.pixels if isinstance(part, Image) else part.frames


def take(conditions: Conditions, index: Int[Tensor, "R"]) -> Conditions:
    """The conditions of these prompts, one a row."""
    return {name: values[index.to(values.device)] for name, values in conditions.items()}


def with_blank(denoiser: Denoiser, prompts: Sequence[Prompt]) -> Conditions:
    """The conditions of the prompts, then the blank one, whose index is ``len(prompts)``."""
    told, nothing = denoiser.condition(prompts), denoiser.blank()
    denoiser.prompts_encoded += len(prompts)
    return {name: torch.cat([values, nothing[name]]) for name, values in told.items()}


class Predictor:
    """Guided predictions for rows of given prompts.  ``u + w (c - u)``

    c is the prediction under the prompt, u under the blank condition, w the scale; with w = 1 only c is computed.
    Paper: Classifier-Free Diffusion Guidance (arXiv:2207.12598).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[Prompt],
        *,
        scale: float = 1.0,
        gradient: Literal["conditional", "both"] = "conditional",
        rows: int = 64,
    ) -> None:
        """Encodes the prompts.

        Args:
            denoiser: the network.
            prompts: whose indices rows will give.
            scale: w.
            gradient: whether u carries a graph.
            rows: most rows in one forward pass.
        """
        self.denoiser, self.scale, self.gradient, self.rows = denoiser, scale, gradient, rows
        self._conditions = with_blank(denoiser, prompts)
        self._blank = len(prompts)

    @property
    def guided(self) -> bool:
        return self.scale != 1

    def plain(
        self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], prompt: Int[Tensor, "R"]
    ) -> Float[Tensor, "R *latent"]:
        """C for each row; the prompt ``len(prompts)`` is the blank one."""
        parts = []
        index = torch.arange(len(x))
        for part in index.split(self.rows):
            on = part.to(x.device)
            told = take(self._conditions, prompt[part.to(prompt.device)])
            self.denoiser.rows_predicted += len(part)
            parts.append(upcast(self.denoiser.predict(x[on], t[on], told)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blank(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"]) -> Float[Tensor, "R *latent"]:
        """U for each row."""
        return self.plain(x, t, torch.full((len(x),), self._blank))

    def __call__(
        self,
        x: Float[Tensor, "R *latent"],
        t: Float[Tensor, "R"],
        prompt: Int[Tensor, "R"],
        unguided: Float[Tensor, "R *latent"] | None = None,
    ) -> tuple[Float[Tensor, "R *latent"], Float[Tensor, "R *latent"] | None]:
        """The guided prediction and u; ``unguided`` is u where it is known already."""
        if not self.guided:
            return self.plain(x, t, prompt), None
        if unguided is not None:
            told = self.plain(x, t, prompt)
        elif torch.is_grad_enabled() and self.gradient == "conditional":
            with torch.no_grad():
                unguided = self.blank(x, t)
            told = self.plain(x, t, prompt)
        else:
            nothing = torch.full_like(prompt, self._blank)
            # Both halves of a row go through the network together: it is the larger forward that is fast.
            both = self.plain(torch.cat([x, x]), torch.cat([t, t]), torch.cat([prompt, nothing]))
            told, unguided = both.tensor_split(2)
        return unguided + self.scale * (told - unguided), unguided
