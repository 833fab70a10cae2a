from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from policies.hf.checkpoints import ARCHITECTURES, OTHERS, build
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A saved checkpoint of each architecture."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build(name, root / name) for name in (*ARCHITECTURES, *OTHERS)}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture
def make(folders, architecture) -> Callable[..., HFVisionLanguagePolicy]:
    """Builds a policy of the architecture with the given settings."""

    def make(**settings) -> HFVisionLanguagePolicy:
        return HFVisionLanguage(str(folders[architecture]), **settings).build(torch.device("cpu"), seed=0)

    return make
