"""Pictures and videos as data files give them: paths, bytes, data URIs, and errors that name file, row and field."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from PIL import Image as Picture
from PIL import ImageOps, ImageSequence

from saccade.core.content import Image, Part, Video
from saccade.core.errors import DataError

MediaKind = Literal["image", "video"]
FILMS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v")
"""Endings of files that PyAV decodes."""


@dataclass(frozen=True)
class Place:
    """Where in which file something stands; raises the errors."""

    file: str
    row: int
    field: str

    def at(self, suffix: str) -> Place:
        return replace(self, field=self.field + suffix)

    def wrong(self, found: str, expected: str) -> NoReturn:
        raise DataError(f"{self.file}: row {self.row}: {self.field}: found {found}, expected {expected}")


@dataclass(frozen=True)
class Media:
    """A picture or video that is not decoded yet."""

    kind: MediaKind
    source: Any
    root: Path
    place: Place
    most: int = 32
    """Frames that are taken of a film (``FILMS``), evenly spread from its first to its last.

    Lists of pictures and animated pictures keep all of theirs.
    """

    def decoded(self) -> Part:
        if self.kind == "image":
            return Image(self._pixels(self.source))
        if isinstance(self.source, list):
            frames, fps = self._frames()
        elif _is_film(where := self._encoded(self.source)):
            frames, fps = self._film(where)
        else:
            frames, fps = self._animation()
        sizes = sorted({(frame.shape[1], frame.shape[0]) for frame in frames})
        if len(sizes) != 1:
            self.place.wrong(f"frames of sizes {', '.join(f'{w} x {h}' for w, h in sizes)}", "frames of one size")
        return Video(np.stack(frames), fps)

    def check(self) -> None:
        """Whatever can be checked without decoding."""
        sources = self.source if self.kind == "video" and isinstance(self.source, list) else [self.source]
        if not sources:
            self.place.wrong("an empty list", "at least one frame")
        for source in sources:
            self._encoded(source)

    def _encoded(self, source: Any) -> bytes | Path:
        expected = f"a{'n image' if self.kind == 'image' else ' video'}: path, data URI, bytes, or {{bytes, path}}"
        if isinstance(source, Mapping):
            source = source.get("bytes") or source.get("path")
        if isinstance(source, bytes) and source:
            return source
        if not isinstance(source, str) or not source:
            self.place.wrong(short(source), expected)
        if source.startswith("data:"):
            _, comma, encoded = source.partition(";base64,")
            if not comma:
                self.place.wrong(short(source), expected)
            try:
                return base64.b64decode(encoded, validate=True)
            except binascii.Error as error:
                self.place.wrong(f"a data URI that is not base64 ({error})", expected)
        if "://" in source:
            self.place.wrong(short(source), "a local file; nothing is downloaded while training")
        path = self.root / source
        if not is_file(path):
            expected = "a picture that exists" if self.kind == "image" else "a video that exists"
            self.place.wrong(f"no file {short(str(path), 200)}", expected)
        return path

    def _open(self, source: Any) -> Picture.Image:
        where = self._encoded(source)
        return Picture.open(io.BytesIO(where) if isinstance(where, bytes) else where)

    def _pixels(self, source: Any) -> np.ndarray:
        with self._reading(source), self._open(source) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))

    def _frames(self) -> tuple[list[np.ndarray], float]:
        return [self._pixels(source) for source in self.source], 1.0

    def _animation(self) -> tuple[list[np.ndarray], float]:
        with self._reading(self.source), self._open(self.source) as picture:
            frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
            milliseconds = picture.info.get("duration", 0)
        return frames, 1000.0 / milliseconds if milliseconds else 1.0

    def _film(self, where: bytes | Path) -> tuple[list[np.ndarray], float]:
        try:
            import av
        except ImportError:
            self.place.wrong(f"{short(self.source)}, a film", "the package av, which decodes films, to be installed")
        try:
            # From memory or an open file, never by name: a list of other files or addresses in it leads nowhere.
            with io.BytesIO(where) if isinstance(where, bytes) else where.open("rb") as file, av.open(file) as film:
                return sampled(film, self.most)
        except (av.FFmpegError, EOFError, OSError, ValueError) as error:
            self._unreadable(self.source, error)

    @contextmanager
    def _reading(self, source: Any) -> Iterator[None]:
        """What PIL raises over a bad picture becomes an error that names it."""
        try:
            yield
        except DataError:
            raise
        except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
            self._unreadable(source, error)

    def _unreadable(self, source: Any, error: Exception) -> NoReturn:
        why = " ".join(str(error).split())[:120]
        self.place.wrong(
            f"{short(source)}, which cannot be read ({why})",
            f"{'an image' if self.kind == 'image' else 'a video'} that can be read",
        )


def sampled(film: Any, most: int) -> tuple[list[np.ndarray], float]:
    """At most so many RGB frames of an open PyAV container, evenly spread from the first to the last, and their rate.

    With N frames and n = min(N, most), frame ``round(i (N - 1) / (n - 1))`` is taken for i = 0 .. n - 1. Only the
    stretches before the frames that are taken are decoded.

    Raises:
        ValueError: there is no video, or it has no time stamps.
    """
    if not film.streams.video:
        raise ValueError("no video in it")
    stream = film.streams.video[0]
    # Files of some formats do not say how many frames they have.
    times = sorted(packet.pts for packet in film.demux(stream) if packet.pts is not None)
    if not times:
        raise ValueError("no frames with time stamps in it")
    chosen = [times[i] for i in np.linspace(0, len(times) - 1, min(most, len(times))).round().astype(int)]
    frames: list[np.ndarray] = []
    for time in chosen:
        film.seek(time, stream=stream)
        frame = next((one for one in film.decode(stream) if one.pts is not None and one.pts >= time), None)
        if frame is None:
            raise ValueError(f"it ends before frame {len(frames) + 1} of {len(chosen)}")
        frames.append(frame.to_ndarray(format="rgb24"))
    seconds = float((chosen[-1] - chosen[0]) * stream.time_base)
    return frames, (len(chosen) - 1) / seconds if seconds > 0 else 1.0


def _is_film(where: bytes | Path) -> bool:
    if isinstance(where, Path):
        return where.suffix.lower() in FILMS
    return where[4:8] == b"ftyp" or where[:4] == b"\x1a\x45\xdf\xa3"


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for paths that cannot be any file's."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long or with a null character is no file's
        return False


def short(value: Any, most: int = 60) -> str:
    """A value in an error message, on one line."""
    if value is None:
        return "null"
    text = repr(value[:most] if isinstance(value, str | bytes) else value)
    return text if len(text) <= most + 3 else f"{text[:most]}..."
