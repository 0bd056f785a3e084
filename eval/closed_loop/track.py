"""What an open-loop plan comes to when it is driven: nuPlan's tracker and bicycle along one fixed trajectory, in one call.

nuPlan's tracker looks along the path at the speed alone, for its planners answer anew from where the ego is. A plan that is given
once has nobody to correct it: it would roll one or two metres too far before a stop, which is more than a queue leaves free. So
here the ego also makes up, within the tracker's one second, what it is ahead or behind. Without that (catch_up = 0) the numbers are
those of `EgoModel.advance`, called once a tick with the same trajectory, forty times faster: its profiles are fitted once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Trajectory
from nsdrive.world.vehicle import EgoModel, curvature_fit, forward_steps, speed_fit, tracking_commands

CATCH_UP = 1.0  # chosen by us: 1 makes the distance up in the second that the tracker looks ahead, 0 never
COLUMNS = ("x_m", "y_m", "heading_rad", "speed_mps", "accel_mps2", "steering_rad")


def track(trajectory: Trajectory, start: EgoState, ticks: int, *, catch_up: float = CATCH_UP) -> FloatArray:
    """(ticks + 1, 6): the ego's states (COLUMNS) every 0.1 s as it follows `trajectory`, the first one `start`.

    The trajectory begins at the start's time, has a pose every 0.1 s and lasts for more than `ticks` (else ValueError).
    """
    model = EgoModel()
    poses = np.array(trajectory.poses_global, dtype=np.float64)
    if len(poses) <= ticks + 1 or poses.shape[1:] != (3,):
        raise ValueError(f"To drive {ticks} ticks takes a trajectory of more than {ticks + 1} poses, got {poses.shape}")
    poses[:, 2] = np.unwrap(poses[:, 2])
    speeds = speed_fit(len(poses) - 1, model.jerk_penalty) @ forward_steps(poses)
    bends = curvature_fit(poses, speeds, INTERVAL_S, model.curvature_rate_penalty)
    bends = np.append(bends, np.full(model.horizon_ticks, bends[-1]))
    weights = np.array([model.q_speed, model.r_accel, model.q_lateral_error, model.q_heading_error, model.q_steering])
    gains = (model.r_steering_rate, model.stopping_gain, model.stopping_speed_mps)
    car = (model.vehicle.wheel_base_m, model.accel_lag_s, model.steering_lag_s, model.vehicle.max_steering_rad)
    states = np.empty((ticks + 1, len(COLUMNS)))
    states[0] = [getattr(start, name) for name in COLUMNS]
    _track(states, poses, speeds, bends, weights, gains, car, model.horizon_ticks, catch_up)
    return states


@njit(cache=True)
def _track(states, poses, speeds, bends, weights, gains, car, horizon, catch_up):
    """Fills states (T, 6) after the first, one Euler step of 0.1 s after the other, as `EgoModel.drive` does."""
    dt = INTERVAL_S
    r_rate, stop_gain, stop_speed = gains
    wheel_base, accel_lag, steering_lag, max_steering = car
    x, y, heading, speed, accel, steering = states[0]
    for k in range(1, states.shape[0]):
        now = k - 1
        ahead = (poses[now, 0] - x) * np.cos(poses[now, 2]) + (poses[now, 1] - y) * np.sin(poses[now, 2])
        target = speeds[min(now + horizon, speeds.shape[0] - 1)] + catch_up * ahead / (horizon * dt)
        if catch_up > 0.0 and speed <= stop_speed:  # it does not reverse to where it should have stopped
            target = max(0.0, target)
        push, turn = tracking_commands(
            x - poses[now, 0],
            y - poses[now, 1],
            heading,
            speed,
            steering,
            poses[now, 2],
            target,
            bends[now : now + horizon],
            wheel_base,
            weights,
            r_rate,
            stop_gain,
            stop_speed,
        )
        accel += dt / (dt + accel_lag) * (push - accel)
        turned = dt / (dt + steering_lag) * dt * turn
        x += dt * speed * np.cos(heading)
        y += dt * speed * np.sin(heading)
        heading += dt * speed * np.tan(steering) / wheel_base
        heading = (heading + np.pi) % (2.0 * np.pi) - np.pi
        speed += dt * accel
        steering = min(max_steering, max(-max_steering, steering + turned))
        states[k, 0], states[k, 1], states[k, 2] = x, y, heading
        states[k, 3], states[k, 4], states[k, 5] = speed, accel, steering
