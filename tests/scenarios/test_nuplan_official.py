"""On the recorded reference log: our scenarios begin where the official simulation began, and follow its log."""

import csv
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from nuplan_builder import log_file, source_of

from nsdrive.scenarios.nuplan.map import read_map
from nsdrive.world.route import validate
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, EgoState, Mission, Observation, Plan, Trajectory

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_reference"
TOKENS = ("8ea772b489221b17", "6a97ce5e63b4469e", "e5681404efac4c17")

pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason="nuPlan's recorded reference data are not here")


def recorded(planner: str, token: str) -> list[dict[str, float]]:
    with open(REFERENCE / "trajectories" / f"nonreactive_{planner}_{token}.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_the_tags_of_the_log_are_the_scenarios_in_the_order_of_time():
    items = source_of(REFERENCE).items()
    assert [item.split("/")[-1] for item in items] == [*TOKENS[:2], "ae1c60a33486a829", TOKENS[2]]


@pytest.mark.parametrize("token", TOKENS)
def test_tick_twenty_is_the_state_in_which_the_official_simulation_began(token):
    scenario = source_of(REFERENCE).load(token)
    first = recorded("log_future", token)[0]
    state = scenario.ego_log[HISTORY_TICKS]
    assert scenario.notes["initial_timestamp_us"] == round(first["timestamp_s"] * 1e6)
    assert [state.x_m, state.y_m, state.heading_rad] == pytest.approx(
        [first["x_m"], first["y_m"], first["heading_rad"]], abs=1e-6
    )
    assert [state.speed_mps, state.accel_mps2, state.steering_rad] == pytest.approx(
        [first["speed_mps"], first["accel_mps2"], first["steering_rad"]], abs=1e-6
    )
    assert scenario.n_ticks == len(scenario.ego_log) == HISTORY_TICKS + len(recorded("log_future", token)) + 1
    assert scenario.route_roadblock_ids == ("3005", "4007", "3002")
    assert validate(scenario.lane_map) == []


def test_every_tick_has_the_rows_of_its_table():
    scenario = source_of(REFERENCE).load(TOKENS[0])
    database = sqlite3.connect(f"{log_file(REFERENCE).as_uri()}?mode=ro", uri=True)
    clock = database.execute("select timestamp from lidar_pc order by timestamp").fetchall()
    first = clock.index((scenario.notes["initial_timestamp_us"],)) - 2 * HISTORY_TICKS
    for tick in (0, HISTORY_TICKS, 93, scenario.n_ticks - 1):
        (stamp,) = clock[first + 2 * tick]
        rows = database.execute(
            "select b.track_token, b.x, b.y, b.yaw, b.length, b.width, b.vx, b.vy, c.name from lidar_box b"
            " join lidar_pc p on p.token = b.lidar_pc_token join track t on t.token = b.track_token"
            " join category c on c.token = t.category_token where p.timestamp = ?",
            (stamp,),
        ).fetchall()
        frame = scenario.frames[tick]
        assert sorted(frame.ids) == sorted(bytes(row[0]).hex() for row in rows)
        for row in rows:
            seen = frame[frame.ids.index(bytes(row[0]).hex())]
            assert seen.kind == row[8]
            assert [seen.x_m, seen.y_m, seen.heading_rad, seen.length_m, seen.width_m] == list(row[1:6])
            if seen.kind in ("vehicle", "bicycle", "pedestrian"):
                assert [seen.vx_mps, seen.vy_mps] == list(row[6:8])
            else:  # the official reader gives static objects no velocity
                assert seen.speed_mps == 0.0
        lights = database.execute(
            "select lane_connector_id, status from traffic_light_status t join lidar_pc p on p.token = t.lidar_pc_token"
            " where p.timestamp = ?",
            (stamp,),
        ).fetchall()
        assert dict(scenario.lights[tick]) == {str(connector): status for connector, status in lights}
    database.close()


class LogFuture:
    """Plans what the log did next: nuPlan's LogFuturePlanner, 8 s ahead with a pose every 0.5 s."""

    name = "log_future"

    def __init__(self, log: Sequence[EgoState]) -> None:
        self.log = log

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        pass

    def plan(self, observation: Observation) -> Plan:
        ahead = self.log[observation.tick : observation.tick + 81 : 5]
        trajectory = Trajectory(
            times_s=np.array([state.time_s for state in ahead]),
            poses_global=np.array([state.pose for state in ahead]),
            speeds_mps=np.array([state.speed_mps for state in ahead]),
            accels_mps2=np.array([state.accel_mps2 for state in ahead]),
        )
        return Plan(trajectory=trajectory, decision=None)


@pytest.mark.parametrize("token", TOKENS)
def test_following_the_log_drives_as_the_official_simulation_did(token):
    scenario = source_of(REFERENCE).load(token)
    rollout = simulate(scenario, LogFuture(scenario.ego_log), duration_s=7.0)  # its 8 s of plan end with the scenario
    for state, row in zip(rollout.states, recorded("log_future", token), strict=False):
        assert np.hypot(state.x_m - row["x_m"], state.y_m - row["y_m"]) < 1e-5
        assert state.speed_mps == pytest.approx(row["speed_mps"], abs=1e-5)
        assert state.time_s + scenario.notes["initial_timestamp_us"] / 1e6 - 2.0 == pytest.approx(row["timestamp_s"])


def test_the_map_of_the_reference_is_whole():
    path = next(REFERENCE.rglob("us-nv-las-vegas-strip/*/map.gpkg"))
    lane_map = read_map(path, "us-nv-las-vegas-strip", None, ())
    assert validate(lane_map) == []
    assert sum(lane.is_connector for lane in lane_map.lanes.values()) == 16
    assert len(lane_map.lanes) == 32
    assert len(lane_map.roadblocks) == 20
    assert len(lane_map.stop_lines) == len(lane_map.signals) == len(lane_map.crosswalks) == 4
    assert {lane.turn for lane in lane_map.lanes.values()} == {"straight", "left", "right"}
    assert [intersection.kind for intersection in lane_map.intersections.values()] == ["traffic_light"]
    assert len(lane_map.carparks) == 1
    for signal in lane_map.signals:  # every light faces the traffic that its connectors come from
        step = np.diff(lane_map.lanes[signal.connector_ids[0]].centerline[:2], axis=0)[0]
        assert np.cos(signal.heading_rad - np.arctan2(step[1], step[0])) > 0.9
