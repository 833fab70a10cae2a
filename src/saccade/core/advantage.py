"""Base class of advantages: the reward table in, the advantage table out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from saccade.core.batch import Batch


@dataclass(frozen=True)
class Advantage(ABC):
    """A pure function of the batch.

    Contract: no gradient; zero outside the mask; unchanged by permuting trajectories or renaming groups; finite for
    groups of one and for groups of equal rewards (then zero, for group-relative ones). Trajectories that could not be
    scored (``batch.scored`` False) take no part in any statistic.
    """

    @property
    def requires(self) -> frozenset[str]:
        """Streams the batch must carry: subset of {"value", "ref_logp"}."""
        return frozenset()

    @abstractmethod
    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]: ...
