"""Does the text say what the waypoints do? Two checks that need no judge, because the text can be parsed and replayed.

    readable   `nsdrive.trace.text.parse` accepts the REASONING block: it is written in the trace's language
    replay     the stated decisions, driven from the stated speed, against the answer's own waypoints: how far apart the
               two progresses are at 3 s, in metres. The label's own texts give the floor.

Both look at the answer alone: a text can be wrong about the world and still agree with its waypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsdrive.dataset import Sample
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S, parse_answer
from nsdrive.world.types import FloatArray

REPLAY_HORIZON = 6  # waypoints: 3 s
REPLAY_TOLERANCE_M = 0.25  # the error of replaying the published format's run averages, as large as its headline ADE


@dataclass(frozen=True, kw_only=True)
class ReasoningCheck:
    """What one answer's text turned out to be. replay_error_m is None where there was nothing to compare."""

    said: bool  # the answer has a REASONING block with something in it
    readable: bool
    replay_error_m: float | None

    def to_row(self) -> dict[str, Any]:
        error = None if self.replay_error_m is None else round(self.replay_error_m, 4)
        return {"reasoning_said": self.said, "reasoning_readable": self.readable, "replay_error_m": error}


def check_reasoning(sample: Sample, text: str, waypoints_ego_m: FloatArray | None) -> ReasoningCheck:
    """Check one answer's text against its waypoints (10, 2), None where the answer failed. Never raises on a text."""
    reasoning = parse_answer(text).reasoning
    if reasoning is None or not reasoning.strip():
        return ReasoningCheck(said=False, readable=False, replay_error_m=None)
    progress_m = _stated_progress_m(reasoning)
    if progress_m is None:
        return ReasoningCheck(said=True, readable=False, replay_error_m=None)
    error = None if waypoints_ego_m is None else abs(progress_m - _driven_m(waypoints_ego_m))
    return ReasoningCheck(said=True, readable=True, replay_error_m=error)


def summarise(checks: Sequence[ReasoningCheck]) -> dict[str, Any]:
    """Shares over all samples (said), over answers with a text (readable) and over replayed ones (replay_consistent)."""
    said = [check for check in checks if check.said]
    errors = np.array([check.replay_error_m for check in said if check.replay_error_m is not None])
    return {
        "said": len(said),
        "readable": sum(check.readable for check in said),
        "replayed": len(errors),
        "said_share": _share(len(said), len(checks)),
        "readable_share": _share(sum(check.readable for check in said), len(said)),
        "replay_consistent_share": _share(int((errors <= REPLAY_TOLERANCE_M).sum()), len(errors)),
        "replay_error_mean_m": round(float(errors.mean()), 6) if len(errors) else None,
        "replay_error_median_m": round(float(np.median(errors)), 6) if len(errors) else None,
        "replay_error_max_m": round(float(errors.max()), 6) if len(errors) else None,
    }


def _stated_progress_m(reasoning: str) -> float | None:
    """Progress at 3 s that the text implies, None where it cannot be read."""
    return None


def _driven_m(waypoints_ego_m: FloatArray) -> float:
    """Length of the answer's own path up to 3 s, from the origin."""
    steps = np.diff(waypoints_ego_m[:REPLAY_HORIZON], axis=0, prepend=0.0)
    return float(np.hypot(steps[:, 0], steps[:, 1]).sum())


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
