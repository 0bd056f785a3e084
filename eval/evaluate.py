"""Predictions files -> results.json and samples.jsonl: every number of the report, each with its interval.

    results["predictions"]["model"]["strict"]["3s"]["ADE"]   -> {"value": 0.31, "low": 0.27, "high": 0.36}
    results["predictions"]["model"]["parsed"]["3s"]["ADE"]   -> the same over complete answers only
    results["predictions"]["model"]["by_binding_rule"]["lead"]["strict"]["3s"]["MR"]
    results["baselines"]["blind_idm"]["strict"]["3s"]["ADE"] -> computed here, whatever files were given

`strict` counts every sample of the split: an answer that cannot be read, or is missing, is a miss, 10 m off at every
waypoint and 180 deg off in heading. `parsed` counts only complete answers, as the published script does; it flatters a
model that fails on hard samples, so no headline uses it. Intervals: see `eval.bootstrap`. Same input, same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.answers import Answers, Labels, collect
from eval.bootstrap import LEVEL, RESAMPLES, Estimate, cluster_mean
from eval.displacement import (
    COLUMNS,
    FAILED_DISPLACEMENT_M,
    FAILED_HEADING_DEG,
    HORIZONS,
    MEASURES,
    MISS_M,
    STATIONARY_STEP_M,
    displacements_m,
    measure,
)
from eval.faithfulness.reasoning import REPLAY_TOLERANCE_M, summarise
from nsdrive import __version__
from nsdrive.dataset import MANIFEST, Dataset, json_line, sha256_of, write_atomically
from nsdrive.world.types import FloatArray

SCORE_VERSION = 1  # raise it whenever the same predictions would get other numbers
FORMAT_VERSION = 1
RESULTS = "results.json"
SAMPLES = "samples.jsonl"
REASONS_SHOWN = 20  # chosen by us: kinds of failure listed per file, the rest is counted together

DEFINITIONS = {
    "ADE": "mean distance of the waypoints up to the horizon from the label's, m",
    "FDE": "distance of the waypoint at the horizon, m",
    "MR": f"share of samples with FDE above {MISS_M} m",
    "AHE": "mean angle between predicted and labelled heading up to the horizon, deg",
    "FHE": "that angle at the horizon, deg",
    "heading": f"direction of the step to a waypoint; a step shorter than {STATIONARY_STEP_M} m keeps the heading before",
    "strict": f"every sample; a failed or missing answer counts {FAILED_DISPLACEMENT_M} m and {FAILED_HEADING_DEG} deg "
    "at every waypoint, and as a miss",
    "parsed": "only complete answers, ten finite waypoints",
    "low, high": f"{LEVEL:.0%} interval by cluster bootstrap over scenarios, {RESAMPLES} resamples; null with one scenario",
    "difference_to_first": "this file minus the first one on the same samples; the interval is of the paired difference",
    "replay_consistent": "share of readable reasonings whose text, replayed, drives within "
    f"{REPLAY_TOLERANCE_M} m of the answer's own waypoints at 3 s",
}


def evaluate(
    predictions_files: Sequence[str | Path] | Mapping[str, str | Path],
    dataset: Dataset,
    out: str | Path,
    *,
    split: str = "test",
    seed: int = 0,
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure predictions files against a split; writes `out`/results.json and samples.jsonl and returns the results.

    predictions_files: paths, or name -> path. about: name -> one line on what made it ("LoRA on 1 000 samples"), for the
    report. Raises ValueError for files that do not belong to the split, an empty split, or an `out` that has results.
    """
    out = Path(out)
    if (out / RESULTS).exists() and not overwrite:
        raise ValueError(f"{out} has results. Replace them with --overwrite, or choose another --out")
    files = name_files(predictions_files)
    unknown = sorted(set(about or {}) - set(files))
    if unknown:
        raise ValueError(f"'about' names {unknown}, but the predictions are called {', '.join(files)}")
    labels, from_files, blind = collect(files, dataset, split, progress)

    entries, lines = {}, []
    first: Estimate | None = None
    for answers in [*from_files, *blind]:
        columns = _columns(answers, labels)
        overall = cluster_mean(columns, np.ones(len(columns), dtype=bool), np.array(labels.scenarios), seed)
        entry = _entry(answers, columns, overall, labels, seed)
        entry["about"] = (about or {}).get(answers.name)
        if answers.path is not None:
            entry |= {"file": _relative(answers.path, out), "sha256": sha256_of(answers.path)}
        if first is None:
            first = overall
        else:
            entry["difference_to_first"] = _cells(overall.minus(first))
        entries[answers.name] = entry
        lines += _sample_lines(answers, columns, labels)

    results = {
        "format_version": FORMAT_VERSION,
        "score_version": SCORE_VERSION,
        "nsdrive": __version__,
        "seed": seed,
        "dataset": _dataset_facts(dataset, split, labels, out),
        "definitions": DEFINITIONS,
        "units": MEASURES,
        "first": from_files[0].name,
        "predictions": {answers.name: entries[answers.name] for answers in from_files},
        "baselines": {answers.name: entries[answers.name] for answers in blind},
        "label_reasoning": summarise(labels.reasoning),
        "warnings": _warnings(from_files),
    }
    write_atomically(out / SAMPLES, "".join(lines))
    write_atomically(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return results


def name_files(predictions_files: Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """A short, unique name for each file: its stem, or its folder's name where the stem only says "predictions"."""
    if isinstance(predictions_files, Mapping):
        files = {str(name): Path(path) for name, path in predictions_files.items()}
    else:
        paths = [Path(path) for path in predictions_files]
        plain = [p.resolve().parent.name if p.stem == "predictions" else p.stem for p in paths]
        longer = [f"{p.resolve().parent.name}/{p.stem}" for p in paths]
        files = {}
        for path, short, long in zip(paths, plain, longer, strict=True):
            name = short if plain.count(short) == 1 else long
            if name in files:
                raise ValueError(f"Two predictions files are called '{name}': rename one of {files[name]} and {path}")
            files[name] = path
    if not files:
        raise ValueError("No predictions files given")
    return files


def table(results: Mapping[str, Any], horizon: str = "3s") -> str:
    """The headline as plain text, for a terminal: strict, with intervals, and the parsed ADE beside it."""
    rows = [("", f"ADE@{horizon} [m]", f"FDE@{horizon} [m]", f"MR@{horizon} [%]", "parsed ADE [m]", "failed", "n")]
    for name, entry in {**results["predictions"], **results["baselines"]}.items():
        strict, parsed = entry["strict"][horizon], entry["parsed"][horizon]
        rows.append(
            (
                name,
                _range(strict["ADE"]),
                _range(strict["FDE"]),
                _range(strict["MR"], scale=100.0, digits=1),
                "-" if parsed["ADE"]["value"] is None else f"{parsed['ADE']['value']:.2f}",
                str(entry["parse_failures"]),
                str(entry["n"]),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"warning: {text}" for text in results["warnings"])])


# ---- one predictions file -------------------------------------------------------------------------------------------


def _columns(answers: Answers, labels: Labels) -> FloatArray:
    """(N, 30): the 20 measures of `COLUMNS`, then the displacement at each of the 10 waypoints."""
    predicted, label, complete = answers.waypoints_ego_m, labels.waypoints_ego_m, answers.complete
    return np.concatenate([measure(predicted, label, complete), displacements_m(predicted, label, complete)], axis=1)


def _entry(answers: Answers, columns: FloatArray, overall: Estimate, labels: Labels, seed: int) -> dict[str, Any]:
    scenarios, complete = np.array(labels.scenarios), answers.complete
    parsed = cluster_mean(columns, complete, scenarios, seed)
    reasons = Counter(error[:200] for error in answers.errors if error is not None)
    named = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    failures = dict(named[:REASONS_SHOWN])
    if named[REASONS_SHOWN:]:
        failures["other reasons"] = sum(count for _, count in named[REASONS_SHOWN:])
    entry: dict[str, Any] = {
        "n": len(columns),
        "scenarios": len(set(labels.scenarios)),
        "parse_failures": int((~complete).sum()),
        "failures": failures,
        "in_order": answers.in_order,
        "seconds_mean": _rounded(float(np.mean(answers.seconds))) if any(answers.seconds) else None,
        "strict": _cells(overall),
        "parsed": _cells(parsed),
        "displacement_m": {"strict": _curve(overall), "parsed": _curve(parsed)},
        "reasoning": summarise(answers.reasoning) if answers.reasoning else None,
    }
    for title, groups in (("by_scenario_type", labels.scenario_types), ("by_binding_rule", labels.binding_rules)):
        entry[title] = {
            group: _group(columns, complete, scenarios, np.array(groups) == group, seed)
            for group in sorted(set(groups))
        }
    return entry


def _group(
    columns: FloatArray, complete: np.ndarray, scenarios: np.ndarray, rows: np.ndarray, seed: int
) -> dict[str, Any]:
    columns, complete, scenarios = columns[rows], complete[rows], scenarios[rows]
    return {
        "n": int(rows.sum()),
        "scenarios": len(np.unique(scenarios)),
        "parse_failures": int((~complete).sum()),
        "strict": _cells(cluster_mean(columns, np.ones(len(columns), dtype=bool), scenarios, seed)),
        "parsed": _cells(cluster_mean(columns, complete, scenarios, seed)),
    }


def _cells(estimate: Estimate) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"3s": {"ADE": {"value", "low", "high"}}}; null where nothing is known."""
    cells: dict[str, dict[str, dict[str, float | None]]] = {horizon: {} for horizon in HORIZONS}
    for k, column in enumerate(COLUMNS):
        horizon, name = column.split("/")
        cells[horizon][name] = {
            "value": _rounded(estimate.value[k]),
            "low": _rounded(estimate.low[k]),
            "high": _rounded(estimate.high[k]),
        }
    return cells


def _curve(estimate: Estimate) -> dict[str, list[float | None]]:
    """Mean displacement at 0.5, 1.0 ... 5.0 s."""
    start = len(COLUMNS)
    return {name: [_rounded(v) for v in getattr(estimate, name)[start:]] for name in ("value", "low", "high")}


def _sample_lines(answers: Answers, columns: FloatArray, labels: Labels) -> list[str]:
    lines = []
    for i, sample_id in enumerate(labels.ids):
        row: dict[str, Any] = {
            "predictions": answers.name,
            "id": sample_id,
            "scenario": labels.scenarios[i],
            "scenario_type": labels.scenario_types[i],
            "binding_rule": labels.binding_rules[i],
            "error": answers.errors[i],
        }
        row |= {column: _rounded(columns[i, k], 4) for k, column in enumerate(COLUMNS)}
        if answers.reasoning:
            row |= answers.reasoning[i].to_row()
        lines.append(json_line(row))
    return lines


# ---- the run as a whole ---------------------------------------------------------------------------------------------


def _dataset_facts(dataset: Dataset, split: str, labels: Labels, out: Path) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "folder": _relative(dataset.folder, out),
        "name": dataset.folder.resolve().name,
        "manifest_sha256": sha256_of(dataset.folder / MANIFEST),
        "made_by_nsdrive": manifest.get("nsdrive"),
        "source": manifest.get("source"),
        "licence": manifest.get("licence"),
        "config": manifest.get("config"),
        "all_splits": manifest.get("counts", {}).get("split"),
        "split": split,
        "samples": len(labels.ids),
        "scenarios": len(set(labels.scenarios)),
        "scenario_types": dict(sorted(Counter(labels.scenario_types).items())),
        "binding_rules": dict(sorted(Counter(labels.binding_rules).items())),
        "planners": dict(sorted(Counter(labels.planners).items())),
    }


def _warnings(from_files: Sequence[Answers]) -> list[str]:
    warnings = []
    for answers in from_files:
        failed = int((~answers.complete).sum())
        if not answers.in_order:
            warnings.append(f"{answers.name}: its rows are not in the split's order (the numbers do not depend on it)")
        if failed == len(answers.errors):
            warnings.append(f"{answers.name}: no answer could be read; its strict numbers are the penalty alone")
    return warnings


def _relative(path: Path, out: Path) -> str:
    """The path from the output folder, so that a report finds it when both are moved together."""
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


def _rounded(value: float, digits: int = 6) -> float | None:
    return round(float(value), digits) + 0.0 if np.isfinite(value) else None


def _range(cell: Mapping[str, float | None], *, scale: float = 1.0, digits: int = 2) -> str:
    if cell["value"] is None:
        return "-"
    text = f"{scale * cell['value']:.{digits}f}"
    if cell["low"] is None or cell["high"] is None:
        return text
    return f"{text} [{scale * cell['low']:.{digits}f}, {scale * cell['high']:.{digits}f}]"
