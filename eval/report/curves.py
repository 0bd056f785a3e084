"""How something grew: curves of any number of runs over the samples seen, as a figure of the report.

    curves(
        [Series(name="detailed", css="s0", x=[0, 500, 1000], y=[3.1, 1.2, 0.6], band=(low, high)), ...],
        title="ADE@3s on the validation split", x_label="samples seen", y_label="ADE@3s [m]",
    )

HTML with a caption, one SVG and a legend, in the page's colours, light and dark: `css` is "s0" ... "s7", or "label" for the
ideal. Put two side by side with `side_by_side`. Same input, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise

from eval.report.figures import (
    CHART_HEIGHT,
    CHART_WIDTH,
    MARGIN_BOTTOM,
    MARGIN_LEFT,
    MARGIN_RIGHT,
    MARGIN_TOP,
    Series,
    grid_line,
    nice_ticks,
    points_of,
    svg_start,
    text_at,
)

COLOURS = 8  # s0 ... s7 of the page's style sheet
MOST_POINTS = 240  # chosen by us: a curve of more is drawn through the means of as many equal stretches
DOTTED = 40  # chosen by us: a curve of no more has a dot at each measured point
MOST_DECADES = 4  # chosen by us: a loss that touches zero must not squeeze the rest of a logarithmic axis


def curves(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_y: bool = False,
    least_top: float | None = None,
    level: tuple[str, float] | None = None,
    digits: int = 2,
) -> str:
    """A figure of one line per series: caption `title`, SVG, and a legend with each line's last value, to `digits` places.

    x of a series rises; points where x or y is None or not finite are left out, and so is all that is not positive with
    `log_y`. band: low and high at each x, drawn beneath (an interval, or the spread of seeds). dashed: something to compare with.
    Lines of more than MOST_POINTS points are thinned by means. y starts at 0 without `log_y`, and goes to `least_top` at least.
    level: words and a value, drawn as a horizontal line (a baseline, an aim). Nothing to draw gives "".
    """
    shown = [thinned(clear) for one in series if (clear := _finite(one, positive=log_y)).x]
    if not shown:
        return ""
    lowest = min(min(s.y) for s in shown)
    highest = max([max(s.y) for s in shown] + [max(s.band[1]) for s in shown if s.band])
    if level is not None and (level[1] > 0.0 or not log_y):
        lowest, highest = min(lowest, level[1]), max(highest, level[1])
    highest = max(highest, least_top or 0.0)
    ticks_y = log_ticks(max(lowest, highest / 10.0**MOST_DECADES), highest) if log_y else nice_ticks(highest or 1.0)
    x_high = max(max(s.x) for s in shown) or 1.0
    wide, tall = CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT, CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM
    height = _log_height(ticks_y) if log_y else (lambda y: y / ticks_y[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN_LEFT + wide * x / x_high, MARGIN_TOP + tall * (1.0 - min(1.0, max(0.0, height(y))))

    parts = [svg_start(CHART_WIDTH, CHART_HEIGHT, title or f"{y_label} over {x_label}")]
    for y in ticks_y:
        parts.append(grid_line(MARGIN_LEFT, at(0.0, y)[1], CHART_WIDTH - MARGIN_RIGHT, at(0.0, y)[1], "grid"))
        parts.append(text_at(MARGIN_LEFT - 8, at(0.0, y)[1] + 4, short_number(y), "tick end"))
    ticks_x = [x for x in nice_ticks(x_high) if x <= x_high + 1e-9]
    parts += [
        text_at(at(x, 0.0)[0], CHART_HEIGHT - MARGIN_BOTTOM + 18, short_number(x), "tick middle") for x in ticks_x
    ]
    parts.append(text_at(MARGIN_LEFT + wide / 2, CHART_HEIGHT - 8, x_label, "axis middle"))
    where = f'transform="translate(14 {MARGIN_TOP + tall / 2:.1f}) rotate(-90)"'
    parts.append(f'<text class="axis middle" {where}>{escape(y_label)}</text>')
    if level is not None and (level[1] > 0.0 or not log_y):
        y = at(0.0, level[1])[1]
        parts.append(grid_line(MARGIN_LEFT, y, CHART_WIDTH - MARGIN_RIGHT, y, "level"))
        parts.append(text_at(CHART_WIDTH - MARGIN_RIGHT - 4, y - 5, level[0], "tick end"))
    for s in reversed(shown):  # the first is the subject: drawn last, on top
        parts += _drawn(s, at)
    caption = f"<figcaption>{escape(title)}</figcaption>" if title else ""
    return f"<figure>{caption}{''.join(parts)}</svg>{_legend(shown, digits)}</figure>"


def side_by_side(figures: Iterable[str]) -> str:
    """Figures in two columns, one on a narrow screen; those that are "" are left out."""
    found = [figure for figure in figures if figure]
    return f'<div class="charts">{"".join(found)}</div>' if found else ""


def colour(k: int) -> str:
    """The CSS class of the k-th line; after COLOURS lines they come again."""
    return f"s{k % COLOURS}"


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """A series of at most `most` points: the means of equal stretches of its points, the last one kept as it is."""
    count = len(series.x)
    if count <= most:
        return series
    edges = [(count - 1) * k // (most - 1) for k in range(most)]
    stretches = [*pairwise(edges), (count - 1, count)]

    def mean(values: Sequence[float]) -> list[float]:
        return [math.fsum(values[a:b]) / (b - a) for a, b in stretches]

    band = None if series.band is None else (mean(series.band[0]), mean(series.band[1]))
    return replace(series, x=mean(series.x), y=mean(series.y), band=band)


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks 1, 2, 5 times powers of ten around `low` > 0 and `high`, of powers only where they would be too many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1.0, 2.0, 5.0), (1.0,)):
        every = [float(f"{m * 10.0**p:.3g}") for p in range(first, last + 1) for m in steps]
        start = max(k for k, tick in enumerate(every) if tick <= low * (1.0 + 1e-9))
        end = next((k for k, tick in enumerate(every) if tick >= high * (1.0 - 1e-9)), len(every) - 1)
        found = every[start : max(end, start + 1) + 1]
        if len(found) <= 10:
            break
    return found


def short_number(value: float) -> str:
    """1200000 -> 1.2M, 50000 -> 50k, 0.25 -> 0.25."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def _finite(series: Series, *, positive: bool) -> Series:
    def sound(value: float | None) -> bool:
        return value is not None and math.isfinite(value)

    kept = [
        k
        for k, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if sound(x) and sound(y) and (y > 0.0 or not positive)
    ]
    band = None
    if series.band is not None:
        low, high = ([_or(edge[k], series.y[k]) for k in kept] for edge in series.band)
        band = low, high
    return replace(series, x=[float(series.x[k]) for k in kept], y=[float(series.y[k]) for k in kept], band=band)


def _or(edge: float | None, middle: float) -> float:
    """A band's edge; where there is none (one seed), the line itself."""
    return float(edge) if edge is not None and math.isfinite(edge) else float(middle)


def _log_height(ticks: Sequence[float]) -> Callable[[float], float]:
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    return lambda y: (math.log10(y) - low) / (high - low) if y > 0.0 else 0.0


def _drawn(s: Series, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    parts = []
    if s.band:
        there = [at(x, y) for x, y in zip(s.x, s.band[1], strict=True)]
        back = [at(x, y) for x, y in zip(s.x, s.band[0], strict=True)]
        parts.append(f'<polygon class="band {s.css}" points="{points_of([*there, *reversed(back)])}"/>')
    line = [at(x, y) for x, y in zip(s.x, s.y, strict=True)]
    name = f"<title>{escape(s.name)}</title>"
    css = f"line {s.css} dash" if s.dashed else f"line {s.css}"
    parts.append(f'<polyline class="{css}" points="{points_of(line)}">{name}</polyline>')
    if len(line) <= DOTTED:
        parts += [f'<circle class="dot {s.css}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in line]
    return parts


def _legend(series: Sequence[Series], digits: int) -> str:
    items = "".join(
        f'<li><i class="key {s.css}{" dash" if s.dashed else ""}"></i>{escape(s.name)} <b>{s.y[-1]:.{digits}f}</b></li>'
        for s in series
    )
    return f'<ul class="legend">{items}</ul>'
