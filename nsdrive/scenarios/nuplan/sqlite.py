"""SQLite files opened with suspicion: nuPlan's logs (.db) and its maps (.gpkg) are both such files.

Everything is read-only; no file is locked and none is written beside. Whatever is wrong with a file, one line says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nsdrive.scenarios.source import ScenarioError

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\x00"
MAX_PARAMETERS = 500  # below SQLite's oldest limit of 999 per statement


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection with named columns. ScenarioError, one line, where the file is absent, cut off or broken.

    What goes wrong inside the block becomes one too: a missing table, a malformed page, a text where a number should be.
    """
    _check_header(path)
    connection = None
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        connection.row_factory = sqlite3.Row
        yield connection
    except ScenarioError:
        raise
    except (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ScenarioError(f"{path}: cannot be read ({one_line(error)})") from error
    finally:
        if connection is not None:
            connection.close()


def one_line(error: BaseException) -> str:
    """What an exception says, as one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """The names of a table's columns; empty where there is no such table."""
    return frozenset(row["name"] for row in connection.execute(f'pragma table_info("{table}")'))


def select_in(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
    """The rows of a query whose `{}` stands for a list of values of any length."""
    rows: list[sqlite3.Row] = []
    for start in range(0, len(values), MAX_PARAMETERS):
        some = list(values[start : start + MAX_PARAMETERS])
        rows += connection.execute(query.format(",".join("?" * len(some))), some).fetchall()
    return rows


def _check_header(path: Path) -> None:
    """A file that is no database, or shorter than its own header says, is told apart before SQLite looks into it."""
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise ScenarioError(f"{path}: is missing") from error
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    if not header:
        raise ScenarioError(f"{path}: is empty")
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise ScenarioError(f"{path}: is not a SQLite database")
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages, is_counted = int.from_bytes(header[28:32], "big"), header[24:28] == header[92:96]
    if is_counted and size < page_bytes * pages:
        raise ScenarioError(f"{path}: holds {size} of {page_bytes * pages} bytes (is its download complete?)")
