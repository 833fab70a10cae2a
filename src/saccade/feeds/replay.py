"""Replay: groups are learned from again, with the log-probabilities they were sampled with."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saccade.core.errors import ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Actor
from saccade.core.random import numpy_generator
from saccade.core.state import TrainState
from saccade.core.trajectory import Group
from saccade.feeds.on_policy import OnPolicy, outcome


@dataclass(eq=False)
class Replay(Feed):
    """Selective sample replay (VL-Rethinker, arXiv:2504.08837): old groups join the fresh ones.

    The buffer keeps the newest ``capacity`` groups whose outcomes differ. Every step ``round(fraction * groups)`` of
    them are drawn without replacement with probability proportional to ``spread ** power``, where a group's spread is
    the standard deviation of its outcomes (0 spread: no advantage, nothing to learn).
    """

    inner: Feed = field(default_factory=OnPolicy)
    capacity: int = 256
    fraction: float = 0.25
    """Replayed groups per fresh group."""
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.fraction < 0:
            raise ConfigError(f"replay needs capacity >= 1, fraction >= 0, got {self.capacity} and {self.fraction}")
        self._buffer: list[tuple[float, Group]] = []
        self._draws = 0
        self._stats: dict[str, float] = {}

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        for fresh in self.inner.stream(problem, actor, state):
            wanted = min(round(self.fraction * len(fresh)), len(self._buffer))
            old: list[Group] = []
            if wanted:
                weight = np.array([spread for spread, _ in self._buffer]) ** self.power
                random = numpy_generator(problem.seed, "replay", self._draws)
                chosen = random.choice(len(self._buffer), wanted, replace=False, p=weight / weight.sum())
                old = [self._buffer[int(i)][1] for i in chosen]
            self._draws += 1
            for group in fresh:
                paid = [value for t in group if (value := outcome(t, problem.rewards)) is not None]
                spread = statistics.pstdev(paid) if paid else 0.0
                if spread > 0:
                    self._buffer.append((spread, group))
            del self._buffer[: -self.capacity]
            self._stats = {**self.inner.stats, "replayed": float(len(old)), "buffer": float(len(self._buffer))}
            yield fresh + old

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "buffer": list(self._buffer), "draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._buffer = list(state["buffer"])
        self._draws = int(state["draws"])

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    @property
    def stats(self) -> Mapping[str, float]:
        return self._stats
