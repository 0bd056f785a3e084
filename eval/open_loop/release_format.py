"""Answers and numbers as the published release has them: its files read as they are, its script's numbers to the last digit.

The release writes one JSON object a line, `predict` (the model's answer) and `label` (the reference's) beside `id` and
`orig_idx`; its labels are a JSON list of items with `messages`. Its script reads an answer its own way (arXiv 2606.23938,
the release's metrics script), and every `parsed` number here follows it:

    block     from the first <PLANNING> to the next </PLANNING>, or to the end where none follows
    points    every "[x, y]" in it whose numbers are digits, at most one '.', at most a '-' before: "+1", "1e3", ".5" are none
    counted   an answer with at least one point, however many; others are left out of every mean
    horizon   the first min(H, points predicted, points labelled) waypoints: a one-point answer is "3 s" too
    heading   of each step from the one before, the first from the origin, however short the step
    MR        share of counted answers whose last such waypoint is more than 2.0 m off

The label is read the same way from the label's text. It stops at 3 s; 5 s is measured here by the same rule.
"""

from __future__ import annotations

import math
import re
from itertools import islice

import numpy as np

from nsdrive.vla.displacement import HORIZONS, MISS_M
from nsdrive.vla.prompt import MAX_ABS_M, N_WAYPOINTS
from nsdrive.world.types import FloatArray

SHORT = 2000  # characters of a block that is searched at once; a longer one, up to its tenth point
OPENS, CLOSES = "<PLANNING>", "</PLANNING>"
# the numbers that the release's script knows, written so that no text makes the search slow: digits, then maybe '.' and digits
_PLAIN = r"-?\d+(?:\.\d*)?"
_PLAIN_POINT = re.compile(rf"\[({_PLAIN}),\s*({_PLAIN})\]")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]", re.ASCII)


def printed_points(text: str) -> list[tuple[float, float]]:
    """The first ten points (x, y), m, that the release's script finds in an answer; none where it finds no trajectory.

    Its horizons never look further than ten. A number too long for a float is infinite, as in the script.
    """
    start = text.find(OPENS)
    if start < 0:
        return []
    end = text.find(CLOSES, start)
    end = len(text) if end < 0 else end
    if end - start < SHORT:
        found = _PLAIN_POINT.findall(text, start, end)[:N_WAYPOINTS]
    else:
        found = [m.groups() for m in islice(_PLAIN_POINT.finditer(text, start, end), N_WAYPOINTS)]
    return [(float(x), float(y)) for x, y in found]


def complete_points(text: str) -> tuple[list[tuple[float, float]] | None, str | None]:
    """(the ten waypoints, None) of a complete answer, else (None, why not): how `strict` reads an answer given as text alone.

    One closed <PLANNING> block with exactly ten finite [x, y] of a believable size; words around them are allowed, since the
    release's own answers have a sentence there.
    """
    blocks = text.count(OPENS)
    start = text.find(OPENS) + len(OPENS)
    end = text.find(CLOSES, start)
    if blocks != 1 or end < 0:
        return None, f"{blocks if end >= 0 else 0} PLANNING blocks, expected 1"
    points = [(float(m[1]), float(m[2])) for m in islice(_POINT.finditer(text, start, end), N_WAYPOINTS + 1)]
    if len(points) != N_WAYPOINTS:
        count = len(points) if len(points) < N_WAYPOINTS else f"more than {N_WAYPOINTS}"
        return None, f"{count} waypoints, expected {N_WAYPOINTS}"
    if not all(math.isfinite(v) and abs(v) <= MAX_ABS_M for point in points for v in point):
        return None, f"a waypoint is not finite or beyond {MAX_ABS_M:.0f} m"
    return points, None


def measure_printed(
    predicted_m: FloatArray, n_predicted: FloatArray, label_m: FloatArray, n_label: FloatArray
) -> FloatArray:
    """Every measure of every answer as the release's script has it, (N, 20), columns as `displacement.COLUMNS`.

    predicted_m, label_m: (N, 10, 2), of which the first n_predicted, n_label (N,) rows are points, at most ten. Rows that the
    script leaves out are nan. Numbers beyond a float's reach give inf or nan, there as here.
    """
    usable = np.minimum(n_predicted, n_label)
    with np.errstate(over="ignore", invalid="ignore"):
        distance_m, turn_deg = _distances_m(predicted_m, label_m), _turns_deg(predicted_m, label_m)
        columns: list[FloatArray] = []
        for count in HORIZONS.values():
            n = np.minimum(usable, count)
            last = np.maximum(n - 1, 0)[:, None]
            final_m = np.take_along_axis(distance_m, last, axis=1)[:, 0]
            final_deg = np.take_along_axis(turn_deg, last, axis=1)[:, 0]
            missed = (final_m > MISS_M).astype(float)
            columns += [_mean_of_first(distance_m, n), final_m, missed, _mean_of_first(turn_deg, n), final_deg]
    table = np.stack(columns, axis=1)
    table[usable < 1] = np.nan
    return table


def displacements_printed_m(
    predicted_m: FloatArray, n_predicted: FloatArray, label_m: FloatArray, n_label: FloatArray
) -> FloatArray:
    """(N, 10) distance of each waypoint from the label's, nan where one of the two has none."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance_m = _distances_m(predicted_m, label_m)
    there = np.arange(N_WAYPOINTS) < np.minimum(n_predicted, n_label)[:, None]
    return np.where(there, distance_m, np.nan)


def _distances_m(predicted_m: FloatArray, label_m: FloatArray) -> FloatArray:
    step = predicted_m - label_m
    return np.sqrt(step[..., 0] ** 2 + step[..., 1] ** 2)


def _turns_deg(predicted_m: FloatArray, label_m: FloatArray) -> FloatArray:
    difference = _headings_deg(predicted_m) - _headings_deg(label_m)
    return np.abs((difference + 180.0) % 360.0 - 180.0)


def _headings_deg(points_m: FloatArray) -> FloatArray:
    steps = np.diff(points_m, axis=1, prepend=0.0)
    return np.degrees(np.arctan2(steps[..., 1], steps[..., 0]))


def _mean_of_first(values: FloatArray, n: FloatArray) -> FloatArray:
    """(N,) mean of the first n (N,) columns."""
    counted = np.arange(values.shape[1]) < n[:, None]
    return np.where(counted, values, 0.0).sum(axis=1) / np.maximum(n, 1)
