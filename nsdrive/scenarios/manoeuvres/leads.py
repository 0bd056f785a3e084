"""Named manoeuvres about whoever drives ahead or behind: standing, slow, braking, cutting in, pressing."""

from __future__ import annotations

from functools import partial

from nsdrive.scenarios.manoeuvres.scene import CAR, FRONT_M, TRUCK, Manoeuvre, Scene, Speeds
from nsdrive.scenarios.synthetic.families_leads import changing_lanes
from nsdrive.scenarios.synthetic.layouts import Layout, plain_road


def stopped_car(*, speed_mps: float, gap_m: float, drive_s: float = 12.0) -> Scene:
    scene = Scene(_one_way(speed_mps), drive_s=drive_s)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=speed_mps)
    scene.standing("stopped", way, at_m=scene.ahead_m(gap_m + CAR[1] / 2))
    return scene


def lead(*, speed_mps: float, lead_mps: float, gap_m: float, speeds: Speeds = (), drive_s: float = 12.0) -> Scene:
    scene = Scene(_one_way(speed_mps), drive_s=drive_s)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=speed_mps)
    scene.car("lead", way, rear_m=scene.ahead_m(gap_m), speed_mps=lead_mps, speeds=speeds)
    return scene


def cut_in(*, speed_mps: float, car_mps: float, gap_m: float, takes_s: float) -> Scene:
    scene = Scene(plain_road(forward=2, limit_mps=max(13.4, speed_mps)))
    fast, own = scene.lane(0), scene.lane(1)
    scene.ego(own, front_m=FRONT_M, speed_mps=speed_mps)
    middle_m, starts_s = scene.ahead_m(gap_m) + CAR[1] / 2, 1.0
    from_m = middle_m + car_mps * starts_s
    way = changing_lanes(fast, own, from_m, from_m + car_mps * takes_s)
    scene.car(
        "cutter",
        way,
        rear_m=scene.ahead_m(gap_m),
        speed_mps=car_mps,
        indicator=((from_m - 2.0 * car_mps, from_m + car_mps * takes_s, -1),),
    )
    return scene


def cut_out() -> Scene:
    scene = Scene(plain_road(forward=2), drive_s=15.0)
    fast, own = scene.lane(0), scene.lane(1)
    scene.ego(own, front_m=FRONT_M, speed_mps=12.0)
    way = changing_lanes(own, fast, scene.ahead_m(44.0), scene.ahead_m(74.0))
    scene.car("lead", way, rear_m=scene.ahead_m(18.0), speed_mps=12.0)
    scene.standing("stopped", own, at_m=scene.ahead_m(98.0 + CAR[1] / 2))
    for k in range(9):  # the lane beside is taken, so that braking is all there is
        scene.car(f"beside{k}", fast, rear_m=scene.ahead_m(2.0 - 13.0 * k), speed_mps=10.5)
    return scene


def stop_and_go() -> Scene:
    scene = Scene(_one_way(6.0), drive_s=18.0)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=6.0)
    for k, gap_m in enumerate((10.0, 24.0, 38.0)):  # a wave runs back through the queue
        t = 1.5 * (2 - k)
        waves = ((t + 1.0, 6.0), (t + 4.0, 0.0), (t + 6.0, 0.0), (t + 9.0, 5.0), (t + 11.0, 5.0), (t + 13.0, 1.0))
        scene.car(f"queue{k}", way, rear_m=scene.ahead_m(gap_m), speed_mps=6.0, speeds=waves)
    return scene


def tailgated() -> Scene:
    scene = Scene(_one_way(13.4))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=13.4)
    scene.car("follower", way, rear_m=scene.ahead_m(-5.2 - 5.0 - CAR[1]), speed_mps=13.4)
    return scene


def slow_truck(*, backward: int, centre_marking: str = "double_yellow", drive_s: float = 13.0) -> Scene:
    """A truck at walking pace; oncoming cars where there is an oncoming lane."""
    scene = Scene(plain_road(backward=backward, length_m=800.0, centre_marking=centre_marking), drive_s=drive_s)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=10.0)
    scene.car("slow", way, rear_m=scene.ahead_m(35.0), speed_mps=4.0, size=TRUCK)
    return scene


MANOEUVRES = {
    "stopped_car_at_5": Manoeuvre(
        sentence="A car stands in the only lane; the ego comes at 5 m/s from 25 m.",
        scenario_type="stopping_with_lead",
        build=partial(stopped_car, speed_mps=5.0, gap_m=25.0),
    ),
    "stopped_car_at_10": Manoeuvre(
        sentence="A car stands in the only lane; the ego comes at 10 m/s from 60 m.",
        scenario_type="stopping_with_lead",
        build=partial(stopped_car, speed_mps=10.0, gap_m=60.0),
    ),
    "stopped_car_at_20": Manoeuvre(
        sentence="A car stands in the only lane; the ego comes at 20 m/s from 150 m.",
        scenario_type="stopping_with_lead",
        build=partial(stopped_car, speed_mps=20.0, gap_m=150.0, drive_s=16.0),
    ),
    "slower_lead_at_10": Manoeuvre(
        sentence="The ego at 10 m/s closes up to a lead at 5 m/s, 40 m ahead in the only lane.",
        scenario_type="following_lane_with_slow_lead",
        build=partial(lead, speed_mps=10.0, lead_mps=5.0, gap_m=40.0),
    ),
    "slower_lead_at_20": Manoeuvre(
        sentence="The ego at 20 m/s closes up to a lead at 10 m/s, 90 m ahead in the only lane.",
        scenario_type="following_lane_with_slow_lead",
        build=partial(lead, speed_mps=20.0, lead_mps=10.0, gap_m=90.0, drive_s=16.0),
    ),
    "lead_brakes_hard": Manoeuvre(
        sentence="Both at 12 m/s and 20 m apart; the lead brakes to a stop at 4 m/s2.",
        scenario_type="stopping_with_lead",
        build=partial(lead, speed_mps=12.0, lead_mps=12.0, gap_m=20.0, speeds=((2.0, 12.0), (5.0, 0.0))),
    ),
    "lead_brakes_then_goes": Manoeuvre(
        sentence="The lead brakes from 12 to 2 m/s, thinks better of it and drives on.",
        scenario_type="following_lane_with_lead",
        build=partial(
            lead,
            speed_mps=12.0,
            lead_mps=12.0,
            gap_m=22.0,
            speeds=((1.0, 12.0), (5.0, 2.0), (6.0, 2.0), (11.0, 12.0)),
            drive_s=18.0,
        ),
    ),
    "stop_and_go": Manoeuvre(
        sentence="A queue of three stops, goes and slows again.",
        scenario_type="stationary_in_traffic",
        build=stop_and_go,
    ),
    "cut_in_close": Manoeuvre(
        sentence="A car 5 m ahead in the left lane, 1 m/s slower than the ego's 12 m/s, moves over.",
        scenario_type="near_multiple_vehicles",
        build=partial(cut_in, speed_mps=12.0, car_mps=11.0, gap_m=5.0, takes_s=2.5),
    ),
    "cut_in_at_speed": Manoeuvre(
        sentence="The ego at 18 m/s; a car at 14 m/s moves over from the left, 20 m ahead.",
        scenario_type="near_high_speed_vehicle",
        build=partial(cut_in, speed_mps=18.0, car_mps=14.0, gap_m=20.0, takes_s=3.0),
    ),
    "cut_out_reveals_stopped_car": Manoeuvre(
        sentence="The lead swerves left at the last moment: a car stands there, and the left lane is taken.",
        scenario_type="stopping_with_lead",
        build=cut_out,
    ),
    "tailgated": Manoeuvre(
        sentence="A car follows 5 m behind at the speed limit: no reason to speed up or to brake.",
        scenario_type="following_lane_without_lead",
        build=tailgated,
    ),
    "slow_vehicle_one_lane": Manoeuvre(
        sentence="A truck at 4 m/s in the only lane of a one-way road: the ego has to follow.",
        scenario_type="behind_long_vehicle",
        build=partial(slow_truck, backward=0, centre_marking="solid_yellow"),
    ),
    "slow_vehicle_no_passing": Manoeuvre(
        sentence="A truck at 4 m/s, an empty oncoming lane and a double line between: the ego has to follow.",
        scenario_type="behind_long_vehicle",
        build=partial(slow_truck, backward=1),
    ),
    "slow_vehicle_two_way": Manoeuvre(
        sentence="A truck at 4 m/s, an empty oncoming lane and a dashed line: the ego may overtake.",
        scenario_type="behind_long_vehicle",
        build=partial(slow_truck, backward=1, centre_marking="dashed_yellow", drive_s=20.0),
    ),
}


def _one_way(speed_mps: float) -> Layout:
    """The only lane of a one-way road: nobody can go round anybody."""
    limit = 13.4 if speed_mps < 14.0 else 22.0
    return plain_road(backward=0, limit_mps=limit, centre_marking="solid_yellow", length_m=800.0)
