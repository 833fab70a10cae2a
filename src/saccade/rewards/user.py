"""A reward from a user's file: ``--reward mine.py:score``."""

from __future__ import annotations

import difflib
import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

from saccade.core.content import text_of
from saccade.core.errors import ConfigError, ContractError, DataError
from saccade.core.reward import Reward, Score
from saccade.core.trajectory import Task, Trajectory


@dataclass(frozen=True, kw_only=True)
class UserFunction(Reward):
    """A function of a Python file as reward.

    Two signatures are known, told apart by the name of the first parameter:

    - ``score(text, answer, info)`` is called once a trajectory with the text of the last output, the task's answer and
      its metadata (``info["columns"]`` holds the other columns of the user's data); it may take only the first one or
      two. It returns a finite number, None (the trajectory cannot be scored), or
      ``{"score": number or None, "note": text}``.
    - ``reward(completions, **columns)``, as for TRL's GRPOTrainer, is called once a batch with lists of equal length:
      ``completions`` and ``prompts`` (texts), the answers (as ``answer``, ``solution`` and ``ground_truth``), and every
      column that all tasks have. It returns a list of numbers or None. Without ``**columns`` it gets those it names.

    The answer is ``target["answer"]`` where the target is a mapping that has it, else the target.
    The file is loaded when it is first needed and again when it has changed; its folder is importable while it loads.

    Raises:
        DataError: there is no such file or function in it.
        ContractError: the file cannot be loaded; the function raises, or returns something else. The message is one
            line that names file, function and task.
    """

    path: str
    """The file, absolute or relative to the working directory."""
    name: str = "score"
    """The function in it."""

    def __post_init__(self) -> None:
        if not self.path.endswith(".py"):
            raise ConfigError(f"path must be a Python file, got {self.path!r}")
        if not self.name.isidentifier():
            raise ConfigError(f"name must be the name of a function, got {self.name!r}")

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        function = self._function()
        names = list(inspect.signature(function).parameters)
        if names and names[0] == "completions":
            return self._batched(function, trajectories)
        width = _positional(function)
        if not 1 <= width <= 3:
            raise ContractError(
                f"{self._where}: expected score(text, answer, info) or reward(completions, **columns), "
                f"found parameters ({', '.join(names)})"
            )
        return [self._single(function, width, trajectory) for trajectory in trajectories]

    @property
    def _where(self) -> str:
        return f"reward {self.path}:{self.name}"

    def _function(self) -> Callable[..., Any]:
        file = Path(self.path)
        if not file.is_file():
            raise DataError(f"{self._where}: there is no file {self.path}")
        state = file.stat()
        namespace = _loaded(str(file.resolve()), state.st_mtime_ns, state.st_size)
        function = namespace.get(self.name)
        if not callable(function):
            known = sorted(key for key, value in namespace.items() if inspect.isfunction(value))
            near = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"functions in it: {', '.join(known) or 'none'}"
            raise DataError(f"{self._where}: there is no function {self.name!r} in {self.path}; {hint}")
        return function

    def _single(self, function: Callable[..., Any], width: int, trajectory: Trajectory) -> Score:
        task = trajectory.task
        where = f"{self._where}, task {task.id!r}"
        try:
            found = function(*(trajectory.text, _answer(task), dict(task.info))[:width])
        except Exception as error:
            raise ContractError(f"{where}: the function raised {_line(error)}") from error
        note = ""
        if isinstance(found, dict):
            if "score" not in found:
                raise ContractError(f"{where}: expected a number, None or a dict with 'score', got keys {list(found)}")
            found, note = found["score"], str(found.get("note", ""))
        return Score(_checked(found, where), note=note)

    def _batched(self, function: Callable[..., Any], trajectories: Sequence[Trajectory]) -> list[Score]:
        tasks = [trajectory.task for trajectory in trajectories]
        rows: list[Mapping[str, Any]] = [task.info.get("columns", task.info) for task in tasks]
        shared = set[str]().union(*rows[:1]).intersection(*rows)
        answers = [_answer(task) for task in tasks]
        columns: dict[str, list[Any]] = {"answer": answers, "solution": answers, "ground_truth": answers}
        columns |= {key: [row[key] for row in rows] for key in sorted(shared)}
        columns["prompts"] = [text_of(trajectory.prompt.content) for trajectory in trajectories]
        columns["completions"] = [trajectory.text for trajectory in trajectories]
        parameters = inspect.signature(function).parameters
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            columns = {key: column for key, column in columns.items() if key in parameters}
        where = f"{self._where}, tasks {', '.join(dict.fromkeys(repr(task.id) for task in tasks[:3]))}"
        where += ", ..." if len(tasks) > 3 else ""
        try:
            found = function(**columns)
        except Exception as error:
            raise ContractError(f"{where}: the function raised {_line(error)}") from error
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise ContractError(f"{where}: expected a list of {len(tasks)} numbers, got {type(found).__name__}")
        if len(found) != len(tasks):
            raise ContractError(f"{where}: expected {len(tasks)} numbers, one a completion, got {len(found)}")
        return [
            Score(_checked(one, f"{self._where}, task {task.id!r}")) for one, task in zip(found, tasks, strict=True)
        ]


@lru_cache(maxsize=16)
def _loaded(path: str, mtime: int, size: int) -> dict[str, Any]:
    """Names defined by the file in this state."""
    module = types.ModuleType(f"saccade_user_{Path(path).stem}")
    module.__file__ = path
    # Dataclasses and pickles look their module up by name.
    sys.modules[module.__name__] = module
    folder = str(Path(path).parent)
    sys.path.insert(0, folder)
    try:
        # Compiled here: the import system's bytecode cache cannot tell two versions of one second apart.
        exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)
    except Exception as error:
        raise ContractError(f"reward file {path}: loading it raised {_line(error)}") from error
    finally:
        sys.path.remove(folder)
    return vars(module)


def _answer(task: Task) -> Any:
    target = task.target
    return target["answer"] if isinstance(target, Mapping) and "answer" in target else target


def _positional(function: Callable[..., Any]) -> int:
    """Number of parameters without default that may be given by position; those with defaults count up to three."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    required = sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)
    return max(required, min(3, sum(p.kind in kinds for p in parameters)))


def _checked(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real):
        raise ContractError(f"{where}: expected a number or None, got {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ContractError(f"{where}: expected a finite number, got {number}")
    return number


def _line(error: Exception) -> str:
    """Kind, place and text of an exception, in one line."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f" (line {traceback.tb_lineno})" if traceback is not None else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())}"[:300]
