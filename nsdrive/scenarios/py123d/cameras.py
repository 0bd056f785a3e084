"""The pinhole cameras of a log of py123d: calibration in the ego's frame, and images read when asked for.

py123d names cameras as nuPlan does (PCAM_F0 is CAM_F0), with two stereo cameras and one that looks down besides. Fisheye
and f-theta cameras (KITTI-360's sides, NVIDIA's Physical AI) are refused: no pinhole holds what they see.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.py123d.files import READ_ERRORS, checked_points, opened, py123d, read_metadata, read_times_us
from nsdrive.scenarios.py123d.log import TICK_US, Vehicle, pose_matrix, read_vehicle
from nsdrive.scenarios.recorded import NEAR_S, RecordedCamera
from nsdrive.scenarios.recorded_files import decoded, file_inside, nearest
from nsdrive.scenarios.source import ScenarioError

PREFIX = "camera."  # of the files' names; a camera's labels and depths are other modalities with other names


@dataclass(frozen=True, kw_only=True)
class CameraFile:
    """One camera of a log, its calibration not yet looked into."""

    path: Path
    name: str  # nuPlan's, or py123d's for a camera that nuPlan has not
    about: Mapping[str, Any]

    @property
    def refusal(self) -> str | None:
        """Why its images cannot be used, None where they can."""
        model = self.about.get("camera_model")
        if model != "pinhole":
            return f"its model is {model}, and only a pinhole's image can be undistorted here"
        if self.about.get("intrinsics") is None:
            return "its calibration has no intrinsics"
        return None


def camera_files(folder: Path) -> tuple[CameraFile, ...]:
    """Every RGB camera of a log, in the order of their names. ScenarioError."""
    files = []
    for path in sorted(folder.glob(f"{PREFIX}*.arrow")):
        name = path.stem.removeprefix(PREFIX).upper()
        name = f"CAM_{name.removeprefix('PCAM_')}" if name.startswith("PCAM_") else name
        files.append(CameraFile(path=path, name=name, about=read_metadata(path)))
    return tuple(files)


def read_cameras(
    folder: Path, dataset: str, sensor_path: str | None, start_us: int, n_ticks: int
) -> tuple[RecordedCamera, ...]:
    """The log's cameras whose images are at hand.

    Images are inside py123d's files, or in the data set's own: below `sensor_path`, else where py123d's environment
    variable says; empty where neither is given. ScenarioError where every camera is refused, or a calibration is broken.
    """
    files = camera_files(folder)
    usable = [file for file in files if file.refusal is None]
    if files and not usable:
        raise ScenarioError(f"{files[0].path}: {files[0].refusal} (so with all {len(files)} cameras of the log)")
    if not usable:
        return ()
    vehicle = read_vehicle(folder)
    root = sensor_root(dataset, sensor_path)
    ticks_us = start_us + TICK_US * np.arange(n_ticks, dtype=np.int64)
    cameras = []
    for file in usable:
        try:
            stored = str(opened(file.path).schema.field(f"{file.path.stem}.data").type)
            if stored == "string" and root is None:
                continue
            rows = nearest(read_times_us(folder, file.path.stem), ticks_us, round(NEAR_S * 1e6))
            cameras.append(_camera(file, vehicle, _Images(file=file, root=root, rows=rows)))
        except ScenarioError:
            raise
        except READ_ERRORS as error:
            raise ScenarioError(f"{file.path}: its calibration is unusable ({one_line(error)})") from error
    return tuple(cameras)


def sensor_root(dataset: str, sensor_path: str | None) -> Path | None:
    """The folder that image paths in py123d's files start from, None where nobody says."""
    if sensor_path is not None:
        return Path(os.path.abspath(Path(sensor_path).expanduser()))
    root = py123d("common.runtime.dataset_paths").DatasetPaths.from_env().get_sensor_root(dataset)
    return None if root is None else Path(os.path.abspath(root))


def _camera(file: CameraFile, vehicle: Vehicle, images: _Images) -> RecordedCamera:
    meta = py123d("datatypes.sensors.pinhole_camera").PinholeCameraMetadata.from_dict(file.about)
    to_rear = np.linalg.inv(vehicle.rear_to_imu) @ pose_matrix(meta.camera_to_imu_se3.array)
    is_distorted = meta.distortion is not None and not meta.is_undistorted
    distortion = np.array(meta.distortion.array, dtype=float) if is_distorted else np.zeros(0)
    return RecordedCamera(
        name=file.name,
        position_m=to_rear[:3, 3] + np.array([0.0, 0.0, vehicle.axle_height_m]),  # theirs starts at the axle's height
        rotation=to_rear[:3, :3],
        intrinsics=checked_points(np.array(meta.intrinsics.camera_matrix, dtype=float)),
        distortion=checked_points(distortion),
        width_px=int(meta.width),
        height_px=int(meta.height),
        read=images,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """Tick -> (H, W, 3) RGB of one camera; see RecordedCamera.read. rows (T,): of the file, -1 where there is no image."""

    file: CameraFile
    root: Path | None
    rows: NDArray[np.int64]

    def __call__(self, tick: int) -> NDArray[np.uint8] | None:
        row = int(self.rows[tick]) if 0 <= tick < len(self.rows) else -1
        if row < 0:
            return None
        owner = f"{self.file.path}: row {row}"
        width_px, height_px = int(self.file.about["width"]), int(self.file.about["height"])
        try:
            data = _cell(self.file.path, row)
            if isinstance(data, int):
                return _video_frame(self.file.path.with_suffix(".mp4"), data, width_px, height_px)
            if isinstance(data, str):
                assert self.root is not None
                path = file_inside(self.root, data)
                if not path.is_file():
                    raise ScenarioError(f"{path}: is missing, and {self.file.path} names it")
                owner, data = str(path), path.read_bytes()
        except ScenarioError:
            raise
        except READ_ERRORS as error:
            raise ScenarioError(f"{owner} has no readable image ({one_line(error)})") from error
        return decoded(owner, data, width_px, height_px, ("JPEG", "PNG"))


def _cell(path: Path, row: int) -> Any:
    """What the column "data" holds in a row; only the batch around it is read."""
    reader = opened(path, (f"{path.stem}.data",))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        if row < batch.num_rows:
            batch.validate(full=True)
            return batch.column(0)[row].as_py()
        row -= batch.num_rows
    raise ValueError("it has fewer images than timestamps")


def _video_frame(path: Path, number: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
    import cv2

    if not path.is_file():
        raise ScenarioError(f"{path}: is missing")
    video = cv2.VideoCapture(str(path))
    try:
        video.set(cv2.CAP_PROP_POS_FRAMES, number)
        there, image = video.read()
    finally:
        video.release()
    if not there or image.shape != (height_px, width_px, 3):
        raise ScenarioError(f"{path}: has no frame {number} of {width_px} x {height_px} pixels")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
