"""ReFL: back-propagation through a reward model and one late step of the sampler (arXiv:2304.05977).

Mechanism: the chain runs without gradient to a step k in its last quarter; the picture that the network predicts there
in one go is scored by a differentiable reward, and ``max(0, cap - reward)`` is descended through that one evaluation.

Without it: k lies in the first quarter, where the predicted picture is a blur and its score says little about the
finished one; everything else is the same.

Differences: 12 steps instead of 40, so that k is one of the last three. The reward model is learned from simulated
comparisons. No second loss: the released code has none, the paper adds the loss of pretraining (inferred). A cap at
``inf`` shows over-optimisation: ``--objective.refl.cap inf``.
"""

from saccade.evaluate.images import ProxyGap
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.pathwise import OneStepReward
from saccade.policies.denoise.steps import Euler
from saccade.policies.denoise.surrogate import Surrogate
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, preference, pretrained, taste
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2304.05977", pillar="generation")
def refl(size: Size = "tiny") -> Recipe:
    liked = preference()
    steps = pick(size, tiny=12, base=40)
    quarter = steps // 4
    metrics = {"preference": Mean(liked), "taste": Mean(taste()), "gap": ProxyGap(liked, SceneSoft())}
    return Recipe(
        policy=family("diffusion", size, sampler=Euler(steps), likelihood=Surrogate(draws=1)),
        env=captions(most=0),
        rewards={"preference": liked},
        average="action",
        objective={"refl": OneStepReward(liked, first=steps - quarter, last=steps - 1, cap=2.0)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=80, base=1000),
            groups=pick(size, tiny=32, base=64),
            group_size=1,
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=1e-5),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation(metrics),
        ablation=Ablation(
            metric="preference",
            without={"objective.refl.first": 0, "objective.refl.last": quarter - 1},
            note="preference: score of held-out pictures by the reward model whose gradient is followed; soft, the "
            "verifier, is what the gain is worth, gap the difference of the two.",
        ),
    )
