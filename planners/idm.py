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

from nsdrive.world.decision import Constraint, Decision, arg_min
from nsdrive.world.geometry import corridor_overlap, wrap_angle
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.rules import IdmParameters, evaluate, idm_acceleration, roll_forward
from nsdrive.world.types import INTERVAL_S, EgoState, Mission, Observation, Plan, Trajectory
from nsdrive.world.vehicle import PACIFICA
from planners.along import AlongPath, crossing, points_in_polygon


@dataclass(frozen=True, kw_only=True)
class IdmConfig(IdmParameters):
    """The laws' parameters, and what the planner looks at. `target_speed_mps` holds where no limit is known."""

    horizon_s: float = 8.0  # nuPlan: 16 samples of 0.5 s
    plan_interval_s: float = 0.5  # nuPlan: planned_trajectory_sample_interval
    lookahead_s: float = 8.0  # nuPlan's path ahead: 8 s of driving at the target speed
    lookahead_min_m: float = 40.0  # nuPlan: occupancy_map_radius
    corridor_margin_m: float = 0.1  # chosen by us, mirrors; 0 as in nuPlan brushes past parked cars
    lead_moves: bool = True  # see the module
    path_end_m: float = 80.0  # chosen by us: the end of the path is a rule only within this gap
    line_tolerance_m: float = (
        1.0  # chosen by us: a nose this far over a stop line still waits, further it clears the crossing
    )
    stop_zone_m: float = 3.0  # chosen by us: standing within this gap of a stop sign's line counts as having stopped
    standing_mps: float = 0.2  # chosen by us, = the tracker's stopping speed
    crossing_mps: float = 0.5  # chosen by us: a vehicle in the intersection at this speed or more has the way
    step_out_s: float = 1.5  # chosen by us: who will be on a crosswalk this soon is about to enter it
    bystander_m: float = (
        1.5  # chosen by us: who stands on a crosswalk further than this from the ego's way lets it pass
    )
    max_crossing: int = 2  # chosen by us: two already show that no single one is the cause


class IdmPlanner:
    """A pure function of mission and observation but for the path, which `initialize` lays once."""

    name = "idm"

    def __init__(self, config: IdmConfig | None = None) -> None:
        self.config = config or IdmConfig()
        self._half_width_m = 0.5 * PACIFICA.width_m + self.config.corridor_margin_m
        self._along: AlongPath | None = None

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Lay the path from the ego's lane along the route (any lane, where no route is known). ValueError without a lane."""
        on_route = frozenset(mission.route_roadblock_ids) or None
        start = nearest_lane(mission.lane_map, ego.pose, allowed_roadblocks=on_route)
        lanes = find_route(mission.lane_map, start, mission.goal_m, mission.route_roadblock_ids)
        path = centerline(mission.lane_map, lanes)
        self._along = AlongPath.of(mission, path, self.config, self._half_width_m)

    def plan(self, observation: Observation) -> Plan:
        """The decision at this tick and the 8 s trajectory (81 states, 0.1 s apart) that follows from it."""
        if self._along is None:
            raise ValueError("IdmPlanner.plan was called before initialize, so there is no path to follow.")
        c, ego, along = self.config, observation.ego, self._along
        progress_m, offset_m = along.path.project(ego.x_m, ego.y_m)
        speed = max(0.0, ego.speed_mps)
        target = along.target_speed_mps(progress_m, c)
        constraints = [
            evaluate("target_speed", None, {}, speed, c, target_speed_mps=target),
            *self._road(along, progress_m, speed, target),
            *self._lead(along, observation, progress_m, speed, target),
            *self._lights(along, observation, progress_m, speed, target),
            *self._stop_signs(along, observation, progress_m, speed, target),
            *self._crosswalks(along, observation, progress_m, speed, target),
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

    def _road(self, along: AlongPath, progress: float, speed: float, target: float) -> list[Constraint]:
        """Curves within sight that ask for less than the target speed, and the end of the path."""
        c, found = self.config, []
        distance, radius = along.curve(progress, c)
        if distance <= self._lookahead_m(speed) and c.curve_lateral_accel_mps2 * radius < target * target:
            inputs = {"distance_m": distance, "radius_m": radius}
            found.append(evaluate("curve_speed", None, inputs, speed, c, target_speed_mps=target))
        gap = along.path.length_m - progress - PACIFICA.front_m
        if gap <= c.path_end_m:
            found.append(evaluate("path_end", None, {"gap_m": gap}, speed, c, target_speed_mps=target))
        return found

    def _lead(
        self, along: AlongPath, observation: Observation, progress: float, speed: float, target: float
    ) -> list[Constraint]:
        """Of the tracked objects on the ego's corridor, moving or not, the one that allows least; of equals the nearest.

        nuPlan takes the nearest. Taking the least makes "because of" true: no other object's removal can change the plan.
        """
        c, objects = self.config, observation.objects
        front = progress + PACIFICA.front_m
        entry = corridor_overlap(along.path, objects.boxes, front, front + self._lookahead_m(speed), self._half_width_m)
        rows = [row for row in np.argsort(entry, kind="stable") if math.isfinite(entry[row])]
        # Alongside and behind the nose is who follows or merges: theirs to mind, and nothing to stop for.
        rows = [r for r in rows if entry[r] - front > 0.05 or along.path.project(*objects.boxes[r, :2])[0] > front]
        if not rows:
            return []
        gaps = entry[rows] - front
        headings = along.path.pose_at(entry[rows])[:, 2]
        velocities = objects.velocities_mps[rows]
        speeds = velocities[:, 0] * np.cos(headings) + velocities[:, 1] * np.sin(headings)
        k = int(np.argmin(idm_acceleration(speed, gaps, speeds, target, c)))
        inputs = {"gap_m": float(gaps[k]), "lead_speed_mps": float(speeds[k])}
        return [evaluate("lead", objects.ids[rows[k]], inputs, speed, c, target_speed_mps=target)]

    def _lights(
        self, along: AlongPath, observation: Observation, progress: float, speed: float, target: float
    ) -> list[Constraint]:
        """The next red light and the next amber one on the path."""
        c, front = self.config, progress + PACIFICA.front_m
        found: dict[str, Constraint] = {}
        for line, connector in along.lights:
            gap, state = line - front, observation.lights.get(connector)
            if not -c.line_tolerance_m <= gap <= self._lookahead_m(speed):
                continue
            if state == "red" and "red" not in found:
                found["red"] = evaluate("red_light", connector, {"gap_m": gap}, speed, c, target_speed_mps=target)
            if state == "yellow" and "yellow" not in found:
                inputs = {"gap_m": gap, "accel_mps2": observation.ego.accel_mps2}
                found["yellow"] = evaluate("amber_light", connector, inputs, speed, c, target_speed_mps=target)
        return [found[state] for state in ("red", "yellow") if state in found]

    def _stop_signs(
        self, along: AlongPath, observation: Observation, progress: float, speed: float, target: float
    ) -> list[Constraint]:
        """The next stop line with a sign: how long the ego has stood at it, and how many are crossing."""
        c, objects = self.config, observation.objects
        front = progress + PACIFICA.front_m
        for line, line_id, intersection in along.stop_signs:
            gap = line - front
            if not -c.line_tolerance_m <= gap <= self._lookahead_m(speed):
                continue
            moving = (objects.kinds <= 1) & (objects.speeds_mps >= c.crossing_mps)  # OBJECT_KINDS: vehicle, bicycle
            inside = 0
            if intersection is not None and moving.any():
                inside = int(np.count_nonzero(points_in_polygon(objects.boxes[moving, :2], intersection)))
            inputs = {"gap_m": gap, "waited_s": self._waited_s(observation, gap), "crossing": float(inside)}
            return [evaluate("stop_sign", line_id, inputs, speed, c, target_speed_mps=target)]
        return []

    def _waited_s(self, observation: Observation, gap_m: float) -> float:
        """The longest that the ego has stood so far, while within the stop zone of a line that is `gap_m` ahead now."""
        c, ego = self.config, observation.ego
        longest = run = 0
        for state in reversed(observation.ego_history):
            if gap_m + math.hypot(state.x_m - ego.x_m, state.y_m - ego.y_m) > c.stop_zone_m:
                break
            run = run + 1 if abs(state.speed_mps) < c.standing_mps else 0
            longest = max(longest, run)
        return round(longest * INTERVAL_S, 1)

    def _crosswalks(
        self, along: AlongPath, observation: Observation, progress: float, speed: float, target: float
    ) -> list[Constraint]:
        """Who is on the nearest used crosswalk ahead or about to step onto it, up to the crosswalk's middle."""
        c, objects = self.config, observation.objects
        front = progress + PACIFICA.front_m
        for near, far, polygon in along.crosswalks:
            if not (front <= 0.5 * (near + far) and near - front <= self._lookahead_m(speed)):
                continue
            gap = near - front
            # For who is not on it yet only a stop is worth beginning: half a brake would help no one.
            can_stop = speed * speed <= 2.0 * c.decel_max_mps2 * max(gap, 0.1)
            people = crossing(along, polygon, objects, self._half_width_m, c.step_out_s, c.bystander_m)
            rows = [row for row, on in people if on or can_stop]
            rows.sort(key=lambda row: abs(along.path.project(*objects.boxes[row, :2])[1]))
            if rows:
                return [
                    evaluate("crosswalk", objects.ids[row], {"gap_m": gap}, speed, c, target_speed_mps=target)
                    for row in rows[: c.max_crossing]
                ]
        return []

    def _lookahead_m(self, speed: float) -> float:
        return max(self.config.lookahead_min_m, self.config.lookahead_s * speed)

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
        nodes, speeds, accels = roll_forward(
            progress,
            max(0.0, ego.speed_mps),
            np.array(held, dtype=float).reshape(-1, 3),
            along.profile,
            along.sources,
            c,
            steps=round(c.horizon_s / c.plan_interval_s),
            interval_s=c.plan_interval_s,
        ).T
        times = INTERVAL_S * np.arange(round(c.horizon_s / INTERVAL_S) + 1)
        step = np.minimum((times / c.plan_interval_s + 1e-9).astype(int), len(accels) - 1)
        since, speed, accel = times - step * c.plan_interval_s, speeds[step], accels[step]
        moving = np.where(
            accel < 0.0, np.minimum(since, speed / np.maximum(-accel, 1e-9)), since
        )  # stops, not reverses
        driven = nodes[step] - progress + speed * moving + 0.5 * accel * moving * moving
        # Back to the centerline on a cubic that starts with the ego's own offset and heading.
        length = max(10.0, 3.0 * ego.speed_mps)  # chosen by us: 3 s; less overshoots the centerline
        here = float(along.path.pose_at(progress)[2])
        slope = math.tan(min(0.5, max(-0.5, float(wrap_angle(ego.heading_rad - here)))))
        u = np.minimum(driven / length, 1.0)
        sideways = offset * (1.0 - u) ** 2 * (1.0 + 2.0 * u) + slope * length * u * (1.0 - u) ** 2
        turned = offset * 6.0 * u * (u - 1.0) / length + slope * (1.0 - u) * (1.0 - 3.0 * u)
        # Beside the centerline of a curve a metre driven is more or less than a metre of progress.
        ratio = np.maximum(0.5, 1.0 - along.path.curvature_at(progress + driven) * sideways)
        at = progress + np.concatenate([[0.0], np.cumsum(np.diff(driven) / ratio[:-1])])
        poses = along.path.pose_at(at)
        poses[:, 0] -= sideways * np.sin(poses[:, 2])
        poses[:, 1] += sideways * np.cos(poses[:, 2])
        poses[:, 2] += np.arctan(turned)
        poses[0] = ego.pose
        reached = np.maximum(0.0, speed + accel * since)
        standing = (reached == 0.0) & (accel <= 0.0)
        return Trajectory(
            times_s=np.round(ego.time_s + times, 6),
            poses_global=poses,
            speeds_mps=reached,
            accels_mps2=np.where(standing, 0.0, accel),
        )
