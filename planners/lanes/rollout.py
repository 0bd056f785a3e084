"""Driving a path: at every step the least of what the limit, the curves, whoever is ahead and the stops allow.

The laws are those of `nsdrive.world.rules`; here they are followed for eight seconds, for several target speeds at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.geometry import wrap_angle
from nsdrive.world.rules import IdmParameters, acceleration_kernel, idm_constants
from nsdrive.world.types import INTERVAL_S, FloatArray
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.candidates import Candidate
from planners.lanes.topology import envelope

GENTLE_JERK_MPS3 = 1.4  # chosen by us: the tracker makes twice as much of it, and nuPlan's bound for comfort is 4.13
# Chosen by us: who holds the ego for a known time is not stopped for but arrived after, as long as a stop remains possible.
ARRIVING_M, ARRIVING_S = 0.5, 1.0
SOON_S = 1.5  # chosen by us: who will be on the path this soon
CALM = 0.6  # chosen by us: where less than this share of the hardest braking is needed, it begins gently
STOPPING_M, STOPPING_S = 0.7, 0.35  # chosen by us: nuPlan's tracker needs so much more room to come to a stop
# Chosen by us: who steers out from a low speed does so no faster, or the tracker swings out beyond the path.
OUT_LATERAL_MPS2, OUT_BELOW_MPS = 0.9, 4.0
COMFORT_MPS2 = 4.0  # nuPlan's bound for comfort is 4.05: no harder where that is enough
FIRM = 1.35, 0.75  # chosen by us: so much more than needed is braked, from that share of the law's hardest on


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A standing obstacle at `progress_m` of the chain, for the ego's nose, until `until_s` from now."""

    progress_m: float
    until_s: float = np.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Driven:
    """F motions along one path, T states 0.1 s apart, the first one now. poses (F, T, 3) of the rear axle, global; arc_m,
    speeds_mps, accels_mps2 (F, T). crawl_mps: the most that a stretch against the traffic ahead allows now, inf without one."""

    poses: FloatArray
    arc_m: FloatArray
    speeds_mps: FloatArray
    accels_mps2: FloatArray
    crawl_mps: float


def drive(
    candidate: Candidate,
    speed_mps: float,
    fractions: Sequence[float],
    stops: Sequence[Stop],
    met: FloatArray,
    parameters: IdmParameters,
    *,
    steps: int,
    sample_s: float,
    accel_mps2: float = 0.0,
    against_mps: float = np.inf,
    against_margin_m: float = 0.1,
) -> Driven:
    """Drive a path at each share of its speed limit. met (4, K, N): who is on it when (`planners.lanes.frenet.entries`), sampled
    every `sample_s`; after the last sample everyone keeps the speed. accel_mps2: the ego's now, from which it departs
    gently where there is time for it. against_mps: no faster than this where the car's middle is nearer than
    `against_margin_m` to the lane's left boundary or over it."""
    p = parameters
    along = candidate.chain.along
    limits = np.sqrt(
        envelope(np.interp(candidate.base_m, along.profile[0], along.profile[1]), candidate.arc_m, p.limit_decel_mps2)
    )
    crawl = np.full(len(limits), np.inf)
    if against_mps < np.inf:
        edge = np.interp(candidate.base_m, candidate.chain.path.progress_m, candidate.chain.left_m)
        against = np.where(candidate.middle_m > edge - against_margin_m, against_mps**2, np.inf)
        crawl = np.sqrt(envelope(against, candidate.arc_m, p.curve_decel_mps2))
    bend = np.maximum(np.abs(candidate.curvature_1pm), 1e-4)
    steered_out = bool(candidate.around) and speed_mps < OUT_BELOW_MPS
    lateral = OUT_LATERAL_MPS2 if steered_out else p.curve_lateral_accel_mps2
    curves = envelope(lateral / bend, candidate.arc_m, p.curve_decel_mps2)
    curves = np.minimum(curves, crawl * crawl)
    held = np.array([[candidate.arc_at(stop.progress_m), stop.until_s] for stop in stops], dtype=float).reshape(-1, 2)
    table = _drive(
        candidate.arc_m,
        limits,
        curves,
        held,
        met,
        np.asarray(fractions, dtype=float),
        max(0.0, speed_mps),
        float(accel_mps2),
        idm_constants(p),
        p.emergency_decel_mps2,
        p.curve_time_s,
        PACIFICA.front_m,
        steps,
        sample_s,
    )
    arc = table[..., 0]
    poses = np.stack(
        [
            np.interp(arc, candidate.arc_m, candidate.points[:, 0]),
            np.interp(arc, candidate.arc_m, candidate.points[:, 1]),
            wrap_angle(np.interp(arc, candidate.arc_m, candidate.headings_rad)),
        ],
        axis=-1,
    )
    return Driven(
        poses=poses, arc_m=arc, speeds_mps=table[..., 1], accels_mps2=table[..., 2], crawl_mps=float(crawl[0])
    )


@njit(cache=True)
def _drive(arc, limits, curves, held, met, fractions, speed0, accel0, idm, hardest, curve_time, front, steps, sample):
    dt = INTERVAL_S
    s0, headway, a, b, exponent, clamp = idm
    samples, objects = met.shape[1], met.shape[2]
    out = np.empty((len(fractions), steps + 1, 3))
    last = len(arc) - 1
    for f in range(len(fractions)):
        at, speed, i, gentle = 0.0, speed0, 0, accel0
        for k in range(steps + 1):
            while i < last - 1 and arc[i + 1] <= at:
                i += 1
            share = min(1.0, max(0.0, (at - arc[i]) / (arc[i + 1] - arc[i])))
            target = fractions[f] * (limits[i] + share * (limits[i + 1] - limits[i]))
            free = acceleration_kernel(speed, np.inf, 0.0, target, s0, headway, a, b, exponent, clamp)
            gentle -= GENTLE_JERK_MPS3 * dt
            # A slower target is no reason to jerk, but for the one that means to stop; what is in the way may be.
            accel = max(free, gentle) if fractions[f] > 0.0 else free
            curve2 = curves[i] + share * (curves[i + 1] - curves[i])
            if curve2 < target * target:
                slope = 0.5 * (curves[i + 1] - curves[i]) / (arc[i + 1] - arc[i])
                accel = min(accel, max((np.sqrt(curve2) - speed) / curve_time + min(0.0, slope), -b))
            nose = at + front
            now = k * dt
            for h in range(held.shape[0]):
                if now < held[h, 1]:
                    room, left = held[h, 0] - nose, held[h, 1] - now
                    law = acceleration_kernel(speed, room, 0.0, target, s0, headway, a, b, exponent, clamp)
                    if 0.5 * speed * speed < CALM * b * (room - s0):
                        law = max(law, gentle)
                    way = room - ARRIVING_M
                    stops_yet = left < ARRIVING_S or 0.5 * speed * speed < b * way
                    if stops_yet and speed * left < 2.0 * way:  # at a steady rate it arrives without a stop
                        law = min(a, 2.0 * (way - speed * left) / (left * left))
                    accel = min(accel, law)
            j = min(int(now / sample + 1e-6), samples - 1)
            for n in range(objects):
                if met[0, j, n] == np.inf:
                    # Who is about to come in is followed a little early, no harder than is calm.
                    for soon in range(j + 1, min(j + 1 + int(SOON_S / sample), samples)):
                        if met[0, soon, n] < np.inf:
                            gap = (
                                met[1, j, n]
                                - (met[1, soon, n] - met[0, soon, n])
                                - nose
                                + (now - j * sample) * met[2, j, n]
                            )
                            if gap > s0 and met[2, j, n] > 0.0:
                                law = acceleration_kernel(
                                    speed, gap, met[2, j, n], target, s0, headway, a, b, exponent, clamp
                                )
                                accel = min(accel, max(law, -CALM * b))
                            break
                    continue
                beyond = (now - j * sample) * met[2, j, n]
                gap = met[0, j, n] + beyond - nose
                if gap > 0.05 or met[1, j, n] + beyond > nose:
                    law = acceleration_kernel(speed, gap, met[2, j, n], target, s0, headway, a, b, exponent, clamp)
                    # Harder than the law where that is needed to stop behind it, should it brake on as it does.
                    ahead = max(0.0, met[2, j, n])
                    room = (
                        gap
                        - STOPPING_M
                        - STOPPING_S * speed
                        + (0.5 * ahead * ahead / met[3, j, n] if met[3, j, n] > 0.5 else 0.0)
                    )
                    left = 0.0 if met[3, j, n] > 0.5 else ahead
                    needed = 0.5 * (speed * speed - left * left) / max(room, 0.1)
                    if speed > ahead and needed > FIRM[1] * b:
                        firm = FIRM[0] * needed
                        law = min(law, -min(firm, hardest) if needed > COMFORT_MPS2 else -min(firm, COMFORT_MPS2))
                    elif needed < CALM * b and gap > s0:
                        law = max(law, gentle)
                    accel = min(accel, law)
            out[f, k, 0], out[f, k, 1], out[f, k, 2] = at, speed, accel
            after = max(0.0, speed + accel * dt)
            at += 0.5 * (speed + after) * dt if after > 0.0 else speed * speed / (2.0 * max(-accel, 1e-9))
            at = min(at, arc[last])
            if after == 0.0 and accel <= 0.0:
                out[f, k, 2] = (after - speed) / dt
            speed = after
    return out
