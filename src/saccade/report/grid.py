"""``grid.png``: what the policy drew before and after, one above the other, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

ACROSS = 16
"""Most pictures in a row."""
CELL = 96
"""Pixels a side of a picture."""
GAP = 4


def write_grid(path: Path, moments: Mapping[str, Sequence[Mapping[str, Any]]], pictures: Path) -> bool:
    """One row of pictures for each moment; pictures of the same task and seed stand below each other.

    Args:
        path: the file.
        moments: name -> groups as ``snapshot`` wrote them.
        pictures: folder with the PNG files that the groups name.

    Returns:
        Whether there was anything to draw: a last picture in the outputs of all moments.
    """
    drawn = [_last_pictures(groups) for groups in moments.values()]
    shared = [key for key in (drawn[0] if drawn else {}) if all(key in found for found in drawn)]
    # Different tasks before several pictures of one.
    shared = sorted(shared, key=lambda key: key[1])[:ACROSS]
    if not shared:
        return False
    sheet = PIL.Image.new("RGB", (len(shared) * (CELL + GAP) - GAP, len(drawn) * (CELL + GAP) - GAP), "white")
    for y, found in enumerate(drawn):
        for x, key in enumerate(shared):
            with PIL.Image.open(pictures / f"{found[key]}.png") as picture:
                cell = picture.convert("RGB").resize((CELL, CELL), PIL.Image.Resampling.NEAREST)
            sheet.paste(cell, (x * (CELL + GAP), y * (CELL + GAP)))
    sheet.save(path)
    return True


def _last_pictures(groups: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """(task, member) -> name of the last picture of its last output."""
    found: dict[tuple[str, int], str] = {}
    for group in groups:
        for i, rollout in enumerate(group["rollouts"]):
            output = rollout["turns"][-1]["output"] if rollout["turns"] else []
            names = [part["image"] for part in output if "image" in part]
            if names:
                found[group["task"], i] = names[-1]
    return found
