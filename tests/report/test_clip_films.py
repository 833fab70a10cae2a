"""Clips that a policy drew are shown as films of their own."""

import base64
import io
import re

import numpy as np
import PIL.Image
import pytest

from saccade.core.content import Text, Video
from saccade.core.errors import DataError
from saccade.core.trajectory import Prompt, Task, Trajectory, forced_turn
from saccade.report.film import PAUSE_MS, played
from saccade.report.gallery import Section, write_gallery
from saccade.report.snapshot import MOST_FRAMES, Pictures, snapshot


def clip(frames=6, fps=4.0):
    """A white column that moves one pixel a frame, and wraps."""
    shown = np.zeros((frames, 12, 12, 3), np.uint8)
    for i in range(frames):
        shown[i, :, i % 12] = 255
    return Video(shown, fps)


def group(video, tmp_path):
    task = Task("t", (Text("bounce"),))
    trajectory = Trajectory(Prompt(task, task.prompt), [forced_turn((video,), None, 1)])
    return snapshot([trajectory], Pictures(tmp_path), {})


def opened(data):
    film = PIL.Image.open(io.BytesIO(data))
    frames, times = [], []
    for i in range(film.n_frames):
        film.seek(i)
        frames.append(np.asarray(film.convert("RGB")))
        times.append(film.info["duration"])
    return frames, times


def test_a_film_shows_every_frame_enlarged_at_the_clips_own_speed(tmp_path):
    """12 pixels are enlarged by 19 to 228; four frames a second are 250 ms each."""
    (part,) = group(clip(), tmp_path)["rollouts"][0]["turns"][0]["output"]
    frames, times = opened(played(part, tmp_path / "images"))
    assert len(frames) == 6 and frames[0].shape == (228, 228, 3)
    for i, frame in enumerate(frames):
        assert frame[:, 19 * i : 19 * (i + 1)].min() == 255 and frame.sum() == 228 * 19 * 3 * 255
    assert times == [250] * 5 + [250 + PAUSE_MS]
    assert played(part, tmp_path / "images") == played(part, tmp_path / "images")


def test_kept_frames_of_a_long_clip_share_its_time(tmp_path):
    """32 frames at 8 a second take four seconds; the eight that are kept take half a second each."""
    (part,) = group(clip(32, 8.0), tmp_path)["rollouts"][0]["turns"][0]["output"]
    frames, times = opened(played(part, tmp_path / "images"))
    assert len(frames) == MOST_FRAMES and times[0] == 500


def test_galleries_play_what_was_drawn(tmp_path):
    shown = group(clip(), tmp_path)
    path = tmp_path / "gallery.html"
    write_gallery(path, [Section("s", {"": [shown]})], title="t", pictures=tmp_path / "images")
    films = re.findall(
        r'<img class="film" alt="the clip that was drawn" src="data:image/gif;base64,([^"]+)"', path.read_text()
    )
    assert len(films) == 1 and len(opened(base64.b64decode(films[0]))[0]) == 6


def test_a_missing_picture_is_named(tmp_path):
    (part,) = group(clip(), tmp_path)["rollouts"][0]["turns"][0]["output"]
    with pytest.raises(DataError, match="missing"):
        played(part, tmp_path / "elsewhere")
