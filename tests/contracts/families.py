"""The token policies that pass through the battery of ``test_policies.py``; a new family is one more entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from saccade.core.policy import Policy, PolicySpec
from saccade.policies.token.tiny import TinyVLM


@dataclass(frozen=True)
class Family:
    """What the battery must know of a policy family."""

    spec: Callable[[], PolicySpec]
    images_encoded: Callable[[Policy], int]
    """How many images this policy has encoded since it was built."""
    gold: str = "<think>red is 3 blue is 4</think><answer><box>12,20,40,52</box></answer>"
    """An output the policy can express."""

    def build(self) -> Policy:
        return self.spec().build(torch.device("cpu"), seed=1)


def _tiny_images(policy: Policy) -> int:
    return policy.trunk.images_encoded


FAMILIES: dict[str, Family] = {
    "tiny": Family(lambda: TinyVLM(width=32, layers=2, heads=2), _tiny_images),
    "tiny, one layer, large patches": Family(
        lambda: TinyVLM(width=48, layers=1, heads=3, patch=16, side=32, max_images=6, bins=8), _tiny_images
    ),
    "tiny, tagged": Family(
        lambda: TinyVLM(width=32, layers=2, heads=4, patch=8, side=32, words=("<look>", "zebra"), segments=("answer",)),
        _tiny_images,
    ),
}
