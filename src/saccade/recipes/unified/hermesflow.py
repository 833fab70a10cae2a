"""HermesFlow: preferences among pictures and among answers of the same records, in rounds (arXiv:2502.12148).

Mechanism: of each record the policy draws n pictures and gives n answers. The best and the worst of both, where the
best is good enough and the two differ, are pairs of one record, and DPO learns from both kinds together. After a round
the policy samples again: what beats the old winner becomes the winner over it, what does not replaces it against the
old loser.

Without it: pairs of pictures alone, as many of them a step, from as many samples. Drawing improves as much, and
answering does not.

Differences: questions with one right word are in place of captions and their BERT similarity, and an exact verifier of
pictures (attributes, and a third for a scene in one piece) in place of the policy's own answers to questions about them
(TIFA), which need a policy that answers well. 16 answers are sampled like the 16 pictures, where the paper has about
ten at several temperatures. Log-probabilities are exact, those of every token in its turn, where Show-o's are estimates
under one random mask for both of a pair. The mean over all pairs is half the sum of the two losses. Pictures of 16
tokens take a larger beta at the tiny size: with 0.2 to 1 more of them end in pieces of several scenes, and with 3 still
some do that did not before. All rounds are compared with the policy before the first (inferred). A record enters with
both of its pairs or not at all, and keeps them when a later round brings nothing better. The base size is Emu3 instead
of Show-o.

The tiny size leaves out what makes a second round worth it: the best of 16 samples of a record is almost always right
in the first, and one round of as many steps is as good.
"""

from saccade.core.schedule import Cosine, Linear
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.curriculum import Blocks
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.rounds import PairRounds
from saccade.objectives.preference import DPO
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.unified.setting import SCENES, evaluation, policy, pretrained, records, sampling
from saccade.rewards.combine import Dispatch, Sum
from saccade.rewards.templates import SceneAttributes, SceneIntact
from saccade.rewards.verify import ExactMatch

ROUNDS = 2
PICTURE = Sum(terms=(SceneAttributes(templates=SCENES, weight=2 / 3), SceneIntact(templates=SCENES, weight=1 / 3)))
"""In [0, 1]; 2/3 for the right attributes in a picture of pieces."""


@recipe(paper="2502.12148", pillar="unified")
def hermesflow(size: Size = "tiny") -> Recipe:
    tasks = records(size)
    groups, steps = pick(size, tiny=40, base=8), pick(size, tiny=100, base=6000)
    # A round looks at every record once; without answers, twice.
    draws = len(tasks) // groups
    both = Dispatch(by={"draw": SceneAttributes(templates=SCENES), "answer": ExactMatch()})
    return Recipe(
        policy=policy(size),
        env=SingleTurn(tasks),
        rewards={"verifier": Dispatch(by={"draw": PICTURE, "answer": ExactMatch()})},
        average="trajectory",
        objective={"dpo": DPO(beta=pick(size, tiny=3.0, base=0.2))},
        feed=PairRounds(
            OnPolicy(sampling=sampling(size), order=Blocks(size=2)), steps=steps // ROUNDS, draws=draws, least=0.6
        ),
        train=Train(
            steps=steps,
            groups=groups,
            group_size=16,
            lr=pick(size, tiny=1e-4, base=2e-5),
            lr_schedule=pick(size, tiny=Linear(), base=Cosine()),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size, {"both": Mean(both)}),
        ablation=Ablation(
            metric="both",
            without={"env.tasks.kinds": ["draw"]},
            note="both: mean of attributes and answers on held-out combinations, each of which stands beside it.",
        ),
    )
