"""Rollout throughput, policy included: array programs against gymnasium's vector environments on an equal task.

    python benchmarks/environments.py --json benchmarks/environments.json

The screens and the table of ``saccade.envs`` are written once more as ordinary gymnasium environments
(``benchmarks/ordinary.py``). First both are played with the same seeds and actions, through resets: observations,
rewards and ends must be equal. Then the sides take turns, so that they meet the same machine; one turn is a number of
vector steps, each with a forward pass of one small policy over all lanes and one action drawn for each. Lanes whose
episode ends are reset within the step on all sides.

Work in one process is counted in CPU seconds; AsyncVectorEnv works in several, so it is compared by wall time.

The last rows drive the library's gymnasium adapter against SyncVectorEnv, both over the same ordinary environments.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from ordinary import STRIDE, ScreenEnv, TableEnv
from provenance import BadInput, Parser, at_least, command, commit, machine, tell
from torch import nn

import saccade
from saccade.core.content import Array, Content, Image
from saccade.core.environment import Step
from saccade.core.trajectory import Observation
from saccade.envs.arrays import ArrayEnvironment
from saccade.envs.gym import Gymnasium, GymnasiumTasks
from saccade.envs.screens import CLICK, ScreenArrays, Screens
from saccade.envs.tabletop import TableArrays, TableExpert, Tabletop

SAME_STEP = gymnasium.vector.AutoresetMode.SAME_STEP
TASKS = ("screens", "table")
SEES = ("state", "pixels")
GOALS = {"state": 4.0, "pixels": 2.0, "adapter": 1.10}
"""Least ratio at the greatest N; most CPU time of the adapter, as a multiple of that of gymnasium's loop."""
RULES = {
    "step": "policy over N observations, one action each, N environment steps, resets of lanes that ended",
    "rate": "environment steps of all lanes per second; medians of the rounds",
    "cpu": "CPU seconds of this process; the ratio of SyncVectorEnv",
    "wall": "wall seconds; the ratio of AsyncVectorEnv, whose environments have processes of their own",
    "adapter": "episodes of N lanes in turn, resets and policy included, outputs and observations as content; medians; "
    "over = CPU time of the adapter over that of SyncVectorEnv; more_us = their difference, a step of one lane",
    "objects": "CPU time of making the objects of one turn and doing nothing else: output, observation, step, notes",
}


class Failure(Exception):
    """The sides did not do the same."""


class Side(Protocol):
    """N lanes that begin anew by themselves."""

    def reset(self) -> np.ndarray: ...

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations after resets, rewards, ends."""
        ...

    def close(self) -> None: ...


class Arrays:
    """The array program."""

    def __init__(self, task: str, sees: str, lanes: int) -> None:
        self.program = program(task, sees)
        self.seeds = np.arange(lanes, dtype=np.uint64)

    def reset(self) -> np.ndarray:
        return self.program.reset_arrays(self.seeds)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen, rewards, terminated, truncated = self.program.step_arrays(actions)
        over = terminated | truncated
        lanes = over.nonzero()[0]
        if lanes.size:
            self.seeds[lanes] += np.uint64(STRIDE)
            seen[lanes] = self.program.reset_arrays(self.seeds[lanes], lanes)
        return seen, rewards, over

    def close(self) -> None:
        self.program.close()


class Vector:
    """gymnasium's vector environment over ordinary ones."""

    def __init__(self, task: str, sees: str, lanes: int, kind: str) -> None:
        makers = [Maker(task, sees)] * lanes
        made = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}[kind]
        self.env = made(makers, autoreset_mode=SAME_STEP)
        self.lanes = lanes

    def reset(self) -> np.ndarray:
        return self.env.reset(seed=list(range(self.lanes)))[0]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen, rewards, terminated, truncated, _ = self.env.step(actions)
        return seen, rewards, terminated | truncated

    def close(self) -> None:
        self.env.close()


class Maker:
    """Builds one ordinary environment."""

    def __init__(self, task: str, sees: str) -> None:
        self.task, self.sees = task, sees

    def __call__(self) -> gymnasium.Env:
        return (ScreenEnv if self.task == "screens" else TableEnv)(self.sees)


def program(task: str, sees: str) -> ArrayEnvironment:
    if task == "table":
        return TableArrays(Tabletop(sees=sees))
    made = ScreenArrays(Screens())
    made.sees = sees
    return made


class Policy(nn.Module):
    """Convolution or two layers, then logits of four kinds of action and Gaussians of three numbers."""

    def __init__(self, task: str, sees: str, shape: Sequence[int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.task, self.sees = task, sees
        if sees == "pixels":
            side = shape[0] // 8
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(16 * side * side, 64), nn.ReLU()
            )
        else:
            self.body = nn.Sequential(nn.Linear(shape[0], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.head = nn.Linear(64, 7)
        self.buffer = torch.empty(0)

    @torch.inference_mode()
    def forward(self, seen: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(seen)
        if self.sees == "pixels":
            # One buffer for all steps: fresh memory would cost more than the convolution.
            if self.buffer.shape != x.shape:
                self.buffer = torch.empty(x.shape)
            x = torch.mul(x, 1 / 255, out=self.buffer).permute(0, 3, 1, 2)
        out = self.head(self.body(x))
        numbers = out[:, 4:] + torch.randn(len(out), 3)
        if self.task == "screens":
            numbers *= 64.0
            numbers[:, 0] = torch.multinomial(out[:, :4].softmax(dim=1), 1)[:, 0]
        return numbers.numpy()


# --- the same task ---


def check_equal(task: str, sees: str, lanes: int = 5, steps: int = 150) -> dict[str, Any]:
    """Play both sides with the same seeds and actions; raises ``Failure`` where they differ."""
    ours, theirs = Arrays(task, sees, lanes), Vector(task, sees, lanes, "sync")
    random = np.random.default_rng(0)
    paid = ends = 0
    try:
        _same(ours.reset(), theirs.reset(), f"{task}, {sees}: first observations")
        for k in range(steps):
            actions = _actions(task, ours.program, random)
            mine, other = ours.step(actions), theirs.step(actions)
            for name, a, b in zip(("observations", "rewards", "ends"), mine, other, strict=True):
                _same(a, b, f"{task}, {sees}, step {k}: {name}")
            paid, ends = paid + int(mine[1].sum()), ends + int(mine[2].sum())
    finally:
        theirs.close()
    if not 0 < paid < ends or ends < lanes:
        raise Failure(f"{task}, {sees}: the comparison saw {paid} successes in {ends} episodes, too few to compare")
    return {"task": task, "sees": sees, "steps": steps * lanes, "episodes": ends, "successes": paid}


def _actions(task: str, program: ArrayEnvironment, random: np.random.Generator) -> np.ndarray:
    """Some lead somewhere: clicks on widgets and right words; the expert's hand, disturbed, in lane 0 a blind one."""
    lanes = len(program.steps)
    if task == "screens":
        state, rows = program.state, np.arange(lanes)
        place = np.where(random.random(lanes) < 0.7, state["place"], 0)
        x, y = (state[name][rows, 0, place] + random.integers(-1, 7, lanes) for name in ("x", "y"))
        clicks = np.stack([np.full(lanes, CLICK), x, y], axis=1)
        kinds = np.stack([random.integers(0, 4, lanes), state["asked"], y], axis=1)
        return np.where((state["kind"] < 2)[:, None], clicks, kinds).astype(np.float32)
    expert = TableExpert().actions(program)
    expert[0] = 0
    noise = random.normal(0, 0.7, (lanes, 3))
    return (expert + noise * (random.random((lanes, 1)) < 0.7)).astype(np.float32)


def _same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    if a.shape != b.shape or not np.array_equal(a, b):
        raise Failure(f"{what} differ")


# --- throughput ---


def race(task: str, sees: str, lanes: int, kinds: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Rounds in turn of all sides; the first is not counted."""
    made: dict[str, Side] = {
        kind: Arrays(task, sees, lanes) if kind == "arrays" else Vector(task, sees, lanes, kind) for kind in kinds
    }
    try:
        seen = {kind: side.reset() for kind, side in made.items()}
        policy = Policy(task, sees, seen["arrays"].shape[1:])
        found: dict[str, dict[str, list[float]]] = {kind: {"cpu": [], "wall": []} for kind in kinds}
        for i in range(rounds + 1):
            for kind, side in made.items():
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(steps):
                    seen[kind], _, _ = side.step(policy(seen[kind]))
                if i:
                    found[kind]["cpu"].append(lanes * steps / (time.process_time() - cpu))
                    found[kind]["wall"].append(lanes * steps / (time.perf_counter() - wall))
        cpu = time.process_time()
        for _ in range(steps):
            policy(seen["arrays"])
        share = (time.process_time() - cpu) * statistics.median(found["arrays"]["cpu"]) / (lanes * steps)
    finally:
        for side in made.values():
            side.close()
    medians = {kind: {clock: statistics.median(rates) for clock, rates in of.items()} for kind, of in found.items()}
    row = {"task": task, "sees": sees, "lanes": lanes, "vector_steps": steps, "rates": found, "medians": medians}
    row["ratio_sync_cpu"] = medians["arrays"]["cpu"] / medians["sync"]["cpu"]
    row["range_sync_cpu"] = _range(found["arrays"]["cpu"], found["sync"]["cpu"])
    if "async" in medians:
        row["ratio_async_wall"] = medians["arrays"]["wall"] / medians["async"]["wall"]
    return {**row, "policy_share_of_arrays": min(1.0, share)}


def _range(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [min(ratios), max(ratios)]


# --- the adapter ---


TURNS = 25
"""Steps of an episode of the adapter's rows: fewer than any limit, so that no side resets more often than the other."""


def table_env() -> gymnasium.Env:
    return TableEnv("state")


def pendulum_env() -> gymnasium.Env:
    return gymnasium.make("Pendulum-v1")


def acrobot_env() -> gymnasium.Env:
    return gymnasium.make("Acrobot-v1")


def minigrid_env() -> gymnasium.Env:
    """A large empty room, seen in pixels by the agent; hardly left by chance within an episode."""
    import minigrid
    from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

    del minigrid  # importing it registers its environments
    return ImgObsWrapper(RGBImgPartialObsWrapper(gymnasium.make("MiniGrid-Empty-16x16-v0")))


class Adapted:
    """One kind of environment, through the adapter and through SyncVectorEnv, kept over rounds."""

    def __init__(self, name: str, lanes: int) -> None:
        make, id = ADAPTED[name]
        self.spec = Gymnasium(GymnasiumTasks("Do it."), id=id, max_turns=TURNS)
        self.tasks = self.spec.tasks[:lanes]
        self.ours = self.spec.make_vector()
        self.theirs = gymnasium.vector.SyncVectorEnv([make] * lanes, autoreset_mode=SAME_STEP)
        shape, actions = self.theirs.single_observation_space.shape, self.theirs.single_action_space
        self.columns = None if isinstance(actions, gymnasium.spaces.Discrete) else actions.shape[0]
        self.policy = Policy("table", "state" if len(shape) == 1 else "pixels", shape)

    def adapter(self) -> int:
        """Environment steps of one batch of episodes; lanes that end early leave it, as in a rollout."""
        shown = self.ours.reset(self.tasks, range(len(self.tasks)))
        seen = np.stack([_values(one.content) for one in shown if one is not None])
        live, count = list(range(len(self.tasks))), 0
        for _ in range(TURNS):
            actions = self._act(seen).reshape(len(live), 1, -1).astype(np.float32)
            steps = self.ours.step(live, [(Array("command", one),) for one in actions])
            count += len(live)
            going = [i for i, step in enumerate(steps) if not (step.terminated or step.truncated)]
            if not going:
                break
            live = [live[i] for i in going]
            seen = np.stack([_values(steps[i].observation.content) for i in going])  # type: ignore[union-attr]
        return count

    def sync(self) -> int:
        seen, _ = self.theirs.reset(seed=[task.info["seed"] for task in self.tasks])
        for _ in range(TURNS):
            seen, *_ = self.theirs.step(self._act(seen))
        return TURNS * len(self.tasks)

    def _act(self, seen: np.ndarray) -> np.ndarray:
        numbers = self.policy(seen)
        # Turning and walking, where actions are discrete: the numbers serve as logits.
        return numbers.argmax(axis=1) if self.columns is None else numbers[:, : self.columns]

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


ADAPTED: dict[str, tuple[Callable[[], gymnasium.Env], str]] = {
    "table": (table_env, "environments.table_env"),
    "pendulum": (pendulum_env, "Pendulum-v1"),
    "acrobot": (acrobot_env, "Acrobot-v1"),
    "minigrid": (minigrid_env, "environments.minigrid_env"),
}
"""Environments the adapter is timed over and what it finds them by: two of a few microseconds a step, and one that is
usual in the field."""


def adapter(name: str, lanes: int, rounds: int) -> dict[str, Any]:
    """Episodes of N lanes through ``Gymnasium`` and through SyncVectorEnv, by turns; the first is not counted."""
    made = Adapted(name, lanes)
    sides: dict[str, Callable[[], int]] = {"adapter": made.adapter, "sync": made.sync}
    found: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for i in range(rounds + 1):
            for side, play in sides.items():
                torch.manual_seed(i)
                cpu = time.process_time()
                count = play()
                if i:
                    found[side].append((time.process_time() - cpu) / count)
    finally:
        made.close()
    medians = {side: 1e6 * statistics.median(times) for side, times in found.items()}
    ratios = [a / b for a, b in zip(found["adapter"], found["sync"], strict=True)]
    return {
        "env": name,
        "lanes": lanes,
        "cpu_us_per_step": medians,
        "over": medians["adapter"] / medians["sync"],
        "range": [min(ratios), max(ratios)],
        "more_us": medians["adapter"] - medians["sync"],
    }


def objects(lanes: int, rounds: int) -> float:
    """Microseconds of CPU time that the objects of a lane's turn take where all they hold is there already."""
    values = [np.zeros((1, 3), np.float32) for _ in range(lanes)]
    found: list[float] = []
    for _ in range(rounds + 1):
        cpu = time.process_time()
        for _ in range(TURNS):
            outputs = [(Array("command", one),) for one in values]
            shown = [Observation((Array("state", one),), None) for one in values]
            steps = [Step(one, 0.0, False, False, {"valid": True, "steps": 1, "path": 1}) for one in shown]
        found.append((time.process_time() - cpu) / (TURNS * lanes))
        del outputs, steps
    return 1e6 * statistics.median(found[1:])


def _values(content: Content) -> np.ndarray:
    (part,) = content
    return part.pixels if isinstance(part, Image) else part.values  # type: ignore[union-attr]


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = parse(argv)
        run(options, sys.argv[1:] if argv is None else argv)
    except (BadInput, Failure) as error:
        print(f"environments: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    return 0


def parser() -> Parser:
    made = Parser(description=__doc__.partition("\n")[0])
    made.add_argument("--lanes", type=at_least(1), nargs="+", default=[1, 8, 64], metavar="N")
    made.add_argument("--rounds", type=at_least(1), default=7, metavar="N", help="measured rounds")
    made.add_argument("--steps", type=at_least(1), default=100, metavar="N", help="steps of all lanes in a round")
    made.add_argument(
        "--async-most", type=at_least(0), default=8, metavar="N", help="most lanes with a process each; 0: none"
    )
    made.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="threads of the policy")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the result goes; default: standard output")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser().parse_args(argv)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BadInput(f"--json: there is no folder {options.json.resolve().parent}")
    return options


def run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    torch.set_num_threads(options.threads)
    began = os.getloadavg()
    checks = [check_equal(task, sees) for task in TASKS for sees in SEES]
    rows = []
    for task in TASKS:
        for sees in SEES:
            for lanes in options.lanes:
                kinds = ("arrays", "sync", "async") if lanes <= options.async_most else ("arrays", "sync")
                row = race(task, sees, lanes, kinds, options.rounds, options.steps)
                tell(headline(row))
                rows.append(row)
    episodes = options.rounds * max(1, options.steps // TURNS)
    over = [adapter(name, max(options.lanes), episodes) for name in ADAPTED]
    for one in over:
        said = "adapter, {env}, {lanes} lanes: {over:.2f} times the CPU of SyncVectorEnv, {more_us:.1f} us a step more"
        tell(said.format(**one))
    result = {
        "rows": rows,
        "adapter": over,
        "objects_us": objects(max(options.lanes), episodes),
        "equal": checks,
        "goals": GOALS,
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "rules": RULES,
        "machine": machine(began),
        "software": {
            "saccade": saccade.__version__,
            "gymnasium": gymnasium.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "command": command("benchmarks/environments.py", argv, {"--json"}),
        "commit": commit("benchmarks/environments.py", "benchmarks/ordinary.py"),
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.json is None:
        print(text, end="")
    else:
        options.json.write_text(text, encoding="utf-8")


def headline(row: dict[str, Any]) -> str:
    said = "{task}, {sees}, {lanes} lanes: {ratio_sync_cpu:.1f} x SyncVectorEnv (CPU)".format(**row)
    return said + (f", {row['ratio_async_wall']:.1f} x AsyncVectorEnv (wall)" if "ratio_async_wall" in row else "")


if __name__ == "__main__":
    sys.exit(main())
