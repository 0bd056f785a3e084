"""Charts as inline SVG, drawn here: no plotting library, no script, colours from the page's style sheet.

A series has a CSS class (`s0`, `s1`, ...); the page gives each class its colour in light and dark. Same input, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CHART_WIDTH, CHART_HEIGHT = 560, 320
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 16, 14, 46


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart. band: low and high at each x, or None. dashed: for what is there to compare with."""

    name: str
    css: str
    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    dashed: bool = False


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str, least_top: float = 0.1) -> str:
    """An SVG with one line per series, y from 0 to at least `least_top`, so that nothing looks large that is not."""
    x_high = max((max(s.x) for s in series if len(s.x)), default=1.0)
    tops = [max(s.y) for s in series if len(s.y)] + [max(s.band[1]) for s in series if s.band]
    ticks_y = nice_ticks(max([*tops, least_top]))
    ticks_x = nice_ticks(x_high)
    wide, tall = CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT, CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM

    def px(x: float) -> float:
        return MARGIN_LEFT + wide * x / x_high

    def py(y: float) -> float:
        return MARGIN_TOP + tall * (1.0 - y / ticks_y[-1])

    parts = [svg_start(CHART_WIDTH, CHART_HEIGHT, title)]
    for y in ticks_y:
        parts.append(grid_line(MARGIN_LEFT, py(y), CHART_WIDTH - MARGIN_RIGHT, py(y), "grid"))
        parts.append(text_at(MARGIN_LEFT - 8, py(y) + 4, f"{y:g}", "tick end"))
    for x in ticks_x:
        if x <= x_high + 1e-9:
            parts.append(text_at(px(x), CHART_HEIGHT - MARGIN_BOTTOM + 18, f"{x:g}", "tick middle"))
    parts.append(text_at(MARGIN_LEFT + wide / 2, CHART_HEIGHT - 8, x_label, "axis middle"))
    parts.append(
        f'<text class="axis middle" transform="translate(14 {MARGIN_TOP + tall / 2:.1f}) rotate(-90)">{escape(y_label)}</text>'
    )
    for s in reversed(series):  # the first is the subject: drawn last, on top
        if s.band:
            there = [(px(x), py(y)) for x, y in zip(s.x, s.band[1], strict=True)]
            back = [(px(x), py(y)) for x, y in zip(s.x, s.band[0], strict=True)]
            parts.append(f'<polygon class="band {s.css}" points="{points_of([*there, *reversed(back)])}"/>')
        line = [(px(x), py(y)) for x, y in zip(s.x, s.y, strict=True)]
        css = f"line {s.css} dash" if s.dashed else f"line {s.css}"
        name = f"<title>{escape(s.name)}</title>"
        parts.append(f'<polyline class="{css}" points="{points_of(line)}">{name}</polyline>')
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """HTML that names the lines."""
    items = "".join(f'<li><i class="key {s.css}"></i>{escape(s.name)}</li>' for s in series)
    return f'<ul class="legend">{items}</ul>'


def nice_ticks(high: float, *, most: int = 6) -> list[float]:
    """0, step, ... up to at least `high`, the step 1, 2 or 5 times a power of ten, at most `most` steps."""
    raw = high / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= raw * (1.0 - 1e-9))
    return [round(step * k, 10) for k in range(math.ceil(high / step - 1e-9) + 1)]


def svg_start(width: float, height: float, title: str) -> str:
    """The opening of an SVG of that many units, with its name for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
    )


def points_of(pixels: Sequence[tuple[float, float]]) -> str:
    """Pixels as the `points` of a polyline or polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)


def grid_line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text_at(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
