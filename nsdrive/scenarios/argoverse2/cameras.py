"""What the ring cameras of an Argoverse 2 sensor log saw.

    <log id>/calibration/intrinsics.feather               sensor_name, fx_px, fy_px, cx_px, cy_px, height_px, width_px
    <log id>/calibration/egovehicle_SE3_sensor.feather    sensor_name, quaternion, tx_m, ty_m, tz_m: camera to ego
    <log id>/sensors/cameras/<name>/<timestamp_ns>.jpg    some 20 a second, only in a full download

The images are published without their lenses' distortion (the intrinsics' k1 to k3 are what was taken out; av2-api issues
219 and 226). The front camera stands upright, 1550 x 2048; the others are 2048 x 1550, and none looks straight back.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import Table, one_line, read_feather, rotations_of
from nsdrive.scenarios.argoverse2.sensor import read_clock
from nsdrive.scenarios.recorded import NEAR_S, RecordedCamera
from nsdrive.scenarios.recorded_files import file_inside, nearest, read_jpeg
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

CAMERAS: Mapping[str, str] = {  # in nuPlan's words
    "ring_front_center": "CAM_F0",
    "ring_front_left": "CAM_L0",
    "ring_front_right": "CAM_R0",
    "ring_side_left": "CAM_L1",
    "ring_side_right": "CAM_R1",
    "ring_rear_left": "CAM_L2",
    "ring_rear_right": "CAM_R2",
}
# The source's ego frame begins at the rear axle itself. In a real log the boxes of vehicles within 15 m of the ego end
# 0.36 m (median) below it; a Ford Fusion's wheels have a radius of 0.33 m.
AXLE_HEIGHT_M = 0.35
TIMESTAMP = re.compile(r"[0-9]{1,18}|[1-8][0-9]{18}")  # fits 64 bits
MAX_POSITION_M, MAX_PIXELS = 20.0, 20_000.0  # chosen by us


def read_cameras(folder: Path) -> tuple[RecordedCamera, ...]:
    """The ring cameras of the log in `folder` whose images are there. ScenarioError where its calibration is unusable."""
    images = {source: _images(folder, source) for source in CAMERAS}
    if not any(images.values()):
        return ()
    clock_ns = read_clock(folder)
    intrinsics = read_feather(folder / "calibration" / "intrinsics.feather")
    poses = read_feather(folder / "calibration" / "egovehicle_SE3_sensor.feather")
    intrinsic_rows, pose_rows = _rows(intrinsics), _rows(poses)
    rotations = rotations_of(poses)
    positions_m = np.stack([poses.floats(name, limit=MAX_POSITION_M) for name in ("tx_m", "ty_m", "tz_m")], axis=1)
    matrices = _matrices(intrinsics)
    sizes = [intrinsics.integers(name) for name in ("width_px", "height_px")]
    cameras = []
    for source, name in CAMERAS.items():
        if not images[source]:
            continue
        for table, rows in ((intrinsics, intrinsic_rows), (poses, pose_rows)):
            if source not in rows:
                raise ScenarioError(f"{table.path}: has no row for {source}, of which there are images")
        row, pose = intrinsic_rows[source], pose_rows[source]
        width_px, height_px = (int(size[row]) for size in sizes)
        stamps = np.array(sorted(images[source]), dtype=np.int64)
        nearest_rows = nearest(stamps, clock_ns, round(NEAR_S * 1e9)).tolist()
        files = {tick: images[source][int(stamps[at])] for tick, at in enumerate(nearest_rows) if at >= 0}
        cameras.append(
            RecordedCamera(
                name=name,
                position_m=positions_m[pose] + (0.0, 0.0, AXLE_HEIGHT_M),
                rotation=rotations[pose],
                intrinsics=matrices[row],
                distortion=np.zeros(0),
                width_px=width_px,
                height_px=height_px,
                read=functools.partial(_read, folder, files, width_px, height_px),
            )
        )
    return tuple(cameras)


def _images(folder: Path, source: str) -> dict[int, str]:
    """Timestamp [ns] -> name below the log's folder, of a camera's images; files of other names are not images."""
    below = f"sensors/cameras/{source}"
    try:
        names = os.listdir(folder / below)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ScenarioError(f"{folder / below}: cannot be listed ({one_line(error)})") from error
    stems = [name.removesuffix(".jpg") for name in names if name.endswith(".jpg")]
    return {int(stem): f"{below}/{stem}.jpg" for stem in stems if TIMESTAMP.fullmatch(stem)}


def _read(folder: Path, files: Mapping[int, str], width_px: int, height_px: int, tick: int) -> NDArray[np.uint8] | None:
    if tick not in files:
        return None
    return read_jpeg(file_inside(folder, files[tick]), width_px, height_px)


def _rows(table: Table) -> dict[str, int]:
    return {name: row for row, name in enumerate(table.strings("sensor_name").tolist())}


def _matrices(intrinsics: Table) -> FloatArray:
    """(N, 3, 3)."""
    columns = [intrinsics.floats(name, limit=MAX_PIXELS) for name in ("fx_px", "fy_px", "cx_px", "cy_px")]
    matrices = np.zeros((len(intrinsics), 3, 3))
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2] = columns
    matrices[:, 2, 2] = 1.0
    return matrices
