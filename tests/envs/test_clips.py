import math

import numpy as np
import pytest

from saccade.core.content import Text, Video
from saccade.core.errors import ConfigError
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.envs.datasets.clips import (
    BANDS,
    DIRECTIONS,
    HELD_BANDS,
    HELD_OUT,
    KINDS,
    SPEEDS,
    WALL,
    Clips,
    Collision,
    Motion,
    disc,
    render,
)
from saccade.rewards.physics import CollisionKept, ConditionMatch, LawKept, MassKept, Mechanics, OnCourse, PathError


def paid(reward, task):
    return reward.score(Trajectory(Prompt(task, task.prompt), [forced_turn(task.gold[0], None, 1)])).value


def band(task):
    low, high = SPEEDS[task.info["kind"]]
    return int((task.info["speed"] - low) / (high - low) * BANDS)


def stepped(motion, frames, parts=4000):
    """The motion integrated in small steps, each wall met exactly where the free flight crosses it."""
    low, high = WALL, motion.side - WALL
    pull = 0.2 if motion.kind == "parabola" else 0.0
    (x, y), (vx, vy) = motion.start, motion.velocity
    found, dt = [(x, y)], 1 / parts
    for _ in range(frames - 1):
        for _ in range(parts):
            x, y, vy = x + vx * dt, y + vy * dt + pull * dt * dt / 2, vy + pull * dt
            if not low <= x <= high:
                x, vx = (2 * low - x if x < low else 2 * high - x), -vx
            if not low <= y <= high:
                y, vy = (2 * low - y if y < low else 2 * high - y), -vy
        found.append((x, y))
    return np.array(found)


@pytest.mark.parametrize(
    "motion",
    [
        Motion("uniform", (3.0, 4.0), (0.3, -0.2)),
        Motion("parabola", (3.0, 3.0), (0.6, -0.4)),
        Motion("bounce", (8.0, 5.0), (1.5, -0.9)),
        Motion("bounce", (3.0, 3.0), (-1.7, -1.2)),
    ],
)
def test_closed_form_equals_small_steps(motion):
    assert np.abs(motion.path(6) - stepped(motion, 6)).max() < 1e-3


def test_a_bounce_by_hand():
    """From x = 9 at 1.5 a frame the wall at 10 is met after 2/3 frames; at t = 1 the ball is 0.5 beyond it: at 9.5.

    From there it flies back: 8, 6.5; y = 5 stays.
    """
    path = Motion("bounce", (9.0, 5.0), (1.5, 0.0)).path(4)
    np.testing.assert_allclose(path, [(9, 5), (9.5, 5), (8, 5), (6.5, 5)])


def test_a_disc_is_brightest_at_its_centre_and_falls_as_a_gaussian():
    """At distance 2 the brightness is exp(-4 / 2.42)."""
    frame = render(np.array([[5.5, 4.5]]), 12)[0]
    assert frame.shape == (12, 12, 3) and frame.dtype == np.uint8
    assert frame[4, 5].tolist() == [255, 255, 255] and frame.max() == 255
    assert frame[4, 7, 0] == round(255 * math.exp(-4 / (2 * 1.1**2)))
    assert frame[6, 5, 0] == frame[4, 7, 0]
    assert disc(np.array([[5.5, 4.5]]), 12)[0].argmax() == 4 * 12 + 5


@pytest.mark.parametrize("part", ["train", "test"])
def test_exact_clips_score_near_the_top(part):
    """The measurer is tested on the simulator: what is missing is brightness below a quarter, and walls that cut it."""
    tasks = Clips(part=part)
    for i in range(120):
        task = tasks.task(i)
        assert paid(Mechanics(), task) > 0.82
        assert paid(PathError(), task) < 0.15 and paid(OnCourse(), task) > 0.86
        assert paid(MassKept(), task) > 0.9 and paid(LawKept(), task) > 0.68 and paid(ConditionMatch(), task) > 0.8


def test_kinds_are_what_they_are_called():
    for i in range(90):
        task = Clips().task(i)
        path = np.array(task.target["path"])
        assert path.min() >= WALL - 1e-9 and path.max() <= 12 - WALL + 1e-9
        second = np.diff(path, n=2, axis=0)
        free = np.abs(second - task.target["acceleration"]).max() < 1e-9
        assert free == (task.info["kind"] != "bounce")


def test_held_out_speeds_and_directions_are_never_in_training():
    for task in (Clips(count=600).task(i) for i in range(600)):
        assert band(task) not in HELD_BANDS and task.info["direction"] != HELD_OUT[task.info["kind"]]
    for task in (Clips(part="test").task(i) for i in range(120)):
        new = {"speed": band(task) in HELD_BANDS, "direction": task.info["direction"] == HELD_OUT[task.info["kind"]]}
        assert new[task.info["held"]]


def test_every_direction_is_trained_with_some_kind():
    seen = {(task.info["kind"], task.info["direction"]) for task in (Clips().task(i) for i in range(240))}
    assert seen == {(kind, way) for kind in KINDS for way in DIRECTIONS if way != HELD_OUT[kind]}


def test_prompts_tell_start_and_velocity():
    task = Clips().task(7)
    text, motion = task.prompt
    path = np.array(task.target["path"])
    np.testing.assert_allclose(6 + 6 * motion.values[:2], path[0], atol=1e-5)
    assert text.text == task.info["kind"]
    assert math.isclose(np.linalg.norm(motion.values[2:]), task.info["speed"], rel_tol=1e-5)


def test_jitter_changes_the_clip_but_not_the_prompt():
    exact, wrong = Clips().task(2), Clips(jitter=0.7).task(2)
    assert exact.target == wrong.target and exact.id == wrong.id
    assert exact.prompt[1].values.tolist() == wrong.prompt[1].values.tolist()
    assert exact.gold[0][0].frames.tolist() != wrong.gold[0][0].frames.tolist()
    assert exact.gold[0][0].frames[0].tolist() == wrong.gold[0][0].frames[0].tolist()


def test_prompts_are_of_unequal_difficulty():
    """With a velocity error in proportion to speed, what jitter costs grows from kind to kind."""
    tasks = Clips(jitter=0.7)
    means = [np.mean([paid(Mechanics(), tasks.task(i)) for i in range(k, 150, 3)]) for k in range(3)]
    assert means[0] > means[1] + 0.1 > means[2] + 0.15


def test_tasks_are_repeatable_and_seeds_differ():
    one, again, other = Clips().task(4), Clips().task(4), Clips(seed=1).task(4)
    assert one.target == again.target != other.target


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": ("uniform", "uniform")}, "kinds"),
        ({"kinds": ("orbit",)}, "orbit"),
        ({"frames": 7}, "frames"),
        ({"side": 8}, "side"),
        ({"jitter": -1.0}, "jitter"),
        ({"part": "dev"}, "part"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Clips(**settings)


HIT = Collision(((4.5, 11.0), (13.2, 12.0)), ((1.6, 0.1), (-0.4, 0.0)), (1.6, 1.1), side=20)


def test_a_head_on_hit_between_equals_hands_the_velocity_over():
    """Spreads of 1 touch at a distance of 2: from 6 apart at 1 pixel a frame after 4 frames."""
    paths = Collision(((2.0, 6.0), (8.0, 6.0)), ((1.0, 0.0), (0.0, 0.0)), (1.0, 1.0)).paths(7)
    assert paths[0].tolist() == [[x, 6.0] for x in (2, 3, 4, 5, 6, 6, 6)]
    assert paths[1].tolist() == [[x, 6.0] for x in (8, 8, 8, 8, 8, 9, 10)]


def test_a_heavy_ball_pushes_on_by_hand():
    """Masses 4 and 1 (spreads 2 and 1), 1 and 0 pixels a frame: (4 - 1) / 5 = 0.6 and 2 * 4 / 5 = 1.6 afterwards."""
    paths = Collision(((2.0, 6.0), (7.0, 6.0)), ((1.0, 0.0), (0.0, 0.0)), (2.0, 1.0)).paths(4)
    np.testing.assert_allclose(paths[0][:, 0], [2, 3, 4, 4.6])
    np.testing.assert_allclose(paths[1][:, 0], [7, 7, 7, 8.6])


def test_an_oblique_hit_keeps_momentum_and_energy():
    paths, mass = HIT.paths(7), np.array([1.6**2, 1.1**2])
    before, after = paths[:, 1] - paths[:, 0], paths[:, -1] - paths[:, -2]
    assert np.abs(after - before).max() > 0.5
    np.testing.assert_allclose(mass @ after, mass @ before)
    np.testing.assert_allclose(mass @ (after**2).sum(1), mass @ (before**2).sum(1))


@pytest.mark.parametrize("velocities", [((0.0, 1.0), (0.0, 0.0)), ((-1.0, 0.0), (0.0, 0.0)), ((1.0, 0.0), (1.0, 0.0))])
def test_balls_that_do_not_meet_go_straight_on(velocities):
    paths = Collision(((4.0, 6.0), (8.0, 6.0)), velocities).paths(6)
    np.testing.assert_allclose(np.diff(paths, axis=1), np.broadcast_to(np.array(velocities)[:, None], (2, 5, 2)))


def kept(clip):
    task = Task("t", (Text("collision"),))
    return CollisionKept().score(Trajectory(Prompt(task, task.prompt), [forced_turn((clip,), None, 1)])).value


def test_exact_collisions_are_near_the_top_and_others_are_not():
    """0.80, not 1: leaving out dim pixels moves a centre by up to a tenth of a pixel, and energy goes by its square."""
    clip = HIT.clip(7)
    still = Video(np.concatenate([clip.frames[:5], clip.frames[[5, 5]]]), clip.fps)
    assert kept(clip) > 0.75
    assert kept(still) < 0.3
    swapped = Video(np.ascontiguousarray(clip.frames[..., ::-1]), clip.fps)
    assert kept(swapped) == pytest.approx(kept(clip))
