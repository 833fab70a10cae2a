"""What the methods of video generation are run on: clips of one ball, and a generator that learned wrong mechanics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from saccade.core.metric import Metric
from saccade.core.optimiser import AdamW
from saccade.core.schedule import WarmupStableDecay
from saccade.envs.datasets.clips import KINDS, WORDS, Clips
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Demonstrations
from saccade.objectives.regression import NLL
from saccade.policies.denoise.surrogate import LogitNormalTimes, Surrogate
from saccade.policies.denoise.tiny_video import ClipNet, TinyVideoFlow
from saccade.recipe import Evaluation, Size, Stage, Train, pick
from saccade.rewards.physics import (
    ConditionMatch,
    DarkKept,
    ForKind,
    LawKept,
    MassKept,
    Mechanics,
    PathError,
    Smoothness,
    Travel,
)
from saccade.rewards.video_preference import Axis, ClipPreference, ClipPreferenceModel

JITTER = 0.5
"""Velocity error of the clips that the generator learns from, as a share of the speed."""


def clips(size: Size, **settings: Any) -> Clips:
    """Exact prompts; gold clips obey the laws."""
    return Clips(side=pick(size, tiny=12, base=16), **settings)


def generator(size: Size, **settings: Any) -> TinyVideoFlow:
    """The flow over clips, drawing and scored as the settings say; a wider one over larger clips at base size."""
    width, layers = pick(size, tiny=(64, 3), base=(192, 6))
    net = ClipNet(side=clips(size).side, width=width, layers=layers, words=WORDS)
    plain = Surrogate(draws=1, times=LogitNormalTimes(0.0, 1.0))
    return replace(TinyVideoFlow(net=net, demonstrations=plain), **settings)


def pretrained(size: Size) -> Mapping[str, Stage]:
    """What stands in for a pretrained model: matching on clips whose motion is plausible and not what was asked for.

    All recipes with the same size and seed share the result. Held-out speeds and directions are held out of it, too.
    """
    train = Train(
        steps=pick(size, tiny=3000, base=20000),
        groups=32,
        group_size=1,
        micro_size=2**20,
        lr=pick(size, tiny=2e-3, base=5e-4),
        lr_schedule=WarmupStableDecay(decay=0.5, warmup=50),
        optimiser=AdamW(betas=(0.9, 0.99)),
    )
    stage = Stage(
        feed=Demonstrations(),
        objective={"nll": NLL()},
        train=train,
        average="action",
        env=SingleTurn(clips(size, count=2**16, jitter=JITTER)),
        rewards={},
        policy=generator(size),
    )
    return {"pretraining": stage}


def evaluation(size: Size, metrics: Mapping[str, Metric] | None = None) -> Evaluation:
    """Speeds and combinations of kind and direction never trained on, drawn deterministically in 20 steps.

    Beside the reward: the path error in pixels, the laws (which know no target), smoothness and travel, so that clips
    coming to rest are seen, and the reward for each kind of motion.
    """
    reward = Mechanics()
    own = {
        "mechanics": Mean(reward),
        **{kind: Mean(ForKind(inner=reward, kind=kind)) for kind in KINDS},
        "path_error": Mean(PathError()),
        "mass": Mean(MassKept()),
        "dark": Mean(DarkKept()),
        "law": Mean(LawKept()),
        "smoothness": Mean(Smoothness()),
        "travel": Mean(Travel()),
    }
    return Evaluation(tasks=clips(size, part="test"), limit=120, n=2, metrics={**own, **(metrics or {})})


def preference(size: Size) -> ClipPreference:
    """A reward model learned from comparisons along three axes: how it looks, how it moves, what was asked for."""
    axes = {
        "visual": Axis(gold=MassKept(), tie=0.03, temperature=0.03),
        "motion": Axis(gold=Smoothness(), tie=0.2, temperature=0.2),
        "prompt": Axis(gold=ConditionMatch(), tie=0.1, temperature=0.1, told=True),
    }
    tasks = clips(size, count=2048, jitter=JITTER, seed=1)
    return ClipPreference(model=ClipPreferenceModel(tasks=tasks, axes=axes))
