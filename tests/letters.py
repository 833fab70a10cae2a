"""A policy small enough to check by hand: every action is a letter from a table of logits, one row per position."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from saccade.core.batch import Batch
from saccade.core.content import Content, Text, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Split, Step, Tasks
from saccade.core.errors import DataError
from saccade.core.policy import Act, Critic, CriticSpec, LogProbs, Need, Policy, PolicySpec, Sampling, Values
from saccade.core.random import torch_generator
from saccade.core.reward import SampleReward
from saccade.core.trajectory import Context, Observation, Task, Trajectory

ALPHABET = "abcd"


@dataclass(frozen=True)
class Letters(PolicySpec):
    length: int = 3
    """Letters a turn."""

    def build(self, device: torch.device, seed: int = 0) -> LettersPolicy:
        return LettersPolicy(self, seed).to(device)


class LettersPolicy(Policy):
    provides = frozenset({"entropy", "kl", "distribution"})

    def __init__(self, spec: Letters, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        noise = torch.randn(spec.length, len(ALPHABET), generator=torch_generator(seed))
        self.logits = nn.Parameter(0.1 * noise)
        self.adapter = nn.Parameter(torch.zeros(len(ALPHABET)))
        self._adapted = True
        self.calls = 0

    def table(self) -> torch.Tensor:
        return torch.log_softmax(self.logits + (self.adapter if self._adapted else 0.0), -1)

    @torch.no_grad()
    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        self.calls += 1
        table = self.table()
        acts: list[Act] = []
        for seed in seeds:
            ids = table.argmax(-1)
            if not sampling.deterministic:
                ids = torch.multinomial(table.exp(), 1, generator=torch_generator(seed))[:, 0]
            logp = table.gather(1, ids[:, None])[:, 0]
            mask = torch.full_like(ids, not sampling.deterministic, dtype=torch.bool)
            acts.append(Act((Text(self._spell(ids)),), ids, logp, mask, torch.zeros_like(ids)))
        return [acts[i * n : (i + 1) * n] for i in range(len(contexts))]

    def log_prob(self, batch: Batch, need: Need = Need()) -> LogProbs:
        table = self.table()
        width = batch.mask.shape[1]
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        for i, trajectory in enumerate(batch.trajectories):
            flat = torch.cat([turn.record for turn in trajectory.turns])
            ids[i, : len(flat)] = flat
        rows = table[torch.arange(width) % self.spec.length]
        logp = torch.where(batch.mask, rows.gather(1, ids.T).T, 0.0)
        out = LogProbs(logp)
        if need.entropy:
            out.entropy = torch.where(batch.mask, -(rows.exp() * rows).sum(-1), 0.0)
        if need.kl_to is not None:
            other = need.kl_to.table().detach()[torch.arange(width) % self.spec.length]
            out.kl = torch.where(batch.mask, (rows.exp() * (rows - other)).sum(-1), 0.0)
        if need.distribution:
            out.distribution = rows.detach().expand(len(batch), -1, -1)
        return out

    def encode(self, contexts: Sequence[Context], outputs: Sequence[Content]) -> list[Act]:
        acts: list[Act] = []
        for output in outputs:
            text = text_of(output)
            if any(letter not in ALPHABET for letter in text):
                raise DataError(f"{text!r} has a letter outside {ALPHABET!r}")
            ids = torch.tensor([ALPHABET.index(letter) for letter in text])
            ones = torch.ones(len(text), dtype=torch.bool)
            acts.append(Act(output, ids, torch.zeros(len(text)), ones, torch.zeros_like(ids)))
        return acts

    def size(self, trajectory: Trajectory) -> int:
        return trajectory.num_actions

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), folder / "letters.pt")

    @contextmanager
    def without_adapters(self):
        self._adapted = False
        try:
            yield
        finally:
            self._adapted = True

    @staticmethod
    def _spell(ids: torch.Tensor) -> str:
        return "".join(ALPHABET[i] for i in ids.tolist())


@dataclass(frozen=True)
class LettersCritic(CriticSpec):
    def build(self, policy: PolicySpec, device: torch.device, seed: int = 0) -> LettersValues:
        return LettersValues(policy.length).to(device)


class LettersValues(Critic):
    """One value per position, whatever was said."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(length + 1))

    def forward(self, batch: Batch) -> Values:
        place = torch.arange(batch.mask.shape[1]) % (len(self.values) - 1)
        value = torch.where(batch.real, self.values[place], 0.0)
        return Values(value, self.values[-1].expand(len(batch)))


@dataclass(frozen=True)
class LetterTasks(Tasks):
    """ "Say this letter": the target is one of the alphabet's, by index."""

    count: int = 12
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def task(self, index: int) -> Task:
        letter = ALPHABET[(self.first + index) % 2]
        gold = ((Text(letter * 3),),)
        name = f"letters-{self.first + index}"
        return Task(name, (Text(f"say {letter}"),), target=letter, gold=gold)

    def split(self, name: Split) -> LetterTasks:
        return self if name == "train" else replace(self, first=self.first + 1000)


@dataclass(frozen=True)
class LetterGame(EnvironmentSpec):
    """Answers every turn with how many letters were right; ends when all were, or after ``max_turns``."""

    keep: int = -1
    """Turns an observation keeps; -1 for all."""

    def make(self) -> Environment:
        return _Game(self)


class _Game(Environment):
    def __init__(self, spec: LetterGame) -> None:
        self.spec = spec
        self.closed = False

    def reset(self, task: Task, seed: int) -> Observation | None:
        self.target = task.target
        return None

    def step(self, output: Content) -> Step:
        text = text_of(output)
        if text == "boom":
            raise RuntimeError("the game is broken")
        right = text.count(self.target)
        keep = None if self.spec.keep < 0 else self.spec.keep
        over = right == len(text)
        return Step(Observation((Text(f"{right} right"),), keep), float(right), terminated=over, info={"right": right})

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True, kw_only=True)
class RightLetters(SampleReward):
    """Share of letters that are the target's."""

    def score(self, trajectory: Trajectory) -> float:
        return trajectory.text.count(trajectory.task.target) / len(trajectory.text)
