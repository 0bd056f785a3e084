"""Argoverse 2's vector map as a nuPlan-style `LaneMap`.

What is the source's: the lanes, their boundaries, paint and links, drivable areas and crossings. What is computed here,
because nuPlan has it and Argoverse 2 does not: roadblocks (parallel lanes of one direction), how a connector turns,
and intersections (the ground that touching connectors cover). There are no speed limits, signals or stop lines, and
none are made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from nsdrive.scenarios.argoverse2.files import polyline, read_json
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.areas import union_of
from nsdrive.world.geometry import resample, wrap_angle
from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, LaneMap
from nsdrive.world.types import FloatArray

CENTERLINE_SPACING_M = 1.0
SAME_DIRECTION_RAD = np.deg2rad(
    45.0
)  # chosen by us: parallel lanes differ by a few degrees, oncoming ones by about 180
TURN_RAD = np.deg2rad(30.0)  # chosen by us: a connector that bends less goes straight on
UTURN_RAD = np.deg2rad(150.0)  # chosen by us
TOUCHING_M = 0.5  # chosen by us: connectors with less between them share an intersection

LANE_TYPES = {"VEHICLE": "vehicle", "BIKE": "bike", "BUS": "bus"}
MARKINGS = {  # every LaneMarkType of the source -> the nearest paint that we know
    "SOLID_WHITE": "solid_white",
    "DOUBLE_SOLID_WHITE": "solid_white",
    "SOLID_DASH_WHITE": "solid_white",
    "DASH_SOLID_WHITE": "solid_white",
    "DASHED_WHITE": "dashed_white",
    "DOUBLE_DASH_WHITE": "dashed_white",
    "SOLID_YELLOW": "solid_yellow",
    "DASHED_YELLOW": "dashed_yellow",
    "DOUBLE_SOLID_YELLOW": "double_yellow",
    "DOUBLE_DASH_YELLOW": "double_yellow",
    "SOLID_DASH_YELLOW": "double_yellow",
    "DASH_SOLID_YELLOW": "double_yellow",
    "SOLID_BLUE": "solid_white",  # we have no blue; a line one should not cross
    "NONE": "none",
    "UNKNOWN": "none",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Segment:
    """One lane segment of the source, geometry checked; `left` and `right` are the neighbours' ids as given."""

    lane: Lane
    left: str | None
    right: str | None


def read_map(path: Path, name: str) -> LaneMap:
    """The `log_map_archive_*.json` at `path` as a `LaneMap`. ScenarioError where it is missing or malformed."""
    content = read_json(path)
    segments = _segments(path, _entries(path, content, "lane_segments"))
    lanes = _with_roadblocks(segments)
    lanes, intersections = _with_intersections(lanes)
    return LaneMap(
        name=name,
        lanes=lanes,
        intersections=intersections,
        crosswalks=_crosswalks(path, _entries(path, content, "pedestrian_crossings", required=False)),
        drivable_area=_drivable_area(path, _entries(path, content, "drivable_areas", required=False)),
    )


def share_on_map(lane_map: LaneMap, points: FloatArray) -> float:
    """The share of points (N, 2) that lie on a drivable area or a lane of the map."""
    ground = [shapely.make_valid(shapely.Polygon(area)) for area in lane_map.drivable_area]
    ground += [_surface(lane) for lane in lane_map.lanes.values()]
    tree = shapely.STRtree(ground)
    inside, _ = tree.query(shapely.points(points), predicate="intersects")
    return len(np.unique(inside)) / len(points)


def _segments(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, _Segment]:
    segments = {}
    for lane_id, entry in entries.items():
        owner = f"lane segment {lane_id}"
        left_boundary = polyline(path, f"{owner} left_lane_boundary", entry.get("left_lane_boundary"))
        right_boundary = polyline(path, f"{owner} right_lane_boundary", entry.get("right_lane_boundary"))
        if entry.get("centerline") is not None:
            centerline = resample(polyline(path, f"{owner} centerline", entry["centerline"]), CENTERLINE_SPACING_M)
        else:
            centerline = midline(left_boundary, right_boundary)
        if _length_m(centerline) < 1e-3:
            raise ScenarioError(f"{path}: {owner} has a centerline without length")
        is_connector = entry.get("is_intersection")
        if not isinstance(is_connector, bool):
            raise ScenarioError(f"{path}: {owner} has is_intersection {is_connector!r}, expected true or false")
        lane_type = LANE_TYPES.get(str(entry.get("lane_type")))
        if lane_type is None:
            known = ", ".join(LANE_TYPES)
            raise ScenarioError(f"{path}: {owner} has lane_type {entry.get('lane_type')!r}, known: {known}")
        lane = Lane(
            lane_id=lane_id,
            roadblock_id="",
            is_connector=is_connector,
            centerline=centerline,
            left_boundary=left_boundary,
            right_boundary=right_boundary,
            speed_limit_mps=None,
            incoming=_links(path, owner, entry, "predecessors", entries),
            outgoing=_links(path, owner, entry, "successors", entries),
            lane_type=lane_type,
            turn=turn_of(centerline) if is_connector else "straight",
            left_marking=MARKINGS.get(str(entry.get("left_lane_mark_type")), "none"),
            right_marking=MARKINGS.get(str(entry.get("right_lane_mark_type")), "none"),
        )
        segments[lane_id] = _Segment(
            lane=lane,
            left=_neighbor(path, owner, entry, "left_neighbor_id"),
            right=_neighbor(path, owner, entry, "right_neighbor_id"),
        )
    if not segments:
        raise ScenarioError(f"{path}: holds no lane segments")
    return _with_both_ends(segments)


def _with_both_ends(segments: Mapping[str, _Segment]) -> dict[str, _Segment]:
    """Segments whose links are known at both of their ends, also where the source lists them at one."""
    incoming = {lane_id: dict.fromkeys(segment.lane.incoming) for lane_id, segment in segments.items()}
    outgoing = {lane_id: dict.fromkeys(segment.lane.outgoing) for lane_id, segment in segments.items()}
    for lane_id, segment in segments.items():
        for other in segment.lane.outgoing:
            incoming[other].setdefault(lane_id)
        for other in segment.lane.incoming:
            outgoing[other].setdefault(lane_id)
    return {
        lane_id: replace(
            segment,
            lane=replace(segment.lane, incoming=tuple(incoming[lane_id]), outgoing=tuple(outgoing[lane_id])),
        )
        for lane_id, segment in segments.items()
    }


def _with_roadblocks(segments: Mapping[str, _Segment]) -> dict[str, Lane]:
    """Lanes that know their roadblock: connected groups of neighbours of one direction, kind and type.

    A roadblock is named after its smallest lane id. A lane's neighbours are those of its roadblock: a bicycle lane or
    an oncoming lane beside it is none.
    """

    def beside(lane: Lane, other_id: str | None) -> str | None:
        other = segments.get(other_id) if other_id is not None else None
        if other is None or other.lane is lane:
            return None
        same_kind = (lane.is_connector, lane.lane_type) == (other.lane.is_connector, other.lane.lane_type)
        return other_id if same_kind and same_direction(lane.centerline, other.lane.centerline) else None

    left = {lane_id: beside(segment.lane, segment.left) for lane_id, segment in segments.items()}
    right = {lane_id: beside(segment.lane, segment.right) for lane_id, segment in segments.items()}
    groups = connected_groups(
        segments, ((lane_id, other) for side in (left, right) for lane_id, other in side.items() if other is not None)
    )
    return {
        lane_id: replace(
            segment.lane,
            roadblock_id=f"rb-{groups[lane_id]}",
            left_neighbor=left[lane_id],
            right_neighbor=right[lane_id],
        )
        for lane_id, segment in segments.items()
    }


def _with_intersections(lanes: Mapping[str, Lane]) -> tuple[dict[str, Lane], dict[str, Intersection]]:
    """Clusters of touching connectors; the polygon is the outline of the ground that they cover together."""
    connector_ids = [lane_id for lane_id, lane in lanes.items() if lane.is_connector]
    surfaces = [shapely.buffer(_surface(lanes[lane_id]), TOUCHING_M / 2) for lane_id in connector_ids]
    pairs = shapely.STRtree(surfaces).query(surfaces, predicate="intersects").T
    groups = connected_groups(connector_ids, ((connector_ids[a], connector_ids[b]) for a, b in pairs.tolist() if a < b))
    members: dict[str, list[int]] = {}
    for row, lane_id in enumerate(connector_ids):
        members.setdefault(groups[lane_id], []).append(row)
    intersections = {}
    for first, rows in members.items():
        covered = union_of([surfaces[row] for row in rows])
        outline = polygons_in(shapely.buffer(covered, -TOUCHING_M / 2)) or polygons_in(covered)
        polygon = np.array(max(outline, key=lambda part: part.area).exterior.coords)[:-1]
        intersections[f"intersection-{first}"] = Intersection(intersection_id=f"intersection-{first}", polygon=polygon)
    lanes = {
        lane_id: replace(lane, intersection_id=f"intersection-{groups[lane_id]}") if lane.is_connector else lane
        for lane_id, lane in lanes.items()
    }
    return lanes, intersections


def _crosswalks(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Crosswalk]:
    """Two edges along the walking direction each -> one ring that does not cross itself."""
    crosswalks = {}
    for crosswalk_id, entry in entries.items():
        edge1 = polyline(path, f"pedestrian crossing {crosswalk_id} edge1", entry.get("edge1"))
        edge2 = polyline(path, f"pedestrian crossing {crosswalk_id} edge2", entry.get("edge2"))
        rings = [np.concatenate([edge1, edge2[::-1]]), np.concatenate([edge1, edge2])]
        simple = [ring for ring in rings if shapely.Polygon(ring).is_valid]
        if simple:
            polygon = simple[0]
        else:
            hull = shapely.convex_hull(shapely.MultiPoint(rings[0]))
            if hull.geom_type != "Polygon":
                raise ScenarioError(f"{path}: pedestrian crossing {crosswalk_id} has no area")
            polygon = np.array(hull.exterior.coords)[:-1]
        crosswalks[crosswalk_id] = Crosswalk(crosswalk_id=crosswalk_id, polygon=polygon)
    return crosswalks


def _drivable_area(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> tuple[FloatArray, ...]:
    areas: list[FloatArray] = []
    for area_id, entry in entries.items():
        ring = polyline(path, f"drivable area {area_id} area_boundary", entry.get("area_boundary"), at_least=3)
        if shapely.Polygon(ring).is_valid:
            areas.append(ring)
        else:
            parts = polygons_in(shapely.make_valid(shapely.Polygon(ring)))
            areas.extend(np.array(part.exterior.coords)[:-1] for part in parts)
    return tuple(areas)


def _entries(
    path: Path, content: Mapping[str, Any], key: str, *, required: bool = True
) -> dict[str, Mapping[str, Any]]:
    """The objects under `key` by their own id, in the order of the ids, so that no result depends on the file's."""
    if key not in content and not required:
        return {}
    group = content.get(key)
    if not isinstance(group, dict) or not all(isinstance(entry, dict) for entry in group.values()):
        raise ScenarioError(f"{path}: '{key}' is missing or not an object of objects")
    entries: dict[str, Mapping[str, Any]] = {}
    for name, entry in group.items():
        entry_id = _id(path, f"{key} {name}", entry.get("id", name))
        if entry_id in entries:
            raise ScenarioError(f"{path}: id {entry_id} appears twice in '{key}'")
        entries[entry_id] = entry
    return dict(sorted(entries.items(), key=lambda item: (len(item[0]), item[0])))


def _id(path: Path, owner: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value):
        raise ScenarioError(f"{path}: {owner} has id {value!r}, expected a number")
    return str(value)


def _links(path: Path, owner: str, entry: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids under `key` that this map holds: a map is cut out of a city, so links at its rim lead nowhere."""
    values = entry.get(key)
    if not isinstance(values, list):
        raise ScenarioError(f"{path}: {owner} has no list of {key}")
    ids = dict.fromkeys(_id(path, f"{owner} {key}", value) for value in values)
    return tuple(link for link in ids if link in known)


def _neighbor(path: Path, owner: str, entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value is None else _id(path, f"{owner} {key}", value)


def connected_groups(members: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Member -> the first member (in the given order) of its connected group."""
    order = {member: place for place, member in enumerate(members)}
    parent = {member: member for member in order}

    def root(member: str) -> str:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for a, b in pairs:
        first, second = sorted((root(a), root(b)), key=order.__getitem__)
        parent[second] = first
    return {member: root(member) for member in order}


def midline(left: FloatArray, right: FloatArray) -> FloatArray:
    """(N, 2) half way between two boundaries at equal shares of their lengths, points at most 1 m apart."""
    lengths_m = _length_m(left), _length_m(right)
    n = max(1, np.ceil(max(lengths_m) / CENTERLINE_SPACING_M))
    return (resample(left, lengths_m[0] / n) + resample(right, lengths_m[1] / n)) / 2


def _length_m(line: FloatArray) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _headings(line: FloatArray) -> FloatArray:
    step = np.diff(line, axis=0)
    return np.unwrap(np.arctan2(step[:, 1], step[:, 0]))


def same_direction(line: FloatArray, other: FloatArray) -> bool:
    """Whether two neighbours run alike at their starts and at their ends: a left turn is no neighbour of going on."""
    gap = _headings(line)[[0, -1]] - _headings(other)[[0, -1]]
    return bool((np.abs(wrap_angle(gap)) < SAME_DIRECTION_RAD).all())


def turn_of(centerline: FloatArray) -> str:
    """How a connector turns, from its heading change between start and end, thresholds above."""
    headings = _headings(centerline)
    change = headings[-1] - headings[0]
    if abs(change) >= UTURN_RAD:
        return "uturn"
    if abs(change) < TURN_RAD:
        return "straight"
    return "left" if change > 0 else "right"


def _surface(lane: Lane) -> Any:
    """The ground between a lane's boundaries."""
    return shapely.make_valid(shapely.Polygon(np.concatenate([lane.left_boundary, lane.right_boundary[::-1]])))


def polygons_in(geometry: Any) -> list[Any]:
    """The polygons in any geometry, also in a mixed collection."""
    if geometry.geom_type == "Polygon":
        return [] if geometry.is_empty else [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in polygons_in(part)]
