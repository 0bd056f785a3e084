"""What a text says that the car will do and why, and what waypoints do, as classes that can be held against each other.

A stance is a manoeuvre on two axes over the next 3 s, as Alpamayo-R1's consistency and DriveMA's meta-actions have it
(arXiv 2605.31271): longitudinal one of `nsdrive.trace.trace.MANOEUVRES`, lateral "left", "straight" or "right". No judge is asked:
a text is parsed and replayed, and speeds are taken from its progress as from waypoints, so that the same motion has the same
stance whichever way it is told. A lane change has no class of its own: waypoints without a map do not tell it from a bend.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nsdrive.trace.replay import replay
from nsdrive.trace.text import parse
from nsdrive.trace.trace import STEP_S, Trace, manoeuvre
from nsdrive.vla.prompt import WAYPOINT_INTERVAL_S
from nsdrive.world.types import FloatArray

WINDOW_S = 3.0  # Alpamayo-R1's window for meta-actions
TURN_DEG = 15.0  # of `nsdrive.trace.replay.lateral_errors`: what no bend of a lane passes for a turn
STILL_STEP_M = 0.1  # as `eval.open_loop.displacement.STATIONARY_STEP_M`: a shorter step has no direction
MAX_CHARS = 50_000  # chosen by us: ten times the longest text of ours; a longer one is none of ours and is not parsed
REMEMBERED = (
    4096  # chosen by us: texts, some 20 MB. A pair's four texts are often two, and every file's planner is the same
)

_AT = round(WINDOW_S / STEP_S)
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
        progress_m=float(progress_m[_AT]),
        turned_deg=trace.end.turned_deg,
        rules=tuple(lasts),
        main_rule=max(lasts, key=lambda rule: lasts[rule]),
        paths=tuple(paths),
        stance=_stance_of_trace(trace, progress_m),
    )


def stance_of_waypoints(waypoints_ego_m: FloatArray, speed_mps: float) -> Stance:
    """The stance of waypoints (10, 2), ego frame, of an ego that now drives at this speed."""
    points = np.concatenate([np.zeros((1, 2)), np.asarray(waypoints_ego_m)])
    steps = np.diff(points, axis=0)
    progress_m = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    return Stance(
        longitudinal=manoeuvre(max(0.0, speed_mps), _speed_mps(progress_m), WINDOW_S),
        lateral=_side(_turned_deg(steps)),
    )


def _stance_of_trace(trace: Trace, progress_m: FloatArray) -> Stance:
    before = max(0.0, trace.steps[0].speed_mps)
    return Stance(longitudinal=manoeuvre(before, _speed_mps(progress_m), WINDOW_S), lateral=_side(trace.end.turned_deg))


def _speed_mps(progress_m: FloatArray) -> float:
    """The speed at WINDOW_S from the progress (11,) half a second before and after."""
    return float(progress_m[_AT + 1] - progress_m[_AT - 1]) / (2.0 * STEP_S)


def _turned_deg(steps_m: FloatArray) -> float:
    """Heading at the last waypoint from the directions of the steps (10, 2), each of which is that of its middle: the last
    direction, and half of what it turned from the one before. Over several turns this stays continuous."""
    moving = steps_m[np.hypot(steps_m[:, 0], steps_m[:, 1]) >= STILL_STEP_M]
    if not len(moving):
        return 0.0
    directions = np.degrees(np.unwrap([0.0, *np.arctan2(moving[:, 1], moving[:, 0])]))
    still_moves = bool(np.hypot(*steps_m[-1]) >= STILL_STEP_M)
    return float(directions[-1] + (0.5 * (directions[-1] - directions[-2]) if still_moves else 0.0))


def _side(turned_deg: float) -> str:
    return "left" if turned_deg > TURN_DEG else "right" if turned_deg < -TURN_DEG else "straight"
