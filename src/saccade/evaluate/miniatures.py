"""Pictures, films and tables that miniatures of benchmarks are made of: coloured squares, some of which move."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from saccade.core.errors import CapabilityError

COLOURS = {
    "red": (220, 40, 40), "green": (50, 180, 60), "blue": (50, 80, 230), "yellow": (240, 220, 50),
    "white": (245, 245, 245), "purple": (150, 60, 200),
}  # fmt: skip
SIDE = 48
FRAMES = 6


def square(index: int) -> tuple[Picture.Image, str]:
    """A picture of a square on grey, and the square's colour."""
    colour = tuple(COLOURS)[index % len(COLOURS)]
    return Picture.fromarray(_painted(colour, 8 + index * 5 % 24)), colour


def choices(index: int, right: str) -> tuple[dict[str, str], str]:
    """Four colours by letter and the letter of the right one, which goes round."""
    others = [colour for colour in COLOURS if colour != right][:3]
    place = index % 4
    listed = [*others[:place], right, *others[place:]]
    return dict(zip("ABCD", listed, strict=True)), "ABCD"[place]


def png(picture: Picture.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def stored(picture: Picture.Image, name: str) -> dict[str, Any]:
    """A picture as tables on the Hugging Face hub hold it."""
    return {"bytes": png(picture), "path": name}


def write_film(path: Path, index: int) -> str:
    """A film of six frames in which a square moves; returns its colour.

    Raises:
        CapabilityError: PyAV, which writes it, is not installed.
    """
    try:
        import av
    except ImportError:
        raise CapabilityError(f"{path.name} is a film: writing it needs the package av") from None
    colour = tuple(COLOURS)[index % len(COLOURS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(_painted(colour, 4 + 4 * i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return colour


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A .parquet file."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)


def _painted(colour: str, left: int) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), 90, dtype=np.uint8)
    pixels[16:32, left : left + 16] = COLOURS[colour]
    return pixels
