"""Checks that an implementation keeps its contract, for this library's tests and for those of other authors.

Each check returns nothing or raises ``ContractError`` with what was expected and where it was not so.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.core.content import Array, Content, Image, Mesh, Text, Video, text_of
from saccade.core.environment import Environment, EnvironmentSpec, Step
from saccade.core.errors import ContractError
from saccade.core.random import fold_in
from saccade.core.trajectory import Observation, Task

MALFORMED: tuple[Content, ...] = (
    (),
    (Text(""),),
    (Text("<answer"),),
    (Text("</answer><answer>"),),
    (Text("<box>[1,2,3]</box>"),),
    (Text("<box>[nan,-5,1e999,99999999999999999999]</box>"),),
    (Text('<tool>{"name": "crop", "arguments": [}</tool>'),),
    (Text('<tool>{"name": ["crop"], "arguments": {}}</tool>'),),
    (Text("<tool>" + "[" * 20_000),),
    (Text("<tool>" * 20_000),),
    (Text("Action: Object Mapper ```json [{}]```"),),
    (Text("click(\x00)\udcff"),),
    (Text("9" * 20_000),),
    (Image(np.zeros((1, 1, 3), np.uint8)),),
)
"""Outputs no environment can be glad of; some are well-formed somewhere."""
SECRET = 12
"""Texts of the target that are at least this long may not be shown to the policy; shorter ones can occur by chance."""


def check_environment(spec: EnvironmentSpec, n: int = 8) -> None:
    """An environment keeps its contract on n of its tasks, spread over the task set.

    - The spec survives pickling: the copy has equal settings, tasks and prompts.
    - Tasks are the same each time they are drawn; their ids differ.
    - Equal seeds give equal episodes, on one instance after ``reset`` and on two instances.
    - The prompt holds neither the target nor a gold output; an observation neither the last gold output nor a picture
      or text that is part of the target. Texts of fewer than 12 characters are not looked for, and a prompt may list
      the answer among other options.
    - Gold outputs, played turn by turn, end the episode at the last of them and at no other, within ``max_turns``,
      and no step notes ``valid: False``.
    - Malformed outputs are answered with a step, never an exception; an episode that goes on has an observation.

    Args:
        spec: what to check.
        n: tasks to draw.

    Raises:
        ContractError: naming the spec, the task and what is wrong.
    """
    name = type(spec).__name__
    size = len(spec.tasks)
    if size == 0:
        raise ContractError(f"{name}: the task set is empty")
    if spec.max_turns < 1:
        raise ContractError(f"{name}: max_turns must be >= 1, got {spec.max_turns}")
    indices = sorted({i * size // min(n, size) for i in range(min(n, size))})
    copy: EnvironmentSpec = pickle.loads(pickle.dumps(spec))
    if copy != spec:
        raise ContractError(f"{name}: a pickled copy has other settings")
    environment, other = spec.make(), copy.make()
    seen: set[str] = set()
    try:
        for i in indices:
            task = spec.tasks[i]
            where = f"{name}, task {task.id!r}"
            if task.id in seen:
                raise ContractError(f"{where}: two tasks have this id")
            seen.add(task.id)
            _check_repeatable(spec, copy, i, where)
            _check_prompt(spec, task, where)
            _check_gold(spec, environment, task, where)
            _check_seeding(environment, other, task, where)
            for output in MALFORMED:
                _play(environment, task, (output, output), where)
    finally:
        environment.close()
        other.close()


def _check_repeatable(spec: EnvironmentSpec, copy: EnvironmentSpec, i: int, where: str) -> None:
    first, second = spec.tasks[i], copy.tasks[i]
    if first.id != second.id or not same_content(first.prompt, second.prompt):
        raise ContractError(f"{where}: task {i} is another one when it is drawn again")
    if not same_content(spec.prompt(first), copy.prompt(second)):
        raise ContractError(f"{where}: the prompt is another one when it is asked for again")


def _check_prompt(spec: EnvironmentSpec, task: Task, where: str) -> None:
    content = spec.prompt(task)
    _check_content(content, f"{where}: prompt")
    if not content:
        raise ContractError(f"{where}: the prompt is empty")
    whole = [task.target] if isinstance(task.target, str) else []
    _check_secret(content, [*whole, *map(text_of, task.gold)], _arrays(task.target), f"{where}: prompt")


def _check_gold(spec: EnvironmentSpec, environment: Environment, task: Task, where: str) -> None:
    if len(task.gold) > spec.max_turns:
        raise ContractError(f"{where}: gold has {len(task.gold)} turns, max_turns is {spec.max_turns}")
    if not task.gold:
        return
    steps = _play(environment, task, task.gold, where).steps
    for k, step in enumerate(steps):
        if step.info.get("valid") is False:
            raise ContractError(f"{where}: gold turn {k} is not valid: {dict(step.info)}")
    if len(steps) < len(task.gold) or not steps[-1].terminated:
        end = f"ended after turn {len(steps) - 1}" if len(steps) < len(task.gold) else "did not end"
        raise ContractError(f"{where}: the episode {end}, gold has {len(task.gold)} turns")


def _check_seeding(environment: Environment, other: Environment, task: Task, where: str) -> None:
    outputs = (*task.gold[:-1], (Text(""),), *task.gold[-1:])
    episode = _play(environment, task, outputs, where)
    if not episode.same(_play(environment, task, outputs, where)):
        raise ContractError(f"{where}: equal seeds give other episodes on the same instance after reset")
    if not episode.same(_play(other, task, outputs, where)):
        raise ContractError(f"{where}: equal seeds give other episodes on another instance")


@dataclass(frozen=True, eq=False)
class _Episode:
    first: Observation | None
    steps: list[Step]

    def same(self, other: _Episode) -> bool:
        return (
            _same_observation(self.first, other.first)
            and len(self.steps) == len(other.steps)
            and all(
                _same_observation(a.observation, b.observation)
                and (a.reward, a.terminated, a.truncated) == (b.reward, b.terminated, b.truncated)
                for a, b in zip(self.steps, other.steps, strict=True)
            )
        )


def _play(environment: Environment, task: Task, outputs: tuple[Content, ...], where: str) -> _Episode:
    """One episode, each step of it checked; stops when the episode does."""
    first = environment.reset(task, fold_in(0, task.id))
    if first is not None:
        _check_observation(first, task, f"{where}: first observation")
    steps: list[Step] = []
    for k, output in enumerate(outputs):
        try:
            step = environment.step(output)
        except Exception as error:
            said = text_of(output)[:40]
            raise ContractError(f"{where}: the output {said!r} raises {type(error).__name__}: {error}") from error
        if not isinstance(step, Step):
            raise ContractError(f"{where}: turn {k} gave {type(step).__name__}, expected Step")
        if not np.isfinite(step.reward):
            raise ContractError(f"{where}: turn {k} pays {step.reward}")
        over = step.terminated or step.truncated
        if step.observation is not None:
            _check_observation(step.observation, task, f"{where}: observation of turn {k}")
        elif not over:
            raise ContractError(f"{where}: turn {k} gave neither an observation nor an end")
        pickle.dumps(step)
        steps.append(step)
        if over:
            break
    return _Episode(first, steps)


def _check_observation(observation: Observation, task: Task, where: str) -> None:
    _check_content(observation.content, where)
    if observation.keep is not None and observation.keep < 0:
        raise ContractError(f"{where}: keep must be >= 0, got {observation.keep}")
    # Calls of earlier gold turns may be repeated to the policy; the answer may not be given away.
    texts = [*_texts(task.target), *map(text_of, task.gold[-1:])]
    _check_secret(observation.content, texts, _arrays(task.target), where)


def _check_content(content: Content, where: str) -> None:
    if not isinstance(content, tuple) or not all(isinstance(p, Text | Image | Video | Mesh | Array) for p in content):
        raise ContractError(f"{where}: expected a tuple of content parts, got {content!r:.80}")


def _check_secret(content: Content, texts: Iterable[str], arrays: Iterable[np.ndarray], where: str) -> None:
    said, shown = text_of(content), list(_arrays(content))
    for text in texts:
        if len(text) >= SECRET and text in said:
            raise ContractError(f"{where}: holds a text of the target or of gold, {text[:60]!r}")
    for array in arrays:
        if array.size >= SECRET and any(np.array_equal(array, one) for one in shown):
            raise ContractError(f"{where}: holds a picture or array of the target")


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested data."""
    if isinstance(value, str):
        yield value
    for item in _items(value):
        yield from _texts(item)


def _arrays(value: Any) -> Iterator[np.ndarray]:
    """All arrays in nested data, those of content parts included."""
    if isinstance(value, np.ndarray):
        yield value
    for item in _items(value):
        yield from _arrays(item)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    return vars(value).values() if isinstance(value, Text | Image | Video | Mesh | Array) else ()


def same_content(a: Content, b: Content) -> bool:
    """Whether two contents have equal parts, arrays compared by value."""
    return len(a) == len(b) and all(
        type(p) is type(q) and all(_equal(x, y) for x, y in zip(vars(p).values(), vars(q).values(), strict=True))
        for p, q in zip(a, b, strict=True)
    )


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)


def _same_observation(a: Observation | None, b: Observation | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.keep == b.keep and same_content(a.content, b.content)
