"""The denoising networks of diffusers' text-to-image pipelines: captions in, predictions and pixels out."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from peft import PeftModel
from torch import Tensor, nn

from saccade.core.content import Text, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Prompt
from saccade.policies.denoise import hub_schedule
from saccade.policies.denoise.denoiser import Conditions, Denoiser
from saccade.policies.denoise.noise import Process

if TYPE_CHECKING:
    from saccade.policies.denoise.hub import Diffusers

CAPTIONS_KEPT = 256
"""Captions whose embeddings are kept; those that were not asked for longest are forgotten."""


class Frozen:
    """What is not trained: the pipeline's text encoders and autoencoder, and the embeddings of captions.

    It is no module, so that its weights are not part of the policy's, and copies of the policy have it in common.
    """

    def __init__(self, pipeline: Any, names: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.modules: list[nn.Module] = [getattr(pipeline, name) for name in names]
        for module in self.modules:
            module.requires_grad_(False).eval()
        self.captions: OrderedDict[str, Conditions] = OrderedDict()

    def __deepcopy__(self, memo: Any) -> Frozen:
        return self


class HubDenoiser(Denoiser):
    """A network of diffusers. Captions are encoded one by one and once, without gradient."""

    network_name: ClassVar[str]
    """Name of the network among the components."""
    texts: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Components that read captions."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Components that a pipeline may lack."""
    patch: ClassVar[int] = 1
    """Latents a side that the network takes together."""

    @classmethod
    def models(cls) -> tuple[str, ...]:
        """Components that have weights."""
        return cls.network_name, "vae", *cls.texts

    @classmethod
    def components(cls) -> tuple[str, ...]:
        """All components."""
        return *cls.models(), *(name.replace("text_encoder", "tokenizer") for name in cls.texts), "scheduler"

    def __init__(self, spec: Diffusers, pipeline: Any, where: str) -> None:
        """Takes the network and the sizes from the pipeline.

        Raises:
            ConfigError: the network does something else than drawing from noise, or cannot have this size.
        """
        super().__init__()
        self.network: Any = getattr(pipeline, self.network_name)
        present = [name for name in self.models()[1:] if getattr(pipeline, name) is not None]
        self.frozen = Frozen(pipeline, present)
        self.captions_encoded = 0
        """Captions that have gone through the text encoders."""
        self._text_length = spec.text_length
        channels = self.vae.config.latent_channels
        if self.channels != channels:
            kind = type(self.network).__name__
            raise ConfigError(f"{where}: its {kind} takes {self.channels} channels, latents have {channels}")
        factor = pipeline.vae_scale_factor
        own = self._own_size()
        sides = []
        for name, given, usual in (("height", spec.height, own[0]), ("width", spec.width, own[1])):
            pixels = given or usual * factor
            if pixels % (factor * self.patch):
                raise ConfigError(f"policy.{name} must be a multiple of {factor * self.patch}, got {pixels}")
            sides.append(pixels // factor)
        self.pixels = (sides[0] * factor, sides[1] * factor)
        self.shape = (channels, *sides)
        self.process = self._process(spec, where)

    @property
    def base(self) -> Any:
        """The network without PEFT's wrapper; adapters are inside."""
        return self.network.get_base_model() if isinstance(self.network, PeftModel) else self.network

    @property
    def vae(self) -> Any:
        return self.frozen.pipeline.vae

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's activations."""
        return next(p.dtype for name, p in self.base.named_parameters() if "lora_" not in name)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def channels(self) -> int:
        """Latent channels that the network takes."""
        return self.base.config.in_channels

    def _own_size(self) -> tuple[int, int]:
        """Height and width of latents where the spec does not say."""
        size = self.base.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @abstractmethod
    def _process(self, spec: Diffusers, where: str) -> Process:
        """What the checkpoint's scheduler says."""

    @abstractmethod
    def _encode(self, captions: list[str]) -> Mapping[str, Tensor | None]:
        """Embeddings of captions."""

    @torch.no_grad()
    def _told(self, caption: str) -> Conditions:
        known = self.frozen.captions
        if caption not in known:
            found = self._encode([caption])
            known[caption] = {name: value.detach() for name, value in found.items() if value is not None}
            self.captions_encoded += 1
            if len(known) > CAPTIONS_KEPT:
                known.popitem(last=False)
        known.move_to_end(caption)
        return known[caption]

    def condition(self, prompts: Sequence[Prompt]) -> Conditions:
        for prompt in prompts:
            wrong = [type(part).__name__ for part in prompt.content if not isinstance(part, Text)]
            if wrong:
                raise DataError(f"task {prompt.task.id!r}: an image generator reads captions, got {wrong[0]}")
        told = [self._told(text_of(prompt.content)) for prompt in prompts]
        return {name: torch.cat([one[name] for one in told]) for name in told[0]}

    def blank(self) -> Conditions:
        return self._told("")

    def decode(self, latent: Float[Tensor, "N *latent"]) -> Float[Tensor, "N 3 H W"]:
        vae = self.vae
        scale, shift = self._normalisation(latent)
        image = vae.decode((latent / scale + shift).to(vae.dtype), return_dict=False)[0]
        return (image / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def from_pixels(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "*latent"]:
        height, width = pixels.shape[:2]
        if (height, width) != self.pixels:
            raise DataError(
                f"the generator draws pictures of {self.pixels[1]}x{self.pixels[0]}, got one of {width}x{height}"
            )
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].to(self.device)
        vae = self.vae
        latent = vae.encode((image.to(torch.float32) / 127.5 - 1).to(vae.dtype)).latent_dist.mode()
        scale, shift = self._normalisation(latent)
        return ((latent - shift) * scale)[0]

    def _normalisation(self, like: Float[Tensor, "N *latent"]) -> tuple[float | Tensor, float | Tensor]:
        """What latents of the autoencoder are multiplied with, after the second number is taken off."""
        config = self.vae.config
        if getattr(config, "latents_mean", None) is None:
            return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return config.scaling_factor / std, mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HubDenoiser:
        super()._apply(fn, recurse)
        # ``to`` and ``double`` take along what the policy needs but does not own.
        for module in self.frozen.modules:
            module._apply(fn, recurse)
        self.frozen.captions.clear()
        return self


class StableDiffusion(HubDenoiser):
    """Versions 1.x and 2.x."""

    network_name = "unet"

    def __init__(self, spec: Diffusers, pipeline: Any, where: str) -> None:
        super().__init__(spec, pipeline, where)
        if self.base.config.time_cond_proj_dim is not None:
            raise ConfigError(f"{where}: its unet is told the guidance scale (LCM), which is not supported")

    def _process(self, spec: Diffusers, where: str) -> Process:
        return hub_schedule.diffusion(self.frozen.pipeline.scheduler.config, spec.spacing, where)

    def _encode(self, captions: list[str]) -> Mapping[str, Tensor | None]:
        return {"text": self.frozen.pipeline.encode_prompt(captions, self.device, 1, False)[0]}

    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        return self.base(
            x.to(self.dtype),
            t.float(),
            encoder_hidden_states=conditions["text"],
            added_cond_kwargs=self._added(conditions),
            return_dict=False,
        )[0]

    def _added(self, conditions: Conditions) -> dict[str, Tensor] | None:
        """What the network is told beside the text."""
        return None


class StableDiffusionXL(StableDiffusion):
    """The network is also told the pooled text and the size: pictures are drawn as uncropped ones of their own size."""

    texts = ("text_encoder", "text_encoder_2")

    def _encode(self, captions: list[str]) -> Mapping[str, Tensor | None]:
        text, _, pooled, _ = self.frozen.pipeline.encode_prompt(
            captions, device=self.device, do_classifier_free_guidance=False
        )
        return {"text": text, "pooled": pooled}

    def blank(self) -> Conditions:
        nothing = super().blank()
        if self.frozen.pipeline.config.force_zeros_for_empty_prompt:
            return {name: torch.zeros_like(value) for name, value in nothing.items()}
        return nothing

    def _added(self, conditions: Conditions) -> dict[str, Tensor]:
        pooled = conditions["pooled"]
        size = pooled.new_tensor([*self.pixels, 0, 0, *self.pixels])
        return {"text_embeds": pooled, "time_ids": size.expand(len(pooled), -1)}


class StableDiffusion3(HubDenoiser):
    """Three text encoders; zeros stand for the text of the third, a T5, where it is absent."""

    network_name = "transformer"
    texts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional = ("text_encoder_3", "tokenizer_3")
    patch = 2

    def _process(self, spec: Diffusers, where: str) -> Process:
        config = self.frozen.pipeline.scheduler.config
        patch = self.base.config.patch_size
        positions = (self.shape[1] // patch) * (self.shape[2] // patch)
        return hub_schedule.flow(config, positions, where, given=False)

    def _encode(self, captions: list[str]) -> Mapping[str, Tensor | None]:
        text, _, pooled, _ = self.frozen.pipeline.encode_prompt(
            captions,
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._text_length or 256,
        )
        return {"text": text, "pooled": pooled}

    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        return self.base(
            hidden_states=x.to(self.dtype),
            timestep=1000 * t.float(),
            encoder_hidden_states=conditions["text"],
            pooled_projections=conditions["pooled"],
            return_dict=False,
        )[0]


class Flux(HubDenoiser):
    """Version 1: two by two latents are one position; networks distilled with guidance are told its scale."""

    network_name = "transformer"
    texts = ("text_encoder", "text_encoder_2")
    patch = 2

    def __init__(self, spec: Diffusers, pipeline: Any, where: str) -> None:
        super().__init__(spec, pipeline, where)
        self._scale = spec.embedded_guidance

    @property
    def channels(self) -> int:
        return self.base.config.in_channels // 4

    def _own_size(self) -> tuple[int, int]:
        return (self.frozen.pipeline.default_sample_size,) * 2

    def _process(self, spec: Diffusers, where: str) -> Process:
        positions = self.shape[1] * self.shape[2] // 4
        return hub_schedule.flow(self.frozen.pipeline.scheduler.config, positions, where, given=True)

    def _encode(self, captions: list[str]) -> Mapping[str, Tensor | None]:
        text, pooled, _ = self.frozen.pipeline.encode_prompt(
            captions, prompt_2=None, device=self.device, max_sequence_length=self._text_length or 512
        )
        return {"text": text, "pooled": pooled}

    def predict(self, x: Float[Tensor, "R *latent"], t: Float[Tensor, "R"], conditions: Conditions) -> Tensor:
        rows, height, width = len(x), self.shape[1] // 2, self.shape[2] // 2
        packed = x.unflatten(3, (width, 2)).unflatten(2, (height, 2)).permute(0, 2, 4, 1, 3, 5)
        place = x.new_zeros(height, width, 3)
        place[..., 1] += torch.arange(height, device=x.device)[:, None]
        place[..., 2] += torch.arange(width, device=x.device)
        text = conditions["text"]
        out = self.base(
            hidden_states=packed.reshape(rows, height * width, -1).to(self.dtype),
            timestep=t.to(self.dtype),
            guidance=x.new_full((rows,), self._scale) if self.base.config.guidance_embeds else None,
            encoder_hidden_states=text,
            pooled_projections=conditions["pooled"],
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=place.flatten(0, 1).to(self.dtype),
            return_dict=False,
        )[0]
        unpacked = out.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width)).permute(0, 3, 1, 4, 2, 5)
        return unpacked.reshape(x.shape)


FAMILIES: Mapping[str, type[HubDenoiser]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By class of the pipeline."""
