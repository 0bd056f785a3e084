"""Plane geometry that everything else stands on: frames, boxes, polylines, and `Path`, the line that the ego follows.

A box is five numbers: centre x, y, heading, length, width. A pose is x, y, heading. Metres and radians, global frame
unless a name says otherwise. The inner loops are numba kernels, so that a planner can ask thousands of times a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nsdrive.world import kernels
from nsdrive.world.kernels import SPACING_M
from nsdrive.world.types import FloatArray

# Curvature is the heading change over +-4 m, chosen by us: digitising noise fades, a turn of 8 m radius keeps its peak.
CURVATURE_WINDOW_M = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """A polyline with arc length (progress), heading, curvature, speed limit and lane id at each of its N points.

    points (N, 2), progress_m (N,) from 0, heading_rad (N,) unwrapped, curvature_1pm (N,) left positive,
    speed_limit_mps (N,) nan where unknown, lane_ids: N, None where unknown. Neighbouring points are at most 1 m apart.
    """

    points: FloatArray
    progress_m: FloatArray
    heading_rad: FloatArray
    curvature_1pm: FloatArray
    speed_limit_mps: FloatArray
    lane_ids: tuple[str | None, ...]

    @staticmethod
    def of(
        points: FloatArray,
        speed_limits_mps: ArrayLike | None = None,
        lane_ids: Sequence[str | None] | None = None,
        spacing_m: float = SPACING_M,
    ) -> Path:
        """A path through `points` (M, 2), evenly resampled. A limit or lane id of a vertex holds until the next vertex.

        Raises ValueError for fewer than two distinct points or for points that are not finite.
        """
        raw = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(raw).all():
            raise ValueError("A path needs finite points, got nan or infinity.")
        keep = kernels.distinct(raw, 1e-3)
        vertices = raw[keep]
        if len(vertices) < 2:
            raise ValueError(f"A path needs at least two distinct points, got {len(vertices)} of {len(raw)} given.")
        along = _arc_length(vertices)
        count = max(1, int(np.ceil(along[-1] / spacing_m - 1e-9)))
        at = np.linspace(0.0, along[-1], count + 1)
        even = np.column_stack([np.interp(at, along, vertices[:, 0]), np.interp(at, along, vertices[:, 1])])
        vertex = keep[np.clip(np.searchsorted(along, at + 1e-6, side="right") - 1, 0, len(vertices) - 1)]
        limits = np.full(len(raw), np.nan) if speed_limits_mps is None else np.asarray(speed_limits_mps, np.float64)
        ids = (None,) * len(raw) if lane_ids is None else tuple(lane_ids)
        if len(limits) != len(raw) or len(ids) != len(raw):
            raise ValueError(f"Got {len(raw)} points, {len(limits)} speed limits and {len(ids)} lane ids: one each.")
        progress = _arc_length(even)
        heading = _vertex_headings(even)
        return Path(
            points=np.ascontiguousarray(even),
            progress_m=progress,
            heading_rad=heading,
            curvature_1pm=_curvature(progress, heading),
            speed_limit_mps=limits[vertex],
            lane_ids=tuple(ids[v] for v in vertex),
        )

    @property
    def length_m(self) -> float:
        return float(self.progress_m[-1])

    def project(self, x_m: float, y_m: float, near_progress_m: float | None = None) -> tuple[float, float]:
        """(progress, lateral offset) of the nearest point, progress within [0, length], offset left positive.

        near_progress_m: look only within 30 m of this progress, for paths that cross themselves. Beyond an end the
        offset is measured across the end's direction, so that it does not grow with the distance from the end.
        """
        first, last = 0, len(self.points) - 1
        if near_progress_m is not None:
            first = max(0, int(np.searchsorted(self.progress_m, near_progress_m - 30.0)) - 1)
            last = min(last, int(np.searchsorted(self.progress_m, near_progress_m + 30.0)) + 1)
            if last <= first:
                first, last = 0, len(self.points) - 1
        return kernels.project(self.points, self.progress_m, float(x_m), float(y_m), first, last)

    def project_points(self, points: FloatArray) -> FloatArray:
        """(M, 2): progress and lateral offset of each of (M, 2) points."""
        return kernels.project_all(
            self.points, self.progress_m, np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2)
        )

    def pose_at(self, progress_m: ArrayLike) -> FloatArray:
        """(3,) for a number, (M, 3) for an array: x, y, heading in (-pi, pi]. Progress is held within [0, length]."""
        at = np.asarray(progress_m, dtype=np.float64)
        poses = kernels.poses_at(self.points, self.progress_m, self.heading_rad, at.reshape(-1))
        return poses[0] if at.ndim == 0 else poses

    def index_at(self, progress_m: float) -> int:
        """Index of the last point at or before this progress."""
        return max(0, int(self.progress_m.searchsorted(progress_m, side="right")) - 1)

    def lane_at(self, progress_m: float) -> str | None:
        return self.lane_ids[self.index_at(progress_m)]

    def speed_limit_at(self, progress_m: float) -> float:
        """Speed limit there, nan where unknown."""
        return float(self.speed_limit_mps[self.index_at(progress_m)])

    def curvature_at(self, progress_m: ArrayLike) -> FloatArray:
        return np.interp(np.asarray(progress_m, dtype=np.float64), self.progress_m, self.curvature_1pm)


def corridor_overlap(
    path: Path, boxes: FloatArray, from_progress_m: float, to_progress_m: float, half_width_m: float
) -> FloatArray:
    """(N,): progress at which the corridor around the path first meets each of (N, 5) boxes, inf where it does not.

    The corridor holds the points within `half_width_m` of the path between the two progresses. The entry is the least
    progress of the part of the box inside it (never below `from_progress_m`): outline points at most 0.5 m apart, with
    the crossing of the corridor's edge refined to a millimetre.
    """
    boxes = np.ascontiguousarray(boxes, dtype=np.float64).reshape(-1, 5)
    start, end = max(0.0, float(from_progress_m)), min(path.length_m, float(to_progress_m))
    if end <= start or len(boxes) == 0:
        return np.full(len(boxes), np.inf)
    return kernels.corridor_entries(path.points, path.progress_m, boxes, start, end, float(half_width_m))


def boxes_overlap(boxes: FloatArray, others: FloatArray) -> np.ndarray:
    """(N, M) bool: which of (N, 5) boxes overlaps which of (M, 5) others. Exact (separating axes), touching counts not."""
    return kernels.overlap_matrix(
        np.ascontiguousarray(boxes, dtype=np.float64).reshape(-1, 5),
        np.ascontiguousarray(others, dtype=np.float64).reshape(-1, 5),
    )


def wrap_angle(angle_rad: ArrayLike) -> FloatArray:
    """The same angle in [-pi, pi)."""
    return (np.asarray(angle_rad, dtype=np.float64) + np.pi) % (2.0 * np.pi) - np.pi


def box_corners(boxes: FloatArray) -> FloatArray:
    """(N, 4, 2) corners of (N, 5) boxes: front left, rear left, rear right, front right."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 5)
    along = np.array([0.5, -0.5, -0.5, 0.5]) * boxes[:, 3:4]
    across = np.array([0.5, 0.5, -0.5, -0.5]) * boxes[:, 4:5]
    cos, sin = np.cos(boxes[:, 2:3]), np.sin(boxes[:, 2:3])
    return np.stack([boxes[:, 0:1] + along * cos - across * sin, boxes[:, 1:2] + along * sin + across * cos], axis=-1)


def to_ego(points: FloatArray, pose: FloatArray) -> FloatArray:
    """(N, 2) global points seen from `pose` (x, y, heading): x forward, y left."""
    shifted = np.asarray(points, dtype=np.float64) - np.asarray(pose, dtype=np.float64)[:2]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return np.stack([shifted[..., 0] * cos + shifted[..., 1] * sin, shifted[..., 1] * cos - shifted[..., 0] * sin], -1)


def to_global(points: FloatArray, pose: FloatArray) -> FloatArray:
    """Inverse of `to_ego`."""
    points = np.asarray(points, dtype=np.float64)
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    x = points[..., 0] * cos - points[..., 1] * sin + pose[0]
    y = points[..., 0] * sin + points[..., 1] * cos + pose[1]
    return np.stack([x, y], -1)


def resample(polyline: FloatArray, spacing_m: float) -> FloatArray:
    """The polyline (N, 2) with even spacing of at most `spacing_m`, both ends kept."""
    polyline = np.asarray(polyline, dtype=np.float64)
    along = _arc_length(polyline)
    count = max(1, int(np.ceil(along[-1] / spacing_m - 1e-9)))
    at = np.linspace(0.0, along[-1], count + 1)
    return np.column_stack([np.interp(at, along, polyline[:, column]) for column in range(polyline.shape[1])])


def offset_polyline(polyline: FloatArray, offset_m: float) -> FloatArray:
    """The polyline (N, 2) shifted sideways, left positive; points that would fold back inside a tight bend are dropped."""
    polyline = np.asarray(polyline, dtype=np.float64)
    polyline = polyline[kernels.distinct(np.ascontiguousarray(polyline), 1e-3)]
    if len(polyline) < 2:
        raise ValueError("A polyline needs at least two distinct points to be shifted sideways.")
    steps = np.diff(polyline, axis=0)
    directions = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    normals = np.column_stack([-directions[:, 1], directions[:, 0]])
    before, after = np.vstack([normals[:1], normals]), np.vstack([normals, normals[-1:]])
    bisector = before + after
    # |bisector|^2 / 2 is 1 + cos(turn): dividing by it gives the mitre, held below 2.5x at hairpins.
    mitred = bisector / np.maximum(np.sum(bisector * bisector, axis=1, keepdims=True) / 2.0, 0.4)
    shifted = polyline + offset_m * mitred
    kept = [0]
    for i in range(1, len(shifted)):
        if np.dot(shifted[i] - shifted[kept[-1]], directions[i - 1]) > 1e-6:
            kept.append(i)
    return shifted[kept] if len(kept) > 1 else shifted[[0, -1]]


def _arc_length(polyline: FloatArray) -> FloatArray:
    steps = np.linalg.norm(np.diff(polyline[:, :2], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _vertex_headings(points: FloatArray) -> FloatArray:
    """Unwrapped heading at each point: the mean of the segments that meet there."""
    steps = np.diff(points, axis=0)
    segment = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    return np.concatenate([segment[:1], 0.5 * (segment[1:] + segment[:-1]), segment[-1:]])


def _curvature(progress: FloatArray, heading: FloatArray) -> FloatArray:
    before = np.maximum(progress - CURVATURE_WINDOW_M, 0.0)
    after = np.minimum(progress + CURVATURE_WINDOW_M, progress[-1])
    turn = np.interp(after, progress, heading) - np.interp(before, progress, heading)
    return turn / np.maximum(after - before, 1e-6)
