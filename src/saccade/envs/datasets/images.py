"""Real pictures with captions: handwritten digits from scikit-learn, and Fashion-MNIST from files of the user.

Both are text to image: the prompt is ``a seven``, the gold output is the picture. Training and test tasks share no
picture; every caption occurs in both.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from saccade.core.content import Image, Text
from saccade.core.environment import Split, Tasks
from saccade.core.errors import ConfigError, DataError
from saccade.core.random import numpy_generator
from saccade.core.trajectory import Task
from saccade.envs.datasets.glyphs import indices, scans
from saccade.envs.datasets.media import Media, Place

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLOTHES = (
    "a t-shirt", "trousers", "a pullover", "a dress", "a coat", "a sandal", "a shirt", "a sneaker", "a bag",
    "an ankle boot",
)  # fmt: skip
"""Captions of Fashion-MNIST's classes 0 to 9."""
FILES: dict[Split, str] = {"train": "train", "test": "t10k"}
LARGEST = 2**28
"""Bytes of the largest file that is read."""


def words() -> tuple[str, ...]:
    """Every word of the captions of both sets."""
    return tuple(sorted({"a", *DIGITS, *(word for caption in CLOTHES for word in caption.split())}))


@dataclass(frozen=True)
class DigitImages(Tasks):
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn, white on black: 1,438 to train, 359 to test.

    ``Task.target``: ``label``, 0 .. 9. ``Task.info``: ``caption``. Classes take turns, so that any number of first
    tasks is balanced: rarer digits repeat a few pictures. The order within a class depends on the seed.
    """

    side: int = 16
    """Pixels a side; interpolated from 8 x 8."""
    count: int = 0
    """Tasks; 0: one for each picture. More than there are pictures repeat them."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.side < 8:
            raise ConfigError(f"tasks.side must be >= 8, got {self.side}")
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")

    def __len__(self) -> int:
        return self.count or sum(map(len, indices(self.part)))

    def split(self, name: Split) -> DigitImages:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        turn, digit = divmod(index, 10)
        own = indices(self.part)[digit]
        order = numpy_generator(self.seed, "digit images", self.part, digit, turn // len(own)).permutation(len(own))
        which = own[order[turn % len(own)]]
        grey = scans(self.side)[which]
        return _task(f"digits/{self.part}/{self.seed}/{index}", f"a {DIGITS[digit]}", digit, grey)


@dataclass(frozen=True)
class FashionMNIST(Tasks):
    """Fashion-MNIST (arXiv:1708.07747): 70,000 pictures of clothes, 28 x 28, from the four idx.gz files in a folder.

    Debian's package dataset-fashion-mnist installs them. ``Task.target``: ``label``, 0 .. 9.
    ``Task.info``: ``caption``. The training part is the files' training part.

    Raises:
        DataError: a file is missing or damaged; the message names folder and file.
    """

    folder: Path
    """Holds ``train-images-idx3-ubyte.gz`` and the other three."""
    side: int = 28
    """Pixels a side: 28, more (black is added around the picture), or fewer (averaged)."""
    count: int = 0
    """Tasks; 0: one for each picture."""
    seed: int = 0
    part: Split = "train"

    def __post_init__(self) -> None:
        if self.side < 8:
            raise ConfigError(f"tasks.side must be >= 8, got {self.side}")
        if self.count < 0:
            raise ConfigError(f"tasks.count must be >= 0, got {self.count}")

    def __len__(self) -> int:
        return self.count or len(_fashion(self.folder, self.part)[1])

    def split(self, name: Split) -> FashionMNIST:
        return replace(self, part=name)

    def task(self, index: int) -> Task:
        pictures, labels = _fashion(self.folder, self.part)
        which = _order(self.seed, self.part, len(labels))[index % len(labels)]
        label = int(labels[which])
        grey = _sized(pictures[which], self.side)
        return _task(f"fashion/{self.part}/{self.seed}/{index}", CLOTHES[label], label, grey)


def _task(id: str, caption: str, label: int, grey: np.ndarray) -> Task:
    picture = Image(np.repeat(grey[:, :, None], 3, axis=2))
    return Task(id, (Text(caption),), {"label": label}, ((picture,),), {"caption": caption})


@lru_cache(maxsize=4)
def _order(seed: int, part: Split, n: int) -> np.ndarray:
    return numpy_generator(seed, "fashion", part).permutation(n)


def _sized(grey: np.ndarray, side: int) -> np.ndarray:
    height, width = grey.shape
    if side >= max(height, width):
        above, left = (side - height) // 2, (side - width) // 2
        return np.pad(grey, ((above, side - height - above), (left, side - width - left)))
    down, across = _averaging(height, side), _averaging(width, side)
    return np.rint(down @ grey.astype(np.float64) @ across.T).astype(np.uint8)


@lru_cache(maxsize=8)
def _averaging(source: int, side: int) -> np.ndarray:
    """``[side, source]`` shares of the source's pixels in each new pixel."""
    edges = np.linspace(0, source, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) / (high - low)


@lru_cache(maxsize=4)
def _fashion(folder: Path, part: Split) -> tuple[np.ndarray, np.ndarray]:
    pictures = _idx(folder, f"{FILES[part]}-images-idx3-ubyte.gz", dimensions=3)
    labels = _idx(folder, f"{FILES[part]}-labels-idx1-ubyte.gz", dimensions=1)
    if len(pictures) != len(labels) or not len(labels) or labels.max() >= len(CLOTHES):
        raise DataError(f"{folder}: {len(pictures)} pictures and {len(labels)} labels of {FILES[part]} do not fit")
    return pictures, labels


def _idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An array of unsigned bytes in LeCun's idx format, gzipped."""
    path = folder / name
    if not path.is_file():
        hint = "the Debian package dataset-fashion-mnist installs the four idx.gz files"
        raise DataError(f"tasks.folder {folder} has no file {name}; {hint}")
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an idx file of unsigned bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    size = int(np.prod(shape, dtype=object))
    if len(data) - head != size:
        raise DataError(f"{path}: its header announces {size} bytes, found {len(data) - head}")
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)


@dataclass(frozen=True)
class PictureFolder(Tasks):
    """The pictures in a folder, in order of their names: gold outputs without a prompt, to compare sets with.

    Raises:
        DataError: there is no such folder, no picture in it, or one that cannot be read; the message names it.
    """

    path: str

    def __len__(self) -> int:
        return len(self._files)

    def split(self, name: Split) -> PictureFolder:
        return self

    def task(self, index: int) -> Task:
        file = self._files[index]
        media = Media("image", file.name, file.parent, Place(str(file.parent), index + 1, file.name))
        return Task(f"{file.parent.name}/{file.name}", (), gold=((media.decoded(),),))

    @property
    def _files(self) -> tuple[Path, ...]:
        return _pictures(Path(self.path))


PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@lru_cache(maxsize=8)
def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: found no such folder, expected one with pictures")
    found = tuple(sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES))
    if not found:
        raise DataError(f"{folder}: found no pictures, expected {', '.join(PICTURES)}")
    return found
