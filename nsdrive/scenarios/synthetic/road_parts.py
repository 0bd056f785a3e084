"""What a road network is described with and built from: roads, junctions, movements, smooth curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, Signal, StopLine
from nsdrive.world.types import FloatArray

SPACING_M = 0.7  # chosen by us: outer lanes of a tight bend stay below 1 m, as nuPlan's route matching needs
SHOULDER_M = 0.35  # chosen by us: asphalt outside the edge line
CROSSWALK_M = 3.2  # chosen by us: depth of a crosswalk along the road


@dataclass(frozen=True, kw_only=True, eq=False)
class Road:
    """A two-way road. reference (N, 3): x, y, heading every SPACING_M, the line between the two directions."""

    name: str
    reference: FloatArray
    lanes_forward: int  # driving along the reference line, on its right
    lanes_backward: int
    lane_width_m: float
    speed_limit_mps: float
    parking_m: float = 0.0  # strip for parked cars outside the lanes, both sides
    walkway_m: float = 3.0
    centre_marking: str = "double_yellow"
    crosswalk_joints: tuple[int, ...] = ()  # joints, counted along the reference line, that carry a crosswalk
    later_limits_mps: tuple[tuple[float, float], ...] = ()  # (from this arc length on [m], speed limit), in order

    def limit_at(self, along_m: float) -> float:
        """The speed limit at an arc length of the reference line."""
        passed = [limit for from_m, limit in self.later_limits_mps if along_m >= from_m]
        return passed[-1] if passed else self.speed_limit_mps

    def edge_m(self, side: int) -> float:
        """Lateral offset of the kerb from the reference line: side +1 is the left kerb, -1 the right one."""
        lanes = self.lanes_backward if side > 0 else self.lanes_forward
        return side * (lanes * self.lane_width_m + SHOULDER_M + self.parking_m)

    def line(self, offset_m: float) -> FloatArray:
        """(N, 2): the reference line moved to its left by offset_m."""
        heading = self.reference[:, 2]
        return self.reference[:, :2] + offset_m * np.stack([-np.sin(heading), np.cos(heading)], axis=1)


@dataclass(frozen=True, kw_only=True)
class Junction:
    """Where road ends meet. arms: (road, "start" | "end"). zone_m: straight kerb between a lane's end and the corner."""

    name: str
    arms: tuple[tuple[str, str], ...]
    kind: str = "traffic_light"  # traffic_light, stop_sign, default
    phasing: str = "split"  # split: one arm at a time. protected: left turns have lanes and a phase of their own.
    # permissive: opposite arms together, so that a left turn must yield to who comes towards it
    zone_m: float = 5.2
    crosswalk_arms: tuple[str, ...] = ()
    stop_arms: tuple[str, ...] = ()  # of kind stop_sign: the arms that must stop; () is all of them

    def stops(self, arm: str) -> bool:
        """Whether this arm ends at a stop sign."""
        return self.kind == "stop_sign" and (not self.stop_arms or arm in self.stop_arms)


@dataclass(frozen=True, kw_only=True)
class Movement:
    """One allowed way through a junction, lane to lane."""

    junction: str
    from_road: str
    to_road: str
    from_index: int  # 0 is the leftmost lane of its direction
    to_index: int
    turn: str
    connector_id: str


def sweep(pose: tuple[float, float, float], curvature: Sequence[tuple[float, float]]) -> FloatArray:
    """(N, 3): x, y, heading every SPACING_M from `pose` on, along a line of piecewise linear curvature (clothoids).

    curvature: (arc length [m], curvature [1/m], left positive) knots from 0 to the length of the line.
    """
    stations, values = np.array(curvature, dtype=float).T
    fine = 4
    steps = round(stations[-1] / SPACING_M) * fine
    ds = SPACING_M / fine
    middle = (np.arange(steps) + 0.5) * ds
    turn = np.interp(middle, stations, values) * ds
    heading = pose[2] + np.concatenate([[0.0], np.cumsum(turn)])
    half = heading[:-1] + 0.5 * turn
    x = pose[0] + np.concatenate([[0.0], np.cumsum(np.cos(half) * ds)])
    y = pose[1] + np.concatenate([[0.0], np.cumsum(np.sin(half) * ds)])
    return np.stack([x, y, heading], axis=1)[::fine]


def connect(
    start: FloatArray, start_rad: float, end: FloatArray, end_rad: float, spacing_m: float = 0.75
) -> FloatArray:
    """(N, 2): a smooth curve with these end points and headings, close to an arc (a cubic Bezier with an arc's handles)."""
    chord = end - start
    distance = float(np.hypot(chord[0], chord[1]))
    t0 = np.array([math.cos(start_rad), math.sin(start_rad)])
    t1 = np.array([math.cos(end_rad), math.sin(end_rad)])
    angle = (end_rad - start_rad + math.pi) % (2 * math.pi) - math.pi
    cross = t0[0] * t1[1] - t0[1] * t1[0]
    reach0 = reach1 = distance / 2
    if abs(angle) > 0.15:  # the tangents meet: take the distances to where they do
        along0 = (chord[0] * t1[1] - chord[1] * t1[0]) / cross
        along1 = (t0[0] * chord[1] - t0[1] * chord[0]) / cross
        if along0 > 0.1 and along1 > 0.1 and max(along0, along1) < 3 * distance:
            reach0, reach1 = along0, along1
    handle = (4 / 3) * math.tan(angle / 4) / math.tan(angle / 2) if abs(angle) > 1e-6 else 2 / 3
    p1, p2 = start + handle * reach0 * t0, end - handle * reach1 * t1

    def bezier(u: FloatArray) -> FloatArray:
        u = u[:, None]
        return (1 - u) ** 3 * start + 3 * (1 - u) ** 2 * u * p1 + 3 * (1 - u) * u**2 * p2 + u**3 * end

    u = np.linspace(0.0, 1.0, 21)
    rough = bezier(u)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(rough, axis=0).T))])
    count = max(2, math.ceil(arc[-1] / spacing_m) + 1)
    points = bezier(np.interp(np.linspace(0.0, arc[-1], count), arc, u))
    points[0], points[-1] = start, end
    return points


class Parts:
    """What the layers of a map collect: roads first, then junctions."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.links: list[tuple[str, str]] = []  # (from, to)
        self.intersections: dict[str, Intersection] = {}
        self.crosswalks: dict[str, Crosswalk] = {}
        self.stop_lines: dict[str, StopLine] = {}
        self.signals: list[Signal] = []
        self.drivable: list[FloatArray] = []
        self.walkways: list[FloatArray] = []
        self.stop_signs: list[tuple[float, float, float]] = []
        self.movements: list[Movement] = []
        self.chains: dict[tuple[str, str, int], tuple[str, ...]] = {}
