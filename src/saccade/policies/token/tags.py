"""Which tokens lie inside which tag."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate


def tag_segments(pieces: Sequence[str], tags: Sequence[str]) -> list[int]:
    """Segment of each token: i + 1 strictly inside ``<tags[i]>...</tags[i]>``, else 0.

    ``pieces`` are the decoded tokens in order; a tag may be spread over several of them, and a token that reaches over
    the edge of a tag is outside. Where tags are nested the innermost counts; a tag that is opened again starts anew,
    and one that is never closed encloses nothing. Linear in the length of the text for each tag.
    """
    segments = [0] * len(pieces)
    if not tags:
        return segments
    ends = list(accumulate(len(piece) for piece in pieces))
    starts = [0, *ends[:-1]]
    opened: dict[str, int] = {}
    spans: list[tuple[int, int, int]] = []
    for match in re.finditer(rf"<(/?)({'|'.join(map(re.escape, tags))})>", "".join(pieces)):
        closing, tag = match.groups()
        if not closing:
            opened[tag] = match.end()
        elif tag in opened:
            spans.append((opened.pop(tag), match.start(), tags.index(tag) + 1))
    for first, last, segment in sorted(spans, key=lambda span: span[0] - span[1]):
        inside = slice(bisect_left(starts, first), bisect_right(ends, last))
        segments[inside] = [segment] * len(segments[inside])
    return segments
