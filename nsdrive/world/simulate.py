"""The one loop that drives: a planner through a scenario, ten times a second."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np

from nsdrive.world.traffic import traffic_for
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, Observation, Plan, Planner, Rollout, Scenario
from nsdrive.world.vehicle import EgoModel


def simulate(
    scenario: Scenario,
    planner: Planner,
    *,
    start_tick: int | None = None,
    duration_s: float | None = None,
    agents: str = "replay",
) -> Rollout:
    """Drive `planner` through `scenario` from `start_tick` (default: as early as allowed) for `duration_s` (to its end).

    Every tick the planner answers an observation, and the ego tracks the answer for 0.1 s (`EgoModel`, nuPlan's
    two-stage controller). agents "replay" plays the others as recorded; "reactive" lets vehicles on lanes drive by the
    intelligent driver model (`nsdrive.world.traffic`). The result has T + 1 states and T + 1 plans, one at each state.

    ValueError, naming scenario and tick: a start or duration outside the scenario, an unknown kind of agents, a plan
    that is not finite or misses the present, an ego state that is not finite.
    """
    start = HISTORY_TICKS if start_tick is None else start_tick
    _check_start(scenario, start)
    ticks = _duration_ticks(scenario, start, duration_s)
    traffic = traffic_for(scenario, start, agents)
    model = EgoModel()
    state = scenario.ego_log[start]
    _check_state(scenario, start, state)
    planner.initialize(scenario.mission, state)

    states, plans, frames = [state], [], []
    for tick in range(start, start + ticks + 1):
        observation = Observation(
            tick=tick,
            time_s=state.time_s,
            ego=state,
            ego_history=(*scenario.ego_log[:start], *states),
            objects=traffic.frame,
            lights=scenario.lights[tick],
        )
        plan = planner.plan(observation)
        _check_plan(scenario, tick, planner, plan)
        plans.append(plan)
        frames.append(traffic.frame)
        if tick == start + ticks:
            break
        traffic.advance(state)
        try:
            state = model.advance(state, plan.trajectory, scenario.clock_us)
        except ValueError as error:
            raise ValueError(
                f"Scenario {scenario.scenario_id}, tick {tick}, planner {planner.name!r}: {error}"
            ) from error
        _check_state(scenario, tick + 1, state)
        states.append(state)
    return Rollout(
        scenario=scenario,
        planner=planner.name,
        start_tick=start,
        history=tuple(scenario.ego_log[:start]),
        states=tuple(states),
        plans=tuple(plans),
        frames=tuple(frames),
        lights=tuple(scenario.lights[start : start + ticks + 1]),
    )


def _check_start(scenario: Scenario, start: int) -> None:
    last = min(len(scenario.ego_log), scenario.n_ticks) - 1
    if last < HISTORY_TICKS:
        raise ValueError(
            f"Scenario {scenario.scenario_id} has {last + 1} ticks with an ego, too few for the "
            f"{HISTORY_TICKS} ticks of history that a rollout needs."
        )
    if not HISTORY_TICKS <= start <= last:
        raise ValueError(
            f"Scenario {scenario.scenario_id} cannot start at tick {start}: from {HISTORY_TICKS} (after its history) "
            f"to {last} (where its ego's motion is given) it can."
        )


def _duration_ticks(scenario: Scenario, start: int, duration_s: float | None) -> int:
    available = scenario.n_ticks - 1 - start
    if duration_s is None:
        return available
    ticks = round(duration_s / INTERVAL_S)
    if not 0 <= ticks <= available:
        raise ValueError(
            f"Scenario {scenario.scenario_id} cannot be driven for {duration_s} s from tick {start}: "
            f"it lasts {available * INTERVAL_S:.1f} s from there."
        )
    return ticks


def _check_plan(scenario: Scenario, tick: int, planner: Planner, plan: Plan) -> None:
    trajectory = plan.trajectory
    parts = (trajectory.times_s, trajectory.poses_global, trajectory.speeds_mps, trajectory.accels_mps2)
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError(
            f"Scenario {scenario.scenario_id}, tick {tick}: planner {planner.name!r} returned a trajectory with nan or "
            "infinite values."
        )


def _check_state(scenario: Scenario, tick: int, state: EgoState) -> None:
    if not np.isfinite(astuple(state)).all():
        raise ValueError(f"Scenario {scenario.scenario_id}, tick {tick}: the ego's state is not finite: {state}.")
