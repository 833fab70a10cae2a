"""Pathwise objectives on a sampler of three pictures that can be differentiated by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from saccade.core.batch import finish, pack
from saccade.core.errors import ConfigError
from saccade.core.policy import LogProbs
from saccade.core.reward import DifferentiableReward
from saccade.core.state import Progress
from saccade.objectives.pathwise import OneStepReward, RewardGradient
from tables import prompt, trajectory


@dataclass(frozen=True, kw_only=True)
class MeanPixel(DifferentiableReward):
    """10 times the mean pixel."""

    def __call__(self, trajectories: Sequence[object]) -> list[float]:
        raise AssertionError("objectives differentiate, they do not score trajectories")

    def differentiable(self, images, prompts):
        assert len(images) == len(prompts)
        return 10 * images.mean((1, 2, 3))


class Sampler:
    """Draws a flat picture of its weight's brightness times the row's factor, and notes how it was asked."""

    def __init__(self, *factors):
        self.weight = torch.tensor(0.5, requires_grad=True)
        self.factors = torch.tensor(factors)
        self.asked = []

    def __call__(self, contexts, *, n, seeds, keep_last, stop=None):
        self.asked.append(
            {"names": [c.prompt.task.id for c in contexts], "seeds": seeds, "last": keep_last, "stop": stop}
        )
        assert n == 1 and len(seeds) == len(contexts)
        return (self.weight * self.factors[: len(contexts)])[:, None, None, None].expand(-1, 3, 2, 2)


def table(step=0):
    first, second = prompt("a"), prompt("b")
    groups = [[trajectory(first, [0.0]), trajectory(first, [0.0])], [trajectory(second, [0.0])]]
    for seed, one in enumerate(one for group in groups for one in group):
        one.seed = seed
    return finish(replace(pack(groups), progress=Progress(step=step)), "action")


def out(sampler):
    return LogProbs(torch.zeros(3, 1), draw=sampler)


def test_reward_gradient_is_the_mean_rewards():
    """Pictures of 0.5, 0.25 and 0: rewards 5, 2.5, 0, mean 2.5; d/dweight = (10 + 5 + 0) / 3 = 5, times -coef."""
    sampler = Sampler(1.0, 0.5, 0.0)
    loss = RewardGradient(MeanPixel(), last=2, coef=0.4)(table(), out(sampler))
    assert loss.value.item() == pytest.approx(-1.0)
    assert loss.stats["reward"].item() == pytest.approx(2.5)
    (gradient,) = torch.autograd.grad(loss.value, sampler.weight)
    assert gradient.item() == pytest.approx(-2.0)
    (asked,) = sampler.asked
    assert (asked["names"], asked["last"], asked["stop"]) == (["a", "a", "b"], 2, None)
    assert len(set(asked["seeds"])) == 3


def test_one_step_reward_stops_at_the_cap():
    """Rewards 5, 2.5, 0 with cap 3: shortfalls 0, 0.5, 3; loss 3.5 / 3; the first picture has no gradient: -5 / 3."""
    sampler = Sampler(1.0, 0.5, 0.0)
    loss = OneStepReward(MeanPixel(), first=2, last=2, cap=3.0, coef=1.0)(table(), out(sampler))
    assert loss.value.item() == pytest.approx(3.5 / 3)
    assert loss.stats["capped"].item() == pytest.approx(1 / 3)
    (gradient,) = torch.autograd.grad(loss.value, sampler.weight)
    assert gradient.item() == pytest.approx(-5 / 3)
    assert sampler.asked[0]["stop"] == 2 and sampler.asked[0]["last"] == 1


def test_without_a_cap_every_picture_is_pushed_on():
    sampler = Sampler(1.0, 0.5, 0.0)
    loss = OneStepReward(MeanPixel(), first=0, last=0, cap=float("inf"), coef=1.0)(table(), out(sampler))
    assert loss.value.item() == pytest.approx(-2.5)
    assert torch.autograd.grad(loss.value, sampler.weight)[0].item() == pytest.approx(-5.0)


def test_the_step_is_drawn_from_the_whole_range_anew_for_every_batch_and_never_within_one():
    sampler = Sampler(1.0, 0.5, 0.0)
    objective = OneStepReward(MeanPixel(), first=3, last=5)
    for step in range(60):
        objective(table(step), out(sampler))
    assert {asked["stop"] for asked in sampler.asked} == {3, 4, 5}
    assert (
        objective(table(7), out(Sampler(1.0, 0.5, 0.0))).value == objective(table(7), out(Sampler(1.0, 0.5, 0.0))).value
    )
    assert sampler.asked[0]["seeds"] != sampler.asked[1]["seeds"]


def test_pieces_of_a_batch_add_up():
    batch = table()
    whole = RewardGradient(MeanPixel())(batch, out(Sampler(1.0, 0.5, 0.0))).value
    first = RewardGradient(MeanPixel())(batch.take(torch.tensor([0, 1])), out(Sampler(1.0, 0.5))).value
    second = RewardGradient(MeanPixel())(batch.take(torch.tensor([2])), out(Sampler(0.0))).value
    torch.testing.assert_close(first + second, whole)


def test_they_need_a_policy_that_draws_with_gradient():
    assert RewardGradient(MeanPixel()).requires == OneStepReward(MeanPixel(), 0, 1).requires == {"pathwise"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardGradient(MeanPixel(), last=0), "last must be >= 1"),
        (lambda: RewardGradient(MeanPixel(), coef=-1.0), "coef must be >= 0"),
        (lambda: OneStepReward(MeanPixel(), first=3, last=2), "0 <= first <= last"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
