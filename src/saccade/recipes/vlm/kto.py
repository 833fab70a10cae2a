"""KTO: prospect-theoretic optimisation from single judgements (arXiv:2402.01306).

Mechanism: each answer alone is desirable or undesirable; its log-ratio is pushed up or down along a sigmoid around a
KL reference point, so that no pairs are needed.

Without it: supervised learning on the desirable answers alone.

Differences: answers are fresh rollouts, judged by whether they beat their group's mean reward; the tiny size starts
from a supervised warm-up because nothing is pretrained.
"""

from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.preference import KTO
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2402.01306", pillar="vlm")
def kto(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    imitation = {"class": "saccade.objectives.regression.RewardWeighted"}
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        average="action",
        objective={"kto": KTO(beta=0.1)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(without={"objective.kto": imitation}),
    )
