"""Building blocks of the named manoeuvres: everyone is placed exactly, and does as written whatever the ego does.

    scene = Scene(plain_road(limit_mps=13.4), drive_s=12.0)
    way = scene.lane(0)
    scene.ego(way, front_m=150.0, speed_mps=10.0)
    scene.car("lead", way, rear_m=scene.ahead_m(40.0), speed_mps=6.0, speeds=((3.0, 6.0), (5.0, 0.0)))

Times count from the anchor, the moment from which the ego is the planner's; 2 s of past at constant speed come before it.
Progress is along a way, in metres; the ego's front bumper is at `front_m` at the anchor. A track's id is its name and "-1".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsdrive.scenarios.synthetic.layouts import Layout
from nsdrive.scenarios.synthetic.motion import Actor
from nsdrive.scenarios.synthetic.road_parts import Movement
from nsdrive.scenarios.synthetic.stage import PAST_S, Stage, Way
from nsdrive.world.geometry import offset_polyline
from nsdrive.world.types import INTERVAL_S, FloatArray

FRONT_M = 150.0  # chosen by us: where the ego is on an open road at the anchor, unless others need more road behind it
Size = tuple[str, float, float, float]
CAR: Size = ("car", 4.6, 1.85, 1.45)
VAN: Size = ("car", 5.4, 2.0, 2.3)
TRUCK: Size = ("truck", 8.2, 2.45, 3.2)
PERSON: tuple[float, float, float] = (0.6, 0.6, 1.75)
CONE: tuple[float, float, float] = (0.4, 0.4, 0.75)
Speeds = Sequence[tuple[float, float]]  # (seconds after the anchor, speed), linear in between


@dataclass(frozen=True, kw_only=True)
class Manoeuvre:
    """A named scene: what happens in one sentence, nuPlan's name for it, and how it is built."""

    sentence: str
    scenario_type: str
    build: Callable[[], Scene]


class Scene:
    """A stage on which nothing is drawn by chance."""

    def __init__(self, layout: Layout, *, drive_s: float = 12.0) -> None:
        self.stage = Stage(np.random.default_rng(0), layout, PAST_S + drive_s, exact=True)
        self.notes: dict[str, Any] = {}
        self.front_m = 0.0

    # ways

    def lane(self, index: int = 0, *, oncoming: bool = False, road: str = "main") -> Way:
        """A lane of a road from end to end; oncoming: of its other direction."""
        return self.stage.along(road, "b" if oncoming else "f", index)

    def through(self, turn: str, *, arm: str = "south", lane: int = 0) -> Way:
        """From an arm's lane over the junction."""
        return self.stage.through(self.movement(turn, arm=arm, lane=lane))

    def movement(self, turn: str, *, arm: str = "south", lane: int = 0) -> Movement:
        return next(m for m in self.stage.network.movements if (m.from_road, m.turn, m.from_index) == (arm, turn, lane))

    # cast

    def ego(
        self,
        way: Way,
        *,
        front_m: float,
        speed_mps: float,
        route: Way | None = None,
        left_m: float = 0.0,
        turned_rad: float = 0.0,
    ) -> None:
        """The ego's front bumper at the anchor, and its speed from tick 0 to then. left_m, turned_rad: beside its lane."""
        self.stage.place_ego(way, front_at_anchor_m=front_m, speed_mps=speed_mps, desired_mps=speed_mps)
        ego = self.stage.ego
        ego.reacts = False
        self.stage.route = route
        self.front_m = front_m
        if left_m or turned_rad:
            line = offset_polyline(way.points, left_m)
            drift = (way.arc_m[: len(line)] - front_m)[:, None] * math.tan(turned_rad)
            heading = way.at(front_m)[2]
            ego.path = line + drift * np.array([-math.sin(heading), math.cos(heading)])

    def ahead_m(self, gap_m: float) -> float:
        """Progress that is so far before the ego's front bumper at the anchor."""
        return self.front_m + gap_m

    def car(
        self,
        name: str,
        way: Way,
        *,
        rear_m: float,
        speed_mps: float,
        at_s: float = 0.0,
        speeds: Speeds = (),
        size: Size = CAR,
        **changes: Any,
    ) -> Actor:
        """A vehicle that keeps its speed, so that its rear bumper is at rear_m of its way at at_s; then `speeds`."""
        start_m = rear_m - speed_mps * (PAST_S + at_s)
        if start_m < 0.0:
            raise AssertionError(f"{name} would start {-start_m:.0f} m before its road")
        settings: dict[str, Any] = {"track_id": name, "reacts": False, "stops": (), **changes}
        return self.stage.add_vehicle(
            way,
            rear_m=start_m,
            speed_mps=speed_mps,
            desired_mps=self.over_time(speed_mps, speeds),
            size=size,
            essential=True,
            **settings,
        )

    def oncoming_rear_m(self, forward_m: float) -> float:
        """Progress on the other direction of a straight road of what is at `forward_m` on this one."""
        return float(self.lane(0, oncoming=True).arc_m[-1]) - forward_m

    def standing(
        self,
        name: str,
        way: Way,
        *,
        at_m: float,
        left_m: float = 0.0,
        kind: str = "vehicle",
        size: tuple[float, float, float] = CAR[1:],
        turned_rad: float = 0.0,
    ) -> None:
        """A thing that never moves, its centre at at_m along the way."""
        x, y, heading = way.at(at_m, left_m)
        self.stage.add_standing(name, kind, (x, y, heading + turned_rad), size, essential=True)

    def walker(
        self, name: str, path: FloatArray, *, speed_mps: float, starts_s: float, kind: str = "pedestrian"
    ) -> None:
        """Someone who sets off along `path` (N, 2) at starts_s, never before tick 0."""
        rides = kind == "bicycle"
        self.stage.actors.append(
            Actor(
                track_id=name,
                kind=kind,
                path=path,
                start_m=0.0,
                speed_mps=0.0,
                desired_mps=self.over_time(0.0, ((starts_s, 0.0), (starts_s + INTERVAL_S, speed_mps))),
                length_m=1.8 if rides else PERSON[0],
                width_m=0.65 if rides else PERSON[1],
                height_m=1.75,
                reacts=False,
                essential=True,
            )
        )

    def over_time(self, speed_mps: float, speeds: Speeds) -> FloatArray:
        """(ticks,): a constant speed and then what the pairs say."""
        times = np.arange(self.stage.ticks) * INTERVAL_S - PAST_S
        at, values = np.array([(-PAST_S, speed_mps), *speeds]).T
        return np.interp(times, at, values)

    # facts for the judge

    def note_line(self, way: Way, progress_m: float, connector_id: str | None = None) -> None:
        """The place before which a manoeuvre may want the ego to stop: x, y and heading; whose light it is."""
        self.notes["line"] = [round(value, 4) for value in way.at(progress_m)]
        if connector_id is not None:
            self.notes["connector"] = connector_id

    def light(self, way: Way, *, green_at_s: float | None = None, yellow_at_s: float | None = None) -> None:
        """Shift the light program: the way's connector turns green, or yellow after a long green, at this time."""
        assert self.stage.plan
        assert way.movement
        connector = way.movement.connector_id
        program = self.stage.plan.with_green(connector, 30.0)
        self.stage.plan = program.shifted(
            connector,
            green_at_s=None if green_at_s is None else green_at_s + PAST_S,
            yellow_at_s=None if yellow_at_s is None else yellow_at_s + PAST_S,
        )
        self.note_line(way, way.line_m, connector)


def across(way: Way, progress_m: float, from_left_m: float, to_left_m: float) -> FloatArray:
    """(N, 2): a straight walk across the road, from one lateral offset of the way to another."""
    sides = np.linspace(from_left_m, to_left_m, max(2, math.ceil(abs(to_left_m - from_left_m))))
    return np.array([way.at(progress_m, side)[:2] for side in sides])
