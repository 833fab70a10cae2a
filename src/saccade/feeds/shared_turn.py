"""Groups whose members share first turns, as in Ground-R1's rollout (arXiv:2505.20272)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade.core.errors import ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Act, Actor, Policy, Sampling
from saccade.core.state import TrainState
from saccade.core.trajectory import Context, Group
from saccade.feeds.on_policy import OnPolicy


class SharingActor:
    """Acts like another actor, but of n first turns only ``first`` are drawn; each is repeated n / first times."""

    def __init__(self, inner: Actor, first: int) -> None:
        self._inner = inner
        self._first = first

    @property
    def seeded(self) -> bool:
        return self._inner.seeded

    @property
    def version(self) -> int:
        return self._inner.version

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        times, rest = divmod(n, self._first)
        if rest or times < 2:
            return self._inner.act(contexts, n=n, sampling=sampling, seeds=seeds)
        acts = self._inner.act(contexts, n=self._first, sampling=sampling, seeds=seeds[::times])
        return [[act for act in found for _ in range(times)] for found in acts]

    def sync(self, policy: Policy, version: int) -> None:
        self._inner.sync(policy, version)


@dataclass(eq=False)
class SharedTurn(Feed):
    """The inner feed, with ``first`` different first turns in each group; each is continued group_size / first times.

    What is learned of a first turn then rests on several continuations. The group size must be a multiple of ``first``.
    """

    inner: Feed = field(default_factory=OnPolicy)
    first: int = 2
    """Ground-R1 continues 2 first turns 4 times each."""

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ConfigError(f"feed.first must be >= 1, got {self.first}")

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        if problem.group_size % self.first:
            raise ConfigError(
                f"train.group_size must be a multiple of feed.first = {self.first}, got {problem.group_size}"
            )
        yield from self.inner.stream(problem, SharingActor(actor, self.first), state)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    @property
    def stats(self) -> Mapping[str, float]:
        return self.inner.stats
