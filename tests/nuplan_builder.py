"""Small nuPlan logs and maps for tests: a generated scene in nuPlan's format, cameras if wanted, ways to change files."""

from __future__ import annotations

import hashlib
import pickle
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from lens import NUPLAN_LENS

from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan.write import Written, write_scenario
from nsdrive.scenarios.synthetic import SyntheticConfig, SyntheticSource
from nsdrive.world.types import Scenario


def scene(family: str = "red_light_lead", seed: int = 4) -> Scenario:
    source = SyntheticSource(SyntheticConfig(seed=seed, families=(family,), n_scenarios=1))
    return source.load(source.items()[0])


def write_log(folder: Path, family: str = "red_light_lead", seed: int = 4) -> Written:
    """folder/logs/<scene>.db with one tag, folder/maps/<map>/<version>/map.gpkg."""
    return write_scenario(scene(family, seed), folder)


CHANNELS = ("CAM_F0", "CAM_L0", "CAM_R0", "CAM_L1", "CAM_R1", "CAM_L2", "CAM_R2", "CAM_B0")
YAWS_DEG = (1.0, 56.0, -54.3, 110.0, -110.0, 148.0, -148.0, 180.0)
WIDTH, HEIGHT = 480, 270  # a quarter of nuPlan's
FORWARD = (0.5, -0.5, 0.5, -0.5)  # w, x, y, z: looks along the ego's x, upright


def calibration(channel: str) -> dict[str, list]:
    """translation, rotation, intrinsic and distortion as nuPlan has them, the lens a little off the nominal one."""
    half = np.deg2rad(YAWS_DEG[CHANNELS.index(channel)]) / 2
    w, x, y, z = FORWARD
    c, s = np.cos(half), np.sin(half)  # the turn about the ego's z, then FORWARD
    rotation = [c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w]
    focal = 1545.0 / 4
    return {
        "translation": [1.73, -0.01, 1.59],
        "rotation": [float(value) for value in rotation],
        "intrinsic": [[focal, 0.0, 960.0 / 4 + 0.3], [0.0, focal, 560.0 / 4 - 0.2], [0.0, 0.0, 1.0]],
        "distortion": NUPLAN_LENS.tolist(),
    }


def add_cameras(
    folder: Path,
    *,
    channels: Iterable[str] = CHANNELS,
    late_us: int = 20_000,
    changed: Mapping[str, bytes | None] | None = None,
) -> None:
    """Rows in camera and image: 10 images a second of each camera, `late_us` after every second row of lidar_pc."""

    def add(log: sqlite3.Connection) -> None:
        (log_token,) = log.execute("select token from log").fetchone()
        clouds = log.execute("select timestamp, ego_pose_token from lidar_pc order by timestamp").fetchall()[::2]
        for channel in channels:
            blobs = {name: pickle.dumps(value) for name, value in calibration(channel).items()} | dict(changed or {})
            camera = _token(channel)
            log.execute(
                "insert into camera values (?, ?, ?, 'none', ?, ?, ?, ?, ?, ?)",
                (camera, log_token, channel, *blobs.values(), WIDTH, HEIGHT),
            )
            for number, (stamp, pose) in enumerate(clouds):
                token = _token(channel, number)
                log.execute(
                    "insert into image values (?, null, null, ?, ?, ?, ?)",
                    (token, pose, camera, image_name(folder, channel, number), stamp + late_us),
                )

    change_with(log_file(folder), add)


def image_name(folder: Path, channel: str, number: int) -> str:
    """The name of a camera's image by its number in the log, below sensor_blobs."""
    return f"{log_file(folder).stem}/{channel}/{_token(channel, number).hex()}.jpg"


def write_images(
    folder: Path, numbers: Iterable[int], picture: Callable[[int], np.ndarray], channels: Iterable[str] = CHANNELS
) -> None:
    """JPEGs (RGB by number) below folder/sensor_blobs, where nuPlan has them."""
    for number in numbers:
        encoded = cv2.imencode(".jpg", picture(number)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        for channel in channels:
            path = folder / "sensor_blobs" / image_name(folder, channel, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)


def _token(*key: object) -> bytes:
    return hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()


def source_of(folder: Path, **settings: object) -> NuplanSource:
    return NuplanSource(NuplanConfig(path=str(folder), **settings))  # type: ignore[arg-type]


def log_file(folder: Path) -> Path:
    return next(folder.rglob("*.db"))


def map_file(folder: Path) -> Path:
    """The scene's own map; empty ones of nuPlan's four cities lie beside it."""
    return next(folder.glob("maps/nsdrive-*/*/map.gpkg"))


def change(path: Path, *statements: str) -> None:
    """Run SQL on a file and keep what it did."""
    change_with(path, lambda database: [database.execute(statement) for statement in statements])


def change_with(path: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    database = sqlite3.connect(path)
    work(database)
    database.commit()
    database.close()
