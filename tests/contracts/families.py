"""The token policies that pass through the battery of ``test_policies.py``; a new family is one more entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from policies.hf.checkpoints import build
from saccade.core.policy import Policy, PolicySpec
from saccade.envs.datasets.records import Records
from saccade.policies.lora import LoRA
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.policies.unified.codec import PatchCodec
from saccade.policies.unified.tiny import TinyUnified


@dataclass(frozen=True)
class Family:
    """What the battery must know of a policy family."""

    spec: Callable[[], PolicySpec]
    images_encoded: Callable[[Policy], int]
    """How many images this policy has encoded since it was built."""
    gold: str = "<think>red is 3 blue is 4</think><answer><box>12,20,40,52</box></answer>"
    """An output the policy can express."""
    draws: bool = False
    """Whether pictures are in its action space."""
    start: Callable[[Policy], None] = lambda policy: None
    """Brings a fresh policy into a state in which all its weights matter."""

    def build(self, **settings: Any) -> Policy:
        policy = replace(self.spec(), **settings).build(torch.device("cpu"), seed=1)
        self.start(policy)
        return policy


def _tiny_images(policy: Any) -> int:
    return policy.trunk.images_encoded


def _codebook_images(policy: Any) -> int:
    codebook = policy.codebook
    if "encode" not in vars(codebook):
        encode, codebook.images_encoded = codebook.encode, 0

        def counted(pixels):
            codebook.images_encoded += 1
            return encode(pixels)

        codebook.encode = counted
    return codebook.images_encoded


@cache
def _checkpoint(architecture: str) -> str:
    """A small random checkpoint, written once a session."""
    return str(build(architecture, Path(os.environ["SACCADE_CACHE"]) / architecture))


def _hf_images(policy: Any) -> int:
    family = policy.family
    if "features" not in vars(family):
        encode, family.images_encoded = family.features, 0

        def features(model, pictures):
            family.images_encoded += len(pictures)
            return encode(model, pictures)

        family.features = features
    return family.images_encoded


def _fill_adapters(policy: Policy) -> None:
    """Fresh adapters multiply by zero, and half of them get no gradient."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)


FAMILIES: dict[str, Family] = {
    "tiny": Family(lambda: TinyVLM(width=32, layers=2, heads=2), _tiny_images),
    "tiny, one layer, large patches": Family(
        lambda: TinyVLM(width=48, layers=1, heads=3, patch=16, side=32, max_images=6, bins=8), _tiny_images
    ),
    "tiny, tagged": Family(
        lambda: TinyVLM(width=32, layers=2, heads=4, patch=8, side=32, words=("<look>", "zebra"), segments=("answer",)),
        _tiny_images,
    ),
    "tiny, unified": Family(
        lambda: TinyUnified(PatchCodec(Records(kinds=("draw",))), width=32, layers=2, heads=2),
        _codebook_images,
        draws=True,
    ),
    "Qwen2.5-VL": Family(lambda: HFVisionLanguage(_checkpoint("qwen2_5_vl")), _hf_images),
    "Qwen3-VL, tagged": Family(
        lambda: HFVisionLanguage(_checkpoint("qwen3_vl"), segments=("think", "answer")), _hf_images
    ),
    "SmolVLM, adapters": Family(
        lambda: HFVisionLanguage(_checkpoint("idefics3"), LoRA(rank=4)), _hf_images, start=_fill_adapters
    ),
}
