"""DAPO: decoupled clip and dynamic sampling (arXiv:2503.14476).

Mechanism: groups whose members all got the same reward carry no gradient; they are dropped and replaced by further
rollouts (dynamic sampling), with a higher upper clip range, a mean over all actions and a soft punishment of
overlong answers.

Without it: the same objective on the same number of groups, uniform ones included.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained. The
soft overlong punishment spans the last quarter of the budget. Groups are compared by the whole outcome instead of
accuracy alone.
"""

from saccade.advantages.group import GroupNorm
from saccade.advantages.shaping import LengthPenalty
from saccade.feeds.on_policy import NonUniform, OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2503.14476", pillar="vlm")
def dapo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    budget = chosen.sampling.max_actions
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=LengthPenalty(GroupNorm(), limit=budget, buffer=budget // 4),
        average="action",
        objective={"pg": PPOClip(low=0.2, high=0.28)},
        feed=OnPolicy(sampling=chosen.sampling, select=NonUniform(), refill=3),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"feed.select": {"class": "saccade.feeds.on_policy.Everything"}}),
    )
