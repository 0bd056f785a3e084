"""How the ego moves: nuPlan's two-stage controller, an LQR tracker in front of a kinematic bicycle, at 10 Hz.

Follows nuPlan v1.2 (nuplan-devkit, Apache-2.0: `lqr.py`, `tracker_utils.py`, `kinematic_bicycle.py`), written anew so
that one step takes microseconds. The tracker fits a smooth speed and curvature profile to the planned poses, asks for
the acceleration that meets the profile's speed one second ahead and for the steering rate that brings the lateral error
there to zero; the bicycle answers with a lag. The numba functions below are public for those who track many
trajectories at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Trajectory


@dataclass(frozen=True, kw_only=True)
class VehicleParameters:
    """Size and axles of a car; the pose of an ego is its rear axle."""

    name: str
    length_m: float
    width_m: float
    height_m: float
    wheel_base_m: float
    rear_axle_to_center_m: float
    max_steering_rad: float = np.pi / 3  # nuPlan KinematicBicycleModel

    @property
    def front_m(self) -> float:
        """From the rear axle to the front bumper."""
        return self.rear_axle_to_center_m + 0.5 * self.length_m

    @property
    def rear_m(self) -> float:
        """From the rear axle back to the rear bumper."""
        return 0.5 * self.length_m - self.rear_axle_to_center_m


PACIFICA = VehicleParameters(  # nuPlan get_pacifica_parameters: 4.049 m ahead of the rear axle, 1.127 m behind it
    name="pacifica", length_m=5.176, width_m=2.297, height_m=1.777, wheel_base_m=3.089, rear_axle_to_center_m=1.461
)


def ego_box(poses: FloatArray, vehicle: VehicleParameters = PACIFICA) -> FloatArray:
    """(T, 5) boxes (centre x, y, heading, length, width) of an ego whose rear axle is at (T, 3) poses."""
    poses = np.asarray(poses, dtype=np.float64).reshape(-1, 3)
    boxes = np.empty((len(poses), 5))
    boxes[:, 0] = poses[:, 0] + vehicle.rear_axle_to_center_m * np.cos(poses[:, 2])
    boxes[:, 1] = poses[:, 1] + vehicle.rear_axle_to_center_m * np.sin(poses[:, 2])
    boxes[:, 2] = poses[:, 2]
    boxes[:, 3], boxes[:, 4] = vehicle.length_m, vehicle.width_m
    return boxes


@dataclass(frozen=True, kw_only=True)
class EgoModel:
    """Tracks a trajectory for one tick. All weights are nuPlan's (lqr_tracker.yaml, kinematic_bicycle)."""

    vehicle: VehicleParameters = PACIFICA
    q_speed: float = 10.0
    r_accel: float = 1.0
    q_lateral_error: float = 1.0
    q_heading_error: float = 10.0
    q_steering: float = 0.0
    r_steering_rate: float = 1.0
    horizon_ticks: int = 10
    jerk_penalty: float = 1e-4
    curvature_rate_penalty: float = 1e-2
    stopping_gain: float = 0.5
    stopping_speed_mps: float = 0.2
    accel_lag_s: float = 0.2
    steering_lag_s: float = 0.05

    def advance(self, state: EgoState, trajectory: Trajectory, clock_us: int = 0) -> EgoState:
        """The ego one tick (0.1 s) later, when it tracks `trajectory` from `state`.

        The trajectory may have any spacing (poses are interpolated) but must contain the state's time and lie ahead
        of it by more than one tick, else ValueError. clock_us: a log's own time at time_s = 0, microseconds since 1970.
        nuPlan's tracker looks up its profiles in seconds since then, which a double holds to 0.2 microseconds only; with
        the log's clock ours errs alike, so that two proposals that are equal but for that tie as they do there.
        """
        times, poses = _at_interval(trajectory, state.time_s)
        speeds = speed_fit(len(poses) - 1, self.jerk_penalty) @ forward_steps(poses)
        curvatures = curvature_fit(poses, speeds, INTERVAL_S, self.curvature_rate_penalty)
        elapsed_ticks = (state.time_s - times[0]) / INTERVAL_S
        accel, steering_rate = _commands(
            state.x_m,
            state.y_m,
            state.heading_rad,
            state.speed_mps,
            state.steering_rad,
            poses,
            speeds,
            curvatures,
            elapsed_ticks,
            _looks(times, state.time_s, self.horizon_ticks, clock_us),
            self.vehicle.wheel_base_m,
            np.array([self.q_speed, self.r_accel, self.q_lateral_error, self.q_heading_error, self.q_steering]),
            self.r_steering_rate,
            self.stopping_gain,
            self.stopping_speed_mps,
        )
        return self.drive(state, accel, steering_rate)

    def drive(self, state: EgoState, accel_command_mps2: float, steering_rate_command_radps: float) -> EgoState:
        """The kinematic bicycle alone: Euler step of 0.1 s, with a first-order lag on acceleration and steering."""
        dt = INTERVAL_S
        accel = state.accel_mps2 + dt / (dt + self.accel_lag_s) * (accel_command_mps2 - state.accel_mps2)
        turned = dt / (dt + self.steering_lag_s) * dt * steering_rate_command_radps
        limit = self.vehicle.max_steering_rad
        heading = state.heading_rad + dt * state.speed_mps * np.tan(state.steering_rad) / self.vehicle.wheel_base_m
        return EgoState(
            time_s=round(state.time_s + dt, 6),  # microseconds, as nuPlan's clock: no drift over a long rollout
            x_m=float(state.x_m + dt * state.speed_mps * np.cos(state.heading_rad)),
            y_m=float(state.y_m + dt * state.speed_mps * np.sin(state.heading_rad)),
            heading_rad=float((heading + np.pi) % (2.0 * np.pi) - np.pi),
            speed_mps=float(state.speed_mps + dt * accel),
            accel_mps2=float(accel),
            steering_rad=float(min(limit, max(-limit, state.steering_rad + turned))),
        )


def _at_interval(trajectory: Trajectory, now_s: float) -> tuple[FloatArray, FloatArray]:
    """The trajectory's times (M,) and poses (M, 3) every 0.1 s from its start, headings unwrapped."""
    times = np.asarray(trajectory.times_s, dtype=np.float64)
    poses = np.asarray(trajectory.poses_global, dtype=np.float64)
    if len(times) < 2 or poses.shape != (len(times), 3):
        raise ValueError(
            f"A trajectory needs two or more times and a pose (x, y, heading) for each, got {poses.shape}."
        )
    if not times[0] - 1e-6 <= now_s <= times[-1] - INTERVAL_S + 1e-6:
        raise ValueError(
            f"The trajectory covers {times[0]:.2f} to {times[-1]:.2f} s, but it is {now_s:.2f} s now: "
            "start it at the current time and plan at least 0.1 s ahead."
        )
    count = int((times[-1] - times[0]) / INTERVAL_S + 1e-4)
    at = times[0] + INTERVAL_S * np.arange(count + 1)
    heading = np.unwrap(poses[:, 2])
    even = np.column_stack(
        [np.interp(at, times, poses[:, 0]), np.interp(at, times, poses[:, 1]), np.interp(at, times, heading)]
    )
    return at, even


def forward_steps(poses: FloatArray) -> FloatArray:
    """(M,) displacement along each pose's own heading, up to the next pose."""
    steps = np.diff(poses[:, :2], axis=0)
    return steps[:, 0] * np.cos(poses[:-1, 2]) + steps[:, 1] * np.sin(poses[:-1, 2])


@lru_cache(maxsize=256)
def speed_fit(count: int, jerk_penalty: float) -> FloatArray:
    """(M, M) matrix from forward displacements to the smoothed speed profile.

    nuPlan fits an initial speed and accelerations a to the displacements, |dt v - d|^2 + penalty |a_k+1 - a_k|^2. The
    headings drop out of the normal equations (cos^2 + sin^2 = 1), so the solution is a constant matrix per length.
    """
    dt = INTERVAL_S
    integrate = np.tri(count) * dt
    integrate[:, 0] = 1.0  # columns: initial speed, then the accelerations; rows: speed at each tick
    jerk = np.zeros((max(0, count - 2), count))
    for row in range(len(jerk)):
        jerk[row, row + 1], jerk[row, row + 2] = -1.0, 1.0
    normal = dt * dt * integrate.T @ integrate + jerk_penalty * jerk.T @ jerk
    fit = integrate @ np.linalg.solve(normal, dt * integrate.T)
    fit.setflags(write=False)
    return fit


@njit(cache=True)
def curvature_fit(poses, speeds, dt, rate_penalty):
    """(M,) curvature profile: least squares |dt v k - dheading|^2 + penalty |dk/dt|^2 + 1e-10 k_0^2.

    nuPlan solves the same problem for the rates with a dense pseudo-inverse; in the curvatures it is tridiagonal.
    """
    count = speeds.shape[0]
    coupling = rate_penalty / (dt * dt)
    diagonal, right = np.empty(count), np.empty(count)
    for k in range(count):
        turn = (poses[k + 1, 2] - poses[k, 2] + np.pi) % (2.0 * np.pi) - np.pi
        step = dt * speeds[k]
        inner = (k > 0) + (k < count - 1)
        diagonal[k] = step * step + inner * coupling + (1e-10 if k == 0 else 0.0)
        right[k] = step * turn
    for k in range(1, count):  # Thomas algorithm; both off-diagonals are -coupling
        factor = coupling / diagonal[k - 1]
        diagonal[k] -= factor * coupling
        right[k] += factor * right[k - 1]
    out = np.empty(count)
    for k in range(count - 1, -1, -1):
        out[k] = (right[k] + (coupling * out[k + 1] if k < count - 1 else 0.0)) / diagonal[k]
    return out


@njit(cache=True)
def _sample(values, at):
    """Linear interpolation at a fractional index, held at the ends."""
    last = values.shape[0] - 1
    if at <= 0.0:
        return values[0]
    if at >= last:
        return values[last]
    low = int(at)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def _looks(times_s: FloatArray, now_s: float, horizon: int, clock_us: int) -> FloatArray:
    """(horizon + 1,): where the times now, 0.1 s on, ... lie among times_s, as fractional indices."""
    ahead = np.arange(horizon + 1)
    if not clock_us:
        return (now_s - times_s[0]) / INTERVAL_S + ahead
    times = (clock_us + np.round(times_s * 1e6)) / 1e6
    wanted = (clock_us + round(now_s * 1e6)) * 1e-6 + ahead * INTERVAL_S  # nuPlan TimePoint.time_s multiplies
    low = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    return low + (wanted - times[low]) / (times[low + 1] - times[low])


@njit(cache=True)
def _commands(
    x, y, heading, speed, steering, poses, speeds, curvatures, now, looks, wheel_base, weights, r_rate, stop_gain, stop_speed
):  # fmt: skip
    """(acceleration, steering rate). now: the current time as a fractional index into the poses. looks (horizon + 1,): the
    indices at which the profiles are looked up."""
    horizon = looks.shape[0] - 1
    bends = np.empty(horizon)
    for k in range(horizon):
        bends[k] = _sample(curvatures, looks[k])
    want_x, want_y, want_heading = _sample(poses[:, 0], now), _sample(poses[:, 1], now), _sample(poses[:, 2], now)
    target = _sample(speeds, looks[horizon])
    return tracking_commands(
        x - want_x, y - want_y, heading, speed, steering, want_heading, target, bends, wheel_base, weights, r_rate, stop_gain,
        stop_speed,
    )  # fmt: skip


@njit(cache=True)
def tracking_commands(
    dx, dy, heading, speed, steering, want_heading, target, bends, wheel_base, weights, r_rate, stop_gain, stop_speed
):  # fmt: skip
    """(acceleration, steering rate) for an ego that is at (dx, dy) from where it should be now, with the heading it should have.

    target: the speed wanted at the horizon. bends (horizon,): the curvatures wanted until there, one a tick. weights (5,): of
    speed, acceleration, lateral error, heading error and steering angle.
    """
    dt, horizon = INTERVAL_S, bends.shape[0]
    q_speed, r_accel, q_lateral, q_heading, q_steering = weights
    if target <= stop_speed and speed <= stop_speed:
        return -stop_gain * (speed - target), 0.0
    look = horizon * dt
    accel = look * q_speed * (target - speed) / (look * look * q_speed + r_accel)

    # Linearised lateral dynamics over the horizon, without input (error_*) and per unit of steering rate (gain_*).
    error_lateral = -dx * np.sin(want_heading) + dy * np.cos(want_heading)
    error_heading = (heading - want_heading + np.pi) % (2.0 * np.pi) - np.pi
    error_steering = steering
    gain_lateral, gain_heading, gain_steering = 0.0, 0.0, 0.0
    for k in range(horizon):
        step = (speed + k * dt * accel) * dt
        error_lateral += step * error_heading
        error_heading += step * (error_steering / wheel_base - bends[k])
        gain_lateral += step * gain_heading
        gain_heading += step * gain_steering / wheel_base
        gain_steering += dt
    error_heading = (error_heading + np.pi) % (2.0 * np.pi) - np.pi
    error_steering = (error_steering + np.pi) % (2.0 * np.pi) - np.pi
    cost = q_lateral * gain_lateral**2 + q_heading * gain_heading**2 + q_steering * gain_steering**2 + r_rate
    pull = q_lateral * gain_lateral * error_lateral + q_heading * gain_heading * error_heading
    return accel, -(pull + q_steering * gain_steering * error_steering) / cost
