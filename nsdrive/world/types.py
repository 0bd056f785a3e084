"""The values that flow through nsdrive: states, tracked objects, observations, plans, scenarios, rollouts.

Frames: *global* is the map's own metric frame (x east-ish, y north-ish, heading counter-clockwise from x).
*ego* is the rear axle at the anchor, x forward, y left. An ego pose is always the REAR AXLE; a tracked
object's pose is always the CENTRE of its box. Both follow nuPlan.

An example, one tick of a queue at a red light:

    Observation(
        tick=20, time_s=2.0,
        ego=EgoState(time_s=2.0, x_m=14.2, y_m=-1.75, heading_rad=0.0, speed_mps=8.3, accel_mps2=-0.6, steering_rad=0.0),
        ego_history=(... every state since the scenario began, `ego` last ...),
        objects=ObjectFrame(ids=("car-1",), kinds=[0], boxes=[[38.0, -1.75, 0.0, 4.7, 1.9]], ...),
        lights={"connector-7": "red"},
    )
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nsdrive.world.decision import Decision
    from nsdrive.world.lane_map import LaneMap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int8]

INTERVAL_S = 0.1  # one simulation tick, nuPlan's 10 Hz
OBJECT_KINDS = ("vehicle", "bicycle", "pedestrian", "traffic_cone", "barrier", "czone_sign", "generic_object")
LIGHT_STATES = ("green", "yellow", "red", "unknown")  # nuPlan's four


@dataclass(frozen=True, kw_only=True, slots=True)
class EgoState:
    """The ego's rear axle in the global frame; speed and acceleration along its heading."""

    time_s: float
    x_m: float
    y_m: float
    heading_rad: float
    speed_mps: float
    accel_mps2: float = 0.0
    steering_rad: float = 0.0

    @property
    def pose(self) -> FloatArray:
        """(3,): x, y, heading, global frame."""
        return np.array([self.x_m, self.y_m, self.heading_rad])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedObject:
    """One row of an `ObjectFrame`."""

    track_id: str
    kind: str
    x_m: float
    y_m: float
    heading_rad: float
    length_m: float
    width_m: float
    height_m: float
    vx_mps: float
    vy_mps: float
    accel_mps2: float
    indicator: int

    @property
    def speed_mps(self) -> float:
        return float(np.hypot(self.vx_mps, self.vy_mps))


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectFrame:
    """All tracked objects at one tick, as columns (N rows), so that planners and renderers can vectorise.

    ids: N track ids. kinds (N,): index into OBJECT_KINDS. boxes (N, 5): centre x, y, heading, length, width, global.
    heights_m (N,). velocities_mps (N, 2): global. accels_mps2 (N,): along the heading, what brake lights show.
    indicators (N,): +1 left, -1 right, 0 none or unknown.
    """

    ids: tuple[str, ...]
    kinds: IntArray
    boxes: FloatArray
    heights_m: FloatArray
    velocities_mps: FloatArray
    accels_mps2: FloatArray
    indicators: IntArray

    @staticmethod
    def of(objects: list[TrackedObject] | tuple[TrackedObject, ...]) -> ObjectFrame:
        """Columns from rows."""
        return ObjectFrame(
            ids=tuple(o.track_id for o in objects),
            kinds=np.array([OBJECT_KINDS.index(o.kind) for o in objects], dtype=np.int8),
            boxes=np.array([[o.x_m, o.y_m, o.heading_rad, o.length_m, o.width_m] for o in objects]).reshape(-1, 5),
            heights_m=np.array([o.height_m for o in objects], dtype=float),
            velocities_mps=np.array([[o.vx_mps, o.vy_mps] for o in objects], dtype=float).reshape(-1, 2),
            accels_mps2=np.array([o.accel_mps2 for o in objects], dtype=float),
            indicators=np.array([o.indicator for o in objects], dtype=np.int8),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> TrackedObject:
        x, y, heading, length, width = (float(v) for v in self.boxes[row])
        return TrackedObject(
            track_id=self.ids[row],
            kind=OBJECT_KINDS[int(self.kinds[row])],
            x_m=x,
            y_m=y,
            heading_rad=heading,
            length_m=length,
            width_m=width,
            height_m=float(self.heights_m[row]),
            vx_mps=float(self.velocities_mps[row, 0]),
            vy_mps=float(self.velocities_mps[row, 1]),
            accel_mps2=float(self.accels_mps2[row]),
            indicator=int(self.indicators[row]),
        )

    def __iter__(self) -> Iterator[TrackedObject]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def speeds_mps(self) -> FloatArray:
        return np.hypot(self.velocities_mps[:, 0], self.velocities_mps[:, 1])

    def take(self, rows: NDArray[Any] | list[int]) -> ObjectFrame:
        """The frame with only these rows, in this order."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = rows.astype(int)
        return ObjectFrame(
            ids=tuple(self.ids[r] for r in rows),
            kinds=self.kinds[rows],
            boxes=self.boxes[rows],
            heights_m=self.heights_m[rows],
            velocities_mps=self.velocities_mps[rows],
            accels_mps2=self.accels_mps2[rows],
            indicators=self.indicators[rows],
        )

    def without(self, track_ids: set[str] | frozenset[str]) -> ObjectFrame:
        """The frame with these track ids removed: the "what if it were not there" of every causal test."""
        return self.take([row for row, track_id in enumerate(self.ids) if track_id not in track_ids])


@dataclass(frozen=True, kw_only=True)
class Mission:
    """What a planner is told before it starts: the map, the route as ordered roadblock ids, and the goal."""

    lane_map: LaneMap
    route_roadblock_ids: tuple[str, ...]
    goal_m: tuple[float, float] | None = None  # global x, y; None where the source knows none


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a planner sees at one tick. `ego_history` holds every state since the scenario began, the current one last."""

    tick: int
    time_s: float
    ego: EgoState
    ego_history: tuple[EgoState, ...]
    objects: ObjectFrame
    lights: Mapping[str, str]  # lane connector id -> one of LIGHT_STATES; a connector that is absent has no known light


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Timed ego states, the first one the current state. times_s (T,), poses_global (T, 3), speeds_mps (T,), accels_mps2 (T,)."""

    times_s: FloatArray
    poses_global: FloatArray
    speeds_mps: FloatArray
    accels_mps2: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A planner's answer for one tick: where it wants to go, and the decision that made it (None for a planner that cannot say).

    candidates (P, T, 3): global poses of the decision's proposals, for pictures; None where there are none. said: the words
    of a planner that speaks, at the ticks at which it was asked. notes: as `Decision.notes`, where there is no decision to hold
    them. seconds: measured time that the planner took to think what it said, None at ticks at which it was not asked.
    """

    trajectory: Trajectory
    decision: Decision | None
    candidates: FloatArray | None = None
    said: str | None = None
    notes: tuple[str, ...] = ()
    seconds: float | None = None


class Planner(Protocol):
    """Anything that can sit in the driver's seat: rules, a log replay, or a fine-tuned VLA."""

    name: str

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Called once per rollout, before the first `plan`."""

    def plan(self, observation: Observation) -> Plan: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenario:
    """A recorded or generated drive: a map, a route, what the others did at every tick, and the ego's own past.

    Tick k is at time k * INTERVAL_S. `frames` and `lights` cover every tick. `ego_log` covers the ticks from 0 on for
    which the ego's motion is given: all of a real log, or just the past of a generated scene (its future is the
    planner's to make). A rollout may start at any tick in [HISTORY_TICKS, len(ego_log) - 1].
    """

    scenario_id: str  # unique and fit for a file name
    scenario_type: str  # nuPlan's scenario-type name: the source's own tag
    source: str  # "synthetic", "argoverse2_sensor", ...
    split_key: str  # what a split hashes: map and seed, or log. Samples that share it share a split
    lane_map: LaneMap
    route_roadblock_ids: tuple[str, ...]
    goal_m: tuple[float, float] | None
    ego_log: tuple[EgoState, ...]
    frames: tuple[ObjectFrame, ...]
    lights: tuple[Mapping[str, str], ...]
    unknown: frozenset[str] = (
        frozenset()
    )  # what the source does not tell: "traffic_lights", "speed_limits", "route", "box_sizes"
    clock_us: int = 0  # a log's own time at tick 0, microseconds since 1970; 0 where there is none
    scenery_seed: int = 0  # buildings, trees and colours of the rendered world
    notes: Mapping[str, Any] = field(default_factory=dict)  # the source's parameters, for people

    @property
    def n_ticks(self) -> int:
        return len(self.frames)

    @property
    def mission(self) -> Mission:
        return Mission(lane_map=self.lane_map, route_roadblock_ids=self.route_roadblock_ids, goal_m=self.goal_m)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One planner through one scenario, from `start_tick` on.

    states: T + 1 ego states (the first is the scenario's own at start_tick). plans: T + 1, the plan made at each state.
    frames and lights: T + 1, the world the planner saw (reactive agents differ from the scenario's).
    history: the ego states before the first, oldest first.
    """

    scenario: Scenario
    planner: str
    start_tick: int
    history: tuple[EgoState, ...]
    states: tuple[EgoState, ...]
    plans: tuple[Plan, ...]
    frames: tuple[ObjectFrame, ...]
    lights: tuple[Mapping[str, str], ...]


HISTORY_TICKS = 20  # 2 s of past, the ego history of a sample
