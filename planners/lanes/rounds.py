"""Going round what is in the lane: which ways there are now, whether nobody else needs the room, and where to wait for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from nsdrive.world.decision import Constraint, LaneChange
from nsdrive.world.rules import needed_gap_m
from nsdrive.world.types import INTERVAL_S
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.candidates import QUINTIC_PEAK, STEERING_1PM, Candidate, easing_m
from planners.lanes.config import PdmLanesConfig
from planners.lanes.mobil import LONG_M, beside, blocker_of, follow
from planners.lanes.oncoming import oncoming_gap, seen_m
from planners.lanes.outlook import Outlook, waiting_lines, yields
from planners.lanes.passing import WayRound, ways_round
from planners.lanes.rollout import Stop, drive
from planners.lanes.tick import Option, Tick
from planners.lanes.topology import CROSSABLE

HALF_LANE_M = 1.7  # chosen by us: the middle of the oncoming lane is so far beyond the line
STAYING_M = 1.0  # chosen by us: so far behind a thing the ego stays behind it
MIRROR_M = 1.0  # chosen by us: the ego looks past what is ahead from a sensor at its left mirror


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """options: the ways round that can be driven now. considered: what was thought of each. here: the outlook of the own lane, with
    a place to wait at where a way is worth waiting for."""

    options: tuple[Option, ...]
    considered: tuple[LaneChange, ...]
    here: Outlook


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether a way round is free. about: who is in the way. arrives_s: when, needs_s: when the ego is back in its lane."""

    free: bool
    about: str | None
    arrives_s: float
    needs_s: float


def ways_of(tick: Tick, here: Outlook) -> tuple[WayRound, ...]:
    """The ways round the first thing in the ego's lane."""
    chains, progress = tick.chains, here.start.progress_m
    lane = tick.lane_map.lanes[here.chain.lane_at(progress)]
    left = "same" if chains.beside(here.chain, progress, "left") is not None else None
    if left is None and chains.opposite(here.chain, progress) is not None:
        left = "oncoming"
    return ways_round(
        here.chain,
        here.placed,
        progress_m=progress,
        speed_mps=tick.speed_mps,
        limit_mps=here.target_mps,
        stood_s=tick.memory.stood_s,
        lines_m=waiting_lines(here.chain, tick.observation.lights),
        left=left,
        right="same" if chains.beside(here.chain, progress, "right") is not None else None,
        may_overtake=lane.left_marking in CROSSABLE,
        parameters=tick.config,
    )


def rounds_of(tick: Tick, here: Outlook, ways: tuple[WayRound, ...]) -> Rounds:
    """Lay and drive every way, and judge its room. One under way is finished once the ego's nose is beside
    the thing, or it is too late to stay behind it."""
    c, memory, speed, progress = tick.config, tick.memory, tick.speed_mps, here.start.progress_m
    options: list[Option] = []
    considered: list[LaneChange] = []
    waits: Constraint | None = None
    for way in ways:
        begun = memory.path == way.kind and bool(set(way.ids) & set(memory.around))
        shift = way.offset_m - here.start.offset_m
        found: list[tuple[Option, Room]] = []
        for margin in _crawl_margins_m(way, c):
            # Who crawls beside it need not be out as early.
            nearest = way.rear_m - PACIFICA.front_m - c.pass_before_m - c.pass_before_s * c.against_mps
            begin = max(way.from_m, nearest) if margin == c.crawl_far_m else way.from_m
            out = max(begin, progress + 0.9 * easing_m(shift, speed, c.pass_lateral_mps2))
            back = max(out, way.to_m)
            settled = back + easing_m(way.offset_m, max(speed, 5.0), c.pass_lateral_mps2)
            knots = ((out, way.offset_m), (back, way.offset_m), (settled, 0.0))
            option = tick.roll(here, knots, way.kind, way.offset_m, c.side_fractions, way.ids, crawl_margin_m=margin)
            if option is not None:
                found.append((option, _room(tick, here, way, option, settled, begun, margin)))
        if not found:
            continue
        worth = max(0.0, _gain(tick, here, way))
        for option, room in found:
            finishes = begun and (way.over == "own" or here.nose_m > way.rear_m or _too_late(tick, here, way))
            if (room.free and way.ready) or finishes:
                overtakes = way.over == "oncoming" and way.speed_mps > 0.0 and room.free
                inside = option.candidate.middle_over_m < -c.inside_m
                options.append(replace(option, worth_mps2=worth, lawful=overtakes or inside))
        if way.over == "own":
            continue
        best = min((room for _, room in found), key=lambda room: (not room.free, room.needs_s))
        if waits is None and way.speed_mps == 0.0:
            waits = _waiting(tick, here, way, best)
        considered.append(
            LaneChange(
                path=way.kind,
                lane_id=_side_lane(tick, here, way),
                reason="blocked",
                incentive_mps2=worth,
                threshold_mps2=c.change_threshold_mps2,
                lead=way.ids[0],
                follower=None,
                follower_accel_mps2=0.0,
                safe_accel_mps2=-c.safe_decel_mps2,
                safe=best.free,
                blocker=best.about,
            )
        )
    if waits is not None:
        stop = Stop(progress_m=here.nose_m + waits.inputs["gap_m"])
        here = replace(here, rules=(*here.rules, waits), stops=(*here.stops, stop))
    return Rounds(options=tuple(options), considered=tuple(considered), here=here)


def _too_late(tick: Tick, here: Outlook, way: WayRound) -> bool:
    """Whether the ego would have to brake as hard as the law knows, or harder, to stay behind the thing after all. Then going on is
    an option again, and the score decides."""
    speed, gap = tick.speed_mps, way.rear_m - here.nose_m - STAYING_M
    return speed > way.speed_mps and speed**2 - way.speed_mps**2 > 2.0 * tick.config.decel_max_mps2 * max(gap, 0.1)


def _crawl_margins_m(way: WayRound, c: PdmLanesConfig) -> tuple[float | None, ...]:
    """How near to the oncoming lane the car's middle crawls: as it must and, as a second way, with room for the tracker's
    error. What moves cannot be overtaken at a crawl."""
    if way.over != "oncoming":
        return (0.1,)
    return (None,) if way.speed_mps > 0.0 else (c.crawl_near_m, c.crawl_far_m)


def _waiting(tick: Tick, here: Outlook, way: WayRound, room: Room) -> Constraint | None:
    """To wait where the ego can still steer out; None where it is too near for that already, or it would take too long."""
    c = tick.config
    before = c.hold_unsure_m
    if way.ready:
        before = c.hold_back_m + math.sqrt(QUINTIC_PEAK * abs(way.offset_m) / STEERING_1PM)
    # So far away the driver model brakes for it no harder than hold_decel.
    stopping = needed_gap_m(tick.speed_mps, 0.0, c) / math.sqrt(1.0 + c.hold_decel_mps2 / c.accel_max_mps2)
    hold = min(max(way.rear_m - before, here.nose_m + max(0.5, stopping)), way.rear_m - 2.0)
    if hold < here.nose_m or room.needs_s >= c.worth_waiting_s:
        return None
    arrives = min(room.arrives_s, room.needs_s)  # as the rule says it: too soon
    about = way.ids[0] if room.free else room.about
    return yields(about, hold - here.nose_m, room.needs_s, arrives, tick.speed_mps, here.target_mps, c)


def _room(
    tick: Tick, here: Outlook, way: WayRound, option: Option, settled_m: float, begun: bool, margin_m: float | None
) -> Room:
    c, progress = tick.config, here.start.progress_m
    back_m = way.to_m + 0.5 * (settled_m - way.to_m)
    needs, enters, enters_m = _alone(tick, here, option.candidate, back_m, margin_m)
    if way.over == "own":
        return Room(free=True, about=None, arrives_s=math.inf, needs_s=needs)
    if way.over == "same":
        about = _beside_way(tick, here, way, begun)
        return Room(free=about is None, about=about, arrives_s=0.0, needs_s=needs)
    limit = here.chain.path.speed_limit_at(progress)
    objects = tick.observation.objects
    view = seen_m(
        here.chain.path,
        progress,
        here.chain.edges_m(progress, progress)[0] + HALF_LANE_M,
        objects.boxes,
        objects.heights_m,
        c,
        eye_offset_m=here.start.offset_m + MIRROR_M,
    )
    gap = oncoming_gap(
        here.placed,
        progress_m=progress,
        back_m=back_m,
        offset_m=way.offset_m,
        needs_s=needs,
        exposed_s=needs - enters if math.isfinite(needs) else math.inf,
        view_m=view,
        limit_mps=c.target_speed_mps if math.isnan(limit) else limit,
        parameters=c,
        begun=begun,
        enters_s=enters,
        enters_m=enters_m,
    )
    return Room(free=gap.free, about=gap.about, arrives_s=min(gap.arrives_s, gap.unseen_s), needs_s=needs)


def _beside_way(tick: Tick, here: Outlook, way: WayRound, begun: bool) -> str | None:
    """Who of the neighbouring lane needs the room that a way round reaches into, by MOBIL's safety check; None for nobody."""
    c, speed, half = tick.config, tick.speed_mps, 0.5 * PACIFICA.width_m
    placed = replace(here.placed, offset_m=here.placed.offset_m - way.offset_m)
    there = beside(placed, here.start.progress_m, half, half, c)
    if there.lead in way.ids:
        there = replace(there, lead=None, lead_gap_m=LONG_M)
    if there.alongside in way.ids:
        there = replace(there, alongside=None)
    v = there.follower_speed_mps
    behind = follow(v, there.follower_gap_m, speed, max(here.target_mps, v), c)
    ahead = follow(speed, there.lead_gap_m, there.lead_speed_mps, here.target_mps, c)
    return blocker_of(there, speed, ahead, behind, c.continue_decel_mps2 if begun else c.safe_decel_mps2, c)


def _alone(
    tick: Tick, here: Outlook, candidate: Candidate, to_m: float, margin_m: float | None
) -> tuple[float, float, float]:
    """How long it takes to a place on a path with nobody else there, inf where the path ends before it; and when and where
    (progress on the chain) the ego's nose first is over the lane's line, that time and inf where it never is."""
    c = tick.config
    arc = drive(
        candidate,
        tick.speed_mps,
        (1.0,),
        (),
        np.zeros((4, 1, 0)),
        c,
        steps=3 * c.plan_steps,
        sample_s=INTERVAL_S,
        against_mps=math.inf if margin_m is None else tick.against_mps(here),
        against_margin_m=margin_m or 0.0,
    ).arc_m[0]
    at = candidate.arc_at(to_m)
    if arc[-1] < at:
        return math.inf, 0.0, math.inf
    chain = candidate.chain
    left = np.interp(candidate.base_m, chain.path.progress_m, chain.left_m)
    right = np.interp(candidate.base_m, chain.path.progress_m, chain.right_m)
    edge = np.where(candidate.lateral_m > 0.0, left, right)
    over = np.flatnonzero(np.abs(candidate.lateral_m) + 0.5 * PACIFICA.width_m > edge)
    needs = float(np.searchsorted(arc, at)) * INTERVAL_S
    if len(over) == 0:
        return needs, needs, math.inf
    enters = float(np.searchsorted(arc, candidate.arc_m[over[0]] - PACIFICA.front_m)) * INTERVAL_S
    return needs, min(needs, enters), float(candidate.base_m[over[0]])


def _gain(tick: Tick, here: Outlook, way: WayRound) -> float:
    """What the ego gains in acceleration by not being behind it."""
    c, speed = tick.config, tick.speed_mps
    behind = follow(speed, max(0.1, way.rear_m - here.nose_m), way.speed_mps, here.target_mps, c)
    free = follow(speed, LONG_M, 0.0, here.target_mps, c)
    return max(free, -c.decel_max_mps2) - max(behind, -c.decel_max_mps2)


def _side_lane(tick: Tick, here: Outlook, way: WayRound) -> str | None:
    """The lane that a way round reaches into."""
    progress = here.start.progress_m
    if way.over == "oncoming":
        return tick.chains.opposite(here.chain, progress)
    chain = tick.chains.beside(here.chain, progress, way.kind.removeprefix("pass_"))
    return None if chain is None else chain.lane_at(progress)
