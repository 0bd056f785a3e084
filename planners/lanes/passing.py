"""What stands or crawls in the ego's way and can be gone round: where, how far to the side, and over whose lane.

ways_round(chain, placed, ...) -> (WayRound(kind="pass_left", offset_m=1.35, over="oncoming", ids=("car-4",), ...),)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.world.types import OBJECT_KINDS
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.frenet import Placed
from planners.lanes.topology import Chain

BICYCLE, PEDESTRIAN = OBJECT_KINDS.index("bicycle"), OBJECT_KINDS.index("pedestrian")


@dataclass(frozen=True, kw_only=True)
class PassingParameters:
    """Numbers of going round something."""

    pass_ahead_m: float = 60.0  # chosen by us: what is further ahead is not gone round yet
    pass_clear_m: float = 0.45  # chosen by us: beside a standing thing; less passes more and looks reckless
    # chosen by us: so little is enough where more would bring the ego's middle over the line
    pass_least_m: float = 0.22
    pass_clear_moving_m: float = 0.85  # chosen by us: beside a vehicle that moves
    pass_clear_bicycle_m: float = 0.9  # chosen by us: beside a cyclist (3 feet is the law in most US states)
    pass_touch_m: float = 0.15  # chosen by us: what comes this near to the ego's straight way is in it
    pass_after_m: float = 2.0  # chosen by us: how far past the thing the way back begins
    pass_after_s: float = 1.0  # chosen by us: and this many seconds of its speed, if it moves
    pass_before_m: float = 0.8  # chosen by us: how far before it the ego is fully beside ...
    pass_before_s: float = 0.9  # ... and this many seconds of its speed: nuPlan's time to collision looks as far ahead
    pass_join_m: float = 14.0  # chosen by us: things nearer to each other than this are one
    pass_longest_m: float = 60.0  # chosen by us: nothing longer than this is gone round over a lane of others
    pass_standing_mps: float = 0.5  # chosen by us: what moves slower stands
    pass_slow_share: float = 0.6  # chosen by us: a cyclist below this share of the limit may be overtaken ...
    pass_slow_vehicle_share: float = 0.4  # ... and a vehicle below this one
    pass_accel_mps2: float = 1.2  # chosen by us: how the ego is taken to speed up beside what it overtakes
    pass_patience_s: float = 3.0  # chosen by us: so long a car in the middle of the lane has to have stood
    pass_parked_m: float = 0.8  # chosen by us: a car this far off the lane's middle is parked and needs no patience
    pass_line_m: float = 40.0  # chosen by us: a car that stands this near before a light or a stop line waits there


@dataclass(frozen=True, kw_only=True)
class WayRound:
    """A way round something. kind: "pass_left", "pass_right", or "keep" where it stays in the lane. offset_m: beside the lane's
    middle, for the rear axle between from_m and to_m (progress). over: "own", "same" or "oncoming", whose lane it reaches into.
    ids: what it goes round. speed_mps: the fastest of that, 0 for standing things. rear_m: where the first of it begins. ready:
    False while it is not sure yet that a car stands for good."""

    kind: str
    offset_m: float
    from_m: float
    to_m: float
    over: str
    ids: tuple[str, ...]
    speed_mps: float
    rear_m: float
    ready: bool


def ways_round(
    chain: Chain,
    placed: Placed,
    *,
    progress_m: float,
    speed_mps: float,
    limit_mps: float,
    stood_s: Mapping[str, float],
    lines_m: tuple[float, ...],
    left: str | None,
    right: str | None,
    may_overtake: bool,
    parameters: PassingParameters,
) -> tuple[WayRound, ...]:
    """The ways round the first thing in the lane ahead or beside, the one to the left first; none where nothing is to be passed.

    stood_s: how long each object has stood. lines_m: progress of the lines at which traffic has to wait now. left, right: what
    adjoins the lane, "same" or "oncoming" (None: nothing to drive on). may_overtake: the marking allows to get ahead of what
    moves over the oncoming lane; what stands may be gone round over any marking (Uniform Vehicle Code section 11-301(a)2).
    """
    p = parameters
    rows, ready = _in_the_way(placed, progress_m, limit_mps, stood_s, lines_m, p)
    if not rows:
        return ()
    rear, front = float(placed.rear_m[rows].min()), float(placed.front_m[rows].max())
    moving = max(0.0, float(placed.along_mps[rows].max()))
    moving = moving if moving > p.pass_standing_mps else 0.0
    kinds = placed.kinds[rows]
    careful = (kinds == BICYCLE) | (moving > 0.0)
    clear = np.where(
        kinds == BICYCLE, p.pass_clear_bicycle_m, p.pass_clear_moving_m if moving > 0.0 else p.pass_clear_m
    )
    half = 0.5 * PACIFICA.width_m
    low = placed.offset_m[rows] - placed.half_across_m[rows] - clear - half
    high = placed.offset_m[rows] + placed.half_across_m[rows] + clear + half
    ids = tuple(placed.ids[row] for row in rows)
    begin = rear - PACIFICA.front_m - p.pass_before_m - p.pass_before_s * max(speed_mps, 1.0)
    end = front + PACIFICA.rear_m + p.pass_after_m
    if moving > 0.0:  # it drives on while it is overtaken
        end += p.pass_after_s * moving
        end += moving * _overtaking_s(end - progress_m, speed_mps, moving, limit_mps, p.pass_accel_mps2)
    edge_left, edge_right = chain.edges_m(min(begin, progress_m), end)
    found = []
    for kind, offset, edge, side in (
        ("pass_left", float(high.max()), edge_left, left),
        ("pass_right", float(low.min()), edge_right, right),
    ):
        # Rather nearer to the thing than over the line.
        spare = float(clear.min()) - p.pass_least_m if not careful.any() else 0.0
        over_m = abs(offset) + half - edge
        offset = math.copysign(abs(offset) - min(max(over_m, 0.0), spare), offset)
        beyond = abs(offset) + half - edge  # how far the ego's side is over the line
        over = "own" if beyond <= 0.0 else side
        if over is None:
            continue
        if over != "own" and (beyond > 2.0 * edge or end - begin > p.pass_longest_m):
            continue
        if over == "oncoming" and (kind == "pass_right" or (moving > 0.0 and not may_overtake)):
            continue
        found.append(
            WayRound(
                kind="keep" if over == "own" else kind,
                offset_m=offset,
                from_m=begin,
                to_m=end,
                over=over,
                ids=ids,
                speed_mps=moving,
                rear_m=rear,
                ready=ready,
            )
        )
    return tuple(found)


def _overtaking_s(relative_m: float, speed_mps: float, other_mps: float, limit_mps: float, accel_mps2: float) -> float:
    """How long it takes to gain `relative_m` on something that drives on, speeding up to the limit."""
    gained, speed, passed = 0.0, speed_mps, 0.0
    while gained < relative_m and passed < 30.0:
        speed = min(max(limit_mps, speed), speed + 0.5 * accel_mps2)
        gained += 0.5 * (speed - other_mps)
        passed += 0.5
    return passed


def _in_the_way(
    placed: Placed,
    progress_m: float,
    limit_mps: float,
    stood_s: Mapping[str, float],
    lines_m: tuple[float, ...],
    p: PassingParameters,
) -> tuple[list[int], bool]:
    """Rows of the first things in the lane, as far as they are near enough to each other to be one; and whether all are ready."""
    half = 0.5 * PACIFICA.width_m + p.pass_touch_m
    touches = (np.abs(placed.offset_m) - placed.half_across_m < half) & ~placed.beyond & (placed.kinds != PEDESTRIAN)
    touches &= placed.front_m > progress_m - PACIFICA.rear_m
    touches &= placed.rear_m < progress_m + PACIFICA.front_m + p.pass_ahead_m + p.pass_longest_m
    group: list[int] = []
    ready, end = True, math.inf
    for row in sorted(np.flatnonzero(touches).tolist(), key=lambda r: float(placed.rear_m[r])):
        rear = float(placed.rear_m[row])
        if rear > (end + p.pass_join_m if group else progress_m + PACIFICA.front_m + p.pass_ahead_m):
            break
        patience = _patience_s(placed, row, limit_mps, lines_m, p)
        if patience is None:
            break
        ready = ready and stood_s.get(placed.ids[row], 0.0) >= patience
        end = max(end, float(placed.front_m[row])) if group else float(placed.front_m[row])
        group.append(row)
    return group, ready


def _patience_s(
    placed: Placed, row: int, limit_mps: float, lines_m: tuple[float, ...], p: PassingParameters
) -> float | None:
    """How long this has to have stood before it is gone round, None for what is followed: traffic, and who waits for it."""
    kind = int(placed.kinds[row])
    speed = math.hypot(float(placed.along_mps[row]), float(placed.across_mps[row]))
    if kind > PEDESTRIAN:
        return 0.0
    if speed > p.pass_standing_mps:
        share = p.pass_slow_share if kind == BICYCLE else p.pass_slow_vehicle_share
        slow = 0.0 < placed.along_mps[row] < share * limit_mps and abs(placed.across_mps[row]) < 1.0
        braking = kind != BICYCLE and _waits(placed, row, lines_m, p, 6)
        return 0.0 if slow and not braking else None
    if abs(placed.offset_m[row]) >= p.pass_parked_m:
        return 0.0
    return None if _waits(placed, row, lines_m, p, 6) else p.pass_patience_s


def _waits(placed: Placed, row: int, lines_m: tuple[float, ...], p: PassingParameters, depth: int) -> bool:
    """Whether a standing vehicle waits at a line, or in the queue of one that does."""
    front = float(placed.front_m[row])
    if any(-3.0 <= line - front <= p.pass_line_m for line in lines_m):
        return True
    if depth == 0 or not lines_m:
        return False
    next_ones = (placed.rear_m > front) & (placed.rear_m < front + p.pass_join_m) & (np.abs(placed.offset_m) < 1.5)
    next_ones &= (placed.kinds == 0) & (np.abs(placed.along_mps) <= p.pass_standing_mps)
    return any(_waits(placed, other, lines_m, p, depth - 1) for other in np.flatnonzero(next_ones).tolist())
