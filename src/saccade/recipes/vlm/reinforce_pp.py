"""REINFORCE++: returns whitened over the whole batch (arXiv:2501.03262).

Mechanism: returns, with the KL to the reference paid per token, are whitened over all tokens of the batch: a global
baseline and scale, so that one rollout per task is enough.

Without it: the same returns without whitening.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained.
"""

from saccade.advantages.shaping import BatchWhiten, KLInReward
from saccade.advantages.temporal import DiscountedReturn
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2501.03262", pillar="vlm")
def reinforce_pp(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    returns = KLInReward(DiscountedReturn(), coef=0.01)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=BatchWhiten(returns),
        average="action",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=64, group_size=2, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"advantage": {"class": "saccade.advantages.temporal.DiscountedReturn"}}),
    )
