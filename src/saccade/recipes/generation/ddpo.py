"""DDPO: policy gradient on the steps of a diffusion sampler (arXiv:2305.13301).

Mechanism: denoising is a decision process of T steps, and each step of the stochastic sampler is a Gaussian whose
log-probability is exact; the reward of the finished picture, standardised by the last rewards of the same prompt, is
the advantage of all its steps (importance-sampled estimator, clipped). The reward needs no gradient: here it is minus
the size of the picture as a JPEG file.

Without it: reward-weighted regression, the same pictures imitated in proportion to exp(advantage) through the
denoising loss, which is only a bound on the likelihood of a picture and knows nothing of its steps.

Differences: log-probabilities are averaged over 768 dimensions instead of 16,384, so that the clip range is 1e-3 in
place of 1e-4. No guidance in the tiny size; guidance 5 in the base size, with gradient through the conditional half
only. All steps of a picture are trained together. Pictures of 16 pixels are enlarged before they are compressed. The
score-function estimator of the paper is ``--objective.pg.class Reinforce --train.minibatches 1``. The tiny size makes
one update a rollout, with small steps that fall to zero: the smallest files are those of empty pictures, and a longer
run ends there.
"""

from saccade.advantages.history import TaskNorm
from saccade.advantages.shaping import Clip
from saccade.core.schedule import Constant, Linear
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.denoise.steps import DDIM
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, pretrained
from saccade.rewards.image import Compressibility

SURROGATE = "saccade.policies.denoise.surrogate.Surrogate"


@recipe(paper="2305.13301", pillar="generation")
def ddpo(size: Size = "tiny") -> Recipe:
    small = Compressibility()
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    return Recipe(
        policy=family("diffusion", size, sampler=DDIM(pick(size, tiny=8, base=50))),
        env=captions(),
        rewards={"jpeg": small},
        advantage=Clip(TaskNorm(size=32, least=16), 5.0),
        average="action",
        objective={"pg": PPOClip(low=epsilon, high=epsilon)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=30, base=100),
            groups=pick(size, tiny=8, base=32),
            group_size=pick(size, tiny=12, base=8),
            minibatches=pick(size, tiny=1, base=4),
            micro_size=2**15,
            lr=pick(size, tiny=5e-5, base=3e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation({"jpeg": Mean(small)}),
        ablation=Ablation(
            metric="jpeg",
            without={
                "policy.likelihood": {"class": SURROGATE, "draws": 7},
                "objective.pg": {"class": "saccade.objectives.regression.RewardWeighted"},
            },
            note="jpeg: minus kilobytes of held-out pictures, enlarged to 128 pixels. Equal pictures, updates and "
            "network evaluations with gradient. Inconclusive: at steps small enough to leave the pictures whole, both "
            "arms gain about 0.05 in 30 rollouts, two seeds for the mechanism and one against.",
        ),
    )
