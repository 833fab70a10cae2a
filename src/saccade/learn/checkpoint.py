"""Save and restore a run, whole or not at all: weights as safetensors, the rest beside them.

A checkpoint is written into a temporary folder, flushed, and renamed: a full disk or a kill leaves the last good one.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from saccade.core.errors import CheckpointError
from saccade.core.feed import Feed
from saccade.core.reference import AdaptersOff
from saccade.core.state import TrainState

KEPT = 2
"""Checkpoints kept; older ones are removed after a new one is complete."""


def trained_weights(module: nn.Module, *, whole: bool = False) -> dict[str, torch.Tensor]:
    """Trainable parameters (all parameters if ``whole``), by name, on the CPU; tied weights once."""
    named = module.named_parameters()
    return {name: p.detach().cpu().contiguous() for name, p in named if whole or p.requires_grad}


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights into the module's parameters of the same names.

    Raises:
        CheckpointError: a name or a shape does not belong to the module; nothing is changed then.
    """
    own = dict(module.named_parameters())
    for name, value in weights.items():
        if name not in own:
            raise CheckpointError(f"{where}: the policy has no weight {name!r}; the checkpoint is of another recipe")
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(own[name].shape)}"
            raise CheckpointError(f"{where}: weight {name!r} has shape {shapes}; the checkpoint is of another recipe")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def save(folder: Path, state: TrainState, feed: Feed, recipe_hash: str) -> Path:
    """Write ``folder/step-N`` and return it."""
    final = folder / f"step-{state.step:06d}"
    partial = folder / f".partial-{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(trained_weights(state.policy), partial / "policy.safetensors")
        if state.critic is not None:
            save_file(trained_weights(state.critic), partial / "critic.safetensors")
        if state.reference is not None and not isinstance(state.reference, AdaptersOff):
            names = trained_weights(state.policy)
            weights = {n: w for n, w in trained_weights(state.reference, whole=True).items() if n in names}
            save_file(weights, partial / "reference.safetensors")
        rest = {
            "recipe": recipe_hash,
            "step": state.step,
            "seed": state.seed,
            "optimiser": state.optimiser.state_dict(),
            "generator": state.generator.get_state(),
            "history": state.history.state_dict(),
            "last": state.last,
            "feed": feed.state_dict(),
        }
        torch.save(rest, partial / "state.pt")
        for written in partial.iterdir():
            with written.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    # torch and safetensors report a full disk as RuntimeError and SafetensorError.
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        why = str(error).splitlines()[0]
        kept = latest(folder) or "none"
        raise CheckpointError(f"{final}: cannot be written ({why}); the last good checkpoint is {kept}") from error
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def restore(folder: Path, state: TrainState, feed: Feed, recipe_hash: str) -> None:
    """Put a checkpoint's content into a fresh state and feed.

    Raises:
        CheckpointError: it is damaged or belongs to another recipe.
    """
    try:
        # Our own file: the replay buffer holds trajectories, so it is a pickle by nature.
        rest = torch.load(folder / "state.pt", weights_only=False, map_location="cpu")
        policy = load_file(folder / "policy.safetensors")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({str(error).splitlines()[0]})") from None
    if rest["recipe"] != recipe_hash:
        raise CheckpointError(f"{folder}: the checkpoint is of another recipe; its settings differ from this run's")
    load_weights(state.policy, policy, str(folder))
    for name, module in (("critic", state.critic), ("reference", state.reference)):
        if module is not None and (folder / f"{name}.safetensors").exists():
            load_weights(module, load_file(folder / f"{name}.safetensors"), str(folder))
    state.optimiser.load_state_dict(rest["optimiser"])
    state.generator.set_state(rest["generator"])
    state.history.load_state_dict(rest["history"])
    state.step, state.last = rest["step"], rest["last"]
    feed.load_state_dict(rest["feed"])
