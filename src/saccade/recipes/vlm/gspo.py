"""GSPO: group sequence policy optimisation (arXiv:2507.18071).

Mechanism: the importance ratio is that of the whole answer, its length-th root, and is clipped as one; it matches
the unit that is rewarded.

Without it: the ratio and its clipping are per token (GRPO), with the same four updates per batch.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained.
"""

from saccade.advantages.group import GroupNorm
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import GSPO
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2507.18071", pillar="vlm")
def gspo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=GroupNorm(),
        average="trajectory",
        objective={"pg": GSPO(low=3e-4, high=4e-4)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, minibatches=4, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"objective.pg": {"class": "saccade.objectives.policy_gradient.PPOClip"}}),
    )
