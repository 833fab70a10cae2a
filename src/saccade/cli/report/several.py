"""Several runs side by side, and why some of their numbers may not be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from saccade.cli.report.data import Plain, missing, plain
from saccade.cli.report.files import RunFiles
from saccade.cli.report.held_out import refused
from saccade.cli.report.state import SIGNALS, keys_of, plain_plot
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.result import HELD_OUT, Number, Result
from saccade.report import curves
from saccade.report.page import TIERS


def side_by_side(runs: Sequence[RunFiles], each: Sequence[Plain]) -> list[Plain]:
    """Every metric with a cell per run; where cells may not stand on one line, the reason."""
    rows: list[Plain] = []
    seeds = seeds_of(runs)
    for tier in TIERS:
        found = [{_line(m): m for m in one["tiers"][tier] if "plot" not in m} for one in each]
        for line in dict.fromkeys(key for metrics in found for key in metrics):
            cells = [metrics.get(line) for metrics in found]
            known = [(run, m) for run, m in zip(runs, cells, strict=True) if m is not None and m["after"] is not None]
            why = next((w for run, m in known[1:] if (w := _apart(known[0], (run, m)))), "")
            rows.append(
                {
                    "tier": tier,
                    "metric": line,
                    "cells": [missing("not taken") if m is None or m["after"] is None else m["after"] for m in cells],
                    "why": why,
                    "seeds": None if why else _over_seeds(seeds, [m["after"]["value"] for _, m in known]),
                }
            )
    return rows + _side_by_side_signals(each, seeds)


def _line(metric: Plain) -> str:
    return f"{metric['name']} ({metric['suite']})" if metric["suite"] else metric["name"]


def _apart(first: tuple[RunFiles, Plain], second: tuple[RunFiles, Plain]) -> str:
    """Why two runs' values of a metric say nothing about each other; empty if they do."""
    (a, old), (b, new) = first, second
    if why := refused(old["name"], _as_number(old), _as_number(new)):
        return why
    suite = old["suite"].partition(",")[0]
    if suite not in ("", HELD_OUT):
        one, two = (_setting_of(run.results[suite][-1][1]) for run in (a, b))
        return _first_difference(one, two, "")
    name = old["name"].partition(" pass@")[0]
    return _first_difference(_taken(a, name), _taken(b, name), "")


def _as_number(metric: Plain) -> Number:
    return Number(metric["tier"], Estimate(**metric["after"]), metric["identity"])


def _setting_of(result: Result) -> Plain:
    """What decides which tasks of a suite were evaluated and how; where its files lie does not."""
    kept = {key: plain(getattr(result, key)) for key in ("tasks", "n", "sampling", "seed", "settings")}
    kept["settings"].pop("data", None)
    return kept


def _taken(run: RunFiles, name: str) -> Plain:
    """What decides which tasks were evaluated and how."""
    settings = ("limit", "n", "sampling", "tasks", f"metrics.{name}")
    return {
        "env.tasks": run.setting("env.tasks"),
        **{f"evaluation.{key}": run.setting(f"evaluation.{key}") for key in settings},
    }


def _first_difference(a: Any, b: Any, where: str) -> str:
    """The first place where two plain values differ; empty if they are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if told := _first_difference(a.get(key), b.get(key), f"{where}.{key}".lstrip(".")):
                return told
        return ""
    return "" if a == b else f"{where or 'its identity'} is {_brief(a)} and {_brief(b)}"


def _brief(value: Any) -> str:
    if isinstance(value, str) and value.startswith("saccade."):
        return value.rpartition(".")[2]
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def seeds_of(runs: Sequence[RunFiles]) -> list[Any]:
    """Seeds of runs that differ in nothing else; none where they differ in more, or not even in that."""
    seeds = [run.setting("train.seed") for run in runs]
    without = [{**run.settings, "train": {**run.setting("train", {}), "seed": None}} for run in runs]
    return seeds if len(set(seeds)) == len(seeds) and all(one == without[0] for one in without) else []


def _over_seeds(seeds: Sequence[Any], values: Sequence[float]) -> Plain | None:
    """Mean over runs that differ in nothing but their seed, with its standard error."""
    if len(seeds) < 2 or len(values) < len(seeds):
        return None
    return asdict(clustered_mean([Row(str(seed), float(value)) for seed, value in zip(seeds, values, strict=True)]))


def _side_by_side_signals(each: Sequence[Plain], seeds: Sequence[Any]) -> list[Plain]:
    """Where the state-level numbers of the runs ended."""
    found = [
        {f"{s['name']}: {v['name']}": v["final"] for s in one["tiers"]["state"] if "plot" in s for v in s["values"]}
        for one in each
    ]
    return [
        {
            "tier": "state",
            "metric": name,
            "cells": [missing("not logged") if name not in ends else {"value": ends[name]} for ends in found],
            "why": "",
            "seeds": _over_seeds(seeds, [ends[name] for ends in found if name in ends]),
        }
        for name in dict.fromkeys(name for ends in found for name in ends)
    ]


def overlaid_signals(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Plain]:
    """State-level curves, a line a run."""
    keys = [(name, key) for name, patterns, _, _ in SIGNALS for run in runs for key in keys_of(run, patterns)]
    return [
        plain_plot(
            curves.Plot(
                f"{name}: {key}", [_of_run(run.steps, key, title) for run, title in zip(runs, names, strict=True)]
            )
        )
        for name, key in dict.fromkeys(keys)
    ]


def overlaid_curves(runs: Sequence[RunFiles], names: Sequence[str], compared: Sequence[Plain]) -> list[Plain]:
    """Learning curves, a line a run; metrics that may not stand on one line get a plot a run."""
    apart = {row["metric"] for row in compared if row["why"]}
    keys = [key for run in runs for record in run.records for key in record]
    evaluated = [k for k in dict.fromkeys(keys) if k.startswith("eval/") and not k.endswith(("/stderr", "/n"))]
    pairs = list(zip(runs, names, strict=True))
    found: list[curves.Plot] = []
    for key in ("reward", *evaluated):
        name = key.removeprefix("eval/")
        lines = [_of_run(run.records, key, of) for run, of in pairs]
        title = "reward in training" if key == "reward" else f"held-out {name}"
        differ = any(run.setting("rewards") != runs[0].setting("rewards") for run in runs)
        if name in apart or (key == "reward" and differ):
            found += [curves.Plot(f"{title}, {line.name}", [line]) for line in lines if line.values]
        else:
            found.append(curves.Plot(title, lines))
    return [plain_plot(plot) for plot in found]


def _of_run(records: Sequence[Mapping[str, float]], key: str, name: str) -> curves.Series:
    found = curves.series(records, key)
    return curves.Series(name, found.steps, found.values, found.errors)
