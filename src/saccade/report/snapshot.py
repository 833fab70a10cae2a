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

from saccade.core.content import Array, Content, Image, Mesh, Text, Video, text_of
from saccade.core.trajectory import Group, Task, Trajectory, Turn

Box = tuple[float, float, float, float]

LONGEST_TEXT = 20_000
"""Characters of one text part that are kept and searched for boxes."""
SHORT = 300
"""Characters of a target or a note that are kept."""
MOST_BOXES = 16
MOST_FRAMES = 8
"""Frames of a video, or steps of a turn, that are kept, evenly spaced."""
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
    return {
        "task": task.id,
        "prompt": _parts(group[0].prompt.content, pictures),
        "target": _short(task.target),
        "gold": [_short(text_of(output)) for output in task.gold],
        "boxes": gold_boxes(task),
        "rollouts": [_rollout(t, pictures, reward_weight, a, preview) for t, a in zip(group, known, strict=True)],
    }


def _rollout(
    trajectory: Trajectory,
    pictures: Pictures,
    reward_weight: Mapping[str, float],
    advantage: float | None,
    preview: Callable[[Turn, int], Sequence[Image]] | None,
) -> dict[str, Any]:
    turns = [
        {
            "steps": [pictures.put(image.pixels) for image in preview(turn, MOST_FRAMES)] if preview else [],
            "output": _parts(turn.output, pictures),
            "boxes": boxes(text_of(turn.output)),
            "observation": _parts(turn.observation.content, pictures) if turn.observation is not None else [],
            "reward": turn.reward,
            "notes": {str(key): _short(value) for key, value in turn.info.items()},
        }
        for turn in trajectory.turns
    ]
    scores = {
        name: {"value": score.total, "weight": reward_weight.get(name, 1.0), "note": score.note}
        for name, score in trajectory.scores.items()
    }
    return {"turns": turns, "stop": trajectory.stop, "scores": scores, "advantage": advantage}


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
    text = text[:LONGEST_TEXT]
    runs: list[list[float]] = []
    end = None
    for match in _NUMBER.finditer(text):
        if end is None or not _GAP.fullmatch(text, end, match.start()):
            runs.append([])
        runs[-1].append(float(match[0]))
        end = match.end()
    found = [(run[0], run[1], run[2], run[3]) for run in runs if len(run) == 4]
    return [box for box in found if box[0] < box[2] and box[1] < box[3]][:MOST_BOXES]


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


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
