"""Folders of policies that have no ecosystem of their own: ``config.json`` (the spec) and ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saccade.core.config import from_dict, to_dict
from saccade.core.errors import CheckpointError
from saccade.core.policy import Policy, PolicySpec


def write_policy(policy: Policy, folder: Path) -> None:
    """Write spec and weights; ``read_policy`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_dict(policy.spec), indent=2) + "\n")
    weights = {name: tensor.cpu().contiguous() for name, tensor in policy.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def read_policy(kind: type[PolicySpec], folder: Path, device: torch.device | str) -> Any:
    """The policy that ``write_policy`` wrote.

    Args:
        kind: class of its spec.
        folder: where it is.
        device: where it goes.

    Raises:
        CheckpointError: the folder does not hold a complete policy of this kind.
    """
    folder = Path(folder)
    try:
        spec = from_dict(json.loads((folder / "config.json").read_text()))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} does not hold a {kind.__name__}: {error}") from None
    if not isinstance(spec, kind):
        raise CheckpointError(f"{folder / 'config.json'} does not describe a {kind.__name__}")
    policy = spec.build(torch.device(device))
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / 'model.safetensors'}: {' '.join(str(error).split())}") from None
    return policy
