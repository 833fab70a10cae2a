"""Scatter arithmetic on the table against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core.segments import (
    group_argmax,
    group_argmin,
    group_count,
    group_max,
    group_mean,
    group_std,
    group_sum,
    last_action,
    last_of_turn,
    per_turn,
    reverse_cumsum,
    spread_turns,
)

seeds = st.integers(0, 2**32 - 1)


def draw(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(1, 5))
    group = np.repeat(np.arange(len(sizes)), sizes)
    return rng.integers(-4, 5, size=len(group)) / 4, group, rng.random(len(group)) < 0.7


@settings(max_examples=30)
@given(seed=seeds)
def test_group_reductions_equal_numpy(seed):
    x, group, valid = draw(seed)
    tx, tg, tv = torch.from_numpy(x), torch.from_numpy(group), torch.from_numpy(valid)
    for g in range(group.max() + 1):
        members, kept = x[group == g], x[(group == g) & valid]
        first = int(np.argmax(group == g))
        assert group_sum(tx, tg)[g].item() == pytest.approx(members.sum())
        assert group_count(tg)[g].item() == len(members)
        assert group_count(tg, tv)[g].item() == len(kept)
        assert group_mean(tx, tg)[first].item() == pytest.approx(members.mean())
        assert group_mean(tx, tg, tv)[first].item() == pytest.approx(kept.mean() if len(kept) else 0.0)
        for ddof in (0, 1):
            expected = kept.std(ddof=ddof) if len(kept) > ddof else 0.0
            assert group_std(tx, tg, ddof, tv)[first].item() == pytest.approx(expected, abs=1e-12)
        assert group_max(tx, tg)[first].item() == members.max()
        assert group_argmax(tx, tg)[g].item() == first + np.argmax(members)
        assert group_argmin(tx, tg)[g].item() == first + np.argmin(members)


def test_infinite_values_may_stand_for_members_left_out():
    x = torch.tensor([-torch.inf, 1.0, -torch.inf, -torch.inf])
    group = torch.tensor([0, 0, 1, 1])
    assert group_argmax(x, group).tolist() == [1, 2]


TURN = torch.tensor([[0, 0, 1, 3], [0, -1, -1, -1]])


def test_last_actions():
    assert last_action(TURN).tolist() == [[False, False, False, True], [True, False, False, False]]
    assert last_of_turn(TURN).tolist() == [[False, True, True, True], [True, False, False, False]]


def test_sums_per_turn_and_back():
    """Turn 2 of the first row has no actions; what stands at padding is ignored."""
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 9.0, 9.0, 9.0]])
    sums = per_turn(x, TURN)
    assert sums.tolist() == [[3.0, 4.0, 0.0, 8.0], [16.0, 0.0, 0.0, 0.0]]
    assert spread_turns(sums, TURN).tolist() == [[3.0, 3.0, 4.0, 8.0], [16.0, 0.0, 0.0, 0.0]]


def test_reverse_cumsum():
    assert reverse_cumsum(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[7.0, 6.0, 4.0]]
