"""CoRL: one reward for what a policy draws and answers of the same record (arXiv:2505.17534).

Mechanism: of each record the policy draws G pictures and answers its question G times; picture i and answer i are a
pair with one reward, R = R_image + 0.8 R_text, and the advantage of that reward, relative to the G pairs, teaches the
tokens of both.

Without it: the same budget goes into drawing alone, with the reward of pictures alone. Drawing, which gets twice the
pictures, improves more, and answering, which shares its weights, does not improve.

Differences: an exact verifier of pictures (attributes, and half a point for a scene in one piece) is in place of the
cycle reward (LPIPS and a captioner) and of the matching score of the policy's own hidden states; the second stage,
training for each task alone, is left out. Answers have no thinking part, and pictures are drawn without guidance, so
that log-probabilities are those of what was drawn. The base size is Emu3 instead of Janus-Pro. Advantages of each
task's own reward are known to tie with the joint one in a world this small: the claim is about training both tasks,
not about sharing the advantage.
"""

from saccade.advantages.group import GroupNorm
from saccade.core.schedule import Constant, Linear
from saccade.envs.single import SingleTurn
from saccade.feeds.curriculum import Blocks
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.unified.setting import SCENES, evaluation, policy, pretrained, records, sampling
from saccade.rewards.combine import Dispatch, Joint, Sum
from saccade.rewards.format import Tags
from saccade.rewards.templates import SceneAttributes, SceneIntact
from saccade.rewards.verify import ExactMatch

TEXT_SHARE = 0.8


@recipe(paper="2505.17534", pillar="unified")
def corl(size: Size = "tiny") -> Recipe:
    # Without the second term pictures become pieces of several scenes, of which the nearest is the right one.
    picture = Sum(terms=(SceneAttributes(templates=SCENES), SceneIntact(templates=SCENES, weight=0.5)))
    text = Sum(terms=(ExactMatch(weight=TEXT_SHARE), Tags(tags=("answer",), weight=TEXT_SHARE)))
    return Recipe(
        policy=policy(size),
        env=SingleTurn(records(size)),
        rewards={
            "joint": Joint(inner=Dispatch(by={"draw": picture, "answer": text})),
            "drawing": Dispatch(by={"draw": picture}, weight=0.0),
        },
        advantage=GroupNorm(),
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=sampling(size), order=Blocks(size=2)),
        train=Train(
            steps=pick(size, tiny=60, base=1000),
            groups=pick(size, tiny=16, base=32),
            group_size=8,
            lr=pick(size, tiny=5e-4, base=4e-6),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size),
        ablation=Ablation(
            metric="answers",
            without={"env.tasks.kinds": ["draw"], "rewards.joint": None, "rewards.drawing.weight": 1.0},
            note="answers on held-out combinations; what drawing gains stands beside it under attributes.",
        ),
    )
