"""Trees, lamp posts and buildings beside the roads: not in any map, but what makes a street look like one.

Placed from a seed, off every lane, drivable area and walkway, and not where they would hide a signal or a stop sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numba import njit

from nsdrive.cameras.ground import GroundPlan
from nsdrive.cameras.mesh import Color, Mesh
from nsdrive.cameras.shading import Weather
from nsdrive.cameras.street import TREE_SHAPES, building_mesh, lamp_post_mesh, tree_mesh
from nsdrive.world.geometry import resample
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import FloatArray

KEEP_CLEAR_M = 13.0  # no tree this close to a signal or a stop sign
WALLS: tuple[Color, ...] = (
    (176, 116, 96), (198, 182, 152), (158, 158, 164), (212, 204, 188), (136, 112, 98),
    (170, 164, 150), (126, 138, 152), (222, 214, 204), (150, 92, 78),
)  # fmt: skip
PANES: tuple[Color, ...] = ((74, 92, 112), (86, 104, 118), (66, 80, 98), (98, 116, 130))
ROOFS: tuple[Color, ...] = ((122, 70, 56), (88, 84, 84), (104, 92, 82), (70, 74, 80))
GREENS: tuple[Color, ...] = ((74, 118, 52), (88, 128, 58), (62, 104, 54), (104, 132, 62), (58, 92, 50))


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """How dense and how tall: chosen by us."""

    building_every_m: float
    storeys: tuple[int, int]
    width_m: tuple[float, float]
    setback_m: tuple[float, float]
    pitched: float  # share of pitched roofs
    tree_every_m: float
    backdrop: float  # share of the cells behind that hold something
    backdrop_trees: float  # of those, the share of trees


NEIGHBOURHOODS = (
    Neighbourhood(building_every_m=19, storeys=(3, 8), width_m=(12, 20), setback_m=(3.0, 6.0), pitched=0.0,
                  tree_every_m=13, backdrop=0.7, backdrop_trees=0.25),  # a city
    Neighbourhood(building_every_m=24, storeys=(2, 4), width_m=(10, 17), setback_m=(5.0, 11.0), pitched=0.5,
                  tree_every_m=11, backdrop=0.6, backdrop_trees=0.6),  # its outskirts
    Neighbourhood(building_every_m=46, storeys=(1, 2), width_m=(9, 14), setback_m=(9.0, 17.0), pitched=0.95,
                  tree_every_m=10, backdrop=0.55, backdrop_trees=0.85),  # a village
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Prop:
    """Something that stands about the map's origin: where, how large, in which colours by slot."""

    mesh: Mesh
    x_m: float
    y_m: float
    heading_rad: float
    scale: tuple[float, float, float]
    colors: tuple[Color, ...] = ()


def plan_scenery(lane_map: LaneMap, ground: GroundPlan, seed: int) -> list[Prop]:
    """Buildings, trees and lamp posts of a map, the same for the same seed."""
    rng = np.random.default_rng([seed, 11])
    style = NEIGHBOURHOODS[int(rng.integers(len(NEIGHBOURHOODS)))]
    signs = [(s.x_m, s.y_m) for s in lane_map.signals] + [(x, y) for x, y, _ in lane_map.stop_signs]
    clear_of = np.array(signs).reshape(-1, 2) - ground.origin_m
    rays = _rays(lane_map, ground.origin_m)
    planted = _Planted(ground, clear_of)
    props = _lamp_posts(rays, planted)
    props += _buildings(rays, planted, style, rng)
    props += _trees(rays, planted, style, rng)
    props += _backdrop(ground, planted, style, rng)
    return props


def plan_weather(seed: int) -> tuple[Weather, FloatArray, float]:
    """The air of a scene, the unit vector to the sun (3,), and how strong its direct light is."""
    rng = np.random.default_rng([seed, 12])
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(38, 62))
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    kind = rng.choice(["clear", "fair", "overcast"], p=[0.35, 0.45, 0.2])
    if kind == "overcast":  # a bright sky from everywhere: faint shadows right below things
        sun = np.array([0.10 * np.cos(azimuth), 0.10 * np.sin(azimuth), 0.99])
        grey = Weather(
            horizon=_rgb(206, 211, 216),
            zenith=_rgb(168, 178, 190),
            cloud=_rgb(190, 196, 204),
            shade=_rgb(0.78, 0.78, 0.79),
            cloudiness=0.62,
            fog_m=210.0,
        )
        return grey, sun / np.linalg.norm(sun), 0.20
    blue = Weather(
        horizon=_rgb(206, 219, 232),
        zenith=_rgb(92, 148, 214),
        cloud=_rgb(244, 246, 250),
        shade=_rgb(0.58, 0.61, 0.68),
        cloudiness=0.0 if kind == "clear" else float(rng.uniform(0.25, 0.5)),
        fog_m=float(rng.uniform(230, 300)),
    )
    return blue, sun, 0.44


class _Planted:
    """What stands already, to keep the next thing off it."""

    def __init__(self, ground: GroundPlan, clear_of: FloatArray) -> None:
        self._built = shapely.simplify(ground.built, 0.3)  # every distance is to each of its edges
        self._clear_of = clear_of
        self._discs = np.zeros((256, 3))  # the first `_count` rows are in use
        self._count = 0

    def distance_m(self, points: FloatArray) -> FloatArray:
        """From points (..., 2) to the nearest asphalt or pavement, 0 on it."""
        if self._built.is_empty:
            return np.full(points.shape[:-1], np.inf)
        return np.asarray(shapely.distance(shapely.points(points), self._built))

    def room_for(self, x: float, y: float, radius_m: float) -> bool:
        return _has_room(self._discs[: self._count], x, y, radius_m)

    def hides_a_sign(self, x: float, y: float) -> bool:
        return bool((np.hypot(self._clear_of[:, 0] - x, self._clear_of[:, 1] - y) < KEEP_CLEAR_M).any())

    def add(self, x: float, y: float, radius_m: float) -> None:
        if self._count == len(self._discs):
            self._discs = np.concatenate([self._discs, np.zeros_like(self._discs)])
        self._discs[self._count] = x, y, radius_m
        self._count += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _has_room(discs: FloatArray, x: float, y: float, radius_m: float) -> bool:
    """Whether a disc overlaps none of discs (N, 3): x, y, radius."""
    for i in range(discs.shape[0]):
        gap = math.hypot(discs[i, 0] - x, discs[i, 1] - y) - discs[i, 2]
        if gap <= radius_m:
            return False
    return True


def _rays(lane_map: LaneMap, origin: FloatArray) -> FloatArray:
    """(R, 4): points every metre or so along the outer boundaries of lanes and the unit vector away from the lane."""
    rays = [np.zeros((0, 4))]
    for lane in lane_map.lanes.values():
        if lane.is_connector:
            continue
        for line, side, neighbor in (
            (lane.left_boundary, 1.0, lane.left_neighbor),
            (lane.right_boundary, -1.0, lane.right_neighbor),
        ):
            if neighbor is not None or len(line) < 2:
                continue
            points = resample(line, 2.0) - origin
            step = np.gradient(points, axis=0)
            step /= np.maximum(np.hypot(*step.T), 1e-9)[:, None]
            rays.append(np.column_stack([points, -side * step[:, 1], side * step[:, 0]]))
    return np.concatenate(rays)


def _spots(rays: FloatArray, planted: _Planted, every_m: float, gap_m: float, reach_m: float) -> FloatArray:
    """(S, 4): where every few metres of road the first place lies that is `gap_m` off everything built; x, y, outwards."""
    some = rays[:: max(1, round(every_m / 2.0))]
    steps = np.arange(gap_m, reach_m, 0.8)
    points = some[:, None, :2] + steps[None, :, None] * some[:, None, 2:]
    free = planted.distance_m(points) >= gap_m
    hit = free.any(axis=1)
    first = free[hit].argmax(axis=1)
    return np.column_stack([points[hit][np.arange(len(first)), first], some[hit, 2:]])


def _lamp_posts(rays: FloatArray, planted: _Planted) -> list[Prop]:
    posts = []
    for x, y, out_x, out_y in _spots(rays, planted, 38.0, 0.4, 8.0):
        if planted.room_for(x, y, 20.0) and not planted.hides_a_sign(x, y):
            planted.add(x, y, 0.3)
            posts.append(
                Prop(
                    mesh=lamp_post_mesh(), x_m=x, y_m=y, heading_rad=float(np.arctan2(-out_y, -out_x)), scale=(1, 1, 1)
                )
            )
    return posts


def _buildings(rays: FloatArray, planted: _Planted, style: Neighbourhood, rng: np.random.Generator) -> list[Prop]:
    wished = []
    for x, y, out_x, out_y in _spots(rays, planted, style.building_every_m, style.setback_m[0], 22.0):
        width, depth = rng.uniform(*style.width_m), rng.uniform(9.0, 14.0)
        back = depth / 2 + rng.uniform(0.0, style.setback_m[1] - style.setback_m[0])
        heading = float(np.arctan2(out_y, out_x) - np.pi / 2)
        wished.append(_building(x + back * out_x, y + back * out_y, heading, width, depth, style, rng))
    off_roads = _off_roads(wished, planted, 2.0)
    return [prop for prop, off in zip(wished, off_roads, strict=True) if off and _stands_free(prop, planted)]


def _building(
    x: float, y: float, heading: float, width: float, depth: float, style: Neighbourhood, rng: np.random.Generator
) -> Prop:
    storeys = int(rng.integers(style.storeys[0], style.storeys[1] + 1))
    pitched = bool(rng.random() < style.pitched)
    colors = tuple(table[int(rng.integers(len(table)))] for table in (WALLS, PANES, ROOFS))
    number = (int(rng.integers(251)), 0, 0)  # slot 3: which of its windows are lighter
    return Prop(
        mesh=building_mesh(pitched),
        x_m=x,
        y_m=y,
        heading_rad=heading,
        scale=(width, depth, 3.2 * storeys + 0.4),
        colors=(*colors, number),
    )


def _off_roads(buildings: Sequence[Prop], planted: _Planted, gap_m: float) -> np.ndarray:
    """(B,) whether corners and middles of all walls keep this distance to asphalt and pavement."""
    along = np.array([(np.cos(b.heading_rad), np.sin(b.heading_rad)) for b in buildings]).reshape(-1, 1, 2)
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    middle = np.array([(b.x_m, b.y_m) for b in buildings]).reshape(-1, 1, 2)
    size = np.array([b.scale for b in buildings]).reshape(-1, 3)
    a, b = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]).T[:, None, :, None]
    edge = middle + a * along * size[:, None, :1] / 2 + b * across * size[:, None, 1:2] / 2
    return np.asarray(planted.distance_m(edge).min(axis=1, initial=np.inf) >= gap_m)


def _stands_free(prop: Prop, planted: _Planted) -> bool:
    """Claim the ground of a building if nothing is there yet: three discs along it stand for it."""
    width, depth, _ = prop.scale
    reach = max(0.0, width - depth)
    along_x, along_y = np.cos(prop.heading_rad), np.sin(prop.heading_rad)
    spine = [(prop.x_m + a * along_x * reach / 2, prop.y_m + a * along_y * reach / 2) for a in (-1, 0, 1)]
    if not all(planted.room_for(x, y, 0.55 * depth) for x, y in spine):
        return False
    for x, y in spine:
        planted.add(x, y, 0.6 * depth)
    return True


def _trees(rays: FloatArray, planted: _Planted, style: Neighbourhood, rng: np.random.Generator) -> list[Prop]:
    wished = [_tree(x, y, rng) for x, y, *_ in _spots(rays, planted, style.tree_every_m, 2.3, 11.0)]
    return [tree for tree in wished if _takes_root(tree, planted)]


def _tree(x: float, y: float, rng: np.random.Generator, grown: float = 1.0) -> Prop:
    radius, height = grown * rng.uniform(1.5, 2.3), grown * rng.uniform(1.25, 1.8)
    shape, green, turn = (
        int(rng.integers(TREE_SHAPES)),
        GREENS[int(rng.integers(len(GREENS)))],
        rng.uniform(0, 2 * np.pi),
    )
    return Prop(mesh=tree_mesh(shape), x_m=x, y_m=y, heading_rad=turn, scale=(radius, radius, height), colors=(green,))


def _takes_root(tree: Prop, planted: _Planted) -> bool:
    """Claim the ground of a tree if nothing is there yet and no sign is near."""
    radius = tree.scale[0]
    if planted.hides_a_sign(tree.x_m, tree.y_m) or not planted.room_for(tree.x_m, tree.y_m, radius + 0.4):
        return False
    planted.add(tree.x_m, tree.y_m, radius)
    return True


def _backdrop(ground: GroundPlan, planted: _Planted, style: Neighbourhood, rng: np.random.Generator) -> list[Prop]:
    """A loose second row, so that one does not look from the kerb to the end of the world."""
    if ground.built.is_empty:
        return []
    cell, around = 27.0, 80.0
    bounds = np.array(ground.built.bounds).reshape(2, 2)
    low, high = bounds[0] - around, bounds[1] + around
    columns, rows = np.maximum(1, np.minimum(60, ((high - low) / cell).astype(int)))
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2)
    points = low + (grid + rng.uniform(0.2, 0.8, grid.shape)) * cell
    distance = planted.distance_m(points)
    draws = rng.random((len(points), 2))
    wished: list[Prop] = []
    for (x, y), gap, (here, tree) in zip(points, distance, draws, strict=True):
        if not 15.0 < gap < 110.0 or here > style.backdrop:
            continue
        if tree < style.backdrop_trees:
            wished += [_tree(x + dx, y + dy, rng, grown=1.35) for dx, dy in rng.uniform(-8, 8, (4, 2))]
        else:
            turn, width, depth = rng.normal(0, 0.1), rng.uniform(14, 22), rng.uniform(11, 16)
            wished.append(_building(x, y, turn, width, depth, style, rng))
    houses = [prop for prop in wished if _is_building(prop)]
    off_roads = iter(_off_roads(houses, planted, 6.0))
    return [
        prop
        for prop in wished
        if (next(off_roads) and _stands_free(prop, planted) if _is_building(prop) else _takes_root(prop, planted))
    ]


def _is_building(prop: Prop) -> bool:
    return len(prop.colors) > 1  # a tree has its green only


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], dtype=np.float32)
