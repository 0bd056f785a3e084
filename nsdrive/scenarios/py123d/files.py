"""py123d's Arrow files, opened with suspicion: columns are checked, metadata are looked at and never obeyed.

    <data root>/logs/<split>/<log>/sync.arrow, ego_state_se3.arrow, box_detections_se3.arrow, camera.pcam_f0.arrow, ...
    <data root>/maps/<dataset>/<dataset>_<location>.arrow, or map.arrow in the log's folder

A column is named "<file's stem>.<field>"; a file's metadata is msgpack under the schema's key "metadata". py123d itself
gives the types (enums, labels, metadata classes), but its readers are not called: of a log's box and segmentation labels
they import the Python module that the file names, which would let whoever wrote the file choose what is run.
Everything here raises `ScenarioError`, one line with the file and the problem, and nothing else, whatever the bytes are.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

SYNC, EGO, BOXES = "sync", "ego_state_se3", "box_detections_se3"
LIGHTS, ROUTE, SCENARIO = "traffic_light_detections", "route_position", "custom.scenario"
MAX_PLANE_M = 1e7  # chosen by us: UTM northings reach 10,000 km
READ_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError),
    *(ValueError, pa.ArrowException),
)


def py123d(name: str) -> ModuleType:
    """The module py123d.<name>. ValueError, one line, where the package is not installed."""
    try:
        return importlib.import_module(f"py123d.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "py123d":
            raise ValueError("reading logs of py123d needs the package: pip install 'nsdrive[logs]'") from None
        raise


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Rows of one file; `key` is the stem of its name, which prefixes every column."""

    path: Path
    key: str
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def times_us(self) -> NDArray[np.int64]:
        """(N,) ascending timestamps [us]."""
        times = self.numbers("timestamp_us")
        if times.dtype.kind not in "iu" or (np.diff(times.astype(np.int64)) < 0).any():
            raise ScenarioError(f"{self.path}: timestamp_us are not ascending whole numbers")
        return times.astype(np.int64)

    def numbers(self, name: str) -> NDArray[Any]:
        """(N,) numbers, none missing."""
        column = self.column(name)
        if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ScenarioError(f"{self.path}: column {name} should hold numbers, has {column.type} with gaps")
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def vectors(self, name: str, width: int) -> FloatArray:
        """(N, width) numbers; a row that is missing is nan."""
        return _vectors(self.path, name, self.column(name), width)

    def lists(self, name: str) -> tuple[NDArray[np.int64], pa.Array]:
        """A column of lists as the lengths (N,) of its rows and the items of all rows on end."""
        column = self.column(name)
        if not pa.types.is_list(column.type) or column.null_count:
            raise ScenarioError(f"{self.path}: column {name} should hold lists, has {column.type}")
        lengths = np.asarray(column.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
        return lengths, column.flatten()

    def listed_vectors(self, name: str, width: int) -> FloatArray:
        """(M, width): the vectors in the lists of all rows on end; a missing one is nan."""
        return _vectors(self.path, name, self.lists(name)[1], width)

    def column(self, name: str) -> pa.Array:
        full = f"{self.key}.{name}"
        if self.table.column_names.count(full) != 1:
            raise ScenarioError(
                f"{self.path}: has no column {full} (columns: {', '.join(self.table.column_names)[:200]})"
            )
        chunks = self.table.column(full).combine_chunks()
        return chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)


def read_columns(folder: Path, key: str, span_us: tuple[int, int] | None = None) -> Columns:
    """The file <key>.arrow of a log, or only its rows from span_us[0] to span_us[1] and one row beyond at either side."""
    path = folder / f"{key}.arrow"
    try:
        table = opened(path).read_all()
        if span_us is not None:
            times = np.asarray(table.column(f"{key}.timestamp_us").to_numpy())
            first = max(0, int(np.searchsorted(times, span_us[0], side="left")) - 1)
            last = min(len(times), int(np.searchsorted(times, span_us[1], side="right")) + 1)
            table = table.slice(first, max(0, last - first))
        table.validate(full=True)  # offsets and UTF-8 too: a flipped byte must not crash the process later
    except READ_ERRORS as error:
        raise ScenarioError(f"{path}: cannot be read ({one_line(error)})") from error
    return Columns(path=path, key=key, table=table)


def read_times_us(folder: Path, key: str) -> NDArray[np.int64]:
    """(N,) the timestamps of a log's file, its other columns left on the disk."""
    path = folder / f"{key}.arrow"
    try:
        table = opened(path, (f"{key}.timestamp_us",)).read_all()
        table.validate(full=True)
    except READ_ERRORS as error:
        raise ScenarioError(f"{path}: cannot be read ({one_line(error)})") from error
    return Columns(path=path, key=key, table=table).times_us()


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file says about itself, as plain values."""
    try:
        return unpacked((opened(path).schema.metadata or {})[b"metadata"])
    except READ_ERRORS as error:
        raise ScenarioError(f"{path}: cannot be read ({one_line(error)})") from error


def unpacked(data: bytes) -> dict[str, Any]:
    """A msgpack map, decoded by py123d; it may hold numbers, texts, lists, maps and numpy arrays of numbers only."""
    content = py123d("common.utils.msgpack_utils").msgpack_decode_with_numpy(data)
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, expected a map")
    return content


def opened(path: Path, columns: tuple[str, ...] | None = None) -> pa.ipc.RecordBatchFileReader:
    """A reader over the mapped file, of these columns only if given."""
    if not path.is_file():
        raise FileNotFoundError("is missing")
    source = pa.memory_map(str(path), "rb")
    reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False))  # safe in a forked worker
    if columns is None:
        return reader
    fields = [reader.schema.names.index(name) for name in columns]
    return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False))


def rotation_of(quaternions: FloatArray) -> FloatArray:
    """(N, 3, 3) rotation matrices of quaternions (N, 4): w, x, y, z, of any length but zero. ValueError."""
    norms = np.linalg.norm(quaternions, axis=1, keepdims=True)
    if len(norms) and not (norms > 1e-3).all():
        raise ValueError("a rotation is no quaternion")
    w, x, y, z = (quaternions / norms).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )


def checked_points(points: FloatArray, limit_m: float = MAX_PLANE_M) -> FloatArray:
    """The points, all finite and none beyond the limit. ValueError."""
    if not np.isfinite(points).all() or (points.size and np.abs(points).max() > limit_m):
        raise ValueError(f"a coordinate is not finite or beyond {limit_m:g} m")
    return points


def _vectors(path: Path, name: str, column: pa.Array, width: int) -> FloatArray:
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != width:
        raise ScenarioError(f"{path}: column {name} should hold {width} numbers a row, has {column.type}")
    there = np.asarray(column.is_valid().to_numpy(zero_copy_only=False)).astype(bool)
    values = np.full((len(column), width), np.nan)
    items = column.flatten()  # of the rows that are there
    if not pa.types.is_floating(items.type) or items.null_count:
        raise ScenarioError(f"{path}: column {name} should hold numbers, has {items.type} with gaps")
    values[there] = np.asarray(items.to_numpy(zero_copy_only=False)).reshape(-1, width)
    return values
