"""Named manoeuvres at junctions: the lane that the route needs, and who has the way."""

from __future__ import annotations

from functools import partial

import numpy as np

from nsdrive.scenarios.manoeuvres.scene import CAR, Manoeuvre, Scene
from nsdrive.scenarios.synthetic.layouts import plain_crossing
from nsdrive.scenarios.synthetic.stage import Way


def route_lane_change(*, turn: str, busy: bool = False) -> Scene:
    """The ego is in the lane beside the one that turns, 160 m before the line; the light stays green for the turn."""
    scene = Scene(plain_crossing(lanes=2, phasing="protected"), drive_s=25.0 if busy else 22.0)
    wanted, own = (0, 1) if turn == "left" else (1, 0)
    route = scene.through(turn, lane=wanted)
    scene.light(route, green_at_s=-2.0)
    front_m = route.line_m - 160.0
    scene.ego(scene.lane(own, oncoming=True, road="south"), front_m=front_m, speed_mps=10.0, route=route)
    if busy:
        straight = scene.lane(wanted, oncoming=True, road="south")
        for k, gap_m in enumerate((14.0, -4.0, -22.0, -52.0)):
            scene.car(f"beside{k}", straight if k < 3 else route, rear_m=front_m + gap_m, speed_mps=10.0)
    _note_exit(scene, route)
    return scene


def unprotected_left(*, passes_s: tuple[float, ...], drive_s: float) -> Scene:
    """Green for both directions; oncoming cars go straight on and clear the junction at these times."""
    scene = Scene(plain_crossing(phasing="permissive"), drive_s=drive_s)
    way, there = scene.through("left"), scene.through("straight", arm="north")
    scene.light(way, green_at_s=-3.0)
    scene.ego(way, front_m=way.line_m - 45.0, speed_mps=9.0)
    for k, at_s in enumerate(passes_s):
        scene.car(f"oncoming{k}", there, rear_m=there.after_m, at_s=at_s, speed_mps=11.0)
    _note_exit(scene, way)
    return scene


def turns_in_front() -> Scene:
    """An oncoming car turns left across the ego's way, as it must not."""
    scene = Scene(plain_crossing(phasing="permissive"))
    way, there = scene.through("straight"), scene.through("left", arm="north")
    scene.light(way, green_at_s=-3.0)
    scene.ego(way, front_m=way.line_m - 48.0, speed_mps=11.0)
    scene.car("turner", there, rear_m=there.line_m, at_s=3.0, speed_mps=7.0)
    return scene


def runs_red() -> Scene:
    scene = Scene(plain_crossing())
    way, there = scene.through("straight"), scene.through("straight", arm="east")
    scene.light(way, green_at_s=-3.0)
    scene.ego(way, front_m=way.line_m - 50.0, speed_mps=11.0)
    scene.car("runner", there, rear_m=_middle(there), at_s=5.9, speed_mps=10.0)
    return scene


def right_turn_pedestrian() -> Scene:
    scene = Scene(plain_crossing(), drive_s=18.0)
    way = scene.through("right")
    scene.light(way, green_at_s=-3.0)
    scene.ego(way, front_m=way.line_m - 35.0, speed_mps=8.0)
    near_a, far_a, far_b, near_b = scene.stage.network.lane_map.crosswalks["x-walk-east"].polygon
    start, end = 0.5 * (near_a + far_a), 0.5 * (near_b + far_b)
    ahead = (end - start) / np.hypot(*(end - start))
    length = float(np.hypot(*(end - start))) + 6.0
    path = start - 1.5 * ahead + np.linspace(0.0, length, 16)[:, None] * ahead
    scene.walker("person", path, speed_mps=1.3, starts_s=3.5)
    _note_exit(scene, way)
    return scene


def unsignalised(*, arm: str, gives_way: bool) -> Scene:
    """Two equal roads without sign or light. From the right it has the way; from the left it waits for the ego."""
    scene = Scene(plain_crossing(kind="default", crosswalks=False, limit_mps=11.2), drive_s=14.0)
    way, there = scene.through("straight"), scene.through("straight", arm=arm)
    scene.ego(way, front_m=way.line_m - 50.0, speed_mps=9.0)
    if gives_way:
        # 9 m/s, then to a stop 1 m before the line; it sets off again at 10 s
        slows = ((2.0, 9.0), (6.0, 0.0), (10.0, 0.0), (15.0, 9.0))
        scene.car("other", there, rear_m=there.line_m - 1.0 - CAR[1] - 18.0, at_s=2.0, speed_mps=9.0, speeds=slows)
    else:
        scene.car("other", there, rear_m=_middle(there), at_s=7.3, speed_mps=9.0)
    return scene


def two_way_stop() -> Scene:
    """The ego must stop, the crossing road has the way: cars from both sides while the ego waits, then nobody."""
    scene = Scene(plain_crossing(kind="stop_sign", stop_arms=("south", "north"), limit_mps=11.2), drive_s=22.0)
    way = scene.through("straight")
    scene.ego(way, front_m=way.line_m - 45.0, speed_mps=9.0)
    scene.note_line(way, way.line_m)
    for name, arm, at_s in (("left0", "west", 10.0), ("right0", "east", 11.0), ("left1", "west", 13.0)):
        there = scene.through("straight", arm=arm)
        scene.car(name, there, rear_m=_middle(there), at_s=at_s, speed_mps=10.0)
    return scene


MANOEUVRES = {
    "route_needs_left_lane": Manoeuvre(
        sentence="The route turns left from the left lane, 160 m ahead; the ego is in the right one.",
        scenario_type="changing_lane_to_left",
        build=partial(route_lane_change, turn="left"),
    ),
    "route_needs_right_lane": Manoeuvre(
        sentence="The route turns right from the right lane, 160 m ahead; the ego is in the left one.",
        scenario_type="changing_lane_to_right",
        build=partial(route_lane_change, turn="right"),
    ),
    "route_needs_left_lane_busy": Manoeuvre(
        sentence="The same to the left, with cars beside: there is one gap, behind the third.",
        scenario_type="changing_lane_to_left",
        build=partial(route_lane_change, turn="left", busy=True),
    ),
    "unprotected_left_free": Manoeuvre(
        sentence="A left turn on a green that oncoming traffic shares; nobody comes.",
        scenario_type="starting_unprotected_cross_turn",
        build=partial(unprotected_left, passes_s=(), drive_s=14.0),
    ),
    "unprotected_left_oncoming": Manoeuvre(
        sentence="The same, and an oncoming car would meet the ego in the junction.",
        scenario_type="starting_unprotected_cross_turn",
        build=partial(unprotected_left, passes_s=(8.0,), drive_s=18.0),
    ),
    "unprotected_left_gap_later": Manoeuvre(
        sentence="The same with four oncoming cars 2.5 s apart, then a gap.",
        scenario_type="starting_unprotected_cross_turn",
        build=partial(unprotected_left, passes_s=(5.0, 7.5, 10.0, 12.5), drive_s=22.0),
    ),
    "oncoming_turns_in_front": Manoeuvre(
        sentence="The ego goes straight on at green; an oncoming car turns left across its way.",
        scenario_type="crossed_by_vehicle",
        build=turns_in_front,
    ),
    "crossing_car_runs_red": Manoeuvre(
        sentence="The ego has green; a car from the right runs its red light.",
        scenario_type="crossed_by_vehicle",
        build=runs_red,
    ),
    "right_turn_pedestrian": Manoeuvre(
        sentence="A right turn on green; someone walks over the crosswalk that the ego turns into.",
        scenario_type="near_pedestrian_on_crosswalk_with_ego",
        build=right_turn_pedestrian,
    ),
    "unsignalised_from_right": Manoeuvre(
        sentence="A junction without sign or light; a car from the right would meet the ego and has the way.",
        scenario_type="traversing_intersection",
        build=partial(unsignalised, arm="east", gives_way=False),
    ),
    "unsignalised_from_left_waits": Manoeuvre(
        sentence="The same with a car from the left, which stops for the ego.",
        scenario_type="traversing_intersection",
        build=partial(unsignalised, arm="west", gives_way=True),
    ),
    "two_way_stop": Manoeuvre(
        sentence="A stop sign for the ego only; three cars of the crossing road, then nobody.",
        scenario_type="stopping_at_stop_sign_with_lead",
        build=two_way_stop,
    ),
}


def _middle(way: Way) -> float:
    """Progress of a junction's middle."""
    return 0.5 * (way.line_m + way.after_m)


def _note_exit(scene: Scene, way: Way) -> None:
    """The roadblock that the ego is to reach: the first one after the junction."""
    assert way.movement
    scene.notes["exit"] = f"{way.movement.to_road}-f0"
