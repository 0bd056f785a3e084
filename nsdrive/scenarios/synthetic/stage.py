"""The stage of a generated scene: a layout, the ego's way through it, a cast of actors, and the traffic light program.

stage = Stage(rng, layout, duration_s=15.0)
way = stage.through("south", "straight")
stage.set_ego(way, start_m=way.line_m - 60.0, speed_mps=11.0)
stage.add_vehicle(way, front_gap_m=25.0, speed_mps=5.0)
scenario = stage.finish(...)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsdrive.scenarios.synthetic.frames import boxes_of, ego_log, object_frames
from nsdrive.scenarios.synthetic.layouts import Layout
from nsdrive.scenarios.synthetic.motion import STOP_SIGN, Actor, Motion, first_overlaps, run_script
from nsdrive.scenarios.synthetic.road_parts import Movement
from nsdrive.scenarios.synthetic.signal_plan import GREEN, RED, YELLOW, SignalPlan, make_signal_plan
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, FloatArray, Scenario

EGO_LENGTH_M, EGO_WIDTH_M, EGO_HEIGHT_M, EGO_FRONT_M = 5.176, 2.297, 1.777, 4.049  # nuPlan's Pacifica
PAST_S = HISTORY_TICKS * INTERVAL_S

# name: (share, length, width, height, spread of the length); chosen by us after common US models
VEHICLES = {
    "sedan": (0.48, 4.6, 1.85, 1.45, 0.25),
    "suv": (0.28, 4.8, 1.95, 1.72, 0.25),
    "van": (0.12, 5.5, 2.05, 2.35, 0.4),
    "truck": (0.07, 8.2, 2.45, 3.2, 1.2),
    "bus": (0.05, 11.5, 2.55, 3.1, 0.5),
}
LIGHT_VEHICLES = ("sedan", "suv", "van")


class SceneRejectedError(Exception):
    """This draw of the seed does not work out: someone would collide, or the ego could not stop where it must."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """Lanes in driving order as one path. line_m, after_m: progress of the junction's entry and exit, nan without one."""

    lane_ids: tuple[str, ...]
    points: FloatArray  # (N, 2)
    arc_m: FloatArray  # (N,)
    starts_m: FloatArray  # (len(lane_ids),): progress of each lane's start
    limit_mps: float
    movement: Movement | None = None
    line_m: float = math.nan
    after_m: float = math.nan

    def at(self, progress_m: float, left_m: float = 0.0) -> tuple[float, float, float]:
        """Pose on the way, moved to the left."""
        k = int(np.clip(np.searchsorted(self.arc_m, progress_m) - 1, 0, len(self.arc_m) - 2))
        a, b = self.points[k], self.points[k + 1]
        f = (progress_m - self.arc_m[k]) / (self.arc_m[k + 1] - self.arc_m[k])
        heading = math.atan2(b[1] - a[1], b[0] - a[0])
        x, y = a + f * (b - a)
        return float(x - left_m * math.sin(heading)), float(y + left_m * math.cos(heading)), heading


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """What a family draws: the stage with its cast, nuPlan's name for it, and the drawn parameters, for people."""

    stage: Stage
    scenario_type: str
    notes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Hold:
    """When a place is taken, by people on a crosswalk or by who has the way, so that scripted drivers wait before it."""

    from_s: float
    to_s: float


class Stage:
    """Collects a scene and turns it into a `Scenario`."""

    def __init__(self, rng: np.random.Generator, layout: Layout, duration_s: float, *, exact: bool = False) -> None:
        """exact: a scene as written. Nobody is dropped from it, and what the nominal ego would do does not matter."""
        self.rng = rng
        self.exact = exact
        self.layout = layout
        self.network = layout.network
        self.ticks = round(duration_s / INTERVAL_S) + 1
        self.actors: list[Actor] = []
        self.ego: Actor
        self.ego_way: Way
        self.plan: SignalPlan | None = None
        self.hold: Hold | None = None
        self.waits: list[Hold] = []  # when an actor must wait at a line of its own, see `wait_at`
        self.route: Way | None = None  # where the ego is to go, if not along its own way
        self._ways: dict[Any, Way] = {}
        if layout.junction and self.network.junctions[layout.junction].kind == "traffic_light":
            self.plan = make_signal_plan(self.network, layout.junction, rng)

    # ways

    def along(self, road: str, way: str, index: int) -> Way:
        """One lane of a road from end to end."""
        key = (road, way, index)
        if key not in self._ways:
            self._ways[key] = self._join(self.network.chains[key], None)
        return self._ways[key]

    def through(self, movement: Movement) -> Way:
        """Approach lane, connector, exit lane."""
        if movement not in self._ways:
            chains = self.network.chains
            before = chains[movement.from_road, "b", movement.from_index]
            after = chains[movement.to_road, "f", movement.to_index]
            self._ways[movement] = self._join((*before, movement.connector_id, *after), movement)
        return self._ways[movement]

    def pick_movement(self, road: str, turn: str) -> Movement:
        """A seeded one of the lanes that allow this turn."""
        fit = [m for m in self.network.movements if m.from_road == road and m.turn == turn]
        if not fit:
            raise SceneRejectedError(f"no lane turns {turn} from {road}")
        return fit[int(self.rng.integers(len(fit)))]

    def _join(self, lane_ids: tuple[str, ...], movement: Movement | None) -> Way:
        lanes = self.network.lane_map.lanes
        lines = [lanes[lane_id].centerline for lane_id in lane_ids]
        points = np.concatenate([lines[0], *(line[1:] for line in lines[1:])])
        arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        starts = arc[np.concatenate([[0], np.cumsum([len(line) - 1 for line in lines])])]
        at = lane_ids.index(movement.connector_id) if movement else -1
        limits = [lanes[lane_id].speed_limit_mps or 13.4 for lane_id in lane_ids]
        return Way(
            lane_ids=lane_ids,
            points=points,
            arc_m=arc,
            starts_m=starts[:-1],
            limit_mps=limits[0],
            movement=movement,
            line_m=float(starts[at]) if movement else math.nan,
            after_m=float(starts[at + 1]) if movement else math.nan,
        )

    # cast

    def stops_of(self, way: Way) -> tuple[tuple[float, int], ...]:
        """Where this way meets its light or stop sign."""
        if way.movement is None:
            lanes = self.network.lane_map.lanes
            marked = [
                start for start, lane in zip(way.starts_m, way.lane_ids, strict=True) if lanes[lane].stop_line_ids
            ]
            return tuple((float(start), 0) for start in marked) if self.hold else ()
        kind = self.network.junctions[way.movement.junction].kind
        if kind == "stop_sign":
            stops = self.network.junctions[way.movement.junction].stops(way.movement.from_road)
            return ((way.line_m, STOP_SIGN),) if stops else ()
        return ((way.line_m, self.plan.phase_of(way.movement.connector_id)),) if self.plan else ()

    def wait_at(self, actor: Actor, line_m: float, hold: Hold) -> None:
        """Make a scripted driver wait before a line while the hold lasts, as one who yields does."""
        lights = len(self.plan.phases) if self.plan else 1
        actor.stops = (*actor.stops, (line_m, lights + len(self.waits)))
        self.waits.append(hold)

    def set_ego(self, way: Way, *, start_m: float, speed_mps: float, desired_mps: float | None = None) -> None:
        """The ego's way and its rear axle's progress and speed at tick 0."""
        self.ego_way = way
        self.ego = Actor(
            track_id="ego",
            kind="vehicle",
            path=way.points,
            start_m=start_m,
            speed_mps=speed_mps,
            desired_mps=way.limit_mps if desired_mps is None else desired_mps,
            length_m=EGO_LENGTH_M,
            width_m=EGO_WIDTH_M,
            height_m=EGO_HEIGHT_M,
            stops=self.stops_of(way),
            min_gap_m=1.0,  # these five: nuPlan's idm_planner.yaml
            headway_s=1.5,
            accel_mps2=1.0,
            decel_mps2=3.0,
            hardest_mps2=3.0,
            front_m=EGO_FRONT_M,
            essential=True,
        )

    def place_ego(
        self, way: Way, *, front_at_anchor_m: float, speed_mps: float, desired_mps: float | None = None
    ) -> None:
        """The ego so that, at constant speed, its front bumper is at this progress at the anchor."""
        start_m = front_at_anchor_m - EGO_FRONT_M - PAST_S * speed_mps
        if start_m < 8.0:
            raise SceneRejectedError("the ego would start before its road")
        self.set_ego(way, start_m=start_m, speed_mps=speed_mps, desired_mps=desired_mps)

    @property
    def ego_front_m(self) -> float:
        """Progress of the ego's front bumper at tick 0."""
        return self.ego.start_m + EGO_FRONT_M

    def vehicle_size(self, kinds: Sequence[str] | None = None) -> tuple[str, float, float, float]:
        """A seeded vehicle: its name, length, width and height."""
        names = list(kinds or VEHICLES)
        drawn = float(self.rng.random()) * sum(VEHICLES[name][0] for name in names)
        name = names[-1]
        for candidate in names:
            drawn -= VEHICLES[candidate][0]
            if drawn < 0:
                name = candidate
                break
        _, length, width, height, spread = VEHICLES[name]
        return name, float(length + self.rng.uniform(-spread, spread)), width, height

    def add_vehicle(
        self,
        way: Way,
        *,
        rear_m: float,
        speed_mps: float,
        desired_mps: float | FloatArray | None = None,
        kinds: Sequence[str] | None = None,
        size: tuple[str, float, float, float] | None = None,
        essential: bool = False,
        **changes: Any,
    ) -> Actor:
        """A driven vehicle whose rear bumper is at rear_m along its way at tick 0."""
        name, length, width, height = size or self.vehicle_size(kinds)
        indicator: tuple[tuple[float, float, int], ...] = ()
        if way.movement and way.movement.turn in ("left", "right"):
            indicator = ((way.line_m - 45.0, way.after_m, 1 if way.movement.turn == "left" else -1),)
        drawn = {
            "track_id": "bus" if name == "bus" else "truck" if name == "truck" else "car",
            "path": way.points,
            "desired_mps": way.limit_mps * float(self.rng.uniform(0.85, 1.05)) if desired_mps is None else desired_mps,
            "stops": self.stops_of(way),
            "min_gap_m": float(self.rng.uniform(1.6, 2.6)),
            "headway_s": float(self.rng.uniform(1.1, 1.7)),
            "accel_mps2": float(self.rng.uniform(1.2, 1.9)) * (0.7 if length > 7 else 1.0),
            "dwell_s": float(self.rng.uniform(1.0, 2.2)),
            "indicator": indicator,
        }
        actor = Actor(
            kind="vehicle",
            start_m=rear_m + length / 2,
            speed_mps=speed_mps,
            length_m=length,
            width_m=width,
            height_m=height,
            essential=essential,
            **(drawn | changes),
        )
        self.actors.append(actor)
        return actor

    def add_standing(
        self,
        name: str,
        kind: str,
        pose: tuple[float, float, float],
        size: tuple[float, float, float],
        essential: bool = False,
    ) -> None:
        """A thing that does not move: its box's centre and length, width, height."""
        self.actors.append(
            Actor(
                track_id=name,
                kind=kind,
                path=np.array([pose[:2]]),
                heading_rad=pose[2],
                start_m=0.0,
                speed_mps=0.0,
                desired_mps=0.0,
                length_m=size[0],
                width_m=size[1],
                height_m=size[2],
                reacts=False,
                essential=essential,
            )
        )

    def add_walker(
        self, path: FloatArray, *, start_m: float, speed_mps: float, wait_s: float = 0.0, essential: bool = False
    ) -> None:
        """A pedestrian who walks along `path`, after waiting."""
        desired = np.full(self.ticks, speed_mps)
        desired[: round(wait_s / INTERVAL_S)] = 0.0
        self.actors.append(
            Actor(
                track_id="pedestrian",
                kind="pedestrian",
                path=path,
                start_m=start_m,
                speed_mps=float(desired[0]),
                desired_mps=desired,
                length_m=0.6,
                width_m=0.6,
                height_m=float(self.rng.uniform(1.55, 1.9)),
                reacts=False,
                essential=essential,
            )
        )

    # curtain

    def finish(
        self,
        *,
        scenario_id: str,
        scenario_type: str,
        split_key: str,
        notes: Mapping[str, Any],
        source: str = "synthetic",
    ) -> Scenario:
        """Run the script, drop background actors that would collide, and write the scenario."""
        cast, motion = self._rehearse()
        if not self.exact and self._runs_red(motion):
            raise SceneRejectedError("the nominal ego cannot stop at its line")
        lights = self.plan.lights(self.ticks) if self.plan else ({},) * self.ticks
        lane_map = self.network.lane_map
        first = int(np.searchsorted(self.ego_way.starts_m, self.ego.start_m, side="right")) - 1
        blocks = [lane_map.lanes[lane].roadblock_id for lane in self.ego_way.lane_ids[first:]]
        goal = self.ego_way.points[-1]
        if self.route is not None:
            planned = [lane_map.lanes[lane].roadblock_id for lane in self.route.lane_ids]
            blocks, goal = planned[planned.index(blocks[0]) :], self.route.points[-1]
        return Scenario(
            scenario_id=scenario_id,
            scenario_type=scenario_type,
            source=source,
            split_key=split_key,
            lane_map=lane_map,
            route_roadblock_ids=tuple(dict.fromkeys(blocks)),
            goal_m=(float(goal[0]), float(goal[1])),
            ego_log=ego_log(motion),
            frames=object_frames(cast, motion, self.rng),
            lights=lights,
            scenery_seed=int(self.rng.integers(2**31)),
            notes=dict(notes),
        )

    def _controls(self) -> np.ndarray:
        """(rows, ticks): what `Actor.stops` point to: light phases or the one crosswalk, then everyone's own waits."""
        holds = [*([] if self.plan else [self.hold]), *self.waits]
        rows = np.full((len(holds), self.ticks), GREEN, dtype=np.int8)
        times = np.arange(self.ticks) * INTERVAL_S
        for row, hold in zip(rows, holds, strict=True):
            if hold:
                row[(times >= hold.from_s - 1.5) & (times < hold.to_s)] = YELLOW
                row[(times >= hold.from_s) & (times < hold.to_s)] = RED
        return np.concatenate([self.plan.states(self.ticks), rows]) if self.plan else rows

    def _runs_red(self, motion: Motion) -> bool:
        """Whether the nominal ego's front passes a line while it must not."""
        front_m = motion.progress_m[0] + EGO_FRONT_M
        for line_m, row in self.ego.stops:
            passed = int(np.searchsorted(front_m, line_m + 0.3))
            if row >= 0 and 0 < passed < self.ticks and self._controls()[row, passed] == RED:
                return True
        return False

    def _rehearse(self) -> tuple[list[Actor], Motion]:
        states = self._controls()
        junction = (*self.layout.centre_m, self.layout.radius_m)
        cast = [self.ego, *self.actors]
        if self.exact:
            motion = run_script(cast, states, junction, self.ticks)
            boxes = boxes_of(cast, motion)
            past = slice(0, HISTORY_TICKS + 1)
            hits = first_overlaps(boxes, motion.present)
            hits[0] = hits[:, 0] = first_overlaps(boxes[:, past], motion.present[:, past])[0]
            for i, j in zip(*np.nonzero(np.triu(hits)), strict=True):
                raise AssertionError(f"{cast[i].track_id} and {cast[j].track_id} collide")
            return cast, motion
        for _ in range(12):
            motion = run_script(cast, states, junction, self.ticks, calm_ticks=HISTORY_TICKS)
            hits = first_overlaps(boxes_of(cast, motion), motion.present)
            people = np.array([actor.kind == "pedestrian" for actor in cast])
            hits &= ~(people[:, None] & people[None, :])  # people may brush past each other
            if not hits.any():
                return cast, motion
            dropped = set()
            for i, j in zip(*np.nonzero(np.triu(hits)), strict=True):
                if i in dropped or j in dropped:
                    continue
                loser = j if not cast[j].essential else i
                if cast[loser].essential:
                    raise SceneRejectedError(f"{cast[i].track_id} and {cast[j].track_id} collide")
                dropped.add(int(loser))
            cast = [actor for k, actor in enumerate(cast) if k not in dropped]
        raise SceneRejectedError("too many collisions")
