"""Outputs that were made elsewhere: read from a file, checked, and given in place of a policy's."""

from __future__ import annotations

import difflib
import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saccade.cli.catalogue import Given
from saccade.cli.subject import Subject, short_hash
from saccade.core.content import Text
from saccade.core.errors import ConfigError, DataError
from saccade.core.policy import Act, Policy, Sampling
from saccade.core.trajectory import Context
from saccade.envs.datasets.media import FILMS, Media, MediaKind, Place, short
from saccade.evaluate.benchmark import Benchmark
from saccade.recipe import Evaluation, Pillar

MOVING = (".gif", ".apng", ".webp", *FILMS)
"""Endings of given outputs that are videos."""
FRAMES = 1024
"""Most frames of a given video; rules want all of them."""


def predicted(chosen: Namespace, given: Given, benchmarks: Sequence[Benchmark], held_out: bool) -> tuple[Subject, Path]:
    """What ``--predictions`` gives for one benchmark, and the folder of its results.

    Raises:
        ConfigError: outputs alone cannot be scored as the options ask.
        DataError: the file has an unreadable row, an unknown task, or not as many outputs for every task.
    """
    if chosen.run is not None:
        raise ConfigError(f"--predictions are scored without a model; leave out {chosen.run}")
    if len(benchmarks) != 1 or held_out:
        raise ConfigError("--predictions are of one benchmark; name it with --suite")
    if given:
        near = difflib.get_close_matches(given[0][0], chosen.known, n=1)
        raise ConfigError(f"there is no option --{given[0][0]}{f'; did you mean --{near[0]}?' if near else ''}")
    (benchmark,) = benchmarks
    if benchmark.env().max_turns != 1:
        raise ConfigError(f"{benchmark.name} is played in several turns; outputs alone cannot be scored")
    path = Path(chosen.predictions)
    outputs = read_predictions(path, benchmark.pillar)
    n = _equal_number(path, benchmark, outputs, chosen.limit)
    of = {"predictions": str(path), "name": path.stem, "step": None}
    changed = "" if chosen.limit is None else short_hash([chosen.limit])
    weights = hashlib.sha256(path.read_bytes()).hexdigest()
    subject = Subject(of, Evaluation(n=n), 0, changed, given=outputs, weights=weights)
    return subject, Path("evaluations") / path.stem


def read_predictions(path: Path, pillar: Pillar) -> dict[str, list[Text | Media]]:
    """Outputs by task id from lines ``{"id": ..., "output": ...}``; several lines of one id are several rollouts.

    An output is text; for drawing models the path of a picture or video, relative to the file, decoded when
    it is scored; for models that act also an object, which stands for its JSON.

    Raises:
        DataError: naming file, row and field.
    """
    found: dict[str, list[Text | Media]] = {}
    with path.open("rb") as file:
        for number, row in enumerate(file, 1):
            if not row.strip():
                continue
            try:
                plain = json.loads(row)
            except (ValueError, RecursionError) as error:
                Place(str(path), number, "row").wrong(f"no JSON ({error})", 'an object like {"id": "1", "output": "B"}')
            if not isinstance(plain, dict):
                Place(str(path), number, "row").wrong(short(plain), 'an object like {"id": "1", "output": "B"}')
            name, output = plain.get("id"), plain.get("output")
            if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
                Place(str(path), number, "id").wrong(short(name), "the id of a task")
            place = Place(str(path), number, "output")
            if pillar == "vla" and isinstance(output, dict):
                output = json.dumps(output)
            if not isinstance(output, str):
                place.wrong(short(output), "text" if pillar != "generation" else "the path of a picture")
            part: Text | Media = Text(output)
            if pillar == "generation":
                kind: MediaKind = "video" if output.lower().endswith(MOVING) else "image"
                part = Media(kind, output, path.parent, place, FRAMES)
                part.check()
            found.setdefault(str(name), []).append(part)
    if not found:
        raise DataError(f"{path}: found no rows, expected at least one")
    return found


def _equal_number(path: Path, benchmark: Benchmark, outputs: Mapping[str, Sequence[Any]], limit: int | None) -> int:
    """Outputs per task: as many for every task that counts. Tasks without one would make a score look better."""
    every = benchmark.ids
    asked, known = every[:limit] if limit is not None else every, set(every)
    if unknown := [name for name in outputs if name not in known]:
        near = difflib.get_close_matches(unknown[0], every, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{path}: {benchmark.name} has no task {unknown[0]!r}{hint}")
    if missing := [name for name in asked if name not in outputs]:
        raise DataError(
            f"{path}: found no output for {len(missing)} of {len(asked)} tasks, the first is {missing[0]!r}"
        )
    n = len(outputs[asked[0]])
    for name in asked:
        if len(outputs[name]) != n:
            raise DataError(f"{path}: found {len(outputs[name])} outputs for task {name!r} and {n} for {asked[0]!r}")
    return n


class Recited:
    """An actor without a policy: gives each task the outputs that somebody else made."""

    seeded = True
    version = 0

    def __init__(self, outputs: Mapping[str, Sequence[Text | Media]]) -> None:
        self._outputs = outputs

    def act(
        self, contexts: Sequence[Context], *, n: int = 1, sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Act]]:
        return [[_act(output) for output in self._outputs[context.prompt.task.id]] for context in contexts]

    def sync(self, policy: Policy, version: int) -> None:
        return


def _act(output: Text | Media) -> Act:
    none = torch.zeros(0)
    part = output if isinstance(output, Text) else output.decoded()
    return Act((part,), None, none, none.bool(), none.long())
