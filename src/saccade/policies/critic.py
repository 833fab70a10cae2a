"""Critics: values of the states between actions, on the same table as the actions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from saccade.core.batch import Batch
from saccade.core.errors import CapabilityError
from saccade.core.policy import Critic, CriticSpec, PolicySpec, Values
from saccade.policies.token.prefix import read_states
from saccade.policies.token.rows import batch_rows
from saccade.policies.token.tiny import TinyReader, TinyVLM


@dataclass(frozen=True)
class TokenCritic(CriticSpec):
    """A value network of its own that reads what a ``TinyVLM`` reads; shares no weights with the policy."""

    width: int = 96
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        TinyVLM(width=self.width, layers=self.layers, heads=self.heads)

    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> TokenCriticModel:
        """The critic with weights drawn from ``seed``; the value is 0 everywhere before the first update.

        Raises:
            CapabilityError: the policy is no ``TinyVLM``.
        """
        if not isinstance(policy, TinyVLM):
            raise CapabilityError(f"TokenCritic reads the states of TinyVLM, not of {type(policy).__name__}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            spec = replace(policy, width=self.width, layers=self.layers, heads=self.heads)
            return TokenCriticModel(spec).to(device)


class TokenCriticModel(Critic):
    """V before every action is read where the policy's distribution of that action would be."""

    def __init__(self, spec: TinyVLM) -> None:
        super().__init__()
        self.reader = TinyReader(spec)
        self.trunk = spec.trunk()
        self.head = nn.Linear(spec.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Values:
        rows = batch_rows(batch, self.reader, final=True)
        assert rows.final_row is not None and rows.final_at is not None, "asked for with final=True"
        row, at = torch.cat([rows.row, rows.final_row]), torch.cat([rows.at, rows.final_at])
        value = self.head(read_states(self.trunk, rows, row, at))[:, 0]
        before, final = value.split([len(rows.row), len(rows.final_row)])
        where = (rows.trajectory.to(value.device), rows.column.to(value.device))
        return Values(before.new_zeros(batch.mask.shape).index_put(where, before), final)
