"""What is observed of an answer: perfect for a planner's own text over its own waypoints, and each fault moves its own measure."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from eval_fixtures import TIMES_S, make_sample, reasoning_text
from labelled import in_brief, labelled, retold, text_of, with_step, with_text

from eval.faithfulness.observed.measures import IN_METRES, LOWER_IS_BETTER, MEASURES, STRICT, observe
from eval.faithfulness.planted.separation import turned
from nsdrive.vla.prompt import render_answer


@pytest.fixture(scope="module")
def samples():
    return labelled("idm", ("stopped_lead", "red_light", "left_turn"), anchors=2)


def label(sample):
    return observe(sample, sample.answer, sample.waypoints_ego_m)


def straight(speed_mps, accel_mps2):
    until = np.minimum(TIMES_S, -speed_mps / accel_mps2) if accel_mps2 < 0.0 else TIMES_S
    return np.stack([speed_mps * until + 0.5 * accel_mps2 * until**2, np.zeros(10)], axis=1)


@pytest.fixture(scope="module")
def braking():
    """Brakes from 8 m/s by 1 m/s2, and says so."""
    made = make_sample("a", scenario="s", rule="lead", waypoints=straight(8.0, -1.0))
    future = made.future.copy()
    future[:, 3] = np.maximum(0.0, 8.0 - 0.1 * np.arange(51))
    answer = render_answer(reasoning_text(8.0, -1.0, "lead"), straight(8.0, -1.0))
    return replace(made, future=future, trace_level="brief", answer=answer)


def said_and_driven(sample, text, waypoints):
    return observe(sample, render_answer(text, waypoints), waypoints)


# ---- who was asked ------------------------------------------------------------------------------------------------------------


def test_who_was_asked_for_waypoints_alone_owes_no_text_and_who_was_asked_for_one_does(braking):
    points = straight(8.0, -1.0)
    free, silent = (observe(braking, render_answer("", points), points, asked=asked) for asked in (False, True))
    assert {name: free.value(name) for name in STRICT} == dict.fromkeys(STRICT)
    assert free.value("object_recall") is None
    assert free.value("manoeuvre_driven") == 1.0, "what it drives was asked for"
    assert {name: silent.value(name) for name in STRICT} == dict.fromkeys(STRICT, 0.0)


def test_a_text_that_nobody_asked_for_is_judged_like_any_other(braking):
    assert observe(braking, braking.answer, braking.waypoints_ego_m, asked=False).parts == label(braking).parts


# ---- the label ---------------------------------------------------------------------------------------------------------------


def test_a_planners_own_answer_is_perfect_in_every_measure(samples):
    for sample in (*samples, *(in_brief(s) for s in samples)):
        seen = label(sample)
        for name in MEASURES:
            value = seen.value(name)
            if name == "replay_error_m":
                assert value < 0.05
            elif value is not None:
                assert value == (0.0 if name in LOWER_IS_BETTER else 1.0), (sample.sample_id, name)


def test_a_detailed_text_is_measured_by_everything_and_a_brief_one_by_all_but_its_rules(samples):
    sample = next(s for s in samples if label(s).value("object_precision") is not None)
    silent = {name for name in MEASURES if label(sample).value(name) is None}
    assert silent <= {"hidden_hallucinated", "stop_drives_on"}
    brief = {name for name in MEASURES if label(in_brief(sample)).value(name) is None}
    assert {"arithmetic", "rule_precision", "rule_recall", "rule_numbers"} <= brief
    assert "binding" not in brief


# ---- each fault --------------------------------------------------------------------------------------------------------------


def test_a_text_that_brakes_over_waypoints_that_do_not_is_caught(braking):
    seen = said_and_driven(braking, reasoning_text(8.0, -1.0, "lead"), straight(8.0, 0.0))
    assert seen.value("replay_error_m") == pytest.approx(4.5, abs=0.2)  # half a t squared at 3 s
    assert (seen.value("replay"), seen.value("manoeuvre_consistency")) == (0.0, 0.0)
    assert (seen.manoeuvre_said, seen.manoeuvre_driven, seen.manoeuvre_label) == ("brake", "keep speed", "brake")
    assert (seen.value("manoeuvre_accuracy"), seen.value("manoeuvre_driven")) == (1.0, 0.0)
    both = said_and_driven(braking, reasoning_text(8.0, 0.0, "lead"), straight(8.0, 0.0))
    assert (both.value("manoeuvre_consistency"), both.value("manoeuvre_accuracy")) == (1.0, 0.0)


def test_a_text_that_stops_over_waypoints_that_drive_on_is_counted(braking):
    stops = said_and_driven(braking, reasoning_text(8.0, -2.0), straight(8.0, -2.0))
    runs = said_and_driven(braking, reasoning_text(8.0, -2.0), straight(8.0, 0.0))
    assert (stops.parts["stop_drives_on"], runs.parts["stop_drives_on"]) == ((0.0, 1.0), (1.0, 1.0))
    assert label(braking).parts["stop_drives_on"] == (0.0, 0.0)  # says nothing of a stop


def test_two_motions_that_hardly_differ_are_the_same_manoeuvre(braking):
    """0.14 m/s2 is to keep speed and 0.16 to accelerate, but nobody could tell them apart."""
    seen = said_and_driven(braking, reasoning_text(8.0, 0.14), straight(8.0, 0.19))
    assert (seen.manoeuvre_said, seen.manoeuvre_driven) == ("keep speed", "accelerate")
    assert seen.value("manoeuvre_consistency") == 1.0


def test_a_turn_that_is_only_said_is_inconsistent(samples):
    turns = retold(samples[0], lambda trace: replace(trace, end=replace(trace.end, turned_deg=60.0)))
    seen = observe(samples[0], turns, samples[0].waypoints_ego_m)
    assert (seen.value("turn_consistency"), label(samples[0]).value("turn_consistency")) == (0.0, 1.0)
    angle = np.radians(60.0) * np.arange(1, 11) / 10.0
    curve = 8.0 * np.stack([np.sin(angle), 1.0 - np.cos(angle)], axis=1)  # a left turn of 8 m radius, by 60 degrees
    assert observe(samples[0], turns, curve).value("turn_consistency") == 1.0
    assert observe(samples[0], turns, curve * (1.0, -1.0)).value("turn_consistency") == 0.0


def test_the_text_of_another_scene_is_wrong_about_this_one_and_right_in_itself(samples):
    one, other = samples[0], samples[-1]
    seen = observe(one, render_answer(text_of(other), one.waypoints_ego_m), one.waypoints_ego_m)
    assert seen.readable
    assert seen.value("arithmetic") == 1.0
    for name in ("object_precision", "object_recall", "rule_numbers", "state", "claims_true"):
        assert seen.value(name) < 0.7, name


def test_an_invented_rule_costs_precision_and_one_left_out_costs_recall(samples):
    sample = next(s for s in samples if label(s).parts["rule_recall"][1] > 10)
    whole = label(sample).parts["rule_recall"][1]

    def renamed(trace):
        step = trace.steps[2]
        i = next(i for i, c in enumerate(step.constraints) if c.rule == "lead")
        odd = replace(step.constraints[i], rule="crosswalk", inputs={"gap_m": step.constraints[i].inputs["gap_m"]})
        return with_step(trace, 2, constraints=(*step.constraints[:i], odd, *step.constraints[i + 1 :]))

    seen = observe(sample, retold(sample, renamed), sample.waypoints_ego_m)
    assert seen.parts["rule_precision"] == (whole - 1, whole)
    assert seen.parts["rule_recall"] == (whole - 1, whole)


def test_someone_hidden_who_is_not_there_is_hallucinated(samples):
    sample = samples[0]
    lines = text_of(sample).split("\n")
    lines.insert(2, "hidden-70 (pedestrian) 33.0 m behind-left, 1.0 m/s, not seen")
    seen = observe(sample, with_text(sample, "\n".join(lines)).answer, sample.waypoints_ego_m)
    part, whole = label(sample).parts["hidden_hallucinated"]
    assert seen.parts["hidden_hallucinated"] == (part + 1, whole + 1)
    assert seen.value("hidden_hallucinated") > 0.0


def test_a_camera_that_does_not_see_it_is_a_false_claim_of_sight(samples):
    for sample in samples:
        lines = text_of(sample).split("\n")
        n = next((i for i, line in enumerate(lines) if line.endswith((", F0", ", L0"))), None)
        if n is not None:
            lines[n] = lines[n][:-2] + "R0"
            seen = observe(sample, with_text(sample, "\n".join(lines)).answer, sample.waypoints_ego_m)
            part, whole = label(sample).parts["visibility"]
            assert seen.parts["visibility"] == (part - 1, whole)
            assert seen.value("object_precision") == 1.0
            return
    pytest.fail("no camera sees anything")


# ---- answers that fail -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["The light is red, so we stop.", "前方红灯\u2028减速", "\ud800", "Scene:", "\x00" * 1000]
)
def test_prose_is_said_and_a_miss_wherever_a_text_is_owed(text, samples):
    seen = observe(samples[0], render_answer(text, samples[0].waypoints_ego_m), samples[0].waypoints_ego_m)
    assert (seen.said, seen.readable) == (True, False)
    assert {seen.parts[name] for name in STRICT} == {(0.0, 1.0)}
    assert seen.value("manoeuvre_driven") == 1.0
    for name in ("rule_recall", "object_recall"):
        assert seen.parts[name] == (0.0, label(samples[0]).parts[name][1])


def test_an_answer_without_a_text_owes_one_only_where_it_was_asked_for(samples):
    silent = render_answer("", samples[0].waypoints_ego_m)
    owed = observe(samples[0], silent, samples[0].waypoints_ego_m)
    assert (owed.said, owed.value("schema")) == (False, 0.0)
    free = observe(replace(samples[0], trace_level="none"), silent, samples[0].waypoints_ego_m)
    assert {name for name in MEASURES if free.value(name) is not None} == {"manoeuvre_driven"}


def test_a_failed_answer_has_nothing_that_its_text_could_agree_with(samples):
    seen = observe(samples[0], samples[0].answer, None)
    assert seen.readable
    for name in ("replay", "manoeuvre_consistency", "turn_consistency", "manoeuvre_driven"):
        assert seen.parts[name] == (0.0, 1.0)
    assert seen.value("replay_error_m") is None
    assert seen.value("rule_precision") == 1.0


def test_data_without_objects_are_not_measured_by_them(samples):
    older = replace(samples[0], extra={k: v for k, v in samples[0].extra.items() if k != "objects"})
    values = {name: label(older).value(name) for name in MEASURES}
    for name in ("object_precision", "object_recall", "object_speed", "visibility", "hidden_hallucinated"):
        assert values[name] is None
    assert values["rule_precision"] == 1.0


# ---- rows and scores ---------------------------------------------------------------------------------------------------------


def test_a_row_is_flat_json_and_the_more_faithful_is_better_by_each_measure_s_own_way(samples):
    good, bad = label(samples[0]), observe(samples[0], samples[-1].answer, samples[-1].waypoints_ego_m)
    row = json.loads(json.dumps(good.to_row(), allow_nan=False))
    assert set(MEASURES) <= set(row)
    assert all(value is None or isinstance(value, str | float | bool) for value in row.values())
    both = {n: (good.value(n), bad.value(n)) for n in MEASURES if None not in (good.value(n), bad.value(n))}
    scores = {name: turned(np.array(pair), MEASURES[name].better) for name, pair in both.items()}
    assert all(better >= worse for better, worse in scores.values()), scores
    assert sum(better > worse for better, worse in scores.values()) >= 10
    assert pickle.loads(pickle.dumps(good)) == good


def test_every_measure_is_defined_with_its_unit_and_its_better_way():
    for name, measure in MEASURES.items():
        assert "/" in measure or name in IN_METRES
        assert (measure.better == "lower") == (name in LOWER_IS_BETTER)
        assert (measure.unit == "m") == (name in IN_METRES) == name.endswith("_m")
