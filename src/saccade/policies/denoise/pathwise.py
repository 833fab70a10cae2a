"""Images as differentiable functions of the weights, through the last steps of their chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from saccade.core.errors import ConfigError
from saccade.policies.denoise.chain import Chain, NoiseSource, Plan, run
from saccade.policies.denoise.denoiser import Predictor
from saccade.policies.denoise.noise import Process, upcast
from saccade.policies.denoise.steps import Table


def last_steps(
    predictor: Predictor,
    process: Process,
    table: Table,
    plan: Plan,
    shape: Sequence[int],
    like: Tensor,
    *,
    keep_last: int,
    stop: int | None,
) -> Float[Tensor, "N *latent"]:
    """Final latents of a plan, with gradient through the last ``keep_last`` network evaluations.

    Args:
        predictor: the guided network.
        process: what it was trained on.
        table: the sampler's numbers.
        plan: what is to be drawn.
        shape: of a latent.
        like: device and dtype of states.
        keep_last: evaluations with gradient; each is computed again in the backward pass.
        stop: step at which the predicted image is taken; None goes on to the end.
    """
    evaluations = table.steps if stop is None else stop + 1
    if stop is not None and not 0 <= stop < table.steps:
        raise ConfigError(f"stop must be a step in [0, {table.steps}), got {stop}")
    if not 1 <= keep_last <= evaluations:
        raise ConfigError(f"keep_last must be in [1, {evaluations}], got {keep_last}")
    noise = NoiseSource(plan, shape)
    begin = evaluations - keep_last
    x = run(predictor, process, table, Chain(), plan, shape, like, noise=noise, end=begin).final
    member = torch.arange(len(plan.seeds))
    prompt = plan.prompt[member // plan.n]
    # Nothing random happens in the network: noise is drawn outside of what is computed twice.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}

    def split(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        t = table.time[i].expand(len(x)).to(x.device)
        prediction, _ = predictor(x, t, prompt)
        return process.split(upcast(x), prediction, t)

    def step(x: Tensor, i: int, random: Tensor, push: Tensor) -> Tensor:
        clean, rest = split(x, i)
        mean = table.mean(clean, rest, torch.full((len(x),), i), random)
        return (mean + table.std[i].to(mean) * push.to(mean)).to(like.dtype)

    for i in range(begin, evaluations):
        if i == stop:
            predicted: Any = checkpoint(lambda state, i=i: split(state, i)[0].to(like.dtype), x, **options)
            return predicted
        kinds = noise.kinds(table, i)
        random = torch.tensor([kind != "still" for kind in kinds])[member // plan.n]
        push = torch.zeros(len(x), *shape)
        if bool(random.any()):
            push[random] = noise.draw(kinds, member[random])
        x = checkpoint(step, x, i, random, push.to(like.device), **options)
    return x
