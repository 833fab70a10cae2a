"""MixGRPO: stochastic steps inside a sliding window only (arXiv:2507.21802).

Mechanism: two neighbouring steps are random and trained, the others deterministic; the window slides from high noise
to low noise. Pictures of a group share the starting noise and differ by the window's steps alone: what they are paid
is these steps' doing, and what comes before the window is computed once a group.

Without it: all steps are random and two of them, drawn anew for each picture, are trained (DanceGRPO's subset of
steps): equal pictures and as many evaluations with gradient, credit spread over steps that were not trained.

Differences: one reward, so that there is nothing to aggregate. Steps after the window are not compressed (that is
MixGRPO-Flash). No divergence term, as in the paper. A pilot at equal computing time with the whole chain trained found
no difference (46.2 and 46.9 per cent): that comparison confounds the window with the number of trained steps, which
the ablation holds fixed.
"""

from saccade.advantages.group import GroupNorm
from saccade.advantages.shaping import Clip
from saccade.core.schedule import Constant, Linear
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.denoise.steps import FlowSDE, Window
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.setting import evaluation, family, pretrained, scenes
from saccade.rewards.shapes import SceneSoft


@recipe(paper="2507.21802", pillar="generation")
def mixgrpo(size: Size = "tiny") -> Recipe:
    epsilon = pick(size, tiny=1e-3, base=1e-4)
    window = pick(size, tiny=Window(size=2, every=4, end=6), base=Window(size=4, every=25))
    sampler = FlowSDE(pick(size, tiny=8, base=25), 0.7)
    return Recipe(
        policy=family("flow", size, sampler=sampler, choice=window, shared_noise=True),
        env=scenes(),
        rewards={"verifier": SceneSoft()},
        advantage=Clip(GroupNorm(), 5.0),
        average="action",
        objective={"pg": PPOClip(low=epsilon, high=epsilon)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=60, base=300),
            groups=pick(size, tiny=8, base=32),
            group_size=12,
            minibatches=pick(size, tiny=1, base=2),
            micro_size=2**15,
            lr=pick(size, tiny=1e-4, base=1e-5),
            lr_schedule=pick(size, tiny=Linear(), base=Constant()),
        ),
        stages=pretrained("flow", size),
        evaluation=evaluation(),
        ablation=Ablation(
            metric="soft",
            without={"policy.choice": {"class": "saccade.policies.denoise.steps.RandomSteps", "count": 2}},
            note="soft: graded verifier on held-out captions. Equal pictures and trained steps in both arms; with the "
            "window fewer evaluations without gradient. Inconclusive: with two trained steps a picture neither "
            "arm moves far in 60 rollouts; what it saves is time, which benchmarks/diffusion_rl_step.json measures.",
        ),
    )
