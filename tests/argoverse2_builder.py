"""Small logs in Argoverse 2's own file formats: real feather, parquet and JSON, written by the dozen lines.

The road runs 30 degrees north of east from (1000, 2000): two lanes ahead and one back, an intersection with a straight
on and a left connector, and a lane after it. The ego drives along the right lane at 8 m/s on a slope.

    right lane 1 -> connector 4 -> lane 6        left lane 2 -> connector 5 (left)        oncoming lane 3
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import feather, parquet

ORIGIN = np.array([1000.0, 2000.0])
YAW, PITCH = np.deg2rad(30.0), np.deg2rad(-3.0)
EGO_SPEED, EGO_START = 8.0, 5.0
LANE = 3.5
START_NS = 315_966_253_660_000_000


def city(along: Any, aside: Any) -> np.ndarray:
    """(N, 2) city points of a progress along the road and an offset to the left of the right lane's middle."""
    along, aside = np.broadcast_arrays(np.asarray(along, float), np.asarray(aside, float))
    forward, left = np.array([np.cos(YAW), np.sin(YAW)]), np.array([-np.sin(YAW), np.cos(YAW)])
    return ORIGIN + along[..., None] * forward + aside[..., None] * left


def rotation(yaw: float, pitch: float = 0.0) -> np.ndarray:
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])


def quaternion(yaw: float, pitch: float = 0.0) -> tuple[float, float, float, float]:
    cy, sy, cp, sp = np.cos(yaw / 2), np.sin(yaw / 2), np.cos(pitch / 2), np.sin(pitch / 2)
    return (cy * cp, -sy * sp, cy * sp, sy * cp)


def road_map() -> dict[str, Any]:
    def points(line: np.ndarray) -> list[dict[str, float]]:
        return [{"x": round(x, 3), "y": round(y, 3), "z": 0.0} for x, y in line.tolist()]

    def lane(lane_id: int, left: np.ndarray, right: np.ndarray, **more: Any) -> dict[str, Any]:
        return {
            "id": lane_id, "is_intersection": False, "lane_type": "VEHICLE",
            "left_lane_boundary": points(left), "left_lane_mark_type": "DASHED_WHITE",
            "right_lane_boundary": points(right), "right_lane_mark_type": "SOLID_WHITE",
            "successors": [], "predecessors": [], "left_neighbor_id": None, "right_neighbor_id": None,
        } | more  # fmt: skip

    half = LANE / 2
    bend = np.linspace(0.0, np.pi / 2, 20)

    def arc(radius: float) -> np.ndarray:  # turns left about (150, LANE + 10)
        return city(150 + radius * np.sin(bend), LANE + 10 - radius * np.cos(bend))

    lanes = [
        lane(1, city([0, 150], half), city([0, 60, 150], -half), successors=[4, 777], left_neighbor_id=2),
        lane(2, city([0, 150], LANE + half), city([0, 150], half), successors=[5], predecessors=[778],
             left_neighbor_id=3, right_neighbor_id=1, left_lane_mark_type="DOUBLE_SOLID_YELLOW"),
        lane(3, city([150, 0], LANE + half), city([150, 0], 2 * LANE + half), left_neighbor_id=2),
        lane(4, city([150, 175], half), city([150, 175], -half), is_intersection=True, successors=[6],
             predecessors=[1], left_lane_mark_type="NONE", right_lane_mark_type="NONE"),
        lane(5, arc(10 - half), arc(10 + half), is_intersection=True, predecessors=[2],
             left_lane_mark_type="NONE", right_lane_mark_type="NONE"),
        lane(6, city([175, 320], half), city([175, 320], -half)),  # that 4 leads to it is only said at 4
    ]  # fmt: skip
    crossing = {"id": 50, "edge1": points(city([140, 140], [-2, 10])), "edge2": points(city([143, 143], [-2, 10]))}
    twisted = {"id": 51, "edge1": points(city([180, 180], [-2, 10])), "edge2": points(city([183, 183], [10, -2]))}
    area = points(city([-5, 330, 330, -5], [-4, -4, 14, 14]))
    return {
        "lane_segments": {str(entry["id"]): entry for entry in lanes},
        "pedestrian_crossings": {"50": crossing, "51": twisted},
        "drivable_areas": {"90": {"id": 90, "area_boundary": area}},
    }


Mover = Callable[[np.ndarray], tuple[Any, Any, float]]  # seconds -> along, aside, heading from the road's


def still(along: float, aside: float, heading: float = 0.0) -> Mover:
    return lambda t: (np.full_like(t, along), np.full_like(t, aside), heading)


THINGS: dict[str, tuple[str, tuple[float, float, float], Mover]] = {  # uuid -> category, size, motion
    "aaaaaaaa-lead": ("REGULAR_VEHICLE", (4.6, 1.9, 1.6), lambda t: (EGO_START + 20 + 8.0 * t, 0 * t, 0.0)),
    "bbbbbbbb-slows": ("BUS", (12.0, 2.6, 3.2), lambda t: (30 + 8 * t - 0.25 * t**2, 0 * t + LANE, 0.0)),
    "cccccccc-parked": ("REGULAR_VEHICLE", (4.4, 1.8, 1.5), still(70.0, -3.0)),
    "dddddddd-walker": ("PEDESTRIAN", (0.6, 0.6, 1.7), lambda t: (0 * t + 100, -6 + 1.4 * t, np.pi / 2)),
    "eeeeeeee-rider": ("BICYCLIST", (0.8, 0.6, 1.8), lambda t: (40 + 5 * t, 0 * t - 1.5, 0.0)),
    "ffffffff-bicycle": ("BICYCLE", (1.8, 0.6, 1.1), lambda t: (40.1 + 5 * t, 0 * t - 1.5, 0.0)),
    "01234567-cone": ("CONSTRUCTION_CONE", (0.4, 0.4, 0.8), still(90.0, -2.0)),
    "01234567-future": ("HOVERCRAFT", (3.0, 2.0, 1.0), still(120.0, -8.0)),
    "89abcdef-stop": ("STOP_SIGN", (0.1, 0.7, 0.7), still(148.0, -3.5)),
    "99999999-once": ("DOG", (0.8, 0.3, 0.6), still(10.0, -6.0)),
}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_sensor_log(
    folder: Path, *, n_sweeps: int = 120, drop: Sequence[int] = (), with_ego: bool = False, second_map: bool = False
) -> Path:
    """A sensor log; `drop` leaves out these sweeps, `with_ego` uses the other distribution's name and adds the ego."""
    sweeps = START_NS + np.round(np.arange(n_sweeps) * 1e8 + 3e5 * np.sin(np.arange(n_sweeps))).astype(np.int64)
    pose_times = np.unique(
        np.concatenate([sweeps, np.arange(sweeps[0] - 50_000_000, sweeps[-1] + 50_000_000, 6_000_000)])
    )
    turn = rotation(YAW, PITCH)

    def ego_at(seconds: np.ndarray) -> np.ndarray:
        along = EGO_START + EGO_SPEED * seconds
        return np.column_stack([city(along, 0.0), 60.0 - along * np.tan(PITCH)])

    w, x, y, z = quaternion(YAW, PITCH)
    positions = ego_at((pose_times - START_NS) / 1e9)
    n = len(pose_times)
    poses = {"timestamp_ns": pose_times, "qw": [w] * n, "qx": [x] * n, "qy": [y] * n, "qz": [z] * n}
    poses |= {name: positions[:, axis] for axis, name in enumerate(("tx_m", "ty_m", "tz_m"))}
    rows: list[dict[str, Any]] = []
    for number, time_ns in enumerate(sweeps.tolist()):
        if number in drop:
            continue
        seconds = np.array([(time_ns - START_NS) / 1e9])
        ego = ego_at(seconds)[0]
        for uuid, (category, size, move) in THINGS.items():
            if uuid.endswith("once") and number != 30:
                continue
            along, aside, heading = move(seconds)
            in_city = np.append(city(along, aside)[0], 60.0 - float(along[0]) * np.tan(PITCH) + size[2] / 2)
            in_ego = turn.T @ (in_city - ego)
            facing = turn.T @ rotation(YAW + heading)
            qw = np.sqrt(max(1e-12, 1 + np.trace(facing))) / 2
            others = np.array([facing[2, 1] - facing[1, 2], facing[0, 2] - facing[2, 0], facing[1, 0] - facing[0, 1]])
            rows.append(
                {"timestamp_ns": time_ns, "track_uuid": uuid, "category": category}
                | dict(zip(("length_m", "width_m", "height_m"), size, strict=True))
                | dict(zip(("qw", "qx", "qy", "qz"), (qw, *(others / (4 * qw))), strict=True))
                | dict(zip(("tx_m", "ty_m", "tz_m"), in_ego.tolist(), strict=True))
                | {"num_interior_pts": 9}
            )
    if with_ego:
        first = rows[0]
        for time_ns in sorted({row["timestamp_ns"] for row in rows}):  # appended at the end, as that distribution does
            rows.append(
                first
                | {"timestamp_ns": time_ns, "track_uuid": "ego", "category": "EGO_VEHICLE"}
                | {"qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0, "tx_m": 0.0, "ty_m": 0.0, "tz_m": 0.0}
            )
    folder.mkdir(parents=True, exist_ok=True)
    name = "annotations_with_ego.feather" if with_ego else "annotations.feather"
    feather.write_feather(pa.Table.from_pylist(rows), folder / name)
    feather.write_feather(pa.table(poses), folder / "city_SE3_egovehicle.feather")
    write_json(folder / "map" / f"log_map_archive_{folder.name}____PIT_city_47896.json", road_map())
    write_json(
        folder / "map" / f"{folder.name}___img_Sim2_city.json", {"R": [1.0, 0.0, 0.0, 1.0], "t": [0, 0], "s": 1.0}
    )
    if second_map:
        elsewhere = json.loads(json.dumps(road_map()).replace('"y": 2', '"y": 7'))
        write_json(folder / "map" / f"log_map_archive_{folder.name}____ATX_city_1.json", elsewhere)
    return folder


RING_YAWS_DEG = {
    "ring_front_center": 0.0, "ring_front_left": 45.0, "ring_front_right": -45.0, "ring_side_left": 99.0,
    "ring_side_right": -99.0, "ring_rear_left": 153.0, "ring_rear_right": -153.0, "stereo_front_left": 0.0,
}  # fmt: skip


def write_calibration(folder: Path) -> None:
    """Of all ring cameras and one more: the front one stands upright, all look level."""
    intrinsics: list[dict[str, Any]] = []
    poses: list[dict[str, Any]] = []
    for name, yaw_deg in RING_YAWS_DEG.items():
        width, height = (1550, 2048) if name == "ring_front_center" else (2048, 1550)
        intrinsics.append(
            {"sensor_name": name, "fx_px": 1700.0, "fy_px": 1700.0, "cx_px": width / 2 + 3, "cy_px": height / 2 - 9}
            | {"k1": -0.25, "k2": -0.1, "k3": 0.2, "height_px": height, "width_px": width}
        )
        c, s = np.cos(np.deg2rad(yaw_deg) / 2) / 2, np.sin(np.deg2rad(yaw_deg) / 2) / 2
        quaternion = {"qw": c + s, "qx": -c - s, "qy": c - s, "qz": s - c}  # a turn about z after (.5, -.5, .5, -.5)
        poses.append({"sensor_name": name} | quaternion | {"tx_m": 1.6, "ty_m": 0.1, "tz_m": 1.4})
    poses.append(
        {"sensor_name": "up_lidar", "qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0, "tx_m": 1.35, "ty_m": 0.0, "tz_m": 1.6}
    )
    (folder / "calibration").mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.Table.from_pylist(intrinsics), folder / "calibration" / "intrinsics.feather")
    feather.write_feather(pa.Table.from_pylist(poses), folder / "calibration" / "egovehicle_SE3_sensor.feather")


def write_image(folder: Path, camera: str, time_ns: int, rgb: np.ndarray) -> Path:
    """An image of a sensor log's camera, where the source has it."""
    path = folder / "sensors" / "cameras" / camera / f"{time_ns}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    return path


def write_forecasting_scenario(folder: Path, *, n_steps: int = 110) -> Path:
    """A motion-forecasting scenario with the ego, a lead, and a pedestrian that is seen from timestep 30 to 59."""
    seconds = np.arange(n_steps) / 10
    rows: list[dict[str, Any]] = []

    def add(
        track_id: str, object_type: str, steps: Sequence[int], along: Any, aside: Any, speed: float, heading: float
    ) -> None:
        points = city(along, aside)
        for step in steps:
            rows.append(
                {
                    "observed": step < 50,
                    "track_id": track_id,
                    "object_type": object_type,
                    "object_category": 2,
                    "timestep": step,
                    "position_x": points[step, 0],
                    "position_y": points[step, 1],
                    "heading": YAW + heading,
                    "velocity_x": speed * np.cos(YAW + heading),
                    "velocity_y": speed * np.sin(YAW + heading),
                    "scenario_id": folder.name,
                    "num_timestamps": n_steps,
                    "focal_track_id": "101",
                    "city": "austin",
                }
            )

    everywhere = range(n_steps)
    add("101", "vehicle", everywhere, EGO_START + 20 + 8 * seconds, 0.0, 8.0, 0.0)
    add("102", "pedestrian", range(30, min(60, n_steps)), 100.0, -6 + 1.4 * seconds, 1.4, np.pi / 2)
    add("103", "teapot", everywhere, 90.0 + 0 * seconds, -5.0, 0.0, 0.0)
    add("AV", "vehicle", everywhere, EGO_START + EGO_SPEED * seconds, 0.0, EGO_SPEED, 0.0)
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / f"scenario_{folder.name}.parquet")
    write_json(folder / f"log_map_archive_{folder.name}.json", road_map())
    return folder
