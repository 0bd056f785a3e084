"""nuPlan logs as a source: the official ticks, the map around them, and the filters."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from nuplan_builder import change, change_with, log_file, map_file, scene, source_of, write_log

from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan.geopackage import GeoPackage, rings
from nsdrive.scenarios.nuplan.map import read_map
from nsdrive.scenarios.nuplan.stops import first_edge
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.route import validate
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, Scenario
from planners.idm import IdmPlanner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuplan")
    write_log(root)
    return root


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Scenario:
    source = source_of(folder)
    return source.load(source.items()[0])


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def shift(scenario: Scenario, original: Scenario) -> np.ndarray:
    return scenario.ego_log[HISTORY_TICKS].pose[:2] - original.ego_log[HISTORY_TICKS].pose[:2]


def test_a_scenario_starts_at_tick_twenty_with_two_seconds_before_and_fifteen_after(loaded):
    assert loaded.n_ticks == len(loaded.ego_log) == len(loaded.lights) == HISTORY_TICKS + 151
    assert [state.time_s for state in loaded.ego_log[:3]] == [0.0, 0.1, 0.2]
    assert loaded.scenario_type == "stopping_at_traffic_light_with_lead"
    assert validate(loaded.lane_map) == []


def test_what_was_written_is_read_the_same_at_every_tick(loaded):
    original = scene()
    offset = shift(loaded, original)
    for tick in range(original.n_ticks):
        before, after = original.frames[tick], loaded.frames[tick]
        assert sorted(before.kinds.tolist()) == sorted(after.kinds.tolist())
        moved = before.boxes + np.array([*offset, 0, 0, 0])
        for row, box in enumerate(after.boxes):
            gaps = np.abs(moved - box).max(axis=1)
            mate = int(gaps.argmin())
            assert gaps[mate] < 1e-6
            if after[row].kind in ("vehicle", "bicycle", "pedestrian"):
                assert after.velocities_mps[row] == pytest.approx(before.velocities_mps[mate], abs=1e-9)
        assert sorted(original.lights[tick].values()) == sorted(loaded.lights[tick].values())
    for state, other in zip(original.ego_log, loaded.ego_log, strict=False):
        assert other.pose == pytest.approx(state.pose + np.array([*offset, 0.0]), abs=1e-6)
        assert other.speed_mps == pytest.approx(state.speed_mps, abs=1e-9)


def test_a_planner_drives_the_written_scene_as_it_drives_the_original(loaded):
    original = scene()  # nuPlan has no steering angles: its simulation begins with the wheels straight
    original = replace(original, ego_log=tuple(replace(state, steering_rad=0.0) for state in original.ego_log))
    ours, theirs = (simulate(world, IdmPlanner(), duration_s=8.0) for world in (original, loaded))
    offset = shift(loaded, original)
    for a, b in zip(ours.states, theirs.states, strict=True):
        assert np.hypot(b.x_m - a.x_m - offset[0], b.y_m - a.y_m - offset[1]) < 0.005


def test_the_way_ahead_is_known_route_goal_and_lights(loaded):
    original = scene()
    assert len(loaded.route_roadblock_ids) >= 2
    on_map = {lane.roadblock_id for lane in loaded.lane_map.lanes.values()}
    assert set(loaded.route_roadblock_ids) <= on_map
    assert set(loaded.lane_map.roadblocks) == on_map
    assert loaded.goal_m == pytest.approx(np.array(original.goal_m) + shift(loaded, original), abs=1e-6)
    assert loaded.unknown == frozenset()


def test_a_bare_token_is_found_in_whichever_log_has_it(folder, loaded):
    token = str(loaded.notes["token"])
    again = source_of(folder).load(token)
    assert (again.scenario_id, again.split_key) == (f"nuplan-{token}", log_file(folder).stem)
    with pytest.raises(ScenarioError, match="none of 1 logs has a lidar_pc with token 0000000000000000"):
        source_of(folder).load("0" * 16)


def test_one_file_is_a_source_too(folder, loaded):
    source = NuplanSource(NuplanConfig(path=str(log_file(folder))))
    assert source.load(source.items()[0]).scenario_id == loaded.scenario_id


def test_a_row_without_a_tag_is_twenty_seconds_from_that_row(folder):
    database = sqlite3.connect(log_file(folder))
    rows = database.execute("select token, timestamp from lidar_pc order by timestamp").fetchall()
    database.close()
    token, stamp = rows[44]
    scenario = source_of(folder).load(bytes(token).hex())
    assert scenario.scenario_type == "unknown"
    assert scenario.notes["initial_timestamp_us"] == stamp
    assert scenario.n_ticks == HISTORY_TICKS + min(201, len(rows[44::2]))
    with pytest.raises(ScenarioError, match="needs 20 ticks before its start"):
        source_of(folder).load(bytes(rows[10][0]).hex())


def test_ticks_are_every_second_row_also_where_the_log_drops_one(copy, loaded):
    change_with(
        log_file(copy),
        lambda database: database.execute(
            "delete from lidar_pc where timestamp = (select timestamp from lidar_pc order by timestamp limit 1 offset 101)"
        ),
    )
    shorter = source_of(copy).load(str(loaded.notes["token"]))
    # Nothing moves up to the gap; from there every tick is one row (0.05 s) later, as in the official simulation.
    assert shorter.ego_log[40] == loaded.ego_log[40]
    assert shorter.ego_log[60].x_m != loaded.ego_log[60].x_m
    assert shorter.n_ticks in (loaded.n_ticks, loaded.n_ticks - 1)


def test_only_what_is_near_is_read_and_no_link_leads_out_of_it(folder, loaded):
    small = source_of(folder, map_margin_m=5.0).load(str(loaded.notes["token"])).lane_map
    whole = source_of(folder, map_margin_m=None).load(str(loaded.notes["token"])).lane_map
    assert set(small.lanes) < set(whole.lanes)
    assert validate(small) == []
    for lane_id, lane in small.lanes.items():
        assert np.array_equal(lane.centerline, whole.lanes[lane_id].centerline)
        mates = [other for other, its in whole.lanes.items() if its.roadblock_id == lane.roadblock_id]
        assert mates == [other for other, its in small.lanes.items() if its.roadblock_id == lane.roadblock_id]
    assert set(loaded.route_roadblock_ids) <= {lane.roadblock_id for lane in small.lanes.values()}


def test_an_r_tree_and_the_geometries_own_headers_find_the_same_lanes(copy, loaded):
    path = map_file(copy)
    first = loaded.ego_log[0].pose[:2]
    bounds = np.array([*(first - 20.0), *(first + 20.0)])
    layers = ("lanes_polygons", "lane_connectors", "crosswalks")
    package = GeoPackage.open(path)
    from_headers = [package.fids_within(layer, bounds) for layer in layers]
    column = package.geometry_columns["lanes_polygons"]

    def add_trees(database: sqlite3.Connection) -> None:
        for layer in layers:
            tree = f"rtree_{layer}_{column}"
            database.execute(f"create virtual table {tree} using rtree(id, minx, maxx, miny, maxy)")
            for fid, blob in database.execute(f"select fid, {column} from {layer}").fetchall():
                west, south, east, north = shapely.from_wkb(blob[40:]).bounds
                database.execute(f"insert into {tree} values (?, ?, ?, ?, ?)", (fid, west, east, south, north))

    change_with(path, add_trees)
    package = GeoPackage.open(path)
    assert [package.fids_within(layer, bounds) for layer in layers] == from_headers
    assert 0 < len(from_headers[0]) < len(package.all_fids("lanes_polygons"))


def test_neighbors_follow_the_index_in_the_lane_group_from_left_to_right(loaded):
    pairs = 0
    for lane_id, lane in loaded.lane_map.lanes.items():
        if lane.right_neighbor is None:
            continue
        other = loaded.lane_map.lanes[lane.right_neighbor]
        assert other.left_neighbor == lane_id
        assert other.roadblock_id == lane.roadblock_id
        ahead = lane.centerline[1] - lane.centerline[0]
        to_right = other.centerline[0] - lane.centerline[0]
        assert ahead[0] * to_right[1] - ahead[1] * to_right[0] < 0
        pairs += 1
    assert pairs


def test_a_missing_speed_limit_is_none(copy, loaded):
    path = map_file(copy)
    change(
        path, "update lanes_polygons set speed_limit_mps = null", "update lane_connectors set speed_limit_mps = null"
    )
    scenario = source_of(copy).load(str(loaded.notes["token"]))
    assert {lane.speed_limit_mps for lane in scenario.lane_map.lanes.values()} == {None}
    assert scenario.unknown == frozenset({"speed_limits"})


def test_a_boundary_stored_against_the_driving_direction_is_turned(copy, loaded):
    path = map_file(copy)

    def reverse_all(database: sqlite3.Connection) -> None:
        for fid, blob in database.execute("select fid, geom from boundaries").fetchall():
            turned = shapely.reverse(shapely.from_wkb(blob[40:]))
            database.execute("update boundaries set geom = ? where fid = ?", (blob[:40] + shapely.to_wkb(turned), fid))

    change_with(path, reverse_all)
    lane_map = source_of(copy).load(str(loaded.notes["token"])).lane_map
    for lane_id, lane in loaded.lane_map.lanes.items():
        assert np.allclose(lane_map.lanes[lane_id].left_boundary, lane.left_boundary, atol=1e-9)


def test_a_route_that_the_log_does_not_tell_is_read_off_the_way_that_was_driven(copy, loaded):
    change(log_file(copy), "update scene set roadblock_ids = '', goal_ego_pose_token = null")
    scenario = source_of(copy).load(str(loaded.notes["token"]))
    assert "route" in scenario.unknown
    assert scenario.goal_m is None
    assert scenario.route_roadblock_ids[0] == loaded.route_roadblock_ids[0]


def test_a_route_with_a_gap_or_that_begins_ahead_of_the_ego_is_repaired(copy, loaded):
    whole = loaded.route_roadblock_ids
    token = str(loaded.notes["token"])
    assert len(whole) >= 5
    for broken in ((*whole[:1], *whole[2:]), whole[2:], (*whole[:2], *whole[4:])):
        change(log_file(copy), f"update scene set roadblock_ids = '{' '.join(broken)}'")
        scenario = source_of(copy).load(token)
        assert scenario.route_roadblock_ids == whole
        assert scenario.notes["route_repaired_from"] == " ".join(broken)
        assert "route" not in scenario.unknown
    assert "route_repaired_from" not in loaded.notes


def test_roadblocks_that_the_map_lacks_are_left_out_of_the_route_and_counted(copy, loaded):
    told = f"987654 {' '.join(loaded.route_roadblock_ids)}"
    change(log_file(copy), f"update scene set roadblock_ids = '{told}'")
    scenario = source_of(copy).load(str(loaded.notes["token"]))
    assert scenario.route_roadblock_ids == loaded.route_roadblock_ids
    assert scenario.notes["route_roadblocks_not_in_the_map"] == 1


def test_logs_of_one_city_share_its_map_where_all_of_it_is_read(folder, loaded):
    first, second = (source_of(folder, map_margin_m=None).load(str(loaded.notes["token"])) for _ in range(2))
    assert first.lane_map is second.lane_map


def tag(path: Path, rows: dict[int, str]) -> list[str]:
    """Replace a log's tags by these: row number in time -> type. The rows' tokens."""
    database = sqlite3.connect(path)
    tokens = [row[0] for row in database.execute("select token from lidar_pc order by timestamp")]
    database.execute("delete from scenario_tag")
    for number, (row, kind) in enumerate(rows.items()):
        database.execute(
            "insert into scenario_tag (token, lidar_pc_token, type) values (?, ?, ?)",
            (number.to_bytes(8, "big"), tokens[row], kind),
        )
    database.commit()
    database.close()
    return [bytes(tokens[row]).hex() for row in rows]


def tokens_of(source: NuplanSource) -> list[str]:
    return [item.split("/")[-1] for item in source.items()]


def test_tags_are_thinned_by_time_within_their_type_and_limited_evenly(copy):
    rows = {row: "changing_lane" for row in range(150, 270, 10)} | {155: "stationary"}
    tokens = tag(log_file(copy), rows)
    assert len(tokens_of(source_of(copy, min_gap_s=0.0))) == 13
    assert tokens_of(source_of(copy, min_gap_s=2.0)) == [tokens[0], tokens[12], tokens[4], tokens[8]]
    assert tokens_of(source_of(copy, min_gap_s=0.0, min_gap_any_s=2.0)) == [tokens[0], tokens[4], tokens[8]]
    assert tokens_of(source_of(copy, min_gap_s=0.0, scenario_types=("changing_lane",))) == tokens[:12]
    limited = source_of(copy, min_gap_s=0.0, scenario_types=("changing_lane",), limit_per_type=3)
    assert tokens_of(limited) == [tokens[0], tokens[4], tokens[8]]
    assert tokens_of(source_of(copy, min_gap_s=0.0, limit=2)) == [tokens[0], tokens[12]]


def test_a_row_with_several_tags_has_the_last_by_name_of_those_that_are_wanted(copy):
    (token, *_) = tag(log_file(copy), {150: "changing_lane"})
    change(
        log_file(copy),
        "insert into scenario_tag (token, lidar_pc_token, type) select x'00000000000000ff', lidar_pc_token, 'stationary'"
        " from scenario_tag",
    )
    assert source_of(copy).load(token).scenario_type == "stationary"
    assert source_of(copy, scenario_types=("changing_lane",)).load(token).scenario_type == "changing_lane"


def test_the_first_and_last_two_scenes_are_left_out_unless_a_token_is_named(copy):
    early, late = tag(log_file(copy), {104: "stationary", 150: "changing_lane"})
    change(
        log_file(copy),
        f"update lidar_pc set scene_token = (select token from scene order by name limit 1) where token = x'{early}'",
    )
    assert tokens_of(source_of(copy)) == [late]
    assert tokens_of(source_of(copy, scenario_tokens=(early,))) == [early]
    assert source_of(copy).load(early).scenario_type == "stationary"


def test_a_token_that_no_log_has_is_an_item_that_fails_with_one_line(folder):
    source = source_of(folder, scenario_tokens=("0123456789abcdef",))
    assert source.items() == ("0123456789abcdef",)
    with pytest.raises(ScenarioError, match="none of 1 logs"):
        source.load(source.items()[0])


def test_the_maps_are_found_above_the_logs_or_where_the_environment_says(copy, tmp_path, loaded, monkeypatch):
    (copy / "maps").rename(tmp_path / "elsewhere")
    token = str(loaded.notes["token"])
    with pytest.raises(ScenarioError, match=r"looked in .*maps"):
        source_of(copy).load(token)
    assert source_of(copy, maps_path=str(tmp_path / "elsewhere")).load(token).lane_map.lanes
    monkeypatch.setenv("NUPLAN_MAPS_ROOT", str(tmp_path / "elsewhere"))
    assert source_of(copy).load(token).lane_map.lanes


def test_an_unknown_type_or_a_malformed_token_is_refused_with_help():
    with pytest.raises(ValueError, match="Did you mean 'changing_lane'"):
        NuplanConfig(path=".", scenario_types=("changing_lanes",))
    with pytest.raises(ValueError, match="16 hex digits"):
        NuplanConfig(path=".", scenario_tokens=("xyz",))


def test_a_polygon_with_holes_becomes_rings_of_the_same_ground():
    square = shapely.Polygon(
        [(0, 0), (10, 0), (10, 10), (0, 10)], [[(2, 2), (3, 2), (3, 3), (2, 3)], [(6, 6), (8, 6), (8, 8), (6, 8)]]
    )
    parts = [shapely.Polygon(ring) for ring in rings(square)]
    assert sum(part.area for part in parts) == pytest.approx(square.area)
    assert shapely.union_all(parts).symmetric_difference(square).area == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("heading", [0.0, 0.7, np.pi / 2, -2.2])
def test_a_stop_polygon_becomes_the_edge_that_traffic_meets_first(heading):
    turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
    corners = np.array([[0.0, -3.0], [1.0, -3.0], [1.0, 4.0], [0.0, 4.0]]) @ turn.T  # 1 m along, 7 m across
    edge = first_edge(shapely.Polygon(corners), heading)
    assert edge @ turn == pytest.approx(np.array([[0.0, 4.0], [0.0, -3.0]]), abs=1e-9)


def test_a_whole_map_can_be_read_without_a_log(folder):
    lane_map = read_map(map_file(folder), "x", None, ())
    assert validate(lane_map) == []
    assert lane_map.signals
    assert {line.kind for line in lane_map.stop_lines.values()} >= {"traffic_light"}
