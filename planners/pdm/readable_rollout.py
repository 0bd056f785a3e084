"""The forecast and the roll-out in plain words: numpy, shapely and dictionaries, one object and one proposal at a time.

This is the specification. `planners.pdm.forecast` and `planners.pdm.generate` do the same many times faster, and a test holds
them to it. It keeps the order of things of tuplan_garage's `pdm_observation.py`, `pdm_generator.py`, `batch_idm_policy.py`
and `pdm_path.py` (Apache-2.0), which it was written from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from nsdrive.world.lane_map import Lane
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, ObjectFrame, TrackedObject
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import RED_LIGHT, Forecast
from planners.pdm.generate import Extended, Generated, Lead
from planners.pdm.paths import LEAST_PROGRESS_M, ProposalPath

AGENTS = ("vehicle", "pedestrian", "bicycle")  # what moves, in the order in which the public code lists it


def forecast(
    objects: ObjectFrame,
    lights: Mapping[str, str],
    ego: EgoState,
    route_lanes: Mapping[str, Lane],
    ignored_ids: frozenset[str],
    config: PdmParameters,
    vehicle: VehicleParameters = PACIFICA,
) -> Forecast:
    """As `planners.pdm.forecast.forecast`."""
    center = _center_of_ego(ego.pose, vehicle)
    footprint = shapely.Polygon(_corners(*center, ego.heading_rad, vehicle.length_m, vehicle.width_m))
    groups: dict[str, list[tuple[float, TrackedObject]]] = {kind: [] for kind in ("static", *AGENTS)}
    dropped = []
    for thing in sorted(objects, key=lambda o: _kind_number(o.kind)):
        if not _makes_sense(thing):
            dropped.append(thing.track_id)
            continue
        distance = math.hypot(thing.x_m - center[0], thing.y_m - center[1])
        if distance <= config.radius_m and thing.track_id not in ignored_ids:
            groups[thing.kind if thing.kind in AGENTS else "static"].append((distance, thing))
    most = (config.max_static, config.max_vehicles, config.max_pedestrians, config.max_bicycles)
    near = [
        thing
        for limit, group in zip(most, groups.values(), strict=True)
        for _, thing in sorted(group, key=lambda entry: entry[0])[:limit]
    ]
    ignored = [bool(footprint.intersects(shapely.Polygon(_corners_of(thing)))) for thing in near]
    new = {thing.track_id for thing, hit in zip(near, ignored, strict=True) if hit}
    red_lights, red_ignored = [], []
    for connector, state in lights.items():
        if state == "red" and connector in route_lanes:
            area = np.ascontiguousarray(route_lanes[connector].polygon, dtype=np.float64).reshape(-1, 2)
            inside = len(area) >= 3 and bool(footprint.within(shapely.Polygon(area)))
            if inside:
                new.add(RED_LIGHT + connector)
            red_lights.append((connector, area))
            red_ignored.append(inside or RED_LIGHT + connector in ignored_ids)
    speeds = [math.hypot(o.vx_mps, o.vy_mps) if o.kind in AGENTS else 0.0 for o in near]
    velocities = []
    for thing, speed in zip(near, speeds, strict=True):
        away = thing.heading_rad - math.atan2(thing.vy_mps, thing.vx_mps)
        drives_forward = abs(_normalize(away)) < math.pi / 2.0
        heading = thing.heading_rad if drives_forward else _normalize(thing.heading_rad + math.pi)
        velocities.append((math.cos(heading) * speed, math.sin(heading) * speed))
    return Forecast(
        ids=tuple(o.track_id for o in near),
        boxes=np.array([(o.x_m, o.y_m, o.heading_rad, o.length_m, o.width_m) for o in near]).reshape(-1, 5),
        velocities_mps=np.array(velocities).reshape(-1, 2),
        is_agent=np.array([o.kind in AGENTS for o in near], dtype=bool),
        speeds_mps=np.array(speeds),
        headings_rad=np.array([o.heading_rad for o in near]),
        ignored=np.array(ignored, dtype=bool),
        red_lights=tuple(red_lights),
        red_ignored=tuple(red_ignored),
        ignored_ids=ignored_ids | new,
        dropped=tuple(o for o in objects.ids if o in dropped),
    )


def generate(
    paths: Sequence[ProposalPath],
    target_speeds_mps: FloatArray,
    forecast: Forecast,
    ego: EgoState,
    config: PdmParameters,
    vehicle: VehicleParameters = PACIFICA,
) -> Generated:
    """As `planners.pdm.generate.generate`."""
    targets = np.maximum(np.asarray(target_speeds_mps, dtype=np.float64), 0.1)
    rolled: list[tuple[_World, list[_Proposal]]] = []
    for path in paths:
        world = _World(path, forecast, config, vehicle)
        start = _project(path, ego.x_m, ego.y_m)
        speed = ego.speed_mps if math.isfinite(ego.speed_mps) else 0.0
        world.lay_corridor(start, start + np.max(np.abs(targets)) * config.plan_steps * INTERVAL_S)
        proposals = [_Proposal(target, [(start, speed)], [(0.0, 0.0, 0.0)]) for target in targets.tolist()]
        _roll(world, proposals, range(1, config.proposal_steps + 1))
        rolled.append((world, proposals))
    everyone = [(world, proposal) for world, proposals in rolled for proposal in proposals]
    return Generated(
        poses=np.array([[world.pose_at(s) for s, _ in proposal.states] for world, proposal in everyone]),
        idm=np.array([proposal.states for _, proposal in everyone]),
        lead_states=np.array([proposal.leads for _, proposal in everyone]),
        leads=tuple(proposal.first_lead for _, proposal in everyone),
        path_of=np.repeat(np.arange(len(paths)), len(targets)),
        fraction_of=np.tile(np.arange(len(targets)), len(paths)),
        paths=tuple(paths),
        target_speeds_mps=targets,
        forecast=forecast,
        corridors=tuple(world.line for world, _ in rolled),
    )


def extend(
    generated: Generated, proposal: int, config: PdmParameters, vehicle: VehicleParameters = PACIFICA
) -> Extended:
    """As `planners.pdm.generate.extend`."""
    world = _World(generated.paths[generated.path_of[proposal]], generated.forecast, config, vehicle)
    targets = generated.target_speeds_mps
    alone = _Proposal(
        float(targets[generated.fraction_of[proposal]]),
        [(s, v) for s, v in generated.idm[proposal].tolist()],
        [(s, v, rear) for s, v, rear in generated.lead_states[proposal].tolist()],
    )
    start = alone.states[0][0]
    world.lay_corridor(start, start + np.max(targets) * config.plan_steps * INTERVAL_S)
    _roll(world, [alone], range(len(alone.states), config.plan_steps + 1))
    progress, speeds = np.array(alone.states).T
    return Extended(poses=np.array([world.pose_at(s) for s in progress]), speeds_mps=speeds, progress_m=progress)


@dataclass
class _Proposal:
    """A target speed, the states rolled out so far (progress, speed), and the lead of each (progress, speed, rear length)."""

    target: float
    states: list[tuple[float, float]]
    leads: list[tuple[float, float, float]]
    first_lead: Lead | None = None


class _World:
    """One path with everything that is in the way on it: polygons by token, in the order of the public code's search tree."""

    def __init__(
        self, path: ProposalPath, forecast: Forecast, config: PdmParameters, vehicle: VehicleParameters
    ) -> None:
        self.path, self.forecast, self.config, self.vehicle = path, forecast, config, vehicle
        self.linestring = shapely.LineString(path.points)
        self.tokens = [*forecast.ids, *(RED_LIGHT + connector for connector, _ in forecast.red_lights)]
        self.ignored = [*forecast.ignored.tolist(), *forecast.red_ignored]
        self._samples: dict[int, tuple[list[shapely.Polygon], list[int]]] = {}

    def lay_corridor(self, start: float, end: float) -> None:
        """The path's points between two progresses, widened by half the ego's width, with square ends."""
        length, progress = self.path.length_m, self.path.progress_m
        start, end = min(max(start, 0.0), length), min(max(end, 0.0), length)
        coordinates = self.path.points[(start <= progress) & (progress <= end)]
        if self.config.reference and len(coordinates) > 1:
            self.line = coordinates
        elif start < end:
            between = self.path.points[(start < progress) & (progress < end)]
            self.line = np.array([self.pose_at(start)[:2], *between, self.pose_at(end)[:2]])
        else:
            self.line = np.array([self.pose_at(start)[:2]])
        geometry = shapely.LineString(self.line) if len(self.line) > 1 else shapely.Point(self.line[0])
        self.corridor = geometry.buffer(self.vehicle.width_m / 2.0, cap_style="square")

    def at(self, step: int) -> tuple[list[shapely.Polygon], list[int]]:
        """Everyone's polygon at a step of the forecast, and the rows of those in the corridor."""
        sample = step // self.config.forecast_every * self.config.forecast_every
        if sample not in self._samples:
            f, elapsed = self.forecast, sample * INTERVAL_S
            polygons = [
                shapely.Polygon(np.array(_corners(*box)) + elapsed * velocity)
                for box, velocity in zip(f.boxes, f.velocities_mps, strict=True)
            ] + [shapely.Polygon(area) for _, area in f.red_lights]
            rows = shapely.STRtree(polygons, 10).query(self.corridor, predicate="intersects") if polygons else []
            self._samples[sample] = polygons, [int(row) for row in rows if not self.ignored[row]]
        return self._samples[sample]

    def pose_at(self, progress: float) -> FloatArray:
        """Linear in x, y and the unwrapped heading; held within the path."""
        s = min(max(progress, LEAST_PROGRESS_M), self.path.length_m)
        after = min(max(int(np.searchsorted(self.path.progress_m, s)), 1), len(self.path.progress_m) - 1)
        low, high = self.path.progress_m[after - 1], self.path.progress_m[after]
        states = np.column_stack([self.path.points, self.path.headings_rad])
        pose = (states[after] - states[after - 1]) / (high - low) * (s - low) + states[after - 1]
        return np.array([pose[0], pose[1], _normalize(pose[2])])


def _roll(world: _World, proposals: list[_Proposal], steps: range) -> None:
    """Roll the proposals of one path on, step by step."""
    c = world.config
    for step in steps:
        # The public code looks for a lead in every second step; mended, the first one is among them.
        look = step if c.reference else step - 1
        left_speed, left_rear = 0.0, 0.0
        for proposal in proposals:
            if look % c.lead_every != 0:
                proposal.leads.append(proposal.leads[-1])
            else:
                found = _lead(world, proposal.states[-1], step, look)
                if not c.reference:
                    left_speed, left_rear = 0.0, 0.0
                if found is None:
                    progress = world.linestring.length
                    left_rear = world.vehicle.length_m / 2.0 if c.reference else world.vehicle.front_m
                else:
                    progress = proposal.states[-1][0] + found.gap_m
                    left_speed = left_speed if found.red_light else found.speed_mps
                # The public code has one record for all proposals: what is not written stays from the one before.
                proposal.leads.append((progress, left_speed, left_rear))
                proposal.first_lead = proposal.first_lead or found
            proposal.states.append(_law(proposal.states[-1], proposal.leads[-1], proposal.target, c))


def _lead(world: _World, ego: tuple[float, float], step: int, look: int) -> Lead | None:
    """The nearest of what is in the corridor and whose centre is further along the path than the ego's rear axle."""
    progress, speed = ego
    polygons, rows = world.at(look)
    pose = world.pose_at(progress)
    ahead = [row for row in rows if _project(world.path, *_xy(polygons[row].centroid)) > progress]
    if not ahead:
        return None
    footprint = shapely.Polygon(
        _corners(*_center_of_ego(pose, world.vehicle), pose[2], world.vehicle.length_m, world.vehicle.width_m)
    )
    distances = [footprint.distance(polygons[row]) for row in ahead]
    nearest = int(np.argmin(distances))  # of several that touch the ego, the first in the search tree
    row, gap, f = ahead[nearest], distances[nearest], world.forecast
    red_light, lead_speed = row >= len(f), _speed_ahead(world, row, pose[2])
    about = f.red_lights[row - len(f)][0] if red_light else f.ids[row]
    return Lead(
        about=about, red_light=red_light, gap_m=gap, speed_mps=lead_speed, step=step, ego_speed_mps=speed
    )  # fmt: skip


def _speed_ahead(world: _World, row: int, ego_heading: float) -> float:
    """The speed of a lead along the ego's heading; none of what is not an agent."""
    f = world.forecast
    if row >= len(f) or not f.is_agent[row]:
        return 0.0
    if world.config.reference:
        return float(f.speeds_mps[row] * np.cos(_normalize(f.headings_rad[row] - ego_heading)))
    return float(f.velocities_mps[row] @ np.array([np.cos(ego_heading), np.sin(ego_heading)]))


def _law(
    ego: tuple[float, float], lead: tuple[float, float, float], target: float, c: PdmParameters
) -> tuple[float, float]:
    """The intelligent driver model, one Euler step."""
    (x, v), (x_lead, v_lead, rear) = ego, lead
    wanted = v * c.headway_s + v * (v - v_lead) / (2.0 * math.sqrt(c.accel_max_mps2 * c.decel_max_mps2))
    needed = c.min_gap_m + (max(0.0, wanted) if c.clamp_needed_gap else wanted)
    gap = max(x_lead - x - rear, c.min_gap_m)
    accel = c.accel_max_mps2 * (1.0 - (v / target) ** c.exponent - (needed / gap) ** 2)
    after = v + INTERVAL_S * min(max(accel, -c.decel_max_mps2), c.accel_max_mps2)
    return x + INTERVAL_S * v, after if c.reference else max(0.0, after)


def _project(path: ProposalPath, x: float, y: float) -> float:
    return float(shapely.LineString(path.points).project(shapely.Point(x, y)))


def _center_of_ego(pose: FloatArray, vehicle: VehicleParameters) -> tuple[float, float]:
    to_center = vehicle.rear_axle_to_center_m
    return float(pose[0] + to_center * np.cos(pose[2])), float(pose[1] + to_center * np.sin(pose[2]))


def _corners(x: float, y: float, heading: float, length: float, width: float) -> list[tuple[float, float]]:
    """Front left, rear left, rear right, front right."""
    forward, left = (np.cos(heading), np.sin(heading)), (np.cos(heading + np.pi / 2), np.sin(heading + np.pi / 2))
    return [
        (x + (lat * left[0] + lon * forward[0]), y + (lat * left[1] + lon * forward[1]))
        for lon, lat in ((length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2))
    ]  # fmt: skip


def _corners_of(thing: TrackedObject) -> list[tuple[float, float]]:
    return _corners(thing.x_m, thing.y_m, thing.heading_rad, thing.length_m, thing.width_m)


def _makes_sense(thing: TrackedObject) -> bool:
    numbers = [thing.x_m, thing.y_m, thing.heading_rad, thing.length_m, thing.width_m]
    if thing.kind in AGENTS:
        numbers += [thing.vx_mps, thing.vy_mps]
    return all(map(math.isfinite, numbers)) and thing.length_m >= 0.0 and thing.width_m >= 0.0


def _kind_number(kind: str) -> int:
    return (*AGENTS, "traffic_cone", "barrier", "czone_sign", "generic_object").index(kind)


def _normalize(angle: float) -> float:
    return float(np.arctan2(np.sin(angle), np.cos(angle)))


def _xy(point: shapely.Point) -> tuple[float, float]:
    return point.x, point.y
