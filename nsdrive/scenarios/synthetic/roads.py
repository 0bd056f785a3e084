"""From a description of roads and junctions to a complete lane map, right-hand traffic.

    network = build_network("demo", roads=[Road(name="south", reference=sweep((0, -20, -1.57), [(0, 0.0), (300, 0.01)]), ...)],
                            junctions=[Junction(name="x", arms=(("south", "start"), ...), kind="traffic_light", ...)])

A road is a reference line between its two directions; its lanes are exact offsets of that line, cut into segments with
a short connector between two of them, because in nuPlan a lane never joins a lane. A junction joins road ends by
connectors for every allowed movement. All geometry is numpy; no polygon is ever united here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsdrive.scenarios.synthetic.junctions import lay_junction
from nsdrive.scenarios.synthetic.road_parts import CROSSWALK_M, SPACING_M, Junction, Movement, Parts, Road
from nsdrive.world.lane_map import Crosswalk, Lane, LaneMap, StopLine

JOINT_M = 6.0  # chosen by us: length of the connector between two segments of a road
SEGMENT_M = 90.0  # chosen by us: nuPlan's lanes are mostly 30-150 m long
KERB_STEP = 4  # kerbs and walkways keep every fourth point: a chord of 2.8 m is 2 cm off at a radius of 50 m


@dataclass(frozen=True, kw_only=True, eq=False)
class RoadNetwork:
    """The lane map and what it was made of, so that scripted traffic finds its way without searching."""

    lane_map: LaneMap
    roads: Mapping[str, Road]
    junctions: Mapping[str, Junction]
    movements: tuple[Movement, ...]
    chains: Mapping[tuple[str, str, int], tuple[str, ...]]  # (road, "f" | "b", lane index) -> lanes and joints in order


def build_network(name: str, *, roads: Sequence[Road], junctions: Sequence[Junction] = ()) -> RoadNetwork:
    """The lane map of these roads and junctions."""
    parts = Parts()
    for road in roads:
        _lay_road(parts, road)
    by_name = {road.name: road for road in roads}
    for junction in junctions:
        lay_junction(parts, junction, by_name)
    lane_map = LaneMap(
        name=name,
        lanes=_linked(parts),
        intersections=parts.intersections,
        crosswalks=parts.crosswalks,
        stop_lines=parts.stop_lines,
        signals=tuple(parts.signals),
        drivable_area=tuple(parts.drivable),
        walkways=tuple(parts.walkways),
        stop_signs=tuple(parts.stop_signs),
    )
    return RoadNetwork(
        lane_map=lane_map,
        roads=by_name,
        junctions={junction.name: junction for junction in junctions},
        movements=tuple(parts.movements),
        chains=parts.chains,
    )


def _linked(parts: Parts) -> dict[str, Lane]:
    incoming: dict[str, list[str]] = {lane_id: [] for lane_id in parts.lanes}
    outgoing: dict[str, list[str]] = {lane_id: [] for lane_id in parts.lanes}
    for a, b in parts.links:
        outgoing[a].append(b)
        incoming[b].append(a)
    return {
        lane_id: replace(lane, incoming=tuple(incoming[lane_id]), outgoing=tuple(outgoing[lane_id]))
        for lane_id, lane in parts.lanes.items()
    }


def _lay_road(parts: Parts, road: Road) -> None:
    samples = len(road.reference)
    joint = round(JOINT_M / SPACING_M)
    segments = max(1, round((samples - 1) * SPACING_M / SEGMENT_M))
    lane_samples = (samples - 1 - joint * (segments - 1)) / segments
    spans = []  # (first, last) sample of each lane segment, along the reference line
    for k in range(segments):
        first = round(k * (lane_samples + joint))
        spans.append((first, samples - 1 if k == segments - 1 else round(first + lane_samples)))

    for way, count, sign in (("f", road.lanes_forward, -1), ("b", road.lanes_backward, 1)):
        lines = [road.line(sign * k * road.lane_width_m / 2) for k in range(2 * count + 1)]
        driven = spans
        if way == "b":
            lines = [line[::-1] for line in lines]
            driven = [(samples - 1 - last, samples - 1 - first) for first, last in reversed(spans)]
        pieces = []  # (roadblock id, first, last, is joint) in driving order
        stops: dict[str, str] = {}  # joint's roadblock -> stop line
        for k, (first, last) in enumerate(driven):
            pieces.append((f"{road.name}-{way}{k}", first, last, False))
            if k + 1 < len(driven):
                pieces.append((f"{road.name}-{way}{k}j", last, driven[k + 1][0], True))
        for q in road.crosswalk_joints:
            k = q if way == "f" else segments - 2 - q
            stops[f"{road.name}-{way}{k}j"] = stop_id = f"{road.name}-stop-{way}{k}"
            at = driven[k][1]
            parts.stop_lines[stop_id] = StopLine(
                stop_line_id=stop_id, line=np.array([lines[0][at], lines[-1][at]]), kind="crosswalk"
            )
        for block, first, last, is_joint in pieces:
            cut = slice(first, last + 1)
            begins = first if way == "f" else samples - 1 - last
            limit_mps = road.limit_at(begins * SPACING_M)
            for i in range(count):
                parts.lanes[f"{block}-{i}"] = Lane(
                    lane_id=f"{block}-{i}",
                    roadblock_id=block,
                    is_connector=is_joint,
                    centerline=lines[2 * i + 1][cut],
                    left_boundary=lines[2 * i][cut],
                    right_boundary=lines[2 * i + 2][cut],
                    speed_limit_mps=limit_mps,
                    left_neighbor=f"{block}-{i - 1}" if i > 0 else None,
                    right_neighbor=f"{block}-{i + 1}" if i + 1 < count else None,
                    stop_line_ids=(stops[block],) if block in stops else (),
                    left_marking=road.centre_marking if i == 0 else "dashed_white",
                    right_marking="solid_white" if i + 1 == count else "dashed_white",
                )
        for i in range(count):
            chain = tuple(f"{block}-{i}" for block, *_ in pieces)
            parts.chains[road.name, way, i] = chain
            parts.links.extend(itertools.pairwise(chain))

    for q in road.crosswalk_joints:
        middle, half = (spans[q][1] + spans[q + 1][0]) / 2, CROSSWALK_M / 2 / SPACING_M
        ends = np.array([round(middle - half), round(middle + half)])
        polygon = np.concatenate([road.line(road.edge_m(-1))[ends], road.line(road.edge_m(1))[ends[::-1]]])
        parts.crosswalks[f"{road.name}-walk-{q}"] = Crosswalk(crosswalk_id=f"{road.name}-walk-{q}", polygon=polygon)

    left, right = road.line(road.edge_m(1)), road.line(road.edge_m(-1))
    left_out, right_out = (road.line(road.edge_m(side) + side * road.walkway_m) for side in (1, -1))
    starts = [first for first, _ in spans]
    for first, last in zip(starts, [*starts[1:], samples - 1], strict=True):
        keep = np.append(np.arange(first, last, KERB_STEP), last)
        parts.drivable.append(np.concatenate([right[keep], left[keep][::-1]]))
        if road.walkway_m > 0:
            parts.walkways.append(np.concatenate([left[keep], left_out[keep][::-1]]))
            parts.walkways.append(np.concatenate([right_out[keep], right[keep][::-1]]))
