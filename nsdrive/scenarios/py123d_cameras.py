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

from nsdrive.scenarios.argoverse2_files import one_line
from nsdrive.scenarios.py123d_files import READ_ERRORS, checked_points, opened, py123d, read_metadata, read_times_us
from nsdrive.scenarios.py123d_log import TICK_US, Vehicle, pose_matrix, read_vehicle
from nsdrive.scenarios.recorded import NEAR_S, RecordedCamera
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
    vehicle = read_vehicle(folder) if usable else None
    cameras = []
    for file in usable:
        assert vehicle is not None
        root = sensor_root(dataset, sensor_path)
        try:
            stored = str(opened(file.path).schema.field(f"{file.path.stem}.data").type)
            if stored == "string" and root is None:
                continue
            ticks_us = start_us + TICK_US * np.arange(n_ticks, dtype=np.int64)
            cameras.append(_camera(file, vehicle, _Images(file=file, root=root, ticks_us=ticks_us)))
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
    """Tick -> (H, W, 3) RGB of one camera; see RecordedCamera.read."""

    file: CameraFile
    root: Path | None
    ticks_us: NDArray[np.int64]

    def __call__(self, tick: int) -> NDArray[np.uint8] | None:
        times_us = read_times_us(self.file.path.parent, self.file.path.stem)
        if not 0 <= tick < len(self.ticks_us) or not len(times_us):
            return None
        row = int(np.abs(times_us - self.ticks_us[tick]).argmin())
        if abs(int(times_us[row]) - int(self.ticks_us[tick])) > NEAR_S * 1e6:
            return None
        try:
            image = self._decoded(_cell(self.file.path, row))
        except ScenarioError:
            raise
        except READ_ERRORS as error:
            raise ScenarioError(f"{self.file.path}: row {row} has no readable image ({one_line(error)})") from error
        size = (int(self.file.about["height"]), int(self.file.about["width"]))
        if image.shape[:2] != size:
            raise ScenarioError(
                f"{self.file.path}: the image in row {row} is {image.shape[1]} x {image.shape[0]} pixels, its calibration"
                f" says {size[1]} x {size[0]}"
            )
        return image

    def _decoded(self, data: Any) -> NDArray[np.uint8]:
        import cv2

        if isinstance(data, int):
            return _video_frame(self.file.path.with_suffix(".mp4"), data)
        if isinstance(data, str):
            data = self._file(data).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("neither JPEG nor PNG")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _file(self, name: str) -> Path:
        """The file of that name below the root, and nowhere else: the name comes from a file of a stranger."""
        assert self.root is not None
        path = Path(os.path.normpath(self.root / name))
        if not path.is_relative_to(self.root):
            raise ScenarioError(f"{self.file.path}: names an image outside {self.root}: {name[:120]}")
        if not path.is_file():
            raise ScenarioError(f"{path}: is missing, and {self.file.path} names it")
        return path


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


def _video_frame(path: Path, number: int) -> NDArray[np.uint8]:
    import cv2

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    video = cv2.VideoCapture(str(path))
    try:
        video.set(cv2.CAP_PROP_POS_FRAMES, number)
        there, image = video.read()
    finally:
        video.release()
    if not there:
        raise ValueError(f"{path} has no frame {number}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
