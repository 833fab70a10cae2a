"""Watchers of a run that write it down: metrics, times, a progress display, TensorBoard, rollouts for the gallery.

All have the three methods of ``learn.loop.Observer``.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from saccade.core.batch import Batch
from saccade.core.state import TrainState
from saccade.report.snapshot import Pictures, snapshot


def line(step: int, values: Mapping[str, float]) -> str:
    """One line of a log: a JSON object with sorted keys; numbers that are not finite are null."""
    plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return json.dumps({**plain, "step": step}, sort_keys=True) + "\n"


def read_log(path: Path) -> list[dict[str, float]]:
    """The complete lines of a log, null as NaN; empty if there is no file."""
    if not path.exists():
        return []
    records = [record for _, record in _records(path.read_bytes())]
    return [{key: math.nan if value is None else value for key, value in record.items()} for record in records]


def truncate_log(path: Path, step: int) -> None:
    """Cut a log after its last complete line of ``step`` or earlier; at step 0 nothing is kept."""
    if not path.exists():
        return
    kept = 0
    if step > 0:
        for end, record in _records(path.read_bytes()):
            if record["step"] > step:
                break
            kept = end
    with path.open("r+b") as file:
        file.truncate(kept)


def _records(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Complete lines from the start, each with the position behind it; a kill may leave half a line at the end."""
    position = 0
    for row in data.splitlines(keepends=True):
        position += len(row)
        if not row.endswith(b"\n"):
            return
        try:
            record = json.loads(row)
        except ValueError:
            return
        yield position, record


class MetricsLog:
    """``metrics.jsonl``: what a step was like, one line a step, and evaluations under ``eval/``.

    It holds nothing but numbers that the recipe and its seed determine, so that a run that was killed and resumed
    writes the same bytes as one that was not. Times go to ``timing.jsonl``.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.times = folder / "metrics.jsonl", folder / "timing.jsonl"

    def start(self, state: TrainState, recipe: object) -> None:
        """Forget what was written after the checkpoint the run starts from."""
        truncate_log(self.path, state.step)
        truncate_log(self.times, state.step)

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        _append(self.path, line(state.step, record))
        _append(self.times, line(state.step, {f"seconds/{key}": value for key, value in seconds.items()}))

    def evaluation(self, step: int, flat: Mapping[str, float]) -> None:
        """Add what an evaluation after ``step`` steps found."""
        _append(self.path, line(step, {f"eval/{key}": value for key, value in flat.items()}))

    def finish(self, state: TrainState) -> None:
        return


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


class OnlyIn:
    """Passes on what happens in one recipe's run, and nothing of the stages that come before it."""

    def __init__(self, recipe: object, observer: Any) -> None:
        self._recipe, self._observer = recipe, observer
        self._watching = False

    def start(self, state: TrainState, recipe: object) -> None:
        self._watching = recipe is self._recipe
        if self._watching:
            self._observer.start(state, recipe)

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        if self._watching:
            self._observer.step(state, batch, record, seconds)

    def finish(self, state: TrainState) -> None:
        if self._watching:
            self._observer.finish(state)


class Console:
    """Progress on the terminal: step, reward, KL, length, samples per second, time left.

    A bar on a terminal; elsewhere about twenty plain lines a phase. Used with ``with``, so that an exception does not
    leave the terminal in disorder.

    Args:
        phase: the name of what is being trained, from the recipe that ``start`` gets (a stage or the method itself).
        terminal: where to write; default is standard output.
    """

    def __init__(self, phase: Callable[[Any], str], terminal: Terminal | None = None) -> None:
        self._phase = phase
        self._terminal = terminal or Terminal(highlight=False)
        self._progress: Progress | None = None

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def start(self, state: TrainState, recipe: object) -> None:
        self._close()
        self._title, self._total, self._pace = self._phase(recipe), state.total, 0.0
        self._shown = time.monotonic()
        if self._terminal.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[stats]}"),
            )
            self._progress = Progress(*columns, console=self._terminal)
            self._task = self._progress.add_task(self._title, total=state.total, completed=state.step, stats="")
            self._progress.start()

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        took = seconds["step"]
        self._pace = took if self._pace == 0 else 0.9 * self._pace + 0.1 * took
        stats = self._stats(state, len(batch), record)
        if self._progress is not None:
            self._progress.update(self._task, completed=state.step, stats=stats)
        elif state.step % max(1, self._total // 20) == 0 or state.step == self._total:
            self._terminal.print(f"{self._title} {state.step}/{self._total}  {stats}", soft_wrap=True)

    def finish(self, state: TrainState) -> None:
        self._close()

    def _stats(self, state: TrainState, samples: int, record: Mapping[str, float]) -> str:
        parts = [f"{name} {record[key]:.3g}" for name, key in self._chosen(record)]
        left = round(self._pace * (state.total - state.step))
        parts += [f"{samples / max(self._pace, 1e-9):.0f} samples/s", f"ETA {left // 60}:{left % 60:02d}"]
        return "  ".join(parts)

    @staticmethod
    def _chosen(record: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        # Demonstrations pay nothing that is worth showing; their loss is.
        rewarded = any(key.startswith("reward/") for key in record)
        yield ("reward", "reward") if rewarded else ("loss", "loss/total")
        kl = next((key for key in record if key.endswith("/kl") and not key.startswith("loss/")), None)
        if kl is not None:
            yield "KL", kl
        yield "length", "actions"

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def tensorboard_installed() -> bool:
    """Whether ``TensorBoardLog`` can be used."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardLog:
    """Copies the lines of ``metrics.jsonl``, evaluations included, into ``folder/tensorboard``.

    Must stand behind the observers that write that file.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics, self._events = folder / "metrics.jsonl", folder / "tensorboard"

    def start(self, state: TrainState, recipe: object) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._events), purge_step=state.step + 1 if state.step else None)
        self._position = self._metrics.stat().st_size if state.step else 0
        self._copy()

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        self._copy()

    def finish(self, state: TrainState) -> None:
        self._copy()
        self._writer.close()

    def _copy(self) -> None:
        with self._metrics.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        start = self._position
        for end, record in _records(data):
            for key, value in record.items():
                if key != "step" and value is not None:
                    self._writer.add_scalar(key, value, record["step"])
            self._position = start + end


class RolloutLog:
    """Keeps the first ``keep`` groups of every ``every``-th step, and of the last, in ``folder/rollouts``."""

    def __init__(self, folder: Path, every: int = 50, keep: int = 3) -> None:
        self._folder, self._every, self._keep = folder / "rollouts", every, keep

    def start(self, state: TrainState, recipe: object) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob("step-*.json"):
            if int(path.stem.removeprefix("step-")) > state.step:
                path.unlink()

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        if state.step % self._every and state.step != state.total:
            return
        advantage = _mean_advantage(batch)
        pictures = Pictures(self._folder)
        rows = batch.group.tolist()
        groups = []
        for g in range(min(self._keep, len(batch.prompts))):
            members = [i for i, h in enumerate(rows) if h == g]
            group = [batch.trajectories[i] for i in members]
            paid = [advantage[i] for i in members]
            groups.append(snapshot(group, pictures, batch.reward_weight, paid, state.policy.preview))
        (self._folder / f"step-{state.step:06d}.json").write_text(json.dumps(groups))

    def finish(self, state: TrainState) -> None:
        return


def _mean_advantage(batch: Batch) -> list[float | None]:
    """Mean advantage of each trajectory's trained actions; None where it has none."""
    if batch.advantage is None:
        return [None] * len(batch)
    actions = batch.mask.sum(1)
    mean = torch.where(batch.mask, batch.advantage, 0.0).sum(1) / actions.clamp(min=1)
    return [value if n else None for value, n in zip(mean.tolist(), actions.tolist(), strict=True)]
