"""The other road users of a rollout: replayed as recorded, or vehicles that react by the intelligent driver model.

Reactive follows nuPlan's `IDMAgents` (gap 1 m, headway 1.5 s, a 1, b 2 m/s^2, Euler steps of 0.1 s), with these
differences, chosen by us: bicycles and vehicles off the lanes or parked for the whole scenario stay and are replayed
(nuPlan drops them); vehicles that enter later do enter; a vehicle drives the line that it drove in the log and then
straight on along the lanes, so that it neither jumps to a centerline nor forgets a turn; it looks as far as it needs
to stop (nuPlan: 1.5 s), slows for bends, keeps below the greater of its logged top speed and 5 m/s, stops at amber
where it can, and brakes harder than b when nothing less avoids a collision.
Pedestrians and things are always replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nsdrive.world.geometry import Path, boxes_overlap, corridor_overlap
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import centerline, extend_straight, lanes_at, lanes_of_log
from nsdrive.world.rules import IdmParameters, idm_acceleration
from nsdrive.world.types import INTERVAL_S, OBJECT_KINDS, EgoState, FloatArray, ObjectFrame, Scenario
from nsdrive.world.vehicle import ego_box

IDM_AGENTS = IdmParameters(accel_max_mps2=1.0, decel_max_mps2=2.0)  # nuPlan idm_agents_observation.yaml
HARD_BRAKE_MPS2 = 6.0  # chosen by us: about what dry asphalt and an attentive driver give
AMBER_DECEL_MPS2 = 2.0  # chosen by us: = b; a harder stop is not begun at amber
RED_DECEL_MPS2 = 4.0  # chosen by us: a car that would have to brake harder has entered already
CURVE_LATERAL_MPS2, CURVE_DECEL_MPS2 = 2.5, 1.0  # chosen by us: everyday driving
FALLBACK_SPEED_MPS = 10.0  # nuPlan: where the lane has no known limit
LEAST_TOP_SPEED_MPS = 5.0  # chosen by us: a car that only crept in a queue may still move on when it clears
PARKED_M = 1.0  # chosen by us: a vehicle that moves less in the whole scenario is parked
ON_LANE_MISFIT = 2.5  # chosen by us: about 2 m aside, or 0.6 rad turned (see route.lanes_at)
BEYOND_M = 200.0  # how far a route goes on after the log
VEHICLE = OBJECT_KINDS.index("vehicle")


class Traffic(Protocol):
    """What `simulate` asks of the others."""

    frame: ObjectFrame

    def advance(self, ego: EgoState) -> None:
        """Move `frame` on by one tick; `ego` is where the ego is before that."""


def traffic_for(scenario: Scenario, start_tick: int, agents: str) -> Traffic:
    """The traffic of a rollout. ValueError for an unknown kind."""
    if agents == "replay":
        return Replay(scenario, start_tick)
    if agents == "reactive":
        return Reactive(scenario, start_tick)
    raise ValueError(f"No agents {agents!r}. Known: replay (as recorded), reactive (vehicles on lanes drive by IDM).")


class Replay:
    """Exactly the scenario's frames."""

    def __init__(self, scenario: Scenario, start_tick: int) -> None:
        self._scenario, self._tick = scenario, start_tick
        self.frame = scenario.frames[start_tick]

    def advance(self, ego: EgoState) -> None:
        self._tick += 1
        self.frame = self._scenario.frames[self._tick]


@dataclass(kw_only=True, eq=False)
class Driver:
    """One reactive vehicle on its path; progress is that of its box's centre."""

    track_id: str
    path: Path
    stands_at_end: bool  # its log ends off the lanes: it parks there
    junctions: tuple[tuple[float, str, str], ...]  # progress of the stop line, lane or connector id, how it turns
    size: tuple[float, float, float]  # length, width, height
    top_speed_mps: float
    progress_m: float
    speed_mps: float
    accel_mps2: float

    @property
    def front_m(self) -> float:
        return self.progress_m + 0.5 * self.size[0]

    def box(self) -> FloatArray:
        return np.array([*self.path.pose_at(self.progress_m), self.size[0], self.size[1]])


class Reactive:
    """Vehicles on lanes drive by IDM; everything else is replayed."""

    def __init__(self, scenario: Scenario, start_tick: int) -> None:
        self._scenario, self._tick = scenario, start_tick
        self._logs = _vehicle_logs(scenario, start_tick)
        self._drivers: dict[str, Driver] = {}
        self._settled: set[str] = set()  # tracks for which it is decided whether they drive
        self._driven: set[str] = set()  # tracks whose log is no longer played
        self.frame = scenario.frames[start_tick]
        self._admit(scenario.frames[start_tick], None)

    def advance(self, ego: EgoState) -> None:
        boxes, velocities = self.frame.boxes, self.frame.velocities_mps
        ego_velocity = ego.speed_mps * np.array([np.cos(ego.heading_rad), np.sin(ego.heading_rad)])
        boxes = np.vstack([boxes, ego_box(ego.pose)])
        velocities = np.vstack([velocities, ego_velocity])
        rows = {track_id: row for row, track_id in enumerate(self.frame.ids)}
        lights = self._scenario.lights[self._tick]
        commands = {
            track_id: _command(driver, rows[track_id], boxes, velocities, lights)
            for track_id, driver in self._drivers.items()
        }
        for track_id, command in commands.items():
            driver = self._drivers[track_id]
            driver.progress_m += driver.speed_mps * INTERVAL_S
            speed = max(0.0, driver.speed_mps + command * INTERVAL_S)
            driver.accel_mps2 = (speed - driver.speed_mps) / INTERVAL_S
            driver.speed_mps = speed
        self._drivers = {
            track_id: driver
            for track_id, driver in self._drivers.items()
            if driver.stands_at_end or driver.progress_m < driver.path.length_m - 0.1
        }
        self._tick += 1
        recorded = self._scenario.frames[self._tick]
        self._admit(recorded, ego)
        rest = recorded.take([row for row, track_id in enumerate(recorded.ids) if track_id not in self._driven])
        self.frame = _with_drivers(rest, list(self._drivers.values()))

    def _admit(self, recorded: ObjectFrame, ego: EgoState | None) -> None:
        """Turn vehicles that appear into drivers, as soon as there is room for them."""
        taken = [driver.box() for driver in self._drivers.values()]
        if ego is not None:
            taken.append(ego_box(ego.pose)[0])
        for row, track_id in enumerate(recorded.ids):
            if track_id in self._settled:
                continue
            driver = _driver(self._scenario.lane_map, self._logs.get(track_id), recorded, row, self._tick)
            if driver is None:
                self._settled.add(track_id)
                continue
            self._driven.add(track_id)
            if ego is not None:  # one that enters later waits until it has a second of room
                room = recorded.boxes[row] + [0.0, 0.0, 0.0, 2.0 * driver.speed_mps, 0.0]
                if taken and boxes_overlap(room, np.array(taken)).any():
                    continue
            self._settled.add(track_id)
            self._drivers[track_id] = driver
            taken.append(recorded.boxes[row])


@dataclass(frozen=True, kw_only=True, eq=False)
class VehicleLog:
    """A recorded vehicle: ticks (K,), poses (K, 3) of the box centre, speeds (K,), whether it is there at the end."""

    ticks: np.ndarray
    poses: FloatArray
    speeds_mps: FloatArray
    stays: bool


def _vehicle_logs(scenario: Scenario, start_tick: int) -> dict[str, VehicleLog]:
    ticks: dict[str, list[int]] = {}
    rows: dict[str, list[FloatArray]] = {}
    for tick in range(start_tick, scenario.n_ticks):
        frame = scenario.frames[tick]
        for row in np.flatnonzero(frame.kinds == VEHICLE):
            track_id = frame.ids[row]
            ticks.setdefault(track_id, []).append(tick)
            rows.setdefault(track_id, []).append(np.append(frame.boxes[row, :3], frame.speeds_mps[row]))
    return {
        track_id: VehicleLog(
            ticks=np.array(ticks[track_id]),
            poses=np.array(rows[track_id])[:, :3],
            speeds_mps=np.array(rows[track_id])[:, 3],
            stays=ticks[track_id][-1] == scenario.n_ticks - 1,
        )
        for track_id in ticks
    }


def _driver(lane_map: LaneMap, log: VehicleLog | None, frame: ObjectFrame, row: int, tick: int) -> Driver | None:
    """A driver from its place at this tick on, None for what is replayed."""
    if log is None or np.ptp(log.poses[:, :2], axis=0).max() < PARKED_M:
        return None
    poses = log.poses[log.ticks >= tick]
    if not _on_lane(lane_map, poses[0]):
        return None
    lanes = lanes_of_log(lane_map, poses)
    ends_on_lane = _on_lane(lane_map, poses[-1])
    if ends_on_lane:
        lanes = extend_straight(lane_map, lanes, BEYOND_M)
    road = centerline(lane_map, lanes)
    line = _driven_line(poses)
    if ends_on_lane:
        line = np.vstack([line, _road_ahead(road, poses[-1])])
    if len(line) < 2:
        return None
    along_road = np.searchsorted(road.progress_m, road.project_points(line)[:, 0] + 1e-6) - 1
    path = Path.of(line, road.speed_limit_mps[along_road], [road.lane_ids[i] for i in along_road])
    length, width = frame.boxes[row, 3:5]
    return Driver(
        track_id=frame.ids[row],
        path=path,
        stands_at_end=log.stays and not ends_on_lane,
        junctions=_junctions(lane_map, lanes, path),
        size=(float(length), float(width), float(frame.heights_m[row])),
        top_speed_mps=max(LEAST_TOP_SPEED_MPS, float(log.speeds_mps.max())),
        progress_m=0.0,
        speed_mps=float(frame.speeds_mps[row]),
        accel_mps2=float(frame.accels_mps2[row]),
    )


def _on_lane(lane_map: LaneMap, pose: FloatArray) -> bool:
    return min(lanes_at(lane_map, pose).values(), default=np.inf) <= ON_LANE_MISFIT


def _driven_line(poses: FloatArray) -> FloatArray:
    """The logged places at least 1 m apart, never backwards, lightly smoothed against the jitter of recorded boxes."""
    line = [poses[0, :2]]
    for x, y, heading in poses[1:]:
        step = np.array([x, y]) - line[-1]
        if np.hypot(*step) >= 1.0 and step @ np.array([np.cos(heading), np.sin(heading)]) > 0.0:
            line.append(np.array([x, y]))
    points = np.array(line)
    points[1:-1] = 0.25 * points[:-2] + 0.5 * points[1:-1] + 0.25 * points[2:]
    return points


def _road_ahead(road: Path, pose: FloatArray) -> FloatArray:
    """The road's points from where a car at `pose` has eased back to its middle."""
    progress, aside = road.project(pose[0], pose[1])
    return road.points[road.progress_m > progress + max(6.0, 4.0 * abs(aside))]


def _junctions(lane_map: LaneMap, lanes: tuple[str, ...], path: Path) -> tuple[tuple[float, str, str], ...]:
    found = []
    for lane_id in lanes:
        lane = lane_map.lanes[lane_id]
        if lane.is_connector or lane.stop_line_ids:
            line = [
                lane_map.stop_lines[stop].line.mean(axis=0)
                for stop in lane.stop_line_ids
                if stop in lane_map.stop_lines
            ]
            x, y = line[0] if line else np.asarray(lane.centerline)[0]
            found.append((path.project(x, y)[0], lane_id, lane.turn))
    return tuple(found)


def _command(
    driver: Driver, own_row: int, boxes: FloatArray, velocities: FloatArray, lights: Mapping[str, str]
) -> float:
    """The acceleration of one driver: the least that the road, the lights and everybody in its way allow."""
    speed, front, path = driver.speed_mps, driver.front_m, driver.path
    target = _target_speed(driver)
    look = 10.0 + IDM_AGENTS.headway_s * speed + speed * speed / (2.0 * IDM_AGENTS.decel_max_mps2)
    entries = corridor_overlap(path, boxes, front, front + look, 0.5 * driver.size[1])
    entries[own_row] = np.inf
    ahead = np.flatnonzero(np.isfinite(entries))
    heading = path.pose_at(entries[ahead])[:, 2]
    along = velocities[ahead, 0] * np.cos(heading) + velocities[ahead, 1] * np.sin(heading)
    leads = list(zip((entries[ahead] - front).tolist(), np.maximum(along, 0.0).tolist(), strict=True))
    leads += [(gap, 0.0) for gap in _stops(driver, lights)]
    command = float(idm_acceleration(speed, np.inf, 0.0, target, IDM_AGENTS))
    for gap, lead_speed in leads:
        command = min(command, float(idm_acceleration(speed, gap, lead_speed, target, IDM_AGENTS)))
        needed = (speed * speed - lead_speed * lead_speed) / (2.0 * max(gap, 0.1))
        if needed > IDM_AGENTS.decel_max_mps2:
            command = min(command, -min(needed, HARD_BRAKE_MPS2))
    return command


def _target_speed(driver: Driver) -> float:
    """The speed limit, the driver's own top speed, and what the bends ahead allow, whichever is least."""
    path, here = driver.path, driver.path.index_at(driver.progress_m)
    limit = path.speed_limit_mps[here]
    target = max(FALLBACK_SPEED_MPS, driver.top_speed_mps) if np.isnan(limit) else min(limit, driver.top_speed_mps)
    far = int(
        np.searchsorted(path.progress_m, driver.progress_m + 5.0 + driver.speed_mps**2 / (2.0 * CURVE_DECEL_MPS2))
    )
    bends = np.abs(path.curvature_1pm[here:far])
    distance = np.maximum(path.progress_m[here:far] - driver.progress_m, 0.0)
    allowed = CURVE_LATERAL_MPS2 / np.maximum(bends, 1e-4) + 2.0 * CURVE_DECEL_MPS2 * distance
    return float(max(1.0, min(target, np.sqrt(allowed.min(initial=1e6)))))


def _stops(driver: Driver, lights: Mapping[str, str]) -> list[float]:
    """Gaps to what the driver has to stop at: red and amber lines ahead, and the place where it parks."""
    gaps = []
    for progress, lane_id, _ in driver.junctions:
        state, gap = lights.get(lane_id), progress - driver.front_m
        if state not in ("red", "yellow"):
            continue
        held = -2.0 < gap <= 0.0 and driver.speed_mps < 1.0  # stands a little over the line
        limit = RED_DECEL_MPS2 if state == "red" else AMBER_DECEL_MPS2
        if held or (gap > 0.0 and driver.speed_mps**2 <= 2.0 * limit * gap):
            gaps.append(max(gap, 0.0))
    if driver.stands_at_end:
        gaps.append(driver.path.length_m - driver.progress_m + IDM_AGENTS.min_gap_m)
    return gaps


def _indicator(driver: Driver) -> int:
    for progress, _, turn in driver.junctions:
        if -10.0 < progress - driver.front_m < 30.0 and turn in ("left", "right", "uturn"):
            return -1 if turn == "right" else 1
    return 0


def _with_drivers(rest: ObjectFrame, drivers: list[Driver]) -> ObjectFrame:
    if not drivers:
        return rest
    boxes = np.array([driver.box() for driver in drivers])
    speeds = np.array([driver.speed_mps for driver in drivers])
    velocities = speeds[:, None] * np.column_stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])])
    return ObjectFrame(
        ids=(*rest.ids, *(driver.track_id for driver in drivers)),
        kinds=np.concatenate([rest.kinds, np.full(len(drivers), VEHICLE, dtype=np.int8)]),
        boxes=np.vstack([rest.boxes, boxes]),
        heights_m=np.concatenate([rest.heights_m, [driver.size[2] for driver in drivers]]),
        velocities_mps=np.vstack([rest.velocities_mps, velocities]),
        accels_mps2=np.concatenate([rest.accels_mps2, [driver.accel_mps2 for driver in drivers]]),
        indicators=np.concatenate([rest.indicators, np.array([_indicator(d) for d in drivers], dtype=np.int8)]),
    )
