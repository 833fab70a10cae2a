"""Held-out metrics before and after training, with the standard error of their paired difference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from saccade.core.metric import Estimate, Row, paired_difference


@dataclass(frozen=True)
class Change:
    """One metric before and after, on the same tasks."""

    name: str
    before: Estimate
    after: Estimate
    difference: Estimate | None
    """After minus before, paired by task; None where the metric has no value per task."""

    @property
    def z(self) -> float:
        """Difference in units of its standard error; NaN where that is unknown or 0."""
        if self.difference is None or not self.difference.stderr > 0:
            return math.nan
        return self.difference.value / self.difference.stderr


def compare(
    before: Mapping[str, Estimate],
    rows_before: Mapping[str, Sequence[Any]],
    after: Mapping[str, Estimate],
    rows_after: Mapping[str, Sequence[Any]],
) -> list[Change]:
    """Changes of all metrics that both evaluations have."""
    changes: list[Change] = []
    for name in [name for name in before if name in after]:
        old, new = rows_before[name], rows_after[name]
        per_task = all(isinstance(row, Row) for row in (*old, *new))
        difference = paired_difference(old, new) if per_task else None
        changes.append(Change(name, before[name], after[name], difference))
    return changes


def save_changes(path: Path, changes: Sequence[Change]) -> None:
    """Write ``comparison.json``; numbers that are not finite are null."""
    plain = {c.name: {key: _plain(value) for key, value in asdict(c).items() if key != "name"} for c in changes}
    path.write_text(json.dumps(plain, indent=1) + "\n")


def load_changes(path: Path) -> list[Change]:
    """What ``save_changes`` wrote; empty if there is no file."""
    if not path.exists():
        return []
    plain: dict[str, Any] = json.loads(path.read_text())
    return [
        Change(
            name,
            _estimate(entry["before"]),
            _estimate(entry["after"]),
            None if entry["difference"] is None else _estimate(entry["difference"]),
        )
        for name, entry in plain.items()
    ]


def change_table(changes: Sequence[Change]) -> Table:
    """For the terminal."""
    table = Table(
        "held-out metric", "before", "after", "difference", "z", box=None, pad_edge=False, header_style="bold"
    )
    for change in changes:
        table.add_row(change.name, *cells(change))
    return table


def cells(change: Change) -> tuple[str, str, str, str]:
    """Before, after, difference and z in words of a table."""
    difference = "" if change.difference is None else plus_minus(change.difference, sign=True)
    z = "" if math.isnan(change.z) else f"{change.z:+.1f}"
    return plus_minus(change.before), plus_minus(change.after), difference, z


def plus_minus(estimate: Estimate, *, sign: bool = False) -> str:
    """``0.6123 ± 0.0210``, both with the digits that the error leaves meaningful."""
    value, error = estimate.value, estimate.stderr
    if not math.isfinite(error):
        return f"{value:+.4g}" if sign else f"{value:.4g}"
    digits = max(0, min(6, 1 - math.floor(math.log10(error)))) if error > 0 else 4
    return f"{value:+.{digits}f} ± {error:.{digits}f}" if sign else f"{value:.{digits}f} ± {error:.{digits}f}"


def _plain(estimate: Mapping[str, float] | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {key: value if math.isfinite(value) else None for key, value in estimate.items()}


def _estimate(plain: Mapping[str, float | None]) -> Estimate:
    value, stderr, n = (math.nan if (found := plain[key]) is None else found for key in ("value", "stderr", "n"))
    return Estimate(value, stderr, int(n))
