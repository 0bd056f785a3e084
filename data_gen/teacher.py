"""What is asked of a planner that teaches: that it says why, and that it does not do what nobody should learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsdrive.world.decision import NO_WAY
from nsdrive.world.faults import OFF_ROAD_M, collisions, left_road_m
from nsdrive.world.lanes_driven import lanes_driven
from nsdrive.world.types import EgoState, FloatArray, Mission, Observation, Plan, Planner, Rollout
from nsdrive.world.vehicle import ego_box

FURTHER_M = 0.05  # chosen by us: who starts off the road and comes no further off has not left it


class NoDecisionError(ValueError):
    """The planner drives, and does not say why."""


class Teacher:
    """A planner that is held to saying why: a plan without a decision makes no trace, and raises NoDecisionError.

    Neither does a plan of one that found no way: ValueError with its reason, and the scenario counts as failed.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner, self.name = planner, planner.name

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        self.planner.initialize(mission, ego)

    def plan(self, observation: Observation) -> Plan:
        plan = self.planner.plan(observation)
        if plan.decision is None:
            raise NoDecisionError(
                f"Planner '{self.name}' makes no decisions (`Plan.decision` is None), so there is no trace to write: it can "
                "drive in `nsdrive simulate`, but not teach"
            )
        no_way = next((note for note in plan.decision.notes if note.startswith(NO_WAY)), None)
        if no_way is not None:
            raise ValueError(f"tick {observation.tick}, planner '{self.name}': {no_way}")
        return plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Driving:
    """What went wrong in a rollout of T states. hits: ticks at which the ego ran into something by its own fault.
    away_m (T,): how far it is off the road. What the first state, which it was given, has of either is not its doing."""

    hits: tuple[int, ...]
    away_m: FloatArray

    def fault(self, first: int, last: int) -> str | None:
        """What makes the states first..last a bad example, None for nothing. Who has hit something before drives on through
        a world in which that cannot be, so that counts as well."""
        if any(tick <= last for tick in self.hits):
            return "at_fault_collision"
        if self.away_m[first : last + 1].max() > max(OFF_ROAD_M, self.away_m[0] + FURTHER_M):
            return "off_road"
        return None


def driving_of(rollout: Rollout) -> Driving:
    """Judge a rollout by nuPlan's rules of fault and of the drivable area, in the world that it was driven in."""
    lane_map = rollout.scenario.lane_map
    poses = np.array([s.pose for s in rollout.states])
    boxes = ego_box(poses)
    driven = lanes_driven(lane_map, boxes, poses)
    crashes = collisions(boxes, np.abs([s.speed_mps for s in rollout.states]), rollout.frames, driven)
    return Driving(
        hits=tuple(crash.tick for crash in crashes if crash.at_fault and crash.tick > 0),
        away_m=left_road_m(lane_map, boxes, driven),
    )
