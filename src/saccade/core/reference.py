"""The frozen policy that KL terms and preference losses compare with, and how it follows the trained one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saccade.core.content import Content
from saccade.core.errors import ConfigError
from saccade.core.policy import Act, LogProbs, Need, Policy, Sampling
from saccade.core.trajectory import Context, Prompt, Trajectory

if TYPE_CHECKING:
    from saccade.core.batch import Batch


def frozen_copy(policy: Policy) -> Policy:
    """A deep copy that takes no gradient."""
    reference = copy.deepcopy(policy)
    return reference.requires_grad_(False).eval()


@dataclass(frozen=True)
class Reference(ABC):
    """How the reference policy comes about and follows."""

    def start(self, policy: Policy) -> Policy:
        """The reference at the first step."""
        return frozen_copy(policy)

    @abstractmethod
    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        """Update the reference in place after optimiser batch ``step`` (counted from 1)."""


@dataclass(frozen=True)
class Initial(Reference):
    """The weights the recipe started from."""

    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        return


@dataclass(frozen=True)
class EMA(Reference):
    """Exponential moving average:  ref <- decay * ref + (1 - decay) * policy, every ``every`` steps."""

    decay: float = 0.99
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1 or self.every < 1:
            raise ConfigError(f"reference needs 0 <= decay <= 1 and every >= 1, got {self.decay} and {self.every}")

    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        if step % self.every == 0:
            _blend(reference, policy, self.decay)


@dataclass(frozen=True)
class SlowingEMA(Reference):
    """An average that starts as the policy itself and slows down:  decay = min(most, slope step)  after each step.

    The old policy of DiffusionNFT (arXiv:2509.16117) and AWM (arXiv:2509.25050); their slope is 1e-3.
    """

    slope: float = 0.001
    """Growth of the decay per step."""
    most: float = 0.5
    """Largest decay."""

    def __post_init__(self) -> None:
        if self.slope < 0 or not 0 <= self.most <= 1:
            raise ConfigError(f"reference needs slope >= 0 and 0 <= most <= 1, got {self.slope} and {self.most}")

    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        _blend(reference, policy, min(self.most, self.slope * step))


@torch.no_grad()
def _blend(reference: Policy, policy: Policy, decay: float) -> None:
    """Move the reference:  ref <- decay * ref + (1 - decay) * policy."""
    for old, new in zip(reference.parameters(), policy.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), 1 - decay)
    for old, new in zip(reference.buffers(), policy.buffers(), strict=True):
        old.copy_(new)


@dataclass(frozen=True)
class Every(Reference):
    """The weights of the last step divisible by ``steps``."""

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"reference.steps must be >= 1, got {self.steps}")

    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        if step % self.steps == 0:
            reference.load_state_dict(policy.state_dict())


@dataclass(frozen=True)
class Adapters(Reference):
    """The policy with its adapters off: no second copy of the weights."""

    def start(self, policy: Policy) -> Policy:
        with policy.without_adapters():
            return AdaptersOff(policy)

    def follow(self, reference: Policy, policy: Policy, step: int) -> None:
        return


class AdaptersOff(Policy):
    """A policy seen without its adapters; owns no weights."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.spec = policy.spec
        # A plain list keeps the module out of parameters() and state_dict(): the weights belong to the policy.
        self._policy = [policy]

    @property
    def policy(self) -> Policy:
        """The policy whose adapters are left out."""
        return self._policy[0]

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        with self._policy[0].without_adapters():
            return self._policy[0].act(contexts, n=n, sampling=sampling, seeds=seeds)

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        with self._policy[0].without_adapters():
            return self._policy[0].log_prob(batch, need)

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        return self._policy[0].encode(contexts, outputs)

    def size(self, trajectory: Trajectory) -> int:
        return self._policy[0].size(trajectory)

    def shared_size(self, prompt: Prompt) -> int:
        return self._policy[0].shared_size(prompt)

    def save_pretrained(self, folder: Path) -> None:
        with self._policy[0].without_adapters():
            self._policy[0].save_pretrained(folder)

    def without_adapters(self) -> Any:
        return self._policy[0].without_adapters()

    @property
    def device(self) -> torch.device:
        return self._policy[0].device
