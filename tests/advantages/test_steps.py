"""Advantages of turns: by hand, and against loops in plain floats written from TGRPO's equations."""

import math

import pytest
import torch

from formulas import rows, step_norm
from saccade.advantages.group import GroupNorm
from saccade.advantages.steps import Mixed, StepNorm
from saccade.advantages.temporal import GAE
from saccade.core.batch import pack
from saccade.core.errors import ConfigError
from saccade.core.reward import Score
from tables import padded, prompt, random_batch, trajectory


def paid(*members, actions=1):
    """A group whose members are paid so much in each turn; each turn has so many actions."""
    shared = prompt()
    return pack(
        [
            [
                trajectory(
                    shared, *[[-1.0] * actions for _ in pay], scores={"r": Score(0.0, dict(enumerate(map(float, pay))))}
                )
                for pay in members
            ]
        ]
    )


def test_step_level_by_hand():
    """Turn 0 pays 1, 2, 3: mean 2, std with n - 1 is 1, so -1, 0, 1. Turn 1 pays 4, 4, 1: mean 3, std sqrt 3.

    (4 - 3) / sqrt 3 = 0.57735, (1 - 3) / sqrt 3 = -1.15470
    """
    found = StepNorm(eps=1e-9)(paid((1, 4), (2, 4), (3, 1)))
    expected = torch.tensor([[-1, 0.57735], [0, 0.57735], [1, -1.15470]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_returns_instead_of_rewards_by_hand():
    """What is still to come: 5, 6, 4 at turn 0, 4, 4, 1 at turn 1. Mean 5, std 1: 0, 1, -1."""
    found = StepNorm(of="return", eps=1e-9)(paid((1, 4), (2, 4), (3, 1)))
    expected = torch.tensor([[0, 0.57735], [1, 0.57735], [-1, -1.15470]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_all_actions_of_a_turn_share_its_advantage():
    wide, narrow = StepNorm()(paid((1, 4), (2, 4), actions=3)), StepNorm()(paid((1, 4), (2, 4)))
    torch.testing.assert_close(wide, narrow.repeat_interleave(3, 1))


def test_fusion_by_hand():
    """Outcomes 5, 6, 4: mean 5, std 1: trajectory level 0, 1, -1. Fused: 0.3 step + 0.7 trajectory.

    Turn 0: -0.3, 0.7, 0.3 - 0.7 = -0.4. Turn 1: 0.3 * 0.57735 = 0.17321, 0.87321, -0.34641 - 0.7 = -1.04641.
    """
    fused = Mixed(StepNorm(eps=1e-9), GroupNorm(eps=1e-9, ddof=1))(paid((1, 4), (2, 4), (3, 1)))
    expected = torch.tensor([[-0.3, 0.17321], [0.7, 0.87321], [-0.4, -1.04641]])
    torch.testing.assert_close(fused, expected, atol=1e-4, rtol=0)


def test_where_all_are_paid_alike_at_every_turn_only_the_trajectory_level_is_left():
    """Equal pay a turn, but one member has a turn more: step level 0, so fusion is 0.7 of plain GRPO's advantage."""
    batch = paid((0.1, 0.1), (0.1, 0.1), (0.1, 0.1, 0.1))
    assert not StepNorm()(batch).any()
    torch.testing.assert_close(Mixed()(batch), 0.7 * GroupNorm(ddof=1)(batch))


def test_members_that_have_ended_are_not_compared_with():
    """Turn 1 is that of two members: 4 and 2 give +-1 / sqrt 2, whatever the third one was paid before."""
    found = StepNorm(eps=1e-9)(paid((1, 4), (2, 2), (9,)))
    torch.testing.assert_close(found[:2, 1], torch.tensor([1, -1]) / math.sqrt(2), atol=1e-4, rtol=0)


def test_a_member_alone_in_its_turn_gets_nothing():
    found = StepNorm()(paid((1, 4, 7), (2, 4)))
    assert float(found[0, 2]) == 0.0 and bool(torch.isfinite(found).all())
    assert not StepNorm()(paid((1, 2, 3))).any()


def expected_table(batch, of, eps, ddof):
    expected = torch.zeros_like(batch.old_logp)
    for i, line in enumerate(step_norm(rows(batch), of, eps, ddof)):
        expected[i, : len(line)] = torch.tensor(line, dtype=torch.float64)
    return expected


@pytest.mark.parametrize("of", ["reward", "return"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_step_level_equals_its_equation(seed, ddof, of):
    batch = random_batch(seed, sizes=[(3, 1, 4), (2, 5), (1,), (6, 6, 2, 3)][seed], greedy=True)
    found = StepNorm(of, 1e-3, ddof)(batch)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected_table(batch, of, 1e-3, ddof), rtol=1e-9, atol=1e-9)


def test_amount_of_padding_does_not_matter():
    batch = random_batch(0, (3, 4))
    found = StepNorm()(padded(batch, 3, 7.0))
    assert not found[:, batch.mask.shape[1] :].any()
    torch.testing.assert_close(found[:, : batch.mask.shape[1]], StepNorm()(batch))


def test_fusion_asks_for_what_its_parts_ask_for():
    assert Mixed(trajectory=GAE()).requires == {"value"} and Mixed().requires == frozenset()


@pytest.mark.parametrize("settings", [{"eps": 0.0}, {"ddof": 2}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        StepNorm(**settings)
