"""PPO: proximal policy optimisation with a learned critic (arXiv:1707.06347).

Mechanism: a critic predicts the return at every token; generalised advantage estimation turns its errors into
advantages.

Without it: the same clipped surrogate on plain returns, no critic's baseline.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained. The
critic is a network of its own.
"""

from saccade.advantages.shaping import BatchWhiten, KLInReward
from saccade.advantages.temporal import GAE
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import ValueLoss
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="1707.06347", pillar="vlm")
def ppo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    gae = KLInReward(GAE(discount=1.0, lam=0.95), coef=0.01)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=BatchWhiten(gae),
        average="action",
        objective={"pg": PPOClip(low=0.2, high=0.2), "value": ValueLoss(returns=gae, coef=0.5, clip=0.2)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=64, group_size=2, minibatches=2, lr=chosen.lr),
        critic=chosen.critic,
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"advantage": {"class": "saccade.advantages.temporal.DiscountedReturn"}}),
    )
