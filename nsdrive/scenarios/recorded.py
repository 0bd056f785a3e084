"""What a log's own cameras saw: their calibration, and their images, opened when asked for.

for camera in source.cameras(item):          # () where the source has none, or the user has not downloaded them
    rgb = camera.read(tick)                  # (H, W, 3) uint8 as the camera took it, None where there is no image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsdrive.world.types import FloatArray

# An image belongs to a tick no further from it than this: 50 ms, as in nuPlan, and a little for its clocks, which are off by 60
# microseconds. Without that a scenario whose ticks lie half way between its images would lose many of them.
NEAR_S = 0.0505
MAX_PIXELS_A_SIDE = 16_384  # chosen by us


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedCamera:
    """One calibrated camera of one scenario.

    position_m (3,): in the ego frame, whose origin is on the ground below the rear axle. rotation (3, 3): from the camera's
    axes (x right, y down, z forward) to the ego's. intrinsics (3, 3): pixels of the image as taken. distortion: OpenCV's
    (k1, k2, p1, p2, k3), or empty where the image is a pinhole's. `read` takes a tick of the scenario and gives (H, W, 3)
    RGB, or None where no image lies within NEAR_S of it; ScenarioError, one line, where a file is missing or broken.
    """

    name: str  # nuPlan's, see nsdrive/cameras/rig.py: CAM_F0 is the one in front
    position_m: FloatArray
    rotation: FloatArray
    intrinsics: FloatArray
    distortion: FloatArray
    width_px: int
    height_px: int
    read: Callable[[int], NDArray[np.uint8] | None]
