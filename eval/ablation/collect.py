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
from nsdrive.ablation import AblationConfig, Run, runs_of
from nsdrive.config import to_plain
from nsdrive.dataset import split_lines
from nsdrive.world.types import FloatArray

FORMAT_VERSION = 1
EVALUATION = "evaluation"
TAKEN = ("parameters", "steps", "samples_seen", "answer_tokens", "first_loss", "final_loss", "seconds", "device")


def collect(
    config: AblationConfig, out: Path, *, seconds: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Read `out`/evaluation and every run. seconds: how long each step took, kept as it is.

    Raises ValueError or FileNotFoundError naming what is not there.
    """
    evaluated = _json(out / EVALUATION / "results.json")
    found = _samples(out / EVALUATION / "samples.jsonl")
    runs = runs_of(config)
    answers = _answers(runs, found)
    scenarios = next(iter(found.values()))[0]
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.cell, []).append(run)
    seeds: dict[tuple[str, str], dict[str, Seeds]] = {
        (cell, answer): {
            measure: seeds_of(
                [found[f"{run.name}.{answer}"][1][measure] for run in members], scenarios, seed=seed, side=side
            )
            for measure in MEASURES
        }
        for answer in answers
        for side, (cell, members) in enumerate(grouped.items())
    }
    entries = evaluated["predictions"]
    cells = {
        cell: {
            answer: {measure: cell_of(one) for measure, one in seeds[cell, answer].items()}
            | {"failed": [int(entries[f"{run.name}.{answer}"]["parse_failures"]) for run in members]}
            for answer in answers
        }
        for cell, members in grouped.items()
    }
    facts = evaluated["dataset"]
    return {
        "format_version": FORMAT_VERSION,
        "nsdrive": __version__,
        "about": config.about,
        "config": to_plain(config),
        "dataset": {
            name: facts.get(name) for name in ("samples", "scenarios", "split", "all_splits", "manifest_sha256")
        },
        "answers": answers,
        "cells": cells,
        "ratios": _ratios(config, grouped, answers, seeds),
        "baselines": {
            name: {measure: _strict(entry, measure) for measure in MEASURES}
            for name, entry in evaluated["baselines"].items()
        },
        "curves": {cell: _curves([out / "runs" / run.name for run in members]) for cell, members in grouped.items()},
        "runs": {run.name: _run(out / "runs" / run.name) for run in runs},
        "step_seconds": dict(seconds or {}),
    }


def _ratios(
    config: AblationConfig,
    grouped: Mapping[str, list[Run]],
    answers: list[str],
    seeds: Mapping[tuple[str, str], dict[str, Seeds]],
) -> list[dict[str, Any]]:
    """Each level against the one without reasoning; each variant against its cell; each answer with eyes against without."""
    pairs: list[tuple[str, tuple[str, str], tuple[str, str]]] = []
    plain = [answer for answer in answers if "." not in answer]
    for answer in plain:
        for rig in config.rigs:
            reasoned = [level for level in config.levels if level != "none"] if "none" in config.levels else []
            pairs += [("reasoning", (f"{rig}-{level}", answer), (f"{rig}-none", answer)) for level in reasoned]
        for variant in config.variants:
            if f"{variant.rig}-{variant.level}" in grouped:
                pairs.append(("variant", (variant.name, answer), (f"{variant.rig}-{variant.level}", answer)))
        for few, many in pairwise(sorted(config.rigs, key=int)):
            pairs += [("cameras", (f"{many}-{each}", answer), (f"{few}-{each}", answer)) for each in config.levels]
    for control in [answer for answer in answers if "." in answer]:
        own, _, name = control.partition(".")
        for cell in grouped:
            pairs.append((f"control {name}", (cell, control), (cell, own)))
    return [
        {
            "kind": kind,
            "above": "/".join(above),
            "below": "/".join(below),
            "measure": measure,
            **ratio_of(seeds[above][measure], seeds[below][measure]),
        }
        for kind, above, below in pairs
        for measure in MEASURES
    ]


def _answers(runs: list[Run], found: Mapping[str, Any]) -> list[str]:
    """The kinds of answers that every run gave, in the order of the file."""
    first = runs[0].name
    names = [name.removeprefix(f"{first}.") for name in found if name.startswith(f"{first}.")]
    for run in runs:
        lacking = [name for name in names if f"{run.name}.{name}" not in found]
        if not names or lacking:
            raise ValueError(
                f"{EVALUATION} has no answers of {run.name} ({', '.join(lacking) or 'text'}): --resume makes them"
            )
    return names


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
        for row in _lines(folder / "validation.jsonl"):
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


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
