"""A dataset folder in the shapes that other trainers want. Image paths stay relative to the dataset folder.

json-list: one JSON list of rows per split (what the published release's scripts read).
llama-factory: sharegpt `messages` + `images` per split, with a `dataset_info.json` that names them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nsdrive.dataset import SPLITS, Dataset, write_atomically

FORMATS = ("json-list", "llama-factory")


def export(dataset: Dataset, *, kind: str, out: Path) -> list[Path]:
    """Write every split that has samples; returns the files. Raises ValueError for an unknown format."""
    if kind not in FORMATS:
        raise ValueError(f"No export format '{kind}'. Known: {', '.join(FORMATS)}")
    written = []
    info: dict[str, Any] = {}
    for split in SPLITS:
        rows = [row for _, row in dataset.rows(split)]
        if not rows:
            continue
        path = out / f"{split}.json"
        if kind == "llama-factory":
            rows = [{"messages": row["messages"], "images": row["images"]} for row in rows]
            info[f"nsdrive_{split}"] = {
                "file_name": path.name,
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                },
            }
        write_atomically(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        written.append(path)
    if info:
        write_atomically(out / "dataset_info.json", json.dumps(info, indent=2) + "\n")
        written.append(out / "dataset_info.json")
    return written
