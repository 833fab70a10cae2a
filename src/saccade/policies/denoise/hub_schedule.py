"""What a checkpoint's scheduler says about noise and times, as the process that a chain runs on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.core.errors import ConfigError
from saccade.policies.denoise.noise import Diffusion, Flow

_RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_PREDICTIONS: Mapping[str, Literal["epsilon", "v", "sample"]] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
}


@dataclass(frozen=True)
class SpacedFlow(Flow):
    """A flow whose chains evaluate the network at equally spaced times from 1 to ``least``, before the shift.

    Plain ones go from 1 to 1 / T.
    """

    least: float = 0.001

    def grid(self, steps: int) -> Float[Tensor, "T+1"]:
        even = torch.linspace(1, self.least, steps, dtype=torch.float64)
        return torch.cat([self.shift * even / (1 + (self.shift - 1) * even), even.new_zeros(1)])


@dataclass(frozen=True)
class ZeroTerminal(Diffusion):
    """A diffusion whose last level is pure noise, A = 0: roots of A are moved and scaled (arXiv:2305.08891)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction == "epsilon":
            raise ConfigError("process.prediction must be v or sample where the last level is pure noise")

    def kept(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _zero_terminal(self).to(t.device)[t.long()]


@cache
def _zero_terminal(process: ZeroTerminal) -> Float[Tensor, "L+1"]:
    """A_t for every level, then its value at the end of a chain."""
    root = Diffusion.kept(process, torch.arange(process.length)).sqrt()
    kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return torch.cat([kept, kept.new_ones(1) if process.to_one else kept[:1]])


def diffusion(
    config: Mapping[str, Any], spacing: Literal["checkpoint", "leading", "trailing"], where: str
) -> Diffusion:
    """The diffusion of a scheduler of the DDPM family, whichever solver it is.

    Args:
        config: of the scheduler, complete.
        spacing: how times are spaced.
        where: names the checkpoint in errors.

    Raises:
        ConfigError: the scheduler has levels or times that ``Diffusion`` does not.
    """
    kind = config["_class_name"]
    prediction = _PREDICTIONS.get(config.get("prediction_type", ""))
    if "beta_schedule" not in config or prediction is None or config.get("trained_betas") is not None:
        raise ConfigError(f"{where}: its scheduler {kind} is not a diffusion with given betas; flows are SD3 and FLUX")
    if spacing == "checkpoint":
        spacing = config.get("timestep_spacing", "leading")
        respaced = [name for name in _RESPACED if config.get(name)]
        if respaced or spacing not in ("leading", "trailing"):
            found = respaced[0] if respaced else f"timestep_spacing={spacing}"
            raise ConfigError(f"{where}: its {kind} has {found}; set policy.spacing to leading or trailing")
    if config.get("thresholding"):
        raise ConfigError(f"{where}: its {kind} has thresholding, which latents do not take")
    process = ZeroTerminal if config.get("rescale_betas_zero_snr") else Diffusion
    return process(
        length=config["num_train_timesteps"],
        schedule=config["beta_schedule"],
        first=config["beta_start"],
        last=config["beta_end"],
        prediction=prediction,
        spacing=spacing,
        offset=config.get("steps_offset", 0) if spacing == "leading" else 0,
        to_one=config.get("set_alpha_to_one", config.get("final_sigmas_type", "zero") == "zero"),
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None,
    )


def flow(config: Mapping[str, Any], positions: int, where: str, *, given: bool) -> Flow:
    """The flow of a ``FlowMatchEulerDiscreteScheduler``.

    Args:
        config: of the scheduler, complete.
        positions: image tokens of the network, on which the shift may depend.
        where: names the checkpoint in errors.
        given: whether the pipeline hands the scheduler the times 1 ... 1 / T; otherwise it has its own least time.

    Raises:
        ConfigError: the scheduler has times that ``Flow`` does not.
    """
    kind = config["_class_name"]
    if kind != "FlowMatchEulerDiscreteScheduler":
        raise ConfigError(f"{where}: its scheduler must be FlowMatchEulerDiscreteScheduler, got {kind}")
    odd = ("invert_sigmas", "shift_terminal", "stochastic_sampling", *_RESPACED)
    found = [name for name in odd if config.get(name)]
    if found:
        raise ConfigError(f"{where}: its {kind} has {found[0]}, which is not supported")
    shift, least = config["shift"], 1 / config["num_train_timesteps"]
    if config["use_dynamic_shifting"]:
        few, many = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (many - few)
        mu = config["base_shift"] + slope * (positions - few)
        shift = math.exp(mu) if config["time_shift_type"] == "exponential" else mu
    else:
        # diffusers shifts its own least time when the scheduler is made, and again with all others.
        least = shift * least / (1 + (shift - 1) * least)
    return Flow(shift) if given and not config.get("use_flow_sigmas") else SpacedFlow(shift, least)
