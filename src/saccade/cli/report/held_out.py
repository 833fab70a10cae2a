"""Held-out metrics of a run, from whichever of its files have them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from saccade.cli.report.data import Plain
from saccade.cli.report.files import RunFiles, class_name
from saccade.cli.report.measured import Measured, pass_at_k
from saccade.core.errors import ConfigError
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.result import HELD_OUT, Number, Result, refuse_unequal
from saccade.evaluate.statistics import holm
from saccade.report.comparison import load_changes


def held_out(run: RunFiles) -> list[Plain]:
    """All held-out metrics: from evaluations, from the comparison that training leaves, from kept rollouts."""
    found: dict[tuple[str, str], Measured] = {}
    # Results have every reward on all tasks.
    kept = () if HELD_OUT in run.results else _from_rollouts(run)
    for measured in (*_from_results(run), *_from_training(run), *kept):
        first = found.setdefault((measured.suite, measured.name), measured)
        first.complete(measured)
    for measured in found.values():
        if measured.tier == "set" and measured.identity is None and measured.suite == HELD_OUT:
            measured.identity = _described(run, measured.name)
    metrics = [*found.values(), *(one for measured in found.values() for one in pass_at_k(measured))]
    for measured in metrics:
        measured.test()
    adjusted = holm({str(i): m.p for i, m in enumerate(metrics) if m.p is not None})
    return [measured.plain(adjusted.get(str(i))) for i, measured in enumerate(metrics)]


def _from_results(run: RunFiles) -> list[Measured]:
    found: list[Measured] = []
    for suite, results in run.results.items():
        last, after = results[-1]
        before = results[0][1] if len(results) > 1 and results[0][0] == 0 else None
        old_categories = before.categories if before is not None else {}
        for name, number in after.metrics.items():
            old = before.metrics.get(name) if before is not None else None
            measured = Measured(
                name, suite, number.tier, number.estimate, identity=number.identity, rows_after=after.values(name)
            )
            if old is not None and before is not None and (why := refused(name, old, number)):
                measured.missing.append(f"the value before training is not comparable: {why}")
            elif old is not None and before is not None:
                measured.before, measured.rows_before = old.estimate, before.values(name)
            measured.categories = [
                {
                    "category": category,
                    "before": _asdict(old_categories.get(name, {}).get(category) if measured.before else None),
                    "after": asdict(estimate),
                }
                for category, estimate in after.categories.get(name, {}).items()
            ]
            if before is None and after.against is not None:
                _against(measured, after.against)
            elif before is None:
                measured.missing.append(f"evaluated at step {last} only")
            found.append(measured)
    return found


def _against(measured: Measured, against: Mapping[str, Any]) -> None:
    """Take over the stored comparison with another result."""
    test = against["tests"].get(measured.name)
    other = against["of"].get("name") or against["result"]
    if test is None:
        measured.missing.append(f"no paired test against {other}: there is no value per task")
        return
    measured.suite = f"{measured.suite}, before: {other}"
    measured.before = Estimate(test["before"], math.nan, measured.after.n if measured.after is not None else 0)
    measured.difference = Estimate(test["difference"], _known(test["stderr"]), test["n"])
    measured.p, measured.method = test["p_permutation"], f"random signs over {test['n']} tasks"
    same = test["n"] - test["rose"] - test["fell"]
    measured.tasks = {"up": test["rose"], "down": test["fell"], "same": same, "discordant": test["discordant"]}


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _asdict(estimate: Estimate | None) -> Plain | None:
    return None if estimate is None else asdict(estimate)


def refused(name: str, old: Number, new: Number) -> str:
    """Why two numbers may not stand on one line, by the rule of ``evaluate --against``; empty if they may."""
    try:
        refuse_unequal(*(Result(HELD_OUT, {}, 0, 0, 1, {}, {name: number}) for number in (old, new)))
    except ConfigError as error:
        return str(error).partition(": ")[2]
    return ""


def _from_training(run: RunFiles) -> list[Measured]:
    """From comparison.json; from metrics.jsonl where there is none."""
    tier = _tiers(run)
    changes = load_changes(run.folder / "comparison.json")
    if changes:
        return [
            Measured(c.name, HELD_OUT, tier(c.name), c.after, c.before, c.difference, **_normal_test(c.difference))
            for c in changes
        ]
    evaluated = [record for record in run.records if any(key.startswith("eval/") for key in record)]
    if not evaluated:
        return []
    first, last = evaluated[0], evaluated[-1]
    names = [key.removeprefix("eval/") for key in last if key.startswith("eval/") and f"{key}/n" in last]
    return [
        Measured(
            name, HELD_OUT, tier(name), _logged(last, name),
            _logged(first, name) if first is not last and f"eval/{name}/n" in first else None,
        )
        for name in names
    ]  # fmt: skip


def _described(run: RunFiles, name: str) -> Plain:
    """What the settings say a set-level metric is of."""
    found: Plain = {}
    for key, value in run.setting(f"evaluation.metrics.{name}", {}).items():
        if key == "class" or (isinstance(value, Mapping) and "class" in value):
            found["metric" if key == "class" else key] = class_name(value if key != "class" else {"class": value})
        elif isinstance(value, str | int | float):
            found[key] = value
    return found


def _logged(record: Mapping[str, float], name: str) -> Estimate:
    key = f"eval/{name}"
    return Estimate(record[key], record[f"{key}/stderr"], int(record[f"{key}/n"]))


def _normal_test(difference: Estimate | None) -> Plain:
    if difference is None or not difference.stderr > 0:
        return {}
    p = math.erfc(abs(difference.value / difference.stderr) / math.sqrt(2))
    return {"p": p, "method": f"normal approximation from the stored difference over {difference.n} tasks"}


def _tiers(run: RunFiles) -> Callable[[str], str]:
    """The tier of a metric by its class; sample where the class is gone."""

    def tier(name: str) -> str:
        module, _, kind = str(run.setting(f"evaluation.metrics.{name}", {}).get("class", "")).rpartition(".")
        if not module.startswith("saccade."):
            return "sample"
        try:
            return str(getattr(importlib.import_module(module), kind).tier)
        except (ModuleNotFoundError, AttributeError):
            return "sample"

    return tier


def _from_rollouts(run: RunFiles) -> list[Measured]:
    """Every reward as a metric, on the tasks whose rollouts were kept."""
    before, after = (_scores(run.kept.get(moment, [])) for moment in ("before", "after"))
    return [
        Measured(
            f"reward {name}", f"{HELD_OUT}, {len({row.task for row in rows})} tasks whose rollouts are kept", "sample",
            clustered_mean(rows), clustered_mean(before[name]) if name in before else None,
            rows_before=before.get(name, ()), rows_after=rows,
        )
        for name, rows in after.items()
    ]  # fmt: skip


def _scores(groups: Sequence[Plain]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for group in groups:
        for rollout in group["rollouts"]:
            for name, score in rollout["scores"].items():
                if score["value"] is not None:
                    rows.setdefault(name, []).append(Row(group["task"], float(score["value"])))
    return rows


def absent_set(run: RunFiles, found: Sequence[Plain]) -> list[str]:
    """Why there are no set-level metrics; empty if there are some."""
    if found:
        return []
    return [
        "This run took no set-level metric: distances between sets of pictures (FID, KID, recall, Vendi) are taken by "
        f"`saccade evaluate {run.folder} --features inception --reference DIR`."
    ]


def absent_sample(run: RunFiles, found: Sequence[Plain]) -> list[str]:
    """What sample-level metrics are not there or lack something, and why."""
    absent: list[str] = []
    if not found:
        absent.append(f"No held-out metric is stored: `saccade evaluate {run.folder}` takes those of the recipe.")
    if found and HELD_OUT not in run.results:
        absent.append(
            "Categories, paired tests and the tasks that changed need a value per task, which this run has for kept "
            f"rollouts only: `saccade evaluate {run.folder}` writes them for all held-out tasks."
        )
    if found and not (run.folder / "comparison.json").exists() and HELD_OUT not in run.results:
        absent.append("No paired differences: comparison.json is missing; `saccade ablate` does not write it.")
    if not any("pass@" in metric["name"] for metric in found):
        absent.append("No pass@k: it needs a 0 or 1 of each of several rollouts per task (evaluation.n above 1).")
    return absent
