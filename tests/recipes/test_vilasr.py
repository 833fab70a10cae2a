from dataclasses import replace

import numpy as np
import torch

from saccade.core import config
from saccade.core.content import Text
from saccade.core.policy import Sampling
from saccade.core.trajectory import Trajectory
from saccade.feeds.demonstrations import ScriptedActor
from saccade.learn.loop import Run, train
from saccade.recipes.vlm.vilasr import CarriedOut, vilasr
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score
from saccade.testing import check_environment

CPU = torch.device("cpu")


def played(*scripts_of) -> list[Trajectory]:
    """The first tasks, each answered by ``script(task)``."""
    recipe = vilasr()
    policy = recipe.policy.build(CPU)
    tasks = [recipe.env.tasks[i] for i in range(len(scripts_of))]
    scripts = {task.id: script(task) for task, script in zip(tasks, scripts_of, strict=True)}
    seeds = range(len(tasks))
    groups = rollout(ScriptedActor(policy, scripts), recipe.env, tasks, group_size=1, sampling=Sampling(), seeds=seeds)
    score(groups, recipe.rewards)
    return [trajectory for (trajectory,) in groups]


def gold(task):
    return task.gold


def wrong_exit(task):
    other = "B" if task.target["answer"] == "A" else "A"
    return (*task.gold[:-1], (Text(f"<think>out</think>Action:Answer<answer>{other}</answer>"),))


def malformed(task):
    return ((Text("<think>left</think>Action:Path Tracer[]"),),)


def test_form_is_paid_to_right_answers_only():
    """Gold: 0.5 + 0.5. A well-formed wrong answer: 0, though its form is perfect. A broken call: 0."""
    right, wrong, broken = played(gold, wrong_exit, malformed)
    assert right.scores["gated"].value == 1.0
    assert wrong.scores["gated"].value == 0.0
    assert CarriedOut().score(wrong) == 1.0
    assert broken.scores["gated"].value == 0.0
    assert CarriedOut().score(broken) == 0.0
    assert broken.stop == "invalid"


def test_the_drawn_picture_comes_back():
    (trajectory,) = played(gold)
    before = trajectory.prompt.content[0].pixels
    first, second = (turn.observation.content[0].pixels for turn in trajectory.turns[:2])
    assert not np.array_equal(before, first)
    assert not np.array_equal(first, second)


def test_environment_keeps_its_contract():
    check_environment(vilasr().env)


def test_without_the_mechanism_the_picture_comes_back_as_it_was():
    recipe = vilasr()
    off = config.overlay(recipe, recipe.ablation.without)
    task = off.env.tasks[0]
    environment = off.env.make()
    environment.reset(task, 0)
    (shown,) = environment.step(task.gold[0]).observation.content
    np.testing.assert_array_equal(shown.pixels, task.prompt[0].pixels)


def test_a_step_of_every_stage_runs():
    recipe = vilasr()
    policy = recipe.policy.build(CPU)
    staged = recipe.staged("warm_up")
    train(replace(staged, train=replace(staged.train, steps=1, groups=2)), Run(), policy=policy)
    small = replace(recipe.train, steps=1, groups=1, group_size=2)
    state = train(replace(recipe, train=small, evaluation=replace(recipe.evaluation, metrics={}), ablation=None), Run())
    assert state.step == 1
