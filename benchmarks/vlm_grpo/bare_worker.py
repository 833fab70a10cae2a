"""A hand-written loop over the same policy: what the step costs without the library's loop around it."""

from __future__ import annotations

import copy
import sys

import torch

from saccade.core.batch import pack
from saccade.core.random import fold_in
from saccade.core.trajectory import Context, Prompt, Trajectory, Turn
from saccade.learn.step import microbatches
from vlm_grpo import ours, problem
from vlm_grpo.pace import Pace


def main() -> None:
    settings = problem.load_settings(sys.argv[1])
    pace = Pace(settings.device, settings.threads)
    policy = ours.build_policy(settings)
    reference = copy.deepcopy(policy).requires_grad_(False) if settings.beta else None
    optimiser = torch.optim.AdamW(policy.parameters(), lr=problem.LR, weight_decay=0.0)
    tasks, sampling, clip = ours.tasks(settings), ours.sampling(settings), problem.CLIP
    pace.ready("torch", "transformers")

    for step in range(settings.steps):
        drawn = [tasks[step * settings.prompts + i] for i in range(settings.prompts)]
        prompts = [Prompt(task, task.prompt) for task in drawn]
        seeds = [fold_in(step, i) for i in range(settings.prompts * settings.group)]
        with policy.remember_prompts(settings.pass_size):
            answers = policy.act([Context(p) for p in prompts], n=settings.group, sampling=sampling, seeds=seeds)
        paid = torch.tensor(
            [
                problem.reward([act.output[0].text for act in acts], [task.target["answer"]] * len(acts))
                for task, acts in zip(drawn, answers, strict=True)
            ],
            device=settings.device,
        )
        advantage = (paid - paid.mean(1, keepdim=True)) / (paid.std(1, keepdim=True) + 1e-4)
        batch = pack(
            [
                [Trajectory(prompt, [Turn(act.output, act.record, act.logp, act.mask, act.segment)]) for act in acts]
                for prompt, acts in zip(prompts, answers, strict=True)
            ],
            device=settings.device,
        )
        batch.advantage = advantage.flatten()[:, None].expand_as(batch.old_logp)
        if reference is not None:
            with torch.no_grad():
                batch.ref_logp = reference.log_prob(batch).logp
        micros = list(microbatches(batch, policy, settings.pass_size, split_groups=True))
        for _ in range(settings.iterations):
            optimiser.zero_grad(set_to_none=True)
            for micro in policy.accumulate(micros):
                logp = policy.log_prob(micro).logp
                ratio = (logp - micro.old_logp).exp()
                loss = -torch.minimum(ratio * micro.advantage, ratio.clamp(1 - clip, 1 + clip) * micro.advantage)
                if micro.ref_logp is not None:
                    gap = micro.ref_logp - logp
                    loss = loss + settings.beta * (gap.exp() - gap - 1)
                (loss.sum() / batch.mask.sum()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), problem.MAX_NORM)
            optimiser.step()
        lap = pace.clock.lap()
        facts = {
            "prompt_tokens": ours.prompt_tokens(policy, prompts, settings.group),
            "completion_tokens": int(batch.mask.sum()),
        }
        pace.round_ended(lap, **facts)


if __name__ == "__main__":
    main()
