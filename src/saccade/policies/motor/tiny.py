"""A tiny vision-language-action policy for CPUs: what robots and walkers see in, chunks of commands out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core.batch import Batch
from saccade.core.content import Array, Content
from saccade.core.errors import CapabilityError, DataError
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.random import fold_in
from saccade.core.reference import AdaptersOff
from saccade.core.trajectory import Context, Trajectory
from saccade.policies.folder import read_policy, write_policy
from saccade.policies.motor.discrete import Categorical
from saccade.policies.motor.head import Asked, Head, check_size
from saccade.policies.motor.seeing import COMMAND, Looking, Rows, command_of
from saccade.policies.motor.trunk import Senses, Trunk


@dataclass(frozen=True)
class TinyVLA(Senses, PolicySpec):
    """Convolutions with FiLM by the instruction, a recurrent reader of words, an MLP for numbers, and a head.

    Observations hold one square image, an array ``state``, or both, as ``side`` and ``state`` say; parts that they do
    not ask for are not looked at. The instruction is all text of the prompt and of the observations so far. The output
    of a turn is ``Array("command", float32 [k, D])``.
    """

    head: Head = Categorical()
    commands: int = 1
    """D, numbers of a command."""
    chunk: int = 1
    """k, commands of a turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("commands", self.commands, 1)
        check_size("chunk", self.chunk, 1)
        self.head.scale.check("head.units", self.commands)

    def build(self, device: torch.device, seed: int = 0) -> TinyVLAPolicy:
        """The policy with weights drawn from ``seed``, in float32."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyVLAPolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> TinyVLAPolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete TinyVLA.
        """
        return read_policy(cls, folder, device)


class TinyVLAPolicy(Policy):
    """Every turn is one row: what was seen, the instruction, earlier commands. Actions are what the head says.

    Frames that several rows show are encoded once. With ``Sampling(deterministic=True)`` heads take their mode (a flow
    head its deterministic chain from the seed's noise). ``Sampling.max_actions`` has no meaning here.
    """

    spec: TinyVLA

    def __init__(self, spec: TinyVLA) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = Trunk(spec, spec.head, spec.chunk, spec.commands)
        self.head = spec.head.build(spec.width, spec.chunk, spec.commands)

    @property
    def provides(self) -> frozenset[str]:  # type: ignore[override]
        """What the head has in closed form."""
        return self.head.provides

    def fit(self, commands: Any, states: Any = None) -> None:
        """Take the units of commands, and of states if they are given, from demonstrations.

        Records that were made before are in the old units: fit first, then encode.

        Args:
            commands: ``[M, D]``, all arrays ``command`` of demonstrations one below the other.
            states: ``[M', S]``, all arrays ``state``.

        Raises:
            DataError: wrong shapes, or numbers that are not finite.
        """
        self.trunk.commands.fit(commands)
        if states is not None:
            if not self.spec.state:
                raise DataError("this policy looks at no states: state is 0")
            self.trunk.states.fit(states)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        looking = Looking(self.trunk.expected, self.trunk.words)
        for context in contexts:
            looking.context(context)
        hidden = self.trunk(looking.rows).repeat_interleave(n, 0)
        drawn = self.head.draw(hidden, self.trunk.commands, sampling, seeds)
        commands, logp = drawn.commands.float().cpu().numpy(), drawn.logp.float().cpu()
        acts = [
            _act(given.copy(), record, row.clone(), drawn.mask.clone())
            for given, record, row in zip(commands, drawn.records, logp, strict=True)
        ]
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        trajectory, column = batch.mask.cpu().nonzero(as_tuple=True)
        if not len(trajectory):
            zero = torch.zeros(batch.mask.shape, device=self.device)
            entropy, kl = (zero.clone() if asked else None for asked in (need.entropy, need.kl_to is not None))
            return LogProbs(zero, entropy=entropy, kl=kl)
        turn = batch.turn.cpu()[trajectory, column]
        pairs, row = torch.unique(torch.stack([trajectory, turn]), dim=1, return_inverse=True)
        wanted: dict[int, list[int]] = {}
        for i, k in pairs.T.tolist():
            wanted.setdefault(i, []).append(k)
        looking = Looking(self.trunk.expected, self.trunk.words)
        records: list[Any] = []
        first: list[int] = []
        for i, turns in wanted.items():
            one = batch.trajectories[i]
            looking.trajectory(one, turns)
            starts = np.cumsum([0, *(t.num_actions for t in one.turns)])
            records += [one.turns[k].record for k in turns]
            first += [int(starts[k]) for k in turns]
        asked = Asked(records, row, column - torch.tensor(first)[row], batch.progress.step, need)
        hidden = self.trunk(looking.rows)
        other = None if need.kl_to is None else self._other(need.kl_to, looking.rows)
        where = (trajectory.to(self.device), column.to(self.device))
        tables: dict[str, Any] = {
            name: values.new_zeros(*batch.mask.shape, *values.shape[1:]).index_put(where, values)
            for name, values in self.head.score(hidden, asked, other).items()
        }
        return LogProbs(**tables)

    @torch.no_grad()
    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts = []
        for context, output in zip(contexts, outputs, strict=True):
            task = context.prompt.task.id
            given = command_of(output, self.trunk.expected, context.prompt)
            # Equal commands of a task have equal draws, where a head needs any.
            seed = fold_in(0, task, hashlib.blake2b(np.asarray(given, np.float32).tobytes(), digest_size=8).hexdigest())
            like = next(self.head.parameters())
            try:
                record, actions = self.head.record(torch.from_numpy(given.copy()).to(like), self.trunk.commands, seed)
            except DataError as error:
                raise DataError(f"task {task!r}: {error}") from None
            acts.append(_act(given, record, torch.zeros(actions), torch.ones(actions, dtype=torch.bool)))
        return acts

    def size(self, trajectory: Trajectory) -> int:
        """Squares of the pictures of all turns, one for each turn without pictures."""
        squares = (self.spec.side // self.spec.patch) ** 2
        return max(1, squares) * len(trajectory.turns)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; ``TinyVLA.load`` reads them."""
        write_policy(self, folder)

    def _other(self, policy: Policy, rows: Rows) -> Any:
        """Head and states of the policy to compare with, on the same rows."""
        if isinstance(policy, AdaptersOff):
            with policy.without_adapters():
                return self._other(policy.policy, rows)
        if not isinstance(policy, TinyVLAPolicy) or not self._comparable(policy):
            raise CapabilityError("exact KL needs a TinyVLA reference with the same head, inputs, words and units")
        with torch.no_grad():
            return policy.head, policy.trunk(rows)

    def _comparable(self, other: TinyVLAPolicy) -> bool:
        """Whether records and rows mean the same to both."""
        mine, theirs = self.trunk, other.trunk
        units = zip(mine.commands.buffers(), theirs.commands.buffers(), strict=True)
        same = (self.spec.head, mine.expected, mine.words) == (other.spec.head, theirs.expected, theirs.words)
        return same and all(torch.equal(a, b.to(a)) for a, b in units)


def _act(commands: np.ndarray, record: Any, logp: Tensor, mask: Tensor) -> Act:
    output = (Array(COMMAND, np.asarray(commands, np.float32)),)
    return Act(output, record, logp, mask, torch.zeros(len(logp), dtype=torch.int64))
