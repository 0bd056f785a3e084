"""What a text, whole or broken off, tells who reads it to drive by it; and how an answer goes on that was begun for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from eval.faithfulness.causal.sections import sections
from nsdrive.trace.replay import replay
from nsdrive.trace.templates import ACCELS, MOVED, ROUTE, SPEEDS, STEP
from nsdrive.trace.text import parse
from nsdrive.trace.trace import N_STEPS, STEP_S, implied_m
from nsdrive.world.types import FloatArray

MAX_CHARS = 50_000  # chosen by us: ten times our longest text; what is longer is not read as one


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What a text, whole or not, says of the motion. progress_m (11,), None where it says nothing of speeds; manoeuvre: of the
    route, None where it says nothing of it."""

    progress_m: FloatArray | None
    manoeuvre: str | None


def told(text: str) -> Told:
    """Read what can be read. Where a text breaks off, the last speed that it said is kept. Never raises."""
    start = text.find("<REASONING>")
    body = text[start + len("<REASONING>") :] if start >= 0 else text
    body = body.split("</REASONING>", 1)[0]
    if len(body) > MAX_CHARS:
        return Told(progress_m=None, manoeuvre=None)
    try:
        trace = parse(body)
    except ValueError:
        return _told_in_part(body.split("\n"))
    return Told(progress_m=replay(trace).progress_m, manoeuvre=trace.route.manoeuvre)


def _told_in_part(lines: Iterable[str]) -> Told:
    manoeuvre: str | None = None
    speeds: dict[int, float] = {}
    accels: dict[int, float] = {}
    moved: dict[int, float] = {}
    for line in lines:
        if (fields := ROUTE.read(line)) is not None:
            manoeuvre = fields["command"][0]
        elif (fields := STEP.read(line)) is not None:
            k = round(fields["time_s"] / STEP_S)
            if 0 <= k <= N_STEPS:
                speeds[k], accels[k] = fields["speed_mps"], fields["accel_mps2"]
                if fields["moved_m"] is not None:
                    moved[k] = fields["moved_m"]
        elif (fields := SPEEDS.read(line)) is not None:
            speeds |= dict(enumerate(fields["values"]))
        elif (fields := ACCELS.read(line)) is not None:
            accels |= dict(enumerate(fields["values"]))
        elif (fields := MOVED.read(line)) is not None:
            moved |= {k: v for k, v in enumerate(fields["values"]) if v is not None}
    if not speeds:
        return Told(progress_m=None, manoeuvre=manoeuvre)
    speed, accel, said, eased = speeds[min(speeds)], 0.0, [], []
    for k in range(N_STEPS + 1):
        speed, accel = speeds.get(k, speed), accels.get(k, 0.0)
        said.append(speed)
        eased.append(accel)
    steps = implied_m(np.array(said), np.array(eased))
    for k, metres in moved.items():
        if k < N_STEPS:
            steps[k] = max(0.0, metres)
    return Told(progress_m=np.concatenate([[0.0], np.cumsum(steps)]), manoeuvre=manoeuvre)


def begun_answer(prefix: str, own: Callable[[], str]) -> str:
    """The answer up to its first waypoint: the prefix, and where that leaves the reasoning open, what of the own text it lacks."""
    if prefix.endswith("<PLANNING>"):
        return prefix
    if "</REASONING>" in prefix:
        return f"{prefix}<PLANNING>" if prefix.endswith("\n") else f"{prefix}\n<PLANNING>"
    said = prefix.removeprefix("<REASONING>")
    names = {section.name for section in sections(said)}
    rest = "".join(section.text for section in sections(own()) if section.name not in names)
    line_end = "\n" if said and rest and not said.endswith("\n") else ""
    opening = "" if prefix.startswith("<REASONING>") else "<REASONING>"
    return f"{opening}{prefix}{line_end}{rest}</REASONING>\n<PLANNING>"
