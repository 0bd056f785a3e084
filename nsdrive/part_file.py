"""OUT.part: the rows of a JSON-lines file that is not yet finished, so that a killed process loses none.

    part = PartFile(out, {"model": "out/run/model", ...}, resume=resume)    # what is there of an earlier run: part.rows
    part.keep(8)                                                            # go on from these
    part.append([row, row]); part.sync()
    part.finish()                                                           # OUT appears, complete, and OUT.part is gone
    check_finished(out, {"model": "out/run/model", ...})                    # later: is OUT what these settings make?
    begun_with(out)                                                         # the settings of what is there

Its first line holds the settings that made it; with others it cannot be gone on with. Beside a finished file they lie in
OUT's name with .settings.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsdrive.dataset import json_line, sha256_of, write_atomically
from nsdrive.output_folder import changes, refuse_both


class PartFile:
    """See the module. instead: what a user can do where the file cannot be gone on with. settings: as `keep` and
    `finish` write them."""

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
        refuse_both(resume=resume, overwrite=overwrite)
        self._out, self.path = out, out.with_name(f"{out.name}.part")
        self.settings = json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if self.path.exists() and not (resume or overwrite):
            raise ValueError(f"{self.path} is there from an unfinished run: go on with --resume, or {instead}")
        whole = _whole_lines(self.path) if resume else []
        if whole:
            changed = changes(json.loads(whole[0]), self.settings)
            if changed:
                raise ValueError(f"{self.path} was begun with other settings ({changed}): {instead}")
            self.rows = [json.loads(line) for line in whole[1:]]

    def keep(self, n_rows: int) -> None:
        """Begin with the first `n_rows` of what is there."""
        del self.rows[n_rows:]
        write_atomically(self.path, json_line(self.settings) + self._text())

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(json_line(row) for row in rows))
        self.rows.extend(rows)

    def sync(self) -> None:
        """From here on also a failing power supply loses nothing."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def finish(self) -> None:
        content = self._text().encode("utf-8")
        made = {"sha256": hashlib.sha256(content).hexdigest(), "settings": self.settings}
        write_atomically(settings_path(self._out), json.dumps(made, ensure_ascii=False, indent=2) + "\n")
        write_atomically(self._out, content)
        self.path.unlink()

    def _text(self) -> str:
        return "".join(json_line(row) for row in self.rows)


def settings_path(out: Path) -> Path:
    """Where the settings of a finished file lie: predictions.jsonl -> predictions.settings.json."""
    return out.with_name(f"{out.stem}.settings.json")


def begun_with(out: Path) -> dict[str, Any]:
    """The settings of a finished file, else of its unfinished part; none where there is neither, or one that cannot be read."""
    try:
        if out.exists():
            return dict(json.loads(settings_path(out).read_text(encoding="utf-8"))["settings"])
        with out.with_name(f"{out.name}.part").open(encoding="utf-8", newline="\n") as file:
            return dict(json.loads(file.readline()))
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def check_finished(out: Path, settings: Mapping[str, Any], *, instead: str = "use --overwrite") -> None:
    """ValueError, one line, for a finished file that was not made with these settings, or of which that is not known."""
    path = settings_path(out)
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        before, sha256 = dict(made["settings"]), made["sha256"]
    except (OSError, KeyError, TypeError, ValueError):
        raise ValueError(f"{out} is there, but not {path.name}, which says how it was made: {instead}") from None
    if sha256_of(out) != sha256:
        raise ValueError(f"{out} is not the file that {path.name} speaks of: {instead}")
    changed = changes(before, json.loads(json.dumps(settings)))
    if changed:
        raise ValueError(f"{out} was made with other settings ({changed}): {instead}")


def _whole_lines(path: Path) -> list[str]:
    """Without what a killed process may have left of a last one, in the midst of a letter even."""
    if not path.is_file():
        return []
    return [line.decode("utf-8") for line in path.read_bytes().split(b"\n")[:-1]]


def lines_of(path: Path) -> list[str]:
    """The lines of a file, with their newlines; none without the file. Not str.splitlines: it also splits at U+2028."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        return list(file)
