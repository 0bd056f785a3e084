"""A log's own cameras: a point lies in the undistorted image where the rig says."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lens import NUPLAN_LENS, centres, dots_before, photographed
from nuplan_builder import scene

from nsdrive.cameras.recorded import RecordedViews, as_pinhole, recorded_views, undistorted
from nsdrive.cameras.render import Renderer
from nsdrive.cameras.rig import Rig, make_rig, project
from nsdrive.scenarios.recorded import RecordedCamera
from nsdrive.scenarios.source import ScenarioError


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Camera to ego, by the rig's own convention."""
    return replace(make_rig("3").cameras[0], yaw_rad=yaw, pitch_rad=pitch, roll_rad=roll).rotation.T


def camera(name: str = "CAM_F0", read=lambda tick: None, **changes) -> RecordedCamera:
    return replace(
        RecordedCamera(
            name=name,
            position_m=np.array([1.7, -0.1, 1.6]),
            rotation=turned(0.3, -0.05, 0.02),
            intrinsics=np.array([[1545.0, 0.0, 961.3], [0.0, 1541.0, 557.8], [0.0, 0.0, 1.0]]),
            distortion=NUPLAN_LENS,
            width_px=1920,
            height_px=1080,
            read=read,
        ),
        **changes,
    )


def one_camera_rig(width_px: int = 640, height_px: int = 360) -> Rig:
    return Rig(name="1", cameras=make_rig("3", width_px=width_px, height_px=height_px).cameras[:1])


def views_of_dots(seen: RecordedCamera, rig: Rig) -> tuple[RecordedViews, np.ndarray]:
    points = dots_before(as_pinhole(seen, rig.cameras[0]))
    image = photographed(seen, points)
    views = recorded_views([replace(seen, read=lambda tick: image)], rig)
    assert views is not None
    return views, points


@pytest.mark.parametrize("size_px", [(640, 360), (960, 540), (1920, 1080), (512, 512), (500, 270), (320, 180)])
def test_a_point_lies_in_the_undistorted_image_where_the_rig_projects_it(size_px):
    views, points = views_of_dots(camera(), one_camera_rig(*size_px))
    images = views.images(0)
    expected, _ = project(views.rig.cameras[0], points)
    scale = size_px[1] / 1080
    assert images is not None
    assert images["CAM_F0"].shape == (size_px[1], size_px[0], 3)
    assert centres(images["CAM_F0"], expected) == pytest.approx(expected, abs=max(0.12, 0.12 * scale))


def test_without_undistortion_a_point_near_a_corner_would_lie_elsewhere():
    views, points = views_of_dots(camera(), one_camera_rig())
    raw = cv2.resize(views.cameras[0].read(0), (640, 360), interpolation=cv2.INTER_AREA)
    images = views.images(0)
    (u, v), *_ = project(views.rig.cameras[0], points)[0].astype(int)
    assert images is not None
    assert images["CAM_F0"][v, u, 0] > 150
    assert raw[v, u, 0] == 0


def test_a_portrait_image_is_cropped_to_the_rows_that_the_wanted_camera_looks_at():
    portrait = camera(
        intrinsics=np.array([[1776.0, 0.0, 778.0], [0.0, 1776.0, 1013.5], [0.0, 0.0, 1.0]]),
        distortion=np.zeros(0), width_px=1550, height_px=2048,
    )  # fmt: skip
    views, points = views_of_dots(portrait, one_camera_rig())
    view, wanted = views.rig.cameras[0], make_rig("3").cameras[0]
    assert view.fx == view.fy == pytest.approx(1776.0 * 640 / 1550)
    assert view.cy == pytest.approx(wanted.cy)
    expected, _ = project(view, points)
    images = views.images(0)
    assert images is not None
    assert centres(images["CAM_F0"], expected) == pytest.approx(expected, abs=0.12)


def test_a_crop_never_reaches_beyond_the_image():
    low = camera(intrinsics=np.array([[1000.0, 0.0, 500.0], [0.0, 1000.0, 60.0], [0.0, 0.0, 1.0]]),
                 distortion=np.zeros(0), width_px=1000, height_px=1000,
                 read=lambda tick: np.full((1000, 1000, 3), 200, np.uint8))  # fmt: skip
    views = recorded_views([low], one_camera_rig())
    assert views is not None
    assert views.rig.cameras[0].cy == pytest.approx(60.5 * 0.64)
    images = views.images(0)
    assert images is not None
    assert images["CAM_F0"].min() >= 199


def test_what_our_renderer_draws_through_a_lens_comes_back_as_what_it_draws():
    """The images of a log lie pixel for pixel on what is rendered for the same rig: so its objects can be told apart."""
    scenario = scene()
    tick = (scenario.ego_log[20].pose, scenario.frames[20], scenario.lights[20])
    seen = camera(rotation=turned(0.02, -0.04, 0.03))
    views = recorded_views([seen], one_camera_rig())
    assert views is not None
    renderer = Renderer(scenario.lane_map)
    wide = replace(views.rig.cameras[0], width_px=1440, height_px=810, fx=750.0, fy=750.0, cx=720.0, cy=405.0)
    drawn = renderer.render(*tick, Rig(name="wide", cameras=(wide,)))[wide.name].rgb
    u, v = np.meshgrid(np.arange(1920.0), np.arange(1080.0))
    rays = cv2.undistortPoints(np.stack([u, v], axis=-1).reshape(-1, 1, 2), seen.intrinsics, seen.distortion)
    at = (rays.reshape(1080, 1920, 2) * 750.0 + (720.0 - 0.5, 405.0 - 0.5)).astype(np.float32)
    taken = cv2.remap(drawn, at[:, :, 0], at[:, :, 1], cv2.INTER_LINEAR)
    image = undistorted(taken, seen, views.rig.cameras[0])
    direct = renderer.render(*tick, views.rig)["CAM_F0"].rgb
    (right, down), _ = cv2.phaseCorrelate(direct.mean(axis=2), image.mean(axis=2))
    assert np.abs(direct.astype(int) - image).mean() < 3.0
    assert (right, down) == pytest.approx((0.0, 0.0), abs=0.1)


def test_fine_stripes_become_grey_and_not_coarse_stripes():
    stripes = np.zeros((1080, 1920, 3), np.uint8)
    stripes[:, ::2] = 255
    views = recorded_views([camera(read=lambda tick: stripes)], one_camera_rig())
    assert views is not None
    images = views.images(0)
    assert images is not None
    assert np.abs(images["CAM_F0"].astype(int) - 127).max() < 60


angles = st.floats(-np.pi, np.pi)


@given(yaw=angles, pitch=st.floats(-np.pi / 2, np.pi / 2), roll=angles)
@settings(max_examples=200, deadline=None)
def test_every_rotation_survives_as_yaw_pitch_and_roll(yaw, pitch, roll):
    rotation = turned(yaw, pitch, roll)
    view = as_pinhole(camera(rotation=rotation), make_rig("3").cameras[0])
    np.testing.assert_allclose(view.rotation.T, rotation, rtol=0, atol=1e-12)
    assert view.position_m == pytest.approx([1.7, -0.1, 1.6])


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
@settings(max_examples=200, deadline=None)
def test_every_quaternion_survives_as_yaw_pitch_and_roll(quaternion):
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    view = as_pinhole(camera(rotation=rotation), make_rig("3").cameras[0])
    np.testing.assert_allclose(view.rotation.T, rotation, rtol=0, atol=1e-9)


def test_the_rig_has_the_wanted_order_and_is_missing_where_the_log_lacks_a_camera():
    cameras = [camera(name) for name in ("CAM_L0", "CAM_F0", "CAM_B0", "CAM_R0")]
    views = recorded_views(cameras, make_rig("3"))
    assert views is not None
    assert views.rig.name == "3"
    assert [view.name for view in views.rig.cameras] == ["CAM_F0", "CAM_R0", "CAM_L0"]
    assert [seen.name for seen in views.cameras] == ["CAM_F0", "CAM_R0", "CAM_L0"]
    assert recorded_views(cameras, make_rig("8")) is None
    assert recorded_views([], make_rig("3")) is None


def test_one_missing_image_makes_the_tick_missing_and_a_wrong_size_is_an_error():
    grey = np.full((1080, 1920, 3), 90, np.uint8)
    there = [camera(name, read=lambda tick: grey) for name in ("CAM_F0", "CAM_L0")]
    late = camera("CAM_R0", read=lambda tick: grey if tick == 4 else None)
    views = recorded_views([*there, late], make_rig("3"))
    assert views is not None
    assert views.images(3) is None
    images = views.images(4)
    assert images is not None
    assert list(images) == ["CAM_F0", "CAM_R0", "CAM_L0"]
    small = recorded_views([camera(read=lambda tick: grey[:540])], one_camera_rig())
    assert small is not None
    with pytest.raises(ScenarioError, match="CAM_F0: the image at tick 2 is uint8 of shape"):
        small.images(2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"position_m": np.array([1.7, 400.0, 1.6])}, "400 m from the rear axle"),
        ({"position_m": np.array([1.7, np.nan, 1.6])}, "not finite"),
        ({"rotation": 2 * np.eye(3)}, "not a rotation"),
        ({"rotation": np.diag([1.0, 1.0, -1.0])}, "not a rotation"),
        ({"intrinsics": np.eye(3)}, "focal lengths"),
        (
            {"intrinsics": np.array([[1545.0, 40.0, 960.0], [0.0, 1545.0, 560.0], [0.0, 0.0, 1.0]])},
            "intrinsics are not",
        ),
        ({"intrinsics": np.array([[1545.0, 0.0, 4000.0], [0.0, 1545.0, 560.0], [0.0, 0.0, 1.0]])}, "its axis meets"),
        ({"distortion": np.array([-5.0, 0.0, 0.0, 0.0, 0.0])}, "folds the image"),
        ({"distortion": np.zeros(3)}, "distortion is of shape"),
        ({"width_px": 0}, "0 x 1080 pixels"),
        ({"position_m": np.zeros(2)}, "not of shapes"),
    ],
)
def test_a_calibration_that_cannot_be_true_is_refused_in_one_line(changes, problem):
    with pytest.raises(ScenarioError, match=problem) as refused:
        recorded_views([camera(**changes)], one_camera_rig())
    assert "\n" not in str(refused.value)
