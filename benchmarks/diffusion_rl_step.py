"""A rollout and its update of diffusion models: the loop shapes of ddpo-pytorch and flow_grpo against Saccade.

    python benchmarks/diffusion_rl_step.py --json benchmarks/diffusion_rl_step.json
    python benchmarks/diffusion_rl_step.py --curves --json benchmarks/diffusion_rl_curves.json

All shapes work on the same random networks of diffusers (an SD3-type transformer and a UNet) with the same captions,
samplers, rewards and optimiser, one rollout with its update a turn, in one process on one thread. The peers' shapes are
written in plain PyTorch; the library's go through its rollout, table, objectives and optimiser step. Where both have
the same estimator, their gradients on the same trajectories are compared first.

With --curves nothing is random: the shape world's generator is trained by the shape of flow_grpo and by recipes with a
window or on the forward process, and what counts is the CPU time to the same held-out reward.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import provenance
from diffusion_rl.problem import NETS, Settings
from provenance import BadInput, Parser, at_least, commit, machine, number, tell

RECIPES = ("mixgrpo", "diffusion_nft", "awm")

RULES = {
    "sample": "a rollout and its update divided by the number of images, optimiser included",
    "ratio": "median of the peer over median of the row; the range is over single rounds",
    "ratio_of_forwards": "the same ratio in evaluations of the network, a row with a graph counted three times",
    "gradient_relative_error": "norm of the difference over norm of the peer's gradient, on the same trajectories and "
    "weights, the worst update of a rollout, with networks in float64; the timed ones are float32, whose rounding is "
    "in gradient_relative_error_float32",
    "left out on all sides": "prompt encoders, decoders of latents, mixed precision, LoRA, logging",
}
CURVE_RULES = {
    "cpu_seconds": "of training: rollouts, rewards, updates; evaluations and the pretraining that all share left out",
    "reward": "graded verifier on held-out captions, drawn without noise as the method draws",
    "level": "of each seed: mean of the last three evaluations of flow_grpo's shape",
    "seconds_to_level": "CPU seconds at the first evaluation at or above the level; null where there is none",
    "ratio": "of each seed: flow_grpo's shape over the recipe",
}


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = parse(argv)
    except BadInput as error:
        print(f"diffusion_rl_step: {error}", file=sys.stderr)
        return 2
    run(options, sys.argv[1:] if argv is None else argv)
    return 0


def parser() -> Parser:
    made = Parser(description=__doc__.partition("\n")[0])
    made.add_argument("--net", choices=(*NETS, "both"), default="both", help="network")
    whole = {
        "groups": (2, "captions a rollout"),
        "group": (2, "images a caption"),
        "steps": (3, "steps of a chain"),
        "window": (1, "stochastic steps of the window"),
        "start": (0, "first step of the window"),
        "rounds": (1, "measured rounds"),
        "threads": (1, "threads"),
    }
    for name, (least, told) in whole.items():
        default = getattr(Settings, name)
        made.add_argument(f"--{name}", type=at_least(least), default=default, metavar="N", help=told)
    made.add_argument(
        "--guidance", type=number(positive=True), default=Settings.guidance, metavar="X", help="scale of guidance"
    )
    made.add_argument(
        "--beta", type=number(positive=True), default=Settings.beta, metavar="X", help="coefficient of the KL term"
    )
    made.add_argument("--small", action="store_true", help="a trial: tiny networks, no pretraining")
    made.add_argument("--curves", action="store_true", help="time to the same held-out reward instead")
    made.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="of --curves")
    made.add_argument("--seeds", nargs="+", type=at_least(0), default=[0, 1, 2], metavar="N", help="of --curves")
    made.add_argument(
        "--updates", type=at_least(0), default=0, metavar="N", help="rollouts a curve; 0: as many as the recipe has"
    )
    made.add_argument("--every", type=at_least(1), default=5, metavar="N", help="rollouts between evaluations")
    made.add_argument("--captions", type=at_least(1), default=240, metavar="N", help="held-out captions of --curves")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the result goes; default: standard output")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser().parse_args(argv)
    if options.start + options.window >= options.steps:
        raise BadInput(
            f"--start {options.start} and --window {options.window} do not fit before the last of {options.steps} steps"
        )
    if options.guidance == 1:
        raise BadInput("--guidance must not be 1: that is none")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BadInput(f"--json: there is no folder {options.json.resolve().parent}")
    return options


def settings_of(options: argparse.Namespace) -> list[Settings]:
    """The settings of each network."""
    names = ("groups", "group", "steps", "window", "start", "rounds", "threads", "guidance", "beta", "small")
    shared = {name: getattr(options, name) for name in names}
    return [Settings(net=net, **shared) for net in (NETS if options.net == "both" else (options.net,))]


def run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    began = os.getloadavg()
    measured = curves if options.curves else shapes
    for found in measured(options):
        facts = {
            "machine": machine(began),
            "software": software(),
            "command": command(argv),
            "commit": commit("benchmarks/diffusion_rl", "benchmarks/diffusion_rl_step.py"),
        }
        text = json.dumps({**found, **facts}, indent=1) + "\n"
        if options.json is not None:
            options.json.write_text(text, encoding="utf-8")
    if options.json is None:
        print(text, end="")


def shapes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result after each network."""
    from diffusion_rl.shapes import measure

    rows: list[dict[str, Any]] = []
    for settings in settings_of(options):
        rows += measure(settings, tell)
        for row in rows:
            if row["net"] == settings.net:
                tell(headline(row))
        yield {"settings": vars(settings) | {"net": options.net}, "rules": RULES, "rows": rows}


def curves(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result after each run."""
    from diffusion_rl.curves import compare

    for rows, verdict in compare(options, tell):
        yield {"rules": CURVE_RULES, "rows": rows, **verdict}


def software() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("torch", "diffusers")}
    return {"python": platform.python_version(), **versions}


def command(argv: Sequence[str]) -> str:
    return provenance.command("benchmarks/diffusion_rl_step.py", argv, ("--json",))


def headline(row: Mapping[str, Any]) -> str:
    told = "{net}: {name}: {cpu_seconds_per_sample:.3f} CPU s a sample".format(**row)
    if row["peer"] is None:
        return told
    low, high = row["ratio_range"]
    told += f", {row['ratio']:.2f}x {row['peer']} ({low:.2f}-{high:.2f})"
    return told + (f", must be {row['must']}x" if row["must"] else "")


if __name__ == "__main__":
    sys.exit(main())
