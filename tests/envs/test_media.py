"""Films, and tables of separated fields."""

import sys

import numpy as np
import pytest
from PIL import Image as Picture

from saccade.core.content import Video
from saccade.core.errors import DataError
from saccade.envs.datasets.media import Media, Place
from saccade.envs.datasets.rows import read_rows

av = pytest.importorskip("av")

PLACE = Place("data.jsonl", 3, "video")


BITS = 6


def film(path, frames, rate=10, codec="mpeg4", side=8 * BITS):
    """Frame i has its number in it, one stripe of 8 columns a bit: compression cannot blur black into white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 12
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
        container.mux(stream.encode())
    return path


def numbered(i):
    stripes = [255 * (i >> bit & 1) for bit in range(BITS)]
    return np.broadcast_to(np.repeat(np.asarray(stripes, np.uint8), 8)[None, :, None], (8 * BITS, 8 * BITS, 3)).copy()


def decoded(source, root, most=32) -> Video:
    video = Media("video", source, root, PLACE, most).decoded()
    assert isinstance(video, Video)
    return video


def shown(video):
    """Which frames these are, by their stripes."""
    return [sum(int(frame[8, 4 + 8 * bit].mean() > 127) << bit for bit in range(BITS)) for frame in video.frames]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx"), ("a.MP4", "mpeg4")]
)
def test_short_films_keep_all_frames_and_their_rate(name, codec, tmp_path):
    film(tmp_path / name, 9, codec=codec)
    video = decoded(name, tmp_path)
    assert shown(video) == list(range(9))
    assert video.fps == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_long_films_are_sampled_evenly_from_the_first_frame_to_the_last(name, tmp_path):
    """Of 50 frames 8: round(i 49 / 7) = 0, 7, 14, ..., 49, seven frames apart: 10 / 7 a second."""
    film(tmp_path / name, 50)
    video = decoded(name, tmp_path, 8)
    assert shown(video) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert video.fps == pytest.approx(10 / 7, rel=0.01)
    assert len(decoded(name, tmp_path).frames) == 32
    assert shown(decoded(name, tmp_path, 1)) == [0]


def test_films_may_be_given_as_bytes(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        source = {"bytes": film(tmp_path / name, 3).read_bytes(), "path": name}
        assert shown(decoded(source, tmp_path)) == [0, 1, 2]


def test_animated_pictures_keep_all_frames(tmp_path):
    frames = [Picture.fromarray(numbered(i)) for i in range(40)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert shown(decoded("a.gif", tmp_path)) == list(range(40))


@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_a_film_that_cannot_be_read_is_named(share, tmp_path):
    whole = film(tmp_path / "whole.mp4", 20).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(share * len(whole))])
    media = Media("video", "cut.mp4", tmp_path, PLACE)
    media.check()
    with pytest.raises(DataError, match=r"^data.jsonl: row 3: video: found 'cut.mp4', which cannot be read") as caught:
        media.decoded()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["not a film", "#EXTM3U\n#EXTINF:1,\nreal.mp4\n", "ffconcat version 1.0\nfile real.mp4\n"]
)
def test_texts_and_lists_of_films_are_no_films(text, tmp_path):
    film(tmp_path / "real.mp4", 3)
    (tmp_path / "words.mp4").write_text(text)
    with pytest.raises(DataError, match=r"'words\.mp4', which cannot be read"):
        decoded("words.mp4", tmp_path)
    with pytest.raises(DataError, match="expected a video that exists"):
        Media("video", "none.mp4", tmp_path, PLACE).check()


def test_the_package_that_decodes_films_is_named_where_it_is_missing(tmp_path, monkeypatch):
    film(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"row 3: video: found 'a.mp4', a film, expected the package av"):
        decoded("a.mp4", tmp_path)


# --- tables -----------------------------------------------------------------------------------------------------------


def rows(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return list(read_rows(path))


def test_tables_have_a_row_a_line_and_every_field_is_text(tmp_path):
    text = 'name\tvalue\nfirst\t1\n\n"two\nlines"\t"a ""word"""\n'
    assert rows(tmp_path / "a.tsv", text) == [
        (1, {"name": "first", "value": "1"}),
        (2, {"name": "two\nlines", "value": 'a "word"'}),
    ]
    assert rows(tmp_path / "a.csv", "\ufeffname,value\r\n1,\r\n") == [(1, {"name": "1", "value": ""})]
    assert rows(tmp_path / "b.csv", "") == []


def test_fields_may_hold_pictures(tmp_path):
    long = "x" * 300_000
    assert rows(tmp_path / "a.tsv", f"image\tlabel\n{long}\tA\n") == [(1, {"image": long, "label": "A"})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n3\n", "row 2: found 1 fields, expected 2"),
        (b"a,b\n1,2,3\n", "row 1: found 3 fields, expected 2"),
        (b"a,a\n1,2\n", "found the column 'a' twice"),
        (b'a,b\n1,"2\n', "row 1: found a bad line"),
        (b"a,b\n1,\xff\n", "row 1: found bytes that are no text"),
    ],
)
def test_mistakes_in_tables_are_named(data, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)
