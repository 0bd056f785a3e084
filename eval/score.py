"""nuPlan's closed-loop score of a rollout: four multipliers times the weighted mean of four terms, each 0 to 1.

    expert = expert_of(rollout.scenario, rollout.start_tick, len(rollout.states) - 1, make_reference)
    scored = score(rollout, expert)
    scored.terms["ego_progress_along_expert_route"], scored.total

The terms, their names, thresholds and weights are those of nuPlan's closed-loop challenges (nuplan-devkit v1.2, Apache-2.0:
planning/metrics/evaluation_metrics/common, config/common/simulation_metric, closed_loop_*_agents_weighted_average.yaml), written
anew; on the states of the official simulator they give the official values. The numbers that are judged come from
`nsdrive.world.measure` and `nsdrive.world.lanes_driven`.

Progress is a share of an expert's. Where the scenario has a log of the whole drive, that driver is the expert, as in nuPlan. A
generated scene has none: there the expert is a reference planner on the same road, at the same lights, with nobody else about. No
planner can lawfully get much further, it is the same for all, and getting past an obstacle pays; but where traffic leaves no way
on, nobody can reach 1, so that such scores compare planners with each other and not with nuPlan's. For the same reason
`ego_is_making_progress` asks there for a fifth of what the reference makes in the traffic itself: to stand in a queue that stands
is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nsdrive.world.faults import OFF_ROAD_M, Collision, collisions, is_agent, left_road_m
from nsdrive.world.lanes_driven import (
    LanesDriven,
    lane_progress_m,
    lanes_driven,
    limits_mps,
    route_blocks,
    route_progress_m,
)
from nsdrive.world.measure import comfort_of_bicycle, time_to_collision_s
from nsdrive.world.simulate import simulate
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, ObjectFrame, Planner, Rollout, Scenario
from nsdrive.world.vehicle import ego_box

CLOSED_LOOP_SCORE_VERSION = 1  # raise it whenever the same rollout would get another score

# Term -> its weight in the mean, None for a multiplier (closed_loop_{nonreactive,reactive}_agents_weighted_average.yaml).
TERMS: dict[str, float | None] = {
    "no_ego_at_fault_collisions": None,
    "drivable_area_compliance": None,
    "driving_direction_compliance": None,
    "ego_is_making_progress": None,
    "ego_progress_along_expert_route": 5.0,
    "time_to_collision_within_bound": 5.0,
    "speed_limit_compliance": 4.0,
    "ego_is_comfortable": 2.0,
}
SHORT = {  # for the heads of tables
    "no_ego_at_fault_collisions": "no fault",
    "drivable_area_compliance": "on road",
    "driving_direction_compliance": "direction",
    "ego_is_making_progress": "moves on",
    "ego_progress_along_expert_route": "progress",
    "time_to_collision_within_bound": "TTC",
    "speed_limit_compliance": "limit",
    "ego_is_comfortable": "comfort",
}

AT_FAULT_OBJECTS = 1  # no_ego_at_fault_collisions: max_violation_threshold_object; 0 for vehicles and for people
WRONG_WAY_S, WRONG_WAY_M, WRONG_WAY_WORST_M = 1.0, 2.0, 6.0  # driving_direction_compliance
LEAST_PROGRESS_M = 2.0  # ego_progress_along_expert_route: score_progress_threshold
MAKING_PROGRESS = 0.2  # ego_is_making_progress: min_progress_threshold
LEAST_TTC_S = 0.95  # time_to_collision_within_bound: least_min_ttc
OVER_LIMIT_MPS = 2.23  # speed_limit_compliance: max_overspeed_value_threshold
LON_ACCEL_MPS2 = (-4.05, 2.40)  # ego_lon_acceleration
LAT_ACCEL_MPS2 = 4.89  # ego_lat_acceleration
YAW_ACCEL_RADPS2, YAW_RATE_RADPS = 1.93, 0.95  # ego_yaw_acceleration, ego_yaw_rate
LON_JERK_MPS3, JERK_MPS3 = 4.13, 8.37  # ego_lon_jerk, ego_jerk


@dataclass(frozen=True, kw_only=True)
class Expert:
    """Whose progress the ego's is measured against.

    source: "log" or "free drive". states: of the log at all of the rollout's ticks, one more than are judged of the ego (so that
    even a replay of the log falls 0.1 s short of 1: nuPlan's way, kept); of a free drive as many as are judged. in_traffic: the
    reference among the others, None where the expert is the log's driver.
    """

    source: str
    states: tuple[EgoState, ...]
    in_traffic: tuple[EgoState, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """terms: every one of TERMS, 0 to 1, rounded to six decimals. measured: the numbers behind them, with their units.
    at_fault: (track id, how) of every collision that counts. expert: `Expert.source`."""

    terms: Mapping[str, float]
    measured: Mapping[str, float | None]
    at_fault: tuple[tuple[str, str], ...]
    expert: str

    @property
    def total(self) -> float:
        return total(self.terms)

    def to_row(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "score": self.total,
            "terms": dict(self.terms),
            "measured": dict(self.measured),
            "at_fault": [list(pair) for pair in self.at_fault],
            "expert": self.expert,
        }


def score(rollout: Rollout, expert: Expert) -> Score:
    """Judge a rollout of at least five states (else ValueError), all but its last: nuPlan's history holds the states at which
    something was decided, and not the one that the last step led to."""
    states, frames, lane_map = rollout.states[:-1], rollout.frames[:-1], rollout.scenario.lane_map
    poses = np.array([s.pose for s in states])
    speeds = np.abs([s.speed_mps for s in states])
    boxes = ego_box(poses)
    driven = lanes_driven(lane_map, boxes, poses)
    crashes = collisions(boxes, speeds, frames, driven)
    at_fault = [c for c in crashes if c.at_fault]
    off_road = float(left_road_m(lane_map, boxes, driven).max())
    wrong_way = _wrong_way_m(lane_progress_m(lane_map, driven.centre, boxes[:, :2]))
    blocks = route_blocks(lane_map, _centres(expert.states))
    ego_m, expert_m = route_progress_m(blocks, boxes[:, :2]), route_progress_m(blocks, _centres(expert.states))
    traffic_m = expert_m if expert.in_traffic is None else route_progress_m(blocks, _centres(expert.in_traffic))
    progress = _progress_ratio(ego_m, expert_m) if blocks.areas else 1.0
    moving_on = _progress_ratio(ego_m, min(expert_m, traffic_m)) if blocks.areas else 1.0
    ttc = _time_to_collision_s(boxes, speeds, frames, driven, crashes)
    over = np.nan_to_num(np.maximum(speeds - limits_mps(lane_map, driven.centre), 0.0), nan=0.0)
    uneasy = uncomfortable(states)
    terms = {
        "no_ego_at_fault_collisions": _collision_term(at_fault),
        "drivable_area_compliance": float(off_road < OFF_ROAD_M),
        "driving_direction_compliance": 1.0 if wrong_way < WRONG_WAY_M else 0.5 * (wrong_way < WRONG_WAY_WORST_M),
        "ego_is_making_progress": float(moving_on >= MAKING_PROGRESS),
        "ego_progress_along_expert_route": progress,
        "time_to_collision_within_bound": float(ttc > LEAST_TTC_S),
        "speed_limit_compliance": max(0.0, 1.0 - float(over.sum()) / (OVER_LIMIT_MPS * (len(states) - 1))),
        "ego_is_comfortable": float(not uneasy),
    }
    return Score(
        terms={name: round(float(terms[name]), 6) for name in TERMS},
        measured={
            "off_road_m": round(off_road, 4),
            "wrong_way_m": round(wrong_way, 4),
            "progress_m": round(ego_m, 4),
            "expert_progress_m": round(expert_m, 4),
            "min_ttc_s": round(ttc, 4) if np.isfinite(ttc) else None,
            "max_over_limit_mps": round(float(over.max()), 4),
            **uneasy,
        },
        at_fault=tuple((c.track_id, c.how) for c in at_fault),
        expert=expert.source,
    )


def total(terms: Mapping[str, float]) -> float:
    """The score that these terms make, rounded to four decimals; KeyError unless all of TERMS are there."""
    product, weighted, weights = 1.0, 0.0, 0.0
    for name, weight in TERMS.items():
        if weight is None:
            product *= terms[name]
        else:
            weighted += weight * terms[name]
            weights += weight
    return round(product * weighted / weights, 4)


def expert_of(
    scenario: Scenario, start_tick: int, ticks: int, make_reference: Callable[[], Planner], *, agents: str = "replay"
) -> Expert:
    """The log's driver where the log covers all of the rollout's `ticks` from `start_tick`, else the reference, driven alone.

    agents: as in `simulate`, for the reference's drive in traffic.
    """
    if start_tick + ticks < len(scenario.ego_log):
        return Expert(source="log", states=tuple(scenario.ego_log[start_tick : start_tick + ticks + 1]))
    alone = replace(scenario, frames=(ObjectFrame.of([]),) * scenario.n_ticks)
    duration_s = ticks * INTERVAL_S
    free = simulate(alone, make_reference(), start_tick=start_tick, duration_s=duration_s)
    among = simulate(scenario, make_reference(), start_tick=start_tick, duration_s=duration_s, agents=agents)
    return Expert(source="free drive", states=free.states[:-1], in_traffic=among.states[:-1])


# ---- terms --------------------------------------------------------------------------------------------------------


def _centres(states: Sequence[EgoState]) -> FloatArray:
    return ego_box(np.array([s.pose for s in states]))[:, :2]


def _collision_term(at_fault: Sequence[Collision]) -> float:
    """0 for a vehicle, a bicycle or a pedestrian; half for one standing thing, 0 for two."""
    things = sum(not is_agent(c.kind) for c in at_fault)
    return 0.0 if things < len(at_fault) else max(0.0, 1.0 - things / (AT_FAULT_OBJECTS + 1))


def _wrong_way_m(along: FloatArray) -> float:
    """The most that was driven against the lanes' direction within one second (one tick more, as nuPlan sums)."""
    window = round(WRONG_WAY_S / INTERVAL_S) + 1
    sums = np.concatenate([[0.0], np.cumsum(along)])
    ends = np.arange(1, len(sums))
    return abs(float((sums[ends] - sums[np.maximum(0, ends - window)]).min()))


def _progress_ratio(ego_m: float, expert_m: float) -> float:
    if ego_m < -LEAST_PROGRESS_M:
        return 0.0
    return min(1.0, max(ego_m, LEAST_PROGRESS_M) / max(expert_m, LEAST_PROGRESS_M))


def _time_to_collision_s(
    boxes: FloatArray,
    speeds: FloatArray,
    frames: Sequence[ObjectFrame],
    driven: LanesDriven,
    crashes: Sequence[Collision],
) -> float:
    """The least of the drive: 0 at a collision of the ego's fault; what it has touched no longer counts.

    Between lanes, off them and in intersections everything counts that is not behind, else only what is ahead. Everybody
    drives on along its heading at its speed; standing things stand.
    """
    if any(c.at_fault for c in crashes):
        return 0.0
    gone: set[str] = set()
    moving = []
    for tick, frame in enumerate(frames):
        gone |= {c.track_id for c in crashes if c.tick == tick}
        left = frame.without(gone) if gone else frame
        speed = np.where(left.kinds <= 2, left.speeds_mps, 0.0)
        heading = left.boxes[:, 2]
        along = np.column_stack([speed * np.cos(heading), speed * np.sin(heading)])
        moving.append(replace(left, velocities_mps=along))
    only_ahead = driven.together & ~driven.intersection
    return float(time_to_collision_s(boxes, speeds, moving, only_ahead=only_ahead).seconds.min())


def uncomfortable(states: Sequence[EgoState]) -> dict[str, float]:
    """Each bound that is broken, with the value that breaks it most; empty for a comfortable drive."""
    felt = comfort_of_bicycle(
        np.array([s.heading_rad for s in states]),
        np.array([s.speed_mps for s in states]),
        np.array([s.accel_mps2 for s in states]),
        np.array([s.steering_rad for s in states]),
    )
    low, high = LON_ACCEL_MPS2
    bounds = {
        "min_lon_accel_mps2": (felt.lon_accel_mps2.min(), low, np.inf),
        "max_lon_accel_mps2": (felt.lon_accel_mps2.max(), -np.inf, high),
        "lat_accel_mps2": (np.abs(felt.lat_accel_mps2).max(), -np.inf, LAT_ACCEL_MPS2),
        "yaw_rate_radps": (np.abs(felt.yaw_rate_radps).max(), -np.inf, YAW_RATE_RADPS),
        "yaw_accel_radps2": (np.abs(felt.yaw_accel_radps2).max(), -np.inf, YAW_ACCEL_RADPS2),
        "lon_jerk_mps3": (np.abs(felt.lon_jerk_mps3).max(), -np.inf, LON_JERK_MPS3),
        "jerk_mps3": (np.abs(felt.jerk_mps3).max(), -np.inf, JERK_MPS3),
    }
    return {name: round(float(v), 4) for name, (v, lowest, highest) in bounds.items() if not lowest < v < highest}
