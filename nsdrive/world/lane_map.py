"""A nuPlan-style lane map: lanes, lane connectors, roadblocks, intersections, crosswalks, stop lines, signals.

Ids are strings, unique over lanes and connectors together, and over roadblocks and roadblock connectors together.
A lane leads to connectors, a connector to lanes; parallel lanes of one direction share a roadblock. Right-hand traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """A lane, or, with `is_connector`, its continuation inside an intersection.

    centerline, left_boundary, right_boundary: (N, 2) and (M, 2) polylines in driving direction, global frame.
    """

    lane_id: str
    roadblock_id: str
    is_connector: bool
    centerline: FloatArray
    left_boundary: FloatArray
    right_boundary: FloatArray
    speed_limit_mps: float | None  # None: not known
    incoming: tuple[str, ...] = ()
    outgoing: tuple[str, ...] = ()
    left_neighbor: str | None = None  # same direction only
    right_neighbor: str | None = None
    lane_type: str = "vehicle"  # vehicle, bike, bus
    turn: str = "straight"  # straight, left, right, uturn: how a connector turns
    intersection_id: str | None = None
    stop_line_ids: tuple[str, ...] = ()  # the stop lines a car meets at the START of this connector (or lane)
    left_marking: str = "none"  # solid_white, dashed_white, solid_yellow, dashed_yellow, double_yellow, none
    right_marking: str = "none"
    area: FloatArray | None = None  # (N, 2) polygon where the source gives one; None: what lies between the boundaries

    @property
    def polygon(self) -> FloatArray:
        """(N, 2): the lane's area, its ring not closed twice."""
        if self.area is not None:
            return self.area
        return np.concatenate([np.asarray(self.left_boundary), np.asarray(self.right_boundary)[::-1]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Intersection:
    intersection_id: str
    polygon: FloatArray  # (N, 2)
    kind: str = "default"  # default, traffic_light, stop_sign


@dataclass(frozen=True, kw_only=True, eq=False)
class Crosswalk:
    crosswalk_id: str
    polygon: FloatArray  # (N, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class StopLine:
    """Where a car stops: `line` (2, 2) runs across the lane(s), from the left to the right end as seen by the driver."""

    stop_line_id: str
    line: FloatArray
    kind: str  # traffic_light, stop_sign, crosswalk, yield


@dataclass(frozen=True, kw_only=True, eq=False)
class Signal:
    """A traffic-light head on a pole: it faces against `heading_rad`, the driving direction of the traffic it is for."""

    signal_id: str
    x_m: float
    y_m: float
    heading_rad: float
    connector_ids: tuple[str, ...]  # it shows the state of the first of these that has one
    arm_m: float = 0.0  # length of the mast arm that reaches over the road to the driver's left


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneMap:
    """Everything static that a planner, a renderer or a measure may ask about."""

    name: str
    lanes: Mapping[str, Lane]  # lanes and connectors
    intersections: Mapping[str, Intersection] = field(default_factory=dict)
    crosswalks: Mapping[str, Crosswalk] = field(default_factory=dict)
    stop_lines: Mapping[str, StopLine] = field(default_factory=dict)
    signals: tuple[Signal, ...] = ()
    drivable_area: tuple[FloatArray, ...] = ()  # polygons (N, 2), their union is drivable
    walkways: tuple[FloatArray, ...] = ()  # polygons (N, 2)
    carparks: tuple[FloatArray, ...] = ()  # polygons (N, 2), drivable too
    roadblocks: Mapping[str, FloatArray] = field(default_factory=dict)  # polygons (N, 2) where the source gives them
    stop_signs: tuple[tuple[float, float, float], ...] = ()  # x, y, heading of the traffic each one is for
