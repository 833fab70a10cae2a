"""Writes docs/images/tasks.png: pictures the tiny models learn from, each with its question and a right answer.

python docs/build_images.py
"""

from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from saccade.core.content import images_of, text_of
from saccade.core.environment import Tasks
from saccade.envs import drawing
from saccade.envs.datasets.changes import ChangedScenes
from saccade.envs.datasets.coloured_counts import ColouredCounts
from saccade.envs.datasets.digits import DigitScenes
from saccade.envs.datasets.evidence import FramedDigits
from saccade.rewards.parse import boxes, tagged

SIDE, GAP, TEXT = 192, 12, 54
"""Pixels of a shown picture, between pictures, and of the text below."""
SHOWN: tuple[tuple[Tasks, int], ...] = (
    (DigitScenes(kinds=("locate",), digits=(1, 2)), 3),
    (DigitScenes(kinds=("count",), digits=(2, 4)), 1),
    (FramedDigits(), 0),
    (ChangedScenes(), 4),
    (ColouredCounts(), 0),
)


def tile(tasks: Tasks, index: int) -> np.ndarray:
    """The task's pictures side by side, the gold box drawn, question and answer below."""
    task = tasks[index]
    said = text_of(task.gold[-1])
    answer = tagged(said, "answer") or said
    pictures = [image.pixels for image in images_of(task.prompt)]
    shown = [np.repeat(np.repeat(p, SIDE // p.shape[0], 0), SIDE // p.shape[1], 1) for p in pictures]
    if (box := tagged(said, "box")) and len(task.gold) == 1:
        scale = SIDE // pictures[0].shape[0]
        corners = boxes(box)[0]
        shown[0] = drawing.outline(shown[0], tuple(scale * edge for edge in corners), thickness=2)
        answer = box
    row = np.concatenate(shown, 1)
    sheet = Picture.new("RGB", (row.shape[1], row.shape[0] + TEXT), "white")
    sheet.paste(Picture.fromarray(row))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for line, (text, colour) in enumerate(((text_of(task.prompt), "black"), (answer, (0, 110, 60)))):
        pen.text((0, row.shape[0] + 6 + 22 * line), text, fill=colour, font=font)
    return np.array(sheet)


def main() -> None:
    """Write the sheet."""
    tiles = [tile(tasks, index) for tasks, index in SHOWN]
    gap = np.full((tiles[0].shape[0], GAP, 3), 255, np.uint8)
    row = np.concatenate([part for one in tiles for part in (one, gap)][:-1], 1)
    out = Path(__file__).parent / "images" / "tasks.png"
    out.parent.mkdir(exist_ok=True)
    Picture.fromarray(row).save(out, optimize=True)


if __name__ == "__main__":
    main()
