"""Which of the simulated proposals is best: collisions, road, direction, progress, time to collision, comfort.

    score = (no at-fault collision x drivable area x driving direction) x (5 progress + 5 time to collision + 2 comfort) / 12

Follows tuplan_garage's `pdm_scorer.py` and `pdm_comfort_metrics.py` (Apache-2.0) of Dauner et al., CoRL 2023, which rebuild
nuPlan's closed-loop score for a batch of motions; written anew, term by term what they say (`readable_score` is the same in
plain steps). Beside its value each term keeps the number behind it and the object to blame, for the record. The score is
`nsdrive.world.scoring.total` of the terms.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.decision import Term
from nsdrive.world.measure import savgol
from nsdrive.world.scoring import TERMS
from nsdrive.world.types import INTERVAL_S, FloatArray
from planners.pdm.areas import MULTIPLE_LANES, NON_DRIVABLE, ONCOMING, Areas
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import Forecast
from planners.pdm.hits import first_hits
from planners.pdm.paths import ProposalPath
from planners.pdm.simulate import ACCEL, HEADING, LATERAL_ACCEL, SPEED, Simulated

NAMES = (  # the terms, in the order of the columns of `Scores`
    "no_at_fault_collision",
    "drivable_area",
    "driving_direction",
    "progress",
    "time_to_collision",
    "comfort",
)
MULTIPLIERS = 3  # the first ones
STANDING_TRACK_MPS = 5e-2  # nuPlan is_track_stopped
WRONG_WAY_SOME_M = 2.0  # tuplan_garage DRIVING_DIRECTION_COMPLIANCE_THRESHOLD
WRONG_WAY_MUCH_M = 6.0  # tuplan_garage DRIVING_DIRECTION_VIOLATION_THRESHOLD
LEAST_PROGRESS_M = 0.1  # tuplan_garage PROGRESS_DISTANCE_THRESHOLD: below it progress is not compared

# tuplan_garage pdm_comfort_metrics.py, which are nuPlan's
MAX_JERK_MPS3 = 8.37
MAX_LON_JERK_MPS3 = 4.13
MAX_LAT_ACCEL_MPS2 = 4.89
LON_ACCEL_MPS2 = (-4.05, 2.40)
MAX_YAW_ACCEL_RADPS2 = 1.93
MAX_YAW_RATE_RADPS = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What P proposals are worth. Columns are NAMES.

    score (P,). values (P, 6). measured (P, 6): the numbers behind them, nan where there is none: time of the first collision
    that makes the value, of the first corner off the road, and of the first infraction [s], longest wrong-way run and
    progress [m]. about (P, 6): index of the object to blame in `Forecast.ids`, -1 for none. collision_s (P,): time of the
    first at-fault collision whatever its value, inf for none, and collision_about (P,): with whom, -1 for nobody.
    """

    score: FloatArray
    values: FloatArray
    measured: FloatArray
    about: np.ndarray
    collision_s: FloatArray
    collision_about: np.ndarray

    @property
    def best(self) -> int:
        """The first of the best."""
        return int(np.argmax(self.score))


def score_proposals(
    simulated: Simulated,
    forecast: Forecast,
    centerline: ProposalPath,
    areas: Areas,
    route_lane_ids: Collection[str],
    config: PdmParameters,
) -> Scores:
    """Score P simulated proposals against the forecast. centerline: the path along which progress counts.

    A motion that is not finite is nowhere on the road: its score is 0. Objects with a number that is not finite are not seen.
    """
    states = simulated.states
    where = areas.ego_areas(simulated.corners, simulated.centers, route_lane_ids)
    hits = _hits(simulated, where, areas.in_intersection(states[:, :, :2]), forecast, config)
    off_road, wrong_way = _road(simulated.centers, where[:, :, NON_DRIVABLE], where[:, :, ONCOMING])

    count = len(simulated)
    values, measured = np.ones((count, len(NAMES))), np.full((count, len(NAMES)), np.nan)
    about = np.full((count, len(NAMES)), -1, dtype=np.int64)
    values[:, 0], measured[:, 0], about[:, 0] = hits[:, 0], _time_s(hits[:, 1]), hits[:, 2]
    values[:, 1], measured[:, 1] = off_road < 0, _time_s(off_road)
    values[:, 2] = np.where(wrong_way < WRONG_WAY_SOME_M, 1.0, np.where(wrong_way < WRONG_WAY_MUCH_M, 0.5, 0.0))
    measured[:, 2] = np.where(wrong_way > 0.0, wrong_way, np.nan)
    measured[:, 3] = _progress_m(simulated, centerline)
    values[:, 4], measured[:, 4], about[:, 4] = hits[:, 5] < 0, _time_s(hits[:, 5]), hits[:, 6]
    values[:, 5] = comfortable(states, config.reference)
    score, values[:, 3] = weigh(values, measured[:, 3])
    return Scores(
        score=score,
        values=values,
        measured=measured,
        about=about,
        collision_s=np.where(hits[:, 3] < 0, np.inf, hits[:, 3] * INTERVAL_S),
        collision_about=hits[:, 4].astype(np.int64),
    )


def terms_of(scores: Scores, forecast: Forecast) -> tuple[tuple[Term, ...], ...]:
    """The terms of each proposal for its record; `nsdrive.world.scoring.total` of them is its score, bit for bit."""
    ids = forecast.ids
    rows = zip(scores.values.tolist(), scores.measured.tolist(), scores.about.tolist(), strict=True)
    return tuple(
        tuple(
            Term(
                name=name,
                value=value,
                measured=None if number != number else number,
                about=None if who < 0 else ids[who],
            )
            for name, value, number, who in zip(NAMES, value_row, measured_row, about_row, strict=True)
        )
        for value_row, measured_row, about_row in rows
    )


def weigh(values: FloatArray, progress_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(P,) scores and (P,) values of progress: the share of the best proposal's, after the multipliers."""
    product = values[:, 0] * values[:, 1] * values[:, 2]
    allowed_m = progress_m * product
    best_m = allowed_m.max(initial=0.0)
    share = allowed_m / best_m if best_m > LEAST_PROGRESS_M else np.where(product == 0.0, 0.0, 1.0)
    weights = [TERMS[name].weight or 0.0 for name in NAMES[MULTIPLIERS:]]
    weighted = weights[0] * share + weights[1] * values[:, 4] + weights[2] * values[:, 5]
    return product * (weighted / sum(weights)), share


def comfortable(states: FloatArray, reference: bool = True) -> np.ndarray:
    """(P,) bool for states (P, T, 8): whether all of six bounds hold at every state. False for what is not finite.

    Smoothed as the public code does, which is not quite as nuPlan's metric: its accelerations and jerks are those of one
    parabola through the whole motion, and the only lateral acceleration is the ego's own now. Without `reference` the lateral
    acceleration is what a passenger feels, speed times yaw rate.
    """
    finite = np.logical_and.reduce(np.isfinite(states), axis=(1, 2))
    states = states if finite.all() else np.where(finite[:, None, None], states, 0.0)
    count = states.shape[1]
    accel, headings = states[:, :, ACCEL], states[:, :, HEADING]
    smooth, whole = savgol(count, 8, 2, 0, INTERVAL_S), savgol(count, count, 2, 0, INTERVAL_S)
    slope = savgol(count, count, 2, 1, INTERVAL_S)
    turns = np.round((headings[:, 1:] - headings[:, :-1]) / (2.0 * np.pi))
    if turns.any():
        headings = headings.copy()
        headings[:, 1:] -= 2.0 * np.pi * np.cumsum(turns, axis=1)
    yaw_rate = np.round(headings @ savgol(count, 5, 2, 1, INTERVAL_S), 8)
    yaw_accel = np.round(headings @ savgol(count, 5, 3, 2, INTERVAL_S), 8)
    lateral = states[:, :, LATERAL_ACCEL] if reference else states[:, :, SPEED] * yaw_rate
    jerk = np.round(np.round(np.hypot(accel, lateral) @ smooth, 8) @ slope, 8)
    lon_jerk = np.round(np.round(accel @ smooth, 8) @ slope, 8)
    ok: np.ndarray = finite & _between(np.round(accel @ whole, 8), *LON_ACCEL_MPS2)
    if lateral.any():
        ok &= _between(np.round(lateral @ whole, 8), -MAX_LAT_ACCEL_MPS2, MAX_LAT_ACCEL_MPS2)
    ok &= _between(jerk, -MAX_JERK_MPS3, MAX_JERK_MPS3)
    ok &= _between(lon_jerk, -MAX_LON_JERK_MPS3, MAX_LON_JERK_MPS3)
    ok &= _between(yaw_accel, -MAX_YAW_ACCEL_RADPS2, MAX_YAW_ACCEL_RADPS2)
    ok &= _between(yaw_rate, -MAX_YAW_RATE_RADPS, MAX_YAW_RATE_RADPS)
    return ok


def _between(signal: FloatArray, low: float, high: float) -> np.ndarray:
    return (signal.min(axis=1) > low) & (signal.max(axis=1) < high)


def _hits(
    simulated: Simulated, where: np.ndarray, crossing: np.ndarray, forecast: Forecast, config: PdmParameters
) -> FloatArray:
    """(P, 7), see `first_hits`."""
    finite = np.isfinite(forecast.boxes).all(axis=1) & np.isfinite(forecast.velocities_mps).all(axis=1)
    return first_hits(
        simulated.states,
        simulated.centers,
        where[:, :, MULTIPLE_LANES] | where[:, :, NON_DRIVABLE],
        crossing,
        0.5 * simulated.vehicle.length_m,
        0.5 * simulated.vehicle.width_m,
        np.ascontiguousarray(forecast.boxes),
        np.ascontiguousarray(forecast.velocities_mps),
        forecast.is_agent,
        ~forecast.is_agent | (forecast.speeds_mps <= STANDING_TRACK_MPS),
        forecast.ignored | ~finite,
        forecast.speeds_mps,
        np.full(len(forecast), -1) if forecast.bend_of is None else forecast.bend_of,
        np.zeros((1, 0, 3)) if forecast.bends is None else forecast.bends,
        config.forecast_every,
        not config.reference,
    )


def _time_s(ticks: FloatArray) -> FloatArray:
    return np.where(ticks < 0, np.nan, ticks * INTERVAL_S)


def _progress_m(simulated: Simulated, centerline: ProposalPath) -> FloatArray:
    """(P,): how far the ego's middle comes along the centerline, never negative."""
    ends = centerline.project_points(np.concatenate([simulated.centers[:, 0], simulated.centers[:, -1]]))
    count = len(simulated)
    gained = np.where(simulated.finite, ends[count:], 0.0) - np.where(simulated.finite, ends[:count], 0.0)
    return np.maximum(gained, 0.0)


@njit(cache=True)
def _road(centers, off_road, oncoming):
    """(P,) tick of the first state off the road, -1 for none, and (P,) longest way of the middle off the route [m]."""
    count, ticks = off_road.shape
    first, longest = np.full(count, -1.0), np.zeros(count)
    for p in range(count):
        run = 0.0
        for t in range(ticks):
            if off_road[p, t] and first[p] < 0.0:
                first[p] = t
            if not oncoming[p, t]:
                run = 0.0
            elif t > 0:
                dx, dy = centers[p, t, 0] - centers[p, t - 1, 0], centers[p, t, 1] - centers[p, t - 1, 1]
                run += np.sqrt(dx * dx + dy * dy)
            if run > longest[p]:
                longest[p] = run
    return first, longest
