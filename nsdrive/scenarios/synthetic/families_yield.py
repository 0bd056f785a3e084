"""Families about who has the way where no light says it: a left turn against oncoming traffic, an unsignalised crossing."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.layouts import crossing
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, PAST_S, Draft, Hold, SceneRejectedError, Stage, Way


def unprotected_left(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A left turn on a green that oncoming traffic shares; it comes with gaps, some of them long enough."""
    layout = crossing(
        rng, turn="left", limits_mps=(8.9, 11.2, 13.4), lanes=(1, 2), phasing="permissive", keep=("north",)
    )
    stage = Stage(rng, layout, duration_s)
    way = stage.through(stage.pick_movement("south", "left"))
    assert stage.plan
    assert way.movement
    speed = min(way.limit_mps * float(rng.uniform(0.5, 0.95)), 11.0)
    distance_m = max(speed**2 / 3.0 - 4.0, 6.0) + float(rng.uniform(0.0, 25.0))
    connector = way.movement.connector_id
    stage.plan = stage.plan.with_green(connector, 25.0).shifted(connector, green_at_s=-float(rng.uniform(1.0, 4.0)))
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    arrives_s = PAST_S + distance_m / max(0.7 * speed, 4.0)
    passes_s = _stream(rng, arrives_s)
    movements = [m for m in stage.network.movements if (m.from_road, m.turn) == ("north", "straight")]
    if not movements:
        raise SceneRejectedError("nobody comes straight on from the other side")
    for at_s in passes_s:
        there = stage.through(movements[int(rng.integers(len(movements)))])
        _passing(stage, there, there.after_m, at_s, there.limit_mps * float(rng.uniform(0.75, 0.95)))
    if passes_s:
        stage.wait_at(stage.ego, way.line_m + 1.0, Hold(from_s=0.0, to_s=_gap_s(passes_s, arrives_s)))
    north = [("north", i) for i in range(stage.network.roads["north"].lanes_backward)]
    populate(stage, traffic, clear=north)
    return Draft(
        stage=stage,
        scenario_type="starting_unprotected_cross_turn",
        notes={"distance_m": distance_m, "initial_speed_mps": speed, "oncoming": len(passes_s)},
    )


def unsignalised_crossing(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """Two small roads cross without light or sign; whoever comes from the right has the way."""
    layout = crossing(rng, kind="default", limits_mps=(8.9, 11.2), lanes=(1,), keep=("east",))
    stage = Stage(rng, layout, duration_s)
    way = stage.through(stage.pick_movement("south", "straight"))
    speed = way.limit_mps * float(rng.uniform(0.5, 0.9))
    distance_m = speed**2 / (2 * float(rng.uniform(1.1, 1.8))) + float(rng.uniform(6.0, 20.0))
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    arrives_s = PAST_S + distance_m / max(0.8 * speed, 3.0)
    passes_s = _stream(rng, arrives_s, most=3)
    movements = [m for m in stage.network.movements if m.from_road == "east" and m.turn != "left"]
    for at_s in passes_s:
        there = stage.through(movements[int(rng.integers(len(movements)))])
        _passing(stage, there, there.after_m, at_s, there.limit_mps * float(rng.uniform(0.6, 0.85)))
    if passes_s:
        stage.wait_at(stage.ego, way.line_m, Hold(from_s=0.0, to_s=_gap_s(passes_s, arrives_s)))
    approaches = {(m.from_road, m.from_index) for m in stage.network.movements}
    populate(stage, traffic, clear=approaches)
    return Draft(
        stage=stage,
        scenario_type="traversing_intersection",
        notes={"distance_m": distance_m, "initial_speed_mps": speed, "from_right": len(passes_s)},
    )


FAMILIES = {"unprotected_left": unprotected_left, "unsignalised_crossing": unsignalised_crossing}


def _stream(rng: np.random.Generator, arrives_s: float, most: int = 5) -> list[float]:
    """When cars leave the junction: nobody in a fifth of the scenes, else from before the ego is there, with gaps of 2 to 8 s."""
    if rng.random() < 0.2:
        return []
    times = [max(PAST_S + 1.5, arrives_s + float(rng.uniform(-2.0, 2.5)))]
    for _ in range(int(rng.integers(most))):
        times.append(times[-1] + 1.9 + float(rng.exponential(2.0)))
    return times


def _passing(stage: Stage, way: Way, rear_m: float, at_s: float, speed_mps: float) -> None:
    """A car at constant speed whose rear bumper is at rear_m at at_s."""
    size = stage.vehicle_size(LIGHT_VEHICLES)
    start_m = rear_m - speed_mps * at_s
    if start_m < 1.0:
        return  # it would have to come from beyond the map
    stage.add_vehicle(
        way, rear_m=start_m, speed_mps=speed_mps, desired_mps=speed_mps, size=size, stops=(), essential=True
    )


def _gap_s(passes_s: list[float], arrives_s: float) -> float:
    """When a nominal driver goes: after the car behind which there are at least 6 s, and not before it is there."""
    for at_s, following_s in zip(passes_s, [*passes_s[1:], np.inf], strict=True):
        if following_s - at_s >= 6.0 and at_s >= arrives_s - 1.0:
            return at_s
    return passes_s[-1]
