"""Means over some of a benchmark's tasks: published tables have columns for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saccade.core.metric import Metric, Models, Row
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Task
from saccade.evaluate.samples import totals


@dataclass(frozen=True)
class MeanWhere(Metric):
    """Mean of a reward over the tasks whose ``info`` has this value in this field (or, in a tuple, among others)."""

    reward: Reward
    field: str
    value: str | bool

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        mine = [group for group in groups if self._holds(group[0].task)]
        return [
            Row(group[0].task.id, total)
            for group, found in zip(mine, totals(self.reward, mine), strict=True)
            for total in found
            if total is not None
        ]

    def _holds(self, task: Task) -> bool:
        found = task.info.get(self.field)
        return self.value in found if isinstance(found, tuple) else found == self.value


def by_value(reward: Reward, columns: Mapping[str, tuple[str, str | bool]]) -> dict[str, Metric]:
    """One ``MeanWhere`` a column: its name to the field and the value that a task must have."""
    return {name: MeanWhere(reward, field, value) for name, (field, value) in columns.items()}
