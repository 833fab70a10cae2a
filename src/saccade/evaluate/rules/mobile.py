"""Steps on a phone: actions as models write them, and when one is the demonstrator's.

Phones have actions that ``envs.actions`` does not know: a long press, opening an app, home, back, recent apps, waiting.
They are read from JSON (``{"action_type": "open_app", "app_name": "Clock"}``, AndroidControl's names, with ``action``
for ``action_type``) and from GUI-Odyssey's commands (``CLICK: (120, 300)``, ``PRESS_BACK``); anything else goes to
``envs.actions.read_action``.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saccade.core.content import frames_of
from saccade.core.errors import DataError
from saccade.core.metric import Estimate, Metric, Models, Row, clustered_mean
from saccade.core.reward import Reward, SampleReward, Score
from saccade.core.trajectory import Group, Trajectory
from saccade.envs.actions import Action, read_action
from saccade.evaluate.benchmark import by_category
from saccade.evaluate.rules.pointing import Box, Point, Units, answer_body, as_shares
from saccade.evaluate.samples import totals

Kind = Literal[
    "click", "long_press", "type", "scroll", "open_app", "home", "back", "recent", "enter", "wait", "complete",
    "impossible",
]  # fmt: skip

KINDS: Mapping[str, Kind] = {
    "click": "click", "tap": "click", "long_press": "long_press", "longpress": "long_press", "type": "type",
    "input_text": "type", "text": "type", "scroll": "scroll", "open_app": "open_app", "open": "open_app",
    "navigate_home": "home", "press_home": "home", "home": "home", "navigate_back": "back", "press_back": "back",
    "back": "back", "press_recent": "recent", "press_recents": "recent", "recent": "recent", "enter": "enter",
    "press_enter": "enter", "keyboard_enter": "enter", "wait": "wait", "complete": "complete", "finished": "complete",
    "done": "complete", "terminate": "complete", "impossible": "impossible", "incomplete": "impossible",
}  # fmt: skip
"""Published names of actions, in lower case."""
BUTTONS = ("system_button", "press", "key")
"""Actions whose button says what they are."""
POINTED = ("click", "long_press")
DIRECTIONS = ("up", "down", "left", "right")
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
COMMAND = re.compile(r"\s*([A-Z_]{1,20})\s*(?::(.*))?", re.DOTALL)
PAIR = re.compile(r"\s*[(\[]?\s*(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*,\s*(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*[)\]]?\s*")
LONGEST_TEXT = 1024


@dataclass(frozen=True)
class MobileAction:
    """One action; fields that its kind does not use keep their defaults."""

    kind: Kind
    point: Point | None = None
    text: str = ""
    """What is typed, or the app's name."""
    direction: str = ""
    """Where the visible part moves on a scroll: ``down`` shows what is below."""


@dataclass(frozen=True)
class Wanted:
    """The demonstrator's action: a task's target."""

    action: MobileAction
    """Its point is in shares of the picture's sides."""
    element: Box | None = None
    """Box of what was touched, in shares; None: not known."""


def read_mobile(text: str) -> MobileAction | None:
    """The action of an output; None if it holds none. Never raises; time is linear in the length of the text."""
    body = answer_body(text).strip()
    start = body.find("{")
    if start >= 0:
        found = _object(body[start:])
        action = _from_object(found) if found is not None else None
        if action is not None:
            return action
    command = COMMAND.fullmatch(body)
    kind = KINDS.get(command[1].lower()) if command else None
    if command and kind:
        return _from_command(kind, (command[2] or "").strip())
    plain = read_action(text)
    return _from_plain(plain) if isinstance(plain, Action) else None


def _object(body: str) -> dict[str, Any] | None:
    try:
        found = json.JSONDecoder().raw_decode(body)[0]
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _from_object(found: dict[str, Any]) -> MobileAction | None:
    name = found.get("action_type", found.get("action"))
    if name in BUTTONS:
        name = found.get("button", found.get("key"))
    kind = KINDS.get(name.strip().lower()) if isinstance(name, str) else None
    if kind is None:
        return None
    if kind in POINTED:
        point = found.get("point", found.get("coordinate", [found.get("x"), found.get("y")]))
        return MobileAction(kind, (point[0], point[1])) if _is_point(point) else None
    if kind == "type":
        value = found.get("text", found.get("value"))
        return MobileAction("type", text=value[:LONGEST_TEXT]) if isinstance(value, str) else None
    if kind == "open_app":
        value = found.get("app_name", found.get("app", found.get("text")))
        return MobileAction("open_app", text=value[:LONGEST_TEXT]) if isinstance(value, str) else None
    if kind == "scroll":
        value = found.get("direction")
        direction = value.strip().lower() if isinstance(value, str) else ""
        return MobileAction("scroll", direction=direction) if direction in DIRECTIONS else None
    return MobileAction(kind)


def _from_command(kind: Kind, rest: str) -> MobileAction | None:
    """GUI-Odyssey's commands. Their scrolls say where the finger goes: ``SCROLL: UP`` shows what is below."""
    if kind in POINTED:
        pair = PAIR.fullmatch(rest)
        return MobileAction(kind, (float(pair[1]), float(pair[2]))) if pair else None
    if kind in ("type", "open_app"):
        return MobileAction(kind, text=rest[:LONGEST_TEXT]) if rest else None
    if kind == "scroll":
        finger = rest.lower()
        return MobileAction("scroll", direction=OPPOSITE[finger]) if finger in OPPOSITE else None
    return MobileAction(kind)


def _from_plain(action: Action) -> MobileAction | None:
    if action.type == "click":
        return MobileAction("click", action.point)
    if action.type == "type":
        return MobileAction("type", text=action.text)
    if action.type == "scroll":
        return MobileAction("scroll", direction=action.direction or "")
    if action.type == "drag" and action.point and action.to:
        return MobileAction("scroll", direction=OPPOSITE[finger_direction(action.point, action.to)])
    if action.type == "done":
        return MobileAction("complete")
    return MobileAction("enter") if action.keys == "enter" else None


def finger_direction(start: Point, end: Point) -> str:
    """Where a finger went: along the longer of the two axes, downwards and upwards where they are equal."""
    across, down = end[0] - start[0], end[1] - start[1]
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "up" if down < 0 else "down"


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e6 for x in value)
    )


# --- how steps are scored -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StepReward(SampleReward):
    """Compares the action of the output with the demonstrator's, ``task.target`` (``Wanted``).

    Raises:
        DataError: the prompt has no picture to measure points in.
    """

    units: Units = "pixels"

    def score(self, trajectory: Trajectory) -> Score | None:
        if not trajectory.turns:
            return None
        wanted: Wanted = trajectory.task.target
        said = read_mobile(trajectory.text)
        if said is None:
            return Score(0.0, note=f"no action for {wanted.action.kind}")
        if said.point is not None:
            said = MobileAction(said.kind, self._shares(said.point, trajectory))
        return Score(float(self.right(said, wanted)), note=f"{said.kind} for {wanted.action.kind}")

    @abstractmethod
    def right(self, said: MobileAction, wanted: Wanted) -> bool:
        """Whether the action counts as the demonstrator's; points are in shares of the picture's sides."""

    def _shares(self, point: Point, trajectory: Trajectory) -> Point:
        frames = frames_of(trajectory.prompt.content)
        if not frames:
            raise DataError(f"task {trajectory.task.id!r}: points are measured in a picture, the prompt has none")
        return as_shares(point, self.units, frames[-1].shape[1], frames[-1].shape[0])


@dataclass(frozen=True, kw_only=True)
class SameKind(StepReward):
    """1 if the action is of the demonstrator's kind (type match)."""

    def right(self, said: MobileAction, wanted: Wanted) -> bool:
        return said.kind == wanted.action.kind


def in_element(point: Point | None, element: Box | None) -> bool:
    """Whether a point lies in a box, borders included."""
    if point is None or element is None:
        return False
    return element[0] <= point[0] <= element[2] and element[1] <= point[1] <= element[3]


def is_near(point: Point | None, wanted: Point | None, radius: float) -> bool:
    """Whether two points are at most this far apart, in shares of the picture's sides."""
    return point is not None and wanted is not None and math.dist(point, wanted) <= radius


@dataclass(frozen=True)
class EpisodeSuccess(Metric):
    """Share of episodes with every step right; episodes of which not every step was evaluated do not count.

    ``task.info`` names the ``episode`` and its number of ``steps``. With several rollouts of a step, the k-th of every
    step make one episode.
    """

    reward: Reward
    mean_of_categories: bool = False
    """Mean of the categories' shares: every category weighs the same, and the standard error takes them as fixed."""

    def rows(self, groups: Sequence[Group], models: Models) -> list[tuple[str, int, str, int, bool]]:
        return [
            (info["episode"], info["steps"], info["category"] if self.mean_of_categories else "", k, total >= 1)
            for group, found in zip(groups, totals(self.reward, groups), strict=True)
            for info in [group[0].task.info]
            for k, total in enumerate(found)
            if total is not None
        ]

    def compute(self, rows: Sequence[tuple[str, int, str, int, bool]]) -> Estimate:
        found: dict[tuple[str, int, str, int], list[bool]] = {}
        for episode, steps, category, k, right in rows:
            found.setdefault((episode, steps, category, k), []).append(right)
        whole = [
            (category, Row(episode, float(all(right))))
            for (episode, steps, category, _), right in found.items()
            if len(right) == steps
        ]
        parts = [clustered_mean(listed) for listed in by_category(whole).values()]
        if not parts:
            return Estimate(math.nan, math.nan, 0)
        value = math.fsum(part.value for part in parts) / len(parts)
        return Estimate(value, math.sqrt(math.fsum(part.stderr**2 for part in parts)) / len(parts), len(whole))
