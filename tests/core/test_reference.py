"""References that follow the policy."""

import pytest
import torch
from torch import nn

from saccade.core.errors import ConfigError
from saccade.core.policy import Policy
from saccade.core.reference import EMA, SlowingEMA


class Weight(Policy):
    """One number; it never acts."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.register_buffer("count", torch.tensor(value))

    def unasked(self, *args, **settings):
        raise AssertionError("references only look at weights here")

    act = log_prob = encode = size = save_pretrained = unasked


def test_average_moves_by_one_minus_its_decay():
    reference, policy = Weight(0.0), Weight(1.0)
    EMA(decay=0.75).follow(reference, policy, 1)
    assert reference.weight.item() == 0.25 and reference.count.item() == 1.0
    EMA(decay=0.75, every=2).follow(reference, policy, 3)
    assert reference.weight.item() == 0.25


def test_slowing_average_is_the_policy_at_first():
    """Decays 0 * 0.1, then 0.1 n up to 0.3: from 0 towards 1 the rest shrinks by 0.1, 0.2, 0.3, 0.3."""
    reference, policy = Weight(0.0), Weight(1.0)
    rule = SlowingEMA(slope=0.1, most=0.3)
    rest = 1.0
    for step, decay in enumerate((0.1, 0.2, 0.3, 0.3), start=1):
        rule.follow(reference, policy, step)
        rest *= decay
        assert 1 - reference.weight.item() == pytest.approx(rest, rel=1e-4)
    assert not any(p.grad_fn for p in reference.parameters())


@pytest.mark.parametrize("make", [lambda: SlowingEMA(slope=-1.0), lambda: SlowingEMA(most=1.5), lambda: EMA(decay=2.0)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match="reference needs"):
        make()
