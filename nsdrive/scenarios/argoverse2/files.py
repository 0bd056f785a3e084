"""Argoverse 2's files, opened with suspicion: tables become checked columns, JSON becomes checked polylines.

Everything here raises `ScenarioError` with one line that names the file and the problem, and nothing else, whatever
the bytes are. Tables are read without Arrow's threads, because a worker process that was forked must not wait for a
thread pool that stayed behind in its parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import feather, parquet

from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

MAX_COORDINATE_M = 1e6  # chosen by us: a city frame is some 10 km wide; anything beyond is a broken file
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError, RecursionError)


class Table:
    """The columns of one feather or parquet file, each checked when it is asked for."""

    def __init__(self, path: Path, columns: pa.Table) -> None:
        self.path = path
        self._columns = columns

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    def has(self, name: str) -> bool:
        return name in self._columns.column_names

    def floats(self, name: str, *, limit: float = MAX_COORDINATE_M) -> FloatArray:
        """(N,) finite numbers, none larger than `limit` in magnitude."""
        values = self._numbers(name).astype(np.float64)
        if not np.isfinite(values).all():
            raise ScenarioError(
                f"{self.path}: column '{name}' has {int((~np.isfinite(values)).sum())} NaN or inf values"
            )
        if len(values) and np.abs(values).max() > limit:
            raise ScenarioError(f"{self.path}: column '{name}' holds {np.abs(values).max():g}, more than {limit:g}")
        return values

    def integers(self, name: str) -> NDArray[np.int64]:
        """(N,) whole numbers."""
        values = self._numbers(name)
        if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
            raise ScenarioError(f"{self.path}: column '{name}' holds {values.max()}, too large for a timestamp")
        if values.dtype.kind == "f":
            whole = np.isfinite(values) & (np.abs(values) < 2.0**62)
            if not whole.all() or (values != np.round(values)).any():
                raise ScenarioError(f"{self.path}: column '{name}' should hold whole numbers")
        return values.astype(np.int64)

    def strings(self, name: str) -> NDArray[Any]:
        """(N,) texts; a whole number is taken as its digits."""
        column = self._column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            raise ScenarioError(f"{self.path}: column '{name}' holds {column.type}, expected texts")
        return np.array([str(value) for value in column.to_pylist()], dtype=object)

    def _numbers(self, name: str) -> NDArray[Any]:
        column = self._column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ScenarioError(f"{self.path}: column '{name}' holds {column.type}, expected numbers")
        return np.asarray(column.to_numpy())

    def _column(self, name: str) -> pa.ChunkedArray:
        names = self._columns.column_names
        if names.count(name) != 1:
            problem = "is missing" if name not in names else "appears more than once"
            raise ScenarioError(f"{self.path}: column '{name}' {problem} (columns: {', '.join(names)[:300]})")
        column = self._columns.column(name)
        if column.null_count:
            raise ScenarioError(f"{self.path}: column '{name}' has {column.null_count} empty values")
        return column


def read_feather(path: Path) -> Table:
    """A feather file, every buffer validated. ScenarioError where it is absent, truncated, corrupt or empty."""
    return _checked(path, "feather", lambda data: feather.read_table(pa.BufferReader(data), use_threads=False))


def read_parquet(path: Path) -> Table:
    """A parquet file, every buffer validated. ScenarioError where it is absent, truncated, corrupt or empty."""
    return _checked(
        path,
        "parquet",
        lambda data: parquet.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False),
    )


def _checked(path: Path, what: str, read: Any) -> Table:
    data = _read_bytes(path)
    try:
        columns = read(data)
        columns.validate(full=True)  # offsets and UTF-8 too: a flipped byte must not crash the process later
    except _READ_ERRORS as error:
        raise ScenarioError(f"{path}: not a readable {what} file ({one_line(error)})") from error
    if columns.num_rows == 0:
        raise ScenarioError(f"{path}: holds no rows")
    return Table(path, columns)


def rotations_of(table: Table) -> FloatArray:
    """(N, 3, 3) rotation matrices of the columns qw, qx, qy, qz. ScenarioError where one is not of length 1."""
    quaternions = np.stack([table.floats(name, limit=2.0) for name in ("qw", "qx", "qy", "qz")], axis=1)
    norms = np.linalg.norm(quaternions, axis=1)
    if (np.abs(norms - 1.0) > 1e-3).any():
        row = int(np.argmax(np.abs(norms - 1.0)))
        raise ScenarioError(f"{table.path}: the quaternion in row {row} has length {norms[row]:.4g}, expected 1")
    w, x, y, z = (quaternions / norms[:, None]).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file. ScenarioError where it is absent, truncated or not an object."""
    data = _read_bytes(path)
    try:
        content = json.loads(data)
    except _READ_ERRORS as error:
        raise ScenarioError(f"{path}: not a readable JSON file ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ScenarioError(f"{path}: holds a JSON {type(content).__name__}, expected an object")
    return content


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ScenarioError(f"{path}: is missing") from error
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({one_line(error)})") from error
    if not data:
        raise ScenarioError(f"{path}: is empty")
    return data


def polyline(path: Path, owner: str, points: Any, *, at_least: int = 2) -> FloatArray:
    """(N, 2) city x, y of a list of {"x", "y", "z"}, without repeated points.

    `owner` names the thing in an error. ScenarioError where it is no such list, not finite, or has too few points.
    """
    if not isinstance(points, list):
        raise ScenarioError(f"{path}: {owner} is a {type(points).__name__}, expected a list of points")
    try:
        xy = np.array([(point["x"], point["y"]) for point in points])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ScenarioError(f"{path}: {owner} is not a list of points with x and y ({one_line(error)})") from error
    if xy.dtype.kind not in "if" or xy.ndim != 2:
        raise ScenarioError(f"{path}: {owner} should have numbers for x and y and at least {at_least} points")
    xy = xy.astype(np.float64)
    if not np.isfinite(xy).all() or np.abs(xy).max() > MAX_COORDINATE_M:
        raise ScenarioError(f"{path}: {owner} has a coordinate that is not finite or beyond {MAX_COORDINATE_M:g} m")
    moved = np.ones(len(xy), dtype=bool)
    moved[1:] = np.hypot(*np.diff(xy, axis=0).T) > 1e-6
    xy = xy[moved]
    if len(xy) < at_least:
        raise ScenarioError(f"{path}: {owner} has {len(xy)} distinct points, expected at least {at_least}")
    return xy


def one_line(error: BaseException) -> str:
    """What an exception says, as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
