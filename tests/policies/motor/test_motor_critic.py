from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.motor.rooms import CPU, HEADS, build, packed, rollout, seen
from saccade.core.errors import CapabilityError, ConfigError
from saccade.core.trajectory import Observation
from saccade.policies.motor.critic import MotorCritic
from saccade.policies.token.tiny import TinyVLM


def critic(spec, head=True):
    model = MotorCritic(width=16).build(spec, CPU, seed=2)
    if head:
        torch.nn.init.normal_(model.value.weight, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture(params=HEADS, ids=lambda name: name.replace(" ", "-"))
def spec(request):
    return HEADS[request.param]


def test_values_are_zero_before_the_first_update(spec):
    values = critic(spec, head=False)(packed(rollout(build(spec))))
    assert not values.value.any() and not values.final.any()


def test_a_turn_has_one_value_at_all_of_its_actions(spec):
    batch = packed(rollout(build(spec)))
    values = critic(spec)(batch)
    assert values.value.shape == batch.mask.shape and values.final.shape == (len(batch),)
    assert not values.value[~batch.real].any()
    for row, turn in zip(values.value.detach(), batch.turn, strict=True):
        seen_values = [row[turn == k].unique() for k in range(int(turn.max()) + 1)]
        assert all(len(v) == 1 and float(v) != 0 for v in seen_values)
        assert len(torch.cat(seen_values).unique()) == len(seen_values)
    values.value.sum().backward()


def test_values_do_not_depend_on_neighbours_or_on_the_policy():
    spec = HEADS["gaussian"]
    groups, model = rollout(build(spec)), critic(spec)
    whole = model(packed(groups))
    row = 0
    for group in groups:
        for trajectory in group:
            alone = model(packed([[trajectory]]))
            torch.testing.assert_close(alone.value[0], whole.value[row, : alone.value.shape[1]])
            torch.testing.assert_close(alone.final[0], whole.final[row])
            row += 1


def test_the_last_value_is_that_of_the_turn_that_would_have_come_next():
    """An episode of three turns whose last observation is known, and the same episode cut off after two."""
    spec = HEADS["gaussian"]
    model = critic(spec)
    long = rollout(build(spec), turns=3, sizes=(1,))[0][0]
    short = replace(long, turns=list(long.turns[:2]), final=long.turns[1].observation)
    short.turns[1] = replace(short.turns[1], observation=None)
    values = model(packed([[long], [short]]))
    start_of_third = 2 * spec.chunk
    torch.testing.assert_close(values.final[1], values.value[0, start_of_third])
    assert short.turns[1].observation is None


def test_nothing_follows_an_episode_that_ended():
    spec = HEADS["gaussian"]
    one = rollout(build(spec), sizes=(1,))[0][0]
    ended, blind = replace(one, stop="done"), replace(one, final=None)
    values = critic(spec)(packed([[one], [ended], [blind]]))
    assert values.final[0].item() != 0 and values.final[1:].tolist() == [0.0, 0.0]
    torch.testing.assert_close(values.value[0], values.value[1])


def test_what_was_shown_last_is_seen():
    spec = HEADS["gaussian"]
    one = rollout(build(spec), sizes=(1,))[0][0]
    other = replace(one, final=Observation(seen(4321)))
    values = critic(spec)(packed([[one], [other]]))
    assert abs((values.final[0] - values.final[1]).item()) > 1e-6


def test_it_learns_to_tell_states_apart():
    """Regression on 1 for one prompt and -1 for another, from what is seen at the first turn."""
    spec = HEADS["categorical"]
    groups = rollout(build(spec), turns=1, sizes=(1, 1, 1, 1))
    batch, model = packed(groups), critic(spec, head=False)
    target = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = ((model(batch).value - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


def test_units_of_demonstrations_can_be_fitted():
    spec = HEADS["gaussian"]
    model, rng = critic(spec), np.random.default_rng(0)
    model.fit(rng.normal(size=(50, 3)), states=rng.normal(size=(50, 3)))
    assert float(model.trunk.commands.low.max()) < -1 and float(model.trunk.states.low.max()) < -1
    model.fit(rng.normal(size=(50, 3)))


def test_other_policies_and_sizes_are_refused():
    with pytest.raises(CapabilityError, match="MotorCritic sees what TinyVLA sees, not what TinyVLM"):
        MotorCritic().build(TinyVLM(), CPU)
    with pytest.raises(ConfigError, match=r"critic.width"):
        MotorCritic(width=0)
