"""A nuPlan map file: GeoPackage layers in longitude and latitude, delivered in the metres of the map's UTM zone.

    package = GeoPackage.open(path)                       # cheap; what it indexes is kept for the process
    near = package.fids_within("crosswalks", bounds)      # bounds: (4,) min x, min y, max x, max y in metres
    rows = package.rows("crosswalks", near)               # Feature(fid, geometry in metres, columns)

A layer's index comes from its R-tree where the file has one, else from the envelopes in the geometries' headers.
Nothing but sqlite3, shapely and pyproj is needed; the reprojection is the one geopandas makes, bit for bit.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from nsdrive.scenarios.nuplan.sqlite import columns_of, opened, select_in
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

if TYPE_CHECKING:
    from pyproj import Transformer

ENVELOPE_BYTES = (0, 32, 48, 48, 64)  # by the header's envelope code; GeoPackage 1.3, 2.1.3
SCENERY_KEY, UNKNOWN_KEY = "nsdriveScenerySeed", "nsdriveUnknown"  # rows of meta that the maps we write have
SLACK_DEG = 1e-5  # chosen by us: about 1 m, for what a bent box of metres sticks out of its box of degrees


@dataclass(frozen=True, kw_only=True, eq=False)
class Feature:
    """One row of a layer: geometry (shapely, 2-D, metres) and the other columns."""

    fid: int
    geometry: Any
    columns: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Index:
    fids: NDArray[np.int64]  # (N,) ascending
    bounds_deg: FloatArray  # (N, 4): min longitude, min latitude, max longitude, max latitude


@dataclass(frozen=True, eq=False)
class GeoPackage:
    """One map file. Layers are looked up by name; one that the file lacks is empty."""

    path: Path
    crs: str  # the UTM zone, "epsg:32611"
    geometry_columns: Mapping[str, str]  # layer -> its geometry column
    meta: Mapping[str, str]  # the table of that name
    _indices: dict[str, _Index] = field(default_factory=dict)
    _tables: dict[tuple[str, tuple[str, ...]], dict[int, dict[str, Any]]] = field(default_factory=dict)

    @staticmethod
    def open(path: Path) -> GeoPackage:
        """The file at `path`; the same object again as long as the file does not change. ScenarioError."""
        try:
            stat = path.stat()
        except OSError as error:
            raise ScenarioError(f"{path}: is missing") from error
        return _open(path, stat.st_size, stat.st_mtime_ns)

    def has(self, layer: str) -> bool:
        return layer in self.geometry_columns

    def table(self, layer: str, columns: tuple[str, ...]) -> dict[int, dict[str, Any]]:
        """fid -> these columns of every row, in the order of the fids; a column that the layer lacks is None."""
        key = (layer, columns)
        if key not in self._tables:
            self._tables[key] = {}
            if self.has(layer):
                with opened(self.path) as connection:
                    there = [name for name in columns if name in columns_of(connection, layer)]
                    names = ", ".join(["fid", *(f'"{name}"' for name in there)])
                    absent = dict.fromkeys(columns)
                    self._tables[key] = {
                        row["fid"]: {**absent, **{name: row[name] for name in there}}
                        for row in connection.execute(f'select {names} from "{layer}" order by fid')
                    }
        return self._tables[key]

    def fids_within(self, layer: str, bounds_m: FloatArray) -> list[int]:
        """The rows whose bounding box (in degrees) meets that of `bounds_m`, ascending."""
        if not self.has(layer):
            return []
        index = self._index(layer)
        west, south, east, north = self._degrees(bounds_m)
        box = index.bounds_deg
        meets = (box[:, 0] <= east) & (box[:, 2] >= west) & (box[:, 1] <= north) & (box[:, 3] >= south)
        return index.fids[meets].tolist()

    def all_fids(self, layer: str) -> list[int]:
        return list(self.table(layer, ()))

    def rows(self, layer: str, fids: Iterable[int], columns: tuple[str, ...] = ()) -> dict[int, Feature]:
        """fid -> Feature, in the order of the fids; a fid that the layer lacks is left out. ScenarioError."""
        wanted = sorted(set(fids))
        if not wanted or not self.has(layer):
            return {}
        with opened(self.path) as connection:
            there = [name for name in columns if name in columns_of(connection, layer)]
            names = ", ".join(["fid", f'"{self.geometry_columns[layer]}" as _blob', *(f'"{name}"' for name in there)])
            found = sorted(
                select_in(connection, f'select {names} from "{layer}" where fid in ({{}})', wanted),
                key=lambda row: row["fid"],
            )
        geometries = self._metres(layer, [row["fid"] for row in found], [row["_blob"] for row in found])
        absent = dict.fromkeys(columns)
        return {
            row["fid"]: Feature(
                fid=row["fid"], geometry=geometry, columns={**absent, **{name: row[name] for name in there}}
            )
            for row, geometry in zip(found, geometries, strict=True)
        }

    def _metres(self, layer: str, fids: Sequence[int], blobs: Sequence[Any]) -> list[Any]:
        """Geometries in the UTM zone from GeoPackage blobs, reprojected all at once."""
        try:
            wkb = [bytes(blob[_header_bytes(blob) :]) for blob in blobs]
            geometries = shapely.force_2d(shapely.from_wkb(wkb))
        except (struct.error, TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
            raise ScenarioError(f"{self.path}: layer {layer} holds a geometry that cannot be decoded") from error
        forward = _transformer(self.crs)
        moved = shapely.transform(
            geometries, lambda points: np.column_stack(forward.transform(points[:, 0], points[:, 1]))
        )
        broken = ~np.isfinite(shapely.bounds(moved)).all(axis=1)
        if broken.any():
            fid = fids[int(broken.argmax())]
            raise ScenarioError(f"{self.path}: row {fid} of layer {layer} is empty or lies outside {self.crs}")
        return list(moved)

    def _degrees(self, bounds_m: FloatArray) -> tuple[float, float, float, float]:
        west, south, east, north = (float(bound) for bound in bounds_m)
        return _transformer(self.crs).transform_bounds(west, south, east, north, direction="INVERSE")

    def _index(self, layer: str) -> _Index:
        if layer not in self._indices:
            with opened(self.path) as connection:
                rows = self._from_rtree(connection, layer) or self._from_headers(connection, layer)
            table = np.array(rows, dtype=np.float64).reshape(-1, 5)
            table = table[np.argsort(table[:, 0], kind="stable")]
            slack = np.array([-SLACK_DEG, -SLACK_DEG, SLACK_DEG, SLACK_DEG])
            self._indices[layer] = _Index(fids=table[:, 0].astype(np.int64), bounds_deg=table[:, 1:] + slack)
        return self._indices[layer]

    def _from_rtree(self, connection: sqlite3.Connection, layer: str) -> list[tuple[float, ...]]:
        """(fid, west, south, east, north) rows of the layer's R-tree, none where it is absent or does not hold every row."""
        tree = f"rtree_{layer}_{self.geometry_columns[layer]}"
        if not columns_of(connection, tree):
            return []
        try:
            rows = connection.execute(f'select id, minx, miny, maxx, maxy from "{tree}"').fetchall()
        except sqlite3.OperationalError:  # this build of SQLite may lack R-trees
            return []
        (count,) = connection.execute(f'select count(*) from "{layer}"').fetchone()
        return [tuple(row) for row in rows] if len(rows) == count else []

    def _from_headers(self, connection: sqlite3.Connection, layer: str) -> list[tuple[float, ...]]:
        rows: list[tuple[float, ...]] = []
        for row in connection.execute(f'select fid, "{self.geometry_columns[layer]}" as _blob from "{layer}"'):
            blob = row["_blob"]
            try:
                if _header_bytes(blob) > 8:
                    order = "<" if blob[3] & 1 else ">"
                    west, east, south, north = struct.unpack_from(f"{order}4d", blob, 8)
                else:
                    west, south, east, north = shapely.from_wkb(bytes(blob[8:])).bounds
            except (struct.error, TypeError, ValueError, IndexError, shapely.errors.ShapelyError) as error:
                raise ScenarioError(f"{self.path}: row {row['fid']} of layer {layer} has no valid geometry") from error
            rows.append((row["fid"], west, south, east, north))
        return rows


@lru_cache(maxsize=8)
def _open(path: Path, size: int, changed_ns: int) -> GeoPackage:
    with opened(path) as connection:
        if not columns_of(connection, "gpkg_geometry_columns"):
            raise ScenarioError(f"{path}: is not a GeoPackage (no table gpkg_geometry_columns)")
        if not {"key", "value"} <= columns_of(connection, "meta"):
            raise ScenarioError(f"{path}: is no map of nuPlan (no table meta with key and value)")
        meta = {str(row["key"]): str(row["value"]) for row in connection.execute("select key, value from meta")}
        if "projectedCoordSystem" not in meta:
            raise ScenarioError(f"{path}: its table meta does not tell projectedCoordSystem")
        layers = {
            row["table_name"]: row["column_name"]
            for row in connection.execute("select table_name, column_name from gpkg_geometry_columns")
            if columns_of(connection, row["table_name"])
        }
    crs = meta["projectedCoordSystem"]
    try:
        _transformer(crs)
    except RuntimeError as error:  # pyproj's errors are such
        raise ScenarioError(f"{path}: its projectedCoordSystem {crs!r} is no coordinate system") from error
    return GeoPackage(path, crs, layers, meta)


@lru_cache(maxsize=8)
def _transformer(crs: str) -> Transformer:
    from pyproj import Transformer  # here, because whoever lists the sources of scenarios need not have a map

    return Transformer.from_crs("EPSG:4326", crs.upper(), always_xy=True)


def _header_bytes(blob: bytes) -> int:
    """The length of a GeoPackage blob's header; ValueError where it is none."""
    if blob is None or len(blob) < 8 or bytes(blob[:2]) != b"GP":
        raise ValueError("not a GeoPackage geometry")
    return 8 + ENVELOPE_BYTES[(blob[3] >> 1) & 7]


def fids_in(text: Any) -> list[int]:
    """The ids in a column that lists them as text: "8001,8002" -> [8001, 8002]; empty for "" and NULL."""
    words = ("" if text is None else str(text)).replace(" ", "").split(",")
    return [int(word) for word in words if word.isdecimal()]


def outline(geometry: Any) -> FloatArray:
    """(N, 2): the outer ring of a polygon (the largest of several), not closed twice."""
    return shapely.get_coordinates(max(_polygons(geometry), key=lambda part: part.area).exterior)[:-1]


def rings(geometry: Any) -> list[FloatArray]:
    """Rings (N, 2) that cover the same ground; a polygon with holes is cut into parts that have none."""
    whole = []
    for polygon in _polygons(geometry):
        if not polygon.interiors:
            whole.append(shapely.get_coordinates(polygon.exterior)[:-1])
            continue
        west, south, east, north = polygon.bounds
        cut = shapely.Polygon(polygon.interiors[0]).centroid.x
        for half in (shapely.box(west, south, cut, north), shapely.box(cut, south, east, north)):
            whole += rings(shapely.intersection(shapely.make_valid(polygon), half))
    return whole


def _polygons(geometry: Any) -> list[Any]:
    """The polygons in a geometry; what has no area is left out."""
    parts = [geometry] if geometry.geom_type == "Polygon" else list(getattr(geometry, "geoms", ()))
    if geometry.geom_type != "Polygon":
        return [polygon for part in parts for polygon in _polygons(part)]
    return [part for part in parts if not part.is_empty]
