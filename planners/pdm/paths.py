"""A path that proposals follow: points with heading and progress, as fast to ask as a loop over arrays can be.

Unlike `nsdrive.world.geometry.Path` it keeps the map's own points, also where two lanes join and a point comes twice:
PDM-Closed's numbers depend on them. Each point carries the heading of the segment that leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from nsdrive.world.types import FloatArray

BLOCK = 16  # points per block of the search for the nearest point, chosen by us
LEAST_PROGRESS_M = 1e-5  # tuplan_garage PDMPath.interpolate: progress is held within [this, length]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposalPath:
    """points (M, 2) global, headings_rad (M,) unwrapped, progress_m (M,) from 0, lane_ids: M, the lane of each point.

    Segments may have length zero; the path as a whole has not. Make one with `ProposalPath.of`.
    """

    points: FloatArray
    headings_rad: FloatArray
    progress_m: FloatArray
    lane_ids: tuple[str, ...]

    @staticmethod
    def of(points: ArrayLike, headings_rad: ArrayLike, lane_ids: Sequence[str]) -> ProposalPath:
        """A path through (M, 2) points with their headings, M >= 2. ValueError where they make no path."""
        xy = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2)
        headings = np.asarray(headings_rad, dtype=np.float64).reshape(-1)
        if len(xy) < 2 or len(headings) != len(xy) or len(lane_ids) != len(xy):
            raise ValueError(
                f"A path needs two or more points with a heading and a lane id each; "
                f"got {len(xy)} points, {len(headings)} headings and {len(lane_ids)} lane ids."
            )
        if not (np.isfinite(xy).all() and np.isfinite(headings).all()):
            raise ValueError("A path needs finite points and headings, got nan or infinity.")
        steps = np.diff(xy, axis=0)
        progress = np.cumsum(np.append(0.0, np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2)))
        if progress[-1] <= LEAST_PROGRESS_M:
            raise ValueError(f"A path needs some length, got {progress[-1]} m over {len(xy)} points.")
        return ProposalPath(points=xy, headings_rad=np.unwrap(headings), progress_m=progress, lane_ids=tuple(lane_ids))

    @property
    def length_m(self) -> float:
        return float(self.progress_m[-1])

    @cached_property
    def blocks(self) -> FloatArray:
        """(B, 3): centre x, y and radius of a circle around each BLOCK segments, for searches."""
        return blocks_of(self.points)

    @cached_property
    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """points, headings, progress and blocks, as the loops over arrays take them."""
        return self.points, self.headings_rad, self.progress_m, self.blocks

    def pose_at(self, progress_m: ArrayLike) -> FloatArray:
        """(3,) for a number, (K, 3) for an array: x, y, heading in [-pi, pi]. Progress is held within [1e-5, length]."""
        at = np.asarray(progress_m, dtype=np.float64)
        poses = poses_at(self.points, self.headings_rad, self.progress_m, np.ascontiguousarray(at.reshape(-1)))
        return poses[0] if at.ndim == 0 else poses

    def project(self, x_m: float, y_m: float) -> float:
        """Progress of the nearest point of the whole path, the first of several."""
        return float(project(self.points, self.progress_m, self.blocks, float(x_m), float(y_m)))

    def project_points(self, points: FloatArray) -> FloatArray:
        """(K,): progress of the nearest path point of each of (K, 2) points."""
        queries = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2)
        return project_all(self.points, self.progress_m, self.blocks, queries)

    def lane_at(self, progress_m: float) -> str:
        """The lane there; where two join, the one that begins."""
        index = int(np.searchsorted(self.progress_m, progress_m, side="right")) - 1
        return self.lane_ids[min(max(index, 0), len(self.lane_ids) - 1)]


def offset(path: ProposalPath, offset_m: float) -> ProposalPath:
    """The path with every point moved sideways by `offset_m`, left positive, across its own heading.

    As in PDM-Closed: headings stay, and points on the inner side of a tight bend may fold back.
    """
    across = path.headings_rad + np.pi / 2.0
    sideways = offset_m * np.stack([np.cos(across), np.sin(across)], axis=-1)
    return ProposalPath.of(path.points + sideways, path.headings_rad, path.lane_ids)


@njit(cache=True)
def pose_into(points, headings, progress, at, out):
    """Pose at a progress into out (3,): linear in x, y and the unwrapped heading, held within the path."""
    last = progress.shape[0] - 1
    s = min(max(at, LEAST_PROGRESS_M), progress[last])
    i = min(max(np.searchsorted(progress, s), 1), last)
    lo, length = i - 1, progress[i] - progress[i - 1]
    if length <= 0.0:  # the progress is not a number, or the path begins with points that are one
        out[0], out[1], heading = points[lo, 0], points[lo, 1], headings[lo]
    else:
        t = s - progress[lo]
        out[0] = (points[i, 0] - points[lo, 0]) / length * t + points[lo, 0]
        out[1] = (points[i, 1] - points[lo, 1]) / length * t + points[lo, 1]
        heading = (headings[i] - headings[lo]) / length * t + headings[lo]
    out[2] = np.arctan2(np.sin(heading), np.cos(heading))


@njit(cache=True)
def poses_at(points, headings, progress, at):
    out = np.empty((at.shape[0], 3))
    for k in range(at.shape[0]):
        pose_into(points, headings, progress, at[k], out[k])
    return out


@njit(cache=True)
def point_segment(px, py, ax, ay, bx, by):
    """Distance from a point to a segment, with JTS/GEOS's arithmetic, so that ties fall as theirs do."""
    if ax == bx and ay == by:
        return np.sqrt((px - ax) ** 2 + (py - ay) ** 2)
    dx, dy = bx - ax, by - ay
    len2 = dx * dx + dy * dy
    r = ((px - ax) * dx + (py - ay) * dy) / len2
    if r <= 0.0:
        return np.sqrt((px - ax) ** 2 + (py - ay) ** 2)
    if r >= 1.0:
        return np.sqrt((px - bx) ** 2 + (py - by) ** 2)
    s = ((ay - py) * dx - (ax - px) * dy) / len2
    return abs(s) * np.sqrt(len2)


@njit(cache=True)
def project(points, progress, blocks, x, y):
    """Progress of the path's point nearest to x, y, the first of several: GEOS's `project`, by blocks."""
    segments, count = points.shape[0] - 1, blocks.shape[0]
    nearest, start = np.inf, 0
    for b in range(count):
        dx, dy = blocks[b, 0] - x, blocks[b, 1] - y
        if dx * dx + dy * dy < nearest:
            nearest, start = dx * dx + dy * dy, b
    best, at = np.inf, 0
    for i in range(start * BLOCK, min(segments, (start + 1) * BLOCK)):
        if _too_far(points, progress, i, x, y, best):
            continue
        d = point_segment(x, y, points[i, 0], points[i, 1], points[i + 1, 0], points[i + 1, 1])
        if d < best:
            best, at = d, i
    for b in range(count):
        dx, dy, reach = blocks[b, 0] - x, blocks[b, 1] - y, best + blocks[b, 2] + 1e-6
        if b == start or dx * dx + dy * dy > reach * reach:
            continue
        for i in range(b * BLOCK, min(segments, (b + 1) * BLOCK)):
            if _too_far(points, progress, i, x, y, best):
                continue
            d = point_segment(x, y, points[i, 0], points[i, 1], points[i + 1, 0], points[i + 1, 1])
            if d < best or (d == best and i < at):
                best, at = d, i
    dx, dy = points[at + 1, 0] - points[at, 0], points[at + 1, 1] - points[at, 1]
    len2 = dx * dx + dy * dy
    if len2 <= 0.0:
        return progress[at]
    r = ((x - points[at, 0]) * dx + (y - points[at, 1]) * dy) / len2
    return progress[at] + min(max(r, 0.0), 1.0) * np.sqrt(len2)


@njit(cache=True)
def _too_far(points, progress, i, x, y, best):
    """Whether the circle around segment i is further than `best` from a point: cheaper than the distance to the segment."""
    dx, dy = 0.5 * (points[i, 0] + points[i + 1, 0]) - x, 0.5 * (points[i, 1] + points[i + 1, 1]) - y
    reach = best + 0.5 * (progress[i + 1] - progress[i]) + 1e-6
    return dx * dx + dy * dy > reach * reach


@njit(cache=True)
def project_all(points, progress, blocks, queries):
    out = np.empty(queries.shape[0])
    for k in range(queries.shape[0]):
        out[k] = project(points, progress, blocks, queries[k, 0], queries[k, 1])
    return out


@njit(cache=True)
def blocks_of(points):
    segments = points.shape[0] - 1
    count = (segments + BLOCK - 1) // BLOCK
    out = np.empty((count, 3))
    for b in range(count):
        first, last = b * BLOCK, min(segments, (b + 1) * BLOCK)
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        for i in range(first, last + 1):
            x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
            y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
        x, y, radius = 0.5 * (x0 + x1), 0.5 * (y0 + y1), 0.0
        for i in range(first, last + 1):
            radius = max(radius, np.sqrt((points[i, 0] - x) ** 2 + (points[i, 1] - y) ** 2))
        out[b, 0], out[b, 1], out[b, 2] = x, y, radius
    return out
