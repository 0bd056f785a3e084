"""The proposals: every target speed on every path, rolled out with the intelligent driver model against the forecast.

Follows tuplan_garage's `pdm_generator.py`, `batch_idm_policy.py` and `pdm_path.py` (Apache-2.0), written anew as loops over
arrays (`planners.pdm.roll`, `planners.pdm.corridor`); `planners.pdm.readable_rollout` says the same in plain words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA, VehicleParameters
from planners.pdm.config import PdmParameters
from planners.pdm.corridor import INSIDE, OUTSIDE, UNSURE, boxes_in_corridor, centroid, polygon_in_corridor
from planners.pdm.forecast import Forecast
from planners.pdm.paths import LEAST_PROGRESS_M, ProposalPath, blocks_of
from planners.pdm.roll import LIGHT, NOTHING, roll


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
    corridors = []
    for number, path in enumerate(paths):
        own = slice(number * n_targets, (number + 1) * n_targets)
        start = path.project(ego.x_m, ego.y_m)
        idm[own, 0] = start, speed
        poses[own, 0] = path.pose_at(start)
        ahead = float(np.max(np.abs(targets))) * config.plan_steps * INTERVAL_S
        corridors.append(corridor_line(path, start, start + ahead, config.reference))
        steps = (1, config.proposal_steps)
        _roll(
            path, corridors[-1], targets, forecast, config, vehicle, steps, poses[own], idm[own], leads[own], found[own]
        )
    return Generated(
        poses=poses,
        idm=idm,
        lead_states=leads,
        leads=tuple(_lead(row, forecast) for row in found.tolist()),
        path_of=np.repeat(np.arange(len(paths)), n_targets),
        fraction_of=np.tile(np.arange(n_targets), len(paths)),
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
    targets = generated.target_speeds_mps[generated.fraction_of[proposal] :][:1]
    steps = (done, config.plan_steps)
    path, line = generated.paths[number], generated.corridors[number]
    _roll(path, line, targets, generated.forecast, config, vehicle, steps, poses, idm, leads, np.zeros((1, 6)))
    return Extended(poses=poses[0], speeds_mps=idm[0, :, 1].copy(), progress_m=idm[0, :, 0].copy())


def corridor_line(path: ProposalPath, start_m: float, end_m: float, reference: bool) -> FloatArray:
    """(C, 2): the piece of the path whose surroundings are the corridor; one point where the path ends.

    In the public code: the path's own points between the two, and only where there is at most one of them the exact piece.
    """
    start, end = (min(max(at, 0.0), path.length_m) for at in (start_m, end_m))
    first, stop = np.searchsorted(path.progress_m, start), np.searchsorted(path.progress_m, end, side="right")
    if reference and stop - first > 1:
        return path.points[first:stop]
    ends = path.pose_at(np.array([start, end]))[:, :2]
    if not start < end:
        return ends[:1]
    inner = path.points[np.searchsorted(path.progress_m, start, side="right") : np.searchsorted(path.progress_m, end)]
    return np.ascontiguousarray(np.concatenate([ends[:1], inner, ends[1:]]))


def corridor_polygon(line: FloatArray, half_width_m: float) -> shapely.Geometry:
    """What the public code calls the driving corridor."""
    geometry = shapely.LineString(line) if len(line) > 1 else shapely.Point(line[0])
    return geometry.buffer(half_width_m, cap_style="square")


def _roll(path, line, targets, forecast, config, vehicle, steps, poses, idm, leads, found) -> None:
    """Roll the proposals of one path on through `steps`, first and last, in place."""
    every, half_width = config.lead_every, 0.5 * vehicle.width_m
    looks = np.array(
        [
            (k if config.reference else k - 1) // config.forecast_every * config.forecast_every
            for k in range(steps[0], steps[1] + 1)
            if (k if config.reference else k - 1) % every == 0
        ],
        dtype=np.int64,
    )
    samples = np.unique(looks) if len(looks) else np.zeros(1, dtype=np.int64)
    inside = _inside(line, forecast, samples, half_width)
    lights = _lights(path, line, forecast, half_width)
    law = (
        INTERVAL_S,
        config.min_gap_m,
        config.headway_s,
        config.accel_max_mps2,
        config.decel_max_mps2,
        config.exponent,
        float(config.clamp_needed_gap),
        float(not config.reference),
        float(every),
        path.length_m,
        0.5 * vehicle.length_m if config.reference else vehicle.front_m,
        (0.5 * vehicle.length_m, half_width, vehicle.rear_axle_to_center_m),
    )
    arrays = (path.points, path.headings_rad, path.progress_m, path.blocks)
    objects = (
        forecast.corners, forecast.velocities_mps, forecast.headings_rad, forecast.speeds_mps, inside, samples
    )  # fmt: skip
    roll(arrays, objects, lights, law, targets, steps, poses, idm, leads, found)


def _inside(line: FloatArray, forecast: Forecast, samples: np.ndarray, half_width: float) -> np.ndarray:
    """(S, N) int8: which objects are in the corridor at which sample; those near its edge asked of the real polygon."""
    if not len(forecast):
        return np.zeros((len(samples), 0), dtype=np.int8)
    if not _has_length(line):
        inside = np.where(forecast.ignored, OUTSIDE, UNSURE) * np.ones((len(samples), 1))
        inside = inside.astype(np.int8)
    else:
        inside = boxes_in_corridor(
            line, blocks_of(line), half_width, forecast.corners, forecast.velocities_mps, forecast.ignored, samples, INTERVAL_S
        )  # fmt: skip
    at, row = np.nonzero(inside == UNSURE)
    if len(at):
        moved = (samples[at] * INTERVAL_S)[:, None, None] * forecast.velocities_mps[row][:, None, :]
        boxes = shapely.polygons(forecast.corners[row] + moved)
        inside[at, row] = shapely.intersects(corridor_polygon(line, half_width), boxes)
    return inside


def _lights(
    path: ProposalPath, line: FloatArray, forecast: Forecast, half_width: float
) -> tuple[FloatArray, np.ndarray, FloatArray, np.ndarray]:
    """All red connectors' points (K, 2), where each begins (L + 1,), their progress (L,), and which are in the corridor."""
    if not forecast.red_lights:
        return _NO_LIGHTS
    areas = [area for _, area in forecast.red_lights]
    inside = np.zeros(len(areas), dtype=np.bool_)
    along = np.zeros(len(areas))
    blocks = blocks_of(line) if _has_length(line) else None
    for m, area in enumerate(areas):
        if forecast.red_ignored[m] or len(area) < 3:
            continue
        state = UNSURE if blocks is None else polygon_in_corridor(line, blocks, half_width, area)
        if state == UNSURE:
            state = shapely.intersects(corridor_polygon(line, half_width), shapely.Polygon(area))
        inside[m] = state == INSIDE
        if inside[m]:
            along[m] = path.project(*centroid(area))
    begins = np.cumsum([0, *(len(area) for area in areas)])
    return np.concatenate(areas), begins, along, inside


_NO_LIGHTS = (np.zeros((0, 2)), np.zeros(1, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.bool_))


def _lead(row: list[float], forecast: Forecast) -> Lead | None:
    kind, index, gap, speed, step, ego_speed = row
    if kind == NOTHING:
        return None
    red = kind == LIGHT
    about = forecast.red_lights[int(index)][0] if red else forecast.ids[int(index)]
    return Lead(about=about, red_light=red, gap_m=gap, speed_mps=speed, step=int(step), ego_speed_mps=ego_speed)


def _has_length(line: FloatArray) -> bool:
    return len(line) > 1 and bool((np.abs(line[-1] - line[0]) > LEAST_PROGRESS_M).any() or len(line) > 2)
