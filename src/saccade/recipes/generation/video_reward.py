"""VideoReward: a reward model of clips with ties and several axes, and Flow-DPO on its preferences (arXiv:2501.13918).

Mechanism: annotators compare two clips along three axes, visual quality, motion quality and match of the prompt, and
may call them the same; a network learns by a Bradley-Terry model with ties (theta = 5), its heads for the first two
axes blind to the prompt. Of several clips by the pretrained model the best and the worst by the sum of the
standardised axes make a pair; DPO compares their matching errors at equal times and noise, with the same weight at
every time.

Without it: the weight (1 - t)^2 that the derivation of Flow-DPO gives, over its mean, so that beta means the same. What
counts then are errors at little noise, where it is decided how a clip looks and no longer how things move.

Differences: annotators are simulated by measurements of sharpness, smoothness and of the first step asked for, plus
noise; the network is a small convolutional one instead of Qwen2-VL with three special tokens. Pairs are drawn anew by
the pretrained model for every step. The paper's beta belongs to one draw; over K draws it is beta / (2 K) here. Clips
have no released checkpoint that fits the machines this was written on, in the base size either; ``base`` is a wider
generator of larger clips.
"""

from saccade.core.schedule import Constant, Linear
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.preferences import RankedPairs
from saccade.feeds.reference import ByReference
from saccade.objectives.matching import Matching
from saccade.objectives.preference import DPO
from saccade.policies.denoise.steps import DanceSDE
from saccade.policies.denoise.surrogate import LogitNormalTimes, Surrogate
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.clips import clips, evaluation, generator, preference, pretrained
from saccade.rewards.physics import ConditionMatch, Sharpness

SCHEDULE = 0.2934
"""The mean of (1 - t)^2 over logit-normal times: 1/4 and the variance of the logistic function of a normal, 0.0434."""


@recipe(paper="2501.13918", pillar="generation")
def video_reward(size: Size = "tiny") -> Recipe:
    liked, draws = preference(size), 4
    surrogate = Surrogate(draws=draws, times=LogitNormalTimes(), shared=True)
    metrics = {"preference": Mean(liked), "match": Mean(ConditionMatch()), "sharpness": Mean(Sharpness())}
    beta = 500 / (2 * draws)
    return Recipe(
        policy=generator(size, sampler=DanceSDE(8, 0.5), likelihood=surrogate),
        env=SingleTurn(clips(size)),
        rewards={"preference": liked},
        average="action",
        objective={"dpo": Matching(DPO(beta=beta))},
        feed=RankedPairs(ByReference(OnPolicy())),
        train=Train(
            steps=pick(size, tiny=80, base=2000),
            groups=pick(size, tiny=24, base=64),
            group_size=4,
            micro_size=2**20,
            lr=pick(size, tiny=2e-4, base=2e-5),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size, metrics),
        ablation=Ablation(
            metric="match",
            without={
                "policy.likelihood.weighting": {
                    "class": "saccade.policies.denoise.surrogate.SignalWeighting",
                    "power": 2.0,
                },
                "objective.dpo.inner.beta": beta / SCHEDULE,
            },
            note="match: the gold of the axis about the prompt, on held-out speeds and directions; preference is the "
            "model's own overall score. Equal pairs, equal draws, equal mean weight.",
        ),
    )
