"""What the ego would really drive: every proposal tracked by nuPlan's controller and bicycle, all of them at once.

PDM-Closed judges the motion that comes out of the tracker, not the one that was proposed (Dauner et al., "Parting with
Misconceptions about Learning-based Vehicle Motion Planning", CoRL 2023). The tracker and the bicycle are those of
`nsdrive.world.vehicle.EgoModel`, and a simulated proposal is, state by state, what `EgoModel.advance` makes of it.

The public code (tuplan_garage `batch_lqr_utils.py`) means to do the same, and differs in one thing: the penalty on the change
of acceleration, with which the tracker smooths the speeds of a proposal, falls on the acceleration itself there, because the
matrix of differences overwrites itself. Accelerations come out too small at a proposal's ends and where it stops: its ego is
up to 0.03 m/s faster, while braking to a halt, than it will be. `reference` keeps that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA, EgoModel, VehicleParameters, curvature_fit, speed_fit, tracking_commands

# Columns of `Simulated.states`.
X, Y, HEADING, SPEED, ACCEL, STEERING, LATERAL_SPEED, LATERAL_ACCEL = range(8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """P motions of T states, 0.1 s apart, all of them starting from the ego's own state.

    states (P, T, 8): rear axle x, y [m] and heading [rad] in the global frame, speed [m/s] and acceleration [m/s2] along
    it, steering angle [rad], lateral speed and acceleration (of the first state only: a bicycle has none).
    corners (P, T, 4, 2): the car's corners, front left, rear left, rear right, front right. centers (P, T, 2): its middle.
    finite (P,) bool: whether all of the motion is numbers.
    """

    states: FloatArray
    corners: FloatArray
    centers: FloatArray
    finite: np.ndarray
    vehicle: VehicleParameters

    def __len__(self) -> int:
        return len(self.states)


def simulate_proposals(
    poses: FloatArray,
    ego: EgoState,
    vehicle: VehicleParameters = PACIFICA,
    *,
    lateral_speed_mps: float = 0.0,
    lateral_accel_mps2: float = 0.0,
    reference: bool = True,
) -> Simulated:
    """Track P proposals of T poses each, 0.1 s apart, the first of them now: (P, T, 3) x, y, heading of the rear axle.

    The lateral arguments are the ego's own, where its source measures them: they count in its first state. reference: smooth
    the speeds as the public code does, see the module. T is at least 3, else ValueError. A proposal with a number that is not
    finite makes a motion that is not `finite`; the others are unharmed.
    """
    poses = np.ascontiguousarray(poses, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[2] != 3 or poses.shape[1] < 3:
        raise ValueError(f"Proposals are (P, T, 3) poses with T of 3 or more, got an array of shape {poses.shape}.")
    m = EgoModel(vehicle=vehicle)
    with np.errstate(invalid="ignore", over="ignore"):  # such a proposal is told by `finite`
        steps = np.diff(poses[:, :, :2], axis=1)
        forward = steps[:, :, 0] * np.cos(poses[:, :-1, 2]) + steps[:, :, 1] * np.sin(poses[:, :-1, 2])
    start = np.zeros(8)
    start[:6] = ego.x_m, ego.y_m, ego.heading_rad, ego.speed_mps, ego.accel_mps2, ego.steering_rad
    start[LATERAL_SPEED], start[LATERAL_ACCEL] = lateral_speed_mps, lateral_accel_mps2
    # Row by row, so that what is not finite in one proposal stays there.
    fit = reference_speed_fit if reference else speed_fit
    speeds = np.einsum("pm,km->pk", forward, fit(poses.shape[1] - 1, m.jerk_penalty))
    states = _track(
        poses,
        speeds,
        start,
        np.array([m.q_speed, m.r_accel, m.q_lateral_error, m.q_heading_error, m.q_steering]),
        np.array([m.r_steering_rate, m.stopping_gain, m.stopping_speed_mps, m.curvature_rate_penalty]),
        np.array([vehicle.wheel_base_m, m.accel_lag_s, m.steering_lag_s, vehicle.max_steering_rad]),
        m.horizon_ticks,
    )
    half = 0.5 * vehicle.length_m, 0.5 * vehicle.width_m
    corners, centers = _outline(states, vehicle.rear_axle_to_center_m, *half)
    finite = np.logical_and.reduce(np.isfinite(states), axis=(1, 2))
    return Simulated(states=states, corners=corners, centers=centers, finite=finite, vehicle=vehicle)


@lru_cache(maxsize=64)
def reference_speed_fit(count: int, penalty: float) -> FloatArray:
    """(M, M), as `speed_fit`, with a penalty on |a_k|^2 and, at the end only, on the change |a_M-1 - a_M-2|^2."""
    dt = INTERVAL_S
    integrate = np.tri(count) * dt
    integrate[:, 0] = 1.0
    penalised = np.zeros((max(0, count - 2), count))
    for row in range(len(penalised)):
        penalised[row, row + 1] = -1.0
    if len(penalised):
        penalised[-1, -1] = 1.0
    normal = dt * dt * integrate.T @ integrate + penalty * penalised.T @ penalised
    fit = integrate @ np.linalg.solve(normal, dt * integrate.T)
    fit.setflags(write=False)
    return fit


@njit(cache=True)
def _track(poses, speeds, start, weights, gains, car, horizon):
    """(P, T, 8): nuPlan's tracker and bicycle, one Euler step of 0.1 s after the other."""
    dt = INTERVAL_S
    r_rate, stop_gain, stop_speed, curvature_penalty = gains
    wheel_base, accel_lag, steering_lag, max_steering = car
    count, ticks = poses.shape[0], poses.shape[1]
    states = np.zeros((count, ticks, 8))
    bends = np.empty(ticks - 1 + horizon)
    for p in range(count):
        bends[: ticks - 1] = curvature_fit(poses[p], speeds[p], dt, curvature_penalty)
        bends[ticks - 1 :] = bends[ticks - 2]
        x, y, heading, speed, accel, steering = start[0], start[1], start[2], start[3], start[4], start[5]
        states[p, 0] = start
        for k in range(1, ticks):
            push, turn = tracking_commands(
                x - poses[p, k - 1, 0],
                y - poses[p, k - 1, 1],
                heading,
                speed,
                steering,
                poses[p, k - 1, 2],
                speeds[p, min(k - 1 + horizon, ticks - 2)],
                bends[k - 1 : k - 1 + horizon],
                wheel_base,
                weights,
                r_rate,
                stop_gain,
                stop_speed,
            )
            accel += dt / (dt + accel_lag) * (push - accel)
            turned = dt / (dt + steering_lag) * (dt * turn)
            x += speed * np.cos(heading) * dt
            y += speed * np.sin(heading) * dt
            heading = (heading + speed * np.tan(steering) / wheel_base * dt + np.pi) % (2.0 * np.pi) - np.pi
            speed += accel * dt
            steering = min(max(steering + turned, -max_steering), max_steering)
            row = states[p, k]
            row[0], row[1], row[2], row[3], row[4], row[5] = x, y, heading, speed, accel, steering
    return states


@njit(cache=True)
def _outline(states, rear_axle_to_center, half_length, half_width):
    """The car's corners (P, T, 4, 2) and middle (P, T, 2)."""
    count, ticks = states.shape[0], states.shape[1]
    corners, centers = np.empty((count, ticks, 4, 2)), np.empty((count, ticks, 2))
    for p in range(count):
        for k in range(ticks):
            cos, sin = np.cos(states[p, k, 2]), np.sin(states[p, k, 2])
            x = states[p, k, 0] + rear_axle_to_center * cos
            y = states[p, k, 1] + rear_axle_to_center * sin
            centers[p, k, 0], centers[p, k, 1] = x, y
            for c in range(4):
                along = half_length if (c == 0 or c == 3) else -half_length
                left = half_width if c < 2 else -half_width
                corners[p, k, c, 0] = x + (along * cos - left * sin)
                corners[p, k, c, 1] = y + (along * sin + left * cos)
    return corners, centers
