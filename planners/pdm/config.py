"""The numbers of PDM-Closed's first half: what it looks at, and the laws by which its proposals drive.

Source of every number that names "tuplan_garage": the public implementation (autonomousvision/tuplan_garage, Apache-2.0) of
Dauner et al., "Parting with Misconceptions about Learning-based Vehicle Motion Planning", CoRL 2023;
`pdm_closed_planner.yaml` and the defaults in its `pdm_planner` package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nsdrive.world.rules import IdmParameters


@dataclass(frozen=True, kw_only=True)
class PdmParameters(IdmParameters):
    """Constants of route, paths, forecast and roll-out.

    `reference` keeps what the public code does even where it is odd; False mends it. The differences, all of them:

    - The first step of a roll-out has no lead yet, and the law is asked with a lead at progress 0: every proposal brakes
      at `decel_max_mps2` for 0.1 s. Mended: the lead is looked for before the first step.
    - The proposals of a path share one record of the lead. What one leaves in it is the next one's: one that has nothing ahead,
      or a red light, is asked with the speed of the lead of a slower proposal; one that has a lead loses half the ego's length
      of its gap if a slower one had nothing ahead. Mended: each has its own.
    - The speed of a roll-out may sink below zero and the proposal then drives backwards. Mended: it stays at zero.
    - The corridor in which a lead is looked for starts at the path's next vertex, up to a metre ahead of the ego's rear
      axle, and ends at the vertex before its end. Mended: it starts and ends where it should.
    - Where nothing is ahead, the path's end holds a virtual lead, and half the ego's length is taken off the distance from
      the rear axle. Mended: the distance from rear axle to front bumper is.
    - The speed of a lead is taken along its box's heading, so that one that reverses counts as driving forward. Mended: along
      the direction in which it is forecast to move.
    - The tracker that simulates proposals holds back their acceleration where it means to hold back its change (see
      `planners.pdm.simulate`). Mended: it is the tracker that drives the ego.
    - Whether an object is ahead or behind is undefined, and then taken as neither, where rounding makes a cosine greater than
      one, which happens to what is dead ahead. Mended: the cosine is held within its range.
    - Nobody feels a lateral acceleration in a curve. Mended: comfort bounds speed times yaw rate.
    - The emergency brake asks for a constant speed that may point backwards. Mended: it brakes until it stands.
    """

    target_speed_mps: float = 15.0  # tuplan_garage fallback_target_velocity, where the lane has no known limit
    min_gap_m: float = 1.0  # tuplan_garage min_gap_to_lead_agent
    headway_s: float = 1.5  # tuplan_garage headway_time
    accel_max_mps2: float = 1.5  # tuplan_garage accel_max
    decel_max_mps2: float = 3.0  # tuplan_garage decel_max
    exponent: float = 10.0  # tuplan_garage batch_idm_policy.py
    clamp_needed_gap: bool = False  # tuplan_garage batch_idm_policy.py: s* may be below the least gap

    speed_fractions: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)  # tuplan_garage speed_limit_fraction
    offsets_m: tuple[float, ...] = (0.0, -1.0, 1.0)  # tuplan_garage: the centerline, then lateral_offsets
    proposal_steps: int = 40  # tuplan_garage proposal_sampling: 4 s are simulated and scored
    plan_steps: int = 80  # tuplan_garage trajectory_sampling: 8 s are planned
    lead_every: int = 2  # tuplan_garage leading_agent_update_rate: steps from one look for the lead to the next
    forecast_every: int = 2  # tuplan_garage observation_sample_res: steps from one forecast sample to the next

    radius_m: float = 50.0  # tuplan_garage map_radius, from the ego's centre
    max_vehicles: int = 50  # tuplan_garage MAX_DYNAMIC_OBJECTS, the nearest ones
    max_pedestrians: int = 25  # tuplan_garage MAX_DYNAMIC_OBJECTS
    max_bicycles: int = 10  # tuplan_garage MAX_DYNAMIC_OBJECTS
    max_static: int = 50  # tuplan_garage MAX_STATIC_OBJECTS

    route_heading_rad: float = math.pi / 4  # tuplan_garage heading_error_thresh of a lane the ego may be in
    route_distance_m: float = 3.0  # tuplan_garage displacement_error_thresh, to the nearest centerline point
    route_search_backward: int = 15  # tuplan_garage search_depth_backward, in roadblocks
    route_search_forward: int = 30  # tuplan_garage search_depth_forward, in roadblocks
    centerline_roadblocks: int = 30  # tuplan_garage search_depth of the centerline

    reference: bool = True
