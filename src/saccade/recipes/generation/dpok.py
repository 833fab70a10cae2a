"""DPOK: policy gradient with a divergence term to the pretrained model (arXiv:2305.16381).

Mechanism: beside the policy gradient (ratio clamped, a learned value of the noisy state as baseline) stands KL(policy
|| pretrained model), exact at every visited state; what the reward does not ask for stays as it was.

Without it: the same policy gradient alone. One prompt is trained; what the model knows of other prompts, and how much
its pictures differ, is lost faster.

Differences: the divergence is that of the steps' Gaussians, the paper's is the mean squared distance of the predicted
noise, which differs by a factor that depends on the step. Whole chains are learned from where the paper draws single
transitions from a buffer of 1000. Advantages are standardised, so that one coefficient suits all rewards; its value is
inferred. The reward is the exact verifier of colour and shape instead of ImageReward. The value network sees latent,
words and step.
"""

from saccade.advantages.shaping import BatchWhiten
from saccade.advantages.temporal import GAE
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import ClampedRatio
from saccade.objectives.regularise import KLToReference, ValueLoss
from saccade.policies.denoise.critic import StepCritic
from saccade.policies.denoise.steps import DDIM
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, pretrained
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2305.16381", pillar="generation")
def dpok(size: Size = "tiny") -> Recipe:
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    returns = GAE(discount=1.0, lam=1.0)
    return Recipe(
        policy=family("diffusion", size, sampler=DDIM(pick(size, tiny=8, base=50))),
        env=captions(kinds=("count",), most=1),
        rewards={"verifier": SceneSoft()},
        advantage=BatchWhiten(returns),
        average="action",
        objective={
            "pg": ClampedRatio(low=epsilon, high=epsilon),
            "kl": KLToReference(coef=0.1, estimator="exact"),
            "value": ValueLoss(returns, clip=float("inf"), coef=1.0),
        },
        feed=OnPolicy(),
        critic=StepCritic(channels=pick(size, tiny=3, base=4)),
        train=Train(
            steps=pick(size, tiny=40, base=1000),
            groups=1,
            group_size=pick(size, tiny=64, base=10),
            epochs=pick(size, tiny=2, base=5),
            micro_size=2**15,
            lr=pick(size, tiny=2e-4, base=1e-5),
            max_grad_norm=pick(size, tiny=1.0, base=0.1),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation(),
        ablation=Ablation(
            metric="soft",
            without={"objective.kl": None},
            note="soft: graded verifier on held-out captions of all kinds, none of which is the one that is trained; "
            "diversity stands beside it, and the training reward (train/reward) tells what the divergence term costs.",
        ),
    )
