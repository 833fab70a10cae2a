"""Reading model output: linear time, bounded memory, never an exception, never ``eval``.

Everything here takes any string of any length. What cannot be read is None or an empty list; a reward decides what that
is worth.
"""

import json
import math
import re
from itertools import pairwise
from typing import Any

# A number that does not continue a word or another number ("x1", "3.4.5"); a minus between digits ("3-4") is a dash.
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_GROUPED = re.compile(r"(?<![\w.])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?)")
_WORD = re.compile(r"[a-z0-9]+")
_ITEM = re.compile(r"[,;\n]")
_LONGEST = 2**15
"""Characters of an answer that are read; no answer is longer."""
# Longer digit strings are no answers, and converting them takes more than linear time.
_LONGEST_NUMBER = 64


def tagged(text: str, tag: str) -> str | None:
    """Content of the last complete ``<tag>...</tag>``, stripped; None if there is none. An empty tag means all text.

    Of longer contents the last 32,768 characters.
    """
    if not tag:
        return text[-_LONGEST:].strip()
    end = text.rfind(f"</{tag}>")
    if end < 0:
        return None
    opening = f"<{tag}>"
    start = text.rfind(opening, 0, end)
    return None if start < 0 else text[max(start + len(opening), end - _LONGEST) : end].strip()


def blocks(text: str, tags: tuple[str, ...]) -> tuple[str, ...] | None:
    """Contents of the blocks if the text is ``<a>...</a> <b>...</b> ...`` with these tags, in order, each once.

    White space may surround the blocks. None if anything else stands outside or any of the tags inside a block.
    """
    found: list[str] = []
    position = 0
    for tag in tags:
        position += len(text[position:]) - len(text[position:].lstrip())
        opening, closing = f"<{tag}>", f"</{tag}>"
        if not text.startswith(opening, position):
            return None
        end = text.find(closing, position)
        if end < 0:
            return None
        found.append(text[position + len(opening) : end])
        position = end + len(closing)
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    if text[position:].strip() or any(mark in content for content in found for mark in marks):
        return None
    return tuple(found)


def plain(text: str) -> str:
    """Lower case, white space collapsed, without quotation marks around it and full stops after it."""
    return " ".join(text.casefold().split()).strip("\"'` ").rstrip(". ")


def items(text: str) -> list[str]:
    """Parts between commas, semicolons and line ends, in ``plain`` form, without empty ones; outer brackets dropped."""
    return [item for part in _ITEM.split(text.strip().strip("[](){}")) if (item := plain(part))]


def words(text: str) -> list[str]:
    """Runs of ASCII letters and digits, in lower case (the tokens of ROUGE)."""
    return _WORD.findall(text.lower())


def numbers(text: str) -> list[float]:
    """Finite numbers in order; commas separate, except between digits in threes ("1,234")."""
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text.replace("\u2212", "-"))
    return [value for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]


def runs(text: str) -> list[tuple[float, ...]]:
    """Lists of numbers as written in brackets, tags or JSON: ``[12, 20]``, ``<box>12,20,40,52</box>``, ``(1,2),(3,4)``.

    A run is a longest sequence of numbers with nothing but one comma, blanks, or ``),(`` between neighbours. Runs with
    a number beyond 1e9 are left out: products of coordinates must stay finite.
    """
    matches = list(_NUMBER.finditer(text))
    values = [value if (value := _value(match)) is not None and abs(value) <= 1e9 else None for match in matches]
    found: list[list[float | None]] = [values[:1]] if values else []
    for (left, right), value in zip(pairwise(matches), values[1:], strict=True):
        gap = text[left.end() : right.start()]
        if _joins(gap):
            found[-1].append(value)
        else:
            found.append([value])
    return [tuple(v for v in run if v is not None) for run in found if None not in run]


def boxes(text: str) -> list[tuple[float, float, float, float]]:
    """Runs of exactly four numbers with ``x1 < x2`` and ``y1 < y2``."""
    return [
        (run[0], run[1], run[2], run[3]) for run in runs(text) if len(run) == 4 and run[0] < run[2] and run[1] < run[3]
    ]


def points(text: str) -> list[tuple[float, float]]:
    """Runs of exactly two numbers."""
    return [(run[0], run[1]) for run in runs(text) if len(run) == 2]


def decoded(text: str) -> Any:
    """The JSON value of the text, or of the first code fence in it; None if it is not JSON."""
    if "```" in text:
        body = text.split("```", 2)[1]
        text = body.removeprefix("json")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _joins(gap: str) -> bool:
    core = gap.strip()
    if core:
        return core == "," or "".join(core.split()) == "),("
    return bool(gap) and "\n" not in gap


def _value(match: re.Match[str]) -> float | None:
    if match.end() - match.start() > _LONGEST_NUMBER:
        return None
    value = float(match[0])
    return value if math.isfinite(value) else None
