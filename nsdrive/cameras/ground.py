"""From a lane map to flat painted polygons: pavement, kerbs, asphalt, markings, crosswalks, stop lines, arrows.

Nothing is assumed about the shape of areas: they may be concave, overlap, have holes or be invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from nsdrive.cameras.rasteriser import F32, I32
from nsdrive.cameras.shading import ASPHALT, KERB, PAVEMENT, WHITE, YELLOW
from nsdrive.world.areas import union_of
from nsdrive.world.geometry import resample
from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.types import FloatArray

LINE_M = 0.13  # 4 to 6 inches in the MUTCD
DOUBLE_GAP_M = 0.12  # between the middle of a double line and the middle of each of its lines
DASH_M, DASH_PERIOD_M = (
    3.0,
    9.0,
)  # MUTCD: 10 feet of paint; its gap of 30 feet is shortened to 6 m so that lanes tell on small images
STOP_LINE_M = 0.45  # MUTCD: 12 to 24 inches
ZEBRA_BAR_M, ZEBRA_PERIOD_M = 0.5, 1.1
KERB_M = 0.17
APRON_M = 3.6  # pavement where a map knows no walkways, chosen by us: people of real logs walk up to there
BEYOND_M = 70.0  # a lane that leads nowhere goes on this far, so that a road does not end in a lawn; chosen by us
ARROWS_BEFORE_END_M = (9.0, 34.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundPlan:
    """Everything flat of a map, about `origin_m` (2,). corners (M, 4, 2), material (M,), in drawing order; middle
    (M, 2) and radius (M,) for culling. built: the asphalt and pavement as one area, where nothing may be planted."""

    origin_m: FloatArray
    corners: FloatArray
    material: I32
    middle: FloatArray
    radius: FloatArray
    asphalt: BaseGeometry
    built: BaseGeometry

    def around(self, x_m: float, y_m: float, range_m: float) -> tuple[F32, I32]:
        """Corners relative to the point (x, y), and materials, of what lies within the range."""
        offset = self.origin_m - (x_m, y_m)
        near = np.hypot(*(self.middle + offset).T) < range_m + self.radius
        return (self.corners[near] + offset).astype(np.float32), self.material[near]


def plan_ground(lane_map: LaneMap) -> GroundPlan:
    """All flat polygons of a map, bottom layer first."""
    origin = _origin(lane_map)
    lanes = [_prolonged(lane, origin) for lane in lane_map.lanes.values()]
    asphalt = _asphalt(lane_map, lanes, origin)
    pavement = _union(area - origin for area in lane_map.walkways)
    if pavement.is_empty:
        pavement = asphalt.buffer(APRON_M, join_style="mitre", quad_segs=2)
    layers: list[tuple[int, FloatArray]] = [
        (PAVEMENT, triangulate(pavement)),
        *((KERB, strip(ring, 2 * KERB_M)) for ring in _rings(asphalt)),
        (ASPHALT, triangulate(asphalt)),
    ]
    for crosswalk in lane_map.crosswalks.values():
        layers.append((WHITE, zebra(crosswalk.polygon - origin, lanes)))
    layers += _markings(lanes)
    for stop_line in lane_map.stop_lines.values():
        layers.append((WHITE, _stop_line(stop_line.line - origin, stop_line.kind)))
    layers += [(WHITE, arrow) for arrow in _arrows(lane_map, origin)]
    corners = np.concatenate([quads for _, quads in layers] or [np.zeros((0, 4, 2))])
    material = np.repeat([m for m, _ in layers], [len(quads) for _, quads in layers]).astype(np.int32)
    middle = corners.mean(axis=1)
    return GroundPlan(
        origin_m=origin,
        corners=corners,
        material=material,
        middle=middle,
        radius=np.hypot(*np.moveaxis(corners - middle[:, None], -1, 0)).max(axis=1, initial=0.0),
        asphalt=asphalt,
        built=shapely.union(asphalt, pavement),
    )


def triangulate(area: BaseGeometry) -> FloatArray:
    """(T, 4, 2): triangles, the last corner repeated, that cover any polygonal area."""
    polygons = [part for part in _polygons(area) if part.area > 1e-4]
    if not polygons:
        return np.zeros((0, 4, 2))
    quads = [p for p in polygons if _is_convex_quad(p)]
    others = [p for p in polygons if not _is_convex_quad(p)]
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(np.array(others, dtype=object)))
    rings = shapely.get_coordinates(triangles).reshape(-1, 4, 2)
    rings = np.concatenate([rings[:, :3], rings[:, 2:3]], axis=1)
    return np.concatenate([rings, *(shapely.get_coordinates(p)[None, :4] for p in quads)])


def strip(polyline: FloatArray, width_m: float, offset_m: float = 0.0) -> FloatArray:
    """(N - 1, 4, 2): a band along a polyline (N, 2), `offset_m` to its left."""
    step = np.diff(polyline, axis=0)
    length = np.hypot(*step.T)
    keep = np.concatenate([[True], length > 1e-6])
    points = polyline[keep]
    if len(points) < 2:
        return np.zeros((0, 4, 2))
    step = np.diff(points, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.hypot(*step.T)[:, None]
    if np.abs(points[0] - points[-1]).max() < 1e-9:  # a ring: its seam is a corner like any other
        before, after = np.concatenate([normal[-1:], normal]), np.concatenate([normal, normal[:1]])
    else:
        before, after = np.concatenate([normal[:1], normal]), np.concatenate([normal, normal[-1:]])
    mitre = before + after
    mitre /= np.maximum(0.6, (mitre * before).sum(axis=1))[:, None]  # sharp corners are cut short
    left, right = points + (offset_m + width_m / 2) * mitre, points + (offset_m - width_m / 2) * mitre
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def zebra(polygon: FloatArray, lanes: Sequence[_Strip] = ()) -> FloatArray:
    """(B, 4, 2): bars along the traffic, clipped to the crosswalk."""
    area = shapely.make_valid(shapely.Polygon(polygon))
    frame = shapely.get_coordinates(shapely.minimum_rotated_rectangle(area))
    if area.is_empty or len(frame) < 5:
        return np.zeros((0, 4, 2))
    sides = frame[1:3] - frame[0:2]
    lengths = np.hypot(*sides.T)
    axes = sides / np.maximum(lengths, 1e-9)[:, None]
    walk = int(np.argmax(lengths))
    traffic = _traffic_direction(area, lanes)
    if (
        traffic is not None and lengths.max() < 2.5 * lengths.min()
    ):  # a stubby crosswalk: people walk across the traffic
        walk = int(np.argmin(np.abs(axes @ traffic)))
    along, across = axes[walk], axes[1 - walk]
    half_walk, half_bar = lengths[walk] / 2, lengths[1 - walk] / 2 + 0.1
    middle = frame[:4].mean(axis=0)
    count = max(1, int((2 * half_walk - 0.3) / ZEBRA_PERIOD_M))
    at = (np.arange(count) - (count - 1) / 2) * ZEBRA_PERIOD_M
    bars = (
        middle
        + at[:, None, None] * along
        + np.array(
            [a * along * ZEBRA_BAR_M / 2 + b * across * half_bar for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        )
    )
    return triangulate(union_of(shapely.intersection(shapely.polygons(bars), area)))


def _origin(lane_map: LaneMap) -> FloatArray:
    """A point amid the map, so that what follows are small numbers."""
    points = [lane.centerline.mean(axis=0) for lane in lane_map.lanes.values()] or [
        p.mean(axis=0) for p in lane_map.drivable_area
    ]
    return np.asarray(np.round(np.mean(points, axis=0))) if points else np.zeros(2)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Strip:
    """A lane's outline about the map's origin, carried on where the lane leads nowhere."""

    left: FloatArray
    right: FloatArray
    centre: FloatArray
    left_marking: str
    right_marking: str


def _prolonged(lane: Lane, origin: FloatArray) -> _Strip:
    lines = [line - origin for line in (lane.left_boundary, lane.right_boundary, lane.centerline)]
    if not lane.is_connector and lane.lane_type == "vehicle":
        if not lane.outgoing:
            lines = [np.concatenate([line, line[-1:] + BEYOND_M * _direction(lines[2][::-1]) * -1]) for line in lines]
        if not lane.incoming:
            lines = [np.concatenate([line[:1] - BEYOND_M * _direction(lines[2]), line]) for line in lines]
    left, right, centre = lines
    return _Strip(
        left=left, right=right, centre=centre, left_marking=lane.left_marking, right_marking=lane.right_marking
    )


def _direction(polyline: FloatArray) -> FloatArray:
    """Unit vector of the first few metres of a polyline."""
    reach = polyline[min(len(polyline) - 1, 4)] - polyline[0]
    return np.asarray(reach / max(1e-9, float(np.hypot(*reach))))


def _asphalt(lane_map: LaneMap, lanes: Sequence[_Strip], origin: FloatArray) -> BaseGeometry:
    drivable = [area - origin for area in lane_map.drivable_area]
    on_lanes = [np.concatenate([lane.left, lane.right[::-1]]) for lane in lanes]
    return shapely.simplify(_union([*drivable, *on_lanes]), 0.02)


def _union(rings: Iterable[FloatArray]) -> BaseGeometry:
    """The union of polygons given by their rings; gaps of a hand's breadth between neighbours are closed."""
    polygons = [shapely.make_valid(shapely.Polygon(ring)) for ring in rings if len(ring) >= 3]
    if not polygons:
        return shapely.Polygon()
    area = union_of(polygons)
    return area.buffer(0.06, join_style="mitre").buffer(-0.06, join_style="mitre")


def _polygons(area: BaseGeometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(shapely.get_parts(area)) if part.geom_type == "Polygon"]


def _rings(area: BaseGeometry) -> list[FloatArray]:
    return [
        shapely.get_coordinates(ring)
        for polygon in _polygons(area)
        for ring in (polygon.exterior, *polygon.interiors)
        if ring.length > 2.0
    ]


def _is_convex_quad(polygon: shapely.Polygon) -> bool:
    if len(polygon.interiors) or len(polygon.exterior.coords) != 5:
        return False
    ring = shapely.get_coordinates(polygon.exterior)[:4]
    edge = np.roll(ring, -1, axis=0) - ring
    after = np.roll(edge, -1, axis=0)
    turn = edge[:, 0] * after[:, 1] - edge[:, 1] * after[:, 0]
    return bool((turn > 0).all() or (turn < 0).all())


def _traffic_direction(area: BaseGeometry, lanes: Sequence[_Strip]) -> FloatArray | None:
    """Unit vector of the lane that passes nearest to the middle of an area, None where none is near."""
    middle = shapely.get_coordinates(area.centroid)[0]
    best, direction = 8.0, None
    for lane in lanes:
        distance = np.hypot(*(lane.centre - middle).T)
        i = int(np.argmin(distance))
        if distance[i] < best:
            j = min(i, len(lane.centre) - 2)
            best, direction = float(distance[i]), _direction(lane.centre[j : j + 2])
    return direction


def _markings(lanes: Sequence[_Strip]) -> list[tuple[int, FloatArray]]:
    """The lines along lane boundaries, each painted once although neighbours share it."""
    sides = [
        (line, marking)
        for lane in lanes
        for line, marking in ((lane.left, lane.left_marking), (lane.right, lane.right_marking))
        if marking != "none" and len(line) >= 2
    ]
    sides.sort(key=lambda side: 0 if side[1].startswith("double") else 1 if side[1].startswith("solid") else 2)
    if not sides:
        return []
    lines = shapely.simplify(np.array([shapely.LineString(line) for line, _ in sides], dtype=object), 0.02)
    tree = shapely.STRtree(lines)
    near = tree.query(lines, predicate="dwithin", distance=0.3)
    layers = []
    for i, (line, (_, marking)) in enumerate(zip(lines, sides, strict=True)):
        earlier = near[1, (near[0] == i) & (near[1] < i)]
        if len(earlier):  # neighbours that only touch at their ends are the rule, and need no cutting
            probes = shapely.line_interpolate_point(line, [0.1, 0.35, 0.65, 0.9], normalized=True)
            covered = (shapely.distance(probes[:, None], lines[earlier][None]) < 0.3).any(axis=1)
            if covered.all():
                continue
            if covered.any():
                line = shapely.difference(line, union_of(shapely.buffer(lines[earlier], 0.3, cap_style="flat")))
        for piece in shapely.get_parts(line):
            if piece.length > 0.4:
                layers.append(
                    (YELLOW if "yellow" in marking else WHITE, _painted(shapely.get_coordinates(piece), marking))
                )
    return layers


def _painted(polyline: FloatArray, marking: str) -> FloatArray:
    if marking.startswith("double"):
        return np.concatenate([strip(polyline, LINE_M, side * DOUBLE_GAP_M) for side in (1, -1)])
    if not marking.startswith("dashed"):
        return strip(polyline, LINE_M)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(polyline, axis=0).T))])
    lead_in = 0.5 * (DASH_PERIOD_M - DASH_M) if along[-1] > DASH_PERIOD_M else 0.0
    starts = np.arange(lead_in, along[-1] - 0.5, DASH_PERIOD_M)
    at = np.minimum(starts[:, None] + DASH_M * np.array([0.0, 0.5, 1.0]), along[-1])  # bent once, in the middle
    points = np.stack([np.interp(at, along, polyline[:, k]) for k in (0, 1)], axis=-1)
    reach = points[:, 2] - points[:, 0]
    side = np.stack([-reach[:, 1], reach[:, 0]], axis=1) / np.maximum(np.hypot(*reach.T), 1e-9)[:, None]
    left, right = points + LINE_M / 2 * side[:, None], points - LINE_M / 2 * side[:, None]
    return np.concatenate(
        [np.stack([left[:, i], left[:, i + 1], right[:, i + 1], right[:, i]], axis=1) for i in (0, 1)]
    )


def _stop_line(line: FloatArray, kind: str) -> FloatArray:
    """A bar before a light or a stop sign; teeth, points towards the driver, where one gives way."""
    across = line[1] - line[0]
    length = float(np.hypot(*across))
    if length < 0.1:
        return np.zeros((0, 4, 2))
    across = across / length
    ahead = np.array([-across[1], across[0]])
    if kind in ("traffic_light", "stop_sign"):
        inset = 0.12 * across
        return strip(np.array([line[0] + inset, line[1] - inset]), STOP_LINE_M)
    teeth = np.arange(0.25, length - 0.5, 0.75)
    base = line[0] + teeth[:, None] * across
    return np.stack([base, base + 0.5 * across, base + 0.25 * across - 0.6 * ahead, base], axis=1)


def _arrows(lane_map: LaneMap, origin: FloatArray) -> list[FloatArray]:
    """Where each lane may go, painted before a junction that offers a choice."""
    found = []
    for lane in lane_map.lanes.values():
        exits = [lane_map.lanes[i] for i in lane.outgoing if i in lane_map.lanes]
        turns = {e.turn for e in exits if e.is_connector and e.intersection_id is not None and e.turn in _ARROWS}
        if (
            lane.is_connector
            or not turns
            or (turns == {"straight"} and not (lane.left_neighbor or lane.right_neighbor))
        ):
            continue
        line = resample(lane.centerline, 1.0) - origin
        for before in ARROWS_BEFORE_END_M:
            i = len(line) - 1 - round(before)
            if i < 3:
                continue
            forward = _direction(line[i : i + 3])
            frame = np.array([forward, (-forward[1], forward[0])])
            found += [
                np.asarray(part, dtype=float)[None] @ frame + line[i]
                for turn in sorted(turns)
                for part in _ARROWS[turn]
            ]
    return found


# quads in the lane's frame, x ahead, y left, about 2.6 m long; a triangle repeats its last corner
_ARROWS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "straight": (
        ((-1.4, -0.09), (0.5, -0.09), (0.5, 0.09), (-1.4, 0.09)),
        ((0.4, -0.34), (1.5, 0.0), (0.4, 0.34), (0.4, 0.34)),
    ),
    "left": (
        ((-1.4, -0.09), (-0.1, -0.09), (-0.1, 0.09), (-1.4, 0.09)),
        ((-0.1, -0.09), (0.35, 0.38), (0.15, 0.52), (-0.28, 0.06)),
        ((-0.18, 0.66), (0.55, 0.12), (0.55, 1.02), (0.55, 1.02)),
    ),
    "right": (
        ((-1.4, -0.09), (-0.1, -0.09), (-0.1, 0.09), (-1.4, 0.09)),
        ((-0.1, 0.09), (0.35, -0.38), (0.15, -0.52), (-0.28, -0.06)),
        ((-0.18, -0.66), (0.55, -0.12), (0.55, -1.02), (0.55, -1.02)),
    ),
}  # fmt: skip
