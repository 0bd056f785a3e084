import csv
import sqlite3
from pathlib import Path as FilePath

import numpy as np
import pytest
from builders import curved_map, ego_state

from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.route import centerline
from nsdrive.world.types import EgoState, Trajectory
from nsdrive.world.vehicle import PACIFICA, EgoModel, ego_box

REFERENCE = FilePath(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_reference"


def follow(path: Path, start_m: float, speed_mps: float, time_s: float = 0.0, interval_s: float = 0.1) -> Trajectory:
    times = np.arange(round(5.0 / interval_s) + 1) * interval_s
    return Trajectory(
        times_s=time_s + times,
        poses_global=path.pose_at(start_m + speed_mps * times),
        speeds_mps=np.full(len(times), speed_mps),
        accels_mps2=np.zeros(len(times)),
    )


def test_a_constant_steering_angle_traces_its_circle():
    model, steering = EgoModel(), 0.2
    state = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=5.0, steering_rad=steering)
    trace = [state := model.drive(state, 0.0, 0.0) for _ in range(200)]
    radius = PACIFICA.wheel_base_m / np.tan(steering)
    distances = [np.hypot(s.x_m, s.y_m - radius) for s in trace]
    assert np.mean(distances) == pytest.approx(radius, rel=0.02)  # Euler steps drift outwards a little
    assert trace[-1].time_s == pytest.approx(20.0, abs=1e-9)


def test_steering_stops_at_its_limit_and_acceleration_lags():
    model, state = EgoModel(), ego_state()
    state = model.drive(state, 3.0, 100.0)
    assert state.steering_rad == pytest.approx(PACIFICA.max_steering_rad)
    assert state.accel_mps2 == pytest.approx(1.0)  # 0.1 / (0.1 + 0.2) of the way


def test_a_straight_line_at_constant_speed_is_tracked_without_error():
    path = Path.of(np.array([[0.0, 0.0], [400.0, 0.0]]))
    model, state = EgoModel(), ego_state(speed_mps=10.0)
    for tick in range(100):
        state = model.advance(state, follow(path, tick * 1.0, 10.0, state.time_s))
    assert abs(state.y_m) < 1e-9
    assert state.x_m == pytest.approx(100.0, abs=1e-6)


def worst_offset_m(path: Path, speed_mps: float, interval_s: float) -> float:
    model, state, worst = EgoModel(), ego_state(speed_mps=speed_mps), 0.0
    for tick in range(int((path.length_m - 5.0 * speed_mps - 5.0) / speed_mps * 10)):
        state = model.advance(state, follow(path, tick * 0.1 * speed_mps, speed_mps, state.time_s, interval_s))
        worst = max(worst, abs(path.project(state.x_m, state.y_m)[1]))
    return worst


@pytest.mark.parametrize("interval_s", [0.1, 0.5])
def test_a_curve_that_tightens_slowly_is_tracked_within_two_decimetres(interval_s):
    along = np.arange(0.0, 200.0)
    heading = np.cumsum(np.interp(along, [40, 80, 100, 140], [0.0, 1 / 50.0, 1 / 50.0, 0.0]))
    path = Path.of(np.column_stack([np.cumsum(np.cos(heading)), np.cumsum(np.sin(heading))]) - [1.0, 0.0])
    assert worst_offset_m(path, 8.0, interval_s) < 0.2


def test_a_curve_that_begins_at_once_is_cut_by_half_a_metre_as_in_nuplan():
    # No slip of ours: nuPlan's own tracker gives these commands to 1e-12; it weighs heading ten times the offset.
    assert 0.2 < worst_offset_m(centerline(curved_map(25.0, lead_in_m=60.0), ("0-0", "1-0")), 8.0, 0.1) < 0.6


def test_a_lateral_error_dies_out_without_overshooting_much():
    path = Path.of(np.array([[0.0, 0.0], [400.0, 0.0]]))
    model, state, offsets = EgoModel(), ego_state(y_m=1.0, speed_mps=8.0), []
    for tick in range(100):
        state = model.advance(state, follow(path, tick * 0.8, 8.0, state.time_s))
        offsets.append(state.y_m)
    assert abs(offsets[-1]) < 0.05
    assert min(offsets) > -0.2


def test_a_car_told_to_stand_stays_put():
    model, state = EgoModel(), ego_state(speed_mps=0.0)
    still = Trajectory(
        times_s=np.arange(50) * 0.1, poses_global=np.zeros((50, 3)), speeds_mps=np.zeros(50), accels_mps2=np.zeros(50)
    )
    for _ in range(20):
        state = model.advance(state, still)
    assert (state.x_m, state.speed_mps) == (0.0, 0.0)


def test_a_trajectory_that_misses_the_present_is_refused():
    path = Path.of(np.array([[0.0, 0.0], [400.0, 0.0]]))
    with pytest.raises(ValueError, match="start it at the current time"):
        EgoModel().advance(ego_state(time_s=7.0), follow(path, 0.0, 8.0))


def test_the_ego_box_reaches_from_bumper_to_bumper():
    box = ego_box(np.array([[10.0, 5.0, np.pi / 2]]))[0]
    assert box == pytest.approx([10.0, 5.0 + 1.461, np.pi / 2, 5.176, 2.297])
    assert PACIFICA.front_m == pytest.approx(4.049)
    assert PACIFICA.rear_m == pytest.approx(1.127)


@pytest.mark.skipif(not REFERENCE.exists(), reason="nuPlan's recorded reference trajectories are not here")
@pytest.mark.parametrize("token", ["6a97ce5e63b4469e", "8ea772b489221b17", "e5681404efac4c17"])
def test_tracking_the_log_reproduces_the_official_simulator(token):
    log = sqlite3.connect(f"file:{next((REFERENCE / 'logs').glob('*.db'))}?mode=ro", uri=True)
    rows = log.execute(
        "select l.timestamp, e.x, e.y, e.qw, e.qx, e.qy, e.qz from lidar_pc l"
        " join ego_pose e on e.token = l.ego_pose_token order by l.timestamp"
    ).fetchall()
    log.close()
    time, x, y, qw, qx, qy, qz = np.array(rows).T
    heading = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
    with open(REFERENCE / "trajectories" / f"nonreactive_log_future_{token}.csv") as file:
        recorded = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    at = recorded[0]
    start = int(np.argmin(np.abs(time / 1e6 - at["timestamp_s"])))
    epoch = time[start]
    state = EgoState(
        time_s=0.0,
        x_m=at["x_m"],
        y_m=at["y_m"],
        heading_rad=at["heading_rad"],
        speed_mps=at["speed_mps"],
        accel_mps2=at["accel_mps2"],
        steering_rad=at["steering_rad"],
    )
    model, errors, turned = EgoModel(), [], []
    for tick, at in enumerate(recorded):
        errors.append(np.hypot(state.x_m - at["x_m"], state.y_m - at["y_m"]))
        turned.append(abs(wrap_angle(state.heading_rad - at["heading_rad"])))
        # nuPlan's LogFuturePlanner: the logged pose now and 16 more, 0.5 s apart; the log's clock is 20 Hz.
        # Where the log ends, the plan does.
        picks = start + 2 * tick + 10 * np.arange(17)
        picks = picks[picks < len(time)]
        trajectory = Trajectory(
            times_s=(time[picks] - epoch) / 1e6,
            poses_global=np.column_stack([x, y, heading])[picks],
            speeds_mps=np.zeros(len(picks)),
            accels_mps2=np.zeros(len(picks)),
        )
        if tick < len(recorded) - 1:
            state = model.advance(state, trajectory)
    assert max(errors) < 0.05
    assert max(turned) < 0.01
