"""A critic for transformers models: a value head on a second copy of the policy's network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from saccade.core.batch import Batch
from saccade.core.errors import CapabilityError
from saccade.core.policy import Critic, CriticSpec, PolicySpec, Values
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.rows import batch_rows


@dataclass(frozen=True)
class HFTokenCritic(CriticSpec):
    """The policy's checkpoint once more, its output head replaced by one value; trained as the policy is.

    It costs a second copy of the network in memory.
    """

    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> HFTokenCriticModel:
        """The critic; the value is 0 everywhere before the first update.

        Raises:
            CapabilityError: the policy is no ``HFVisionLanguage``.
        """
        if not isinstance(policy, HFVisionLanguage):
            raise CapabilityError(f"HFTokenCritic reads the states of HFVisionLanguage, not of {type(policy).__name__}")
        return HFTokenCriticModel(policy, device, seed)


class HFTokenCriticModel(Critic):
    """V before every action is read where the policy's distribution of that action would be."""

    def __init__(self, spec: HFVisionLanguage, device: torch.device, seed: int) -> None:
        super().__init__()
        self.network = spec.build(device, seed)
        self.network.head.requires_grad_(False)
        # The head is float32 whatever the network computes in: returns are regressed with small steps.
        self.value = nn.Linear(self.network.head.in_features, 1, device=device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, batch: Batch) -> Values:
        rows = batch_rows(batch, self.network.reader, final=True)
        assert rows.final_row is not None and rows.final_at is not None, "asked for with final=True"
        row, at = torch.cat([rows.row, rows.final_row]), torch.cat([rows.at, rows.final_at])
        chosen = self.network.states(rows, row, at)
        before, final = self.value(chosen.float())[:, 0].split([len(rows.row), len(rows.final_row)])
        where = (rows.trajectory.to(before.device), rows.column.to(before.device))
        return Values(before.new_zeros(batch.mask.shape).index_put(where, before), final)
