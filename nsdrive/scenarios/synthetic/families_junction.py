"""Families about a junction's shape and order: turning left and right at a light, a stop sign."""

from __future__ import annotations

import numpy as np

from nsdrive.scenarios.synthetic.background import populate
from nsdrive.scenarios.synthetic.layouts import crossing
from nsdrive.scenarios.synthetic.stage import LIGHT_VEHICLES, Draft, Stage


def left_turn(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A left turn on a green that no oncoming car shares."""
    return _turn(rng, duration_s, traffic, "left")


def right_turn(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """A right turn on green."""
    return _turn(rng, duration_s, traffic, "right")


def stop_sign(rng: np.random.Generator, duration_s: float, traffic: float) -> Draft:
    """An all-way stop: the ego stops, waits for its turn, and goes straight on or turns."""
    turn = str(rng.choice(("straight", "left", "right"), p=(0.6, 0.2, 0.2)))
    layout = crossing(rng, turn=turn, kind="stop_sign", lanes=(1, 2), limits_mps=(8.9, 11.2, 13.4))
    stage = Stage(rng, layout, duration_s)
    way = stage.through(stage.pick_movement("south", turn))
    speed = way.limit_mps * float(rng.uniform(0.5, 1.0))
    distance_m = speed**2 / (2 * float(rng.uniform(1.1, 2.0))) + float(rng.uniform(4.0, 18.0))
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    leads = int(rng.random() < 0.25)
    for _ in range(leads):
        size = stage.vehicle_size(LIGHT_VEHICLES)
        stage.add_vehicle(way, rear_m=way.line_m - size[1] - 0.8, speed_mps=0.0, size=size, essential=True)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type=f"stopping_at_stop_sign_{'with' if leads else 'without'}_lead",
        notes={"turn": turn, "distance_m": distance_m, "initial_speed_mps": speed, "leads": leads},
    )


FAMILIES = {"left_turn": left_turn, "right_turn": right_turn, "stop_sign": stop_sign}


def _turn(rng: np.random.Generator, duration_s: float, traffic: float, turn: str) -> Draft:
    layout = crossing(rng, turn=turn, limits_mps=(8.9, 11.2, 13.4, 15.6))
    stage = Stage(rng, layout, duration_s)
    way = stage.through(stage.pick_movement("south", turn))
    assert stage.plan
    assert way.movement
    connector = way.movement.connector_id
    waits = bool(rng.random() < 0.3)
    if waits:  # the turn begins from a red light
        green_at_s = float(rng.uniform(2.2, 4.5))
        speed = way.limit_mps * float(rng.uniform(0.0, 0.5))
        distance_m = speed**2 / 3.0 + float(rng.uniform(1.5, 12.0))
        stage.plan = stage.plan.with_green(connector, 10.0).shifted(connector, green_at_s=green_at_s)
    else:
        speed = min(way.limit_mps * float(rng.uniform(0.5, 0.95)), 12.0)
        distance_m = max(speed**2 / 3.0 - 6.0, 3.0) + float(rng.uniform(0.0, 28.0))
        green_at_s = -float(rng.uniform(1.0, 4.0))
        least_s = 2.0 + distance_m / max(0.6 * speed, 3.0) + 4.0 - green_at_s
        stage.plan = stage.plan.with_green(connector, least_s).shifted(connector, green_at_s=green_at_s)
    stage.place_ego(way, front_at_anchor_m=way.line_m - distance_m, speed_mps=speed)
    populate(stage, traffic)
    return Draft(
        stage=stage,
        scenario_type=f"starting_{turn}_turn",
        notes={
            "distance_m": distance_m,
            "initial_speed_mps": speed,
            "green_at_s": green_at_s,
            "from_red": waits,
            "phasing": stage.network.junctions["x"].phasing,
        },
    )
