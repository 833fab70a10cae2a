"""DreamReward: the gradient of a reward model that sees several views is added to a prior's (arXiv:2403.14613).

Mechanism: a solid is rendered from four sides; one score of all four views together, learned from ranked solids,
flows back through the renderer. The term comes late, when the prior has made a rough solid, and is scaled to the
order of magnitude of the prior's loss.

Without it: the same guidance by a score of the front view alone, learned from the same rankings. What the front does
not show stays as the prior left it, or is bent for the front's sake.

Differences: a network that draws star-shaped solids for captions is trained in place of one neural field per caption,
so that captions never trained on can be judged. Score distillation is a distance to the mean views of solids with the
caption's first two words; views are silhouettes, without the straight-through image of small noise levels; annotators
are simulated, Bradley-Terry over the pairs of a ranking is inferred. The reward comes after 0.4 of the run instead of
0.6 and with ten times the paper's share: a score far below its cap is flat where a distance is not, and with the
paper's numbers all ends near the prior (overlap of hidden views 0.741 with four views, 0.733 with one, 0.725 with the
prior alone; one seed). Where the reward stands alone, in the last fiftieth of the run, it is not multiplied by 1e6:
gradients are clipped. MVDream and the released Reward3D need a renderer on a GPU and are not there in the base size
either, which is the same world with finer meshes.
"""

from saccade.core.meshes import VIEWS
from saccade.core.schedule import Linear
from saccade.envs.shapes3d import WORDS, Solids
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.guidance import LateGuidance
from saccade.policies.shape.tiny import TinyShapes
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.rewards.silhouette import Roughness, SilhouetteOverlap, ViewsModel, ViewsPrior, ViewsScore


@recipe(paper="2403.14613", pillar="generation")
def dream_reward(size: Size = "tiny") -> Recipe:
    detail = pick(size, tiny=1, base=2)
    solids = Solids(detail=detail)
    liked = ViewsScore(model=ViewsModel(tasks=solids))
    prior = ViewsPrior(tasks=solids)
    return Recipe(
        policy=TinyShapes(WORDS, detail=detail),
        env=SingleTurn(solids),
        rewards={"views": liked},
        average="action",
        objective={"guidance": LateGuidance(prior, liked, start=0.4, share=6.0)},
        feed=OnPolicy(),
        train=Train(
            steps=pick(size, tiny=150, base=1000),
            groups=32,
            group_size=1,
            lr=pick(size, tiny=5e-3, base=1e-3),
            lr_schedule=Linear(),
        ),
        evaluation=Evaluation(
            metrics={
                "hidden": Mean(SilhouetteOverlap()),
                "front": Mean(SilhouetteOverlap(views=VIEWS[:1])),
                "preference": Mean(liked),
                "prior": Mean(prior),
                "roughness": Mean(Roughness()),
            }
        ),
        ablation=Ablation(
            metric="hidden",
            without={"objective.guidance.reward.model.sees": [0]},
            note="hidden: overlap of silhouettes from six directions that nothing was trained on, for captions never "
            "trained on; front is the one view that both arms see, preference the four-view model's score in both.",
        ),
    )
