"""What may be asked of a manoeuvre: each check is data, says itself in words, and gives a verdict with the number behind it.

check = GetsPast(what="parked-1", within_s=20.0, needs=LANE_CHANGES)
check.says                  # "gets past parked-1 within 20 s"
check.judge(facts)          # Verdict(holds=True, measured="past it after 13.4 s")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import shapely

from eval.manoeuvres.facts import Facts, distances_m, first
from nsdrive.world.areas import union_of
from nsdrive.world.geometry import box_corners, to_ego
from nsdrive.world.measure import comfort
from nsdrive.world.vehicle import PACIFICA

LANE_CHANGES = "lane_changes"  # a capability: leaving the lane to change it, or to go round something
EPSILON_S = 1e-6  # ticks are tenths: three of them are 0.3 s
# chosen by us: conflict areas are cut a little smaller, so that brushing a corner of one is not in it
PER_TOUCH_M = 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a check holds, and the number that says so, with its unit."""

    holds: bool
    measured: str


@dataclass(frozen=True, kw_only=True)
class Check(ABC):
    """needs, unless: a capability without which, or with which, the check is not expected of a planner."""

    needs: str | None = None
    unless: str | None = None

    @property
    @abstractmethod
    def says(self) -> str:
        """What must hold, in words."""

    @abstractmethod
    def judge(self, facts: Facts) -> Verdict: ...


# ---- what must never happen -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoAtFaultCollision(Check):
    """By nuPlan's rule of fault (`eval.score`)."""

    @property
    def says(self) -> str:
        return "no at-fault collision"

    def judge(self, facts: Facts) -> Verdict:
        hit = facts.judged.at_fault
        words = {"front": "runs into", "object_standing": "runs into standing", "side": "is hit between lanes by"}
        return Verdict(holds=not hit, measured="; ".join(f"{words[how]} {who}" for who, how in hit) or "none")


@dataclass(frozen=True, kw_only=True)
class StaysOnRoad(Check):
    most_m: float = 0.3  # nuPlan drivable_area_compliance

    @property
    def says(self) -> str:
        return f"stays on the road, to {self.most_m:g} m"

    def judge(self, facts: Facts) -> Verdict:
        off_m = facts.judged.measured["off_road_m"] or 0.0
        return Verdict(holds=off_m < self.most_m, measured=f"{off_m:.2f} m off")


@dataclass(frozen=True, kw_only=True)
class StaysInLane(Check):
    """Of the ego's centre, against the middle of the lane it starts in."""

    most_m: float = 1.2

    @property
    def says(self) -> str:
        return f"stays within {self.most_m:g} m of its lane's middle"

    def judge(self, facts: Facts) -> Verdict:
        worst = float(np.abs(facts.offsets_m).max())
        return Verdict(holds=worst <= self.most_m, measured=f"{worst:.2f} m at most")


@dataclass(frozen=True, kw_only=True)
class DoesNotRunRed(Check):
    @property
    def says(self) -> str:
        return "does not pass the line at red"

    def judge(self, facts: Facts) -> Verdict:
        tick = first(facts.to_line_m < 0.0)
        if tick is None:
            return Verdict(holds=True, measured=f"{facts.to_line_m.min():.1f} m before it at the nearest")
        state = facts.rollout.lights[tick].get(facts.rollout.scenario.notes["connector"], "unknown")
        return Verdict(holds=state != "red", measured=f"passes at {facts.times_s[tick]:.1f} s, {state}")


@dataclass(frozen=True, kw_only=True)
class KeepsGap(Check):
    """Distance between boxes, to everybody or to one."""

    least_m: float
    to: str | None = None

    @property
    def says(self) -> str:
        return f"keeps {self.least_m:g} m from {self.to or 'everybody'}"

    def judge(self, facts: Facts) -> Verdict:
        ids = {i for frame in facts.rollout.frames for i in frame.ids} if self.to is None else {self.to}
        least, who = np.inf, ""
        for track_id in sorted(ids):
            ticks, boxes = facts.of(track_id)
            gap = float(distances_m(facts.boxes[ticks], boxes).min())
            if gap < least:
                least, who = gap, track_id
        return Verdict(holds=least >= self.least_m, measured=f"{least:.2f} m{f' to {who}' if self.to is None else ''}")


@dataclass(frozen=True, kw_only=True)
class YieldsTo(Check):
    """The ego enters the ground that both cross only when the other has left it, so long ago (post-encroachment time)."""

    whom: str
    least_s: float = 0.3  # chosen by us

    @property
    def says(self) -> str:
        return f"lets {self.whom} pass first"

    def judge(self, facts: Facts) -> Verdict:
        ticks, boxes = facts.of(self.whom)
        ego, other = shapely.polygons(box_corners(facts.boxes)), shapely.polygons(box_corners(boxes))
        shared = union_of(ego).intersection(union_of(other)).buffer(-PER_TOUCH_M)
        if shared.is_empty:
            return Verdict(holds=True, measured="never crosses its way")
        shapely.prepare(shared)
        entered = facts.times_s[first(shapely.intersects(shared, ego)) or 0]
        left = facts.times_s[ticks[np.flatnonzero(shapely.intersects(shared, other))[-1]]]
        return Verdict(holds=entered - left >= self.least_s - EPSILON_S, measured=f"{entered - left:+.1f} s after it")


@dataclass(frozen=True, kw_only=True)
class LetsPass(Check):
    """Where the ego first enters the lane that the other drives in, the other has been already: it does not cut in on it."""

    whom: str
    least_s: float = 0.3  # chosen by us

    @property
    def says(self) -> str:
        return f"enters the lane after {self.whom}"

    def judge(self, facts: Facts) -> Verdict:
        ticks, boxes = facts.of(self.whom)
        ego, other = shapely.polygons(box_corners(facts.boxes)), shapely.polygons(box_corners(boxes))
        entered = first(shapely.intersects(ego, union_of(other).buffer(-PER_TOUCH_M)))
        if entered is None:
            return Verdict(holds=True, measured="never enters it")
        there = np.flatnonzero(shapely.intersects(other, ego[entered]))
        after_s = float(facts.times_s[entered] - facts.times_s[ticks[there[-1]]])
        return Verdict(holds=after_s >= self.least_s - EPSILON_S, measured=f"{after_s:+.1f} s after it")


# ---- speed and comfort ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comfortable(Check):
    """nuPlan's bounds on accelerations, jerks and yaw motion."""

    @property
    def says(self) -> str:
        return "within nuPlan's comfort bounds"

    def judge(self, facts: Facts) -> Verdict:
        bounds = ("accel", "jerk", "yaw")
        broken = {k: v for k, v in facts.judged.measured.items() if any(b in k for b in bounds) and v is not None}
        return Verdict(holds=not broken, measured=", ".join(f"{k} {v:.1f}" for k, v in broken.items()) or "all within")


@dataclass(frozen=True, kw_only=True)
class BrakesAtMost(Check):
    """Where only hard braking helps, or none is called for."""

    most_mps2: float

    @property
    def says(self) -> str:
        return f"brakes with at most {self.most_mps2:g} m/s2"

    def judge(self, facts: Facts) -> Verdict:
        hardest = max(0.0, -min(s.accel_mps2 for s in facts.rollout.states))
        return Verdict(holds=hardest <= self.most_mps2, measured=f"{hardest:.1f} m/s2")


@dataclass(frozen=True, kw_only=True)
class LateralAtMost(Check):
    """Speed times yaw rate, what a passenger feels in a bend."""

    most_mps2: float = 4.0  # chosen by us, under nuPlan's 4.89

    @property
    def says(self) -> str:
        return f"at most {self.most_mps2:g} m/s2 sideways"

    def judge(self, facts: Facts) -> Verdict:
        accels = np.array([s.accel_mps2 for s in facts.rollout.states])
        most = float(np.abs(comfort(facts.poses[:, 2], facts.speeds_mps, accels).lat_accel_mps2).max())
        return Verdict(holds=most <= self.most_mps2, measured=f"{most:.1f} m/s2")


@dataclass(frozen=True, kw_only=True)
class ReachesSpeed(Check):
    speed_mps: float
    within_s: float

    @property
    def says(self) -> str:
        return f"reaches {self.speed_mps:g} m/s within {self.within_s:g} s"

    def judge(self, facts: Facts) -> Verdict:
        tick = first(facts.speeds_mps >= self.speed_mps)
        if tick is None:
            return Verdict(holds=False, measured=f"{facts.speeds_mps.max():.1f} m/s at most")
        return Verdict(holds=facts.times_s[tick] <= self.within_s, measured=f"after {facts.times_s[tick]:.1f} s")


@dataclass(frozen=True, kw_only=True)
class EndsBelow(Check):
    """Not faster than this from a time on, or from the line on."""

    speed_mps: float
    from_s: float | None = None

    @property
    def says(self) -> str:
        since = "past the line" if self.from_s is None else f"after {self.from_s:g} s"
        return f"not above {self.speed_mps:g} m/s {since}"

    def judge(self, facts: Facts) -> Verdict:
        there = facts.to_line_m < 0.0 if self.from_s is None else facts.times_s >= self.from_s
        if not there.any():
            return Verdict(holds=True, measured="does not get there")
        fastest = float(facts.speeds_mps[there].max())
        return Verdict(holds=fastest <= self.speed_mps, measured=f"{fastest:.1f} m/s")


@dataclass(frozen=True, kw_only=True)
class NeverBelow(Check):
    speed_mps: float

    @property
    def says(self) -> str:
        return f"never below {self.speed_mps:g} m/s"

    def judge(self, facts: Facts) -> Verdict:
        slowest = float(facts.speeds_mps.min())
        return Verdict(holds=slowest >= self.speed_mps, measured=f"{slowest:.1f} m/s")


# ---- where it comes to ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StopsBefore(Check):
    """Stands before the manoeuvre's line, its front bumper this near; later it may go on."""

    least_m: float = 0.0
    most_m: float = 5.0

    @property
    def says(self) -> str:
        return f"stops {self.least_m:g} to {self.most_m:g} m before the line"

    def judge(self, facts: Facts) -> Verdict:
        if facts.standing is None:
            return Verdict(holds=False, measured=f"never stands, {facts.speeds_mps.min():.1f} m/s at least")
        begin, end = facts.standing
        gap = float(facts.to_line_m[begin : end + 1].min())
        return Verdict(holds=self.least_m <= gap <= self.most_m, measured=f"{gap:.2f} m")


@dataclass(frozen=True, kw_only=True)
class StopsBehind(Check):
    """Stands, with this gap to an object at the end of the first standstill."""

    what: str
    least_m: float = 0.3
    most_m: float = 8.0

    @property
    def says(self) -> str:
        return f"stops {self.least_m:g} to {self.most_m:g} m behind {self.what}"

    def judge(self, facts: Facts) -> Verdict:
        if facts.standing is None:
            return Verdict(holds=False, measured=f"never stands, {facts.speeds_mps.min():.1f} m/s at least")
        ticks, boxes = facts.of(self.what)
        end = facts.standing[1]
        gap = float(distances_m(facts.boxes[end : end + 1], boxes[np.searchsorted(ticks, end)][None])[0])
        return Verdict(holds=self.least_m <= gap <= self.most_m, measured=f"{gap:.2f} m")


@dataclass(frozen=True, kw_only=True)
class PassesLine(Check):
    within_s: float

    @property
    def says(self) -> str:
        return f"passes the line within {self.within_s:g} s"

    def judge(self, facts: Facts) -> Verdict:
        tick = first(facts.to_line_m < 0.0)
        if tick is None:
            return Verdict(holds=False, measured=f"{facts.to_line_m.min():.1f} m before it at the nearest")
        return Verdict(holds=facts.times_s[tick] <= self.within_s, measured=f"after {facts.times_s[tick]:.1f} s")


@dataclass(frozen=True, kw_only=True)
class GetsPast(Check):
    """The whole object is behind the ego's rear bumper."""

    what: str
    within_s: float

    @property
    def says(self) -> str:
        return f"gets past {self.what} within {self.within_s:g} s"

    def judge(self, facts: Facts) -> Verdict:
        ticks, boxes = facts.of(self.what)
        nearest = np.array(
            [to_ego(box_corners(box[None])[0], facts.poses[t])[:, 0].max() for t, box in zip(ticks, boxes, strict=True)]
        )
        behind = first(nearest < -PACIFICA.rear_m)
        if behind is None:
            return Verdict(
                holds=False, measured=f"{float(nearest.min()) - PACIFICA.front_m:.1f} m ahead at the nearest"
            )
        after = facts.times_s[ticks[behind]]
        return Verdict(holds=after <= self.within_s, measured=f"after {after:.1f} s")


@dataclass(frozen=True, kw_only=True)
class ReachesExit(Check):
    """The ego's centre is in the roadblock that the manoeuvre names: it made the turn of its route."""

    within_s: float

    @property
    def says(self) -> str:
        return f"makes the turn of its route within {self.within_s:g} s"

    def judge(self, facts: Facts) -> Verdict:
        scenario = facts.rollout.scenario
        areas = [lane for lane in scenario.lane_map.lanes.values() if lane.roadblock_id == scenario.notes["exit"]]
        ground = union_of([shapely.Polygon(lane.polygon) for lane in areas])
        away = shapely.distance(shapely.points(facts.boxes[:, :2]), ground)
        tick = first(away <= 0.0)
        if tick is None:
            return Verdict(holds=False, measured=f"{away.min():.0f} m short of it")
        return Verdict(holds=facts.times_s[tick] <= self.within_s, measured=f"after {facts.times_s[tick]:.1f} s")


@dataclass(frozen=True, kw_only=True)
class ReturnsToLane(Check):
    within_s: float
    to_m: float = 0.3

    @property
    def says(self) -> str:
        return f"back within {self.to_m:g} m of its lane's middle within {self.within_s:g} s, and stays"

    def judge(self, facts: Facts) -> Verdict:
        outside = np.flatnonzero(np.abs(facts.offsets_m) > self.to_m)
        last = facts.times_s[outside[-1]] if len(outside) else 0.0
        return Verdict(holds=last <= self.within_s, measured=f"after {last:.1f} s")
