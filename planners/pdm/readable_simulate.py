"""Simulation of proposals in plain steps: the specification that a randomised test holds `simulate` to.

The public code's tracker (tuplan_garage `batch_lqr.py`, `batch_lqr_utils.py`) as the least-squares problems and matrices that it
states; with `reference=False` nuPlan's own, which is `EgoModel`. The bicycle is `EgoModel`'s in both.
"""

from __future__ import annotations

import numpy as np

from nsdrive.world.geometry import box_corners, wrap_angle
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Trajectory
from nsdrive.world.vehicle import PACIFICA, EgoModel, VehicleParameters, ego_box
from planners.pdm.simulate import LATERAL_ACCEL, LATERAL_SPEED, Simulated


def simulate_proposals(
    poses: FloatArray,
    ego: EgoState,
    vehicle: VehicleParameters = PACIFICA,
    *,
    lateral_speed_mps: float = 0.0,
    lateral_accel_mps2: float = 0.0,
    reference: bool = True,
) -> Simulated:
    """As the fast one. Finite input only."""
    model = EgoModel(vehicle=vehicle)
    count, ticks = poses.shape[:2]
    states = np.zeros((count, ticks, 8))
    for p in range(count):
        drive = _reference_drive if reference else _drive
        for t, s in enumerate(drive(model, poses[p], ego)):
            states[p, t, :6] = s.x_m, s.y_m, s.heading_rad, s.speed_mps, s.accel_mps2, s.steering_rad
    states[:, 0, LATERAL_SPEED], states[:, 0, LATERAL_ACCEL] = lateral_speed_mps, lateral_accel_mps2
    boxes = ego_box(states[:, :, :3].reshape(-1, 3), vehicle)
    return Simulated(
        states=states,
        corners=box_corners(boxes).reshape(count, ticks, 4, 2),
        centers=boxes[:, :2].reshape(count, ticks, 2),
        finite=np.array([np.isfinite(motion).all() for motion in states]),
        vehicle=vehicle,
    )


def _drive(model: EgoModel, poses: FloatArray, ego: EgoState) -> list[EgoState]:
    times = np.array([ego.time_s + INTERVAL_S * t for t in range(len(poses))])
    plan = Trajectory(times_s=times, poses_global=poses, speeds_mps=0.0 * times, accels_mps2=0.0 * times)
    states = [ego]
    for _ in times[1:]:
        states.append(model.advance(states[-1], plan))
    return states


def _reference_drive(model: EgoModel, poses: FloatArray, ego: EgoState) -> list[EgoState]:
    speeds = _speed_profile(model, poses)
    curvatures = _curvature_profile(model, poses, speeds)
    states, last, ahead = [ego], len(speeds) - 1, model.horizon_ticks
    for t in range(len(poses) - 1):
        target = speeds[min(t + ahead, last)]
        bends = [curvatures[min(t + k, last)] for k in range(ahead)]
        accel, steering_rate = _commands(model, states[-1], poses[t], float(target), bends)
        states.append(model.drive(states[-1], accel, steering_rate))
    return states


def _speed_profile(model: EgoModel, poses: FloatArray) -> FloatArray:
    """(M,): first speed and accelerations that best explain the displacements, then summed up."""
    count, dt = len(poses) - 1, INTERVAL_S
    steps = np.diff(poses[:, :2], axis=0)
    forward = steps[:, 0] * np.cos(poses[:-1, 2]) + steps[:, 1] * np.sin(poses[:-1, 2])
    explain = np.column_stack([np.full(count, dt), dt * dt * np.tri(count)[:, 1:]])
    # Meant: a_k+1 - a_k. Written: -a_k, and the difference in the last row only.
    held_back = np.zeros((count - 2, count))
    held_back[:, 1:-1] = -np.eye(count - 2)
    held_back[-1, -1] = 1.0
    weight = np.sqrt(model.jerk_penalty)
    found = np.linalg.lstsq(
        np.vstack([explain, weight * held_back]), np.append(forward, np.zeros(count - 2)), rcond=None
    )[0]
    return found[0] + dt * np.append(0.0, np.cumsum(found[1:]))


def _curvature_profile(model: EgoModel, poses: FloatArray, speeds: FloatArray) -> FloatArray:
    """(M,): first curvature and its rates that best explain the turns, then summed up."""
    count, dt = len(speeds), INTERVAL_S
    turns = wrap_angle(np.diff(poses[:, 2]))
    explain = np.tri(count) * (speeds * dt * dt)[:, None]
    explain[:, 0] = speeds * dt
    weights = np.sqrt(np.append(1e-10, np.full(count - 1, model.curvature_rate_penalty)))
    rows = np.vstack([explain, np.diag(weights)])
    found = np.linalg.lstsq(rows, np.append(turns, np.zeros(count)), rcond=1e-15)[0]
    return found[0] + dt * np.append(0.0, np.cumsum(found[1:]))


def _commands(
    model: EgoModel, state: EgoState, pose: FloatArray, target_mps: float, curvatures: list[float]
) -> tuple[float, float]:
    """Acceleration and steering rate, each held over the horizon, that bring speed and lateral errors there to zero."""
    dt, speed, ahead = INTERVAL_S, state.speed_mps, model.horizon_ticks
    if target_mps <= model.stopping_speed_mps and speed <= model.stopping_speed_mps:
        return -model.stopping_gain * (speed - target_mps), 0.0
    look = ahead * dt
    accel = -look * model.q_speed * (speed - target_mps) / (look * model.q_speed * look + model.r_accel)

    dx, dy = state.x_m - pose[0], state.y_m - pose[1]
    error = np.array(  # lateral, heading, steering
        [
            -dx * np.sin(pose[2]) + dy * np.cos(pose[2]),
            float(wrap_angle(state.heading_rad - pose[2])),
            state.steering_rad,
        ]
    )
    gain = np.zeros(3)
    for k, curvature in enumerate(curvatures):
        step = (speed + k * dt * accel) * dt
        move = np.array([[1.0, step, 0.0], [0.0, 1.0, step / model.vehicle.wheel_base_m], [0.0, 0.0, 1.0]])
        error = move @ error + [0.0, -step * curvature, 0.0]
        gain = move @ gain + [0.0, 0.0, dt]
    error[1:] = wrap_angle(error[1:])
    q = np.diag([model.q_lateral_error, model.q_heading_error, model.q_steering])
    return accel, float(-(gain @ q @ error) / (gain @ q @ gain + model.r_steering_rate))
