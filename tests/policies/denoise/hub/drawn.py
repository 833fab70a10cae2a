"""Captions, and trajectories that a policy drew for them."""

from typing import Any

import torch

from saccade.core.batch import Batch, pack
from saccade.core.content import Text
from saccade.core.policy import Act, Sampling
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn

CAPTIONS = ("one red circle", "two blue squares", "a star")


def prompt(i: int) -> Prompt:
    content = (Text(CAPTIONS[i]),)
    return Prompt(Task(f"task-{i}", content), content)


def drawn(policy: Any, prompts: int = 2, n: int = 2, **sampling: Any) -> list[list[Act]]:
    contexts = [Context(prompt(i)) for i in range(prompts)]
    return policy.act(contexts, n=n, sampling=Sampling(**sampling), seeds=range(prompts * n))


def rolled_out(policy: Any, prompts: int = 2, n: int = 2) -> Batch:
    groups = []
    for i, acts in enumerate(drawn(policy, prompts, n)):
        start = prompt(i)
        groups.append([Trajectory(start, [Turn(a.output, a.record, a.logp, a.mask, a.segment)]) for a in acts])
    return pack(groups)


def stirred(policy: Any, amount: float = 0.1) -> Any:
    """The policy with adapters that do something: fresh ones multiply by zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data += amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return policy
