"""Laying a junction between road ends: connectors for every allowed turn, surface, crosswalks, stop lines, signals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.scenarios.synthetic.road_parts import CROSSWALK_M, SPACING_M, Junction, Movement, Parts, Road, connect
from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, Signal, StopLine
from nsdrive.world.types import FloatArray


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


def _arm(parts: Parts, road: Road, end: str) -> _Arm:
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


def lay_junction(parts: Parts, junction: Junction, roads: Mapping[str, Road]) -> None:
    """Add a junction to the parts, whose roads are laid already."""
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
    parts: Parts,
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
    straight_m = 0.0 if turn == "straight" else junction.zone_m
    connector_id = f"{junction.name}-{arm.road.name}{index}-{other.road.name}{target}"
    parts.lanes[connector_id] = Lane(
        lane_id=connector_id,
        roadblock_id=f"{junction.name}-{arm.road.name}-{other.road.name}",
        is_connector=True,
        centerline=_way_across(a.centerline[-1], start_rad, b.centerline[0], end_rad, straight_m),
        left_boundary=_way_across(a.left_boundary[-1], start_rad, b.left_boundary[0], end_rad, straight_m),
        right_boundary=_way_across(a.right_boundary[-1], start_rad, b.right_boundary[0], end_rad, straight_m),
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


def _way_across(start: FloatArray, start_rad: float, end: FloatArray, end_rad: float, straight_m: float) -> FloatArray:
    """A connector's line: straight over the crosswalks, so that a turn clears the kerb, and curved between them."""
    if straight_m <= 0.0:
        return connect(start, start_rad, end, end_rad)
    ahead = np.linspace(0.0, straight_m, math.ceil(straight_m / SPACING_M) + 1)[:-1, None]
    first, last = start + ahead * _unit(start_rad), end - ahead[::-1] * _unit(end_rad)
    turn = connect(
        start + straight_m * _unit(start_rad), start_rad, end - straight_m * _unit(end_rad), end_rad, SPACING_M
    )
    return np.concatenate([first, turn, last])


def _lay_surface(parts: Parts, junction: Junction, arms: list[_Arm]) -> None:
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


def _lay_control_line(parts: Parts, junction: Junction, arm: _Arm) -> tuple[str, ...]:
    """The stop line at the end of an arm's approach lanes, and its stop sign if it has one."""
    if junction.kind == "default" or not arm.approach:
        return ()
    if junction.kind == "stop_sign" and not junction.stops(arm.road.name):
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
    parts: Parts, junction: Junction, arm: _Arm, opposite: _Arm | None, made: dict[str, list[str]]
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
