"""Families about leaving one's lane: to overtake, to go round what stands there, or because the route asks for another."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.families_free import START_M
from nsdrive.scenarios.synthetic.layouts import crossing, open_road
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Draft, Stage, Way


def slow_lead_two_lanes(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A lead at a fifth to a half of the limit, and a lane beside it that is free or nearly so."""
    stage, way, index, beside = _two_lanes(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    lead_speed = min(way.limit_mps * float(rng.uniform(0.2, 0.5)), speed)
    gap_m = 0.9 * speed + (speed - lead_speed) ** 2 / (2 * 1.3) + float(rng.uniform(3.0, 25.0))
    stage.place_ego(way, front_at_anchor_m=START_M + 60.0, speed_mps=speed)
    stage.add_vehicle(
        way, rear_m=stage.ego_front_m + gap_m, speed_mps=lead_speed, desired_mps=lead_speed, essential=True
    )
    others = _beside(stage, beside, int(rng.integers(0, 3)))
    populate(stage, traffic, clear=[("f", beside)])
    return Draft(
        stage=stage,
        scenario_type="following_lane_with_slow_lead",
        notes={
            "initial_speed_mps": speed,
            "lead_speed_mps": lead_speed,
            "gap_m": gap_m,
            "beside": others,
            "lane": index,
        },
    )


def lane_blocked(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """Something stands in the ego's lane for good. The lane beside it is free, or has cars and then room."""
    stage, way, index, beside = _two_lanes(rng, duration_s)
    speed = way.limit_mps * float(rng.uniform(0.5, 0.95))
    distance_m = speed**2 / (2 * float(rng.uniform(1.0, 1.8))) + float(rng.uniform(8.0, 35.0))
    stage.place_ego(way, front_at_anchor_m=START_M + 60.0, speed_mps=speed)
    _, length, width, height = stage.vehicle_size(None)
    at_m = START_M + 60.0 + distance_m + length / 2
    x, y, heading = way.at(at_m, float(rng.uniform(-0.3, 0.3)))
    pose = (x, y, heading + float(rng.normal(0.0, 0.02)))
    stage.add_standing("truck" if length > 7 else "car", "vehicle", pose, (length, width, height), essential=True)
    others = _beside(stage, beside, int(rng.integers(0, 6)))
    populate(stage, traffic, clear=[("f", beside)])
    return Draft(
        stage=stage,
        scenario_type="changing_lane",
        notes={"initial_speed_mps": speed, "distance_m": distance_m, "beside": others, "lane": index},
    )


def oncoming_pass(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A car stands half or wholly in the only lane of its direction, the line is dashed, and oncoming cars come with gaps."""
    layout = open_road(rng, lanes=(1,), limits_mps=(8.9, 11.2, 13.4), gentle=0.5, centre_marking="dashed_yellow")
    stage = Stage(rng, layout, duration_s)
    (road,) = stage.network.roads.values()
    way = stage.along("main", "f", 0)
    speed = way.limit_mps * float(rng.uniform(0.5, 0.95))
    distance_m = speed**2 / (2 * float(rng.uniform(1.1, 1.9))) + float(rng.uniform(8.0, 30.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    _, length, width, height = stage.vehicle_size(LIGHT_VEHICLES)
    intrusion_m = float(rng.uniform(0.9, road.lane_width_m / 2 + width / 2))
    x, y, heading = way.at(START_M + distance_m + length / 2, -(road.lane_width_m / 2 - intrusion_m + width / 2))
    pose = (x, y, heading + float(rng.normal(0.0, 0.02)))
    stage.add_standing("car", "vehicle", pose, (length, width, height), essential=True)
    there = stage.along("main", "b", 0)
    meets_m = float(there.arc_m[-1]) - (START_M + distance_m)
    pace = there.limit_mps * float(rng.uniform(0.7, 0.95))
    passes_s, oncoming = 2.0 + float(rng.uniform(0.5, 5.0)), int(rng.integers(0, 5))
    for _ in range(oncoming):
        rear_m = meets_m - pace * passes_s
        if rear_m > 5.0:
            stage.add_vehicle(there, rear_m=rear_m, speed_mps=pace, desired_mps=pace, essential=True)
        passes_s += 2.2 + float(rng.exponential(2.5))
    populate(stage, traffic, clear=[("b", 0)])
    return Draft(
        stage=stage,
        scenario_type="traversing_narrow_lane",
        notes={
            "initial_speed_mps": speed,
            "distance_m": distance_m,
            "intrusion_m": intrusion_m,
            "oncoming": oncoming,
        },
    )


def route_lane_change(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """The route turns at the next junction from a lane beside the ego's; a car or two may drive there."""
    turn = str(rng.choice(("left", "right")))
    layout = crossing(rng, turn=turn, limits_mps=(8.9, 11.2, 13.4), lanes=(2, 3))
    stage = Stage(rng, layout, duration_s)
    route = stage.through(stage.pick_movement("south", turn))
    assert stage.plan
    assert route.movement
    wanted = route.movement.from_index
    own = wanted + (1 if turn == "left" else -1)
    way = stage.along("south", "b", own)
    speed = way.limit_mps * float(rng.uniform(0.5, 0.85))
    distance_m = 50.0 + 4.0 * speed + float(rng.uniform(0.0, 40.0))
    connector = route.movement.connector_id
    through_s = 2.0 + distance_m / max(0.7 * speed, 3.0) + 8.0
    stage.plan = stage.plan.with_green(connector, through_s + 3.0).shifted(connector, green_at_s=-3.0)
    stage.place_ego(way, front_at_anchor_m=route.line_m - distance_m, speed_mps=speed)
    stage.route = route
    others = int(rng.integers(0, 3))
    for k, side in enumerate(rng.permutation((1, -1))[:others]):
        gap_m = float(rng.uniform(4.0, 30.0))
        size = stage.vehicle_size(LIGHT_VEHICLES)
        rear_m = stage.ego_front_m + gap_m if side > 0 else stage.ego_front_m - 5.2 - gap_m - size[1]
        pace = speed * float(rng.uniform(0.9, 1.1))
        if rear_m > 2.0:
            stage.add_vehicle(route, rear_m=rear_m, speed_mps=pace, desired_mps=pace, size=size, essential=k == 0)
    lanes = [("south", i) for i in range(stage.network.roads["south"].lanes_backward)]
    populate(stage, traffic, clear=lanes)
    return Draft(
        stage=stage,
        scenario_type=f"changing_lane_to_{turn}",
        notes={"initial_speed_mps": speed, "distance_m": distance_m, "turn": turn, "beside": others},
    )


FAMILIES = {
    "slow_lead_two_lanes": slow_lead_two_lanes,
    "lane_blocked": lane_blocked,
    "oncoming_pass": oncoming_pass,
    "route_lane_change": route_lane_change,
}


def _two_lanes(rng: np.random.Generator, duration_s: float) -> tuple[Stage, Way, int, int]:
    """A road of two or three lanes a way; the ego's lane and one beside it."""
    stage = Stage(rng, open_road(rng, lanes=(2, 3), length_m=680.0), duration_s)
    (road,) = stage.network.roads.values()
    index = int(rng.integers(road.lanes_forward))
    beside = int(rng.choice([i for i in (index - 1, index + 1) if 0 <= i < road.lanes_forward]))
    return stage, stage.along("main", "f", index), index, beside


def _beside(stage: Stage, index: int, cars: int) -> int:
    """Cars in the lane beside the ego, from a little ahead of it backwards, one behind the other; how many found room."""
    rng, way = stage.rng, stage.along("main", "f", index)
    pace = way.limit_mps * float(rng.uniform(0.6, 1.0))
    rear_m, placed = stage.ego_front_m + float(rng.uniform(-25.0, 40.0)), 0
    for _ in range(cars):
        size = stage.vehicle_size(LIGHT_VEHICLES)
        rear_m -= size[1]
        if rear_m < 2.0:
            break
        stage.add_vehicle(way, rear_m=rear_m, speed_mps=pace, desired_mps=pace, size=size, essential=True)
        placed += 1
        rear_m -= 2.5 + 1.0 * pace + float(rng.exponential(6.0))
    return placed
