"""The grid of pictures before and after."""

import numpy as np
import PIL.Image

from saccade.report.grid import CELL, GAP, write_grid
from saccade.report.snapshot import Pictures


def group(task, *parts):
    return {"task": task, "rollouts": [{"turns": [{"output": [part]}] if part else []} for part in parts]}


def test_pictures_of_one_task_and_seed_stand_below_each_other(tmp_path):
    pictures = Pictures(tmp_path)
    red, green, blue = (pictures.put(np.full((2, 2, 3), colour, np.uint8)) for colour in np.eye(3) * 255)
    text = {"text": "no picture"}
    before = [group("a", red, green), group("b", blue, text), group("c", red)]
    after = [group("b", red, red), group("a", blue, None)]
    assert write_grid(tmp_path / "grid.png", {"before": before, "after": after}, tmp_path / "images")
    with PIL.Image.open(tmp_path / "grid.png") as sheet:
        found = np.asarray(sheet)
    assert found.shape == (2 * CELL + GAP, 2 * CELL + GAP, 3)
    corners = [tuple(found[y, x]) for y in (0, -1) for x in (0, -1)]
    r, g, b = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert corners == [r, b, b, r] and g not in corners
    assert tuple(found[CELL, 0]) == (255, 255, 255)


def test_every_task_is_shown_before_any_is_shown_twice(tmp_path):
    pictures = Pictures(tmp_path)
    red, blue = (pictures.put(np.full((2, 2, 3), colour, np.uint8)) for colour in ([255, 0, 0], [0, 0, 255]))
    groups = [group("a", *[red] * 20), group("b", blue, blue)]
    assert write_grid(tmp_path / "grid.png", {"before": groups}, tmp_path / "images")
    with PIL.Image.open(tmp_path / "grid.png") as sheet:
        row = np.asarray(sheet)[0, :: CELL + GAP]
    assert [tuple(pixel) for pixel in row[:5]] == [(255, 0, 0), (0, 0, 255)] * 2 + [(255, 0, 0)] and len(row) == 16


def test_without_pictures_there_is_no_grid(tmp_path):
    assert not write_grid(tmp_path / "grid.png", {"before": [group("a", {"text": "7"})], "after": []}, tmp_path)
    assert not write_grid(tmp_path / "grid.png", {}, tmp_path)
    assert not (tmp_path / "grid.png").exists()
