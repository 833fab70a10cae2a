"""Word-level text for tiny policies: an exact, readable mapping between text and token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saccade.core.errors import ConfigError, DataError

TAGS = ("think", "answer", "box", "tool")
"""Tags every tiny vocabulary has. Inside ``box`` and ``tool`` numbers are location tokens where one fits."""

PUNCTUATION = tuple(".,:;?!-+=*/%()[]{}<>\"'&|#_")

_BASE = """
    a about above after all an and answer any are as at be before behind below between biggest both bottom box boxes by
    can centre change changed changes clip colour colours compare count crop describe did different digit digits do does
    draw each end equal even fewer find first five four frame frames from front give given go good has have how i if
    image images in inside is it its larger largest last least left less line locate look many more most move moved name
    near next nine no none not now number numbers object objects odd of on one only or other out outside over picture
    place point put read region right same scene second see seven shape shapes show shown six size smaller smallest so
    step steps sum task ten than that the them then there these they thing think third this three time to tool top total
    true two under up use user value video want was were what when where which who why with words write yes you your
    zero zoom eight false
    black blue brown cyan dark gray green grey light magenta orange pink purple red teal violet white yellow
    circle cross square star triangle bar line dot ring small big large medium
    A B C D E F G H Yes No
"""

WORDS = tuple(_BASE.split())
"""Words every tiny vocabulary has; a policy's ``words`` come on top."""

_PATTERN = re.compile(r"</?[a-z_]+>|[0-9]+|[^\W\d_]+|\n|\s|.", re.DOTALL)
_TAG = re.compile(r"</?[a-z_]+>")
_NUMBER = re.compile(r"[0-9]+")
_WORD = re.compile(r"[^\W\d_]+")
_LOCATED = {"<box>": True, "<tool>": True, "</box>": False, "</tool>": False}
_SPACED = {("word", "word"), ("word", "digit"), ("digit", "word")}


class Vocabulary:
    """Token ids ``[0, outputs)`` can be written by the policy; the rest occur in contexts only.

    Spelling: two neighbouring words, or a word and a number, have one space between them, everything else stands
    without; a text that deviates gets explicit space and joiner tokens. ``decode(encode(text)) == text`` for every text
    of known words (white space other than newlines counts as spaces). Numbers are written digit by digit; inside
    ``<box>`` and ``<tool>`` a number that is a multiple of ``side / bins`` and at most ``side`` is one location token,
    which counts as a word.

    Words are case-sensitive; contexts fall back to the lower-case word and then to ``unknown``.
    """

    def __init__(self, words: Sequence[str], side: int, bins: int) -> None:
        wrong = [word for word in words if not (_WORD.fullmatch(word) or _TAG.fullmatch(word))]
        if wrong:
            raise ConfigError(f"words must be single words of letters or tags like <look>, got {wrong[0]!r}")
        tags = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
        named = dict.fromkeys(["\n", *PUNCTUATION, *"0123456789", *tags, *WORDS, *words])
        locations = [str(side * k // bins) for k in range(bins + 1)]
        self.texts = ["", " ", "", *named, *locations]
        self.end, self.space, self.joiner = 0, 1, 2
        self.outputs = len(self.texts)
        self.start, self.image, self.unknown, self.pad = range(self.outputs, self.outputs + 4)
        self.size = self.outputs + 4
        self.texts += [""] * 4
        self._index = {text: 3 + i for i, text in enumerate(named)}
        self._location = {text: 3 + len(named) + i for i, text in enumerate(locations)}
        self._kinds = [_kind(text) for text in self.texts]
        self._kinds[self.outputs - len(locations) : self.outputs] = ["word"] * len(locations)
        self._kinds[self.unknown] = "word"

    def encode(self, text: str, *, strict: bool) -> list[int]:
        """Token ids of the text.

        Args:
            text: anything.
            strict: whether an unknown word is an error; otherwise it becomes ``unknown``.

        Raises:
            DataError: ``strict`` and the text has a word or sign that is not in the vocabulary.
        """
        ids: list[int] = []
        gap, located = 0, False
        for match in _PATTERN.finditer(text):
            piece = match.group()
            if piece.isspace() and piece != "\n":
                gap += 1
                continue
            located = _LOCATED.get(piece, located)
            new = self._ids(piece, located, strict)
            ids += self._filler(ids[-1] if ids else self.end, gap, new[0])
            ids += new
            gap = 0
        return ids + [self.space] * gap

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; end-of-turn and context tokens have none."""
        parts: list[str] = []
        previous = self.end
        for token in ids:
            if self._spaced(previous, token):
                parts.append(" ")
            parts.append(self.texts[token])
            previous = token
        return "".join(parts)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token on its own."""
        return [self.texts[token] for token in ids]

    def _ids(self, piece: str, located: bool, strict: bool) -> list[int]:
        if _NUMBER.fullmatch(piece):
            if located and piece in self._location:
                return [self._location[piece]]
            return [self._index[digit] for digit in piece]
        if piece in self._index:
            return [self._index[piece]]
        if strict:
            raise DataError(f"the vocabulary has no token for {piece!r}; known words can be added with policy.words")
        return [self._index.get(piece.lower(), self.unknown)]

    def _filler(self, previous: int, gap: int, token: int) -> list[int]:
        """What makes ``decode`` put ``gap`` spaces between two tokens."""
        if self._spaced(previous, token):
            return [self.joiner] if gap == 0 else [] if gap == 1 else [self.space] * gap
        return [self.space] * gap

    def _spaced(self, previous: int, token: int) -> bool:
        return (self._kinds[previous], self._kinds[token]) in _SPACED


def _kind(text: str) -> str:
    if _WORD.fullmatch(text):
        return "word"
    return "digit" if _NUMBER.fullmatch(text) else "sign"
