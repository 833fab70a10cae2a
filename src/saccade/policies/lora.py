"""Low-rank adapters through PEFT: the reference policy is the same model with its adapters off."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from saccade.core.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation:  W' = W + (alpha / rank) B A,  with A drawn at random and B zero.

    There is no dropout: rollout and update would see different networks, and the first ratio would not be 1.

    Paper: LoRA: Low-Rank Adaptation of Large Language Models (arXiv:2106.09685).
    """

    rank: int = 16
    alpha: float = 32.0
    """Scale of the update, before division by the rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last parts of the names of linear maps that get an adapter, such as ``q_proj``; the output head never does."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be >= 1, got {self.rank}")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha must be > 0, got {self.alpha}")
        if not self.targets:
            raise ConfigError('lora.targets must name at least one module, or be "all-linear"')

    def __call__(self, model: nn.Module, seed: int, frozen: Collection[str] = ()) -> PeftModel:
        """The model with adapters; only they take gradient. Modules under a name in ``frozen`` get none.

        Raises:
            ConfigError: a target names no linear map of the model.
        """
        # Recipes hold this class; PEFT is loaded where a model is there to adapt.
        from peft import LoraConfig, get_peft_model

        # Networks that draw have no output head.
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
        linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head]
        free = [name for name in linear if not any(f".{part}." in f".{name}." for part in frozen)]
        if self.targets == "all-linear":
            chosen = free
        else:
            ends = {target: [n for n in free if f".{n}".endswith(f".{target}")] for target in self.targets}
            missing = [target for target, names in ends.items() if not names]
            if missing:
                known = ", ".join(sorted({name.rpartition(".")[2] for name in free}))
                raise ConfigError(f"lora.targets: no linear map is named {missing[0]!r}; the model has {known}")
            chosen = [name for name in free if any(name in names for names in ends.values())]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=chosen, lora_dropout=0.0)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(model, config)  # type: ignore[arg-type]


@torch.no_grad()
def merged_state(model: PeftModel) -> dict[str, Tensor]:
    """State dict of the base model under its own names, adapters added in unless they are switched off.

    The model itself stays as it is: merging in place and subtracting again would leave rounding behind.
    """
    from peft.tuners.lora import Linear

    base = model.get_base_model()
    state = {name: value for name, value in base.state_dict().items() if ".lora_" not in name}
    for name, module in base.named_modules():
        if isinstance(module, Linear) and not module.disable_adapters:
            weight = state[f"{name}.base_layer.weight"]
            for adapter in module.active_adapters:
                weight = (weight + module.get_delta_weight(adapter)).to(weight.dtype)
            state[f"{name}.base_layer.weight"] = weight
    return {name.replace(".base_layer.", "."): value for name, value in state.items()}
