"""Whatever is wrong with files in py123d's format, and whoever wrote them: one line, nothing is run, the rest is read."""

import sys

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("py123d")  # the extra `logs`

import msgpack
from py123d_builder import EGO_Y_M, write_log

from nsdrive.scenarios.py123d import Py123dConfig, Py123dSource
from nsdrive.scenarios.source import ScenarioError


def source_of(root, **settings):
    return Py123dSource(Py123dConfig(path=str(root), **settings))


def refused(root, **settings):
    """The one line with which the only log below `root` is refused."""
    source = source_of(root, **settings)
    with pytest.raises(ScenarioError) as caught:
        source.load(source.items()[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path, change):
    """The file's table, changed; its metadata too where `change` gives a table with others."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
        table = pa.table({name: table[name].combine_chunks() for name in table.column_names}, table.schema)
        changed = change(table)
        data = pa.BufferOutputStream()
        with pa.ipc.new_file(data, changed.schema) as writer:
            writer.write_table(changed)
    path.write_bytes(data.getvalue().to_pybytes())


def with_metadata(table, **changes):
    about = {**msgpack.unpackb(table.schema.metadata[b"metadata"]), **changes}
    return table.replace_schema_metadata({b"metadata": msgpack.packb(about)})


def with_column(table, name, values):
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_a_label_class_is_looked_up_and_its_module_never_imported(tmp_path, monkeypatch):
    folder = write_log(tmp_path / "logs", seconds=8.0)
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('a file of a stranger was run')")
    monkeypatch.syspath_prepend(tmp_path)
    for qualified in ("strangers_module.Labels", "os.system", "Labels", 7):
        rewrite(
            folder / "box_detections_se3.arrow",
            lambda table, name=qualified: with_metadata(table, box_detection_label_class=name),
        )
        assert "which py123d does not bring" in refused(tmp_path / "logs")
    assert "strangers_module" not in sys.modules


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "cam/../../secret.jpg"])
def test_an_image_outside_the_given_folder_is_not_opened(tmp_path, name):
    folder = write_log(tmp_path, camera="path", seconds=8.0)
    (tmp_path / "secret.jpg").write_bytes(next((tmp_path / "images" / "cam").iterdir()).read_bytes())
    column = "camera.pcam_f0.data"
    rewrite(folder / "camera.pcam_f0.arrow", lambda table: with_column(table, column, [name] * table.num_rows))
    source = source_of(tmp_path, sensor_path=str(tmp_path / "images"))
    (camera,) = source.cameras(source.items()[0])
    with pytest.raises(ScenarioError, match="is no name of a file inside"):
        camera.read(0)


def test_a_map_outside_the_given_folder_is_not_opened(tmp_path):
    folder = write_log(tmp_path / "data", seconds=8.0)
    (tmp_path / "data" / "maps" / "nuscenes").mkdir(parents=True)
    (folder / "map.arrow").rename(tmp_path / "secret.arrow")
    rewrite(folder / "sync.arrow", lambda table: with_metadata(table, dataset="..", location="/../../secret"))
    assert "outside" in refused(tmp_path / "data")


def test_a_missing_image_and_one_that_is_cut_off_are_one_line_each(tmp_path):
    write_log(tmp_path, camera="path", seconds=8.0)
    source = source_of(tmp_path, sensor_path=str(tmp_path / "images"))
    (camera,) = source.cameras(source.items()[0])
    first, second, *_ = sorted((tmp_path / "images" / "cam").iterdir())
    first.unlink()
    with pytest.raises(ScenarioError, match="is missing"):
        camera.read(0)
    second.write_bytes(second.read_bytes()[:-20])
    with pytest.raises(ScenarioError, match=r"is cut off"):
        camera.read(1)


@pytest.mark.parametrize("name", ["ego_state_se3", "box_detections_se3", "map", "traffic_light_detections"])
def test_a_file_that_is_cut_off_is_named_and_the_other_logs_are_read(tmp_path, name):
    folder = write_log(tmp_path, log="bad", seconds=8.0)
    write_log(tmp_path, log="good", seconds=8.0)
    file = folder / f"{name}.arrow"
    file.write_bytes(file.read_bytes()[:-100])
    source = source_of(tmp_path)
    bad, good = source.items()
    with pytest.raises(ScenarioError, match=f"{name}.arrow"):
        source.load(bad)
    assert source.load(good).n_ticks == 81


def test_a_log_that_cannot_be_opened_is_listed_so_that_it_is_counted(tmp_path):
    folder = write_log(tmp_path, log="bad", seconds=8.0)
    write_log(tmp_path, log="good", seconds=8.0)
    (folder / "sync.arrow").write_bytes(b"half a download")
    source = source_of(tmp_path)
    assert source.items() == ("logs/nuscenes_val/bad", "logs/nuscenes_val/good@0")
    with pytest.raises(ScenarioError, match=r"sync\.arrow"):
        source.load("logs/nuscenes_val/bad")


def test_flipped_bytes_give_a_scenario_or_one_line_and_never_anything_else(tmp_path):
    folder = write_log(tmp_path, seconds=8.0)
    rng = np.random.default_rng(5)
    outcomes = []
    for name in ("ego_state_se3", "box_detections_se3", "traffic_light_detections", "map", "sync"):
        file = folder / f"{name}.arrow"
        whole = file.read_bytes()
        for _ in range(8):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 6):
                broken[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(broken)
            try:
                source = source_of(tmp_path)
                said = source.load(source.items()[0]).scenario_id
            except ScenarioError as error:
                said = str(error)
            outcomes.append(said)
        file.write_bytes(whole)
    assert all("\n" not in said for said in outcomes)
    assert sum(said.startswith(str(tmp_path)) for said in outcomes) >= 12, "most of them are noticed"
    assert source_of(tmp_path).load("logs/nuscenes_val/log-a@0").n_ticks == 81


def test_a_pause_in_the_boxes_is_not_bridged(tmp_path):
    write_log(tmp_path, seconds=12.0, missing={"boxes": (5.0, 6.5)})
    assert "no boxes for 1.50 s, 5.1 s after the start" in refused(tmp_path)


def test_an_ego_that_jumps_and_one_that_is_nowhere_are_refused(tmp_path):
    folder = write_log(tmp_path, seconds=8.0)
    file = folder / "ego_state_se3.arrow"
    column = "ego_state_se3.imu_se3"
    poses = pa.ipc.open_file(file).read_all()[column].to_pylist()
    far = [[*pose[:1], EGO_Y_M + 5000.0 * (row > 40), *pose[2:]] for row, pose in enumerate(poses)]
    rewrite(file, lambda table: with_column(table, column, far))
    assert "the ego jumps at" in refused(tmp_path)
    nowhere = [[float("nan"), *pose[1:]] for pose in poses]
    rewrite(file, lambda table: with_column(table, column, nowhere))
    assert "not finite" in refused(tmp_path)


def test_somebody_elses_map_is_noticed(tmp_path):
    folder = write_log(tmp_path, seconds=8.0)
    column = "ego_state_se3.imu_se3"
    poses = pa.ipc.open_file(folder / "ego_state_se3.arrow").read_all()[column].to_pylist()
    moved = [[pose[0], pose[1] + 60.0, *pose[2:]] for pose in poses]
    rewrite(folder / "ego_state_se3.arrow", lambda table: with_column(table, column, moved))
    assert "0% of the ego's way is on this map" in refused(tmp_path)


def test_a_log_shorter_than_a_sample_is_refused_and_so_is_a_tick_beyond_its_end(tmp_path):
    write_log(tmp_path, seconds=5.0)
    assert "has 51 ticks" in refused(tmp_path)
    with pytest.raises(ScenarioError, match="has 0 ticks"):
        source_of(tmp_path).load("logs/nuscenes_val/log-a@99999")


def test_a_folder_without_logs_and_an_item_outside_of_it_are_refused(tmp_path):
    with pytest.raises(ValueError, match="py123d-conversion dataset="):
        source_of(tmp_path).items()
    write_log(tmp_path / "in", seconds=8.0)
    with pytest.raises(ScenarioError, match="lies outside"):
        source_of(tmp_path / "in" / "logs").load("../../elsewhere@0")
