"""InfLVG: a small policy picks what a frozen video generator still sees of earlier scenes (arXiv:2505.17574).

Mechanism: of the N tokens of the context a policy ranks and keeps K; the choice is an ordered set drawn without
replacement (Plackett-Luce by Gumbel top-K), each of its K picks an action with its own log-probability given the ones
before. The generator is frozen. Rewards that pull apart, likeness to the subject as it was filmed against leaving the
old scene, and the price of artefacts, are standardised one by one in the group before they are added.

Without it: likeness and artefacts alone, as where context is ranked by similarity. What was filmed shows the old scene
too, so that the policy keeps tokens which carry it into the new one.

Differences: the generator is the mean of chosen features in place of a video model, the rewards are cosines and a count
in place of ArcFace, CLIP and a judge: neither weights nor code are published and there is no checkpoint in the base
size either, which is this world with a longer context. Plackett-Luce and the equal weights of the standardised terms
are inferred; so is the second standardisation, over the batch. One choice is made for one new scene. That the ordered
set is drawn without replacement makes no difference here: K independent picks (``--policy.choice.class
WithReplacement``) learn as much.
"""

from saccade.advantages.group import PerReward
from saccade.core.schedule import Linear
from saccade.envs.datasets.histories import Histories
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.policies.subset import TinySelector
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.generation.choosing import AtRandom, GreedyOracle, MostRecent, Scripted
from saccade.rewards.combine import Sum
from saccade.rewards.selection import Consistency, Damage, OldScene, Subject


@recipe(paper="2505.17574", pillar="generation")
def inflvg(size: Size = "tiny") -> Recipe:
    count = pick(size, tiny=6, base=24)
    terms = (Subject(), OldScene(weight=-0.7), Damage(weight=-1.0))
    quality = Sum(terms)
    rules = {
        "at_random": AtRandom(count),
        "most_recent": MostRecent(count),
        "oracle": GreedyOracle(count, reward=quality),
    }
    return Recipe(
        policy=TinySelector(count),
        env=SingleTurn(Histories(tokens=pick(size, tiny=24, base=96))),
        rewards={"likeness": Consistency(), "old_scene": OldScene(weight=-1.0), "damage": terms[2]},
        advantage=PerReward(),
        average="trajectory",
        objective={"pg": PPOClip(low=0.2, high=0.2)},
        feed=OnPolicy(),
        train=Train(steps=pick(size, tiny=50, base=200), groups=8, group_size=16, lr=1e-2, lr_schedule=Linear()),
        evaluation=Evaluation(
            metrics={
                "quality": Mean(quality),
                "subject": Mean(terms[0]),
                "old_scene": Mean(terms[1]),
                "damage": Mean(terms[2]),
                **{rule: Scripted(quality, script) for rule, script in rules.items()},
            }
        ),
        ablation=Ablation(
            metric="quality",
            without={"rewards.old_scene": None},
            note="quality: cosine to the subject itself - 0.7 old scene - damage, of greedy choices for subjects and "
            "scenes never trained on; at_random, most_recent and oracle are untrained rules on the same histories.",
        ),
    )
