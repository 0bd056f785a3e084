"""A SQLite file that appears complete or not at all, with the same bytes for the same rows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a new file beside `path`; without an error it takes the place of `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    connection = sqlite3.connect(part, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")  # the file is not yet anyone's: a crash leaves only the part
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        yield connection
        if connection.in_transaction:  # executescript may have ended it
            connection.execute("COMMIT")
        connection.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        connection.close()
        part.unlink(missing_ok=True)
