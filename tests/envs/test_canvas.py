import numpy as np

from saccade.envs.datasets import canvas
from saccade.envs.datasets.dice import Dice
from saccade.envs.datasets.glyphs import glyphs


def blank(value=0.0):
    return np.full((6, 8, 3), value, dtype=np.float32)


def lit(painted):
    return set(zip(*(axis.tolist() for axis in np.nonzero(painted.any(2))), strict=True))


def test_frame_paints_the_pixels_inside_the_edges():
    """The box 1,2,5,5 covers columns 1-4 and rows 2-4: a ring of 4 x 3 pixels without its 2 x 1 middle."""
    painted = blank()
    canvas.frame(painted, (1, 2, 5, 5), (255, 0, 0))
    assert lit(painted) == {(y, x) for y in (2, 3, 4) for x in (1, 2, 3, 4)} - {(3, 2), (3, 3)}


def test_paste_mixes_ink_over_the_darkened_rim():
    """At ink a and shade s a level b becomes b' + a (c - b') with b' = b (1 - 0.6 s).

    For b = 100, c = 200: a = s = 0 leaves 100; a = 0, s = 1 gives 40; a = s = 1 gives 200; a = 0.2, s = 1 gives 72.
    """
    painted = blank(100.0)
    ink = np.array([[0, 0, 255, 51]], dtype=np.uint8)
    shade = np.array([[0, 255, 255, 255]], dtype=np.uint8)
    canvas.paste(painted, ink, shade, 2, 3, (200, 200, 200))
    np.testing.assert_allclose(painted[3, 2:6, 0], [100, 40, 200, 72], rtol=1e-5)
    painted[3, 2:6] = 100
    assert (painted == 100).all()


def test_a_stroke_bent_at_its_middle_is_straight_and_may_end_on_the_far_edge():
    painted = blank()
    canvas.stroke(painted, (0.0, 2.5), (4.0, 2.5), (8.0, 2.5), (9.0, 9.0, 9.0))
    assert lit(painted) == {(2, x) for x in range(8)}


def test_backgrounds_stay_dark_and_depend_on_the_dice_only():
    first, again = (canvas.background(Dice(np.random.default_rng(3)), 20, 12) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (12, 20, 3) and first.dtype == np.float32
    for seed in range(50):
        painted = canvas.background(Dice(np.random.default_rng(seed)), 64, 64)
        assert np.median(painted) < 130 and painted.max() < 170


def test_a_background_without_clutter_is_a_gradient():
    painted = canvas.background(Dice(np.random.default_rng(0)), 64, 64, clutter=0.0)
    np.testing.assert_allclose(np.diff(painted, n=2, axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.diff(painted, n=2, axis=1), 0, atol=1e-3)


def test_finished_pixels_are_cut_to_the_range_of_bytes():
    painted = blank(300.0)
    painted[0, 0] = -5
    picture = canvas.picture(painted)
    assert picture.pixels[0, 0].tolist() == [0, 0, 0] and picture.pixels[1, 1].tolist() == [255, 255, 255]


def test_boxes_of_glyphs_are_tight_around_ink():
    for size in (14, 22):
        stamps = glyphs(size)
        assert stamps.ink.shape == (1797, size, size)
        for which in range(0, 1797, 97):
            x1, y1, x2, y2 = stamps.box[which]
            inside = stamps.ink[which] >= 128
            assert inside[y1].any() and inside[y2 - 1].any() and inside[:, x1].any() and inside[:, x2 - 1].any()
            assert inside[y1:y2, x1:x2].sum() == inside.sum()
            assert (stamps.shade[which] >= stamps.ink[which]).all()
