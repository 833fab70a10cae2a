"""Rows of tokens for a batch: which token stands where, and which table entry it is. Index arithmetic, no model.

A row is ``[prompt | turn 0 | observation 0 | turn 1 | ...]``. The prompt is kept apart: P prefixes, R suffixes. A
trajectory whose context only grows is one row; where ``Observation.keep`` cuts turns off the front of the context a new
row begins, which shows again the turns that are still visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.core.batch import Batch
from saccade.core.content import Content
from saccade.core.trajectory import Context, Observation, Prompt, Trajectory, Turn


@dataclass(frozen=True, eq=False)
class Chunk:
    """A stretch of context as a model reads it."""

    ids: Int[Tensor, "S"]
    """int64 on the CPU; as many placeholders for each image as the model has visual positions for it."""
    images: tuple[Any, ...] = ()
    """What fills the placeholders, in order, in a form only the policy knows."""


class Reader(Protocol):
    """How a policy turns content into tokens."""

    def prompt(self, content: Content) -> Chunk:
        """All that comes before the first action."""
        ...

    def observe(self, turn: Turn, observation: Observation | None) -> Chunk:
        """All that stands between the last token of ``turn`` and the first action of the next one."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """P prefixes, R suffixes padded on the right, and M actions scored in them. Index tensors are on the CPU."""

    prompts: list[Prompt]
    """P."""
    prefix: list[Chunk]
    """P, what is read of each prompt."""
    prompt: Int[Tensor, "R"]
    """Prefix of each row."""
    ids: Int[Tensor, "R S"]
    length: Int[Tensor, "R"]
    """Tokens of each suffix."""
    images: list[tuple[Any, ...]]
    """Images in each suffix; the same object where two rows show the same observation."""
    row: Int[Tensor, "M"]
    at: Int[Tensor, "M"]
    """Suffix position whose output predicts the action; -1 is the last position of the prefix."""
    token: Int[Tensor, "M"]
    temperature: Float[Tensor, "M"]
    """float64, so that a double-precision model divides by the very number its samples were drawn at."""
    trajectory: Int[Tensor, "M"]
    column: Int[Tensor, "M"]
    """The action is entry ``[trajectory, column]`` of the table."""
    final_row: Int[Tensor, "N"] | None = None
    final_at: Int[Tensor, "N"] | None = None
    """Where the state after the last action is read, where that was asked for."""

    @property
    def last_token(self) -> Int[Tensor, "R"]:
        """The token at the end of each row, or of its prefix where the row is empty."""
        ends = zip(self.ids, self.prompt.tolist(), self.length.tolist(), strict=True)
        return torch.tensor([int(row[n - 1] if n else self.prefix[p].ids[-1]) for row, p, n in ends])

    @property
    def positions(self) -> int:
        """Tokens of prefixes and suffixes, without padding."""
        return sum(len(chunk.ids) for chunk in self.prefix) + int(self.length.sum())


def padded(chunks: Sequence[Int[Tensor, "S"]], pad: int = 0) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B"]]:
    """Token lists as one right-padded table, and their lengths."""
    return pad_sequence(list(chunks), batch_first=True, padding_value=pad), torch.tensor([len(c) for c in chunks])


def present(length: Int[Tensor, "B"], width: int) -> Bool[Tensor, "B S"]:
    """True at the positions of a right-padded table that hold tokens."""
    return torch.arange(width, device=length.device) < length[:, None]


def batch_rows(batch: Batch, reader: Reader, *, pad: int = 0, final: bool = False) -> Rows:
    """The rows in which all actions of the batch are scored, in the order of its trajectories.

    Args:
        batch: ``batch.prompts`` are read, not those of the trajectories, so that prompts may be altered (views).
        reader: the policy's own way of reading content.
        pad: token that fills rows up; never a placeholder for images.
        final: also place the states after the last actions.
    """
    builder = _Builder()
    final_rows: list[int] = []
    for i, (trajectory, prompt) in enumerate(zip(batch.trajectories, batch.group.tolist(), strict=True)):
        _add_trajectory(builder, i, prompt, trajectory, reader, final)
        final_rows.append(len(builder.prompt) - 1)
    rows = builder.rows(batch.prompts, reader, pad)
    if not final:
        return rows
    final_row = torch.tensor(final_rows)
    return replace(rows, final_row=final_row, final_at=rows.length[final_row] - 1)


def context_rows(contexts: Sequence[Context], reader: Reader, *, pad: int = 0) -> Rows:
    """One row per context, nothing scored; contexts of the same ``Prompt`` object share its prefix."""
    builder = _Builder()
    prompts = {id(context.prompt): context.prompt for context in contexts}
    place = {key: p for p, key in enumerate(prompts)}
    for context in contexts:
        builder.begin(place[id(context.prompt)])
        for turn in context.turns:
            builder.show(turn, reader.observe(turn, turn.observation))
    return builder.rows(list(prompts.values()), reader, pad)


def _add_trajectory(
    builder: _Builder, i: int, prompt: int, trajectory: Trajectory, reader: Reader, final: bool
) -> None:
    turns = trajectory.turns
    answers = [reader.observe(turn, turn.observation) for turn in turns[:-1]]
    if final:
        answers.append(Chunk(_NOTHING) if trajectory.final is None else reader.observe(turns[-1], trajectory.final))
    shown, column = -1, 0
    for k in range(len(turns) + final):
        first = _first_visible(trajectory, k)
        if first != shown:
            builder.begin(prompt)
            for turn, answer in zip(turns[first:k], answers[first:k], strict=True):
                builder.show(turn, answer)
        else:
            builder.add(answers[k - 1])
        shown = first
        if k < len(turns):
            builder.act(turns[k], i, column)
            column += turns[k].num_actions


def _first_visible(trajectory: Trajectory, k: int) -> int:
    """Index of the first turn that is visible at turn k; k = K is the state after the last turn."""
    final = trajectory.final
    if k == trajectory.num_turns and final is not None and final.keep is not None:
        return max(0, k - final.keep)
    return k - trajectory.context(k).index


_NOTHING = torch.zeros(0, dtype=torch.int64)
_CONTEXT = -1


class _Builder:
    """Collects segments row by row; everything per token is computed at once at the end."""

    def __init__(self) -> None:
        self.prompt: list[int] = []
        self.images: list[tuple[Any, ...]] = []
        self.ids: list[Tensor] = []
        self.segments: list[tuple[int, int, int]] = []
        """Row, trajectory and first column of each stretch of tokens; trajectory -1 is context."""
        self.temperature: list[float] = []

    def begin(self, prompt: int) -> None:
        self.prompt.append(prompt)
        self.images.append(())

    def add(self, chunk: Chunk) -> None:
        self._append(chunk.ids, _CONTEXT, 0, 1.0)
        self.images[-1] += chunk.images

    def show(self, turn: Turn, answer: Chunk) -> None:
        self._append(turn.record.ids, _CONTEXT, 0, 1.0)
        self.add(answer)

    def act(self, turn: Turn, trajectory: int, column: int) -> None:
        self._append(turn.record.ids, trajectory, column, turn.record.temperature)

    def _append(self, ids: Tensor, trajectory: int, column: int, temperature: float) -> None:
        self.ids.append(ids)
        self.segments.append((len(self.prompt) - 1, trajectory, column))
        self.temperature.append(temperature)

    def rows(self, prompts: list[Prompt], reader: Reader, pad: int) -> Rows:
        count = torch.tensor([len(ids) for ids in self.ids], dtype=torch.int64)
        token = torch.cat([_NOTHING, *self.ids])
        segments = torch.tensor(self.segments, dtype=torch.int64).view(-1, 3)
        row, trajectory, column = segments.repeat_interleave(count, 0).unbind(1)
        column = column + _steps(count)
        length = torch.zeros(len(self.prompt), dtype=torch.int64).index_add(0, segments[:, 0], count)
        position = _steps(length)
        ids = torch.full((len(self.prompt), int(length.max()) if len(length) else 0), pad)
        ids[row, position] = token
        scored = trajectory != _CONTEXT
        return Rows(
            prompts=prompts,
            prefix=[reader.prompt(prompt.content) for prompt in prompts],
            prompt=torch.tensor(self.prompt, dtype=torch.int64),
            ids=ids,
            length=length,
            images=self.images,
            row=row[scored],
            at=position[scored] - 1,
            token=token[scored],
            temperature=torch.tensor(self.temperature, dtype=torch.float64).repeat_interleave(count)[scored],
            trajectory=trajectory[scored],
            column=column[scored],
        )


def _steps(count: Tensor) -> Tensor:
    """0, 1, ..., count - 1 for each count, one after another."""
    return torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
