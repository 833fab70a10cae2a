"""Learning curves as inline SVG: small, readable, coloured by the page's own variables, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
MOST_POINTS = 400
"""Points of one line; longer series are averaged in bins."""


@dataclass(frozen=True)
class Series:
    """One line of a plot."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    errors: Sequence[float] = ()
    """Standard errors, drawn as bars; such points are drawn as dots and not smoothed."""


@dataclass(frozen=True)
class Plot:
    title: str
    series: Sequence[Series]
    start: float | None = None
    """A value to mark by a dashed line: where training began."""


def plots(records: Sequence[Mapping[str, float]]) -> list[Plot]:
    """The plots of a run from the lines of ``metrics.jsonl``: evaluations, rewards, then every other number.

    Rewards share one plot; so do the losses.
    """
    names = list(dict.fromkeys(key for record in records for key in record if key != "step"))
    evaluated = [n for n in names if n.startswith("eval/") and not n.endswith(("/stderr", "/n"))]
    rewards = [n for n in names if n == "reward" or (n.startswith("reward/") and not n.endswith("/unscored"))]
    losses = [n for n in names if n.startswith("loss/")]
    shown = {*evaluated, *rewards, *losses}
    rest = [n for n in names if n not in shown and not n.startswith("eval/")]
    rest = [n for n in rest if not (n.endswith("/unscored") and not any(series(records, n).values))]
    found = [Plot(f"held-out {n.removeprefix('eval/')}", [series(records, n)]) for n in evaluated]
    if rewards:
        lines = [series(records, n) for n in sorted(rewards, key=lambda n: (n != "reward", n))]
        found.append(Plot("rewards in training", lines))
    first = [n for n in rest if n.endswith("/kl") or n in ("actions", "group/uniform", "policy/grad_norm")]
    found += [Plot(n, [series(records, n)]) for n in sorted(first)]
    if losses:
        found.append(Plot("losses", [series(records, n) for n in sorted(losses)]))
    return found + [Plot(n, [series(records, n)]) for n in sorted(set(rest) - set(first))]


def series(records: Sequence[Mapping[str, float]], name: str) -> Series:
    """All finite values of one name."""
    rows = [r for r in records if name in r and math.isfinite(r[name])]
    with_errors = name.startswith("eval/") and all(f"{name}/stderr" in r for r in rows)
    errors = [r[f"{name}/stderr"] for r in rows] if with_errors else []
    return Series(
        name.removeprefix("reward/").removeprefix("loss/"), [r["step"] for r in rows], [r[name] for r in rows], errors
    )


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average without bias towards the start: ``s_t / (1 - weight^t)``."""
    total, mass, out = 0.0, 0.0, []
    for value in values:
        total = weight * total + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        out.append(total / mass)
    return out


def svg(plot: Plot) -> str:
    """One plot. Colours are the CSS classes ``s0`` to ``s5``; raw values are faint behind their smoothed line."""
    drawn = [_thin(s) for s in plot.series if s.values]
    if not drawn:
        return ""
    xs = [x for s in drawn for x in s.steps]
    ys = [y + k * e for s in drawn for y, e in _with_errors(s) for k in (-1, 1)]
    ys += [] if plot.start is None else [plot.start]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    ticks = nice_ticks(min(ys), max(ys))
    y_low, y_high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))

    def x(step: float) -> float:
        return LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title, quote=True)}">'
    ]
    for tick in ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 5}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{tick:.6g}</text>')
    for tick in (t for t in nice_ticks(x_low, x_high) if x_low <= t <= x_high and t == int(t)):
        out.append(f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{tick:.0f}</text>')
    if plot.start is not None:
        level = f"{y(plot.start):.1f}"
        out.append(f'<line class="start" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level}" y2="{level}"/>')
    for i, s in enumerate(drawn):
        colour = f"s{i % 6}"
        if s.errors:
            out.append(_line(f"line {colour}", [(x(a), y(b)) for a, b in zip(s.steps, s.values, strict=True)]))
            for step, (value, error) in zip(s.steps, _with_errors(s), strict=True):
                up, down = y(value + error), y(value - error)
                out.append(
                    f'<line class="line {colour}" x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{up:.1f}" y2="{down:.1f}"/>'
                )
                out.append(f'<circle class="dot {colour}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.6"/>')
        else:
            points = list(zip(s.steps, s.values, smooth(s.values), strict=True))
            out.append(_line(f"raw {colour}", [(x(a), y(b)) for a, b, _ in points]))
            out.append(_line(f"line {colour}", [(x(a), y(c)) for a, _, c in points]))
    return "".join([*out, "</svg>"])


def spark(values: Sequence[float], start: float | None = None) -> str:
    """A curve the size of a word, without axes: a dashed line marks the start, a dot the end."""
    drawn = _thin(Series("", range(len(values)), values)).values
    if len(drawn) < 2:
        return ""
    shown = [*drawn, *([] if start is None else [start])]
    low, high = min(shown), max(shown)
    # Rounding errors are no curve.
    flat = high - low <= max(1e-7, 1e-5 * max(abs(low), abs(high)))

    def y(value: float) -> float:
        return 13 if flat else 22 - (value - low) / (high - low) * 18

    points = [(2 + i * 112 / (len(drawn) - 1), y(value)) for i, value in enumerate(drawn)]
    level = "" if start is None else f'<line class="start" x1="2" x2="114" y1="{y(start):.1f}" y2="{y(start):.1f}"/>'
    x_end, y_end = points[-1]
    dot = f'<circle class="dot" cx="{x_end:.1f}" cy="{y_end:.1f}" r="2.2"/>'
    return (
        f'<svg class="spark plot s0" viewBox="0 0 118 26" aria-hidden="true">{level}{_line("line", points)}{dot}</svg>'
    )


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that span [low, high], at most ``most + 2`` of them."""
    if not high > low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    unit = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [round(i * unit, 12) for i in range(first, last + 1)]


def _with_errors(s: Series) -> list[tuple[float, float]]:
    errors = s.errors or [0.0] * len(s.values)
    return [(v, e if math.isfinite(e) else 0.0) for v, e in zip(s.values, errors, strict=True)]


def _thin(s: Series) -> Series:
    size = math.ceil(len(s.values) / MOST_POINTS)
    if size <= 1 or s.errors:
        return s
    bins = [slice(i, i + size) for i in range(0, len(s.values), size)]
    steps = [sum(s.steps[b]) / len(s.steps[b]) for b in bins]
    return Series(s.name, steps, [sum(s.values[b]) / len(s.values[b]) for b in bins])


def _line(kind: str, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
