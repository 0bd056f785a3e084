"""What ten waypoints do, in few numbers: one reading for all measures of faithfulness, observed and causal.

motion_of(waypoints_ego_m).turned_deg     # left positive, as a text states it of its end
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray

WINDOW_S = 3.0  # Alpamayo-R1's window for meta-actions
TURN_DEG = 15.0  # of `nsdrive.trace.replay.lateral_errors`: what no bend of a lane passes for a turn, in five seconds
STILL_STEP_M = 0.1  # as `eval.open_loop.displacement.STATIONARY_STEP_M`: a shorter step has no direction

AT = round(WINDOW_S / WAYPOINT_INTERVAL_S)


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """progress_m (11,): from the anchor on, half a second apart. turned_deg: change of heading in five seconds, left positive."""

    progress_m: FloatArray
    turned_deg: float

    @property
    def speed_mps(self) -> float:
        """At WINDOW_S."""
        return speed_mps(self.progress_m)

    @property
    def end_mps(self) -> float:
        """Of the last half second."""
        return float(self.progress_m[-1] - self.progress_m[-2]) / WAYPOINT_INTERVAL_S


def motion_of(waypoints_ego_m: FloatArray) -> Motion:
    """The motion of waypoints (10, 2), ego frame."""
    steps = np.diff(np.concatenate([np.zeros((1, 2)), np.asarray(waypoints_ego_m, dtype=float)]), axis=0)
    lengths_m = np.hypot(steps[:, 0], steps[:, 1])
    return Motion(
        progress_m=np.concatenate([[0.0], np.cumsum(lengths_m)]),
        turned_deg=_turned_deg(steps[lengths_m >= STILL_STEP_M], bool(lengths_m[-1] >= STILL_STEP_M)),
    )


def speed_mps(progress_m: FloatArray) -> float:
    """The speed at WINDOW_S from the progress (11,) half a second before and after."""
    return float(progress_m[AT + 1] - progress_m[AT - 1]) / (2.0 * WAYPOINT_INTERVAL_S)


def _turned_deg(moving: FloatArray, still_moves: bool) -> float:
    """Heading at the last waypoint from the directions of the steps that move (N, 2), each of which is that of its middle: the
    last direction, and half of what it turned from the one before. Over several turns this stays continuous."""
    if not len(moving):
        return 0.0
    directions = np.degrees(np.unwrap([0.0, *np.arctan2(moving[:, 1], moving[:, 0])]))
    return float(directions[-1] + (0.5 * (directions[-1] - directions[-2]) if still_moves else 0.0))
