"""GUI-Odyssey (arXiv:2406.08451): single steps of tasks that cross from app to app.

``annotations/<episode>.json``, ``screenshots/**/<name>.png`` and ``splits/<split>.json`` (``{"train": [...], "test":
[...]}``). Points are in thousandths of the screen. Annotations of the second version also have the touched element's
box, ``sam2_bbox``, and an instruction for each step, ``low_level_instruction``, which the parts ``low_*`` show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from saccade.core.content import Content, Text
from saccade.core.environment import EnvironmentSpec
from saccade.core.metric import Metric
from saccade.envs.datasets.media import Media, Place, short
from saccade.envs.datasets.rows import read_object
from saccade.envs.single import SingleTurn
from saccade.evaluate.benchmark import Entry, Item, MeanOfCategories
from saccade.evaluate.rules.mobile import (
    OPPOSITE,
    POINTED,
    EpisodeSuccess,
    Kind,
    MobileAction,
    SameKind,
    StepReward,
    Wanted,
    finger_direction,
    in_element,
    is_near,
)
from saccade.evaluate.rules.pointing import WORDS, PointedAt, Units, drawn_screen, in_units
from saccade.evaluate.rules.subsets import MeanWhere, by_value
from saccade.evaluate.samples import Mean

CATEGORIES = (
    "Multi_Apps", "Web_Shopping", "General_Tool", "Information_Management", "Media_Entertainment", "Social_Sharing",
)  # fmt: skip
ASKED = (
    "{prompt}\nWhat is the next action? Answer with one command, x and y in %s: CLICK: (x, y), LONG_PRESS: (x, y),"
    " SCROLL: UP, DOWN, LEFT or RIGHT (where the finger goes), TYPE: text, PRESS_HOME, PRESS_BACK, PRESS_RECENT,"
    " COMPLETE or IMPOSSIBLE"
)
NEAR = 0.14
SIMILAR = 0.5


@dataclass(frozen=True, kw_only=True)
class OdysseyStep(StepReward):
    """The authors' action matching: 1 if the command is the demonstrator's.

    - A click or long press: inside the touched element's box where it is known, or at most ``NEAR`` from the point, in
      shares of the screen's sides.
    - A scroll: the same direction.
    - Text: one contains the other, or the edit distance is at most half the longer one's length.
    """

    def right(self, said: MobileAction, wanted: Wanted) -> bool:
        action = wanted.action
        if said.kind != action.kind or said.direction != action.direction:
            return False
        if action.kind in POINTED:
            return in_element(said.point, wanted.element) or is_near(said.point, action.point, NEAR)
        return action.kind != "type" or same_text(said.text, action.text)


def same_text(said: str, wanted: str) -> bool:
    """Whether typed texts agree: one in the other, or ``1 - d / max(n, m) >= 0.5`` with the edit distance d."""
    said, wanted = said.strip(), wanted.strip()
    return said in wanted or wanted in said or 1 - edits(said, wanted) / max(len(said), len(wanted)) >= SIMILAR


def edits(a: str, b: str) -> int:
    """Levenshtein distance; the product of the lengths is the time."""
    row = list(range(len(a) + 1))
    for i, sign in enumerate(b, start=1):
        above, row = row, [i]
        for j, other in enumerate(a, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (sign != other)))
    return row[-1]


@dataclass(frozen=True)
class GUIOdyssey(PointedAt):
    """Steps of GUI-Odyssey's test splits.

    The authors' "action matching score" is the mean over steps, but on the random split the mean of the six
    categories' means; so is the success rate of whole episodes.
    """

    name: ClassVar = "gui_odyssey"
    title: ClassVar = "GUI-Odyssey"
    paper: ClassVar = "2406.08451"
    pillar: ClassVar = "vla"
    hub: ClassVar = "OpenGVLab/GUI-Odyssey"
    files: ClassVar = ("annotations/*", "screenshots/**", "splits/*")
    parts: ClassVar = (
        "random_split", "task_split", "device_split", "app_split", "low_random_split", "low_task_split",
        "low_device_split", "low_app_split",
    )  # fmt: skip
    rule_in_words: ClassVar = (
        "The command is the demonstrator's; a click lies in the element or within 0.14 of the screen's sides,"
        " a text is at least half the same."
    )

    units: Units = "thousandths"
    """What the model writes points in."""

    @property
    def rule(self) -> OdysseyStep:
        return OdysseyStep(units=self.units)

    def metrics(self) -> Mapping[str, Metric]:
        random = (self.part or self.parts[0]).endswith("random_split")
        score = MeanOfCategories(self.rule) if random else Mean(self.rule)
        columns: Mapping[str, tuple[str, str | bool]] = {name.lower(): ("category", name) for name in CATEGORIES}
        return {
            "action_matching": score,
            "episode_success": EpisodeSuccess(self.rule, mean_of_categories=random),
            "type_match": Mean(SameKind(units=self.units)),
            "grounding": MeanWhere(self.rule, "kind", "click"),
            **by_value(self.rule, columns),
        }

    def env(self) -> EnvironmentSpec:
        return SingleTurn(self, template=ASKED % WORDS[self.units])

    def items(self, folder: Path, part: str) -> Sequence[Item]:
        low = part.startswith("low_")
        path = folder / "splits" / f"{part.removeprefix('low_')}.json"
        split = read_object(path)
        names = split.get("test")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            Place(str(path), 1, "test").wrong(short(names), "a list of episodes' names")
        pictures = {one.name: str(one.relative_to(folder)) for one in (folder / "screenshots").rglob("*.png")}
        return [item for name in names for item in self._episode(folder, name.removesuffix(".json"), pictures, low)]

    def _episode(self, folder: Path, name: str, pictures: Mapping[str, str], low: bool) -> Iterator[Item]:
        path = folder / "annotations" / f"{name}.json"
        whole = Entry(path, 1, read_object(path), folder)
        told = whole.value("task_info")
        if not isinstance(told, Mapping):
            whole.wrong("task_info", short(told), "an object with category and instruction")
        task = Entry(path, 1, told, folder)
        category, goal = task.one_of("category", CATEGORIES), task.text("instruction")
        screen = whole.value("device_info")
        screen = screen if isinstance(screen, Mapping) else {}
        device = Entry(path, 1, screen, folder)
        size = int(device.number_of("w")), int(device.number_of("h"))
        steps, done = whole.value("steps"), []
        if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
            whole.wrong("steps", short(steps), "a list of steps")
        for k, step in enumerate(steps):
            entry = Entry(path, k + 1, step, folder)
            wanted, command = _wanted(entry)
            file = entry.text("screenshot")
            shown = entry.media("screenshot", source=pictures.get(Path(file).name, f"screenshots/{file}"))
            lines = [f"Goal: {goal}", *([f"Done so far: {'; '.join(done)}"] if done else [])]
            lines += [f"This step: {entry.text('low_level_instruction')}"] if low else []
            info = {"episode": name, "step": k, "steps": len(steps), "kind": wanted.action.kind}
            gold = self._gold(command, wanted.action, size)
            prompt: tuple[Text | Media, ...] = (shown, Text("\n".join(lines)))
            yield Item(f"{name}-{k}", prompt, wanted, category, gold, info)
            done.append(command)

    def _gold(self, command: str, action: MobileAction, size: tuple[int, int]) -> tuple[Content, ...]:
        if action.kind == "type" and not action.text.strip():
            return ()  # blanks alone cannot be said in a command
        if action.point is None:
            return ((Text(command),),)
        x, y = in_units(action.point, self.units, *size)
        return ((Text(f"{command.partition(':')[0]}: ({x:g}, {y:g})"),),)

    @classmethod
    def write_miniature(cls, folder: Path, n: int = 8) -> None:
        for name in ("annotations", "screenshots/data_0", "splits"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        names = []
        for episode, first in enumerate(range(0, n, 2)):
            name = f"{episode:016d}"
            names.append(f"{name}.json")
            steps = [_drawn_step(folder, name, first + k, k) for k in range(min(2, n - first))]
            instruction = "use the first app, then the second"
            row = {
                "episode_id": name, "device_info": {"device_name": "Small Phone", "w": 200, "h": 320},
                "task_info": {"category": CATEGORIES[episode % 6], "instruction": instruction, "app": ["a", "b"]},
                "step_length": len(steps), "steps": steps,
            }  # fmt: skip
            (folder / "annotations" / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
        for split in ("random_split", "task_split", "device_split", "app_split"):
            text = json.dumps({"train": [], "test": names})
            (folder / "splits" / f"{split}.json").write_text(text, encoding="utf-8")


def _wanted(entry: Entry) -> tuple[Wanted, str]:
    """The demonstrator's action, and the command that the authors' converter makes of it."""
    name, info = entry.text("action"), entry.value("info")
    keys: Mapping[str, tuple[Kind, str]] = {
        "KEY_HOME": ("home", "PRESS_HOME"), "KEY_BACK": ("back", "PRESS_BACK"),
        "KEY_APPSELECT": ("recent", "PRESS_RECENT"),
    }  # fmt: skip
    if name in ("CLICK", "LONG_PRESS") and isinstance(info, str) and info in keys:
        kind, command = keys[info]
        return Wanted(MobileAction(kind)), command
    if name in ("CLICK", "LONG_PRESS"):
        ((x, y),) = _points(entry, info, 1)
        box = entry.value("sam2_bbox") if entry.has("sam2_bbox") else None
        element = None
        if box is not None:
            x1, y1, x2, y2 = entry.numbers("sam2_bbox", 4)
            element = (x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000)
        kind = "click" if name == "CLICK" else "long_press"
        return Wanted(MobileAction(kind, (x / 1000, y / 1000)), element), f"{name}: ({x:g}, {y:g})"
    if name == "SCROLL":
        start, end = _points(entry, info, 2)
        finger = finger_direction(start, end)
        return Wanted(MobileAction("scroll", direction=OPPOSITE[finger])), f"SCROLL: {finger.upper()}"
    if name in ("TEXT", "TYPE"):
        return Wanted(MobileAction("type", text=entry.text("info", empty=True))), f"TYPE: {info}"
    others: Mapping[str, tuple[Kind, str]] = {
        "COMPLETE": ("complete", "COMPLETE"), "INCOMPLETE": ("impossible", "IMPOSSIBLE"),
        "IMPOSSIBLE": ("impossible", "IMPOSSIBLE"), "HOME": ("home", "PRESS_HOME"), "BACK": ("back", "PRESS_BACK"),
    }  # fmt: skip
    if name not in others:
        entry.wrong("action", short(name), f"one of CLICK, LONG_PRESS, SCROLL, TEXT, {', '.join(others)}")
    kind, command = others[name]
    return Wanted(MobileAction(kind)), command


def _points(entry: Entry, info: Any, least: int) -> list[tuple[float, float]]:
    listed = info if isinstance(info, list) else []
    found = [
        (float(point[0]), float(point[1]))
        for point in listed
        if isinstance(point, list) and len(point) == 2 and all(type(x) in (int, float) and abs(x) < 1e6 for x in point)
    ]
    if len(found) < least or len(found) != len(listed):
        entry.wrong("info", short(info), f"{least} point{'s' if least > 1 else ''} x, y in thousandths")
    return found[:least]


def _drawn_step(folder: Path, episode: str, index: int, k: int) -> dict[str, Any]:
    picture, (x1, y1, x2, y2) = drawn_screen(index, 200, 320)
    picture.save(folder / "screenshots" / "data_0" / f"{episode}_{k}.png")
    box = [round(x1 * 5), round(y1 * 3.125), round(x2 * 5), round(y2 * 3.125)]
    middle = [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2]
    action, info, told = [
        ("CLICK", [middle], "press the coloured button"), ("SCROLL", [[500, 800], [510, 200]], "look further down"),
        ("TEXT", "green tea", "type green tea"), ("CLICK", "KEY_HOME", "go home"),
        ("LONG_PRESS", [middle], "hold the coloured button"), ("COMPLETE", "", "finish"),
        ("INCOMPLETE", "", "give up"), ("CLICK", "KEY_BACK", "go back"),
    ][index % 8]  # fmt: skip
    touched = isinstance(info, list) and action != "SCROLL"
    return {
        "step": k, "screenshot": f"{episode}_{k}.png", "action": action, "info": info, "ps": "",
        "sam2_bbox": box if touched else [], "low_level_instruction": told,
    }  # fmt: skip
