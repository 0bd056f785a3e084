"""What the eight cameras of a nuPlan log saw: the tables camera and image, and the files of sensor_blobs.

    camera.translation, rotation     pickled [x, y, z] m and [qw, qx, qy, qz], from the camera's axes to the ego's
    camera.intrinsic, distortion     pickled 3 x 3 and [k1, k2, p1, p2, k3], OpenCV's, in pixels of the image as taken
    image.filename_jpg               <log>/<channel>/<token>.jpg, below the folder sensor_blobs; 10 a second and camera

nuPlan's ego frame begins at the rear axle itself, ours on the ground below it. Few have downloaded all images: a camera
whose folder is not there is left out, one whose folder lacks an image is an error when that image is asked for.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.nuplan.pickled_numbers import pickled_numbers
from nsdrive.scenarios.nuplan.sqlite import columns_of, opened
from nsdrive.scenarios.recorded import MAX_PIXELS_A_SIDE, NEAR_S, RecordedCamera
from nsdrive.scenarios.recorded_files import file_inside, nearest, read_jpeg
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

# The height of nuPlan's origin above the ground, which its documents do not tell: the radius of a Pacifica's loaded tyre
# (235/60 R18). Public readers have 0.36 and 0.44 m, the latter from lidar points. On the ground itself it cannot be: the
# cameras on the roof of a car 1.777 m high have z = 1.59 m.
AXLE_HEIGHT_M = 0.36
BLOBS = "sensor_blobs"


def read_cameras(path: Path, clock_us: NDArray[np.int64], sensor_path: str | None) -> tuple[RecordedCamera, ...]:
    """The cameras of a log by channel, reading at ticks with these timestamps (T,).

    Empty where the log's tables or the files of its images are not there. ScenarioError, one line, where a calibration
    cannot be read, ValueError where `sensor_path` is no folder.
    """
    roots = _roots(sensor_path, path)
    with opened(path) as log:
        if not columns_of(log, "camera") or not columns_of(log, "image"):
            return ()
        rows = log.execute(
            "select token, channel, translation, rotation, intrinsic, distortion, width, height from camera"
        ).fetchall()
        images = _images(log, clock_us) if rows and roots else {}
        cameras: dict[str, RecordedCamera] = {}
        for row in rows:
            files = _files(images.get(row["token"], []), clock_us)
            root = _root_of(roots, files)
            if root is None:
                continue
            camera = _camera(path, row, root, files)
            if camera.name in cameras:
                raise ScenarioError(f"{path}: has two cameras of channel {camera.name}")
            cameras[camera.name] = camera
    return tuple(camera for _, camera in sorted(cameras.items()))


def _images(log: sqlite3.Connection, clock_us: NDArray[np.int64]) -> dict[bytes, list[sqlite3.Row]]:
    """Camera token -> rows of its images around these ticks, in the order of time."""
    near_us = round(NEAR_S * 1e6)
    images: dict[bytes, list[sqlite3.Row]] = {}
    for row in log.execute(
        "select camera_token, timestamp, filename_jpg from image where timestamp between ? and ? order by timestamp",
        (int(clock_us.min()) - near_us, int(clock_us.max()) + near_us),
    ):
        images.setdefault(row["camera_token"], []).append(row)
    return images


def _files(images: list[sqlite3.Row], clock_us: NDArray[np.int64]) -> dict[int, str]:
    """Tick -> name of the file of the image nearest to it, for ticks that have one."""
    times_us = np.array([row["timestamp"] for row in images], dtype=np.int64)
    rows = nearest(times_us, clock_us, round(NEAR_S * 1e6))
    return {tick: images[row]["filename_jpg"] for tick, row in enumerate(rows.tolist()) if row >= 0}


def _camera(path: Path, row: sqlite3.Row, root: Path, files: Mapping[int, str]) -> RecordedCamera:
    numbers: dict[str, FloatArray] = {}
    for column, shape in (("translation", (3,)), ("rotation", (4,)), ("intrinsic", (3, 3)), ("distortion", (5,))):
        try:
            numbers[column] = pickled_numbers(row[column], shape)
        except ValueError as error:
            raise ScenarioError(f"{path}: {column} of camera {row['channel']} {error}") from error
    width_px, height_px = row["width"], row["height"]
    if not all(isinstance(side, int) and 0 < side <= MAX_PIXELS_A_SIDE for side in (width_px, height_px)):
        raise ScenarioError(f"{path}: images of camera {row['channel']} are {width_px} x {height_px} pixels")
    return RecordedCamera(
        name=str(row["channel"]),
        position_m=numbers["translation"] + (0.0, 0.0, AXLE_HEIGHT_M),
        rotation=_rotation(path, row["channel"], numbers["rotation"]),
        intrinsics=numbers["intrinsic"],
        distortion=numbers["distortion"],
        width_px=width_px,
        height_px=height_px,
        read=functools.partial(_read, root, files, width_px, height_px),
    )


def _read(root: Path, files: Mapping[int, str], width_px: int, height_px: int, tick: int) -> NDArray[np.uint8] | None:
    if tick not in files:
        return None
    return read_jpeg(file_inside(root, files[tick]), width_px, height_px)


def _rotation(path: Path, channel: str, quaternion: FloatArray) -> FloatArray:
    """(3, 3) of a quaternion w, x, y, z."""
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1.0) > 1e-3:
        raise ScenarioError(f"{path}: rotation of camera {channel} is a quaternion of length {length:.4g}, expected 1")
    w, x, y, z = quaternion / length
    across = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + 2.0 * w * across + 2.0 * across @ across


def _root_of(roots: list[Path], files: Mapping[int, str]) -> Path | None:
    """The first folder that has the folder of these images, None where none has."""
    for root in roots:
        if any(file_inside(root, name).parent.is_dir() for name in list(files.values())[:1]):
            return root
    return None


def _roots(sensor_path: str | None, log: Path) -> list[Path]:
    """Folders in which images may be: the given one; or nuPlan's environment variables, and beside or above the log."""
    if sensor_path is not None:
        root = Path(sensor_path).expanduser().absolute()
        if not root.is_dir():
            raise ValueError(
                f"sensor_path {root} is no folder; give nuPlan's {BLOBS}, which holds a folder for each log"
            )
        return [root]
    named = []
    if os.environ.get("NUPLAN_SENSOR_ROOT"):
        named.append(Path(os.environ["NUPLAN_SENSOR_ROOT"]))
    if os.environ.get("NUPLAN_DATA_ROOT"):
        named.append(Path(os.environ["NUPLAN_DATA_ROOT"], "nuplan-v1.1", BLOBS))
    # as published: nuplan-v1.1/splits/mini/<log>.db and nuplan-v1.1/sensor_blobs
    beside = [folder / BLOBS for folder in list(log.absolute().parents)[:5]]
    return [root for root in (*(root.expanduser().absolute() for root in named), *beside) if root.is_dir()]
