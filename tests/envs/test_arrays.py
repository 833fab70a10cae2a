"""Array programs: lanes do not know of each other, and the three ways to drive them agree."""

import numpy as np
import pytest

from saccade.core.content import Array, Text
from saccade.core.errors import ConfigError
from saccade.envs.arrays import ArrayLane, orders, paste, stencil, uniform
from saccade.envs.screens import Apps, AppTasks, Screens
from saccade.envs.tabletop import TableExpert, TableTasks, Tabletop

SPECS = {
    "screens": Screens(),
    "apps": Apps(),
    "table": Tabletop(TableTasks(pushing=0.5)),
    "table, state": Tabletop(TableTasks(pushing=0.5, shift="execution"), sees="state"),
}


def splitmix(seed: int, counter: int, stream: int) -> float:
    """The same number in whole numbers of any size."""
    word, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        return z ^ (z >> 31)

    mixed = mix((mix((seed + golden) & word) + (counter + (stream << 20)) * golden) & word)
    return (mixed >> 11) / 2**53


def test_random_numbers_are_splitmix64_of_seed_place_and_stream():
    seeds = np.array([0, 7, 2**63 - 1], np.uint64)
    expected = [[splitmix(int(seed), k, 3) for k in range(1, 5)] for seed in seeds]
    np.testing.assert_array_equal(uniform(seeds, 4, stream=3), expected)


def test_random_numbers_are_uniform_and_streams_unrelated():
    """Mean 1/2 and variance 1/12 of 100,000 numbers; standard errors 0.0009 and 0.00024."""
    numbers = uniform(np.arange(1000, dtype=np.uint64), 100)
    assert abs(numbers.mean() - 0.5) < 0.004 and abs(numbers.var() - 1 / 12) < 0.001
    other = uniform(np.arange(1000, dtype=np.uint64), 100, stream=1)
    assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.015


def test_orders_are_permutations_that_sort():
    np.testing.assert_array_equal(orders(np.array([[0.3, 0.1, 0.2], [0.0, 0.5, 0.4]])), [[1, 2, 0], [0, 2, 1]])


def test_paste_puts_each_stamp_where_it_belongs():
    random = np.random.default_rng(0)
    pictures = np.zeros((3, 9, 11, 3), np.uint8)
    stamps = random.integers(1, 256, (2, 4, 5, 3), dtype=np.uint8)
    paste(pictures, np.array([2, 0]), np.array([6, 0]), np.array([5, 1]), stamps)
    np.testing.assert_array_equal(pictures[2, 5:9, 6:11], stamps[0])
    np.testing.assert_array_equal(pictures[0, 1:5, 0:5], stamps[1])
    assert (pictures > 0).sum() == stamps.size


def test_stencil_leaves_the_picture_in_the_holes():
    """Of each 2 x 2 stamp the diagonal is coloured, on the edge of the picture, too."""
    pictures = np.full((2, 6, 6, 3), 9, np.uint8)
    hole = np.array([[False, True], [True, False]])
    kept = np.where(hole, 255, 0).astype(np.uint8)[None, ..., None].repeat(3, axis=3).repeat(2, axis=0)
    stamps = np.where(kept > 0, 0, np.array([1, 2, 3])).astype(np.uint8)
    stencil(pictures, np.array([1, 0]), np.array([3, 4]), np.array([2, 4]), kept, stamps)
    assert pictures[1, 2, 3].tolist() == pictures[1, 3, 4].tolist() == [1, 2, 3]
    assert pictures[0, 4, 4].tolist() == pictures[0, 5, 5].tolist() == [1, 2, 3]
    assert (pictures != 9).any(axis=-1).sum() == 4


def commands(name: str, spec, k: int, index: int):
    """Something to do at turn k: gold for even tasks, then nonsense."""
    task = spec.tasks[index]
    if index % 2 == 0 and k < len(task.gold):
        return task.gold[k]
    if name.startswith("table"):
        rows = np.random.default_rng([k, index]).normal(size=(2, 3)).astype(np.float32)
        return (Array("command", rows),) if index % 3 else (Text("?"),)
    return (Text(f"<answer>click {7 * k} {5 * index}</answer>"),) if index % 3 else (Text("<answer>"),)


@pytest.mark.parametrize("name", SPECS)
def test_lanes_together_are_as_lanes_alone(name):
    """Eight tasks in one program, lanes leaving it as they end, and each in an environment of its own."""
    spec = SPECS[name]
    tasks = [spec.tasks[i] for i in range(8)]
    vector, alone = spec.make_vector(), [spec.make() for _ in tasks]
    firsts = vector.reset(tasks, range(8))
    live = []
    for i, (task, one) in enumerate(zip(tasks, alone, strict=True)):
        same(firsts[i], one.reset(task, 99))
        live.append(i)
    for k in range(spec.max_turns):
        outputs = [commands(name, spec, k, i) for i in live]
        steps = vector.step(live, outputs)
        for i, output, step in zip(live, outputs, steps, strict=True):
            other = alone[i].step(output)
            same(step.observation, other.observation)
            assert (step.reward, step.terminated, step.truncated) == (other.reward, other.terminated, other.truncated)
            assert dict(step.info) == dict(other.info)
        live = [i for i, step in zip(live, steps, strict=True) if not (step.terminated or step.truncated)]


def same(a, b) -> None:
    assert len(a.content) == len(b.content) and a.keep == b.keep
    for p, q in zip(a.content, b.content, strict=True):
        x, y = (vars(one).get("pixels", vars(one).get("values")) for one in (p, q))
        np.testing.assert_array_equal(x, y)


def test_arrays_and_content_give_equal_episodes():
    spec = Tabletop(TableTasks(pushing=0.5), sees="state")
    tasks = [spec.tasks[i] for i in range(6)]
    content, raw = spec.make_vector(), spec.make_vector()
    content.reset(tasks, range(6))
    seen = raw.reset_arrays(np.array([task.info["seed"] for task in tasks], np.uint64))
    for _ in range(5):
        actions = TableExpert().actions(raw)
        steps = content.step(range(6), [(Array("command", one[None]),) for one in actions])
        seen, rewards, terminated, truncated = raw.step_arrays(actions)
        for i, step in enumerate(steps):
            np.testing.assert_array_equal(step.observation.content[0].values, seen[i])
            assert (step.reward, step.terminated, step.truncated) == (rewards[i], terminated[i], truncated[i])


def test_resetting_some_lanes_leaves_the_others_alone():
    program = Apps().make_vector()
    seeds = np.arange(5, dtype=np.uint64)
    program.reset_arrays(seeds)
    seen, *_ = program.step_arrays(np.array([[2, 1, 0]] * 5, np.float32))
    fresh = program.reset_arrays(np.array([11, 12], np.uint64), np.array([1, 3]))
    after = program.observe(slice(None))
    np.testing.assert_array_equal(after[[0, 2, 4]], seen[[0, 2, 4]])
    np.testing.assert_array_equal(after[[1, 3]], fresh)
    assert program.steps.tolist() == [1, 0, 1, 0, 1]
    alone = Apps().make_vector().reset_arrays(np.array([12], np.uint64))
    np.testing.assert_array_equal(fresh[1], alone[0])


def test_observations_are_arrays_of_their_own():
    program = Apps().make_vector()
    first = program.reset_arrays(np.arange(3))
    kept = first.copy()
    second = program.step_arrays(np.array([[2, 1, 0]] * 3, np.float32))[0]
    np.testing.assert_array_equal(first, kept)
    second[:] = 0
    assert program.observe(slice(None)).any()


def test_truncation_comes_with_the_limit_and_not_on_success():
    program = Apps(max_turns=2).make_vector()
    program.reset_arrays(np.arange(2))
    idle = np.array([[4, 0, 0], [4, 0, 0]], np.float32)
    assert not program.step_arrays(idle)[3].any()
    idle[1, 0] = 3
    _, _, terminated, truncated = program.step_arrays(idle)
    assert terminated.tolist() == [False, True] and truncated.tolist() == [True, False]


def test_tasks_of_other_settings_are_refused():
    other = AppTasks(pages=4)[0]
    with pytest.raises(ConfigError, match="must come from a task set with the settings"):
        Apps().make().reset(other, 0)


def test_one_lane_is_the_program_with_one_lane():
    environment = Screens().make()
    assert isinstance(environment, ArrayLane)
    environment.reset(Screens().tasks[3], 0)
    assert len(environment.program.steps) == 1
