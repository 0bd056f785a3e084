"""Polygons to pixels: a z-buffer with an id buffer, in numba.

`rasterise` answers, for every subsample of an image, which surface is in front and how far away it is; `shading.paint`
turns that into colours. Order: sky and ground plane, ground polygons (flat, painter's order), shadows (a bit on the
ground ids), then instances of meshes against the depth buffer. Depth is kept as 1/z, which is linear on the screen.

Everything is in metres relative to the ego's rear axle with the map's axes: float32 would be too coarse for map
coordinates, which may be millions of metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SKY, GRASS = 0, 1  # ids of what is everywhere; other ground materials follow
FIRST_FACE = 32  # ids from here on are faces of instances, in drawing order
SHADOW = 1 << 30  # bit of a ground id that lies in shadow
MAX_CORNERS = 10  # of a face
N_SLOTS = 8  # colours that an instance brings along
NEAR_M = 0.15  # chosen by us: nothing nearer than this is drawn
SHADOW_RANGE_M = 110.0  # chosen by us: at this distance a car's shadow is two pixels high

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


class View(NamedTuple):
    """A camera, on the grid of subsamples. position (3,), rotation (3, 3) world to camera, both float64."""

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    fx: float
    fy: float
    cx: float
    cy: float


class Ground(NamedTuple):
    """Flat convex polygons, bottom layer first. corners (M, 4, 2), a triangle repeats its last; material (M,)."""

    corners: F32
    material: I32


class Meshes(NamedTuple):
    """Faces of all meshes of a frame, in each mesh's own frame. corners (F, MAX_CORNERS, 3), n_corners (F,),
    normal (F, 3), rgb (F, 3) 0..255, slot (F,): colour of the instance to use or -1, glow (F,) 0..1, material (F,),
    casts (F,) 1 where the face throws a shadow."""

    corners: F32
    n_corners: I32
    normal: F32
    rgb: F32
    slot: I32
    glow: F32
    material: I32
    casts: I32


class Instances(NamedTuple):
    """Meshes put somewhere, nearest first. first, n_faces (N,): its faces; position (N, 3); heading (N, 2): cos, sin;
    scale (N, 3); radius (N,) of the sphere around its middle, which is at (N, 3) centre; palette (N, N_SLOTS, 4):
    rgb and glow; thing (N,): index into what the image reports as seen, or -1."""

    first: I32
    n_faces: I32
    position: F32
    heading: F32
    scale: F32
    centre: F32
    radius: F32
    palette: F32
    thing: I32


class Surfaces(NamedTuple):
    """What was drawn: row k describes id FIRST_FACE + k. rgb (D, 3) lit, glow (D,), material (D,), instance (D,),
    sideways (D,): 1 where the face looks along the instance's y axis."""

    rgb: F32
    glow: F32
    material: I32
    instance: I32
    sideways: I32


class Light(NamedTuple):
    """sun (3,): unit vector towards it. Brightness = ambient (+ sky from above) + direct on what faces the sun."""

    sun: NDArray[np.float64]
    ambient: float
    sky: float
    direct: float


@njit(cache=True, error_model="numpy", nogil=True)
def rasterise(
    view: View,
    ground: Ground,
    meshes: Meshes,
    instances: Instances,
    light: Light,
    range_m: float,
    depth: F32,
    ids: I32,
    surfaces: Surfaces,
) -> int:
    """Fill depth (H, W) with 1/z, 0 for sky, and ids (H, W); returns how many rows of `surfaces` are in use."""
    _fill_plane(view, depth, ids)
    height, width = depth.shape
    tan_x = max(view.cx, width - view.cx) / view.fx
    tan_y = max(view.cy, height - view.cy) / view.fy
    work = np.empty((6, MAX_CORNERS + 3))
    _draw_ground(view, ground, work, depth, ids)
    if light.direct > 0.0:
        _draw_shadows(view, meshes, instances, light, tan_x, tan_y, work, depth, ids)
    return _draw_instances(view, meshes, instances, light, tan_x, tan_y, range_m, work, depth, ids, surfaces)


@njit(cache=True, error_model="numpy", nogil=True)
def _fill_plane(view: View, depth: F32, ids: I32) -> None:
    """Sky above the horizon, grass below it: 1/z of the plane z = 0 is linear in the pixel."""
    height, width = depth.shape
    r = view.rotation
    down = -1.0 / view.position[2]
    right = np.float32(r[0, 2] / view.fx * down)
    for y in range(height):
        start = np.float32(
            ((0.5 - view.cx) / view.fx * r[0, 2] + (y + 0.5 - view.cy) / view.fy * r[1, 2] + r[2, 2]) * down
        )
        depth_row = depth[y]
        id_row = ids[y]
        for x in range(width):
            inverse = start + np.float32(x) * right
            above = inverse <= np.float32(0.0)
            depth_row[x] = np.float32(0.0) if above else inverse
            id_row[x] = SKY if above else GRASS


@njit(cache=True, error_model="numpy", nogil=True)
def _draw_ground(view: View, ground: Ground, work: NDArray[np.float64], depth: F32, ids: I32) -> None:
    height, width = depth.shape
    r, p = view.rotation, view.position
    dz = -p[2]
    for f in range(ground.corners.shape[0]):
        for i in range(4):
            dx, dy = ground.corners[f, i, 0] - p[0], ground.corners[f, i, 1] - p[1]
            work[0, i] = r[0, 0] * dx + r[0, 1] * dy + r[0, 2] * dz
            work[1, i] = r[1, 0] * dx + r[1, 1] * dy + r[1, 2] * dz
            work[2, i] = r[2, 0] * dx + r[2, 1] * dy + r[2, 2] * dz
        n = _to_screen(view, work, 4, width, height)
        if n >= 3:
            _fill_flat(work, n, ids, ground.material[f], False)


@njit(cache=True, error_model="numpy", nogil=True)
def _draw_shadows(
    view: View,
    meshes: Meshes,
    instances: Instances,
    light: Light,
    tan_x: float,
    tan_y: float,
    work: NDArray[np.float64],
    depth: F32,
    ids: I32,
) -> None:
    """Every face that casts and looks at the sun, slid along the light down to the ground."""
    height, width = depth.shape
    r, p = view.rotation, view.position
    slide_x, slide_y = light.sun[0] / light.sun[2], light.sun[1] / light.sun[2]
    stretch = 1.0 / light.sun[2]
    for o in range(instances.first.shape[0]):
        centre = instances.centre[o]
        cx, cy = centre[0] - centre[2] * slide_x - p[0], centre[1] - centre[2] * slide_y - p[1]
        radius = instances.radius[o] * stretch
        if np.sqrt(cx * cx + cy * cy) - radius > SHADOW_RANGE_M:
            continue
        if not _in_sight(r, cx, cy, -p[2], radius, tan_x, tan_y, SHADOW_RANGE_M):
            continue
        position, scale = instances.position[o], instances.scale[o]
        c, s = instances.heading[o, 0], instances.heading[o, 1]
        sun_x, sun_y = (
            (c * light.sun[0] + s * light.sun[1]) / scale[0],
            (c * light.sun[1] - s * light.sun[0]) / scale[1],
        )
        sun_z = light.sun[2] / scale[2]
        for f in range(instances.first[o], instances.first[o] + instances.n_faces[o]):
            if meshes.casts[f] == 0:
                continue
            if meshes.normal[f, 0] * sun_x + meshes.normal[f, 1] * sun_y + meshes.normal[f, 2] * sun_z <= 0.0:
                continue
            n = meshes.n_corners[f]
            for i in range(n):
                lx, ly = meshes.corners[f, i, 0] * scale[0], meshes.corners[f, i, 1] * scale[1]
                z = meshes.corners[f, i, 2] * scale[2] + position[2]
                dx = position[0] + c * lx - s * ly - z * slide_x - p[0]
                dy = position[1] + s * lx + c * ly - z * slide_y - p[1]
                dz = -p[2]
                work[0, i] = r[0, 0] * dx + r[0, 1] * dy + r[0, 2] * dz
                work[1, i] = r[1, 0] * dx + r[1, 1] * dy + r[1, 2] * dz
                work[2, i] = r[2, 0] * dx + r[2, 1] * dy + r[2, 2] * dz
            n = _to_screen(view, work, n, width, height)
            if n >= 3:
                _fill_flat(work, n, ids, 0, True)


@njit(cache=True, error_model="numpy", nogil=True)
def _draw_instances(
    view: View,
    meshes: Meshes,
    instances: Instances,
    light: Light,
    tan_x: float,
    tan_y: float,
    range_m: float,
    work: NDArray[np.float64],
    depth: F32,
    ids: I32,
    surfaces: Surfaces,
) -> int:
    height, width = depth.shape
    r, p = view.rotation, view.position
    m = np.empty((3, 3))
    drawn = 0
    for o in range(instances.first.shape[0]):
        centre = instances.centre[o]
        if not _in_sight(
            r, centre[0] - p[0], centre[1] - p[1], centre[2] - p[2], instances.radius[o], tan_x, tan_y, range_m
        ):
            continue
        position, scale = instances.position[o], instances.scale[o]
        c, s = instances.heading[o, 0], instances.heading[o, 1]
        tx, ty, tz = position[0] - p[0], position[1] - p[1], position[2] - p[2]
        # the eye in the mesh's own frame decides which faces look at it
        eye_x, eye_y, eye_z = -(c * tx + s * ty) / scale[0], -(c * ty - s * tx) / scale[1], -tz / scale[2]
        for i in range(3):
            m[i, 0] = (r[i, 0] * c + r[i, 1] * s) * scale[0]
            m[i, 1] = (r[i, 1] * c - r[i, 0] * s) * scale[1]
            m[i, 2] = r[i, 2] * scale[2]
        ox = r[0, 0] * tx + r[0, 1] * ty + r[0, 2] * tz
        oy = r[1, 0] * tx + r[1, 1] * ty + r[1, 2] * tz
        oz = r[2, 0] * tx + r[2, 1] * ty + r[2, 2] * tz
        for f in range(instances.first[o], instances.first[o] + instances.n_faces[o]):
            nx, ny, nz = meshes.normal[f, 0], meshes.normal[f, 1], meshes.normal[f, 2]
            first = meshes.corners[f, 0]
            if nx * (eye_x - first[0]) + ny * (eye_y - first[1]) + nz * (eye_z - first[2]) <= 1e-5:
                continue
            n = meshes.n_corners[f]
            for i in range(n):
                x, y, z = meshes.corners[f, i, 0], meshes.corners[f, i, 1], meshes.corners[f, i, 2]
                work[0, i] = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + ox
                work[1, i] = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + oy
                work[2, i] = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + oz
            n = _to_screen(view, work, n, width, height)
            if n < 3 or not _fill(work, n, depth, ids, FIRST_FACE + drawn):
                continue
            slot = meshes.slot[f]
            glow = meshes.glow[f]
            red, green, blue = meshes.rgb[f, 0], meshes.rgb[f, 1], meshes.rgb[f, 2]
            if slot >= 0:
                red, green, blue = (
                    instances.palette[o, slot, 0],
                    instances.palette[o, slot, 1],
                    instances.palette[o, slot, 2],
                )
                glow = instances.palette[o, slot, 3]
            wx, wy, wz = nx / scale[0], ny / scale[1], nz / scale[2]
            wx, wy = c * wx - s * wy, s * wx + c * wy
            to_sun = (wx * light.sun[0] + wy * light.sun[1] + wz * light.sun[2]) / np.sqrt(wx * wx + wy * wy + wz * wz)
            up = wz / np.sqrt(wx * wx + wy * wy + wz * wz)
            bright = light.ambient + light.sky * up + light.direct * max(0.0, to_sun)
            bright = bright * (1.0 - glow) + glow
            surfaces.rgb[drawn, 0] = red * bright
            surfaces.rgb[drawn, 1] = green * bright
            surfaces.rgb[drawn, 2] = blue * bright
            surfaces.glow[drawn] = glow
            surfaces.material[drawn] = meshes.material[f]
            surfaces.instance[drawn] = o
            surfaces.sideways[drawn] = 1 if abs(ny) > abs(nx) else 0
            drawn += 1
    return drawn


@njit(cache=True, error_model="numpy", nogil=True)
def _in_sight(
    r: NDArray[np.float64], dx: float, dy: float, dz: float, radius: float, tan_x: float, tan_y: float, range_m: float
) -> bool:
    """Whether a sphere at this offset from the camera may show."""
    z = r[2, 0] * dx + r[2, 1] * dy + r[2, 2] * dz
    if z < NEAR_M - radius or z > range_m + radius:
        return False
    x = r[0, 0] * dx + r[0, 1] * dy + r[0, 2] * dz
    y = r[1, 0] * dx + r[1, 1] * dy + r[1, 2] * dz
    return abs(x) <= tan_x * z + radius * np.sqrt(1.0 + tan_x * tan_x) and abs(y) <= tan_y * z + radius * np.sqrt(
        1.0 + tan_y * tan_y
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _to_screen(view: View, work: NDArray[np.float64], n: int, width: int, height: int) -> int:
    """Camera points in rows 0-2 of `work` to screen x, y and 1/z in rows 3-5, clipped at the near plane.

    Returns the number of corners, 0 where nothing can be on the image."""
    behind = left = right = above = below = 0
    for i in range(n):
        x, y, z = view.fx * work[0, i], view.fy * work[1, i], work[2, i]
        behind += z < NEAR_M
        left += x < -view.cx * z
        right += x > (width - view.cx) * z
        above += y < -view.cy * z
        below += y > (height - view.cy) * z
    if behind == n or left == n or right == n or above == n or below == n:
        return 0
    count = 0
    for i in range(n):
        z = work[2, i]
        if z >= NEAR_M:
            inverse = 1.0 / z
            work[3, count] = work[0, i] * view.fx * inverse + view.cx
            work[4, count] = work[1, i] * view.fy * inverse + view.cy
            work[5, count] = inverse
            count += 1
        if behind > 0:
            j = i + 1 if i + 1 < n else 0
            if (z >= NEAR_M) != (work[2, j] >= NEAR_M):
                part = (NEAR_M - z) / (work[2, j] - z)
                inverse = 1.0 / NEAR_M
                work[3, count] = (work[0, i] + part * (work[0, j] - work[0, i])) * view.fx * inverse + view.cx
                work[4, count] = (work[1, i] + part * (work[1, j] - work[1, i])) * view.fy * inverse + view.cy
                work[5, count] = inverse
                count += 1
    return count


@njit(cache=True, error_model="numpy", nogil=True)
def _rows(work: NDArray[np.float64], n: int, height: int) -> tuple[int, int]:
    """First and last pixel row whose centre the polygon may cover."""
    top, bottom = work[4, 0], work[4, 0]
    for i in range(1, n):
        top, bottom = min(top, work[4, i]), max(bottom, work[4, i])
    top, bottom = max(top, 0.0), min(bottom, float(height))
    return int(np.ceil(top - 0.5)), int(np.ceil(bottom - 0.5)) - 1


@njit(cache=True, error_model="numpy", nogil=True)
def _span(work: NDArray[np.float64], n: int, y: float, width: int) -> tuple[int, int]:
    """First and last pixel of a convex polygon on the line y."""
    left, right = 1e30, -1e30
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        y1, y2 = work[4, i], work[4, j]
        if (y1 <= y) != (y2 <= y):
            x = work[3, i] + (y - y1) * (work[3, j] - work[3, i]) / (y2 - y1)
            left, right = min(left, x), max(right, x)
    left, right = min(max(left, 0.0), width + 1.0), max(min(right, float(width)), -1.0)
    return int(np.ceil(left - 0.5)), int(np.ceil(right - 0.5)) - 1


@njit(cache=True, error_model="numpy", nogil=True)
def _fill_flat(work: NDArray[np.float64], n: int, ids: I32, material: int, shadow: bool) -> None:
    """A polygon on the ground, whose depth is known already."""
    height, width = ids.shape
    first, last = _rows(work, n, height)
    for y in range(first, last + 1):
        left, right = _span(work, n, y + 0.5, width)
        row = ids[y]
        if shadow:
            for x in range(left, right + 1):
                row[x] |= SHADOW
        else:
            for x in range(left, right + 1):
                row[x] = material


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(work: NDArray[np.float64], n: int, depth: F32, ids: I32, face: int) -> bool:
    """A polygon against the depth buffer; whether it covers any subsample's centre."""
    height, width = ids.shape
    x0, y0, z0 = work[3, 0], work[4, 0], work[5, 0]
    best, at = 0.0, 1  # the fan triangle of the largest area gives the most exact plane of 1/z
    for i in range(1, n - 1):
        area = (work[3, i] - x0) * (work[4, i + 1] - y0) - (work[3, i + 1] - x0) * (work[4, i] - y0)
        if abs(area) > abs(best):
            best, at = area, i
    if abs(best) < 1e-9:
        return False
    ax, ay, az = work[3, at] - x0, work[4, at] - y0, work[5, at] - z0
    bx, by, bz = work[3, at + 1] - x0, work[4, at + 1] - y0, work[5, at + 1] - z0
    along_x, along_y = (az * by - bz * ay) / best, (ax * bz - bx * az) / best
    step = np.float32(along_x)
    first, last = _rows(work, n, height)
    any_pixel = False
    for y in range(first, last + 1):
        left, right = _span(work, n, y + 0.5, width)
        if right < left:
            continue
        any_pixel = True
        start = np.float32(z0 + (left + 0.5 - x0) * along_x + (y + 0.5 - y0) * along_y)
        depth_row, id_row = depth[y, left : right + 1], ids[y, left : right + 1]
        for x in range(right + 1 - left):
            z = start + np.float32(x) * step
            nearer = z > depth_row[x]
            depth_row[x] = z if nearer else depth_row[x]
            id_row[x] = face if nearer else id_row[x]
    return any_pixel
