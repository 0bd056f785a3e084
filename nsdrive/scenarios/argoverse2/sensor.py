"""One Argoverse 2 sensor log: 3-D boxes in the ego's frame and the ego's poses in the city -> tracks on 0.1 s ticks.

    <log id>/annotations.feather              or annotations_with_ego.feather, in which the ego is a track too
    <log id>/city_SE3_egovehicle.feather      the ego's rear axle, some 170 poses per second
    <log id>/map/log_map_archive_*.json

Lidar sweeps, and with them the boxes, come every 99.5 to 100.2 ms. Tick k is 0.1 s * k after the first sweep: boxes are
interpolated between the sweeps around a tick, so a tick is a time and not a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import Table, read_feather, rotations_of
from nsdrive.scenarios.argoverse2.recording import Recording, best_map
from nsdrive.scenarios.argoverse2.tracks import (
    MAX_GAP_S,
    Track,
    ego_states,
    join_riders,
    short_ids,
    track_on_ticks,
)
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import INTERVAL_S, FloatArray

ANNOTATIONS = ("annotations.feather", "annotations_with_ego.feather")
EGO_POSES = "city_SE3_egovehicle.feather"

# Every category of the source (av2 AnnotationCategories) -> nuPlan's kind, following nuPlan's own descriptions: bicycles
# include motorcycles, pedestrians include strollers and wheelchairs, generic objects include animals and fixed poles.
# None: a sign's face on its post is no obstacle, and the ego is not an object. A category that a later release may add
# becomes a generic object and is named in the scenario's notes.
KINDS: Mapping[str, str | None] = {
    "ANIMAL": "generic_object",
    "ARTICULATED_BUS": "vehicle",
    "BICYCLE": "bicycle",
    "BICYCLIST": "bicycle",
    "BOLLARD": "generic_object",
    "BOX_TRUCK": "vehicle",
    "BUS": "vehicle",
    "CONSTRUCTION_BARREL": "traffic_cone",
    "CONSTRUCTION_CONE": "traffic_cone",
    "DOG": "generic_object",
    "LARGE_VEHICLE": "vehicle",
    "MESSAGE_BOARD_TRAILER": "czone_sign",
    "MOBILE_PEDESTRIAN_CROSSING_SIGN": "generic_object",
    "MOTORCYCLE": "bicycle",
    "MOTORCYCLIST": "bicycle",
    "OFFICIAL_SIGNALER": "pedestrian",
    "PEDESTRIAN": "pedestrian",
    "RAILED_VEHICLE": "vehicle",
    "REGULAR_VEHICLE": "vehicle",
    "SCHOOL_BUS": "vehicle",
    "SIGN": None,
    "STOP_SIGN": None,
    "STROLLER": "pedestrian",
    "TRAFFIC_LIGHT_TRAILER": "czone_sign",
    "TRUCK": "vehicle",
    "TRUCK_CAB": "vehicle",
    "VEHICULAR_TRAILER": "vehicle",
    "WHEELCHAIR": "pedestrian",
    "WHEELED_DEVICE": "generic_object",
    "WHEELED_RIDER": "bicycle",
    "EGO_VEHICLE": None,
}
RIDERS = ("BICYCLIST", "MOTORCYCLIST", "WHEELED_RIDER")
MOUNTS = ("BICYCLE", "MOTORCYCLE", "WHEELED_DEVICE")

MAX_POSE_GAP_S = 0.2  # chosen by us: the ego's poses around a sweep or tick are at most this far apart
MAX_EGO_SPEED_MPS = 60.0  # chosen by us: faster than any road allows, so the poses are broken
MAX_SIZE_M = 60.0  # chosen by us: longer than an articulated bus or a tram car
STOP_SIGN_REACH_M = 15.0  # chosen by us: a stop sign is for a lane that ends within this distance, to the sign's left


def read_sensor_log(folder: Path) -> Recording:
    """The log in `folder`. ScenarioError names the file and the problem where it cannot be read."""
    annotations = _annotations(folder)
    annotations_path = annotations.path
    poses = _EgoPoses(read_feather(folder / EGO_POSES))

    row_times_ns = annotations.integers("timestamp_ns")
    sweeps_ns = np.unique(row_times_ns)
    ticks_s = _ticks(annotations_path, sweeps_ns)
    ticks_ns = sweeps_ns[0] + np.round(ticks_s * 1e9).astype(np.int64)
    ego_poses = poses.planar_at(ticks_ns)
    _check_speed(poses.path, ego_poses)

    ids = short_ids(annotations.strings("track_uuid"))
    categories = annotations.strings("category")
    boxes = _city_boxes(annotations, poses, row_times_ns)
    row_times_s = (row_times_ns - sweeps_ns[0]) / 1e9
    by_category: dict[str, list[Track]] = {}
    signs: list[FloatArray] = []
    for rows in _rows_by_track(annotations_path, ids, row_times_ns):
        category = categories[rows[0]]
        if category == "STOP_SIGN":
            signs.append(np.median(boxes[rows, :2], axis=0))
        kind = KINDS.get(category, "generic_object")
        if kind is not None:
            track = track_on_ticks(ids[rows[0]], kind, row_times_s[rows], boxes[rows], ticks_s)
            if track.present.any():
                by_category.setdefault(category, []).append(track)
    riders = [track for category in RIDERS for track in by_category.pop(category, [])]
    mounts = [track for category in MOUNTS for track in by_category.pop(category, [])]
    tracks = [track for group in by_category.values() for track in group] + join_riders(riders, mounts)

    lane_map, map_path = best_map((folder / "map", folder), ego_poses[:, :2])
    unknown_categories = sorted(set(categories) - set(KINDS))
    return Recording(
        ego=ego_states(ego_poses),
        tracks=tuple(tracks),
        lane_map=replace(lane_map, stop_signs=_stop_signs(signs, lane_map)),
        unknown=frozenset({"traffic_lights", "speed_limits", "stop_lines", "route"}),
        notes={
            "annotations": annotations_path.name,
            "map": map_path.name,
            "first_sweep_ns": int(sweeps_ns[0]),
            "sweeps": len(sweeps_ns),
            "track_ids": "the first characters of the source's track_uuid",
            **({"unknown_categories": unknown_categories} if unknown_categories else {}),
        },
    )


def read_clock(folder: Path) -> NDArray[np.int64]:
    """(T,): the time [ns] of every tick that `read_sensor_log` gives for the log in `folder`. ScenarioError."""
    annotations = _annotations(folder)
    sweeps_ns = np.unique(annotations.integers("timestamp_ns"))
    return np.asarray(sweeps_ns[0] + np.round(_ticks(annotations.path, sweeps_ns) * 1e9).astype(np.int64))


def _annotations(folder: Path) -> Table:
    path = next((folder / name for name in ANNOTATIONS if (folder / name).exists()), None)
    if path is None:
        raise ScenarioError(f"{folder / ANNOTATIONS[0]}: is missing (the sensor test split is published without boxes)")
    return read_feather(path)


def _ticks(path: Path, sweeps_ns: NDArray[np.int64]) -> FloatArray:
    """Times of the ticks [s] since the first sweep; the last one is the tick nearest to the last sweep."""
    gaps_s = np.diff(sweeps_ns) / 1e9
    if len(gaps_s) and gaps_s.max() > MAX_GAP_S:
        after_s = (sweeps_ns[gaps_s.argmax()] - sweeps_ns[0]) / 1e9
        raise ScenarioError(
            f"{path}: no boxes for {gaps_s.max():.2f} s, {after_s:.1f} s after the start (at most {MAX_GAP_S} s can be bridged)"
        )
    return np.arange(round((sweeps_ns[-1] - sweeps_ns[0]) / 1e9 / INTERVAL_S) + 1) * INTERVAL_S


class _EgoPoses:
    """The ego's poses in the city over time, at whatever times the sensors fired."""

    def __init__(self, table: Table) -> None:
        self.path = table.path
        self._times_ns = table.integers("timestamp_ns")
        step_ns = np.diff(self._times_ns)
        if (step_ns <= 0).any():
            row = int(np.argmax(step_ns <= 0)) + 1
            raise ScenarioError(f"{table.path}: timestamp_ns does not increase at row {row}")
        rotations = rotations_of(table)
        self._translations_m = np.stack([table.floats(name) for name in ("tx_m", "ty_m", "tz_m")], axis=1)
        self._rotations = rotations
        self._yaw_rad = np.unwrap(np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))

    def at_rows(self, times_ns: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Rotations (N, 3, 3) and translations (N, 3) at sweeps: the pose of that very timestamp, or else the nearest
        one's rotation with the interpolated translation (poses are some 6 ms apart)."""
        before, share = self._bracket(times_ns)
        nearest = np.minimum(before + (share > 0.5), len(self._times_ns) - 1)
        return self._rotations[nearest], self._interpolated(self._translations_m, before, share)

    def planar_at(self, times_ns: NDArray[np.int64]) -> FloatArray:
        """(N, 3): x, y, heading in the city."""
        before, share = self._bracket(times_ns)
        planar = np.column_stack([self._translations_m[:, :2], self._yaw_rad])
        return self._interpolated(planar, before, share)

    @staticmethod
    def _interpolated(values: FloatArray, before: NDArray[np.int64], share: FloatArray) -> FloatArray:
        after = np.minimum(before + 1, len(values) - 1)
        return values[before] + share[:, None] * (values[after] - values[before])

    def _bracket(self, times_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], FloatArray]:
        """Row before each time and the share of the way to the next. Up to half a tick beyond the ends is the end."""
        known_ns = self._times_ns
        outside_s = np.maximum(known_ns[0] - times_ns, times_ns - known_ns[-1]) / 1e9
        before = np.clip(np.searchsorted(known_ns, times_ns, side="right") - 1, 0, max(0, len(known_ns) - 2))
        after = np.minimum(before + 1, len(known_ns) - 1)
        gap_s = (known_ns[after] - known_ns[before]) / 1e9
        missing = (outside_s > INTERVAL_S / 2) | ((gap_s > MAX_POSE_GAP_S) & (outside_s <= 0))
        if missing.any():
            at_ns = int(times_ns[np.argmax(missing)])
            raise ScenarioError(f"{self.path}: no ego pose at {at_ns} ns, when there are boxes")
        share = (times_ns - known_ns[before]) / np.maximum(gap_s * 1e9, 1.0)
        return before, np.clip(share, 0.0, 1.0)


def _city_boxes(annotations: Table, poses: _EgoPoses, times_ns: NDArray[np.int64]) -> FloatArray:
    """(N, 6): x, y, heading in the city, length, width, height, of every row."""
    rotations, translations = poses.at_rows(times_ns)
    in_ego = np.stack([annotations.floats(name) for name in ("tx_m", "ty_m", "tz_m")], axis=1)
    centers = np.einsum("nij,nj->ni", rotations, in_ego) + translations
    turned = np.einsum("nij,njk->nik", rotations, rotations_of(annotations))
    sizes = [annotations.floats(name, limit=MAX_SIZE_M) for name in ("length_m", "width_m", "height_m")]
    if min(size.min() for size in sizes) <= 0:
        raise ScenarioError(f"{annotations.path}: a box has no length, width or height")
    return np.column_stack([centers[:, :2], np.arctan2(turned[:, 1, 0], turned[:, 0, 0]), *sizes])


def _rows_by_track(path: Path, ids: NDArray[np.object_], times_ns: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers of each track in order of time, tracks in order of their id."""
    _, track_of_row = np.unique(ids, return_inverse=True)
    order = np.lexsort((times_ns, track_of_row))
    new_track = np.diff(track_of_row[order]) != 0
    twice = ~new_track & (np.diff(times_ns[order]) == 0)
    if twice.any():
        row = order[int(np.argmax(twice))]
        raise ScenarioError(f"{path}: track {ids[row]} has two boxes at {times_ns[row]} ns")
    return np.split(order, np.flatnonzero(new_track) + 1)


def _stop_signs(signs_m: Sequence[FloatArray], lane_map: LaneMap) -> tuple[tuple[float, float, float], ...]:
    """x, y and the heading of the traffic that each sign is for: that of the nearest lane that ends at the sign's left.

    A sign without such a lane is left out. They are there to be seen; no stop line is made up from them.
    """
    placed = []
    for sign in signs_m:
        nearest_m, heading_rad = STOP_SIGN_REACH_M, None
        for lane in lane_map.lanes.values():
            if lane.lane_type == "vehicle" and not lane.is_connector:
                along = lane.centerline[-1] - lane.centerline[-2]
                to_sign = sign - lane.right_boundary[-1]
                distance_m = float(np.hypot(*to_sign))
                on_right = along[0] * to_sign[1] - along[1] * to_sign[0] < 0
                if on_right and distance_m < nearest_m:
                    nearest_m, heading_rad = distance_m, float(np.arctan2(along[1], along[0]))
        if heading_rad is not None:
            placed.append((float(sign[0]), float(sign[1]), heading_rad))
    return tuple(placed)


def _check_speed(path: Path, ego_poses: FloatArray) -> None:
    step_mps = np.hypot(*np.diff(ego_poses[:, :2], axis=0).T) / INTERVAL_S
    if len(step_mps) and step_mps.max() > MAX_EGO_SPEED_MPS:
        raise ScenarioError(
            f"{path}: the ego jumps at {step_mps.max():.0f} m/s, {step_mps.argmax() * INTERVAL_S:.1f} s after the start"
        )
