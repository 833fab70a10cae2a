"""DanceGRPO: group-relative policy gradient on the steps of a flow over clips (arXiv:2505.07818).

Mechanism: clips of a prompt start from the same noise, so that they differ by what their random steps did; each is
paid once, at the end, and compared with the others of its prompt only. Of each chain a random subset of the steps is
trained.

Without it: one baseline for all prompts: the reward minus the batch's mean, divided by the batch's standard deviation.
Clips of easy prompts are then all praised and clips of hard prompts all blamed, whatever they did.

Differences: the reward is a measurer of mechanics (where the ball is, how much of it there is) in place of VideoAlign's
visual and motion quality, so that there is one reward and nothing to mix. Prompts are of unequal difficulty on purpose:
with prompts of equal difficulty one running baseline does about as well. Steps are trained in the order of the chain:
with one update a rollout their order does not matter. One update a rollout and a falling step size instead of two
updates at a constant one. No best-of-N selection (the image part's). There is no base size with released weights:
HunyuanVideo does not fit the machines this was written on; ``base`` is a wider generator of larger clips.
"""

from saccade.advantages.group import GroupNorm
from saccade.advantages.shaping import Clip
from saccade.core.schedule import Constant, Linear
from saccade.envs.single import SingleTurn
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.denoise.steps import DanceSDE, RandomSteps
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.clips import clips, evaluation, generator, pretrained
from saccade.rewards.physics import Mechanics


@recipe(paper="2505.07818", pillar="generation")
def dance_grpo(size: Size = "tiny") -> Recipe:
    # 60 per cent of all steps but the last.
    steps, trained = pick(size, tiny=(8, 4), base=(16, 9))
    return Recipe(
        policy=generator(size, sampler=DanceSDE(steps, 0.5), choice=RandomSteps(count=trained), shared_noise=True),
        env=SingleTurn(clips(size)),
        rewards={"mechanics": Mechanics()},
        advantage=Clip(GroupNorm(eps=1e-8), 5.0),
        average="action",
        objective={"pg": PPOClip(low=1e-4, high=1e-4)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=100, base=400),
            groups=pick(size, tiny=6, base=24),
            group_size=pick(size, tiny=12, base=24),
            micro_size=2**20,
            lr=pick(size, tiny=3e-4, base=1e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size),
        ablation=Ablation(
            metric="mechanics",
            without={
                "advantage": {
                    "class": "saccade.advantages.shaping.BatchWhiten",
                    "inner": {"class": "saccade.advantages.temporal.DiscountedReturn", "discount": 1.0},
                }
            },
            note="mechanics: place and mass on held-out speeds and directions; chance of a prompt to be easy differs.",
        ),
    )
