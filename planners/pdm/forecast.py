"""What PDM-Closed sees of the others and where it expects them: constant velocity and heading, red lights as obstacles.

Follows tuplan_garage's `pdm_observation.py` and `pdm_object_manager.py` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

from nsdrive.world.lane_map import Lane
from nsdrive.world.types import INTERVAL_S, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters

RED_LIGHT = "red_light_"  # tuplan_garage's token of a red connector is this and its id
_VEHICLE, _BICYCLE, _PEDESTRIAN = (OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle", "pedestrian"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """The objects near the ego in PDM-Closed's order: static ones, vehicles, pedestrians, bicycles, each nearest first.

    ids: N. boxes (N, 5) now. velocities_mps (N, 2): what the forecast moves them by, the speed along the box's heading or
    against it; zero for static things. is_agent (N,) bool. speeds_mps (N,): magnitude, zero for static things.
    headings_rad (N,) of the boxes. ignored (N,) bool: the ego's box overlaps it now, so that it is no lead and no collision.
    red_lights: (connector id, polygon (K, 2)) of the red connectors on the route; red_ignored: the ego stands or stood inside.
    ignored_ids: to be given to the next tick's `forecast`. dropped: ids of objects whose numbers make no sense.
    """

    ids: tuple[str, ...]
    boxes: FloatArray
    velocities_mps: FloatArray
    is_agent: np.ndarray
    speeds_mps: FloatArray
    headings_rad: FloatArray
    ignored: np.ndarray
    red_lights: tuple[tuple[str, FloatArray], ...]
    red_ignored: tuple[bool, ...]
    ignored_ids: frozenset[str]
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def corners(self) -> FloatArray:
        """(N, 4, 2) now: front left, rear left, rear right, front right."""
        return corners_of(self.boxes)

    def corners_at(self, step: int, every: int = 2) -> FloatArray:
        """(N, 4, 2) after `step` intervals of 0.1 s, which is those of the last forecast sample, one every 0.2 s."""
        return self.corners + (every * (step // every) * INTERVAL_S) * self.velocities_mps[:, None, :]

    def centers_at(self, step: int, every: int = 2) -> FloatArray:
        """(N, 2), as `corners_at`."""
        return self.boxes[:, :2] + (every * (step // every) * INTERVAL_S) * self.velocities_mps


def forecast(
    objects: ObjectFrame,
    lights: Mapping[str, str],
    ego: EgoState,
    route_lanes: Mapping[str, Lane],
    ignored_ids: frozenset[str],
    config: PdmParameters,
    vehicle: VehicleParameters = PACIFICA,
) -> Forecast:
    """The objects within the radius but for those ignored since an earlier tick, and the red lights on the route.

    lights: connector id -> state. An object that overlaps the ego now is ignored from now on, and a red light inside whose
    connector the ego's whole box is. Objects with a number that is nan or infinite are dropped and named.
    """
    rows, distances, dropped = _near(objects, ego, ignored_ids, config, vehicle)
    kinds = objects.kinds[rows]
    order: list[np.ndarray] = []
    for members, most in (
        (kinds > _PEDESTRIAN, config.max_static),
        (kinds == _VEHICLE, config.max_vehicles),
        (kinds == _PEDESTRIAN, config.max_pedestrians),
        (kinds == _BICYCLE, config.max_bicycles),
    ):
        among = np.flatnonzero(members)
        if len(among):
            among = among[np.argsort(kinds[among], kind="stable")]  # nuPlan lists tracked objects by type
            order.append(among[np.argsort(distances[among])][:most])
    chosen = rows[np.concatenate(order)] if order else np.zeros(0, dtype=np.int64)

    boxes = np.ascontiguousarray(objects.boxes[chosen], dtype=np.float64).reshape(-1, 5)
    is_agent = objects.kinds[chosen] <= _PEDESTRIAN
    velocities, speeds = _along_heading(boxes[:, 2], objects.velocities_mps[chosen], is_agent)
    ids = tuple(objects.ids[row] for row in chosen)

    footprint = ego_corners(ego.pose, vehicle)
    overlapping = _overlaps(footprint, corners_of(boxes))
    polygon = None
    red_lights: list[tuple[str, FloatArray]] = []
    red_ignored: list[bool] = []
    new = [track_id for track_id, hit in zip(ids, overlapping, strict=True) if hit]
    for connector, state in lights.items():
        if state != "red" or connector not in route_lanes:
            continue
        area = np.ascontiguousarray(route_lanes[connector].polygon, dtype=np.float64).reshape(-1, 2)
        inside = False
        if len(area) >= 3 and _box_near(footprint, area):
            polygon = shapely.Polygon(footprint) if polygon is None else polygon
            inside = bool(polygon.within(shapely.Polygon(area)))
        if inside:
            new.append(RED_LIGHT + connector)
        red_lights.append((connector, area))
        red_ignored.append(inside or RED_LIGHT + connector in ignored_ids)
    return Forecast(
        ids=ids,
        boxes=boxes,
        velocities_mps=velocities,
        is_agent=is_agent,
        speeds_mps=speeds,
        headings_rad=np.ascontiguousarray(boxes[:, 2]),
        ignored=overlapping,
        red_lights=tuple(red_lights),
        red_ignored=tuple(red_ignored),
        ignored_ids=ignored_ids | frozenset(new),
        dropped=dropped,
    )


def corners_of(boxes: FloatArray) -> FloatArray:
    """(N, 4, 2) corners of (N, 5) boxes: front left, rear left, rear right, front right, with nuPlan's arithmetic."""
    cos, sin = np.cos(boxes[:, 2:3]), np.sin(boxes[:, 2:3])
    cos_left, sin_left = np.cos(boxes[:, 2:3] + np.pi / 2.0), np.sin(boxes[:, 2:3] + np.pi / 2.0)
    along = np.array([0.5, -0.5, -0.5, 0.5]) * boxes[:, 3:4]
    across = np.array([0.5, 0.5, -0.5, -0.5]) * boxes[:, 4:5]
    x = boxes[:, 0:1] + (across * cos_left + along * cos)
    y = boxes[:, 1:2] + (across * sin_left + along * sin)
    return np.stack([x, y], axis=-1)


def ego_corners(pose: FloatArray, vehicle: VehicleParameters = PACIFICA) -> FloatArray:
    """(4, 2) corners of the ego whose rear axle is at a pose (3,)."""
    x = pose[0] + vehicle.rear_axle_to_center_m * np.cos(pose[2])
    y = pose[1] + vehicle.rear_axle_to_center_m * np.sin(pose[2])
    return corners_of(np.array([[x, y, pose[2], vehicle.length_m, vehicle.width_m]]))[0]


def _near(
    objects: ObjectFrame, ego: EgoState, ignored_ids: frozenset[str], config: PdmParameters, vehicle: VehicleParameters
) -> tuple[np.ndarray, FloatArray, tuple[str, ...]]:
    """Rows of the frame to look at, with their distance from the ego's centre, and the ids that make no sense."""
    if not len(objects):
        return np.zeros(0, dtype=np.int64), np.zeros(0), ()
    velocities = np.where((objects.kinds <= _PEDESTRIAN)[:, None], objects.velocities_mps, 0.0)
    sound = np.isfinite(objects.boxes).all(axis=1) & np.isfinite(velocities).all(axis=1)
    sound &= (objects.boxes[:, 3:] >= 0.0).all(axis=1)
    x = ego.x_m + vehicle.rear_axle_to_center_m * np.cos(ego.heading_rad)
    y = ego.y_m + vehicle.rear_axle_to_center_m * np.sin(ego.heading_rad)
    distances = ((objects.boxes[:, :2] - np.array([x, y])) ** 2.0).sum(axis=-1) ** 0.5
    # not (> radius) as in the reference, and false for what is not a number
    rows = np.flatnonzero(sound & (distances <= config.radius_m))
    if ignored_ids:
        rows = np.array([row for row in rows if objects.ids[row] not in ignored_ids], dtype=np.int64)
    dropped = () if sound.all() else tuple(objects.ids[row] for row in np.flatnonzero(~sound))
    return rows, distances[rows], dropped


def _along_heading(headings: FloatArray, measured: FloatArray, is_agent: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Velocity along the box's heading, or against it where it moves more than 90 degrees off it; and the speed."""
    speeds = np.where(is_agent, np.hypot(measured[:, 0], measured[:, 1]), 0.0)
    away = headings - np.arctan2(measured[:, 1], measured[:, 0])
    forward = np.abs(np.arctan2(np.sin(away), np.cos(away))) < np.pi / 2.0
    back = headings + np.pi
    track = np.where(forward, headings, np.arctan2(np.sin(back), np.cos(back)))
    return np.stack([np.cos(track) * speeds, np.sin(track) * speeds], axis=-1), speeds


def _overlaps(box: FloatArray, boxes: FloatArray) -> np.ndarray:
    """(N,) bool: which of (N, 4, 2) boxes meets a box (4, 2), touching included. Separating axes."""
    if not len(boxes):
        return np.zeros(0, dtype=bool)
    apart = np.zeros(len(boxes), dtype=bool)
    for first, second in ((0, 1), (1, 2)):
        axes = boxes[:, first] - boxes[:, second]
        theirs, ours = np.einsum("nkd,nd->nk", boxes, axes), np.einsum("kd,nd->nk", box, axes)
        apart |= (theirs.min(1) > ours.max(1)) | (ours.min(1) > theirs.max(1))
        axis = box[first] - box[second]
        projected, mine = boxes @ axis, box @ axis
        apart |= (projected.min(1) > mine.max()) | (mine.min() > projected.max(1))
    return ~apart


def _box_near(box: FloatArray, polygon: FloatArray) -> bool:
    """Whether the box lies inside the polygon's bounds, without which it is not inside the polygon."""
    return bool((box.min(axis=0) >= polygon.min(axis=0)).all() and (box.max(axis=0) <= polygon.max(axis=0)).all())
