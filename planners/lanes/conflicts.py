"""Where the ego's path meets the paths of others in a junction, who goes first, and whether a gap is long enough.

Who goes first: the light, then signs, then the turn (who turns gives way to who does not), then the right before the left
(Uniform Vehicle Code sections 11-202, 11-401 to 11-403). A gap is accepted if the ego has left the conflict a margin before
the other arrives: with the three to five seconds that it takes to get there and clear it this comes to the critical gaps
that drivers are observed to accept, 4.1 s for a left turn from the major road to 7.1 s for one from the minor road (Highway
Capacity Manual 2010, exhibit 19-10).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.route import centerline, lane_length_m
from nsdrive.world.types import FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.frenet import Placed, place
from planners.lanes.topology import Chain, envelope

RANK = {"straight": 0, "right": 1, "left": 2, "uturn": 3}  # who has the greater number gives way
STEP_M = 0.5  # chosen by us: travel times are added up in steps of this length
STOPS_WITHIN_M = 2.0  # chosen by us: who would stop no further than this inside a zone is giving way
OWN_LANE_M = 1.5  # chosen by us: whose middle is so near to the ego's path and who drives its way is on it
LINE_RANK = {"yield": 1, "stop_sign": 2}  # control lines that make the ego give way, and in which order


@dataclass(frozen=True, kw_only=True)
class ConflictParameters:
    """Numbers of conflict zones and gaps. The margin itself is `IdmParameters.yield_margin_s`."""

    conflict_width_m: float = 2.4  # chosen by us: middles of lanes nearer than this cannot both be driven on
    conflict_ahead_m: float = 60.0  # chosen by us: zones further ahead are not looked at yet
    approach_m: float = 110.0  # chosen by us: how far back the others are looked for: 8 s at 50 km/h
    pull_away_mps2: float = 1.4  # chosen by us: how fast a car starts, the ego and the others
    slow_down_mps2: float = 1.0  # chosen by us, = curve_decel: how the ego slows down before a bend
    waiting_mps: float = 0.5  # chosen by us: who moves slower and does not speed up waits
    cleared_s: float = 0.5  # chosen by us: who has left the zone this long before the ego gets there is no conflict
    # chosen by us: who is this near to the zone and does not brake goes first, whatever the rule says
    committed_s: float = 3.0
    braking_mps2: float = 0.8  # chosen by us: who brakes harder than this is giving way
    hardest_mps2: float = 4.5  # chosen by us: who would have to brake harder than this at a red light does not
    stop_before_m: float = 0.7  # chosen by us: the nose stops this far from the edge of the zone
    opposed_rad: float = 2.3  # chosen by us: ways that enter a junction at more than this (130 degrees) are opposed


@dataclass(frozen=True, kw_only=True, eq=False)
class Zone:
    """A place where the ego's chain and another way through a junction cannot both be used.

    lane_id: the ego's connector, other_id: theirs. enter_m, exit_m: of the zone on the ego's chain; stop_m: where its nose waits,
    the stop line where there is one. path: their way, approach and connector; their_enter_m, their_exit_m on it; junction_m:
    where their connector begins. from_rad: direction they come from against the ego's, 0 behind it, positive from its right.
    """

    lane_id: str
    other_id: str
    enter_m: float
    exit_m: float
    stop_m: float
    path: Path
    their_enter_m: float
    their_exit_m: float
    junction_m: float
    from_rad: float
    merges: bool


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Someone who goes before the ego through a zone. stop_m: where the ego's nose waits (progress on the chain). clears_s: until
    the ego would have left the zone if it went now. arrives_s, leaves_s: until the other is there and gone again."""

    track_id: str
    zone: Zone
    stop_m: float
    clears_s: float
    arrives_s: float
    leaves_s: float


def zones_of(lane_map: LaneMap, chain: Chain, parameters: ConflictParameters) -> tuple[Zone, ...]:
    """All zones along a chain, in the order in which the ego meets them."""
    found: list[Zone] = []
    by_junction: dict[str, list[Lane]] = {}
    for lane in lane_map.lanes.values():
        if lane.is_connector and lane.intersection_id is not None and lane.lane_type != "bike":
            by_junction.setdefault(lane.intersection_id, []).append(lane)
    for lane_id, start in zip(chain.lane_ids, chain.starts_m, strict=True):
        lane = lane_map.lanes[lane_id]
        if not lane.is_connector:
            continue
        others = {other.lane_id: other for other in by_junction.get(lane.intersection_id or "", ())}
        for following in lane.outgoing:
            for entering in lane_map.lanes[following].incoming if following in lane_map.lanes else ():
                if entering in lane_map.lanes:
                    others.setdefault(entering, lane_map.lanes[entering])
        for other in others.values():
            if other.lane_id == lane_id or set(other.incoming) & set(lane.incoming):
                continue
            zone = _zone(lane_map, chain, lane, start, other, parameters)
            if zone is not None:
                found.append(zone)
    return tuple(sorted(found, key=lambda zone: zone.enter_m))


def gives_way(lane_map: LaneMap, zone: Zone, lights: Mapping[str, str], parameters: ConflictParameters) -> bool:
    """Whether the ego lets those on the zone's other way go first."""
    own, other = lane_map.lanes[zone.lane_id], lane_map.lanes[zone.other_id]
    ours, theirs = lights.get(zone.lane_id), lights.get(zone.other_id)
    if theirs == "red" or (ours == "green" and theirs == "yellow"):
        return False
    if ours not in (None, "unknown") and theirs in (None, "unknown"):
        return False
    opposed = abs(zone.from_rad) > parameters.opposed_rad
    ours_turn, theirs_turn = RANK.get(own.turn, 0), RANK.get(other.turn, 0)
    if ours in (None, "unknown"):  # no light: signs first
        ours_line, theirs_line = _line_rank(lane_map, own), _line_rank(lane_map, other)
        if ours_line != theirs_line:
            return ours_line > theirs_line
        if ours_line == LINE_RANK["stop_sign"]:
            return False  # an all-way stop: who has waited goes, as the stop sign's own rule says
    if ours_turn != theirs_turn:
        return ours_turn > theirs_turn
    return not opposed and not zone.merges and zone.from_rad > 0.0


def claims(
    lane_map: LaneMap,
    zones: Sequence[Zone],
    objects: ObjectFrame,
    lights: Mapping[str, str],
    *,
    progress_m: float,
    speed_mps: float,
    chain: Chain,
    own: Placed,
    parameters: ConflictParameters,
    margin_s: float,
) -> list[Claim]:
    """Everyone with the right of way, and everyone who takes it, who would be in a zone ahead while the ego is: the most urgent
    of each zone.

    own: the objects beside the chain; who is ahead on it is followed, not given way to. Who arrives the margin later than the ego
    clears the zone is listed too, as someone before whom it goes.
    """
    p, nose = parameters, progress_m + PACIFICA.front_m
    ahead = [z for z in zones if z.exit_m > nose and z.stop_m >= nose - 1.0 and z.enter_m <= nose + p.conflict_ahead_m]
    if not ahead or not len(objects):
        return []
    found: list[Claim] = []
    points_m = chain.path.progress_m
    free2 = envelope(chain.along.profile[1:].min(axis=0), points_m, p.slow_down_mps2)  # limits and curves
    followed = (np.abs(own.offset_m) < OWN_LANE_M) & (own.aligned > 0.8) & (own.front_m > nose) & ~own.beyond
    for zone in ahead:
        yields, red = gives_way(lane_map, zone, lights, p), lights.get(zone.other_id) == "red"
        clears = travel_s(points_m, free2, progress_m, speed_mps, zone.exit_m + PACIFICA.rear_m, p.pull_away_mps2)
        reaches = travel_s(points_m, free2, progress_m, speed_mps, zone.enter_m - PACIFICA.front_m, p.pull_away_mps2)
        placed = place(zone.path, objects)
        best: Claim | None = None
        for row in _approaching(lane_map, zone, placed, objects.indicators):
            if followed[row]:
                continue
            arrives, leaves = _times(zone, placed, row, float(objects.accels_mps2[row]), p)
            if leaves + p.cleared_s <= reaches or math.isinf(arrives):
                continue
            if not yields and not _insists(placed, row, arrives, clears, float(objects.accels_mps2[row]), p):
                continue
            if red and not _runs_red(zone, placed, row, p):
                continue
            if best is None or arrives < best.arrives_s:
                best = Claim(
                    track_id=placed.ids[row],
                    zone=zone,
                    stop_m=zone.stop_m,
                    clears_s=clears,
                    arrives_s=arrives,
                    leaves_s=leaves,
                )
        if best is not None and best.arrives_s < clears + 4.0 * margin_s:
            found.append(best)
    return _keep_clear(found, margin_s, nose)


def travel_s(
    progress_m: FloatArray, free2: FloatArray, from_m: float, speed_mps: float, to_m: float, accel_mps2: float
) -> float:
    """Time to drive from one progress to another, speeding up steadily but nowhere above the free speed: its squares (N,) at the
    points (N,) of a path, lowered in time before every bend. Beyond the path's end the last one holds."""
    return float(_travel(progress_m, free2, from_m, max(0.0, speed_mps), to_m, accel_mps2))


@njit(cache=True)
def _travel(progress, free2, start, speed, end, accel):
    time, at, v2 = 0.0, start, speed * speed
    i = min(max(np.searchsorted(progress, start, side="right"), 1), len(progress) - 1)
    while at < end:
        step = min(end - at, STEP_M)
        while i < len(progress) - 1 and progress[i] < at + step:
            i += 1
        after2 = max(min(v2 + 2.0 * accel * step, free2[i]), 1.0 if v2 >= 1.0 else v2 + 2.0 * accel * step)
        time += 2.0 * step / max(np.sqrt(v2) + np.sqrt(after2), 1e-3)
        at += step
        v2 = after2
    return time


def _keep_clear(found: list[Claim], margin_s: float, nose_m: float) -> list[Claim]:
    """Who waits for a zone does so before any other that its car would block: a claim moves forward to the one before it."""
    held: list[Claim] = []
    for claim in sorted(found, key=lambda c: c.zone.enter_m):
        stop = claim.stop_m
        for before in held:
            if stop - PACIFICA.length_m < before.zone.exit_m and before.stop_m < stop:
                stop = before.stop_m
        held.append(
            Claim(
                track_id=claim.track_id,
                zone=claim.zone,
                stop_m=max(stop, nose_m - 1.0),
                clears_s=claim.clears_s,
                arrives_s=claim.arrives_s,
                leaves_s=claim.leaves_s,
            )
        )
    return held


def _approaching(lane_map: LaneMap, zone: Zone, placed: Placed, indicators: np.ndarray) -> Iterable[int]:
    """Rows of vehicles and cyclists on the other way that have not left the zone yet and do not signal another turn."""
    near = (np.abs(placed.offset_m) < 1.8) & (placed.aligned > 0.7) & ~placed.beyond & (placed.kinds <= 1)
    near &= placed.rear_m < zone.their_exit_m
    other = lane_map.lanes[zone.other_id]
    for row in np.flatnonzero(near).tolist():
        if placed.progress_m[row] < zone.junction_m and not _may_turn(lane_map, other, int(indicators[row])):
            continue
        yield row


def _may_turn(lane_map: LaneMap, other: Lane, indicator: int) -> bool:
    """Whether a car before the junction that signals like this may take the other way."""
    if indicator != 0:
        return {"left": 1, "uturn": 1, "right": -1}.get(other.turn, 0) == indicator
    if RANK.get(other.turn, 0) == 0:
        return True
    siblings = [
        lane_map.lanes[s]
        for i in other.incoming
        if i in lane_map.lanes
        for s in lane_map.lanes[i].outgoing
        if s in lane_map.lanes
    ]
    return not any(RANK.get(sibling.turn, 0) == 0 for sibling in siblings)


def _times(zone: Zone, placed: Placed, row: int, accel_mps2: float, p: ConflictParameters) -> tuple[float, float]:
    """(arrives, leaves) of one object at its speed; inf for one that waits outside the zone."""
    speed = max(0.0, float(placed.along_mps[row]))
    to_enter = zone.their_enter_m - float(placed.front_m[row])
    to_exit = max(0.0, zone.their_exit_m - float(placed.rear_m[row]))
    if speed < p.waiting_mps:
        if to_enter > 0.0 and accel_mps2 <= 0.1:
            return math.inf, math.inf
        return (0.0 if to_enter <= 0.0 else math.sqrt(2.0 * to_enter / p.pull_away_mps2)), math.sqrt(
            2.0 * to_exit / p.pull_away_mps2
        )
    return max(0.0, to_enter / speed), to_exit / speed


def _insists(
    placed: Placed, row: int, arrives_s: float, clears_s: float, accel_mps2: float, p: ConflictParameters
) -> bool:
    """Whether one who ought to give way will not: it is near, it would be there before the ego is gone, and it does not
    brake to a stop before the zone: who only slows down for a turn comes all the same."""
    speed = float(placed.along_mps[row])
    near = arrives_s < min(p.committed_s, clears_s)
    stops = accel_mps2 <= -p.braking_mps2 and speed * speed <= 2.0 * -accel_mps2 * (speed * arrives_s + STOPS_WITHIN_M)
    return near and not stops and speed > 1.0


def _runs_red(zone: Zone, placed: Placed, row: int, p: ConflictParameters) -> bool:
    """Whether one at whose line it is red is over it, or can no longer stop there."""
    to_line = zone.junction_m - float(placed.front_m[row])
    return to_line < -1.0 or float(placed.along_mps[row]) ** 2 > 2.0 * p.hardest_mps2 * max(to_line, 0.1)


def _line_rank(lane_map: LaneMap, lane: Lane) -> int:
    kinds = [lane_map.stop_lines[line].kind for line in lane.stop_line_ids if line in lane_map.stop_lines]
    return max((LINE_RANK.get(kind, 0) for kind in kinds), default=0)


def _zone(
    lane_map: LaneMap, chain: Chain, lane: Lane, start_m: float, other: Lane, p: ConflictParameters
) -> Zone | None:
    end_m = start_m + lane_length_m(lane)
    base = np.arange(start_m, min(end_m, chain.path.length_m), 0.5)
    theirs = np.asarray(other.centerline, dtype=float)[:, :2]
    if len(base) < 2 or len(theirs) < 2 or not np.isfinite(theirs).all():
        return None
    ours = chain.path.pose_at(base)[:, :2]
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(theirs, axis=0).T))])
    at = np.arange(0.0, along[-1], 0.5)
    line = np.column_stack([np.interp(at, along, theirs[:, k]) for k in (0, 1)])
    near = np.hypot(ours[:, None, 0] - line[None, :, 0], ours[:, None, 1] - line[None, :, 1]) < p.conflict_width_m
    if not near.any():
        return None
    own_rows, their_rows = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    approach = _approach(lane_map, other, p.approach_m)
    try:
        path = centerline(lane_map, (*approach, other.lane_id))
    except ValueError:
        return None
    junction = path.project(float(theirs[0, 0]), float(theirs[0, 1]), near_progress_m=path.length_m - float(along[-1]))[
        0
    ]
    enter = float(base[own_rows[0]])
    stop = enter - p.stop_before_m
    for line_id in lane.stop_line_ids:
        if line_id in lane_map.stop_lines:
            x, y = np.asarray(lane_map.stop_lines[line_id].line)[:, :2].mean(axis=0)
            progress = chain.path.project(x, y, near_progress_m=start_m)[0]
            # Behind a light one waits in the junction, before the conflict; before a sign, at its line.
            if abs(progress - start_m) < 15.0 and lane_map.stop_lines[line_id].kind in LINE_RANK:
                stop = min(stop, progress)
    own_heading = float(chain.path.pose_at(start_m)[2])
    their_heading = math.atan2(*(line[min(4, len(line) - 1)] - line[0])[::-1])
    return Zone(
        lane_id=lane.lane_id,
        other_id=other.lane_id,
        enter_m=enter,
        exit_m=float(base[own_rows[-1]]),
        stop_m=stop,
        path=path,
        their_enter_m=junction + float(at[their_rows[0]]),
        their_exit_m=junction + float(at[their_rows[-1]]),
        junction_m=junction,
        from_rad=float(wrap_angle(their_heading - own_heading)),
        merges=bool(set(other.outgoing) & set(lane.outgoing)),
    )


def _approach(lane_map: LaneMap, lane: Lane, length_m: float) -> tuple[str, ...]:
    """Lanes that lead to a connector, straight ones first, as long as asked for."""
    found: list[str] = []
    at, length = lane, 0.0
    while length < length_m:
        incoming = [i for i in at.incoming if i in lane_map.lanes and i not in found]
        if not incoming:
            break
        straight = [i for i in incoming if lane_map.lanes[i].turn == "straight"]
        at = lane_map.lanes[(straight or incoming)[0]]
        found.insert(0, at.lane_id)
        length += lane_length_m(at)
    return tuple(found)
