"""From a description of roads and junctions to a complete lane map, right-hand traffic.

    network = build_network("demo", roads=[Road(name="south", reference=sweep((0, -20, -1.57), [(0, 0.0), (300, 0.01)]), ...)],
                            junctions=[Junction(name="x", arms=(("south", "start"), ...), kind="traffic_light", ...)])

A road is a reference line between its two directions; its lanes are exact offsets of that line, cut into segments with
a short connector between two of them, because in nuPlan a lane never joins a lane. A junction joins road ends by
connectors for every allowed movement. All geometry is numpy; no polygon is ever united here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, LaneMap, Signal, StopLine
from nsdrive.world.types import FloatArray

SPACING_M = (
    0.7  # chosen by us: an outer lane of a tight bend is still sampled below 1 m, which nuPlan's route matching needs
)
SHOULDER_M = 0.35  # chosen by us: asphalt outside the edge line
JOINT_M = 6.0  # chosen by us: length of the connector between two segments of a road
SEGMENT_M = 90.0  # chosen by us: nuPlan's lanes are mostly 30-150 m long
CROSSWALK_M = 3.2  # chosen by us: depth of a crosswalk along the road
KERB_STEP = 4  # kerbs and walkways keep every fourth point: a chord of 2.8 m is 2 cm off at a radius of 50 m


@dataclass(frozen=True, kw_only=True, eq=False)
class Road:
    """A two-way road. reference (N, 3): x, y, heading every SPACING_M, the line between the two directions."""

    name: str
    reference: FloatArray
    lanes_forward: int  # driving along the reference line, on its right
    lanes_backward: int
    lane_width_m: float
    speed_limit_mps: float
    parking_m: float = 0.0  # strip for parked cars outside the lanes, both sides
    walkway_m: float = 3.0
    centre_marking: str = "double_yellow"
    crosswalk_joints: tuple[int, ...] = ()  # joints, counted along the reference line, that carry a crosswalk

    def edge_m(self, side: int) -> float:
        """Lateral offset of the kerb from the reference line: side +1 is the left kerb, -1 the right one."""
        lanes = self.lanes_backward if side > 0 else self.lanes_forward
        return side * (lanes * self.lane_width_m + SHOULDER_M + self.parking_m)

    def line(self, offset_m: float) -> FloatArray:
        """(N, 2): the reference line moved to its left by offset_m."""
        heading = self.reference[:, 2]
        return self.reference[:, :2] + offset_m * np.stack([-np.sin(heading), np.cos(heading)], axis=1)


@dataclass(frozen=True, kw_only=True)
class Junction:
    """Where road ends meet. arms: (road, "start" | "end"). zone_m: straight kerb between a lane's end and the corner."""

    name: str
    arms: tuple[tuple[str, str], ...]
    kind: str = "traffic_light"  # traffic_light, stop_sign, default
    phasing: str = "split"  # split: one arm at a time. protected: left turns have lanes and a phase of their own
    zone_m: float = 5.2
    crosswalk_arms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Movement:
    """One allowed way through a junction, lane to lane."""

    junction: str
    from_road: str
    to_road: str
    from_index: int  # 0 is the leftmost lane of its direction
    to_index: int
    turn: str
    connector_id: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RoadNetwork:
    """The lane map and what it was made of, so that scripted traffic finds its way without searching."""

    lane_map: LaneMap
    roads: Mapping[str, Road]
    junctions: Mapping[str, Junction]
    movements: tuple[Movement, ...]
    chains: Mapping[tuple[str, str, int], tuple[str, ...]]  # (road, "f" | "b", lane index) -> lanes and joints in order


def build_network(name: str, *, roads: Sequence[Road], junctions: Sequence[Junction] = ()) -> RoadNetwork:
    """The lane map of these roads and junctions."""
    parts = _Parts()
    for road in roads:
        _lay_road(parts, road)
    by_name = {road.name: road for road in roads}
    for junction in junctions:
        _lay_junction(parts, junction, by_name)
    lane_map = LaneMap(
        name=name,
        lanes=_linked(parts),
        intersections=parts.intersections,
        crosswalks=parts.crosswalks,
        stop_lines=parts.stop_lines,
        signals=tuple(parts.signals),
        drivable_area=tuple(parts.drivable),
        walkways=tuple(parts.walkways),
        stop_signs=tuple(parts.stop_signs),
    )
    return RoadNetwork(
        lane_map=lane_map,
        roads=by_name,
        junctions={junction.name: junction for junction in junctions},
        movements=tuple(parts.movements),
        chains=parts.chains,
    )


def sweep(pose: tuple[float, float, float], curvature: Sequence[tuple[float, float]]) -> FloatArray:
    """(N, 3): x, y, heading every SPACING_M from `pose` on, along a line of piecewise linear curvature (clothoids).

    curvature: (arc length [m], curvature [1/m], left positive) knots from 0 to the length of the line.
    """
    stations, values = np.array(curvature, dtype=float).T
    fine = 4
    steps = round(stations[-1] / SPACING_M) * fine
    ds = SPACING_M / fine
    middle = (np.arange(steps) + 0.5) * ds
    turn = np.interp(middle, stations, values) * ds
    heading = pose[2] + np.concatenate([[0.0], np.cumsum(turn)])
    half = heading[:-1] + 0.5 * turn
    x = pose[0] + np.concatenate([[0.0], np.cumsum(np.cos(half) * ds)])
    y = pose[1] + np.concatenate([[0.0], np.cumsum(np.sin(half) * ds)])
    return np.stack([x, y, heading], axis=1)[::fine]


def connect(
    start: FloatArray, start_rad: float, end: FloatArray, end_rad: float, spacing_m: float = 0.75
) -> FloatArray:
    """(N, 2): a smooth curve with these end points and headings, close to an arc (a cubic Bezier with an arc's handles)."""
    chord = end - start
    distance = float(np.hypot(chord[0], chord[1]))
    t0 = np.array([math.cos(start_rad), math.sin(start_rad)])
    t1 = np.array([math.cos(end_rad), math.sin(end_rad)])
    angle = (end_rad - start_rad + math.pi) % (2 * math.pi) - math.pi
    cross = t0[0] * t1[1] - t0[1] * t1[0]
    reach0 = reach1 = distance / 2
    if abs(angle) > 0.15:  # the tangents meet: take the distances to where they do
        along0 = (chord[0] * t1[1] - chord[1] * t1[0]) / cross
        along1 = (t0[0] * chord[1] - t0[1] * chord[0]) / cross
        if along0 > 0.1 and along1 > 0.1 and max(along0, along1) < 3 * distance:
            reach0, reach1 = along0, along1
    handle = (4 / 3) * math.tan(angle / 4) / math.tan(angle / 2) if abs(angle) > 1e-6 else 2 / 3
    p1, p2 = start + handle * reach0 * t0, end - handle * reach1 * t1

    def bezier(u: FloatArray) -> FloatArray:
        u = u[:, None]
        return (1 - u) ** 3 * start + 3 * (1 - u) ** 2 * u * p1 + 3 * (1 - u) * u**2 * p2 + u**3 * end

    u = np.linspace(0.0, 1.0, 41)
    rough = bezier(u)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(rough, axis=0).T))])
    count = max(2, math.ceil(arc[-1] / spacing_m) + 1)
    points = bezier(np.interp(np.linspace(0.0, arc[-1], count), arc, u))
    points[0], points[-1] = start, end
    return points


class _Parts:
    """What the two layers below collect."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.links: list[tuple[str, str]] = []  # (from, to)
        self.intersections: dict[str, Intersection] = {}
        self.crosswalks: dict[str, Crosswalk] = {}
        self.stop_lines: dict[str, StopLine] = {}
        self.signals: list[Signal] = []
        self.drivable: list[FloatArray] = []
        self.walkways: list[FloatArray] = []
        self.stop_signs: list[tuple[float, float, float]] = []
        self.movements: list[Movement] = []
        self.chains: dict[tuple[str, str, int], tuple[str, ...]] = {}


def _linked(parts: _Parts) -> dict[str, Lane]:
    incoming: dict[str, list[str]] = {lane_id: [] for lane_id in parts.lanes}
    outgoing: dict[str, list[str]] = {lane_id: [] for lane_id in parts.lanes}
    for a, b in parts.links:
        outgoing[a].append(b)
        incoming[b].append(a)
    return {
        lane_id: replace(lane, incoming=tuple(incoming[lane_id]), outgoing=tuple(outgoing[lane_id]))
        for lane_id, lane in parts.lanes.items()
    }


def _lay_road(parts: _Parts, road: Road) -> None:
    samples = len(road.reference)
    joint = round(JOINT_M / SPACING_M)
    segments = max(1, round((samples - 1) * SPACING_M / SEGMENT_M))
    lane_samples = (samples - 1 - joint * (segments - 1)) / segments
    spans = []  # (first, last) sample of each lane segment, along the reference line
    for k in range(segments):
        first = round(k * (lane_samples + joint))
        spans.append((first, samples - 1 if k == segments - 1 else round(first + lane_samples)))

    for way, count, sign in (("f", road.lanes_forward, -1), ("b", road.lanes_backward, 1)):
        lines = [road.line(sign * k * road.lane_width_m / 2) for k in range(2 * count + 1)]
        driven = spans
        if way == "b":
            lines = [line[::-1] for line in lines]
            driven = [(samples - 1 - last, samples - 1 - first) for first, last in reversed(spans)]
        pieces = []  # (roadblock id, first, last, is joint) in driving order
        stops: dict[str, str] = {}  # joint's roadblock -> stop line
        for k, (first, last) in enumerate(driven):
            pieces.append((f"{road.name}-{way}{k}", first, last, False))
            if k + 1 < len(driven):
                pieces.append((f"{road.name}-{way}{k}j", last, driven[k + 1][0], True))
        for q in road.crosswalk_joints:
            k = q if way == "f" else segments - 2 - q
            stops[f"{road.name}-{way}{k}j"] = stop_id = f"{road.name}-stop-{way}{k}"
            at = driven[k][1]
            parts.stop_lines[stop_id] = StopLine(
                stop_line_id=stop_id, line=np.array([lines[0][at], lines[-1][at]]), kind="crosswalk"
            )
        for block, first, last, is_joint in pieces:
            cut = slice(first, last + 1)
            for i in range(count):
                parts.lanes[f"{block}-{i}"] = Lane(
                    lane_id=f"{block}-{i}",
                    roadblock_id=block,
                    is_connector=is_joint,
                    centerline=lines[2 * i + 1][cut],
                    left_boundary=lines[2 * i][cut],
                    right_boundary=lines[2 * i + 2][cut],
                    speed_limit_mps=road.speed_limit_mps,
                    left_neighbor=f"{block}-{i - 1}" if i > 0 else None,
                    right_neighbor=f"{block}-{i + 1}" if i + 1 < count else None,
                    stop_line_ids=(stops[block],) if block in stops else (),
                    left_marking=road.centre_marking if i == 0 else "dashed_white",
                    right_marking="solid_white" if i + 1 == count else "dashed_white",
                )
        for i in range(count):
            chain = tuple(f"{block}-{i}" for block, *_ in pieces)
            parts.chains[road.name, way, i] = chain
            parts.links.extend(zip(chain[:-1], chain[1:], strict=True))

    for q in road.crosswalk_joints:
        middle, half = (spans[q][1] + spans[q + 1][0]) / 2, CROSSWALK_M / 2 / SPACING_M
        ends = np.array([round(middle - half), round(middle + half)])
        polygon = np.concatenate([road.line(road.edge_m(-1))[ends], road.line(road.edge_m(1))[ends[::-1]]])
        parts.crosswalks[f"{road.name}-walk-{q}"] = Crosswalk(crosswalk_id=f"{road.name}-walk-{q}", polygon=polygon)

    left, right = road.line(road.edge_m(1)), road.line(road.edge_m(-1))
    left_out, right_out = (road.line(road.edge_m(side) + side * road.walkway_m) for side in (1, -1))
    starts = [first for first, _ in spans]
    for first, last in zip(starts, [*starts[1:], samples - 1], strict=True):
        keep = np.append(np.arange(first, last, KERB_STEP), last)
        parts.drivable.append(np.concatenate([right[keep], left[keep][::-1]]))
        if road.walkway_m > 0:
            parts.walkways.append(np.concatenate([left[keep], left_out[keep][::-1]]))
            parts.walkways.append(np.concatenate([right_out[keep], right[keep][::-1]]))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Arm:
    """A road's end at a junction, seen from the junction outward."""

    road: Road
    pose: FloatArray  # (3,): reference line's end, heading outward
    approach: tuple[str, ...]  # lanes into the junction, leftmost first (as their drivers see it)
    exits: tuple[str, ...]
    right_m: float  # kerb offset on the right looking outward (exit side), positive
    left_m: float

    def at(self, outward_m: float, left_m: float) -> FloatArray:
        c, s = math.cos(self.pose[2]), math.sin(self.pose[2])
        return self.pose[:2] + outward_m * np.array([c, s]) + left_m * np.array([-s, c])


def _arm(parts: _Parts, road: Road, end: str) -> _Arm:
    exit_way, approach_way = ("f", "b") if end == "start" else ("b", "f")
    counts = {"f": road.lanes_forward, "b": road.lanes_backward}
    pose = road.reference[0].copy() if end == "start" else road.reference[-1] + [0.0, 0.0, math.pi]
    right, left = (-road.edge_m(-1), road.edge_m(1)) if end == "start" else (road.edge_m(1), -road.edge_m(-1))
    return _Arm(
        road=road,
        pose=pose,
        approach=tuple(parts.chains[road.name, approach_way, i][-1] for i in range(counts[approach_way])),
        exits=tuple(parts.chains[road.name, exit_way, i][0] for i in range(counts[exit_way])),
        right_m=right,
        left_m=left,
    )


def _lay_junction(parts: _Parts, junction: Junction, roads: Mapping[str, Road]) -> None:
    arms = sorted((_arm(parts, roads[name], end) for name, end in junction.arms), key=lambda arm: _wrap(arm.pose[2]))
    _lay_surface(parts, junction, arms)
    for arm in arms:
        turns = {_turn(arm, other): other for other in arms if other is not arm}
        stop_lines = _lay_control_line(parts, junction, arm)
        made: dict[str, list[str]] = {}
        for i, lane_turns in enumerate(_lane_turns(len(arm.approach), set(turns), junction.phasing)):
            for turn in lane_turns:
                other = turns[turn]
                target = _target_index(i, len(arm.approach), len(other.exits), turn)
                if target is not None:
                    made.setdefault(turn, []).append(
                        _lay_movement(parts, junction, arm, other, i, target, turn, stop_lines)
                    )
        if junction.kind == "traffic_light":
            _lay_signals(parts, junction, arm, turns.get("straight"), made)


def _lane_turns(lanes: int, available: set[str], phasing: str) -> list[list[str]]:
    """Which turns each approach lane allows, leftmost lane first."""
    allowed: list[list[str]] = [[] for _ in range(lanes)]
    own_left_lane = lanes > 1 and "left" in available and (phasing == "protected" or "straight" not in available)
    if "left" in available:
        allowed[0].append("left")
    if "straight" in available:
        for i in range(1 if own_left_lane else 0, lanes):
            allowed[i].append("straight")
    if "right" in available:
        allowed[-1].append("right")
    return allowed


def _target_index(index: int, lanes: int, exits: int, turn: str) -> int | None:
    if turn == "left":
        return 0
    if turn == "right":
        return exits - 1
    target = exits - (lanes - index)  # straight on keeps its place counted from the kerb
    return target if target >= 0 else None


def _lay_movement(
    parts: _Parts,
    junction: Junction,
    arm: _Arm,
    other: _Arm,
    index: int,
    target: int,
    turn: str,
    stops: tuple[str, ...],
) -> str:
    a, b = parts.lanes[arm.approach[index]], parts.lanes[other.exits[target]]
    start_rad, end_rad = arm.pose[2] + math.pi, other.pose[2]
    connector_id = f"{junction.name}-{arm.road.name}{index}-{other.road.name}{target}"
    parts.lanes[connector_id] = Lane(
        lane_id=connector_id,
        roadblock_id=f"{junction.name}-{arm.road.name}-{other.road.name}",
        is_connector=True,
        centerline=connect(a.centerline[-1], start_rad, b.centerline[0], end_rad),
        left_boundary=connect(a.left_boundary[-1], start_rad, b.left_boundary[0], end_rad),
        right_boundary=connect(a.right_boundary[-1], start_rad, b.right_boundary[0], end_rad),
        speed_limit_mps=min(arm.road.speed_limit_mps, other.road.speed_limit_mps),
        turn=turn,
        intersection_id=junction.name,
        stop_line_ids=stops,
    )
    parts.links += [(arm.approach[index], connector_id), (connector_id, other.exits[target])]
    parts.movements.append(
        Movement(
            junction=junction.name,
            from_road=arm.road.name,
            to_road=other.road.name,
            from_index=index,
            to_index=target,
            turn=turn,
            connector_id=connector_id,
        )
    )
    return connector_id


def _lay_surface(parts: _Parts, junction: Junction, arms: list[_Arm]) -> None:
    """The junction's polygon, its corners' walkways and its crosswalks. `arms` go counter-clockwise."""
    zone = junction.zone_m
    outline: list[FloatArray] = []
    for arm, after in zip(arms, [*arms[1:], arms[0]], strict=True):
        walkway_m = min(arm.road.walkway_m, after.road.walkway_m)
        inner_a, inner_b = arm.at(-zone, arm.left_m), after.at(-zone, -after.right_m)
        kerb = connect(inner_a, arm.pose[2] + math.pi, inner_b, after.pose[2], spacing_m=1.5)
        kerb = np.concatenate([[arm.at(0.0, arm.left_m)], kerb, [after.at(0.0, -after.right_m)]])
        outline += [arm.at(0.0, -arm.right_m)[None], kerb]
        if walkway_m > 0:
            outer = connect(
                arm.at(-zone, arm.left_m + arm.road.walkway_m),
                arm.pose[2] + math.pi,
                after.at(-zone, -after.right_m - after.road.walkway_m),
                after.pose[2],
                spacing_m=1.5,
            )
            ends = (arm.at(0.0, arm.left_m + arm.road.walkway_m), after.at(0.0, -after.right_m - after.road.walkway_m))
            parts.walkways.append(np.concatenate([kerb, [ends[1]], outer[::-1], [ends[0]]]))
        if arm.road.name in junction.crosswalk_arms:
            crosswalk_id = f"{junction.name}-walk-{arm.road.name}"
            near, far = -zone + 0.5, -zone + 0.5 + CROSSWALK_M
            corners = [(near, -arm.right_m), (far, -arm.right_m), (far, arm.left_m), (near, arm.left_m)]
            parts.crosswalks[crosswalk_id] = Crosswalk(
                crosswalk_id=crosswalk_id, polygon=np.array([arm.at(*corner) for corner in corners])
            )
    polygon = np.concatenate(outline)
    parts.drivable.append(polygon)
    parts.intersections[junction.name] = Intersection(
        intersection_id=junction.name, polygon=polygon, kind=junction.kind
    )


def _lay_control_line(parts: _Parts, junction: Junction, arm: _Arm) -> tuple[str, ...]:
    """The stop line at the end of an arm's approach lanes, and its stop sign if it has one."""
    if junction.kind == "default" or not arm.approach:
        return ()
    stop_line_id = f"{junction.name}-stop-{arm.road.name}"
    left, right = parts.lanes[arm.approach[0]].left_boundary[-1], parts.lanes[arm.approach[-1]].right_boundary[-1]
    parts.stop_lines[stop_line_id] = StopLine(
        stop_line_id=stop_line_id, line=np.array([left, right]), kind=junction.kind
    )
    if junction.kind == "stop_sign":
        x, y = arm.at(0.6, arm.left_m + 0.7)
        parts.stop_signs.append((float(x), float(y), _wrap(arm.pose[2] + math.pi)))
    return (stop_line_id,)


def _lay_signals(
    parts: _Parts, junction: Junction, arm: _Arm, opposite: _Arm | None, made: dict[str, list[str]]
) -> None:
    """Near side on the right kerb, far side on a mast arm, and a head of its own for a protected left turn."""
    heading = _wrap(arm.pose[2] + math.pi)
    left_alone = junction.phasing == "protected" and "left" in made and len(made) > 1
    main = [
        c for turn in ("straight", "right", "left") if not (turn == "left" and left_alone) for c in made.get(turn, ())
    ]
    width = arm.left_m
    if opposite is not None:
        far_right, far_left = opposite.at(0.6, -opposite.right_m - 0.8), opposite.at(0.6, opposite.left_m + 0.8)
    else:  # a T junction's stem faces a straight kerb
        ahead = (arm.pose[:2] - parts.intersections[junction.name].polygon) @ np.stack(
            [_unit(arm.pose[2]), _unit(arm.pose[2] - math.pi / 2)], axis=1
        )
        depth = float(ahead[np.abs(ahead[:, 1]) < 6.0, 0].max())
        far_right, far_left = arm.at(-depth - 0.8, arm.left_m), arm.at(-depth - 0.8, -arm.right_m)
    spots = [("near", arm.at(0.8, arm.left_m + 0.8), 0.0, main), ("far", far_right, min(7.0, 0.7 * width), main)]
    if left_alone:
        spots.append(("left", far_left, 0.0, made["left"]))
    for where, (x, y), mast_m, connectors in spots:
        parts.signals.append(
            Signal(
                signal_id=f"{junction.name}-{arm.road.name}-{where}",
                x_m=float(x),
                y_m=float(y),
                heading_rad=heading,
                connector_ids=tuple(connectors),
                arm_m=mast_m,
            )
        )


def _turn(arm: _Arm, other: _Arm) -> str:
    angle = _wrap(other.pose[2] - arm.pose[2] - math.pi)
    if abs(angle) < math.pi / 4:
        return "straight"
    return "left" if angle > 0 else "right"


def _unit(heading_rad: float) -> FloatArray:
    return np.array([math.cos(heading_rad), math.sin(heading_rad)])


def _wrap(angle_rad: float) -> float:
    return float((angle_rad + math.pi) % (2 * math.pi) - math.pi)
