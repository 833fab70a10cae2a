"""``gallery.html``: rollouts with pictures, boxes, clicks, films of episodes, tool turns and rewards.

It is one file that needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from saccade.core.errors import DataError
from saccade.report.cards import STYLE, Cards, Section
from saccade.report.comparison import Change, cells, load_changes
from saccade.report.curves import Plot, plots, svg
from saccade.report.grid import write_grid
from saccade.report.log import read_log

PROMINENT = 6
"""Plots shown at once; the others are folded away."""


def write_gallery(
    path: Path,
    sections: Sequence[Section],
    *,
    title: str,
    pictures: Path,
    subtitle: str = "",
    changes: Sequence[Change] = (),
    curves: Sequence[Plot] = (),
) -> None:
    """Write one self-contained page.

    Args:
        path: the file.
        sections: what to show, in order.
        title: heading.
        pictures: folder with the PNG files that the groups name.
        subtitle: one line below the heading.
        changes: metrics before and after.
        curves: learning curves; those beyond the first few are folded away.
    """
    page = Cards(pictures)
    body = [page.section(section) for section in sections]
    html = "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>",
            f'<p class="sub">{escape(subtitle)}</p>' if subtitle else "",
            page.definitions(),
            _changes(changes),
            _curves(curves),
            *body,
            "</main></body></html>",
        ]
    )
    path.write_bytes(html.encode("utf-8", "replace"))


def write_run_gallery(folder: Path, name: str) -> Path:
    """The gallery of a run's folder, from what its logs hold; its path. Policies that draw get ``grid.png`` besides."""
    rollouts = folder / "rollouts"
    held_out = {moment: read_groups(rollouts / f"{moment}.json") for moment in ("before", "after")}
    write_grid(folder / "grid.png", held_out, rollouts / "images")
    sections = [Section("Held-out tasks before and after", held_out)] if any(held_out.values()) else []
    for found in sorted(rollouts.glob("step-*.json")):
        step = int(found.stem.removeprefix("step-"))
        sections.append(Section(f"Training, step {step}", {"": read_groups(found)}))
    changes = load_changes(folder / "comparison.json")
    curves = plots(read_log(folder / "metrics.jsonl"))
    facts = _facts(folder / "environment.json")
    path = folder / "gallery.html"
    write_gallery(
        path, sections, title=name, pictures=rollouts / "images", subtitle=facts, changes=changes, curves=curves
    )
    return path


def read_groups(path: Path) -> list[dict[str, Any]]:
    """Groups as ``snapshot`` wrote them; none if there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _facts(path: Path) -> str:
    if not path.exists():
        return ""
    facts = json.loads(path.read_text())
    versions = " · ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    commit = facts.get("commit")
    return " · ".join(part for part in (versions, f"commit {commit}" if commit else "", facts.get("device")) if part)


def _changes(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    rows = "".join(
        f"<tr><th>{escape(c.name)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(c)) + "</tr>"
        for c in changes
    )
    return (
        '<section><h2>Held-out metrics</h2><table class="changes"><thead><tr><th></th><th>before</th><th>after</th>'
        f"<th>difference</th><th>z</th></tr></thead><tbody>{rows}</tbody></table>"
        '<p class="sub">± is one standard error over tasks; the difference is paired by task; z is the difference in '
        "standard errors.</p></section>"
    )


def _curves(curves: Sequence[Plot]) -> str:
    drawn = [_figure(plot, image) for plot in curves if (image := svg(plot))]
    if not drawn:
        return ""
    more = "".join(drawn[PROMINENT:])
    folded = f'<details><summary>All numbers</summary><div class="plots">{more}</div></details>' if more else ""
    return f'<section><h2>Learning curves</h2><div class="plots">{"".join(drawn[:PROMINENT])}</div>{folded}</section>'


def _figure(plot: Plot, image: str) -> str:
    keys = "".join(
        f'<span class="key s{i % 6}">{escape(s.name)}</span>' for i, s in enumerate(s for s in plot.series if s.values)
    )
    legend = f'<div class="keys">{keys}</div>' if len(plot.series) > 1 else ""
    return f"<figure><figcaption>{escape(plot.title)}</figcaption>{legend}{image}</figure>"
