from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="metaworld is not installed (saccade[manipulation])")

from saccade.core.content import Array, Image, Text
from saccade.core.errors import ConfigError, DataError
from saccade.envs.gym import command
from saccade.envs.metaworld import INSTRUCTIONS, WORDS, ArmExpert, ArmTasks, MetaWorld, TopView, _another, _make
from saccade.testing import check_environment

NAMES = tuple(INSTRUCTIONS)
SPECS = {
    "state": MetaWorld(ArmTasks(("reach-v3", "push-v3"))),
    "picture": MetaWorld(
        ArmTasks(("drawer-open-v3",), spread=(0.7, 1.0), shove=0.1, wording="any"),
        view=TopView(noise=4.0),
        state="hand",
        chunk=4,
        keep=1,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_environment_keeps_its_contract(name):
    check_environment(SPECS[name], n=2)


def state_of(observation):
    (part,) = (part for part in observation.content if isinstance(part, Array))
    return part.values


def play(environment, task, expert, turns=200):
    environment.reset(task, 0)
    steps = []
    while len(steps) < turns and not (steps and (steps[-1].terminated or steps[-1].truncated)):
        steps.append(environment.step(expert.outputs(environment)))
    return steps


@pytest.mark.parametrize("name", NAMES)
def test_scripted_experts_succeed_and_are_paid_once(name):
    spec = MetaWorld(ArmTasks((name,)), max_turns=150)
    environment = spec.make()
    for task in spec.tasks[:2]:
        steps = play(environment, task, ArmExpert())
        last = steps[-1]
        assert last.terminated
        assert last.info["success"]
        assert [step.reward for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
        assert last.info["path"] == len(steps)
        assert all(0 <= step.info["dense"] <= 10 for step in steps)
    environment.close()


@pytest.mark.parametrize("name", NAMES)
def test_equal_tasks_start_bit_equal_whatever_was_played_before(name):
    """On a simulator that has just opened the drawer, and on a fresh one."""
    spec = MetaWorld(ArmTasks((name,)))
    task, other = spec.tasks[0], spec.tasks[1]
    environment, fresh = spec.make(), spec.make()
    first = state_of(environment.reset(task, 0))
    push = command(np.full((1, 4), 0.5))
    moved = state_of(environment.step(push).observation)
    play(environment, other, ArmExpert(), turns=60)
    for again in (environment, fresh):
        assert np.array_equal(state_of(again.reset(task, 1)), first)
        assert np.array_equal(state_of(again.step(push).observation), moved)
    assert not np.array_equal(state_of(environment.reset(other, 0)), first)
    environment.close()
    fresh.close()


def test_the_start_is_the_one_meta_world_makes_itself():
    """The same random vector put into a plain simulator that is reset in Meta-World's own way."""
    import metaworld

    for name in ("drawer-open-v3", "push-v3", "door-open-v3"):
        spec = MetaWorld(ArmTasks((name,)))
        environment = spec.make()
        ours = state_of(environment.reset(spec.tasks[4], 0))
        plain = metaworld.ALL_V3_ENVIRONMENTS[name]()
        plain._set_task_called, plain._partially_observable = True, False
        plain._freeze_rand_vec, plain._last_rand_vec = True, environment._arm._last_rand_vec
        seen, _ = plain.reset()
        assert np.allclose(ours, seen, atol=1e-6)


def test_chunks_are_carried_out_as_rehearsed():
    spec = MetaWorld(ArmTasks(("push-v3",)))
    one = play(spec.make(), spec.tasks[0], ArmExpert())
    three = play(replace(spec, chunk=3).make(), spec.tasks[0], ArmExpert(3))
    assert three[-1].info["path"] == one[-1].info["path"]
    assert np.array_equal(state_of(three[-1].observation), state_of(one[-1].observation))


def test_a_copied_simulator_moves_like_one_that_was_made_anew():
    spec = MetaWorld(ArmTasks(("door-open-v3",)), chunk=40)
    random = np.random.default_rng(0)
    given = command(random.uniform(-1, 1, (40, 4)))
    ends = []
    for make in (lambda: _make("door-open-v3", None), lambda: _another("door-open-v3", None)):
        environment = spec.make()
        environment._arms["door-open-v3"] = make()
        for i in (0, 1):
            environment.reset(spec.tasks[i], 0)
            ends.append(state_of(environment.step(given).observation))
    assert np.array_equal(ends[0], ends[2])
    assert np.array_equal(ends[1], ends[3])
    assert not np.array_equal(ends[0], ends[1])


def test_time_limits_truncate_and_malformed_outputs_are_answered():
    spec = MetaWorld(max_turns=3)
    environment = spec.make()
    first = state_of(environment.reset(spec.tasks[0], 0))
    outputs = [(Text("up"),), command([[np.nan, 0, 0, 0]]), command([[9, 0, 0, 0]])]
    steps = [environment.step(output) for output in outputs]
    assert [step.info["valid"] for step in steps] == [False, False, True]
    assert [step.truncated for step in steps] == [False, False, True]
    assert np.array_equal(state_of(steps[1].observation), first)
    assert steps[2].info["clipped"]
    assert steps[2].info["path"] == 1


def starts(tasks, count=24):
    environment = MetaWorld(tasks).make()
    rows = [state_of(environment.reset(task, 0)) for task in tasks[:count]]
    environment.close()
    return np.stack(rows)


def test_spread_keeps_starts_of_training_and_generalisation_apart():
    """The goal box of reach-v3 is x in [-0.1, 0.1], y in [0.8, 0.9], z in [0.05, 0.3], its object box x in [-0.1, 0.1],
    y in [0.6, 0.7]. Within 0.5 of the centre: |x| <= 0.05, |y - 0.85| <= 0.025. Outside: some coordinate is further
    out than half."""
    inner = starts(ArmTasks(spread=(0.0, 0.5)))
    outer = starts(ArmTasks(spread=(0.5, 1.0)))

    def far(rows):
        goal = np.abs(rows[:, 36:39] - [0, 0.85, 0.175]) / [0.1, 0.05, 0.125]
        thing = np.abs(rows[:, 4:6] - [0, 0.65]) / [0.1, 0.05]
        return np.concatenate([goal, thing], 1).max(1)

    assert far(inner).max() < 0.52
    assert far(outer).min() > 0.48


def test_a_shove_moves_the_hand_aside_once():
    """Standing still, the hand drifts a little; with a shove of 10 cm it ends about 10 cm away, horizontally."""
    still, hands = command(np.zeros((1, 4))), {}
    for shove in (0.0, 0.1):
        spec = MetaWorld(ArmTasks(("push-v3",), shove=shove))
        environment = spec.make()
        environment.reset(spec.tasks[0], 0)
        hands[shove] = np.stack([state_of(environment.step(still).observation)[:3] for _ in range(60)])
    assert np.array_equal(hands[0.0][:10], hands[0.1][:10])
    apart = np.linalg.norm(hands[0.1][-1, :2] - hands[0.0][-1, :2])
    assert 0.08 < apart < 0.12


def test_wordings_are_kept_apart_and_use_known_words():
    plain = {task.prompt[0].text for task in ArmTasks(NAMES)[:60]}
    other = {task.prompt[0].text for task in ArmTasks(NAMES, wording="other")[:60]}
    assert plain == {words[0] for words in INSTRUCTIONS.values()}
    assert not plain & other
    assert {word for text in plain | other for word in text.split()} <= set(WORDS)


def test_top_view_shows_where_things_are():
    """Object at the middle of the table shown, x = 0 and y = 0.675: pixel 15.5 of 32 both ways; the goal to the right
    of it (+x) is right in the picture, the hand beyond it (+y) above."""
    state = np.zeros(39)
    state[4:7] = 0, 0.675, 0
    state[36:39] = 0.3, 0.675, 0.5
    state[0:3] = 0, 0.9, 0.25
    pixels = TopView(background=(0, 0, 0))(state).pixels.astype(float)
    grid = np.arange(32)
    centre = [
        (pixels[:, :, c].sum(0) @ grid / pixels[:, :, c].sum(), pixels[:, :, c].sum(1) @ grid / pixels[:, :, c].sum())
        for c in range(3)
    ]
    assert np.allclose(centre[0], (15.5, 15.5), atol=0.05)
    assert np.allclose(centre[1], (15.5 + 0.3 / 1.1 * 32, 15.5), atol=0.05)
    assert np.allclose(centre[2], (15.5, 15.5 - 0.225 / 0.75 * 32), atol=0.05)
    assert pixels[:, :, 1].max() > pixels[:, :, 2].max() > pixels[:, :, 0].max()


def test_pictures_come_before_numbers():
    spec = SPECS["picture"]
    first = spec.make().reset(spec.tasks[0], 0)
    picture, numbers = first.content
    assert isinstance(picture, Image)
    assert picture.pixels.shape == (32, 32, 3)
    assert numbers.values.shape == (4,)
    assert first.keep == 1


def test_noise_of_the_expert_is_the_same_each_time():
    spec = MetaWorld()
    ends = [play(spec.make(), spec.tasks[0], ArmExpert(noise=0.3), turns=5)[-1] for _ in range(2)]
    assert np.array_equal(*(state_of(end.observation) for end in ends))
    plain = play(spec.make(), spec.tasks[0], ArmExpert(), turns=5)[-1]
    assert not np.array_equal(state_of(ends[0].observation), state_of(plain.observation))


def test_splits_share_no_start():
    seeds = [{task.info["seed"] for task in ArmTasks(count=300).split(part)} for part in ("train", "test")]
    assert not seeds[0] & seeds[1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="no task 'fly-v3'"):
        spec = MetaWorld(ArmTasks(("fly-v3",)))
        spec.make().reset(spec.tasks[0], 0)
    with pytest.raises(ConfigError, match="spread"):
        ArmTasks(spread=(0.5, 0.5))
    with pytest.raises(ConfigError, match="nothing to see"):
        MetaWorld(state="none")
    with pytest.raises(DataError, match="acts in MetaWorld"):
        from saccade.envs.datasets.digits import DigitScenes
        from saccade.envs.tools import ToolEnvironment

        ArmExpert().outputs(ToolEnvironment(DigitScenes(count=4), max_turns=2).make())
