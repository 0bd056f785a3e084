"""A dataset folder in the shapes that other trainers want, and scenarios as logs and maps in nuPlan's format.

json-list: one JSON list of rows per split (what the published release's scripts read).
llama-factory: sharegpt `messages` + `images` per split, with a `dataset_info.json` that names them.
nuplan: what nuPlan's own code opens, simulates and scores; `scenarios.json` lists the tokens. No images.

Image paths stay relative to the dataset folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive.dataset import SPLITS, Dataset, write_atomically
from nsdrive.output_folder import claim_folder
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import Planner

FORMATS = ("json-list", "llama-factory")
NUPLAN = "nuplan"


@dataclass(frozen=True, kw_only=True)
class NuplanExport:
    """What was written, one row a scenario, and a line for each that could not be."""

    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[str, ...]


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


def export_nuplan(
    scenarios: Any,
    make_planner: Callable[[], Planner],
    *,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NuplanExport:
    """Write every scenario of a chosen source as a nuPlan log and map under `out`.

    make_planner: who drives the ego on where a scenario does not tell its future (nuPlan's "expert").
    """
    from nsdrive.scenarios.nuplan.write import places, write_scenario

    source = open_source(scenarios.name, scenarios.config)
    items = list(source.items())
    claim_folder(out, resume=resume, overwrite=overwrite, marker="maps")
    rows, failures = [], []
    for done, item in enumerate(items, start=1):
        try:
            scenario = source.load(item)
            written = places(scenario, out)
            if not written.log.exists():  # the log is written last
                write_scenario(scenario, out, make_planner())
        except ScenarioError as error:
            failures.append(f"{item}: {error}")
        else:
            row = {"scenario": scenario.scenario_id, "type": scenario.scenario_type, "token": written.token}
            files = {"log": written.log, "map": written.map}
            rows.append(row | {name: path.relative_to(out).as_posix() for name, path in files.items()})
        progress(done, len(items))
    write_atomically(out / "scenarios.json", json.dumps({"scenarios": rows, "failures": failures}, indent=1) + "\n")
    return NuplanExport(rows=tuple(rows), failures=tuple(failures))
