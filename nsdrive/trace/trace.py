"""A trace: what a sample's text carries, as numbers. `nsdrive.trace.build` makes it from the decisions of one rollout.

Names are the text's own ("vehicle-1", "signal-1", "hidden-1"); what they stand for in the scenario is kept beside the trace.
An example, the first half second of braking behind a slower car:

    Trace(
        scene=SceneFacts(in_view=(("vehicle", 3), ("pedestrian", 1)), light="red"),
        route=Navigation(manoeuvre="turn left", distance_m=35.0, speed_limit_mps=13.41),
        objects=(ObjectFacts(name="vehicle-1", kind="vehicle", distance_m=12.4, sector="ahead", speed_mps=5.1,
                             cameras=("CAM_F0",)), ...),
        steps=(Step(time_s=0.0, speed_mps=8.31, accel_mps2=-0.52, lateral_offset_m=0.02, constraints=(...), binding=1,
                    tied=(), command_mps2=-1.22), ...),
        end=EndState(speed_mps=4.2, accel_mps2=-0.1, lateral_offset_m=0.0, turned_deg=85.0),
        phases=(Phase(start_s=0.0, end_s=2.0, rule="lead", about="vehicle-1", manoeuvre="brake"), ...),
    )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsdrive.trace.choice import Choice, LaneVerdict, Motion
from nsdrive.world.decision import Constraint, LaneChange, Proposal, arg_min
from nsdrive.world.navigation import Navigation
from nsdrive.world.types import INTERVAL_S, OBJECT_KINDS, FloatArray

N_STEPS = 10
STEP_S = 0.5
TICKS_PER_STEP = round(STEP_S / INTERVAL_S)
STANDING_MPS = 0.2  # chosen by us, = the planner's
STEADY_MPS2 = 0.15  # chosen by us: a mean acceleration below this is "keep speed"

KIND_WORDS = dict(
    zip(OBJECT_KINDS, ("vehicle", "cyclist", "pedestrian", "cone", "barrier", "sign", "object"), strict=True)
)
SECTORS = ("ahead", "ahead-left", "left", "behind-left", "behind", "behind-right", "right", "ahead-right")
MANOEUVRES = ("stand", "stop", "pull away", "accelerate", "brake", "keep speed")
LIGHT_WORDS = {"green": "green", "yellow": "amber", "red": "red"}
KEEP = Motion(path="keep", offset_m=0.0, speed_fraction=1.0)  # what a planner without proposals is taken to choose


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """in_view: (kind word, how many) of all tracked objects that a camera sees, in KIND_WORDS order. light: green, amber or
    red, the nearest light ahead on the route that a camera sees; None where there is none."""

    in_view: tuple[tuple[str, int], ...]
    light: str | None


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """A tracked object at the anchor. distance_m: between the nearest points of its box and the ego's. sector: direction of its
    centre from the ego's centre, one of SECTORS. cameras: those that see it, () where none does or none was asked.

    distance_m, sector and speed_mps are None for an object that a rule names later and that is not there yet.
    """

    name: str
    kind: str
    distance_m: float | None
    sector: str | None
    speed_mps: float | None
    cameras: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The state and decision at one time after the anchor. What a level does not print is None or empty.

    lateral_offset_m: from the planner's centerline of that moment, which is another one after a lane change. moved_m: how far
    the next half second goes, None where speeds and accelerations tell (see `implied_m`). proposals, chosen,
    runner_up and lane_changes are the whole record; a text states what is left of them in `choice` and `lane_news` (see
    `nsdrive.trace.choice`), so a step has the one or the other. Objects have this trace's names.
    """

    time_s: float
    speed_mps: float
    accel_mps2: float
    lateral_offset_m: float | None
    moved_m: float | None = None
    constraints: tuple[Constraint, ...] = ()
    binding: int | None = None
    tied: tuple[int, ...] = ()
    command_mps2: float | None = None
    proposals: tuple[Proposal, ...] = ()
    chosen: int | None = None
    runner_up: int | None = None
    lane_changes: tuple[LaneChange, ...] = ()
    choice: Choice | None = None
    lane_news: tuple[LaneVerdict, ...] = ()

    @property
    def motion(self) -> Motion | None:
        """What was chosen, None without proposals."""
        if self.choice is not None:
            return self.choice.chosen
        return None if self.chosen is None else Motion.of(self.proposals[self.chosen])


@dataclass(frozen=True, kw_only=True)
class EndState:
    """The state five seconds after the anchor; turned_deg: change of heading since then, left positive."""

    speed_mps: float
    accel_mps2: float
    lateral_offset_m: float | None
    turned_deg: float


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A run of steps with the same binding rule and the same path, and what the ego does in it (one of MANOEUVRES).
    offset_m: where the whole of it was chosen beside the path, else 0.0."""

    start_s: float
    end_s: float
    rule: str
    about: str | None
    manoeuvre: str
    path: str = "keep"
    offset_m: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """See the module."""

    scene: SceneFacts
    route: Navigation
    objects: tuple[ObjectFacts, ...]
    steps: tuple[Step, ...]
    end: EndState
    phases: tuple[Phase, ...]


def implied_m(speeds_mps: FloatArray, accels_mps2: FloatArray) -> FloatArray:
    """How far each half second goes, from the speeds and accelerations (N + 1,) at its ends: (N,) metres, never backwards.

    Hermite-corrected trapezoid over each half second (Euler-Maclaurin, second order): ds = dt/2 (v0 + v1) + dt^2/12 (a0 - a1).
    The driven motion moves each tick by the speed at the tick's start (nuPlan's kinematic bicycle is a forward Euler), which
    adds h/2 (v0 - v1) - h^2/12 (a0 - a1) with h = 0.1 s.
    """
    slower, eased = -np.diff(speeds_mps), -np.diff(accels_mps2)
    moved = 0.5 * STEP_S * (speeds_mps[1:] + speeds_mps[:-1]) + 0.5 * INTERVAL_S * slower
    moved += (STEP_S**2 - INTERVAL_S**2) / 12.0 * eased
    return np.asarray(np.maximum(moved, 0.0))


def phases_of(steps: Sequence[Step], end: EndState) -> tuple[Phase, ...]:
    """The runs of equal binding rule, object and path. Speeds and offsets count as printed, so that a text's phases follow from
    its own numbers."""
    speeds = [decimals(v, 2) for v in (*(s.speed_mps for s in steps), end.speed_mps)]
    motions = [s.motion or KEEP for s in steps]
    because = [
        (s.constraints[s.binding].rule, s.constraints[s.binding].about, m.path)
        for s, m in zip(steps, motions, strict=True)
        if s.binding is not None
    ]
    phases, first = [], 0
    for k in range(len(because)):
        if k + 1 == len(because) or because[k + 1] != because[first]:
            rule, about, path = because[first]
            offsets = {decimals(m.offset_m, 1) for m in motions[first : k + 1]}
            phases.append(
                Phase(
                    start_s=first * STEP_S,
                    end_s=(k + 1) * STEP_S,
                    rule=rule,
                    about=about,
                    manoeuvre=manoeuvre(speeds[first], speeds[k + 1], (k + 1 - first) * STEP_S),
                    path=path,
                    offset_m=offsets.pop() if len(offsets) == 1 else 0.0,
                )
            )
            first = k + 1
    return tuple(phases)


def manoeuvre(before_mps: float, after_mps: float, seconds: float) -> str:
    """What an ego does that goes from one speed to another in this time."""
    if after_mps < STANDING_MPS:
        return "stand" if before_mps < STANDING_MPS else "stop"
    if before_mps < STANDING_MPS:
        return "pull away"
    mean = (after_mps - before_mps) / seconds
    return "keep speed" if abs(mean) < STEADY_MPS2 else "accelerate" if mean > 0.0 else "brake"


def with_margins(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """The constraints with margins that follow from what each allows, two decimals."""
    if not constraints:
        return ()
    return tuple(replace(c, margin_mps2=decimals(c.margin_mps2, 2)) for c in arg_min(constraints)[0])


def decimals(value: float, places: int) -> float:
    """The one rounding of all texts: to so many decimals, and never a negative zero."""
    return round(float(value), places) + 0.0
