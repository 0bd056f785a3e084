"""The world that an open-loop plan is driven in: who is where in the next four seconds, which lights are red, what the way is.

    anchor = anchor_of(scenario, sample)        # or Anchor(...), for a plan that belongs to no sample
    around = situation(scenario, anchor)        # all that does not depend on the plan; `eval.closed_loop.pdms` judges in it

The others do what the scenario says that they do, whatever the ego does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from nsdrive.dataset import Sample
from nsdrive.vla import displacement
from nsdrive.world.geometry import Path, to_global, wrap_angle
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, FloatArray, ObjectFrame, Scenario
from nsdrive.world.vehicle import PACIFICA

HORIZON_TICKS = 40  # NAVSIM: 4 s are driven and judged
AHEAD_TICKS = 9  # NAVSIM's TTC looks so far ahead of each of them
SLOW_MPS = 0.5  # chosen by us: below it a heading or a steering angle is not to be had from a motion of two decimals
SAME_PLACE_M = 0.01  # chosen by us: nearer than this an anchor is a log's own state


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchor:
    """Where a plan is made. tick: of the scenario. ego: the state there, global. history: the states before it, 0.1 s apart,
    oldest first, up to 2 s; () where they are not known. label_ego_m (10, 2): what the teacher or the log's driver did."""

    tick: int
    ego: EgoState
    history: tuple[EgoState, ...]
    label_ego_m: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class RedLight:
    """A connector of the route. area: where it is. red (41,) bool: at which ticks from the anchor on its light is red."""

    area: shapely.Geometry
    red: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Situation:
    """frames: 41, the anchor's first. objects (41 to 50, M, 5): the same as boxes, one column an object, nan where it is not there,
    and AHEAD_TICKS beyond as far as the scenario goes. path: the route's centerline from the ego's lane on. route: its roadblock
    ids, empty where none is known."""

    scenario: Scenario
    anchor: Anchor
    frames: tuple[ObjectFrame, ...]
    objects: FloatArray
    red_lights: tuple[RedLight, ...]
    path: Path
    route: frozenset[str]

    @property
    def lane_map(self) -> LaneMap:
        return self.scenario.lane_map


def situation(scenario: Scenario, anchor: Anchor) -> Situation:
    """ValueError, one line, where the scenario does not reach four seconds beyond the anchor or has no lane to drive in."""
    first, last = anchor.tick, anchor.tick + HORIZON_TICKS
    if not 0 <= first <= last < scenario.n_ticks:
        raise ValueError(
            f"scenario {scenario.scenario_id} has {scenario.n_ticks} ticks; to judge a plan of tick {first} takes {last + 1}"
        )
    frames = scenario.frames[first : last + 1]
    lane_map = scenario.lane_map
    blocks = {lane.roadblock_id for lane in lane_map.lanes.values()}
    route = frozenset(scenario.route_roadblock_ids) & blocks
    start = nearest_lane(lane_map, anchor.ego.pose, allowed_roadblocks=route or None)
    way = find_route(lane_map, start, scenario.goal_m, scenario.route_roadblock_ids)
    return Situation(
        scenario=scenario,
        anchor=anchor,
        frames=frames,
        objects=_columns(scenario.frames[first : last + 1 + AHEAD_TICKS]),
        red_lights=_red_lights(lane_map, scenario.lights[first : last + 1], route),
        path=centerline(lane_map, way),
        route=route,
    )


def anchor_of(scenario: Scenario, sample: Sample) -> Anchor:
    """The anchor of a sample. Where the scenario's log is there, the log's own states; else those that the sample tells.

    ValueError, one line, where the sample is of another scenario or its anchor is not one.
    """
    if sample.scenario_id != scenario.scenario_id:
        raise ValueError(f"sample {sample.sample_id} is of scenario {sample.scenario_id}, not {scenario.scenario_id}")
    try:
        tick, time_s = int(sample.anchor["tick"]), float(sample.anchor["time_s"])
        x, y, heading = (float(v) for v in sample.anchor["pose_global"])
        rows = [{name: float(row[name]) for name in _HISTORY} for row in sample.ego_history]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"sample {sample.sample_id} has no usable anchor or history ({error!r})") from None
    if not np.isfinite([x, y, heading, time_s]).all() or not all(np.isfinite(list(r.values())).all() for r in rows):
        raise ValueError(f"sample {sample.sample_id}: its anchor or history is not finite")
    log = scenario.ego_log
    if 0 <= tick < len(log) and np.hypot(log[tick].x_m - x, log[tick].y_m - y) < SAME_PLACE_M:
        before = tuple(log[max(0, tick - HISTORY_TICKS) : tick])
        return Anchor(tick=tick, ego=log[tick], history=before, label_ego_m=sample.waypoints_ego_m)
    speed, accel = (float(v) for v in sample.future[0, 3:5])
    turned = float(wrap_angle(sample.future[1, 2] - sample.future[0, 2])) if len(sample.future) > 1 else 0.0
    ego = EgoState(
        time_s=time_s,
        x_m=x,
        y_m=y,
        heading_rad=heading,
        speed_mps=speed,
        accel_mps2=accel,
        steering_rad=float(_steering(np.array([speed]), np.array([turned / INTERVAL_S]))[0]),
    )
    return Anchor(tick=tick, ego=ego, history=_history(rows, ego), label_ego_m=sample.waypoints_ego_m)


def usable(waypoints_ego_m: Any) -> FloatArray | None:
    """Waypoints as (10, 2) finite numbers within 1 km of the ego, else None: a stranger wrote them."""
    try:
        waypoints = np.asarray(waypoints_ego_m, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return waypoints if displacement.usable(waypoints) else None


# ---- parts --------------------------------------------------------------------------------------------------------

_HISTORY = ("t_s", "x_m", "y_m", "vx_mps", "vy_mps", "ax_mps2", "ay_mps2")


def _history(rows: Sequence[Mapping[str, float]], ego: EgoState) -> tuple[EgoState, ...]:
    """The states before the anchor every 0.1 s, between the rows of a sample (0.5 s apart) in proportion, as NAVSIM does."""
    if len(rows) < 2:
        return ()
    column = {name: np.array([row[name] for row in rows]) for name in _HISTORY}
    times = column["t_s"]
    if not (np.diff(times) > 0.0).all() or times[-1] < -1e-6 or times[0] < -HISTORY_TICKS * INTERVAL_S - 1e-6:
        return ()
    speeds = np.hypot(column["vx_mps"], column["vy_mps"])
    headings = np.unwrap(np.arctan2(column["vy_mps"], column["vx_mps"]))
    moving = speeds >= SLOW_MPS
    moving[-1], headings[-1] = True, 0.0  # the anchor's own heading is that of the frame
    headings = np.interp(times, times[moving], np.unwrap(headings[moving]))
    along = column["ax_mps2"] * np.cos(headings) + column["ay_mps2"] * np.sin(headings)
    at = np.arange(round(times[0] / INTERVAL_S), 0) * INTERVAL_S
    speed, heading = np.interp(at, times, speeds), np.interp(at, times, headings)
    points = np.column_stack([np.interp(at, times, column["x_m"]), np.interp(at, times, column["y_m"])])
    steering = _steering(speed, np.diff(np.append(heading, 0.0)) / INTERVAL_S)
    accel = np.interp(at, times, along)
    x_y = to_global(points, ego.pose)
    return tuple(
        EgoState(
            time_s=round(ego.time_s + float(at[k]), 6),
            x_m=float(x_y[k, 0]),
            y_m=float(x_y[k, 1]),
            heading_rad=float(wrap_angle(heading[k] + ego.heading_rad)),
            speed_mps=float(speed[k]),
            accel_mps2=float(accel[k]),
            steering_rad=float(steering[k]),
        )
        for k in range(len(at))
    )


def _steering(speeds_mps: FloatArray, yaw_rates_radps: FloatArray) -> FloatArray:
    """The bicycle's steering angles that turn it so, 0 for a car that hardly moves."""
    turned = np.arctan(yaw_rates_radps * PACIFICA.wheel_base_m / np.maximum(speeds_mps, SLOW_MPS))
    limit = PACIFICA.max_steering_rad
    return np.where(speeds_mps >= SLOW_MPS, np.clip(turned, -limit, limit), 0.0)


def _columns(frames: Sequence[ObjectFrame]) -> FloatArray:
    """(T, M, 5): every object that is in any frame, in the order of its first."""
    column: dict[str, int] = {}
    for frame in frames:
        for track_id in frame.ids:
            column.setdefault(track_id, len(column))
    boxes = np.full((len(frames), len(column), 5), np.nan)
    for tick, frame in enumerate(frames):
        boxes[tick, [column[track_id] for track_id in frame.ids]] = frame.boxes
    return boxes


def _red_lights(lane_map: LaneMap, lights: Sequence[Mapping[str, str]], route: frozenset[str]) -> tuple[RedLight, ...]:
    """The route's connectors (all, where no route is known) that are ever red, in the order of their ids."""
    ever = sorted({name for now in lights for name, state in now.items() if state == "red"} & set(lane_map.lanes))
    return tuple(
        RedLight(
            area=shapely.make_valid(shapely.Polygon(lane_map.lanes[name].polygon[:, :2])),
            red=np.array([now.get(name) == "red" for now in lights]),
        )
        for name in ever
        if not route or lane_map.lanes[name].roadblock_id in route
    )
