"""Our planners inside the official simulator, where nuPlan's devkit is installed: the same motion as in ours."""

import logging
import pickle

import numpy as np
import pytest
from nuplan_builder import scene, source_of

from nsdrive.scenarios.nuplan.write import write_scenario
from nsdrive.world.simulate import simulate

pytest.importorskip("nuplan.planning.simulation", reason="nuPlan's devkit is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the devkit's own warnings


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devkit")
    write_scenario(scene("cut_in"), folder)
    return folder


@pytest.fixture
def official(exported, monkeypatch):
    """The exported scenario as the devkit's own object."""
    for name in ("NUPLAN_DATA_ROOT", "NUPLAN_MAPS_ROOT", "NUPLAN_EXP_ROOT"):
        monkeypatch.setenv(name, str(exported / "maps"))
    from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_builder import NuPlanScenarioBuilder
    from nuplan.planning.scenario_builder.nuplan_db.nuplan_scenario_utils import ScenarioMapping
    from nuplan.planning.scenario_builder.scenario_filter import ScenarioFilter
    from nuplan.planning.utils.multithreading.worker_sequential import Sequential

    logging.disable(logging.WARNING)
    source = source_of(exported)
    (item,) = source.items()
    kind = source.load(item).scenario_type
    builder = NuPlanScenarioBuilder(
        data_root=str(exported / "logs"),
        map_root=str(exported / "maps"),
        sensor_root=None,
        db_files=None,
        map_version="nuplan-maps-v1.0",
        include_cameras=False,
        max_workers=1,
        verbose=False,
        scenario_mapping=ScenarioMapping({kind: [15.0, -3.0]}, 0.5),  # duration, offset [s], share of the 20 Hz
    )
    wanted = ScenarioFilter(
        scenario_types=None,
        scenario_tokens=[item.rpartition("/")[2]],
        log_names=None,
        map_names=None,
        num_scenarios_per_type=None,
        limit_total_scenarios=None,
        timestamp_threshold_s=None,
        ego_displacement_minimum_m=None,
        expand_scenarios=False,
        remove_invalid_goals=False,
        shuffle=False,
    )
    (found,) = builder.get_scenarios(wanted, Sequential())
    yield found
    logging.disable(logging.NOTSET)


def drive(scenario, planner):
    """nuPlan's closed loop, the others replayed: (T, 4) rear axle's x, y, heading and speed."""
    from nuplan.common.actor_state.vehicle_parameters import get_pacifica_parameters
    from nuplan.planning.simulation.controller.motion_model.kinematic_bicycle import KinematicBicycleModel
    from nuplan.planning.simulation.controller.tracker.lqr import LQRTracker
    from nuplan.planning.simulation.controller.two_stage_controller import TwoStageController
    from nuplan.planning.simulation.observation.tracks_observation import TracksObservation
    from nuplan.planning.simulation.simulation import Simulation
    from nuplan.planning.simulation.simulation_setup import SimulationSetup
    from nuplan.planning.simulation.simulation_time_controller.step_simulation_time_controller import (
        StepSimulationTimeController,
    )

    tracker = LQRTracker(  # lqr_tracker.yaml
        q_longitudinal=[10.0],
        r_longitudinal=[1.0],
        q_lateral=[1.0, 10.0, 0.0],
        r_lateral=[1.0],
        discretization_time=0.1,
        tracking_horizon=10,
        jerk_penalty=1e-4,
        curvature_rate_penalty=1e-2,
        stopping_proportional_gain=0.5,
        stopping_velocity=0.2,
    )
    simulation = Simulation(
        SimulationSetup(
            time_controller=StepSimulationTimeController(scenario),
            observations=TracksObservation(scenario),
            ego_controller=TwoStageController(scenario, tracker, KinematicBicycleModel(get_pacifica_parameters())),
            scenario=scenario,
        )
    )
    planner.initialize(simulation.initialize())
    while simulation.is_simulation_running():
        simulation.propagate(planner.compute_trajectory(simulation.get_planner_input()))
    return np.array(
        [
            [s.rear_axle.x, s.rear_axle.y, s.rear_axle.heading, s.dynamic_car_state.rear_axle_velocity_2d.x]
            for s in simulation.history.extract_ego_state
        ]
    )


@pytest.mark.parametrize("name", ["idm", "pdm_closed", "pdm_lanes"])
def test_the_ego_drives_in_the_official_simulator_as_in_ours(official, exported, name):
    from planners.nuplan_planner import NuplanPlanner

    source = source_of(exported)
    planner = pickle.loads(pickle.dumps(NuplanPlanner(name)))  # as nuPlan hands it to a worker
    compare(drive(official, planner), simulate(source.load(source.items()[0]), NuplanPlanner(name)._make()))


def test_a_model_drives_in_the_official_simulator_as_in_ours(official, exported, tmp_path):
    pytest.importorskip("transformers", reason="the libraries of the extra `train` are not installed")
    from nsdrive.vla.tiny import build_tiny
    from planners.nuplan_planner import NuplanPlanner

    build_tiny(tmp_path / "tiny")
    settings = {"model": str(tmp_path / "tiny"), "trace_level": "none", "replan_interval_s": 5.0}
    settings |= {"image_width_px": 64, "image_height_px": 36}
    source = source_of(exported)
    planner = pickle.loads(pickle.dumps(NuplanPlanner("vla", settings)))
    theirs = drive(official, planner)
    compare(theirs, simulate(source.load(source.items()[0]), NuplanPlanner("vla", settings)._make()))


def compare(theirs, ours):
    states = np.array([[s.x_m, s.y_m, s.heading_rad, s.speed_mps] for s in ours.states])
    assert len(theirs) >= 149
    np.testing.assert_allclose(states[: len(theirs)], theirs, rtol=0.0, atol=1e-6)
