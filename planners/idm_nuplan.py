"""nuPlan's own IDM planner, as it is: for comparing simulators, and for scores under the name that papers give.

    nsdrive simulate simulate/nuplan planner=planners.idm_nuplan:NuplanIdmPlanner

Follows nuPlan v1.2 `IDMPlanner`, `AbstractIDMPlanner`, `IDMPolicy`, `BreadthFirstSearch` and `InterpolatedPath`
(nuplan-devkit, Apache-2.0), whose surprises are kept because its drives depend on them:

    the lead is the nearest thing that touches the corridor, measured from the outline of the ego, also to its side
    it stays where it is while a plan is rolled forward, and keeps its speed in the law
    the target speed is the limit of the first lane, or what the ego drives already if that is more, for the whole drive
    the path ends one point before its last lane does

The teacher is `planners.idm`, which says why it does what it does. This planner makes no decision record.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.roadblocks import headings_of
from nsdrive.world.types import OBJECT_KINDS, EgoState, FloatArray, Mission, ObjectFrame, Observation, Plan, Trajectory
from nsdrive.world.vehicle import PACIFICA

AGENTS = tuple(OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle", "pedestrian"))
CORNER_M = 0.75 * PACIFICA.width_m  # more than the half width times the root of 2
SAME_M = 1e-8  # numpy.isclose: a point that repeats the one before


@dataclass(frozen=True, kw_only=True)
class NuplanIdmConfig:
    """idm_planner.yaml."""

    target_speed_mps: float = 10.0  # where the first lane has no limit
    min_gap_m: float = 1.0
    headway_s: float = 1.5
    accel_max_mps2: float = 1.0
    decel_max_mps2: float = 3.0
    samples: int = 16
    sample_interval_s: float = 0.5
    radius_m: float = 40.0  # around the ego's centre, to the others' centres


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What the law follows: how far off, how fast, and how much of the distance is taken up."""

    distance_m: float
    speed_mps: float
    taken_m: float = 0.0


class NuplanIdmPlanner:
    """nuPlan's IDMPlanner. ValueError where its route does not have two roadblocks on the map, as it has to there."""

    name = "idm_nuplan"

    def __init__(self, config: NuplanIdmConfig | None = None) -> None:
        self.config = config or NuplanIdmConfig()

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Search the way over the route's lanes, from the one that the ego is in to the route's last roadblock."""
        lane_map = mission.lane_map
        there = {lane.roadblock_id for lane in lane_map.lanes.values()}
        route = [block for block in mission.route_roadblock_ids if block in there]
        if len(route) < 2:
            raise ValueError(f"nuPlan's IDM planner needs a route of two roadblocks on the map; it has {len(route)}")
        lanes = [lane_map.lanes[lane_id] for lane_id in search(lane_map, route, ego)]
        limit = lanes[0].speed_limit_mps or self.config.target_speed_mps
        self._target_mps = max(limit, abs(ego.speed_mps))
        self._path = NuplanPath(lanes)
        self._horizon_m = self._target_mps * self.config.samples * self.config.sample_interval_s
        self._connectors = {
            lane_id: shapely.Polygon(lane.polygon)
            for lane_id, lane in lane_map.lanes.items()
            if lane.is_connector and lane.roadblock_id in set(route)
        }

    def plan(self, observation: Observation) -> Plan:
        """The next 8 s, a state every 0.5 s."""
        c, ego = self.config, observation.ego
        centre = ego.pose + PACIFICA.rear_axle_to_center_m * np.array(
            [math.cos(ego.heading_rad), math.sin(ego.heading_rad), 0.0]
        )
        around = _around(centre, observation.objects, observation.lights, self._connectors, c.radius_m)
        progress, speed = self._path.project(centre[:2]), ego.speed_mps
        poses, speeds = [self._path.pose_at(progress)], [speed]
        for _ in range(c.samples):
            lead = self._lead(centre, progress, around)
            accel = self._law(speed, lead)
            progress += c.sample_interval_s * speed
            speed = max(speed + c.sample_interval_s * min(max(-c.decel_max_mps2, accel), c.accel_max_mps2), 0.0)
            centre = self._path.pose_at(progress)
            poses.append(centre)
            speeds.append(speed)
        rear = np.array(poses)
        ahead = PACIFICA.rear_axle_to_center_m
        rear[:, :2] -= ahead * np.column_stack([np.cos(rear[:, 2]), np.sin(rear[:, 2])])
        times = ego.time_s + c.sample_interval_s * np.arange(c.samples + 1, dtype=np.float64)
        trajectory = Trajectory(
            times_s=times, poses_global=rear, speeds_mps=np.array(speeds), accels_mps2=np.zeros(len(times))
        )
        return Plan(trajectory=trajectory, decision=None)

    def _lead(self, centre: FloatArray, progress_m: float, around: Around) -> Lead:
        """The nearest of what touches the corridor ahead, else the path's end."""
        outline = shapely.polygons(box_corners(np.array([[*centre, PACIFICA.length_m, PACIFICA.width_m]]))[0])
        ahead = shapely.linestrings(self._path.trimmed(progress_m, progress_m + self._horizon_m))
        touched = np.empty(0, dtype=np.intp)
        if around.may_touch(ahead, outline):
            touched = around.touching(ahead.buffer(PACIFICA.width_m / 2, cap_style="square"), outline)
        if not len(touched):
            return Lead(distance_m=self._path.end_m - progress_m, speed_mps=0.0, taken_m=PACIFICA.length_m / 2)
        nearest = touched[int(shapely.STRtree(around.outlines[touched]).nearest(outline))]
        turned = around.headings_rad[nearest] - centre[2]
        return Lead(
            distance_m=float(shapely.distance(outline, around.outlines[nearest])),
            speed_mps=float(around.speeds_mps[nearest] * math.cos(turned)),
        )

    def _law(self, speed: float, lead: Lead) -> float:
        """IDMPolicy.idm_model's acceleration."""
        c = self.config
        wanted_m = (
            c.min_gap_m
            + speed * c.headway_s
            + speed * (speed - lead.speed_mps) / (2 * math.sqrt(c.accel_max_mps2 * c.decel_max_mps2))
        )
        gap_m = max(lead.distance_m - lead.taken_m, c.min_gap_m)
        return c.accel_max_mps2 * (1 - (speed / self._target_mps) ** 4 - (wanted_m / gap_m) ** 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Around:
    """What a plan may meet, N things: outlines (shapely), headings, speeds; and a tree of the outlines."""

    outlines: np.ndarray
    headings_rad: FloatArray
    speeds_mps: FloatArray
    tree: shapely.STRtree

    def may_touch(self, line: shapely.LineString, outline: shapely.Polygon) -> bool:
        """Whether anything is near enough to a line for a corridor along it, whose ends have corners, or on an outline."""
        if not len(self.outlines):
            return False
        return bool(
            len(self.tree.query(line, predicate="dwithin", distance=CORNER_M))
            or len(self.tree.query(outline, predicate="intersects"))
        )

    def touching(self, corridor: shapely.Polygon, outline: shapely.Polygon) -> NDArray[np.intp]:
        """What touches the corridor or the outline, in the tree's order for both: it decides between equally near ones."""
        near = self.tree.query(shapely.box(*shapely.total_bounds([corridor, outline])))
        hit = shapely.intersects(self.outlines[near], corridor) | shapely.intersects(self.outlines[near], outline)
        found: NDArray[np.intp] = near[hit]
        return found


def _around(
    centre: FloatArray,
    objects: ObjectFrame,
    lights: Mapping[str, str],
    connectors: Mapping[str, shapely.Polygon],
    radius_m: float,
) -> Around:
    """Objects near the ego, those that are no agents standing, then the route's red connectors."""
    boxes = objects.boxes
    near = np.hypot(*(boxes[:, :2] - centre[:2]).T) < radius_m
    moving = np.isin(objects.kinds[near], AGENTS)
    red = [connectors[name] for name, state in lights.items() if state == "red" and name in connectors]
    outlines = np.array([*map(shapely.Polygon, box_corners(boxes[near])), *red], dtype=object)
    none = np.zeros(len(red))
    return Around(
        outlines=outlines,
        headings_rad=np.concatenate([boxes[near, 2], none]),
        speeds_mps=np.concatenate([np.where(moving, objects.speeds_mps[near], 0.0), none]),
        tree=shapely.STRtree(outlines),
    )


def box_corners(boxes: FloatArray) -> FloatArray:
    """(N, 4, 2) corners of boxes (N, 5): front left, rear left, rear right, front right, the order of nuPlan's OrientedBox."""
    along = np.stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])], axis=1) * boxes[:, 3:4] / 2
    aside = np.stack([-np.sin(boxes[:, 2]), np.cos(boxes[:, 2])], axis=1) * boxes[:, 4:5] / 2
    offsets = np.stack([along + aside, aside - along, -along - aside, along - aside], axis=1)
    return boxes[:, None, :2] + offsets


# ---- the path -----------------------------------------------------------------------------------------------------


class NuplanPath:
    """Lanes' centrelines one after the other, by arc length; `end_m` is one point short of all of them."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        lines = [np.asarray(lane.centerline, dtype=np.float64)[:, :2] for lane in lanes]
        points = np.concatenate(lines)
        headings = np.concatenate([headings_of(line) for line in lines])
        steps = np.hypot(*np.diff(points, axis=0).T)
        progress = np.concatenate([[0.0], np.cumsum(steps)])
        kept = np.flatnonzero(np.abs(steps) > SAME_M)  # of two that coincide the second; never the last
        self._line = shapely.LineString(points)
        self._points, self._progress_m = points[kept], progress[kept]
        self._headings_rad = np.unwrap(headings[kept])
        self.end_m = float(self._progress_m[-1])

    def project(self, point: FloatArray) -> float:
        return float(self._line.project(shapely.Point(point)))

    def pose_at(self, progress_m: float) -> FloatArray:
        """(3,), progress held within the path."""
        at = self._held(progress_m)
        x, y = (float(np.interp(at, self._progress_m, column)) for column in self._points.T)
        heading = float(np.interp(at, self._progress_m, self._headings_rad))
        return np.array([x, y, (heading + math.pi) % (2 * math.pi) - math.pi])

    def trimmed(self, from_m: float, to_m: float) -> FloatArray:
        """(N, 2): the piece between two arc lengths; at the path's ends its last or first two points."""
        start, end = self._held(from_m), self._held(to_m)
        after, before = self._progress_m > start, self._progress_m < end
        if not after.any():
            return self._points[-2:]
        if not before.any():
            return self._points[:2]
        inner = self._points[int(after.argmax()) : int(np.flatnonzero(before)[-1]) + 1]
        return np.concatenate([self.pose_at(start)[None, :2], inner, self.pose_at(end)[None, :2]])

    def _held(self, progress_m: float) -> float:
        return max(float(self._progress_m[0]), min(progress_m, self.end_m))


def search(lane_map: LaneMap, route: Sequence[str], ego: EgoState) -> tuple[str, ...]:
    """Lanes from the ego's to one of the route's last roadblock, by breadth; where none is reached, the deepest met last."""
    lanes = lane_map.lanes
    members = {block: [i for i, lane in lanes.items() if lane.roadblock_id == block] for block in dict.fromkeys(route)}
    allowed = {lane_id for ids in members.values() for lane_id in ids}
    start = _start_lane(lane_map, [*members[route[0]], *members[route[1]]], ego)
    target_depth = len(route) - (lanes[start].roadblock_id == route[1])
    parent: dict[tuple[str, int], str | None] = {(start, 1): None}
    end, level = (start, 1), deque([start])
    for depth in range(1, target_depth + 1):
        following: deque[str] = deque()
        for lane_id in level:
            if depth == target_depth and lanes[lane_id].roadblock_id == route[-1]:
                return _way(parent, (lane_id, depth))
            for n in lanes[lane_id].outgoing:
                if n in allowed:
                    following.append(n)
                    parent[(n, depth + 1)] = lane_id
                    end = (n, depth + 1)
        if not following:
            break
        level = following
    return _way(parent, end)


def _way(parent: Mapping[tuple[str, int], str | None], end: tuple[str, int]) -> tuple[str, ...]:
    lane: str | None = end[0]
    depth, way = end[1], []
    while lane is not None:
        way.append(lane)
        lane, depth = parent[(lane, depth)], depth - 1
    return tuple(reversed(way))


def _start_lane(lane_map: LaneMap, candidates: Sequence[str], ego: EgoState) -> str:
    """The first lane that holds the ego's centre, else the one nearest to its outline."""
    ahead = PACIFICA.rear_axle_to_center_m
    x, y = ego.x_m + ahead * math.cos(ego.heading_rad), ego.y_m + ahead * math.sin(ego.heading_rad)
    areas = [shapely.Polygon(lane_map.lanes[lane_id].polygon) for lane_id in candidates]
    inside = [lane_id for lane_id, area in zip(candidates, areas, strict=True) if area.contains(shapely.Point(x, y))]
    if inside:
        return inside[0]
    outline = shapely.Polygon(box_corners(np.array([[x, y, ego.heading_rad, PACIFICA.length_m, PACIFICA.width_m]]))[0])
    return candidates[int(np.argmin([area.distance(outline) for area in areas]))]
