"""The form of outputs: tags, JSON, length, repetition. None of these looks at the target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade.core.content import text_of
from saccade.core.errors import ConfigError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.rewards.parse import blocks, decoded, tagged, words

_NAME = re.compile(r"[^<>/\s]+")


@dataclass(frozen=True)
class Tags(SampleReward):
    """1 if the last output is ``<a>...</a> <b>...</b> ...``: exactly these blocks, in order, each once; else 0.

    White space may stand between the blocks, nothing else; the contents may hold none of the tags.
    """

    tags: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        _check_tags("tags", self.tags)

    def score(self, trajectory: Trajectory) -> float:
        return float(blocks(trajectory.text, self.tags) is not None)


@dataclass(frozen=True, kw_only=True)
class TurnPattern(SampleReward):
    """Share of turns that have the form of their place:  mean over turns k of 1[turn k matches].

    The last turn must be made of the blocks ``last``, every other one of the blocks ``turn`` (as in ``Tags``).
    Ground-R1 (arXiv:2505.20272) uses it with ``weight=2``.
    """

    turn: tuple[str, ...] = ("think", "box")
    last: tuple[str, ...] = ("think", "answer")

    def __post_init__(self) -> None:
        _check_tags("turn", self.turn)
        _check_tags("last", self.last)

    def score(self, trajectory: Trajectory) -> Score:
        final = trajectory.num_turns - 1
        fits = [
            blocks(text_of(turn.output), self.last if k == final else self.turn) is not None
            for k, turn in enumerate(trajectory.turns)
        ]
        return Score(sum(fits) / max(1, len(fits)), note=f"{sum(fits)} of {len(fits)} turns")


@dataclass(frozen=True, kw_only=True)
class JsonSchema(SampleReward):
    """1 if the answer is JSON (bare or in a code fence) that satisfies the schema, 0.5 if it is other JSON, else 0."""

    schema: Mapping[str, Any]
    """JSON Schema, draft 2020-12 unless it says otherwise. Patterns in it run on model output: keep them simple."""
    tag: str = "answer"
    """The answer is the content of the last ``<tag>...</tag>``; empty: the whole text."""
    partial: float = 0.5
    """Score of JSON that does not satisfy the schema, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.partial <= 1:
            raise ConfigError(f"partial must be in [0, 1], got {self.partial}")
        from jsonschema import SchemaError

        validator = self._validator()
        try:
            validator.check_schema(validator.schema)
        except SchemaError as error:
            raise ConfigError(f"schema is not a JSON schema: {error.message}") from None

    def score(self, trajectory: Trajectory) -> Score:
        answer = tagged(trajectory.text, self.tag)
        value = None if answer is None else decoded(answer)
        if value is None:
            return Score(0.0, note="no JSON")
        from jsonschema.exceptions import best_match

        try:
            wrong = best_match(self._validator().iter_errors(value))
        except RecursionError:
            return Score(self.partial, note="nested too deeply")
        return Score(1.0) if wrong is None else Score(self.partial, note=wrong.message[:120])

    def _validator(self) -> Any:
        # Imported here: the other classes of this module need no extra package.
        from jsonschema import Draft202012Validator
        from jsonschema.validators import validator_for

        schema = _listed(self.schema)
        return validator_for(schema, Draft202012Validator)(schema)


@dataclass(frozen=True, kw_only=True)
class LengthWindow(SampleReward):
    """1[low <= T <= high] for a trajectory of T actions (the length bonus of Video-R1 has 320 and 512)."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(f"low and high must satisfy 0 <= low <= high, got {self.low} and {self.high}")

    def score(self, trajectory: Trajectory) -> float:
        return float(self.low <= trajectory.num_actions <= self.high)


@dataclass(frozen=True, kw_only=True)
class LengthTarget(SampleReward):
    """1 - |T - target| / target for a trajectory of T actions, at least -1 (after BRPO, arXiv:2505.23558)."""

    target: int

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ConfigError(f"target must be >= 1, got {self.target}")

    def score(self, trajectory: Trajectory) -> float:
        return max(-1.0, 1 - abs(trajectory.num_actions - self.target) / self.target)


@dataclass(frozen=True, kw_only=True)
class Overlong(SampleReward):
    """Soft punishment of length (DAPO, arXiv:2503.14476), in [-1, 0], for T actions:

    ``0 if T <= limit - buffer;  (limit - buffer - T) / buffer  up to T = limit;  -1 beyond``.
    """

    limit: int
    buffer: int

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.limit:
            raise ConfigError(f"limit and buffer must satisfy 0 < buffer <= limit, got {self.limit} and {self.buffer}")

    def score(self, trajectory: Trajectory) -> float:
        return max(-1.0, min(0.0, (self.limit - self.buffer - trajectory.num_actions) / self.buffer))


@dataclass(frozen=True, kw_only=True)
class Repetition(SampleReward):
    """Minus the share of repeated n-grams of words:  -(1 - different / all), in (-1, 0]; 0 for fewer than n words.

    All turns count; n-grams do not cross turns.
    """

    n: int = 3

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n must be >= 1, got {self.n}")

    def score(self, trajectory: Trajectory) -> float:
        grams = [
            gram
            for turn in trajectory.turns
            for tokens in [words(text_of(turn.output))]
            for gram in zip(*(tokens[i:] for i in range(self.n)), strict=False)
        ]
        return len(set(grams)) / len(grams) - 1 if grams else 0.0


def _check_tags(name: str, tags: tuple[str, ...]) -> None:
    if not tags or len(set(tags)) < len(tags) or not all(_NAME.fullmatch(tag) for tag in tags):
        raise ConfigError(f"{name} must be different tag names without <, >, / and blanks, got {tags}")


def _listed(value: Any) -> Any:
    """Tuples as lists: configuration files give tuples, JSON schemas want lists."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
