"""What the methods for graphical interfaces are run on: drawn screens with a small model, or Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from saccade.core.content import Content, Text, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import PolicySpec
from saccade.core.schedule import Cosine
from saccade.core.trajectory import Task
from saccade.envs.actions import Action, NoAction, read_action
from saccade.envs.screens import DIRECTIONS, VOCABULARY, WORDS, Look
from saccade.feeds.demonstrations import Demonstrations, Gold, Script
from saccade.objectives.regression import NLL
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Size, Stage, Train, pick

CHECKPOINT = "Qwen/Qwen2.5-VL-3B-Instruct"
GRID = 4
"""Pixels between the places that the tiny policy has words for."""
ANSWER = "<tool>{action}</tool>"
"""Inside ``tool`` the tiny policy writes a coordinate as one token."""
THOUGHT = (
    "{prompt}\nThe screen is 256 x 256 pixels. Write <think>why</think><answer>the action</answer>, with one action "
    'as JSON: {"action": "click", "point": [x, y]}, {"action": "type", "text": "..."}, {"action": "scroll", '
    '"direction": "up"} (or down) or {"action": "done"}.'
)


@dataclass(frozen=True)
class Snapped(Script):
    """The task's own solution, clicks moved to the nearest multiples of ``grid`` pixels.

    A coordinate moves by at most half the grid, so that targets of ``grid + 3`` pixels a side are still hit inside.
    """

    grid: int = GRID

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ConfigError(f"grid must be >= 1, got {self.grid}")

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        return tuple(self._snapped(output, task) for output in Gold()(task, random))

    def _snapped(self, output: Content, task: Task) -> Content:
        action = read_action(text_of(output))
        if not isinstance(action, Action):
            raise DataError(f"task {task.id!r}: the gold output holds no action: {action.reason}")
        if action.point is not None:
            x, y = (float(round(v / self.grid) * self.grid) for v in action.point)
            action = replace(action, point=(x, y))
        return written(action)


@dataclass(frozen=True)
class Distracted(Snapped):
    """``Snapped``; before each action, with probability 1 - ``right``, one of its kind that heeds nothing comes first.

    That is any word typed, any direction scrolled, or a click anywhere. Where one action ends the episode, it takes the
    place of the right one; elsewhere the demonstrator mostly tries again.
    """

    right: float = 0.5
    side: int = 64
    """Pixels a side of the screen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.right <= 1:
            raise ConfigError(f"right must be in [0, 1], got {self.right}")
        if self.side < 1:
            raise ConfigError(f"side must be >= 1, got {self.side}")

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        outputs: list[Content] = []
        for output in super().__call__(task, random):
            if random.random() >= self.right:
                outputs.append(written(self._stray(read_action(text_of(output)), random)))
            outputs.append(output)
        return tuple(outputs)

    def _stray(self, action: Action | NoAction, random: np.random.Generator) -> Action:
        if isinstance(action, Action) and action.type == "type":
            return Action("type", text=WORDS[random.integers(len(WORDS))])
        if isinstance(action, Action) and action.type == "scroll":
            return Action("scroll", direction=DIRECTIONS[random.integers(len(DIRECTIONS))])
        x, y = random.integers(self.side // self.grid, size=2) * float(self.grid)
        return Action("click", point=(float(x), float(y)))


def written(action: Action) -> Content:
    """An action as the tiny policy writes it."""
    return (Text(ANSWER.replace("{action}", str(action))),)


def look(size: Size) -> Look:
    """Screens of the base size hold three icons; the tiny size one beside other things: it cannot tell icons apart."""
    return Look(size=pick(size, tiny=64, base=256), icon=pick(size, tiny=13, base=24), icons=pick(size, tiny=1, base=3))


def policy(size: Size) -> PolicySpec:
    """The checkpoint, or a network that sees 16 x 16 pixels at a time: half of the place that a widget may take."""
    if size == "base":
        return HFVisionLanguage(CHECKPOINT, dtype="bfloat16")
    return TinyVLM(width=64, patch=16, side=64, bins=64 // GRID, words=VOCABULARY)


def warm_up(
    size: Size, steps: int, script: Script = Snapped(), groups: int = 32, *, distracted: int = 0
) -> dict[str, Stage]:
    """Supervised start of the tiny network on demonstrations; the checkpoint brings along what it needs.

    After it come ``distracted`` steps with a demonstrator whose every other action heeds nothing, so that there is
    something left to learn whichever way the first steps went.
    """
    if size == "base":
        return {}
    train = Train(steps=steps, groups=groups, group_size=1, lr=2.5e-3, lr_schedule=Cosine(end=0.1, warmup=20))
    feed = Demonstrations(script=script)
    first = Stage(feed=feed, objective={"nll": NLL()}, train=train, average="action", rewards={})
    if not distracted:
        return {"warm_up": first}
    train = replace(train, steps=distracted, lr=1e-3)
    return {"warm_up": first, "distract": replace(first, feed=Demonstrations(script=Distracted()), train=train)}
