"""AndroidControl (arXiv:2406.03679): single steps of 15,283 demonstrations on Android.

Files: GZIP TFRecords ``android_control*`` with an episode a record, ``splits.json`` with the episodes of each split,
and ``test_subsplits.json`` with those of the test split that are in the training set's domain or not. A step is a
task: the screen, the goal and what was done so far, and at the low level also what this step is to do.

All shards are read through once to find the episodes of the test split, without keeping their pictures. A picture is
read again when its task is drawn: in order that is one pass, at random every picture may cost a whole shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image as Picture

from saccade.core.content import Image, Text
from saccade.core.environment import EnvironmentSpec
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, Place, short
from saccade.envs.datasets.rows import read_object
from saccade.envs.datasets.tfrecord import example, example_of, fields, message, records, slice_of, write_records
from saccade.envs.single import SingleTurn
from saccade.evaluate.benchmark import Entry, Item
from saccade.evaluate.rules.mobile import (
    DIRECTIONS,
    POINTED,
    EpisodeSuccess,
    Kind,
    MobileAction,
    SameKind,
    StepReward,
    Wanted,
    in_element,
    is_near,
)
from saccade.evaluate.rules.pointing import WORDS, Box, Point, PointedAt, drawn_screen, in_units
from saccade.evaluate.rules.subsets import MeanWhere, by_value
from saccade.evaluate.samples import Mean
from saccade.rewards.gui import word_f1

TYPES: Mapping[str, Kind] = {
    "click": "click", "long_press": "long_press", "scroll": "scroll", "open_app": "open_app", "type": "type",
    "input_text": "type", "navigate_home": "home", "navigate_back": "back", "wait": "wait",
}  # fmt: skip
SUBSETS = {"IDD": "in_domain", "app_unseen": "app_unseen", "task_unseen": "task_unseen",
           "category_unseen": "category_unseen"}  # fmt: skip
"""Keys of ``test_subsplits.json`` and the names of their metrics."""
ASKED = (
    "{prompt}\nWhat is the next action? Answer with JSON, x and y in %s: one of"
    ' {"action_type": "click", "x": x, "y": y}, {"action_type": "long_press", "x": x, "y": y},'
    ' {"action_type": "scroll", "direction": "up, down, left or right"}, {"action_type": "input_text", "text": text},'
    ' {"action_type": "open_app", "app_name": name}, {"action_type": "navigate_home"},'
    ' {"action_type": "navigate_back"}, {"action_type": "wait"}'
)
NEAR = 0.14
"""Distance at which later papers (GUI-R1, OS-Atlas) count a click, in shares of the picture's sides."""


@dataclass(frozen=True, kw_only=True)
class ElementStep(StepReward):
    """The paper's step accuracy: 1 if action and arguments are the demonstrator's.

    - A click or long press: inside the box of the element that was touched, the smallest clickable one of the
      accessibility tree around the point, or the smallest of all (inferred). Where the tree has none there: at most
      ``NEAR`` from the point.
    - A scroll: the same direction.
    - Text and names of apps: equal, except for case and blanks around them.
    """

    def right(self, said: MobileAction, wanted: Wanted) -> bool:
        action = wanted.action
        if said.kind != action.kind or said.direction != action.direction:
            return False
        if action.kind in POINTED and wanted.element is not None:
            return in_element(said.point, wanted.element)
        if action.kind in POINTED:
            return is_near(said.point, action.point, NEAR)
        return said.text.strip().casefold() == action.text.strip().casefold()


@dataclass(frozen=True, kw_only=True)
class NearStep(StepReward):
    """Step accuracy as later papers measure it, without accessibility trees.

    Clicks at most ``radius`` from the demonstrator's, in shares of the picture's sides; texts and names of apps with
    F1 >= ``f1`` of the sets of words.
    """

    radius: float = NEAR
    f1: float = 0.5

    def right(self, said: MobileAction, wanted: Wanted) -> bool:
        action = wanted.action
        if said.kind != action.kind or said.direction != action.direction:
            return False
        if action.kind in POINTED:
            return is_near(said.point, action.point, self.radius)
        return action.kind not in ("type", "open_app") or word_f1(said.text, action.text) >= self.f1


@dataclass(frozen=True)
class Screenshot(Media):
    """A PNG inside a record; ``source`` is its offset and length in the uncompressed file."""

    def check(self) -> None:
        """It was seen when the record was read."""

    def decoded(self) -> Image:
        content = slice_of(Path(self.place.file), *self.source)
        try:
            with Picture.open(BytesIO(content)) as picture:
                return Image(np.array(picture.convert("RGB")))
        except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
            self.place.wrong(f"bytes that are no picture ({' '.join(str(error).split())[:80]})", "a PNG")


@dataclass(frozen=True)
class AndroidControl(PointedAt):
    """Steps of AndroidControl's test split, told the goal alone (``high``) or the step, too (``low``)."""

    name: ClassVar = "android_control"
    title: ClassVar = "AndroidControl"
    paper: ClassVar = "2406.03679"
    pillar: ClassVar = "vla"
    hub: ClassVar = ""
    files: ClassVar = ("android_control*", "splits.json", "test_subsplits.json")
    parts: ClassVar = ("high", "low")
    rule_in_words: ClassVar = (
        "The action is of the demonstrator's kind with its arguments; a click lies in the element that was touched."
    )

    @property
    def rule(self) -> ElementStep:
        return ElementStep(units=self.units)

    def metrics(self) -> Mapping[str, Metric]:
        subsets: Mapping[str, tuple[str, str | bool]] = {name: ("subsets", key) for key, name in SUBSETS.items()}
        return {
            "step_accuracy": Mean(self.rule),
            "type_match": Mean(SameKind(units=self.units)),
            "grounding": MeanWhere(self.rule, "category", "click"),
            "step_accuracy_near": Mean(NearStep(units=self.units)),
            "episode_success": EpisodeSuccess(self.rule),
            **by_value(self.rule, subsets),
        }

    def env(self) -> EnvironmentSpec:
        return SingleTurn(self, template=ASKED % WORDS[self.units])

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        wanted = _episodes(folder / "splits.json", ("test",))["test"]
        path = folder / "test_subsplits.json"
        subsets = _episodes(path, tuple(SUBSETS)) if path.is_file() else {}
        return [
            item
            for shard in sorted(path for path in folder.glob("android_control*") if path.is_file())
            for number, offset, content in records(shard)
            for item in self._of_record(shard, number, offset, content, wanted, subsets, part)
        ]

    def _of_record(
        self, shard: Path, number: int, offset: int, content: bytes, wanted: frozenset[int],
        subsets: Mapping[str, frozenset[int]], part: str,
    ) -> Iterator[Item]:  # fmt: skip
        entry, offsets = _entry(shard, number, content)
        episode = int(entry.numbers("episode_id", 1)[0])
        if episode not in wanted:
            return
        actions, told = entry.texts("actions"), entry.texts("step_instructions")
        pictures, trees = entry.value("screenshots"), entry.value("accessibility_trees")
        widths, heights = entry.value("screenshot_widths"), entry.value("screenshot_heights")
        for name, listed, least in (
            ("step_instructions", told, len(actions)), ("screenshots", pictures, len(actions) + 1),
            ("screenshot_widths", widths, len(actions) + 1), ("screenshot_heights", heights, len(actions) + 1),
            ("accessibility_trees", trees, len(actions)),
        ):  # fmt: skip
            if len(listed) < least:
                entry.wrong(name, f"{len(listed)} entries", f"{least} for {len(actions)} actions")
        for name, listed in (("screenshots", pictures), ("accessibility_trees", trees)):
            if not all(isinstance(one, bytes) for one in listed):
                entry.wrong(name, short(listed), "bytes")
        for name, listed in (("screenshot_widths", widths), ("screenshot_heights", heights)):
            if not all(type(one) is int and one > 0 for one in listed):
                entry.wrong(name, short(listed), "numbers of pixels")
        mine = tuple(key for key, episodes in subsets.items() if episode in episodes)
        goal, done = entry.text("goal"), []
        for k, written in enumerate(actions):
            place = entry.place(f"actions[{k}]")
            size = (widths[k], heights[k])
            action = _action(place, written, size)
            element = None
            if action.point is not None:
                element = _element(entry.place(f"accessibility_trees[{k}]"), trees[k], action.point, size)
            shown = Screenshot(
                "image", (offset + offsets[k], len(pictures[k])), shard.parent, entry.place(f"screenshots[{k}]")
            )
            lines = [f"Goal: {goal}", *([f"Done so far: {'; '.join(done)}"] if done else [])]
            lines += [f"This step: {told[k]}"] if part == "low" else []
            info = {"episode": str(episode), "step": k, "steps": len(actions), "subsets": mine}
            gold = Text(self._written(action, size))
            yield Item(
                f"{episode}-{k}",
                (shown, Text("\n".join(lines))),
                Wanted(action, element),
                action.kind,
                ((gold,),),
                info,
            )
            done.append(written)

    def _written(self, action: MobileAction, size: tuple[int, int]) -> str:
        names = {kind: name for name, kind in TYPES.items() if name != "type"}
        found: dict[str, object] = {"action_type": names[action.kind]}
        if action.point is not None:
            x, y = in_units(action.point, self.units, *size)
            found |= {"x": round(x, 6), "y": round(y, 6)}
        if action.direction:
            found["direction"] = action.direction
        if action.kind in ("type", "open_app"):
            found["text" if action.kind == "type" else "app_name"] = action.text
        return json.dumps(found, ensure_ascii=False)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        episodes = [(i, min(2, n - i)) for i in range(0, n, 2)]
        contents = (_drawn_episode(episode, steps) for episode, steps in [*episodes, (1000, 1)])
        write_records(folder / "android_control-00000-of-00001", contents)
        listed = [episode for episode, _ in episodes]
        splits = {"train": [1000], "validation": [], "test": listed}
        (folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
        subsets = {key: listed[i % 2 :: 2] for i, key in enumerate(SUBSETS)}
        (folder / "test_subsplits.json").write_text(json.dumps(subsets), encoding="utf-8")


def _episodes(path: Path, keys: tuple[str, ...]) -> dict[str, frozenset[int]]:
    """Episodes of splits; the file is an object of lists of numbers."""
    found = read_object(path)
    for key in keys:
        listed = found.get(key)
        if not isinstance(listed, list) or not all(type(one) is int for one in listed):
            Place(str(path), 1, key).wrong(short(listed), "a list of episodes' numbers")
    return {key: frozenset(found[key]) for key in keys}


def _entry(shard: Path, number: int, content: bytes) -> tuple[Entry, list[int]]:
    """A record's fields, texts decoded, and the offsets of its screenshots."""
    place = Place(str(shard), number, "record")
    try:
        found = example(content)
    except (ValueError, RecursionError) as error:
        place.wrong(f"bytes that are no tf.train.Example ({error})", "an episode")
    columns: dict[str, Any] = {name: values for name, (values, _) in found.items()}
    for name in ("goal", "step_instructions", "actions"):
        if name in columns:
            try:
                columns[name] = [value.decode("utf-8") for value in columns[name]]
            except (AttributeError, UnicodeDecodeError):
                place.wrong("bytes that are no text", f"text in {name}")
    if columns.get("goal"):
        columns["goal"] = columns["goal"][0]
    return Entry(shard, number, columns, shard.parent), found.get("screenshots", ([], []))[1]


def _action(place: Place, written: str, size: tuple[int, int]) -> MobileAction:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        place.wrong(short(written), "an action in JSON")
    name = found.get("action_type") if isinstance(found, dict) else None
    kind = TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        place.wrong(short(written), f"an action_type of {', '.join(TYPES)}")
    if kind in POINTED:
        x, y = (_pixels(place, written, found.get(axis)) for axis in ("x", "y"))
        return MobileAction(kind, (x / size[0], y / size[1]))
    if kind == "scroll":
        if found.get("direction") not in DIRECTIONS:
            place.wrong(short(written), f"a direction of {', '.join(DIRECTIONS)}")
        return MobileAction("scroll", direction=found["direction"])
    if kind in ("type", "open_app"):
        text = found.get("text" if kind == "type" else "app_name")
        if not isinstance(text, str):
            place.wrong(short(written), "a text" if kind == "type" else "an app_name")
        return MobileAction(kind, text=text)
    return MobileAction(kind)


def _pixels(place: Place, written: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e6:
        place.wrong(short(written), "x and y in pixels")
    return value


def _element(place: Place, forest: bytes, point: Point, size: tuple[int, int]) -> Box | None:
    """Box, in shares, of the element around a point; None if the trees have none.

    The trees are an ``AndroidAccessibilityForest``: windows (1), each with a tree (11) of nodes (1), each with its
    bounds (2: left, top, right, bottom) in pixels and whether it is clickable (14).
    """
    x, y = point[0] * size[0], point[1] * size[1]
    around: list[tuple[bool, int, Box]] = []
    try:
        for node in _messages(forest, (1, 11, 1)):
            parts = {number: value for number, _, value, _ in fields(node)}
            bounds = parts.get(2)
            if bounds is None or isinstance(bounds, int):
                continue
            sides = {number: value for number, _, value, _ in fields(bounds) if isinstance(value, int)}
            left, top, right, bottom = (_signed32(sides.get(number, 0)) for number in (1, 2, 3, 4))
            if left <= x <= right and top <= y <= bottom and left < right and top < bottom:
                box = (left / size[0], top / size[1], right / size[0], bottom / size[1])
                around.append((parts.get(14, 0) == 0, (right - left) * (bottom - top), box))
    except ValueError as error:
        place.wrong(f"bytes that are no forest of accessibility trees ({error})", "an AndroidAccessibilityForest")
    return min(around)[2] if around else None


def _messages(content: bytes | memoryview, path: tuple[int, ...]) -> Iterator[memoryview]:
    for number, _, value, _ in fields(content):
        if number == path[0] and not isinstance(value, int):
            if len(path) == 1:
                yield value
            else:
                yield from _messages(value, path[1:])


def _signed32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _drawn_episode(episode: int, steps: int) -> bytes:
    """An episode of drawn screens, each action of another kind."""
    width, height = 108, 192
    pictures, trees, actions, told = [], [], [], []
    for k in range(steps + 1):
        picture, box = drawn_screen(episode + k, width, height)
        file = BytesIO()
        picture.save(file, "PNG")
        pictures.append(file.getvalue())
        left, top, right, bottom = (int(side) for side in box)
        nodes = [((0, 0, width, height), 0), ((left, top, right, bottom), 1)]
        tree = message(*(
            (1, message((2, message(*enumerate(bounds, start=1))), (14, clickable))) for bounds, clickable in nodes
        ))  # fmt: skip
        trees.append(message((1, message((4, 1), (11, tree)))))
        if k < steps:
            middle = {"x": (left + right) // 2, "y": (top + bottom) // 2}
            action, words = [
                ({"action_type": "click", **middle}, "press the coloured button"),
                ({"action_type": "scroll", "direction": "down"}, "look further down"),
                ({"action_type": "input_text", "text": "green tea"}, "type green tea"),
                ({"action_type": "open_app", "app_name": "Clock"}, "open the Clock app"),
                ({"action_type": "long_press", **middle}, "hold the coloured button"),
                ({"action_type": "navigate_back"}, "go back"),
                ({"action_type": "wait"}, "wait"),
            ][(episode + k) % 7]
            actions.append(json.dumps(action).encode())
            told.append(words.encode())
    return example_of({
        "episode_id": [episode], "goal": [b"try the buttons"], "screenshots": pictures, "accessibility_trees": trees,
        "screenshot_widths": [width] * len(pictures), "screenshot_heights": [height] * len(pictures),
        "actions": actions, "step_instructions": told,
    })  # fmt: skip
