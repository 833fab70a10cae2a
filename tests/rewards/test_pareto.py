"""Standardised sums, the Pareto front of a group, hypervolume."""

from dataclasses import dataclass

import numpy as np
import pytest
from cases import trajectory
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saccade.core.batch import pack
from saccade.core.errors import ConfigError
from saccade.core.reward import SampleReward
from saccade.rewards.combine import scores
from saccade.rewards.pareto import ParetoFront, Standardised, hypervolume, non_dominated


@dataclass(frozen=True)
class Said(SampleReward):
    """The number after the letter of this reward; None where it is not said."""

    letter: str

    def score(self, trajectory):
        words = [word for word in trajectory.text.split() if word.startswith(self.letter)]
        return float(words[0][1:]) if words else None


A, B = Said("a"), Said("b")


def totals(reward, *outputs):
    return [score.total for score in scores(reward, [trajectory(output) for output in outputs])]


def test_standardised_terms_count_by_weight_and_not_by_scale():
    """a: 0, 2 has mean 1 and deviation 1, so -1 and 1; b: 300, 100 likewise 1 and -1. Weights 2 and 1: -1 and 1."""
    found = totals(Standardised((Said("a", weight=2.0), B)), "a0 b300", "a2 b100")
    assert found == pytest.approx([-1, 1], abs=1e-4)


def test_equal_values_say_nothing():
    assert totals(Standardised((A, B)), "a1 b1", "a1 b1", "a1 b1") == [0, 0, 0]
    assert totals(Standardised((A,)), "a5") == [0]


def test_unscored_members_stay_out_of_the_statistics():
    low, unknown, high = totals(Standardised((A, B)), "a0 b0", "a9", "a2 b0")
    assert (low, high) == pytest.approx((-1, 1), abs=1e-4) and unknown is None
    assert totals(Standardised((A,)), "b1", "b2") == [None, None]


def test_dominated_members_are_unscored_and_the_rest_keep_their_sum():
    """(2, 0) and (0, 2) are the front; (0, 0) is dominated by both, (2, 0) again is equal to the first."""
    reward, outputs = (A, B), ("a2 b0", "a0 b2", "a0 b0", "a2 b0")
    full = totals(Standardised(reward), *outputs)
    front = totals(ParetoFront(reward), *outputs)
    assert front == [full[0], full[1], None, full[3]]
    assert totals(ParetoFront(reward, dominated=-1.0), *outputs)[2] == -1


def test_a_negative_weight_turns_its_term_round():
    assert totals(ParetoFront((A, Said("b", weight=-1.0))), "a1 b2", "a1 b1") == [None, pytest.approx(1, abs=1e-4)]


def test_dominated_trajectories_are_not_trained():
    group = [trajectory(output) for output in ("a2 b0", "a0 b2", "a0 b0")]
    for one, score in zip(group, scores(ParetoFront((A, B)), group), strict=True):
        one.prompt = group[0].prompt
        one.turns[0].mask[:] = True
        one.scores["front"] = score
    assert pack([group]).trained.tolist() == [True, True, False]


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, 2.0])))
def test_front_is_that_of_the_definition(values):
    def beats(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    expected = [not any(beats(b, a) for b in values) for a in values]
    assert non_dominated(values).tolist() == expected
    assert any(expected)


def test_hypervolume_is_the_area_of_the_steps():
    """(3, 1) and (1, 2) above (0, 0): 3 * 1 + 1 * (2 - 1) = 4; (1, 1) lies below; (5, -1) reaches nothing."""
    values = np.array([[3, 1], [1, 2], [1, 1], [5, -1]], dtype=float)
    assert hypervolume(values, (0, 0)) == 4
    assert hypervolume(values, (1, 0)) == 2
    assert hypervolume(values[:0], (0, 0)) == 0


@given(arrays(np.float64, st.tuples(st.integers(0, 8), st.just(2)), elements=st.integers(-2, 5).map(float)))
def test_hypervolume_counts_the_cells_below_the_front(values):
    """On whole numbers: cells (i, j) with i < x and j < y for some row (x, y)."""
    cells = {(i, j) for x, y in values for i in range(max(0, int(x))) for j in range(max(0, int(y)))}
    assert hypervolume(values, (0.0, 0.0)) == len(cells)


def test_no_trajectories_have_no_scores_and_the_scope_is_the_group():
    for reward in (Standardised((A, B)), ParetoFront((A, B))):
        assert list(reward([])) == [] and reward.scope == "group"


@pytest.mark.parametrize("kind", [Standardised, ParetoFront])
def test_bad_settings_are_named(kind):
    with pytest.raises(ConfigError, match="terms must be one or more rewards"):
        kind(())
    with pytest.raises(ConfigError, match="eps must be > 0"):
        kind((A,), eps=0.0)
