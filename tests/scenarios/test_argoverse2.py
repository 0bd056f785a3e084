"""Argoverse 2's two kinds of logs, written small in their own formats, become scenarios a driver would recognise."""

import os
from pathlib import Path

import numpy as np
import pytest
from argoverse2_builder import EGO_SPEED, EGO_START, LANE, YAW, city, write_forecasting_scenario, write_sensor_log

from nsdrive.scenarios.argoverse2.sensor import KINDS
from nsdrive.scenarios.argoverse2.source import Argoverse2Config, Argoverse2Source, list_items, load_one
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.route import validate
from nsdrive.world.types import OBJECT_KINDS, Scenario, TrackedObject


def load(folder: Path) -> Scenario:
    config = Argoverse2Config(path=str(folder))
    (item,) = list_items(config)
    return load_one(config, item)


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return load(write_sensor_log(tmp_path_factory.mktemp("av2") / "log-1"))


@pytest.fixture(scope="module")
def forecasting(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return load(write_forecasting_scenario(tmp_path_factory.mktemp("av2") / "mf-1"))


def thing(scenario: Scenario, tick: int, start: str) -> TrackedObject:
    (found,) = [each for each in scenario.frames[tick] if each.track_id.startswith(start)]
    return found


def test_the_ego_drives_where_and_as_fast_as_it_was_logged(sensor, forecasting):
    for scenario in (sensor, forecasting):
        poses = np.stack([state.pose for state in scenario.ego_log])
        expected = city(EGO_START + EGO_SPEED * 0.1 * np.arange(scenario.n_ticks), 0.0)
        assert np.abs(poses[:, :2] - expected).max() < 0.01
        assert np.allclose(poses[:, 2], YAW, atol=1e-6)
        assert np.allclose([state.speed_mps for state in scenario.ego_log], EGO_SPEED, atol=0.02)
        assert np.allclose([state.accel_mps2 for state in scenario.ego_log], 0.0, atol=0.05)
        assert [state.time_s for state in scenario.ego_log] == pytest.approx(0.1 * np.arange(scenario.n_ticks))


def test_a_tick_is_a_time_and_not_a_row(sensor):
    # The sweeps jitter by 0.3 ms, which at 8 m/s is 2.4 mm: interpolated away.
    lead = np.array([thing(sensor, tick, "aaaaaaaa").x_m for tick in range(sensor.n_ticks)])
    assert np.allclose(lead, city(EGO_START + 20 + 0.8 * np.arange(sensor.n_ticks), 0.0)[:, 0], atol=5e-4)


def test_boxes_seen_from_a_tilted_ego_lie_in_the_plane_of_the_city(sensor):
    parked = thing(sensor, 50, "cccccccc")
    assert (parked.x_m, parked.y_m) == pytest.approx(tuple(city(70.0, -3.0)), abs=1e-3)
    assert parked.heading_rad == pytest.approx(YAW, abs=1e-3)
    assert (parked.length_m, parked.width_m, parked.height_m) == pytest.approx((4.4, 1.8, 1.5))


def test_speeds_and_accelerations_are_derived_from_positions(sensor):
    bus = thing(sensor, 40, "bbbbbbbb")  # 8 m/s, braking at 0.5 m/s^2
    assert bus.speed_mps == pytest.approx(6.0, abs=0.02)
    assert bus.accel_mps2 == pytest.approx(-0.5, abs=0.02)
    assert np.arctan2(bus.vy_mps, bus.vx_mps) == pytest.approx(YAW, abs=1e-3)
    assert thing(sensor, 0, "bbbbbbbb").speed_mps == pytest.approx(8.0, abs=0.02)
    assert thing(sensor, 40, "cccccccc").speed_mps == 0.0


def test_a_cyclist_and_the_bicycle_are_one_object(sensor):
    bicycles = [each for each in sensor.frames[60] if each.kind == "bicycle"]
    assert [each.track_id[:8] for each in bicycles] == ["eeeeeeee"]
    assert (bicycles[0].length_m, bicycles[0].height_m) == pytest.approx((1.8, 1.8))


def test_signs_are_drawn_and_not_driven_around(sensor):
    assert not [each for each in sensor.frames[60] if each.track_id.startswith("89abcdef")]
    ((x, y, heading),) = sensor.lane_map.stop_signs
    assert (x, y, heading) == pytest.approx((*city(148.0, -3.5), YAW), abs=1e-3)
    assert not sensor.lane_map.stop_lines


def test_a_category_of_a_later_release_becomes_a_generic_object_and_is_named(sensor):
    assert thing(sensor, 60, "01234567-f").kind == "generic_object"
    assert sensor.notes["unknown_categories"] == ["HOVERCRAFT"]
    assert thing(sensor, 60, "01234567-c").kind == "traffic_cone"  # ids are cut short, but never to the same


def test_a_box_that_is_seen_once_is_there_for_one_tick(sensor):
    assert [tick for tick, frame in enumerate(sensor.frames) if any(i.startswith("9999") for i in frame.ids)] == [30]


def test_every_published_category_has_a_kind_of_nuplan():
    assert len(set(KINDS) - {"EGO_VEHICLE"}) == 30
    assert {kind for kind in KINDS.values() if kind is not None} <= set(OBJECT_KINDS)


def test_dropped_sweeps_are_bridged_and_long_gaps_are_not(tmp_path, sensor):
    bridged = load(write_sensor_log(tmp_path / "log-1", drop=(50, 51, 90)))
    assert bridged.n_ticks == sensor.n_ticks
    assert thing(bridged, 51, "aaaaaaaa").x_m == pytest.approx(thing(sensor, 51, "aaaaaaaa").x_m, abs=1e-3)
    with pytest.raises(ScenarioError, match=r"annotations\.feather: no boxes for 1\.10 s, 4\.9 s after the start"):
        load(write_sensor_log(tmp_path / "log-1", drop=range(50, 60)))


def test_the_other_distribution_with_the_ego_as_a_track_gives_the_same_scenario(tmp_path, sensor):
    other = load(write_sensor_log(tmp_path / "log-1", with_ego=True))
    assert other.frames[60].ids == sensor.frames[60].ids
    assert np.array_equal(other.frames[60].boxes, sensor.frames[60].boxes)


def test_of_several_maps_the_one_under_the_ego_is_taken(tmp_path, sensor):
    scenario = load(write_sensor_log(tmp_path / "log-1", second_map=True))
    assert scenario.lane_map.name == sensor.lane_map.name == "argoverse2-PIT-47896"


def test_the_same_files_give_the_same_scenario_twice(tmp_path, sensor):
    again = load(write_sensor_log(tmp_path / "log-1"))
    assert again.ego_log == sensor.ego_log
    assert again.scenery_seed == sensor.scenery_seed
    for frame, before in zip(again.frames, sensor.frames, strict=True):
        assert frame.ids == before.ids
        assert frame.boxes.tobytes() == before.boxes.tobytes()


def test_forecasting_tracks_are_there_only_when_they_were_seen(forecasting):
    seen = [tick for tick, frame in enumerate(forecasting.frames) if "102" in frame.ids]
    assert seen == list(range(30, 60))
    assert "AV" not in forecasting.frames[0].ids
    assert forecasting.notes["unknown_object_types"] == ["teapot"]
    assert thing(forecasting, 40, "103").kind == "generic_object"


def test_a_scenario_says_what_it_does_not_know(sensor, forecasting):
    missing = {"traffic_lights", "speed_limits", "stop_lines", "route"}
    assert sensor.unknown == missing
    assert forecasting.unknown == missing | {"box_sizes"}
    for scenario in (sensor, forecasting):
        assert {lane.speed_limit_mps for lane in scenario.lane_map.lanes.values()} == {None}
        assert not any(scenario.lights)
        assert not scenario.lane_map.signals
        assert scenario.goal_m is None


def test_the_map_is_sound_and_links_what_the_source_links_on_one_side_only(sensor):
    lanes = sensor.lane_map.lanes
    assert validate(sensor.lane_map) == []
    assert lanes["6"].incoming == ("4",)
    assert lanes["1"].outgoing == ("4",)  # 777 is outside of this map
    assert (lanes["4"].turn, lanes["5"].turn, lanes["1"].turn) == ("straight", "left", "straight")
    assert lanes["2"].left_marking == "double_yellow"
    assert np.hypot(*np.diff(lanes["1"].centerline, axis=0).T).max() <= 1.0 + 1e-9
    assert np.allclose(lanes["3"].centerline[0], city(150.0, 2 * LANE), atol=1e-2)


def test_only_parallel_lanes_of_one_direction_share_a_roadblock(sensor):
    lanes = sensor.lane_map.lanes
    assert lanes["1"].roadblock_id == lanes["2"].roadblock_id == "rb-1"
    assert lanes["3"].roadblock_id == "rb-3"
    assert (lanes["2"].left_neighbor, lanes["2"].right_neighbor, lanes["3"].left_neighbor) == (None, "1", None)
    assert lanes["4"].intersection_id == lanes["5"].intersection_id == "intersection-4"
    assert sensor.route_roadblock_ids == ("rb-1", "rb-4", "rb-6")


def test_crosswalks_never_cross_themselves(sensor):
    for crosswalk in sensor.lane_map.crosswalks.values():
        x, y = crosswalk.polygon.T
        assert abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 == pytest.approx(36.0, abs=0.1)


def test_logs_are_found_in_any_folder_above_them_in_order(tmp_path):
    write_sensor_log(tmp_path / "val" / "b")
    write_sensor_log(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "sensors" / "cameras" / "annotations").mkdir(parents=True)
    write_forecasting_scenario(tmp_path / "val" / "c")
    (tmp_path / "linked").symlink_to(tmp_path / "val", target_is_directory=True)
    source = Argoverse2Source(Argoverse2Config(path=str(tmp_path)))
    assert source.items() == ("train/a", "val/b", "val/c")
    assert source.load("val/c").scenario_id == "av2m-c"
    only = Argoverse2Config(path=str(tmp_path), kinds=("motion_forecasting",))
    assert [item.log_id for item in list_items(only)] == ["c"]
    assert len(list_items(Argoverse2Config(path=str(tmp_path), limit=2))) == 2


def test_a_folder_that_is_a_log_is_its_own_item(tmp_path, monkeypatch):
    monkeypatch.chdir(write_sensor_log(tmp_path / "log-7"))
    source = Argoverse2Source(Argoverse2Config(path="."))
    assert source.items() == (".",)
    assert source.load(".").split_key == "log-7"


def test_what_a_user_gets_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        list_items(Argoverse2Config(path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"looked in it and in every folder below for annotations\.feather"):
        list_items(Argoverse2Config(path=str(tmp_path)))
    with pytest.raises(ValueError, match="Did you mean 'sensor'"):
        Argoverse2Config(path=".", kinds=("sensors",))
    with pytest.raises(ValueError, match="limit is 0"):
        Argoverse2Config(path=".", limit=0)
    write_forecasting_scenario(tmp_path / "one" / "c")
    write_forecasting_scenario(tmp_path / "two" / "c")
    with pytest.raises(ValueError, match="log c is there twice"):
        list_items(Argoverse2Config(path=str(tmp_path)))
    source = Argoverse2Source(Argoverse2Config(path=str(tmp_path / "one")))
    with pytest.raises(ScenarioError, match="lies outside"):
        source.load("../two/c")
    with pytest.raises(ScenarioError, match="cannot be listed"):
        source.load("d")


@pytest.mark.parametrize("move", ["stationary", "starting_left_turn", "high_magnitude_speed"])
def test_the_tag_is_what_the_ego_did(move):
    from nsdrive.scenarios.argoverse2.source import scenario_type
    from nsdrive.scenarios.argoverse2.tracks import ego_states
    from nsdrive.world.types import ObjectFrame

    ticks = np.arange(100)
    speed = {"stationary": 0.0, "starting_left_turn": 5.0, "high_magnitude_speed": 15.0}[move]
    heading = np.deg2rad(0.9) * ticks if "turn" in move else 0.0 * ticks
    steps = 0.1 * speed * np.column_stack([np.cos(heading), np.sin(heading)])
    poses = np.column_stack([np.cumsum(steps, axis=0), heading])
    assert scenario_type(ego_states(poses), (ObjectFrame.of(()),) * 100) == move


def shared_logs() -> list[Path]:
    """The real logs, where a machine has them; they are not part of the repository."""
    shared = Path(os.environ.get("NSDRIVE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    folder = shared / "data" / "argoverse2"
    if not folder.is_dir():
        return []
    return [Path(item.folder) for item in list_items(Argoverse2Config(path=str(folder)))]


@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name[:8]) for folder in shared_logs()])
def test_a_real_log_obeys_physics(folder):
    import time

    import shapely

    began = time.perf_counter()
    scenario = load(folder)
    assert time.perf_counter() - began < 5.0  # 0.4 s on an idle core
    poses = np.stack([state.pose for state in scenario.ego_log])
    speeds = np.array([state.speed_mps for state in scenario.ego_log])
    moved = np.hypot(*np.diff(poses[:, :2], axis=0).T) / 0.1
    error = np.abs(moved - np.abs(speeds[1:] + speeds[:-1]) / 2)
    assert np.median(error) < 0.1
    assert error[10:-10].max() < 0.5  # forecasting positions are smoothed towards the ends of a track by the publisher
    assert np.isfinite(speeds).all()
    assert max(abs(state.accel_mps2) for state in scenario.ego_log) < 6.0
    road = shapely.union_all([shapely.Polygon(area) for area in scenario.lane_map.drivable_area])
    assert shapely.contains_xy(road, poses[:, 0], poses[:, 1]).mean() > 0.99
    near = [
        min(
            np.hypot(*(lane.centerline - pose[:2]).T).min()
            for lane in scenario.lane_map.lanes.values()
            if lane.roadblock_id in scenario.route_roadblock_ids
        )
        for pose in poses
    ]
    assert np.mean(np.array(near) < 2.5) > 0.95
    assert validate(scenario.lane_map) == []
    slow, turned = [], []
    for frame in scenario.frames:
        vehicles = frame.take(frame.kinds == 0)
        assert np.isfinite(vehicles.boxes).all()
        assert np.isfinite(vehicles.accels_mps2).all()
        fast = vehicles.speeds_mps > 3.0
        direction = np.arctan2(vehicles.velocities_mps[fast, 1], vehicles.velocities_mps[fast, 0])
        turned.extend(np.abs((direction - vehicles.boxes[fast, 2] + np.pi) % (2 * np.pi) - np.pi))
        slow.extend(vehicles.speeds_mps[vehicles.speeds_mps < 0.5])
    assert np.median(slow) < 0.05
    assert np.quantile(turned, 0.9) < np.deg2rad(10.0)
