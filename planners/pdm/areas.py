"""Where on the map the ego is: across several lanes, off the road, off its route, in an intersection.

PDM-Closed asks these questions of every corner of every simulated state (tuplan_garage `pdm_scorer.py`,
`pdm_observation_utils.py`), some 3,000 points a tick. The answers are exact: a point is inside a polygon as GEOS says,
its boundary outside. Each polygon's edges are sorted into slabs across its longer side, so that a point meets a handful.
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
KEPT_SELECTIONS = 8  # chosen by us: a drive needs a new selection of polygons every few seconds


class Packed(NamedTuple):
    """K polygons for the kernels. bounds (K, 4): least x, least y, greatest x, greatest y. swapped (K,): slabs cut across x,
    not y. slabs (K + 1,): where each polygon's slabs start in first (S + 1,), which says where each slab's edges start in
    edges (E, 4): u, v of both ends, u along the slab and v across, as `swapped` says."""

    bounds: FloatArray
    swapped: np.ndarray
    slabs: np.ndarray
    first: np.ndarray
    edges: FloatArray


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
        return _ego_areas(self.drivable, on_route, np.ascontiguousarray(corners), np.ascontiguousarray(centers))

    def in_intersection(self, points: FloatArray) -> np.ndarray:
        """(...,) bool for points (..., 2 or more): whether an intersection of the map holds x, y."""
        points = np.asarray(points, dtype=np.float64)
        flat = np.ascontiguousarray(points[..., :2]).reshape(-1, 2)
        return _in_any(self.intersections, flat).reshape(points.shape[:-1])


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
            square = shapely.box(x0, y0, x1, y1)
            for row in unsure:
                meets[row] = bool(np.any(shapely.intersects(self._shape(int(row)), square)))
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
    return Packed(*_slabs(points, starts))


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
def contains(packed, k, x, y):
    """Whether polygon k holds the point in its inside. Even-odd, by crossings of a ray, as GEOS's RayCrossingCounter."""
    bounds = packed.bounds
    if not (bounds[k, 0] < x < bounds[k, 2] and bounds[k, 1] < y < bounds[k, 3]):  # false for nan, too
        return False
    u, v, low, high = (y, x, bounds[k, 0], bounds[k, 2]) if packed.swapped[k] else (x, y, bounds[k, 1], bounds[k, 3])
    s = packed.slabs[k] + _slab(v, low, high, packed.slabs[k + 1] - packed.slabs[k])
    inside = False
    for e in range(packed.first[s], packed.first[s + 1]):
        u1, v1, u2, v2 = packed.edges[e, 0], packed.edges[e, 1], packed.edges[e, 2], packed.edges[e, 3]
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
def _near_points(packed, x0, y0, x1, y1):
    """Indices of the polygons whose bounds meet a rectangle."""
    bounds = packed.bounds
    found = np.empty(bounds.shape[0], dtype=np.int64)
    n = 0
    for k in range(bounds.shape[0]):
        if bounds[k, 0] < x1 and bounds[k, 2] > x0 and bounds[k, 1] < y1 and bounds[k, 3] > y0:
            found[n] = k
            n += 1
    return found[:n]


@njit(cache=True)
def _spread(points):
    """Bounds of (N, 2) points, those that are not numbers left out."""
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for i in range(points.shape[0]):
        x, y = points[i, 0], points[i, 1]
        if x < x0:
            x0 = x
        if x > x1:
            x1 = x
        if y < y0:
            y0 = y
        if y > y1:
            y1 = y
    return x0, y0, x1, y1


@njit(cache=True)
def _in_any(packed, points):
    out = np.zeros(points.shape[0], dtype=np.bool_)
    x0, y0, x1, y1 = _spread(points)
    near = _near_points(packed, x0 - 1e-6, y0 - 1e-6, x1 + 1e-6, y1 + 1e-6)
    for i in range(points.shape[0]):
        for k in near:
            if contains(packed, k, points[i, 0], points[i, 1]):
                out[i] = True
                break
    return out


@njit(cache=True)
def _ego_areas(packed, on_route, corners, centers):
    count, ticks = corners.shape[0], corners.shape[1]
    out = np.zeros((count, ticks, 3), dtype=np.bool_)
    x0, y0, x1, y1 = _spread(corners.reshape(count * ticks * 4, 2))
    near = _near_points(packed, x0 - 1e-6, y0 - 1e-6, x1 + 1e-6, y1 + 1e-6)
    held = np.zeros(4, dtype=np.bool_)
    for p in range(count):
        for t in range(ticks):
            box = corners[p, t]
            bx0, by0, bx1, by1 = _spread(box)
            touched, whole, route = 0, False, False
            held[:] = False
            for k in near:
                bounds = packed.bounds
                if bounds[k, 0] > bx1 or bounds[k, 2] < bx0 or bounds[k, 1] > by1 or bounds[k, 3] < by0:
                    continue
                inside = 0
                for c in range(4):
                    if contains(packed, k, box[c, 0], box[c, 1]):
                        held[c] = True
                        inside += 1
                touched += inside > 0
                whole = whole or inside == 4
                if on_route[k] and not route:
                    route = contains(packed, k, centers[p, t, 0], centers[p, t, 1])
            out[p, t, 0] = touched > 1 and not whole
            out[p, t, 1] = not (held[0] and held[1] and held[2] and held[3])
            out[p, t, 2] = not route
    return out
