"""A scenario on a map of nuPlan's shape: lanes and connectors alternate, a connector joins exactly two lanes.

Our own generated maps are of that shape, and stay as they are. Elsewhere (Argoverse 2) lanes follow lanes and connectors
follow connectors, or one connector joins several lanes. What is done about it:

    lane A -> lane B                        the last two metres of A, and of its parallel lanes, become a connector "A>"
    lane A -> C -> D -> lane B              connectors in a row become one, "C+D"
    connector C between several lanes       one connector for each pair of lanes, as nuPlan has it, one upon the other
    connector that begins or ends nowhere   left out: it is at the edge of the map

Traffic lights and the route follow: a joined connector shows the first light of its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely

from nsdrive.world.lane_map import Lane, LaneMap
from nsdrive.world.types import FloatArray, Scenario

CUT_M = 2.0  # chosen by us: long enough for a baseline with several nodes; of a short lane, a third
MAX_IN_A_ROW = 8  # chosen by us: more connectors in a row than that have not been seen


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Connectors in a row, and the lanes that they join."""

    before: str
    connectors: tuple[str, ...]
    behind: str


def alternated(scenario: Scenario) -> Scenario:
    """The scenario on a map of nuPlan's shape; itself where its map is of that shape already."""
    if is_alternating(scenario.lane_map):
        return scenario
    lanes = _with_tails(scenario.lane_map.lanes)
    ways = _named(_ways(lanes))
    joined = {name: _joined(name, way, lanes) for name, way in ways.items()}
    return replace(
        scenario,
        lane_map=replace(scenario.lane_map, lanes=_linked(lanes, joined)),
        route_roadblock_ids=_route(scenario, lanes),
        lights=tuple(_lights(lights, ways) for lights in scenario.lights),
    )


def is_alternating(lane_map: LaneMap) -> bool:
    """Whether lanes and connectors alternate and every connector joins exactly two lanes."""
    for lane in lane_map.lanes.values():
        if any(lane_map.lanes[n].is_connector == lane.is_connector for n in (*lane.incoming, *lane.outgoing)):
            return False
        if lane.is_connector and (len(lane.incoming), len(lane.outgoing)) != (1, 1):
            return False
    return True


# ---- lanes that follow lanes --------------------------------------------------------------------------------------


def _with_tails(lanes: Mapping[str, Lane]) -> dict[str, Lane]:
    """Lanes of a roadblock of which one leads to a lane end CUT_M earlier; what is cut off is a connector."""
    blocks = {
        lane.roadblock_id
        for lane in lanes.values()
        if not lane.is_connector and any(not lanes[n].is_connector for n in lane.outgoing)
    }
    cut: dict[str, Lane] = {}
    tail_of: dict[str, str] = {}
    for lane in lanes.values():
        if lane.is_connector or lane.roadblock_id not in blocks or not lane.outgoing:
            cut[lane.lane_id] = lane
            continue
        tail_of[lane.lane_id] = tail_id = f"{lane.lane_id}>"
        length = shapely.LineString(lane.centerline).length
        at = length - min(CUT_M, length / 3)
        middles = _split(lane.centerline, at)
        left, right = (
            _split(side, float(shapely.LineString(side).project(shapely.Point(middles[1][0]))))
            for side in (lane.left_boundary, lane.right_boundary)
        )
        kept, tail = (
            replace(lane, centerline=middles[k], left_boundary=left[k], right_boundary=right[k], area=None)
            for k in (0, 1)
        )
        cut[lane.lane_id] = replace(kept, outgoing=(tail_id,))
        cut[tail_id] = replace(
            tail,
            lane_id=tail_id,
            roadblock_id=f"{lane.roadblock_id}>",
            is_connector=True,
            incoming=(lane.lane_id,),
            left_neighbor=None,
            right_neighbor=None,
            stop_line_ids=(),
        )
    return {
        lane_id: replace(
            lane, incoming=tuple(n if lane_id.removesuffix(">") == n else tail_of.get(n, n) for n in lane.incoming)
        )
        for lane_id, lane in cut.items()
    }


def _split(line: FloatArray, at_m: float) -> tuple[FloatArray, FloatArray]:
    """The line up to an arc length, and from there; both have a length."""
    points = np.asarray(line, dtype=float)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = float(np.clip(at_m, 0.01 * arc[-1], 0.99 * arc[-1]))
    there = np.array([np.interp(at, arc, points[:, 0]), np.interp(at, arc, points[:, 1])])
    return (
        np.concatenate([points[arc < at - 1e-6], there[None]]),
        np.concatenate([there[None], points[arc > at + 1e-6]]),
    )


# ---- connectors in a row ------------------------------------------------------------------------------------------


def _ways(lanes: Mapping[str, Lane]) -> Iterator[_Way]:
    """Every way from a lane to the next one, in the order of the lanes."""

    def onward(before: str, row: tuple[str, ...]) -> Iterator[_Way]:
        for n in lanes[row[-1]].outgoing:
            if not lanes[n].is_connector:
                yield _Way(before=before, connectors=row, behind=n)
            elif n not in row and len(row) < MAX_IN_A_ROW:
                yield from onward(before, (*row, n))

    for lane in lanes.values():
        if not lane.is_connector:
            for n in lane.outgoing:
                yield from onward(lane.lane_id, (n,))


def _named(ways: Iterator[_Way]) -> dict[str, _Way]:
    """A name each: the connector's own where it is the only one."""
    listed = [("+".join(way.connectors), way) for way in ways]
    seen = Counter(name for name, _ in listed)
    return {name if seen[name] == 1 else f"{name}@{way.before}>{way.behind}": way for name, way in listed}


def _joined(name: str, way: _Way, lanes: Mapping[str, Lane]) -> Lane:
    parts = [lanes[n] for n in way.connectors]
    if len(parts) == 1:
        return replace(parts[0], lane_id=name, incoming=(way.before,), outgoing=(way.behind,))
    turns = [part.turn for part in parts if part.turn != "straight"]
    return replace(
        parts[0],
        lane_id=name,
        roadblock_id="+".join(part.roadblock_id for part in parts),
        centerline=_chain([part.centerline for part in parts]),
        left_boundary=_chain([part.left_boundary for part in parts]),
        right_boundary=_chain([part.right_boundary for part in parts]),
        incoming=(way.before,),
        outgoing=(way.behind,),
        left_neighbor=None,
        right_neighbor=None,
        turn=turns[0] if turns else "straight",
        intersection_id=next((part.intersection_id for part in parts if part.intersection_id), None),
        stop_line_ids=tuple(dict.fromkeys(n for part in parts for n in part.stop_line_ids)),
        area=None,
    )


def _chain(lines: Sequence[FloatArray]) -> FloatArray:
    """One polyline; a point that ends one and begins the next is there once."""
    points = np.concatenate(lines)
    steps = np.hypot(*np.diff(points, axis=0).T)
    return points[np.concatenate([[True], steps > 1e-6])]


def _linked(lanes: Mapping[str, Lane], joined: Mapping[str, Lane]) -> dict[str, Lane]:
    """Lanes, then connectors; lanes know the new ones."""
    incoming: dict[str, list[str]] = {}
    outgoing: dict[str, list[str]] = {}
    for connector in joined.values():
        outgoing.setdefault(connector.incoming[0], []).append(connector.lane_id)
        incoming.setdefault(connector.outgoing[0], []).append(connector.lane_id)
    kept = {
        lane_id: replace(lane, incoming=tuple(incoming.get(lane_id, ())), outgoing=tuple(outgoing.get(lane_id, ())))
        for lane_id, lane in lanes.items()
        if not lane.is_connector
    }
    names = kept.keys() | joined.keys()
    return {
        lane_id: replace(
            lane,
            left_neighbor=lane.left_neighbor if lane.left_neighbor in names else None,
            right_neighbor=lane.right_neighbor if lane.right_neighbor in names else None,
        )
        for lane_id, lane in (*kept.items(), *joined.items())
    }


# ---- what refers to lanes and roadblocks --------------------------------------------------------------------------


def _route(scenario: Scenario, lanes: Mapping[str, Lane]) -> tuple[str, ...]:
    """Roadblocks in driving order, connectors in a row as one."""
    is_connector = {lane.roadblock_id: lane.is_connector for lane in lanes.values()}
    route: list[str] = []
    row: list[str] = []
    for block in (block for block in scenario.route_roadblock_ids if block in is_connector):
        if is_connector[block]:
            row.append(block)
            continue
        route += ["+".join(row)] if row else []
        route.append(block)
        row = [f"{block}>"] if f"{block}>" in is_connector else []
    return (*route, *(["+".join(row)] if row and not row[-1].endswith(">") else []))


def _lights(lights: Mapping[str, str], ways: Mapping[str, _Way]) -> dict[str, str]:
    shown = ((name, next((lights[n] for n in way.connectors if n in lights), None)) for name, way in ways.items())
    return {name: state for name, state in shown if state is not None}
