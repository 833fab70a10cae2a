"""Groups of trajectories as plain data: what a gallery shows of them, small enough to keep in every run's folder."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from saccade.core.content import Array, Content, Image, Mesh, Text, Video, frames_of, text_of
from saccade.core.trajectory import Context, Group, Prompt, Task, Trajectory, Turn

Box = tuple[float, float, float, float]

LONGEST_TEXT = 20_000
"""Characters of one text part that are kept and searched for boxes."""
SHORT = 300
"""Characters of a target or a note that are kept."""
MOST_BOXES = 16
MOST_COMMANDS = 3
MOST_NUMBERS = 8
"""Numbers of one motor command that are kept."""
MOST_FRAMES = 8
"""Frames of a video, or steps of a turn, that are kept, evenly spaced."""
LARGEST_NUMBER = 1e6
"""Coordinates of points are smaller than this."""
LARGEST_SIDE = 512
"""Pictures are scaled down to this for the gallery; boxes keep the coordinates of the original."""

_NUMBER = re.compile(r"(?<![\w.])-?\d{1,6}(?:\.\d{1,6})?(?![\w])")
_GAP = re.compile(r"\s*,\s*|[ \t]+|\)\s*,\s*\(")


class Pictures:
    """PNG files in ``folder/images``, each picture once, whatever shows it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"

    def put(self, pixels: np.ndarray) -> dict[str, Any]:
        """Store a picture; its file's name and the size that boxes refer to."""
        height, width = pixels.shape[:2]
        name = hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode(), digest_size=10).hexdigest()
        path = self._folder / f"{name}.png"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(_png(pixels))
            partial.replace(path)
        return {"image": name, "width": width, "height": height}


def _png(pixels: np.ndarray) -> bytes:
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def snapshot(
    group: Group,
    pictures: Pictures,
    reward_weight: Mapping[str, float],
    advantage: Sequence[float | None] = (),
    preview: Callable[[Turn, int], Sequence[Image]] | None = None,
) -> dict[str, Any]:
    """What there is to see of a group, as data that JSON can hold.

    Args:
        group: scored trajectories of one task.
        pictures: where their pictures go.
        reward_weight: factor of each reward.
        advantage: one number a trajectory, if known.
        preview: pictures of how an output came about (``Policy.preview``).
    """
    task = group[0].task
    known = list(advantage) or [None] * len(group)
    prompt, wanted = _parts(group[0].prompt.content, pictures), gold_boxes(task)
    asked = boxed_picture(prompt)
    return {
        "task": task.id,
        "instruction": _instruction(group[0].prompt),
        "prompt": prompt,
        "target": _target(task.target),
        "gold": [said for output in task.gold if (said := _said(output))],
        "drawn": _parts(tuple(part for part in task.gold[-1] if isinstance(part, Image | Video)), pictures)
        if task.gold
        else [],
        "boxes": wanted,
        "rollouts": [
            _rollout(t, pictures, reward_weight, a, preview, wanted, asked) for t, a in zip(group, known, strict=True)
        ],
    }


def boxed_picture(prompt: Sequence[Mapping[str, Any]]) -> str | None:
    """Name of the picture that the boxes of the target refer to: the first of the prompt."""
    return next((part["image"] for part in prompt if "image" in part), None)


def _rollout(
    trajectory: Trajectory,
    pictures: Pictures,
    reward_weight: Mapping[str, float],
    advantage: float | None,
    preview: Callable[[Turn, int], Sequence[Image]] | None,
    wanted: Sequence[Box],
    asked: str | None,
) -> dict[str, Any]:
    newest = (_newest(trajectory.context(k)) for k in range(len(trajectory.turns)))
    seen = [pictures.put(pixels) if pixels is not None else None for pixels in newest]
    turns = [
        {
            "seen": picture,
            "told": told(turn),
            "command": _command_of(turn.output) is not None,
            "mark": _mark(turn, wanted if picture is not None and picture["image"] == asked else ()),
            "success": bool(turn.info["success"]) if "success" in turn.info else None,
            "refused": _short(turn.info.get("problem", "not valid")) if turn.info.get("valid") is False else "",
            "steps": [pictures.put(image.pixels) for image in preview(turn, MOST_FRAMES)] if preview else [],
            "output": _parts(turn.output, pictures),
            "boxes": [] if isinstance(turn.info.get("action"), Mapping) else boxes(text_of(turn.output)),
            "observation": _parts(turn.observation.content, pictures) if turn.observation is not None else [],
            "reward": turn.reward,
            "notes": {str(key): _note(value) for key, value in turn.info.items()},
        }
        for turn, picture in zip(trajectory.turns, seen, strict=True)
    ]
    final = frames_of(trajectory.final.content) if trajectory.final is not None else []
    scores = {
        name: {"value": score.total, "weight": reward_weight.get(name, 1.0), "note": score.note}
        for name, score in trajectory.scores.items()
    }
    return {
        "turns": turns,
        "end": pictures.put(final[-1]) if final else None,
        "stop": trajectory.stop,
        "scores": scores,
        "advantage": advantage,
    }


def _instruction(prompt: Prompt) -> str:
    """What the first observation says, or else the task's own words, without what a template adds to them."""
    task = prompt.task.prompt
    said = [part.text for content in (task, prompt.content[len(task) :]) for part in content if isinstance(part, Text)]
    return _short(said[-1]) if said else ""


def _newest(context: Context) -> np.ndarray | None:
    """The newest picture among all that the policy sees; None if it sees none."""
    shown = [turn.observation.content for turn in context.turns if turn.observation is not None]
    found = (frames_of(content) for content in reversed([context.prompt.content, *shown]))
    return next((frames[-1] for frames in found if frames), None)


def told(turn: Turn) -> str:
    """What the policy did, in a line.

    That is the environment's own word for it, ``info["actions"]`` (a text) or ``info["action"]`` (see
    ``envs/actions.py``), or else motor commands in rounded numbers, or else the text of the output.
    """
    action, words = turn.info.get("action"), turn.info.get("actions")
    if isinstance(action, Mapping):
        places = [
            " ".join(f"{x:.6g}" for x in place) for name in ("point", "to") if (place := _place(action.get(name)))
        ]
        named = [str(action[name]) for name in ("type", "direction", "keys", "text") if action.get(name)]
        return _short(" ".join([*named, *places]))
    if isinstance(words, str) and words:
        return _short(words)
    return " ".join(_said(turn.output).split())


def _said(output: Content) -> str:
    """The text of an output, or its motor commands in rounded numbers."""
    values = _command_of(output)
    return _short(text_of(output) if values is None else _commands(values))


def _command_of(output: Content) -> np.ndarray | None:
    """The motor commands of a turn, ``[k, D]``."""
    found = [part.values for part in output if isinstance(part, Array) and part.name == "command"]
    return found[0] if len(found) == 1 and np.ndim(found[0]) == 2 else None


def _commands(values: np.ndarray) -> str:
    rows = [" ".join(_plain(float(x)) for x in row[:MOST_NUMBERS]) for row in values[:MOST_COMMANDS]]
    cut = " …" if values.shape[1] > MOST_NUMBERS else ""
    more = f" | … {len(values)} in all" if len(values) > MOST_COMMANDS else ""
    return " | ".join(row + cut for row in rows) + more


def _plain(x: float) -> str:
    rounded = round(x, 2) + 0.0  # no negative zero
    return f"{rounded:.0f}" if rounded.is_integer() else f"{rounded:.2f}"


def _mark(turn: Turn, wanted: Sequence[Box]) -> dict[str, Any] | None:
    """Where on the picture an action points, and whether that was right; None if it points nowhere.

    Where the environment notes no action but the target is a box, the one point that the output names counts. A click
    is right if the environment says so of every turn (``type_right``), else if it is in a box, edges included; it is
    neither right nor wrong where nothing is known (``hit`` None).
    """
    action = turn.info.get("action")
    if isinstance(action, Mapping):
        kind, point, to = action.get("type"), _place(action.get("point")), _place(action.get("to"))
    else:
        text = text_of(turn.output)
        named = [] if "action" in turn.info or not wanted or boxes(text) else _runs(text, 2)
        kind, point, to = "click", _place(named[0]) if len(named) == 1 else None, None
    if point is None:
        return None
    hit = None
    if kind == "click" and "type_right" in turn.info:
        hit = bool(turn.info.get("success", False))
    elif kind == "click" and wanted:
        hit = any(x1 <= point[0] <= x2 and y1 <= point[1] <= y2 for x1, y1, x2, y2 in wanted)
    return {"point": point, "to": to, "hit": hit}


def _place(value: Any) -> tuple[float, float] | None:
    """Two finite numbers, or None."""
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 2:
        return None
    if not all(isinstance(x, int | float | np.number) and math.isfinite(x) and abs(x) < LARGEST_NUMBER for x in value):
        return None
    return float(value[0]), float(value[1])


def _parts(content: Content, pictures: Pictures) -> list[dict[str, Any]]:
    return [_part(part, pictures) for part in content]


def _part(part: Text | Image | Video | Mesh | Array, pictures: Pictures) -> dict[str, Any]:
    match part:
        case Text():
            return {"text": part.text[:LONGEST_TEXT]}
        case Image():
            return pictures.put(part.pixels)
        case Video():
            count = len(part.frames)
            kept = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
            return {"video": [pictures.put(part.frames[i]) for i in kept], "fps": part.fps, "frames": count}
        case Mesh():
            return {"text": f"[mesh: {len(part.vertices)} vertices, {len(part.faces)} faces]"}
        case Array():
            values = np.array2string(part.values, precision=3, threshold=24, edgeitems=6)
            return {"text": f"[{part.name} {list(part.values.shape)}: {values}]"}


def boxes(text: str) -> list[Box]:
    """Runs of exactly four numbers ``x1 y1 x2 y2`` with x1 < x2 and y1 < y2, between commas, blanks or ``),(``."""
    found = [(run[0], run[1], run[2], run[3]) for run in _runs(text, 4)]
    return [box for box in found if box[0] < box[2] and box[1] < box[3]][:MOST_BOXES]


def _runs(text: str, length: int) -> list[list[float]]:
    """Runs of exactly so many numbers between commas, blanks or ``),(``."""
    text = text[:LONGEST_TEXT]
    runs: list[list[float]] = []
    end = None
    for match in _NUMBER.finditer(text):
        if end is None or not _GAP.fullmatch(text, end, match.start()):
            runs.append([])
        runs[-1].append(float(match[0]))
        end = match.end()
    return [run for run in runs if len(run) == length]


def gold_boxes(task: Task) -> list[Box]:
    """Boxes in the task's target, or else in its gold outputs."""
    found = _boxes_in(task.target, depth=3)
    return (found or [box for output in task.gold[-1:] for box in boxes(text_of(output))])[:MOST_BOXES]


def _boxes_in(value: Any, depth: int) -> list[Box]:
    if isinstance(value, str):
        return boxes(value)
    if isinstance(value, Mapping):
        # Other fields may tell of boxes that are not asked for.
        named = [item for key, item in value.items() if "box" in str(key).lower()] or [value.get("answer")]
        return [box for item in named for box in _boxes_in(item, depth - 1)] if depth else []
    if not isinstance(value, list | tuple | np.ndarray) or not depth:
        return []
    items = list(value)
    if len(items) == 4 and all(isinstance(item, int | float | np.number) for item in items):
        x1, y1, x2, y2 = map(float, items)
        return [(x1, y1, x2, y2)] if x1 < x2 and y1 < y2 and math.isfinite(x2 - x1 + y2 - y1) else []
    return [box for item in items[:64] for box in _boxes_in(item, depth - 1)]


def _target(value: Any) -> str:
    if isinstance(value, Mesh):
        return f"mesh: {len(value.vertices)} vertices, {len(value.faces)} faces"
    return "" if value is None else _short(value)


def _note(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _short(value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
