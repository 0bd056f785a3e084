"""OUT.part: the rows of a JSON-lines file that is not yet finished, so that a killed process loses none.

    part = PartFile(out, {"model": "out/run/model", ...}, resume=resume)    # what is there of an earlier run: part.rows
    part.keep(8)                                                            # go on from these
    part.append([row, row]); part.sync()
    part.finish()                                                           # OUT appears, complete, and OUT.part is gone

Its first line holds the settings that made it; with others it cannot be gone on with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsdrive.dataset import json_line, write_atomically


class PartFile:
    """See the module. instead: what a user can do where the file cannot be gone on with."""

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool = False,
        instead: str = "use --overwrite",
    ) -> None:
        """Reads what an earlier run left; writes nothing yet. ValueError where that is not wanted, or has other settings."""
        self._out, self.path = out, out.with_name(f"{out.name}.part")
        self._settings = json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if self.path.exists() and not (resume or overwrite):
            raise ValueError(f"{self.path} is there from an unfinished run: go on with --resume, or {instead}")
        # a killed process may leave half a line
        whole = [line for line in lines_of(self.path) if line.endswith("\n")] if resume else []
        if whole:
            before = json.loads(whole[0])
            changed = [f"{k}: {before.get(k)!r} -> {v!r}" for k, v in self._settings.items() if before.get(k) != v]
            if changed:
                raise ValueError(f"{self.path} was begun with other settings ({'; '.join(changed)}): {instead}")
            self.rows = [json.loads(line) for line in whole[1:]]

    def keep(self, n_rows: int) -> None:
        """Begin with the first `n_rows` of what is there."""
        del self.rows[n_rows:]
        write_atomically(self.path, json_line(self._settings) + self._text())

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(json_line(row) for row in rows))
        self.rows.extend(rows)

    def sync(self) -> None:
        """From here on also a failing power supply loses nothing."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def finish(self) -> None:
        write_atomically(self._out, self._text())
        self.path.unlink()

    def _text(self) -> str:
        return "".join(json_line(row) for row in self.rows)


def lines_of(path: Path) -> list[str]:
    """The lines of a file, with their newlines; none without the file. Not str.splitlines: it also splits at U+2028."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        return list(file)
