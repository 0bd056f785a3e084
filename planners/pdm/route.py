"""From a route of roadblocks to the line that the ego follows: repair the route, find the ego's lane, search the centerline.

Follows tuplan_garage's `dijkstra.py` and `abstract_pdm_planner.py` (Apache-2.0), with
nuPlan's map objects read from a `LaneMap`. Where the public code would stop with an error (a route that is empty or not in the
map), there is a usable answer here, and `Layout.problems` says what was wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import shapely

from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.roadblocks import headings_of, roadblocks_of
from nsdrive.world.route import extend_straight, nearest_lane
from nsdrive.world.route_repair import RepairLimits, nearest_point, repair_route
from nsdrive.world.types import EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import ego_corners
from planners.pdm.paths import ProposalPath

STRAIGHT_M = 300.0  # chosen by us: how far a path leads on where no route is known, 8 s at more than any city's limit


class RouteLanes(Mapping[str, Lane]):
    """The lanes of a route's roadblocks by id, in the route's order, quick to ask which of them hold a point."""

    def __init__(self, lane_map: LaneMap, roadblock_ids: Sequence[str]) -> None:
        blocks = roadblocks_of(lane_map)
        self.roadblock_ids = tuple(dict.fromkeys(block for block in roadblock_ids if block in blocks.lanes))
        self._lanes = {i: lane_map.lanes[i] for block in self.roadblock_ids for i in blocks.lanes[block]}
        self._ids = tuple(self._lanes)

    def __getitem__(self, lane_id: str) -> Lane:
        return self._lanes[lane_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)

    @cached_property
    def polygons(self) -> np.ndarray:
        """Of N lanes, as shapely geometries, prepared."""
        areas = np.array([_polygon(lane) for lane in self._lanes.values()], dtype=object)
        shapely.prepare(areas)
        return areas

    @cached_property
    def _bounds(self) -> FloatArray:
        return np.ascontiguousarray(shapely.bounds(self.polygons).reshape(-1, 4).T)

    def at(self, x_m: float, y_m: float) -> list[str]:
        """Lanes whose area holds a point, its border included, in the route's order."""
        x0, y0, x1, y1 = self._bounds
        near = np.flatnonzero((x0 <= x_m) & (x_m <= x1) & (y0 <= y_m) & (y_m <= y1))
        if not len(near):
            return []
        return [self._ids[i] for i in near[shapely.intersects_xy(self.polygons[near], x_m, y_m)].tolist()]

    def nearest_to(self, footprint: FloatArray, center: FloatArray) -> str:
        """The first lane that holds the centre (2,) inside, else the first of those nearest to the footprint (4, 2)."""
        inside = shapely.contains_xy(self.polygons, center[0], center[1])
        if inside.any():
            return self._ids[int(np.argmax(inside))]
        distances = shapely.distance(self.polygons, shapely.Polygon(footprint))
        return self._ids[
            int(np.argmin(np.where(np.isnan(distances), np.inf, distances)))
        ]  # nan: a lane without an area


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where a planner drives: the repaired route, its lanes, the lane the ego starts in, and the centerline.

    centerline_lanes: the lanes that make the centerline. problems: what had to be made up for want of a route or a lane.
    """

    roadblock_ids: tuple[str, ...]
    lanes: RouteLanes
    start_lane: str | None
    centerline_lanes: tuple[str, ...]
    centerline: ProposalPath
    problems: tuple[str, ...] = ()


def lay_out(
    lane_map: LaneMap,
    roadblock_ids: Sequence[str],
    ego: EgoState,
    config: PdmParameters,
    vehicle: VehicleParameters = PACIFICA,
) -> Layout:
    """The whole first half in one call, with an answer whatever is wrong with the route or the map."""
    problems: list[str] = []
    if not np.isfinite(ego.pose).all():
        problems.append("the ego's pose is not finite: the path begins where the route does")
        ego = replace(ego, **_begin_of(lane_map, roadblock_ids))
    known = [block for block in roadblock_ids if block in roadblocks_of(lane_map).lanes]
    if not known:
        problems.append("the path leads straight on from the nearest lane")
        known = _straight_route(lane_map, ego.pose)
    limits = RepairLimits(
        heading_rad=config.route_heading_rad,
        distance_m=config.route_distance_m,
        search_backward=config.route_search_backward,
        search_forward=config.route_search_forward,
    )
    route = repair_route(lane_map, known, ego.pose, limits)
    lanes = RouteLanes(lane_map, route)
    start = starting_lane(lane_map, lanes, ego, vehicle)
    if start is not None:
        ids = centerline_lanes(lane_map, start, lanes.roadblock_ids, config)
        try:
            line = centerline_path(lane_map, ids)
            return Layout(
                roadblock_ids=lanes.roadblock_ids,
                lanes=lanes,
                start_lane=start,
                centerline_lanes=ids,
                centerline=line,
                problems=tuple(problems),
            )
        except ValueError as error:
            problems.append(str(error))
    problems.append("there is no lane to follow: the path leads straight ahead")
    return Layout(
        roadblock_ids=lanes.roadblock_ids,
        lanes=lanes,
        start_lane=start,
        centerline_lanes=(),
        centerline=_straight_ahead(ego.pose),
        problems=tuple(problems),
    )


def starting_lane(
    lane_map: LaneMap, route_lanes: RouteLanes, ego: EgoState, vehicle: VehicleParameters = PACIFICA
) -> str | None:
    """The route's lane that the ego is in: of those under its rear axle the best aligned, else the nearest to its box.

    None only where the route has no lanes.
    """
    if not len(route_lanes):
        return None
    if not np.isfinite(ego.pose).all():
        return next(iter(route_lanes))
    here = route_lanes.at(ego.x_m, ego.y_m)
    if not here:
        center = np.array(
            [
                ego.x_m + vehicle.rear_axle_to_center_m * np.cos(ego.heading_rad),
                ego.y_m + vehicle.rear_axle_to_center_m * np.sin(ego.heading_rad),
            ]
        )
        return route_lanes.nearest_to(ego_corners(ego.pose, vehicle), center)
    if len(here) == 1:
        return here[0]
    errors = np.array([nearest_point(route_lanes[lane_id], ego.pose)[1] for lane_id in here])
    best = np.flatnonzero(errors == errors.min())
    tied = [here[i] for i in best]
    return tied[0] if len(tied) == 1 else _first_in_tree(lane_map, tied, ego, vehicle)


def centerline_lanes(
    lane_map: LaneMap, start_lane: str, route_roadblock_ids: Sequence[str], config: PdmParameters | None = None
) -> tuple[str, ...]:
    """The shortest way over the route's lanes to its last roadblock (at most 30 on), else the deepest way there is."""
    config = config or PdmParameters()
    lanes, blocks = lane_map.lanes, roadblocks_of(lane_map)
    route = [block for block in route_roadblock_ids if block in blocks.lanes]
    allowed = {lane_id for block in route for lane_id in blocks.lanes[block]}
    own = lanes[start_lane].roadblock_id
    first = route.index(own) if own in route else 0
    target = (route[first : first + config.centerline_roadblocks] or [own])[-1]

    parent: dict[str, str | None] = {start_lane: None}
    frontier: list[tuple[float, str, int]] = [(1.0, start_lane, 1)]  # cost, lane, depth, in the order of discovery
    expanded: list[tuple[float, str, int]] = []
    done: set[str] = set()
    end: str | None = None
    while frontier:
        at = min(range(len(frontier)), key=lambda i: (frontier[i][0], i))
        cost, lane_id, depth = frontier.pop(at)
        if lanes[lane_id].roadblock_id == target:
            end = lane_id
            break
        expanded.append((cost, lane_id, depth))
        done.add(lane_id)
        for following in lanes[lane_id].outgoing:
            if following not in allowed or following not in lanes:
                continue
            alternative = cost + blocks.length_m(following)
            waiting = next((i for i, node in enumerate(frontier) if node[1] == following), None)
            if waiting is None and following not in done:
                parent[following] = lane_id
                frontier.append((alternative, following, depth + 1))
            elif waiting is not None and alternative < frontier[waiting][0]:
                parent[following] = lane_id
                frontier[waiting] = (alternative, following, depth + 1)
    if end is None:
        deepest = max(depth for _, _, depth in expanded)
        end = min((node for node in expanded if node[2] == deepest), key=lambda node: node[0])[1]
    way: list[str] = []
    node: str | None = end
    while node is not None:
        way.append(node)
        node = parent[node]
    return tuple(reversed(way))


def centerline_path(lane_map: LaneMap, lane_ids: Sequence[str]) -> ProposalPath:
    """The lanes' own points one after the other, where they join twice, each with the heading to its lane's next point."""
    lines = [np.asarray(lane_map.lanes[i].centerline, dtype=np.float64)[:, :2] for i in lane_ids]
    if not lines:
        raise ValueError("A centerline needs at least one lane.")
    return ProposalPath.of(
        np.concatenate(lines),
        np.concatenate([headings_of(line) for line in lines]),
        [lane_id for lane_id, line in zip(lane_ids, lines, strict=True) for _ in range(len(line))],
    )


def _first_in_tree(lane_map: LaneMap, tied: list[str], ego: EgoState, vehicle: VehicleParameters) -> str:
    """Which of equally aligned lanes the public code meets first: in the order of its search tree over lanes nearby."""
    x = ego.x_m + vehicle.rear_axle_to_center_m * np.cos(ego.heading_rad)
    y = ego.y_m + vehicle.rear_axle_to_center_m * np.sin(ego.heading_rad)
    blocks = roadblocks_of(lane_map)
    near = [lane_id for block in blocks.within(x, y, 50.0) for lane_id in blocks.lanes[block]]
    areas = [_polygon(lane_map.lanes[lane_id]) for lane_id in near]
    areas += [shapely.Polygon(area) for area in lane_map.carparks if _within_patch(area, x, y, 50.0)]
    met = shapely.STRtree(areas).query(shapely.Point(ego.x_m, ego.y_m), predicate="intersects")
    return next((near[i] for i in met if i < len(near) and near[i] in tied), tied[0])


def _within_patch(area: FloatArray, x: float, y: float, radius_m: float) -> bool:
    patch = shapely.box(x - radius_m, y - radius_m, x + radius_m, y + radius_m)
    return bool(shapely.intersects(shapely.Polygon(area), patch))


def _polygon(lane: Lane) -> shapely.Polygon:
    """The lane's area, an empty one where it has none."""
    ring = np.asarray(lane.polygon, dtype=np.float64)[:, :2]
    return shapely.Polygon(ring) if len(ring) >= 3 else shapely.Polygon()


def _begin_of(lane_map: LaneMap, roadblock_ids: Sequence[str]) -> dict[str, float]:
    """Where the first lane of a route begins, or of the map, or the origin: x_m, y_m, heading_rad of an ego."""
    lanes = [*RouteLanes(lane_map, roadblock_ids).values(), *lane_map.lanes.values()]
    for lane in lanes:
        line = np.asarray(lane.centerline, dtype=np.float64)[:, :2]
        if len(line) > 1:
            return {"x_m": float(line[0, 0]), "y_m": float(line[0, 1]), "heading_rad": float(headings_of(line)[0])}
    return {"x_m": 0.0, "y_m": 0.0, "heading_rad": 0.0}


def _straight_route(lane_map: LaneMap, pose: FloatArray) -> list[str]:
    """Roadblocks of the nearest lane's straight continuation; empty where the map has no lanes."""
    try:
        start = nearest_lane(lane_map, pose)
    except ValueError:
        return []
    lanes = extend_straight(lane_map, (start,), STRAIGHT_M)
    return list(dict.fromkeys(lane_map.lanes[lane_id].roadblock_id for lane_id in lanes))


def _straight_ahead(pose: FloatArray) -> ProposalPath:
    along = np.arange(0.0, STRAIGHT_M + 0.5)
    points = pose[:2] + along[:, None] * np.array([np.cos(pose[2]), np.sin(pose[2])])
    return ProposalPath.of(points, np.full(len(along), pose[2]), [""] * len(along))
