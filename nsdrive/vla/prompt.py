"""What the VLA is asked and how it must answer. No torch here: the data set, the evaluator and the report read it too.

The question is the cameras in rig order, the ego history, the navigation command and the speed limit where one is known.
The answer is `<REASONING>...</REASONING>` (absent at level none) and `<PLANNING>[x, y], ... ten of them</PLANNING>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nsdrive.world.geometry import to_ego, wrap_angle
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, FloatArray

N_WAYPOINTS = 10
WAYPOINT_INTERVAL_S = 0.5
TICKS_PER_WAYPOINT = round(WAYPOINT_INTERVAL_S / INTERVAL_S)
IMAGE_TOKEN = "<image>"  # what `messages` trainers (ms-swift, TRL, LLaMA-Factory) replace by an image

CAMERA_WORDS = {
    "CAM_F0": "front",
    "CAM_L0": "front left",
    "CAM_R0": "front right",
    "CAM_L1": "left",
    "CAM_R1": "right",
    "CAM_L2": "rear left",
    "CAM_R2": "rear right",
    "CAM_B0": "back",
}
TASK = {
    "none": "Answer with 10 future waypoints [x, y], 0.5 s apart, in a <PLANNING> block.",
    "brief": "Explain briefly which rules decide the motion in a <REASONING> block, "
    "then give 10 future waypoints [x, y], 0.5 s apart, in a <PLANNING> block.",
    "detailed": "Evaluate every driving rule step by step in a <REASONING> block, "
    "then give 10 future waypoints [x, y], 0.5 s apart, in a <PLANNING> block.",
}


def build_prompt(
    *,
    cameras: Sequence[str],
    ego_history: Sequence[Mapping[str, float]],
    command: str,
    speed_limit_mps: float | None,
    level: str,
) -> str:
    """The user's message: one `<image>` per camera, in order.

    ego_history rows hold t_s, x_m, y_m, vx_mps, vy_mps, ax_mps2, ay_mps2 in the ego frame at the anchor, oldest first.
    """
    if level not in TASK:
        raise ValueError(f"No trace level '{level}'. Known: {', '.join(TASK)}")
    views = "\n".join(f"{CAMERA_WORDS.get(name, name)} camera: {IMAGE_TOKEN}" for name in cameras)
    history = "\n".join(
        f"t={h['t_s']:.1f} s: position [{fixed(h['x_m'])}, {fixed(h['y_m'])}], "
        f"velocity [{fixed(h['vx_mps'])}, {fixed(h['vy_mps'])}], "
        f"acceleration [{fixed(h['ax_mps2'])}, {fixed(h['ay_mps2'])}]"
        for h in ego_history
    )
    limit = "not known" if speed_limit_mps is None else f"{fixed(speed_limit_mps)} m/s"
    return (
        f"{views}\n"
        "Ego history in the ego frame (rear axle now at the origin, x forward, y left; metres and seconds):\n"
        f"{history}\n"
        f"Navigation: {command}. Speed limit: {limit}.\n"
        f"{TASK[level]}"
    )


def ego_history_rows(states: tuple[EgoState, ...]) -> list[dict[str, float]]:
    """Up to five past states 0.5 s apart over 2 s, oldest first, in the ego frame of the last, two decimals."""
    anchor = states[-1]
    rows = []
    for back in range(HISTORY_TICKS, -1, -TICKS_PER_WAYPOINT):
        i = len(states) - 1 - back
        if i < 0:
            continue
        state, before = states[i], states[max(0, i - 1)]
        (x, y), heading = to_ego(state.pose[None, :2], anchor.pose)[0], state.heading_rad - anchor.heading_rad
        elapsed = state.time_s - before.time_s
        yaw_rate = float(wrap_angle(state.heading_rad - before.heading_rad)) / elapsed if elapsed > 0 else 0.0
        along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        velocity = state.speed_mps * along
        acceleration = state.accel_mps2 * along + state.speed_mps * yaw_rate * across
        row = {
            "x_m": x,
            "y_m": y,
            "vx_mps": velocity[0],
            "vy_mps": velocity[1],
            "ax_mps2": acceleration[0],
            "ay_mps2": acceleration[1],
        }
        rows.append({"t_s": round(-back * INTERVAL_S, 1) + 0.0} | {k: round(float(v), 2) + 0.0 for k, v in row.items()})
    return rows


def render_answer(reasoning: str, waypoints_ego_m: FloatArray) -> str:
    """The assistant's message. reasoning: trace text, '' for level none. waypoints_ego_m (10, 2)."""
    points = ", ".join(f"[{fixed(x)}, {fixed(y)}]" for x, y in np.asarray(waypoints_ego_m))
    block = f"<REASONING>{reasoning}</REASONING>\n" if reasoning else ""
    return f"{block}<PLANNING>{points}</PLANNING>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A model's answer as read: its reasoning text (None if it gave none), waypoints (10, 2) or None, and why None."""

    reasoning: str | None
    waypoints_ego_m: FloatArray | None
    error: str | None


# one way to read each number: a million digits take no longer
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
MAX_ABS_M = 1000.0  # chosen by us: a waypoint further than this in 5 s is not a number that anyone meant


def parse_answer(text: str) -> Answer:
    """Read an answer; never raises. Only a single PLANNING block with exactly ten finite points is complete."""
    said = next(iter(_blocks(text, "REASONING")), None)
    blocks = _blocks(text, "PLANNING")
    if len(blocks) != 1:
        return Answer(reasoning=said, waypoints_ego_m=None, error=f"{len(blocks)} PLANNING blocks, expected 1")
    points = [(float(x), float(y)) for x, y in _POINT.findall(blocks[0])]
    if len(points) != N_WAYPOINTS:
        return Answer(reasoning=said, waypoints_ego_m=None, error=f"{len(points)} waypoints, expected {N_WAYPOINTS}")
    left_over = _POINT.sub("", blocks[0]).strip(" \n\t,")
    if left_over:
        return Answer(
            reasoning=said, waypoints_ego_m=None, error=f"PLANNING holds more than waypoints: {left_over[:40]!r}"
        )
    if not all(math.isfinite(v) and abs(v) <= MAX_ABS_M for point in points for v in point):
        return Answer(
            reasoning=said, waypoints_ego_m=None, error=f"a waypoint is not finite or beyond {MAX_ABS_M:.0f} m"
        )
    return Answer(reasoning=said, waypoints_ego_m=np.array(points), error=None)


def _blocks(text: str, tag: str) -> list[str]:
    """What stands between each opening tag and the next closing one; in one pass, whatever a model repeats."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    blocks, at = [], text.find(opening)
    while at >= 0 and (end := text.find(closing, at + len(opening))) >= 0:
        blocks.append(text[at + len(opening) : end])
        at = text.find(opening, end + len(closing))
    return blocks


def fixed(value: float) -> str:
    """Two decimals, and never '-0.00'."""
    return f"{round(float(value), 2) + 0.0:.2f}"
