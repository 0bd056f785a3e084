"""PDM-Closed: fifteen proposals, each rolled out, simulated and scored; the best one is driven.

Five target speeds (shares of the speed limit) on three paths (the centerline and one metre to either side) are rolled out
with the intelligent driver model against a constant-velocity forecast of everybody else, simulated with nuPlan's tracker and
vehicle model, and scored by the terms of `nsdrive.world.scoring`. If even the best one hits something by its own fault within
two seconds, and the ego is slow, it brakes as hard as comfort allows.

Source: Dauner, Hallgarten, Geiger, Chitta, "Parting with Misconceptions about Learning-based Vehicle Motion Planning", CoRL
2023, and its public code (tuplan_garage, Apache-2.0), learned from and written anew in `planners.pdm`. With
`reference=True`, the default, it takes the same proposal as that code at every tick, its quirks included (named in
`planners.pdm.config`); `reference=False` mends them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely

from nsdrive.world.decision import Constraint, Decision, Proposal, arg_min
from nsdrive.world.geometry import box_corners
from nsdrive.world.rules import evaluate
from nsdrive.world.scoring import ranking
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Mission, Observation, Plan, Trajectory
from nsdrive.world.vehicle import PACIFICA, ego_box
from planners.guard import guarded
from planners.pdm import forecast as fast_forecast
from planners.pdm import generate as fast_rollout
from planners.pdm import readable_rollout, readable_score, readable_simulate
from planners.pdm import score as fast_score
from planners.pdm import simulate as fast_simulate
from planners.pdm.areas import Areas
from planners.pdm.brake import emergency_trajectory, must_brake
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import Forecast
from planners.pdm.generate import Generated, Lead, target_speeds
from planners.pdm.paths import offset
from planners.pdm.route import lay_out, starting_lane
from planners.pdm.score import Scores, terms_of

PATH_END_M = 80.0  # chosen by us: the end of the path is recorded as a rule only within this gap


@dataclass(frozen=True, kw_only=True)
class PdmClosedConfig(PdmParameters):
    """PDM-Closed's constants. engine: "readable" computes the same, many times slower, by the specification in plain steps."""

    engine: Literal["fast", "readable"] = "fast"


@guarded
class PdmClosedPlanner:
    """Paths are laid once, by `initialize`; what the ego has run into is remembered, as in the public code, and ignored."""

    name = "pdm_closed"

    def __init__(self, config: PdmClosedConfig | None = None) -> None:
        self.config = config or PdmClosedConfig()
        self._mission: Mission | None = None

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Repair the route, find the shortest centerline on it, and lay the offset paths beside it."""
        self._mission = mission
        self._layout = lay_out(mission.lane_map, mission.route_roadblock_ids, ego, self.config)
        line = self._layout.centerline
        self._paths = tuple(line if side == 0.0 else offset(line, side) for side in self.config.offsets_m)
        self._ignored: frozenset[str] = frozenset()

    def plan(self, observation: Observation) -> Plan:
        """The best of the proposals as an 8 s trajectory (81 states, 0.1 s apart), and the whole deliberation."""
        assert self._mission is not None, "the guard sees to it"
        c, ego, layout, lane_map = self.config, observation.ego, self._layout, self._mission.lane_map
        fast = c.engine == "fast"
        foresee = fast_forecast.forecast if fast else readable_rollout.forecast
        seen = foresee(observation.objects, observation.lights, ego, layout.lanes, self._ignored, c)
        self._ignored = seen.ignored_ids
        lane_id = starting_lane(lane_map, layout.lanes, ego)
        limit = None if lane_id is None else lane_map.lanes[lane_id].speed_limit_mps

        rollout = fast_rollout if fast else readable_rollout
        generated = rollout.generate(self._paths, target_speeds(limit, c), seen, ego, c)
        simulate = fast_simulate if fast else readable_simulate
        simulated = simulate.simulate_proposals(generated.poses, ego, reference=c.reference)
        near = lane_map, ego_box(ego.pose)[0, :2], c.radius_m
        given = simulated, seen, layout.centerline
        if fast:
            scores = fast_score.score_proposals(*given, Areas.near(*near), layout.lanes, c)
        else:
            scores = readable_score.score_proposals(*given, readable_score.ReadableAreas.near(*near), layout.lanes, c)

        chosen, runner_up = ranking(scores.score.tolist())
        assert chosen is not None, "there is at least one proposal"
        if must_brake(float(scores.collision_s[chosen]), ego.speed_mps, c):
            before = observation.ego_history[-2] if len(observation.ego_history) > 1 else None
            poses = emergency_trajectory(ego, c, before)
            speeds = np.linalg.norm(np.diff(poses[:, :2], axis=0, append=poses[-1:, :2]), axis=1) / INTERVAL_S
        else:
            driven = rollout.extend(generated, chosen, c)
            poses, speeds = driven.poses, driven.speeds_mps
        constraints, binding, tied = arg_min(self._constraints(ego, generated, scores, chosen))
        progress_m = layout.centerline.project(ego.x_m, ego.y_m)
        decision = Decision(
            planner=self.name,
            time_s=observation.time_s,
            speed_mps=max(0.0, ego.speed_mps),
            accel_mps2=ego.accel_mps2,
            progress_m=progress_m,
            lateral_offset_m=_left_of(layout.centerline.pose_at(progress_m), ego),
            lane_id=lane_id,
            constraints=constraints,
            command_mps2=min(k.allows_mps2 for k in constraints),
            binding=binding,
            tied=tied,
            proposals=self._proposals(generated, scores, seen),
            chosen=chosen,
            runner_up=runner_up,
            notes=layout.problems,
        )
        return Plan(trajectory=_trajectory(ego, poses, speeds), decision=decision, candidates=generated.poses)

    def _constraints(self, ego: EgoState, generated: Generated, scores: Scores, chosen: int) -> list[Constraint]:
        """What the law says now on the chosen proposal's path, at its target speed: free road, the lead, and the brake."""
        c, speed = self.config, max(0.0, ego.speed_mps)
        target = float(generated.target_speeds_mps[generated.fraction_of[chosen]])
        found = [evaluate("target_speed", None, {}, speed, c, target_speed_mps=target)]
        path, lead, pose = (
            generated.paths[generated.path_of[chosen]],
            generated.leads[chosen],
            generated.poses[chosen, 0],
        )
        if lead is None:
            reach_m = 0.5 * PACIFICA.length_m if c.reference else PACIFICA.front_m  # see PdmParameters
            gap = path.length_m - float(generated.idm[chosen, 0, 0]) - reach_m
            if gap <= PATH_END_M:
                found.append(evaluate("path_end", None, {"gap_m": gap}, speed, c, target_speed_mps=target))
        elif lead.step <= c.lead_every:  # what comes into the way later is not yet held against the ego
            rule, inputs = "red_light", {"gap_m": _gap_m(pose, lead, generated.forecast)}
            if not lead.red_light:
                rule, inputs = "lead", {**inputs, "lead_speed_mps": lead.speed_mps}
            found.append(evaluate(rule, lead.about, inputs, speed, c, target_speed_mps=target))
        if must_brake(collision_s := float(scores.collision_s[chosen]), ego.speed_mps, c):
            about = generated.forecast.ids[scores.collision_about[chosen]]
            inputs = {"collision_s": collision_s}
            found.append(evaluate("emergency_brake", about, inputs, speed, c, target_speed_mps=target))
        return found

    def _proposals(self, generated: Generated, scores: Scores, seen: Forecast) -> tuple[Proposal, ...]:
        c = self.config
        return tuple(
            Proposal(
                path="keep",
                offset_m=c.offsets_m[path],
                speed_fraction=c.speed_fractions[fraction],
                terms=terms,
                score=score,
            )
            for path, fraction, terms, score in zip(
                generated.path_of.tolist(),
                generated.fraction_of.tolist(),
                terms_of(scores, seen),
                scores.score.tolist(),
                strict=True,
            )
        )


def _gap_m(pose: FloatArray, lead: Lead, seen: Forecast) -> float:
    """Metres now between the nearest points of the ego's box, on its path, and what it slows for: PDM-Closed's gap."""
    ego = shapely.Polygon(box_corners(ego_box(pose))[0])
    if lead.red_light:
        other = next(area for connector, area in seen.red_lights if connector == lead.about)
    else:
        other = seen.corners[seen.ids.index(lead.about)]
    return float(shapely.distance(ego, shapely.Polygon(other)))


def _left_of(pose: FloatArray, ego: EgoState) -> float:
    """How far left of a pose (3,) the ego's rear axle is [m]."""
    return float((ego.y_m - pose[1]) * np.cos(pose[2]) - (ego.x_m - pose[0]) * np.sin(pose[2]))


def _trajectory(ego: EgoState, poses: FloatArray, speeds_mps: FloatArray) -> Trajectory:
    """Poses (T, 3) and speeds (T,), 0.1 s apart from now on. PDM-Closed's begins on its path, not at the ego."""
    speeds = np.maximum(speeds_mps, 0.0)
    return Trajectory(
        times_s=np.round(ego.time_s + INTERVAL_S * np.arange(len(poses)), 6),
        poses_global=poses,
        speeds_mps=speeds,
        accels_mps2=np.diff(speeds, append=speeds[-1]) / INTERVAL_S,
    )
