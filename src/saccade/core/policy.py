"""Policies act and give log-probabilities; they know nothing of rewards, advantages or losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saccade.core.content import Content, Image
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.trajectory import Context, Prompt, Trajectory, Turn

if TYPE_CHECKING:
    from saccade.core.batch import Batch


@dataclass(frozen=True)
class Sampling:
    """How to draw actions."""

    max_actions: int = 64
    """Most actions of one turn."""
    temperature: float = 1.0
    """Log-probabilities are those of the distribution at this temperature."""
    top_p: float = 1.0
    """Nucleus: least probability mass that is kept. Truncation changes what is drawn, not the reported ``logp``."""
    deterministic: bool = False
    """Take the most probable action; such actions are masked out of training."""

    def __post_init__(self) -> None:
        if self.max_actions < 1:
            raise ConfigError(f"sampling.max_actions must be >= 1, got {self.max_actions}")
        if not self.temperature > 0:
            raise ConfigError(f"sampling.temperature must be > 0 (deterministic is greedy), got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling.top_p must be in (0, 1], got {self.top_p}")


@dataclass(eq=False)
class Act:
    """What a policy returns for one context: an output, its own record of it, and one entry per action."""

    output: Content
    record: Any
    logp: Float[Tensor, "T"]
    mask: Bool[Tensor, "T"]
    segment: Int[Tensor, "T"]
    truncated: bool = False
    """The policy ran into ``Sampling.max_actions`` before it stopped of itself."""


@dataclass(eq=False)
class LogProbs:
    """Current log-probabilities of a batch's actions, zeros outside the mask; the rest is there when it was needed."""

    logp: Float[Tensor, "N T"]
    entropy: Float[Tensor, "N T"] | None = None
    kl: Float[Tensor, "N T"] | None = None
    """Exact KL(policy || reference) per action, where the family has one."""
    value: Float[Tensor, "N T"] | None = None
    distribution: Float[Tensor, "N T V"] | None = None
    """Log-probability of every alternative of each action, without gradient."""
    views: Mapping[str, LogProbs] = field(default_factory=dict)
    draw: Callable[..., Tensor] | None = None
    """``Policy.rsample``, for objectives that differentiate through what the policy puts out."""


@dataclass(frozen=True, eq=False)
class Need:
    """What besides ``logp`` is to be computed."""

    entropy: bool = False
    kl_to: Policy | None = None
    """Fill ``kl`` with the exact KL to this policy."""
    distribution: bool = False


class Policy(nn.Module, ABC):
    """A module that acts on contexts and re-evaluates what was done.

    Invariant: with unchanged weights ``log_prob(batch).logp`` equals ``batch.old_logp`` on the mask, to sampling
    precision. Results do not depend on batch neighbours beyond floating-point summation order.
    """

    spec: PolicySpec
    provides: ClassVar[frozenset[str]] = frozenset()
    """Subset of {"entropy", "kl", "distribution", "pathwise", "elbo"}."""
    version: int = 0
    """Optimiser batches these weights have seen, told by the actor that took them over: what is drawn may follow it."""

    @abstractmethod
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        """Sample n continuations of each context, without gradient.

        Args:
            contexts: what to act on; each is encoded once for its n samples.
            n: samples per context.
            sampling: how to draw.
            seeds: ``len(contexts) * n`` seeds, one a sample; equal seeds and contexts give equal samples.

        Returns:
            ``len(contexts)`` lists of n acts.
        """

    @abstractmethod
    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        """Log-probabilities of the batch's actions under the current weights, with gradient.

        Each ``Prompt`` is encoded once per call. Entries outside the mask are zero.
        """

    @abstractmethod
    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        """Acts that stand for outputs somebody else wrote (demonstrations, preference pairs).

        ``logp`` is zero (the behaviour policy is unknown), ``mask`` True for every action.

        Raises:
            DataError: an output cannot be expressed in the policy's action space.
        """

    @abstractmethod
    def size(self, trajectory: Trajectory) -> int:
        """Cost of one trajectory in ``log_prob``, in units of ``Train.micro_size`` (positions, latents).

        Without what the trajectories of a prompt cost together (``shared_size``).
        """

    def shared_size(self, prompt: Prompt) -> int:
        """Cost of a prompt in each micro-batch in which it occurs, however many trajectories start from it."""
        return 0

    def accumulate(self, micros: Sequence[Batch]) -> Iterator[Batch]:
        """The micro-batches of one gradient, in order.

        The loss of each must have been backpropagated when the next one is asked for; the gradient is complete when
        there is none left. Policies that share work between micro-batches do it here.
        """
        yield from micros

    def remember_prompts(self, budget: int) -> AbstractContextManager[None]:
        """Context in which ``act`` may keep what it computed of prompts for later turns and the next ``accumulate``.

        Of up to ``budget`` units of ``size`` it may keep what the gradient needs.
        """
        return nullcontext()

    def rsample(
        self,
        contexts: Sequence[Context],
        *,
        n: int = 1,
        seeds: Sequence[int],
        keep_last: int = 1,
        stop: int | None = None,
    ) -> Float[Tensor, "N 3 H W"]:
        """Images in [0, 1] for the contexts as differentiable functions of the weights.

        Args:
            contexts: what to draw.
            n: images of each.
            seeds: ``len(contexts) * n``.
            keep_last: how many of the last steps of a chain carry gradient.
            stop: leave the chain at this step with the image that is predicted there.
        """
        raise CapabilityError(f"{type(self).__name__} does not draw with gradient")

    def preview(self, turn: Turn, most: int) -> list[Image]:
        """At most so many pictures of how the turn's output came about, for galleries; none where there are no such."""
        return []

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write the weights in the format of the policy's own ecosystem."""

    def without_adapters(self) -> Any:
        """Context manager under which the policy acts as if its adapters were not there."""
        raise CapabilityError(f"{type(self).__name__} has no adapters; choose another train.reference")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


@dataclass(frozen=True)
class PolicySpec(ABC):
    """A frozen, picklable description of a policy; recipes hold it and workers receive it."""

    @abstractmethod
    def build(self, device: torch.device, seed: int = 0) -> Policy:
        """The policy on this device; ``seed`` draws its initial weights where they are not loaded."""


class Critic(nn.Module, ABC):
    """State values on the same table."""

    @abstractmethod
    def forward(self, batch: Batch) -> Values:
        """Values of the states in which the batch's actions were taken."""


@dataclass(eq=False)
class Values:
    value: Float[Tensor, "N T"]
    """V of the state before each action; zero outside the table."""
    final: Float[Tensor, "N"]
    """V of the state after the last action."""


@dataclass(frozen=True)
class CriticSpec(ABC):
    lr: float | None = field(default=None, kw_only=True)
    """Learning rate, with ``train.lr_schedule``; None: ``train.lr``."""

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise ConfigError(f"critic.lr must be > 0 or None, got {self.lr}")

    @abstractmethod
    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> Critic: ...


@runtime_checkable
class Actor(Protocol):
    """Anything that can act and be given new weights: the policy itself, a served engine, a remote worker."""

    @property
    def seeded(self) -> bool:
        """Whether equal seeds give equal samples."""
        ...

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]: ...

    def sync(self, policy: Policy, version: int) -> None:
        """Take over the policy's weights."""
        ...

    @property
    def version(self) -> int: ...


class LocalActor:
    """The policy itself as actor: nothing to copy."""

    seeded = True

    def __init__(self, policy: Policy, version: int = 0, *, budget: int = 0) -> None:
        """``budget``: see ``Policy.remember_prompts``."""
        self.policy = policy
        self.budget = budget
        self._version = version

    @property
    def version(self) -> int:
        return self._version

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        training = self.policy.training
        self.policy.eval()
        try:
            with self.policy.remember_prompts(self.budget):
                return self.policy.act(contexts, n=n, sampling=sampling, seeds=seeds)
        finally:
            self.policy.train(training)

    def sync(self, policy: Policy, version: int) -> None:
        self.policy = policy
        self._version = policy.version = version
