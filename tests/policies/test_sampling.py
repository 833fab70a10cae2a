import math

import pytest
import torch

from saccade.core.policy import Sampling
from saccade.core.random import fold_in
from saccade.policies.token.sampling import draw, entropy, exact_kl, nucleus, tempered, uniforms

LOGITS = torch.tensor([math.log(1.0), math.log(2.0), math.log(5.0)])


def test_numbers_depend_on_the_rows_own_seed_only():
    table = uniforms([3, 4, 5], 6)
    assert table.shape == (3, 6) and table.dtype == torch.float32
    assert torch.equal(uniforms([5, 9, 3], 6)[[2, 0]], table[[0, 2]])
    assert len(set(table.flatten().tolist())) == 18


def test_more_steps_append_to_the_same_numbers():
    assert torch.equal(uniforms([7, fold_in(0, "task")], 40)[:, :3], uniforms([7, fold_in(0, "task")], 3))


def test_numbers_fill_the_unit_interval_evenly():
    """Mean 1/2 and variance 1/12; with 64,000 numbers the standard errors are 0.0011 and 0.0003."""
    numbers = uniforms(range(1000), 64)
    assert abs(float(numbers.mean()) - 0.5) < 0.006
    assert abs(float(numbers.var()) - 1 / 12) < 0.002
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1


def test_a_token_is_the_inverse_of_the_cumulative_distribution():
    """p = (1/8, 2/8, 5/8): the thresholds are 0.125 and 0.375."""
    uniform = torch.tensor([0.0, 0.124, 0.126, 0.374, 0.376, 0.999])
    ids, logp = draw(LOGITS.expand(6, -1), uniform, Sampling())
    assert ids.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(logp.exp(), torch.tensor([1, 1, 2, 2, 5, 5]) / 8)


def test_temperature_sharpens_what_is_drawn_and_reported():
    """At temperature 1/2 the weights are squared: p = (1, 4, 25) / 30."""
    ids, logp = draw(LOGITS[None], torch.tensor([0.5]), Sampling(temperature=0.5))
    assert ids.tolist() == [2]
    torch.testing.assert_close(logp.exp(), torch.tensor([25 / 30]))


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.6, [2]), (0.625, [2]), (0.63, [1, 2]), (0.875, [1, 2]), (0.9, [0, 1, 2])]
)
def test_a_nucleus_is_the_fewest_tokens_that_reach_the_mass(mass, kept):
    """p = (1/8, 2/8, 5/8), all exact in binary; from the top the sums are 0.625, 0.875, 1."""
    p = torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64)
    assert nucleus(p, mass).nonzero()[:, 0].tolist() == kept
    assert nucleus(p, mass).sum() >= mass


def test_truncation_changes_what_is_drawn_but_not_the_reported_log_prob():
    uniform = torch.linspace(0, 0.999, 50)
    ids, logp = draw(LOGITS.expand(50, -1), uniform, Sampling(top_p=0.8))
    assert set(ids.tolist()) == {1, 2}
    torch.testing.assert_close(logp.exp(), torch.tensor([1 / 8, 2 / 8, 5 / 8])[ids])
    # The kept mass is 7/8 and token 1 comes first in it: the threshold moves to 2/7.
    assert ids.tolist() == [1 if u < 2 / 7 else 2 for u in uniform.tolist()]


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    uniform = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-24])
    ids, _ = draw(logits.expand(4, -1), uniform, Sampling())
    assert ids.tolist() == [1, 1, 3, 3]


def test_frequencies_follow_the_distribution():
    """8,000 draws from (1, 2, 5)/8: the largest standard error is 0.0056."""
    ids, _ = draw(LOGITS.expand(8000, -1), uniforms(range(8000), 1)[:, 0], Sampling())
    frequency = torch.bincount(ids, minlength=3) / 8000
    torch.testing.assert_close(frequency, torch.tensor([1, 2, 5]) / 8, atol=0.02, rtol=0)


def test_greedy_takes_the_most_probable_token_whatever_the_number():
    ids, logp = draw(LOGITS.expand(3, -1), torch.tensor([0.0, 0.5, 0.99]), Sampling(deterministic=True))
    assert ids.tolist() == [2, 2, 2]
    torch.testing.assert_close(logp.exp(), torch.full((3,), 5 / 8))


def test_half_precision_logits_are_normalised_in_float32():
    logp = tempered(torch.randn(4, 1000).bfloat16())
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(4), atol=1e-5, rtol=0)
    assert tempered(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_each_row_may_have_its_own_temperature():
    logp = tempered(LOGITS.expand(2, -1), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(logp.exp(), torch.tensor([[1 / 8, 2 / 8, 5 / 8], [1 / 30, 4 / 30, 25 / 30]]))


def test_entropy_and_kl_by_hand():
    """p = (1/2, 1/2, 0), q = (1/4, 1/2, 1/4): H(p) = log 2, KL(p || q) = 1/2 log 2 + 0."""
    p = torch.tensor([0.5, 0.5, 0.0]).log()
    q = torch.tensor([0.25, 0.5, 0.25]).log()
    torch.testing.assert_close(entropy(p), torch.tensor(math.log(2)))
    torch.testing.assert_close(exact_kl(p.clamp(min=-1e4), q), torch.tensor(0.5 * math.log(2)))
