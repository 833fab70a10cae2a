"""DiffPPO: proximal policy optimisation of a diffusion model with a learned value baseline (a reconstruction).

No paper of this name on pictures could be found (inferred): a survey lists DiffPPO beside DPOK as policy-gradient
tuning on ImageReward. This is DDPO's clipped estimator with DPOK's value network and a learned reward model.

Mechanism: the value V(x_t, caption, t) of a noisy picture is the baseline of its step, so that what the starting noise
and the caption already decided is no merit of the steps that follow.

Without it: the mean reward of the batch is the baseline, as in DDPO without statistics of its prompts.

Differences: everything is inferred. With a reward at the end only and no discount, the advantage of generalised
estimation is reward minus value at lambda 1. The reward model is learned from simulated comparisons.
"""

from saccade.advantages.shaping import BatchWhiten, Clip
from saccade.advantages.temporal import GAE
from saccade.core.schedule import Constant, Linear
from saccade.evaluate.images import ProxyGap
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import ValueLoss
from saccade.policies.denoise.critic import StepCritic
from saccade.policies.denoise.steps import DDIM
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, preference, pretrained, taste


@recipe(paper="survey only", pillar="generation")
def diffppo(size: Size = "tiny") -> Recipe:
    liked = preference()
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    returns = GAE(discount=1.0, lam=1.0)
    return Recipe(
        policy=family("diffusion", size, sampler=DDIM(pick(size, tiny=8, base=50))),
        env=captions(most=0),
        rewards={"preference": liked},
        advantage=Clip(BatchWhiten(returns), 5.0),
        average="action",
        objective={
            "pg": PPOClip(low=epsilon, high=epsilon),
            "value": ValueLoss(returns, clip=float("inf"), coef=0.5),
        },
        feed=OnPolicy(),
        critic=StepCritic(channels=pick(size, tiny=3, base=4), lr=pick(size, tiny=2e-3, base=1e-4)),
        train=Train(
            steps=pick(size, tiny=32, base=200),
            groups=pick(size, tiny=48, base=128),
            group_size=2,
            minibatches=pick(size, tiny=1, base=2),
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=1e-5),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation({"preference": Mean(liked), "taste": Mean(taste()), "gap": ProxyGap(liked, taste())}),
        ablation=Ablation(
            metric="preference",
            without={
                "advantage": {
                    "class": "saccade.advantages.shaping.Clip",
                    "inner": {
                        "class": "saccade.advantages.shaping.BatchWhiten",
                        "inner": {"class": "saccade.advantages.temporal.DiscountedReturn"},
                    },
                },
            },
            note="preference: score of held-out pictures by the reward model that is trained on; taste is its gold. "
            "Inconclusive: both arms gain about 0.09 in 32 rollouts, the learned baseline makes no difference that "
            "three seeds show. With the critic at the policy's learning rate it learned nothing, and the arms were "
            "equal.",
        ),
    )
