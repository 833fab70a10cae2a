"""A whole experiment around the loop: folder, stages, evaluation before and after, and ablations over seeds."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import load_file, save_file

from saccade.core import config
from saccade.core.batch import Batch
from saccade.core.cache import cache_folder
from saccade.core.errors import CheckpointError, ConfigError
from saccade.core.metric import Models
from saccade.core.policy import Policy
from saccade.core.random import fold_in
from saccade.core.state import TrainState
from saccade.evaluate.result import HELD_OUT, Result
from saccade.evaluate.run import Report, evaluate, table
from saccade.evaluate.store import weights_hash
from saccade.learn.checkpoint import load_weights, trained_weights
from saccade.learn.loop import Observer, Run, train
from saccade.recipe import Ablation, Entry, Recipe
from saccade.report.log import MetricsLog


@dataclass
class Outcome:
    """What an experiment gave."""

    before: Report
    after: Report
    state: TrainState
    seconds: float
    tail: dict[str, float]
    """Training statistics averaged over the last quarter of the steps."""


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("saccade", "torch", "numpy", "transformers", "peft", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the source tree, with a plus when it has uncommitted changes; empty outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


class _Evaluator:
    """Evaluates before, during and after training; what it found is written beside the metrics."""

    def __init__(self, recipe: Recipe, log: MetricsLog) -> None:
        self._recipe, self._log = recipe, log
        self.reports: dict[int, Report] = {}

    def start(self, state: TrainState, recipe: Recipe) -> None:
        if state.step == 0:
            self._evaluate(state)

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        every = self._recipe.evaluation.every
        if state.step == state.total or (every and state.step % every == 0):
            self._evaluate(state)

    def finish(self, state: TrainState) -> None:
        if state.step not in self.reports:
            self._evaluate(state, write=False)

    def _evaluate(self, state: TrainState, *, write: bool = True) -> None:
        recipe = self._recipe
        models = Models(state.policy, state.reference)
        report = evaluate(models, recipe.evaluation, recipe.env, recipe.rewards, seed=recipe.train.seed)
        report.weights = weights_hash(state.policy)
        self.reports[state.step] = report
        if write:
            self._log.evaluation(state.step, table(report.estimates))


def tail_mean(folder: Path, total: int) -> dict[str, float]:
    """Training statistics of ``metrics.jsonl`` averaged over the last quarter of ``total`` steps."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    records = [r for r in lines if r["step"] > total * 3 // 4 and "reward" in r]
    keys = records[0].keys() - {"step"} if records else ()
    return {key: sum(r[key] for r in records) / len(records) for key in keys}


def start_policy(recipe: Recipe, device: torch.device, observers: Sequence[Observer] = ()) -> Policy:
    """The recipe's policy after its stages; their results are cached under a hash of everything they depend on.

    ``observers`` watch the stages that are not in the cache.
    """
    policy = recipe.policy.build(device, fold_in(recipe.train.seed, "policy"))
    for name in recipe.stages:
        staged = recipe.staged(name)
        staged = replace(staged, train=replace(staged.train, seed=fold_in(recipe.train.seed, "stage", name)))
        stored = cache_folder() / "stages" / f"{_stage_key(recipe, name)}.safetensors"
        if stored.exists():
            load_weights(policy, load_file(stored), str(stored))
            continue
        staged = replace(staged, evaluation=replace(staged.evaluation, metrics={}))
        learner = policy
        if recipe.stages[name].policy is not None:
            learner = staged.policy.build(device)
            load_weights(learner, trained_weights(policy), f"stage {name}")
        train(staged, Run(device=device, observers=observers), policy=learner)
        stored.parent.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(f".{os.getpid()}.partial")
        save_file(trained_weights(learner), partial)
        partial.replace(stored)
        load_weights(policy, trained_weights(learner), f"stage {name}")
    return policy


def _stage_key(recipe: Recipe, name: str) -> str:
    names = list(recipe.stages)
    done = names[: names.index(name) + 1]
    first = recipe.stages[names[0]].policy or recipe.policy
    inherits = any(recipe.stages[n].policy is None for n in done)
    plain: dict[str, Any] = {
        "policy": config.to_dict(recipe.policy if inherits else first),
        "seed": recipe.train.seed,
        "stages": [(n, config.to_dict(recipe.stages[n])) for n in done],
        "env": [config.to_dict(recipe.env) for n in done if recipe.stages[n].env is None][:1],
        "version": metadata.version("saccade"),
        "torch": str(torch.__version__),
    }
    return hashlib.sha256(yaml.safe_dump(plain, sort_keys=True).encode()).hexdigest()[:24]


def run(
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    device: torch.device | None = None,
    save_every: int = 50,
    command: str = "",
) -> Outcome:
    """Stages, evaluation, training, evaluation. Everything needed to repeat it is written into ``folder``.

    ``command`` is written down as what began it.

    Raises:
        ConfigError: the folder holds a run already and ``resume`` is False.
        CheckpointError: ``resume`` is True and the folder's run is of another recipe.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    settings = folder / "config.yaml"
    if settings.exists() and not resume:
        raise ConfigError(f"{folder} holds a run already; choose another --out or go on with --resume")
    folder.mkdir(parents=True, exist_ok=True)
    if not settings.exists():
        settings.write_text(f"# {name}\n{config.dump(recipe)}")
        facts: dict[str, Any] = {"name": name, "versions": versions(), "commit": commit(), "device": str(device)}
        if command:
            facts["command"] = command
        (folder / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    log = MetricsLog(folder)
    policy = start_policy(recipe, device, observers)
    evaluator = _Evaluator(recipe, log)
    everyone = (log, evaluator, *observers)
    checkpoints = folder / "checkpoints"
    going = Run(checkpoints, save_every, resume, device, everyone)
    if resume:
        # The report "before" is of the policy before the checkpoint's weights are loaded; it is not logged again.
        models = Models(policy, recipe.train.reference.start(policy) if _compares(recipe) else None)
        before = evaluate(models, recipe.evaluation, recipe.env, recipe.rewards, seed=recipe.train.seed)
        before.weights = weights_hash(policy)
        evaluator.reports[0] = before
    state = train(recipe, going, policy=policy)
    reports = evaluator.reports
    tail = tail_mean(folder, recipe.train.steps)
    return Outcome(reports[0], reports[state.step], state, time.perf_counter() - started, tail)


def held_out(recipe: Recipe, report: Report, *, folder: Path, name: str, step: int) -> Result:
    """A run's evaluation on its own held-out tasks, as it is kept."""
    of = {"run": str(folder), "name": name, "step": step}
    seed = recipe.train.seed
    return report.result(HELD_OUT, recipe.evaluation, of=of, seed=seed, versions=versions(), commit=commit())


def _compares(recipe: Recipe) -> bool:
    return any(metric.needs_reference for metric in recipe.evaluation.metrics.values())


def load_run(folder: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        CheckpointError: it is no run's folder.
        ConfigError: its configuration cannot be read.
    """
    settings = folder / "config.yaml"
    if not settings.exists():
        raise CheckpointError(f"{folder} holds no run: there is no config.yaml")
    recipe = config.from_dict(config.load(settings.read_text(), str(settings)), str(settings))
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{settings}: expected a Recipe, got {type(recipe).__name__}")
    return recipe


Arm = Literal["with", "without"]


@dataclass
class AblationRun:
    """Both arms of an ablation over its seeds, resumable at the (arm, seed) it was at.

    The arms differ in ``ablation.without`` only; stages, seeds, budgets and held-out tasks are the same.
    """

    entry: Entry
    folder: Path
    """Where finished arms are remembered."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    progress: Callable[[str], None] = print
    observers: Callable[[str], Sequence[Observer]] = lambda title: ()
    """Watchers of one arm, made from its title."""

    def recipe(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of one arm with one seed."""
        base = self.entry.make("tiny")
        ablation = self._ablation(base)
        changes = {**ablation.common, **self.overrides, "train.seed": seed}
        if arm == "without":
            changes = {**changes, **ablation.without}
        return config.overlay(base, changes)

    def _ablation(self, recipe: Recipe) -> Ablation:
        if recipe.ablation is None:
            raise ConfigError(f"recipe {self.entry.name} has no ablation")
        return recipe.ablation

    def __call__(self) -> dict[str, Any]:
        """Run what is missing and return the result as it is written to JSON."""
        base = self.entry.make("tiny")
        ablation = self._ablation(base)
        seeds = self.seeds or ablation.seeds
        found: dict[Arm, list[float]] = {"with": [], "without": []}
        extra: dict[Arm, list[dict[str, float]]] = {"with": [], "without": []}
        before: list[float] = []
        seconds = 0.0
        for seed in seeds:
            for arm in found:
                result = self._arm(arm, seed, ablation)
                found[arm].append(result["value"])
                extra[arm].append(result["metrics"])
                seconds += result["seconds"]
                if arm == "with":
                    before.append(result["before"])
        return self._verdict(ablation, seeds, found, extra, before, seconds)

    def _arm(self, arm: Arm, seed: int, ablation: Ablation) -> dict[str, Any]:
        recipe = self.recipe(arm, seed)
        plain = config.to_dict(replace(recipe, ablation=None))
        identity = hashlib.sha256(yaml.safe_dump(plain, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.folder / f"{arm}-{seed}-{identity}"
        stored = folder / "result.json"
        if stored.exists():
            return json.loads(stored.read_text())
        title = f"{self.entry.name}, {arm} the mechanism, seed {seed}"
        self.progress(title)
        watching = self.observers(title)
        outcome = run(recipe, folder, name=title, resume=True, observers=watching, device=torch.device("cpu"))
        metrics = table(outcome.after.estimates)
        key = ablation.metric
        if key.startswith("train/"):
            value, start = outcome.tail[key.removeprefix("train/")], float("nan")
        else:
            value, start = metrics[key], table(outcome.before.estimates)[key]
        result = {"value": value, "before": start, "metrics": metrics, "seconds": outcome.seconds}
        stored.write_text(json.dumps(result, indent=1) + "\n")
        self.progress(f"  {key} {start:.4g} -> {value:.4g} in {outcome.seconds:.0f} s")
        return result

    def _verdict(
        self,
        ablation: Ablation,
        seeds: Sequence[int],
        found: Mapping[Arm, list[float]],
        extra: Mapping[Arm, list[dict[str, float]]],
        before: list[float],
        seconds: float,
    ) -> dict[str, Any]:
        sign = 1.0 if ablation.higher else -1.0
        gains = [sign * (a - b) for a, b in zip(found["with"], found["without"], strict=True)]
        difference = sum(gains) / len(gains)
        stderr = float("nan")
        if len(gains) > 1:
            stderr = (sum((g - difference) ** 2 for g in gains) / (len(gains) - 1) / len(gains)) ** 0.5
        if difference > max(ablation.margin, 2 * stderr):
            verdict = "holds"
        elif difference < -2 * stderr:
            verdict = "fails"
        else:
            verdict = "inconclusive"
        if not len(gains) > 1:
            verdict = "inconclusive"
        overrides = "".join(f" --{key} {value}" for key, value in self.overrides.items())
        chosen = "" if self.seeds is None else " --seeds " + " ".join(map(str, seeds))
        return {
            "method": self.entry.name,
            "pillar": self.entry.pillar,
            "paper": self.entry.paper,
            "mechanism": self.entry.mechanism,
            "metric": ablation.metric,
            "higher_is_better": ablation.higher,
            "seeds": list(seeds),
            "with": found["with"],
            "without": found["without"],
            "before": before,
            "difference": difference,
            "stderr": stderr,
            "margin": ablation.margin,
            "verdict": verdict,
            "switched_off": dict(ablation.without),
            "metrics": {"with": extra["with"], "without": extra["without"]},
            "command": f"saccade ablate {self.entry.name}{chosen}{overrides}",
            "commit": commit(),
            "versions": versions(),
            "seconds": round(seconds, 1),
            "note": ablation.note,
        }
