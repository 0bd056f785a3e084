"""Plane geometry that everything else stands on: frames, boxes, polylines, and `Path`, the line that the ego follows.

A box is five numbers: centre x, y, heading, length, width. A pose is x, y, heading. Metres and radians, global frame
unless a name says otherwise. The inner loops are numba kernels, so that a planner can ask thousands of times a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from nsdrive.world.types import FloatArray

SPACING_M = 1.0  # greatest distance between two points of a Path, chosen by us; nuPlan's baselines are as dense
# Curvature is the heading change over +-4 m, chosen by us: digitising noise fades, a turn of 8 m radius keeps its peak.
CURVATURE_WINDOW_M = 4.0
OUTLINE_STEP_M = 0.5  # box outlines are probed at least this densely, chosen by us: narrower than any tracked object


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
        keep = _distinct(raw, 1e-3)
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
        return _project(self.points, self.progress_m, float(x_m), float(y_m), first, last)

    def project_points(self, points: FloatArray) -> FloatArray:
        """(M, 2): progress and lateral offset of each of (M, 2) points."""
        return _project_all(self.points, self.progress_m, np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2))

    def pose_at(self, progress_m: ArrayLike) -> FloatArray:
        """(3,) for a number, (M, 3) for an array: x, y, heading in (-pi, pi]. Progress is held within [0, length]."""
        at = np.asarray(progress_m, dtype=np.float64)
        poses = _poses_at(self.points, self.progress_m, self.heading_rad, at.reshape(-1))
        return poses[0] if at.ndim == 0 else poses

    def index_at(self, progress_m: float) -> int:
        """Index of the last point at or before this progress."""
        return int(np.clip(np.searchsorted(self.progress_m, progress_m, side="right") - 1, 0, len(self.points) - 1))

    def lane_at(self, progress_m: float) -> str | None:
        return self.lane_ids[self.index_at(progress_m)]

    def speed_limit_at(self, progress_m: float) -> float:
        """Speed limit there, nan where unknown."""
        return float(self.speed_limit_mps[self.index_at(progress_m)])

    def curvature_at(self, progress_m: ArrayLike) -> FloatArray:
        return np.interp(progress_m, self.progress_m, self.curvature_1pm)


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
    return _corridor_entries(path.points, path.progress_m, boxes, start, end, float(half_width_m))


def boxes_overlap(boxes: FloatArray, others: FloatArray) -> np.ndarray:
    """(N, M) bool: which of (N, 5) boxes overlaps which of (M, 5) others. Exact (separating axes), touching counts not."""
    return _overlap_matrix(
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
    polyline = polyline[_distinct(polyline, 1e-3)]
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


def _distinct(points: FloatArray, tolerance_m: float) -> np.ndarray:
    """Indices of points further than the tolerance from the last kept one; always the first."""
    kept = [0] if len(points) else []
    for i in range(1, len(points)):
        if np.hypot(*(points[i] - points[kept[-1]])) > tolerance_m:
            kept.append(i)
    return np.array(kept, dtype=int)


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


@njit(cache=True)
def _project(points, progress, x, y, first, last):  # type: ignore[no-untyped-def]
    best, best_s, best_d = np.inf, 0.0, 0.0
    for i in range(first, last):
        ax, ay = points[i, 0], points[i, 1]
        dx, dy = points[i + 1, 0] - ax, points[i + 1, 1] - ay
        length = progress[i + 1] - progress[i]
        t = ((x - ax) * dx + (y - ay) * dy) / (length * length)
        inside = min(1.0, max(0.0, t))
        ex, ey = x - ax - inside * dx, y - ay - inside * dy
        distance2 = ex * ex + ey * ey
        if distance2 < best:
            best = distance2
            best_s = progress[i] + inside * length
            cross = (dx * (y - ay) - dy * (x - ax)) / length
            beyond = (t < 0.0 and i == 0) or (t > 1.0 and i == points.shape[0] - 2)
            best_d = cross if beyond else np.copysign(np.sqrt(distance2), cross)
    return best_s, best_d


@njit(cache=True)
def _project_all(points, progress, queries):  # type: ignore[no-untyped-def]
    out = np.empty((queries.shape[0], 2))
    for k in range(queries.shape[0]):
        out[k, 0], out[k, 1] = _project(points, progress, queries[k, 0], queries[k, 1], 0, points.shape[0] - 1)
    return out


@njit(cache=True)
def _poses_at(points, progress, heading, at):  # type: ignore[no-untyped-def]
    out = np.empty((at.shape[0], 3))
    last = progress.shape[0] - 1
    for k in range(at.shape[0]):
        s = min(max(at[k], 0.0), progress[last]) if at[k] == at[k] else at[k]
        i = min(max(np.searchsorted(progress, s, side="right") - 1, 0), last - 1)
        t = (s - progress[i]) / (progress[i + 1] - progress[i])
        out[k, 0] = points[i, 0] + t * (points[i + 1, 0] - points[i, 0])
        out[k, 1] = points[i, 1] + t * (points[i + 1, 1] - points[i, 1])
        angle = heading[i] + t * (heading[i + 1] - heading[i])
        out[k, 2] = (angle + np.pi) % (2.0 * np.pi) - np.pi
    return out


@njit(cache=True)
def _within(points, progress, begin, stop, first, last, x, y, start, end, half_width):  # type: ignore[no-untyped-def]
    """Progress of (x, y) if it is inside the corridor, else inf. Looks at segments first..last-1 of begin..stop-1."""
    best, best_s = half_width * half_width, np.inf
    for i in range(first, last):
        ax, ay = points[i, 0], points[i, 1]
        dx, dy = points[i + 1, 0] - ax, points[i + 1, 1] - ay
        length = progress[i + 1] - progress[i]
        t = ((x - ax) * dx + (y - ay) * dy) / (length * length)
        inside = t if (i == begin and t < 0.0) or (i == stop - 1 and t > 1.0) else min(1.0, max(0.0, t))
        ex, ey = x - ax - inside * dx, y - ay - inside * dy
        distance2 = ex * ex + ey * ey
        if distance2 <= best:
            best, best_s = distance2, progress[i] + inside * length
    return best_s if start <= best_s <= end else np.inf


@njit(cache=True)
def _corridor_entries(points, progress, boxes, start, end, half_width):  # type: ignore[no-untyped-def]
    n_points = points.shape[0]
    begin = min(max(np.searchsorted(progress, start, side="right") - 1, 0), n_points - 2)
    stop = min(max(np.searchsorted(progress, end, side="left"), begin + 1), n_points - 1)
    out = np.full(boxes.shape[0], np.inf)
    corners = np.empty((5, 2))
    step = min(OUTLINE_STEP_M, max(0.05, half_width))
    t_start = (start - progress[begin]) / (progress[begin + 1] - progress[begin])
    from_x = points[begin, 0] + t_start * (points[begin + 1, 0] - points[begin, 0])
    from_y = points[begin, 1] + t_start * (points[begin + 1, 1] - points[begin, 1])
    for k in range(boxes.shape[0]):
        x, y, length, width = boxes[k, 0], boxes[k, 1], boxes[k, 3], boxes[k, 4]
        cos, sin = np.cos(boxes[k, 2]), np.sin(boxes[k, 2])
        # Which segments are near enough to matter at all: most boxes have none.
        reach = 0.5 * np.sqrt(length * length + width * width) + half_width + SPACING_M
        first, last = -1, -1
        for i in range(begin, stop):
            ex, ey = points[i, 0] - x, points[i, 1] - y
            if ex * ex + ey * ey <= reach * reach:
                if first < 0:
                    first = i
                last = i + 1
        ex, ey = points[stop, 0] - x, points[stop, 1] - y
        if ex * ex + ey * ey <= reach * reach:
            if first < 0:
                first = stop - 1
            last = stop
        if first < 0:
            continue
        first, last = max(begin, first - 1), min(stop, last + 1)
        ex, ey = from_x - x, from_y - y
        if abs(ex * cos + ey * sin) <= 0.5 * length and abs(ey * cos - ex * sin) <= 0.5 * width:
            out[k] = start  # the corridor begins inside the box
            continue
        for c in range(5):
            a = 0.5 * length if (c == 0 or c >= 3) else -0.5 * length
            b = 0.5 * width if (c <= 1 or c == 4) else -0.5 * width
            corners[c, 0], corners[c, 1] = x + a * cos - b * sin, y + a * sin + b * cos
        entry = np.inf
        for c in range(4):
            px, py = corners[c, 0], corners[c, 1]
            qx, qy = corners[c + 1, 0], corners[c + 1, 1]
            side = np.sqrt((qx - px) ** 2 + (qy - py) ** 2)
            count = max(1, int(np.ceil(side / step)))
            s_before = np.inf
            for j in range(count + 1):
                t = j / count
                s = _within(
                    points,
                    progress,
                    begin,
                    stop,
                    first,
                    last,
                    px + t * (qx - px),
                    py + t * (qy - py),
                    start,
                    end,
                    half_width,
                )
                if j > 0 and (s == np.inf) != (s_before == np.inf):
                    # The outline crosses the corridor's edge between two probes: find where.
                    t_in, t_out = (t, t - 1.0 / count) if s < np.inf else (t - 1.0 / count, t)
                    for _ in range(9):  # 0.5 m / 2^9 = 1 mm
                        mid = 0.5 * (t_in + t_out)
                        s_mid = _within(
                            points,
                            progress,
                            begin,
                            stop,
                            first,
                            last,
                            px + mid * (qx - px),
                            py + mid * (qy - py),
                            start,
                            end,
                            half_width,
                        )
                        if s_mid < np.inf:
                            t_in = mid
                            entry = min(entry, s_mid)
                        else:
                            t_out = mid
                entry = min(entry, s)
                s_before = s
        out[k] = max(entry, start)
    return out


@njit(cache=True)
def _overlap_matrix(boxes, others):  # type: ignore[no-untyped-def]
    out = np.zeros((boxes.shape[0], others.shape[0]), dtype=np.bool_)
    for i in range(boxes.shape[0]):
        for j in range(others.shape[0]):
            out[i, j] = overlap_kernel(boxes[i], others[j])
    return out


@njit(cache=True)
def overlap_kernel(a, b):  # type: ignore[no-untyped-def]
    """Whether two boxes (5,) overlap: for use inside other kernels."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    reach = 0.5 * (np.sqrt(a[3] * a[3] + a[4] * a[4]) + np.sqrt(b[3] * b[3] + b[4] * b[4]))
    if dx * dx + dy * dy >= reach * reach:
        return False
    cos_a, sin_a, cos_b, sin_b = np.cos(a[2]), np.sin(a[2]), np.cos(b[2]), np.sin(b[2])
    cos, sin = abs(cos_a * cos_b + sin_a * sin_b), abs(sin_b * cos_a - cos_b * sin_a)
    la, wa, lb, wb = 0.5 * a[3], 0.5 * a[4], 0.5 * b[3], 0.5 * b[4]
    if abs(dx * cos_a + dy * sin_a) >= la + lb * cos + wb * sin:
        return False
    if abs(dy * cos_a - dx * sin_a) >= wa + lb * sin + wb * cos:
        return False
    if abs(dx * cos_b + dy * sin_b) >= lb + la * cos + wa * sin:
        return False
    return abs(dy * cos_b - dx * sin_b) < wb + la * sin + wa * cos
