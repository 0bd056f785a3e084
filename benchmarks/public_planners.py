"""Runs in a python of the public code's own, started by planners.py: times its planners on one scenario, prints JSON.

python public_planners.py SOURCES DATA TOKEN TICKS

SOURCES holds nuplan-devkit and tuplan_garage, DATA the folders logs and maps of `nsdrive export --format nuplan`. Nothing of
nsdrive is imported here, and nothing of the public code is changed.
"""

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

sources, data, token, ticks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sys.path[:0] = [str(sources / "nuplan-devkit"), str(sources / "tuplan_garage")]
for variable in ("NUPLAN_DATA_ROOT", "NUPLAN_MAPS_ROOT", "NUPLAN_EXP_ROOT"):
    os.environ.setdefault(variable, str(data))
warnings.filterwarnings("ignore")  # of the public code, on newer libraries than it was written for
logging.disable(logging.WARNING)

from nuplan.common.actor_state.vehicle_parameters import get_pacifica_parameters  # noqa: E402
from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_builder import NuPlanScenarioBuilder  # noqa: E402
from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_utils import ScenarioMapping  # noqa: E402
from nuplan.planning.scenario_builder.scenario_filter import ScenarioFilter  # noqa: E402
from nuplan.planning.simulation.controller.motion_model.kinematic_bicycle import KinematicBicycleModel  # noqa: E402
from nuplan.planning.simulation.controller.tracker.lqr import LQRTracker  # noqa: E402
from nuplan.planning.simulation.controller.two_stage_controller import TwoStageController  # noqa: E402
from nuplan.planning.simulation.observation.tracks_observation import TracksObservation  # noqa: E402
from nuplan.planning.simulation.planner.idm_planner import IDMPlanner  # noqa: E402
from nuplan.planning.simulation.simulation import Simulation  # noqa: E402
from nuplan.planning.simulation.simulation_setup import SimulationSetup  # noqa: E402
from nuplan.planning.simulation.simulation_time_controller.step_simulation_time_controller import (  # noqa: E402
    StepSimulationTimeController,
)
from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling  # noqa: E402
from nuplan.planning.utils.multithreading.worker_sequential import Sequential  # noqa: E402
from tuplan_garage.planning.simulation.planner.pdm_planner.pdm_closed_planner import PDMClosedPlanner  # noqa: E402
from tuplan_garage.planning.simulation.planner.pdm_planner.proposal.batch_idm_policy import BatchIDMPolicy  # noqa: E402


def idm():
    """Settings of idm_planner.yaml."""
    return IDMPlanner(
        target_velocity=10, min_gap_to_lead_agent=1.0, headway_time=1.5, accel_max=1.0, decel_max=3.0,
        planned_trajectory_samples=16, planned_trajectory_sample_interval=0.5, occupancy_map_radius=40,
    )  # fmt: skip


def pdm_closed():
    """Settings of pdm_closed_planner.yaml."""
    policy = BatchIDMPolicy(
        speed_limit_fraction=[0.2, 0.4, 0.6, 0.8, 1.0], fallback_target_velocity=15.0, min_gap_to_lead_agent=1.0,
        headway_time=1.5, accel_max=1.5, decel_max=3.0,
    )  # fmt: skip
    return PDMClosedPlanner(
        trajectory_sampling=TrajectorySampling(num_poses=80, interval_length=0.1),
        proposal_sampling=TrajectorySampling(num_poses=40, interval_length=0.1),
        idm_policies=policy, lateral_offsets=[-1.0, 1.0], map_radius=50,
    )  # fmt: skip


def scenario():
    mapping = ScenarioMapping(dict.fromkeys(scenario_types(), (15.0, -3.0)), 0.5)  # as nuplan_scenario_mapping.yaml
    builder = NuPlanScenarioBuilder(
        data_root=str(data / "logs"), map_root=str(data / "maps"), sensor_root=None, db_files=None,
        map_version="nuplan-maps-v1.0", include_cameras=False, max_workers=1, verbose=False, scenario_mapping=mapping,
    )  # fmt: skip
    wanted = ScenarioFilter(
        scenario_types=None, scenario_tokens=[token], log_names=None, map_names=None, num_scenarios_per_type=None,
        limit_total_scenarios=None, timestamp_threshold_s=None, ego_displacement_minimum_m=None, expand_scenarios=False,
        remove_invalid_goals=False, shuffle=False,
    )  # fmt: skip
    (found,) = builder.get_scenarios(wanted, Sequential())
    return found


def scenario_types():
    import sqlite3

    with sqlite3.connect(f"file:{next((data / 'logs').glob('*.db'))}?mode=ro", uri=True) as log:
        return sorted(row[0] for row in log.execute("select distinct type from scenario_tag"))


def timed(planner, world):
    """Wall and CPU seconds of each tick in nuPlan's own simulation."""
    tracker = LQRTracker(
        q_longitudinal=[10.0], r_longitudinal=[1.0], q_lateral=[1.0, 10.0, 0.0], r_lateral=[1.0], discretization_time=0.1,
        tracking_horizon=10, jerk_penalty=1e-4, curvature_rate_penalty=1e-2, stopping_proportional_gain=0.5,
        stopping_velocity=0.2, vehicle=get_pacifica_parameters(),
    )  # fmt: skip
    simulation = Simulation(
        SimulationSetup(
            time_controller=StepSimulationTimeController(world), observations=TracksObservation(world),
            ego_controller=TwoStageController(world, tracker, KinematicBicycleModel(get_pacifica_parameters())),
            scenario=world,
        )
    )  # fmt: skip
    planner.initialize(simulation.initialize())
    wall_s, cpu_s = [], []
    for _ in range(ticks):
        given = simulation.get_planner_input()
        cpu, wall = time.process_time(), time.perf_counter()
        trajectory = planner.compute_trajectory(given)
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
        simulation.propagate(trajectory)
    return {"wall_s": wall_s, "cpu_s": cpu_s}


world = scenario()
print(json.dumps({name: timed(make(), world) for name, make in (("idm", idm), ("pdm_closed", pdm_closed))}))
