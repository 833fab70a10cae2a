"""ImageReward: a reward model of pictures learned from comparisons, and training on it (arXiv:2304.05977).

Mechanism: annotators compare two pictures of the same caption; a scorer of (caption, picture) learns by ``-log
sigma(s_w - s_l)``, is standardised, and serves as the reward of a policy gradient.

Without it: a score of the picture alone that nobody's comparisons went into (colourful, rich in contrast, well
exposed), the same policy gradient and as many pictures. It cannot see the caption, so the verifier learns nothing of
it.

Differences: annotators are simulated: they like the right objects, and bright pictures a little, so that the scorer
can be hacked and its gold is known. Ties count half, where the paper drops them. The scorer is a small convolutional
network instead of BLIP. The policy gradient is Flow-GRPO's; ReFL, the paper's own use of the model, is the recipe
``refl``.
"""

from saccade.advantages.group import GroupNorm
from saccade.advantages.shaping import Clip
from saccade.core.schedule import Constant, Linear
from saccade.evaluate.images import ProxyGap, RankAgreement
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.denoise.steps import FlowSDE
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, preference, pretrained, taste
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2304.05977", pillar="generation")
def image_reward(size: Size = "tiny") -> Recipe:
    liked, gold = preference(), SceneSoft()
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    metrics = {
        "preference": Mean(liked),
        "taste": Mean(taste()),
        "gap": ProxyGap(liked, gold),
        "agreement": RankAgreement(liked, taste()),
    }
    return Recipe(
        policy=family("flow", size, sampler=FlowSDE(pick(size, tiny=8, base=10), 0.7)),
        env=captions(most=0),
        rewards={"preference": liked},
        advantage=Clip(GroupNorm(scale="batch"), 5.0),
        average="action",
        objective={"pg": PPOClip(low=epsilon, high=epsilon)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=45, base=500),
            groups=pick(size, tiny=8, base=48),
            group_size=pick(size, tiny=12, base=24),
            minibatches=pick(size, tiny=1, base=2),
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=3e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("flow", size),
        evaluation=evaluation(metrics),
        ablation=Ablation(
            metric="taste",
            without={"rewards.preference": {"class": "saccade.rewards.image.Aesthetic"}},
            note="taste: what the annotators look for, on held-out captions; soft is its part about the caption.",
        ),
    )
