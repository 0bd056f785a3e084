"""Edits of what the ego is told: the light that it comes to, and where its route leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nsdrive.world.edits_scene import Applied, Before
from nsdrive.world.route import extend_straight, roadblock_route
from nsdrive.world.types import INTERVAL_S

AMBER_S = 3.5  # MUTCD section 4F.17: 3 to 6 s; then red
PASSED_M = 1.0  # chosen by us, the planners' own: a nose this far over the line still waits there
NEAR_M = 40.0  # chosen by us: without intersections, connectors that begin so near each other are of one
ON_M = 300.0  # chosen by us: so far a new route leads on, straight, after its turn
SHOWN = {"green": "green", "yellow": "amber", "red": "red"}


def light_set(before: Before, state: str) -> Applied:
    """The next signal on the ego's way shows `state` from the anchor on; amber for AMBER_S, then red.

    What has shown the same all the time (its phase) does so with it. While it is green or amber everything else at the junction is
    red; where it is red the others stay as they are. Who is on the road does what it did, whatever its light.
    """
    scenario, tick = before.scenario, before.tick
    mine, distance_m = _next_signal(before)
    if all(lights.get(mine) == state for lights in scenario.lights[tick : before.ticks.stop]):
        raise ValueError(f"The light {distance_m:.0f} m ahead is {SHOWN[state]} already, and stays so")
    there = [c for c in _junction(before, mine) if any(c in lights for lights in scenario.lights)]
    phase = [c for c in there if all(lights.get(c) == lights.get(mine) for lights in scenario.lights)]
    others = [c for c in there if c not in phase] if state != "red" else []
    made: dict[tuple[int, str], Mapping[str, str]] = {}
    lights = list(scenario.lights)
    for k in range(tick, scenario.n_ticks):
        now = "red" if state == "yellow" and (k - tick) * INTERVAL_S >= AMBER_S else state
        key = (id(scenario.lights[k]), now)  # ticks without a change share one mapping
        if key not in made:
            made[key] = {**scenario.lights[k], **dict.fromkeys(others, "red"), **dict.fromkeys(phase, now)}
        lights[k] = made[key]
    words = f"the light {distance_m:.0f} m ahead is {SHOWN[state]} from here on"
    words += f" and red after {AMBER_S:g} s" if state == "yellow" else ""
    words += ", its other approaches are red" if others else ""
    return Applied(scenario=replace(scenario, lights=tuple(lights)), about=mine, words=words)


def goal_set(before: Before, turn: str) -> Applied:
    """The route turns this way at the next junction that the ego's lane leads to, and goes straight on from there."""
    lane_map, path = before.scenario.lane_map, before.path
    lanes = lane_map.lanes
    passed: list[str] = []
    at = path.index_at(before.progress_m)
    ways = [lane_id for lane_id in dict.fromkeys(path.lane_ids[at:]) if lane_id is not None]
    for lane_id, following in zip(ways, (*ways[1:], None), strict=True):
        passed.append(lane_id)
        if lanes[lane_id].is_connector:
            continue
        options = {lanes[o].turn: o for o in reversed(lanes[lane_id].outgoing) if o in lanes and lanes[o].is_connector}
        if not options or (len(options) == 1 and following in options.values()):
            continue
        if turn not in options:
            raise ValueError(f"The ego's lane does not lead {turn} at the next junction: {', '.join(sorted(options))}")
        if following is not None and lanes[following].is_connector and lanes[following].turn == turn:
            raise ValueError(f"The route leads {turn} at the next junction already")
        on = extend_straight(lane_map, (*passed, options[turn]), ON_M)
        start = np.flatnonzero([p == lane_id for p in path.lane_ids])[-1]
        away_m = max(0.0, float(path.progress_m[start]) - before.front_m)
        end = np.asarray(lanes[on[-1]].centerline)[-1]
        after = replace(
            before.scenario,
            route_roadblock_ids=roadblock_route(lane_map, on),
            goal_m=(float(end[0]), float(end[1])),
        )
        goes = "straight on" if turn == "straight" else turn
        return Applied(scenario=after, about=None, words=f"the route leads {goes} at the junction {away_m:.0f} m ahead")
    raise ValueError("There is no junction ahead at which the ego's lane leads more than one way")


def _next_signal(before: Before) -> tuple[str, float]:
    """The first connector ahead on the ego's way that has a light at the anchor, and how far its start is from the bumper."""
    path, lights = before.path, before.scenario.lights[before.tick]
    lanes = before.scenario.lane_map.lanes
    previous = None
    for progress, lane_id in zip(path.progress_m, path.lane_ids, strict=True):
        begins, previous = lane_id != previous, lane_id
        if not begins or lane_id is None or progress < before.front_m - PASSED_M:
            continue
        if lanes[lane_id].is_connector and lights.get(lane_id) in SHOWN:
            return lane_id, max(0.0, float(progress) - before.front_m)
    raise ValueError(
        "No signal on the route: the source does not tell of traffic lights"
        if "traffic_lights" in before.scenario.unknown
        else "No signal on the route ahead of the ego"
    )


def _junction(before: Before, connector: str) -> list[str]:
    """The connectors of one junction, this one among them."""
    lanes = before.scenario.lane_map.lanes
    here = lanes[connector]
    if here.intersection_id is not None:
        return [c for c, lane in lanes.items() if lane.is_connector and lane.intersection_id == here.intersection_id]
    start = here.centerline[0]
    near = (c for c, lane in lanes.items() if lane.is_connector and np.hypot(*(lane.centerline[0] - start)) < NEAR_M)
    return list(near)
