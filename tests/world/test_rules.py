"""The laws behind every constraint: nuPlan's IDM, and what a driver expects of each rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsdrive.world.rules import RULES, IdmParameters, evaluate, idm_acceleration, needed_gap_m, recompute

P = IdmParameters()
speeds = st.floats(0.0, 25.0)
gaps = st.floats(-1.0, 150.0)


def test_idm_at_the_needed_gap_behind_an_equally_fast_lead_only_has_the_free_term_left():
    gap = needed_gap_m(8.0, 8.0, P)
    assert gap == pytest.approx(1.0 + 1.5 * 8.0)
    assert idm_acceleration(8.0, gap, 8.0, 10.0, P) == pytest.approx(-(0.8**4))


def test_idm_on_a_free_road_accelerates_below_the_target_and_brakes_above_it():
    assert idm_acceleration(0.0, math.inf, 0.0, 10.0, P) == pytest.approx(1.0)
    assert idm_acceleration(10.0, math.inf, 0.0, 10.0, P) == pytest.approx(0.0)
    assert idm_acceleration(12.0, math.inf, 0.0, 10.0, P) < 0.0


def test_idm_does_not_brake_behind_a_lead_that_speeds_away():
    assert idm_acceleration(10.0, 30.0, 30.0, 13.0, P) > 0.0


@given(speed=speeds, gap=gaps, lead=st.floats(-5.0, 25.0), target=st.floats(1.0, 20.0))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_idm_of_arrays_is_idm_of_floats_and_stays_within_what_the_car_can_do(speed, gap, lead, target):
    one = idm_acceleration(speed, gap, lead, target, P)
    many = idm_acceleration(np.array([speed, speed]), gap, np.array([lead, 0.0]), target, P)
    assert many[0] == one
    assert -P.decel_max_mps2 <= one <= P.accel_max_mps2


@given(
    rule=st.sampled_from(sorted(RULES)),
    speed=speeds,
    a=st.floats(0.5, 100.0),
    b=st.floats(-2.0, 20.0),
    target=st.floats(2.0, 20.0),
)
@settings(derandomize=True, deadline=None, max_examples=400)
def test_what_a_planner_records_can_be_recomputed_from_its_inputs(rule, speed, a, b, target):
    values = {
        "gap_m": a,
        "distance_m": a,
        "radius_m": a + 5.0,
        "lead_speed_mps": b,
        "accel_mps2": b / 5,
        "waited_s": a / 10,
        "arrives_s": a / 5,
        "collision_s": a / 25,
    }
    inputs = {name: values.get(name, 1.0) for name in RULES[rule].inputs}
    constraint = evaluate(rule, None, inputs, speed, P, target_speed_mps=target)
    assert recompute(constraint, speed, P, target_speed_mps=target) == (constraint.threshold, constraint.allows_mps2)
    hardest = P.emergency_decel_mps2 if rule == "emergency_brake" else P.decel_max_mps2
    assert -hardest <= constraint.allows_mps2 <= P.accel_max_mps2


@pytest.mark.parametrize("rule", ["lead", "red_light", "path_end", "crosswalk", "stop_sign"])
def test_more_room_never_asks_for_harder_braking(rule):
    inputs = {"lead_speed_mps": 3.0, "waited_s": 0.0, "crossing": 0.0}
    allowed = [
        evaluate(rule, "x", inputs | {"gap_m": float(g)}, 9.0, P, target_speed_mps=13.0).allows_mps2 for g in range(80)
    ]
    assert allowed == sorted(allowed)


def amber(gap_m: float, accel_mps2: float = 0.0) -> float:
    inputs = {"gap_m": gap_m, "accel_mps2": accel_mps2}
    return evaluate("amber_light", "x", inputs, 12.0, P, target_speed_mps=13.4).allows_mps2


def test_an_amber_stops_who_can_stop_comfortably_and_lets_the_others_go():
    limit = 12.0**2 / (2 * P.amber_decel_mps2)
    assert amber(limit + 0.1) < -1.0
    assert amber(limit - 0.1) == P.accel_max_mps2


def test_a_stop_at_amber_once_begun_is_not_given_up_for_a_late_brake():
    limit = 12.0**2 / (2 * P.amber_decel_mps2)
    assert amber(limit - 2.0, accel_mps2=-2.0) < -1.0


def test_a_stop_sign_releases_after_the_wait_and_only_when_no_one_is_crossing():
    def allows(waited: float, crossing: float) -> float:
        inputs = {"gap_m": 1.0, "waited_s": waited, "crossing": crossing}
        return evaluate("stop_sign", "x", inputs, 0.0, P, target_speed_mps=10.0).allows_mps2

    assert allows(1.9, 0.0) == pytest.approx(0.0)
    assert allows(2.0, 0.0) == P.accel_max_mps2
    assert allows(5.0, 1.0) == pytest.approx(0.0)


def test_tracking_a_curve_from_its_envelope_brakes_steadily_and_arrives_at_its_speed():
    radius, speed, distance = 12.0, 10.0, 60.0
    for _ in range(3000):
        inputs = {"distance_m": max(distance, 0.0), "radius_m": radius}
        speed += 0.01 * evaluate("curve_speed", None, inputs, speed, P, target_speed_mps=20.0).allows_mps2
        distance -= 0.01 * speed
        if distance < 0.0:
            break
    assert speed**2 / radius == pytest.approx(P.curve_lateral_accel_mps2, rel=0.1)


def test_an_unknown_rule_and_a_missing_input_say_what_is_known():
    with pytest.raises(ValueError, match=r"No rule 'leed'\. Known: target_speed"):
        evaluate("leed", None, {}, 1.0, P, target_speed_mps=10.0)
    with pytest.raises(ValueError, match="needs the input 'lead_speed_mps'"):
        evaluate("lead", None, {"gap_m": 3.0}, 1.0, P, target_speed_mps=10.0)
