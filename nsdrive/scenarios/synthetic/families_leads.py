"""Families about whoever drives ahead: slow, stopping, a queue, a bus or truck, a car that cuts in, a cyclist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.families_free import START_M
from nsdrive.scenarios.synthetic.layouts import open_road
from nsdrive.scenarios.synthetic.motion import Actor
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Draft, Stage, Way
from nsdrive.world.types import INTERVAL_S, FloatArray


def slow_lead(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A lead drives at a quarter to two thirds of the limit; the ego comes up from behind."""
    stage, way, _ = _road(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    lead_speed = min(way.limit_mps * float(rng.uniform(0.22, 0.65)), speed)
    gap_m = 0.7 * speed + (speed - lead_speed) ** 2 / (2 * 1.3) + float(rng.uniform(3.0, 25.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    stage.add_vehicle(
        way, rear_m=stage.ego_front_m + gap_m, speed_mps=lead_speed, desired_mps=lead_speed, essential=True
    )
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="following_lane_with_slow_lead",
        notes={"initial_speed_mps": speed, "lead_speed_mps": lead_speed, "gap_m": gap_m},
    )


def stopped_lead(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A lead stands in the lane, or brakes to a stop in front of the ego."""
    stage, way, _ = _road(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.5, 1.0))
    standing = bool(rng.random() < 0.5)
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    if standing:
        gap_m = 2.0 * speed + speed**2 / (2 * float(rng.uniform(1.2, 2.1))) + float(rng.uniform(4.0, 22.0))
        lead_speed, brakes_at_s, decel = 0.0, 0.0, 0.0
        desired: float | FloatArray = 0.0
    else:
        gap_m = 4.0 + 1.3 * speed + float(rng.uniform(0.0, 18.0))
        lead_speed = speed * float(rng.uniform(0.85, 1.0))
        brakes_at_s, decel = float(rng.uniform(1.2, 4.5)), float(rng.uniform(1.5, 2.6))
        times = np.arange(stage.ticks) * INTERVAL_S
        desired = np.maximum(lead_speed - np.maximum(times - brakes_at_s, 0.0) * decel, 0.0)
    stage.add_vehicle(
        way, rear_m=stage.ego_front_m + gap_m, speed_mps=lead_speed, desired_mps=desired, essential=True, reacts=False
    )
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="stopping_with_lead",
        notes={
            "initial_speed_mps": speed,
            "gap_m": gap_m,
            "lead_standing": standing,
            "lead_brakes_at_s": brakes_at_s,
            "lead_decel_mps2": decel,
        },
    )


def dense_queue(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """Stop and go: every lane of the ego's direction is a queue, led by a car whose speed comes and goes."""
    stage, way, index = _road(rng, duration_s)
    speed = float(rng.uniform(0.0, 5.0)) if rng.random() < 0.75 else 0.0
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    (road,) = stage.network.roads.values()
    lead_gap_m = 1.3 + 1.3 * speed + float(rng.uniform(0.0, 4.0))
    for i in range(road.lanes_forward):
        own = i == index
        _queue(
            stage,
            stage.along("main", "f", i),
            rear_m=stage.ego_front_m + (lead_gap_m if own else float(rng.uniform(-30.0, -22.0))),
            cars=int(rng.integers(4, 7)) if own else 9,
            speed_mps=speed,
            essential=own,
        )
    populate(stage, traffic)
    return Draft(
        stage=stage, scenario_type="stationary_in_traffic", notes={"initial_speed_mps": speed, "lead_gap_m": lead_gap_m}
    )


def long_vehicle(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A bus or truck ahead, which in a third of the scenes stops."""
    stage, way, _ = _road(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    lead_speed = min(way.limit_mps * float(rng.uniform(0.4, 0.8)), speed)
    gap_m = 0.8 * speed + (speed - lead_speed) ** 2 / (2 * 1.3) + float(rng.uniform(3.0, 18.0))
    stops_at_s = float(rng.uniform(3.0, 7.0)) if rng.random() < 0.35 else None
    times = np.arange(stage.ticks) * INTERVAL_S
    desired = np.full(stage.ticks, lead_speed)
    if stops_at_s is not None:
        desired = np.maximum(lead_speed - np.maximum(times - stops_at_s, 0.0) * 1.3, 0.0)
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    stage.add_vehicle(
        way,
        rear_m=stage.ego_front_m + gap_m,
        speed_mps=lead_speed,
        desired_mps=desired,
        kinds=("bus", "truck"),
        essential=True,
        reacts=False,
        indicator=() if stops_at_s is None else ((0.0, 1e4, -1),),
    )
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="behind_long_vehicle",
        notes={"initial_speed_mps": speed, "lead_speed_mps": lead_speed, "gap_m": gap_m, "stops_at_s": stops_at_s},
    )


def cut_in(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A slower car of the next lane indicates and moves over in front of the ego."""
    stage, way, index = _road(rng, duration_s, lanes=(2, 3))
    (road,) = stage.network.roads.values()
    beside = [i for i in (index - 1, index + 1) if 0 <= i < road.lanes_forward]
    other = int(rng.choice(beside))
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    car_speed = speed * float(rng.uniform(0.62, 0.92))
    starts_at_s = float(rng.uniform(1.6, 4.2))
    takes_s = float(rng.uniform(2.4, 3.8))
    gap_m = (
        2.5 + 0.45 * speed + (speed - car_speed) ** 2 / 3.0 + float(rng.uniform(0.0, 9.0))
    )  # when it starts to move over
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    size = stage.vehicle_size(LIGHT_VEHICLES)
    rear_m = stage.ego_front_m + gap_m + (speed - car_speed) * starts_at_s
    centre_m = rear_m + size[1] / 2
    from_m, to_m = centre_m + car_speed * starts_at_s, centre_m + car_speed * (starts_at_s + takes_s)
    changing = changing_lanes(stage.along("main", "f", other), way, from_m, to_m)
    stage.add_vehicle(
        changing,
        rear_m=rear_m,
        speed_mps=car_speed,
        desired_mps=car_speed,
        size=size,
        essential=True,
        indicator=((from_m - 2.0 * car_speed, to_m, 1 if other > index else -1),),
    )
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="near_multiple_vehicles",
        notes={
            "initial_speed_mps": speed,
            "cut_in_speed_mps": car_speed,
            "cut_in_at_s": starts_at_s,
            "cut_in_takes_s": takes_s,
            "gap_m": gap_m,
            "from_side": "right" if other > index else "left",
        },
    )


def cyclist_ahead(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A cyclist in the ego's lane."""
    stage = Stage(rng, open_road(rng, limits_mps=(8.9, 11.2, 13.4, 15.6)), duration_s)
    (road,) = stage.network.roads.values()
    index = road.lanes_forward - 1
    way = stage.along("main", "f", index)
    speed = way.limit_mps * float(rng.uniform(0.5, 1.0))
    cyclist_speed = min(float(rng.uniform(2.6, 6.2)), speed)
    from_centre_m = float(rng.uniform(0.0, 0.75))
    gap_m = 0.7 * speed + (speed - cyclist_speed) ** 2 / (2 * 1.3) + float(rng.uniform(3.0, 18.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    stage.actors.append(
        Actor(
            track_id="cyclist",
            kind="bicycle",
            path=road.line(-((index + 0.5) * road.lane_width_m + from_centre_m)),
            start_m=stage.ego_front_m + gap_m + 0.9,
            speed_mps=cyclist_speed,
            desired_mps=cyclist_speed,
            length_m=1.8,
            width_m=0.65,
            height_m=1.75,
            reacts=False,
            essential=True,
        )
    )
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="behind_bike",
        notes={
            "initial_speed_mps": speed,
            "cyclist_speed_mps": cyclist_speed,
            "gap_m": gap_m,
            "right_of_centre_m": from_centre_m,
        },
    )


FAMILIES = {
    "slow_lead": slow_lead,
    "stopped_lead": stopped_lead,
    "dense_queue": dense_queue,
    "long_vehicle": long_vehicle,
    "cut_in": cut_in,
    "cyclist_ahead": cyclist_ahead,
}


def _road(rng: np.random.Generator, duration_s: float, lanes: tuple[int, ...] = (1, 2, 3)) -> tuple[Stage, Way, int]:
    stage = Stage(rng, open_road(rng, lanes=lanes), duration_s)
    (road,) = stage.network.roads.values()
    index = int(rng.integers(road.lanes_forward))
    return stage, stage.along("main", "f", index), index


def _queue(stage: Stage, way: Way, *, rear_m: float, cars: int, speed_mps: float, essential: bool) -> None:
    """Cars nose to tail; the one in front goes in waves, those behind follow it."""
    rng = stage.rng
    times = np.arange(stage.ticks) * INTERVAL_S
    period_s, phase = float(rng.uniform(9.0, 18.0)), float(rng.uniform(0.0, 2 * np.pi))
    mean, swing = float(rng.uniform(0.0, 3.0)), float(rng.uniform(1.0, 3.0))
    wave = np.maximum(mean + swing * np.sin(2 * np.pi * times / period_s + phase), 0.0)
    blend = np.clip(times / 2.5, 0.0, 1.0)
    wave = speed_mps * (1 - blend) + wave * blend
    for k in range(cars):
        size = stage.vehicle_size()
        stage.add_vehicle(
            way,
            rear_m=rear_m,
            speed_mps=speed_mps,
            desired_mps=wave if k + 1 == cars else None,
            size=size,
            essential=essential,
            headway_s=1.1,
        )
        rear_m += size[1] + 1.8 + 1.1 * speed_mps + float(rng.uniform(0.0, 2.5))


def changing_lanes(start: Way, target: Way, from_m: float, to_m: float) -> Way:
    """From one lane to another of the same road, smoothly between two places."""
    u = np.clip((start.arc_m - from_m) / (to_m - from_m), 0.0, 1.0)[:, None]
    share = u**3 * (10 - 15 * u + 6 * u**2)  # the jerk-free fifth-order step
    points = start.points * (1 - share) + target.points * share
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return replace(start, points=points, arc_m=arc)
