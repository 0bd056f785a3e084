"""Small worlds for tests: a road in one line, a scenario in three.

    road = straight_map(200.0, n_lanes=2, speed_limit_mps=13.4)
    world = scenario(road, objects=[car("lead", 60.0, 0.0, speed_mps=5.0)], speed_mps=8.0)
    rollout = simulate(world, planner)

Lane 0 of every road starts at the origin along x and is the rightmost; lanes to its left are 3.5 m apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nsdrive.world.geometry import offset_polyline
from nsdrive.world.lane_map import Lane, LaneMap, StopLine
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, FloatArray, ObjectFrame, Scenario, TrackedObject

LANE_WIDTH_M = 3.5


def straight_map(
    length_m: float = 200.0,
    n_lanes: int = 1,
    speed_limit_mps: float | None = 13.4,
    n_pieces: int = 2,
    signal: bool = False,
) -> LaneMap:
    """A straight road of `n_pieces` roadblocks ("block-0", ...) with lanes "0-0" (piece-lane), rightmost lane 0.

    With `signal` the last piece is a connector roadblock with a traffic-light stop line ("stop-<lane>") at its start.
    """
    line = np.column_stack([np.arange(0.0, length_m + 1e-9, 1.0), np.zeros(int(length_m) + 1)])
    return road_map(line, n_lanes, speed_limit_mps, n_pieces, signal)


def curved_map(
    radius_m: float,
    angle_rad: float = np.pi / 2,
    lead_in_m: float = 50.0,
    speed_limit_mps: float | None = 13.4,
    n_lanes: int = 1,
) -> LaneMap:
    """Straight for `lead_in_m`, a bend (left for a positive radius), and straight again for as long."""
    turn = np.linspace(0.0, angle_rad, max(8, int(abs(radius_m) * angle_rad)))
    radius, side = abs(radius_m), np.sign(radius_m)
    bend = np.column_stack([lead_in_m + radius * np.sin(turn), side * radius * (1.0 - np.cos(turn))])
    out = bend[-1] + np.outer(np.arange(1.0, lead_in_m + 1.0), [np.cos(angle_rad), side * np.sin(angle_rad)])
    into = np.column_stack([np.arange(0.0, lead_in_m - 0.5), np.zeros(int(np.ceil(lead_in_m - 0.5)))])
    return road_map(np.vstack([into, bend, out]), n_lanes, speed_limit_mps, 2, False)


def road_map(
    line: FloatArray, n_lanes: int, speed_limit_mps: float | None, n_pieces: int, signal: bool = False
) -> LaneMap:
    """Parallel lanes along `line` (the centre of lane 0), cut into `n_pieces` roadblocks that follow each other."""
    cuts = np.linspace(0, len(line) - 1, n_pieces + 1).astype(int)
    lanes: dict[str, Lane] = {}
    stop_lines: dict[str, StopLine] = {}
    for piece in range(n_pieces):
        part = line[cuts[piece] : cuts[piece + 1] + 1]
        connector = signal and piece == n_pieces - 1
        for number in range(n_lanes):
            middle = number * LANE_WIDTH_M
            left, right = (
                offset_polyline(part, middle + LANE_WIDTH_M / 2),
                offset_polyline(part, middle - LANE_WIDTH_M / 2),
            )
            if connector:
                stop_lines[f"stop-{number}"] = StopLine(
                    stop_line_id=f"stop-{number}", line=np.array([left[0], right[0]]), kind="traffic_light"
                )
            lanes[f"{piece}-{number}"] = Lane(
                lane_id=f"{piece}-{number}",
                roadblock_id=f"block-{piece}",
                is_connector=connector,
                centerline=offset_polyline(part, middle) if middle else part,
                left_boundary=left,
                right_boundary=right,
                speed_limit_mps=speed_limit_mps,
                incoming=(f"{piece - 1}-{number}",) if piece > 0 else (),
                outgoing=(f"{piece + 1}-{number}",) if piece < n_pieces - 1 else (),
                left_neighbor=f"{piece}-{number + 1}" if number < n_lanes - 1 else None,
                right_neighbor=f"{piece}-{number - 1}" if number > 0 else None,
                stop_line_ids=(f"stop-{number}",) if connector else (),
            )
    outer, inner = offset_polyline(line, (n_lanes - 0.5) * LANE_WIDTH_M), offset_polyline(line, -LANE_WIDTH_M / 2)
    return LaneMap(name="test", lanes=lanes, stop_lines=stop_lines, drivable_area=(np.vstack([outer, inner[::-1]]),))


def ego_state(
    x_m: float = 0.0, y_m: float = 0.0, heading_rad: float = 0.0, speed_mps: float = 8.0, time_s: float = 0.0
) -> EgoState:
    return EgoState(time_s=time_s, x_m=x_m, y_m=y_m, heading_rad=heading_rad, speed_mps=speed_mps)


def tracked(
    track_id: str,
    x_m: float,
    y_m: float = 0.0,
    *,
    kind: str = "vehicle",
    heading_rad: float = 0.0,
    speed_mps: float = 0.0,
    length_m: float = 4.7,
    width_m: float = 1.9,
    height_m: float = 1.6,
) -> TrackedObject:
    """One object, moving along its heading."""
    return TrackedObject(
        track_id=track_id,
        kind=kind,
        x_m=x_m,
        y_m=y_m,
        heading_rad=heading_rad,
        length_m=length_m,
        width_m=width_m,
        height_m=height_m,
        vx_mps=speed_mps * float(np.cos(heading_rad)),
        vy_mps=speed_mps * float(np.sin(heading_rad)),
        accel_mps2=0.0,
        indicator=0,
    )


def car(
    track_id: str, x_m: float, y_m: float = 0.0, *, speed_mps: float = 0.0, heading_rad: float = 0.0
) -> TrackedObject:
    return tracked(track_id, x_m, y_m, speed_mps=speed_mps, heading_rad=heading_rad)


def frames_of(objects: Sequence[TrackedObject], n_ticks: int) -> tuple[ObjectFrame, ...]:
    """Every object at its own constant velocity, its given place being that of tick 0."""
    return tuple(
        ObjectFrame.of(
            [
                replace(o, x_m=o.x_m + o.vx_mps * tick * INTERVAL_S, y_m=o.y_m + o.vy_mps * tick * INTERVAL_S)
                for o in objects
            ]
        )
        for tick in range(n_ticks)
    )


def scenario(
    lane_map: LaneMap,
    objects: Sequence[TrackedObject] = (),
    *,
    ego_x_m: float = 20.0,
    ego_y_m: float = 0.0,
    speed_mps: float = 8.0,
    duration_s: float = 10.0,
    lights: Mapping[str, str] | None = None,
    route: Sequence[str] | None = None,
) -> Scenario:
    """The ego along x at a constant speed, at (ego_x_m, ego_y_m) when the rollout starts (tick HISTORY_TICKS)."""
    n_ticks = HISTORY_TICKS + round(duration_s / INTERVAL_S) + 1
    blocks = list(dict.fromkeys(lane.roadblock_id for lane in lane_map.lanes.values()))
    return Scenario(
        scenario_id="test-scenario",
        scenario_type="unknown",
        source="test",
        split_key="test",
        lane_map=lane_map,
        route_roadblock_ids=tuple(blocks if route is None else route),
        goal_m=None,
        ego_log=tuple(
            ego_state(
                ego_x_m + (tick - HISTORY_TICKS) * INTERVAL_S * speed_mps,
                ego_y_m,
                0.0,
                speed_mps,
                round(tick * INTERVAL_S, 6),
            )
            for tick in range(HISTORY_TICKS + 1)
        ),
        frames=frames_of(objects, n_ticks),
        lights=(dict(lights or {}),) * n_ticks,
    )
