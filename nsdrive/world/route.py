"""Finding the way: the nearest lane, a lane sequence along a route, its centerline, and a check of a map's health.

The search is nuPlan's IDM planner's: breadth first over the lanes of the route's roadblocks, without lane changes, and
the longest way found where none reaches the end. Lanes may follow lanes directly (Argoverse 2) or through connectors
(nuPlan); nothing here assumes that they alternate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from nsdrive.world.geometry import Path, resample, wrap_angle
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.types import FloatArray

HEADING_WEIGHT_M = 4.0  # chosen by us: a lane turned by 1 rad counts as 4 m further away
HEADING_LIMIT_RAD = np.pi / 2  # a lane that runs the other way is never the ego's
JOINT_M = 2.0  # lanes that overlap by up to this much at their joint are spliced cleanly, chosen by us

MATCH_STEP_M, MATCH_RADIUS_M = 2.0, 5.0  # map matching looks every 2 m, at lanes within 5 m, chosen by us
LANE_CHANGE_COST, JUMP_COST = 3.0, 30.0


def nearest_lane(
    lane_map: LaneMap,
    pose: FloatArray,
    allowed_roadblocks: Iterable[str] | None = None,
    lane_types: tuple[str, ...] = ("vehicle", "bus"),
) -> str:
    """Id of the lane or connector nearest to a pose (x, y, heading), with a matching heading.

    Distance plus 4 m per radian of heading difference; lanes turned by more than 90 degrees only where there is no
    other. `allowed_roadblocks` restricts the choice to a route. ValueError if no lane is left to choose from.
    """
    index = _lane_index(lane_map)
    allowed = None if allowed_roadblocks is None else frozenset(allowed_roadblocks)
    usable = np.array(
        [
            (allowed is None or lane.roadblock_id in allowed) and lane.lane_type in lane_types
            for lane in lane_map.lanes.values()
        ],
        dtype=bool,
    )
    if not usable.any():
        where = "" if allowed is None else f" in roadblocks {sorted(allowed)[:5]}"
        raise ValueError(f"Map {lane_map.name!r} has no lane of type {' or '.join(lane_types)}{where}.")
    distance = np.hypot(index.points[:, 0] - pose[0], index.points[:, 1] - pose[1])
    turned = np.abs(wrap_angle(index.headings_rad - pose[2]))
    cost = distance + HEADING_WEIGHT_M * turned + np.where(turned > HEADING_LIMIT_RAD, 1e6, 0.0)
    cost[~usable[index.lane_of]] = np.inf
    return index.lane_ids[index.lane_of[int(np.argmin(cost))]]


def lanes_near(lane_map: LaneMap, x_m: float, y_m: float, radius_m: float) -> tuple[str, ...]:
    """Ids of the lanes whose centerline comes within the radius, nearest first."""
    index = _lane_index(lane_map)
    distance = np.hypot(index.points[:, 0] - x_m, index.points[:, 1] - y_m)
    near = np.flatnonzero(distance <= radius_m)
    found: dict[str, None] = {}
    for point in near[np.argsort(distance[near], kind="stable")]:
        found[index.lane_ids[index.lane_of[point]]] = None
    return tuple(found)


def find_route(
    lane_map: LaneMap,
    start_lane_id: str,
    goal: tuple[float, float] | None,
    route_roadblock_ids: Sequence[str],
) -> tuple[str, ...]:
    """Lanes from the start lane along the route's roadblocks, to the last roadblock or as far as lanes lead.

    Among equally deep ends the one nearest to `goal` (global x, y) is taken, else the first found. A start lane that is
    not on the route is kept as the first lane. ValueError if the start lane is not in the map.
    """
    if start_lane_id not in lane_map.lanes:
        raise ValueError(f"Lane {start_lane_id!r} is not in map {lane_map.name!r} ({len(lane_map.lanes)} lanes).")
    route = list(route_roadblock_ids)
    block = lane_map.lanes[start_lane_id].roadblock_id
    start = (start_lane_id, route.index(block) if block in route else -1)
    # A node is a lane and how far along the route it stands, so that a route may pass a roadblock twice.
    parent: dict[tuple[str, int], tuple[str, int] | None] = {start: None}
    queue = deque([start])
    while queue:
        lane_id, at = queue.popleft()
        for following in lane_map.lanes[lane_id].outgoing:
            if following not in lane_map.lanes:
                continue
            step = _step_along(route, at, lane_map.lanes[following].roadblock_id)
            if step is not None and (following, step) not in parent:
                parent[(following, step)] = (lane_id, at)
                queue.append((following, step))

    def distance_to_goal(node: tuple[str, int]) -> float:
        line = lane_map.lanes[node[0]].centerline
        return 0.0 if goal is None else float(np.min(np.hypot(line[:, 0] - goal[0], line[:, 1] - goal[1])))

    def leads_on(node: tuple[str, int]) -> bool:
        return any(node == p and child[1] == node[1] for child, p in parent.items())

    furthest = max(at for _, at in parent)
    ends = [node for node in parent if node[1] == furthest]
    ends = [node for node in ends if not leads_on(node)] or ends
    node: tuple[str, int] | None = min(ends, key=distance_to_goal)
    lanes: list[str] = []
    while node is not None:
        lanes.append(node[0])
        node = parent[node]
    return tuple(reversed(lanes))


def centerline(lane_map: LaneMap, lane_ids: Sequence[str]) -> Path:
    """The lanes' centerlines as one path, with speed limit and lane id per point; joints may gap or overlap a little."""
    if not lane_ids:
        raise ValueError("A centerline needs at least one lane.")
    points: list[FloatArray] = []
    limits: list[float] = []
    ids: list[str] = []
    for lane_id in lane_ids:
        lane = lane_map.lanes[lane_id]
        line = np.asarray(lane.centerline, dtype=np.float64)[:, :2]
        ahead = line[min(1, len(line) - 1)] - line[0]
        ahead = ahead / max(float(np.hypot(*ahead)), 1e-9)
        # Drop what the lane before has beyond this lane's start, so that the path never steps back.
        while len(points) > 1:
            beyond = points[-1] - line[0]
            if float(beyond @ ahead) <= -0.05 or float(np.hypot(*beyond)) > JOINT_M:
                break
            points.pop()
            limits.pop()
            ids.pop()
        points.extend(line)
        limits.extend([np.nan if lane.speed_limit_mps is None else lane.speed_limit_mps] * len(line))
        ids.extend([lane_id] * len(line))
    return Path.of(np.array(points), limits, ids)


def roadblock_route(lane_map: LaneMap, lane_ids: Sequence[str]) -> tuple[str, ...]:
    """The roadblocks that the lanes pass through, in order, each once in a row."""
    blocks: list[str] = []
    for lane_id in lane_ids:
        block = lane_map.lanes[lane_id].roadblock_id
        if not blocks or blocks[-1] != block:
            blocks.append(block)
    return tuple(blocks)


def straightest_successor(lane_map: LaneMap, lane_id: str) -> str | None:
    """The outgoing lane that turns least over its first 30 m, None at the end of the map."""
    end = _end_heading(lane_map.lanes[lane_id])
    best, best_turn = None, np.inf
    for following in lane_map.lanes[lane_id].outgoing:
        lane = lane_map.lanes.get(following)
        if lane is None or lane.lane_type == "bike":
            continue
        line = resample(np.asarray(lane.centerline)[:, :2], 1.0)[:31]
        turn = abs(float(wrap_angle(np.arctan2(*(line[-1] - line[-2])[::-1]) - end)))
        if turn < best_turn - 1e-6:
            best, best_turn = following, turn
    return best


def extend_straight(lane_map: LaneMap, lane_ids: Sequence[str], length_m: float) -> tuple[str, ...]:
    """The lanes and then their straightest successors, until `length_m` is added or the map ends."""
    lanes, added = list(lane_ids), 0.0
    while lanes and added < length_m:
        following = straightest_successor(lane_map, lanes[-1])
        if following is None or following in lanes[-8:]:
            break
        lanes.append(following)
        added += lane_length_m(lane_map.lanes[following])
    return tuple(lanes)


def lane_length_m(lane: Lane) -> float:
    return float(np.sum(np.hypot(*np.diff(np.asarray(lane.centerline)[:, :2], axis=0).T)))


def route_of_log(lane_map: LaneMap, poses: FloatArray, beyond_m: float = 100.0) -> tuple[str, ...]:
    """The roadblocks of a driven log (T, 3), continued straight on for `beyond_m`: a route for sources without one."""
    return roadblock_route(lane_map, extend_straight(lane_map, lanes_of_log(lane_map, poses), beyond_m))


def lanes_of_log(lane_map: LaneMap, poses: FloatArray) -> tuple[str, ...]:
    """The lanes most plausibly driven by a log of poses (T, 3), connected where the map connects them.

    Viterbi over the lanes near each pose (every 2 m of driving): lateral distance and heading against the cost of going
    from lane to lane. Along the map is cheap, a change of lane costs a little, a jump a lot; costs are chosen by us.
    """
    poses = np.asarray(poses, dtype=np.float64).reshape(-1, 3)
    kept = [0]
    for i in range(1, len(poses)):
        if np.hypot(*(poses[i, :2] - poses[kept[-1], :2])) >= MATCH_STEP_M:
            kept.append(i)
    moves: dict[str, dict[str, tuple[float, tuple[str, ...]]]] = {}
    best: dict[str, float] = {}
    back: list[dict[str, str | None]] = []
    for number, pose in enumerate(poses[kept]):
        here: dict[str, float] = {}
        came: dict[str, str | None] = {}
        candidates = lanes_at(lane_map, pose) or {nearest_lane(lane_map, pose): 0.5 * MATCH_RADIUS_M**2}
        for lane_id, misfit in candidates.items():
            cheapest, source = (0.0, None) if number == 0 else (np.inf, None)
            for previous, cost in best.items():
                if previous not in moves:
                    moves[previous] = _moves(lane_map, previous)
                total = cost + moves[previous].get(lane_id, (JUMP_COST, ()))[0]
                if total < cheapest:
                    cheapest, source = total, previous
            here[lane_id], came[lane_id] = cheapest + misfit, source
        best = here
        back.append(came)
    lane: str | None = min(best, key=lambda lane_id: best[lane_id])
    states: list[str] = []
    for came in reversed(back):
        assert lane is not None
        states.append(lane)
        lane = came[lane]
    states.reverse()
    lanes = [states[0]]
    for state in states[1:]:
        if state != lanes[-1]:
            lanes.extend([*moves[lanes[-1]].get(state, (0.0, ()))[1], state])
    return tuple(lanes)


def lanes_at(lane_map: LaneMap, pose: FloatArray) -> dict[str, float]:
    """Lanes within 5 m that a pose may be driving in, with their misfit: half the squares of metres aside and of turns
    of 0.3 rad. Empty for a pose off every lane."""
    index = _lane_index(lane_map)
    dx, dy = pose[0] - index.points[:, 0], pose[1] - index.points[:, 1]
    near = np.flatnonzero(dx * dx + dy * dy <= MATCH_RADIUS_M**2)
    turned = wrap_angle(index.headings_rad[near] - pose[2])
    near, turned = near[np.abs(turned) <= np.pi / 3], turned[np.abs(turned) <= np.pi / 3]
    cos, sin = np.cos(index.headings_rad[near]), np.sin(index.headings_rad[near])
    along, aside = dx[near] * cos + dy[near] * sin, dy[near] * cos - dx[near] * sin
    misfits = 0.5 * (aside**2 + np.maximum(0.0, np.abs(along) - 0.6) ** 2 + (turned / 0.3) ** 2)
    found: dict[str, float] = {}
    for lane_number, misfit in zip(index.lane_of[near].tolist(), misfits.tolist(), strict=True):
        lane_id = index.lane_ids[lane_number]
        if misfit < found.get(lane_id, np.inf) and lane_map.lanes[lane_id].lane_type != "bike":
            found[lane_id] = misfit
    return found


def validate(lane_map: LaneMap) -> list[str]:
    """Problems of a map, one sentence each; empty for a sound one."""
    problems: list[str] = []
    for key, lane in lane_map.lanes.items():
        problems += _lane_problems(lane_map, key, lane)
    for signal in lane_map.signals:
        for connector in signal.connector_ids:
            if connector not in lane_map.lanes:
                problems.append(f"Signal {signal.signal_id} is for connector {connector}, which is not in the map.")
    for stop_line in lane_map.stop_lines.values():
        if np.shape(stop_line.line) != (2, 2):
            problems.append(f"Stop line {stop_line.stop_line_id} has shape {np.shape(stop_line.line)}, not (2, 2).")
    if not lane_map.drivable_area:
        problems.append("The map has no drivable area.")
    return problems


def _moves(lane_map: LaneMap, lane_id: str) -> dict[str, tuple[float, tuple[str, ...]]]:
    """What 2 m of driving may lead to from a lane: target -> (cost, lanes passed on the way)."""
    found: dict[str, tuple[float, tuple[str, ...]]] = {lane_id: (0.0, ())}
    lane = lane_map.lanes[lane_id]
    sides = [side for side in (lane.left_neighbor, lane.right_neighbor) if side in lane_map.lanes]
    reached: list[tuple[str, float, tuple[str, ...]]] = [(lane_id, 0.0, ())]
    for _ in range(3):  # short lanes may be passed whole between two poses
        reached = [
            (following, cost + 0.1, passed if at == lane_id else (*passed, at))
            for at, cost, passed in reached
            for following in lane_map.lanes[at].outgoing
            if following in lane_map.lanes
        ]
        for following, cost, passed in reached:
            found.setdefault(following, (cost, passed))
    for side in sides:
        assert side is not None
        found.setdefault(side, (LANE_CHANGE_COST, ()))
        for following in lane_map.lanes[side].outgoing:
            found.setdefault(following, (LANE_CHANGE_COST + 0.1, (side,)))
    return found


def _lane_problems(lane_map: LaneMap, key: str, lane: Lane) -> list[str]:
    problems = []
    if key != lane.lane_id:
        problems.append(f"Lane {lane.lane_id} is filed under {key}.")
    line = np.asarray(lane.centerline)
    if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2 or not np.isfinite(line).all():
        return [*problems, f"Lane {key}: centerline of shape {line.shape} is not two or more finite points."]
    if lane_length_m(lane) < 0.1:
        problems.append(f"Lane {key} is {lane_length_m(lane):.2f} m long.")
    if lane.speed_limit_mps is not None and not 0.0 < lane.speed_limit_mps < 60.0:
        problems.append(f"Lane {key} has a speed limit of {lane.speed_limit_mps} m/s.")
    for following in lane.outgoing:
        other = lane_map.lanes.get(following)
        if other is None:
            problems.append(f"Lane {key} leads to {following}, which is not in the map.")
            continue
        if key not in other.incoming:
            problems.append(f"Lane {key} leads to {following}, which does not list it as incoming.")
        gap = float(np.hypot(*(np.asarray(other.centerline)[0] - line[-1])))
        if gap > 0.5:
            problems.append(f"Lanes {key} and {following} meet with a gap of {gap:.2f} m.")
        bend = abs(float(wrap_angle(_start_heading(other) - _end_heading(lane))))
        if bend > np.pi / 4:
            problems.append(f"Lanes {key} and {following} meet with a bend of {np.degrees(bend):.0f} degrees.")
    for incoming in lane.incoming:
        if incoming not in lane_map.lanes:
            problems.append(f"Lane {key} comes from {incoming}, which is not in the map.")
        elif key not in lane_map.lanes[incoming].outgoing:
            problems.append(f"Lane {key} comes from {incoming}, which does not list it as outgoing.")
    for side in (lane.left_neighbor, lane.right_neighbor):
        if side is not None and side not in lane_map.lanes:
            problems.append(f"Lane {key} has neighbor {side}, which is not in the map.")
    for stop_line_id in lane.stop_line_ids:
        if stop_line_id not in lane_map.stop_lines:
            problems.append(f"Lane {key} has stop line {stop_line_id}, which is not in the map.")
    if (
        lane.intersection_id is not None
        and lane_map.intersections
        and lane.intersection_id not in lane_map.intersections
    ):
        problems.append(f"Lane {key} is in intersection {lane.intersection_id}, which is not in the map.")
    return problems


def _step_along(route: list[str], at: int, block: str) -> int | None:
    """Where on the route a lane of this roadblock stands when the lane before it stands at `at`; None if it leaves it."""
    if at < 0:
        return route.index(block) if block in route else None  # joins the route from beside it
    if at + 1 < len(route) and route[at + 1] == block:
        return at + 1
    if route[at] == block:
        return at  # lanes of one roadblock may follow each other
    return None


def _start_heading(lane: Lane) -> float:
    step = np.asarray(lane.centerline)[1] - np.asarray(lane.centerline)[0]
    return float(np.arctan2(step[1], step[0]))


def _end_heading(lane: Lane) -> float:
    step = np.asarray(lane.centerline)[-1] - np.asarray(lane.centerline)[-2]
    return float(np.arctan2(step[1], step[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneIndex:
    """All centerline points of a map, at most 1 m apart: points (P, 2), headings_rad (P,), lane_of (P,) -> lane_ids."""

    lane_ids: tuple[str, ...]
    points: FloatArray
    headings_rad: FloatArray
    lane_of: np.ndarray


_INDICES: WeakKeyDictionary[LaneMap, LaneIndex] = WeakKeyDictionary()


def _lane_index(lane_map: LaneMap) -> LaneIndex:
    """Built once per map, forgotten with it."""
    if lane_map not in _INDICES:
        points, headings, owners = [np.empty((0, 2))], [np.empty(0)], [np.empty(0, dtype=int)]
        for number, lane in enumerate(lane_map.lanes.values()):
            dense = resample(np.asarray(lane.centerline, dtype=np.float64)[:, :2], 1.0)
            steps = np.diff(dense, axis=0)
            heading = np.arctan2(steps[:, 1], steps[:, 0])
            points.append(dense)
            headings.append(np.concatenate([heading[:1], heading]))
            owners.append(np.full(len(dense), number))
        _INDICES[lane_map] = LaneIndex(
            lane_ids=tuple(lane_map.lanes),
            points=np.concatenate(points),
            headings_rad=np.concatenate(headings),
            lane_of=np.concatenate(owners),
        )
    return _INDICES[lane_map]
