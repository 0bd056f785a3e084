"""One scenario and one planner -> the samples at its anchors: label, trace, text, images. Pure: same input, same bytes.

A generated scene has no recorded future: the planner drives it once from its start, and anchors lie along that rollout.
A real log has one: anchors lie along the log, and from each the planner is rolled out on its own for five seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import Camera, Rig
from nsdrive.dataset import Sample
from nsdrive.trace.build import build_trace
from nsdrive.trace.record import to_json
from nsdrive.trace.rounding import recorded
from nsdrive.trace.text import render
from nsdrive.vla.prompt import N_WAYPOINTS, TICKS_PER_WAYPOINT, build_prompt, ego_history_rows, render_answer
from nsdrive.world.geometry import to_ego, wrap_angle
from nsdrive.world.navigation import navigation
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, FloatArray, Planner, Rollout, Scenario

FUTURE_TICKS = N_WAYPOINTS * TICKS_PER_WAYPOINT  # 5 s
SEEN_PIXELS = 12  # chosen by us: an object that covers less of a 640x360 image is not said to be seen


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What a sample shows and says, and where along a scenario samples are taken."""

    trace_level: Literal["none", "brief", "detailed"] = "detailed"
    jpeg_quality: int = 90
    anchors: Literal["auto", "rollout", "log"] = "auto"  # auto: along the log where it has one, else along a rollout
    anchor_spacing_s: float = 2.0
    anchors_per_scenario: int = 5
    agents: Literal["replay", "reactive"] = "replay"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample and its images as JPEG bytes, by their path in the dataset folder."""

    sample: Sample
    images: Mapping[str, bytes]


def samples_of(scenario: Scenario, planner: Planner, rig: Rig, config: SampleConfig, *, item: str) -> Iterator[Made]:
    """Every sample of a scenario, in time order. `item` is the scenario's name in its source, kept for `check`."""
    renderer = Renderer(scenario.lane_map, scenario.scenery_seed)
    for rollout, index in anchored_rollouts(scenario, planner, config):
        yield make_sample(rollout, index, renderer, rig, config, item=item)


def anchored_rollouts(scenario: Scenario, planner: Planner, config: SampleConfig) -> Iterator[tuple[Rollout, int]]:
    """(rollout, index of the anchor among its states), each with five seconds of rollout after the anchor."""
    along_log = config.anchors == "log" or (config.anchors == "auto" and len(scenario.ego_log) == scenario.n_ticks)
    ticks = anchor_ticks(scenario, config)
    if along_log:
        for tick in ticks:
            if tick < len(scenario.ego_log):
                yield (
                    simulate(
                        scenario, planner, start_tick=tick, duration_s=FUTURE_TICKS * INTERVAL_S, agents=config.agents
                    ),
                    0,
                )
    else:
        rollout = simulate(scenario, planner, start_tick=HISTORY_TICKS, agents=config.agents)
        for tick in ticks:
            yield rollout, tick - HISTORY_TICKS


def anchor_ticks(scenario: Scenario, config: SampleConfig) -> list[int]:
    """Ticks with two seconds of past and five of future, `anchor_spacing_s` apart, at most `anchors_per_scenario`."""
    spacing = max(1, round(config.anchor_spacing_s / INTERVAL_S))
    return list(range(HISTORY_TICKS, scenario.n_ticks - FUTURE_TICKS, spacing))[: config.anchors_per_scenario]


def make_sample(rollout: Rollout, index: int, renderer: Renderer, rig: Rig, config: SampleConfig, *, item: str) -> Made:
    """The sample at `rollout.states[index]`."""
    scenario, tick = rollout.scenario, rollout.start_tick + index
    ego, frame, lights = rollout.states[index], rollout.frames[index], rollout.lights[index]
    views = renderer.render(ego.pose, frame, lights, rig)
    seen = {
        camera.name: {thing: pixels for thing, pixels in views[camera.name].seen.items() if pixels >= enough(camera)}
        for camera in rig.cameras
    }
    heading_for = navigation(scenario.mission, ego)
    trace, names = build_trace(rollout, index, seen=seen, navigation=heading_for)
    text = render(trace, config.trace_level)
    history = ego_history_rows((*rollout.history, *rollout.states[: index + 1]))
    future = future_rows(rollout.states[index : index + FUTURE_TICKS + 1])
    waypoints = np.round(future[TICKS_PER_WAYPOINT::TICKS_PER_WAYPOINT, :2], 2) + 0.0
    decision = rollout.plans[index].decision
    assert decision is not None, "a teacher must explain itself"
    folder = f"images/{scenario.scenario_id}/{tick:04d}"
    images = {f"{folder}/{name}.jpg": encode_jpeg(view.rgb, config.jpeg_quality) for name, view in views.items()}
    sample = Sample(
        sample_id=f"{scenario.scenario_id}-{tick:04d}",
        scenario_id=scenario.scenario_id,
        scenario_type=scenario.scenario_type,
        planner=rollout.planner,
        trace_level=config.trace_level,
        images=tuple(images),
        prompt=build_prompt(
            cameras=list(views),
            ego_history=history,
            command=heading_for.command,
            speed_limit_mps=heading_for.speed_limit_mps,
            level=config.trace_level,
        ),
        answer=render_answer(text, waypoints),
        ego_history=tuple(history),
        waypoints_ego_m=waypoints,
        future=future,
        command=heading_for.command,
        speed_limit_mps=heading_for.speed_limit_mps,
        binding_rule=decision.binding_constraint.rule,
        trace=to_json(recorded(trace)),  # all that was decided, whatever the text says of it
        trace_names=names,
        rig=rig.to_json(),
        anchor={"tick": tick, "time_s": round(ego.time_s, 3), "pose_global": [round(float(v), 6) for v in ego.pose]},
        unknown=tuple(sorted(scenario.unknown)),
        extra={"item": item, "source": scenario.source, "seen": seen, "notes": dict(scenario.notes)},
    )
    return Made(sample=sample, images=images)


def enough(camera: Camera) -> float:
    """The pixels that make an object seen, for this camera's image size."""
    return SEEN_PIXELS * camera.width_px * camera.height_px / (640 * 360)


def future_rows(states: tuple[EgoState, ...]) -> FloatArray:
    """(51, 5) at 10 Hz from the anchor on: x, y, heading in its ego frame, speed, acceleration; four decimals."""
    anchor = states[0]
    poses = np.array([s.pose for s in states])
    motion = np.array([[s.speed_mps, s.accel_mps2] for s in states])
    headings = wrap_angle(poses[:, 2] - anchor.heading_rad)
    rows = np.column_stack([to_ego(poses[:, :2], anchor.pose), headings, motion])
    return np.asarray(np.round(rows, 4) + 0.0)
