"""The rule-based teacher: nuPlan's IDM planner, with every rule that a driver would name evaluated and recorded.

At each tick the planner asks every applicable rule what acceleration it allows (`nsdrive.world.rules`), takes the least,
and keeps all of them. The plan rolls the same choice forward over 8 s.

Follows nuPlan v1.2 `IDMPlanner` (nuplan-devkit, Apache-2.0: nuplan/planning/simulation/planner/idm_planner.py and
abstract_idm_planner.py; parameters from idm_planner.yaml): route by breadth-first search at the start, a lead in the corridor
of the ego's width, red connectors as standing obstacles, a standing obstacle at the path's end. Other than there: curves,
ambers, stop signs and crosswalks are rules too; the lead is the object that allows least, not the nearest; the target speed
follows the limit of each lane and ignores the ego's initial speed; and while a plan is rolled forward, a moving lead moves on
(nuPlan holds it in place but keeps its speed in the law, so that its ego brakes harder than the law says it must:
`lead_moves=False` does the same).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.decision import Constraint, Decision, arg_min
from nsdrive.world.kernels import interpolated, poses_at
from nsdrive.world.route import centerline, extend_straight, find_route, nearest_lane
from nsdrive.world.rules import evaluate, roll_forward
from nsdrive.world.types import INTERVAL_S, EgoState, Mission, Observation, Plan, Trajectory
from planners import road_rules
from planners.along import AlongPath
from planners.guard import guarded
from planners.road_rules import RoadParameters

NO_ROUTE_M = 500.0  # chosen by us: without a route the path leads so far straight on


@dataclass(frozen=True, kw_only=True)
class IdmConfig(RoadParameters):
    """The laws' parameters, and what the planner looks at. `target_speed_mps` holds where no limit is known."""

    horizon_s: float = 8.0  # nuPlan: 16 samples of 0.5 s
    plan_interval_s: float = 0.5  # nuPlan: planned_trajectory_sample_interval
    lead_moves: bool = True  # see the module


@guarded
class IdmPlanner:
    """A pure function of mission and observation but for the path, which `initialize` lays once."""

    name = "idm"

    def __init__(self, config: IdmConfig | None = None) -> None:
        self.config = config or IdmConfig()
        self._along: AlongPath | None = None

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Lay the path from the ego's lane along the route; where there is none, from the nearest lane straight on."""
        lane_map, route = mission.lane_map, mission.route_roadblock_ids
        on_route = frozenset(route) & {lane.roadblock_id for lane in lane_map.lanes.values()} or None
        start = nearest_lane(lane_map, ego.pose, allowed_roadblocks=on_route)
        straight_on = () if on_route else extend_straight(lane_map, (start,), NO_ROUTE_M)
        path = centerline(lane_map, straight_on or find_route(lane_map, start, mission.goal_m, route))
        self._along = AlongPath.of(mission, path, self.config, self.config.half_width_m)

    def plan(self, observation: Observation) -> Plan:
        """The decision at this tick and the 8 s trajectory (81 states, 0.1 s apart) that follows from it."""
        assert self._along is not None, "the guard sees to it"
        c, ego, along = self.config, observation.ego, self._along
        progress_m, offset_m = along.path.project(ego.x_m, ego.y_m)
        speed = max(0.0, ego.speed_mps)
        target = along.target_speed_mps(progress_m, c)
        constraints = [
            evaluate("target_speed", None, {}, speed, c, target_speed_mps=target),
            *road_rules.curve_and_end(along, progress_m, speed, target, c),
            *road_rules.lead(along, observation, progress_m, speed, target, c),
            *road_rules.lights(along, observation, progress_m, speed, target, c),
            *road_rules.stop_signs(along, observation, progress_m, speed, target, c),
            *road_rules.crosswalks(along, observation, progress_m, speed, target, c),
        ]
        filled, binding, tied = arg_min(constraints)
        decision = Decision(
            planner=self.name,
            time_s=observation.time_s,
            speed_mps=speed,
            accel_mps2=ego.accel_mps2,
            progress_m=progress_m,
            lateral_offset_m=offset_m,
            lane_id=along.path.lane_at(progress_m),
            constraints=filled,
            command_mps2=min(k.allows_mps2 for k in filled),
            binding=binding,
            tied=tied,
        )
        return Plan(trajectory=self._trajectory(along, ego, progress_m, offset_m, filled), decision=decision)

    def _trajectory(
        self, along: AlongPath, ego: EgoState, progress: float, offset: float, constraints: Sequence[Constraint]
    ) -> Trajectory:
        """The decision rolled forward and laid onto the path, from the ego's own pose on."""
        c = self.config
        held = [  # what the ego still stops or slows for; a passed amber or stop sign holds nothing
            (k.inputs["gap_m"], lead := k.inputs.get("lead_speed_mps", 0.0), max(0.0, lead) if c.lead_moves else 0.0)
            for k in constraints
            if "gap_m" in k.inputs
            and not (k.rule in ("amber_light", "stop_sign") and k.allows_mps2 >= c.accel_max_mps2)
        ]
        rolled = roll_forward(
            progress,
            max(0.0, ego.speed_mps),
            np.array(held, dtype=float).reshape(-1, 3),
            along.profile,
            along.sources,
            c,
            steps=round(c.horizon_s / c.plan_interval_s),
            interval_s=c.plan_interval_s,
        )
        path, times = along.path, INTERVAL_S * np.arange(round(c.horizon_s / INTERVAL_S) + 1)
        line = (path.points, path.progress_m, path.heading_rad, path.curvature_1pm)
        poses, slopes, speeds, accels = _laid_on(
            *line, rolled, times, c.plan_interval_s, offset, ego.heading_rad, ego.speed_mps
        )
        poses[:, 2] += np.arctan(slopes)
        poses[0] = ego.pose
        return Trajectory(
            times_s=np.round(ego.time_s + times, 6), poses_global=poses, speeds_mps=speeds, accels_mps2=accels
        )


@njit(cache=True)
def _laid_on(points, progress, heading, curvature, rolled, times, interval_s, offset, ego_heading, ego_speed):
    """What `roll_forward` gave (K, 3) every `interval_s`, at T times and from the ego's own offset and heading on.

    points, progress, heading, curvature: the path's. Returns poses (T, 3), headed as the path is; how steeply the motion
    leaves that heading, sideways over ahead (T,); speeds (T,); accelerations (T,).
    """
    count, start = len(times), rolled[0, 0]
    speeds, accels, slopes = np.empty(count), np.empty(count), np.empty(count)
    sideways, at = np.empty(count), np.empty(count)
    # Back to the centerline on a cubic that starts with the ego's own offset and heading.
    # Chosen by us: 3 s, less overshoots the centerline; and from far off the road at 27 degrees at most.
    length = max(10.0, 3.0 * ego_speed, 3.0 * abs(offset))
    turned = ego_heading - poses_at(points, progress, heading, rolled[:1, 0])[0, 2]
    slope = math.tan(min(0.5, max(-0.5, (turned + np.pi) % (2.0 * np.pi) - np.pi)))
    along, driven_before, ratio, i = 0.0, 0.0, 1.0, 0
    for k in range(count):
        step = min(int(times[k] / interval_s + 1e-9), len(rolled) - 1)
        since, speed, accel = times[k] - step * interval_s, rolled[step, 1], rolled[step, 2]
        moving = min(since, speed / max(-accel, 1e-9)) if accel < 0.0 else since  # stops, not reverses
        driven = rolled[step, 0] - start + speed * moving + 0.5 * accel * moving * moving
        speeds[k] = max(0.0, speed + accel * since)
        accels[k] = 0.0 if speeds[k] == 0.0 and accel <= 0.0 else accel
        u = min(driven / length, 1.0)
        rest = (1.0 - u) * (1.0 - u)
        sideways[k] = offset * rest * (1.0 + 2.0 * u) + slope * length * u * rest
        slopes[k] = offset * 6.0 * u * (u - 1.0) / length + slope * (1.0 - u) * (1.0 - 3.0 * u)
        # Beside the centerline of a curve a metre driven is more or less than a metre of progress.
        along += (driven - driven_before) / ratio
        at[k], driven_before = start + along, driven
        bend, i = interpolated(progress, curvature, start + driven, i)
        ratio = max(0.5, 1.0 - bend * sideways[k])
    poses = poses_at(points, progress, heading, at)
    for k in range(count):
        poses[k, 0] -= sideways[k] * math.sin(poses[k, 2])
        poses[k, 1] += sideways[k] * math.cos(poses[k, 2])
    return poses, slopes, speeds, accels
