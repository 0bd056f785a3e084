"""A log's own cameras as a rig of pinholes, and what they saw: images without their lenses' distortion, at the rig's size.

    views = recorded_views(source.cameras(item), make_rig("3"))     # None where the log lacks one of the three
    views.rig                                                       # where the log's cameras really stand and look
    views.images(tick)["CAM_F0"]                                    # (360, 640, 3) RGB, None where any image is missing

A point in the ego frame lies in such an image where nsdrive.cameras.rig.project says. Calibrations count pixels as
OpenCV does, the first one's centre being 0; rigs have it at +0.5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nsdrive.cameras.rig import Camera, Rig
from nsdrive.scenarios.recorded import MAX_PIXELS_A_SIDE, RecordedCamera
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

# What a calibration may say before it is taken for broken, all chosen by us: a camera is on the car, its lens is between
# a fisheye and a telescope, and its axis goes through the image.
MAX_REACH_M = 20.0
MIN_FOCAL_WIDTHS, MAX_FOCAL_WIDTHS = 0.1, 20.0
CACHED_MAPS = 16  # two rigs of eight; 1.4 MB each at 640 x 360


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedViews:
    """The cameras of a rig as they were on the log's car."""

    rig: Rig  # the log's calibration as pinholes, in the order, at the image size and under the name of the wanted rig
    cameras: tuple[RecordedCamera, ...]  # in the order of the rig

    def images(self, tick: int) -> Mapping[str, NDArray[np.uint8]] | None:
        """Camera name -> (H, W, 3) RGB of the rig's size; None where any camera has no image at that tick.

        ScenarioError, one line, where an image is broken.
        """
        images = {}
        for view, camera in zip(self.rig.cameras, self.cameras, strict=True):
            image = camera.read(tick)
            if image is None:
                return None
            if image.shape != (camera.height_px, camera.width_px, 3) or image.dtype != np.uint8:
                raise ScenarioError(
                    f"{camera.name}: the image at tick {tick} is {image.dtype} of shape {image.shape}, its calibration says"
                    f" {camera.width_px} x {camera.height_px} pixels"
                )
            images[camera.name] = undistorted(image, camera, view)
        return images


def recorded_views(cameras: Sequence[RecordedCamera], wanted: Rig) -> RecordedViews | None:
    """The log's cameras in the place of a wanted rig's, None where the log lacks one of them.

    An image keeps its camera's optics. It is scaled to fill the wanted size; where the shapes differ, what is too much is
    cut off so that the principal point lies where the wanted camera has it, as far as the image reaches. Nothing is
    stretched or letterboxed. ScenarioError, one line, where a calibration cannot be true.
    """
    by_name = {camera.name: camera for camera in cameras}
    if not all(camera.name in by_name for camera in wanted.cameras):
        return None
    chosen = tuple(by_name[camera.name] for camera in wanted.cameras)
    views = tuple(as_pinhole(camera, like) for camera, like in zip(chosen, wanted.cameras, strict=True))
    return RecordedViews(rig=Rig(name=wanted.name, cameras=views), cameras=chosen)


def as_pinhole(camera: RecordedCamera, like: Camera) -> Camera:
    """The pinhole behind a recorded camera's lens, its image of the size of `like`; see `recorded_views`. ScenarioError."""
    _check(camera)
    yaw_rad, pitch_rad, roll_rad = _angles(camera.rotation)
    scale = max(like.width_px / camera.width_px, like.height_px / camera.height_px)
    k = camera.intrinsics
    # +0.5: from OpenCV's pixels to ours. Then the part of the scaled image that is cut off before the first column or row.
    cx, cy = (float(k[0, 2]) + 0.5) * scale, (float(k[1, 2]) + 0.5) * scale
    left = min(max(cx - like.cx, 0.0), camera.width_px * scale - like.width_px)
    top = min(max(cy - like.cy, 0.0), camera.height_px * scale - like.height_px)
    view = Camera(
        name=camera.name,
        x_m=float(camera.position_m[0]),
        y_m=float(camera.position_m[1]),
        z_m=float(camera.position_m[2]),
        yaw_rad=yaw_rad,
        pitch_rad=pitch_rad,
        roll_rad=roll_rad,
        fx=float(k[0, 0]) * scale,
        fy=float(k[1, 1]) * scale,
        cx=cx - left,
        cy=cy - top,
        width_px=like.width_px,
        height_px=like.height_px,
    )
    _check_distortion(camera, view)
    return view


def undistorted(image: NDArray[np.uint8], camera: RecordedCamera, view: Camera) -> NDArray[np.uint8]:
    """(H, W, 3) as the pinhole `view` sees it, of an image (H', W', 3) as the camera took it.

    Averaged over squares as large as a pixel of the view before it is sampled, so that nothing thin flickers. Black where
    a pinhole sees more than the lens did (never so with a barrel distortion, which nuPlan's lenses have).
    """
    k = camera.intrinsics
    square_px = max(1, round(float(max(k[0, 0] / view.fx, k[1, 1] / view.fy))))
    maps = _maps(
        (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])),
        (camera.width_px, camera.height_px),
        tuple(float(value) for value in camera.distortion),
        (view.fx, view.fy, view.cx - 0.5, view.cy - 0.5),
        (view.width_px, view.height_px),
        0.5 if square_px % 2 == 0 else 0.0,
    )
    averaged = cv2.blur(image, (square_px, square_px), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.remap(averaged, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), dtype=np.uint8)


@functools.lru_cache(maxsize=CACHED_MAPS)
def _maps(
    taken: tuple[float, ...],
    taken_px: tuple[int, int],
    distortion: tuple[float, ...],
    wanted: tuple[float, ...],
    wanted_px: tuple[int, int],
    shift_px: float,
) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Where each wanted pixel comes from, in OpenCV's fixed point; taken and wanted are fx, fy, cx, cy in OpenCV's pixels.

    shift_px: OpenCV's mean of an even number of pixels stands half a pixel after their middle.
    """
    columns, rows = cv2.initUndistortRectifyMap(
        _matrix(taken), np.array(distortion or (0.0,) * 5), np.eye(3), _matrix(wanted), wanted_px, cv2.CV_32FC1
    )
    for at, last in ((columns, taken_px[0] - 1), (rows, taken_px[1] - 1)):
        at += shift_px
        at[(at < 0) & (at >= -0.5)] = 0  # the outer half of an outermost pixel shows its colour, no share of black
        at[(at > last) & (at <= last + 0.5 + shift_px)] = last
    first, second = cv2.convertMaps(columns, rows, cv2.CV_16SC2)
    return np.asarray(first, dtype=np.int16), np.asarray(second, dtype=np.uint16)


def _matrix(focal_and_centre: tuple[float, ...]) -> FloatArray:
    fx, fy, cx, cy = focal_and_centre
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _angles(rotation: FloatArray) -> tuple[float, float, float]:
    """Yaw, pitch, roll [rad] of `Camera` whose axes in the ego frame are the columns right, down, forward of (3, 3)."""
    right, _, forward = np.asarray(rotation, dtype=float).T
    yaw_rad = math.atan2(forward[1], forward[0])
    pitch_rad = math.atan2(forward[2], math.hypot(forward[0], forward[1]))
    level = np.array([math.sin(yaw_rad), -math.cos(yaw_rad), 0.0])  # the camera's right if it did not roll
    return yaw_rad, pitch_rad, math.atan2(float(right @ np.cross(forward, level)), float(right @ level))


def _check(camera: RecordedCamera) -> None:
    """ScenarioError, one line, where a calibration cannot be a camera's."""

    def refuse(problem: str) -> None:
        raise ScenarioError(f"camera {camera.name}: its calibration cannot be true: {problem}")

    k, width, height = camera.intrinsics, camera.width_px, camera.height_px
    if np.shape(camera.position_m) != (3,) or np.shape(camera.rotation) != (3, 3) or np.shape(k) != (3, 3):
        refuse("position, rotation and intrinsics are not of shapes (3,), (3, 3), (3, 3)")
    if np.shape(camera.distortion) not in ((0,), (5,)):
        refuse(f"distortion is of shape {np.shape(camera.distortion)}, expected (k1, k2, p1, p2, k3) or nothing")
    values = (camera.position_m, camera.rotation, k, camera.distortion)
    if not all(np.isfinite(value).all() for value in values):
        refuse("it holds a number that is not finite")
    if np.abs(camera.position_m).max() > MAX_REACH_M:
        refuse(f"the camera is {np.abs(camera.position_m).max():.4g} m from the rear axle")
    if np.abs(camera.rotation @ camera.rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(camera.rotation) < 0:
        refuse("its rotation is not a rotation")
    if not (0 < width <= MAX_PIXELS_A_SIDE and 0 < height <= MAX_PIXELS_A_SIDE):
        refuse(f"its images are {width} x {height} pixels")
    if not all(MIN_FOCAL_WIDTHS * width <= focal <= MAX_FOCAL_WIDTHS * width for focal in (k[0, 0], k[1, 1])):
        refuse(f"focal lengths of {k[0, 0]:.4g} and {k[1, 1]:.4g} pixels with images {width} pixels wide")
    if np.abs(k[[0, 1, 2, 2], [1, 0, 0, 1]]).max() > 1e-6 * k[0, 0] or abs(k[2, 2] - 1.0) > 1e-9:
        refuse("its intrinsics are not [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    if not (0 <= k[0, 2] <= width and 0 <= k[1, 2] <= height):
        refuse(f"its axis meets the image at {k[0, 2]:.4g}, {k[1, 2]:.4g}, which is outside of {width} x {height}")


def _check_distortion(camera: RecordedCamera, view: Camera) -> None:
    """ScenarioError where the lens would show two directions of the view in one place: no lens does."""
    if not len(camera.distortion):
        return
    k1, k2, _, _, k3 = camera.distortion
    x = max(view.cx, view.width_px - view.cx) / view.fx
    y = max(view.cy, view.height_px - view.cy) / view.fy
    r2 = np.linspace(0.0, x * x + y * y, 64)
    growth = 1.0 + r2 * (3.0 * k1 + r2 * (5.0 * k2 + r2 * 7.0 * k3))  # d/dr of r (1 + k1 r^2 + k2 r^4 + k3 r^6)
    if growth.min() <= 0:
        raise ScenarioError(
            f"camera {camera.name}: its calibration cannot be true: its distortion folds the image at"
            f" {math.degrees(math.atan(math.sqrt(r2[growth.argmin()]))):.0f} degrees from its axis"
        )
