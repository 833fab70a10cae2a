"""What holds for every objective, whatever the table."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_advantage_properties import shuffled

from formulas import OBJECTIVES
from saccade.core.batch import Batch
from saccade.core.policy import LogProbs
from tables import cut_out, finished, padded, padded_out, random_batch, random_out

seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
averages = st.sampled_from(["action", "trajectory", "group", 9])
FEW = settings(max_examples=8)
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def leaves(out: Any) -> list[torch.Tensor]:
    return [out.logp, out.entropy, out.kl, out.value, out.views["view"].logp]


def gradients(objective, batch: Batch, out: LogProbs) -> list[torch.Tensor]:
    found = torch.autograd.grad(objective(batch, out).value, leaves(out), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves(out), strict=True)]


def pieces(batch: Batch, unit: str, seed: int) -> list[torch.Tensor]:
    """Random consecutive micro-batches: of whole groups, or of trajectories; one where nothing may be cut."""
    if unit == "batch":
        return [torch.arange(len(batch))]
    generator = torch.Generator().manual_seed(seed % 2**31)
    rows = torch.arange(len(batch))
    if unit == "group":
        ends = torch.nonzero(batch.group[1:] != batch.group[:-1])[:, 0] + 1
    else:
        ends = torch.arange(1, len(batch))
    cuts = ends[torch.rand(len(ends), generator=generator) < 0.6]
    return list(torch.tensor_split(rows, cuts.tolist()))


@every_objective
@FEW
@given(seed=seeds, sizes=sizes, average=averages)
def test_gradient_and_statistics_do_not_depend_on_the_micro_batch_split(name, seed, sizes, average):
    objective, _ = OBJECTIVES[name]
    batch = finished(random_batch(seed, sizes), average)
    out = random_out(batch, seed)
    whole = objective(batch, out)
    total, stats = torch.zeros(()), dict.fromkeys(whole.stats, 0.0)
    for index in pieces(batch, objective.unit, seed):
        micro = batch.take(index)
        part = objective(micro, cut_out(out, index, micro.mask.shape[1]))
        total = total + part.value
        stats = {key: value + part.stats[key].item() for key, value in stats.items()}
    torch.testing.assert_close(total.double(), whole.value, rtol=1e-9, atol=1e-9)
    assert stats == pytest.approx({key: x.item() for key, x in whole.stats.items()}, abs=1e-6)
    parts = torch.autograd.grad(total, leaves(out), allow_unused=True)
    for split, one in zip(parts, gradients(objective, batch, out), strict=True):
        torch.testing.assert_close(torch.zeros_like(one) if split is None else split, one, rtol=1e-9, atol=1e-12)


@every_objective
@FEW
@given(seed=seeds, sizes=sizes, average=averages)
def test_order_of_trajectories_and_names_of_groups_do_not_matter(name, seed, sizes, average):
    objective, _ = OBJECTIVES[name]
    plain = random_batch(seed, sizes, distinct=True)
    order = shuffled(plain, seed)
    batch, other = finished(plain, average), finished(plain.take(order), average)
    out = random_out(batch, seed)
    moved = cut_out(out, order, other.mask.shape[1])
    torch.testing.assert_close(objective(other, moved).value, objective(batch, out).value, rtol=1e-6, atol=1e-8)


@every_objective
@FEW
@given(seed=seeds, sizes=sizes, columns=st.integers(1, 4), garbage=st.sampled_from([0.0, -7.0, 40.0]))
def test_amount_and_value_of_padding_do_not_matter(name, seed, sizes, columns, garbage):
    objective, _ = OBJECTIVES[name]
    batch = finished(random_batch(seed, sizes))
    out = random_out(batch, seed)
    wide = padded(batch, columns, garbage)
    wide_out = padded_out(out, wide, garbage)
    torch.testing.assert_close(objective(wide, wide_out).value, objective(batch, out).value, rtol=1e-9, atol=1e-12)


@every_objective
@FEW
@given(seed=seeds, sizes=sizes, average=averages)
def test_actions_outside_the_mask_get_no_gradient(name, seed, sizes, average):
    objective, _ = OBJECTIVES[name]
    batch = finished(random_batch(seed, sizes, greedy=True, unscored=0.3), average)
    out = random_out(batch, seed)
    for gradient in gradients(objective, batch, out):
        assert torch.isfinite(gradient).all()
        assert not gradient[~batch.mask].any()


@every_objective
def test_a_batch_without_anything_to_train_costs_nothing(name):
    objective, _ = OBJECTIVES[name]
    batch = finished(random_batch(0, (2, 3), unscored=1.0))
    assert not batch.mask.any()
    assert objective(batch, random_out(batch, 0)).value.item() == 0
