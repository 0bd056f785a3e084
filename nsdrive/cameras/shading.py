"""Ids and depths to colours: materials, shadows, fog and sky, averaged over the 2 x 2 subsamples of a pixel.

Also counts which things are in front: the numbers behind "the camera sees it".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import njit

from nsdrive.cameras.rasteriser import F32, FIRST_FACE, GRASS, I32, SHADOW, SKY, Instances, Surfaces, View

# ground materials, by id; SKY and GRASS are the rasteriser's 0 and 1
PAVEMENT, KERB, ASPHALT, WHITE, YELLOW, PATCH = 2, 3, 4, 5, 6, 7
# rgb in sunlight, share of fine grain, share of coarse blotches; chosen by us
GROUND_LOOKS: dict[int, tuple[tuple[int, int, int], float, float]] = {
    SKY: ((0, 0, 0), 0.0, 0.0),
    GRASS: ((104, 138, 72), 0.17, 0.13),
    PAVEMENT: ((172, 168, 160), 0.06, 0.04),
    KERB: ((205, 203, 197), 0.05, 0.03),
    ASPHALT: ((88, 90, 94), 0.09, 0.06),
    WHITE: ((238, 238, 234), 0.05, 0.04),
    YELLOW: ((240, 186, 44), 0.05, 0.04),
    PATCH: ((74, 76, 80), 0.09, 0.05),
}
# materials of mesh faces
PLAIN, FACADE, LEAVES, SHOPFRONT = 0, 1, 2, 3

FLOOR_M, BAY_M = 3.2, 2.8  # chosen by us: storey height and window spacing of a facade
NOISE_SIZE = 256


class Weather(NamedTuple):
    """What a scene's air and sky look like. horizon, zenith, cloud: rgb (3,) float32; shade (3,): what is left of each
    colour in a shadow on the ground; fog_m: a surface at this distance has lost about 60 % of its own colour."""

    horizon: F32
    zenith: F32
    cloud: F32
    shade: F32
    cloudiness: float
    fog_m: float


@functools.lru_cache(maxsize=1)
def noise_texture() -> F32:
    """(NOISE_SIZE, NOISE_SIZE) in about [-1, 1], tileable: the grain of asphalt and grass and the shape of clouds."""
    rng = np.random.default_rng([20260623])
    total = np.zeros((NOISE_SIZE, NOISE_SIZE))
    for cells, weight in ((8, 0.5), (16, 0.8), (32, 1.0), (64, 1.0), (128, 0.9), (256, 0.8)):
        knots = rng.uniform(-1, 1, (cells, cells))
        at = np.arange(NOISE_SIZE) * cells / NOISE_SIZE
        low = at.astype(int)
        part = at - low
        part = part * part * (3 - 2 * part)
        high = (low + 1) % cells
        rows = knots[low] * (1 - part)[:, None] + knots[high] * part[:, None]
        total += weight * (rows[:, low] * (1 - part) + rows[:, high] * part)
    return (total / (2.0 * total.std())).clip(-1, 1).astype(np.float32)


@functools.lru_cache(maxsize=1)
def ground_table() -> F32:
    """(FIRST_FACE, 5): rgb, fine and coarse grain of each ground material."""
    table = np.zeros((FIRST_FACE, 5), dtype=np.float32)
    for material, (rgb, fine, coarse) in GROUND_LOOKS.items():
        table[material] = (*rgb, fine, coarse)
    return table


@njit(cache=True, error_model="numpy", nogil=True)
def paint(
    view: View,
    depth: F32,
    ids: I32,
    surfaces: Surfaces,
    instances: Instances,
    weather: Weather,
    table: F32,
    noise: F32,
    anchor: F32,
    rgb: np.ndarray,
    hits: I32,
) -> None:
    """Colours (H, W, 3) uint8 from depth and ids (2 H, 2 W); adds subsamples to hits (number of things,).

    anchor (2,): where the ego is on the pattern of the ground, so that its grain stays put while the ego moves.
    """
    height, width, _ = rgb.shape
    color = np.zeros(3, dtype=np.float32)
    quarter = np.float32(0.25)
    for y in range(height):
        upper, lower = ids[2 * y], ids[2 * y + 1]
        for x in range(width):
            a, b, c, d = upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]
            if (
                a == b
                and a == c
                and a == d
                and (a < FIRST_FACE or a >= SHADOW or surfaces.material[a - FIRST_FACE] != FACADE)
            ):
                _shade(
                    a,
                    depth[2 * y, 2 * x],
                    2.0 * x + 1.0,
                    2.0 * y + 1.0,
                    view,
                    surfaces,
                    instances,
                    weather,
                    table,
                    noise,
                    anchor,
                    color,
                )
                rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = np.uint8(color[0]), np.uint8(color[1]), np.uint8(color[2])
                if FIRST_FACE <= a < SHADOW:
                    thing = instances.thing[surfaces.instance[a - FIRST_FACE]]
                    if thing >= 0:
                        hits[thing] += 4
                continue
            red = green = blue = np.float32(0.5)  # rounds
            last = -1
            for k in range(4):
                row, column = 2 * y + k // 2, 2 * x + k % 2
                here = ids[row, column]
                facade = FIRST_FACE <= here < SHADOW and surfaces.material[here - FIRST_FACE] == FACADE
                if here != last or facade:
                    _shade(
                        here,
                        depth[row, column],
                        column + 0.5,
                        row + 0.5,
                        view,
                        surfaces,
                        instances,
                        weather,
                        table,
                        noise,
                        anchor,
                        color,
                    )
                    last = here
                red += color[0] * quarter
                green += color[1] * quarter
                blue += color[2] * quarter
                if FIRST_FACE <= here < SHADOW:
                    thing = instances.thing[surfaces.instance[here - FIRST_FACE]]
                    if thing >= 0:
                        hits[thing] += 1
            rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = np.uint8(red), np.uint8(green), np.uint8(blue)


@njit(cache=True, error_model="numpy", nogil=True)
def _shade(
    code: int,
    inverse: np.float32,
    u: float,
    v: float,
    view: View,
    surfaces: Surfaces,
    instances: Instances,
    weather: Weather,
    table: F32,
    noise: F32,
    anchor: F32,
    color: F32,
) -> None:
    """The colour of one subsample at (u, v) on the grid of subsamples."""
    if code < FIRST_FACE or code >= SHADOW:
        _shade_ground(code, inverse, u, v, view, weather, table, noise, anchor, color)
        if code == SKY:
            return
        clear = np.float32(1.0)
    else:
        k = code - FIRST_FACE
        color[0], color[1], color[2] = surfaces.rgb[k, 0], surfaces.rgb[k, 1], surfaces.rgb[k, 2]
        material = surfaces.material[k]
        if material == FACADE:
            _windows(inverse, u, v, view, surfaces, instances, noise, k, color)
        elif material == LEAVES:
            _leaves(inverse, u, v, view, noise, anchor, color)
        clear = np.float32(1.0) - np.float32(0.75) * surfaces.glow[k]  # lamps pierce the fog
    # w = 1 - 1 / (1 + q + q^2 / 2) with q = distance / fog_m, written without dividing by 1/z first
    near = inverse * np.float32(weather.fog_m)
    fog = clear * (near + np.float32(0.5)) / (near * near + near + np.float32(0.5))
    for i in range(3):
        color[i] = min(np.float32(255.0), color[i] + (weather.horizon[i] - color[i]) * fog)


@njit(cache=True, error_model="numpy", nogil=True)
def _shade_ground(
    code: int,
    inverse: np.float32,
    u: float,
    v: float,
    view: View,
    weather: Weather,
    table: F32,
    noise: F32,
    anchor: F32,
    color: F32,
) -> None:
    r = view.rotation
    rx, ry = (u - view.cx) / view.fx, (v - view.cy) / view.fy
    dx = r[0, 0] * rx + r[1, 0] * ry + r[2, 0]
    dy = r[0, 1] * rx + r[1, 1] * ry + r[2, 1]
    if code == SKY:
        dz = r[0, 2] * rx + r[1, 2] * ry + r[2, 2]
        _shade_sky(dx, dy, dz, weather, noise, color)
        return
    material = code & (FIRST_FACE - 1)
    z = np.float32(1.0) / inverse
    wx = np.float32(view.position[0] + dx * z) + anchor[0]
    wy = np.float32(view.position[1] + dy * z) + anchor[1]
    grain = np.float32(1.0)
    if z < np.float32(24.0):  # finer than a pixel beyond
        grain += (
            table[material, 3]
            * _nearest(noise, wx * np.float32(18.0), wy * np.float32(18.0))
            * (np.float32(1.0) - z / np.float32(24.0))
        )
    if z < np.float32(160.0):
        grain += (
            table[material, 4]
            * _smooth(noise, wx * np.float32(1.6), wy * np.float32(1.6))
            * (np.float32(1.0) - z / np.float32(160.0))
        )
    shaded = code >= SHADOW
    for i in range(3):
        color[i] = table[material, i] * grain * (weather.shade[i] if shaded else np.float32(1.0))


@njit(cache=True, error_model="numpy", nogil=True)
def _shade_sky(dx: float, dy: float, dz: float, weather: Weather, noise: F32, color: F32) -> None:
    up = np.float32(dz / np.sqrt(dx * dx + dy * dy + dz * dz))
    part = min(np.float32(1.0), max(np.float32(0.0), up * np.float32(2.6)))
    part = part * (np.float32(2.0) - part)
    cover = np.float32(0.0)
    if weather.cloudiness > 0.0:
        reach = 14.0 / (max(dz, 0.0) + 0.10)  # a layer of clouds that bends down to the horizon
        thick = _smooth(noise, np.float32(dx * reach + 4096.0), np.float32(dy * reach + 4096.0))
        cover = min(
            np.float32(1.0), max(np.float32(0.0), (thick + np.float32(weather.cloudiness - 0.5)) * np.float32(1.6))
        )
        cover *= min(np.float32(1.0), up * np.float32(9.0)) * np.float32(0.8)
    for i in range(3):
        sky = weather.horizon[i] + (weather.zenith[i] - weather.horizon[i]) * part
        color[i] = sky + (weather.cloud[i] - sky) * cover


@njit(cache=True, error_model="numpy", nogil=True)
def _windows(
    inverse: np.float32,
    u: float,
    v: float,
    view: View,
    surfaces: Surfaces,
    instances: Instances,
    noise: F32,
    k: int,
    color: F32,
) -> None:
    """A grid of windows on a wall; palette slot 1 is the glass."""
    r = view.rotation
    o = surfaces.instance[k]
    z = 1.0 / inverse
    rx, ry = (u - view.cx) / view.fx * z, (v - view.cy) / view.fy * z
    x = view.position[0] + r[0, 0] * rx + r[1, 0] * ry + r[2, 0] * z - instances.position[o, 0]
    y = view.position[1] + r[0, 1] * rx + r[1, 1] * ry + r[2, 1] * z - instances.position[o, 1]
    up = view.position[2] + r[0, 2] * rx + r[1, 2] * ry + r[2, 2] * z - instances.position[o, 2]
    c, s = instances.heading[o, 0], instances.heading[o, 1]
    if surfaces.sideways[k] == 1:
        along, width = c * x + s * y, instances.scale[o, 0]
    else:
        along, width = c * y - s * x, instances.scale[o, 1]
    bays = max(1.0, np.floor(width / BAY_M))
    floors = max(1.0, np.floor(instances.scale[o, 2] / FLOOR_M))
    bay, floor = (along / width + 0.5) * bays, up / instances.scale[o, 2] * floors
    bay_index, floor_index = np.floor(bay), np.floor(floor)
    bay -= bay_index
    floor -= floor_index
    if floor_index >= floors - 0.5 or floor_index < 0:
        return
    ground_floor = floor_index == 0
    low, high, side = (0.06, 0.80, 0.07) if ground_floor else (0.28, 0.82, 0.20)
    inside = side < bay < 1.0 - side and low < floor < high
    sharp = min(1.0, max(0.0, view.fx * inverse * BAY_M / 6.0 - 0.5))  # windows of a few subsamples melt into the wall
    share = (1.0 if inside else 0.0) * sharp + (1.0 - sharp) * (high - low) * (1.0 - 2.0 * side)
    if share <= 0.0:
        return
    lit = noise[int(bay_index * 7 + o * 13) & (NOISE_SIZE - 1), int(floor_index * 11 + o * 29) & (NOISE_SIZE - 1)]
    frame = 0.86 if inside and sharp > 0.9 and (abs(bay - 0.5) < 0.012 * BAY_M / 2.8 or floor > high - 0.03) else 1.0
    tone = np.float32((0.92 + 0.30 * lit + 0.22 * floor) * frame)
    part = np.float32(share)
    for i in range(3):
        glass = instances.palette[o, 1, i] * tone
        color[i] += (glass - color[i]) * part


@njit(cache=True, error_model="numpy", nogil=True)
def _leaves(inverse: np.float32, u: float, v: float, view: View, noise: F32, anchor: F32, color: F32) -> None:
    r = view.rotation
    z = 1.0 / inverse
    rx, ry = (u - view.cx) / view.fx * z, (v - view.cy) / view.fy * z
    x = view.position[0] + r[0, 0] * rx + r[1, 0] * ry + r[2, 0] * z + anchor[0]
    y = view.position[1] + r[0, 1] * rx + r[1, 1] * ry + r[2, 1] * z + anchor[1]
    up = view.position[2] + r[0, 2] * rx + r[1, 2] * ry + r[2, 2] * z
    grain = _smooth(noise, np.float32((x + 0.6 * up) * 5.0), np.float32((y - 0.8 * up) * 5.0))
    fade = np.float32(0.24 / (1.0 + z * z / 1600.0))
    for i in range(3):
        color[i] *= np.float32(1.0) + fade * grain


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _nearest(noise: F32, x: np.float32, y: np.float32) -> np.float32:
    return noise[int(x) & (NOISE_SIZE - 1), int(y) & (NOISE_SIZE - 1)]


@njit(cache=True, error_model="numpy", nogil=True)
def _smooth(noise: F32, x: np.float32, y: np.float32) -> np.float32:
    """Bilinear, wrapped; x and y must not be far below zero."""
    i, j = int(np.floor(x)), int(np.floor(y))
    a, b = x - np.float32(i), y - np.float32(j)
    i0, j0 = i & (NOISE_SIZE - 1), j & (NOISE_SIZE - 1)
    i1, j1 = (i + 1) & (NOISE_SIZE - 1), (j + 1) & (NOISE_SIZE - 1)
    one = np.float32(1.0)
    return (noise[i0, j0] * (one - a) + noise[i1, j0] * a) * (one - b) + (
        noise[i0, j1] * (one - a) + noise[i1, j1] * a
    ) * b
