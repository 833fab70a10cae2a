from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.core import config
from saccade.core.content import Image, Text
from saccade.core.metric import Models
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn, forced_turn
from saccade.envs.datasets.evidence import Closeups, FramedDigits
from saccade.feeds.demonstrations import ScriptedActor
from saccade.learn.loop import Run, train
from saccade.recipes.vlm.ground_r1 import SCENES, Gaze, Glance, ground_r1
from saccade.rollout.lockstep import rollout
from saccade.rollout.score import score
from saccade.testing import check_environment

CPU = torch.device("cpu")


def looking(box: tuple[float, ...] | None, target: tuple[int, ...]) -> Trajectory:
    prompt = Prompt(Task("one", (Text("look"),), target={"box": target}), (Text("look"),))
    turn = forced_turn((Text(""),), None, 1)
    call = () if box is None else ({"tool": "box", "box": box},)
    return Trajectory(prompt, [Turn(turn.output, None, turn.logp, turn.mask, turn.segment, info={"call": call})])


def test_gaze_is_the_iou_of_the_first_box():
    """Boxes of 4 x 4 shifted by 2: common 2 x 4 = 8, union 16 + 16 - 8 = 24."""
    group = [looking((0, 0, 4, 4), (2, 0, 6, 4)), looking(None, (2, 0, 6, 4)), looking((9, 9, 12, 12), (2, 0, 6, 4))]
    values = [row.value for row in Gaze().rows([group], Models(ground_r1().policy.build(CPU)))]
    assert values == [pytest.approx(8 / 24), 0.0, 0.0]


def test_environment_keeps_its_contract():
    check_environment(ground_r1().env)


def test_gold_gets_the_most_and_a_close_look_at_the_evidence():
    recipe = ground_r1()
    policy = recipe.policy.build(CPU)
    tasks = [recipe.env.tasks[i] for i in range(6)]
    actor = ScriptedActor(policy, {task.id: task.gold for task in tasks})
    groups = rollout(actor, recipe.env, tasks, group_size=1, sampling=recipe.feed.inner.sampling, seeds=range(6))
    score(groups, recipe.rewards)
    for (trajectory,) in groups:
        assert trajectory.scores["answer"].value == 1.0
        assert trajectory.scores["format"].value == 1.0
        (shown,) = trajectory.turns[0].observation.content
        assert shown.pixels.shape == (16, 16, 3)
    assert all(row.value == 1.0 for row in Gaze().rows(groups, Models(policy)))


def test_without_the_mechanism_the_crop_lies_elsewhere():
    recipe = ground_r1()
    off = config.overlay(recipe, recipe.ablation.without)
    task = recipe.env.tasks[0]
    shown = []
    for env in (recipe.env, off.env):
        environment = env.make()
        environment.reset(task, 0)
        (image,) = environment.step(task.gold[0]).observation.content
        assert isinstance(image, Image)
        shown.append(image.pixels)
    assert shown[0].shape == shown[1].shape
    assert not np.array_equal(*shown)


def test_glance_is_right_as_often_as_it_says():
    random = np.random.default_rng(0)
    task = SCENES[0]
    looked = [Glance(right=0.4)(task, random)[0][0].text.split("<box>")[1] for _ in range(600)]
    asked = task.gold[0][0].text.split("<box>")[1]
    assert np.mean([box == asked for box in looked]) == pytest.approx(0.4 + 0.6 / 4, abs=0.06)


def test_parts_share_no_digit_picture_and_scenes_repeat():
    train_part, test_part = SCENES, SCENES.split("test")
    assert train_part[3].prompt[0].pixels.tobytes() == FramedDigits(frames=1, bare=3)[3].prompt[0].pixels.tobytes()
    assert train_part[3].prompt[0].pixels.tobytes() != test_part[3].prompt[0].pixels.tobytes()
    assert Closeups(SCENES)[2].gold == (SCENES[2].gold[1],)


def test_a_step_of_every_stage_runs():
    recipe = ground_r1()
    small = replace(recipe.train, steps=1, groups=2, group_size=4)
    policy = recipe.policy.build(CPU)
    for name in recipe.stages:
        staged = recipe.staged(name)
        train(replace(staged, train=replace(staged.train, steps=1, groups=2)), Run(), policy=policy)
    state = train(replace(recipe, train=small, evaluation=replace(recipe.evaluation, metrics={}), ablation=None), Run())
    assert state.step == 1
