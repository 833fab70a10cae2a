"""Overlap of free text with a reference: BLEU, ROUGE, edit distance, word errors, names.

With several references the best match counts. rapidfuzz and sacrebleu (extra ``vlm``) are imported where they are used:
``NameRecall`` needs neither.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from saccade.core.errors import ConfigError
from saccade.core.reward import Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.answer import AnswerReward
from saccade.rewards.parse import words


@dataclass(frozen=True, kw_only=True)
class Bleu(AnswerReward):
    """Sentence BLEU of the answer, in [0, 1], case-insensitive: sacrebleu with its default (exponential) smoothing.

    Orders for which the answer has no n-gram are left out (``effective_order``), as sacrebleu advises for sentences.
    """

    order: int = 4
    """Longest n-gram."""

    expects = "text or a list of texts, not empty"

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ConfigError(f"order must be >= 1, got {self.order}")

    def read(self, target: Any) -> tuple[str, ...]:
        return _texts(target)

    def grade(self, answer: str, target: tuple[str, ...], trajectory: Trajectory) -> float:
        # The geometric mean of ones may come out a hair above one.
        return min(1.0, _bleu(self.order).sentence_score(answer, list(target)).score / 100)


@dataclass(frozen=True, kw_only=True)
class Rouge(AnswerReward):
    """Mean of ROUGE F-measures, in [0, 1] (Lin 2004), words as in the rouge-score package, no stemming.

    ROUGE-n counts common n-grams (clipped), ROUGE-L the longest common subsequence of words;
    ``F = 2 c / (n-grams of the answer + n-grams of the reference)``. The mean of the three is the free-form reward of
    GRPO-CARE (arXiv:2506.16141) and Ground-R1 (arXiv:2505.20272).
    """

    kinds: tuple[Literal["1", "2", "L"], ...] = ("1", "2", "L")

    expects = "text or a list of texts, not empty"

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= {"1", "2", "L"}:
            raise ConfigError(f"kinds must be some of 1, 2 and L, got {self.kinds}")

    def read(self, target: Any) -> tuple[str, ...]:
        return _texts(target)

    def grade(self, answer: str, target: tuple[str, ...], trajectory: Trajectory) -> float:
        found = words(answer)
        return max(sum(_rouge(found, words(one), kind) for kind in self.kinds) for one in target) / len(self.kinds)


@dataclass(frozen=True, kw_only=True)
class EditDistance(AnswerReward):
    """1 - Levenshtein(answer, reference) / length of the longer, in characters; in [0, 1]."""

    expects = "text or a list of texts, not empty"

    def read(self, target: Any) -> tuple[str, ...]:
        return _texts(target)

    def grade(self, answer: str, target: tuple[str, ...], trajectory: Trajectory) -> float:
        from rapidfuzz.distance import Levenshtein

        return max(Levenshtein.normalized_similarity(answer, one.strip()) for one in target)


@dataclass(frozen=True, kw_only=True)
class WordErrorRate(AnswerReward):
    """max(0, 1 - WER), WER = word-level Levenshtein distance / words of the reference; case and punctuation ignored."""

    expects = "text or a list of texts, not empty"

    def read(self, target: Any) -> tuple[str, ...]:
        return _texts(target)

    def grade(self, answer: str, target: tuple[str, ...], trajectory: Trajectory) -> float:
        found = words(answer)
        return max(0.0, *(1 - _word_errors(found, words(one)) for one in target))


@dataclass(frozen=True, kw_only=True)
class NameRecall(AnswerReward):
    """Share of the names that occur in the text; 0 for texts shorter than ``min_chars`` (RePIC, arXiv:2506.18369).

    Without the floor the policy emits the bare names. A name of the form ``<x>`` does not count where ``</x>`` occurs
    too: that is a tag, not a mention.
    """

    tag: str = ""
    min_chars: int = 100
    """Least length of the text, in characters."""

    expects = "a name or a list of names, not empty"

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise ConfigError(f"min_chars must be >= 0, got {self.min_chars}")

    def read(self, target: Any) -> tuple[str, ...]:
        return _texts(target)

    def grade(self, answer: str, target: tuple[str, ...], trajectory: Trajectory) -> Score | float:
        if len(answer) < self.min_chars:
            return Score(0.0, note=f"{len(answer)} characters of at least {self.min_chars}")
        return sum(_mentions(answer, name) for name in target) / len(target)


def _mentions(text: str, name: str) -> bool:
    return name in text and not (name.startswith("<") and f"</{name[1:]}" in text)


def _texts(target: Any) -> tuple[str, ...]:
    texts = (target,) if isinstance(target, str) else tuple(target)
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError
    return texts


def _rouge(found: list[str], wanted: list[str], kind: str) -> float:
    if kind == "L":
        from rapidfuzz.distance import LCSseq

        common, total = LCSseq.similarity(found, wanted), len(found) + len(wanted)
    else:
        left, right = (
            Counter(zip(*(tokens[i:] for i in range(int(kind))), strict=False)) for tokens in (found, wanted)
        )
        common, total = (left & right).total(), left.total() + right.total()
    return 2 * common / total if total else 0.0


def _word_errors(found: list[str], wanted: list[str]) -> float:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(found, wanted) / max(1, len(wanted))


@lru_cache
def _bleu(order: int) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(lowercase=True, effective_order=True, max_ngram_order=order)
