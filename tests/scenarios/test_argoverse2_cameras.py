"""The ring cameras of an Argoverse 2 sensor log."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from argoverse2_builder import (
    RING_YAWS_DEG,
    START_NS,
    write_calibration,
    write_forecasting_scenario,
    write_image,
    write_sensor_log,
)
from lens import centres, dots_before, photographed
from pyarrow import feather

from nsdrive.cameras.recorded import recorded_views
from nsdrive.cameras.rig import make_rig, project
from nsdrive.scenarios.argoverse2 import Argoverse2Config, Argoverse2Source
from nsdrive.scenarios.argoverse2.cameras import AXLE_HEIGHT_M, CAMERAS
from nsdrive.scenarios.source import ScenarioError

GREY = np.full((1550, 2048, 3), 90, np.uint8)
UPRIGHT = np.full((2048, 1550, 3), 90, np.uint8)
TICK_NS = 100_000_000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sensor_log(tmp_path_factory.mktemp("av2") / "log-1")
    write_calibration(folder)
    for name in CAMERAS:
        image = UPRIGHT if name == "ring_front_center" else GREY
        write_image(folder, name, START_NS + 30 * TICK_NS + 20_000_000, image)
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "log-1"))


def cameras_of(folder: Path):
    return {camera.name: camera for camera in Argoverse2Source(Argoverse2Config(path=str(folder))).cameras(".")}


def test_the_ring_cameras_have_nuplans_names_and_look_where_these_say(good):
    cameras = cameras_of(good)
    assert sorted(cameras) == ["CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2"]
    for source, name in CAMERAS.items():
        right, down, forward = cameras[name].rotation.T
        yaw = np.deg2rad(RING_YAWS_DEG[source])
        assert forward == pytest.approx([np.cos(yaw), np.sin(yaw), 0.0])
        assert right == pytest.approx([np.sin(yaw), -np.cos(yaw), 0.0])
        assert down == pytest.approx([0.0, 0.0, -1.0])
        assert cameras[name].position_m == pytest.approx([1.6, 0.1, 1.4 + AXLE_HEIGHT_M])
        assert len(cameras[name].distortion) == 0  # it has been taken out of the published images
    assert recorded_views(tuple(cameras.values()), make_rig("8")) is None  # none looks straight back


def test_an_image_belongs_to_the_ticks_within_fifty_milliseconds(good):
    read = cameras_of(good)["CAM_L0"].read
    image = read(30)
    assert image is not None
    assert image.shape == (1550, 2048, 3)
    assert read(29) is None
    assert read(31) is None
    assert read(10_000) is None


def test_a_known_point_lies_in_the_image_where_the_rig_says(copy):
    views = recorded_views(tuple(cameras_of(copy).values()), make_rig("3"))
    assert views is not None
    sources = {name: source for source, name in CAMERAS.items()}
    points = {view.name: dots_before(view) for view in views.rig.cameras}
    for camera in views.cameras:
        write_image(copy, sources[camera.name], START_NS + 50 * TICK_NS, photographed(camera, points[camera.name]))
    views = recorded_views(tuple(cameras_of(copy).values()), make_rig("3"))
    assert views is not None
    images = views.images(50)
    assert images is not None
    for view, nominal in zip(views.rig.cameras, make_rig("3").cameras, strict=True):
        assert images[view.name].shape == (360, 640, 3)
        assert view.cy == pytest.approx(nominal.cy)  # cropped so that the horizon lies where it always does
        expected, _ = project(view, points[view.name])
        assert centres(images[view.name], expected) == pytest.approx(expected, abs=0.25)


def test_a_log_without_images_has_no_cameras_and_one_with_some_has_some(good, tmp_path):
    without = shutil.copytree(good, tmp_path / "log-1", ignore=shutil.ignore_patterns("sensors"))
    assert cameras_of(without) == {}
    shutil.rmtree(without / "calibration")
    assert cameras_of(without) == {}
    write_calibration(without)
    write_image(without, "ring_side_left", START_NS, GREY)
    (without / "sensors" / "cameras" / "ring_side_left" / "notes.txt").write_text("no image")
    (without / "sensors" / "cameras" / "ring_side_left" / "._1.jpg").write_text("no image")
    assert list(cameras_of(without)) == ["CAM_L1"]
    scenario = write_forecasting_scenario(tmp_path / "mf-1")
    assert cameras_of(scenario) == {}


def complaint(folder: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        cameras_of(folder)["CAM_L0"].read(30)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_what_is_broken_is_said_in_one_line(copy):
    image = next((copy / "sensors" / "cameras" / "ring_front_left").glob("*.jpg"))
    whole = image.read_bytes()
    image.write_bytes(whole[:5000])
    assert "is cut off" in complaint(copy)
    write_image(copy, "ring_front_left", START_NS + 30 * TICK_NS + 20_000_000, UPRIGHT)
    assert "is 1550 x 2048 pixels, its calibration says 2048 x 1550" in complaint(copy)
    image.write_bytes(whole)
    intrinsics = copy / "calibration" / "intrinsics.feather"
    table = feather.read_table(intrinsics)
    feather.write_feather(table.slice(2), intrinsics)
    assert "has no row for ring_front_center, of which there are images" in complaint(copy)
    feather.write_feather(table, intrinsics)
    poses = copy / "calibration" / "egovehicle_SE3_sensor.feather"
    table = feather.read_table(poses)
    feather.write_feather(table.drop_columns(["qw"]), poses)
    assert "column 'qw' is missing" in complaint(copy)
    poses.unlink()
    assert "egovehicle_SE3_sensor.feather: is missing" in complaint(copy)


def shared_sensor_logs() -> list[Path]:
    """Real logs that a maintainer may have put beside the checkout; they are not part of it."""
    shared = Path(os.environ.get("NSDRIVE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    return sorted(path.parent for path in (shared / "data" / "argoverse2" / "sensor").glob("*/calibration"))


@pytest.mark.parametrize("log", [pytest.param(folder, id=folder.name[:8]) for folder in shared_sensor_logs()])
def test_a_real_calibration_makes_a_rig_that_looks_around_the_car(log, tmp_path):
    for part in ("calibration", "annotations.feather"):
        (shutil.copytree if (log / part).is_dir() else shutil.copy)(log / part, tmp_path / part)
    for name in CAMERAS:
        folder = tmp_path / "sensors" / "cameras" / name
        folder.mkdir(parents=True)
        (folder / "315966253660000000.jpg").write_bytes(b"")  # never opened here
    views = recorded_views(tuple(cameras_of(tmp_path).values()), make_rig("3"))
    assert views is not None
    for view, yaw_deg in zip(views.rig.cameras, (0.0, -45.0, 45.0), strict=True):
        assert np.rad2deg(view.yaw_rad) == pytest.approx(yaw_deg, abs=3.0)
        assert np.rad2deg(view.pitch_rad) == pytest.approx(0.0, abs=3.0)
        assert np.rad2deg(view.roll_rad) == pytest.approx(0.0, abs=3.0)
        assert 1.6 < view.z_m < 1.9  # on the roof of a Ford Fusion
    ahead, _ = project(views.rig.cameras[0], np.array([[30.0, 0.0, 0.0], [30.0, 0.0, 1.7]]))
    assert (ahead[:, 0] > 250).all()
    assert (ahead[:, 0] < 390).all()
    assert (ahead[:, 1] > 100).all()
    assert (ahead[:, 1] < 300).all()
