"""Recipes of navigation and manipulation: cut down to seconds, both arms run; what their own classes say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.cli.catalogue import catalogue
from saccade.core import config
from saccade.core.content import Array, Text
from saccade.core.errors import ConfigError
from saccade.core.metric import Models
from saccade.core.policy import LocalActor, Sampling
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.envs.babyai import BabyAI, BabyAILevels, Frames, NextActions
from saccade.envs.tabletop import SHIFTS, TableTasks
from saccade.evaluate.episodes import Success
from saccade.evaluate.run import evaluate
from saccade.experiment import _stage_key, start_policy
from saccade.learn.loop import Run, train
from saccade.policies.motor.seeing import Looking
from saccade.policies.motor.tiny import TinyVLA
from saccade.recipes.vla.moving import ARM_UNITS
from saccade.recipes.vla.rlvla import Along, EveryShift, GraspPotential
from saccade.recipes.vla.tgrpo import StageAndDistance
from saccade.recipes.vla.vln_r1 import SayThenWalk
from saccade.rewards.match import ProgressDelta
from saccade.rollout.lockstep import rollout

CPU = torch.device("cpu")
NEEDS = {"ript_vla": "metaworld", "flare": "minigrid", "vln_r1": "minigrid", "tgrpo": "numpy", "rlvla": "numpy"}


def made(name, **keywords):
    pytest.importorskip(NEEDS[name], reason=f"{name} needs {NEEDS[name]}")
    return catalogue()[name].make("tiny", **keywords)


def cut(recipe, arm="with"):
    """Two steps of two groups of two short episodes, with a supervised start of two."""
    ablation = recipe.ablation
    if ablation is not None:
        recipe = config.overlay(recipe, {**ablation.common, **(ablation.without if arm == "without" else {})})
    (stage,) = recipe.stages
    small = {
        "policy.width": 16,
        "env.max_turns": min(recipe.env.max_turns, 4),
        f"stages.{stage}.train.steps": 2,
        f"stages.{stage}.train.groups": 2,
        "train.steps": 2,
        "train.groups": 2,
        "train.group_size": min(recipe.train.group_size, 2),
        "evaluation.limit": 4,
    }
    if hasattr(recipe.stages[stage].feed, "count"):
        # What was cut off is no success of the expert's.
        small |= {f"stages.{stage}.feed.count": 2, f"stages.{stage}.feed.only_success": False}
    if recipe.critic is not None:
        small["critic.width"] = 16
    if hasattr(recipe.feed, "refill"):
        small["feed.refill"] = min(recipe.feed.refill, 1)
    return config.overlay(recipe, small)


def runs(recipe):
    policy = start_policy(recipe, CPU)
    state = train(recipe, Run(), policy=policy)
    assert state.step == 2
    assert all(np.isfinite(value) for value in state.last.values())
    if recipe.train.minibatches * recipe.train.epochs == 1 and "pg/clip_fraction" in state.last:
        assert state.last["policy/actor_mismatch_k1"] == pytest.approx(0, abs=1e-5), "fresh data have a ratio of 1"
    report = evaluate(Models(policy), recipe.evaluation, recipe.env, recipe.rewards)
    assert set(report.estimates) == set(recipe.evaluation.metrics)
    assert report.estimates["success"].n == 4 * recipe.evaluation.n
    assert 0 <= report.estimates["success"].value <= 1
    return report


@pytest.mark.parametrize("arm", ["with", "without"])
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_both_arms_of_a_cut_down_recipe_train_and_are_judged(name, arm):
    runs(cut(made(name), arm))


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_both_arms_start_from_the_same_policy(name):
    recipe = made(name)
    off = config.overlay(recipe, recipe.ablation.without)
    assert config.to_dict(off) != config.to_dict(recipe)
    (stage,) = recipe.stages
    assert _stage_key(recipe, stage) == _stage_key(off, stage)


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_the_base_size_can_be_described_and_read_back(name):
    recipe = catalogue()[name].make("base")
    assert config.to_dict(config.from_dict(config.to_dict(recipe))) == config.to_dict(recipe)


@pytest.mark.parametrize("algorithm", ["grpo", "dpo"])
def test_rlvla_runs_with_other_algorithms(algorithm):
    recipe = made("rlvla", algorithm=algorithm)
    assert recipe.critic is None and recipe.ablation is None
    report = runs(cut(recipe))
    assert report.estimates["vision"].n == report.estimates["execution"].n == 1


def test_rlvla_takes_no_other_algorithm():
    with pytest.raises(ConfigError, match="algorithm must be ppo, grpo or dpo"):
        made("rlvla", algorithm="sft")


def test_the_value_warm_up_leaves_the_policy_as_it_was():
    """Two steps of a warm-up of ten change the critic only; without the warm-up the policy changes too."""
    changed = {}
    for arm in ("with", "without"):
        recipe = cut(made("flare"), arm)
        policy = start_policy(recipe, CPU)
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        train(recipe, Run(), policy=policy)
        changed[arm] = any(not torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert changed == {"with": False, "without": True}


def test_units_of_the_arm_are_those_of_meta_worlds_observation():
    """Hand, gripper, object and eleven more; the same a step earlier; goal: 18 + 18 + 3."""
    low, high = np.array(ARM_UNITS.low), np.array(ARM_UNITS.high)
    assert len(low) == len(high) == 39
    assert (low[:18] == low[18:36]).all() and (low[:3] == low[36:]).all() and (low[:3] == low[4:7]).all()
    assert (low[7:18] == -1).all() and (high[7:18] == 1).all() and (low[3], high[3]) == (-1, 1)


def episode(notes, task=None):
    one = torch.zeros(1)
    task = task or Task("t", (Text("go"),))
    output = (Array("command", np.zeros((1, 3), np.float32)),)
    turns = [Turn(output, None, one, one.bool(), one.long(), info=info) for info in notes]
    return Trajectory(Prompt(task, task.prompt), turns)


def test_stages_and_distance_are_paid_as_they_are_gained():
    """(0 + 1 - 0.6) / 4 = 0.1; (1 + 1 - 0.4) / 4 = 0.4; no note: unchanged; (3 + 1 - 0) / 4 = 1.

    A distance of 1.3 counts as 1: (0 + 0) / 4 = 0.
    """
    notes = [
        {"milestones": 0, "total": 3, "distance": 0.6},
        {"milestones": 1, "total": 3, "distance": 0.4},
        {"valid": False},
        {"milestones": 3, "total": 3, "distance": 0.0},
    ]
    assert StageAndDistance()(episode(notes)) == pytest.approx([0.1, 0.4, 0.4, 1.0])
    score = ProgressDelta(progress=StageAndDistance()).score(episode(notes))
    assert dict(score.turns) == pytest.approx({0: 0.1, 1: 0.3, 3: 0.6})
    assert StageAndDistance()(episode([{"milestones": 0, "total": 3, "distance": 1.3}])) == [0.0]


def test_gains_in_the_potential_of_grasping_add_up_to_the_last_one():
    """Grasped 0.1, held for three turns 0.2, let go in the zone 1; dropped elsewhere everything is lost again."""
    held = [{"grasped": False}, {"grasped": True}, {"grasped": True}, {"grasped": True}]
    done = episode([*held, {"grasped": False, "success": True}])
    assert GraspPotential()(done) == pytest.approx([0, 0.1, 0.1, 0.2, 1.0])
    assert ProgressDelta(progress=GraspPotential()).score(done).total == pytest.approx(1.0)
    dropped = episode([*held, {"grasped": False, "success": False}, {"grasped": True}])
    assert GraspPotential()(dropped) == pytest.approx([0, 0.1, 0.1, 0.2, 0.0, 0.1])


def test_tasks_of_all_axes_take_turns_and_are_told_apart():
    tasks = EveryShift(TableTasks(count=3, part="test"))
    assert len(tasks) == 12
    assert [task.info["shift"] for task in tasks] == list(SHIFTS) * 3
    assert len({task.id for task in tasks}) == 12
    assert not {task.id for task in tasks} & {task.id for task in tasks.split("train")}
    groups = [[episode([{"success": task.info["shift"] == "vision"}], task)] for task in tasks]
    models = Models(TinyVLA(side=16).build(CPU))
    assert [row.value for row in Along(Success(), "vision").rows(groups, models)] == [1.0] * 3
    assert [row.value for row in Along(Success(), "execution").rows(groups, models)] == [0.0] * 3


def test_saying_takes_one_turn_and_walking_goes_through_the_world():
    pytest.importorskip("minigrid", reason="needs minigrid")
    frames = Frames(recent=2, older=2, tiled=True)
    world = BabyAI(max_turns=3, chunk=2, frames=frames)
    spec = SayThenWalk(NextActions(count=4, frames=frames), 3, world)
    left = (Array("command", np.zeros((6, 1), np.float32)),)
    environment = spec.make()
    said = spec.tasks[0]
    assert environment.reset(said, 0) is None
    assert environment.step(left).terminated
    assert [part.pixels.shape for part in said.prompt[1:]] == [(112, 112, 3)]
    walk = BabyAILevels(count=2)[0]
    first = environment.reset(walk, 0)
    assert [part.pixels.shape for part in first.content] == [(112, 112, 3)], "both kinds of task show the same"
    steps = [environment.step(left) for _ in range(3)]
    assert [step.info["steps"] for step in steps] == [2, 2, 2], "two of the six are executed"
    assert not any(step.terminated for step in steps) and steps[-1].truncated
    environment.close()


@pytest.mark.parametrize("answer", ["commands", "words"])
def test_the_experts_own_answer_earns_all_that_vln_r1_pays(answer):
    """1 + 0.8 + 0.8^2 + ... + 0.8^5 = (1 - 0.8^6) / (1 - 0.8) = 3.68928."""
    recipe = made("vln_r1")
    task = replace(recipe.env.tasks, answer=answer)[0]
    one = torch.zeros(1)
    said = Turn(task.gold[0], None, one, one.bool(), one.long())
    (score,) = recipe.rewards["match"]([Trajectory(Prompt(task, task.prompt), [said])])
    assert score.value == pytest.approx(3.68928)


def test_a_walker_of_vln_r1_sees_where_it_is_now():
    recipe = cut(made("vln_r1"))
    policy = recipe.policy.build(CPU)
    walk = recipe.evaluation.tasks[0]
    (group,) = rollout(LocalActor(policy), recipe.env, [walk], group_size=1, sampling=Sampling(), seeds=[0])
    trajectory = next(iter(group))
    for k in range(1, len(trajectory.turns)):
        looking = Looking(policy.trunk.expected, policy.trunk.words)
        looking.context(trajectory.context(k))
        (shown,) = trajectory.turns[k - 1].observation.content
        assert np.array_equal(looking.rows.pixels[looking.rows.frame[0][-1]], shown.pixels)
