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

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from saccade.core.content import Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets.media import Media, MediaKind, Place, short
from saccade.envs.datasets.rows import READERS, read_rows

ASKED = ("prompt", "messages", "problem")
ANSWERED = ("answer", "solution", "reward_model")
SHOWN = ("image", "images", "video", "videos")
PLACE = re.compile(r"<(image|video)>")


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
        if Path(self.path).suffix not in READERS:
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
        key = (path, Path(self.image_root or path.parent), status.st_mtime_ns, status.st_size)
        rows = _part(*key, self.part, self.held_out)
        if not rows:
            found = f"{len(_read(*key))} row(s) and held_out={self.held_out}"
            raise DataError(f"{self.path}: found {found}, expected at least one row in the {self.part} part")
        return rows


# --- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    number: int
    prompt: tuple[Text | Media, ...]
    answer: Any
    gold: str | None
    info: Mapping[str, Any]


@lru_cache(maxsize=16)
def _part(path: Path, root: Path, mtime: int, size: int, part: Split, held_out: float) -> tuple[_Row, ...]:
    rows = _read(path, root, mtime, size)
    test = max(1, round(held_out * len(rows))) if held_out > 0 and len(rows) > 1 else 0
    order: list[int] = numpy_generator(0, "held out", len(rows)).permutation(len(rows)).tolist()
    return tuple(rows[i] for i in sorted(order[:test] if part == "test" else order[test:]))


@lru_cache(maxsize=8)
def _read(path: Path, root: Path, mtime: int, size: int) -> tuple[_Row, ...]:
    """All rows, checked. A file that changes has another key."""
    rows: tuple[_Row, ...] = tuple(_row(str(path), number, columns, root) for number, columns in read_rows(path))
    if not rows:
        raise DataError(f"{path}: found no rows, expected at least one")
    return rows


# --- a row ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """Where the text says that a picture stands."""

    kind: MediaKind


_Piece = str | _Mark | Media


@dataclass(frozen=True)
class _Asked:
    earlier: list[_Piece]
    """Turns that are over: of these only pictures are kept."""
    now: list[_Piece]
    said: str | None = None
    """The assistant's answer, if the chat has it."""


def _row(file: str, number: int, columns: Any, root: Path) -> _Row:
    if not isinstance(columns, Mapping):
        Place(file, number, "row").wrong(short(columns), "an object with one entry a column")
    places = {name: Place(file, number, str(name)) for name in columns}
    asked = next((name for name in ASKED if name in columns), None)
    if asked is None:
        names = ", ".join(map(str, columns)) or "none"
        Place(file, number, "prompt").wrong(f"the columns {names}", f"one of {', '.join(ASKED)}")
    question = _asked(places[asked], columns[asked], root)
    media = [one for name in SHOWN if name in columns for one in _media(places[name], columns[name], root)]
    prompt = _placed(places[asked], question, media)
    for part in prompt:
        if isinstance(part, Media):
            part.check()

    answered = next((name for name in ANSWERED if name in columns), None)
    answer = None if answered is None else _answer(places[answered], columns[answered])
    gold, used = question.said, {asked, answered, "completion", *SHOWN}
    if "completion" in columns:
        gold = _said(places["completion"], columns["completion"], root)
    kept = {name: value for name, value in columns.items() if name not in used}
    info: dict[str, Any] = {"columns": kept}
    if isinstance(kept.get("kind"), str):
        info["kind"] = kept["kind"]
    info |= {side: _said(places[side], kept[side], root) for side in ("chosen", "rejected") if side in kept}
    return _Row(number, prompt, gold if answer is None else answer, gold, info)


def _asked(place: Place, value: Any, root: Path) -> _Asked:
    if isinstance(value, str):
        if not value.strip():
            place.wrong("empty text", "a question")
        return _Asked([], _pieces(value))
    messages = _messages(place, value, root)
    said = _plain(messages.pop()[1]) if messages[-1][0] == "assistant" else None
    # The prompt is what follows the last turn that is not the user's, with what the system said at any time.
    start = next((i for i in range(len(messages), 0, -1) if messages[i - 1][0] not in ("user", "system")), 0)
    if not any(role == "user" for role, _ in messages[start:]):
        place.wrong("no message by the user before the end", "the user's turn, and after it at most the assistant's")
    earlier: list[_Piece] = []
    now: list[_Piece] = []
    for i, (role, pieces) in enumerate(messages):
        if role != "system" and i < start:
            earlier += pieces
        else:
            now += ["\n", *pieces] if now else pieces
    return _Asked(earlier, now, said)


def _messages(place: Place, value: Any, root: Path) -> list[tuple[str, list[_Piece]]]:
    if not isinstance(value, list) or not value:
        place.wrong(short(value), "text or a list of chat messages")
    messages: list[tuple[str, list[_Piece]]] = []
    for i, message in enumerate(value):
        here = place.at(f"[{i}]")
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            here.wrong(short(message), "a chat message with role and content")
        content, here = message.get("content"), here.at(".content")
        if isinstance(content, str):
            messages.append((message["role"], _pieces(content)))
        elif isinstance(content, list):
            parts = [_part_of_message(here.at(f"[{j}]"), part, root) for j, part in enumerate(content)]
            messages.append((message["role"], [piece for pieces in parts for piece in pieces]))
        else:
            here.wrong(short(content), "text or a list of parts")
    return messages


def _part_of_message(place: Place, part: Any, root: Path) -> list[_Piece]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return _pieces(part["text"])
    if kind not in ("image", "video"):
        place.wrong(short(part), "a part of type text (with text), image or video")
    source = part.get(kind)
    return [_Mark(kind)] if source is None else [Media(kind, source, root, place.at(f".{kind}"))]


def _pieces(text: str) -> list[_Piece]:
    """Text and marks in turn."""
    split = PLACE.split(text)
    marks: dict[str, _Mark] = {"image": _Mark("image"), "video": _Mark("video")}
    return [marks[piece] if i % 2 else piece for i, piece in enumerate(split) if i % 2 or piece]


def _plain(pieces: Sequence[_Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _said(place: Place, value: Any, root: Path) -> str:
    """Text, or what the assistant says last in a chat."""
    if isinstance(value, str):
        return value
    for role, pieces in reversed(_messages(place, value, root)):
        if role == "assistant":
            return _plain(pieces)
    place.wrong(short(value), "text or a chat with a message by the assistant")


def _answer(place: Place, value: Any) -> Any:
    if place.field == "reward_model":
        if not isinstance(value, Mapping) or "ground_truth" not in value:
            place.wrong(short(value), "a mapping with ground_truth")
        place, value = place.at(".ground_truth"), value["ground_truth"]
    if not _is_answer(value):
        place.wrong(short(value), "text, a number, or a list of these")
    return value


def _is_answer(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_answer(item) for item in value)
    return isinstance(value, str | int | float)


def _media(place: Place, value: Any, root: Path) -> list[Media]:
    kind: MediaKind = "image" if place.field.startswith("image") else "video"
    if value is None:
        return []
    if place.field in ("image", "video"):
        return [Media(kind, value, root, place)]
    if not isinstance(value, list):
        place.wrong(short(value), f"a list of {kind}s")
    return [Media(kind, one, root, place.at(f"[{i}]")) for i, one in enumerate(value)]


def _placed(place: Place, question: _Asked, media: Sequence[Media]) -> tuple[Text | Media, ...]:
    """Text with pictures where it says so; pictures without a mark, and those of turns that are over, come first."""
    first: list[Text | Media] = []
    waiting: dict[str, Iterator[Media]] = {}
    for kind in ("image", "video"):
        given = [one for one in media if one.kind == kind]
        marks = sum(piece == _Mark(kind) for piece in (*question.earlier, *question.now) if isinstance(piece, _Mark))
        if marks and marks != len(given):
            place.wrong(f"{marks} <{kind}> and {len(given)} {kind}(s)", "as many of one as of the other")
        waiting[kind] = iter(given if marks else ())
        first += () if marks else given

    def filled(pieces: Sequence[_Piece]) -> Iterator[Text | Media]:
        for piece in pieces:
            if isinstance(piece, str):
                yield Text(piece)
            else:
                yield next(waiting[piece.kind]) if isinstance(piece, _Mark) else piece

    first += [part for part in filled(question.earlier) if isinstance(part, Media)]
    for part in filled(question.now):
        if isinstance(part, Text) and first and isinstance(first[-1], Text):
            first[-1] = Text(first[-1].text + part.text)
        else:
            first.append(part)
    return tuple(first)
