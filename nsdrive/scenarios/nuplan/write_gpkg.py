"""A GeoPackage with nuPlan's layers, written with SQLite alone: no GDAL, no spatial index, no triggers.

Geometry is stored in longitude and latitude; the `meta` table names the projection that readers take it to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely

from nsdrive.scenarios.nuplan.sqlite_file import written_file
from nsdrive.world.types import FloatArray

Row = tuple[int, Any, Mapping[str, Any]]  # fid, geometry in metres, columns; those left out are 0 or ""
LAYERS = {  # name: (geometry, columns besides fid and geom)
    "baseline_paths": (
        "LINESTRING",
        "path_type_fid INTEGER, creator_id TEXT(256), lane_fid INTEGER, lane_connector_fid INTEGER, "
        "dubins_node_fids TEXT(256)",
    ),
    "boundaries": (
        "LINESTRING",
        "boundary_segment_fids TEXT(256), has_reflectors BOOLEAN, boundary_type_fid INTEGER, creator_id TEXT(256)",
    ),
    "carpark_areas": ("POLYGON", "heading REAL, creator_id TEXT(256)"),
    "crosswalks": (
        "POLYGON",
        "intersection_fids TEXT(256), lane_fids TEXT(256), creator_id TEXT(256), is_marked BOOLEAN",
    ),
    "dubins_nodes": ("POINT", "radius REAL, heading REAL, creator_id TEXT(256)"),
    "gen_lane_connectors_scaled_width_polygons": (
        "POLYGON",
        "baseline_path_fid INTEGER, lane_connector_fid INTEGER, from_edge_fid INTEGER, to_edge_fid INTEGER, "
        "left_boundary_fid INTEGER, right_boundary_fid INTEGER",
    ),
    "generic_drivable_areas": ("POLYGON", "creator_id TEXT(256)"),
    "intersections": ("POLYGON", "creator_id TEXT(256), intersection_type_fid INTEGER, is_mini BOOLEAN"),
    "lane_connectors": (
        "LINESTRING",
        "exit_lane_group_fid INTEGER, exit_lane_fid INTEGER, entry_lane_group_fid INTEGER, "
        "lane_group_connector_fid INTEGER, entry_lane_fid INTEGER, intersection_fid INTEGER, "
        "turn_type_fid INTEGER, bulb_fids TEXT(256), traffic_light_stop_line_fids TEXT(256), overlap MEDIUMINT, "
        "creator_id TEXT(256), reflector_side_fid INTEGER, left_has_reflectors BOOLEAN, "
        "right_has_reflectors BOOLEAN, speed_limit_mps REAL",
    ),
    "lane_group_connectors": (
        "POLYGON",
        "intersection_fid INTEGER, from_lane_group_fid INTEGER, to_lane_group_fid INTEGER, creator_id TEXT(256), "
        "from_edge_fid INTEGER, to_edge_fid INTEGER, left_boundary_fid INTEGER, right_boundary_fid INTEGER",
    ),
    "lane_groups_polygons": (
        "POLYGON",
        "creator_id TEXT(256), left_boundary_fid INTEGER, right_boundary_fid INTEGER, from_edge_fid INTEGER, "
        "to_edge_fid INTEGER",
    ),
    "lanes_polygons": (
        "POLYGON",
        "lane_group_fid INTEGER, lane_fid INTEGER, lane_index MEDIUMINT, creator_id TEXT(256), name TEXT(256), "
        "road_type_fid INTEGER, lane_type_fid INTEGER, width MEDIUMINT, left_offset REAL, right_offset REAL, "
        "min_speed REAL, max_speed REAL, stops MEDIUMINT, left_boundary_fid INTEGER, right_boundary_fid INTEGER, "
        "speed_limit_mps REAL, left_has_reflectors BOOLEAN, right_has_reflectors BOOLEAN, from_edge_fid INTEGER, "
        "to_edge_fid INTEGER",
    ),
    "road_segments": ("POLYGON", "lane_group_fids TEXT(256)"),
    "stop_polygons": (
        "POLYGON",
        "stop_polygon_type_fid INTEGER, lane_group_fid INTEGER, lane_fids TEXT(256), "
        "lane_connector_fids TEXT(256), traffic_light_fids TEXT(256), crosswalk_fids TEXT(256), "
        "precedence_area_fids TEXT(256), creator_id TEXT(256)",
    ),
    "traffic_lights": (
        "POINT",
        "light_face_type_fid INTEGER, ori_mean_roll REAL, ori_mean_pitch REAL, ori_mean_yaw REAL, "
        "ori_stddev_roll REAL, ori_stddev_pitch REAL, ori_stddev_yaw REAL, pos_stddev_northing REAL, "
        "pos_stddev_easting REAL, pos_stddev_altitude REAL, creator_id TEXT(256)",
    ),
    "walkways": ("POLYGON", "creator_id TEXT(256)"),
}
FID = "fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL"
GEOPACKAGE = {
    "gpkg_spatial_ref_sys": "srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY, organization TEXT NOT NULL, "
    "organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT",
    "gpkg_contents": "table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, "
    "description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, "
    "srs_id INTEGER",
    "gpkg_geometry_columns": "table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, "
    "srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name)",
}


def write_geopackage(
    path: Path,
    rows: Mapping[str, Sequence[Row]],
    *,
    epsg: int,
    origin_m: tuple[float, float] = (0.0, 0.0),
    more_meta: Mapping[str, str] | None = None,
) -> None:
    """Write every layer, with the rows there are, complete or not at all.

    epsg: the projection, whose coordinates are those of the rows plus origin_m. more_meta: further rows of the table meta,
    of which nuPlan's code reads its own keys only.
    """
    with written_file(path) as connection:
        connection.execute("PRAGMA application_id = 0x47504B47")
        connection.execute("PRAGMA user_version = 10300")
        for table, columns in GEOPACKAGE.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
        connection.executemany(
            "INSERT INTO gpkg_spatial_ref_sys VALUES (?,?,?,?,?,?)",
            [
                ("Undefined cartesian SRS", -1, "NONE", -1, "undefined", None),
                ("Undefined geographic SRS", 0, "NONE", 0, "undefined", None),
                ("WGS 84", 4326, "EPSG", 4326, pyproj.CRS.from_epsg(4326).to_wkt("WKT1_GDAL"), None),
            ],
        )
        for layer, (geometry, columns) in LAYERS.items():
            kinds = dict(column.split(" ") for column in columns.split(", "))
            connection.execute(f"CREATE TABLE {layer} ({FID}, geom {geometry}, {columns})")
            neutral = {name: _neutral(name, kind) for name, kind in kinds.items()}
            for fid, shape, values in rows.get(layer, ()):
                assert values.keys() <= kinds.keys(), layer
                row = (fid, _blob(shape, epsg, origin_m), *(neutral | dict(values)).values())
                connection.execute(f"INSERT INTO {layer} VALUES ({','.join('?' * len(row))})", row)
            _announce(connection, layer, "features", 4326)
            connection.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?, 4326, 0, 0)", (layer, geometry))
        connection.execute(f"CREATE TABLE meta ({FID}, key TEXT(256), value TEXT(256))")
        meta = {"geographicCoordSystem": "epsg:4326", "projectedCoordSystem": f"epsg:{epsg}", **(more_meta or {})}
        connection.executemany("INSERT INTO meta VALUES (NULL, ?, ?)", meta.items())
        _announce(connection, "meta", "attributes", None)


def _announce(connection: sqlite3.Connection, table: str, kind: str, srs: int | None) -> None:
    """List a table in the contents; without its extent, which is optional, and with a fixed date, so that nothing varies."""
    row = (table, kind, table, "", "2026-01-01T00:00:00.000Z", None, None, None, None, srs)
    connection.execute("INSERT INTO gpkg_contents VALUES (?,?,?,?,?,?,?,?,?,?)", row)


def _neutral(name: str, kind: str) -> int | str | None:
    """What a column holds that nobody reads: a baseline belongs to a lane or to a connector, the other is NULL."""
    if name in ("lane_fid", "lane_connector_fid"):
        return None
    return "" if kind.startswith("TEXT") else 0


@cache
def _to_degrees(epsg: int) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(epsg, 4326, always_xy=True)


def _blob(shape: Any, epsg: int, origin_m: tuple[float, float]) -> bytes:
    """GeoPackage binary: a header with the envelope (none for a point), then WKB, in longitude and latitude."""

    def degrees(points: FloatArray) -> FloatArray:
        x, y = (points + origin_m).T
        return np.stack(_to_degrees(epsg).transform(x, y), axis=1)

    placed = shapely.transform(shape, degrees)
    envelope = b""
    if placed.geom_type != "Point":
        x0, y0, x1, y1 = placed.bounds
        envelope = np.array([x0, x1, y0, y1], dtype="<f8").tobytes()
    flags = b"\x03" if envelope else b"\x01"
    return b"GP\0" + flags + (4326).to_bytes(4, "little") + envelope + shapely.to_wkb(placed, byte_order=1)
