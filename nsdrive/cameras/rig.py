"""The cameras of the ego: where they sit, where they look, and how a point becomes a pixel.

    rig = make_rig("3")                                    # CAM_F0, CAM_R0, CAM_L0 at 640 x 360
    pixels, depth_m = project(rig.cameras[0], np.array([[20.0, 0.0, 0.0]]))

A camera stands in the ego frame: origin on the ground below the rear axle, x forward, y left, z up. Its own frame is
x right, y down, z forward. Angles: yaw turns left, pitch looks up, roll leans to the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nsdrive.config import did_you_mean
from nsdrive.world.types import FloatArray

# nuPlan's nominal calibration, the same for all eight cameras (1920 x 1080, cropped from 1120 rows). nuPlan's lenses
# have a barrel distortion of their own; ours are the pinholes behind it.
NATIVE_WIDTH_PX, NATIVE_HEIGHT_PX = 1920, 1080
NATIVE_FOCAL_PX, NATIVE_CX_PX, NATIVE_CY_PX = 1545.0, 960.0, 560.0

AXLE_HEIGHT_M = 0.36  # nuPlan counts z from the rear axle: half of the Pacifica's tyres, 235/60 R18; we from the ground

# x, y, z above the axle [m], yaw, pitch [deg]. F0, L0, R0 and B0 are nuPlan's calibration. The side (L1, R1) and rear-side (L2, R2)
# cameras are chosen by us so that eight views of 64 degrees close the circle with at least 8 degrees of overlap; pitch
# is 0 where no calibration is known.
_PLACES: Mapping[str, tuple[float, float, float, float, float]] = {
    "CAM_F0": (1.73, -0.01, 1.59, 1.0, -2.3),
    "CAM_R0": (1.75, -0.16, 1.59, -54.3, 0.0),
    "CAM_L0": (1.65, 0.15, 1.60, 56.0, 0.0),
    "CAM_R1": (1.30, -0.35, 1.59, -110.0, 0.0),
    "CAM_L1": (1.30, 0.35, 1.59, 110.0, 0.0),
    "CAM_R2": (0.10, -0.35, 1.57, -148.0, 0.0),
    "CAM_L2": (0.10, 0.35, 1.57, 148.0, 0.0),
    "CAM_B0": (-0.45, -0.02, 1.55, 180.0, 0.0),
}
CAMERAS_OF_RIG: Mapping[str, tuple[str, ...]] = {
    "3": ("CAM_F0", "CAM_R0", "CAM_L0"),  # the order of the published release: front, front right, front left
    "8": tuple(_PLACES),  # front first, then from front to back, right before left as in rig 3
}


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole. Position and angles in the ego frame; fx, fy, cx, cy in pixels, pixel centres at +0.5."""

    name: str
    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    pitch_rad: float
    roll_rad: float
    fx: float
    fy: float
    cx: float
    cy: float
    width_px: int
    height_px: int

    @property
    def position_m(self) -> FloatArray:
        """(3,) in the ego frame."""
        return np.array([self.x_m, self.y_m, self.z_m])

    @property
    def rotation(self) -> FloatArray:
        """(3, 3): from ego axes to camera axes; its rows are the camera's right, down and forward."""
        cy, sy = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        cp, sp = np.cos(self.pitch_rad), np.sin(self.pitch_rad)
        forward = np.array([cy * cp, sy * cp, sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        cr, sr = np.cos(self.roll_rad), np.sin(self.roll_rad)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    @property
    def intrinsics(self) -> FloatArray:
        """(3, 3)."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def to_json(self) -> dict[str, Any]:
        """Every field, plus what readers of nuPlan expect: the 3 x 3 intrinsics and the camera-to-ego transform."""
        w, x, y, z = _quaternion(self.rotation.T)
        return asdict(self) | {
            "intrinsics": self.intrinsics.round(4).tolist(),
            "translation_ego_m": [self.x_m, self.y_m, self.z_m],
            "rotation_camera_to_ego_wxyz": [round(v, 9) for v in (w, x, y, z)],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Camera:
        """Inverse of `to_json`. Raises ValueError where a field is missing."""
        missing = sorted(set(Camera.__dataclass_fields__) - set(data))
        if missing:
            raise ValueError(f"A camera needs {', '.join(missing)}; got {', '.join(sorted(data)) or 'nothing'}.")
        return Camera(**{name: data[name] for name in Camera.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Cameras in the order in which a sample lists their images."""

    name: str
    cameras: tuple[Camera, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "cameras": [camera.to_json() for camera in self.cameras]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Rig:
        """Inverse of `to_json`."""
        if "name" not in data or "cameras" not in data:
            raise ValueError(f"A rig needs 'name' and 'cameras'; got {', '.join(sorted(data)) or 'nothing'}.")
        return Rig(name=str(data["name"]), cameras=tuple(Camera.from_json(camera) for camera in data["cameras"]))


def make_rig(name: str, *, width_px: int = 640, height_px: int = 360) -> Rig:
    """The rig "3" or "8", its images scaled from nuPlan's 1920 x 1080 to this size."""
    if name not in CAMERAS_OF_RIG:
        raise ValueError(f"No camera rig '{name}'. {did_you_mean(name, CAMERAS_OF_RIG)}")
    if not (16 <= width_px <= 4096 and 16 <= height_px <= 4096):
        raise ValueError(f"An image of {width_px} x {height_px} pixels cannot be drawn; give 16 to 4096 each way.")
    right, down = width_px / NATIVE_WIDTH_PX, height_px / NATIVE_HEIGHT_PX
    return Rig(
        name=name,
        cameras=tuple(
            Camera(
                name=camera,
                x_m=x,
                y_m=y,
                z_m=z + AXLE_HEIGHT_M,
                yaw_rad=float(np.deg2rad(yaw_deg)),
                pitch_rad=float(np.deg2rad(pitch_deg)),
                roll_rad=0.0,
                fx=NATIVE_FOCAL_PX * right,
                fy=NATIVE_FOCAL_PX * down,
                cx=NATIVE_CX_PX * right,
                cy=NATIVE_CY_PX * down,
                width_px=width_px,
                height_px=height_px,
            )
            for camera in CAMERAS_OF_RIG[name]
            for x, y, z, yaw_deg, pitch_deg in [_PLACES[camera]]
        ),
    )


def project(camera: Camera, points_ego: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pixels (N, 2) and depth [m] (N,) of points (N, 3) in the ego frame. Pixels of a depth <= 0 are nan."""
    inside = (np.asarray(points_ego, dtype=float).reshape(-1, 3) - camera.position_m) @ camera.rotation.T
    depth_m = inside[:, 2]
    z = np.where(depth_m > 1e-9, depth_m, np.nan)
    pixels = np.stack([camera.fx * inside[:, 0] / z + camera.cx, camera.fy * inside[:, 1] / z + camera.cy], axis=1)
    return pixels, depth_m


def _quaternion(rotation: FloatArray) -> tuple[float, float, float, float]:
    """(w, x, y, z) of a rotation matrix, w >= 0: the eigenvector of Bar-Itzhack's symmetric matrix."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0.0, 0.0, 0.0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0.0, 0.0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0.0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
        ]
    )
    _, vectors = np.linalg.eigh(k, UPLO="L")
    x, y, z, w = vectors[:, -1] * (1.0 if vectors[3, -1] >= 0 else -1.0)
    return float(w), float(x), float(y), float(z)


RIGS: Mapping[str, Rig] = {name: make_rig(name) for name in CAMERAS_OF_RIG}
