"""The rules a car is held to: what each one measures, what it holds that against, and the law that turns it into an acceleration.

`evaluate` is how a planner obtains a constraint, `recompute` how anyone checks one; both call the same law, so a number
printed in a text can be recomputed from the inputs printed beside it. An example:

    >>> evaluate("lead", "car-3", {"gap_m": 12.4, "lead_speed_mps": 5.1}, 8.31, IdmParameters(), target_speed_mps=13.41)
    Constraint(rule='lead', about='car-3', inputs={...}, threshold=21.17, allows_mps2=-2.06, margin_mps2=0.0)

Every gap is measured along the path from the ego's front bumper: to the nearest part of an object, or to a line.

Sources: the intelligent driver model (IDM) of Treiber, Hennecke and Helbing, Phys. Rev. E 62, 1805 (2000), with the defaults
of nuPlan's `IDMPlanner` (nuplan/planning/script/config/simulation/planner/idm_planner.yaml and
nuplan/planning/simulation/observation/idm/idm_policy.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nsdrive.world.decision import Constraint
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class IdmParameters:
    """Constants of every rule's law."""

    target_speed_mps: float = 10.0  # nuPlan idm_planner.yaml: where the lane has no known limit
    min_gap_m: float = 1.0  # nuPlan: min_gap_to_lead_agent
    headway_s: float = 1.5  # nuPlan: headway_time
    accel_max_mps2: float = 1.0  # nuPlan: accel_max
    decel_max_mps2: float = 3.0  # nuPlan: decel_max
    exponent: float = 4.0  # nuPlan idm_policy.py: acceleration exponent
    clamp_needed_gap: bool = True  # nuPlan and PDM-Closed do not: their ego brakes behind a lead that speeds away
    # chosen by us: more is faster and less comfortable in curves (PDM's comfort bound is 4.89)
    curve_lateral_accel_mps2: float = 2.0
    curve_decel_mps2: float = 1.0  # chosen by us: more brakes later and harder before a curve
    # chosen by us: how gently the target sinks towards a lower limit; more passes its sign faster
    limit_decel_mps2: float = 0.5
    curve_time_s: float = 1.0  # chosen by us: less tracks the curve's speed more tightly, with more jerk
    amber_decel_mps2: float = 3.0  # chosen by us, = decel_max: less runs more ambers, more cannot be braked
    # chosen by us: a stop at amber, once begun, is given up only if it needs this much more
    amber_hold_decel_mps2: float = 1.0
    stop_sign_wait_s: float = 2.0  # chosen by us: how long a car stands at a stop sign
    # chosen by us: who goes first reaches the conflict at least this long after the ego has left
    yield_margin_s: float = 2.0
    emergency_time_s: float = 2.0  # PDM-Closed: a collision this soon ...
    emergency_speed_mps: float = 5.0  # ... at this speed or less is braked for as hard as comfort's bound allows
    emergency_decel_mps2: float = 4.05  # PDM-Closed: min_long_accel


@dataclass(frozen=True, kw_only=True)
class RuleSpec:
    """What a rule is about and how it is evaluated.

    about: kind of thing that `Constraint.about` identifies. inputs: its measured numbers, with units. threshold: what they are
    held against. says: the law in words. law: (inputs, given threshold, speed_mps, target_speed_mps, parameters) ->
    (threshold, allowed acceleration before clipping to what the car can do).
    """

    about: str
    inputs: tuple[str, ...]
    threshold: str
    says: str
    law: Callable[[Mapping[str, float], float, float, float, IdmParameters], tuple[float, float]]


def evaluate(
    rule: str,
    about: str | None,
    inputs: Mapping[str, float],
    speed_mps: float,
    parameters: IdmParameters,
    *,
    target_speed_mps: float,
) -> Constraint:
    """One evaluation of a rule, its margin still open (see `nsdrive.world.decision.arg_min`)."""
    threshold, allows = _law(rule, inputs, target_speed_mps, speed_mps, target_speed_mps, parameters)
    return Constraint(rule=rule, about=about, inputs=inputs, threshold=threshold, allows_mps2=allows)


def recompute(
    constraint: Constraint, speed_mps: float, parameters: IdmParameters, *, target_speed_mps: float | None = None
) -> tuple[float, float]:
    """(threshold, allows_mps2) that the law gives for a constraint's inputs.

    target_speed_mps is that of the same decision, i.e. the threshold of its `target_speed` constraint; None takes
    `parameters.target_speed_mps`. Raises ValueError for an unknown rule or a missing input.
    """
    target = parameters.target_speed_mps if target_speed_mps is None else target_speed_mps
    return _law(constraint.rule, constraint.inputs, constraint.threshold, speed_mps, target, parameters)


def idm_acceleration(
    speed_mps: Any, gap_m: Any, lead_speed_mps: Any, target_speed_mps: Any, parameters: IdmParameters
) -> Any:
    """Acceleration of the intelligent driver model, floats or arrays that broadcast, within [-decel_max, accel_max].

    acc = a (1 - (v / v0)^exponent - (s* / gap)^2), s* = s0 + max(0, v T + v (v - v_lead) / (2 sqrt(a b))), gap at least s0.
    A gap of inf is a free road. Without `clamp_needed_gap` there is no max(0, ...).
    """
    args = idm_constants(parameters)
    if type(speed_mps) is float and type(gap_m) is float and type(lead_speed_mps) is float:
        return _idm(speed_mps, gap_m, lead_speed_mps, target_speed_mps, *args)
    return _idm_array(speed_mps, gap_m, lead_speed_mps, target_speed_mps, *args)


def needed_gap_m(speed_mps: float, lead_speed_mps: float, parameters: IdmParameters) -> float:
    """s*, the gap at which the model of `idm_acceleration` neither closes up nor falls back."""
    p = parameters
    closing = speed_mps * (speed_mps - lead_speed_mps) / (2.0 * math.sqrt(p.accel_max_mps2 * p.decel_max_mps2))
    wanted = speed_mps * p.headway_s + closing
    return p.min_gap_m + (max(0.0, wanted) if p.clamp_needed_gap else wanted)


def roll_forward(
    progress_m: float,
    speed_mps: float,
    held: FloatArray,
    profile: FloatArray,
    sources: NDArray[np.int64],
    parameters: IdmParameters,
    *,
    steps: int,
    interval_s: float,
) -> FloatArray:
    """(steps, 3): progress, speed and acceleration at each interval, when the least of the laws is followed from here on.

    held (K, 3): gap now, lead speed in the law, and speed at which the thing itself moves on, one row per thing to stop or
    slow for. profile (3, N): progress, squared limit and squared curve speed of path points; sources (2, N): which point sets
    the limit and the curve speed at each point (itself or one ahead). Speed is a forward Euler step, clipped at zero;
    progress moves by what that step covers, so that the two agree.
    """
    p = parameters
    idm = idm_constants(p)
    profiles = (p.limit_decel_mps2, p.curve_decel_mps2, p.curve_time_s)
    return _roll(float(progress_m), float(speed_mps), held, profile, sources, idm, profiles, steps, interval_s)


def idm_constants(p: IdmParameters) -> tuple[float, float, float, float, float, float]:
    """The last six arguments of `acceleration_kernel`."""
    return p.min_gap_m, p.headway_s, p.accel_max_mps2, p.decel_max_mps2, p.exponent, float(p.clamp_needed_gap)


def _idm(v, gap, v_lead, v0, s0, headway, a, b, exponent, clamp):
    wanted = v * headway + v * (v - v_lead) / (2.0 * math.sqrt(a * b))
    needed = s0 + (max(0.0, wanted) if clamp > 0.0 else wanted)
    ratio = needed / max(gap, s0)
    acceleration = a * (1.0 - (v / max(v0, 0.1)) ** exponent - ratio * ratio)
    return min(max(acceleration, -b), a)


def _track_curve(v, corner2, distance, decel, time):
    """(speed allowed now, acceleration that tracks it); corner2 is the square of the curve's own speed."""
    envelope = math.sqrt(corner2 + 2.0 * decel * distance)
    return envelope, (envelope - v) / time - (
        decel if distance > 0.0 else 0.0
    )  # the reference slows by decel before it


_idm_array = numba.vectorize([f"float64({', '.join(['float64'] * 10)})"], cache=True)(_idm)
acceleration_kernel = numba.njit(cache=True)(_idm)  # for use inside other kernels
_track_curve_fast = numba.njit(cache=True)(_track_curve)


@numba.njit(cache=True)
def _roll(start, speed, held, profile, sources, idm, profiles, steps, dt):
    hardest = idm[3]
    limit_decel, decel, time = profiles
    out = np.empty((steps, 3))
    at, last = start, profile.shape[1] - 1
    for k in range(steps):
        i = min(max(np.searchsorted(profile[0], at, side="right") - 1, 0), last)
        j = sources[0, i]
        target = math.sqrt(profile[1, j] + 2.0 * limit_decel * max(profile[0, j] - at, 0.0))
        accel = acceleration_kernel(speed, np.inf, 0.0, target, *idm)
        j = sources[1, i]
        if profile[2, j] < target * target:
            distance = 0.0 if j == i else max(profile[0, j] - at, 0.0)
            accel = min(accel, max(_track_curve_fast(speed, profile[2, j], distance, decel, time)[1], -hardest))
        for h in range(held.shape[0]):
            gap = held[h, 0] - (at - start) + held[h, 2] * k * dt
            accel = min(accel, acceleration_kernel(speed, gap, held[h, 1], target, *idm))
        out[k, 0], out[k, 1], out[k, 2] = at, speed, accel
        after = max(0.0, speed + accel * dt)
        at += 0.5 * (speed + after) * dt if after > 0.0 else speed * speed / (2.0 * max(-accel, 1e-9))
        speed = after
    return out


def _law(
    rule: str,
    inputs: Mapping[str, float],
    given_threshold: float,
    speed_mps: float,
    target_speed_mps: float,
    parameters: IdmParameters,
) -> tuple[float, float]:
    spec = RULES.get(rule)
    if spec is None:
        raise ValueError(f"No rule '{rule}'. Known: {', '.join(RULES)}")
    try:
        threshold, allows = spec.law(inputs, given_threshold, speed_mps, target_speed_mps, parameters)
    except KeyError as missing:
        raise ValueError(f"Rule '{rule}' needs the input {missing}; it got {sorted(inputs)}") from None
    hardest = parameters.emergency_decel_mps2 if rule == "emergency_brake" else parameters.decel_max_mps2
    return threshold, min(max(allows, -hardest), parameters.accel_max_mps2)


def _target_speed(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    return given, float(idm_acceleration(speed, math.inf, 0.0, given, p))


def _follow(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    lead_speed = inputs["lead_speed_mps"]
    return needed_gap_m(speed, lead_speed, p), float(idm_acceleration(speed, inputs["gap_m"], lead_speed, target, p))


def _stop(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    return needed_gap_m(speed, 0.0, p), float(idm_acceleration(speed, inputs["gap_m"], 0.0, target, p))


def _amber(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    # Without the hold, a stop that was just possible is given up half way, because the brakes take a moment to build up.
    stopping = inputs["accel_mps2"] <= -p.amber_hold_decel_mps2
    threshold = p.amber_decel_mps2 + (p.amber_hold_decel_mps2 if stopping else 0.0)
    needed_decel = speed * speed / (2.0 * max(inputs["gap_m"], 0.1))  # 0.1 m: at the line only a standing car can stop
    return threshold, _stop(inputs, given, speed, target, p)[1] if needed_decel <= threshold else p.accel_max_mps2


def _stop_sign(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    free = inputs["waited_s"] >= p.stop_sign_wait_s and inputs["crossing"] < 1.0
    return p.stop_sign_wait_s, p.accel_max_mps2 if free else _stop(inputs, given, speed, target, p)[1]


def _curve(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    corner2, distance = p.curve_lateral_accel_mps2 * inputs["radius_m"], max(inputs["distance_m"], 0.0)
    return _track_curve(speed, corner2, distance, p.curve_decel_mps2, p.curve_time_s)


def _yield(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    goes_first = inputs["arrives_s"] >= inputs["clears_s"] + p.yield_margin_s
    return p.yield_margin_s, p.accel_max_mps2 if goes_first else _stop(inputs, given, speed, target, p)[1]


def _emergency(
    inputs: Mapping[str, float], given: float, speed: float, target: float, p: IdmParameters
) -> tuple[float, float]:
    brakes = inputs["collision_s"] <= p.emergency_time_s and speed <= p.emergency_speed_mps
    return p.emergency_time_s, -p.emergency_decel_mps2 if brakes else p.accel_max_mps2


# In the order in which a decision lists them, so that ties name the more general one.
RULES: dict[str, RuleSpec] = {
    "target_speed": RuleSpec(
        about="nothing",
        inputs=(),
        threshold="target_speed_mps",
        says="a (1 - (v / target)^4); the target is given: the limit, lowered in time for a lower limit ahead",
        law=_target_speed,
    ),
    "curve_speed": RuleSpec(
        about="nothing",
        inputs=("distance_m", "radius_m"),
        threshold="curve_speed_mps",
        says="tracks sqrt(a_lat R + 2 b_c d), what the distance d (rear axle to the curve's point) and its radius R allow now",
        law=_curve,
    ),
    "path_end": RuleSpec(
        about="nothing",
        inputs=("gap_m",),
        threshold="needed_gap_m",
        says="IDM behind a standing car at the end of the path (nuPlan's virtual lead)",
        law=_stop,
    ),
    "lead": RuleSpec(
        about="track id",
        inputs=("gap_m", "lead_speed_mps"),
        threshold="needed_gap_m",
        says="IDM behind a tracked object on the path, standing ones too",
        law=_follow,
    ),
    "red_light": RuleSpec(
        about="lane connector id",
        inputs=("gap_m",),
        threshold="needed_gap_m",
        says="IDM behind a standing car at the stop line (nuPlan's red connector)",
        law=_stop,
    ),
    "amber_light": RuleSpec(
        about="lane connector id",
        inputs=("gap_m", "accel_mps2"),
        threshold="comfortable_decel_mps2",
        says="if v^2 / (2 gap) is at most the threshold, as for red; else free to go. A stop once begun has a higher threshold",
        law=_amber,
    ),
    "stop_sign": RuleSpec(
        about="stop line id",
        inputs=("gap_m", "waited_s", "crossing"),
        threshold="wait_s",
        says="IDM behind a standing car at the stop line until the ego has stood for the threshold and no one is crossing",
        law=_stop_sign,
    ),
    "crosswalk": RuleSpec(
        about="track id",
        inputs=("gap_m",),
        threshold="needed_gap_m",
        says="IDM behind a standing car at the near edge of a crosswalk that a pedestrian or cyclist is on or about to enter",
        law=_stop,
    ),
    "yield": RuleSpec(
        about="track id",
        inputs=("gap_m", "clears_s", "arrives_s"),
        threshold="margin_s",
        says="IDM behind a standing car at the conflict's edge, unless the ego has cleared it the margin before the other arrives",
        law=_yield,
    ),
    "emergency_brake": RuleSpec(
        about="track id",
        inputs=("collision_s",),
        threshold="time_s",
        says="the hardest comfortable brake, if the best proposal still collides by its own fault this soon and the ego is slow",
        law=_emergency,
    ),
}
