"""What stands along a street: signals, signs, cones, barriers, lamp posts, trees, buildings."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from nsdrive.cameras.mesh import GREEN_LAMP, RED_LAMP, YELLOW_LAMP, Color, Mesh, MeshBuilder
from nsdrive.cameras.shading import FACADE, LEAVES

POLE: Color = (98, 102, 106)
HOUSING: Color = (24, 25, 27)
ORANGE: Color = (255, 98, 18)
LAMP_RADIUS_M = 0.16  # the 12 inch lens of US signals, with its rim
GLARE_RADIUS_M = 0.21  # a lit lamp dazzles: chosen by us so that its colour tells at 60 m
LAMP_SPACING_M = 0.37
N_LAMPS = 3
NEAR_HEAD_Z_M = 3.0  # middle of a head on a pole, chosen by us: eye level of a queue
ARM_HEAD_Z_M = 5.3  # middle of a head above the road: 4.6 m stay free below it (MUTCD asks for at least 4.57 m)
TREE_SHAPES = 4
BOARD_M = 2.0  # the barrier mesh's own length; instances stretch it


@functools.lru_cache(maxsize=64)
def signal_mesh(arm_m: float) -> Mesh:
    """A pole at the origin and heads that face -x, towards traffic that drives along +x. The lamps are `lamps_mesh`."""
    m = MeshBuilder()
    overhead = arm_m > 0.5
    top = ARM_HEAD_Z_M + 0.75 if overhead else NEAR_HEAD_Z_M + 0.75
    m.prism((0.0, 0.0), (0.11, 0.075), (0.0, top), POLE, sides=8)
    m.prism((0.0, 0.0), (0.22, 0.18), (0.0, 0.28), POLE, sides=8)
    if overhead:
        m.limb((0.0, 0.0, top - 0.2), (0.0, arm_m + 0.25, top + 0.02), (0.08, 0.05), POLE, sides=6)
    for y, z in head_places(arm_m):
        half_w, half_h = 0.23, 0.60
        m.box(
            (-0.12, 0.10),
            (y - half_w + 0.03, y + half_w - 0.03),
            (z - half_h + 0.02, z + half_h - 0.02),
            HOUSING,
            bottom=True,
        )
        plate = [(-0.13, y + half_w + 0.10, z - half_h - 0.10), (-0.13, y - half_w - 0.10, z - half_h - 0.10),
                 (-0.13, y - half_w - 0.10, z + half_h + 0.10), (-0.13, y + half_w + 0.10, z + half_h + 0.10)]  # fmt: skip
        m.face(plate, (236, 188, 38))  # retroreflective border of the back plate
        m.face(plate[::-1], HOUSING)
        m.plate(plate, HOUSING, margin=(0.045, 0.10, 0.045, 0.10), lift_m=0.01)
        for k in range(3):  # visors
            lamp_z = z + (1 - k) * LAMP_SPACING_M
            r = LAMP_RADIUS_M + 0.02
            arch = [(y - r * np.cos(a), lamp_z + r * np.sin(a)) for a in np.linspace(0.1, np.pi - 0.1, 5)]
            for (y1, z1), (y2, z2) in itertools.pairwise(arch):
                m.double([(-0.14, y1, z1), (-0.32, y1, z1), (-0.32, y2, z2), (-0.14, y2, z2)], HOUSING, casts=False)
    return m.build()


@functools.lru_cache(maxsize=64)
def lamps_mesh(arm_m: float) -> Mesh:
    """The lamps of `signal_mesh`; slots RED_LAMP, YELLOW_LAMP and GREEN_LAMP, and N_LAMPS later the glare around each."""
    m = MeshBuilder()
    for y, z in head_places(arm_m):
        for k, slot in enumerate((RED_LAMP, YELLOW_LAMP, GREEN_LAMP)):
            lamp_z = z + (1 - k) * LAMP_SPACING_M
            m.disc((-0.146, y, lamp_z), GLARE_RADIUS_M, (-1.0, 0.0, 0.0), sides=9, slot=slot + N_LAMPS)
            m.disc((-0.155, y, lamp_z), LAMP_RADIUS_M, (-1.0, 0.0, 0.0), slot=slot)
    return m.build()


def head_places(arm_m: float) -> list[tuple[float, float]]:
    """(y, z) of the middle of every head: at the end of the mast arm if there is one, and on the pole."""
    return [(arm_m, ARM_HEAD_Z_M), (0.0, NEAR_HEAD_Z_M)] if arm_m > 0.5 else [(0.0, NEAR_HEAD_Z_M)]


@functools.lru_cache(maxsize=1)
def stop_sign_mesh() -> Mesh:
    """Faces -x. 0.76 m across, 2.1 m below it (MUTCD R1-1)."""
    m = MeshBuilder()
    m.prism((0.03, 0.0), (0.035, 0.035), (0.0, 2.75), POLE, sides=5)
    z, x = 2.45, -0.02
    m.disc((x + 0.012, 0.0, z), 0.42, (1.0, 0.0, 0.0), (140, 142, 145), sides=8, casts=True)
    m.disc((x, 0.0, z), 0.42, (-1.0, 0.0, 0.0), (245, 245, 242), sides=8)
    m.disc((x - 0.008, 0.0, z), 0.385, (-1.0, 0.0, 0.0), (196, 22, 30), sides=8, glow=0.15)
    _letters(m, "STOP", x - 0.016, z - 0.105, 0.21, (245, 245, 242))
    return m.build()


@functools.lru_cache(maxsize=1)
def cone_mesh() -> Mesh:
    """0.75 m tall, 0.45 m wide."""
    m = MeshBuilder()
    m.box((-0.22, 0.22), (-0.22, 0.22), (0.0, 0.05), (34, 34, 34))
    for r0, r1, z0, z1, color in ((0.17, 0.135, 0.05, 0.24, ORANGE), (0.135, 0.108, 0.24, 0.36, (246, 246, 244)),
                                  (0.108, 0.085, 0.36, 0.47, ORANGE), (0.085, 0.065, 0.47, 0.57, (246, 246, 244)),
                                  (0.065, 0.03, 0.57, 0.75, ORANGE)):  # fmt: skip
        m.prism((0.0, 0.0), (r0, r1), (z0, z1), color, cap=z1 > 0.7)
    return m.build()


@functools.lru_cache(maxsize=1)
def barrier_mesh() -> Mesh:
    """A board on feet, along x, BOARD_M long, 1 m tall."""
    m = MeshBuilder()
    half, stripes = BOARD_M / 2, 7
    for x in (-0.8 * half, 0.8 * half):
        m.box((x - 0.05, x + 0.05), (-0.25, 0.25), (0.0, 0.08), (70, 70, 72))
        m.box((x - 0.035, x + 0.035), (-0.035, 0.035), (0.08, 1.0), (180, 180, 178))
    for z in (0.40, 0.72):
        m.box((-half, half), (-0.05, 0.05), (z, z + 0.24), (244, 244, 240), bottom=True)
        for i in range(stripes):
            x, lean, step = -half + i * BOARD_M / stripes, 0.12, BOARD_M / stripes / 2
            x1 = min(x + step, half - lean)
            for side in (1, -1):
                corners = [
                    (x1, side * 0.05, z),
                    (x, side * 0.05, z),
                    (x + lean, side * 0.05, z + 0.24),
                    (x1 + lean, side * 0.05, z + 0.24),
                ]
                m.plate(corners if side > 0 else corners[::-1], (224, 50, 36))
    return m.build()


@functools.lru_cache(maxsize=1)
def work_sign_mesh() -> Mesh:
    """An orange diamond on a stand; shows both ways."""
    m = MeshBuilder()
    for x, y in ((0.4, 0.0), (-0.4, 0.0), (0.0, 0.4), (0.0, -0.4)):
        m.limb((0.0, 0.0, 0.45), (x, y, 0.02), (0.025, 0.02), (60, 60, 62), sides=4)
    m.prism((0.0, 0.0), (0.03, 0.03), (0.4, 1.0), (60, 60, 62), sides=5)
    z, r = 1.35, 0.55
    for side in (-1, 1):
        ring = [
            (side * 0.02, side * r, z),
            (side * 0.02, 0.0, z + r),
            (side * 0.02, -side * r, z),
            (side * 0.02, 0.0, z - r),
        ]
        m.face(ring[::-1], ORANGE, glow=0.15)
        inner = [(side * 0.03, 0.88 * y, z + 0.88 * (c - z)) for _, y, c in ring]
        m.face(inner[::-1], (30, 30, 30), casts=False)
        inner = [(side * 0.036, 0.83 * y, z + 0.83 * (c - z)) for _, y, c in ring]
        m.face(inner[::-1], ORANGE, glow=0.15, casts=False)
        for y0 in (-0.16, 0.04):
            bar = [
                (side * 0.042, side * y0, z - 0.18),
                (side * 0.042, side * (y0 + 0.12), z - 0.18),
                (side * 0.042, side * (y0 + 0.12), z + 0.18),
                (side * 0.042, side * y0, z + 0.18),
            ]
            m.face(bar, (30, 30, 30), casts=False)
    return m.build()


@functools.lru_cache(maxsize=1)
def crate_mesh() -> Mesh:
    """A unit box for what has no shape of its own."""
    m = MeshBuilder()
    m.box((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.9), slot=0, taper=0.96)
    m.box((-0.5, 0.5), (-0.5, 0.5), (0.9, 1.0), slot=1, bottom=True)
    return m.build()


@functools.lru_cache(maxsize=1)
def lamp_post_mesh() -> Mesh:
    """8 m tall, its arm towards +x."""
    m = MeshBuilder()
    m.prism((0.0, 0.0), (0.10, 0.06), (0.0, 8.0), (120, 124, 128), sides=6)
    m.limb((0.0, 0.0, 7.9), (1.9, 0.0, 8.2), (0.05, 0.04), (120, 124, 128), sides=4)
    m.box((1.5, 2.2), (-0.14, 0.14), (8.15, 8.28), (90, 94, 98), bottom=True)
    return m.build()


@functools.lru_cache(maxsize=TREE_SHAPES)
def tree_mesh(number: int) -> Mesh:
    """Crown radius 1, drawn about 4.3 tall; instances stretch it. Slot 0 is the crown's colour."""
    m = MeshBuilder()
    rng = np.random.default_rng([71, number])
    m.prism((0.0, 0.0), (0.11, 0.08), (0.0, 1.7), (98, 74, 54), sides=6, cap=False)
    conifer = number == TREE_SHAPES - 1
    levels = (
        [(0.25, 1.0), (0.95, 1.15), (0.62, 2.2), (0.34, 3.2), (0.02, 4.3)]
        if conifer
        else [(0.30, 1.55), (0.82, 1.85), (1.0, 2.5), (0.90, 3.2), (0.55, 3.8), (0.06, 4.1)]
    )
    sides = 9
    rings = []
    for k, (radius, z) in enumerate(levels):
        angles = (np.arange(sides) + 0.5 * (k % 2)) * 2 * np.pi / sides
        bumps = radius * (1 + (0.0 if conifer else 0.16) * rng.uniform(-1, 1, sides))
        heights = z + 0.1 * radius * rng.uniform(-1, 1, sides)
        rings.append(np.column_stack([bumps * np.cos(angles), bumps * np.sin(angles), heights]))
    for k, (lower, upper) in enumerate(itertools.pairwise(rings)):
        for i in range(sides):
            j = (i + 1) % sides
            if k % 2 == 0:  # the upper ring is turned by half a step
                m.face([lower[i], lower[j], upper[i]], slot=0, material=LEAVES)
                m.face([lower[j], upper[j], upper[i]], slot=0, material=LEAVES)
            else:
                m.face([lower[i], upper[j], upper[i]], slot=0, material=LEAVES)
                m.face([lower[i], lower[j], upper[j]], slot=0, material=LEAVES)
    m.face(rings[0][::-1], slot=0, material=LEAVES, casts=False)
    return m.build()


@functools.lru_cache(maxsize=2)
def building_mesh(pitched: bool) -> Mesh:
    """A unit block with windows; slot 0 the wall, 1 the glass, 2 the roof. Instances stretch it to metres."""
    m = MeshBuilder()
    ring = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    m.loft(ring, 0.0, ring, 1.0, slot=0, material=FACADE)
    if pitched:
        over, top = 0.53, 1.30
        a, b, c, d = ((-over, -over, 0.98), (over, -over, 0.98), (over, over, 0.98), (-over, over, 0.98))
        e, f = (-over, 0.0, top), (over, 0.0, top)
        m.face([a, b, f, e], slot=2)
        m.face([c, d, e, f], slot=2)
        m.face([(-0.5, 0.5, 1.0), (-0.5, -0.5, 1.0), (-0.5, 0.0, top - 0.03)], slot=0)
        m.face([(0.5, -0.5, 1.0), (0.5, 0.5, 1.0), (0.5, 0.0, top - 0.03)], slot=0)
        m.face([d, c, b, a], slot=2, casts=False)
    else:
        m.box((-0.51, 0.51), (-0.51, 0.51), (0.985, 1.02), slot=2, bottom=True)
        m.box((-0.2, 0.1), (-0.25, 0.1), (1.02, 1.09), slot=2)
    return m.build()


# strokes of a 4 x 6 grid: (x0, z0, x1, z1)
_GLYPHS = {
    "S": ((0, 5, 4, 6), (0, 3, 1, 5), (0, 2.5, 4, 3.5), (3, 1, 4, 3), (0, 0, 4, 1)),
    "T": ((0, 5, 4, 6), (1.5, 0, 2.5, 5)),
    "O": ((0, 0, 1, 6), (3, 0, 4, 6), (1, 5, 3, 6), (1, 0, 3, 1)),
    "P": ((0, 0, 1, 6), (1, 5, 4, 6), (3, 3, 4, 5), (1, 2.5, 4, 3.5)),
}


def _letters(m: MeshBuilder, word: str, x: float, z: float, height: float, color: Color) -> None:
    """Block letters that face -x, centred on y = 0."""
    unit = height / 6
    pitch = 5.2 * unit
    start = (len(word) * pitch - 1.2 * unit) / 2
    for i, letter in enumerate(word):
        for x0, z0, x1, z1 in _GLYPHS[letter]:
            left, right = start - i * pitch - x0 * unit, start - i * pitch - x1 * unit  # +y is the reader's left
            low, high = z + z0 * unit, z + z1 * unit
            m.face([(x, left, low), (x, right, low), (x, right, high), (x, left, high)], color, casts=False)
