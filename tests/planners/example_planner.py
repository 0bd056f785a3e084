"""A planner of one's own: half the speed limit along the route, and behind whatever is in the way."""

from dataclasses import dataclass

import numpy as np

from nsdrive.world.decision import Decision, arg_min
from nsdrive.world.geometry import corridor_overlap
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.rules import IdmParameters, evaluate
from nsdrive.world.types import Plan, Trajectory


@dataclass(frozen=True, kw_only=True)
class CautiousConfig(IdmParameters):
    speed_share: float = 0.5  # of the speed limit


class CautiousPlanner:
    name = "cautious"

    def __init__(self, config: CautiousConfig):
        self.config = config

    def initialize(self, mission, ego):
        start = nearest_lane(mission.lane_map, ego.pose)
        lanes = find_route(mission.lane_map, start, mission.goal_m, mission.route_roadblock_ids)
        self.path = centerline(mission.lane_map, lanes)

    def plan(self, observation):
        ego, objects, path, c = observation.ego, observation.objects, self.path, self.config
        at, offset = path.project(ego.x_m, ego.y_m)
        target = c.speed_share * float(np.nan_to_num(path.speed_limit_at(at), nan=c.target_speed_mps))
        rules = [evaluate("target_speed", None, {}, ego.speed_mps, c, target_speed_mps=target)]
        front = at + 4.05  # m, from the rear axle to the bumper
        for row, entry in enumerate(corridor_overlap(path, objects.boxes, front, front + 60.0, 1.3)):
            if np.isfinite(entry):
                seen = {"gap_m": float(entry) - front, "lead_speed_mps": objects[row].speed_mps}
                rules.append(evaluate("lead", objects.ids[row], seen, ego.speed_mps, c, target_speed_mps=target))
        rules, binding, tied = arg_min(rules)
        command = min(rule.allows_mps2 for rule in rules)
        times = np.linspace(0.0, 4.0, 41)
        speeds = np.maximum(0.0, ego.speed_mps + command * times)
        poses = path.pose_at(at + np.concatenate([[0.0], np.cumsum(0.1 * speeds[1:])]))
        accels = np.where(speeds > 0.0, command, 0.0)
        trajectory = Trajectory(times_s=ego.time_s + times, poses_global=poses, speeds_mps=speeds, accels_mps2=accels)
        decision = Decision(
            planner=self.name, time_s=observation.time_s, speed_mps=ego.speed_mps, accel_mps2=ego.accel_mps2,
            progress_m=at, lateral_offset_m=offset, lane_id=path.lane_at(at),
            constraints=rules, command_mps2=command, binding=binding, tied=tied,
        )  # fmt: skip
        return Plan(trajectory=trajectory, decision=decision)
