"""Where samples are taken, what their waypoints are, and which motion their text explains.

A text always explains the teacher's decisions, and always replays to a motion that the sample stores:

    label     the waypoints are                   the text explains
    rollout   what the planner drove in 5 s,      that drive: the decision at each half second, as it was made there
              deciding anew every 0.1 s
    plan      the first 5 s of the one plan that  that plan: what the planner says of each half second of it, standing where
              it made at the anchor, before the   the plan has come to, in the world that a plan assumes: everybody keeps
              tracker                             the velocity of the anchor, lights stay. Nothing in it is hindsight
    human     what the log's own driver did       not the waypoints, but what the planner drives from the same anchor: as
                                                  for rollout. The sample stores that motion as `explained`

A plan is one decision; its later half seconds are no decisions of their own. They are asked for all the same, because the
numbers of the first alone do not say why the speed changes three seconds later, and they are asked in the foreseen world,
because what really happened then is not why the plan was made. Where a planner holds something for the whole plan that is
over in the foreseen world (IDM: a pedestrian on a crosswalk, a stop sign), the text's command is less than what it held;
speeds and distances are always the plan's own. A planner is started afresh at the anchor of a plan, as at one in a log.

A human's waypoints are not what the text says: that is the difference between teacher and human, which the card states.

Whether the teacher drives badly after an anchor is judged by its drive, whatever the label: the same anchors make samples of
every kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nsdrive.vla.prompt import N_WAYPOINTS, TICKS_PER_WAYPOINT
from nsdrive.world.measure import forecast_boxes
from nsdrive.world.simulate import simulate
from nsdrive.world.types import (
    HISTORY_TICKS,
    INTERVAL_S,
    EgoState,
    ObjectFrame,
    Observation,
    Plan,
    Planner,
    Rollout,
    Scenario,
    Trajectory,
)
from nsdrive.world.vehicle import PACIFICA

FUTURE_TICKS = N_WAYPOINTS * TICKS_PER_WAYPOINT  # 5 s
SLOW_MPS = 0.5  # chosen by us: slower than this the steering angle is not to be had from how the heading changes
Label = Literal["rollout", "plan", "human"]


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Where along a scenario samples are taken, and what their waypoints are."""

    anchors: Literal["auto", "rollout", "log"] = "auto"  # auto: along the log where it has one, else along a rollout
    anchor_spacing_s: float = 2.0
    anchors_per_scenario: int = 5
    agents: Literal["replay", "reactive"] = "replay"
    label: Label = "rollout"  # what the waypoints are, see the module
    keep_bad_driving: bool = False  # True: also anchors after which the teacher hits something or leaves the road

    def __post_init__(self) -> None:
        if self.anchors_per_scenario < 1:
            raise ValueError(f"samples.anchors_per_scenario must be at least 1, got {self.anchors_per_scenario}")
        if not INTERVAL_S <= self.anchor_spacing_s < math.inf:
            raise ValueError(
                f"samples.anchor_spacing_s must be at least {INTERVAL_S} s, a scenario's tick, got {self.anchor_spacing_s}"
            )


class NoRecordingError(ValueError):
    """What is asked for is in logs only, and the scenarios are no logs: no other one will be any better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchored:
    """One anchor. rollout: the motion that the text explains, `index` the anchor among its states, five seconds of it follow.
    label: the 51 states from the anchor on that the waypoints are of. drive: what the planner really drives there, the anchor
    being its state `drive_index`; None where it is of no interest."""

    rollout: Rollout
    index: int
    label: tuple[EgoState, ...]
    along_log: bool
    drive: Rollout | None
    drive_index: int

    @property
    def tick(self) -> int:
        """In the scenario."""
        return self.rollout.start_tick + self.index

    @property
    def explained(self) -> tuple[EgoState, ...]:
        """The 51 states that the text explains."""
        return self.rollout.states[self.index : self.index + FUTURE_TICKS + 1]


def anchored(
    scenario: Scenario, planner: Planner, config: AnchorConfig, ticks: Sequence[int] | None = None
) -> Iterator[Anchored]:
    """Every anchor of a scenario, in time order; ticks: these, instead of those of the settings.

    NoRecordingError where a human's future is wanted and none is recorded.
    """
    recorded = len(scenario.ego_log) >= scenario.n_ticks
    along_log = config.anchors == "log" or (config.anchors == "auto" and recorded)
    if config.label == "human" and not (recorded and along_log):
        raise NoRecordingError(
            f"samples.label=human: scenario {scenario.scenario_id} has no recorded future; give logs, or label=rollout or plan"
        )
    ticks = anchor_ticks(scenario, config) if ticks is None else ticks
    if along_log:
        for tick in (tick for tick in ticks if tick < len(scenario.ego_log)):
            yield afresh(scenario, planner, config, tick, along_log=True)
        return
    drive = simulate(scenario, planner, start_tick=HISTORY_TICKS, agents=config.agents)
    for tick in ticks:
        at = tick - HISTORY_TICKS
        rollout, index = drive, at
        if config.label == "plan":
            past = (*drive.history, *drive.states[: at + 1])
            rollout, index = planned(scenario, planner, tick, past, drive.frames[at], drive.lights[at]), 0
        label = rollout.states[index : index + FUTURE_TICKS + 1]
        yield Anchored(rollout=rollout, index=index, label=label, along_log=False, drive=drive, drive_index=at)


def afresh(scenario: Scenario, planner: Planner, config: AnchorConfig, tick: int, *, along_log: bool) -> Anchored:
    """The anchor at a tick for which the ego's motion is given, the planner started there. along_log: is it a log's own?"""
    drive = None
    if config.label != "plan" or not config.keep_bad_driving:
        duration_s = FUTURE_TICKS * INTERVAL_S
        drive = simulate(scenario, planner, start_tick=tick, duration_s=duration_s, agents=config.agents)
    rollout = drive
    if config.label == "plan":
        past = scenario.ego_log[: tick + 1]
        rollout = planned(scenario, planner, tick, past, scenario.frames[tick], scenario.lights[tick])
    assert rollout is not None, "one of the two was made"
    label = scenario.ego_log[tick : tick + FUTURE_TICKS + 1] if config.label == "human" else rollout.states
    return Anchored(rollout=rollout, index=0, label=tuple(label), along_log=along_log, drive=drive, drive_index=0)


def anchor_ticks(scenario: Scenario, config: AnchorConfig) -> list[int]:
    """Ticks with two seconds of past and five of future, `anchor_spacing_s` apart, at most `anchors_per_scenario`."""
    spacing = round(config.anchor_spacing_s / INTERVAL_S)
    return list(range(HISTORY_TICKS, scenario.n_ticks - FUTURE_TICKS, spacing))[: config.anchors_per_scenario]


def planned(
    scenario: Scenario,
    planner: Planner,
    tick: int,
    past: Sequence[EgoState],
    frame: ObjectFrame,
    lights: Mapping[str, str],
) -> Rollout:
    """The planner's one plan at a tick as if it were driven exactly, in the world that it assumes (see the module).

    past: the ego's states since the scenario began, the one at the tick last. The rollout's plans are new every half second,
    which a text is about; those between are the last one. ValueError where the plan is not finite or shorter than five seconds.
    """
    ego = past[-1]
    planner.initialize(scenario.mission, ego)
    states: tuple[EgoState, ...] = (ego,)
    frames = kept_going(frame)
    plans: list[Plan] = []
    for k in range(FUTURE_TICKS + 1):
        if k % TICKS_PER_WAYPOINT:
            plans.append(plans[-1])
            continue
        plan = planner.plan(
            Observation(
                tick=tick + k,
                time_s=states[k].time_s,
                ego=states[k],
                ego_history=(*past, *states[1 : k + 1]),
                objects=frames[k],
                lights=lights,
            )
        )
        plans.append(plan)
        if k == 0:
            states = (ego, *_states_on(plan.trajectory, ego, planner.name))
    return Rollout(
        scenario=scenario,
        planner=planner.name,
        start_tick=tick,
        history=tuple(past[:-1]),
        states=states,
        plans=tuple(plans),
        frames=frames,
        lights=(lights,) * (FUTURE_TICKS + 1),
    )


def kept_going(frame: ObjectFrame) -> tuple[ObjectFrame, ...]:
    """The objects now and at each of the 50 ticks after, if everybody keeps velocity and heading."""
    boxes = forecast_boxes(frame, np.arange(1.0, FUTURE_TICKS + 1.0) * INTERVAL_S)
    steady = replace(frame, accels_mps2=np.zeros(len(frame)))
    return (frame, *(replace(steady, boxes=moved) for moved in boxes))


def _states_on(trajectory: Trajectory, ego: EgoState, planner: str) -> tuple[EgoState, ...]:
    """The 50 states after the ego's on a trajectory; between its own times, in proportion."""
    at = ego.time_s + INTERVAL_S * np.arange(FUTURE_TICKS + 1)
    times = np.asarray(trajectory.times_s, dtype=float)
    if times[-1] < at[-1] - 1e-6:
        raise ValueError(
            f"samples.label=plan: planner '{planner}' plans {times[-1] - ego.time_s:.1f} s ahead, a label needs "
            f"{FUTURE_TICKS * INTERVAL_S:.0f} s"
        )
    poses = np.asarray(trajectory.poses_global, dtype=float)
    columns = [*poses[:, :2].T, np.unwrap(poses[:, 2]), trajectory.speeds_mps, trajectory.accels_mps2]
    rows = np.stack([np.interp(at, times, column) for column in columns], axis=1)
    if not np.isfinite(rows).all():
        raise ValueError(f"tick at {ego.time_s:.1f} s: planner '{planner}' returned a trajectory that is not finite")
    turned = np.diff(rows[:, 2], append=rows[-1, 2])
    steering = np.where(
        rows[:, 3] > SLOW_MPS,
        np.arctan(turned / INTERVAL_S * PACIFICA.wheel_base_m / np.maximum(rows[:, 3], SLOW_MPS)),
        ego.steering_rad,
    )
    limit = PACIFICA.max_steering_rad
    return tuple(
        EgoState(
            time_s=round(float(at[k]), 6),
            x_m=float(rows[k, 0]),
            y_m=float(rows[k, 1]),
            heading_rad=float((rows[k, 2] + np.pi) % (2.0 * np.pi) - np.pi),
            speed_mps=float(rows[k, 3]),
            accel_mps2=float(rows[k, 4]),
            steering_rad=float(np.clip(steering[k], -limit, limit)),
        )
        for k in range(1, FUTURE_TICKS + 1)
    )
