"""All that ``report.json`` and ``report.html`` hold, gathered and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from saccade.cli.report.costs import measures
from saccade.cli.report.data import Plain, plain
from saccade.cli.report.files import RunFiles
from saccade.cli.report.galleries import gallery
from saccade.cli.report.one_run import one_run
from saccade.cli.report.several import overlaid_curves, overlaid_signals, seeds_of, side_by_side
from saccade.cli.report.state import learning_curves
from saccade.core.errors import ConfigError
from saccade.report.page import Gallery, write_page

VERSION = 1


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into ``out``; the page's path.

    Raises:
        CheckpointError: a folder holds no run.
        DataError: a file of a run is damaged.
    """
    if len(set(folders)) < len(folders):
        raise ConfigError("a run is named twice")
    runs = [RunFiles(folder) for folder in folders]
    report, galleries = gather(runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_page(out / "report.html", report, galleries)
    return out / "report.html"


def gather(runs: Sequence[RunFiles]) -> tuple[Plain, list[Gallery]]:
    """All that the page shows, as plain data, and the galleries."""
    names = _distinct([run.name for run in runs], [run.folder for run in runs])
    seeds = seeds_of(runs)
    each = [one_run(run, name, seeds) for run, name in zip(runs, names, strict=True)]
    several = len(runs) > 1
    compared = side_by_side(runs, each) if several else []
    report = {
        "version": VERSION,
        "title": " · ".join(dict.fromkeys(run.recipe_name for run in runs)) + (": runs side by side" * several),
        "runs": each,
        "compared": compared,
        "signals": overlaid_signals(runs, names) if several else [],
        "curves": overlaid_curves(runs, names, compared) if several else learning_curves(runs[0]),
        "measures": measures(runs, each),
    }
    shown = plain(report)
    return shown, [gallery(run, name, one) for run, name, one in zip(runs, names, shown["runs"], strict=True)]


def _distinct(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    told = [f"{n} ({f.resolve().name})" if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return [f"{n} ({f})" if told.count(n) > 1 else n for n, f in zip(told, folders, strict=True)]
