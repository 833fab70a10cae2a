"""Every objective against a loop written from its equation, over random ragged tables and all averages."""

import pytest
import torch

from formulas import OBJECTIVES, lines
from saccade.core.state import Progress
from tables import finished, random_batch, random_out


@pytest.mark.parametrize("average", ["action", "trajectory", "group", 7])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_equals_its_equation(name, seed, average):
    batch = finished(random_batch(seed, sizes=[(3, 1, 4), (2, 5), (1,), (6, 2, 3)][seed]), average)
    out = random_out(batch, seed)
    objective, loop = OBJECTIVES[name]
    loss = objective(batch, out)
    # float32 weights bound the agreement
    assert loss.value.item() == pytest.approx(loop(lines(batch, out, average)), rel=1e-6, abs=1e-7)
    assert all(not x.requires_grad and torch.isfinite(x) for x in loss.stats.values())
    assert batch.progress == Progress()
