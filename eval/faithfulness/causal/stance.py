"""What a text says that the car will do and why, and what waypoints do, as classes that can be held against each other.

A stance is a manoeuvre on two axes over the next 3 s, as Alpamayo-R1's consistency and DriveMA's meta-actions have it
(arXiv 2605.31271): longitudinal one of `nsdrive.trace.trace.MANOEUVRES`, lateral "left", "straight" or "right". No judge is asked:
a text is parsed and replayed, and speeds are taken from its progress as from waypoints, so that the same motion has the same
stance whichever way it is told. A lane change has no class of its own: waypoints without a map do not tell it from a bend.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from eval.faithfulness.motion import AT, TURN_DEG, WINDOW_S, motion_of
from eval.faithfulness.motion import speed_mps as window_speed_mps
from nsdrive.trace.replay import replay
from nsdrive.trace.text import parse
from nsdrive.trace.trace import STEP_S, Trace, manoeuvre
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray

MAX_CHARS = 50_000  # chosen by us: ten times the longest text of ours; a longer one is none of ours and is not parsed
# chosen by us: texts, some 20 MB. A pair's four texts are often two, and every file's planner is the same
REMEMBERED = 4096

assert STEP_S == WAYPOINT_INTERVAL_S


@dataclass(frozen=True, kw_only=True)
class Stance:
    """longitudinal: one of MANOEUVRES. lateral: left, straight or right."""

    longitudinal: str
    lateral: str


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a text states. progress_m: after 3 s. turned_deg: after 5 s, left positive. rules: those that bind within 3 s, in
    order; main_rule: which of them does longest (the first of equals). paths: chosen within 3 s, in order ("keep", "change_left",
    ...; one without proposals keeps)."""

    progress_m: float
    turned_deg: float
    rules: tuple[str, ...]
    main_rule: str
    paths: tuple[str, ...]
    stance: Stance


def said(text: str | None) -> Said | None:
    """What a brief or detailed text states, None where it cannot be read. Never raises."""
    return _said(text) if text and len(text) <= MAX_CHARS else None


@lru_cache(maxsize=REMEMBERED)
def _said(text: str) -> Said | None:
    try:
        trace = parse(text)
    except ValueError:
        return None
    progress_m = replay(trace).progress_m
    lasts: dict[str, float] = {}
    paths: dict[str, None] = {}
    for phase in trace.phases:
        if phase.start_s >= WINDOW_S:
            continue
        lasts[phase.rule] = lasts.get(phase.rule, 0.0) + min(phase.end_s, WINDOW_S) - phase.start_s
        paths[phase.path] = None
    return Said(
        progress_m=float(progress_m[AT]),
        turned_deg=trace.end.turned_deg,
        rules=tuple(lasts),
        main_rule=max(lasts, key=lambda rule: lasts[rule]),
        paths=tuple(paths),
        stance=_stance_of_trace(trace, progress_m),
    )


def stance_of_waypoints(waypoints_ego_m: FloatArray, speed_mps: float) -> Stance:
    """The stance of waypoints (10, 2), ego frame, of an ego that now drives at this speed."""
    motion = motion_of(waypoints_ego_m)
    return Stance(
        longitudinal=manoeuvre(max(0.0, speed_mps), motion.speed_mps, WINDOW_S), lateral=_side(motion.turned_deg)
    )


def _stance_of_trace(trace: Trace, progress_m: FloatArray) -> Stance:
    before = max(0.0, trace.steps[0].speed_mps)
    return Stance(
        longitudinal=manoeuvre(before, window_speed_mps(progress_m), WINDOW_S), lateral=_side(trace.end.turned_deg)
    )


def _side(turned_deg: float) -> str:
    return "left" if turned_deg > TURN_DEG else "right" if turned_deg < -TURN_DEG else "straight"
