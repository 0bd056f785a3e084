"""One row of the results: an Answers -> its measures with intervals, over all samples and by group.

`strict` counts every sample; `parsed` is what the published release's script would say of the same answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.bootstrap import Estimate, cells_of, cluster_mean, ratio_of_sums, rounded, sums_by
from eval.open_loop.answers import Answers
from eval.open_loop.displacement import COLUMNS, measure
from eval.open_loop.groups import ordered
from eval.open_loop.labels import Labels
from eval.open_loop.release_format import displacements_printed_m, measure_printed
from nsdrive.vla.displacement import HORIZONS, displacements_m
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
        n = len(COLUMNS)
        self.strict_parts = _Parts(self.strict[:, :n], np.ones(len(self.strict), dtype=bool))
        self.parsed_parts = _Parts(self.parsed[:, :n], self.counted)
        # answers that print a number beyond a float
        self.endless = self.counted & ~np.isfinite(self.parsed[:, :n]).all(axis=1)


class _Parts:
    """Measures made ready to be summed: what counts of each (C, N), 0 elsewhere, and whether it counts (C, N) or (1, N)."""

    def __init__(self, values: FloatArray, counts: np.ndarray) -> None:
        known = np.isfinite(values)
        here = counts[:, None] if known[counts].all() else counts[:, None] & known
        self.values = np.ascontiguousarray(np.where(here, values, 0.0).T)
        self.counts = np.ascontiguousarray(here.T, dtype=float)

    def sums(self, grouping: Grouping) -> tuple[FloatArray, FloatArray]:
        """Over each cell, (cells, C) and (cells, C) or (cells, 1)."""
        index, n = grouping.index, grouping.n_cells
        return sums_by(index, self.values.T, n), sums_by(index, self.counts.T, n)


class Grouping:
    """The groups of one kind, each with its own clusters: one pass over the samples then serves all of them.

    index (N,): the cell of each sample, cells numbered group by group; parts: group -> its cells.
    """

    def __init__(self, title: str, names: Sequence[str], clusters: np.ndarray, seed: int) -> None:
        member = np.array(names)
        self.index = np.zeros(len(names), dtype=np.int64)
        self.parts: dict[str, slice] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.scenarios: dict[str, int] = {}
        self.n_cells = 0
        for group in ordered(title, names):
            rows = np.flatnonzero(member == group)
            index, n = cells_of(clusters[rows], seed)
            self.index[rows] = self.n_cells + index
            self.parts[group], self.n_cells = slice(self.n_cells, self.n_cells + n), self.n_cells + n
            self.rows[group], self.scenarios[group] = rows, len(np.unique(clusters[rows]))


def groupings_of(labels: Labels, seed: int) -> dict[str, Grouping]:
    return {title: Grouping(title, names, labels.clusters, seed) for title, names in labels.groups.items()}


def entry_of(
    answers: Answers,
    measured: Measured,
    overall: Estimate,
    labels: Labels,
    groupings: Mapping[str, Grouping],
    seed: int,
) -> dict[str, Any]:
    """The part of an entry that needs waypoints only. overall: the strict estimate of all samples."""
    parsed = cluster_mean(measured.parsed, measured.counted, labels.clusters, seed)
    _forget_endless(parsed, measured.parsed[measured.endless])
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
    return entry | {title: _groups(measured, grouping, seed) for title, grouping in groupings.items()}


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


def text_range(found: Mapping[str, float | None], *, scale: float = 1.0, digits: int = 2) -> str:
    """ "0.31 [0.27, 0.36]", "-" where nothing is known."""
    if found["value"] is None:
        return "-"
    text = f"{scale * found['value']:.{digits}f}"
    if found["low"] is None or found["high"] is None:
        return text
    return f"{text} [{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]"


def _groups(measured: Measured, grouping: Grouping, seed: int) -> dict[str, Any]:
    """group -> its counts and cells."""
    strict, parsed = measured.strict_parts.sums(grouping), measured.parsed_parts.sums(grouping)
    found = {}
    for group, part in grouping.parts.items():
        rows = grouping.rows[group]
        of_parsed = ratio_of_sums(parsed[0][part], parsed[1][part], seed)
        _forget_endless(of_parsed, measured.parsed[rows[measured.endless[rows]]])
        found[group] = {
            "n": len(rows),
            "scenarios": grouping.scenarios[group],
            "parse_failures": int((~measured.complete[rows]).sum()),
            "parsed_n": int(measured.counted[rows].sum()),
            "strict": cells(ratio_of_sums(strict[0][part], strict[1][part], seed)),
            "parsed": cells(of_parsed),
        }
    return found


def _forget_endless(found: Estimate, answers: FloatArray) -> None:
    """Where a counted answer prints a number beyond a float, the script's mean is no number, and so is this."""
    endless = ~np.isfinite(answers[:, : len(COLUMNS)]).all(axis=0)
    for column in (found.value, found.low, found.high):
        column[: len(COLUMNS)][endless] = np.nan


def _curve(estimate: Estimate) -> dict[str, list[float | None]]:
    """Mean displacement at 0.5, 1.0 ... 5.0 s."""
    start = len(COLUMNS)
    return {name: [rounded(v) for v in getattr(estimate, name)[start:]] for name in ("value", "low", "high")}
