"""VLN-R1: the next six actions from a video, rewarded with time decay (arXiv:2506.17221).

Mechanism: the policy says its next six actions at once; each that agrees with the expert's is paid, the first most:
R = sum_k gamma^k 1[a_k = a*_k]. The first ones are executed before the policy is asked again, so that what matters
soonest counts most, and nearly every group has something to compare. Memory is long and short: the last pictures one by
one, older ones at wider intervals. RL follows a supervised start.

Without it: all or nothing, 1 if all six agree (HardMatch). Four of five groups are uniform and say nothing.

Differences: gamma of 0.8 is inferred. The tiny size gives its actions as numbers, from BabyAI's pictures tiled into
one; the paper's Qwen2-VL writes options in words, as the base size does with Qwen2.5-VL, with BabyAI's seven actions
instead of four and with its bot as the expert, because Habitat's scenes are not there. Of the six, two are executed
(inferred). The tiny size walks through rooms of 4 x 4 cells, learns from 32 groups a step instead of 8, and its
supervised start is short: RL has to have something left to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from saccade.advantages.group import GroupNorm
from saccade.core.content import Content
from saccade.core.environment import Environment, EnvironmentSpec, Step, Tasks
from saccade.core.policy import Sampling
from saccade.core.schedule import Cosine, Linear
from saccade.core.trajectory import Observation, Task
from saccade.envs.babyai import BabyAI, BabyAILevels, Frames, NextActions
from saccade.envs.single import SingleTurnEnvironment
from saccade.feeds.demonstrations import Demonstrations
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regression import NLL
from saccade.objectives.regularise import KLToReference
from saccade.policies.token.hf import HFVisionLanguage
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Stage, Train, pick, recipe
from saccade.recipes.vla.moving import travelled, walker
from saccade.rewards.match import TimeDecayedMatch

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
HORIZON = 6
Answer = Literal["commands", "words"]
ASKED = (
    "{prompt}\nThe pictures show what you saw, the last one what you see now. Say your next six actions in order, "
    "each one of left, right, forward, pickup, drop, toggle, done, inside <answer></answer>."
)


@dataclass(frozen=True)
class SayThenWalk(EnvironmentSpec):
    """Tasks with a target take one turn, to say the next actions; tasks without are walked through in ``world``."""

    tasks: Tasks = field(default_factory=NextActions)
    world: BabyAI = field(default_factory=BabyAI)

    def prompt(self, task: Task) -> Content:
        return self.world.prompt(task)

    def make(self) -> SayingOrWalking:
        return SayingOrWalking(self.world)


class SayingOrWalking(Environment):
    """Makes its world when it is first walked through."""

    def __init__(self, world: BabyAI) -> None:
        self._world = world
        self._saying = SingleTurnEnvironment()
        self._walking: Environment | None = None
        self._now: Environment = self._saying

    def reset(self, task: Task, seed: int) -> Observation | None:
        if task.target is not None:
            self._now = self._saying
        else:
            self._walking = self._walking or self._world.make()
            self._now = self._walking
        return self._now.reset(task, seed)

    def step(self, output: Content) -> Step:
        return self._now.step(output)

    def close(self) -> None:
        if self._walking is not None:
            self._walking.close()


@recipe(paper="2506.17221", pillar="vla")
def vln_r1(size: Size = "tiny") -> Recipe:
    frames = pick(size, tiny=Frames(recent=2, older=2, tiled=True), base=Frames(recent=4, older=4))
    sampling = Sampling(max_actions=pick(size, tiny=HORIZON, base=64))
    answer: Answer = pick(size, tiny="commands", base="words")
    tile = pick(size, tiny=8, base=32)
    turns = pick(size, tiny=6, base=32)
    template = pick(size, tiny="{prompt}", base=ASKED)
    levels = (pick(size, tiny="BabyAI-GoToObjS6-v1", base="BabyAI-GoToLocal-v0"),)
    world = BabyAI(max_turns=turns, tile=tile, chunk=2, frames=frames, keep=1, template=template)
    env = SayThenWalk(NextActions(levels, frames=frames, tile=tile, horizon=HORIZON, answer=answer), turns, world)
    shown = replace(env, tasks=replace(env.tasks, count=pick(size, tiny=2048, base=65536), seed=1))
    cold = Train(
        steps=pick(size, tiny=300, base=2000),
        groups=32,
        group_size=1,
        lr=pick(size, tiny=2e-3, base=5e-6),
        lr_schedule=Cosine(end=0.1, warmup=10),
    )
    nll = {"nll": NLL()}
    stage = Stage(feed=Demonstrations(), objective=nll, train=cold, average="action", rewards={}, env=shown)
    return Recipe(
        policy=walker(size, side=112, chunk=HORIZON) if size == "tiny" else HFVisionLanguage(MODEL, dtype="bfloat16"),
        env=env,
        rewards={"match": TimeDecayedMatch(gamma=0.8)},
        advantage=GroupNorm(),
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2), "kl": KLToReference(coef=0.04)},
        feed=OnPolicy(sampling=sampling),
        train=Train(
            steps=pick(size, tiny=80, base=2500),
            groups=pick(size, tiny=32, base=8),
            group_size=8,
            lr=pick(size, tiny=3e-4, base=1e-6),
            lr_schedule=Linear(),
        ),
        stages={"cold_start": stage},
        evaluation=Evaluation(
            tasks=BabyAILevels(levels, part="test"), limit=512, sampling=sampling, metrics=travelled()
        ),
        ablation=Ablation(
            metric="success",
            without={"rewards.match": {"class": "saccade.rewards.match.HardMatch"}},
            note="Success in held-out worlds, two of six actions executed each turn, sampled; RL is paid for agreement "
            "with the expert only. Step size, steps and groups were chosen by pilots of both arms with seed 0.",
        ),
    )
