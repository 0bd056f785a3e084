"""Which boxes and polygons reach into the corridor that the ego sweeps along a path: loops over arrays of floats.

The corridor is shapely's buffer of a polyline by half the ego's width, with square ends. Making that polygon costs more than
everything else in a tick, and nearly every object is far inside or far outside of it; so the distance to the polyline
decides, and only who is within a narrow band at its edge is UNSURE and has to be asked of the real polygon. The band covers
what that polygon deviates from the exact one: it simplifies the line, which adds up to 1 % of the half width on the inner
side of bends (GEOS BufferInputLineSimplifier), and draws arcs as 64-gons, which takes away 0.12 % on the outer side.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nsdrive.world.types import INTERVAL_S
from planners.pdm.paths import BLOCK, blocks_of, point_segment, pose_into, project

BAND_IN, BAND_OUT = 0.0013, 0.0103  # shares of the half width: 1 - cos(pi / 64) and 0.01, and a little more
BAND_END_M = 1e-6  # of the square ends, which are exact but for rounding
OUTSIDE, INSIDE, UNSURE = 0, 1, 2


@njit(cache=True)
def survey(path, start, ahead, exact, half_width, corners, velocities, ignored, samples, lights):
    """The corridor from progress `start` on, and what reaches into it.

    path: points, headings, progress, blocks. exact: take the exact piece of the path, see `corridor_line`. corners (N, 4, 2),
    velocities (N, 2), ignored (N,): the objects. samples (S,): steps at which to look. lights: `Forecast.outlines`.
    Returns the piece's line (C, 2), (S, N) int8 of the objects, (L,) int8 and (L,) progress of the lights.
    """
    points, headings, progress, blocks = path
    outlines, edges, begins, middles, lights_ignored = lights
    line = corridor_line(points, headings, progress, start, start + ahead, exact)
    count = middles.shape[0]
    lit, along = np.zeros(count, dtype=np.int8), np.zeros(count)
    if not has_length(line):
        found = np.zeros((samples.shape[0], corners.shape[0]), dtype=np.int8)
        found[:, ~ignored] = UNSURE
        lit[~lights_ignored] = UNSURE
    else:
        pieces = blocks_of(line)
        found = boxes_in_corridor(line, pieces, half_width, corners, velocities, ignored, samples, INTERVAL_S)
        for m in range(count):
            if not lights_ignored[m]:
                of = slice(begins[m], begins[m + 1])
                lit[m] = polygon_in_corridor(line, pieces, half_width, outlines[of], edges[of])
    for m in range(count):
        if lit[m] != OUTSIDE:
            along[m] = project(points, progress, blocks, middles[m, 0], middles[m, 1])
    return line, found, lit, along


@njit(cache=True)
def corridor_line(points, headings, progress, start, end, exact):
    """(C, 2): the piece of the path whose surroundings are the corridor; one point where the path ends.

    In the public code: the path's own points between the two, and only where there is at most one of them the exact piece.
    """
    length = progress[-1]
    start, end = min(max(start, 0.0), length), min(max(end, 0.0), length)
    first, stop = np.searchsorted(progress, start), np.searchsorted(progress, end, side="right")
    if not exact and stop - first > 1:
        return points[first:stop].copy()
    ends = np.empty((2, 3))
    pose_into(points, headings, progress, start, ends[0])
    if not start < end:
        return ends[:1, :2].copy()
    pose_into(points, headings, progress, end, ends[1])
    first, stop = np.searchsorted(progress, start, side="right"), np.searchsorted(progress, end)
    line = np.empty((stop - first + 2, 2))
    line[0], line[1:-1], line[-1] = ends[0, :2], points[first:stop], ends[1, :2]
    return line


@njit(cache=True)
def has_length(line):
    """Whether not all points are one."""
    return bool(np.any(line != line[0]))


@njit(cache=True)
def boxes_in_corridor(line, blocks, half_width, corners, velocities, ignored, steps, interval):
    """(S, N) int8: which boxes, moved on for steps * interval, reach into the corridor around line (C, 2)."""
    count = corners.shape[0]
    found = np.zeros((steps.shape[0], count), dtype=np.int8)
    caps = _caps(line, half_width)
    horizon = steps[-1] * interval
    box = np.empty((4, 2))
    for n in range(count):
        if ignored[n]:
            continue
        cx, cy = _center(corners[n])
        diagonal = _length(corners[n, 0, 0] - cx, corners[n, 0, 1] - cy)
        reach = half_width * 1.5 + diagonal  # 1.5 > sqrt(2): the corners of the square ends
        ex, ey = cx + horizon * velocities[n, 0], cy + horizon * velocities[n, 1]
        first, last = blocks.shape[0], -1
        for b in range(blocks.shape[0]):
            if point_segment(blocks[b, 0], blocks[b, 1], cx, cy, ex, ey) <= blocks[b, 2] + reach:
                first, last = min(first, b), b
        if last < 0:
            continue
        still = velocities[n, 0] == 0.0 and velocities[n, 1] == 0.0
        for s in range(steps.shape[0]):
            if s > 0 and still:
                found[s, n] = found[0, n]
                continue
            elapsed = steps[s] * interval
            for c in range(4):
                box[c, 0] = corners[n, c, 0] + elapsed * velocities[n, 0]
                box[c, 1] = corners[n, c, 1] + elapsed * velocities[n, 1]
            found[s, n] = _box_in_corridor(line, blocks, first, last, caps, half_width, box, diagonal)
    return found


@njit(cache=True)
def polygon_in_corridor(line, blocks, half_width, polygon, edges):
    """int8: whether a polygon (K, 2) with its `edges_of` reaches into the corridor around line (C, 2)."""
    if contains(polygon, line[0, 0], line[0, 1]):
        return INSIDE
    nearest, count, segments = np.inf, polygon.shape[0], line.shape[0] - 1
    within, edge, reach = half_width * (1.0 - BAND_IN), half_width * (1.0 + BAND_OUT), half_width * 1.5
    for b in range(blocks.shape[0]):
        for k in range(count):
            dx, dy, far = blocks[b, 0] - edges[k, 0], blocks[b, 1] - edges[k, 1], blocks[b, 2] + edges[k, 2] + reach
            if dx * dx + dy * dy > far * far:
                continue
            px, py, m = polygon[k, 0], polygon[k, 1], (k + 1) % count
            for i in range(b * BLOCK, min(segments, (b + 1) * BLOCK)):
                dx, dy = line[i, 0] - edges[k, 0], line[i, 1] - edges[k, 1]
                far = abs(line[i + 1, 0] - line[i, 0]) + abs(line[i + 1, 1] - line[i, 1]) + edges[k, 2] + reach
                if dx * dx + dy * dy > far * far:
                    continue
                d = _segments(
                    px, py, polygon[m, 0], polygon[m, 1], line[i, 0], line[i, 1], line[i + 1, 0], line[i + 1, 1]
                )
                nearest = min(nearest, d)
                if nearest <= within:
                    return INSIDE
    found = UNSURE if nearest <= edge else OUTSIDE
    if nearest <= reach:
        caps = _caps(line, half_width)
        for end in range(2):
            d = polygon_distance(caps[end], polygon, edges, np.inf)
            if d == 0.0:
                return INSIDE
            if d <= BAND_END_M:
                found = UNSURE
    return found


@njit(cache=True)
def box_distance(a, b):
    """Distance of two rectangles (4, 2), 0 where they meet."""
    if gap(a, b) <= 0.0:
        return 0.0
    return min(_corners_to_sides(a, b, np.inf), _corners_to_sides(b, a, np.inf))


@njit(cache=True)
def _corners_to_sides(a, b, best):
    """The least distance of a corner of a rectangle (4, 2) to a side of another."""
    for i in range(4):
        j = (i + 1) % 4
        x, y = 0.5 * (b[i, 0] + b[j, 0]), 0.5 * (b[i, 1] + b[j, 1])
        reach = best + _length(b[i, 0] - x, b[i, 1] - y) + 1e-6
        for c in range(4):
            dx, dy = a[c, 0] - x, a[c, 1] - y
            if dx * dx + dy * dy <= reach * reach:
                best = min(best, point_segment(a[c, 0], a[c, 1], b[i, 0], b[i, 1], b[j, 0], b[j, 1]))
    return best


@njit(cache=True)
def box_corners(x, y, heading, half_length, half_width, out):
    """Corners of a box into out (4, 2): front left, rear left, rear right, front right, with nuPlan's arithmetic."""
    cos, sin = np.cos(heading), np.sin(heading)
    cos_left, sin_left = np.cos(heading + np.pi / 2.0), np.sin(heading + np.pi / 2.0)
    for c in range(4):
        lon = half_length if c == 0 or c == 3 else -half_length
        lat = half_width if c < 2 else -half_width
        out[c, 0] = x + (lat * cos_left + lon * cos)
        out[c, 1] = y + (lat * sin_left + lon * sin)


@njit(cache=True)
def polygon_distance(box, polygon, edges, enough):
    """Distance of a rectangle (4, 2) and a polygon (K, 2), 0 where they meet; if above `enough`, anything above it."""
    cx, cy = _center(box)
    radius, count = _length(box[0, 0] - cx, box[0, 1] - cy), polygon.shape[0]
    closest, first = np.inf, 0
    for k in range(count):
        dx, dy = edges[k, 0] - cx, edges[k, 1] - cy
        if dx * dx + dy * dy < closest:
            closest, first = dx * dx + dy * dy, k
    if contains(polygon, cx, cy) or contains(box, polygon[0, 0], polygon[0, 1]):
        return 0.0
    best = np.inf
    for step in range(count):
        k = first + step if first + step < count else first + step - count
        dx, dy, reach = edges[k, 0] - cx, edges[k, 1] - cy, min(best, enough) + radius + edges[k, 2] + 1e-6
        if dx * dx + dy * dy > reach * reach:
            continue
        m = k + 1 if k + 1 < count else 0
        px, py, qx, qy = polygon[k, 0], polygon[k, 1], polygon[m, 0], polygon[m, 1]
        if point_segment(cx, cy, px, py, qx, qy) - radius > min(best, enough) + 1e-6:
            continue
        for i in range(4):
            j = (i + 1) % 4
            best = min(best, _segments(box[i, 0], box[i, 1], box[j, 0], box[j, 1], px, py, qx, qy))
        if best == 0.0:
            return 0.0
    return best


@njit(cache=True)
def edges_of(polygon):
    """(K, 3): middle x, y and half the length of each edge of a polygon (K, 2), its ring not closed twice."""
    count = polygon.shape[0]
    edges = np.empty((count, 3))
    for k in range(count):
        m = (k + 1) % count
        edges[k, 0], edges[k, 1] = 0.5 * (polygon[k, 0] + polygon[m, 0]), 0.5 * (polygon[k, 1] + polygon[m, 1])
        edges[k, 2] = 0.5 * _length(polygon[m, 0] - polygon[k, 0], polygon[m, 1] - polygon[k, 1])
    return edges


@njit(cache=True)
def centroid(polygon):
    """x, y of a polygon (K, 2), its ring not closed twice; of its points where it has no area."""
    ox, oy, twice, x, y = polygon[0, 0], polygon[0, 1], 0.0, 0.0, 0.0
    count = polygon.shape[0]
    for i in range(count):
        j = (i + 1) % count
        ax, ay, bx, by = polygon[i, 0] - ox, polygon[i, 1] - oy, polygon[j, 0] - ox, polygon[j, 1] - oy
        cross = ax * by - bx * ay
        twice += cross
        x += (ax + bx) * cross
        y += (ay + by) * cross
    if abs(twice) < 1e-12:
        return np.mean(polygon[:, 0]), np.mean(polygon[:, 1])
    return ox + x / (3.0 * twice), oy + y / (3.0 * twice)


@njit(cache=True)
def contains(polygon, x, y):
    """Whether a point is inside a polygon (K, 2); on its border either."""
    inside, j = False, polygon.shape[0] - 1
    for i in range(polygon.shape[0]):
        if (polygon[i, 1] > y) != (polygon[j, 1] > y):
            t = (y - polygon[i, 1]) / (polygon[j, 1] - polygon[i, 1])
            if x < polygon[i, 0] + t * (polygon[j, 0] - polygon[i, 0]):
                inside = not inside
        j = i
    return inside


@njit(cache=True)
def _box_in_corridor(line, blocks, first, last, caps, half_width, box, diagonal):
    cx, cy = _center(box)
    ux, uy = 0.5 * (box[0, 0] - box[1, 0]), 0.5 * (box[0, 1] - box[1, 1])  # half the length, forward
    vx, vy = 0.5 * (box[0, 0] - box[3, 0]), 0.5 * (box[0, 1] - box[3, 1])  # half the width, left
    long, wide = _length(ux, uy), _length(vx, vy)
    within, edge = half_width * (1.0 - BAND_IN), half_width * (1.0 + BAND_OUT)
    far = edge + diagonal
    beyond_u, beyond_v = long * (long + edge), wide * (wide + edge)
    segments, nearest = line.shape[0] - 1, np.inf
    for b in range(first, last + 1):
        dx, dy, reach = blocks[b, 0] - cx, blocks[b, 1] - cy, blocks[b, 2] + far
        if dx * dx + dy * dy > reach * reach:
            continue
        for i in range(b * BLOCK, min(segments, (b + 1) * BLOCK)):
            # Both ends of the segment beyond one side of the box by more than the corridor's half: it cannot matter.
            px, py, qx, qy = line[i, 0] - cx, line[i, 1] - cy, line[i + 1, 0] - cx, line[i + 1, 1] - cy
            p, q = px * ux + py * uy, qx * ux + qy * uy
            if (p > beyond_u and q > beyond_u) or (p < -beyond_u and q < -beyond_u):
                continue
            p, q = px * vx + py * vy, qx * vx + qy * vy
            if (p > beyond_v and q > beyond_v) or (p < -beyond_v and q < -beyond_v):
                continue
            d = point_segment(cx, cy, line[i, 0], line[i, 1], line[i + 1, 0], line[i + 1, 1])
            if d <= within + min(long, wide):
                return INSIDE
            if d > far:
                continue
            for c in range(4):
                e = (c + 1) % 4
                d = _segments(
                    box[c, 0], box[c, 1], box[e, 0], box[e, 1], line[i, 0], line[i, 1], line[i + 1, 0], line[i + 1, 1]
                )
                nearest = min(nearest, d)
            if nearest <= within:
                return INSIDE
    found = UNSURE if nearest <= edge else OUTSIDE
    for end in range(2):
        x, y = 0.5 * (caps[end, 1, 0] + caps[end, 3, 0]), 0.5 * (caps[end, 1, 1] + caps[end, 3, 1])
        reach = half_width * 1.2 + diagonal  # 1.2 > sqrt(5) / 2: the half square's own half diagonal
        if (x - cx) ** 2 + (y - cy) ** 2 > reach * reach:
            continue
        apart = gap(box, caps[end])
        if apart < -BAND_END_M:
            return INSIDE
        if apart <= BAND_END_M:
            found = UNSURE
    return found


@njit(cache=True)
def _caps(line, half_width):
    """(2, 4, 2): the squares' halves that a buffer with square ends puts before the start and after the end of a line."""
    caps, last = np.empty((2, 4, 2)), line.shape[0] - 1
    for end in range(2):
        x, y = (line[0, 0], line[0, 1]) if end == 0 else (line[last, 0], line[last, 1])
        dx, dy = 0.0, 0.0
        for i in range(1, last + 1):
            at = i if end == 0 else last - i
            dx, dy = x - line[at, 0], y - line[at, 1]
            if dx != 0.0 or dy != 0.0:
                break
        scale = half_width / max(_length(dx, dy), 1e-12)
        dx, dy = dx * scale, dy * scale
        caps[end, 0, 0], caps[end, 0, 1] = x - dy, y + dx
        caps[end, 1, 0], caps[end, 1, 1] = x + dx - dy, y + dy + dx
        caps[end, 2, 0], caps[end, 2, 1] = x + dx + dy, y + dy - dx
        caps[end, 3, 0], caps[end, 3, 1] = x + dy, y - dx
    return caps


@njit(cache=True)
def gap(a, b):
    """The widest gap between two rectangles (4, 2) along their sides' directions; how deep they overlap, negative, if none."""
    ox, oy = a[0, 0], a[0, 1]
    widest = -np.inf
    for side in range(4):
        if side < 2:
            ux, uy = a[side + 1, 0] - a[side, 0], a[side + 1, 1] - a[side, 1]
        else:
            ux, uy = b[side - 1, 0] - b[side - 2, 0], b[side - 1, 1] - b[side - 2, 1]
        length = _length(ux, uy)
        if length == 0.0:
            continue
        ux, uy = ux / length, uy / length
        a0, a1, b0, b1 = np.inf, -np.inf, np.inf, -np.inf
        for c in range(4):
            d = (a[c, 0] - ox) * ux + (a[c, 1] - oy) * uy
            a0, a1 = min(a0, d), max(a1, d)
            d = (b[c, 0] - ox) * ux + (b[c, 1] - oy) * uy
            b0, b1 = min(b0, d), max(b1, d)
        widest = max(widest, max(b0 - a1, a0 - b1))
    return widest


@njit(cache=True)
def _segments(ax, ay, bx, by, cx, cy, dx, dy):
    """Distance between the segments a-b and c-d, 0 where they cross."""
    rx, ry, sx, sy = bx - ax, by - ay, dx - cx, dy - cy
    cross = rx * sy - ry * sx
    if cross != 0.0:
        t = ((cx - ax) * sy - (cy - ay) * sx) / cross
        u = ((cx - ax) * ry - (cy - ay) * rx) / cross
        if 0.0 <= t <= 1.0 and 0.0 <= u <= 1.0:
            return 0.0
    return min(
        min(point_segment(ax, ay, cx, cy, dx, dy), point_segment(bx, by, cx, cy, dx, dy)),
        min(point_segment(cx, cy, ax, ay, bx, by), point_segment(dx, dy, ax, ay, bx, by)),
    )


@njit(cache=True)
def _center(box):
    return 0.5 * (box[0, 0] + box[2, 0]), 0.5 * (box[0, 1] + box[2, 1])


@njit(cache=True)
def _length(x, y):
    return np.sqrt(x * x + y * y)
