"""Rules that choose without learning, and what they get on the tasks of an evaluation: baselines of ``inflvg``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.core.content import Array, Content
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Metric, Models, Row
from saccade.core.random import numpy_generator
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Prompt, Task, Trajectory, forced_turn
from saccade.evaluate.samples import totals
from saccade.feeds.demonstrations import Script
from saccade.rewards.combine import scores


@dataclass(frozen=True)
class ChoiceRule(Script):
    """One turn: ``Array("chosen", float32 [count, 1])``."""

    count: int = 6

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"script.count must be >= 1, got {self.count}")

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        found = [part.values for part in task.prompt if isinstance(part, Array) and part.name == "context"]
        if len(found) != 1 or len(found[0]) < self.count:
            raise DataError(f"task {task.id!r}: expected one array 'context' of at least {self.count} rows")
        return (chosen(self.choose(task, len(found[0]), random)),)

    @abstractmethod
    def choose(self, task: Task, rows: int, random: np.random.Generator) -> list[int]:
        """``count`` different indices below ``rows``."""


@dataclass(frozen=True)
class MostRecent(ChoiceRule):
    """The last rows, newest first."""

    def choose(self, task: Task, rows: int, random: np.random.Generator) -> list[int]:
        return list(range(rows - 1, rows - 1 - self.count, -1))


@dataclass(frozen=True)
class AtRandom(ChoiceRule):
    """Any rows, all sets equally likely."""

    def choose(self, task: Task, rows: int, random: np.random.Generator) -> list[int]:
        return random.permutation(rows)[: self.count].tolist()


@dataclass(frozen=True, kw_only=True)
class GreedyOracle(ChoiceRule):
    """One after another the row with which the reward of the rows so far is largest. It sees the target."""

    reward: Reward
    """Looks at single trajectories and scores choices of any size."""

    def choose(self, task: Task, rows: int, random: np.random.Generator) -> list[int]:
        prompt = Prompt(task, task.prompt)
        taken: list[int] = []
        for _ in range(self.count):
            left = [i for i in range(rows) if i not in taken]
            tried = [Trajectory(prompt, [forced_turn(chosen([*taken, i]), None, 1)]) for i in left]
            totals = [score.total for score in scores(self.reward, tried)]
            taken.append(left[int(np.argmax([-np.inf if total is None else total for total in totals]))])
        return taken


def chosen(index: list[int]) -> Content:
    """These indices as an output."""
    return (Array("chosen", np.array(index, np.float32)[:, None]),)


@dataclass(frozen=True)
class Scripted(Metric):
    """Mean total of a reward, without its weight, over what a script puts out in place of the policy, once a task.

    The environment is not asked: the reward must see all it needs in prompt and outputs.
    """

    reward: Reward
    script: Script

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        played = [[self._played(group)] for group in groups]
        return [
            Row(group[0].task.id, total)
            for group, (total,) in zip(groups, totals(self.reward, played), strict=True)
            if total is not None
        ]

    def _played(self, group: Group) -> Trajectory:
        prompt = group[0].prompt
        outputs = self.script(prompt.task, numpy_generator(0, "scripted", prompt.task.id))
        return Trajectory(prompt, [forced_turn(output, None, 1) for output in outputs])
