"""What lies on the road, drawn over a camera's image: a trajectory as the strip that the car covers, an object as its box.

Everything is in the ego frame, on flat ground at the height of the wheels, seen through the sample's own pinholes. What is
behind the camera or outside the image is cut off; what a nearer thing hides is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nsdrive.cameras.rig import Camera, project
from nsdrive.world.types import FloatArray
from nsdrive.world.vehicle import PACIFICA

NEAR_M = 0.4  # chosen by us: nearer to the lens than this, a point on the ground is far outside any image
STATION_M = 0.5  # chosen by us: a strip's pieces; at 5 m ahead the error of a straight edge is under a pixel
MOST_STATIONS = 200
STANDING_M = 0.05  # chosen by us: a step shorter than this has no direction of its own
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def strip_path(camera: Camera, waypoints_ego_m: FloatArray) -> str:
    """SVG path of the ground that the car covers on its way through waypoints (N, 2) from the origin; "" where unseen."""
    left, right = edges_of_strip(waypoints_ego_m)
    pixels_left, depth_left = project(camera, _on_ground(left))
    pixels_right, depth_right = project(camera, _on_ground(right))
    ahead = (depth_left > NEAR_M) & (depth_right > NEAR_M)
    runs = np.split(np.arange(len(ahead)), np.flatnonzero(np.diff(ahead.astype(int))) + 1)
    paths = []
    for run in runs:
        if len(run) >= 2 and ahead[run[0]]:
            outline = clipped(np.concatenate([pixels_left[run], pixels_right[run][::-1]]), camera)
            paths.append(path_of(outline, closed=True))
    return "".join(paths)


def edges_of_strip(waypoints_ego_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Left and right edge (M, 2) of the strip, the car's width apart, about STATION_M from one station to the next."""
    middle = np.concatenate([np.zeros((1, 2)), np.asarray(waypoints_ego_m, dtype=float)])
    steps = np.diff(middle, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    headings = np.zeros(len(steps))
    for k, length in enumerate(lengths):
        headings[k] = np.arctan2(steps[k, 1], steps[k, 0]) if length > STANDING_M else headings[max(k - 1, 0)]
    at_points = np.unwrap(headings)  # at a waypoint the mean of the steps that meet there, so that the edges join
    at_points = np.concatenate([[0.0], 0.5 * (at_points[1:] + at_points[:-1]), at_points[-1:]])
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    stations = np.linspace(0.0, along[-1], min(MOST_STATIONS, max(2, int(along[-1] / STATION_M) + 1)))
    centre = np.column_stack([_interp(stations, along, middle[:, k]) for k in (0, 1)])
    heading = _interp(stations, along, at_points)
    across = 0.5 * PACIFICA.width_m * np.column_stack([-np.sin(heading), np.cos(heading)])
    return centre + across, centre - across


def dots(camera: Camera, waypoints_ego_m: FloatArray) -> list[list[float]]:
    """[u, v, radius] in pixels of each waypoint that the image shows, the radius that of 0.2 m on the ground, at least 1.5."""
    pixels, depth_m = project(camera, _on_ground(waypoints_ego_m))
    shown = []
    for (u, v), depth in zip(pixels, depth_m, strict=True):
        if depth > NEAR_M and 0.0 <= u <= camera.width_px and 0.0 <= v <= camera.height_px:
            shown.append([_round(u), _round(v), _round(np.clip(0.2 * camera.fx / depth, 1.5, 6.0))])
    return shown


def box_paths(camera: Camera, thing: Mapping[str, Any]) -> tuple[str, str] | None:
    """(outline, edges) of an object's box as SVG paths; None where the image shows nothing of it.

    thing: a row of a sample's `objects`: x_m, y_m, heading_rad, length_m, width_m, height_m, its centre in the ego frame.
    """
    corners = _corners(thing)
    depth_m = (corners - camera.position_m) @ camera.rotation[2]
    lines = []
    for a, b in EDGES:
        start, end = corners[a], corners[b]
        if max(depth_m[a], depth_m[b]) <= NEAR_M:
            continue
        if min(depth_m[a], depth_m[b]) < NEAR_M:  # cut where the edge passes the near plane
            cut = start + (end - start) * (NEAR_M - depth_m[a]) / (depth_m[b] - depth_m[a])
            start, end = (start, cut) if depth_m[a] > NEAR_M else (cut, end)
        lines.append((start, end))
    if not lines:
        return None
    pixels, _ = project(camera, np.array(lines).reshape(-1, 3))
    outline = clipped(_hull(pixels), camera)
    if len(outline) < 3 or np.ptp(outline, axis=0).min() < 0.5:
        return None
    limit = 4.0 * max(camera.width_px, camera.height_px)
    ends = np.clip(pixels, -limit, limit).reshape(-1, 2, 2)
    return path_of(outline, closed=True), "".join(path_of(line, closed=False) for line in ends)


def clipped(polygon: FloatArray, camera: Camera) -> FloatArray:
    """A polygon (N, 2) cut to the image, one side after the other (Sutherland and Hodgman 1974)."""
    for axis, bound, sign in (
        (0, 0.0, 1.0),
        (0, float(camera.width_px), -1.0),
        (1, 0.0, 1.0),
        (1, float(camera.height_px), -1.0),
    ):
        if not len(polygon):
            break
        inside = sign * (polygon[:, axis] - bound)
        kept = []
        for k in range(len(polygon)):
            a, b = inside[k - 1], inside[k]
            if (a >= 0.0) != (b >= 0.0):
                kept.append(polygon[k - 1] + (polygon[k] - polygon[k - 1]) * a / (a - b))
            if b >= 0.0:
                kept.append(polygon[k])
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def path_of(points: FloatArray, *, closed: bool) -> str:
    """An SVG path through (N, 2) pixels, to a tenth; "" for none."""
    if not len(points):
        return ""
    return "M" + "L".join(f"{_round(x):g} {_round(y):g}" for x, y in points) + ("z" if closed else "")


def _on_ground(points: FloatArray) -> FloatArray:
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    return np.column_stack([points, np.zeros(len(points))])


def _corners(thing: Mapping[str, Any]) -> FloatArray:
    """(8, 3): the four on the ground, then those above them."""
    cos, sin = np.cos(thing["heading_rad"]), np.sin(thing["heading_rad"])
    half = 0.5 * np.array([thing["length_m"], thing["width_m"]])
    flat = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * half @ np.array([[cos, sin], [-sin, cos]])
    flat = flat + np.array([thing["x_m"], thing["y_m"]])
    return np.concatenate([np.column_stack([flat, np.full(4, z)]) for z in (0.0, float(thing["height_m"]))])


def _hull(points: FloatArray) -> FloatArray:
    """Corners of the convex hull (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return np.array(ordered).reshape(-1, 2)

    def half(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while len(chain) >= 2:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0.0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]))


def _interp(at: FloatArray, along: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray(np.interp(at, along, values))


def _round(value: float) -> float:
    return round(float(value), 1) + 0.0
