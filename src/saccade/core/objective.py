"""Base class of objectives: batch and current log-probabilities in, loss out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from saccade.core.batch import Batch
    from saccade.core.policy import LogProbs
    from saccade.core.trajectory import Prompt


@dataclass
class Loss:
    value: Float[Tensor, ""]
    """To be minimised; a sum over the micro-batch of terms weighted by the optimiser batch."""
    stats: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Reduced with the same ``mean_*`` of the batch, so that they add up over micro-batches."""


class View(ABC):
    """A frozen dataclass that alters a prompt: mask patches, blur, drop the image."""

    @abstractmethod
    def __call__(self, prompt: Prompt) -> Prompt: ...


@dataclass(frozen=True)
class Objective(ABC):
    """A pure function; several objectives of a recipe add up.

    An objective may reduce only with ``batch.mean_actions``, ``mean_trajectories`` and ``mean_groups``: these are means
    over the optimiser batch, so that the gradient cannot depend on how it was cut into micro-batches.
    """

    unit: ClassVar[Literal["trajectory", "group", "batch"]] = "trajectory"
    """"group": micro-batches may not split groups. "batch": the optimiser batch is one micro-batch."""

    @property
    def requires(self) -> frozenset[str]:
        """Subset of {"advantage", "ref_logp", "kl", "entropy", "value", "distribution", "pathwise", "elbo"}."""
        return frozenset()

    @property
    def views(self) -> Mapping[str, View]:
        """Extra evaluations of the same actions under altered prompts, found again in ``out.views``."""
        return {}

    @abstractmethod
    def __call__(self, batch: Batch, out: LogProbs) -> Loss: ...


@dataclass(frozen=True)
class Around(Objective):
    """Another objective, altered: it needs what the inner one needs."""

    inner: Objective

    @property
    def unit(self) -> Literal["trajectory", "group", "batch"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.unit

    @property
    def requires(self) -> frozenset[str]:
        return self.inner.requires

    @property
    def views(self) -> Mapping[str, View]:
        return self.inner.views
