"""The manoeuvre table: every planner passes exactly what is written here, and a manoeuvre that anyone passes is not one."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

from eval.manoeuvres.judge import CANNOT, EXPECTED, FAILS, HOLDS, NOT_EXPECTED, judge, table
from nsdrive.cli import choose_planner, planner_factory
from nsdrive.scenarios.manoeuvres import MANOEUVRES, load_manoeuvre
from nsdrive.world.decision import NO_WAY
from nsdrive.world.simulate import simulate
from nsdrive.world.types import INTERVAL_S, ObjectFrame, Plan, Trajectory
from planners.idm import IdmPlanner

# Planner -> manoeuvre -> (the checks that fail, why). A planner that fails less, or more, than this fails the test.
KNOWN_FAILURES = {
    "idm": {
        "lead_brakes_hard": (
            ("NoAtFaultCollision", "StopsBehind"),
            "the tracker lags behind a lead that brakes at 4 m/s2, and touches it at walking pace",
        ),
        "pedestrian_no_crosswalk": (
            ("NoAtFaultCollision", "YieldsTo", "KeepsGap"),
            "who walks in from the side is a lead only once in the corridor",
        ),
        "pedestrian_from_behind_van": (("KeepsGap",), "the same: it stops, but 13 cm short"),
        "cyclist_crosses": (("KeepsGap",), "the same; the cyclist runs into its side"),
        "parked_car_room_in_lane": (("GetsPast",), "follows the middle of its lane, and waits for ever"),
        "unprotected_left_gap_later": (
            ("NoAtFaultCollision", "YieldsTo", "KeepsGap"),
            "has no rule for who comes towards it",
        ),
        "oncoming_turns_in_front": (("KeepsGap",), "the same: it brakes late, and comes within half a metre"),
        "crossing_car_runs_red": (
            ("NoAtFaultCollision", "YieldsTo", "KeepsGap"),
            "has no rule for who crosses its way",
        ),
        "unsignalised_from_right": (("YieldsTo", "KeepsGap"), "the same"),
    },
    "pdm_closed": {
        "starts_beside_lane": (("ReturnsToLane",), "a path a metre beside the middle is as good to it"),
        "speed_limit_drop": (("EndsBelow",), "knows the limit of the lane that it is in, not of the next"),
        "curve_too_fast": (("LateralAtMost", "StaysInLane"), "has no rule for curves"),
        "end_of_route": (("StaysOnRoad", "StopsBefore"), "has no rule for the end of its path"),
        "amber_can_stop": (("StopsBefore",), "knows red and not amber"),
        "stop_sign_alone": (("StopsBefore",), "knows no stop signs"),
        "two_way_stop": (("StopsBefore", "YieldsTo"), "the same"),
        "stopped_car_at_20": (
            ("NoAtFaultCollision", "StopsBehind"),
            "sees 50 m, and its proposals brake with 3 m/s2: 20 m/s need 67 m",
        ),
        "lead_brakes_hard": (("NoAtFaultCollision", "StopsBehind"), "its forecast lets the lead roll on"),
        "pedestrian_no_crosswalk": (("KeepsGap",), "any gap is as good as any other"),
        "cyclist_in_lane": (("KeepsGap",), "the same, at 5 m/s more than the cyclist's speed"),
        "cyclist_crosses": (("KeepsGap",), "the same"),
        "parked_car_room_in_lane": (("KeepsGap",), "gets past, and almost brushes the car"),
        "unprotected_left_oncoming": (("YieldsTo", "KeepsGap"), "has no rule for who has the way, only for collisions"),
        "unprotected_left_gap_later": (("YieldsTo", "KeepsGap"), "the same: it turns in front of them"),
        "crossing_car_runs_red": (("YieldsTo",), "passes a fifth of a second behind it"),
    },
    "pdm_lanes": {
        "cyclist_crosses": (("KeepsGap",), "passes closely before or behind who crosses without a crosswalk"),
        "oncoming_while_overtaking": (("GetsPast",), "waits: asks for more view and room than the scene gives"),
        "route_needs_left_lane_busy": (("ReachesExit",), "does not fall back to reach the gap behind the others"),
    },
}


class Blind(IdmPlanner):
    """Sees neither lights nor anybody."""

    name = "blind"

    def plan(self, observation):
        return super().plan(replace(observation, objects=ObjectFrame.of([]), lights={}))


class Brakes:
    """Brakes to a standstill, whatever happens."""

    name = "brakes"

    def initialize(self, mission, ego):
        pass

    def plan(self, observation):
        ego = observation.ego
        times = np.arange(81) * INTERVAL_S
        speeds = np.maximum(0.0, ego.speed_mps - 2.5 * times)
        driven = np.concatenate([[0.0], np.cumsum(0.5 * (speeds[1:] + speeds[:-1]) * INTERVAL_S)])
        heading = np.full(81, ego.heading_rad)
        poses = np.stack([ego.x_m + driven * np.cos(heading), ego.y_m + driven * np.sin(heading), heading], axis=1)
        trajectory = Trajectory(
            times_s=ego.time_s + times,
            poses_global=poses,
            speeds_mps=speeds,
            accels_mps2=np.where(speeds > 0, -2.5, 0.0),
        )
        return Plan(trajectory=trajectory, decision=None)


@cache
def maker(planner):
    return planner_factory(choose_planner(planner))


@cache
def judged(make, name):
    rollout = simulate(load_manoeuvre(name), make())
    lost = [plan.decision for plan in rollout.plans if plan.decision and any(NO_WAY in n for n in plan.decision.notes)]
    assert not lost, f"{name}: the planner found no way, {lost[0].notes}"  # a sound scene: an error inside it
    return judge(rollout)


def changed(planner, names):
    """manoeuvre -> (checks that were known to fail, checks that fail now); better is to be written down too."""
    known, make = KNOWN_FAILURES[planner], maker(planner)
    expected = {name: known[name][0] if name in known else () for name in names}
    found = {name: judged(make, name).failed for name in names}
    return {name: (expected[name], found[name]) for name in names if found[name] != expected[name]}


# The whole tables take minutes; by default each planner drives every eighth manoeuvre
SOME_OR_ALL = pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])


@SOME_OR_ALL
@pytest.mark.parametrize("planner", KNOWN_FAILURES)
def test_a_planner_passes_every_manoeuvre_but_its_known_failures(planner, every):
    assert changed(planner, list(MANOEUVRES)[::every]) == {}


@SOME_OR_ALL
def test_every_manoeuvre_is_failed_by_a_driver_who_sees_nothing_or_by_one_who_only_brakes(every):
    names = list(MANOEUVRES)[::every]
    assert [name for name in names if judged(Blind, name).passed and judged(Brakes, name).passed] == []


def test_every_manoeuvre_has_its_expectations_and_they_are_about_who_is_there():
    assert set(EXPECTED) == set(MANOEUVRES)
    for name, checks in EXPECTED.items():
        ids = {track_id for frame in load_manoeuvre(name).frames for track_id in frame.ids}
        for check in checks:
            about = {getattr(check, f.name) for f in fields(check) if f.name in ("what", "whom", "to")} - {None}
            assert about <= ids, name


def test_what_a_planner_is_not_made_for_is_neither_passed_nor_failed():
    checks = {c.kind: c.status for c in judged(maker("idm"), "blocked_lane_free_neighbour").checks}
    assert CANNOT["idm"] == ("lane_changes",)
    assert (checks["GetsPast"], checks["StopsBehind"]) == (NOT_EXPECTED, HOLDS)
    # the same driving by a planner that the table does not know: it is expected to get past, not to stop
    checks = {c.kind: c.status for c in judged(Blind, "blocked_lane_free_neighbour").checks}
    assert (checks["GetsPast"], checks["StopsBehind"]) == (HOLDS, NOT_EXPECTED)
    assert checks["NoAtFaultCollision"] == FAILS


def test_a_manoeuvre_passed_without_what_it_is_about_is_told_apart_from_one_passed():
    waits, follows = judged(maker("idm"), "blocked_lane_free_neighbour"), judged(maker("idm"), "slower_lead_at_10")
    assert (waits.passed, waits.limited) == (True, "lane_changes")
    assert (follows.passed, follows.limited) == (True, "")
    assert judged(Blind, "slow_vehicle_two_lanes").limited == ""
    lines = table([{"manoeuvre": one.to_row()} for one in (waits, follows)]).splitlines()
    assert lines[0].endswith("pass  as far as is expected without lane changes")
    assert lines[-1] == "2 of 2 manoeuvres passed, 1 of them only as far as is expected of the planner"


def test_only_a_whole_manoeuvre_is_judged():
    assert judge(simulate(load_manoeuvre("stop_sign_alone"), IdmPlanner(), duration_s=3.0)) is None


def test_the_table_for_the_terminal_names_what_fails_and_by_how_much():
    rows = [
        {"manoeuvre": judged(maker("idm"), name).to_row()} for name in ("stop_sign_alone", "parked_car_room_in_lane")
    ]
    lines = table([*rows, {"scenario": "of another kind"}]).splitlines()
    assert lines[0].split() == ["stop_sign_alone", "pass"]
    assert "FAIL  gets past parked-1 within 18 s: " in lines[1]
    assert lines[2] == "1 of 2 manoeuvres passed"
    assert table([{"scenario": "of another kind"}]) == ""
