"""What others read in a run's folder, a resumed run and the report among them: the files' names and rows. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOSSES, VALIDATIONS = "loss.jsonl", "validation.jsonl"
CONFIG, DONE = "config.json", "train.json"
STOPPED = "stopped.json"  # asked to stop; neither this nor DONE: still running, or ended by an error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a loss.jsonl or validation.jsonl, [] where there is none; a last line that a killed process cut short is left
    out. ValueError naming the line for what no training wrote."""
    if not path.is_file():
        return []
    rows = []
    for k, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ValueError(f"{path}, line {k} is no row of a training's log")
        rows.append(row)
    return rows
