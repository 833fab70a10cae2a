"""DPO: direct preference optimisation on pairs of the policy's own answers (arXiv:2305.18290, online).

Mechanism: a logistic loss on the difference of log-ratios to the reference raises the better of two answers against
the worse; no value, no advantage.

Without it: supervised learning on the better answer alone, same rollouts, same pairs.

Differences: pairs are the best and the worst of a group of fresh rollouts, ranked by the rewards, instead of a fixed
set; the tiny size starts from a supervised warm-up because nothing is pretrained.
"""

from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.preferences import RankedPairs
from saccade.objectives.preference import DPO
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2305.18290", pillar="vlm")
def dpo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    imitation = {"class": "saccade.objectives.regression.RewardWeighted"}
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        average="action",
        objective={"dpo": DPO(beta=0.1)},
        feed=RankedPairs(OnPolicy(sampling=chosen.sampling)),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"objective.dpo": imitation}),
    )
