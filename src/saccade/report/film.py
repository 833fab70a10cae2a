"""Films: an animated GIF of an episode, turn by turn, or of a clip that the policy drew.

A frame of an episode shows the newest picture in the policy's context, enlarged pixel for pixel where it is small.
Drawn over it are the point the policy chose and, on the picture that it belongs to, the target's box; below stands the
turn and the action. Only what the environment shows after the last turn was not seen by the policy, and its frame says
so.

Episodes whose observations hold no pictures have no film, nor have those whose pictures differ in size: they are parts
of a picture that a tool cut out, not one scene over time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from saccade.core.errors import DataError
from saccade.report.snapshot import boxed_picture

SIDE = 224
"""Pictures whose longer side is smaller are enlarged by the least whole factor that gives this."""
LARGEST = 384
"""Pictures whose longer side is larger are scaled down to this."""
MOST_FRAMES = 48
"""Frames of a film, evenly spaced over longer episodes."""
LARGEST_FILM = 600_000
"""Bytes of a film; frames are left out until it is small enough, down to the first and the last."""
TURN_MS, END_MS = 600, 1800
"""Milliseconds that a turn and the end are shown."""
PAUSE_MS = 600
"""Milliseconds that a clip's last frame is shown longer than others."""

AFTERWARDS = "afterwards, not seen by the policy"
WHITE, PAPER, UNSEEN = (255, 255, 255), (243, 244, 245), (208, 212, 218)
INK, SOFT = (29, 31, 35), (106, 111, 120)
HIT, MISS, SAID = (18, 153, 74), (209, 50, 60), (236, 122, 8)
_GAP = "  "  # one blank of Pillow's own font is hardly to be seen at this size
RADIUS = 8
"""Pixels of the circle around a point."""
_LINE, _MARGIN = 15, 6


@dataclass(frozen=True)
class Shot:
    """One frame before it is drawn."""

    picture: Mapping[str, Any]
    """As ``snapshot`` wrote it: name of the file, width and height that coordinates refer to."""
    action: str
    outcome: str = ""
    good: bool | None = None
    """Colour of the outcome: green, red or neither."""
    mark: Mapping[str, Any] | None = None
    boxes: Sequence[Sequence[float]] = ()
    seen: bool = True
    """Whether the policy saw the picture."""


def shots(rollout: Mapping[str, Any], group: Mapping[str, Any]) -> list[Shot]:
    """The frames of an episode's film; none where there is nothing that moves.

    Args:
        rollout: one of the group's.
        group: as ``snapshot`` wrote it.
    """
    turns = rollout["turns"]
    seen = [turn.get("seen") for turn in turns]
    end = rollout.get("end")
    shown = [picture for picture in (*seen, end) if picture is not None]
    if not turns or None in seen or len({(one["width"], one["height"]) for one in shown}) != 1:
        return []
    if len(turns) == 1 and len({one["image"] for one in shown}) == 1:
        return []
    asked = boxed_picture(group["prompt"])
    made = [
        Shot(
            turn["seen"],
            f"turn {k + 1} of {len(turns)}:  {turn['told']}",
            *(_outcome(turn) if k < len(turns) - 1 else _ending(rollout)),
            turn["mark"],
            group["boxes"] if turn["seen"]["image"] == asked else (),
        )
        for k, turn in enumerate(turns)
    ]
    if end is not None:
        made.append(Shot(end, AFTERWARDS, *_ending(rollout), seen=False))
    return made


def _outcome(turn: Mapping[str, Any]) -> tuple[str, bool | None]:
    """What came of a turn before the last."""
    said = [f"not valid: {turn['refused']}".removesuffix(": not valid")] if turn["refused"] else []
    said += [f"reward {turn['reward']:.3g}"] if turn["reward"] else []
    return " · ".join(said), False if turn["refused"] else None


def _ending(rollout: Mapping[str, Any]) -> tuple[str, bool | None]:
    turn = rollout["turns"][-1]
    success, (said, _) = turn["success"], _outcome(turn)
    ended = "success" if success else rollout["stop"] if success is None else f"no success, {rollout['stop']}"
    return f"{ended} · {said}" if said else ended, success


def film(rollout: Mapping[str, Any], group: Mapping[str, Any], pictures: Path) -> bytes | None:
    """The film of an episode, a GIF; None where there is nothing to film. Equal arguments give equal bytes.

    Args:
        rollout: one of the group's.
        group: as ``snapshot`` wrote it.
        pictures: folder with the PNG files that the group names.

    Raises:
        DataError: a picture is missing.
    """
    made = _spread(shots(rollout, group), MOST_FRAMES)
    if not made:
        return None
    title = group.get("instruction", "")
    drawn = [draw(shot, title, pictures) for shot in made]
    while len(data := _gif(drawn, TURN_MS, END_MS)) > LARGEST_FILM and len(drawn) > 2:
        drawn = _spread(drawn, max(2, len(drawn) // 2))
    return data


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def played(clip: Mapping[str, Any], pictures: Path) -> bytes:
    """A clip as a GIF that plays at its own speed and pauses at the end. Equal arguments give equal bytes.

    Args:
        clip: a part with ``video``, ``frames`` and ``fps``, as ``snapshot`` wrote it.
        pictures: folder with the PNG files that it names.

    Raises:
        DataError: a picture is missing.
    """
    drawn = [_enlarged(frame, pictures) for frame in clip["video"]]
    # Of a long clip some frames are kept only; they share its time.
    shown = max(20, round(1000 * clip["frames"] / (clip["fps"] * len(drawn))))
    while len(data := _gif(drawn, shown, shown + PAUSE_MS)) > LARGEST_FILM and len(drawn) > 2:
        shown = shown * len(drawn) // max(2, len(drawn) // 2)
        drawn = _spread(drawn, max(2, len(drawn) // 2))
    return data


def _gif(frames: Sequence[PIL.Image.Image], each: int, last: int) -> bytes:
    width, height = frames[0].size
    # Quantised as one sheet, frames share their colours, which stay exact where there are 256 at most.
    sheet = PIL.Image.new("RGB", (width, height * len(frames)))
    for i, frame in enumerate(frames):
        sheet.paste(frame, (0, i * height))
    sheet = sheet.quantize(256, PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)
    first, *others = (sheet.crop((0, i * height, width, (i + 1) * height)) for i in range(len(frames)))
    times = [each] * (len(frames) - 1) + [last]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=times, loop=0, optimize=False)
    return file.getvalue()


def scale_of(width: int, height: int) -> float:
    """Pixels of a film for each pixel of a picture: a whole number, or less than 1."""
    longest = max(width, height)
    return LARGEST / longest if longest > LARGEST else -(-SIDE // longest) if longest < SIDE else 1


def draw(shot: Shot, title: str, pictures: Path) -> PIL.Image.Image:
    """One frame: the title, the picture with its marks, the action and what came of it."""
    picture = _enlarged(shot.picture, pictures)
    wide, high = picture.size
    scale = scale_of(shot.picture["width"], shot.picture["height"])
    pen = PIL.ImageDraw.Draw(picture)
    for box in shot.boxes:
        _box(pen, [value * scale for value in box])
    if shot.mark is not None:
        _mark(pen, shot.mark, scale, wide, high)
    across = max(wide, SIDE)
    room = across - 2 * _MARGIN
    asked, told, outcome = (
        _lines(text, room, most) for text, most in ((title, 2), (shot.action, 1), (shot.outcome, 1))
    )
    top = len(asked) * _LINE + 2 * _MARGIN
    canvas = PIL.Image.new("RGB", (across, top + high + 2 * _LINE + 2 * _MARGIN), PAPER if shot.seen else UNSEEN)
    canvas.paste(picture, ((across - wide) // 2, top))
    pen = PIL.ImageDraw.Draw(canvas)
    below = top + high + _MARGIN
    for i, line in enumerate(asked):
        pen.text((_MARGIN, _MARGIN + i * _LINE), line, fill=INK, font=_font())
    pen.text((_MARGIN, below), told[0], fill=INK, font=_font())
    pen.text((_MARGIN, below + _LINE), outcome[0], fill={True: HIT, False: MISS, None: SOFT}[shot.good], font=_font())
    return canvas


def _enlarged(part: Mapping[str, Any], pictures: Path) -> PIL.Image.Image:
    """A stored picture at the size in which films show it."""
    path = pictures / f"{part['image']}.png"
    if not path.exists():
        raise DataError(f"{path} is missing: the rollouts name it")
    width, height = part["width"], part["height"]
    scale = scale_of(width, height)
    kind = PIL.Image.Resampling.NEAREST if scale >= 1 else PIL.Image.Resampling.BOX
    with PIL.Image.open(path) as stored:
        return stored.convert("RGB").resize((max(1, round(width * scale)), max(1, round(height * scale))), kind)


def _box(pen: PIL.ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    """A frame around the box: what is in it stays to be seen."""
    x1, y1, x2, y2 = (round(value) for value in box)
    pen.rectangle((x1 - 2, y1 - 2, max(x1, x2) + 1, max(y1, y2) + 1), outline=HIT, width=2)


def _mark(pen: PIL.ImageDraw.ImageDraw, mark: Mapping[str, Any], scale: float, wide: int, high: int) -> None:
    """A circle and a cross at the point, and an arrow to where a drag ends; nothing outside the picture."""
    colour = {True: HIT, False: MISS, None: SAID}[mark["hit"]]
    place, goal = (_placed(mark[name], scale, wide, high) for name in ("point", "to"))
    if place is None:
        return
    x, y = place
    for shade, wider in ((WHITE, 2), (colour, 0)):
        if goal is not None:
            pen.line((x, y, *goal), fill=shade, width=2 + wider)
            pen.ellipse((goal[0] - 3, goal[1] - 3, goal[0] + 3, goal[1] + 3), fill=shade)
        outer = RADIUS + wider // 2
        pen.ellipse((x - outer, y - outer, x + outer, y + outer), outline=shade, width=2 + wider)
        pen.line((x - RADIUS, y, x + RADIUS, y), fill=shade, width=1 + wider)
        pen.line((x, y - RADIUS, x, y + RADIUS), fill=shade, width=1 + wider)


def _placed(point: Sequence[float] | None, scale: float, wide: int, high: int) -> tuple[int, int] | None:
    """The pixel of a point; the far edges of a picture belong to it."""
    if point is None:
        return None
    x, y = point[0] * scale, point[1] * scale
    return (min(int(x), wide - 1), min(int(y), high - 1)) if 0 <= x <= wide and 0 <= y <= high else None


def _font() -> Any:
    return PIL.ImageFont.load_default(12)


def _lines(text: str, room: float, most: int) -> list[str]:
    """The text in at most so many lines of this width; the last ends in dots where more would follow."""
    font = _font()
    words = "".join(sign if sign.isprintable() else " " for sign in text[:400]).split(" ")
    lines, words = [""], [word for word in words if word]
    while words:
        longer = f"{lines[-1]}{_GAP}{words[0]}" if lines[-1] else words[0]
        if font.getlength(longer) <= room:
            lines[-1] = longer
            words.pop(0)
        elif lines[-1] and len(lines) < most:
            lines.append("")
        else:
            while font.getlength(longer + "…") > room:
                longer = longer[:-1]
            lines[-1] = longer + "…"
            break
    return lines
