"""One log of py123d, or a piece of it, on 0.1 s ticks: the ego, all tracked objects, traffic lights and the route.

    clock = read_clock(folder)                        # the first box and how many ticks there are: two columns are read
    extract = read_extract(folder, 0, clock.n_ticks)  # ScenarioError, one line, where the log is broken

Tick k is 0.1 s * k after the log's first frame of boxes, whatever the data set's rate (2 Hz to 20 Hz): poses are
interpolated between the frames around it. A log's ego pose is that of its inertial unit; ours is the rear axle, which
its metadata place. Speeds and accelerations are derived from the poses by one method for all data sets, because py123d
fills in plain differences where the data set tells none and does not say so; nuPlan's are measured, and taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.argoverse2.tracks import (
    MAX_GAP_S,
    Track,
    ego_states,
    frames_of,
    join_riders,
    short_ids,
    track_on_ticks,
)
from nsdrive.scenarios.py123d.files import (
    BOXES,
    EGO,
    LIGHTS,
    READ_ERRORS,
    ROUTE,
    SCENARIO,
    Columns,
    checked_points,
    py123d,
    read_columns,
    read_metadata,
    read_times_us,
    rotation_of,
    unpacked,
)
from nsdrive.scenarios.py123d.kinds import APART, kind_of, label_names
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, FloatArray, ObjectFrame

TICK_US = round(INTERVAL_S * 1e6)
SLACK_US = round(MAX_GAP_S * 1e6)  # how far beyond a piece's ends its frames are read
MEASURED = ("nuplan",)  # data sets whose speeds and velocities py123d takes over instead of filling them in
LIGHT_HOLD_S = 0.15  # chosen by us: a light's state is that of the nearest frame, no further from the tick than this
MAX_EGO_SPEED_MPS = 60.0  # chosen by us, as for Argoverse 2
MAX_SIZE_M = 60.0  # chosen by us, as for Argoverse 2
# py123d's arrays: BoundingBoxSE3Index, PoseSE3Index, DynamicStateSE3Index
XY, QUATERNION, POSE, SIZE, SPEED = slice(0, 2), slice(3, 7), 7, slice(7, 10), 0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Tick 0 of a log [us since 1970, as the data set has it] and the number of its ticks."""

    start_us: int
    n_ticks: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Vehicle:
    """The car that recorded a log. rear_to_imu (4, 4): from the rear axle's frame to the inertial unit's."""

    name: str
    length_m: float
    width_m: float
    wheel_base_m: float
    rear_to_imu: FloatArray
    axle_height_m: float  # of the rear axle above the ground


@dataclass(frozen=True, kw_only=True, eq=False)
class Extract:
    """The ticks of one scenario."""

    start_us: int
    ego: tuple[EgoState, ...]
    frames: tuple[ObjectFrame, ...]
    lights: tuple[Mapping[str, str], ...]
    has_lights: bool  # whether the log tells the state of any light at all, in this piece or elsewhere
    lit_lanes: frozenset[str]  # every lane or connector that a light is told of in this piece
    route_roadblock_ids: tuple[str, ...]  # nuPlan's, else empty
    route_line: FloatArray | None  # (N, 2), where the log was recorded with a planned route
    notes: Mapping[str, Any]


def read_clock(folder: Path) -> Clock:
    """The time for which a log has both boxes and ego poses. ScenarioError where there is none."""
    if not (folder / f"{BOXES}.arrow").is_file():
        raise ScenarioError(f"{folder}: has no boxes ({BOXES}.arrow), so nobody knows who else is on the road")
    boxes, ego = read_times_us(folder, BOXES), read_times_us(folder, EGO)
    if not len(boxes) or not len(ego):
        raise ScenarioError(f"{folder}: has no frame of boxes or no ego pose")
    there = boxes[(boxes >= ego[0] - TICK_US // 2) & (boxes <= ego[-1] + TICK_US // 2)]
    if not len(there):
        raise ScenarioError(f"{folder}: its boxes and its ego poses are of different times")
    return Clock(start_us=int(there[0]), n_ticks=round((int(there[-1]) - int(there[0])) / TICK_US) + 1)


def read_extract(folder: Path, dataset: str, start_us: int, n_ticks: int) -> Extract:
    """`n_ticks` ticks of the log from `start_us` on. ScenarioError names the file and the problem."""
    try:
        return _read(folder, dataset, start_us, n_ticks)
    except ScenarioError:
        raise
    except READ_ERRORS as error:  # the readers check what they use, but the files come from anywhere
        raise ScenarioError(f"{folder}: cannot be read as a log of py123d ({one_line(error)})") from error


def _read(folder: Path, dataset: str, start_us: int, n_ticks: int) -> Extract:
    ticks_us = start_us + TICK_US * np.arange(n_ticks, dtype=np.int64)
    span = (int(ticks_us[0]) - SLACK_US, int(ticks_us[-1]) + SLACK_US)
    vehicle = read_vehicle(folder)
    ego = _ego(read_columns(folder, EGO, span), vehicle, ticks_us, measured=dataset in MEASURED)
    tracks, noted = _tracks(folder, span, ticks_us, measured=dataset in MEASURED)
    lights, has_lights = _lights(folder, span, ticks_us)
    blocks, line = _route(folder, span, int(ticks_us[min(HISTORY_TICKS, n_ticks - 1)]))
    return Extract(
        start_us=start_us,
        ego=ego,
        frames=frames_of(tracks, n_ticks),
        lights=lights,
        has_lights=has_lights,
        lit_lanes=frozenset(lane for states in lights for lane in states),
        route_roadblock_ids=blocks,
        route_line=line,
        notes={
            "vehicle": vehicle.name,
            "vehicle_length_m": round(vehicle.length_m, 3),
            "vehicle_width_m": round(vehicle.width_m, 3),
            "vehicle_wheel_base_m": round(vehicle.wheel_base_m, 3),
            "simulated_vehicle": "nuPlan's Pacifica, whatever car recorded the log",
            **noted,
        },
    )


def read_vehicle(folder: Path) -> Vehicle:
    """The recording car, from the metadata of the ego's file. ScenarioError."""
    path = folder / f"{EGO}.arrow"
    about = read_metadata(path)
    try:
        meta = py123d("datatypes").EgoStateSE3Metadata.from_dict(about)
        rear, center = (pose_matrix(pose.array) for pose in (meta.rear_axle_to_imu_se3, meta.center_to_imu_se3))
        center_up_m = (np.linalg.inv(rear) @ center)[2, 3]
        sizes = [float(value) for value in (meta.length, meta.width, meta.height, meta.wheel_base)]
        checked_points(np.array(sizes), MAX_SIZE_M)
    except READ_ERRORS as error:
        raise ScenarioError(f"{path}: does not describe the ego's car ({one_line(error)})") from error
    return Vehicle(
        name=str(meta.vehicle_name),
        length_m=sizes[0],
        width_m=sizes[1],
        wheel_base_m=sizes[3],
        rear_to_imu=rear,
        axle_height_m=sizes[2] / 2 - float(center_up_m),
    )


def pose_matrix(pose: FloatArray) -> FloatArray:
    """(4, 4) of a pose (7,): x, y, z, qw, qx, qy, qz. ValueError."""
    pose = checked_points(np.asarray(pose, dtype=np.float64).reshape(POSE))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_of(pose[None, QUATERNION])[0]
    matrix[:3, 3] = pose[:3]
    return matrix


def _ego(columns: Columns, vehicle: Vehicle, ticks_us: NDArray[np.int64], *, measured: bool) -> tuple[EgoState, ...]:
    times_us = columns.times_us()
    poses = checked_points(columns.vectors("imu_se3", POSE))
    rotations = rotation_of(poses[:, QUATERNION])
    points = np.einsum("nij,j->ni", rotations, vehicle.rear_to_imu[:3, 3])[:, :2] + poses[:, XY]
    forward = np.einsum("nij,j->ni", rotations, vehicle.rear_to_imu[:3, 0])
    heading = np.unwrap(np.arctan2(forward[:, 1], forward[:, 0]))
    _check_gaps(columns.path, "ego pose", times_us, ticks_us)

    def at_ticks(values: FloatArray) -> FloatArray:
        return np.interp(ticks_us - ticks_us[0], times_us - ticks_us[0], values)

    planar = np.stack([at_ticks(column) for column in (points[:, 0], points[:, 1], heading)], axis=1)
    step_mps = np.hypot(*np.diff(planar[:, :2], axis=0).T) / INTERVAL_S
    if len(step_mps) and step_mps.max() > MAX_EGO_SPEED_MPS:
        after_s = step_mps.argmax() * INTERVAL_S
        raise ScenarioError(
            f"{columns.path}: the ego jumps at {step_mps.max():.0f} m/s, {after_s:.1f} s after the start"
        )
    speeds = columns.vectors("dynamic_state_se3", 9)[:, SPEED] if measured else np.full(len(times_us), np.nan)
    return ego_states(planar, at_ticks(speeds) if np.isfinite(speeds).all() else None)


def _tracks(
    folder: Path, span: tuple[int, int], ticks_us: NDArray[np.int64], *, measured: bool
) -> tuple[list[Track], dict[str, Any]]:
    """Everybody's tracks, riders joined with their mounts, and what is to be noted about them."""
    labels = read_metadata(folder / f"{BOXES}.arrow").get("box_detection_label_class")
    names = label_names(labels)
    columns = read_columns(folder, BOXES, span)
    frames_us = columns.times_us()
    _check_gaps(columns.path, "boxes", frames_us, ticks_us)
    counts, tokens = columns.lists("track_token")
    boxes = columns.listed_vectors("bounding_box_se3", 10)
    velocities = columns.listed_vectors("velocity_3d", 3)[:, XY]
    numbers = np.asarray(columns.lists("label")[1].to_numpy(zero_copy_only=False))
    if not len(tokens) == len(boxes) == len(velocities) == len(numbers):
        raise ScenarioError(f"{columns.path}: its columns list different numbers of boxes")
    checked_points(boxes)
    sizes = boxes[:, SIZE]
    if len(boxes) and (sizes.min() <= 0 or sizes.max() > MAX_SIZE_M):
        raise ScenarioError(f"{columns.path}: a box is {sizes.min():g} m to {sizes.max():g} m long, wide or high")
    forward = rotation_of(boxes[:, QUATERNION])[:, :, 0]
    planar = np.column_stack([boxes[:, XY], np.arctan2(forward[:, 1], forward[:, 0]), sizes])
    times_s = (np.repeat(frames_us, counts) - ticks_us[0]) / 1e6
    ticks_s = (ticks_us - ticks_us[0]) / 1e6
    ids = np.array([str(token) for token in tokens.to_pylist()], dtype=object)
    long_ids = bool(len(ids)) and all(len(token) == 36 and token.count("-") == 4 for token in ids)
    if long_ids:
        ids = short_ids(ids)

    riders, mounts = APART.get(str(labels).rpartition(".")[2], ((), ()))
    by_label: dict[str, list[Track]] = {}
    twice = 0
    for rows in _rows_by_track(ids, times_s):
        once = np.concatenate([[True], np.diff(times_s[rows]) > 0])
        twice += int((~once).sum())
        rows = rows[once]
        label = names.get(int(numbers[rows[0]]))
        if label is None:
            raise ScenarioError(f"{columns.path}: has label {numbers[rows[0]]}, known: 0 to {max(names)}")
        kind = kind_of(labels, label)
        near = (times_s[rows] >= -INTERVAL_S / 2) & (times_s[rows] <= ticks_s[-1] + INTERVAL_S / 2)
        if kind is None or not near.any():
            continue
        known = measured and bool(np.isfinite(velocities[rows]).all())
        track = track_on_ticks(
            ids[rows[0]], kind, times_s[rows], planar[rows], ticks_s, velocities[rows] if known else None
        )
        by_label.setdefault(label, []).append(track)
    ridden = [track for label in riders for track in by_label.pop(label, [])]
    mounted = [track for label in mounts for track in by_label.pop(label, [])]
    tracks = [track for group in by_label.values() for track in group] + join_riders(ridden, mounted)
    every_s = float(np.median(np.diff(frames_us))) / 1e6 if len(frames_us) > 1 else 0.0
    return tracks, {
        "boxes_every_s": round(every_s, 3),
        **({"boxes_given_twice": twice} if twice else {}),
        **({"track_ids": "the first characters of the source's track token"} if long_ids else {}),
    }


def _rows_by_track(ids: NDArray[np.object_], times_s: FloatArray) -> list[NDArray[np.int64]]:
    """Row numbers of each track in the order of time, tracks in the order of their ids."""
    if not len(ids):
        return []
    _, track_of_row = np.unique(ids, return_inverse=True)
    order = np.lexsort((times_s, track_of_row))
    return np.split(order, np.flatnonzero(np.diff(track_of_row[order])) + 1)


def _lights(
    folder: Path, span: tuple[int, int], ticks_us: NDArray[np.int64]
) -> tuple[tuple[Mapping[str, str], ...], bool]:
    """Lane -> state at every tick, and whether the log tells of lights at all. A light that is off is unknown."""
    if not (folder / f"{LIGHTS}.arrow").is_file():
        return ({},) * len(ticks_us), False
    has_lights = bool(read_columns(folder, LIGHTS).lists("lane_id")[0].any())
    columns = read_columns(folder, LIGHTS, span)
    times_us = columns.times_us()
    counts, lanes = columns.lists("lane_id")
    same, states = columns.lists("status")
    if not np.array_equal(counts, same) or lanes.null_count or states.null_count:
        raise ScenarioError(f"{columns.path}: lane_id and status do not belong together")
    name_of = {int(status.value): status.name.lower() for status in py123d("datatypes").TrafficLightStatus}
    known = [name if name in ("green", "yellow", "red") else "unknown" for name in map(name_of.get, states.to_pylist())]
    ends = np.cumsum(counts)
    listed = [str(lane) for lane in lanes.to_pylist()]
    found: list[Mapping[str, str]] = []
    for tick_us in ticks_us:
        row = int(np.abs(times_us - tick_us).argmin()) if len(times_us) else -1
        if row < 0 or abs(int(times_us[row]) - int(tick_us)) > LIGHT_HOLD_S * 1e6:
            found.append({})
            continue
        mine = slice(int(ends[row] - counts[row]), int(ends[row]))
        found.append(dict(zip(listed[mine], known[mine], strict=True)))
    return tuple(found), has_lights


def _route(folder: Path, span: tuple[int, int], anchor_us: int) -> tuple[tuple[str, ...], FloatArray | None]:
    """nuPlan's roadblocks at the scenario's start and those of its later scenes, and a planned route's line.

    py123d keeps the way that the ego drove as a route too; that one says nothing about where it wanted to go.
    """
    blocks: dict[str, None] = {}
    if (folder / f"{SCENARIO}.arrow").is_file():
        columns = read_columns(folder, SCENARIO, span)
        packed = columns.column("data").to_pylist()
        first = int(np.abs(columns.times_us() - anchor_us).argmin()) if packed else 0
        for data in dict.fromkeys(packed[first:]):
            ids = unpacked(data).get("route_roadblock_ids", ())
            blocks.update(dict.fromkeys(str(block) for block in ids if str(block) not in ("", "None")))
    line = None
    if (folder / f"{ROUTE}.arrow").is_file():
        about = read_metadata(folder / f"{ROUTE}.arrow")
        if about.get("source") == "provided":
            line = checked_points(np.stack([np.array(about[f"polyline_{axis}"], dtype=float) for axis in "xy"], axis=1))
    return tuple(blocks), line


def _check_gaps(path: Path, what: str, times_us: NDArray[np.int64], ticks_us: NDArray[np.int64]) -> None:
    """ScenarioError where the frames around a tick are too far apart, or, beyond either end, the tick is half as far."""
    if not len(times_us):
        raise ScenarioError(f"{path}: has no {what} at this time")
    last, following = np.searchsorted(times_us, ticks_us, side="right") - 1, np.searchsorted(times_us, ticks_us)
    before_us = np.where(last >= 0, times_us[np.maximum(last, 0)], 2 * ticks_us - times_us[0])
    after_us = np.where(
        following < len(times_us), times_us[np.minimum(following, len(times_us) - 1)], 2 * ticks_us - times_us[-1]
    )
    gap_us = after_us - before_us
    worst = int(gap_us.argmax())
    if gap_us[worst] > SLACK_US:
        raise ScenarioError(
            f"{path}: no {what} for {gap_us[worst] / 1e6:.2f} s, {worst * INTERVAL_S:.1f} s after the start (at most"
            f" {MAX_GAP_S} s can be bridged)"
        )
