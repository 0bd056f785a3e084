"""Where the cameras sit and what they project."""

import json

import numpy as np
import pytest

from nsdrive.cameras.rig import RIGS, Rig, make_rig, project


def test_the_front_camera_sees_a_point_ahead_near_the_middle_of_its_image():
    camera = make_rig("3").cameras[0]
    pixels, depth_m = project(camera, np.array([[21.73, 0.0, 1.95]]))
    assert camera.name == "CAM_F0"
    assert depth_m[0] == pytest.approx(20.0, abs=0.05)
    assert pixels[0] == pytest.approx([camera.cx + camera.fx * np.tan(np.deg2rad(1.0)), 166.0], abs=2.0)


def test_left_and_right_cameras_are_not_swapped_and_up_is_up():
    by_name = {camera.name: camera for camera in RIGS["8"].cameras}
    for name, side in (("CAM_L0", 1), ("CAM_L1", 1), ("CAM_L2", 1), ("CAM_R0", -1), ("CAM_R1", -1), ("CAM_R2", -1)):
        assert side * by_name[name].rotation[2, 1] > 0.4, f"{name} looks to the wrong side"
    low, high = project(by_name["CAM_F0"], np.array([[20.0, 0.0, 0.0], [20.0, 0.0, 3.0]]))[0]
    assert low[1] > high[1]
    left, right = project(by_name["CAM_F0"], np.array([[20.0, 2.0, 1.0], [20.0, -2.0, 1.0]]))[0]
    assert left[0] < right[0]


def test_rotations_are_rotations_and_quaternions_agree_with_them():
    for camera in RIGS["8"].cameras:
        assert camera.rotation @ camera.rotation.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
        w, x, y, z = camera.to_json()["rotation_camera_to_ego_wxyz"]
        turn = np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ])  # fmt: skip
        assert turn == pytest.approx(camera.rotation.T, abs=1e-7)


def test_eight_cameras_leave_no_gap_around_the_car():
    far = np.deg2rad(np.arange(0.0, 360.0, 1.0))
    points = 80.0 * np.column_stack([np.cos(far), np.sin(far), np.full_like(far, 0.02)])
    seen = np.zeros(len(far), dtype=bool)
    for camera in RIGS["8"].cameras:
        pixels, depth_m = project(camera, points)
        seen |= (depth_m > 0) & (pixels[:, 0] >= 0) & (pixels[:, 0] < camera.width_px)
    assert seen.all()


def test_a_rig_survives_json():
    rig = make_rig("8", width_px=320, height_px=180)
    assert Rig.from_json(json.loads(json.dumps(rig.to_json()))) == rig


def test_a_rig_scales_with_its_images():
    small, large = (
        make_rig("3", width_px=320, height_px=180).cameras[0],
        make_rig("3", width_px=1920, height_px=1080).cameras[0],
    )
    assert (large.fx, large.fy, large.cx, large.cy) == (1545.0, 1545.0, 960.0, 560.0)
    point = np.array([[15.0, 3.0, 1.0]])
    assert project(large, point)[0] == pytest.approx(6 * project(small, point)[0])


def test_the_three_cameras_stand_in_the_order_of_the_published_release():
    assert [camera.name for camera in make_rig("3").cameras] == ["CAM_F0", "CAM_R0", "CAM_L0"]


def test_what_cannot_be_is_said_in_one_sentence():
    with pytest.raises(ValueError, match="Known: 3, 8"):
        make_rig("9")
    with pytest.raises(ValueError, match="cannot be drawn"):
        make_rig("3", width_px=0)
    with pytest.raises(ValueError, match="A camera needs"):
        Rig.from_json({"name": "x", "cameras": [{"name": "CAM_F0"}]})
