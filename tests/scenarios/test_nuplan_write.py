"""Scenarios written as nuPlan logs and maps: what nuPlan's own code insists on, and that reading back gives them again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import shapely
from builders import car, scenario, straight_map

from nsdrive.cli import main
from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan.alternate import alternated, is_alternating
from nsdrive.scenarios.nuplan.write import log_ticks, write_scenario
from nsdrive.scenarios.nuplan.write_map import ORIGIN_UTM_M, dense, number
from nsdrive.scenarios.source import ScenarioError
from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.world.types import HISTORY_TICKS
from planners.idm import IdmConfig, IdmPlanner

ORIGIN = np.array(ORIGIN_UTM_M)


def rows(path, query):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def lit_junction():
    config = SyntheticConfig(seed=3, families=("red_light",), background_traffic=0.4)
    return build(config, 0)


@pytest.fixture(scope="module")
def junction():
    return lit_junction()


@pytest.fixture(scope="module")
def folder(junction, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    write_scenario(junction, out, IdmPlanner(IdmConfig()))
    return out


@pytest.fixture(scope="module")
def log(folder):
    (path,) = (folder / "logs").iterdir()
    return path


@pytest.fixture(scope="module")
def gpkg(folder):
    (path,) = (folder / "maps").glob("nsdrive-*/*/map.gpkg")
    return path


@pytest.fixture(scope="module")
def reread(folder):
    source = NuplanSource(NuplanConfig(path=str(folder / "logs"), map_margin_m=None))
    (item,) = source.items()
    return source.load(item)


def test_the_ego_comes_back_as_it_was(junction, reread):
    for was, now in zip(junction.ego_log, reread.ego_log, strict=False):
        assert now.x_m - ORIGIN[0] == pytest.approx(was.x_m, abs=1e-8)
        assert now.y_m - ORIGIN[1] == pytest.approx(was.y_m, abs=1e-8)
        assert now.heading_rad == pytest.approx(was.heading_rad, abs=1e-12)
        assert (now.speed_mps, now.accel_mps2) == (was.speed_mps, was.accel_mps2)


def test_the_others_come_back_as_they_were_at_every_tick(junction, reread):
    for was, now in zip(junction.frames, reread.frames, strict=False):
        boxes = was.boxes + np.array([*ORIGIN, 0.0, 0.0, 0.0])
        before, after = np.lexsort(boxes.T), np.lexsort(now.boxes.T)
        np.testing.assert_allclose(now.boxes[after], boxes[before], atol=1e-8)
        np.testing.assert_array_equal(now.kinds[after], was.kinds[before])
        moving = was.kinds[before] < 3
        np.testing.assert_allclose(now.velocities_mps[after][moving], was.velocities_mps[before][moving], atol=1e-12)


def test_the_lights_and_the_route_come_back_as_they_were(junction, reread):
    fids = number(junction.lane_map)
    for was, now in zip(junction.lights, reread.lights, strict=False):
        assert dict(now) == {str(fids.lanes[connector]): state for connector, state in was.items()}
    assert reread.route_roadblock_ids == tuple(map(str, fids.route(junction.route_roadblock_ids)))
    assert len(reread.route_roadblock_ids) == len(junction.route_roadblock_ids)
    np.testing.assert_allclose(np.subtract(reread.goal_m, ORIGIN), junction.goal_m, atol=1e-8)


def test_the_map_comes_back_as_it_was(junction, reread):
    fids = number(junction.lane_map)
    assert len(reread.lane_map.lanes) == len(junction.lane_map.lanes)
    for was in junction.lane_map.lanes.values():
        now = reread.lane_map.lanes[str(fids.lanes[was.lane_id])]
        for line in ("centerline", "left_boundary", "right_boundary"):
            np.testing.assert_allclose(getattr(now, line) - ORIGIN, getattr(was, line), atol=1e-6)
        assert (now.is_connector, now.speed_limit_mps, now.turn) == (was.is_connector, was.speed_limit_mps, was.turn)
        assert {int(n) for n in now.outgoing} == {fids.lanes[n] for n in was.outgoing}
        assert (now.intersection_id is None) == (was.intersection_id is None)
        assert len(now.stop_line_ids) == len(was.stop_line_ids)
        if not was.is_connector:
            assert now.left_neighbor == (str(fids.lanes[was.left_neighbor]) if was.left_neighbor else None)
        areas = shapely.polygons([now.polygon - ORIGIN, was.polygon])
        assert shapely.area(shapely.symmetric_difference(*areas)) < 1e-3
    for was, now in zip(junction.lane_map.stop_lines.values(), reread.lane_map.stop_lines.values(), strict=True):
        np.testing.assert_allclose(now.line - ORIGIN, was.line, atol=2e-3)
        assert now.kind == was.kind
    for layer in ("crosswalks", "intersections"):
        assert len(getattr(reread.lane_map, layer)) == len(getattr(junction.lane_map, layer))
    road, reread_road = (
        shapely.union_all([shapely.Polygon(ring) for ring in lane_map.drivable_area])
        for lane_map in (junction.lane_map, reread.lane_map)
    )
    assert shapely.area(reread_road) == pytest.approx(shapely.area(road), abs=0.1)


def test_what_was_read_from_nuplan_can_be_written_again(reread, tmp_path):
    write_scenario(reread, tmp_path)
    source = NuplanSource(NuplanConfig(path=str(tmp_path / "logs"), map_margin_m=None))
    again = source.load(source.items()[0])
    for was, now in zip(reread.ego_log, again.ego_log, strict=True):
        assert now.pose == pytest.approx(was.pose, abs=1e-12)
        assert (now.speed_mps, now.accel_mps2) == (was.speed_mps, was.accel_mps2)
    assert again.lights == reread.lights
    assert again.route_roadblock_ids == reread.route_roadblock_ids
    for was, now in zip(reread.frames, again.frames, strict=True):
        np.testing.assert_array_equal(now.boxes, was.boxes)
    for was, now in zip(reread.lane_map.lanes.values(), again.lane_map.lanes.values(), strict=True):
        np.testing.assert_allclose(now.centerline, was.centerline, atol=1e-6)
        assert (now.outgoing, now.speed_limit_mps) == (was.outgoing, was.speed_limit_mps)


def test_what_a_source_does_not_tell_is_still_unknown_after_the_round_trip(tmp_path, junction):
    untold = frozenset({"traffic_lights", "route", "box_sizes"})
    world = replace(scenario(straight_map(200.0), objects=[], speed_mps=8.0), unknown=untold, goal_m=(150.0, 0.0))
    written = write_scenario(world, tmp_path)
    assert NuplanSource(NuplanConfig(path=str(written.log))).load(written.token).unknown == untold


def test_a_scenario_of_a_nuplan_city_is_written_into_that_citys_projection(tmp_path, reread):
    city = replace(reread, lane_map=replace(reread.lane_map, name="nuplan-us-ma-boston"))
    path = write_scenario(city, tmp_path).map
    assert rows(path, "select value from meta where key = 'projectedCoordSystem'") == [("epsg:32619",)]


def test_nuplan_finds_the_tag_and_has_enough_log_around_it(log):
    scenes = [name for (name,) in rows(log, "select token from scene order by name")]
    ((tag, scene),) = rows(
        log, "select p.timestamp, p.scene_token from scenario_tag t join lidar_pc p on p.token = t.lidar_pc_token"
    )
    assert len(scenes) == 5
    assert scene == scenes[2]  # the first two and the last two scenes do not count
    stamps = np.array([stamp for (stamp,) in rows(log, "select timestamp from lidar_pc order by timestamp")])
    assert (np.diff(stamps) == 50_000).all()
    assert tag - stamps[0] >= 5.1e6
    assert stamps[-1] - tag >= 12e6


@pytest.mark.parametrize(("kind", "before_s"), [("following_lane_with_lead", 3.0), ("our_own", 0.0)])
def test_nuplans_run_begins_where_ours_does_whatever_the_scenario_is_called(kind, before_s, tmp_path):
    world = replace(scenario(straight_map(300.0), objects=[], speed_mps=8.0), scenario_type=kind)
    written = write_scenario(world, tmp_path)
    ((at,),) = rows(
        written.log,
        "select e.x from scenario_tag t join lidar_pc p on p.token = t.lidar_pc_token join lidar_pc q"
        f" on q.timestamp = p.timestamp - {before_s} * 1000000 join ego_pose e on e.token = q.ego_pose_token",
    )
    assert at - ORIGIN[0] == pytest.approx(world.ego_log[HISTORY_TICKS].x_m)


def test_tokens_are_eight_bytes_and_no_two_rows_share_one(log):
    for table in ("ego_pose", "lidar_pc", "lidar_box", "track", "scene", "traffic_light_status"):
        tokens = [token for (token,) in rows(log, f"select token from {table}")]
        assert len(tokens) == len(set(tokens)) > 0
        assert {len(token) for token in tokens} == {8}
    assert len(rows(log, "select * from category")) == 7


def test_every_box_and_pose_is_linked_to_the_clock(log):
    assert rows(log, "select count(*) from lidar_pc where ego_pose_token not in (select token from ego_pose)") == [(0,)]
    assert rows(log, "select count(*) from lidar_box where lidar_pc_token not in (select token from lidar_pc)") == [
        (0,)
    ]
    ((route,),) = rows(log, "select distinct roadblock_ids from scene")
    assert len(route.split(" ")) >= 2


def test_ids_are_unique_over_lanes_and_connectors_and_nothing_is_null_that_nuplan_reads(gpkg):
    for pair in (("lanes_polygons", "lane_connectors"), ("lane_groups_polygons", "lane_group_connectors")):
        fids = [fid for layer in pair for (fid,) in rows(gpkg, f"select fid from {layer}")]
        assert len(fids) == len(set(fids)) > 0
    assert rows(gpkg, "select count(*) from lane_connectors where traffic_light_stop_line_fids is null") == [(0,)]
    assert rows(gpkg, "select count(*) from lanes_polygons where fid != lane_fid") == [(0,)]
    assert len(rows(gpkg, "select distinct traffic_light_stop_line_fids from lane_connectors")) > 1


def test_the_four_official_maps_are_there_as_empty_ones(folder):
    listed = json.loads((folder / "maps" / "nuplan-maps-v1.0.json").read_text())
    assert len(listed) == 5
    for name, about in listed.items():
        path = folder / "maps" / name / about["version"] / "map.gpkg"
        ((lanes,),) = rows(path, "select count(*) from lane_connectors")
        assert (lanes > 0) == name.startswith("nsdrive-")


def test_the_same_scenario_gives_the_same_bytes(folder, tmp_path):
    write_scenario(lit_junction(), tmp_path, IdmPlanner(IdmConfig()))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_what_fails_half_way_leaves_no_log(tmp_path, monkeypatch, junction):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("nsdrive.scenarios.nuplan.write_log._ego_columns", broken)
    with pytest.raises(OSError, match="disk full"):
        write_scenario(junction, tmp_path, None)
    assert not list(tmp_path.rglob("*.db"))
    assert not list(tmp_path.rglob("*.part"))


def test_the_ego_drives_on_where_its_log_ends_and_the_others_keep_their_speed(junction):
    ticks = log_ticks(junction, IdmPlanner(IdmConfig()))
    at = {round(tick.time_s, 3): tick for tick in ticks}
    assert min(at) == -1.0
    assert max(at) >= 17.0
    steps = np.hypot(*np.diff([[tick.ego.x_m, tick.ego.y_m] for tick in ticks], axis=0).T)
    speeds = np.array([tick.ego.speed_mps for tick in ticks])
    assert np.abs(steps - 0.05 * (speeds[:-1] + speeds[1:]) / 2).max() < 0.03
    assert at[2.0].ego.x_m == junction.ego_log[HISTORY_TICKS].x_m
    last, later = junction.frames[-1], at[16.0].objects
    np.testing.assert_allclose(later.boxes[:, :2], last.boxes[:, :2] + last.velocities_mps * 1.0, atol=1e-9)
    assert at[16.0].lights == junction.lights[-1]


def test_a_half_tick_lies_between_its_neighbours(junction):
    ticks = log_ticks(junction, None)
    a, between, b = ticks[60:63]
    assert between.time_s == pytest.approx((a.time_s + b.time_s) / 2)
    assert between.ego.x_m == pytest.approx((a.ego.x_m + b.ego.x_m) / 2)
    spread = {name: (x, y) for name, x, y in zip(a.objects.ids, a.objects.boxes, b.objects.boxes, strict=True)}
    for name, box in zip(between.objects.ids, between.objects.boxes, strict=True):
        np.testing.assert_allclose(box[:2], (spread[name][0][:2] + spread[name][1][:2]) / 2)


def test_lanes_that_follow_lanes_get_a_connector_between_them(tmp_path):
    world = scenario(straight_map(200.0, n_lanes=2, n_pieces=3), objects=[car("lead", 60.0, 0.0)], speed_mps=8.0)
    assert not is_alternating(world.lane_map)
    shaped = alternated(world)
    assert is_alternating(shaped.lane_map)
    assert shaped.route_roadblock_ids == ("block-0", "block-0>", "block-1", "block-1>", "block-2")
    lengths = [shapely.LineString(lane.centerline).length for lane in shaped.lane_map.lanes.values()]
    assert sum(lengths) == pytest.approx(400.0)
    assert min(lengths) == pytest.approx(2.0)
    write_scenario(world, tmp_path, None)
    ((count,),) = rows(next(tmp_path.glob("maps/nsdrive-*/*/map.gpkg")), "select count(*) from lane_connectors")
    assert count == 4


def test_connectors_in_a_row_become_one_and_keep_their_light():
    world = scenario(straight_map(200.0, n_pieces=4), objects=[], speed_mps=8.0)
    lanes = {
        name: replace(lane, is_connector=lane.roadblock_id in ("block-1", "block-2"))
        for name, lane in world.lane_map.lanes.items()
    }
    world = replace(
        world,
        lane_map=replace(world.lane_map, lanes=lanes),
        lights=tuple({"1-0": "red"} for _ in world.lights),
        route_roadblock_ids=("block-0", "block-1", "block-2", "block-3"),
    )
    shaped = alternated(world)
    assert is_alternating(shaped.lane_map)
    assert list(shaped.lane_map.lanes) == ["0-0", "3-0", "1-0+2-0"]
    assert shaped.lane_map.lanes["1-0+2-0"].outgoing == ("3-0",)
    assert shapely.LineString(shaped.lane_map.lanes["1-0+2-0"].centerline).length == pytest.approx(100.0)
    assert shaped.lights[0] == {"1-0+2-0": "red"}
    assert shaped.route_roadblock_ids == ("block-0", "block-1+block-2", "block-3")


def test_a_map_of_nuplans_shape_is_left_as_it_is(junction):
    assert alternated(junction) is junction


def test_a_route_of_one_roadblock_goes_on_into_the_next(tmp_path):
    world = replace(scenario(straight_map(200.0), objects=[], speed_mps=8.0), route_roadblock_ids=("block-0",))
    written = write_scenario(world, tmp_path, None)
    ((route,),) = rows(written.log, "select distinct roadblock_ids from scene")
    assert len(route.split(" ")) == 2


def test_a_route_that_is_not_on_the_map_is_one_line(tmp_path):
    world = replace(scenario(straight_map(200.0), objects=[], speed_mps=8.0), route_roadblock_ids=("elsewhere",))
    with pytest.raises(ScenarioError, match="test-scenario: its route has 0 roadblocks"):
        write_scenario(world, tmp_path, None)


def test_an_ego_that_cannot_be_driven_on_is_one_line(tmp_path):
    class Lost(IdmPlanner):
        def plan(self, observation):
            raise ValueError("nowhere to go")

    world = scenario(straight_map(200.0), objects=[], speed_mps=8.0)
    with pytest.raises(ScenarioError, match="test-scenario: not written for nuPlan: nowhere to go"):
        write_scenario(world, tmp_path, Lost(IdmConfig()))


def test_baseline_nodes_are_at_most_a_metre_apart_and_never_twice_the_same():
    line = dense(np.array([[0.0, 0.0], [0.0, 0.0], [3.5, 0.0], [3.5, 0.4]]))
    steps = np.hypot(*np.diff(line, axis=0).T)
    assert steps.max() <= 1.0 + 1e-9
    assert steps.min() > 0.1
    assert line[[0, -1]].tolist() == [[0.0, 0.0], [3.5, 0.4]]


def test_the_command_line_exports_resumes_and_overwrites(tmp_path, capsys):
    out = tmp_path / "nuplan"
    line = ["export", "data/synthetic", "scenarios.n_scenarios=2", "--format", "nuplan", "--out", str(out)]
    assert main(line) == 0
    listed = json.loads((out / "scenarios.json").read_text())
    assert [row["type"] for row in listed["scenarios"]] == ["following_lane_without_lead", "high_lateral_acceleration"]
    for row in listed["scenarios"]:
        ((token,),) = rows(out / row["log"], "select lidar_pc_token from scenario_tag")
        assert token.hex() == row["token"]
        assert (out / row["map"]).is_file()
    assert main(line) == 1
    assert "exists" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in out.rglob("*.db")}
    next(iter(before)).unlink()
    assert main([*line, "--resume"]) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.db")} == before
    for other in ("scenarios.seed=1", "scenarios.n_scenarios=3", "planner=pdm_lanes"):
        capsys.readouterr()
        assert main([*line[:3], other, *line[3:], "--resume"]) == 1
        assert "was begun with other settings" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.db")} == before
    assert main([*line, "--overwrite"]) == 0
