import math

import numpy as np
import pytest

pytest.importorskip("vizdoom", reason="vizdoom is not installed (saccade[navigation])")

from saccade.core.content import Text
from saccade.core.errors import ConfigError
from saccade.envs.doom import CELL, Doom, DoomGuide, DoomTasks, solve
from saccade.envs.gym import command
from saccade.testing import check_environment

SPEC = Doom(max_turns=60)


def test_environment_keeps_its_contract():
    check_environment(SPEC, n=2)


@pytest.fixture(scope="module")
def environment():
    one = SPEC.make()
    yield one
    one.close()


def test_the_guide_finds_the_goal_on_about_the_shortest_way(environment):
    for task in SPEC.tasks[1:4]:
        environment.reset(task, 0)
        steps = []
        while not steps or not (steps[-1].terminated or steps[-1].truncated):
            steps.append(environment.step(DoomGuide().outputs(environment)))
        last = steps[-1].info
        assert last["success"]
        assert last["reached"]
        assert steps[-1].reward == 1.0
        assert last["shortest"] - SPEC.near <= last["path"] <= 1.25 * last["shortest"] + SPEC.near
        assert last["distance"] <= SPEC.near


def test_equal_tasks_start_equal(environment):
    task, other = SPEC.tasks[1], SPEC.tasks[2]
    first = environment.reset(task, 0).content[0].pixels
    environment.step(command([1]))
    assert not np.array_equal(environment.reset(other, 0).content[0].pixels, first)
    assert np.array_equal(environment.reset(task, 7).content[0].pixels, first)


def test_turns_turn_and_steps_walk(environment):
    environment.reset(SPEC.tasks[1], 0)
    angle = environment.place[2]
    left = environment.step(command([1])).info
    assert math.isclose((left["place"][2] - angle) % 360, 30, abs_tol=0.1)
    right = environment.step(command([2])).info
    assert math.isclose((right["place"][2] - angle + 180) % 360, 180, abs_tol=0.1)
    assert right["path"] < 1
    before = environment.place
    walked = environment.step(command([0])).info
    assert walked["path"] - right["path"] == pytest.approx(math.dist(before[:2], walked["place"][:2]))
    assert walked["path"] > 1


def test_stopping_far_away_fails_and_malformed_outputs_move_nothing(environment):
    environment.reset(SPEC.tasks[0], 0)
    place = environment.place
    bad = environment.step((Text("stop"),))
    assert bad.info["valid"] is False
    assert environment.place == place
    end = environment.step(command([3]))
    assert (end.terminated, end.reward, end.info["success"]) == (True, 0.0, False)
    assert end.info["distance"] == end.info["shortest"]


def test_distances_go_round_walls():
    """A room of 320 x 160 with a wall down its middle that leaves a door of 64 at the top. From (80, 40) to (240, 40)
    the way leads over (160, 112), the lowest place 16 from the door's post (which ends at 96):
    2 * sqrt(80^2 + 72^2) = 215.3, on a grid of eight directions and cells of 16 at most 10 % and two cells more."""
    room = ((0, 0, 320, 0), (320, 0, 320, 160), (320, 160, 0, 160), (0, 160, 0, 0))
    walls = tuple(tuple(float(v) for v in wall) for wall in (*room, (160, 0, 160, 96)))
    maze = solve(walls, ((240.0, 40.0),))
    exact = 2 * math.hypot(80, 72)
    assert exact <= maze.distance(80, 40) <= 1.1 * exact + 2 * CELL
    assert maze.distance(240, 60) == 20
    assert maze.distance(280, 120) == pytest.approx(math.hypot(40, 80), rel=0.15)
    assert solve(walls[:-1], ((240.0, 40.0),)).distance(80, 40) == pytest.approx(160, rel=0.1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"nowhere\.cfg"):
        Doom(scenario="nowhere").make()
    with pytest.raises(ConfigError, match="near > 0"):
        Doom(near=0.0)


def test_splits_share_no_start():
    seeds = [{task.info["seed"] for task in DoomTasks(count=300).split(part)} for part in ("train", "test")]
    assert not seeds[0] & seeds[1]
