"""The families about leaving one's lane and about giving way: what makes each of them what it is."""

import numpy as np
import pytest

from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.route import nearest_lane
from nsdrive.world.types import HISTORY_TICKS, OBJECT_KINDS

SEEDS = range(4)


def scenes(family):
    return [build(SyntheticConfig(seed=seed, families=(family,)), seed) for seed in SEEDS]


def ego_lane(scene):
    return scene.lane_map.lanes[nearest_lane(scene.lane_map, scene.ego_log[HISTORY_TICKS].pose)]


def ahead_m(scene, frame):
    """(N, 2): objects seen from the ego at the anchor, forward and left."""
    ego = scene.ego_log[HISTORY_TICKS]
    cos, sin = np.cos(ego.heading_rad), np.sin(ego.heading_rad)
    away = frame.boxes[:, :2] - [ego.x_m, ego.y_m]
    return away @ np.array([[cos, -sin], [sin, cos]])


@pytest.mark.parametrize("family", ["slow_lead_two_lanes", "lane_blocked"])
def test_there_is_a_lane_beside_the_ego_that_it_may_change_to(family):
    for scene in scenes(family):
        lane = ego_lane(scene)
        marking = lane.left_marking if lane.left_neighbor else lane.right_marking
        assert (lane.left_neighbor or lane.right_neighbor) is not None
        assert marking == "dashed_white"


def test_what_blocks_the_lane_stands_from_the_first_tick_to_the_last():
    for scene in scenes("lane_blocked"):
        first, last = scene.frames[HISTORY_TICKS], scene.frames[-1]
        where = ahead_m(scene, first)
        blocking = [
            first.ids[row]
            for row in range(len(first))
            if 5.0 < where[row, 0] < 180.0 and abs(where[row, 1]) < 25.0 and first.speeds_mps[row] < 0.01
            if nearest_lane(scene.lane_map, first.boxes[row, :3]).rsplit("-", 1)[-1] == ego_lane(scene).lane_id[-1]
        ]
        assert set(blocking) & set(last.ids)


def test_the_line_may_be_crossed_where_a_car_stands_and_others_come():
    came = 0
    for scene in scenes("oncoming_pass"):
        assert ego_lane(scene).left_marking == "dashed_yellow"
        assert ego_lane(scene).left_neighbor is None
        came += scene.notes["oncoming"]
    assert came > 0


def test_the_route_turns_from_the_lane_beside():
    for scene in scenes("route_lane_change"):
        lanes, lane = scene.lane_map.lanes, ego_lane(scene)
        turn = scene.notes["turn"]
        index = scene.route_roadblock_ids.index(lane.roadblock_id)
        connectors = [
            one for one in lanes.values() if one.roadblock_id in scene.route_roadblock_ids and one.turn == turn
        ]
        assert connectors
        own, beside = lane.lane_id, lane.left_neighbor if turn == "left" else lane.right_neighbor
        for _ in scene.route_roadblock_ids[index:]:  # along both lanes to the junction
            if any(connector.lane_id in lanes[beside].outgoing for connector in connectors):
                break
            own, beside = lanes[own].outgoing[0], lanes[beside].outgoing[0]
        assert not any(connector.lane_id in lanes[own].outgoing for connector in connectors)
        assert any(connector.lane_id in lanes[beside].outgoing for connector in connectors)


def test_an_unprotected_left_turn_and_who_comes_towards_it_are_green_together():
    for scene in scenes("unprotected_left"):
        shown = scene.lights[HISTORY_TICKS]
        green = {scene.lane_map.lanes[c].turn for c, state in shown.items() if state == "green"}
        assert {"left", "straight"} <= green
        arms = {c.split("-")[1].rstrip("0123456789") for c, state in shown.items() if state == "green"}
        assert arms == {"south", "north"}


def test_an_unsignalised_crossing_has_no_light_no_line_and_someone_from_the_right():
    from_right = 0
    for scene in scenes("unsignalised_crossing"):
        assert not scene.lane_map.signals
        assert not scene.lane_map.stop_lines
        assert not any(scene.lights)
        frame = scene.frames[HISTORY_TICKS]
        where = ahead_m(scene, frame)
        moving = (frame.kinds == OBJECT_KINDS.index("vehicle")) & (frame.speeds_mps > 1.0)
        from_right += int(np.count_nonzero(moving & (where[:, 1] < -8.0)))
    assert from_right > 0
