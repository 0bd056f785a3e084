"""NAVSIM's scores of a plan, in scenes whose values can be told by looking at them, and on what a teacher drives."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from builders import car, ego_state, scenario, straight_map, tracked
from eval_fixtures import make_sample

from data_gen.teacher import driving_of
from eval.closed_loop.pdms import (
    MULTIPLIERS,
    PDMS_WEIGHTS,
    SCORES,
    TERMS,
    WEIGHTS,
    epdms,
    make_plan_scorer,
    pdms,
    plan_terms,
)
from eval.closed_loop.situation import Anchor, anchor_of, situation
from eval.closed_loop.track import COLUMNS, track
from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, SyntheticSource
from nsdrive.vla.waypoints import through
from nsdrive.world.geometry import to_ego
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS
from nsdrive.world.vehicle import EgoModel
from planners.idm import IdmPlanner
from planners.pdm_lanes import PdmLanesPlanner

TIMES_S = 0.5 * np.arange(1, 11)
ROAD = straight_map(200.0)


def steady(speed_mps, aside_m=0.0, over_s=3.0):
    """Ten waypoints at a speed, moving aside within a time and staying there."""
    t = np.clip(TIMES_S / over_s, 0.0, 1.0)
    return np.column_stack([speed_mps * TIMES_S, aside_m * t * t * (3.0 - 2.0 * t)])


def stopping_within(distance_m, speed_mps=8.0):
    """Constant braking to a stop."""
    decel = speed_mps**2 / (2.0 * distance_m)
    t = np.minimum(TIMES_S, speed_mps / decel)
    return np.column_stack([speed_mps * t - 0.5 * decel * t * t, np.zeros(10)])


def anchor(world, label=None, **changes):
    """At the end of the scene's past, 8 m/s along x at x = 20 m."""
    tick = HISTORY_TICKS
    made = Anchor(
        tick=tick,
        ego=world.ego_log[tick],
        history=world.ego_log[:tick],
        label_ego_m=steady(8.0) if label is None else label,
    )
    return replace(made, **changes)


def terms(world, waypoints, label=None, **more):
    return plan_terms(world, anchor(world, label), waypoints, **more)


def test_an_empty_road_driven_on_is_perfect():
    found = terms(scenario(ROAD), steady(8.0))
    assert np.isnan(found.pop("EC"))
    assert found == {name: 1.0 for name in (*TERMS, *SCORES) if name != "EC"}


def test_through_a_stopped_car_is_a_collision_of_the_ego_and_stopping_behind_it_is_none():
    world, label = scenario(ROAD, [car("parked", 50.0)]), stopping_within(20.0)
    crash, stop = terms(world, steady(8.0), label), terms(world, label, label)
    assert (crash["NC"], crash["TTC"], crash["PDMS"], crash["EPDMS"]) == (0.0, 0.0, 0.0, 0.0)
    assert (stop["NC"], stop["TTC"], stop["EPDMS"]) == (1.0, 1.0, 1.0)


def test_a_cone_costs_half():
    world = scenario(ROAD, [tracked("cone", 50.0, kind="traffic_cone", length_m=0.4, width_m=0.4)])
    assert terms(world, steady(8.0), stopping_within(20.0))["NC"] == 0.5


def test_who_runs_into_the_standing_ego_from_behind_is_at_fault():
    standing = replace(ego_state(20.0, speed_mps=0.0), time_s=2.0)
    world = scenario(ROAD, [car("late", -35.0, speed_mps=10.0)])
    at = anchor(world, steady(0.0), ego=standing, history=())
    assert plan_terms(world, at, steady(0.0))["NC"] == 1.0


CLOSE = [car("parked", 40.4)]  # its rear 14 m before the ego's front


def test_braking_at_the_last_moment_is_no_collision_but_would_be_one():
    early = stopping_within(10.0)
    found = terms(scenario(ROAD, CLOSE), stopping_within(13.0), early)
    assert (found["NC"], found["TTC"]) == (1.0, 0.0)
    assert terms(scenario(ROAD, CLOSE), early, early)["TTC"] == 1.0


def test_the_last_moment_of_the_four_seconds_is_looked_ahead_from_as_well():
    ahead = [car("parked", 62.0)]  # 32 m are driven; then its rear is 3.6 m before the ego's front, half a second away
    found = terms(scenario(ROAD, ahead), steady(8.0), stopping_within(20.0))
    assert (found["NC"], found["TTC"]) == (1.0, 0.0)
    assert terms(scenario(ROAD, [car("parked", 68.0)]), steady(8.0))["TTC"] == 1.0, "9.6 m away: over a second"


def test_off_the_road_is_off_the_road():
    found = terms(scenario(ROAD), steady(8.0, aside_m=-6.0))
    assert (found["DAC"], found["PDMS"], found["EPDMS"]) == (0.0, 0.0, 0.0)


def test_entering_at_red_breaks_the_light_and_stopping_before_it_or_entering_at_yellow_does_not():
    road = straight_map(100.0, signal=True)  # the connector begins at 50 m, the ego's front 26 m before it
    red = scenario(road, lights={"1-0": "red"}, duration_s=8.0)
    stop = stopping_within(22.0)
    assert terms(red, steady(8.0), stop)["TLC"] == 0.0
    assert terms(red, steady(8.0), stop)["EPDMS"] == 0.0
    assert terms(red, stop, stop)["TLC"] == 1.0
    late = tuple({"1-0": "yellow" if tick < HISTORY_TICKS + 35 else "red"} for tick in range(red.n_ticks))
    assert terms(replace(red, lights=late), steady(8.0), stop)["TLC"] == 1.0, "over the line before it was red"


def test_over_the_line_at_red_a_plan_must_not_go_in():
    road = straight_map(100.0, signal=True)
    world = scenario(road, lights={"1-0": "red"}, ego_x_m=46.5, speed_mps=0.0, duration_s=8.0)
    standing = steady(0.0)
    assert terms(world, standing, standing)["TLC"] == 1.0
    assert terms(world, 0.5 * np.column_stack([TIMES_S**2, 0.0 * TIMES_S]), standing)["TLC"] == 0.0


def test_in_a_lane_that_is_not_the_routes_the_direction_is_wrong():
    road = straight_map(200.0, n_lanes=2)
    lanes = {
        name: replace(lane, roadblock_id=f"other-{lane.roadblock_id}") if name.endswith("-1") else lane
        for name, lane in road.lanes.items()
    }
    world = scenario(replace(road, lanes=lanes), route=["block-0", "block-1"])
    assert terms(world, steady(8.0, aside_m=3.5))["DDC"] == 0.0
    assert terms(world, steady(8.0))["DDC"] == 1.0
    assert terms(scenario(road), steady(8.0, aside_m=3.5))["DDC"] == 1.0, "a lane beside one's own is on the route"


def test_long_beside_the_centerline_is_not_in_lane():
    world = scenario(straight_map(200.0, n_lanes=2))
    assert terms(world, steady(8.0, aside_m=0.9, over_s=1.0))["LK"] == 0.0
    assert terms(world, steady(8.0, aside_m=0.3, over_s=1.0))["LK"] == 1.0


def test_progress_is_a_share_of_the_furthest_lawful_one():
    world = scenario(ROAD)
    assert 0.45 < terms(world, steady(4.0), steady(8.0))["EP"] < 0.6, "half of it, and the ego first has to slow down"
    assert terms(world, steady(10.0), steady(8.0))["EP"] == 1.0
    blocked = scenario(ROAD, [car("parked", 50.0)])
    assert terms(blocked, stopping_within(20.0), steady(8.0))["EP"] == 1.0, (
        "through a car is no progress to be measured by"
    )


def test_where_nobody_gets_anywhere_progress_costs_nothing():
    world = scenario(ROAD, speed_mps=0.0)
    assert terms(world, steady(0.0), steady(0.0))["EP"] == 1.0


def test_hard_braking_is_uncomfortable_and_a_hard_past_too():
    world = scenario(ROAD)
    assert terms(world, stopping_within(5.0))["C"] == 0.0
    jolts = tuple(replace(s, accel_mps2=3.0 * (-1) ** (k // 4)) for k, s in enumerate(world.ego_log[:HISTORY_TICKS]))
    found = plan_terms(world, anchor(world, history=jolts), steady(8.0))
    assert (found["C"], found["HC"]) == (1.0, 0.0)


def test_two_plans_that_agree_are_comfortable_and_a_change_of_mind_is_not():
    world = scenario(ROAD)
    now = anchor(world)
    before = Anchor(tick=now.tick - 5, ego=world.ego_log[now.tick - 5], history=(), label_ego_m=steady(8.0))
    same = plan_terms(world, now, steady(8.0), previous=(before, steady(8.0)))
    other = plan_terms(world, now, steady(8.0), previous=(before, stopping_within(12.0)))
    assert (same["EC"], other["EC"]) == (1.0, 0.0)
    assert other["EPDMS"] == pytest.approx(14.0 / 16.0)
    assert np.isnan(terms(world, steady(8.0))["EC"])
    long_ago = replace(before, tick=now.tick - 21)
    assert np.isnan(plan_terms(world, now, steady(8.0), previous=(long_ago, steady(8.0)))["EC"])


def test_what_the_label_does_wrong_too_is_not_held_against_a_plan_in_epdms():
    world = scenario(ROAD)
    found = terms(world, steady(8.0, aside_m=-6.0), steady(8.0, aside_m=-6.0))
    assert (found["DAC"], found["PDMS"]) == (0.0, 0.0)
    assert found["EPDMS"] > 0.6


@pytest.mark.parametrize(
    "answer",
    [
        None,
        np.zeros((1, 2)),
        np.zeros((1000, 2)),
        np.full((10, 2), np.nan),
        np.full((10, 2), 1e300),
        [[1, "x"]] * 10,
        "words",
    ],
    ids=["none", "one point", "many", "nan", "far", "letters", "text"],
)
def test_a_failed_answer_has_nothing_in_every_term(answer):
    found = terms(scenario(ROAD), answer)
    assert np.isnan(found.pop("EC"))
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("seed", range(6))
def test_any_ten_points_get_terms_between_0_and_1(seed):
    rng = np.random.default_rng([seed])
    points = rng.normal(0.0, [1.0, 30.0, 400.0][seed % 3], (10, 2)).clip(-1000, 1000)
    found = terms(scenario(ROAD, [car("lead", 60.0, speed_mps=5.0)]), points)
    assert np.isnan(found.pop("EC"))
    assert all(0.0 <= value <= 1.0 for value in found.values())


def test_the_scores_are_made_of_the_printed_terms():
    found = terms(scenario(ROAD, CLOSE), stopping_within(13.0), stopping_within(10.0))
    assert found["TTC"] == 0.0
    assert found["PDMS"] == pdms(found)
    assert found["PDMS"] == pytest.approx((5.0 * found["EP"] + 2.0 * found["C"]) / sum(PDMS_WEIGHTS.values()), abs=1e-6)
    whole = dict.fromkeys((*MULTIPLIERS, *WEIGHTS), 1.0)
    for name, weight in WEIGHTS.items():
        assert epdms(whole | {name: 0.5}, whole) == pytest.approx(1.0 - 0.5 * weight / 16.0)
    for name in MULTIPLIERS:
        assert epdms(whole | {name: 0.5}, whole) == 0.5
        assert epdms(whole | {name: 0.5}, whole | {name: 0.0}) == 1.0


# ---- many plans, and samples --------------------------------------------------------------------------------------


def sample_of(world, **changes):
    """A sample at the scene's anchor."""
    ego = world.ego_log[HISTORY_TICKS]
    anchored = {"tick": HISTORY_TICKS, "time_s": ego.time_s, "pose_global": [float(v) for v in ego.pose]}
    future = np.zeros((51, 5))
    future[:, 0], future[:, 3] = 0.8 * np.arange(51), 8.0
    made = make_sample("s", scenario=world.scenario_id, speed_mps=8.0)
    return replace(made, anchor=anchored, future=future, **changes)


def test_the_scorer_says_the_same_and_loads_a_scenario_once():
    world, loaded = scenario(ROAD, [car("parked", 50.0)]), []
    scorer = make_plan_scorer(lambda sample: loaded.append(sample.sample_id) or world)
    for k in range(3):
        sample = sample_of(world, sample_id=f"s{k}")
        for plan in (steady(8.0), stopping_within(20.0), None):
            assert str(scorer(sample, plan)) == str(plan_terms(world, sample, plan))
    assert loaded == ["s0"]
    edited = sample_of(world, sample_id="s0+remove-lead", extra={"edit": {"of": "s0", "name": "remove-lead"}})
    scorer(edited, None)
    assert loaded == ["s0", "s0+remove-lead"], "an edited sample has a scenario of its own"


def test_a_plan_whose_scenario_is_not_to_be_had_is_not_known_and_named():
    def gone(sample):
        raise FileNotFoundError("no such log")

    scorer = make_plan_scorer(gone)
    sample = sample_of(scenario(ROAD))
    assert np.isnan(list(scorer(sample, steady(8.0)).values())).all()
    assert scorer.failures == {"s": "no such log"}
    other = make_plan_scorer(lambda sample: replace(scenario(ROAD), scenario_id="another"))
    assert np.isnan(other(sample, steady(8.0))["EPDMS"])
    assert "another" in other.failures["s"]


def test_without_a_log_the_past_is_what_the_sample_tells():
    world = scenario(ROAD)
    sample = sample_of(world)
    told = anchor_of(replace(world, ego_log=world.ego_log[:5]), sample)
    assert told.ego.pose == pytest.approx(world.ego_log[HISTORY_TICKS].pose)
    assert len(told.history) == HISTORY_TICKS
    for mine, logged in zip(told.history, world.ego_log, strict=False):
        assert (mine.x_m, mine.y_m, mine.speed_mps) == pytest.approx(
            (logged.x_m, logged.y_m, logged.speed_mps), abs=1e-6
        )
        assert mine.time_s == pytest.approx(logged.time_s)
    for broken in ({}, {"tick": "x"}, {"tick": 20, "time_s": 2.0, "pose_global": [1.0, float("nan"), 0.0]}):
        with pytest.raises(ValueError, match="sample s"):
            anchor_of(world, replace(sample, anchor=broken))


def test_a_scenario_that_ends_too_soon_says_so():
    with pytest.raises(ValueError, match="takes 61"):
        terms(scenario(ROAD, duration_s=3.0), steady(8.0))


def test_without_catching_up_it_is_the_tracker_of_every_other_drive():
    start = replace(ego_state(3.0, -2.0, 0.4, 7.0, 1.3), accel_mps2=0.7, steering_rad=0.05)
    rng = np.random.default_rng([1])
    for _ in range(5):
        plan = steady(7.0 + rng.normal(), aside_m=rng.normal(0.0, 3.0))
        trajectory = through(plan, start).from_time(start.time_s)
        states, state = track(trajectory, start, 40, catch_up=0.0), start
        for row in states:
            assert row == pytest.approx([getattr(state, name) for name in COLUMNS], abs=1e-9)
            state = EgoModel().advance(state, trajectory)


def test_catching_up_stops_where_the_plan_stops():
    start, plan = ego_state(speed_mps=8.0), stopping_within(14.0)
    trajectory = through(plan, start).from_time(0.0)
    ends = [track(trajectory, start, 60, catch_up=catch_up)[-1, 0] for catch_up in (0.0, 1.0)]
    assert ends[0] > 15.5, "without it the ego rolls on"
    assert abs(ends[1] - 14.0) < 0.6


# ---- teachers -----------------------------------------------------------------------------------------------------


def anchors_along(rollout, every):
    """Those after which the teacher does nothing wrong for five seconds, as samples are made."""
    driving = driving_of(rollout)
    for i in range(0, len(rollout.states) - 50, every):
        if driving.fault(i, i + 50) is None:
            ego = rollout.states[i]
            points = np.array([s.pose[:2] for s in rollout.states[i + 5 : i + 51 : 5]])
            past = (*rollout.history, *rollout.states[:i])[-HISTORY_TICKS:]
            label = np.round(to_ego(points, ego.pose), 2)
            yield Anchor(tick=rollout.start_tick + i, ego=ego, history=past, label_ego_m=label)


def scored(planner, families, n, every):
    """(terms of the label, of constant velocity) at every anchor."""
    source = SyntheticSource(SyntheticConfig(n_scenarios=n, families=families, seed=2))
    for item in source.items():
        world = source.load(item)
        for at in anchors_along(simulate(world, planner), every):
            yield plan_terms(world, at, at.label_ego_m), plan_terms(world, at, steady(at.ego.speed_mps))


def means(pairs, name):
    return np.mean([[label[name], blind[name]] for label, blind in pairs], axis=0)


def test_a_teachers_own_drive_is_nearly_perfect_and_constant_velocity_is_not():
    pairs = list(scored(IdmPlanner(), ("red_light", "stopped_lead", "curve", "slow_lead"), 4, 20))
    assert len(pairs) > 12
    label, blind = means(pairs, "EPDMS")
    assert label == 1.0
    assert blind < 0.8
    label, blind = means(pairs, "PDMS")
    assert label > 0.95
    assert blind < 0.8


@pytest.mark.slow
def test_over_all_families_the_label_is_nearly_perfect():
    pairs = list(scored(PdmLanesPlanner(), FAMILIES, len(FAMILIES), 20))
    assert means(pairs, "EPDMS")[0] > 0.99
    label, blind = means(pairs, "PDMS")
    assert label > 0.95
    assert blind < 0.85


def test_red_lights_off_the_route_are_somebody_elses():
    road = straight_map(100.0, signal=True)
    world = scenario(road, lights={"1-0": "red"}, route=["block-0"])
    assert situation(world, anchor(world)).red_lights == ()
    ours = situation(replace(world, route_roadblock_ids=("block-0", "block-1")), anchor(world)).red_lights
    assert [light.red.all() for light in ours] == [True]
    assert shapely.area(ours[0].area) == pytest.approx(50.0 * 3.5)
