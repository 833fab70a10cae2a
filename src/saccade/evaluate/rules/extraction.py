"""Reading an answer out of free text: a choice, yes or no, a number, the words after "the answer is".

Extraction is half of a benchmark's number, so everything is decided here by fixed rules, strongest first, and what is
ambiguous is None: "A or B?" names no choice. Nothing raises, nothing is evaluated, time is linear in the text and at
most 32,768 characters are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from saccade.rewards.parse import numbers, plain

_MOST = 2**15
"""Characters that are read; of longer texts the last ones, where answers stand."""
_LONGEST_ANSWER = 512
"""Characters of a phrase or box that can be an answer."""
_AHEAD = 80
"""Characters after "answer" in which the letter must come."""

# Full-width forms and Chinese stops as ASCII: one character each, so that texts keep their length.
_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3002: ".", 0x3001: ",", 0x3000: " "}

_ANSWER = re.compile(
    r"\b(?:answer|ans(?=[.: ])|(?:correct|right|best|final|suitable|appropriate|likely) (?:option|choice))s?"
    r"(?![a-z0-9_])|答案",
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:it is|it's|it must be|it should be|it would be|must be|should be|would be|choose|chose|choosing|pick|picked"
    r"|select|selected|go with|going with|guess|say|conclude)\b|选择|应选|选",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"(?:['’]s)?"
    r"(?:[ ](?:is|was|are|be|would|should|must|will|has|to|have|choice|option|letter|the|this|that|question|here|most"
    r"|likely|probably|clearly|therefore|thus|then|indeed|correct|right|best|final|one|my|i))*"
    r"[是为应该选项择]*"
    r"[^\w\n]{0,12}(?:(?:text|mathrm|mathbf|textbf)\{)?(?:(?:option|choice|letter)[ (*_\"]{1,3}|选项 ?)?"
    r"(?P<letter>[A-Za-z])(?![A-Za-z0-9_'’])",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"(?<![A-Za-z0-9_'’])(?P<letter>[A-Z])[)\]*_\"]{0,3} (?:is|seems|appears|must be|would be|should be)"
    r"(?: (?:the|my|to|be|most|definitely|clearly|probably|likely|indeed|only|a|an|final))*"
    r" (?:correct|right|best|answer|suitable|appropriate|plausible|reasonable|fitting|true)",
)
_ALSO = re.compile(
    r"[)\]*_\"]{0,3} ?(?:or|and|/|&|,|和|或) ?(?:option |choice )?[(*\[\"]{0,3}([A-Z])(?![A-Za-z0-9_'’])"
    # "B and A is wrong" names B.
    r"(?! (?:is|are|was|isn't|can|cannot|could|would|does|has|shows)\b)"
)
_MARKED = re.compile(
    r"[^\w\n]{0,8}(?:(?i:option|choice|letter) ?)?[^\w\n]{0,3}"
    r"(?:(?P<upper>[A-Z])(?:[^\w\n]{0,3}$|\*{0,2}[).:\]}])|(?P<lower>[a-z])(?:[^\w\n]{0,3}$|[)]|\. ))"
    # A sentence about the option is no choice of it: "(A) is wrong".
    r"(?![^\w\n]{0,3}(?:is|are|was|isn't|and|or|but|can|cannot|could|would|does|has|shows|says)\b)",
)
_NAMED = re.compile(r"\b(?:[Oo]ption|[Cc]hoice)[ (*_\"]{1,3}(?P<letter>[A-Z])(?![A-Za-z0-9_'’])")
_BRACKETED = re.compile(r"[(\[](?P<letter>[A-Z])[)\]]")
_ALONE = re.compile(r"(?<![A-Za-z0-9_'’.&+-])(?P<letter>[A-Z])(?![A-Za-z0-9_'’&+-])")
# "A cat", "I think": an article and a pronoun, unless a word follows that goes with a choice.
_ARTICLE = re.compile(
    r" (?!(?:because|since|as|is|was|based|due|for|given|and|or|with|which|where|in|from|according)\b)[a-z0-9]"
)
_NEGATED = re.compile(r"(?:\bnot|n't|\bneither|\bnor|\bno|\brather than|\binstead of)\b[^.\n]{0,16}$", re.IGNORECASE)
_SAID = re.compile(
    r"(?:\banswers?|答案)(?:\*\*)?(?:\s(?:is|are|was|would be|should be|must be)(?![a-z])\s?:?|\s?[:=是为])",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"(?<![\w'’-])(yes|no)(?![\w'’-])", re.IGNORECASE)
_YES_OR_NO = re.compile(r" ?(?:or|/) ?(?:yes|no)", re.IGNORECASE)
_FRACTION = re.compile(r"([-+]?[0-9]{1,15}) ?/ ?([0-9]{1,15})")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]*)\}")


# --- where the answer stands ------------------------------------------------------------------------------------------


def conclusion(text: str) -> str:
    """What the output comes to: of what follows the thinking the last ``<answer>`` block, or all without a block.

    The block may be cut off before its end. At most the last 32,768 characters.
    """
    for end in ("</think>", "</thinking>"):
        before, _, after = text.rpartition(end)
        text = after if after.strip() else before
    start = text.rfind("<answer>")
    if start >= 0:
        text = text[start + len("<answer>") :].partition("</answer>")[0]
    return text[-_MOST:].translate(_ASCII).strip()


def boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, without dollar signs and text commands; braces may be nested."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for i in range(start, min(len(text), start + _LONGEST_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return _WRAPPED.sub(r"\1", text[start:i]).strip("$ \n")
    return None


def said(text: str) -> str | None:
    """What follows the last "the answer is" or "answer:" on its line, without quotation marks and the full stop."""
    found: str | None = None
    for match in _SAID.finditer(text):
        rest = text[match.end() : match.end() + _LONGEST_ANSWER].partition("\n")[0]
        if bare := _bare(rest):
            found = bare
    return found


def short_answer(text: str) -> str | None:
    """The answer in a few words: what is boxed, else what is said to be the answer, else the whole conclusion.

    None if there is nothing.
    """
    last = conclusion(text)
    return boxed(last) or said(last) or _bare(last) or None


# --- a choice ---------------------------------------------------------------------------------------------------------


def choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that the text chooses; None if it chooses none or several.

    In this order: the text is one letter or one option; a box; "the answer is B", "B is correct" (the last one);
    lines that begin with one and the same marked letter ("B. cat"); "it is B", "I choose B" (the last one); the only
    letter in brackets; the only capital letter on its own; the only option whose words occur.

    Args:
        text: the output.
        options: words of each option by its capital letter; words may be empty.
    """
    last = _tidy(conclusion(text))
    if (whole := _exactly(last, options)) is not None:
        return whole
    box = boxed(last)
    if box is not None and (inside := _exactly(box, options)) is not None:
        return inside
    for group in (_answers(last, options), _marked(last, options), _guesses(last, options)):
        if group:
            return _one(group)
    for pattern in (_NAMED, _BRACKETED, _ALONE):
        letters = {m["letter"] for m in pattern.finditer(last) if m["letter"] in options and _is_meant(m)}
        if letters:
            return _one(letters)
    return _by_words(last, options)


def _exactly(text: str, options: Mapping[str, str]) -> str | None:
    """The option that a short text is, letter or words."""
    if len(text) > _LONGEST_ANSWER:
        return None
    core = text.strip(" \t\n*_.,:;!?()[]{}<>\"'`$#-").removeprefix("\\")
    if core.upper() in options and len(core) == 1:
        return core.upper()
    same = [letter for letter, words in options.items() if words.strip() and plain(words) == plain(text)]
    return same[0] if len(same) == 1 else None


def _answers(text: str, options: Mapping[str, str]) -> set[str]:
    """Letters of the last statement of an answer; two if it names two, none if there is no such statement."""
    found: tuple[int, set[str]] = (-1, set())
    for match in _ANSWER.finditer(text):
        if letters := _after(text, match.end(), options):
            found = (match.end(), letters)
        elif words := _exactly(text[match.end() : match.end() + _AHEAD].partition("\n")[0].lstrip(" is:*"), options):
            found = (match.end(), {words})
    for match in _IS_RIGHT.finditer(text):
        if match["letter"] in options and match.start() > found[0]:
            found = (match.start(), {match["letter"]})
    return found[1]


def _guesses(text: str, options: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for match in _GUESS.finditer(text):
        found = _after(text, match.end(), options) or found
    return found


def _after(text: str, start: int, options: Mapping[str, str]) -> set[str]:
    """The letter that follows, and a second one joined to it by "or" and the like."""
    ahead = text[start : start + _AHEAD]
    match = _AFTER.match(ahead)
    if match is None:
        return set()
    letter = match["letter"]
    rest = ahead[match.end() :]
    if letter.islower() and not re.match(r"[^\w\n]{0,4}(?:\n|$)|[).,:;*\]}\"]", rest):
        return set()
    if letter == "A" and _ARTICLE.match(rest):
        words = _exactly(ahead[match.start("letter") :].partition("\n")[0], options)
        return {words} if words else set()
    if letter.upper() not in options or (letter in "Ii" and _ARTICLE.match(rest)):
        return set()
    also = _ALSO.match(rest)
    return {letter.upper()} | ({also[1]} & options.keys() if also else set())


def _marked(text: str, options: Mapping[str, str]) -> set[str]:
    """Letters that lines begin with, marked as choices."""
    found: set[str] = set()
    for line in text.split("\n"):
        match = _MARKED.match(line)
        if match is not None:
            found.add((match["upper"] or match["lower"]).upper())
    return found & options.keys()


def _is_meant(match: re.Match[str]) -> bool:
    """Whether a letter is neither a word of the sentence nor denied."""
    text = match.string
    if match["letter"] in "AI" and _ARTICLE.match(text, match.end()):
        return False
    return _NEGATED.search(text, max(0, match.start() - 24), match.start()) is None


def _by_words(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose words occur, not negated; words that are part of another option found do not count."""
    folded = text.casefold()
    found: dict[str, str] = {}
    for letter, raw in options.items():
        words = plain(raw)
        if not words or len(words) > _LONGEST_ANSWER:
            continue
        places = re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", folded)
        if any(not _NEGATED.search(folded, max(0, m.start() - 32), m.start()) for m in places):
            found[letter] = words
    whole = [a for a, words in found.items() if not any(words != other and words in other for other in found.values())]
    return _one(whole)


def _one(letters: Iterable[str]) -> str | None:
    different = set(letters)
    return different.pop() if len(different) == 1 else None


# --- yes or no, a number ----------------------------------------------------------------------------------------------


def yes_or_no(text: str) -> str | None:
    """``"yes"`` or ``"no"``: as the answer, as the first word, or as the only one of the two that occurs."""
    last = conclusion(text)
    for piece in (boxed(last), said(last), last):
        if piece is None:
            continue
        bare = plain(piece).strip("*_.,!:()[] ")
        if bare in ("yes", "y", "是", "对", "有"):
            return "yes"
        if bare in ("no", "n", "否", "不是", "不对", "没有"):
            return "no"
        piece = piece.lstrip("*_\"'([ \n")
        first = _YES_NO.match(piece)
        if first is not None and not _YES_OR_NO.match(piece, first.end()):
            return first[1].lower()
    return _one(match[1].lower() for match in _YES_NO.finditer(last))


def number(text: str) -> float | None:
    """The number in the box, else the first after "the answer is", else the last of the conclusion.

    Commas between digits in threes are separators of thousands; units and per-cent signs are ignored; a plain fraction
    that is the whole answer is divided.
    """
    last = conclusion(text)
    for piece, which in ((boxed(last), -1), (said(last), 0), (last, -1)):
        if piece is None:
            continue
        fraction = _FRACTION.fullmatch(_bare(piece))
        if fraction is not None and int(fraction[2]):
            return int(fraction[1]) / int(fraction[2])
        if found := numbers(piece):
            return found[which]
    return None


def _bare(text: str) -> str:
    """Without marks of emphasis and quotation around it, and without what ends a sentence."""
    return text.strip(" \t\n*_\"'`$#:=").rstrip(".!? \n*_").strip(" *_\"'`$")


def _tidy(text: str) -> str:
    """Lines with single blanks, without empty ones: what patterns are bounded on."""
    return "\n".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line := " ".join(line.split()):
            yield line
