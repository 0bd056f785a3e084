"""Cars, vans, trucks and buses, built to the size of their box."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from nsdrive.cameras.mesh import LEFT_LAMP, PAINT, RIGHT_LAMP, STOP_LAMP, Color, Mesh, MeshBuilder

GLASS: Color = (52, 64, 78)
TYRE: Color = (30, 30, 32)
RIM: Color = (150, 152, 156)
TRIM: Color = (44, 45, 48)
HEADLAMP: Color = (252, 248, 226)
PLATE: Color = (232, 232, 224)
# rgb of paint; whites, greys and blacks lead on real roads too
PAINTS: tuple[Color, ...] = (
    (232, 233, 235), (202, 205, 208), (150, 154, 158), (92, 96, 102), (54, 56, 62), (32, 62, 118), (172, 32, 38),
    (58, 108, 152), (118, 26, 36), (46, 92, 68), (216, 168, 44), (196, 112, 52), (166, 146, 118), (78, 126, 164),
)  # fmt: skip


def vehicle_shape(length_m: float, width_m: float, height_m: float, number: int) -> str:
    """sedan, hatch, suv, van, truck or bus: what a vehicle of this size most likely is; `number` decides what size leaves open."""
    if length_m > 9.0:
        return "bus" if number % 3 == 0 or length_m < 10.0 else "truck"
    if length_m > 6.0 and height_m > 2.4:
        return "truck" if number % 3 else "bus"
    if height_m > 1.95 or length_m > 6.0:
        return "van"
    if height_m > 1.62:
        return "suv"
    return "hatch" if length_m < 4.2 or number % 4 == 0 else "sedan"


@functools.lru_cache(maxsize=1024)
def vehicle_mesh(shape: str, length_m: float, width_m: float, height_m: float) -> Mesh:
    """A vehicle of this shape and size; its slots are PAINT, STOP_LAMP, LEFT_LAMP and RIGHT_LAMP."""
    m = MeshBuilder()
    BUILDERS[shape](m, length_m, width_m, height_m)
    return m.build()


def _car(m: MeshBuilder, length: float, width: float, height: float, *, shape: str) -> None:
    h, w = length / 2, width / 2
    belt = (0.60 if shape == "suv" else 0.62) * height
    sill = 0.13 * height
    nose = {"sedan": 0.80, "hatch": 0.84, "suv": 0.90}[shape] * belt
    # body: one convex outline below the belt line, a little narrower at the sill
    cowl, tail = 0.38 * h, -0.97 * h
    outline = [(-0.97 * h, sill), (0.97 * h, sill), (h, 0.55 * nose), (0.985 * h, 0.86 * nose), (0.88 * h, 0.97 * nose),
               (cowl, belt), (tail, 0.985 * belt), (-h, 0.80 * belt), (-h, 0.5 * belt)]  # fmt: skip
    m.extrude(outline, (-w, w), slot=PAINT)
    m.extrude([(-0.99 * h, sill), (0.99 * h, sill), (1.004 * h, 0.20 * height), (-1.004 * h, 0.20 * height)],
              (-w * 1.005, w * 1.005), TRIM)  # fmt: skip
    # cabin
    front, rear = {"sedan": (0.06, -0.44), "hatch": (0.08, -0.76), "suv": (0.12, -0.86)}[shape]
    tail_base = {"sedan": -0.74, "hatch": -0.95, "suv": -0.965}[shape]
    inner = 0.80 * w
    base = [
        (cowl, -0.965 * w, belt),
        (cowl, 0.965 * w, belt),
        (tail_base * h, 0.965 * w, belt),
        (tail_base * h, -0.965 * w, belt),
    ]
    top, back, ahead = 0.985 * height, rear * h, front * h
    roof = [(ahead, -inner, top), (ahead, inner, top), (back, inner, top), (back, -inner, top)]
    for i in range(4):
        j = (i + 1) % 4
        quad = [base[i], base[j], roof[j], roof[i]]
        m.face(quad, slot=PAINT)
        if i == 0:  # windscreen
            m.plate(quad, GLASS, margin=(0.02, 0.045, 0.05, 0.045))
        elif i == 2:  # rear window
            m.plate(quad, GLASS, margin=(0.10, 0.07, 0.10, 0.07))
            m.plate(quad, slot=STOP_LAMP, margin=(0.84, 0.36, 0.06, 0.36), lift_m=0.03)
        else:  # side windows, with a pillar between them
            m.plate(quad, GLASS, margin=(0.05, 0.53, 0.10, 0.05))
            m.plate(quad, GLASS, margin=(0.05, 0.06, 0.10, 0.51))
    m.face(roof, slot=PAINT)
    m.box((back, ahead), (-0.9 * inner, 0.9 * inner), (top, height), slot=PAINT, taper=0.86)
    radius = min(0.36, 0.235 * height)
    for x in (0.60 * h, -0.60 * h):
        for side in (1, -1):
            _wheel(m, x, side * w, radius, side)
    for side in (1, -1):  # mirrors
        m.box(
            (cowl - 0.25, cowl - 0.08),
            _span(side, w, w + 0.17),
            (belt, belt + 0.14),
            slot=PAINT,
            bottom=True,
            casts=False,
        )
    z = 0.66 * nose
    for side in (1, -1):
        _lamp(m, h, side, (0.60 * w, 0.94 * w), (z, z + 0.13), HEADLAMP, glow=0.55)
        _lamp(m, -h, side, (0.56 * w, 0.985 * w), (0.56 * belt, 0.56 * belt + 0.20), slot=STOP_LAMP)
        _indicators(m, h, w, side, z - 0.09, 0.56 * belt + 0.02)
    m.plate(
        [
            (h, -0.62 * w, 0.30 * nose),
            (h, 0.62 * w, 0.30 * nose),
            (h, 0.62 * w, 0.56 * nose),
            (h, -0.62 * w, 0.56 * nose),
        ],
        TRIM,
        lift_m=0.015,
    )
    m.plate(
        [
            (-h, 0.26, 0.36 * belt),
            (-h, -0.26, 0.36 * belt),
            (-h, -0.26, 0.36 * belt + 0.13),
            (-h, 0.26, 0.36 * belt + 0.13),
        ],
        PLATE,
        lift_m=0.02,
    )


def _van(m: MeshBuilder, length: float, width: float, height: float) -> None:
    h, w, sill = length / 2, width / 2, 0.14 * height
    belt, cab = 0.50 * height, 0.52 * h
    outline = [(-h, sill), (0.97 * h, sill), (h, 0.28 * height), (0.97 * h, 0.44 * height), (0.80 * h, belt),
               (cab, 0.94 * height), (0.42 * h, height), (-0.98 * h, height), (-h, 0.97 * height)]  # fmt: skip
    m.extrude(outline, (-w, w), slot=PAINT)
    skirt = 0.22 * height
    m.extrude(
        [(-1.003 * h, sill), (0.99 * h, sill), (1.004 * h, skirt), (-1.003 * h, skirt)], (-1.004 * w, 1.004 * w), TRIM
    )
    m.plate(
        [(0.80 * h, -w, belt), (0.80 * h, w, belt), (cab, w, 0.94 * height), (cab, -w, 0.94 * height)],
        GLASS,
        margin=(0.06, 0.06, 0.04, 0.06),
    )
    for side in (1, -1):
        corners = [
            (0.70 * h, side * w, 1.04 * belt),
            (0.30 * h, side * w, 1.04 * belt),
            (0.30 * h, side * w, 0.86 * height),
            (0.56 * h, side * w, 0.86 * height),
        ]
        m.plate(corners if side > 0 else corners[::-1], GLASS)
        _wheel(m, 0.64 * h, side * w, 0.36, side)
        _wheel(m, -0.60 * h, side * w, 0.36, side)
        m.box((0.66 * h, 0.72 * h), _span(side, w, w + 0.2), (belt, belt + 0.3), TRIM, bottom=True, casts=False)
        _lamp(m, h, side, (0.62 * w, 0.95 * w), (0.31 * height, 0.31 * height + 0.2), HEADLAMP, glow=0.55)
        _lamp(m, -h, side, (0.76 * w, 0.985 * w), (0.34 * height, 0.34 * height + 0.36), slot=STOP_LAMP)
        _indicators(m, h, w, side, 0.27 * height, 0.27 * height)
    for left, right in ((0.86 * w, 0.06), (-0.06, -0.86 * w)):  # rear doors
        m.plate(
            [
                (-h, left, 0.56 * height),
                (-h, right, 0.56 * height),
                (-h, right, 0.86 * height),
                (-h, left, 0.86 * height),
            ],
            GLASS,
        )
    m.plate(
        [
            (-h, 0.012, 0.24 * height),
            (-h, -0.012, 0.24 * height),
            (-h, -0.012, 0.95 * height),
            (-h, 0.012, 0.95 * height),
        ],
        TRIM,
        lift_m=0.03,
    )
    m.plate(
        [
            (-h, 0.26, 0.25 * height),
            (-h, -0.26, 0.25 * height),
            (-h, -0.26, 0.25 * height + 0.13),
            (-h, 0.26, 0.25 * height + 0.13),
        ],
        PLATE,
        lift_m=0.035,
    )


def _truck(m: MeshBuilder, length: float, width: float, height: float) -> None:
    """A cab and a box; the box keeps a light colour, the cab carries the paint."""
    h, w = length / 2, width / 2
    cab_length = min(2.2, 0.36 * length)
    cab, floor = h - cab_length, 0.30 * height
    body: Color = (226, 226, 222)
    m.box((-h, cab - 0.12), (-w, w), (floor, height), body, top=(205, 206, 206), bottom=True)
    m.box((-0.97 * h, cab), (-0.80 * w, 0.80 * w), (0.16 * height, floor), TRIM)
    top = min(height, 2.9) * 0.94
    m.extrude(
        [(cab, 0.15 * height), (h, 0.15 * height), (h, 0.5 * top), (h - 0.22, top), (cab, top)],
        (-0.97 * w, 0.97 * w),
        slot=PAINT,
    )
    m.plate(
        [(h, -0.97 * w, 0.5 * top), (h, 0.97 * w, 0.5 * top), (h - 0.22, 0.97 * w, top), (h - 0.22, -0.97 * w, top)],
        GLASS,
        margin=(0.05, 0.05, 0.12, 0.05),
    )
    for side in (1, -1):
        x0, x1 = cab + 0.12 * cab_length, h - 0.28
        corners = [
            (x1, side * 0.97 * w, 0.53 * top),
            (x0, side * 0.97 * w, 0.53 * top),
            (x0, side * 0.97 * w, 0.88 * top),
            (x1 - 0.12, side * 0.97 * w, 0.88 * top),
        ]
        m.plate(corners if side > 0 else corners[::-1], GLASS)
        m.box(
            (h - 0.35, h - 0.2),
            _span(side, 0.97 * w, 0.97 * w + 0.22),
            (0.55 * top, 0.78 * top),
            TRIM,
            bottom=True,
            casts=False,
        )
        axles = [h - 0.55 * cab_length, -0.55 * h] + ([-0.55 * h - 1.15] if length > 8.5 else [])
        for x in axles:
            _wheel(m, x, side * 0.98 * w, 0.48, side)
        m.plate(_side(side, w, (-h, cab - 0.12), (floor, floor + 0.1)), (190, 60, 40))
        _lamp(m, h, side, (0.60 * w, 0.92 * w), (0.22 * height, 0.22 * height + 0.2), HEADLAMP, glow=0.55)
        _lamp(m, -h, side, (0.62 * w, 0.97 * w), (floor - 0.02, floor + 0.22), slot=STOP_LAMP)
        _indicators(m, h, 0.985 * w, side, 0.22 * height, floor + 0.26)
    m.plate(
        [(-h, 0.012, floor), (-h, -0.012, floor), (-h, -0.012, 0.98 * height), (-h, 0.012, 0.98 * height)],
        (120, 120, 120),
    )
    m.box((-h, -h + 0.1), (-0.8 * w, 0.8 * w), (0.42, 0.56), TRIM, bottom=True)


def _bus(m: MeshBuilder, length: float, width: float, height: float) -> None:
    h, w, sill = length / 2, width / 2, 0.11 * height
    m.extrude([(-h, sill), (h, sill), (h, 0.45 * height), (0.985 * h, 0.93 * height), (0.965 * h, 0.985 * height),
               (-0.98 * h, 0.985 * height), (-h, 0.93 * height)], (-w, w), slot=PAINT)  # fmt: skip
    m.box((-0.55 * h, 0.35 * h), (-0.7 * w, 0.7 * w), (0.985 * height, height + 0.05), (190, 192, 195))
    low, high = 0.42 * height, 0.83 * height
    bays = max(3, round(length / 1.9))
    edges = np.linspace(-0.96 * h, 0.94 * h, bays + 1)
    for side in (1, -1):
        m.plate(_side(side, w, (-h, h), (0.30 * height, 0.35 * height)), (236, 236, 232))
        for i in range(bays):
            door = side < 0 and i in (bays - 1, bays // 2)  # right-hand traffic: doors on the right
            z = (0.15 * height, high) if door else (low, high)
            m.plate(_side(side, w, (edges[i] + 0.06, edges[i + 1] - 0.06), z), GLASS, lift_m=0.022)
        for x in (0.60 * h, -0.56 * h):
            _wheel(m, x, side * w, 0.50, side)
        m.box(
            (h - 0.1, h + 0.12),
            _span(side, 0.98 * w, w + 0.22),
            (0.62 * height, 0.78 * height),
            TRIM,
            bottom=True,
            casts=False,
        )
        _lamp(m, h, side, (0.62 * w, 0.93 * w), (0.17 * height, 0.17 * height + 0.2), HEADLAMP, glow=0.55)
        _lamp(m, -h, side, (0.70 * w, 0.95 * w), (0.20 * height, 0.20 * height + 0.32), slot=STOP_LAMP)
        _indicators(m, h, w, side, 0.25 * height, 0.33 * height)
    m.plate(
        [
            (h, -0.93 * w, 0.36 * height),
            (h, 0.93 * w, 0.36 * height),
            (0.989 * h, 0.93 * w, 0.80 * height),
            (0.989 * h, -0.93 * w, 0.80 * height),
        ],
        GLASS,
        lift_m=0.02,
    )
    m.plate(
        [
            (0.989 * h, -0.7 * w, 0.83 * height),
            (0.989 * h, 0.7 * w, 0.83 * height),
            (0.987 * h, 0.7 * w, 0.91 * height),
            (0.987 * h, -0.7 * w, 0.91 * height),
        ],
        (250, 190, 60),
        lift_m=0.02,
        glow=0.4,
    )
    m.plate(
        [
            (-h, 0.85 * w, 0.50 * height),
            (-h, -0.85 * w, 0.50 * height),
            (-h, -0.85 * w, 0.80 * height),
            (-h, 0.85 * w, 0.80 * height),
        ],
        GLASS,
    )


BUILDERS: dict[str, Callable[[MeshBuilder, float, float, float], None]] = {
    "sedan": functools.partial(_car, shape="sedan"),
    "hatch": functools.partial(_car, shape="hatch"),
    "suv": functools.partial(_car, shape="suv"),
    "van": _van,
    "truck": _truck,
    "bus": _bus,
}


def _wheel(m: MeshBuilder, x: float, y: float, radius: float, side: int) -> None:
    facing = (0.0, float(side), 0.0)
    m.disc((x, y + side * 0.008, radius * 1.02), radius * 1.14, facing, (22, 22, 24))  # the arch
    m.disc((x, y + side * 0.022, radius), radius, facing, TYRE)
    m.disc((x, y + side * 0.036, radius), 0.60 * radius, facing, RIM, sides=8)
    m.disc((x, y + side * 0.046, radius), 0.20 * radius, facing, TYRE, sides=6)
    across = _span(side, abs(y) - 0.24, abs(y))
    m.box((x - 0.8 * radius, x + 0.8 * radius), across, (0.0, 0.9 * radius), TYRE, casts=False)


def _lamp(
    m: MeshBuilder, x: float, side: int, y: tuple[float, float], z: tuple[float, float], color: Color = (0, 0, 0), *,
    slot: int = -1, glow: float = 0.0,
) -> None:  # fmt: skip
    """A lamp on the front (x > 0) or the back of a vehicle, on one side."""
    y0, y1 = _span(side, *y)
    corners = [(x, y0, z[0]), (x, y1, z[0]), (x, y1, z[1]), (x, y0, z[1])]
    if x < 0:
        corners = [corners[1], corners[0], corners[3], corners[2]]
    m.plate(corners, color, slot=slot, glow=glow, lift_m=0.025)


def _indicators(m: MeshBuilder, h: float, w: float, side: int, front_z: float, rear_z: float) -> None:
    """Front, rear and on the flank, so that a blinking car tells from every direction."""
    slot = LEFT_LAMP if side > 0 else RIGHT_LAMP
    _lamp(m, h, side, (0.70 * w, 0.99 * w), (front_z, front_z + 0.11), slot=slot)
    _lamp(m, -h, side, (0.76 * w, 1.0 * w), (rear_z - 0.13, rear_z - 0.01), slot=slot)
    m.plate(_side(side, w, (h - 0.34, h - 0.10), (front_z, front_z + 0.11)), slot=slot, lift_m=0.025)
    m.plate(_side(side, w, (-h + 0.06, -h + 0.26), (rear_z - 0.13, rear_z - 0.01)), slot=slot, lift_m=0.025)


def _side(side: int, w: float, x: tuple[float, float], z: tuple[float, float]) -> list[tuple[float, float, float]]:
    """A rectangle on a flank, counter-clockwise from outside."""
    y = side * w
    corners = [(x[1], y, z[0]), (x[0], y, z[0]), (x[0], y, z[1]), (x[1], y, z[1])]
    return corners if side > 0 else corners[::-1]


def _span(side: int, near: float, far: float) -> tuple[float, float]:
    """The y interval between two distances from the middle, on one side."""
    return (near, far) if side > 0 else (-far, -near)
