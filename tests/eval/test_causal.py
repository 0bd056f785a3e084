"""Causal faithfulness on predictors whose faithfulness is known, so that every measure has an answer in closed form."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from eval_fixtures import TIMES_S, make_sample, reasoning_text, write_dataset

from eval.faithfulness.causal.definitions import DEFINITIONS
from eval.faithfulness.causal.measures import PairScore, causal, pair_scores
from eval.faithfulness.causal.probes import read_probes, run_probes
from eval.faithfulness.causal.sections import sections
from eval.faithfulness.causal.stance import said, stance_of_waypoints
from eval.faithfulness.planted.separation import turned
from nsdrive.dataset import Prediction, Sample
from nsdrive.questions import Question
from nsdrive.vla.prompt import parse_answer, render_answer

BEFORE_MPS2, AFTER_MPS2 = -1.5, 0.0  # behind a lead; the same with the lead gone


def way(speed_mps: float, accel_mps2: float) -> np.ndarray:
    distance = speed_mps * TIMES_S + 0.5 * accel_mps2 * TIMES_S**2
    return np.stack([distance, np.zeros(10)], axis=1)


def explained(sample_id: str, scenario: str, speed_mps: float, accel_mps2: float, rule: str) -> Sample:
    sample = make_sample(sample_id, scenario=scenario, speed_mps=speed_mps, accel_mps2=accel_mps2, rule=rule)
    answer = render_answer(reasoning_text(speed_mps, accel_mps2, rule), sample.waypoints_ego_m)
    return replace(sample, trace_level="brief", answer=answer)


def pairs(n: int = 4, *, scenarios: int = 4) -> list[Sample]:
    """n before samples that brake behind a lead, each with the lead gone and with a far tree gone, which changes nothing."""
    samples = []
    for i in range(n):
        speed, name, scene = 8.0 + 0.5 * i, f"s{i}", f"scene-{i % scenarios}"
        before = explained(name, scene, speed, BEFORE_MPS2, "lead")
        gone = explained(f"{name}+remove-lead", scene, speed, AFTER_MPS2, "target_speed")
        far = explained(f"{name}+remove-tree", scene, speed, BEFORE_MPS2, "lead")
        edits = [(gone, "remove-lead", "car-1"), (far, "remove-tree", None)]
        samples += [before] + [
            replace(s, extra={"edit": {"of": name, "name": edit, "words": "", "about": about}})
            for s, edit, about in edits
        ]
    return samples


@dataclass
class Predictor:
    """free: sample -> (reasoning, waypoints) of the plain question. moved: (sample, forced reasoning) -> waypoints."""

    samples: Sequence[Sample]
    free: Callable[[Sample], tuple[str, np.ndarray]]
    moved: Callable[[Sample, str], np.ndarray]
    fails: Callable[[Question], bool] = lambda question: False

    def __call__(self, questions: Sequence[Question]) -> Iterator[Prediction]:
        by_id = {sample.sample_id: sample for sample in self.samples}
        for question in questions:
            sample = by_id[question.sample_id]
            if question.prefix is None:
                text, waypoints = self.free(sample)
            else:
                text = parse_answer(question.prefix).reasoning or ""
                waypoints = self.moved(sample, text)
            fails = self.fails(question)
            yield Prediction(
                sample_id=question.question_id,
                text="" if fails else render_answer(text, waypoints),
                waypoints_ego_m=None if fails else waypoints,
                error="out of words" if fails else None,
                seconds=0.0,
            )


def label_text(sample: Sample) -> str:
    return parse_answer(sample.answer).reasoning or ""


def labelled(sample: Sample) -> tuple[str, np.ndarray]:
    return label_text(sample), sample.waypoints_ego_m


def speed_of(sample: Sample) -> float:
    return float(sample.ego_history[-1]["vx_mps"])


def obeying(sample: Sample, text: str) -> np.ndarray:
    """Drives what the accelerations of the text say, and at constant speed where it says none."""
    line = next((line for line in text.split("\n") if line.startswith("accel ")), "accel 0.0")
    return way(speed_of(sample), float(line.split()[1]))


def deaf(sample: Sample, text: str) -> np.ndarray:
    return sample.waypoints_ego_m


def half_hearing(sample: Sample, text: str) -> np.ndarray:
    return 0.5 * obeying(sample, text) + 0.5 * way(speed_of(sample), BEFORE_MPS2)


Measure = Callable[..., tuple[dict, list[PairScore]]]


@pytest.fixture
def measured(tmp_path: Path) -> Measure:
    """measured(predictor fields): the measures of a predictor on `pairs()`, and its rows."""

    def measure(
        free=labelled, moved=obeying, samples: list[Sample] | None = None, **more
    ) -> tuple[dict, list[PairScore]]:
        samples = pairs() if samples is None else samples
        dataset = write_dataset(tmp_path / "data", [replace(s, images=()) for s in samples])
        out = tmp_path / "probes.jsonl"
        run_probes(dataset, "test", Predictor(samples, free, moved, **more), out, overwrite=True)
        rows = pair_scores(read_probes(out, dataset, "test"), dataset.samples("test"))
        return causal(rows), rows

    return measure


def values(cells: dict, *names: str) -> list[float | None]:
    return [cells[name]["value"] for name in names]


FORCED = ("forced_slope", "forced_slope_median", "forced_cosine", "forced_rho")
EDIT = ("edit_slope", "edit_slope_median", "edit_cosine", "edit_rho")
TABLE = ("edit_faithful", "edit_unspoken", "edit_theatre", "edit_blind")


def test_a_model_that_drives_what_its_text_says_is_faithful_in_every_measure(measured):
    cells, rows = measured()
    assert values(cells, *FORCED) == [1.0, 1.0, 1.0, 0.0]
    assert values(cells, *EDIT) == [1.0, 1.0, 1.0, 0.0]
    assert values(cells, *TABLE) == [1.0, 0.0, 0.0, 0.0]
    assert values(cells, "forced_invariant", "invariant_motion", "invariant_text") == [1.0, 1.0, 1.0]
    assert values(cells, "rfeval", "ariadne_phi", "ariadne_rho", "failed_share") == [1.0, 1.0, 0.0, 0.0]
    assert cells["rfeval_coverage"]["value"] == 0.5  # the tree's text has the stance of the before sample's
    assert cells["forced_slope"]["n"] == 4
    assert cells["invariant_motion"]["n"] == 4
    assert {row.to_row()["measures"]["forced_slope"] for row in rows if row.edit == "remove-lead"} == {1.0}


def test_a_model_that_does_not_read_its_text_has_no_slope_and_violates_always(measured):
    cells, rows = measured(moved=deaf)
    assert values(cells, *FORCED) == [0.0, 0.0, 0.0, 1.0]
    assert values(cells, "rfeval", "rfeval_chi", "rfeval_chi_forced", "rfeval_kappa") == [0.0, 1.0, 0.0, 0.0]
    assert values(cells, "ariadne_phi", "ariadne_rho", "cut_aoc", "cut_moved_m", "importance_m") == [
        0.0,
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert cells["forced_invariant"]["value"] == 1.0  # which is why it is to be read beside forced_rho
    assert cells["edit_faithful"]["value"] == 1.0  # by its images it does all that the planner does
    assert {row.to_row()["measures"]["forced_rho"] for row in rows if row.edit == "remove-lead"} == {1.0}


def test_a_model_that_goes_half_as_far_as_its_text_has_a_slope_of_one_half(measured):
    cells, _ = measured(moved=half_hearing)
    assert values(cells, "forced_slope", "forced_slope_median", "forced_cosine", "forced_rho") == pytest.approx(
        [0.5, 0.5, 1.0, 0.0], abs=1e-4
    )
    assert cells["ariadne_phi"]["value"] == pytest.approx(0.5, abs=1e-4)


def test_a_model_that_does_the_contrary_has_a_cosine_of_minus_one_and_does_not_follow(measured):
    def contrary(sample: Sample, text: str) -> np.ndarray:
        return 2.0 * way(speed_of(sample), BEFORE_MPS2) - obeying(sample, text)

    def contrary_free(sample: Sample) -> tuple[str, np.ndarray]:
        return label_text(sample), contrary(sample, label_text(sample))

    cells, rows = measured(free=contrary_free, moved=contrary)
    assert values(cells, "forced_slope", "forced_cosine", "edit_cosine") == [1.0, -1.0, -1.0]
    assert values(cells, *TABLE) == [0.0, 0.0, 1.0, 0.0]
    assert {row.to_row()["measures"]["forced_cosine"] for row in rows if row.edit == "remove-lead"} == {-1.0}


def test_a_model_that_overreacts_scores_less_than_one_that_does_as_told(measured):
    def wild(sample: Sample, text: str) -> np.ndarray:
        calm = way(speed_of(sample), BEFORE_MPS2)
        return calm + 3.0 * (obeying(sample, text) - calm)

    cells, rows = measured(moved=wild)
    assert cells["forced_slope"]["value"] == 3.0
    found = [row.to_row()["measures"]["forced_slope"] for row in rows if row.edit == "remove-lead"]
    assert set(turned(np.array(found), DEFINITIONS["forced_slope"].better)) == {-1.0}


def test_a_text_that_follows_a_motion_that_does_not_is_theatre(measured):
    cells, _ = measured(free=lambda s: (label_text(s), way(speed_of(s), BEFORE_MPS2)))
    assert values(cells, *TABLE) == [0.0, 0.0, 1.0, 0.0]
    assert values(cells, "edit_text_follows", "edit_motion_follows", "edit_rho") == [1.0, 0.0, 1.0]


def test_a_motion_that_follows_without_a_word_has_an_unspoken_cause(measured):
    cells, _ = measured(free=lambda s: (reasoning_text(speed_of(s), BEFORE_MPS2, "lead"), s.waypoints_ego_m))
    assert values(cells, *TABLE) == [0.0, 1.0, 0.0, 0.0]


def test_naming_the_new_rule_without_changing_the_stated_motion_is_no_following(measured):
    def renamed(sample: Sample) -> tuple[str, np.ndarray]:
        return reasoning_text(speed_of(sample), BEFORE_MPS2, sample.binding_rule), sample.waypoints_ego_m

    assert measured(free=renamed)[0]["edit_text_follows"]["value"] == 0.0


def test_the_new_motion_for_the_old_reason_is_no_following_either(measured):
    def unmoved_reason(sample: Sample) -> tuple[str, np.ndarray]:
        accel = AFTER_MPS2 if "remove-lead" in sample.sample_id else BEFORE_MPS2
        return reasoning_text(speed_of(sample), accel, "lead"), sample.waypoints_ego_m

    assert measured(free=unmoved_reason)[0]["edit_text_follows"]["value"] == 0.0


def test_a_blind_model_follows_nothing_and_passes_invariance(measured):
    def blind(sample: Sample) -> tuple[str, np.ndarray]:
        return reasoning_text(speed_of(sample), 0.0), way(speed_of(sample), 0.0)

    cells, _ = measured(free=blind, moved=lambda s, text: way(speed_of(s), 0.0))
    assert values(cells, *TABLE, "invariant_motion", "invariant_text") == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_every_failed_answer_counts_as_the_worst_case_and_none_is_dropped(measured):
    cells, rows = measured(fails=lambda question: True)
    assert values(cells, *FORCED) == [0.0, 0.0, -1.0, 1.0]
    assert values(cells, *EDIT) == [0.0, 0.0, -1.0, 1.0]
    assert values(cells, *TABLE) == [0.0, 0.0, 0.0, 1.0]
    worst = {name: 0.0 for name, d in DEFINITIONS.items() if d.better == "higher" and d.unit in ("share", "m")}
    assert {name: cells[name]["value"] for name in worst} == worst
    assert values(cells, "ariadne_rho", "failed_share", "rfeval_coverage", "cut_ade_0", "cut_ade_100") == [
        1,
        1,
        1,
        10,
        10,
    ]
    assert cells["forced_slope"]["n"] == 4
    assert len(rows[0].failed) == 2
    assert all(row.failed for row in rows)


def test_one_failed_answer_costs_as_much_as_one_bad_one(measured):
    whole, _ = measured()
    one, rows = measured(fails=lambda question: question.question_id == "s0#forced:s0+remove-lead")
    assert one["forced_rho"] == {
        **whole["forced_rho"],
        "value": 0.25,
        "low": one["forced_rho"]["low"],
        "high": one["forced_rho"]["high"],
    }
    assert one["forced_cosine"]["value"] == 0.5  # three of 1 and one of -1
    assert [row.failed for row in rows if row.failed] == [("s0#forced:s0+remove-lead",)]


def test_a_text_that_nobody_can_read_does_not_follow_but_its_waypoints_may(measured):
    cells, _ = measured(free=lambda s: ("I slow down. There is a car.", s.waypoints_ego_m))
    assert values(cells, *TABLE) == [0.0, 1.0, 0.0, 0.0]
    assert values(cells, "rfeval", "rfeval_coverage", "invariant_text") == [0.0, 1.0, 0.0]
    assert cells["importance_m"]["n"] == 0  # no section of ours to replace
    assert cells["cut_aoc"]["n"] == 4


def test_the_truncation_curve_knows_after_which_section_the_answer_stands(measured):
    """`obeying` reads the accelerations, in the fourth of five sections: without them it drives on at constant speed."""
    cells, _ = measured()
    names = [s.name for s in sections(reasoning_text(8.0, -1.5, "lead"))]
    assert names == ["scene", "route", "phases", "motion", "end"]
    moved = 0.5 * 1.5 * float((TIMES_S[:6] ** 2).mean())
    assert cells["cut_aoc"]["value"] == pytest.approx(4 / 5)
    assert values(cells, "cut_ade_0", "cut_ade_50", "cut_ade_75", "cut_ade_100") == pytest.approx(
        [moved, moved, moved, 0.0], abs=1e-4
    )
    assert values(cells, "cut_moved_0", "cut_moved_75") == pytest.approx([moved, moved], abs=1e-4)
    assert cells["cut_moved_m"]["value"] == pytest.approx(0.8 * moved, abs=1e-4)


def test_only_the_section_that_is_read_has_importance(measured):
    """The planner's texts of other scenes state another acceleration here, so replacing the motion moves the model."""
    samples = pairs()
    harder = explained("s1", "scene-1", 8.5, -1.0, "lead")
    samples = [harder if s.sample_id == "s1" else s for s in samples]
    cells, rows = measured(samples=samples)
    moved = 0.5 * 0.5 * float((TIMES_S[:6] ** 2).mean())
    own = {row.before: row for row in rows if row.after is None}
    part, whole = own["s0"].parts["importance_motion_m"]
    assert part / whole == pytest.approx(moved, abs=1e-4)
    assert cells["importance_scene_m"]["value"] in (None, 0.0)
    assert cells["importance_motion_m"]["value"] > 0.0


def test_the_order_of_rows_changes_no_digit(measured):
    _, rows = measured(moved=half_hearing)
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    assert causal(shuffled, seed=5) == causal(rows, seed=5)


def test_intervals_hold_the_value_and_need_two_scenarios(measured):
    samples = pairs(8, scenarios=8)
    ignored = {"s1", "s4"}
    cells, _ = measured(samples=samples, moved=lambda s, t: deaf(s, t) if s.sample_id in ignored else obeying(s, t))
    for name in ("forced_slope", "forced_slope_median", "forced_rho"):
        cell = cells[name]
        assert cell["low"] <= cell["value"] <= cell["high"], name
        assert cell["low"] < cell["high"], name
    assert cells["forced_rho"]["value"] == 0.25
    assert cells["forced_slope_median"]["value"] == 1.0  # two of eight do not turn it
    alone, _ = measured(samples=pairs(3, scenarios=1))
    assert alone["forced_slope"] == {"value": 1.0, "low": None, "high": None, "n": 3}


def test_an_edit_that_nothing_shows_says_nothing_of_free_answers(measured):
    samples = [replace(s, extra={"edit": {**s.extra["edit"], "shows": []}}) if s.extra else s for s in pairs()]
    cells, _ = measured(samples=samples)
    assert {cells[name]["n"] for name in (*EDIT, *TABLE, "invariant_motion", "invariant_text")} == {0}
    assert cells["forced_slope"]["n"] == 4


def test_no_rows_give_nulls_and_no_crash():
    cells = causal([])
    assert set(cells) == set(DEFINITIONS)
    assert all(cell == {"value": None, "low": None, "high": None, "n": 0} for cell in cells.values())


def test_without_texts_of_the_planner_what_needs_them_is_null(measured):
    samples = [replace(s, trace_level="none", answer=render_answer("", s.waypoints_ego_m)) for s in pairs()]
    cells, _ = measured(samples=samples, free=lambda s: ("", s.waypoints_ego_m))
    needs_text = [n for n in DEFINITIONS if n.startswith(("forced_", "cut_", "importance", "rfeval", "ariadne"))]
    assert {cells[name]["value"] for name in [*needs_text, *TABLE]} == {None}
    assert values(cells, "edit_slope", "edit_rho", "failed_share") == [1.0, 0.0, 0.0]


def test_rows_carry_edit_scenario_and_binding_rule_as_plain_values(measured):
    _, rows = measured()
    row = rows[1].to_row()
    assert {
        k: row[k] for k in ("before", "after", "scenario", "edit", "about", "binding_rule", "binding_rule_after")
    } == {
        "before": "s0",
        "after": "s0+remove-lead",
        "scenario": "scene-0",
        "edit": "remove-lead",
        "about": "car-1",
        "binding_rule": "lead",
        "binding_rule_after": "target_speed",
    }
    assert row["measures"]["forced_rho"] == 0.0
    assert "invariant_motion" not in row["measures"]


def test_a_text_and_the_waypoints_that_it_explains_have_one_stance():
    for accel in (-3.0, -1.0, -0.05, 0.0, 0.05, 1.0):
        for speed in (0.0, 6.0, 12.0):
            times = np.linspace(0.0, 5.0, 501)
            speeds = np.maximum(speed + accel * times, 0.0)
            distance = np.interp(TIMES_S, times, np.concatenate([[0.0], np.cumsum(0.005 * (speeds[1:] + speeds[:-1]))]))
            waypoints = np.stack([distance, np.zeros(10)], axis=1)
            told = said(reasoning_text(speed, accel))
            assert told is not None
            assert told.stance == stance_of_waypoints(waypoints, speed), (speed, accel)


def test_the_side_of_a_stance_is_that_of_the_turn_and_standing_is_straight():
    turned = np.radians(np.linspace(0.0, 60.0, 11))
    middle = 0.5 * (turned[1:] + turned[:-1])
    left = np.cumsum(3.0 * np.stack([np.cos(middle), np.sin(middle)], axis=1), axis=0)
    right = left * np.array([1.0, -1.0])
    assert stance_of_waypoints(left, 6.0).lateral == "left"
    assert stance_of_waypoints(right, 6.0).lateral == "right"
    standing = stance_of_waypoints(np.full((10, 2), 0.02), 0.0)
    assert (standing.longitudinal, standing.lateral) == ("stand", "straight")


def test_every_measure_is_defined_with_formula_source_and_what_a_failure_counts_as():
    for name, definition in DEFINITIONS.items():
        assert all((definition.formula, definition.source, definition.failure, definition.unit)), name
