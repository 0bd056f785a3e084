"""Probes files in an evaluation: their free answers are rows like any other, and cause and effect stand beside them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from eval_fixtures import answer, make_sample, reasoning_text, write_dataset

from eval.evaluate import evaluate
from eval.faithfulness.causal.measures import causal, pair_scores
from eval.faithfulness.causal.probes import read_probes, run_probes
from eval.faithfulness.observed.measures import observe
from eval.report.runs import load_runs
from nsdrive.dataset import Prediction
from nsdrive.vla.prompt import render_answer


def explained(sample_id, scenario, accel_mps2, rule, edit=None):
    sample = make_sample(sample_id, scenario=scenario, accel_mps2=accel_mps2, rule=rule)
    text = render_answer(reasoning_text(8.0, accel_mps2, rule), sample.waypoints_ego_m)
    return replace(sample, trace_level="brief", answer=text, extra={"edit": edit} if edit else {})


@pytest.fixture
def pairs(tmp_path):
    """Four scenarios, each before and after its lead is gone."""
    samples = []
    for i in range(4):
        edit = {"of": f"s{i}", "name": "remove-lead", "words": "car-1 is gone", "about": "car-1"}
        samples.append(explained(f"s{i}", f"scene-{i}", -1.0, "lead"))
        samples.append(explained(f"s{i}+remove-lead", f"scene-{i}", 0.0, "target_speed", edit))
    return write_dataset(tmp_path / "pairs", samples)


def asked(dataset, out, *, limit=None, said=None):
    """A probes file of someone who answers with the labels, or says what he is told to."""
    samples = {sample.sample_id: sample for sample in dataset.samples("test")}

    def answers(questions):
        for question in questions:
            sample = samples[question.sample_id]
            text = sample.answer if question.prefix is None else question.prefix + sample.answer.split("<PLANNING>")[1]
            yield Prediction(
                sample_id=question.question_id,
                text=said or text,
                waypoints_ego_m=None if said else sample.waypoints_ego_m,
                error="unreadable" if said else None,
                seconds=0.0,
            )

    run_probes(dataset, "test", answers, out, limit=limit)
    return out


def test_a_probes_file_alone_has_open_loop_rows_observed_measures_and_causes(pairs, tmp_path):
    path = asked(pairs, tmp_path / "m.jsonl")
    results = evaluate([], pairs, tmp_path / "out", probes={"m": path})
    entry = results["predictions"]["m"]
    assert (entry["n"], entry["parse_failures"], entry["rows"]["given"]) == (8, 0, 8)
    assert entry["strict"]["3s"]["ADE"]["value"] == 0.0
    assert entry["parsed"]["3s"]["ADE"]["value"] == pytest.approx(0.0, abs=0.01)
    assert entry["causal"] == causal(pair_scores(read_probes(path, pairs, "test"), pairs.samples("test")), seed=0)
    samples = list(pairs.samples("test"))
    parts = np.array([observe(s, s.answer, s.waypoints_ego_m).parts["replay"] for s in samples])
    assert entry["observed"]["replay"]["value"] == pytest.approx(parts[:, 0].sum() / parts[:, 1].sum())
    assert results["label_observed"]["replay"]["value"] == entry["observed"]["replay"]["value"]
    rows = [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()]
    assert {row["edit"] for row in rows} == {None, "remove-lead"}
    assert "blind_idm" in results["baselines"]
    assert results["controls_missing"] == {}


def test_probes_of_a_few_samples_are_measured_on_those(pairs, tmp_path):
    path = asked(pairs, tmp_path / "m.jsonl", limit=2)
    results = evaluate([], pairs, tmp_path / "out", probes={"m": path})
    assert (results["predictions"]["m"]["n"], results["predictions"]["m"]["rows"]["missing"]) == (4, 0)
    assert (results["dataset"]["samples"], results["dataset"]["samples_in_split"]) == (4, 8)
    assert any("asked of 2 of the split's 4" in line for line in results["warnings"])


def test_a_part_of_a_split_shares_no_table_with_the_whole_of_it(pairs, tmp_path):
    evaluate([], pairs, tmp_path / "whole", probes={"whole": asked(pairs, tmp_path / "a.jsonl")})
    for name in ("part", "same part"):
        evaluate([], pairs, tmp_path / name, probes={name: asked(pairs, tmp_path / f"{name}.jsonl", limit=2)})
    comparisons, _ = load_runs([tmp_path / name for name in ("whole", "part", "same part")])
    assert [[row.name for row in c.rows if row.kind == "model"] for c in comparisons] == [
        ["whole"],
        ["part", "same part"],
    ]
    assert [{row.entry["n"] for row in c.rows} for c in comparisons] == [{8}, {4}]


def test_probes_beside_predictions_of_the_same_name_add_causes_to_their_row(pairs, tmp_path, write_predictions):
    file = write_predictions("m", [answer(s, s.waypoints_ego_m + 0.1) for s in pairs.samples("test")])
    probes = {"m": asked(pairs, tmp_path / "probes.jsonl")}
    results = evaluate({"m": file}, pairs, tmp_path / "out", probes=probes)
    assert list(results["predictions"]) == ["m"]
    assert results["predictions"]["m"]["strict"]["3s"]["ADE"]["value"] == pytest.approx(0.1 * np.sqrt(2.0), abs=1e-4)
    assert results["predictions"]["m"]["causal"]["forced_slope"]["n"] > 0


def test_planted_predictors_give_the_table_of_what_tells_them_apart(pairs, tmp_path):
    probes = {
        "faithful": asked(pairs, tmp_path / "a.jsonl"),
        "blind": asked(pairs, tmp_path / "b.jsonl", said="nothing"),
    }
    for reasoning in (True, False):
        results = evaluate([], pairs, tmp_path / str(reasoning), probes=probes, reasoning=reasoning)
        metrics = {metric["name"]: metric for metric in results["validation"]["metrics"]}
        assert metrics["replay"]["values"]["faithful"] == 1.0
    alone = evaluate([], pairs, tmp_path / "alone", probes={"blind": probes["blind"]})
    assert alone["validation"] is None
    assert alone["predictions"]["blind"]["failures"] == {"unreadable": 8}


def test_probes_without_their_dataset_are_refused(pairs, tmp_path):
    with pytest.raises(ValueError, match="Probes need the dataset"):
        evaluate([], None, tmp_path / "out", probes={"m": tmp_path / "m.jsonl"})
