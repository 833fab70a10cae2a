"""``report.html``: what a run was, what it gave and what to think of it, as one file that loads nothing.

``render`` turns plain data, the same that ``report.json`` holds, into a page; it computes no number of its own. The
data are those of ``saccade.cli.report``:

==============  ======================================================================================================
``title``       heading
``runs``        per run: ``name``, ``facts``, ``notes``, ``command``, ``verdicts``, ``tiers``, ``missing``, ``phases``
``compared``    for several runs: every metric with a cell per run, and why cells do not stand on one line
``signals``     for several runs: state-level curves, one line a run
``curves``      learning curves
``measures``    throughput, energy and cost, one cell per run
==============  ======================================================================================================

A number that is not known is not left out: it is ``{"missing": why}``, and the page says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from saccade.core.metric import Estimate
from saccade.report.cards import STYLE as CARD_STYLE
from saccade.report.cards import Cards, legend, marks_of
from saccade.report.comparison import plus_minus
from saccade.report.curves import Plot, Series, spark, svg

LARGEST = 12_000_000
"""Bytes of pictures and cards in a page; galleries stop before, and say what they leave out."""
FILMED_CARDS = 3
"""Cards of one part of a gallery whose episodes are filmed."""
MOST_TASKS = 12
"""Tasks that differ which are listed for a metric."""
MOST_ROWS = 40
"""Rows of a table of evidence."""
TIERS = {
    "set": ("Set level", "how good the outputs are as a set: distances to references, diversity"),
    "sample": ("Sample level", "what each output is worth, averaged over held-out tasks"),
    "state": ("State level", "what training did to the policy"),
}
VERDICTS = ("fail", "warn", "unknown", "pass")
"""From the worst to the best."""

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of a run's gallery: tasks with their rollouts at one or several moments."""

    title: str
    told: str
    """One line on how they were chosen."""
    tasks: Sequence[Mapping[str, Plain]]
    """Per task: name of the moment -> group as ``snapshot`` wrote it."""


@dataclass(frozen=True)
class Gallery:
    run: str
    pictures: Path
    """Folder with the PNG files that the groups name."""
    parts: Sequence[Part]
    witnesses: Mapping[str, Sequence[Mapping[str, Plain]]] = field(default_factory=dict)
    """By the name of a finding: rollouts that show it, as a part's tasks."""
    missing: str = ""
    """Why there are none."""


def render(report: Plain, galleries: Sequence[Gallery] = ()) -> str:
    """The whole page.

    Args:
        report: plain data, see above.
        galleries: one a run, or none.

    Raises:
        DataError: a picture that a gallery names is missing.
    """
    runs: list[Plain] = list(report["runs"])
    several = len(runs) > 1
    title = escape(report["title"])
    shown = [*galleries, *([None] * (len(runs) - len(galleries)))]
    cards = [None if gallery is None else Cards(gallery.pictures) for gallery in shown]
    verdicts = "".join(
        _verdicts(run, several, gallery, store) for run, gallery, store in zip(runs, shown, cards, strict=True)
    )
    identities = "".join(_identity(run, several) for run in runs)
    body = [
        f'<header><h1>{title}</h1><div class="side n{len(runs)}">{identities}</div></header>',
        _section("Verdicts", f'<div class="side n{len(runs)}">{verdicts}</div>'),
        _compared(report, runs) if several else _section("Three levels", _tiers(runs[0])),
        _curves(report["curves"]),
        _measures(report["measures"], runs),
        *(
            _gallery(gallery, store, LARGEST // len(galleries), several)
            for gallery, store in zip(shown, cards, strict=True)
            if gallery is not None and store is not None
        ),
        '<p class="sub">Every number of this page is in <code>report.json</code>.</p>',
    ]
    return "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<style>{CARD_STYLE}{_STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>",
        ]
    )


def write_page(path: Path, report: Plain, galleries: Sequence[Gallery] = ()) -> None:
    """Write the page as one file."""
    path.write_bytes(render(report, galleries).encode("utf-8", "replace"))


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


# --- what was run ---------------------------------------------------------------------------------------------------


def _identity(run: Plain, several: bool) -> str:
    heading = f'<h3 class="run">{escape(run["name"])}</h3>' if several else ""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{_value(value)}</dd>" for name, value in run["facts"].items())
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run["notes"])
    return (
        f'<div class="panel identity">{heading}{notes}'
        f'<pre class="command">{escape(run["command"])}</pre><dl class="facts">{facts}</dl></div>'
    )


def _value(value: Any) -> str:
    """A number, a text, or why there is none."""
    if isinstance(value, Mapping) and "missing" in value:
        return _missing(str(value["missing"]))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return _number(value) if isinstance(value, int | float) else escape(str(value))


def _missing(text: str) -> str:
    """Why something is not there; commands stand between backticks."""
    words = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
    return f'<p class="missing">{words}</p>'


def _number(value: float) -> str:
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e9):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.4g}"


# --- verdicts -------------------------------------------------------------------------------------------------------


def _verdicts(run: Plain, several: bool, gallery: Gallery | None, cards: Cards | None) -> str:
    found, missing = run["verdicts"]["findings"], run["verdicts"]["missing"]
    heading = f'<h3 class="run">{escape(run["name"])}</h3>' if several else ""
    if missing:
        return f'<div class="panel">{heading}{_missing(missing)}</div>'
    count = {verdict: sum(f["verdict"] == verdict for f in found) for verdict in VERDICTS}
    worst = next((verdict for verdict in ("fail", "warn", "pass") if count[verdict]), "unknown")
    told = " · ".join(f'<b class="{verdict}">{count[verdict]} {verdict}</b>' for verdict in VERDICTS if count[verdict])
    items = ""
    for finding in sorted(found, key=lambda f: VERDICTS.index(f["verdict"])):
        seen = gallery.witnesses.get(finding["name"], ()) if gallery is not None else ()
        items += _finding(finding, "".join(cards.card(one, 0) for one in seen) if cards is not None else "")
    return f'<div class="panel box {worst}">{heading}<p class="count">{told}</p>{items}</div>'


def _finding(finding: Plain, witnesses: str) -> str:
    verdict = escape(finding["verdict"])
    evidence = _evidence(finding["evidence"]) if finding["evidence"] else _missing("no numbers")
    return (
        f'<details class="finding"><summary><span class="badge {verdict}">{verdict}</span> '
        f'<b>{escape(_words(finding["name"]))}</b> <span class="told">{escape(finding["summary"])}</span></summary>'
        f'<div class="evidence">{evidence}</div>{witnesses}</details>'
    )


def _words(name: str) -> str:
    """A class name as words: ``KLBlowUp`` is "KL blow up"."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", name) if name.isidentifier() else [name]
    return " ".join(word if word.isupper() else word.lower() for word in words)


def _evidence(numbers: Sequence[Plain]) -> str:
    rows = "".join(
        f"<tr><th>{escape(one['number'])}</th><td>{_value(one['value'])}</td></tr>" for one in numbers[:MOST_ROWS]
    )
    more = f'<p class="sub">and {len(numbers) - MOST_ROWS} more, in report.json</p>' * (len(numbers) > MOST_ROWS)
    return f'<div class="wide"><table class="plain">{rows}</table></div>{more}'


# --- the three levels -----------------------------------------------------------------------------------------------


def _tiers(run: Plain) -> str:
    columns = []
    for tier, (heading, told) in TIERS.items():
        blocks = "".join((_signal if "plot" in one else _metric)(one) for one in run["tiers"][tier])
        missing = "".join(map(_missing, run["missing"][tier]))
        columns.append(
            f'<div class="panel tier"><h3 class="run">{heading}</h3><p class="sub">{told}</p>{blocks}{missing}</div>'
        )
    narrow = "" if run["tiers"]["set"] else " noset"
    return f'<div class="tiers{narrow}">{"".join(columns)}</div>'


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _estimate(plain: Plain) -> Estimate:
    return Estimate(_nan(plain["value"]), _nan(plain["stderr"]), plain["n"])


def _told(plain: Plain | None, *, sign: bool = False) -> str:
    if plain is None or plain["value"] is None:
        return "–"
    return plus_minus(_estimate(plain), sign=sign)


def _metric(metric: Plain) -> str:
    """A block: before and after, the paired difference, who changed, categories, what the number is of."""
    before, after = metric["before"], metric["after"]
    values = f'<div class="value">{_told(after)}</div>'
    if before is not None:
        values = f'<div class="value"><span class="from">{_told(before)} →</span> {_told(after)}</div>'
    parts = [values, _difference(metric), _identity_of(metric), _tasks(metric), _categories(metric)]
    parts += map(_missing, metric["missing"])
    heading = f'<h4>{escape(metric["name"])}<span class="n">{_size(metric)}</span></h4>'
    suite = f'<p class="notes">{escape(metric["suite"])}</p>' if metric["suite"] else ""
    return f'<div class="metric">{heading}{suite}{"".join(parts)}</div>'


def _size(metric: Plain) -> str:
    counts = list(dict.fromkeys(one["n"] for one in (metric["before"], metric["after"]) if one is not None))
    return f"N {' → '.join(map(_number, counts))}"


def _difference(metric: Plain) -> str:
    difference, test = metric["difference"], metric["test"]
    if difference is None or difference["value"] is None:
        return ""
    p = ""
    if test is not None:
        holm = "" if test["p_holm"] is None else f", Holm {_p(test['p_holm'])}"
        p = f' <span class="p" title="{escape(test["method"], quote=True)}">p {_p(test["p"])}{holm}</span>'
    low = test is not None and test["p_holm"] is not None and test["p_holm"] < 0.05
    return f'<div class="difference{" clear" if low else ""}">Δ {_told(difference, sign=True)}{p}</div>'


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "&lt; 0.0001" if value < 1e-4 else f"{value:.2g}"


def _identity_of(metric: Plain) -> str:
    identity = metric["identity"]
    if not identity:
        return ""
    told = " · ".join(f"{escape(str(key).replace('_', ' '))} {_value(value)}" for key, value in identity.items())
    return f'<p class="notes">{told}</p>'


def _tasks(metric: Plain) -> str:
    tasks = metric["tasks"]
    if tasks is None:
        return ""
    told = f"{tasks['up']} tasks higher, {tasks['down']} lower, {tasks['same']} the same"
    if not tasks["discordant"]:
        return f'<p class="notes">{told}</p>'
    rows = "".join(
        f"<tr><td>{escape(one['task'])}</td><td>{_number(one['before'])}</td><td>{_number(one['after'])}</td></tr>"
        for one in tasks["discordant"][:MOST_TASKS]
    )
    left = max(0, len(tasks["discordant"]) - MOST_TASKS)
    more = f'<p class="sub">and {left} more, in report.json</p>' if left else ""
    return (
        f'<details class="more"><summary>{told}</summary><div class="wide"><table class="plain"><thead><tr>'
        f"<th>task</th><th>before</th><th>after</th></tr></thead>{rows}</table></div>{more}</details>"
    )


def _categories(metric: Plain) -> str:
    if not metric["categories"]:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['category'])}</td><td>{_told(one['before'])}</td><td>{_told(one['after'])}</td>"
        f"<td>{_number(one['after']['n'])}</td></tr>"
        for one in metric["categories"]
    )
    return (
        f'<details class="more"><summary>{len(metric["categories"])} categories</summary><div class="wide">'
        '<table class="plain"><thead><tr><th>category</th><th>before</th><th>after</th><th>N</th></tr></thead>'
        f"{rows}</table></div></details>"
    )


def _signal(signal: Plain) -> str:
    """A line a number: a small curve with the start marked, where it began and where it ended; more on a click."""
    several = len(signal["values"]) > 1
    rows = "".join(
        f"<tr>{_short_name(one['name']) if several else ''}<td>{spark(one['curve'], one['start'])}</td>"
        f"<td>{_value(one['start'])} → <b>{_value(one['final'])}</b></td></tr>"
        for one in signal["values"]
    )
    return (
        f'<details class="signal"><summary><b>{escape(signal["name"])}</b><table class="ends">{rows}</table></summary>'
        f'<p class="notes">{escape(signal["told"])}</p>{_keys(signal["plot"])}{svg(_plot(signal["plot"]))}</details>'
    )


def _short_name(key: str) -> str:
    words = key.rpartition("/")[2].replace("_", " ")
    return f'<td class="name" title="{escape(key, quote=True)}">{escape(words)}</td>'


def _plot(plain: Plain) -> Plot:
    series = [Series(s["name"], s["steps"], s["values"], s["errors"]) for s in plain["series"]]
    return Plot(plain["title"], series, plain["start"])


def _keys(plot: Plain) -> str:
    names = (s["name"] for s in plot["series"] if s["values"])
    return f'<div class="keys">{"".join(_key(i, name) for i, name in enumerate(names))}</div>'


def _key(i: int, name: str) -> str:
    return f'<span class="key s{i % 6}">{escape(name)}</span>'


# --- several runs ---------------------------------------------------------------------------------------------------


def _compared(report: Plain, runs: Sequence[Plain]) -> str:
    """The levels of several runs: one table with a column a run, then each run's own."""
    head = "".join(f"<th>{escape(run['name'])}</th>" for run in runs)
    averaged = any(row["seeds"] is not None for row in report["compared"])
    head += "<th>over seeds</th>" if averaged else ""
    body: list[str] = []
    for tier, (heading, _) in TIERS.items():
        rows = [row for row in report["compared"] if row["tier"] == tier]
        if rows:
            span = len(runs) + 1 + averaged
            body.append(f'<tr class="tierhead"><th colspan="{span}">{heading}</th></tr>')
            body += [_compared_row(row, averaged) for row in rows]
    table = (
        f'<div class="wide"><table class="compared"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    told = (
        '<p class="sub">Values after training ± one standard error over tasks. Values that were not taken in the same '
        "way do not stand on one line.</p>"
    )
    plots = "".join(_figure(plot) for plot in report["signals"])
    state = (
        f'<details class="more"><summary>State level over training</summary><div class="plots">{plots}</div></details>'
    )
    own = "".join(
        f'<details class="more"><summary>{escape(run["name"])}: all three levels</summary>{_tiers(run)}</details>'
        for run in runs
    )
    return _section("Side by side", told + table + state + own)


def _compared_row(row: Plain, averaged: bool) -> str:
    name = f"<th>{escape(row['metric'])}</th>"
    mean = f"<td>{_told(row['seeds'])}</td>" if averaged else ""
    if not row["why"]:
        return f"<tr>{name}{''.join(f'<td>{_cell(cell)}</td>' for cell in row['cells'])}{mean}</tr>"
    told = _missing(f"not comparable: {row['why']}")
    apart = "".join(
        f'<tr class="apart"><th></th>{"<td></td>" * i}<td>{_cell(cell)}</td>'
        f"{'<td></td>' * (len(row['cells']) - i - 1 + averaged)}</tr>"
        for i, cell in enumerate(row["cells"])
        if "missing" not in cell
    )
    return f'<tr>{name}<td colspan="{len(row["cells"]) + averaged}">{told}</td></tr>{apart}'


def _cell(cell: Plain) -> str:
    if "missing" in cell:
        return _value(cell)
    return _value(cell["value"]) if "n" not in cell else f'{_told(cell)} <span class="n">N {_number(cell["n"])}</span>'


# --- curves, throughput, energy ---------------------------------------------------------------------------------------


def _curves(curves: Sequence[Plain]) -> str:
    drawn = "".join(map(_figure, curves))
    if not drawn:
        return _section("Learning curves", _missing("metrics.jsonl has no complete line"))
    told = '<p class="sub">Bars are one standard error over held-out tasks; faint lines are single steps.</p>'
    return _section("Learning curves", f'{told}<div class="plots">{drawn}</div>')


def _figure(plain: Plain) -> str:
    image = svg(_plot(plain))
    if not image:
        return ""
    keys = _keys(plain) if len(plain["series"]) > 1 else ""
    return f"<figure><figcaption>{escape(plain['title'])}</figcaption>{keys}{image}</figure>"


def _measures(measures: Sequence[Plain], runs: Sequence[Plain]) -> str:
    several = len(runs) > 1
    head = "".join(f"<th>{escape(run['name'])}</th>" for run in runs)
    head = f"<thead><tr><th></th>{head}</tr></thead>" if several else ""
    rows, absent = "", {}
    for row in measures:
        why = {cell.get("missing") for cell in row["cells"]}
        if len(why) == 1 and None not in why:
            absent.setdefault(str(why.pop()), []).append(row["name"])
            continue
        cells = "".join(_measure(cell, row["unit"]) for cell in row["cells"])
        rows += f'<tr><th>{escape(row["name"])}<span class="sub">{escape(row["told"])}</span></th>{cells}</tr>'
    bars = "".join(_phases(run, several) for run in runs)
    table = f'<div class="wide"><table class="measures">{head}<tbody>{rows}</tbody></table></div>' if rows else ""
    notes = "".join(_missing(f"{', '.join(names)}: {why}") for why, names in absent.items())
    return _section("Throughput, energy and cost", f"{bars}{table}{notes}")


def _measure(cell: Plain, unit: str) -> str:
    if "missing" in cell:
        return f"<td>{_value(cell)}</td>"
    note = f'<span class="sub">{escape(cell["note"])}</span>' if cell["note"] else ""
    return f"<td><b>{_value(cell['value'])}</b> {escape(unit)}{note}</td>"


def _phases(run: Plain, several: bool) -> str:
    """A bar of where the time went."""
    phases = run["phases"]
    name = f"{run['name']}: " if several else ""
    if not phases:
        return _missing(f"{name}no times: timing.jsonl is missing or has no complete line")
    total = math.fsum(phases.values())
    parts = "".join(
        f'<span class="part s{i % 6}" style="flex-grow:{100 * seconds / total:.3f}"></span>'
        for i, seconds in enumerate(phases.values())
    )
    keys = "".join(
        _key(i, f"{phase} {seconds:.3g} s ({seconds / total:.0%})") for i, (phase, seconds) in enumerate(phases.items())
    )
    return f'<div class="phases"><div class="keys">{escape(name)}{keys}</div><div class="bar">{parts}</div></div>'


# --- galleries --------------------------------------------------------------------------------------------------------


def _gallery(gallery: Gallery, cards: Cards, most: int, several: bool) -> str:
    name = f" of {gallery.run}" if several else ""
    if gallery.missing:
        return _section(f"Rollouts{name}", _missing(gallery.missing)) + cards.definitions()
    shown: dict[str, str] = {}
    written, body = 0, []
    for part in gallery.parts:
        made: list[str] = []
        above: list[str] = []
        left = 0
        for k, moments in enumerate(part.tasks):
            task = next(iter(moments.values()))["task"]
            if task in shown:
                above.append(f"{task} ({shown[task]})")
                continue
            if written + cards.size > most:
                left += 1
                continue
            made.append(cards.card(moments, int(k < FILMED_CARDS)))
            written += len(made[-1])
            shown[task] = part.title.lower()
        notes = f'<p class="sub">Also here, shown above: {escape(", ".join(above))}</p>' if above else ""
        notes += f'<p class="sub">{left} more would make this page too large; see gallery.html.</p>' if left else ""
        body.append(
            f'<h3 class="part">{escape(part.title)}</h3><p class="sub">{escape(part.told)}</p>{"".join(made)}{notes}'
        )
    groups = [group for part in gallery.parts for moments in part.tasks for group in moments.values()]
    colours = legend(marks_of(groups)) if any(map(_drawn_over, groups)) else ""
    return _section(f"Rollouts{name}", colours + "".join(body) + cards.definitions())


def _drawn_over(group: Plain) -> bool:
    """Whether boxes or crosses stand over a group's pictures."""
    turns = [turn for rollout in group["rollouts"] for turn in rollout["turns"]]
    return bool(group["boxes"]) or any(turn["boxes"] or turn.get("mark") for turn in turns)


_STYLE = """
:root{--pass:#12994a;--warn:#c77700;--fail:#d1323c;--unknown:#7b818b}
@media(prefers-color-scheme:dark){:root{--pass:#3ecf7a;--warn:#ffb454;--fail:#ff6b74;--unknown:#989da6}}
header h1{margin-bottom:14px}
.panel{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;min-width:0}
.side{display:grid;gap:14px}.side.n2{grid-template-columns:repeat(2,minmax(0,1fr))}
.side:not(.n1):not(.n2){grid-template-columns:repeat(auto-fit,minmax(260px,1fr))}
h3.run{font:600 15px/1.35 system-ui,sans-serif;color:var(--ink);margin:0 0 4px;overflow-wrap:anywhere}
h3.part{font:600 15px/1.35 system-ui,sans-serif;color:var(--ink);margin:26px 0 0}
.note{margin:4px 0;padding:4px 9px;border-left:3px solid var(--warn);background:var(--code);font-size:13px}
.missing{color:var(--soft);font-size:12.5px;font-style:italic;margin:6px 0;overflow-wrap:anywhere}
td .missing,dd .missing{margin:0}.missing code{font-style:normal}
.command{margin:8px 0;font-size:12.5px}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 14px;font-size:13px;margin:6px 0 0}
.facts dd{margin:0;overflow-wrap:anywhere}
.box{border-left:4px solid var(--unknown)}.box.pass{border-left-color:var(--pass)}
.box.warn{border-left-color:var(--warn)}.box.fail{border-left-color:var(--fail)}
.count{margin:0 0 6px;font-size:14px}b.pass{color:var(--pass)}b.warn{color:var(--warn)}
b.fail{color:var(--fail)}b.unknown{color:var(--unknown)}
.finding{margin:0;border-top:1px solid var(--rule);padding:6px 0}
.finding summary{margin:0;color:var(--ink);font-size:14px}
.finding .told{color:var(--soft)}.evidence{padding:8px 0 4px 14px;font-size:13px;max-width:760px}
.badge{display:inline-block;min-width:64px;text-align:center;padding:0 7px;border-radius:9px;font-size:11.5px;
font-weight:600;color:#fff;background:var(--unknown)}
.badge.pass{background:#12814a}.badge.warn{background:#b06a00}.badge.fail{background:#c12733}.badge.unknown{background:#6c727b}
.tiers{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px;align-items:start}
.tiers.noset{grid-template-columns:minmax(0,.55fr) minmax(0,1fr) minmax(0,1fr)}
.tier>.sub{margin:0 0 8px}
.metric{border-top:1px solid var(--rule);padding:8px 0 6px}
.metric h4{text-transform:none;letter-spacing:0;font-size:14px;color:var(--ink);margin:0;display:flex;gap:8px;
align-items:baseline;overflow-wrap:anywhere}
.metric h4 .n{margin-left:auto;white-space:nowrap}.metric .notes{margin:0}
.n{font-weight:400;font-size:12px;color:var(--soft)}
.value{font-size:15px;font-weight:600;font-variant-numeric:tabular-nums}
.value .from{font-weight:400;color:var(--soft)}
.difference{font-size:13px;font-variant-numeric:tabular-nums;color:var(--soft)}.difference.clear{color:var(--ink)}
.p{white-space:nowrap;margin-left:6px}
.more{margin:3px 0}.more>summary{font-size:12.5px;margin:0}
.plain{font-size:12.5px;font-variant-numeric:tabular-nums}.plain th,.plain td{padding:2px 12px 2px 0;text-align:left;
vertical-align:top;border-bottom:1px solid var(--rule);overflow-wrap:anywhere}
.plain th{color:var(--soft);font-weight:500}
.signal{margin:0;border-top:1px solid var(--rule);padding:7px 0}
.signal summary{margin:0;color:var(--ink);font-size:13.5px;overflow-wrap:anywhere}
.finding .frames,.finding .film{max-width:420px}
.ends{width:100%;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}.ends b{color:var(--ink)}
.ends td{padding:1px 8px 1px 0;width:126px}.ends .name{width:84px}
.ends td:last-child{width:auto;text-align:right;padding:0;white-space:nowrap}
.spark{width:118px;height:26px;display:block}
.plot .start{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 3}
.compared,.measures{width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
.compared th,.compared td,.measures th,.measures td{padding:6px 16px 6px 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--rule);font-weight:400}
.compared thead th,.measures thead th{color:var(--soft)}.compared .tierhead th{font-weight:600;padding-top:14px}
.compared td{min-width:120px}.apart td,.apart th{border-bottom-style:dashed}
.measures th .sub,.measures td .sub{display:block;margin:0;font-weight:400}
.measures th{max-width:340px;font-weight:600}.measures tbody td{min-width:150px}
.phases{margin:0 0 12px}.bar{display:flex;height:12px;border-radius:6px;overflow:hidden;margin-top:5px}
.part.s0,.part.s1,.part.s2,.part.s3,.part.s4,.part.s5{background:var(--c)}
section .wide{max-height:none}
@media(max-width:1000px){.tiers,.tiers.noset{grid-template-columns:1fr}}
@media(max-width:760px){main{padding:16px 12px 40px}.side.n2{grid-template-columns:1fr}h1{font-size:22px}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:5px}.plots{grid-template-columns:1fr}
.measures tbody td{min-width:110px}.compared td{min-width:0}
.compared th,.compared td{padding-right:9px;font-size:12.5px}article{padding:12px}}
"""
