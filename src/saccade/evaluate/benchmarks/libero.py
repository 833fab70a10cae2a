"""LIBERO (arXiv:2306.03310): 130 tasks of a robot arm at a table, in suites.

Files: ``<suite>/<task>_demo.hdf5`` with fifty demonstrations each, ``data/demo_<k>/{actions, rewards, dones,
obs/agentview_rgb, ...}``. Every demonstration's first picture begins a task. The simulator (robosuite) is not part of
this library: the rule scores *recorded* outcomes, which are the note ``success`` of the last turn, or an ``Array`` of
one number named "success", or JSON, ``{"success": true}``, in the output. Whoever runs the simulator writes them; a
policy's own word is not evidence.

Pictures stand on their heads in the files (row 0 is the bottom); they are turned upright here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from saccade.core.content import Array, Image, Text
from saccade.core.errors import CapabilityError, DataError
from saccade.core.metric import Metric
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.datasets.media import Media, Place, short
from saccade.evaluate.benchmark import Benchmark, Item, MeanOfCategories
from saccade.evaluate.samples import Mean

CAMERA = "agentview_rgb"
LANGUAGE = re.compile(r"\(:language\s+([^()]{1,400})\)")
SCENE = re.compile(r"^[A-Z_]+SCENE[0-9]+_")
H5PY = "LIBERO's files need h5py: pip install 'saccade[benchmarks]'"


@dataclass(frozen=True, kw_only=True)
class RecordedSuccess(SampleReward):
    """1 if the record of the episode says that the task was done, else 0; the module says where it stands.

    An episode without such a record was not shown to succeed: 0, and the note says why.
    """

    def score(self, trajectory: Trajectory) -> Score | None:
        if not trajectory.turns:
            return None
        found = self._recorded(trajectory)
        return Score(0.0, note="no record of success") if found is None else Score(float(found))

    def _recorded(self, trajectory: Trajectory) -> bool | None:
        noted = trajectory.turns[-1].info.get("success")
        if noted is not None:
            return bool(noted)
        for part in trajectory.output:
            if isinstance(part, Array) and part.name == "success" and part.values.size == 1:
                return bool(part.values.item())
        try:
            found = json.loads(trajectory.text)
        except (ValueError, RecursionError):
            return None
        flag = found.get("success") if isinstance(found, dict) else None
        return flag if isinstance(flag, bool) else None


@dataclass(frozen=True)
class Frame(Media):
    """A picture in an HDF5 file; ``source`` is its data set and its index."""

    def check(self) -> None:
        """Shape and type were seen when the file was read."""

    def decoded(self) -> Image:
        name, index = self.source
        with _opened(Path(self.place.file)) as file:
            return Image(np.ascontiguousarray(np.asarray(file[name][index])[::-1]))


@dataclass(frozen=True)
class Libero(Benchmark):
    """One suite of LIBERO: every demonstration's start, and whether the robot then did the task."""

    name: ClassVar = "libero"
    title: ClassVar = "LIBERO"
    paper: ClassVar = "2306.03310"
    pillar: ClassVar = "vla"
    hub: ClassVar = ""
    files: ClassVar = ("*/*_demo.hdf5",)
    parts: ClassVar = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
    rule_in_words: ClassVar = "The simulator's record says that the task was done."
    recorded: ClassVar = True

    @property
    def rule(self) -> RecordedSuccess:
        return RecordedSuccess()

    def metrics(self) -> Mapping[str, Metric]:
        return {"success": Mean(self.rule), "mean_of_tasks": MeanOfCategories(self.rule)}

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        return [item for path in sorted((folder / part).glob("*.hdf5")) for item in _items(path, part)]

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for part in cls.parts:
            (folder / part).mkdir(parents=True, exist_ok=True)
            for first in range(0, n, 4):
                _write(folder / part, part, first, min(4, n - first))


def _items(path: Path, suite: str) -> list[Item]:
    task = path.stem.removesuffix("_demo")
    items: list[Item] = []
    with _opened(path) as file:
        group = file.get("data")
        if group is None:
            Place(str(path), 1, "data").wrong("no such group", "demonstrations")
        told = _instruction(path, group, task)
        keys = sorted((key for key in group if key.removeprefix("demo_").isdigit()), key=lambda key: int(key[5:]))
        for number, key in enumerate(keys, start=1):
            demo, name = group[key], f"data/{key}/obs/{CAMERA}"
            place = Place(str(path), number, f"{key}/obs/{CAMERA}")
            pictures, actions = file.get(name), demo.get("actions")
            if pictures is None or pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8:
                place.wrong(_kind(pictures), "uint8 pictures [T, H, W, 3]")
            if actions is None or actions.ndim != 2 or actions.shape[1] != 7 or not len(actions):
                Place(str(path), number, f"{key}/actions").wrong(_kind(actions), "numbers [T, 7]")
            if len(pictures) != len(actions):
                place.wrong(f"{len(pictures)} pictures", f"{len(actions)}, one for each action")
            first = Frame("image", (name, 0), path.parent, place)
            info = {"suite": suite, "demo": key, "steps": len(actions)}
            gold = (Text('{"success": true}'),)
            items.append(Item(f"{task}/{key}", (first, Text(told)), {"success": True}, task, (gold,), info))
    return items


def _instruction(path: Path, group: Any, task: str) -> str:
    """What the robot is told: of ``problem_info``, else of the problem's definition, else the file's name in words."""
    place = Place(str(path), 1, "problem_info")
    if "problem_info" in group.attrs:
        try:
            found = json.loads(group.attrs["problem_info"])["language_instruction"]
        except (ValueError, TypeError, KeyError, RecursionError):
            place.wrong(short(group.attrs["problem_info"]), "JSON with a language_instruction")
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            # Some files have a list of letters, some of words.
            found = ("" if all(len(one) == 1 for one in found) else " ").join(found)
        told = found
        if not isinstance(told, str) or not told.strip('" '):
            place.wrong(short(found), "text")
        return told.strip('" ')
    match = LANGUAGE.search(str(group.attrs.get("bddl_file_content", "")))
    return match[1].strip() if match else SCENE.sub("", task).replace("_", " ")


def _kind(found: Any) -> str:
    return "no such data" if found is None else f"{found.dtype} {list(found.shape)}"


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path}: {H5PY}") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: found a file that cannot be read ({why}), expected HDF5 data") from None


def _write(folder: Path, suite: str, first: int, demos: int) -> None:
    try:
        import h5py
    except ImportError:
        raise CapabilityError(H5PY) from None

    name = f"KITCHEN_SCENE{first + 1}_put_the_bowl_on_plate_{first + 1}"
    told = name.split("_", 2)[2].replace("_", " ")
    with h5py.File(folder / f"{name}_demo.hdf5", "w") as file:
        group = file.create_group("data")
        group.attrs["problem_info"] = json.dumps({"problem_name": suite, "language_instruction": told})
        group.attrs["bddl_file_name"] = f"bddl_files/{suite}/{name}.bddl"
        group.attrs["bddl_file_content"] = f"(define (problem {suite}) (:language {told}))"
        group.attrs["num_demos"] = demos
        for k in range(demos):
            demo, steps = group.create_group(f"demo_{k}"), 3
            pictures = np.full((steps, 32, 32, 3), 90, dtype=np.uint8)
            pictures[:, :8] = (200, 180, 140)
            pictures[:, 12:16, 4 + k : 10 + k] = (40 * first % 255, 80, 200)
            demo["actions"] = np.linspace(-1, 1, steps * 7).reshape(steps, 7)
            demo["rewards"] = np.array([0, 0, 1], dtype=np.uint8)
            demo["dones"] = np.array([0, 0, 1], dtype=np.uint8)
            demo[f"obs/{CAMERA}"] = pictures
            demo["obs/eye_in_hand_rgb"] = pictures[:, ::-1]
