"""Emu3's last stage: DPO on the tokens of pictures, with the cross-entropy of the chosen one (arXiv:2409.18869).

Mechanism: of each prompt the policy draws n pictures; the best is chosen, the worst rejected, and the very tokens that
were drawn are kept and learned from again. DPO on the tokens of the picture alone is joined by the negative
log-likelihood of the chosen one's tokens.

Without it: DPO alone, which asks only for a difference: the likelihood of what was chosen falls a little together
with that of what was rejected, and more of what is drawn is pieces of several scenes that nobody chose.

Differences: an exact verifier of pictures (attributes, and half a point for a scene in one piece) is in place of three
people's votes on alignment and appeal. beta, the weight of the cross-entropy and the step size are not published; those
here are inferred. At the tiny size the weight is 10 on the mean over a picture's 16 tokens, 0.6 on their sum, over
which DPO's log-ratios are taken. The reference is the policy that drew the pairs.

The tiny size leaves out the paper's own finding that people prefer the pictures where automatic metrics fall: here
verifier and metric agree. More pictures are in pieces after training than before it, in both arms. With three times the
beta DPO alone keeps the likelihood of what was chosen where it was, and still draws worse than with the cross-entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from saccade.core.batch import pack
from saccade.core.metric import Metric, Models, Row
from saccade.core.random import numpy_generator
from saccade.core.schedule import Linear
from saccade.core.trajectory import Context, Group, Trajectory, Turn
from saccade.envs.single import SingleTurn
from saccade.feeds.demonstrations import Gold, Script
from saccade.feeds.on_policy import OnPolicy
from saccade.feeds.rounds import PairRounds
from saccade.objectives.preference import RPO
from saccade.objectives.segment import InSegment
from saccade.policies.unified.drawing import PICTURE
from saccade.recipe import Ablation, Recipe, Size, Train, pick, recipe
from saccade.recipes.unified.setting import (
    SCENES,
    Mistaken,
    drawing,
    evaluation,
    policy,
    pretrained,
    records,
    sampling,
)
from saccade.rewards.combine import Sum
from saccade.rewards.templates import SceneAttributes, SceneIntact


@dataclass(frozen=True)
class Likelihood(Metric):
    """Mean log-probability per action, in nats, of the outputs that a script gives for the tasks of one kind.

    What the policy itself put out does not matter. One row a task; the same outputs in every evaluation.
    """

    tier: ClassVar[Literal["set", "sample", "state"]] = "state"

    script: Script = Gold()
    kind: str = "draw"
    """``task.info["kind"]`` of the tasks that count."""

    @torch.no_grad()
    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        prompts = [group[0].prompt for group in groups if group[0].task.info.get("kind") == self.kind]
        if not prompts:
            return []
        outputs = [self.script(p.task, numpy_generator(0, "likelihood", p.task.id))[0] for p in prompts]
        acts = models.policy.encode([Context(prompt) for prompt in prompts], outputs)
        turns = [Turn(act.output, act.record, act.logp, act.mask, act.segment) for act in acts]
        written = [[Trajectory(prompt, [turn])] for prompt, turn in zip(prompts, turns, strict=True)]
        batch = pack(written, device=models.policy.device)
        training = models.policy.training
        models.policy.eval()
        try:
            logp = models.policy.log_prob(batch).logp
        finally:
            models.policy.train(training)
        mean = torch.where(batch.mask, logp, 0.0).sum(1) / batch.mask.sum(1)
        return [Row(prompt.task.id, value) for prompt, value in zip(prompts, mean.tolist(), strict=True)]


@recipe(paper="2409.18869", pillar="unified")
def emu3(size: Size = "tiny") -> Recipe:
    tasks = replace(records(size), kinds=("draw",))
    groups, steps = 40, pick(size, tiny=80, base=1000)
    picture = Sum(terms=(SceneAttributes(templates=SCENES), SceneIntact(templates=SCENES, weight=0.5)))
    likelihoods = {"chosen": Likelihood(), "rejected": Likelihood(Mistaken(share=1.0))}
    return Recipe(
        policy=policy(size),
        env=SingleTurn(tasks),
        rewards={"verifier": drawing(picture)},
        average="trajectory",
        objective={"dpo": InSegment(pick(size, tiny=RPO(beta=1.0, alpha=10.0), base=RPO(beta=0.2)), segment=PICTURE)},
        feed=PairRounds(OnPolicy(sampling=sampling(size)), steps=steps, draws=len(tasks) // groups),
        train=Train(
            steps=steps,
            groups=groups,
            group_size=8,
            lr=pick(size, tiny=1e-4, base=1e-6),
            lr_schedule=Linear(),
        ),
        stages=pretrained(size),
        evaluation=evaluation(size, likelihoods),
        ablation=Ablation(
            metric="chosen",
            without={"objective.dpo.inner.alpha": 0.0},
            note="chosen: log-probability per token of the right picture for held-out combinations, rejected: of one "
            "with random attributes. Attributes, complete and intact are those of what is drawn.",
        ),
    )
