"""Charts as inline SVG, drawn here: no plotting library, no script, colours from the page's style sheet.

A series has a CSS class (`s0`, `s1`, ...); the page gives each class its colour in light and dark. Same input, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from nsdrive.dataset import Sample
from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray

CHART_WIDTH, CHART_HEIGHT = 560, 320
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 52, 16, 14, 46
PLOT_WIDTH, PLOT_MAX_HEIGHT = 720, 400
FARTHEST_M = 120.0  # chosen by us: a plot shows no more than this around the ego, whatever a model says


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

    parts = [_svg(CHART_WIDTH, CHART_HEIGHT, title)]
    for y in ticks_y:
        parts.append(_line(MARGIN_LEFT, py(y), CHART_WIDTH - MARGIN_RIGHT, py(y), "grid"))
        parts.append(_text(MARGIN_LEFT - 8, py(y) + 4, f"{y:g}", "tick end"))
    for x in ticks_x:
        if x <= x_high + 1e-9:
            parts.append(_text(px(x), CHART_HEIGHT - MARGIN_BOTTOM + 18, f"{x:g}", "tick middle"))
    parts.append(_text(MARGIN_LEFT + wide / 2, CHART_HEIGHT - 8, x_label, "axis middle"))
    parts.append(
        f'<text class="axis middle" transform="translate(14 {MARGIN_TOP + tall / 2:.1f}) rotate(-90)">{escape(y_label)}</text>'
    )
    for s in reversed(series):  # the first is the subject: drawn last, on top
        if s.band:
            there = [(px(x), py(y)) for x, y in zip(s.x, s.band[1], strict=True)]
            back = [(px(x), py(y)) for x, y in zip(s.x, s.band[0], strict=True)]
            parts.append(f'<polygon class="band {s.css}" points="{_points([*there, *reversed(back)])}"/>')
        line = [(px(x), py(y)) for x, y in zip(s.x, s.y, strict=True)]
        css = f"line {s.css} dash" if s.dashed else f"line {s.css}"
        name = f"<title>{escape(s.name)}</title>"
        parts.append(f'<polyline class="{css}" points="{_points(line)}">{name}</polyline>')
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """HTML that names the lines."""
    items = "".join(f'<li><i class="key {s.css}"></i>{escape(s.name)}</li>' for s in series)
    return f'<ul class="legend">{items}</ul>'


def trajectory_plot(sample: Sample, predicted_m: FloatArray | None) -> str:
    """Both futures and the history from above in the ego frame, metres, the same scale both ways, driving to the right."""
    history = np.array([[h["x_m"], h["y_m"]] for h in sample.ego_history], dtype=float).reshape(-1, 2)
    label = np.concatenate([np.zeros((1, 2)), sample.waypoints_ego_m])
    shown = [history, label]
    predicted = None
    if predicted_m is not None:
        predicted = np.concatenate([np.zeros((1, 2)), predicted_m])
        shown.append(predicted)
    everything = np.clip(np.concatenate(shown), -FARTHEST_M, FARTHEST_M)
    low, high = everything.min(axis=0) - 2.0, everything.max(axis=0) + 2.0
    # at least 36 m by 10 m, so that a straight road looks like one and a standing car stands
    high[0] = max(high[0], low[0] + 36.0)
    short = max(0.0, 10.0 - (high[1] - low[1])) / 2.0
    low[1], high[1] = low[1] - short, high[1] + short
    span = high - low
    scale = min(PLOT_WIDTH / span[0], PLOT_MAX_HEIGHT / span[1])
    width, height = PLOT_WIDTH, span[1] * scale
    left = (PLOT_WIDTH - span[0] * scale) / 2.0

    def pixels(points: FloatArray) -> list[tuple[float, float]]:
        clipped = np.clip(points, -FARTHEST_M, FARTHEST_M)
        return [(left + (x - low[0]) * scale, (high[1] - y) * scale) for x, y in clipped]

    parts = [_svg(width, height, "Label and prediction from above, ego frame")]
    step = nice_ticks(float(span.max()), most=10)[1]
    for x in np.arange(math.ceil(low[0] / step) * step, high[0], step):
        ((at, _),) = pixels(np.array([[x, 0.0]]))
        parts.append(_line(at, 0, at, height, "grid"))
        parts.append(_text(at + 3, height - 4, f"{x + 0.0:g} m", "tick"))
    for y in np.arange(math.ceil(low[1] / step) * step, high[1], step):
        ((_, at),) = pixels(np.array([[0.0, y]]))
        parts.append(_line(0, at, width, at, "grid"))
    parts.append(f'<polyline class="line past" points="{_points(pixels(history))}"/>')
    if predicted is not None:
        for (x1, y1), (x2, y2) in zip(pixels(label[1:]), pixels(predicted[1:]), strict=True):
            parts.append(_line(x1, y1, x2, y2, "error"))
    for points, css in ((label, "label"), (predicted, "s0")):
        if points is not None:
            parts.append(f'<polyline class="line {css}" points="{_points(pixels(points))}"/>')
            parts += [f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in pixels(points[1:])]
    ((x, y),) = pixels(np.zeros((1, 2)))
    parts.append(f'<path class="ego" d="M{x + 9:.1f} {y:.1f} l-15 -7 l4 7 l-4 7 z"/>')
    return "".join([*parts, "</svg>"])


def speed_plot(sample: Sample, predicted_m: FloatArray | None) -> str:
    """Speed between waypoints, label and prediction: where it brakes too late is plain to see."""
    middle_s = WAYPOINT_INTERVAL_S * (np.arange(N_WAYPOINTS) + 0.5)
    series = []
    if predicted_m is not None:
        series.append(Series(name="prediction", css="s0", x=middle_s.tolist(), y=_speeds_mps(predicted_m)))
    series.append(Series(name="label", css="label", x=middle_s.tolist(), y=_speeds_mps(sample.waypoints_ego_m)))
    return line_chart(
        series, title="Speed over time", x_label="time from the anchor [s]", y_label="speed [m/s]", least_top=2.0
    )


def nice_ticks(high: float, *, most: int = 6) -> list[float]:
    """0, step, ... up to at least `high`, the step 1, 2 or 5 times a power of ten, at most `most` steps."""
    raw = high / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= raw * (1.0 - 1e-9))
    return [round(step * k, 10) for k in range(math.ceil(high / step - 1e-9) + 1)]


def _speeds_mps(waypoints_m: FloatArray) -> list[float]:
    steps = np.diff(np.clip(waypoints_m, -FARTHEST_M, FARTHEST_M), axis=0, prepend=0.0)
    return (np.hypot(steps[:, 0], steps[:, 1]) / WAYPOINT_INTERVAL_S).tolist()


def _svg(width: float, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>"
    )


def _points(pixels: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
