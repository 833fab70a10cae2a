"""How a model without a run becomes a policy."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saccade.cli.subject import Subject
from saccade.core import config
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Models
from saccade.core.policy import Policy, PolicySpec
from saccade.evaluate.store import weights_hash
from saccade.policies.denoise.hub import Diffusers
from saccade.policies.folder import read_policy
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.unified.hf import HFUnified
from saccade.recipe import Pillar

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_spec(name: str, pillars: Collection[Pillar]) -> PolicySpec:
    """How a model becomes a policy: by what is in its folder, or for a name on the hub by what it is asked to do.

    Raises:
        ConfigError: it is neither a folder with a model nor a name on the hub, or it cannot be told what it does.
    """
    folder = Path(name)
    if not folder.exists():
        if not HUB_NAME.fullmatch(name):
            raise ConfigError(f"{name} is neither a run's folder, nor a model's, nor a name on the hub")
        if "generation" in pillars and len(pillars) > 1:
            raise ConfigError(f"whether {name} draws or answers is told by its suites; name suites of one kind")
        return _drawing(name, name) if "generation" in pillars else HFVisionLanguage(name)
    if (folder / "model_index.json").exists():
        return _drawing(name, str(_json(folder / "model_index.json").get("_class_name")))
    if not (folder / "config.json").exists():
        raise ConfigError(f"{name} holds neither a run (config.yaml) nor a model (config.json or model_index.json)")
    plain = _json(folder / "config.json")
    if "class" in plain:
        spec = config.from_dict(plain, str(folder / "config.json"))
        if not isinstance(spec, PolicySpec):
            raise ConfigError(f"{folder / 'config.json'}: expected a policy, got {type(spec).__name__}")
        return spec
    if plain.get("model_type") == "emu3":
        return HFUnified(name)
    return HFVisionLanguage(name)


def _drawing(name: str, kind: str) -> Diffusers:
    """40 steps with guidance as most results of drawing models are had; FLUX is told its guidance instead."""
    return Diffusers(model=name, guidance=1.0 if "flux" in kind.lower() else 5.0, eval_steps=40)


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise DataError(f"{path}: found {type(plain).__name__}, expected an object")
    return plain


def built(subject: Subject, device: torch.device) -> Subject:
    """The subject with its policy, weights included: one that Saccade saved is read, others are built."""
    spec = config.from_dict(subject.of["policy"])
    assert isinstance(spec, PolicySpec)
    where = Path(subject.of["model"])
    ours = (where / "config.json").exists() and "class" in _json(where / "config.json")
    policy: Policy = read_policy(type(spec), where, device) if ours else spec.build(device)
    return replace(subject, models=Models(policy), weights=weights_hash(policy))
