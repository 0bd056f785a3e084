"""Pictures for people: the scene from above, and a sheet of camera images.

above = birds_eye(scenario.lane_map, ego.pose, frame, lights=lights, history=past, trajectories={"planner": future})
sheet = contact_sheet({name: view.rgb for name, view in views.items()}, birds_eye=above)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

from nsdrive.draw_choice import DrawnChoice, choice_legend, draw_choice, score_color
from nsdrive.world.geometry import box_corners, to_ego
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import OBJECT_KINDS, FloatArray, ObjectFrame
from nsdrive.world.vehicle import PACIFICA, ego_box

Color = tuple[int, int, int]

PAPER, ROAD, WALKWAY, EDGE, LANE, INK = (
    (246, 247, 244),
    (214, 217, 221),
    (232, 231, 226),
    (178, 182, 188),
    (193, 197, 203),
    (52, 58, 66),
)
WHITE, YELLOW = (255, 255, 255), (226, 172, 40)
EGO = (24, 96, 208)
HISTORY = (120, 150, 196)
KIND_COLORS: Mapping[str, Color] = {
    "vehicle": (92, 106, 122),
    "bicycle": (142, 84, 176),
    "pedestrian": (212, 82, 118),
    "traffic_cone": (244, 124, 28),
    "barrier": (206, 84, 52),
    "czone_sign": (244, 124, 28),
    "generic_object": (132, 122, 104),
}
LIGHT_COLORS: Mapping[str, Color] = {
    "red": (222, 44, 40),
    "yellow": (240, 178, 16),
    "green": (34, 168, 84),
    "unknown": (150, 154, 160),
}
TRAJECTORY_COLORS: Sequence[Color] = ((14, 142, 96), (214, 70, 30), (150, 60, 190), (206, 150, 0), (20, 140, 190))
SCALE = 2  # drawn larger, then averaged: text and thin lines come out smoother than with cv2's own antialiasing alone
SHIFT = 4  # cv2 takes fixed-point coordinates: 1/16 pixel


def birds_eye(
    lane_map: LaneMap,
    ego_pose: FloatArray,
    frame: ObjectFrame,
    *,
    lights: Mapping[str, str] | None = None,
    history: FloatArray | None = None,
    trajectories: Mapping[str, FloatArray] | None = None,
    labels: Collection[str] = (),
    choice: DrawnChoice | None = None,
    range_m: float = 70.0,
    width_px: int = 720,
    height_px: int = 900,
    legend: bool = True,
) -> np.ndarray:
    """The scene from above, (H, W, 3) uint8 rgb: the ego in the lower third, its heading up.

    ego_pose (3,): rear axle, global. history (T, 2) and each of trajectories (T, 2): global; trajectories carry a dot at
    every point, so give them at the spacing that should show (a sample's waypoints, 0.5 s). labels: track ids to write
    beside their boxes. choice: a planner's proposals (`drawn_choice`). range_m: how far ahead the picture reaches. legend: whether
    the colours are explained in a corner. Raises ValueError for trajectories of another shape.
    """
    page = Page(np.asarray(ego_pose, dtype=float), range_m, width_px, height_px)
    _draw_map(page, lane_map)
    _draw_stop_lines(page, lane_map, lights or {})
    for box in _near(frame, page):
        _draw_object(page, frame, box, labels)
    if choice is not None:
        draw_choice(page, choice, frame)
    _draw_ego(page)
    if history is not None and len(history):
        page.line(page.of(_points(history, "history")), HISTORY, 2.2)
        for point in page.of(history):
            page.dot(point, 2.0, HISTORY)
    drawn = dict(trajectories or {})
    for (name, points), color in zip(drawn.items(), _endless_colors(len(drawn)), strict=True):
        if len(points):
            track = page.of(_points(points, name))
            page.line(np.vstack([page.of(page.pose[None, :2]), track]), color, 2.6)
            for point in track:
                page.dot(point, 4.0, WHITE)
                page.dot(point, 3.0, color)
    if legend:
        _legend(page, drawn, history is not None, [] if choice is None else choice_legend(choice))
    return _finished(page)


def contact_sheet(
    images: Mapping[str, np.ndarray], birds_eye: np.ndarray | None = None, *, width_px: int = 1800
) -> np.ndarray:
    """Camera images with their names, three to a row as one looks around the car, beside the bird's eye view if given."""
    if not images:
        raise ValueError("A contact sheet needs at least one image.")
    rows = [[name for name in row if name in images] for row in _SHEET_ROWS]
    known = {name for row in rows for name in row}
    others = [name for name in images if name not in known]
    rows = [row for row in (*rows, *(others[i : i + 3] for i in range(0, len(others), 3))) if row]
    columns = max(len(row) for row in rows)
    gap = 8
    side_px = 0
    first = next(iter(images.values()))
    ratio = first.shape[0] / first.shape[1]
    if birds_eye is not None:  # as tall as the camera rows, which in turn fill what it leaves
        slim = birds_eye.shape[1] / birds_eye.shape[0]
        side_px = round(width_px * slim * ratio * len(rows) / (columns + slim * ratio * len(rows)))
        side_px = min(side_px, width_px // 2)
    tile_w = (width_px - side_px - gap * (columns + 1)) // columns
    tile_h = round(tile_w * ratio)
    height = len(rows) * (tile_h + gap) + gap
    sheet = np.full((height, width_px, 3), 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        start = gap + (columns - len(row)) * (tile_w + gap) // 2
        for j, name in enumerate(row):
            x, y = start + j * (tile_w + gap), gap + i * (tile_h + gap)
            tile = cv2.resize(images[name], (tile_w, tile_h), interpolation=cv2.INTER_AREA)
            sheet[y : y + tile_h, x : x + tile_w] = _named(tile, name)
    if birds_eye is not None:
        scale = min((side_px - gap) / birds_eye.shape[1], (height - 2 * gap) / birds_eye.shape[0])
        small = cv2.resize(birds_eye, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top = (height - small.shape[0]) // 2
        x = width_px - gap - small.shape[1]
        sheet[top : top + small.shape[0], x : x + small.shape[1]] = small
    return sheet


_SHEET_ROWS = (("CAM_L0", "CAM_F0", "CAM_R0"), ("CAM_L1", "CAM_B0", "CAM_R1"), ("CAM_L2", "CAM_R2"))


class Page:
    """The picture being drawn, and the way from metres to its pixels."""

    def __init__(self, pose: FloatArray, range_m: float, width_px: int, height_px: int) -> None:
        if pose.shape != (3,) or not np.isfinite(pose).all():
            raise ValueError(f"An ego pose is three finite numbers (x, y, heading), got {pose!r}.")
        self.pose = pose
        self.size_px = (width_px, height_px)
        self.pixels_per_m = height_px * 0.70 / range_m
        self.reach_m = float(np.hypot(width_px, height_px)) / self.pixels_per_m
        self.image = np.full((height_px * SCALE, width_px * SCALE, 3), PAPER, dtype=np.uint8)

    def of(self, points: FloatArray) -> FloatArray:
        """Pixels (N, 2) of global points (N, 2): ahead is up, the rear axle 70 % down the page."""
        local = to_ego(np.asarray(points, dtype=float).reshape(-1, 2), self.pose)
        width, height = self.size_px
        return np.stack(
            [width / 2 - local[:, 1] * self.pixels_per_m, 0.76 * height - local[:, 0] * self.pixels_per_m], axis=1
        )

    def holds(self, points: FloatArray) -> bool:
        """Whether a shape may show."""
        low, high = points.min(axis=0), points.max(axis=0)
        return bool((high > -50).all() and (low < np.array(self.size_px) + 50).all())

    def area(self, pixels: FloatArray, color: Color) -> None:
        if len(pixels) >= 3 and self.holds(pixels):
            cv2.fillPoly(self.image, [self._fixed(pixels)], color, cv2.LINE_AA, SHIFT)

    def line(self, pixels: FloatArray, color: Color, width_px: float, closed: bool = False) -> None:
        if len(pixels) >= 2 and self.holds(pixels):
            cv2.polylines(
                self.image, [self._fixed(pixels)], closed, color, max(1, round(width_px * SCALE)), cv2.LINE_AA, SHIFT
            )

    def dashes(self, pixels: FloatArray, color: Color, width_px: float, dash_px: float = 7.0) -> None:
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T))])
        for start in np.arange(0.0, along[-1], 2.0 * dash_px):
            at = np.linspace(start, min(start + dash_px, along[-1]), 4)
            self.line(np.column_stack([np.interp(at, along, pixels[:, k]) for k in (0, 1)]), color, width_px)

    def dot(self, pixel: FloatArray, radius_px: float, color: Color) -> None:
        if self.holds(pixel[None]):
            x, y = self._fixed(pixel[None])[0]
            cv2.circle(self.image, (int(x), int(y)), round(radius_px * SCALE * 2**SHIFT), color, -1, cv2.LINE_AA, SHIFT)

    def text(self, words: str, pixel: tuple[float, float], size_px: float = 13.0, color: Color = INK) -> None:
        """Words whose lower left corner is at `pixel`."""
        at = (round(pixel[0] * SCALE), round(pixel[1] * SCALE))
        cv2.putText(
            self.image,
            words,
            at,
            cv2.FONT_HERSHEY_DUPLEX,
            size_px / 22 * SCALE,
            color,
            max(1, round(SCALE * 0.6)),
            cv2.LINE_AA,
        )

    def _fixed(self, pixels: FloatArray) -> np.ndarray:
        clipped = np.clip(pixels, -20000, 20000)
        return np.round(clipped * SCALE * 2**SHIFT).astype(np.int32).reshape(-1, 2)


def _draw_map(page: Page, lane_map: LaneMap) -> None:
    for walkway in lane_map.walkways:
        page.area(page.of(walkway), WALKWAY)
    for area in lane_map.drivable_area:
        page.area(page.of(area), ROAD)
    near = [lane for lane in lane_map.lanes.values() if page.holds(page.of(lane.centerline))]
    if not lane_map.drivable_area:
        for lane in near:
            page.area(page.of(np.concatenate([lane.left_boundary, lane.right_boundary[::-1]])), ROAD)
    for crosswalk in lane_map.crosswalks.values():
        _draw_crosswalk(page, crosswalk.polygon)
    for lane in near:  # faint centerlines first, paint over them
        page.line(page.of(lane.centerline), LANE, 1.0)
    for lane in near:
        for boundary, marking in ((lane.left_boundary, lane.left_marking), (lane.right_boundary, lane.right_marking)):
            _draw_marking(page, boundary, marking)


def _draw_marking(page: Page, boundary: FloatArray, marking: str) -> None:
    if marking == "none" or len(boundary) < 2:
        return
    pixels = page.of(boundary)
    color = YELLOW if "yellow" in marking else WHITE
    if not marking.startswith("dashed"):
        page.line(pixels, color, 2.6 if marking.startswith("double") else 1.5)
        return
    if not page.holds(pixels):
        return
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(boundary, axis=0).T))])
    starts = np.arange(0.0, along[-1], 6.0)
    at = np.linspace(starts, np.minimum(starts + 2.5, along[-1]), 3, axis=1).ravel()
    ends = page.of(np.column_stack([np.interp(at, along, boundary[:, k]) for k in (0, 1)]))
    for dash in ends.reshape(-1, 3, 2):
        page.line(dash, color, 1.5)


def _draw_crosswalk(page: Page, polygon: FloatArray) -> None:
    pixels = page.of(polygon)
    if not page.holds(pixels):
        return
    (x, y), (width, height), angle = cv2.minAreaRect(pixels.astype(np.float32))
    turn = np.deg2rad(angle if width >= height else angle + 90)
    length, depth = max(width, height), min(width, height)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    bar = 1.1 * page.pixels_per_m
    for k in range(max(1, int(length / bar))):
        middle = np.array([x, y]) + along * ((k + 0.5) * bar - length / 2)
        corners = [
            middle + a * along * bar * 0.24 + b * across * depth / 2 for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        page.area(np.array(corners), WHITE)


def _draw_stop_lines(page: Page, lane_map: LaneMap, lights: Mapping[str, str]) -> None:
    """Stop lines in white, red before a stop sign; before a light a bar per lane in its colour, and which way it leads."""
    for stop_line in lane_map.stop_lines.values():
        page.line(page.of(stop_line.line), LIGHT_COLORS["red"] if stop_line.kind == "stop_sign" else WHITE, 3.0)
    bars: dict[tuple[str, ...], tuple[str, FloatArray]] = {}
    for state in ("unknown", "green", "yellow", "red"):  # where a lane's ways differ, the strictest colours its bar
        for connector_id in sorted(lights):
            lane = lane_map.lanes.get(connector_id)
            if lights[connector_id] != state or lane is None or len(lane.centerline) < 2:
                continue
            page.line(page.of(lane.centerline[: max(2, len(lane.centerline) // 4)]), LIGHT_COLORS[state], 1.6)
            bars[lane.incoming or (connector_id,)] = (state, np.array([lane.left_boundary[0], lane.right_boundary[0]]))
    for state, bar in bars.values():
        page.line(page.of(bar), LIGHT_COLORS[state], 4.0)


def _near(frame: ObjectFrame, page: Page) -> list[int]:
    if not len(frame):
        return []
    distance = np.hypot(frame.boxes[:, 0] - page.pose[0], frame.boxes[:, 1] - page.pose[1])
    return [int(i) for i in np.flatnonzero(distance < page.reach_m)]


def _draw_object(page: Page, frame: ObjectFrame, row: int, labels: Collection[str]) -> None:
    box = frame.boxes[row].copy()
    kind = OBJECT_KINDS[int(frame.kinds[row])]
    box[3:5] = np.maximum(box[3:5], 5.0 / page.pixels_per_m)  # so that a cone still shows
    corners = page.of(box_corners(box[None])[0])
    color = KIND_COLORS[kind]
    if kind == "pedestrian":
        page.dot(corners.mean(axis=0), 5.0, WHITE)
        page.dot(corners.mean(axis=0), 4.0, color)
    else:
        page.area(corners, color)
        page.line(corners, WHITE, 0.8, closed=True)
    if kind in ("vehicle", "bicycle") and box[3] > 1.2:
        ahead = np.array([np.cos(box[2]), np.sin(box[2])])
        page.line(page.of(np.array([box[:2] + 0.22 * box[3] * ahead, box[:2] + 0.5 * box[3] * ahead])), WHITE, 1.2)
        if frame.accels_mps2[row] < -0.3:  # braking: red at the back
            left = np.array([-ahead[1], ahead[0]]) * 0.42 * box[4]
            back = box[:2] - 0.47 * box[3] * ahead
            page.line(page.of(np.array([back - left, back + left])), LIGHT_COLORS["red"], 2.2)
    if frame.ids[row] in labels:
        x, y = corners.mean(axis=0)
        page.text(frame.ids[row], (x + 8, y - 4), 11.0)


def _draw_ego(page: Page) -> None:
    box = ego_box(page.pose[None])[0]
    corners = page.of(box_corners(box[None])[0])
    page.area(corners, EGO)
    page.line(corners, WHITE, 1.2, closed=True)
    ahead = np.array([np.cos(box[2]), np.sin(box[2])])
    left = np.array([-ahead[1], ahead[0]])
    nose = box[:2] + ahead * 0.42 * PACIFICA.length_m
    wing = box[:2] + ahead * 0.14 * PACIFICA.length_m
    page.area(page.of(np.array([nose, wing + 0.5 * left, wing - 0.5 * left])), WHITE)


def _legend(
    page: Page, trajectories: Mapping[str, FloatArray], with_history: bool, more: Sequence[tuple[str, Color, str]]
) -> None:
    """more: entries of `choice_legend`."""
    entries: list[tuple[str, Color, str]] = [("ego", EGO, "line")]
    entries += [("ego history", HISTORY, "line")] if with_history else []
    colors = _endless_colors(len(trajectories))
    entries += [(name, color, "line") for name, color in zip(trajectories, colors, strict=True)]
    entries += more
    row = 20
    box_w = 30 + 8.8 * max(len(name) for name, _, _ in entries)
    corners = np.array(
        [[10.0, 10.0], [20 + box_w, 10], [20 + box_w, 22 + row * len(entries)], [10, 22 + row * len(entries)]]
    )
    page.area(corners, (255, 255, 255))
    page.line(corners, EDGE, 0.8, closed=True)
    for i, (name, color, sort) in enumerate(entries):
        y = 26.0 + row * i
        stroke = np.array([[18.0, y], [34.0, y]])
        if sort == "dashes":
            page.dashes(stroke, color, 2.0, 4.0)
        elif sort == "box":
            page.line(np.array([[20.0, y - 5], [32.0, y - 5], [32.0, y + 5], [20.0, y + 5]]), color, 1.6, closed=True)
        elif sort == "scale":
            for k in range(8):
                page.line(stroke[0] + np.array([[2.0 * k, 0.0], [2.0 * k + 2.0, 0.0]]), score_color(k / 7.0), 5.0)
        else:
            page.line(stroke, color, 3.2)
        page.text(name, (40, y + 4.5))


def _finished(page: Page) -> np.ndarray:
    """With a scale bar, down to size."""
    width, height = page.size_px
    bar = 10.0 * page.pixels_per_m
    x, y = width - 24 - bar, height - 22.0
    page.line(np.array([[x, y - 5], [x, y], [x + bar, y], [x + bar, y - 5]]), INK, 1.4)
    page.text("10 m", (x + bar / 2 - 17, y - 7), 12.0)
    return np.ascontiguousarray(cv2.resize(page.image, page.size_px, interpolation=cv2.INTER_AREA))


def _endless_colors(count: int) -> list[Color]:
    return [TRAJECTORY_COLORS[i % len(TRAJECTORY_COLORS)] for i in range(count)]


def _points(points: FloatArray, name: str) -> FloatArray:
    array = np.asarray(points, dtype=float)
    if array.ndim != 2 or array.shape[1] < 2 or not np.isfinite(array).all():
        raise ValueError(f"'{name}' must be finite points (T, 2) in the global frame, got shape {array.shape}.")
    return array[:, :2]


def _named(tile: np.ndarray, name: str) -> np.ndarray:
    """The tile with its name on a dark tab in its upper left corner."""
    tile = np.ascontiguousarray(tile)
    (text_w, text_h), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_DUPLEX, 0.45, 1)
    tab = tile[: text_h + 12, : text_w + 14]
    tab[:] = (0.35 * tab + 0.65 * np.array([18, 22, 28])).astype(np.uint8)
    cv2.putText(tile, name, (7, text_h + 6), cv2.FONT_HERSHEY_DUPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return tile
