"""Families about the ego's own speed: an open road, a bend."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.layouts import open_road
from nsdrive.scenarios.synthetic.stage import Draft, Stage

START_M = 100.0  # chosen by us: where the ego is on an open road at the anchor, so that the cameras see road behind it


def free_road(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """Nothing ahead: the ego settles at the speed limit, from below or from above."""
    stage = Stage(rng, open_road(rng), duration_s)
    (road,) = stage.network.roads.values()
    way = stage.along("main", "f", int(rng.integers(road.lanes_forward)))
    share = float(rng.uniform(0.35, 1.08))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=share * way.limit_mps)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="high_magnitude_speed" if share * way.limit_mps > 14.0 else "following_lane_without_lead",
        notes={"initial_speed_share": share, "speed_limit_mps": way.limit_mps},
    )


def curve(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A bend that cannot be driven at the limit: the ego has to brake before it."""
    radius_m = float(rng.uniform(20.0, 42.0))
    angle_rad = float(rng.uniform(0.8, 1.7)) * float(rng.choice((-1, 1)))
    to_bend_m = float(rng.uniform(35.0, 80.0))
    layout = open_road(
        rng,
        lanes=(1, 2),
        limits_mps=(11.2, 13.4, 15.6),
        bend=(START_M + to_bend_m, radius_m, angle_rad),
        length_m=560.0,
    )
    stage = Stage(rng, layout, duration_s)
    (road,) = stage.network.roads.values()
    way = stage.along("main", "f", int(rng.integers(road.lanes_forward)))
    speed = way.limit_mps * float(rng.uniform(0.75, 1.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="high_lateral_acceleration",
        notes={"radius_m": radius_m, "angle_rad": angle_rad, "to_bend_m": to_bend_m, "initial_speed_mps": speed},
    )


FAMILIES = {"free_road": free_road, "curve": curve}
