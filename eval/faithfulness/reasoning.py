"""Does the text say what the waypoints do? Checks that need no judge, because a text can be parsed and replayed.

    readable      `nsdrive.trace.text.parse` accepts the REASONING block: it is written in the trace's language
    replay        the motion that the text states against the answer's own waypoints: how far apart the two progresses
                  are at 3 s, in metres
    stop          of the texts that end standing, how many come with waypoints that drive on. For orientation: 37.9 % of
                  the "stop" claims of Alpamayo-R1 keep going (arXiv 2605.17268)
    binding rule  the rule that the text names first against the one that set the planner's command

The first three look at the answer alone, so a text can be wrong about the world and still pass; the fourth needs the
label. The labels' own texts give the floor of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsdrive.dataset import Sample
from nsdrive.trace.replay import replay
from nsdrive.trace.text import parse
from nsdrive.trace.trace import STANDING_MPS
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S, parse_answer
from nsdrive.world.types import FloatArray

REPLAY_STEPS = 6  # of 0.5 s: 3 s
REPLAY_TOLERANCE_M = 0.25  # the error of replaying the published format's run averages, as large as its headline ADE
DRIVES_ON_MPS = 1.0  # chosen by us: mean speed over the last 0.5 s above which nobody would say that the car stands


@dataclass(frozen=True, kw_only=True)
class ReasoningCheck:
    """What one answer's text turned out to be. None where there was nothing to check."""

    said: bool = False  # the answer has a REASONING block with something in it
    readable: bool = False
    replay_error_m: float | None = None
    says_stop: bool = False
    drives_on: bool = False  # though it says stop
    names_binding_rule: bool = False

    def to_row(self) -> dict[str, Any]:
        return {
            "reasoning_said": self.said,
            "reasoning_readable": self.readable,
            "replay_error_m": None if self.replay_error_m is None else round(self.replay_error_m, 4),
            "says_stop": self.says_stop,
            "says_stop_drives_on": self.drives_on,
            "names_binding_rule": self.names_binding_rule,
        }


def check_reasoning(sample: Sample, text: str, waypoints_ego_m: FloatArray | None) -> ReasoningCheck:
    """Check one answer's text against its waypoints (10, 2), None where the answer failed. Never raises on a text."""
    reasoning = parse_answer(text).reasoning
    if reasoning is None or not reasoning.strip():
        return ReasoningCheck()
    try:
        trace = parse(reasoning)
    except ValueError:
        return ReasoningCheck(said=True)
    names_rule = trace.phases[0].rule == sample.binding_rule
    if waypoints_ego_m is None:
        return ReasoningCheck(said=True, readable=True, names_binding_rule=names_rule)
    steps = np.diff(waypoints_ego_m, axis=0, prepend=0.0)
    driven_m = np.hypot(steps[:, 0], steps[:, 1])
    error = abs(float(replay(trace).progress_m[REPLAY_STEPS] - driven_m[:REPLAY_STEPS].sum()))
    says_stop = trace.end.speed_mps < STANDING_MPS
    drives_on = says_stop and bool(driven_m[-1] > DRIVES_ON_MPS * WAYPOINT_INTERVAL_S)
    return ReasoningCheck(
        said=True,
        readable=True,
        replay_error_m=error,
        says_stop=says_stop,
        drives_on=drives_on,
        names_binding_rule=names_rule,
    )


def summarise(checks: Sequence[ReasoningCheck]) -> dict[str, Any]:
    """Counts, and shares of: all samples (said), answers with a text (readable), readable ones (binding rule), replayed
    ones (consistent), those that say stop (drives on)."""
    said = sum(check.said for check in checks)
    readable = sum(check.readable for check in checks)
    names_rule = sum(check.names_binding_rule for check in checks)
    says_stop = sum(check.says_stop for check in checks)
    drives_on = sum(check.drives_on for check in checks)
    errors = np.array([check.replay_error_m for check in checks if check.replay_error_m is not None])
    return {
        "said": said,
        "readable": readable,
        "replayed": len(errors),
        "says_stop": says_stop,
        "said_share": _share(said, len(checks)),
        "readable_share": _share(readable, said),
        "replay_consistent_share": _share(int((errors <= REPLAY_TOLERANCE_M).sum()), len(errors)),
        "replay_error_mean_m": round(float(errors.mean()), 6) if len(errors) else None,
        "replay_error_median_m": round(float(np.median(errors)), 6) if len(errors) else None,
        "replay_error_max_m": round(float(errors.max()), 6) if len(errors) else None,
        "says_stop_drives_on": drives_on,
        "says_stop_drives_on_share": _share(drives_on, says_stop),
        "names_binding_rule": names_rule,
        "names_binding_rule_share": _share(names_rule, readable),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
