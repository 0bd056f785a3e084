"""Builders for the evaluation's tests: samples that obey simple kinematics, and a dataset folder with noise for images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nsdrive.dataset import (
    FORMAT_VERSION,
    MANIFEST,
    Dataset,
    Prediction,
    Sample,
    json_line,
    open_dataset,
    sha256_of,
    write_atomically,
)
from nsdrive.trace.text import render
from nsdrive.trace.trace import EndState, Phase, SceneFacts, Step, Trace
from nsdrive.vla.prompt import build_prompt, render_answer
from nsdrive.world.navigation import Navigation

CAMERAS = ("CAM_F0", "CAM_R0", "CAM_L0")
TIMES_S = 0.5 * np.arange(1, 11)


def make_sample(
    sample_id: str,
    *,
    scenario: str,
    speed_mps: float = 8.0,
    accel_mps2: float = 0.0,
    history_accel_mps2: float | None = None,
    yaw_rate_radps: float = 0.0,
    speed_limit_mps: float | None = None,
    scenario_type: str = "following_lane",
    rule: str = "target_speed",
    waypoints: np.ndarray | None = None,
    about: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Sample:
    """An ego at a speed whose label moves at constant acceleration, straight ahead, unless waypoints are given. about: the trace's
    name of what the binding rule is about."""
    if waypoints is None:
        distance = speed_mps * TIMES_S + 0.5 * accel_mps2 * TIMES_S**2
        waypoints = np.stack([distance, np.zeros(10)], axis=1)
    history = []
    for t in (-2.0, -1.5, -1.0, -0.5, 0.0):
        heading = yaw_rate_radps * t
        history.append(
            {
                "t_s": t,
                "x_m": speed_mps * t,
                "y_m": 0.0,
                "vx_mps": float(speed_mps * np.cos(heading)),
                "vy_mps": float(speed_mps * np.sin(heading)),
                "ax_mps2": accel_mps2 if history_accel_mps2 is None else history_accel_mps2,
                "ay_mps2": 0.0,
            }
        )
    future_s = 0.1 * np.arange(51)
    future = np.zeros((51, 5))
    future[:, 0] = np.interp(future_s, [0.0, *TIMES_S], [0.0, *waypoints[:, 0]])
    prompt = build_prompt(
        cameras=CAMERAS, ego_history=history, command="go straight", speed_limit_mps=speed_limit_mps, level="none"
    )
    return Sample(
        sample_id=sample_id,
        scenario_id=scenario,
        scenario_type=scenario_type,
        planner="idm",
        trace_level="none",
        images=tuple(f"images/{sample_id}/{name}.jpg" for name in CAMERAS),
        prompt=prompt,
        answer=render_answer("", waypoints),
        ego_history=tuple(history),
        waypoints_ego_m=waypoints,
        future=future,
        command="go straight",
        speed_limit_mps=speed_limit_mps,
        binding_rule=rule,
        trace={} if about is None else {"phases": [{"rule": rule, "about": about}]},
        trace_names={} if about is None else {about: about.replace("vehicle", "car")},
        rig={},
        anchor={"tick": 20, "time_s": 2.0, "pose_global": [0.0, 0.0, 0.0]},
        extra=extra or {},
    )


def write_dataset(folder: Path, samples: Sequence[Sample], split: str = "test") -> Dataset:
    rng = np.random.default_rng([7])
    for sample in samples:
        for name in sample.images:
            picture = cv2.GaussianBlur(rng.integers(0, 255, (90, 160, 3), dtype=np.uint8), (0, 0), 6)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    shard = f"{split}-00000.jsonl"
    write_atomically(folder / shard, "".join(json_line(sample.to_row()) for sample in samples))
    manifest = {
        "format_version": FORMAT_VERSION,
        "nsdrive": "test",
        "source": "synthetic",
        "licence": "none",
        "config": {"planner": "idm"},
        "counts": {"split": {split: len(samples)}},
        "files": {shard: sha256_of(folder / shard)},
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest))
    return open_dataset(folder)


def answer(sample: Sample, waypoints: np.ndarray | None = None, **more: object) -> Prediction:
    """A prediction: the label, moved nowhere, unless waypoints are given."""
    points = sample.waypoints_ego_m if waypoints is None else waypoints
    fields = {"text": render_answer("", points), "waypoints_ego_m": points, "error": None, "seconds": 0.5} | more
    return Prediction(sample_id=sample.sample_id, **fields)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reasoning_text(speed_mps: float, accel_mps2: float, rule: str = "target_speed") -> str:
    """A brief trace text of a motion at constant acceleration until standing, as the generator would write it."""
    times = 0.5 * np.arange(11)
    speeds = np.maximum(speed_mps + accel_mps2 * times, 0.0)
    accels = np.where(speeds > 0.0, accel_mps2, 0.0)
    steps = tuple(
        Step(time_s=float(t), speed_mps=float(v), accel_mps2=float(a), lateral_offset_m=None)
        for t, v, a in zip(times[:-1], speeds[:-1], accels[:-1], strict=True)
    )
    trace = Trace(
        scene=SceneFacts(in_view=(("vehicle", 2),), light=None),
        route=Navigation(manoeuvre="follow the road", distance_m=0.0, speed_limit_mps=13.41),
        objects=(),
        steps=steps,
        end=EndState(speed_mps=float(speeds[-1]), accel_mps2=float(accels[-1]), lateral_offset_m=None, turned_deg=0.0),
        phases=(Phase(start_s=0.0, end_s=5.0, rule=rule, about=None, manoeuvre="brake"),),
    )
    return render(trace, "brief")
