"""A dataset folder in the shapes that other trainers want, and scenarios as logs and maps in nuPlan's format.

json-list: one JSON list of rows per split (what the published release's scripts read).
llama-factory: sharegpt `messages` + `images` per split, with a `dataset_info.json` that names them.
nuplan: what nuPlan's own code opens, simulates and scores; `scenarios.json` lists the tokens, `export.json` has the settings.
No images.

Image paths stay relative to the dataset folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.dataset import SPLITS, Dataset, write_atomically
from nsdrive.output_folder import claim_file, claim_folder, settle
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.source import ScenarioError, checksum
from nsdrive.world.types import Planner

FORMATS = ("json-list", "llama-factory")
NUPLAN = "nuplan"
INFO = "dataset_info.json"  # of LLaMA-Factory
SETTINGS = "export.json"  # what a nuPlan export was made of; only such a folder has it


@dataclass(frozen=True, kw_only=True)
class NuplanExport:
    """What was written, one row a scenario, and a line for each that could not be."""

    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[str, ...]


def export(dataset: Dataset, *, kind: str, out: Path, overwrite: bool = False) -> list[Path]:
    """Write every split that has samples; returns the files. overwrite: in place of an earlier export.

    Raises ValueError for an unknown format, where `out` is in a dataset or has files of these names, and for a broken line.
    """
    if kind not in FORMATS:
        raise ValueError(f"No export format '{kind}'. Known: {', '.join(FORMATS)}")
    targets = [out / f"{split}.json" for split in SPLITS] + [out / INFO] * (kind == "llama-factory")
    for path in targets:
        claim_file(path, overwrite=overwrite)
    written = []
    info: dict[str, Any] = {}
    for split, path in zip(SPLITS, targets, strict=False):
        rows = (row for _, row in dataset.rows(split))
        if kind == "llama-factory":
            rows = ({"messages": row["messages"], "images": row["images"]} for row in rows)
        if not _write_list(path, rows):
            continue
        written.append(path)
        if kind == "llama-factory":
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
    if info:
        write_atomically(out / INFO, json.dumps(info, indent=2) + "\n")
        written.append(out / INFO)
    left = [path.name for path in targets if path not in written and path.exists()]
    if left:
        print(f"{out} still has {', '.join(left)}, which this dataset has no samples for", file=sys.stderr)
    return written


def _write_list(path: Path, rows: Iterator[Mapping[str, Any]]) -> bool:
    """Write rows as one JSON list, held in memory one at a time; False, and no file, where there are none.

    The bytes are those of `json.dumps(rows, indent=1)`; the file appears complete or not at all.
    """
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = False
    try:
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                told = json.dumps(row, ensure_ascii=False, indent=1).replace("\n", "\n ")  # a text has no bare newline
                file.write(f"{',' if begun else '['}\n {told}")
                begun = True
            file.write("\n]\n")
            file.flush()
            os.fsync(file.fileno())
        if begun:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return begun


def export_nuplan(
    scenarios: Any,
    planner: Any,
    make_planner: Callable[[], Planner],
    *,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NuplanExport:
    """Write every scenario of a chosen source as a nuPlan log and map under `out`.

    planner, make_planner: who drives the ego on where a scenario does not tell its future (nuPlan's "expert"), as chosen and
    to be made. ValueError where `out` is taken, or --resume meets a folder that was begun with other settings.
    """
    from nsdrive.scenarios.nuplan.write import places, write_scenario

    source = open_source(scenarios.name, scenarios.config)
    items = list(source.items())
    claim_folder(out, resume=resume, overwrite=overwrite, marker=SETTINGS)
    chosen = {"scenarios": to_plain(scenarios), "planner": to_plain(planner)}
    settle(out, SETTINGS, {"nsdrive": __version__, **chosen, "items": checksum(items)})
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
