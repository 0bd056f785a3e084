"""Motion from positions: what a log's boxes say about speed and acceleration, and how tracks become frames.

Argoverse 2 gives positions (and, for motion forecasting, velocities) at about 10 Hz. Derivatives come from a local
least-squares parabola over about one second (Savitzky and Golay, 1964): a plain difference of positions that are good
to 2 cm errs by 0.3 m/s and, differentiated again, by 4 m/s^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nsdrive.world.geometry import wrap_angle
from nsdrive.world.types import INTERVAL_S, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA

WINDOW_TICKS = 11  # 1.1 s, chosen by us: less lets the boxes' jitter through, more rounds off the onset of braking
STANDING_RADIUS_M = 0.5  # chosen by us: a track that stays this close to its middle ...
STANDING_MIN_S = 2.0  # ... for at least this long stands still, and its velocity is exactly zero
STEERING_MIN_SPEED_MPS = 1.0  # chosen by us: below it, yaw rate over speed is noise
MAX_GAP_S = 0.55  # chosen by us: up to four sweeps in a row may be missing and are interpolated over
EGO_STANDS_MPS = 0.05  # chosen by us: a speed below it is the noise of the poses, and taken as zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One object over the T ticks of a scenario; rows where `present` is false mean nothing.

    present (T,) bool; poses (T, 3): centre x, y, heading, global; velocities_mps (T, 2): global; accels_mps2 (T,):
    along the heading; size_m: length, width, height.
    """

    track_id: str
    kind: str
    size_m: tuple[float, float, float]
    present: NDArray[np.bool_]
    poses: FloatArray
    velocities_mps: FloatArray
    accels_mps2: FloatArray


def frames_of(tracks: Sequence[Track], n_ticks: int) -> tuple[ObjectFrame, ...]:
    """One frame per tick, rows ordered by track id."""
    tracks = sorted(tracks, key=lambda track: track.track_id)
    n = len(tracks)
    ids = np.array([track.track_id for track in tracks], dtype=object)
    kinds = np.array([OBJECT_KINDS.index(track.kind) for track in tracks], dtype=np.int8)
    sizes = np.array([track.size_m for track in tracks], dtype=float).reshape(n, 3)
    present = np.array([track.present for track in tracks], dtype=bool).reshape(n, n_ticks)
    poses = np.array([track.poses for track in tracks], dtype=float).reshape(n, n_ticks, 3)
    velocities = np.array([track.velocities_mps for track in tracks], dtype=float).reshape(n, n_ticks, 2)
    accels = np.array([track.accels_mps2 for track in tracks], dtype=float).reshape(n, n_ticks)
    frames = []
    for tick in range(n_ticks):
        rows = np.flatnonzero(present[:, tick])
        frames.append(
            ObjectFrame(
                ids=tuple(ids[rows]),
                kinds=kinds[rows],
                boxes=np.concatenate([poses[rows, tick], sizes[rows, :2]], axis=1),
                heights_m=sizes[rows, 2],
                velocities_mps=velocities[rows, tick],
                accels_mps2=accels[rows, tick],
                indicators=np.zeros(len(rows), dtype=np.int8),
            )
        )
    return tuple(frames)


def track_on_ticks(
    track_id: str,
    kind: str,
    times_s: FloatArray,
    boxes: FloatArray,
    ticks_s: FloatArray,
    velocities_mps: FloatArray | None = None,
) -> Track:
    """A track on the ticks: poses interpolated between its boxes, sizes the medians over them.

    times_s (N,) ascending; boxes (N, 6): x, y, heading, length, width, height, global. velocities_mps (N, 2) where the
    source measured them, else they are derived from the poses. Present from the first to the last box (to the nearest
    tick), but for where the boxes pause longer than MAX_GAP_S.
    """
    heading_rad = np.unwrap(boxes[:, 2])
    poses = np.stack(
        [np.interp(ticks_s, times_s, column) for column in (boxes[:, 0], boxes[:, 1], heading_rad)], axis=1
    )
    poses[:, 2] = np.arctan2(np.sin(poses[:, 2]), np.cos(poses[:, 2]))
    half_s = INTERVAL_S / 2 + 1e-6
    present = (ticks_s >= times_s[0] - half_s) & (ticks_s <= times_s[-1] + half_s)
    for pause in np.flatnonzero(np.diff(times_s) > MAX_GAP_S):
        present &= (ticks_s <= times_s[pause] + half_s) | (ticks_s >= times_s[pause + 1] - half_s)
    length, width, height = np.median(boxes[:, 3:], axis=0).tolist()
    size_m = (length, width, height)
    if velocities_mps is None:
        return track_from_poses(track_id, kind, size_m, present, poses)
    velocities = np.stack([np.interp(ticks_s, times_s, column) for column in velocities_mps.T], axis=1)
    return track_from_velocities(track_id, kind, size_m, present, poses, velocities)


def short_ids(uuids: NDArray[np.object_]) -> NDArray[np.object_]:
    """The first 8 characters of each uuid, or as many more as it takes to tell this log's tracks apart."""
    different = sorted(set(uuids))
    length = 8
    while len({uuid[:length] for uuid in different}) < len(different):
        length += 1
    return np.array([uuid[:length] for uuid in uuids], dtype=object)


def track_from_poses(
    track_id: str, kind: str, size_m: tuple[float, float, float], present: NDArray[np.bool_], poses: FloatArray
) -> Track:
    """A track whose velocity and acceleration are derived from its poses, each unbroken presence by itself."""
    velocities = np.zeros((len(present), 2))
    for run in runs(present):
        velocities[run] = derivative(poses[run, :2])
    seen = poses[present, :2]
    radius_m = np.hypot(*(seen - np.median(seen, axis=0)).T).max()
    if radius_m < STANDING_RADIUS_M and present.sum() * INTERVAL_S >= STANDING_MIN_S:
        velocities[:] = 0.0
    return track_from_velocities(track_id, kind, size_m, present, poses, velocities)


def track_from_velocities(
    track_id: str,
    kind: str,
    size_m: tuple[float, float, float],
    present: NDArray[np.bool_],
    poses: FloatArray,
    velocities_mps: FloatArray,
) -> Track:
    """A track whose acceleration is derived from its velocity along the heading."""
    forward_mps = velocities_mps[:, 0] * np.cos(poses[:, 2]) + velocities_mps[:, 1] * np.sin(poses[:, 2])
    accels = np.zeros(len(present))
    for run in runs(present):
        accels[run] = derivative(forward_mps[run, None])[:, 0]
    return Track(
        track_id=track_id,
        kind=kind,
        size_m=size_m,
        present=present,
        poses=poses,
        velocities_mps=velocities_mps,
        accels_mps2=accels,
    )


def join_riders(riders: Sequence[Track], mounts: Sequence[Track], within_m: float = 1.0) -> list[Track]:
    """Riders and mounts as one object each: where both are seen, the rider stays, as large as the larger of the two.

    A mount is dropped only at the ticks at which a rider's centre is within `within_m` (chosen by us), so that a
    bicycle that is leant against a wall after the ride comes back as itself. Tracks left without a tick are left out.
    """
    mounts = list(mounts)
    joined: list[Track] = []
    for rider in riders:
        for place, mount in enumerate(mounts):
            gap_m = np.hypot(*(rider.poses[:, :2] - mount.poses[:, :2]).T)
            together = rider.present & mount.present & (gap_m < within_m)
            if together.any():
                length, width, height = np.maximum(rider.size_m, mount.size_m).tolist()
                rider = replace(rider, size_m=(length, width, height))
                mounts[place] = replace(mount, present=mount.present & ~together)
        joined.append(rider)
    return joined + [mount for mount in mounts if mount.present.any()]


def ego_states(poses: FloatArray, speeds_mps: FloatArray | None = None) -> tuple[EgoState, ...]:
    """The ego's states from its rear-axle poses (T, 3), one per tick.

    Speeds are along the heading, derived from the poses unless given; accelerations are derived from the speeds. The
    steering is the tire angle that gives our vehicle, whatever the recording car was, the logged curvature (kinematic
    bicycle: tan(steering) = wheelbase * yaw rate / speed), interpolated
    over the time in which it hardly moves.
    """
    heading_rad = np.unwrap(poses[:, 2])
    if speeds_mps is None:
        velocity = derivative(poses[:, :2])
        speeds_mps = velocity[:, 0] * np.cos(heading_rad) + velocity[:, 1] * np.sin(heading_rad)
    speeds_mps = np.where(np.abs(speeds_mps) < EGO_STANDS_MPS, 0.0, speeds_mps)
    accels = derivative(speeds_mps[:, None])[:, 0]
    yaw_rate_radps = derivative(heading_rad[:, None])[:, 0]
    ticks = np.arange(len(poses))
    moving = np.flatnonzero(np.abs(speeds_mps) >= STEERING_MIN_SPEED_MPS)
    if len(moving):
        steering = np.arctan(PACIFICA.wheel_base_m * yaw_rate_radps[moving] / speeds_mps[moving])
        steering = np.interp(ticks, moving, np.clip(steering, -PACIFICA.max_steering_rad, PACIFICA.max_steering_rad))
    else:
        steering = np.zeros(len(poses))
    wrapped_rad = wrap_angle(heading_rad)
    return tuple(
        EgoState(
            time_s=round(tick * INTERVAL_S, 6),
            x_m=float(poses[tick, 0]),
            y_m=float(poses[tick, 1]),
            heading_rad=float(wrapped_rad[tick]),
            speed_mps=float(speeds_mps[tick]),
            accel_mps2=float(accels[tick]),
            steering_rad=float(steering[tick]),
        )
        for tick in range(len(poses))
    )


def runs(present: NDArray[np.bool_]) -> list[slice]:
    """The unbroken stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def derivative(values: FloatArray) -> FloatArray:
    """Per-second rate of change of values (T, K) that are one tick apart: slope of the local least-squares parabola.

    The window is centred where there is room and the first or last full one elsewhere; a series shorter than the
    window is fitted whole. One value alone does not move.
    """
    n = len(values)
    window = min(WINDOW_TICKS, n)
    if window < 2:
        return np.zeros_like(values)
    times_s = (np.arange(window) - window // 2) * INTERVAL_S
    degree = min(2, window - 1)
    fit = np.linalg.pinv(np.vander(times_s, degree + 1, increasing=True))  # (degree + 1, window): samples -> parabola
    parabolas = np.einsum("dw,nkw->ndk", fit, sliding_window_view(values, window, axis=0))
    start = np.clip(np.arange(n) - window // 2, 0, n - window)
    local_s = (np.arange(n) - start - window // 2) * INTERVAL_S
    powers = np.arange(1, degree + 1)
    return np.einsum("nd,ndk->nk", powers * local_s[:, None] ** (powers - 1), parabolas[start][:, 1:])
