"""A small world for motor policies: a square on a dark floor, to be reached by moves along two axes.

Its rollout is written out here, so that the policy's tests do not lean on the library's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from saccade.core.batch import pack
from saccade.core.content import Array, Image, Text
from saccade.core.policy import Sampling
from saccade.core.trajectory import Observation, Prompt, Task, Trajectory, Turn
from saccade.policies.motor.discrete import Binned, Categorical
from saccade.policies.motor.flow import FlowHead
from saccade.policies.motor.gaussian import Gaussian
from saccade.policies.motor.scale import Quantiles
from saccade.policies.motor.tiny import TinyVLA

CPU = torch.device("cpu")
WORDS = ("go", "to", "the", "red", "blue", "square", "no")
UNITS = Quantiles((-2.0, 0.0, -1.0), (2.0, 1.0, 1.0))
SMALL: dict[str, Any] = {"side": 16, "patch": 4, "state": 3, "words": WORDS, "width": 24, "history": 3}

HEADS: dict[str, TinyVLA] = {
    "categorical": TinyVLA(head=Categorical(choices=5), **SMALL),
    "categorical chunks": TinyVLA(head=Categorical(level="chunk", choices=3), commands=2, chunk=2, **SMALL),
    "binned": TinyVLA(head=Binned(bins=16, units=UNITS), commands=3, chunk=2, **SMALL),
    "binned actions": TinyVLA(head=Binned("action", 16, UNITS), commands=3, chunk=2, **SMALL),
    "gaussian": TinyVLA(head=Gaussian(units=UNITS), commands=3, chunk=2, **SMALL),
    "flow": TinyVLA(head=FlowHead(units=UNITS), commands=3, chunk=2, **SMALL),
}
COLUMNS = {"categorical": 1, "categorical chunks": 1, "binned": 6, "binned actions": 2, "gaussian": 2, "flow": 4}
"""Actions of a turn."""


def build(spec: TinyVLA, seed: int = 1) -> Any:
    """A policy all of whose weights matter: fresh heads say nearly nothing."""
    policy = spec.build(CPU, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.head.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy.eval()


def seen(seed: int, side: int = 16, state: int = 3) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return (Image(pixels), Array("state", rng.normal(size=state).astype(np.float32)))


def prompt(seed: int) -> Prompt:
    content = (Text("Go to the red square." if seed % 2 else "go to the blue SQUARE, please"), *seen(seed))
    return Prompt(Task(f"task-{seed}", content), content)


def turn(act: Any, observation: Observation | None = None, **settings: Any) -> Turn:
    return Turn(act.output, act.record, act.logp, act.mask, act.segment, observation=observation, **settings)


def rollout(
    policy: Any, turns: int = 3, sizes: tuple[int, ...] = (2, 3), sampling: Sampling = Sampling(), keep: Any = None
) -> list[list[Trajectory]]:
    """Groups of ragged lengths; every third answer says something; all are cut off in the end."""
    groups = []
    for p, size in enumerate(sizes):
        start = prompt(p)
        group = [Trajectory(start, seed=i) for i in range(size)]
        for i, trajectory in enumerate(group):
            for k in range(max(1, turns - i)):
                act = policy.act([trajectory.context(k)], sampling=sampling, seeds=[1000 * p + 10 * k + i])[0][0]
                said = (Text("no"),) if k % 3 == 1 else ()
                answer = Observation((*said, *seen(100 * p + 10 * i + k)), keep)
                trajectory.turns.append(turn(act, answer))
            trajectory.final, trajectory.turns[-1].observation = trajectory.turns[-1].observation, None
            trajectory.stop = "truncated"
        groups.append(group)
    return groups


def packed(groups: Any) -> Any:
    return pack(groups)
