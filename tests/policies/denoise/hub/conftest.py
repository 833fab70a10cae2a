from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from policies.denoise.hub.pipelines import BUILDERS, build
from saccade.policies.denoise.hub import Ancestral, Diffusers
from saccade.policies.denoise.hub_policy import DiffusersPolicy


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """The saved pipeline of a name in ``BUILDERS``; each is written once."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        assert name in BUILDERS
        return root / name if (root / name).is_dir() else build(name, root / name)

    return folder


@pytest.fixture(scope="session")
def make(folder) -> Callable[..., DiffusersPolicy]:
    """Builds a policy over a pipeline, with pictures of 16 by 16."""

    def make(name: str, **settings: Any) -> DiffusersPolicy:
        usual = {"model": str(folder(name)), "sampler": Ancestral(5), "eval_steps": 4}
        usual |= {"height": 16, "width": 16, "text_length": 12}
        return Diffusers(**usual | settings).build(torch.device("cpu"), seed=0)

    return make
