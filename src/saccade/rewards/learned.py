"""Rewards that ask a second, frozen system: a solver further down the line, or a judge between two outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from saccade.core.content import Text, text_of
from saccade.core.errors import CheckpointError, ConfigError, ContractError, DataError
from saccade.core.policy import LocalActor, Policy, PolicySpec, Sampling
from saccade.core.random import fold_in
from saccade.core.reward import Reward, Scope, Score
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, forced_turn
from saccade.rewards.answer import column
from saccade.rewards.combine import scores
from saccade.rewards.parse import tagged


@dataclass(frozen=True)
class Solver(ABC):
    """A frozen system that answers questions about texts. Pure: equal texts and questions give equal answers."""

    @abstractmethod
    def solve(self, texts: Sequence[str], questions: Sequence[str]) -> list[str]:
        """One answer for each text and question."""


@dataclass(frozen=True)
class PolicySolver(Solver):
    """A frozen policy that reads text and question and answers greedily."""

    policy: PolicySpec
    weights: Path | None = None
    """Folder with ``model.safetensors`` to load into the built policy; None where the spec itself names its weights."""
    sampling: Sampling = Sampling(max_actions=256, deterministic=True)
    between: str = "\n"
    """Stands between text and question."""
    batch: int = 64
    """Most questions at a time."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be >= 1, got {self.batch}")
        if not self.sampling.deterministic:
            raise ConfigError("sampling.deterministic must be True: a reward gives equal outputs equal scores")

    def solve(self, texts: Sequence[str], questions: Sequence[str]) -> list[str]:
        actor = LocalActor(_frozen(self))
        prompts = [f"{text}{self.between}{question}" for text, question in zip(texts, questions, strict=True)]
        contexts = [Context(Prompt(task, task.prompt)) for task in (Task(text, (Text(text),)) for text in prompts)]
        answers: list[str] = []
        for start in range(0, len(contexts), self.batch):
            part = contexts[start : start + self.batch]
            seeds = [fold_in(0, context.prompt.task.id) for context in part]
            acts = actor.act(part, sampling=self.sampling, seeds=seeds)
            answers += [text_of(act[0].output) for act in acts]
        return answers


@lru_cache(maxsize=4)
def _frozen(solver: PolicySolver) -> Policy:
    policy = solver.policy.build(torch.device(solver.device))
    if solver.weights is not None:
        file = solver.weights / "model.safetensors"
        if not file.is_file():
            raise CheckpointError(f"{file}: expected the weights of {type(solver.policy).__name__}, found no such file")
        try:
            policy.load_state_dict(load_file(file))
        except (RuntimeError, SafetensorError) as error:
            what = f"{file} does not hold the weights of {type(solver.policy).__name__}"
            raise CheckpointError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    return policy.requires_grad_(False).eval()


@dataclass(frozen=True, kw_only=True)
class Downstream(Reward):
    """The inner reward of what a frozen solver answers, given the policy's text and the question.

    RACRO (arXiv:2506.04559) trains a captioner this way: the caption is worth what a reasoner that never sees the image
    makes of it. The inner score is paid at the end of the policy's trajectory; an output without the tag gets 0.
    """

    solver: Solver
    inner: Reward
    tag: str = ""
    """The solver reads the content of the last ``<tag>...</tag>``; empty: the whole text."""
    question: str = ""
    """Key of ``task.info``, or column, that holds the question; empty: the text of the prompt."""

    def __post_init__(self) -> None:
        if self.inner.scope != "trajectory":
            raise ConfigError(f"inner must look at single trajectories, got {type(self.inner).__name__}")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        texts = [tagged(trajectory.text, self.tag) for trajectory in trajectories]
        asked = [i for i, text in enumerate(texts) if text is not None]
        answers = self.solver.solve([texts[i] or "" for i in asked], [self._question(trajectories[i]) for i in asked])
        if len(answers) != len(asked):
            name = type(self.solver).__name__
            raise ContractError(f"solver {name} returned {len(answers)} answers for {len(asked)} questions")
        solved = [_answered(trajectories[i].prompt, answer) for i, answer in zip(asked, answers, strict=True)]
        found = [Score(0.0, note=f"no <{self.tag}>")] * len(trajectories)
        for i, answer, score in zip(asked, answers, scores(self.inner, solved), strict=True):
            found[i] = Score(score.total, note=f"solver: {' '.join(answer.split())[:80]}")
        return found

    def _question(self, trajectory: Trajectory) -> str:
        if not self.question:
            return text_of(trajectory.prompt.content)
        question = column(trajectory.task, self.question)
        if not isinstance(question, str):
            raise DataError(f"task {trajectory.task.id!r}: info.{self.question} must be text, got {question!r}")
        return question


def _answered(prompt: Prompt, answer: str) -> Trajectory:
    return Trajectory(prompt, [forced_turn((Text(answer),), None, 1)])


@dataclass(frozen=True)
class Comparator(ABC):
    """A judge between two trajectories of one task. Pure."""

    @abstractmethod
    def compare(self, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[float]:
        """For each pair the probability, in [0, 1], that the first is better; 0.5 is a tie."""


@dataclass(frozen=True, kw_only=True)
class PairwiseJudge(Reward):
    """Mean probability of winning against the others of the group:  R_i = mean over j != i of p_ij.

    p_ij = (c(i, j) + 1 - c(j, i)) / 2 asks the comparator in both orders, so that a bias towards the first place
    cancels. A trajectory alone in its group is unscored.
    """

    scope: ClassVar[Scope] = "group"

    comparator: Comparator

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        n = len(trajectories)
        if n == 1:
            return [Score(None, note="nobody to compare with")]
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        first = dict(
            zip(pairs, compared(self.comparator, [(trajectories[i], trajectories[j]) for i, j in pairs]), strict=True)
        )
        wins = [sum(first[i, j] + 1 - first[j, i] for j in range(n) if j != i) / (2 * (n - 1)) for i in range(n)]
        return [Score(win) for win in wins]


def compared(comparator: Comparator, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[float]:
    """The comparator's verdicts, checked.

    Raises:
        ContractError: another number of verdicts than pairs, or one outside [0, 1].
    """
    verdicts = comparator.compare(pairs)
    name = type(comparator).__name__
    if len(verdicts) != len(pairs):
        raise ContractError(f"comparator {name} returned {len(verdicts)} verdicts for {len(pairs)} pairs")
    for (first, _), verdict in zip(pairs, verdicts, strict=True):
        if not 0 <= verdict <= 1:
            raise ContractError(
                f"comparator {name}, task {first.task.id!r}: expected a number in [0, 1], got {verdict}"
            )
    return verdicts
