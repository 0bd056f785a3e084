"""Predictions without a model: what the ego's own state tells, and the label itself. A model must beat the blind ones.

    constant_velocity            the present velocity, for 5 s
    constant_turn_rate_velocity  the present speed on the arc of the present yaw rate
    constant_acceleration        the present acceleration along the present velocity, until standing
    blind_idm                    free-road IDM to the speed limit, straight ahead: the planner's law without its eyes
    oracle                       the label's own waypoints and text: the ceiling, and a test of the evaluation

All but the oracle use only what the prompt tells (ego history, speed limit): no image, no trace. On the published
examples the blind IDM alone reached 0.10 to 0.17 m ADE@3s where the road was straight, so a number without it says little.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nsdrive.dataset import Dataset, Prediction, Sample, json_line, write_atomically
from nsdrive.output_folder import claim_file
from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S, render_answer
from nsdrive.world.rules import IdmParameters, idm_acceleration
from nsdrive.world.types import FloatArray

TIMES_S = WAYPOINT_INTERVAL_S * np.arange(1, N_WAYPOINTS + 1)
MOVING_MPS = 0.5  # chosen by us: below it the direction of a velocity is noise


def write_baseline(name: str, dataset: Dataset, split: str, out: str | Path, *, overwrite: bool = False) -> int:
    """Write predictions.jsonl of a baseline, one row per sample of the split, in order; returns their number.

    The file appears complete or not at all. Raises ValueError for an unknown name, an empty split or an existing `out`.
    """
    name = named(name)
    out = Path(out)
    claim_file(out, overwrite=overwrite)
    rows = [predict(name, sample) for sample in dataset.samples(split)]
    if not rows:
        raise ValueError(f"{dataset.folder} has no samples in split '{split}'")
    write_atomically(out, "".join(json_line(row.to_row()) for row in rows))
    return len(rows)


def predict(name: str, sample: Sample) -> Prediction:
    """The baseline's answer as a prediction. seconds is 0.0: timing it would make every file differ."""
    waypoints_ego_m = waypoints_of(name, sample)
    text = sample.answer if name == "oracle" else render_answer("", waypoints_ego_m)
    return Prediction(sample_id=sample.sample_id, text=text, waypoints_ego_m=waypoints_ego_m, error=None, seconds=0.0)


def named(name: str) -> str:
    """The name of a baseline. Raises ValueError with the nearest one and the list."""
    if name in BASELINES:
        return name
    near = difflib.get_close_matches(name, BASELINES, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"No baseline '{name}'.{hint} Known: {', '.join(BASELINES)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class EgoStates:
    """What the prompts of N samples tell of the ego, in its frame at the anchor: all that a blind baseline may use.

    velocity_mps, accel_mps2 (N, 2): now. before_mps (N, 2), span_s (N,): the velocity at the history's last but one row, and how
    long ago that was, 0.0 without one. limit_mps (N,): nan where it is not known.
    """

    velocity_mps: FloatArray
    accel_mps2: FloatArray
    before_mps: FloatArray
    span_s: FloatArray
    limit_mps: FloatArray

    def at(self, rows: Sequence[int]) -> EgoStates:
        """Those of some of the samples."""
        return EgoStates(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def of(histories: Sequence[Sequence[Mapping[str, float]]], limits_mps: Sequence[float | None]) -> EgoStates:
        """From ego histories, oldest row first, and speed limits. Raises ValueError for an empty history."""
        return EgoStates.stacked([ego_numbers(h, limit) for h, limit in zip(histories, limits_mps, strict=True)])

    @staticmethod
    def stacked(rows: Sequence[Sequence[float]] | FloatArray) -> EgoStates:
        """From rows of `ego_numbers`."""
        table = np.asarray(rows, dtype=float).reshape(-1, EGO_NUMBERS)
        return EgoStates(
            velocity_mps=table[:, 0:2],
            accel_mps2=table[:, 2:4],
            before_mps=table[:, 4:6],
            span_s=table[:, 6],
            limit_mps=table[:, 7],
        )


EGO_NUMBERS = 8


def ego_numbers(history: Sequence[Mapping[str, float]], limit_mps: float | None) -> tuple[float, ...]:
    """One sample's row of `EgoStates`: vx, vy, ax, ay now, vx, vy before, seconds between, limit."""
    if not history:
        raise ValueError("it has no ego history: baselines need at least the present state")
    now = history[-1]
    before = history[-2] if len(history) > 1 else now
    return (
        float(now["vx_mps"]),
        float(now["vy_mps"]),
        float(now["ax_mps2"]),
        float(now["ay_mps2"]),
        float(before["vx_mps"]),
        float(before["vy_mps"]),
        float(now["t_s"]) - float(before["t_s"]),
        np.nan if limit_mps is None else float(limit_mps),
    )


def constant_velocity(ego: EgoStates) -> FloatArray:
    """(N, 10, 2) waypoints in the ego frame: p(t) = v t."""
    return TIMES_S[:, None] * ego.velocity_mps[:, None, :]


def constant_turn_rate_velocity(ego: EgoStates) -> FloatArray:
    """(N, 10, 2) waypoints on the arc of the present speed and yaw rate: the model called CTRV in tracking.

    The yaw rate is how fast the velocity turned over the last interval of the history, 0 where the ego hardly moved: the
    velocity of the rear axle points along the heading.
    """
    speed_mps = _norm(ego.velocity_mps)
    heading_rad = np.where(speed_mps >= MOVING_MPS, _direction(ego.velocity_mps), 0.0)
    half_turn_rad = 0.5 * _yaw_rate_radps(ego)[:, None] * TIMES_S
    chord_m = speed_mps[:, None] * TIMES_S * np.sinc(half_turn_rad / np.pi)
    angle_rad = heading_rad[:, None] + half_turn_rad
    return chord_m[..., None] * np.stack([np.cos(angle_rad), np.sin(angle_rad)], axis=-1)


def constant_acceleration(ego: EgoStates) -> FloatArray:
    """(N, 10, 2) waypoints straight along the velocity: v t + a t^2 / 2 until the speed is 0, and no further."""
    norm = _norm(ego.velocity_mps)
    moving = norm >= MOVING_MPS
    unit = ego.velocity_mps / np.where(moving, norm, 1.0)[:, None]
    direction = np.where(moving[:, None], unit, [1.0, 0.0])
    speed_mps = np.maximum((ego.velocity_mps * direction).sum(axis=1), 0.0)
    accel_mps2 = (ego.accel_mps2 * direction).sum(axis=1)
    brakes = accel_mps2 < 0.0
    until_s = np.where(brakes, speed_mps / np.where(brakes, -accel_mps2, 1.0), np.inf)
    moving_s = np.minimum(TIMES_S, until_s[:, None])
    distance_m = speed_mps[:, None] * moving_s + 0.5 * accel_mps2[:, None] * moving_s**2
    return distance_m[..., None] * direction[:, None, :]


def blind_idm(ego: EgoStates) -> FloatArray:
    """(N, 10, 2) waypoints straight ahead by the free-road IDM law, as nuPlan's planner drives an empty road.

    Target speed: the prompt's limit, else nuPlan's 10 m/s. Forward Euler at 0.5 s (x += v_old dt), which is how the
    published labels were integrated.
    """
    parameters = IdmParameters()
    target_mps = np.where(np.isnan(ego.limit_mps), parameters.target_speed_mps, ego.limit_mps)
    speed_mps = np.maximum(ego.velocity_mps[:, 0], 0.0)
    progress_m, progresses_m = np.zeros(len(speed_mps)), []
    for _ in range(N_WAYPOINTS):
        accel_mps2 = idm_acceleration(speed_mps, np.inf, 0.0, target_mps, parameters)
        progress_m = progress_m + WAYPOINT_INTERVAL_S * speed_mps
        speed_mps = np.maximum(speed_mps + WAYPOINT_INTERVAL_S * accel_mps2, 0.0)
        progresses_m.append(progress_m)
    along = np.stack(progresses_m, axis=1)
    return np.stack([along, np.zeros_like(along)], axis=-1)


BLIND: dict[str, Callable[[EgoStates], FloatArray]] = {  # those that use only the prompt
    "constant_velocity": constant_velocity,
    "constant_turn_rate_velocity": constant_turn_rate_velocity,
    "constant_acceleration": constant_acceleration,
    "blind_idm": blind_idm,
}
BASELINES = (*BLIND, "oracle")


def waypoints_of(name: str, sample: Sample) -> FloatArray:
    """(10, 2): what a baseline answers to one sample; the oracle's are the label's own."""
    if name == "oracle":
        return sample.waypoints_ego_m.copy()
    try:
        return BLIND[name](EgoStates.of([sample.ego_history], [sample.speed_limit_mps]))[0]
    except ValueError as error:
        raise ValueError(f"sample {sample.sample_id}: {error}") from None


def _norm(vectors: FloatArray) -> FloatArray:
    return np.hypot(vectors[:, 0], vectors[:, 1])


def _direction(vectors: FloatArray) -> FloatArray:
    return np.arctan2(vectors[:, 1], vectors[:, 0])


def _yaw_rate_radps(ego: EgoStates) -> FloatArray:
    """(N,), 0 where one of the two velocities is too small to have a direction, or there is only one."""
    slow = np.minimum(_norm(ego.velocity_mps), _norm(ego.before_mps)) < MOVING_MPS
    known = (ego.span_s > 0.0) & ~slow
    turn_rad = _direction(ego.velocity_mps) - _direction(ego.before_mps)
    wrapped = (turn_rad + np.pi) % (2.0 * np.pi) - np.pi
    return np.where(known, wrapped / np.where(known, ego.span_s, 1.0), 0.0)
