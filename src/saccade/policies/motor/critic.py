"""Values of what a motor policy sees, from a network of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from saccade.core.batch import Batch
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import Critic, CriticSpec, PolicySpec, Values
from saccade.policies.motor.seeing import Looking
from saccade.policies.motor.tiny import TinyVLA
from saccade.policies.motor.trunk import Trunk


@dataclass(frozen=True)
class MotorCritic(CriticSpec):
    """A second trunk of the policy's kind with one value on top; it shares no weights with the policy.

    FLaRe (arXiv:2409.16578) found this to keep a cloned policy from being unlearned. 0 everywhere before the first
    update.
    """

    width: int = 160

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ConfigError(f"critic.width must be >= 1, got {self.width}")

    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> MotorCriticModel:
        """The critic with weights drawn from ``seed``.

        Raises:
            CapabilityError: the policy is no ``TinyVLA``.
        """
        if not isinstance(policy, TinyVLA):
            raise CapabilityError(f"MotorCritic sees what TinyVLA sees, not what {type(policy).__name__} does")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MotorCriticModel(policy, self.width).to(device)


class MotorCriticModel(Critic):
    """One value a turn, at all of its actions: nothing is seen between them.

    ``final`` is the value of the trajectory's last observation where the episode was cut off with one, 0 elsewhere.
    """

    def __init__(self, spec: TinyVLA, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(replace(spec, width=width), spec.head, spec.chunk, spec.commands)
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def fit(self, commands: Any, states: Any = None) -> None:
        """Units from demonstrations, as ``TinyVLAPolicy.fit``."""
        self.trunk.commands.fit(commands)
        if states is not None:
            self.trunk.states.fit(states)

    def forward(self, batch: Batch) -> Values:
        looking = Looking(self.trunk.expected, self.trunk.words)
        first: list[int] = []
        ends: list[int] = []
        for i, trajectory in enumerate(batch.trajectories):
            first.append(len(looking.rows))
            cut = trajectory.stop == "truncated" and trajectory.final is not None
            looking.trajectory(trajectory, range(len(trajectory.turns)), final=cut)
            if cut:
                ends.append(i)
        device = self.value.weight.device
        values = self.value(self.trunk(looking.rows))[:, 0]
        start = torch.tensor(first, device=device)
        row, column = batch.real.to(device).nonzero(as_tuple=True)
        at = start[row] + batch.turn.to(device)[row, column]
        value = values.new_zeros(batch.mask.shape).index_put((row, column), values[at])
        index = torch.tensor(ends, dtype=torch.int64, device=device)
        # The row after those of a trajectory's turns.
        turns = torch.tensor([len(batch.trajectories[i].turns) for i in ends], dtype=torch.int64, device=device)
        final = values.new_zeros(len(batch)).index_put((index,), values[start[index] + turns])
        return Values(value, final)
