"""SFT: supervised fine-tuning on demonstrations.

Mechanism: the log-likelihood of demonstrated outputs is maximised.

Without it: the model as it was; evaluation before the first step shows it.

Differences: none. It has no ablation: it is the start of other recipes, and their arm without the mechanism.
"""

from saccade.core.schedule import Cosine
from saccade.feeds.demonstrations import Demonstrations
from saccade.objectives.regression import NLL
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="supervised learning", pillar="vlm")
def sft(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        average="action",
        objective={"nll": NLL()},
        feed=Demonstrations(),
        train=Train(
            steps=pick(size, tiny=400, base=1000),
            groups=32,
            group_size=1,
            lr=pick(size, tiny=2e-3, base=1e-5),
            lr_schedule=Cosine(end=0.1, warmup=20),
        ),
        evaluation=chosen.evaluation,
    )
