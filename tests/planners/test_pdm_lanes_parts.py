"""The pure functions behind pdm_lanes: lanes, paths, gaps, who goes first."""

import math

import numpy as np
import pytest
from builders import curved_map, ego_state, straight_map, tracked

from nsdrive.scenarios.synthetic.layouts import plain_crossing, plain_road
from nsdrive.world.geometry import Path
from nsdrive.world.types import Mission, ObjectFrame
from planners.lanes.candidates import Course, Start, easing_m, lay
from planners.lanes.config import PdmLanesConfig
from planners.lanes.conflicts import claims, gives_way, zones_of
from planners.lanes.frenet import entries, place
from planners.lanes.mobil import LONG_M, Beside, beside, follow, route_need, weigh
from planners.lanes.oncoming import oncoming_gap, seen_m
from planners.lanes.passing import ways_round
from planners.lanes.topology import Chains, route_lanes, usable_route

C = PdmLanesConfig()
ROAD = straight_map(300.0, n_lanes=2, n_pieces=3)
ROUTE = ("block-0", "block-1", "block-2")


def chains_on(lane_map, route):
    return Chains(Mission(lane_map=lane_map, route_roadblock_ids=route), route, C)


def frame(*objects):
    return ObjectFrame.of(list(objects))


# ---- lanes ----------------------------------------------------------------------------------------------------------


def test_a_lane_that_does_not_lead_on_needs_a_change_and_says_how_far_there_is_room():
    crossing = plain_crossing(lanes=2, phasing="protected").network.lane_map
    route = tuple(b for b in {lane.roadblock_id: 0 for lane in crossing.lanes.values()} if b.startswith("south-b"))
    route = (*route, "x-south-east", "east-f0")
    judged = route_lanes(crossing, route)
    first = next(b for b in route if b.endswith("b0"))
    right, left = judged[f"{first}-1"], judged[f"{first}-0"]
    assert right.changes == 0.0
    assert math.isinf(right.room_m)
    assert left.changes == 1.0
    assert left.room_m > 100.0


def test_a_chain_goes_on_across_lanes_and_its_neighbour_does_so_beside_it():
    chains = chains_on(ROAD, ROUTE)
    chain = chains.through("0-0")
    assert chain.lane_ids == ("0-0", "1-0", "2-0")
    assert chain.end_m == pytest.approx(300.0)
    assert chain.reaches_goal
    beside_it = chains.beside(chain, 150.0, "left")
    assert beside_it.lane_at(150.0) == "1-1"
    assert chains.beside(chain, 150.0, "right") is None
    assert chain.edges_m(10.0, 290.0) == pytest.approx((1.75, 1.75), abs=0.01)


def test_one_chain_serves_all_of_its_lanes():
    chains = chains_on(ROAD, ROUTE)
    whole = chains.through("0-0")
    assert chains.through("2-0") is whole


def test_the_oncoming_lane_is_beside_the_leftmost_lane_and_nowhere_else():
    two_way = plain_road(forward=2, backward=1).network.lane_map
    route = usable_route(
        Mission(lane_map=two_way, route_roadblock_ids=()), [*two_way.lanes["main-f0-0"].centerline[0].tolist(), 0.2]
    )
    chains = Chains(Mission(lane_map=two_way, route_roadblock_ids=route), route, C)
    left, right = chains.through("main-f0-0"), chains.through("main-f0-1")
    assert two_way.lanes[chains.opposite(left, 60.0)].roadblock_id.startswith("main-b")
    assert chains.opposite(right, 60.0) is None


def test_a_route_that_the_map_does_not_know_is_the_road_ahead():
    mission = Mission(lane_map=ROAD, route_roadblock_ids=("nowhere",))
    assert usable_route(mission, np.array([10.0, 0.0, 0.0])) == ROUTE


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius_m", [30.0, -30.0, 1e4])
def test_a_path_starts_with_the_egos_place_and_heading_and_settles_where_it_should(radius_m):
    lane_map = curved_map(radius_m, angle_rad=0.8) if abs(radius_m) < 1e3 else straight_map(200.0)
    chain = chains_on(lane_map, ("block-0", "block-1")).through("0-0")
    ego = ego_state(x_m=20.0, y_m=0.6, heading_rad=0.1)
    start = Start.of(chain, Course.of(ego, None))
    path = lay(chain, start, [(start.progress_m + 25.0, -1.0)], 60.0, kind="keep", offset_m=-1.0)
    assert path.points[0] == pytest.approx([20.0, 0.6], abs=1e-6)
    assert path.headings_rad[0] == pytest.approx(0.1, abs=1e-3)
    settled = chain.path.project(*path.points[-1])[1]
    assert settled == pytest.approx(-1.0, abs=0.05)
    steps = np.diff(path.points, axis=0)
    assert np.abs(np.arctan2(*steps[:, ::-1].T) - path.headings_rad[:-1]).max() < 0.1


def test_a_lane_change_takes_as_long_as_comfort_asks_for():
    for speed in (5.0, 10.0, 20.0):
        length = easing_m(3.5, speed, 0.9)
        chain = chains_on(ROAD, ROUTE).through("0-1")
        start = Start.of(chain, Course.of(ego_state(x_m=20.0, speed_mps=speed), None))
        path = lay(chain, start, [(20.0 + length, 0.0)], 2.0 * length, kind="change_left", offset_m=0.0)
        assert np.abs(path.curvature_1pm).max() * speed**2 == pytest.approx(0.9, rel=0.15)


def test_a_path_that_was_begun_is_gone_on_with_and_one_that_was_left_is_not():
    chain = chains_on(ROAD, ROUTE).through("0-0")
    start = Start.of(chain, Course.of(ego_state(x_m=20.0, y_m=1.0), None))
    path = lay(chain, start, [(40.0, 0.0)], 60.0, kind="keep", offset_m=0.0)
    beside_it = Course.of(ego_state(x_m=30.0, y_m=0.7, heading_rad=-0.05), path)
    assert beside_it.y_m == pytest.approx(0.5, abs=0.05)  # half way, on the path
    off_it = Course.of(ego_state(x_m=30.0, y_m=3.0), path)
    assert off_it.y_m == 3.0


def test_objects_meet_a_path_when_they_are_on_it():
    path = Path.of(np.array([[0.0, 0.0], [200.0, 0.0]]))
    ahead, crossing, beside_it = (
        tracked("a", 50.0, speed_mps=5.0),
        tracked("c", 80.0, -10.0, heading_rad=np.pi / 2, speed_mps=5.0),
        tracked("b", 60.0, 4.0),
    )
    objects = frame(ahead, crossing, beside_it)
    met = entries(
        path.points,
        path.progress_m,
        objects.boxes,
        objects.velocities_mps,
        objects.accels_mps2,
        1.25,
        samples=21,
        interval_s=0.2,
    )
    assert met[0, 0, 0] == pytest.approx(50.0 - 2.35)
    assert met[0, 10, 0] == pytest.approx(60.0 - 2.35)
    assert math.isinf(met[0, 0, 1])
    assert math.isfinite(met[0, 10, 1])
    assert np.isinf(met[0, :, 2]).all()


# ---- lane changes ---------------------------------------------------------------------------------------------------


def free(**changes):
    return Beside(**changes)


def test_a_slow_lead_makes_a_free_lane_worth_a_change_and_a_faster_one_does_not():
    slow = weigh("change_left", "l", free(lead="a", lead_gap_m=20.0, lead_speed_mps=4.0), free(), 9.0, 13.0, C, C)
    fast = weigh("change_left", "l", free(lead="a", lead_gap_m=80.0, lead_speed_mps=14.0), free(), 9.0, 13.0, C, C)
    assert slow.wanted
    assert slow.safe
    assert slow.reason == "speed"
    assert not fast.wanted


def test_a_follower_who_would_have_to_brake_hard_makes_a_change_unsafe_and_is_named():
    here = free(lead="a", lead_gap_m=20.0, lead_speed_mps=4.0)
    near = free(follower="b", follower_gap_m=8.0, follower_speed_mps=14.0)
    change = weigh("change_left", "l", here, near, 9.0, 13.0, C, C)
    assert not change.safe
    assert change.blocker == "b"
    assert change.follower_accel_mps2 < change.safe_accel_mps2
    far = free(follower="b", follower_gap_m=60.0, follower_speed_mps=14.0)
    assert weigh("change_left", "l", here, far, 9.0, 13.0, C, C).safe


def test_politeness_weighs_what_a_change_costs_the_follower():
    here = free(lead="a", lead_gap_m=25.0, lead_speed_mps=6.0)
    with_follower = free(follower="b", follower_gap_m=18.0, follower_speed_mps=11.0)
    alone = weigh("change_left", "l", here, free(), 9.0, 13.0, C, C).incentive_mps2
    beside_it = weigh("change_left", "l", here, with_follower, 9.0, 13.0, C, C).incentive_mps2
    assert beside_it < alone


def test_someone_alongside_blocks_a_change():
    chain = chains_on(ROAD, ROUTE).through("0-1")
    placed = place(chain.path, frame(tracked("car", 51.0, 3.5, speed_mps=9.0), tracked("far", 120.0, 3.5)))
    there = beside(placed, 50.0, 1.75, 1.75, C)
    assert there.alongside == "car"
    assert there.lead == "far"
    assert weigh("change_left", "l", free(), there, 9.0, 13.0, C, C).blocker == "car"


def test_the_route_needs_its_lane_the_more_the_less_room_is_left():
    needs = [route_need(1.0, room, 10.0, C) for room in (1000.0, 200.0, 100.0, 20.0)]
    assert needs == sorted(needs)
    assert needs[0] < 0.2
    assert needs[-1] == C.route_gain_mps2
    assert route_need(0.0, 5.0, 10.0, C) == 0.0


def test_follow_is_the_intelligent_driver_model():
    assert follow(0.0, LONG_M, 0.0, 13.0, C) == C.accel_max_mps2
    assert follow(10.0, 0.0, 0.0, 13.0, C) == -math.inf


# ---- ways round and oncoming traffic --------------------------------------------------------------------------------


def around(*objects, stood_s=(), progress_m=20.0, lines_m=(), left="oncoming", may_overtake=True):
    chain = chains_on(straight_map(300.0), ("block-0", "block-1")).through("0-0")
    return ways_round(
        chain,
        place(chain.path, frame(*objects)),
        progress_m=progress_m,
        speed_mps=8.0,
        limit_mps=13.0,
        stood_s=dict(stood_s),
        lines_m=lines_m,
        left=left,
        right=None,
        may_overtake=may_overtake,
        parameters=C,
    )


def test_a_parked_car_is_gone_round_on_the_left_just_as_far_as_it_needs():
    (way,) = around(tracked("parked", 60.0, -1.6))
    assert way.kind == "pass_left"
    assert way.over == "oncoming"
    assert way.ready
    right_side = way.offset_m - 0.5 * 2.297
    assert right_side >= -1.6 + 0.95 + C.pass_least_m - 1e-9


def test_what_leaves_room_in_the_lane_is_passed_within_it():
    (way,) = around(tracked("cone", 60.0, -1.2, kind="traffic_cone", length_m=0.4, width_m=0.4))
    assert way.kind == "keep"
    assert way.over == "own"


def test_a_car_in_the_lane_is_waited_for_at_first_and_a_queue_for_ever():
    assert not around(tracked("car", 60.0))[0].ready
    assert around(tracked("car", 60.0), stood_s=[("car", 5.0)])[0].ready
    assert around(tracked("car", 60.0), stood_s=[("car", 5.0)], lines_m=(65.0,)) == ()
    two = around(tracked("a", 60.0), tracked("b", 67.0), stood_s=[("a", 5.0), ("b", 5.0)], lines_m=(72.0,))
    assert two == ()


def test_moving_traffic_is_followed_and_only_the_slow_overtaken_where_the_marking_allows():
    assert around(tracked("car", 60.0, speed_mps=9.0)) == ()
    assert around(tracked("slow", 60.0, speed_mps=3.0))[0].over == "oncoming"
    assert around(tracked("slow", 60.0, speed_mps=3.0), may_overtake=False) == ()


def gap_for(*objects, needs_s=6.0, view_m=200.0, **entry):
    chain = chains_on(straight_map(400.0), ("block-0", "block-1")).through("0-0")
    placed = place(chain.path, frame(*objects))
    return oncoming_gap(
        placed,
        progress_m=20.0,
        back_m=80.0,
        offset_m=2.0,
        needs_s=needs_s,
        exposed_s=needs_s,
        view_m=view_m,
        limit_mps=13.0,
        parameters=C,
        **entry,
    )


def test_who_has_passed_the_ego_before_it_is_over_the_line_does_not_conflict():
    coming = tracked("x", 60.0, 3.5, heading_rad=np.pi, speed_mps=10.0)
    assert not gap_for(coming).free
    assert gap_for(coming, enters_s=3.0, enters_m=35.0).free  # its tail is then at 32 m
    assert not gap_for(coming, enters_s=2.0, enters_m=35.0).free


def test_the_gap_before_an_oncoming_car_has_to_be_longer_than_the_way_round():
    coming = [tracked("x", x, 3.5, heading_rad=np.pi, speed_mps=10.0) for x in (120.0, 250.0)]
    near, far = gap_for(coming[0]), gap_for(coming[1])
    assert not near.free
    assert near.about == "x"
    assert near.arrives_s == pytest.approx((120.0 - 2.35 - 84.05) / 10.0, abs=0.05)
    assert far.free
    assert gap_for().free
    assert not gap_for(view_m=60.0).free


def test_someone_oncoming_who_leaves_room_beside_is_no_conflict():
    assert gap_for(tracked("x", 120.0, 6.0, heading_rad=np.pi, speed_mps=10.0)).free


def test_a_truck_ahead_and_a_bend_end_the_view_and_a_low_car_does_not():
    path = Path.of(np.array([[0.0, 0.0], [400.0, 0.0]]))
    boxes = frame(tracked("t", 40.0, 0.0, width_m=2.5, length_m=8.0)).boxes
    assert seen_m(path, 20.0, 3.5, boxes, np.array([3.2]), C) < 60.0
    assert seen_m(path, 20.0, 3.5, boxes, np.array([1.5]), C) == pytest.approx(C.view_m, abs=10.0)
    bend = chains_on(curved_map(40.0), ("block-0", "block-1")).through("0-0").path
    assert seen_m(bend, 20.0, 3.5, np.zeros((0, 5)), np.zeros(0), C) < 80.0


# ---- who goes first -------------------------------------------------------------------------------------------------


def crossing_zones(turn, **kind):
    lane_map = plain_crossing(**kind).network.lane_map
    exit_road = {"left": "west", "straight": "north", "right": "east"}[turn]
    blocks = list(dict.fromkeys(lane.roadblock_id for lane in lane_map.lanes.values()))
    route = (*(b for b in blocks if b.startswith("south-b")), f"x-south-{exit_road}", f"{exit_road}-f0")
    chain = chains_on(lane_map, route).through(f"{route[0]}-0")
    return lane_map, chain, zones_of(lane_map, chain, C)


def rule_towards(turn, other, lights=None, **kind):
    lane_map, _, zones = crossing_zones(turn, **kind)
    zone = next(z for z in zones if z.other_id.startswith(f"x-{other}"))
    return gives_way(lane_map, zone, lights(lane_map) if lights else {}, C)


def test_who_turns_left_gives_way_to_oncoming_traffic_and_not_the_other_way_round():
    assert rule_towards("left", "north0-south", kind="default")
    assert not rule_towards("straight", "north0-east", kind="default")


def test_the_right_goes_before_the_left_where_nothing_else_decides():
    assert rule_towards("straight", "east0-west", kind="default")
    assert not rule_towards("straight", "west0-east", kind="default")


def test_a_stop_sign_makes_the_minor_road_wait():
    assert rule_towards("straight", "west0-east", kind="stop_sign", stop_arms=("south", "north"))
    assert not rule_towards("straight", "east0-west", kind="stop_sign", stop_arms=("east", "west"))


def test_red_for_the_others_means_that_the_ego_goes():
    def red_across(lane_map):
        return {
            i: "green" if "-south0-" in i or i.startswith("x-south") else "red"
            for i in lane_map.lanes
            if i.startswith("x-")
        }

    assert not rule_towards("straight", "east0-west", red_across)


@pytest.mark.parametrize(("away_m", "waits"), [(25.0, True), (110.0, False)])
def test_a_gap_is_taken_only_if_it_is_long_enough(away_m, waits):
    lane_map, chain, zones = crossing_zones("left", kind="default")
    zone = next(z for z in zones if z.other_id.startswith("x-north0-south"))
    x, y, heading = zone.path.pose_at(zone.their_enter_m - away_m)
    them = frame(tracked("them", x, y, heading_rad=heading, speed_mps=10.0))
    found = claims(
        lane_map,
        zones,
        them,
        {},
        own=place(chain.path, them),
        progress_m=zone.stop_m - 10.0,
        speed_mps=4.0,
        chain=chain,
        parameters=C,
        margin_s=C.yield_margin_s,
    )
    held = [claim for claim in found if claim.arrives_s < claim.clears_s + C.yield_margin_s]
    assert bool(held) == waits
    assert all(claim.track_id == "them" for claim in found)


def test_one_who_waits_holds_nobody():
    lane_map, chain, zones = crossing_zones("left", kind="default")
    zone = next(z for z in zones if z.other_id.startswith("x-north0-south"))
    x, y, heading = zone.path.pose_at(zone.junction_m - 4.0)
    waiting = frame(tracked("them", x, y, heading_rad=heading, speed_mps=0.0))
    assert (
        claims(
            lane_map,
            zones,
            waiting,
            {},
            progress_m=zone.stop_m - 10.0,
            speed_mps=4.0,
            chain=chain,
            own=place(chain.path, waiting),
            parameters=C,
            margin_s=1.0,
        )
        == []
    )
