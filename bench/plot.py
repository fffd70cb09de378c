"""Lines on logarithmic axes, as an SVG of its own words: no library, no fonts but the reader's.

Knows nothing of what it draws. Both axes have the same scale, so that a linear growth rises at 45 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 340, 300, 56, 44, 40
DECADE = 84  # pixels
FONT = 'font-family="sans-serif" font-size="12"'
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44")


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name and its points."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    unit: str
    series: tuple[Series, ...]


def svg(panels: Sequence[Panel]) -> str:
    """Return a picture of `panels` beside each other."""
    width = LEFT + len(panels) * (WIDTH + LEFT)
    height = TOP + HEIGHT + GAP + 22 * max(len(panel.series) for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        lines += _panel(panel, LEFT + number * (WIDTH + LEFT))
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, left: int) -> Iterator[str]:
    xs = [x for series in panel.series for x, _ in series.points]
    ys = [y for series in panel.series for _, y in series.points]
    x_from, y_from = math.floor(math.log10(min(xs))), math.floor(math.log10(min(ys)))
    bottom = TOP + HEIGHT
    scale = min(DECADE, WIDTH / (math.ceil(math.log10(max(xs)) - x_from) or 1),
                HEIGHT / (math.ceil(math.log10(max(ys)) - y_from) or 1))  # fmt: skip
    yield f'<text x="{left}" y="{TOP - 20}" font-size="14" fill="#222222">{escape(panel.title)}</text>'
    yield f'<path d="M{left} {TOP}V{bottom}H{left + WIDTH}" fill="none" stroke="#555555"/>'
    for decade in range(int(WIDTH / scale) + 1):
        x = left + decade * scale
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#e4e4e4"/>'
        yield _label(x, bottom + 16, "middle", 10.0 ** (x_from + decade))
    for decade in range(int(HEIGHT / scale) + 1):
        y = bottom - decade * scale
        yield f'<path d="M{left} {y:.1f}H{left + WIDTH}" stroke="#e4e4e4"/>'
        yield _label(left - 6, y + 4, "end", 10.0 ** (y_from + decade))
    for number, (series, colour) in enumerate(zip(panel.series, COLOURS, strict=False)):
        places = [
            (left + (math.log10(x) - x_from) * scale, bottom - (math.log10(y) - y_from) * scale)
            for x, y in series.points
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for (x, y), (_, value) in zip(places, series.points, strict=True):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{value:.3g} s</title></circle>'
        line = bottom + GAP + 20 * number
        yield f'<rect x="{left}" y="{line - 9}" width="14" height="4" fill="{colour}"/>'
        yield f'<text x="{left + 20}" y="{line - 3}" fill="#222222">{escape(series.name)}</text>'


def _label(x: float, y: float, anchor: str, value: float) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444444">{_short(value)}</text>'


def _short(value: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.0f} {unit}"
    return f"{value:g}"
