"""The library's own loop, one step a round."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from saccade.core.batch import Batch
from saccade.core.feed import Problem
from saccade.core.policy import Actor
from saccade.core.state import TrainState
from saccade.core.trajectory import Group
from saccade.envs.datasets.jsonl import JsonlTasks
from saccade.feeds.on_policy import OnPolicy
from saccade.learn.loop import Run, train
from saccade.policies.token.hf_policy import HFVisionLanguagePolicy
from saccade.recipe import Recipe
from saccade.rewards.user import UserFunction
from vlm_grpo import ours, problem
from vlm_grpo.pace import Clock, Pace


@dataclass(eq=False)
class TimedFeed(OnPolicy):
    """The feed of the recipe, its time booked."""

    clock: ClassVar[Clock]

    def stream(self, problem: Problem, actor: Actor, state: TrainState) -> Iterator[list[Group]]:
        groups = super().stream(problem, actor, state)
        while True:
            with self.clock.phase("rollout"):
                found = next(groups)
            yield found


class Turns:
    """An observer that pauses the loop: a round is all that lies between two calls of it."""

    def __init__(self, settings: problem.Settings, pace: Pace, policy: HFVisionLanguagePolicy) -> None:
        self.settings, self.pace, self.policy = settings, pace, policy

    def start(self, state: TrainState, recipe: Recipe) -> None:
        clock, policy = self.pace.clock, self.policy
        TimedFeed.clock = clock
        JsonlTasks.task = clock.timed("data", JsonlTasks.task)
        UserFunction.__call__ = clock.timed("reward", UserFunction.__call__)
        policy.act = clock.timed("act", policy.act)
        policy.reader.prompt = clock.timed("processor", policy.reader.prompt)
        policy.family.features = clock.timed("vision", policy.family.features)
        policy.log_prob = clock.timed("learn/log_prob", policy.log_prob)
        if state.reference is not None:
            state.reference.log_prob = clock.timed("learn/reference", state.reference.log_prob)
        torch.autograd.backward = clock.timed("learn/backward", torch.autograd.backward)
        clock.time_optimiser(state.optimiser, "learn/optimizer")
        self.pace.ready("saccade", "torch", "transformers")

    def step(self, state: TrainState, batch: Batch, record: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        lap = self.pace.clock.lap()
        rollout = lap["phases"]["rollout"]
        lap["phases"]["learn"] = {"wall": seconds["learn"], "cpu": lap["cpu"] - rollout["cpu"], "calls": 1}
        facts = {
            "prompt_tokens": ours.prompt_tokens(self.policy, batch.prompts, self.settings.group),
            "completion_tokens": int(batch.mask.sum()),
        }
        self.pace.round_ended(lap, **facts)

    def finish(self, state: TrainState) -> None:
        return


def main() -> None:
    settings = problem.load_settings(sys.argv[1])
    pace = Pace(settings.device, settings.threads)
    policy = ours.build_policy(settings)
    turns = Turns(settings, pace, policy)
    recipe = ours.recipe(settings)
    recipe = replace(recipe, feed=TimedFeed(sampling=recipe.feed.sampling, order=recipe.feed.order))
    train(recipe, Run(device=torch.device(settings.device), observers=[turns]), policy)


if __name__ == "__main__":
    main()
