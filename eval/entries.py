"""One row of the results: an Answers -> its measures with intervals, over all samples and by group.

`strict` counts every sample; `parsed` is what the published release's script would say of the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.answers import Answers
from eval.bootstrap import Estimate, cluster_mean
from eval.displacement import COLUMNS, HORIZONS, displacements_m, measure
from eval.groups import ordered
from eval.labels import Labels
from eval.release_format import displacements_printed_m, measure_printed
from nsdrive.world.types import FloatArray

REASONS_SHOWN = 20  # chosen by us: kinds of failure listed per file, the rest is counted together


class Measured:
    """The columns of one predictions file or baseline, N samples.

    strict, parsed (N, 30): the 20 measures of `COLUMNS`, then the displacement at each of the 10 waypoints. counted (N,) bool:
    rows that the release's script counts.
    """

    def __init__(self, answers: Answers, labels: Labels) -> None:
        self.complete = answers.complete
        strict = answers.waypoints_ego_m, labels.waypoints_ego_m, self.complete
        parsed = answers.printed_m, answers.n_printed, labels.printed_m, labels.n_printed
        self.strict: FloatArray = np.concatenate([measure(*strict), displacements_m(*strict)], axis=1)
        self.parsed: FloatArray = np.concatenate([measure_printed(*parsed), displacements_printed_m(*parsed)], axis=1)
        self.counted = np.minimum(answers.n_printed, labels.n_printed) > 0


def entry_of(answers: Answers, measured: Measured, overall: Estimate, labels: Labels, seed: int) -> dict[str, Any]:
    """The part of an entry that needs waypoints only. overall: the strict estimate of all samples."""
    everything = np.ones(len(measured.strict), dtype=bool)
    parsed = _parsed(measured, everything, labels.clusters, seed)
    failures = Counter(error[:200] for error in answers.errors if error is not None)
    named = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(named[:REASONS_SHOWN])
    if named[REASONS_SHOWN:]:
        shown["other reasons"] = sum(count for _, count in named[REASONS_SHOWN:])
    seconds = answers.seconds
    entry: dict[str, Any] = {
        "n": len(measured.strict),
        "scenarios": len(set(labels.scenarios)),
        "parse_failures": int((~measured.complete).sum()),
        "parsed_n": int(measured.counted.sum()),
        "failures": shown,
        "rows": dict(answers.rows),
        "in_order": answers.in_order,
        "control": answers.control,
        "control_of": answers.control_of,
        "seconds_mean": rounded(float(np.mean(seconds))) if seconds.any() else None,
        "strict": cells(overall),
        "parsed": cells(parsed),
        "displacement_m": {"strict": _curve(overall), "parsed": _curve(parsed)},
    }
    for title, names in labels.groups.items():
        member = np.array(names)
        entry[title] = {
            group: _group(measured, member == group, labels.clusters, seed) for group in ordered(title, names)
        }
    return entry


def overall_of(measured: Measured, labels: Labels, seed: int) -> Estimate:
    return cluster_mean(measured.strict, np.ones(len(measured.strict), dtype=bool), labels.clusters, seed)


def cells(estimate: Estimate) -> dict[str, dict[str, dict[str, float | None]]]:
    """{"3s": {"ADE": {"value", "low", "high"}}}; null where nothing is known."""
    found: dict[str, dict[str, dict[str, float | None]]] = {horizon: {} for horizon in HORIZONS}
    for k, column in enumerate(COLUMNS):
        horizon, name = column.split("/")
        found[horizon][name] = cell(estimate, k)
    return found


def cell(estimate: Estimate, column: int) -> dict[str, float | None]:
    """{"value", "low", "high"} of one column."""
    return {name: rounded(getattr(estimate, name)[column]) for name in ("value", "low", "high")}


def rounded(value: float, digits: int = 6) -> float | None:
    return round(float(value), digits) + 0.0 if np.isfinite(value) else None


def text_range(found: Mapping[str, float | None], *, scale: float = 1.0, digits: int = 2) -> str:
    """ "0.31 [0.27, 0.36]", "-" where nothing is known."""
    if found["value"] is None:
        return "-"
    text = f"{scale * found['value']:.{digits}f}"
    if found["low"] is None or found["high"] is None:
        return text
    return f"{text} [{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]"


def _group(measured: Measured, rows: np.ndarray, clusters: np.ndarray, seed: int) -> dict[str, Any]:
    strict = cluster_mean(measured.strict[rows], np.ones(int(rows.sum()), dtype=bool), clusters[rows], seed)
    return {
        "n": int(rows.sum()),
        "scenarios": len(np.unique(clusters[rows])),
        "parse_failures": int((~measured.complete[rows]).sum()),
        "parsed_n": int(measured.counted[rows].sum()),
        "strict": cells(strict),
        "parsed": cells(_parsed(measured, rows, clusters, seed)),
    }


def _parsed(measured: Measured, rows: np.ndarray, clusters: np.ndarray, seed: int) -> Estimate:
    """The script's means. Where an answer prints a number beyond a float, the script's mean is no number, and so is this."""
    values, counted = measured.parsed[rows], measured.counted[rows]
    found = cluster_mean(values, counted, clusters[rows], seed)
    endless = ~np.isfinite(values[counted, : len(COLUMNS)]).all(axis=0)
    for column in (found.value, found.low, found.high):
        column[: len(COLUMNS)][endless] = np.nan
    return found


def _curve(estimate: Estimate) -> dict[str, list[float | None]]:
    """Mean displacement at 0.5, 1.0 ... 5.0 s."""
    start = len(COLUMNS)
    return {name: [rounded(v) for v in getattr(estimate, name)[start:]] for name in ("value", "low", "high")}
