"""A lane map as a GeoPackage that nuPlan's own code opens: `<maps>/<name>/<version>/map.gpkg`.

    fids = write_map(lane_map, path)
    fids.lanes["main-f0-0"]          # 1001, the row of that lane in lanes_polygons
    fids.route(scenario.route_roadblock_ids)

A frame that is in no projection is laid into UTM zone 11 at ORIGIN_UTM_M, so that a reader who projects back finds its
coordinates plus that offset. What the layers and columns mean, and which ones nuPlan reads, was measured with
nuplan-devkit v1.2; columns that it never reads hold a neutral value.

Lanes and lane connectors alternate in nuPlan, a connector has exactly one lane before and one behind it, and a roadblock
connector one roadblock before and behind it. `nsdrive.scenarios.nuplan.alternate` brings other maps into that shape.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from nsdrive.scenarios.nuplan.write_gpkg import Row, write_geopackage
from nsdrive.world.areas import union_of
from nsdrive.world.lane_map import Lane, LaneMap, Signal
from nsdrive.world.types import FloatArray

EPSG = 32611  # UTM zone 11 north, that of nuPlan's Las Vegas
# Where our (0, 0) lies, if the map is in no projection of its own. Chosen by us: in Las Vegas, and a multiple of the renderer's
# PATTERN_M, so that the ground looks the same in both frames.
ORIGIN_UTM_M = (665_600.0, 3_998_720.0)
MAX_NODE_GAP_M = 1.0  # nuPlan matches routes by distance to a baseline's nodes
FIRST_LANE, FIRST_BLOCK, FIRST_SIGNAL = 1001, 100001, 120001  # chosen by us
STOP_DEPTH_M = 1.0  # chosen by us: a stop polygon reaches from its line, the edge that traffic meets first, this far
STOP_TYPES = {"crosswalk": 0, "stop_sign": 1, "traffic_light": 2, "yield": 4}
TURN_TYPES = {"straight": 0, "left": 1, "right": 2, "uturn": 3}
INTERSECTION_TYPES = {"default": 0, "traffic_light": 1, "stop_sign": 2}


@dataclass(frozen=True, kw_only=True)
class MapFids:
    """Our ids -> nuPlan's integer ids. blocks: (roadblock, roadblock before, roadblock behind); both None for a roadblock
    of lanes."""

    lanes: Mapping[str, int]  # lanes and connectors
    blocks: Mapping[tuple[str, str | None, str | None], int]

    def route(self, roadblock_ids: Sequence[str]) -> tuple[int, ...]:
        """Roadblocks and roadblock connectors in driving order; what the map does not have is left out."""
        found = []
        for k, block in enumerate(roadblock_ids):
            before = roadblock_ids[k - 1] if k else None
            behind = roadblock_ids[k + 1] if k + 1 < len(roadblock_ids) else None
            fits = [
                fid
                for (name, a, b), fid in self.blocks.items()
                if name == block and (a is None or before in (None, a)) and (b is None or behind in (None, b))
            ]
            found += fits[:1]
        return tuple(found)


def write_map(
    lane_map: LaneMap,
    path: Path,
    *,
    epsg: int = EPSG,
    origin_m: tuple[float, float] = ORIGIN_UTM_M,
    about: Mapping[str, str] | None = None,
) -> MapFids:
    """Write the GeoPackage, complete or not at all. ValueError where the map is not of nuPlan's shape.

    epsg: the projection to lay the map into; its coordinates are the map's plus origin_m. about: further rows of its
    table meta.
    """
    fids = number(lane_map)
    write_geopackage(path, layer_rows(lane_map, fids), epsg=epsg, origin_m=origin_m, more_meta=about)
    return fids


def number(lane_map: LaneMap) -> MapFids:
    """Integer ids: our own where they are such already, else in the map's order, in which nuPlan's code lists lanes too."""
    keys = list(dict.fromkeys(block_key(lane_map, lane) for lane in lane_map.lanes.values()))
    blocks = _numbered([name for name, _, _ in keys], FIRST_BLOCK)
    return MapFids(
        lanes=dict(zip(lane_map.lanes, _numbered(list(lane_map.lanes), FIRST_LANE), strict=True)),
        blocks=dict(zip(keys, blocks, strict=True)),
    )


def _numbered(names: Sequence[str], first: int) -> list[int]:
    numbers = {int(name) for name in names if name.isdecimal() and name == str(int(name))}
    return [int(name) for name in names] if len(numbers) == len(names) else [first + k for k in range(len(names))]


def block_key(lane_map: LaneMap, lane: Lane) -> tuple[str, str | None, str | None]:
    """Key in `MapFids.blocks`. ValueError for a connector without exactly one lane at each end."""
    if not lane.is_connector:
        wrong = [n for n in (*lane.incoming, *lane.outgoing) if not lane_map.lanes[n].is_connector]
        if wrong:
            raise ValueError(
                f"Lane {lane.lane_id} joins lane {wrong[0]} directly; nuPlan has a connector between two lanes."
            )
        return lane.roadblock_id, None, None
    ends = [*lane.incoming, *lane.outgoing]
    if len(lane.incoming) != 1 or len(lane.outgoing) != 1 or any(lane_map.lanes[n].is_connector for n in ends):
        raise ValueError(
            f"Connector {lane.lane_id} comes from {len(lane.incoming)} and leads to {len(lane.outgoing)} lanes; "
            "in nuPlan it is one lane each."
        )
    before, behind = (lane_map.lanes[n].roadblock_id for n in ends)
    return lane.roadblock_id, before, behind


# ---- rows ---------------------------------------------------------------------------------------------------------


def layer_rows(lane_map: LaneMap, fids: MapFids) -> Mapping[str, list[Row]]:
    """Every layer's rows. Polygons that touch themselves are mended, gaps between baseline nodes filled."""
    lanes = lane_map.lanes
    intersections = {name: 50001 + k for k, name in enumerate(lane_map.intersections)}
    stops = {name: 80001 + k for k, name in enumerate(lane_map.stop_lines)}
    bulbs: dict[str, list[int]] = {}
    for k, signal in enumerate(lane_map.signals):
        for connector in signal.connector_ids:
            bulbs.setdefault(connector, []).append(FIRST_SIGNAL + k)
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    index = _lane_indices(lane_map)
    groups: dict[int, list[str]] = {}
    for lane_id, lane in lanes.items():
        fid, block = fids.lanes[lane_id], fids.blocks[block_key(lane_map, lane)]
        groups.setdefault(block, []).append(lane_id)
        path = shapely.LineString(dense(lane.centerline))
        sides = []
        for k, (line, marking) in enumerate(
            ((lane.left_boundary, lane.left_marking), (lane.right_boundary, lane.right_marking))
        ):
            sides.append(2 * fid + k)
            rows["boundaries"].append((sides[k], shapely.LineString(line), {"boundary_type_fid": _boundary(marking)}))
        named = {"creator_id": lane_id, "left_boundary_fid": sides[0], "right_boundary_fid": sides[1]}
        which = "lane_connector_fid" if lane.is_connector else "lane_fid"
        rows["baseline_paths"].append((fid, path, {which: fid}))
        if lane.is_connector:
            before, behind = lanes[lane.incoming[0]], lanes[lane.outgoing[0]]
            lights = [stops[n] for n in lane.stop_line_ids if lane_map.stop_lines[n].kind == "traffic_light"]
            rows["lane_connectors"].append(
                (
                    fid,
                    path,
                    {
                        "exit_lane_fid": fids.lanes[before.lane_id],
                        "exit_lane_group_fid": fids.blocks[block_key(lane_map, before)],
                        "entry_lane_fid": fids.lanes[behind.lane_id],
                        "entry_lane_group_fid": fids.blocks[block_key(lane_map, behind)],
                        "lane_group_connector_fid": block,
                        "intersection_fid": intersections.get(lane.intersection_id or "", 0),
                        "turn_type_fid": TURN_TYPES.get(lane.turn, 4),
                        "bulb_fids": _listed(bulbs.get(lane_id, ())),
                        "traffic_light_stop_line_fids": _listed(lights),
                        "creator_id": lane_id,
                        "speed_limit_mps": lane.speed_limit_mps,
                    },
                )
            )
            named = named | {"lane_connector_fid": fid, "baseline_path_fid": fid}
            del named["creator_id"]
            rows["gen_lane_connectors_scaled_width_polygons"].append((fid, _area(lane), named))
        else:
            named = named | {
                "lane_group_fid": block,
                "lane_fid": fid,
                "lane_index": index[lane_id],
                "lane_type_fid": int(lane.lane_type == "bike"),
                "speed_limit_mps": lane.speed_limit_mps,
            }
            rows["lanes_polygons"].append((fid, _area(lane), named))
    for (name, from_block, to_block), block in fids.blocks.items():
        members = sorted(groups[block], key=index.__getitem__)
        area = _union([_area(lanes[lane_id]) for lane_id in members], lane_map.roadblocks.get(name))
        outer = {
            "creator_id": name,
            "left_boundary_fid": 2 * fids.lanes[members[0]],
            "right_boundary_fid": 2 * fids.lanes[members[-1]] + 1,
        }
        if from_block is None or to_block is None:
            rows["lane_groups_polygons"].append((block, area, outer))
        else:
            ends = {
                "from_lane_group_fid": fids.blocks[from_block, None, None],
                "to_lane_group_fid": fids.blocks[to_block, None, None],
                "intersection_fid": intersections.get(lanes[members[0]].intersection_id or "", 0),
            }
            rows["lane_group_connectors"].append((block, area, outer | ends))
    for name, crossing in lane_map.intersections.items():
        kind = INTERSECTION_TYPES.get(crossing.kind, 0)
        rows["intersections"].append(
            (intersections[name], _polygon(crossing.polygon), {"creator_id": name, "intersection_type_fid": kind})
        )
    _add_stops(rows, lane_map, fids, stops)
    known = {crossing.polygon.tobytes() for crossing in lane_map.intersections.values()}
    plain = (
        ("road_segments", 110001, [p for p in lane_map.drivable_area if np.asarray(p).tobytes() not in known]),
        ("carpark_areas", 150001, lane_map.carparks),
        ("walkways", 140001, lane_map.walkways),
    )
    for layer, first, polygons in plain:
        rows[layer] = [(first + k, _polygon(p), {}) for k, p in enumerate(polygons)]
    rows["crosswalks"] = [
        (90001 + k, _polygon(walk.polygon), {"creator_id": name, "is_marked": 1})
        for k, (name, walk) in enumerate(lane_map.crosswalks.items())
    ]
    rows["traffic_lights"] = [
        (FIRST_SIGNAL + k, _head(signal), {"ori_mean_yaw": signal.heading_rad, "creator_id": signal.signal_id})
        for k, signal in enumerate(lane_map.signals)
    ]
    return rows


def _add_stops(rows: defaultdict[str, list[Row]], lane_map: LaneMap, fids: MapFids, stops: Mapping[str, int]) -> None:
    """A stop polygon per stop line: the strip behind it, as seen by the traffic it is for."""
    for name, stop in lane_map.stop_lines.items():
        held = [lane for lane in lane_map.lanes.values() if name in lane.stop_line_ids]
        left, right = np.asarray(stop.line, dtype=float)
        across = (right - left) / np.hypot(*(right - left))
        along = np.array([-across[1], across[0]])  # a driver sees the line from its left to its right end
        corners = [left, right, right + STOP_DEPTH_M * along, left + STOP_DEPTH_M * along]
        before = [lane.incoming[0] if lane.is_connector else lane.lane_id for lane in held]
        columns = {
            "stop_polygon_type_fid": STOP_TYPES.get(stop.kind, 5),
            "lane_group_fid": fids.blocks[block_key(lane_map, lane_map.lanes[before[0]])] if before else 0,
            "lane_fids": _listed(dict.fromkeys(fids.lanes[n] for n in before)),
            "lane_connector_fids": _listed(fids.lanes[lane.lane_id] for lane in held if lane.is_connector),
            "creator_id": name,
        }
        rows["stop_polygons"].append((stops[name], _polygon(np.array(corners)), columns))


def _lane_indices(lane_map: LaneMap) -> dict[str, int]:
    """Position in the roadblock from the left. Lanes that are not neighbours are not given neighbouring numbers."""
    found: dict[str, int] = {}
    used: dict[str, int] = {}
    lanes = lane_map.lanes
    for start in lanes.values():
        left = lanes.get(start.left_neighbor or "")
        if start.lane_id in found or (left is not None and left.roadblock_id == start.roadblock_id):
            continue
        at: Lane | None = start
        k = used.get(start.roadblock_id, -2) + 2
        while at is not None and at.roadblock_id == start.roadblock_id and at.lane_id not in found:
            found[at.lane_id] = used[start.roadblock_id] = k
            at, k = lanes.get(at.right_neighbor or ""), k + 1
    for lane in lanes.values():  # neighbours in a circle: any order will do
        if lane.lane_id not in found:
            found[lane.lane_id] = used[lane.roadblock_id] = used.get(lane.roadblock_id, -2) + 2
    return found


# ---- geometry -----------------------------------------------------------------------------------------------------


def dense(line: FloatArray, gap_m: float = MAX_NODE_GAP_M) -> FloatArray:
    """(N, 2): the line's points without repetitions, and between them more, so that no two are further apart than gap_m."""
    points = np.asarray(line, dtype=float)
    steps = np.hypot(*np.diff(points, axis=0).T)
    points = points[np.concatenate([[True], steps > 1e-6])]
    if len(points) < 2:
        raise ValueError("A lane's centerline has no length; nuPlan's code cannot read it.")
    steps = np.hypot(*np.diff(points, axis=0).T)
    pieces = [
        a + (b - a) * np.arange(n)[:, None] / n
        for a, b, n in zip(points[:-1], points[1:], np.ceil(steps / gap_m - 1e-9).astype(int), strict=True)
    ]
    return np.concatenate([*pieces, points[-1:]])


def _head(signal: Signal) -> Any:
    """Where the light hangs: at the end of the mast arm, to the left of the pole."""
    x = signal.x_m - signal.arm_m * math.sin(signal.heading_rad)
    return shapely.Point(x, signal.y_m + signal.arm_m * math.cos(signal.heading_rad))


def _area(lane: Lane) -> Any:
    return _polygon(lane.polygon)


def _polygon(ring: FloatArray) -> Any:
    polygon = shapely.Polygon(ring)
    return polygon if polygon.is_valid else _one(shapely.make_valid(polygon))


def _union(areas: Sequence[Any], given: FloatArray | None) -> Any:
    """A roadblock's polygon: the source's own, or the union of its lanes, with gaps of up to 10 cm closed."""
    if given is not None:
        return _polygon(given)
    area = union_of(areas)
    if area.geom_type != "Polygon":
        area = area.buffer(0.05, join_style="mitre").buffer(-0.05, join_style="mitre")
    return _one(area)


def _one(area: Any) -> Any:
    """The largest polygon of a geometry."""
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon"]
    return max(parts, key=lambda part: part.area)


def _boundary(marking: str) -> int:
    return 0 if marking.startswith("dashed") else 3 if marking == "none" else 2


def _listed(fids: Iterable[int]) -> str:
    return ",".join(str(fid) for fid in fids)
