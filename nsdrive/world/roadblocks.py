"""The graph of roadblocks of a lane map: which lanes they hold, which follow which, where they are. Built once per map.

A roadblock without lanes is not in it. Order matters, because searches take the first of several: lanes stand as in
`LaneMap.lanes`, roadblocks as in `LaneMap.roadblocks` where it has them, the driving lanes' before the connectors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import shapely

from nsdrive.world.areas import union_of
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Roadblocks:
    """lanes, outgoing, incoming: by roadblock id. connectors: the ids of roadblock connectors."""

    lanes: dict[str, tuple[str, ...]]
    outgoing: dict[str, tuple[str, ...]]
    incoming: dict[str, tuple[str, ...]]
    connectors: frozenset[str]
    areas: np.ndarray  # shapely geometries, one per roadblock in the order of `lanes`
    lengths_m: dict[str, float] = field(default_factory=dict)  # of lanes' centerlines

    def length_m(self, lane_id: str) -> float:
        return self.lengths_m[lane_id]

    def polygon(self, block: str) -> shapely.Geometry:
        return self.areas[self._index(block)]

    def within(self, x_m: float, y_m: float, radius_m: float) -> list[str]:
        """Roadblocks, then roadblock connectors, that reach into the square of this half side around a point."""
        patch = shapely.box(x_m - radius_m, y_m - radius_m, x_m + radius_m, y_m + radius_m)
        found = [block for block, hit in zip(self.lanes, shapely.intersects(self.areas, patch), strict=True) if hit]
        return self._driving_first(found)

    def nearest(self, x_m: float, y_m: float) -> list[str]:
        """The nearest roadblock and the nearest roadblock connector."""
        distances = np.nan_to_num(shapely.distance(self.areas, shapely.Point(x_m, y_m)), nan=np.inf)
        found = []
        for connectors in (False, True):
            of_kind = [(distances[i], i) for i, b in enumerate(self.lanes) if (b in self.connectors) == connectors]
            if of_kind:
                found.append(tuple(self.lanes)[min(of_kind)[1]])
        return found

    def search(self, start: str, targets: Sequence[str], depth: int, *, forward: bool = True) -> list[str] | None:
        """Breadth first from a roadblock to the first of the targets, both included, in the order of the search.

        None if there is no way of at most `depth` roadblocks. Of several roadblocks that lead to the same one at the same
        depth the last met counts, as in the public code, which keeps no book of where it has been: `first` and `last` are
        the orders in which it would meet a level's roadblocks for the first and for the last time.
        """
        edges, wanted = (self.outgoing if forward else self.incoming), frozenset(targets)
        first, last = [start], [start]
        parents: list[dict[str, str]] = []
        while first and len(parents) < depth:
            goal = next((block for block in first if block in wanted), None)
            if goal is not None:
                way = [goal]
                for level in reversed(parents):
                    way.append(level[way[-1]])
                return way[::-1]
            parents.append({following: block for block in last for following in edges[block]})
            first = list(dict.fromkeys(following for block in first for following in edges[block]))
            met = [following for block in last for following in edges[block]]
            last = list(dict.fromkeys(reversed(met)))[::-1]
        return None

    def _index(self, block: str) -> int:
        return list(self.lanes).index(block)

    def _driving_first(self, found: list[str]) -> list[str]:
        return [b for b in found if b not in self.connectors] + [b for b in found if b in self.connectors]


def headings_of(line: FloatArray) -> FloatArray:
    """(N,) heading from each point of a polyline (N, 2) to its next, the last one's as the one before: nuPlan's."""
    steps = np.diff(line, axis=0)
    angles = np.arctan2(steps[:, 1], steps[:, 0])
    return np.append(angles, angles[-1:] if len(angles) else 0.0)


_GRAPHS: WeakKeyDictionary[LaneMap, Roadblocks] = WeakKeyDictionary()


def roadblocks_of(lane_map: LaneMap) -> Roadblocks:
    """The map's roadblock graph, forgotten with the map."""
    if lane_map not in _GRAPHS:
        _GRAPHS[lane_map] = _build(lane_map)
    return _GRAPHS[lane_map]


def _build(lane_map: LaneMap) -> Roadblocks:
    members: dict[str, list[str]] = {block: [] for block in lane_map.roadblocks}
    for lane_id, lane in lane_map.lanes.items():
        members.setdefault(lane.roadblock_id, []).append(lane_id)
    lanes = {block: tuple(ids) for block, ids in members.items() if ids}
    rank = {block: i for i, block in enumerate(lanes)}
    outgoing: dict[str, set[str]] = {block: set() for block in lanes}
    incoming: dict[str, set[str]] = {block: set() for block in lanes}
    for lane in lane_map.lanes.values():
        for following in lane.outgoing:
            other = lane_map.lanes.get(following)
            if other is not None and other.roadblock_id != lane.roadblock_id:
                outgoing[lane.roadblock_id].add(other.roadblock_id)
                incoming[other.roadblock_id].add(lane.roadblock_id)
    areas = []
    for block, ids in lanes.items():
        given = lane_map.roadblocks.get(block)
        rings = [lane_map.lanes[i].polygon for i in ids] if given is None or len(given) < 3 else [given]
        shapes = [shapely.make_valid(shapely.Polygon(np.asarray(r)[:, :2])) for r in rings if len(r) >= 3]
        areas.append(shapes[0] if len(shapes) == 1 else union_of(shapes))
    return Roadblocks(
        lanes=lanes,
        outgoing={block: tuple(sorted(found, key=rank.__getitem__)) for block, found in outgoing.items()},
        incoming={block: tuple(sorted(found, key=rank.__getitem__)) for block, found in incoming.items()},
        connectors=frozenset(b for b, ids in lanes.items() if lane_map.lanes[ids[0]].is_connector),
        areas=np.array(areas, dtype=object),
        lengths_m={i: _length_m(np.asarray(lane.centerline, np.float64)) for i, lane in lane_map.lanes.items()},
    )


def _length_m(line: FloatArray) -> float:
    steps = np.diff(line[:, :2], axis=0)
    return float(np.cumsum(np.append(0.0, np.sqrt(steps[:, 0] ** 2 + steps[:, 1] ** 2)))[-1])
