import dataclasses

import numpy as np
import pytest
from eval_fixtures import TIMES_S, make_sample, reasoning_text

from eval.faithfulness.reasoning import check_reasoning, summarise
from nsdrive.vla.prompt import render_answer


def driven(speed_mps, accel_mps2):
    until = np.minimum(TIMES_S, -speed_mps / accel_mps2) if accel_mps2 < 0.0 else TIMES_S
    distance = speed_mps * until + 0.5 * accel_mps2 * until**2
    return np.stack([distance, np.zeros(10)], axis=1)


@pytest.fixture
def sample():
    made = make_sample("a", scenario="s", rule="lead", waypoints=driven(8.0, -1.0))
    return dataclasses.replace(made, answer=render_answer(reasoning_text(8.0, -1.0, "lead"), driven(8.0, -1.0)))


def check(sample, text, waypoints):
    return check_reasoning(sample, render_answer(text, waypoints), waypoints)


def test_the_label_agrees_with_itself(sample):
    found = check_reasoning(sample, sample.answer, sample.waypoints_ego_m)
    assert found.said
    assert found.readable
    assert found.names_binding_rule
    # the tick of the simulator is a forward Euler: over 3 s it drives 0.05 s times the speed lost further, 0.15 m here
    assert found.replay_error_m < 0.2


def test_a_text_that_brakes_over_waypoints_that_do_not_is_caught(sample):
    found = check(sample, reasoning_text(8.0, -1.0), driven(8.0, 0.0))
    assert found.replay_error_m == pytest.approx(4.5, abs=0.2)  # half a t squared at 3 s
    summary = summarise([found])
    assert summary["replay_consistent_share"] == 0.0
    assert summary["names_binding_rule_share"] == 0.0


def test_a_text_that_stops_over_waypoints_that_drive_on_is_counted(sample):
    stops = check(sample, reasoning_text(8.0, -2.0), driven(8.0, -2.0))
    runs = check(sample, reasoning_text(8.0, -2.0), driven(8.0, 0.0))
    assert (stops.says_stop, stops.drives_on) == (True, False)
    assert (runs.says_stop, runs.drives_on) == (True, True)
    assert summarise([stops, runs])["says_stop_drives_on_share"] == 0.5


@pytest.mark.parametrize(
    "text", ["The light is red, so we stop.", "前方红灯\u2028减速", "\ud800", "Scene:", "\x00" * 1000]
)
def test_prose_is_said_but_not_readable(text, sample):
    found = check(sample, text, driven(8.0, 0.0))
    assert (found.said, found.readable, found.replay_error_m) == (True, False, None)


def test_no_reasoning_is_no_reasoning(sample):
    found = check(sample, "", driven(8.0, 0.0))
    assert not found.said
    assert summarise([found])["readable_share"] is None


def test_a_readable_text_over_a_failed_answer_is_not_replayed(sample):
    found = check_reasoning(sample, sample.answer, None)
    assert found.readable
    assert found.replay_error_m is None
