"""Objectives restricted to the actions of one segment."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

import tables
from saccade.core.batch import finish, pack
from saccade.core.errors import ConfigError
from saccade.core.policy import LogProbs
from saccade.objectives.preference import DPO, RPO
from saccade.objectives.regression import NLL
from saccade.objectives.segment import InSegment


def batch():
    """A pair: the winner has three actions, of segments 0, 1, 1, the loser two of segments 0, 1."""
    shared = tables.prompt()
    winner = tables.trajectory(shared, [-1.0, -1.0, -1.0], scores={"r": 1.0})
    loser = tables.trajectory(shared, [-1.0, -1.0], scores={"r": 0.0})
    winner.turns[0].segment = torch.tensor([0, 1, 1])
    loser.turns[0].segment = torch.tensor([0, 1])
    return replace(finish(pack([[winner, loser]]), "action"), ref_logp=torch.zeros(2, 3))


def outputs():
    return LogProbs(torch.tensor([[-7.0, -0.5, -1.5], [-9.0, -3.0, 0.0]], requires_grad=True))


def test_dpo_with_cross_entropy_sees_the_picture_alone():
    """beta (D_w - D_l) = 0.2 ((-0.5 - 1.5) - (-3)) = 0.2;  l_w / n_w = -1:  L = -log sigma(0.2) + 0.5 * 1."""
    out = outputs()
    loss = InSegment(RPO(beta=0.2, alpha=0.5), segment=1)(batch(), out)
    expected = -logsigmoid(torch.tensor(0.2)) + 0.5
    assert loss.value.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.value.backward()
    seen = out.logp.grad != 0
    assert seen.tolist() == [[False, True, True], [False, True, False]]


def test_means_over_actions_of_all_segments_add_up_to_the_whole():
    """(7 + 0.5 + 1.5 + 9 + 3) / 5 = 4.2, of which the part of pictures is (0.5 + 1.5 + 3) / 5 = 1."""
    whole = NLL()(batch(), outputs()).value.item()
    parts = [InSegment(NLL(), segment=s)(batch(), outputs()).value.item() for s in (0, 1)]
    assert whole == pytest.approx(4.2)
    assert parts == pytest.approx([3.2, 1.0])


def test_a_pair_without_actions_of_the_segment_has_no_preference():
    loss = InSegment(DPO(), segment=2)(batch(), outputs())
    assert loss.value.item() == 0 and loss.stats["pairs"].item() == 0


def test_the_inner_objective_says_what_is_needed():
    inner = InSegment(DPO())
    assert inner.requires == {"ref_logp"} and inner.unit == "group" and not inner.views
    with pytest.raises(ConfigError, match="segment must be >= 0, got -1"):
        InSegment(DPO(), segment=-1)
