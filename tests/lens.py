"""Photographs of dots as a real lens makes them, and where dots are in an image."""

from __future__ import annotations

import cv2
import numpy as np

from nsdrive.cameras.rig import Camera
from nsdrive.scenarios.recorded import RecordedCamera

NUPLAN_LENS = np.array([-0.356123, 0.172545, -0.00213, 0.000464, -0.05231])  # k1, k2, p1, p2, k3
DEPTH_M = 12.0
DOT_SHARE = 1 / 216  # of the image's height: a dot's standard deviation


def dots_before(view: Camera) -> np.ndarray:
    """(N, 3) points in the ego frame, all over the view."""
    u, v = np.meshgrid(np.linspace(0.08, 0.92, 6) * view.width_px, np.linspace(0.1, 0.9, 4) * view.height_px)
    rays = np.stack([(u - view.cx) / view.fx, (v - view.cy) / view.fy, np.ones_like(u)], axis=-1).reshape(-1, 3)
    return view.position_m + DEPTH_M * rays @ view.rotation


def photographed(seen: RecordedCamera, points_ego: np.ndarray) -> np.ndarray:
    """(H, W, 3): what OpenCV says the camera's lens makes of white dots (N, 3) in the ego frame."""
    to_camera = seen.rotation.T
    distortion = seen.distortion if len(seen.distortion) else np.zeros(5)
    pixels, _ = cv2.projectPoints(
        points_ego, cv2.Rodrigues(to_camera)[0], -to_camera @ seen.position_m, seen.intrinsics, distortion
    )
    sigma = seen.height_px * DOT_SHARE
    reach = np.arange(-round(5 * sigma), round(5 * sigma) + 1)
    image = np.zeros((seen.height_px, seen.width_px))
    for u, v in pixels.reshape(-1, 2):
        columns, rows = round(u) + reach, round(v) + reach
        dot = np.exp(-((columns[None] - u) ** 2 + (rows[:, None] - v) ** 2) / (2 * sigma**2))
        on_columns, on_rows = (columns >= 0) & (columns < seen.width_px), (rows >= 0) & (rows < seen.height_px)
        image[np.ix_(rows[on_rows], columns[on_columns])] += dot[np.ix_(on_rows, on_columns)]
    return np.repeat(np.round(255 * image.clip(0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)


def centres(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """(N, 2): middle of the brightness around each guessed pixel, the first pixel's centre being at 0.5."""
    reach = round(image.shape[0] / 45)
    found = []
    for u, v in near:
        left, top = max(0, int(u) - reach), max(0, int(v) - reach)
        patch = image[top : int(v) + reach + 1, left : int(u) + reach + 1, 0].astype(float)
        rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
        found.append(((columns * patch).sum() / patch.sum() + left, (rows * patch).sum() / patch.sum() + top))
    return np.array(found) + 0.5
