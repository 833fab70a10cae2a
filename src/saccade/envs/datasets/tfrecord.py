"""Reading GZIP TFRecord files of ``tf.train.Example`` and other protocol buffers, without TensorFlow.

A record is its length (8 bytes, little-endian), the masked CRC-32C of the length, the bytes, and their masked CRC-32C.
The first sum is checked, so that a damaged length is found out before it is believed; the second is not, it would take
longer than everything else.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from saccade.core.errors import DataError

LARGEST = 2**30
"""Bytes of a record; longer ones are not read."""
Feature = list[bytes] | list[int] | list[float]


def records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), offset of the content in the uncompressed file, and content of each record.

    Raises:
        DataError: the file cannot be read as GZIP TFRecords.
    """
    try:
        with gzip.open(path, "rb") as file:
            number, offset = 1, 0
            while head := file.read(12):
                length = _length(head, path, number)
                content = file.read(length)
                if len(content) < length or len(file.read(4)) < 4:
                    raise DataError(f"{path}: row {number}: found the end of the file, expected {length} bytes")
                yield number, offset + 12, content
                offset += length + 16
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: found a file that cannot be read ({why}), expected GZIP TFRecords") from None


def write_records(path: Path, contents: Iterator[bytes]) -> None:
    """What ``records`` reads."""
    # No time in the header: equal records give equal files.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        for content in contents:
            length = struct.pack("<Q", len(content))
            file.write(length + struct.pack("<I", masked_crc(length)))
            file.write(content + struct.pack("<I", masked_crc(content)))


def slice_of(path: Path, offset: int, length: int) -> bytes:
    """Bytes of the uncompressed file. Cheap when offsets rise from call to call; going back means starting over."""
    try:
        state = path.stat()
        file = _opened(path, state.st_mtime_ns, state.st_size)
        file.seek(offset)
        return file.read(length)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: found a file that cannot be read ({error}), expected GZIP TFRecords") from None


@lru_cache(maxsize=1)
def _opened(path: Path, mtime: int, size: int) -> gzip.GzipFile:
    """A file that changes has another key."""
    return gzip.GzipFile(path, "rb")


def _length(head: bytes, path: Path, number: int) -> int:
    if len(head) < 12:
        raise DataError(f"{path}: row {number}: found {len(head)} bytes, expected a record's head of 12")
    (length,) = struct.unpack("<Q", head[:8])
    (crc,) = struct.unpack("<I", head[8:])
    if masked_crc(head[:8]) != crc or length > LARGEST:
        raise DataError(f"{path}: row {number}: length: found a wrong checksum, expected a TFRecord")
    return length


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    table, value = _table(), 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def masked_crc(content: bytes) -> int:
    """TFRecord's form of it: turned right by 15 bits, plus a constant."""
    value = crc32c(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --- protocol buffers -----------------------------------------------------------------------------------------------


def fields(content: memoryview | bytes) -> Iterator[tuple[int, int, int | memoryview, int]]:
    """Number, wire type, value and offset of the value of each field of a message.

    Values are ints (types 0, 1, 5) or views of bytes (type 2). Linear in the length.

    Raises:
        ValueError: the message is cut short or has a wire type that is not in use.
    """
    view, at = memoryview(content), 0
    while at < len(view):
        key, at = _varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            start = at
            value, at = _varint(view, at)
            yield number, wire, value, start
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, wire, int.from_bytes(_cut(view, at, size), "little"), at
            at += size
        elif wire == 2:
            size, at = _varint(view, at)
            yield number, wire, _cut(view, at, size), at
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _cut(view: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(view):
        raise ValueError("a field longer than its message")
    return view[at : at + size]


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("a number that is cut short")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def example(content: bytes) -> dict[str, tuple[Feature, list[int]]]:
    """Features of a ``tf.train.Example`` by name: their values and, of byte strings, the offsets in the content.

    Raises:
        ValueError: the content is no such message.
    """
    found: dict[str, tuple[Feature, list[int]]] = {}
    for number, wire, features, base in fields(content):
        if number != 1 or wire != 2 or isinstance(features, int):
            continue
        for _, entry_wire, entry, entry_at in fields(features):
            if entry_wire != 2 or isinstance(entry, int):
                raise ValueError("an entry that is no message")
            parts = {n: (value, at) for n, w, value, at in fields(entry) if w == 2 and not isinstance(value, int)}
            if 1 not in parts or 2 not in parts:
                raise ValueError("a feature without name or value")
            name = bytes(parts[1][0]).decode("utf-8")
            found[name] = _feature(parts[2][0], base + entry_at + parts[2][1])
    return found


def _feature(message: memoryview, base: int) -> tuple[Feature, list[int]]:
    for number, wire, values, at in fields(message):
        if wire != 2 or isinstance(values, int):
            continue
        if number == 1:
            listed = [(bytes(v), base + at + o) for n, w, v, o in fields(values) if n == 1 and not isinstance(v, int)]
            return [value for value, _ in listed], [offset for _, offset in listed]
        if number == 2:
            floats: list[float] = []
            for _, w, v, _ in fields(values):
                raw = v.to_bytes(4, "little") if w == 5 and isinstance(v, int) else bytes(v if w == 2 else b"")  # type: ignore[arg-type]
                floats += [x for (x,) in struct.iter_unpack("<f", raw)]
            return floats, []
        if number == 3:
            ints: list[int] = []
            for _, w, v, _ in fields(values):
                if w == 0 and isinstance(v, int):
                    ints.append(_signed(v))
                elif w == 2 and not isinstance(v, int):
                    ints += packed(v)
            return ints, []
    return [], []


def packed(view: memoryview) -> list[int]:
    """Numbers of a packed repeated field.

    Raises:
        ValueError: it is cut short.
    """
    found, at = [], 0
    while at < len(view):
        value, at = _varint(view, at)
        found.append(_signed(value))
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def message(*parts: tuple[int, int | bytes]) -> bytes:
    """A message of these fields: numbers as varints, bytes as they are."""
    found = b""
    for number, value in parts:
        if isinstance(value, int):
            found += _written(number << 3) + _written(value % 2**64)
        else:
            found += _written(number << 3 | 2) + _written(len(value)) + value
    return found


def _written(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def example_of(features: dict[str, list[bytes] | list[int]]) -> bytes:
    """A ``tf.train.Example`` of byte strings and integers."""
    entries = []
    for name, values in features.items():
        if any(isinstance(value, int) for value in values):
            numbers = b"".join(_written(value % 2**64) for value in values if isinstance(value, int))
            feature = message((3, message((1, numbers))))
        else:
            feature = message((1, message(*((1, value) for value in values))))
        entries.append((1, message((1, name.encode()), (2, feature))))
    return message((1, message(*entries)))
