"""Everything in a scene that it is not about: other traffic, parked cars, people on the pavement."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nsdrive.scenarios.synthetic.signal_plan import GREEN
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Stage, Way
from nsdrive.world.types import FloatArray

PARKED_NEAR_M = 75.0  # parked cars and people further from the ego than this are left out: cameras barely see them


def populate(
    stage: Stage,
    amount: float,
    *,
    ahead: bool = False,
    cross_queue: int = 0,
    clear: Collection[tuple[str, int]] = (),
) -> None:
    """Fill the scene. ahead: whether other traffic may use the ego's own lane in front of it. cross_queue: cars that at
    least wait at every red light of the crossing road. clear: lanes that the family fills itself: (direction, index) of an
    open road, (arm, index) of a junction's approaches."""
    if stage.layout.junction:
        _fill_junction(stage, amount, cross_queue, clear)
    else:
        _fill_road(stage, amount, clear)
    if ahead and amount > 0:
        gap_m = float(stage.rng.uniform(60.0, 130.0))
        stage.add_vehicle(stage.ego_way, rear_m=stage.ego_front_m + gap_m, speed_mps=stage.ego_way.limit_mps * 0.95)
    _park_cars(stage, amount)
    _walk_people(stage, amount)


def _fill_road(stage: Stage, amount: float, clear: Collection[tuple[str, int]]) -> None:
    (road,) = stage.network.roads.values()
    own = stage.ego_way
    for direction, count in (("f", road.lanes_forward), ("b", road.lanes_backward)):
        for index in range(count):
            way = stage.along(road.name, direction, index)
            if way.lane_ids[-1] == own.lane_ids[-1] or (direction, index) in clear:
                continue
            middle_m = stage.ego.start_m if direction == "f" else way.arc_m[-1] - stage.ego.start_m
            reach_m = (-70.0, 130.0) if direction == "f" else (-260.0, 40.0)
            _stream(stage, way, amount, max(5.0, middle_m + reach_m[0]), middle_m + reach_m[1])


def _fill_junction(stage: Stage, amount: float, cross_queue: int, clear: Collection[tuple[str, int]]) -> None:
    assert stage.layout.junction
    own = (stage.route or stage.ego_way).movement
    assert own
    states = stage.plan.states(1)[:, 0] if stage.plan else None
    approaches = sorted({(m.from_road, m.from_index) for m in stage.network.movements})
    for road, index in approaches:
        choices = [m for m in stage.network.movements if (m.from_road, m.from_index) == (road, index)]
        if (road, index) == (own.from_road, own.from_index) or (road, index) in clear:
            continue
        rng = stage.rng
        if stage.plan is None:  # a stop sign: at most one or two cars, so that their turns come
            if rng.random() < 0.65 * amount:
                way = stage.through(choices[int(rng.integers(len(choices)))])
                stage.add_vehicle(
                    way, rear_m=way.line_m - float(rng.uniform(8.0, 60.0)), speed_mps=3.0, kinds=LIGHT_VEHICLES
                )
            continue
        assert states is not None
        head = stage.through(choices[int(rng.integers(len(choices)))])
        green = states[stage.plan.phase_of(choices[0].connector_id)] == GREEN
        front_m = head.line_m - float(rng.uniform(0.8, 2.0))
        least = cross_queue if road in ("east", "west") else 0
        waiting = 0 if green else max(least, int(rng.poisson(1.6 * amount)))
        beside_ego = road == own.from_road
        far_m = head.line_m - (90.0 if beside_ego else 140.0)
        for _ in range(waiting):
            way = stage.through(choices[int(rng.integers(len(choices)))])
            car = stage.add_vehicle(way, rear_m=0.0, speed_mps=0.0)
            car.start_m = front_m - car.length_m / 2
            front_m -= car.length_m + float(rng.uniform(1.8, 3.2))
        front_m -= float(rng.uniform(10.0, 40.0)) / max(amount, 0.2)
        while front_m > far_m and amount > 0:
            way = stage.through(choices[int(rng.integers(len(choices)))])
            limit = way.limit_mps * float(rng.uniform(0.75, 1.0))
            room_m = max(0.5, head.line_m - front_m - 6.0 * waiting - 4.0)
            speed = limit if green else min(limit, float(np.sqrt(2 * 1.4 * room_m)))
            car = stage.add_vehicle(way, rear_m=0.0, speed_mps=speed, desired_mps=limit)
            car.start_m = front_m - car.length_m / 2
            front_m -= car.length_m + 1.6 * speed + float(rng.exponential(28.0)) / max(amount, 0.2) + 4.0
    for road in dict.fromkeys(m.to_road for m in stage.network.movements):  # cars that have left the junction
        arm = stage.network.roads[road]
        for index in range(arm.lanes_forward):
            if (road, index) != (own.to_road, own.to_index):
                way = stage.along(road, "f", index)
                _stream(stage, way, 0.6 * amount, 12.0, 110.0)


def _stream(stage: Stage, way: Way, amount: float, from_m: float, to_m: float) -> None:
    """Cars at random headways along one lane, all near one speed."""
    if amount <= 0:
        return
    rng = stage.rng
    pace = way.limit_mps * float(rng.uniform(0.7, 1.0))
    rear_m = min(to_m, float(way.arc_m[-1]) - 25.0) - float(rng.exponential(30.0)) / amount
    while rear_m > from_m:
        speed = pace * float(rng.uniform(0.95, 1.05))
        stage.add_vehicle(way, rear_m=rear_m, speed_mps=speed, desired_mps=speed)
        rear_m -= 12.0 + 1.5 * pace + float(rng.exponential(35.0)) / amount


def _park_cars(stage: Stage, amount: float) -> None:
    rng = stage.rng
    x, y, _ = stage.ego_way.at(stage.ego.start_m + 30.0)
    for road in stage.network.roads.values():
        if road.parking_m < 2.0:
            continue
        for side in (1, -1):
            kerb = road.line(road.edge_m(side))
            heading = road.reference[:, 2] + (0.0 if side < 0 else np.pi)
            row, taken = float(rng.uniform(20.0, 30.0)), 0
            spacing_m = float(np.hypot(*(road.reference[1, :2] - road.reference[0, :2])))
            occupied = float(rng.uniform(0.3, 0.8)) * min(amount, 1.2)
            while row < len(kerb) * spacing_m - 12.0 and taken < 9:
                k = int(row / spacing_m)
                _, length, width, height = stage.vehicle_size(LIGHT_VEHICLES)
                row += length + float(rng.uniform(0.8, 2.2))
                near = np.hypot(kerb[k, 0] - x, kerb[k, 1] - y) < PARKED_NEAR_M
                if near and rng.random() < occupied:
                    inward = -side * (width / 2 + 0.15)
                    h = road.reference[k, 2]
                    x_m, y_m = kerb[k, 0] - inward * np.sin(h), kerb[k, 1] + inward * np.cos(h)
                    pose = (float(x_m), float(y_m), float(heading[k] + rng.normal(0.0, 0.012)))
                    stage.add_standing("car", "vehicle", pose, (length, width, height))
                    taken += 1


def _walk_people(stage: Stage, amount: float) -> None:
    rng = stage.rng
    x, y, _ = stage.ego_way.at(stage.ego.start_m + 45.0)
    ends = {"start", "end"} if stage.layout.junction is None else {"start"}
    for road in stage.network.roads.values():
        if road.walkway_m < 1.5:
            continue
        for _ in range(int(rng.poisson(1.8 * amount))):
            side = int(rng.choice((1, -1)))
            line = road.line(road.edge_m(side) + side * float(rng.uniform(0.7, road.walkway_m - 0.5)))
            near = np.flatnonzero(np.hypot(line[:, 0] - x, line[:, 1] - y) < PARKED_NEAR_M)
            if len(near) < 30:
                continue
            k = int(rng.choice(near))
            speed = float(rng.uniform(0.9, 1.6))
            path: FloatArray = line[k:] if rng.random() < 0.5 else line[k::-1]
            reach_m = speed * stage.ticks * 0.1 + 3.0
            if len(path) * 0.6 < reach_m:  # would walk off the end, or into the junction
                path = line[k:] if len(path) != len(line[k:]) else line[k::-1]
            if len(path) * 0.6 >= reach_m or not ends:
                stage.add_walker(path, start_m=0.0, speed_mps=speed)
