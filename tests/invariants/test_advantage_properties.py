"""What holds for every advantage, whatever the table."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formulas import ADVANTAGES, GROUP_RELATIVE
from saccade.core.batch import Batch
from saccade.core.segments import last_action
from tables import outcomes, padded, random_batch

seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)
FEW = settings(max_examples=8)
every_advantage = pytest.mark.parametrize("name", ADVANTAGES)


def singled(batch: Batch) -> Any:
    """The batch in float32, as training has it."""
    streams = ("old_logp", "advantage", "ref_logp", "value", "final_value")
    rewards = {name: x.float() for name, x in batch.rewards.items()}
    return replace(batch, rewards=rewards, **{name: getattr(batch, name).float() for name in streams})


def shuffled(batch: Batch, seed: int) -> torch.Tensor:
    """An order of the rows that keeps groups together: groups permuted, and members within them."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    order = []
    for g in torch.randperm(len(batch.prompts), generator=generator).tolist():
        members = torch.nonzero(batch.group == g)[:, 0]
        order.append(members[torch.randperm(len(members), generator=generator)])
    return torch.cat(order)


@every_advantage
@FEW
@given(seed=seeds, sizes=sizes)
def test_order_of_trajectories_and_names_of_groups_do_not_matter(name, seed, sizes):
    batch, (advantage, _) = random_batch(seed, sizes, greedy=True), ADVANTAGES[name]
    order = shuffled(batch, seed)
    torch.testing.assert_close(advantage(batch.take(order)), advantage(batch)[order], rtol=1e-9, atol=1e-9)


@every_advantage
@FEW
@given(seed=seeds, sizes=sizes, columns=st.integers(1, 4), garbage=st.sampled_from([0.0, -7.0, 1e4]))
def test_amount_and_value_of_padding_do_not_matter(name, seed, sizes, columns, garbage):
    batch, (advantage, _) = random_batch(seed, sizes, greedy=True), ADVANTAGES[name]
    found = advantage(padded(batch, columns, garbage))
    assert not found[:, batch.mask.shape[1] :].any()
    torch.testing.assert_close(found[:, : batch.mask.shape[1]], advantage(batch), rtol=1e-9, atol=1e-9)


@every_advantage
@FEW
@given(seed=seeds, sizes=sizes)
def test_advantage_is_finite_without_gradient_and_zero_outside_the_mask(name, seed, sizes):
    batch, (advantage, _) = singled(random_batch(seed, sizes, greedy=True)), ADVANTAGES[name]
    batch = replace(batch, value=batch.value.requires_grad_(), final_value=batch.final_value.requires_grad_())
    found = advantage(batch)
    assert found.dtype == torch.float32 and found.shape == batch.mask.shape
    assert not found.requires_grad
    assert torch.isfinite(found).all()
    assert not found[~batch.mask].any()


@every_advantage
@FEW
@given(seed=seeds, sizes=sizes)
def test_unscored_trajectories_change_nothing(name, seed, sizes):
    batch, (advantage, _) = random_batch(seed, sizes, greedy=True, unscored=0.4), ADVANTAGES[name]
    kept = torch.nonzero(batch.scored)[:, 0]
    found = advantage(batch)
    assert not found[~batch.scored].any()
    alone = batch.take(kept)
    torch.testing.assert_close(advantage(alone), found[kept, : alone.mask.shape[1]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"GreedyBaseline"}))
@FEW
@given(seed=seeds, sizes=sizes)
def test_greedy_rollouts_stay_out_of_statistics(name, seed, sizes):
    batch, (advantage, _) = random_batch(seed, sizes, greedy=True), ADVANTAGES[name]
    kept = torch.nonzero(batch.trained)[:, 0]
    if len(kept):
        alone = batch.take(kept)
        found = advantage(batch)[kept, : alone.mask.shape[1]]
        torch.testing.assert_close(advantage(alone), found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GROUP_RELATIVE)
@FEW
@given(seed=seeds, sizes=sizes, constant=st.integers(-256, 256).map(lambda n: n / 32))
def test_a_constant_added_to_all_rewards_changes_nothing(name, seed, sizes, constant):
    batch, (advantage, _) = random_batch(seed, sizes), ADVANTAGES[name]
    paid = torch.where(last_action(batch.turn), constant, 0.0).double()
    found = advantage(replace(batch, rewards={**batch.rewards, "right": batch.rewards["right"] + paid}))
    torch.testing.assert_close(found, advantage(batch), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GROUP_RELATIVE)
@FEW
@given(outcome=st.floats(-100, 100, width=32), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_equal_rewards_give_exactly_zero(name, outcome, sizes):
    advantage, _ = ADVANTAGES[name]
    assert not advantage(outcomes(*[[outcome] * size for size in sizes], actions=2)).any()


@pytest.mark.parametrize("name", sorted(set(GROUP_RELATIVE) - {"REINFORCE++ baseline"}))
def test_groups_of_one_get_zero(name):
    advantage, _ = ADVANTAGES[name]
    assert not advantage(outcomes([3.0], [-2.0], [0.1])).any()


@every_advantage
@FEW
@given(seed=seeds, sizes=sizes)
def test_calling_twice_gives_the_same_and_leaves_the_batch_alone(name, seed, sizes):
    batch, (advantage, _) = random_batch(seed, sizes, greedy=True), ADVANTAGES[name]
    before = {k: v.clone() for k, v in batch.rewards.items()}
    assert torch.equal(advantage(batch), advantage(batch))
    assert batch.rewards.keys() == before.keys() == batch.reward_weight.keys()
    assert all(torch.equal(batch.rewards[k], v) for k, v in before.items())
