"""B2-DiffuRL: backward progressive training and branch sampling against sparse rewards (arXiv:2503.11240).

Mechanism: pictures of a group share the chain up to a step and branch there, so that they differ by the steps that are
trained and by nothing else; only the best and the worst of them are learned from, if they stand out. The trained
interval is the end of the chain at first and grows backwards.

Without it: DDPO. Every picture starts from noise of its own, all steps are trained from the start on, and all members
of the group are learned from.

Differences: the verifier of counts, right or wrong, is the sparse reward, in place of CLIP's cosine. A prompt has one
group of branches a step and is standardised by its last 64 rewards, the paper's are the last 8 rounds. The clip range
is DDPO's. Members that tie for an extreme all stay, because a binary reward has ties.
"""

from saccade.advantages.history import TaskNorm
from saccade.advantages.shaping import Clip, Extremes
from saccade.core.schedule import Constant, Linear
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.denoise.steps import DDIM, Suffix
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import captions, evaluation, family, pretrained
from saccade.rewards.shapes import SceneStrict

TRAINED = "saccade.advantages.history.TaskNorm"


@recipe(paper="2503.11240", pillar="generation")
def b2_diffurl(size: Size = "tiny") -> Recipe:
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    total = pick(size, tiny=8, base=20)
    rounds = pick(size, tiny=40, base=100)
    # The last step has no noise left to draw.
    backward = Suffix(size=total * 7 // 10, most=total - 1, over=rounds, tail=1)
    return Recipe(
        policy=family("diffusion", size, sampler=DDIM(total), choice=backward, shared_noise=True),
        env=captions(kinds=("count",), most=0),
        rewards={"verifier": SceneStrict()},
        advantage=Clip(Extremes(TaskNorm(size=64, least=16), 0.5, -0.5), 5.0),
        average="action",
        objective={"pg": PPOClip(low=epsilon, high=epsilon)},
        feed=OnPolicy(),
        train=Train(
            steps=rounds,
            groups=pick(size, tiny=16, base=64),
            group_size=pick(size, tiny=6, base=5),
            epochs=2,
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=1e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("diffusion", size),
        evaluation=evaluation(kinds=("count",)),
        ablation=Ablation(
            metric="accuracy",
            without={
                "policy.choice": {"class": "saccade.policies.denoise.steps.EveryStep", "tail": 1},
                "policy.shared_noise": False,
                "advantage.inner": {"class": TRAINED, "size": 64, "least": 16},
            },
            note="accuracy: strict verifier on held-out counts of objects. The share of groups whose members differ in "
            "reward is 1 - group/uniform in the metrics. Inconclusive: there are five such captions, and seeds differ "
            "more than arms do.",
        ),
    )
