"""``docs/ablations.md``: every method, what its mechanism is, and what its ablation found, from the committed JSON."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.core.errors import DataError
from saccade.core.metric import Estimate, Row, clustered_mean
from saccade.report.comparison import plus_minus

PILLARS = {
    "vlm": "Models that see",
    "generation": "Models that draw",
    "unified": "Models that see and draw",
    "vla": "Models that act",
}
VERDICTS = ("holds", "inconclusive", "fails", "not run")
LEAST, MOST = 60, 320
"""Characters of a mechanism in one line: sentences are taken until there are so many, and cut at so many."""
KEYS = (
    "method", "pillar", "paper", "mechanism", "metric", "higher_is_better", "seeds", "with", "without", "difference",
    "stderr", "margin", "verdict", "command", "commit",
)  # fmt: skip
INTRODUCTION = """# Ablations

Written by `saccade ablations` from `benchmarks/ablations/*.json`; `saccade ablations --check` fails when they disagree.

`saccade ablate NAME` trains a method with and without its mechanism on the same seeds, tasks and budgets and writes one
of those files. *With* and *without* are means over seeds ± their standard error. The *difference* is what the mechanism
gains, paired by seed: positive is better, also where less of the metric is better (marked ↓). A mechanism *holds* if it
gains more than two standard errors and more than its margin, *fails* if it loses more than two standard errors, and is
*inconclusive* otherwise. Tiny models on tiny tasks: whether the mechanism does here what it is said to do, and no
benchmark of the method. What is switched off, every seed and the notes are in [recipes](recipes.md).
"""
HEAD = (
    "method", "paper", "mechanism", "metric", "with", "without", "difference", "seeds", "verdict", "command", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """What the catalogue says of a recipe."""

    name: str
    pillar: str
    paper: str
    mechanism: str
    metric: str | None
    """What its ablation measures; None if it has no ablation."""


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of ablations by method.

    Raises:
        DataError: a file is no result; it names the file and what is wrong.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}") from None
        missing = [key for key in KEYS if not isinstance(result, dict) or key not in result]
        if missing:
            raise DataError(f"{path} is no result of an ablation: it has no {missing[0]!r}")
        if result["method"] in found:
            raise DataError(f"{path}: there is another result of {result['method']}")
        found[result["method"]] = result
    return found


def paper_link(paper: str) -> str:
    """The paper, linked where it is on arXiv."""
    known = paper.replace(".", "").isdigit()
    return f"[{paper}](https://arxiv.org/abs/{paper})" if known else paper


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def one_line(text: str) -> str:
    """The first sentences of a paragraph, as few as say something."""
    said = ""
    for sentence in re.split(r"(?<=\.)\s+", " ".join(text.split())):
        said = f"{said} {sentence}".strip()
        if len(said) >= LEAST:
            break
    if len(said) > MOST:
        said = said[:MOST].rpartition(" ")[0] + " …"
        if said.count("`") % 2:
            said += "`"
    return said.rstrip(".;")


def page(methods: Sequence[Method], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page: a count of verdicts, then a table for each pillar.

    Methods without a result are listed as not run, results of methods that the catalogue does not have as such.
    """
    known = {method.name for method in methods}
    orphans = [result for name, result in sorted(results.items()) if name not in known]
    parts = [INTRODUCTION, _counts(methods, results)]
    for pillar, heading in PILLARS.items():
        rows = [_row(method, results.get(method.name)) for method in methods if method.pillar == pillar]
        rows += [_orphan(result) for result in orphans if result["pillar"] == pillar]
        if rows:
            parts.append(f"## {heading}\n\n{_table(HEAD, rows)}")
    return "\n".join(parts)


def _counts(methods: Sequence[Method], results: Mapping[str, Mapping[str, Any]]) -> str:
    """How many methods of each pillar hold, fail, are inconclusive, were not run."""
    rows: list[list[str]] = []
    for pillar, heading in PILLARS.items():
        chosen = [method for method in methods if method.pillar == pillar and method.metric is not None]
        if chosen:
            count = Counter(results[m.name]["verdict"] if m.name in results else "not run" for m in chosen)
            rows.append([heading, *(str(count[verdict]) for verdict in VERDICTS)])
    return _table(("pillar", *VERDICTS), rows)


def _row(method: Method, result: Mapping[str, Any] | None) -> list[str]:
    name = f"[`{method.name}`](recipes.md#{method.name})"
    start = [name, paper_link(method.paper), one_line(method.mechanism if result is None else result["mechanism"])]
    if method.metric is None:
        return [*start, "no ablation", "", "", "", "", "", "", ""]
    if result is None:
        command = f"`saccade ablate {method.name}`"
        return [*start, method.metric, "", "", "", "", "not run", command, ""]
    return [*start, *_numbers(result)]


def _orphan(result: Mapping[str, Any]) -> list[str]:
    name = f"`{result['method']}` (not in the catalogue)"
    return [name, paper_link(result["paper"]), one_line(result["mechanism"]), *_numbers(result)]


def _numbers(result: Mapping[str, Any]) -> list[str]:
    difference = Estimate(result["difference"], result["stderr"], len(result["seeds"]))
    told = plus_minus(difference, sign=True)
    return [
        result["metric"] + ("" if result["higher_is_better"] else " ↓"),
        _mean(result["with"]),
        _mean(result["without"]),
        told if math.isfinite(difference.stderr) else f"{told} (one seed, no error)",
        ", ".join(str(seed) for seed in result["seeds"]),
        _verdict(result, difference),
        f"`{result['command']}`",
        f"`{result['commit']}`" if result["commit"] else "not recorded",
    ]


def _verdict(result: Mapping[str, Any], difference: Estimate) -> str:
    """The verdict; with the margin where nothing else is in the way of one."""
    if result["verdict"] != "inconclusive":
        return f"**{result['verdict']}**"
    short = 2 * difference.stderr < difference.value <= result["margin"]
    return f"inconclusive (margin {result['margin']:g})" if short else "inconclusive"


def _mean(values: Sequence[float]) -> str:
    """Mean over seeds ± its standard error."""
    return plus_minus(clustered_mean([Row(str(seed), value) for seed, value in enumerate(values)]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
