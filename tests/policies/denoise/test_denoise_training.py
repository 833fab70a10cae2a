"""Denoising policies in the ordinary loop: policy gradient on chains, and stages before it."""

from dataclasses import dataclass, replace

import pytest
import torch

from policies.denoise.families import FLOW
from saccade.core.content import Text
from saccade.core.reward import SampleReward
from saccade.core.schedule import Cosine
from saccade.core.trajectory import Context, Prompt, Task
from saccade.envs.datasets.shapes import ShapeScenes
from saccade.envs.single import SingleTurn
from saccade.feeds.demonstrations import Demonstrations
from saccade.feeds.on_policy import OnPolicy
from saccade.learn.loop import Run, train
from saccade.objectives.policy_gradient import PPOClip
from saccade.objectives.regression import NLL
from saccade.objectives.regularise import KLToReference
from saccade.policies.denoise.steps import DanceSDE, FlowSDE, Window
from saccade.policies.denoise.tiny import TinyFlow, UNet
from saccade.recipe import Recipe, Train


@dataclass(frozen=True, kw_only=True)
class Redness(SampleReward):
    """Mean of red less mean of blue, in [-1, 1]."""

    def score(self, trajectory):
        (image,) = trajectory.output
        pixels = image.pixels.astype(float) / 255
        return float(pixels[..., 0].mean() - pixels[..., 2].mean())


class Watch:
    def __init__(self):
        self.records = []

    def start(self, state, recipe):
        self.rows = state.policy.denoiser.rows_predicted

    def step(self, state, batch, record, seconds):
        now = state.policy.denoiser.rows_predicted
        self.records.append({**record, "rows": now - self.rows})
        self.rows = now

    def finish(self, state): ...


def recipe(spec, **settings):
    return Recipe(
        policy=spec,
        env=SingleTurn(ShapeScenes(kinds=("colour",))),
        rewards={"red": Redness()},
        average="action",
        objective={"pg": PPOClip(low=1e-2, high=1e-2), "kl": KLToReference(coef=1e-3, estimator="exact")},
        feed=OnPolicy(),
        train=Train(**{"steps": 12, "groups": 4, "group_size": 6, "lr": 1e-2, **settings}),
    )


@pytest.mark.parametrize(
    "spec",
    [FLOW, replace(FLOW, shared_noise=True, choice=Window(2, every=4), guidance=2.0)],
    ids=["all steps", "guided window"],
)
def test_the_reward_of_chains_rises(spec):
    watch = Watch()
    train(recipe(spec), Run(observers=[watch]))
    first, last = (sum(r["reward/red"] for r in part) / 3 for part in (watch.records[:3], watch.records[-3:]))
    assert last > first + 0.1
    # On fresh rollouts the log-probabilities are those of the actor.
    assert all(abs(r["policy/actor_mismatch_k1"]) < 1e-6 for r in watch.records)


def test_the_gradient_does_not_depend_on_the_cut_into_micro_batches():
    """A trajectory has 4 rows of 64 positions: micro-batches of one trajectory, of five, and the whole."""
    weights = []
    for size in (256, 1280, 10**6):
        policy = FLOW.build(torch.device("cpu"), seed=0).double()
        train(recipe(FLOW, steps=2, micro_size=size), Run(), policy=policy)
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(weights[0], weights[2], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(weights[1], weights[2], atol=1e-9, rtol=1e-6)


def test_a_step_costs_as_many_network_rows_as_its_plan_says():
    """24 chains of 5 steps; 4 random steps scored by the policy and by the reference (whose rows count as its own)."""
    watch = Watch()
    train(recipe(FLOW, steps=1), Run(observers=[watch]))
    assert watch.records[0]["rows"] == 24 * 5 + 24 * 4
    shared = replace(FLOW, shared_noise=True, choice=Window(2))
    watch = Watch()
    train(recipe(shared, steps=1), Run(observers=[watch]))
    assert watch.records[0]["rows"] == (4 + 24 * 4) + (4 + 24)


def test_equal_seeds_train_equal_policies():
    weights = []
    for _ in range(2):
        state = train(recipe(FLOW, steps=2), Run())
        weights.append(torch.cat([p.detach().flatten() for p in state.policy.parameters()]))
    assert torch.equal(*weights)


@dataclass(frozen=True)
class NoDrift(FlowSDE):
    """Noise is added and the drift is not corrected for it."""

    def random_step(self, process, time):
        return process.level(time[1:]), super().random_step(process, time)[1]


def sliced_wasserstein(a, b):
    """Mean distance of sorted projections onto 200 random directions."""
    directions = torch.randn(a.shape[1], 200, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean())


@pytest.mark.slow
def test_random_and_deterministic_chains_of_a_trained_generator_give_the_same_images():
    """64 images each; two sets of deterministic ones are apart by what 64 images leave open."""
    spec = TinyFlow(net=UNet(channels=(16, 32, 32), embedding=32))
    taught = replace(
        recipe(spec, steps=400, groups=32, group_size=1, lr=3e-3, lr_schedule=Cosine(end=0.02)),
        rewards={},
        objective={"nll": NLL()},
        feed=Demonstrations(),
    )
    policy = train(taught, Run()).policy
    weights = policy.state_dict()

    def images(sampler, first):
        drawn = replace(spec, sampler=sampler).build(torch.device("cpu"))
        drawn.load_state_dict(weights)
        contexts = [Context(Prompt(Task(c, (Text(c),)), (Text(c),))) for c in ("one red circle", "one blue square")]
        seeds = range(first, first + 64)
        with torch.no_grad():
            return drawn.rsample(contexts, n=32, seeds=seeds).flatten(1)

    deterministic = images(FlowSDE(24, noise=0.0001), 0)
    apart = sliced_wasserstein(deterministic, images(FlowSDE(24, noise=0.0001), 100))
    for sampler in (FlowSDE(24, noise=0.7), DanceSDE(24, noise=0.5)):
        assert sliced_wasserstein(deterministic, images(sampler, 200)) < 1.25 * apart
    assert sliced_wasserstein(deterministic, images(NoDrift(24, noise=0.7), 300)) > 3 * apart
