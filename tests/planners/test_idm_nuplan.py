"""nuPlan's own IDM planner in our simulator: the drives that the official code recorded, and the rules behind them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from builders import car, scenario, straight_map
from nuplan_builder import source_of

from nsdrive.cli import planner_table
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, Mission
from planners.idm_nuplan import NuplanIdmConfig, NuplanIdmPlanner, NuplanPath, search

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_reference"
TOKENS = ("8ea772b489221b17", "6a97ce5e63b4469e", "e5681404efac4c17")


@pytest.mark.skipif(not REFERENCE.exists(), reason="nuPlan's recorded reference data are not here")
@pytest.mark.parametrize("token", [TOKENS[0], *(pytest.param(token, marks=pytest.mark.slow) for token in TOKENS[1:])])
def test_it_drives_as_the_official_planner_did_in_the_official_simulator(token):
    with open(REFERENCE / "trajectories" / f"nonreactive_idm_{token}.csv") as file:
        recorded = [[float(row[key]) for key in ("x_m", "y_m", "speed_mps")] for row in csv.DictReader(file)]
    rollout = simulate(source_of(REFERENCE).load(token), NuplanIdmPlanner())
    states = np.array([[state.x_m, state.y_m, state.speed_mps] for state in rollout.states])
    assert len(recorded) == 150
    np.testing.assert_allclose(states[:150], recorded, rtol=0.0, atol=2e-6)  # the files have six digits


def test_it_closes_in_on_a_standing_car_and_stops_behind_it():
    world = scenario(straight_map(200.0), objects=[car("parked", 55.0, 0.0)], speed_mps=6.0, duration_s=10.0)
    last = simulate(world, NuplanIdmPlanner()).states[-1]
    gap = 55.0 - 2.35 - (last.x_m + 4.049)  # from the bumper, 4.049 m ahead of the rear axle, to the car's rear
    assert last.speed_mps < 0.3
    assert 0.0 < gap < 2.0


def test_it_keeps_the_speed_it_comes_with_where_that_is_above_the_limit():
    road = straight_map(400.0, speed_limit_mps=8.0)
    fast, slow = (
        simulate(scenario(road, objects=[], speed_mps=v), NuplanIdmPlanner(), duration_s=4.0) for v in (11, 6)
    )
    assert fast.states[-1].speed_mps > 10.0
    assert slow.states[-1].speed_mps < 8.0 < fast.states[-1].speed_mps


def test_a_red_connector_of_its_route_holds_it_and_amber_does_not():
    road = straight_map(200.0, n_pieces=2, signal=True)
    ends = {}
    for light in ("red", "yellow"):
        world = scenario(road, objects=[], ego_x_m=60.0, speed_mps=7.0, duration_s=8.0, lights={"1-0": light})
        ends[light] = simulate(world, NuplanIdmPlanner()).states[-1].x_m + 4.049
    assert ends["red"] < 100.0 < ends["yellow"]


def test_its_path_ends_one_point_short_and_has_no_point_twice():
    lanes = list(straight_map(10.0, n_pieces=2).lanes.values())
    path = NuplanPath(lanes)
    assert path.end_m == pytest.approx(9.0)
    assert path.pose_at(99.0) == pytest.approx([9.0, 0.0, 0.0])
    assert len(path.trimmed(0.5, 7.5)) == len(np.unique(path.trimmed(0.5, 7.5), axis=0))
    assert path.trimmed(2.5, 4.5)[[0, -1], 0] == pytest.approx([2.5, 4.5])


def test_it_starts_in_the_first_lane_that_holds_its_centre_and_needs_two_roadblocks():
    road = straight_map(200.0, n_lanes=2, n_pieces=3)
    world = scenario(road, objects=[], speed_mps=8.0)
    ego = world.ego_log[HISTORY_TICKS]
    assert search(road, world.route_roadblock_ids, ego)[0] == "0-0"
    assert len(search(road, world.route_roadblock_ids, ego)) == 3
    with pytest.raises(ValueError, match="two roadblocks on the map; it has 1"):
        NuplanIdmPlanner().initialize(Mission(lane_map=road, route_roadblock_ids=("block-0", "nowhere")), ego)


def test_it_is_chosen_by_its_import_path():
    assert planner_table()["planners.idm_nuplan:NuplanIdmPlanner"] is NuplanIdmConfig
