"""Building blocks of meshes: faces, boxes, prisms, extrusions.

    m = MeshBuilder()
    m.box((-1, 1), (-0.5, 0.5), (0, 1), slot=0)      # coloured by whoever places it
    mesh = m.build()

A mesh has its own frame, x forward, y left, z up, its base at z = 0. Faces are convex, seen from the side from which
their corners run counter-clockwise. A colour is either the face's own or a slot that each instance fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsdrive.cameras.rasteriser import F32, I32, MAX_CORNERS
from nsdrive.cameras.shading import PLAIN

Color = tuple[int, int, int]
Point = Sequence[float]

# What the slots of a vehicle, a person or a signal mean.
PAINT, STOP_LAMP, LEFT_LAMP, RIGHT_LAMP = 0, 1, 2, 3
SHIRT, TROUSERS, HAIR, SKIN = 0, 1, 2, 3
RED_LAMP, YELLOW_LAMP, GREEN_LAMP = 0, 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Columns as in `rasteriser.Meshes`, and the sphere around it."""

    corners: F32
    n_corners: I32
    normal: F32
    rgb: F32
    slot: I32
    glow: F32
    material: I32
    casts: I32
    centre: F32
    half_size: F32

    def __len__(self) -> int:
        return len(self.corners)


class MeshBuilder:
    """Collects faces."""

    def __init__(self) -> None:
        self._faces: list[tuple[np.ndarray, Color, int, float, int, bool]] = []

    def build(self) -> Mesh:
        count = len(self._faces)
        corners = np.zeros((count, MAX_CORNERS, 3), dtype=np.float32)
        normal = np.zeros((count, 3), dtype=np.float32)
        for i, (points, *_) in enumerate(self._faces):
            corners[i, : len(points)] = points
            corners[i, len(points) :] = points[-1]
            normal[i] = _normal(points)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        return Mesh(
            corners=corners,
            n_corners=np.array([len(face[0]) for face in self._faces], dtype=np.int32),
            normal=normal,
            rgb=np.array([face[1] for face in self._faces], dtype=np.float32),
            slot=np.array([face[2] for face in self._faces], dtype=np.int32),
            glow=np.array([face[3] for face in self._faces], dtype=np.float32),
            material=np.array([face[4] for face in self._faces], dtype=np.int32),
            casts=np.array([face[5] for face in self._faces], dtype=np.int32),
            centre=((low + high) / 2).astype(np.float32),
            half_size=((high - low) / 2).astype(np.float32),
        )

    def face(
        self,
        points: Sequence[Point] | np.ndarray,
        color: Color = (0, 0, 0),
        *,
        slot: int = -1,
        glow: float = 0.0,
        material: int = PLAIN,
        casts: bool = True,
    ) -> None:
        """A convex polygon of up to MAX_CORNERS corners, counter-clockwise from outside."""
        array = np.asarray(points, dtype=float)
        assert 3 <= len(array) <= MAX_CORNERS, f"a face of {len(array)} corners"
        self._faces.append((array, color, slot, glow, material, casts))

    def double(self, points: Sequence[Point], color: Color = (0, 0, 0), **looks: object) -> None:
        """A face that shows from both sides."""
        self.face(points, color, **looks)  # type: ignore[arg-type]
        self.face(list(points)[::-1], color, **looks)  # type: ignore[arg-type]

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        color: Color = (0, 0, 0),
        *,
        taper: float = 1.0,
        top: Color | None = None,
        bottom: bool = False,
        slot: int = -1,
        material: int = PLAIN,
        casts: bool = True,
    ) -> None:
        """A box; `taper` shrinks its top about its middle, `top` gives the lid a colour of its own."""
        low, high = np.array([x[0], y[0]]), np.array([x[1], y[1]])
        middle = (low + high) / 2
        ring = np.array([[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]])
        upper = middle + (ring - middle) * taper
        self.loft(ring, z[0], upper, z[1], color, slot=slot, material=material, casts=casts)
        lid = [(a, b, z[1]) for a, b in upper]
        self.face(lid, color if top is None else top, slot=slot if top is None else -1, casts=casts)
        if bottom:
            self.face([(a, b, z[0]) for a, b in ring[::-1]], color, slot=slot, casts=False)

    def loft(
        self,
        lower: np.ndarray,
        z0: float,
        upper: np.ndarray,
        z1: float,
        color: Color = (0, 0, 0),
        *,
        slot: int = -1,
        material: int = PLAIN,
        casts: bool = True,
    ) -> None:
        """Walls between two counter-clockwise rings (N, 2) at two heights; a ring may have shrunk to a point."""
        for i in range(len(lower)):
            j = (i + 1) % len(lower)
            points = [(*lower[i], z0), (*lower[j], z0), (*upper[j], z1), (*upper[i], z1)]
            distinct = [p for k, p in enumerate(points) if np.abs(np.subtract(p, points[k - 1])).max() > 1e-6]
            if len(distinct) >= 3:
                self.face(distinct, color, slot=slot, material=material, casts=casts)

    def prism(
        self,
        middle: tuple[float, float],
        radii: tuple[float, float],
        z: tuple[float, float],
        color: Color = (0, 0, 0),
        *,
        sides: int = 8,
        cap: bool = True,
        slot: int = -1,
        material: int = PLAIN,
        casts: bool = True,
    ) -> None:
        """An upright (frustum of a) prism; a second radius of 0 makes a cone."""
        angles = np.arange(sides) * 2 * np.pi / sides + np.pi / sides
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        lower, upper = np.add(middle, radii[0] * ring), np.add(middle, radii[1] * ring)
        self.loft(lower, z[0], upper, z[1], color, slot=slot, material=material, casts=casts)
        if cap and radii[1] > 1e-6:
            self.face([(a, b, z[1]) for a, b in upper], color, slot=slot, casts=casts)

    def extrude(
        self,
        profile: Sequence[tuple[float, float]],
        y: tuple[float, float],
        color: Color = (0, 0, 0),
        *,
        slot: int = -1,
        sides: bool = True,
    ) -> None:
        """A convex outline of (x, z), counter-clockwise as seen from the right (-y), pulled across y."""
        if sides:
            self.face([(a, y[0], b) for a, b in profile], color, slot=slot)
            self.face([(a, y[1], b) for a, b in profile[::-1]], color, slot=slot)
        for i, (x1, z1) in enumerate(profile):
            x2, z2 = profile[(i + 1) % len(profile)]
            self.face([(x1, y[0], z1), (x1, y[1], z1), (x2, y[1], z2), (x2, y[0], z2)], color, slot=slot)

    def limb(
        self,
        start: Point | np.ndarray,
        end: Point | np.ndarray,
        radii: tuple[float, float],
        color: Color = (0, 0, 0),
        *,
        slot: int = -1,
        sides: int = 5,
        casts: bool = True,
    ) -> None:
        """A tapered bar between two points: an arm, a leg, a tube, a mast arm."""
        a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        axis = (b - a) / np.linalg.norm(b - a)
        across = np.cross(axis, (0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (1.0, 0.0, 0.0))
        across /= np.linalg.norm(across)
        other = np.cross(axis, across)
        angles = np.arange(sides) * 2 * np.pi / sides
        ring = np.cos(angles)[:, None] * across + np.sin(angles)[:, None] * other
        lower, upper = a + radii[0] * ring, b + radii[1] * ring
        for i in range(sides):
            j = (i + 1) % sides
            self.face([lower[i], lower[j], upper[j], upper[i]], color, slot=slot, casts=casts)
        self.face(upper, color, slot=slot, casts=False)
        self.face(lower[::-1], color, slot=slot, casts=False)

    def disc(
        self,
        middle: Point,
        radius: float,
        facing: Point,
        color: Color = (0, 0, 0),
        *,
        sides: int = 10,
        slot: int = -1,
        glow: float = 0.0,
        casts: bool = False,
    ) -> None:
        """A flat regular polygon that faces a horizontal direction."""
        normal = np.asarray(facing, dtype=float) / np.linalg.norm(facing)
        right = np.cross((0.0, 0.0, 1.0), normal)
        up = np.cross(normal, right)
        angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
        points = np.asarray(middle) + radius * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * up)
        self.face(points, color, slot=slot, glow=glow, casts=casts)

    def plate(
        self,
        corners: Sequence[Point],
        color: Color = (0, 0, 0),
        *,
        margin: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        lift_m: float = 0.012,
        slot: int = -1,
        glow: float = 0.0,
    ) -> None:
        """A quad laid on a quad: a window or a lamp. margin: share left free at the first, second, third, fourth edge
        of `corners`; lift_m: how far it stands off, so that it is in front."""
        a, b, c, d = (np.asarray(p, dtype=float) for p in corners)
        first, second, third, fourth = margin

        def at(u: float, v: float) -> np.ndarray:
            return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)

        points = np.array([at(fourth, first), at(1 - second, first), at(1 - second, 1 - third), at(fourth, 1 - third)])
        self.face(points + lift_m * _normal(points), color, slot=slot, glow=glow, casts=False)


def _normal(points: np.ndarray) -> np.ndarray:
    """Newell's unit normal: exact for planar faces, an average for slightly bent ones."""
    after = np.roll(points, -1, axis=0)
    normal = np.cross(points, after).sum(axis=0)
    length = np.linalg.norm(normal)
    assert length > 1e-12, "a face without area"
    return np.asarray(normal / length)
