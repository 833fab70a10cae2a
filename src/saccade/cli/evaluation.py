"""What ``saccade evaluate`` does: a run, a model or given outputs, on a run's held-out tasks or on benchmarks."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import load_file

from saccade import experiment
from saccade.cli import catalogue
from saccade.cli.catalogue import Given
from saccade.cli.models import built, model_spec
from saccade.cli.predictions import Recited, predicted
from saccade.cli.subject import Subject, short_hash
from saccade.core import config, flags
from saccade.core.errors import CheckpointError, ConfigError, DataError
from saccade.core.metric import Metric, Models
from saccade.core.policy import PolicySpec, Sampling
from saccade.core.random import fold_in
from saccade.core.state import Progress as Training
from saccade.core.trajectory import Group
from saccade.envs.datasets.images import PictureFolder
from saccade.evaluate.benchmark import Benchmark, benchmark_named
from saccade.evaluate.result import HELD_OUT, Result, refuse_settings, refuse_unequal, result_folder, results_of
from saccade.evaluate.run import Advance, NoModels, Report, evaluate, once
from saccade.evaluate.samples import Mean
from saccade.evaluate.sets import set_metrics
from saccade.evaluate.statistics import PairedTest, holm, paired_test
from saccade.evaluate.store import RolloutStore, weights_hash
from saccade.learn import checkpoint
from saccade.recipe import Evaluation
from saccade.report.comparison import plus_minus
from saccade.report.snapshot import Pictures, snapshot
from saccade.rewards.features import features_named

SUITE = "suite."
"""In front of the settings of a benchmark."""
ANSWER = 1024
"""Actions that a model's answer may have at most."""
DISCORDANT = 100
"""Tasks with the largest differences that a report lists."""
SHOWN_CATEGORIES = 24
PATIENCE = 15.0
"""Seconds between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class ModelSettings:
    """What there is to set where a model is evaluated without a recipe."""

    policy: PolicySpec
    evaluation: Evaluation
    seed: int = 0


@dataclass
class Suite:
    """One set of tasks and what is measured on it."""

    name: str
    folder: Path
    """Where the result goes."""
    before: Result | None
    """What it is compared with."""
    compared: Path | None
    benchmark: Benchmark | None = None
    """None: the run's own held-out tasks."""


def run_evaluation(chosen: Namespace, given: Given, device: torch.device, terminal: Terminal) -> int:
    """``saccade evaluate``."""
    names = list(dict.fromkeys(chosen.suite or [HELD_OUT]))
    of_suite = [(key.removeprefix(SUITE), words) for key, words in given if key.startswith(SUITE)]
    given = [pair for pair in given if not pair[0].startswith(SUITE)]
    benchmarks = {name: _benchmark(chosen, name, of_suite, len(names) > 1) for name in names if name != HELD_OUT}
    if of_suite and not benchmarks:
        raise ConfigError(f"--{SUITE}{of_suite[0][0]} is of a benchmark; name it with --suite")
    if chosen.limit is not None and chosen.limit < 1:
        raise ConfigError(f"--limit must be >= 1, got {chosen.limit}")
    if chosen.workers < 1:
        raise ConfigError(f"--workers must be >= 1, got {chosen.workers}")
    subject, default = _subject(chosen, given, list(benchmarks.values()), HELD_OUT in names)
    suites = [_suite(chosen, name, benchmarks.get(name), subject, default, len(names) > 1) for name in names]
    if subject.models is None and subject.recipe is not None:
        subject = _loaded(subject, Path(chosen.run), device, compared=HELD_OUT in names)
    elif subject.models is None and not subject.given:
        subject = built(subject, device)
    try:
        for suite in suites:
            _run_suite(subject, suite, chosen, terminal)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it was") from None
    return 0


def _run_suite(subject: Subject, suite: Suite, chosen: Namespace, terminal: Terminal) -> None:
    """Evaluate, compare, write and show."""
    evaluation, report = _evaluated(subject, suite, chosen, terminal)
    result = report.result(
        suite.name,
        evaluation,
        of=subject.of,
        seed=subject.seed,
        versions=experiment.versions(),
        commit=experiment.commit(),
        settings={} if suite.benchmark is None else config.to_dict(suite.benchmark),
    )
    if subject.given:
        result.sampling = {}
    recipe = subject.recipe if suite.benchmark is None else None
    weight = recipe.reward_weight(Training()) if recipe is not None else {}
    save(suite.folder, result, report.groups, weight)
    tests: dict[str, PairedTest] = {}
    if suite.before is not None and suite.compared is not None:
        refuse_unequal(suite.before, result)
        tests = _tests(suite.before, result)
        result.against = _against(suite.before, suite.compared, tests, result)
        result.save(suite.folder)
    _show(terminal, result, suite.before, tests)
    terminal.print(f"\n{result.seconds:.0f} s · {suite.folder / 'report.json'}", soft_wrap=True)


def save(folder: Path, result: Result, groups: Sequence[Group], reward_weight: Mapping[str, float]) -> None:
    """Write a result with some of its rollouts; the report itself comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(folder)
    shown = [snapshot(group, pictures, reward_weight) for group in groups]
    (folder / "rollouts.json").write_text(json.dumps(shown), encoding="utf-8")
    result.save(folder)


# --- what is asked for ----------------------------------------------------------------------------------------------


def _benchmark(chosen: Namespace, name: str, settings: Given, several: bool) -> Benchmark:
    """The benchmark, its files checked. Of several, each may have its own folder in ``--data``."""
    data = chosen.data or ""
    if data and several and (Path(data) / name).is_dir():
        data = str(Path(data) / name)
    benchmark = benchmark_named(name, data, chosen.part or "")
    benchmark = config.overlay(benchmark, flags.changes(benchmark, settings))
    len(benchmark)
    return benchmark


def _subject(
    chosen: Namespace, given: Given, benchmarks: Sequence[Benchmark], held_out: bool
) -> tuple[Subject, Path | None]:
    """What is to be evaluated, without its weights; and the folder of results, None for a run's own."""
    if not benchmarks and (chosen.data or chosen.part):
        raise ConfigError(f"--{'data' if chosen.data else 'part'} is of a benchmark; name it with --suite")
    if chosen.predictions:
        return predicted(chosen, given, benchmarks, held_out)
    if chosen.run is None:
        raise ConfigError("which run? give its folder, such as runs/grpo-1")
    if recorded := [one for one in benchmarks if one.recorded]:
        raise ConfigError(
            f"{recorded[0].name} scores what a simulator recorded, which is not part of Saccade, and a policy's own "
            "word is no evidence; give the records with --predictions FILE"
        )
    if (Path(chosen.run) / "config.yaml").exists() or not benchmarks:
        return _run(chosen, given), None
    if held_out:
        raise ConfigError(f"{chosen.run} is no run: it has no held-out tasks of its own")
    return _model(chosen, given, benchmarks)


def _run(chosen: Namespace, given: Given) -> Subject:
    folder = Path(chosen.run)
    try:
        original = experiment.load_run(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; to evaluate a model name a benchmark with --suite") from None
    recipe = catalogue.change(original, given, chosen.known)
    if chosen.limit is not None:
        recipe = config.overlay(recipe, {"evaluation.limit": chosen.limit})
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        raise CheckpointError(f"{folder} has no checkpoint to evaluate")
    step = int(found.name.removeprefix("step-"))
    of = {"run": str(folder), "name": _name_of(folder), "step": step}
    changed = "" if recipe == original else short_hash([config.to_dict(recipe), chosen.limit])
    return Subject(of, recipe.evaluation, recipe.train.seed, changed, recipe)


def _name_of(folder: Path) -> str:
    facts = folder / "environment.json"
    return json.loads(facts.read_text())["name"] if facts.exists() else folder.resolve().name


def _model(chosen: Namespace, given: Given, benchmarks: Sequence[Benchmark]) -> tuple[Subject, Path]:
    """A checkpoint of transformers, a pipeline of diffusers, or a policy that Saccade itself has saved."""
    evaluation = Evaluation(sampling=Sampling(max_actions=ANSWER, deterministic=True))
    plain = ModelSettings(model_spec(chosen.run, {one.pillar for one in benchmarks}), evaluation)
    _known_settings(plain, given, chosen)
    settings = config.overlay(plain, flags.changes(plain, given))
    name = Path(chosen.run).resolve().name if Path(chosen.run).exists() else chosen.run.replace("/", "--")
    of = {"model": chosen.run, "name": name, "step": None, "policy": config.to_dict(settings.policy)}
    changed = "" if settings == plain and chosen.limit is None else short_hash([config.to_dict(settings), chosen.limit])
    return Subject(of, settings.evaluation, settings.seed, changed), Path("evaluations") / name


def _known_settings(settings: Any, given: Given, chosen: Namespace) -> None:
    fields = config.field_types(type(settings))
    for key, _ in given:
        if key.replace("-", "_").partition(".")[0] not in fields:
            raise ConfigError(flags.unknown(settings, key, chosen.known))


def _suite(
    chosen: Namespace, name: str, benchmark: Benchmark | None, subject: Subject, default: Path | None, several: bool
) -> Suite:
    """Where the result goes and what it is compared with, as far as that can be checked beforehand."""
    kept = "-".join(part for part in (name, _other_settings(benchmark), subject.changed) if part)
    if chosen.out:
        folder = Path(chosen.out) / kept if several else Path(chosen.out)
    elif default is None:
        folder = result_folder(Path(chosen.run), kept, subject.of["step"])
    else:
        folder = default / kept
    if chosen.against is None:
        return Suite(name, folder, None, None, benchmark)
    compared = _stored(Path(chosen.against), kept, name, folder)
    before = Result.load(compared)
    sampling = {} if subject.given else asdict(subject.evaluation.sampling)
    refuse_settings(before, suite=name, n=subject.evaluation.n, sampling=sampling, seed=subject.seed)
    return Suite(name, folder, before, compared, benchmark)


def _other_settings(benchmark: Benchmark | None) -> str:
    """The part and a hash of what else is not the benchmark's default; empty if all is."""
    if benchmark is None:
        return ""
    chosen = config.to_dict(replace(benchmark, data="", part=""))
    usual = config.to_dict(type(benchmark)())
    part = benchmark.part if benchmark.part != benchmark.parts[0] else ""
    return "-".join(word for word in (part, short_hash(chosen) if chosen != usual else "") if word)


def _stored(where: Path, kept: str, name: str, folder: Path) -> Path:
    """A result's folder: this one, or the newest of a run on the same suite, preferably under the same settings."""
    if (where / "report.json").exists() and not (where / "config.yaml").exists():
        return where
    for suite in dict.fromkeys([kept, name]):
        found = [path for path in results_of(where, suite).values() if path.resolve() != folder.resolve()]
        if found:
            return found[-1]
    raise DataError(f"{where} holds no result of {name}; evaluate it first: saccade evaluate {where} --suite {name}")


# --- weights --------------------------------------------------------------------------------------------------------


def _loaded(subject: Subject, folder: Path, device: torch.device, *, compared: bool) -> Subject:
    """The run's policy with the weights of its last checkpoint, and its reference if a metric looks into it."""
    recipe = subject.recipe
    assert recipe is not None
    original = experiment.load_run(folder)
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    reference = None
    if compared and any(metric.needs_reference for metric in recipe.evaluation.metrics.values()):
        if recipe.policy != original.policy:
            raise ConfigError("policy settings cannot be changed while a metric compares with the reference policy")
        # References start from the weights that training started from.
        policy = experiment.start_policy(original, device)
        reference = original.train.reference.start(policy)
        if (found / "reference.safetensors").exists():
            checkpoint.load_weights(reference, load_file(found / "reference.safetensors"), str(found))
    else:
        policy = recipe.policy.build(device, fold_in(original.train.seed, "policy"))
    checkpoint.load_weights(policy, load_file(found / "policy.safetensors"), str(found))
    policy.version = subject.of["step"]
    return replace(subject, models=Models(policy, reference), weights=weights_hash(policy))


# --- rollouts and scores --------------------------------------------------------------------------------------------


def _evaluated(subject: Subject, suite: Suite, chosen: Namespace, terminal: Terminal) -> tuple[Evaluation, Report]:
    benchmark = suite.benchmark
    if benchmark is None:
        assert subject.recipe is not None
        env, rewards, evaluation = subject.recipe.env, subject.recipe.rewards, subject.evaluation
    else:
        limit = min(chosen.limit or len(benchmark), len(benchmark))
        env = benchmark.env()
        rule, metrics = once(_measured(benchmark), benchmark.rule, subject.evaluation.n)
        rewards = {"score": rule}
        evaluation = replace(subject.evaluation, tasks=benchmark, limit=limit, metrics=metrics)
    evaluation = _with_sets(evaluation, len(evaluation.tasks or env.tasks.split("test")), chosen)
    models, actor, store = subject.models, None, None
    if models is None:
        models, actor = NoModels(), Recited(subject.given)
        metrics = {name: metric for name, metric in evaluation.metrics.items() if metric.tier != "state"}
        evaluation = replace(evaluation, metrics=metrics)
    elif not chosen.fresh:
        store = RolloutStore.of(models.policy, subject.weights, env, evaluation.sampling, evaluation.n)
    with _progress(terminal, suite.name) as advance:
        report = evaluate(
            models,
            evaluation,
            env,
            rewards,
            seed=subject.seed,
            actor=actor,
            store=store,
            workers=chosen.workers,
            advance=advance,
        )
    if report.tasks == 0:
        raise ConfigError(f"there is nothing to evaluate: {suite.name} has no tasks")
    report.weights = subject.weights
    return evaluation, report


def _with_sets(evaluation: Evaluation, tasks: int, chosen: Namespace) -> Evaluation:
    """The evaluation and, if networks are named, all that is told of sets of pictures in their features."""
    if not chosen.features:
        if chosen.reference:
            raise ConfigError("--reference is compared with in the features of a network; name one with --features")
        return evaluation
    reference = PictureFolder(chosen.reference) if chosen.reference else None
    n = min(evaluation.limit, tasks) * evaluation.n
    metrics = dict(evaluation.metrics)
    for name in chosen.features:
        metrics |= set_metrics(features_named(name), n, reference)
    return replace(evaluation, metrics=metrics)


def _measured(benchmark: Benchmark) -> dict[str, Metric]:
    """The official summary and, unless it is in it, the plain mean of the scores, which tests can compare by task."""
    metrics, plain = dict(benchmark.metrics()), Mean(benchmark.rule)
    if plain not in metrics.values():
        metrics.setdefault("score", plain)
    return metrics


@contextmanager
def _progress(terminal: Terminal, title: str) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere lines."""
    if not terminal.is_terminal:
        yield Lines(terminal, title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        shown = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


class Lines:
    """Progress where there is no terminal: a line now and then, none for what is done soon."""

    def __init__(self, terminal: Terminal, title: str) -> None:
        self._terminal, self._title = terminal, title
        self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._shown >= PATIENCE and done < total:
            self._shown = time.monotonic()
            self._terminal.print(f"{self._title} {done}/{total}", soft_wrap=True)


# --- comparison and tables ------------------------------------------------------------------------------------------


def _tests(before: Result, after: Result) -> dict[str, PairedTest]:
    """Of every metric that has one number a trajectory or task in both."""
    return {
        name: paired_test(before.values(name), after.values(name))
        for name in after.rows
        if {row.task for row in before.values(name)} & {row.task for row in after.values(name)}
    }


def _against(before: Result, where: Path, tests: Mapping[str, PairedTest], after: Result) -> dict[str, Any]:
    adjusted = holm({name: test.p_permutation for name, test in tests.items()})
    return {
        "result": str(where),
        "of": before.of,
        "tests": {
            name: {
                "before": before.metrics[name].estimate.value,
                "after": after.metrics[name].estimate.value,
                "difference": test.difference.value,
                "stderr": test.difference.stderr,
                "n": test.difference.n,
                "interval": list(test.interval),
                "p_t": test.p_t,
                "p_permutation": test.p_permutation,
                "p_mcnemar": test.p_mcnemar,
                "p_holm": adjusted[name],
                "rose": sum(d.after > d.before for d in test.discordant),
                "fell": sum(d.after < d.before for d in test.discordant),
                "discordant": [asdict(d) for d in test.discordant[:DISCORDANT]],
            }
            for name, test in tests.items()
        },
    }


def _show(terminal: Terminal, result: Result, before: Result | None, tests: Mapping[str, PairedTest]) -> None:
    style: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold"}
    metric = "held-out metric" if result.suite == HELD_OUT else f"{result.suite} metric"
    if before is None:
        shown = Table(metric, "value", "n", **style)
        for name, number in result.metrics.items():
            shown.add_row(escape(name), plus_minus(number.estimate), str(number.estimate.n))
    else:
        shown = Table(metric, "before", "after", "difference", "p", "rose", "fell", **style)
        for name, number in result.metrics.items():
            old = before.metrics.get(name)
            row = [escape(name), "" if old is None else plus_minus(old.estimate), plus_minus(number.estimate)]
            if name in tests:
                test = tests[name]
                rose = sum(d.after > d.before for d in test.discordant)
                row += [plus_minus(test.difference, sign=True), f"{test.p_permutation:.3g}", str(rose)]
                row.append(str(len(test.discordant) - rose))
            shown.add_row(*row)
    terminal.print(shown)
    if result.categories:
        # Of equally many the first; columns of a published table have one category each.
        name, parts = max(result.categories.items(), key=lambda item: len(item[1]))
        shown = Table("category", escape(name), "n", **style)
        for category, estimate in list(parts.items())[:SHOWN_CATEGORIES]:
            shown.add_row(escape(category), plus_minus(estimate), str(estimate.n))
        terminal.print()
        terminal.print(shown)
        if len(parts) > SHOWN_CATEGORIES:
            terminal.print(f"... {len(parts) - SHOWN_CATEGORIES} more categories in report.json")
