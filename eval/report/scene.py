"""A sample from above, as data for the page: road, objects, history and futures, in the ego frame at the anchor.

Pictures are drawn with ahead up: a point (x forward, y left) lies at (-y, -x) of the drawing, in metres, to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import shapely

from nsdrive.dataset import Sample
from nsdrive.world.areas import union_of
from nsdrive.world.geometry import to_ego
from nsdrive.world.types import FloatArray, Scenario
from nsdrive.world.vehicle import PACIFICA

Scenes = Callable[[Sample], Scenario]  # the sample's scenario again; ValueError or OSError where it cannot be had

AHEAD_M, BEHIND_M, ASIDE_M = 60.0, 16.0, 25.0  # chosen by us: what is shown at least
FAR_M = 150.0  # chosen by us: what a label may stretch the picture to
SPOKEN_OF_M = (
    90.0,
    45.0,
    45.0,
)  # chosen by us: ahead, behind and aside, up to where objects that texts speak of stretch it
MOST_OBJECTS = 300  # chosen by us: more than this in one scene is no scene of ours
NUMBERS = ("x_m", "y_m", "heading_rad", "length_m", "width_m", "height_m", "speed_mps")
LIGHTS = ("unknown", "green", "yellow", "red")  # where a lane's ways differ, the strictest colours its bar
MOST_WORDS = 200  # characters of an id or a kind


def objects_of(sample: Sample) -> list[dict[str, Any]] | None:
    """The sample's objects with finite numbers, each with `name` (in the texts, or None) and `cameras` that see it.

    None where the sample lists no objects: data made before they were.
    """
    listed = sample.extra.get("objects")
    if not isinstance(listed, list):
        return None
    names = {str(thing): str(name) for name, thing in sample.trace_names.items()}
    seen = sample.extra.get("seen")
    seen = seen if isinstance(seen, Mapping) else {}
    found = []
    for row in listed[:MOST_OBJECTS]:
        if not isinstance(row, Mapping) or not all(_finite(row.get(key)) for key in NUMBERS):
            continue
        thing = str(row.get("id"))[:MOST_WORDS]
        found.append(
            {key: round(float(row[key]), 2) for key in NUMBERS}
            | {
                "id": thing,
                "kind": str(row.get("kind"))[:MOST_WORDS],
                "name": names.get(thing),
                "cameras": [str(c) for c, things in seen.items() if isinstance(things, Mapping) and thing in things],
            }
        )
    return found


def from_above(sample: Sample, objects: list[dict[str, Any]], scenario: Scenario | None) -> dict[str, Any]:
    """The picture's window, ego, history, label, object boxes, and the road where the scenario is there."""
    ahead, behind, aside = SPOKEN_OF_M
    spoken_of = np.array([[o["x_m"], o["y_m"]] for o in objects if o["name"]]).reshape(-1, 2)
    near = (spoken_of < [ahead, aside]).all(axis=1) & (spoken_of > [-behind, -aside]).all(axis=1)
    reach = np.concatenate([np.clip(sample.waypoints_ego_m, -FAR_M, FAR_M), spoken_of[near]])
    low = np.minimum([-BEHIND_M, -ASIDE_M], reach.min(axis=0) - 5.0)
    high = np.maximum([AHEAD_M, ASIDE_M], reach.max(axis=0) + 5.0)
    half_m = float(max(-low[1], high[1]))
    window = [round(v, 1) for v in (-half_m, -high[0], 2.0 * half_m, high[0] - low[0])]
    history = [[h["x_m"], h["y_m"]] for h in sample.ego_history]
    return {
        "window": window,
        "ego": drawn(_box(PACIFICA.rear_axle_to_center_m, 0.0, 0.0, PACIFICA.length_m, PACIFICA.width_m)),
        "history": drawn(np.array(history, dtype=float).reshape(-1, 2)),
        "label": drawn(with_origin(sample.waypoints_ego_m)),
        "road": [] if scenario is None else road(scenario, sample, window),
        "boxes": {
            o["id"]: drawn(_box(o["x_m"], o["y_m"], o["heading_rad"], o["length_m"], o["width_m"])) for o in objects
        },
    }


def road(scenario: Scenario, sample: Sample, window: list[float]) -> list[tuple[str, str]]:
    """(CSS class, SVG path) of the map's parts in the window, the lowest first; bars of lights in their colours."""
    pose = np.array(sample.anchor["pose_global"], dtype=float)
    lane_map, lights = scenario.lane_map, scenario.lights[int(sample.anchor["tick"])]
    left, top, width, height = window
    view = shapely.box(left - 2.0, top - 2.0, left + width + 2.0, top + height + 2.0)

    def here(points: FloatArray) -> FloatArray:
        local = to_ego(np.asarray(points, dtype=float)[:, :2], pose)
        return np.column_stack([-local[:, 1], -local[:, 0]])

    def area(css: str, polygons: list[FloatArray]) -> None:
        rings = [shapely.Polygon(here(ring)).buffer(0.05) for ring in polygons if len(ring) >= 3]
        shape = union_of(rings).intersection(view).simplify(0.08)
        path = "".join(
            _path(np.array(ring.coords), closed=True)
            for part in _parts(shape, "Polygon")
            for ring in (part.exterior, *part.interiors)
        )
        if path:
            layers.append((css, path))

    def line(css: str, points: FloatArray) -> None:
        if len(points) >= 2:
            cut = shapely.LineString(here(points)).intersection(view).simplify(0.08)
            path = "".join(_path(np.array(part.coords), closed=False) for part in _parts(cut, "LineString"))
            if path:
                layers.append((css, path))

    layers: list[tuple[str, str]] = []
    lanes = lane_map.lanes
    area("walkway", list(lane_map.walkways))
    area("road", list(lane_map.drivable_area) or [lane.polygon for lane in lanes.values()])
    area("crosswalk", [crosswalk.polygon for crosswalk in lane_map.crosswalks.values()])
    for lane in lanes.values():
        line("centre", lane.centerline)
    for lane in lanes.values():
        for boundary, marking in ((lane.left_boundary, lane.left_marking), (lane.right_boundary, lane.right_marking)):
            if marking != "none":
                line(" ".join(f"m-{word}" for word in marking.split("_")), boundary)
    for stop_line in lane_map.stop_lines.values():
        line("stop sign" if stop_line.kind == "stop_sign" else "stop", stop_line.line)
    bars: dict[tuple[str, ...], tuple[str, FloatArray]] = {}
    for state in LIGHTS:
        for connector in sorted(lights):
            found = lanes.get(connector)
            if lights[connector] == state and found is not None and len(found.centerline) >= 2:
                line(f"light way {state}", found.centerline[: max(2, len(found.centerline) // 4)])
                ends = np.array([found.left_boundary[0], found.right_boundary[0]])
                bars[found.incoming or (connector,)] = (state, ends)
    for state, bar in bars.values():
        line(f"light bar {state}", bar)
    return _merged(layers)


def drawn(points: FloatArray) -> list[list[float]]:
    """(N, 2) points of the ego frame as the picture has them."""
    return [[round(-float(y), 2) + 0.0, round(-float(x), 2) + 0.0] for x, y in np.clip(points, -1e4, 1e4)]


def with_origin(waypoints_ego_m: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((1, 2)), waypoints_ego_m])


def _merged(layers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Paths of one class that follow each other made one."""
    merged: list[tuple[str, str]] = []
    for css, path in layers:
        if merged and merged[-1][0] == css:
            merged[-1] = (css, merged[-1][1] + path)
        else:
            merged.append((css, path))
    return merged


def _box(x_m: float, y_m: float, heading_rad: float, length_m: float, width_m: float) -> FloatArray:
    """(4, 2) corners, the front ones first."""
    ahead = np.array([math.cos(heading_rad), math.sin(heading_rad)])
    left = np.array([-ahead[1], ahead[0]])
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return np.array([np.array([x_m, y_m]) + 0.5 * (a * length_m * ahead + b * width_m * left) for a, b in signs])


def _parts(geometry: shapely.Geometry, kind: str) -> list[shapely.Geometry]:
    return [part for part in getattr(geometry, "geoms", [geometry]) if part.geom_type == kind and not part.is_empty]


def _path(points: FloatArray, *, closed: bool) -> str:
    points = points[:-1] if closed else points
    return (
        "M" + "L".join(f"{round(float(x), 1) + 0.0:g} {round(float(y), 1) + 0.0:g}" for x, y in points) + "z" * closed
    )


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e5
