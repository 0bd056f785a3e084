"""What must hold in each named manoeuvre, and the verdicts on a rollout.

    judged = judge(simulate(load_manoeuvre("cut_in_close"), planner))
    judged.passed, [(c.says, c.status, c.measured) for c in judged.checks]

In every manoeuvre: no at-fault collision, and on the road. A check that asks for what a planner is not made for (IDM changes no
lanes) is "not expected" of it, said so, and neither passed nor failed; a planner that this table does not know is expected to do
everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from eval.manoeuvres.checks import (
    LANE_CHANGES,
    BrakesAtMost,
    Check,
    Comfortable,
    DoesNotRunRed,
    EndsBelow,
    GetsPast,
    KeepsGap,
    LateralAtMost,
    LetsPass,
    NeverBelow,
    NoAtFaultCollision,
    PassesLine,
    ReachesExit,
    ReachesSpeed,
    ReturnsToLane,
    StaysInLane,
    StaysOnRoad,
    StopsBefore,
    StopsBehind,
    YieldsTo,
)
from eval.manoeuvres.facts import Facts
from eval.score import Score
from nsdrive.world.types import HISTORY_TICKS, Rollout

HOLDS, FAILS, NOT_EXPECTED = "holds", "fails", "not expected"
CANNOT = {"idm": (LANE_CHANGES,), "pdm_closed": (LANE_CHANGES,)}  # what a planner is not made for
HARD_MPS2 = 6.0  # chosen by us: about what dry asphalt and an attentive driver give

_ALWAYS = (NoAtFaultCollision(), StaysOnRoad())
_COMFORT = Comfortable()
_IN_LANE = StaysInLane()

EXPECTED: dict[str, tuple[Check, ...]] = {
    # its own speed and place
    "start_from_standstill": (ReachesSpeed(speed_mps=9.0, within_s=12.0), _IN_LANE, _COMFORT),
    "starts_too_fast": (EndsBelow(speed_mps=11.9, from_s=6.0), BrakesAtMost(most_mps2=4.05), NeverBelow(speed_mps=9.5)),
    "starts_beside_lane": (ReturnsToLane(within_s=6.0), NeverBelow(speed_mps=8.0), _COMFORT),
    "speed_limit_drop": (
        EndsBelow(speed_mps=11.1),  # nuPlan's max_overspeed_value_threshold above the limit of 8.9
        EndsBelow(speed_mps=9.8, from_s=11.0),
        BrakesAtMost(most_mps2=3.0),
        _COMFORT,
    ),
    "curve_too_fast": (LateralAtMost(), _IN_LANE, NeverBelow(speed_mps=4.0), _COMFORT),
    "end_of_route": (StopsBefore(most_m=10.0), BrakesAtMost(most_mps2=4.05)),
    # lights and signs
    "red_light_at_10": (StopsBefore(), DoesNotRunRed(), _COMFORT),
    "red_light_at_17": (StopsBefore(), DoesNotRunRed(), _COMFORT),
    "red_light_queue": (StopsBehind(what="queue1-1"), DoesNotRunRed(), _COMFORT),
    "amber_can_stop": (StopsBefore(), DoesNotRunRed(), BrakesAtMost(most_mps2=4.05)),
    "amber_too_late_to_stop": (PassesLine(within_s=3.5), DoesNotRunRed(), NeverBelow(speed_mps=10.0), _COMFORT),
    "red_turns_green": (DoesNotRunRed(), PassesLine(within_s=10.0), NeverBelow(speed_mps=3.0), _COMFORT),
    "green_with_queue": (PassesLine(within_s=17.0), KeepsGap(least_m=1.0), _COMFORT),
    "stop_sign_alone": (StopsBefore(), PassesLine(within_s=17.0), _COMFORT),
    # who drives ahead
    "stopped_car_at_5": (StopsBehind(what="stopped-1"), _COMFORT),
    "stopped_car_at_10": (StopsBehind(what="stopped-1"), _COMFORT),
    "stopped_car_at_20": (StopsBehind(what="stopped-1"), _COMFORT),
    "slower_lead_at_10": (KeepsGap(least_m=3.0), NeverBelow(speed_mps=3.0), _COMFORT),
    "slower_lead_at_20": (KeepsGap(least_m=5.0), NeverBelow(speed_mps=7.0), _COMFORT),
    "lead_brakes_hard": (StopsBehind(what="lead-1"), BrakesAtMost(most_mps2=HARD_MPS2)),
    "lead_brakes_then_goes": (
        KeepsGap(least_m=1.5),
        ReachesSpeed(speed_mps=10.0, within_s=18.0),
        NeverBelow(speed_mps=0.5),
    ),
    "stop_and_go": (KeepsGap(least_m=0.5), _COMFORT),
    "cut_in_close": (KeepsGap(least_m=0.8), BrakesAtMost(most_mps2=4.05), NeverBelow(speed_mps=4.0)),
    "cut_in_at_speed": (
        KeepsGap(least_m=3.0, unless=LANE_CHANGES),  # it may pass in the lane that the car has left
        KeepsGap(least_m=1.0),
        BrakesAtMost(most_mps2=4.05),
        NeverBelow(speed_mps=8.0),
    ),
    "cut_out_reveals_stopped_car": (StopsBehind(what="stopped-1", most_m=15.0), BrakesAtMost(most_mps2=HARD_MPS2)),
    "tailgated": (NeverBelow(speed_mps=11.4), EndsBelow(speed_mps=14.4, from_s=0.0), BrakesAtMost(most_mps2=2.0)),
    "slow_vehicle_one_lane": (KeepsGap(least_m=2.0), _IN_LANE, NeverBelow(speed_mps=2.0), _COMFORT),
    "slow_vehicle_no_passing": (KeepsGap(least_m=2.0), _IN_LANE, NeverBelow(speed_mps=2.0), _COMFORT),
    "slow_vehicle_two_way": (
        GetsPast(what="slow-1", within_s=20.0, needs=LANE_CHANGES),
        KeepsGap(least_m=2.0, unless=LANE_CHANGES),
        KeepsGap(least_m=0.5),
        NeverBelow(speed_mps=2.0),
        _COMFORT,
    ),
    # who walks or rides
    "pedestrian_on_crosswalk": (YieldsTo(whom="person-1"), KeepsGap(least_m=1.0), BrakesAtMost(most_mps2=4.05)),
    "pedestrian_waits": (PassesLine(within_s=10.0), NeverBelow(speed_mps=3.0), KeepsGap(least_m=0.8)),
    "pedestrian_no_crosswalk": (YieldsTo(whom="person-1"), KeepsGap(least_m=1.0), BrakesAtMost(most_mps2=HARD_MPS2)),
    "pedestrian_from_behind_van": (KeepsGap(least_m=0.3, to="person-1"), BrakesAtMost(most_mps2=HARD_MPS2)),
    "pedestrian_on_pavement": (NeverBelow(speed_mps=9.5), _IN_LANE, _COMFORT),
    "cyclist_in_lane": (
        GetsPast(what="cyclist-1", within_s=18.0, needs=LANE_CHANGES),
        KeepsGap(least_m=0.8),
        NeverBelow(speed_mps=2.5),
        _COMFORT,
    ),
    "cyclist_crosses": (KeepsGap(least_m=0.8), BrakesAtMost(most_mps2=HARD_MPS2)),
    # what stands in the way
    "parked_car_room_in_lane": (GetsPast(what="parked-1", within_s=18.0), KeepsGap(least_m=0.25), _IN_LANE),
    "parked_car_free_oncoming": (
        GetsPast(what="parked-1", within_s=18.0, needs=LANE_CHANGES),
        StopsBehind(what="parked-1", unless=LANE_CHANGES),
        KeepsGap(least_m=0.25),
        _COMFORT,
    ),
    "parked_car_oncoming": (
        GetsPast(what="parked-1", within_s=24.0, needs=LANE_CHANGES),
        StopsBehind(what="parked-1", unless=LANE_CHANGES),
        LetsPass(whom="oncoming2-1", needs=LANE_CHANGES),
        KeepsGap(least_m=0.25),
    ),
    "blocked_lane_free_neighbour": (
        GetsPast(what="blocker-1", within_s=14.0, needs=LANE_CHANGES),
        StopsBehind(what="blocker-1", unless=LANE_CHANGES),
        KeepsGap(least_m=0.25),
        _COMFORT,
    ),
    "blocked_lane_no_gap": (StopsBehind(what="blocker-1", most_m=15.0), KeepsGap(least_m=0.3), _COMFORT),
    "blocked_lane_gap_later": (
        GetsPast(what="blocker-1", within_s=24.0, needs=LANE_CHANGES),
        StopsBehind(what="blocker-1", unless=LANE_CHANGES),
        KeepsGap(least_m=0.25),
    ),
    "construction_closes_lane": (
        GetsPast(what="barrier-1", within_s=15.0, needs=LANE_CHANGES),
        KeepsGap(least_m=0.2),
        _COMFORT,
    ),
    "slow_vehicle_two_lanes": (
        GetsPast(what="slow-1", within_s=15.0, needs=LANE_CHANGES),
        KeepsGap(least_m=0.5),
        NeverBelow(speed_mps=2.0),
        _COMFORT,
    ),
    "overtaking_fast_follower": (
        GetsPast(what="slow-1", within_s=18.0, needs=LANE_CHANGES),
        LetsPass(whom="fast-1", needs=LANE_CHANGES),
        KeepsGap(least_m=0.5),
        NeverBelow(speed_mps=2.0),
    ),
    "oncoming_while_overtaking": (
        GetsPast(what="slow-1", within_s=28.0, needs=LANE_CHANGES),
        LetsPass(whom="oncoming1-1", needs=LANE_CHANGES),
        KeepsGap(least_m=0.5),
        NeverBelow(speed_mps=1.0),
    ),
    # junctions
    "route_needs_left_lane": (ReachesExit(within_s=22.0, needs=LANE_CHANGES), _COMFORT),
    "route_needs_right_lane": (ReachesExit(within_s=22.0, needs=LANE_CHANGES), _COMFORT),
    "route_needs_left_lane_busy": (ReachesExit(within_s=25.0, needs=LANE_CHANGES), KeepsGap(least_m=0.5)),
    "unprotected_left_free": (ReachesExit(within_s=14.0), NeverBelow(speed_mps=1.0), _COMFORT),
    "unprotected_left_oncoming": (YieldsTo(whom="oncoming0-1"), KeepsGap(least_m=0.5), ReachesExit(within_s=18.0)),
    "unprotected_left_gap_later": (YieldsTo(whom="oncoming3-1"), KeepsGap(least_m=0.5), ReachesExit(within_s=22.0)),
    "oncoming_turns_in_front": (KeepsGap(least_m=0.5), BrakesAtMost(most_mps2=HARD_MPS2)),
    "crossing_car_runs_red": (YieldsTo(whom="runner-1"), KeepsGap(least_m=0.5), BrakesAtMost(most_mps2=HARD_MPS2)),
    "right_turn_pedestrian": (YieldsTo(whom="person-1"), KeepsGap(least_m=0.8), ReachesExit(within_s=18.0)),
    "unsignalised_from_right": (YieldsTo(whom="other-1"), KeepsGap(least_m=0.5), BrakesAtMost(most_mps2=4.05)),
    "unsignalised_from_left_waits": (NeverBelow(speed_mps=2.0), KeepsGap(least_m=1.0), BrakesAtMost(most_mps2=4.05)),
    "two_way_stop": (StopsBefore(), YieldsTo(whom="left1-1"), KeepsGap(least_m=1.0), PassesLine(within_s=22.0)),
}


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check of one manoeuvre. kind: the check's class. measured: "" where it was not expected. lacks: the capability
    without which it was not, "" where the check was, or where it only asks something of planners that lack one."""

    kind: str
    says: str
    status: str
    measured: str
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A planner in a manoeuvre: passed where no check fails. limited: what it lacks for the rest of the checks, "" for nothing."""

    manoeuvre: str
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Kinds of the checks that fail."""
        return tuple(c.kind for c in self.checks if c.status == FAILS)

    @property
    def limited(self) -> str:
        return next((c.lacks for c in self.checks if c.lacks), "")

    def to_row(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        checks = [{f.name: getattr(c, f.name) for f in fields(c)} for c in self.checks]
        return {"manoeuvre": self.manoeuvre, "passed": self.passed, "limited": self.limited, "checks": checks}


def judge(rollout: Rollout, scored: Score | None = None) -> Judgement | None:
    """The verdicts on a rollout through the whole of a manoeuvre, None for a part of one and for any other scenario.

    scored: nuPlan's terms where they are known already.
    """
    scenario = rollout.scenario
    name = scenario.notes.get("manoeuvre")
    whole = rollout.start_tick == HISTORY_TICKS and rollout.start_tick + len(rollout.states) == scenario.n_ticks
    if name not in EXPECTED or not whole:
        return None
    facts = Facts(rollout=rollout, scored=scored)
    cannot = CANNOT.get(rollout.planner, ())
    return Judgement(
        manoeuvre=name, checks=tuple(_judged(check, facts, cannot) for check in (*_ALWAYS, *EXPECTED[name]))
    )


def _judged(check: Check, facts: Facts, cannot: Sequence[str]) -> CheckResult:
    kind = type(check).__name__
    if check.needs in cannot or (check.unless is not None and check.unless not in cannot):
        lacks = check.needs if check.needs in cannot else None
        return CheckResult(kind=kind, says=check.says, status=NOT_EXPECTED, measured="", lacks=lacks or "")
    verdict = check.judge(facts)
    return CheckResult(kind=kind, says=check.says, status=HOLDS if verdict.holds else FAILS, measured=verdict.measured)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lines for a terminal: every manoeuvre among the rows of a closed-loop run, with what fails; "" where there is none."""
    judged = [row["manoeuvre"] for row in rows if row.get("manoeuvre")]
    if not judged:
        return ""
    width = max(len(row["manoeuvre"]) for row in judged)
    lines = []
    for row in judged:
        failing = [f"{c['says']}: {c['measured']}" for c in row["checks"] if c["status"] == FAILS]
        passed = f"pass  as far as is expected without {_words(row['limited'])}" if row["limited"] else "pass"
        lines.append(f"{row['manoeuvre']:{width}s}  {passed if row['passed'] else 'FAIL  ' + '; '.join(failing)}")
    return "\n".join([*lines, counted(judged)])


def counted(judged: Sequence[Mapping[str, Any]]) -> str:
    """How many of these rows of `Judgement.to_row` passed, and how many of them only in part."""
    passed = [row for row in judged if row["passed"]]
    part = sum(bool(row["limited"]) for row in passed)
    told = f"{len(passed)} of {len(judged)} manoeuvres passed"
    return f"{told}, {part} of them only as far as is expected of the planner" if part else told


def _words(capability: str) -> str:
    return capability.replace("_", " ")
