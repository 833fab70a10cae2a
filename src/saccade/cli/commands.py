"""What the commands do."""

from __future__ import annotations

import difflib
import json
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table

from saccade import experiment
from saccade.cli import catalogue, evaluation
from saccade.cli.catalogue import Given
from saccade.cli.validate import CHECKS
from saccade.core import config
from saccade.core.errors import CheckpointError, ConfigError, SaccadeError
from saccade.core.state import Progress
from saccade.evaluate.benchmark import benchmark_classes
from saccade.evaluate.result import HELD_OUT, result_folder
from saccade.evaluate.run import Report
from saccade.learn import checkpoint
from saccade.recipe import Pillar, Recipe
from saccade.report.ablations import Method, load_results, page
from saccade.report.comparison import change_table, compare, save_changes
from saccade.report.energy import EnergyLog
from saccade.report.gallery import write_run_gallery
from saccade.report.log import Console, OnlyIn, RolloutLog, TensorBoardLog, tensorboard_installed
from saccade.report.snapshot import Pictures, snapshot

SNAPSHOTS = 4
"""Moments of training whose rollouts the gallery shows."""


def list_recipes(chosen: Namespace, given: Given) -> int:
    """``saccade list``."""
    _nothing_given(chosen, given)
    pillars = get_args(Pillar)
    if chosen.pillar is not None and chosen.pillar not in pillars:
        raise ConfigError(f"there is no pillar {chosen.pillar!r}; known: {', '.join(pillars)}")
    if chosen.benchmarks:
        return _list_benchmarks(chosen)
    entries = [e for e in catalogue.catalogue().values() if chosen.pillar in (None, e.pillar)]
    if chosen.json:
        keys = ("name", "pillar", "paper", "title", "mechanism", "without", "differences")
        print(json.dumps([{key: getattr(entry, key) for key in keys} for entry in entries], indent=1))
        return 0
    shown = Table("recipe", "pillar", "paper", "what it is", box=None, pad_edge=False, header_style="bold")
    for entry in entries:
        shown.add_row(entry.name, entry.pillar, entry.paper, entry.title)
    for name, package in catalogue.unavailable().items():
        shown.add_row(name, "", "", f"needs the package {package}", style="dim")
    _terminal().print(shown)
    return 0


def _list_benchmarks(chosen: Namespace) -> int:
    found = [one for one in benchmark_classes().values() if chosen.pillar in (None, one.pillar)]
    if chosen.json:
        keys = ("name", "title", "pillar", "paper", "parts", "hub", "source", "rule_in_words")
        print(json.dumps([{key: getattr(one, key) for key in keys} for one in found], indent=1))
        return 0
    terminal = _terminal()
    for one in found:
        facts = (one.title, one.pillar, one.paper, " ".join(one.parts), one.hub or "files by hand")
        terminal.print(f"[bold]{one.name}[/bold]  {escape(' · '.join(facts))}", soft_wrap=True)
        terminal.print(f"    {one.rule_in_words}", markup=False, soft_wrap=True)
    return 0


def show(chosen: Namespace, given: Given) -> int:
    """``saccade show``: YAML that can be loaded, with the documentation as comments."""
    entry = catalogue.entry_of(_name(chosen))
    recipe = catalogue.make(entry.name, chosen.size, given, chosen.known)
    print("\n".join(f"# {text}".rstrip() for text in [f"{entry.name} · {entry.paper}", "", *entry.doc.splitlines()]))
    print(config.dump(recipe), end="")
    return 0


def train(chosen: Namespace, given: Given) -> int:
    """``saccade train``."""
    if chosen.save_every < 1:
        raise ConfigError(f"--save-every must be >= 1, got {chosen.save_every}")
    device = _device(chosen)
    name, recipe, folder = _run_of(chosen, given)
    going = chosen.resume and (folder / "config.yaml").exists()
    fresh = not folder.exists()
    out = _terminal()
    out.print(f"{'Going on with' if going else 'Training'} {name} in {folder}", soft_wrap=True)
    with Console(lambda one: _phase(name, recipe, one), out) as console:
        logs: list[Any] = [OnlyIn(recipe, RolloutLog(folder, max(1, recipe.train.steps // SNAPSHOTS)))]
        logs.append(OnlyIn(recipe, EnergyLog(folder)))
        if tensorboard_installed():
            logs.append(OnlyIn(recipe, TensorBoardLog(folder)))
        try:
            outcome = experiment.run(
                recipe,
                folder,
                name=name,
                resume=chosen.resume,
                observers=(*logs, console),
                device=device,
                save_every=chosen.save_every,
                command=shlex.join(["saccade", *chosen.words]),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"go on with: saccade train --resume --out {folder}") from None
        except (SaccadeError, OSError):
            # A mistake that shows in the first step must not block the folder for the corrected command.
            if fresh and checkpoint.latest(folder / "checkpoints") is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    changes = compare(outcome.before.estimates, outcome.before.rows, outcome.after.estimates, outcome.after.rows)
    save_changes(folder / "comparison.json", changes)
    _keep_rollouts(folder, recipe, {"before": outcome.before, "after": outcome.after})
    for step, found in {0: outcome.before, outcome.state.step: outcome.after}.items():
        result = experiment.held_out(recipe, found, folder=folder, name=name, step=step)
        evaluation.save(result_folder(folder, HELD_OUT, step), result, found.groups, recipe.reward_weight(Progress()))
    outcome.state.policy.save_pretrained(folder / "model")
    gallery = write_run_gallery(folder, name)
    out.print()
    if changes:
        out.print(change_table(changes))
    out.print(f"\n{outcome.seconds:.0f} s · model in {folder / 'model'} · report in {gallery}", soft_wrap=True)
    return 0


def _run_of(chosen: Namespace, given: Given) -> tuple[str, Recipe, Path]:
    """Name, recipe and folder of what ``train`` is asked for."""
    folder = Path(chosen.out) if chosen.out else None
    rebuilt = chosen.config or chosen.size or any("." not in key for key, _ in given)
    if chosen.resume and folder is None:
        raise ConfigError("--resume needs the folder of the run: --out DIR")
    if chosen.resume and folder is not None and (folder / "config.yaml").exists() and not rebuilt:
        known = _recorded_name(folder)
        if chosen.name not in (None, known):
            raise CheckpointError(f"{folder} holds a run of {known}, not of {chosen.name}")
        return known, catalogue.change(experiment.load_run(folder), given, chosen.known), folder
    found = catalogue.read_config(Path(chosen.config)) if chosen.config else {}
    if isinstance(found, Recipe):
        if chosen.name is not None:
            raise ConfigError(f"{chosen.config} is a whole recipe already; leave out {chosen.name}")
        if chosen.size is not None:
            raise ConfigError(f"{chosen.config} is a whole recipe already; leave out --size")
        name, recipe = _recorded_name(Path(chosen.config).parent), catalogue.change(found, given, chosen.known)
    else:
        name = _name(chosen)
        recipe = catalogue.make(name, chosen.size, given, chosen.known, found)
    return name, recipe, folder or _next_folder(name)


def _recorded_name(folder: Path) -> str:
    facts = folder / "environment.json"
    return json.loads(facts.read_text())["name"] if facts.exists() else folder.resolve().name


def _next_folder(name: str) -> Path:
    """``runs/name-n`` with the first n above all that are there."""
    taken = [path.name.removeprefix(f"{name}-") for path in Path("runs").glob(f"{name}-*")]
    return Path("runs") / f"{name}-{max((int(n) for n in taken if n.isdigit()), default=0) + 1}"


def _phase(name: str, recipe: Recipe, current: Any) -> str:
    """What is being trained: the recipe itself or one of its stages."""
    return next((f"{name}: {stage}" for stage, one in recipe.stages.items() if one.feed is current.feed), name)


def _keep_rollouts(folder: Path, recipe: Recipe, reports: Mapping[str, Report]) -> None:
    pictures = Pictures(folder / "rollouts")
    (folder / "rollouts").mkdir(exist_ok=True)
    for moment, report in reports.items():
        groups = [snapshot(group, pictures, recipe.reward_weight(Progress())) for group in report.groups]
        (folder / "rollouts" / f"{moment}.json").write_text(json.dumps(groups))


def evaluate_run(chosen: Namespace, given: Given) -> int:
    """``saccade evaluate``."""
    return evaluation.run_evaluation(chosen, given, _device(chosen), _terminal())


def ablate(chosen: Namespace, given: Given) -> int:
    """``saccade ablate``."""
    entry = catalogue.entry_of(_name(chosen))
    base = entry.make("tiny")
    overrides = catalogue.changes(base, given, chosen.known, entry.name)
    config.overlay(base, overrides)
    out = Path(chosen.out or f"benchmarks/ablations/{entry.name}.json")
    terminal = _terminal()
    with Console(lambda one: entry.name, terminal) as console:
        run = experiment.AblationRun(
            entry=entry,
            folder=Path(chosen.work or f"runs/ablations/{entry.name}"),
            overrides=overrides,
            seeds=tuple(chosen.seeds) if chosen.seeds else None,
            progress=lambda text: terminal.print(text, soft_wrap=True),
            observers=lambda title: (console,) if terminal.is_terminal else (),
        )
        try:
            result = run()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where it was") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(out)
    shown = Table("seed", f"{result['metric']} with", "without", box=None, pad_edge=False, header_style="bold")
    for seed, value, other in zip(result["seeds"], result["with"], result["without"], strict=True):
        shown.add_row(str(seed), f"{value:.4g}", f"{other:.4g}")
    terminal.print(shown)
    difference, stderr, margin = result["difference"], result["stderr"], result["margin"]
    terminal.print(
        f"difference {difference:+.4g} ± {stderr:.2g} (margin {margin:g}): {result['verdict']} · {out}", soft_wrap=True
    )
    return 0


def validate(chosen: Namespace, given: Given) -> int:
    """``saccade validate``; exit code 1 if a check fails."""
    name = _name(chosen)
    recipe = catalogue.make(name, "tiny", given, chosen.known)
    terminal = _terminal()
    failed = False
    for title, check in CHECKS.items():
        try:
            mark, told = "[green]ok[/green]  ", check(recipe)
        except (SaccadeError, ValueError, AssertionError) as error:
            mark, told, failed = "[red]fail[/red]", " ".join(str(error).split()) or type(error).__name__, True
        terminal.print(f"{mark}  {title:<22}", end="")
        terminal.print(told, markup=False, soft_wrap=True)
    return int(failed)


def report_run(chosen: Namespace, given: Given) -> int:
    """``saccade report``."""
    from saccade.cli.report.collect import write_report

    _nothing_given(chosen, given)
    folders = [Path(run) for run in chosen.runs]
    if not folders:
        raise ConfigError("which run? give its folder, such as runs/grpo-1, or several folders")
    if len(folders) == 1 and not chosen.out:
        print(write_report(folders, folders[0]))
        write_run_gallery(folders[0], _recorded_name(folders[0]))
    else:
        print(write_report(folders, Path(chosen.out or ".")))
    return 0


def ablations(chosen: Namespace, given: Given) -> int:
    """``saccade ablations``; with ``--check`` exit code 1 if the page and the results disagree."""
    _nothing_given(chosen, given)
    results, path = Path(chosen.results or "benchmarks/ablations"), Path(chosen.out or "docs/ablations.md")
    if not results.is_dir():
        raise ConfigError(f"{results} is no folder; give the one with the results: --results DIR")
    written = ablations_page(results)
    if not chosen.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)
        print(path)
        return 0
    if path.exists() and path.read_text() == written:
        print(f"{path} is current")
        return 0
    print(f"{path} and {results} disagree; write it again: saccade ablations", file=sys.stderr)
    return 1


def ablations_page(results: Path) -> str:
    """The table of all shipped methods with what is stored of their ablations.

    Raises:
        ConfigError: recipes cannot be imported, so that the page would lack them.
        DataError: a result is damaged.
    """
    if lacking := catalogue.unavailable():
        recipe, package = next(iter(lacking.items()))
        raise ConfigError(f"recipe {recipe} needs the package {package!r}, and without it the page would be incomplete")
    methods = [
        Method(entry.name, entry.pillar, entry.paper, entry.mechanism, one.metric if one is not None else None)
        for entry in catalogue.shipped()
        for one in [entry.make("tiny").ablation]
    ]
    return page(methods, load_results(results))


def _terminal() -> Terminal:
    """Standard output; wide where nobody looks at it directly, so that lines stay whole in pipes and files."""
    return Terminal(highlight=False, width=None if sys.stdout.isatty() else 160)


def _name(chosen: Namespace) -> str:
    if chosen.name is None:
        raise ConfigError("which recipe? give a name from `saccade list`")
    return chosen.name


def _nothing_given(chosen: Namespace, given: Given) -> None:
    if given:
        near = difflib.get_close_matches(given[0][0], chosen.known, n=1)
        raise ConfigError(f"there is no option --{given[0][0]}{f'; did you mean --{near[0]}?' if near else ''}")


def _device(chosen: Namespace) -> torch.device:
    if chosen.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=chosen.device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {chosen.device} cannot be used: {str(error).splitlines()[0]}") from None


COMMANDS: Mapping[str, Callable[[Namespace, Given], int]] = {
    "list": list_recipes,
    "show": show,
    "train": train,
    "evaluate": evaluate_run,
    "ablate": ablate,
    "validate": validate,
    "report": report_run,
    "ablations": ablations,
}
