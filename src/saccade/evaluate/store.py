"""Rollouts on disk, so that an evaluation that was stopped goes on and other metrics need no new rollouts.

Files are safetensors: the numbers of tensors and arrays, and the rest as JSON. Nothing that a file says is executed; of
classes only dataclasses of Saccade itself, or of modules that the program has imported, are built.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from saccade.core import config
from saccade.core.cache import cache_folder
from saccade.core.environment import EnvironmentSpec
from saccade.core.errors import ConfigError
from saccade.core.policy import Policy, Sampling
from saccade.core.trajectory import Group, Prompt, Task, Trajectory, Turn

LAYOUT = 1
"""Of the files; rises when they change."""
TREE = "tree"
"""Entry of a file that holds the JSON."""
TURN = tuple(field.name for field in dataclasses.fields(Turn))


class Unstorable(ValueError):
    """A value for which the files have no form."""


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Played:
    """Rollouts of some tasks and how long they took when they were made."""

    groups: list[Group]
    seconds: float


@dataclass(frozen=True)
class RolloutStore:
    """Rollouts of one policy in one environment under one sampling; a file holds those that were drawn together.

    What is drawn may depend, in the last bits, on what else is in the batch. So rollouts are found again only for the
    same tasks in the same company: what an evaluation says does not depend on where it was stopped.
    """

    setting: str
    """Hash of weights, policy, environment, sampling, rollouts per task, device and versions."""
    folder: Path = dataclasses.field(default_factory=lambda: cache_folder() / "evaluations")

    @classmethod
    def of(cls, policy: Policy, weights: str, env: EnvironmentSpec, sampling: Sampling, n: int) -> RolloutStore | None:
        """The store for these rollouts; None where policy or environment have no description in plain data."""
        try:
            plain: dict[str, Any] = {
                "layout": LAYOUT,
                "weights": weights,
                "policy": config.to_dict(policy.spec),
                "version": policy.version,
                "env": config.to_dict(env),
                "sampling": config.to_dict(sampling),
                "n": n,
                "device": policy.device.type,
                "versions": [metadata.version("saccade"), str(torch.__version__)],
            }
        except ConfigError:
            return None
        return cls(hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest())

    def load(self, tasks: Sequence[Task], seeds: Sequence[int]) -> Played | None:
        """What was kept of these tasks under these seeds; None if nothing was, or the file is damaged."""
        path = self._path(tasks, seeds)
        if path is None or not path.exists():
            return None
        try:
            plain = decode(path.read_bytes())
            return Played([_group(task, found) for task, found in zip(tasks, plain["groups"], strict=True)], plain["s"])
        except (OSError, SafetensorError, Unstorable, ValueError, KeyError, TypeError):
            return None

    def save(self, tasks: Sequence[Task], seeds: Sequence[int], played: Played) -> bool:
        """Keep rollouts, whole or not at all. False if they hold something for which the files have no form."""
        path = self._path(tasks, seeds)
        if path is None:
            return False
        try:
            data = encode({"groups": [_plain_group(group) for group in played.groups], "s": played.seconds})
        except Unstorable:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _path(self, tasks: Sequence[Task], seeds: Sequence[int]) -> Path | None:
        digest = hashlib.sha256(self.setting.encode())
        try:
            for task, seed in zip(tasks, seeds, strict=True):
                # A data file may change and keep its identifiers: the tasks themselves count.
                digest.update(encode((task.id, task.prompt, task.target, task.info, seed)))
        except Unstorable:
            return None
        name = digest.hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"


def _plain_group(group: Group) -> dict[str, Any]:
    members = [
        {
            "turns": [{name: getattr(turn, name) for name in TURN} for turn in trajectory.turns],
            "stop": trajectory.stop,
            "seed": trajectory.seed,
            "final": trajectory.final,
        }
        for trajectory in group
    ]
    return {"prompt": group[0].prompt.content, "members": members}


def _group(task: Task, plain: Mapping[str, Any]) -> Group:
    prompt = Prompt(task, plain["prompt"])
    return [
        Trajectory(prompt, [Turn(**turn) for turn in one["turns"]], one["stop"], {}, one["seed"], one["final"])
        for one in plain["members"]
    ]


def encode(value: Any) -> bytes:
    """A value as bytes that depend on nothing else. An object that occurs twice is one object again afterwards.

    Values are None, bool, int, float, str, bytes, lists, tuples, mappings, tensors, numpy arrays and numbers, and
    dataclasses of all these.

    Raises:
        Unstorable: something else is in it.
    """
    writer = _Writer()
    tree = json.dumps(writer.plain(value)).encode()
    try:
        return save({TREE: torch.frombuffer(bytearray(tree), dtype=torch.uint8), **writer.tensors})
    except (SafetensorError, KeyError) as error:
        raise Unstorable(f"a tensor that safetensors do not hold: {error}") from None


def decode(data: bytes) -> Any:
    """The value that ``encode`` wrote.

    Raises:
        SafetensorError, ValueError, KeyError, TypeError: these are no such bytes.
    """
    tensors = load(data)
    return _Reader(tensors).value(json.loads(tensors.pop(TREE).numpy().tobytes()))


class _Writer:
    """Plain data: scalars are themselves, everything else is a list that starts with its kind."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[int, int] = {}
        # Objects are held on to, so that no other one gets their place in memory and thereby their id.
        self._kept: list[Any] = []

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is list or kind is tuple:
            return [kind.__name__, *map(self.plain, value)]
        if isinstance(value, Mapping):
            return ["dict", *([self.plain(key), self.plain(item)] for key, item in value.items())]
        if isinstance(value, np.generic):
            return ["number", self._tensor(np.asarray(value))]
        if id(value) in self._known:
            return ["again", self._known[id(value)]]
        found = self._object(value)
        self._known[id(value)] = len(self._kept)
        self._kept.append(value)
        return found

    def _object(self, value: Any) -> list[Any]:
        if isinstance(value, bytes):
            return ["bytes", self._tensor(np.frombuffer(value, np.uint8))]
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_meta:
                raise Unstorable(f"a tensor of layout {value.layout}")
            return ["tensor", self._tensor(value.detach())]
        if isinstance(value, np.ndarray):
            return ["array", self._tensor(value)]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            kind = type(value)
            fields = dataclasses.fields(value)
            if not all(field.init for field in fields) or "<locals>" in kind.__qualname__:
                raise Unstorable(f"{kind.__qualname__} cannot be built from its fields")
            name = f"{kind.__module__}:{kind.__qualname__}"
            return ["object", name, *([field.name, self.plain(getattr(value, field.name))] for field in fields)]
        raise Unstorable(f"a value of type {type(value).__name__}")

    def _tensor(self, value: Tensor | np.ndarray) -> str:
        try:
            tensor = torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value
        except (TypeError, ValueError):
            raise Unstorable(f"an array of {value.dtype}") from None
        name = str(len(self.tensors))
        # A copy, because safetensors refuses tensors that share memory.
        self.tensors[name] = tensor.cpu().contiguous().clone()
        return name


class _Reader:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: list[Any] = []

    def value(self, plain: Any) -> Any:
        if not isinstance(plain, list):
            return plain
        kind, *rest = plain
        match kind:
            case "list":
                return [self.value(item) for item in rest]
            case "tuple":
                return tuple(self.value(item) for item in rest)
            case "dict":
                return {self.value(key): self.value(item) for key, item in rest}
            case "number":
                return self._tensors[rest[0]].numpy()[()]
            case "again":
                return self._made[rest[0]]
            case _:
                made = self._object(kind, rest)
                self._made.append(made)
                return made

    def _object(self, kind: str, rest: Sequence[Any]) -> Any:
        match kind:
            case "bytes":
                return self._tensors[rest[0]].numpy().tobytes()
            case "tensor":
                return self._tensors[rest[0]]
            case "array":
                return self._tensors[rest[0]].numpy()
            case "object":
                return _class(rest[0])(**{name: self.value(item) for name, item in rest[1:]})
            case _:
                raise ValueError(f"there is no kind {kind!r}")


def _class(name: str) -> type:
    module, _, path = name.partition(":")
    ours = module == "saccade" or module.startswith("saccade.")
    try:
        found: Any = importlib.import_module(module) if ours else sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, KeyError):
        raise ValueError(f"there is no class {name!r}") from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"{name!r} is not a dataclass")
    return found
