"""Rows of .jsonl, .json, .parquet, .csv and .tsv files, each with its number, which errors name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from saccade.core.errors import DataError
from saccade.envs.datasets.media import short


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers: lines of .jsonl (blank ones are skipped), entries of .json, rows of tables; from 1.

    Every field of .csv and .tsv is text; the line with the names is not counted.

    Raises:
        DataError: the file cannot be read as what its name says.
    """
    yield from (READERS | TABLES)[path.suffix](path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found bytes that are no text at offset {error.start}, expected UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: found a file that cannot be read ({error.strerror}), expected JSON") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        DataError: there is no such file, or something else is in it.
    """
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found bad JSON ({error}), expected an object") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: found {short(found)}, expected an object")
    return found


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines: it also breaks at characters that JSON allows within a string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                columns = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: row {number}: found bad JSON ({error}), expected one JSON object") from None
            yield number, columns


def _list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found bad JSON ({error}), expected a list of rows") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: found {short(rows)}, expected a list of rows")
    yield from enumerate(rows, start=1)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: parquet files need pyarrow; install saccade[vlm]") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: found a file that cannot be read ({why}), expected parquet data") from None
    yield from enumerate(rows, start=1)


def _separated(path: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    # A picture in base64 is one field.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = next(lines, [])
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{path}: found the column {short(twice)} twice, expected each once")
            for number, values in enumerate((line for line in lines if line), start=1):
                if len(values) != len(names):
                    raise DataError(f"{path}: row {number}: found {len(values)} fields, expected {len(names)}")
                yield number, dict(zip(names, values, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: row {number + 1}: found bytes that are no text ({error}), expected UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1}: found a bad line ({error}), expected separated fields") from None
    except OSError as error:
        raise DataError(f"{path}: found a file that cannot be read ({error.strerror}), expected a table") from None


READERS = {".jsonl": _lines, ".json": _list, ".parquet": _parquet}
"""What users' own data may be written in."""
TABLES = {".csv": partial(_separated, separator=","), ".tsv": partial(_separated, separator="\t")}
"""What some benchmarks are written in."""
_LONGEST_FIELD = 2**28
"""Characters."""
