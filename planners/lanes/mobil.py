"""Whether another lane is worth changing to, and whether that is safe: MOBIL.

    incentive = (a'_ego - a_ego) + p [(a'_new - a_new) + (a'_old - a_old)] + route      must exceed the threshold
    a'_new >= -b_safe                                                                 for the one who would follow

a' is what the intelligent driver model would do after the change, a what it does now; new and old follow in the other and in
the own lane (Kesting, Treiber, Helbing, "General lane-changing model MOBIL for car-following models", Transportation Research
Record 1999 (2007), equations 1 to 4). `route` is ours: what a lane is worth because the route needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nsdrive.world.decision import LaneChange
from nsdrive.world.rules import IdmParameters, needed_gap_m
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.frenet import Placed

LONG_M = 1e6  # a gap to nobody


@dataclass(frozen=True, kw_only=True)
class MobilParameters:
    """Numbers of the lane-change model, and of what is beside a lane."""

    politeness: float = 0.3  # Kesting et al. use 0 to 1; more gives way more
    change_threshold_mps2: float = 0.3  # Kesting et al.: 0.1; more changes less often
    safe_decel_mps2: float = 3.0  # Kesting et al.: 4.0; less asks less of who follows
    # chosen by us: a change once begun is given up only where it asks for more than this
    continue_decel_mps2: float = 4.5
    own_decel_mps2: float = 3.0  # chosen by us, = decel_max: the ego itself must not have to brake harder
    room_m: float = 2.0  # chosen by us: bumper to bumper, ahead and behind, at the least
    room_s: float = 0.35  # chosen by us: and this many seconds of the speed of the one behind
    anticipation_s: float = 1.5  # chosen by us: a faster lead has this long to open its gap while the ego moves over
    blocked_gain_mps2: float = 2.0  # chosen by us: what it is worth not to stay behind what will not move
    drift_s: float = 1.5  # chosen by us: who will be in a lane this soon is in it
    route_gain_mps2: float = 4.0  # chosen by us: what the last chance to take the route's lane is worth
    route_change_m: float = 40.0  # chosen by us: room that a change needs at any speed ...
    route_change_s: float = 8.0  # ... and that many seconds of driving


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Next to a place in a lane: who is ahead and behind, with gap from bumper to bumper (LONG_M where nobody) and speed.

    alongside: track id of one who overlaps that place along the road, None where nobody does.
    """

    lead: str | None = None
    lead_gap_m: float = LONG_M
    lead_speed_mps: float = 0.0
    follower: str | None = None
    follower_gap_m: float = LONG_M
    follower_speed_mps: float = 0.0
    alongside: str | None = None


def beside(
    placed: Placed,
    progress_m: float,
    left_m: float,
    right_m: float,
    parameters: MobilParameters,
    *,
    half_width_m: float = 0.5 * PACIFICA.width_m,
) -> Beside:
    """Who is in a lane near the ego whose rear axle is at `progress_m` of it. left_m, right_m: the lane's edges from its middle.

    In the lane is whose box reaches into the ego's width in its middle now, or will within `drift_s` at its lateral speed,
    and people count only on the lane. Oncoming traffic has a negative speed.
    """
    room = min(half_width_m, left_m, right_m)
    drifted = placed.offset_m + parameters.drift_s * placed.across_mps * (placed.kinds == 0)
    nearest = np.minimum(np.abs(placed.offset_m), np.abs(drifted))
    nearest = np.where(placed.offset_m * drifted < 0.0, 0.0, nearest)
    inside = (nearest - placed.half_across_m < room) & ~placed.beyond
    front, rear = progress_m + PACIFICA.front_m, progress_m - PACIFICA.rear_m
    ahead, behind = placed.rear_m - front, rear - placed.front_m
    alongside = np.flatnonzero(inside & (ahead <= 0.0) & (behind <= 0.0))
    leads, followers = inside & (ahead > 0.0), inside & (behind > 0.0) & (placed.kinds <= 1) & (placed.aligned > 0.0)
    i = int(np.argmin(np.where(leads, ahead, np.inf))) if leads.any() else -1
    j = int(np.argmin(np.where(followers, behind, np.inf))) if followers.any() else -1
    return Beside(
        lead=placed.ids[i] if i >= 0 else None,
        lead_gap_m=float(ahead[i]) if i >= 0 else LONG_M,
        lead_speed_mps=float(placed.along_mps[i]) if i >= 0 else 0.0,
        follower=placed.ids[j] if j >= 0 else None,
        follower_gap_m=float(behind[j]) if j >= 0 else LONG_M,
        follower_speed_mps=max(0.0, float(placed.along_mps[j])) if j >= 0 else 0.0,
        alongside=placed.ids[int(alongside[0])] if len(alongside) else None,
    )


def weigh(
    path: str,
    lane_id: str | None,
    here: Beside,
    there: Beside,
    speed_mps: float,
    target_speed_mps: float,
    idm: IdmParameters,
    parameters: MobilParameters,
    *,
    route_mps2: float = 0.0,
    blocked_mps2: float = 0.0,
    begun: bool = False,
    extra_threshold_mps2: float = 0.0,
) -> LaneChange:
    """The incentive of a change and its safety. route_mps2: what the route adds to it (`route_need` there against here).
    blocked_mps2: what is added because the own lane is blocked.

    begun: the change is under way: it need not be wanted anew, and is given up only for `continue_decel_mps2`.
    """
    p, ego_m = parameters, PACIFICA.length_m

    def accel(speed: float, gap: float, lead_speed: float) -> float:
        return follow(speed, gap, lead_speed, max(target_speed_mps, speed), idm)

    own_here = follow(speed_mps, here.lead_gap_m, here.lead_speed_mps, target_speed_mps, idm)
    opening = p.anticipation_s * max(0.0, there.lead_speed_mps - speed_mps)
    own_there = follow(speed_mps, there.lead_gap_m + opening, there.lead_speed_mps, target_speed_mps, idm)
    b = idm.decel_max_mps2
    gain = max(own_there, -b) - max(own_here, -b)
    follower_after, loss, relief = 0.0, 0.0, 0.0
    if there.follower is not None:
        v, gap = there.follower_speed_mps, there.follower_gap_m
        follower_after = accel(v, gap, speed_mps)
        loss = max(follower_after, -b) - max(-b, accel(v, gap + ego_m + there.lead_gap_m, there.lead_speed_mps))
    if here.follower is not None:
        v, gap = here.follower_speed_mps, here.follower_gap_m
        relief = max(-b, accel(v, gap + ego_m + here.lead_gap_m, here.lead_speed_mps)) - max(
            -b, accel(v, gap, speed_mps)
        )
    safe_decel = p.continue_decel_mps2 if begun else p.safe_decel_mps2
    blocker = blocker_of(there, speed_mps, own_there, follower_after, safe_decel, p)
    return LaneChange(
        path=path,
        lane_id=lane_id,
        reason=_reason(gain, route_mps2, blocked_mps2),
        incentive_mps2=gain + p.politeness * (loss + relief) + route_mps2 + blocked_mps2,
        threshold_mps2=p.change_threshold_mps2 + extra_threshold_mps2,
        lead=there.lead,
        follower=there.follower,
        follower_accel_mps2=max(follower_after, -99.0),
        safe_accel_mps2=-safe_decel,
        safe=blocker is None,
        blocker=blocker,
    )


def follow(speed_mps: float, gap_m: float, lead_speed_mps: float, target_mps: float, idm: IdmParameters) -> float:
    """The intelligent driver model's acceleration, not held to what brakes can do: -inf without any gap."""
    if gap_m <= 0.0:
        return -math.inf
    ratio = needed_gap_m(speed_mps, max(lead_speed_mps, -10.0), idm) / gap_m if gap_m < LONG_M else 0.0
    free = (speed_mps / max(target_mps, 0.1)) ** idm.exponent
    return idm.accel_max_mps2 * (1.0 - min(free, 10.0) - ratio * ratio)


def route_need(changes: float, room_m: float, speed_mps: float, parameters: MobilParameters) -> float:
    """What it costs to be in a lane from which the route needs `changes` lane changes within `room_m`: 0 far away, the full
    gain (per change) where the room is gone. A lane that never leads there costs as much as three changes."""
    if changes <= 0.0:
        return 0.0
    p, changes = parameters, min(changes, 3.0)
    needs = changes * (p.route_change_m + p.route_change_s * speed_mps)
    return p.route_gain_mps2 * changes * min(1.0, needs / max(room_m, 1.0)) ** 2


def _reason(gain: float, route: float, blocked: float) -> str:
    """What speaks loudest for the change, or against it."""
    if blocked > 0.0 and blocked >= abs(route):
        return "blocked"
    return "route" if abs(route) > abs(gain) else "speed"


def blocker_of(
    there: Beside, speed: float, own_after: float, follower_after: float, safe_decel: float, p: MobilParameters
) -> str | None:
    """Who makes a change unsafe: one alongside, a lead too near, a follower who would have to brake too hard."""
    if there.alongside is not None:
        return there.alongside
    if there.lead is not None:
        closing = max(0.0, speed - max(0.0, there.lead_speed_mps))
        if own_after < -p.own_decel_mps2 or there.lead_gap_m < p.room_m + p.room_s * closing:
            return there.lead
    if there.follower is not None:
        closing = max(0.0, there.follower_speed_mps - speed)
        if follower_after < -safe_decel or there.follower_gap_m < p.room_m + p.room_s * closing:
            return there.follower
    return None
