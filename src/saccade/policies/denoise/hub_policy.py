"""A diffusers pipeline that draws and is trained: loading, adapters, saving."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from diffusers import DiffusionPipeline
from jaxtyping import Float, Int
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from saccade.core.errors import CapabilityError, ConfigError, ContractError
from saccade.core.policy import Act, Sampling
from saccade.core.trajectory import Context, Prompt
from saccade.policies.denoise.denoiser import Predictor
from saccade.policies.denoise.hub_denoisers import FAMILIES, HubDenoiser
from saccade.policies.denoise.policy import DenoisePolicy
from saccade.policies.lora import merged_state

if TYPE_CHECKING:
    from saccade.policies.denoise.hub import Diffusers

ADAPTER = "pytorch_lora_weights.safetensors"
"""File in which diffusers keeps adapters."""

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of pipelines that are not loaded."""


class NotFinite(ContractError):
    """A prediction is not finite."""

    def __init__(self, message: str, time: float) -> None:
        super().__init__(message)
        self.time = time
        """Process time of the first such row."""


class WatchingPredictor(Predictor):
    """Guided predictions, which must be finite where no gradient is taken: a broken network draws no further."""

    def __call__(
        self,
        x: Float[Tensor, "R *latent"],
        t: Float[Tensor, "R"],
        prompt: Int[Tensor, "R"],
        unguided: Float[Tensor, "R *latent"] | None = None,
    ) -> tuple[Float[Tensor, "R *latent"], Float[Tensor, "R *latent"] | None]:
        prediction, unguided = super().__call__(x, t, prompt, unguided)
        if not torch.is_grad_enabled():
            good = torch.isfinite(prediction).flatten(1).all(1)
            if not bool(good.all()):
                first = int((~good).nonzero()[0])
                count = f"{int((~good).sum())} of {len(good)}"
                time = float(t[first])
                raise NotFinite(f"{count} predictions of the network at time {time:g} are not finite", time)
        return prediction, unguided


class DiffusersPolicy(DenoisePolicy):
    """Built by ``Diffusers``. The network is always in evaluation mode."""

    spec: Diffusers
    denoiser: HubDenoiser

    def __init__(self, spec: Diffusers, denoiser: HubDenoiser) -> None:
        super().__init__(spec, denoiser)
        self._adapters = True
        self.eval()

    def train(self, mode: bool = True) -> DiffusersPolicy:
        super().train(mode)
        self.denoiser.eval()
        return self

    def stamp(self) -> Any:
        return self._adapters, super().stamp()

    def predictor(self, prompts: Sequence[Prompt], scale: float) -> Predictor:
        spec = self.spec
        return WatchingPredictor(self.denoiser, prompts, scale=scale, gradient=spec.guidance_gradient, rows=spec.rows)

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        try:
            return super().act(contexts, n=n, sampling=sampling, seeds=seeds)
        except NotFinite as error:
            table = self.evaluation_table() if sampling.deterministic else self.table
            step = int((table.time[:-1] - error.time).abs().argmin())
            raise ContractError(f"step {step} of a denoising chain of {table.steps}: {error}") from None

    def without_adapters(self) -> AbstractContextManager[Any]:
        return self._base_alone() if isinstance(self.denoiser.network, PeftModel) else super().without_adapters()

    @contextmanager
    def _base_alone(self) -> Iterator[None]:
        before, self._adapters = self._adapters, False
        try:
            with self.denoiser.network.disable_adapter():
                yield
        finally:
            self._adapters = before

    def save_pretrained(self, folder: Path) -> None:
        """Write the complete pipeline, and beside it the adapters where there are any and they are not switched off.

        The pipeline's own weights are then those it started from: plain diffusers puts the trained one together with
        ``from_pretrained(folder)`` and ``load_lora_weights(folder)``, and ``Diffusers(model=folder)`` does so itself.
        """
        folder = Path(folder)
        denoiser, name = self.denoiser, self.denoiser.network_name
        pipeline = denoiser.frozen.pipeline
        held = getattr(pipeline, name)
        setattr(pipeline, name, self._plain_network())
        try:
            pipeline.save_pretrained(folder)
        finally:
            setattr(pipeline, name, held)
        if isinstance(denoiser.network, PeftModel) and self._adapters:
            self.save_adapter(folder)
        else:
            (folder / ADAPTER).unlink(missing_ok=True)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters alone, in the format of ``pipeline.load_lora_weights(folder)``.

        Raises:
            CapabilityError: there are no adapters.
        """
        denoiser, lora = self.denoiser, self.spec.lora
        if not isinstance(denoiser.network, PeftModel) or lora is None:
            raise CapabilityError("the policy has no adapters to save; set policy.lora or use save_pretrained")
        layers = {}
        for name, value in get_peft_model_state_dict(denoiser.network).items():
            # The file has no place for alpha that all readers know; they take alpha = rank.
            scale = lora.alpha / lora.rank if ".lora_B." in name else 1.0
            layers[name.removeprefix("base_model.model.")] = (scale * value).cpu().contiguous()
        pipeline: Any = type(denoiser.frozen.pipeline)
        pipeline.save_lora_weights(folder, **{f"{denoiser.network_name}_lora_layers": layers})

    def _plain_network(self) -> Any:
        """The network without adapters and without their traces in its modules."""
        network = self.denoiser.network
        if not isinstance(network, PeftModel):
            return network
        with self.without_adapters():
            state = merged_state(network)
        base = self.denoiser.base
        with torch.device("meta"):
            plain = type(base).from_config(base.config)
        plain.load_state_dict(state, assign=True)
        return plain


def load(spec: Diffusers, device: torch.device, seed: int) -> DiffusersPolicy:
    """The policy that the spec describes; errors as ``Diffusers.build``."""
    where = f"policy.model {spec.model!r}"
    local = Path(spec.model).is_dir()
    if spec.model.startswith((".", "/", "~")) and not local:
        raise ConfigError(f"{where}: there is no such folder")
    index = _reading(where, "model_index.json", lambda: DiffusionPipeline.load_config(spec.model))
    kind = index.get("_class_name")
    if kind not in FAMILIES:
        raise ConfigError(f"{where}: its pipeline must be one of {', '.join(FAMILIES)}, got {kind}")
    family = FAMILIES[kind]
    present = [name for name in family.components() if _declared(index, name)]
    for name in family.components():
        if name not in present and name not in family.optional:
            raise ConfigError(f"{where}: its model_index.json names no {name}, which a {kind} needs")
        if local and name in present and not (Path(spec.model) / name).is_dir():
            raise ConfigError(f"{where}: the folder has no component {name}, which its model_index.json names")
    dtype = getattr(torch, spec.dtype)
    absent = [name for name in family.optional if name not in present]
    parts: dict[str, Any] = {name: None for name in (*absent, *(name for name in UNUSED if name in index))}
    if "requires_safety_checker" in index:
        parts["requires_safety_checker"] = False
    for name in family.models():
        if name in present:
            library, component = index[name]
            parts[name] = _model(where, spec.model, name, library, component, dtype)
    pipeline = _reading(where, "pipeline", lambda: DiffusionPipeline.from_pretrained(spec.model, **parts))
    if local and (Path(spec.model) / ADAPTER).is_file():
        _reading(where, ADAPTER, lambda: _fuse(pipeline, spec.model))
    denoiser = family(spec, pipeline, where)
    if spec.lora is not None:
        denoiser.network = spec.lora(denoiser.network, seed)
    if spec.checkpointing:
        denoiser.base.enable_gradient_checkpointing()
    return DiffusersPolicy(spec, denoiser).to(device)


def _declared(index: Any, name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list | tuple) and len(entry) == 2 and all(entry)


def _model(where: str, model: str, name: str, library: str, kind: str, dtype: torch.dtype) -> Any:
    """One component with weights, all of them from the checkpoint."""
    found = None
    if library in ("diffusers", "transformers"):
        found = getattr(importlib.import_module(library), kind, None)
    if found is None:
        raise ConfigError(f"{where}: its {name} is a {library}.{kind}, which is not known here")
    option = {"dtype": dtype} if library == transformers.__name__ else {"torch_dtype": dtype}
    part, info = _reading(
        where, name, lambda: found.from_pretrained(model, subfolder=name, output_loading_info=True, **option)
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ConfigError(f"{where}: the weights of its {name} lack {len(missing)} tensors, the first is {missing[0]}")
    return part


def _reading(where: str, what: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, LookupError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: its {what} cannot be loaded: {reason}") from None


def _fuse(pipeline: Any, folder: str) -> None:
    """Add adapters that lie beside the pipeline to its weights."""
    pipeline.load_lora_weights(folder)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
