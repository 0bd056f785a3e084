"""Our planners as nuPlan's, against a stand-in of its interface: what it reads of nuPlan's objects, and what it returns.

The stand-in holds the names, attributes and units of nuplan-devkit v1.2 that the module uses, and no more.
"""

import json
import math
import pickle
import sys
from collections import deque
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from nuplan_builder import scene, source_of

from nsdrive import cli
from nsdrive.config import build, config_folder
from nsdrive.scenarios.nuplan.write import write_scenario
from nsdrive.vla.prompt import render_answer
from nsdrive.world.decision import KEPT_PLAN, Decision
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, OBJECT_KINDS, EgoState, Plan, Scenario, Trajectory
from nsdrive.world.vehicle import PACIFICA

CLOCK_US = 1_700_000_000_123_457
ORDER = ("VEHICLE", "PEDESTRIAN", "BICYCLE", "TRAFFIC_CONE", "BARRIER", "CZONE_SIGN", "GENERIC_OBJECT")
VEHICLE = SimpleNamespace(wheel_base=PACIFICA.wheel_base_m)


# ---- the stand-in ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateSE2:
    x: float
    y: float
    heading: float


@dataclass(frozen=True)
class StateVector2D:
    x: float
    y: float


@dataclass(frozen=True)
class TimePoint:
    time_us: int

    def __post_init__(self) -> None:
        assert type(self.time_us) is int
        assert self.time_us >= 0


@dataclass(frozen=True)
class NuplanEgoState:
    rear_axle: StateSE2
    dynamic_car_state: Any
    tire_steering_angle: float
    time_point: TimePoint
    car_footprint: Any

    @property
    def time_us(self) -> int:
        return self.time_point.time_us

    @classmethod
    def build_from_rear_axle(
        cls,
        *,
        rear_axle_pose: StateSE2,
        rear_axle_velocity_2d: StateVector2D,
        rear_axle_acceleration_2d: StateVector2D,
        tire_steering_angle: float,
        time_point: TimePoint,
        vehicle_parameters: Any,
        angular_vel: float = 0.0,
    ) -> "NuplanEgoState":
        motion = SimpleNamespace(
            rear_axle_velocity_2d=rear_axle_velocity_2d,
            rear_axle_acceleration_2d=rear_axle_acceleration_2d,
            angular_velocity=angular_vel,
        )
        footprint = SimpleNamespace(vehicle_parameters=vehicle_parameters)
        return cls(rear_axle_pose, motion, tire_steering_angle, time_point, footprint)


class AbstractPlanner:
    def compute_trajectory(self, current_input: Any) -> Any:
        return self.compute_planner_trajectory(current_input)  # type: ignore[attr-defined]


class InterpolatedTrajectory:
    def __init__(self, trajectory: list[NuplanEgoState]) -> None:
        assert len(trajectory) > 1
        self.states = trajectory


class DetectionsTracks:
    def __init__(self, objects: list[Any]) -> None:
        self.tracked_objects = SimpleNamespace(tracked_objects=objects)


@pytest.fixture
def adapter(monkeypatch):
    """planners.nuplan_planner, imported anew with the stand-in in nuPlan's place."""
    contents: dict[str, dict[str, Any]] = {
        "common.actor_state.ego_state": {"EgoState": NuplanEgoState},
        "common.actor_state.state_representation": {
            "StateSE2": StateSE2,
            "StateVector2D": StateVector2D,
            "TimePoint": TimePoint,
        },
        "planning.simulation.observation.observation_type": {"DetectionsTracks": DetectionsTracks},
        "planning.simulation.planner.abstract_planner": {
            "AbstractPlanner": AbstractPlanner,
            "PlannerInitialization": SimpleNamespace,
            "PlannerInput": SimpleNamespace,
        },
        "planning.simulation.trajectory.interpolated_trajectory": {"InterpolatedTrajectory": InterpolatedTrajectory},
    }
    for path, names in contents.items():
        parts = ["nuplan", *path.split(".")]
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            module = ModuleType(name)
            module.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, module)
        for name, value in names.items():
            setattr(module, name, value)
    monkeypatch.delitem(sys.modules, "planners.nuplan_planner", raising=False)
    monkeypatch.delenv("NUPLAN_MAPS_ROOT", raising=False)
    import planners.nuplan_planner as module

    yield module
    sys.modules.pop("planners.nuplan_planner", None)


def nuplan_ego(state: EgoState, time_us: int) -> NuplanEgoState:
    return NuplanEgoState.build_from_rear_axle(
        rear_axle_pose=StateSE2(state.x_m, state.y_m, state.heading_rad),
        rear_axle_velocity_2d=StateVector2D(state.speed_mps, 0.0),
        rear_axle_acceleration_2d=StateVector2D(state.accel_mps2, 0.0),
        tire_steering_angle=state.steering_rad,
        time_point=TimePoint(time_us),
        vehicle_parameters=VEHICLE,
    )


def thing(
    kind: str, x=0.0, y=0.0, heading=0.0, velocity: tuple[float, float] | None = (0.0, 0.0), token="a", height=1.5
):
    box = SimpleNamespace(center=StateSE2(x, y, heading), length=4.0, width=2.0, height=height)
    made = SimpleNamespace(
        tracked_object_type=SimpleNamespace(name=kind), box=box, track_token=token, token=f"row-{token}"
    )
    if velocity is not None:
        made.velocity = StateVector2D(*velocity)
    return made


def detections(frame) -> DetectionsTracks:
    made = []
    for o in frame:
        one = thing(o.kind.upper(), o.x_m, o.y_m, o.heading_rad, (o.vx_mps, o.vy_mps), o.track_id, o.height_m)
        one.box.length, one.box.width = o.length_m, o.width_m
        made.append(one)
    return DetectionsTracks(made)


def light(connector: int, state: str) -> Any:
    return SimpleNamespace(lane_connector_id=connector, status=SimpleNamespace(name=state))


class Simulation:
    """nuPlan's loop as far as a planner sees it: a rolling history of 22 states, its own microseconds."""

    def __init__(self, scenario: Scenario, maps_root: str) -> None:
        self.scenario, self.maps_root = scenario, maps_root
        before = range(HISTORY_TICKS + 1)
        self.states = deque((nuplan_ego(scenario.ego_log[k], self.time_us(k)) for k in before), maxlen=22)
        self.seen = deque((detections(scenario.frames[k]) for k in before), maxlen=22)

    @staticmethod
    def time_us(tick: int) -> int:
        return CLOCK_US + (tick - HISTORY_TICKS) * 100_000

    def initialization(self) -> Any:
        goal = self.scenario.goal_m
        return SimpleNamespace(
            route_roadblock_ids=list(self.scenario.route_roadblock_ids),
            mission_goal=None if goal is None else StateSE2(*goal, 0.0),
            map_api=SimpleNamespace(
                map_name=str(self.scenario.notes["map"]).split("/")[0],
                _maps_db=SimpleNamespace(_map_root=self.maps_root),
            ),
        )

    def input(self, tick: int) -> Any:
        lights = [light(int(k), v.upper()) for k, v in self.scenario.lights[tick].items()]
        history = SimpleNamespace(
            current_state=(self.states[-1], self.seen[-1]),
            ego_states=list(self.states),
            observations=list(self.seen),
        )
        iteration = SimpleNamespace(index=tick - HISTORY_TICKS, time_point=TimePoint(self.time_us(tick)))
        return SimpleNamespace(iteration=iteration, history=history, traffic_light_data=lights)

    def step(self, tick: int, state: EgoState) -> None:
        self.states.append(nuplan_ego(state, self.time_us(tick)))
        self.seen.append(detections(self.scenario.frames[tick]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Scenario, str]:
    """A scenario as read back from nuPlan's format, and the root of its maps."""
    folder = tmp_path_factory.mktemp("exported")
    write_scenario(scene("cut_in"), folder)
    source = source_of(folder)
    return source.load(source.items()[0]), str(folder / "maps")


class Watcher:
    """A planner that remembers what it was given, and stands."""

    name = "watcher"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def initialize(self, mission, ego) -> None:
        self.mission = mission

    def plan(self, observation):
        self.seen.append(observation)
        poses = np.tile(observation.ego.pose, (3, 1))
        times = observation.ego.time_s + np.array([0.0, 0.1, 0.2])
        zeros = np.zeros(3)
        return Plan(
            trajectory=Trajectory(times_s=times, poses_global=poses, speeds_mps=zeros, accels_mps2=zeros), decision=None
        )


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["idm", "pdm_closed", "pdm_lanes"])
def test_a_planner_plans_in_nuplan_what_it_plans_in_our_simulator(adapter, exported, name):
    scenario, maps_root = exported
    planner = adapter.NuplanPlanner(name)
    ours = simulate(scenario, adapter.NuplanPlanner(name)._make(), duration_s=1.5)
    simulation = Simulation(scenario, maps_root)
    planner.initialize(simulation.initialization())
    for k, plan in enumerate(ours.plans):
        tick = HISTORY_TICKS + k
        if k:
            simulation.step(tick, ours.states[k])
        states = planner.compute_trajectory(simulation.input(tick)).states
        poses = [[s.rear_axle.x, s.rear_axle.y, s.rear_axle.heading] for s in states]
        np.testing.assert_array_equal(poses, plan.trajectory.poses_global)
        speeds = [s.dynamic_car_state.rear_axle_velocity_2d.x for s in states]
        np.testing.assert_array_equal(speeds, plan.trajectory.speeds_mps)
        offsets = np.round((plan.trajectory.times_s - ours.states[k].time_s) * 1e6).astype(int)
        assert [s.time_us for s in states] == [simulation.time_us(tick) + int(us) for us in offsets]


def test_the_planners_history_is_that_of_our_simulator_and_grows_beyond_nuplans_buffer(adapter, exported):
    scenario, maps_root = exported
    own = Watcher()
    simulation = Simulation(scenario, maps_root)
    planner = adapter.NuplanPlanner("idm")
    planner._make = lambda: own
    planner.initialize(simulation.initialization())
    for tick in range(HISTORY_TICKS, HISTORY_TICKS + 6):
        if tick > HISTORY_TICKS:
            simulation.step(tick, scenario.ego_log[HISTORY_TICKS])
        planner.compute_trajectory(simulation.input(tick))
    last = own.seen[-1]
    assert last.tick == HISTORY_TICKS + 5
    assert last.time_s == 2.5
    assert [s.time_s for s in last.ego_history] == [round(0.1 * k, 6) for k in range(HISTORY_TICKS + 6)]
    assert last.ego == last.ego_history[-1]
    mission = own.mission
    assert mission.route_roadblock_ids == scenario.route_roadblock_ids
    assert mission.goal_m == scenario.goal_m


def test_the_ego_is_the_rear_axle_with_its_speed_along_the_heading(adapter):
    state = nuplan_ego(EgoState(time_s=0.0, x_m=1.0, y_m=2.0, heading_rad=2.0, speed_mps=7.0), CLOCK_US + 300_000)
    state = replace(state, tire_steering_angle=0.1)
    state.dynamic_car_state.rear_axle_velocity_2d = StateVector2D(7.0, 0.4)  # the body's frame: forward, sideways
    state.dynamic_car_state.rear_axle_acceleration_2d = StateVector2D(-1.5, 0.9)
    assert adapter.ego_state(state, CLOCK_US) == EgoState(
        time_s=2.3, x_m=1.0, y_m=2.0, heading_rad=2.0, speed_mps=7.0, accel_mps2=-1.5, steering_rad=0.1
    )


def test_objects_keep_order_kind_box_and_velocity_in_the_maps_frame(adapter):
    things = [thing(kind, 10.0 * k, -k, 0.5, (3.0, 4.0), f"t{k}") for k, kind in enumerate(ORDER[:3])]
    things += [thing(kind, 50.0, k, 0.0, None, f"s{k}") for k, kind in enumerate(ORDER[3:])]
    frame = adapter.object_frame(things, None, 0.0)
    assert frame.ids == ("t0", "t1", "t2", "s0", "s1", "s2", "s3")
    assert [OBJECT_KINDS[k] for k in frame.kinds] == [kind.lower() for kind in ORDER]
    np.testing.assert_array_equal(frame.boxes[1], [10.0, -1.0, 0.5, 4.0, 2.0])
    np.testing.assert_array_equal(frame.velocities_mps, [[3.0, 4.0]] * 3 + [[0.0, 0.0]] * 4)
    np.testing.assert_array_equal(frame.heights_m, 1.5)
    assert len(adapter.object_frame([], frame, 0.1)) == 0


def test_a_car_that_slows_along_its_heading_has_its_deceleration(adapter):
    north = math.pi / 2
    before = adapter.object_frame([thing("VEHICLE", heading=north, velocity=(0.0, 5.0))], None, 0.0)
    now = [thing("VEHICLE", heading=north, velocity=(0.0, 4.8)), thing("VEHICLE", velocity=(9.0, 0.0), token="new")]
    np.testing.assert_allclose(adapter.object_frame(now, before, 0.1).accels_mps2, [-2.0, 0.0], atol=1e-12)


def test_an_object_without_a_track_goes_by_its_own_token_and_an_unknown_kind_is_generic(adapter):
    frame = adapter.object_frame([thing("TRAM", token=None)], None, 0.0)
    assert frame.ids == ("row-None",)
    assert frame[0].kind == "generic_object"


def test_lights_keep_their_order_and_what_is_no_colour_is_unknown(adapter):
    lights = [light(9, "RED"), light(7, "GREEN"), light(8, "YELLOW"), light(6, "UNKNOWN"), light(5, "BLINKING")]
    states = adapter.light_states(lights)
    assert list(states.items()) == [("9", "red"), ("7", "green"), ("8", "yellow"), ("6", "unknown"), ("5", "unknown")]


def test_times_return_as_exact_microseconds_and_wheels_as_the_headings_turn(adapter):
    ego = EgoState(time_s=17.3, x_m=0.0, y_m=0.0, heading_rad=3.1, speed_mps=6.0)
    now = nuplan_ego(ego, CLOCK_US + 7)
    steps = 0.1 * np.arange(81)
    poses = np.column_stack([steps, steps, (3.1 + 0.3 * steps + np.pi) % (2 * np.pi) - np.pi])  # through the seam at pi
    plan = Trajectory(times_s=17.3 + steps, poses_global=poses, speeds_mps=np.full(81, 6.0), accels_mps2=np.zeros(81))
    states = adapter.trajectory_states(plan, ego, now)
    assert [s.time_us for s in states] == [CLOCK_US + 7 + 100_000 * k for k in range(81)]
    expected = math.atan(PACIFICA.wheel_base_m * 0.3 / 6.0)
    assert [s.tire_steering_angle for s in states] == pytest.approx([expected] * 81)
    assert [s.dynamic_car_state.angular_velocity for s in states] == pytest.approx([0.3] * 81)
    standing = replace(plan, speeds_mps=np.zeros(81))
    assert {s.tire_steering_angle for s in adapter.trajectory_states(standing, ego, now)} == {0.0}
    with pytest.raises(ValueError, match="all finite"):
        adapter.trajectory_states(replace(plan, speeds_mps=np.full(81, np.nan)), ego, now)


def test_every_decision_is_a_line_that_reads_back(adapter, exported, tmp_path):
    scenario, maps_root = exported
    simulation = Simulation(scenario, maps_root)
    planner = adapter.NuplanPlanner("pdm_closed", decisions_path=str(tmp_path / "decisions"))
    ours = simulate(scenario, planner._make(), duration_s=0.2)
    for _ in range(2):  # a second run of the scenario begins its file anew
        simulation = Simulation(scenario, maps_root)
        planner.initialize(simulation.initialization())
        for k, state in enumerate(ours.states):
            if k:
                simulation.step(HISTORY_TICKS + k, state)
            planner.compute_trajectory(simulation.input(HISTORY_TICKS + k))
    (file,) = (tmp_path / "decisions").iterdir()
    map_name = simulation.initialization().map_api.map_name
    assert file.name == f"{map_name}_{CLOCK_US}_pdm_closed.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["tick"] for row in rows] == [20, 21, 22]
    assert [row["time_us"] for row in rows] == [simulation.time_us(k) for k in (20, 21, 22)]
    assert [build(EgoState, row["ego"]) for row in rows] == list(ours.states)
    assert [build(Decision, row["decision"]) for row in rows] == [plan.decision for plan in ours.plans]


def test_a_model_drives_in_nuplan_as_in_our_simulator_and_its_words_are_lines(adapter, exported, tmp_path, monkeypatch):
    import planners.vla as vla
    from nsdrive.vla.inference.engine import Said

    words = render_answer("", np.column_stack([3.0 * np.arange(1, 11), np.zeros(10)]))
    monkeypatch.setattr(vla, "load", lambda *a: None)
    monkeypatch.setattr(
        vla.VlaPlanner, "ask", lambda self, observation: Said(text=words if observation.tick < 25 else "no idea")
    )
    scenario, maps_root = exported
    planner = adapter.NuplanPlanner("vla", {"model": "some/model"}, decisions_path=str(tmp_path))
    assert planner.name() == "nsdrive_vla"
    ours = simulate(scenario, planner._make(), duration_s=0.6)
    simulation = Simulation(scenario, maps_root)
    planner.initialize(simulation.initialization())
    for k, plan in enumerate(ours.plans):
        if k:
            simulation.step(HISTORY_TICKS + k, ours.states[k])
        states = planner.compute_trajectory(simulation.input(HISTORY_TICKS + k)).states
        poses = [[s.rear_axle.x, s.rear_axle.y, s.rear_axle.heading] for s in states]
        np.testing.assert_array_equal(poses, plan.trajectory.poses_global)
    (file,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["said"] for row in rows] == [words, None, None, None, None, "no idea", None]
    assert [len(row["notes"]) for row in rows] == [0, 0, 0, 0, 0, 1, 0]
    assert rows[5]["notes"][0].startswith(KEPT_PLAN)
    assert {row["decision"] for row in rows} == {None}


def test_a_planner_travels_to_a_worker_before_and_after_it_drove(adapter, exported):
    scenario, maps_root = exported
    planner = adapter.NuplanPlanner("idm", {"headway_s": 1.2}, maps_path=maps_root)
    planner.initialize(Simulation(scenario, maps_root).initialization())
    sent = pickle.loads(pickle.dumps(planner))
    assert sent.name() == "nsdrive_idm"
    assert sent._make().config.headway_s == 1.2
    with pytest.raises(ValueError, match="before initialize"):
        sent.compute_trajectory(Simulation(scenario, maps_root).input(HISTORY_TICKS))
    sent.initialize(Simulation(scenario, maps_root).initialization())
    assert len(sent.compute_trajectory(Simulation(scenario, maps_root).input(HISTORY_TICKS)).states) == 81


def test_the_map_is_the_simulators_unless_told_otherwise(adapter, exported, monkeypatch):
    scenario, maps_root = exported
    api = Simulation(scenario, maps_root).initialization().map_api
    file = adapter.map_file(api)
    assert str(file).startswith(maps_root)
    bare = SimpleNamespace(map_name=api.map_name)
    with pytest.raises(ValueError, match="NUPLAN_MAPS_ROOT"):
        adapter.map_file(bare)
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", maps_root)
    assert adapter.map_file(bare) == file
    assert adapter.map_file(SimpleNamespace(map_name=api.map_name), maps_root) == file


def test_a_wrong_name_or_setting_is_one_line(adapter):
    with pytest.raises(ValueError, match="Did you mean 'pdm_lanes'"):
        adapter.NuplanPlanner("pdm_lane")
    with pytest.raises(ValueError, match=r"settings\.headway.*Did you mean 'headway_s'"):
        adapter.NuplanPlanner("idm", {"headway": 1.0})


def test_the_names_are_those_of_the_command_line(adapter):
    assert cli.PLANNERS.items() <= adapter.PLANNERS.items()


def test_the_hydra_file_builds_a_planner(adapter):
    text = (config_folder() / "nuplan/planner/nsdrive_planner.yaml").read_text()
    section = yaml.safe_load(text)["nsdrive_planner"]
    module, _, name = section.pop("_target_").rpartition(".")
    assert section.pop("_convert_") == "all"  # else hydra hands its own containers in
    assert section["settings"] is None, "hydra lets a null be replaced by any settings, an empty section by none"
    planner = getattr(sys.modules[module], name)(**section)
    assert planner.name() == "nsdrive_pdm_closed"
    assert planner.observation_type() is DetectionsTracks
