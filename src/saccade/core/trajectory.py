"""Tasks, prompts, turns and trajectories: what the policy saw and did, before it becomes the ``[N, T]`` table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saccade.core.content import Content, Image, text_of
from saccade.core.reward import Score

StopReason = Literal["done", "truncated", "budget", "invalid", "error"]
"""Why an episode ended: the task is over; a limit outside the task (turns); the policy's own action budget; the
environment gave up on malformed outputs; the environment raised (tolerated by the feed)."""


@dataclass(frozen=True, eq=False)
class Task:
    """One problem instance. ``target`` is for rewards only: nothing may put it into an observation."""

    id: str
    """Stable across runs: seeds and reward history hang on it."""
    prompt: Content
    target: Any = None
    gold: tuple[Content, ...] = ()
    """Outputs, one a turn, that solve the task where a solution is known: rewards must give them their maximum."""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the policy sees first. One object per group; identity matters, trajectories point to it."""

    task: Task
    content: Content


@dataclass(frozen=True, eq=False)
class Observation:
    content: Content
    keep: int | None = None
    """None appends to the context. k: from here on the context is the prompt and the last k turns."""


@dataclass(eq=False)
class Turn:
    """One call of the policy and the environment's answer."""

    output: Content
    record: Any
    """The policy's own memory of the turn, from which it recomputes log-probabilities; CPU tensors; picklable."""
    logp: Float[Tensor, "T"]
    """Behaviour log-probabilities, float32, one per action."""
    mask: Bool[Tensor, "T"]
    """Which actions may be trained."""
    segment: Int[Tensor, "T"]
    """Kind of action, policy-defined; zeros if there is one kind."""
    version: int = 0
    """Version of the weights that acted."""
    observation: Observation | None = None
    """The environment's answer; None after the last turn."""
    reward: float = 0.0
    """Paid by the environment for this turn."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """The environment's notes on this turn."""

    def __post_init__(self) -> None:
        if not self.logp.shape == self.mask.shape == self.segment.shape or self.logp.ndim != 1:
            shapes = f"{tuple(self.logp.shape)}, {tuple(self.mask.shape)}, {tuple(self.segment.shape)}"
            raise ValueError(f"Turn.logp, mask and segment must share one shape [T], got {shapes}")

    @property
    def num_actions(self) -> int:
        return self.logp.shape[0]


@dataclass(frozen=True, eq=False)
class Context:
    """What the policy sees when it acts: the prompt and the turns that are still visible, oldest first."""

    prompt: Prompt
    turns: tuple[Turn, ...] = ()

    @property
    def index(self) -> int:
        """Number of visible turns before this one."""
        return len(self.turns)


@dataclass(eq=False)
class Trajectory:
    """One episode, from prompt to stop."""

    prompt: Prompt
    turns: list[Turn] = field(default_factory=list)
    stop: StopReason = "done"
    scores: dict[str, Score] = field(default_factory=dict)
    """By reward name; filled by ``rollout.score``."""
    seed: int = 0
    final: Observation | None = None
    """What the environment showed after the last turn, where it shows anything: values may bootstrap from it."""

    @property
    def task(self) -> Task:
        return self.prompt.task

    @property
    def output(self) -> Content:
        """Output of the last turn; empty before the first."""
        return self.turns[-1].output if self.turns else ()

    @property
    def text(self) -> str:
        """Text of the last output."""
        return text_of(self.output)

    @property
    def image(self) -> Image | None:
        """Last image of the last output, or None."""
        images = [part for part in self.output if isinstance(part, Image)]
        return images[-1] if images else None

    @property
    def num_turns(self) -> int:
        return len(self.turns)

    @property
    def num_actions(self) -> int:
        return sum(turn.num_actions for turn in self.turns)

    def context(self, k: int) -> Context:
        """What the policy saw at turn k (``k == num_turns``: what it would see next)."""
        keep = next((o.keep for t in reversed(self.turns[:k]) if (o := t.observation) and o.keep is not None), None)
        first = 0 if keep is None else max(0, k - keep)
        return Context(self.prompt, tuple(self.turns[first:k]))

    @property
    def grows(self) -> bool:
        """Whether every context is a prefix of the next one, so that one row holds the whole trajectory."""
        return all(turn.observation is None or turn.observation.keep is None for turn in self.turns[:-1])


Group = list[Trajectory]
"""Trajectories of the same task, compared with each other; they share one ``Prompt`` object."""


def forced_turn(output: Content, record: Any, actions: int, *, segment: Int[Tensor, "T"] | None = None) -> Turn:
    """A turn somebody else wrote: trainable, its behaviour log-probabilities unknown and therefore 0."""
    kind = torch.zeros(actions, dtype=torch.int64) if segment is None else segment
    return Turn(output, record, torch.zeros(actions), torch.ones(actions, dtype=torch.bool), kind)
