"""nuPlan's cameras: calibration and images of a log, and what is wrong with them in one line."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from lens import centres, dots_before, photographed
from nuplan_builder import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    add_cameras,
    change,
    image_name,
    log_file,
    source_of,
    write_images,
    write_log,
)

from nsdrive.cameras.recorded import recorded_views
from nsdrive.cameras.rig import make_rig, project
from nsdrive.scenarios.nuplan.cameras import AXLE_HEIGHT_M
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import HISTORY_TICKS

BEFORE = 10  # images of the test log before the one at tick 0


def numbered(number: int) -> np.ndarray:
    """A red and green image that tells its number."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (number, 255 - number, 0)
    return image


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bare")
    write_log(root, "free_road")
    return root


@pytest.fixture(scope="module")
def good(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good") / "copy"
    shutil.copytree(bare, root)
    add_cameras(root)
    write_images(root, range(200), numbered, ("CAM_F0",))
    write_images(root, range(95, 100), numbered, CHANNELS[1:])
    return root


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUPLAN_SENSOR_ROOT", raising=False)
    monkeypatch.delenv("NUPLAN_DATA_ROOT", raising=False)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def item_of(root: Path) -> str:
    return source_of(root).items()[0]


def cameras_of(root: Path, **settings):
    return {camera.name: camera for camera in source_of(root, **settings).cameras(item_of(root))}


def complaint(root: Path, tick: int = 90, channel: str = "CAM_F0") -> str:
    """The one line that reading the cameras, or an image, ends in."""
    with pytest.raises(ScenarioError) as caught:
        cameras_of(root)[channel].read(tick)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def test_a_camera_stands_above_the_ground_and_looks_where_its_quaternion_says(good):
    front = cameras_of(good)["CAM_F0"]
    assert front.position_m == pytest.approx([1.73, -0.01, 1.59 + AXLE_HEIGHT_M])
    assert (front.width_px, front.height_px) == (WIDTH, HEIGHT)
    right, down, forward = front.rotation.T
    assert forward == pytest.approx([np.cos(np.deg2rad(1.0)), np.sin(np.deg2rad(1.0)), 0.0])
    assert right == pytest.approx([np.sin(np.deg2rad(1.0)), -np.cos(np.deg2rad(1.0)), 0.0])
    assert down == pytest.approx([0.0, 0.0, -1.0])
    assert cameras_of(good)["CAM_L0"].rotation[1, 2] > 0.8  # left


def test_every_tick_has_the_image_that_was_taken_nearest_to_it(good):
    read = cameras_of(good)["CAM_F0"].read
    for tick in (0, HISTORY_TICKS, 100, source_of(good).load(item_of(good)).n_ticks - 1):
        image = read(tick)
        assert image is not None
        assert image[0, 0].astype(int) == pytest.approx([tick + BEFORE, 245 - tick, 0], abs=3)


def test_an_image_further_than_fifty_milliseconds_from_a_tick_is_not_its(copy):
    stamps = "select timestamp from image where filename_jpg = '{}'"
    names = [image_name(copy, "CAM_F0", number) for number in (BEFORE + 40, BEFORE + 60)]
    change(log_file(copy), f"delete from image where filename_jpg = '{names[0]}'")
    change(
        log_file(copy),
        f"update image set timestamp = ({stamps.format(names[1])}) + 31000 where filename_jpg = '{names[1]}'",
    )
    read = cameras_of(copy)["CAM_F0"].read
    assert read(40) is None
    assert read(60) is None  # 51 ms
    assert read(59) is not None
    assert read(10_000) is None


def test_an_image_half_way_between_two_ticks_is_found_though_the_clocks_are_not_exact(copy):
    name = image_name(copy, "CAM_F0", BEFORE + 40)
    change(log_file(copy), f"delete from image where filename_jpg = '{image_name(copy, 'CAM_F0', BEFORE + 41)}'")
    change(log_file(copy), f"update image set timestamp = timestamp + 30060 where filename_jpg = '{name}'")
    assert cameras_of(copy)["CAM_F0"].read(40) is not None  # 50.06 ms: it stood 20 ms after its tick


def test_a_known_point_lies_in_the_undistorted_image_where_the_rig_says(copy):
    rig = make_rig("3")
    views = recorded_views(tuple(cameras_of(copy).values()), rig)
    assert views is not None
    assert [view.name for view in views.rig.cameras] == ["CAM_F0", "CAM_R0", "CAM_L0"]
    points = {view.name: dots_before(view) for view in views.rig.cameras}
    for camera in views.cameras:
        write_images(copy, [90 + BEFORE], lambda _, seen=camera: photographed(seen, points[seen.name]), [camera.name])
    images = views.images(90)
    assert images is not None
    for view in views.rig.cameras:
        expected, _ = project(view, points[view.name])
        assert centres(images[view.name], expected) == pytest.approx(expected, abs=0.25)


def test_images_that_were_not_downloaded_leave_no_cameras(bare, good, tmp_path):
    assert cameras_of(bare) == {}  # no rows in the tables
    copied = tmp_path / "copy"
    shutil.copytree(good, copied, ignore=shutil.ignore_patterns("sensor_blobs"))
    assert cameras_of(copied) == {}
    (copied / "sensor_blobs").mkdir()
    assert cameras_of(copied) == {}
    write_images(copied, [100], numbered, ["CAM_F0", "CAM_B0"])
    assert list(cameras_of(copied)) == ["CAM_B0", "CAM_F0"]
    change(log_file(copied), "drop table image")
    assert cameras_of(copied) == {}
    change(log_file(copied), "drop table camera")
    assert cameras_of(copied) == {}


def test_images_are_found_where_they_are_said_to_be(good, tmp_path, monkeypatch):
    blobs = tmp_path / "elsewhere"
    shutil.copytree(good, tmp_path / "copy", ignore=shutil.ignore_patterns("sensor_blobs"))
    shutil.copytree(good / "sensor_blobs", blobs / "nuplan-v1.1" / "sensor_blobs")
    root = tmp_path / "copy"
    assert cameras_of(root) == {}
    assert "CAM_F0" in cameras_of(root, sensor_path=str(blobs / "nuplan-v1.1" / "sensor_blobs"))
    monkeypatch.setenv("NUPLAN_DATA_ROOT", str(blobs))
    assert "CAM_F0" in cameras_of(root)
    monkeypatch.delenv("NUPLAN_DATA_ROOT")
    monkeypatch.setenv("NUPLAN_SENSOR_ROOT", str(blobs / "nuplan-v1.1" / "sensor_blobs"))
    assert "CAM_F0" in cameras_of(root)
    with pytest.raises(ValueError, match="is no folder; give nuPlan's sensor_blobs"):
        cameras_of(root, sensor_path=str(tmp_path / "nowhere"))
    with pytest.raises(ScenarioError, match="is no scenario of a log"):
        source_of(good).cameras(item_of(good).rpartition("/")[0])


def test_a_broken_image_is_one_line_and_only_when_it_is_asked_for(copy):
    file = copy / "sensor_blobs" / image_name(copy, "CAM_F0", 90 + BEFORE)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "is cut off" in complaint(copy)
    file.write_bytes(whole[: len(whole) // 2] + bytes(1000))
    assert "is cut off" in complaint(copy)
    file.write_bytes(b"")
    assert "is not a JPEG" in complaint(copy)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    assert "is not a JPEG" in complaint(copy)
    write_images(copy, [90 + BEFORE], lambda number: numbered(number)[:100], ["CAM_F0"])
    assert f"is {WIDTH} x 100 pixels, its calibration says {WIDTH} x {HEIGHT}" in complaint(copy)
    file.unlink()
    assert "is missing" in complaint(copy)
    file.mkdir()
    assert "cannot be read" in complaint(copy)
    assert cameras_of(copy)["CAM_F0"].read(89) is not None


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "a/../../../x.jpg", "C:\\x.jpg", "..", "", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(copy, name):
    first = image_name(copy, "CAM_F0", 90 + BEFORE)
    log = log_file(copy)
    text = "X'" + name.encode().hex() + "'"
    change(log, f"update image set filename_jpg = cast({text} as text) where filename_jpg = '{first}'")
    assert "is no name of a file inside this folder" in complaint(copy)


def test_a_link_that_leads_out_of_the_folder_is_refused(copy, tmp_path):
    file = copy / "sensor_blobs" / image_name(copy, "CAM_F0", 90 + BEFORE)
    outside = tmp_path / "outside.jpg"
    file.rename(outside)
    file.symlink_to(outside)
    assert "is a link that leads out of" in complaint(copy)
    linked = tmp_path / "blobs"
    linked.symlink_to(copy / "sensor_blobs")  # the folder itself may well be a link
    assert cameras_of(copy, sensor_path=str(linked))["CAM_F0"].read(89) is not None


class Bomb:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return os.mkdir, (str(self.flag),)


@pytest.mark.parametrize("column", ["translation", "rotation", "intrinsic", "distortion"])
def test_a_pickle_in_a_log_never_runs_and_is_refused_in_one_line(bare, tmp_path, column):
    flag = tmp_path / "flag"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        root = tmp_path / f"copy{protocol}"
        shutil.copytree(bare, root)
        write_images(root, [100], numbered, ["CAM_F0"])
        add_cameras(root, channels=["CAM_F0"], changed={column: pickle.dumps([Bomb(flag), 1.0, 2.0], protocol)})
        assert f"{column} of camera CAM_F0 is a pickle that does more than list numbers" in complaint(root)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("column", "blob", "problem"),
    [
        ("translation", pickle.dumps([1.0, float("nan"), 2.0]), "holds a number that is not finite"),
        ("rotation", pickle.dumps([2.0, 0.0, 0.0, 0.0]), "quaternion of length 2"),
        ("intrinsic", pickle.dumps([1.0, 2.0, 3.0]), "is no list of 3 x 3 numbers"),
        ("distortion", pickle.dumps(np.zeros(5)), "does more than list numbers"),
        ("distortion", None, "is NoneType"),
    ],
)
def test_a_calibration_that_is_none_is_refused_in_one_line(bare, tmp_path, column, blob, problem):
    root = tmp_path / "copy"
    shutil.copytree(bare, root)
    write_images(root, [100], numbered, ["CAM_F0"])
    add_cameras(root, channels=["CAM_F0"], changed={column: blob})
    assert problem in complaint(root)


def test_other_nonsense_in_the_camera_table_is_refused_in_one_line(copy):
    change(log_file(copy), "update camera set width = 'wide' where channel = 'CAM_F0'")
    assert "images of camera CAM_F0 are wide x 270 pixels" in complaint(copy)
    change(log_file(copy), "update camera set width = 480, channel = 'CAM_L0' where channel = 'CAM_F0'")
    assert "has two cameras of channel CAM_L0" in complaint(copy)
