"""Numbers about a motion, without thresholds: overlap, time to collision, off-road, comfort, clearance.

Proposal scoring and evaluation share these, so that there is one definition of a collision. Whether a number is good
is for the caller to say. Ego boxes come from `nsdrive.world.vehicle.ego_box`; T counts ticks, N tracked objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
import shapely
from numba import njit

from nsdrive.world.areas import union_of
from nsdrive.world.geometry import box_corners, boxes_overlap
from nsdrive.world.kernels import overlap_kernel
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import INTERVAL_S, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA

AHEAD_RAD = np.pi / 6  # nuPlan is_agent_ahead: the centre within 30 degrees of the heading, seen from the rear axle
BEHIND_RAD = np.pi * 5 / 6  # nuPlan is_agent_behind
STANDING_MPS = 5e-3  # nuPlan time_to_collision_within_bound: stopped_speed_threshold


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The first contact of the ego with a tracked object, by tick of the rollout (0 is its first state)."""

    tick: int
    track_id: str


def overlap(ego_boxes: FloatArray, frames: Sequence[ObjectFrame]) -> tuple[Overlap, ...]:
    """Every tracked object that the ego's box ever overlaps, at its first tick, in order of time.

    ego_boxes is (T, 5), one for each of T frames. Fault is not judged here.
    """
    first: dict[str, int] = {}
    for tick, (box, frame) in enumerate(zip(ego_boxes, frames, strict=True)):
        if len(frame):
            for row in np.flatnonzero(boxes_overlap(box, frame.boxes)[0]):
                first.setdefault(frame.ids[row], tick)
    return tuple(Overlap(tick=tick, track_id=track_id) for track_id, tick in first.items())


def forecast_boxes(frame: ObjectFrame, times_s: FloatArray) -> FloatArray:
    """(T, N, 5): the frame's boxes after each of T times, at constant velocity and heading."""
    times = np.asarray(times_s, dtype=np.float64)
    boxes = np.repeat(frame.boxes[None], len(times), axis=0)
    boxes[:, :, :2] += times[:, None, None] * frame.velocities_mps[None]
    return boxes


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeToCollision:
    """seconds (T,), inf where nothing is met within the horizon; track_ids: T, who is met first, None for nobody."""

    seconds: FloatArray
    track_ids: tuple[str | None, ...]


def time_to_collision_s(
    ego_boxes: FloatArray,
    ego_speeds_mps: FloatArray,
    frames: Sequence[ObjectFrame],
    *,
    horizon_s: float = 3.0,
    interval_s: float = INTERVAL_S,
    only_ahead: np.ndarray | None = None,
) -> TimeToCollision:
    """Time until the ego's box, driven on at its speed and heading, first overlaps an object that does the same.

    ego_boxes (T, 5), ego_speeds_mps (T,). Same rule as nuPlan's `time_to_collision_within_bound`: steps of 0.1 s up to
    3 s, nothing for a standing ego; without its at-fault filter. only_ahead (T,) bool: True counts only objects within
    30 degrees of the ego's heading (nuPlan, in a lane), False those that are not behind it (nuPlan, in intersections
    and between lanes); None counts everything. Objects that overlap the ego already have a time of 0.
    """
    seconds = np.full(len(ego_boxes), np.inf)
    ids: list[str | None] = [None] * len(ego_boxes)
    for tick, (box, speed, frame) in enumerate(zip(ego_boxes, ego_speeds_mps, frames, strict=True)):
        if not len(frame) or speed <= STANDING_MPS:
            continue
        rows = np.arange(len(frame))
        if only_ahead is not None:
            limit = AHEAD_RAD if only_ahead[tick] else BEHIND_RAD
            rows = rows[np.abs(bearing_rad(box, frame.boxes)) < limit]
        velocity = speed * np.array([np.cos(box[2]), np.sin(box[2])])
        steps = round(horizon_s / interval_s)
        met, row = _time_to_overlap(box, velocity, frame.boxes[rows], frame.velocities_mps[rows], steps, interval_s)
        if row >= 0:
            seconds[tick], ids[tick] = met, frame.ids[rows[row]]
    return TimeToCollision(seconds=seconds, track_ids=tuple(ids))


def off_road_m(ego_boxes: FloatArray, lane_map: LaneMap) -> FloatArray:
    """(T,): how far the worst corner of each of (T, 5) boxes is outside the drivable area, 0.0 inside.

    nuPlan's drivable-area compliance measures the same corners. A map without a drivable area lends its lanes.
    """
    return corners_off_road_m(ego_boxes, lane_map).max(axis=1)


def corners_off_road_m(ego_boxes: FloatArray, lane_map: LaneMap) -> FloatArray:
    """(T, 4): the same for each corner: front left, rear left, rear right, front right."""
    corners, area = box_corners(ego_boxes), _drivable(lane_map)
    away = np.zeros(corners.shape[:2])
    out = ~shapely.intersects_xy(area, corners[..., 0], corners[..., 1])
    if out.any():
        away[out] = shapely.distance(shapely.points(corners[out]), area)
    return away


@dataclass(frozen=True, kw_only=True, eq=False)
class Comfort:
    """What a passenger feels at each tick; every array is (..., T)."""

    lon_accel_mps2: FloatArray
    lat_accel_mps2: FloatArray
    lon_jerk_mps3: FloatArray
    jerk_mps3: FloatArray  # of the magnitude of the acceleration, as nuPlan takes it
    yaw_rate_radps: FloatArray
    yaw_accel_radps2: FloatArray


def comfort(
    headings_rad: FloatArray, speeds_mps: FloatArray, accels_mps2: FloatArray, interval_s: float = INTERVAL_S
) -> Comfort:
    """Accelerations, jerks and yaw motion of (..., T) evenly spaced states, T at least 4 (else ValueError).

    Smoothed as nuPlan's `state_extractors.py` does, with Savitzky-Golay filters: acceleration order 2 over 8 states,
    jerk order 2 over 15, yaw rate order 2 and yaw acceleration order 3 over 5. One difference: the lateral acceleration
    is speed times yaw rate, what a passenger feels; nuPlan's bicycle reports 0 there.
    """
    speeds = np.asarray(speeds_mps, dtype=np.float64)
    count = speeds.shape[-1]
    if count < 4:
        raise ValueError(f"Comfort needs at least 4 states, got {count}.")
    heading = np.unwrap(np.asarray(headings_rad, dtype=np.float64), axis=-1)
    yaw_rate = heading @ savgol(count, 5, 2, 1, interval_s)
    lat = speeds * yaw_rate
    raw = np.asarray(accels_mps2, dtype=np.float64)
    smooth, slope = savgol(count, 8, 2, 0, interval_s), savgol(count, 15, 2, 1, interval_s)
    lon = raw @ smooth
    return Comfort(
        lon_accel_mps2=lon,
        lat_accel_mps2=lat @ smooth,
        lon_jerk_mps3=lon @ slope,
        jerk_mps3=np.hypot(raw, lat) @ smooth @ slope,
        yaw_rate_radps=yaw_rate,
        yaw_accel_radps2=heading @ savgol(count, 5, 3, 2, interval_s),
    )


def comfort_of_bicycle(
    headings_rad: FloatArray,
    speeds_mps: FloatArray,
    accels_mps2: FloatArray,
    steerings_rad: FloatArray,
    interval_s: float = INTERVAL_S,
) -> Comfort:
    """The same from (T,) states of `EgoModel`, exactly as nuPlan's metrics see them.

    nuPlan's bicycle has no lateral acceleration at the rear axle, so that none is felt there; the longitudinal one is that of
    the box's centre, to which its `get_acceleration_shifted` adds yaw rate squared and yaw acceleration times the distance
    between the two; jerk is that of the rear axle's acceleration without its sign.
    """
    accels, headings = np.asarray(accels_mps2, dtype=np.float64), np.unwrap(np.asarray(headings_rad, dtype=np.float64))
    count = len(accels)
    if count < 4:
        raise ValueError(f"Comfort needs at least 4 states, got {count}.")
    yaw_rate = np.asarray(speeds_mps) * np.tan(steerings_rad) / PACIFICA.wheel_base_m
    yaw_accel = np.concatenate([[0.0], np.diff(yaw_rate) / interval_s])
    at_center = accels + PACIFICA.rear_axle_to_center_m * (yaw_rate**2 + yaw_accel)
    smooth, slope = savgol(count, 8, 2, 0, interval_s), savgol(count, 15, 2, 1, interval_s)
    return Comfort(
        lon_accel_mps2=at_center @ smooth,
        lat_accel_mps2=np.zeros(count),
        lon_jerk_mps3=at_center @ smooth @ slope,
        jerk_mps3=np.abs(accels) @ smooth @ slope,
        yaw_rate_radps=headings @ savgol(count, 5, 2, 1, interval_s),
        yaw_accel_radps2=headings @ savgol(count, 5, 3, 2, interval_s),
    )


def clearance_m(ego_boxes: FloatArray, frames: Sequence[ObjectFrame]) -> FloatArray:
    """(T,): distance from the ego's box to the nearest tracked object, 0.0 in contact, inf where there is none."""
    out = np.full(len(ego_boxes), np.inf)
    egos = shapely.polygons(box_corners(ego_boxes))
    for tick, frame in enumerate(frames):
        if len(frame):
            out[tick] = shapely.distance(egos[tick], shapely.polygons(box_corners(frame.boxes))).min()
    return out


def bearing_rad(ego_box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Angle from the ego's heading to each box's centre, seen from the ego's rear axle."""
    back = PACIFICA.rear_axle_to_center_m
    x, y = ego_box[0] - back * np.cos(ego_box[2]), ego_box[1] - back * np.sin(ego_box[2])
    angle = np.arctan2(boxes[:, 1] - y, boxes[:, 0] - x) - ego_box[2]
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


_DRIVABLE: WeakKeyDictionary[LaneMap, shapely.Geometry] = WeakKeyDictionary()


def _drivable(lane_map: LaneMap) -> shapely.Geometry:
    """The union of the drivable area and the carparks, prepared, built once per map."""
    if lane_map not in _DRIVABLE:
        rings = list(lane_map.drivable_area) or [lane.polygon for lane in lane_map.lanes.values()]
        rings += lane_map.carparks
        area = union_of(shapely.make_valid(np.array([shapely.Polygon(ring) for ring in rings])))
        shapely.prepare(area)
        _DRIVABLE[lane_map] = area
    return _DRIVABLE[lane_map]


@lru_cache(maxsize=256)
def savgol(count: int, window: int, order: int, derivative: int, interval_s: float) -> FloatArray:
    """(T, T) matrix M such that `signal @ M` is the Savitzky-Golay filtered signal, edges by the edge windows' fits.

    As scipy's `savgol_filter` in its default mode, even windows included: those look half a state ahead.
    """
    window = min(window, count)
    order = min(order, window - 1)
    matrix = np.zeros((count, count))
    half = window // 2
    scale = float(np.prod(np.arange(1, derivative + 1))) / interval_s**derivative
    for i in range(count):
        if i < half:
            first, at = 0, float(i)
        elif i >= count - half:
            first, at = count - window, float(i - (count - window))
        else:
            first, at = i - (window - 1) // 2, 0.5 * (window - 1)
        fit = np.linalg.pinv((np.arange(window)[:, None] - at) ** np.arange(order + 1))
        matrix[first : first + window, i] = fit[derivative] * scale
    matrix.setflags(write=False)
    return matrix


@njit(cache=True)
def _time_to_overlap(box, velocity, boxes, velocities, steps, interval):
    """(time, row) of the first overlap when all drive on straight; row -1 for none."""
    ego, other = box.copy(), np.empty(5)
    for step in range(steps + 1):
        after = step * interval
        ego[0], ego[1] = box[0] + after * velocity[0], box[1] + after * velocity[1]
        for k in range(boxes.shape[0]):
            other[:] = boxes[k]
            other[0] += after * velocities[k, 0]
            other[1] += after * velocities[k, 1]
            if overlap_kernel(ego, other):
                return after, k
    return np.inf, -1
