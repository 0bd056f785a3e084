"""The emergency brake of PDM-Closed: when even the best proposal is about to hit something by the ego's own fault.

Follows tuplan_garage's `pdm_emergency_brake.py` (Apache-2.0): a straight line driven at one speed, chosen so that the tracker
brakes hard.
"""

from __future__ import annotations

import math

import numpy as np

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters

MAX_ACCEL_MPS2 = 2.40  # tuplan_garage max_long_accel
SLOW_MPS = 0.2  # tuplan_garage: below it the brake becomes a controller that holds the car


def must_brake(collision_s: float, ego_speed_mps: float, config: PdmParameters) -> bool:
    """Whether the best proposal's first at-fault collision is this near, and the ego this slow, that only braking is left."""
    return collision_s <= config.emergency_time_s and abs(ego_speed_mps) <= config.emergency_speed_mps


def emergency_trajectory(
    ego: EgoState, config: PdmParameters, previous: EgoState | None = None, vehicle: VehicleParameters = PACIFICA
) -> FloatArray:
    """(plan_steps + 1, 3) poses of the rear axle, 0.1 s apart: straight on at one speed.

    With `config.reference` that speed is the public code's, which may point backwards; else the ego brakes at
    `emergency_decel_mps2` until it stands. previous: the state one interval before, from which the yaw acceleration is known
    (in the public code it counts when the ego almost stands and steers).
    """
    times = INTERVAL_S * np.arange(config.plan_steps + 1)
    if config.reference:
        driven = _reference_speed_mps(ego, config, previous, vehicle) * times
    else:
        speed, decel = max(0.0, ego.speed_mps), config.emergency_decel_mps2
        braking = np.minimum(times, speed / decel)
        driven = speed * braking - 0.5 * decel * braking**2
    poses = np.empty((len(times), 3))
    poses[:, 0] = ego.x_m + driven * math.cos(ego.heading_rad)
    poses[:, 1] = ego.y_m + driven * math.sin(ego.heading_rad)
    poses[:, 2] = ego.heading_rad
    return poses


def _reference_speed_mps(
    ego: EgoState, config: PdmParameters, previous: EgoState | None, vehicle: VehicleParameters
) -> float:
    hardest, speed = config.emergency_decel_mps2, ego.speed_mps
    if speed > SLOW_MPS:
        change = max(min(10.0 * -speed, MAX_ACCEL_MPS2), -hardest)
        return 11 / 10 * (speed + change)
    rate = _yaw_rate(ego, vehicle)
    yaw_accel = (rate - _yaw_rate(previous, vehicle)) / INTERVAL_S if previous is not None else 0.0
    back = vehicle.rear_axle_to_center_m  # nuPlan get_acceleration_shifted: both terms along x
    accel = ego.accel_mps2 + back * rate**2 + back * yaw_accel
    return max(min(4.0 * -speed - accel, MAX_ACCEL_MPS2), -hardest)


def _yaw_rate(ego: EgoState, vehicle: VehicleParameters) -> float:
    return ego.speed_mps * math.tan(ego.steering_rad) / vehicle.wheel_base_m
