"""What heads have in common: a state of the trunk becomes a chunk of commands, which can be scored again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.policy import Need, Sampling
from saccade.policies.motor.scale import Quantiles, Scale


@dataclass(frozen=True)
class Head(ABC):
    """How chunks of k commands of D numbers are distributed; a frozen dataclass that builds the network's last part."""

    @property
    def scale(self) -> Quantiles:
        """Units of the commands."""
        return Quantiles()

    @abstractmethod
    def build(self, width: int, chunk: int, commands: int) -> HeadNet:
        """Fresh weights for states of ``width`` numbers, from torch's global generator."""

    def memory(self, chunk: int, commands: int) -> int:
        """How many numbers tell the trunk of an earlier chunk."""
        return chunk * commands

    def remember(self, commands: Float[Tensor, "M k D"], scale: Scale) -> Float[Tensor, "M _"]:
        """These numbers."""
        return scale.encode(commands).flatten(1)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One chunk a row."""

    commands: Float[Tensor, "R k D"]
    records: list[Any]
    logp: Float[Tensor, "R C"]
    mask: Bool[Tensor, "C"]
    """Actions that can be trained."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Which actions of R turns are to be scored: M pairs, rows in order."""

    records: Sequence[Any]
    """R"""
    row: Int[Tensor, "M"]
    column: Int[Tensor, "M"]
    """Action within its turn; on the CPU, as ``row``."""
    step: int
    """Optimiser batch."""
    need: Need


class HeadNet(nn.Module, ABC):
    """The network of a head. Rows are independent of each other."""

    provides: frozenset[str]
    """As ``Policy.provides``."""

    @abstractmethod
    def draw(self, hidden: Float[Tensor, "R W"], scale: Scale, sampling: Sampling, seeds: Sequence[int]) -> Drawn:
        """A chunk for each state and seed."""

    @abstractmethod
    def record(self, commands: Float[Tensor, "k D"], scale: Scale, seed: int) -> tuple[Any, int]:
        """Somebody else's chunk as a record, and its number of actions.

        Raises:
            DataError: the head cannot express it.
        """

    @abstractmethod
    def score(
        self, hidden: Float[Tensor, "R W"], asked: Asked, other: tuple[HeadNet, Float[Tensor, "R W"]] | None
    ) -> dict[str, Tensor]:
        """``logp`` and what else is needed of each action asked for, ``[M]``.

        Args:
            hidden: states of the rows.
            asked: what to score.
            other: head and states, without gradient, of the policy to which KL is needed.
        """


@dataclass(eq=False)
class ValueRecord:
    """What was drawn, in the head's own terms, and how."""

    value: Tensor
    temperature: float


def stacked(
    records: Sequence[Any], like: Tensor, shape: tuple[int, ...], *, indices: bool = False
) -> tuple[Tensor, Float[Tensor, "R"]]:
    """Values and temperatures of all records.

    Args:
        records: of the rows.
        like: device, and dtype of the temperatures.
        shape: of one value.
        indices: whether values are integers.

    Raises:
        CapabilityError: a record of another kind of head or another shape.
    """
    for record in records:
        fits = isinstance(record, ValueRecord) and tuple(record.value.shape) == shape
        if not fits or record.value.is_floating_point() == indices:
            kind = "indices" if indices else "numbers"
            found = f"{record.value.dtype} {list(record.value.shape)}" if isinstance(record, ValueRecord) else record
            raise CapabilityError(f"this head scores {kind} of shape {list(shape)}, got {found}")
    value = torch.stack([record.value for record in records]).to(like.device)
    temperature = torch.tensor([record.temperature for record in records], dtype=like.dtype, device=like.device)
    return value, temperature


def check_size(name: str, value: int, least: int) -> None:
    """Raise ``ConfigError`` if a setting is below its least value."""
    if value < least:
        raise ConfigError(f"{name} must be >= {least}, got {value}")


def refuse_nucleus(kind: str, sampling: Sampling) -> None:
    """Raise ``ConfigError`` if alternatives are to be cut off where there are none."""
    if sampling.top_p != 1:
        raise ConfigError(f"sampling.top_p must be 1 for the head {kind}, got {sampling.top_p}")


def whole(commands: Float[Tensor, "k D"], choices: int) -> Int[Tensor, "k D"]:
    """Commands that are indices.

    Raises:
        DataError: a number that is not one of 0, ..., choices - 1.
    """
    index = commands.round().long()
    if bool(((index < 0) | (index >= choices) | (index != commands)).any()):
        raise DataError(f"commands must be indices 0, ..., {choices - 1}, got {commands.flatten().tolist()}")
    return index
