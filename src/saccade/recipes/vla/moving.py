"""What the methods of navigation and manipulation are run on: BabyAI, Meta-World and a table top, with small policies.

Checkpoints of OpenVLA's kind, and the simulators they were trained in (LIBERO, ManiSkill, Habitat, ProcTHOR), are not
there: where a paper fine-tunes one, a small network that has been cloned from a few demonstrations takes its place, in
the base size too, which is a wider network on more tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from saccade.core.environment import EnvironmentSpec, Tasks
from saccade.core.metric import Metric
from saccade.core.policy import Sampling
from saccade.core.schedule import Cosine
from saccade.envs.babyai import ACTIONS
from saccade.envs.babyai import WORDS as MISSIONS
from saccade.envs.metaworld import WORDS as ORDERS
from saccade.envs.tabletop import VOCABULARY
from saccade.evaluate.episodes import SPL, EpisodeLength, NavigationError, OracleSuccess, Success
from saccade.feeds.experts import Expert, ExpertDemonstrations
from saccade.objectives.regression import NLL
from saccade.policies.motor.discrete import Binned, Categorical, Level
from saccade.policies.motor.gaussian import Gaussian
from saccade.policies.motor.scale import Quantiles
from saccade.policies.motor.tiny import TinyVLA
from saccade.recipe import Evaluation, Size, Stage, Train, pick

_LOW, _HIGH = (-0.3, 0.4, 0.0), (0.3, 0.9, 0.4)
"""Metres that the hand can reach."""
_THEN, _TOP = (*_LOW, -1.0, *_LOW, *(-1.0,) * 11), (*_HIGH, 1.0, *_HIGH, *(1.0,) * 11)
ARM_UNITS = Quantiles((*_THEN, *_THEN, *_LOW), (*_TOP, *_TOP, *_HIGH))
"""Units of Meta-World's 39 numbers: places as shares of the reachable box, everything else as it is."""


def walker(size: Size, *, side: int, chunk: int = 1, history: int = 1) -> TinyVLA:
    """Pictures of a BabyAI world and a mission in, ``chunk`` of its seven actions out."""
    width = pick(size, tiny=160, base=512)
    head = Categorical(choices=len(ACTIONS))
    return TinyVLA(side=side, words=MISSIONS, head=head, chunk=chunk, history=history, width=width)


def arm(size: Size, *, chunk: int, std: float = 0.3) -> TinyVLA:
    """Meta-World's numbers and an instruction in, ``chunk`` commands of four numbers out, with a learned spread."""
    width = pick(size, tiny=96, base=512)
    return TinyVLA(
        side=0,
        state=39,
        states=ARM_UNITS,
        words=ORDERS,
        head=Gaussian(std=std),
        commands=4,
        chunk=chunk,
        width=width,
    )


def hand(size: Size, *, sees: Literal["both", "state"] = "both", level: Level = "number", bins: int = 21) -> TinyVLA:
    """What the table shows and an instruction in, a command of three binned numbers out.

    ``both``: the picture and the hand's four numbers; ``state``: the nine numbers of ``Tabletop(sees="state")``.
    """
    return TinyVLA(
        side=32 if sees == "both" else 0,
        patch=4,
        state=4 if sees == "both" else 9,
        states=Quantiles((0.3,), (0.7,)) if sees == "both" else Quantiles((0.0,), (1.0,)),
        words=VOCABULARY,
        head=Binned(level, bins=pick(size, tiny=bins, base=256)),
        commands=3,
        width=pick(size, tiny=96, base=512),
    )


def cloned(
    expert: Expert, *, count: int, steps: int, batch: int = 16, lr: float = 2e-3, env: EnvironmentSpec | None = None
) -> Mapping[str, Stage]:
    """Supervised start on ``count`` demonstrations by an expert that acts in the environment."""
    train = Train(steps=steps, groups=min(batch, count), group_size=1, lr=lr, lr_schedule=Cosine(end=0.1, warmup=10))
    feed = ExpertDemonstrations(expert, count=count)
    return {"cloning": Stage(feed=feed, objective={"nll": NLL()}, train=train, average="action", rewards={}, env=env)}


def judged(metrics: Mapping[str, Metric], tasks: Tasks | None = None, *, limit: int = 256) -> Evaluation:
    """Held-out starts, played as in training: sampled at temperature 1. A greedy policy without memory gets stuck."""
    return Evaluation(tasks=tasks, limit=limit, sampling=Sampling(), metrics=metrics)


def travelled() -> dict[str, Metric]:
    """Success, success by path length, having been at the goal, what is left of the way, and actions taken."""
    return {
        "success": Success(),
        "spl": SPL(),
        "oracle_success": OracleSuccess(),
        "distance": NavigationError(),
        "length": EpisodeLength(),
    }


def handled() -> dict[str, Metric]:
    """Success and commands carried out."""
    return {"success": Success(), "length": EpisodeLength()}
