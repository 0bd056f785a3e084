"""What tells traffic to stop on a nuPlan map: stop polygons and traffic lights, as our stop lines and signals.

A stop polygon becomes the edge that traffic meets first, where nuPlan's planners measure their distance to. Which stop
lines a connector has follows the official rule for traffic lights; other signs are those that name the connector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from nsdrive.scenarios.nuplan.geopackage import Feature, fids_in
from nsdrive.world.areas import union_of
from nsdrive.world.lane_map import Lane, Signal, StopLine
from nsdrive.world.types import FloatArray

TRAFFIC_LIGHT, STOP_SIGN = 2, 1
TURN_STOP = 3  # where a turning car waits inside an intersection: no connector begins there
KINDS = {
    0: "crosswalk",
    STOP_SIGN: "stop_sign",
    TRAFFIC_LIGHT: "traffic_light",
    TURN_STOP: "yield",
    4: "yield",
}  # StopLineType
SIGNS = ("stop_sign", "yield", "crosswalk")  # what a connector does not list itself, as it does its traffic lights
SIGN_REACH_M = 5.0  # chosen by us: a sign's polygon lies within this distance of where its connector starts
POLE_STEP_M, POLE_REACH_M = 0.5, 25.0  # chosen by us: how far aside of a light that hangs over the road its pole may be
ASIDE_M = 1.0  # chosen by us: from the road's edge to the pole
BOARD_ASIDE_M, BOARD_BEFORE_M = (
    0.7,
    0.6,
)  # chosen by us, as in generated scenes: from the edge and the line to a stop sign


@dataclass(frozen=True, kw_only=True, eq=False)
class StopPolygon:
    """One row of the layer stop_polygons; connectors are the ones that it names."""

    stop_id: str
    polygon: Any  # shapely
    kind: str  # one of KINDS' values, or "unknown"
    connectors: frozenset[int]


def read_stop_polygons(rows: Mapping[int, Feature]) -> dict[str, StopPolygon]:
    """By id; the rows have the columns stop_polygon_type_fid and lane_connector_fids."""
    return {
        str(fid): StopPolygon(
            stop_id=str(fid),
            polygon=row.geometry,
            kind=KINDS.get(row.columns["stop_polygon_type_fid"], "unknown"),
            connectors=frozenset(
                fids_in(row.columns["lane_connector_fids"]) if row.columns["stop_polygon_type_fid"] != TURN_STOP else ()
            ),
        )
        for fid, row in rows.items()
    }


def stop_lines_of(
    connector: int, traffic_light_stops: Any, centerline: FloatArray, stops: Mapping[str, StopPolygon]
) -> tuple[str, ...]:
    """The stop lines of a connector: nuPlan's for its traffic lights, then the signs at its start that name it.

    nuPlan's rule (NuPlanLaneConnector.stop_lines): of those that the connector lists, the ones that its baseline
    crosses; where it crosses none, the one nearest to its start.
    """
    line, start = shapely.LineString(centerline), shapely.Point(centerline[0])
    listed = [stops[str(fid)] for fid in fids_in(traffic_light_stops) if str(fid) in stops]
    crossed = [stop for stop in listed if stop.polygon.intersects(line)]
    if listed and not crossed:
        crossed = [min(listed, key=lambda stop: start.distance(stop.polygon))]
    signs = [
        stop
        for stop in stops.values()
        if stop.kind in SIGNS
        and connector in stop.connectors
        and stop not in crossed
        and start.distance(stop.polygon) <= SIGN_REACH_M
    ]
    return tuple(stop.stop_id for stop in (*crossed, *signs))


def stop_lines(stops: Mapping[str, StopPolygon], lanes: Mapping[str, Lane]) -> dict[str, StopLine]:
    """Every stop polygon as a line. One of unknown kind is a traffic light's where a connector has it, else left out."""
    users: dict[str, list[Lane]] = {}
    for lane in lanes.values():
        for stop_id in lane.stop_line_ids:
            users.setdefault(stop_id, []).append(lane)
    lines = {}
    for stop_id, stop in stops.items():
        kind = stop.kind
        if kind == "unknown":
            if stop_id not in users:
                continue
            kind = "traffic_light"
        named = [lanes[str(fid)] for fid in sorted(stop.connectors) if str(fid) in lanes]
        heading = _heading(stop, users.get(stop_id) or named or list(lanes.values()))
        lines[stop_id] = StopLine(stop_line_id=stop_id, line=first_edge(stop.polygon, heading), kind=kind)
    return lines


def first_edge(polygon: Any, heading_rad: float) -> FloatArray:
    """(2, 2): the edge of the polygon's smallest rectangle that traffic of this heading meets first, left to right."""
    box = shapely.minimum_rotated_rectangle(polygon)
    corners = shapely.get_coordinates(box)[:4]
    if len(corners) < 4:  # a polygon without width is the line itself
        corners = shapely.get_coordinates(box)[[0, 0, -1, -1]]
    ahead = np.array([np.cos(heading_rad), np.sin(heading_rad)])
    edges = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    steps = edges[:, 1] - edges[:, 0]
    across = np.abs(steps @ np.array([-ahead[1], ahead[0]])) >= np.abs(steps @ ahead) - 1e-9  # not the flanks
    along = np.where(across, edges.mean(axis=1) @ ahead, np.inf)
    edge = edges[int(along.argmin())]
    left_first = (edge[0] - edge[1]) @ np.array([-ahead[1], ahead[0]]) >= 0
    return edge if left_first else edge[::-1].copy()


def read_signals(
    rows: Mapping[int, Feature],
    connectors_of: Mapping[int, Sequence[str]],
    lanes: Mapping[str, Lane],
    surface: Any,
) -> tuple[Signal, ...]:
    """Traffic lights that connectors list. A light over the road (`surface_of`) gets a pole at its right-hand edge, and an arm."""
    signals = []
    for fid, row in rows.items():
        mine = tuple(connector for connector in connectors_of.get(fid, ()) if connector in lanes)
        if not mine or row.geometry.geom_type != "Point":
            continue
        starts = [lanes[connector].centerline[1] - lanes[connector].centerline[0] for connector in mine]
        x, y = np.sum([step / max(float(np.hypot(*step)), 1e-9) for step in starts], axis=0).tolist()
        heading = float(np.arctan2(y, x))
        right = np.array([np.sin(heading), -np.cos(heading)])
        head = shapely.get_coordinates(row.geometry)[0]
        beside = _beside_m(surface, head, right)
        arm = 0.0 if beside is None or beside == 0.0 else beside + ASIDE_M
        pole = head + arm * right
        signals.append(
            Signal(
                signal_id=str(fid),
                x_m=float(pole[0]),
                y_m=float(pole[1]),
                heading_rad=heading,
                connector_ids=mine,
                arm_m=arm,
            )
        )
    return tuple(signals)


def read_stop_signs(lines: Iterable[StopLine], surface: Any) -> tuple[tuple[float, float, float], ...]:
    """x, y, heading of the board of each stop sign, of which nuPlan tells only where to stop: at the road's edge right of it."""
    signs = []
    for line in lines:
        across = line.line[1] - line.line[0]  # left to right
        width = float(np.hypot(*across))
        if line.kind != "stop_sign" or width == 0.0:
            continue
        right = across / width
        ahead = np.array([-right[1], right[0]])
        beside = _beside_m(surface, line.line[1], right)
        x, y = line.line[1] + ((beside or 0.0) + BOARD_ASIDE_M) * right - BOARD_BEFORE_M * ahead
        signs.append((float(x), float(y), float(np.arctan2(ahead[1], ahead[0]))))
    return tuple(signs)


def surface_of(road: Iterable[FloatArray]) -> Any:
    """All that can be driven on as one shape, prepared for many questions."""
    surface = union_of(shapely.make_valid(shapely.polygons([shapely.linearrings(ring) for ring in road])))
    shapely.prepare(surface)
    return surface


def _beside_m(surface: Any, place: FloatArray, right: FloatArray) -> float | None:
    """How far to the right of a place the road ends, 0.0 where it is beside the road; None where that is not in reach."""
    steps = np.arange(0.0, POLE_REACH_M, POLE_STEP_M)
    clear = ~shapely.intersects_xy(surface, *(place + steps[:, None] * right).T)
    return float(steps[int(clear.argmax())]) if clear.any() else None


def _heading(stop: StopPolygon, lanes: Sequence[Lane]) -> float:
    """Where the traffic at a stop polygon goes: the direction of the nearest piece of these lanes."""
    middle = shapely.get_coordinates(stop.polygon.centroid)[0]
    best, heading = np.inf, 0.0
    for lane in lanes:
        steps = np.diff(lane.centerline, axis=0)
        centers = lane.centerline[:-1] + 0.5 * steps
        distance = np.hypot(*(centers - middle).T)
        nearest = int(distance.argmin())
        if distance[nearest] < best:
            best, heading = float(distance[nearest]), float(np.arctan2(steps[nearest, 1], steps[nearest, 0]))
    return heading
