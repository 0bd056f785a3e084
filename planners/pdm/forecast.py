"""What PDM-Closed sees of the others and where it expects them: constant velocity and heading, red lights as obstacles.

Follows tuplan_garage's `pdm_observation.py` and `pdm_object_manager.py` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray

from nsdrive.world.lane_map import Lane
from nsdrive.world.types import INTERVAL_S, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters
from planners.pdm.corridor import box_corners, centroid, edges_of, gap

RED_LIGHT = "red_light_"  # tuplan_garage's token of a red connector is this and its id
_VEHICLE, _BICYCLE, _PEDESTRIAN = (OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle", "pedestrian"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """The objects near the ego in PDM-Closed's order: static ones, vehicles, pedestrians, bicycles, each nearest first.

    ids: N. boxes (N, 5) now. velocities_mps (N, 2): what the forecast moves them by, the speed along the box's heading or
    against it; zero for static things. is_agent (N,) bool. speeds_mps (N,): magnitude, zero for static things.
    headings_rad (N,) of the boxes. ignored (N,) bool: the ego's box overlaps it now, so that it is no lead and no collision.
    red_lights: (connector id, polygon (K, 2)) of the red connectors on the route; red_ignored: the ego stands or stood inside.
    ignored_ids: to be given to the next tick's `forecast`. dropped: ids of objects whose numbers make no sense. bend_of (N,),
    bends (S, M, 3): for a planner that expects some to turn, the index of each object among those, -1 for one that goes
    straight on, and their poses at every sample; PDM-Closed expects it of nobody.
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
    bend_of: NDArray[np.int64] | None = None
    bends: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def corners(self) -> FloatArray:
        """(N, 4, 2) now: front left, rear left, rear right, front right."""
        return corners_of(self.boxes)

    @cached_property
    def outlines(self) -> tuple[FloatArray, FloatArray, np.ndarray, FloatArray, np.ndarray]:
        """The red lights for loops: all polygons' points (K, 2), their `edges_of` (K, 3), where each light's begin (L + 1,),
        the polygons' centroids (L, 2), and which are ignored (L,), those without an area too."""
        if not self.red_lights:
            return _NO_LIGHTS
        areas = [area for _, area in self.red_lights]
        return (
            np.concatenate(areas),
            np.concatenate([edges_of(area) for area in areas]),
            np.cumsum([0, *(len(area) for area in areas)]),
            np.array([centroid(area) if len(area) else (0.0, 0.0) for area in areas]),
            np.array([off or len(area) < 3 for off, area in zip(self.red_ignored, areas, strict=True)]),
        )

    def corners_at(self, step: int, every: int = 2) -> FloatArray:
        """(N, 4, 2) after `step` intervals of 0.1 s, which is those of the last forecast sample, one every 0.2 s."""
        return self.corners + (every * (step // every) * INTERVAL_S) * self.velocities_mps[:, None, :]


_NO_LIGHTS = (np.zeros((0, 2)), np.zeros((0, 3)), np.zeros(1, np.int64), np.zeros((0, 2)), np.zeros(0, np.bool_))


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
    size = (vehicle.rear_axle_to_center_m, 0.5 * vehicle.length_m, 0.5 * vehicle.width_m)
    footprint, x, y = _footprint(ego.x_m, ego.y_m, ego.heading_rad, *size)
    if ignored_ids:
        known = np.array([track_id in ignored_ids for track_id in objects.ids], dtype=np.bool_)
    else:
        known = np.zeros(len(objects), dtype=np.bool_)
    most = (config.max_static, config.max_vehicles, config.max_pedestrians, config.max_bicycles)
    boxes, measured = (np.ascontiguousarray(values, np.float64) for values in (objects.boxes, objects.velocities_mps))
    rows, sound = _select(boxes, objects.kinds, measured, known, x, y, config.radius_m, most)
    boxes, velocities, speeds, is_agent, overlapping = _describe(boxes, objects.kinds, measured, rows, footprint)
    ids = tuple([objects.ids[row] for row in rows.tolist()])
    new = [ids[row] for row in np.flatnonzero(overlapping).tolist()]

    polygon = None
    red_lights: list[tuple[str, FloatArray]] = []
    red_ignored: list[bool] = []
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
        headings_rad=boxes[:, 2].copy(),
        ignored=overlapping,
        red_lights=tuple(red_lights),
        red_ignored=tuple(red_ignored),
        ignored_ids=ignored_ids.union(new) if new else ignored_ids,
        dropped=() if sound.all() else tuple(objects.ids[row] for row in np.flatnonzero(~sound)),
    )


def ego_corners(pose: FloatArray, vehicle: VehicleParameters = PACIFICA) -> FloatArray:
    """(4, 2) corners of the ego whose rear axle is at a pose (3,)."""
    size = (vehicle.rear_axle_to_center_m, 0.5 * vehicle.length_m, 0.5 * vehicle.width_m)
    return _footprint(float(pose[0]), float(pose[1]), float(pose[2]), *size)[0]


@njit(cache=True)
def _footprint(x, y, heading, to_center, half_length, half_width):
    """Corners (4, 2) and centre of the ego whose rear axle is at x, y."""
    x, y = x + to_center * np.cos(heading), y + to_center * np.sin(heading)
    corners = np.empty((4, 2))
    box_corners(x, y, heading, half_length, half_width, corners)
    return corners, x, y


@njit(cache=True)
def corners_of(boxes):
    """(N, 4, 2) corners of (N, 5) boxes: front left, rear left, rear right, front right, with nuPlan's arithmetic."""
    out = np.empty((boxes.shape[0], 4, 2))
    for n in range(boxes.shape[0]):
        box_corners(boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3] / 2.0, boxes[n, 4] / 2.0, out[n])
    return out


@njit(cache=True)
def _select(boxes, kinds, velocities, known, x, y, radius, most):
    """Rows of the objects to look at in the public code's order, and which of all (N,) make sense.

    known (N,): those ignored since earlier. most: how many static things, vehicles, pedestrians and bicycles.
    """
    count = boxes.shape[0]
    sound, distances = np.ones(count, dtype=np.bool_), np.empty(count)
    for n in range(count):
        for column in range(5):
            sound[n] = sound[n] and np.isfinite(boxes[n, column]) and (column < 3 or boxes[n, column] >= 0.0)
        if kinds[n] <= _PEDESTRIAN:
            sound[n] = sound[n] and np.isfinite(velocities[n, 0]) and np.isfinite(velocities[n, 1])
        distances[n] = np.sqrt((boxes[n, 0] - x) ** 2 + (boxes[n, 1] - y) ** 2)
    rows, used = np.empty(count, dtype=np.int64), 0
    group = np.empty(count, dtype=np.int64)
    for kind_first, kind_last, limit in (
        (_PEDESTRIAN + 1, 127, most[0]),
        (_VEHICLE, _VEHICLE, most[1]),
        (_PEDESTRIAN, _PEDESTRIAN, most[2]),
        (_BICYCLE, _BICYCLE, most[3]),
    ):
        members = 0
        for n in range(count):
            if not (sound[n] and not known[n] and kind_first <= kinds[n] <= kind_last and distances[n] <= radius):
                continue
            # Nearest first; of equally near ones by type, as nuPlan lists them, and by row.
            at = members
            while at > 0 and (
                distances[group[at - 1]] > distances[n]
                or (distances[group[at - 1]] == distances[n] and kinds[group[at - 1]] > kinds[n])
            ):
                group[at] = group[at - 1]
                at -= 1
            group[at] = n
            members += 1
        for at in range(min(members, limit)):
            rows[used] = group[at]
            used += 1
    return rows[:used].copy(), sound


@njit(cache=True)
def _describe(boxes, kinds, measured, rows, footprint):
    """Boxes, velocities along their headings, speeds, who is an agent, and who meets the ego's footprint, touching included."""
    count = rows.shape[0]
    out, velocities, speeds = np.empty((count, 5)), np.zeros((count, 2)), np.zeros(count)
    is_agent, overlapping = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    corners = np.empty((4, 2))
    for i in range(count):
        n = rows[i]
        out[i] = boxes[n]
        is_agent[i] = kinds[n] <= _PEDESTRIAN
        if is_agent[i]:
            vx, vy = measured[n, 0], measured[n, 1]
            away = boxes[n, 2] - np.arctan2(vy, vx)
            heading = boxes[n, 2]
            if not abs(np.arctan2(np.sin(away), np.cos(away))) < np.pi / 2.0:
                heading = np.arctan2(np.sin(heading + np.pi), np.cos(heading + np.pi))
            speeds[i] = np.hypot(vx, vy)
            velocities[i, 0], velocities[i, 1] = np.cos(heading) * speeds[i], np.sin(heading) * speeds[i]
        box_corners(out[i, 0], out[i, 1], out[i, 2], out[i, 3] / 2.0, out[i, 4] / 2.0, corners)
        overlapping[i] = gap(footprint, corners) <= 0.0
    return out, velocities, speeds, is_agent, overlapping


def _box_near(box: FloatArray, polygon: FloatArray) -> bool:
    """Whether the box lies inside the polygon's bounds, without which it is not inside the polygon."""
    return bool((box.min(axis=0) >= polygon.min(axis=0)).all() and (box.max(axis=0) <= polygon.max(axis=0)).all())
