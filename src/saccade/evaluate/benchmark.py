"""What a benchmark is: tasks in the files it publishes, its own scoring rule, and its own summary of the scores."""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

from saccade.core.content import Content, Part, Text
from saccade.core.environment import EnvironmentSpec, Split, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean
from saccade.core.reward import Reward
from saccade.core.trajectory import Group, Task
from saccade.envs.datasets.media import Media, MediaKind, Place, short
from saccade.envs.datasets.rows import read_rows
from saccade.envs.single import SingleTurn
from saccade.evaluate import benchmarks
from saccade.evaluate.samples import Mean, totals
from saccade.recipe import Pillar


@dataclass(frozen=True)
class Entry:
    """One row of a published file; its fields are read by name and checked, and errors say where they stand."""

    file: Path
    number: int
    """From 1; in files of lines the line."""
    columns: Mapping[str, Any]
    root: Path
    """Folder that paths of pictures are relative to."""

    def place(self, name: str) -> Place:
        return Place(str(self.file), self.number, name)

    def has(self, name: str) -> bool:
        """Whether there is such a field with anything in it."""
        return self.columns.get(name) not in (None, "", [])

    def value(self, name: str) -> Any:
        """Whatever stands in a field that must be there."""
        if name not in self.columns:
            self.wrong(name, f"the fields {', '.join(map(str, self.columns)) or 'none'}", f"a field {name!r}")
        return self.columns[name]

    def text(self, name: str, *, empty: bool = False) -> str:
        value = self.value(name)
        if not isinstance(value, str) or not (value.strip() or empty):
            self.wrong(name, short(value), "text")
        return value

    def word(self, name: str) -> str:
        """Text, or a number as text: identifiers and answers that some files write as numbers."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            self.wrong(name, short(value), "text or a number")
        return str(value)

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        value = self.value(name)
        if value not in allowed:
            self.wrong(name, short(value), f"one of {', '.join(allowed)}")
        return str(value)

    def number_of(self, name: str) -> float:
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.wrong(name, short(value), "a finite number")
        return float(value)

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        value = self.value(name)
        fine = isinstance(value, list | tuple) and len(value) == length
        if not fine or not all(
            isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value
        ):
            self.wrong(name, short(value), f"a list of {length} finite numbers")
        return tuple(float(x) for x in value)

    def texts(self, name: str, least: int = 1) -> list[str]:
        value = self.value(name)
        fine = isinstance(value, list | tuple) and len(value) >= least
        if not fine or not all(isinstance(x, str | int | float) for x in value):
            self.wrong(name, short(value), f"a list of {least} or more texts")
        return [str(x) for x in value]

    def media(self, name: str, kind: MediaKind = "image", *, source: Any = None) -> Media:
        """The picture or video of a field (or another source that stands for it), checked but not decoded."""
        found = Media(kind, self.value(name) if source is None else source, self.root, self.place(name))
        found.check()
        return found

    def wrong(self, name: str, found: str, expected: str) -> NoReturn:
        self.place(name).wrong(found, expected)


def entries(path: Path, root: Path | None = None) -> Iterator[Entry]:
    """Rows of a .jsonl, .json (a list of objects) or .parquet file.

    Raises:
        DataError: there is no such file, it cannot be read, or a row is no object.
    """
    if not path.is_file():
        raise DataError(f"{path}: found no such file, expected a file of the benchmark")
    for number, columns in read_rows(path):
        if not isinstance(columns, Mapping):
            Place(str(path), number, "row").wrong(short(columns), "an object with one entry a field")
        yield Entry(path, number, columns, root or path.parent)


@dataclass(frozen=True, eq=False)
class Item:
    """A task whose pictures are not decoded yet."""

    id: str
    prompt: tuple[Text | Media, ...]
    target: Any
    category: str = ""
    """What tables are broken down by; empty: nothing."""
    gold: tuple[Content, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    """What else scoring or a reader needs: fields of the row under their own names."""

    def task(self) -> Task:
        prompt: list[Part] = [part if isinstance(part, Text) else part.decoded() for part in self.prompt]
        return Task(self.id, tuple(prompt), self.target, self.gold, {**self.info, "category": self.category})


@dataclass(frozen=True)
class Benchmark(Tasks):
    """A task set in a benchmark's published layout, with the rule that its authors score answers by.

    Files are checked whole when first used, pictures are decoded when a task is drawn. Every mistake in a file is a
    ``DataError`` of one line that names file, row and field.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    """arXiv number."""
    pillar: ClassVar[Pillar]
    hub: ClassVar[str] = ""
    """Data set on the Hugging Face hub; empty: it has to be fetched by hand."""
    files: ClassVar[tuple[str, ...]] = ("*",)
    """Patterns of the files that are needed of it."""
    parts: ClassVar[tuple[str, ...]]
    """Published splits; the first is the default."""
    rule_in_words: ClassVar[str]
    """How an output is scored, in one sentence."""
    source: ClassVar[Literal["called", "implemented"]] = "implemented"
    """Whether the authors' code is called or their rule was written anew from it."""

    recorded: ClassVar[bool] = False
    """Whether outputs hold what a simulator that is not here saw. Such files can be scored; models, which could claim
    anything, cannot."""

    data: str = ""
    """Folder with the published files; empty: fetched from the hub."""
    part: str = ""
    """Which published split; empty: the first of ``parts``."""

    def __post_init__(self) -> None:
        if self.part and self.part not in self.parts:
            raise ConfigError(f"part must be one of {', '.join(self.parts)} of {self.name}, got {self.part!r}")

    # --- for a benchmark to say -----------------------------------------------------------------------------------

    @abstractmethod
    def items(self, folder: Path, part: str) -> Sequence[Item]:
        """All tasks of a split. Called once a process and folder."""

    @property
    @abstractmethod
    def rule(self) -> Reward:
        """The official score of one output."""

    def metrics(self) -> Mapping[str, Metric]:
        """The official summary; the first is the number that papers report."""
        return {"accuracy": Mean(self.rule)}

    def env(self) -> EnvironmentSpec:
        """How the tasks are put to a policy."""
        return SingleTurn(self)

    @classmethod
    @abstractmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        """The published files in small: n tasks a split with pictures drawn on the spot, for tests and a first try."""

    # --- the rest is common ---------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        if self.data:
            folder = Path(self.data)
            if not folder.is_dir():
                raise DataError(f"{self.data}: found no such folder, expected the files of {self.title}")
            return folder
        return _fetched(self.name, self.hub, self.files)

    def __len__(self) -> int:
        return len(self._items)

    def task(self, index: int) -> Task:
        return self._items[index].task()

    @property
    def ids(self) -> list[str]:
        """Of all tasks, without decoding any picture."""
        return [item.id for item in self._items]

    def split(self, name: Split) -> Tasks:
        """Every task is held out: benchmarks are not trained on."""
        if name == "train":
            raise ConfigError(f"{self.name} is a benchmark: it has no training part")
        return self

    @property
    def _items(self) -> Sequence[Item]:
        return _checked(self, self.folder, self.part or self.parts[0])


@lru_cache(maxsize=8)
def _checked(benchmark: Benchmark, folder: Path, part: str) -> Sequence[Item]:
    items = tuple(benchmark.items(folder, part))
    if not items:
        raise DataError(f"{folder}: found no tasks of {benchmark.title}, split {part!r}, expected at least one")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(f"{folder}: found the identifier {item.id!r} twice in split {part!r}, expected each once")
        seen.add(item.id)
    return items


@lru_cache(maxsize=8)
def _fetched(name: str, hub: str, files: tuple[str, ...]) -> Path:
    if not hub:
        raise ConfigError(f"{name} is not on the hub: fetch its files and name their folder with --data")
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise ConfigError(f"{name} would be fetched from the hub ({hub}), which HF_HUB_OFFLINE forbids: use --data DIR")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub, repo_type="dataset", allow_patterns=list(files)))


def benchmark_classes() -> dict[str, type[Benchmark]]:
    """All benchmarks by name, in order of name."""
    found: dict[str, type[Benchmark]] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        for value in vars(importlib.import_module(f"{benchmarks.__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Benchmark) and "name" in vars(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def benchmark_named(name: str, data: str = "", part: str = "") -> Benchmark:
    """One benchmark.

    Raises:
        ConfigError: there is none of this name, or it has no such split.
    """
    known = benchmark_classes()
    if name not in known:
        raise ConfigError(f"there is no benchmark {name!r}; known: {', '.join(known)}")
    return known[name](data=data, part=part)


@dataclass(frozen=True)
class MeanOfCategories(Metric):
    """Mean over categories of the mean score in each: every category weighs the same, however many tasks it has.

    The standard error takes categories as fixed: ``sqrt(sum_c se_c^2) / C``, each ``se_c`` clustered by task.
    """

    reward: Reward

    def rows(self, groups: Sequence[Group], models: Models) -> list[tuple[str, Row]]:
        return [
            (group[0].task.info.get("category", ""), Row(group[0].task.id, total))
            for group, found in zip(groups, totals(self.reward, groups), strict=True)
            for total in found
            if total is not None
        ]

    def compute(self, rows: Sequence[tuple[str, Row]]) -> Estimate:
        parts = [clustered_mean(of) for of in by_category(rows).values()]
        if not parts:
            return Estimate(math.nan, math.nan, 0)
        value = math.fsum(part.value for part in parts) / len(parts)
        stderr = math.sqrt(math.fsum(part.stderr**2 for part in parts)) / len(parts)
        return Estimate(value, stderr, len(rows))


def by_category(rows: Sequence[tuple[str, Row]]) -> dict[str, list[Row]]:
    """Rows of each category, in order of its name."""
    found: dict[str, list[Row]] = {}
    for category, row in rows:
        found.setdefault(category, []).append(row)
    return dict(sorted(found.items()))
