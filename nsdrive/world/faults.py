"""What an ego does wrong, by nuPlan's rules: collisions of its own fault, and how far it leaves the road.

Written anew after nuplan-devkit v1.2 (Apache-2.0: no_ego_at_fault_collisions.py, drivable_area_compliance.py). The
closed-loop score and the filter of training samples share it, so that there is one definition of fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from nsdrive.world.geometry import box_corners
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.lanes_driven import LanesDriven, distance_to_lanes_m
from nsdrive.world.measure import BEHIND_RAD, bearing_rad, corners_off_road_m, overlap
from nsdrive.world.types import OBJECT_KINDS, FloatArray, ObjectFrame

STANDING_MPS = 0.05  # nuPlan _get_collision_type, is_track_stopped
OFF_ROAD_M = 0.3  # drivable_area_compliance: max_violation_threshold


@dataclass(frozen=True, kw_only=True)
class Collision:
    """The first contact with one object. how: ego_standing, object_standing, rear, front or side."""

    tick: int
    track_id: str
    kind: str
    how: str
    at_fault: bool


def collisions(
    boxes: FloatArray, speeds_mps: FloatArray, frames: Sequence[ObjectFrame], driven: LanesDriven
) -> list[Collision]:
    """Of T ego boxes (T, 5) with speeds (T,), in order of time.

    nuPlan's no_ego_at_fault_collisions.py: the ego is at fault where it runs into something that stands, or into anything
    with its front, and where something meets its side while it is between lanes or off them.
    """
    found = []
    for contact in overlap(boxes, frames):
        box, frame = boxes[contact.tick], frames[contact.tick]
        other = frame[frame.ids.index(contact.track_id)]
        other_box = np.array([[other.x_m, other.y_m, other.heading_rad, other.length_m, other.width_m]])
        corners = box_corners(box[None])[0]
        if speeds_mps[contact.tick] <= STANDING_MPS:
            how = "ego_standing"
        elif not is_agent(other.kind) or other.speed_mps <= STANDING_MPS:
            how = "object_standing"
        elif abs(bearing_rad(box, other_box)[0]) > BEHIND_RAD:
            how = "rear"
        elif shapely.LineString(corners[[0, 3]]).intersects(shapely.Polygon(box_corners(other_box)[0])):
            how = "front"
        else:
            how = "side"
        at_fault = how in ("object_standing", "front") or (how == "side" and not driven.together[contact.tick])
        found.append(
            Collision(tick=contact.tick, track_id=contact.track_id, kind=other.kind, how=how, at_fault=at_fault)
        )
    return found


def left_road_m(lane_map: LaneMap, boxes: FloatArray, driven: LanesDriven) -> FloatArray:
    """(T,): how far the worst corner of each of (T, 5) boxes is from the drivable area and from the ego's lane; a corner in
    any lane is not off the road."""
    away = corners_off_road_m(boxes, lane_map)
    away[np.array([[bool(lanes) for lanes in moment] for moment in driven.corners])] = 0.0
    for tick in np.flatnonzero((away > 0.0).any(axis=1)):
        out = away[tick] > 0.0
        to_lane = distance_to_lanes_m(lane_map, driven.centre[tick], box_corners(boxes[tick][None])[0][out])
        away[tick, out] = np.minimum(away[tick, out], to_lane)
    return np.asarray(away.max(axis=1))


def is_agent(kind: str) -> bool:
    """Whether it moves by itself: a vehicle, a bicycle or a pedestrian."""
    return OBJECT_KINDS.index(kind) <= 2
