"""From ten waypoints to a trajectory: through every point at its time, forwards only, and calm where the waypoints are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsdrive.vla.prompt import parse_answer, render_answer
from nsdrive.vla.waypoints import MIN_STEP_M, through
from nsdrive.world.geometry import to_ego, to_global, wrap_angle
from nsdrive.world.types import EgoState
from nsdrive.world.vehicle import EgoModel

TIMES = 0.5 * np.arange(1, 11)
EGO = EgoState(time_s=3.7, x_m=664_433.2, y_m=3_997_100.5, heading_rad=2.4, speed_mps=8.0)


def along_x(distances_m):
    return np.column_stack([distances_m, np.zeros(len(distances_m))])


def in_ego(trajectory, ego=EGO):
    return to_ego(trajectory.poses_global[:, :2], ego.pose), wrap_angle(trajectory.poses_global[:, 2] - ego.heading_rad)


def test_a_fixed_answer_gives_the_trajectory_that_it_means():
    answer = parse_answer(
        "<REASONING>free</REASONING>\n<PLANNING>"
        + ", ".join(f"[{4 * k}.00, 0.00]" for k in range(1, 11))
        + "</PLANNING>"
    )
    trajectory = through(answer.waypoints_ego_m, EGO).from_time(EGO.time_s)
    np.testing.assert_allclose(trajectory.times_s, 3.7 + 0.1 * np.arange(81), atol=1e-9)
    expected = EGO.pose[:2] + np.outer(0.8 * np.arange(81), [np.cos(2.4), np.sin(2.4)])
    np.testing.assert_allclose(trajectory.poses_global[:, :2], expected, atol=1e-6)
    np.testing.assert_allclose(trajectory.poses_global[:, 2], 2.4, atol=1e-9)
    np.testing.assert_allclose(trajectory.speeds_mps, 8.0, atol=1e-9)
    np.testing.assert_allclose(trajectory.accels_mps2, 0.0, atol=1e-9)


@pytest.mark.parametrize("accel_mps2", [-1.0, 0.0, 1.5])
def test_constant_acceleration_is_kept_to_the_last_bit_and_braking_goes_on_to_a_stop(accel_mps2):
    waypoints = along_x(8.0 * TIMES + 0.5 * accel_mps2 * TIMES**2)
    trajectory = through(waypoints, EGO).from_time(EGO.time_s)
    times = 0.1 * np.arange(51)
    points, _ = in_ego(trajectory)
    np.testing.assert_allclose(points[:51, 0], 8.0 * times + 0.5 * accel_mps2 * times**2, atol=1e-6)
    np.testing.assert_allclose(trajectory.speeds_mps[:51], 8.0 + accel_mps2 * times, atol=1e-9)
    np.testing.assert_allclose(trajectory.accels_mps2[:50], accel_mps2, atol=1e-9)
    if accel_mps2 < 0.0:
        assert trajectory.speeds_mps[-1] == pytest.approx(0.0, abs=1e-9)  # 8 m/s at -1 m/s2 is 8 s
        assert points[-1, 0] == pytest.approx(32.0, abs=1e-6)
    else:
        np.testing.assert_allclose(trajectory.speeds_mps[51:], 8.0 + 5.0 * accel_mps2, atol=1e-9)


@pytest.mark.parametrize("radius_m", [8.0, 30.0, -12.0])
def test_on_a_circle_the_ego_turns_evenly_and_keeps_its_speed(radius_m):
    angles = 5.0 * TIMES / radius_m
    waypoints = np.column_stack([radius_m * np.sin(angles), radius_m * (1.0 - np.cos(angles))])
    ego = EgoState(time_s=0.0, x_m=3.0, y_m=-2.0, heading_rad=-1.0, speed_mps=5.0)
    trajectory = through(waypoints, ego).from_time(0.0)
    points, headings = in_ego(trajectory, ego)
    center = np.array([0.0, radius_m])
    np.testing.assert_allclose(np.linalg.norm(points[:51] - center, axis=1), abs(radius_m), atol=2e-3)
    np.testing.assert_allclose(wrap_angle(headings[:51] - 0.5 * np.arange(51) / radius_m), 0.0, atol=2e-3)
    np.testing.assert_allclose(trajectory.speeds_mps[:51], 5.0, atol=0.01)


def test_the_rest_of_a_motion_is_the_motion_itself():
    motion = through(along_x(6.0 * TIMES + 0.2 * TIMES**2) + np.outer(0.05 * TIMES**2, [0.0, 1.0]), EGO)
    whole, rest = motion.from_time(EGO.time_s), motion.from_time(EGO.time_s + 0.4)
    np.testing.assert_allclose(rest.times_s[0], EGO.time_s + 0.4, atol=1e-9)
    np.testing.assert_allclose(rest.poses_global[:77], whole.poses_global[4:], atol=1e-6)
    np.testing.assert_allclose(rest.speeds_mps[:77], whole.speeds_mps[4:], atol=1e-6)
    assert len(rest.times_s) == 81


def test_a_standing_car_keeps_its_heading_whatever_the_last_digits_say():
    ego = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=0.3, speed_mps=0.0)
    noise = np.random.default_rng(4).integers(-3, 4, size=(10, 2)) * 0.01
    trajectory = through(noise, ego).from_time(0.0)
    np.testing.assert_allclose(trajectory.poses_global[:, 2], 0.3, atol=1e-12)
    assert np.ptp(in_ego(trajectory, ego)[0][:, 0]) <= 0.04
    assert in_ego(trajectory, ego)[0][:, 1] == pytest.approx(0.0, abs=1e-9)
    assert (np.diff(in_ego(trajectory, ego)[0][:, 0]) >= -1e-12).all()


def test_coming_to_a_stop_ends_with_the_heading_it_came_with():
    s = np.minimum(8.0 * TIMES - TIMES**2, 16.0)
    s[TIMES > 4.0] = 16.0
    waypoints = along_x(s) + np.random.default_rng(1).integers(-1, 2, size=(10, 2)) * 0.01
    trajectory = through(waypoints, EGO).from_time(EGO.time_s)
    _, headings = in_ego(trajectory)
    assert np.abs(headings).max() < 0.02
    assert trajectory.speeds_mps[45:].max() < 0.1
    assert (trajectory.speeds_mps >= 0.0).all()


def test_waypoints_that_go_back_are_waited_at():
    ahead_and_back = along_x([4.0, 8.0, 12.0, 10.0, 6.0, 2.0, 8.0, 12.0, 14.0, 16.0])
    points, headings = in_ego(through(ahead_and_back, EGO).from_time(EGO.time_s))
    np.testing.assert_allclose(headings, 0.0, atol=1e-9)
    np.testing.assert_allclose(points[15:41, 0], 12.0, atol=1e-6)
    assert points[45, 0] == pytest.approx(14.0, abs=1e-6)
    standing = in_ego(through(along_x(-3.0 * TIMES), EGO).from_time(EGO.time_s))[0]
    np.testing.assert_allclose(standing, 0.0, atol=1e-6)


def test_an_emergency_stop_of_the_plan_does_not_overshoot():
    points, _ = in_ego(through(along_x(np.full(10, 0.5)), EGO).from_time(EGO.time_s))
    assert points[:, 0].max() <= 0.5 + 1e-6
    assert points[10:, 0].min() == pytest.approx(0.5, abs=1e-6)


numbers = st.floats(-999.99, 999.99).map(lambda v: round(v, 2))
anything = st.lists(st.tuples(numbers, numbers), min_size=10, max_size=10).map(np.array)
steps = st.lists(st.tuples(st.floats(1.0, 12.0), st.floats(-0.6, 0.6)), min_size=10, max_size=10)


@settings(deadline=None)
@given(anything, st.floats(-5.0, 40.0), st.floats(-4.0, 4.0), st.floats(0.0, 4.9))
def test_whatever_the_model_says_the_trajectory_is_finite_continuous_and_forwards(points, speed, heading, later):
    ego = EgoState(time_s=1.2, x_m=5.0, y_m=-7.0, heading_rad=heading, speed_mps=speed)
    motion = through(points, ego)
    trajectory = motion.from_time(1.2 + later)
    for part in (trajectory.times_s, trajectory.poses_global, trajectory.speeds_mps, trajectory.accels_mps2):
        assert np.isfinite(part).all()
    assert (trajectory.speeds_mps >= 0.0).all()
    assert len(trajectory.times_s) == 81
    little = 1e-6
    moved = motion.from_time(1.2 + later + little).poses_global[:, :2] - trajectory.poses_global[:, :2]
    forward = np.column_stack([np.cos(trajectory.poses_global[:, 2]), np.sin(trajectory.poses_global[:, 2])])
    expected = trajectory.speeds_mps[:, None] * forward  # speeds and headings are those of the points
    np.testing.assert_allclose(moved / little, expected, atol=0.02 + 0.001 * trajectory.speeds_mps.max())
    np.testing.assert_allclose(motion.from_time(1.2).poses_global[0, :2], [5.0, -7.0], atol=1e-9)
    ahead = EgoModel().advance(ego, motion.from_time(1.2))  # the tracker takes it
    assert np.isfinite([ahead.x_m, ahead.y_m, ahead.speed_mps]).all()


@settings(deadline=None)
@given(steps, st.floats(0.0, 20.0))
def test_a_plan_that_drives_is_gone_through_point_by_point_in_time(moves, speed):
    headings = np.cumsum([turn for _, turn in moves])
    lengths = np.array([length for length, _ in moves])
    points = np.cumsum(lengths[:, None] * np.column_stack([np.cos(headings), np.sin(headings)]), axis=0).round(2)
    ego = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=speed)
    far = np.linalg.norm(np.diff(points, axis=0, prepend=[[0.0, 0.0]]), axis=1) >= MIN_STEP_M
    trajectory = through(points, ego).from_time(0.0)
    if far.all():
        np.testing.assert_allclose(trajectory.poses_global[5:51:5, :2], points, atol=1e-6)


def test_a_round_trip_through_the_answers_text_moves_nothing_by_more_than_its_last_digit():
    waypoints = along_x(7.3 * TIMES - 0.31 * TIMES**2) + np.outer(0.037 * TIMES**2, [0.0, 1.0])
    again = parse_answer(render_answer("", waypoints)).waypoints_ego_m
    true, said = (through(w, EGO).from_time(EGO.time_s) for w in (waypoints, again))
    assert np.abs(true.poses_global[:51, :2] - said.poses_global[:51, :2]).max() < 0.02
    np.testing.assert_allclose(to_global(waypoints, EGO.pose), true.poses_global[5:51:5, :2], atol=1e-6)


def test_waypoints_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite waypoints"):
        through(np.full((10, 2), np.nan), EGO)
