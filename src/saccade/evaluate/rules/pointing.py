"""Points on screens: how models write them, in which units, and whether they hit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

from PIL import Image as Picture
from PIL import ImageDraw

from saccade.core.content import frames_of
from saccade.core.errors import ConfigError, DataError
from saccade.core.reward import SampleReward, Score
from saccade.core.trajectory import Trajectory
from saccade.envs.actions import TAGS, Action, read_action
from saccade.envs.datasets.media import Media, short
from saccade.evaluate.benchmark import Benchmark
from saccade.rewards.parse import plain, runs, tagged

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Units = Literal["pixels", "thousandths", "shares"]
"""What outputs count in: pixels of the picture, thousandths of its sides (0 to 1000), or shares of them (0 to 1)."""

WORDS = {
    "pixels": "pixels of the picture",
    "thousandths": "thousandths of the picture's width and height",
    "shares": "shares of the picture's width and height",
}
"""What prompts call them."""

LONGEST = 4096
"""Characters of an answer that are read."""
REFUSALS = frozenset({"none", "null", "negative", "not found", "not present", "nothing"})


@dataclass(frozen=True)
class PointedAt(Benchmark):
    """A benchmark whose answers hold points."""

    units: Units = "pixels"
    """What the model writes points in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units not in WORDS:
            raise ConfigError(f"units must be one of {', '.join(WORDS)}, got {self.units!r}")


@dataclass(frozen=True, kw_only=True)
class PointInElement(SampleReward):
    """1 if the point of the output lies in the target's box, borders included, else 0.

    ``task.target["box"]`` is x1 y1 x2 y2 in shares of the picture's sides. The point is that of a click, or the first
    run of two numbers, or the middle of the first run of four. Where ``target["negative"]`` is true there is nothing to
    point at, and 1 is for an output that says so (``{"action": "none"}`` or one of ``REFUSALS``).

    Raises:
        DataError: the target is not so, or the prompt has no picture.
    """

    units: Units = "pixels"

    def score(self, trajectory: Trajectory) -> Score | None:
        if not trajectory.turns:
            return None
        task = trajectory.task
        if task.target.get("negative"):
            return Score(float(refuses(trajectory.text)), note="nothing to point at")
        point = said_point(trajectory.text)
        if point is None:
            return Score(0.0, note="no point")
        frames = frames_of(trajectory.prompt.content)
        if not frames:
            raise DataError(f"task {task.id!r}: points are measured in a picture, the prompt has none")
        height, width = frames[0].shape[:2]
        x, y = as_shares(point, self.units, width, height)
        x1, y1, x2, y2 = task.target["box"]
        return Score(float(x1 <= x <= x2 and y1 <= y <= y2), note=f"at {x:.3f} {y:.3f}")


def as_shares(point: Point, units: Units, width: int, height: int) -> Point:
    """A point in shares of the picture's width and height."""
    across, down = {"pixels": (width, height), "thousandths": (1000, 1000), "shares": (1, 1)}[units]
    return point[0] / across, point[1] / down


def in_units(point: Point, units: Units, width: int, height: int) -> Point:
    """A point in shares as outputs of these units write it."""
    across, down = {"pixels": (width, height), "thousandths": (1000, 1000), "shares": (1, 1)}[units]
    return point[0] * across, point[1] * down


def said_point(text: str) -> Point | None:
    """The point an output names. Never raises; time is linear in the length of the text."""
    action = read_action(text)
    if isinstance(action, Action) and action.type == "click":
        return action.point
    for run in runs(answer_body(text)):
        if len(run) == 2:
            return run[0], run[1]
        if len(run) == 4:
            return (run[0] + run[2]) / 2, (run[1] + run[3]) / 2
    return None


def refuses(text: str) -> bool:
    """Whether an output says that there is nothing to point at. Never raises."""
    body = answer_body(text).strip()
    try:
        found = json.loads(body) if body.startswith("{") else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        body = next((str(found[name]) for name in ("action", "result", "answer", "point") if name in found), "")
    return plain(body) in REFUSALS


def answer_body(text: str) -> str:
    """What stands in the last of the tags for actions, or everything after the thinking."""
    said = text.rpartition("</think>")[2]
    inside = (tagged(said, tag) for tag in TAGS)
    return next((body for body in inside if body is not None), said)[-LONGEST:]


def size_of(media: Media) -> tuple[int, int]:
    """Width and height of a picture, read from its head.

    Raises:
        DataError: it cannot be read.
    """
    source: Any = media.source.get("bytes") or media.source.get("path") if isinstance(media.source, dict) else None
    source = media.source if source is None else source
    try:
        with Picture.open(BytesIO(source) if isinstance(source, bytes) else media.root / source) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        why = " ".join(str(error).split())[:120]
        media.place.wrong(f"{short(source)}, which cannot be read ({why})", "an image that can be read")


def drawn_screen(index: int, width: int = 200, height: int = 120) -> tuple[Picture.Image, Box]:
    """A screen with some buttons and the box, in pixels, of the one that is numbered ``index``."""
    picture = Picture.new("RGB", (width, height), (235, 238, 242))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, width, height // 8), fill=(60, 90, 150))
    wanted = (0.0, 0.0, 0.0, 0.0)
    for row in range(2):
        for column in range(3):
            x, y = width * (0.06 + 0.31 * column), height * (0.25 + 0.36 * row)
            box = (round(x), round(y), round(x + width * 0.24), round(y + height * 0.22))
            here = row * 3 + column == index % 6
            pen.rectangle(box, fill=(40 + 30 * (index % 7), 140, 90) if here else (190, 195, 205))
            wanted = box if here else wanted
    return picture, wanted
