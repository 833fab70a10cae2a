import pickle

import pytest
import torch
from test_tiny import CPU, SPEC, groups, picture, start, turn

from saccade.core.batch import pack
from saccade.core.content import Text
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.policy import PolicySpec
from saccade.core.trajectory import Observation, Trajectory
from saccade.policies.critic import TokenCritic


def critic(head=True):
    model = TokenCritic(width=32, layers=2, heads=2).build(SPEC, CPU, seed=1)
    if head:
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


def test_values_are_zero_before_the_first_update():
    values = critic(head=False)(pack(groups(SPEC.build(CPU))))
    assert bool((values.value == 0).all()) and bool((values.final == 0).all())


def test_values_lie_on_the_table_and_are_zero_outside():
    batch = pack(groups(SPEC.build(CPU)))
    values = critic()(batch)
    assert values.value.shape == batch.mask.shape and values.final.shape == (len(batch),)
    assert bool((values.value[~batch.real] == 0).all()) and bool((values.value[batch.real] != 0).all())
    values.value.sum().backward()


def test_the_value_before_an_action_does_not_know_the_action():
    """Two trajectories that differ in their second word: the first two states are equal, the later ones are not."""
    policy, model, prompt = SPEC.build(CPU), critic(), start(picture(0), Text("read"))
    batch = pack([[Trajectory(prompt, [turn(policy, f"red {word}")]) for word in ("blue", "green")]])
    values = model(batch)
    torch.testing.assert_close(values.value[0, :2], values.value[1, :2])
    assert abs((values.value[0, 2] - values.value[1, 2]).item()) > 1e-6
    assert abs((values.final[0] - values.final[1]).item()) > 1e-6


def test_states_do_not_know_later_observations():
    policy, model, prompt = SPEC.build(CPU), critic(), start(Text("read"))
    told = [Observation((Text(word),)) for word in ("blue", "green")]
    batch = pack([[Trajectory(prompt, [turn(policy, "red", seen), turn(policy, "7")]) for seen in told]])
    values = model(batch).value
    torch.testing.assert_close(values[0, :2], values[1, :2])
    assert abs((values[0, 2] - values[1, 2]).item()) > 1e-6


def test_the_value_after_the_last_action_sees_what_was_shown_then():
    policy, model, prompt = SPEC.build(CPU), critic(), start(Text("read"))
    shown = Observation((Text("look"), picture(1)))
    batch = pack([[Trajectory(prompt, [turn(policy, "red")]), Trajectory(prompt, [turn(policy, "red")], final=shown)]])
    values = model(batch)
    torch.testing.assert_close(values.value[0], values.value[1])
    assert abs((values.final[0] - values.final[1]).item()) > 1e-6


def test_values_do_not_depend_on_batch_neighbours():
    batch, model = pack(groups(SPEC.build(CPU), keep=1)), critic()
    together = model(batch)
    for i in range(len(batch)):
        alone = model(batch.take(torch.tensor([i])))
        torch.testing.assert_close(alone.value[0], together.value[i, : alone.value.shape[1]], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.final[0], together.final[i], atol=1e-5, rtol=0)


def test_untrained_actions_have_values_too():
    batch = pack(groups(SPEC.build(CPU)))
    masked = pack(groups(SPEC.build(CPU)))
    masked.mask.zero_()
    torch.testing.assert_close(critic()(masked).value, critic()(batch).value)


def test_a_critic_learns_returns():
    """One regression target per colour named in the prompt."""
    policy, model = SPEC.build(CPU), critic(head=False)
    words = ["red", "green", "blue", "yellow"]
    batch = pack([[Trajectory(start(Text(word), name=word), [turn(policy, "7")])] for word in words])
    target = torch.arange(4.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = ((model(batch).value[:, 0] - target) ** 2).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


def test_specs_are_checked_and_picklable():
    spec = TokenCritic(width=32, layers=1, heads=2)
    assert pickle.loads(pickle.dumps(spec)) == spec
    with pytest.raises(ConfigError, match="width"):
        TokenCritic(width=30)

    class Other(PolicySpec):
        def build(self, device, seed=0):
            raise NotImplementedError

    with pytest.raises(CapabilityError, match="Other"):
        spec.build(Other(), CPU)
