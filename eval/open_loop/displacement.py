"""How far predicted waypoints lie from the label's: ADE, FDE, miss rate and heading errors at 1, 2, 3 and 5 s.

    table = measure(predicted_m, label_m, complete)      # (N, 20), a column per name in COLUMNS
    table[:, COLUMNS.index("3s/ADE")].mean()             # strict: a failed answer counts as FAILED_DISPLACEMENT_M

The definitions are those of the published metrics script (arXiv 2606.23938, its release), N samples, H waypoints up to
the horizon, d_k the distance between predicted and labelled waypoint k, h_k the angle between their headings:

    ADE = mean over samples of mean(d_1 .. d_H)       FDE = mean over samples of d_H
    AHE = mean over samples of mean(h_1 .. h_H)       FHE = mean over samples of h_H
    MR  = share of samples with d_H > 2.0 m

Distances, ADE and misses are computed in `nsdrive.vla.displacement`, which training shares.
`measure` is the `strict` number. It mends three defects of the script. (1) The script drops answers that cannot be read;
here they stay, at the worst value. (2) It scores a one-point answer as if it reached the horizon; here anything but ten finite
waypoints is a failure. (3) Its heading is the direction of each step, also of steps of a centimetre that are printing noise;
here a step shorter than STATIONARY_STEP_M keeps the heading before it, 0 at the anchor, in prediction and label alike. The
script's own numbers, defects and all, are the `parsed` ones: `eval.open_loop.release_format`.
"""

from __future__ import annotations

import numpy as np

from nsdrive.vla.displacement import HORIZONS, average_m, displacements_m, missed
from nsdrive.world.types import FloatArray

MEASURES = {"ADE": "m", "FDE": "m", "MR": "share", "AHE": "deg", "FHE": "deg"}
COLUMNS = tuple(f"{horizon}/{measure}" for horizon in HORIZONS for measure in MEASURES)

FAILED_HEADING_DEG = 180.0  # chosen by us: the worst there is, as a failed answer points nowhere
# Chosen by us: 0.2 m/s. Waypoints are printed to the centimetre, which turns a step of 0.1 m by 6 deg at the very most
# and a step of 0.01 m by anything.
STATIONARY_STEP_M = 0.10


def measure(predicted_m: FloatArray, label_m: FloatArray, complete: np.ndarray) -> FloatArray:
    """Every measure of every sample, (N, 20), columns as in COLUMNS; the mean of a column is the published number.

    predicted_m, label_m: (N, 10, 2) waypoints in the ego frame; a label that is too short has nan where it has none, and then
    so have the measures that need them. complete (N,) bool: False marks an answer that could not be read; its row of
    predicted_m is not looked at.
    """
    distance_m = displacements_m(predicted_m, label_m, complete)
    turn_deg = heading_errors_deg(predicted_m, label_m, complete)
    columns = []
    for horizon, count in HORIZONS.items():
        columns += [
            average_m(distance_m, horizon),
            distance_m[:, count - 1],
            missed(distance_m, horizon),
            turn_deg[:, :count].mean(axis=1),
            turn_deg[:, count - 1],
        ]
    return np.stack(columns, axis=1)


def heading_errors_deg(predicted_m: FloatArray, label_m: FloatArray, complete: np.ndarray) -> FloatArray:
    """(N, 10) angle in [0, 180] between the headings of prediction and label; FAILED_HEADING_DEG where not complete, nan where
    the label has no waypoint."""
    predicted_m = np.where(complete[:, None, None], predicted_m, 0.0)
    difference = np.degrees(headings_rad(predicted_m) - headings_rad(label_m))
    turn_deg = np.where(complete[:, None], np.abs((difference + 180.0) % 360.0 - 180.0), FAILED_HEADING_DEG)
    return np.where(np.isnan(label_m[..., 0]), np.nan, turn_deg)


def headings_rad(waypoints_m: FloatArray) -> FloatArray:
    """(N, 10) direction of the step to each waypoint (N, 10, 2), the first from the origin; a stationary step holds."""
    steps = np.diff(waypoints_m, axis=1, prepend=0.0)
    moves = np.hypot(steps[..., 0], steps[..., 1]) >= STATIONARY_STEP_M
    # the index of the latest moving step up to each waypoint, 0 before any: column 0 is the anchor, heading 0
    latest = np.maximum.accumulate(np.where(moves, np.arange(1, steps.shape[1] + 1), 0), axis=1)
    directions = np.concatenate([np.zeros((len(steps), 1)), np.arctan2(steps[..., 1], steps[..., 0])], axis=1)
    return np.take_along_axis(directions, latest, axis=1)
