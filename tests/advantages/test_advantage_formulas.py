"""Every advantage against a loop written from its equation, over random ragged tables."""

import pytest
import torch

from formulas import ADVANTAGES, rows
from tables import random_batch


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantage_equals_its_equation(name, seed):
    batch = random_batch(seed, sizes=[(3, 1, 4), (2, 5), (1,), (6, 6, 2, 3), (4,), (1, 1, 8)][seed], greedy=True)
    advantage, loop = ADVANTAGES[name]
    expected = torch.zeros_like(batch.old_logp)
    for i, line in enumerate(loop(rows(batch))):
        expected[i, : len(line)] = torch.tensor(line, dtype=torch.float64)
    found = advantage(batch)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
