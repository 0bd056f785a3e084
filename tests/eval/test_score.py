"""The closed-loop score: equal to nuPlan's own on its own states, and fair where nuPlan has nothing to compare with."""

import csv
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from builders import car, curved_map, ego_state, scenario, straight_map, tracked

from eval.score import TERMS, Expert, expert_of, score, total
from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, EgoState, Rollout
from nsdrive.world.vehicle import EgoModel
from planners.idm import IdmConfig, IdmPlanner

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "data" / "nuplan_reference"
WILD = json.loads(Path(__file__).with_name("wild_drives.json").read_text())["drives"]
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="nuPlan's recorded reference is not here")
IDM = partial(IdmPlanner, IdmConfig())


# ---- against nuPlan's own metrics -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    """The reference scenarios by token."""
    source = NuplanSource(NuplanConfig(path=str(REFERENCE / "logs"), maps_path=str(REFERENCE / "maps")))
    return {item.split("/")[-1]: source.load(item) for item in source.items()}


def rollout_of(world, states):
    """Official states as a rollout: nuPlan's history has none after the last step, and ours is not judged."""
    states = [
        replace(s, time_s=round((HISTORY_TICKS + k) * INTERVAL_S, 6)) for k, s in enumerate((*states, states[-1]))
    ]
    end = HISTORY_TICKS + len(states)
    frames, lights = world.frames[HISTORY_TICKS:end], world.lights[HISTORY_TICKS:end]
    assert len(frames) == len(states)
    return Rollout(
        scenario=world, planner="official", start_tick=HISTORY_TICKS, history=(), states=tuple(states), plans=(),
        frames=frames, lights=lights,
    )  # fmt: skip


def judged(world, states):
    return score(rollout_of(world, states), expert_of(world, HISTORY_TICKS, len(states), IDM))


def read_states(path):
    with path.open(encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    names = ("x_m", "y_m", "heading_rad", "speed_mps", "accel_mps2", "steering_rad")
    return [EgoState(time_s=row["timestamp_s"], **{name: row[name] for name in names}) for row in rows]


def wild_drives(token, start, count=16):
    """Drives that leave lanes and roads, hit what is about and brake hard: seeded commands to the bicycle, 15 s each."""
    model, drives = EgoModel(), []
    for number in range(count):
        rng = np.random.default_rng([number, int(token[:6], 16)])
        state, states = start, [start]
        rng.uniform(0, 18)
        steering, boldness = 0.0, rng.uniform(0.3, 1.0)
        for tick in range(149):
            if tick % 15 == 0:
                speed = max(0.0, rng.uniform(-3, 18))
                steering = rng.choice([0, 0, 1, -1]) * rng.uniform(0.0, 0.25) * boldness / (1 + 0.1 * state.speed_mps)
                if rng.random() < 0.5:  # back along the road
                    heading = np.arctan2(np.sin(state.heading_rad), np.cos(state.heading_rad))
                    steering = -0.5 * heading / (1 + 0.1 * state.speed_mps)
            accel = np.clip((speed - state.speed_mps) * 0.8, -5 * boldness, 3 * boldness)
            rate = np.clip((steering - state.steering_rad) / 0.2, -1, 1) * boldness
            state = model.drive(state, float(accel), float(rate))
            states.append(state)
        drives.append(states)
    return drives


@needs_reference
def test_every_term_and_the_score_equal_the_official_ones_on_the_official_states(recorded):
    rows = json.loads((REFERENCE / "scores.json").read_text())
    assert len(rows) == 18
    for row in rows:
        name = f"{row['challenge']}_{row['planner']}_{row['token']}"
        got = judged(recorded[row["token"]], read_states(REFERENCE / "trajectories" / f"{name}.csv"))
        assert got.terms == pytest.approx(row["metrics"], abs=1e-4), name
        assert got.total == pytest.approx(row["score"], abs=1e-4), name


@needs_reference
def test_drives_that_break_every_rule_are_judged_as_nuplans_metrics_judge_them(recorded):
    starts = {
        path.stem.split("_")[-1]: read_states(path)[0] for path in REFERENCE.glob("trajectories/nonreactive_idm_*.csv")
    }
    drives = {token: wild_drives(token, replace(start, steering_rad=0.0)) for token, start in starts.items()}
    failed = dict.fromkeys(TERMS, 0)
    for token, number, terms, official, ttc_s, wrong_way_m in WILD:
        got = judged(recorded[token], drives[token][number])
        assert list(got.terms.values()) == pytest.approx(terms, abs=1e-4), (token, number)
        assert got.total == pytest.approx(official, abs=1e-4)
        assert got.measured["min_ttc_s"] == (None if ttc_s is None else pytest.approx(ttc_s, abs=1e-6))
        assert got.measured["wrong_way_m"] == pytest.approx(wrong_way_m, abs=1e-3)
        for name, value in got.terms.items():
            failed[name] += value < 1.0
    assert min(failed.values()) >= 2, "every term is broken by some of the drives"


@needs_reference
def test_a_drive_of_fifteen_seconds_is_scored_in_a_tenth_of_a_second(recorded):
    world = recorded["e5681404efac4c17"]
    states = read_states(REFERENCE / "trajectories/nonreactive_idm_e5681404efac4c17.csv")
    judged(world, states)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        judged(world, states)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


# ---- on small roads -------------------------------------------------------------------------------------------------


def driven(world, planner=IDM):
    rollout = simulate(world, planner())
    return score(rollout, expert_of(world, rollout.start_tick, len(rollout.states) - 1, IDM))


def steered(world, speed_mps, steering_rad=0.0, accel_mps2=0.0, seconds=6.0):
    """A rollout at a constant steering angle."""
    model, start = EgoModel(), replace(world.ego_log[HISTORY_TICKS], speed_mps=speed_mps)
    states = [replace(start, steering_rad=steering_rad, accel_mps2=accel_mps2)]
    for _ in range(round(seconds / INTERVAL_S)):
        states.append(model.drive(states[-1], accel_mps2, 0.0))
    end = HISTORY_TICKS + len(states)
    rollout = Rollout(
        scenario=world, planner="steered", start_tick=HISTORY_TICKS, history=(), states=tuple(states), plans=(),
        frames=world.frames[HISTORY_TICKS:end], lights=world.lights[HISTORY_TICKS:end],
    )  # fmt: skip
    return score(rollout, expert_of(world, HISTORY_TICKS, len(states) - 1, IDM))


def test_a_free_drive_is_its_own_expert_and_scores_one():
    got = driven(scenario(straight_map(400.0), speed_mps=8.0))
    assert got.total == 1.0
    assert got.expert == "free drive"


def test_getting_past_an_obstacle_pays_and_standing_behind_it_is_still_moving_on():
    road = straight_map(400.0, n_lanes=2)
    world = scenario(road, [car("parked", 60.0)], speed_mps=8.0)
    behind, past = driven(world), driven(scenario(road, speed_mps=8.0))
    assert behind.terms["ego_is_making_progress"] == 1.0
    assert behind.terms["ego_progress_along_expert_route"] < 0.4 < past.terms["ego_progress_along_expert_route"]
    assert behind.total < past.total


def test_standing_still_on_a_free_road_scores_nothing():
    got = steered(scenario(straight_map(400.0), speed_mps=0.0), 0.0)
    assert got.terms["ego_is_making_progress"] == 0.0
    assert got.total == 0.0


@pytest.mark.parametrize(
    ("things", "expected", "how"),
    [
        ([car("slow", 45.0, speed_mps=1.0)], 0.0, "front"),
        ([car("parked", 45.0)], 0.0, "object_standing"),
        ([tracked("person", 45.0, kind="pedestrian", length_m=0.6, width_m=0.6)], 0.0, "object_standing"),
        ([tracked("cone", 45.0, kind="traffic_cone", length_m=0.4, width_m=0.4)], 0.5, "object_standing"),
        ([tracked(f"cone{k}", 45.0 + k, kind="traffic_cone", length_m=0.4, width_m=0.4) for k in range(2)], 0.0, "object_standing"),
    ],
)  # fmt: skip
def test_who_is_hit_decides_how_bad_it_is(things, expected, how):
    got = steered(scenario(straight_map(400.0), things, speed_mps=8.0), 8.0)
    assert got.terms["no_ego_at_fault_collisions"] == expected
    assert got.at_fault[0] == (things[0].track_id, how)
    assert got.terms["time_to_collision_within_bound"] == 0.0


def test_being_run_into_from_behind_is_nobodys_fault_of_ours():
    got = steered(scenario(straight_map(400.0), [car("rammer", 8.0, speed_mps=14.0)], speed_mps=6.0), 6.0)
    assert got.at_fault == ()
    assert got.terms["no_ego_at_fault_collisions"] == 1.0


def test_leaving_the_road_turning_back_and_speeding_are_told_apart():
    road = straight_map(400.0, n_lanes=1, speed_limit_mps=8.0)
    assert steered(scenario(road, speed_mps=8.0), 8.0, 0.05).terms["drivable_area_compliance"] == 0.0
    fast = steered(scenario(road, speed_mps=10.0), 9.115)
    assert fast.terms["speed_limit_compliance"] == pytest.approx(1.0 - 60 * 1.115 / (2.23 * 59), abs=1e-6)
    back = steered(scenario(road, ego_x_m=60.0, speed_mps=-4.0), -4.0)
    assert back.terms["driving_direction_compliance"] == 0.5
    assert steered(scenario(road, ego_x_m=90.0, speed_mps=-7.0), -7.0).terms["driving_direction_compliance"] == 0.0


def test_hard_braking_names_the_bounds_that_it_breaks():
    got = steered(scenario(straight_map(400.0), speed_mps=20.0), 20.0, accel_mps2=-5.0, seconds=3.0)
    assert got.terms["ego_is_comfortable"] == 0.0
    assert got.measured["min_lon_accel_mps2"] == pytest.approx(-5.0, abs=0.1)


def test_a_bend_is_followed_without_leaving_lane_or_road():
    got = driven(scenario(curved_map(40.0), speed_mps=6.0))
    assert got.terms["drivable_area_compliance"] == got.terms["driving_direction_compliance"] == 1.0
    assert got.terms["ego_progress_along_expert_route"] == 1.0


def test_a_log_that_covers_the_drive_is_the_expert():
    world = scenario(straight_map(400.0), speed_mps=8.0, duration_s=5.0)
    log = [ego_state(20.0 + 0.8 * (k - HISTORY_TICKS), 0.0, 0.0, 8.0, round(k * 0.1, 6)) for k in range(world.n_ticks)]
    expert = expert_of(replace(world, ego_log=tuple(log)), HISTORY_TICKS, 50, IDM)
    assert expert.source == "log"
    assert len(expert.states) == 51
    assert expert.in_traffic is None


def test_off_every_lane_there_is_no_progress_to_ask_for():
    world = scenario(straight_map(100.0), speed_mps=8.0)
    away = tuple(ego_state(500.0 + k, 300.0, 0.0, 8.0) for k in range(60))
    rollout = simulate(world, IDM(), duration_s=6.0)
    assert score(rollout, Expert(source="log", states=away)).terms["ego_progress_along_expert_route"] == 1.0


def test_a_score_is_what_its_terms_make():
    perfect = dict.fromkeys(TERMS, 1.0)
    assert total(perfect) == 1.0
    assert total(perfect | {"ego_progress_along_expert_route": 0.6}) == pytest.approx(14.0 / 16.0)
    for name in list(TERMS)[:4]:
        assert total(perfect | {name: 0.0}) == 0.0
    with pytest.raises(KeyError):
        total({})
