"""Diffusion-DPO: direct preference optimisation on matching errors (arXiv:2311.12908).

Mechanism: the likelihood of a finished picture in DPO's loss is replaced by minus its denoising error, and both
pictures of a pair are corrupted at the same times with the same noise: what the noise does to one error it does to the
other, so that their difference is the model's preference.

Without it: each picture of a pair has noise and times of its own; everything else is the same. Differences of errors
are then mostly differences of noise.

Differences: pairs are the best and the worst of four pictures by the pretrained model itself, compared by the
verifier, instead of a collection of other models' pictures with human votes; they are drawn anew for every step but
never by the tuned model, so that this is an offline method. The paper's beta of 5000 over one draw is 2500 / K over
the sum of K draws; the tiny size takes a fifth of it (inferred), because errors of small pictures with few large
shapes differ by more.
"""

from saccade.core.schedule import Constant, Linear
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.preferences import RankedPairs
from saccade.feeds.reference import ByReference
from saccade.objectives.matching import Matching
from saccade.objectives.preference import DPO
from saccade.policies.denoise.steps import DDIM
from saccade.policies.denoise.surrogate import Surrogate
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import evaluation, family, pretrained, scenes
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2311.12908", pillar="generation")
def diffusion_dpo(size: Size = "tiny") -> Recipe:
    surrogate = Surrogate(draws=4, shared=True)
    return Recipe(
        policy=family("diffusion", size, sampler=DDIM(pick(size, tiny=8, base=50)), likelihood=surrogate),
        env=scenes(),
        rewards={"verifier": SceneSoft()},
        average="action",
        objective={"dpo": Matching(DPO(beta=pick(size, tiny=125.0, base=625.0)))},
        feed=RankedPairs(ByReference(OnPolicy())),
        train=Train(
            steps=pick(size, tiny=60, base=2000),
            groups=pick(size, tiny=24, base=256),
            group_size=4,
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=2e-5),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation(),
        ablation=Ablation(
            metric="soft",
            without={"policy.likelihood.shared": False},
            note="soft: graded verifier on held-out captions. Equal pairs, equal draws.",
        ),
    )
