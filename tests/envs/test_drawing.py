import numpy as np
import pytest

from saccade.envs import drawing

BLACK = np.zeros((6, 8, 3), np.uint8)


def lit(pixels):
    """(row, column) of every pixel that is not black."""
    return set(zip(*np.nonzero(pixels.any(2)), strict=True))


def test_outline_lights_the_pixels_inside_the_edges_of_the_box():
    """The box 1,2,5,5 covers columns 1-4 and rows 2-4: a ring of 4 x 3 pixels without its 2 x 1 middle."""
    ring = {(y, x) for y in (2, 3, 4) for x in (1, 2, 3, 4)} - {(3, 2), (3, 3)}
    assert lit(drawing.outline(BLACK, (1, 2, 5, 5))) == ring


def test_a_thick_outline_of_a_small_box_fills_it():
    assert lit(drawing.outline(BLACK, (1, 2, 4, 4), thickness=4)) == {(y, x) for y in (2, 3) for x in (1, 2, 3)}


def test_outline_is_cut_at_the_border():
    drawn = lit(drawing.outline(BLACK, (-5, -5, 3, 3)))
    assert drawn == {(y, x) for y in range(3) for x in range(3)} - {(1, 1)}


def test_line_runs_from_red_to_blue_through_every_column():
    drawn = drawing.line(BLACK, (0.5, 1.5), (7.5, 1.5))
    assert lit(drawn) == {(1, x) for x in range(8)}
    assert tuple(drawn[1, 0]) == (255, 0, 0) and tuple(drawn[1, 7]) == (0, 0, 255)
    assert (np.diff(drawn[1, :, 2].astype(int)) > 0).all()


def test_a_line_may_end_on_the_far_edge():
    assert lit(drawing.line(BLACK, (8, 6), (8, 6))) == {(5, 7)}


def test_a_line_of_three_pixels_covers_the_rows_beside_it():
    assert {y for y, _ in lit(drawing.line(BLACK, (2, 2.5), (5, 2.5), thickness=3))} == {1, 2, 3}


def test_disc_of_radius_one_around_a_pixel_corner_is_two_by_two():
    assert lit(drawing.disc(BLACK, (3, 3), 1.0)) == {(2, 2), (2, 3), (3, 2), (3, 3)}


def test_text_is_drawn_near_its_corner_and_other_alphabets_do_not_stop_it():
    drawn = drawing.write(np.zeros((40, 60, 3), np.uint8), "ob\u4e2d\U0001f600", (20, 10))
    rows, columns = np.nonzero(drawn.any(2))
    assert rows.size > 0 and rows.min() >= 10 and columns.min() >= 20


def test_drawing_leaves_its_input_alone():
    for draw in (
        lambda: drawing.outline(BLACK, (0, 0, 4, 4)),
        lambda: drawing.line(BLACK, (0, 0), (4, 4)),
        lambda: drawing.disc(BLACK, (2, 2), 2),
        lambda: drawing.write(BLACK, "x", (0, 0)),
        lambda: drawing.resize(BLACK, 3, 3),
    ):
        draw()
    assert not BLACK.any()


def test_shrinking_by_two_averages_blocks():
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0], pixels[:, 2:] = 200, 80
    assert drawing.resize(pixels, 2, 1)[0, :, 0].tolist() == [50, 80]


@pytest.mark.parametrize(("size", "fitted"), [((64, 64), (16, 16)), ((100, 50), (16, 8)), ((1, 1000), (1, 16))])
def test_fitted_keeps_the_aspect_and_at_least_one_pixel(size, fitted):
    assert drawing.fitted(size[0], size[1], 16) == fitted


@pytest.mark.parametrize(
    ("box", "whole"),
    [
        ((1.2, 1.8, 3.1, 4.0), (1, 1, 4, 4)),
        ((-3, -3, 100, 100), (0, 0, 8, 6)),
        ((3, 3, 3, 5), None),
        ((5, 1, 2, 4), None),
        ((5.8, 1, 5.2, 4), None),
        ((8, 0, 12, 4), None),
    ],
)
def test_whole_box_rounds_outward_and_cuts(box, whole):
    assert drawing.whole_box(box, 8, 6) == whole
