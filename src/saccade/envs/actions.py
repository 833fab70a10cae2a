"""GUI actions as models write them: JSON or a few plain words, in a tag or bare.

Plain form, fit for a tiny vocabulary: ``click 34 50``, ``type hello``, ``scroll down``, ``scroll down 80 120``,
``key enter``, ``drag 10 20 90 20``, ``done``. JSON form: ``{"action": "click", "point": [34, 50]}`` and the names that
GUI-R1 (arXiv:2504.10458), UI-TARS (arXiv:2501.12326) and Qwen2.5-VL (arXiv:2502.13923) use for the same.

Coordinates are in pixels of the image the policy saw.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

ActionType = Literal["click", "type", "scroll", "key", "drag", "done"]
Direction = Literal["up", "down", "left", "right"]
Point = tuple[float, float]

TAGS = ("answer", "action", "tool", "tool_call")
"""Tags an action may stand in; in other text than the action's own, one of them is required."""
LONGEST_ACTION = 4096
"""Characters of one action; longer ones are malformed."""
LONGEST_TEXT = 256
"""Characters typed in one action; more are malformed."""
LARGEST = 1e6
"""Coordinates are smaller than this."""
KEYS = (
    "enter", "tab", "escape", "backspace", "delete", "space", "up", "down", "left", "right", "home", "end", "pageup",
    "pagedown", "shift+tab", "ctrl+a",
)  # fmt: skip
"""Keys and combinations that can be pressed; those a browser would answer itself (close, reload) are not among them."""

NAMES: dict[str, ActionType] = {
    "click": "click", "left_click": "click", "tap": "click", "type": "type", "input": "type", "input_text": "type",
    "write": "type", "scroll": "scroll", "key": "key", "press": "key", "press_key": "key", "hotkey": "key",
    "drag": "drag", "left_click_drag": "drag", "swipe": "drag", "done": "done", "finish": "done", "finished": "done",
    "terminate": "done", "complete": "done",
}  # fmt: skip
"""Published names of actions, and ours."""
POINTS = ("point", "coordinate", "coordinates", "start", "start_point")
ENDS = ("to", "end", "end_point", "coordinate2")
TEXTS = ("text", "input_text", "content", "value")
DIRECTIONS: dict[str, Direction] = {"up": "up", "down": "down", "left": "left", "right": "right"}
KEY_NAMES = {"return": "enter", "esc": "escape", "del": "delete", "page_up": "pageup", "page_down": "pagedown"}

NUMBER = re.compile(r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?")
BRACKETS = str.maketrans({sign: " " for sign in "()[],"})
HEAD = re.compile(r"[a-z_]{1,20}", re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """One thing to do on a screen; fields that its type does not use keep their defaults."""

    type: ActionType
    point: Point | None = None
    """Where to click, to scroll (None: in the middle) or to begin to drag: x, y in pixels of the image."""
    to: Point | None = None
    """Where a drag ends."""
    text: str = ""
    """What is typed into the field that has the focus."""
    direction: Direction | None = None
    """Where the visible part moves on a scroll: ``down`` shows what is below."""
    keys: str = ""
    """One of ``KEYS``."""

    def __str__(self) -> str:
        """The plain form; ``read_action`` reads it back (coordinates to six decimals)."""
        if self.type == "type":
            return f"type {self.text}"
        words = [self.type, *([self.direction] if self.direction else []), *([self.keys] if self.keys else [])]
        places = [place for place in (self.point, self.to) if place is not None]
        return " ".join([*words, *(_plain(x) for place in places for x in place)])


@dataclass(frozen=True)
class NoAction:
    """The text holds no action that can be carried out."""

    reason: str


def read_action(text: str) -> Action | NoAction:
    """The action of a model's output. Never raises; time is linear in the length of the text.

    What the model thinks, up to the last ``</think>``, is not read. The content of the last of the ``TAGS`` counts; an
    output without one must be the action alone, or JSON.
    """
    said = text.rpartition("</think>")[2]
    body = _tagged(said)
    if body is None:
        return NoAction("a tag is not closed")
    if len(body) > LONGEST_ACTION:
        return NoAction("the action is too long")
    for mark in ("<box>", "</box>", "<point>", "</point>"):
        body = body.replace(mark, " ")
    body = body.strip()
    if not body:
        return NoAction("there is no action")
    starts = [i for i in (body.find("{"), body.find("[")) if i >= 0]
    if body[0] in "{[`" or "```json" in body:
        return _from_json(body[min(starts) :]) if starts else NoAction("expected JSON")
    return _from_words(body)


def _tagged(text: str) -> str | None:
    """Content of the tag that opens last; the whole text if none does; None if it does not close."""
    start, tag = max((text.rfind(f"<{tag}>"), tag) for tag in TAGS)
    if start < 0:
        return text if len(text) <= LONGEST_ACTION else " " * (LONGEST_ACTION + 1)
    start += len(tag) + 2
    end = text.find(f"</{tag}>", start)
    return text[start:end] if end >= 0 else None


def _from_words(body: str) -> Action | NoAction:
    head = HEAD.match(body)
    kind = NAMES.get(head[0].lower()) if head else None
    if head is None or kind is None:
        return NoAction("there is no such action")
    rest = body[head.end() :]
    if kind == "type":
        return _typed(_unquoted(rest.strip()))
    words = rest.translate(BRACKETS).split()
    if kind == "key":
        return _key("".join(words))
    direction = DIRECTIONS.get(words[0].lower()) if words and kind == "scroll" else None
    if kind == "scroll":
        if direction is None:
            return NoAction("scroll takes up, down, left or right")
        words = words[1:]
    if not all(NUMBER.fullmatch(word) for word in words):
        return NoAction(f"{kind} takes numbers")
    numbers = [float(word) for word in words]
    if len(numbers) not in {"click": (2,), "drag": (4,), "scroll": (0, 2), "done": (0,)}[kind]:
        return NoAction(f"{kind} does not take {len(numbers)} numbers")
    point = (numbers[0], numbers[1]) if numbers else None
    to = (numbers[2], numbers[3]) if kind == "drag" else None
    return Action(kind, point, to, direction=direction)


def _from_json(body: str) -> Action | NoAction:
    try:
        found = json.JSONDecoder().raw_decode(body)[0]
    except (ValueError, RecursionError):
        return NoAction("the JSON cannot be read")
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, dict) and isinstance(found.get("arguments"), dict):
        inner = found["arguments"]
        found = inner if "action" in inner else {**inner, "action": found.get("name")}
    if not isinstance(found, dict):
        return NoAction("expected one JSON object")
    name = found.get("action", found.get("type"))
    kind = NAMES.get(name.lower()) if isinstance(name, str) else None
    if kind is None:
        return NoAction("there is no such action")
    if kind == "type":
        value = _first(found, TEXTS)
        return _typed(value) if isinstance(value, str) else NoAction("type takes a text")
    if kind == "key":
        value = _first(found, ("keys", "key", "text"))
        if isinstance(value, list) and len(value) <= 3 and all(isinstance(one, str) for one in value):
            value = "+".join(value)
        return _key(value) if isinstance(value, str) else NoAction("key takes the name of a key")
    if kind == "done":
        return Action("done")
    point = _place(_first(found, POINTS))
    if point is None and "x" in found and "y" in found:
        point = _place([found["x"], found["y"]])
    if kind == "scroll":
        value = found.get("direction")
        direction = DIRECTIONS.get(value.lower()) if isinstance(value, str) else None
        return Action("scroll", point, direction=direction) if direction else NoAction("scroll takes a direction")
    if point is None:
        return NoAction(f"{kind} takes a point of two numbers")
    if kind == "click":
        return Action("click", point)
    to = _place(_first(found, ENDS))
    return Action("drag", point, to) if to else NoAction("drag takes two points of two numbers")


def _typed(text: str) -> Action | NoAction:
    if not text or len(text) > LONGEST_TEXT:
        return NoAction(f"type takes 1 to {LONGEST_TEXT} characters")
    # A surrogate has no place in a page, a control character is a key.
    if not all(sign.isprintable() for sign in text):
        return NoAction("type takes printable characters")
    return Action("type", text=text)


def _key(name: str) -> Action | NoAction:
    if len(name) > 32:
        return NoAction("there is no such key")
    plain = name.strip().lower().replace("control", "ctrl").replace(" ", "")
    plain = KEY_NAMES.get(plain, plain)
    return Action("key", keys=plain) if plain in KEYS else NoAction("there is no such key")


def _first(found: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((found[name] for name in names if name in found), None)


def _place(value: Any) -> Point | None:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_coordinate(x) for x in value):
        return None
    return float(value[0]), float(value[1])


def _is_coordinate(x: object) -> bool:
    # False for NaN, too; an int may be too large to become a float.
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < LARGEST


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _plain(x: float) -> str:
    return f"{x:.6f}".rstrip("0").rstrip(".")
