"""The same problem for Saccade: policy, recipe, tasks."""

from __future__ import annotations

from pathlib import Path

import torch

from saccade.advantages.group import GroupNorm
from saccade.core.objective import Objective
from saccade.core.policy import Sampling
from saccade.core.trajectory import Prompt
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.envs.single import SingleTurn
from saccade.feeds.curriculum import Sequential
from saccade.feeds.on_policy import OnPolicy
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regularise import KLToReference
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy
from saccade.recipe import Recipe, Train
from saccade.rewards.user import UserFunction
from vlm_grpo import problem

ADVANTAGE = GroupNorm(eps=1e-4, ddof=1)
"""TRL's convention: the sample standard deviation of the group, plus 1e-4."""


def spec(settings: problem.Settings) -> HFVisionLanguage:
    return HFVisionLanguage(settings.folder, dtype=settings.dtype, prefix=settings.prefix, autocast=settings.bf16)


def build_policy(settings: problem.Settings) -> HFVisionLanguagePolicy:
    """The policy of the folder. No token ends a turn, so that all completions have full length, as the peer's have."""
    policy = spec(settings).build(torch.device(settings.device))
    policy.ends = frozenset()
    return policy


def sampling(settings: problem.Settings) -> Sampling:
    return Sampling(max_actions=settings.completion, temperature=problem.TEMPERATURE)


def tasks(settings: problem.Settings) -> JsonlTasks:
    return JsonlTasks(str(settings.tasks), held_out=0.0)


def reward() -> UserFunction:
    return UserFunction(path=str(Path(problem.__file__)), name="reward")


def objective(settings: problem.Settings) -> dict[str, Objective]:
    terms: dict[str, Objective] = {"pg": PPOClip(low=problem.CLIP, high=problem.CLIP)}
    if settings.beta:
        terms["kl"] = KLToReference(coef=settings.beta, estimator="k3")
    return terms


def recipe(settings: problem.Settings) -> Recipe:
    """GRPO as TRL's defaults have it: every token counts equally; the pictures of round i are those of its round i."""
    return Recipe(
        policy=spec(settings),
        env=SingleTurn(tasks(settings)),
        rewards={"reward": reward()},
        advantage=ADVANTAGE,
        average="action",
        objective=objective(settings),
        feed=OnPolicy(sampling=sampling(settings), order=Sequential()),
        train=Train(
            steps=settings.steps,
            groups=settings.prompts,
            group_size=settings.group,
            epochs=settings.iterations,
            micro_size=settings.pass_size,
            lr=problem.LR,
            max_grad_norm=problem.MAX_NORM,
        ),
    )


def prompt_tokens(policy: HFVisionLanguagePolicy, prompts: list[Prompt], group: int) -> int:
    """Prompt positions of a batch, counted once for each trajectory."""
    return group * sum(len(policy.reader.prompt(prompt.content).ids) for prompt in prompts)
