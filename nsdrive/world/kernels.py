"""The numba loops behind `nsdrive.world.geometry`: use that module, this one knows only arrays of floats.

points (N, 2) and progress (N,) are a path's; a box is centre x, y, heading, length, width.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SPACING_M = 1.0  # greatest distance between two points of a path, chosen by us; nuPlan baselines are as dense
OUTLINE_STEP_M = 0.5  # box outlines are probed at least this densely, chosen by us: narrower than any tracked object


@njit(cache=True)
def distinct(points, tolerance_m):
    """Indices of the points further than the tolerance from the last kept one; always the first."""
    kept = np.zeros(points.shape[0], dtype=np.bool_)
    last = -1
    for i in range(points.shape[0]):
        if last < 0 or np.hypot(points[i, 0] - points[last, 0], points[i, 1] - points[last, 1]) > tolerance_m:
            kept[i] = True
            last = i
    return np.flatnonzero(kept)


@njit(cache=True)
def project(points, progress, x, y, first, last):
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
def project_all(points, progress, queries):
    out = np.empty((queries.shape[0], 2))
    for k in range(queries.shape[0]):
        out[k, 0], out[k, 1] = project(points, progress, queries[k, 0], queries[k, 1], 0, points.shape[0] - 1)
    return out


@njit(cache=True)
def index_near(progress, at, guess):
    """Index of the last point at or before this progress, -1 before the first: at the guess or soon after it, else searched."""
    if progress[guess] <= at:
        for i in range(guess, min(guess + 4, progress.shape[0] - 1)):
            if at < progress[i + 1]:
                return i
    return np.searchsorted(progress, at, side="right") - 1


@njit(cache=True)
def interpolated(progress, values, at, guess):
    """(value there, index of the last point before): `np.interp` for one number, which looks near the guess first."""
    i = index_near(progress, at, guess)
    if i < 0:
        return values[0], 0
    if i >= progress.shape[0] - 1 or progress[i] == at:
        return values[i], i
    return (values[i + 1] - values[i]) / (progress[i + 1] - progress[i]) * (at - progress[i]) + values[i], i


@njit(cache=True)
def poses_at(points, progress, heading, at):
    out = np.empty((at.shape[0], 3))
    i, last = 0, progress.shape[0] - 1
    for k in range(at.shape[0]):
        s = min(max(at[k], 0.0), progress[last]) if at[k] == at[k] else at[k]
        i = min(max(index_near(progress, s, i), 0), last - 1)
        t = (s - progress[i]) / (progress[i + 1] - progress[i])
        out[k, 0] = points[i, 0] + t * (points[i + 1, 0] - points[i, 0])
        out[k, 1] = points[i, 1] + t * (points[i + 1, 1] - points[i, 1])
        angle = heading[i] + t * (heading[i + 1] - heading[i])
        out[k, 2] = (angle + np.pi) % (2.0 * np.pi) - np.pi
    return out


@njit(cache=True)
def in_polygon(polygon, x, y):
    """Whether (x, y) is inside a polygon (N, 2), closed or not: even-odd rule."""
    inside = False
    for i in range(polygon.shape[0]):
        x0, y0 = polygon[i - 1, 0], polygon[i - 1, 1]
        x1, y1 = polygon[i, 0], polygon[i, 1]
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


@njit(cache=True)
def within(points, progress, begin, stop, first, last, x, y, start, end, half_width):
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
def segments_near(points, begin, stop, box, margin):
    """(first, last) of the segments begin..stop-1 that may matter to a box, (-1, -1) where no point is within the margin of it.

    The segments are those round the points within the margin of the box's circle. Most boxes have none, so that the walk
    along the points leaves out as many as it would take to get there.
    """
    x, y, half_length, half_width = box[0], box[1], 0.5 * box[3], 0.5 * box[4]
    cos, sin = np.cos(box[2]), np.sin(box[2])
    reach = np.sqrt(half_length * half_length + half_width * half_width) + margin
    first, last, touched = -1, -1, False
    i = begin
    while i <= stop:
        ex, ey = points[i, 0] - x, points[i, 1] - y
        missing = np.sqrt(ex * ex + ey * ey) - reach
        if not missing <= 0.0:
            i += max(1, int(min(float(stop), missing / SPACING_M)))
            continue
        first = min(i, stop - 1) if first < 0 else first
        last = i
        ahead = max(0.0, abs(ex * cos + ey * sin) - half_length)
        beside = max(0.0, abs(ey * cos - ex * sin) - half_width)
        touched = touched or ahead * ahead + beside * beside <= margin * margin
        i += 1
    if not touched:
        return -1, -1
    return max(begin, first - 1), min(stop, last + 2)


@njit(cache=True)
def corridor_entries(points, progress, boxes, start, end, half_width):
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
        first, last = segments_near(points, begin, stop, boxes[k], half_width + SPACING_M)
        if first < 0:
            continue
        cos, sin = np.cos(boxes[k, 2]), np.sin(boxes[k, 2])
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
                s = within(
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
                        s_mid = within(
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
def overlap_matrix(boxes, others):
    out = np.zeros((boxes.shape[0], others.shape[0]), dtype=np.bool_)
    for i in range(boxes.shape[0]):
        for j in range(others.shape[0]):
            out[i, j] = overlap_kernel(boxes[i], others[j])
    return out


@njit(cache=True)
def overlap_kernel(a, b):
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
