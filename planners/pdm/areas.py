"""Where on the map the ego is: across several lanes, off the road, off its route, in an intersection.

PDM-Closed asks these questions of every corner of every simulated state (tuplan_garage `pdm_scorer.py`,
`pdm_observation_utils.py`), some 3,000 points a tick. The answers are exact: a point is inside a polygon as GEOS says,
its boundary outside. Each polygon is cut into slabs across its longer side. In most of a slab a comparison tells inside from
outside; only a point beside an edge asks the edges there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import shapely
from numba import njit

from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import FloatArray

MULTIPLE_LANES, NON_DRIVABLE, ONCOMING = range(3)  # last axis of `Areas.ego_areas`
SLAB_M = 1.0  # chosen by us: the edges of nuPlan's polygons are about as long
MARGIN_M = 1e-6  # chosen by us: rounding is a thousandth of it; a point this close to an edge asks the edge
KEPT_SELECTIONS = 8  # chosen by us: a drive needs a new selection of polygons every few seconds


class Packed(NamedTuple):
    """K polygons for the kernels. bounds (K, 4): least x, least y, greatest x, greatest y. swapped (K,): slabs cut across x,
    not y. slabs (K + 1,): where each polygon's slabs start in first (S + 1,), which says where each slab's edges start in
    edges (E, 4): u, v of both ends, u along the slab and v across, as `swapped` says. quick (S, 4): u below the first or
    above the last is outside in that slab, between the second and the third inside, elsewhere the edges say."""

    bounds: FloatArray
    swapped: np.ndarray
    slabs: np.ndarray
    first: np.ndarray
    edges: FloatArray
    quick: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Areas:
    """The drivable polygons near the ego, and the map's intersections. lane_ids: the lane of each, None for a carpark."""

    lane_ids: tuple[str | None, ...]
    drivable: Packed
    intersections: Packed

    @staticmethod
    def near(lane_map: LaneMap, center_m: FloatArray, radius_m: float = 50.0) -> Areas:
        """Lanes and connectors of the roadblocks that meet the square of twice the radius around the ego's centre, and carparks.

        Source: nuPlan's `get_proximal_map_objects` (a square, not a circle), the lanes of a roadblock counting with it.
        A roadblock without a polygon of its own is what its lanes cover. A centre that is not finite has nothing near it.
        """
        return _index(lane_map).near(np.asarray(center_m, dtype=np.float64), float(radius_m))

    def ego_areas(self, corners: FloatArray, centers: FloatArray, route_lane_ids: Collection[str]) -> np.ndarray:
        """(P, T, 3) bool for corners (P, T, 4, 2) and middles (P, T, 2) of the ego.

        MULTIPLE_LANES: its corners touch two polygons or more and no polygon holds all four. NON_DRIVABLE: a corner is in no
        polygon. ONCOMING: the middle is in no lane of the route (what the public code calls oncoming traffic).
        """
        on_route = np.array([lane_id in route_lane_ids for lane_id in self.lane_ids], dtype=np.bool_)
        return _ego_areas(*self.drivable, on_route, np.ascontiguousarray(corners), np.ascontiguousarray(centers))

    def in_intersection(self, points: FloatArray) -> np.ndarray:
        """(...,) bool for points (..., 2 or more): whether an intersection of the map holds x, y."""
        points = np.asarray(points, dtype=np.float64)
        flat = np.ascontiguousarray(points[..., :2]).reshape(-1, 2)
        return _in_any(*self.intersections, flat).reshape(points.shape[:-1])


class _MapIndex:
    """What is looked up per map: the bounds of its roadblocks and carparks; shapes and packed edges only where they were needed."""

    def __init__(self, lane_map: LaneMap) -> None:
        members: dict[str, list[str]] = {}
        for lane_id, lane in lane_map.lanes.items():
            members.setdefault(lane.roadblock_id, []).append(lane_id)
        self._rings = {lane_id: lane.polygon for lane_id, lane in lane_map.lanes.items()}
        blocks = [
            [lane_map.roadblocks[block]] if block in lane_map.roadblocks else [self._rings[lane] for lane in lanes]
            for block, lanes in members.items()
        ]
        self._outlines: list[Sequence[FloatArray]] = [*blocks, *([ring] for ring in lane_map.carparks)]
        self._members = [*members.values(), *([] for _ in lane_map.carparks)]
        self._carparks = [None] * len(members) + list(lane_map.carparks)
        self._bounds = np.array([_bounds(rings) for rings in self._outlines]).reshape(-1, 4)
        self._shapes: dict[int, list[shapely.Geometry]] = {}
        self._kept: OrderedDict[tuple[int, ...], Areas] = OrderedDict()
        self._intersections = _pack([i.polygon for i in lane_map.intersections.values()])

    def near(self, center: FloatArray, radius: float) -> Areas:
        x0, y0, x1, y1 = center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius
        b = self._bounds
        meets = (b[:, 0] <= x1) & (b[:, 2] >= x0) & (b[:, 1] <= y1) & (b[:, 3] >= y0)
        within = (b[:, 0] >= x0) & (b[:, 2] <= x1) & (b[:, 1] >= y0) & (b[:, 3] <= y1)
        unsure = np.flatnonzero(meets & ~within)
        if len(unsure):
            shapes = [(row, shape) for row in unsure for shape in self._shape(int(row))]
            hits = shapely.intersects([shape for _, shape in shapes], shapely.box(x0, y0, x1, y1))
            meets[unsure] = False
            meets[[row for (row, _), hit in zip(shapes, hits, strict=True) if hit]] = True
        rows = tuple(int(row) for row in np.flatnonzero(meets))
        found = self._kept.pop(rows, None) or self._select(rows)
        self._kept[rows] = found
        if len(self._kept) > KEPT_SELECTIONS:
            self._kept.popitem(last=False)
        return found

    def _shape(self, row: int) -> list[shapely.Geometry]:
        if row not in self._shapes:
            polygons = [shapely.Polygon(ring) for ring in self._outlines[row] if _is_area(ring)]
            self._shapes[row] = [p if p.is_valid else shapely.make_valid(p) for p in polygons]
        return self._shapes[row]

    def _select(self, rows: tuple[int, ...]) -> Areas:
        ids: list[str | None] = []
        rings: list[FloatArray] = []
        for row in rows:
            ids += self._members[row]
            rings += [self._rings[lane_id] for lane_id in self._members[row]]
            if (carpark := self._carparks[row]) is not None:
                ids.append(None)
                rings.append(carpark)
        return Areas(lane_ids=tuple(ids), drivable=_pack(rings), intersections=self._intersections)


_INDICES: WeakKeyDictionary[LaneMap, _MapIndex] = WeakKeyDictionary()


def _index(lane_map: LaneMap) -> _MapIndex:
    """Built once per map, forgotten with it."""
    if lane_map not in _INDICES:
        _INDICES[lane_map] = _MapIndex(lane_map)
    return _INDICES[lane_map]


def _is_area(ring: FloatArray) -> bool:
    return len(ring) >= 3 and bool(np.isfinite(ring).all())


def _bounds(rings: Sequence[FloatArray]) -> tuple[float, float, float, float]:
    """Least x, y and greatest x, y; nan, which nothing meets, where there is no area."""
    areas = [np.asarray(ring) for ring in rings if _is_area(ring)]
    if not areas:
        return (np.nan,) * 4
    low, high = np.min([a.min(axis=0) for a in areas], axis=0), np.max([a.max(axis=0) for a in areas], axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _pack(rings: Sequence[FloatArray]) -> Packed:
    """Polygons (N, 2) for the kernels; what is no area keeps its place and holds no point."""
    sound = [np.asarray(ring, dtype=np.float64)[:, :2] if _is_area(ring) else np.empty((0, 2)) for ring in rings]
    points = np.ascontiguousarray(np.concatenate([np.empty((0, 2)), *sound]))
    starts = np.concatenate([[0], np.cumsum([len(ring) for ring in sound])]).astype(np.int64)
    bounds, swapped, slabs, first, edges = _slabs(points, starts)
    quick = _quick(bounds, swapped, slabs, first, edges)
    return Packed(bounds=bounds, swapped=swapped, slabs=slabs, first=first, edges=edges, quick=quick)


@njit(cache=True)
def _slabs(points, starts):
    count = starts.shape[0] - 1
    bounds = np.empty((count, 4))
    swapped = np.zeros(count, dtype=np.bool_)
    slabs = np.zeros(count + 1, dtype=np.int64)
    for k in range(count):
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        for i in range(starts[k], starts[k + 1]):
            x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
            y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
        bounds[k, 0], bounds[k, 1], bounds[k, 2], bounds[k, 3] = x0, y0, x1, y1
        swapped[k] = x1 - x0 > y1 - y0
        extent = max(x1 - x0, y1 - y0)
        edges = starts[k + 1] - starts[k]
        slabs[k + 1] = slabs[k] + (max(1, min(int(extent / SLAB_M), 4 * edges)) if edges > 0 else 0)
    first = np.zeros(slabs[count] + 1, dtype=np.int64)
    edges = np.empty((0, 4))
    filled = np.zeros(slabs[count], dtype=np.int64)
    for fill in range(2):  # first count the edges of each slab, then write them
        if fill:
            for s in range(slabs[count]):
                first[s + 1] += first[s]
            edges = np.empty((first[slabs[count]], 4))
        for k in range(count):
            a, b = (1, 0) if swapped[k] else (0, 1)  # u runs along a slab, v across
            n = slabs[k + 1] - slabs[k]
            for i in range(starts[k], starts[k + 1]):
                j = i + 1 if i + 1 < starts[k + 1] else starts[k]
                u1, v1, u2, v2 = points[i, a], points[i, b], points[j, a], points[j, b]
                s1 = _slab(v1, bounds[k, b], bounds[k, b + 2], n)
                s2 = _slab(v2, bounds[k, b], bounds[k, b + 2], n)
                for s in range(slabs[k] + min(s1, s2), slabs[k] + max(s1, s2) + 1):
                    if fill:
                        e = first[s] + filled[s]
                        edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3] = u1, v1, u2, v2
                        filled[s] += 1
                    else:
                        first[s + 1] += 1
    return bounds, swapped, slabs, first, edges


@njit(cache=True)
def _slab(v, low, high, n):
    """The slab that v is in; never decreases as v grows, so that an edge is in the slab of each of its points."""
    if high <= low:
        return 0
    return min(max(int((v - low) / (high - low) * n), 0), n - 1)


@njit(cache=True)
def _quick(bounds, swapped, slabs, first, edges):
    """(S, 4), see `Packed`. Each slab's edges, clipped to it, block parts of it; what two parts hold between them is uniform."""
    quick = np.empty((first.shape[0] - 1, 4))
    for k in range(bounds.shape[0]):
        low, high = (bounds[k, 0], bounds[k, 2]) if swapped[k] else (bounds[k, 1], bounds[k, 3])
        count = slabs[k + 1] - slabs[k]
        for s in range(slabs[k], slabs[k + 1]):
            bottom = low + (high - low) * (s - slabs[k]) / count - MARGIN_M
            top = low + (high - low) * (s + 1 - slabs[k]) / count + MARGIN_M
            n = first[s + 1] - first[s]
            parts = np.empty((n, 2))
            for i in range(n):
                u1, v1, u2, v2 = edges[first[s] + i]
                if v1 != v2:
                    ta = min(max((bottom - v1) / (v2 - v1), 0.0), 1.0)
                    tb = min(max((top - v1) / (v2 - v1), 0.0), 1.0)
                    u1, u2 = u1 + ta * (u2 - u1), u1 + tb * (u2 - u1)
                j = i
                while j > 0 and parts[j - 1, 0] > min(u1, u2) - MARGIN_M:
                    parts[j] = parts[j - 1]
                    j -= 1
                parts[j, 0], parts[j, 1] = min(u1, u2) - MARGIN_M, max(u1, u2) + MARGIN_M
            groups, a1, b0, end = 0, np.inf, np.inf, -np.inf
            for i in range(n):
                if groups == 0 or parts[i, 0] > end:
                    groups += 1
                    if groups == 2:
                        a1, b0 = end, parts[i, 0]
                end = max(end, parts[i, 1])
            quick[s, 0], quick[s, 1], quick[s, 2], quick[s, 3] = parts[0, 0] if n else np.inf, np.inf, np.inf, end
            if groups == 2 and a1 < b0 and _crossings(first, edges, s, 0.5 * (a1 + b0), 0.5 * (bottom + top)):
                quick[s, 1], quick[s, 2] = a1, b0
    return quick


@njit(cache=True)
def _crossings(first, edges, s, u, v):
    """Whether a ray from the point along its slab crosses an odd number of edges; False on one. GEOS's RayCrossingCounter."""
    inside = False
    for e in range(first[s], first[s + 1]):
        u1, v1, u2, v2 = edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3]
        if u1 < u and u2 < u:
            continue
        if u == u2 and v == v2:
            return False
        if v1 == v and v2 == v:
            if min(u1, u2) <= u <= max(u1, u2):
                return False
        elif (v1 > v) != (v2 > v):
            side = _orientation(u1, v1, u2, v2, u, v)
            if side == 0:
                return False
            if (side > 0) == (v2 > v1):
                inside = not inside
    return inside


@njit(cache=True)
def _orientation(ax, ay, bx, by, px, py):
    """Sign of the turn a, b, p: 1 left, -1 right, 0 on the line. With twice the digits where rounding could decide."""
    left, right = (ax - px) * (by - py), (ay - py) * (bx - px)
    det = left - right
    if abs(det) > 1e-15 * (abs(left) + abs(right)):
        return 1 if det > 0.0 else -1
    lh, ll = _product(*_difference(ax, px), *_difference(by, py))
    rh, rl = _product(*_difference(ay, py), *_difference(bx, px))
    high = lh - rh
    if high == 0.0:
        high = ll - rl
    return 1 if high > 0.0 else (-1 if high < 0.0 else 0)


@njit(cache=True)
def _difference(a, b):
    """a - b as a sum of two floats, exactly (Knuth)."""
    s = a - b
    t = s - a
    return s, (a - (s - t)) - (b + t)


@njit(cache=True)
def _product(ah, al, bh, bl):
    """(ah + al)(bh + bl) as a sum of two floats, to some 100 bits (Dekker)."""
    p = ah * bh
    split = 134217729.0  # 2^27 + 1
    t = split * ah
    a1 = t - (t - ah)
    a2 = ah - a1
    t = split * bh
    b1 = t - (t - bh)
    b2 = bh - b1
    error = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2 + (ah * bl + al * bh)
    high = p + error
    return high, error - (high - p)


@njit(cache=True)
def _near_points(bounds, points):
    """Indices of the polygons whose bounds meet those of (N, 2) points; points that are not numbers are left out."""
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for i in range(points.shape[0]):
        x, y = points[i, 0], points[i, 1]
        if x == x and y == y:
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    found, n = np.empty(bounds.shape[0], dtype=np.int64), 0
    for k in range(bounds.shape[0]):
        if bounds[k, 0] <= x1 and bounds[k, 2] >= x0 and bounds[k, 1] <= y1 and bounds[k, 3] >= y0:
            found[n] = k
            n += 1
    return found[:n]


@njit(cache=True)
def _in_any(bounds, swapped, slabs, first, edges, quick, points):
    """(N,) bool for points (N, 2)."""
    out = np.zeros(points.shape[0], dtype=np.bool_)
    near = _near_points(bounds, points)
    for j in range(near.shape[0]):
        k = near[j]
        across, along = (0, 1) if swapped[k] else (1, 0)
        low, high, base, n = bounds[k, across], bounds[k, across + 2], slabs[k], slabs[k + 1] - slabs[k]
        for i in range(points.shape[0]):
            u, v = points[i, along], points[i, across]
            if out[i] or not low < v < high:
                continue
            s = base + _slab(v, low, high, n)
            if quick[s, 0] <= u <= quick[s, 3]:
                out[i] = quick[s, 1] < u < quick[s, 2] or _crossings(first, edges, s, u, v)
    return out


@njit(cache=True)
def _ego_areas(bounds, swapped, slabs, first, edges, quick, on_route, corners, centers):
    """(P, T, 3). Polygon by polygon along each motion, because what holds at one state mostly holds at the next."""
    count, ticks = corners.shape[0], corners.shape[1]
    out = np.zeros((count, ticks, 3), dtype=np.bool_)
    touched, held = np.empty(ticks, dtype=np.int64), np.empty(ticks, dtype=np.int64)
    whole, route = np.empty(ticks, dtype=np.bool_), np.empty(ticks, dtype=np.bool_)
    for p in range(count):
        near = _near_points(bounds, corners[p].reshape(ticks * 4, 2))
        touched[:], held[:], whole[:], route[:] = 0, 0, False, False
        for j in range(near.shape[0]):
            k = near[j]
            across, along = (0, 1) if swapped[k] else (1, 0)
            low, high, base, n = bounds[k, across], bounds[k, across + 2], slabs[k], slabs[k + 1] - slabs[k]
            for t in range(ticks):
                inside = 0  # a bit for each corner, and one for the middle
                for c in range(5 if on_route[k] and not route[t] else 4):
                    u = corners[p, t, c, along] if c < 4 else centers[p, t, along]
                    v = corners[p, t, c, across] if c < 4 else centers[p, t, across]
                    if not low < v < high:
                        continue
                    # As `_in_any`, spelled out again: a call that hands on six arrays takes longer than the answer.
                    s = base + _slab(v, low, high, n)
                    if quick[s, 0] <= u <= quick[s, 3] and (
                        quick[s, 1] < u < quick[s, 2] or _crossings(first, edges, s, u, v)
                    ):
                        inside |= 1 << c
                if inside:
                    if inside & 15:
                        touched[t] += 1
                    held[t] |= inside & 15
                    whole[t] = whole[t] or inside & 15 == 15
                    route[t] = route[t] or inside > 15
        for t in range(ticks):
            out[p, t, 0] = touched[t] > 1 and not whole[t]
            out[p, t, 1] = held[t] != 15
            out[p, t, 2] = not route[t]
    return out
