"""GRPO: group relative policy optimisation with verifiable rewards (arXiv:2402.03300).

Mechanism: the advantage of a rollout is its reward standardised within the group of rollouts of the same task, so
that easy and hard tasks teach alike and no value network is needed.

Without it: the return itself is the advantage (REINFORCE without baseline, same clipped surrogate): what a task is
worth drowns what an action is worth.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained.
"""

from saccade.advantages.group import GroupNorm
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2402.03300", pillar="vlm")
def grpo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=GroupNorm(),
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2), "kl": KLToReference(coef=0.001)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"advantage": {"class": "saccade.advantages.temporal.DiscountedReturn"}}),
    )
