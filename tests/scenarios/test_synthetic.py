"""Generated scenes: reproducible, sound maps, lawful and collision-free traffic, and each family about its own rule."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from shapely import LineString, Point, Polygon, STRtree

from nsdrive.scenarios.source import ScenarioError
from nsdrive.scenarios.synthetic.source import (
    FAMILIES,
    SyntheticConfig,
    SyntheticSource,
    build,
    load,
    scenario_count,
    scenario_id,
)
from nsdrive.world.geometry import box_corners
from nsdrive.world.route import centerline, find_route, nearest_lane, validate
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, OBJECT_KINDS, Scenario
from planners.idm import IdmPlanner

# fmt: off
# The 73 scenario types of nuPlan's own mapping.
NUPLAN_TYPES = frozenset(
    (
        "accelerating_at_crosswalk", "accelerating_at_stop_sign", "accelerating_at_stop_sign_no_crosswalk",
        "accelerating_at_traffic_light", "accelerating_at_traffic_light_with_lead",
        "accelerating_at_traffic_light_without_lead", "behind_bike", "behind_long_vehicle",
        "behind_pedestrian_on_driveable", "behind_pedestrian_on_pickup_dropoff", "changing_lane",
        "changing_lane_to_left", "changing_lane_to_right", "changing_lane_with_lead", "changing_lane_with_trail",
        "crossed_by_bike", "crossed_by_vehicle", "following_lane_with_lead", "following_lane_with_slow_lead",
        "following_lane_without_lead", "high_lateral_acceleration", "high_magnitude_jerk", "high_magnitude_speed",
        "low_magnitude_speed", "medium_magnitude_speed", "near_barrier_on_driveable", "near_construction_zone_sign",
        "near_high_speed_vehicle", "near_long_vehicle", "near_multiple_bikes", "near_multiple_pedestrians",
        "near_multiple_vehicles", "near_pedestrian_at_pickup_dropoff", "near_pedestrian_on_crosswalk",
        "near_pedestrian_on_crosswalk_with_ego", "near_trafficcone_on_driveable", "on_all_way_stop_intersection",
        "on_carpark", "on_intersection", "on_pickup_dropoff", "on_stopline_crosswalk", "on_stopline_stop_sign",
        "on_stopline_traffic_light", "on_traffic_light_intersection", "starting_high_speed_turn",
        "starting_left_turn", "starting_low_speed_turn", "starting_protected_cross_turn",
        "starting_protected_noncross_turn", "starting_right_turn",
        "starting_straight_stop_sign_intersection_traversal",
        "starting_straight_traffic_light_intersection_traversal", "starting_u_turn",
        "starting_unprotected_cross_turn", "starting_unprotected_noncross_turn", "stationary",
        "stationary_at_crosswalk", "stationary_at_traffic_light_with_lead",
        "stationary_at_traffic_light_without_lead", "stationary_in_traffic", "stopping_at_crosswalk",
        "stopping_at_stop_sign_no_crosswalk", "stopping_at_stop_sign_with_lead",
        "stopping_at_stop_sign_without_lead", "stopping_at_traffic_light_with_lead",
        "stopping_at_traffic_light_without_lead", "stopping_with_lead", "traversing_crosswalk",
        "traversing_intersection", "traversing_narrow_lane", "traversing_pickup_dropoff",
        "traversing_traffic_light_intersection", "waiting_for_pedestrian_to_cross",
    )
)
# fmt: on
# What binds at least once when the rule planner drives, in most seeds of each family.
PROVOKED = {
    "free_road": {"target_speed"},
    "curve": {"curve_speed"},
    "slow_lead": {"lead"},
    "stopped_lead": {"lead"},
    "dense_queue": {"lead"},
    "long_vehicle": {"lead"},
    "cut_in": {"lead"},
    "cyclist_ahead": {"lead"},
    "red_light": {"red_light"},
    "red_light_lead": {"lead"},
    "red_to_green": {"red_light", "lead"},
    "green_light": {"target_speed"},
    "yellow_dilemma": {"amber_light", "target_speed"},
    "left_turn": {"curve_speed"},
    "right_turn": {"curve_speed"},
    "stop_sign": {"stop_sign"},
    "pedestrian_crosswalk": {"crosswalk", "lead"},
    "parked_car": {"lead"},
    "construction": {"lead"},
    "slow_lead_two_lanes": {"lead"},
    "lane_blocked": {"lead"},
    "oncoming_pass": {"lead"},
    "route_lane_change": {"path_end", "target_speed"},
    "unprotected_left": {"curve_speed", "lead"},
    "unsignalised_crossing": {"target_speed", "lead"},
}
SEEDS = (0, 1, 2)
EGO_SIZE_M, EGO_CENTRE_M = (5.176, 2.297), 1.461  # nuPlan's Pacifica

every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def scenes(family: str) -> tuple[Scenario, ...]:
    return tuple(build(SyntheticConfig(seed=seed, families=(family,)), seed) for seed in SEEDS)


@every_family
def test_a_scene_names_its_type_seed_and_parameters(family: str) -> None:
    for seed, scene in zip(SEEDS, scenes(family), strict=True):
        assert scene.scenario_type in NUPLAN_TYPES
        assert scene.scenario_id == f"syn-{family}-{seed:06d}-s{seed}"
        assert (scene.notes["family"], scene.notes["seed"], scene.notes["index"]) == (family, seed, seed)
        assert json.loads(json.dumps(scene.notes)) == scene.notes
        assert scene.n_ticks == len(scene.lights) == 151
        assert len(scene.ego_log) == HISTORY_TICKS + 1


@every_family
def test_the_same_seed_and_index_give_the_same_scene(family: str) -> None:
    config = SyntheticConfig(seed=1, families=(family,))
    first, again = scenes(family)[1], build(config, 1)
    assert first.ego_log == again.ego_log
    assert first.lights == again.lights
    assert first.route_roadblock_ids == again.route_roadblock_ids
    for a, b in zip(first.frames, again.frames, strict=True):
        assert a.ids == b.ids
        for column in ("kinds", "boxes", "heights_m", "velocities_mps", "accels_mps2", "indicators"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
    for lane_id, lane in first.lane_map.lanes.items():
        np.testing.assert_array_equal(lane.centerline, again.lane_map.lanes[lane_id].centerline)


@every_family
def test_lanes_meet_exactly_and_know_each_other(family: str) -> None:
    for scene in scenes(family):
        lanes = scene.lane_map.lanes
        assert validate(scene.lane_map) == []
        for lane in lanes.values():
            steps = np.hypot(*np.diff(lane.centerline, axis=0).T)
            assert steps.max() <= 1.0
            for following in lane.outgoing:
                assert np.abs(lanes[following].centerline[0] - lane.centerline[-1]).max() < 1e-6
                assert lanes[following].is_connector != lane.is_connector
            for line in lane.stop_line_ids:
                assert Point(lane.centerline[0]).distance(LineString(scene.lane_map.stop_lines[line].line)) < 0.1
            for side, neighbor in (("right_neighbor", lane.left_neighbor), ("left_neighbor", lane.right_neighbor)):
                if neighbor is not None:
                    assert getattr(lanes[neighbor], side) == lane.lane_id
        assert all(c in scene.lane_map.lanes for s in scene.lane_map.signals for c in s.connector_ids)


@every_family
def test_every_lane_lies_on_drivable_ground(family: str) -> None:
    scene = scenes(family)[0]
    ground = STRtree([Polygon(p) for p in scene.lane_map.drivable_area])
    assert all(polygon.is_valid for polygon in ground.geometries)
    for lane in scene.lane_map.lanes.values():
        for x, y in lane.centerline[1:-1:5]:
            assert len(ground.query(Point(x, y), predicate="intersects")), lane.lane_id


@every_family
def test_the_ego_is_on_a_route_that_is_longer_than_it_can_drive(family: str) -> None:
    for scene in scenes(family):
        blocks = {lane.roadblock_id for lane in scene.lane_map.lanes.values()}
        assert set(scene.route_roadblock_ids) <= blocks
        for tick in (0, HISTORY_TICKS):
            ego = scene.ego_log[tick]
            start = nearest_lane(scene.lane_map, ego.pose, allowed_roadblocks=scene.route_roadblock_ids)
            if family == "route_lane_change":  # the ego's lane does not lead there, the one beside it does
                beside = scene.lane_map.lanes[start]
                start = (beside.left_neighbor if "left" in scene.scenario_type else beside.right_neighbor) or ""
            route = find_route(scene.lane_map, start, scene.goal_m, scene.route_roadblock_ids)
            assert scene.lane_map.lanes[route[-1]].roadblock_id == scene.route_roadblock_ids[-1]
            path = centerline(scene.lane_map, route)
            progress, offset = path.project(ego.x_m, ego.y_m)
            _, _, heading = path.pose_at(progress)
            assert abs(offset) < 0.5 or (family == "route_lane_change" and 3.0 < abs(offset) < 4.2)
            assert abs((ego.heading_rad - heading + np.pi) % (2 * np.pi) - np.pi) < 0.1
        limit = float(np.nanmax(path.speed_limit_mps))
        fastest = max(limit, ego.speed_mps)
        assert path.length_m - progress > 13.0 * fastest + 60.0


@every_family
def test_the_past_of_the_ego_is_smooth_and_consistent(family: str) -> None:
    for scene in scenes(family):
        speeds = np.array([state.speed_mps for state in scene.ego_log])
        places = np.array([(state.x_m, state.y_m) for state in scene.ego_log])
        driven = np.hypot(*np.diff(places, axis=0).T)
        np.testing.assert_allclose(driven, 0.05 * (speeds[1:] + speeds[:-1]), atol=0.03)
        accels = np.array([state.accel_mps2 for state in scene.ego_log])
        assert accels.min() >= -3.01
        assert accels.max() <= 1.01
        assert np.abs(np.diff(accels)).max() < 0.35 or speeds.min() == 0.0


@every_family
def test_nobody_overlaps_anybody_else(family: str) -> None:
    for scene in scenes(family):
        for tick in range(0, scene.n_ticks, 15):
            frame = scene.frames[tick]
            boxes = frame.boxes[frame.kinds != OBJECT_KINDS.index("pedestrian")]
            shapes = [Polygon(corners) for corners in box_corners(boxes)]
            pairs = STRtree(shapes).query(shapes, predicate="intersects").T
            assert [tuple(pair) for pair in pairs if pair[0] < pair[1]] == []
        for tick in (0, HISTORY_TICKS):
            ego = scene.ego_log[tick]
            x, y = np.array([ego.x_m, ego.y_m]) + EGO_CENTRE_M * np.array(
                [np.cos(ego.heading_rad), np.sin(ego.heading_rad)]
            )
            ego_shape = Polygon(box_corners(np.array([[x, y, ego.heading_rad, *EGO_SIZE_M]]))[0])
            assert not any(ego_shape.intersects(Polygon(c)) for c in box_corners(scene.frames[tick].boxes))


@every_family
def test_agents_move_as_their_velocities_say(family: str) -> None:
    for scene in scenes(family):
        for now, then in zip(scene.frames[:-1:10], scene.frames[1::10], strict=False):
            rows = {track: row for row, track in enumerate(then.ids)}
            for row, track in enumerate(now.ids):
                if track in rows:
                    moved = then.boxes[rows[track], :2] - now.boxes[row, :2]
                    expected = 0.05 * (now.velocities_mps[row] + then.velocities_mps[rows[track]])
                    assert np.abs(moved - expected).max() < 0.12, track
        assert max(float(frame.accels_mps2.max(initial=0.0)) for frame in scene.frames) < 4.0
        assert max(float(frame.speeds_mps.max(initial=0.0)) for frame in scene.frames) < 22.0


def test_conflicting_movements_are_never_green_together() -> None:
    signalised = [scene for family in FAMILIES for scene in scenes(family) if scene.lights[0]]
    assert len(signalised) >= 15
    for scene in signalised:
        lanes = scene.lane_map.lanes
        controlled = [lane for lane in lanes.values() if lane.intersection_id]
        assert {lane.lane_id for lane in controlled} == set(scene.lights[0])
        lines = {lane.lane_id: LineString(lane.centerline) for lane in controlled}
        conflicts = [
            (a.lane_id, b.lane_id)
            for i, a in enumerate(controlled)
            for b in controlled[i + 1 :]
            if a.incoming != b.incoming
            and (lines[a.lane_id].intersects(lines[b.lane_id]) or set(a.outgoing) & set(b.outgoing))
        ]
        for lights in {id(lights): lights for lights in scene.lights}.values():
            assert set(lights) == set(lines)
            for a, b in conflicts:
                permitted = scene.notes["family"] == "unprotected_left" and "left" in (lanes[a].turn, lanes[b].turn)
                opposite = permitted and lights[a] == lights[b]  # one phase: the left turn is for its driver to judge
                assert opposite or "red" in (lights[a], lights[b]), (scene.scenario_id, a, b)


def test_a_light_turns_from_green_over_three_to_four_seconds_of_yellow_to_red() -> None:
    after = {"green": {"yellow"}, "yellow": {"red"}, "red": {"green"}}
    for scene in scenes("yellow_dilemma"):
        for connector in scene.lights[0]:
            shown = [lights[connector] for lights in scene.lights]
            changes = [(a, b) for a, b in pairwise(shown) if a != b]
            assert all(b in after[a] for a, b in changes)
            yellow = shown.count("yellow")
            if ("green", "yellow") in changes and ("yellow", "red") in changes:
                assert 29 <= yellow <= 41


@every_family
def test_a_family_provokes_its_rule(family: str) -> None:
    hits = 0
    for scene in scenes(family):
        rollout = simulate(scene, IdmPlanner(), duration_s=6.0)
        binding = {plan.decision.binding_constraint.rule for plan in rollout.plans if plan.decision}
        hits += bool(binding & PROVOKED[family])
    assert hits >= 2


def test_background_traffic_can_be_turned_off() -> None:
    busy = build(SyntheticConfig(seed=3, families=("red_light",)), 0)
    empty = build(SyntheticConfig(seed=3, families=("red_light",), background_traffic=0.0), 0)
    assert len(empty.frames[0]) == 0 < len(busy.frames[0])


def test_a_short_scene_is_as_long_as_asked() -> None:
    assert build(SyntheticConfig(duration_s=8.0), 0).n_ticks == 81


def test_load_yields_every_family_in_turn() -> None:
    config = SyntheticConfig(families=("free_road", "curve"), n_scenarios=3)
    assert scenario_count(config) == 3
    assert [scene.notes["family"] for scene in load(config)] == ["free_road", "curve", "free_road"]


def test_an_unknown_family_is_answered_with_the_nearest_one_and_the_list() -> None:
    with pytest.raises(
        ValueError, match=r"No scenario family 'red_ligth'. Did you mean 'red_light'\? Known: free_road"
    ):
        SyntheticConfig(families=("red_ligth",))


def test_the_common_door_loads_by_id_and_refuses_another_configs_id() -> None:
    source = SyntheticSource(SyntheticConfig(seed=5, families=("curve",), n_scenarios=2))
    assert source.items() == ("syn-curve-000000-s5", "syn-curve-000001-s5")
    assert source.load("syn-curve-000001-s5").scenario_id == scenario_id(source.config, 1)
    for item in ("syn-curve-000001-s6", "curve", "syn-red_light-000001-s5"):
        with pytest.raises(ScenarioError, match=r"is not (a synthetic scenario|of this config)"):
            source.load(item)


def test_scenes_of_one_family_are_spread_out() -> None:
    config = SyntheticConfig(seed=9, families=("red_light",), background_traffic=0.0)
    notes = [build(config, index).notes for index in range(12)]
    assert np.std([n["initial_speed_mps"] for n in notes]) > 1.5
    assert np.std([n["distance_m"] for n in notes]) > 8.0
