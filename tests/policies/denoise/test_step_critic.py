"""Values of the states of denoising chains."""

import pytest
import torch

from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Prompt, Task
from saccade.envs.datasets.shapes import ShapeScenes
from saccade.envs.single import SingleTurn
from saccade.policies.denoise.critic import StepCritic
from saccade.policies.denoise.steps import DDIM, EveryStep
from saccade.policies.denoise.surrogate import Surrogate
from saccade.policies.denoise.tiny import TinyDiffusion, UNet
from saccade.policies.token.tiny import TinyVLM
from saccade.rollout.lockstep import rollout

CPU = torch.device("cpu")
ENV = SingleTurn(ShapeScenes(kinds=("colour",)))


def drawn(tasks, **settings):
    spec = TinyDiffusion(net=UNet(channels=(8, 8, 8)), sampler=DDIM(4), choice=EveryStep(1), **settings)
    policy = spec.build(CPU, 0)
    groups = rollout(LocalActor(policy), ENV, tasks, group_size=2, sampling=Sampling(), seeds=range(len(tasks)))
    return spec, pack(groups)


def trained(spec):
    """A critic whose head is no longer zero."""
    critic = StepCritic(width=16).build(spec, CPU, seed=3)
    with torch.no_grad():
        critic.head.weight.fill_(0.5)
    return critic


def test_values_are_zero_before_the_first_update_and_stand_where_states_were_recorded():
    spec, batch = drawn(ENV.tasks[:2])
    assert not StepCritic().build(spec, CPU)(batch).value.any()
    values = trained(spec)(batch)
    assert values.value.shape == batch.mask.shape
    assert (values.value[batch.mask] != 0).all() and not values.value[~batch.mask].any()
    assert not values.final.any()


def test_value_depends_on_state_caption_and_step():
    spec, batch = drawn(ENV.tasks[:2])
    critic = trained(spec)
    value = critic(batch).value
    assert len(set(value[batch.mask].tolist())) == int(batch.mask.sum())
    record = batch.trajectories[0].turns[0].record
    record.states = record.states[:1].expand_as(record.states)
    still = critic(batch).value[0]
    assert len(set(still[batch.mask[0]].tolist())) == int(batch.mask[0].sum()), "the step is told"
    torch.testing.assert_close(still[0], value[0, 0])
    prompt = batch.prompts[0]
    batch.prompts[0] = Prompt(prompt.task, (Text("three blue triangle"),))
    assert critic(batch).value[0, 0] != still[0]


def test_rows_do_not_depend_on_their_neighbours():
    spec, batch = drawn(ENV.tasks[:3])
    critic = trained(spec)
    torch.testing.assert_close(critic(batch.take(torch.tensor([2, 3]))).value, critic(batch).value[2:4])


def test_it_learns_what_it_is_told():
    spec, batch = drawn(ENV.tasks[:2])
    critic = StepCritic(width=32).build(spec, CPU)
    target = torch.where(batch.mask, torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None], 0.0)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(60):
        loss = ((critic(batch).value - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


def test_what_does_not_fit_is_refused_in_one_line():
    spec, batch = drawn(ENV.tasks[:1])
    with pytest.raises(CapabilityError, match="denoising chains, not of TinyVLM"):
        StepCritic().build(TinyVLM(), CPU)
    with pytest.raises(ConfigError, match="channels must be 3, the latent's, got 4"):
        StepCritic(channels=4).build(spec, CPU)(batch)
    other, surrogate = drawn(ENV.tasks[:1], likelihood=Surrogate(draws=2))
    with pytest.raises(CapabilityError, match="needs the states of a chain"):
        StepCritic().build(other, CPU)(surrogate)
    with pytest.raises(ConfigError, match="must be >= 1"):
        StepCritic(width=0)


def test_a_prompt_without_words_has_a_value_too():
    spec, batch = drawn(ENV.tasks[:1])
    batch.prompts[0] = Prompt(Task("t", ()), ())
    assert torch.isfinite(trained(spec)(batch).value).all()
