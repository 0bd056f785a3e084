"""How far predicted waypoints lie from the label's: the definitions that training and evaluation share.

    distance_m = displacements_m(predicted_m, label_m, complete)   # (N, 10)
    average_m(distance_m, "3s").mean()                             # ADE@3s: strict, a failed answer counts 10 m
    missed(distance_m, "3s").mean()                                # miss rate@3s

Those of the published metrics script (arXiv 2606.23938, its release), but strict: an answer that cannot be read stays, at the
worst value. All else that is measured of a prediction is in `eval.open_loop.displacement`.
"""

from __future__ import annotations

import numpy as np

from nsdrive.vla.prompt import MAX_ABS_M, N_WAYPOINTS, WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray

HORIZONS = {"1s": 2, "2s": 4, "3s": 6, "5s": 10}  # waypoints up to the horizon, 0.5 s apart
MISS_M = 2.0  # the published metrics script
FAILED_DISPLACEMENT_M = 10.0  # project contract: at every waypoint of an answer that cannot be read

assert {h: round(float(h[:-1]) / WAYPOINT_INTERVAL_S) for h in HORIZONS} == HORIZONS
assert HORIZONS["5s"] == N_WAYPOINTS


def displacements_m(predicted_m: FloatArray, label_m: FloatArray, complete: np.ndarray) -> FloatArray:
    """(N, 10) distance of each predicted waypoint (N, 10, 2) from the label's; FAILED_DISPLACEMENT_M where not complete (N,),
    nan where the label has none."""
    step = np.where(complete[:, None, None], predicted_m - label_m, 0.0)
    distance_m = np.where(complete[:, None], np.hypot(step[..., 0], step[..., 1]), FAILED_DISPLACEMENT_M)
    return np.where(np.isnan(label_m[..., 0]), np.nan, distance_m)


def average_m(distance_m: FloatArray, horizon: str) -> FloatArray:
    """(N,) mean displacement up to a horizon of HORIZONS; its mean over the samples is the ADE."""
    mean: FloatArray = distance_m[:, : HORIZONS[horizon]].mean(axis=1)
    return mean


def missed(distance_m: FloatArray, horizon: str) -> FloatArray:
    """(N,) 1 where the waypoint at the horizon is over MISS_M off, else 0, nan where the label has none there."""
    final_m = distance_m[:, HORIZONS[horizon] - 1]
    return np.where(np.isnan(final_m), np.nan, final_m > MISS_M)


def usable(waypoints_m: FloatArray | None) -> bool:
    """Ten finite waypoints of a believable size: what counts as a complete answer, whoever wrote it."""
    return (
        waypoints_m is not None
        and waypoints_m.shape == (N_WAYPOINTS, 2)
        and bool(np.isfinite(waypoints_m).all())
        and bool((np.abs(waypoints_m) <= MAX_ABS_M).all())
    )
