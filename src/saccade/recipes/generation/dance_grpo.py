"""DanceGRPO: group-relative policy gradient on the steps of a flow over clips (arXiv:2505.07818).

Mechanism: clips of a prompt start from the same noise, so that they differ by what their random steps did, and a
comparison within the group is a comparison of these steps. Each is paid once, at the end. Of each chain a random subset
of the steps is trained.

Without it: every clip starts from noise of its own, as in Flow-GRPO. Where a ball goes is then mostly decided before
the first step, and much of what advantages say is about the luck of the start.

Differences: the reward is a measurer of mechanics (where the ball is, how much of it there is) in place of VideoAlign's
visual and motion quality, so that there is one reward and nothing to mix. Steps are trained in the order of the chain:
with one update a rollout their order does not matter. The step size falls to zero (inferred). No best-of-N selection.
Group normalisation has to be there, too: with one baseline for all prompts, ``BatchWhiten`` of the reward, one seed
went from 0.30 to 0.33 in 80 iterations instead of 0.36, and the easiest kind of motion gained nothing. The generator
learned from clips that are plausible and not what was asked for; what it learns here is to do what was asked and not to
break the ball, and also to move less (``travel``) than the prompts ask, probably because standing still costs less than
a wrong way (inferred). A faint pattern appears in the dark behind the ball, below the brightness that the reward
counts: ``dark`` tells of it. Pilots of one seed: paying for the dark as well (``DarkKept``) does not prevent it at this
step size, a tenth of the step size does, but then hardly anything is learned in as many iterations. Clips have no
released checkpoint that fits the machines this was written on, in the base size either: HunyuanVideo has 13 billion
parameters; ``base`` is a wider generator of larger clips.
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
            steps=pick(size, tiny=120, base=400),
            groups=pick(size, tiny=8, base=24),
            group_size=pick(size, tiny=12, base=24),
            micro_size=2**20,
            lr=pick(size, tiny=2e-4, base=1e-4),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size),
        ablation=Ablation(
            metric="mechanics",
            without={"policy.shared_noise": False},
            note="mechanics: place and mass of the ball on held-out speeds and directions, drawn without noise in the "
            "steps and with starts of their own in both arms. Equal clips, equal trained steps.",
        ),
    )
