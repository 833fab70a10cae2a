"""One GRPO step of a vision-language model: TRL's GRPOTrainer against Saccade, interleaved in one run.

    python benchmarks/vlm_grpo_step.py --image-tokens 256 --completion 32 --group 8 --json OUT
    python benchmarks/vlm_grpo_step.py --suite --json benchmarks/vlm_grpo_step.json

Both sides load the same random Qwen2.5-VL from one folder and see the same pictures, questions, group size, lengths,
rewards and optimiser. Three processes stand beside each other: TRL in an environment of its own, the library's loop,
and a bare loop over the library's policy. One of them works at a time, one step a turn, so that they meet the same
machine. A step is everything from data loading to the optimiser. Completions have full length on both sides: TRL may
not draw the ending token, in the library no token ends a turn.

A fourth process then checks gradients and log-probabilities against TRL's and against a plain batch of the stock
model, and compares the training pass with the bound by matrix products.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import provenance
from provenance import BadInput, Parser, at_least, commit, machine, number, tell
from vlm_grpo.problem import SIZES, Settings

HERE = Path(__file__).resolve().parent
PEER = HERE / ".peer"
PEER_PACKAGES = ("trl", "transformers", "accelerate", "peft", "datasets", "pillow")
SIDES = ("trl", "saccade", "bare")
ROW = ("image_tokens", "completion", "group", "prompts", "size", "beta", "iterations")
"""What the rows of the table differ in."""

SUITE: tuple[dict[str, Any], ...] = (
    {"image_tokens": 256, "completion": 32, "group": 8, "size": "m"},
    {"image_tokens": 1024, "completion": 64, "group": 8, "size": "s"},
    {"image_tokens": 256, "completion": 32, "group": 16, "size": "m"},
    {"image_tokens": 256, "completion": 256, "group": 8, "size": "s", "prompts": 4},
    {"image_tokens": 256, "completion": 32, "group": 8, "size": "m", "beta": 0.04, "iterations": 2},
)

RULES = {
    "round": "everything between two ends of an optimiser step: data, rollout, reward, log-probabilities, loss, "
    "backward, clipping, optimiser",
    "memory": "peak resident bytes (on an accelerator: allocated) of all rounds but the first over what is resident "
    "after the first, when optimiser states exist on every side and free memory went back to the system; "
    "over_first_step counts from before the first step",
    "time": "the first round and the one after memory was given back are not timed",
    "ratios": "median of TRL over median of Saccade; ranges are the least and greatest ratio of a single round",
    "completions": "full length on both sides: TRL by min_new_tokens, the library because no token ends a turn",
}


class Failure(Exception):
    """A process ended, or the two sides did not do the same."""


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = parse(argv)
        run(options, sys.argv[1:] if argv is None else argv)
    except (BadInput, Failure) as error:
        print(f"vlm_grpo_step: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    return 0


def parser() -> Parser:
    made = Parser(description=__doc__.partition("\n")[0])
    for name, least in (("image-tokens", 4), ("completion", 1), ("group", 2), ("prompts", 1), ("iterations", 1)):
        default = getattr(Settings, name.replace("-", "_"))
        made.add_argument(f"--{name}", type=at_least(least), default=default, metavar="N")
    made.add_argument("--rounds", type=at_least(1), default=Settings.rounds, metavar="N", help="measured rounds")
    made.add_argument("--threads", type=at_least(1), default=Settings.threads, metavar="N", help="threads of each side")
    made.add_argument("--vocab", type=at_least(512), default=Settings.vocab, metavar="N")
    made.add_argument("--size", choices=tuple(SIZES), default=Settings.size, help="shape of the model")
    made.add_argument("--beta", type=number(), default=0.0, metavar="X", help="coefficient of the KL term")
    made.add_argument("--bf16", action="store_true", help="autocast to bfloat16 on both sides")
    made.add_argument("--prefix", choices=("shared", "plain"), default=Settings.prefix, help="the library's path")
    made.add_argument(
        "--micro-size",
        type=at_least(0),
        default=Settings.micro_size,
        metavar="N",
        help="most positions in a pass of the library; 0: the prompts and the completions of half a group",
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default=Settings.device)
    made.add_argument(
        "--bare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time the bare loop; three models must fit the device",
    )
    made.add_argument("--suite", action="store_true", help="the five rows of the table, one after another")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the result goes; default: standard output")
    made.add_argument("--peer-python", type=Path, metavar="PYTHON", help="python with TRL; default: make one")
    made.add_argument("--pip-args", default="", metavar="ARGS", help="more arguments of pip where one is made")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser().parse_args(argv)
    if math.isqrt(options.image_tokens) ** 2 != options.image_tokens:
        raise BadInput(f"--image-tokens must be a square number, got {options.image_tokens}")
    for name in ROW if options.suite else ():
        if getattr(options, name) != getattr(Settings, name):
            raise BadInput(f"--suite sets --{name.replace('_', '-')} itself")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BadInput(f"--json: there is no folder {options.json.resolve().parent}")
    if options.size == "3b" and options.device == "cpu":
        raise BadInput("--size 3b needs --device cuda")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput("--device cuda: torch sees no CUDA device")
    return options


def rows(options: argparse.Namespace) -> list[Settings]:
    """The settings of each row; the folder is filled in when it is made."""
    shared = ("rounds", "threads", "vocab", "bf16", "prefix", "micro_size", "device")
    base = Settings("", **{name: getattr(options, name) for name in shared})
    if options.suite:
        return [replace(base, **row) for row in SUITE]
    return [replace(base, **{name: getattr(options, name) for name in ROW})]


def run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    chosen = rows(options)
    peer = peer_python(options)
    found: list[dict[str, Any]] = []
    for i, settings in enumerate(chosen):
        tell(f"row {i + 1} of {len(chosen)}: {describe(settings)}")
        found.append(measure(settings, peer, SIDES if options.bare else SIDES[:2], argv))
        result = {"command": command(argv), "rows": found} if options.suite else found[0]
        text = json.dumps(result, indent=1) + "\n"
        if options.json is not None:
            options.json.write_text(text, encoding="utf-8")
        tell(headline(found[-1]))
    if options.json is None:
        print(text, end="")


def measure(settings: Settings, peer: Path, sides: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """One row: rounds in turn, then the checks."""
    began = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="vlm_grpo_") as folder:
        settings = replace(settings, folder=folder)
        file = settings.save(Path(folder) / "settings.json")
        finished(Path(sys.executable), "problem", file)
        workers: dict[str, Worker] = {}
        try:
            for side in sides:
                workers[side] = Worker(side, peer if side == "trl" else Path(sys.executable), file)
            rounds, memory, software = take_turns(workers, settings.rounds)
        finally:
            for worker in workers.values():
                worker.stop()
        tell("checks: gradients, log-probabilities, training pass")
        checks = json.loads(finished(Path(sys.executable), "checks", file))
    return {
        "settings": {name: value for name, value in vars(settings).items() if name != "folder"},
        **summary(rounds, memory),
        **checks,
        "rules": RULES,
        "machine": machine(began),
        "software": software,
        "command": command(argv),
        "commit": commit("benchmarks/vlm_grpo", "benchmarks/vlm_grpo_step.py"),
    }


class Worker:
    """A process that does one round whenever it is told to."""

    def __init__(self, side: str, python: Path, settings: Path) -> None:
        self.side = side
        self.log = settings.parent / f"{side}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", f"vlm_grpo.{side}_worker", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(settings),
            )

    def hear(self) -> dict[str, Any]:
        """The next report."""
        line = self._process.stdout.readline()
        if not line:
            raise Failure(f"the process of {self.side} ended: {last_words(self.log)}")
        return json.loads(line)

    def ask(self, what: str) -> dict[str, Any]:
        try:
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failure(f"the process of {self.side} ended: {last_words(self.log)}") from None
        return self.hear()

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate()


def take_turns(workers: Mapping[str, Worker], count: int) -> tuple[dict[str, list], dict[str, dict], dict[str, dict]]:
    """Two rounds each that are not timed, then ``count`` in turn: rounds, bytes and software by side."""
    software, memory = {}, {}
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in workers}
    for side, worker in workers.items():
        software[side] = worker.hear()
        memory[side] = {"before_first_step": worker.ask("settle")["bytes"]}
        tell(f"{side}: ready, first rounds (not timed)")
        worker.ask("go")
    for side, worker in workers.items():
        memory[side]["before_rounds"] = worker.ask("settle")["bytes"]
        worker.ask("go")
    for i in range(count):
        for side, worker in workers.items():
            rounds[side].append(worker.ask("go"))
            tell("round {}: {} {wall:.2f} s, CPU {cpu:.2f} s".format(i + 1, side, **rounds[side][-1]))
    for side, worker in workers.items():
        memory[side]["peak"] = worker.ask("peak")["bytes"]
    for what in ("prompt_tokens", "completion_tokens"):
        counts = {side: [one[what] for one in found] for side, found in rounds.items()}
        if len({tuple(count) for count in counts.values()}) != 1:
            raise Failure(f"the sides worked on different numbers of {what.replace('_', ' ')}: {counts}")
    return rounds, memory, software


def summary(rounds: Mapping[str, Sequence[dict]], memory: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Medians, ranges, ratios and phases."""
    seconds = {side: {kind: [one[kind] for one in found] for kind in ("wall", "cpu")} for side, found in rounds.items()}
    medians = {side: {f"{kind}_s": statistics.median(x) for kind, x in of.items()} for side, of in seconds.items()}
    over = {side: held["peak"] - held["before_rounds"] for side, held in memory.items()}
    over_first = {side: held["peak"] - held["before_first_step"] for side, held in memory.items()}

    def ratio(kind: str, side: str, base: str) -> float:
        return medians[side][f"{kind}_s"] / medians[base][f"{kind}_s"]

    def ratio_range(kind: str) -> list[float]:
        pairs = zip(seconds["trl"][kind], seconds["saccade"][kind], strict=True)
        ratios = [theirs / own for theirs, own in pairs]
        return [min(ratios), max(ratios)]

    overhead = None
    if "bare" in rounds:
        overhead = {kind: ratio(kind, "saccade", "bare") - 1 for kind in ("cpu", "wall")}
    return {
        **{f"ratio_{kind}": ratio(kind, "trl", "saccade") for kind in ("cpu", "wall")},
        "ratio_memory": over["trl"] / over["saccade"],
        **{f"ratio_{kind}_range": ratio_range(kind) for kind in ("cpu", "wall")},
        "ratio_memory_over_first_step": over_first["trl"] / over_first["saccade"],
        "overhead_over_bare": overhead,
        "medians": {side: {**medians[side], "memory_bytes": over[side]} for side in rounds},
        "ranges": {side: {f"{kind}_s": [min(x), max(x)] for kind, x in of.items()} for side, of in seconds.items()},
        "rounds": seconds,
        "memory": {side: {**held, "over_first_step": over_first[side]} for side, held in memory.items()},
        "tokens": {what: rounds["saccade"][0][what] for what in ("prompt_tokens", "completion_tokens")},
        "phases": {side: phases(found) for side, found in rounds.items()},
    }


def phases(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Median seconds of each phase; one that a round did not have took none there."""
    names = sorted({name for one in rounds for name in one["phases"]})
    kinds = {name: {kind for one in rounds for kind in one["phases"].get(name, {})} for name in names}
    return {
        name: {
            kind: statistics.median(one["phases"].get(name, {}).get(kind, 0) for one in rounds) for kind in kinds[name]
        }
        for name in names
    }


def peer_python(options: argparse.Namespace) -> Path:
    """The python that has TRL; makes its environment where none was named."""
    if options.peer_python is None:
        python = PEER / "bin" / "python"
        if not has_trl(python):
            make_peer(python, shlex.split(options.pip_args))
        return python
    if not options.peer_python.exists():
        raise BadInput(f"--peer-python: there is no {options.peer_python}")
    if not has_trl(options.peer_python):
        raise BadInput(f"--peer-python: TRL is not installed in the environment of {options.peer_python}")
    return options.peer_python


def has_trl(python: Path) -> bool:
    asked = [python, "-c", "import importlib.metadata; importlib.metadata.version('trl')"]
    try:
        return subprocess.run(asked, capture_output=True).returncode == 0
    except OSError:
        return False


def make_peer(python: Path, pip_args: Sequence[str]) -> None:
    tell(f"making {PEER} with TRL (once; this fetches torch and takes some minutes)")
    venv.create(PEER, with_pip=True, clear=True)
    constraints = (HERE.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(line for line in constraints if line.startswith("torch=="))
    for packages in ([torch], [torch, *PEER_PACKAGES]):
        pip = [python, "-m", "pip", "install", "--quiet", *pip_args, *packages]
        if subprocess.run(pip, stdout=sys.stderr).returncode:
            raise Failure(f"pip could not install {' '.join(packages)} into {PEER}; see above")


def finished(python: Path, module: str, settings: Path) -> str:
    """Standard output of a process that runs to its end."""
    log = settings.parent / f"{module}.log"
    with log.open("w") as errors:
        arguments = [python, "-m", f"vlm_grpo.{module}", settings]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(settings))
    if done.returncode:
        raise Failure(f"the process of the {module} ended: {last_words(log)}")
    return done.stdout


def environment(settings: Path) -> dict[str, str]:
    threads = str(json.loads(settings.read_text(encoding="utf-8"))["threads"])
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(settings.parent / "datasets"),
        "TRANSFORMERS_VERBOSITY": "error",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    return {**os.environ, **own}


def last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    print("\n".join(lines[-15:]), file=sys.stderr)
    return lines[-1].strip() if lines else "it said nothing"


def command(argv: Sequence[str]) -> str:
    return provenance.command("benchmarks/vlm_grpo_step.py", argv, ("--json", "--peer-python", "--pip-args"))


def describe(settings: Settings) -> str:
    kl = f", KL {settings.beta}, {settings.iterations} inner iterations" if settings.beta else ""
    return (
        f"{settings.image_tokens} image tokens, {settings.completion} new tokens, G = {settings.group}, "
        f"{settings.prompts} prompt(s), size {settings.size}{kl}{', bf16' if settings.bf16 else ''}"
    )


def headline(row: Mapping[str, Any]) -> str:
    ratios = "CPU {ratio_cpu:.2f}x, wall {ratio_wall:.2f}x, memory 1/{ratio_memory:.1f}"
    errors = "gradient {gradient_relative_error:.1e}, against TRL's {gradient_relative_error_vs_trl:.1e}"
    return f"{ratios}, {errors}, {{fraction_of_flop_bound:.0%}} of the bound".format(**row)


if __name__ == "__main__":
    sys.exit(main())
