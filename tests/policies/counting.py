"""How often a network reads prompts and encodes pictures: it still does so itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from saccade.policies.token.policy import TokenPolicy


@contextmanager
def prefix_passes(policy: TokenPolicy) -> Iterator[list[int]]:
    """The number of prompts of every forward pass over prompts, in order."""
    passes: list[int] = []
    network: Any = policy.network
    real = network.prefixes

    def prefixes(prompts, chunks):
        passes.append(len(prompts))
        return real(prompts, chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "prefixes", prefixes)
        yield passes


@contextmanager
def encoded_pictures(policy: Any) -> Iterator[list[int]]:
    """The number of pictures of every pass of a transformers policy's image encoder, in order."""
    passes: list[int] = []
    real = policy.family.features

    def features(model, pictures):
        passes.append(len(pictures))
        return real(model, pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.family, "features", features)
        yield passes
