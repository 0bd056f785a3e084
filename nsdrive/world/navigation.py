"""What a navigation system would say at this moment: the next manoeuvre, how far it is, and the speed limit if known.

The command goes into the prompt, so that a trace may speak of the route without knowing what its reader cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsdrive.world.route import centerline, extend_straight, find_route, nearest_lane
from nsdrive.world.types import EgoState, Mission

ANNOUNCE_M = 100.0  # chosen by us: a turn is announced within this distance
AHEAD_M = 2.0 * ANNOUNCE_M  # where there is no route: the present lane, and what follows within sight
ROUND_M = 5.0  # as a navigation system speaks

TURN_WORDS = {"left": "turn left", "right": "turn right", "uturn": "make a U-turn", "straight": "go straight"}


@dataclass(frozen=True, kw_only=True)
class Navigation:
    """manoeuvre: turn left, turn right, make a U-turn, go straight (through an intersection), or follow the road.
    distance_m: to its start, in steps of 5 m, 0.0 while in it. speed_limit_mps: of the present lane, None if unknown."""

    manoeuvre: str
    distance_m: float
    speed_limit_mps: float | None

    @property
    def command(self) -> str:
        if self.manoeuvre == "follow the road":
            return self.manoeuvre
        return f"{self.manoeuvre} now" if self.distance_m == 0.0 else f"{self.manoeuvre} in {self.distance_m:.0f} m"


def navigation(mission: Mission, ego: EgoState) -> Navigation:
    """The next turn on the route within ANNOUNCE_M, else the next intersection, else follow the road.

    Without a route it leads straight on from the nearest lane.
    """
    lane_map, route, lanes = mission.lane_map, mission.route_roadblock_ids, mission.lane_map.lanes
    on_route = frozenset(route) & {lane.roadblock_id for lane in lanes.values()} or None
    start = nearest_lane(lane_map, ego.pose, allowed_roadblocks=on_route)
    ways = (
        find_route(lane_map, start, mission.goal_m, route) if on_route else extend_straight(lane_map, (start,), AHEAD_M)
    )
    path = centerline(lane_map, ways)
    lane_ids = [
        lane_id for lane_id in path.lane_ids if lane_id is not None
    ]  # a centerline knows the lane of each point
    here = path.project(ego.x_m, ego.y_m)[0]
    i = int(np.clip(np.searchsorted(path.progress_m, here), 0, len(path.progress_m) - 1))
    limit = lanes[lane_ids[i]].speed_limit_mps
    straight: tuple[str, float] | None = None
    previous = None
    for j in range(i, len(path.progress_m)):
        lane_id = lane_ids[j]
        if lane_id == previous:
            continue
        previous = lane_id
        distance = max(0.0, float(path.progress_m[j] - here)) if j > i else 0.0
        if distance > ANNOUNCE_M:
            break
        lane = lanes[lane_id]
        spoken = round(distance / ROUND_M) * ROUND_M
        if lane.is_connector and lane.turn != "straight":
            return Navigation(manoeuvre=TURN_WORDS[lane.turn], distance_m=spoken, speed_limit_mps=limit)
        if lane.is_connector and straight is None:
            straight = (TURN_WORDS["straight"], spoken)
    manoeuvre, distance = straight or ("follow the road", 0.0)
    return Navigation(manoeuvre=manoeuvre, distance_m=distance, speed_limit_mps=limit)
