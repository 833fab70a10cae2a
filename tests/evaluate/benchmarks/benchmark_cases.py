"""Outputs put into a benchmark's own environment, and errors in its files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade.core.content import Content, Image, Part, Text
from saccade.core.errors import DataError
from saccade.core.reward import Reward
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.evaluate.benchmark import Benchmark
from saccade.evaluate.samples import totals


def answered(benchmark: Benchmark, index: int, *output: str | Part) -> Trajectory:
    task = benchmark[index]
    parts: Content = tuple(Text(part) if isinstance(part, str) else part for part in output)
    return Trajectory(Prompt(task, benchmark.env().prompt(task)), [forced_turn(parts, None, 1)])


def on_task(task: Task, *output: str | Part) -> Trajectory:
    parts: Content = tuple(Text(part) if isinstance(part, str) else part for part in output)
    return Trajectory(Prompt(task, task.prompt), [forced_turn(parts, None, 1)])


def score_of(reward: Reward, trajectory: Trajectory) -> float | None:
    ((total,),) = totals(reward, [[trajectory]])
    return total


def column(benchmark: Benchmark, name: str, groups: list[list[Trajectory]]):
    metric = benchmark.metrics()[name]
    return metric.compute(metric.rows(groups, None))


def grey(height: int = 40, width: int = 60) -> Image:
    return Image(np.full((height, width, 3), 120, np.uint8))


def error_of(read: Callable[[], object], file: Path, row: int, field: str) -> str:
    """The message of a DataError that is one line and names file, row and field."""
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{file}: row {row}: {field}: found "), message
    return message
