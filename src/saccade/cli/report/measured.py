"""A held-out metric of a run: its values before and after training, their paired test, and pass@k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from saccade.cli.report.data import Plain
from saccade.core.errors import ConfigError
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.evaluate.result import HELD_OUT
from saccade.evaluate.statistics import PairedTest, paired_test

MOST_K = 16
"""Largest k of pass@k; powers of two and the number of rollouts per task are shown."""


@dataclass
class Measured:
    """One held-out metric of one run, from whichever file has it."""

    name: str
    suite: str
    tier: str
    after: Estimate | None
    before: Estimate | None = None
    difference: Estimate | None = None
    rows_before: Sequence[Row] = ()
    rows_after: Sequence[Row] = ()
    categories: Sequence[Plain] = ()
    identity: Mapping[str, Any] | None = None
    p: float | None = None
    method: str = ""
    tasks: Plain | None = None
    missing: list[str] = field(default_factory=list)

    def complete(self, other: Measured) -> None:
        """Take the start from another file where this one has the same end and no start."""
        if self.before is None and other.before is not None and self.after == other.after:
            self.before, self.difference, self.p, self.method = other.before, other.difference, other.p, other.method
            self.missing = []

    def test(self) -> None:
        """Pair the rows by task, where both moments have some."""
        if not (self.rows_before and self.rows_after):
            return
        try:
            found = paired_test(self.rows_before, self.rows_after)
        except ConfigError as error:
            self.missing.append(f"no paired test: {error}")
            return
        self.difference = found.difference
        self.p, self.method = _p_value(found)
        self.tasks = _discordant(found)

    def plain(self, adjusted: float | None) -> Plain:
        empty = self.after is not None and self.after.n == 0
        reasons = [*self.missing, "no rollout has a value"] if empty else self.missing
        known = self.p is not None and not math.isnan(self.p)
        return {
            "name": self.name,
            "suite": "" if self.suite == HELD_OUT else self.suite,
            "tier": self.tier,
            "before": None if self.before is None else asdict(self.before),
            "after": None if self.after is None else asdict(self.after),
            "difference": None if self.difference is None else asdict(self.difference),
            "test": {"p": self.p, "p_holm": adjusted, "method": self.method} if known else None,
            "tasks": self.tasks,
            "categories": list(self.categories),
            "identity": self.identity,
            "missing": reasons,
        }


def _p_value(found: PairedTest) -> tuple[float, str]:
    """The p-value of the test that assumes no distribution, and what the others say."""
    others = f"paired t: {found.p_t:.2g}"
    if found.p_mcnemar is not None:
        others += f", McNemar: {found.p_mcnemar:.2g}"
    return found.p_permutation, f"random signs over {found.difference.n} tasks ({others})"


def _discordant(found: PairedTest) -> Plain:
    up = sum(one.after > one.before for one in found.discordant)
    listed = [asdict(one) for one in found.discordant]
    return {
        "up": up, "down": len(listed) - up, "same": found.difference.n - len(listed), "discordant": listed,
    }  # fmt: skip


def pass_at_k(measured: Measured) -> list[Measured]:
    """``1 - C(n - c, k) / C(n, k)`` for metrics that are 0 or 1 and have several rollouts of each task."""
    size = _rollouts_per_task(measured.rows_after)
    if size < 2 or measured.tier != "sample" or any(row.value not in (0.0, 1.0) for row in measured.rows_after):
        return []
    ks = sorted({2**i for i in range(1, 9) if 2**i <= min(size, MOST_K)} | ({size} if size <= MOST_K else set()))
    found: list[Measured] = []
    for k in ks:
        old, new = (_passed(rows, k) for rows in (measured.rows_before, measured.rows_after))
        found.append(
            Measured(
                f"{measured.name} pass@{k}", measured.suite, "sample", clustered_mean(new),
                clustered_mean(old) if old else None, rows_before=old, rows_after=new,
            )
        )  # fmt: skip
    return found


def _rollouts_per_task(rows: Sequence[Row]) -> int:
    """The least number of rows that a task has."""
    count: dict[str, int] = {}
    for row in rows:
        count[row.task] = count.get(row.task, 0) + 1
    return min(count.values(), default=0)


def _passed(rows: Sequence[Row], k: int) -> list[Row]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.task, []).append(row.value)
    return [
        Row(task, 1 - math.comb(len(v) - round(math.fsum(v)), k) / math.comb(len(v), k))
        for task, v in values.items()
        if len(v) >= k
    ]
