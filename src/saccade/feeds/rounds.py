"""Pairs that are kept and learned from again and again, and renewed with what the policy has become able to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saccade.core.errors import ConfigError
from saccade.core.feed import Feed, Problem
from saccade.core.policy import Actor
from saccade.core.random import numpy_generator
from saccade.core.reward import Reward
from saccade.core.state import TrainState
from saccade.core.trajectory import Group, Task, Trajectory
from saccade.feeds.on_policy import OnPolicy, outcome

Pair = tuple[Trajectory, Trajectory]
"""Winner and loser, as they were sampled."""


@dataclass(eq=False)
class PairRounds(Feed):
    """Preference pairs in rounds of self-play (HermesFlow, arXiv:2502.12148).

    A round begins with ``draws`` batches of the inner feed. Of all samples of a task the best, w', and the worst, l',
    renew the task's pair (w, l), unless the outcome of w' is ``least`` or less:

        (w', l')  for a task without a pair,    (w', w)  if w' is better than w,    (w', l)  otherwise

    and where the two of the new pair are equal in outcome the old one stays, or there is none. Then ``steps`` batches
    of pairs are yielded, all records in a new order every epoch. Tasks with the same ``info[record]`` are one record,
    whose pairs are yielded together; a record counts once each of its tasks has a pair.

    One round of all steps is a fixed set of pairs of the starting policy, tokens and all. The reference is that of the
    run: if it follows (``core.reference.Every``), losers of earlier rounds are pushed away anew in each. As long as no
    record has pairs, every batch is a first sample alone, which has no preference, and the draws are repeated.
    """

    inner: Feed = field(default_factory=OnPolicy)
    steps: int = 100
    """Batches of a round."""
    draws: int = 1
    """Batches of the inner feed at the start of a round."""
    least: float = -math.inf
    """What a winner's outcome must exceed."""
    record: str = "record"
    """Key of ``task.info``, or a column of the user's data; a task without it is a record of its own."""

    def __post_init__(self) -> None:
        for name in ("steps", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"feed.{name} must be >= 1, got {getattr(self, name)}")
        self._records: dict[str, dict[str, Pair | None]] = {}
        self._round = self._left = self._used = 0
        self._stats: dict[str, float] = {}

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        drawing = self.inner.stream(problem, actor, state)
        while True:
            drawn: list[Group] = []
            if self._left == 0:
                drawn = [group for _ in range(self.draws) for group in next(drawing)]
                renewed = self._renew(drawn, problem.rewards)
                self._stats = {**self.inner.stats, "renewed": float(renewed)}
            records = self._complete()
            if drawn and records:
                self._round, self._left, self._used = self._round + 1, self.steps, 0
            self._stats |= {"round": float(self._round), "pairs": float(sum(map(len, records)))}
            if not records:
                yield [drawn[0][:1]]
                continue
            batch: list[Group] = []
            while len(batch) < problem.groups:
                epoch, place = divmod(self._used, len(records))
                order = numpy_generator(problem.seed, "pairs", self._round, epoch).permutation(len(records))
                batch += [_group(pair) for pair in records[int(order[place])]]
                self._used += 1
            self._left -= 1
            yield batch

    def _renew(self, drawn: list[Group], rewards: Mapping[str, Reward]) -> int:
        """Put what was drawn into the pairs; how many of them are new."""
        samples: dict[str, list[Trajectory]] = {}
        for group in drawn:
            samples.setdefault(group[0].task.id, []).extend(group)
        renewed = 0
        for members in samples.values():
            task = members[0].task
            pairs = self._records.setdefault(self._of(task), {})
            old = pairs.get(task.id)
            pairs[task.id] = new = self._pair(members, old, rewards)
            renewed += new is not old
        return renewed

    def _pair(self, members: list[Trajectory], old: Pair | None, rewards: Mapping[str, Reward]) -> Pair | None:
        scored = [(paid, -i) for i, one in enumerate(members) if (paid := outcome(one, rewards)) is not None]
        if not scored or max(scored)[0] <= self.least:
            return old
        (best, first), (worst, last) = max(scored), min(scored)
        winner, loser, paid = members[-first], members[-last], worst
        if old is not None:
            before, behind = (_known(one, rewards) for one in old)
            loser, paid = (old[0], before) if best > before else (old[1], behind)
        return (winner, loser) if best > paid else old

    def _of(self, task: Task) -> str:
        return str(task.info.get(self.record, task.info.get("columns", {}).get(self.record, task.id)))

    def _complete(self) -> list[list[Pair]]:
        records: list[list[Pair]] = []
        for pairs in self._records.values():
            found = [pair for pair in pairs.values() if pair is not None]
            if len(found) == len(pairs):
                records.append(found)
        return records

    def state_dict(self) -> dict[str, Any]:
        return {
            "inner": self.inner.state_dict(),
            "records": {record: dict(pairs) for record, pairs in self._records.items()},
            "round": self._round,
            "left": self._left,
            "used": self._used,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._records = {record: dict(pairs) for record, pairs in state["records"].items()}
        self._round, self._left, self._used = int(state["round"]), int(state["left"]), int(state["used"])

    @property
    def needs_reference(self) -> bool:
        return self.inner.needs_reference

    @property
    def stats(self) -> Mapping[str, float]:
        return self._stats


def _known(trajectory: Trajectory, rewards: Mapping[str, Reward]) -> float:
    paid = outcome(trajectory, rewards)
    assert paid is not None, "only what was scored becomes part of a pair"
    return paid


def _group(pair: Pair) -> Group:
    """The pair as a group: of two rounds the two have a prompt each, of the same task."""
    winner, loser = pair
    return [winner, replace(loser, prompt=winner.prompt)]
