"""Denoising policies that pass through the battery, small enough to draw and score in milliseconds."""

from dataclasses import replace
from typing import Any

import torch

from saccade.core.content import Text
from saccade.core.policy import Sampling
from saccade.core.random import torch_generator
from saccade.core.trajectory import Context, Prompt, Task, Trajectory, Turn
from saccade.policies.denoise.noise import Diffusion
from saccade.policies.denoise.steps import CPS, DDIM, DanceSDE, EveryStep, FlowSDE, RandomSteps, Suffix, Window
from saccade.policies.denoise.surrogate import ChainTimes, GeneralisedHuber, Surrogate
from saccade.policies.denoise.tiny import TinyDiffusion, TinyFlow, UNet

NET = UNet(side=8, channels=(16, 16, 16), embedding=16)
FLOW = TinyFlow(net=NET, sampler=FlowSDE(5), eval_steps=3)
DIFFUSION = TinyDiffusion(net=NET, sampler=DDIM(5), eval_steps=3)

CHAINS = {
    "flow": FLOW,
    "flow, guided, both gradients": replace(FLOW, guidance=3.0, guidance_gradient="both"),
    "flow, guided window, shared noise": replace(
        FLOW, sampler=DanceSDE(5), choice=Window(2, start=1), guidance=3.0, shared_noise=True
    ),
    "flow, random steps, sum": replace(
        FLOW, sampler=CPS(6), choice=RandomSteps(count=2), likelihood=replace(FLOW.likelihood, reduce="sum")
    ),
    "diffusion": DIFFUSION,
    "diffusion, branches, kept halves": replace(
        DIFFUSION,
        process=Diffusion(schedule="scaled_linear", spacing="leading", offset=1, to_one=False),
        choice=Suffix(2, most=3),
        shared_noise=True,
        guidance=2.0,
        reuse_unconditional=True,
    ),
    "diffusion, image, clipped": replace(
        DIFFUSION, process=Diffusion(prediction="sample", clip=1.0), choice=EveryStep(2), rows=3
    ),
}
SURROGATES = {
    "flow, surrogate": replace(FLOW, likelihood=Surrogate(draws=3, behaviour=True)),
    "diffusion, surrogate, own draws": replace(
        DIFFUSION,
        likelihood=Surrogate(
            draws=2, times=ChainTimes(1, 1), weighting=GeneralisedHuber(), shared=False, behaviour=True
        ),
    ),
    "flow, surrogate, blank captions": replace(FLOW, likelihood=Surrogate(draws=4, behaviour=True, dropout=0.5)),
}
CAPTIONS = ("one red circle", "two blue square", "circle", "one red circle left blue square")


def build(spec, seed=1) -> Any:
    """The policy with weights large enough for captions and every part of the network to matter."""
    policy = spec.build(torch.device("cpu"), seed=seed)
    generator = torch_generator(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "leave.2.weight" in name:
                parameter.normal_(std=0.15, generator=generator)
    return policy.eval()


def prompt(i=0):
    content = (Text(CAPTIONS[i % len(CAPTIONS)]),)
    return Prompt(Task(f"task-{i}", content), content)


def turn(act):
    return Turn(act.output, act.record, act.logp, act.mask, act.segment)


def rollout(policy, prompts=3, n=2, seed=0, **sampling):
    """Groups of n trajectories of different prompts, drawn together."""
    starts = [prompt(i) for i in range(prompts)]
    seeds = [1000 * seed + i for i in range(prompts * n)]
    acts = policy.act([Context(start) for start in starts], n=n, sampling=Sampling(**sampling), seeds=seeds)
    return [[Trajectory(s, [turn(act)]) for act in some] for s, some in zip(starts, acts, strict=True)]
