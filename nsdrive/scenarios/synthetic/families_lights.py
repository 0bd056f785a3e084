"""Families about a traffic light: red, red with a queue, turning green, green, turning yellow."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.layouts import crossing
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Draft, Stage, Way


def red_light(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The light is red and stays so until the ego has stopped."""
    stage, way = _approach(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.65, 1.0))
    distance_m = _stopping_room(rng, speed)
    green_at_s = float(rng.uniform(12.0, 22.0))
    _show(stage, way, green_at_s=green_at_s)
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="stopping_at_traffic_light_without_lead",
        notes={"distance_m": distance_m, "initial_speed_mps": speed, "green_at_s": green_at_s},
    )


def red_light_lead(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The light is red, and one to three cars stand at it or roll towards it in front of the ego."""
    stage, way = _approach(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.6, 1.0))
    waiting = int(rng.integers(1, 4))
    moving = bool(rng.random() < 0.4)
    green_at_s = float(rng.uniform(11.0, 22.0))
    _show(stage, way, green_at_s=green_at_s)
    rear_m = _queue(stage, way, 0 if moving else waiting)
    distance_m = _stopping_room(rng, speed) + 4.0
    stage.place_ego(way, front_at_anchor_m=rear_m - distance_m - (10.0 if moving else 0.0), speed_mps=speed)
    if moving:
        gap_m = 6.0 + 1.1 * speed + float(rng.uniform(0.0, 15.0))
        lead_speed = speed * float(rng.uniform(0.75, 0.95))
        stage.add_vehicle(way, rear_m=stage.ego_front_m + gap_m, speed_mps=lead_speed, essential=True)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="stopping_at_traffic_light_with_lead",
        notes={
            "distance_m": distance_m,
            "initial_speed_mps": speed,
            "green_at_s": green_at_s,
            "leads": 1 if moving else waiting,
            "lead_moving": moving,
        },
    )


def red_to_green(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The light turns green soon after the anchor; the ego stands at it or is still rolling, alone or behind cars."""
    stage, way = _approach(rng, duration_s)
    green_at_s = float(rng.uniform(2.4, 5.5))
    _show(stage, way, green_at_s=green_at_s)
    waiting = int(rng.integers(1, 4)) if rng.random() < 0.45 else 0
    rear_m = _queue(stage, way, waiting)
    standing = bool(rng.random() < 0.5)
    if standing:
        speed, distance_m = 0.0, float(rng.uniform(1.1, 2.2)) if waiting else float(rng.uniform(1.1, 3.0))
    else:
        speed = way.limit_mps * float(rng.uniform(0.4, 0.75))
        distance_m = speed**2 / 3.0 + float(rng.uniform(6.0, 25.0))
    stage.place_ego(way, front_at_anchor_m=rear_m - distance_m, speed_mps=speed)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type=f"accelerating_at_traffic_light_{'with' if waiting else 'without'}_lead",
        notes={"distance_m": distance_m, "initial_speed_mps": speed, "green_at_s": green_at_s, "leads": waiting},
    )


def green_light(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The light stays green while the ego goes straight on; the crossing traffic waits."""
    stage, way = _approach(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    distance_m = float(rng.uniform(4.0, 50.0))
    spare_s = float(rng.uniform(1.5, 5.0))
    through_s = 2.0 + distance_m / max(0.9 * speed, 3.0)
    _show(stage, way, yellow_at_s=through_s + spare_s, least_green_s=through_s + spare_s + 1.0)
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    populate(stage, traffic, cross_queue=1 if traffic > 0 else 0)
    return Draft(
        stage=stage,
        scenario_type="starting_straight_traffic_light_intersection_traversal",
        notes={"distance_m": distance_m, "initial_speed_mps": speed, "yellow_at_s": through_s + spare_s},
    )


def yellow_dilemma(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The light turns yellow when the ego is 1.5 to 5 s from the line: stop or go."""
    stage, way = _approach(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.8, 1.0))
    yellow_at_s = float(rng.uniform(2.3, 4.0))
    line_in_s = float(rng.uniform(1.5, 5.0))
    distance_m = speed * (yellow_at_s - 2.0 + line_in_s)
    _show(stage, way, yellow_at_s=yellow_at_s, least_green_s=yellow_at_s + 1.0)
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    populate(stage, traffic)
    stops = speed**2 <= 2 * 3.0 * max(speed * line_in_s - 1.0, 0.1)
    return Draft(
        stage=stage,
        scenario_type="stopping_at_traffic_light_without_lead" if stops else "traversing_traffic_light_intersection",
        notes={
            "distance_m": distance_m,
            "initial_speed_mps": speed,
            "yellow_at_s": yellow_at_s,
            "line_in_s": line_in_s,
        },
    )


FAMILIES = {
    "red_light": red_light,
    "red_light_lead": red_light_lead,
    "red_to_green": red_to_green,
    "green_light": green_light,
    "yellow_dilemma": yellow_dilemma,
}


def _approach(rng: np.random.Generator, duration_s: float) -> tuple[Stage, Way]:
    stage = Stage(rng, crossing(rng, turn="straight"), duration_s)
    return stage, stage.through(stage.pick_movement("south", "straight"))


def _show(
    stage: Stage,
    way: Way,
    *,
    green_at_s: float | None = None,
    yellow_at_s: float | None = None,
    least_green_s: float = 0.0,
) -> None:
    """Shift the light program to the ego's needs."""
    assert stage.plan
    assert way.movement
    connector = way.movement.connector_id
    stage.plan = stage.plan.with_green(connector, least_green_s).shifted(
        connector, green_at_s=green_at_s, yellow_at_s=yellow_at_s
    )


def _stopping_room(rng: np.random.Generator, speed_mps: float) -> float:
    """A distance in which the ego can stop at 1.1 to 2.1 m/s2."""
    return speed_mps**2 / (2 * float(rng.uniform(1.1, 2.1))) + float(rng.uniform(5.0, 25.0))


def _queue(stage: Stage, way: Way, cars: int) -> float:
    """Cars standing at the line of the ego's lane; the progress of the last one's rear bumper (the line's without any)."""
    rear_m = way.line_m
    for k in range(cars):
        size = stage.vehicle_size(LIGHT_VEHICLES if k + 1 < cars else None)
        rear_m -= size[1] + float(stage.rng.uniform(1.0, 2.0) if k == 0 else stage.rng.uniform(1.9, 3.2))
        stage.add_vehicle(way, rear_m=rear_m, speed_mps=0.0, size=size, essential=True)
    return rear_m
