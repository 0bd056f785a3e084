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
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nsdrive.dataset import Dataset, Prediction, Sample, json_line, write_atomically
from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S, render_answer
from nsdrive.world.rules import IdmParameters, idm_acceleration
from nsdrive.world.types import FloatArray

TIMES_S = WAYPOINT_INTERVAL_S * np.arange(1, N_WAYPOINTS + 1)
MOVING_MPS = 0.5  # chosen by us: below it the direction of a velocity is noise


def write_baseline(name: str, dataset: Dataset, split: str, out: str | Path, *, overwrite: bool = False) -> int:
    """Write predictions.jsonl of a baseline, one row per sample of the split, in order; returns their number.

    The file appears complete or not at all. Raises ValueError for an unknown name, an empty split or an existing `out`.
    """
    baseline = named(name)
    out = Path(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists. Replace it with --overwrite, or choose another --out")
    rows = [predict(name, baseline, sample) for sample in dataset.samples(split)]
    if not rows:
        raise ValueError(f"{dataset.folder} has no samples in split '{split}'")
    write_atomically(out, "".join(json_line(row.to_row()) for row in rows))
    return len(rows)


def predict(name: str, baseline: Callable[[Sample], FloatArray], sample: Sample) -> Prediction:
    """The baseline's answer as a prediction. seconds is 0.0: timing it would make every file differ."""
    waypoints_ego_m = baseline(sample)
    text = sample.answer if name == "oracle" else render_answer("", waypoints_ego_m)
    return Prediction(sample_id=sample.sample_id, text=text, waypoints_ego_m=waypoints_ego_m, error=None, seconds=0.0)


def named(name: str) -> Callable[[Sample], FloatArray]:
    """The baseline of that name. Raises ValueError with the nearest one and the list."""
    if name in BASELINES:
        return BASELINES[name]
    near = difflib.get_close_matches(name, BASELINES, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"No baseline '{name}'.{hint} Known: {', '.join(BASELINES)}")


def constant_velocity(sample: Sample) -> FloatArray:
    """(10, 2) waypoints in the ego frame: p(t) = v t."""
    return TIMES_S[:, None] * _velocity(sample)


def constant_turn_rate_velocity(sample: Sample) -> FloatArray:
    """(10, 2) waypoints on the arc of the present speed and yaw rate: the model called CTRV in tracking.

    The yaw rate is how fast the velocity turned over the last interval of the history, 0 where the ego hardly moved: the
    velocity of the rear axle points along the heading.
    """
    velocity = _velocity(sample)
    speed_mps = float(np.hypot(*velocity))
    heading_rad = float(np.arctan2(velocity[1], velocity[0])) if speed_mps >= MOVING_MPS else 0.0
    half_turn_rad = 0.5 * _yaw_rate_radps(sample) * TIMES_S
    chord_m = speed_mps * TIMES_S * np.sinc(half_turn_rad / np.pi)
    return chord_m[:, None] * np.stack(
        [np.cos(heading_rad + half_turn_rad), np.sin(heading_rad + half_turn_rad)], axis=1
    )


def constant_acceleration(sample: Sample) -> FloatArray:
    """(10, 2) waypoints straight along the velocity: v t + a t^2 / 2 until the speed is 0, and no further."""
    velocity = _velocity(sample)
    speed_mps = float(np.hypot(*velocity))
    direction = velocity / speed_mps if speed_mps >= MOVING_MPS else np.array([1.0, 0.0])
    speed_mps = max(float(velocity @ direction), 0.0)
    now = sample.ego_history[-1]
    accel_mps2 = float(np.array([now["ax_mps2"], now["ay_mps2"]]) @ direction)
    moving_s = TIMES_S
    if accel_mps2 < 0.0:
        moving_s = np.minimum(TIMES_S, speed_mps / -accel_mps2)
    return (speed_mps * moving_s + 0.5 * accel_mps2 * moving_s**2)[:, None] * direction


def blind_idm(sample: Sample) -> FloatArray:
    """(10, 2) waypoints straight ahead by the free-road IDM law, as nuPlan's planner drives an empty road.

    Target speed: the prompt's limit, else nuPlan's 10 m/s. Forward Euler at 0.5 s (x += v_old dt), which is how the
    published labels were integrated.
    """
    parameters = IdmParameters()
    target_mps = parameters.target_speed_mps if sample.speed_limit_mps is None else float(sample.speed_limit_mps)
    speed_mps, progress_m, progresses_m = max(float(_velocity(sample)[0]), 0.0), 0.0, []
    for _ in range(N_WAYPOINTS):
        accel_mps2 = float(idm_acceleration(speed_mps, np.inf, 0.0, target_mps, parameters))
        progress_m += WAYPOINT_INTERVAL_S * speed_mps
        speed_mps = max(speed_mps + WAYPOINT_INTERVAL_S * accel_mps2, 0.0)
        progresses_m.append(progress_m)
    return np.stack([progresses_m, np.zeros(N_WAYPOINTS)], axis=1)


def oracle(sample: Sample) -> FloatArray:
    """(10, 2): the label's own waypoints."""
    return sample.waypoints_ego_m.copy()


BASELINES: dict[str, Callable[[Sample], FloatArray]] = {
    "constant_velocity": constant_velocity,
    "constant_turn_rate_velocity": constant_turn_rate_velocity,
    "constant_acceleration": constant_acceleration,
    "blind_idm": blind_idm,
    "oracle": oracle,
}
BLIND = tuple(name for name in BASELINES if name != "oracle")  # those that use only the prompt


def _velocity(sample: Sample) -> FloatArray:
    """(2,) present velocity in the ego frame, m/s."""
    if not sample.ego_history:
        raise ValueError(f"sample {sample.sample_id} has no ego history: baselines need at least the present state")
    now = sample.ego_history[-1]
    return np.array([now["vx_mps"], now["vy_mps"]], dtype=float)


def _yaw_rate_radps(sample: Sample) -> float:
    if len(sample.ego_history) < 2:
        return 0.0
    before, now = sample.ego_history[-2:]
    span_s = float(now["t_s"] - before["t_s"])
    if span_s <= 0.0 or min(np.hypot(h["vx_mps"], h["vy_mps"]) for h in (before, now)) < MOVING_MPS:
        return 0.0
    turn_rad = np.arctan2(now["vy_mps"], now["vx_mps"]) - np.arctan2(before["vy_mps"], before["vx_mps"])
    return float((turn_rad + np.pi) % (2.0 * np.pi) - np.pi) / span_s
