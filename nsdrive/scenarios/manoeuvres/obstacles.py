"""Named manoeuvres about who walks or rides across, and about what stands in the lane, with and without a way round it."""

from __future__ import annotations

from functools import partial

from nsdrive.scenarios.manoeuvres.scene import CAR, CONE, FRONT_M, PERSON, TRUCK, VAN, Manoeuvre, Scene, across
from nsdrive.scenarios.synthetic.layouts import plain_road
from nsdrive.world.types import OBJECT_KINDS

KERB_M = 2.1  # of `plain_road`: from a lane's middle to the kerb on its right


def crosswalk(*, waits: bool) -> Scene:
    """waits: the person stands beside the crosswalk and lets the ego pass."""
    scene = Scene(plain_road(limit_mps=11.2, crosswalk_joint=2))
    way = scene.lane()
    line_m = float(way.starts_m[5])
    scene.ego(way, front_m=line_m - 55.0, speed_mps=10.0)
    if waits:
        scene.standing("person", way, at_m=line_m + 3.0, left_m=-KERB_M - 1.2, kind="pedestrian", size=PERSON)
    else:
        scene.walker("person", across(way, line_m + 3.0, -3.6, 10.0), speed_mps=1.4, starts_s=1.5)
    scene.note_line(way, line_m)
    return scene


def jaywalker() -> Scene:
    scene = Scene(plain_road(limit_mps=11.2))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=10.0)
    scene.walker("person", across(way, scene.ahead_m(55.0), -3.6, 10.0), speed_mps=1.2, starts_s=1.5)
    return scene


def from_behind_van() -> Scene:
    scene = Scene(plain_road(limit_mps=11.2, parking_m=2.3))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=9.0)
    scene.standing("van", way, at_m=scene.ahead_m(46.0), left_m=-3.3, size=VAN[1:])
    scene.walker("person", across(way, scene.ahead_m(50.5), -4.6, 9.0), speed_mps=1.5, starts_s=1.0)
    return scene


def on_pavement() -> Scene:
    scene = Scene(plain_road(limit_mps=11.2))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=11.0)
    scene.standing(
        "standing", way, at_m=scene.ahead_m(50.0), left_m=-KERB_M - 0.8, kind="pedestrian", size=PERSON, turned_rad=1.5
    )
    line = way.points[(way.arc_m > scene.ahead_m(60.0)) & (way.arc_m < scene.ahead_m(110.0))]
    aside = across(way, scene.ahead_m(60.0), 0.0, -KERB_M - 1.2)
    scene.walker("walking", line + (aside[-1] - aside[0]), speed_mps=1.3, starts_s=-1.5)
    return scene


def cyclist_ahead() -> Scene:
    scene = Scene(plain_road(centre_marking="dashed_yellow", length_m=800.0), drive_s=20.0)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=10.0)
    line = way.points[way.arc_m > scene.ahead_m(30.0)]
    aside = across(way, FRONT_M, 0.0, -0.6)
    scene.walker("cyclist", line + (aside[-1] - aside[0]), speed_mps=4.5, starts_s=-1.8, kind="bicycle")
    return scene


def cyclist_crosses() -> Scene:
    scene = Scene(plain_road(limit_mps=11.2))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=10.0)
    scene.walker("cyclist", across(way, scene.ahead_m(60.0), -16.0, 25.0), speed_mps=4.5, starts_s=2.0, kind="bicycle")
    return scene


def parked_car(*, intrusion_m: float, oncoming: int = 0, drive_s: float = 18.0) -> Scene:
    """A car parked half in the lane of a two-way road; oncoming cars pass it from 3 s on, 2.5 s apart."""
    scene = Scene(plain_road(centre_marking="dashed_yellow", length_m=800.0), drive_s=drive_s)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=10.0)
    at_m = scene.ahead_m(70.0)
    scene.standing("parked", way, at_m=at_m, left_m=-(1.75 - intrusion_m + CAR[2] / 2))
    there = scene.lane(oncoming=True)
    for k in range(oncoming):
        scene.car(f"oncoming{k}", there, rear_m=scene.oncoming_rear_m(at_m), at_s=3.0 + 2.5 * k, speed_mps=10.0)
    return scene


def blocked_lane(*, cars: int, cones: bool = False, drive_s: float = 15.0) -> Scene:
    """The right one of two lanes is blocked 70 m ahead; so many cars pass in the left one, too close to go between."""
    scene = Scene(plain_road(forward=2, length_m=900.0), drive_s=drive_s)
    left, own = scene.lane(0), scene.lane(1)
    scene.ego(own, front_m=300.0, speed_mps=10.0)
    if cones:
        for k in range(9):
            at_m, left_m = scene.ahead_m(60.0 + 2.0 * k), min(1.5, -1.6 + 0.45 * k)
            scene.standing("cone", own, at_m=at_m, left_m=left_m, kind=OBJECT_KINDS[3], size=CONE)
        scene.standing("barrier", own, at_m=scene.ahead_m(78.0), kind="barrier", size=(2.6, 0.5, 1.0), turned_rad=1.571)
    else:
        scene.standing("blocker", own, at_m=scene.ahead_m(70.0 + TRUCK[1] / 2), size=TRUCK[1:])
    for k in range(cars):
        scene.car(f"stream{k}", left, rear_m=scene.ahead_m(25.0 - 12.0 * k), speed_mps=10.0)
    return scene


def slow_ahead_two_lanes(*, fast_follower: bool) -> Scene:
    scene = Scene(plain_road(forward=2, length_m=800.0, limit_mps=15.6), drive_s=18.0)
    left, own = scene.lane(0), scene.lane(1)
    scene.ego(own, front_m=200.0, speed_mps=11.0)
    scene.car("slow", own, rear_m=scene.ahead_m(40.0), speed_mps=4.0, size=TRUCK)
    if fast_follower:
        scene.car("fast", left, rear_m=scene.ahead_m(-35.0), speed_mps=18.0)
    return scene


def oncoming_while_overtaking() -> Scene:
    scene = Scene(plain_road(centre_marking="dashed_yellow", length_m=1000.0), drive_s=28.0)
    way, there = scene.lane(), scene.lane(oncoming=True)
    scene.ego(way, front_m=FRONT_M, speed_mps=9.0)
    scene.car("slow", way, rear_m=scene.ahead_m(25.0), speed_mps=3.0)
    for k, at_s in enumerate((5.0, 8.0)):
        where_m = scene.ahead_m(25.0 + 3.0 * at_s)
        scene.car(f"oncoming{k}", there, rear_m=scene.oncoming_rear_m(where_m), at_s=at_s, speed_mps=12.0)
    return scene


MANOEUVRES = {
    "pedestrian_on_crosswalk": Manoeuvre(
        sentence="Someone crosses on a crosswalk 55 m ahead, in good time to stop.",
        scenario_type="waiting_for_pedestrian_to_cross",
        build=partial(crosswalk, waits=False),
    ),
    "pedestrian_waits": Manoeuvre(
        sentence="Someone stands 1.2 m beside the crosswalk's kerb and lets the ego pass.",
        scenario_type="near_pedestrian_on_crosswalk",
        build=partial(crosswalk, waits=True),
    ),
    "pedestrian_no_crosswalk": Manoeuvre(
        sentence="Someone walks slowly across the open road, 55 m ahead.",
        scenario_type="behind_pedestrian_on_driveable",
        build=jaywalker,
    ),
    "pedestrian_from_behind_van": Manoeuvre(
        sentence="Someone steps out from behind a parked van, two seconds before the ego is there.",
        scenario_type="behind_pedestrian_on_driveable",
        build=from_behind_van,
    ),
    "pedestrian_on_pavement": Manoeuvre(
        sentence="One stands, one walks along on the pavement: nothing to stop for.",
        scenario_type="near_multiple_pedestrians",
        build=on_pavement,
    ),
    "cyclist_in_lane": Manoeuvre(
        sentence="A cyclist at 4.5 m/s on the right of the lane; the oncoming lane is free, the line dashed.",
        scenario_type="behind_bike",
        build=cyclist_ahead,
    ),
    "cyclist_crosses": Manoeuvre(
        sentence="A cyclist rides across the road, 60 m ahead, and would meet the ego.",
        scenario_type="crossed_by_bike",
        build=cyclist_crosses,
    ),
    "parked_car_room_in_lane": Manoeuvre(
        sentence="A parked car reaches 0.6 m into the lane: a metre to the left is enough, and stays in the lane.",
        scenario_type="traversing_narrow_lane",
        build=partial(parked_car, intrusion_m=0.6),
    ),
    "parked_car_free_oncoming": Manoeuvre(
        sentence="A car stands 1.9 m in the only lane, the oncoming lane is free, the line dashed.",
        scenario_type="traversing_narrow_lane",
        build=partial(parked_car, intrusion_m=1.9),
    ),
    "parked_car_oncoming": Manoeuvre(
        sentence="The same with three oncoming cars: wait for them, then go round.",
        scenario_type="traversing_narrow_lane",
        build=partial(parked_car, intrusion_m=1.9, oncoming=3, drive_s=25.0),
    ),
    "blocked_lane_free_neighbour": Manoeuvre(
        sentence="A truck stands in the right lane, the left one is free.",
        scenario_type="changing_lane_to_left",
        build=partial(blocked_lane, cars=0),
    ),
    "blocked_lane_no_gap": Manoeuvre(
        sentence="A truck stands in the right lane, and the left one is full for as long as it lasts: wait.",
        scenario_type="stopping_with_lead",
        build=partial(blocked_lane, cars=22, drive_s=18.0),
    ),
    "blocked_lane_gap_later": Manoeuvre(
        sentence="A truck stands in the right lane; in the left one a stream passes, and then there is room.",
        scenario_type="changing_lane_to_left",
        build=partial(blocked_lane, cars=8, drive_s=25.0),
    ),
    "construction_closes_lane": Manoeuvre(
        sentence="Cones and a barrier close the right lane, the left one is free.",
        scenario_type="near_construction_zone_sign",
        build=partial(blocked_lane, cars=0, cones=True),
    ),
    "slow_vehicle_two_lanes": Manoeuvre(
        sentence="A truck at 4 m/s ahead, the left lane free.",
        scenario_type="behind_long_vehicle",
        build=partial(slow_ahead_two_lanes, fast_follower=False),
    ),
    "overtaking_fast_follower": Manoeuvre(
        sentence="A truck at 4 m/s ahead, and a car at 18 m/s, 25 m behind, comes up in the left lane: let it pass first.",
        scenario_type="near_high_speed_vehicle",
        build=partial(slow_ahead_two_lanes, fast_follower=True),
    ),
    "oncoming_while_overtaking": Manoeuvre(
        sentence="A car at 3 m/s ahead on a two-way road; two oncoming cars pass before there is room to overtake.",
        scenario_type="crossed_by_vehicle",
        build=oncoming_while_overtaking,
    ),
}
