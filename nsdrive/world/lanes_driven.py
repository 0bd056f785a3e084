"""Which lanes a car was in as it drove, how far along them it came, and what limit held there: numbers, without thresholds.

Points are assigned to lanes by the rules of nuPlan's metrics (nuplan-devkit v1.2, Apache-2.0: planning/metrics/utils/
route_extractor.py, ego_progress_along_expert_route.py, driving_direction_compliance.py), written anew over arrays: a point
keeps its lane while it is inside, goes on to a following lane, and is looked up afresh where neither holds; the connectors
that overlap in an intersection are told apart by the lane that is reached after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import shapely

from nsdrive.world.areas import union_of
from nsdrive.world.geometry import box_corners
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import FloatArray

Lanes = tuple[str, ...]  # one lane, several connectors, or nothing: where a point is
NEAR_CONNECTOR_M = 5.0  # nuPlan get_route: this near to its connector, an ego in an intersection is still on it


@dataclass(frozen=True, kw_only=True, eq=False)
class LanesDriven:
    """T moments of a drive.

    centre: where the box's centre is at each. corners: at each, where its four corners are (front left, rear left, rear
    right, front right). together (T,) bool: all corners are in one lane, or in lanes that follow each other. intersection
    (T,) bool: the rear axle is inside an intersection.
    """

    centre: tuple[Lanes, ...]
    corners: tuple[tuple[Lanes, Lanes, Lanes, Lanes], ...]
    together: np.ndarray
    intersection: np.ndarray


def lanes_driven(lane_map: LaneMap, ego_boxes: FloatArray, rear_axles: FloatArray) -> LanesDriven:
    """ego_boxes (T, 5) from `nsdrive.world.vehicle.ego_box`, rear_axles (T, 2 or more)."""
    boxes = np.asarray(ego_boxes, dtype=np.float64)
    corner_points = box_corners(boxes).reshape(-1, 2)
    inside = lanes_holding(lane_map, np.concatenate([corner_points, boxes[:, :2]]))
    corners = _corner_lanes(lane_map, corner_points, inside[: len(corner_points)])
    return LanesDriven(
        centre=_lanes_along(lane_map, boxes[:, :2], inside[len(corner_points) :]),
        corners=corners,
        together=np.array([_together(lane_map, moment) for moment in corners], dtype=bool),
        intersection=in_intersection(lane_map, np.asarray(rear_axles, dtype=np.float64)[:, :2]),
    )


def lanes_along(lane_map: LaneMap, points: FloatArray) -> tuple[Lanes, ...]:
    """Where each of (T, 2) points in order of time is: a lane, the connectors that it may be on, or () off all lanes."""
    points = np.asarray(points, dtype=np.float64)
    return _lanes_along(lane_map, points, lanes_holding(lane_map, points))


def _lanes_along(lane_map: LaneMap, points: FloatArray, inside: Sequence[Lanes]) -> tuple[Lanes, ...]:
    """inside: the lanes that hold each of the points."""
    crossing = in_intersection(lane_map, points)
    found: list[Lanes] = []
    for k, here in enumerate(inside):
        now = _carried_on(lane_map, found[-1], here) if found and found[-1] else ()
        if not now:
            now = _afresh(lane_map, here, points[k])
            before = found[-1] if k > 1 else ()
            if _on_connector(lane_map, before) and (_on_connector(lane_map, now) or (not now and crossing[k])):
                areas, point = _areas(lane_map), shapely.Point(points[k])
                near = [i for i in before if shapely.distance(areas.polygon_of(i), point) < NEAR_CONNECTOR_M]
                now = tuple(near) or now
        found.append(now)
    for k in range(len(found) - 2, -1, -1):  # from the end: the lane reached tells which connector led there
        now, following = found[k], found[k + 1]
        if len(now) <= 1:
            continue
        if len(following) < len(now) and set(following) <= set(now):
            found[k] = following
        if following and not lane_map.lanes[following[0]].is_connector:
            leading = tuple(i for i in now if i in lane_map.lanes[following[0]].incoming)
            found[k] = leading or found[k]
    return tuple(found)


def lane_progress_m(lane_map: LaneMap, lanes: Sequence[Lanes], points: FloatArray) -> FloatArray:
    """(T,): how far each of (T, 2) points came along its lane's direction since the one before; below 0 against it.

    0.0 off all lanes, and for the first two points in a lane, as nuPlan counts.
    """
    out = np.zeros(len(lanes))
    lane, before = (lanes[0][0] if lanes and lanes[0] else None), None
    along: dict[str, FloatArray] = {}
    for k, here in enumerate(lanes):
        if not here:
            continue
        if here[0] != lane:
            lane, before = here[0], None
            continue
        if lane not in along:
            along[lane] = _along(_areas(lane_map).line_of(lane), points)
        now = float(along[lane][k])
        out[k] = now - before if before is not None and now else 0.0
        before = now
    return out


def limits_mps(lane_map: LaneMap, lanes: Sequence[Lanes]) -> FloatArray:
    """(T,): the speed limit at each moment, nan off all lanes and where it is not known.

    In an intersection it is the highest of the lanes that its connectors join, and unknown if one of theirs is (nuPlan
    speed_limit_compliance.py).
    """
    known: dict[Lanes, float] = {(): np.nan}
    for here in dict.fromkeys(lanes):
        if not here:
            continue
        if lane_map.lanes[here[0]].is_connector:
            ends = [n for i in here for n in (*lane_map.lanes[i].outgoing, *lane_map.lanes[i].incoming)]
            limits = [lane_map.lanes[n].speed_limit_mps for n in ends if n in lane_map.lanes]
        else:
            limits = [lane_map.lanes[here[0]].speed_limit_mps]
        known[here] = max(float(v or np.nan) for v in limits) if limits and all(limits) else np.nan
    return np.array([known[here] for here in lanes])


@dataclass(frozen=True, kw_only=True, eq=False)
class RouteBlocks:
    """The roadblocks that a drive passed through, in order: each one's area, and the centerline of the lane taken in it."""

    areas: tuple[shapely.Geometry, ...]
    lines: tuple[shapely.LineString, ...]


def route_blocks(lane_map: LaneMap, points: FloatArray) -> RouteBlocks:
    """The roadblocks of a drive of (T, 2) points; empty where it was never in a lane."""
    taken: list[Lanes] = []
    for here in lanes_along(lane_map, points):
        if here and (not taken or not set(taken[-1]) & set(here)):
            taken.append(here)
    first = [here[0] for here in taken]
    blocks = [lane_map.lanes[i].roadblock_id for i in first]
    kept = [k for k in range(len(first)) if k == 0 or blocks[k] != blocks[k - 1]]
    areas = _areas(lane_map)
    return RouteBlocks(
        areas=tuple(areas.block_of(blocks[k]) for k in kept), lines=tuple(areas.line_of(first[k]) for k in kept)
    )


def route_progress_m(blocks: RouteBlocks, points: FloatArray) -> float:
    """How far (T, 2) points came along these roadblocks, from the first point to the last; 0.0 for no blocks.

    Off them nothing is gained; entering a later block gains what lies between (nuPlan's
    PerFrameProgressAlongRouteComputer).
    """
    if not blocks.areas:
        return 0.0
    points = np.asarray(points, dtype=np.float64)[:, :2]
    inside = [shapely.contains_xy(area, points[:, 0], points[:, 1]) for area in blocks.areas]
    along = [_along(line, points) for line in blocks.lines]
    starts = [shapely.get_point(line, 0) for line in blocks.lines]
    ends = [shapely.get_point(line, -1) for line in blocks.lines]
    total, block, before = 0.0, 0, float(along[0][0])
    for k in range(1, len(points)):
        if inside[block][k]:
            total += float(along[block][k]) - before
            before = float(along[block][k])
            continue
        entered = next((b for b in range(block + 1, len(inside)) if inside[b][k]), None)
        if entered is None:
            continue
        total += shapely.length(blocks.lines[block]) - before
        for b in range(block + 1, entered):
            line = blocks.lines[b]
            total += shapely.line_locate_point(line, starts[b + 1]) - shapely.line_locate_point(line, ends[b - 1])
        before = float(along[entered][k])
        total += before - shapely.line_locate_point(blocks.lines[entered], ends[block])
        block = entered
    return float(total)


def lanes_holding(lane_map: LaneMap, points: FloatArray) -> list[Lanes]:
    """For each of (P, 2) points every lane and connector whose area it is strictly inside, in the map's order."""
    areas = _areas(lane_map)
    rows, columns = areas.tree.query(shapely.points(points))  # whose bounds hold the point, then whose area does
    found: list[list[str]] = [[] for _ in range(len(points))]
    for column in np.unique(columns).tolist():
        near = rows[columns == column]
        lane_id = areas.lane_ids[column]
        for row in near[shapely.contains_xy(areas.polygon_of(lane_id), points[near, 0], points[near, 1])].tolist():
            found[row].append(lane_id)
    return [tuple(lane_ids) for lane_ids in found]


def in_intersection(lane_map: LaneMap, points: FloatArray) -> np.ndarray:
    """(T,) bool: which of (T, 2) points are inside an intersection. A map without intersections has its connectors instead."""
    area = _areas(lane_map).intersections
    if area is not None:
        return np.asarray(shapely.contains_xy(area, points[:, 0], points[:, 1]))
    return np.array([any(lane_map.lanes[i].is_connector for i in here) for here in lanes_holding(lane_map, points)])


def is_in_a_lane(lane_map: LaneMap, x_m: float, y_m: float) -> bool:
    """Whether a point is strictly inside any lane or connector."""
    return len(_areas(lane_map).tree.query(shapely.Point(x_m, y_m), predicate="within")) > 0


# ---- where points are ---------------------------------------------------------------------------------------------


def _carried_on(lane_map: LaneMap, now: Lanes, here: Lanes) -> Lanes:
    """The same lanes, as far as they still hold the point; else, where it was one lane, those that follow it."""
    stayed = tuple(i for i in now if i in here)
    if stayed or len(now) != 1:
        return stayed
    return tuple(i for i in lane_map.lanes[now[0]].outgoing if i in here)


def _afresh(lane_map: LaneMap, here: Lanes, point: FloatArray) -> Lanes:
    """The lane that holds the point, else all connectors that do. Of overlapping lanes (nuPlan has none) the nearest."""
    lanes = [i for i in here if not lane_map.lanes[i].is_connector]
    if len(lanes) > 1:
        areas, at = _areas(lane_map), shapely.Point(point)
        lanes = [min(lanes, key=lambda i: shapely.distance(areas.line_of(i), at))]
    return tuple(lanes) or here


def _on_connector(lane_map: LaneMap, lanes: Lanes) -> bool:
    return bool(lanes) and lane_map.lanes[lanes[0]].is_connector


def _corner_lanes(
    lane_map: LaneMap, points: FloatArray, inside: Sequence[Lanes]
) -> tuple[tuple[Lanes, Lanes, Lanes, Lanes], ...]:
    """Four corners share their candidates: the lanes that any of them was in a moment ago."""
    moments = []
    candidates: list[str] = []
    for k in range(0, len(inside), 4):
        following: list[str] = []
        four: list[Lanes] = []
        for row in range(k, k + 4):
            lanes = _carried_on(lane_map, tuple(candidates), inside[row]) if candidates else ()
            if not lanes:
                lanes = _afresh(lane_map, inside[row], points[row])
                if k == 4:  # at nuPlan's second moment, what one corner finds is a candidate for the next corner
                    candidates += [i for i in lanes if i not in candidates]
            following += [i for i in lanes if i not in following]
            four.append(lanes)
        moments.append((four[0], four[1], four[2], four[3]))
        candidates = following
    return tuple(moments)


def _together(lane_map: LaneMap, corners: tuple[Lanes, Lanes, Lanes, Lanes]) -> bool:
    """Whether one lane holds all corners, or lanes that follow each other do, none of them beside another."""
    if not all(corners):
        return False
    if set.intersection(*(set(c) for c in corners)):
        return True

    def onward(lanes: Lanes) -> set[str]:
        return set(lanes).union(*(lane_map.lanes[i].outgoing for i in lanes))

    def back(lanes: Lanes) -> set[str]:
        return set(lanes).union(*(lane_map.lanes[i].incoming for i in lanes))

    front_left, rear_left, rear_right, front_right = corners
    from_left, from_right = onward(rear_left), onward(rear_right)
    if not (set(rear_left) & from_right or set(rear_right) & from_left):
        return False
    return bool(back(front_left) & from_right & back(front_right) & from_left)


def _along(line: shapely.LineString, points: FloatArray) -> FloatArray:
    return np.asarray(shapely.line_locate_point(line, shapely.points(np.asarray(points)[:, :2])))


# ---- a map's areas, built once ------------------------------------------------------------------------------------


class _Areas:
    """A map as shapely geometry, each part built when it is first asked for."""

    def __init__(self, lane_map: LaneMap) -> None:
        self.lane_ids = tuple(lane_map.lanes)
        self.polygons = {i: _polygon(lane.polygon) for i, lane in lane_map.lanes.items()}
        shapely.prepare(list(self.polygons.values()))
        self.tree = shapely.STRtree(list(self.polygons.values()))
        self.centerlines = {
            i: np.asarray(lane.centerline, dtype=np.float64)[:, :2] for i, lane in lane_map.lanes.items()
        }
        self.members: dict[str, list[str]] = {}
        for lane in lane_map.lanes.values():
            self.members.setdefault(lane.roadblock_id, []).append(lane.lane_id)
        self.given = lane_map.roadblocks
        crossings = [_polygon(i.polygon) for i in lane_map.intersections.values()]
        self.intersections = union_of(crossings) if crossings else None
        if self.intersections is not None:
            shapely.prepare(self.intersections)
        self.lines: dict[str, shapely.LineString] = {}
        self.blocks: dict[str, shapely.Geometry] = {}

    def polygon_of(self, lane_id: str) -> shapely.Geometry:
        return self.polygons[lane_id]

    def line_of(self, lane_id: str) -> shapely.LineString:
        if lane_id not in self.lines:
            self.lines[lane_id] = shapely.LineString(self.centerlines[lane_id])
        return self.lines[lane_id]

    def block_of(self, roadblock_id: str) -> shapely.Geometry:
        """The roadblock's own area where the source gives one, else its lanes'."""
        if roadblock_id not in self.blocks:
            if roadblock_id in self.given:
                area = _polygon(self.given[roadblock_id])
            else:
                area = union_of([self.polygons[i] for i in self.members[roadblock_id]])
            shapely.prepare(area)
            self.blocks[roadblock_id] = area
        return self.blocks[roadblock_id]


def _polygon(ring: FloatArray) -> shapely.Geometry:
    polygon = shapely.Polygon(np.asarray(ring, dtype=np.float64)[:, :2])
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


_AREAS: WeakKeyDictionary[LaneMap, _Areas] = WeakKeyDictionary()


def _areas(lane_map: LaneMap) -> _Areas:
    if lane_map not in _AREAS:
        _AREAS[lane_map] = _Areas(lane_map)
    return _AREAS[lane_map]


def distance_to_lanes_m(lane_map: LaneMap, lanes: Lanes, points: FloatArray) -> FloatArray:
    """(P,): distance of (P, 2) points from the nearest of these lanes' areas, inf for no lanes."""
    out = np.full(len(points), np.inf)
    for lane_id in lanes:
        out = np.minimum(out, shapely.distance(_areas(lane_map).polygon_of(lane_id), shapely.points(points)))
    return out
