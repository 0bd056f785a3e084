"""Places to drive: a road without junctions, and a junction of three or four arms.

`open_road` and `crossing` draw a place from a seed; every one is turned and shifted by it, so that nothing can be learnt
from the axes. `plain_road` and `plain_crossing` are exactly what they are asked for. Road names are compass names of the
unturned layout: the ego comes from the south.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsdrive.scenarios.synthetic.road_parts import Junction, Road, sweep
from nsdrive.scenarios.synthetic.roads import RoadNetwork, build_network

SPEED_LIMITS_MPS = (8.9, 11.2, 13.4, 15.6, 17.9)  # 20, 25, 30, 35 and 40 mph
APPROACH_M = 245.0  # chosen by us: longest stop (100 m) plus 2 s of history plus room for traffic behind
EXIT_M = 430.0  # chosen by us: 15 s at 17.9 m/s, 60 m, and room
SIDE_M = 175.0
HEADINGS = {"south": -math.pi / 2, "east": 0.0, "north": math.pi / 2, "west": math.pi}
EXIT_OF = {"straight": "north", "left": "west", "right": "east"}  # for the ego, which comes from the south


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A network, and its one junction if it has one: name, centre and radius (to the stop lines)."""

    network: RoadNetwork
    junction: str | None = None
    centre_m: tuple[float, float] = (0.0, 0.0)
    radius_m: float = 0.0


def open_road(
    rng: np.random.Generator,
    *,
    lanes: Sequence[int] = (1, 2, 3),
    limits_mps: Sequence[float] = SPEED_LIMITS_MPS,
    bend: tuple[float, float, float] | None = None,
    gentle: float = 1.0,
    crosswalk_joint: int | None = None,
    parking: bool | None = None,
    length_m: float = 620.0,
    centre_marking: str | None = None,
) -> Layout:
    """One two-way road, "main". bend: (where it starts [m], radius [m], angle [rad], left positive); else gentle curves.
    parking, centre_marking: drawn where not given."""
    forward = int(rng.choice(lanes))
    x, y, heading = _anywhere(rng)
    knots = _gentle(rng, length_m, gentle) if bend is None else bend_knots(*bend, length_m)
    road = Road(
        name="main",
        reference=sweep((x, y, heading), knots),
        lanes_forward=forward,
        lanes_backward=max(1, min(3, forward + int(rng.integers(-1, 2)))),
        lane_width_m=_lane_width(rng),
        speed_limit_mps=float(rng.choice(limits_mps)),
        parking_m=2.3 if (rng.random() < 0.35 if parking is None else parking) else 0.0,
        walkway_m=float(np.round(rng.uniform(2.2, 3.6), 1)),
        centre_marking=centre_marking or ("dashed_yellow" if forward == 1 and rng.random() < 0.3 else "double_yellow"),
        crosswalk_joints=() if crosswalk_joint is None else (crosswalk_joint,),
    )
    return Layout(network=build_network("main", roads=[road]))


def crossing(
    rng: np.random.Generator,
    *,
    turn: str = "straight",
    kind: str = "traffic_light",
    limits_mps: Sequence[float] = SPEED_LIMITS_MPS,
    lanes: Sequence[int] = (1, 2, 3),
    phasing: str | None = None,
    keep: Sequence[str] = (),
) -> Layout:
    """A junction "x" whose arm "south" is the ego's; every arm that the ego's turn needs is there, and those to keep.
    phasing: drawn where not given."""
    main, cross = int(rng.choice(lanes)), int(rng.choice((1, 2) if kind == "traffic_light" else (1,)))
    counts = {"south": main, "north": main, "east": cross, "west": cross}
    names = ["south", "east", "north", "west"]
    spare = [name for name in ("east", "north", "west") if name != EXIT_OF[turn] and name not in keep]
    if rng.random() < 0.22 and spare:
        gone = spare[int(rng.integers(len(spare)))]
        names.remove(gone)
        if gone == "north" and main > 2:
            counts["south"] = counts["north"] = 2
    width = _lane_width(rng)
    limit = {axis: float(rng.choice(limits_mps)) for axis in ("main", "cross")}
    parking = {axis: 2.3 if rng.random() < 0.3 else 0.0 for axis in ("main", "cross")}
    walkway_m = float(np.round(rng.uniform(2.2, 3.4), 1))
    axis_of = {"south": "main", "north": "main", "east": "cross", "west": "cross"}
    half = {name: counts[name] * width + 0.35 + parking[axis_of[name]] for name in names}
    with_crosswalks = rng.random() < 0.75
    zone_m = 5.2 if with_crosswalks else 2.0
    corner_m = float(rng.uniform(walkway_m + 2.0, walkway_m + 6.5))
    x, y, turned = _anywhere(rng)
    tilt = float(rng.uniform(-0.12, 0.12))  # the crossing road is rarely quite perpendicular
    roads, radius = [], 0.0
    for name in names:
        axis = axis_of[name]
        beside = max([half[other] for other in names if axis_of[other] != axis], default=6.0)
        setback = beside + abs(math.tan(tilt)) * half[name] + corner_m + zone_m
        radius = max(radius, setback)
        heading = turned + HEADINGS[name] + (tilt if axis == "cross" else 0.0) + float(rng.uniform(-0.02, 0.02))
        shift = float(rng.uniform(-0.7, 0.7))  # lateral offset of one arm against the other
        start = (
            x + setback * math.cos(heading) - shift * math.sin(heading),
            y + setback * math.sin(heading) + shift * math.cos(heading),
            heading,
        )
        length = APPROACH_M if name == "south" else EXIT_M if name == EXIT_OF[turn] else SIDE_M
        roads.append(
            Road(
                name=name,
                reference=sweep(start, _gentle(rng, length, 1.0 if length > SIDE_M else 0.5, straight_m=28.0)),
                lanes_forward=counts[name],
                lanes_backward=counts[name],
                lane_width_m=width,
                speed_limit_mps=limit[axis],
                parking_m=parking[axis],
                walkway_m=walkway_m,
            )
        )
    roomy = all(counts[name] >= 2 for name in names) and "north" in names
    if phasing is None:
        phasing = "protected" if kind == "traffic_light" and roomy and rng.random() < 0.7 else "split"
    junction = Junction(
        name="x",
        arms=tuple((name, "start") for name in names),
        kind=kind,
        phasing=phasing,
        zone_m=zone_m,
        crosswalk_arms=tuple(name for name in names if with_crosswalks and (name == "south" or rng.random() < 0.85)),
    )
    network = build_network("x", roads=roads, junctions=[junction])
    return Layout(network=network, junction="x", centre_m=(x, y), radius_m=radius)


def plain_road(
    *,
    forward: int = 1,
    backward: int = 1,
    limit_mps: float = 13.4,
    later_limits_mps: Sequence[tuple[float, float]] = (),
    length_m: float = 700.0,
    curvature: Sequence[tuple[float, float]] = (),
    centre_marking: str = "double_yellow",
    crosswalk_joint: int | None = None,
    parking_m: float = 0.0,
) -> Layout:
    """One road, "main", exactly as asked for; straight where no curvature knots are given (as for `road_parts.sweep`)."""
    road = Road(
        name="main",
        reference=sweep((0.0, 0.0, 0.2), list(curvature) or [(0.0, 0.0), (length_m, 0.0)]),
        lanes_forward=forward,
        lanes_backward=backward,
        lane_width_m=3.5,
        speed_limit_mps=limit_mps,
        later_limits_mps=tuple(later_limits_mps),
        parking_m=parking_m,
        centre_marking=centre_marking,
        crosswalk_joints=() if crosswalk_joint is None else (crosswalk_joint,),
    )
    return Layout(network=build_network("main", roads=[road]))


def bend_knots(start: float, radius: float, angle: float, length_m: float) -> list[tuple[float, float]]:
    """Curvature knots of a road with one bend: where it starts [m], its radius [m] and angle [rad], left positive."""
    ease = min(18.0, 0.35 * abs(angle) * radius)  # transition into and out of the arc
    arc, k = abs(angle) * radius - ease, math.copysign(1 / radius, angle)
    stations = [0.0, start, start + ease, start + ease + arc, start + 2 * ease + arc, length_m]
    return list(zip(stations, [0.0, 0.0, k, k, 0.0, 0.0], strict=True))


def plain_crossing(
    *,
    kind: str = "traffic_light",
    phasing: str = "split",
    lanes: int = 1,
    cross_lanes: int = 1,
    limit_mps: float = 13.4,
    crosswalks: bool = True,
    stop_arms: Sequence[str] = (),
) -> Layout:
    """A perpendicular junction "x" of four straight arms, exactly as asked for."""
    counts = {"south": lanes, "east": cross_lanes, "north": lanes, "west": cross_lanes}
    zone_m, corner_m, width_m, tilted = 5.2 if crosswalks else 2.0, 7.0, 3.5, 0.2
    roads, radius = [], 0.0
    for name, count in counts.items():
        beside = cross_lanes if name in ("south", "north") else lanes
        setback = beside * width_m + 0.35 + corner_m + zone_m
        radius = max(radius, setback)
        heading = HEADINGS[name] + tilted
        start = (setback * math.cos(heading), setback * math.sin(heading), heading)
        length = EXIT_M if name in ("north", "south") else 300.0
        roads.append(
            Road(
                name=name,
                reference=sweep(start, [(0.0, 0.0), (length, 0.0)]),
                lanes_forward=count,
                lanes_backward=count,
                lane_width_m=width_m,
                speed_limit_mps=limit_mps,
            )
        )
    junction = Junction(
        name="x",
        arms=tuple((name, "start") for name in counts),
        kind=kind,
        phasing=phasing,
        zone_m=zone_m,
        crosswalk_arms=tuple(counts) if crosswalks else (),
        stop_arms=tuple(stop_arms),
    )
    network = build_network("x", roads=roads, junctions=[junction])
    return Layout(network=network, junction="x", radius_m=radius)


def _anywhere(rng: np.random.Generator) -> tuple[float, float, float]:
    return float(rng.uniform(-400, 400)), float(rng.uniform(-400, 400)), float(rng.uniform(-math.pi, math.pi))


def _lane_width(rng: np.random.Generator) -> float:
    return float(np.round(rng.uniform(3.2, 3.7), 2))  # 10.5-12 ft, usual in US cities


def _gentle(
    rng: np.random.Generator, length_m: float, strength: float, straight_m: float = 20.0
) -> list[tuple[float, float]]:
    """Curvature knots of a road that sways but never turns back: at most about 35 degrees in all."""
    knots = [(0.0, 0.0), (straight_m, 0.0)]
    total = float(rng.uniform(-0.6, 0.6)) * strength if rng.random() < 0.75 else 0.0
    free = length_m - straight_m
    share = float(rng.uniform(0.4, 0.7))
    for part, turn in ((share, total), (1 - share, -total * float(rng.uniform(0.2, 0.8)))):
        begin, span = knots[-1][0], free * part
        peak = turn / (0.66 * span)  # trapezium of curvature: a third in, a third on, a third out
        knots += [(begin + span / 3, peak), (begin + 2 * span / 3, peak), (begin + span, 0.0)]
    knots[-1] = (length_m, 0.0)
    return knots
