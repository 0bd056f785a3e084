"""Which lanes lead along the route, how far each does so, and what lies beside them.

A *chain* is the lane the ego is in and all that follows it along the route without a lane change. Where the route needs a
change, the chain ends: there the ego would have to stop.

    lanes = route_lanes(lane_map, route)
    lanes["main-f0-1"] -> RouteLane(changes=1, room_m=96.0, next_lane=None)   # one change to make, 96 m left for it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.route import centerline, extend_straight, lane_length_m, lanes_near, nearest_lane, roadblock_route
from nsdrive.world.types import FloatArray, Mission
from planners.along import AlongPath
from planners.road_rules import RoadParameters

BEHIND_M = 60.0  # chosen by us: so much of a chain lies behind the lane it was made for, for who follows there
NO_ROUTE_M = 600.0  # chosen by us: without a route the ego goes straight on for this long
OPPOSITE_RAD = 2.6  # chosen by us: a lane turned by more than this (150 degrees) is for oncoming traffic
OPPOSITE_STEP_M = 10.0  # chosen by us: how often a chain looks for the oncoming lane beside it
CROSSABLE = ("dashed_white", "dashed_yellow", "none")  # markings that may be crossed to get ahead of someone


@dataclass(frozen=True, kw_only=True)
class RouteLane:
    """changes: the least number of lane changes to the route's end (inf: none leads there). room_m: from this lane's start to
    where it can no longer be followed along the route, inf to its end. next_lane: the best to follow it, None at that place."""

    changes: float
    room_m: float
    next_lane: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """A lane followed along the route, and what is on it.

    lane_ids in driving order; starts_m: progress at which each begins. end_m: where it ends. left_m, right_m (N,): distance
    of the lane's boundaries from each point of `along.path`, both positive. reaches_goal: it ends with the route, not before.
    """

    lane_ids: tuple[str, ...]
    starts_m: tuple[float, ...]
    along: AlongPath
    left_m: FloatArray
    right_m: FloatArray
    reaches_goal: bool

    @property
    def path(self) -> Path:
        return self.along.path

    @property
    def end_m(self) -> float:
        return self.along.path.length_m

    def lane_at(self, progress_m: float) -> str:
        """The lane at this progress, the first and last ones beyond the ends."""
        k = int(np.searchsorted(self.starts_m, progress_m + 1e-6, side="right")) - 1
        return self.lane_ids[max(0, min(k, len(self.lane_ids) - 1))]

    def edges_m(self, from_m: float, to_m: float) -> tuple[float, float]:
        """The least distance of the left and the right boundary over a stretch."""
        i, j = self.path.index_at(from_m), self.path.index_at(to_m) + 1
        return float(self.left_m[i:j].min()), float(self.right_m[i:j].min())


def route_lanes(lane_map: LaneMap, route_roadblock_ids: Sequence[str]) -> dict[str, RouteLane]:
    """Every lane of the route's roadblocks, judged from the route's end backwards. Roadblocks not on the map are left out.

    A route that passes a roadblock twice is judged by the later pass.
    """
    members = _by_roadblock(lane_map)
    blocks = [block for block in route_roadblock_ids if block in members]
    found: dict[str, RouteLane] = {}
    ahead: dict[str, RouteLane] = {}
    for position in range(len(blocks) - 1, -1, -1):
        here: dict[str, RouteLane] = {}
        last = position == len(blocks) - 1
        for lane_id in members[blocks[position]]:
            lane = lane_map.lanes[lane_id]
            length = lane_length_m(lane)
            follow = [(ahead[n].changes, -ahead[n].room_m, k, n) for k, n in enumerate(lane.outgoing) if n in ahead]
            if last:
                here[lane_id] = RouteLane(changes=0.0, room_m=math.inf, next_lane=None)
            elif follow:
                changes, room, _, following = min(follow)
                here[lane_id] = RouteLane(changes=changes, room_m=length - room, next_lane=following)
            else:
                here[lane_id] = RouteLane(changes=math.inf, room_m=length, next_lane=None)
        _share_with_neighbours(lane_map, here)
        ahead = here
        for lane_id, judged in here.items():
            found.setdefault(lane_id, judged)
    return found


def usable_route(mission: Mission, pose: FloatArray) -> tuple[str, ...]:
    """The mission's roadblocks as far as the map knows them; without any, straight on from the lane nearest to the pose."""
    known = {lane.roadblock_id for lane in mission.lane_map.lanes.values()}
    route = tuple(block for block in mission.route_roadblock_ids if block in known)
    if route:
        return route
    start = nearest_lane(mission.lane_map, pose)
    return roadblock_route(mission.lane_map, extend_straight(mission.lane_map, (start,), NO_ROUTE_M))


class Chains:
    """The chains of one mission, each laid when it is first asked for."""

    def __init__(self, mission: Mission, route: Sequence[str], parameters: RoadParameters) -> None:
        self.lanes = route_lanes(mission.lane_map, route)
        self._mission = mission
        self._parameters = parameters
        self._through: dict[str, Chain | None] = {}
        self._opposite: dict[tuple[int, int], str | None] = {}

    def through(self, lane_id: str) -> Chain | None:
        """The chain that leads on from this lane, None where no path can be laid through it."""
        if lane_id not in self._through:
            ids = [lane_id]
            while (
                following := self.lanes[ids[-1]].next_lane if ids[-1] in self.lanes else None
            ) and following not in ids:
                ids.append(following)
            chain = self._lay(self._before(lane_id), tuple(ids))
            for each in ids:
                self._through.setdefault(each, chain)
        return self._through[lane_id]

    def beside(self, chain: Chain, progress_m: float, side: str) -> Chain | None:
        """The chain of the neighbouring lane of the same direction, None where there is none."""
        lanes = self._mission.lane_map.lanes
        here = lanes[chain.lane_at(progress_m)]
        neighbour = here.left_neighbor if side == "left" else here.right_neighbor
        if neighbour is None or neighbour not in lanes or lanes[neighbour].lane_type == "bike":
            return None
        return self.through(neighbour)

    def opposite(self, chain: Chain, progress_m: float) -> str | None:
        """The lane for oncoming traffic that adjoins this one on its left, None where there is none."""
        key = (id(chain), int(progress_m / OPPOSITE_STEP_M))
        if key not in self._opposite:
            self._opposite[key] = opposite_lane(self._mission.lane_map, chain, progress_m)
        return self._opposite[key]

    def changes(self, lane_id: str) -> float:
        """Lane changes to the route's end from this lane, inf for a lane that is not on the route."""
        return self.lanes[lane_id].changes if lane_id in self.lanes else math.inf

    def _before(self, lane_id: str) -> tuple[str, ...]:
        """Lanes that lead here, as long as BEHIND_M, those of the route first."""
        lanes, found, length = self._mission.lane_map.lanes, [lane_id], 0.0
        while length < BEHIND_M:
            incoming = [i for i in lanes[found[0]].incoming if i in lanes and i not in found]
            if not incoming:
                break
            on_route = [i for i in incoming if i in self.lanes]
            straight = [i for i in (on_route or incoming) if lanes[i].turn == "straight"]
            found.insert(0, (straight or on_route or incoming)[0])
            length += lane_length_m(lanes[found[0]])
        return tuple(found[:-1])

    def _lay(self, before: tuple[str, ...], ids: tuple[str, ...]) -> Chain | None:
        lane_map, parameters = self._mission.lane_map, self._parameters
        try:
            path = centerline(lane_map, (*before, *ids))
        except ValueError:  # fewer than two points, or some that are not finite
            return None
        along = AlongPath.of(self._mission, path, parameters, parameters.half_width_m)
        kept, starts, previous = [], [], None
        for progress, lane_id in zip(path.progress_m, path.lane_ids, strict=True):
            if lane_id is not None and lane_id != previous:
                kept.append(lane_id)
                starts.append(float(progress))
            previous = lane_id
        left, right = _edges(path, [lane_map.lanes[lane_id] for lane_id in kept])
        final = self.lanes.get(ids[-1])
        return Chain(
            lane_ids=tuple(kept),
            starts_m=tuple(starts),
            along=along,
            left_m=left,
            right_m=right,
            reaches_goal=final is not None and math.isinf(final.room_m),
        )


def opposite_lane(lane_map: LaneMap, chain: Chain, progress_m: float) -> str | None:
    """The lane against whose traffic the ego would drive just left of this one, None where there is none.

    None too where another lane of the ego's own direction lies between.
    """
    if lane_map.lanes[chain.lane_at(progress_m)].left_neighbor in lane_map.lanes:
        return None
    x, y, heading = chain.path.pose_at(progress_m)
    left, _ = chain.edges_m(progress_m, progress_m)
    x, y = x - (left + 1.5) * math.sin(heading), y + (left + 1.5) * math.cos(heading)
    for lane_id in lanes_near(lane_map, x, y, 2.5):
        lane = lane_map.lanes[lane_id]
        line = np.asarray(lane.centerline, dtype=float)[:, :2]
        k = min(int(np.argmin(np.hypot(line[:, 0] - x, line[:, 1] - y))), len(line) - 2)
        turned = float(wrap_angle(math.atan2(*(line[k + 1] - line[k])[::-1]) - heading))
        if abs(turned) >= OPPOSITE_RAD and lane.lane_type != "bike":
            return lane_id
    return None


def _share_with_neighbours(lane_map: LaneMap, here: dict[str, RouteLane]) -> None:
    """One change more than the neighbour needs, where that is less than what the lane itself needs."""
    for _ in here:
        for lane_id, own in here.items():
            lane = lane_map.lanes[lane_id]
            sides = [here[n].changes + 1.0 for n in (lane.left_neighbor, lane.right_neighbor) if n in here]
            if sides and min(sides) < own.changes:
                here[lane_id] = RouteLane(changes=min(sides), room_m=own.room_m, next_lane=own.next_lane)


def _by_roadblock(lane_map: LaneMap) -> Mapping[str, list[str]]:
    members: dict[str, list[str]] = {}
    for lane_id, lane in lane_map.lanes.items():
        if lane.lane_type != "bike":
            members.setdefault(lane.roadblock_id, []).append(lane_id)
    return members


def _edges(path: Path, lanes: Sequence[Lane]) -> tuple[FloatArray, FloatArray]:
    """(left, right): distance of the lanes' boundaries from each point of the path, at least half a metre."""
    sides = []
    for sign, polylines in ((1.0, [x.left_boundary for x in lanes]), (-1.0, [x.right_boundary for x in lanes])):
        found = [path.project_points(np.asarray(line, dtype=float)[:, :2]) for line in polylines if len(line)]
        at = np.concatenate(found) if found else np.zeros((0, 2))
        at = at[np.isfinite(at).all(axis=1)]
        if len(at) == 0:
            at = np.array([[0.0, sign * 1.75]])
        order = np.argsort(at[:, 0], kind="stable")
        sides.append(np.maximum(0.5, sign * np.interp(path.progress_m, at[order, 0], at[order, 1])))
    return sides[0], sides[1]


@njit(cache=True)
def envelope(speed2, at, decel):
    """(M,) squared speeds lowered so that braking at a steady rate meets every one of them in time."""
    out = speed2.copy()
    for i in range(len(out) - 2, -1, -1):
        out[i] = min(out[i], out[i + 1] + 2.0 * decel * (at[i + 1] - at[i]))
    return out
