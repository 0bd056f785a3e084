"""What lies along a planner's path, found once per rollout: speed profiles, lights, stop lines, crosswalks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsdrive.world.geometry import Path
from nsdrive.world.kernels import in_polygon
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import FloatArray, Mission, ObjectFrame

LINE_SEARCH_M = 15.0  # chosen by us: a stop line further than this from its connector's start is a mapping error


@dataclass(frozen=True, kw_only=True, eq=False)
class AlongPath:
    """The path and everything on it that a rule may ask about, each with its progress.

    lights: (stop line, connector id). stop_signs: (stop line, its id, polygon of the intersection or None). crosswalks:
    (near edge, far edge, polygon). profile (3, N): progress, squared limit and squared curve speed of each path point.
    sources (2, N): the point, itself or one ahead, whose limit and whose curve set the speed there when braking steadily.
    """

    path: Path
    profile: FloatArray
    sources: NDArray[np.int64]
    lights: tuple[tuple[float, str], ...]
    stop_signs: tuple[tuple[float, str, FloatArray | None], ...]
    crosswalks: tuple[tuple[float, float, FloatArray], ...]

    @staticmethod
    def of(mission: Mission, path: Path, parameters: IdmParameters, half_width_m: float) -> AlongPath:
        lane_map, p = mission.lane_map, parameters
        limits = np.where(np.isnan(path.speed_limit_mps), p.target_speed_mps, path.speed_limit_mps)
        radius = 1.0 / np.maximum(np.abs(path.curvature_1pm), 1e-4)
        profile = np.stack([path.progress_m, limits**2, p.curve_lateral_accel_mps2 * radius])
        decels = (p.limit_decel_mps2, p.curve_decel_mps2)
        sources = np.stack([_sources(row, path.progress_m, d) for row, d in zip(profile[1:], decels, strict=True)])
        lights, stop_signs = [], []
        for start_m, lane in _lane_starts(lane_map, path):
            if lane.is_connector:
                lights.append((_line_progress(lane_map, path, lane, start_m, "traffic_light"), lane.lane_id))
            for line_id in lane.stop_line_ids:
                if line_id in lane_map.stop_lines and lane_map.stop_lines[line_id].kind == "stop_sign":
                    intersection = lane_map.intersections.get(lane.intersection_id or "")
                    inside = None if intersection is None else intersection.polygon
                    stop_signs.append((_line_progress(lane_map, path, lane, start_m, "stop_sign"), line_id, inside))
        return AlongPath(
            path=path,
            profile=profile,
            sources=sources,
            lights=tuple(lights),
            stop_signs=tuple(stop_signs),
            crosswalks=tuple(_crosswalks(lane_map, path, half_width_m)),
        )

    def target_speed_mps(self, progress_m: float, parameters: IdmParameters) -> float:
        """The limit here, lowered in time for a lower one ahead."""
        j = self.sources[0, self.path.index_at(progress_m)]
        ahead = max(self.profile[0, j] - progress_m, 0.0)
        return math.sqrt(self.profile[1, j] + 2.0 * parameters.limit_decel_mps2 * ahead)

    def curve(self, progress_m: float, parameters: IdmParameters) -> tuple[float, float]:
        """(distance, radius) of the point that limits the speed here; distance 0 where that is the curve the ego is in."""
        i = self.path.index_at(progress_m)
        j = self.sources[1, i]
        distance = 0.0 if j == i else max(float(self.profile[0, j]) - progress_m, 0.0)
        return distance, float(self.profile[2, j]) / parameters.curve_lateral_accel_mps2


def crossing(
    along: AlongPath, polygon: FloatArray, objects: ObjectFrame, half_width_m: float, soon_s: float, near_m: float
) -> list[tuple[int, bool]]:
    """Pedestrians and cyclists in the ego's way: (row, True) on a crosswalk, (row, False) heading onto it within `soon_s`.

    Not in its way: who has left the corridor behind, who moves along the road rather than across it, and who stands
    further than `near_m` from the corridor.
    """
    found = []
    reaches = _reaches(polygon, objects.kinds, objects.boxes, objects.velocities_mps, soon_s)
    for row in np.flatnonzero(reaches).tolist():
        is_on = bool(reaches[row] == ON)
        (vx, vy), (x, y, _, _, width) = objects.velocities_mps[row].tolist(), objects.boxes[row].tolist()
        progress, offset = along.path.project(x, y)
        heading = float(along.path.pose_at(progress)[2])
        forward = vx * math.cos(heading) + vy * math.sin(heading)
        across = vy * math.cos(heading) - vx * math.sin(heading)
        outside_m = abs(offset) - half_width_m - 0.5 * width
        if math.hypot(forward, across) < 0.2:  # stands
            wanted = is_on and outside_m <= near_m
        else:
            approaches = outside_m <= 0.0 or offset * across < 0.0
            wanted = approaches and abs(across) >= abs(forward)
        if wanted:
            found.append((row, is_on))
    return found


SOON, ON = 1, 2


@njit(cache=True)
def _reaches(polygon, kinds, boxes, velocities, soon_s):
    """(N,): ON for the pedestrians and cyclists whose centre is in the polygon, SOON for those whose it is within `soon_s`."""
    out = np.zeros(kinds.shape[0], dtype=np.int8)
    for k in range(kinds.shape[0]):
        if not 1 <= kinds[k] <= 2:  # OBJECT_KINDS: bicycle, pedestrian
            continue
        for after_s in (0.0, soon_s / 3.0, 2.0 * soon_s / 3.0, soon_s):
            if in_polygon(polygon, boxes[k, 0] + after_s * velocities[k, 0], boxes[k, 1] + after_s * velocities[k, 1]):
                out[k] = ON if after_s == 0.0 else SOON
                break
    return out


@njit(cache=True)
def points_in_polygon(points: FloatArray, polygon: FloatArray) -> np.ndarray:
    """(M,) bool for (M, 2) points and an (N, 2) polygon, closed or not: even-odd rule."""
    inside = np.empty(points.shape[0], dtype=np.bool_)
    for k in range(points.shape[0]):
        inside[k] = in_polygon(polygon, points[k, 0], points[k, 1])
    return inside


def _sources(speed2: FloatArray, progress: FloatArray, decel_mps2: float) -> NDArray[np.int64]:
    """For each point the one, itself or ahead, whose squared speed limits it when braking at a steady rate from here on."""
    source = np.arange(len(speed2))
    allowed = speed2.copy()
    for i in range(len(speed2) - 2, -1, -1):
        from_ahead = allowed[i + 1] + 2.0 * decel_mps2 * (progress[i + 1] - progress[i])
        if from_ahead < allowed[i]:
            allowed[i], source[i] = from_ahead, source[i + 1]
    return source


def _lane_starts(lane_map: LaneMap, path: Path) -> list[tuple[float, Lane]]:
    """(progress, lane) at which the path enters each of its lanes."""
    starts, previous = [], None
    for i, lane_id in enumerate(path.lane_ids):
        if lane_id is not None and lane_id != previous:
            lane = lane_map.lanes[lane_id]
            x, y = np.asarray(lane.centerline)[0, :2]
            starts.append((path.project(x, y, near_progress_m=float(path.progress_m[i]))[0], lane))
        previous = lane_id
    return starts


def _line_progress(lane_map: LaneMap, path: Path, lane: Lane, start_m: float, kind: str) -> float:
    """Where the path meets the lane's stop line of this kind, else where the lane starts."""
    for line_id in lane.stop_line_ids:
        line = lane_map.stop_lines.get(line_id)
        if line is not None and line.kind == kind:
            x, y = np.asarray(line.line)[:, :2].mean(axis=0)
            progress = path.project(x, y, near_progress_m=start_m)[0]
            if abs(progress - start_m) <= LINE_SEARCH_M:
                return progress
    return start_m


def _crosswalks(lane_map: LaneMap, path: Path, half_width_m: float) -> list[tuple[float, float, FloatArray]]:
    """(near edge, far edge, polygon) of every stretch of the ego's corridor that lies on a crosswalk, in order."""
    at = np.arange(0.0, path.length_m, 0.25)
    poses = path.pose_at(at)
    left = np.column_stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])]) * half_width_m
    corridor = np.stack([poses[:, :2] + left, poses[:, :2], poses[:, :2] - left])  # (3, M, 2)
    low, high = corridor.min(axis=(0, 1)), corridor.max(axis=(0, 1))
    found = []
    for crosswalk in lane_map.crosswalks.values():
        polygon = np.asarray(crosswalk.polygon, dtype=float)[:, :2]
        if (polygon.max(axis=0) < low).any() or (polygon.min(axis=0) > high).any():
            continue
        on = points_in_polygon(corridor.reshape(-1, 2), polygon).reshape(3, -1).any(axis=0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(int)))
        found += [(float(at[a]), float(at[b - 1]), polygon) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return sorted(found, key=lambda c: c[0])
