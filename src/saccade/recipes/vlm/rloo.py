"""RLOO: REINFORCE with a leave-one-out baseline (arXiv:2402.14740).

Mechanism: each rollout's baseline is the mean reward of the *other* rollouts of its task: unbiased, and no value
network.

Without it: the return itself is the advantage (REINFORCE without baseline).

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained. The
update is the plain score-function gradient of one pass.
"""

from saccade.advantages.group import LeaveOneOut
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import Reinforce
from saccade.objectives.regularise import KLToReference
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2402.14740", pillar="vlm")
def rloo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=LeaveOneOut(),
        average="trajectory",
        objective={"pg": Reinforce(), "kl": KLToReference(coef=0.001)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"advantage": {"class": "saccade.advantages.temporal.DiscountedReturn"}}),
    )
