"""Pedestrians and cyclists, with legs that move as they move."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from nsdrive.cameras.mesh import HAIR, SHIRT, SKIN, TROUSERS, Color, Mesh, MeshBuilder

STRIDE_M = 1.45  # two steps of an adult, chosen by us
PEDAL_M = 4.6  # what a bicycle rolls in one turn of its pedals, chosen by us
N_PHASES = 12  # poses of one stride; the 13th mesh stands still
STANDING = N_PHASES
SHIRTS: tuple[Color, ...] = (
    (196, 44, 48), (44, 104, 190), (236, 190, 52), (70, 142, 82), (228, 228, 226),
    (132, 62, 142), (232, 122, 42), (52, 56, 66), (90, 170, 190),
)  # fmt: skip
LEGS: tuple[Color, ...] = ((46, 54, 84), (58, 58, 62), (116, 98, 74), (84, 92, 104), (34, 36, 42))
HAIRS: tuple[Color, ...] = ((58, 40, 28), (30, 26, 24), (142, 104, 58), (168, 166, 160), (92, 52, 30))
SKINS: tuple[Color, ...] = ((232, 190, 160), (206, 154, 118), (150, 104, 76), (104, 70, 52))
HELMET: Color = (236, 236, 232)
SHOE: Color = (40, 36, 34)
STEEL: Color = (40, 42, 46)


@functools.lru_cache(maxsize=N_PHASES + 1)
def pedestrian_mesh(phase: int) -> Mesh:
    """1.75 m tall; `phase` of the stride in 0 .. N_PHASES - 1, or STANDING."""
    m = MeshBuilder()
    swing = 0.0 if phase == STANDING else 0.30 * np.sin(2 * np.pi * phase / N_PHASES)
    lift = 0.0 if phase == STANDING else 0.07 * abs(np.cos(2 * np.pi * phase / N_PHASES))
    hip, shoulder = 0.90, 1.44
    for side, forward in ((1, swing), (-1, -swing)):
        y = 0.095 * side
        raised = lift if forward * swing > 0 and side > 0 else 0.0
        knee = (0.55 * forward + 0.05, y, 0.48 + 0.5 * raised)
        ankle = (forward, y, 0.08 + raised)
        m.limb((0.0, y, hip), knee, (0.092, 0.075), slot=TROUSERS)
        m.limb(knee, ankle, (0.074, 0.055), slot=TROUSERS)
        m.box((forward - 0.09, forward + 0.17), (y - 0.05, y + 0.05), (raised, raised + 0.09), SHOE)
        elbow = (-0.45 * forward - 0.02, 0.255 * side, 1.14)
        hand = (-0.8 * forward + 0.10, 0.25 * side, 0.92)
        m.limb((0.0, 0.215 * side, shoulder - 0.03), elbow, (0.062, 0.052), slot=SHIRT)
        m.limb(elbow, hand, (0.05, 0.04), slot=SKIN)
    _torso(m, (0.0, hip - 0.06), (0.02, shoulder + 0.04))
    _head(m, 0.03, shoulder + 0.03)
    return m.build()


@functools.lru_cache(maxsize=N_PHASES)
def cyclist_mesh(phase: int) -> Mesh:
    """A rider on a bicycle of 1.75 m; `phase` of the pedals."""
    m = MeshBuilder()
    wheel = 0.335
    for x in (0.54, -0.54):
        for side in (1, -1):
            facing = (0.0, float(side), 0.0)
            m.disc((x, side * 0.022, wheel), wheel, facing, (26, 26, 28), casts=side > 0)
            m.disc((x, side * 0.026, wheel), 0.86 * wheel, facing, (150, 154, 160))
            m.disc((x, side * 0.030, wheel), 0.12 * wheel, facing, STEEL, sides=6)
    crank, seat, bar = np.array([-0.02, 0.0, 0.30]), np.array([-0.22, 0.0, 0.86]), np.array([0.40, 0.0, 0.92])
    front, rear = np.array([0.54, 0.0, wheel]), np.array([-0.54, 0.0, wheel])
    below = np.array([0.0, 0.0, -0.12])
    tubes = (
        (crank, seat),
        (crank, bar),
        (seat + below, bar + below),
        (bar, front),
        (crank, rear),
        (seat + below, rear),
    )
    for start, end in tubes:
        m.limb(start, end, (0.024, 0.024), slot=4, sides=4)
    m.limb(_beside(bar, 0.27, 0.05), _beside(bar, -0.27, 0.05), (0.02, 0.02), STEEL, sides=4)
    m.box((-0.36, -0.12), (-0.07, 0.07), (0.86, 0.92), STEEL)
    hip, shoulder = np.array([-0.20, 0.0, 0.95]), np.array([0.12, 0.0, 1.42])
    turn = 2 * np.pi * phase / N_PHASES
    for side, angle in ((1, turn), (-1, turn + np.pi)):
        foot = crank + np.array([0.17 * np.cos(angle), 0.10 * side, -0.17 * np.sin(angle)])
        knee = (hip + foot) / 2 + np.array([0.24, 0.09 * side, 0.06])
        m.limb(_beside(hip, 0.09 * side, 0.0), knee, (0.09, 0.072), slot=TROUSERS)
        m.limb(knee, foot, (0.07, 0.05), slot=TROUSERS)
        x, y, z = foot
        m.box((x - 0.08, x + 0.14), (y - 0.045, y + 0.045), (z - 0.05, z + 0.03), SHOE, casts=False)
        m.limb(_beside(shoulder, 0.20 * side, -0.04), _beside(bar, 0.24 * side, 0.08), (0.058, 0.042), slot=SHIRT)
    _torso(m, (hip[0], hip[2] - 0.05), (shoulder[0], shoulder[2] + 0.04))
    _head(m, shoulder[0] + 0.10, shoulder[2] + 0.04, helmet=True)
    m.plate(
        [(-0.37, 0.05, 0.80), (-0.37, -0.05, 0.80), (-0.37, -0.05, 0.88), (-0.37, 0.05, 0.88)], (220, 24, 24), glow=0.6
    )
    return m.build()


def _beside(point: np.ndarray, left_m: float, up_m: float) -> np.ndarray:
    return np.asarray(point + np.array([0.0, left_m, up_m]))


def _torso(m: MeshBuilder, waist: tuple[float, float], neck: tuple[float, float]) -> None:
    """Between two (x, z), wider at the shoulders."""
    chest = ((waist[0] + 2 * neck[0]) / 3, (waist[1] + 2 * neck[1]) / 3)
    outline = np.array([(1, -0.6), (1, 0.6), (0, 1), (-1, 0.6), (-1, -0.6), (0, -1)])
    rings = [
        (outline * (deep, wide) + np.array([x, 0.0]), z)
        for (x, z), deep, wide in ((waist, 0.105, 0.155), (chest, 0.125, 0.215), (neck, 0.075, 0.13))
    ]
    for (lower, z0), (upper, z1) in itertools.pairwise(rings):
        m.loft(lower, z0, upper, z1, slot=SHIRT)
    m.face([(x, y, rings[-1][1]) for x, y in rings[-1][0]], slot=SHIRT)


def _head(m: MeshBuilder, x: float, z: float, helmet: bool = False) -> None:
    m.prism((x, 0.0), (0.055, 0.055), (z - 0.02, z + 0.08), slot=SKIN, sides=6, cap=False)
    m.prism((x + 0.01, 0.0), (0.075, 0.105), (z + 0.06, z + 0.18), slot=SKIN, sides=8, cap=False)
    if helmet:
        m.prism((x, 0.0), (0.135, 0.10), (z + 0.17, z + 0.26), HELMET, sides=8, cap=False)
        m.prism((x, 0.0), (0.10, 0.03), (z + 0.26, z + 0.31), HELMET, sides=8)
    else:
        m.prism((x - 0.012, 0.0), (0.115, 0.105), (z + 0.17, z + 0.25), slot=HAIR, sides=8, cap=False)
        m.prism((x - 0.012, 0.0), (0.105, 0.04), (z + 0.25, z + 0.30), slot=HAIR, sides=8)
        m.face(
            [
                (x - 0.1, 0.085, z + 0.08),
                (x - 0.1, -0.085, z + 0.08),
                (x - 0.125, -0.09, z + 0.19),
                (x - 0.125, 0.09, z + 0.19),
            ],
            slot=HAIR,
        )
