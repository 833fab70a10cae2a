"""RePIC: personal captions by GRPO with one verifiable reward per kind of task (arXiv:2506.18369).

Pictures introduce objects by name; a question about another picture follows.

Mechanism: every task is scored by the verifier that its kind calls for: is it the same object (yes or no, with
negative pairs), where is it (1 if the box overlaps by half), and describe the picture (share of the introduced names
that the caption mentions, 0 for captions below a least length, because otherwise the bare names are all that is
said).

Without it: captions are not rewarded (the identity reward's weight is 0); consistency and localisation are, as
before. Names then stay as rare as at the start. The floor is a second comparison:
``--rewards.verdict.by.caption.min_chars 0``.

Differences: no dropout in the adapters, so that rollout and update see one network. Boxes overlap in continuous
coordinates, not in inclusive pixels. The tiny size has coloured handwritten digits as objects, names without
descriptions, a floor of 24 characters (the shortest caption with a name has 26) in place of 100, and a supervised
warm-up (captions alone first) whose captions leave out 6 names of 10, because nothing is pretrained. Batch size and
number of steps of the base size are inferred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from saccade.core.content import Content, Text
from saccade.core.metric import Metric, Models, Row
from saccade.core.policy import Sampling
from saccade.core.reference import Adapters, Initial
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Task
from saccade.envs.datasets.introductions import WORDS, Introductions, caption
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Script
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.policies.lora import LoRA
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import warm_up
from saccade.rewards.combine import Dispatch
from saccade.rewards.geometry import BoxIoU
from saccade.rewards.text import NameRecall
from saccade.rewards.verify import ChoiceMatch


def verifiers(min_chars: int) -> Mapping[str, Reward]:
    """The reward of each kind of task; they read the whole output, which has no tags."""
    return {
        "same": ChoiceMatch(tag="", choices=("yes", "no")),
        "locate": BoxIoU(tag="", threshold=0.5),
        "caption": NameRecall(tag="", min_chars=min_chars),
    }


@dataclass(frozen=True)
class Shy(Script):
    """The gold output, but a caption calls an object by its looks instead of its name in ``omitted`` of all cases."""

    omitted: float = 0.6

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        calls = task.info["calls"]
        if not calls:
            return task.gold
        return ((Text(caption([looks if random.random() < self.omitted else name for name, looks in calls])),),)


@dataclass(frozen=True)
class Placed(Metric):
    """Share of captions that call every object, from left to right, by its name or its looks, and none by another's."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        said = [(t.task.id, t.task.info["calls"], t.text) for group in groups for t in group if t.task.info["calls"]]
        return [Row(task, float(text in map(caption, product(*calls)))) for task, calls, text in said]


@recipe(paper="2506.18369", pillar="vlm")
def repic(size: Size = "tiny") -> Recipe:
    base = size == "base"
    verdict = verifiers(min_chars=100 if base else 24)
    lora = LoRA(rank=64, alpha=128.0)
    qwen = HFVisionLanguage("Qwen/Qwen2.5-VL-7B-Instruct", lora=lora, dtype="bfloat16", freeze_vision=True)
    tiny = TinyVLM(side=32, patch=8, max_images=3, words=WORDS)
    sampling = Sampling(max_actions=512 if base else 20)
    # Colours and repeating a name are learned from captions; telling objects apart by their colours needs both.
    captions = SingleTurn(Introductions(kinds=("caption",), count=60_000))
    first = warm_up(200, env=captions, script=Shy(omitted=0.5))
    stages = {"captions": first, "warm_up": warm_up(500, script=Shy())}
    kinds = {kind: Mean(Dispatch(by={kind: reward})) for kind, reward in verdict.items()}
    return Recipe(
        policy=qwen if base else tiny,
        env=SingleTurn(JsonlTasks("repic_2k.jsonl") if base else Introductions(count=60_000)),
        rewards={"verdict": Dispatch(by=verdict)},
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2), "kl": KLToReference(coef=0.04)},
        feed=OnPolicy(sampling=sampling),
        train=Train(
            steps=pick(size, tiny=120, base=250),
            groups=pick(size, tiny=12, base=16),
            group_size=8,
            lr=pick(size, tiny=3e-4, base=1e-5),
            reference=Adapters() if base else Initial(),
        ),
        stages={} if base else stages,
        evaluation=Evaluation(limit=600, sampling=sampling, metrics=kinds if base else {**kinds, "placed": Placed()}),
        ablation=Ablation(
            metric="caption",
            without={"rewards.verdict.by.caption.weight": 0.0},
            note="caption: share of introduced names (one or two) that a caption of held-out pictures mentions, "
            "sampled. Seeds differ in how well the warm-up has learned to repeat the right name (before), and "
            "with it in how far names can be rewarded. Recall does not ask whether a name is in its place "
            "(placed does): in seed 0 the arm with the reward names more and misplaces more than the other "
            "(placed .32 against .57), so part of its gain is a hack of this reward; seed 1 is the clean "
            "case.",
        ),
    )
