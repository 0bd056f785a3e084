"""Our planners inside nuPlan's own simulator: any of them, or one of yours, as its `AbstractPlanner`.

    planner = NuplanPlanner("pdm_lanes", settings={"headway_s": 1.2})
    planner = NuplanPlanner("vla", settings={"model": "out/run/model"})     # sees what our renderer draws

nuPlan builds it from `configs/nuplan/planner/nsdrive_planner.yaml`. Needs the official devkit (v1.2), which is not on PyPI;
this is the only module that imports it. What the planner is given is what `nsdrive simulate` would give it:

    map             read from the files that the simulator reads, by our own reader: same ids, same geometry
    ego             rear axle; speed and acceleration along the heading, of nuPlan's vectors in the body's frame
    history         every state that the ego was in, from 2 s before the scenario on
    objects         nuPlan's order; velocities in the map's frame; accelerations, which it does not tell, from the tick before
    clock           2.0 s at the scenario's first tick, as ours; the trajectory returns in nuPlan's microseconds
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuplan.common.actor_state.ego_state import EgoState as NuplanEgoState
from nuplan.common.actor_state.state_representation import StateSE2, StateVector2D, TimePoint
from nuplan.planning.simulation.observation.observation_type import DetectionsTracks
from nuplan.planning.simulation.planner.abstract_planner import AbstractPlanner, PlannerInitialization, PlannerInput
from nuplan.planning.simulation.trajectory.interpolated_trajectory import InterpolatedTrajectory

from nsdrive.config import Chosen, build, did_you_mean
from nsdrive.planner_table import PlannerTable
from nsdrive.scenarios.nuplan.map import find_map, read_map
from nsdrive.world.types import (
    HISTORY_TICKS,
    INTERVAL_S,
    LIGHT_STATES,
    OBJECT_KINDS,
    EgoState,
    FloatArray,
    Mission,
    ObjectFrame,
    Observation,
    Plan,
    Trajectory,
)
from nsdrive.world.vehicle import PACIFICA

PLANNERS = {  # the names of the command line; a planner of your own goes by its import path
    "idm": "planners.idm:IdmPlanner",
    "pdm_closed": "planners.pdm_closed:PdmClosedPlanner",
    "pdm_lanes": "planners.pdm_lanes:PdmLanesPlanner",
    "vla": "planners.vla:VlaPlanner",
}
MAP_REACH_M = 800.0  # chosen by us: 20 s, nuPlan's longest scenario, at 33 m/s, and what lies ahead then
CREEPING_MPS = 0.5  # chosen by us: below it a heading rate says nothing about how the wheels are turned


class NuplanPlanner(AbstractPlanner):
    """One of our planners as nuPlan's. A decision per tick, or what a model said, goes to `decisions_path` as JSON lines.

    planner: a name of PLANNERS, or "module:Class". settings: that planner's, as in a config file (headway_s: 1.2; of vla,
    model: out/run/model, with the libraries of the extra `train`).
    maps_path: the folder with nuplan-maps-v1.0.json; None: the simulator's own, else $NUPLAN_MAPS_ROOT.
    decisions_path: a folder, None for none; every scenario gets a file <map>_<first tick's time in us>_<planner>.jsonl, made anew.
    ValueError, one line, for a planner or setting that is not known. It may be pickled at any time; what comes out has to
    be initialized anew.
    """

    requires_scenario = False

    def __init__(
        self,
        planner: str = "pdm_closed",
        settings: Mapping[str, Any] | None = None,
        maps_path: str | None = None,
        decisions_path: str | None = None,
    ) -> None:
        if planner not in PLANNERS and ":" not in planner:
            raise ValueError(f"No planner '{planner}'. {did_you_mean(planner, PLANNERS)}, or module:Class of your own")
        table = PlannerTable(PLANNERS)
        chosen = Chosen(name=planner, config=build(table[planner], dict(settings or {}), where="settings."))
        self._arguments = (planner, dict(settings or {}), maps_path, decisions_path)
        self._make = table.factory(chosen)
        self._drive: _Drive | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def name(self) -> str:
        """What nuPlan's results are filed under."""
        return f"nsdrive_{self._arguments[0].rpartition(':')[2]}"

    def observation_type(self) -> Any:
        return DetectionsTracks

    def initialize(self, initialization: PlannerInitialization) -> None:
        """Find the map. It is read at the first tick, which tells where the ego is."""
        planner, _, maps_path, decisions_path = self._arguments
        self._drive = _Drive(
            planner=self._make(),
            initialization=initialization,
            map_file=map_file(initialization.map_api, maps_path),
            decisions=None if decisions_path is None else Path(decisions_path).expanduser(),
            label=planner.rpartition(":")[2],
        )

    def compute_planner_trajectory(self, current_input: PlannerInput) -> InterpolatedTrajectory:
        """The planner's answer at this tick. ValueError where it is no trajectory, or `initialize` was not called."""
        if self._drive is None:
            raise ValueError("compute_planner_trajectory was called before initialize, so there is no map to drive on")
        return self._drive.answer(current_input)


class _Drive:
    """One scenario: what has been seen of it so far."""

    def __init__(
        self,
        *,
        planner: Any,
        initialization: PlannerInitialization,
        map_file: Path,
        decisions: Path | None,
        label: str,
    ) -> None:
        self.planner, self.initialization, self.map_file = planner, initialization, map_file
        self.decisions, self.label = decisions, label
        self.start_us = 0
        self.history: list[EgoState] = []
        self.frame: ObjectFrame | None = None
        self.frame_us = 0

    def answer(self, current_input: PlannerInput) -> InterpolatedTrajectory:
        now, seen = current_input.history.current_state
        if not self.history:
            self._begin(current_input)
        else:
            self.history.append(ego_state(now, self.start_us))
        elapsed_s = (int(now.time_us) - self.frame_us) / 1e6
        self.frame = object_frame(seen.tracked_objects.tracked_objects, self.frame, elapsed_s)
        self.frame_us = int(now.time_us)
        observation = Observation(
            tick=HISTORY_TICKS + int(current_input.iteration.index),
            time_s=self.history[-1].time_s,
            ego=self.history[-1],
            ego_history=tuple(self.history),
            objects=self.frame,
            lights=light_states(current_input.traffic_light_data or ()),
        )
        plan = self.planner.plan(observation)
        if self.decisions is not None:
            self._record(int(now.time_us), observation, plan)
        return InterpolatedTrajectory(trajectory_states(plan.trajectory, observation.ego, now))

    def _begin(self, current_input: PlannerInput) -> None:
        states = list(current_input.history.ego_states)
        observations = list(current_input.history.observations)
        self.start_us = int(states[-1].time_us)
        self.history = [ego_state(state, self.start_us) for state in states[-(HISTORY_TICKS + 1) :]]
        if len(observations) > 1:
            self.frame = object_frame(observations[-2].tracked_objects.tracked_objects, None, 0.0)
            self.frame_us = int(states[-2].time_us)
        self.planner.initialize(mission(self.initialization, self.map_file, self.history[-1]), self.history[-1])
        if self.decisions is not None:
            self.decisions.mkdir(parents=True, exist_ok=True)
            name = f"{self.initialization.map_api.map_name}_{self.start_us}_{self.label}.jsonl"
            self.decisions = self.decisions / name
            self.decisions.write_bytes(b"")

    def _record(self, time_us: int, observation: Observation, plan: Plan) -> None:
        assert self.decisions is not None, "checked where it is called"
        row = {
            "tick": observation.tick,
            "time_us": time_us,
            "ego": dataclasses.asdict(observation.ego),
            "decision": None if plan.decision is None else dataclasses.asdict(plan.decision),
            "said": plan.said,
            "notes": plan.notes,
        }
        with self.decisions.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


# ---- from nuPlan ----------------------------------------------------------------------------------------------------


def map_file(map_api: Any, maps_path: str | None = None) -> Path:
    """The GeoPackage of the simulator's map. ValueError, one line that says where it looked."""
    root = (
        maps_path
        or getattr(getattr(map_api, "_maps_db", None), "_map_root", None)
        or os.environ.get("NUPLAN_MAPS_ROOT")
    )
    if not root:
        raise ValueError(
            f"Where the map {map_api.map_name} lies is not known: give the planner a maps_path, or set NUPLAN_MAPS_ROOT"
        )
    return find_map(str(map_api.map_name), str(root), Path(str(root)))


def mission(initialization: PlannerInitialization, file: Path, ego: EgoState) -> Mission:
    """Route and goal, and the map around the ego and along the route."""
    here = np.array([ego.x_m, ego.y_m])
    bounds_m = np.concatenate([here - MAP_REACH_M, here + MAP_REACH_M])
    given = tuple(str(block) for block in initialization.route_roadblock_ids)
    lane_map = read_map(file, str(initialization.map_api.map_name), bounds_m, given)
    blocks = {lane.roadblock_id for lane in lane_map.lanes.values()}
    goal = initialization.mission_goal
    return Mission(
        lane_map=lane_map,
        route_roadblock_ids=tuple(block for block in given if block in blocks),
        goal_m=None if goal is None else (float(goal.x), float(goal.y)),
    )


def ego_state(state: Any, start_us: int) -> EgoState:
    """nuPlan's ego on our clock, which shows the end of the history, 2.0 s, at `start_us`."""
    pose, motion = state.rear_axle, state.dynamic_car_state
    return EgoState(
        time_s=round(HISTORY_TICKS * INTERVAL_S + (int(state.time_us) - start_us) / 1e6, 6),
        x_m=float(pose.x),
        y_m=float(pose.y),
        heading_rad=float(pose.heading),
        speed_mps=float(motion.rear_axle_velocity_2d.x),
        accel_mps2=float(motion.rear_axle_acceleration_2d.x),
        steering_rad=float(state.tire_steering_angle),
    )


def object_frame(objects: Sequence[Any], before: ObjectFrame | None, elapsed_s: float) -> ObjectFrame:
    """nuPlan's tracked objects as columns. before: the frame `elapsed_s` earlier, for accelerations along the headings."""
    count = len(objects)
    boxes, velocities = np.zeros((count, 5)), np.zeros((count, 2))
    heights, kinds = np.zeros(count), np.zeros(count, dtype=np.int8)
    ids = []
    for row, thing in enumerate(objects):
        box, center = thing.box, thing.box.center
        boxes[row] = center.x, center.y, center.heading, box.length, box.width
        heights[row] = box.height
        velocity = getattr(thing, "velocity", None)  # what stands for good has none
        if velocity is not None:
            velocities[row] = velocity.x, velocity.y
        kind = thing.tracked_object_type.name.lower()
        kinds[row] = OBJECT_KINDS.index(kind if kind in OBJECT_KINDS else "generic_object")
        ids.append(str(thing.track_token if thing.track_token is not None else thing.token))
    accels = np.zeros(count)
    if before is not None and elapsed_s > 0.0:
        speeds, previous = _forward_mps(boxes, velocities), _forward_mps(before.boxes, before.velocities_mps)
        rows = {track_id: row for row, track_id in enumerate(before.ids)}
        for row, track_id in enumerate(ids):
            if track_id in rows:
                accels[row] = (speeds[row] - previous[rows[track_id]]) / elapsed_s
    return ObjectFrame(
        ids=tuple(ids),
        kinds=kinds,
        boxes=boxes,
        heights_m=heights,
        velocities_mps=velocities,
        accels_mps2=accels,
        indicators=np.zeros(count, dtype=np.int8),
    )


def _forward_mps(boxes: FloatArray, velocities_mps: FloatArray) -> FloatArray:
    forward: FloatArray = velocities_mps[:, 0] * np.cos(boxes[:, 2]) + velocities_mps[:, 1] * np.sin(boxes[:, 2])
    return forward


def light_states(lights: Sequence[Any]) -> dict[str, str]:
    """Lane connector -> one of LIGHT_STATES."""
    states = {str(light.lane_connector_id): light.status.name.lower() for light in lights}
    return {connector: state if state in LIGHT_STATES else "unknown" for connector, state in states.items()}


# ---- to nuPlan ------------------------------------------------------------------------------------------------------


def trajectory_states(trajectory: Trajectory, ego: EgoState, now: Any) -> list[Any]:
    """The trajectory as nuPlan's ego states of the vehicle of `now`, which is `ego`; times are exact microseconds.

    How the wheels are turned is what the headings imply. ValueError for values that are not finite, or only one state.
    """
    times, poses = np.asarray(trajectory.times_s, dtype=float), np.asarray(trajectory.poses_global, dtype=float)
    speeds, accels = np.asarray(trajectory.speeds_mps, dtype=float), np.asarray(trajectory.accels_mps2, dtype=float)
    if len(times) < 2 or not all(np.isfinite(part).all() for part in (times, poses, speeds, accels)):
        raise ValueError(
            f"A trajectory needs two or more states, all finite; at {ego.time_s} s the planner gave others"
        )
    turning = np.gradient(np.unwrap(poses[:, 2]), times)
    wheels = np.where(
        speeds > CREEPING_MPS, np.arctan(PACIFICA.wheel_base_m * turning / np.maximum(speeds, CREEPING_MPS)), 0.0
    )
    wheels = np.clip(wheels, -PACIFICA.max_steering_rad, PACIFICA.max_steering_rad)
    vehicle = now.car_footprint.vehicle_parameters
    start_us = int(now.time_us)
    return [
        NuplanEgoState.build_from_rear_axle(
            rear_axle_pose=StateSE2(x, y, heading),
            rear_axle_velocity_2d=StateVector2D(speed, 0.0),
            rear_axle_acceleration_2d=StateVector2D(accel, 0.0),
            tire_steering_angle=wheel,
            time_point=TimePoint(start_us + round((time - ego.time_s) * 1e6)),
            vehicle_parameters=vehicle,
            angular_vel=turn,
        )
        for time, (x, y, heading), speed, accel, wheel, turn in zip(
            times.tolist(),
            poses.tolist(),
            speeds.tolist(),
            accels.tolist(),
            wheels.tolist(),
            turning.tolist(),
            strict=True,
        )
    ]
