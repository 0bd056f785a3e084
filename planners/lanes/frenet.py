"""Tracked objects in the coordinates of a path: how far along it they are, how far beside it, and when they are in the way.

placed = place(chain.path, objects)
placed.progress_m[3], placed.offset_m[3]   # 61.2, -3.4: 61 m along, in the lane to the right
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.geometry import Path
from nsdrive.world.types import FloatArray, ObjectFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """N objects beside a path. progress_m, offset_m (N,): of the box's centre. half_along_m, half_across_m (N,): what the box
    reaches along and across the path. along_mps, across_mps (N,): its velocity, across positive to the left. aligned (N,): cosine
    of its heading against the path's. beyond (N,) bool: before the path's start or after its end."""

    ids: tuple[str, ...]
    kinds: np.ndarray
    heights_m: FloatArray
    progress_m: FloatArray
    offset_m: FloatArray
    half_along_m: FloatArray
    half_across_m: FloatArray
    along_mps: FloatArray
    across_mps: FloatArray
    aligned: FloatArray
    beyond: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rear_m(self) -> FloatArray:
        """(N,): progress of the part nearest to the path's start."""
        return self.progress_m - self.half_along_m

    @property
    def front_m(self) -> FloatArray:
        """(N,): progress of the part nearest to the path's end."""
        return self.progress_m + self.half_along_m


def place(path: Path, objects: ObjectFrame) -> Placed:
    """The objects in the path's coordinates."""
    table = _place(path.points, path.progress_m, objects.boxes, objects.velocities_mps)
    return Placed(
        ids=objects.ids,
        kinds=objects.kinds,
        heights_m=objects.heights_m,
        progress_m=table[:, 0],
        offset_m=table[:, 1],
        half_along_m=table[:, 2],
        half_across_m=table[:, 3],
        along_mps=table[:, 4],
        across_mps=table[:, 5],
        aligned=table[:, 6],
        beyond=table[:, 7] > 0.0,
    )


def entries(
    points: FloatArray,
    progress_m: FloatArray,
    boxes: FloatArray,
    velocities_mps: FloatArray,
    accels_mps2: FloatArray,
    half_width_m: float,
    *,
    samples: int,
    interval_s: float,
    bends: tuple[np.ndarray, FloatArray] | None = None,
) -> FloatArray:
    """When and where objects are on a path, each moving on at constant velocity: (4, K, N) entry, middle, speed
    and how hard it brakes now.

    bends: who moves otherwise: (N,) index of each object among those, -1 for the rest, and their poses (K, M, 3).

    points (M, 2) and progress_m (M,) of the path; boxes (N, 5); K samples, `interval_s` apart, the first now. entry: progress of
    the object's nearest part, inf where it is further than `half_width_m` beside the path; middle: of its centre; speed: along
    the path there. A box counts by what it reaches along and across the path at its centre, a little more than its outline in
    a bend.
    """
    turns = (np.full(len(boxes), -1), np.zeros((samples, 0, 3))) if bends is None else bends
    return _entries(points, progress_m, boxes, velocities_mps, accels_mps2, half_width_m, samples, interval_s, *turns)


@njit(cache=True)
def _foot(points, progress, x, y, first, last):
    """(segment, progress, offset, beyond) of the nearest point on segments first..last-1."""
    best, at, s, d, beyond = np.inf, first, 0.0, 0.0, 1.0
    for i in range(first, last):
        ax, ay = points[i, 0], points[i, 1]
        dx, dy = points[i + 1, 0] - ax, points[i + 1, 1] - ay
        length = progress[i + 1] - progress[i]
        t = ((x - ax) * dx + (y - ay) * dy) / (length * length)
        inside = min(1.0, max(0.0, t))
        ex, ey = x - ax - inside * dx, y - ay - inside * dy
        distance2 = ex * ex + ey * ey
        if distance2 < best:
            best, at = distance2, i
            cross = (dx * (y - ay) - dy * (x - ax)) / length
            out = (t < 0.0 and i == 0) or (t > 1.0 and i == points.shape[0] - 2)
            # beyond an end the path is thought to go straight on
            s = progress[i] + (t if out else inside) * length
            d = cross if out else np.copysign(np.sqrt(distance2), cross)
            beyond = 1.0 if out else 0.0
    return at, s, d, beyond


@njit(cache=True)
def _foot_near(points, progress, x, y, start):
    """As `_foot`, from a segment near the answer: downhill until it gets no better for five segments."""
    last = points.shape[0] - 1
    low, high = max(0, start - 5), min(last, start + 6)
    while True:
        at, s, d, beyond = _foot(points, progress, x, y, low, high)
        if at == low and low > 0:
            low = max(0, low - 8)
        elif at == high - 1 and high < last:
            high = min(last, high + 8)
        else:
            return at, s, d, beyond


@njit(cache=True)
def _reach(points, at, heading, length, width):
    """(half along, half across, cosine, direction cosine and sine) of a box at a segment of the path."""
    dx, dy = points[at + 1, 0] - points[at, 0], points[at + 1, 1] - points[at, 1]
    norm = np.sqrt(dx * dx + dy * dy)
    ux, uy = dx / norm, dy / norm
    cos = np.cos(heading) * ux + np.sin(heading) * uy
    sin = np.sin(heading) * ux - np.cos(heading) * uy
    along = 0.5 * (length * abs(cos) + width * abs(sin))
    across = 0.5 * (length * abs(sin) + width * abs(cos))
    return along, across, cos, ux, uy


STRIDE = 8  # points from one coarse look to the next, at most this many metres


@njit(cache=True)
def _foot_anywhere(points, progress, x, y):
    """As `_foot` over the whole path: only where every eighth point is near enough to be worth a look."""
    last = points.shape[0] - 1
    nearest = np.inf
    for i in range(0, last + 1, STRIDE):
        nearest = min(nearest, np.hypot(points[i, 0] - x, points[i, 1] - y))
    best, best_at, best_s, best_d, best_beyond = np.inf, 0, 0.0, 0.0, 1.0
    for i in range(0, last + 1, STRIDE):
        end = min(i + STRIDE, last)
        reach = nearest + progress[end] - progress[i]
        if end > i and np.hypot(points[i, 0] - x, points[i, 1] - y) <= reach + 1e-6:
            at, s, d, beyond = _foot(points, progress, x, y, i, end)
            px, py = points[at, 0], points[at, 1]
            length = progress[at + 1] - progress[at]
            t = min(1.0, max(0.0, (s - progress[at]) / length))
            px, py = px + t * (points[at + 1, 0] - px), py + t * (points[at + 1, 1] - py)
            distance = np.hypot(px - x, py - y)
            if distance < best:
                best, best_at, best_s, best_d, best_beyond = distance, at, s, d, beyond
    return best_at, best_s, best_d, best_beyond


@njit(cache=True)
def _place(points, progress, boxes, velocities):
    out = np.empty((boxes.shape[0], 8))
    for k in range(boxes.shape[0]):
        at, s, d, beyond = _foot_anywhere(points, progress, boxes[k, 0], boxes[k, 1])
        along, across, cos, ux, uy = _reach(points, at, boxes[k, 2], boxes[k, 3], boxes[k, 4])
        vx, vy = velocities[k, 0], velocities[k, 1]
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = s, d, along, across
        out[k, 4], out[k, 5], out[k, 6], out[k, 7] = vx * ux + vy * uy, vy * ux - vx * uy, cos, beyond
    return out


@njit(cache=True)
def _entries(points, progress, boxes, velocities, accels, half_width, samples, interval, bend_of, bends):
    count = boxes.shape[0]
    out = np.zeros((4, samples, count))
    entry, middle, speed = out[0], out[1], out[2]
    entry[:] = np.inf
    out[3] = np.maximum(0.0, -accels)
    last = points.shape[0] - 1
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for i in range(last + 1):
        x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
        y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
    horizon = (samples - 1) * interval
    for k in range(count):
        x, y, vx, vy = boxes[k, 0], boxes[k, 1], velocities[k, 0], velocities[k, 1]
        heading, speed_k, bend = boxes[k, 2], np.sqrt(vx * vx + vy * vy), bend_of[k]
        reach = half_width + 0.5 * (boxes[k, 3] + boxes[k, 4])
        if bend < 0:
            if min(x, x + horizon * vx) > x1 + reach or max(x, x + horizon * vx) < x0 - reach:
                continue
            if min(y, y + horizon * vy) > y1 + reach or max(y, y + horizon * vy) < y0 - reach:
                continue
        standing = vx * vx + vy * vy < 1e-4
        at, s, d, _ = _foot(points, progress, x, y, 0, last)
        if abs(d) - reach > horizon * speed_k:
            continue  # cannot get to the path in time
        for t in range(samples):
            if t > 0:
                if standing:
                    entry[t, k], middle[t, k], speed[t, k] = entry[0, k], middle[0, k], speed[0, k]
                    continue
                if bend < 0:
                    there_x, there_y = x + t * interval * vx, y + t * interval * vy
                else:
                    there_x, there_y, heading = bends[t, bend, 0], bends[t, bend, 1], bends[t, bend, 2]
                    vx, vy = speed_k * np.cos(heading), speed_k * np.sin(heading)
                at, s, d, _ = _foot_near(points, progress, there_x, there_y, at)
            along, across, _, ux, uy = _reach(points, at, heading, boxes[k, 3], boxes[k, 4])
            if abs(d) - across < half_width and -along < s < progress[last] + along:
                entry[t, k] = s - along
            middle[t, k] = s
            speed[t, k] = vx * ux + vy * uy
    return out
