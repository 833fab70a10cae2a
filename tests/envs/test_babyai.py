from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("minigrid", reason="minigrid is not installed (saccade[navigation])")

from saccade.core.content import Array, Image, Text
from saccade.core.errors import ConfigError, DataError
from saccade.envs.babyai import (
    ACTIONS,
    WORDS,
    BabyAI,
    BabyAIBot,
    BabyAIBotWords,
    BabyAILevels,
    Frames,
    NextActions,
    actions_of,
)
from saccade.envs.gym import Gymnasium, command
from saccade.envs.single import SingleTurn
from saccade.testing import check_environment

ROOMS = ("BabyAI-GoToLocal-v0", "BabyAI-GoToRedBallGrey-v0", "BabyAI-PickupLoc-v0", "BabyAI-GoTo-v0")
SPECS = {
    "egocentric": BabyAI(),
    "full, chunks": BabyAI(BabyAILevels(ROOMS), view="full", chunk=3, frames=Frames(2, 3), template="Do: {prompt}."),
    "next actions": SingleTurn(NextActions(frames=Frames(2, 2, tiled=True))),
    "next actions in words": SingleTurn(NextActions(answer="words").split("test")),
}


@pytest.mark.parametrize("name", SPECS)
def test_environment_keeps_its_contract(name):
    check_environment(SPECS[name], n=4)


def episode(spec, task, expert):
    environment = spec.make()
    environment.reset(task, 0)
    steps = []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(environment.step(expert.outputs(environment)))
    return steps


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("level", ROOMS)
def test_the_bot_succeeds_never_faster_than_the_shortest_way(level, chunk):
    spec = BabyAI(BabyAILevels((level,)), chunk=chunk, max_turns=150, tile=2)
    for task in spec.tasks[:4]:
        steps = episode(spec, task, BabyAIBot(chunk))
        last = steps[-1]
        assert last.terminated
        assert last.info["success"]
        assert last.reward == 1.0
        assert last.info["path"] == sum(step.info["steps"] for step in steps) >= last.info["shortest"]
        assert task.info["shortest"] == last.info["shortest"]
        assert sum(step.reward for step in steps) == 1.0


def test_chunks_do_not_change_what_the_bot_does():
    spec = BabyAI(max_turns=60)
    for task in spec.tasks[:4]:
        one = episode(spec, task, BabyAIBot())[-1].info
        three = episode(replace(spec, chunk=3), task, BabyAIBot(3))[-1].info
        words = episode(spec, task, BabyAIBotWords())[-1].info
        assert one["path"] == three["path"] == words["path"]


def greedy(environment):
    """The way found by trying: the action whose successor is nearest to the goal, written without the table of ways."""
    import copy

    best = []
    for action in range(3):
        level = copy.deepcopy(environment._level)
        _, paid, *_ = level.step(action)
        other = copy.copy(environment)
        other._level, other._ways = level, None
        best.append(-1 if paid > 0 else other.distance)
    return int(np.argmin([1000 if value is None else value for value in best]))


def test_distance_falls_by_one_with_each_right_action_and_is_the_shortest_way_at_the_start():
    """So it is a distance: a way of that length exists (walked here), and no action takes more than 1 off."""
    spec = BabyAI(tile=2)
    environment = spec.make()
    for task in spec.tasks[:4]:
        environment.reset(task, 0)
        left = environment.distance
        assert max(1, left) == task.info["shortest"]
        step = None
        while step is None or not step.terminated:
            step = environment.step(command([greedy(environment)]))
            assert step.info["distance"] == max(0, left - 1)
            left = step.info["distance"]
        assert step.info["path"] == task.info["shortest"]


def test_equal_tasks_start_equal_whatever_was_played_before():
    spec = BabyAI()
    environment = spec.make()
    first = environment.reset(spec.tasks[1], 5).content[0].pixels
    for output in ([2], [3], [2], [5]):
        environment.step(command(output))
    environment.reset(spec.tasks[2], 5)
    assert np.array_equal(environment.reset(spec.tasks[1], 5).content[0].pixels, first)
    assert np.array_equal(spec.make().reset(spec.tasks[1], 6).content[0].pixels, first)


def test_the_picture_is_that_of_minigrids_own_wrapper():
    spec = BabyAI()
    task = spec.tasks[0]
    wrapped = Gymnasium(
        id="minigrid:BabyAI-GoToLocal-v0", wrappers=("minigrid.wrappers.RGBImgPartialObsWrapper",)
    ).make()
    shown = wrapped.reset(task, 0).content
    (picture,) = (part for part in shown if isinstance(part, Image))
    (ours,) = spec.make().reset(task, 0).content
    assert ours.pixels.shape == (56, 56, 3)
    assert np.array_equal(picture.pixels, ours.pixels)
    assert task.prompt[0] in shown


@pytest.mark.parametrize("name", ["BabyAI-ActionObjDoor-v0", "BabyAI-UnlockPickup-v0", "BabyAI-PickupLoc-v0"])
def test_pictures_are_what_minigrid_draws_wherever_the_agent_goes(name):
    """Doors open, closed and locked, things carried and put down again: 200 random actions."""
    environment = BabyAI(BabyAILevels((name,)), max_turns=201).make()
    environment.reset(BabyAILevels((name,))[0], 0)
    random, carried = np.random.default_rng(0), False
    for action in random.choice([0, 1, 2, 2, 2, 3, 3, 4, 5], 200):
        step = environment.step(command([action]))
        level = environment._level
        carried = carried or level.carrying is not None
        assert np.array_equal(step.observation.content[0].pixels, level.get_pov_render(tile_size=8))
        if step.terminated:
            break
    assert carried


def test_time_is_up_after_max_turns():
    spec = BabyAI(max_turns=3)
    environment = spec.make()
    environment.reset(spec.tasks[0], 0)
    steps = [environment.step(output) for output in (command([6]), (Text("well"),), command([6]))]
    assert [step.truncated for step in steps] == [False, False, True]
    assert [step.info["valid"] for step in steps] == [True, False, True]
    assert not steps[-1].info["success"]
    assert all(step.observation is not None for step in steps)


@pytest.mark.parametrize(
    ("output", "actions"),
    [
        ((Text("forward"),), [2]),
        ((Text("I go. <answer>Forward, left  done</answer>"),), [2, 0, 6]),
        ((Text("<answer>left</answer><answer>right</answer>"),), [1]),
        (command([2, 0]), [2, 0]),
        ((Text("forward now"),), None),
        ((Text(""),), None),
        ((Text("forward " * 2000),), None),
        ((Text("forward"), Image(np.zeros((1, 1, 3), np.uint8))), None),
        ((Array("command", np.array([[7.0]])),), None),
    ],
)
def test_actions_are_read_from_arrays_and_words(output, actions):
    assert actions_of(output) == actions


def test_frames_are_dense_at_the_end_and_sparse_before():
    """Of 0 .. 10 the last three, and three at equal intervals over 0 .. 7: 0, 3.5 (rounds to 4), 7."""
    assert Frames(3, 3)(10) == [0, 4, 7, 8, 9, 10]
    assert Frames(3, 2)(1) == [0, 0, 0, 0, 1]
    assert Frames(2, 1)(9) == [7, 8, 9]
    assert Frames()(4) == [4]


def test_tiled_frames_are_one_square_picture():
    pictures = [np.full((2, 2, 3), i, np.uint8) for i in range(5)]
    (tiled,) = Frames(2, 1, tiled=True).shown(pictures)
    assert tiled.pixels[:, :, 0].tolist() == [[2, 2, 3, 3], [2, 2, 3, 3], [4, 4, 0, 0], [4, 4, 0, 0]]


def test_next_actions_without_noise_are_the_end_of_the_bots_way():
    tasks = NextActions(noise=0.0, horizon=6, tile=2, count=12)
    for task in tasks:
        levels = BabyAILevels(tasks.levels)
        world = replace(levels.task(0), info={"level": task.info["level"], "seed": task.info["seed"]})
        environment = BabyAI(tile=2).make()
        environment.reset(world, 0)
        plan = environment.plan(100)
        t = task.info["step"]
        assert list(task.target["actions"]) == plan[t : t + 6]
        assert task.gold[0][0].values[:, 0].tolist() == plan[t : t + 6]


@pytest.mark.parametrize("answer", ["commands", "words"])
def test_next_actions_are_wanted_as_they_are_answered(answer):
    for task in NextActions(answer=answer, tile=2, count=4):
        output, wanted = task.gold[0], task.target["actions"]
        assert actions_of(output) == [ACTIONS.index(one) if answer == "words" else one for one in wanted]


def test_noise_takes_states_off_the_way():
    kept = [task.target["actions"] for task in NextActions(noise=0.0, count=24, tile=2)]
    noisy = [task.target["actions"] for task in NextActions(noise=0.9, count=24, tile=2)]
    assert kept != noisy


def test_missions_use_known_words_only():
    missions = [task.prompt[0].text for task in BabyAILevels(ROOMS)[:40]]
    assert {word.strip(",") for mission in missions for word in mission.split()} <= set(WORDS)


def test_splits_share_no_world():
    seeds = [{task.info["seed"] for task in BabyAILevels(count=50).split(part)} for part in ("train", "test")]
    assert not seeds[0] & seeds[1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="cannot be made"):
        BabyAILevels(("BabyAI-Nowhere-v0",))[0]
    with pytest.raises(ConfigError, match="no BabyAI level"):
        BabyAILevels(("MiniGrid-Empty-5x5-v0",))[0]
    with pytest.raises(ConfigError, match="frames"):
        Frames(0)
    with pytest.raises(DataError, match="acts in BabyAI"):
        BabyAIBot().outputs(Gymnasium().make())
