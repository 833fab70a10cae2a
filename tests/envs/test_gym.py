from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="gymnasium is not installed (saccade[navigation])")

import gymnasium
from gymnasium import spaces

from saccade.core.content import Array, Image, Text
from saccade.core.errors import ConfigError
from saccade.envs.gym import Gymnasium, GymnasiumTasks, command, commands_of, indices_of
from saccade.testing import check_environment, same_content

HERE = __name__


class Corridor(gymnasium.Env):
    """Counts to five; shows a picture, numbers and words; pays what it is told."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (8, 9, 1), np.uint8),
            "place": spaces.Box(-10, 10, (2,), np.float64),
            "word": spaces.Text(20),
            "kind": spaces.Discrete(3),
        }
    )
    action_space = spaces.Box(-1, 2, (2,), np.float32)

    def __init__(self, limit: int = 5):
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.count = self.np_random.random(2), 0
        return self.seen(), {}

    def step(self, action):
        assert action.dtype == np.float32
        self.count += 1
        self.place += action
        over = self.count == self.limit
        return self.seen(), float(action.sum()), over, False, {"success": over, "count": self.count}

    def seen(self):
        word = "late" if self.count > 1 else "early"
        picture = np.full((8, 9, 1), self.count, np.uint8)
        return {"camera": picture, "place": self.place, "word": word, "kind": 2}


class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


SPECS = {
    "discrete": Gymnasium(id="CartPole-v1"),
    "box, chunks": Gymnasium(id="Pendulum-v1", chunk=3, keep=2),
    "callable, dict": Gymnasium(id=f"{HERE}.Corridor", options={"limit": 3}, wrappers=(f"{HERE}.Doubled",)),
}


@pytest.mark.parametrize("name", SPECS)
def test_gymnasium_environments_keep_their_contract(name):
    check_environment(SPECS[name], n=3)


def play(spec, *outputs):
    environment = spec.make()
    first = environment.reset(spec.tasks[0], 0)
    return first, [environment.step(output) for output in outputs]


def test_each_space_becomes_its_part_and_text_is_shown_when_it_changes():
    spec = SPECS["callable, dict"]
    first, steps = play(spec, *[command([[0, 0]])] * 3)
    camera, kind, place, word = first.content
    assert isinstance(camera, Image)
    assert camera.pixels.shape == (8, 9, 3)
    assert (kind.name, kind.values.tolist()) == ("kind", [2.0])
    assert (place.name, place.values.dtype, place.values.shape) == ("place", np.float32, (2,))
    assert word == Text("early")
    said = [[p.text for p in step.observation.content if isinstance(p, Text)] for step in steps]
    assert said == [[], ["late"], []]


def test_pay_of_a_chunk_is_summed_and_the_chunk_stops_at_the_end():
    """Two numbers of 1 pay 2, doubled 4; the third command ends the episode, the fourth is not carried out."""
    spec = replace(SPECS["callable, dict"], chunk=4, notes=("count", "absent"))
    _, (step,) = play(spec, command(np.ones((4, 2))))
    assert (step.reward, step.terminated, step.truncated) == (12.0, True, False)
    assert step.info == {"valid": True, "steps": 3, "path": 3, "success": True, "count": 3}


def test_commands_beyond_the_chunk_are_dropped():
    _, (step,) = play(replace(SPECS["callable, dict"], chunk=2), command(np.ones((4, 2))))
    assert step.info["steps"] == 2


def test_commands_outside_the_box_are_clipped_and_said_to_be():
    """5 is clipped to 2, -3 to -1: pay 1, doubled 2."""
    _, steps = play(SPECS["callable, dict"], command([[5, -3]]), command([[2, -1]]))
    assert [step.reward for step in steps] == [2.0, 2.0]
    assert [step.info.get("clipped", False) for step in steps] == [True, False]


BAD = {
    "nothing": (),
    "text": (Text("1"),),
    "another name": (Array("state", np.zeros((1, 1), np.float32)),),
    "two": command([0]) + command([0]),
    "vector": (Array("command", np.zeros(1, np.float32)),),
    "empty": (Array("command", np.zeros((0, 1), np.float32)),),
    "wide": command([[0, 1]]),
    "objects": (Array("command", np.array([[None]])),),
    "not a number": command([np.nan]),
    "infinite": command([np.inf]),
    "between": command([0.5]),
    "negative": command([-1]),
    "too large": command([2]),
    "one of two": command([0, 2]),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_commands_are_answered_and_nothing_moves(name):
    _, (moved, bad) = play(SPECS["discrete"], command([1]), BAD[name])
    assert bad.info == {"valid": False, "steps": 0, "path": 1}
    assert bad.observation is moved.observation
    assert indices_of(BAD[name], 2) is None


@pytest.mark.parametrize(
    "name", [name for name in BAD if name not in ("between", "negative", "too large", "one of two")]
)
def test_malformed_commands_of_a_box_are_answered_too(name):
    _, (bad,) = play(SPECS["box, chunks"], BAD[name])
    assert bad.info["valid"] is False
    assert commands_of(BAD[name], 1) is None


def test_the_registrys_time_limit_truncates():
    """Pendulum has 200 steps and no end of its own."""
    environment = SPECS["box, chunks"].make()
    environment.reset(GymnasiumTasks()[0], 0)
    steps = [environment.step(command([0, 0, 0])) for _ in range(67)]
    assert [step.truncated for step in steps] == [False] * 66 + [True]
    assert steps[-1].info["steps"] == 2
    assert not any(step.terminated for step in steps)


def test_steps_are_those_of_gymnasium_itself():
    spec = SPECS["discrete"]
    task = spec.tasks[3]
    plain = gymnasium.make("CartPole-v1")
    seen, _ = plain.reset(seed=task.info["seed"])
    vector = spec.make_vector()
    first = vector.reset([task] * 2, [0, 1])
    assert all(np.array_equal(one.content[0].values, seen) for one in first)
    for action in (0, 1, 1, 0):
        seen, reward, ended, late, _ = plain.step(action)
        for step in vector.step([0, 1], [command([action])] * 2):
            assert np.array_equal(step.observation.content[0].values, seen)
            assert (step.reward, step.terminated, step.truncated) == (reward, ended, late)
    vector.close()


def test_an_exception_names_the_task():
    vector = Gymnasium(id=f"{HERE}.Broken").make_vector()
    task = GymnasiumTasks()[0]
    vector.reset([task], [0])
    with pytest.raises(RuntimeError) as caught:
        vector.step([0], [command([[0, 0]])])
    assert task.id in caught.value.__notes__[0]


class Broken(Corridor):
    def step(self, action):
        raise RuntimeError("broken")


def test_the_lane_that_raises_is_the_one_named():
    vector = Gymnasium(id=f"{HERE}.BreaksAtTwo").make_vector()
    tasks = GymnasiumTasks()[:3]
    vector.reset(tasks, range(3))
    vector.step([1], [command([[0, 0]])])
    with pytest.raises(RuntimeError) as caught:
        vector.step([0, 1, 2], [command([[0, 0]])] * 3)
    assert tasks[1].id in caught.value.__notes__[0]


class BreaksAtTwo(Corridor):
    def step(self, action):
        if self.count == 1:
            raise RuntimeError("broken")
        return super().step(action)


@pytest.mark.parametrize("name", SPECS)
def test_lanes_together_are_as_lanes_alone(name):
    """Outputs of one command, of several, out of range and malformed, side by side; the last lane leaves early."""
    spec = SPECS[name]
    columns = 1 if name != "callable, dict" else 2
    tasks, random = spec.tasks[:5], np.random.default_rng(0)
    vector, alone = spec.make_vector(), [spec.make() for _ in tasks]
    for one, task, shown in zip(alone, tasks, vector.reset(tasks, range(5)), strict=True):
        same(shown, one.reset(task, 0))
    lanes = list(range(5))
    for turn in range(6):
        some = [command(random.integers(0, 2, (k, columns))) for k in (1, 1, 3, 1, 1)]
        some[1] = command(np.full((1, columns), 9.0)) if name != "discrete" else (Text("?"),)
        some[3] = command(np.full((2, columns), np.nan)) if turn % 2 else ()
        steps = vector.step(lanes, [some[lane] for lane in lanes])
        for lane, step in zip(lanes, steps, strict=True):
            other = alone[lane].step(some[lane])
            same(step.observation, other.observation)
            assert step.info == other.info
            assert (step.reward, step.terminated, step.truncated) == (other.reward, other.terminated, other.truncated)
        lanes = [lane for lane, step in zip(lanes, steps, strict=True) if lane < 4 and not step.terminated]


def same(a, b) -> None:
    assert a.keep == b.keep and same_content(a.content, b.content)


class Overwriting(gymnasium.Env):
    """Writes what it shows over what it showed before."""

    observation_space = spaces.Box(-np.inf, np.inf, (300,), np.float32)
    action_space = spaces.Box(0, 3, (1,), np.int64)

    def __init__(self):
        self.seen = np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.seen += int(action[0])
        return self.seen, 0.0, False, False, {}


class OverwritingPicture(Overwriting):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class OverwritingSymbols(Overwriting):
    observation_space = spaces.Box(0, 255, (7, 7, 3), np.uint8)


@pytest.mark.parametrize("name", ["Overwriting", "OverwritingPicture", "OverwritingSymbols"])
def test_observations_are_copies_in_the_shape_of_the_space(name):
    vector = Gymnasium(id=f"{HERE}.{name}").make_vector()
    shown = [vector.reset(GymnasiumTasks()[:2], [0, 0])]
    shown += [[step.observation for step in vector.step([0, 1], [command([1]), command([2])])] for _ in range(2)]
    arrays = [[vars(one.content[0]).get("pixels", vars(one.content[0]).get("values")) for one in row] for row in shown]
    assert {array.shape for row in arrays for array in row} == {globals()[name].observation_space.shape}
    assert [[array.max() for array in row] for row in arrays] == [[0, 0], [1, 2], [2, 4]]
    if name == "Overwriting":
        assert all(array.base is None for row in arrays for array in row), "keeps the vectors of all lanes alive"


def test_numbers_that_do_not_fit_the_boxs_type_are_malformed():
    """What is not finite has no whole number; 1e300 is no float32. Neither warns."""
    whole = Gymnasium(id=f"{HERE}.Overwriting")
    assert [step.info["valid"] for step in play(whole, command([np.nan]), command([np.inf]), command([7]))[1]] == [
        False, False, True,
    ]  # fmt: skip
    endless = Gymnasium(id=f"{HERE}.Endless")
    huge = (Array("command", np.array([[1e300]])),)
    assert [step.info["valid"] for step in play(endless, huge, command([1e30]))[1]] == [False, True]


class Endless(Overwriting):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def test_splits_share_no_seed():
    seeds = [{task.info["seed"] for task in GymnasiumTasks(count=300).split(part)} for part in ("train", "test")]
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Gymnasium(id="NoSuch-v0"), "NoSuch-v0"),
        (Gymnasium(id="tests.nowhere.thing"), "no 'tests.nowhere.thing'"),
        (Gymnasium(options={"wrong": 1}), "cannot be made"),
        (Gymnasium(wrappers=("gymnasium.Nothing",)), "gymnasium.Nothing"),
    ],
)
def test_what_cannot_be_made_is_said(spec, said):
    with pytest.raises(ConfigError, match=said):
        spec.make()


@pytest.mark.parametrize("changes", [{"chunk": 0}, {"max_turns": 0}, {"keep": -1}])
def test_impossible_limits_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Gymnasium(**changes)
