"""A finished ablation's folder -> one dict: cells, ratios, baselines, curves, runs. Same input, same bytes.

    results = collect(config, Path("out/ablation"))
    results["cells"]["8-detailed"]["text"]["3s/ADE"]   -> {"value": 2.1, "low": 1.8, "high": 2.4, "seeds": [2.0, 2.2], ...}
    results["ratios"][0]     -> {"above": "3-detailed/text", "below": "3-none/text", "measure": "3s/ADE", "value": 0.97, "low": ...}
    results["curves"]["8-none"]["text"][0]   -> {"samples_seen": 400, "n": 32, "ADE@3s": [3.1, 2.9], "miss_rate@3s": [0.6, 0.5]}

What an answer is called: text (waypoints read from the text), head (those of the trajectory head), text.black (text, every
image blacked out), and so on for every control.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from eval.ablation.estimates import MEASURES, Seeds, cell_of, ratio_of, seeds_of
from nsdrive import __version__
from nsdrive.ablation import AblationConfig, Run, asked, runs_of
from nsdrive.config import to_plain
from nsdrive.dataset import split_lines
from nsdrive.vla.training.logs import VALIDATIONS, read_log
from nsdrive.world.types import FloatArray

FORMAT_VERSION = 1
EVALUATION = "evaluation"
TAKEN = ("parameters", "steps", "samples_seen", "answer_tokens", "first_loss", "final_loss", "seconds", "device")


def collect(
    config: AblationConfig, out: Path, *, spent: Mapping[str, Mapping[str, float]] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Read `out`/evaluation and every run. spent: what each step took (`nsdrive.stepwise.spent_by`), kept as it is.

    Raises ValueError or FileNotFoundError naming what is not there.
    """
    evaluated = _json(out / EVALUATION / "results.json")
    found = _samples(out / EVALUATION / "samples.jsonl")
    runs = runs_of(config)
    for name in (f"{run.name}.{answer}" for run in runs for answer, _ in asked(config, run.level)):
        if name not in found:
            raise ValueError(f"{out / EVALUATION} has no answers {name}: --resume makes them")
    scenarios = next(iter(found.values()))[0]
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.cell, []).append(run)
    seeds: dict[tuple[str, str], dict[str, Seeds]] = {
        (cell, answer): {
            measure: seeds_of(
                [found[f"{run.name}.{answer}"][1][measure] for run in members],
                scenarios,
                seed=seed,
                side=side,
                most=most,
            )
            for measure, most in MEASURES.items()
        }
        for side, (cell, members) in enumerate(grouped.items())
        for answer, _ in asked(config, members[0].level)
    }
    entries = evaluated["predictions"]
    cells: dict[str, dict[str, Any]] = {cell: {} for cell in grouped}
    for (cell, answer), measured in seeds.items():
        failed = [int(entries[f"{run.name}.{answer}"]["parse_failures"]) for run in grouped[cell]]
        cells[cell][answer] = {measure: cell_of(one) for measure, one in measured.items()} | {"failed": failed}
    facts = evaluated["dataset"]
    return {
        "format_version": FORMAT_VERSION,
        "nsdrive": __version__,
        "about": config.about,
        "config": to_plain(config),
        "dataset": {
            name: facts.get(name) for name in ("samples", "scenarios", "split", "all_splits", "manifest_sha256")
        },
        "cells": cells,
        "ratios": _ratios(config, seeds),
        "baselines": {
            name: {measure: _strict(entry, measure) for measure in MEASURES}
            for name, entry in evaluated["baselines"].items()
        },
        "curves": {cell: _curves([out / "runs" / run.name for run in members]) for cell, members in grouped.items()},
        "runs": {run.name: _run(out / "runs" / run.name) for run in runs},
        "spent": dict(spent or {}),
    }


def _ratios(config: AblationConfig, seeds: Mapping[tuple[str, str], Mapping[str, Seeds]]) -> list[dict[str, Any]]:
    """Each level against the one without reasoning, each variant against its cell, eight cameras against three, and each control
    against the answers that it is of; where both are there."""
    cells = dict.fromkeys(cell for cell, _ in seeds)
    pairs = [
        ("reasoning", f"{rig}-{level}", f"{rig}-none")
        for rig in config.rigs
        for level in config.levels
        if level != "none"
    ]
    pairs += [("variant", variant.name, f"{variant.rig}-{variant.level}") for variant in config.variants]
    pairs += [
        ("cameras", f"{many}-{level}", f"{few}-{level}") for few, many in _steps_up(config) for level in config.levels
    ]
    answers = dict.fromkeys(answer for _, answer in seeds)
    compared = [(kind, (a, answer), (b, answer)) for answer in answers if "." not in answer for kind, a, b in pairs]
    for control in (answer for answer in answers if "." in answer):
        own, _, name = control.partition(".")
        compared += [(f"control {name}", (cell, control), (cell, own)) for cell in cells]
    there = [(kind, a, b) for kind, a, b in compared if a in seeds and b in seeds]
    return [
        {
            "kind": kind,
            "above": "/".join(above),
            "below": "/".join(below),
            "measure": measure,
            **ratio_of(seeds[above][measure], seeds[below][measure]),
        }
        for kind, above, below in there
        for measure in MEASURES
    ]


def _steps_up(config: AblationConfig) -> list[tuple[str, str]]:
    return list(pairwise(sorted(config.rigs, key=int)))


def _samples(path: Path) -> dict[str, tuple[np.ndarray, dict[str, FloatArray]]]:
    """Predictions' name -> scenario of each sample (N,), and its measures (N,) each; all of the same samples in one order."""
    if not path.is_file():
        raise FileNotFoundError(f"No {path}: the ablation is not finished, go on with --resume")
    rows: dict[str, list[tuple[str, ...]]] = {}
    for line in split_lines(path):
        row = json.loads(line)
        rows.setdefault(row["predictions"], []).append((row["scenario"], *(row[measure] for measure in MEASURES)))
    if not rows:
        raise ValueError(f"{path} is empty")
    return {
        name: (
            np.array([row[0] for row in of_one]),
            {measure: np.array([row[1 + k] for row in of_one], dtype=float) for k, measure in enumerate(MEASURES)},
        )
        for name, of_one in rows.items()
    }


def _strict(entry: Mapping[str, Any], measure: str) -> dict[str, Any]:
    horizon, name = measure.split("/")
    found = entry["strict"][horizon][name]
    return {key: found[key] for key in ("value", "low", "high")}


def _curves(folders: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """what ("text", "head") -> its points, each of all seeds that have it."""
    points: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for folder in folders:
        for row in read_log(folder / VALIDATIONS):
            points.setdefault(str(row["what"]), {}).setdefault(int(row["samples_seen"]), []).append(row)
    return {
        what: [
            {
                "samples_seen": seen,
                "n": rows[0]["n"],
                **{name: [row[name] for row in rows] for name in ("ADE@3s", "miss_rate@3s")},
            }
            for seen, rows in sorted(by_seen.items())
        ]
        for what, by_seen in sorted(points.items(), reverse=True)
    }


def _run(folder: Path) -> dict[str, Any]:
    summary = _json(folder / "train.json")
    return {name: summary.get(name) for name in TAKEN}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"No {path}: the ablation is not finished, go on with --resume")
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found
