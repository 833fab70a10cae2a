"""What ``saccade evaluate`` does: a run, a model or given outputs, on a run's held-out tasks or on benchmarks."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import time
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
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
from saccade.core import config, flags
from saccade.core.content import Text
from saccade.core.errors import CheckpointError, ConfigError, DataError
from saccade.core.metric import Metric, Models
from saccade.core.policy import Act, Policy, PolicySpec, Sampling
from saccade.core.random import fold_in
from saccade.core.state import Progress as Training
from saccade.core.trajectory import Context, Group
from saccade.envs.datasets.images import PictureFolder
from saccade.envs.datasets.media import FILMS, Media, MediaKind, Place, short
from saccade.evaluate.benchmark import Benchmark, benchmark_named
from saccade.evaluate.result import HELD_OUT, Result, refuse_settings, refuse_unequal, result_folder, results_of
from saccade.evaluate.run import Advance, NoModels, Report, evaluate, once
from saccade.evaluate.samples import Mean
from saccade.evaluate.sets import set_metrics
from saccade.evaluate.statistics import PairedTest, holm, paired_test
from saccade.evaluate.store import RolloutStore, weights_hash
from saccade.learn import checkpoint
from saccade.policies.denoise.hub import Diffusers
from saccade.policies.folder import read_policy
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.unified.hf import HFUnified
from saccade.recipe import Evaluation, Pillar, Recipe
from saccade.report.comparison import plus_minus
from saccade.report.snapshot import Pictures, snapshot
from saccade.rewards.features import features_named

SUITE = "suite."
"""In front of the settings of a benchmark."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MOVING = (".gif", ".apng", ".webp", *FILMS)
"""Endings of given outputs that are videos."""
FRAMES = 1024
"""Most frames of a given video; rules want all of them."""
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
class Subject:
    """What is evaluated, and how its rollouts are drawn."""

    of: Mapping[str, Any]
    """See ``Result.of``."""
    evaluation: Evaluation
    """Sampling, rollouts per task and limit; of a run also its own tasks and metrics."""
    seed: int
    changed: str
    """Hash of what differs from the subject's own settings; empty if nothing does."""
    recipe: Recipe | None = None
    models: Models | None = None
    """None: the outputs are given."""
    given: Mapping[str, Sequence[Text | Media]] = field(default_factory=dict)
    """Outputs by task id."""
    weights: str = ""


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
        subject = _built(subject, device)
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
        return _predicted(chosen, given, benchmarks, held_out)
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
    changed = "" if recipe == original else _hash([config.to_dict(recipe), chosen.limit])
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
    changed = "" if settings == plain and chosen.limit is None else _hash([config.to_dict(settings), chosen.limit])
    return Subject(of, settings.evaluation, settings.seed, changed), Path("evaluations") / name


def _known_settings(settings: Any, given: Given, chosen: Namespace) -> None:
    fields = config.field_types(type(settings))
    for key, _ in given:
        if key.replace("-", "_").partition(".")[0] not in fields:
            raise ConfigError(flags.unknown(settings, key, chosen.known))


def model_spec(name: str, pillars: Collection[Pillar]) -> PolicySpec:
    """How a model becomes a policy: by what is in its folder, or for a name on the hub by what it is asked to do.

    Raises:
        ConfigError: it is neither a folder with a model nor a name on the hub, or it cannot be told what it does.
    """
    folder = Path(name)
    if not folder.exists():
        if not HUB_NAME.fullmatch(name):
            raise ConfigError(f"{name} is neither a run's folder, nor a model's, nor a name on the hub")
        if "generation" in pillars and len(pillars) > 1:
            raise ConfigError(f"whether {name} draws or answers is told by its suites; name suites of one kind")
        return _drawing(name, name) if "generation" in pillars else HFVisionLanguage(name)
    if (folder / "model_index.json").exists():
        return _drawing(name, str(_json(folder / "model_index.json").get("_class_name")))
    if not (folder / "config.json").exists():
        raise ConfigError(f"{name} holds neither a run (config.yaml) nor a model (config.json or model_index.json)")
    plain = _json(folder / "config.json")
    if "class" in plain:
        spec = config.from_dict(plain, str(folder / "config.json"))
        if not isinstance(spec, PolicySpec):
            raise ConfigError(f"{folder / 'config.json'}: expected a policy, got {type(spec).__name__}")
        return spec
    if plain.get("model_type") == "emu3":
        return HFUnified(name)
    return HFVisionLanguage(name)


def _drawing(name: str, kind: str) -> Diffusers:
    """40 steps with guidance as most results of drawing models are had; FLUX is told its guidance instead."""
    return Diffusers(model=name, guidance=1.0 if "flux" in kind.lower() else 5.0, eval_steps=40)


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise DataError(f"{path}: found {type(plain).__name__}, expected an object")
    return plain


def _predicted(
    chosen: Namespace, given: Given, benchmarks: Sequence[Benchmark], held_out: bool
) -> tuple[Subject, Path]:
    if chosen.run is not None:
        raise ConfigError(f"--predictions are scored without a model; leave out {chosen.run}")
    if len(benchmarks) != 1 or held_out:
        raise ConfigError("--predictions are of one benchmark; name it with --suite")
    if given:
        near = difflib.get_close_matches(given[0][0], chosen.known, n=1)
        raise ConfigError(f"there is no option --{given[0][0]}{f'; did you mean --{near[0]}?' if near else ''}")
    (benchmark,) = benchmarks
    if benchmark.env().max_turns != 1:
        raise ConfigError(f"{benchmark.name} is played in several turns; outputs alone cannot be scored")
    path = Path(chosen.predictions)
    outputs = read_predictions(path, benchmark.pillar)
    n = _equal_number(path, benchmark, outputs, chosen.limit)
    of = {"predictions": str(path), "name": path.stem, "step": None}
    changed = "" if chosen.limit is None else _hash([chosen.limit])
    weights = hashlib.sha256(path.read_bytes()).hexdigest()
    subject = Subject(of, Evaluation(n=n), 0, changed, given=outputs, weights=weights)
    return subject, Path("evaluations") / path.stem


def read_predictions(path: Path, pillar: Pillar) -> dict[str, list[Text | Media]]:
    """Outputs by task id from lines ``{"id": ..., "output": ...}``; several lines of one id are several rollouts.

    An output is text; for drawing models the path of a picture or video, relative to the file, decoded when
    it is scored; for models that act also an object, which stands for its JSON.

    Raises:
        DataError: naming file, row and field.
    """
    found: dict[str, list[Text | Media]] = {}
    with path.open("rb") as file:
        for number, row in enumerate(file, 1):
            if not row.strip():
                continue
            try:
                plain = json.loads(row)
            except (ValueError, RecursionError) as error:
                Place(str(path), number, "row").wrong(f"no JSON ({error})", 'an object like {"id": "1", "output": "B"}')
            if not isinstance(plain, dict):
                Place(str(path), number, "row").wrong(short(plain), 'an object like {"id": "1", "output": "B"}')
            name, output = plain.get("id"), plain.get("output")
            if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
                Place(str(path), number, "id").wrong(short(name), "the id of a task")
            place = Place(str(path), number, "output")
            if pillar == "vla" and isinstance(output, dict):
                output = json.dumps(output)
            if not isinstance(output, str):
                place.wrong(short(output), "text" if pillar != "generation" else "the path of a picture")
            part: Text | Media = Text(output)
            if pillar == "generation":
                kind: MediaKind = "video" if output.lower().endswith(MOVING) else "image"
                part = Media(kind, output, path.parent, place, FRAMES)
                part.check()
            found.setdefault(str(name), []).append(part)
    if not found:
        raise DataError(f"{path}: found no rows, expected at least one")
    return found


def _equal_number(path: Path, benchmark: Benchmark, outputs: Mapping[str, Sequence[Any]], limit: int | None) -> int:
    """Outputs per task: as many for every task that counts. Tasks without one would make a score look better."""
    every = benchmark.ids
    asked, known = every[:limit] if limit is not None else every, set(every)
    if unknown := [name for name in outputs if name not in known]:
        near = difflib.get_close_matches(unknown[0], every, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{path}: {benchmark.name} has no task {unknown[0]!r}{hint}")
    if missing := [name for name in asked if name not in outputs]:
        raise DataError(
            f"{path}: found no output for {len(missing)} of {len(asked)} tasks, the first is {missing[0]!r}"
        )
    n = len(outputs[asked[0]])
    for name in asked:
        if len(outputs[name]) != n:
            raise DataError(f"{path}: found {len(outputs[name])} outputs for task {name!r} and {n} for {asked[0]!r}")
    return n


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
    return "-".join(word for word in (part, _hash(chosen) if chosen != usual else "") if word)


def _stored(where: Path, kept: str, name: str, folder: Path) -> Path:
    """A result's folder: this one, or the newest of a run on the same suite, preferably under the same settings."""
    if (where / "report.json").exists() and not (where / "config.yaml").exists():
        return where
    for suite in dict.fromkeys([kept, name]):
        found = [path for path in results_of(where, suite).values() if path.resolve() != folder.resolve()]
        if found:
            return found[-1]
    raise DataError(f"{where} holds no result of {name}; evaluate it first: saccade evaluate {where} --suite {name}")


def _hash(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


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


def _built(subject: Subject, device: torch.device) -> Subject:
    spec = config.from_dict(subject.of["policy"])
    assert isinstance(spec, PolicySpec)
    where = Path(subject.of["model"])
    ours = (where / "config.json").exists() and "class" in _json(where / "config.json")
    policy: Policy = read_policy(type(spec), where, device) if ours else spec.build(device)
    return replace(subject, models=Models(policy), weights=weights_hash(policy))


# --- rollouts and scores --------------------------------------------------------------------------------------------


class Recited:
    """An actor without a policy: gives each task the outputs that somebody else made."""

    seeded = True
    version = 0

    def __init__(self, outputs: Mapping[str, Sequence[Text | Media]]) -> None:
        self._outputs = outputs

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        return [[_act(output) for output in self._outputs[context.prompt.task.id]] for context in contexts]

    def sync(self, policy: Policy, version: int) -> None:
        return


def _act(output: Text | Media) -> Act:
    none = torch.zeros(0)
    part = output if isinstance(output, Text) else output.decoded()
    return Act((part,), None, none, none.bool(), none.long())


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
