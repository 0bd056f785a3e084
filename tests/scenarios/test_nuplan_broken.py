"""Broken nuPlan logs and maps: one line says what is wrong, nothing but a ScenarioError is raised, and all are counted."""

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from nuplan_builder import change, log_file, map_file, source_of, write_log

from nsdrive.cli import main
from nsdrive.scenarios.source import ScenarioError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    write_log(root, "free_road")
    return root


@pytest.fixture(scope="module")
def item(good: Path) -> str:
    return source_of(good).items()[0]


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def complaint(root: Path, item: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        source_of(root).load(item)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_half_downloaded_log_says_how_much_of_it_is_there(copy, item, share):
    cut(log_file(copy), share)
    assert "is its download complete?" in complaint(copy, item)


def test_a_half_downloaded_map_says_so_too(copy, item):
    cut(map_file(copy), 0.6)
    message = complaint(copy, item)
    assert "map.gpkg" in message
    assert "is its download complete?" in message


def test_files_that_are_no_databases_are_named(copy, item):
    log_file(copy).write_bytes(b"")
    assert "is empty" in complaint(copy, item)
    log_file(copy).write_text("<html>404</html>" * 100)
    assert "is not a SQLite database" in complaint(copy, item)
    log_file(copy).unlink()
    with pytest.raises(ScenarioError, match="is missing"):
        source_of(copy).load(item)


@pytest.mark.parametrize(
    "table", ["lidar_pc", "ego_pose", "scene", "scenario_tag", "lidar_box", "track", "lidar", "log"]
)
def test_a_log_without_one_of_its_tables_names_it(copy, item, table):
    change(log_file(copy), f"drop table {table}")
    assert table in complaint(copy, item)


def test_empty_tables_of_boxes_and_lights_are_fine(tmp_path):
    write_log(tmp_path, "red_light")
    change(log_file(tmp_path), "delete from lidar_box", "delete from track", "delete from traffic_light_status")
    source = source_of(tmp_path)
    scenario = source.load(source.items()[0])
    assert all(len(frame) == 0 for frame in scenario.frames)
    assert "traffic_lights" in scenario.unknown


def test_a_log_without_lights_on_a_map_without_any_leaves_nothing_unknown(good, item):
    assert source_of(good).load(item).unknown == frozenset()


def test_values_that_make_no_sense_are_refused(good, tmp_path, item):
    problems = {
        "update ego_pose set x = null": "not a pose",
        "update ego_pose set qw = 0, qx = 0, qy = 0, qz = 0": "not a pose",
        "update ego_pose set y = 9e999": "not finite",
        "update ego_pose set vx = 'fast'": "not a pose",
        "update lidar_pc set timestamp = 'noon'": "cannot be read",
        "update lidar set channel = 'other'": "no lidar of channel MergedPointCloud",
        "delete from log": "its table log is empty",
    }
    for number, (statement, problem) in enumerate(problems.items()):
        shutil.copytree(good, tmp_path / str(number))
        change(log_file(tmp_path / str(number)), statement)
        assert problem in complaint(tmp_path / str(number), item)


def test_a_box_that_is_not_finite_is_refused(tmp_path):
    write_log(tmp_path, "slow_lead")
    change(log_file(tmp_path), "update lidar_box set x = 9e999")
    assert "a box that is not finite" in complaint(tmp_path, source_of(tmp_path).items()[0])


def test_a_missing_map_says_where_it_was_looked_for(copy, item):
    shutil.rmtree(map_file(copy).parents[1])
    message = complaint(copy, item)
    assert "no map 'nsdrive-" in message
    assert str(copy / "maps") in message


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("drop table boundaries", "lacks the layer boundaries"),
        ("drop table meta", "no table meta"),
        ("drop table gpkg_geometry_columns", "is not a GeoPackage"),
        ("delete from meta", "does not tell projectedCoordSystem"),
        ("update meta set value = 'epsg:0' where key = 'projectedCoordSystem'", "is no coordinate system"),
        ("delete from lanes_polygons", "holds no lane"),
        ("delete from baseline_paths", "no row of baseline_paths"),
        ("delete from boundaries", "which is no line of the layer boundaries"),
        ("update baseline_paths set geom = x'00'", "cannot be decoded"),
        ("update baseline_paths set geom = null", "cannot be decoded"),
        ("update lanes_polygons set geom = x'4750'", "no valid geometry"),
    ],
)
def test_a_map_with_a_part_missing_says_which(copy, item, statement, problem):
    change(map_file(copy), statement)
    assert problem in complaint(copy, item)


def test_optional_layers_may_be_missing(copy, item):
    for layer in ("crosswalks", "walkways", "traffic_lights", "dubins_nodes", "stop_polygons", "carpark_areas"):
        change(map_file(copy), f"drop table if exists {layer}")
    assert source_of(copy).load(item).lane_map.drivable_area


@pytest.mark.parametrize("which", [log_file, map_file])
def test_whatever_bytes_are_flipped_nothing_but_a_scenario_error_is_raised(good, tmp_path, item, which):
    shutil.copytree(good, tmp_path / "copy")
    path = which(tmp_path / "copy")
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng([7, len(whole)])
    for _ in range(25):
        broken = whole.copy()
        at = rng.integers(0, len(whole), size=40)
        broken[at] = rng.integers(0, 256, size=40)
        path.write_bytes(broken.tobytes())
        with contextlib.suppress(ScenarioError):
            source_of(tmp_path / "copy").load(item)
        with contextlib.suppress(ValueError):
            source_of(tmp_path / "copy").items()


def test_pickles_in_a_log_are_never_opened(copy, item):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle in the log was opened')",))

    trap = pickle.dumps(Trap()).hex()
    change(
        log_file(copy),
        f"update lidar set translation = x'{trap}', rotation = x'{trap}'",
        "drop table if exists camera",
        "create table camera (token blob, translation blob, rotation blob, intrinsic blob)",
        f"insert into camera values (x'00', x'{trap}', x'{trap}', x'{trap}')",
    )
    assert source_of(copy).load(item).frames


def test_a_broken_log_is_an_item_whose_line_says_why(copy):
    (copy / "logs" / "half.db").write_bytes(log_file(copy).read_bytes()[:5000])
    source = source_of(copy)
    broken = [item for item in source.items() if item.endswith("half")]
    assert broken == ["logs/half"]
    assert "is its download complete?" in complaint(copy, broken[0])


def test_a_log_that_is_there_twice_or_a_folder_without_logs_is_refused(copy, tmp_path):
    (copy / "again").mkdir()
    shutil.copy(log_file(copy), copy / "again" / log_file(copy).name)
    with pytest.raises(ValueError, match="is there twice"):
        source_of(copy).items()
    with pytest.raises(ValueError, match=r"files named \*\.db"):
        source_of(copy / "maps").items()
    with pytest.raises(ValueError, match="does not exist"):
        source_of(tmp_path / "nowhere").items()


def test_filters_that_leave_nothing_say_so(good):
    with pytest.raises(ValueError, match="no scenario of starting_u_turn"):
        source_of(good, scenario_types=("starting_u_turn",)).items()


def test_a_data_set_is_made_of_the_good_logs_and_the_broken_one_is_counted(copy, tmp_path, capsys):
    (copy / "logs" / "half.db").write_bytes(log_file(copy).read_bytes()[:5000])
    small = ["image_width_px=160", "image_height_px=90", "rig=3", "samples.anchors_per_scenario=1"]
    out = tmp_path / "set"
    assert main(["generate", "data/nuplan", f"scenarios.path={copy}", *small, "--out", str(out)]) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert len(failed) == 1
    assert "half.db" in failed[0]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["samples"] == 1
    assert len(manifest["failures"]) == 1
    assert main(["check", str(out)]) == 0
