"""Roadblocks, neighbours and stop lines out of py123d's lane groups, neighbour links and stop zones.

What a data set tells differs: nuPlan has groups and, of plain lanes, neighbours; Argoverse 2 neighbours, of which
py123d makes groups that stop at a solid line; nuScenes groups of plain lanes and no neighbours; Waymo neighbours only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
import shapely.ops

from nsdrive.scenarios.argoverse2.map import connected_groups, same_direction
from nsdrive.scenarios.nuplan.stops import SIGN_REACH_M, StopPolygon, stop_lines
from nsdrive.world.lane_map import Lane, StopLine
from nsdrive.world.types import FloatArray

# py123d's StopZoneType -> our stop line; nuPlan's "turn stop" is a yield line, as in nuplan/stops.py
STOP_KINDS = {
    "TRAFFIC_LIGHT": "traffic_light",
    "STOP_SIGN": "stop_sign",
    "YIELD_SIGN": "yield",
    "TURN_STOP": "yield",
    "PEDESTRIAN_CROSSING": "crosswalk",
}
BEFORE_M = 3.0  # chosen by us: a stop zone reaches at most this far back over the end of the lane before a connector


def with_roadblocks(lanes: Mapping[str, Lane]) -> dict[str, Lane]:
    """Lanes whose roadblock holds parallel lanes of one direction and kind, and whose neighbours are those beside them.

    A lane group is a roadblock; one whose lanes run opposite ways, or are of different kinds, is taken apart. Neighbours
    of one kind and direction share a roadblock, whatever paint is between them.
    """
    first_of: dict[tuple[str, bool, str, bool], str] = {}
    pairs = []
    leader: dict[str, Lane] = {}
    for lane_id, lane in lanes.items():
        lead = leader.setdefault(lane.roadblock_id, lane)
        along = bool(_way(lane.centerline) @ _way(lead.centerline) >= 0.0)
        first = first_of.setdefault((lane.roadblock_id, lane.is_connector, lane.lane_type, along), lane_id)
        pairs.append((first, lane_id))
    beside = {
        lane_id: [_beside(lanes, lane, other) for other in (lane.left_neighbor, lane.right_neighbor)]
        for lane_id, lane in lanes.items()
    }
    pairs += [(lane_id, other) for lane_id, sides in beside.items() for other in sides if other is not None]
    block_of = _named(lanes, connected_groups(lanes, pairs))
    grouped = {
        lane_id: replace(
            lane, roadblock_id=block_of[lane_id], left_neighbor=beside[lane_id][0], right_neighbor=beside[lane_id][1]
        )
        for lane_id, lane in lanes.items()
    }
    return _with_neighbors(grouped)


def _named(lanes: Mapping[str, Lane], first_of: Mapping[str, str]) -> dict[str, str]:
    """Lane -> the name of its roadblock: the lane group of its first lane, numbered where that is taken already."""
    taken: dict[str, str] = {}
    names: dict[str, str] = {}
    for first in dict.fromkeys(first_of.values()):
        group = name = lanes[first].roadblock_id
        number = 1
        while taken.setdefault(name, first) != first:
            number += 1
            name = f"{group}-{number}"
        names[first] = name
    return {lane_id: names[first] for lane_id, first in first_of.items()}


def _beside(lanes: Mapping[str, Lane], lane: Lane, other_id: str | None) -> str | None:
    other = lanes.get(other_id) if other_id is not None else None
    if other is None or other is lane:
        return None
    same_kind = (lane.is_connector, lane.lane_type) == (other.is_connector, other.lane_type)
    return other_id if same_kind and same_direction(lane.centerline, other.centerline) else None


def _with_neighbors(lanes: Mapping[str, Lane]) -> dict[str, Lane]:
    """Neighbours where the source tells none of a whole roadblock: of plain lanes by their places from left to right,
    of connectors by those of the lanes that they join."""
    members: dict[str, list[Lane]] = {}
    for lane in lanes.values():
        members.setdefault(lane.roadblock_id, []).append(lane)
    known = dict(lanes)
    for block in members.values():
        if any(lane.left_neighbor or lane.right_neighbor for lane in block) or block[0].is_connector:
            continue
        ahead = _way(block[0].centerline)
        left = np.array([-ahead[1], ahead[0]])
        row = sorted(block, key=lambda lane: (-float(_middle(lane.centerline) @ left), lane.lane_id))
        for place, lane in enumerate(row):
            known[lane.lane_id] = replace(
                lane,
                left_neighbor=row[place - 1].lane_id if place else None,
                right_neighbor=row[place + 1].lane_id if place + 1 < len(row) else None,
            )
    joins = {
        (lane.roadblock_id, lane.incoming[0], lane.outgoing[0]): lane.lane_id
        for lane in known.values()
        if lane.is_connector and lane.incoming and lane.outgoing
    }
    for block in members.values():
        if not block[0].is_connector or any(lane.left_neighbor or lane.right_neighbor for lane in block):
            continue
        for lane in block:
            if lane.incoming and lane.outgoing:
                before, after = known[lane.incoming[0]], known[lane.outgoing[0]]
                known[lane.lane_id] = replace(
                    lane,
                    left_neighbor=joins.get((lane.roadblock_id, before.left_neighbor or "", after.left_neighbor or "")),
                    right_neighbor=joins.get(
                        (lane.roadblock_id, before.right_neighbor or "", after.right_neighbor or "")
                    ),
                )
    return known


def with_stop_lines(
    zones: Mapping[str, tuple[Any, str, tuple[str, ...]]], lanes: Mapping[str, Lane], lit_lanes: frozenset[str]
) -> tuple[dict[str, Lane], dict[str, StopLine]]:
    """Lanes that know the lights' and signs' stop lines at their start, and all stop lines.

    zones: id -> polygon, name of py123d's type, the lanes that it names (those before the line, or those behind it).
    A zone is for the connectors (or, where it names them, the lanes) over whose first metres it lies, or over the end
    of the lane before them. One of unknown type is a traffic light's where such a connector has a light in the log.
    """
    stops = {
        zone_id: StopPolygon(
            stop_id=zone_id, polygon=polygon, kind=STOP_KINDS.get(kind, "unknown"), connectors=frozenset()
        )
        for zone_id, (polygon, kind, _) in zones.items()
    }
    if not stops:
        return dict(lanes), {}
    stop_ids = list(stops)
    tree = shapely.STRtree([stops[zone_id].polygon for zone_id in stop_ids])
    known = {}
    for lane_id, lane in lanes.items():
        pieces = [_piece(lane.centerline, 0.0, SIGN_REACH_M)]
        pieces += [_piece(lanes[other].centerline, -BEFORE_M, 0.0) for other in lane.incoming]
        touched = sorted({int(row) for row in tree.query(pieces, predicate="intersects")[1]})
        mine = []
        for zone_id in (stop_ids[row] for row in touched):
            named = zones[zone_id][2]
            kind = stops[zone_id].kind
            fits = not named or lane_id in named or not set(lane.incoming).isdisjoint(named)
            is_start = lane.is_connector or (lane_id in named and _starts_at(lane, stops[zone_id].polygon))
            is_told = kind in ("traffic_light", "stop_sign") or (kind == "unknown" and lane_id in lit_lanes)
            if fits and is_start and is_told:
                mine.append(zone_id)
        known[lane_id] = replace(lane, stop_line_ids=tuple(mine))
    return known, stop_lines(stops, known)


def _starts_at(lane: Lane, polygon: Any) -> bool:
    ends = shapely.points(lane.centerline[[0, -1]])
    start_m, end_m = shapely.distance(ends, polygon)
    return bool(start_m <= end_m)


def _piece(line: FloatArray, from_m: float, to_m: float) -> Any:
    """The first (from 0) or last (from a negative number on) metres of a line."""
    whole = shapely.LineString(line)
    ends = (max(0.0, whole.length + from_m), whole.length) if from_m < 0 else (from_m, min(to_m, whole.length))
    return shapely.ops.substring(whole, *ends)


def _way(line: FloatArray) -> FloatArray:
    """(2,) from a line's start to its end."""
    return line[-1] - line[0]


def _middle(line: FloatArray) -> FloatArray:
    return line[len(line) // 2]
