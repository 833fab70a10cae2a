"""The loop shapes that are timed, and their gradients against the peers'."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion_rl import ours, peers, problem
from diffusion_rl.problem import RandomDenoiser, Settings
from saccade.core.batch import Batch
from saccade.core.random import fold_in, torch_generator
from saccade.core.trajectory import Prompt
from saccade.policies.denoise.chain import ChainRecord
from saccade.policies.denoise.steps import EveryStep, Window

FLOW_GRPO, FLOW_GRPO_KL = "flow_grpo", "flow_grpo with KL"
DDPO = "ddpo-pytorch"


@dataclass(frozen=True)
class Row:
    """One of the library's shapes and what it is held against."""

    name: str
    peer: str
    must: float
    """Least ratio."""
    same_gradient: bool
    shape: Callable[[Settings], ours.Shape]


def peer_shapes(settings: Settings) -> dict[str, peers.Shape]:
    return {
        FLOW_GRPO: peers.Shape(),
        FLOW_GRPO_KL: peers.Shape(beta=settings.beta),
        # Its configuration draws samples one at a time, too.
        DDPO: peers.Shape(sampled=1, trained=1, detached=False, tail=0, updates=1),
    }


ON_POLICY = {"shared_noise": True, "reuse_unconditional": True}


def _window(settings: Settings, **policy: Any) -> ours.Shape:
    chosen = Window(size=settings.window, start=settings.start)
    return ours.Shape(chosen, {"shared_noise": True, **policy}, together=settings.group)


def _ddpo(settings: Settings) -> ours.Shape:
    return ours.Shape(EveryStep(0), {"guidance_gradient": "both", "shared_noise": True})


ROWS = (
    Row(
        "two updates a rollout",
        FLOW_GRPO,
        1.3,
        True,
        lambda settings: ours.Shape(policy={"reuse_unconditional": True}, updates=2),
    ),
    Row(
        "on-policy, one starting noise, KL",
        FLOW_GRPO_KL,
        1.45,
        True,
        lambda settings: ours.Shape(policy=ON_POLICY, kl=True),
    ),
    Row("on-policy, one starting noise", FLOW_GRPO, 1.6, True, lambda settings: ours.Shape(policy=ON_POLICY)),
    Row("both halves in the graph, one starting noise", DDPO, 1.15, True, _ddpo),
    Row("window, guided", FLOW_GRPO_KL, 3.6, False, lambda settings: _window(settings, reuse_unconditional=True)),
    Row("window, not guided", FLOW_GRPO_KL, 4.8, False, lambda settings: _window(settings, guidance=1.0)),
)


class Timed(Protocol):
    """A loop whose rounds are timed."""

    networks: Sequence[RandomDenoiser]
    """All that are evaluated."""

    def rollout(self, number: int) -> Any: ...

    def learn(self, drawn: Any) -> None: ...


class OurLoop:
    def __init__(self, settings: Settings, shape: ours.Shape) -> None:
        network = problem.denoiser(settings)
        self.loop = ours.Loop(settings, shape, network)
        problem.moved(network)
        reference = self.loop.state.reference
        assert reference is None or isinstance(reference, ours.RandomPolicy)
        self.networks = [network] if reference is None else [network, reference.denoiser]

    def rollout(self, number: int) -> Any:
        return self.loop.rollout(number)

    def learn(self, drawn: Any) -> None:
        self.loop.learn(drawn)


class PeerLoop:
    def __init__(self, settings: Settings, shape: peers.Shape) -> None:
        network = problem.denoiser(settings)
        self.loop = peer_loop(settings, shape, network)
        problem.moved(network)
        self.networks = [network, self.loop.reference]
        tasks = problem.Numbered(settings.groups)
        prompts = [Prompt(task, task.prompt) for task in (tasks[i] for i in range(len(tasks)))]
        self.prompts = [prompt for prompt in prompts for _ in range(settings.group)]

    def rollout(self, number: int) -> tuple[peers.Rollout, Tensor]:
        generator = torch_generator(fold_in(number, "rollout"))
        drawn = self.loop.rollout(self.prompts, generator)
        return drawn, torch.randn(len(self.prompts), generator=generator)

    def learn(self, drawn: tuple[peers.Rollout, Tensor]) -> None:
        self.loop.update(*drawn)


def peer_loop(settings: Settings, shape: peers.Shape, network: RandomDenoiser) -> peers.Loop:
    """The peer's loop; its reference is a copy of the network as it is now."""
    reference = copy.deepcopy(network).requires_grad_(False)
    return peers.Loop(network, reference, shape, steps=settings.steps, guidance=settings.guidance, group=settings.group)


def gradient_error(settings: Settings, row: Row) -> float:
    """Largest relative difference of an update's gradient from the peer's, on the same trajectories and weights."""
    network = problem.denoiser(settings)
    loop = ours.Loop(settings, row.shape(settings), network, max_norm=float("inf"))
    theirs = copy.deepcopy(network)
    peer = peer_loop(settings, peer_shapes(settings)[row.peer], theirs)
    problem.moved(network)
    errors = []
    for mini in loop.minibatches(loop.rollout(0)):
        theirs.load_state_dict(network.state_dict())
        assert mini.advantage is not None
        peer.gradient(chains(mini, peer.random), mini.advantage[:, 0])
        loop.step(mini)
        errors.append(relative_error(gradient(network), gradient(theirs)))
    return max(errors)


def chains(batch: Batch, count: int) -> peers.Rollout:
    """What the library drew, as the peer keeps it: the states around the first ``count`` steps."""
    kept: list[ChainRecord] = [trajectory.turns[0].record for trajectory in batch.trajectories]
    assert all(record.first == 0 and int(record.random.sum()) == count for record in kept)
    states = torch.stack([record.states for record in kept])
    prompts = [trajectory.prompt for trajectory in batch.trajectories]
    return peers.Rollout(states, batch.old_logp[:, :count].to(states), prompts)


def gradient(network: torch.nn.Module) -> Tensor:
    """All of it, zeros where a parameter has none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return torch.cat([part.flatten() for part in parts])


def relative_error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


@dataclass
class Round:
    """CPU seconds a sample of one round, and how many rows the network was given for it."""

    rollout: float
    learn: float
    rows_without_graph: float
    rows_with_graph: float

    @property
    def total(self) -> float:
        return self.rollout + self.learn

    @property
    def forwards(self) -> float:
        """A row with a graph counts three: its backward costs two forwards."""
        return self.rows_without_graph + 3 * self.rows_with_graph


def timed(loop: Timed, samples: int, number: int) -> Round:
    gc.collect()
    before = rows(loop)
    began = time.process_time()
    drawn = loop.rollout(number)
    between = time.process_time()
    loop.learn(drawn)
    ended = time.process_time()
    without, graph = (after - earlier for after, earlier in zip(rows(loop), before, strict=True))
    return Round((between - began) / samples, (ended - between) / samples, without / samples, graph / samples)


def rows(loop: Timed) -> tuple[int, int]:
    """Rows that networks have evaluated without and with a graph."""
    networks = loop.networks
    return sum(one.rows_without_graph for one in networks), sum(one.rows_with_graph for one in networks)


def measure(settings: Settings, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Gradients, then rounds of all shapes in turn; one object a shape."""
    torch.set_num_threads(settings.threads)
    errors: dict[str, tuple[float, float]] = {}
    # Two captions with two images each show all there is to compare.
    few = replace(settings, groups=2, group=2)
    for row in ROWS:
        if row.same_gradient:
            exact, rounded = (gradient_error(replace(few, double=double), row) for double in (True, False))
            errors[row.name] = exact, rounded
            told = f"{settings.net}: gradient of {row.name!r} differs from that of {row.peer} by {exact:.1e} in float64"
            tell(f"{told}, {rounded:.1e} in float32")
    shapes = peer_shapes(settings)
    makers: dict[str, Callable[[], Timed]] = {
        name: (lambda shape=shape: PeerLoop(settings, shape)) for name, shape in shapes.items()
    }
    for row in ROWS:
        makers[row.name] = lambda row=row: OurLoop(settings, row.shape(settings))
    loops = {name: make() for name, make in makers.items()}
    rounds: dict[str, list[Round]] = {name: [] for name in loops}
    for i in range(settings.rounds):
        for name, loop in loops.items():
            rounds[name].append(timed(loop, settings.samples, i))
            tell(f"{settings.net}, round {i + 1}: {name}: {rounds[name][-1].total:.3f} CPU s a sample")
    found = [result(name, settings.net, rounds[name]) for name in shapes]
    for row in ROWS:
        one = result(row.name, settings.net, rounds[row.name])
        found.append({**one, **against(row, rounds[row.name], rounds[row.peer], errors.get(row.name))})
    return found


def result(name: str, net: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """What was measured of one shape; peers have nothing to be held against."""
    return {
        "name": name,
        "net": net,
        "cpu_seconds_per_sample": statistics.median(one.total for one in rounds),
        "rollout_seconds": statistics.median(one.rollout for one in rounds),
        "learn_seconds": statistics.median(one.learn for one in rounds),
        "forwards_per_sample": rounds[-1].forwards,
        "peer": None,
        "ratio": None,
        "ratio_range": None,
        "ratio_of_forwards": None,
        "gradient_relative_error": None,
        "gradient_relative_error_float32": None,
        "must": None,
        "rounds": [one.total for one in rounds],
    }


def against(
    row: Row, own: Sequence[Round], peer: Sequence[Round], errors: tuple[float, float] | None
) -> Mapping[str, Any]:
    """The part of a result that compares."""
    ratios = [theirs.total / ours_.total for theirs, ours_ in zip(peer, own, strict=True)]
    medians = [statistics.median(one.total for one in rounds) for rounds in (peer, own)]
    return {
        "peer": row.peer,
        "ratio": medians[0] / medians[1],
        "ratio_range": [min(ratios), max(ratios)],
        "ratio_of_forwards": peer[-1].forwards / own[-1].forwards,
        "gradient_relative_error": None if errors is None else errors[0],
        "gradient_relative_error_float32": None if errors is None else errors[1],
        "must": row.must,
    }
