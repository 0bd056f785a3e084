"""What the ego's cameras see at one tick.

    renderer = Renderer(scenario.lane_map, scenario.scenery_seed)     # once per map: the static world
    views = renderer.render(ego.pose, frame, lights, make_rig("8"))   # per tick
    views["CAM_F0"].rgb                                               # (360, 640, 3) uint8
    views["CAM_F0"].seen                                              # {"car-3": 2110, "signal:x-south-near": 95}

The ego's own car is not drawn. Same input, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.cameras.ground import plan_ground
from nsdrive.cameras.rasteriser import Ground, Light, Surfaces, View, rasterise
from nsdrive.cameras.rig import Camera, Rig
from nsdrive.cameras.scene import TrafficLanes, gather, place_objects, place_scenery, place_signals, standing_clear
from nsdrive.cameras.scenery import plan_scenery, plan_weather
from nsdrive.cameras.shading import paint
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import FloatArray, ObjectFrame

RANGE_M = 220.0  # chosen by us: beyond, a car is less than five pixels wide and half in the fog
GROUND_RANGE_M = 320.0
SUPERSAMPLING = 2  # subsamples each way; `paint` averages exactly these
PATTERN_M = 1280.0  # a whole number of repeats of every ground pattern


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraImage:
    """rgb (H, W, 3) uint8. seen: track id, or "signal:<signal_id>" for a signal's lamps -> the number of pixels, rounded
    up, on which it is the front-most surface. What is not in `seen` cannot be seen at all."""

    rgb: np.ndarray
    seen: Mapping[str, int]


class Renderer:
    """Draws one map, with its scenery and weather, for any tick and rig."""

    def __init__(self, lane_map: LaneMap, scenery_seed: int = 0) -> None:
        self._lane_map = lane_map
        self._ground = plan_ground(lane_map)
        self._origin = self._ground.origin_m
        self._traffic = TrafficLanes(lane_map)
        self._scenery = place_scenery(plan_scenery(lane_map, self._ground, scenery_seed), lane_map, self._origin)
        self._weather, sun, direct = plan_weather(scenery_seed)
        self._light = Light(sun=sun, ambient=0.56 + 0.36 * (0.44 - direct), sky=0.10, direct=direct)
        self._buffers: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def render(
        self, ego_pose: FloatArray, frame: ObjectFrame, lights: Mapping[str, str], rig: Rig
    ) -> dict[str, CameraImage]:
        """One image per camera of the rig, in its order. ego_pose (3,): rear axle, global."""
        pose = np.asarray(ego_pose, dtype=float)
        if pose.shape != (3,) or not np.isfinite(pose).all():
            raise ValueError(f"An ego pose is three finite numbers (x, y, heading), got {ego_pose!r}.")
        to_ego = self._origin - pose[:2]
        objects, names = place_objects(frame, self._traffic, self._origin)
        signals, signal_names = place_signals(self._lane_map, lights, self._origin, len(names))
        things = names + signal_names
        clear = standing_clear(self._scenery, objects)
        meshes, instances = gather([(self._scenery, clear), (objects, None), (signals, None)], to_ego, RANGE_M)
        ground = Ground(*self._ground.around(pose[0], pose[1], GROUND_RANGE_M))
        most = int(instances.n_faces.sum())
        surfaces = Surfaces(
            rgb=np.empty((most, 3), dtype=np.float32),
            glow=np.empty(most, dtype=np.float32),
            material=np.empty(most, dtype=np.int32),
            instance=np.empty(most, dtype=np.int32),
            sideways=np.empty(most, dtype=np.int32),
        )
        anchor = (PATTERN_M + np.mod(pose[:2], PATTERN_M)).astype(np.float32)
        images = {}
        for camera in rig.cameras:
            view = _view(camera, pose[2])
            depth, ids = self._buffer(camera)
            rasterise(view, ground, meshes, instances, self._light, RANGE_M, depth, ids, surfaces)
            rgb = np.empty((camera.height_px, camera.width_px, 3), dtype=np.uint8)
            hits = np.zeros(max(1, len(things)), dtype=np.int32)
            paint(view, depth, ids, surfaces, instances, self._weather, anchor, rgb, hits)
            per_pixel = SUPERSAMPLING**2
            seen = {things[i]: int(-(-hits[i] // per_pixel)) for i in np.flatnonzero(hits)}
            images[camera.name] = CameraImage(rgb=rgb, seen=seen)
        return images

    def _buffer(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Depth and ids of a size, kept between images."""
        shape = (camera.height_px * SUPERSAMPLING, camera.width_px * SUPERSAMPLING)
        if shape not in self._buffers:
            self._buffers[shape] = (np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int32))
        return self._buffers[shape]


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of an image (H, W, 3) uint8, the same every time."""
    import cv2

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"A JPEG is made of (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}.")
    ok, data = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    assert ok
    return bytes(data)


def _view(camera: Camera, heading_rad: float) -> View:
    """The camera among axes that are the map's and whose origin is the ego."""
    c, s = np.cos(heading_rad), np.sin(heading_rad)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return View(
        position=turn @ camera.position_m,
        rotation=np.ascontiguousarray(camera.rotation @ turn.T),
        fx=camera.fx * SUPERSAMPLING,
        fy=camera.fy * SUPERSAMPLING,
        cx=camera.cx * SUPERSAMPLING,
        cy=camera.cy * SUPERSAMPLING,
    )
