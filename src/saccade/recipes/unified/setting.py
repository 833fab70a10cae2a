"""What the methods for unified policies are run on: records of one object, to be drawn and asked about.

The base size is Emu3, whose released checkpoints in the transformers format draw or answer; one that does both is what
a user brings. It learns on the same records, whose exact verifier needs no model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saccade.core.content import Content, Text
from saccade.core.errors import ConfigError
from saccade.core.metric import Metric
from saccade.core.policy import PolicySpec, Sampling
from saccade.core.reward import Reward
from saccade.core.schedule import Cosine
from saccade.core.trajectory import Task
from saccade.envs.datasets.records import ATTRIBUTES, HELD_OUT, WORDS, Records, Scene
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Demonstrations, Script
from saccade.objectives.regression import NLL
from saccade.policies.unified.codec import PatchCodec
from saccade.policies.unified.hf import HFUnified
from saccade.policies.unified.tiny import TinyUnified
from saccade.recipe import Evaluation, Size, Stage, Train, pick
from saccade.rewards.combine import Dispatch
from saccade.rewards.format import Tags
from saccade.rewards.templates import SceneAttributes, SceneComplete, SceneIntact
from saccade.rewards.verify import ExactMatch

CHECKPOINT = "BAAI/Emu3-Gen-hf"
SCENES = Records(kinds=("draw",), questions=("colour",), part="all")
"""One drawing task for each of the 48 scenes: what the exact verifier compares with."""
TINY = TinyUnified(PatchCodec(Records(kinds=("draw",), questions=("colour",))), words=WORDS)


def policy(size: Size) -> PolicySpec:
    """One network that reads and writes text and pictures."""
    if size == "tiny":
        return TINY
    return HFUnified(CHECKPOINT, dtype="bfloat16", side=512)


def sampling(size: Size) -> Sampling:
    """Room for a few words and a picture: 16 codes, or 64 lines of 64 with their ends."""
    return Sampling(max_actions=pick(size, tiny=20, base=4400))


def records(size: Size) -> Records:
    """Training records; a pretrained model is told how to answer."""
    asking = "Which {question}? Give one word inside <answer></answer>."
    return Records() if size == "tiny" else Records(asking=asking)


@dataclass(frozen=True)
class Mistaken(Script):
    """The solution with mistakes: each attribute of a picture, and an answer, is a random one with this probability.

    What learns from it leaves something to be found out by trying. Held-out scenes are never drawn.
    """

    share: float = 0.35

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"script.share must be in [0, 1], got {self.share}")

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        attributes: Mapping[str, str] = task.info["attributes"]
        if task.info["kind"] == "answer":
            asked = task.info["question"]
            return ((Text(f"<answer>{self._said(asked, attributes[asked], random)}</answer>"),),)
        while True:
            scene = Scene(**{name: self._said(name, value, random) for name, value in attributes.items()})
            if scene not in HELD_OUT:
                return ((scene.image,),)

    def _said(self, name: str, value: str, random: np.random.Generator) -> str:
        others = ATTRIBUTES[name]
        return others[int(random.integers(len(others)))] if random.random() < self.share else value


def pretrained(size: Size, steps: int = 300) -> Mapping[str, Stage]:
    """What stands in for a pretrained model at the tiny size: demonstrations of drawing and answering, with mistakes.

    Held-out combinations are in neither; all recipes with the same seed share the result.
    """
    if size == "base":
        return {}
    train = Train(steps=steps, groups=96, group_size=1, lr=2e-3, lr_schedule=Cosine(end=0.05, warmup=30))
    stage = Stage(
        feed=Demonstrations(script=Mistaken()),
        objective={"nll": NLL()},
        train=train,
        # Each answer counts as much as each picture, which has four times the tokens.
        average="trajectory",
        env=SingleTurn(Records()),
        rewards={},
        policy=TINY,
    )
    return {"pretraining": stage}


def drawing(reward: Reward) -> Dispatch:
    """The reward for tasks that ask for a picture."""
    return Dispatch(by={"draw": reward})


def answering(reward: Reward) -> Dispatch:
    """The reward for tasks that ask a question."""
    return Dispatch(by={"answer": reward})


def evaluation(size: Size, metrics: Mapping[str, Metric] | None = None) -> Evaluation:
    """Held-out combinations, sampled as in training: the policy itself is judged, not its most probable output.

    ``attributes`` is the share of a picture's attributes that is right, ``complete`` the share of pictures with all of
    them, ``intact`` the share of pictures that show a scene at all and not pieces of several, which no reward asks for;
    ``answers`` is the share of right answers, ``format`` that of answers in tags.
    """
    own = {
        "attributes": Mean(drawing(SceneAttributes(templates=SCENES))),
        "complete": Mean(drawing(SceneComplete(templates=SCENES))),
        "intact": Mean(drawing(SceneIntact(templates=SCENES))),
        "answers": Mean(answering(ExactMatch())),
        "format": Mean(answering(Tags(tags=("answer",)))),
    }
    n = pick(size, tiny=16, base=1)
    tasks = records(size).split("test")
    return Evaluation(tasks=tasks, n=n, sampling=sampling(size), metrics={**own, **(metrics or {})})
