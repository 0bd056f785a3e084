"""nuPlan's map around a scenario as a `LaneMap`: the official geometry, links, groups and order.

    lane_map = read_map(path, "us-nv-las-vegas-strip", bounds_m, route_roadblock_ids)

A city has some 4,600 lanes; read are the lanes whose roadblock comes near the scenario or is on its route, always whole
roadblocks. Links that lead out of what was read are cut. Polylines and polygons are those of the official API to the
last bit; lanes are in the order of their ids, lanes first, which is the official order inside every roadblock.

Ours, because the source does not tell it: how a connector turns (from its geometry), neighbours of connectors (those
of the lanes they join), the ends of a stop line (the edge of the stop polygon that traffic meets first), and the white
of the paint. The source does not tell either which way a signal faces: it faces the connectors that it is for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from nsdrive.scenarios.nuplan.geopackage import Feature, GeoPackage, fids_in, outline, rings
from nsdrive.scenarios.nuplan.stops import (
    StopPolygon,
    read_signals,
    read_stop_polygons,
    read_stop_signs,
    stop_lines,
    stop_lines_of,
    surface_of,
)
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, LaneMap
from nsdrive.world.types import FloatArray

MAPS_JSON = "nuplan-maps-v1.0.json"
LANES, CONNECTORS = "lanes_polygons", "lane_connectors"
CONNECTOR_AREAS = "gen_lane_connectors_scaled_width_polygons"
ROADBLOCKS, ROADBLOCK_CONNECTORS = "lane_groups_polygons", "lane_group_connectors"
NEEDED = (LANES, CONNECTORS, CONNECTOR_AREAS, ROADBLOCKS, ROADBLOCK_CONNECTORS, "baseline_paths", "boundaries")
DRIVABLE = ("road_segments", "generic_drivable_areas")  # with intersections and carparks, as write_map.py has it

INTERSECTION_KINDS = {1: "traffic_light", 2: "stop_sign"}  # maps_datatypes.IntersectionType; the rest is "default"
MARKINGS = {0: "dashed_white", 2: "solid_white"}  # boundary_type_fid; 3 is none or unknown; colours are not told
LANE_TYPES = {1: "bike"}  # lane_type_fid
TURN_RAD = np.deg2rad(30.0)  # chosen by us, as for Argoverse 2: a connector that bends less goes straight on
UTURN_RAD = np.deg2rad(150.0)  # chosen by us


def read_map(path: Path, name: str, bounds_m: FloatArray | None, route_roadblock_ids: Sequence[str]) -> LaneMap:
    """The part of a map within `bounds_m` (min x, min y, max x, max y), and the route's roadblocks; None: all of it.

    ScenarioError, one line, where the file is missing, cut off, broken, or holds no lane there.
    """
    package = GeoPackage.open(path)
    missing = [layer for layer in NEEDED if not package.has(layer)]
    if missing:
        raise ScenarioError(f"{path}: lacks the layer{'s' * (len(missing) > 1)} {', '.join(missing)}")
    chosen = _choose(package, bounds_m, route_roadblock_ids)
    if not chosen.lanes:
        where = "at all" if bounds_m is None else "within x, y = {:.0f}, {:.0f} to {:.0f}, {:.0f}".format(*bounds_m)
        raise ScenarioError(f"{path}: holds no lane {where}")

    def near(layer: str, columns: tuple[str, ...] = (), more: Iterable[int] = ()) -> dict[int, Feature]:
        fids = package.all_fids(layer) if bounds_m is None else package.fids_within(layer, bounds_m)
        return package.rows(layer, [*fids, *more], columns)

    listed = [fid for row in chosen.connectors.values() for fid in fids_in(row["traffic_light_stop_line_fids"])]
    stops = read_stop_polygons(near("stop_polygons", ("stop_polygon_type_fid", "lane_connector_fids"), listed))
    crossed = {row["intersection_fid"] for row in chosen.connectors.values()} - {None}
    intersections = near("intersections", ("intersection_type_fid",), crossed)
    connectors, connectors_of_light = _read_connectors(package, chosen, stops, intersections)
    lanes = _with_neighbors(_linked(_read_lanes(package, chosen) | connectors), chosen)
    carparks = [ring for row in near("carpark_areas").values() for ring in rings(row.geometry)]
    drivable_area = [ring for layer in DRIVABLE for row in near(layer).values() for ring in rings(row.geometry)]
    drivable_area += [ring for row in intersections.values() for ring in rings(row.geometry)] + carparks
    surface, lines = surface_of(drivable_area), stop_lines(stops, lanes)
    return LaneMap(
        name=f"nuplan-{name}",
        lanes=lanes,
        intersections={
            str(fid): Intersection(
                intersection_id=str(fid),
                polygon=outline(row.geometry),
                kind=INTERSECTION_KINDS.get(row.columns["intersection_type_fid"], "default"),
            )
            for fid, row in intersections.items()
        },
        crosswalks={
            str(fid): Crosswalk(crosswalk_id=str(fid), polygon=outline(row.geometry))
            for fid, row in near("crosswalks").items()
        },
        stop_lines=lines,
        signals=read_signals(near("traffic_lights"), connectors_of_light, lanes, surface),
        stop_signs=read_stop_signs(lines.values(), surface),
        drivable_area=tuple(drivable_area),
        walkways=tuple(ring for row in near("walkways").values() for ring in rings(row.geometry)),
        carparks=tuple(carparks),
        roadblocks={
            str(fid): outline(row.geometry)
            for layer, fids in ((ROADBLOCKS, chosen.roadblocks), (ROADBLOCK_CONNECTORS, chosen.roadblock_connectors))
            for fid, row in package.rows(layer, fids).items()
        },
    )


def find_map(map_name: str, maps_path: str | None, log: Path) -> Path:
    """The map.gpkg of a log's map: below `maps_path`, else $NUPLAN_MAPS_ROOT, else a folder `maps` above the log.

    ScenarioError, one line that says where it looked.
    """
    name = map_name.removesuffix(".gpkg")
    looked: list[str] = []
    for root in _map_roots(maps_path, log):
        looked.append(str(root))
        folder = root / name
        if not folder.is_dir():
            continue
        version = _version(root / MAPS_JSON, name)
        if version is not None and (folder / version / "map.gpkg").is_file():
            return folder / version / "map.gpkg"
        versions = sorted(folder.glob("*/map.gpkg"))
        if len(versions) == 1:
            return versions[0]
        if versions:
            known = ", ".join(file.parent.name for file in versions)
            raise ScenarioError(f"{folder}: has several versions ({known}) and {MAPS_JSON} does not name one of them")
    raise ScenarioError(f"{log}: no map {name!r} (<maps>/{name}/<version>/map.gpkg); looked in {', '.join(looked)}")


def _map_roots(maps_path: str | None, log: Path) -> list[Path]:
    if maps_path is not None:
        return [Path(maps_path).expanduser().absolute()]
    roots = [Path(os.environ["NUPLAN_MAPS_ROOT"]).expanduser().absolute()] if os.environ.get("NUPLAN_MAPS_ROOT") else []
    return roots + [folder / "maps" for folder in list(log.absolute().parents)[:5]]


def _version(path: Path, name: str) -> str | None:
    try:
        entry = json.loads(path.read_bytes())[name]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(entry)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Chosen:
    """What of the map is read: rows of the lanes and connectors by id, in order, and the ids of their groups."""

    lanes: Mapping[int, Mapping[str, Any]]
    connectors: Mapping[int, Mapping[str, Any]]
    roadblocks: frozenset[int]
    roadblock_connectors: frozenset[int]


def _choose(package: GeoPackage, bounds_m: FloatArray | None, route: Sequence[str]) -> _Chosen:
    """Whole roadblocks: those with a lane near the scenario, those of the route, and their connectors."""
    lanes = package.table(
        LANES,
        ("lane_group_fid", "lane_index", "lane_type_fid", "left_boundary_fid", "right_boundary_fid", "speed_limit_mps"),
    )
    connectors = package.table(
        CONNECTORS,
        (
            "lane_group_connector_fid",
            "exit_lane_fid",
            "entry_lane_fid",
            "intersection_fid",
            "bulb_fids",
            "traffic_light_stop_line_fids",
            "speed_limit_mps",
        ),
    )
    on_route = {int(block) for block in route if block.isdecimal()}
    if bounds_m is None:
        near_lanes, near_connectors = list(lanes), list(connectors)
    else:
        near_lanes = package.fids_within(LANES, bounds_m)
        near_connectors = package.fids_within(CONNECTORS, bounds_m)
    roadblocks = {lanes[fid]["lane_group_fid"] for fid in near_lanes if fid in lanes}
    roadblocks |= on_route & {row["lane_group_fid"] for row in lanes.values()}
    groups = {connectors[fid]["lane_group_connector_fid"] for fid in near_connectors if fid in connectors}
    groups |= on_route & {row["lane_group_connector_fid"] for row in connectors.values()}
    return _Chosen(
        lanes={fid: row for fid, row in lanes.items() if row["lane_group_fid"] in roadblocks},
        connectors={fid: row for fid, row in connectors.items() if row["lane_group_connector_fid"] in groups},
        roadblocks=frozenset(roadblocks - {None}),
        roadblock_connectors=frozenset(groups - {None}),
    )


def _read_lanes(package: GeoPackage, chosen: _Chosen) -> dict[str, Lane]:
    areas = package.rows(LANES, chosen.lanes)
    baselines = _baselines(package, "lane_fid", chosen.lanes)
    edges = _boundaries(package, chosen.lanes.values())
    lanes = {}
    for fid, row in chosen.lanes.items():
        centerline = baselines[fid]
        left, right = (_boundary(package, fid, row[f"{side}_boundary_fid"], edges) for side in ("left", "right"))
        lanes[str(fid)] = Lane(
            lane_id=str(fid),
            roadblock_id=str(row["lane_group_fid"]),
            is_connector=False,
            centerline=centerline,
            left_boundary=_along(centerline, shapely.get_coordinates(left.geometry)),
            right_boundary=_along(centerline, shapely.get_coordinates(right.geometry)),
            speed_limit_mps=_speed(row["speed_limit_mps"]),
            lane_type=LANE_TYPES.get(row["lane_type_fid"], "vehicle"),
            left_marking=MARKINGS.get(left.columns["boundary_type_fid"], "none"),
            right_marking=MARKINGS.get(right.columns["boundary_type_fid"], "none"),
            area=outline(areas[fid].geometry),
        )
    return lanes


def _read_connectors(
    package: GeoPackage,
    chosen: _Chosen,
    stops: Mapping[str, StopPolygon],
    intersections: Mapping[int, Feature],
) -> tuple[dict[str, Lane], dict[int, list[str]]]:
    """The connectors, and for each light (fid) the connectors that it is for."""
    area_of = {
        row["lane_connector_fid"]: (fid, row)
        for fid, row in package.table(
            CONNECTOR_AREAS, ("lane_connector_fid", "left_boundary_fid", "right_boundary_fid")
        ).items()
        if row["lane_connector_fid"] in chosen.connectors
    }
    areas = package.rows(CONNECTOR_AREAS, [fid for fid, _ in area_of.values()])
    baselines = _baselines(package, "lane_connector_fid", chosen.connectors)
    edges = _boundaries(package, [row for _, row in area_of.values()])
    connectors: dict[str, Lane] = {}
    lights: dict[int, list[str]] = {}
    for fid, row in chosen.connectors.items():
        if fid not in area_of:
            raise ScenarioError(f"{package.path}: lane connector {fid} has no row in {CONNECTOR_AREAS}")
        area_fid, area = area_of[fid]
        centerline = baselines[fid]
        left, right = (_boundary(package, fid, area[f"{side}_boundary_fid"], edges) for side in ("left", "right"))
        connectors[str(fid)] = Lane(
            lane_id=str(fid),
            roadblock_id=str(row["lane_group_connector_fid"]),
            is_connector=True,
            centerline=centerline,
            left_boundary=_along(centerline, shapely.get_coordinates(left.geometry)),
            right_boundary=_along(centerline, shapely.get_coordinates(right.geometry)),
            speed_limit_mps=_speed(row["speed_limit_mps"]),
            incoming=(str(row["exit_lane_fid"]),),  # named from the lane's side: the lane whose exit this is
            outgoing=(str(row["entry_lane_fid"]),),
            turn=_turn(centerline),
            intersection_id=str(row["intersection_fid"]) if row["intersection_fid"] in intersections else None,
            stop_line_ids=stop_lines_of(fid, row["traffic_light_stop_line_fids"], centerline, stops),
            area=outline(areas[area_fid].geometry),
        )
        for light in fids_in(row["bulb_fids"]):
            lights.setdefault(light, []).append(str(fid))
    return connectors, lights


def _linked(lanes: Mapping[str, Lane]) -> dict[str, Lane]:
    """Lanes that know their connectors, in the order of their ids; links out of the part that was read are cut."""
    incoming: dict[str, list[str]] = {}
    outgoing: dict[str, list[str]] = {}
    for lane in lanes.values():
        if lane.is_connector:
            outgoing.setdefault(lane.incoming[0], []).append(lane.lane_id)
            incoming.setdefault(lane.outgoing[0], []).append(lane.lane_id)
    linked = {}
    for lane_id, lane in lanes.items():
        before = lane.incoming if lane.is_connector else tuple(incoming.get(lane_id, ()))
        after = lane.outgoing if lane.is_connector else tuple(outgoing.get(lane_id, ()))
        linked[lane_id] = replace(
            lane,
            incoming=tuple(other for other in before if other in lanes),
            outgoing=tuple(other for other in after if other in lanes),
        )
    return linked


def _with_neighbors(lanes: Mapping[str, Lane], chosen: _Chosen) -> dict[str, Lane]:
    """Neighbours of a lane by its index in the lane group (0 is leftmost), of a connector by those of its two lanes."""
    place = {str(fid): (row["lane_group_fid"], row["lane_index"]) for fid, row in chosen.lanes.items()}
    at = {spot: lane_id for lane_id, spot in place.items()}

    def beside(lane_id: str, step: int) -> str | None:
        if lane_id not in place or place[lane_id][1] is None:
            return None
        group, index = place[lane_id]
        return at.get((group, index + step))

    joins = {
        (lane.roadblock_id, lane.incoming[0], lane.outgoing[0]): lane_id
        for lane_id, lane in lanes.items()
        if lane.is_connector and lane.incoming and lane.outgoing
    }
    sided = {}
    for lane_id, lane in lanes.items():
        sides: list[str | None] = []
        for step in (-1, 1):
            if not lane.is_connector:
                sides.append(beside(lane_id, step))
            elif lane.incoming and lane.outgoing:
                ends = beside(lane.incoming[0], step), beside(lane.outgoing[0], step)
                sides.append(joins.get((lane.roadblock_id, ends[0] or "", ends[1] or "")))
            else:
                sides.append(None)
        sided[lane_id] = replace(lane, left_neighbor=sides[0], right_neighbor=sides[1])
    return sided


def _baselines(package: GeoPackage, column: str, owners: Iterable[int]) -> dict[int, FloatArray]:
    """Owner -> its baseline's points (N, 2)."""
    wanted = set(owners)
    baseline_of = {
        row[column]: fid
        for fid, row in package.table("baseline_paths", ("lane_fid", "lane_connector_fid")).items()
        if row[column] in wanted
    }
    rows = package.rows("baseline_paths", baseline_of.values())
    lines = {}
    for owner in sorted(wanted):
        if owner not in baseline_of:
            raise ScenarioError(f"{package.path}: no row of baseline_paths has {column} {owner}")
        geometry = rows[baseline_of[owner]].geometry
        points = shapely.get_coordinates(geometry)
        if geometry.geom_type != "LineString" or geometry.length <= 0.0:
            raise ScenarioError(f"{package.path}: the baseline of {column} {owner} is no line with a length")
        lines[owner] = points
    return lines


def _boundaries(package: GeoPackage, rows: Iterable[Mapping[str, Any]]) -> dict[int, Feature]:
    fids = {row[f"{side}_boundary_fid"] for row in rows for side in ("left", "right")} - {None}
    return package.rows("boundaries", fids, ("boundary_type_fid",))


def _boundary(package: GeoPackage, lane: int, fid: int | None, edges: Mapping[int, Feature]) -> Feature:
    if fid is None or fid not in edges or edges[fid].geometry.geom_type != "LineString":
        raise ScenarioError(f"{package.path}: lane {lane} has boundary {fid}, which is no line of the layer boundaries")
    return edges[fid]


def _along(centerline: FloatArray, boundary: FloatArray) -> FloatArray:
    """The boundary in the lane's driving direction: a line between two lanes may be stored either way."""
    ends = boundary[[0, -1]]
    as_is = np.hypot(*(ends - centerline[[0, -1]]).T).sum()
    turned = np.hypot(*(ends[::-1] - centerline[[0, -1]]).T).sum()
    return boundary if as_is <= turned else boundary[::-1].copy()


def _turn(centerline: FloatArray) -> str:
    step = np.diff(centerline, axis=0)
    step = step[np.hypot(*step.T) > 1e-9]
    headings = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
    change = float(headings[-1] - headings[0])
    if abs(change) < TURN_RAD:
        return "straight"
    if abs(change) >= UTURN_RAD:
        return "uturn"
    return "left" if change > 0 else "right"


def _speed(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
