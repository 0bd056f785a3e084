import numpy as np
import pytest

from nsdrive.world.types import EgoState, FloatArray, Trajectory
from nsdrive.world.vehicle import EgoModel
from planners.pdm import readable_simulate
from planners.pdm.simulate import ACCEL, HEADING, LATERAL_ACCEL, LATERAL_SPEED, SPEED, simulate_proposals

TIMES = 0.1 * np.arange(41)
EGO = EgoState(
    time_s=7.3, x_m=664000.3, y_m=3997000.2, heading_rad=3.1, speed_mps=6.0, accel_mps2=0.4, steering_rad=0.03
)


def proposals(ego: EgoState, count: int, rng: np.random.Generator) -> FloatArray:
    """(P, 41, 3): bends and speeds of all kinds, from standing to 12 m/s, through the heading of pi."""
    poses = np.empty((count, 41, 3))
    for p in range(count):
        along = np.maximum.accumulate(rng.uniform(0.0, 12.0) * TIMES + 0.5 * rng.uniform(-3.0, 2.0) * TIMES**2)
        heading = ego.heading_rad + rng.uniform(-0.05, 0.05) * along
        steps = np.diff(along)[:, None] * np.stack([np.cos(heading[:-1]), np.sin(heading[:-1])], axis=-1)
        poses[p, 0, :2] = ego.x_m, ego.y_m
        poses[p, 1:, :2] = poses[p, 0, :2] + np.cumsum(steps, axis=0)
        poses[p, :, 2] = (heading + np.pi) % (2.0 * np.pi) - np.pi
    return poses


def test_a_mended_simulation_is_the_egos_own_tracker_and_bicycle_state_by_state():
    poses = proposals(EGO, 12, np.random.default_rng(1))
    simulated = simulate_proposals(poses, EGO, reference=False)
    model, times = EgoModel(), np.round(EGO.time_s + TIMES, 6)
    for p in range(len(poses)):
        plan = Trajectory(times_s=times, poses_global=poses[p], speeds_mps=0 * times, accels_mps2=0 * times)
        state = EGO
        for t in range(1, 41):
            state = model.advance(state, plan)
            ours = simulated.states[p, t, :6]
            theirs = [state.x_m, state.y_m, state.heading_rad, state.speed_mps, state.accel_mps2, state.steering_rad]
            np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_fast_simulation_is_the_readable_one(seed, reference):
    poses = proposals(EGO, 8, np.random.default_rng(seed))
    fast = simulate_proposals(poses, EGO, reference=reference)
    readable = readable_simulate.simulate_proposals(poses, EGO, reference=reference)
    np.testing.assert_allclose(fast.states, readable.states, rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(fast.corners, readable.corners, rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(fast.centers, readable.centers, rtol=0.0, atol=1e-8)


def test_the_public_codes_ego_believes_itself_a_little_faster_while_it_stops():
    ego = EgoState(time_s=0.0, x_m=0.0, y_m=0.0, heading_rad=0.0, speed_mps=8.0)
    poses = np.zeros((1, 41, 3))
    poses[0, :, 0] = np.maximum.accumulate(8.0 * TIMES - 0.5 * 3.0 * TIMES**2)
    real = simulate_proposals(poses, ego, reference=False).states[0, :, SPEED]
    believed = simulate_proposals(poses, ego).states[0, :, SPEED]
    assert 0.01 < np.max(believed - real) < 0.05
    assert np.min(believed - real) > -1e-3


def test_every_motion_starts_at_the_ego_and_its_corners_are_the_cars():
    simulated = simulate_proposals(
        proposals(EGO, 3, np.random.default_rng(2)), EGO, lateral_speed_mps=0.2, lateral_accel_mps2=-0.3
    )
    start = simulated.states[:, 0]
    assert (start[:, HEADING] == EGO.heading_rad).all()
    assert (start[:, ACCEL] == EGO.accel_mps2).all()
    assert (start[:, LATERAL_SPEED] == 0.2).all()
    assert (start[:, LATERAL_ACCEL] == -0.3).all()
    assert (simulated.states[:, 1:, [LATERAL_SPEED, LATERAL_ACCEL]] == 0.0).all()
    sides = np.linalg.norm(np.diff(simulated.corners, axis=2), axis=3)
    np.testing.assert_allclose(sides[..., [0, 2]], 5.176, atol=1e-8)
    np.testing.assert_allclose(sides[..., 1], 2.297, atol=1e-8)
    np.testing.assert_allclose(simulated.corners.mean(axis=2), simulated.centers, atol=1e-8)


def test_a_proposal_that_stands_keeps_the_car_standing():
    ego = EgoState(time_s=0.0, x_m=5.0, y_m=1.0, heading_rad=0.7, speed_mps=0.0)
    states = simulate_proposals(np.tile(ego.pose, (1, 41, 1)), ego).states
    np.testing.assert_allclose(states[0, :, :2] - [5.0, 1.0], 0.0, atol=1e-9)


@pytest.mark.parametrize("shape", [(41, 3), (2, 2, 3), (2, 41, 2)])
def test_proposals_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="T of 3 or more"):
        simulate_proposals(np.zeros(shape), EGO)


def test_no_proposals_make_no_motions():
    assert len(simulate_proposals(np.zeros((0, 41, 3)), EGO)) == 0
