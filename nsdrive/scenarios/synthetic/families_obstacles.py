"""Families about what stands or walks in the lane: a pedestrian, a parked car, a construction zone."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.families_free import START_M
from nsdrive.scenarios.synthetic.layouts import open_road
from nsdrive.scenarios.synthetic.road_parts import Road
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Draft, Hold, Stage
from nsdrive.world.types import FloatArray

CROSSWALK_JOINT = 1  # the second joint of the road: room before it for the ego's approach


def pedestrian_crosswalk(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """One to three people cross in front of the ego on a crosswalk without a light."""
    limits = (8.9, 11.2, 13.4)
    layout = open_road(rng, lanes=(1, 2), limits_mps=limits, gentle=0.5, crosswalk_joint=CROSSWALK_JOINT, parking=False)
    stage = Stage(rng, layout, duration_s)
    (road,) = stage.network.roads.values()
    index = int(rng.integers(road.lanes_forward))
    way = stage.along("main", "f", index)
    line_m = float(way.starts_m[2 * CROSSWALK_JOINT + 1])
    speed = way.limit_mps * float(rng.uniform(0.55, 1.0))
    enters_at_s = float(rng.uniform(2.0, 4.5))  # the first one, the ego's lane
    room_m = speed**2 / (2 * float(rng.uniform(1.2, 2.0))) + float(rng.uniform(5.0, 16.0))
    people = int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))
    from_right = bool(rng.random() < 0.5)
    stage.place_ego(way, front_at_anchor_m=line_m - room_m - speed * (enters_at_s - 2.0), speed_mps=speed)
    crossed_s = 0.0
    for k in range(people):
        pace = float(rng.uniform(0.95, 1.6))
        path, kerb_m, enter_m, end_m = _crossing_path(stage, road, index, from_right, float(rng.uniform(-1.1, 1.1)))
        at_s = enters_at_s + k * float(rng.uniform(0.7, 1.8))
        start_m = max(0.0, enter_m - pace * at_s)
        stage.add_walker(
            path, start_m=start_m, speed_mps=pace, wait_s=max(0.0, at_s - (enter_m - start_m) / pace), essential=True
        )
        crossed_s = max(crossed_s, at_s + (end_m - enter_m) / pace)
        if k == 0:
            stage.hold = Hold(from_s=max(0.0, at_s - (enter_m - kerb_m) / pace - 0.5), to_s=crossed_s)
    assert stage.hold
    stage.hold = Hold(from_s=stage.hold.from_s, to_s=crossed_s)
    stage.ego.stops = stage.stops_of(way)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="waiting_for_pedestrian_to_cross",
        notes={
            "initial_speed_mps": speed,
            "people": people,
            "from_right": from_right,
            "enters_at_s": enters_at_s,
            "room_m": room_m,
        },
    )


def parked_car(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A car parked at the kerb reaches into the ego's lane, further than the ego can pass within it."""
    stage = Stage(rng, open_road(rng, limits_mps=(8.9, 11.2, 13.4, 15.6)), duration_s)
    (road,) = stage.network.roads.values()
    index = road.lanes_forward - 1
    way = stage.along("main", "f", index)
    speed = way.limit_mps * float(rng.uniform(0.45, 1.0))
    intrusion_m = float(rng.uniform(0.8, 1.5))
    distance_m = speed**2 / (2 * float(rng.uniform(1.2, 2.1))) + float(rng.uniform(5.0, 30.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    _, length, width, height = stage.vehicle_size(LIGHT_VEHICLES)
    right_m = road.lane_width_m / 2 - intrusion_m + width / 2
    x, y, heading = way.at(START_M + distance_m + length / 2, -right_m)
    pose = (x, y, heading + float(rng.normal(0.0, 0.03)))
    stage.add_standing("car", "vehicle", pose, (length, width, height), essential=True)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type="traversing_narrow_lane",
        notes={"initial_speed_mps": speed, "distance_m": distance_m, "intrusion_m": intrusion_m},
    )


def construction(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """Cones narrow the ego's lane from the right, or barriers close it; a sign stands before them."""
    stage = Stage(rng, open_road(rng, limits_mps=(8.9, 11.2, 13.4), gentle=0.5, parking=False), duration_s)
    (road,) = stage.network.roads.values()
    way = stage.along("main", "f", road.lanes_forward - 1)
    half = road.lane_width_m / 2
    speed = way.limit_mps * float(rng.uniform(0.45, 1.0))
    closed = bool(rng.random() < 0.5)
    intrusion_m = float(2 * half - 0.35) if closed else float(rng.uniform(0.85, 1.5))
    distance_m = speed**2 / (2 * float(rng.uniform(1.1, 1.9))) + float(rng.uniform(5.0, 30.0))
    stage.place_ego(way, front_at_anchor_m=START_M, speed_mps=speed)
    at_m, taper_m = START_M + distance_m, float(rng.uniform(10.0, 20.0))

    def put(
        name: str, kind: str, progress_m: float, left_m: float, size: tuple[float, float, float], turned: float = 0.0
    ) -> None:
        x, y, heading = way.at(progress_m, left_m)
        stage.add_standing(name, kind, (x, y, heading + turned), size, essential=True)

    cone, barrier = (0.4, 0.4, 0.75), (2.0, 0.5, 1.0)
    steps = max(5, round(taper_m / 2.5))
    for k in range(steps + 1):  # the taper
        put("cone", "traffic_cone", at_m + taper_m * k / steps, -half + intrusion_m * k / steps, cone)
    length_m, edge = float(rng.uniform(15.0, 35.0)), -half + intrusion_m
    for k in range(1, int(length_m / 4.0)):
        put("cone", "traffic_cone", at_m + taper_m + 4.0 * k, edge, cone)
    if closed:
        for k in range(int((intrusion_m - 0.4) / 1.3)):
            left_m = edge - 0.9 - 1.3 * k
            put("barrier", "barrier", at_m + taper_m + 2.0 + 0.7 * (k % 2), left_m, (1.2, 0.5, 1.0), np.pi / 2)
    else:
        for k in range(int(length_m / 6.0)):
            put("barrier", "barrier", at_m + taper_m + 3.0 + 6.0 * k, edge - 0.65, barrier)
    sign_m = at_m - float(rng.uniform(12.0, 25.0))
    put("sign", "czone_sign", sign_m, -half - 0.9, (0.3, 0.9, 1.8))
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type=str(rng.choice(("near_construction_zone_sign", "near_trafficcone_on_driveable"))),
        notes={"initial_speed_mps": speed, "distance_m": distance_m, "closed": closed, "intrusion_m": intrusion_m},
    )


FAMILIES = {
    "pedestrian_crosswalk": pedestrian_crosswalk,
    "parked_car": parked_car,
    "construction": construction,
}


def _crossing_path(
    stage: Stage, road: Road, index: int, from_right: bool, along_m: float
) -> tuple[FloatArray, float, float, float]:
    """A walker's path along one pavement, over the crosswalk, along the other; and the progress at which the walker leaves
    the kerb, enters the ego's lane, and reaches the far kerb."""
    start = 1 if not from_right else -1
    pavement_m = float(stage.rng.uniform(0.8, 1.6))
    first = road.line(road.edge_m(start) + start * pavement_m)
    second = road.line(road.edge_m(-start) - start * pavement_m)
    polygon = next(iter(stage.network.lane_map.crosswalks.values())).polygon
    middle = polygon.mean(axis=0)
    k = int(np.argmin(np.hypot(*(road.reference[:, :2] - middle).T)) + round(along_m / 0.7))
    before = first[k - 22 : k + 1] if stage.rng.random() < 0.5 else first[k + 22 : k - 1 : -1]
    after = second[k:] if stage.rng.random() < 0.5 else second[k::-1]
    path = _rounded(np.concatenate([before, after]))
    walked_m = float(np.hypot(*np.diff(before, axis=0).T).sum())
    width = road.lane_width_m
    lane_edge = -(index * width) if start > 0 else -((index + 1) * width)
    start_offset = road.edge_m(start) + start * pavement_m
    return (
        path,
        walked_m + pavement_m,
        walked_m + abs(start_offset - lane_edge),
        walked_m + abs(start_offset - road.edge_m(-start)),
    )


def _rounded(path: FloatArray, over_m: float = 2.0) -> FloatArray:
    """The path with its corners walked round, as people do: its moving average over a length."""
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.arange(0.0, arc[-1], 0.25)
    half = round(over_m / 0.5)
    kernel = np.full(2 * half + 1, 1 / (2 * half + 1))
    columns = [np.pad(np.interp(at, arc, column), half, mode="edge") for column in path.T]
    return np.stack([np.convolve(column, kernel, mode="valid") for column in columns], axis=1)
