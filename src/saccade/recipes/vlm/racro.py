"""RACRO: a captioner paid for what a frozen solver makes of its captions (arXiv:2506.04559).

The policy sees the picture and the question and writes a caption; a solver that never sees the picture answers the
question from the caption.

Mechanism: the reward is 1 if the solver's answer is right and 0 if not, and nothing else: no caption metric, no format.
Credit reaches the captioner only through the solver, so captions learn to say what the question needs.

Without it: GRPO on a caption metric, the word overlap (ROUGE-1) with a reference caption that was written without
knowing the question. Captions stay about anything, and what was asked is often missing.

Differences: the tiny size counts coloured digits; its solver is an exact parser of phrases such as ``red 2``, colour
before number where the paper's captions are free, because a small model must name the colour before it can count. It
starts from a supervised warm-up on captions about three colours of five, three in ten about the question instead,
because nothing is pretrained and a pretrained model heeds its question a little. Captions end after three phrases, so
that naming everything is no way out. The base size's solver is a frozen Qwen2.5-VL-7B-Instruct that gets text only and
decodes greedily, in place of DeepSeek-R1-Distill-Qwen-7B at temperature 0.6: that checkpoint needs a policy for
text-only models. The captioner's tentative answer, which the paper also shows to the solver at test time, is left out.
Its data file has the question twice: as ``prompt``, which is followed by the request for a caption, and as
``question``, which the solver is asked.

The metric ``skimmed`` is the paper's swap of solvers: the same captions, read by a solver of another grammar that no
caption was trained with.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.core.content import Content, Text
from saccade.core.errors import ConfigError
from saccade.core.metric import Metric, Models, Row
from saccade.core.policy import Sampling
from saccade.core.schedule import Cosine
from saccade.core.trajectory import Group, Task
from saccade.envs.datasets.canvas import PALETTE
from saccade.envs.datasets.coloured_counts import WORDS, ColouredCounts
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.evaluate.samples import Mean
from saccade.feeds.demonstrations import Demonstrations, Script
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regression import NLL
from saccade.objectives.regularise import KLToReference
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.tiny import TinyVLM
from saccade.recipe import Ablation, Evaluation, Recipe, Size, Stage, Train, pick, recipe
from saccade.rewards.learned import Downstream, PolicySolver, Solver
from saccade.rewards.parse import items
from saccade.rewards.verify import NumberMatch, SympyEqual

ASK = "{prompt} Describe the picture in detail for this question. Do not try to answer it."
READ = "\nThis describes a picture. Answer the question about it, with nothing but the result in <answer> </answer>.\n"
UNKNOWN = "unknown"
_WORD = re.compile(r"[a-z]+|[0-9]{1,9}")
_PHRASE = re.compile(r"([a-z]+) ([0-9]{1,9})|([0-9]{1,9}) ([a-z]+)")


@dataclass(frozen=True)
class PhraseSolver(Solver):
    """Exact reader of phrases between commas, ``red 2`` or ``2 red``, that adds or subtracts what was asked.

    Its answer is "unknown" where the text says nothing, or different things, about a colour of the question.
    """

    def counts(self, text: str) -> dict[str, set[int]]:
        """What the text says about each colour."""
        said: dict[str, set[int]] = {}
        for found in filter(None, map(_PHRASE.fullmatch, items(text))):
            said.setdefault(found[1] or found[4], set()).add(int(found[2] or found[3]))
        return said

    def solve(self, texts: Sequence[str], questions: Sequence[str]) -> list[str]:
        return [self._answer(self.counts(text), question) for text, question in zip(texts, questions, strict=True)]

    def _answer(self, said: dict[str, set[int]], question: str) -> str:
        numbers = [said.get(word, set()) for word in _WORD.findall(question) if word in PALETTE]
        if not numbers or any(len(known) != 1 for known in numbers):
            return UNKNOWN
        first, *rest = (next(iter(known)) for known in numbers)
        return str(first - sum(rest) if "minus" in question else first + sum(rest))


@dataclass(frozen=True)
class SkimmingSolver(PhraseSolver):
    """Reader of another grammar: the next number after each colour, whatever stands between; the last one counts.

    What the text does not mention is not there.
    """

    def counts(self, text: str) -> dict[str, set[int]]:
        said, colour = {name: {0} for name in PALETTE}, ""
        for word in _WORD.findall(text.lower()):
            if word in PALETTE:
                colour = word
            elif colour and word.isdecimal():
                said[colour], colour = {int(word)}, ""
        return said


@dataclass(frozen=True)
class Distracted(Script):
    """Mostly the caption somebody wrote without knowing the question, now and then one about what was asked."""

    heeded: float = 0.3
    """Chance of the latter."""

    def __post_init__(self) -> None:
        if not 0 <= self.heeded <= 1:
            raise ConfigError(f"heeded must be in [0, 1], got {self.heeded}")

    def __call__(self, task: Task, random: np.random.Generator) -> tuple[Content, ...]:
        if random.random() < self.heeded:
            return task.gold
        return ((Text(task.target["caption"]),),)


@dataclass(frozen=True)
class Mentioned(Metric):
    """Share of the two colours asked for that a caption says something about, right or wrong."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        found = [(t.task, PhraseSolver().counts(t.text)) for group in groups for t in group]
        return [Row(task.id, sum(c in said for c in task.info["asked"]) / 2) for task, said in found]


@dataclass(frozen=True)
class Truthful(Metric):
    """Share of a caption's colours whose count is right; a caption that says nothing has no row."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[Row]:
        found = [(t.task, PhraseSolver().counts(t.text)) for group in groups for t in group]
        right = [(task, [n == {task.info["counts"].get(c)} for c, n in said.items()]) for task, said in found]
        return [Row(task.id, sum(hits) / len(hits)) for task, hits in right if hits]


@recipe(paper="2506.04559", pillar="vlm")
def racro(size: Size = "tiny") -> Recipe:
    base = size == "base"
    qwen = HFVisionLanguage("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16")
    tiny = TinyVLM(width=64, layers=2, side=48, patch=16, max_images=1, words=WORDS)
    reader = PolicySolver(qwen, sampling=Sampling(max_actions=4096, deterministic=True), between=READ, device="cuda")
    reasoned = Downstream(solver=reader, inner=SympyEqual(), question="question")
    solved = Downstream(solver=PhraseSolver(), inner=NumberMatch(tag=""))
    skimmed = Downstream(solver=SkimmingSolver(), inner=NumberMatch(tag=""))
    imitation = Train(steps=800, groups=32, group_size=1, lr=2.5e-3, lr_schedule=Cosine(end=0.1, warmup=20))
    warm_up = Stage(feed=Demonstrations(script=Distracted()), objective={"nll": NLL()}, train=imitation, rewards={})
    budget = Sampling(max_actions=8192 if base else 11)
    tasks = JsonlTasks("virl39k.jsonl") if base else ColouredCounts(count=65_536)
    own = {"skimmed": Mean(skimmed), "mentioned": Mentioned(), "truthful": Truthful()}
    return Recipe(
        policy=qwen if base else tiny,
        env=SingleTurn(tasks, template=ASK if base else "{prompt}"),
        rewards={"solved": reasoned if base else solved},
        average="action",
        objective={"pg": PPOClip(low=0.2, high=0.2), "kl": KLToReference(coef=1e-3, estimator="k3")},
        feed=OnPolicy(sampling=budget),
        train=Train(
            steps=pick(size, tiny=200, base=3000),
            groups=pick(size, tiny=16, base=256),
            group_size=pick(size, tiny=8, base=4),
            minibatches=pick(size, tiny=1, base=2),
            lr=pick(size, tiny=3e-4, base=1e-6),
        ),
        stages={} if base else {"warm_up": warm_up},
        evaluation=Evaluation(
            limit=400,
            sampling=Sampling(max_actions=budget.max_actions, deterministic=base),
            metrics={"solved": Mean(reasoned if base else solved), **({} if base else own)},
        ),
        ablation=Ablation(
            metric="solved",
            without={
                "rewards.solved": {"class": "saccade.rewards.text.Rouge", "kinds": ["1"], "tag": "", "field": "caption"}
            },
        ),
    )
