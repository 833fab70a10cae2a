"""``Result``: what an evaluation found, as the files ``report.json`` and ``rows.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Row, clustered_mean

VERSION = 1
HELD_OUT = "held-out"
"""The suite that is a run's own evaluation."""
Tier = Literal["set", "sample", "state"]


@dataclass(frozen=True)
class Number:
    """A metric's value and what must agree before it can be compared with another one."""

    tier: Tier
    estimate: Estimate
    identity: Mapping[str, Any] | None = None
    """Of a distance between sets: the extractor, how many samples, which reference. None: nothing but n matters."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that are usually printed beside this one."""


@dataclass(frozen=True)
class Entry:
    """One row of a metric that has one number a trajectory or task, with the category of its task."""

    row: Row
    category: str = ""


@dataclass
class Result:
    """Metrics of one policy on one set of tasks.

    Everything but ``seconds`` and the rates is determined by policy, tasks and seed.
    """

    suite: str
    """``held-out`` for a run's own evaluation, else the name of a benchmark."""
    of: Mapping[str, Any]
    """``run`` or ``model``: path or name; ``name``: of the recipe; ``step``: of the run; ``weights``: their SHA-256."""
    seed: int
    tasks: int
    """How many were evaluated."""
    n: int
    """Rollouts per task."""
    sampling: Mapping[str, Any]
    """Empty if the outputs were given."""
    metrics: dict[str, Number]
    rows: dict[str, list[Entry]] = field(default_factory=dict)
    """Of the metrics that have one number a trajectory or task: what tables by category and paired tests need."""
    against: Mapping[str, Any] | None = None
    """Paired tests against another result: ``of`` (the other), ``tests`` (by metric)."""
    seconds: float = 0.0
    """Spent on rollouts and scoring, work found in the cache included."""
    rollouts_per_second: float | None = None
    tokens_per_second: float | None = None
    """Actions per second; None where a policy has no actions (outputs that were given)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the benchmark: part, folder, what else it has; empty for a run's own tasks."""

    @property
    def categories(self) -> dict[str, dict[str, Estimate]]:
        """Each metric's mean in every category, for tasks that have one."""
        found: dict[str, dict[str, Estimate]] = {}
        for name, entries in self.rows.items():
            parts: dict[str, list[Row]] = {}
            for entry in entries:
                if entry.category:
                    parts.setdefault(entry.category, []).append(entry.row)
            if parts:
                found[name] = {category: clustered_mean(rows) for category, rows in sorted(parts.items())}
        return found

    def values(self, name: str) -> list[Row]:
        """The rows of a metric; none where it has no number a task."""
        return [entry.row for entry in self.rows.get(name, ())]

    def save(self, folder: Path) -> None:
        """Write ``report.json`` and ``rows.jsonl``; numbers that are not finite are null.

        The report comes last and at once, so that where there is one the rows are whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "rows.jsonl", "".join(self._lines()))
        _replace(folder / "report.json", json.dumps(_plain(self._report()), indent=1, allow_nan=False) + "\n")

    def _lines(self) -> list[str]:
        return [
            json.dumps(
                {
                    "metric": name,
                    "task": entry.row.task,
                    "category": entry.category,
                    "value": _finite(float(entry.row.value)),
                }
            )
            + "\n"
            for name, entries in self.rows.items()
            for entry in entries
        ]

    def _report(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "suite": self.suite,
            "settings": self.settings,
            "of": self.of,
            "seed": self.seed,
            "tasks": self.tasks,
            "n": self.n,
            "sampling": self.sampling,
            "metrics": {
                name: {
                    "tier": number.tier,
                    **_of(number.estimate),
                    "identity": number.identity,
                    **({"details": number.details} if number.details else {}),
                }
                for name, number in self.metrics.items()
            },
            "categories": {
                name: {category: _of(estimate) for category, estimate in parts.items()}
                for name, parts in self.categories.items()
            },
            "against": self.against,
            "seconds": self.seconds,
            "rollouts_per_second": self.rollouts_per_second,
            "tokens_per_second": self.tokens_per_second,
            "versions": self.versions,
            "commit": self.commit,
        }

    @classmethod
    def load(cls, folder: Path) -> Result:
        """What ``save`` wrote.

        Raises:
            DataError: there is no such result, it is damaged, or it is of another version.
        """
        path = folder / "report.json"
        if not path.exists():
            raise DataError(f"{folder} holds no evaluation: there is no report.json")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}") from None
        if not isinstance(plain, dict) or plain.get("version") != VERSION:
            found = plain.get("version") if isinstance(plain, dict) else type(plain).__name__
            raise DataError(f"{path}: found version {found!r}, expected {VERSION}")
        try:
            return cls(
                suite=str(plain["suite"]),
                of=dict(plain["of"]),
                seed=int(plain["seed"]),
                tasks=int(plain["tasks"]),
                n=int(plain["n"]),
                sampling=dict(plain["sampling"]),
                metrics={name: _number(found) for name, found in plain["metrics"].items()},
                rows=_read_rows(folder / "rows.jsonl"),
                against=plain["against"],
                seconds=float(plain["seconds"]),
                rollouts_per_second=plain["rollouts_per_second"],
                tokens_per_second=plain["tokens_per_second"],
                versions=dict(plain["versions"]),
                commit=str(plain["commit"]),
                settings=dict(plain["settings"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def result_folder(run: Path, suite: str, step: int) -> Path:
    """Where a run keeps its result on a suite after so many steps."""
    return run / "evaluations" / suite / f"step-{step:06d}"


def results_of(run: Path, suite: str = HELD_OUT) -> dict[int, Path]:
    """Folders of a run's results on a suite, by step, in order."""
    found = (run / "evaluations" / suite).glob("step-*/report.json")
    return {int(path.parent.name.removeprefix("step-")): path.parent for path in sorted(found)}


def refuse_settings(before: Result, *, suite: str, n: int, sampling: Mapping[str, Any], seed: int) -> None:
    """Let through only evaluations that were made alike; this can be known before anything is rolled out.

    Of outputs that were given, how they were drawn is not known and not compared.

    Raises:
        ConfigError: suite, rollouts per task, sampling or seed differ.
    """
    drawn = {"sampling": sampling, "seed": seed} if sampling and before.sampling else {}
    for what, new in {"suite": suite, "n": n, **drawn}.items():
        old = getattr(before, what)
        if _plain(old) != _plain(new):
            raise ConfigError(f"the two evaluations cannot be compared: {what} is {_brief(old)} and {_brief(new)}")


def refuse_unequal(before: Result, after: Result) -> None:
    """Let through only results whose numbers say something about each other.

    Raises:
        ConfigError: suite, rollouts per task, sampling or seed differ, they share no task, or a distance between sets
            was taken with another extractor, reference or number of samples.
    """
    refuse_settings(before, suite=after.suite, n=after.n, sampling=after.sampling, seed=after.seed)
    both = [name for name in after.metrics if name in before.metrics]
    if not both:
        raise ConfigError("the two evaluations cannot be compared: they have no metric in common")
    for name in both:
        _refuse_identity(name, before.metrics[name], after.metrics[name])
    paired = [name for name in both if before.rows.get(name) and after.rows.get(name)]
    shared = {e.row.task for name in paired for e in before.rows[name]} & {
        e.row.task for name in paired for e in after.rows[name]
    }
    if paired and not shared:
        raise ConfigError("the two evaluations cannot be compared: they have no task in common")


def comparable(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
    """Nothing, where values of a metric with these identities (``Distributional.identity``) may be compared.

    Raises:
        ConfigError: they are of different metrics, networks, numbers of pictures, reference sets or settings.
    """
    first, second = old or {}, new or {}
    what = [key for key in dict.fromkeys((*first, *second)) if _plain(first.get(key)) != _plain(second.get(key))]
    if what:
        differ = ", ".join(f"{key} is {_brief(first.get(key))} and {_brief(second.get(key))}" for key in what)
        raise ConfigError(f"metric {name} cannot be compared: {differ}")


def _refuse_identity(name: str, old: Number, new: Number) -> None:
    comparable(name, old.identity, new.identity)
    if old.tier == "set" and old.estimate.n != new.estimate.n:
        raise ConfigError(
            f"metric {name} cannot be compared: it is of {old.estimate.n} and of {new.estimate.n} samples, "
            "and its bias depends on their number"
        )


def _brief(value: Any) -> str:
    text = json.dumps(_plain(value))
    return text if len(text) <= 120 else text[:117] + "..."


def _number(plain: Mapping[str, Any]) -> Number:
    if plain["tier"] not in get_args(Tier):
        raise ValueError(f"tier must be one of {', '.join(get_args(Tier))}, got {plain['tier']!r}")
    value, stderr = (math.nan if plain[key] is None else float(plain[key]) for key in ("value", "stderr"))
    return Number(plain["tier"], Estimate(value, stderr, int(plain["n"])), plain["identity"], plain.get("details", {}))


def _read_rows(path: Path) -> dict[str, list[Entry]]:
    if not path.exists():
        raise DataError(f"{path.parent} is damaged: there is a report.json but no rows.jsonl")
    rows: dict[str, list[Entry]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            plain = json.loads(line)
            value = math.nan if plain["value"] is None else float(plain["value"])
            entry = Entry(Row(str(plain["task"]), value), str(plain["category"]))
            rows.setdefault(str(plain["metric"]), []).append(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}: {type(error).__name__}: {error}") from None
    return rows


def _of(estimate: Estimate) -> dict[str, float]:
    return {"value": float(estimate.value), "stderr": float(estimate.stderr), "n": int(estimate.n)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """Data as JSON gives it back: lists for tuples, null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
