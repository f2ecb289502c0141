"""Small static charts in SVG.

What a figure shows where no script runs. Text takes the colour of its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kernelpkg.widgets.view import COLOURS, Markup, esc

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
_MARKS = ["circle", "square", "triangle", "diamond", "cross"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart. `style`: 'line' with marks, 'rule' (a limit: thin, no marks) or 'marks' alone."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values between low and high: 1, 2 and 5 times powers of ten if logarithmic, else even steps."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1, 2, 5) if high / low < 2000 else (1,)
        marks = [factor * 10.0**e for e in decades for factor in factors]
        return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6), default=10)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def number(value: float) -> str:
    """A number as short as it can be read: 0.85, 12.5, 4096, 1.6e-3."""
    if value == 0:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _mark(kind: int, x: float, y: float, colour: str) -> str:
    shape = _MARKS[kind % len(_MARKS)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    paths = {
        "square": f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        "triangle": f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        "diamond": f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
        "cross": f"M{x - 1:.1f} {y - 4:.1f}h2v3h3v2h-3v3h-2v-3h-3v-2h3z",
    }
    return f'<path d="{paths[shape]}" fill="{colour}"/>'


def chart(
    title: str, series: Sequence[Series], x_title: str, y_title: str, log_x: bool = True, log_y: bool = True
) -> Markup:
    """A line chart, 720 x 400, with a legend at its right.

    Every series has its own dash and mark beside its colour.
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if y > 0 or not log_y]
    if not points:
        return Markup(f"<p>{esc(title)}: nothing to draw.</p>")
    left, right, top, bottom, width, height = 64, 200, 34, 46, 720, 400
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in zip(*points, strict=True))
    if log_y:
        y0, y1 = y0 / 1.25, y1 * 1.25
    else:
        y0, y1 = min(0.0, y0), y1 * 1.08 or 1.0
    if x1 == x0:
        x0, x1 = (x0 / 2, x1 * 2) if log_x else (x0 - 1, x1 + 1)

    def place(value: float, low: float, high: float, log: bool) -> float:
        if log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def at_x(value: float) -> float:
        return left + place(value, x0, x1, log_x) * (width - left - right)

    def at_y(value: float) -> float:
        return height - bottom - place(value, y0, y1, log_y) * (height - top - bottom)

    out = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{esc(title)}">',
        f'<text x="{left}" y="18" font-weight="600">{esc(title)}</text>',
    ]
    for tick in ticks(x0, x1, log_x):
        out.append(
            f'<path d="M{at_x(tick):.1f} {top}V{height - bottom}" stroke="currentColor" opacity=".12"/>'
            f'<text x="{at_x(tick):.1f}" y="{height - bottom + 16}" text-anchor="middle">'
            f"{number(tick)}</text>"
        )
    for tick in ticks(y0, y1, log_y):
        out.append(
            f'<path d="M{left} {at_y(tick):.1f}H{width - right}" stroke="currentColor" opacity=".12"/>'
            f'<text x="{left - 6}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    middle = (top + height - bottom) / 2
    out.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">{esc(x_title)}</text>'
    )
    out.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{esc(y_title)}</text>"
    )
    lines = [s for s in series if s.style != "rule"]
    for row, s in enumerate(series):
        i = row if s.style == "rule" else lines.index(s)
        colour = "currentColor" if s.style == "rule" else COLOURS[i % len(COLOURS)]
        xy = [(at_x(x), at_y(y)) for x, y in zip(s.x, s.y, strict=True) if y > 0 or not log_y]
        dash = f' stroke-dasharray="{_DASHES[i % len(_DASHES)]}"' if _DASHES[i % len(_DASHES)] else ""
        if s.style != "marks":
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in xy)
            thin = 1.2 if s.style == "rule" else 2
            out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{thin}"{dash}/>')
        if s.style != "rule":
            out.extend(_mark(i, x, y, colour) for x, y in xy)
        y = top + 12 + 18 * row
        key_x = width - right + 14
        if s.style != "marks":
            out.append(f'<path d="M{key_x} {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        if s.style != "rule":
            out.append(_mark(i, key_x + 11, y - 4, colour))
        out.append(f'<text x="{key_x + 28}" y="{y}">{esc(s.name)}</text>')
    return Markup("".join(out) + "</svg>")


def heatmap(
    title: str,
    cells: Sequence[Sequence[float]],
    x_title: str,
    y_title: str,
    low: float,
    high: float,
    bound: float,
) -> Markup:
    """Cells shaded from low to high (same unit).

    A cell above `bound` gets a cross, so that colour is not needed.
    """
    rows, cols = len(cells), max(map(len, cells), default=0)
    if not rows or not cols:
        return Markup(f"<p>{esc(title)}: nothing to draw.</p>")
    side = max(6.0, min(28.0, 600 / cols, 420 / rows))
    left, top = 60, 54
    width, height = left + cols * side + 20, top + rows * side + 62
    out = [
        f'<svg viewBox="0 0 {max(width, 420):.0f} {height:.0f}" width="{max(width, 420):.0f}" role="img"'
        f' aria-label="{esc(title)}">',
        f'<text x="{left}" y="18" font-weight="600">{esc(title)}</text>',
    ]
    span = (high - low) or 1.0
    for r, row in enumerate(cells):
        for c, value in enumerate(row):
            share = min(1.0, max(0.0, (value - low) / span))
            x, y = left + c * side, top + r * side
            out.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}" fill="#0072b2"'
                f' opacity="{0.08 + 0.92 * share:.2f}"><title>tile {r}, {c}: {number(value)}</title></rect>'
            )
            if value > bound:
                out.append(
                    f'<path d="M{x + 2:.1f} {y + 2:.1f}l{side - 5:.1f} {side - 5:.1f}m0 -{side - 5:.1f}'
                    f'l-{side - 5:.1f} {side - 5:.1f}" stroke="#d55e00" stroke-width="2"/>'
                )
    base = top + rows * side
    out.append(f'<text x="{left}" y="{base + 18:.0f}">{esc(x_title)}</text>')
    out.append(f'<text x="{left}" y="{top - 8}">{esc(y_title)}</text>')
    for i in range(5):
        out.append(
            f'<rect x="{left + 26 * i}" y="{base + 32:.0f}" width="25" height="12" fill="#0072b2"'
            f' opacity="{0.08 + 0.23 * i:.2f}"/>'
        )
    out.append(f'<text x="{left - 6}" y="{base + 42:.0f}" text-anchor="end">{number(low)}</text>')
    out.append(
        f'<text x="{left + 136}" y="{base + 42:.0f}">{number(high)}  '
        f"(✗ marks a tile above {number(bound)})</text>"
    )
    return Markup("".join(out) + "</svg>")
