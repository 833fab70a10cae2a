"""DiffusionNFT: negative-aware fine-tuning on the forward process (arXiv:2509.16117).

Mechanism: pictures of any sampler are corrupted again and the flow-matching loss is taken for two mixtures of the new
and the old model: the good share of a picture pulls the positive mixture towards it, the bad share pulls the negative
one, and so pushes the model itself away. No log-probabilities, no stored chains.

Without it: the positive branch alone, fine-tuning on pictures in proportion to how good they are.

Differences: branches are normalised by the root of their mean squared error instead of the mean absolute one. The
divergence term to the pretrained model (1e-4) is left out: the old model, which also draws the pictures, is the only
reference. Its decay grows by 0.02 a step instead of 0.001, for a run of 60 steps instead of 1000.
"""

from saccade.advantages.group import GroupNorm
from saccade.core.reference import SlowingEMA
from saccade.core.schedule import Constant, Linear
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.reference import ByReference
from saccade.objectives.matching import NFT, Matching
from saccade.policies.denoise.steps import Euler
from saccade.policies.denoise.surrogate import ChainTimes, NoiseWeighting, Surrogate
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import evaluation, family, placed, pretrained, scenes
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2509.16117", pillar="generation")
def diffusion_nft(size: Size = "tiny", world: str = "shapes") -> Recipe:
    surrogate = Surrogate(draws=pick(size, tiny=3, base=10), times=ChainTimes(), weighting=NoiseWeighting(power=2.0))
    sampler = Euler(pick(size, tiny=8, base=10))
    made = Recipe(
        policy=family("flow", size, sampler=sampler, likelihood=surrogate, guidance=1.0),
        env=scenes(),
        rewards={"verifier": SceneSoft()},
        advantage=GroupNorm(scale="batch"),
        average="action",
        objective={"nft": Matching(NFT(beta=1.0, limit=5.0))},
        feed=ByReference(OnPolicy()),
        train=Train(
            steps=pick(size, tiny=60, base=1000),
            groups=pick(size, tiny=8, base=48),
            group_size=pick(size, tiny=12, base=24),
            micro_size=2**15,
            lr=pick(size, tiny=2e-4, base=3e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
            reference=SlowingEMA(slope=pick(size, tiny=0.02, base=0.001), most=0.5),
        ),
        stages=pretrained("flow", size),
        evaluation=evaluation(),
        ablation=Ablation(
            metric="soft",
            without={"objective.nft.inner": {"class": "saccade.objectives.matching.PositiveNFT"}},
            note="soft: graded verifier on held-out captions.",
        ),
    )
    return placed(made, world)
