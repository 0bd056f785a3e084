"""Folders of results read back and laid side by side: evaluations of the same samples share tables, others never do."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.closed_loop.tables import ClosedLoopRun, checked_drive
from eval.evaluate import FORMAT_VERSION, RESULTS, SAMPLES, SCORE_VERSION
from eval.open_loop.baselines import BASELINES
from eval.open_loop.predictions_file import read_file
from nsdrive.dataset import MANIFEST, Dataset, Prediction, open_dataset, sha256_of

ORACLE = "oracle"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One evaluation folder."""

    folder: Path
    results: Mapping[str, Any]

    def path(self, relative: str) -> Path:
        """A path that results.json names from its own folder."""
        return Path(self.folder / relative)

    def sample_rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of samples.jsonl of one predictions file, in the split's order."""
        return self._samples.get(name, [])

    @cached_property
    def _samples(self) -> dict[str, list[dict[str, Any]]]:
        path = self.folder / SAMPLES
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has {RESULTS} but no {SAMPLES}: evaluate again with --overwrite")
        rows: dict[str, list[dict[str, Any]]] = {}
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                rows.setdefault(row["predictions"], []).append(row)
        return rows


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a predictions file or a baseline. `key` is its name inside its run."""

    name: str
    key: str
    run: Run
    entry: Mapping[str, Any]

    def predictions(self, wanted: Collection[str]) -> dict[str, Prediction]:
        """The answers to some samples, with their texts, read again from a file of any format; as measured: of two answers to a
        sample the first, failed where they contradict each other. Raises ValueError where the file is not the one measured.
        """
        if self.entry.get("file") is None:
            raise ValueError(f"{self.name} was computed, not read from a file")
        path = self.run.path(self.entry["file"])
        if not path.is_file():
            raise ValueError(f"{path} is gone: its answers cannot be shown")
        if sha256_of(path) != self.entry["sha256"]:
            raise ValueError(f"{path} has changed since it was evaluated: its answers are not shown")
        measured = {row["id"]: row["error"] for row in self.run.sample_rows(self.key) if row["id"] in wanted}
        file, found = read_file(path, only_free=bool(self.entry.get("probes"))), {}
        for k, sample_id in enumerate(file.ids):
            if sample_id in measured and sample_id not in found:
                prediction, error = file.prediction(k), measured[sample_id]
                waypoints = None if error is not None else prediction.waypoints_ego_m
                found[sample_id] = replace(prediction, error=error, waypoints_ego_m=waypoints)
        return found

    @property
    def kind(self) -> str:
        """model, control, baseline or oracle; the last two by name: a file says nothing else about what made it."""
        if self.key == ORACLE:
            return "oracle"
        if self.entry.get("control"):
            return "control"
        return "baseline" if self.key in BASELINES else "model"


@dataclass(kw_only=True)
class Comparison:
    """Everything measured on one split of one dataset, or on the same part of it. rows: models first, each followed by its
    controls, then baselines, then the oracle."""

    facts: Mapping[str, Any]
    runs: list[Run] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def main(self) -> Row:
        """The row that the report is about: the first model, or the first row where there is none."""
        return self.rows[0]

    @property
    def best_blind(self) -> Row | None:
        """The baseline with the least strict ADE@3s: what a model must beat."""
        blind = [row for row in self.rows if row.kind == "baseline"]
        return min(blind, key=lambda row: row.entry["strict"]["3s"]["ADE"]["value"], default=None)

    def dataset(self) -> tuple[Dataset | None, str]:
        """The dataset if it is still there and unchanged, else None and why."""
        if self.facts["folder"] is None:
            return None, "the labels came with the predictions files: there are no images and no scenes"
        folder = self.runs[0].path(self.facts["folder"])
        try:
            dataset = open_dataset(folder)
        except (OSError, ValueError) as error:
            return None, str(error)
        if sha256_of(folder / "manifest.json") != self.facts["manifest_sha256"]:
            return None, f"{folder} has changed since it was evaluated"
        return dataset, ""


def load_runs(folders: Sequence[str | Path]) -> tuple[list[Comparison], list[ClosedLoopRun]]:
    """Read folders of results: evaluations grouped by dataset and split, and closed-loop runs, in the order given.

    Raises FileNotFoundError or ValueError where a folder holds no results that this program can read.
    """
    if not folders:
        raise ValueError("No folders given")
    found: dict[tuple[str, str, str | None], Comparison] = {}
    drives: list[ClosedLoopRun] = []
    for folder in folders:
        results = _read(Path(folder))
        if "scenarios" in results and "predictions" not in results:
            drives.append(checked_drive(Path(folder), results))
            continue
        run = _checked(Path(folder), results)
        facts = run.results["dataset"]
        samples = (
            facts["manifest_sha256"],
            facts["split"],
            facts.get("samples_sha256"),
        )  # the last of a part of the split
        found.setdefault(samples, Comparison(facts=facts)).runs.append(run)
    for comparison in found.values():
        comparison.rows = _rows(comparison.runs)
    return list(found.values()), drives


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} is a dataset. A report is drawn of an evaluation of answers to it: "
            f"nsdrive evaluate --predictions FILE ... --data {folder} --out EVALUATION"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path}. Make it: nsdrive evaluate --predictions FILE ... --data DATASET --out {folder}"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(results, dict):
        raise ValueError(f"{path} is not a JSON object")
    return results


def _checked(folder: Path, results: Mapping[str, Any]) -> Run:
    path = folder / RESULTS
    if "predictions" not in results or "dataset" not in results:
        raise ValueError(f"{path} holds neither results of `nsdrive evaluate` nor of `nsdrive simulate`")
    versions = results.get("format_version"), results.get("score_version")
    if versions != (FORMAT_VERSION, SCORE_VERSION):
        raise ValueError(
            f"{path} has format and score versions {versions}, this program {(FORMAT_VERSION, SCORE_VERSION)}: "
            "evaluate again, so that all numbers mean the same"
        )
    return Run(folder=folder, results=results)


def _rows(runs: Sequence[Run]) -> list[Row]:
    rows: list[Row] = []
    seen_baselines: set[str] = set()
    counts: dict[str, int] = {}
    for run in runs:
        for key in run.results["predictions"]:
            counts[key] = counts.get(key, 0) + 1
    for run in runs:
        for key, entry in {**run.results["predictions"], **run.results["baselines"]}.items():
            if key in BASELINES:  # a function of the dataset: the same in every run
                if key in seen_baselines:
                    continue
                seen_baselines.add(key)
            name = f"{run.folder.name}: {key}" if counts.get(key, 0) > 1 and key not in BASELINES else key
            rows.append(Row(name=name, key=key, run=run, entry=entry))
    order = {"model": 0, "control": 0, "baseline": 1, "oracle": 2}
    return sorted(rows, key=lambda row: order[row.kind])
