"""Small logs in py123d's own format, written by py123d's own writers: a straight road with a junction, and who drives on it.

    write_log(root)                      # root/logs/nuscenes_val/log-a, its map in the same folder
    write_log(root, log="log-b", rate_hz=2.0, lights=False)

The road runs along x, right-hand traffic: lanes 101 (left) and 102 (right) to x = 80 m, connectors 201 and 202 through the
junction to x = 100 m, lanes 103 and 104 behind it; 111 is the oncoming lane. The ego drives on 102 at EGO_MPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import shapely
from py123d.api.map.arrow.arrow_map_writer import ArrowMapWriter
from py123d.api.scene.arrow.arrow_log_writer import ArrowLogWriter
from py123d.api.scene.arrow.utils.log_writer_config import LogWriterConfig
from py123d.datatypes import (
    BoxDetectionAttributes,
    BoxDetectionSE3,
    BoxDetectionsSE3,
    BoxDetectionsSE3Metadata,
    CameraID,
    Carpark,
    Crosswalk,
    CustomModality,
    CustomModalityMetadata,
    EgoStateSE3,
    EgoStateSE3Metadata,
    FisheyeMEICameraMetadata,
    GenericDrivable,
    Intersection,
    IntersectionType,
    Lane,
    LaneGroup,
    LaneType,
    LogMetadata,
    MapMetadata,
    PinholeCameraMetadata,
    PinholeDistortion,
    PinholeIntrinsics,
    RoadLine,
    RoadLineType,
    StopZone,
    StopZoneType,
    Timestamp,
    TrafficLightDetection,
    TrafficLightDetections,
    TrafficLightStatus,
    Walkway,
)
from py123d.geometry import BoundingBoxSE3, Polyline3D, PoseSE3, Vector3D
from py123d.parser.base_dataset_parser import ModalitiesSync, ParsedCamera
from py123d.parser.registry import AV2SensorBoxDetectionLabel, NuPlanBoxDetectionLabel, NuScenesBoxDetectionLabel

START_US = 1_600_000_000_000_000
EGO_MPS, EGO_Y_M, GAP_M = 8.0, -5.25, 20.0
REAR_TO_IMU = (-0.6, 0.1, -0.4)  # where the rear axle is, seen from the inertial unit
HEIGHT_M, CENTER_UP_M = 1.6, 0.1  # of the car; its centre above the inertial unit
AXLE_HEIGHT_M = HEIGHT_M / 2 - (CENTER_UP_M - REAR_TO_IMU[2])
CAMERA_AT = (1.0, 0.0, 0.9)  # in the inertial unit's frame, looking ahead
FORWARD = (0.5, -0.5, 0.5, -0.5)  # w, x, y, z: camera axes (right, down, forward) to x forward, y left, z up
WIDTH, HEIGHT = 64, 48
LABELS: dict[str, Any] = {
    "nuscenes": NuScenesBoxDetectionLabel,
    "nuplan": NuPlanBoxDetectionLabel,
    "av2-sensor": AV2SensorBoxDetectionLabel,
}


def write_log(
    root: Path,
    *,
    log: str = "log-a",
    dataset: str = "nuscenes",
    seconds: float = 12.0,
    rate_hz: float = 10.0,
    actors: tuple[tuple[str, str, float, float, float], ...] | None = None,
    lights: bool = True,
    route: tuple[str, ...] | None = None,
    planned: np.ndarray | None = None,
    camera: str | None = None,
    missing: Mapping[str, tuple[float, float]] | None = None,
    road: str | None = "grouped",
    compression: Literal["lz4", "zstd"] | None = None,
) -> Path:
    """The log's folder. actors: token, label, x at the start, y, speed along x. route: nuPlan's roadblocks. planned: (N, 3).

    camera: "jpeg", "mp4", "path" (files under root/images) or "fisheye". missing: what ("boxes", "lights", "camera") is not
    there between two times. road: see `write_map`.
    """
    location = None if road is None else "town"
    about = MapMetadata(
        dataset=dataset, location="town", map_has_z=True, map_is_per_log=True, split=f"{dataset}_val", log_name=log
    )
    metadata = LogMetadata(
        dataset=dataset,
        split=f"{dataset}_val",
        log_name=log,
        location=location,
        map_metadata=None if road is None else about,
    )
    stored: Any = camera if camera in ("path", "mp4") else "jpeg_binary"
    config = LogWriterConfig(force_log_conversion=True, camera_store_option=stored)
    writer = ArrowLogWriter(config, root / "logs", root / "sensors", ipc_compression=compression)
    assert writer.reset(metadata)
    if planned is not None:
        writer.set_route(planned)
    for time_s in np.arange(round(seconds * rate_hz) + 1) / rate_hz:
        stamp = Timestamp.from_us(START_US + round(float(time_s) * 1e6))
        modalities: list[Any] = [ego_at(float(time_s), stamp)]
        absent = {what for what, (from_s, to_s) in (missing or {}).items() if from_s < time_s < to_s}
        if "boxes" not in absent:
            modalities.append(boxes_at(float(time_s), stamp, dataset, actors or default_actors(dataset)))
        if lights and "lights" not in absent:
            red = TrafficLightStatus.RED if time_s < 6.0 else TrafficLightStatus.GREEN
            shown = [TrafficLightDetection(201, red), TrafficLightDetection(202, TrafficLightStatus.OFF)]
            modalities.append(TrafficLightDetections(shown, stamp))
        if route is not None:  # before the anchor another scene goes on, of which nothing is wanted
            data = {"lidar_token": "00", "route_roadblock_ids": list(route if time_s > 1.5 else ("3", "4"))}
            modalities.append(CustomModality(data=data, metadata=CustomModalityMetadata("scenario"), timestamp=stamp))
        if camera is not None and "camera" not in absent:
            modalities.append(camera_at(float(time_s), stamp, camera, root))
        writer.write_sync(ModalitiesSync(timestamp=stamp, modalities=modalities))
    writer.close()
    if road is not None:
        write_map(root, about, road)
    return root / "logs" / f"{dataset}_val" / log


def ego_x_m(time_s: float) -> float:
    """Of the rear axle."""
    return 10.0 + EGO_MPS * time_s


def ego_at(time_s: float, stamp: Timestamp) -> EgoStateSE3:
    metadata = EgoStateSE3Metadata(
        vehicle_name="test-car",
        width=1.9,
        length=4.6,
        height=HEIGHT_M,
        wheel_base=2.7,
        center_to_imu_se3=pose(0.8, 0.1, CENTER_UP_M),
        rear_axle_to_imu_se3=pose(*REAR_TO_IMU),
    )
    imu = pose(ego_x_m(time_s) - REAR_TO_IMU[0], EGO_Y_M - REAR_TO_IMU[1], 30.0)
    return EgoStateSE3.from_imu(imu_se3=imu, metadata=metadata, timestamp=stamp)


def default_actors(dataset: str) -> tuple[tuple[str, str, float, float, float], ...]:
    lead = (ego_x_m(0.0) + GAP_M, EGO_Y_M, EGO_MPS)
    if dataset == "nuplan":
        return (("00aa", "VEHICLE", *lead), ("00bb", "CZONE_SIGN", 60.0, -8.0, 0.0))
    if dataset == "av2-sensor":
        names = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(4)]
        rider = (40.0, 8.0, 3.0)
        return (
            (names[0], "REGULAR_VEHICLE", *lead),
            (names[1], "BICYCLIST", *rider),
            (names[2], "BICYCLE", *rider),
            (names[3], "STOP_SIGN", 79.0, -9.0, 0.0),
        )
    return (
        ("lead", "VEHICLE_CAR", *lead),
        ("walker", "HUMAN_PEDESTRIAN_ADULT", 70.0, -8.5, 1.2),
        ("cone", "MOVABLE_OBJECT_TRAFFICCONE", 60.0, -8.0, 0.0),
    )


def boxes_at(
    time_s: float, stamp: Timestamp, dataset: str, actors: tuple[tuple[str, str, float, float, float], ...]
) -> BoxDetectionsSE3:
    labels = LABELS[dataset]
    boxes = [
        BoxDetectionSE3(
            attributes=BoxDetectionAttributes(label=labels[label], track_token=token),
            bounding_box_se3=BoundingBoxSE3(pose(x + speed * time_s, y, 31.0), 4.0, 1.8, 1.5),
            velocity_3d=Vector3D(speed, 0.0, 0.0) if dataset == "nuplan" else None,
        )
        for token, label, x, y, speed in actors
    ]
    return BoxDetectionsSE3(box_detections=boxes, timestamp=stamp, metadata=BoxDetectionsSE3Metadata(labels))


def camera_at(time_s: float, stamp: Timestamp, how: str, root: Path) -> ParsedCamera:
    """Images 20 ms late, as grey as their tick's number says."""
    late = Timestamp.from_us(stamp.time_us + 20_000)
    at = PoseSE3(*CAMERA_AT, *FORWARD)
    if how == "fisheye":
        metadata: Any = FisheyeMEICameraMetadata("side", CameraID.FMCAM_L, None, None, None, WIDTH, HEIGHT, at)
    else:
        metadata = PinholeCameraMetadata(
            camera_name="front",
            camera_id=CameraID.PCAM_F0,
            intrinsics=PinholeIntrinsics(60.0, 61.0, 32.5, 23.5),
            distortion=PinholeDistortion(-0.1, 0.02, 0.001, -0.002, 0.003),
            width=WIDTH,
            height=HEIGHT,
            camera_to_imu_se3=at,
        )
    image = np.full((HEIGHT, WIDTH, 3), grey_of(round(time_s * 10)), dtype=np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    if how != "path":
        return ParsedCamera(metadata, late, camera_to_global_se3=None, byte_string=data)
    name = f"cam/{late.time_us}.jpg"
    (root / "images" / "cam").mkdir(parents=True, exist_ok=True)
    (root / "images" / name).write_bytes(data)
    return ParsedCamera(metadata, late, None, dataset_root=root / "images", relative_path=name)


def grey_of(tick: int) -> int:
    return min(20 + 2 * tick, 250)


def write_map(root: Path, about: MapMetadata, road: str) -> None:
    """road: "grouped" (lane groups, no neighbours, as nuScenes), "neighbours" (a group per lane, as Waymo), "mixed"
    (the oncoming lane in the group of the others), or "areas" (no lanes, as KITTI-360)."""
    writer = ArrowMapWriter(True, root / "maps", root / "logs")
    assert writer.reset(about)
    if road != "areas":
        lanes = [
            lane(101, 1, 0.0, 80.0, -1.75, after=[202]),
            lane(102, 1, 0.0, 80.0, -5.25, after=[201], speed_mps=13.4),
            lane(201, 2, 80.0, 100.0, -5.25, before=[102], after=[104]),
            lane(202, 2, 80.0, 100.0, -1.75, before=[101], after=[103]),
            lane(103, 3, 100.0, 200.0, -1.75, before=[202]),
            lane(104, 3, 100.0, 200.0, -5.25, before=[201], speed_mps=8.9),
            lane(111, 1 if road == "mixed" else 4, 80.0, 0.0, 1.75),
        ]
        if road == "neighbours":
            beside = {101: (111, 102), 102: (101, None), 103: (None, 104), 104: (103, None), 111: (101, None)}
            for one in lanes:
                one._left_lane_id, one._right_lane_id = beside.get(one.object_id, (None, None))
                one._lane_group_id = one.object_id
        for one in lanes:
            writer.write_map_object(one)
        for group in sorted({one.lane_group_id for one in lanes}):
            mine = [one for one in lanes if one.lane_group_id == group]
            writer.write_map_object(
                LaneGroup(
                    object_id=group,
                    lane_ids=[one.object_id for one in mine],
                    left_boundary=mine[0].left_boundary,
                    right_boundary=mine[-1].right_boundary,
                    intersection_id=5 if group == 2 else None,
                )
            )
        if road != "neighbours":
            writer.write_map_object(
                Intersection(5, IntersectionType.TRAFFIC_LIGHT, [2], shapely_polygon=shapely.box(80, -9, 100, 5))
            )
        zone = shapely.box(78.5, -7.0, 80.0, 0.0)
        for number, kind, named in (
            (7, StopZoneType.TRAFFIC_LIGHT, [101, 102]),  # the lanes before it
            (12, StopZoneType.PEDESTRIAN_CROSSING, []),
            (13, StopZoneType.STOP_SIGN, [101]),
            (14, StopZoneType.STOP_SIGN, [104]),  # the lane behind it, as Waymo has it
            (15, StopZoneType.STOP_SIGN, []),  # over the start of 103 and 104, but no connector begins there
        ):
            where = shapely.box(100.5, -7.0, 101.5, 0.0) if number >= 14 else zone
            writer.write_map_object(StopZone(number, kind, shapely_polygon=where, lane_ids=named))
        line = Polyline3D.from_array(np.array([[0.0, -3.5, 30.0], [80.0, -3.5, 30.0]]))
        writer.write_map_object(RoadLine(1, RoadLineType.DASHED_WHITE, line))
    writer.write_map_object(Crosswalk(8, shapely_polygon=shapely.box(81, -9, 84, 5)))
    writer.write_map_object(Walkway(9, shapely_polygon=shapely.box(0, -12, 80, -7.5)))
    writer.write_map_object(Carpark(10, shapely_polygon=shapely.box(20, -20, 40, -12)))
    writer.write_map_object(GenericDrivable(11, shapely_polygon=shapely.box(0, -7, 200, 3.5)))
    writer.close()


def lane(
    number: int,
    group: int,
    from_x: float,
    to_x: float,
    y: float,
    *,
    before: list[int] | None = None,
    after: list[int] | None = None,
    speed_mps: float | None = None,
) -> Lane:
    x = np.linspace(from_x, to_x, 41)
    side = 1.75 if to_x > from_x else -1.75
    lines = [np.column_stack([x, np.full(41, y + off), np.full(41, 30.0)]) for off in (side, -side, 0.0)]
    left, right, middle = (Polyline3D.from_array(points) for points in lines)
    return Lane(
        object_id=number,
        lane_type=LaneType.SURFACE_STREET,
        left_boundary=left,
        right_boundary=right,
        centerline=middle,
        lane_group_id=group,
        predecessor_ids=before or [],
        successor_ids=after or [],
        speed_limit_mps=speed_mps,
    )


def pose(x: float, y: float, z: float) -> PoseSE3:
    return PoseSE3(x, y, z, 1.0, 0.0, 0.0, 0.0)
