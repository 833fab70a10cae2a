"""What the files in a run's folder hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from saccade.cli.report.data import Plain
from saccade.core import config
from saccade.core.errors import CheckpointError, DataError
from saccade.evaluate.result import HELD_OUT, Result, result_folder
from saccade.report import energy
from saccade.report.gallery import read_groups
from saccade.report.log import read_log


class RunFiles:
    """The files of a run's folder, each read once.

    Raises:
        CheckpointError: the folder holds no run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.yaml").exists():
            raise CheckpointError(f"{folder} holds no run: there is no config.yaml")

    @cached_property
    def settings(self) -> Plain:
        """``config.yaml`` as plain data: runs of older versions are read as well."""
        path = self.folder / "config.yaml"
        found = config.load(path.read_text(encoding="utf-8"), str(path))
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected settings, got {type(found).__name__}")
        return found

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting by its dotted name."""
        value: Any = self.settings
        for key in name.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value

    @cached_property
    def facts(self) -> Plain:
        path = self.folder / "environment.json"
        return _json(path) if path.exists() else {}

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or self.folder.resolve().name)

    @property
    def recipe_name(self) -> str:
        """The recipe's; an ablation's runs are called after it and their arm."""
        return self.name.partition(",")[0]

    @cached_property
    def records(self) -> list[dict[str, float]]:
        return read_log(self.folder / "metrics.jsonl")

    @cached_property
    def steps(self) -> list[dict[str, float]]:
        """Records of training steps, evaluations left out; with the drift of lengths, where their spread is known."""
        found = [record for record in self.records if not any(key.startswith("eval/") for key in record)]
        spread = next((r["actions/std"] for r in found if "actions/std" in r), 0.0)
        if not spread > 0:
            return found
        first = next(r["actions"] for r in found if "actions/std" in r)
        return [{**r, "drift": abs(r["actions"] - first) / spread} if "actions" in r else r for r in found]

    @cached_property
    def times(self) -> list[dict[str, float]]:
        return read_log(self.folder / "timing.jsonl")

    @cached_property
    def energy(self) -> energy.Energy | None:
        return energy.summary(self.folder)

    @cached_property
    def results(self) -> dict[str, list[tuple[int, Result]]]:
        """Evaluations by suite, in the order of training."""
        found: dict[str, list[tuple[int, Result]]] = {}
        for path in sorted(self.folder.glob("evaluations/*/step-*/report.json")):
            step = path.parent.name.removeprefix("step-")
            if step.isdigit():
                found.setdefault(path.parent.parent.name, []).append((int(step), Result.load(path.parent)))
        return {suite: sorted(some, key=lambda one: one[0]) for suite, some in found.items()}

    @cached_property
    def kept(self) -> dict[str, list[Plain]]:
        """Rollouts by moment, as ``snapshot`` wrote them: before and after, or else those of the last steps."""
        rollouts = self.folder / "rollouts"
        found = {moment: read_groups(rollouts / f"{moment}.json") for moment in ("before", "after")}
        if any(found.values()):
            return {moment: groups for moment, groups in found.items() if groups}
        if HELD_OUT in self.results and (self.evaluated / "rollouts.json").exists():
            return {"after": read_groups(self.evaluated / "rollouts.json")}
        last = sorted(rollouts.glob("step-*.json"))[-1:]
        return {f"step {int(path.stem.removeprefix('step-'))}": read_groups(path) for path in last}

    @property
    def evaluated(self) -> Path:
        """Folder of the last held-out evaluation."""
        return result_folder(self.folder, HELD_OUT, self.results[HELD_OUT][-1][0])

    @property
    def pictures(self) -> Path:
        """Folder with the pictures of ``kept``."""
        ours = self.folder / "rollouts" / "images"
        return ours if ours.exists() or HELD_OUT not in self.results else self.evaluated / "images"

    def moment(self, name: str) -> list[Plain]:
        """Rollouts of a moment as detectors call it: before, after, early or late in training."""
        rollouts = self.folder / "rollouts"
        if name in ("before", "after"):
            return read_groups(rollouts / f"{name}.json")
        steps = sorted(rollouts.glob("step-*.json"))
        return read_groups(steps[0 if name == "early" else -1]) if steps else []

    @property
    def trajectories(self) -> float | None:
        """How many were learned from."""
        if self.energy is not None and len(self.records) > 0:
            return float(self.energy.rollouts)
        size, groups = self.setting("train.group_size"), self.setting("train.groups")
        if not isinstance(size, int) or not isinstance(groups, int) or not self.steps:
            return None
        # A step in which no group was worth keeping learns from all that were drawn.
        return math.fsum(record.get("feed/groups") or groups for record in self.steps) * size


def _json(path: Path) -> Plain:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def class_name(described: Any) -> str:
    """Name of the class that a setting describes."""
    return str(described["class"]).rpartition(".")[2] if isinstance(described, Mapping) and "class" in described else ""
