"""Writes docs/recipes.md and the table of methods in README.md from the recipes' docstrings and benchmarks/ablations.

    python docs/build_recipes.py

Nothing in these pages is typed by hand: a recipe or an ablation result that changes is picked up by the next run, and
tests/test_docs.py fails until it happened.
"""

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from saccade.cli.catalogue import shipped
from saccade.recipe import Entry
from saccade.report.ablations import PILLARS, load_results, number, paper_link

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- methods: written by docs/build_recipes.py -->", "<!-- end of methods -->"
INTRODUCTION = """# Recipes

Written by `python docs/build_recipes.py` from the recipes' own docstrings and the results in `benchmarks/ablations`.

A recipe is a complete method: `saccade show NAME` prints every setting, `saccade train NAME` trains it. The size `tiny`
runs on a CPU on procedural tasks; `base` names a real checkpoint, the paper's settings and the data it wants.

Every method says what its mechanism is, and its ablation switches that off and nothing else. `saccade ablate NAME`
trains both arms on the same seeds. *Holds* means that the mechanism improves the metric by more than two standard
errors (paired over seeds) and by more than the margin, *fails* that it makes it worse by more than two standard errors,
*inconclusive* everything between. These are results of tiny models on tiny tasks: they show whether the mechanism does
here what it is said to do, and are no benchmark of the method.
"""


def results() -> dict[str, dict[str, Any]]:
    """Committed ablation results by recipe."""
    return load_results(ROOT / "benchmarks" / "ablations")


def title(entry: Entry) -> str:
    """The docstring's first line without the paper and the full stop."""
    return re.sub(r" \(arXiv:[^)]*\)", "", entry.title).rstrip(".")


def anchor(entry: Entry) -> str:
    """Where the recipe stands in the page, as mkdocs and GitHub both spell it."""
    return f"#{entry.name}"


def effect(result: Mapping[str, Any] | None) -> str:
    """Verdict, difference and its standard error; what a table has room for."""
    if result is None:
        return "not run yet"
    return f"{result['verdict']}: {result['metric']} {result['difference']:+.3g} ± {result['stderr']:.2g}"


def table(link: str, found: Mapping[str, dict[str, Any]]) -> str:
    """One row a recipe; ``link`` is the page the rows point into."""
    rows = ["| recipe | paper | what it is | ablation |", "| --- | --- | --- | --- |"]
    for entry in shipped():
        name = f"[`{entry.name}`]({link}{anchor(entry)})"
        rows.append(f"| {name} | {paper_link(entry.paper)} | {title(entry)} | {result_of(entry, found)} |")
    return "\n".join(rows) + "\n"


def result_of(entry: Entry, found: Mapping[str, dict[str, Any]]) -> str:
    """The table's last column."""
    return effect(found.get(entry.name)) if entry.make("tiny").ablation is not None else "none"


def section(entry: Entry, result: Mapping[str, Any] | None) -> str:
    """All there is to say about one recipe."""
    source = Path(entry.make.__module__.replace(".", "/")).with_suffix(".py")
    said = {"Mechanism": entry.mechanism, "Without it": entry.without, "Differences from the paper": entry.differences}
    parts = [f"### {entry.name}", f"{title(entry)}. Paper: {paper_link(entry.paper)}. Source: `src/{source}`."]
    parts += [f"**{key}.** {text[0].upper()}{text[1:]}" for key, text in said.items()]
    ablation = entry.make("tiny").ablation
    if ablation is None:
        parts.append("**Ablation.** None.")
    elif result is None:
        parts.append(f"**Ablation.** Not run yet: `saccade ablate {entry.name}` (metric: {ablation.metric}).")
    else:
        parts += [outcome(result), *([f"Note: {result['note']}"] if result["note"] else [])]
    return "\n\n".join(parts) + "\n"


def outcome(result: Mapping[str, Any]) -> str:
    """The result of an ablation as a paragraph and a table of seeds."""
    better = "" if result["higher_is_better"] else " (less is better)"
    rows = ["| seed | with | without |", "| --- | --- | --- |"]
    for seed, with_it, without in zip(result["seeds"], result["with"], result["without"], strict=True):
        rows.append(f"| {seed} | {number(with_it)} | {number(without)} |")
    rows.append(f"| mean | {number(fmean(result['with']))} | {number(fmean(result['without']))} |")
    told = f"**Ablation.** {effect(result)}{better}, margin {result['margin']:g}; `{result['command']}`."
    return "\n".join([told, "", *rows])


def page() -> str:
    """docs/recipes.md."""
    found = results()
    parts = [INTRODUCTION, table("", found)]
    for pillar, entries in groupby(shipped(), key=lambda entry: entry.pillar):
        parts.append(f"## {PILLARS[pillar]}\n")
        parts += [section(entry, found.get(entry.name)) for entry in entries]
    return "\n".join(parts)


def readme(text: str) -> str:
    """README.md with its table of methods brought up to date."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table('docs/recipes.md', results())}{END}{after}"


def main() -> None:
    """Write both files."""
    (ROOT / "docs" / "recipes.md").write_text(page())
    home = ROOT / "README.md"
    home.write_text(readme(home.read_text()))


if __name__ == "__main__":
    main()
