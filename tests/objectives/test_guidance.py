"""The late reward term: when it counts, and by how much."""

from dataclasses import dataclass, replace

import pytest
import torch

from saccade.core.errors import ConfigError
from saccade.core.reward import DifferentiableReward
from saccade.core.state import Progress
from saccade.objectives.guidance import LateGuidance
from tables import finished, random_batch, random_out


@dataclass(frozen=True, kw_only=True)
class Level(DifferentiableReward):
    """scale x mean pixel + offset"""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, trajectories):
        return [0.0] * len(trajectories)

    def differentiable(self, images, prompts):
        return self.scale * images.mean((1, 2, 3)) + self.offset


def value_and_gradient(step, prior=Level(scale=-0.04), reward=Level(scale=2.0), **settings):
    """Every image is one weight w = 0.5; P = -0.04 w, R = 2 w, so that L_prior = 0.02, L_reward = 4 - 1 = 3."""
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    batch = finished(random_batch(0, sizes=(2, 1)), "action")
    batch = replace(batch, progress=Progress(step, 100))

    def draw(contexts, *, n, seeds):
        assert len(seeds) == len(contexts) == len(batch)
        return weight.expand(len(contexts), 3, 2, 2)

    loss = LateGuidance(prior, reward, **settings)(batch, replace(random_out(batch, 0), draw=draw))
    (gradient,) = torch.autograd.grad(loss.value, weight)
    return float(loss.value.detach()), float(gradient), {key: float(x) for key, x in loss.stats.items()}


@pytest.mark.parametrize(
    ("step", "value", "gradient", "scale"),
    [
        (59, 0.02, 0.04, 0),
        # digits: -2 and 0, s = 0.6 10^-2;  0.02 + 0.006 x 3,  0.04 - 0.006 x 2
        (60, 0.038, 0.028, 0.006),
        (97, 0.038, 0.028, 0.006),
        (98, 3, -2, 1),
    ],
)
def test_reward_comes_late_in_the_priors_order_of_magnitude_and_ends_alone(step, value, gradient, scale):
    found = value_and_gradient(step)
    assert found[0] == pytest.approx(value) and found[1] == pytest.approx(gradient)
    expected = {"prior": 0.02, "reward": 1, "capped": 0, "scale": scale}
    assert found[2] == pytest.approx(expected)


def test_images_above_the_cap_and_a_perfect_prior_have_no_pull():
    value, gradient, stats = value_and_gradient(70, reward=Level(scale=2.0, offset=5.0))
    assert (value, gradient, stats["capped"]) == (pytest.approx(0.02), pytest.approx(0.04), 1)
    assert value_and_gradient(70, prior=Level(scale=0.0))[1] == pytest.approx(-2 * 0.6)


@pytest.mark.parametrize("settings", [{"start": 0.9, "alone": 0.5}, {"start": -0.1}, {"alone": 1.1}, {"share": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        LateGuidance(Level(), Level(), **settings)
