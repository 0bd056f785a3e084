"""Named manoeuvres about the ego's own speed and place, and about lights and stop signs with nobody in the way."""

from __future__ import annotations

from functools import partial

from nsdrive.scenarios.manoeuvres.scene import CAR, FRONT_M, Manoeuvre, Scene
from nsdrive.scenarios.synthetic.layouts import bend_knots, plain_crossing, plain_road


def open_road(*, speed_mps: float, limit_mps: float, left_m: float = 0.0, turned_rad: float = 0.0) -> Scene:
    scene = Scene(plain_road(forward=2, limit_mps=limit_mps))
    scene.ego(scene.lane(1), front_m=FRONT_M, speed_mps=speed_mps, left_m=left_m, turned_rad=turned_rad)
    return scene


def limit_drop() -> Scene:
    scene = Scene(plain_road(limit_mps=15.6, later_limits_mps=((260.0, 8.9),)))
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=15.6)
    lanes = scene.stage.network.lane_map.lanes
    first = next(k for k, lane in enumerate(way.lane_ids) if lanes[lane].speed_limit_mps == 8.9)
    scene.note_line(way, float(way.starts_m[first]))
    return scene


def bend() -> Scene:
    scene = Scene(plain_road(curvature=bend_knots(230.0, 25.0, 1.4, 600.0)))
    scene.ego(scene.lane(), front_m=FRONT_M, speed_mps=13.0)
    return scene


def end_of_route() -> Scene:
    scene = Scene(plain_road(length_m=250.0), drive_s=16.0)
    way = scene.lane()
    scene.ego(way, front_m=FRONT_M, speed_mps=12.0)
    scene.note_line(way, float(way.arc_m[-1]))
    return scene


def light(
    *,
    speed_mps: float,
    distance_m: float,
    green_at_s: float | None = None,
    yellow_at_s: float | None = None,
    limit_mps: float = 13.4,
    queue: int = 0,
    drive_s: float = 12.0,
) -> Scene:
    """A straight way over a junction. Queued cars set off one after the other when it turns green."""
    scene = Scene(plain_crossing(limit_mps=limit_mps), drive_s=drive_s)
    way = scene.through("straight")
    scene.light(way, green_at_s=green_at_s, yellow_at_s=yellow_at_s)
    rear_m = way.line_m
    for k in range(queue):
        rear_m -= CAR[1] + (1.2 if k == 0 else 2.4)
        off_s = 100.0 if green_at_s is None else green_at_s + 1.0 + 1.3 * k
        scene.car(f"queue{k}", way, rear_m=rear_m, speed_mps=0.0, speeds=((off_s, 0.0), (off_s + 7.0, 12.0)))
    scene.ego(way, front_m=rear_m - distance_m, speed_mps=speed_mps)
    return scene


def stop_sign() -> Scene:
    scene = Scene(plain_crossing(kind="stop_sign", limit_mps=11.2), drive_s=18.0)
    way = scene.through("straight")
    scene.ego(way, front_m=way.line_m - 50.0, speed_mps=10.0)
    scene.note_line(way, way.line_m)
    return scene


MANOEUVRES = {
    "start_from_standstill": Manoeuvre(
        sentence="A free road, the ego stands.",
        scenario_type="following_lane_without_lead",
        build=partial(open_road, speed_mps=0.0, limit_mps=11.2),
    ),
    "starts_too_fast": Manoeuvre(
        sentence="The ego comes at 17 m/s where 11.2 m/s are allowed.",
        scenario_type="high_magnitude_speed",
        build=partial(open_road, speed_mps=17.0, limit_mps=11.2),
    ),
    "starts_beside_lane": Manoeuvre(
        sentence="The ego is 1 m left of its lane's middle and heads further away by 2 degrees.",
        scenario_type="following_lane_without_lead",
        build=partial(open_road, speed_mps=10.0, limit_mps=11.2, left_m=1.0, turned_rad=0.035),
    ),
    "speed_limit_drop": Manoeuvre(
        sentence="The limit falls from 15.6 to 8.9 m/s, 115 m ahead.",
        scenario_type="medium_magnitude_speed",
        build=limit_drop,
    ),
    "curve_too_fast": Manoeuvre(
        sentence="A bend of 25 m radius, 80 m ahead, that cannot be driven at the limit.",
        scenario_type="high_lateral_acceleration",
        build=bend,
    ),
    "end_of_route": Manoeuvre(
        sentence="The road and the route end 100 m ahead.",
        scenario_type="stationary",
        build=end_of_route,
    ),
    "red_light_at_10": Manoeuvre(
        sentence="Red, 50 m ahead; the ego comes at 10 m/s.",
        scenario_type="stopping_at_traffic_light_without_lead",
        build=partial(light, speed_mps=10.0, distance_m=50.0, yellow_at_s=-8.0),
    ),
    "red_light_at_17": Manoeuvre(
        sentence="Red, 120 m ahead; the ego comes at 17 m/s.",
        scenario_type="stopping_at_traffic_light_without_lead",
        build=partial(light, speed_mps=17.0, distance_m=120.0, yellow_at_s=-8.0, limit_mps=17.9, drive_s=16.0),
    ),
    "red_light_queue": Manoeuvre(
        sentence="Red, and two cars wait before the line.",
        scenario_type="stopping_at_traffic_light_with_lead",
        build=partial(light, speed_mps=10.0, distance_m=45.0, yellow_at_s=-8.0, queue=2),
    ),
    "amber_can_stop": Manoeuvre(
        sentence="The light turns amber when the ego, at 13 m/s, is 40 m before the line: 2.1 m/s2 stop it.",
        scenario_type="stopping_at_traffic_light_without_lead",
        build=partial(light, speed_mps=13.0, distance_m=53.0, yellow_at_s=1.0),
    ),
    "amber_too_late_to_stop": Manoeuvre(
        sentence="The light turns amber when the ego, at 13 m/s, is 15 m before the line: 5.6 m/s2 would stop it.",
        scenario_type="traversing_traffic_light_intersection",
        build=partial(light, speed_mps=13.0, distance_m=28.0, yellow_at_s=1.0),
    ),
    "red_turns_green": Manoeuvre(
        sentence="The light turns green when the ego is still rolling towards it.",
        scenario_type="accelerating_at_traffic_light_without_lead",
        build=partial(light, speed_mps=10.0, distance_m=60.0, green_at_s=3.5),
    ),
    "green_with_queue": Manoeuvre(
        sentence="The light turns green and three cars set off, one after the other.",
        scenario_type="accelerating_at_traffic_light_with_lead",
        build=partial(light, speed_mps=10.0, distance_m=45.0, green_at_s=1.0, queue=3, drive_s=17.0),
    ),
    "stop_sign_alone": Manoeuvre(
        sentence="A stop sign, and nobody else at the junction.",
        scenario_type="stopping_at_stop_sign_without_lead",
        build=stop_sign,
    ),
}
