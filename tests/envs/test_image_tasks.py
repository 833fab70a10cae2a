"""Real pictures with captions: digits, and Fashion-MNIST from the user's files."""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest

from saccade.core.content import text_of
from saccade.core.errors import ConfigError, DataError
from saccade.envs.datasets.glyphs import scans
from saccade.envs.datasets.images import CLOTHES, DIGITS, DigitImages, FashionMNIST, words
from saccade.envs.single import SingleTurn
from saccade.testing import check_environment


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, name, data):
    with gzip.open(folder / name, "wb") as file:
        file.write(data)


@pytest.fixture
def folder(tmp_path):
    """Two training pictures and one to test: all pixels of picture i are 10 * (i + 1), labels 7, 9 and 1."""
    for part, values, labels in (("train", (10, 20), (7, 9)), ("t10k", (30,), (1,))):
        pictures = np.stack([np.full((28, 28), value, dtype=np.uint8) for value in values])
        write(tmp_path, f"{part}-images-idx3-ubyte.gz", idx(pictures))
        write(tmp_path, f"{part}-labels-idx1-ubyte.gz", idx(np.array(labels, dtype=np.uint8)))
    return tmp_path


def test_digits_are_captioned_with_what_they_show():
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    exact = {scan.tobytes(): int(label) for scan, label in zip(scans(16), labels, strict=True)}
    for task in DigitImages()[:200]:
        pixels = task.gold[0][0].pixels
        assert pixels.shape == (16, 16, 3) and (pixels[:, :, 0] == pixels[:, :, 2]).all()
        assert exact[pixels[:, :, 0].tobytes()] == task.target["label"]
        assert text_of(task.prompt) == f"a {DIGITS[task.target['label']]}" == task.info["caption"]
    assert scans(8)[0].astype(float) == pytest.approx(flat[0].reshape(8, 8) * 255 / 16, abs=0.51)


def test_first_tasks_are_balanced_and_parts_share_no_picture():
    train, test = DigitImages(), DigitImages().split("test")
    assert [task.target["label"] for task in train[:12]] == [*range(10), 0, 1]
    assert len(train) + len(test) == 1797
    seen = [{task.gold[0][0].pixels.tobytes() for task in tasks} for tasks in (train, test)]
    assert not seen[0] & seen[1]


def test_count_may_exceed_the_pictures():
    assert len(DigitImages(count=5000)) == 5000
    assert DigitImages(count=5000)[4999].target["label"] == 9


def test_fashion_is_read_from_the_users_files(folder):
    tasks = FashionMNIST(folder)
    found = {int(task.gold[0][0].pixels[0, 0, 0]): text_of(task.prompt) for task in tasks}
    assert found == {10: "a sneaker", 20: "an ankle boot"}
    (held_out,) = tasks.split("test")
    assert text_of(held_out.prompt) == "trousers" and held_out.target == {"label": 1}


def test_pictures_are_framed_or_averaged_to_the_side(folder):
    framed = replace(FashionMNIST(folder), side=32)[0].gold[0][0].pixels
    assert framed.shape == (32, 32, 3) and (framed[2:30, 2:30] > 0).all()
    assert framed[:2].sum() == framed[30:].sum() == framed[:, :2].sum() == 0
    averaged = replace(FashionMNIST(folder), side=16)[0].gold[0][0].pixels
    assert averaged.shape == (16, 16, 3) and len(np.unique(averaged)) == 1


def test_averaging_keeps_the_mean(folder):
    """28 to 14 pixels: each new pixel is the mean of four."""
    checks = np.indices((28, 28)).sum(0) % 2 * 200
    write(folder, "t10k-images-idx3-ubyte.gz", idx(checks[None].astype(np.uint8)))
    (task,) = replace(FashionMNIST(folder), side=14, part="test")
    assert (task.gold[0][0].pixels == 100).all()


def test_words_are_those_of_all_captions():
    known = set(words())
    assert {word for caption in CLOTHES for word in caption.split()} | {"a", *DIGITS} == known


def test_missing_files_are_named_with_their_folder(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} has no file train-images-idx3-ubyte\.gz; the Debian package"):
        len(FashionMNIST(tmp_path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\x08\x01\0\0\0\x02\x01", "announces 2 bytes, found 1"),
        (b"\0\0\x0d\x01\0\0\0\x01\x01", "is not an idx file"),
        (b"", "is not an idx file"),
        (idx(np.array([3, 12], dtype=np.uint8)), "2 pictures and 2 labels"),
        (idx(np.array([3], dtype=np.uint8)), "2 pictures and 1 labels"),
    ],
)
def test_damaged_files_are_named(folder, data, said):
    write(folder, "train-labels-idx1-ubyte.gz", data)
    with pytest.raises(DataError, match=said):
        len(FashionMNIST(folder))


def test_files_that_are_not_gzipped_are_named(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"\0\0\x08\x01")
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz cannot be read"):
        len(FashionMNIST(folder))


def test_environments_keep_their_contract(folder):
    check_environment(SingleTurn(DigitImages()))
    check_environment(SingleTurn(FashionMNIST(folder)))


@pytest.mark.parametrize("kind", [DigitImages, lambda **more: FashionMNIST("nowhere", **more)])
def test_bad_settings_are_named(kind):
    with pytest.raises(ConfigError, match=r"tasks\.side must be >= 8, got 7"):
        kind(side=7)
    with pytest.raises(ConfigError, match=r"tasks\.count must be >= 0, got -1"):
        kind(count=-1)
