"""Recipes of generation whose both sizes are a small world: context selection and solids."""

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.batch import pack
from saccade.core.metric import Models
from saccade.core.policy import Sampling
from saccade.core.trajectory import Context, Prompt, Trajectory, Turn
from saccade.evaluate.run import evaluate
from saccade.learn.loop import Run, train
from saccade.objectives.guidance import LateGuidance
from saccade.recipes.generation.dream_reward import dream_reward
from saccade.recipes.generation.inflvg import inflvg
from saccade.rollout.score import score

CPU = torch.device("cpu")
FEW = {"train.steps": 1, "train.groups": 2, "evaluation.limit": 1}
QUICK = {"steps": 2, "rankings": 8, "batch": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Models of views that were hardly trained must not stay."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))


def cut(recipe):
    changes = dict(FEW)
    if isinstance(recipe.objective.get("guidance"), LateGuidance):
        for where in ("rewards.views", "objective.guidance.reward", "evaluation.metrics.preference.reward"):
            changes |= {f"{where}.model.{name}": value for name, value in QUICK.items()}
    return config.overlay(recipe, changes)


@pytest.mark.parametrize("make", [inflvg, dream_reward], ids=lambda make: make.__name__)
def test_both_sizes_and_both_arms_train(make):
    tiny, base = cut(make("tiny")), cut(make("base"))
    for arm in (tiny, config.overlay(tiny, tiny.ablation.without), base):
        policy = arm.policy.build(CPU, 0)
        state = train(arm, Run(), policy=policy)
        assert state.step == 1
        assert all(np.isfinite(value) for value in state.last.values())
        report = evaluate(Models(policy), arm.evaluation, arm.env, arm.rewards)
        assert set(report.estimates) == set(arm.evaluation.metrics)
        assert arm.ablation.metric in report.estimates


def test_inflvg_pays_less_for_tokens_that_carry_the_old_scene():
    """Without the opposing term the same choices are ranked by likeness and damage alone."""
    recipe = inflvg()
    policy = recipe.policy.build(CPU, 0)
    (task,) = recipe.env.tasks[:1]
    prompt = Prompt(task, task.prompt)
    (acts,) = policy.act([Context(prompt)], n=32, sampling=Sampling(), seeds=range(32))
    group = [Trajectory(prompt, [Turn(a.output, a.record, a.logp, a.mask, a.segment)]) for a in acts]
    score([group], recipe.rewards)
    batch = pack([group])
    assert batch.mask.all() and batch.mask.shape == (32, 6)
    with torch.no_grad():
        assert torch.allclose(policy.log_prob(batch).logp, batch.old_logp, atol=1e-6)
    old = [t.scores["old_scene"].total for t in group]
    assert max(old) - min(old) > 0.05
    plain = config.overlay(recipe, recipe.ablation.without)
    weights = {name: reward.weight for name, reward in recipe.rewards.items()}
    with_, without = recipe.advantage(pack([group], weights))[:, 0], None
    score([group], plain.rewards)
    for t in group:
        t.scores.pop("old_scene")
    without = plain.advantage(pack([group], {n: r.weight for n, r in plain.rewards.items()}))[:, 0]
    carried = torch.tensor(old)

    def slope(a):
        return float(torch.corrcoef(torch.stack([a, carried]))[0, 1])

    assert slope(with_) < slope(without) - 0.2


def test_guidance_by_one_view_has_no_gradient_from_the_others():
    """The score of the front view alone does not change when the other three views do."""
    recipe = cut(dream_reward())
    plain = config.overlay(recipe, recipe.ablation.without)
    images = torch.rand(2, 3, 32, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tasks = recipe.env.tasks[:2]
    prompts = [Prompt(task, task.prompt) for task in tasks]
    reached = {}
    for name, arm in (("four", recipe), ("one", plain)):
        (gradient,) = torch.autograd.grad(
            arm.objective["guidance"].reward.differentiable(images, prompts).sum(), images
        )
        reached[name] = [float(part.abs().sum()) > 0 for part in gradient.split(32, -1)]
    assert reached == {"four": [True] * 4, "one": [True, False, False, False]}
