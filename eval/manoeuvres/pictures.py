"""One manoeuvre from above, as inline SVG: the road, everybody at the moment that mattered, and the ego's trail by speed.

Driving goes to the right. Every second of the trail has a dot. The moment shown is that of the first contact, else that when the
ego was nearest to anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import shapely

from nsdrive.world.areas import union_of
from nsdrive.world.geometry import box_corners, to_ego
from nsdrive.world.measure import clearance_m, overlap
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, OBJECT_KINDS, FloatArray, Scenario
from nsdrive.world.vehicle import ego_box

WIDTH_PX = 400.0
LEAST_LENGTH_M, LEAST_BREADTH_M, MOST_PX = (
    70.0,
    16.0,
    300.0,
)  # chosen by us: what a picture shows at least, how tall it gets
SPEED_COLORS = (  # m/s -> colour, linear in between; chosen by us, to be told apart on light and dark ground
    (0.0, (200, 30, 40)),
    (3.0, (232, 120, 20)),
    (6.0, (214, 168, 0)),
    (10.0, (40, 160, 90)),
    (15.0, (30, 120, 215)),
    (20.0, (120, 70, 210)),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drive:
    """One planner's rollout: states (T, 4 or more): x, y, heading, speed, global, every 0.1 s. replayed: nobody reacted to it."""

    states: FloatArray
    replayed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A window on a scene: the ego's first pose, and its bounds in the frame of that pose [m]."""

    pose: FloatArray
    low: FloatArray  # (2,)
    high: FloatArray

    @property
    def scale(self) -> float:
        """Pixels per metre."""
        span = self.high - self.low
        return float(min(WIDTH_PX / span[0], MOST_PX / span[1]))

    def pixels(self, points: FloatArray) -> FloatArray:
        """(N, 2) global points in the picture."""
        local = to_ego(points, self.pose)
        return np.asarray(np.column_stack([local[:, 0] - self.low[0], self.high[1] - local[:, 1]]) * self.scale)


def view_of(drives: Sequence[Drive]) -> View:
    """One window for all planners of a manoeuvre, so that their pictures can be compared."""
    pose = drives[0].states[0, :3]
    driven = np.concatenate([to_ego(drive.states[:, :2], pose) for drive in drives])
    low, high = driven.min(axis=0) - np.array([8.0, 7.0]), driven.max(axis=0) + np.array([16.0, 7.0])
    high[0] = max(high[0], low[0] + LEAST_LENGTH_M)
    short = np.array([0.0, max(0.0, LEAST_BREADTH_M - (high[1] - low[1])) / 2.0])
    return View(pose=pose, low=low - short, high=high + short)


def picture(scenario: Scenario, drive: Drive, view: View, title: str) -> str:
    """The SVG."""
    width, height = (view.high - view.low) * view.scale
    frames = scenario.frames[HISTORY_TICKS : HISTORY_TICKS + len(drive.states)]
    tick, hit = _moment(scenario, drive)
    parts = [
        f'<svg class="above" viewBox="0 0 {width:.0f} {height + 16:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>",
        *_map(scenario, view),
        *_trails(scenario, view, len(drive.states) if drive.replayed else 1),
        *_speed_trail(view, drive.states),
    ]
    shown = np.concatenate([drive.states[[tick]], drive.states[[0]]])
    for box, css in zip(ego_box(shown[:, :3]), ("car", "car start"), strict=True):
        parts.append(_polygon(view.pixels(box_corners(box[None])[0]), css))
    frame = frames[tick if drive.replayed else 0]
    for box, kind in zip(frame.boxes, frame.kinds, strict=True):
        corners = view.pixels(box_corners(box[None])[0])
        if (corners.max(axis=0) > 0.0).all() and (corners.min(axis=0) < [width, height]).all():
            parts.append(_polygon(_seen(corners), f"other {OBJECT_KINDS[kind]}"))
    if hit:
        ((x, y),) = view.pixels(ego_box(drive.states[[tick], :3])[:, :2])
        parts.append(f'<path class="hit" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"/>')
    length = 20.0 * view.scale
    parts.append(f'<path class="scale" d="M{width - length - 6:.1f} {height + 8:.1f}h{length:.1f}"/>')
    parts.append(f'<text class="end" x="{width - length - 10:.1f}" y="{height + 11:.1f}">20 m</text>')
    return "".join([*parts, "</svg>"])


def speed_legend() -> str:
    """HTML: which colour is which speed."""
    keys = [f'<li><i class="key" style="background:{_color(v)}"></i>{v:g} m/s</li>' for v, _ in SPEED_COLORS]
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _moment(scenario: Scenario, drive: Drive) -> tuple[int, bool]:
    """The tick to show, and whether anything is touched then."""
    if not drive.replayed:
        return len(drive.states) - 1, False
    frames = scenario.frames[HISTORY_TICKS : HISTORY_TICKS + len(drive.states)]
    boxes = ego_box(drive.states[:, :3])
    contacts = overlap(boxes, frames)
    if contacts:
        return contacts[0].tick, True
    gaps = clearance_m(boxes, frames)
    return (int(np.argmin(gaps)) if np.isfinite(gaps).any() else len(gaps) - 1), False


def _map(scenario: Scenario, view: View) -> list[str]:
    """Road, crosswalks, lane lines and the manoeuvre's line, as far as the window shows them."""
    lane_map = scenario.lane_map
    window = shapely.box(0.0, 0.0, *((view.high - view.low) * view.scale))
    ground = union_of([shapely.Polygon(view.pixels(ring)).buffer(0.05) for ring in lane_map.drivable_area])
    parts = [_shape(ground.intersection(window), "road")]
    parts += [
        _shape(shapely.Polygon(view.pixels(crosswalk.polygon)).intersection(window), "crosswalk")
        for crosswalk in lane_map.crosswalks.values()
    ]
    for lane in lane_map.lanes.values():
        if lane.is_connector and lane.intersection_id:
            continue
        sides = [(lane.right_boundary, lane.right_marking)]
        if lane.left_neighbor is None:
            sides.append((lane.left_boundary, lane.left_marking))
        for line, marking in sides:
            cut = shapely.LineString(view.pixels(line)).intersection(window)
            css = " ".join(f"m-{word}" for word in marking.split("_"))
            parts += [_line(np.array(part.simplify(0.2).coords), css) for part in _parts(cut, "LineString")]
    if "line" in scenario.notes:
        x, y, heading = scenario.notes["line"]
        across = np.array([[-1.75], [1.75]]) * np.array([-np.sin(heading), np.cos(heading)])
        parts.append(_line(view.pixels(np.array([x, y]) + across), "stop"))
    return parts


def _trails(scenario: Scenario, view: View, ticks: int) -> list[str]:
    """Where everybody else went."""
    tracks: dict[str, list[FloatArray]] = {}
    for frame in scenario.frames[HISTORY_TICKS : HISTORY_TICKS + ticks : 5]:
        for track_id, box in zip(frame.ids, frame.boxes, strict=True):
            tracks.setdefault(track_id, []).append(box[:2])
    window = shapely.box(0.0, 0.0, *((view.high - view.low) * view.scale))
    parts = []
    for track in tracks.values():
        if np.ptp(np.array(track), axis=0).max() > 1.0:
            cut = shapely.LineString(view.pixels(np.array(track))).intersection(window)
            parts += [_line(np.array(part.simplify(0.3).coords), "trail") for part in _parts(cut, "LineString")]
    return parts


def _speed_trail(view: View, states: FloatArray) -> list[str]:
    """The ego's way, in runs of one colour each, one colour per metre per second; a dot every second."""
    at = view.pixels(states[:, :2])
    speeds = np.round(states[:, 3])
    parts, begin = [], 0
    for k in range(1, len(at)):
        if k == len(at) - 1 or speeds[k] != speeds[begin]:
            run = shapely.LineString(at[begin : k + 1]).simplify(0.15)
            parts.append(_line(np.array(run.coords), "way", stroke=_color(float(speeds[begin]))))
            begin = k
    every = round(1.0 / INTERVAL_S)
    parts += [f'<circle class="tick" cx="{x:.1f}" cy="{y:.1f}" r="1.4"/>' for x, y in at[::every]]
    return parts


def _color(speed_mps: float) -> str:
    speeds = [v for v, _ in SPEED_COLORS]
    rgb = [np.interp(speed_mps, speeds, [color[c] for _, color in SPEED_COLORS]) for c in range(3)]
    return f"#{''.join(f'{round(float(v)):02x}' for v in rgb)}"


def _seen(corners: FloatArray, least_px: float = 4.0) -> FloatArray:
    """Corners (4, 2) of a box that is too small to be seen, made larger around its middle."""
    middle = corners.mean(axis=0)
    size = float(np.hypot(*(corners[2] - corners[0])))
    return np.asarray(middle + (corners - middle) * max(1.0, least_px / max(size, 1e-6)))


def _parts(geometry: shapely.Geometry, kind: str) -> list[shapely.Geometry]:
    return [part for part in getattr(geometry, "geoms", [geometry]) if part.geom_type == kind and not part.is_empty]


def _shape(geometry: shapely.Geometry, css: str) -> str:
    paths = []
    for part in _parts(geometry, "Polygon"):
        for ring in (part.exterior, *part.interiors):
            points = np.array(ring.simplify(0.25).coords)
            paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "z")
    return f'<path class="{css}" d="{"".join(paths)}"/>' if paths else ""


def _line(points: FloatArray, css: str, stroke: str | None = None) -> str:
    color = f' stroke="{stroke}"' if stroke else ""
    return f'<polyline class="{css}"{color} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _polygon(points: FloatArray, css: str) -> str:
    return f'<polygon class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
