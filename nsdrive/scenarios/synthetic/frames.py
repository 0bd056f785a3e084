"""From a script's motion to what a scenario holds: object frames and the ego's past."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nsdrive.scenarios.synthetic.motion import Actor, Motion
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame

WHEELBASE_M = 3.089  # nuPlan's Pacifica


def object_frames(everyone: Sequence[Actor], motion: Motion, rng: np.random.Generator) -> tuple[ObjectFrame, ...]:
    """One frame per tick, without the ego (the first of everyone); rows of actors that have left are missing."""
    rows = 1 + rng.permutation(len(everyone) - 1)
    numbers: dict[str, int] = {}
    ids = []
    for row in rows:  # ids tell nothing: they are numbered in a drawn order
        name = everyone[row].track_id
        numbers[name] = numbers.get(name, 0) + 1
        ids.append(f"{name}-{numbers[name]}")
    cast = [everyone[row] for row in rows]
    boxes = np.ascontiguousarray(boxes_of(everyone, motion)[rows].transpose(1, 0, 2))
    boxes[:, :, 2] = (boxes[:, :, 2] + math.pi) % (2 * math.pi) - math.pi
    speeds = motion.speeds_mps[rows].T
    velocities = speeds[:, :, None] * np.stack([np.cos(boxes[:, :, 2]), np.sin(boxes[:, :, 2])], axis=2)
    accels = np.ascontiguousarray(motion.accels_mps2[rows].T)
    kinds = np.array([OBJECT_KINDS.index(a.kind) for a in cast], dtype=np.int8)
    heights = np.array([a.height_m for a in cast], dtype=float)
    indicators = np.zeros(speeds.shape, dtype=np.int8)
    for k, actor in enumerate(cast):
        for start, end, side in actor.indicator:
            progress = motion.progress_m[rows[k]]
            indicators[(progress >= start) & (progress <= end), k] = side
    present = motion.present[rows].T
    frames = []
    columns: dict[bytes, tuple[np.ndarray, tuple[str, ...]]] = {}  # rows and ids by who is there
    for t, there in enumerate(present):
        key = there.tobytes()
        if key not in columns:
            shown = np.flatnonzero(there)
            columns[key] = shown, tuple(ids[k] for k in shown)
        shown, names = columns[key]
        frames.append(
            ObjectFrame(
                ids=names,
                kinds=kinds[shown],
                boxes=boxes[t, shown],
                heights_m=heights[shown],
                velocities_mps=velocities[t, shown],
                accels_mps2=accels[t, shown],
                indicators=indicators[t, shown],
            )
        )
    return tuple(frames)


def ego_log(motion: Motion) -> tuple[EgoState, ...]:
    """The first actor's past: ticks 0 to HISTORY_TICKS, its reference point being the rear axle."""
    poses, progress = motion.poses[0], motion.progress_m[0]
    span = HISTORY_TICKS + 2
    turned, driven = np.gradient(np.unwrap(poses[:span, 2])), np.gradient(progress[:span])
    curvature = np.where(driven > 0.02, turned / np.maximum(driven, 0.02), 0.0)
    return tuple(
        EgoState(
            time_s=round(t * INTERVAL_S, 3),
            x_m=float(poses[t, 0]),
            y_m=float(poses[t, 1]),
            heading_rad=float((poses[t, 2] + math.pi) % (2 * math.pi) - math.pi),
            speed_mps=float(motion.speeds_mps[0, t]),
            accel_mps2=float(motion.accels_mps2[0, t]),
            steering_rad=float(math.atan(WHEELBASE_M * curvature[t])),
        )
        for t in range(HISTORY_TICKS + 1)
    )


def boxes_of(cast: Sequence[Actor], motion: Motion) -> FloatArray:
    """(A, T, 5): everyone's box at every tick."""
    shape = motion.speeds_mps.shape
    sizes = np.array([(a.length_m, a.width_m) for a in cast])
    return np.concatenate(
        [motion.centres, motion.poses[:, :, 2:], np.broadcast_to(sizes[:, None], (*shape, 2))], axis=2
    )
