"""The usual repair of a mission's route: led up to the ego's roadblock, missing links filled in, cut before it crosses itself.

Follows tuplan_garage's `route_utils.py` and `bfs_roadblock.py` (Apache-2.0), with nuPlan's map objects read from a `LaneMap`.
PDM-Closed repairs every route in this way before it drives; the reader of nuPlan's logs does it where a log's route is broken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.roadblocks import Roadblocks, roadblocks_of
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class RepairLimits:
    """How far a repair looks."""

    heading_rad: float = math.pi / 4  # tuplan_garage heading_error_thresh of a lane the ego may be in
    distance_m: float = 3.0  # tuplan_garage displacement_error_thresh, to the nearest centerline point
    search_backward: int = 15  # tuplan_garage search_depth_backward, in roadblocks
    search_forward: int = 30  # tuplan_garage search_depth_forward, in roadblocks


def is_whole(lane_map: LaneMap, roadblock_ids: Sequence[str], pose: FloatArray) -> bool:
    """Whether a route needs no repair: each roadblock leads to the next, and the ego (3,) is on one of its lanes."""
    wanted = frozenset(roadblock_ids)
    lanes = [lane for lane in lane_map.lanes.values() if lane.roadblock_id in wanted]
    links = {
        (lane.roadblock_id, lane_map.lanes[following].roadblock_id)
        for lane in lanes
        for following in lane.outgoing
        if following in lane_map.lanes
    }
    areas = [shapely.make_valid(shapely.Polygon(lane.polygon)) for lane in lanes if len(lane.polygon) >= 3]
    return all(link in links for link in itertools.pairwise(roadblock_ids)) and bool(
        shapely.intersects_xy(np.array(areas, dtype=object), float(pose[0]), float(pose[1])).any()
    )


def repair_route(
    lane_map: LaneMap, roadblock_ids: Sequence[str], pose: FloatArray, limits: RepairLimits | None = None
) -> tuple[str, ...]:
    """The route from the ego's roadblock on, with missing links filled in and cut before it crosses itself.

    pose (3,): the ego's rear axle. Roadblocks that are not in the map are left out; an empty route stays empty.
    """
    limits = limits or RepairLimits()
    blocks = roadblocks_of(lane_map)
    route = list(dict.fromkeys(block for block in roadblock_ids if block in blocks.lanes))
    if not route:
        return ()
    start, candidates = _current_roadblock(lane_map, blocks, frozenset(route), pose, limits)
    if start not in route:
        found = blocks.search(route[0], candidates, limits.search_backward, forward=False)
        if found is not None:
            route[:0] = found[::-1][:-1]
        else:
            found = blocks.search(start, route[:3], limits.search_forward)
            if found is not None:
                route = [*found, *route[route.index(found[-1]) + 1 :]]
    linked: list[str] = []
    for i, block in enumerate(route):
        linked.append(block)
        if i + 1 < len(route) and block not in blocks.incoming[route[i + 1]]:
            linked.extend((blocks.search(block, [route[i + 1]], limits.search_forward) or [])[1:-1])
    return tuple(dict.fromkeys(_without_loops(blocks, linked)))


def _current_roadblock(
    lane_map: LaneMap, blocks: Roadblocks, route: frozenset[str], pose: FloatArray, limits: RepairLimits
) -> tuple[str, list[str]]:
    """The roadblock that the ego most plausibly is in, and all that came into question."""
    near = blocks.within(float(pose[0]), float(pose[1]), 1.0)  # tuplan_garage: proximal roadblocks, radius 1 m
    if not near:
        near = blocks.nearest(float(pose[0]), float(pose[1]))
    on_route: list[tuple[float, str]] = []
    others: list[tuple[float, str]] = []
    closest: list[float] = []
    for block in near:
        least = np.inf
        for lane_id in blocks.lanes[block]:
            distance, turned = nearest_point(lane_map.lanes[lane_id], pose)
            least = min(least, distance)
            if turned < limits.heading_rad and distance < limits.distance_m:
                (on_route if block in route else others).append((distance, block))
        closest.append(least)
    for found in (on_route, others):
        if found:
            return min(found, key=lambda entry: entry[0])[1], [block for _, block in found]
    return near[int(np.argmin(closest))], near


def _without_loops(blocks: Roadblocks, route: list[str]) -> list[str]:
    """The route up to the first roadblock connector that overlaps an earlier one by more than 1 m2."""
    earlier: list[shapely.Geometry] = []
    for i, block in enumerate(route):
        if block not in blocks.connectors:
            continue
        area = blocks.polygon(block)
        for other in earlier:
            if shapely.intersects(shapely.box(*area.bounds), shapely.box(*other.bounds)) and (
                shapely.area(shapely.intersection(area, other)) > 1.0
            ):
                return route[:i]
        earlier.append(area)
    return route


def nearest_point(lane: Lane, pose: FloatArray) -> tuple[float, float]:
    """Distance to the nearest point of a lane's centerline, and how far the lane is turned there from the pose."""
    line = np.asarray(lane.centerline, dtype=np.float64)[:, :2]
    if not len(line):
        return np.inf, np.pi
    distances = ((line - pose[:2]) ** 2.0).sum(axis=-1) ** 0.5
    nearest = int(np.argmin(distances))
    ends = line[nearest : nearest + 2] if nearest + 1 < len(line) else line[-2:]
    turned = float(np.arctan2(ends[-1, 1] - ends[0, 1], ends[-1, 0] - ends[0, 0]) - pose[2])
    return float(distances[nearest]), abs(float(np.arctan2(np.sin(turned), np.cos(turned))))
