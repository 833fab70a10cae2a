"""One run: what it was, what the detectors find in it and what it gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from saccade.cli import catalogue
from saccade.cli.report.costs import phases
from saccade.cli.report.data import Plain, missing
from saccade.cli.report.files import RunFiles, class_name
from saccade.cli.report.held_out import absent_sample, absent_set, held_out
from saccade.cli.report.state import signals
from saccade.evaluate.detectors.default import findings
from saccade.evaluate.detectors.finding import Finding
from saccade.evaluate.detectors.history import History
from saccade.report.page import TIERS


def one_run(run: RunFiles, name: str, seeds: Sequence[Any]) -> Plain:
    """What the page shows of one run; ``seeds`` are those of all runs where they differ in nothing else."""
    metrics = held_out(run)
    tiers: dict[str, list[Plain]] = {tier: [m for m in metrics if m["tier"] == tier] for tier in TIERS}
    found, absent = signals(run)
    tiers["state"] = found + tiers["state"]
    absent_here = {"set": absent_set(run, tiers["set"]), "sample": absent_sample(run, tiers["sample"])}
    return {
        "name": name,
        "folder": str(run.folder),
        "command": run.facts.get("command") or f"saccade train --config {run.folder / 'config.yaml'}",
        "facts": _facts(run),
        "notes": _notes(run, seeds),
        "verdicts": verdicts(run),
        "tiers": tiers,
        "missing": {**absent_here, "state": absent},
        "phases": phases(run),
    }


def _facts(run: RunFiles) -> Plain:
    entry = catalogue.catalogue().get(run.recipe_name)
    rewards = run.setting("rewards", {})
    versions = run.facts.get("versions") or {}
    tasks = class_name(run.setting("env.tasks"))
    train = {key: run.setting(f"train.{key}") for key in ("steps", "groups", "group_size", "lr")}
    facts: Plain = {}
    if entry is not None:
        facts |= {"method": f"{entry.title.rstrip('.')} ({entry.pillar})", "paper": entry.paper}
    facts |= {
        "policy": class_name(run.setting("policy")),
        "environment": class_name(run.setting("env")) + (f", {tasks}" if tasks else ""),
        "rewards": ", ".join(f"{key} × {one.get('weight', 1):g}" for key, one in rewards.items()) or missing("none"),
        "objective": ", ".join(class_name(one) for one in run.setting("objective", {}).values()),
        "advantage": class_name(run.setting("advantage")),
        "budget": " · ".join(f"{key.replace('_', ' ')} {value}" for key, value in train.items() if value is not None),
        "steps done": len(run.steps),
        "seed": run.setting("train.seed"),
        "commit": run.facts.get("commit") or missing("not recorded: the source was no checkout"),
        "device": run.facts.get("device") or missing("not recorded"),
        "versions": " · ".join(f"{key} {value}" for key, value in versions.items()) or missing("not recorded"),
    }
    if not run.facts.get("command"):
        facts["command"] = missing("not recorded; the line above repeats the run from its settings")
    return facts


def _notes(run: RunFiles, seeds: Sequence[Any]) -> list[str]:
    notes = ["n = 1 seed: errors are over held-out tasks and say nothing about other seeds."]
    if len(seeds) > 1:
        notes = [f"One of n = {len(seeds)} seeds ({', '.join(map(str, seeds))}) of the same settings."]
    total = run.setting("train.steps")
    if isinstance(total, int) and len(run.steps) < total:
        notes.append(f"Not finished: {len(run.steps)} of {total} steps are logged.")
    return notes


def verdicts(run: RunFiles) -> Plain:
    """What the detectors find."""
    if not run.steps:
        return {"findings": [], "missing": "no detector can look at this run: metrics.jsonl has no complete line"}
    return {"findings": [_finding(one) for one in findings(History.of(run.folder))], "missing": None}


def _finding(found: Finding) -> Plain:
    return {
        "name": found.name,
        "verdict": found.verdict,
        "summary": found.summary,
        "evidence": [{"number": name, "value": value} for name, value in found.evidence],
        "rollouts": [asdict(seen) for seen in found.rollouts],
    }
