"""A policy whose action is a choice: K of the N things it is shown, one after another.

What is shown is an array ``context`` float32 ``[N, D]``, one row a thing, in the prompt or the newest observation that
has one; N may differ between prompts. An array ``query`` ``[Q, D]`` in the same content tells what they are wanted for.
The output of a turn is ``Array("chosen", float32 [K, 1])``, indices of rows in the order in which they were chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core.batch import Batch
from saccade.core.content import Array, Content
from saccade.core.errors import CapabilityError, ConfigError, DataError
from saccade.core.policy import Act, LogProbs, Need, Policy, PolicySpec, Sampling
from saccade.core.random import torch_generator
from saccade.core.trajectory import Context, Trajectory
from saccade.policies.folder import read_policy, write_policy

CONTEXT, QUERY, CHOSEN = "context", "query", "chosen"


@dataclass(frozen=True)
class Choice(ABC):
    """How K of N things with scores ``s [N]`` are drawn; an action is one thing."""

    @abstractmethod
    def draw(self, scores: Float[Tensor, "R N"], noise: Float[Tensor, "R K N"]) -> Int[Tensor, "R K"]:
        """A choice for each row of scores, from independent standard Gumbel noise."""

    @abstractmethod
    def conditional(self, scores: Float[Tensor, "R N"], index: Int[Tensor, "R K"]) -> Float[Tensor, "R K N"]:
        """Log-probability of every thing at each place, given what was chosen before; -inf for what cannot follow."""

    @abstractmethod
    def allows(self, index: Int[Tensor, "K"]) -> bool:
        """Whether a choice can be drawn."""


@dataclass(frozen=True)
class PlackettLuce(Choice):
    """Without replacement:  ``log p(a) = sum_k [s_{a_k} - log sum_{j not in a_1..a_{k-1}} exp s_j]``.

    Drawn as the K largest of scores plus Gumbel noise, in falling order (arXiv:1903.06059).
    """

    def draw(self, scores: Float[Tensor, "R N"], noise: Float[Tensor, "R K N"]) -> Int[Tensor, "R K"]:
        return (scores + noise[:, 0]).topk(noise.shape[1], dim=1).indices

    def conditional(self, scores: Float[Tensor, "R N"], index: Int[Tensor, "R K"]) -> Float[Tensor, "R K N"]:
        picked = F.one_hot(index, scores.shape[1])
        gone = picked.cumsum(1) > picked
        return scores[:, None].expand(gone.shape).masked_fill(gone, -torch.inf).log_softmax(-1)

    def allows(self, index: Int[Tensor, "K"]) -> bool:
        return len(index.unique()) == len(index)


@dataclass(frozen=True)
class WithReplacement(Choice):
    """K independent draws:  ``log p(a) = sum_k log softmax(s)_{a_k}``. The same thing can come up several times."""

    def draw(self, scores: Float[Tensor, "R N"], noise: Float[Tensor, "R K N"]) -> Int[Tensor, "R K"]:
        return (scores[:, None] + noise).argmax(-1)

    def conditional(self, scores: Float[Tensor, "R N"], index: Int[Tensor, "R K"]) -> Float[Tensor, "R K N"]:
        return scores.log_softmax(-1)[:, None].expand(*index.shape, -1)

    def allows(self, index: Int[Tensor, "K"]) -> bool:
        return True


@dataclass(frozen=True)
class TinySelector(PolicySpec):
    """A small network that scores every row of the context by itself, and a choice by these scores.

    It looks at the row, its length, its place (0 oldest, 1 newest) and its cosine to each row of the query and to the
    mean of the context.
    """

    count: int = 6
    """K, things to choose; contexts must hold at least as many."""
    features: int = 8
    """D"""
    queries: int = 3
    """Q; 0: there is no query."""
    width: int = 64
    choice: Choice = PlackettLuce()

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("features", 1), ("queries", 0), ("width", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, got {getattr(self, name)}")

    def build(self, device: torch.device, seed: int = 0) -> SelectorPolicy:
        """The policy with weights drawn from ``seed``, in float32; its first choices are nearly uniform."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SelectorPolicy(self).to(device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> SelectorPolicy:
        """The policy that ``save_pretrained`` wrote.

        Raises:
            CheckpointError: the folder does not hold a complete TinySelector.
        """
        return read_policy(cls, folder, device)


@dataclass(eq=False)
class ChoiceRecord:
    """What was chosen, and how."""

    index: Int[Tensor, "K"]
    temperature: float


class SelectorPolicy(Policy):
    """Every turn is one row of scores; its K actions are the things chosen.

    Scores are divided by the temperature. With ``Sampling(deterministic=True)`` the K things with the highest scores
    are taken, whatever the choice. ``Sampling.max_actions`` has no meaning here. Entropy and KL are exact for each
    action given those before it, as with tokens.
    """

    spec: TinySelector
    provides = frozenset({"entropy", "kl"})

    def __init__(self, spec: TinySelector) -> None:
        super().__init__()
        self.spec = spec
        self.hidden = nn.Linear(spec.features + 3 + spec.queries, spec.width)
        self.out = nn.Linear(spec.width, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        if sampling.top_p != 1:
            raise ConfigError(f"sampling.top_p must be 1 for choices, got {sampling.top_p}")
        shown = [self._shown(context) for context in contexts]
        scores = (self._scores(shown) / sampling.temperature).repeat_interleave(n, 0)
        if sampling.deterministic:
            index = scores.topk(self.spec.count, dim=1).indices
        else:
            noise = scores.new_zeros(len(scores), self.spec.count, scores.shape[1])
            for i, seed in enumerate(seeds):
                rows = len(shown[i // n][0])
                noise[i, :, :rows] = _gumbel((self.spec.count, rows), seed)
            index = self.spec.choice.draw(scores, noise)
        logp = self.spec.choice.conditional(scores, index).gather(-1, index[..., None])[..., 0].float().cpu()
        mask = torch.full((self.spec.count,), not sampling.deterministic)
        acts = [
            _act(row.clone(), sampling.temperature, values.clone(), mask.clone())
            for row, values in zip(index.cpu(), logp, strict=True)
        ]
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        tables: dict[str, Any] = {"logp": self._like.new_zeros(batch.mask.shape)}
        if need.entropy:
            tables["entropy"] = tables["logp"].clone()
        if need.kl_to is not None:
            tables["kl"] = tables["logp"].clone()
        shown, row, records, where = self._asked(batch)
        if not records:
            return LogProbs(**tables)
        temperature = self._like.new_tensor([record.temperature for record in records])[:, None]
        index = torch.stack([record.index for record in records]).to(self.device)
        table = self.spec.choice.conditional(self._scores(shown)[row] / temperature, index)
        found = {"logp": table.gather(-1, index[..., None])[..., 0]}
        finite = table.masked_fill(table == -torch.inf, 0.0)
        if need.entropy:
            found["entropy"] = -(table.exp() * finite).sum(-1)
        if need.kl_to is not None:
            with torch.no_grad():
                other = self._comparable(need.kl_to)._scores(shown)[row].to(temperature) / temperature
                theirs = self.spec.choice.conditional(other, index)
            found["kl"] = (table.exp() * (finite - theirs.masked_fill(theirs == -torch.inf, 0.0))).sum(-1)
        wanted = batch.mask.to(self.device)[where]
        for name, values in found.items():
            tables[name] = tables[name].index_put(where, torch.where(wanted, values.flatten(), 0.0))
        return LogProbs(**tables)

    @torch.no_grad()
    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts = []
        for context, output in zip(contexts, outputs, strict=True):
            task, rows = context.prompt.task.id, len(self._shown(context)[0])
            index = chosen_of(output, rows)
            if index is None or len(index) != self.spec.count or not self.spec.choice.allows(torch.from_numpy(index)):
                raise DataError(f"task {task!r}: expected an array {CHOSEN!r} of {self.spec.count} rows of {rows}")
            mask = torch.ones(self.spec.count, dtype=torch.bool)
            acts.append(_act(torch.from_numpy(index), 1.0, torch.zeros(self.spec.count), mask))
        return acts

    def size(self, trajectory: Trajectory) -> int:
        """Rows of the contexts of all turns."""
        return sum(len(self._shown(trajectory.context(k))[0]) for k in range(trajectory.num_turns))

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` (the spec) and ``model.safetensors``; ``TinySelector.load`` reads them."""
        write_policy(self, folder)

    @property
    def _like(self) -> Tensor:
        return self.hidden.weight

    def _shown(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Context ``[N, D]`` and query ``[Q, D]`` of the newest content that has a context."""
        answers = [turn.observation.content for turn in context.turns if turn.observation is not None]
        for content in reversed([context.prompt.content, *answers]):
            arrays = {part.name: part.values for part in content if isinstance(part, Array)}
            if CONTEXT in arrays:
                return self._checked(context, arrays)
        raise DataError(f"task {context.prompt.task.id!r}: nothing to choose from, expected an array {CONTEXT!r}")

    def _checked(self, context: Context, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        spec, task = self.spec, context.prompt.task.id
        things = arrays[CONTEXT]
        query = arrays[QUERY] if spec.queries and QUERY in arrays else np.zeros((0, spec.features), np.float32)
        if np.ndim(things) != 2 or things.shape[1] != spec.features or len(things) < spec.count:
            raise DataError(
                f"task {task!r}: {CONTEXT!r} must be [N >= {spec.count}, {spec.features}], got {list(things.shape)}"
            )
        if query.shape != (spec.queries, spec.features):
            wanted = [spec.queries, spec.features]
            raise DataError(f"task {task!r}: {QUERY!r} must be {wanted}, got {list(query.shape)}")
        return things, query

    def _scores(self, shown: Sequence[tuple[np.ndarray, np.ndarray]]) -> Float[Tensor, "C N"]:
        """Scores of all rows; -inf stands where a context has fewer rows than the longest one."""
        like = self._like
        inputs = [_inputs(torch.from_numpy(rows).to(like), torch.from_numpy(query).to(like)) for rows, query in shown]
        scores = self.out(F.silu(self.hidden(torch.cat(inputs))))[:, 0].split([len(one) for one in inputs])
        return nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=-torch.inf)

    def _asked(self, batch: Batch) -> tuple[list[Any], list[int], list[ChoiceRecord], tuple[Tensor, Tensor]]:
        """Contexts, each once, the one of each turn that has a trained action, its record, places in the table."""
        shown: list[Any] = []
        place: dict[int, int] = {}
        row: list[int] = []
        records: list[ChoiceRecord] = []
        line: list[int] = []
        column: list[int] = []
        mask = batch.mask.cpu()
        for i, trajectory in enumerate(batch.trajectories):
            start = 0
            for k, turn in enumerate(trajectory.turns):
                if bool(mask[i, start : start + turn.num_actions].any()):
                    record = turn.record
                    if not isinstance(record, ChoiceRecord) or len(record.index) != self.spec.count:
                        raise CapabilityError(f"this policy scores choices of {self.spec.count}, got {record!r}")
                    rows, query = self._shown(trajectory.context(k))
                    # The arrays of a prompt are shared by its group: identity tells them apart.
                    if id(rows) not in place:
                        place[id(rows)] = len(shown)
                        shown.append((rows, query))
                    row.append(place[id(rows)])
                    records.append(record)
                    line += [i] * self.spec.count
                    column += range(start, start + self.spec.count)
                start += turn.num_actions
        where = torch.tensor(line, device=self.device), torch.tensor(column, device=self.device)
        return shown, row, records, where

    def _comparable(self, other: Policy) -> SelectorPolicy:
        if not isinstance(other, SelectorPolicy) or other.spec.choice != self.spec.choice:
            raise CapabilityError("exact KL needs a TinySelector reference with the same choice")
        return other


def chosen_of(output: Content, rows: int) -> np.ndarray | None:
    """Indices of an output, int64 ``[K]``; None unless it is one array ``chosen`` of integers 0, ..., rows - 1."""
    found = [part.values for part in output if isinstance(part, Array) and part.name == CHOSEN]
    if len(found) != 1:
        return None
    values = np.asarray(found[0])
    if values.ndim != 2 or values.shape[1] != 1 or not len(values) or values.dtype.kind not in "fiu":
        return None
    flat = values[:, 0]
    if not np.isfinite(flat).all() or (flat != np.rint(flat)).any() or flat.min() < 0 or flat.max() >= rows:
        return None
    return flat.astype(np.int64)


def _inputs(rows: Float[Tensor, "N D"], query: Float[Tensor, "Q D"]) -> Float[Tensor, "N F"]:
    length = rows.norm(dim=1, keepdim=True)
    place = torch.linspace(0, 1, len(rows), dtype=rows.dtype, device=rows.device)[:, None]
    wanted = torch.cat([query, rows.mean(0, keepdim=True)])
    return torch.cat([rows, length, place, F.normalize(rows, dim=1) @ F.normalize(wanted, dim=1).T], 1)


def _gumbel(shape: tuple[int, ...], seed: int) -> Tensor:
    """Always float32 numbers: a policy in double precision meets the same draws."""
    return -torch.empty(shape).exponential_(generator=torch_generator(seed)).log()


def _act(index: Int[Tensor, "K"], temperature: float, logp: Tensor, mask: Tensor) -> Act:
    output = (Array(CHOSEN, index.numpy().astype(np.float32)[:, None]),)
    return Act(output, ChoiceRecord(index, temperature), logp, mask, torch.zeros(len(index), dtype=torch.int64))
