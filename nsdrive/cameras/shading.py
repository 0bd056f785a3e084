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
# rgb in sunlight, and how much of the ground's grain shows; chosen by us
GROUND_LOOKS: dict[int, tuple[tuple[int, int, int], float]] = {
    SKY: ((0, 0, 0), 0.0),
    GRASS: ((104, 138, 72), 0.17),
    PAVEMENT: ((172, 168, 160), 0.06),
    KERB: ((205, 203, 197), 0.05),
    ASPHALT: ((88, 90, 94), 0.09),
    WHITE: ((238, 238, 234), 0.05),
    YELLOW: ((240, 186, 44), 0.05),
    PATCH: ((74, 76, 80), 0.09),
}
# materials of mesh faces
PLAIN, FACADE, LEAVES, SHOPFRONT = 0, 1, 2, 3

FLOOR_M, BAY_M = 3.2, 2.8  # chosen by us: storey height and window spacing of a facade
FINE_SIZE, WIDE_SIZE = 256, 512  # powers of two: indices wrap with a mask
MASK, WIDE_MASK = FINE_SIZE - 1, WIDE_SIZE - 1


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
def fine_noise() -> F32:
    """(FINE_SIZE, FINE_SIZE) in -1 .. 1, tileable: every texel differs from the next, the grit of asphalt and grass."""
    return _noise(FINE_SIZE, ((64, 0.5), (128, 0.8), (256, 1.0)))


@functools.lru_cache(maxsize=1)
def smooth_noise() -> F32:
    """(WIDE_SIZE, WIDE_SIZE) in -1 .. 1, tileable: blotches of six texels and more, stains and clouds."""
    return _noise(WIDE_SIZE, ((8, 0.6), (16, 0.9), (32, 1.0), (85, 0.8)))


def _noise(size: int, octaves: tuple[tuple[int, float], ...]) -> F32:
    """Value noise: random knots with smooth curves between them, at several sizes."""
    rng = np.random.default_rng([20260623, size])
    total = np.zeros((size, size))
    for cells, weight in octaves:
        knots = rng.uniform(-1, 1, (cells, cells))
        at = np.arange(size) * cells / size
        low = at.astype(int)
        part = at - low
        part = part * part * (3 - 2 * part)
        high = (low + 1) % cells
        rows = knots[low] * (1 - part)[:, None] + knots[high] * part[:, None]
        total += weight * (rows[:, low] * (1 - part) + rows[:, high] * part)
    return (total / (2.0 * total.std())).clip(-1, 1).astype(np.float32)


@functools.lru_cache(maxsize=1)
def ground_table() -> F32:
    """(FIRST_FACE, 4): rgb and grain of each ground material."""
    table = np.zeros((FIRST_FACE, 4), dtype=np.float32)
    for material, (rgb, grain) in GROUND_LOOKS.items():
        table[material] = (*rgb, grain)
    return table


def paint(
    view: View,
    depth: F32,
    ids: I32,
    surfaces: Surfaces,
    instances: Instances,
    weather: Weather,
    anchor: F32,
    rgb: np.ndarray,
    hits: I32,
) -> None:
    """Colours (H, W, 3) uint8 from depth and ids (2 H, 2 W); adds subsamples to hits (number of things,).

    anchor (2,): where the ego is on the pattern of the ground, so that its grain stays put while the ego moves.
    Three kernels and not one: what is the same for every pixel runs without branches, as vector instructions.
    """
    height, width, _ = rgb.shape
    fog, grain = np.zeros((2, height, width), dtype=np.float32)
    gradient, clouds = np.zeros((2, (height + 1) // 2, (width + 1) // 2), dtype=np.float32)
    _locate(view, depth, weather.fog_m, fine_noise(), smooth_noise(), anchor[0], anchor[1], fog, grain)
    _sky(view, smooth_noise(), weather.cloudiness, gradient, clouds)
    _color(
        view,
        depth,
        ids,
        surfaces,
        instances,
        weather,
        ground_table(),
        smooth_noise(),
        anchor,
        fog,
        grain,
        gradient,
        clouds,
        rgb,
        hits,
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _locate(
    view: View,
    depth: F32,
    fog_m: float,
    fine: F32,
    smooth: F32,
    anchor_x: np.float32,
    anchor_y: np.float32,
    fog: F32,
    grain: F32,
) -> None:
    """Share of fog, and grain of the ground in -1 .. 1, at each pixel. Grain fades where it would be finer than a pixel."""
    r, p = view.rotation, view.position
    x1, y1 = np.float32(2.0 * r[0, 0] / view.fx), np.float32(2.0 * r[0, 1] / view.fx)
    px, py = np.float32(p[0]) + anchor_x, np.float32(p[1]) + anchor_y
    reach, zero, half, one = np.float32(fog_m), np.float32(0.0), np.float32(0.5), np.float32(1.0)
    fine_scale, smooth_scale, wrap, wide = np.float32(18.0), np.float32(4.8), np.int32(MASK), np.int32(WIDE_MASK)
    width = fog.shape[1]
    east, north, far = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(fog.shape[0]):
        left, down = (1.0 - view.cx) / view.fx, (2 * y + 1 - view.cy) / view.fy
        x0 = np.float32(r[0, 0] * left + r[1, 0] * down + r[2, 0])
        y0 = np.float32(r[0, 1] * left + r[1, 1] * down + r[2, 1])
        inverse_row, fog_row, grain_row = depth[2 * y], fog[y], grain[y]
        for x in range(width):
            inverse = max(inverse_row[2 * x], np.float32(1e-3))
            z = one / inverse
            # 1 - 1 / (1 + q + q^2 / 2) with q = distance / fog_m, written without dividing by 1/z first
            near = inverse * reach
            fog_row[x] = (near + half) / (near * near + near + half)
            east[x] = px + (x0 + x1 * np.float32(x)) * z
            north[x] = py + (y0 + y1 * np.float32(x)) * z
            far[x] = z
        dip = r[0, 2] * left + r[1, 2] * down + r[2, 2]
        if min(dip, dip + 2.0 * r[0, 2] / view.fx * (width - 1)) >= 0.0:
            continue  # above the horizon: no ground here
        for x in range(width):
            # unsigned indices: numba then skips its test for negative ones
            i, j = (
                np.uint32(np.int32(east[x] * smooth_scale) & wide),
                np.uint32(np.int32(north[x] * smooth_scale) & wide),
            )
            grain_row[x] = smooth[i, j] * max(zero, half - far[x] * np.float32(1 / 300))
        if far.min() < np.float32(24.0):
            for x in range(width):
                i, j = (
                    np.uint32(np.int32(east[x] * fine_scale) & wrap),
                    np.uint32(np.int32(north[x] * fine_scale) & wrap),
                )
                grain_row[x] += fine[i, j] * max(zero, one - far[x] * np.float32(1 / 24))


@njit(cache=True, error_model="numpy", nogil=True)
def _sky(view: View, smooth: F32, cloudiness: float, gradient: F32, clouds: F32) -> None:
    """How far up from horizon to zenith, and cover of clouds, at every second pixel of every second row."""
    r = view.rotation
    x1, y1, z1 = (
        np.float32(4.0 * r[0, 0] / view.fx),
        np.float32(4.0 * r[0, 1] / view.fx),
        np.float32(4.0 * r[0, 2] / view.fx),
    )
    zero, one, two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
    cover = np.float32(cloudiness - 0.5)
    for y in range(gradient.shape[0]):
        left, down = (2.0 - view.cx) / view.fx, (4 * y + 2 - view.cy) / view.fy
        x0 = np.float32(r[0, 0] * left + r[1, 0] * down + r[2, 0])
        y0 = np.float32(r[0, 1] * left + r[1, 1] * down + r[2, 1])
        z0 = np.float32(r[0, 2] * left + r[1, 2] * down + r[2, 2])
        if max(z0, z0 + z1 * np.float32(gradient.shape[1])) < np.float32(-0.01):  # all below the horizon
            continue
        gradient_row, cloud_row = gradient[y], clouds[y]
        for x in range(gradient_row.size):
            dx, dy, dz = x0 + x1 * np.float32(x), y0 + y1 * np.float32(x), max(zero, z0 + z1 * np.float32(x))
            up = dz / np.sqrt(dx * dx + dy * dy + dz * dz)
            part = min(one, up * np.float32(2.6))
            gradient_row[x] = part * (two - part)
            reach = np.float32(42.0) / (dz + np.float32(0.10))  # a layer that bends down to the horizon
            thick = _between(smooth, dx * reach + np.float32(4096.0), dy * reach + np.float32(4096.0))
            thick = min(one, max(zero, (thick + cover) * np.float32(1.6)))
            cloud_row[x] = thick * min(one, up * np.float32(9.0)) * np.float32(0.8)


@njit(cache=True, error_model="numpy", nogil=True)
def _color(
    view: View,
    depth: F32,
    ids: I32,
    surfaces: Surfaces,
    instances: Instances,
    weather: Weather,
    table: F32,
    smooth: F32,
    anchor: F32,
    fogs: F32,
    grains: F32,
    gradient: F32,
    clouds: F32,
    rgb: np.ndarray,
    hits: I32,
) -> None:
    """Every pixel's colour. Subsamples of one surface share theirs."""
    r, p = view.rotation, view.position
    fog_m, half, one, quarter = np.float32(weather.fog_m), np.float32(0.5), np.float32(1.0), np.float32(0.25)
    horizon, zenith, cloud, shade = weather.horizon, weather.zenith, weather.cloud, weather.shade
    # locals, because a look into a tuple of arrays costs more than all else that happens to a pixel
    face_rgb, face_glow, face_material = surfaces.rgb, surfaces.glow, surfaces.material
    face_instance, face_sideways, thing_of = surfaces.instance, surfaces.sideways, instances.thing
    position, heading, scale, palette = instances.position, instances.heading, instances.scale, instances.palette
    for y in range(rgb.shape[0]):
        upper, lower = ids[2 * y], ids[2 * y + 1]
        for x in range(rgb.shape[1]):
            first = upper[2 * x]
            same = first == upper[2 * x + 1] and first == lower[2 * x] and first == lower[2 * x + 1]
            red_sum = green_sum = blue_sum = half  # rounds
            red = green = blue = np.float32(0.0)
            last = -1
            for k in range(1 if same else 4):
                row, column = 2 * y + (k >> 1), 2 * x + (k & 1)
                code = ids[row, column]
                is_face = FIRST_FACE <= code < SHADOW
                if is_face:
                    thing = thing_of[face_instance[code - FIRST_FACE]]
                    if thing >= 0:
                        hits[thing] += 4 if same else 1
                if code != last or (is_face and face_material[code - FIRST_FACE] != PLAIN):
                    last = code
                    if code == SKY:
                        part, cover = gradient[y >> 1, x >> 1], clouds[y >> 1, x >> 1]
                        red = horizon[0] + (zenith[0] - horizon[0]) * part
                        green = horizon[1] + (zenith[1] - horizon[1]) * part
                        blue = horizon[2] + (zenith[2] - horizon[2]) * part
                        red, green, blue = (
                            red + (cloud[0] - red) * cover,
                            green + (cloud[1] - green) * cover,
                            blue + (cloud[2] - blue) * cover,
                        )
                    else:
                        inverse = max(depth[row, column], np.float32(1e-4))
                        fog = fogs[y, x]
                        if not same:
                            near = inverse * fog_m
                            fog = (near + half) / (near * near + near + half)
                        if not is_face:
                            ground = code & (FIRST_FACE - 1)
                            grain = one + table[ground, 3] * grains[y, x]
                            red, green, blue = (
                                table[ground, 0] * grain,
                                table[ground, 1] * grain,
                                table[ground, 2] * grain,
                            )
                            if code >= SHADOW:
                                red, green, blue = red * shade[0], green * shade[1], blue * shade[2]
                        else:
                            face = code - FIRST_FACE
                            red, green, blue = face_rgb[face, 0], face_rgb[face, 1], face_rgb[face, 2]
                            fog *= one - np.float32(0.75) * face_glow[face]  # lamps pierce the fog
                            material = face_material[face]
                            if material != PLAIN:
                                across, down = (column + 0.5 - view.cx) / view.fx, (row + 0.5 - view.cy) / view.fy
                                z = 1.0 / inverse
                                wx = p[0] + (r[0, 0] * across + r[1, 0] * down + r[2, 0]) * z
                                wy = p[1] + (r[0, 1] * across + r[1, 1] * down + r[2, 1]) * z
                                up = p[2] + (r[0, 2] * across + r[1, 2] * down + r[2, 2]) * z
                            if material == LEAVES:
                                lx, ly = (wx + anchor[0] + 0.6 * up) * 14.4, (wy + anchor[1] - 0.8 * up) * 14.4
                                fade = max(0.0, 0.26 - 0.0033 * z)
                                grain = one + np.float32(fade) * smooth[int(lx) & WIDE_MASK, int(ly) & WIDE_MASK]
                                red, green, blue = red * grain, green * grain, blue * grain
                            elif material == FACADE:
                                o = face_instance[face]
                                wx, wy = wx - position[o, 0], wy - position[o, 1]
                                c, s = heading[o, 0], heading[o, 1]
                                turned = face_sideways[face] == 0
                                along = c * wy - s * wx if turned else c * wx + s * wy
                                wall = scale[o, 1 if turned else 0]
                                share, tone = _window(
                                    smooth, np.float32(along), wall, np.float32(up), scale[o, 2], int(palette[o, 3, 0]),
                                    np.float32(0.5 * view.fx * inverse),
                                )  # fmt: skip
                                red += (palette[o, 1, 0] * tone - red) * share
                                green += (palette[o, 1, 1] * tone - green) * share
                                blue += (palette[o, 1, 2] * tone - blue) * share
                        red += (horizon[0] - red) * fog
                        green += (horizon[1] - green) * fog
                        blue += (horizon[2] - blue) * fog
                weight = one if same else quarter
                red_sum += red * weight
                green_sum += green * weight
                blue_sum += blue * weight
            rgb[y, x, 0] = np.uint8(min(red_sum, np.float32(255.0)))
            rgb[y, x, 1] = np.uint8(min(green_sum, np.float32(255.0)))
            rgb[y, x, 2] = np.uint8(min(blue_sum, np.float32(255.0)))


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _window(
    smooth: F32,
    along: np.float32,
    wall_m: np.float32,
    up: np.float32,
    tall_m: np.float32,
    house: int,
    pixels_per_m: np.float32,
) -> tuple[np.float32, np.float32]:
    """Share and brightness of window glass at a place on a wall: `along` its width from the middle, `up` from its foot."""
    zero, one, half = np.float32(0.0), np.float32(1.0), np.float32(0.5)
    bays = max(one, np.floor(wall_m * np.float32(1 / BAY_M)))
    floors = max(one, np.floor(tall_m * np.float32(1 / FLOOR_M)))
    bay, floor = (along / wall_m + half) * bays, up / tall_m * floors
    bay_index, floor_index = np.floor(bay), np.floor(floor)
    bay -= bay_index
    floor -= floor_index
    shops = floor_index == zero and floors > np.float32(2.0)
    low = np.float32(0.06) if shops else np.float32(0.28)
    high = np.float32(0.80) if shops else np.float32(0.82)
    side = np.float32(0.07) if shops else np.float32(0.20)
    # the share of a pixel's square that is inside, edges as ramps one pixel wide
    wide, tall = pixels_per_m * wall_m / bays, pixels_per_m * tall_m / floors
    over_x = min(one, max(zero, (bay - side) * wide + half)) * min(one, max(zero, (one - side - bay) * wide + half))
    over_y = min(one, max(zero, (floor - low) * tall + half)) * min(one, max(zero, (high - floor) * tall + half))
    sharp = min(one, max(zero, wide * np.float32(0.5) - one))  # below four pixels a window melts into the wall
    share = over_x * over_y * sharp + (one - sharp) * (high - low) * (one - side - side)
    lit = smooth[(int(bay_index) * 37 + house) & WIDE_MASK, (int(floor_index) * 53 + house) & WIDE_MASK]
    tone = np.float32(0.92) + np.float32(0.30) * lit + np.float32(0.22) * floor
    if sharp > np.float32(0.9) and (abs(bay - half) < np.float32(0.014) or floor > high - np.float32(0.03)):
        tone *= np.float32(0.84)  # its frame
    return share, tone


@njit(cache=True, error_model="numpy", nogil=True, inline="always")
def _between(smooth: F32, x: np.float32, y: np.float32) -> np.float32:
    """The texture between its points, wrapped."""
    low_x, low_y = np.floor(x), np.floor(y)
    a, b = x - low_x, y - low_y
    wrap, one = np.int32(WIDE_MASK), np.int32(1)
    i, j = np.int32(low_x), np.int32(low_y)
    i0, j0 = np.uint32(i & wrap), np.uint32(j & wrap)  # unsigned: numba then skips its test for negative indices
    i1, j1 = np.uint32((i + one) & wrap), np.uint32((j + one) & wrap)
    low = smooth[i0, j0] + (smooth[i1, j0] - smooth[i0, j0]) * a
    high = smooth[i0, j1] + (smooth[i1, j1] - smooth[i0, j1]) * a
    return low + (high - low) * b
