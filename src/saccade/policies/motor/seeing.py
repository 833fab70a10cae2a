"""What a motor policy sees at each turn, as indices into what occurs in a batch: every frame and text is kept once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saccade.core.content import Array, Content, Image, text_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.trajectory import Context, Observation, Prompt, Trajectory, Turn

COMMAND = "command"
"""Name of the array in a motor policy's output: float32 ``[k, D]``."""
STATE = "state"
"""Name of the array of proprioception in an observation: float32 ``[S]``."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Expected:
    """What observations and earlier outputs must look like; 0 where something is not looked at."""

    side: int
    state: int
    chunk: int
    commands: int
    history: int


@dataclass(frozen=True)
class Words:
    """Words to indices: 0 pads, 1 is any word that is not known."""

    known: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = [word for word in self.known if not _WORD.fullmatch(word) or word != word.lower()]
        if wrong:
            raise ConfigError(f"words must be single words of small letters or digits, got {wrong[0]!r}")
        if len(set(self.known)) != len(self.known):
            raise ConfigError("words must differ from each other")

    @property
    def size(self) -> int:
        return 2 + len(self.known)

    def __call__(self, text: str) -> tuple[int, ...]:
        """Indices of the words of a text; case and punctuation do not matter."""
        return _indices(self, text)


@lru_cache(maxsize=4096)
def _indices(words: Words, text: str) -> tuple[int, ...]:
    places = _places(words)
    return tuple(places.get(word, 1) for word in _WORD.findall(text.lower()))


@lru_cache(maxsize=64)
def _places(words: Words) -> dict[str, int]:
    return {word: 2 + i for i, word in enumerate(words.known)}


@dataclass(eq=False)
class Rows:
    """R rows over F frames, L texts and M commands. A frame under two texts is two frames: the text tells what to see.

    Lists until ``frozen``; -1 in an index stands for what is not there.
    """

    pixels: list[np.ndarray] = field(default_factory=list)
    """F, uint8 ``[side, side, 3]``; empty if pictures are not looked at."""
    states: list[np.ndarray] = field(default_factory=list)
    """F, ``[S]``; empty if there are none."""
    text_of_frame: list[int] = field(default_factory=list)
    texts: list[tuple[int, ...]] = field(default_factory=list)
    commands: list[np.ndarray] = field(default_factory=list)
    """M, ``[k, D]``."""
    frame: list[list[int]] = field(default_factory=list)
    """[R][h], oldest first."""
    command: list[list[int]] = field(default_factory=list)
    """[R][h - 1]: the answer to each frame but the last."""
    text: list[int] = field(default_factory=list)
    """[R]"""

    def __len__(self) -> int:
        return len(self.text)

    def indices(self, device: torch.device) -> tuple[Int[Tensor, "R h"], Int[Tensor, "R c"], Int[Tensor, "R"]]:
        """``frame``, ``command`` and ``text`` as tensors."""
        frame = torch.tensor(self.frame, dtype=torch.int64).to(device)
        command = torch.tensor(self.command, dtype=torch.int64).reshape(len(self), -1).to(device)
        return frame, command, torch.tensor(self.text, dtype=torch.int64).to(device)


class Looking:
    """Collects rows. Contents are known again by identity, so they must outlive it."""

    def __init__(self, expected: Expected, words: Words) -> None:
        self.expected, self.words = expected, words
        self.rows = Rows()
        self._frames: dict[tuple[int, int], int] = {}
        self._commands: dict[int, int] = {}
        self._texts: dict[tuple[int, ...], int] = {}

    def context(self, context: Context) -> None:
        """One row: what is seen in this context."""
        said = self._said(context.prompt, context.turns)
        self._row(context.prompt, context.turns, 0, len(context.turns), said)

    def trajectory(self, trajectory: Trajectory, turns: Sequence[int], *, final: bool = False) -> None:
        """One row for each of these turns, in order; then one for what was shown last.

        Rows are those of ``trajectory.context(k)``.
        """
        shown: Sequence[Turn] = trajectory.turns
        if final:
            assert trajectory.final is not None, "asked for where there is one"
            last = shown[-1]
            ending = Turn(last.output, None, last.logp, last.mask, last.segment, observation=trajectory.final)
            shown = [*shown[:-1], ending]
        said = self._said(trajectory.prompt, shown)
        wanted, keep = set(turns) | ({len(shown)} if final else set()), None
        for k in range(len(shown) + 1):
            if k and (observation := shown[k - 1].observation) is not None and observation.keep is not None:
                keep = observation.keep
            if k in wanted:
                self._row(trajectory.prompt, shown, 0 if keep is None else max(0, k - keep), k, said)

    def _said(self, prompt: Prompt, turns: Sequence[Turn]) -> list[tuple[int, ...]]:
        """Words of the prompt and of the answer to each turn."""
        answers = [self.words(text_of(o.content)) if (o := turn.observation) is not None else () for turn in turns]
        return [self.words(text_of(prompt.content)), *answers]

    def _row(self, prompt: Prompt, turns: Sequence[Turn], first: int, k: int, said: list[tuple[int, ...]]) -> None:
        """The row of a context that shows the turns first, ..., k - 1."""
        told = said[0]
        if any(said[1 + first : 1 + k]):
            told = sum(said[1 + first : 1 + k], told)
        text = self._texts.setdefault(told, len(self._texts))
        if text == len(self.rows.texts):
            self.rows.texts.append(told)
        frames, commands = [], []
        for j in range(k - 1, first - 2, -1):
            if len(frames) == self.expected.history:
                break
            if frames:
                commands.append(self._command(prompt, turns[j + 1]))
            if j >= first:
                frames.append(self._frame(prompt, turns[j].observation, j + 1, text))
            else:
                frames.append(self._frame(prompt, Observation(prompt.content), 0, text))
        missing = [-1] * (self.expected.history - len(frames))
        self.rows.frame.append(missing + frames[::-1])
        self.rows.command.append(missing + commands[::-1])
        self.rows.text.append(text)

    def _frame(self, prompt: Prompt, observation: Observation | None, k: int, text: int) -> int:
        content: Content = () if observation is None else observation.content
        key = (id(content), text)
        if (known := self._frames.get(key)) is not None:
            return known
        rows, expected = self.rows, self.expected
        where = f"task {prompt.task.id!r}, observation {k}"
        if expected.side:
            images = [part.pixels for part in content if isinstance(part, Image)]
            if len(images) != 1 or images[0].shape[:2] != (expected.side, expected.side):
                sizes = ", ".join(f"{p.shape[1]} x {p.shape[0]}" for p in images) or "none"
                raise DataError(f"{where}: expected one image of {expected.side} x {expected.side}, got {sizes}")
            rows.pixels.append(images[0])
        if expected.state:
            states = [np.asarray(p.values) for p in content if isinstance(p, Array) and p.name == STATE]
            if len(states) != 1 or states[0].shape != (expected.state,) or not np.isfinite(states[0]).all():
                found = ", ".join(str(list(s.shape)) for s in states) or "none"
                raise DataError(
                    f"{where}: expected one array {STATE!r} of {expected.state} finite numbers, got {found}"
                )
            rows.states.append(states[0])
        self._frames[key] = len(rows.text_of_frame)
        rows.text_of_frame.append(text)
        return self._frames[key]

    def _command(self, prompt: Prompt, turn: Turn) -> int:
        if (known := self._commands.get(id(turn.output))) is not None:
            return known
        self._commands[id(turn.output)] = len(self.rows.commands)
        self.rows.commands.append(command_of(turn.output, self.expected, prompt))
        return self._commands[id(turn.output)]


def command_of(output: Content, expected: Expected, prompt: Prompt) -> np.ndarray:
    """The commands of an output, ``[k, D]``.

    Raises:
        DataError: naming the task, if the output is not one array ``command`` of finite numbers in this shape.
    """
    shape = (expected.chunk, expected.commands)
    found = [np.asarray(p.values) for p in output if isinstance(p, Array) and p.name == COMMAND]
    if len(found) != 1 or found[0].shape != shape or not np.isfinite(found[0]).all():
        got = ", ".join(str(list(values.shape)) for values in found) or "none"
        raise DataError(
            f"task {prompt.task.id!r}: expected one array {COMMAND!r} of finite numbers {list(shape)}, got {got}"
        )
    return found[0]
