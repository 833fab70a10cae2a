"""Images with gradient through the last steps of their chains."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.denoise.families import DIFFUSION, FLOW, build, prompt
from saccade.core.errors import ConfigError
from saccade.core.policy import Sampling
from saccade.core.trajectory import Context
from saccade.policies.denoise.steps import Suffix, Window

SPECS = {
    "flow": FLOW,
    "flow, guided window": replace(FLOW, guidance=2.0, choice=Window(2, start=1), shared_noise=True),
    "flow, branches": replace(FLOW, choice=Suffix(2, most=2, tail=1), shared_noise=True),
    "diffusion": DIFFUSION,
}


@pytest.fixture(scope="module", params=SPECS, ids=lambda name: name.replace(" ", "-"))
def policy(request):
    return build(SPECS[request.param])


@pytest.mark.parametrize("keep_last", [1, 3, 5])
def test_images_are_those_of_the_rollout(policy, keep_last):
    contexts = [Context(prompt(i)) for i in range(2)]
    acts = [act for some in policy.act(contexts, n=2, sampling=Sampling(), seeds=range(4)) for act in some]
    images = policy.rsample(contexts, n=2, seeds=range(4), keep_last=keep_last)
    assert images.shape == (4, 3, 8, 8) and images.requires_grad and float(images.min().detach()) >= 0
    drawn = (images.detach() * 255).round().permute(0, 2, 3, 1).numpy().astype(int)
    assert max(np.abs(a - b.output[0].pixels).max() for a, b in zip(drawn, acts, strict=True)) <= 1


def plain(policy, context, seed, keep_last, stop=None):
    """The chain of one seed, written as a loop; the states before the last steps are constants."""
    (act,) = policy.act([context], sampling=Sampling(), seeds=[seed])[0]
    table, process, record = policy.table, policy.process, act.record
    end = table.steps if stop is None else stop
    begin = end - keep_last + (stop is not None)
    with torch.no_grad():
        x = record.states[begin][None]
    told = policy.denoiser.condition([context.prompt])
    for i in range(begin, end):
        t = table.time[i : i + 1]
        clean, noise = process.split(x, policy.denoiser.predict(x, t, told), t)
        random = bool(record.random[i])
        mean = table.mean(clean, noise, torch.tensor([i]), torch.tensor([random]))
        # What the rollout added to its own mean; the last step added nothing.
        push = (record.states[i + 1] - mean).detach() if random else 0.0
        x = mean + push
    if stop is not None:
        t = table.time[stop : stop + 1]
        x = process.split(x, policy.denoiser.predict(x, t, told), t)[0]
    return policy.denoiser.decode(x)


@pytest.mark.parametrize("keep_last, stop", [(1, None), (2, None), (5, None), (1, 3), (3, 3)])
@pytest.mark.parametrize("spec", [FLOW, DIFFUSION], ids=["flow", "diffusion"])
def test_gradients_are_those_of_a_plain_loop(spec, keep_last, stop):
    """In float64, over the whole network; the plain loop keeps all activations."""
    policy, context = build(spec).double(), Context(prompt(1))
    weight = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for images in (
        policy.rsample([context], seeds=[3], keep_last=keep_last, stop=stop),
        plain(policy, context, 3, keep_last, stop),
    ):
        policy.zero_grad()
        (weight * images).sum().backward()
        found.append((images.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-9, rtol=0)
    assert float(found[1][1].norm()) > 0
    assert float((found[0][1] - found[1][1]).norm()) <= 1e-8 * float(found[1][1].norm())


def test_network_evaluations_are_those_of_the_chain_and_of_the_backward_pass():
    """Two images of five steps, two of them with gradient: 10 rows forward, 4 of them again."""
    policy = build(FLOW)
    images = policy.rsample([Context(prompt())], n=2, seeds=[0, 1], keep_last=2)
    assert policy.denoiser.rows_predicted == 10
    images.sum().backward()
    assert policy.denoiser.rows_predicted == 14


def test_leaving_the_chain_early_costs_the_steps_up_to_there():
    policy = build(FLOW)
    policy.rsample([Context(prompt())], n=2, seeds=[0, 1], stop=2)
    assert policy.denoiser.rows_predicted == 2 * 3


@pytest.mark.parametrize("settings", [{"keep_last": 0}, {"keep_last": 6}, {"stop": 5}, {"stop": 2, "keep_last": 4}])
def test_steps_beyond_the_chain_are_refused(settings):
    with pytest.raises(ConfigError, match=r"^(keep_last|stop) must be"):
        build(FLOW).rsample([Context(prompt())], seeds=[0], **settings)
