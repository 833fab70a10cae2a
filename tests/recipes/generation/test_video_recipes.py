"""What the recipes of video generation promise, without training them to the end."""

import math
from dataclasses import replace

import pytest
import torch

from saccade.advantages.shaping import BatchWhiten
from saccade.advantages.temporal import DiscountedReturn
from saccade.core import config
from saccade.core.batch import finish, pack
from saccade.core.metric import Models
from saccade.core.policy import LogProbs, Sampling
from saccade.core.reward import Score
from saccade.core.trajectory import Context, Prompt, Trajectory, Turn
from saccade.evaluate.run import evaluate
from saccade.experiment import start_policy
from saccade.feeds.on_policy import OnPolicy
from saccade.learn.loop import Run, train
from saccade.recipes.generation.clips import clips, generator, pretrained
from saccade.recipes.generation.dance_grpo import dance_grpo
from saccade.recipes.generation.video_reward import video_reward
from saccade.rollout.score import score


def rollouts(recipe, prompts=3, n=4):
    policy = recipe.policy.build(torch.device("cpu"), 0)
    starts = [Prompt(task, task.prompt) for task in recipe.env.tasks[:prompts]]
    acts = policy.act([Context(p) for p in starts], n=n, sampling=Sampling(), seeds=range(prompts * n))
    return policy, [
        [Trajectory(p, [Turn(a.output, a.record, a.logp, a.mask, a.segment)]) for a in some]
        for p, some in zip(starts, acts, strict=True)
    ]


def test_dance_grpo_trains_sixty_per_cent_of_all_steps_but_the_last_from_one_noise():
    recipe = dance_grpo()
    policy, groups = rollouts(recipe)
    for group in groups:
        starts = torch.stack([t.turns[0].record.state(0) for t in group])
        assert bool((starts == starts[:1]).all())
        masks = torch.stack([t.turns[0].mask for t in group])
        assert masks.sum(1).tolist() == [round(0.6 * 7)] * len(group) and not bool(masks[:, -1].any())
        assert len({str(row) for row in masks.tolist()}) > 1
    batch = pack(groups)
    with torch.no_grad():
        ratio = (policy.log_prob(batch).logp - batch.old_logp)[batch.mask].exp()
    assert float((ratio - 1).abs().max()) < 1e-6


def test_without_its_mechanism_every_clip_has_a_start_of_its_own():
    recipe = dance_grpo()
    _, groups = rollouts(config.overlay(recipe, recipe.ablation.without))
    for group in groups:
        starts = torch.stack([t.turns[0].record.state(0) for t in group])
        assert float(torch.pdist(starts.flatten(1)).min()) > 1


def test_the_global_baseline_blames_hard_prompts():
    """Without group normalisation a prompt's difficulty decides on the sign; with it every group has mean 0."""
    recipe = dance_grpo()
    plain = replace(recipe, advantage=BatchWhiten(DiscountedReturn(1.0)))
    _, groups = rollouts(recipe)
    score(groups, recipe.rewards)
    for k, group in enumerate(groups):
        for i, trajectory in enumerate(group):
            trajectory.scores["mechanics"] = replace(
                trajectory.scores["mechanics"], value=[0.9, 0.5, 0.1][k] + 0.01 * i
            )
    batch = pack(groups)
    mine, other = recipe.advantage(batch), plain.advantage(batch)
    means = [[float(a[batch.group == g][batch.mask[batch.group == g]].mean()) for g in range(3)] for a in (mine, other)]
    assert means[0] == pytest.approx([0, 0, 0], abs=1e-6) and means[1][0] > 1 and means[1][2] < -1


def test_recipes_share_the_pretrained_generator():
    stages = [make().stages["pretraining"] for make in (dance_grpo, video_reward)]
    assert config.dump(stages[0]) == config.dump(stages[1]) == config.dump(pretrained("tiny")["pretraining"])
    assert stages[0].policy == generator("tiny")


def test_nothing_held_out_is_trained_or_pretrained_on():
    recipe = dance_grpo()
    for tasks in (recipe.env.tasks, recipe.stages["pretraining"].env.tasks):
        assert all(tasks.task(i).info["held"] == "" for i in range(60))
    held = [recipe.evaluation.tasks.task(i).info["held"] for i in range(recipe.evaluation.limit)]
    assert held.count("speed") == held.count("direction") == 60
    assert clips("tiny").split("test") == recipe.evaluation.tasks


def test_flow_dpo_has_one_weight_at_all_times():
    recipe = video_reward()
    error, level = torch.tensor([2.0, 2.0]), torch.tensor([0.25, 1.0])
    assert recipe.policy.likelihood.weighting(error, level).tolist() == [2.0, 2.0]
    assert recipe.objective["dpo"].inner.beta == 62.5


def test_without_pairs_all_clips_are_imitated_by_the_exponential_of_their_advantage():
    """Rewards 0, 1, 2, 3: mean 3/2, standard deviation sqrt(5/4); weights exp(A), each over four clips."""
    recipe = video_reward()
    plain = config.overlay(recipe, recipe.ablation.without)
    assert isinstance(plain.feed.inner, OnPolicy) and plain.rewards == recipe.rewards
    _, (group,) = rollouts(recipe, prompts=1)
    for i, trajectory in enumerate(group):
        trajectory.scores["preference"] = Score(float(i))
    batch = finish(pack([group]), plain.average)
    batch = replace(batch, advantage=plain.advantage(batch))
    logp = torch.zeros(batch.mask.shape, requires_grad=True)
    plain.objective["dpo"](batch, LogProbs(logp)).value.backward()
    weight = -logp.grad.sum(1)
    expected = [math.exp((i - 1.5) / math.sqrt(5 / 4)) / 4 for i in range(4)]
    assert weight.tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("make", [dance_grpo, video_reward], ids=lambda make: make.__name__)
def test_the_base_size_trains(make, tmp_path, monkeypatch):
    """Larger clips and the wider generator, hardly pretrained; a preference model that was hardly trained."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    few = {"stages.pretraining.train.steps": 1, "stages.pretraining.train.groups": 2, "evaluation.limit": 3}
    few |= {"train.steps": 1, "train.groups": 2, "train.group_size": 2, "evaluation.n": 1}
    if make is video_reward:
        for where in ("rewards.preference", "evaluation.metrics.preference.reward"):
            few |= {f"{where}.model.steps": 1, f"{where}.model.pairs": 16, f"{where}.model.batch": 4}
    recipe = config.overlay(make("base"), few)
    policy = start_policy(recipe, torch.device("cpu"))
    state = train(recipe, Run(), policy=policy)
    assert state.step == 1 and all(math.isfinite(value) for value in state.last.values())
    report = evaluate(Models(policy), recipe.evaluation, recipe.env, recipe.rewards)
    assert set(report.estimates) == set(recipe.evaluation.metrics)
