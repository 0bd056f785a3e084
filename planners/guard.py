"""What every planner does about input that is not what it should be: it drives on what is left of it, or stops, and says so.

    @guarded
    class MyPlanner: ...

A guarded planner's `initialize` and `plan` raise nothing for what they are given. Objects and ego states that are not finite
are left out or replaced before the planner sees them; where it finds no way at all, the plan is to brake to a stop straight
ahead. Each of this is a sentence in `Decision.notes`, of a plan without a decision in `Plan.notes`. On input that is as it
should be, nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numba import njit

from nsdrive.world.decision import NO_WAY, Decision, arg_min
from nsdrive.world.kernels import overlap_matrix
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.lanes_driven import is_in_a_lane
from nsdrive.world.rules import IdmParameters, evaluate
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Mission, ObjectFrame, Observation, Plan, Trajectory
from nsdrive.world.vehicle import PACIFICA

P = TypeVar("P", bound=type)
STOP_TICKS = 80  # 8 s, as long as the planners' plans
TOO_LONG_M = 200.0  # chosen by us: longer than any vehicle or barrier; outlines are probed every half metre
NEAR_M = 1.0  # chosen by us: less than half of any lane's width
NAMED = 3  # so many ids are named in a note; the others are counted


@dataclass
class State:
    """What the guard of one planner remembers. problem: why the planner could not begin, None where it could."""

    mission: Mission
    notes: tuple[str, ...]
    problem: str | None


def guarded(cls: P) -> P:
    """The class, with its `initialize` and `plan` guarded."""
    initialize: Callable[[Any, Mission, EgoState], None] = cls.initialize  # type: ignore[attr-defined]
    plan: Callable[[Any, Observation], Plan] = cls.plan  # type: ignore[attr-defined]

    def guarded_initialize(self: Any, mission: Mission, ego: EgoState) -> None:
        lane_map, notes = usable_map(mission.lane_map)
        if notes:
            mission = replace(mission, lane_map=lane_map)
        self._guard = State(
            mission=mission, notes=(*notes, *mission_notes(mission)), problem=_begin(self, mission, ego)
        )

    def guarded_plan(self: Any, observation: Observation) -> Plan:
        state: State | None = getattr(self, "_guard", None)
        if state is None:
            raise ValueError(f"{cls.__name__}.plan was called before initialize, so there is no path to follow.")
        observation, notes = usable(observation)
        notes = (*state.notes, *notes)
        if state.problem is not None:  # there may be a way from here
            state.problem = _begin(self, state.mission, observation.ego)
        problem = state.problem
        if problem is None:
            try:
                planned = plan(self, observation)
                if _is_off_lanes(state.mission, observation.ego, planned.decision):
                    notes = (*notes, "the ego is off every lane")
                if not notes:
                    return planned
                if planned.decision is None:
                    return replace(planned, notes=(*planned.notes, *notes))
                return replace(planned, decision=replace(planned.decision, notes=(*planned.decision.notes, *notes)))
            except Exception as error:
                problem = _sentence(error)
        return stop(self.name, observation, (*notes, f"{NO_WAY}{problem}"), getattr(self, "config", None))

    def _begin(planner: Any, mission: Mission, ego: EgoState) -> str | None:
        if not _is_finite(ego):
            return "the ego's place is not known"
        if not mission.lane_map.lanes:
            return "there is no lane to follow"
        try:
            initialize(planner, mission, ego)
        except Exception as error:
            return _sentence(error)
        return None

    guarded_initialize.__doc__, guarded_plan.__doc__ = initialize.__doc__, plan.__doc__
    cls.initialize, cls.plan = guarded_initialize, guarded_plan  # type: ignore[attr-defined]
    return cls


def usable_map(lane_map: LaneMap) -> tuple[LaneMap, tuple[str, ...]]:
    """The map without the lanes that have no finite lines or no length, and a note where there are any; else the same map."""
    if lane_map not in _BROKEN:
        _BROKEN[lane_map] = tuple(key for key, lane in lane_map.lanes.items() if not _has_lines(lane))
    broken = _BROKEN[lane_map]
    if not broken:
        return lane_map, ()
    lanes = {key: lane for key, lane in lane_map.lanes.items() if key not in broken}
    return replace(lane_map, lanes=lanes), (
        f"without finite lines of some length, left out: lane {_named(list(broken))}",
    )


_BROKEN: WeakKeyDictionary[LaneMap, tuple[str, ...]] = WeakKeyDictionary()


def _has_lines(lane: Lane) -> bool:
    lines = [np.asarray(line) for line in (lane.centerline, lane.left_boundary, lane.right_boundary)]
    return all(np.isfinite(line).all() for line in lines) and bool(np.ptp(lines[0], axis=0).max() > 1e-3)


def mission_notes(mission: Mission) -> tuple[str, ...]:
    """What is wrong with a route: none given, roadblocks that the map lacks, roadblocks that no lane joins."""
    route, lanes = mission.route_roadblock_ids, mission.lane_map.lanes
    if not lanes:
        return ("the map has no lanes",)
    if not route:
        return ("there is no route",)
    blocks = {lane.roadblock_id for lane in lanes.values()}
    missing = [block for block in route if block not in blocks]
    notes = [f"the route leads over {_named(missing)}, which the map does not have"] if missing else []
    joined = {
        (lane.roadblock_id, lanes[following].roadblock_id)
        for lane in lanes.values()
        for following in lane.outgoing
        if following in lanes
    }
    known = [block for block in route if block in blocks]
    for a, b in pairwise(known):
        if a != b and (a, b) not in joined:
            notes.append(f"no lane leads from roadblock {a} of the route to {b}")
    return tuple(notes)


def usable(observation: Observation) -> tuple[Observation, tuple[str, ...]]:
    """The observation with finite numbers only, and a note for each thing that was not; the same object where all were."""
    notes: list[str] = []
    ego, objects = observation.ego, observation.objects
    recent = observation.ego_history[-2:]
    if not (_is_finite(ego) and all(_is_finite(state) for state in recent)):
        history = tuple(state for state in observation.ego_history if _is_finite(state))
        if not _is_finite(ego):
            ego, note = _last_known(observation, history)
            notes.append(note)
            history = (*history, ego)
        observation = replace(observation, ego=ego, ego_history=history or (ego,))
    if len(objects):
        objects = _finite_objects(objects, notes)
        if objects is not observation.objects:
            observation = replace(observation, objects=objects)
        touching = np.flatnonzero(overlap_matrix(_box(ego), objects.boxes)[0]) if len(objects) else ()
        if len(touching):
            notes.append(f"the ego overlaps {_named([objects.ids[row] for row in touching])}")
    return observation, tuple(notes)


def stop(name: str, observation: Observation, notes: tuple[str, ...], config: Any = None) -> Plan:
    """Brake to a stop straight ahead; the decision is the end of the path, here."""
    parameters = config if isinstance(config, IdmParameters) else IdmParameters()
    ego, speed = observation.ego, max(0.0, observation.ego.speed_mps)
    end = evaluate("path_end", None, {"gap_m": 0.0}, speed, parameters, target_speed_mps=parameters.target_speed_mps)
    constraints, binding, tied = arg_min([end])
    times = INTERVAL_S * np.arange(STOP_TICKS + 1)
    decel = parameters.decel_max_mps2
    speeds = np.maximum(0.0, speed - decel * times)
    braking = np.minimum(times, speed / decel)
    driven = speed * braking - 0.5 * decel * braking**2
    poses = np.column_stack(
        [
            ego.x_m + driven * np.cos(ego.heading_rad),
            ego.y_m + driven * np.sin(ego.heading_rad),
            np.full(len(times), ego.heading_rad),
        ]
    )
    trajectory = Trajectory(
        times_s=np.round(ego.time_s + times, 6),
        poses_global=poses,
        speeds_mps=speeds,
        accels_mps2=np.where(speeds > 0.0, -decel, 0.0),
    )
    decision = Decision(
        planner=name,
        time_s=observation.time_s,
        speed_mps=speed,
        accel_mps2=ego.accel_mps2,
        progress_m=0.0,
        lateral_offset_m=0.0,
        lane_id=None,
        constraints=constraints,
        command_mps2=constraints[0].allows_mps2,
        binding=binding,
        tied=tied,
        notes=notes,
    )
    return Plan(trajectory=trajectory, decision=decision)


def _is_off_lanes(mission: Mission, ego: EgoState, decision: Decision | None) -> bool:
    """Looked up only where the ego is not near the middle of its path's lane."""
    if decision is not None and decision.lane_id is not None and abs(decision.lateral_offset_m) < NEAR_M:
        return False
    return not is_in_a_lane(mission.lane_map, ego.x_m, ego.y_m)


def _last_known(observation: Observation, history: tuple[EgoState, ...]) -> tuple[EgoState, str]:
    """Where the ego is taken to be when its state is not finite."""
    ego = observation.ego
    place: FloatArray = ego.pose
    if np.isfinite([*place, ego.time_s, ego.speed_mps]).all():  # only what a plan can do without
        return replace(
            ego, accel_mps2=0.0, steering_rad=0.0
        ), "the ego's acceleration or steering is not finite: taken as 0"
    if history:
        return replace(
            history[-1], time_s=observation.time_s
        ), "the ego's state is not finite: its last good one is taken"
    nowhere = EgoState(time_s=observation.time_s, x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=0.0)
    return nowhere, "the ego's state is not finite and there is no earlier one: taken to stand at the origin"


def _finite_objects(objects: ObjectFrame, notes: list[str]) -> ObjectFrame:
    """Without the objects that have no finite box of a size that things have; what has no finite velocity stands."""
    boxes = objects.boxes
    if _are_sound(boxes, objects.velocities_mps, objects.accels_mps2):
        return objects
    sizes = boxes[:, 3:]
    good = np.asarray(np.isfinite(boxes).all(axis=1) & (sizes > 0.0).all(axis=1) & (sizes < TOO_LONG_M).all(axis=1))
    if not good.all():
        notes.append(f"without a usable box, left out: {_named([objects.ids[row] for row in np.flatnonzero(~good)])}")
        objects = objects.take(good)
    if not np.isfinite(objects.velocities_mps).all():
        good = np.asarray(np.isfinite(objects.velocities_mps).all(axis=1))
        notes.append(
            f"without a finite velocity, taken to stand: {_named([objects.ids[row] for row in np.flatnonzero(~good)])}"
        )
        objects = replace(objects, velocities_mps=np.where(good[:, None], objects.velocities_mps, 0.0))
    if not np.isfinite(objects.accels_mps2).all():
        objects = replace(objects, accels_mps2=np.nan_to_num(objects.accels_mps2, nan=0.0, posinf=0.0, neginf=0.0))
    return objects


@njit(cache=True)
def _are_sound(boxes, velocities, accels):
    """Whether every number is finite and every box of a size that things have: all that is asked of input as it should be."""
    for k in range(boxes.shape[0]):
        x, y, heading, length, width = boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3], boxes[k, 4]
        if not (0.0 < length < TOO_LONG_M and 0.0 < width < TOO_LONG_M and math.isfinite(x + y + heading)):
            return False
        if not math.isfinite(velocities[k, 0] + velocities[k, 1] + accels[k]):
            return False
    return True


def _is_finite(state: EgoState) -> bool:
    s = state
    return math.isfinite(s.time_s + s.x_m + s.y_m + s.heading_rad + s.speed_mps + s.accel_mps2 + s.steering_rad)


def _box(ego: EgoState) -> FloatArray:
    """(1, 5): `ego_box` of one state, without its overhead."""
    ahead, heading = PACIFICA.rear_axle_to_center_m, ego.heading_rad
    x, y = ego.x_m + ahead * math.cos(heading), ego.y_m + ahead * math.sin(heading)
    return np.array([[x, y, heading, PACIFICA.length_m, PACIFICA.width_m]])


def _named(ids: list[str]) -> str:
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.rstrip(".") if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
