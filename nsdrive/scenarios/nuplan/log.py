"""One nuPlan log (a .db file): the ticks of one of its scenarios with the ego, all objects and lights.

The clock is the table lidar_pc, 20 rows a second; a tick is every second row, as in the official simulation, and not
every 0.1 s: where the log drops a row, the official ticks shift, and so do ours. A tagged scenario begins 3 s before
its tag and lasts 15 s, an untagged one begins at its row and lasts 20 s (nuplan_scenario_mapping.yaml).

    ego_pose    the rear axle in the map's frame; speeds and accelerations in the body's, of which the forward one is ours
    lidar_box   the centre of the box in the map's frame, velocities in the map's
    steering    nuPlan does not tell it; here it is what the logged yaw rate and speed imply. Its simulation begins with the
                wheels straight: see `NuplanConfig.wheels`
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.tracks import derivative
from nsdrive.scenarios.nuplan.sqlite import opened, select_in
from nsdrive.scenarios.nuplan.types import SCENARIO_TYPES, last_type
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, LIGHT_STATES, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA

LIDAR_CHANNEL = "MergedPointCloud"
TAGGED_S, UNTAGGED_S = (
    (-3.0, 15.0),
    (0.0, 20.0),
)  # offset, duration; nuplan_scenario_mapping.yaml, ScenarioExtractionInfo
ROWS_PER_TICK = 2  # subsample_ratio 0.5 of 20 Hz
MIN_FUTURE_TICKS = 1
AGENTS = [OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle", "pedestrian")]  # the others have no velocity
OFFICIAL_ORDER = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "czone_sign", "generic_object")
SLOW_MPS = 0.5  # chosen by us: below this the steering angle cannot be had from the yaw rate
MAX_TICK_S = 0.15  # chosen by us: a longer tick is worth a note


@dataclass(frozen=True, kw_only=True, eq=False)
class LogExtract:
    """The ticks of one scenario; tick HISTORY_TICKS is the official initial state."""

    token: str
    scenario_type: str
    map_name: str
    ego: tuple[EgoState, ...]
    frames: tuple[ObjectFrame, ...]
    lights: tuple[Mapping[str, str], ...]
    has_lights: bool  # whether the log tells the state of any traffic light at all
    route_roadblock_ids: tuple[str, ...]
    goal_m: tuple[float, float] | None
    notes: Mapping[str, Any]


def read_extract(path: Path, token: str, scenario_types: Sequence[str] = ()) -> LogExtract:
    """The scenario named by a row's token (16 hex digits). ScenarioError, one line, where it cannot be read.

    `scenario_types`: of a row's several tags the last by name of these is taken, else the last of all.
    """
    with opened(path) as log:
        kind, scene, clock = _ticks(path, log, token, scenario_types)
        route, goal = _mission(log, scene)
        frames, boxes_noted = _frames(path, log, clock)
        about = log.execute("select * from log").fetchone()
        if about is None:
            raise ScenarioError(f"{path}: its table log is empty")
        (has_lights,) = log.execute("select exists (select 1 from traffic_light_status)").fetchone()
        ticks_s = np.diff([stamp for _, stamp in clock]) / 1e6
        return LogExtract(
            token=token,
            scenario_type=kind,
            map_name=str(about["map_version"]).removesuffix(".gpkg"),
            ego=_ego(path, log, clock),
            frames=frames,
            lights=_lights(log, clock),
            has_lights=bool(has_lights),
            route_roadblock_ids=route,
            goal_m=goal,
            notes={
                "log": path.stem,
                "token": token,
                "location": str(about["location"]),
                "vehicle": str(about["vehicle_name"]),
                "initial_timestamp_us": clock[HISTORY_TICKS][1],
                **({"longest_tick_s": round(float(ticks_s.max()), 3)} if ticks_s.max() > MAX_TICK_S else {}),
                **boxes_noted,
            },
        )


def read_clock(path: Path, token: str, scenario_types: Sequence[str] = ()) -> NDArray[np.int64]:
    """(T,): timestamp [us] of every tick that `read_extract` gives for the same row. ScenarioError."""
    with opened(path) as log:
        _, _, clock = _ticks(path, log, token, scenario_types)
        return np.array([stamp for _, stamp in clock], dtype=np.int64)


def _ticks(
    path: Path, log: sqlite3.Connection, token: str, scenario_types: Sequence[str]
) -> tuple[str, bytes, list[tuple[bytes, int]]]:
    """A row's scenario type, the token of its scene, and (lidar_pc token, timestamp [us]) of every tick."""
    row = log.execute("select timestamp, scene_token from lidar_pc where token = ?", (bytes.fromhex(token),)).fetchone()
    if row is None:
        raise ScenarioError(f"{path}: has no lidar_pc with token {token}")
    tags = log.execute("select type from scenario_tag where lidar_pc_token = ?", (bytes.fromhex(token),))
    kind = last_type([tag["type"] for tag in tags], scenario_types)
    offset_s, duration_s = TAGGED_S if kind in SCENARIO_TYPES else UNTAGGED_S
    start_us = int(row["timestamp"] + offset_s * 1e6)
    return kind, row["scene_token"], _clock(path, log, token, start_us, int(start_us + duration_s * 1e6))


def _clock(path: Path, log: sqlite3.Connection, token: str, start_us: int, end_us: int) -> list[tuple[bytes, int]]:
    """(lidar_pc token, timestamp [us]) of every tick: 2 s of history, then the official iterations."""
    lidar = log.execute("select token from lidar where channel = ?", (LIDAR_CHANNEL,)).fetchone()
    if lidar is None:
        raise ScenarioError(f"{path}: has no lidar of channel {LIDAR_CHANNEL}")
    past = log.execute(
        "select token, timestamp from lidar_pc where timestamp < ? and lidar_token = ? order by timestamp desc limit ?",
        (start_us, lidar["token"], HISTORY_TICKS * ROWS_PER_TICK),
    ).fetchall()[ROWS_PER_TICK - 1 :: ROWS_PER_TICK]
    future = log.execute(
        "select token, timestamp from lidar_pc where timestamp >= ? and timestamp <= ? and lidar_token = ?"
        " order by timestamp",
        (start_us, end_us, lidar["token"]),
    ).fetchall()[::ROWS_PER_TICK]
    if len(past) < HISTORY_TICKS or len(future) < 1 + MIN_FUTURE_TICKS:
        raise ScenarioError(
            f"{path}: scenario {token} needs {HISTORY_TICKS} ticks before its start and {1 + MIN_FUTURE_TICKS} from there;"
            f" the log has {len(past)} and {len(future)}"
        )
    return [(row["token"], row["timestamp"]) for row in (*past[::-1], *future)]


def _ego(path: Path, log: sqlite3.Connection, clock: Sequence[tuple[bytes, int]]) -> tuple[EgoState, ...]:
    columns = ("x", "y", "qw", "qx", "qy", "qz", "vx", "acceleration_x", "angular_rate_z")
    rows = {
        row["token"]: [row[name] for name in columns]
        for row in select_in(
            log,
            f"select p.token, {', '.join(f'e.{name}' for name in columns)} from lidar_pc p"
            " join ego_pose e on e.token = p.ego_pose_token where p.token in ({})",
            [token for token, _ in clock],
        )
    }
    if len(rows) < len(clock):
        raise ScenarioError(f"{path}: {len(clock) - len(rows)} ticks have no ego_pose")
    states = []
    for tick, (token, stamp) in enumerate(clock):
        try:
            x, y, qw, qx, qy, qz, speed, accel = (float(value) for value in rows[token][:8])
            yaw_rate = float(rows[token][8] or 0.0)
            norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ScenarioError(f"{path}: the ego_pose at {stamp} us is not a pose") from error
        # The sign in q0 q3 - q1 q2 is that of the official reader (pyquaternion's yaw), which it matters to match.
        heading = math.atan2(2.0 * (qw * qz - qx * qy), 1.0 - 2.0 * (qy * qy + qz * qz))
        if not all(map(math.isfinite, (x, y, heading, speed, accel))):
            raise ScenarioError(f"{path}: the ego_pose at {stamp} us is not finite")
        states.append(
            EgoState(
                time_s=round(tick * INTERVAL_S, 6),
                x_m=x,
                y_m=y,
                heading_rad=heading,
                speed_mps=speed,
                accel_mps2=accel,
                steering_rad=_steering_rad(speed, yaw_rate),
            )
        )
    return tuple(states)


def _steering_rad(speed_mps: float, yaw_rate_radps: float) -> float:
    """Of the car with nuPlan's wheel base that turns so; 0.0 where it is too slow to tell."""
    if speed_mps < SLOW_MPS or not math.isfinite(yaw_rate_radps):
        return 0.0
    angle = math.atan(yaw_rate_radps * PACIFICA.wheel_base_m / speed_mps)
    return max(-PACIFICA.max_steering_rad, min(PACIFICA.max_steering_rad, angle))


def _frames(
    path: Path, log: sqlite3.Connection, clock: Sequence[tuple[bytes, int]]
) -> tuple[tuple[ObjectFrame, ...], dict[str, Any]]:
    """One frame per tick, and what is to be noted about them. Rows are in the official order: by kind, then by row."""
    categories = {
        row["token"]: row["name"]
        for row in log.execute("select t.token, c.name from track t join category c on c.token = t.category_token")
    }
    tick_of = {token: tick for tick, (token, _) in enumerate(clock)}
    rows = select_in(
        log,
        "select lidar_pc_token, track_token, x, y, yaw, length, width, height, vx, vy from lidar_box"
        " where lidar_pc_token in ({})",
        list(tick_of),
    )
    columns = list(zip(*(row for row in rows if row[1] in categories), strict=True)) or [()] * 10
    tracks = list(dict.fromkeys(columns[1]))
    number = {token: place for place, token in enumerate(tracks)}
    unknown = sorted({str(categories[token]) for token in tracks} - set(OBJECT_KINDS))
    kind_of = {name: OBJECT_KINDS.index(name) for name in OBJECT_KINDS}
    ids = np.array([bytes(token).hex() for token in tracks], dtype=object)
    kinds = np.array([kind_of.get(categories[token], len(OBJECT_KINDS) - 1) for token in tracks], dtype=np.int8)
    ticks = np.array([tick_of[token] for token in columns[0]], dtype=np.int64)
    track = np.array([number[token] for token in columns[1]], dtype=np.int64)
    try:
        values = np.array([np.array(column, dtype=np.float64) for column in columns[2:]]).T
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{path}: lidar_box holds something that is no number") from error
    if not np.isfinite(values[:, :6]).all():
        raise ScenarioError(f"{path}: lidar_box holds a box that is not finite")
    is_agent = np.isin(kinds[track], AGENTS)
    velocities = np.where(is_agent[:, None] & np.isfinite(values[:, 6:]), values[:, 6:], 0.0)
    accels = _accels(ticks, track, values[:, 2], velocities)
    rank = np.array([OFFICIAL_ORDER.index(kind) for kind in OBJECT_KINDS])[kinds[track]]
    order = np.lexsort((rank, ticks))  # stable; TrackedObjects sorts by TrackedObjectType
    starts = np.searchsorted(ticks[order], np.arange(len(clock) + 1))
    frames = []
    for tick in range(len(clock)):
        here = order[starts[tick] : starts[tick + 1]]
        frames.append(
            ObjectFrame(
                ids=tuple(ids[track[here]]),
                kinds=kinds[track[here]],
                boxes=np.ascontiguousarray(values[here, :5]),
                heights_m=values[here, 5],
                velocities_mps=velocities[here],
                accels_mps2=accels[here],
                indicators=np.zeros(len(here), dtype=np.int8),
            )
        )
    return tuple(frames), {"unknown_categories": unknown} if unknown else {}


def _accels(
    ticks: NDArray[np.int64],
    track: NDArray[np.int64],
    heading_rad: FloatArray,
    velocities_mps: FloatArray,
) -> FloatArray:
    """(N,) accelerations along the heading, which nuPlan does not tell: slopes of the recorded speeds."""
    forward = velocities_mps[:, 0] * np.cos(heading_rad) + velocities_mps[:, 1] * np.sin(heading_rad)
    accels = np.zeros(len(ticks))
    order = np.lexsort((ticks, track))
    breaks = np.flatnonzero((np.diff(track[order]) != 0) | (np.diff(ticks[order]) != 1)) + 1
    by_length: dict[int, list[NDArray[np.intp]]] = {}
    for run in np.split(order, breaks):
        if forward[run].any():
            by_length.setdefault(len(run), []).append(run)
    for together in by_length.values():
        rows = np.stack(together, axis=1)
        accels[rows] = derivative(forward[rows])
    return accels


def _lights(log: sqlite3.Connection, clock: Sequence[tuple[bytes, int]]) -> tuple[Mapping[str, str], ...]:
    """Lane connector -> state at every tick; what is neither green, yellow nor red is unknown."""
    tick_of = {token: tick for tick, (token, _) in enumerate(clock)}
    lights: list[dict[str, str]] = [{} for _ in clock]
    for row in select_in(
        log,
        "select lidar_pc_token, lane_connector_id, status from traffic_light_status where lidar_pc_token in ({})",
        list(tick_of),
    ):
        state = row["status"] if row["status"] in LIGHT_STATES else "unknown"
        lights[tick_of[row["lidar_pc_token"]]][str(row["lane_connector_id"])] = state
    return tuple(lights)


def _mission(log: sqlite3.Connection, scene: bytes) -> tuple[tuple[str, ...], tuple[float, float] | None]:
    """The route of a row's scene (the docs say commas, the files have spaces) and its goal, None where there is none."""
    row = log.execute(
        "select s.roadblock_ids, e.x, e.y from scene s left join ego_pose e on e.token = s.goal_ego_pose_token"
        " where s.token = ?",
        (scene,),
    ).fetchone()
    if row is None:
        return (), None
    blocks = tuple(word for word in str(row["roadblock_ids"] or "").replace(",", " ").split() if word != "None")
    goal = None if row["x"] is None or row["y"] is None else (float(row["x"]), float(row["y"]))
    return blocks, goal
