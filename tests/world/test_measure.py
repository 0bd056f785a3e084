import numpy as np
import pytest
from builders import car, curved_map, frames_of, straight_map, tracked

from nsdrive.world.geometry import Path
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.measure import (
    Overlap,
    clearance_m,
    comfort,
    forecast_boxes,
    off_road_m,
    overlap,
    time_to_collision_s,
)
from nsdrive.world.types import ObjectFrame
from nsdrive.world.vehicle import PACIFICA, ego_box


def straight_poses(x_m: np.ndarray, y_m: float = 0.0) -> np.ndarray:
    return np.column_stack([x_m, np.full(len(x_m), y_m), np.zeros(len(x_m))])


def test_driving_into_a_parked_car_is_an_overlap_from_the_first_touch_on():
    boxes = ego_box(straight_poses(np.arange(0.0, 20.0, 0.5)))
    frames = frames_of([car("parked", 15.0), car("beside", 15.0, 4.0)], len(boxes))
    touch = 15.0 - 4.7 / 2 - PACIFICA.front_m
    assert overlap(boxes, frames) == (Overlap(tick=int(np.ceil(touch / 0.5 + 1e-9)), track_id="parked"),)


def test_overlaps_come_in_order_of_time():
    boxes = ego_box(straight_poses(np.arange(0.0, 40.0, 0.5)))
    frames = frames_of(
        [car("second", 35.0), tracked("first", 12.0, kind="traffic_cone", length_m=0.3, width_m=0.3)], 80
    )
    assert [o.track_id for o in overlap(boxes, frames)] == ["first", "second"]


def test_time_to_collision_is_gap_over_closing_speed():
    boxes = ego_box(straight_poses(np.zeros(1)))
    lead = car("lead", PACIFICA.front_m + 10.0 + 4.7 / 2, speed_mps=3.0)
    result = time_to_collision_s(boxes, np.array([8.0]), frames_of([lead], 1))
    assert result.seconds[0] == pytest.approx(10.0 / 5.0, abs=0.11)
    assert result.track_ids == ("lead",)
    assert time_to_collision_s(boxes, np.array([8.0]), frames_of([lead], 1), horizon_s=1.0).seconds[0] == np.inf


def test_a_standing_ego_and_an_empty_road_have_no_time_to_collision():
    boxes = ego_box(straight_poses(np.zeros(2)))
    frames = (frames_of([car("oncoming", 15.0, heading_rad=np.pi, speed_mps=9.0)], 1)[0], ObjectFrame.of([]))
    assert np.isinf(time_to_collision_s(boxes, np.array([0.0, 9.0]), frames).seconds).all()


def test_a_car_that_runs_up_from_behind_counts_unless_only_what_is_ahead_does():
    boxes = ego_box(straight_poses(np.zeros(1)))
    frames = frames_of([car("behind", -10.0, speed_mps=15.0)], 1)
    assert time_to_collision_s(boxes, np.array([5.0]), frames).seconds[0] < 1.0
    for only_ahead in (True, False):
        kept = time_to_collision_s(boxes, np.array([5.0]), frames, only_ahead=np.array([only_ahead]))
        assert np.isinf(kept.seconds[0])


def test_a_car_from_the_side_counts_only_where_the_sides_are_looked_at():
    boxes = ego_box(straight_poses(np.zeros(1)))
    frames = frames_of([car("side", 8.0, -12.0, heading_rad=np.pi / 2, speed_mps=9.0)], 1)
    ahead, around = (
        time_to_collision_s(boxes, np.array([6.0]), frames, only_ahead=np.array([flag])).seconds[0]
        for flag in (True, False)
    )
    assert np.isinf(ahead)
    assert around < 2.0


def test_forecasts_move_on_as_things_move_now():
    frame = frames_of([car("crossing", 20.0, -8.0, heading_rad=np.pi / 2, speed_mps=4.0), car("standing", 90.0)], 1)[0]
    objects = forecast_boxes(frame, np.arange(0.0, 4.0, 0.1))
    assert objects[20, 0, :2] == pytest.approx([20.0, 0.0])
    assert objects[0] == pytest.approx(frame.boxes)
    assert (objects[:, 1] == frame.boxes[1]).all()


def test_off_road_is_the_distance_of_the_worst_corner():
    road = straight_map(100.0)
    inside, outside = ego_box(straight_poses(np.array([30.0]))), ego_box(straight_poses(np.array([30.0]), y_m=1.0))
    assert off_road_m(inside, road).tolist() == [0.0]
    assert off_road_m(outside, road)[0] == pytest.approx(1.0 + PACIFICA.width_m / 2 - 3.5 / 2)
    bare = LaneMap(name="bare", lanes=road.lanes)
    assert off_road_m(outside, bare)[0] == pytest.approx(off_road_m(outside, road)[0])


def test_clearance_is_from_body_to_body():
    boxes = ego_box(straight_poses(np.zeros(2)))
    frames = (frames_of([car("lead", PACIFICA.front_m + 7.0 + 4.7 / 2)], 1)[0], ObjectFrame.of([]))
    assert clearance_m(boxes, frames).tolist() == [pytest.approx(7.0), np.inf]


def test_a_steady_turn_feels_like_v_squared_over_r_and_has_no_jerk():
    time, speed, radius = np.arange(0.0, 5.0, 0.1), 8.0, 20.0
    felt = comfort(speed * time / radius, np.full(50, speed), np.zeros(50))
    assert felt.lat_accel_mps2 == pytest.approx(np.full(50, speed**2 / radius))
    assert felt.yaw_rate_radps == pytest.approx(np.full(50, speed / radius))
    for still in (felt.lon_accel_mps2, felt.jerk_mps3, felt.lon_jerk_mps3, felt.yaw_accel_radps2):
        assert np.abs(still).max() < 1e-9


def test_a_brake_that_builds_up_evenly_has_that_jerk():
    time = np.arange(0.0, 4.0, 0.1)
    felt = comfort(np.zeros(40), np.full(40, 10.0), -1.5 * time)
    assert felt.lon_jerk_mps3[12:-12] == pytest.approx(np.full(16, -1.5))


def test_comfort_of_many_proposals_at_once_equals_that_of_each():
    rng = np.random.default_rng(0)
    headings, speeds, accels = rng.normal(0, 0.1, (6, 40)), rng.uniform(0, 10, (6, 40)), rng.normal(0, 1, (6, 40))
    together = comfort(headings, speeds, accels)
    for k in range(6):
        alone = comfort(headings[k], speeds[k], accels[k])
        assert together.jerk_mps3[k] == pytest.approx(alone.jerk_mps3)
        assert together.yaw_accel_radps2[k] == pytest.approx(alone.yaw_accel_radps2)


def test_comfort_of_three_states_is_refused():
    with pytest.raises(ValueError, match="at least 4 states, got 3"):
        comfort(np.zeros(3), np.zeros(3), np.zeros(3))


def test_a_car_in_its_lane_round_a_bend_stays_on_the_road():
    road = curved_map(20.0)
    poses = Path.of(np.vstack([road.lanes["0-0"].centerline, road.lanes["1-0"].centerline[1:]])).pose_at(
        np.arange(10.0, 90.0)
    )
    assert off_road_m(ego_box(poses), road).max() < 0.4
