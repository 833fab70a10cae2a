"""The command line: ``saccade list | show | train | evaluate | ablate | validate | report | ablations``.

Errors a user can cause are one line on standard error and exit code 2; an interrupted command says how to go on, with
exit code 130. torch and the recipes are loaded when a command needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from saccade.core.errors import ConfigError, SaccadeError

DESCRIPTION = """Reinforcement learning post-training for models that see, draw and act.

A recipe is a complete method. Every setting of it can be changed on the command line by its dotted name, after the
other options; `saccade train NAME --help` lists them all with their values."""

EXAMPLES = """examples:
  saccade list
  saccade train grpo --out runs/first
  saccade train grpo --train.steps 50 --objective.kl.coef 0 --rewards.iou.weight 2
  saccade train grpo --model Qwen/Qwen2.5-VL-3B-Instruct --data mine.jsonl --reward mine.py:score
  saccade train --config runs/first/config.yaml
  saccade ablate grpo --seeds 0 1 2"""

EVALUATE = """Evaluate the last checkpoint of a run on its held-out tasks, or a run or a model on benchmarks.

Rollouts are cached: a command that was stopped goes on where it was, and scoring them otherwise needs no new ones.
A file of predictions has lines {"id": task, "output": text, or the path of a picture}. Of a model without a run the
settings are policy, evaluation and seed: --evaluation.n 4, --evaluation.sampling.max_actions 512. What a benchmark
has to set goes by suite: --suite.units thousandths."""

SETTINGS = """settings:
  --a.b.c VALUE          change one setting of the recipe; several words for a list: --train.optimiser.betas 0.9 0.95
  --a.b.class NAME       exchange an object: --objective.pg.class GSPO --objective.pg.low 0.0003
  --a.b None             remove an entry: --objective.kl None
  `saccade train NAME --help` lists all settings of a recipe."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other error a user can cause."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line and those of the commands. Recipes' settings are not in them."""
    style = argparse.RawDescriptionHelpFormatter
    top = Parser(
        "saccade", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=style, allow_abbrev=False, add_help=False
    )
    top.add_argument("-h", "--help", action="store_true", help="show this help; `saccade COMMAND --help` has more")
    top.add_argument("--version", action="store_true", help="show the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    found: dict[str, Parser] = {}

    def command(name: str, summary: str, *, settings: bool = False, description: str = "") -> Parser:
        parser = commands.add_parser(
            name,
            help=summary,
            description=description or summary[0].upper() + summary[1:] + ".",
            epilog=SETTINGS if settings else None,
            formatter_class=style,
            allow_abbrev=False,
            add_help=False,
        )
        parser.add_argument("-h", "--help", action="store_true", help="show this help")
        found[name] = parser
        return parser

    listing = command("list", "list the recipes, or the benchmarks")
    listing.add_argument("pillar", nargs="?", metavar="PILLAR", help="vlm, generation, unified or vla; default all")
    listing.add_argument("--benchmarks", action="store_true", help="benchmarks for `saccade evaluate --suite`")
    listing.add_argument("--json", action="store_true", help="as JSON, with everything there is to say")

    show = command("show", "print a recipe: what it does, and all its settings as YAML", settings=True)
    show.add_argument("name", nargs="?", metavar="NAME", help="a name from `saccade list`")
    _size(show)

    train = command("train", "train a recipe, evaluating on held-out tasks before and after", settings=True)
    train.add_argument("name", nargs="?", metavar="NAME", help="a name from `saccade list`")
    _size(train)
    train.add_argument("--out", metavar="DIR", help="folder of the run; default runs/NAME-1, runs/NAME-2, ...")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    train.add_argument("--config", metavar="FILE", help="YAML with settings to change, or a whole run's config.yaml")
    train.add_argument("--save-every", type=int, default=50, metavar="N", help="steps between checkpoints (default 50)")
    _device(train)

    evaluate = command(
        "evaluate", "evaluate a run or a model on held-out tasks and benchmarks", settings=True, description=EVALUATE
    )
    evaluate.add_argument("run", nargs="?", metavar="RUN|MODEL", help="folder of a run or a model, or a hub name")
    evaluate.add_argument(
        "--suite", nargs="+", action="extend", metavar="NAME", help="held-out (default of runs) or benchmarks' names"
    )
    evaluate.add_argument(
        "--data", metavar="DIR", help="folder with a benchmark's files; default: fetched from the hub"
    )
    evaluate.add_argument("--part", metavar="NAME", help="which of a benchmark's splits; default its first")
    evaluate.add_argument("--limit", type=int, metavar="N", help="most tasks; default the run's own, or all")
    evaluate.add_argument("--against", metavar="RUN|DIR", help="compare task by task with this run's, or this, result")
    evaluate.add_argument("--predictions", metavar="FILE", help="score the outputs in this file instead of a model's")
    evaluate.add_argument(
        "--features",
        nargs="+",
        metavar="NET",
        help="numbers about sets of pictures in a network's features: inception, efficientnet, clip:MODEL, dino:MODEL",
    )
    evaluate.add_argument("--reference", metavar="DIR", help="folder of real pictures that sets are compared with")
    evaluate.add_argument("--out", metavar="DIR", help="default RUN/evaluations/..., or evaluations/MODEL/...")
    evaluate.add_argument("--workers", type=int, default=1, metavar="N", help="threads that score (default 1)")
    evaluate.add_argument("--fresh", action="store_true", help="make all rollouts again, without the cache")
    _device(evaluate)

    ablate = command("ablate", "train with and without a recipe's mechanism and compare", settings=True)
    ablate.add_argument("name", nargs="?", metavar="NAME", help="a name from `saccade list`")
    ablate.add_argument("--seeds", type=int, nargs="+", metavar="N", help="default: the ablation's own")
    ablate.add_argument("--out", metavar="FILE", help="default benchmarks/ablations/NAME.json")
    ablate.add_argument("--work", metavar="DIR", help="folder of the runs; default runs/ablations/NAME")

    validate = command("validate", "check a recipe: gold outputs, environment, one training step", settings=True)
    validate.add_argument("name", nargs="?", metavar="NAME", help="a name from `saccade list`")

    report = command("report", "write a report on one run, or on several side by side: report.html and report.json")
    report.add_argument("runs", nargs="*", metavar="RUN", help="folders of runs")
    report.add_argument("--out", metavar="DIR", help="default: the run's folder, or for several runs the current one")

    ablations = command("ablations", "write the table of every method's ablation from the stored results")
    ablations.add_argument("--results", metavar="DIR", help="default benchmarks/ablations")
    ablations.add_argument("--out", metavar="FILE", help="default docs/ablations.md")
    ablations.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    return top, found


def _size(parser: Parser) -> None:
    parser.add_argument("--size", choices=("tiny", "base"), help="tiny runs on a CPU (default), base is the real thing")


def _device(parser: Parser) -> None:
    parser.add_argument("--device", metavar="NAME", help="such as cpu or cuda:0; default the first accelerator")


def split(words: Sequence[str], known: frozenset[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """A command's own words, and the options that are settings: (name without dashes, words that follow)."""
    own: list[str] = []
    options: list[tuple[str, list[str]]] = []
    target = own
    for word in words:
        if not word.startswith("--"):
            (own if word == "-h" else target).append(word)
            continue
        name, equals, value = word.partition("=")
        if name in known:
            own.append(word)
            target = own
        else:
            target = [value] if equals else []
            options.append((name.removeprefix("--"), target))
    return own, options


def dispatch(words: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    top, commands = parsers()
    if words and not words[0].startswith("-") and words[0] not in commands:
        near = difflib.get_close_matches(words[0], commands, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(commands)}"
        raise ConfigError(f"there is no command {words[0]!r}; {hint}")
    if not words or words[0] not in commands:
        chosen = top.parse_args(words)
        if chosen.version:
            from importlib.metadata import version

            print(f"saccade {version('saccade')}")
            return 0
        top.print_help()
        return 0 if words else 2
    parser = commands[words[0]]
    known = frozenset(parser._option_string_actions)
    own, options = split(words[1:], known)
    chosen = parser.parse_args(own)
    if chosen.help:
        if (name := getattr(chosen, "name", None)) is None:
            parser.print_help()
            return 0
        from saccade.cli.help import print_recipe_help

        print_recipe_help(parser, name, getattr(chosen, "size", None) or "tiny")
        return 0
    from saccade.cli.commands import COMMANDS

    chosen.words = list(words)
    chosen.known = sorted(name.removeprefix("--") for name in known if name.startswith("--"))
    return COMMANDS[words[0]](chosen, options)


def main(words: Sequence[str] | None = None) -> int:
    """The console script."""
    if not sys.stderr.isatty():
        # Bars of the hub and of transformers would stand between the lines of a log.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        return dispatch(sys.argv[1:] if words is None else words)
    except SaccadeError as error:
        return fail(str(error))
    except BrokenPipeError:
        # The reader of a pipe went away, as in `saccade list | head`; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
        return fail(named)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "saccade"):
            raise
        return fail(f"the package {missing!r} is needed for this; install saccade's extras: pip install 'saccade[vlm]'")
    except KeyboardInterrupt as stop:
        print(f"\nsaccade: stopped{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130


def fail(message: str) -> int:
    """One line on standard error; the exit code of errors a user can cause."""
    print(f"saccade: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
