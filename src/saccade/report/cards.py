"""Cards: one task with its rollouts, as a piece of a page: pictures, boxes, clicks, films, tool turns, rewards.

``gallery.py`` and ``page.py`` are made of them. A page holds each picture once; the cards refer to it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from saccade.core.errors import DataError
from saccade.report.film import film, played

FILMED_TASKS = 8
"""Tasks of a section whose episodes are filmed."""
FILMS = 2
"""Most films of a task at one moment."""
OPEN_TURNS = 4
"""Turns of an episode without a film that are shown at once; longer ones are folded away."""


@dataclass(frozen=True)
class Section:
    """Tasks with rollouts from one or several moments, side by side."""

    title: str
    columns: Mapping[str, Sequence[Mapping[str, Any]]]
    """Name of the moment -> groups as ``snapshot`` wrote them. Groups of the same task share one card."""


class Cards:
    """Collects the pictures that are used, so that each is in the page once."""

    def __init__(self, pictures: Path) -> None:
        self._folder = pictures
        self._used: dict[str, Mapping[str, Any]] = {}

    def definitions(self) -> str:
        """The pictures themselves; the cards refer to them."""
        images = "".join(self._definition(name, part) for name, part in self._used.items())
        return f'<svg width="0" height="0" class="store" aria-hidden="true"><defs>{images}</defs></svg>'

    def _definition(self, name: str, part: Mapping[str, Any]) -> str:
        path = self._folder / f"{name}.png"
        if not path.exists():
            raise DataError(f"{path} is missing: the rollouts name it")
        width, height = part["width"], part["height"]
        data = base64.b64encode(path.read_bytes()).decode()
        sharp = ' style="image-rendering:pixelated"' if max(width, height) <= 256 else ""
        return (
            f'<image id="i{name}" width="{width}" height="{height}" preserveAspectRatio="none"{sharp} '
            f'href="data:image/png;base64,{data}"/>'
        )

    @property
    def size(self) -> int:
        """Bytes that the pictures used so far take up in the page."""
        return sum((self._folder / f"{name}.png").stat().st_size * 4 // 3 for name in self._used)

    def section(self, section: Section) -> str:
        """A heading, a legend and the tasks' cards."""
        tasks = list(dict.fromkeys(group["task"] for groups in section.columns.values() for group in groups))
        found = {name: {group["task"]: group for group in groups} for name, groups in section.columns.items()}
        cards = [
            self.card({name: groups[t] for name, groups in found.items() if t in groups}, FILMS * (k < FILMED_TASKS))
            for k, t in enumerate(tasks)
        ]
        marks = marks_of([group for groups in section.columns.values() for group in groups])
        return f"<section><h2>{escape(section.title)}</h2>{legend(marks)}{''.join(cards)}</section>"

    def card(self, moments: Mapping[str, Mapping[str, Any]], films: int) -> str:
        """One task: what it asks, and the rollouts of each moment side by side.

        Args:
            moments: name of the moment -> group as ``snapshot`` wrote it.
            films: most films of a moment.
        """
        group = next(iter(moments.values()))
        prompt = self._content(group["prompt"], _Marks(gold=group["boxes"]))
        gold = "".join(f"<pre>{escape(text)}</pre>" for text in group["gold"])
        if group.get("drawn"):
            gold += self._content(group["drawn"], together=True)
        solution = f"<dt>a solution</dt><dd>{gold}</dd>" if gold else ""
        target = f"<dt>target</dt><dd><code>{escape(group['target'])}</code></dd>" if group["target"] else ""
        columns = "".join(self._column(name, moment, films) for name, moment in moments.items())
        return (
            f'<article><div class="prompt"><h3>{escape(group["task"])}</h3>{prompt}<dl>{target}{solution}</dl></div>'
            f'<div class="columns n{len(moments)}">{columns}</div></article>'
        )

    def _column(self, name: str, group: Mapping[str, Any], films: int) -> str:
        heading = f"<h4>{escape(name)}</h4>" if name else ""
        rollouts = ""
        for rollout in group["rollouts"]:
            moving = film(rollout, group, self._folder) if films else None
            films -= moving is not None
            rollouts += self._rollout(rollout, group, moving)
        alone = " alone" if len(group["rollouts"]) == 1 else ""
        return f'<div>{heading}<div class="rollouts{alone}">{rollouts}</div></div>'

    def _rollout(self, rollout: Mapping[str, Any], group: Mapping[str, Any], moving: bytes | None) -> str:
        turns = rollout["turns"]
        said = turns[-1]["boxes"] if turns else []
        tried = [box for turn in turns[:-1] for box in turn["boxes"]]
        pictures = [part for part in group["prompt"] if "image" in part or "video" in part][:1]
        clicks = [turn["mark"] for turn in turns if pictures and _points_at(turn, pictures[0])]
        shown = said or tried or clicks or group["boxes"]
        located = self._content(pictures, _Marks(group["boxes"], said, tried, clicks)) if shown else ""
        stop = "" if rollout["stop"] == "done" else f'<span class="stop">{escape(rollout["stop"])}</span>'
        played = _film(moving, f"film of an episode: {group['instruction']}") if moving is not None else ""
        if len(turns) > 1 and all(_is_command(turn) and turn["seen"] is None for turn in turns):
            body = _table(turns)
        else:
            followed = zip(turns, [*turns[1:], {}], strict=True)
            body = located + "".join(self._turn(k, turn, after, len(turns)) for k, (turn, after) in enumerate(followed))
            if played or len(turns) > OPEN_TURNS:
                body = f"<details><summary>{len(turns)} turn{'s' * (len(turns) > 1)}</summary>{body}</details>"
        return f'<div class="rollout">{_reward(rollout)}{stop}{played}{body}{_scores(rollout)}</div>'

    def _turn(self, k: int, turn: Mapping[str, Any], after: Mapping[str, Any], count: int) -> str:
        """A turn and what it was answered; ``after`` is the next turn, whose action may point at the answer."""
        number = f'<span class="turn">turn {k + 1}</span>' if count > 1 else ""
        clicks = [after["mark"]] if any(_points_at(after, part) for part in turn["observation"]) else []
        answered = self._content(turn["observation"], _Marks(clicks=clicks), last=True)
        answer = f'<div class="answer">{answered}</div>' if turn["observation"] else ""
        notes = {**turn["notes"], **({"reward": f"{turn['reward']:.3g}"} if turn["reward"] else {})}
        told = " · ".join(f"{escape(key)}: {escape(value)}" for key, value in notes.items())
        steps = "".join(self._picture(one, _Marks()) for one in turn.get("steps", ()))
        made = f'<details><summary>steps</summary><div class="frames">{steps}</div></details>' if steps else ""
        said = f"<pre>{escape(turn['told'])}</pre>" if _is_command(turn) else ""
        output = said or self._content(turn["output"], together=True)
        clips = [
            _film(played(part, self._folder), "the clip that was drawn") for part in turn["output"] if "video" in part
        ]
        return f"{number}{''.join(clips)}{output}{made}{f'<p class=notes>{told}</p>' if told else ''}{answer}"

    def _content(
        self,
        parts: Sequence[Mapping[str, Any]],
        marks: _Marks | None = None,
        *,
        last: bool = False,
        together: bool = False,
    ) -> str:
        """Parts in their order; marks are drawn on the first picture, or on the last.

        With ``together`` several pictures, such as views of a solid, stand side by side after the rest.
        """
        out: list[str] = []
        several = [part for part in parts if "image" in part] if together else []
        if len(several) > 1:
            rest = [part for part in parts if "image" not in part]
            row = "".join(self._picture(part, _Marks()) for part in several)
            return f'{self._content(rest) if rest else ""}<div class="frames">{row}</div>'
        shown = [i for i, part in enumerate(parts) if "text" not in part]
        marked = shown[-1 if last else 0] if shown else -1
        for i, part in enumerate(parts):
            if "text" in part:
                out.append(f"<pre>{escape(part['text']) or '<i>nothing</i>'}</pre>")
                continue
            frames = part.get("video", [part])
            where = (len(frames) - 1 if last else 0) if i == marked else -1
            drawn = [
                self._picture(one, (marks or _Marks()) if k == where else _Marks()) for k, one in enumerate(frames)
            ]
            kind = "frames" if "video" in part else "picture"
            told = f'<p class="notes">{part["frames"]} frames, {part["fps"]:g}/s</p>' if "video" in part else ""
            out.append(f'<div class="{kind}">{"".join(drawn)}</div>{told}')
        return "".join(out) or "<pre><i>nothing</i></pre>"

    def _picture(self, part: Mapping[str, Any], marks: _Marks) -> str:
        name, width, height = part["image"], part["width"], part["height"]
        self._used.setdefault(name, part)
        kinds = (("gold", marks.gold), ("tried", marks.tried), ("said", marks.said))
        drawn = "".join(_rect(kind, box) for kind, some in kinds for box in some)
        drawn += "".join(_click(mark, width, height) for mark in marks.clicks)
        return (
            f'<svg class="pic" viewBox="0 0 {width} {height}" style="aspect-ratio:{width}/{height}" role="img">'
            f'<use href="#i{name}"/>{drawn}</svg>'
        )


@dataclass(frozen=True)
class _Marks:
    """What is drawn over a picture, in its pixels."""

    gold: Sequence[Sequence[float]] = ()
    said: Sequence[Sequence[float]] = ()
    tried: Sequence[Sequence[float]] = ()
    clicks: Sequence[Mapping[str, Any]] = ()


def _points_at(turn: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether the turn's action points at this picture."""
    return bool(turn.get("mark")) and "image" in part and turn["seen"]["image"] == part["image"]


def _is_command(turn: Mapping[str, Any]) -> bool:
    return bool(turn.get("command"))


def _film(data: bytes, described: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img class="film" alt="{escape(described)}" src="data:image/gif;base64,{encoded}">'


def _table(turns: Sequence[Mapping[str, Any]]) -> str:
    """Turns of an episode without pictures: what was done, and what the environment noted."""
    names = list(dict.fromkeys(name for turn in turns for name in turn["notes"]))
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("turn", "command", "reward", *names))
    rows = "".join(
        f"<tr><td>{k + 1}</td><td>{escape(turn['told'])}</td><td>{turn['reward']:.3g}</td>"
        + "".join(f"<td>{escape(turn['notes'].get(name, ''))}</td>" for name in names)
        + "</tr>"
        for k, turn in enumerate(turns)
    )
    return f'<div class="wide"><table class="turns"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def marks_of(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points that the policy chose anywhere in these groups."""
    turns = [turn for group in groups for rollout in group["rollouts"] for turn in rollout["turns"]]
    return [mark for turn in turns if (mark := turn.get("mark"))]


def legend(marks: Sequence[Mapping[str, Any]]) -> str:
    """What the colours of boxes and crosses mean."""
    boxes = '<b class="gold">green</b> target · <b class="said">orange</b> the policy\'s boxes'
    if not marks:
        return f'<p class="sub">{boxes}</p>'
    known = {mark["hit"] for mark in marks}
    words = {
        True: '<b class="gold">hit</b>',
        False: '<b class="missed">miss</b>',
        None: '<b class="said">no verdict</b>',
    }
    crosses = ", ".join(word for hit, word in words.items() if hit in known)
    return f'<p class="sub">{boxes} · crosses where the policy points: {crosses}</p>'


def _rect(kind: str, box: Sequence[float]) -> str:
    x1, y1, x2, y2 = box
    words = " ".join(f"{value:g}" for value in box)
    return (
        f'<rect class="{kind}" x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}" '
        f'vector-effect="non-scaling-stroke"><title>{words}</title></rect>'
    )


def _click(mark: Mapping[str, Any], width: int, height: int) -> str:
    """A circle and a cross at the point, and a line to where a drag ends; nothing where the point is outside."""
    (x, y), r = mark["point"], 0.04 * max(width, height)
    if not (0 <= x <= width and 0 <= y <= height):
        return ""
    kind = {True: "hit", False: "missed", None: "said"}[mark["hit"]]
    shape = f"M{x - r:g} {y:g}h{2 * r:g}M{x:g} {y - r:g}v{2 * r:g}"
    shape += f"M{x - r:g} {y:g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0"
    if mark["to"] is not None:
        shape += f"M{x:g} {y:g}L{mark['to'][0]:g} {mark['to'][1]:g}m{-r / 2:g} 0h{r:g}m{-r / 2:g} {-r / 2:g}v{r:g}"
    return (
        f'<path class="halo" d="{shape}" vector-effect="non-scaling-stroke"/>'
        f'<path class="click {kind}" d="{shape}" vector-effect="non-scaling-stroke"><title>{x:g} {y:g}</title></path>'
    )


def _reward(rollout: Mapping[str, Any]) -> str:
    counted = [s for s in rollout["scores"].values() if s["weight"] != 0]
    known = [s["weight"] * s["value"] for s in counted if s["value"] is not None]
    total = f"{math.fsum(known):.3g}" if counted and len(known) == len(counted) else "unscored" if counted else ""
    advantage = rollout["advantage"]
    sign = "" if advantage is None else f'<span class="{"up" if advantage >= 0 else "down"}">A {advantage:+.2f}</span>'
    return f'<div class="sum"><b>{total}</b>{sign}</div>' if total or sign else ""


def _scores(rollout: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr{'' if s['weight'] else ' class=unpaid'}><td>{escape(name)}</td><td>{_number(s['value'])}</td>"
        f"<td>{_weight(s['weight'])}</td><td>{escape(s['note'])}</td></tr>"
        for name, s in rollout["scores"].items()
    )
    return f'<table class="scores">{rows}</table>' if rows else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _weight(weight: float) -> str:
    return "logged" if weight == 0 else f"× {weight:g}"


STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d1f23;--soft:#6a6f78;--rule:#e3e4e6;--code:#f3f4f5;
--gold:#12994a;--said:#ec7a08;--missed:#d1323c;--s0:#2f6fdb;--s1:#d1495b;--s2:#2a9d74;--s3:#8d5fd3;--s4:#c98a12;--s5:#4c8fa3}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--card:#1e2125;--ink:#e6e7e9;--soft:#989da6;--rule:#33373d;
--code:#272b30;--gold:#3ecf7a;--said:#ff9d3c;--missed:#ff6b74;--s0:#6ea2f7;--s1:#ef7d8c;--s2:#52c79b;--s3:#b593ef;--s4:#e5b04b;--s5:#7fbdd0}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:36px 0 10px}
h3{font:600 12px/1.4 ui-monospace,monospace;color:var(--soft);margin:0 0 8px;overflow-wrap:anywhere}
h4{margin:0 0 8px;font-size:13px;text-transform:uppercase;letter-spacing:.06em;color:var(--soft)}
.sub,.notes{color:var(--soft);font-size:13px;margin:4px 0}.notes{font-size:12px;overflow-wrap:anywhere}
.store{position:absolute}b.gold{color:var(--gold)}b.said{color:var(--said)}b.missed{color:var(--missed)}
table{border-collapse:collapse}.changes th,.changes td{padding:5px 22px 5px 0;border-bottom:1px solid var(--rule);
text-align:left;font-variant-numeric:tabular-nums;white-space:nowrap}.changes thead th{color:var(--soft);
font-weight:500}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:14px}
figure{margin:0;padding:10px 12px 4px;background:var(--card);border:1px solid var(--rule);border-radius:8px}
figcaption{font-weight:600;font-size:13px}.keys{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12px}
.key::before{content:"";display:inline-block;width:12px;height:3px;margin-right:5px;vertical-align:middle;background:var(--c)}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.plot{display:block;width:100%}.plot .grid{stroke:var(--rule)}.plot .tick{fill:var(--soft);font-size:10.5px}
.plot .line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
.plot .raw{fill:none;stroke:var(--c);stroke-width:1;opacity:.28}.plot .dot{fill:var(--c)}
details{margin-top:12px}summary{cursor:pointer;color:var(--soft);margin-bottom:10px}
article{display:grid;grid-template-columns:250px 1fr;gap:20px;margin:14px 0;padding:16px;background:var(--card);
border:1px solid var(--rule);border-radius:10px}
.columns{display:grid;gap:18px;align-content:start}.columns.n2{grid-template-columns:1fr 1fr}
.columns>div+div{border-left:1px solid var(--rule);padding-left:18px}
.rollouts{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:14px}
.rollout{min-width:0;font-size:13px}
.columns:not(.n2) .rollout{padding:8px;border:1px solid var(--rule);border-radius:8px}
.picture,.frames{margin:6px 0}.frames{display:grid;grid-template-columns:repeat(4,1fr);gap:3px}
.pic{display:block;width:100%;max-height:420px;overflow:visible}.rollout .pic{max-width:200px}
rect{fill:none}.gold{stroke:var(--gold);stroke-width:4}.said{stroke:var(--said);stroke-width:1.8}
.tried{stroke:var(--said);stroke-width:1.4;stroke-dasharray:3 3}
path.halo{fill:none;stroke:#fff;stroke-width:4;opacity:.85}path.click{fill:none;stroke-width:1.8}
path.hit{stroke:#12994a}path.missed{stroke:#d1323c}path.said{stroke:#ec7a08}
.film{display:block;max-width:100%;margin:6px 0;border:1px solid var(--rule);border-radius:5px}
.rollouts.alone{grid-template-columns:minmax(0,1fr)}.wide{overflow:auto;max-height:420px}
.turns{font-size:12px;font-variant-numeric:tabular-nums}.turns th{color:var(--soft);font-weight:500;text-align:left}
.turns th,.turns td{padding:2px 12px 2px 0;white-space:nowrap;border-bottom:1px solid var(--rule)}
pre{margin:4px 0;padding:5px 7px;background:var(--code);border-radius:5px;white-space:pre-wrap;overflow-wrap:anywhere;
font:12px/1.45 ui-monospace,monospace;max-height:260px;overflow:auto}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}
.prompt>pre{font:14px/1.45 system-ui,sans-serif}dl{margin:8px 0 0;font-size:12px}dt{color:var(--soft)}dd{margin:0 0 4px}
.answer{margin:4px 0 8px 10px;padding-left:8px;border-left:2px solid var(--rule)}
.turn,.stop{display:inline-block;font-size:11px;color:var(--soft);margin-right:8px}.stop{color:var(--said)}
.sum{display:flex;justify-content:space-between;font-variant-numeric:tabular-nums}
.up{color:var(--gold)}.down{color:var(--said)}
.scores{width:100%;font-size:12px;margin-top:4px;font-variant-numeric:tabular-nums}
.scores td{padding:1px 8px 1px 0;color:var(--soft);vertical-align:top}
.scores td:nth-child(2){color:var(--ink);font-weight:600}
.unpaid{opacity:.75}i{color:var(--soft)}
@media(max-width:760px){article,.columns.n2{grid-template-columns:1fr}.columns>div+div{border:0;padding:0}}
"""
