import math

import numpy as np
import pytest

from saccade.core.content import Text, Video
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.rewards.physics import (
    CollisionKept,
    ConditionMatch,
    DarkKept,
    ForKind,
    LawKept,
    MassKept,
    Mechanics,
    OnCourse,
    PathError,
    Sharpness,
    Smoothness,
    Travel,
    measure,
)

PATH = ((2.5, 3.5), (3.5, 3.5), (4.5, 3.5), (5.5, 3.5))
TARGET = {"kind": "uniform", "path": PATH, "mass": 1.0, "acceleration": (0.0, 0.0), "walls": (0.0, 20.0)}


def dots(*places, value=255):
    """One bright pixel a frame; None leaves the frame dark."""
    frames = np.zeros((len(places), 12, 12, 3), np.uint8)
    for frame, place in zip(frames, places, strict=True):
        if place is not None:
            frame[place[1], place[0]] = value
    return frames


def paid(reward, frames, target=TARGET):
    task = Task("t", (Text("uniform"),), target)
    return reward.score(Trajectory(Prompt(task, task.prompt), [forced_turn((Video(frames),), None, 1)])).value


RIGHT = dots((2, 3), (3, 3), (4, 3), (5, 3))


def test_centres_are_pixel_centres_and_faint_pixels_do_not_count():
    """Two pixels of brightness 1 and 0.6 at x = 2.5 and 3.5: centre (2.5 + 0.6 * 3.5) / 1.6 = 2.875, mass 1.6."""
    frames = dots((2, 3))
    frames[0, 3, 3] = 153
    frames[0, 9, 9] = 63
    found = measure(frames)
    np.testing.assert_allclose(found.centre, [[2.875, 3.5]])
    np.testing.assert_allclose([found.mass[0], found.peak[0]], [1.6, 1.0])


def test_dim_things_away_from_the_ball_are_paid_for_though_no_centre_depends_on_them():
    """Brightness 51 / 255 = 0.2 in one of four frames, six pixels from the ball: exp(-(0.2 / 4) / mass 1).

    A pixel nearer than three standard deviations, 3.3 pixels, is the ball's own.
    """
    hazy = RIGHT.copy()
    hazy[0, 9, 2] = 51
    near = RIGHT.copy()
    near[0, 5, 2] = 51
    assert paid(DarkKept(), RIGHT) == paid(DarkKept(), near) == 1
    assert math.isclose(paid(DarkKept(), hazy), math.exp(-0.05))
    assert paid(Mechanics(), hazy) == paid(Mechanics(), RIGHT)


def test_a_measurement_equals_a_loop():
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    found = measure(frames)
    for f in range(3):
        mass = x = y = 0.0
        for i in range(5):
            for j in range(7):
                m = sum(int(c) for c in frames[f, i, j]) / 3 / 255
                if m >= 0.25:
                    mass, x, y = mass + m, x + m * (j + 0.5), y + m * (i + 0.5)
        np.testing.assert_allclose([found.mass[f], *found.centre[f]], [mass, x / mass, y / mass])


def test_rewards_by_hand():
    """One pixel to the right in two of four frames: e = 0.5. All is 1 for the exact clip of mass 1."""
    late = dots((2, 3), (3, 3), (5, 3), (6, 3))
    assert paid(PathError(), RIGHT) == 0 and paid(Mechanics(), RIGHT) == paid(LawKept(), RIGHT) == 1
    assert paid(PathError(), late) == 0.5
    assert math.isclose(paid(OnCourse(), late), math.exp(-0.5))
    assert math.isclose(paid(OnCourse(scale=2.0), late), math.exp(-0.25))
    # Steps 1, 2, 1 have second differences of 1 and -1.
    assert paid(Smoothness(), late) == -1 and math.isclose(paid(LawKept(), late), math.exp(-1))
    assert math.isclose(paid(Travel(), late), 4 / 3)
    # Start and first step are right; it is later that the clip is wrong.
    assert paid(ConditionMatch(), late) == 1
    assert math.isclose(paid(ConditionMatch(), dots((2, 5), (2, 5), (2, 5), (2, 5))), math.exp(-(2 + 1) / 2))


def test_mass_counts_in_both_directions():
    """Brightness 153 / 255 = 0.6 in place of 1, in all frames: exp(-0.4)."""
    faint = dots((2, 3), (3, 3), (4, 3), (5, 3), value=153)
    assert math.isclose(paid(MassKept(), faint), math.exp(-0.4))
    assert math.isclose(paid(MassKept(), RIGHT, TARGET | {"mass": 0.5}), math.exp(-1))
    assert math.isclose(paid(Mechanics(), faint), math.exp(-0.4))


def test_sharpness_is_the_share_of_the_brightest_pixel():
    wide = RIGHT.copy()
    wide[:, 4] = wide[:, 3]
    assert paid(Sharpness(), RIGHT) == 1 and paid(Sharpness(), wide) == 0.5


def test_a_dark_frame_is_as_far_away_as_can_be():
    dark = dots((2, 3), None, (4, 3), (5, 3))
    assert math.isclose(paid(PathError(), dark), math.hypot(12, 12) / 4)
    assert math.isclose(paid(LawKept(), dark), math.exp(-math.hypot(12, 12)))
    assert math.isclose(paid(Smoothness(), dark), -math.hypot(12, 12))
    assert paid(Sharpness(), dark) == 0.75 and paid(ConditionMatch(), dark) == 0


def test_walls_turn_a_ball_around_and_nothing_else_does():
    """At 2 pixels a frame against the wall at 10: 7.5, 9.5, then 1.5 beyond the wall, that is 8.5, and 6.5.

    The second differences are -3 and -1; mirrored at the wall the centre after 9.5 is at 11.5, and the one before 8.5,
    seen from behind the wall, at 10.5: both second differences vanish. In the middle of the frame they do not.
    """

    def at(*columns):
        frames = np.zeros((4, 12, 12, 3), np.uint8)
        for frame, x in zip(frames, columns, strict=True):
            frame[3, x] = 255
        return frames

    room = TARGET | {"walls": (2.0, 10.0)}
    assert paid(LawKept(), at(7, 9, 8, 6), room) == 1
    assert math.isclose(paid(LawKept(), at(3, 5, 4, 2), room), math.exp(-2))


def test_gravity_is_part_of_the_law():
    """A fall by 0, 1, 3, 6 rows has second differences 1, 1 downwards."""
    fall = dots((5, 2), (5, 3), (5, 5), (5, 8))
    assert paid(LawKept(), fall, TARGET | {"acceleration": (0.0, 1.0)}) == 1
    assert math.isclose(paid(LawKept(), fall), math.exp(-1))


def coloured(red, blue):
    """One red and one blue pixel a frame, in row 3; None leaves a ball out."""
    frames = np.zeros((len(red), 12, 12, 3), np.uint8)
    for frame, *places in zip(frames, red, blue, strict=True):
        for colour, x in zip((0, 2), places, strict=True):
            if x is not None:
                frame[3, x, colour] = 255
    return frames


def test_collisions_by_hand():
    """Equal masses of 1. A ball at 2 pixels a frame stops and the other leaves at 2: P and E stay.

    If it leaves at 1: P = 2 and P' = 1, so that |P' - P| / sum M |v| = 1/2; E = 2 and E' = 1/2: 3/4. If both move on
    together at 1: P' = 2, E' = 1: only 1/2 of the energy is missing.
    """
    assert paid(CollisionKept(), coloured((0, 2, 4, 4), (6, 6, 8, 10))) == 1
    assert math.isclose(paid(CollisionKept(), coloured((0, 2, 4, 4), (6, 6, 7, 8))), math.exp(-1.25))
    assert math.isclose(paid(CollisionKept(), coloured((0, 2, 4, 5), (6, 6, 7, 8))), math.exp(-0.5))
    assert paid(CollisionKept(), coloured((0, 2, 4, None), (6, 6, 8, 10))) == 0
    assert paid(CollisionKept(), coloured((3, 3, 3, 5), (6, 6, 6, 8))) == 0


def test_a_kind_of_its_own_is_scored_alone():
    assert paid(ForKind(inner=Mechanics(), kind="uniform"), RIGHT) == 1
    assert paid(ForKind(inner=Mechanics(), kind="bounce"), RIGHT) is None


def test_an_output_without_a_clip_is_unscored():
    task = Task("t", (), TARGET)
    trajectory = Trajectory(Prompt(task, ()), [forced_turn((Text("no"),), None, 1)])
    assert Mechanics().score(trajectory).value is None


def test_wrong_targets_are_named():
    with pytest.raises(DataError, match=r"'t'.*mapping"):
        paid(Mechanics(), RIGHT, None)
    with pytest.raises(DataError, match="4 frames, got one of 3"):
        paid(PathError(), RIGHT[:3])
    for kind in (OnCourse, Mechanics):
        with pytest.raises(ConfigError, match="scale"):
            kind(scale=0)
