from dataclasses import replace

import numpy as np
import pytest
from builders import LANE_WIDTH_M, curved_map, straight_map

from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import (
    centerline,
    extend_straight,
    find_route,
    lanes_near,
    lanes_of_log,
    nearest_lane,
    roadblock_route,
    route_of_log,
    validate,
)


def test_the_nearest_lane_runs_the_same_way():
    road = straight_map(100.0, n_lanes=2)
    oncoming = replace(
        road.lanes["0-1"],
        lane_id="against",
        roadblock_id="other",
        centerline=road.lanes["0-0"].centerline[::-1] + np.array([0, -0.5]),
    )
    both = LaneMap(name="two-way", lanes={**road.lanes, "against": oncoming})
    assert nearest_lane(both, np.array([20.0, -0.4, 0.1])) == "0-0"
    assert nearest_lane(both, np.array([20.0, -0.4, 3.1])) == "against"
    assert nearest_lane(both, np.array([20.0, 3.0, 0.0])) == "0-1"
    assert nearest_lane(both, np.array([20.0, 0.0, 0.0]), {"block-1"}) == "1-0"


def test_no_lane_to_choose_from_is_a_clear_error():
    with pytest.raises(ValueError, match="has no lane"):
        nearest_lane(straight_map(), np.zeros(3), {"nowhere"})


def test_the_route_follows_its_roadblocks_and_lanes_may_follow_lanes_directly():
    road = straight_map(200.0, n_lanes=2, n_pieces=4)
    blocks = [f"block-{piece}" for piece in range(4)]
    assert find_route(road, "0-1", None, blocks) == ("0-1", "1-1", "2-1", "3-1")
    assert find_route(road, "0-1", None, blocks[:3]) == ("0-1", "1-1", "2-1")
    assert roadblock_route(road, ("0-1", "1-1")) == ("block-0", "block-1")


def test_a_route_that_cannot_be_finished_goes_as_far_as_lanes_lead():
    road = straight_map(200.0, n_pieces=4)
    cut = LaneMap(name="cut", lanes={**road.lanes, "1-0": replace(road.lanes["1-0"], outgoing=())})
    assert find_route(cut, "0-0", None, [f"block-{piece}" for piece in range(4)]) == ("0-0", "1-0")


def test_of_two_lanes_at_the_end_the_one_at_the_goal_is_taken():
    road = straight_map(200.0, n_lanes=2)
    fork = LaneMap(name="fork", lanes={**road.lanes, "0-0": replace(road.lanes["0-0"], outgoing=("1-0", "1-1"))})
    route = ["block-0", "block-1"]
    assert find_route(fork, "0-0", (200.0, LANE_WIDTH_M), route) == ("0-0", "1-1")
    assert find_route(fork, "0-0", (200.0, 0.0), route) == ("0-0", "1-0")


@pytest.mark.parametrize("shift", [-0.4, -0.03, 0.0, 0.04, 0.3])
def test_a_centerline_never_steps_back_where_lanes_gap_or_overlap(shift):
    road = straight_map(100.0)
    shifted = replace(road.lanes["1-0"], centerline=road.lanes["1-0"].centerline + np.array([shift, 0.02]))
    path = centerline(LaneMap(name="gap", lanes={**road.lanes, "1-0": shifted}), ("0-0", "1-0"))
    assert np.diff(path.points[:, 0]).min() > 0.4
    assert np.abs(path.heading_rad).max() < 0.1
    assert path.lane_at(40.0) == "0-0"
    assert path.lane_at(60.0) == "1-0"
    assert path.speed_limit_at(10.0) == pytest.approx(13.4)
    assert path.length_m == pytest.approx(100.0 + shift, abs=0.1)


def test_the_route_of_a_log_is_what_was_driven_and_a_hundred_metres_more():
    road = straight_map(400.0, n_lanes=2, n_pieces=8)
    noise = np.random.default_rng(1).normal(0.0, 0.2, 100)
    poses = np.column_stack([np.linspace(5.0, 140.0, 100), noise, 0.02 * noise])
    assert lanes_of_log(road, poses) == ("0-0", "1-0", "2-0")
    assert route_of_log(road, poses) == tuple(f"block-{piece}" for piece in range(5))


def test_a_lane_change_in_the_log_is_followed():
    road = straight_map(200.0, n_lanes=2, n_pieces=2)
    x = np.linspace(5.0, 190.0, 150)
    y = LANE_WIDTH_M * np.clip((x - 60.0) / 40.0, 0.0, 1.0)
    lanes = lanes_of_log(road, np.column_stack([x, y, np.gradient(y, x)]))
    assert lanes[0] == "0-0"
    assert lanes[-1] == "1-1"
    assert len(lanes) == 3


def test_a_standing_log_has_the_lane_that_it_stands_in():
    assert lanes_of_log(straight_map(), np.tile([30.0, 0.3, 0.0], (50, 1))) == ("0-0",)


def test_straight_on_prefers_the_road_that_bends_least():
    road = straight_map(100.0)
    turn = np.column_stack([50.0 + 8 * np.sin(np.linspace(0, 1.5, 20)), 8 - 8 * np.cos(np.linspace(0, 1.5, 20))])
    left = replace(road.lanes["1-0"], lane_id="left", roadblock_id="left", centerline=turn, outgoing=())
    lanes = {**road.lanes, "left": left, "0-0": replace(road.lanes["0-0"], outgoing=("left", "1-0"))}
    assert extend_straight(LaneMap(name="fork", lanes=lanes), ("0-0",), 30.0) == ("0-0", "1-0")


def test_lanes_near_a_point_come_nearest_first():
    assert lanes_near(straight_map(100.0, n_lanes=2), 20.0, 1.0, 3.0) == ("0-0", "0-1")
    assert lanes_near(straight_map(100.0), 20.0, 50.0, 3.0) == ()


def test_a_sound_map_has_no_problems_and_a_broken_one_names_them():
    assert validate(straight_map(signal=True)) == []
    assert validate(curved_map(20.0)) == []
    road = straight_map()
    broken = replace(
        road.lanes["0-0"],
        outgoing=("1-0", "gone"),
        left_neighbor="nobody",
        centerline=road.lanes["0-0"].centerline - np.array([9.0, 0.0]),
    )
    problems = " ".join(validate(LaneMap(name="broken", lanes={**road.lanes, "0-0": broken})))
    for word in ("gone", "nobody", "gap of 9.00 m", "no drivable area"):
        assert word in problems
