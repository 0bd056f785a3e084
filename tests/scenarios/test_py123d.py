"""Logs in py123d's format, written by its own writers, come back as what was driven, seen and drawn on the map."""

import numpy as np
import pytest
import shapely

pytest.importorskip("py123d")  # the extra `logs`

from py123d_builder import (
    AXLE_HEIGHT_M,
    CAMERA_AT,
    EGO_MPS,
    EGO_Y_M,
    GAP_M,
    REAR_TO_IMU,
    START_US,
    ego_x_m,
    grey_of,
    write_log,
)

from data_gen.show import find_item
from nsdrive.cli import main
from nsdrive.dataset import open_dataset
from nsdrive.scenarios.py123d import Py123dConfig, Py123dSource
from nsdrive.scenarios.py123d.roads import with_stop_lines
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import Lane


def source_of(root, **settings):
    return Py123dSource(Py123dConfig(path=str(root), **settings))


def load(root, **settings):
    source = source_of(root, **settings)
    return source.load(source.items()[0])


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    root = tmp_path_factory.mktemp("logs")
    write_log(root)
    return load(root)


def test_the_ego_is_the_rear_axle_whatever_its_inertial_unit_is(scenario):
    for tick, state in enumerate(scenario.ego_log):
        assert (state.x_m, state.y_m) == pytest.approx((ego_x_m(tick / 10), EGO_Y_M), abs=1e-6)
        assert state.speed_mps == pytest.approx(EGO_MPS, abs=1e-6)
    assert len(scenario.ego_log) == scenario.n_ticks == 121
    assert scenario.clock_us == START_US
    assert scenario.notes["vehicle"] == "test-car"


def test_everybody_is_where_the_boxes_are_and_has_one_of_our_kinds(scenario):
    frame = scenario.frames[50]
    assert {o.track_id: o.kind for o in frame} == {
        "lead": "vehicle",
        "walker": "pedestrian",
        "cone": "traffic_cone",
    }
    lead = next(o for o in frame if o.track_id == "lead")
    assert lead.x_m == pytest.approx(ego_x_m(5.0) + GAP_M)
    assert (lead.length_m, lead.width_m, lead.height_m) == pytest.approx((4.0, 1.8, 1.5))
    assert (lead.vx_mps, lead.vy_mps) == pytest.approx((EGO_MPS, 0.0), abs=1e-6)
    assert next(o for o in frame if o.track_id == "cone").speed_mps == 0.0


def test_lights_are_those_of_the_frame_and_one_that_is_off_is_unknown(scenario):
    assert scenario.lights[59] == {"201": "red", "202": "unknown"}
    assert scenario.lights[60] == {"201": "green", "202": "unknown"}


def test_what_nobody_saw_at_a_tick_is_not_taken_from_another_time(tmp_path):
    write_log(tmp_path, seconds=9.0, camera="jpeg", missing={"lights": (2.0, 4.0), "camera": (2.0, 4.0)})
    source = source_of(tmp_path)
    (item,) = source.items()
    lights = source.load(item).lights
    assert [bool(lights[tick]) for tick in (20, 30, 40)] == [True, False, True]
    (camera,) = source.cameras(item)
    assert [camera.read(tick) is None for tick in (20, 30, 40)] == [False, True, False]


def test_the_map_has_lanes_connectors_areas_and_what_stops_traffic(scenario):
    lanes = scenario.lane_map.lanes
    assert {lane_id for lane_id, lane in lanes.items() if lane.is_connector} == {"201", "202"}
    assert lanes["201"].incoming == ("102",)
    assert lanes["102"].outgoing == ("201",)
    assert (lanes["102"].speed_limit_mps, lanes["101"].speed_limit_mps) == (13.4, None)
    assert lanes["201"].intersection_id == "5"
    assert scenario.lane_map.intersections["5"].kind == "traffic_light"
    assert scenario.lane_map.stop_lines["7"].kind == "traffic_light"
    assert scenario.lane_map.stop_lines["7"].line == pytest.approx(np.array([[78.5, 0.0], [78.5, -7.0]]))
    assert (lanes["101"].right_marking, lanes["102"].left_marking) == ("dashed_white", "dashed_white")
    assert lanes["101"].left_marking == "none"
    assert set(scenario.lane_map.crosswalks) == {"8"}
    assert (len(scenario.lane_map.walkways), len(scenario.lane_map.carparks)) == (1, 1)


def test_a_stop_line_is_for_the_lanes_that_its_zone_names_and_for_lights_and_signs_only(scenario):
    stops = {lane_id: set(lane.stop_line_ids) for lane_id, lane in scenario.lane_map.lanes.items()}
    assert stops.pop("201") == {"7"}
    assert stops.pop("202") == {"7", "13"}
    assert stops.pop("104") == {"14"}
    assert not any(stops.values())
    assert {i: line.kind for i, line in scenario.lane_map.stop_lines.items()} == {
        "7": "traffic_light",
        "12": "crosswalk",
        "13": "stop_sign",
        "14": "stop_sign",
        "15": "stop_sign",
    }


def test_a_short_lane_does_not_stop_at_its_start_for_the_zone_at_its_end():
    line = np.array([[0.0, 0.0], [4.0, 0.0]])
    short = Lane(
        lane_id="1",
        roadblock_id="1",
        is_connector=False,
        centerline=line,
        left_boundary=line + np.array([0.0, 1.75]),
        right_boundary=line - np.array([0.0, 1.75]),
        speed_limit_mps=None,
    )
    for from_x, expected in ((3.0, ()), (0.0, ("7",))):
        zone = shapely.box(from_x, -1.75, from_x + 1.0, 1.75)
        lanes, _ = with_stop_lines({"7": (zone, "STOP_SIGN", ("1",))}, {"1": short}, frozenset())
        assert lanes["1"].stop_line_ids == expected


def test_lanes_of_one_group_are_a_roadblock_and_know_who_is_beside_them(scenario):
    lanes = scenario.lane_map.lanes
    assert lanes["101"].roadblock_id == lanes["102"].roadblock_id == "1"
    assert (lanes["101"].left_neighbor, lanes["101"].right_neighbor) == (None, "102")
    assert (lanes["102"].left_neighbor, lanes["102"].right_neighbor) == ("101", None)
    assert lanes["201"].left_neighbor == "202"
    assert set(scenario.lane_map.roadblocks) == {"1", "2", "3", "4"}


def test_an_oncoming_lane_in_a_group_is_a_roadblock_of_its_own(tmp_path):
    write_log(tmp_path, road="mixed")
    lanes = load(tmp_path).lane_map.lanes
    assert lanes["101"].roadblock_id == lanes["102"].roadblock_id
    assert lanes["111"].roadblock_id != lanes["101"].roadblock_id
    assert lanes["111"].left_neighbor is lanes["111"].right_neighbor is None


def test_neighbours_of_one_direction_share_a_roadblock_where_there_are_no_groups(tmp_path):
    write_log(tmp_path, road="neighbours")
    lanes = load(tmp_path).lane_map.lanes
    assert lanes["101"].roadblock_id == lanes["102"].roadblock_id != lanes["111"].roadblock_id
    assert (lanes["101"].left_neighbor, lanes["101"].right_neighbor) == (None, "102")
    assert lanes["201"].is_connector, "a lane that has a traffic light leads through a junction"
    assert not lanes["103"].is_connector


def test_a_route_that_the_log_tells_is_taken_and_one_that_is_inferred_is_listed_as_unknown(tmp_path):
    write_log(tmp_path, log="told", dataset="nuplan", route=("1", "2", "99"))
    told = load(tmp_path, logs=("told",))
    assert told.route_roadblock_ids == ("1", "2")
    assert "route" not in told.unknown
    write_log(tmp_path, log="untold", dataset="nuplan")
    untold = load(tmp_path, logs=("untold",))
    assert untold.route_roadblock_ids[:3] == ("1", "2", "3")
    assert "route" in untold.unknown


def test_a_planned_route_is_the_route_and_its_end_the_goal(tmp_path):
    way = np.array([[0.0, EGO_Y_M, 30.0], [180.0, EGO_Y_M, 30.0]])
    write_log(tmp_path, planned=way, seconds=8.0)
    scenario = load(tmp_path)
    assert scenario.route_roadblock_ids == ("1", "2", "3")
    assert scenario.goal_m == pytest.approx((180.0, EGO_Y_M))
    assert "route" not in scenario.unknown


def test_what_a_log_does_not_tell_is_listed(tmp_path, scenario):
    assert scenario.unknown == {"route"}
    write_log(tmp_path, lights=False)
    assert load(tmp_path).unknown == {"route", "traffic_lights"}


def test_two_frames_a_second_make_ten_ticks_a_second(tmp_path, scenario):
    write_log(tmp_path, rate_hz=2.0)
    slow = load(tmp_path)
    assert slow.n_ticks == scenario.n_ticks
    for tick in (0, 13, 77, 120):
        assert slow.ego_log[tick].x_m == pytest.approx(scenario.ego_log[tick].x_m, abs=1e-6)
        assert slow.frames[tick].ids == scenario.frames[tick].ids
        assert slow.frames[tick].boxes == pytest.approx(scenario.frames[tick].boxes, abs=1e-6)
    assert slow.notes["boxes_every_s"] == 0.5


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_files_are_read_too(tmp_path, scenario, compression):
    write_log(tmp_path, compression=compression, camera="jpeg")
    source = source_of(tmp_path)
    (item,) = source.items()
    packed = source.load(item)
    assert packed.ego_log == scenario.ego_log
    assert packed.lights == scenario.lights
    assert source.cameras(item)[0].read(50) is not None


def test_a_log_is_shown_by_its_folder_and_a_scene_by_the_tick_at_which_it_begins(tmp_path):
    folder = write_log(tmp_path, seconds=22.0)
    for name, first_tick in ((str(folder), 0), (f"{folder}@150", 150)):
        source, item = find_item(name)
        assert source.load(item).clock_us == START_US + first_tick * 100_000


def test_riders_and_mounts_of_argoverse_are_one_and_signs_are_no_obstacles(tmp_path):
    write_log(tmp_path, dataset="av2-sensor")
    frame = load(tmp_path).frames[30]
    assert dict(zip(frame.ids, frame.kinds.tolist(), strict=True)) == {"00000000": 0, "00000001": 1}


def test_measured_velocities_of_nuplan_are_taken(tmp_path):
    write_log(tmp_path, dataset="nuplan")
    frame = load(tmp_path).frames[0]
    assert {o.track_id: (o.kind, o.vx_mps) for o in frame} == {
        "00aa": ("vehicle", EGO_MPS),
        "00bb": ("czone_sign", 0.0),
    }


def test_a_long_log_is_cut_into_scenes_of_which_the_last_takes_the_rest(tmp_path):
    write_log(tmp_path, seconds=27.0)
    whole = load(tmp_path, scene_s=None)
    source = source_of(tmp_path, scene_s=8.0)
    items = source.items()
    assert [item.rpartition("@")[2] for item in items] == ["0", "80", "160"]
    scenes = [source.load(item) for item in items]
    assert [scene.n_ticks for scene in scenes] == [80, 80, 111]
    assert len({scene.scenario_id for scene in scenes}) == 3
    assert len({scene.split_key for scene in scenes}) == 1
    for scene, start in zip(scenes, (0, 80, 160), strict=True):
        assert scene.ego_log[40].x_m == pytest.approx(whole.ego_log[start + 40].x_m, abs=1e-9)
        assert scene.lights[40] == whole.lights[start + 40]
        assert scene.clock_us == START_US + start * 100_000
    assert len(source_of(tmp_path, scene_s=8.0, limit_per_log=2).items()) == 2


def test_logs_are_chosen_by_data_set_split_name_and_place(tmp_path):
    write_log(tmp_path, log="log-a")
    write_log(tmp_path, log="log-b")
    write_log(tmp_path, log="log-c", dataset="nuplan")
    assert len(source_of(tmp_path).items()) == 3
    assert source_of(tmp_path, datasets=("nuplan",)).items() == ("logs/nuplan_val/log-c@0",)
    assert source_of(tmp_path, splits=("nuscenes_val",), limit=1).items() == ("logs/nuscenes_val/log-a@0",)
    assert source_of(tmp_path, logs=("log-b",)).items() == ("logs/nuscenes_val/log-b@0",)
    with pytest.raises(ValueError, match="none of which passes the filters"):
        source_of(tmp_path, locations=("moon",)).items()


def test_a_map_of_a_whole_city_lies_beside_the_logs(tmp_path):
    folder = write_log(tmp_path)
    city = tmp_path / "maps" / "nuscenes" / "nuscenes_town.arrow"
    city.parent.mkdir(parents=True)
    (folder / "map.arrow").rename(city)
    assert "102" in load(tmp_path).lane_map.lanes
    near = load(tmp_path, map_margin_m=0.0).lane_map.lanes
    assert {"102", "101"} <= set(near), "a lane group is read whole"
    assert "111" not in near
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "maps").rename(elsewhere)
    with pytest.raises(ScenarioError, match="no map nuscenes/nuscenes_town"):
        load(tmp_path)
    assert "102" in load(tmp_path, maps_path=str(elsewhere)).lane_map.lanes


@pytest.mark.parametrize("how", ["jpeg", "path", "mp4"])
def test_a_camera_stands_where_it_stood_and_shows_the_tick_that_it_saw(tmp_path, how):
    write_log(tmp_path, camera=how, seconds=9.0)
    source = source_of(tmp_path, sensor_path=str(tmp_path / "images"))
    (camera,) = source.cameras(source.items()[0])
    assert camera.name == "CAM_F0"
    expected = np.array(CAMERA_AT) - REAR_TO_IMU + [0.0, 0.0, AXLE_HEIGHT_M]
    assert camera.position_m == pytest.approx(expected)
    assert camera.rotation @ [0.0, 0.0, 1.0] == pytest.approx([1.0, 0.0, 0.0])
    assert camera.rotation @ [1.0, 0.0, 0.0] == pytest.approx([0.0, -1.0, 0.0])
    assert camera.intrinsics == pytest.approx(np.array([[60.0, 0.0, 32.5], [0.0, 61.0, 23.5], [0.0, 0.0, 1.0]]))
    assert camera.distortion == pytest.approx([-0.1, 0.02, 0.001, -0.002, 0.003])
    for tick in (0, 33, 90):
        image = camera.read(tick)
        assert image.shape == (48, 64, 3)
        assert abs(float(image.mean()) - grey_of(tick)) < 4.0  # a video's greys are a little off
    assert camera.read(91) is None


def test_images_in_files_that_nobody_told_the_place_of_are_no_images(tmp_path, monkeypatch):
    monkeypatch.delenv("NUSCENES_DATA_ROOT", raising=False)
    write_log(tmp_path, camera="path", seconds=8.0)
    source = source_of(tmp_path)
    assert source.cameras(source.items()[0]) == ()
    monkeypatch.setenv("NUSCENES_DATA_ROOT", str(tmp_path / "images"))
    assert len(source.cameras(source.items()[0])) == 1


def test_a_log_with_fisheye_cameras_only_says_so_in_one_line(tmp_path):
    write_log(tmp_path, camera="fisheye", seconds=8.0)
    source = source_of(tmp_path)
    item = source.items()[0]
    with pytest.raises(ScenarioError, match="fisheye_mei, and only a pinhole"):
        source.cameras(item)
    assert "FMCAM_L" in source.load(item).notes["cameras_refused"]


def test_a_data_set_without_lanes_is_refused_in_one_line(tmp_path):
    write_log(tmp_path, log="areas", road="areas")
    with pytest.raises(ScenarioError, match="holds no lanes: the data set publishes none"):
        load(tmp_path, logs=("areas",))
    write_log(tmp_path, log="bare", road=None)
    with pytest.raises(ScenarioError, match="has no map, and without lanes nobody can plan"):
        load(tmp_path, logs=("bare",))


def test_samples_of_such_a_log_pass_the_check(tmp_path):
    write_log(tmp_path / "in", camera="jpeg")
    small = ["image_width_px=160", "image_height_px=90", "rig=3", "samples.anchors_per_scenario=1"]
    out = str(tmp_path / "set")
    assert main(["generate", "data/py123d", f"scenarios.path={tmp_path / 'in'}", *small, "--out", out]) == 0
    assert main(["check", out]) == 0
    samples = [s for split in ("train", "val", "test") for s in open_dataset(out).samples(split)]
    assert [s.scenario_id for s in samples] == ["123d-nuscenes_val-log-a-000000"]
