"""AWM: advantage-weighted matching, the loss of pretraining as a policy gradient (arXiv:2509.25050).

Mechanism: minus the flow-matching error of a finished picture stands for its log-probability; advantages of either
sign weigh it, and the squared distance to an average of the own past holds the model back. Targets are clean pictures,
where the steps of a chain are scored against noisy ones.

Without it: Flow-GRPO's estimator, the exact log-probabilities of the steps of a stochastic sampler, same pictures and
updates, with the step size of that recipe: twice as much lost more than was learned.

Differences: one update for each batch of pictures, so that the ratio is 1 and neither it nor the clip appears. The
term to the pretrained model (1e-3) is left out; the coefficient of the other is 5, because advantages are not divided
by 5 (the optimiser does not see a common factor). Three times of the grid, without its first and last, instead of six
of 14. The decay of the average grows by 0.02 a step instead of 0.001, for a run of 50 steps instead of 1000.
"""

from saccade.advantages.group import GroupNorm
from saccade.advantages.shaping import Clip
from saccade.core.reference import SlowingEMA
from saccade.core.schedule import Constant, Linear
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.matching import Matching
from saccade.objectives.policy_gradient import Reinforce
from saccade.objectives.regularise import KLToReference
from saccade.policies.denoise.steps import Euler
from saccade.policies.denoise.surrogate import ChainTimes, GeneralisedHuber, Surrogate
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import evaluation, family, pretrained, scenes
from saccade.rewards.shapes import SceneSoft

COUPLED = {
    "policy.likelihood": {"class": "saccade.policies.denoise.chain.Chain"},
    "policy.sampler": {"class": "saccade.policies.denoise.steps.FlowSDE", "steps": 8, "noise": 0.7},
    "objective.awm": {"class": "saccade.objectives.policy_gradient.PPOClip", "low": 1e-3, "high": 1e-3},
    "objective.trust": None,
    "train.lr": 1e-4,
}
"""Flow-GRPO in place of the mechanism."""


@recipe(paper="2509.25050", pillar="generation")
def awm(size: Size = "tiny") -> Recipe:
    times = ChainTimes(first=1, last=1)
    surrogate = Surrogate(draws=pick(size, tiny=3, base=6), times=times, weighting=GeneralisedHuber(0.25))
    sampler = Euler(pick(size, tiny=8, base=14))
    return Recipe(
        policy=family("flow", size, sampler=sampler, likelihood=surrogate, guidance=1.0),
        env=scenes(),
        rewards={"verifier": SceneSoft()},
        advantage=Clip(GroupNorm(scale="batch"), 5.0),
        average="action",
        objective={"awm": Matching(Reinforce()), "trust": KLToReference(coef=5.0, estimator="exact")},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=50, base=1000),
            groups=pick(size, tiny=8, base=48),
            group_size=pick(size, tiny=12, base=24),
            micro_size=2**15,
            lr=pick(size, tiny=2e-4, base=3e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
            reference=SlowingEMA(slope=pick(size, tiny=0.02, base=0.001), most=0.3),
        ),
        stages=pretrained("flow", size),
        evaluation=evaluation(),
        ablation=Ablation(
            metric="soft",
            without=COUPLED,
            note="soft: graded verifier on held-out captions. Equal pictures and updates; the arm without has seven "
            "evaluations with gradient a picture, the arm with has three.",
        ),
    )
