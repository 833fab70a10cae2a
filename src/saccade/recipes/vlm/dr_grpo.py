"""Dr. GRPO: GRPO without its two biases (arXiv:2503.20783).

Mechanism: the advantage is centred but not divided by the group's standard deviation, and losses are divided by a
constant budget instead of each answer's own length, so that neither question difficulty nor length is over-weighted.

Without it: GRPO: standardised advantages and a mean over each answer's own actions.

Differences: none in the objective; the tiny size starts from a supervised warm-up because nothing is pretrained. The
paper's beta is 0.
"""

from saccade.advantages.group import GroupCentre
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.recipe import Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import setting


@recipe(paper="2503.20783", pillar="vlm")
def dr_grpo(size: Size = "tiny", model: str = "", data: str = "", reward: str = "") -> Recipe:
    chosen = setting(size, model, data, reward)
    return Recipe(
        policy=chosen.policy,
        env=chosen.env,
        rewards=chosen.rewards,
        advantage=GroupCentre(),
        average=chosen.sampling.max_actions,
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(sampling=chosen.sampling),
        train=Train(steps=pick(size, tiny=600, base=1000), groups=16, group_size=8, lr=chosen.lr),
        stages=chosen.stages,
        evaluation=chosen.evaluation,
        ablation=chosen.ablation(
            without={"advantage": {"class": "saccade.advantages.group.GroupNorm"}, "average": "trajectory"}
        ),
    )
