"""Throughput, energy and cost per solved task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from saccade.cli.report.data import Plain, missing
from saccade.cli.report.files import RunFiles
from saccade.evaluate.result import HELD_OUT

SOLVED = ("success", "accuracy", "exact", "solved", "hit", "step", "complete")
"""Names by which a held-out metric is taken for the share of solved tasks where its single values are not stored."""
MEASURES = (
    ("Training", "s", "seconds of all steps, evaluations and stages left out"),
    ("Trajectories", "", "rollouts that were learned from"),
    ("Samples per second", "/s", "trajectories by seconds of training"),
    ("Actions per second", "/s", "tokens, denoising steps or commands by seconds of training"),
    ("Evaluation", "s", "rollouts and scoring of the last held-out evaluation"),
    ("Energy of training", "J", "of the whole device, not of this process alone"),
    ("Mean power", "W", ""),
    ("Energy per trajectory", "J", "rollout and learning"),
    (
        "Seconds per solved task",
        "s",
        "seconds of a rollout in training, by the share of tasks solved in the end",
    ),
    ("Energy per solved task", "J", "mean power times seconds per solved task"),
)


def phases(run: RunFiles) -> dict[str, float]:
    """Seconds of training by phase; what no phase accounts for is "other"."""
    total = math.fsum(record.get("seconds/step", 0.0) for record in run.times)
    names = list(dict.fromkeys(key for record in run.times for key in record if key.startswith("seconds/")))
    found = {
        name.removeprefix("seconds/"): math.fsum(record.get(name, 0.0) for record in run.times)
        for name in names
        if name != "seconds/step"
    }
    other = total - math.fsum(found.values())
    return {**found, "other": other} if other > 0.01 * total else found


def measures(runs: Sequence[RunFiles], each: Sequence[Plain]) -> list[Plain]:
    """Throughput, energy and cost per solved task."""
    costs = [_costs(run, one) for run, one in zip(runs, each, strict=True)]
    return [
        {"name": name, "unit": unit, "told": told, "cells": [cost[name] for cost in costs]}
        for name, unit, told in MEASURES
    ]


def _costs(run: RunFiles, one: Plain) -> dict[str, Plain]:
    seconds = math.fsum(record.get("seconds/step", 0.0) for record in run.times) or None
    rolling = math.fsum(record.get("seconds/rollout", 0.0) for record in run.times) or None
    count, used = run.trajectories, run.energy
    lengths = [record["actions"] for record in run.steps if "actions" in record]
    acted = None if count is None or not lengths else math.fsum(lengths) / len(lengths) * count
    no_times, no_count = "timing.jsonl has no complete line", "the number of trajectories is not stored"
    no_energy = "energy.jsonl is missing: it is written by `saccade train`, from counters or as an estimate"
    label = "" if used is None else f"{'estimate' if used.estimated else 'measured'}: {used.source}"
    solved, taken = _solved(one)
    each = None if rolling is None or not count else rolling / count
    per_solved = None if each is None or not solved else each / solved
    why = taken if solved is None else f"no task is solved ({taken})" if solved == 0 else no_times
    last = run.results[HELD_OUT][-1][1] if HELD_OUT in run.results else None
    rates = [] if last is None else [(last.rollouts_per_second, "rollouts/s"), (last.tokens_per_second, "actions/s")]
    rate = " · ".join(f"{value:.3g} {unit}" for value, unit in rates if value is not None)
    return {
        "Training": _cell(seconds, no_times),
        "Trajectories": _cell(count, no_count),
        "Samples per second": _cell(_ratio(count, seconds), no_times if seconds is None else no_count),
        "Actions per second": _cell(_ratio(acted, seconds), no_times if seconds is None else "no lengths are logged"),
        "Evaluation": _cell(
            None if last is None else last.seconds, f"not stored: `saccade evaluate {run.folder}` writes it", rate
        ),
        "Energy of training": _cell(used and used.joules, no_energy, label),
        "Mean power": _cell(used and used.watts, no_energy, label),
        "Energy per trajectory": _cell(used and used.joules_per_rollout, no_energy, label),
        "Seconds per solved task": _cell(per_solved, why, f"solved: {taken}"),
        "Energy per solved task": _cell(
            None if per_solved is None or used is None else used.watts * per_solved,
            why if per_solved is None else no_energy,
            label,
        ),
    }


def _cell(value: float | None, why: str, note: str = "") -> Plain:
    return missing(why) if value is None else {"value": value, "note": note}


def _ratio(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by


def _solved(one: Plain) -> tuple[float | None, str]:
    """The share of held-out tasks that are solved in the end, and which metric says so, or why none does."""
    for name in SOLVED:
        for metric in one["tiers"]["sample"]:
            value = metric["after"]["value"] if metric["after"] is not None else math.nan
            if metric["name"] == name and 0 <= value <= 1:
                return value, f"{name} {value:.3g}"
    return None, f"no held-out metric is a share of solved tasks (one called {', '.join(SOLVED[:-1])} or {SOLVED[-1]})"
