"""The table: what a hand does to things, when a task is done, and what each shift changes."""

import numpy as np
import pytest

from saccade.core.content import Array, Image, Text, text_of
from saccade.core.environment import EnvironmentSpec
from saccade.core.errors import ConfigError, DataError
from saccade.envs.screens import Screens
from saccade.envs.tabletop import (
    CONTACT,
    SHIFTS,
    SPEED,
    VOCABULARY,
    TableExpert,
    TableTasks,
    Tabletop,
)
from saccade.testing import check_environment


def say(*rows):
    return (Array("command", np.array(rows, np.float32)),)


@pytest.mark.parametrize(
    "spec",
    [
        Tabletop(),
        Tabletop(TableTasks(pushing=0.5), sees="both"),
        Tabletop(TableTasks(pushing=0.5, shift="execution"), sees="state", keep=2),
        Tabletop(TableTasks(shift="vision"), size=64),
        Tabletop(TableTasks(shift="language", pushing=1)),
        Tabletop(TableTasks(things=2), sees="both"),
    ],
)
def test_environment_keeps_its_contract(spec):
    check_environment(spec, n=10)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("pushing", [0.0, 1.0])
def test_the_expert_solves_every_task_within_the_limit(shift, pushing):
    tasks = TableTasks(count=128, pushing=pushing, shift=shift)
    lengths = [len(task.gold) for task in tasks]
    assert min(lengths) > 0 and max(lengths) <= 26


@pytest.mark.parametrize("pushing", [0.0, 1.0])
def test_the_gold_succeeds_and_pays_one_at_its_end(pushing):
    spec = Tabletop(TableTasks(pushing=pushing, shift="execution"))
    environment = spec.make()
    for task in spec.tasks[:8]:
        environment.reset(task, 0)
        steps = [environment.step(output) for output in task.gold]
        assert [step.reward for step in steps] == [0] * (len(steps) - 1) + [1]
        reached = [step.info["milestones"] for step in steps]
        assert reached == sorted(reached) and reached[-1] == steps[-1].info["total"] == 3
        assert steps[-1].info["success"] and steps[-1].info["path"] == len(steps)


def lone(things, hand=(0.5, 0.5), goal=(0.9, 0.9), heavy=False):
    """A program of one lane in a state made by hand; thing 0 is wanted."""
    program = Tabletop(sees="state").make_vector()
    program.reset_arrays(np.arange(1))
    state = program.state
    state["things"][0] = things
    state["hand"][0], state["goal"][0], state["wanted"][:], state["heavy"][:] = hand, goal, 0, heavy
    state["far"][0] = np.hypot(*(np.array(things[0]) - goal))
    return program


AWAY = [(0.1, 0.1), (0.1, 0.3)]
"""Two things out of the way."""


def test_the_hand_moves_by_speed_and_stays_on_the_table():
    program = lone([(0.3, 0.9), *AWAY], hand=(0.95, 0.5))
    program.step_arrays(np.array([[0.5, -1, -1]], np.float32))
    np.testing.assert_allclose(program.state["hand"][0], [1.0, 0.4], atol=1e-7)
    program.step_arrays(np.array([[-9, 0, -1]], np.float32))
    np.testing.assert_allclose(program.state["hand"][0], [1.0 - SPEED, 0.4], atol=1e-7)


def test_closing_near_a_thing_grasps_it_and_opening_drops_it():
    """The thing 0.05 from the hand is grasped and comes with it; the hand moves before it closes or opens."""
    program = lone([(0.55, 0.5), *AWAY], hand=(0.5, 0.5))
    program.step_arrays(np.array([[0, 0, 1]], np.float32))
    assert program.state["held"][0] == 0 and program.notes(0)["grasped"]
    program.step_arrays(np.array([[1, 0, 1]], np.float32))
    np.testing.assert_allclose(program.state["things"][0, 0], [0.6, 0.5], atol=1e-7)
    program.step_arrays(np.array([[0, 1, -1]], np.float32))
    np.testing.assert_allclose(program.state["things"][0, 0], [0.6, 0.6], atol=1e-7)
    assert program.state["held"][0] == -1


def test_a_hand_that_is_closed_already_grasps_nothing_and_pushes():
    """From (0.4, 0.5) by 0.1 to the right: the thing at 0.53 is 0.03 away and ends CONTACT from the hand, at 0.58."""
    program = lone([(0.53, 0.5), *AWAY], hand=(0.4, 0.5))
    program.state["closed"][:] = True
    program.step_arrays(np.array([[1, 0, 1]], np.float32))
    assert program.state["held"][0] == -1
    np.testing.assert_allclose(program.state["things"][0, 0], [0.5 + CONTACT, 0.5], atol=1e-7)


def test_heavy_things_are_pushed_and_not_grasped():
    program = lone([(0.53, 0.5), *AWAY], hand=(0.5, 0.5), heavy=True)
    program.step_arrays(np.array([[0, 0, 1]], np.float32))
    assert program.state["held"][0] == -1
    np.testing.assert_allclose(program.state["things"][0, 0], [0.5 + CONTACT, 0.5], atol=1e-7)
    assert program.notes(0)["milestones"] == 1


def test_an_open_hand_glides_above_things():
    program = lone([(0.53, 0.5), *AWAY], hand=(0.45, 0.5))
    program.step_arrays(np.array([[1, 0, -1]], np.float32))
    np.testing.assert_allclose(program.state["things"][0, 0], [0.53, 0.5])


def test_a_thing_in_the_zone_counts_only_when_it_is_let_go():
    program = lone([(0.5, 0.5), *AWAY], hand=(0.5, 0.5), goal=(0.7, 0.5))
    program.step_arrays(np.array([[0, 0, 1]], np.float32))
    assert program.notes(0)["milestones"] == 1
    _, reward, terminated, _ = program.step_arrays(np.array([[1, 0, 1]], np.float32))
    assert not terminated[0] and program.notes(0)["milestones"] == 2
    _, reward, terminated, _ = program.step_arrays(np.array([[0, 0, -1]], np.float32))
    assert terminated[0] and reward[0] == 1


def test_a_chunk_is_carried_out_until_the_episode_ends():
    spec = Tabletop()
    task = next(task for task in spec.tasks if len(task.gold) >= 6)
    rows = np.concatenate([part.values for (part,) in task.gold])
    environment = spec.make()
    environment.reset(task, 0)
    step = environment.step(say(*rows, *rows))
    assert step.terminated and step.reward == 1 and step.info["steps"] == len(rows)


def test_time_runs_out_in_commands_with_an_observation():
    spec = Tabletop(limit=5)
    environment = spec.make()
    environment.reset(spec.tasks[0], 0)
    assert not environment.step(say(*[[0, 0, -1]] * 3)).truncated
    step = environment.step(say(*[[0, 0, -1]] * 3))
    assert step.truncated and not step.terminated and step.info["steps"] == 2 and step.info["path"] == 5
    assert step.observation is not None


@pytest.mark.parametrize(
    "output",
    [
        (),
        (Text("0 0 1"),),
        say([0, 0]),
        (Array("other", np.zeros((1, 3), np.float32)),),
        (Array("command", np.zeros((0, 3), np.float32)),),
        (Array("command", np.full((1, 3), np.nan, np.float32)),),
    ],
)
def test_malformed_commands_move_nothing(output):
    spec = Tabletop(sees="both")
    environment = spec.make()
    first = environment.reset(spec.tasks[0], 0)
    step = environment.step(output)
    assert step.info["valid"] is False and step.info["steps"] == 0 and not step.terminated and not step.truncated
    for a, b in zip(first.content, step.observation.content, strict=True):
        x, y = (part.pixels if isinstance(part, Image) else part.values for part in (a, b))
        np.testing.assert_array_equal(x, y)


def test_numbers_outside_the_range_are_clipped_and_noted():
    environment = Tabletop().make()
    environment.reset(Tabletop().tasks[0], 0)
    assert environment.step(say([0, 0, 1])).info["clipped"] is False
    assert environment.step(say([2, 0, 1])).info["clipped"] is True


# --- shifts ---


def starts(shift: str) -> dict[str, np.ndarray]:
    tasks = TableTasks(shift=shift)
    program = Tabletop(tasks).make_vector()
    program.reset_arrays(np.arange(400))
    return program.state


def test_execution_starts_at_the_edge_and_shoves_the_wanted_thing():
    usual, other = starts("none"), starts("execution")
    assert usual["hand"].min() >= 0.3 and usual["hand"].max() <= 0.7 and (usual["shove_at"] < 0).all()
    edge = np.minimum(other["hand"], 1 - other["hand"]).min(axis=1)
    assert edge.max() <= 0.08
    assert other["shove_at"].min() >= 4 and other["shove_at"].max() <= 9
    np.testing.assert_allclose(np.hypot(*other["shove"].T), 0.25)


def test_a_shove_moves_the_wanted_thing_once_even_out_of_the_hand():
    program = lone([(0.5, 0.5), *AWAY], hand=(0.5, 0.5))
    program.state["shove_at"][:], program.state["shove"][0] = 2, (0.0, 0.25)
    still = np.array([[0, 0, 1]], np.float32)
    program.step_arrays(still)
    assert program.state["held"][0] == 0
    program.step_arrays(still)
    assert program.state["held"][0] == -1
    np.testing.assert_allclose(program.state["things"][0, 0], [0.5, 0.75])
    program.step_arrays(still)
    np.testing.assert_allclose(program.state["things"][0, 0], [0.5, 0.75])


def test_vision_changes_the_cloth_alone():
    usual, other = starts("none"), starts("vision")
    assert usual["cloth"].max() == 2 and other["cloth"].min() == 3
    for name in ("things", "zones", "hand", "colours", "wanted"):
        np.testing.assert_array_equal(usual[name], other[name])


def test_language_has_wordings_that_training_does_not_have():
    def frames(shift: str) -> set[str]:
        tasks = TableTasks(count=100, shift=shift, pushing=0.5)
        return {
            t.info["instruction"].replace(t.target["thing"], "*").replace(f"{t.target['zone']} ", "* ") for t in tasks
        }

    assert len(frames("none")) == 4 and len(frames("language")) == 6
    assert not frames("none") & frames("language")


def test_the_vocabulary_has_every_word():
    words = {
        word
        for shift in SHIFTS
        for task in TableTasks(count=100, shift=shift, pushing=0.5)
        for word in text_of(task.prompt).split()
    }
    assert words <= set(VOCABULARY)


@pytest.mark.parametrize("things", [1, 2, 3])
def test_a_table_has_as_many_things_as_its_tasks_say(things):
    """Every thing is named by some instruction; tasks with another number of things are refused."""
    tasks = TableTasks(count=40, things=things)
    spec = Tabletop(tasks, sees="state")
    program = spec.make_vector()
    program.reset(tasks[:40], [0] * 40)
    assert program.state["things"].shape == (40, things, 2)
    assert set(program.state["wanted"].tolist()) == set(range(things))
    with pytest.raises(ConfigError, match="must come from a task set with the settings"):
        spec.make().reset(TableTasks(things=1 + things % 3)[0], 0)


def test_one_environment_plays_tasks_of_all_shifts():
    """A recipe evaluates elsewhere than it trains, in the same environment."""
    spec = Tabletop()
    tasks = [TableTasks(shift=shift)[5] for shift in SHIFTS]
    program = spec.make_vector()
    shown = program.reset(tasks, [0] * 4)
    for task, one in zip(tasks, shown, strict=True):
        alone = Tabletop(TableTasks(shift=task.info["shift"])).make().reset(task, 0)
        np.testing.assert_array_equal(one.content[0].pixels, alone.content[0].pixels)


def test_splits_and_shifts_share_no_task():
    seen = [
        {task.info["seed"] for task in TableTasks(count=40, shift=shift, part=part)}
        for shift in SHIFTS
        for part in ("train", "test")
    ]
    assert len(set.union(*seen)) == 8 * 40


# --- the expert ---


def test_the_expert_acts_from_the_present_state():
    spec = Tabletop(TableTasks(shift="execution", pushing=0.5))
    environment, expert = spec.make(), TableExpert()
    for task in spec.tasks[:6]:
        environment.reset(task, 0)
        environment.step(say([1, 1, 1], [-1, 1, 1]))
        for _ in range(28):
            step = environment.step(expert.outputs(environment))
            if step.terminated:
                break
        assert step.info["success"]


def test_a_noisy_expert_is_repeatable_and_still_succeeds_mostly():
    spec, expert = Tabletop(sees="state"), TableExpert(noise=0.3)

    def play() -> tuple[np.ndarray, np.ndarray]:
        program = spec.make_vector()
        program.reset_arrays(np.arange(64))
        done, said = np.zeros(64, bool), []
        for _ in range(30):
            said.append(expert.actions(program))
            done |= program.step_arrays(said[-1])[2]
        return np.stack(said), done

    (first, done), (second, _) = play(), play()
    np.testing.assert_array_equal(first, second)
    assert done.mean() > 0.9


def test_a_slip_disturbs_the_hand_alike_at_the_same_moment_and_the_expert_corrects_it():
    """Commands of no movement move the hand by at most 0.5 SPEED, both members of a pair alike; grips are obeyed."""
    tasks = TableTasks(count=64)
    slipping = Tabletop(tasks, sees="state", slip=0.5).make_vector()
    slipping.reset([task for task in tasks for _ in range(2)], [0] * 128)
    before = slipping.state["hand"].copy()
    slipping.step_arrays(np.tile(np.array([0, 0, 1], np.float32), (128, 1)))
    moved = (slipping.state["hand"] - before).reshape(64, 2, 2)
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])
    assert 0.4 * SPEED < np.abs(moved).max() <= 0.5 * SPEED + 1e-9 and slipping.state["closed"].all()
    assert (moved > 0).any() and (moved < 0).any() and not (moved[..., 0] == moved[..., 1]).any()
    done, expert = np.zeros(128, bool), TableExpert()
    for _ in range(29):
        done |= slipping.step_arrays(expert.actions(slipping))[2]
    assert done.mean() > 0.95


def test_the_expert_refuses_other_environments():
    with pytest.raises(DataError, match="this expert acts on the table"):
        TableExpert().outputs(Screens().make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TableTasks(pushing=2), r"tasks.pushing must be in \[0, 1\], got 2"),
        (lambda: TableTasks(shift="sound"), "tasks.shift must be none, vision, language or execution"),
        (lambda: TableTasks(things=4), "tasks.things must be in 1 .. 3, got 4"),
        (lambda: Tabletop(slip=1.5), r"env.slip must be in \[0, 1\], got 1.5"),
        (lambda: Tabletop(sees="smells"), "env.sees must be pixels, state or both"),
        (lambda: Tabletop(size=8), "env.size must be in 24 .. 256"),
        (lambda: Tabletop(limit=0), "env.max_turns and limit must be >= 1"),
        (lambda: TableExpert(noise=-1), r"expert.noise must be in \[0, 1\]"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_is_seen_has_the_documented_shapes():
    for sees, shapes in [("pixels", [(32, 32, 3)]), ("both", [(32, 32, 3), (4,)]), ("state", [(9,)])]:
        spec: EnvironmentSpec = Tabletop(sees=sees)
        content = spec.make().reset(spec.tasks[0], 0).content
        found = [part.pixels.shape if isinstance(part, Image) else part.values.shape for part in content]
        assert found == shapes
