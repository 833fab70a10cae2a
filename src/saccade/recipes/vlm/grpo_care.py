"""GRPO-CARE: reasoning that makes the answer likely is worth a bonus (arXiv:2506.16141).

Mechanism: a right rollout earns a bonus if a slow copy of the policy (a moving average of its weights) finds the
answer about as likely after this rollout's reasoning as after that of the group's other right rollouts, or likelier.
There is no KL term: the copy ties the answer to the reasoning, not the policy to its start.

Without it: the bonus's weight is 0: GRPO without KL. Whatever the reasoning says, a right answer earns the same.
(Consistency rises there too, more slowly: who thinks the wrong number errs more often.)

Differences: a rollout without answer tokens (no closing tag) takes no part in the comparison. If the answer tag
occurs several times, all its contents count as the answer and not only the last; the format reward asks for one. The
tiny size reads a handwritten digit where the paper has questions about videos with four options; its warm-up writes a
wrong number into the thought with probability 0.4 but the right one into the answer. The paper's consistency is
judged by a model, here numbers are compared. Tasks per step and number of steps of the base size are inferred.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saccade.advantages.group import GroupNorm
from saccade.core.advantage import Advantage
from saccade.core.batch import Batch
from saccade.core.content import Content, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError, ContractError
from saccade.core.metric import Metric, Models, Row
from saccade.core.optimiser import AdamW
from saccade.core.policy import Sampling
from saccade.core.reference import EMA
from saccade.core.schedule import Constant, Cosine
from saccade.core.segments import group_mean, last_action
from saccade.core.trajectory import Group, Task
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Script
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import Reinforce
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Train, pick, recipe
from saccade.recipes.vlm.setting import sight, warm_up
from saccade.rewards.format import Tags
from saccade.rewards.parse import numbers, tagged
from saccade.rewards.verify import ExactMatch

ASK = "{prompt} Think in <think> </think>, then give the letter of the right option in <answer> </answer>."
ANSWER = 1
"""Segment of the tokens strictly inside the answer tag, where the policy marks that tag alone."""


@dataclass(frozen=True)
class ConsistencyBonus(Advantage):
    """The inner advantage of rewards with the consistency bonus, a stream called ``care``.

    ``bonus_i = weight acc_i 1[i in S] 1[c_i >= mean_{j in S} c_j - margin]``,
    ``c_i = min(exp(mean_t ref_logp_it), cap)`` over answer tokens t,
    ``S = {i in the group: acc_i > least, acc_i >= mean_j acc_j}``

    Raises:
        ContractError: there is no reward called ``accuracy``.
    """

    inner: Advantage = GroupNorm()
    weight: float = 0.5
    margin: float = 0.01
    """How far below the mean likelihood of the right rollouts still earns the bonus."""
    cap: float = 0.95
    """In (0, 1]; likelihoods above count as this one, so that certainty does not pay."""
    least: float = 0.1
    """Accuracy above which an answer can be right; exactly this much is wrong."""
    accuracy: str = "accuracy"
    """Name of the reward that says how right an answer is."""

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.margin >= 0):
            raise ConfigError(f"weight and margin must be >= 0, got {self.weight} and {self.margin}")
        if not 0 < self.cap <= 1:
            raise ConfigError(f"cap must be in (0, 1], got {self.cap}")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"ref_logp"}) | self.inner.requires

    def __call__(self, batch: Batch) -> Float[Tensor, "N T"]:
        paid = torch.where(last_action(batch.turn), self.bonus(batch)[:, None], 0.0)
        return self.inner(batch.adding("care", paid.to(batch.old_logp)))

    def bonus(self, batch: Batch) -> Float[Tensor, "N"]:
        """What each trajectory earns on top."""
        assert batch.ref_logp is not None, "reference log-probabilities are filled in before advantages"
        if self.accuracy not in batch.rewards:
            raise ContractError(
                f"ConsistencyBonus: no reward is called {self.accuracy!r}, only {', '.join(batch.rewards)}"
            )
        answer = batch.mask & (batch.segment == ANSWER)
        tokens = answer.sum(1)
        likelihood = (torch.where(answer, batch.ref_logp, 0.0).double().sum(1) / tokens.clamp(min=1)).exp()
        likelihood = likelihood.clamp(max=self.cap)
        accuracy = batch.rewards[self.accuracy].sum(1).double()
        # Rewards are stored in single precision, and means of equal numbers may come out a rounding error above them.
        mean = group_mean(accuracy, batch.group, batch.trained) - 1e-9
        right = (tokens > 0) & (accuracy > self.least + 1e-6) & (accuracy >= mean)
        threshold = group_mean(likelihood, batch.group, right) - self.margin - 1e-9
        return torch.where(right & (likelihood >= threshold), self.weight * accuracy, 0.0)


@dataclass(frozen=True)
class ThoughtOut(Tasks):
    """DigitScenes whose gold outputs name the number in a thought before they answer."""

    scenes: DigitScenes = DigitScenes(kinds=("read",), digits=(1, 1), count=65536)

    def __len__(self) -> int:
        return len(self.scenes)

    def split(self, name: Split) -> Tasks:
        return ThoughtOut(self.scenes.split(name))

    def task(self, index: int) -> Task:
        task = self.scenes.task(index)
        return replace(task, gold=(_said(task.target["answer"], task.target["answer"]),))


def _said(thought: str, answer: str) -> tuple[Text]:
    return (Text(f"<think>{thought}</think><answer>{answer}</answer>"),)


@dataclass(frozen=True)
class Muddled(Script):
    """The right answer after a thought that names another number in ``wrong`` of all cases."""

    wrong: float = 0.4
    most: int = 9
    """Wrong numbers are 0 .. most."""

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        right = int(task.target["answer"])
        other = (right + 1 + int(random.integers(self.most))) % (self.most + 1)
        return (_said(str(other if random.random() < self.wrong else right), str(right)),)


@dataclass(frozen=True)
class Consistency(Metric):
    """Share of right answers whose thought ends on the number of the answer."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        right = [t for group in groups for t in group if ExactMatch().score(t) == 1.0]
        said = [
            (t.task.id, numbers(tagged(t.text, "think") or ""), numbers(tagged(t.text, "answer") or "")) for t in right
        ]
        return [Row(task, float(thought[-1:] == answer[-1:])) for task, thought, answer in said]


@recipe(paper="2506.16141", pillar="vlm")
def grpo_care(size: Size = "tiny") -> Recipe:
    base = size == "base"
    budget = 768 if base else 12
    tiny = TinyVLM(segments=("answer",))
    qwen = HFVisionLanguage("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16", segments=("answer",))
    video = SingleTurn(JsonlTasks("seed_bench_r1_6k.jsonl"), template=ASK)
    stages = {"sight": sight(200), "warm_up": warm_up(800, script=Muddled())}
    return Recipe(
        policy=qwen if base else tiny,
        env=video if base else SingleTurn(ThoughtOut()),
        rewards={"accuracy": ExactMatch(), "format": Tags(("think", "answer"))},
        advantage=ConsistencyBonus(GroupNorm(ddof=1)),
        average="trajectory",
        objective={"pg": Reinforce()},
        feed=OnPolicy(sampling=Sampling(max_actions=budget)),
        train=Train(
            steps=pick(size, tiny=150, base=1500),
            groups=pick(size, tiny=16, base=4),
            group_size=8,
            lr=pick(size, tiny=3e-4, base=1e-6),
            lr_schedule=Cosine() if base else Constant(),
            optimiser=AdamW(weight_decay=0.01 if base else 0.0),
            max_grad_norm=pick(size, tiny=1.0, base=5.0),
            reference=EMA(decay=0.995, every=10),
        ),
        stages={} if base else stages,
        evaluation=Evaluation(
            limit=600,
            sampling=Sampling(max_actions=budget),
            metrics={"consistency": Consistency(), "accuracy": Mean(ExactMatch())},
        ),
        ablation=Ablation(
            metric="consistency",
            without={"advantage.weight": 0.0},
            note="consistency: share of right answers whose thought names the same number; answers are sampled",
        ),
    )
