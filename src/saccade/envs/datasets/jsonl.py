"""Tasks from a user's own file: .jsonl, .json (a list of rows) or .parquet.

Layouts are recognised by their columns:

============  ==================================================  ==========================================
column        read as                                             who writes it so
============  ==================================================  ==========================================
prompt        text or a list of chat messages                     native, TRL, verl
messages      chat messages; a last one by the assistant is gold  native, TRL
problem       text                                                EasyR1
image         a picture                                           native, TRL
images        a list of pictures                                  native, TRL, EasyR1, verl
video         frames (a list of pictures) or an animated picture  native
videos        a list of those                                     EasyR1, verl
answer        text, number, or a list of these                    native, TRL, EasyR1
solution      same                                                TRL
reward_model  same, under its key ``ground_truth``                verl
completion    text or chat messages: gold                         TRL
============  ==================================================  ==========================================

A picture is a path (relative to the file), bytes, ``{"bytes": ..., "path": ...}`` as Hugging Face datasets store it, or
a base64 data URI. ``<image>`` and ``<video>`` in the text say where pictures stand; without them pictures come first.
Of a chat the system's text and the user's last turn are the prompt. All columns that are not used are kept in
``Task.info["columns"]``; of ``chosen`` and ``rejected`` chats ``Task.info`` has the assistant's last text.

Everything but the pixels is checked when the file is first used. Every error is a ``DataError`` of one line: file, row
(in .jsonl the line), field, what was found, what was expected.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from PIL import Image as Picture
from PIL import ImageOps, ImageSequence

from saccade.core.content import Content, Image, Part, Text, Video
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task

ASKED = ("prompt", "messages", "problem")
ANSWERED = ("answer", "solution", "reward_model")
SHOWN = ("image", "images", "video", "videos")
PLACE = re.compile(r"<(image|video)>")
MediaKind = Literal["image", "video"]


@dataclass(frozen=True)
class JsonlTasks(Tasks):
    """One task a row. ``Task.target`` is ``{"answer": ...}``, None where rows have no answer.

    The file is read on first use and kept, pictures compressed as they are; pictures are decoded when a task is drawn.
    """

    path: str
    """A .jsonl, .json or .parquet file."""
    part: Split = "train"
    held_out: float = 0.05
    """Share of rows in the test part, at least one row; which ones depends on the number of rows only."""
    image_root: str | None = None
    """Folder that picture paths are relative to; None: the file's own."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"tasks.held_out must be in [0, 1), got {self.held_out}")
        if Path(self.path).suffix not in (".jsonl", ".json", ".parquet"):
            raise ConfigError(f"tasks.path must end in .jsonl, .json or .parquet, got {self.path!r}")

    def __len__(self) -> int:
        return len(self._rows)

    def split(self, name: Split) -> JsonlTasks:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        row = self._rows[index]
        return Task(
            id=f"{Path(self.path).name}/{row.number}",
            prompt=tuple(part if isinstance(part, Text) else part.decoded() for part in row.prompt),
            target=None if row.answer is None else {"answer": row.answer},
            gold=() if row.gold is None else ((Text(row.gold),),),
            info=row.info,
        )

    @property
    def _rows(self) -> Sequence[_Row]:
        path = Path(self.path)
        try:
            status = path.stat()
        except OSError:
            raise DataError(f"{self.path}: found no such file, expected .jsonl, .json or .parquet data") from None
        rows = _rows(path, Path(self.image_root or path.parent), status.st_mtime_ns, status.st_size)
        held_out = max(1, round(self.held_out * len(rows))) if self.held_out > 0 and len(rows) > 1 else 0
        order = _order(len(rows))
        chosen = sorted(order[:held_out] if self.part == "test" else order[held_out:])
        if not chosen:
            raise DataError(
                f"{self.path}: found {len(rows)} row(s) and held_out={self.held_out}, expected at least one held-out row"
            )
        return _Chosen(rows, chosen)


@dataclass(frozen=True)
class _Place:
    """Where in which file something stands; raises the errors."""

    file: str
    row: int
    field: str

    def of(self, field: str) -> _Place:
        return replace(self, field=field)

    def wrong(self, found: str, expected: str) -> NoReturn:
        raise DataError(f"{self.file}: row {self.row}: {self.field}: found {found}, expected {expected}")


@dataclass(frozen=True)
class _Media:
    """A picture or video that is not decoded yet."""

    kind: MediaKind
    source: Any
    root: Path
    place: _Place

    def decoded(self) -> Part:
        if self.kind == "image":
            return Image(self._pixels(self.source))
        if isinstance(self.source, list):
            frames, fps = [self._pixels(source) for source in self.source], 1.0
        else:
            frames, fps = self._animation()
        if len({frame.shape for frame in frames}) != 1:
            self.place.wrong(f"frames of sizes {sorted({f.shape[1::-1] for f in frames})}", "frames of one size")
        return Video(np.stack(frames), fps)

    def check(self) -> None:
        """Whatever can be checked without decoding."""
        sources = self.source if isinstance(self.source, list) and self.kind == "video" else [self.source]
        if not sources:
            self.place.wrong("an empty list", "at least one frame")
        for source in sources:
            self._checked(source)

    def _checked(self, source: Any) -> bytes | Path:
        """Where the encoded picture is."""
        expected = "a path, bytes, a data URI or a mapping with one of bytes and path"
        if isinstance(source, Mapping):
            source = source.get("bytes") or source.get("path")
        if isinstance(source, bytes) and source:
            return source
        if not isinstance(source, str) or not source:
            self.place.wrong(_short(source), expected)
        if source.startswith("data:"):
            _, comma, encoded = source.partition(";base64,")
            try:
                return base64.b64decode(encoded, validate=True) if comma else self.place.wrong(_short(source), expected)
            except binascii.Error as error:
                self.place.wrong(f"a data URI that is not base64 ({error})", expected)
        if "://" in source:
            self.place.wrong(_short(source), "a local file: nothing is downloaded while training")
        path = self.root / source
        if not path.is_file():
            self.place.wrong(f"no file {str(path)!r}", "a picture that exists")
        return path

    def _open(self, source: Any) -> Picture.Image:
        where = self._checked(source)
        return Picture.open(io.BytesIO(where) if isinstance(where, bytes) else where)

    def _pixels(self, source: Any) -> np.ndarray:
        with self._reading(source), self._open(source) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))

    def _animation(self) -> tuple[list[np.ndarray], float]:
        with self._reading(self.source), self._open(self.source) as picture:
            frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
            milliseconds = picture.info.get("duration", 0)
        return frames, 1000.0 / milliseconds if milliseconds else 1.0

    def _reading(self, source: Any) -> _Reading:
        return _Reading(self.place, source)


@dataclass(frozen=True)
class _Reading:
    """A context in which what PIL raises over a bad picture becomes an error that names it."""

    place: _Place
    source: Any

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError | SyntaxError | EOFError | Picture.DecompressionBombError):
            if not isinstance(error, DataError):
                why = " ".join(str(error).split())[:120]
                raise DataError(
                    f"{self.place.file}: row {self.place.row}: {self.place.field}: found {_short(self.source)}, "
                    f"which cannot be read ({why}), expected a picture"
                ) from None


@dataclass(frozen=True)
class _Row:
    number: int
    prompt: tuple[Text | _Media, ...]
    answer: Any
    gold: str | None
    info: Mapping[str, Any]
