"""Which rollouts of a run are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from saccade.cli.report.data import Plain
from saccade.cli.report.files import RunFiles
from saccade.report.page import Gallery, Part

SHOWN_TASKS, SHOWN_ROLLOUTS = 4, 3
"""Tasks in each part of a gallery, and rollouts of a task at one moment."""
SHOWN_WITNESSES = 3
"""Rollouts that are shown with a finding."""


def gallery(run: RunFiles, name: str, one: Plain) -> Gallery:
    """Tasks whose reward changed most, the best and the worst in the end, and what shows the findings of detectors."""
    pictures = run.pictures
    witnesses = {found["name"]: _witnesses(run, found["rollouts"]) for found in one["verdicts"]["findings"]}
    kept = run.kept
    if not any(kept.values()):
        why = (
            "No rollouts are kept in this run's folder: `saccade train` keeps some before, while and after it trains, "
            "`saccade ablate` does not."
        )
        return Gallery(name, pictures, (), witnesses, why)
    last = list(kept)[-1]
    worth = {moment: {g["task"]: _worth(g) for g in groups} for moment, groups in kept.items()}
    scored = {task: value for task, value in worth[last].items() if value is not None}
    ranked = sorted(scored, key=lambda task: -scored[task])
    parts: list[Part] = []
    if "before" in worth and last == "after":
        old = {task: value for task, value in worth["before"].items() if value is not None}
        gain = {task: scored[task] - old[task] for task in scored if task in old}
        changed = sorted((task for task in gain if gain[task] != 0), key=lambda task: -abs(gain[task]))[:SHOWN_TASKS]
        told = f"by the reward of the same task and seed before and after training, of {len(gain)} with kept rollouts"
        told = told if changed else f"{told}: none changed"
        parts.append(Part("Most changed", told, _cards(kept, changed)))
    told = f"by mean reward at the last of these moments, of {len(scored)} tasks with kept rollouts"
    parts.append(Part("Best", told, _cards(kept, ranked[:SHOWN_TASKS])))
    parts.append(Part("Worst", told, _cards(kept, ranked[::-1][:SHOWN_TASKS])))
    if not scored:
        first = [group["task"] for group in kept[last][:SHOWN_TASKS]]
        parts = [Part("First tasks", "no rollout has a reward to rank by", _cards(kept, first))]
    return Gallery(name, pictures, parts, witnesses)


def _witnesses(run: RunFiles, rollouts: Sequence[Plain]) -> list[dict[str, Plain]]:
    """The rollouts that a finding names, each as a card of its own."""
    found: list[dict[str, Plain]] = []
    for seen in rollouts[:SHOWN_WITNESSES]:
        group = next((g for g in run.moment(seen["moment"]) if g["task"] == seen["task"]), None)
        if group is not None and seen["index"] < len(group["rollouts"]):
            title = f"{seen['moment']}{': ' * bool(seen['note'])}{seen['note']}"
            found.append({title: {**group, "rollouts": [group["rollouts"][seen["index"]]]}})
    return found


def _worth(group: Plain) -> float | None:
    """Mean weighted reward of a group's rollouts; unweighted where no reward counts; None where none has one."""
    totals: list[float] = []
    for rollout in group["rollouts"]:
        scores = list(rollout["scores"].values())
        counted = [(s["weight"], s["value"]) for s in scores if s["weight"]] or [(1.0, s["value"]) for s in scores]
        if counted and all(value is not None for _, value in counted):
            totals.append(math.fsum(weight * value for weight, value in counted))
    return math.fsum(totals) / len(totals) if totals else None


def _cards(kept: Mapping[str, Sequence[Plain]], tasks: Sequence[str]) -> list[dict[str, Plain]]:
    by_task = {moment: {group["task"]: group for group in groups} for moment, groups in kept.items()}
    return [
        {
            moment: {**groups[task], "rollouts": groups[task]["rollouts"][:SHOWN_ROLLOUTS]}
            for moment, groups in by_task.items()
            if task in groups
        }
        for task in tasks
    ]
