"""py123d's map around a scenario as a `LaneMap`.

    lane_map = read_map(path, name, bounds_m, route_roadblock_ids, lit_lanes)

The source's are the lanes with their boundaries, links and speed limits, lane groups, intersections, crosswalks, areas
and stop zones, as far as the data set has them. Ours, because py123d does not keep it:

    connectors    the lanes of groups that belong to an intersection, and the lanes that a traffic light is told of
    roadblocks    see roads.py; where a lane stops, too
    paint         the painted line that a lane's boundary lies on
    drivable      the source's areas, intersections and car parks, and the lanes themselves

Where a light hangs and which way a sign faces is not kept at all, so the map has no signals to be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.argoverse2.map import MARKINGS, turn_of
from nsdrive.scenarios.nuplan.geopackage import outline, rings
from nsdrive.scenarios.py123d.files import READ_ERRORS, checked_points, opened, py123d, unpacked
from nsdrive.scenarios.py123d.roads import with_roadblocks, with_stop_lines
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.geometry import resample
from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, LaneMap
from nsdrive.world.types import FloatArray

PAINT_REACH_M = 0.25  # chosen by us: a boundary lies on a painted line that is this close at two of its three quarters
DENSE_M, SPACING_M = 0.4, 1.0  # chosen by us: a centerline with closer points is resampled (py123d makes some of 0.1 m)
MAX_SPEED_MPS = 60.0  # chosen by us: no road allows more
KEPT_MAPS = 4  # the maps of four cities, some 100 MB each
LANE_TYPES = {"BIKE_LANE": "bike", "BUS_LANE": "bus"}
INTERSECTION_KINDS = {"TRAFFIC_LIGHT": "traffic_light", "STOP_SIGN": "stop_sign"}  # the rest is "default"


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFile:
    """The rows of one file by layer, each layer in the order of its ids; features are decoded when asked for."""

    path: Path
    dataset: str
    ids: Mapping[str, NDArray[np.int64]]
    geometries: Mapping[str, NDArray[np.object_]]  # shapely, 2-D, metres
    packed: Mapping[str, Sequence[bytes]]
    groups: Mapping[int, int | None]  # lane -> its lane group
    crossings: Mapping[int, int | None]  # lane group -> its intersection

    def near(self, layer: str, bounds_m: FloatArray | None) -> list[int]:
        """Row numbers of a layer within bounds (min x, min y, max x, max y)."""
        if bounds_m is None:
            return list(range(len(self.ids[layer])))
        box = shapely.bounds(self.geometries[layer]).reshape(-1, 4)
        meets = (box[:, 0] <= bounds_m[2]) & (box[:, 2] >= bounds_m[0])
        return np.flatnonzero(meets & (box[:, 1] <= bounds_m[3]) & (box[:, 3] >= bounds_m[1])).tolist()

    def features(self, layer: str, row: int) -> Mapping[str, Any]:
        return unpacked(self.packed[layer][row])


def read_map(
    path: Path,
    name: str,
    bounds_m: FloatArray | None,
    route_roadblock_ids: Sequence[str],
    lit_lanes: frozenset[str],
) -> LaneMap:
    """The part of a map within `bounds_m`, always whole lane groups, and the route's; None: all of it. ScenarioError.

    `lit_lanes` are the ids of the lanes that the log tells a traffic light's state of.
    """
    try:
        stat = path.stat()
        file = _open(path, stat.st_size, stat.st_mtime_ns)
        return _read(file, name, bounds_m, frozenset(route_roadblock_ids), lit_lanes)
    except ScenarioError:
        raise
    except FileNotFoundError as error:
        raise ScenarioError(f"{path}: is missing") from error
    except (*READ_ERRORS, RuntimeError, shapely.errors.ShapelyError) as error:
        raise ScenarioError(f"{path}: cannot be read as a map of py123d ({one_line(error)})") from error


def _read(
    file: MapFile, name: str, bounds_m: FloatArray | None, route: frozenset[str], lit_lanes: frozenset[str]
) -> LaneMap:
    lane_ids = file.ids["LANE"].tolist()
    near = file.near("LANE", bounds_m)
    wanted = {file.groups[lane_ids[row]] for row in near} | {g for g in file.groups.values() if str(g) in route}
    rows = sorted({*near, *(row for row, lane in enumerate(lane_ids) if file.groups[lane] in wanted - {None})})
    if not rows:
        raise ScenarioError(f"{file.path}: holds no lanes{' there' if lane_ids else ': the data set publishes none'}")
    lanes = {str(lane_ids[row]): _lane(file, row, lit_lanes) for row in rows}
    lanes = dict(sorted(lanes.items(), key=lambda item: item[1].is_connector))  # lanes first, as nuPlan has them
    lanes = with_roadblocks(_painted(file, _linked(lanes), bounds_m))
    lanes, stop_lines = with_stop_lines(_stop_zones(file, bounds_m), lanes, lit_lanes)
    crossed = {lane.intersection_id for lane in lanes.values()}

    def areas(layer: str) -> list[FloatArray]:
        return [ring for row in file.near(layer, bounds_m) for ring in rings(file.geometries[layer][row])]

    carparks = areas("CARPARK")
    drivable = [*areas("GENERIC_DRIVABLE"), *areas("INTERSECTION"), *carparks]
    return LaneMap(
        name=name,
        lanes=lanes,
        intersections={
            crossing.intersection_id: crossing
            for row, number in enumerate(file.ids["INTERSECTION"].tolist())
            if (crossing := _intersection(file, row, number)).intersection_id in crossed
        },
        crosswalks={
            str(file.ids["CROSSWALK"][row]): Crosswalk(
                crosswalk_id=str(file.ids["CROSSWALK"][row]), polygon=outline(file.geometries["CROSSWALK"][row])
            )
            for row in file.near("CROSSWALK", bounds_m)
        },
        stop_lines=stop_lines,
        drivable_area=(*drivable, *(lane.polygon for lane in lanes.values())),
        walkways=tuple(areas("WALKWAY")),
        carparks=tuple(carparks),
        roadblocks=_roadblock_polygons(file, lanes),
    )


@lru_cache(maxsize=KEPT_MAPS)
def _open(path: Path, size: int, changed_ns: int) -> MapFile:
    table = opened(path).read_all()
    table.validate(full=True)
    layer = np.asarray(table.column("map_layer").to_numpy())
    ids = np.asarray(table.column("object_id").to_numpy()).astype(np.int64)
    packed = table.column("features").to_pylist()
    geometries = shapely.force_2d(shapely.from_wkb(np.array(table.column("wkb").to_pylist(), dtype=object)))
    checked_points(shapely.get_coordinates(geometries))
    if shapely.is_empty(geometries).any():
        raise ScenarioError(f"{path}: holds an object without a shape")
    order = np.argsort(ids, kind="stable")
    rows_of = {kind.name: order[layer[order] == int(kind.value)] for kind in py123d("datatypes").MapLayer}
    for name, rows in rows_of.items():
        if (np.diff(ids[rows]) == 0).any():
            raise ScenarioError(f"{path}: holds two objects of one id in layer {name}")
    return MapFile(
        path=path,
        dataset=str(unpacked(table.schema.metadata[b"metadata"]).get("dataset")),
        ids={name: ids[rows] for name, rows in rows_of.items()},
        geometries={name: np.asarray(geometries)[rows] for name, rows in rows_of.items()},
        packed={name: [packed[row] for row in rows] for name, rows in rows_of.items()},
        groups={int(ids[row]): unpacked(packed[row])["lane_group_id"] for row in rows_of["LANE"]},
        crossings={int(ids[row]): unpacked(packed[row])["intersection_id"] for row in rows_of["LANE_GROUP"]},
    )


def _lane(file: MapFile, row: int, lit_lanes: frozenset[str]) -> Lane:
    """One lane as the source has it; its links may still lead out of what is read."""
    number = int(file.ids["LANE"][row])
    lane_id, group = str(number), file.groups[number]
    features = file.features("LANE", row)
    crossing = None if group is None else file.crossings.get(group)
    centerline = _line(features["centerline"])
    if np.hypot(*np.diff(centerline, axis=0).T).mean() < DENSE_M:
        centerline = resample(centerline, SPACING_M)
    is_connector = crossing is not None or lane_id in lit_lanes
    speed = features["speed_limit_mps"]
    beside = [features[f"{side}_lane_id"] for side in ("left", "right")]
    return Lane(
        lane_id=lane_id,
        roadblock_id=f"lane-{lane_id}" if group is None else str(group),
        is_connector=is_connector,
        centerline=centerline,
        left_boundary=_line(features["left_boundary"]),
        right_boundary=_line(features["right_boundary"]),
        speed_limit_mps=float(speed) if speed is not None and 0.0 < float(speed) <= MAX_SPEED_MPS else None,
        incoming=tuple(str(lane) for lane in features["predecessor_ids"]),
        outgoing=tuple(str(lane) for lane in features["successor_ids"]),
        left_neighbor=None if beside[0] is None else str(beside[0]),
        right_neighbor=None if beside[1] is None else str(beside[1]),
        lane_type=LANE_TYPES.get(py123d("datatypes").LaneType(features["lane_type"]).name, "vehicle"),
        turn=turn_of(centerline) if is_connector else "straight",
        intersection_id=None if crossing is None else str(crossing),
        area=outline(file.geometries["LANE"][row]),
    )


def _line(points: Any) -> FloatArray:
    """(N, 2) of a polyline (N, 2 or 3), without repeated points. ValueError."""
    line = np.asarray(points, dtype=np.float64)
    if line.ndim != 2 or line.shape[1] not in (2, 3):
        raise ValueError(f"a lane's line has shape {line.shape}")
    line = checked_points(np.ascontiguousarray(line[:, :2]))
    line = line[np.concatenate([[True], np.hypot(*np.diff(line, axis=0).T) > 1e-6])]
    if len(line) < 2:
        raise ValueError("a lane's line has no length")
    return line


def _linked(lanes: Mapping[str, Lane]) -> dict[str, Lane]:
    """Links known at both of their ends, and none that leads out of what was read."""
    incoming = {
        lane_id: dict.fromkeys(other for other in lane.incoming if other in lanes) for lane_id, lane in lanes.items()
    }
    outgoing = {
        lane_id: dict.fromkeys(other for other in lane.outgoing if other in lanes) for lane_id, lane in lanes.items()
    }
    for lane_id in lanes:
        for other in list(outgoing[lane_id]):
            incoming[other].setdefault(lane_id)
        for other in list(incoming[lane_id]):
            outgoing[other].setdefault(lane_id)
    return {
        lane_id: replace(lane, incoming=tuple(incoming[lane_id]), outgoing=tuple(outgoing[lane_id]))
        for lane_id, lane in lanes.items()
    }


def _painted(file: MapFile, lanes: Mapping[str, Lane], bounds_m: FloatArray | None) -> dict[str, Lane]:
    """Lanes with the paint of their boundaries, as far as the map has painted lines.

    nuPlan draws the edges of its connectors as lines too, but nobody painted them.
    """
    kinds = {int(kind.value): kind.name for kind in py123d("datatypes").RoadLineType}
    rows = file.near("ROAD_LINE", None if bounds_m is None else bounds_m + np.array([-1.0, -1.0, 1.0, 1.0]))
    if not rows:
        return dict(lanes)
    paint = [MARKINGS.get(kinds.get(file.features("ROAD_LINE", row)["road_line_type"], ""), "none") for row in rows]
    tree = shapely.STRtree(file.geometries["ROAD_LINE"][rows])

    def marking(boundary: FloatArray) -> str:
        points = shapely.line_interpolate_point(shapely.LineString(boundary), [0.25, 0.5, 0.75], normalized=True)
        _, found = tree.query_nearest(points, max_distance=PAINT_REACH_M, all_matches=False)
        names = [paint[row] for row in found]
        best = max(sorted(set(names)), key=names.count, default="none")
        return best if names.count(best) >= 2 else "none"

    return {
        lane_id: lane
        if lane.is_connector and file.dataset == "nuplan"
        else replace(lane, left_marking=marking(lane.left_boundary), right_marking=marking(lane.right_boundary))
        for lane_id, lane in lanes.items()
    }


def _stop_zones(file: MapFile, bounds_m: FloatArray | None) -> dict[str, tuple[Any, str, tuple[str, ...]]]:
    """Id -> polygon, py123d's name of its type, the lanes that it names."""
    types = {int(kind.value): kind.name for kind in py123d("datatypes").StopZoneType}
    zones = {}
    for row in file.near("STOP_ZONE", bounds_m):
        features = file.features("STOP_ZONE", row)
        named = tuple(str(lane) for lane in features["lane_ids"] or ())
        kind = types.get(features["stop_zone_type"], "UNKNOWN")
        zones[str(file.ids["STOP_ZONE"][row])] = (file.geometries["STOP_ZONE"][row], kind, named)
    return zones


def _intersection(file: MapFile, row: int, number: int) -> Intersection:
    kind = py123d("datatypes").IntersectionType(file.features("INTERSECTION", row)["intersection_type"]).name
    return Intersection(
        intersection_id=str(number),
        polygon=outline(file.geometries["INTERSECTION"][row]),
        kind=INTERSECTION_KINDS.get(kind, "default"),
    )


def _roadblock_polygons(file: MapFile, lanes: Mapping[str, Lane]) -> dict[str, FloatArray]:
    """The lane groups' polygons, of those that are one roadblock each."""
    members: dict[str, set[str]] = {}
    for lane in lanes.values():
        members.setdefault(lane.roadblock_id, set()).add(lane.lane_id)
    grouped: dict[str, set[str]] = {}
    for lane_number, group in file.groups.items():
        grouped.setdefault(str(group), set()).add(str(lane_number))
    polygons = {}
    for row, group_number in enumerate(file.ids["LANE_GROUP"].tolist()):
        name = str(group_number)
        if name in members and members[name] == grouped.get(name):
            polygons[name] = outline(file.geometries["LANE_GROUP"][row])
    return polygons
