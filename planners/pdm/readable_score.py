"""Areas and scores in plain steps, one object and one state after the other: the specification.

`areas` and `score` are the same, made fast; a randomised test holds them to this module. Every rule follows
tuplan_garage's `pdm_scorer.py`, `pdm_scorer_utils.py` and `pdm_comfort_metrics.py` (Apache-2.0) and the nuPlan functions that
these call. A planner with `engine="readable"` uses these functions in the others' place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.polynomial import polynomial

from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import INTERVAL_S, FloatArray
from planners.pdm import score as fast
from planners.pdm.areas import MULTIPLE_LANES, NON_DRIVABLE, ONCOMING, Areas
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import Forecast
from planners.pdm.paths import ProposalPath
from planners.pdm.score import NAMES, Scores
from planners.pdm.simulate import ACCEL, HEADING, LATERAL_ACCEL, LATERAL_SPEED, SPEED, Simulated

LOOK_STEPS = (0, 3, 6, 9)  # intervals ahead at which a time to collision is looked for


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadableAreas:
    """As `Areas`, with shapely."""

    lane_ids: tuple[str | None, ...]
    polygons: tuple[shapely.Polygon, ...]
    intersections: tuple[shapely.Polygon, ...]

    @staticmethod
    def near(lane_map: LaneMap, center_m: FloatArray, radius_m: float = 50.0) -> ReadableAreas:
        x, y = float(center_m[0]), float(center_m[1])
        square = shapely.box(x - radius_m, y - radius_m, x + radius_m, y + radius_m)
        found: list[tuple[str | None, shapely.Polygon]] = []
        for block in dict.fromkeys(lane.roadblock_id for lane in lane_map.lanes.values()):
            lanes = {key: lane.polygon for key, lane in lane_map.lanes.items() if lane.roadblock_id == block}
            outlines = [lane_map.roadblocks[block]] if block in lane_map.roadblocks else list(lanes.values())
            if any(shapely.Polygon(outline).intersects(square) for outline in outlines):
                found += [(key, shapely.Polygon(ring)) for key, ring in lanes.items()]
        carparks = [shapely.Polygon(ring) for ring in lane_map.carparks]
        found += [(None, carpark) for carpark in carparks if carpark.intersects(square)]
        return ReadableAreas(
            lane_ids=tuple(lane_id for lane_id, _ in found),
            polygons=tuple(polygon for _, polygon in found),
            intersections=tuple(shapely.Polygon(i.polygon) for i in lane_map.intersections.values()),
        )

    def ego_areas(self, corners: FloatArray, centers: FloatArray, route_lane_ids: Collection[str]) -> np.ndarray:
        held = np.array([shapely.contains_xy(p, corners[..., 0], corners[..., 1]) for p in self.polygons], dtype=bool)
        held = held.reshape(len(self.polygons), *corners.shape[:3])  # polygon, proposal, tick, corner
        mine = [p for p, lane_id in zip(self.polygons, self.lane_ids, strict=True) if lane_id in route_lane_ids]
        out = np.zeros((*corners.shape[:2], 3), dtype=bool)
        in_several = held.any(axis=3).sum(axis=0) > 1
        in_no_single_one = ~held.all(axis=3).any(axis=0)
        out[:, :, MULTIPLE_LANES] = in_several & in_no_single_one
        somewhere = np.any(held, axis=0)
        out[:, :, NON_DRIVABLE] = ~np.all(somewhere, axis=2)
        out[:, :, ONCOMING] = True
        for polygon in mine:
            out[:, :, ONCOMING] &= ~shapely.contains_xy(polygon, centers[..., 0], centers[..., 1])
        return out

    def in_intersection(self, points: FloatArray) -> np.ndarray:
        out = np.zeros(points.shape[:-1], dtype=bool)
        for polygon in self.intersections:
            out |= shapely.contains_xy(polygon, points[..., 0], points[..., 1])
        return out


def score_proposals(
    simulated: Simulated,
    forecast: Forecast,
    centerline: ProposalPath,
    areas: Areas | ReadableAreas,
    route_lane_ids: Collection[str],
    config: PdmParameters,
) -> Scores:
    """As the fast one. Finite input only."""
    count = len(simulated)
    where = areas.ego_areas(simulated.corners, simulated.centers, route_lane_ids)
    crossing = areas.in_intersection(simulated.states[:, :, :2])
    values, measured = np.ones((count, len(NAMES))), np.full((count, len(NAMES)), np.nan)
    about = np.full((count, len(NAMES)), -1, dtype=np.int64)
    collision_s, collision_about = np.full(count, np.inf), np.full(count, -1, dtype=np.int64)
    line = shapely.LineString(centerline.points)
    everyone = [  # where the others are, some states beyond the last one
        shapely.polygons(forecast.corners_at(t, config.forecast_every))
        for t in range(simulated.states.shape[1] + LOOK_STEPS[-1])
    ]
    for p in range(count):
        faults = _at_fault_collisions(simulated, p, where[p], forecast, everyone, config)
        if faults:
            tick, value, who = min(faults, key=lambda fault: (fault[1], fault[0], fault[2]))
            values[p, 0], measured[p, 0], about[p, 0] = value, tick * INTERVAL_S, who
            tick, _, who = min(faults)
            collision_s[p], collision_about[p] = tick * INTERVAL_S, who
        off_road = np.flatnonzero(where[p, :, NON_DRIVABLE])
        if len(off_road):
            values[p, 1], measured[p, 1] = 0.0, off_road[0] * INTERVAL_S
        wrong_way_m = _longest_wrong_way_m(simulated.centers[p], where[p, :, ONCOMING])
        values[p, 2] = 1.0 if wrong_way_m < 2.0 else (0.5 if wrong_way_m < 6.0 else 0.0)
        measured[p, 2] = wrong_way_m if wrong_way_m > 0.0 else np.nan
        start, end = (line.project(shapely.Point(xy)) for xy in simulated.centers[p, [0, -1]])
        measured[p, 3] = max(0.0, end - start)
        infraction = _first_infraction(simulated, p, where[p], crossing[p], forecast, everyone, config)
        if infraction is not None:
            values[p, 4], measured[p, 4], about[p, 4] = 0.0, infraction[0] * INTERVAL_S, infraction[1]
    values[:, 5] = _are_comfortable(simulated.states, config.reference)
    score, values[:, 3] = fast.weigh(values, measured[:, 3])
    return Scores(
        score=score,
        values=values,
        measured=measured,
        about=about,
        collision_s=collision_s,
        collision_about=collision_about,
    )


def _at_fault_collisions(
    simulated: Simulated,
    p: int,
    where: np.ndarray,
    forecast: Forecast,
    everyone: Sequence[np.ndarray],
    config: PdmParameters,
) -> list[tuple[int, float, int]]:
    """(tick, value, object) of every first contact that is the ego's fault."""
    known = set(np.flatnonzero(forecast.ignored).tolist())
    found = []
    for t, state in enumerate(simulated.states[p]):
        ego = shapely.Polygon(simulated.corners[p, t])
        others = everyone[t]
        for who in np.flatnonzero(shapely.intersects(others, ego)).tolist():
            if who in known:
                continue
            known.add(who)  # an object that was not the ego's fault is forgotten, one that was stays its fault
            several_or_off = where[t, MULTIPLE_LANES] or where[t, NON_DRIVABLE]
            nose = shapely.LineString([simulated.corners[p, t, 0], simulated.corners[p, t, 3]])
            centroid = shapely.get_coordinates(others[who].centroid)[0]
            if np.hypot(state[SPEED], state[LATERAL_SPEED]) <= 5e-2:  # the ego stands
                fault = False
            elif not forecast.is_agent[who] or forecast.speeds_mps[who] <= 5e-2:  # it stands
                fault = True
            elif _angle_to(state, centroid, config) > np.deg2rad(150):  # from behind
                fault = False
            elif nose.intersects(others[who]):  # with the front bumper
                fault = True
            else:  # at the side
                fault = bool(several_or_off)
            if fault:
                found.append((t, 0.0 if forecast.is_agent[who] else 0.5, who))
    return found


def _first_infraction(
    simulated: Simulated,
    p: int,
    where: np.ndarray,
    crossing: np.ndarray,
    forecast: Forecast,
    everyone: Sequence[np.ndarray],
    config: PdmParameters,
) -> tuple[int, int] | None:
    """(tick, object) at which going straight on for up to 0.9 s first meets someone who is the ego's to mind."""
    known = set(np.flatnonzero(forecast.ignored).tolist())
    for t, state in enumerate(simulated.states[p]):
        speed = np.hypot(state[SPEED], state[LATERAL_SPEED])
        if speed < 5e-3:
            continue
        velocity = np.array([np.cos(state[HEADING]), np.sin(state[HEADING])]) * speed
        anyone = where[t, MULTIPLE_LANES] or where[t, NON_DRIVABLE] or crossing[t]
        for ahead in LOOK_STEPS:
            ego = shapely.Polygon(simulated.corners[p, t] + velocity * (ahead * INTERVAL_S))
            others = everyone[t + ahead]
            for who in np.flatnonzero(shapely.intersects(others, ego)).tolist():
                if who in known:
                    continue
                known.add(who)
                angle = _angle_to(state, shapely.get_coordinates(others[who].centroid)[0], config)
                if angle < np.deg2rad(30) or (anyone and not angle > np.deg2rad(150)):
                    return t, who
    return None


def _angle_to(state: FloatArray, point: FloatArray, config: PdmParameters) -> float:
    """Angle between the ego's heading and a point seen from its rear axle; in the public code nan where rounding says so."""
    away = point - state[:2]
    if not away.any():
        return np.nan
    cosine = np.dot([np.cos(state[HEADING]), np.sin(state[HEADING])], away / np.linalg.norm(away))
    if config.reference and abs(cosine) > 1.0:
        return np.nan
    return float(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _longest_wrong_way_m(centers: FloatArray, oncoming: np.ndarray) -> float:
    """Longest way that the middle goes without being on the route; a step counts if it ends off it."""
    longest = run = 0.0
    for t in range(len(centers)):
        if not oncoming[t]:
            run = 0.0
        elif t > 0:
            run += float(np.sqrt(((centers[t] - centers[t - 1]) ** 2).sum()))
        longest = max(longest, run)
    return longest


def _are_comfortable(states: FloatArray, reference: bool) -> np.ndarray:
    """(P,): six bounds on smoothed signals of (P, T, 8) states; a window of the whole motion is one parabola through it."""
    count = states.shape[1]
    heading = np.unwrap(states[:, :, HEADING], axis=1)
    yaw_rate = np.round(_smooth(heading, 5, 2, 1), 8)
    accel = states[:, :, ACCEL]
    lateral = states[:, :, LATERAL_ACCEL] if reference else states[:, :, SPEED] * yaw_rate

    def jerk(signal: FloatArray) -> FloatArray:
        return _smooth(np.round(_smooth(signal, 8, 2, 0), 8), count, 2, 1)

    bounds = (
        (_smooth(accel, count, 2, 0), fast.LON_ACCEL_MPS2),
        (_smooth(lateral, count, 2, 0), (-fast.MAX_LAT_ACCEL_MPS2, fast.MAX_LAT_ACCEL_MPS2)),
        (jerk(np.hypot(accel, lateral)), (-fast.MAX_JERK_MPS3, fast.MAX_JERK_MPS3)),
        (jerk(accel), (-fast.MAX_LON_JERK_MPS3, fast.MAX_LON_JERK_MPS3)),
        (_smooth(heading, 5, 3, 2), (-fast.MAX_YAW_ACCEL_RADPS2, fast.MAX_YAW_ACCEL_RADPS2)),
        (yaw_rate, (-fast.MAX_YAW_RATE_RADPS, fast.MAX_YAW_RATE_RADPS)),
    )
    ok = np.ones(len(states), dtype=bool)
    for signal, (low, high) in bounds:
        ok &= np.all((np.round(signal, 8) > low) & (np.round(signal, 8) < high), axis=1)
    return ok


def _smooth(signals: FloatArray, window: int, order: int, derivative: int) -> FloatArray:
    """Savitzky-Golay of (P, T) as scipy's `savgol_filter` has it: a polynomial through each window, asked at its middle, at
    the ends of the signal where it stands. The middle of an even window is half a state before its state."""
    count, half = signals.shape[1], window // 2
    middle = 0.5 * (window - 1)
    out = np.empty_like(signals)
    for i in range(count):
        first = min(max(i - (window - 1) // 2, 0), count - window)
        at = i - first - middle if i < half or i >= count - half else 0.0
        fit = polynomial.polyfit(np.arange(window) - middle, signals[:, first : first + window].T, order)
        out[:, i] = polynomial.polyval(at, polynomial.polyder(fit, derivative)) / INTERVAL_S**derivative
    return out
