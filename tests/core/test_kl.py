"""Estimators of divergence from sampled actions."""

import math

import pytest
import torch

from saccade.core.kl import K1, K2, K3


def test_estimates_of_one_action():
    """d = -1 - -1.5 = 0.5."""
    logp, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert K1()(logp, reference).item() == pytest.approx(0.5)
    assert K2()(logp, reference).item() == pytest.approx(0.125)
    assert K3()(logp, reference).item() == pytest.approx(math.exp(-0.5) - 0.5)


def test_low_variance_estimate_is_clamped_at_ten():
    """d = -10 would give e^10 - 11, d = -1000 would overflow; d = 999 is clamped to 20 and then to 10."""
    far = K3()(torch.tensor([-11.0, -1000.0, -1.0]), torch.tensor([-1.0, 0.0, -1000.0]))
    torch.testing.assert_close(far, torch.tensor([10.0, 10.0, 10.0]))


def test_equal_policies_are_at_distance_zero():
    logp = torch.tensor([-1.0, -0.1])
    for estimator in (K1(), K2(), K3()):
        assert not estimator(logp, logp).any()


def test_low_variance_estimate_keeps_its_precision_for_small_differences():
    """d = 1e-3: d^2 / 2 - d^3 / 6, where exp(-d) - 1 + d in float32 would keep two digits."""
    found = K3()(torch.tensor([1e-3]), torch.tensor([0.0])).item()
    assert found == pytest.approx(1e-6 / 2 - 1e-9 / 6, rel=1e-3)
