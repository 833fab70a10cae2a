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

    def decoded(self) -> Part:
        if self.kind == "image":
            return Image(self._pixels(self.source))
        frames, fps = self._frames() if isinstance(self.source, list) else self._animation()
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
        if not _is_file(path):
            self.place.wrong(f"no file {short(str(path), 200)}", "a picture that exists")
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

    @contextmanager
    def _reading(self, source: Any) -> Iterator[None]:
        """What PIL raises over a bad picture becomes an error that names it."""
        try:
            yield
        except DataError:
            raise
        except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
            why = " ".join(str(error).split())[:120]
            self.place.wrong(
                f"{short(source)}, which cannot be read ({why})",
                f"{'an image' if self.kind == 'image' else 'a video'} that can be read",
            )


def _is_file(path: Path) -> bool:
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
