"""``saccade report``: gathers what runs have left in their folders into ``report.json``, shown by ``report.html``.

Every number comes from a file of a run. What a run's files do not hold is in the report as missing, with the reason
and, where there is one, the command that gets it.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saccade.cli import catalogue
from saccade.core import config
from saccade.core.errors import CheckpointError, ConfigError, DataError
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.detectors.default import findings
from saccade.evaluate.detectors.finding import Finding
from saccade.evaluate.detectors.history import History
from saccade.evaluate.result import HELD_OUT, Number, Result, refuse_unequal, result_folder
from saccade.evaluate.statistics import PairedTest, holm, paired_test
from saccade.report import curves, energy
from saccade.report.comparison import load_changes
from saccade.report.gallery import read_groups
from saccade.report.log import read_log
from saccade.report.page import TIERS, Gallery, Part, write_page

VERSION = 1
SHOWN_TASKS, SHOWN_ROLLOUTS = 4, 3
"""Tasks in each part of a gallery, and rollouts of a task at one moment."""
SHOWN_WITNESSES = 3
"""Rollouts that are shown with a finding."""
MOST_K = 16
"""Largest k of pass@k; powers of two and the number of rollouts per task are shown."""
SOLVED = ("success", "accuracy", "exact", "solved", "hit", "step", "complete")
"""Names by which a held-out metric is taken for the share of solved tasks where its single values are not stored."""
SIGNALS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("KL to the reference", ("reference/k1", "reference/k2", "reference/k3", "*/kl"),
     "per action in nats; k1 unbiased and noisy, k2 biased and never negative, k3 unbiased and never negative",
     "logged where an objective or a metric needs a reference policy"),
    ("Entropy", ("policy/entropy", "*/entropy"), "nats per action; a fall to 0 is the end of exploration",
     "logged where an objective asks the policy for entropies"),
    ("Log-probability of what was done", ("policy/logp",), "mean per action under the policy that acted", ""),
    ("Output length", ("actions", "turns"), "actions (tokens, denoising steps, commands) and turns of a rollout", ""),
    ("Length drift", ("drift",), "|mean length - mean length at the start| / its standard deviation there",
     "needs actions/std, which runs log since the spread of lengths is recorded"),
    ("Importance ratio", ("ratio/max", "ratio/ess"),
     "largest ratio of new to old probability, and effective share of actions; 1 on-policy",
     "logged by policy gradients since ratio health is recorded"),
    ("Clipped share", ("*/clip_fraction",), "share of actions whose ratio was clipped; 0 on-policy, above 0.3 too much",
     "logged by clipped objectives"),
    ("Actor against trainer", ("policy/actor_mismatch_k1",),
     "mean log-probability of the actor minus that of the trainer; has to be about 0", ""),
    ("Uniform groups", ("group/uniform", "group/uniform_best", "group/uniform_worst"),
     "share of groups whose rollouts all earned the same; best and worst: all the most, all the least", ""),
    ("Variance by reward term", ("variance/*",), "variance inside groups of each weighted term: what it teaches",
     "logged since the variance of terms is recorded"),
    ("Gradient norm", ("policy/grad_norm", "critic/grad_norm"),
     "before it is scaled down; peaks foretell a collapse", ""),
    ("Cut off", ("overlong",), "share of trajectories that were stopped by a limit", ""),
)  # fmt: skip
"""Name, keys of metrics.jsonl, what they say, why they may be missing."""

Plain = dict[str, Any]


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out``; the page's path.

    Raises:
        CheckpointError: a folder holds no run.
        DataError: a file of a run is damaged.
    """
    if len(set(folders)) < len(folders):
        raise ConfigError("a run is named twice")
    runs = [RunFiles(folder) for folder in folders]
    report, galleries = gather(runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_page(out / "report.html", report, galleries)
    return out / "report.html"


def gather(runs: Sequence[RunFiles]) -> tuple[Plain, list[Gallery]]:
    """All that the page shows, as plain data, and the galleries."""
    names = _distinct([run.name for run in runs], [run.folder for run in runs])
    seeds = _seeds(runs)
    each = [one_run(run, name, seeds) for run, name in zip(runs, names, strict=True)]
    several = len(runs) > 1
    compared = side_by_side(runs, each) if several else []
    report = {
        "version": VERSION,
        "title": " · ".join(dict.fromkeys(run.recipe_name for run in runs)) + (": runs side by side" * several),
        "runs": each,
        "compared": compared,
        "signals": _overlaid_signals(runs, names) if several else [],
        "curves": _overlaid(runs, names, compared) if several else learning_curves(runs[0]),
        "measures": measures(runs, each),
    }
    shown = plain(report)
    return shown, [gallery(run, name, one) for run, name, one in zip(runs, names, shown["runs"], strict=True)]


def plain(value: Any) -> Any:
    """Data as JSON has them: lists for tuples, null for numbers that are not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def missing(why: str) -> Plain:
    """Stands where a number would."""
    return {"missing": why}


# --- the files of a run -----------------------------------------------------------------------------------------------


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


def _distinct(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    told = [f"{n} ({f.resolve().name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return [f"{n} ({f})" if told.count(n) > 1 else n for n, f in zip(told, folders, strict=True)]


# --- one run ----------------------------------------------------------------------------------------------------------


def one_run(run: RunFiles, name: str, seeds: Sequence[Any]) -> Plain:
    """What the page shows of one run; ``seeds`` are those of all runs where they differ in nothing else."""
    metrics = held_out(run)
    tiers: dict[str, list[Plain]] = {tier: [m for m in metrics if m["tier"] == tier] for tier in TIERS}
    found, absent = signals(run)
    tiers["state"] = found + tiers["state"]
    absent_here = {"set": _absent_set(run, tiers["set"]), "sample": _absent_sample(run, tiers["sample"])}
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
    train = {key: run.setting(f"train.{key}") for key in ("steps", "groups", "group_size", "lr")}
    facts: Plain = {}
    if entry is not None:
        facts |= {"method": f"{entry.title.rstrip('.')} ({entry.pillar})", "paper": entry.paper}
    facts |= {
        "policy": _class(run.setting("policy")),
        "environment": _class(run.setting("env")) + (f", {t}" if (t := _class(run.setting("env.tasks"))) else ""),
        "rewards": ", ".join(f"{key} × {one.get('weight', 1):g}" for key, one in rewards.items()) or missing("none"),
        "objective": ", ".join(_class(one) for one in run.setting("objective", {}).values()),
        "advantage": _class(run.setting("advantage")),
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


def _class(described: Any) -> str:
    """Name of the class that a setting describes."""
    return str(described["class"]).rpartition(".")[2] if isinstance(described, Mapping) and "class" in described else ""


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


# --- held-out metrics -------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One held-out metric of one run, from whichever file has it."""

    name: str
    suite: str
    tier: str
    after: Estimate | None
    before: Estimate | None = None
    difference: Estimate | None = None
    rows_before: Sequence[Row] = ()
    rows_after: Sequence[Row] = ()
    categories: Sequence[Plain] = ()
    identity: Mapping[str, Any] | None = None
    p: float | None = None
    method: str = ""
    tasks: Plain | None = None
    missing: list[str] = field(default_factory=list)

    def complete(self, other: Measured) -> None:
        """Take the start from another file where this one has the same end and no start."""
        if self.before is None and other.before is not None and self.after == other.after:
            self.before, self.difference, self.p, self.method = other.before, other.difference, other.p, other.method
            self.missing = []

    def test(self) -> None:
        """Pair the rows by task, where both moments have some."""
        if not (self.rows_before and self.rows_after):
            return
        try:
            found = paired_test(self.rows_before, self.rows_after)
        except ConfigError as error:
            self.missing.append(f"no paired test: {error}")
            return
        self.difference = found.difference
        self.p, self.method = _p_value(found)
        self.tasks = _discordant(found)

    def plain(self, adjusted: float | None) -> Plain:
        empty = self.after is not None and self.after.n == 0
        reasons = [*self.missing, "no rollout has a value"] if empty else self.missing
        known = self.p is not None and not math.isnan(self.p)
        return {
            "name": self.name,
            "suite": "" if self.suite == HELD_OUT else self.suite,
            "tier": self.tier,
            "before": None if self.before is None else asdict(self.before),
            "after": None if self.after is None else asdict(self.after),
            "difference": None if self.difference is None else asdict(self.difference),
            "test": {"p": self.p, "p_holm": adjusted, "method": self.method} if known else None,
            "tasks": self.tasks,
            "categories": list(self.categories),
            "identity": self.identity,
            "missing": reasons,
        }


def _p_value(found: PairedTest) -> tuple[float, str]:
    """The p-value of the test that assumes no distribution, and what the others say."""
    others = f"paired t: {found.p_t:.2g}"
    if found.p_mcnemar is not None:
        others += f", McNemar: {found.p_mcnemar:.2g}"
    return found.p_permutation, f"random signs over {found.difference.n} tasks ({others})"


def _discordant(found: PairedTest) -> Plain:
    up = sum(one.after > one.before for one in found.discordant)
    listed = [asdict(one) for one in found.discordant]
    return {
        "up": up, "down": len(listed) - up, "same": found.difference.n - len(listed), "discordant": listed,
    }  # fmt: skip


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
    metrics = [*found.values(), *(one for measured in found.values() for one in _pass_at_k(measured))]
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
            if old is not None and before is not None and (why := _refused(name, old, number)):
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


def _refused(name: str, old: Number, new: Number) -> str:
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
            found["metric" if key == "class" else key] = _class(value if key != "class" else {"class": value})
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


def _pass_at_k(measured: Measured) -> list[Measured]:
    """``1 - C(n - c, k) / C(n, k)`` for metrics that are 0 or 1 and have several rollouts of each task."""
    size = _rollouts_per_task(measured.rows_after)
    if size < 2 or measured.tier != "sample" or any(row.value not in (0.0, 1.0) for row in measured.rows_after):
        return []
    ks = sorted({2**i for i in range(1, 9) if 2**i <= min(size, MOST_K)} | ({size} if size <= MOST_K else set()))
    found: list[Measured] = []
    for k in ks:
        old, new = (_passed(rows, k) for rows in (measured.rows_before, measured.rows_after))
        found.append(
            Measured(
                f"{measured.name} pass@{k}", measured.suite, "sample", clustered_mean(new),
                clustered_mean(old) if old else None, rows_before=old, rows_after=new,
            )
        )  # fmt: skip
    return found


def _rollouts_per_task(rows: Sequence[Row]) -> int:
    """The least number of rows that a task has."""
    count: dict[str, int] = {}
    for row in rows:
        count[row.task] = count.get(row.task, 0) + 1
    return min(count.values(), default=0)


def _passed(rows: Sequence[Row], k: int) -> list[Row]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.task, []).append(row.value)
    return [
        Row(task, 1 - math.comb(len(v) - round(math.fsum(v)), k) / math.comb(len(v), k))
        for task, v in values.items()
        if len(v) >= k
    ]


def _absent_set(run: RunFiles, found: Sequence[Plain]) -> list[str]:
    if found:
        return []
    return [
        "This run took no set-level metric: distances between sets of pictures (FID, KID, recall, Vendi) are taken by "
        f"`saccade evaluate {run.folder}` when evaluation.metrics names one."
    ]


def _absent_sample(run: RunFiles, found: Sequence[Plain]) -> list[str]:
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


# --- state ------------------------------------------------------------------------------------------------------------


def signals(run: RunFiles) -> tuple[list[Plain], list[str]]:
    """State-level numbers over training, and why others are missing."""
    if not run.steps:
        return [], ["No state-level number: metrics.jsonl has no complete line."]
    found: list[Plain] = []
    absent: list[str] = []
    for name, patterns, told, why in SIGNALS:
        lines = [one for key in _keys(run, patterns) if (one := curves.series(run.steps, key)).values]
        if name == "Output length":
            lines = [one for one in lines if one.name != "turns" or set(one.values) != {1.0}]
        if not lines:
            absent.append(f"{name}: {why or 'not logged by this run'}.")
            continue
        values = [_ends(line) for line in lines]
        start = values[0]["start"] if len(values) == 1 else None
        found.append(
            {"name": name, "told": told, "values": values, "plot": _plot(curves.Plot(name, lines, start))}
        )  # fmt: skip
    return found, absent


def _keys(run: RunFiles, patterns: Sequence[str]) -> list[str]:
    known = list(dict.fromkeys(key for record in run.steps for key in record))
    found: list[str] = []
    for pattern in patterns:
        head, star, tail = pattern.partition("*")
        named = [k for k in known if k.startswith(head) and k.endswith(tail) and len(k) > len(head + tail)]
        found += [k for k in sorted(named) if not k.startswith("loss/")] if star else [k for k in known if k == pattern]
    return list(dict.fromkeys(found))


def _ends(line: curves.Series) -> Plain:
    """Mean over the first and the last tenth of the steps, and the smoothed curve between."""
    size = max(1, len(line.values) // 10)
    first, last = line.values[:size], line.values[-size:]
    return {
        "name": line.name,
        "start": math.fsum(first) / size,
        "final": math.fsum(last) / size,
        "curve": curves.smooth(line.values),
    }


def _plot(plot: curves.Plot) -> Plain:
    return {
        "title": plot.title,
        "start": plot.start,
        "series": [
            {"name": s.name, "steps": list(s.steps), "values": list(s.values), "errors": list(s.errors)}
            for s in plot.series
        ],
    }


def learning_curves(run: RunFiles) -> list[Plain]:
    """The rewards of training, then every held-out metric."""
    found = curves.plots(run.records)
    rewards = [plot for plot in found if plot.title == "rewards in training"]
    return [_plot(plot) for plot in (*rewards, *(p for p in found if p.title.startswith("held-out ")))]


# --- throughput, energy, cost -----------------------------------------------------------------------------------------


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


# --- several runs -----------------------------------------------------------------------------------------------------


def side_by_side(runs: Sequence[RunFiles], each: Sequence[Plain]) -> list[Plain]:
    """Every metric with a cell per run; where cells may not stand on one line, the reason."""
    rows: list[Plain] = []
    seeds = _seeds(runs)
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
    if why := _refused(old["name"], _as_number(old), _as_number(new)):
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


def _seeds(runs: Sequence[RunFiles]) -> list[Any]:
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


def _overlaid_signals(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Plain]:
    """State-level curves, a line a run."""
    keys = [(name, key) for name, patterns, _, _ in SIGNALS for run in runs for key in _keys(run, patterns)]
    return [
        _plot(
            curves.Plot(
                f"{name}: {key}", [_of_run(run.steps, key, title) for run, title in zip(runs, names, strict=True)]
            )
        )
        for name, key in dict.fromkeys(keys)
    ]


def _overlaid(runs: Sequence[RunFiles], names: Sequence[str], compared: Sequence[Plain]) -> list[Plain]:
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
    return [_plot(plot) for plot in found]


def _of_run(records: Sequence[Mapping[str, float]], key: str, name: str) -> curves.Series:
    found = curves.series(records, key)
    return curves.Series(name, found.steps, found.values, found.errors)


# --- galleries --------------------------------------------------------------------------------------------------------


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
