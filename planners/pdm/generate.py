"""The proposals: every target speed on every path, rolled out with the intelligent driver model against the forecast.

Follows tuplan_garage's `pdm_generator.py`, `batch_idm_policy.py` and `pdm_path.py` (Apache-2.0), written anew as loops over
arrays (`planners.pdm.roll`, `planners.pdm.corridor`); `planners.pdm.readable_rollout` says the same in plain words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import shapely

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters
from planners.pdm.corridor import INSIDE, OUTSIDE, UNSURE, survey
from planners.pdm.forecast import Forecast
from planners.pdm.paths import ProposalPath
from planners.pdm.roll import LIGHT, NOTHING, begin, roll


@dataclass(frozen=True, kw_only=True)
class Lead:
    """What a proposal slows for. about: track id, or connector id with `red_light`. gap_m: from the ego's box to it.

    speed_mps: its speed along the ego's heading. step: when it was found, in intervals of 0.1 s from now. ego_speed_mps then.
    """

    about: str
    red_light: bool
    gap_m: float
    speed_mps: float
    step: int
    ego_speed_mps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """P = paths x speeds proposals, path by path: T = 1 + steps states, 0.1 s apart, the first one now, on the path.

    poses (P, T, 3): rear axle. idm (P, T, 2): progress on the proposal's path, and speed. lead_states (P, T, 3): progress and
    speed of the lead in the law's step that led to each state, and what is taken off its progress. leads: P, the first thing
    that each proposal slows for, None for a free path. path_of (P,), fraction_of (P,): indices. target_speeds_mps: per speed.
    """

    poses: FloatArray
    idm: FloatArray
    lead_states: FloatArray
    leads: tuple[Lead | None, ...]
    path_of: np.ndarray
    fraction_of: np.ndarray
    paths: tuple[ProposalPath, ...]
    target_speeds_mps: FloatArray
    forecast: Forecast
    corridors: tuple[FloatArray, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Extended:
    """A proposal rolled on to the plan's horizon: poses (T, 3), speeds_mps (T,), progress_m (T,), 0.1 s apart."""

    poses: FloatArray
    speeds_mps: FloatArray
    progress_m: FloatArray


def target_speeds(limit_mps: float | None, config: PdmParameters) -> FloatArray:
    """The speeds that the proposals aim at: shares of the limit of the ego's lane, or of 15 m/s where it has none."""
    known = limit_mps is not None and math.isfinite(limit_mps)
    return np.array(config.speed_fractions) * (limit_mps if known else config.target_speed_mps)


def generate(
    paths: Sequence[ProposalPath],
    target_speeds_mps: FloatArray,
    forecast: Forecast,
    ego: EgoState,
    config: PdmParameters,
    vehicle: VehicleParameters = PACIFICA,
) -> Generated:
    """Roll every target speed out on every path, `config.proposal_steps` steps of 0.1 s."""
    targets = np.maximum(np.asarray(target_speeds_mps, dtype=np.float64), 0.1)  # a limit of zero: all but standing
    count, n_targets, n_states = len(paths) * len(targets), len(targets), config.proposal_steps + 1
    poses, idm, leads = (np.zeros((count, n_states, width)) for width in (3, 2, 3))
    found = np.zeros((count, 6))
    speed = ego.speed_mps if math.isfinite(ego.speed_mps) else 0.0
    law = _law(config, vehicle)
    corridors = []
    for number, path in enumerate(paths):
        own = slice(number * n_targets, (number + 1) * n_targets)
        rolling = _Rolling(poses[own], idm[own], leads[own], found[own])
        begin(path.arrays, ego.x_m, ego.y_m, speed, rolling.poses, rolling.idm)
        corridors.append(_roll(path, targets, targets, forecast, config, law, 1, rolling))
    return Generated(
        poses=poses,
        idm=idm,
        lead_states=leads,
        leads=tuple([_lead(row, forecast) for row in found.tolist()]),
        path_of=np.repeat(np.arange(len(paths)), n_targets),
        fraction_of=np.arange(count) % n_targets,
        paths=tuple(paths),
        target_speeds_mps=targets,
        forecast=forecast,
        corridors=tuple(corridors),
    )


def extend(
    generated: Generated, proposal: int, config: PdmParameters, vehicle: VehicleParameters = PACIFICA
) -> Extended:
    """A proposal rolled on from where it ends to `config.plan_steps` steps."""
    done, number = generated.poses.shape[1], int(generated.path_of[proposal])
    poses, idm, leads = (np.zeros((1, config.plan_steps + 1, width)) for width in (3, 2, 3))
    poses[0, :done], idm[0, :done] = generated.poses[proposal], generated.idm[proposal]
    leads[0, :done] = generated.lead_states[proposal]
    fraction = int(generated.fraction_of[proposal])
    targets = generated.target_speeds_mps
    rolling = _Rolling(poses, idm, leads, np.zeros((1, 6)))
    own = targets[fraction : fraction + 1]
    law = _law(config, vehicle)
    _roll(generated.paths[number], own, targets, generated.forecast, config, law, done, rolling)
    return Extended(poses=poses[0], speeds_mps=idm[0, :, 1].copy(), progress_m=idm[0, :, 0].copy())


def corridor_polygon(line: FloatArray, half_width_m: float) -> shapely.Geometry:
    """What the public code calls the driving corridor."""
    geometry = shapely.LineString(line) if len(line) > 1 else shapely.Point(line[0])
    return geometry.buffer(half_width_m, cap_style="square")


class _Rolling(NamedTuple):
    """The arrays that a roll-out of F proposals fills: (F, T, 3), (F, T, 2), (F, T, 3), (F, 6), see `planners.pdm.roll`."""

    poses: FloatArray
    idm: FloatArray
    leads: FloatArray
    found: FloatArray


class _Law(NamedTuple):
    """The constants of `planners.pdm.roll`: all floats but the ego's half length, half width and rear axle to centre."""

    interval_s: float
    min_gap_m: float
    headway_s: float
    accel_max_mps2: float
    decel_max_mps2: float
    exponent: float
    clamp: float
    mended: float
    lead_every: float
    rear_m: float
    size: tuple[float, float, float]


def _law(c: PdmParameters, vehicle: VehicleParameters) -> _Law:
    half_length = 0.5 * vehicle.length_m
    return _Law(
        INTERVAL_S,
        c.min_gap_m,
        c.headway_s,
        c.accel_max_mps2,
        c.decel_max_mps2,
        c.exponent,
        float(c.clamp_needed_gap),
        float(not c.reference),
        float(c.lead_every),
        half_length if c.reference else vehicle.front_m,
        (half_length, 0.5 * vehicle.width_m, vehicle.rear_axle_to_center_m),
    )


def _roll(
    path: ProposalPath,
    targets: FloatArray,
    all_targets: FloatArray,
    forecast: Forecast,
    config: PdmParameters,
    law: _Law,
    first_step: int,
    rolling: _Rolling,
) -> FloatArray:
    """Roll the proposals of one path on from `first_step`, in place. Returns the corridor's line."""
    half_width, last_step = law.size[1], rolling.poses.shape[1] - 1
    samples = _samples(config.reference, config.lead_every, config.forecast_every, first_step, last_step)
    ahead = float(all_targets.max()) * config.plan_steps * INTERVAL_S
    corners, velocities = forecast.corners, forecast.velocities_mps
    start, exact, outlines = rolling.idm[0, 0, 0], not config.reference, forecast.outlines
    line, inside, lit, along = survey(
        path.arrays, start, ahead, exact, half_width, corners, velocities, forecast.ignored, samples, outlines
    )
    objects = (corners, velocities, forecast.headings_rad, forecast.speeds_mps, inside, samples)
    lights = (*outlines[:3], along, lit)
    if roll(path.arrays, objects, lights, law, targets, first_step, *rolling):
        _make_sure(line, forecast, samples, half_width, inside, lit)
        rolling.found[:] = 0.0
        roll(path.arrays, objects, lights, law, targets, first_step, *rolling)
    return line


@lru_cache(maxsize=16)
def _samples(reference: bool, lead_every: int, forecast_every: int, first_step: int, last_step: int) -> np.ndarray:
    """(S,): the steps of the forecast at which a lead is looked for, while rolling from the first step to the last."""
    looks = [k if reference else k - 1 for k in range(first_step, last_step + 1)]
    found = {k // forecast_every * forecast_every for k in looks if k % lead_every == 0}
    return np.array(sorted(found) or [0], dtype=np.int64)


def _make_sure(
    line: FloatArray, forecast: Forecast, samples: np.ndarray, half_width: float, inside: np.ndarray, lit: np.ndarray
) -> None:
    """Ask the real polygon about everything near the corridor's edge: dear, so only where a lead depends on it."""
    corridor = corridor_polygon(line, half_width)
    shapely.prepare(corridor)
    still = ~forecast.velocities_mps.any(axis=1)
    at, row = np.nonzero((inside == UNSURE) & ~(still & (np.arange(len(samples)) > 0)[:, None]))
    if len(at):
        moved = (samples[at] * INTERVAL_S)[:, None, None] * forecast.velocities_mps[row][:, None, :]
        boxes = shapely.polygons(forecast.corners[row] + moved)
        inside[at, row] = np.where(shapely.intersects(corridor, boxes), INSIDE, OUTSIDE)
        inside[:, still] = inside[0, still]
    for light in np.flatnonzero(lit == UNSURE):
        area = shapely.Polygon(forecast.red_lights[light][1])
        lit[light] = INSIDE if shapely.intersects(corridor, area) else OUTSIDE


def _lead(row: list[float], forecast: Forecast) -> Lead | None:
    kind, index, gap, speed, step, ego_speed = row
    if kind == NOTHING:
        return None
    red = kind == LIGHT
    about = forecast.red_lights[int(index)][0] if red else forecast.ids[int(index)]
    return Lead(about=about, red_light=red, gap_m=gap, speed_mps=speed, step=int(step), ego_speed_mps=ego_speed)
